/* The functions of kernels.h against independent truths: the C library in double precision with a
 * stated bound, all 65536 halves, and rounding checked at every boundary between two of them. Bits
 * are pinned elsewhere, by the hash in test_kernels.c; here the question is whether the numbers are
 * right. */
#include "kernels/kernels.h"

#include "common/common.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static uint32_t bits_of(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static float float_of(uint32_t b)
{
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* Uniform in [0, 1). */
static double draw(uint64_t *rng)
{
    return (double)(base_rng_next(rng) >> 11) * 0x1p-53;
}

/* Distance of x from the truth y in units of y's last place. */
static double ulps(double x, double y)
{
    int e;
    frexp(y, &e);
    return fabs(x - y) / ldexp(1.0, e < -1021 ? -1074 : e - 53);
}

static void test_exp_f32(void **state)
{
    (void)state;
    double worst = 0.0;
    for (int i = -86990; i < 88000; i++) {
        const float x = (float)i * 1e-3f;
        const double truth = exp((double)x);
        worst = fmax(worst, fabs((double)kern_exp(x) - truth) / truth);
    }
    assert_true(worst > 1e-9 && worst <= 8.4e-8);

    assert_int_equal(bits_of(kern_exp(0.0f)), bits_of(1.0f));
    assert_int_equal(bits_of(kern_exp(-0.0f)), bits_of(1.0f));
    assert_int_equal(bits_of(kern_exp(-87.0f)), 0);
    assert_int_equal(bits_of(kern_exp(-INFINITY)), 0);
    assert_int_equal(bits_of(kern_exp(NAN)), 0);
    assert_true(kern_exp(nextafterf(-87.0f, 0.0f)) >= 0x1p-126f);
    assert_int_equal(bits_of(kern_exp(1e30f)), bits_of(kern_exp(88.0f)));
    assert_int_equal(bits_of(kern_exp(INFINITY)), bits_of(kern_exp(88.0f)));
    assert_true(kern_exp(88.0f) < INFINITY);
}

static void test_log_f64(void **state)
{
    (void)state;
    uint64_t rng = 1;
    double worst = 0.0;
    for (unsigned i = 0; i < 200000; i++) {
        const double m = 0.5 + draw(&rng) * 1.5; /* dense around 1, where the result is small */
        const double x = i % 2 == 0 ? m : ldexp(m, (int)(base_rng_next(&rng) % 2000) - 1000);
        worst = fmax(worst, ulps(kern_log_f64(x), log(x)));
    }
    assert_true(worst <= 2.0);
    assert_true(kern_log_f64(1.0) == 0.0);
    assert_true(ulps(kern_log_f64(0x1p-1074), log(0x1p-1074)) <= 2.0);
    assert_true(isnan(kern_log_f64(0.0)) && isnan(kern_log_f64(-1.0)));
    assert_true(isnan(kern_log_f64((double)INFINITY)) && isnan(kern_log_f64((double)NAN)));
}

static void test_exp_f64(void **state)
{
    (void)state;
    uint64_t rng = 2;
    double worst = 0.0;
    for (unsigned i = 0; i < 200000; i++) {
        const double range = i % 2 == 0 ? 1.0 : 708.0;
        const double x = (draw(&rng) * 2.0 - 1.0) * range;
        worst = fmax(worst, ulps(kern_exp_f64(x), exp(x)));
    }
    assert_true(worst <= 2.0);
    assert_true(kern_exp_f64(0.0) == 1.0);
    assert_true(kern_exp_f64(-800.0) == 0.0 && kern_exp_f64((double)-INFINITY) == 0.0);
    assert_true(isinf(kern_exp_f64(800.0)) && isinf(kern_exp_f64((double)INFINITY)));
    assert_true(isnan(kern_exp_f64((double)NAN)));
    assert_true(fabs(kern_exp_f64(-740.0) - exp(-740.0)) <= 0x1p-1073);
}

static void test_sincos_f64(void **state)
{
    (void)state;
    uint64_t rng = 3;
    double worst = 0.0, s, c;
    for (unsigned i = 0; i < 300000; i++) {
        const double range = i % 3 == 0 ? 4.0 : i % 3 == 1 ? 1e6 : 2147483647.0;
        double x = (draw(&rng) * 2.0 - 1.0) * range;
        if (i % 10 == 9) /* next to a multiple of pi/2, where one of the two is nearly 0 */
            x = nearbyint(x) * 1.5707963267948966;
        if (!(fabs(x) < 0x1p31))
            continue;
        kern_sincos_f64(x, &s, &c);
        worst = fmax(worst, fmax(ulps(s, sin(x)), ulps(c, cos(x))));
    }
    assert_true(worst <= 2.0);
    kern_sincos_f64(0.0, &s, &c);
    assert_true(s == 0.0 && c == 1.0);
    kern_sincos_f64(0x1p31, &s, &c);
    assert_true(isnan(s) && isnan(c));
    kern_sincos_f64((double)NAN, &s, &c);
    assert_true(isnan(s) && isnan(c));
}

/* The value of a half by the book: sign, exponent, fraction. */
static double half_value(uint32_t h)
{
    const int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
    const double size =
        exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    return (h & 0x8000u) != 0 ? -size : size;
}

static void test_f16_to_f32(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float x = kern_f32_from_f16((uint16_t)h);
        if ((h & 0x7c00u) != 0x7c00u) {
            assert_true((double)x == half_value(h));
            assert_int_equal(signbit(x) != 0, h >> 15);
        } else if ((h & 0x3ffu) == 0) {
            assert_int_equal(bits_of(x), (h & 0x8000u) << 16 | 0x7f800000u);
        } else { /* a NaN is quiet and keeps its payload */
            assert_int_equal(bits_of(x), (h & 0x8000u) << 16 | 0x7fc00000u | (h & 0x3ffu) << 13);
        }
    }
}

static void test_f32_to_f16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const uint32_t back = kern_f16_from_f32(kern_f32_from_f16((uint16_t)h));
        const bool is_nan = (h & 0x7fffu) > 0x7c00u;
        assert_int_equal(back, is_nan ? h | 0x200u : h);
    }
    /* Between neighbours h and h + 1: the middle goes to the even one, one step off it to the
     * nearer. */
    for (uint32_t h = 0; h < 0x7bff; h++) {
        const float middle = (float)((half_value(h) + half_value(h + 1)) / 2);
        assert_int_equal(kern_f16_from_f32(middle), h + (h & 1));
        assert_int_equal(kern_f16_from_f32(nextafterf(middle, 0.0f)), h);
        assert_int_equal(kern_f16_from_f32(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(kern_f16_from_f32(-middle), 0x8000u + h + (h & 1));
    }
    assert_int_equal(kern_f16_from_f32(nextafterf(65520.0f, 0.0f)), 0x7bff);
    assert_int_equal(kern_f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(kern_f16_from_f32(-INFINITY), 0xfc00);
    assert_int_equal(kern_f16_from_f32(float_of(1)), 0);
    assert_int_equal(kern_f16_from_f32(float_of(0x7f800001u)), 0x7e00);
    assert_int_equal(kern_f16_from_f32(float_of(0xffffffffu)), 0xffff);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++)
        assert_int_equal(bits_of(kern_f32_from_bf16((uint16_t)h)), h << 16);
}

static void test_rope_table(void **state)
{
    (void)state;
    enum { DIMS = 96 };
    float cs[DIMS], factors[DIMS / 2];
    for (unsigned i = 0; i < DIMS / 2; i++)
        factors[i] = 1.0f + (float)i * 0.25f;
    for (uint32_t pos = 0; pos < 1u << 20; pos = pos * 3 + 1) {
        for (unsigned scaled = 0; scaled < 2; scaled++) {
            kern_rope_table(pos, DIMS, 500000.0, scaled != 0 ? factors : NULL, cs);
            for (unsigned i = 0; i < DIMS / 2; i++) {
                const double angle = (double)pos * pow(500000.0, -2.0 * i / DIMS) /
                                     (scaled != 0 ? (double)factors[i] : 1.0);
                assert_true(fabs((double)cs[2 * i] - cos(angle)) < 4e-8 + angle * 1e-14);
                assert_true(fabs((double)cs[2 * i + 1] - sin(angle)) < 4e-8 + angle * 1e-14);
            }
        }
    }
    factors[0] = 0.0f; /* a file may say anything: NaN, not a trap */
    kern_rope_table(5, DIMS, 500000.0, factors, cs);
    assert_true(isnan(cs[0]) && isnan(cs[1]) && !isnan(cs[2]));
    kern_rope_table(5, DIMS, -1.0, NULL, cs);
    assert_true(isnan(cs[2]));
}

static void test_rope_rotation(void **state)
{
    (void)state;
    const float cs[] = {0.0f, 1.0f, 1.0f, 0.0f, -1.0f, 0.0f}; /* by 90, 0 and 180 degrees */
    float norm[] = {1, 2, 3, 4, 5, 6}, neox[] = {1, 2, 3, 4, 5, 6};
    const float norm_want[] = {-2, 1, 3, 4, -5, -6}, neox_want[] = {-4, 2, -3, 1, 5, -6};
    kern_rope_norm(norm, 6, cs);
    kern_rope_neox(neox, 6, cs);
    for (unsigned i = 0; i < 6; i++) {
        assert_true(norm[i] == norm_want[i]);
        assert_true(neox[i] == neox_want[i]);
    }
    /* Unfused: each product is rounded before the difference is taken. */
    const float c = 0x1.000002p0f, s = 0x1.000004p0f, angle[] = {c, s};
    float x[] = {0x1.000006p0f, 0x1.00000ap0f};
    const volatile float p = x[0] * c, q = x[1] * s;
    const float want = p - q;
    kern_rope_norm(x, 2, angle);
    assert_int_equal(bits_of(x[0]), bits_of(want));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_f32),       cmocka_unit_test(test_log_f64),
        cmocka_unit_test(test_exp_f64),       cmocka_unit_test(test_sincos_f64),
        cmocka_unit_test(test_f16_to_f32),    cmocka_unit_test(test_f32_to_f16),
        cmocka_unit_test(test_bf16),          cmocka_unit_test(test_rope_table),
        cmocka_unit_test(test_rope_rotation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
