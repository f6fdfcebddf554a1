/* The layout of an executor: what a slice takes in weights, KV cache and scratch, to the byte.
 *
 * Sizes follow from model, slice and configuration alone. One function lays the scratch out; it is
 * run first to count and then to take, so that model_slice_memory, which the planner charges by,
 * and the arena, which is sealed full, cannot disagree. Tiles of MODEL_TILE_ROWS rows bound the
 * scratch whatever the batch.
 *
 * KV mappings are counted in multiples of MODEL_KV_MAP_BYTES; a system with larger pages rounds
 * each up a little further. Threads' stacks and the executor's own handle are not counted. */
#include "model/model_private.h"

#include <string.h>

static void *carve(struct model_carver *c, size_t n, size_t each)
{
    size_t bytes = base_round_up(n * each, KERN_ALIGN);
    c->bytes += bytes;
    if (c->arena == NULL || bytes == 0)
        return NULL;
    return base_arena_take(c->arena, bytes);
}

bool model_tensor_integer(const struct model *m, uint32_t layer, enum model_tensor_id id)
{
    return kern_type_info(model_tensor(m, layer, id)->type)->integer;
}

struct model_forms model_norm_forms(const struct model *m, enum model_norm norm, uint32_t layer)
{
    static const struct {
        unsigned n;
        enum model_tensor_id readers[3];
    } of[] = {
        [MODEL_NORM_ATTENTION] = {3, {MODEL_TENSOR_Q, MODEL_TENSOR_K, MODEL_TENSOR_V}},
        [MODEL_NORM_FFN] = {2, {MODEL_TENSOR_GATE, MODEL_TENSOR_UP}},
        [MODEL_NORM_OUTPUT] = {1, {MODEL_TENSOR_OUTPUT}},
    };
    struct model_forms f = {false, true};
    for (unsigned i = 0; i < of[norm].n; i++) {
        enum model_tensor_id id = of[norm].readers[i];
        if (id == MODEL_TENSOR_OUTPUT && m->shape.tied)
            id = MODEL_TENSOR_EMBED;
        bool integer = model_tensor_integer(m, layer, id);
        f.some = f.some || integer;
        f.all = f.all && integer;
    }
    return f;
}

static void carve_act(struct model_carver *c, struct model_act *a, size_t cols, bool integer)
{
    a->stride = base_round_up(cols, KERN_BLOCK);
    a->f = carve(c, MODEL_TILE_ROWS * a->stride, sizeof *a->f);
    if (!integer)
        return;
    a->q = carve(c, MODEL_TILE_ROWS * a->stride, sizeof *a->q);
    a->a = carve(c, MODEL_TILE_ROWS * a->stride / KERN_BLOCK, sizeof *a->a);
    a->s = carve(c, MODEL_TILE_ROWS * a->stride / KERN_BLOCK, sizeof *a->s);
    a->h = carve(c, MODEL_TILE_ROWS * a->stride / 16, sizeof *a->h);
}

static void carve_layer(struct model_exec *x, struct model_carver *c, struct model_layer *l)
{
    l->q = carve(c, x->heads.n_units, sizeof *l->q);
    l->out = carve(c, x->heads.n_units, sizeof *l->out);
    l->q_bias = carve(c, x->heads.n_units, sizeof *l->q_bias);
    l->k = carve(c, x->heads.n_kv, sizeof *l->k);
    l->v = carve(c, x->heads.n_kv, sizeof *l->v);
    l->k_bias = carve(c, x->heads.n_kv, sizeof *l->k_bias);
    l->v_bias = carve(c, x->heads.n_kv, sizeof *l->v_bias);
    l->kv_rows = carve(c, x->heads.n_kv, sizeof *l->kv_rows);
    l->gate = carve(c, x->n_ff, sizeof *l->gate);
    l->up = carve(c, x->n_ff, sizeof *l->up);
    l->down = carve(c, x->n_ff, sizeof *l->down);
}

/* Whether rows come here that the final norm has gone over. */
static bool has_ends(const struct model_exec *x)
{
    return x->slice.output || x->slice.run0 < x->slice.run1;
}

/* Which forms of activations the slice's layers need, over all of them. */
struct forms {
    bool normed, mixed, wide;
};

static struct forms forms_of(const struct model_exec *x)
{
    const struct model *m = x->model;
    struct forms f = {false, false, false};
    for (uint32_t layer = x->slice.layer0; layer < x->slice.layer1; layer++) {
        f.normed = f.normed || model_norm_forms(m, MODEL_NORM_ATTENTION, layer).some ||
                   model_norm_forms(m, MODEL_NORM_FFN, layer).some;
        f.mixed = f.mixed || model_tensor_integer(m, layer, MODEL_TENSOR_ATTN_OUT);
        f.wide = f.wide || model_tensor_integer(m, layer, MODEL_TENSOR_DOWN);
    }
    if (has_ends(x))
        f.normed = f.normed || model_norm_forms(m, MODEL_NORM_OUTPUT, 0).some;
    return f;
}

void model_exec_carve_all(struct model_exec *x, struct model_carver *c)
{
    const struct model_shape *s = &x->model->shape;
    struct forms forms = forms_of(x);
    size_t tile = MODEL_TILE_ROWS, threads = x->config.n_threads;
    struct model_layer none = {0};
    x->layers = carve(c, x->n_layers, sizeof *x->layers);
    for (uint32_t i = 0; i < x->n_layers; i++)
        carve_layer(x, c, x->layers != NULL ? &x->layers[i] : &none);
    x->embed = carve(c, x->slice.embed ? s->n_vocab_runs : 0, sizeof *x->embed);
    x->output = carve(c, x->slice.run1 - x->slice.run0, sizeof *x->output);
    bool factors = x->heads.n_units > 0 && (s->rope_factors || x->model->rope_scale != 1.0f);
    x->rope_factors = carve(c, factors ? s->rope_dims / 2 : 0, sizeof *x->rope_factors);

    carve_act(c, &x->normed, x->n_layers > 0 || has_ends(x) ? s->n_embd : 0, forms.normed);
    carve_act(c, &x->mixed, (size_t)x->heads.n_units * x->unit_width, forms.mixed);
    carve_act(c, &x->wide, (size_t)x->n_ff * s->unit_cols, forms.wide);
    x->q = carve(c, tile * x->heads.n_units * x->unit_width, sizeof *x->q);
    x->k = carve(c, tile * x->heads.n_kv * x->head_pad, sizeof *x->k);
    x->v = carve(c, tile * x->heads.n_kv * x->head_pad, sizeof *x->v);
    x->up = carve(c, x->n_ff > 0 ? threads * tile * s->unit_cols : 0, sizeof *x->up);
    x->rope = carve(c, x->heads.n_units > 0 ? tile * s->rope_dims : 0, sizeof *x->rope);
    x->rope_window = carve(c, x->heads.n_units > 0 && s->window != 0 ? tile * s->rope_dims : 0,
                           sizeof *x->rope_window);
    x->rope_position = carve(c, x->heads.n_units > 0 ? tile : 0, sizeof *x->rope_position);
    bool tail = x->slice.run0 < x->slice.run1 && x->slice.run1 == s->n_vocab_runs &&
                s->n_vocab % KERN_GROUP != 0;
    x->tail = carve(c, tail ? s->vocab_run : 0, sizeof *x->tail);
    bool post_norm =
        x->n_layers > 0 && (model_tensor(x->model, 0, MODEL_TENSOR_ATTN_POST_NORM)->file != NULL ||
                            model_tensor(x->model, 0, MODEL_TENSOR_FFN_POST_NORM)->file != NULL);
    x->closed = carve(c, post_norm ? threads * s->n_embd : 0, sizeof *x->closed);
    x->flags = carve(c, threads * tile, sizeof *x->flags);
    x->panel = carve(c, x->config.fast ? threads * KERN_FAST_PANEL : 0, sizeof *x->panel);
    x->unit_stride = base_round_up(s->n_embd, KERN_GROUP);
    x->unit = carve(c, x->config.fast && x->n_layers > 0 ? tile * x->unit_stride : 0,
                    sizeof *x->unit);
    x->sum = carve(c, x->n_layers > 0 ? tile * s->n_embd : 0, sizeof *x->sum);
    x->sums = carve(c, x->n_ff > 0 ? (threads - 1) * MODEL_FEW_ROWS * s->n_embd : 0,
                    sizeof *x->sums);
}

/* Everything about an executor that follows without allocating. */
void model_exec_measure(struct model_exec *x, const struct model *m, const struct model_slice *s,
                        const struct model_exec_config *c)
{
    const struct model_shape *shape = &m->shape;
    memset(x, 0, sizeof *x);
    x->model = m;
    x->slice = *s;
    x->config = *c;
    x->kern = c->kernels;
    model_slice_heads(m, s, &x->heads);
    x->n_layers = s->layer1 - s->layer0;
    x->n_ff = x->n_layers > 0 ? s->unit1 - s->unit0 : 0;
    x->unit_width = shape->unit_heads * shape->head_dim;
    x->head_pad = (uint32_t)base_round_up(shape->head_dim, KERN_GROUP);
    uint64_t rows = (uint64_t)c->n_slots * c->context;
    uint64_t bytes = rows * kern_kv_row_bytes(c->kv, shape->head_dim);
    x->kv_half_bytes = (bytes + KERN_ALIGN - 1) / KERN_ALIGN * KERN_ALIGN;
    x->kv_map_bytes =
        (2 * x->kv_half_bytes + MODEL_KV_MAP_BYTES - 1) / MODEL_KV_MAP_BYTES * MODEL_KV_MAP_BYTES;
}

static uint64_t kind_bytes(const struct model *m, enum model_piece_kind kind, uint32_t layer,
                           uint32_t first, uint32_t last)
{
    uint64_t bytes = 0;
    for (uint32_t i = first; i < last; i++)
        bytes += model_piece_bytes(m, (struct model_piece){kind, layer, i});
    return bytes;
}

/* A tied output matrix is the embedding's pieces over again: a store has them once. */
static uint64_t weight_bytes(const struct model_exec *x)
{
    const struct model *m = x->model;
    const struct model_shape *s = &m->shape;
    uint64_t bytes = 0;
    if (x->heads.n_units > 0)
        bytes += kind_bytes(m, MODEL_PIECE_GLOBAL, 0, 0, 1);
    if (x->slice.embed)
        bytes += kind_bytes(m, MODEL_PIECE_EMBED, 0, 0, s->n_vocab_runs);
    if (x->slice.output)
        bytes += kind_bytes(m, MODEL_PIECE_FINAL, 0, 0, 1);
    if (!(s->tied && x->slice.embed))
        bytes += kind_bytes(m, MODEL_PIECE_OUTPUT, 0, x->slice.run0, x->slice.run1);
    for (uint32_t layer = x->slice.layer0; layer < x->slice.layer1; layer++) {
        bytes += kind_bytes(m, MODEL_PIECE_COMMON, layer, 0, 1);
        bytes += x->heads.n_kv * kind_bytes(m, MODEL_PIECE_KV, layer, 0, 1);
        bytes += x->heads.n_units * kind_bytes(m, MODEL_PIECE_HEAD, layer, 0, 1);
        bytes += kind_bytes(m, MODEL_PIECE_FFN, layer, x->slice.unit0, x->slice.unit1);
    }
    return bytes;
}

struct model_memory model_slice_memory(const struct model *m, const struct model_slice *s,
                                       const struct model_exec_config *c)
{
    struct model_exec x;
    struct model_carver carver = {NULL, 0};
    model_exec_measure(&x, m, s, c);
    model_exec_carve_all(&x, &carver);
    return (struct model_memory){.weight_bytes = weight_bytes(&x),
                                 .kv_bytes = x.kv_map_bytes * x.heads.n_kv * x.n_layers,
                                 .scratch_bytes = carver.bytes};
}
