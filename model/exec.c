/* The executor: a slice with its weights bound, its KV cache mapped and its scratch carved, and the
 * whole pass as a composition of the steps in attention.c, ffn.c and output.c.
 *
 * Weights stay where the piece source has them. KV memory is one mapping per layer and KV head,
 * untouched pages of which cost nothing, so that a head that leaves gives its memory back to the
 * system. Scratch is laid out in model/layout.c.
 *
 * The invariant: after model_exec_new nothing is allocated; model_exec_run forbids it. Rows go
 * through the layers in tiles of MODEL_TILE_ROWS, which bounds the scratch whatever the batch; a
 * row's bits do not depend on its tile. */
#include "model/model_private.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

/* ---- building -------------------------------------------------------------------------------- */

static int check_config(const struct model *m, const struct model_exec_config *c, struct err *e)
{
    if (c->n_slots < 1 || c->n_slots > MODEL_SLOTS_MAX)
        return err_set(e, ERR_RANGE, "%u slots: 1 to %d are possible", c->n_slots, MODEL_SLOTS_MAX);
    if (c->context < 1 || c->context > MODEL_CONTEXT_MAX)
        return err_set(e, ERR_RANGE, "a context of %u tokens: 1 to %d are possible", c->context,
                       MODEL_CONTEXT_MAX);
    if (c->max_rows < 1 || c->max_rows > MODEL_ROWS_MAX)
        return err_set(e, ERR_RANGE, "%u rows a batch: 1 to %d are possible", c->max_rows,
                       MODEL_ROWS_MAX);
    if (c->n_threads < 1 || c->n_threads > MODEL_THREADS_MAX)
        return err_set(e, ERR_RANGE, "%u threads: 1 to %d are possible", c->n_threads,
                       MODEL_THREADS_MAX);
    assert((unsigned)c->kv < KERN_N_KV_TYPES && c->kernels != NULL);
    if (kern_kv_row_bytes(c->kv, m->shape.head_dim) == 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "heads of %u dimensions are not whole blocks of 32: a q8_0 KV cache cannot "
                       "hold them, f16 can",
                       m->shape.head_dim);
    return 0;
}

static int map_kv(struct model_exec *x, struct err *e)
{
    for (uint32_t i = 0; i < x->n_layers; i++) {
        for (uint32_t kv = 0; kv < x->heads.n_kv; kv++) {
            void *p = MAP_FAILED;
            if (x->kv_map_bytes <= SIZE_MAX)
                p = mmap(NULL, (size_t)x->kv_map_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (p == MAP_FAILED)
                return err_set(e, ERR_NOMEM,
                               "no memory for %llu bytes of KV cache, %llu of them mapped",
                               (unsigned long long)(x->kv_map_bytes * x->heads.n_kv * x->n_layers),
                               (unsigned long long)(x->kv_map_bytes * (i * x->heads.n_kv + kv)));
            x->layers[i].kv_rows[kv] = p;
        }
    }
    return 0;
}

/* Where the steps look for a matrix of piece p. */
static struct kern_matrix *matrix_of(struct model_exec *x, struct model_layer *l,
                                     struct model_piece p, enum model_tensor_id id)
{
    switch (id) {
    case MODEL_TENSOR_EMBED:
        return &x->embed[p.index];
    case MODEL_TENSOR_OUTPUT:
        return &x->output[p.index - x->slice.run0];
    case MODEL_TENSOR_Q:
        return &l->q[x->heads.unit_at[p.index]];
    case MODEL_TENSOR_ATTN_OUT:
        return &l->out[x->heads.unit_at[p.index]];
    case MODEL_TENSOR_K:
        return &l->k[x->heads.kv_at[p.index]];
    case MODEL_TENSOR_V:
        return &l->v[x->heads.kv_at[p.index]];
    case MODEL_TENSOR_GATE:
        return &l->gate[p.index - x->slice.unit0];
    case MODEL_TENSOR_UP:
        return &l->up[p.index - x->slice.unit0];
    case MODEL_TENSOR_DOWN:
        return &l->down[p.index - x->slice.unit0];
    default:
        return NULL;
    }
}

/* The same for a vector. */
static const float **vector_of(struct model_exec *x, struct model_layer *l, struct model_piece p,
                               enum model_tensor_id id)
{
    switch (id) {
    case MODEL_TENSOR_OUTPUT_NORM:
        return &x->final_norm;
    case MODEL_TENSOR_ATTN_NORM:
        return &l->attn_norm;
    case MODEL_TENSOR_FFN_NORM:
        return &l->ffn_norm;
    case MODEL_TENSOR_ATTN_OUT_BIAS:
        return &l->out_bias;
    case MODEL_TENSOR_DOWN_BIAS:
        return &l->down_bias;
    case MODEL_TENSOR_Q_NORM:
        return &l->q_norm;
    case MODEL_TENSOR_K_NORM:
        return &l->k_norm;
    case MODEL_TENSOR_ATTN_POST_NORM:
        return &l->attn_post_norm;
    case MODEL_TENSOR_FFN_POST_NORM:
        return &l->ffn_post_norm;
    case MODEL_TENSOR_Q_BIAS:
        return &l->q_bias[x->heads.unit_at[p.index]];
    case MODEL_TENSOR_K_BIAS:
        return &l->k_bias[x->heads.kv_at[p.index]];
    case MODEL_TENSOR_V_BIAS:
        return &l->v_bias[x->heads.kv_at[p.index]];
    default:
        return NULL;
    }
}

static void bind_part(struct model_exec *x, struct model_piece p, const struct model_part *part,
                      const uint8_t *at)
{
    bool of_layer = part->id >= MODEL_TENSOR_FIRST_OF_LAYER;
    struct model_layer *l = of_layer ? &x->layers[p.layer - x->slice.layer0] : NULL;
    if (part->id == MODEL_TENSOR_ROPE_FACTORS) {
        memcpy(x->rope_factors, at, part->bytes);
    } else if (part->vector) {
        *vector_of(x, l, p, part->id) = (const float *)(const void *)at;
    } else {
        struct kern_matrix *w = matrix_of(x, l, p, part->id);
        kern_matrix_bind(w, part->tensor->type, part->n_rows, part->n_cols, part->skip, at);
        w->small_pages = x->config.small_pages;
    }
}

static int bind_pieces(struct model_exec *x, model_piece_source *source, void *arg, struct err *e)
{
    static const char *const names[MODEL_N_PIECE_KINDS] = {
        "RoPE factors",      "norms",     "attention heads", "KV head",
        "feed-forward unit", "embedding", "output",          "final norm"};
    const struct model *m = x->model;
    uint32_t n = model_slice_pieces(m, &x->slice, NULL, 0);
    uint32_t *numbers = base_zalloc(n, sizeof *numbers);
    if (numbers == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for a list of %u pieces", n);
    model_slice_pieces(m, &x->slice, numbers, n);
    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        struct model_piece p = model_piece_at(m, numbers[i]);
        struct model_part parts[MODEL_PARTS_MAX];
        unsigned n_parts = model_piece_parts(m, p, parts);
        const uint8_t *bytes = source(arg, numbers[i]);
        if (bytes == NULL)
            rc = err_set(e, ERR_NOTFOUND, "piece %u (%s %u of layer %u) is missing", numbers[i],
                         names[p.kind], p.index, p.layer);
        assert((uintptr_t)bytes % KERN_ALIGN == 0);
        for (unsigned k = 0; k < n_parts && rc == 0; k++)
            bind_part(x, p, &parts[k], bytes + parts[k].offset);
    }
    base_free(numbers);
    return rc;
}

/* Fold the model's scale into the frequency factors, and refuse what would turn an angle into
 * nonsense: positions stay below 2^20 and angles must stay below 2^31. */
static int finish_rope(struct model_exec *x, struct err *e)
{
    const struct model_shape *s = &x->model->shape;
    for (uint32_t i = 0; x->rope_factors != NULL && i < s->rope_dims / 2; i++) {
        float f = (s->rope_factors ? x->rope_factors[i] : 1.0f) * x->model->rope_scale;
        if (!model_f32_finite(f) || f < 1.0f / 1024)
            return err_set(e, ERR_RANGE, "RoPE frequency factor %u is %g", i, (double)f);
        x->rope_factors[i] = f;
    }
    for (uint32_t t = 0; x->rope_position != NULL && t < MODEL_TILE_ROWS; t++)
        x->rope_position[t] = UINT32_MAX;
    return 0;
}

static void set_forms(struct model_exec *x)
{
    const struct model *m = x->model;
    for (uint32_t i = 0; i < x->n_layers; i++) {
        struct model_layer *l = &x->layers[i];
        uint32_t layer = x->slice.layer0 + i;
        l->qkv_integer = model_norm_forms(m, MODEL_NORM_ATTENTION, layer).some;
        l->out_integer = model_tensor_integer(m, layer, MODEL_TENSOR_ATTN_OUT);
        l->ffn_integer = model_norm_forms(m, MODEL_NORM_FFN, layer).some;
        l->down_integer = model_tensor_integer(m, layer, MODEL_TENSOR_DOWN);
    }
}

int model_exec_new(const struct model *m, const struct model_slice *s,
                   const struct model_exec_config *c, model_piece_source *source, void *arg,
                   struct model_exec **out, struct err *e)
{
    int rc = check_config(m, c, e);
    if (rc == 0)
        rc = model_slice_check(m, s, e);
    if (rc != 0)
        return rc;
    struct model_exec *x = base_alloc(sizeof *x);
    if (x == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    model_exec_measure(x, m, s, c);
    struct model_carver carver = {NULL, 0};
    model_exec_carve_all(x, &carver);
    model_exec_measure(x, m, s, c);
    if (carver.bytes <= SIZE_MAX)
        carver.arena = base_arena_new((size_t)carver.bytes);
    x->arena = carver.arena;
    x->pool = kern_pool_new(c->n_threads);
    if (x->arena == NULL || x->pool == NULL) {
        rc = err_set(e, ERR_NOMEM, "no memory for %llu bytes of scratch and %u threads",
                     (unsigned long long)carver.bytes, c->n_threads);
        goto fail;
    }
    model_exec_carve_all(x, &carver);
    base_arena_seal(x->arena);
    set_forms(x);
    rc = map_kv(x, e);
    if (rc == 0)
        rc = bind_pieces(x, source, arg, e);
    if (rc == 0)
        rc = finish_rope(x, e);
    if (rc != 0)
        goto fail;
    *out = x;
    return 0;
fail:
    model_exec_free(x);
    return rc;
}

void model_exec_free(struct model_exec *x)
{
    if (x == NULL)
        return;
    for (uint32_t i = 0; x->layers != NULL && i < x->n_layers; i++) {
        for (uint32_t kv = 0; kv < x->heads.n_kv; kv++) {
            if (x->layers[i].kv_rows[kv] != NULL)
                munmap(x->layers[i].kv_rows[kv], (size_t)x->kv_map_bytes);
        }
    }
    kern_pool_free(x->pool);
    base_arena_free(x->arena);
    base_free(x);
}

/* ---- a whole pass ---------------------------------------------------------------------------- */

/* Rows that went out of range go on as zeros. */
static void bury(const struct model_exec *x, uint32_t n, const uint32_t *bad, float *hidden)
{
    uint32_t n_embd = x->model->shape.n_embd;
    for (uint32_t t = 0; t < n; t++) {
        if (bad[t] != 0)
            memset(hidden + (size_t)t * n_embd, 0, n_embd * sizeof *hidden);
    }
}

static void run_layer(struct model_exec *x, uint32_t layer, const struct model_row *rows,
                      uint32_t n, float *hidden, uint32_t *bad)
{
    size_t sum_bytes = (size_t)n * x->model->shape.n_embd * sizeof *x->sum;
    memset(x->sum, 0, sum_bytes);
    model_exec_attention(x, layer, rows, n, hidden, x->sum, bad);
    model_exec_attention_close(x, layer, n, x->sum, hidden, bad);
    bury(x, n, bad, hidden);
    memset(x->sum, 0, sum_bytes);
    model_exec_ffn(x, layer, n, hidden, x->sum, bad);
    model_exec_ffn_close(x, layer, n, x->sum, hidden, bad);
    bury(x, n, bad, hidden);
}

void model_exec_run(struct model_exec *x, const struct model_row *rows, uint32_t n, float *hidden,
                    float *logits, uint32_t *bad)
{
    size_t n_embd = x->model->shape.n_embd;
    assert(n <= x->config.max_rows);
    base_guard_begin("a forward pass");
    memset(bad, 0, n * sizeof *bad);
    if (x->slice.embed)
        model_exec_embed(x, rows, n, hidden, bad);
    for (uint32_t layer = x->slice.layer0; layer < x->slice.layer1; layer++) {
        for (uint32_t at = 0; at < n; at += MODEL_TILE_ROWS) {
            uint32_t n_tile = n - at < MODEL_TILE_ROWS ? n - at : MODEL_TILE_ROWS;
            run_layer(x, layer, rows + at, n_tile, hidden + at * n_embd, bad + at);
        }
    }
    if (x->slice.output && x->slice.layer1 == x->model->shape.n_layers) {
        model_exec_logits(x, rows, n, hidden, logits, bad);
        bury(x, n, bad, hidden);
    }
    base_guard_end();
}
