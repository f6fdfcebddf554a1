/* Random models small enough that a test can run hundreds of passes, yet made like real ones:
 * weights are scaled with their fan-in, so that activations stay around 1 and logits spread over
 * several units, and every number comes from one seed, so that a failing test fails again.
 *
 * Quantised types are encoded here, from the format's description, so that the reader under test
 * is not its own judge. The vocabulary is a minimal SentencePiece one: control tokens, bytes
 * where there is room, single characters and a few made-up words. */
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tiny_model tiny_model_default(enum kern_type type)
{
    struct tiny_model c = {.n_layers = 2,
                           .n_embd = 64,
                           .n_heads = 4,
                           .n_kv_heads = 2,
                           .head_dim = 32,
                           .n_ff = 160,
                           .n_vocab = 320,
                           .context = 64,
                           .seed = 1};
    tiny_model_set_types(&c, type);
    return c;
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

static void put_half(uint8_t *to, float v)
{
    uint16_t h = kern_f16_from_f32(v);
    memcpy(to, &h, sizeof h);
}

static void encode_q8_0(const float *x, uint8_t *to)
{
    float most = 0;
    for (unsigned i = 0; i < 32; i++)
        most = fmaxf(most, fabsf(x[i]));
    float d = most / 127.0f;
    put_half(to, d);
    for (unsigned i = 0; i < 32; i++)
        to[2 + i] = (uint8_t)(int8_t)(d > 0 ? lrintf(x[i] / d) : 0);
}

static void encode_q4_0(const float *x, uint8_t *to)
{
    float most = 0;
    for (unsigned i = 0; i < 32; i++)
        most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    float d = most / -8.0f;
    put_half(to, d);
    for (unsigned i = 0; i < 16; i++) {
        long low = d != 0 ? lrintf(x[i] / d) + 8 : 8, high = d != 0 ? lrintf(x[i + 16] / d) + 8 : 8;
        low = low > 15 ? 15 : low;
        high = high > 15 ? 15 : high;
        to[2 + i] = (uint8_t)(low | high << 4);
    }
}

static void encode(enum kern_type type, const float *x, uint64_t n, uint8_t *to)
{
    const struct kern_type_info *info = kern_type_info(type);
    for (uint64_t i = 0; i < n; i += info->block_cols, to += info->block_bytes) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        uint16_t upper = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        switch (type) {
        case KERN_F32:
            memcpy(to, &x[i], 4);
            break;
        case KERN_F16:
            put_half(to, x[i]);
            break;
        case KERN_BF16:
            memcpy(to, &upper, 2);
            break;
        case KERN_Q8_0:
            encode_q8_0(&x[i], to);
            break;
        case KERN_Q4_0:
            encode_q4_0(&x[i], to);
            break;
        case KERN_N_TYPES:
            break;
        }
    }
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
    encode(type, values, n, bytes);
    free(values);
    d->kept[d->n_kept++] = bytes;
    if (d->c->omit == NULL || strcmp(name, d->c->omit) != 0)
        model_gguf_put_tensor(d->w, name, ggml, rows == 1 && dims[1] == 1 ? 1 : 2, dims, bytes);
}

static void layer(struct draft *d, uint32_t i)
{
    const struct tiny_model *c = d->c;
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
        {"attn_q.bias", KERN_F32, q, 1, 0, 0.5f, c->biases},
        {"attn_k.bias", KERN_F32, kv, 1, 0, 0.5f, c->biases},
        {"attn_v.bias", KERN_F32, kv, 1, 0, 0.5f, c->biases},
        {"attn_output.weight", c->type[TINY_ATTN_OUT], q, c->n_embd, 0,
         1.5f * back / sqrtf((float)q), true},
        {"attn_output.bias", KERN_F32, c->n_embd, 1, 0, 0.2f, c->biases},
        {"ffn_norm.weight", KERN_F32, c->n_embd, 1, 1.0f, 0.1f, true},
        {"ffn_gate.weight", c->type[TINY_GATE], c->n_embd, c->n_ff, 0, 1.4f * in, true},
        {"ffn_up.weight", c->type[TINY_UP], c->n_embd, c->n_ff, 0, 1.4f * in, true},
        {"ffn_down.weight", c->type[TINY_DOWN], c->n_ff, c->n_embd, 0, back / sqrtf((float)c->n_ff),
         true},
        {"ffn_down.bias", KERN_F32, c->n_embd, 1, 0, 0.2f, c->biases},
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

static void key_u32(struct draft *d, const char *key, uint32_t v)
{
    if (wanted(d, key))
        model_gguf_put_u32(d->w, key, v);
}

static void keys(struct draft *d)
{
    const struct tiny_model *c = d->c;
    if (wanted(d, "general.architecture"))
        model_gguf_put_string(d->w, "general.architecture", base_span_str("llama"));
    model_gguf_put_string(d->w, "general.name", base_span_str("tiny"));
    key_u32(d, "llama.context_length", c->context);
    key_u32(d, "llama.embedding_length", c->n_embd);
    key_u32(d, "llama.block_count", c->n_layers);
    key_u32(d, "llama.feed_forward_length", c->n_ff);
    key_u32(d, "llama.attention.head_count", c->n_heads);
    key_u32(d, "llama.attention.head_count_kv", c->n_kv_heads);
    if (c->head_dim * c->n_heads != c->n_embd) {
        key_u32(d, "llama.attention.key_length", c->head_dim);
        key_u32(d, "llama.attention.value_length", c->head_dim);
    }
    key_u32(d, "llama.rope.dimension_count", c->head_dim);
    if (wanted(d, "llama.attention.layer_norm_rms_epsilon"))
        model_gguf_put_f32(d->w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (c->rope_scale != 0) {
        model_gguf_put_string(d->w, "llama.rope.scaling.type", base_span_str("linear"));
        model_gguf_put_f32(d->w, "llama.rope.scaling.factor", c->rope_scale);
    }
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

/* One row of a tensor as double. */
void tiny_tensor_row(const struct gguf_tensor *t, uint64_t row, double *out)
{
    enum kern_type type;
    if (!kern_type_from_ggml(t->ggml_type, &type))
        abort();
    const struct kern_type_info *info = kern_type_info(type);
    const uint8_t *p = t->data + row * (t->dims[0] / info->block_cols) * info->block_bytes;
    for (uint64_t c = 0; c < t->dims[0]; c += info->block_cols, p += info->block_bytes) {
        uint16_t half;
        uint32_t bits;
        float f;
        memcpy(&half, p, 2);
        double d = (double)kern_f32_from_f16(half);
        switch (type) {
        case KERN_F32:
            memcpy(&f, p, 4);
            out[c] = (double)f;
            break;
        case KERN_F16:
            out[c] = d;
            break;
        case KERN_BF16:
            bits = (uint32_t)half << 16;
            memcpy(&f, &bits, 4);
            out[c] = (double)f;
            break;
        case KERN_Q8_0:
            for (unsigned i = 0; i < 32; i++)
                out[c + i] = d * (int8_t)p[2 + i];
            break;
        case KERN_Q4_0:
            for (unsigned i = 0; i < 16; i++) {
                out[c + i] = d * ((p[2 + i] & 15) - 8);
                out[c + 16 + i] = d * ((p[2 + i] >> 4) - 8);
            }
            break;
        case KERN_N_TYPES:
            break;
        }
    }
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
