/* The definition of a product with Q8_0 weights. Per block of 32 columns the dot product I of
 * weights and quantised activations is an exact integer (at most 32 * 128 * 127 = 520192, below
 * 2^24, so it becomes a float exactly); the weight's scale d and the activation's scale a enter as
 * t = fmaf((float)I * d, a, t), block after block from +0, and u = u + t at the end of each segment
 * of 256 columns. Deliberately unoptimised: it is what the other folders are compared with. */
#include "kernels/internal.h"

#include <math.h>

/* Block of lane r: w [8 granules][16 rows][4 cols], x [32]. */
static int32_t block_dot(const uint8_t *w, unsigned r, const int8_t *x)
{
    int32_t sum = 0;
    for (unsigned c = 0; c < KERN_BLOCK; c++)
        sum += (int8_t)w[((c / 4) * KERN_GROUP + r) * 4 + c % 4] * x[c];
    return sum;
}

/* quants [block][512], scales [block][16], q [32 * n_blocks], a [n_blocks] */
static float chain(const uint8_t *quants, const uint8_t *scales, unsigned r, size_t n_blocks,
                   const int8_t *q, const float *a)
{
    float u = 0.0f;
    for (size_t b0 = 0; b0 < n_blocks; b0 += KERN_SEGMENT_BLOCKS) {
        const size_t b1 = kern_min_size(n_blocks, b0 + KERN_SEGMENT_BLOCKS);
        float t = 0.0f;
        for (size_t b = b0; b < b1; b++) {
            const int32_t sum =
                block_dot(quants + b * KERN_Q8_0_BLOCK_BYTES, r, q + b * KERN_BLOCK);
            t = fmaf((float)sum * kern_f16_at(scales, b * KERN_GROUP + r), a[b], t);
        }
        u = u + t;
    }
    return u;
}

void kern_matmul_q8_0_generic(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    const size_t n_blocks = w->n_cols / KERN_BLOCK;
    for (size_t t = 0; t < n_x; t++)
        for (size_t g = group0; g < group1; g++)
            for (unsigned r = 0; r < KERN_GROUP; r++)
                y[t * y_stride + g * KERN_GROUP + r] =
                    chain(w->quants + g * n_blocks * KERN_Q8_0_BLOCK_BYTES,
                          w->scales + g * n_blocks * KERN_SCALE_BLOCK_BYTES, r, n_blocks,
                          x->q + t * x->q_stride, x->a + t * (x->q_stride / KERN_BLOCK));
}
