/* The forward pass against an independent one, written here: textbook llama in double, straight
 * from the file's tensors, without pieces, units, packing, kernels or a KV type. Where a matrix
 * is of an integer type it sees activations rounded to 8 bits as docs/numerics.md says, so that
 * the tolerance can stay tight. */
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the independent forward pass ------------------------------------------------------------ */

struct oracle {
    const struct model *m;
    const struct model_shape *s;
    double rope_scale;
    double *k, *v; /* [n_layers][position][n_kv_heads * head_dim] */
};

static const struct gguf_tensor *find(const struct oracle *o, uint32_t layer, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    return model_gguf_tensor(model_gguf(o->m), layer == UINT32_MAX ? name : full);
}

/* y = W x (+ bias), x rounded to 8 bits where W is of an integer type. */
static void apply(const struct oracle *o, uint32_t layer, const char *name, const char *bias,
                  const double *x, double *y)
{
    const struct gguf_tensor *t = find(o, layer, name),
                             *b = bias != NULL ? find(o, layer, bias) : NULL;
    enum kern_type type = KERN_F32;
    assert_true(t != NULL && kern_type_from_ggml(t->ggml_type, &type));
    double *in = malloc(t->dims[0] * sizeof *in),
           *w = malloc((t->dims[0] + t->dims[1]) * sizeof *w);
    assert_true(in != NULL && w != NULL);
    memcpy(in, x, t->dims[0] * sizeof *in);
    for (uint64_t c = 0; kern_type_info(type)->integer && c < t->dims[0]; c += 32) {
        double most = 0;
        for (unsigned i = 0; i < 32; i++)
            most = fmax(most, fabs(x[c + i]));
        for (unsigned i = 0; i < 32 && most > 0; i++)
            in[c + i] = rint(x[c + i] * 127.0 / most) * most / 127.0;
    }
    for (uint64_t r = 0; r < t->dims[1]; r++) {
        tiny_tensor_row(t, r, w);
        y[r] = 0;
        for (uint64_t c = 0; c < t->dims[0]; c++)
            y[r] += w[c] * in[c];
    }
    if (b != NULL) {
        tiny_tensor_row(b, 0, w);
        for (uint64_t r = 0; r < t->dims[1]; r++)
            y[r] += w[r];
    }
    free(in);
    free(w);
}

static void norm(const struct oracle *o, uint32_t layer, const char *name, const double *x,
                 double *y)
{
    double squares = 0, *w = malloc(o->s->n_embd * sizeof *w);
    assert_non_null(w);
    tiny_tensor_row(find(o, layer, name), 0, w);
    for (uint32_t i = 0; i < o->s->n_embd; i++)
        squares += x[i] * x[i];
    for (uint32_t i = 0; i < o->s->n_embd; i++)
        y[i] = x[i] / sqrt(squares / o->s->n_embd + (double)o->s->norm_eps) * w[i];
    free(w);
}

static void rope(const struct oracle *o, double *head, uint32_t position)
{
    const struct gguf_tensor *t = find(o, UINT32_MAX, "rope_freqs.weight");
    double factors[KERN_HEAD_DIM_MAX];
    uint32_t n = o->s->rope_dims;
    if (t != NULL)
        tiny_tensor_row(t, 0, factors);
    for (uint32_t i = 0; i < n / 2; i++) {
        double angle = position * pow((double)o->s->rope_base, -2.0 * i / n);
        angle /= o->rope_scale * (t != NULL ? factors[i] : 1.0);
        bool neox = o->s->rope == MODEL_ROPE_NEOX;
        double *a = &head[neox ? i : 2 * i], *b = &head[neox ? i + n / 2 : 2 * i + 1];
        double x = *a, y = *b;
        *a = x * cos(angle) - y * sin(angle);
        *b = x * sin(angle) + y * cos(angle);
    }
}

static void attend(const struct oracle *o, uint32_t layer, uint32_t position, const double *q,
                   double *out)
{
    const struct model_shape *s = o->s;
    uint32_t width = s->n_kv_heads * s->head_dim, hd = s->head_dim;
    double *p = malloc((position + 1) * sizeof *p);
    assert_non_null(p);
    for (uint32_t h = 0; h < s->n_heads; h++) {
        size_t at = (size_t)layer * s->context * width + h / (s->n_heads / s->n_kv_heads) * hd;
        double most = -INFINITY, sum = 0;
        for (uint32_t i = 0; i <= position; i++) {
            p[i] = 0;
            for (uint32_t c = 0; c < hd; c++)
                p[i] += q[h * hd + c] * o->k[at + (size_t)i * width + c] / sqrt(hd);
            most = fmax(most, p[i]);
        }
        for (uint32_t i = 0; i <= position; i++)
            sum += p[i] = exp(p[i] - most);
        for (uint32_t c = 0; c < hd; c++) {
            out[h * hd + c] = 0;
            for (uint32_t i = 0; i <= position; i++)
                out[h * hd + c] += p[i] / sum * o->v[at + (size_t)i * width + c];
        }
    }
    free(p);
}

static void oracle_layer(const struct oracle *o, uint32_t layer, uint32_t position, double *x,
                         double *scratch)
{
    const struct model_shape *s = o->s;
    uint32_t q_width = s->n_heads * s->head_dim, kv_width = s->n_kv_heads * s->head_dim;
    double *y = scratch, *q = y + s->n_embd, *mixed = q + q_width, *gate = mixed + q_width,
           *up = gate + s->n_ff;
    size_t at = ((size_t)layer * s->context + position) * kv_width;
    norm(o, layer, "attn_norm.weight", x, y);
    apply(o, layer, "attn_q.weight", "attn_q.bias", y, q);
    apply(o, layer, "attn_k.weight", "attn_k.bias", y, o->k + at);
    apply(o, layer, "attn_v.weight", "attn_v.bias", y, o->v + at);
    for (uint32_t h = 0; h < s->n_heads; h++)
        rope(o, q + (size_t)h * s->head_dim, position);
    for (uint32_t h = 0; h < s->n_kv_heads; h++)
        rope(o, o->k + at + (size_t)h * s->head_dim, position);
    attend(o, layer, position, q, mixed);
    apply(o, layer, "attn_output.weight", "attn_output.bias", mixed, y);
    for (uint32_t i = 0; i < s->n_embd; i++)
        x[i] += y[i];
    norm(o, layer, "ffn_norm.weight", x, y);
    apply(o, layer, "ffn_gate.weight", NULL, y, gate);
    apply(o, layer, "ffn_up.weight", NULL, y, up);
    for (uint32_t i = 0; i < s->n_ff; i++)
        gate[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
    apply(o, layer, "ffn_down.weight", "ffn_down.bias", gate, y);
    for (uint32_t i = 0; i < s->n_embd; i++)
        x[i] += y[i];
}

/* Logits of the token at a position; positions are given in order from 0. */
static void oracle_token(struct oracle *o, int32_t token, uint32_t position, double *logits)
{
    const struct model_shape *s = o->s;
    double *x = malloc(s->n_embd * sizeof *x);
    double *scratch =
        malloc((s->n_embd + 2 * (size_t)s->n_heads * s->head_dim + 2 * s->n_ff) * sizeof *scratch);
    assert_true(x != NULL && scratch != NULL);
    tiny_tensor_row(find(o, UINT32_MAX, "token_embd.weight"), (uint64_t)token, x);
    for (uint32_t layer = 0; layer < s->n_layers; layer++)
        oracle_layer(o, layer, position, x, scratch);
    norm(o, UINT32_MAX, "output_norm.weight", x, scratch);
    memcpy(x, scratch, s->n_embd * sizeof *x);
    apply(o, UINT32_MAX, s->tied ? "token_embd.weight" : "output.weight", NULL, x, logits);
    free(x);
    free(scratch);
}

/* ---- the forward pass ------------------------------------------------------------------------ */

static struct model_exec *exec_of(const struct model *m, struct tiny_store *store,
                                  enum kern_kv_type kv, uint32_t context, uint32_t max_rows)
{
    struct model_slice s = model_slice_layers(m, 0, model_shape(m)->n_layers);
    struct model_exec_config c = {.n_slots = 1,
                                  .context = context,
                                  .max_rows = max_rows,
                                  .kv = kv,
                                  .n_threads = 1,
                                  .kernels = kern_table_select(NULL)};
    struct model_exec *x = NULL;
    struct err e = {0};
    if (model_exec_new(m, &s, &c, tiny_store_get, store, &x, &e) != 0)
        fail_msg("%s", e.text);
    return x;
}

/* Largest distance between a logit and the oracle's, over a text; the oracle's logits must
 * spread. */
static double distance(const struct tiny_model *c, enum kern_kv_type kv, bool neox)
{
    enum { LENGTH = 24 };
    struct model *m = NULL;
    struct err e = {0};
    if (tiny_model_open(c, &m, &e) != 0)
        fail_msg("%s", e.text);
    const struct model_shape *s = model_shape(m);
    size_t kv_width = (size_t)s->n_layers * s->context * s->n_kv_heads * s->head_dim;
    struct oracle o = {m, s, c->rope_scale != 0 ? (double)c->rope_scale : 1.0,
                       calloc(kv_width, sizeof(double)), calloc(kv_width, sizeof(double))};
    double *expected = malloc(s->n_vocab * sizeof *expected), worst = 0, squares = 0;
    float *hidden = malloc(s->n_embd * sizeof *hidden),
          *logits = malloc(s->n_vocab * sizeof *logits);
    struct tiny_store store = tiny_store_make(m);
    uint64_t rng = c->seed + 5;
    assert_true(o.k != NULL && o.v != NULL && expected != NULL && hidden != NULL && logits != NULL);
    ((struct model_shape *)(uintptr_t)s)->rope = neox ? MODEL_ROPE_NEOX : MODEL_ROPE_NORM;
    struct model_exec *x = exec_of(m, &store, kv, LENGTH, 1);
    for (uint32_t i = 0; i < LENGTH; i++) {
        struct model_row row = {0, i, (int32_t)(base_rng_next(&rng) % s->n_vocab), true};
        uint32_t bad;
        model_exec_run(x, &row, 1, hidden, logits, &bad);
        assert_int_equal(bad, 0);
        oracle_token(&o, row.token, i, expected);
        for (uint32_t t = 0; t < s->n_vocab; t++) {
            worst = fmax(worst, fabs((double)logits[t] - expected[t]));
            squares += expected[t] * expected[t] / s->n_vocab / LENGTH;
        }
    }
    assert_in_range((uint64_t)(squares * 100), 200, 3000);
    model_exec_free(x);
    tiny_store_free(&store);
    free(o.k);
    free(o.v);
    free(expected);
    free(hidden);
    free(logits);
    model_close(m);
    return worst;
}

static void within(const struct tiny_model *c, enum kern_kv_type kv, bool neox, double tolerance,
                   const char *what)
{
    double d = distance(c, kv, neox);
    if (!(d <= tolerance))
        fail_msg("%s: logits are off by %g, more than %g", what, d, tolerance);
}

static void scaling_switched_off(struct gguf_writer *w, void *arg)
{
    (void)arg;
    model_gguf_put_string(w, "llama.rope.scaling.type", base_span_str("none"));
    model_gguf_put_f32(w, "llama.rope.scaling.factor", 8.0f);
}

/* With an F32 cache only rounding is left, also where activations are rounded to 8 bits, because
 * the oracle rounds them too. An F16 cache moves float models a little, and pushes some
 * activation of an integer model over the border between two integers, which costs tenths. */
static void test_forward_pass_against_double(void **state)
{
    (void)state;
    struct tiny_model c;
    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        c = tiny_model_default((enum kern_type)type);
        const struct kern_type_info *info = kern_type_info((enum kern_type)type);
        within(&c, KERN_KV_F32, false, 5e-5, info->name);
        within(&c, KERN_KV_F16, false, info->integer ? 0.4 : 0.02, "F16 cache");
    }
    tiny_model_set_types(&c, KERN_F32);
    c.keys = scaling_switched_off;
    within(&c, KERN_KV_F32, false, 5e-5, "a RoPE scale that is switched off");
    c.keys = NULL;
    c.biases = true;
    within(&c, KERN_KV_F32, false, 5e-5, "biases");
    c.rope_factors = true;
    within(&c, KERN_KV_F32, false, 5e-5, "RoPE factors");
    c.rope_scale = 4.0f;
    within(&c, KERN_KV_F32, false, 5e-5, "RoPE factors and scale");
    within(&c, KERN_KV_F32, true, 5e-5, "NEOX pairing");
    c.tied = true;
    c.n_heads = 16;
    c.n_kv_heads = 2;
    c.head_dim = 20;
    c.n_embd = 52;
    c.n_ff = 101;
    c.n_vocab = 303;
    within(&c, KERN_KV_F32, false, 5e-5, "odd widths, tied output");
    c = tiny_model_default(KERN_Q8_0);
    c.type[TINY_V] = c.type[TINY_ATTN_OUT] = KERN_F16;
    c.type[TINY_UP] = KERN_Q4_0;
    c.type[TINY_DOWN] = KERN_BF16;
    c.type[TINY_EMBED] = KERN_F32;
    within(&c, KERN_KV_F32, false, 5e-5, "mixed types");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_pass_against_double),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
