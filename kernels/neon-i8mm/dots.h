/* What blocks.h asks of this set. smmla multiplies 2 rows of 8 bytes by 2 rows of 8 bytes, twice the
 * products of sdot. Weights: of two neighbouring granules of 4 rows, trn1 makes 8 columns each of
 * rows 0 and 2, trn2 of rows 1 and 3. Rows of x go in pairs, put beside each other once a segment.
 * The sums come as (row 0, x 0), (row 0, x 1), (row 2, x 0), (row 2, x 1), and those of rows 1 and
 * 3; trn1 and trn2 sort them into one register for each row of x. A single row of x goes by sdot.
 * Private to kernels/neon-i8mm/. */
#ifndef KERNELS_NEON_I8MM_DOTS_H
#define KERNELS_NEON_I8MM_DOTS_H

#include "kernels/neon-dotprod/sdot.h"

KERN_ALWAYS_INLINE void blocks_prepare(const struct rows *x, unsigned n_x, size_t n_blocks,
                                       struct scratch *scratch)
{
    for (unsigned i = 0; i + 2 <= n_x; i += 2) {
        const int8_t *q0 = x->q + i * x->stride, *q1 = q0 + x->stride;
        for (size_t b = 0; b < n_blocks; b++) {
            NEON_UNROLL
            for (unsigned k = 0; k < 2; k++) {
                int8_t(*to)[16] = &scratch->pairs[i / 2][b][2 * k];
                const int64x2_t x0 = vreinterpretq_s64_s8(vld1q_s8(q0 + b * KERN_BLOCK + 16 * k));
                const int64x2_t x1 = vreinterpretq_s64_s8(vld1q_s8(q1 + b * KERN_BLOCK + 16 * k));
                vst1q_s8(to[0], vreinterpretq_s8_s64(vzip1q_s64(x0, x1)));
                vst1q_s8(to[1], vreinterpretq_s8_s64(vzip2q_s64(x0, x1)));
            }
        }
    }
}

KERN_ALWAYS_INLINE void blocks_arrange(unsigned n_x, int8x16_t w[8])
{
    NEON_UNROLL
    for (unsigned g = 0; n_x > 1 && g < 8; g += 2) {
        const int32x4_t w0 = vreinterpretq_s32_s8(w[g]), w1 = vreinterpretq_s32_s8(w[g + 1]);
        w[g] = vreinterpretq_s8_s32(vtrn1q_s32(w0, w1));
        w[g + 1] = vreinterpretq_s8_s32(vtrn2q_s32(w0, w1));
    }
}

/* Eight-column steps [o0, o0 + n) of a block, for both rows of a pair. */
KERN_ALWAYS_INLINE void dot_pair(enum kern_type type, const int8x16_t w[8], const int8_t (*x)[16],
                                 const int32_t *start, unsigned o0, unsigned n, int32x4_t *first,
                                 int32x4_t *second)
{
    int32x4_t even = vdupq_n_s32(0); /* rows 0 and 2 */
    if (block_offset(type) != 0) {
        const int32x2_t two = vld1_s32(start);
        even = vcombine_s32(two, two);
    }
    int32x4_t odd = even;
    NEON_UNROLL
    for (unsigned o = o0; o < o0 + n; o++) {
        const int8x16_t xs = vld1q_s8(x[o]);
        even = vmmlaq_s32(even, w[2 * o], xs);
        odd = vmmlaq_s32(odd, w[2 * o + 1], xs);
    }
    *first = vtrn1q_s32(even, odd);
    *second = vtrn2q_s32(even, odd);
}

KERN_ALWAYS_INLINE void blocks_dot(enum kern_type type, unsigned step, const int8x16_t w[8],
                                   const struct rows *x, const struct scratch *scratch, unsigned i,
                                   size_t b, int32x4_t dot[2][2])
{
    if (step == 1) {
        dot_row(type, w, x, scratch, i, b, dot[0]);
        return;
    }
    const int8_t(*pairs)[16] = scratch->pairs[i / 2][b];
    const unsigned n = type == KERN_Q6_K ? 2 : 4;
    dot_pair(type, w, pairs, &scratch->start[2 * b][i], 0, n, &dot[0][0], &dot[1][0]);
    if (type == KERN_Q6_K)
        dot_pair(type, w, pairs, &scratch->start[2 * b + 1][i], 2, 2, &dot[0][1], &dot[1][1]);
}

#endif
