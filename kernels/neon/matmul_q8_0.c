/* Products with Q8_0 weights without dot-product instructions. A register holds four columns of
 * four rows; widening multiplies of its two halves give int16 products, the next granule is added
 * to them (two products are at most 2 * 128 * 127 = 32512, a third would not fit), and pairs of
 * neighbours are widened to int32. The last step adds the pairs that belong to one row. */
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
    const int8_t *ws = (const int8_t *)w;
    int32x4_t sum[TILE][8]; /* [2 rows each][column pairs] */
    NEON_UNROLL
    for (unsigned g = 0; g < 8; g += 2) {
        NEON_UNROLL
        for (unsigned h = 0; h < 4; h++) {
            const int8x16_t w0 = vld1q_s8(ws + 64 * g + 16 * h),
                            w1 = vld1q_s8(ws + 64 * g + 64 + 16 * h);
            NEON_UNROLL
            for (unsigned i = 0; i < n_x; i++) {
                const int8_t *q = x->q + i * x->stride + b * KERN_BLOCK + 4 * g;
                const int8x8_t x0 = four(q), x1 = four(q + 4);
                const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(w0), x0), vget_low_s8(w1), x1);
                const int16x8_t high =
                    vmlal_s8(vmull_s8(vget_high_s8(w0), x0), vget_high_s8(w1), x1);
                sum[i][2 * h] = g == 0 ? vpaddlq_s16(low) : vpadalq_s16(sum[i][2 * h], low);
                sum[i][2 * h + 1] =
                    g == 0 ? vpaddlq_s16(high) : vpadalq_s16(sum[i][2 * h + 1], high);
            }
        }
    }
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        NEON_UNROLL
        for (unsigned h = 0; h < 4; h++)
            dot[i][h] = vpaddq_s32(sum[i][2 * h], sum[i][2 * h + 1]);
    }
}

void kern_matmul_q8_0_neon_2x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul_blocks(KERN_Q8_0_BLOCK_BYTES, w, group0, group1, x, n_x, y, y_stride);
}
