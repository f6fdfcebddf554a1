/* Slices: which part of a model one worker computes, and what that part takes in pieces.
 *
 * A slice names layers, head units, feed-forward units and the model's ends; everything else follows. The KV heads
 * are derived from the query heads, because a KV head without a query head would be stored for
 * nobody. The list of pieces ascends, so two sides that agree on a slice agree on the list.
 *
 * Every layer of a slice brings its COMMON piece, even where the slice has no heads or columns:
 * whoever leads a team normalises and closes the sums. Memory is counted in model/exec.c, beside
 * the code that allocates it. */
#include "model/model_private.h"

static bool has_unit(const struct model_slice *s, uint32_t unit)
{
    return (s->head_units[unit / 64] >> (unit % 64) & 1) != 0;
}

struct model_slice model_slice_layers(const struct model *m, uint32_t layer0, uint32_t layer1)
{
    const struct model_shape *shape = &m->shape;
    const bool output = layer1 == shape->n_layers;
    return model_slice_part(layer0, layer1, 0, shape->n_head_units, 0, shape->n_ff_units, 0,
                            output ? shape->n_vocab_runs : 0, layer0 == 0, output);
}

struct model_slice model_slice_part(uint32_t layer0, uint32_t layer1, uint32_t head0,
                                    uint32_t head1, uint32_t unit0, uint32_t unit1, uint32_t run0,
                                    uint32_t run1, bool embed, bool output)
{
    struct model_slice s = {.layer0 = layer0,
                            .layer1 = layer1,
                            .unit0 = unit0,
                            .unit1 = unit1,
                            .run0 = run0,
                            .run1 = run1,
                            .embed = embed,
                            .output = output};
    for (uint32_t u = head0; u < head1 && u < MODEL_HEADS_MAX; u++)
        s.head_units[u / 64] |= (uint64_t)1 << (u % 64);
    return s;
}
int model_slice_check(const struct model *m, const struct model_slice *s, struct err *e)
{
    const struct model_shape *shape = &m->shape;
    if (s->layer0 > s->layer1 || s->layer1 > shape->n_layers)
        return err_set(e, ERR_RANGE, "layers %u to %u of a model that has %u", s->layer0, s->layer1,
                       shape->n_layers);
    if (s->unit0 > s->unit1 || s->unit1 > shape->n_ff_units)
        return err_set(e, ERR_RANGE, "feed-forward units %u to %u of a model that has %u", s->unit0,
                       s->unit1, shape->n_ff_units);
    if (s->run0 > s->run1 || s->run1 > shape->n_vocab_runs)
        return err_set(e, ERR_RANGE, "output runs %u to %u of a model that has %u", s->run0,
                       s->run1, shape->n_vocab_runs);
    for (uint32_t u = shape->n_head_units; u < MODEL_HEADS_MAX; u++) {
        if (has_unit(s, u))
            return err_set(e, ERR_RANGE, "head unit %u of a model that has %u", u,
                           shape->n_head_units);
    }
    if (s->layer0 == s->layer1 && s->run0 == s->run1 && !s->embed && !s->output)
        return err_set(e, ERR_RANGE, "the slice holds nothing");
    return 0;
}

void model_slice_heads(const struct model *m, const struct model_slice *s,
                       struct model_slice_heads *out)
{
    const struct model_shape *shape = &m->shape;
    uint32_t share = shape->n_heads / shape->n_kv_heads; /* query heads of one KV head */
    uint32_t kv_of_run = 0;
    *out = (struct model_slice_heads){0};
    for (uint32_t u = 0; u < shape->n_head_units && s->layer0 < s->layer1; u++) {
        if (!has_unit(s, u))
            continue;
        uint32_t kv_of_unit = u * shape->unit_heads / share;
        if (out->n_runs == 0 || kv_of_unit != kv_of_run)
            out->run_at[out->n_runs++] = out->n_units;
        kv_of_run = kv_of_unit;
        out->unit_at[u] = out->n_units;
        out->unit_id[out->n_units++] = u;
        for (uint32_t h = u * shape->unit_heads; h < (u + 1) * shape->unit_heads; h++) {
            uint32_t kv = h / share;
            if (out->n_kv > 0 && out->kv_id[out->n_kv - 1] == kv)
                continue; /* heads ascend, so KV heads do too and a repeated one is the last one */
            out->kv_at[kv] = out->n_kv;
            out->kv_id[out->n_kv++] = kv;
        }
    }
    out->run_at[out->n_runs] = out->n_units;
}

/* A list being filled up to its room and counted beyond it. */
struct list {
    const struct model *m;
    uint32_t *out;
    uint32_t n, max;
};

static void add(struct list *l, enum model_piece_kind kind, uint32_t layer, uint32_t index)
{
    if (l->out != NULL && l->n < l->max)
        l->out[l->n] = model_piece_number(l->m, (struct model_piece){kind, layer, index});
    l->n++;
}

uint32_t model_slice_pieces(const struct model *m, const struct model_slice *s, uint32_t *out,
                            uint32_t max)
{
    const struct model_shape *shape = &m->shape;
    struct model_slice_heads heads;
    struct list l = {m, out, 0, max};
    model_slice_heads(m, s, &heads);
    if (shape->rope_factors && heads.n_units > 0)
        add(&l, MODEL_PIECE_GLOBAL, 0, 0);
    for (uint32_t i = 0; s->embed && i < shape->n_vocab_runs; i++)
        add(&l, MODEL_PIECE_EMBED, 0, i);
    for (uint32_t layer = s->layer0; layer < s->layer1; layer++) {
        add(&l, MODEL_PIECE_COMMON, layer, 0);
        for (uint32_t i = 0; i < heads.n_kv; i++)
            add(&l, MODEL_PIECE_KV, layer, heads.kv_id[i]);
        for (uint32_t i = 0; i < heads.n_units; i++)
            add(&l, MODEL_PIECE_HEAD, layer, heads.unit_id[i]);
        for (uint32_t i = s->unit0; i < s->unit1; i++)
            add(&l, MODEL_PIECE_FFN, layer, i);
    }
    if (s->output)
        add(&l, MODEL_PIECE_FINAL, 0, 0);
    for (uint32_t i = s->run0; i < s->run1; i++)
        add(&l, MODEL_PIECE_OUTPUT, 0, i);
    return l.n;
}
