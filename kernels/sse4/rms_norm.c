/* RMS norm: the definition's 16 chains are the lanes of four registers (sse4_dot16). */
#include "kernels/sse4/sse4.h"

bool kern_rms_norm_sse4(const float *x, const float *weight, uint32_t n, float eps, float *y)
{
    const float mean = sse4_dot16(x, x, n) / (float)n;
    const float scale = 1.0f / sqrtf(mean + eps);
    size_t i = 0;

    if (!kern_is_finite(mean) || !kern_is_finite(scale)) {
        memset(y, 0, n * sizeof *y);
        return false;
    }
    for (; i + 4 <= n; i += 4) {
        const __m128 scaled = _mm_mul_ps(_mm_loadu_ps(x + i), _mm_set1_ps(scale));
        _mm_storeu_ps(y + i, _mm_mul_ps(scaled, _mm_loadu_ps(weight + i)));
    }
    for (; i < n; i++)
        y[i] = x[i] * scale * weight[i];
    return true;
}
