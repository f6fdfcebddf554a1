/* Exact integer dot products by sdot, which adds four products of bytes into an int32 lane: exactly
 * one granule of one row, with nothing to overflow. The 32 quants of x in a block are two
 * registers, of which the instruction picks four neighbours by number. The lanes begin at the
 * type's offset. Private to kernels/neon-dotprod/ and, for single rows of x, kernels/neon-i8mm/. */
#ifndef KERNELS_NEON_DOTPROD_SDOT_H
#define KERNELS_NEON_DOTPROD_SDOT_H

#include "kernels/neon/blocks.h"

KERN_ALWAYS_INLINE int32x4_t dot_start(enum kern_type type, const struct scratch *scratch,
                                       size_t half, unsigned i)
{
    return vdupq_n_s32(block_offset(type) == 0 ? 0 : scratch->start[half][i]);
}

/* sum + granules w [4] with x [16] */
KERN_ALWAYS_INLINE int32x4_t dot_half(int32x4_t sum, const int8x16_t *w, int8x16_t x)
{
    sum = vdotq_laneq_s32(sum, w[0], x, 0);
    sum = vdotq_laneq_s32(sum, w[1], x, 1);
    sum = vdotq_laneq_s32(sum, w[2], x, 2);
    return vdotq_laneq_s32(sum, w[3], x, 3);
}

/* One row of x. */
KERN_ALWAYS_INLINE void dot_row(enum kern_type type, const int8x16_t w[8], const struct rows *x,
                                const struct scratch *scratch, unsigned i, size_t b,
                                int32x4_t dot[2])
{
    const int8_t *q = x->q + i * x->stride + b * KERN_BLOCK;
    dot[0] = dot_half(dot_start(type, scratch, 2 * b, i), w, vld1q_s8(q));
    if (type == KERN_Q6_K)
        dot[1] = dot_half(dot_start(type, scratch, 2 * b + 1, i), w + 4, vld1q_s8(q + 16));
    else
        dot[0] = dot_half(dot[0], w + 4, vld1q_s8(q + 16));
}

#endif
