/* A unit sum's way back from fixed point: int64 to double and double to float, each one rounding as
 * the definition's. The way there is in sink.h. */
#include "kernels/avx512/avx512.h"

void kern_unit_close_avx512(const int64_t *acc, uint32_t n, const float *bias, float *x)
{
    for (size_t i = 0; i < n; i += 8) {
        const __mmask8 there = n - i < 8 ? (__mmask8)avx512_first(n - i) : 0xff;
        const __m512d k = _mm512_cvtepi64_pd(_mm512_maskz_loadu_epi64(there, acc + i));
        __m256 sum = _mm512_cvtpd_ps(_mm512_mul_pd(k, _mm512_set1_pd(0x1p-30)));
        if (bias != NULL)
            sum = _mm256_add_ps(sum, _mm256_maskz_loadu_ps(there, bias + i));
        _mm256_mask_storeu_ps(x + i, there,
                              _mm256_add_ps(_mm256_maskz_loadu_ps(there, x + i), sum));
    }
}
