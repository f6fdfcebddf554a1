/* The definition of products with Q8_0, Q4_0, Q5_0 and IQ4_NL weights: a block of 32 columns has
 * one F16 scale d. The dot product I of the block's numbers and the quantised activations is an
 * exact integer (at most 32 * 128 * 127 = 520192, below 2^24, so it becomes a float exactly); d and
 * the activations' scale a enter as t = fmaf((float)I * d, a, t), block after block from +0, and
 * u = u + t at the end of each segment. Deliberately unoptimised: it is what the other folders are
 * compared with. */
#include "kernels/generic/product.h"

#include <math.h>

KERN_ALWAYS_INLINE float chain(enum kern_type type, size_t quant_bytes, const struct kern_matrix *w,
                               size_t group, unsigned r, const struct kern_act *x, size_t row)
{
    const int8_t *q = x->q + row * x->q_stride;
    const float *a = x->a + row * (x->q_stride / KERN_BLOCK);
    float u = 0.0f;

    for (struct kern_segment s = kern_segment_first(w, group); s.n_blocks > 0;
         s = kern_segment_next(w, s)) {
        float t = 0.0f;
        for (size_t b = 0; b < s.n_blocks; b++) {
            const int32_t sum = kern_block_dot(type, s.quants + b * quant_bytes, r,
                                               q + (s.block + b) * KERN_BLOCK, 0, KERN_BLOCK);
            const float d = kern_f16_at(s.scales, b * KERN_GROUP + r);
            t = fmaf((float)sum * d, a[s.block + b], t);
        }
        u = u + t;
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

PRODUCTS(Q8_0, q8_0)
PRODUCTS(Q4_0, q4_0)
PRODUCTS(Q5_0, q5_0)
PRODUCTS(IQ4_NL, iq4_nl)
