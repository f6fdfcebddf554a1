/* RMS norm: the definition's 16 chains are the lanes of two registers; a short tail leaves the
 * lanes behind it alone, so nothing is added to them. */
#include "kernels/avx2/avx2.h"

static float sum_of_squares(const float *x, size_t n)
{
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256 x0 = _mm256_loadu_ps(x + i), x1 = _mm256_loadu_ps(x + i + 8);
        low = _mm256_fmadd_ps(x0, x0, low);
        high = _mm256_fmadd_ps(x1, x1, high);
    }
    if (i < n) {
        float lane[16];
        _mm256_storeu_ps(lane, low);
        _mm256_storeu_ps(lane + 8, high);
        for (; i < n; i++)
            lane[i & 15] = fmaf(x[i], x[i], lane[i & 15]);
        return kern_fold16(lane);
    }
    return avx2_fold16(low, high);
}

bool kern_rms_norm_avx2(const float *x, const float *weight, uint32_t n, float eps, float *y)
{
    const float mean = sum_of_squares(x, n) / (float)n;
    const float scale = 1.0f / sqrtf(mean + eps);
    size_t i = 0;

    if (!kern_is_finite(mean) || !kern_is_finite(scale)) {
        memset(y, 0, n * sizeof *y);
        return false;
    }
    for (; i + 8 <= n; i += 8) {
        const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(weight + i)));
    }
    for (; i < n; i++)
        y[i] = x[i] * scale * weight[i];
    return true;
}
