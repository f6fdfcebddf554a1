/* The forward pass against an independent one, written here: textbook transformers in double,
 * straight from the file's tensors, without pieces, units, packing, kernels or a KV type. What an
 * architecture does is told apart from the model under test, in `truth_of`. Where a matrix is of an
 * integer type it sees activations rounded to 8 bits as docs/numerics.md says, so that the
 * tolerance can stay tight.
 *
 * The same oracle lies, one fact at a time: another RoPE base, a bias or a norm left out, no
 * window. Each lie must be far outside the tolerance, or the test would not have seen the mistake. */
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

/* What an architecture does with its tensors. */
struct facts {
    bool neox, gelu;
    double rope_base, rope_scale, rope_base_window;
    double embed_scale, attention_width; /* scores are divided by the root of the width */
    uint32_t window, pattern; /* layers with (layer + 1) % pattern != 0 have the window */
    const char *without;      /* this tensor of each layer is passed over; NULL: none */
};

struct oracle {
    const struct model *m;
    const struct model_shape *s;
    struct facts facts;
    double *k, *v; /* [n_layers][position][n_kv_heads * head_dim] */
};

static struct facts truth_of(const struct tiny_model *c)
{
    bool gemma = strcmp(c->arch, "gemma3") == 0;
    return (struct facts){.neox = strcmp(c->arch, "llama") != 0,
                          .gelu = gemma,
                          .rope_base = c->rope_base != 0 ? (double)c->rope_base : 10000.0,
                          .rope_scale = c->rope_scale != 0 ? (double)c->rope_scale : 1.0,
                          .rope_base_window = 10000.0,
                          .embed_scale = gemma ? sqrt(c->n_embd) : 1.0,
                          .attention_width = gemma && c->n_layers == 62
                                                 ? (double)(c->n_embd / c->n_heads)
                                                 : (double)c->head_dim,
                          .window = c->window,
                          .pattern = c->window_pattern != 0 ? c->window_pattern : 6};
}

static bool windowed(const struct oracle *o, uint32_t layer)
{
    return o->facts.window != 0 && (layer + 1) % o->facts.pattern != 0;
}

static const struct gguf_tensor *find(const struct oracle *o, uint32_t layer, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    if (o->facts.without != NULL && strcmp(name, o->facts.without) == 0)
        return NULL;
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

/* y = the norm of x[n], or x itself where there is no such norm. */
static void norm(const struct oracle *o, uint32_t layer, const char *name, uint32_t n,
                 const double *x, double *y)
{
    const struct gguf_tensor *t = find(o, layer, name);
    double squares = 0, *w = malloc(n * sizeof *w);
    assert_non_null(w);
    for (uint32_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    if (t != NULL)
        tiny_tensor_row(t, 0, w);
    for (uint32_t i = 0; i < n; i++)
        y[i] = t != NULL ? x[i] / sqrt(squares / n + (double)o->s->norm_eps) * w[i] : x[i];
    free(w);
}

static void rope(const struct oracle *o, uint32_t layer, double *head, uint32_t position)
{
    const struct gguf_tensor *t = find(o, UINT32_MAX, "rope_freqs.weight");
    const struct facts *f = &o->facts;
    double factors[KERN_HEAD_DIM_MAX];
    uint32_t n = o->s->head_dim;
    bool local = windowed(o, layer);
    if (t != NULL)
        tiny_tensor_row(t, 0, factors);
    for (uint32_t i = 0; i < n / 2; i++) {
        double angle = position * pow(local ? f->rope_base_window : f->rope_base, -2.0 * i / n);
        angle /= (local ? 1.0 : f->rope_scale) * (t != NULL ? factors[i] : 1.0);
        double *a = &head[f->neox ? i : 2 * i], *b = &head[f->neox ? i + n / 2 : 2 * i + 1];
        double x = *a, y = *b;
        *a = x * cos(angle) - y * sin(angle);
        *b = x * sin(angle) + y * cos(angle);
    }
}

/* Norm and rotation of n heads in a row. */
static void finish_heads(const struct oracle *o, uint32_t layer, const char *name, uint32_t n,
                         uint32_t position, double *heads)
{
    for (uint32_t h = 0; h < n; h++) {
        double *head = heads + (size_t)h * o->s->head_dim;
        norm(o, layer, name, o->s->head_dim, head, head);
        rope(o, layer, head, position);
    }
}

static void attend(const struct oracle *o, uint32_t layer, uint32_t position, const double *q,
                   double *out)
{
    const struct model_shape *s = o->s;
    uint32_t width = s->n_kv_heads * s->head_dim, hd = s->head_dim, first = 0;
    if (windowed(o, layer) && position >= o->facts.window)
        first = position + 1 - o->facts.window;
    double *p = malloc((position + 1) * sizeof *p);
    assert_non_null(p);
    for (uint32_t h = 0; h < s->n_heads; h++) {
        size_t at = (size_t)layer * s->context * width + h / (s->n_heads / s->n_kv_heads) * hd;
        double most = -INFINITY, sum = 0;
        for (uint32_t i = first; i <= position; i++) {
            p[i] = 0;
            for (uint32_t c = 0; c < hd; c++)
                p[i] += q[h * hd + c] * o->k[at + (size_t)i * width + c] /
                        sqrt(o->facts.attention_width);
            most = fmax(most, p[i]);
        }
        for (uint32_t i = first; i <= position; i++)
            sum += p[i] = exp(p[i] - most);
        for (uint32_t c = 0; c < hd; c++) {
            out[h * hd + c] = 0;
            for (uint32_t i = first; i <= position; i++)
                out[h * hd + c] += p[i] / sum * o->v[at + (size_t)i * width + c];
        }
    }
    free(p);
}

static double activation(const struct oracle *o, double x)
{
    if (o->facts.gelu)
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    return x / (1.0 + exp(-x));
}

static void oracle_layer(const struct oracle *o, uint32_t layer, uint32_t position, double *x,
                         double *scratch)
{
    const struct model_shape *s = o->s;
    uint32_t q_width = s->n_heads * s->head_dim, kv_width = s->n_kv_heads * s->head_dim;
    double *y = scratch, *q = y + s->n_embd, *mixed = q + q_width, *gate = mixed + q_width,
           *up = gate + s->n_ff;
    size_t at = ((size_t)layer * s->context + position) * kv_width;
    norm(o, layer, "attn_norm.weight", s->n_embd, x, y);
    apply(o, layer, "attn_q.weight", "attn_q.bias", y, q);
    apply(o, layer, "attn_k.weight", "attn_k.bias", y, o->k + at);
    apply(o, layer, "attn_v.weight", "attn_v.bias", y, o->v + at);
    finish_heads(o, layer, "attn_q_norm.weight", s->n_heads, position, q);
    finish_heads(o, layer, "attn_k_norm.weight", s->n_kv_heads, position, o->k + at);
    attend(o, layer, position, q, mixed);
    apply(o, layer, "attn_output.weight", "attn_output.bias", mixed, y);
    norm(o, layer, "post_attention_norm.weight", s->n_embd, y, y);
    for (uint32_t i = 0; i < s->n_embd; i++)
        x[i] += y[i];
    norm(o, layer, "ffn_norm.weight", s->n_embd, x, y);
    apply(o, layer, "ffn_gate.weight", NULL, y, gate);
    apply(o, layer, "ffn_up.weight", NULL, y, up);
    for (uint32_t i = 0; i < s->n_ff; i++)
        gate[i] = activation(o, gate[i]) * up[i];
    apply(o, layer, "ffn_down.weight", "ffn_down.bias", gate, y);
    norm(o, layer, "post_ffw_norm.weight", s->n_embd, y, y);
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
    for (uint32_t i = 0; i < s->n_embd; i++)
        x[i] *= o->facts.embed_scale;
    for (uint32_t layer = 0; layer < s->n_layers; layer++)
        oracle_layer(o, layer, position, x, scratch);
    norm(o, UINT32_MAX, "output_norm.weight", s->n_embd, x, x);
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

/* Largest distance between a logit and those of an oracle that holds these facts, over a text; the
 * oracle's logits must spread. */
static double distance(const struct tiny_model *c, enum kern_kv_type kv, struct facts facts)
{
    enum { LENGTH = 24 };
    struct model *m = NULL;
    struct err e = {0};
    if (tiny_model_open(c, &m, &e) != 0)
        fail_msg("%s", e.text);
    const struct model_shape *s = model_shape(m);
    size_t kv_width = (size_t)s->n_layers * s->context * s->n_kv_heads * s->head_dim;
    struct oracle o = {m, s, facts, calloc(kv_width, sizeof(double)),
                       calloc(kv_width, sizeof(double))};
    double *expected = malloc(s->n_vocab * sizeof *expected), worst = 0, squares = 0;
    float *hidden = malloc(s->n_embd * sizeof *hidden),
          *logits = malloc(s->n_vocab * sizeof *logits);
    struct tiny_store store = tiny_store_make(m);
    uint64_t rng = c->seed + 5;
    assert_true(o.k != NULL && o.v != NULL && expected != NULL && hidden != NULL && logits != NULL);
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

/* An activation that falls on the border between two integers may be rounded the other way in
 * float, which moves logits by tenths: about one text in two has one. It spoils one text; a mistake spoils
 * all. So integer types have a few tries. */
static void within(const struct tiny_model *c, enum kern_kv_type kv, double tolerance,
                   const char *what)
{
    struct tiny_model one = *c;
    unsigned tries = kern_type_info(c->type[TINY_GATE])->integer ? 6 : 1;
    double d = INFINITY;
    for (unsigned i = 0; i < tries && !(d <= tolerance); i++, one.seed += 100)
        d = distance(&one, kv, truth_of(&one));
    if (!(d <= tolerance))
        fail_msg("%s, %s: logits are off by %g, more than %g", c->arch, what, d, tolerance);
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
        within(&c, KERN_KV_F32, 5e-5, info->name);
        within(&c, KERN_KV_F16, info->integer ? 0.4 : 0.02, "F16 cache");
        within(&c, KERN_KV_Q8_0, 0.6, "Q8_0 cache");
    }
    c = tiny_model_default(KERN_F32);
    c.keys = scaling_switched_off;
    within(&c, KERN_KV_F32, 5e-5, "a RoPE scale that is switched off");
    c.keys = NULL;
    c.biases = true;
    within(&c, KERN_KV_F32, 5e-5, "biases");
    c.rope_factors = true;
    within(&c, KERN_KV_F32, 5e-5, "RoPE factors");
    c.rope_scale = 4.0f;
    within(&c, KERN_KV_F32, 5e-5, "RoPE factors and scale");
    c.tied = true;
    c.n_heads = 16;
    c.n_kv_heads = 2;
    c.head_dim = 20;
    c.n_embd = 52;
    c.n_ff = 101;
    c.n_vocab = 303;
    within(&c, KERN_KV_F32, 5e-5, "odd widths, tied output");
    c = tiny_model_default(KERN_Q8_0);
    c.type[TINY_V] = c.type[TINY_ATTN_OUT] = KERN_F16;
    c.type[TINY_UP] = KERN_Q4_0;
    c.type[TINY_DOWN] = KERN_BF16;
    c.type[TINY_EMBED] = KERN_F32;
    within(&c, KERN_KV_F32, 5e-5, "mixed types");
}

/* An architecture in a shape of its kind: heads wider or narrower than the stream's share, odd
 * numbers of heads, one KV head. */
static struct tiny_model arch_model(const char *arch, enum kern_type type)
{
    struct tiny_model c = tiny_model_default(type);
    tiny_model_set_arch(&c, arch);
    c.n_layers = 3;
    if (strcmp(arch, "qwen2") == 0) {
        c.n_heads = 14;
        c.n_kv_heads = 2;
    } else if (strcmp(arch, "gemma3") == 0) {
        c.n_kv_heads = 1;
        c.n_layers = 4;
    } else if (strcmp(arch, "llama") == 0) {
        c.n_heads = 9;
        c.n_kv_heads = 3;
    }
    return c;
}

static void test_architectures(void **state)
{
    (void)state;
    for (unsigned i = 0; i < TINY_N_ARCHS; i++) {
        struct tiny_model c = arch_model(tiny_archs[i], KERN_F32);
        within(&c, KERN_KV_F32, 5e-5, "F32");
        within(&c, KERN_KV_F16, 0.02, "F16 cache");
        c = arch_model(tiny_archs[i], KERN_Q8_0);
        within(&c, KERN_KV_F32, 5e-5, "Q8_0");
    }
    struct tiny_model c = arch_model("gemma3", KERN_F32);
    c.n_layers = 7;
    c.window_pattern = 0; /* every sixth layer by default */
    within(&c, KERN_KV_F32, 5e-5, "windows without a pattern");
    c.window = 1000;
    within(&c, KERN_KV_F32, 5e-5, "a window wider than the text");
    c.n_layers = 62;
    within(&c, KERN_KV_F32, 5e-4, "the depth that scales by the stream's width");
}

/* Every fact that an architecture rests on, told wrongly. */
static void test_each_fact_matters(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *without;
        size_t number; /* offset of a double in struct facts that becomes `value` */
        double value;
    } lies[] = {
        {"llama", "attn_q.bias", 0, 0},
        {"llama", "attn_output.bias", 0, 0},
        {"llama", "ffn_down.bias", 0, 0},
        {"llama", "rope_freqs.weight", 0, 0},
        {"llama", NULL, offsetof(struct facts, rope_base), 1e6},
        {"llama", NULL, offsetof(struct facts, rope_scale), 2},
        {"qwen2", "attn_q.bias", 0, 0},
        {"qwen2", "attn_k.bias", 0, 0},
        {"qwen2", "attn_v.bias", 0, 0},
        {"qwen2", NULL, offsetof(struct facts, rope_base), 1e4},
        {"qwen3", "attn_q_norm.weight", 0, 0},
        {"qwen3", "attn_k_norm.weight", 0, 0},
        {"qwen3", NULL, offsetof(struct facts, rope_base), 1e4},
        {"gemma3", "attn_q_norm.weight", 0, 0},
        {"gemma3", "attn_k_norm.weight", 0, 0},
        {"gemma3", "post_attention_norm.weight", 0, 0},
        {"gemma3", "post_ffw_norm.weight", 0, 0},
        {"gemma3", NULL, offsetof(struct facts, rope_base), 1e4},
        {"gemma3", NULL, offsetof(struct facts, rope_base_window), 1e6},
        {"gemma3", NULL, offsetof(struct facts, rope_scale), 1},
        {"gemma3", NULL, offsetof(struct facts, embed_scale), 1},
        {"gemma3", NULL, offsetof(struct facts, attention_width), 16},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct tiny_model c = arch_model(lies[i].arch, KERN_F32);
        c.biases = c.rope_factors = strcmp(c.arch, "llama") == 0;
        struct facts facts = truth_of(&c);
        facts.without = lies[i].without;
        if (lies[i].without == NULL)
            memcpy((char *)&facts + lies[i].number, &lies[i].value, sizeof lies[i].value);
        double d = distance(&c, KERN_KV_F32, facts);
        if (!(d > 1e-2))
            fail_msg("lie %zu about %s moves logits by %g only", i, c.arch, d);
    }
}

/* The facts that are no numbers. */
static void test_each_switch_matters(void **state)
{
    (void)state;
    struct tiny_model c = arch_model("gemma3", KERN_F32);
    struct facts wrong[6];
    for (unsigned i = 0; i < 6; i++)
        wrong[i] = truth_of(&c);
    wrong[0].window = 0;
    wrong[1].window++;
    wrong[2].window--;
    wrong[3].pattern = 3;
    wrong[4].gelu = false;
    wrong[5].neox = false;
    for (unsigned i = 0; i < 6; i++) {
        double d = distance(&c, KERN_KV_F32, wrong[i]);
        if (!(d > 2e-3))
            fail_msg("wrong switch %u moves logits by %g only", i, d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_pass_against_double),
        cmocka_unit_test(test_architectures),
        cmocka_unit_test(test_each_fact_matters),
        cmocka_unit_test(test_each_switch_matters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
