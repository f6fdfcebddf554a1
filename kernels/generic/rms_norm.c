/* The definition of the RMS norm: y = x * (1 / sqrt(mean(x^2) + eps)) * weight. The sum of squares
 * is 16 chains, element i in chain i & 15 by fmaf, folded in halves: the one way of splitting a sum
 * over lanes that the numerics know (kern_fold16). Division and square root are exactly rounded, so
 * no reciprocal estimate is ever used. A sum that is not finite is refused here, because its
 * reciprocal root would be 0 and hide it. */
#include "kernels/internal.h"

#include <math.h>

bool kern_rms_norm_generic(const float *x, const float *weight, uint32_t n, float eps, float *y)
{
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++)
        lane[i & 15] = fmaf(x[i], x[i], lane[i & 15]);
    const float mean = kern_fold16(lane) / (float)n;
    const float scale = 1.0f / sqrtf(mean + eps);

    if (!kern_is_finite(mean) || !kern_is_finite(scale)) {
        memset(y, 0, n * sizeof *y);
        return false;
    }
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * scale * weight[i];
    return true;
}
