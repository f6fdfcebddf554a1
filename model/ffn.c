/* The feed-forward half of a layer, for the units of columns that a slice has: norm, gate and up,
 * SiLU or GELU, and the slice's share of ffn_down as fixed-point sums.
 *
 * A unit's gate, up and product stay with one thread, which therefore needs no barrier between
 * them; ffn_down then goes by output rows like attn_output. The last unit of a model may be
 * short: it has the columns that are left, padded to whole groups of rows in scratch only. */
#include "model/model_private.h"

#include <assert.h>

struct ffn_job {
    struct model_exec *x;
    const struct model_layer *layer;
    uint32_t n;
};

static void gate_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct ffn_job *j = arg;
    struct model_exec *x = j->x;
    const struct model_layer *l = j->layer;
    const struct model_act *wide = &x->wide;
    uint32_t unit_cols = x->model->shape.unit_cols, first, last;
    struct kern_act in = model_act_view(&x->normed);
    bool gelu = x->model->shape.gate == MODEL_GATE_GELU;
    float *up = x->up + (size_t)part * MODEL_TILE_ROWS * unit_cols;
    uint8_t *flags = model_flags(x, part);
    model_share(x->n_ff, part, n_parts, &first, &last);
    for (uint32_t u = first; u < last; u++) {
        const struct kern_matrix *wg = &l->gate[u], *wu = &l->up[u];
        uint32_t cols = wg->n_rows, groups = (cols + KERN_GROUP - 1) / KERN_GROUP;
        float *gate = wide->f + (size_t)u * unit_cols;
        x->kern->matmul[wg->type](wg, 0, groups, &in, j->n, gate, wide->stride);
        x->kern->matmul[wu->type](wu, 0, groups, &in, j->n, up, unit_cols);
        for (uint32_t t = 0; t < j->n; t++) {
            float *row = gate + t * wide->stride;
            (gelu ? x->kern->gelu_mul : x->kern->silu_mul)(row, up + (size_t)t * unit_cols, cols,
                                                           row);
            if (l->down_integer && !model_act_quantise(x, wide, t, u * unit_cols, cols))
                flags[t] = 1;
        }
    }
}

static void ffn_tile(struct model_exec *x, uint32_t layer, uint32_t n, const float *hidden,
                     int64_t *sum, uint32_t *bad)
{
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    struct ffn_job j = {x, l, n};
    uint32_t mark = 1 + layer;
    model_norm_rows(x, l->ffn_norm, l->ffn_integer, hidden, NULL, n, mark, bad);
    model_phase(x, gate_part, &j, x->n_ff);
    model_settle(x, n, mark, NULL, bad);
    model_add_units(x, l->down, x->n_ff, x->model->shape.unit_cols, &x->wide, n, mark, sum, bad);
}

void model_exec_ffn(struct model_exec *x, uint32_t layer, uint32_t n, const float *hidden,
                    int64_t *sum, uint32_t *bad)
{
    uint32_t n_embd = x->model->shape.n_embd;
    assert(layer >= x->slice.layer0 && layer < x->slice.layer1 && n <= x->config.max_rows);
    kern_fp_init();
    for (uint32_t at = 0; at < n && x->n_ff > 0; at += MODEL_TILE_ROWS) {
        uint32_t n_tile = n - at < MODEL_TILE_ROWS ? n - at : MODEL_TILE_ROWS;
        ffn_tile(x, layer, n_tile, hidden + (size_t)at * n_embd, sum + (size_t)at * n_embd,
                 bad + at);
    }
}

void model_exec_ffn_close(struct model_exec *x, uint32_t layer, uint32_t n, const int64_t *sum,
                          float *hidden, uint32_t *bad)
{
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    assert(layer >= x->slice.layer0 && layer < x->slice.layer1);
    kern_fp_init();
    model_close_rows(x, sum, l->down_bias, l->ffn_post_norm, n, 1 + layer, hidden, bad);
}
