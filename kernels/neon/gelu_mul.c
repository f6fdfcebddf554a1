/* Gated activation with GELU, four at a time, each product and sum where the definition has it; the
 * tail goes through the same code in a padded register. */
#include "kernels/neon/neon.h"

KERN_ALWAYS_INLINE float32x4_t gelu_mul(float32x4_t x, float32x4_t up)
{
    const float32x4_t cube = vmulq_f32(vmulq_f32(vdupq_n_f32(0.044715f), x), x);
    const float32x4_t z = vmulq_f32(vdupq_n_f32(0.797884561f), vfmaq_f32(x, cube, x));
    const float32x4_t e = neon_exp(vmulq_f32(vdupq_n_f32(-2.0f), z));
    return vmulq_f32(vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), e)), up);
}

void kern_gelu_mul_neon(const float *gate, const float *up, uint32_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, gelu_mul(vld1q_f32(gate + i), vld1q_f32(up + i)));
    if (i < n) {
        float g[4] = {0}, u[4] = {0};
        memcpy(g, gate + i, (n - i) * sizeof *g);
        memcpy(u, up + i, (n - i) * sizeof *u);
        vst1q_f32(g, gelu_mul(vld1q_f32(g), vld1q_f32(u)));
        memcpy(y + i, g, (n - i) * sizeof *g);
    }
}
