/* Unit sums in fixed point. This architecture converts between double and int64 in registers, both
 * ways with the rounding that the definition has. */
#include "kernels/neon/neon.h"

bool kern_unit_add_neon(const float *u, uint32_t n, int64_t *acc)
{
    size_t i = 0;
    if (neon_max_abs(u, n) > KERN_UNIT_MAX_BITS)
        return false;
    for (; i + 2 <= n; i += 2) {
        const float64x2_t scaled = vmulq_n_f64(vcvt_f64_f32(vld1_f32(u + i)), 0x1p30);
        vst1q_s64(acc + i, vaddq_s64(vld1q_s64(acc + i), vcvtnq_s64_f64(scaled)));
    }
    for (; i < n; i++)
        acc[i] += llrint((double)u[i] * 0x1p30);
    return true;
}

void kern_unit_close_neon(const int64_t *acc, uint32_t n, const float *bias, float *x)
{
    size_t i = 0;
    for (; i + 2 <= n; i += 2) {
        float32x2_t sum = vcvt_f32_f64(vmulq_n_f64(vcvtq_f64_s64(vld1q_s64(acc + i)), 0x1p-30));
        if (bias != NULL)
            sum = vadd_f32(sum, vld1_f32(bias + i));
        vst1_f32(x + i, vadd_f32(vld1_f32(x + i), sum));
    }
    for (; i < n; i++) {
        float sum = (float)((double)acc[i] * 0x1p-30);
        if (bias != NULL)
            sum = sum + bias[i];
        x[i] = x[i] + sum;
    }
}
