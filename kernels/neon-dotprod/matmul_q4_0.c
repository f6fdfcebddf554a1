/* Products with Q4_0 weights by sdot, which adds four products of bytes into an int32 lane: exactly
 * one granule of the packed layout. Granule g goes with columns 4g.. by its low nibbles and 16 +
 * 4g.. by its high ones. The lanes begin at minus 8 times the sum of the block's activations, the
 * nibbles' offset. */
enum { TILE = 4 };
#include "kernels/neon/blocks.h"

#define STEP(g)                                                                                    \
    NEON_UNROLL                                                                                    \
    for (unsigned h = 0; h < 4; h++) {                                                             \
        const uint8x16_t both = vld1q_u8(w + 64 * (g) + 16 * h);                                   \
        const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));                 \
        const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));                           \
        NEON_UNROLL                                                                                \
        for (unsigned i = 0; i < n_x; i++) {                                                       \
            dot[i][h] = vdotq_laneq_s32(dot[i][h], low, xs[i][0], g);                              \
            dot[i][h] = vdotq_laneq_s32(dot[i][h], high, xs[i][1], g);                             \
        }                                                                                          \
    }

KERN_ALWAYS_INLINE void block_dots(unsigned n_x, const uint8_t *w, const struct rows *x, size_t b,
                                   int32x4_t dot[TILE][4])
{
    int8x16_t xs[TILE][2];
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        const int16_t *half = x->h + i * (x->stride / 16) + 2 * b;
        dot[i][0] = dot[i][1] = dot[i][2] = dot[i][3] = vdupq_n_s32(-8 * (half[0] + half[1]));
        xs[i][0] = vld1q_s8(x->q + i * x->stride + b * KERN_BLOCK);
        xs[i][1] = vld1q_s8(x->q + i * x->stride + b * KERN_BLOCK + 16);
    }
    STEP(0)
    STEP(1)
    STEP(2)
    STEP(3)
}

void kern_matmul_q4_0_neon_dotprod_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                                      const struct kern_act *x, uint32_t n_x, float *y,
                                      size_t y_stride)
{
    matmul_blocks(KERN_Q4_0_BLOCK_BYTES, w, group0, group1, x, n_x, y, y_stride);
}
