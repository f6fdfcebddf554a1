/* The definition of a product with F32, F16 or BF16 weights. A weight becomes F32 exactly; then one
 * output is one chain: within a segment of 256 columns t = fmaf(w, x, t) column by column from +0,
 * and u = u + t at each segment's end, from +0. Nothing else takes part, so the result does not
 * depend on how many rows of x or groups of w one call is given. Deliberately unoptimised: it is
 * what the other folders are compared with. */
#include "kernels/internal.h"

#include <math.h>

/* Weight of lane r in column c of a group [n_cols][16]. */
static float weight(enum kern_type type, const uint8_t *group, size_t c, unsigned r)
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

static float chain(enum kern_type type, const uint8_t *group, unsigned r, size_t n_cols,
                   const float *x)
{
    float u = 0.0f;
    for (size_t c0 = 0; c0 < n_cols; c0 += KERN_SEGMENT) {
        const size_t c1 = kern_min_size(n_cols, c0 + KERN_SEGMENT);
        float t = 0.0f;
        for (size_t c = c0; c < c1; c++)
            t = fmaf(weight(type, group, c, r), x[c], t);
        u = u + t;
    }
    return u;
}

static void matmul(enum kern_type type, const struct kern_matrix *w, uint32_t group0,
                   uint32_t group1, const struct kern_act *x, uint32_t n_x, float *y,
                   size_t y_stride)
{
    const size_t bytes = (size_t)w->n_cols * KERN_GROUP * (type == KERN_F32 ? 4 : 2);
    for (size_t t = 0; t < n_x; t++)
        for (size_t g = group0; g < group1; g++)
            for (unsigned r = 0; r < KERN_GROUP; r++)
                y[t * y_stride + g * KERN_GROUP + r] =
                    chain(type, w->quants + g * bytes, r, w->n_cols, x->f + t * x->f_stride);
}

void kern_matmul_f32_generic(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                             const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_F32, w, group0, group1, x, n_x, y, y_stride);
}

void kern_matmul_f16_generic(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                             const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_F16, w, group0, group1, x, n_x, y, y_stride);
}

void kern_matmul_bf16_generic(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_BF16, w, group0, group1, x, n_x, y, y_stride);
}
