/* Gated activation, four at a time; the tail goes through the same code in a padded register. */
#include "kernels/neon/neon.h"

KERN_ALWAYS_INLINE float32x4_t silu_mul(float32x4_t gate, float32x4_t up)
{
    const float32x4_t below = vaddq_f32(vdupq_n_f32(1.0f), neon_exp(vnegq_f32(gate)));
    return vmulq_f32(vdivq_f32(gate, below), up);
}

void kern_silu_mul_neon(const float *gate, const float *up, uint32_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, silu_mul(vld1q_f32(gate + i), vld1q_f32(up + i)));
    if (i < n) {
        float g[4] = {0}, u[4] = {0};
        memcpy(g, gate + i, (n - i) * sizeof *g);
        memcpy(u, up + i, (n - i) * sizeof *u);
        vst1q_f32(g, silu_mul(vld1q_f32(g), vld1q_f32(u)));
        memcpy(y + i, g, (n - i) * sizeof *g);
    }
}
