/* What the products with blocks of integer weights share, with and without the dot-product
 * instructions: the walk over blocks and segments, the float part of the definition, which is
 * t = fmaf((float)I * d, a, t) and u = u + t, and the choice of tile. A file defines TILE, the rows
 * of x that share one load of weights, includes this, and defines
 *
 *     block_dots(n_x, w, x, b, dot): dot[i][h] = exact integer dot products of block b of one
 *         group, whose quants of that block begin at w, rows of x i < n_x, quarters h of 4 lanes
 *
 * Private to kernels/neon/ and kernels/neon-dotprod/. */
#ifndef KERNELS_NEON_BLOCKS_H
#define KERNELS_NEON_BLOCKS_H

#include "kernels/neon/neon.h"

/* Rows of x from the first of a tile; stride of q in elements. */
struct rows {
    const int8_t *q;
    const float *a;
    const int16_t *h;
    size_t stride;
};

KERN_ALWAYS_INLINE void block_dots(unsigned n_x, const uint8_t *w, const struct rows *x, size_t b,
                                   int32x4_t dot[TILE][4]);

/* Group g times n_x rows, y the first row's results of the group. n_x and block_bytes are constants
 * where this is inlined, and the arrays become registers. */
KERN_ALWAYS_INLINE void tile(unsigned n_x, size_t block_bytes, const struct kern_matrix *m,
                             size_t g, const struct rows *x, float *y, size_t y_stride)
{
    const size_t n_blocks = m->n_cols / KERN_BLOCK;
    const uint8_t *w = m->quants + g * n_blocks * block_bytes;
    const uint8_t *scales = m->scales + g * n_blocks * KERN_SCALE_BLOCK_BYTES;
    float32x4_t u[TILE][4];

    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        u[i][0] = u[i][1] = u[i][2] = u[i][3] = vdupq_n_f32(0.0f);
    for (size_t b0 = 0; b0 < n_blocks; b0 += KERN_SEGMENT_BLOCKS) {
        const size_t b1 = kern_min_size(n_blocks, b0 + KERN_SEGMENT_BLOCKS);
        float32x4_t t[TILE][4];
        NEON_UNROLL
        for (unsigned i = 0; i < n_x; i++)
            t[i][0] = t[i][1] = t[i][2] = t[i][3] = vdupq_n_f32(0.0f);
        for (size_t b = b0; b < b1; b++) {
            int32x4_t dot[TILE][4];
            block_dots(n_x, w + b * block_bytes, x, b, dot);
            NEON_UNROLL
            for (unsigned h = 0; h < 4; h++) {
                const float32x4_t d = neon_load_f16(scales + b * KERN_SCALE_BLOCK_BYTES + 8 * h);
                NEON_UNROLL
                for (unsigned i = 0; i < n_x; i++) {
                    const float a = x->a[i * (x->stride / KERN_BLOCK) + b];
                    t[i][h] = vfmaq_n_f32(t[i][h], vmulq_f32(vcvtq_f32_s32(dot[i][h]), d), a);
                }
            }
        }
        NEON_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            NEON_UNROLL
            for (unsigned h = 0; h < 4; h++)
                u[i][h] = vaddq_f32(u[i][h], t[i][h]);
        }
    }
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        NEON_UNROLL
        for (unsigned h = 0; h < 4; h++)
            vst1q_f32(y + i * y_stride + 4 * h, u[i][h]);
    }
}

KERN_ALWAYS_INLINE void matmul_blocks(size_t block_bytes, const struct kern_matrix *m,
                                      size_t group0, size_t group1, const struct kern_act *act,
                                      size_t n_x, float *y, size_t y_stride)
{
    for (size_t g = group0; g < group1; g++) {
        struct rows x = {act->q, act->a, act->h, act->q_stride};
        float *yt = y + g * KERN_GROUP;
        for (size_t left = n_x; left > 0;) {
            const size_t n = left >= TILE ? TILE : 1;
            if (n == TILE)
                tile(TILE, block_bytes, m, g, &x, yt, y_stride);
            else
                tile(1, block_bytes, m, g, &x, yt, y_stride);
            x.q += n * x.stride;
            x.a += n * (x.stride / KERN_BLOCK);
            x.h += n * (x.stride / 16);
            yt += n * y_stride;
            left -= n;
        }
    }
}

#endif
