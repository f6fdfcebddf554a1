/* The definition of products with Q4_1 and Q5_1 weights: a block of 32 columns has an F16 scale d
 * and an F16 minimum m, and a number n stands for d * n + m. With I the exact integer dot product
 * of the numbers and s = a times the sum of the activations, two chains run side by side,
 * t = fmaf((float)I * d, a, t) and tm = fmaf(m, s, tm), and a segment ends with u = u + t, then
 * u = u + tm. Deliberately unoptimised: it is what the other folders are compared with. */
#include "kernels/generic/product.h"

#include <math.h>

KERN_ALWAYS_INLINE float chain(enum kern_type type, size_t quant_bytes, const struct kern_matrix *w,
                               size_t group, unsigned r, const struct kern_act *x, size_t row)
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
            const float d = kern_f16_at(s.scales, 2 * b * KERN_GROUP + r);
            const float m = kern_f16_at(s.scales, (2 * b + 1) * KERN_GROUP + r);
            t = fmaf((float)sum * d, a[block], t);
            tm = fmaf(m, sums[block], tm);
        }
        u = u + t;
        u = u + tm;
    }
    return u;
}

#define PRODUCTS(type, name)                                                                       \
    static float chain_##name(const struct kern_matrix *w, size_t group, unsigned r,               \
                              const struct kern_act *x, size_t t)                                  \
    {                                                                                              \
        return chain(KERN_##type, KERN_##type##_QUANTS, w, group, r, x, t);                        \
    }                                                                                              \
    KERN_GENERIC_PRODUCTS(name, chain_##name)

PRODUCTS(Q4_1, q4_1)
PRODUCTS(Q5_1, q5_1)
