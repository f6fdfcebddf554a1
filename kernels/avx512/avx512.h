/* What the AVX-512 kernels share. One register of 16 lanes is the 16 rows of a group, or the 16
 * lanes of a vector product. Every step below is one of the definition's, with the same rounding;
 * none of the approximate instructions (vrcp14ps, vrsqrt14ps) and no bfloat16 arithmetic appears.
 * Needed: F, BW, VL, DQ and VNNI. Private to kernels/avx512/. */
#ifndef KERNELS_AVX512_AVX512_H
#define KERNELS_AVX512_AVX512_H

#include "kernels/internal.h"

#include <immintrin.h>
#include <math.h>

/* Before a loop whose count is a constant once its function is inlined: without it GCC leaves small
 * arrays of registers in memory at -O2. Other compilers unroll such loops by themselves. Under a
 * sanitizer, whose checks multiply with the copies, it would take minutes to compile. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define AVX512_UNROLL _Pragma("GCC unroll 16")
#else
#define AVX512_UNROLL
#endif

/* The first n lanes, n <= 16. */
KERN_ALWAYS_INLINE __mmask16 avx512_first(size_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

/* Sixteen F16 as F32. */
KERN_ALWAYS_INLINE __m512 avx512_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

/* Bits of |x|. */
KERN_ALWAYS_INLINE __m512i avx512_abs_bits(__m512 x)
{
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)KERN_ABS_MASK));
}

/* Largest |x| of n, as bits: a NaN or an infinity shows as KERN_INF_BITS or more. */
KERN_ALWAYS_INLINE uint32_t avx512_max_abs(const float *x, size_t n)
{
    __m512i m = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        m = _mm512_max_epi32(m, avx512_abs_bits(_mm512_loadu_ps(x + i)));
    if (i < n)
        m = _mm512_max_epi32(m, avx512_abs_bits(_mm512_maskz_loadu_ps(avx512_first(n - i), x + i)));
    return (uint32_t)_mm512_reduce_max_epi32(m);
}

/* Sixteen lanes folded: +8, +4, +2, +1. */
KERN_ALWAYS_INLINE float avx512_fold16(__m512 lane)
{
    const __m256 by8 = _mm256_add_ps(_mm512_castps512_ps256(lane), _mm512_extractf32x8_ps(lane, 1));
    const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
    const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
    return _mm_cvtss_f32(_mm_add_ss(by2, _mm_shuffle_ps(by2, by2, 1)));
}

/* kern_exp of sixteen values. */
KERN_ALWAYS_INLINE __m512 avx512_exp(__m512 x)
{
    const __mmask16 live = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GT_OQ);
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    x = _mm512_min_ps(x, _mm512_set1_ps(88.0f));

    const __m512 z = _mm512_fmadd_ps(x, _mm512_set1_ps(1.44269504f), magic);
    const __m512 n = _mm512_sub_ps(z, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693145752f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-1.42860677e-6f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));

    const __m512i shift = _mm512_sub_epi32(_mm512_castps_si512(z), _mm512_set1_epi32(0x4b400000));
    return _mm512_castsi512_ps(
        _mm512_maskz_add_epi32(live, _mm512_castps_si512(p), _mm512_slli_epi32(shift, 23)));
}

#endif
