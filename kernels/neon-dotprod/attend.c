/* Attention over Q8_0 rows, whose dot products sdot makes: two instructions a position and block. */
#include "kernels/neon/attend.h"

KERN_ALWAYS_INLINE int32x4_t attend_dot32(int8x16_t k0, int8x16_t k1, int8x16_t q0, int8x16_t q1)
{
    return vdotq_s32(vdotq_s32(vdupq_n_s32(0), k0, q0), k1, q1);
}

void kern_attend_q8_0_neon_dotprod_4x(const struct kern_query *list, uint32_t n_q, const void *k,
                                      const void *v, uint32_t head_dim, float scale)
{
    struct quantised z;
    attend(KERN_KV_Q8_0, list, n_q, k, v, head_dim, scale, &z);
}
