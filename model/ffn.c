/* The feed-forward half of a layer, for the units of columns that a slice has: norm, gate and up,
 * SiLU or GELU, and the slice's share of ffn_down as fixed-point sums.
 *
 * The gate, up and product of a column stay with one thread, which therefore needs no barrier
 * between them; ffn_down then goes by output rows like attn_output. Where there are few rows, as in
 * decoding, a thread does whole units instead, as many as all threads can have alike: a unit's three
 * matrices lie one behind the other, and are read best in that order. Its share of ffn_down then goes
 * to sums of its own, which are integers, so that the order in which they come together is nobody's
 * business. The last unit of a model may be short: it has the columns that are left, padded to whole
 * groups of rows in scratch only. */
#include "model/model_private.h"

#include <assert.h>
#include <string.h>

struct ffn_job {
    struct model_exec *x;
    const struct model_layer *layer;
    uint32_t n;
    uint32_t whole; /* units before this one are done whole */
    int64_t *sum;   /* [n, n_embd] */
};

/* Columns [col0, col0 + n_cols) of unit u: gate, up and their product. */
static void gate_columns(const struct ffn_job *j, unsigned part, uint32_t u, uint32_t col0,
                         uint32_t n_cols)
{
    struct model_exec *x = j->x;
    const struct model_layer *l = j->layer;
    const struct model_act *wide = &x->wide;
    uint32_t unit_cols = x->model->shape.unit_cols;
    uint32_t group0 = col0 / KERN_GROUP, group1 = (col0 + n_cols + KERN_GROUP - 1) / KERN_GROUP;
    struct kern_act in = model_act_view(&x->normed);
    bool gelu = x->model->shape.gate == MODEL_GATE_GELU;
    float *gate = wide->f + (size_t)u * unit_cols;
    float *up = x->up + (size_t)part * MODEL_TILE_ROWS * unit_cols;
    model_product(x, part, &l->gate[u], group0, group1, &in, j->n, gate, wide->stride);
    model_product(x, part, &l->up[u], group0, group1, &in, j->n, up, unit_cols);
    for (uint32_t t = 0; t < j->n; t++) {
        float *row = gate + t * wide->stride + col0;
        (gelu ? x->kern->gelu_mul : x->kern->silu_mul)(row, up + (size_t)t * unit_cols + col0,
                                                       n_cols, row);
        if (l->down_integer && !model_act_quantise(x, wide, t, u * unit_cols + col0, n_cols))
            model_flags(x, part)[t] = 1;
    }
}

/* Whole units, to the thread's own sums. */
static void whole_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct ffn_job *j = arg;
    struct model_exec *x = j->x;
    const struct model_layer *l = j->layer;
    uint32_t n_embd = x->model->shape.n_embd, first, last;
    int64_t *sum = j->sum;
    if (part > 0) {
        sum = x->sums + (size_t)(part - 1) * MODEL_FEW_ROWS * n_embd;
        memset(sum, 0, (size_t)j->n * n_embd * sizeof *sum);
    }
    model_share(j->whole, part, n_parts, &first, &last);
    for (uint32_t u = first; u < last; u++) {
        gate_columns(j, part, u, 0, l->gate[u].n_rows);
        model_add_columns(x, part, &l->down[u], 0, (n_embd + KERN_GROUP - 1) / KERN_GROUP,
                          &x->wide, u * x->model->shape.unit_cols, j->n, sum);
    }
}

/* Threads share the other units' blocks of columns, which are what is quantised together. */
static void gate_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct ffn_job *j = arg;
    const struct model_exec *x = j->x;
    uint32_t unit_blocks = x->model->shape.unit_cols / KERN_BLOCK, first, last;
    model_share((x->n_ff - j->whole) * unit_blocks, part, n_parts, &first, &last);
    first += j->whole * unit_blocks;
    last += j->whole * unit_blocks;
    while (first < last) {
        uint32_t u = first / unit_blocks, col0 = first % unit_blocks * KERN_BLOCK;
        uint32_t n_cols = j->layer->gate[u].n_rows; /* of the whole unit; the last may be short */
        uint32_t blocks = unit_blocks - first % unit_blocks;
        if (blocks > last - first)
            blocks = last - first;
        n_cols = n_cols < col0 ? 0 : n_cols - col0;
        if (n_cols > blocks * KERN_BLOCK)
            n_cols = blocks * KERN_BLOCK;
        if (n_cols > 0)
            gate_columns(j, part, u, col0, n_cols);
        first += blocks;
    }
}

/* A tile of rows that stand in x->normed. */
static void ffn_tile(struct model_exec *x, uint32_t layer, uint32_t n, int64_t *sum, uint32_t *bad)
{
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    struct ffn_job j = {.x = x, .layer = l, .n = n, .sum = sum};
    const unsigned n_threads = x->config.n_threads;
    const size_t n_sums = (size_t)n * x->model->shape.n_embd;
    uint32_t mark = 1 + layer;
    if (n <= MODEL_FEW_ROWS && x->n_ff >= n_threads) {
        j.whole = x->n_ff - x->n_ff % n_threads;
        model_phase(x, whole_part, &j, n_threads);
        for (unsigned part = 1; part < n_threads; part++) {
            const int64_t *own =
                x->sums + (size_t)(part - 1) * MODEL_FEW_ROWS * x->model->shape.n_embd;
            for (size_t i = 0; i < n_sums; i++) /* those of bad rows may wrap around: they go */
                sum[i] = (int64_t)((uint64_t)sum[i] + (uint64_t)own[i]);
        }
    }
    if (j.whole < x->n_ff)
        model_phase(x, gate_part, &j, n_threads);
    model_settle(x, n, mark, NULL, bad);
    model_add_units(x, l->down, j.whole, x->n_ff, x->model->shape.unit_cols, &x->wide, n, mark, sum,
                    bad);
}

/* Rows from one of two places: hidden, or normed where that is not NULL. */
static void ffn(struct model_exec *x, uint32_t layer, uint32_t n, const float *hidden,
                const uint8_t *normed, int64_t *sum, uint32_t *bad)
{
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    size_t n_embd = x->model->shape.n_embd;
    size_t row_bytes = model_normed_bytes(x->model, MODEL_NORM_FFN, layer);
    assert(layer >= x->slice.layer0 && layer < x->slice.layer1 && n <= x->config.max_rows);
    kern_fp_init();
    for (uint32_t at = 0; at < n && x->n_ff > 0; at += MODEL_TILE_ROWS) {
        uint32_t n_tile = n - at < MODEL_TILE_ROWS ? n - at : MODEL_TILE_ROWS;
        if (normed != NULL)
            model_take_normed(x, MODEL_NORM_FFN, layer, n_tile, normed + at * row_bytes, bad + at);
        else
            model_norm_rows(x, l->ffn_norm, l->ffn_integer, hidden + at * n_embd, NULL, n_tile,
                            1 + layer, bad + at);
        ffn_tile(x, layer, n_tile, sum + at * n_embd, bad + at);
    }
}

void model_exec_ffn(struct model_exec *x, uint32_t layer, uint32_t n, const float *hidden,
                    int64_t *sum, uint32_t *bad)
{
    ffn(x, layer, n, hidden, NULL, sum, bad);
}

void model_exec_ffn_normed(struct model_exec *x, uint32_t layer, uint32_t n, const uint8_t *normed,
                           int64_t *sum, uint32_t *bad)
{
    ffn(x, layer, n, NULL, normed, sum, bad);
}

void model_exec_ffn_close(struct model_exec *x, uint32_t layer, uint32_t n, const int64_t *sum,
                          float *hidden, uint32_t *bad)
{
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    assert(layer >= x->slice.layer0 && layer < x->slice.layer1);
    kern_fp_init();
    model_close_rows(x, sum, l->down_bias, l->ffn_post_norm, n, 1 + layer, hidden, bad);
}
