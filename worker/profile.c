/* A worker measures itself: the real kernels on the real shapes, with made-up weights.
 *
 * A layer is timed by its halves, attention and feed-forward, since a team splits them one by one:
 * once with all heads and columns, and once with a quarter of them, which together give the part of
 * a half that a smaller share does not shrink (norms, closing the sums, the threads' meeting). Each
 * at three sizes of batch: one row; a row of each slot; a tile of one prompt.
 *
 * Layers whose pieces have the same sizes are of one kind; each kind is timed once. Where all
 * layers are of one kind, as in most files, as many of them as SPAN_BYTES hold are run in a row, so
 * that weights come from memory as they will in service and not from a cache that one layer fits.
 * Rows stand at half the context, because attention's share grows with the position.
 *
 * Each figure is the median of several runs after one that is not counted. Under a CPU quota the
 * threads run freely for the first part of each period and stand still for the rest. A run's seconds
 * then say most of all where in a period it began, and halves of a layer may keep step with the
 * periods for as long as one measures. So there the processor time of a run is taken, which knows no
 * periods, and divided by the quota's cores: what a stage that always computes gets. `throttle` is
 * what the quota leaves, for those who know how much a worker idles. What other programs take of the
 * machine is in the figures only where no quota binds.
 *
 * The weights' bytes are FILL: as F16 0.26, as F32 and BF16 1.7e-7, as int8 52, so that no value
 * overflows a unit sum or becomes denormal, either of which would time something else. Frequency
 * factors are ones, since the executor refuses such as would make nonsense of an angle. KV rows
 * before the timed one are the system's zero page: attention over a long context comes out a little
 * fast. */
#include "worker/engine.h"
#include "worker/resources.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    FILL = 0x34,
    SPAN_BYTES = 64 << 20,
    BLOCK_BYTES = 8 << 20,
    RUNS_MIN = 5,
    RUNS_MAX = 400,
    SHARE = 4 /* the smaller share is one part in so many */
};
static const double FIGURE_S = 0.1; /* time spent on one, where RUNS_MIN do not take longer */

struct bench {
    const struct model *m;
    const struct model_exec_config *c;
    double quota_cores; /* 0: no quota that binds the threads */
    double window;      /* a figure takes so many seconds, */
    int runs_min;       /* and at least so many runs */
    struct model_exec *exec;
    struct model_sampler *sampler;
    uint32_t layer0, layer1;
    struct model_row rows[MODEL_ROWS_MAX];
    float *hidden, *logits;
    int64_t *sum;
    uint32_t bad[MODEL_ROWS_MAX];
    uint8_t *code; /* [model_sums_bytes_max] */
    size_t coded;
    double lap[2]; /* seconds of the run at hand: of the two halves, or of all in the first */
    void **pieces; /* [model_n_pieces] made-up content, NULL where not needed yet */
    struct base_arena **blocks; /* [model_n_pieces at most] where it lies, in pages as the store's */
    uint32_t n_blocks;
};

static double now_s(const struct bench *b)
{
    struct timespec t;
    if (b->quota_cores <= 0)
        return base_clock_s();
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return ((double)t.tv_sec + (double)t.tv_nsec * 1e-9) / b->quota_cores;
}

static void fill(void *to, struct model_piece p, size_t bytes)
{
    const float one = 1.0f;
    memset(to, FILL, bytes);
    for (size_t i = 0; p.kind == MODEL_PIECE_GLOBAL && i + sizeof one <= bytes; i += sizeof one)
        memcpy((uint8_t *)to + i, &one, sizeof one);
}

/* In the last block, or in a new one. */
static void *take(struct bench *b, size_t bytes)
{
    const size_t block = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
    void *at = b->n_blocks > 0 ? base_arena_take(b->blocks[b->n_blocks - 1], bytes) : NULL;
    if (at != NULL)
        return at;
    struct base_arena *a = base_arena_new(block);
    if (a == NULL)
        return NULL;
    if (!b->c->small_pages)
        base_arena_large_pages(a, 0, 1);
    b->blocks[b->n_blocks++] = a;
    return base_arena_take(a, bytes);
}

static const void *make_piece(void *arg, uint32_t number)
{
    struct bench *b = arg;
    const struct model_piece p = model_piece_at(b->m, number);
    const size_t bytes = model_piece_bytes(b->m, p);
    if (b->pieces[number] == NULL && (b->pieces[number] = take(b, bytes)) != NULL)
        fill(b->pieces[number], p, bytes);
    return b->pieces[number];
}

static void free_pieces(struct bench *b)
{
    for (uint32_t i = 0; i < model_n_pieces(b->m); i++)
        b->pieces[i] = NULL;
    while (b->n_blocks > 0)
        base_arena_free(b->blocks[--b->n_blocks]);
}

/* As model_exec_run does it, the halves timed one by one; all rows are one tile. */
static void run_layers(struct bench *b, uint32_t n)
{
    const size_t sum_bytes = (size_t)n * model_shape(b->m)->n_embd * sizeof *b->sum;
    memset(b->bad, 0, n * sizeof *b->bad);
    for (uint32_t layer = b->layer0; layer < b->layer1; layer++) {
        const double t = now_s(b);
        memset(b->sum, 0, sum_bytes);
        model_exec_attention(b->exec, layer, b->rows, n, b->hidden, b->sum, b->bad);
        model_exec_attention_close(b->exec, layer, n, b->sum, b->hidden, b->bad);
        const double middle = now_s(b);
        memset(b->sum, 0, sum_bytes);
        model_exec_ffn(b->exec, layer, n, b->hidden, b->sum, b->bad);
        model_exec_ffn_close(b->exec, layer, n, b->sum, b->hidden, b->bad);
        b->lap[0] += middle - t;
        b->lap[1] += now_s(b) - middle;
    }
}

static void run_embed(struct bench *b, uint32_t n)
{
    const double t = now_s(b);
    model_exec_embed(b->exec, b->rows, n, b->hidden, b->bad);
    b->lap[0] = now_s(b) - t;
}

static void run_logits(struct bench *b, uint32_t n)
{
    const double t = now_s(b);
    for (uint32_t i = 0; i < n; i += WORKER_LOGIT_ROWS) {
        const uint32_t k = n - i < WORKER_LOGIT_ROWS ? n - i : WORKER_LOGIT_ROWS;
        model_exec_logits(b->exec, b->rows + i, k,
                          b->hidden + (size_t)i * model_shape(b->m)->n_embd, b->logits, b->bad);
    }
    b->lap[0] = now_s(b) - t;
}

/* One token, from logits that no two of are alike. */
static void run_sample(struct bench *b, uint32_t n)
{
    const struct model_sampling how = model_sampling_default();
    uint64_t draw = 1;
    for (uint32_t i = 0; i < model_shape(b->m)->n_vocab; i++)
        b->logits[i] = (float)(base_rng_next(&draw) >> 40) / (float)(1 << 20);
    const double t = now_s(b);
    (void)model_sample(b->sampler, &how, b->logits, n, NULL, 0);
    b->lap[0] = now_s(b) - t;
}

/* Partial sums of one row as a team sends them: coded, and added by whoever gets them. */
static void run_codec(struct bench *b, uint32_t n)
{
    const uint32_t width = model_shape(b->m)->n_embd;
    for (uint32_t i = 0; i < width; i++)
        b->sum[i] = (int64_t)(i * 2654435761u % 1000003) << 14;
    b->bad[0] = 0;
    const double t = now_s(b);
    b->coded = model_sums_encode(b->sum, n, width, MODEL_WIRE_EXACT, b->bad, b->code);
    (void)model_sums_add((struct span){b->code, b->coded}, n, width, MODEL_WIRE_EXACT, 1, b->sum,
                         b->bad);
    b->lap[0] = now_s(b) - t;
}

/* The first half of one layer, begun when the threads have gone to sleep, as a team's member
 * does when the others' sums come; and the same without a pause. */
static void run_warm(struct bench *b, uint32_t n)
{
    b->layer1 = b->layer0 + 1;
    run_layers(b, n);
}

static void run_cold(struct bench *b, uint32_t n)
{
    const struct timespec pause = {.tv_nsec = 1500000};
    nanosleep(&pause, NULL);
    run_warm(b, n);
}

/* A row of each slot at half the context; or, of more rows than slots, a piece of one prompt. */
static void set_rows(struct bench *b, uint32_t n)
{
    const uint32_t width = model_shape(b->m)->n_embd, middle = b->c->context / 2;
    for (size_t i = 0; i < (size_t)n * width; i++)
        b->hidden[i] = (float)(i % 17) / 16.0f - 0.5f;
    for (uint32_t i = 0; i < n; i++)
        b->rows[i] = n <= b->c->n_slots
                         ? (struct model_row){i, middle, 0, true}
                         : (struct model_row){0, middle + i % (b->c->context - middle), 0, true};
}

/* Seconds of run(b, n), both laps: the median of some runs. */
static void measure(struct bench *b, void (*run)(struct bench *, uint32_t), uint32_t n,
                    double out[static 2])
{
    double s[2][RUNS_MAX], total = 0;
    int k = -1;
    while (k < RUNS_MAX && (k < b->runs_min || total < b->window)) {
        set_rows(b, n);
        b->lap[0] = b->lap[1] = 0;
        run(b, n);
        for (int i = 0; i < 2 && k >= 0; i++)
            total += s[i][k] = b->lap[i];
        k++;
    }
    for (int i = 0; i < 2; i++)
        out[i] = base_median(s[i], (size_t)k);
}

/* Time layers [a, z) with the first `heads` head units and `units` feed-forward units, without the
 * model's ends: seconds a layer, [batch][half]. */
static int time_layers(struct bench *b, uint32_t a, uint32_t z, uint32_t heads, uint32_t units,
                       const uint32_t *rows, double out[WORKER_BATCHES][2], struct err *e)
{
    const struct model_slice s = model_slice_part(a, z, 0, heads, 0, units, 0, 0, false, false);
    const int rc = model_exec_new(b->m, &s, b->c, make_piece, b, &b->exec, e);
    b->layer0 = a;
    b->layer1 = z;
    for (int i = 0; rc == 0 && i < WORKER_BATCHES; i++) {
        measure(b, run_layers, rows[i], out[i]);
        out[i][0] /= z - a;
        out[i][1] /= z - a;
    }
    return rc;
}

static void drop_exec(struct bench *b)
{
    model_exec_free(b->exec);
    b->exec = NULL;
}

/* Of `all` units `part` take t_part and all take t_all: what none would take. */
static double fixed_part(double t_all, double t_part, uint32_t all, uint32_t part)
{
    if (all <= part)
        return 0;
    return fmin(t_part, fmax(0, (t_part * all - t_all * part) / (all - part)));
}

static uint64_t layer_bytes(const struct bench *b, uint32_t layer)
{
    const struct model_shape *s = model_shape(b->m);
    const struct model_slice slice = model_slice_part(layer, layer + 1, 0, s->n_head_units, 0,
                                                      s->n_ff_units, 0, 0, false, false);
    return model_slice_memory(b->m, &slice, b->c).weight_bytes;
}

/* What a half takes longer when the threads slept before: then no quota is spent. */
static double wake_up(struct bench *b, double throttle)
{
    double warm[2], cold[2];
    measure(b, run_warm, 1, warm);
    measure(b, run_cold, 1, cold);
    return fmax(0, cold[0] - warm[0]) * throttle;
}

/* Layers [l, l + span) of one kind: all of each, then a share; for the latter as many more layers,
 * so that they, too, are no cache's. The first kind's fixed parts stand for all. */
static int time_kind(struct bench *b, struct worker_profile *out, uint32_t l, uint32_t span,
                     struct err *e)
{
    const struct model_shape *s = model_shape(b->m);
    const uint32_t heads = (s->n_head_units + SHARE - 1) / SHARE,
                   units = (s->n_ff_units + SHARE - 1) / SHARE,
                   more = span > 1 && span * SHARE < s->n_layers ? span * SHARE
                          : span > 1                             ? s->n_layers
                                                                 : 1;
    double all[WORKER_BATCHES][2], part[WORKER_BATCHES][2];
    int rc = time_layers(b, l, l + span, s->n_head_units, s->n_ff_units, out->rows, all, e);
    drop_exec(b);
    for (int i = 0; rc == 0 && i < WORKER_BATCHES; i++) {
        out->batches[i].attention[l] = all[i][0];
        out->batches[i].ffn[l] = all[i][1];
    }
    if (rc == 0 && l == 0 &&
        (rc = time_layers(b, 0, more, heads, units, out->rows, part, e)) == 0) {
        for (int i = 0; i < WORKER_BATCHES; i++) {
            out->batches[i].attention_fixed =
                fixed_part(all[i][0], part[i][0], s->n_head_units, heads);
            out->batches[i].ffn_fixed = fixed_part(all[i][1], part[i][1], s->n_ff_units, units);
        }
        out->wake = wake_up(b, out->throttle);
    }
    drop_exec(b);
    free_pieces(b);
    return rc;
}

static int time_kinds(struct bench *b, struct worker_profile *out, struct err *e)
{
    const uint32_t n = model_shape(b->m)->n_layers;
    bool alike = true;
    int rc = 0;
    for (uint32_t l = 1; l < n; l++)
        alike = alike && layer_bytes(b, l) == layer_bytes(b, 0);
    for (uint32_t l = 0; l < n && rc == 0; l++) {
        uint32_t same = 0;
        while (same < l && layer_bytes(b, same) != layer_bytes(b, l))
            same++;
        for (int i = 0; same < l && i < WORKER_BATCHES; i++) {
            out->batches[i].attention[l] = out->batches[i].attention[same];
            out->batches[i].ffn[l] = out->batches[i].ffn[same];
        }
        const uint64_t fit = SPAN_BYTES / layer_bytes(b, l);
        const uint32_t span = !alike || fit < 1 ? 1 : fit > n ? n : (uint32_t)fit;
        if (same == l)
            rc = time_kind(b, out, l, span, e);
    }
    return rc;
}

/* Embedding, output matrix and sampler. Logits of a whole tile are never wanted: a larger batch's
 * are on the line through the two smaller ones. */
static int time_ends(struct bench *b, struct worker_profile *out, struct err *e)
{
    const struct model_slice s =
        model_slice_part(0, 0, 0, 0, 0, 0, 0, model_shape(b->m)->n_vocab_runs, true, true);
    double t[2];
    const int rc = model_exec_new(b->m, &s, b->c, make_piece, b, &b->exec, e);
    for (int i = 0; rc == 0 && i < WORKER_BATCHES; i++) {
        measure(b, run_embed, out->rows[i], t);
        out->batches[i].embed = t[0];
        if (i < 2) {
            measure(b, run_logits, out->rows[i], t);
            out->batches[i].output = t[0];
        } else {
            const double one = out->batches[0].output, many = out->batches[1].output;
            out->batches[i].output = many + fmax(0, many - one) * (out->rows[i] - out->rows[1]) /
                                                (out->rows[1] - out->rows[0]);
        }
    }
    if (rc == 0) {
        measure(b, run_sample, 1, t);
        out->sample = t[0];
        measure(b, run_codec, 1, t);
        out->codec = t[0] * (b->quota_cores > 0 ? b->quota_cores : 1) / (2 * (double)b->coded);
    }
    drop_exec(b);
    free_pieces(b);
    return rc;
}

static void bench_free(struct bench *b)
{
    if (b->pieces != NULL)
        free_pieces(b);
    model_sampler_free(b->sampler);
    base_free(b->pieces);
    base_free(b->blocks);
    base_free(b->logits);
    base_free(b->hidden);
    base_free(b->sum);
    base_free(b->code);
    base_free(b);
}

int worker_profile_run(const struct model *m, const struct model_exec_config *c, const char *root,
                       struct worker_profile *out, struct err *e)
{
    struct bench *b = base_zalloc(1, sizeof *b);
    int rc = err_set(e, ERR_NOMEM, "out of memory for profiling");
    if (b == NULL)
        return rc;
    b->m = m;
    b->c = c;
    const struct worker_quota quota = worker_cpu_quota(root);
    out->throttle = quota.period_s > 0 ? fmin(1, quota.cores / c->n_threads) : 1;
    b->quota_cores = out->throttle < 1 ? quota.cores : 0;
    b->window = out->figure_ms > 0     ? out->figure_ms * 1e-3
                : b->quota_cores > 0 ? FIGURE_S / b->quota_cores
                                     : FIGURE_S;
    b->runs_min = out->figure_ms > 0 ? 1 : RUNS_MIN;
    b->hidden = base_zalloc((size_t)c->max_rows * model_shape(m)->n_embd, sizeof(float));
    b->sum = base_zalloc((size_t)c->max_rows * model_shape(m)->n_embd, sizeof *b->sum);
    b->code = base_zalloc(model_sums_bytes_max(1, model_shape(m)->n_embd, MODEL_WIRE_EXACT), 1);
    b->logits = base_zalloc((size_t)WORKER_LOGIT_ROWS * model_shape(m)->n_vocab, sizeof(float));
    b->pieces = base_zalloc(model_n_pieces(m), sizeof *b->pieces);
    b->blocks = base_zalloc(model_n_pieces(m), sizeof *b->blocks);
    b->sampler = model_sampler_new(model_shape(m)->n_vocab);
    if (b->hidden != NULL && b->sum != NULL && b->code != NULL && b->logits != NULL &&
        b->pieces != NULL && b->blocks != NULL && b->sampler != NULL &&
        (rc = time_kinds(b, out, e)) == 0)
        rc = time_ends(b, out, e);
    bench_free(b);
    return rc == ERR_NOTFOUND
               ? err_set(e, ERR_NOMEM, "out of memory for profiling: a layer's weights do not fit")
               : rc;
}
