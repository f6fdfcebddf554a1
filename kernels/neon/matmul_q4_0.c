/* Products with Q4_0 weights without dot-product instructions. Low nibbles of a granule go with
 * four columns, high ones with those 16 further on. A product is at most 15 * 127, so the eight of
 * a lane (4 granules, 2 nibbles) stay within int16 (15240) and are widened once, pairs of
 * neighbours first, then the pairs of a row. The offset of 8 is taken off through the sum of the
 * block's activations. */
enum { TILE = 2 };
#include "kernels/neon/blocks.h"

/* Four neighbouring activations, twice: the columns of two rows. */
KERN_ALWAYS_INLINE int8x8_t four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof v);
    return vreinterpret_s8_s32(vdup_n_s32(v));
}

KERN_ALWAYS_INLINE void block_dots(unsigned n_x, const uint8_t *w, const struct rows *x, size_t b,
                                   int32x4_t dot[TILE][4])
{
    int16x8_t sum[TILE][8]; /* [2 rows each][columns] */
    NEON_UNROLL
    for (unsigned g = 0; g < 4; g++) {
        NEON_UNROLL
        for (unsigned h = 0; h < 4; h++) {
            const uint8x16_t both = vld1q_u8(w + 64 * g + 16 * h);
            const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
            const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
            NEON_UNROLL
            for (unsigned i = 0; i < n_x; i++) {
                const int8_t *q = x->q + i * x->stride + b * KERN_BLOCK + 4 * g;
                const int8x8_t x0 = four(q), x1 = four(q + 16);
                if (g == 0) {
                    sum[i][2 * h] = vmull_s8(vget_low_s8(low), x0);
                    sum[i][2 * h + 1] = vmull_s8(vget_high_s8(low), x0);
                } else {
                    sum[i][2 * h] = vmlal_s8(sum[i][2 * h], vget_low_s8(low), x0);
                    sum[i][2 * h + 1] = vmlal_s8(sum[i][2 * h + 1], vget_high_s8(low), x0);
                }
                sum[i][2 * h] = vmlal_s8(sum[i][2 * h], vget_low_s8(high), x1);
                sum[i][2 * h + 1] = vmlal_s8(sum[i][2 * h + 1], vget_high_s8(high), x1);
            }
        }
    }
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        const int16_t *half = x->h + i * (x->stride / 16) + 2 * b;
        const int32x4_t offset = vdupq_n_s32(8 * (half[0] + half[1]));
        NEON_UNROLL
        for (unsigned h = 0; h < 4; h++)
            dot[i][h] = vsubq_s32(
                vpaddq_s32(vpaddlq_s16(sum[i][2 * h]), vpaddlq_s16(sum[i][2 * h + 1])), offset);
    }
}

void kern_matmul_q4_0_neon_2x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul_blocks(KERN_Q4_0_BLOCK_BYTES, w, group0, group1, x, n_x, y, y_stride);
}
