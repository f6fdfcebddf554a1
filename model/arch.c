/* Architectures as tables, and models opened through them.
 *
 * A row of the table says which tensors an architecture has and which switches of the forward pass
 * it turns: how RoPE pairs its dimensions, the gate of the feed-forward half, windows, the
 * embedding's scale. model_open reads the hyperparameters (model/shape.c), then claims every tensor
 * of the file for one slot of the row. What the row does not know is refused by name: a tensor
 * nobody would read, a shape, a type without a kernel.
 *
 * The invariant: behind an open model every shape, type and limit has been checked, so that pieces,
 * slices and the executor multiply without asking again. A card goes through the same checks.
 *
 * Left out: tokenizer keys (model/tokenizer.c) and anything about the values of weights, which
 * only show when they are used. */
#include "model/model_private.h"

#include <stdio.h>
#include <string.h>

/* ---- the table ------------------------------------------------------------------------------- */

/* Extents that shapes are made of. */
enum extent { ONE, EMBD, QUERY, KEY, HEAD, FF, VOCAB, ROPE_HALF };

/* Whether an architecture has a tensor; a row of the table that says nothing has not. */
enum presence { ABSENT, NEEDED, OPTIONAL };

/* What every tensor is called and how its shape follows from the hyperparameters, whatever the
 * architecture. */
static const struct tensor_row {
    const char *name;   /* of a layer's tensor: without "blk.N." */
    uint8_t cols, rows; /* enum extent; rows ONE: a vector, always F32 */
} tensors[MODEL_N_TENSORS] = {
    [MODEL_TENSOR_EMBED] = {"token_embd.weight", EMBD, VOCAB},
    [MODEL_TENSOR_OUTPUT_NORM] = {"output_norm.weight", EMBD, ONE},
    [MODEL_TENSOR_OUTPUT] = {"output.weight", EMBD, VOCAB},
    [MODEL_TENSOR_ROPE_FACTORS] = {"rope_freqs.weight", ROPE_HALF, ONE},
    [MODEL_TENSOR_ATTN_NORM] = {"attn_norm.weight", EMBD, ONE},
    [MODEL_TENSOR_Q] = {"attn_q.weight", EMBD, QUERY},
    [MODEL_TENSOR_Q_BIAS] = {"attn_q.bias", QUERY, ONE},
    [MODEL_TENSOR_Q_NORM] = {"attn_q_norm.weight", HEAD, ONE},
    [MODEL_TENSOR_K] = {"attn_k.weight", EMBD, KEY},
    [MODEL_TENSOR_K_BIAS] = {"attn_k.bias", KEY, ONE},
    [MODEL_TENSOR_K_NORM] = {"attn_k_norm.weight", HEAD, ONE},
    [MODEL_TENSOR_V] = {"attn_v.weight", EMBD, KEY},
    [MODEL_TENSOR_V_BIAS] = {"attn_v.bias", KEY, ONE},
    [MODEL_TENSOR_ATTN_OUT] = {"attn_output.weight", QUERY, EMBD},
    [MODEL_TENSOR_ATTN_OUT_BIAS] = {"attn_output.bias", EMBD, ONE},
    [MODEL_TENSOR_ATTN_POST_NORM] = {"post_attention_norm.weight", EMBD, ONE},
    [MODEL_TENSOR_FFN_NORM] = {"ffn_norm.weight", EMBD, ONE},
    [MODEL_TENSOR_GATE] = {"ffn_gate.weight", EMBD, FF},
    [MODEL_TENSOR_UP] = {"ffn_up.weight", EMBD, FF},
    [MODEL_TENSOR_DOWN] = {"ffn_down.weight", FF, EMBD},
    [MODEL_TENSOR_DOWN_BIAS] = {"ffn_down.bias", EMBD, ONE},
    [MODEL_TENSOR_FFN_POST_NORM] = {"post_ffw_norm.weight", EMBD, ONE},
};

/* The tensors that all architectures of the table have. */
#define COMMON_TENSORS                                                                             \
    [MODEL_TENSOR_EMBED] = NEEDED, [MODEL_TENSOR_OUTPUT_NORM] = NEEDED,                            \
    [MODEL_TENSOR_OUTPUT] = OPTIONAL, [MODEL_TENSOR_ATTN_NORM] = NEEDED,                           \
    [MODEL_TENSOR_Q] = NEEDED, [MODEL_TENSOR_K] = NEEDED, [MODEL_TENSOR_V] = NEEDED,               \
    [MODEL_TENSOR_ATTN_OUT] = NEEDED, [MODEL_TENSOR_FFN_NORM] = NEEDED,                            \
    [MODEL_TENSOR_GATE] = NEEDED, [MODEL_TENSOR_UP] = NEEDED, [MODEL_TENSOR_DOWN] = NEEDED

static const struct arch_row {
    struct model_arch a;
    uint8_t has[MODEL_N_TENSORS]; /* enum presence */
} archs[] = {
    {{.name = "llama", .rope = MODEL_ROPE_NORM, .gate = MODEL_GATE_SILU},
     {COMMON_TENSORS, [MODEL_TENSOR_ROPE_FACTORS] = OPTIONAL, [MODEL_TENSOR_Q_BIAS] = OPTIONAL,
      [MODEL_TENSOR_K_BIAS] = OPTIONAL, [MODEL_TENSOR_V_BIAS] = OPTIONAL,
      [MODEL_TENSOR_ATTN_OUT_BIAS] = OPTIONAL, [MODEL_TENSOR_DOWN_BIAS] = OPTIONAL}},
    {{.name = "qwen2", .rope = MODEL_ROPE_NEOX, .gate = MODEL_GATE_SILU},
     {COMMON_TENSORS, [MODEL_TENSOR_Q_BIAS] = NEEDED, [MODEL_TENSOR_K_BIAS] = NEEDED,
      [MODEL_TENSOR_V_BIAS] = NEEDED}},
    {{.name = "qwen3", .rope = MODEL_ROPE_NEOX, .gate = MODEL_GATE_SILU},
     {COMMON_TENSORS, [MODEL_TENSOR_Q_NORM] = NEEDED, [MODEL_TENSOR_K_NORM] = NEEDED}},
    /* The 27B has 62 layers and no key that tells its other scale of attention. */
    {{.name = "gemma3",
      .rope = MODEL_ROPE_NEOX,
      .gate = MODEL_GATE_GELU,
      .scaled_embedding = true,
      .window_pattern = 6,
      .rope_base_window = 10000.0f,
      .layers_scaled_by_width = 62},
     {COMMON_TENSORS, [MODEL_TENSOR_Q_NORM] = NEEDED, [MODEL_TENSOR_K_NORM] = NEEDED,
      [MODEL_TENSOR_ATTN_POST_NORM] = NEEDED, [MODEL_TENSOR_FFN_POST_NORM] = NEEDED}},
};
enum { N_ARCHS = sizeof archs / sizeof archs[0] };

enum { RUN_BYTES = 256 * 1024, UNIT_COLS_MIN = 64 };

_Static_assert(MODEL_FF_MAX <= KERN_UNITS_MAX * UNIT_COLS_MIN, "an FFN row must fit its sum");
_Static_assert((int)MODEL_HEADS_MAX <= (int)KERN_UNITS_MAX, "an attention row must fit its sum");

/* ---- tensors --------------------------------------------------------------------------------- */

static int find_arch(struct model *m, const struct arch_row **row, struct err *e)
{
    struct span name = {NULL, 0};
    int rc = model_gguf_string(m->gguf, "general.architecture", &name, e);
    if (rc == ERR_NOTFOUND)
        return err_set(e, ERR_FORMAT, "the key general.architecture is missing");
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < N_ARCHS; i++) {
        if (base_span_is(name, archs[i].a.name)) {
            *row = &archs[i];
            m->arch = &archs[i].a;
            m->shape.arch = archs[i].a.name;
            m->shape.rope = archs[i].a.rope;
            m->shape.gate = archs[i].a.gate;
            return 0;
        }
    }
    return err_set(e, ERR_UNSUPPORTED, "the architecture \"%.*s\" is not supported",
                   (int)(name.len > 64 ? 64 : name.len), (const char *)name.ptr);
}

const struct model_tensor *model_tensor(const struct model *m, uint32_t layer,
                                        enum model_tensor_id id)
{
    size_t at = id;
    if (id >= MODEL_TENSOR_FIRST_OF_LAYER)
        at += (size_t)layer * MODEL_N_LAYER_TENSORS;
    return &m->tensors[at];
}

/* "blk.12.attn_q.weight" gives layer 12 and the rest; other names give themselves. */
static bool split_name(struct span name, uint32_t *layer, struct span *rest)
{
    *rest = name;
    if (name.len < 4 || memcmp(name.ptr, "blk.", 4) != 0)
        return false;
    uint32_t n = 0;
    size_t i = 4;
    while (i < name.len && i < 10 && name.ptr[i] >= '0' && name.ptr[i] <= '9')
        n = n * 10 + (uint32_t)(name.ptr[i++] - '0');
    bool plain = i > 4 && (name.ptr[4] != '0' || i == 5);
    if (!plain || i == name.len || name.ptr[i] != '.')
        return false;
    *layer = n;
    *rest = (struct span){name.ptr + i + 1, name.len - i - 1};
    return true;
}

static uint32_t extent_of(const struct model_shape *s, uint8_t extent)
{
    switch ((enum extent)extent) {
    case ONE:
        return 1;
    case EMBD:
        return s->n_embd;
    case QUERY:
        return s->n_heads * s->head_dim;
    case KEY:
        return s->n_kv_heads * s->head_dim;
    case HEAD:
        return s->head_dim;
    case FF:
        return s->n_ff;
    case VOCAB:
        return s->n_vocab;
    case ROPE_HALF:
        return s->rope_dims / 2;
    }
    return 0;
}

/* Check one tensor of the file against its row of the table and take it. */
static int claim(struct model *m, const struct tensor_row *row, const struct gguf_tensor *t,
                 struct model_tensor *slot, struct err *e)
{
    int name_len = (int)(t->name.len > 64 ? 64 : t->name.len);
    const char *name = (const char *)t->name.ptr;
    if (slot->file != NULL)
        return err_set(e, ERR_FORMAT, "the tensor %.*s is there twice", name_len, name);
    enum kern_type type;
    if (!kern_type_from_ggml(t->ggml_type, &type)) {
        const char *type_name = model_gguf_type_name(t->ggml_type);
        return err_set(e, ERR_UNSUPPORTED,
                       "the tensor %.*s has the type %s (%u), which has no kernel", name_len, name,
                       type_name != NULL ? type_name : "unknown", t->ggml_type);
    }
    uint32_t cols = extent_of(&m->shape, row->cols), rows = extent_of(&m->shape, row->rows);
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1)
        return err_set(e, ERR_FORMAT,
                       "the tensor %.*s is %llu x %llu x %llu x %llu instead of %u x %u", name_len,
                       name, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                       (unsigned long long)t->dims[2], (unsigned long long)t->dims[3], cols, rows);
    if (row->rows == ONE && type != KERN_F32)
        return err_set(e, ERR_UNSUPPORTED, "the tensor %.*s has the type %s instead of F32",
                       name_len, name, kern_type_info(type)->name);
    if (cols % kern_type_info(type)->block_cols != 0)
        return err_set(e, ERR_FORMAT, "the rows of %.*s are not whole %s blocks", name_len, name,
                       kern_type_info(type)->name);
    if (m->card == NULL && t->data == NULL)
        return err_set(e, ERR_FORMAT, "the tensor %.*s has no data", name_len, name);
    slot->file = t;
    slot->type = type;
    return 0;
}

static int claim_by_name(struct model *m, const struct arch_row *arch, const struct gguf_tensor *t,
                         struct err *e)
{
    uint32_t layer = 0;
    struct span rest;
    bool of_layer = split_name(t->name, &layer, &rest);
    size_t first = of_layer ? MODEL_TENSOR_FIRST_OF_LAYER : 0;
    size_t last = of_layer ? MODEL_N_TENSORS : MODEL_TENSOR_FIRST_OF_LAYER;
    for (size_t id = first; id < last && layer < m->shape.n_layers; id++) {
        if (arch->has[id] != ABSENT && base_span_is(rest, tensors[id].name)) {
            size_t at = id + (size_t)layer * MODEL_N_LAYER_TENSORS;
            return claim(m, &tensors[id], t, &m->tensors[at], e);
        }
    }
    return err_set(
        e, ERR_UNSUPPORTED, "the tensor %.*s is not one that %s models are known to have",
        (int)(t->name.len > 64 ? 64 : t->name.len), (const char *)t->name.ptr, arch->a.name);
}

static int check_missing(const struct model *m, const struct arch_row *arch, struct err *e)
{
    for (uint32_t layer = 0; layer < m->shape.n_layers; layer++) {
        for (size_t id = layer == 0 ? 0 : MODEL_TENSOR_FIRST_OF_LAYER; id < MODEL_N_TENSORS; id++) {
            const struct model_tensor *t = model_tensor(m, layer, (enum model_tensor_id)id);
            if (arch->has[id] != NEEDED || t->file != NULL)
                continue;
            const char *name = tensors[id].name;
            if (id < MODEL_TENSOR_FIRST_OF_LAYER)
                return err_set(e, ERR_FORMAT, "the tensor %s is missing", name);
            return err_set(e, ERR_FORMAT, "the tensor blk.%u.%s is missing", layer, name);
        }
    }
    return 0;
}

/* What follows from types: the units of ffn_down and the runs of the vocabulary. */
static int derive(struct model *m, struct err *e)
{
    struct model_shape *s = &m->shape;
    s->tied = model_tensor(m, 0, MODEL_TENSOR_OUTPUT)->file == NULL;
    s->rope_factors = model_tensor(m, 0, MODEL_TENSOR_ROPE_FACTORS)->file != NULL;
    s->unit_cols = UNIT_COLS_MIN;
    for (uint32_t layer = 0; layer < s->n_layers; layer++) {
        uint32_t block =
            kern_type_info(model_tensor(m, layer, MODEL_TENSOR_DOWN)->type)->block_cols;
        if (block > s->unit_cols)
            s->unit_cols = block;
    }
    s->n_ff_units = (s->n_ff + s->unit_cols - 1) / s->unit_cols;
    if (s->n_ff_units > KERN_UNITS_MAX)
        return err_set(e, ERR_RANGE, "%u feed-forward columns are more than a sum can take",
                       s->n_ff);
    const struct model_tensor *embed = model_tensor(m, 0, MODEL_TENSOR_EMBED);
    const struct model_tensor *output =
        model_tensor(m, 0, s->tied ? MODEL_TENSOR_EMBED : MODEL_TENSOR_OUTPUT);
    size_t group = kern_packed_bytes(embed->type, KERN_GROUP, s->n_embd, 0);
    size_t other = kern_packed_bytes(output->type, KERN_GROUP, s->n_embd, 0);
    if (other > group)
        group = other;
    if (group == 0)
        return err_set(e, ERR_RANGE, "rows of %u columns cannot be packed", s->n_embd);
    uint32_t groups = (uint32_t)(RUN_BYTES / group),
             all = (s->n_vocab + KERN_GROUP - 1) / KERN_GROUP;
    if (groups > all)
        groups = all;
    s->vocab_run = (groups < 1 ? 1 : groups) * KERN_GROUP;
    s->n_vocab_runs = (s->n_vocab + s->vocab_run - 1) / s->vocab_run;
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int check_model(struct model *m, struct err *e)
{
    const struct arch_row *arch = NULL;
    int rc = find_arch(m, &arch, e);
    if (rc == 0)
        rc = model_read_shape(m, e);
    if (rc != 0)
        return rc;
    size_t n = MODEL_TENSOR_FIRST_OF_LAYER + (size_t)m->shape.n_layers * MODEL_N_LAYER_TENSORS;
    m->tensors = base_zalloc(n, sizeof *m->tensors);
    if (m->tensors == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the tensors of %u layers",
                       m->shape.n_layers);
    for (size_t i = 0; i < model_gguf_n_tensors(m->gguf); i++) {
        rc = claim_by_name(m, arch, model_gguf_tensor_at(m->gguf, i), e);
        if (rc != 0)
            return rc;
    }
    rc = check_missing(m, arch, e);
    return rc != 0 ? rc : derive(m, e);
}

int model_open(const char *path, struct model **out, struct err *e)
{
    struct model *m = base_zalloc(1, sizeof *m);
    if (m == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = model_gguf_open(path, GGUF_WITH_DATA, &m->gguf, e);
    if (rc == 0) {
        rc = check_model(m, e);
        if (rc != 0)
            err_wrap(e, rc, "%s", path);
    }
    if (rc != 0) {
        model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

int model_open_card(struct span card, struct model **out, struct err *e)
{
    struct model *m = base_zalloc(1, sizeof *m);
    if (m == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = ERR_NOMEM;
    m->card = base_alloc(card.len + 1);
    if (m->card == NULL) {
        err_set(e, rc, "out of memory for a model card of %zu bytes", card.len);
        goto fail;
    }
    if (card.len > 0)
        memcpy(m->card, card.ptr, card.len);
    rc = model_gguf_open_bytes((struct span){m->card, card.len}, GGUF_METADATA_ONLY, &m->gguf, e);
    if (rc == 0)
        rc = check_model(m, e);
    if (rc != 0) {
        err_wrap(e, rc, "model card");
        goto fail;
    }
    *out = m;
    return 0;
fail:
    model_close(m);
    return rc;
}

/* Keys and tensors go out in the file's own order, so that one file has one card. Only what the
 * checks above read is kept: the architecture and its hyperparameters. */
int model_card_write(const struct model *m, struct base_buf *out, struct err *e)
{
    struct gguf_writer *w = model_gguf_writer_new();
    if (w == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the model card");
    model_gguf_put_string(w, "general.architecture", base_span_str(m->shape.arch));
    size_t prefix = strlen(m->shape.arch);
    for (size_t i = 0; i < model_gguf_n_kv(m->gguf); i++) {
        const struct gguf_kv *kv = model_gguf_kv_at(m->gguf, i);
        if (kv->key.len > prefix && memcmp(kv->key.ptr, m->shape.arch, prefix) == 0 &&
            kv->key.ptr[prefix] == '.')
            model_gguf_put_kv(w, kv);
    }
    for (size_t i = 0; i < model_gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(m->gguf, i);
        char name[MODEL_KEY_MAX];
        snprintf(name, sizeof name, "%.*s", (int)t->name.len, (const char *)t->name.ptr);
        model_gguf_put_tensor(w, name, t->ggml_type, t->n_dims, t->dims, NULL);
    }
    int rc = model_gguf_writer_bytes(w, out, e);
    model_gguf_writer_free(w);
    return rc;
}

void model_close(struct model *m)
{
    if (m == NULL)
        return;
    model_gguf_close(m->gguf);
    base_free(m->tensors);
    base_free(m->card);
    base_free(m);
}

const struct model_shape *model_shape(const struct model *m)
{
    return &m->shape;
}

const struct gguf *model_gguf(const struct model *m)
{
    return m->gguf;
}
