/* The sampler: from a row of logits to a token, as a function of its arguments only.
 *
 * Order of the steps: penalties (repetition, then frequency and presence), biases, top-k, top-p,
 * min-p, temperature, draw. Top-p and min-p look at the probabilities before the temperature, as
 * the engines people come from do. Temperature 0 takes the best token after penalties and biases. A
 * banned token has the logit minus infinity from then on: its weight is 0 everywhere.
 *
 * Log-probabilities are those of the logits as they came. Penalties and biases change few of them,
 * so what those were before is kept in a short list instead of a copy of the row.
 *
 * The invariant that makes sampling replay on any board at any token: every order is total (value
 * descending, then id ascending), sums are taken in double in that order with our own exp, and the
 * random number is a hash of seed and absolute position. There is no state from one token to the
 * next; the object is only scratch, so nothing is allocated while tokens are produced.
 *
 * Left out: samplers with memory of their own (Mirostat). */
#include "model/model_private.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

struct model_sampler {
    uint32_t n_vocab;
    struct candidate *cand; /* [n_vocab] */
    double *weight;         /* [n_vocab] of the candidates in order */
    uint32_t n_changed;
    struct candidate changed[MODEL_PENALTY_WINDOW + MODEL_BIASES_MAX]; /* logits before a change */
    struct model_logprobs logprobs;
};

struct model_sampling model_sampling_default(void)
{
    return (struct model_sampling){.temperature = 0.8f,
                                   .top_k = 40,
                                   .top_p = 0.95f,
                                   .min_p = 0.05f,
                                   .repeat_penalty = 1.0f,
                                   .seed = 0};
}

int model_sampling_check(const struct model_sampling *s, struct err *e)
{
    if (!(s->temperature >= 0.0f && s->temperature <= 100.0f))
        return err_set(e, ERR_RANGE, "temperature %g is outside 0 to 100", (double)s->temperature);
    if (!(s->top_p >= 0.0f && s->top_p <= 1.0f))
        return err_set(e, ERR_RANGE, "top-p %g is outside 0 to 1", (double)s->top_p);
    if (!(s->min_p >= 0.0f && s->min_p <= 1.0f))
        return err_set(e, ERR_RANGE, "min-p %g is outside 0 to 1", (double)s->min_p);
    if (!(s->repeat_penalty >= 0.01f && s->repeat_penalty <= 100.0f))
        return err_set(e, ERR_RANGE, "repeat penalty %g is outside 0.01 to 100",
                       (double)s->repeat_penalty);
    if (!(s->presence_penalty >= -100.0f && s->presence_penalty <= 100.0f))
        return err_set(e, ERR_RANGE, "presence penalty %g is outside -100 to 100",
                       (double)s->presence_penalty);
    if (!(s->frequency_penalty >= -100.0f && s->frequency_penalty <= 100.0f))
        return err_set(e, ERR_RANGE, "frequency penalty %g is outside -100 to 100",
                       (double)s->frequency_penalty);
    if (s->n_biases > MODEL_BIASES_MAX)
        return err_set(e, ERR_RANGE, "%u logit biases, at most %d are possible", s->n_biases,
                       MODEL_BIASES_MAX);
    for (uint32_t i = 0; i < s->n_biases; i++)
        if (s->biases[i] != MODEL_BANNED && !(s->biases[i] >= -1000.0 && s->biases[i] <= 1000.0))
            return err_set(e, ERR_RANGE, "logit bias %g of token %d is outside -1000 to 1000",
                           s->biases[i], s->bias_ids[i]);
    if (s->logprobs > 1 + MODEL_LOGPROBS_MAX)
        return err_set(e, ERR_RANGE,
                       "log-probabilities of the %u best tokens, at most %d are given",
                       s->logprobs - 1, MODEL_LOGPROBS_MAX);
    return 0;
}

int model_biases_check(const struct model_sampling *s, uint32_t n_vocab, struct err *e)
{
    for (uint32_t i = 0; i < s->n_biases; i++)
        if (s->bias_ids[i] < 0 || (uint32_t)s->bias_ids[i] >= n_vocab)
            return err_set(e, ERR_RANGE, "logit bias: there is no token %d, the last one is %u",
                           s->bias_ids[i], n_vocab - 1);
    return 0;
}

struct model_sampler *model_sampler_new(uint32_t n_vocab)
{
    struct model_sampler *x = base_zalloc(1, sizeof *x);
    if (x == NULL)
        return NULL;
    x->n_vocab = n_vocab;
    x->cand = base_zalloc(n_vocab, sizeof *x->cand);
    x->weight = base_zalloc(n_vocab, sizeof *x->weight);
    if (x->cand == NULL || x->weight == NULL) {
        model_sampler_free(x);
        return NULL;
    }
    return x;
}

void model_sampler_free(struct model_sampler *x)
{
    if (x == NULL)
        return;
    base_free(x->cand);
    base_free(x->weight);
    base_free(x);
}

/* ---- order ----------------------------------------------------------------------------------- */

/* Floats are compared as such, so -0 equals +0 and the lower id wins. */
static bool better(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Restore the heap c[n], worst on top, below entry i. */
static void sift(struct candidate *c, uint32_t n, uint32_t i)
{
    struct candidate moving = c[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && better(c[child], c[child + 1]))
            child++;
        if (!better(moving, c[child]))
            break;
        c[i] = c[child];
        i = child;
    }
    c[i] = moving;
}

/* The k best of logits[n] into c[k], best first. The heap keeps the best so far with the worst
 * of them on top; taking the top off to the end, again and again, leaves them sorted. */
static void select_best(const float *logits, uint32_t n, uint32_t k, struct candidate *c)
{
    for (uint32_t i = 0; i < k; i++)
        c[i] = (struct candidate){logits[i], (int32_t)i};
    for (uint32_t i = k / 2; i > 0; i--)
        sift(c, k, i - 1);
    for (uint32_t i = k; i < n; i++) {
        struct candidate next = {logits[i], (int32_t)i};
        if (!better(next, c[0]))
            continue;
        c[0] = next;
        sift(c, k, 0);
    }
    for (uint32_t left = k; left > 1; left--) {
        struct candidate worst = c[0];
        c[0] = c[left - 1];
        c[left - 1] = worst;
        sift(c, left - 1, 0);
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void change(struct model_sampler *x, float *logits, int32_t id, float to)
{
    x->changed[x->n_changed++] = (struct candidate){logits[id], id};
    logits[id] = to;
}

static float within_range(double v)
{
    return v > (double)FLT_MAX ? FLT_MAX : v < -(double)FLT_MAX ? -FLT_MAX : (float)v;
}

/* Each distinct token of the window once: the repetition penalty does not count, presence does not
 * either, frequency does. What is subtracted is made in double and rounded once. */
static void penalise(struct model_sampler *x, const struct model_sampling *s, float *logits,
                     const int32_t *recent, uint32_t n_recent)
{
    const uint32_t first = n_recent > MODEL_PENALTY_WINDOW ? n_recent - MODEL_PENALTY_WINDOW : 0;
    for (uint32_t i = first; i < n_recent; i++) {
        bool seen = recent[i] < 0 || (uint32_t)recent[i] >= x->n_vocab;
        uint32_t count = 0;
        for (uint32_t k = first; k < i && !seen; k++)
            seen = recent[k] == recent[i];
        if (seen)
            continue;
        for (uint32_t k = i; k < n_recent; k++)
            count += recent[k] == recent[i] ? 1u : 0u;
        const float l = logits[recent[i]];
        const float v =
            within_range((double)(l > 0.0f ? l / s->repeat_penalty : l * s->repeat_penalty));
        const double less =
            (double)count * (double)s->frequency_penalty + (double)s->presence_penalty;
        change(x, logits, recent[i], within_range((double)v - less));
    }
}

static void add_biases(struct model_sampler *x, const struct model_sampling *s, float *logits)
{
    for (uint32_t i = 0; i < s->n_biases; i++) {
        const int32_t id = s->bias_ids[i];
        if (id < 0 || (uint32_t)id >= x->n_vocab)
            continue;
        const bool banned = s->biases[i] == MODEL_BANNED || logits[id] == -INFINITY;
        change(x, logits, id, banned ? -INFINITY : within_range((double)logits[id] + s->biases[i]));
    }
}

/* Whatever makes one token more or less likely than the model would have it. */
static void adjust(struct model_sampler *x, const struct model_sampling *s, float *logits,
                   const int32_t *recent, uint32_t n_recent)
{
    x->n_changed = 0;
    if (s->repeat_penalty != 1.0f || s->presence_penalty != 0.0f || s->frequency_penalty != 0.0f)
        penalise(x, s, logits, recent, n_recent);
    add_biases(x, s, logits);
}

/* Weights relative to the best candidate, weight[0] = 1; returns their sum in order. */
static double weigh(struct model_sampler *x, uint32_t n, double temperature)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        x->weight[i] =
            kern_exp_f64(((double)x->cand[i].logit - (double)x->cand[0].logit) / temperature);
        sum += x->weight[i];
    }
    return sum;
}

/* The fewest candidates whose weights reach `share` of the sum; at least one. */
static uint32_t keep_share(const struct model_sampler *x, uint32_t n, double sum, double share)
{
    double reached = 0;
    for (uint32_t i = 0; i < n; i++) {
        reached += x->weight[i];
        if (reached >= share * sum)
            return i + 1;
    }
    return n;
}

/* A number in [0, 1), a function of seed and position alone: nothing to carry along or to
 * replay. */
static double uniform(uint64_t seed, uint32_t position)
{
    const uint64_t step = 0x9e3779b97f4a7c15; /* 2^64 / golden ratio, odd */
    uint64_t r = base_mix64(base_mix64(seed + step) + ((uint64_t)position + 1) * step);
    return (double)(r >> 11) * 0x1p-53;
}

static bool all_finite(const float *logits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!model_f32_finite(logits[i]))
            return false;
    }
    return true;
}

/* ---- log-probabilities ----------------------------------------------------------------------- */

/* log softmax(logits)[i] is logits[i] - best - log_sum, in this order. */
struct normaliser {
    double best, log_sum;
};

static struct normaliser normaliser_of(const float *logits, uint32_t n)
{
    struct normaliser z = {(double)logits[0], 0};
    double sum = 0;
    for (uint32_t i = 1; i < n; i++)
        z.best = (double)logits[i] > z.best ? (double)logits[i] : z.best;
    for (uint32_t i = 0; i < n; i++)
        sum += kern_exp_f64((double)logits[i] - z.best);
    z.log_sum = kern_log_f64(sum);
    return z;
}

static void note_best(struct model_sampler *x, const struct normaliser *z, const float *logits,
                      uint32_t k)
{
    struct candidate best[MODEL_LOGPROBS_MAX];
    struct model_logprobs *p = &x->logprobs;
    p->n_best = k < x->n_vocab ? k : x->n_vocab;
    if (p->n_best > 0)
        select_best(logits, x->n_vocab, p->n_best, best);
    for (uint32_t i = 0; i < p->n_best; i++) {
        p->ids[i] = best[i].id;
        p->best[i] = (double)best[i].logit - z->best - z->log_sum;
    }
}

static void note_chosen(struct model_sampler *x, const struct normaliser *z, const float *logits,
                        int32_t id)
{
    float logit = logits[id];
    for (uint32_t i = x->n_changed; i > 0; i--)
        if (x->changed[i - 1].id == id)
            logit = x->changed[i - 1].logit;
    x->logprobs.chosen = (double)logit - z->best - z->log_sum;
}

const struct model_logprobs *model_sampler_logprobs(const struct model_sampler *x)
{
    return &x->logprobs;
}

/* ---- the choice ------------------------------------------------------------------------------ */

static int32_t choose(struct model_sampler *x, const struct model_sampling *s, const float *logits,
                      uint32_t position)
{
    const uint32_t n = x->n_vocab;
    const bool greedy = s->temperature == 0.0f;
    uint32_t k = greedy ? 1 : s->top_k == 0 || s->top_k > n ? n : s->top_k;
    select_best(logits, n, k, x->cand);
    if (x->cand[0].logit == -INFINITY)
        return -1;
    while (x->cand[k - 1].logit == -INFINITY)
        k--;
    if (greedy)
        return x->cand[0].id;
    double sum = weigh(x, k, 1.0);
    if (s->top_p < 1.0f)
        k = keep_share(x, k, sum, (double)s->top_p);
    while (k > 1 && x->weight[k - 1] < (double)s->min_p)
        k--;
    sum = weigh(x, k, (double)s->temperature);
    double goal = uniform(s->seed, position) * sum, reached = 0;
    for (uint32_t i = 0; i + 1 < k; i++) {
        reached += x->weight[i];
        if (reached > goal)
            return x->cand[i].id;
    }
    return x->cand[k - 1].id;
}

int32_t model_sample(struct model_sampler *x, const struct model_sampling *s, float *logits,
                     uint32_t position, const int32_t *recent, uint32_t n_recent)
{
    const uint32_t n = x->n_vocab;
    struct normaliser z = {0, 0};
    if (n == 0 || !all_finite(logits, n))
        return -1;
    if (s->logprobs != 0) {
        z = normaliser_of(logits, n);
        note_best(x, &z, logits, s->logprobs - 1);
    }
    adjust(x, s, logits, recent, n_recent);
    const int32_t id = choose(x, s, logits, position);
    if (s->logprobs != 0 && id >= 0)
        note_chosen(x, &z, logits, id);
    return id;
}

/* ---- summaries ------------------------------------------------------------------------------- */

void model_logits_summarise(const float *logits, uint32_t n_vocab, struct model_logits_summary *out)
{
    struct candidate best[MODEL_BEST];
    uint32_t k = n_vocab < MODEL_BEST ? n_vocab : MODEL_BEST;
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        sum += (double)logits[i];
        squares += (double)logits[i] * (double)logits[i];
    }
    out->mean = n_vocab > 0 ? sum / n_vocab : 0;
    out->rms = n_vocab > 0 ? sqrt(squares / n_vocab) : 0;
    if (k > 0)
        select_best(logits, n_vocab, k, best);
    for (uint32_t i = 0; i < MODEL_BEST; i++) {
        out->ids[i] = i < k ? best[i].id : -1;
        out->values[i] = i < k ? best[i].logit : 0.0f;
    }
}

double model_log_probability(const float *logits, uint32_t n_vocab, int32_t id)
{
    assert(id >= 0 && (uint32_t)id < n_vocab);
    const struct normaliser z = normaliser_of(logits, n_vocab);
    return (double)logits[id] - z.best - z.log_sum;
}
