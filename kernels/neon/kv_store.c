/* KV rows. With the control register as kern_fp_init leaves it the conversion rounds to even and
 * keeps denormals, so it agrees with the bit formula for every input; the gate comes first, on
 * integers. */
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
