/* The hyperparameters of a model: the keys "ARCH.*" of its file, read into struct model_shape.
 *
 * A value is taken only within limits for which the arithmetic has been thought through (model.h),
 * and a key that would change the arithmetic in a way nobody has written yet is refused by name
 * instead of being passed over: a model that answers slightly wrong is worse than one that does not
 * load.
 *
 * The invariant: after model_read_shape heads divide into units and KV groups, widths are even
 * where rotation needs it, and every count is within its maximum. What depends on the types of
 * tensors (units of ffn_down, runs of the vocabulary) is derived in model/arch.c. */
#include "model/model_private.h"

#include <math.h>
#include <stdio.h>

/* Keys that change the arithmetic in ways no row of the table carries out yet. Each has values at
 * which it changes nothing; files write those out now and then. */
static const struct {
    const char *key; /* after "ARCH." */
    double neutral, also_neutral;
} neutral_keys[] = {
    {"expert_count", 0, 0},
    {"expert_used_count", 0, 0},
    {"expert_shared_count", 0, 0},
    {"attention.scale", 0, 0},
    {"attention.clamp_kqv", 0, 0},
    {"attention.max_alibi_bias", 0, 0},
    {"attention.causal", 1, 1},
    {"attn_logit_softcapping", 0, 0},
    {"final_logit_softcapping", 0, 0},
    {"logit_scale", 0, 1},
    {"embedding_scale", 0, 1},
    {"residual_scale", 0, 1},
    {"use_parallel_residual", 0, 0},
    {"rope.scaling.attn_factor", 0, 1},
};

static const char *arch_key(const struct model *m, const char *name, char out[static MODEL_KEY_MAX])
{
    snprintf(out, MODEL_KEY_MAX, "%s.%s", m->shape.arch, name);
    return out;
}

/* Read "ARCH.name" into *out, which holds the default; `required` keys must be there. */
static int read_u32(const struct model *m, const char *name, bool required, uint32_t min,
                    uint32_t max, uint32_t *out, struct err *e)
{
    char key[MODEL_KEY_MAX];
    arch_key(m, name, key);
    int rc = model_gguf_u32(m->gguf, key, out, e);
    if (rc == ERR_NOTFOUND && !required)
        rc = 0;
    if (rc == ERR_NOTFOUND)
        return err_set(e, ERR_FORMAT, "the key %s is missing", key);
    if (rc != 0)
        return rc;
    if (*out < min || *out > max)
        return err_set(e, ERR_RANGE, "%s is %u, outside %u to %u", key, *out, min, max);
    return 0;
}

static int read_f32(const struct model *m, const char *name, bool required, float min, float max,
                    float *out, struct err *e)
{
    char key[MODEL_KEY_MAX];
    arch_key(m, name, key);
    int rc = model_gguf_f32(m->gguf, key, out, e);
    if (rc == ERR_NOTFOUND && !required)
        rc = 0;
    if (rc == ERR_NOTFOUND)
        return err_set(e, ERR_FORMAT, "the key %s is missing", key);
    if (rc != 0)
        return rc;
    if (!(*out >= min && *out <= max))
        return err_set(e, ERR_RANGE, "%s is %g, outside %g to %g", key, (double)*out, (double)min,
                       (double)max);
    return 0;
}

static int check_neutral_keys(const struct model *m, struct err *e)
{
    for (size_t i = 0; i < sizeof neutral_keys / sizeof neutral_keys[0]; i++) {
        char key[MODEL_KEY_MAX];
        const struct gguf_kv *kv = model_gguf_kv(m->gguf, arch_key(m, neutral_keys[i].key, key));
        if (kv == NULL)
            continue;
        bool scalar = kv->type != GGUF_STRING && kv->type != GGUF_ARRAY;
        double v = kv->type == GGUF_BOOL ? (double)(kv->u != 0) : kv->f;
        if (!scalar || (v != neutral_keys[i].neutral && v != neutral_keys[i].also_neutral))
            return err_set(e, ERR_UNSUPPORTED, "the key %s is set, which is not supported", key);
    }
    uint32_t parts = 1;
    int rc = model_gguf_u32(m->gguf, "split.count", &parts, NULL);
    if (rc == 0 && parts > 1 && model_gguf_n_parts(m->gguf) == 1)
        return err_set(e, ERR_FORMAT, "this is one of the %u files of a split model", parts);
    return 0;
}

/* Linear scaling divides every position by a factor. Other kinds are refused. */
static int read_rope_scaling(struct model *m, struct err *e)
{
    char key[MODEL_KEY_MAX];
    struct span type = base_span_str("linear");
    arch_key(m, "rope.scaling.type", key);
    int rc = model_gguf_string(m->gguf, key, &type, e);
    if (rc != 0 && rc != ERR_NOTFOUND)
        return rc;
    bool none = base_span_is(type, "none");
    if (!none && !base_span_is(type, "linear"))
        return err_set(e, ERR_UNSUPPORTED, "the RoPE scaling \"%.*s\" is not supported",
                       (int)(type.len > 64 ? 64 : type.len), (const char *)type.ptr);
    float factor = 0;
    const char *name = "rope.scaling.factor";
    if (model_gguf_kv(m->gguf, arch_key(m, name, key)) == NULL)
        name = "rope.scale_linear"; /* the key's name until 2023 */
    rc = read_f32(m, name, false, 0, 1e6f, &factor, e);
    if (rc != 0)
        return rc;
    m->rope_scale = none || factor == 0 ? 1.0f : factor;
    if (m->rope_scale < 1.0f / 1024)
        return err_set(e, ERR_RANGE, "the RoPE scaling factor is below 1/1024");
    return 0;
}

static int read_rope(struct model *m, struct err *e)
{
    struct model_shape *s = &m->shape;
    s->rope_dims = s->head_dim;
    s->rope_base = 10000.0f;
    int rc = read_u32(m, "rope.dimension_count", false, 2, s->head_dim, &s->rope_dims, e);
    if (rc != 0)
        return rc;
    if (s->rope_dims % 2 != 0)
        return err_set(e, ERR_UNSUPPORTED, "rope.dimension_count is %u, which is odd",
                       s->rope_dims);
    rc = read_f32(m, "rope.freq_base", false, 1.0f, 1e12f, &s->rope_base, e);
    if (rc != 0)
        return rc;
    return read_rope_scaling(m, e);
}

/* Heads: their number, their width, and how many share a unit of attn_output (docs/numerics.md). */
static int read_heads(struct model *m, struct err *e)
{
    struct model_shape *s = &m->shape;
    int rc = read_u32(m, "attention.head_count", true, 1, MODEL_HEADS_MAX, &s->n_heads, e);
    if (rc != 0)
        return rc;
    s->n_kv_heads = s->n_heads;
    rc = read_u32(m, "attention.head_count_kv", false, 1, s->n_heads, &s->n_kv_heads, e);
    if (rc != 0)
        return rc;
    if (s->n_heads % s->n_kv_heads != 0)
        return err_set(e, ERR_UNSUPPORTED, "%u query heads cannot share %u KV heads evenly",
                       s->n_heads, s->n_kv_heads);
    uint32_t key_dim = s->n_embd / s->n_heads;
    bool given = false;
    char key[MODEL_KEY_MAX];
    given = model_gguf_kv(m->gguf, arch_key(m, "attention.key_length", key)) != NULL;
    if (!given && s->n_embd % s->n_heads != 0)
        return err_set(e, ERR_FORMAT, "the width %u is not divided by %u heads", s->n_embd,
                       s->n_heads);
    rc = read_u32(m, "attention.key_length", false, 2, KERN_HEAD_DIM_MAX, &key_dim, e);
    if (rc != 0)
        return rc;
    uint32_t value_dim = key_dim;
    rc = read_u32(m, "attention.value_length", false, 2, KERN_HEAD_DIM_MAX, &value_dim, e);
    if (rc != 0)
        return rc;
    if (key_dim != value_dim)
        return err_set(e, ERR_UNSUPPORTED,
                       "keys of %u and values of %u dimensions are not supported", key_dim,
                       value_dim);
    if (key_dim % 2 != 0)
        return err_set(e, ERR_UNSUPPORTED, "heads of %u dimensions: odd widths are not supported",
                       key_dim);
    s->head_dim = key_dim;
    s->unit_heads = 1;
    while (s->unit_heads * s->head_dim % KERN_BLOCK != 0)
        s->unit_heads++;
    if (s->n_heads % s->unit_heads != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "%u heads of %u dimensions do not make groups of whole 32-column blocks",
                       s->n_heads, s->head_dim);
    s->n_head_units = s->n_heads / s->unit_heads;
    return 0;
}

/* Windows: of architectures that have them, every pattern-th layer sees all positions and the
 * others the last few, with a rotation base of their own that no scaling touches. */
static int read_windows(struct model *m, struct err *e)
{
    struct model_shape *s = &m->shape;
    bool has = m->arch->window_pattern != 0;
    int rc = read_u32(m, "attention.sliding_window", has, has ? 1 : 0, UINT32_MAX, &s->window, e);
    if (rc != 0)
        return rc;
    if (!has)
        return s->window == 0 ? 0
                              : err_set(e, ERR_UNSUPPORTED,
                                        "the key %s.attention.sliding_window is set, which is not "
                                        "supported",
                                        s->arch);
    s->window_pattern = m->arch->window_pattern;
    rc = read_u32(m, "attention.sliding_window_pattern", false, 1, MODEL_LAYERS_MAX,
                  &s->window_pattern, e);
    if (rc != 0)
        return rc;
    s->rope_base_window = m->arch->rope_base_window;
    return read_f32(m, "rope.freq_base_swa", false, 1.0f, 1e12f, &s->rope_base_window, e);
}

bool model_shape_windowed(const struct model_shape *s, uint32_t layer)
{
    return s->window != 0 && (layer + 1) % s->window_pattern != 0;
}

/* Factors that follow from the widths. */
static void set_scales(struct model *m)
{
    struct model_shape *s = &m->shape;
    bool by_width = s->n_layers == m->arch->layers_scaled_by_width;
    s->embed_scale = m->arch->scaled_embedding ? sqrtf((float)s->n_embd) : 1.0f;
    s->attention_scale = 1.0f / sqrtf((float)(by_width ? s->n_embd / s->n_heads : s->head_dim));
}

static int read_vocab(struct model *m, struct err *e)
{
    const struct gguf_tensor *t = model_gguf_tensor(m->gguf, "token_embd.weight");
    if (t == NULL)
        return err_set(e, ERR_FORMAT, "the tensor token_embd.weight is missing");
    if (t->dims[1] < 1 || t->dims[1] > MODEL_VOCAB_MAX)
        return err_set(e, ERR_RANGE, "a vocabulary of %llu tokens is outside 1 to %d",
                       (unsigned long long)t->dims[1], MODEL_VOCAB_MAX);
    m->shape.n_vocab = (uint32_t)t->dims[1];
    const struct gguf_kv *tokens = model_gguf_kv(m->gguf, "tokenizer.ggml.tokens");
    if (tokens != NULL && tokens->type == GGUF_ARRAY && tokens->n != t->dims[1])
        return err_set(e, ERR_FORMAT,
                       "token_embd.weight has %u rows but the vocabulary has %llu tokens",
                       m->shape.n_vocab, (unsigned long long)tokens->n);
    return 0;
}

int model_read_shape(struct model *m, struct err *e)
{
    struct model_shape *s = &m->shape;
    int rc = check_neutral_keys(m, e);
    if (rc == 0)
        rc = read_u32(m, "block_count", true, 1, MODEL_LAYERS_MAX, &s->n_layers, e);
    if (rc == 0)
        rc = read_u32(m, "embedding_length", true, 1, MODEL_EMBD_MAX, &s->n_embd, e);
    if (rc == 0)
        rc = read_u32(m, "feed_forward_length", true, 1, MODEL_FF_MAX, &s->n_ff, e);
    if (rc == 0)
        rc = read_u32(m, "context_length", true, 1, UINT32_MAX, &s->context, e);
    if (rc == 0)
        rc = read_f32(m, "attention.layer_norm_rms_epsilon", true, 0, 1, &s->norm_eps, e);
    if (rc == 0)
        rc = read_heads(m, e);
    if (rc == 0)
        rc = read_rope(m, e);
    if (rc == 0)
        rc = read_windows(m, e);
    if (rc == 0)
        rc = read_vocab(m, e);
    if (rc == 0)
        set_scales(m);
    if (s->context > MODEL_CONTEXT_MAX)
        s->context = MODEL_CONTEXT_MAX;
    return rc;
}
