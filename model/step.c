/* What the steps of the forward pass share: phases over the thread pool, normed rows, and sums by
 * units, with what closes them.
 *
 * A step is a few phases with a barrier after each. In a phase threads own rows, groups of output
 * rows, or (row, head unit) pairs, never columns of a sum, and write to places nobody else writes;
 * so the number of threads changes who computes a value and not how. A thread that finds a row out
 * of range raises a flag of its own; model_settle folds the flags in after the barrier.
 *
 * A row that is out of range becomes zeros and travels on as zeros, which keeps batches in shape
 * and costs the other rows nothing. */
#include "model/model_private.h"

#include <math.h>
#include <string.h>

bool model_f32_finite(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (bits & 0x7fffffff) < 0x7f800000;
}

void model_share(uint32_t n, unsigned part, unsigned n_parts, uint32_t *first, uint32_t *last)
{
    *first = (uint32_t)((uint64_t)n * part / n_parts);
    *last = (uint32_t)((uint64_t)n * (part + 1) / n_parts);
}

void model_phase(struct model_exec *x, model_phase_fn *fn, void *job, uint32_t n_items)
{
    if (n_items == 0)
        return;
    if (n_items == 1)
        fn(job, 0, 1);
    else
        kern_pool_run(x->pool, fn, job);
}

uint8_t *model_flags(struct model_exec *x, unsigned part)
{
    return x->flags + (size_t)part * MODEL_TILE_ROWS;
}

void model_settle(struct model_exec *x, uint32_t n, uint32_t mark, const uint32_t *pick,
                  uint32_t *bad)
{
    for (unsigned part = 0; part < x->config.n_threads; part++) {
        uint8_t *flags = model_flags(x, part);
        for (uint32_t t = 0; t < n; t++) {
            uint32_t *b = &bad[pick != NULL ? pick[t] : t];
            if (flags[t] != 0 && *b == 0)
                *b = mark;
        }
        memset(flags, 0, n);
    }
}

/* ---- activations ----------------------------------------------------------------------------- */

struct kern_act model_act_view(const struct model_act *a)
{
    return (struct kern_act){.f = a->f,
                             .q = a->q,
                             .a = a->a,
                             .s = a->s,
                             .h = a->h,
                             .f_stride = a->stride,
                             .q_stride = a->stride};
}

struct kern_act model_act_row(const struct model_act *a, uint32_t t)
{
    struct kern_act x = model_act_view(a);
    x.f += t * a->stride;
    if (x.q != NULL) {
        x.q += t * a->stride;
        x.a += t * a->stride / KERN_BLOCK;
        x.s += t * a->stride / KERN_BLOCK;
        x.h += t * a->stride / 16;
    }
    return x;
}

bool model_act_quantise(const struct model_exec *x, const struct model_act *a, uint32_t t,
                        uint32_t col, uint32_t n)
{
    size_t at = t * a->stride + col;
    return x->kern->quantise(a->f + at, n, a->q + at, a->a + at / KERN_BLOCK,
                             a->s + at / KERN_BLOCK, a->h + at / 16);
}

void model_act_clear(const struct model_act *a, uint32_t t, uint32_t col, uint32_t n)
{
    size_t at = t * a->stride + col;
    memset(a->f + at, 0, n * sizeof *a->f);
    if (a->q == NULL)
        return;
    memset(a->q + at, 0, n * sizeof *a->q);
    memset(a->a + at / KERN_BLOCK, 0, n / KERN_BLOCK * sizeof *a->a);
    memset(a->s + at / KERN_BLOCK, 0, n / KERN_BLOCK * sizeof *a->s);
    memset(a->h + at / 16, 0, n / 16 * sizeof *a->h);
}

/* ---- norm ------------------------------------------------------------------------------------ */

struct norm_job {
    struct model_exec *x;
    const float *weight; /* [n_embd] */
    const float *hidden; /* [rows, n_embd] */
    const uint32_t *pick;
    uint32_t *bad;
    uint32_t n, mark;
    bool integer;
};

static void norm_part(void *arg, unsigned part, unsigned n_parts)
{
    struct norm_job *j = arg;
    const struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    uint32_t first, last;
    model_share(j->n, part, n_parts, &first, &last);
    for (uint32_t t = first; t < last; t++) {
        uint32_t row = j->pick != NULL ? j->pick[t] : t;
        const float *from = j->hidden + (size_t)row * s->n_embd;
        float *to = x->normed.f + t * x->normed.stride;
        bool good = j->bad[row] == 0;
        if (good)
            good = x->kern->rms_norm(from, j->weight, s->n_embd, s->norm_eps, to) &&
                   (!j->integer || model_act_quantise(x, &x->normed, t, 0, s->n_embd));
        if (good)
            continue;
        model_act_clear(&x->normed, t, 0, s->n_embd);
        if (j->bad[row] == 0)
            j->bad[row] = j->mark;
    }
}

void model_norm_rows(struct model_exec *x, const float *weight, bool integer, const float *hidden,
                     const uint32_t *pick, uint32_t n, uint32_t mark, uint32_t *bad)
{
    struct norm_job j = {x, weight, hidden, pick, bad, n, mark, integer};
    model_phase(x, norm_part, &j, n);
}

/* ---- closing a half -------------------------------------------------------------------------- */

struct close_job {
    struct model_exec *x;
    const int64_t *sum;            /* [n, n_embd] */
    const float *bias, *post_norm; /* [n_embd] or NULL */
    float *hidden;                 /* [n, n_embd] */
    uint32_t *bad;
    uint32_t n, mark;
};

static void close_part(void *arg, unsigned part, unsigned n_parts)
{
    struct close_job *j = arg;
    const struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    float *closed = j->post_norm != NULL ? x->closed + (size_t)part * s->n_embd : NULL;
    uint32_t first, last;
    model_share(j->n, part, n_parts, &first, &last);
    for (uint32_t t = first; t < last; t++) {
        const int64_t *sum = j->sum + (size_t)t * s->n_embd;
        float *hidden = j->hidden + (size_t)t * s->n_embd;
        if (j->bad[t] != 0)
            continue;
        if (j->post_norm == NULL) {
            x->kern->unit_close(sum, s->n_embd, j->bias, hidden);
            continue;
        }
        memset(closed, 0, s->n_embd * sizeof *closed);
        x->kern->unit_close(sum, s->n_embd, j->bias, closed);
        if (!x->kern->rms_norm(closed, j->post_norm, s->n_embd, s->norm_eps, closed)) {
            j->bad[t] = j->mark;
            continue;
        }
        for (uint32_t i = 0; i < s->n_embd; i++)
            hidden[i] += closed[i];
    }
}

void model_close_rows(struct model_exec *x, const int64_t *sum, const float *bias,
                      const float *post_norm, uint32_t n, uint32_t mark, float *hidden,
                      uint32_t *bad)
{
    struct close_job j = {x, sum, bias, post_norm, hidden, bad, n, mark};
    model_phase(x, close_part, &j, n);
}

/* ---- products -------------------------------------------------------------------------------- */

static bool is_fast(const struct model_exec *x, const struct kern_matrix *w, uint32_t n)
{
    return x->config.fast && n >= KERN_FAST_ROWS && !kern_type_info(w->type)->integer;
}

void model_product(const struct model_exec *x, unsigned part, const struct kern_matrix *w,
                   uint32_t group0, uint32_t group1, const struct kern_act *in, uint32_t n, float *y,
                   size_t y_stride)
{
    if (is_fast(x, w, n))
        kern_fast_matmul(w, group0, group1, in, n, false, x->panel + (size_t)part * KERN_FAST_PANEL,
                         y, y_stride);
    else
        x->kern->matmul[w->type](w, group0, group1, in, n, y, y_stride);
}

/* ---- sums by units --------------------------------------------------------------------------- */

struct unit_job {
    struct model_exec *x;
    const struct kern_matrix *w; /* [n_units] of [n_embd, columns of the unit] */
    const struct model_act *act;
    int64_t *sum; /* [n, n_embd] */
    uint32_t unit0, n_units, unit_cols, n;
};

/* Units lie in pieces of their own, and a kernel reads ahead inside one matrix only: ask for the
 * beginning of the next while this one is computed. */
static void fetch_ahead(const struct kern_matrix *w, uint32_t group)
{
    enum { LINES = 32 };
    const uint8_t *p = w->data + group * w->group_bytes;
    for (size_t i = 0; i < LINES; i++)
        __builtin_prefetch(p + i * KERN_ALIGN);
}

/* numerics: fast. All units in one float sum, which then becomes fixed point at once. */
static void fast_units(struct unit_job *j, unsigned part, uint32_t group0, uint32_t group1)
{
    struct model_exec *x = j->x;
    uint32_t n_embd = x->model->shape.n_embd, row1 = group1 * KERN_GROUP;
    uint8_t *flags = model_flags(x, part);
    for (uint32_t u = j->unit0; u < j->n_units; u++) {
        struct kern_act in = kern_act_columns(model_act_view(j->act), u * j->unit_cols);
        kern_fast_matmul(&j->w[u], group0, group1, &in, j->n, u > j->unit0,
                         x->panel + (size_t)part * KERN_FAST_PANEL, x->unit, x->unit_stride);
    }
    for (uint32_t t = 0; t < j->n; t++) {
        const float *from = x->unit + t * x->unit_stride;
        for (uint32_t i = group0 * KERN_GROUP; i < row1 && i < n_embd; i++) {
            if (fabsf(from[i]) <= 0x1p21f)
                j->sum[(size_t)t * n_embd + i] += llrint((double)from[i] * 0x1p30);
            else
                flags[t] = 1;
        }
    }
}

/* Groups of output rows whose sums, of n rows of the batch, stay in the second-level cache while all
 * units are added to them. A single row takes all groups at once, and reads the weights in order. */
static uint32_t groups_at_once(uint32_t n)
{
    enum { SUMS_BYTES = 128 << 10 };
    uint32_t groups = SUMS_BYTES / (uint32_t)(KERN_GROUP * sizeof(int64_t)) / n;
    return groups > 0 ? groups : 1;
}

void model_add_columns(struct model_exec *x, unsigned part, const struct kern_matrix *w,
                       uint32_t group0, uint32_t group1, const struct model_act *act, uint32_t col,
                       uint32_t n, int64_t *sum)
{
    struct kern_act in = kern_act_columns(model_act_view(act), col);
    x->kern->matmul_sum[w->type](w, group0, group1, &in, n, sum, x->model->shape.n_embd,
                                 model_flags(x, part));
}

/* A thread owns a range of output rows for all units, so that it alone adds to their sums. */
static void unit_part(void *arg, unsigned part, unsigned n_parts)
{
    struct unit_job *j = arg;
    struct model_exec *x = j->x;
    uint32_t n_embd = x->model->shape.n_embd, first, last, step = groups_at_once(j->n);
    model_share((n_embd + KERN_GROUP - 1) / KERN_GROUP, part, n_parts, &first, &last);
    if (first == last)
        return;
    if (is_fast(x, &j->w[j->unit0], j->n)) {
        fast_units(j, part, first, last);
        return;
    }
    for (uint32_t group0 = first; group0 < last; group0 += step) {
        uint32_t group1 = last - group0 < step ? last : group0 + step;
        for (uint32_t u = j->unit0; u < j->n_units; u++) {
            if (u + 1 < j->n_units)
                fetch_ahead(&j->w[u + 1], group0);
            model_add_columns(x, part, &j->w[u], group0, group1, j->act, u * j->unit_cols, j->n,
                              j->sum);
        }
    }
}

void model_add_units(struct model_exec *x, const struct kern_matrix *w, uint32_t unit0,
                     uint32_t n_units, uint32_t unit_cols, const struct model_act *act, uint32_t n,
                     uint32_t mark, int64_t *sum, uint32_t *bad)
{
    struct unit_job j = {x, w, act, sum, unit0, n_units, unit_cols, n};
    if (unit0 < n_units)
        model_phase(x, unit_part, &j, x->config.n_threads);
    model_settle(x, n, mark, NULL, bad);
    for (uint32_t t = 0; t < n; t++) {
        if (bad[t] != 0)
            memset(sum + (size_t)t * x->model->shape.n_embd, 0,
                   x->model->shape.n_embd * sizeof *sum);
    }
}
