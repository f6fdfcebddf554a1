/* The GGUF writer: what is put is read back, by the reader that test_gguf.c checks against files
 * made by hand; what the reader would refuse is not written; the first failure is reported. */
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const float f32s[] = {0.5f, -1.0f, 3.25f, 1e-30f};

static struct gguf_writer *small_writer(void)
{
    static const int32_t i32s[] = {-1, 2, INT32_MAX};
    static const uint8_t blocks[2 * 34] = {1, 2, 3};
    static const uint64_t vector[] = {4}, matrix[] = {32, 2};
    const struct span strings[] = {base_span_str("a"), base_span_str(""),
                                   base_span_str("\xe2\x96\x81z")};
    struct gguf_writer *w = model_gguf_writer_new();
    model_gguf_put_string(w, "general.architecture", base_span_str("llama"));
    model_gguf_put_u32(w, "u", 4000000000u);
    model_gguf_put_f32(w, "f", -0.25f);
    model_gguf_put_bool(w, "b", true);
    model_gguf_put_strings(w, "strings", strings, 3);
    model_gguf_put_f32s(w, "f32s", f32s, 4);
    model_gguf_put_i32s(w, "i32s", i32s, 3);
    model_gguf_put_strings(w, "empty", NULL, 0);
    model_gguf_put_tensor(w, "v", 0, 1, vector, f32s);
    model_gguf_put_tensor(w, "m", 8, 2, matrix, blocks);
    return w;
}

static void check_small(const struct gguf *g)
{
    struct err e;
    uint32_t u;
    float f;
    bool yes;
    struct span s;
    size_t cursor = 0;
    assert_int_equal(model_gguf_version(g), 3);
    assert_int_equal(model_gguf_n_kv(g), 8);
    assert_int_equal(model_gguf_u32(g, "u", &u, &e), 0);
    assert_int_equal(u, 4000000000u);
    assert_int_equal(model_gguf_f32(g, "f", &f, &e), 0);
    assert_true(f == -0.25f);
    assert_int_equal(model_gguf_bool(g, "b", &yes, &e), 0);
    assert_true(yes);
    const struct gguf_kv *strings = model_gguf_kv(g, "strings");
    assert_true(model_gguf_next_string(strings, &cursor, &s) && base_span_is(s, "a"));
    assert_true(model_gguf_next_string(strings, &cursor, &s) && s.len == 0);
    assert_true(model_gguf_next_string(strings, &cursor, &s) && s.len == 4);
    assert_int_equal(model_gguf_kv(g, "f32s")->n, 4);
    assert_memory_equal(model_gguf_kv(g, "f32s")->bytes.ptr, f32s, sizeof f32s);
    assert_int_equal(model_gguf_kv(g, "i32s")->elem_type, GGUF_I32);
    assert_int_equal(model_gguf_kv(g, "empty")->n, 0);
    assert_memory_equal(model_gguf_tensor(g, "v")->data, f32s, sizeof f32s);
    assert_int_equal(model_gguf_tensor(g, "m")->offset, 32);
    assert_int_equal(model_gguf_tensor(g, "m")->data[2], 3);
    assert_int_equal(model_gguf_tensor(g, "m")->dims[1], 2);
}

static void test_round_trip(void **state)
{
    (void)state;
    const int64_t live = base_alloc_live();
    struct gguf_writer *w = small_writer();
    struct base_buf first = {0}, second = {0};
    struct gguf *g;
    struct err e;
    assert_int_equal(model_gguf_writer_bytes(w, &first, &e), 0);
    assert_int_equal(first.len % 32, 0);
    model_gguf_writer_free(w);
    assert_int_equal(
        model_gguf_open_bytes((struct span){first.ptr, first.len}, GGUF_WITH_DATA, &g, &e), 0);
    check_small(g);

    /* Entries and tensors copied from a file make the same file. */
    w = model_gguf_writer_new();
    for (size_t i = 0; i < model_gguf_n_kv(g); i++)
        model_gguf_put_kv(w, model_gguf_kv_at(g, i));
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(g, i);
        model_gguf_put_tensor(w, i == 0 ? "v" : "m", t->ggml_type, t->n_dims, t->dims, t->data);
    }
    assert_int_equal(model_gguf_writer_bytes(w, &second, &e), 0);
    assert_int_equal(first.len, second.len);
    assert_memory_equal(first.ptr, second.ptr, first.len);
    model_gguf_writer_free(w);
    model_gguf_close(g);
    base_buf_deinit(&first);
    base_buf_deinit(&second);
    assert_int_equal(base_alloc_live(), live);
}

static void test_file(void **state)
{
    (void)state;
    char dir[] = "/tmp/test-gguf-XXXXXX", path[64];
    struct gguf_writer *w = small_writer();
    struct base_buf bytes = {0};
    struct gguf *g;
    struct err e;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/small.gguf", dir);
    assert_int_equal(model_gguf_writer_finish(w, path, &e), 0);
    assert_int_equal(model_gguf_writer_bytes(w, &bytes, &e), 0);
    assert_int_equal(model_gguf_open(path, GGUF_WITH_DATA, &g, &e), 0);
    check_small(g);
    assert_non_null(model_gguf_map(g, 0));
    assert_int_equal(model_gguf_map(g, 0)->len, bytes.len);
    assert_memory_equal(model_gguf_map(g, 0)->ptr, bytes.ptr, bytes.len);
    model_gguf_close(g);

    /* A copy cut short is refused by name. */
    assert_int_equal(truncate(path, (off_t)bytes.len - 60), 0);
    assert_int_equal(model_gguf_open(path, GGUF_WITH_DATA, &g, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, "small.gguf: tensor 'm': its data ends at byte"));
    assert_non_null(strstr(e.text, "truncated; download it again"));

    assert_int_equal(model_gguf_writer_finish(w, "/nonexistent/x.gguf", &e), ERR_IO);
    assert_non_null(strstr(e.text, "/nonexistent/x.gguf"));
    model_gguf_writer_free(w);
    base_buf_deinit(&bytes);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

static void test_alignment(void **state)
{
    (void)state;
    static const uint64_t dims[] = {4};
    struct base_buf b = {0};
    struct gguf *g;
    struct err e;
    struct gguf_writer *w = model_gguf_writer_new();
    model_gguf_put_u32(w, "general.alignment", 128);
    model_gguf_put_tensor(w, "v", 0, 1, dims, f32s);
    model_gguf_put_tensor(w, "w", 0, 1, dims, f32s);
    assert_int_equal(model_gguf_writer_bytes(w, &b, &e), 0);
    assert_int_equal(b.len % 128, 0);
    assert_int_equal(model_gguf_open_bytes((struct span){b.ptr, b.len}, GGUF_WITH_DATA, &g, &e), 0);
    assert_int_equal(model_gguf_tensor(g, "w")->offset, 128);
    assert_memory_equal(model_gguf_tensor(g, "w")->data, f32s, sizeof f32s);
    model_gguf_close(g);
    model_gguf_writer_free(w);
    base_buf_deinit(&b);
}

static void test_header_only(void **state)
{
    (void)state;
    static const uint64_t dims[] = {256, 1000000};
    struct base_buf b = {0};
    struct gguf *g;
    struct err e;
    struct gguf_writer *w = model_gguf_writer_new();
    model_gguf_put_tensor(w, "big", 12, 2, dims, NULL);
    model_gguf_put_tensor(w, "bigger", 14, 2, dims, NULL);
    assert_int_equal(model_gguf_writer_bytes(w, &b, &e), 0);
    assert_true(b.len < 200);
    assert_int_equal(model_gguf_open_bytes((struct span){b.ptr, b.len}, GGUF_METADATA_ONLY, &g, &e),
                     0);
    assert_int_equal(model_gguf_tensor(g, "bigger")->bytes, 210000000);
    model_gguf_close(g);
    model_gguf_writer_free(w);
    base_buf_deinit(&b);
}

static void test_refusals(void **state)
{
    (void)state;
    static const uint64_t good[] = {32}, odd[] = {31}, huge[] = {INT64_MAX / 2};
    static const struct {
        int code;
        const char *sentence;
    } wanted[] = {
        {ERR_REFUSED, "metadata 'k' was put twice"},
        {ERR_REFUSED, "tensor 't' was put twice"},
        {ERR_FORMAT, "tensor 't': its rows of 31 values"},
        {ERR_UNSUPPORTED, "tensor 't': ggml type number 99 is unknown"},
        {ERR_RANGE, "tensor '': a name has 1 to 64 bytes"},
        {ERR_USAGE, "tensor 'u': either all tensors of a file have data or none"},
        {ERR_RANGE, "general.alignment 33"},
        {ERR_RANGE, "tensor 'u': the data would pass 2^63 bytes"},
        {ERR_RANGE, "a key has 1 to 65535 bytes"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        struct gguf_writer *w = model_gguf_writer_new();
        struct base_buf b = {0};
        struct err e = {0};
        switch (i) {
        case 0:
            model_gguf_put_u32(w, "k", 1);
            model_gguf_put_f32(w, "k", 1);
            break;
        case 1:
            model_gguf_put_tensor(w, "t", 0, 1, good, f32s);
            model_gguf_put_tensor(w, "t", 0, 1, good, f32s);
            break;
        case 2:
            model_gguf_put_tensor(w, "t", 8, 1, odd, f32s);
            break;
        case 3:
            model_gguf_put_tensor(w, "t", 99, 1, good, f32s);
            break;
        case 4:
            model_gguf_put_tensor(w, "", 0, 1, good, f32s);
            break;
        case 5:
            model_gguf_put_tensor(w, "t", 0, 1, good, f32s);
            model_gguf_put_tensor(w, "u", 0, 1, good, NULL);
            break;
        case 6:
            model_gguf_put_u32(w, "general.alignment", 33);
            break;
        case 7:
            model_gguf_put_tensor(w, "t", 25, 1, huge, NULL);
            model_gguf_put_tensor(w, "u", 25, 1, huge, NULL);
            break;
        default:
            model_gguf_put_bool(w, "", true);
            break;
        }
        model_gguf_put_u32(w, "later", 1); /* does not hide the first failure */
        const int rc = model_gguf_writer_bytes(w, &b, &e);
        if (rc != wanted[i].code || strstr(e.text, wanted[i].sentence) == NULL)
            fail_msg("case %zu: code %d, text \"%s\"", i, rc, e.text);
        assert_int_equal(b.len, 0);
        model_gguf_writer_free(w);
        base_buf_deinit(&b);
    }
    struct err e;
    model_gguf_put_u32(NULL, "k", 1);
    assert_int_equal(model_gguf_writer_finish(NULL, "/nonexistent/x", &e), ERR_NOMEM);
}

static void test_many_names(void **state)
{
    (void)state;
    static const uint64_t dims[] = {1};
    enum { N = 20000 };
    struct gguf_writer *w = model_gguf_writer_new();
    struct base_buf b = {0};
    struct gguf *g;
    struct err e;
    char name[32];
    for (uint32_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "key.%u", (unsigned)i);
        model_gguf_put_u32(w, name, i);
        model_gguf_put_tensor(w, name, 24, 1, dims, NULL);
    }
    assert_int_equal(model_gguf_writer_bytes(w, &b, &e), 0);
    model_gguf_writer_free(w);
    assert_int_equal(model_gguf_open_bytes((struct span){b.ptr, b.len}, GGUF_METADATA_ONLY, &g, &e),
                     0);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t u = 0;
        snprintf(name, sizeof name, "key.%u", (unsigned)i);
        assert_int_equal(model_gguf_u32(g, name, &u, &e), 0);
        assert_int_equal(u, i);
        assert_ptr_equal(model_gguf_tensor(g, name), model_gguf_tensor_at(g, i));
    }
    assert_null(model_gguf_kv(g, "key.20000"));
    model_gguf_close(g);
    base_buf_deinit(&b);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    const int64_t live = base_alloc_live();
    int rc = ERR_NOMEM;
    uint64_t n = 0;
    while (rc != 0) {
        struct base_buf out = {0};
        struct err e = {0};
        base_alloc_fail_nth(++n);
        struct gguf_writer *w = small_writer();
        rc = model_gguf_writer_bytes(w, &out, &e);
        base_alloc_fail_nth(0);
        if (rc != 0)
            assert_int_equal(rc, ERR_NOMEM);
        model_gguf_writer_free(w);
        base_buf_deinit(&out);
        assert_int_equal(base_alloc_live(), live);
    }
    assert_true(n > 5);
}

/* Seven bytes at a time, whatever the rows are; fails when asked for the byte `fail_at` of m. */
struct pieces {
    uint8_t bytes[7];
    uint64_t next; /* of the current tensor */
    uint64_t fail_at;
};

static int next_piece(void *arg, size_t i, uint64_t at, struct span *out, struct err *e)
{
    static const uint64_t sizes[] = {16, 68};
    struct pieces *p = arg;
    assert_true(i < 2);
    assert_int_equal(at, at == 0 ? 0 : p->next);
    if (i == 1 && p->fail_at > 0 && at >= p->fail_at)
        return err_set(e, ERR_CANCELLED, "the source had enough");
    const size_t n = sizes[i] - at < 7 ? (size_t)(sizes[i] - at) : 7;
    memset(p->bytes, (int)(i + 1), sizeof p->bytes);
    *out = (struct span){p->bytes, n};
    p->next = at + n;
    return 0;
}

static struct gguf_writer *source_writer(struct pieces *p)
{
    static const uint64_t vector[] = {4}, matrix[] = {32, 2};
    struct gguf_writer *w = model_gguf_writer_new();
    model_gguf_writer_source(w, next_piece, p);
    model_gguf_put_tensor(w, "v", 0, 1, vector, NULL);
    model_gguf_put_tensor(w, "m", 8, 2, matrix, NULL);
    return w;
}

/* Data that is asked for while the file is written, and a source that fails: nothing is left. */
static void test_source(void **state)
{
    (void)state;
    char dir[] = "/tmp/test-gguf-XXXXXX", path[64];
    struct pieces p = {{0}, 0, 0};
    struct gguf_writer *w = source_writer(&p);
    struct gguf *g;
    struct err e;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/source.gguf", dir);
    assert_int_equal(model_gguf_writer_finish(w, path, &e), 0);
    model_gguf_writer_free(w);
    assert_int_equal(model_gguf_open(path, GGUF_WITH_DATA, &g, &e), 0);
    const uint8_t *v = model_gguf_tensor(g, "v")->data, *m = model_gguf_tensor(g, "m")->data;
    for (unsigned i = 0; i < 68; i++)
        assert_true(m[i] == 2 && (i >= 16 || v[i] == 1));
    assert_int_equal(m - v, 32);
    model_gguf_close(g);
    assert_int_equal(unlink(path), 0);

    p.fail_at = 14;
    w = source_writer(&p);
    assert_int_equal(model_gguf_writer_finish(w, path, &e), ERR_CANCELLED);
    assert_non_null(strstr(e.text, "had enough"));
    model_gguf_writer_free(w);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_file),
        cmocka_unit_test(test_alignment),     cmocka_unit_test(test_header_only),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_many_names),
        cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_source),
    };
    return cmocka_run_group_tests_name("gguf_write", tests, NULL, NULL);
}
