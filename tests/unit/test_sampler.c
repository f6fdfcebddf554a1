/* The sampler: total orders, the meaning of each knob against a plain implementation written
 * here (sort everything, then apply the definitions one after the other), and randomness that is
 * a function of seed and position. */
#include "model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 200 };

static const struct model_sampling plain = {
    .temperature = 1.0f, .top_k = 0, .top_p = 1.0f, .min_p = 0.0f, .repeat_penalty = 1.0f};

/* Coarse values, so that ties are frequent. */
static void random_logits(uint64_t seed, float *out)
{
    for (unsigned i = 0; i < VOCAB; i++)
        out[i] = (float)(int)(base_rng_next(&seed) % 41) * 0.25f - 6.0f;
}

static int32_t sample(const struct model_sampling *s, const float *logits, uint32_t position,
                      const int32_t *recent, uint32_t n_recent)
{
    float copy[VOCAB];
    struct model_sampler *x = model_sampler_new(VOCAB);
    assert_non_null(x);
    memcpy(copy, logits, sizeof copy);
    int32_t id = model_sample(x, s, copy, position, recent, n_recent);
    model_sampler_free(x);
    return id;
}

/* ---- the plain implementation ---------------------------------------------------------------- */

struct entry {
    double logit, p;
    int32_t id;
};

static int by_rank(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id - y->id;
}

static void softmax(struct entry *e, unsigned n, double temperature)
{
    double sum = 0;
    for (unsigned i = 0; i < n; i++)
        sum += e[i].p = exp((e[i].logit - e[0].logit) / temperature);
    for (unsigned i = 0; i < n; i++)
        e[i].p /= sum;
}

/* The candidates that may be drawn and their probabilities; returns their number. */
static unsigned naive(const struct model_sampling *s, const float *logits, struct entry *e)
{
    unsigned n = VOCAB;
    for (unsigned i = 0; i < n; i++)
        e[i] = (struct entry){(double)logits[i], 0, (int32_t)i};
    qsort(e, n, sizeof *e, by_rank);
    if (s->top_k > 0 && s->top_k < n)
        n = s->top_k;
    softmax(e, n, 1.0);
    double reached = 0;
    unsigned keep = 0;
    while (keep < n && (keep == 0 || s->top_p >= 1.0f || reached < (double)s->top_p))
        reached += e[keep++].p;
    n = keep;
    while (n > 1 && e[n - 1].p < (double)s->min_p * e[0].p)
        n--;
    softmax(e, n, (double)s->temperature);
    return n;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_greedy_takes_best_and_lower_id(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    struct model_sampling s = plain;
    s.temperature = 0;
    logits[7] = logits[90] = 3.5f;
    assert_int_equal(sample(&s, logits, 5, NULL, 0), 7);
    logits[120] = 4.0f;
    assert_int_equal(sample(&s, logits, 5, NULL, 0), 120);
    for (unsigned i = 0; i < VOCAB; i++)
        logits[i] = i % 2 == 0 ? -0.0f : 0.0f; /* equal as floats */
    assert_int_equal(sample(&s, logits, 5, NULL, 0), 0);
}

static void test_not_finite_is_refused(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    logits[3] = (float)NAN;
    assert_int_equal(sample(&plain, logits, 0, NULL, 0), -1);
    logits[3] = -(float)INFINITY;
    assert_int_equal(sample(&plain, logits, 0, NULL, 0), -1);
}

static void test_penalty_counts_a_token_once(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    struct model_sampling s = plain;
    const int32_t recent[] = {4, 4, 4, -1, VOCAB, 9};
    s.temperature = 0;
    s.repeat_penalty = 2.0f;
    logits[4] = 6.0f;
    logits[5] = 2.9f;
    assert_int_equal(sample(&s, logits, 0, recent, 6),
                     4); /* 3.0 after one halving, 0.75 after three */
    logits[5] = 3.1f;
    assert_int_equal(sample(&s, logits, 0, recent, 6), 5);
    /* Negative logits are multiplied: 9 falls behind the others. */
    for (unsigned i = 0; i < VOCAB; i++)
        logits[i] = -5.0f;
    logits[9] = -3.0f;
    logits[10] = -5.5f;
    assert_int_equal(sample(&s, logits, 0, recent, 6), 0);
    assert_int_equal(sample(&s, logits, 0, recent, 5), 9);
}

static void test_penalty_window(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    struct model_sampling s = plain;
    int32_t recent[MODEL_PENALTY_WINDOW + 1] = {4};
    for (unsigned i = 1; i <= MODEL_PENALTY_WINDOW; i++)
        recent[i] = 8;
    s.temperature = 0;
    s.repeat_penalty = 2.0f;
    logits[4] = 6.0f;
    logits[5] = 5.0f;
    assert_int_equal(sample(&s, logits, 0, recent, MODEL_PENALTY_WINDOW + 1), 4);
    assert_int_equal(sample(&s, logits, 0, recent, MODEL_PENALTY_WINDOW), 5);
}

static void test_frequency_counts_and_presence_does_not(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    struct model_sampling s = plain;
    const int32_t recent[] = {4, 9, 4, 9, 4, -1, VOCAB};
    s.temperature = 0;
    s.frequency_penalty = 0.5f;
    logits[4] = 6.0f; /* 3 times: 4.5 is left */
    logits[5] = 4.4f;
    assert_int_equal(sample(&s, logits, 0, recent, 7), 4);
    logits[5] = 4.6f;
    assert_int_equal(sample(&s, logits, 0, recent, 7), 5);
    s.frequency_penalty = 0;
    s.presence_penalty = 1.5f; /* the same number of times or not: 4.5 */
    assert_int_equal(sample(&s, logits, 0, recent, 7), 5);
    logits[5] = 4.4f;
    assert_int_equal(sample(&s, logits, 0, recent, 7), 4);
    s.presence_penalty = -1.0f; /* makes what was there likelier */
    logits[9] = 4.0f;
    logits[4] = 0;
    assert_int_equal(sample(&s, logits, 0, recent, 7), 9);
    /* All three: the repetition penalty divides first. */
    s.repeat_penalty = 2.0f;
    s.presence_penalty = 0.25f;
    s.frequency_penalty = 0.25f;
    logits[9] = 0;
    logits[4] = 6.0f; /* 6 / 2 - 0.25 - 3 * 0.25 = 2 */
    logits[5] = 2.01f;
    assert_int_equal(sample(&s, logits, 0, recent, 7), 5);
    logits[5] = 1.99f;
    assert_int_equal(sample(&s, logits, 0, recent, 7), 4);
}

/* The window of all penalties is the same: what is older counts no more. */
static void test_frequency_window(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    struct model_sampling s = plain;
    int32_t recent[MODEL_PENALTY_WINDOW + 1];
    for (unsigned i = 0; i <= MODEL_PENALTY_WINDOW; i++)
        recent[i] = 8;
    s.temperature = 0;
    s.frequency_penalty = 1.0f;
    logits[8] = 70.0f; /* 64 are subtracted, however many there were */
    logits[9] = 5.5f;
    assert_int_equal(sample(&s, logits, 0, recent, MODEL_PENALTY_WINDOW + 1), 8);
    assert_int_equal(sample(&s, logits, 0, recent, MODEL_PENALTY_WINDOW), 8);
    logits[9] = 6.5f;
    assert_int_equal(sample(&s, logits, 0, recent, MODEL_PENALTY_WINDOW), 9);
}

static void test_biases_and_bans(void **state)
{
    (void)state;
    float logits[VOCAB];
    struct model_sampling s = plain;
    for (unsigned i = 0; i < VOCAB; i++)
        logits[i] = 0.125f * (float)(i % 16);
    s.temperature = 0;
    assert_int_equal(sample(&s, logits, 0, NULL, 0), 15);
    s.n_biases = 2;
    s.bias_ids[0] = s.bias_ids[1] = 3;
    s.biases[0] = s.biases[1] = 1.0; /* 0.375 + 2 */
    assert_int_equal(sample(&s, logits, 0, NULL, 0), 3);
    s.n_biases = 3;
    s.bias_ids[2] = 3;
    s.biases[2] = MODEL_BANNED; /* and no other bias brings it back */
    assert_int_equal(sample(&s, logits, 0, NULL, 0), 15);
    s.bias_ids[0] = 15;
    s.biases[0] = MODEL_BANNED;
    s.bias_ids[1] = 31;
    s.biases[1] = MODEL_BANNED;
    s.bias_ids[2] = -1; /* no such token: nothing happens */
    assert_int_equal(sample(&s, logits, 0, NULL, 0), 47);
    /* Banned tokens are not drawn either, whatever evens out the probabilities. */
    s.temperature = 100.0f;
    for (uint32_t position = 0; position < 4000; position++) {
        const int32_t id = sample(&s, logits, position, NULL, 0);
        assert_true(id != 15 && id != 31);
    }
    assert_int_equal(model_biases_check(&s, VOCAB, NULL), ERR_RANGE);
    s.bias_ids[2] = VOCAB - 1;
    assert_int_equal(model_biases_check(&s, VOCAB, NULL), 0);
    assert_int_equal(model_biases_check(&s, VOCAB - 1, NULL), ERR_RANGE);
}

static void test_nothing_but_bans(void **state)
{
    (void)state;
    float logits[3] = {1, 2, 3};
    struct model_sampling s = plain;
    struct model_sampler *x = model_sampler_new(3);
    assert_non_null(x);
    s.n_biases = 3;
    for (int i = 0; i < 3; i++) {
        s.bias_ids[i] = i;
        s.biases[i] = MODEL_BANNED;
    }
    assert_int_equal(model_sample(x, &s, logits, 0, NULL, 0), -1);
    for (int i = 0; i < 3; i++) {
        s.bias_ids[3 + i] = i;
        s.biases[3 + i] = 1000.0;
    }
    s.n_biases = 6;
    logits[0] = logits[1] = logits[2] = 0;
    assert_int_equal(model_sample(x, &s, logits, 0, NULL, 0), -1);
    s.n_biases = 2;
    logits[0] = 1;
    logits[1] = 2;
    logits[2] = -3e38f;
    assert_int_equal(model_sample(x, &s, logits, 0, NULL, 0), 2);
    model_sampler_free(x);
}

/* Of the distribution as the model gives it, whatever the request does to it. */
static void test_log_probabilities(void **state)
{
    (void)state;
    float logits[VOCAB], copy[VOCAB];
    struct entry e[VOCAB];
    struct model_sampling s = model_sampling_default();
    struct model_sampler *x = model_sampler_new(VOCAB);
    const int32_t recent[] = {5, 5, 11};
    unsigned changed = 0;
    assert_non_null(x);
    s.logprobs = 1 + 5;
    s.repeat_penalty = 1.5f;
    s.frequency_penalty = -3.0f;
    s.n_biases = 2;
    s.bias_ids[0] = 11;
    s.bias_ids[1] = 60;
    s.biases[0] = s.biases[1] = 6.0;
    for (uint32_t position = 0; position < 40; position++) {
        random_logits(position + 100, logits);
        memcpy(copy, logits, sizeof copy);
        naive(&plain, logits, e);
        const int32_t id = model_sample(x, &s, copy, position, recent, 3);
        const struct model_logprobs *p = model_sampler_logprobs(x);
        changed += id == 5 || id == 11 || id == 60 ? 1u : 0u;
        assert_true(p->chosen == model_log_probability(logits, VOCAB, id));
        assert_int_equal(p->n_best, 5);
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(p->ids[i], e[i].id);
            assert_true(p->best[i] == model_log_probability(logits, VOCAB, e[i].id));
            assert_true(fabs(p->best[i] - log(e[i].p)) < 1e-9);
        }
    }
    assert_true(changed > 10); /* the list of changes was needed */
    s.logprobs = 1;
    memcpy(copy, logits, sizeof copy);
    model_sample(x, &s, copy, 0, recent, 3);
    assert_int_equal(model_sampler_logprobs(x)->n_best, 0);
    model_sampler_free(x);
    x = model_sampler_new(3);
    s.logprobs = 1 + MODEL_LOGPROBS_MAX;
    s.n_biases = 0;
    assert_true(model_sample(x, &s, copy, 0, NULL, 0) >= 0);
    assert_int_equal(model_sampler_logprobs(x)->n_best, 3);
    model_sampler_free(x);
}

/* Over many positions every token drawn is a candidate, every likely candidate is drawn, and
 * frequencies follow the probabilities. */
static void check_against_naive(const struct model_sampling *s, uint64_t seed)
{
    enum { DRAWS = 6000 };
    float logits[VOCAB];
    struct entry e[VOCAB];
    unsigned count[VOCAB] = {0};
    random_logits(seed, logits);
    unsigned n = naive(s, logits, e);
    for (uint32_t position = 0; position < DRAWS; position++) {
        int32_t id = sample(s, logits, position, NULL, 0);
        assert_in_range(id, 0, VOCAB - 1);
        count[id]++;
    }
    for (unsigned i = 0; i < VOCAB; i++) {
        double expected = i < n ? e[i].p * DRAWS : 0;
        double got = count[e[i].id];
        assert_true(expected > 0 || got == 0);
        assert_true(fabs(got - expected) <= 6.0 * sqrt(expected) + 3.0);
    }
}

static void test_knobs_against_naive(void **state)
{
    (void)state;
    struct model_sampling s = plain;
    check_against_naive(&s, 1);
    s.temperature = 0.5f;
    check_against_naive(&s, 2);
    s.temperature = 1.7f;
    s.top_k = 5; /* ties at the border are frequent with these logits */
    check_against_naive(&s, 3);
    s.top_k = 0;
    s.top_p = 0.6f;
    check_against_naive(&s, 4);
    s.top_p = 0.0f;
    check_against_naive(&s, 5);
    s.top_p = 1.0f;
    s.min_p = 0.3f;
    check_against_naive(&s, 6);
    s.min_p = 1.0f;
    check_against_naive(&s, 7);
    s = model_sampling_default();
    for (uint64_t seed = 8; seed < 14; seed++)
        check_against_naive(&s, seed);
}

static void test_same_arguments_same_token(void **state)
{
    (void)state;
    float logits[VOCAB], copy[VOCAB];
    struct model_sampling s = model_sampling_default();
    struct model_sampler *used = model_sampler_new(VOCAB);
    unsigned differ_by_seed = 0, differ_by_position = 0;
    int32_t before = -1;
    assert_non_null(used);
    for (uint32_t position = 0; position < 300; position++) {
        random_logits(position % 3, logits);
        s.seed = 11;
        memcpy(copy, logits, sizeof copy);
        int32_t id = model_sample(used, &s, copy, position, NULL, 0);
        assert_int_equal(id, sample(&s, logits, position, NULL, 0));
        differ_by_position += id != before;
        before = id;
        s.seed = 12;
        differ_by_seed += id != sample(&s, logits, position, NULL, 0);
    }
    model_sampler_free(used);
    assert_true(differ_by_seed > 100);
    assert_true(differ_by_position > 100);
}

static void test_extremes_of_temperature(void **state)
{
    (void)state;
    float logits[VOCAB];
    struct model_sampling s = plain, greedy = plain;
    greedy.temperature = 0;
    s.temperature = 1e-30f;
    random_logits(3, logits);
    logits[150] = 50.0f;
    for (uint32_t position = 0; position < 50; position++)
        assert_int_equal(sample(&s, logits, position, NULL, 0), 150);
    for (unsigned i = 0; i < VOCAB; i++)
        logits[i] = i % 2 == 0 ? 3e38f : -3e38f;
    s.temperature = 1.0f;
    assert_true(sample(&s, logits, 1, NULL, 0) % 2 == 0);
    assert_int_equal(sample(&greedy, logits, 1, NULL, 0), 0);
}

static void test_check_names_what_is_wrong(void **state)
{
    (void)state;
    struct err e;
    struct model_sampling s = model_sampling_default();
    assert_int_equal(model_sampling_check(&s, &e), 0);
    s.temperature = -0.1f;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "temperature"));
    s = model_sampling_default();
    s.top_p = (float)NAN;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "top-p"));
    s = model_sampling_default();
    s.min_p = 1.5f;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
    s = model_sampling_default();
    s.repeat_penalty = 0;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
    s = model_sampling_default();
    s.presence_penalty = 101;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "presence"));
    s = model_sampling_default();
    s.frequency_penalty = (float)NAN;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "frequency"));
    s = model_sampling_default();
    s.n_biases = 1;
    s.biases[0] = MODEL_BANNED;
    assert_int_equal(model_sampling_check(&s, &e), 0);
    s.biases[0] = -1000.5;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
    assert_non_null(strstr(e.text, "bias"));
    s.n_biases = MODEL_BIASES_MAX + 1;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
    s = model_sampling_default();
    s.logprobs = 1 + MODEL_LOGPROBS_MAX;
    assert_int_equal(model_sampling_check(&s, &e), 0);
    s.logprobs++;
    assert_int_equal(model_sampling_check(&s, &e), ERR_RANGE);
}

static void test_summary(void **state)
{
    (void)state;
    float logits[VOCAB];
    struct model_logits_summary sum;
    double mean = 0, squares = 0, total = 0;
    struct entry e[VOCAB];
    random_logits(21, logits);
    for (unsigned i = 0; i < VOCAB; i++) {
        mean += (double)logits[i] / VOCAB;
        squares += (double)logits[i] * (double)logits[i] / VOCAB;
    }
    naive(&plain, logits, e);
    model_logits_summarise(logits, VOCAB, &sum);
    assert_true(fabs(sum.mean - mean) < 1e-9 && fabs(sum.rms - sqrt(squares)) < 1e-9);
    for (unsigned i = 0; i < MODEL_BEST; i++) {
        assert_int_equal(sum.ids[i], e[i].id);
        assert_true((double)sum.values[i] == e[i].logit);
    }
    for (int32_t i = 0; i < VOCAB; i++) {
        double p = exp(model_log_probability(logits, VOCAB, e[i].id));
        assert_true(fabs(p - e[i].p) < 1e-9);
        total += p;
    }
    assert_true(fabs(total - 1.0) < 1e-9);
    model_logits_summarise(logits, 3, &sum);
    assert_int_equal(sum.ids[3], -1);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    int64_t live = base_alloc_live();
    for (uint64_t n = 1; n <= 3; n++) {
        base_alloc_fail_nth(n);
        assert_null(model_sampler_new(VOCAB));
        assert_int_equal(base_alloc_live(), live);
    }
    base_alloc_fail_nth(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_best_and_lower_id),
        cmocka_unit_test(test_not_finite_is_refused),
        cmocka_unit_test(test_penalty_counts_a_token_once),
        cmocka_unit_test(test_penalty_window),
        cmocka_unit_test(test_frequency_counts_and_presence_does_not),
        cmocka_unit_test(test_frequency_window),
        cmocka_unit_test(test_biases_and_bans),
        cmocka_unit_test(test_nothing_but_bans),
        cmocka_unit_test(test_log_probabilities),
        cmocka_unit_test(test_knobs_against_naive),
        cmocka_unit_test(test_same_arguments_same_token),
        cmocka_unit_test(test_extremes_of_temperature),
        cmocka_unit_test(test_check_names_what_is_wrong),
        cmocka_unit_test(test_summary),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
