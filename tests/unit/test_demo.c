/* The demo model against answers of an independent engine (tests/data/): logits of four
 * texts, and greedy continuations. The Q8_0 file comes with the project; its expected logits are
 * what exact arithmetic gives, so 8-bit activations are allowed 0.15. Where SHOAL_REFERENCE names a
 * folder with the F16 file and its answers, those are held to 0.01 and every greedy token must be
 * equal.
 *
 * Continuations on the Q8_0 file are checked step by step on the given text, because a smaller
 * type may well prefer another word somewhere: each token of the answer must be the best or
 * nearly so. */
#include "model/model.h"
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { IDS_MAX = 512, END = 2, PROMPTS = 18, PROMPTS_SCALAR = 3 };

/* ---- answers: just enough JSON for files whose layout is known ------------------------------- */

static char *read_text(const char *path)
{
    uint8_t *bytes = NULL;
    size_t len;
    struct err e = {0};
    if (base_file_read(path, 1 << 20, &bytes, &len, &e) != 0)
        fail_msg("%s", e.text);
    return (char *)bytes;
}

/* Behind the next "key": from p on, or NULL. */
static const char *after(const char *p, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    p = strstr(p, quoted);
    return p != NULL ? strchr(p, ':') + 1 : NULL;
}

/* All numbers of the array that begins at p, nested or not, into out[max]; returns their number. */
static size_t numbers(const char *p, double *out, size_t max)
{
    size_t n = 0;
    int depth = 0;
    p += strspn(p, " \n");
    do {
        if (*p == '[' || *p == ']') {
            depth += *p++ == '[' ? 1 : -1;
        } else if (strchr(", \n", *p) != NULL) {
            p++;
        } else {
            char *end;
            assert_true(n < max);
            out[n++] = strtod(p, &end);
            assert_ptr_not_equal(p, end);
            p = end;
        }
    } while (depth > 0);
    return n;
}

/* ---- the model ------------------------------------------------------------------------------- */

struct demo {
    struct model *model;
    const struct model_shape *shape;
    struct tiny_store store;
    struct model_exec *exec;
    float *hidden, *logits; /* one row */
};

static struct demo demo_open(const char *path)
{
    struct demo d = {0};
    struct err e = {0};
    if (model_open(path, &d.model, &e) != 0)
        fail_msg("%s", e.text);
    d.shape = model_shape(d.model);
    d.store = tiny_store_make(d.model);
    struct model_slice s = model_slice_layers(d.model, 0, d.shape->n_layers);
    struct model_exec_config c = {.n_slots = 1,
                                  .context = d.shape->context,
                                  .max_rows = 64,
                                  .kv = KERN_KV_F16,
                                  .n_threads = 1,
                                  .kernels = kern_table_select(NULL)};
    if (model_exec_new(d.model, &s, &c, tiny_store_get, &d.store, &d.exec, &e) != 0)
        fail_msg("%s", e.text);
    d.hidden = calloc((size_t)64 * d.shape->n_embd, sizeof *d.hidden);
    d.logits = calloc((size_t)64 * d.shape->n_vocab, sizeof *d.logits);
    assert_true(d.hidden != NULL && d.logits != NULL);
    return d;
}

static void demo_close(struct demo *d)
{
    free(d->hidden);
    free(d->logits);
    model_exec_free(d->exec);
    tiny_store_free(&d->store);
    model_close(d->model);
}

/* Run ids[first, last) at their positions, at most 64 rows; logits of all of them are in
 * d->logits. */
static void run(struct demo *d, const double *ids, uint32_t first, uint32_t last)
{
    struct model_row rows[64];
    uint32_t bad[64];
    assert_true(last - first <= 64);
    for (uint32_t i = first; i < last; i++)
        rows[i - first] = (struct model_row){0, i, (int32_t)ids[i], true};
    model_exec_run(d->exec, rows, last - first, d->hidden, d->logits, bad);
    for (uint32_t i = first; i < last; i++)
        assert_int_equal(bad[i - first], 0);
}

/* "name" inside the source tree, or inside the reference folder; skips the test where that is
 * not set. */
static const char *source_file(const char *name)
{
    static char path[2][1024];
    static unsigned turn;
    const char *root = getenv("SHOAL_SRCDIR");
    turn ^= 1;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root != NULL ? root : ".", name);
    return path[turn];
}

static const char *reference_file(const char *name)
{
    static char path[2][1024];
    static unsigned turn;
    const char *root = getenv("SHOAL_REFERENCE");
    if (root == NULL || *root == '\0')
        skip();
    turn ^= 1;
    snprintf(path[turn], sizeof path[turn], "%s/demo/%s", root, name);
    FILE *f = fopen(path[turn], "rb");
    if (f == NULL)
        skip();
    else
        fclose(f);
    return path[turn];
}

/* ---- logits ---------------------------------------------------------------------------------- */

static void check_position(const struct demo *d, const char *answer, uint32_t row, double tolerance)
{
    const float *logits = d->logits + (size_t)row * d->shape->n_vocab;
    struct model_logits_summary s;
    double best[16];
    model_logits_summarise(logits, d->shape->n_vocab, &s);
    double mean = strtod(after(answer, "mean"), NULL), rms = strtod(after(answer, "rms"), NULL);
    assert_int_equal(numbers(after(answer, "best"), best, 16), 16);
    if (fabs(s.mean - mean) > tolerance || fabs(s.rms - rms) > tolerance)
        fail_msg("position %u: mean %g rms %g instead of %g %g", row, s.mean, s.rms, mean, rms);
    for (unsigned i = 0; i < 4; i++) {
        uint32_t id = (uint32_t)best[2 * i];
        if (fabs((double)logits[id] - best[2 * i + 1]) > tolerance)
            fail_msg("position %u: logit of %u is %g instead of %g", row, id, (double)logits[id],
                     best[2 * i + 1]);
        if (fabs((double)s.values[i] - best[2 * i + 1]) > tolerance)
            fail_msg("position %u: logit of rank %u is %g instead of %g", row, i,
                     (double)s.values[i], best[2 * i + 1]);
    }
}

static void check_logits(const char *model, const char *answers, double tolerance)
{
    struct demo d = demo_open(model);
    char *text = read_text(answers);
    unsigned n_texts = 0;
    for (const char *p = after(text, "ids"); p != NULL; p = after(p, "ids")) {
        double ids[IDS_MAX];
        uint32_t n = (uint32_t)numbers(p, ids, IDS_MAX);
        run(&d, ids, 0, n);
        for (uint32_t i = 0; i < n; i++) {
            p = after(p, "mean") - 8;
            check_position(&d, p, i, tolerance);
            p += 8;
        }
        n_texts++;
    }
    assert_int_equal(n_texts, 4);
    base_free(text);
    demo_close(&d);
}

static void test_logits_q8_0(void **state)
{
    (void)state;
    check_logits(source_file("models/shoal-demo-7m-q8_0.gguf"),
                 source_file("tests/data/logits-q8_0.json"), 0.15);
}

static void test_logits_f16(void **state)
{
    (void)state;
    const char *model = reference_file("shoal-demo-7m-f16.gguf");
    check_logits(model, reference_file("logits-f16.json"), 0.01);
}

/* ---- greedy continuations -------------------------------------------------------------------- */

/* The prompts one after the other; `exact`: each token must be the sampler's, otherwise it may fall
 * behind the best by `slack`, and be best almost always. */
static void check_greedy(const char *model, const char *answers, bool exact, double slack)
{
    struct demo d = demo_open(model);
    struct model_sampler *sampler = model_sampler_new(d.shape->n_vocab);
    struct model_sampling greedy = {.temperature = 0, .repeat_penalty = 1, .top_p = 1};
    char *text = read_text(answers);
    unsigned n_tokens = 0, n_best = 0, n_prompts = 0;
    /* The scalar kernels take half a minute for all of them. */
    unsigned enough = kern_table_select(NULL) == kern_table_at(0) ? PROMPTS_SCALAR : PROMPTS;
    assert_non_null(sampler);
    for (const char *p = after(text, "prompt_ids"); p != NULL && n_prompts < enough;
         p = after(p, "prompt_ids")) {
        double ids[IDS_MAX];
        uint32_t n_prompt = (uint32_t)numbers(p, ids, IDS_MAX);
        p = after(p, "ids");
        uint32_t n = n_prompt + (uint32_t)numbers(p, ids + n_prompt, IDS_MAX - n_prompt - 1);
        if (strncmp(after(p, "finish") + strspn(after(p, "finish"), " "), "\"stop", 5) == 0)
            ids[n++] = END;
        for (uint32_t at = n_prompt; at < n; at++) {
            run(&d, ids, at == n_prompt ? 0 : at - 1, at);
            float *logits =
                d.logits + (at == n_prompt ? (size_t)(n_prompt - 1) * d.shape->n_vocab : 0);
            double given = (double)logits[(uint32_t)ids[at]];
            int32_t id = model_sample(sampler, &greedy, logits, at, NULL, 0);
            assert_true(id >= 0);
            n_tokens++;
            n_best += id == (int32_t)ids[at];
            if (exact && id != (int32_t)ids[at])
                fail_msg("prompt %u position %u: token %d instead of %d", n_prompts, at, id,
                         (int)ids[at]);
            if ((double)logits[id] - given > slack)
                fail_msg("prompt %u position %u: token %d is behind by %g", n_prompts, at,
                         (int)ids[at], (double)logits[id] - given);
        }
        n_prompts++;
    }
    assert_int_equal(n_prompts, enough);
    assert_true(n_best * 100 >= n_tokens * 98);
    base_free(text);
    model_sampler_free(sampler);
    demo_close(&d);
}

static void test_greedy_q8_0(void **state)
{
    (void)state;
    check_greedy(source_file("models/shoal-demo-7m-q8_0.gguf"),
                 source_file("tests/data/greedy.json"), false, 0.3);
}

static void test_greedy_f16(void **state)
{
    (void)state;
    const char *model = reference_file("shoal-demo-7m-f16.gguf");
    check_greedy(model, reference_file("greedy.json"), true, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_q8_0),
        cmocka_unit_test(test_logits_f16),
        cmocka_unit_test(test_greedy_q8_0),
        cmocka_unit_test(test_greedy_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
