/* Products with Q8_0 weights by sdot, which adds four products of bytes into an int32 lane: exactly
 * one granule of the packed layout, and nothing to overflow. The 32 activations of a block are two
 * registers, of which the instruction picks four neighbours by number. */
enum { TILE = 4 };
#include "kernels/neon/blocks.h"

/* dot[h] += granules 4k..4k+3 (w their first) times x [16] */
#define STEP(g)                                                                                    \
    NEON_UNROLL                                                                                    \
    for (unsigned h = 0; h < 4; h++) {                                                             \
        const int8x16_t four_rows = vld1q_s8(w + 64 * (g) + 16 * h);                               \
        NEON_UNROLL                                                                                \
        for (unsigned i = 0; i < n_x; i++)                                                         \
            dot[i][h] = vdotq_laneq_s32(dot[i][h], four_rows, xs[i], g);                           \
    }

KERN_ALWAYS_INLINE void half_block(unsigned n_x, const int8_t *w, const struct rows *x, size_t col,
                                   int32x4_t dot[TILE][4])
{
    int8x16_t xs[TILE];
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        xs[i] = vld1q_s8(x->q + i * x->stride + col);
    STEP(0)
    STEP(1)
    STEP(2)
    STEP(3)
}

KERN_ALWAYS_INLINE void block_dots(unsigned n_x, const uint8_t *w, const struct rows *x, size_t b,
                                   int32x4_t dot[TILE][4])
{
    const int8_t *ws = (const int8_t *)w;
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        dot[i][0] = dot[i][1] = dot[i][2] = dot[i][3] = vdupq_n_s32(0);
    half_block(n_x, ws, x, b * KERN_BLOCK, dot);
    half_block(n_x, ws + 4 * 64, x, b * KERN_BLOCK + 16, dot);
}

void kern_matmul_q8_0_neon_dotprod_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                                      const struct kern_act *x, uint32_t n_x, float *y,
                                      size_t y_stride)
{
    matmul_blocks(KERN_Q8_0_BLOCK_BYTES, w, group0, group1, x, n_x, y, y_stride);
}
