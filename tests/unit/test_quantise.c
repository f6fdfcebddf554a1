/* Quantising: errors of the encoders on data of several kinds, edge cases, what is exact; whole files,
 * their types, metadata and refusals; lists of a type for each layer, and what types cost the layers'
 * weights. The blocks are decoded here, from the format's description. */
#include "model/gguf.h"
#include "model/quantise.h"
#include "tests/tools/make_model.h"
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_TYPES = 4 };

/* ---- decoding -------------------------------------------------------------------------------- */

static float half(const uint8_t *p)
{
    return kern_f32_from_f16((uint16_t)(p[0] | p[1] << 8));
}

static void decode_q8_0(const uint8_t *b, float *x)
{
    for (unsigned i = 0; i < 32; i++)
        x[i] = half(b) * (float)(int8_t)b[2 + i];
}

static void decode_q4_0(const uint8_t *b, float *x)
{
    for (unsigned i = 0; i < 32; i++)
        x[i] = half(b) * (float)((int)(b[2 + i % 16] >> i / 16 * 4 & 15) - 8);
}

static void decode_q4_k(const uint8_t *b, float *x)
{
    const uint8_t *s = b + 4;
    for (unsigned i = 0; i < 256; i++) {
        const unsigned j = i / 32;
        const int sc = j < 4 ? s[j] & 63 : (s[4 + j] & 15) | s[j - 4] >> 6 << 4;
        const int m = j < 4 ? s[4 + j] & 63 : s[4 + j] >> 4 | s[j] >> 6 << 4;
        const int q = b[16 + i / 64 * 32 + i % 32] >> j % 2 * 4 & 15;
        x[i] = half(b) * (float)sc * (float)q - half(b + 2) * (float)m;
    }
}

static void decode_q6_k(const uint8_t *b, float *x)
{
    for (unsigned i = 0; i < 256; i++) {
        const unsigned h = i / 128, lane = i / 32 % 4, at = i % 32;
        const int low = b[h * 64 + lane % 2 * 32 + at] >> lane / 2 * 4 & 15;
        const int high = b[128 + h * 32 + at] >> lane * 2 & 3;
        x[i] = half(b + 208) * (float)(int8_t)b[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

/* Bounds: root mean square of the error relative to the data's, in percent, for a bell curve and
 * for one with a value in fifty ten times as large. */
static const struct {
    const char *name;
    uint32_t ggml;
    unsigned cols, bytes;
    model_quantise_block *encode;
    void (*decode)(const uint8_t *block, float *x);
    double bell, outliers;
} types[N_TYPES] = {
    {"Q8_0", Q8_0, 32, 34, model_quantise_q8_0, decode_q8_0, 0.52, 0.8},
    {"Q4_0", Q4_0, 32, 18, model_quantise_q4_0, decode_q4_0, 7.9, 12.0},
    {"Q4_K", Q4_K, 256, 144, model_quantise_q4_k, decode_q4_k, 6.9, 10.0},
    {"Q6_K", Q6_K, 256, 210, model_quantise_q6_k, decode_q6_k, 1.65, 2.9},
};

/* The block of x and back; relative root mean square of the difference. */
static double pass(unsigned t, const float *x, float *back)
{
    uint8_t block[256];
    double error = 0, all = 0;
    memset(block, 0xa5, sizeof block);
    assert_true(types[t].encode(x, block));
    types[t].decode(block, back);
    for (unsigned i = types[t].bytes; i < sizeof block; i++)
        assert_int_equal(block[i], 0xa5);
    for (unsigned i = 0; i < types[t].cols; i++) {
        assert_true(isfinite(back[i]));
        error += ((double)x[i] - (double)back[i]) * ((double)x[i] - (double)back[i]);
        all += (double)x[i] * (double)x[i];
    }
    return all > 0 ? sqrt(error / all) : error > 0 ? INFINITY : 0.0;
}

/* ---- encoders -------------------------------------------------------------------------------- */

static double mean_error(unsigned t, bool outliers)
{
    uint64_t rng = 7;
    double sum = 0;
    for (unsigned n = 0; n < 400; n++) {
        float x[256], back[256];
        for (unsigned i = 0; i < 256; i++)
            x[i] = 0.02f * make_normal(&rng) * (outliers && base_rng_next(&rng) % 50 == 0 ? 10 : 1);
        const double e = pass(t, x, back);
        sum += e * e;
    }
    return 100 * sqrt(sum / 400);
}

static void test_errors(void **state)
{
    (void)state;
    for (unsigned t = 0; t < N_TYPES; t++) {
        const double bell = mean_error(t, false), outliers = mean_error(t, true);
        print_message("# %s: %.3f %%, with outliers %.3f %%\n", types[t].name, bell, outliers);
        assert_true(bell < types[t].bell);
        assert_true(outliers < types[t].outliers);
    }
}

static void test_edges(void **state)
{
    (void)state;
    for (unsigned t = 0; t < N_TYPES; t++) {
        float x[256] = {0}, back[256];
        assert_true(pass(t, x, back) == 0);
        for (unsigned i = 0; i < 256; i++)
            x[i] = i % 2 == 0 ? 1e-40f : -3e-39f; /* denormals: nothing that F16 could scale */
        assert_true(pass(t, x, back) <= 1.0);
        for (unsigned i = 0; i < 256; i++)
            x[i] = 1e-3f;
        x[17] = 4e5f; /* the others are lost beside it, it is not */
        assert_true(pass(t, x, back) < 0.002);
        x[17] = -4e5f;
        assert_true(pass(t, x, back) < 0.002);
        for (unsigned i = 0; i < 256; i++)
            x[i] = -0.75f;
        assert_true(pass(t, x, back) < 0.005);
        for (unsigned i = 0; i < 256; i++)
            x[i] = 0.75f;
        assert_true(pass(t, x, back) < 0.005);
    }
}

static void test_too_large(void **state)
{
    (void)state;
    static const float large[] = {1e9f, -1e9f, 1e30f, -3e38f};
    for (unsigned t = 0; t < N_TYPES; t++)
        for (unsigned k = 0; k < 4; k++) {
            float x[256] = {1.0f, -2.0f};
            uint8_t block[256];
            x[31] = large[k];
            assert_false(types[t].encode(x, block));
            x[30] = -large[k];
            assert_false(types[t].encode(x, block));
        }
}

/* Data on the grid of a block comes back bit for bit. */
static void test_exact(void **state)
{
    (void)state;
    uint64_t rng = 3;
    for (unsigned n = 0; n < 2000; n++) {
        float x[256], back[256];
        const float d = kern_f32_from_f16((uint16_t)(1 + base_rng_next(&rng) % 0x7bff));
        for (unsigned i = 0; i < 32; i++)
            x[i] = d * (float)((int)(base_rng_next(&rng) % 255) - 127);
        x[n % 32] = n % 2 == 0 ? 127 * d : -127 * d;
        assert_true(pass(0, x, back) == 0);
        for (unsigned i = 0; i < 32; i++)
            x[i] = d * (float)((int)(base_rng_next(&rng) % 16) - 8);
        x[n % 32] = -8 * d;
        assert_true(pass(1, x, back) == 0);
    }
}

/* ---- files ----------------------------------------------------------------------------------- */

struct folder {
    char dir[64], in[96], out[96];
};

static int make_folder(void **state)
{
    struct folder *f = calloc(1, sizeof *f);
    if (f == NULL)
        return -1;
    strcpy(f->dir, "/tmp/test-quantise-XXXXXX");
    if (mkdtemp(f->dir) == NULL)
        return -1;
    snprintf(f->in, sizeof f->in, "%s/in.gguf", f->dir);
    snprintf(f->out, sizeof f->out, "%s/out.gguf", f->dir);
    *state = f;
    return 0;
}

/* Fails where something is left besides the two files: a temporary one, say. */
static int remove_folder(void **state)
{
    struct folder *f = *state;
    unlink(f->in);
    unlink(f->out);
    const int rc = rmdir(f->dir);
    free(f);
    return rc;
}

static void make(const struct folder *f, const char *shape, const char *type)
{
    const struct make_model c = {.shape = shape, .type = type, .seed = 5};
    struct err e;
    assert_int_equal(make_model_write(&c, f->in, &e), 0);
}

static int quantise(const struct folder *f, const char *type, unsigned n_threads, struct err *e)
{
    const struct model_quantise c = {.type = type, .n_threads = n_threads};
    struct model_quantised done;
    return model_quantise_file(f->in, f->out, &c, &done, e);
}

static uint32_t type_of(const struct gguf *g, const char *name)
{
    const struct gguf_tensor *t = model_gguf_tensor(g, name);
    assert_non_null(t);
    return t->ggml_type;
}

static struct gguf *open_file(const char *path)
{
    struct gguf *g = NULL;
    struct err e = {0};
    if (model_gguf_open(path, GGUF_WITH_DATA, &g, &e) != 0)
        fail_msg("%s", e.text);
    return g;
}

/* Every matrix within twice the type's error, vectors bit for bit. */
static void compare_tensors(const struct gguf *in, const struct gguf *out)
{
    assert_int_equal(model_gguf_n_tensors(in), model_gguf_n_tensors(out));
    for (size_t i = 0; i < model_gguf_n_tensors(in); i++) {
        const struct gguf_tensor *a = model_gguf_tensor_at(in, i),
                                 *b = model_gguf_tensor_at(out, i);
        const uint64_t n = a->dims[0] * a->dims[1];
        double error = 0, all = 0, bound = 0;
        assert_int_equal(a->name.len, b->name.len);
        assert_memory_equal(a->name.ptr, b->name.ptr, a->name.len);
        assert_memory_equal(a->dims, b->dims, sizeof a->dims);
        if (a->n_dims == 1) {
            assert_int_equal(b->ggml_type, 0);
            assert_memory_equal(a->data, b->data, 4 * n);
            continue;
        }
        for (unsigned t = 0; t < N_TYPES; t++)
            for (uint64_t k = 0; b->ggml_type == types[t].ggml && k < n; k += types[t].cols) {
                float x[256], back[256];
                memcpy(x, a->data + 4 * k, 4 * types[t].cols);
                types[t].decode(b->data + k / types[t].cols * types[t].bytes, back);
                for (unsigned c = 0; c < types[t].cols; c++) {
                    error += (double)(x[c] - back[c]) * (double)(x[c] - back[c]);
                    all += (double)x[c] * (double)x[c];
                }
                bound = types[t].bell / 100;
            }
        assert_true(all > 0 && sqrt(error / all) < 1.1 * bound);
    }
}

static void test_file_types(void **state)
{
    struct folder *f = *state;
    static const struct {
        const char *type;
        uint32_t file_type, matrix, output, value2;
    } want[] = {
        {"Q8_0", 7, Q8_0, Q8_0, Q8_0},  {"Q4_0", 2, Q4_0, Q6_K, Q4_0},
        {"Q4_K", 14, Q4_K, Q6_K, Q4_K}, {"Q4_K_M", 15, Q4_K, Q6_K, Q6_K},
        {"Q6_K", 18, Q6_K, Q6_K, Q6_K},
    };
    make(f, "llama", "F32");
    struct gguf *in = open_file(f->in);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct err e = {0};
        uint32_t u = 0;
        if (quantise(f, want[i].type, 2, &e) != 0)
            fail_msg("%s", e.text);
        struct gguf *g = open_file(f->out);
        assert_int_equal(model_gguf_u32(g, "general.file_type", &u, &e), 0);
        assert_int_equal(u, want[i].file_type);
        assert_int_equal(model_gguf_u32(g, "general.quantization_version", &u, &e), 0);
        assert_int_equal(u, 2);
        assert_int_equal(model_gguf_n_kv(g), model_gguf_n_kv(in));
        assert_int_equal(model_gguf_kv(g, "tokenizer.ggml.tokens")->n, 160);
        assert_int_equal(type_of(g, "token_embd.weight"), want[i].matrix);
        assert_int_equal(type_of(g, "blk.1.attn_q.weight"), want[i].matrix);
        assert_int_equal(type_of(g, "blk.2.attn_v.weight"), want[i].value2);
        assert_int_equal(type_of(g, "output.weight"), want[i].output);
        compare_tensors(in, g);
        model_gguf_close(g);
    }
    model_gguf_close(in);
}

/* A tied embedding is the output matrix; 576 columns are not whole blocks of 256. */
static void test_fallback(void **state)
{
    struct folder *f = *state;
    struct err e = {0};
    make(f, "smollm", "F16");
    assert_int_equal(quantise(f, "Q4_K", 1, &e), 0);
    struct gguf *g = open_file(f->out);
    assert_int_equal(type_of(g, "token_embd.weight"), Q8_0);
    assert_int_equal(type_of(g, "blk.0.attn_q.weight"), Q8_0);
    assert_int_equal(type_of(g, "blk.0.ffn_down.weight"), Q4_K);
    assert_int_equal(type_of(g, "blk.0.attn_norm.weight"), 0);
    model_gguf_close(g);
    make(f, "llama3", "BF16");
    assert_int_equal(quantise(f, "Q4_0", 1, &e), 0);
    g = open_file(f->out);
    assert_int_equal(type_of(g, "token_embd.weight"), Q6_K);
    assert_int_equal(type_of(g, "rope_freqs.weight"), 0);
    model_gguf_close(g);
}

/* More values than are encoded at a time. */
static void test_large(void **state)
{
    struct folder *f = *state;
    struct tiny_model c = tiny_model_default(KERN_F32);
    struct err e = {0};
    c.n_vocab = 17000;
    assert_true(tiny_model_write(&c, f->in, &e));
    assert_int_equal(quantise(f, "Q8_0", 2, &e), 0);
    struct gguf *in = open_file(f->in), *out = open_file(f->out);
    compare_tensors(in, out);
    model_gguf_close(in);
    model_gguf_close(out);
}

static void test_threads(void **state)
{
    struct folder *f = *state;
    uint8_t *one = NULL, *five = NULL;
    size_t n_one = 0, n_five = 0;
    struct err e;
    make(f, "qwen2", "F32");
    assert_int_equal(quantise(f, "Q4_K", 1, &e), 0);
    assert_int_equal(base_file_read(f->out, 1 << 24, &one, &n_one, &e), 0);
    assert_int_equal(quantise(f, "Q4_K", 5, &e), 0);
    assert_int_equal(base_file_read(f->out, 1 << 24, &five, &n_five, &e), 0);
    assert_int_equal(n_one, n_five);
    assert_memory_equal(one, five, n_one);
    base_free(one);
    base_free(five);
}

/* ---- a type for each layer ------------------------------------------------------------------- */

/* Squared relative error of a layer's matrices in `out`, decoded here. */
static double layer_loss(const struct gguf *in, const struct gguf *out, unsigned layer)
{
    double error = 0, all = 0;
    char name[16];
    snprintf(name, sizeof name, "blk.%u.", layer);
    for (size_t i = 0; i < model_gguf_n_tensors(in); i++) {
        const struct gguf_tensor *a = model_gguf_tensor_at(in, i),
                                 *b = model_gguf_tensor_at(out, i);
        if (a->n_dims == 1 || memcmp(a->name.ptr, name, strlen(name)) != 0)
            continue;
        for (uint64_t k = 0; k < a->dims[0] * a->dims[1]; k++)
            all += (double)gguf_le_f32(a->data + 4 * k) * (double)gguf_le_f32(a->data + 4 * k);
        for (unsigned t = 0; t < N_TYPES; t++)
            for (uint64_t k = 0; b->ggml_type == types[t].ggml && k < a->dims[0] * a->dims[1];
                 k += types[t].cols) {
                float x[256], back[256];
                memcpy(x, a->data + 4 * k, 4 * types[t].cols);
                types[t].decode(b->data + k / types[t].cols * types[t].bytes, back);
                for (unsigned c = 0; c < types[t].cols; c++)
                    error += ((double)x[c] - (double)back[c]) * ((double)x[c] - (double)back[c]);
            }
    }
    return error / all;
}

/* The shapes that were foretold are those of the file. */
static void same_shapes(const struct gguf *in, const char *list, const char *path)
{
    struct model *foretold = NULL, *real = NULL;
    struct err e = {0};
    if (model_quantised_open(in, list, &foretold, &e) != 0 || model_open(path, &real, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(model_n_pieces(foretold), model_n_pieces(real));
    for (uint32_t i = 0; i < model_n_pieces(real); i++)
        assert_int_equal(model_piece_bytes(foretold, model_piece_at(foretold, i)),
                         model_piece_bytes(real, model_piece_at(real, i)));
    model_close(foretold);
    model_close(real);
}

static void test_lists(void **state)
{
    struct folder *f = *state;
    static const struct {
        const char *list;
        uint32_t layers[3], file_type;
    } want[] = {
        {"Q4_K*3", {Q4_K, Q4_K, Q4_K}, 14},
        {"Q6_K*1,keep*1,Q4_0*1", {Q6_K, 0, Q4_0}, 18},
        {"Q4_0*1,Q8_0*2", {Q4_0, Q8_0, Q8_0}, 7},
    };
    make(f, "llama", "F32");
    struct gguf *in = open_file(f->in);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        const struct model_quantise c = {.type = want[i].list, .n_threads = 2};
        struct model_quantised done;
        struct err e = {0};
        uint32_t u = 0;
        double sum = 0;
        if (model_quantise_file(f->in, f->out, &c, &done, &e) != 0)
            fail_msg("%s", e.text);
        struct gguf *g = open_file(f->out);
        for (unsigned l = 0; l < 3; l++) {
            char name[40];
            snprintf(name, sizeof name, "blk.%u.ffn_down.weight", l);
            assert_int_equal(type_of(g, name), want[i].layers[l]);
            snprintf(name, sizeof name, "blk.%u.attn_q.weight", l);
            assert_int_equal(type_of(g, name), want[i].layers[l]);
            sum += layer_loss(in, g, l);
        }
        assert_int_equal(type_of(g, "token_embd.weight"), Q8_0);
        assert_int_equal(type_of(g, "output.weight"), Q8_0);
        assert_int_equal(model_gguf_u32(g, "general.file_type", &u, &e), 0);
        assert_int_equal(u, want[i].file_type);
        assert_true(fabs(done.loss - sqrt(sum / 3)) < 1e-6);
        same_shapes(in, want[i].list, f->out);
        model_gguf_close(g);
    }
    model_gguf_close(in);
}

static void test_bad_lists(void **state)
{
    struct folder *f = *state;
    static const char *const bad[] = {
        "Q8_0*2",
        "Q8_0*4",
        "Q8_0*3,",
        ",Q8_0*3",
        "Q8_0*3,,",
        "Q8_0*1,*2",
        "Q8_0*-3",
        "Q8_0*0x3",
        "Q9*3",
        "Q4_K_M*3",
        "Q8_0,Q8_0,Q8_0",
        "Q8_0*2,keep",
        "*3",
        "Q8_0*",
        "Q8_0 *3",
        "Q8_0*3 ",
        "keep",
        "Q8_0*18446744073709551617",
        "Q8_0*1,AVERYLONGNAMEFORATYPE*2",
    };
    struct err e = {0};
    make(f, "llama", "F32");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (quantise(f, bad[i], 1, &e) != ERR_USAGE)
            fail_msg("%s is taken for a list", bad[i]);
        assert_int_equal(access(f->out, F_OK), -1);
    }
}

/* What is foretold of small matrices is what comes; of large ones a sample speaks for all. */
static void test_losses(void **state)
{
    struct folder *f = *state;
    static double loss[MODEL_QUANTISE_CHOICES][MODEL_LAYERS_MAX];
    static double again[MODEL_QUANTISE_CHOICES][MODEL_LAYERS_MAX];
    struct model_quantise c = {.n_threads = 3};
    struct model_quantised done;
    struct err e = {0};
    struct tiny_model m = tiny_model_default(KERN_F32);
    m.n_embd = 256;
    m.head_dim = 64;
    for (int large = 0; large < 2; large++) {
        m.n_ff = large ? 5120 : 512;
        assert_true(tiny_model_write(&m, f->in, &e));
        struct gguf *in = open_file(f->in);
        c.n_threads = 3;
        assert_int_equal(model_quantise_losses(f->in, in, &c, loss, &e), 0);
        c.n_threads = 1;
        assert_int_equal(model_quantise_losses(f->in, in, &c, again, &e), 0);
        assert_memory_equal(loss, again, sizeof loss);
        for (unsigned k = 0; k < MODEL_QUANTISE_CHOICES; k++) {
            char list[24];
            snprintf(list, sizeof list, "%s*2", model_quantise_choice(k));
            c.type = list;
            assert_int_equal(model_quantise_file(f->in, f->out, &c, &done, &e), 0);
            struct gguf *out = open_file(f->out);
            for (unsigned l = 0; l < 2; l++) {
                const double real = k == 0 ? 0 : layer_loss(in, out, l);
                if (fabs(loss[k][l] - real) > (large ? 0.05 : 1e-6) * real)
                    fail_msg("%s, layer %u: %g instead of %g", list, l, loss[k][l], real);
                assert_true(k == 0 || loss[k][l] > loss[k - 1][l]);
            }
            model_gguf_close(out);
        }
        model_gguf_close(in);
    }
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void spoil(void *arg, const char *tensor, float *values, uint64_t n)
{
    if (strcmp(tensor, "blk.1.ffn_up.weight") == 0)
        values[n - 1] = *(const float *)arg;
}

static void test_refusals(void **state)
{
    struct folder *f = *state;
    static const float values[] = {NAN, INFINITY, 1e30f};
    struct err e = {0};
    for (unsigned i = 0; i < 3; i++) {
        struct tiny_model c = tiny_model_default(KERN_F32);
        float v = values[i];
        c.patch = spoil;
        c.arg = &v;
        assert_true(tiny_model_write(&c, f->in, &e));
        assert_int_equal(quantise(f, "Q4_0", 3, &e), ERR_RANGE);
        assert_non_null(strstr(e.text, "blk.1.ffn_up.weight"));
        assert_non_null(strstr(e.text, f->in));
        assert_int_equal(access(f->out, F_OK), -1);
    }
    const struct tiny_model q8 = tiny_model_default(KERN_Q8_0);
    assert_true(tiny_model_write(&q8, f->in, &e));
    assert_int_equal(quantise(f, "Q4_0", 1, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "token_embd.weight is of type Q8_0"));
    assert_int_equal(quantise(f, "Q3_K", 1, &e), ERR_USAGE);

    const struct tiny_model f32 = tiny_model_default(KERN_F32);
    assert_true(tiny_model_write(&f32, f->in, &e));
    assert_int_equal(link(f->in, f->out), 0);
    assert_int_equal(quantise(f, "Q8_0", 1, &e), ERR_REFUSED);
    assert_int_equal(unlink(f->out), 0);
}

static bool at_once(void)
{
    return true;
}

/* Stopped, and without memory at any point: the old OUT stays, nothing else does. */
static void test_stopped(void **state)
{
    struct folder *f = *state;
    const struct tiny_model m = tiny_model_default(KERN_F32);
    struct model_quantise c = {.type = "Q8_0", .n_threads = 1, .stop = at_once};
    struct model_quantised done;
    struct err e = {0};
    int rc = ERR_NOMEM;
    assert_true(tiny_model_write(&m, f->in, &e));
    assert_int_equal(base_file_replace(f->out, "old", 3, 0600, &e), 0);
    assert_int_equal(model_quantise_file(f->in, f->out, &c, &done, &e), ERR_CANCELLED);
    c.stop = NULL;
    const int64_t live = base_alloc_live();
    for (uint64_t n = 1; rc != 0; n++) {
        struct stat s;
        base_alloc_fail_nth(n);
        rc = model_quantise_file(f->in, f->out, &c, &done, &e);
        base_alloc_fail_nth(0);
        assert_true(rc == 0 || rc == ERR_NOMEM);
        assert_int_equal(base_alloc_live(), live);
        assert_int_equal(stat(f->out, &s), 0);
        assert_true((rc == 0) == (s.st_size > 3));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_exact),
        cmocka_unit_test_setup_teardown(test_file_types, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_fallback, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_large, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_threads, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_lists, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_bad_lists, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_losses, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_refusals, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_stopped, make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("quantise", tests, NULL, NULL);
}
