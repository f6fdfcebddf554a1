/* The definition of products with F32, F16 and BF16 weights. A weight becomes F32 exactly; then one
 * output is one chain: within a segment of 256 columns t = fmaf(w, x, t) column by column from +0,
 * and u = u + t at each segment's end, from +0. Nothing else takes part, so the result does not
 * depend on how many rows of x or groups of w one call is given. Deliberately unoptimised: it is
 * what the other folders are compared with. */
#include "kernels/generic/product.h"

#include <math.h>

/* Weight of lane r in column c of a group [n_cols][16]. */
KERN_ALWAYS_INLINE float weight(enum kern_type type, const uint8_t *group, size_t c, unsigned r)
{
    const size_t i = c * KERN_GROUP + r;
    float w;
    uint16_t half;
    if (type == KERN_F32) {
        memcpy(&w, group + i * 4, 4);
        return w;
    }
    if (type == KERN_F16)
        return kern_f16_at(group, i);
    memcpy(&half, group + i * 2, 2);
    return kern_f32_from_bf16(half);
}

KERN_ALWAYS_INLINE float chain(enum kern_type type, const struct kern_matrix *w, size_t group,
                               unsigned r, const struct kern_act *x, size_t row)
{
    const uint8_t *data = w->data + group * w->group_bytes;
    const float *f = x->f + row * x->f_stride;
    float u = 0.0f;
    for (size_t c0 = 0; c0 < w->n_cols; c0 += KERN_SEGMENT) {
        const size_t c1 = kern_min_size(w->n_cols, c0 + KERN_SEGMENT);
        float t = 0.0f;
        for (size_t c = c0; c < c1; c++)
            t = fmaf(weight(type, data, c, r), f[c], t);
        u = u + t;
    }
    return u;
}

#define PRODUCTS(type, name)                                                                       \
    static float chain_##name(const struct kern_matrix *w, size_t group, unsigned r,               \
                              const struct kern_act *x, size_t t)                                  \
    {                                                                                              \
        return chain(KERN_##type, w, group, r, x, t);                                              \
    }                                                                                              \
    KERN_GENERIC_PRODUCTS(name, chain_##name)

PRODUCTS(F32, f32)
PRODUCTS(F16, f16)
PRODUCTS(BF16, bf16)
