/* The definition of products with Q4_K, Q5_K and Q6_K weights. A super-block of 256 columns has an
 * F16 d, and its blocks of 32 have small integer scales, which multiply the blocks' exact integer
 * dot products: below 63 * 32 * 31 * 127 = 7936992 for Q5_K and 128 * 32 * 32 * 127 = 16646144 for
 * Q6_K, all under 2^24, so it is the same number whether a kernel scales in integers or in floats.
 *
 * Q4_K, Q5_K: a number n stands for d * sc * n - dmin * m; t = fmaf((float)(I * sc), a, t) and,
 * with s = a times the sum of the activations, tm = fmaf((float)m, s, tm); a segment ends with
 * u = fmaf(d, t, u), then u = fmaf(-dmin, tm, u).
 *
 * Q6_K: each 16 columns have a scale; t = fmaf((float)(sc0 * I0 + sc1 * I1), a, t), and a segment
 * ends with u = fmaf(d, t, u).
 *
 * Deliberately unoptimised: it is what the other folders are compared with. */
#include "kernels/generic/product.h"

#include <math.h>

KERN_ALWAYS_INLINE float chain_min(enum kern_type type, size_t quant_bytes,
                                   const struct kern_matrix *w, size_t group, unsigned r,
                                   const struct kern_act *x, size_t row)
{
    const size_t n_blocks = x->q_stride / KERN_BLOCK;
    const int8_t *q = x->q + row * x->q_stride;
    const float *a = x->a + row * n_blocks, *sums = x->s + row * n_blocks;
    float u = 0.0f;

    for (struct kern_segment s = kern_segment_first(w, group); s.n_blocks > 0;
         s = kern_segment_next(w, s)) {
        float t = 0.0f, tm = 0.0f;
        for (size_t b = 0; b < s.n_blocks; b++) {
            const size_t block = s.block + b;
            const int32_t sum = kern_block_dot(type, s.quants + b * quant_bytes, r,
                                               q + block * KERN_BLOCK, 0, KERN_BLOCK);
            const int32_t sc = s.scales[2 * b * KERN_GROUP + r];
            const int32_t m = s.scales[(2 * b + 1) * KERN_GROUP + r];
            t = fmaf((float)(sum * sc), a[block], t);
            tm = fmaf((float)m, sums[block], tm);
        }
        u = fmaf(kern_f16_at(s.head, r), t, u);
        u = fmaf(-kern_f16_at(s.head, KERN_GROUP + r), tm, u);
    }
    return u;
}

static float chain_q4_k(const struct kern_matrix *w, size_t group, unsigned r,
                        const struct kern_act *x, size_t t)
{
    return chain_min(KERN_Q4_K, KERN_Q4_K_QUANTS, w, group, r, x, t);
}

static float chain_q5_k(const struct kern_matrix *w, size_t group, unsigned r,
                        const struct kern_act *x, size_t t)
{
    return chain_min(KERN_Q5_K, KERN_Q5_K_QUANTS, w, group, r, x, t);
}

static float chain_q6_k(const struct kern_matrix *w, size_t group, unsigned r,
                        const struct kern_act *x, size_t row)
{
    const int8_t *q = x->q + row * x->q_stride;
    const float *a = x->a + row * (x->q_stride / KERN_BLOCK);
    float u = 0.0f;

    for (struct kern_segment s = kern_segment_first(w, group); s.n_blocks > 0;
         s = kern_segment_next(w, s)) {
        float t = 0.0f;
        for (size_t b = 0; b < s.n_blocks; b++) {
            const uint8_t *quants = s.quants + b * KERN_Q6_K_QUANTS;
            const int8_t *qb = q + (s.block + b) * KERN_BLOCK;
            const int32_t sc0 = (int8_t)s.scales[2 * b * KERN_GROUP + r];
            const int32_t sc1 = (int8_t)s.scales[(2 * b + 1) * KERN_GROUP + r];
            const int32_t sum = sc0 * kern_block_dot(KERN_Q6_K, quants, r, qb, 0, 16) +
                                sc1 * kern_block_dot(KERN_Q6_K, quants, r, qb, 16, 32);
            t = fmaf((float)sum, a[s.block + b], t);
        }
        u = fmaf(kern_f16_at(s.head, r), t, u);
    }
    return u;
}

KERN_GENERIC_PRODUCTS(q4_k, chain_q4_k)
KERN_GENERIC_PRODUCTS(q5_k, chain_q5_k)
KERN_GENERIC_PRODUCTS(q6_k, chain_q6_k)
