/* Logits against those of another engine (tests/data/logits/README.md says which and how): every
 * architecture in every weight type, on a text of 64 tokens. The models are made here, by the code
 * that made them for the other engine; it saw their weights expanded to F32. So what may differ is
 * the order of sums and, where weights are integers, that ours multiply activations rounded to 8
 * bits: 0.1 % and 1 % of the logits' root mean square.
 *
 * A comparison proves something only if it notices mistakes: each kind of change in the second
 * table, to a file's RoPE base, window, biases and norms, must move the logits past the bound. */
#include "tests/tools/make_model.h"
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_TOKENS = 64, N_KEPT = 6, N_VOCAB = 160, SEED = 1 };

/* Positions whose logits are kept: the text's beginning, both sides of the window, its end. */
static const uint32_t kept[N_KEPT] = {3, 15, 17, 31, 47, 63};

struct logits {
    float of[N_KEPT][N_VOCAB];
};

/* The text: BOS, then ids that follow no pattern a model could make use of. */
static int32_t token_at(uint32_t i)
{
    return i == 0 ? 1 : (int32_t)(3 + (i * i * 7 + i * 31 + 5) % 157);
}

static void read_expected(const char *shape, unsigned type, struct logits *out)
{
    const char *src = getenv("SHOAL_SRCDIR");
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/data/logits/%s.f32", src != NULL ? src : ".", shape);
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("%s is not there", path);
    assert_int_equal(fseek(f, (long)(type * sizeof *out), SEEK_SET), 0);
    assert_int_equal(fread(out, sizeof *out, 1, f), 1);
    fclose(f);
}

static void open_made(const struct make_model *c, struct model **m)
{
    const char *tmp = getenv("TMPDIR");
    struct err e = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/shoal-logits-XXXXXX", tmp != NULL ? tmp : "/tmp");
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    int rc = make_model_write(c, path, &e);
    if (rc == 0)
        rc = model_open(path, m, &e);
    unlink(path);
    if (rc != 0)
        fail_msg("%s %s: %s", c->shape, c->type, e.text);
}

static void compute(const struct make_model *c, struct logits *out)
{
    struct model *m = NULL;
    struct model_exec *x = NULL;
    struct model_row rows[N_TOKENS];
    uint32_t bad[N_TOKENS] = {0};
    struct err e = {0};
    open_made(c, &m);
    assert_int_equal(model_shape(m)->n_vocab, N_VOCAB);
    const struct model_slice all = model_slice_layers(m, 0, model_shape(m)->n_layers);
    const struct model_exec_config config = {.n_slots = 1,
                                             .context = N_TOKENS,
                                             .max_rows = N_TOKENS,
                                             .kv = KERN_KV_F32,
                                             .n_threads = 1,
                                             .kernels = kern_table_select(NULL)};
    struct tiny_store store = tiny_store_make(m);
    if (model_exec_new(m, &all, &config, tiny_store_get, &store, &x, &e) != 0)
        fail_msg("%s %s: %s", c->shape, c->type, e.text);
    float *hidden = calloc((size_t)N_TOKENS * model_shape(m)->n_embd, sizeof *hidden);
    assert_non_null(hidden);
    for (uint32_t i = 0; i < N_TOKENS; i++)
        rows[i] = (struct model_row){0, i, token_at(i), false};
    for (unsigned k = 0; k < N_KEPT; k++)
        rows[kept[k]].want_logits = true;
    model_exec_run(x, rows, N_TOKENS, hidden, out->of[0], bad);
    for (uint32_t i = 0; i < N_TOKENS; i++)
        assert_int_equal(bad[i], 0);
    free(hidden);
    model_exec_free(x);
    tiny_store_free(&store);
    model_close(m);
}

/* Root mean square of the difference, relative to that of the expected values. */
static double distance(const struct logits *a, const struct logits *expected)
{
    double difference = 0, all = 0;
    for (unsigned k = 0; k < N_KEPT; k++)
        for (unsigned i = 0; i < N_VOCAB; i++) {
            const double d = (double)a->of[k][i] - (double)expected->of[k][i];
            difference += d * d;
            all += (double)expected->of[k][i] * (double)expected->of[k][i];
        }
    return sqrt(difference / all);
}

static bool is_float(const char *type)
{
    return strcmp(type, "F32") == 0 || strcmp(type, "F16") == 0 || strcmp(type, "BF16") == 0;
}

/* ---- the same -------------------------------------------------------------------------------- */

struct same {
    const char *shape;
    unsigned type;
    char name[64];
};

static void test_same(void **state)
{
    const struct same *s = *state;
    const struct make_model c = {.shape = s->shape, .type = make_type_name(s->type), .seed = SEED};
    struct logits got, expected;
    read_expected(s->shape, s->type, &expected);
    compute(&c, &got);
    const double bound = is_float(c.type) ? 0.001 : 0.01, d = distance(&got, &expected);
    print_message("# %s: differs by %.4f %%\n", s->name, 100 * d);
    if (!(d <= bound))
        fail_msg("logits differ by %.3f %%, more than %.1f %%", 100 * d, 100 * bound);
}

/* ---- the changes that must show -------------------------------------------------------------- */

static const struct make_model changes[] = {
    {.shape = "llama", .rope_base = 2e4f},
    {.shape = "llama", .flat = "attn_norm.weight"},
    {.shape = "llama", .flat = "ffn_norm.weight"},
    {.shape = "llama", .flat = "output_norm.weight"},
    {.shape = "llama3", .rope_base = 1e4f},
    {.shape = "llama3", .flat = "rope_freqs.weight"},
    {.shape = "smollm", .rope_base = 1e4f},
    {.shape = "qwen2", .rope_base = 1e5f},
    {.shape = "qwen2", .flat = "attn_q.bias"},
    {.shape = "qwen2", .flat = "attn_k.bias"},
    {.shape = "qwen2", .flat = "attn_v.bias"},
    {.shape = "qwen3", .rope_base = 1e5f},
    {.shape = "qwen3", .flat = "attn_q_norm.weight"},
    {.shape = "qwen3", .flat = "attn_k_norm.weight"},
    {.shape = "gemma3", .rope_base = 1e4f},
    {.shape = "gemma3", .window = 1024},
    {.shape = "gemma3", .window = 17},
    {.shape = "gemma3", .flat = "attn_q_norm.weight"},
    {.shape = "gemma3", .flat = "attn_k_norm.weight"},
    {.shape = "gemma3", .flat = "post_attention_norm.weight"},
    {.shape = "gemma3", .flat = "post_ffw_norm.weight"},
};
enum { N_CHANGES = sizeof changes / sizeof changes[0] };

static void test_change(void **state)
{
    struct make_model c = *(const struct make_model *)*state;
    struct logits got, expected;
    c.type = make_type_name(0);
    c.seed = SEED;
    read_expected(c.shape, 0, &expected);
    compute(&c, &got);
    const double d = distance(&got, &expected);
    print_message("# changed %s: differs by %.2f %%\n", c.shape, 100 * d);
    if (!(d > 0.02))
        fail_msg("logits differ by %.3f %% only: the comparison would not notice", 100 * d);
}

/* ---- the list -------------------------------------------------------------------------------- */

static void name_change(const struct make_model *c, char out[static 64])
{
    snprintf(out, 64, "%s with %s notices", c->shape,
             c->flat != NULL     ? c->flat
             : c->window != 0    ? "another window"
             : c->rope_base != 0 ? "another RoPE base"
                                 : "nothing");
}

int main(void)
{
    static struct same same[128];
    static char names[N_CHANGES][64];
    struct CMUnitTest tests[128 + N_CHANGES];
    size_t n = 0, n_same = 0;
    for (unsigned s = 0; make_shape_name(s) != NULL; s++)
        for (unsigned t = 0; make_type_name(t) != NULL; t++) {
            if (strcmp(make_shape_name(s), "tinyllama") == 0 ||
                strcmp(make_shape_name(s), "llama3-8b") == 0)
                continue;
            struct same *one = &same[n_same++];
            *one = (struct same){.shape = make_shape_name(s), .type = t};
            snprintf(one->name, sizeof one->name, "%s %s", one->shape, make_type_name(t));
            tests[n++] = (struct CMUnitTest){one->name, test_same, NULL, NULL, one};
        }
    for (size_t i = 0; i < N_CHANGES; i++) {
        struct make_model change = changes[i];
        name_change(&change, names[i]);
        tests[n++] = (struct CMUnitTest){names[i], test_change, NULL, NULL, (void *)&changes[i]};
    }
    return _cmocka_run_group_tests("logits", tests, n, NULL, NULL);
}
