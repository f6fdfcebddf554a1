/* Closing sums in fixed point (the way in is in product.h). AVX2 has no conversion from int64 to
 * double: the signed high half times 2^32 and the unsigned low half are both exact, and their sum
 * is the one rounding that a conversion would make. */
#include "kernels/avx2/avx2.h"

KERN_ALWAYS_INLINE __m128 from_fixed(__m256i k)
{
    const __m256i low = _mm256_blend_epi32(k, _mm256_setzero_si256(), 0xaa);
    /* The low half as the mantissa of 2^52 + low; the high half, its sign bit flipped, as that of
     * 2^84 + (high + 2^31) 2^32, from which everything but the high half is taken off again. */
    const __m256i low_bits = _mm256_or_si256(low, _mm256_castpd_si256(_mm256_set1_pd(0x1p52)));
    const __m256i high_bits = _mm256_xor_si256(
        _mm256_srli_epi64(k, 32), _mm256_castpd_si256(_mm256_set1_pd(0x1p84 + 0x1p63)));
    const __m256d low_part = _mm256_sub_pd(_mm256_castsi256_pd(low_bits), _mm256_set1_pd(0x1p52));
    const __m256d high_part =
        _mm256_sub_pd(_mm256_castsi256_pd(high_bits), _mm256_set1_pd(0x1p84 + 0x1p63));
    const __m256d value = _mm256_add_pd(high_part, low_part);
    return _mm256_cvtpd_ps(_mm256_mul_pd(value, _mm256_set1_pd(0x1p-30)));
}

void kern_unit_close_avx2(const int64_t *acc, uint32_t n, const float *bias, float *x)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        __m128 sum = from_fixed(_mm256_loadu_si256((const void *)(acc + i)));
        if (bias != NULL)
            sum = _mm_add_ps(sum, _mm_loadu_ps(bias + i));
        _mm_storeu_ps(x + i, _mm_add_ps(_mm_loadu_ps(x + i), sum));
    }
    for (; i < n; i++) {
        float sum = (float)((double)acc[i] * 0x1p-30);
        if (bias != NULL)
            sum = sum + bias[i];
        x[i] = x[i] + sum;
    }
}
