/* The kernels: every one equal to its definition (kernel_cases.c), one hash for all tables and
 * machines, and the definitions of the row operations and of attention against independent truths:
 * double precision with a stated tolerance, and hand-made cases whose exact result only the
 * canonical order gives. Matrices have a test of their own, test_matrix.c. */
#include "tests/unit/kernel_cases.h"

#include "common/common.h"

#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t bits_of(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* Uniform in [-1, 1). */
static float draw(uint64_t *rng)
{
    return (float)((double)(base_rng_next(rng) >> 11) * 0x1p-52 - 1.0);
}

static const struct kern_table *generic(void)
{
    return kern_table_at(0);
}

/* ---- tables --------------------------------------------------------------------------------- */

static void test_equal_to_definition(void **state)
{
    (void)state;
    for (unsigned i = 0; kern_table_at(i) != NULL; i++)
        if (kern_table_runs(kern_table_at(i)))
            assert_int_equal(kernel_cases_run(kern_table_at(i), stderr), 0);
}

static void test_one_hash(void **state)
{
    (void)state;
    for (unsigned i = 0; kern_table_at(i) != NULL; i++)
        if (kern_table_runs(kern_table_at(i)))
            assert_int_equal(kern_table_hash(kern_table_at(i)), KERNEL_HASH);
}

/* A table with one wrong bit in one slot must have another hash: each slot takes part in it. */
static bool wrong_quantise(const float *x, uint32_t n, int8_t *q, float *a, float *s, int16_t *h)
{
    const bool ok = generic()->quantise(x, n, q, a, s, h);
    s[n / 32 - 1] = nextafterf(s[n / 32 - 1], INFINITY);
    return ok;
}

static void wrong_matmul(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                         const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    generic()->matmul[w->type](w, group0, group1, x, n_x, y, y_stride);
    y[0] = nextafterf(y[0], INFINITY);
}

static void wrong_matmul_sum(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                             const struct kern_act *x, uint32_t n_x, int64_t *acc,
                             size_t acc_stride, uint8_t *bad)
{
    generic()->matmul_sum[w->type](w, group0, group1, x, n_x, acc, acc_stride, bad);
    acc[0]++;
}

static void no_gate(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                    const struct kern_act *x, uint32_t n_x, int64_t *acc, size_t acc_stride,
                    uint8_t *bad)
{
    generic()->matmul_sum[w->type](w, group0, group1, x, n_x, acc, acc_stride, bad);
    bad[n_x - 1] = 0;
}

static void wrong_unit_close(const int64_t *acc, uint32_t n, const float *bias, float *x)
{
    generic()->unit_close(acc, n, bias, x);
    x[n - 1] = nextafterf(x[n - 1], INFINITY);
}

static bool wrong_rms_norm(const float *x, const float *weight, uint32_t n, float eps, float *y)
{
    const bool ok = generic()->rms_norm(x, weight, n, eps, y);
    y[n - 1] = nextafterf(y[n - 1], INFINITY);
    return ok;
}

static void wrong_silu_mul(const float *gate, const float *up, uint32_t n, float *y)
{
    generic()->silu_mul(gate, up, n, y);
    y[n - 1] = nextafterf(y[n - 1], INFINITY);
}

static void wrong_gelu_mul(const float *gate, const float *up, uint32_t n, float *y)
{
    generic()->gelu_mul(gate, up, n, y);
    y[n - 1] = nextafterf(y[n - 1], INFINITY);
}

/* One of each type's slots. */
#define WRONG_KV(type)                                                                             \
    static bool wrong_kv_store_##type(const float *x, uint32_t head_dim, void *row)                \
    {                                                                                              \
        const bool ok = generic()->kv_store[KERN_KV_##type](x, head_dim, row);                     \
        *(uint8_t *)row ^= 1;                                                                      \
        return ok;                                                                                 \
    }                                                                                              \
    static void wrong_attend_##type(const struct kern_query *list, uint32_t n_q, const void *k,    \
                                    const void *v, uint32_t head_dim, float scale)                 \
    {                                                                                              \
        generic()->attend[KERN_KV_##type](list, n_q, k, v, head_dim, scale);                       \
        list[n_q - 1].out[0] = nextafterf(list[n_q - 1].out[0], INFINITY);                         \
    }
WRONG_KV(F16)
WRONG_KV(F32)
WRONG_KV(Q8_0)

static void test_hash_covers_slots(void **state)
{
    (void)state;
    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        struct kern_table t = *generic(), u = t, v = t;
        t.matmul[type] = wrong_matmul;
        u.matmul_sum[type] = wrong_matmul_sum;
        v.matmul_sum[type] = no_gate;
        assert_int_not_equal(kern_table_hash(&t), KERNEL_HASH);
        assert_int_not_equal(kern_table_hash(&u), KERNEL_HASH);
        assert_int_not_equal(kern_table_hash(&v), KERNEL_HASH);
    }
    struct kern_table t[11];
    for (unsigned i = 0; i < 11; i++)
        t[i] = *generic();
    t[0].quantise = wrong_quantise;
    t[1].unit_close = wrong_unit_close;
    t[2].rms_norm = wrong_rms_norm;
    t[3].silu_mul = wrong_silu_mul;
    t[4].gelu_mul = wrong_gelu_mul;
    t[5].kv_store[KERN_KV_F16] = wrong_kv_store_F16;
    t[6].kv_store[KERN_KV_F32] = wrong_kv_store_F32;
    t[7].kv_store[KERN_KV_Q8_0] = wrong_kv_store_Q8_0;
    t[8].attend[KERN_KV_F16] = wrong_attend_F16;
    t[9].attend[KERN_KV_F32] = wrong_attend_F32;
    t[10].attend[KERN_KV_Q8_0] = wrong_attend_Q8_0;
    for (unsigned i = 0; i < 11; i++)
        assert_int_not_equal(kern_table_hash(&t[i]), KERNEL_HASH);
}

static void test_select(void **state)
{
    (void)state;
    assert_ptr_equal(kern_table_select("generic"), generic());
    assert_string_equal(generic()->name, "generic");
    assert_null(kern_table_select("no such table"));
    assert_null(kern_table_select(""));
    assert_non_null(kern_table_select(NULL));
    for (unsigned i = 0; kern_table_at(i) != NULL; i++) {
        const struct kern_table *t = kern_table_at(i);
        const bool runs = kern_table_runs(t);
        assert_ptr_equal(kern_table_select(t->name), runs ? t : NULL);
        if (runs && kern_table_at(i + 1) == NULL) /* the last is the best */
            assert_ptr_equal(kern_table_select(NULL), t);
    }
    const struct kern_table copy = *generic();
    assert_false(kern_table_runs(&copy));
}

static void test_slots_filled(void **state)
{
    (void)state;
    for (unsigned i = 0; kern_table_at(i) != NULL; i++) {
        const struct kern_table *t = kern_table_at(i);
        assert_true(t->quantise && t->unit_close && t->rms_norm && t->silu_mul && t->gelu_mul);
        for (unsigned type = 0; type < KERN_N_TYPES; type++)
            assert_true(t->matmul[type] != NULL && t->matmul_sum[type] != NULL);
        for (unsigned type = 0; type < KERN_N_KV_TYPES; type++)
            assert_true(t->kv_store[type] != NULL && t->attend[type] != NULL);
        /* What kernels.def lists for it took effect. */
        for (size_t k = 0; kernel_case_at(k) != NULL; k++) {
            const struct kernel_case *c = kernel_case_at(k);
            if (i > 0 && strcmp(c->table, t->name) == 0 && strcmp(c->op, "matmul") == 0)
                assert_true(t->matmul[c->index] != generic()->matmul[c->index]);
        }
    }
}

static void test_fp_init(void **state)
{
    (void)state;
    const volatile float tiny = 0x1p-70f, one = 1.0f;
    fesetround(FE_UPWARD);
    assert_true(one + tiny > 1.0f);
    kern_fp_init();
    assert_true(one + tiny == 1.0f);
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(0x1f80 | 0x8040); /* flush to zero, denormals are zero */
    assert_true(tiny * tiny == 0.0f);
    kern_fp_init();
#endif
    assert_true(tiny * tiny == 0x1p-140f);
}

/* ---- rows ----------------------------------------------------------------------------------- */

static void test_quantise(void **state)
{
    (void)state;
    float x[96], a[3], s[3];
    int8_t q[96];
    int16_t h[6];
    uint64_t rng = 5;

    for (unsigned i = 0; i < 96; i++)
        x[i] = draw(&rng) * (i < 32 ? 1e-20f : i < 64 ? 1.0f : 1e30f);
    assert_true(generic()->quantise(x, 96, q, a, s, h));
    for (unsigned b = 0; b < 3; b++) {
        float largest = 0.0f;
        int sum[2] = {0, 0}, top = 0;
        for (unsigned i = 32 * b; i < 32 * (b + 1); i++) {
            largest = fmaxf(largest, fabsf(x[i]));
            top = abs(q[i]) > top ? abs(q[i]) : top;
            sum[i / 16 % 2] += q[i];
            assert_true(fabs((double)x[i] - (double)a[b] * q[i]) <= 0.5000002 * (double)a[b]);
        }
        assert_int_equal(bits_of(a[b]), bits_of(largest / 127.0f));
        assert_int_equal(top, 127);
        assert_int_equal(h[2 * b], sum[0]);
        assert_int_equal(h[2 * b + 1], sum[1]);
        assert_int_equal(bits_of(s[b]), bits_of(a[b] * (float)(sum[0] + sum[1])));
    }

    /* The rule itself. Half of the largest value lands on 63.5 or just beside it, and there 127 / m
     * and the reciprocal of a part. */
    unsigned others = 0;
    for (unsigned i = 0; i < 300; i++) {
        float m = 0.0f;
        for (unsigned j = 0; j < 32; j++) {
            x[j] = draw(&rng);
            m = fmaxf(m, fabsf(x[j]));
        }
        x[31] = fabsf(x[31]) == m ? x[31] : m * 0.5f;
        const float inverse = 127.0f / m, reciprocal = 1.0f / (m / 127.0f);
        assert_true(generic()->quantise(x, 32, q, a, s, h));
        for (unsigned j = 0; j < 32; j++) {
            assert_int_equal(q[j], lrintf(x[j] * inverse));
            others += lrintf(x[j] * reciprocal) != q[j];
        }
    }
    assert_true(others > 0);

    static const float ties[] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -126.5f, 125.5f};
    static const int8_t even[] = {127, 0, 2, 2, 0, -2, -126, 126};
    memset(x, 0, sizeof x);
    memcpy(x, ties, sizeof ties);
    x[32] = 0x1.fffffep-101f; /* just below 2^-100: zeros */
    x[64] = -0x1p-100f;
    assert_true(generic()->quantise(x, 96, q, a, s, h));
    assert_memory_equal(q, even, sizeof even);
    assert_true(a[0] == 1.0f && a[1] == 0.0f && s[1] == 0.0f && q[32] == 0 && h[2] == 0 &&
                a[2] > 0.0f && q[64] == -127);

    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (unsigned i = 0; i < 3; i++) {
        static const int8_t zeros[96];
        x[95] = bad[i];
        assert_false(generic()->quantise(x, 96, q, a, s, h));
        assert_memory_equal(q, zeros, 96);
        assert_true(a[0] == 0.0f && a[2] == 0.0f && s[0] == 0.0f && h[0] == 0 && h[5] == 0);
    }
}

/* acc[i] += u[i] as a sum kernel adds it: a matrix of one column u, times 1. False past the gate. */
static bool unit_add(const float *u, uint32_t n, int64_t *acc)
{
    static _Alignas(KERN_ALIGN) uint8_t packed[64 * sizeof(float)];
    const float one = 1.0f;
    const struct kern_act x = {.f = &one, .f_stride = 1};
    struct kern_matrix m;
    uint8_t bad = 0;
    kern_matrix_pack(KERN_F32, n, 1, u, sizeof *u, 0, packed);
    kern_matrix_bind(&m, KERN_F32, n, 1, 0, packed);
    generic()->matmul_sum[KERN_F32](&m, 0, (n + 15) / 16, &x, 1, acc, n, &bad);
    assert_true(bad <= 1);
    return bad == 0;
}

static void test_units(void **state)
{
    (void)state;
    const float u[] = {1.0f, -0x1p-31f, 0x1.8p-30f, 0x1p21f, -0x1p21f, 0x1p-30f};
    const int64_t want[] = {1 << 30, 0, 2, (int64_t)1 << 51, -((int64_t)1 << 51), 1};
    int64_t acc[6] = {0};
    float x[6] = {0};
    assert_true(unit_add(u, 6, acc));
    assert_memory_equal(acc, want, sizeof want);

    static const float bad[] = {0x1.000002p21f, -0x1.000002p21f, INFINITY, NAN};
    for (unsigned i = 0; i < 4; i++) {
        float v[6] = {1, 1, 1, 1, 1, 1};
        int64_t spoilt[6] = {0};
        v[5] = bad[i];
        assert_false(unit_add(v, 6, spoilt));
    }

    /* The most terms there may be, all largest, do not overflow. */
    int64_t many = 0;
    for (unsigned i = 0; i < KERN_UNITS_MAX; i++)
        assert_true(unit_add(&u[4], 1, &many));
    generic()->unit_close(&many, 1, NULL, x);
    assert_true(x[0] == -0x1p21f * (float)KERN_UNITS_MAX);

    /* Bias is added to the rounded sum, that to x: 1 + (2^-24 + 2^-24) is not 1 + 2^-24 + 2^-24. */
    const int64_t small = 1 << 6;
    const float bias = 0x1p-24f;
    x[0] = 1.0f;
    generic()->unit_close(&small, 1, &bias, x);
    assert_true(x[0] == 1.0f + 0x1p-23f);
}

/* The same terms dealt out to any members in any order give the same number. */
static void test_units_any_grouping(void **state)
{
    (void)state;
    enum { N = 50, UNITS = 64 };
    static float u[UNITS][N];
    uint64_t rng = 6;
    int64_t whole[N] = {0};
    for (unsigned i = 0; i < UNITS; i++)
        for (unsigned j = 0; j < N; j++)
            u[i][j] = draw(&rng) * (i % 7 == 0 ? 1e6f : 1e-4f);
    for (unsigned i = 0; i < UNITS; i++)
        assert_true(unit_add(u[i], N, whole));
    for (unsigned members = 2; members < 9; members++) {
        int64_t sum[N] = {0};
        for (unsigned k = members; k-- > 0;) {
            int64_t part[N] = {0};
            for (unsigned i = UNITS; i-- > 0;)
                if (base_mix64(i) % members == k)
                    assert_true(unit_add(u[i], N, part));
            for (unsigned j = 0; j < N; j++)
                sum[j] += part[j];
        }
        assert_memory_equal(sum, whole, sizeof whole);
    }
}

static void test_rms_norm(void **state)
{
    (void)state;
    enum { N = 77 };
    float x[N], weight[N], y[N];
    uint64_t rng = 7;
    double squares = 0.0;
    for (unsigned i = 0; i < N; i++) {
        x[i] = draw(&rng) * 5.0f;
        weight[i] = draw(&rng);
        squares += (double)x[i] * (double)x[i];
    }
    const double scale = 1.0 / sqrt(squares / N + 1e-5);
    assert_true(generic()->rms_norm(x, weight, N, 1e-5f, y));
    for (unsigned i = 0; i < N; i++)
        assert_true(fabs((double)y[i] - (double)x[i] * scale * (double)weight[i]) <=
                    5e-7 * fabs((double)y[i]));

    static const float bad[] = {INFINITY, NAN, 3e38f};
    for (unsigned i = 0; i < 3; i++) {
        x[N - 1] = bad[i];
        assert_false(generic()->rms_norm(x, weight, N, 1e-5f, y));
        assert_true(y[0] == 0.0f && y[N - 1] == 0.0f);
    }
    memset(x, 0, sizeof x);
    assert_false(generic()->rms_norm(x, weight, N, 0.0f, y));
    assert_true(generic()->rms_norm(x, weight, N, 1e-5f, y) && y[3] == 0.0f);

    /* 2^24 swallows the one of its own lane; those of the other lanes come as a sum. */
    float lanes[32], ones[32];
    for (unsigned i = 0; i < 32; i++)
        lanes[i] = ones[i] = 1.0f;
    lanes[0] = 0x1p12f;
    assert_true(generic()->rms_norm(lanes, ones, 32, 0.0f, y));
    assert_int_equal(bits_of(y[1]), bits_of(1.0f / sqrtf((0x1p24f + 30.0f) / 32.0f)));
}

static void test_silu_mul(void **state)
{
    (void)state;
    for (int i = -2000; i <= 2000; i++) {
        const float gate = (float)i * 0.04f, up = 1.5f - (float)i * 1e-3f;
        const double truth = (double)gate / (1.0 + exp(-(double)gate)) * (double)up;
        float y;
        generic()->silu_mul(&gate, &up, 1, &y);
        assert_true(fabs((double)y - truth) <= 3e-7 * fabs(truth));
    }
    const float gate[] = {NAN, INFINITY, -INFINITY}, up[] = {1.0f, 1.0f, 1.0f};
    float y[3];
    generic()->silu_mul(gate, up, 3, y);
    assert_true(!isfinite(y[0]) && !isfinite(y[1]) && !isfinite(y[2]));
}

static void test_gelu_mul(void **state)
{
    (void)state;
    for (int i = -2000; i <= 2000; i++) {
        const float gate = (float)i * 0.01f, up = 1.5f - (float)i * 1e-3f;
        const double x = (double)gate, z = 0.79788456080286536 * (x + 0.044715 * x * x * x);
        /* 1 + tanh would cancel where gate is negative. */
        const double truth = -2.0 * z > 87.0 ? 0.0 : x / (1.0 + exp(-2.0 * z)) * (double)up;
        float y;
        generic()->gelu_mul(&gate, &up, 1, &y);
        assert_true(fabs((double)y - truth) <= 2e-7 * (3.0 + fabs(2.0 * z)) * fabs(truth) + 1e-35);
    }
    /* As a table of the function has it: gelu(1) = 0.841192, gelu(-1) = -0.158808. */
    const float gate[] = {1.0f, -1.0f, NAN, INFINITY, -INFINITY}, up[] = {1, 1, 1, 1, 1};
    float y[5];
    generic()->gelu_mul(gate, up, 5, y);
    assert_true(fabsf(y[0] - 0.841192f) < 1e-6f && fabsf(y[1] + 0.158808f) < 1e-6f);
    assert_true(!isfinite(y[2]) && !isfinite(y[3]) && !isfinite(y[4]));
}

/* ---- keys and values ------------------------------------------------------------------------ */

static void test_kv_store(void **state)
{
    (void)state;
    float x[] = {1.0f, -65519.996f, 0x1p-24f, 0x1.8p-25f};
    static const uint16_t want[] = {0x3c00, 0xfbff, 1, 1};
    uint16_t half[4];
    float single[4];
    assert_true(generic()->kv_store[KERN_KV_F16](x, 4, half));
    assert_memory_equal(half, want, sizeof want);
    x[3] = 65520.0f;
    assert_false(generic()->kv_store[KERN_KV_F16](x, 4, half));
    assert_int_equal(half[0] | half[1] | half[2] | half[3], 0);
    assert_true(generic()->kv_store[KERN_KV_F32](x, 4, single));
    assert_memory_equal(single, x, sizeof x);
    x[3] = NAN;
    assert_false(generic()->kv_store[KERN_KV_F32](x, 4, single));
    assert_true(single[0] == 0.0f);
}

static void test_kv_store_q8_0(void **state)
{
    (void)state;
    float x[64] = {127.0f, 0.5f, 1.5f, -126.5f, [32] = 0x1.fffffep-101f};
    const int8_t want[64] = {127, 0, 2, -126};
    uint8_t row[64 + 4], zeros[68] = {0};
    assert_int_equal(kern_kv_row_bytes(KERN_KV_Q8_0, 64), 68);
    assert_int_equal(kern_kv_row_bytes(KERN_KV_Q8_0, 80), 0);
    assert_true(generic()->kv_store[KERN_KV_Q8_0](x, 64, row));
    assert_memory_equal(row, want, 64);
    assert_memory_equal(row + 64, "\x00\x3c\x00\x00", 4); /* 1, and 0 for what is too small */
    x[33] = 8321039.5f;                                   /* a scale just below 65520 */
    assert_true(generic()->kv_store[KERN_KV_Q8_0](x, 64, row));
    assert_true(row[33] == 127 && row[66] == 0xff && row[67] == 0x7b);
    static const float bad[] = {8321040.0f, INFINITY, -INFINITY, NAN};
    for (unsigned i = 0; i < 4; i++) {
        x[33] = bad[i];
        assert_false(generic()->kv_store[KERN_KV_Q8_0](x, 64, row));
        assert_memory_equal(row, zeros, 68);
    }
}

enum { DIM = 64, POSITIONS = 300 };
static float attend_q[DIM], attend_k[POSITIONS][DIM], attend_v[POSITIONS][DIM];

/* One query. */
static void attend(const struct kern_table *t, enum kern_kv_type type, const void *k, const void *v,
                   uint32_t first, uint32_t n_pos, float scale, float *out)
{
    const struct kern_query query = {attend_q, out, first, n_pos};
    t->attend[type](&query, 1, k, v, DIM, scale);
}

static void attend_fill(uint64_t seed)
{
    for (unsigned i = 0; i < DIM; i++)
        attend_q[i] = draw(&seed) * 3.0f;
    for (unsigned p = 0; p < POSITIONS; p++) {
        for (unsigned i = 0; i < DIM; i++) {
            attend_k[p][i] = draw(&seed);
            attend_v[p][i] = draw(&seed);
        }
    }
}

static void attend_truth(uint32_t first, uint32_t n_pos, double scale, double *out)
{
    double sum = 0.0;
    memset(out, 0, DIM * sizeof *out);
    for (uint32_t p = first; p < n_pos; p++) {
        double score = 0.0;
        for (unsigned i = 0; i < DIM; i++)
            score += (double)attend_q[i] * (double)attend_k[p][i];
        sum += exp(score * scale);
        for (unsigned i = 0; i < DIM; i++)
            out[i] += exp(score * scale) * (double)attend_v[p][i];
    }
    for (unsigned i = 0; i < DIM; i++)
        out[i] /= sum;
}

static void test_attend_right(void **state)
{
    (void)state;
    static const uint32_t spans[][2] = {{0, 1}, {0, 128}, {0, 300}, {100, 290}, {200, 201}};
    static uint16_t k[POSITIONS][DIM], v[POSITIONS][DIM];
    for (unsigned i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        double truth[DIM];
        float out[DIM];
        attend_fill(8 + i);
        /* Rounded first, so that F16 and F32 hold the same. */
        for (unsigned p = 0; p < POSITIONS; p++) {
            assert_true(generic()->kv_store[KERN_KV_F16](attend_k[p], DIM, k[p]));
            assert_true(generic()->kv_store[KERN_KV_F16](attend_v[p], DIM, v[p]));
            for (unsigned j = 0; j < DIM; j++) {
                attend_k[p][j] = kern_f32_from_f16(k[p][j]);
                attend_v[p][j] = kern_f32_from_f16(v[p][j]);
            }
        }
        attend_truth(spans[i][0], spans[i][1], (double)0.3f, truth);
        attend(generic(), KERN_KV_F32, attend_k, attend_v, spans[i][0], spans[i][1], 0.3f, out);
        for (unsigned j = 0; j < DIM; j++)
            assert_true(fabs((double)out[j] - truth[j]) <= 2e-6);
        float again[DIM];
        attend(generic(), KERN_KV_F16, k, v, spans[i][0], spans[i][1], 0.3f, again);
        assert_memory_equal(again, out, sizeof out);
    }
}

/* Q8_0 rows against what they and the quantised query stand for. */
static void test_attend_q8_0_right(void **state)
{
    (void)state;
    enum { ROW = DIM + DIM / 32 * 2 };
    static uint8_t k[POSITIONS][ROW], v[POSITIONS][ROW];
    int8_t q[DIM];
    float a[DIM / 32], s[DIM / 32], out[DIM];
    int16_t h[DIM / 16];
    double truth[DIM];

    attend_fill(31);
    for (unsigned p = 0; p < POSITIONS; p++) {
        assert_true(generic()->kv_store[KERN_KV_Q8_0](attend_k[p], DIM, k[p]));
        assert_true(generic()->kv_store[KERN_KV_Q8_0](attend_v[p], DIM, v[p]));
        for (unsigned i = 0; i < DIM; i++) {
            uint16_t d[2];
            memcpy(&d[0], &k[p][DIM + i / 32 * 2], 2);
            memcpy(&d[1], &v[p][DIM + i / 32 * 2], 2);
            attend_k[p][i] = kern_f32_from_f16(d[0]) * (float)(int8_t)k[p][i];
            attend_v[p][i] = kern_f32_from_f16(d[1]) * (float)(int8_t)v[p][i];
        }
    }
    attend(generic(), KERN_KV_Q8_0, k, v, 3, 290, 0.3f, out);
    assert_true(generic()->quantise(attend_q, DIM, q, a, s, h));
    for (unsigned i = 0; i < DIM; i++)
        attend_q[i] = a[i / 32] * (float)q[i];
    attend_truth(3, 290, (double)0.3f, truth);
    for (unsigned i = 0; i < DIM; i++)
        assert_true(fabs((double)out[i] - truth[i]) <= 3e-6);

    attend_q[DIM - 1] = NAN; /* cannot be quantised */
    attend(generic(), KERN_KV_Q8_0, k, v, 3, 290, 0.3f, out);
    for (unsigned i = 0; i < DIM; i++)
        assert_int_equal(bits_of(out[i]), 0x7fc00000);
}

/* Rows outside [first, n_pos) are not looked at, a score that is not finite spoils every output,
 * and a later chunk with a far larger maximum takes over. */
static void test_attend_edges(void **state)
{
    (void)state;
    for (unsigned i = 0; kern_table_at(i) != NULL; i++) {
        const struct kern_table *t = kern_table_at(i);
        float out[DIM], want[DIM];
        if (!kern_table_runs(t))
            continue;
        attend_fill(20);
        attend(t, KERN_KV_F32, attend_k, attend_v, 130, 270, 0.3f, want);
        attend_k[129][0] = attend_v[129][0] = attend_k[270][0] = attend_v[270][0] = NAN;
        attend(t, KERN_KV_F32, attend_k, attend_v, 130, 270, 0.3f, out);
        assert_memory_equal(out, want, sizeof out);

        static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
        static const unsigned where[] = {130, 255, 256, 269};
        for (unsigned j = 0; j < 16; j++) {
            attend_fill(20);
            attend_k[where[j / 4]][0] = bad[j % 4];
            attend(t, KERN_KV_F32, attend_k, attend_v, 130, 270, 1e3f, out);
            for (unsigned d = 0; d < DIM; d++)
                assert_int_equal(bits_of(out[d]), 0x7fc00000);
        }
        attend_fill(20);
        for (unsigned d = 0; d < DIM; d++)
            attend_k[260][d] = attend_q[d] * 100.0f;
        attend(t, KERN_KV_F32, attend_k, attend_v, 130, 270, 0.3f, out);
        assert_memory_equal(out, attend_v[260], sizeof out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_definition),
        cmocka_unit_test(test_one_hash),
        cmocka_unit_test(test_hash_covers_slots),
        cmocka_unit_test(test_select),
        cmocka_unit_test(test_slots_filled),
        cmocka_unit_test(test_fp_init),
        cmocka_unit_test(test_quantise),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_units_any_grouping),
        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_silu_mul),
        cmocka_unit_test(test_gelu_mul),
        cmocka_unit_test(test_kv_store),
        cmocka_unit_test(test_kv_store_q8_0),
        cmocka_unit_test(test_attend_right),
        cmocka_unit_test(test_attend_q8_0_right),
        cmocka_unit_test(test_attend_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
