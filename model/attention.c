/* The attention half of a layer, for the head units that a slice has: norm, Q K V, rotation, KV
 * store, attention over the cache, and the slice's share of attn_output as fixed-point sums.
 *
 * Rows of one batch may belong to one slot: K and V of a whole tile are stored before any of its
 * rows attends, and a row reads positions [0, its own], so rows of a prompt chunk see each other in
 * order and later ones are never seen. Tiles go in the order of the batch, which ascends in each
 * slot. That makes a row's bits independent of the batch and of where a prompt was cut.
 *
 * A query head needs its KV head only; heads that the slice does not have cost nothing and leave
 * no trace in the sum. Query heads that share a KV head, and rows of one slot, go through the
 * kernel together. Norms of Q and K heads, windows and the rotation of layers that have one are
 * switches of the architecture, and local to a head; so no cut sees them. Left out: softcapping
 * (later architectures). */
#include "model/model_private.h"

#include <assert.h>
#include <string.h>

struct attention_job {
    struct model_exec *x;
    const struct model_layer *layer;
    const struct model_row *rows; /* [n] */
    const uint32_t *bad;          /* [n] */
    uint32_t n;
    uint32_t window;   /* positions that a row sees; UINT32_MAX: all */
    const float *rope; /* [n, rope_dims] this layer's rotations */
};

/* ---- Q, K and V ------------------------------------------------------------------------------ */

/* Compute groups [first, last) of an imaginary tall matrix made of n equal ones; y_step columns
 * of y belong to each. Returns the number of groups that lie in it, so that a caller can walk
 * several. */
static uint32_t project(const struct attention_job *j, unsigned part, const struct kern_matrix *w,
                        uint32_t n_matrices, uint32_t groups_each, uint32_t first, uint32_t last,
                        float *y, uint32_t y_step)
{
    struct kern_act in = model_act_view(&j->x->normed);
    uint32_t total = n_matrices * groups_each;
    if (last > total)
        last = total;
    while (first < last) {
        uint32_t i = first / groups_each, group0 = first % groups_each;
        uint32_t group1 = group0 + (last - first);
        if (group1 > groups_each)
            group1 = groups_each;
        model_product(j->x, part, &w[i], group0, group1, &in, j->n, y + (size_t)i * y_step,
                      (size_t)n_matrices * y_step);
        first += group1 - group0;
    }
    return total;
}

static uint32_t past(uint32_t at, uint32_t n)
{
    return at > n ? at - n : 0;
}

static void project_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct attention_job *j = arg;
    const struct model_exec *x = j->x;
    const struct model_layer *l = j->layer;
    uint32_t q_groups = x->unit_width / KERN_GROUP, kv_groups = x->head_pad / KERN_GROUP;
    uint32_t n_units = x->heads.n_units, n_kv = x->heads.n_kv;
    uint32_t first, last, n;
    model_share(n_units * q_groups + 2 * n_kv * kv_groups, part, n_parts, &first, &last);
    n = project(j, part, l->q, n_units, q_groups, first, last, x->q, x->unit_width);
    first = past(first, n);
    last = past(last, n);
    n = project(j, part, l->k, n_kv, kv_groups, first, last, x->k, x->head_pad);
    project(j, part, l->v, n_kv, kv_groups, past(first, n), past(last, n), x->v, x->head_pad);
}

/* ---- rotation and the cache ------------------------------------------------------------------ */

/* The rotation of each row, kept from layer to layer while the batch stays the same. */
static void prepare_rotations(struct model_exec *x, const struct model_row *rows, uint32_t n)
{
    const struct model_shape *s = &x->model->shape;
    for (uint32_t t = 0; t < n; t++) {
        if (x->rope_position[t] == rows[t].position)
            continue;
        kern_rope_table(rows[t].position, s->rope_dims, (double)s->rope_base, x->rope_factors,
                        x->rope + (size_t)t * s->rope_dims);
        if (x->rope_window != NULL)
            kern_rope_table(rows[t].position, s->rope_dims, (double)s->rope_base_window, NULL,
                            x->rope_window + (size_t)t * s->rope_dims);
        x->rope_position[t] = rows[t].position;
    }
}

/* The norm of one query or key head, where the model has one, and its rotation. False where the
 * norm's scale is not finite. */
static bool finish_head(const struct attention_job *j, uint32_t t, const float *norm, float *head)
{
    const struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    const float *cs = j->rope + (size_t)t * s->rope_dims;
    if (norm != NULL && !x->kern->rms_norm(head, norm, s->head_dim, s->norm_eps, head))
        return false;
    if (s->rope == MODEL_ROPE_NEOX)
        kern_rope_neox(head, s->rope_dims, cs);
    else
        kern_rope_norm(head, s->rope_dims, cs);
    return true;
}

static void add_bias(float *x, const float *bias, uint32_t n)
{
    for (uint32_t i = 0; bias != NULL && i < n; i++)
        x[i] += bias[i];
}

/* Where slot `slot`'s K rows of a KV head begin; V rows are kv_half_bytes further. */
static uint8_t *kv_of_slot(const struct model_exec *x, const struct model_layer *l, uint32_t kv,
                           uint32_t slot)
{
    size_t row_bytes = kern_kv_row_bytes(x->config.kv, x->model->shape.head_dim);
    return l->kv_rows[kv] + (size_t)slot * x->config.context * row_bytes;
}

static void store_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct attention_job *j = arg;
    struct model_exec *x = j->x;
    const struct model_layer *l = j->layer;
    uint32_t head_dim = x->model->shape.head_dim, n_kv = x->heads.n_kv, first, last;
    size_t row_bytes = kern_kv_row_bytes(x->config.kv, head_dim);
    size_t stride = (size_t)n_kv * x->head_pad;
    uint8_t *flags = model_flags(x, part);
    model_share(j->n * n_kv, part, n_parts, &first, &last);
    for (uint32_t i = first; i < last; i++) {
        uint32_t t = i / n_kv, kv = i % n_kv;
        float *k = x->k + t * stride + (size_t)kv * x->head_pad;
        float *v = x->v + t * stride + (size_t)kv * x->head_pad;
        uint8_t *k_row = kv_of_slot(x, l, kv, j->rows[t].slot) + j->rows[t].position * row_bytes;
        uint8_t *v_row = k_row + x->kv_half_bytes;
        add_bias(k, l->k_bias[kv], head_dim);
        add_bias(v, l->v_bias[kv], head_dim);
        if (j->bad[t] == 0 && finish_head(j, t, l->k_norm, k) &&
            x->kern->kv_store[x->config.kv](k, head_dim, k_row) &&
            x->kern->kv_store[x->config.kv](v, head_dim, v_row))
            continue;
        memset(k_row, 0, row_bytes);
        memset(v_row, 0, row_bytes);
        flags[t] = 1;
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Rows [row0, row0 + n_rows) of the tile, all of one slot, times units [unit0, unit1) of a run: what
 * one thread does at once. Their queries read the same KV rows, which a kernel then loads once. */
struct attend_item {
    uint32_t row0, n_rows, unit0, unit1;
};

/* The items of a tile: rows in blocks of one slot, and each run of units in `split` shares. */
struct attend_job {
    struct attention_job *all;
    uint32_t n_blocks, split;
    uint32_t block_at[MODEL_TILE_ROWS + 1]; /* first row of each block */
};

/* Bias, norm and rotation of a row's query heads in one unit. False where a query is out of
 * range: a score that is not a number must not pass for a small one. */
static bool prepare_unit(const struct attention_job *j, uint32_t t, uint32_t unit)
{
    const struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    float *q = x->q + ((size_t)t * x->heads.n_units + unit) * x->unit_width;
    add_bias(q, j->layer->q_bias[unit], x->unit_width);
    for (uint32_t i = 0; i < x->unit_width; i++) {
        if (!model_f32_finite(q[i]))
            return false;
    }
    for (uint32_t i = 0; i < s->unit_heads; i++) {
        if (!finish_head(j, t, j->layer->q_norm, q + (size_t)i * s->head_dim))
            return false;
    }
    return true;
}

static void attend_flush(const struct attention_job *j, uint32_t slot, uint32_t kv,
                         const struct kern_query *list, uint32_t n)
{
    const struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    const uint8_t *k = kv_of_slot(x, j->layer, x->heads.kv_at[kv], slot);
    if (n > 0)
        x->kern->attend[x->config.kv](list, n, k, k + x->kv_half_bytes, s->head_dim,
                                      s->attention_scale);
}

/* All queries of the item that read KV head `kv`. */
static void attend_kv(const struct attention_job *j, const struct attend_item *it, uint32_t kv,
                      const uint8_t *flags)
{
    const struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    uint32_t share = s->n_heads / s->n_kv_heads, n = 0, slot = j->rows[it->row0].slot;
    struct kern_query list[KERN_QUERIES_MAX];
    for (uint32_t t = it->row0; t < it->row0 + it->n_rows; t++) {
        if (j->bad[t] != 0 || flags[t] != 0)
            continue;
        for (uint32_t i = it->unit0 * s->unit_heads; i < it->unit1 * s->unit_heads; i++) {
            uint32_t unit = i / s->unit_heads, in_unit = i % s->unit_heads;
            if ((x->heads.unit_id[unit] * s->unit_heads + in_unit) / share != kv)
                continue;
            if (n == KERN_QUERIES_MAX) {
                attend_flush(j, slot, kv, list, n);
                n = 0;
            }
            size_t at = (size_t)i * s->head_dim;
            uint32_t n_pos = j->rows[t].position + 1;
            list[n++] = (struct kern_query){
                .q = x->q + (size_t)t * x->heads.n_units * x->unit_width + at,
                .out = x->mixed.f + t * x->mixed.stride + at,
                .first = n_pos > j->window ? n_pos - j->window : 0,
                .n_pos = n_pos,
            };
        }
    }
    attend_flush(j, slot, kv, list, n);
}

static void attend_item(const struct attention_job *j, const struct attend_item *it, uint8_t *flags)
{
    const struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    uint32_t share = s->n_heads / s->n_kv_heads;
    uint32_t first_kv = x->heads.unit_id[it->unit0] * s->unit_heads / share;
    uint32_t last_kv = ((x->heads.unit_id[it->unit1 - 1] + 1) * s->unit_heads - 1) / share;
    uint32_t col = it->unit0 * x->unit_width, n_cols = (it->unit1 - it->unit0) * x->unit_width;
    for (uint32_t t = it->row0; t < it->row0 + it->n_rows; t++) {
        for (uint32_t u = it->unit0; u < it->unit1 && j->bad[t] == 0; u++) {
            if (!prepare_unit(j, t, u))
                flags[t] = 1;
        }
    }
    for (uint32_t kv = first_kv; kv <= last_kv; kv++)
        attend_kv(j, it, kv, flags);
    for (uint32_t t = it->row0; t < it->row0 + it->n_rows; t++) {
        if (j->bad[t] == 0 && flags[t] == 0 &&
            (!j->layer->out_integer || model_act_quantise(x, &x->mixed, t, col, n_cols)))
            continue;
        model_act_clear(&x->mixed, t, col, n_cols);
        flags[t] = 1;
    }
}

static void attend_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct attend_job *a = arg;
    struct model_exec *x = a->all->x;
    const struct model_slice_heads *h = &x->heads;
    uint32_t first, last;
    model_share(a->n_blocks * h->n_runs * a->split, part, n_parts, &first, &last);
    for (uint32_t i = first; i < last; i++) {
        uint32_t block = i / (h->n_runs * a->split), run = i / a->split % h->n_runs;
        uint32_t n_units = h->run_at[run + 1] - h->run_at[run], unit0, unit1;
        model_share(n_units, i % a->split, a->split, &unit0, &unit1);
        struct attend_item it = {.row0 = a->block_at[block],
                                 .n_rows = a->block_at[block + 1] - a->block_at[block],
                                 .unit0 = h->run_at[run] + unit0,
                                 .unit1 = h->run_at[run] + unit1};
        if (unit0 < unit1)
            attend_item(a->all, &it, model_flags(x, part));
    }
}

/* Blocks of rows as large as one kernel call takes; and where that leaves threads without work (a
 * single row, few KV heads), the heads of a run are shared out too. */
static void attend_rows(struct attention_job *j)
{
    const struct model_exec *x = j->x;
    const struct model_slice_heads *h = &x->heads;
    struct attend_job a = {.all = j};
    uint32_t widest = 1, most;
    for (uint32_t i = 0; i < h->n_runs; i++) {
        if (h->run_at[i + 1] - h->run_at[i] > widest)
            widest = h->run_at[i + 1] - h->run_at[i];
    }
    most = KERN_QUERIES_MAX / (widest * x->model->shape.unit_heads);
    for (uint32_t t = 0; t < j->n; t++) {
        if (t == 0 || j->rows[t].slot != j->rows[t - 1].slot ||
            t - a.block_at[a.n_blocks - 1] >= most)
            a.block_at[a.n_blocks++] = t;
    }
    a.block_at[a.n_blocks] = j->n;
    uint32_t items = a.n_blocks * h->n_runs, threads = x->config.n_threads;
    a.split = items < threads ? (threads + items - 1) / items : 1;
    model_phase(j->x, attend_part, &a, items * a.split);
}

/* A tile of rows that stand in x->normed. */
static void attention_tile(struct model_exec *x, uint32_t layer, const struct model_row *rows,
                           uint32_t n, int64_t *sum, uint32_t *bad)
{
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    bool windowed = model_shape_windowed(&x->model->shape, layer);
    struct attention_job j = {.x = x,
                              .layer = l,
                              .rows = rows,
                              .bad = bad,
                              .n = n,
                              .window = windowed ? x->model->shape.window : UINT32_MAX,
                              .rope = windowed ? x->rope_window : x->rope};
    uint32_t mark = 1 + layer;
    prepare_rotations(x, rows, n);
    model_phase(x, project_part, &j, x->config.n_threads);
    model_phase(x, store_part, &j, n * x->heads.n_kv);
    model_settle(x, n, mark, NULL, bad);
    attend_rows(&j);
    model_settle(x, n, mark, NULL, bad);
    model_add_units(x, l->out, 0, x->heads.n_units, x->unit_width, &x->mixed, n, mark, sum, bad);
}

/* Rows from one of two places: hidden, or normed where that is not NULL. */
static void attention(struct model_exec *x, uint32_t layer, const struct model_row *rows,
                      uint32_t n, const float *hidden, const uint8_t *normed, int64_t *sum,
                      uint32_t *bad)
{
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    size_t n_embd = x->model->shape.n_embd;
    size_t row_bytes = model_normed_bytes(x->model, MODEL_NORM_ATTENTION, layer);
    assert(layer >= x->slice.layer0 && layer < x->slice.layer1 && n <= x->config.max_rows);
    for (uint32_t t = 0; t < n; t++)
        assert(rows[t].slot < x->config.n_slots && rows[t].position < x->config.context);
    kern_fp_init();
    for (uint32_t at = 0; at < n && x->heads.n_units > 0; at += MODEL_TILE_ROWS) {
        uint32_t n_tile = n - at < MODEL_TILE_ROWS ? n - at : MODEL_TILE_ROWS;
        if (normed != NULL)
            model_take_normed(x, MODEL_NORM_ATTENTION, layer, n_tile, normed + at * row_bytes,
                              bad + at);
        else
            model_norm_rows(x, l->attn_norm, l->qkv_integer, hidden + at * n_embd, NULL, n_tile,
                            1 + layer, bad + at);
        attention_tile(x, layer, rows + at, n_tile, sum + at * n_embd, bad + at);
    }
}

void model_exec_attention(struct model_exec *x, uint32_t layer, const struct model_row *rows,
                          uint32_t n, const float *hidden, int64_t *sum, uint32_t *bad)
{
    attention(x, layer, rows, n, hidden, NULL, sum, bad);
}

void model_exec_attention_normed(struct model_exec *x, uint32_t layer, const struct model_row *rows,
                                 uint32_t n, const uint8_t *normed, int64_t *sum, uint32_t *bad)
{
    attention(x, layer, rows, n, NULL, normed, sum, bad);
}

void model_exec_attention_close(struct model_exec *x, uint32_t layer, uint32_t n,
                                const int64_t *sum, float *hidden, uint32_t *bad)
{
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    assert(layer >= x->slice.layer0 && layer < x->slice.layer1);
    kern_fp_init();
    model_close_rows(x, sum, l->out_bias, l->attn_post_norm, n, 1 + layer, hidden, bad);
}
