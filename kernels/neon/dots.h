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

/* Four quants of x, of the 16 given, beside each weight row's four. Taken from a register, because
 * compilers that load them one by one run out of registers. */
#define FOUR(x, n) vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), n))

/* Sum over the n granules w with fours x. */
KERN_ALWAYS_INLINE int32x4_t dot_granules(enum kern_type type, const int8x16_t *w,
                                          const int8x16_t *x, unsigned n)
{
    const unsigned lane = lane_products(type) < n ? lane_products(type) : n;
    int32x4_t low = vdupq_n_s32(0), high = low; /* rows 0, 1 and 2, 3, two sums each */
    NEON_UNROLL
    for (unsigned g = 0; g < n; g += lane) {
        int16x8_t low16 = vmull_s8(vget_low_s8(w[g]), vget_low_s8(x[g]));
        int16x8_t high16 = vmull_high_s8(w[g], x[g]);
        NEON_UNROLL
        for (unsigned k = 1; k < lane; k++) {
            low16 = vmlal_s8(low16, vget_low_s8(w[g + k]), vget_low_s8(x[g + k]));
            high16 = vmlal_high_s8(high16, w[g + k], x[g + k]);
        }
        low = g == 0 ? vpaddlq_s16(low16) : vpadalq_s16(low, low16);
        high = g == 0 ? vpaddlq_s16(high16) : vpadalq_s16(high, high16);
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
    const unsigned n = type == KERN_Q6_K ? 4 : 8;
    NEON_UNROLL
    for (unsigned k = 0; k < step; k++) {
        const int8_t *q = x->q + (i + k) * x->stride + b * KERN_BLOCK;
        const int8x16_t x0 = vld1q_s8(q), x1 = vld1q_s8(q + 16);
        const int8x16_t fours[8] = {FOUR(x0, 0), FOUR(x0, 1), FOUR(x0, 2), FOUR(x0, 3),
                                    FOUR(x1, 0), FOUR(x1, 1), FOUR(x1, 2), FOUR(x1, 3)};
        dot[k][0] = plus_start(type, scratch, 2 * b, i + k, dot_granules(type, w, fours, n));
        if (type == KERN_Q6_K)
            dot[k][1] = plus_start(type, scratch, 2 * b + 1, i + k,
                                   dot_granules(type, w + 4, fours + 4, 4));
    }
}

#endif
