/* KV rows. With the control register as kern_fp_init leaves it the conversion rounds to even and
 * keeps denormals, so it agrees with the bit formula for every input; the gate comes first, on
 * integers. A row of Q8_0 is refused by its largest element alone, because m / 127 grows with m, and
 * an infinity or a NaN is past the gate as well. */
#include "kernels/neon/neon.h"

bool kern_kv_store_f16_neon(const float *x, uint32_t head_dim, void *row)
{
    uint16_t *out = row;
    size_t i = 0;
    if (neon_max_abs(x, head_dim) >= KERN_F16_OVER_BITS) {
        memset(row, 0, head_dim * sizeof *out);
        return false;
    }
    for (; i + 4 <= head_dim; i += 4)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < head_dim; i++)
        out[i] = vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x[i]))), 0);
    return true;
}

bool kern_kv_store_f32_neon(const float *x, uint32_t head_dim, void *row)
{
    if (neon_max_abs(x, head_dim) >= KERN_INF_BITS) {
        memset(row, 0, head_dim * sizeof *x);
        return false;
    }
    memcpy(row, x, head_dim * sizeof *x);
    return true;
}

bool kern_kv_store_q8_0_neon(const float *x, uint32_t head_dim, void *row)
{
    int8_t *q = row;
    uint8_t *scales = (uint8_t *)row + head_dim;
    const float largest = kern_float(neon_max_abs(x, head_dim)) / 127.0f;

    memset(row, 0, kern_kv_row_bytes(KERN_KV_Q8_0, head_dim));
    if ((kern_bits(largest) & KERN_ABS_MASK) >= KERN_F16_OVER_BITS)
        return false;
    for (size_t b = 0; b < head_dim / KERN_BLOCK; b++) {
        const float *xb = x + b * KERN_BLOCK;
        const uint32_t m_bits = neon_max_abs(xb, KERN_BLOCK);
        if (m_bits < KERN_TINY_BITS)
            continue;
        const float m = kern_float(m_bits), inverse = 127.0f / m;
        const uint16_t d =
            vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(m / 127.0f))), 0);
        memcpy(scales + 2 * b, &d, sizeof d);
        neon_quantise16(xb, inverse, q + b * KERN_BLOCK);
        neon_quantise16(xb + 16, inverse, q + b * KERN_BLOCK + 16);
    }
    return true;
}
