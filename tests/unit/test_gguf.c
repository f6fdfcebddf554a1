/* The GGUF reader: what the format allows is taken, and every lie of a damaged or hostile file is
 * refused with a sentence that says what and where.
 *
 * Files to attack are put together by hand here, byte by byte, so that the reader is not only
 * compared with our own writer. Bytes given to the reader lie in a block of exactly their size, so
 * that the address sanitizer sees a read past the end. */
#include "model/model.h"
#include "tests/unit/gguf_mutate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_MUTATIONS = 10000 };

static char path_text[4096];

static const char *source_path(const char *name)
{
    const char *dir = getenv("SHOAL_SRCDIR");
    snprintf(path_text, sizeof path_text, "%s/%s", dir != NULL ? dir : ".", name);
    return path_text;
}

/* A file of the reference folder; skips the test where there is none. */
static const char *reference_path(const char *name)
{
    const char *dir = getenv("SHOAL_REFERENCE");
    snprintf(path_text, sizeof path_text, "%s/%s", dir != NULL ? dir : "", name);
    if (dir == NULL || access(path_text, R_OK) != 0)
        skip();
    return path_text;
}

/* ---- files made by hand ---------------------------------------------------------------------- */

static void le(struct base_buf *b, uint64_t v, size_t n_bytes)
{
    uint8_t raw[8];
    gguf_poke(raw, v, n_bytes);
    base_buf_add(b, raw, n_bytes);
}

static void str(struct base_buf *b, const char *s)
{
    le(b, strlen(s), 8);
    base_buf_add(b, s, strlen(s));
}

static void header(struct base_buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    base_buf_add(b, "GGUF", 4);
    le(b, version, 4);
    le(b, n_tensors, 8);
    le(b, n_kv, 8);
}

static void kv_head(struct base_buf *b, const char *key, uint32_t type)
{
    str(b, key);
    le(b, type, 4);
}

static void kv_number(struct base_buf *b, const char *key, uint32_t type, uint64_t v,
                      size_t n_bytes)
{
    kv_head(b, key, type);
    le(b, v, n_bytes);
}

static void tensor(struct base_buf *b, const char *name, uint32_t n_dims, uint64_t d0, uint64_t d1,
                   uint32_t type, uint64_t offset)
{
    str(b, name);
    le(b, n_dims, 4);
    if (n_dims > 0)
        le(b, d0, 8);
    for (uint32_t d = 1; d < n_dims; d++)
        le(b, d == 1 ? d1 : 1, 8);
    le(b, type, 4);
    le(b, offset, 8);
}

static void pad(struct base_buf *b, size_t to)
{
    while (b->len % to != 0)
        le(b, 0, 1);
}

/* The reader over a copy of exactly b's bytes; where it opens, the copy stays in *copy. */
static int open_exact(const struct base_buf *b, size_t len, int mode, struct gguf **g,
                      uint8_t **copy, struct err *e)
{
    *copy = malloc(len > 0 ? len : 1);
    assert_non_null(*copy);
    if (len > 0)
        memcpy(*copy, b->ptr, len);
    const int rc = model_gguf_open_bytes((struct span){*copy, len}, mode, g, e);
    if (rc != 0) {
        assert_null(*g);
        free(*copy);
        *copy = NULL;
    }
    return rc;
}

static void expect_refused(const struct base_buf *b, int mode, int code, const char *sentence)
{
    struct gguf *g;
    uint8_t *copy;
    struct err e = {0};
    assert_false(b->failed);
    const int64_t live = base_alloc_live();
    const int rc = open_exact(b, b->len, mode, &g, &copy, &e);
    if (rc != code || strstr(e.text, sentence) == NULL)
        fail_msg("code %d, wanted %d; text \"%s\", wanted \"%s\"", rc, code, e.text, sentence);
    assert_int_equal(base_alloc_live(), live);
}

/* Two tensors of F32 and Q8_0, four metadata entries; offsets of the parts in `at`. */
struct sample_places {
    size_t alignment_value, tensor0, tensor1, data;
};
static struct base_buf sample(struct sample_places *at)
{
    struct base_buf b = {0};
    struct sample_places scrap;
    if (at == NULL)
        at = &scrap;
    header(&b, 3, 2, 4);
    kv_head(&b, "general.architecture", GGUF_STRING);
    str(&b, "llama");
    kv_number(&b, "general.alignment", GGUF_U32, 64, 4);
    at->alignment_value = b.len - 4;
    kv_head(&b, "names", GGUF_ARRAY);
    le(&b, GGUF_STRING, 4);
    le(&b, 2, 8);
    str(&b, "one");
    str(&b, "");
    kv_head(&b, "numbers", GGUF_ARRAY);
    le(&b, GGUF_I16, 4);
    le(&b, 3, 8);
    le(&b, 1, 2);
    le(&b, 0xfffe, 2);
    le(&b, 3, 2);
    at->tensor0 = b.len;
    tensor(&b, "first", 1, 5, 0, 0, 0);
    at->tensor1 = b.len;
    tensor(&b, "second", 2, 64, 3, 8, 64);
    pad(&b, 64);
    at->data = b.len;
    for (size_t i = 0; i < 64 + 3 * 2 * 34; i++)
        le(&b, i, 1);
    return b;
}

/* ---- what is taken --------------------------------------------------------------------------- */

static void test_sample_is_read(void **state)
{
    (void)state;
    struct sample_places at;
    struct base_buf b = sample(&at);
    struct gguf *g;
    uint8_t *copy;
    struct err e;
    struct span s;
    size_t cursor = 0;
    assert_int_equal(open_exact(&b, b.len, GGUF_WITH_DATA, &g, &copy, &e), 0);
    assert_int_equal(model_gguf_version(g), 3);
    assert_null(model_gguf_map(g, 0));
    assert_int_equal(model_gguf_n_kv(g), 4);
    assert_int_equal(model_gguf_n_tensors(g), 2);
    assert_null(model_gguf_kv_at(g, 4));
    assert_null(model_gguf_tensor_at(g, 2));
    assert_null(model_gguf_kv(g, "general"));
    assert_null(model_gguf_tensor(g, "third"));
    assert_int_equal(model_gguf_string(g, "general.architecture", &s, &e), 0);
    assert_true(base_span_is(s, "llama"));

    const struct gguf_kv *names = model_gguf_kv(g, "names");
    assert_int_equal(names->n, 2);
    assert_true(model_gguf_next_string(names, &cursor, &s) && base_span_is(s, "one"));
    assert_true(model_gguf_next_string(names, &cursor, &s) && s.len == 0);
    assert_false(model_gguf_next_string(names, &cursor, &s));
    const struct gguf_kv *numbers = model_gguf_kv(g, "numbers");
    assert_int_equal(numbers->elem_type, GGUF_I16);
    assert_int_equal(numbers->bytes.len, 6);
    cursor = 0;
    assert_false(model_gguf_next_string(numbers, &cursor, &s));

    const struct gguf_tensor *t = model_gguf_tensor(g, "second");
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 64);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->dims[3], 1);
    assert_int_equal(t->bytes, 3 * 2 * 34);
    assert_ptr_equal(t->data, copy + at.data + 64);
    assert_ptr_equal(model_gguf_tensor_at(g, 0)->data, copy + at.data);
    model_gguf_close(g);
    free(copy);
    base_buf_deinit(&b);
}

static void test_scalars(void **state)
{
    (void)state;
    struct base_buf b = {0};
    struct gguf *g;
    uint8_t *copy;
    struct err e;
    header(&b, 3, 0, 11);
    kv_number(&b, "u8", GGUF_U8, 200, 1);
    kv_number(&b, "i8", GGUF_I8, 200, 1);
    kv_number(&b, "u16", GGUF_U16, 40000, 2);
    kv_number(&b, "i16", GGUF_I16, 40000, 2);
    kv_number(&b, "u32", GGUF_U32, 4000000000u, 4);
    kv_number(&b, "i32", GGUF_I32, 4000000000u, 4);
    kv_number(&b, "f32", GGUF_F32, 0x3fc00000, 4);
    kv_number(&b, "yes", GGUF_BOOL, 1, 1);
    kv_number(&b, "u64", GGUF_U64, UINT64_MAX, 8);
    kv_number(&b, "i64", GGUF_I64, UINT64_MAX - 4, 8);
    kv_number(&b, "f64", GGUF_F64, 0xbff8000000000000u, 8);
    assert_int_equal(open_exact(&b, b.len, GGUF_WITH_DATA, &g, &copy, &e), 0);

    uint32_t u = 7;
    float f = 7;
    bool yes = false;
    struct span s;
    assert_int_equal(model_gguf_u32(g, "u8", &u, &e), 0);
    assert_int_equal(u, 200);
    assert_int_equal(model_gguf_kv(g, "i8")->i, -56);
    assert_int_equal(model_gguf_kv(g, "i16")->i, 40000 - 65536);
    assert_int_equal(model_gguf_kv(g, "i32")->i, 4000000000 - (INT64_C(1) << 32));
    assert_int_equal(model_gguf_u32(g, "u16", &u, &e), 0);
    assert_int_equal(u, 40000);
    assert_int_equal(model_gguf_u32(g, "u32", &u, &e), 0);
    assert_int_equal(u, 4000000000u);
    assert_int_equal(model_gguf_f32(g, "f32", &f, &e), 0);
    assert_true(f == 1.5f);
    assert_int_equal(model_gguf_f32(g, "f64", &f, &e), 0);
    assert_true(f == -1.5f);
    assert_int_equal(model_gguf_bool(g, "yes", &yes, &e), 0);
    assert_true(yes);
    assert_int_equal(model_gguf_kv(g, "u64")->u, UINT64_MAX);
    assert_int_equal(model_gguf_kv(g, "i64")->i, -5);

    u = 7;
    assert_int_equal(model_gguf_u32(g, "none", &u, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "'none' is missing"));
    assert_int_equal(model_gguf_u32(g, "i8", &u, &e), ERR_FORMAT);
    assert_int_equal(model_gguf_u32(g, "u64", &u, &e), ERR_FORMAT);
    assert_int_equal(model_gguf_u32(g, "f32", &u, &e), ERR_FORMAT);
    assert_int_equal(model_gguf_u32(g, "yes", &u, &e), ERR_FORMAT);
    assert_int_equal(u, 7);
    assert_int_equal(model_gguf_f32(g, "u8", &f, &e), ERR_FORMAT);
    assert_int_equal(model_gguf_bool(g, "u8", &yes, &e), ERR_FORMAT);
    assert_int_equal(model_gguf_string(g, "u8", &s, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, "'u8' is of type u8 where a string is expected"));
    model_gguf_close(g);
    free(copy);
    base_buf_deinit(&b);
}

static void test_versions(void **state)
{
    (void)state;
    static const struct {
        uint32_t version;
        const char *sentence; /* NULL: taken */
    } cases[] = {
        {2, NULL},
        {3, NULL},
        {0, "version 0x00000000"},
        {1, "GGUF version 1 is not supported, versions 2 and 3 are"},
        {4, "GGUF version 4 is not supported"},
        {0x03000000, "big-endian"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct base_buf b = sample(NULL);
        gguf_poke(b.ptr + 4, cases[i].version, 4);
        if (cases[i].sentence != NULL) {
            expect_refused(&b, GGUF_WITH_DATA, ERR_UNSUPPORTED, cases[i].sentence);
        } else {
            struct gguf *g;
            uint8_t *copy;
            assert_int_equal(open_exact(&b, b.len, GGUF_WITH_DATA, &g, &copy, NULL), 0);
            assert_int_equal(model_gguf_version(g), cases[i].version);
            model_gguf_close(g);
            free(copy);
        }
        base_buf_deinit(&b);
    }
}

static void test_unknown_type_is_kept(void **state)
{
    (void)state;
    static const uint32_t numbers[] = {4, 31, 38, 43, 99, UINT32_MAX};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct base_buf b = {0};
        struct gguf *g;
        uint8_t *copy;
        struct err e;
        assert_null(model_gguf_type_name(numbers[i]));
        header(&b, 3, 1, 0);
        tensor(&b, "odd", 2, 33, 2, numbers[i], 0);
        pad(&b, 32);
        assert_int_equal(open_exact(&b, b.len, GGUF_WITH_DATA, &g, &copy, &e), 0);
        const struct gguf_tensor *t = model_gguf_tensor(g, "odd");
        assert_int_equal(t->ggml_type, numbers[i]);
        assert_int_equal(t->bytes, 0);
        assert_null(t->data);
        model_gguf_close(g);
        free(copy);
        base_buf_deinit(&b);
    }
    assert_string_equal(model_gguf_type_name(12), "Q4_K");
    assert_string_equal(model_gguf_type_name(0), "F32");
    assert_string_equal(model_gguf_type_name(39), "MXFP4");
}

static void test_metadata_only(void **state)
{
    (void)state;
    struct sample_places at;
    struct base_buf b = sample(&at);
    struct gguf *g;
    uint8_t *copy;
    struct err e;
    b.len = at.data - 32; /* not even the padding before the data is whole */
    assert_int_equal(open_exact(&b, b.len, GGUF_METADATA_ONLY, &g, &copy, &e), 0);
    assert_int_equal(model_gguf_tensor(g, "second")->bytes, 3 * 2 * 34);
    assert_null(model_gguf_tensor(g, "second")->data);
    model_gguf_close(g);
    free(copy);
    expect_refused(&b, GGUF_WITH_DATA, ERR_FORMAT, "tensor 'first': its data ends at byte");
    base_buf_deinit(&b);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void test_every_truncation(void **state)
{
    (void)state;
    struct sample_places at;
    struct base_buf b = sample(&at);
    for (size_t len = 0; len < b.len; len++) {
        for (int mode = GGUF_WITH_DATA; mode <= GGUF_METADATA_ONLY; mode++) {
            struct gguf *g;
            uint8_t *copy;
            struct err e = {0};
            const int rc = open_exact(&b, len, mode, &g, &copy, &e);
            if (rc == 0) {
                assert_int_equal(mode, GGUF_METADATA_ONLY);
                assert_true(len >= at.tensor1 + 8 + 6 + 4 + 16 + 4 + 8);
                model_gguf_close(g);
                free(copy);
            } else {
                assert_int_equal(rc, ERR_FORMAT);
                assert_true(e.text[0] != '\0');
            }
        }
    }
    base_buf_deinit(&b);
}

static void test_header_lies(void **state)
{
    (void)state;
    static const struct {
        size_t at, width;
        uint64_t value;
        const char *sentence;
    } cases[] = {
        {0, 1, 'X', "not a GGUF file"},
        {8, 8, UINT64_MAX, "claims 18446744073709551615 tensors, at most"},
        {8, 8, 1 << 18, "the header at byte 8 claims 262144 tensors, which the file's"},
        {8, 8, 20, "tensors, which the file's"},
        {8, 8, 3, "tensor"},
        {16, 8, UINT64_MAX, "metadata entries, at most"},
        {16, 8, 60000, "the header at byte 16 claims 60000 metadata entries, which the file's"},
        {16, 8, 5, ""},
        {24, 8, UINT64_MAX, "a metadata key at byte 32 does not fit into the file's"},
        {24, 8, UINT64_MAX - 31, "a metadata key at byte 32 does not fit"},
        {24, 8, 0, "the metadata key at byte 24 has 0 bytes"},
        {24 + 28, 4, 13,
         "metadata 'general.architecture': value type 13 before byte 56 does not exist"},
        {24 + 28, 4, UINT32_MAX, "value type 4294967295"},
        {24 + 32, 8, UINT64_MAX, "metadata 'general.architecture': its string at byte"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct base_buf b = sample(NULL);
        gguf_poke(b.ptr + cases[i].at, cases[i].value, cases[i].width);
        expect_refused(&b, GGUF_WITH_DATA, ERR_FORMAT, cases[i].sentence);
        base_buf_deinit(&b);
    }
}

static void test_metadata_lies(void **state)
{
    (void)state;
    struct base_buf b = {0};
    header(&b, 3, 0, 1);
    const size_t start = b.len;
    const struct {
        uint32_t elem;
        uint64_t n;
        int code;
        const char *sentence;
    } arrays[] = {
        {GGUF_ARRAY, 1, ERR_UNSUPPORTED, "metadata 'a': an array of arrays"},
        {13, 1, ERR_FORMAT, "array element type 13"},
        {GGUF_U64, UINT64_C(1) << 61, ERR_FORMAT,
         "metadata 'a': an array of 2305843009213693952 u64 at byte"},
        {GGUF_U8, UINT64_MAX, ERR_FORMAT, "does not fit"},
        {GGUF_U8, 100, ERR_FORMAT,
         "an array of 100 u8 at byte 49 does not fit into the file's 65 bytes"},
        {GGUF_STRING, UINT64_MAX, ERR_FORMAT, "an array's string"},
        {GGUF_STRING, 3, ERR_FORMAT, "an array's string"},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        b.len = start;
        kv_head(&b, "a", GGUF_ARRAY);
        le(&b, arrays[i].elem, 4);
        le(&b, arrays[i].n, 8);
        le(&b, 0, 8); /* two empty strings, or sixteen bytes */
        le(&b, 0, 8);
        expect_refused(&b, GGUF_METADATA_ONLY, arrays[i].code, arrays[i].sentence);
    }

    b.len = start;
    kv_number(&b, "flag", GGUF_BOOL, 2, 1);
    expect_refused(&b, GGUF_METADATA_ONLY, ERR_FORMAT, "metadata 'flag': a bool at byte 40 is 2");

    static const uint64_t alignments[] = {0, 1, 4, 24, 33, 1 << 21, UINT32_MAX};
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
        b.len = start;
        kv_number(&b, "general.alignment", GGUF_U32, alignments[i], 4);
        expect_refused(&b, GGUF_METADATA_ONLY, ERR_FORMAT, "'general.alignment' is u32");
    }
    b.len = start;
    kv_number(&b, "general.alignment", GGUF_U64, 32, 8);
    expect_refused(&b, GGUF_METADATA_ONLY, ERR_FORMAT, "it must be u32, a power of two");

    b.len = 0;
    header(&b, 3, 0, 3);
    kv_number(&b, "twice", GGUF_U8, 1, 1);
    kv_number(&b, "once", GGUF_U8, 1, 1);
    kv_number(&b, "twice", GGUF_U8, 1, 1);
    expect_refused(&b, GGUF_METADATA_ONLY, ERR_FORMAT, "metadata 'twice' is there twice");
    base_buf_deinit(&b);
}

/* A name from a file must not reach a terminal as it is. */
static void test_names_in_errors_are_printable(void **state)
{
    (void)state;
    struct base_buf b = {0};
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    memcpy(name, "\x1b[2J\n\xff", 6);
    header(&b, 3, 0, 1);
    kv_number(&b, name, GGUF_BOOL, 2, 1);
    expect_refused(&b, GGUF_METADATA_ONLY, ERR_FORMAT, "metadata '?[2J??nnnn");
    expect_refused(&b, GGUF_METADATA_ONLY, ERR_FORMAT, "nnn...': a bool");
    base_buf_deinit(&b);
}

struct tensor_lie {
    uint32_t n_dims;
    uint64_t d0, d1;
    uint32_t type;
    uint64_t offset;
    const char *sentence;
};

static void test_tensor_lies(void **state)
{
    (void)state;
    static const struct tensor_lie cases[] = {
        {0, 0, 0, 0, 0, "tensor 'lie': it has 0 dimensions"},
        {5, 1, 1, 0, 0, "tensor 'lie': it has 5 dimensions"},
        {UINT32_MAX & 0xff, 1, 1, 0, 0, "it has 255 dimensions"},
        {1, 0, 0, 0, 0, "tensor 'lie': dimension 0 is 0"},
        {2, 32, 0, 8, 0, "dimension 1 is 0"},
        {2, UINT64_C(1) << 32, UINT64_C(1) << 32, 0, 0, "product of its dimensions is past 2^63"},
        {2, UINT64_C(1) << 62, 2, 24, 0, "product of its dimensions is past 2^63"},
        {1, UINT64_MAX, 0, 24, 0, "product of its dimensions is past 2^63"},
        {1, UINT64_C(1) << 61, 0, 0, 0, "it would take more than 2^63 bytes"},
        {1, INT64_MAX, 0, 28, 0, "it would take more than 2^63 bytes"},
        {1, 31, 0, 8, 0, "its rows of 31 values are not whole Q8_0 blocks of 32"},
        {2, 32, 8, 12, 0, "its rows of 32 values are not whole Q4_K blocks of 256"},
        {1, 8, 0, 0, 31, "its offset 31 is not a multiple of the alignment 32"},
        {1, 8, 0, 0, UINT64_MAX - 31, "is past 2^63"},
        {1, 8, 0, 0, INT64_MAX - 31, "is past 2^63"},
        {1, 8, 0, 0, 1 << 20,
         "tensor 'lie': its data ends at byte 1048672, the file has 192: the file is truncated"},
        {1, 40, 0, 0, 0, "its data ends at byte 224, the file has 192"},
        {1, 8, 0, 99, 1 << 20, "its data ends at byte 1048640, the file has 192"},
        {1, 8, 0, 0, 32, "tensors 'fine' and 'lie' overlap at data offset 32"},
        {1, 16, 0, 0, 0, "overlap at data offset 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct tensor_lie *c = &cases[i];
        struct base_buf b = {0};
        const bool overlap = strstr(c->sentence, "overlap") != NULL;
        header(&b, 3, overlap ? 2 : 1, 0);
        tensor(&b, "lie", c->n_dims, c->d0, c->d1, c->type, c->offset);
        if (overlap)
            tensor(&b, "fine", 1, 9, 0, 0, 0); /* bytes 0 to 36 */
        while (b.len < 192)
            le(&b, 0, 1);
        expect_refused(&b, GGUF_WITH_DATA, ERR_FORMAT, c->sentence);
        base_buf_deinit(&b);
    }
}

static void test_tensor_names(void **state)
{
    (void)state;
    char name[66];
    memset(name, 'x', sizeof name);
    for (size_t len = 0; len <= 65; len += 65) {
        struct base_buf b = {0};
        name[len] = '\0';
        header(&b, 3, 1, 0);
        tensor(&b, name, 1, 8, 0, 0, 0);
        le(&b, 0, 8);
        expect_refused(&b, GGUF_METADATA_ONLY, ERR_FORMAT, "the tensor name at byte 24 has");
        base_buf_deinit(&b);
    }
    struct base_buf b = {0};
    header(&b, 3, 2, 0);
    tensor(&b, "same", 1, 8, 0, 0, 0);
    tensor(&b, "same", 1, 8, 0, 0, 32);
    expect_refused(&b, GGUF_METADATA_ONLY, ERR_FORMAT, "tensor 'same' is there twice");
    base_buf_deinit(&b);
}

static void test_open_names_the_file(void **state)
{
    (void)state;
    struct gguf *g;
    struct err e;
    assert_int_equal(model_gguf_open("/nonexistent/x.gguf", GGUF_WITH_DATA, &g, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "/nonexistent/x.gguf"));
    const char *path = source_path("tests/data/tokens.json");
    assert_int_equal(model_gguf_open(path, GGUF_WITH_DATA, &g, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, "tests/data/tokens.json: not a GGUF file"));
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void test_out_of_memory(void **state)
{
    (void)state;
    struct base_buf b = sample(NULL);
    const int64_t live = base_alloc_live();
    int rc = ERR_NOMEM;
    uint64_t n = 0;
    while (rc != 0) {
        struct gguf *g;
        struct err e = {0};
        base_alloc_fail_nth(++n);
        rc = model_gguf_open_bytes((struct span){b.ptr, b.len}, GGUF_WITH_DATA, &g, &e);
        base_alloc_fail_nth(0);
        if (rc == 0)
            model_gguf_close(g);
        else
            assert_int_equal(rc, ERR_NOMEM);
        assert_int_equal(base_alloc_live(), live);
    }
    assert_true(n > 5);
    base_buf_deinit(&b);
}

/* ---- real files ------------------------------------------------------------------------------ */

static void check_demo(const char *path)
{
    struct gguf *g;
    struct err e;
    uint32_t u;
    if (model_gguf_open(path, GGUF_WITH_DATA, &g, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(model_gguf_n_kv(g), 26);
    assert_int_equal(model_gguf_n_tensors(g), 75);
    assert_int_equal(model_gguf_u32(g, "llama.block_count", &u, &e), 0);
    assert_int_equal(u, 8);
    assert_int_equal(model_gguf_kv(g, "tokenizer.ggml.tokens")->n, 2048);
    const struct gguf_tensor *t = model_gguf_tensor(g, "blk.7.ffn_up.weight");
    assert_string_equal(model_gguf_type_name(t->ggml_type), "Q8_0");
    assert_int_equal(t->bytes, 768 * 8 * 34);
    assert_ptr_equal(t->data + t->bytes, model_gguf_map(g, 0)->ptr + model_gguf_map(g, 0)->len);
    model_gguf_close(g);
}

static void test_demo_model(void **state)
{
    (void)state;
    check_demo(source_path("models/shoal-demo-7m-q8_0.gguf"));
}

static void test_reference_files(void **state)
{
    (void)state;
    static const char *const names[] = {"demo/shoal-demo-7m-f16.gguf",
                                        "demo/shoal-demo-7m-q4_0.gguf",
                                        "demo/shoal-demo-7m-q4_k_m.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct gguf *g;
        struct err e;
        if (model_gguf_open(reference_path(names[i]), GGUF_WITH_DATA, &g, &e) != 0)
            fail_msg("%s", e.text);
        assert_int_equal(model_gguf_n_tensors(g), 75);
        /* The last tensor's data ends where the file ends, so the types' sizes are right. */
        const struct gguf_tensor *t = model_gguf_tensor_at(g, 74);
        assert_true(model_gguf_map(g, 0)->ptr + model_gguf_map(g, 0)->len - (t->data + t->bytes) <
                    32);
        model_gguf_close(g);
    }
    check_demo(reference_path("demo/shoal-demo-7m-q8_0.gguf"));
}

/* Whatever a damaged file opens to must be whole: walk it all. */
static uint64_t walk(const struct gguf *g)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < model_gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = model_gguf_kv_at(g, i);
        struct span s;
        size_t cursor = 0;
        for (size_t k = 0; k < kv->bytes.len; k += 61)
            sum += kv->bytes.ptr[k];
        if (kv->bytes.len > 0)
            sum += kv->bytes.ptr[kv->bytes.len - 1];
        while (model_gguf_next_string(kv, &cursor, &s))
            sum += s.len > 0 ? s.ptr[s.len - 1] : 0;
    }
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(g, i);
        if (t->data != NULL)
            sum += (uint64_t)t->data[0] + t->data[t->bytes - 1];
    }
    return sum;
}

/* A model of a few tensors and a vocabulary of 300 tokens, small enough to damage very often. */
static void small_model(struct base_buf *out)
{
    static const uint64_t matrix[] = {32, 300}, vector[] = {32};
    static uint8_t blocks[300 * 34];
    static float norm[32], scores[300];
    static int32_t types[300];
    static char texts[300][8];
    struct span tokens[300];
    for (int i = 0; i < 300; i++) {
        if (i >= 3 && i < 259)
            snprintf(texts[i], sizeof texts[i], "<0x%02X>", (unsigned)(i - 3));
        else
            snprintf(texts[i], sizeof texts[i], "%c%c", 'a' + i % 7, 'a' + i % 5);
        tokens[i] = base_span_str(texts[i]);
        types[i] = i < 3 ? 3 : i < 259 ? 6 : 1 + i % 5;
        scores[i] = (float)-i;
    }
    struct gguf_writer *w = model_gguf_writer_new();
    model_gguf_put_string(w, "general.architecture", base_span_str("llama"));
    model_gguf_put_string(w, "tokenizer.ggml.model", base_span_str("llama"));
    model_gguf_put_strings(w, "tokenizer.ggml.tokens", tokens, 300);
    model_gguf_put_f32s(w, "tokenizer.ggml.scores", scores, 300);
    model_gguf_put_i32s(w, "tokenizer.ggml.token_type", types, 300);
    model_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
    model_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
    model_gguf_put_u32(w, "general.alignment", 32);
    model_gguf_put_tensor(w, "token_embd.weight", 8, 2, matrix, blocks);
    model_gguf_put_tensor(w, "output_norm.weight", 0, 1, vector, norm);
    assert_int_equal(model_gguf_writer_bytes(w, out, NULL), 0);
    model_gguf_writer_free(w);
}

/* Damages `whole` and opens it n times, and its vocabulary where the file still opens. */
static void damage(const uint8_t *whole, size_t len, size_t head, int mode, uint64_t seed, int n,
                   int *opened)
{
    static const char text[] = "Hello  <s> caf\xc3\xa9\n\xff";
    uint64_t rng = seed;
    uint8_t *bytes = malloc(len);
    assert_non_null(bytes);
    for (int i = 0; i < n; i++) {
        struct gguf *g;
        struct vocab *v;
        struct err e = {0};
        int32_t ids[64];
        size_t n_ids = 0;
        const int64_t live = base_alloc_live();
        memcpy(bytes, whole, len);
        const size_t left = gguf_mutate(&rng, bytes, head);
        const size_t now = left < head ? left : len;
        uint8_t *exact = malloc(now);
        assert_non_null(exact);
        memcpy(exact, bytes, now);
        if (model_gguf_open_bytes((struct span){exact, now}, mode, &g, &e) == 0) {
            walk(g);
            *opened += 1;
            if (model_vocab_open(g, &v, &e) == 0) {
                const struct span s = {(const uint8_t *)text, sizeof text - 1};
                model_vocab_encode(v, s, MODEL_ENCODE_BOS | MODEL_ENCODE_SPECIAL, ids, 64, &n_ids,
                                   &e);
                model_vocab_close(v);
            }
            model_gguf_close(g);
        } else {
            assert_true(e.code != 0 && e.text[0] != '\0');
        }
        assert_int_equal(base_alloc_live(), live);
        free(exact);
    }
    free(bytes);
}

static void test_mutations(void **state)
{
    (void)state;
    struct base_buf small = {0};
    struct gguf *g;
    struct err e;
    int opened = 0;
    small_model(&small);
    assert_int_equal(
        model_gguf_open_bytes((struct span){small.ptr, small.len}, GGUF_WITH_DATA, &g, &e), 0);
    const size_t head = (size_t)(model_gguf_tensor_at(g, 0)->data - small.ptr);
    model_gguf_close(g);
    damage(small.ptr, small.len, head, GGUF_WITH_DATA, 1, N_MUTATIONS * 4 / 5, &opened);
    base_buf_deinit(&small);
    assert_in_range(opened, N_MUTATIONS / 10, N_MUTATIONS * 4 / 5 - N_MUTATIONS / 10);

    /* The demo file's metadata and tensor table; its data begins right after. */
    assert_int_equal(
        model_gguf_open(source_path("models/shoal-demo-7m-q8_0.gguf"), GGUF_WITH_DATA, &g, &e), 0);
    const struct base_map *map = model_gguf_map(g, 0);
    const size_t demo_head = (size_t)(model_gguf_tensor(g, "output.weight")->data - map->ptr);
    opened = 0;
    damage(map->ptr, demo_head, demo_head, GGUF_METADATA_ONLY, 2, N_MUTATIONS / 5, &opened);
    assert_in_range(opened, N_MUTATIONS / 100, N_MUTATIONS / 5 - N_MUTATIONS / 100);
    model_gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_is_read),
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_unknown_type_is_kept),
        cmocka_unit_test(test_metadata_only),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_header_lies),
        cmocka_unit_test(test_metadata_lies),
        cmocka_unit_test(test_names_in_errors_are_printable),
        cmocka_unit_test(test_tensor_lies),
        cmocka_unit_test(test_tensor_names),
        cmocka_unit_test(test_open_names_the_file),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_demo_model),
        cmocka_unit_test(test_reference_files),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
