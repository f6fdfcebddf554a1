/* The end of sums that a cut may split. This architecture converts int64 to double in registers,
 * with the rounding that the definition has. */
#include "kernels/neon/neon.h"

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
