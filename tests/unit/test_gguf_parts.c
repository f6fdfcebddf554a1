/* Models in several files: the same model as in one, and every way in which parts cannot belong
 * together is one error that names the file. */
#include "tests/tools/make_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_PARTS = 3 };

/* A folder with room for a model in parts, m-0000K-of-0000N.gguf, and for whole.gguf. */
struct folder {
    char dir[64];
    char part[N_PARTS][128];
    char whole[128], out[128];
};

static int make_folder(void **state)
{
    struct folder *f = calloc(1, sizeof *f);
    if (f == NULL)
        return -1;
    strcpy(f->dir, "/tmp/test-parts-XXXXXX");
    if (mkdtemp(f->dir) == NULL)
        return -1;
    for (unsigned i = 0; i < N_PARTS; i++)
        snprintf(f->part[i], sizeof f->part[i], "%s/m-0000%u-of-0000%d.gguf", f->dir, i + 1,
                 N_PARTS);
    snprintf(f->whole, sizeof f->whole, "%s/whole.gguf", f->dir);
    snprintf(f->out, sizeof f->out, "%s/out.gguf", f->dir);
    *state = f;
    return 0;
}

static int remove_folder(void **state)
{
    struct folder *f = *state;
    for (unsigned i = 0; i < N_PARTS; i++)
        unlink(f->part[i]);
    unlink(f->whole);
    unlink(f->out);
    const int rc = rmdir(f->dir);
    free(f);
    return rc;
}

static void make(const struct folder *f, const char *shape, uint32_t n_parts)
{
    const struct make_model c = {.shape = shape, .type = "F16", .seed = 9, .n_parts = n_parts};
    char prefix[128];
    struct err e = {0};
    snprintf(prefix, sizeof prefix, "%s/m", f->dir);
    if (make_model_write(&c, n_parts > 1 ? prefix : f->whole, &e) != 0)
        fail_msg("%s", e.text);
}

static void copy(const char *from, const char *to)
{
    uint8_t *bytes = NULL;
    size_t len = 0;
    struct err e = {0};
    assert_int_equal(base_file_read(from, 1 << 24, &bytes, &len, &e), 0);
    assert_int_equal(base_file_replace(to, bytes, len, 0600, &e), 0);
    base_free(bytes);
}

/* Opening fails with this code, a text with both words, and leaves nothing behind. */
static void refuses(const char *path, int mode, int code, const char *word, const char *other)
{
    const int64_t live = base_alloc_live();
    struct gguf *g = NULL;
    struct err e = {0};
    const int rc = model_gguf_open(path, mode, &g, &e);
    if (rc != code || strstr(e.text, word) == NULL || strstr(e.text, other) == NULL)
        fail_msg("code %d, \"%s\" does not say \"%s\" and \"%s\"", rc, e.text, word, other);
    assert_null(g);
    assert_int_equal(base_alloc_live(), live);
}

/* ---- one model ------------------------------------------------------------------------------- */

static void card_of(const char *path, struct base_buf *card, size_t *n_parts)
{
    struct model *m = NULL;
    struct err e = {0};
    if (model_open(path, &m, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(model_card_write(m, card, &e), 0);
    *n_parts = model_gguf_n_parts(model_gguf(m));
    for (size_t i = 0; i < *n_parts; i++)
        assert_non_null(model_gguf_map(model_gguf(m), i));
    assert_null(model_gguf_map(model_gguf(m), *n_parts));
    model_close(m);
}

static void test_same_model(void **state)
{
    const struct folder *f = *state;
    struct gguf *one = NULL, *parts = NULL;
    struct base_buf card_one = {0}, card_parts = {0};
    struct err e = {0};
    size_t n = 0;
    make(f, "llama", 1);
    make(f, "llama", N_PARTS);
    assert_int_equal(model_gguf_open(f->whole, GGUF_WITH_DATA, &one, &e), 0);
    if (model_gguf_open(f->part[0], GGUF_WITH_DATA, &parts, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(model_gguf_n_tensors(one), model_gguf_n_tensors(parts));
    for (size_t i = 0; i < model_gguf_n_tensors(one); i++) {
        const struct gguf_tensor *a = model_gguf_tensor_at(one, i);
        char name[65] = "";
        memcpy(name, a->name.ptr, a->name.len);
        const struct gguf_tensor *b = model_gguf_tensor(parts, name);
        assert_non_null(b);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    model_gguf_close(one);
    model_gguf_close(parts);

    card_of(f->whole, &card_one, &n);
    assert_int_equal(n, 1);
    card_of(f->part[0], &card_parts, &n);
    assert_int_equal(n, N_PARTS);
    assert_int_equal(card_one.len, card_parts.len);
    assert_memory_equal(card_one.ptr, card_parts.ptr, card_one.len);
    base_buf_deinit(&card_one);
    base_buf_deinit(&card_parts);
}

static void quantise(const char *in, const char *out, uint8_t **bytes, size_t *len)
{
    const struct model_quantise c = {.type = "Q8_0", .n_threads = 1};
    struct model_quantised done;
    struct err e = {0};
    if (model_quantise_file(in, out, &c, &done, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(base_file_read(out, 1 << 24, bytes, len, &e), 0);
}

static void test_quantise(void **state)
{
    const struct folder *f = *state;
    const struct model_quantise c = {.type = "Q8_0", .n_threads = 1};
    struct model_quantised done;
    uint8_t *one = NULL, *parts = NULL;
    size_t n_one = 0, n_parts = 0;
    struct err e = {0};
    make(f, "qwen2", 1);
    make(f, "qwen2", N_PARTS);
    quantise(f->whole, f->out, &one, &n_one);
    quantise(f->part[0], f->out, &parts, &n_parts);
    assert_int_equal(n_one, n_parts);
    assert_memory_equal(one, parts, n_one);
    base_free(one);
    base_free(parts);
    assert_int_equal(model_quantise_file(f->part[0], f->part[2], &c, &done, &e), ERR_REFUSED);
}

static void test_other_modes(void **state)
{
    const struct folder *f = *state;
    struct gguf *g = NULL;
    struct err e = {0};
    make(f, "llama", N_PARTS);
    assert_int_equal(model_gguf_open(f->part[0], GGUF_METADATA_ONLY, &g, &e), 0);
    assert_int_equal(model_gguf_n_tensors(g), 30);
    assert_null(model_gguf_tensor(g, "output.weight")->data);
    model_gguf_close(g);
    unlink(f->part[1]);
    refuses(f->part[0], GGUF_METADATA_ONLY, ERR_NOTFOUND, "part 2 of 3", f->part[1]);
    assert_int_equal(model_gguf_open(f->part[0], GGUF_VOCABULARY, &g, &e), 0);
    assert_non_null(model_gguf_kv(g, "tokenizer.ggml.tokens"));
    model_gguf_close(g);
}

/* ---- parts that do not belong together ------------------------------------------------------- */

static void test_wrong_parts(void **state)
{
    const struct folder *f = *state;
    make(f, "llama", N_PARTS);
    refuses(f->part[1], GGUF_WITH_DATA, ERR_FORMAT, "open ", f->part[0]);
    copy(f->part[0], f->whole);
    refuses(f->whole, GGUF_WITH_DATA, ERR_FORMAT, f->whole, "-00001-of-00003.gguf");
    copy(f->part[1], f->part[2]);
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[2], "holds part 2, not part 3");
    copy(f->part[0], f->part[1]);
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[1], "holds part 1, not part 2");
    unlink(f->part[1]);
    refuses(f->part[0], GGUF_WITH_DATA, ERR_NOTFOUND, f->part[1], "part 2 of 3");

    /* Part 2 of a model with another number of tensors. */
    make(f, "smollm", N_PARTS);
    copy(f->part[1], f->whole);
    make(f, "llama", N_PARTS);
    copy(f->whole, f->part[1]);
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[1], "belongs to another model");

    /* A part cut short. */
    make(f, "llama", N_PARTS);
    assert_int_equal(truncate(f->part[2], 100000), 0);
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[2], "truncated");
}

/* A part made by hand; a key below 0 is left out. */
static void write_part(const char *path, int64_t no, int64_t count, int64_t total,
                       const char *tensor)
{
    static const float data[8];
    static const uint64_t dims[] = {8};
    struct gguf_writer *w = model_gguf_writer_new();
    struct err e = {0};
    if (no >= 0)
        model_gguf_put_u32(w, "split.no", (uint32_t)no);
    if (count >= 0)
        model_gguf_put_u32(w, "split.count", (uint32_t)count);
    if (total >= 0)
        model_gguf_put_u32(w, "split.tensors.count", (uint32_t)total);
    if (tensor != NULL)
        model_gguf_put_tensor(w, tensor, 0, 1, dims, data);
    assert_int_equal(model_gguf_writer_finish(w, path, &e), 0);
    model_gguf_writer_free(w);
}

static void test_keys(void **state)
{
    const struct folder *f = *state;
    struct gguf *g = NULL;
    struct err e = {0};
    /* No total is fine, and so is a part without tensors; the parts must agree on it. */
    write_part(f->part[0], 0, 3, -1, NULL);
    write_part(f->part[1], 1, 3, -1, "a");
    write_part(f->part[2], 2, 3, -1, "b");
    assert_int_equal(model_gguf_open(f->part[0], GGUF_WITH_DATA, &g, &e), 0);
    assert_int_equal(model_gguf_n_tensors(g), 2);
    assert_non_null(model_gguf_tensor(g, "b")->data);
    model_gguf_close(g);
    write_part(f->part[2], 2, 3, 2, "b");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[2], "2 tensors");
    write_part(f->part[2], 2, 3, -1, "a");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[2], "'a' is there twice");
    write_part(f->part[2], 2, 4, -1, "b");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[2], "one of 4 parts");
    write_part(f->part[2], -1, 3, -1, "b");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[2], "holds part 1, not part 3");
    write_part(f->part[2], -1, -1, -1, "b");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[2], "one of 0 parts");

    /* The total is not what is there. */
    write_part(f->part[0], 0, 3, 4, NULL);
    write_part(f->part[1], 1, 3, 4, "a");
    write_part(f->part[2], 2, 3, 4, "b");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[0], "hold 2 tensors");

    /* Counts that are none. */
    write_part(f->part[0], 0, 4000000000, 1, "a");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[0], "at most 1024");
    write_part(f->part[0], 3, 3, 1, "a");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[0], "part 4 of 3");
    write_part(f->part[0], 0, 2, 1, "a");
    refuses(f->part[0], GGUF_WITH_DATA, ERR_FORMAT, f->part[0], "-00001-of-00002.gguf");
    write_part(f->part[0], 0, 1, 1, "a");
    assert_int_equal(model_gguf_open(f->part[0], GGUF_WITH_DATA, &g, &e), 0);
    model_gguf_close(g);
}

static void test_key_types(void **state)
{
    const struct folder *f = *state;
    static const char *const names[] = {"split.count", "split.no", "split.tensors.count"};
    struct err e = {0};
    for (unsigned i = 0; i < 3; i++) {
        struct gguf_writer *w = model_gguf_writer_new();
        for (unsigned k = 0; k < 3; k++)
            if (k == i)
                model_gguf_put_string(w, names[k], base_span_str("3"));
            else
                model_gguf_put_u32(w, names[k], 3);
        assert_int_equal(model_gguf_writer_finish(w, f->whole, &e), 0);
        model_gguf_writer_free(w);
        refuses(f->whole, GGUF_WITH_DATA, ERR_FORMAT, f->whole, names[i]);
    }
}

/* A part by itself, as bytes, is not a whole model. */
static void test_bytes(void **state)
{
    const struct folder *f = *state;
    struct model *m = NULL;
    struct err e = {0};
    uint8_t *bytes = NULL;
    size_t len = 0;
    make(f, "llama", N_PARTS);
    assert_int_equal(base_file_read(f->part[0], 1 << 24, &bytes, &len, &e), 0);
    assert_int_equal(model_open_card((struct span){bytes, len}, &m, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, "one of the 3 files"));
    base_free(bytes);
}

static void test_out_of_memory(void **state)
{
    const struct folder *f = *state;
    const int64_t live = base_alloc_live();
    int rc = ERR_NOMEM;
    make(f, "llama", N_PARTS);
    for (uint64_t n = 1; rc != 0; n++) {
        struct gguf *g = NULL;
        struct err e = {0};
        base_alloc_fail_nth(n);
        rc = model_gguf_open(f->part[0], GGUF_WITH_DATA, &g, &e);
        base_alloc_fail_nth(0);
        assert_true(rc == 0 || (rc == ERR_NOMEM && g == NULL));
        model_gguf_close(g);
        assert_int_equal(base_alloc_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same_model, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_quantise, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_other_modes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_wrong_parts, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_keys, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_key_types, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_bytes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_out_of_memory, make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("gguf_parts", tests, NULL, NULL);
}
