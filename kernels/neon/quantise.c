/* Activation quantisation, a block of 32 columns in eight registers. fcvtns rounds to even as the
 * definition asks; narrowing loses nothing, since every value is within -127..127. */
#include "kernels/neon/neon.h"

/* x [16] to q [16]; returns their sum. */
KERN_ALWAYS_INLINE int16_t quantise16(const float *x, float inverse, int8_t *q)
{
    const int32x4_t v0 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inverse));
    const int32x4_t v1 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), inverse));
    const int32x4_t v2 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 8), inverse));
    const int32x4_t v3 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 12), inverse));
    const int16x8_t low = vcombine_s16(vmovn_s32(v0), vmovn_s32(v1));
    const int16x8_t high = vcombine_s16(vmovn_s32(v2), vmovn_s32(v3));
    const int8x16_t bytes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
    vst1q_s8(q, bytes);
    return vaddlvq_s8(bytes);
}

bool kern_quantise_neon(const float *x, uint32_t n, int8_t *q, float *a, int16_t *h)
{
    for (size_t b = 0; b < n / KERN_BLOCK; b++) {
        const float *xb = x + b * KERN_BLOCK;
        int8_t *qb = q + b * KERN_BLOCK;
        const uint32_t m_bits = neon_max_abs(xb, KERN_BLOCK);
        if (m_bits >= KERN_INF_BITS) {
            memset(q, 0, n);
            memset(a, 0, n / KERN_BLOCK * sizeof *a);
            memset(h, 0, n / 16 * sizeof *h);
            return false;
        }
        if (m_bits < KERN_TINY_BITS) {
            memset(qb, 0, KERN_BLOCK);
            a[b] = 0.0f;
            h[2 * b] = h[2 * b + 1] = 0;
        } else {
            const float m = kern_float(m_bits), inverse = 127.0f / m;
            a[b] = m / 127.0f;
            h[2 * b] = quantise16(xb, inverse, qb);
            h[2 * b + 1] = quantise16(xb + 16, inverse, qb + 16);
        }
    }
    return true;
}
