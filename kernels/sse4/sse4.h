/* What the SSE4.1 kernels share: x86 without FMA, F16C and wide registers (netbooks, small servers
 * and laptops before 2013). Four registers of 4 lanes stand for the 16 rows of a group or the 16
 * lanes of a vector product.
 *
 * The definition's fmaf has one rounding. Here the product is taken in double, where it is exact;
 * the sum with the addend is rounded to nearest and its error recovered exactly (Knuth, "The Art of
 * Computer Programming" 2, 4.2.2, theorem B); with the error's sign the sum is rounded to odd
 * instead, which keeps enough to make the narrowing to float the only rounding that counts (Boldo,
 * Melquiond, "Emulation of a FMA and Correctly Rounded Sums", 2008). 53 bits are more than twice 24
 * and two, so this holds for denormal results too. A plain sum in double, narrowed, is wrong now
 * and then. Private to kernels/sse4/. */
#ifndef KERNELS_SSE4_SSE4_H
#define KERNELS_SSE4_SSE4_H

#include "kernels/internal.h"

#include <math.h>
#include <smmintrin.h>
#include <tmmintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
#define SSE4_UNROLL _Pragma("GCC unroll 16")
#else
#define SSE4_UNROLL
#endif

/* a * b + c of doubles that were floats, rounded to odd. */
KERN_ALWAYS_INLINE __m128d sse4_fma_odd(__m128d a, __m128d b, __m128d c)
{
    const __m128d p = _mm_mul_pd(a, b);
    const __m128d s = _mm_add_pd(p, c);
    const __m128d z = _mm_sub_pd(s, p);
    const __m128d error = _mm_add_pd(_mm_sub_pd(p, _mm_sub_pd(s, z)), _mm_sub_pd(c, z));

    /* Where the error is not 0 (nor a NaN, behind an infinity) and the last bit is even: one unit
     * in the last place towards the error, that is up in size if the signs agree, else down. */
    const __m128d size = _mm_andnot_pd(_mm_set1_pd(-0.0), error);
    const __m128i inexact = _mm_castpd_si128(_mm_cmplt_pd(_mm_setzero_pd(), size));
    const __m128i bits = _mm_castpd_si128(s);
    const __m128i step = _mm_and_si128(_mm_andnot_si128(bits, inexact), _mm_set_epi32(0, 1, 0, 1));
    const __m128i signs = _mm_srai_epi32(_mm_castpd_si128(_mm_xor_pd(error, s)), 31);
    const __m128i down = _mm_shuffle_epi32(signs, 0xf5);
    return _mm_castsi128_pd(_mm_add_epi64(bits, _mm_sub_epi64(_mm_xor_si128(step, down), down)));
}

/* fmaf of four. */
KERN_ALWAYS_INLINE __m128 sse4_fma(__m128 a, __m128 b, __m128 c)
{
    const __m128d low = sse4_fma_odd(_mm_cvtps_pd(a), _mm_cvtps_pd(b), _mm_cvtps_pd(c));
    const __m128d high =
        sse4_fma_odd(_mm_cvtps_pd(_mm_movehl_ps(a, a)), _mm_cvtps_pd(_mm_movehl_ps(b, b)),
                     _mm_cvtps_pd(_mm_movehl_ps(c, c)));
    return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
}

KERN_ALWAYS_INLINE float sse4_fma1(float a, float b, float c)
{
    return _mm_cvtss_f32(sse4_fma(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}

/* Four F16 as F32: the exponent is put right by a product with 2^112, which makes a denormal half
 * the number it is; infinities and NaN get theirs back after it. */
KERN_ALWAYS_INLINE __m128 sse4_load_f16(const void *p)
{
    const __m128i half = _mm_cvtepu16_epi32(_mm_loadl_epi64(p));
    const __m128i size = _mm_and_si128(half, _mm_set1_epi32(0x7fff));
    const __m128i sign = _mm_slli_epi32(_mm_xor_si128(half, size), 16);
    const __m128i special =
        _mm_and_si128(_mm_cmpgt_epi32(size, _mm_set1_epi32(0x7bff)), _mm_set1_epi32(KERN_INF_BITS));
    const __m128 value =
        _mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(size, 13)), _mm_set1_ps(0x1p112f));
    return _mm_castsi128_ps(_mm_or_si128(_mm_or_si128(_mm_castps_si128(value), special), sign));
}

/* Largest |x| of n, as bits: a NaN or an infinity shows as KERN_INF_BITS or more. */
KERN_ALWAYS_INLINE uint32_t sse4_max_abs(const float *x, size_t n)
{
    __m128i m = _mm_setzero_si128();
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        m = _mm_max_epi32(
            m, _mm_and_si128(_mm_castps_si128(_mm_loadu_ps(x + i)), _mm_set1_epi32(KERN_ABS_MASK)));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    uint32_t bits = (uint32_t)_mm_cvtsi128_si32(m);
    for (; i < n; i++) {
        const uint32_t b = kern_bits(x[i]) & KERN_ABS_MASK;
        bits = b > bits ? b : bits;
    }
    return bits;
}

/* kern_exp of four values. */
KERN_ALWAYS_INLINE __m128 sse4_exp(__m128 x)
{
    const __m128 live = _mm_cmpgt_ps(x, _mm_set1_ps(-87.0f));
    const __m128 magic = _mm_set1_ps(12582912.0f);
    x = _mm_min_ps(x, _mm_set1_ps(88.0f));

    const __m128 z = sse4_fma(x, _mm_set1_ps(1.44269504f), magic);
    const __m128 n = _mm_sub_ps(z, magic);
    __m128 r = sse4_fma(n, _mm_set1_ps(-0.693145752f), x);
    r = sse4_fma(n, _mm_set1_ps(-1.42860677e-6f), r);
    static const float poly[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                 1.6666665459e-1f, 5.0000001201e-1f};
    __m128 p = _mm_set1_ps(1.9875691500e-4f);
    for (unsigned i = 0; i < sizeof poly / sizeof poly[0]; i++)
        p = sse4_fma(p, r, _mm_set1_ps(poly[i]));
    p = _mm_add_ps(sse4_fma(p, _mm_mul_ps(r, r), r), _mm_set1_ps(1.0f));

    const __m128i shift = _mm_sub_epi32(_mm_castps_si128(z), _mm_set1_epi32(0x4b400000));
    p = _mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(p), _mm_slli_epi32(shift, 23)));
    return _mm_and_ps(p, live);
}

/* lane[i & 15] = fmaf(x[i], y[i], lane[i & 15]) over n from +0, folded: +8, +4, +2, +1. */
KERN_ALWAYS_INLINE float sse4_dot16(const float *x, const float *y, size_t n)
{
    __m128 sum[4];
    float lane[16];
    size_t i = 0;
    SSE4_UNROLL
    for (unsigned j = 0; j < 4; j++)
        sum[j] = _mm_setzero_ps();
    for (; i + 16 <= n; i += 16) {
        SSE4_UNROLL
        for (unsigned j = 0; j < 4; j++)
            sum[j] = sse4_fma(_mm_loadu_ps(x + i + 4 * j), _mm_loadu_ps(y + i + 4 * j), sum[j]);
    }
    SSE4_UNROLL
    for (unsigned j = 0; j < 4; j++)
        _mm_storeu_ps(lane + 4 * j, sum[j]);
    for (; i < n; i++)
        lane[i & 15] = sse4_fma1(x[i], y[i], lane[i & 15]);
    return kern_fold16(lane);
}

/* y = f(gate) * up; the tail goes through the same code in padded registers. y may be gate. */
KERN_ALWAYS_INLINE void sse4_gated(__m128 (*f)(__m128 gate), const float *gate, const float *up,
                                   uint32_t n, float *y)
{
    for (size_t i = 0; i < n; i += 4) {
        const size_t left = kern_min_size(n - i, 4);
        float g[4] = {0}, u[4] = {0};
        memcpy(g, gate + i, left * sizeof *g);
        memcpy(u, up + i, left * sizeof *u);
        _mm_storeu_ps(g, _mm_mul_ps(f(_mm_loadu_ps(g)), _mm_loadu_ps(u)));
        memcpy(y + i, g, left * sizeof *g);
    }
}

#endif
