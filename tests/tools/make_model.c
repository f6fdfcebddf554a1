/* Random models as GGUF files: the architectures in small, for comparing logits with another
 * engine, and the shapes of real ones, for timing and for planning.
 *
 * Weights are scaled so that the logits spread as a trained model's do and so that everything
 * counts: scores of attention have a standard deviation of about 2, which makes it peaky and RoPE
 * matter; each sublayer adds about a tenth to a fifth to the residual stream, enough for any of its
 * parts to show in the logits if it went missing, and little enough that activations rounded to 8
 * bits stay within the 1 % that a test allows. Norm weights lie around 1 with a spread. Where the
 * output matrix is the embedding, the output norm's weights have random signs, or each token would
 * predict itself.
 *
 * Each tensor has a random sequence of its own, from the seed and its name, and is made row by row
 * while the file is written: a file of any size takes the memory of a few rows.
 *
 * Tensor names and keys are those that llama.cpp and ik_llama.cpp read. */
#include "tests/tools/make_model.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TENSORS_MAX = 512, ROWS_BYTES = 1 << 18, CONTEXT = 2048, ALIGNMENT = 32 };

/* ---- shapes ---------------------------------------------------------------------------------- */

enum {
    TIED = 1,       /* no output matrix */
    BIASES = 2,     /* of q, k and v */
    QK_NORM = 4,    /* over each head of q and k */
    POST_NORM = 8,  /* behind attention and feed-forward; the embedding times sqrt(width) */
    FACTORS = 16,   /* frequency factors of RoPE */
    KEY_LENGTH = 32 /* written out: it is not n_embd / n_heads */
};

struct shape {
    const char *name, *arch;
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    float rope_base;
    uint32_t window; /* positions; 0: no key */
    unsigned flags;
    float share; /* of a sublayer in the residual stream, roughly */
};

static const struct shape shapes[] = {
    {"llama", "llama", 3, 256, 8, 4, 32, 512, 160, 1e4f, 0, 0, 0.12f},
    {"llama3", "llama", 3, 256, 4, 2, 64, 512, 160, 5e5f, 0, TIED | FACTORS, 0.12f},
    {"smollm", "llama", 2, 576, 9, 3, 64, 768, 160, 1e5f, 0, TIED, 0.15f},
    {"qwen2", "qwen2", 3, 256, 4, 2, 64, 512, 160, 1e6f, 0, TIED | BIASES, 0.12f},
    {"qwen3", "qwen3", 3, 256, 4, 2, 128, 768, 160, 1e6f, 0, QK_NORM | KEY_LENGTH, 0.12f},
    {"gemma3", "gemma3", 7, 256, 4, 1, 128, 512, 160, 1e6f, 16,
     TIED | QK_NORM | POST_NORM | KEY_LENGTH, 0.1f},
    {"tinyllama", "llama", 22, 2048, 32, 4, 64, 5632, 32000, 1e4f, 0, 0, 0.15f},
    {"llama3-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 5e5f, 0, 0, 0.15f},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

const char *make_shape_name(unsigned i)
{
    return i < N_SHAPES ? shapes[i].name : NULL;
}

/* ---- one file -------------------------------------------------------------------------------- */

/* What a tensor's numbers look like. */
struct plan {
    char name[64];
    const struct make_type *type;
    uint64_t cols, rows;
    float mean, sigma;
    bool signs; /* each value's sign is random */
};

struct draft {
    const struct make_model *c;
    const struct shape *s;
    const struct make_type *type; /* NULL: mixed */
    struct gguf_writer *w;
    struct plan plans[TENSORS_MAX];
    size_t n_plans;
    size_t first;  /* plan of the part's first tensor */
    uint64_t rng;  /* of the tensor being made */
    uint8_t *rows; /* made last */
};

/* Neighbouring matrices differ, and so do neighbouring layers. */
static const struct make_type *mixed_type(size_t number)
{
    static const char *const names[] = {"Q6_K", "Q4_K", "Q5_0", "Q8_0", "Q5_K",
                                        "Q4_1", "F16",  "Q4_0", "Q5_1", "IQ4_NL"};
    return make_type_find(names[number * 7 % (sizeof names / sizeof names[0])]);
}

static void add(struct draft *d, const char *name, struct plan p)
{
    if (d->n_plans == TENSORS_MAX)
        abort();
    struct plan *to = &d->plans[d->n_plans];
    *to = p;
    snprintf(to->name, sizeof to->name, "%s", name);
    const struct make_type *type = d->type != NULL ? d->type : mixed_type(d->n_plans);
    to->type = p.rows == 1 ? make_type_find("F32") : make_type_for(type, p.cols);
    d->n_plans++;
}

static void add_matrix(struct draft *d, const char *name, uint32_t cols, uint32_t rows, float sigma)
{
    add(d, name, (struct plan){.cols = cols, .rows = rows, .sigma = sigma});
}

/* A vector, of which a flat one is `neutral` throughout. */
static void add_vector(struct draft *d, const char *name, uint32_t n, float mean, float sigma,
                       float neutral)
{
    const char *rest = strncmp(name, "blk.", 4) == 0 ? strchr(name + 4, '.') + 1 : name;
    const bool flat = d->c->flat != NULL && strcmp(rest, d->c->flat) == 0;
    add(d, name,
        (struct plan){
            .cols = n, .rows = 1, .mean = flat ? neutral : mean, .sigma = flat ? 0 : sigma});
}

static const char *in_layer(char out[static 64], uint32_t layer, const char *name)
{
    snprintf(out, 64, "blk.%u.%s", layer, name);
    return out;
}

static void plan_attention(struct draft *d, uint32_t layer, float in, float residual)
{
    const struct shape *s = d->s;
    const uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const float score = s->flags & QK_NORM ? in : 1.45f * in;
    char name[64];
    add_vector(d, in_layer(name, layer, "attn_norm.weight"), s->n_embd, 1, 0.25f, 1);
    add_matrix(d, in_layer(name, layer, "attn_q.weight"), s->n_embd, q, score);
    add_matrix(d, in_layer(name, layer, "attn_k.weight"), s->n_embd, kv, score);
    add_matrix(d, in_layer(name, layer, "attn_v.weight"), s->n_embd, kv, in);
    if (s->flags & BIASES) {
        add_vector(d, in_layer(name, layer, "attn_q.bias"), q, 0, 0.8f, 0);
        add_vector(d, in_layer(name, layer, "attn_k.bias"), kv, 0, 0.8f, 0);
        add_vector(d, in_layer(name, layer, "attn_v.bias"), kv, 0, 0.5f, 0);
    }
    if (s->flags & QK_NORM) {
        add_vector(d, in_layer(name, layer, "attn_q_norm.weight"), s->head_dim, 1.4f, 0.35f, 1);
        add_vector(d, in_layer(name, layer, "attn_k_norm.weight"), s->head_dim, 1.4f, 0.35f, 1);
    }
    /* Attention averages: what comes out is about half of what the values are. */
    add_matrix(d, in_layer(name, layer, "attn_output.weight"), q, s->n_embd,
               2.0f * s->share * residual / sqrtf((float)q));
    if (s->flags & POST_NORM)
        add_vector(d, in_layer(name, layer, "post_attention_norm.weight"), s->n_embd,
                   s->share * residual, 0.3f * s->share * residual, 1);
}

static void plan_feed_forward(struct draft *d, uint32_t layer, float in, float residual)
{
    const struct shape *s = d->s;
    char name[64];
    add_vector(d, in_layer(name, layer, "ffn_norm.weight"), s->n_embd, 1, 0.25f, 1);
    add_matrix(d, in_layer(name, layer, "ffn_gate.weight"), s->n_embd, s->n_ff, 1.3f * in);
    add_matrix(d, in_layer(name, layer, "ffn_up.weight"), s->n_embd, s->n_ff, 1.3f * in);
    add_matrix(d, in_layer(name, layer, "ffn_down.weight"), s->n_ff, s->n_embd,
               s->share * residual / sqrtf((float)s->n_ff));
    if (s->flags & POST_NORM)
        add_vector(d, in_layer(name, layer, "post_ffw_norm.weight"), s->n_embd, s->share * residual,
                   0.3f * s->share * residual, 1);
}

static void plan_tensors(struct draft *d)
{
    const struct shape *s = d->s;
    const float in = 1.0f / sqrtf((float)s->n_embd);
    const bool tied = (s->flags & TIED) != 0;
    const float embed = tied ? 3.0f * in : 1.0f;
    const float residual = s->flags & POST_NORM ? embed / in : embed;
    add_matrix(d, "token_embd.weight", s->n_embd, s->n_vocab, embed);
    if (s->flags & FACTORS)
        add_vector(d, "rope_freqs.weight", s->head_dim / 2, 4.0f, 1.0f, 1);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        plan_attention(d, i, in, residual);
        plan_feed_forward(d, i, in, residual);
    }
    add_vector(d, "output_norm.weight", s->n_embd, 1, 0.2f, 1);
    d->plans[d->n_plans - 1].signs = tied;
    if (!tied)
        add_matrix(d, "output.weight", s->n_embd, s->n_vocab, 3.0f * in);
}

/* ---- metadata -------------------------------------------------------------------------------- */

static const char *arch_key(const struct draft *d, const char *name, char out[static 96])
{
    snprintf(out, 96, "%s.%s", d->s->arch, name);
    return out;
}

static void put_keys(struct draft *d)
{
    const struct shape *s = d->s;
    char k[96];
    model_gguf_put_string(d->w, "general.architecture", base_span_str(s->arch));
    model_gguf_put_string(d->w, "general.name", base_span_str("random weights"));
    model_gguf_put_u32(d->w, "general.file_type", d->type != NULL ? d->type->file_type : 1);
    model_gguf_put_u32(d->w, "general.quantization_version", 2);
    model_gguf_put_u32(d->w, arch_key(d, "context_length", k), CONTEXT);
    model_gguf_put_u32(d->w, arch_key(d, "embedding_length", k), s->n_embd);
    model_gguf_put_u32(d->w, arch_key(d, "block_count", k), s->n_layers);
    model_gguf_put_u32(d->w, arch_key(d, "feed_forward_length", k), s->n_ff);
    model_gguf_put_u32(d->w, arch_key(d, "attention.head_count", k), s->n_heads);
    model_gguf_put_u32(d->w, arch_key(d, "attention.head_count_kv", k), s->n_kv_heads);
    if (s->flags & KEY_LENGTH) {
        model_gguf_put_u32(d->w, arch_key(d, "attention.key_length", k), s->head_dim);
        model_gguf_put_u32(d->w, arch_key(d, "attention.value_length", k), s->head_dim);
    } else {
        model_gguf_put_u32(d->w, arch_key(d, "rope.dimension_count", k), s->head_dim);
    }
    const uint32_t window = d->c->window != 0 ? d->c->window : s->window;
    if (s->window != 0)
        model_gguf_put_u32(d->w, arch_key(d, "attention.sliding_window", k), window);
    model_gguf_put_f32(d->w, arch_key(d, "attention.layer_norm_rms_epsilon", k), 1e-6f);
    model_gguf_put_f32(d->w, arch_key(d, "rope.freq_base", k),
                       d->c->rope_base > 0 ? d->c->rope_base : s->rope_base);
}

#define CHATML                                                                                     \
    "{% for message in messages %}"                                                                \
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"     \
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"

/* A small SentencePiece vocabulary: control tokens, bytes where there is room, a space, letters,
 * made-up words. */
static int32_t token_text(uint32_t i, uint32_t n_vocab, char out[static 32])
{
    static const char *const control[] = {"<unk>", "<s>", "</s>"};
    const uint32_t n_bytes = n_vocab >= 320 ? 256 : 1;
    if (i < 3) {
        snprintf(out, 32, "%s", control[i]);
        return i == 0 ? 2 : 3;
    }
    i -= 3;
    if (i < n_bytes) {
        snprintf(out, 32, "<0x%02X>", n_bytes == 1 ? 10 : i);
        return 6;
    }
    i -= n_bytes;
    if (i == 0)
        snprintf(out, 32, "\xe2\x96\x81");
    else if (i <= 26)
        snprintf(out, 32, "%c", (int)('a' + i - 1));
    else
        snprintf(out, 32, "\xe2\x96\x81%c%c%u", (int)('a' + i % 26), (int)('a' + i / 26 % 26),
                 i / 676);
    return 1;
}

static void put_vocabulary(struct draft *d)
{
    const uint32_t n = d->s->n_vocab;
    struct span *tokens = calloc(n, sizeof *tokens);
    char(*texts)[32] = calloc(n, sizeof *texts);
    float *scores = calloc(n, sizeof *scores);
    int32_t *kinds = calloc(n, sizeof *kinds);
    if (tokens == NULL || texts == NULL || scores == NULL || kinds == NULL)
        abort();
    for (uint32_t i = 0; i < n; i++) {
        kinds[i] = token_text(i, n, texts[i]);
        tokens[i] = base_span_str(texts[i]);
        scores[i] = kinds[i] == 1 ? -(float)i : 0.0f;
    }
    if (d->c->chatml) {
        tokens[n - 2] = base_span_str("<|im_start|>");
        tokens[n - 1] = base_span_str("<|im_end|>");
        kinds[n - 2] = kinds[n - 1] = 3;
        model_gguf_put_string(d->w, "tokenizer.chat_template", base_span_str(CHATML));
    }
    model_gguf_put_string(d->w, "tokenizer.ggml.model", base_span_str("llama"));
    model_gguf_put_strings(d->w, "tokenizer.ggml.tokens", tokens, n);
    model_gguf_put_f32s(d->w, "tokenizer.ggml.scores", scores, n);
    model_gguf_put_i32s(d->w, "tokenizer.ggml.token_type", kinds, n);
    model_gguf_put_u32(d->w, "tokenizer.ggml.bos_token_id", 1);
    model_gguf_put_u32(d->w, "tokenizer.ggml.eos_token_id", d->c->chatml ? n - 1 : 2);
    model_gguf_put_u32(d->w, "tokenizer.ggml.unknown_token_id", 0);
    free(kinds);
    free(scores);
    free(texts);
    free(tokens);
}

/* ---- weights --------------------------------------------------------------------------------- */

static uint64_t tensor_seed(uint64_t seed, const char *name)
{
    uint64_t h = base_mix64(seed + 1);
    for (const char *p = name; *p != '\0'; p++)
        h = base_mix64(h ^ (uint8_t)*p);
    return h;
}

static void fill_vector(struct draft *d, const struct plan *p, uint8_t *to)
{
    for (uint64_t i = 0; i < p->cols; i++) {
        float v = p->mean + p->sigma * make_normal(&d->rng);
        if (p->signs && base_rng_next(&d->rng) >> 63 != 0)
            v = -v;
        memcpy(to + 4 * i, &v, sizeof v);
    }
}

/* A model_gguf_source: the next whole rows. */
static int next_rows(void *arg, size_t i, uint64_t at, struct span *out, struct err *e)
{
    struct draft *d = arg;
    const struct plan *p = &d->plans[d->first + i];
    const uint64_t n_blocks = p->cols / p->type->block_cols;
    const uint64_t row_bytes = n_blocks * p->type->block_bytes, left = p->rows - at / row_bytes;
    uint64_t rows = ROWS_BYTES / row_bytes;
    (void)e;
    rows = rows < 1 ? 1 : rows < left ? rows : left;
    if (at == 0)
        d->rng = tensor_seed(d->c->seed, p->name);
    free(d->rows);
    d->rows = malloc(rows * row_bytes);
    if (d->rows == NULL)
        abort();
    if (p->rows == 1)
        fill_vector(d, p, d->rows);
    else
        for (uint64_t b = 0; b < rows * n_blocks; b++)
            p->type->fill(&d->rng, p->sigma, d->rows + b * p->type->block_bytes);
    *out = (struct span){d->rows, rows * row_bytes};
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

static void put_tensors(struct draft *d, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct plan *p = &d->plans[d->first + i];
        const uint64_t dims[4] = {p->cols, p->rows, 1, 1};
        model_gguf_put_tensor(d->w, p->name, p->type->ggml, p->rows == 1 ? 1 : 2, dims, NULL);
    }
}

/* An integer of a type that the writer has no function for, little-endian. */
static void put_integer(struct gguf_writer *w, const char *key, enum model_gguf_type type,
                        uint32_t v)
{
    const uint8_t bytes[] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    const struct gguf_kv kv = {
        .key = base_span_str(key), .type = type, .bytes = {bytes, type == GGUF_U16 ? 2 : 4}};
    model_gguf_put_kv(w, &kv);
}

/* Give a file that ends after the tensor table the length that it has with all data: a hole, which
 * reads as zeros and takes no room on most file systems. */
static int add_hole(const struct draft *d, size_t n, const char *path, struct err *e)
{
    struct stat st;
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const struct plan *p = &d->plans[d->first + i];
        bytes += (p->rows * p->cols / p->type->block_cols * p->type->block_bytes + ALIGNMENT - 1) /
                 ALIGNMENT * ALIGNMENT;
    }
    if (stat(path, &st) == 0 &&
        truncate(path, (st.st_size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + (off_t)bytes) == 0)
        return 0;
    return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
}

/* Part `no` of n_parts, with keys of the types that llama.cpp insists on: the first has the
 * metadata, each a run of the tensors. */
static int write_part(struct draft *d, uint32_t no, uint32_t n_parts, const char *path,
                      struct err *e)
{
    char name[1024];
    const size_t last = (no + 1) * d->n_plans / n_parts;
    d->first = no * d->n_plans / n_parts;
    d->w = model_gguf_writer_new();
    if (no == 0) {
        put_keys(d);
        put_vocabulary(d);
    }
    if (n_parts > 1) {
        put_integer(d->w, "split.no", GGUF_U16, no);
        put_integer(d->w, "split.count", GGUF_U16, n_parts);
        put_integer(d->w, "split.tensors.count", GGUF_I32, (uint32_t)d->n_plans);
        snprintf(name, sizeof name, "%s-%05u-of-%05u.gguf", path, no + 1, n_parts);
    } else {
        snprintf(name, sizeof name, "%s", path);
    }
    if (!d->c->hollow)
        model_gguf_writer_source(d->w, next_rows, d);
    put_tensors(d, last - d->first);
    const int rc = model_gguf_writer_finish(d->w, name, e);
    model_gguf_writer_free(d->w);
    return rc == 0 && d->c->hollow ? add_hole(d, last - d->first, name, e) : rc;
}

int make_model_write(const struct make_model *c, const char *path, struct err *e)
{
    const uint32_t n_parts = c->n_parts > 1 ? c->n_parts : 1;
    struct draft *d = calloc(1, sizeof *d);
    int rc = 0;
    if (d == NULL)
        abort();
    d->c = c;
    d->type = make_type_find(c->type);
    for (size_t i = 0; i < N_SHAPES; i++)
        if (strcmp(shapes[i].name, c->shape) == 0)
            d->s = &shapes[i];
    if (d->s == NULL)
        rc = err_set(e, ERR_NOTFOUND, "there is no shape \"%s\"", c->shape);
    else if (d->type == NULL && strcmp(c->type, "mixed") != 0)
        rc = err_set(e, ERR_NOTFOUND, "there is no type \"%s\"", c->type);
    else
        plan_tensors(d);
    for (uint32_t no = 0; rc == 0 && no < n_parts; no++)
        rc = write_part(d, no, n_parts, path, e);
    free(d->rows);
    free(d);
    return rc;
}
