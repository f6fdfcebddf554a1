/* RMS norm: the definition's 16 chains are the lanes of four registers; a short tail leaves the
 * lanes behind it alone, so nothing is added to them. */
#include "kernels/neon/neon.h"

static float sum_of_squares(const float *x, size_t n)
{
    float32x4_t l[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    float lane[16];
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        NEON_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            const float32x4_t v = vld1q_f32(x + i + 4 * j);
            l[j] = vfmaq_f32(l[j], v, v);
        }
    }
    if (i == n)
        return neon_fold16(l);
    for (unsigned j = 0; j < 4; j++)
        vst1q_f32(lane + 4 * j, l[j]);
    for (; i < n; i++)
        lane[i & 15] = fmaf(x[i], x[i], lane[i & 15]);
    return kern_fold16(lane);
}

bool kern_rms_norm_neon(const float *x, const float *weight, uint32_t n, float eps, float *y)
{
    const float mean = sum_of_squares(x, n) / (float)n;
    const float scale = 1.0f / sqrtf(mean + eps);
    size_t i = 0;

    if (!kern_is_finite(mean) || !kern_is_finite(scale)) {
        memset(y, 0, n * sizeof *y);
        return false;
    }
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), vld1q_f32(weight + i)));
    for (; i < n; i++)
        y[i] = x[i] * scale * weight[i];
    return true;
}
