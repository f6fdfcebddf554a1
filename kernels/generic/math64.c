/* log, exp, sin and cos in double, for the RoPE table and the sampler. Our own, because the C
 * library's return other bits on another machine, even on the same machine with and without FMA.
 * Each is a reduction by fma and a Taylor polynomial by Horner's rule: a fixed sequence of
 * correctly rounded operations, about one unit in the last place from the truth
 * (tests/unit/test_functions.c holds them to 2). Arguments outside the stated domain give NaN,
 * never a trap. */
#include "kernels/internal.h"

#include <math.h>

static const double ln2_hi = 0x1.62e42fefa39efp-1, ln2_lo = 0x1.abc9e3b39803fp-56;

static double horner(double x, const double *c, unsigned n)
{
    double p = c[0];
    for (unsigned i = 1; i < n; i++)
        p = fma(p, x, c[i]);
    return p;
}

/* x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); with s = f / (2 + f), log(1 + f) is
 * 2 atanh(s) = f - (f^2/2 - s (f^2/2 + R)), R = 2 s^2/3 + 2 s^4/5 + ...: f enters unrounded. */
double kern_log_f64(double x)
{
    static const double c[] = {2.0 / 25, 2.0 / 23, 2.0 / 21, 2.0 / 19, 2.0 / 17, 2.0 / 15,
                               2.0 / 13, 2.0 / 11, 2.0 / 9,  2.0 / 7,  2.0 / 5,  2.0 / 3};
    if (!(x > 0.0 && x <= DBL_MAX))
        return (double)NAN;

    int e;
    double m = frexp(x, &e);
    if (m < 0x1.6a09e667f3bcdp-1) {
        m = m * 2.0;
        e = e - 1;
    }
    const double f = m - 1.0, s = f / (2.0 + f), z = s * s, h = 0.5 * f * f;
    const double r = horner(z, c, sizeof c / sizeof c[0]) * z;
    const double part = f - (h - s * (h + r));
    return fma((double)e, ln2_hi, fma((double)e, ln2_lo, part));
}

/* x = n ln 2 + r, |r| <= ln(2)/2; exp(r) = 1 + r + r^2 q(r). */
double kern_exp_f64(double x)
{
    static const double c[] = {1.0 / 87178291200.0,
                               1.0 / 6227020800.0,
                               1.0 / 479001600.0,
                               1.0 / 39916800.0,
                               1.0 / 3628800.0,
                               1.0 / 362880.0,
                               1.0 / 40320.0,
                               1.0 / 5040.0,
                               1.0 / 720.0,
                               1.0 / 120.0,
                               1.0 / 24.0,
                               1.0 / 6.0,
                               1.0 / 2.0};
    if (x != x)
        return (double)NAN;
    if (x > 709.79)
        return (double)INFINITY;
    if (x < -745.2)
        return 0.0;

    const double n = rint(x * 0x1.71547652b82fep0);
    const double r = fma(-n, ln2_lo, fma(-n, ln2_hi, x));
    const double p = fma(horner(r, c, sizeof c / sizeof c[0]), r * r, r) + 1.0;
    return ldexp(p, (int)n);
}

/* x = n pi/2 + r, |r| <= pi/4, with pi/2 in three parts: the first fma is exact for |x| < 2^31,
 * because its result is a multiple of 2^-52 below 1 or so. */
void kern_sincos_f64(double x, double *s, double *c)
{
    static const double sin_c[] = {
        1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0,
        1.0 / 362880.0,          -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0};
    static const double cos_c[] = {
        -1.0 / 6402373705728000.0, 1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0,
        -1.0 / 3628800.0,          1.0 / 40320.0,          -1.0 / 720.0,         1.0 / 24.0};
    if (!(x > -0x1p31 && x < 0x1p31)) {
        *s = *c = (double)NAN;
        return;
    }

    const double n = rint(x * 0x1.45f306dc9c883p-1);
    double r = fma(-n, 0x1.921fb54442d18p0, x);
    r = fma(-n, 0x1.1a62633145c07p-54, r);
    r = fma(-n, -0x1.f1976b7ed8fbcp-110, r);

    const double z = r * r;
    const double sin_r = fma(horner(z, sin_c, 8) * z, r, r);
    const double cos_r = fma(horner(z, cos_c, 8), z * z, fma(-0.5, z, 1.0));
    switch ((int64_t)n & 3) {
    case 0:
        *s = sin_r;
        *c = cos_r;
        break;
    case 1:
        *s = cos_r;
        *c = -sin_r;
        break;
    case 2:
        *s = -sin_r;
        *c = -cos_r;
        break;
    default:
        *s = -cos_r;
        *c = sin_r;
        break;
    }
}
