/* Pieces: the smallest parts of a model that any cut moves, in the one packed layout that is
 * stored, shipped, hashed and computed on.
 *
 * What a piece is made of is a table: for each kind its tensors, and for each tensor how the
 * piece's index cuts it (a run of rows, a run of columns, or a vector whole or in part). Size,
 * packing and the executor's binding all walk the same list of parts, so they cannot disagree about
 * an offset.
 *
 * The invariant: a piece's bytes depend on the file alone. Every byte is written, padding included,
 * and a tied output piece has the bytes of the embedding piece, so that stores keep one copy.
 *
 * Pieces are numbered GLOBAL, EMBED runs, then for each layer COMMON, KV heads, HEAD units, FFN
 * units, then FINAL and OUTPUT runs. Left out: hashing and storing, which are not the model's
 * business. */
#include "model/model_private.h"

#include <assert.h>
#include <string.h>

/* How an index cuts a tensor. */
enum cut { CUT_NONE, CUT_ROWS, CUT_COLS, CUT_VECTOR };

struct part_row {
    uint8_t tensor, cut; /* enum model_tensor_id, enum cut */
};

static const struct {
    unsigned n;
    struct part_row parts[MODEL_PARTS_MAX];
} kinds[MODEL_N_PIECE_KINDS] = {
    [MODEL_PIECE_GLOBAL] = {1, {{MODEL_TENSOR_ROPE_FACTORS, CUT_NONE}}},
    [MODEL_PIECE_COMMON] = {8,
                            {{MODEL_TENSOR_ATTN_NORM, CUT_NONE},
                             {MODEL_TENSOR_FFN_NORM, CUT_NONE},
                             {MODEL_TENSOR_ATTN_OUT_BIAS, CUT_NONE},
                             {MODEL_TENSOR_DOWN_BIAS, CUT_NONE},
                             {MODEL_TENSOR_Q_NORM, CUT_NONE},
                             {MODEL_TENSOR_K_NORM, CUT_NONE},
                             {MODEL_TENSOR_ATTN_POST_NORM, CUT_NONE},
                             {MODEL_TENSOR_FFN_POST_NORM, CUT_NONE}}},
    [MODEL_PIECE_HEAD] = {3,
                          {{MODEL_TENSOR_Q, CUT_ROWS},
                           {MODEL_TENSOR_Q_BIAS, CUT_VECTOR},
                           {MODEL_TENSOR_ATTN_OUT, CUT_COLS}}},
    [MODEL_PIECE_KV] = {4,
                        {{MODEL_TENSOR_K, CUT_ROWS},
                         {MODEL_TENSOR_K_BIAS, CUT_VECTOR},
                         {MODEL_TENSOR_V, CUT_ROWS},
                         {MODEL_TENSOR_V_BIAS, CUT_VECTOR}}},
    [MODEL_PIECE_FFN] = {3,
                         {{MODEL_TENSOR_GATE, CUT_ROWS},
                          {MODEL_TENSOR_UP, CUT_ROWS},
                          {MODEL_TENSOR_DOWN, CUT_COLS}}},
    [MODEL_PIECE_EMBED] = {1, {{MODEL_TENSOR_EMBED, CUT_ROWS}}},
    [MODEL_PIECE_OUTPUT] = {1, {{MODEL_TENSOR_OUTPUT, CUT_ROWS}}},
    [MODEL_PIECE_FINAL] = {1, {{MODEL_TENSOR_OUTPUT_NORM, CUT_NONE}}},
};

/* [*first, *first + *n) is what index `index` of a kind takes of the extent that the kind cuts.
 * False where there is no such index. */
static bool piece_range(const struct model_shape *s, enum model_piece_kind kind, uint32_t index,
                        uint32_t *first, uint32_t *n)
{
    uint32_t each = 0, all = 0;
    switch (kind) {
    case MODEL_PIECE_HEAD:
        each = s->unit_heads * s->head_dim;
        all = s->n_heads * s->head_dim;
        break;
    case MODEL_PIECE_KV:
        each = s->head_dim;
        all = s->n_kv_heads * s->head_dim;
        break;
    case MODEL_PIECE_FFN:
        each = s->unit_cols;
        all = s->n_ff;
        break;
    case MODEL_PIECE_EMBED:
    case MODEL_PIECE_OUTPUT:
        each = s->vocab_run;
        all = s->n_vocab;
        break;
    case MODEL_PIECE_GLOBAL:
    case MODEL_PIECE_COMMON:
    case MODEL_PIECE_FINAL:
    case MODEL_N_PIECE_KINDS:
        break;
    }
    *first = 0;
    *n = 0;
    if (each == 0)
        return index == 0;
    if (index >= (all + each - 1) / each)
        return false;
    *first = index * each;
    *n = all - *first < each ? all - *first : each;
    return true;
}

static bool kind_in_layer(enum model_piece_kind kind)
{
    return kind == MODEL_PIECE_COMMON || kind == MODEL_PIECE_HEAD || kind == MODEL_PIECE_KV ||
           kind == MODEL_PIECE_FFN;
}

unsigned model_piece_parts(const struct model *m, struct model_piece p,
                           struct model_part parts[MODEL_PARTS_MAX])
{
    const struct model_shape *s = &m->shape;
    uint32_t first, n_cut;
    if ((unsigned)p.kind >= MODEL_N_PIECE_KINDS ||
        p.layer >= (kind_in_layer(p.kind) ? s->n_layers : 1) ||
        !piece_range(s, p.kind, p.index, &first, &n_cut))
        return 0;
    unsigned n = 0;
    size_t offset = 0;
    for (unsigned i = 0; i < kinds[p.kind].n; i++) {
        struct part_row row = kinds[p.kind].parts[i];
        bool tied = row.tensor == MODEL_TENSOR_OUTPUT && s->tied;
        enum model_tensor_id id = (enum model_tensor_id)row.tensor;
        const struct model_tensor *t = model_tensor(m, p.layer, tied ? MODEL_TENSOR_EMBED : id);
        if (t->file == NULL)
            continue;
        struct model_part *part = &parts[n++];
        *part = (struct model_part){.id = id,
                                    .tensor = t,
                                    .vector = row.cut == CUT_NONE || row.cut == CUT_VECTOR,
                                    .n_rows = (uint32_t)t->file->dims[1],
                                    .n_cols = (uint32_t)t->file->dims[0],
                                    .offset = offset};
        if (row.cut == CUT_ROWS) {
            part->row0 = first;
            part->n_rows = n_cut;
        } else if (row.cut != CUT_NONE) {
            part->col0 = first;
            part->n_cols = n_cut;
        }
        part->skip = part->vector ? 0 : kern_column_skip(t->type, part->col0);
        part->bytes = part->vector
                          ? (size_t)part->n_cols * sizeof(float)
                          : kern_packed_bytes(t->type, part->n_rows, part->n_cols, part->skip);
        offset += base_round_up(part->bytes, KERN_ALIGN);
    }
    return n;
}

size_t model_piece_bytes(const struct model *m, struct model_piece p)
{
    struct model_part parts[MODEL_PARTS_MAX];
    unsigned n = model_piece_parts(m, p, parts);
    return n == 0 ? 0 : parts[n - 1].offset + base_round_up(parts[n - 1].bytes, KERN_ALIGN);
}

void model_piece_pack(const struct model *m, struct model_piece p, void *out)
{
    struct model_part parts[MODEL_PARTS_MAX];
    unsigned n = model_piece_parts(m, p, parts);
    for (unsigned i = 0; i < n; i++) {
        const struct model_part *part = &parts[i];
        const struct gguf_tensor *t = part->tensor->file;
        uint8_t *to = (uint8_t *)out + part->offset;
        assert(t->data != NULL);
        if (part->vector) {
            memcpy(to, t->data + (size_t)part->col0 * sizeof(float), part->bytes);
            memset(to + part->bytes, 0, base_round_up(part->bytes, KERN_ALIGN) - part->bytes);
            continue;
        }
        const struct kern_type_info *info = kern_type_info(part->tensor->type);
        size_t stride = (size_t)t->dims[0] / info->block_cols * info->block_bytes;
        kern_matrix_pack(part->tensor->type, part->n_rows, part->n_cols,
                         t->data + part->row0 * stride, stride, part->col0, to);
    }
}

/* ---- numbers --------------------------------------------------------------------------------- */

static uint32_t pieces_of_layer(const struct model_shape *s)
{
    return 1 + s->n_kv_heads + s->n_head_units + s->n_ff_units;
}

static uint32_t pieces_before_layers(const struct model_shape *s)
{
    return (s->rope_factors ? 1 : 0) + s->n_vocab_runs;
}

uint32_t model_n_pieces(const struct model *m)
{
    const struct model_shape *s = &m->shape;
    return pieces_before_layers(s) + s->n_layers * pieces_of_layer(s) + 1 + s->n_vocab_runs;
}

struct model_piece model_piece_at(const struct model *m, uint32_t number)
{
    const struct model_shape *s = &m->shape;
    assert(number < model_n_pieces(m));
    if (s->rope_factors && number-- == 0)
        return (struct model_piece){MODEL_PIECE_GLOBAL, 0, 0};
    if (number < s->n_vocab_runs)
        return (struct model_piece){MODEL_PIECE_EMBED, 0, number};
    number -= s->n_vocab_runs;
    uint32_t layer = number / pieces_of_layer(s);
    if (layer >= s->n_layers) {
        number -= s->n_layers * pieces_of_layer(s);
        return number == 0 ? (struct model_piece){MODEL_PIECE_FINAL, 0, 0}
                           : (struct model_piece){MODEL_PIECE_OUTPUT, 0, number - 1};
    }
    number %= pieces_of_layer(s);
    if (number-- == 0)
        return (struct model_piece){MODEL_PIECE_COMMON, layer, 0};
    if (number < s->n_kv_heads)
        return (struct model_piece){MODEL_PIECE_KV, layer, number};
    number -= s->n_kv_heads;
    if (number < s->n_head_units)
        return (struct model_piece){MODEL_PIECE_HEAD, layer, number};
    return (struct model_piece){MODEL_PIECE_FFN, layer, number - s->n_head_units};
}

uint32_t model_piece_number(const struct model *m, struct model_piece p)
{
    const struct model_shape *s = &m->shape;
    uint32_t layer_first = pieces_before_layers(s) + p.layer * pieces_of_layer(s);
    uint32_t after = pieces_before_layers(s) + s->n_layers * pieces_of_layer(s);
    assert(model_piece_bytes(m, p) > 0);
    switch (p.kind) {
    case MODEL_PIECE_GLOBAL:
        return 0;
    case MODEL_PIECE_EMBED:
        return (s->rope_factors ? 1 : 0) + p.index;
    case MODEL_PIECE_COMMON:
        return layer_first;
    case MODEL_PIECE_KV:
        return layer_first + 1 + p.index;
    case MODEL_PIECE_HEAD:
        return layer_first + 1 + s->n_kv_heads + p.index;
    case MODEL_PIECE_FFN:
        return layer_first + 1 + s->n_kv_heads + s->n_head_units + p.index;
    case MODEL_PIECE_FINAL:
        return after;
    case MODEL_PIECE_OUTPUT:
        return after + 1 + p.index;
    case MODEL_N_PIECE_KINDS:
        break;
    }
    return UINT32_MAX;
}
