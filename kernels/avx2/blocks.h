/* What the two products with blocks of integer weights share: the walk over blocks and segments,
 * the float part of the definition (t = fmaf((float)I * d, a, t), u = u + t), and the choice of
 * tile. A file includes this after it has defined
 *
 *     block_dots(n_x, w, x, b, dot): dot[i][h] = exact integer dot products of block b of one
 *         group, whose quants of that block begin at w, rows of x i < n_x, halves h of 8 lanes
 *
 * A tile is up to four rows of x against one group, so that weights are loaded and unpacked once
 * for four. One row against two groups at once was slower: decode is bound by memory already.
 * Private to kernels/avx2/. */
#ifndef KERNELS_AVX2_BLOCKS_H
#define KERNELS_AVX2_BLOCKS_H

#include "kernels/avx2/avx2.h"

enum { TILE = 4, AHEAD_BYTES = 8192 };

/* Rows of x from the first of a tile; stride of q in elements. */
struct rows {
    const int8_t *q;
    const float *a;
    const int16_t *h;
    size_t stride;
};

/* Four neighbouring activations to every lane. */
KERN_ALWAYS_INLINE __m256i four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm256_set1_epi32(v);
}

KERN_ALWAYS_INLINE void block_dots(unsigned n_x, const uint8_t *w, const struct rows *x, size_t b,
                                   __m256i dot[TILE][2]);

/* t += block b of one group (scales d of that block) for n_x rows. */
KERN_ALWAYS_INLINE void block_step(unsigned n_x, const uint8_t *w, const uint8_t *d,
                                   const struct rows *x, size_t b, __m256 t[TILE][2])
{
    __m256i dot[TILE][2];
    block_dots(n_x, w, x, b, dot);
    const __m256 d0 = avx2_load_f16(d), d1 = avx2_load_f16(d + KERN_SCALE_BLOCK_BYTES / 2);
    AVX2_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        const __m256 a = _mm256_broadcast_ss(x->a + i * (x->stride / KERN_BLOCK) + b);
        t[i][0] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot[i][0]), d0), a, t[i][0]);
        t[i][1] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot[i][1]), d1), a, t[i][1]);
    }
}

/* Group g times n_x rows, y the first row's results of the group. n_x and block_bytes are constants
 * where this is inlined, and the arrays become registers. */
KERN_ALWAYS_INLINE void tile(unsigned n_x, size_t block_bytes, const struct kern_matrix *m,
                             size_t g, const struct rows *x, float *y, size_t y_stride)
{
    const size_t n_blocks = m->n_cols / KERN_BLOCK;
    const uint8_t *w = m->quants + g * n_blocks * block_bytes;
    const uint8_t *d = m->scales + g * n_blocks * KERN_SCALE_BLOCK_BYTES;
    __m256 u[TILE][2];

    AVX2_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        u[i][0] = u[i][1] = _mm256_setzero_ps();
    for (size_t b0 = 0; b0 < n_blocks; b0 += KERN_SEGMENT_BLOCKS) {
        const size_t b1 = kern_min_size(n_blocks, b0 + KERN_SEGMENT_BLOCKS);
        __m256 t[TILE][2];
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++)
            t[i][0] = t[i][1] = _mm256_setzero_ps();
        for (size_t b = b0; b < b1; b++)
            block_step(n_x, w + b * block_bytes, d + b * KERN_SCALE_BLOCK_BYTES, x, b, t);
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            u[i][0] = _mm256_add_ps(u[i][0], t[i][0]);
            u[i][1] = _mm256_add_ps(u[i][1], t[i][1]);
        }
    }
    AVX2_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        _mm256_storeu_ps(y + i * y_stride, u[i][0]);
        _mm256_storeu_ps(y + i * y_stride + 8, u[i][1]);
    }
}

KERN_ALWAYS_INLINE void matmul_blocks(size_t block_bytes, const struct kern_matrix *m,
                                      size_t group0, size_t group1, const struct kern_act *act,
                                      size_t n_x, float *y, size_t y_stride)
{
    for (size_t g = group0; g < group1; g++) {
        struct rows x = {act->q, act->a, act->h, act->q_stride};
        float *yt = y + g * KERN_GROUP;
        size_t left = n_x;
        for (; left >= TILE; left -= TILE, yt += TILE * y_stride) {
            tile(TILE, block_bytes, m, g, &x, yt, y_stride);
            x.q += TILE * x.stride;
            x.a += TILE * (x.stride / KERN_BLOCK);
            x.h += TILE * (x.stride / 16);
        }
        if (left == 3)
            tile(3, block_bytes, m, g, &x, yt, y_stride);
        else if (left == 2)
            tile(2, block_bytes, m, g, &x, yt, y_stride);
        else if (left == 1)
            tile(1, block_bytes, m, g, &x, yt, y_stride);
    }
}

#endif
