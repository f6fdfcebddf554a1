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
static bool wrong_quantise(const float *x, uint32_t n, int8_t *q, float *a, int16_t *h)
{
    const bool ok = generic()->quantise(x, n, q, a, h);
    q[n - 1] ^= 1;
    return ok;
}

static void wrong_matmul(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                         const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    generic()->matmul[w->type](w, group0, group1, x, n_x, y, y_stride);
    y[0] = nextafterf(y[0], INFINITY);
}

static bool wrong_unit_add(const float *u, uint32_t n, int64_t *acc)
{
    acc[n - 1]++;
    return generic()->unit_add(u, n, acc);
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

static bool wrong_kv_store_f16(const float *x, uint32_t head_dim, void *row)
{
    const bool ok = generic()->kv_store[KERN_KV_F16](x, head_dim, row);
    *(uint8_t *)row ^= 1;
    return ok;
}

static bool wrong_kv_store_f32(const float *x, uint32_t head_dim, void *row)
{
    const bool ok = generic()->kv_store[KERN_KV_F32](x, head_dim, row);
    *(uint8_t *)row ^= 1;
    return ok;
}

static void wrong_attend_f16(const float *q, const void *k, const void *v, uint32_t head_dim,
                             uint32_t first, uint32_t n_pos, float scale, float *out)
{
    generic()->attend[KERN_KV_F16](q, k, v, head_dim, first, n_pos, scale, out);
    out[0] = nextafterf(out[0], INFINITY);
}

static void wrong_attend_f32(const float *q, const void *k, const void *v, uint32_t head_dim,
                             uint32_t first, uint32_t n_pos, float scale, float *out)
{
    generic()->attend[KERN_KV_F32](q, k, v, head_dim, first, n_pos, scale, out);
    out[0] = nextafterf(out[0], INFINITY);
}

static void test_hash_covers_slots(void **state)
{
    (void)state;
    struct kern_table t;
    for (unsigned i = 0; i < KERN_N_TYPES + 9; i++) {
        t = *generic();
        if (i < KERN_N_TYPES)
            t.matmul[i] = wrong_matmul;
        switch ((int)i - KERN_N_TYPES) {
        case 0:
            t.quantise = wrong_quantise;
            break;
        case 1:
            t.unit_add = wrong_unit_add;
            break;
        case 2:
            t.unit_close = wrong_unit_close;
            break;
        case 3:
            t.rms_norm = wrong_rms_norm;
            break;
        case 4:
            t.silu_mul = wrong_silu_mul;
            break;
        case 5:
            t.kv_store[KERN_KV_F16] = wrong_kv_store_f16;
            break;
        case 6:
            t.kv_store[KERN_KV_F32] = wrong_kv_store_f32;
            break;
        case 7:
            t.attend[KERN_KV_F16] = wrong_attend_f16;
            break;
        case 8:
            t.attend[KERN_KV_F32] = wrong_attend_f32;
            break;
        default:
            break;
        }
        assert_int_not_equal(kern_table_hash(&t), KERNEL_HASH);
    }
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
        assert_true(t->quantise && t->unit_add && t->unit_close && t->rms_norm && t->silu_mul);
        for (unsigned type = 0; type < KERN_N_TYPES; type++)
            assert_true(t->matmul[type] != NULL);
        for (unsigned type = 0; type < KERN_N_KV_TYPES; type++)
            assert_true(t->kv_store[type] != NULL && t->attend[type] != NULL);
        if (i > 0) /* kernels.def has a line for it that took effect */
            assert_true(t->matmul[KERN_Q8_0] != generic()->matmul[KERN_Q8_0]);
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
    float x[96], a[3];
    int8_t q[96];
    int16_t h[6];
    uint64_t rng = 5;

    for (unsigned i = 0; i < 96; i++)
        x[i] = draw(&rng) * (i < 32 ? 1e-20f : i < 64 ? 1.0f : 1e30f);
    assert_true(generic()->quantise(x, 96, q, a, h));
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
        assert_true(generic()->quantise(x, 32, q, a, h));
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
    assert_true(generic()->quantise(x, 96, q, a, h));
    assert_memory_equal(q, even, sizeof even);
    assert_true(a[0] == 1.0f && a[1] == 0.0f && q[32] == 0 && h[2] == 0 && a[2] > 0.0f &&
                q[64] == -127);

    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (unsigned i = 0; i < 3; i++) {
        static const int8_t zeros[96];
        x[95] = bad[i];
        assert_false(generic()->quantise(x, 96, q, a, h));
        assert_memory_equal(q, zeros, 96);
        assert_true(a[0] == 0.0f && a[2] == 0.0f && h[0] == 0 && h[5] == 0);
    }
}

static void test_units(void **state)
{
    (void)state;
    const float u[] = {1.0f, -0x1p-31f, 0x1.8p-30f, 0x1p21f, -0x1p21f, 0x1p-30f};
    const int64_t want[] = {1 << 30, 0, 2, (int64_t)1 << 51, -((int64_t)1 << 51), 1};
    int64_t acc[6] = {0}, before[6];
    float x[6] = {0};
    assert_true(generic()->unit_add(u, 6, acc));
    assert_memory_equal(acc, want, sizeof want);

    static const float bad[] = {0x1.000002p21f, -0x1.000002p21f, INFINITY, NAN};
    memcpy(before, acc, sizeof acc);
    for (unsigned i = 0; i < 4; i++) {
        float v[6] = {1, 1, 1, 1, 1, 1};
        v[5] = bad[i];
        assert_false(generic()->unit_add(v, 6, acc));
        assert_memory_equal(acc, before, sizeof acc);
    }

    /* The most terms there may be, all largest, do not overflow. */
    int64_t many = 0;
    for (unsigned i = 0; i < KERN_UNITS_MAX; i++)
        assert_true(generic()->unit_add(&u[4], 1, &many));
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
        assert_true(generic()->unit_add(u[i], N, whole));
    for (unsigned members = 2; members < 9; members++) {
        int64_t sum[N] = {0};
        for (unsigned k = members; k-- > 0;) {
            int64_t part[N] = {0};
            for (unsigned i = UNITS; i-- > 0;)
                if (base_mix64(i) % members == k)
                    assert_true(generic()->unit_add(u[i], N, part));
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

enum { DIM = 48, POSITIONS = 300 };
static float attend_q[DIM], attend_k[POSITIONS][DIM], attend_v[POSITIONS][DIM];

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
        generic()->attend[KERN_KV_F32](attend_q, attend_k, attend_v, DIM, spans[i][0], spans[i][1],
                                       0.3f, out);
        for (unsigned j = 0; j < DIM; j++)
            assert_true(fabs((double)out[j] - truth[j]) <= 2e-6);
        float again[DIM];
        generic()->attend[KERN_KV_F16](attend_q, k, v, DIM, spans[i][0], spans[i][1], 0.3f, again);
        assert_memory_equal(again, out, sizeof out);
    }
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
        t->attend[KERN_KV_F32](attend_q, attend_k, attend_v, DIM, 130, 270, 0.3f, want);
        attend_k[129][0] = attend_v[129][0] = attend_k[270][0] = attend_v[270][0] = NAN;
        t->attend[KERN_KV_F32](attend_q, attend_k, attend_v, DIM, 130, 270, 0.3f, out);
        assert_memory_equal(out, want, sizeof out);

        static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
        static const unsigned where[] = {130, 255, 256, 269};
        for (unsigned j = 0; j < 16; j++) {
            attend_fill(20);
            attend_k[where[j / 4]][0] = bad[j % 4];
            t->attend[KERN_KV_F32](attend_q, attend_k, attend_v, DIM, 130, 270, 1e3f, out);
            for (unsigned d = 0; d < DIM; d++)
                assert_int_equal(bits_of(out[d]), 0x7fc00000);
        }
        attend_fill(20);
        for (unsigned d = 0; d < DIM; d++)
            attend_k[260][d] = attend_q[d] * 100.0f;
        t->attend[KERN_KV_F32](attend_q, attend_k, attend_v, DIM, 130, 270, 0.3f, out);
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
        cmocka_unit_test(test_kv_store),
        cmocka_unit_test(test_attend_right),
        cmocka_unit_test(test_attend_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
