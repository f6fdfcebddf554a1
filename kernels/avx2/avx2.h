/* What the AVX2 kernels share. Two registers of 8 lanes stand for the 16 rows of a group or the 16
 * lanes of a vector product. Every step below is one of the definition's, with the same rounding;
 * none of the approximate instructions (rcpps, rsqrtps) appears. Private to kernels/avx2/. */
#ifndef KERNELS_AVX2_AVX2_H
#define KERNELS_AVX2_AVX2_H

#include "kernels/internal.h"

#include <immintrin.h>
#include <math.h>

/* Before a loop whose count is a constant once its function is inlined: without it GCC leaves small
 * arrays of registers in memory at -O2. Other compilers unroll such loops by themselves. Under a
 * sanitizer, whose checks multiply with the copies, it would take minutes to compile. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define AVX2_UNROLL _Pragma("GCC unroll 16")
#else
#define AVX2_UNROLL
#endif

/* a + b, as one instruction at this place: compilers know that integer sums may be regrouped, turn
 * a chain into a tree, and then run out of registers for its branches. */
KERN_ALWAYS_INLINE __m256i avx2_add16(__m256i a, __m256i b)
{
    __m256i sum = _mm256_add_epi16(a, b);
    __asm__("" : "+x"(sum));
    return sum;
}

KERN_ALWAYS_INLINE __m256i avx2_add32(__m256i a, __m256i b)
{
    __m256i sum = _mm256_add_epi32(a, b);
    __asm__("" : "+x"(sum));
    return sum;
}

/* Eight F16 as F32. */
KERN_ALWAYS_INLINE __m256 avx2_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

/* Bits of |x|. */
KERN_ALWAYS_INLINE __m256i avx2_abs_bits(__m256 x)
{
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

/* Largest of eight non-negative integers. */
KERN_ALWAYS_INLINE uint32_t avx2_max(__m256i v)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

/* Largest |x| of n, as bits: a NaN or an infinity shows as KERN_INF_BITS or more. */
KERN_ALWAYS_INLINE uint32_t avx2_max_abs(const float *x, size_t n)
{
    __m256i m = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        m = _mm256_max_epi32(m, avx2_abs_bits(_mm256_loadu_ps(x + i)));
    uint32_t bits = avx2_max(m);
    for (; i < n; i++) {
        const uint32_t b = kern_bits(x[i]) & KERN_ABS_MASK;
        bits = b > bits ? b : bits;
    }
    return bits;
}

/* Lanes 0..7 and 8..15 folded: +8, +4, +2, +1. */
KERN_ALWAYS_INLINE float avx2_fold16(__m256 low, __m256 high)
{
    const __m256 by8 = _mm256_add_ps(low, high);
    const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
    const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
    return _mm_cvtss_f32(_mm_add_ss(by2, _mm_shuffle_ps(by2, by2, 1)));
}

/* kern_exp of eight values. */
KERN_ALWAYS_INLINE __m256 avx2_exp(__m256 x)
{
    const __m256 live = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_GT_OQ);
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    x = _mm256_min_ps(x, _mm256_set1_ps(88.0f));

    const __m256 z = _mm256_fmadd_ps(x, _mm256_set1_ps(1.44269504f), magic);
    const __m256 n = _mm256_sub_ps(z, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693145752f), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-1.42860677e-6f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));

    const __m256i shift = _mm256_sub_epi32(_mm256_castps_si256(z), _mm256_set1_epi32(0x4b400000));
    p = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(shift, 23)));
    return _mm256_and_ps(p, live);
}

/* y = f(gate) * up; the tail goes through the same code in padded registers. y may be gate. */
KERN_ALWAYS_INLINE void avx2_gated(__m256 (*f)(__m256 gate), const float *gate, const float *up,
                                   uint32_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i,
                         _mm256_mul_ps(f(_mm256_loadu_ps(gate + i)), _mm256_loadu_ps(up + i)));
    if (i < n) {
        float g[8] = {0}, u[8] = {0};
        memcpy(g, gate + i, (n - i) * sizeof *g);
        memcpy(u, up + i, (n - i) * sizeof *u);
        _mm256_storeu_ps(g, _mm256_mul_ps(f(_mm256_loadu_ps(g)), _mm256_loadu_ps(u)));
        memcpy(y + i, g, (n - i) * sizeof *g);
    }
}

#endif
