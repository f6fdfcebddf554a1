/* Attention over rows of each type. Bytes are multiplied into int16 lanes, which hold two products of
 * -127..127 (32 258). */
#include "kernels/neon/attend.h"

KERN_ALWAYS_INLINE int32x4_t attend_dot32(int8x16_t k0, int8x16_t k1, int8x16_t q0, int8x16_t q1)
{
    const int16x8_t low =
        vmlal_s8(vmull_s8(vget_low_s8(k0), vget_low_s8(q0)), vget_low_s8(k1), vget_low_s8(q1));
    const int16x8_t high = vmlal_high_s8(vmull_high_s8(k0, q0), k1, q1);
    return vpadalq_s16(vpaddlq_s16(low), high);
}

void kern_attend_f16_neon_4x(const struct kern_query *list, uint32_t n_q, const void *k,
                             const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_F16, list, n_q, k, v, head_dim, scale, NULL);
}

void kern_attend_f32_neon_4x(const struct kern_query *list, uint32_t n_q, const void *k,
                             const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_F32, list, n_q, k, v, head_dim, scale, NULL);
}

void kern_attend_q8_0_neon_4x(const struct kern_query *list, uint32_t n_q, const void *k,
                              const void *v, uint32_t head_dim, float scale)
{
    struct quantised z;
    attend(KERN_KV_Q8_0, list, n_q, k, v, head_dim, scale, &z);
}
