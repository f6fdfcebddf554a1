/* Slices and executors before they run: the pieces of a slice, what it takes in memory, and what is
 * refused, with everything given back that had been taken. */
#include "tests/unit/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct model *must_open(const struct tiny_model *c)
{
    struct model *m = NULL;
    struct err e = {0};
    if (tiny_model_open(c, &m, &e) != 0)
        fail_msg("%s", e.text);
    return m;
}

static void test_slice_pieces(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    struct model *m = must_open(&c);
    struct err e = {0};
    uint32_t n[64];
    /* Layer 1, head unit 3 alone, FFN unit 2: common, KV head 1, the unit, the columns. */
    struct model_slice s = {.layer0 = 1, .layer1 = 2, .head_units = {8}, .unit0 = 2, .unit1 = 3};
    assert_int_equal(model_slice_check(m, &s, &e), 0);
    assert_int_equal(model_slice_pieces(m, &s, NULL, 0), 4);
    assert_int_equal(model_slice_pieces(m, &s, n, 64), 4);
    const struct model_piece expected[] = {{MODEL_PIECE_COMMON, 1, 0},
                                           {MODEL_PIECE_KV, 1, 1},
                                           {MODEL_PIECE_HEAD, 1, 3},
                                           {MODEL_PIECE_FFN, 1, 2}};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(n[i], model_piece_number(m, expected[i]));
    struct model_slice bad = s;
    bad.layer1 = 3;
    assert_int_equal(model_slice_check(m, &bad, &e), ERR_RANGE);
    bad = s;
    bad.unit1 = 4;
    assert_int_equal(model_slice_check(m, &bad, &e), ERR_RANGE);
    bad = s;
    bad.unit0 = 4;
    assert_int_equal(model_slice_check(m, &bad, &e), ERR_RANGE);
    bad = s;
    bad.head_units[3] = 1;
    assert_int_equal(model_slice_check(m, &bad, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "192"));
    bad = s;
    bad.run1 = model_shape(m)->n_vocab_runs + 1;
    assert_int_equal(model_slice_check(m, &bad, &e), ERR_RANGE);
    bad.run0 = 1;
    bad.run1 = 0;
    assert_int_equal(model_slice_check(m, &bad, &e), ERR_RANGE);
    bad = (struct model_slice){.layer0 = 1, .layer1 = 1};
    assert_int_equal(model_slice_check(m, &bad, &e), ERR_RANGE);
    bad = model_slice_layers(m, 0, 1);
    assert_true(bad.embed && !bad.output && bad.run0 == bad.run1);
    bad = model_slice_layers(m, 1, 2);
    assert_true(!bad.embed && bad.output && bad.run0 == 0 &&
                bad.run1 == model_shape(m)->n_vocab_runs);
    s = model_slice_part(1, 2, 3, 4, 2, 3, 0, 0, false, false);
    assert_int_equal(model_slice_pieces(m, &s, n, 64), 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(n[i], model_piece_number(m, expected[i]));
    model_close(m);
}

static struct model_exec_config config_of(uint32_t n_slots, uint32_t context, uint32_t max_rows,
                                          unsigned n_threads)
{
    return (struct model_exec_config){.n_slots = n_slots,
                                      .context = context,
                                      .max_rows = max_rows,
                                      .kv = KERN_KV_F16,
                                      .n_threads = n_threads,
                                      .kernels = kern_table_select(NULL)};
}

/* Runs of the output matrix with and without the final norm, with and without layers. */
static void test_output_pieces(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    c.n_embd = 256;
    c.n_vocab = 2500;
    struct model *m = must_open(&c);
    struct err e = {0};
    uint32_t n[64], n_runs = model_shape(m)->n_vocab_runs;
    struct model_exec_config config = config_of(3, 100, 16, 1);
    assert_true(n_runs >= 3);
    const struct model_piece final = {MODEL_PIECE_FINAL, 0, 0}, middle = {MODEL_PIECE_OUTPUT, 0, 1};
    struct model_slice s = model_slice_part(0, 0, 0, 0, 0, 0, 1, 2, false, false);
    assert_int_equal(model_slice_check(m, &s, &e), 0);
    assert_int_equal(model_slice_pieces(m, &s, n, 64), 1);
    assert_int_equal(n[0], model_piece_number(m, middle));
    assert_int_equal(model_slice_memory(m, &s, &config).weight_bytes, model_piece_bytes(m, middle));
    s.output = true;
    assert_int_equal(model_slice_pieces(m, &s, n, 64), 2);
    assert_int_equal(n[0], model_piece_number(m, final));
    s.run1 = s.run0;
    assert_int_equal(model_slice_pieces(m, &s, n, 64), 1);
    s.output = false;
    assert_int_equal(model_slice_check(m, &s, &e), ERR_RANGE);
    s = model_slice_part(0, 1, 0, 1, 0, 0, 0, n_runs, true, true);
    assert_int_equal(model_slice_check(m, &s, &e), 0);
    assert_int_equal(model_slice_pieces(m, &s, NULL, 0), 2 * n_runs + 1 + 3);
    model_close(m);
}

static void test_memory_figures(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    c.rope_factors = true;
    struct model *m = must_open(&c);
    struct model_slice whole = model_slice_layers(m, 0, 2), first = model_slice_layers(m, 0, 1);
    struct model_exec_config config = config_of(3, 100, 16, 1);
    struct model_memory a = model_slice_memory(m, &whole, &config),
                        b = model_slice_memory(m, &first, &config);
    uint64_t weights = 0;
    for (uint32_t i = 0; i < model_n_pieces(m); i++)
        weights += model_piece_bytes(m, model_piece_at(m, i));
    assert_int_equal(a.weight_bytes, weights);
    /* 2 layers, 2 KV heads, K and V of 3 x 100 rows of 64 bytes: 38400 bytes in pages of 4096 */
    assert_int_equal(a.kv_bytes, 2 * 2 * 40960);
    assert_int_equal(b.kv_bytes, 2 * 40960);
    assert_true(b.weight_bytes < a.weight_bytes && b.scratch_bytes < a.scratch_bytes);
    config.kv = KERN_KV_F32;
    assert_int_equal(model_slice_memory(m, &whole, &config).kv_bytes, 2 * 2 * 77824);
    config.max_rows = 512; /* tiles bound the scratch */
    assert_int_equal(model_slice_memory(m, &whole, &config).scratch_bytes, a.scratch_bytes);
    model_close(m);
    c.tied = true;
    m = must_open(&c);
    config.kv = KERN_KV_F16;
    assert_true(model_slice_memory(m, &whole, &config).weight_bytes < weights);
    model_close(m);
}

static void test_exec_refusals(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    struct model *m = must_open(&c);
    struct tiny_store store = tiny_store_make(m);
    struct model_slice whole = model_slice_layers(m, 0, 2);
    struct model_exec_config config = config_of(1, 16, 4, 2),
                             bad = config;
    struct model_exec *x = NULL;
    struct err e = {0};
    store.missing = model_piece_number(m, (struct model_piece){MODEL_PIECE_KV, 1, 1});
    assert_int_equal(model_exec_new(m, &whole, &config, tiny_store_get, &store, &x, &e),
                     ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "KV head 1 of layer 1"));
    store.missing = UINT32_MAX;
    bad.n_slots = MODEL_SLOTS_MAX + 1;
    assert_int_equal(model_exec_new(m, &whole, &bad, tiny_store_get, &store, &x, &e), ERR_RANGE);
    bad = config;
    bad.max_rows = 0;
    assert_int_equal(model_exec_new(m, &whole, &bad, tiny_store_get, &store, &x, &e), ERR_RANGE);
    /* Every allocation fails once; what was taken before is given back. */
    int64_t live = base_alloc_live();
    int rc = ERR_NOMEM;
    for (uint64_t n = 1; rc != 0; n++) {
        assert_true(n < 100);
        base_alloc_fail_nth(n);
        rc = model_exec_new(m, &whole, &config, tiny_store_get, &store, &x, &e);
        base_alloc_fail_nth(0);
        assert_true(rc == 0 || rc == ERR_NOMEM);
        assert_true(rc == 0 || base_alloc_live() == live);
    }
    model_exec_free(x);
    assert_int_equal(base_alloc_live(), live);
    tiny_store_free(&store);
    model_close(m);
}

static void zero_factors(void *arg, const char *name, float *values, uint64_t n)
{
    (void)arg;
    if (strcmp(name, "rope_freqs.weight") == 0)
        values[n - 1] = 0;
}

static void test_rope_factors_checked(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    c.rope_factors = true;
    c.patch = zero_factors;
    struct model *m = must_open(&c);
    struct tiny_store store = tiny_store_make(m);
    struct model_slice whole = model_slice_layers(m, 0, 2);
    struct model_exec_config config = config_of(1, 16, 4, 1);
    struct model_exec *x = NULL;
    struct err e = {0};
    assert_int_equal(model_exec_new(m, &whole, &config, tiny_store_get, &store, &x, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "factor 15"));
    tiny_store_free(&store);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slice_pieces),         cmocka_unit_test(test_output_pieces),
        cmocka_unit_test(test_memory_figures),       cmocka_unit_test(test_exec_refusals),
        cmocka_unit_test(test_rope_factors_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
