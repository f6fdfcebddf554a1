/* Random models small enough that a test can run hundreds of passes, yet made like real ones:
 * weights are scaled with their fan-in, so that activations stay around 1 and logits spread over
 * several units, and every number comes from one seed, so that a failing test fails again.
 *
 * The architecture says which tensors and keys there are; tests/unit/tiny_types.c encodes them. The
 * vocabulary is a minimal SentencePiece one: control tokens, bytes where there is room, single
 * characters and a few made-up words. */
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tiny_model tiny_model_default(enum kern_type type)
{
    struct tiny_model c = {.arch = "llama",
                           .n_layers = 2,
                           .n_embd = 64,
                           .n_heads = 4,
                           .n_kv_heads = 2,
                           .head_dim = 32,
                           .n_ff = 160,
                           .n_vocab = 320,
                           .context = 64,
                           .seed = 1};
    if (kern_type_info(type)->super) {
        c.n_embd = 256;
        c.head_dim = 64;
        c.n_ff = 512;
    }
    tiny_model_set_types(&c, type);
    return c;
}

const char *const tiny_archs[TINY_N_ARCHS] = {"llama", "qwen2", "qwen3", "gemma3"};

void tiny_model_set_arch(struct tiny_model *c, const char *arch)
{
    bool gemma = strcmp(arch, "gemma3") == 0;
    c->arch = arch;
    c->rope_base = strcmp(arch, "llama") == 0 ? 0 : 1e6f;
    c->window = gemma ? 7 : 0;
    c->window_pattern = gemma ? 2 : 0;
    c->rope_scale = gemma ? 8.0f : 0;
    c->tied = gemma;
}

void tiny_model_set_types(struct tiny_model *c, enum kern_type type)
{
    for (unsigned i = 0; i < TINY_N_MATRICES; i++)
        c->type[i] = type;
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* About normal, variance 1: four uniform numbers. */
static float bell(uint64_t *rng)
{
    double sum = 0;
    for (unsigned i = 0; i < 4; i++)
        sum += (double)(base_rng_next(rng) >> 11) * 0x1p-53 - 0.5;
    return (float)(sum * sqrt(3.0));
}

/* ---- the file -------------------------------------------------------------------------------- */

/* What is written is borrowed by the writer until the end, so it is kept here. */
struct draft {
    const struct tiny_model *c;
    struct gguf_writer *w;
    uint64_t rng;
    uint8_t *kept[4096];
    size_t n_kept;
};

static void tensor(struct draft *d, const char *name, enum kern_type type, uint64_t cols,
                   uint64_t rows, float mean, float spread)
{
    uint64_t dims[4] = {cols, rows, 1, 1};
    uint32_t ggml = kern_type_info(type)->ggml;
    if (d->c->odd_tensor != NULL && strcmp(name, d->c->odd_tensor) == 0) {
        ggml = d->c->odd_type;
        dims[0] = d->c->odd_dims[0];
        dims[1] = d->c->odd_dims[1];
    }
    uint64_t n = cols * rows;
    float *values = malloc(n * sizeof *values);
    /* Room for an odd shape as well, whose content does not matter. */
    uint8_t *bytes = calloc(1, (n + dims[0] * dims[1]) * sizeof *values + 64);
    if (values == NULL || bytes == NULL || d->n_kept == sizeof d->kept / sizeof d->kept[0])
        abort();
    for (uint64_t i = 0; i < n; i++)
        values[i] = mean + spread * bell(&d->rng);
    if (d->c->patch != NULL)
        d->c->patch(d->c->arg, name, values, n);
    tiny_encode(type, values, n, bytes);
    free(values);
    d->kept[d->n_kept++] = bytes;
    if (d->c->omit == NULL || strcmp(name, d->c->omit) != 0)
        model_gguf_put_tensor(d->w, name, ggml, rows == 1 && dims[1] == 1 ? 1 : 2, dims, bytes);
}

static bool is_arch(const struct tiny_model *c, const char *arch)
{
    return strcmp(c->arch, arch) == 0;
}

static void layer(struct draft *d, uint32_t i)
{
    const struct tiny_model *c = d->c;
    bool qkv_bias = is_arch(c, "qwen2") || c->biases, post_norm = is_arch(c, "gemma3");
    bool head_norm = post_norm || is_arch(c, "qwen3");
    uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    float in = 1.0f / sqrtf((float)c->n_embd), back = 0.7f / sqrtf((float)c->n_layers);
    struct {
        const char *name;
        enum kern_type type;
        uint32_t cols, rows;
        float mean, spread;
        bool there;
    } const list[] = {
        {"attn_norm.weight", KERN_F32, c->n_embd, 1, 1.0f, 0.1f, true},
        {"attn_q.weight", c->type[TINY_Q], c->n_embd, q, 0, 1.4f * in, true},
        {"attn_k.weight", c->type[TINY_K], c->n_embd, kv, 0, 1.4f * in, true},
        {"attn_v.weight", c->type[TINY_V], c->n_embd, kv, 0, in, true},
        {"attn_q.bias", KERN_F32, q, 1, 0, 0.5f, qkv_bias},
        {"attn_k.bias", KERN_F32, kv, 1, 0, 0.5f, qkv_bias},
        {"attn_v.bias", KERN_F32, kv, 1, 0, 0.5f, qkv_bias},
        {"attn_q_norm.weight", KERN_F32, c->head_dim, 1, 1.3f, 0.3f, head_norm},
        {"attn_k_norm.weight", KERN_F32, c->head_dim, 1, 1.3f, 0.3f, head_norm},
        {"attn_output.weight", c->type[TINY_ATTN_OUT], q, c->n_embd, 0,
         1.5f * back / sqrtf((float)q), true},
        {"attn_output.bias", KERN_F32, c->n_embd, 1, 0, 0.2f, c->biases},
        {"post_attention_norm.weight", KERN_F32, c->n_embd, 1, 0.7f, 0.2f, post_norm},
        {"ffn_norm.weight", KERN_F32, c->n_embd, 1, 1.0f, 0.1f, true},
        {"ffn_gate.weight", c->type[TINY_GATE], c->n_embd, c->n_ff, 0, 1.4f * in, true},
        {"ffn_up.weight", c->type[TINY_UP], c->n_embd, c->n_ff, 0, 1.4f * in, true},
        {"ffn_down.weight", c->type[TINY_DOWN], c->n_ff, c->n_embd, 0, back / sqrtf((float)c->n_ff),
         true},
        {"ffn_down.bias", KERN_F32, c->n_embd, 1, 0, 0.2f, c->biases},
        {"post_ffw_norm.weight", KERN_F32, c->n_embd, 1, 0.7f, 0.2f, post_norm},
    };
    for (size_t k = 0; k < sizeof list / sizeof list[0]; k++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.%s", i, list[k].name);
        if (list[k].there)
            tensor(d, name, list[k].type, list[k].cols, list[k].rows, list[k].mean, list[k].spread);
    }
}

static bool wanted(const struct draft *d, const char *key)
{
    return d->c->omit == NULL || strcmp(key, d->c->omit) != 0;
}

/* "ARCH.name" into out; false where it is to be left out. */
static bool arch_key(const struct draft *d, const char *name, char out[static 64])
{
    snprintf(out, 64, "%s.%s", d->c->arch, name);
    return wanted(d, out);
}

static void key_u32(struct draft *d, const char *name, uint32_t v)
{
    char key[64];
    if (arch_key(d, name, key))
        model_gguf_put_u32(d->w, key, v);
}

static void key_f32(struct draft *d, const char *name, float v)
{
    char key[64];
    if (arch_key(d, name, key))
        model_gguf_put_f32(d->w, key, v);
}

static void keys(struct draft *d)
{
    const struct tiny_model *c = d->c;
    char key[64];
    if (wanted(d, "general.architecture"))
        model_gguf_put_string(d->w, "general.architecture", base_span_str(c->arch));
    model_gguf_put_string(d->w, "general.name", base_span_str("tiny"));
    key_u32(d, "context_length", c->context);
    key_u32(d, "embedding_length", c->n_embd);
    key_u32(d, "block_count", c->n_layers);
    key_u32(d, "feed_forward_length", c->n_ff);
    key_u32(d, "attention.head_count", c->n_heads);
    key_u32(d, "attention.head_count_kv", c->n_kv_heads);
    if (c->head_dim * c->n_heads != c->n_embd) {
        key_u32(d, "attention.key_length", c->head_dim);
        key_u32(d, "attention.value_length", c->head_dim);
    }
    key_u32(d, "rope.dimension_count", c->head_dim);
    key_f32(d, "attention.layer_norm_rms_epsilon", 1e-5f);
    if (c->rope_base != 0)
        key_f32(d, "rope.freq_base", c->rope_base);
    if (c->rope_scale != 0) {
        if (arch_key(d, "rope.scaling.type", key))
            model_gguf_put_string(d->w, key, base_span_str("linear"));
        key_f32(d, "rope.scaling.factor", c->rope_scale);
    }
    if (c->window != 0)
        key_u32(d, "attention.sliding_window", c->window);
    if (c->window_pattern != 0)
        key_u32(d, "attention.sliding_window_pattern", c->window_pattern);
    if (c->keys != NULL)
        c->keys(d->w, c->arg);
}

/* Token i of the vocabulary: text into out, its type returned. */
static int32_t token_text(uint32_t i, uint32_t n_vocab, char out[static 32])
{
    static const char *const control[] = {"<unk>", "<s>", "</s>"};
    uint32_t n_bytes = n_vocab >= 300 ? 256 : 0;
    if (i < 3) {
        snprintf(out, 32, "%s", control[i]);
        return i == 0 ? 2 : 3;
    }
    if (i < 3 + n_bytes) {
        snprintf(out, 32, "<0x%02X>", i - 3);
        return 6;
    }
    i -= 3 + n_bytes;
    if (i == 0)
        snprintf(out, 32, "\xe2\x96\x81");
    else if (i <= 26)
        snprintf(out, 32, "%c", (int)('a' + i - 1));
    else if (i <= 52)
        snprintf(out, 32, "\xe2\x96\x81%c", (int)('a' + i - 27));
    else
        snprintf(out, 32, "\xe2\x96\x81%c%u", (int)('a' + i % 26), i);
    return 1;
}

static void vocabulary(struct draft *d)
{
    uint32_t n = d->c->n_vocab;
    struct span *tokens = calloc(n, sizeof *tokens);
    char(*texts)[32] = calloc(n, sizeof *texts);
    float *scores = calloc(n, sizeof *scores);
    int32_t *types = calloc(n, sizeof *types);
    if (tokens == NULL || texts == NULL || scores == NULL || types == NULL)
        abort();
    for (uint32_t i = 0; i < n; i++) {
        types[i] = token_text(i, n, texts[i]);
        tokens[i] = base_span_str(texts[i]);
        scores[i] = types[i] == 1 ? -(float)i : 0.0f;
    }
    model_gguf_put_string(d->w, "tokenizer.ggml.model", base_span_str("llama"));
    model_gguf_put_strings(d->w, "tokenizer.ggml.tokens", tokens, n);
    model_gguf_put_f32s(d->w, "tokenizer.ggml.scores", scores, n);
    model_gguf_put_i32s(d->w, "tokenizer.ggml.token_type", types, n);
    model_gguf_put_u32(d->w, "tokenizer.ggml.bos_token_id", 1);
    model_gguf_put_u32(d->w, "tokenizer.ggml.eos_token_id", 2);
    model_gguf_put_u32(d->w, "tokenizer.ggml.unknown_token_id", 0);
    free(types);
    free(scores);
    free(texts);
    free(tokens);
}

static void compose(struct draft *d)
{
    const struct tiny_model *c = d->c;
    keys(d);
    vocabulary(d);
    tensor(d, "token_embd.weight", c->type[TINY_EMBED], c->n_embd, c->n_vocab, 0,
           c->tied ? 0.4f : 1.0f);
    for (uint32_t i = 0; i < c->n_layers; i++)
        layer(d, i);
    tensor(d, "output_norm.weight", KERN_F32, c->n_embd, 1, 1.0f, 0.1f);
    if (!c->tied)
        tensor(d, "output.weight", c->type[TINY_OUTPUT], c->n_embd, c->n_vocab, 0,
               3.0f / sqrtf((float)c->n_embd));
    if (c->rope_factors)
        tensor(d, "rope_freqs.weight", KERN_F32, c->head_dim / 2, 1, 2.0f, 0.4f);
    if (c->extra_tensor != NULL)
        tensor(d, c->extra_tensor, KERN_F32, c->n_embd, 1, 0, 1.0f);
}

static bool begin(struct draft *d, const struct tiny_model *c)
{
    d->c = c;
    d->rng = c->seed;
    d->w = model_gguf_writer_new();
    if (d->w == NULL)
        return false;
    compose(d);
    return true;
}

static void end(struct draft *d)
{
    model_gguf_writer_free(d->w);
    for (size_t i = 0; i < d->n_kept; i++)
        free(d->kept[i]);
}

bool tiny_model_bytes(const struct tiny_model *c, struct base_buf *out, struct err *e)
{
    struct draft d = {0};
    bool good = begin(&d, c) && model_gguf_writer_bytes(d.w, out, e) == 0;
    end(&d);
    return good;
}

bool tiny_model_write(const struct tiny_model *c, const char *path, struct err *e)
{
    struct draft d = {0};
    bool good = begin(&d, c) && model_gguf_writer_finish(d.w, path, e) == 0;
    end(&d);
    return good;
}

int tiny_model_open(const struct tiny_model *c, struct model **m, struct err *e)
{
    const char *tmp = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/shoal-tiny-XXXXXX", tmp != NULL ? tmp : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0)
        abort();
    close(fd);
    int rc = ERR_IO;
    if (tiny_model_write(c, path, e))
        rc = model_open(path, m, e);
    unlink(path);
    return rc;
}

/* ---- pieces ---------------------------------------------------------------------------------- */

struct tiny_store tiny_store_make(const struct model *m)
{
    struct tiny_store s = {m, calloc(model_n_pieces(m), sizeof *s.pieces), UINT32_MAX};
    if (s.pieces == NULL)
        abort();
    return s;
}

const void *tiny_store_get(void *store, uint32_t number)
{
    struct tiny_store *s = store;
    if (number == s->missing)
        return NULL;
    if (s->pieces[number] == NULL) {
        struct model_piece p = model_piece_at(s->model, number);
        s->pieces[number] = aligned_alloc(KERN_ALIGN, model_piece_bytes(s->model, p));
        if (s->pieces[number] == NULL)
            abort();
        model_piece_pack(s->model, p, s->pieces[number]);
    }
    return s->pieces[number];
}

void tiny_store_free(struct tiny_store *s)
{
    for (uint32_t i = 0; s->pieces != NULL && i < model_n_pieces(s->model); i++)
        free(s->pieces[i]);
    free(s->pieces);
    s->pieces = NULL;
}
