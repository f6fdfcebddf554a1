/* The definition of a product with Q4_0 weights. A nibble n stands for n - 8, so the exact integer
 * of a block is I = sum of n * x minus 8 times the sum of x, and the latter is kept beside the
 * activations; below 32 * 8 * 127 in size. The rest is as for Q8_0: t = fmaf((float)I * d, a, t)
 * block after block, u = u + t at the end of each segment of 256 columns. Deliberately unoptimised:
 * it is what the other folders are compared with. */
#include "kernels/internal.h"

#include <math.h>

/* Block of lane r: w [4 granules][16 rows][4 bytes], x [32], h [2] sums of 16. */
static int32_t block_dot(const uint8_t *w, unsigned r, const int8_t *x, const int16_t *h)
{
    int32_t sum = 0;
    for (unsigned c = 0; c < KERN_BLOCK; c++) {
        const uint8_t byte = w[((c % 16 / 4) * KERN_GROUP + r) * 4 + c % 4];
        sum += (c < 16 ? byte & 15 : byte >> 4) * x[c];
    }
    return sum - 8 * (h[0] + h[1]);
}

/* quants [block][256], scales [block][16], q [32 * n_blocks], a [n_blocks], h [2 * n_blocks] */
static float chain(const uint8_t *quants, const uint8_t *scales, unsigned r, size_t n_blocks,
                   const int8_t *q, const float *a, const int16_t *h)
{
    float u = 0.0f;
    for (size_t b0 = 0; b0 < n_blocks; b0 += KERN_SEGMENT_BLOCKS) {
        const size_t b1 = kern_min_size(n_blocks, b0 + KERN_SEGMENT_BLOCKS);
        float t = 0.0f;
        for (size_t b = b0; b < b1; b++) {
            const int32_t sum =
                block_dot(quants + b * KERN_Q4_0_BLOCK_BYTES, r, q + b * KERN_BLOCK, h + 2 * b);
            t = fmaf((float)sum * kern_f16_at(scales, b * KERN_GROUP + r), a[b], t);
        }
        u = u + t;
    }
    return u;
}

void kern_matmul_q4_0_generic(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    const size_t n_blocks = w->n_cols / KERN_BLOCK;
    for (size_t t = 0; t < n_x; t++)
        for (size_t g = group0; g < group1; g++)
            for (unsigned r = 0; r < KERN_GROUP; r++)
                y[t * y_stride + g * KERN_GROUP + r] =
                    chain(w->quants + g * n_blocks * KERN_Q4_0_BLOCK_BYTES,
                          w->scales + g * n_blocks * KERN_SCALE_BLOCK_BYTES, r, n_blocks,
                          x->q + t * x->q_stride, x->a + t * (x->q_stride / KERN_BLOCK),
                          x->h + t * (x->q_stride / 16));
}
