/* RMS norm: the definition's 16 chains are the lanes of one register; a short tail goes into the
 * lanes it has and leaves the others alone, so nothing is added to them. */
#include "kernels/avx512/avx512.h"

bool kern_rms_norm_avx512(const float *x, const float *weight, uint32_t n, float eps, float *y)
{
    const __mmask16 tail = avx512_first(n % 16);
    const size_t whole = n - n % 16;
    __m512 lane = _mm512_setzero_ps();
    for (size_t i = 0; i < whole; i += 16) {
        const __m512 v = _mm512_loadu_ps(x + i);
        lane = _mm512_fmadd_ps(v, v, lane);
    }
    const __m512 last = _mm512_maskz_loadu_ps(tail, x + whole);
    const float mean = avx512_fold16(_mm512_mask3_fmadd_ps(last, last, lane, tail)) / (float)n;
    const float scale = 1.0f / sqrtf(mean + eps);

    if (!kern_is_finite(mean) || !kern_is_finite(scale)) {
        memset(y, 0, n * sizeof *y);
        return false;
    }
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 there = i < whole ? 0xffff : tail;
        const __m512 scaled =
            _mm512_mul_ps(_mm512_maskz_loadu_ps(there, x + i), _mm512_set1_ps(scale));
        _mm512_mask_storeu_ps(y + i, there,
                              _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(there, weight + i)));
    }
    return true;
}
