/* Exact integer dot products without dot-product instructions: products of bytes are added in int16
 * lanes, a pair of weight rows to a register, as often as they cannot overflow, then pairwise into
 * int32. With |x| <= 127 a lane holds
 *
 *     Q4_0 Q4_1 Q4_K    8 products of 0..15    15 240
 *     Q5_0 Q5_1 Q5_K    8 products of 0..31    31 496
 *     Q6_K              4 products of 0..63    32 004
 *     Q8_0, IQ4_NL      2 products of -128..127    32 512
 *
 * of at most 32 767. Private to kernels/neon/. */
#ifndef KERNELS_NEON_DOTS_H
#define KERNELS_NEON_DOTS_H

#include "kernels/neon/blocks.h"

KERN_ALWAYS_INLINE void blocks_prepare(const struct rows *x, unsigned n_x, size_t n_blocks,
                                       struct scratch *scratch)
{
    (void)x, (void)n_x, (void)n_blocks, (void)scratch;
}

KERN_ALWAYS_INLINE void blocks_arrange(unsigned n_x, int8x16_t w[8])
{
    (void)n_x, (void)w;
}

/* Products that an int16 lane holds. */
KERN_ALWAYS_INLINE unsigned lane_products(enum kern_type type)
{
    return type == KERN_Q8_0 || type == KERN_IQ4_NL ? 2 : type == KERN_Q6_K ? 4 : 8;
}

/* Sum over granules [g0, g0 + n) of w with x [32]. */
KERN_ALWAYS_INLINE int32x4_t dot_granules(enum kern_type type, const int8x16_t w[8],
                                          const int8_t *x, unsigned g0, unsigned n)
{
    const unsigned lane = lane_products(type) < n ? lane_products(type) : n;
    int32x4_t low = vdupq_n_s32(0), high = low; /* rows 0, 1 and 2, 3, two sums each */
    NEON_UNROLL
    for (unsigned g = g0; g < g0 + n; g += lane) {
        int16x8_t low16 = vdupq_n_s16(0), high16 = low16;
        NEON_UNROLL
        for (unsigned k = 0; k < lane; k++) {
            int32_t four;
            memcpy(&four, x + 4 * (g + k), sizeof four);
            const int8x16_t xs = vreinterpretq_s8_s32(vdupq_n_s32(four));
            if (k == 0) {
                low16 = vmull_s8(vget_low_s8(w[g]), vget_low_s8(xs));
                high16 = vmull_high_s8(w[g], xs);
            } else {
                low16 = vmlal_s8(low16, vget_low_s8(w[g + k]), vget_low_s8(xs));
                high16 = vmlal_high_s8(high16, w[g + k], xs);
            }
        }
        low = g == g0 ? vpaddlq_s16(low16) : vpadalq_s16(low, low16);
        high = g == g0 ? vpaddlq_s16(high16) : vpadalq_s16(high, high16);
    }
    return vpaddq_s32(low, high);
}

KERN_ALWAYS_INLINE int32x4_t plus_start(enum kern_type type, const struct scratch *scratch,
                                        size_t half, unsigned i, int32x4_t dot)
{
    if (block_offset(type) == 0)
        return dot;
    return vaddq_s32(dot, vdupq_n_s32(scratch->start[half][i]));
}

KERN_ALWAYS_INLINE void blocks_dot(enum kern_type type, unsigned step, const int8x16_t w[8],
                                   const struct rows *x, const struct scratch *scratch, unsigned i,
                                   size_t b, int32x4_t dot[2][2])
{
    NEON_UNROLL
    for (unsigned k = 0; k < step; k++) {
        const int8_t *q = x->q + (i + k) * x->stride + b * KERN_BLOCK;
        const unsigned n = type == KERN_Q6_K ? 4 : 8;
        dot[k][0] = plus_start(type, scratch, 2 * b, i + k, dot_granules(type, w, q, 0, n));
        if (type == KERN_Q6_K)
            dot[k][1] = plus_start(type, scratch, 2 * b + 1, i + k, dot_granules(type, w, q, 4, 4));
    }
}

#endif
