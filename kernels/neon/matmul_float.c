/* Products with F32, F16 and BF16 weights: a lane is an output row, so each lane runs the
 * definition's chain, fused multiply-add by column, and nothing is summed across lanes. The 16 rows
 * of a group are four independent chains, and up to four rows of x share each load of weights. */
#include "kernels/neon/neon.h"

enum { TILE = 4, AHEAD = 2048 }; /* AHEAD in bytes */

/* Four weights of column c, rows 4h..4h+3, of a group [n_cols][16]. */
KERN_ALWAYS_INLINE float32x4_t load(enum kern_type type, const uint8_t *group, size_t c, unsigned h)
{
    const size_t i = c * KERN_GROUP + h * 4;
    if (type == KERN_F32) {
        float32x4_t w;
        memcpy(&w, group + i * 4, sizeof w);
        return w;
    }
    if (type == KERN_F16)
        return neon_load_f16(group + i * 2);
    uint16x4_t half;
    memcpy(&half, group + i * 2, sizeof half);
    return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}

/* One group, whose bytes begin at p, times n_x rows, into u. n_x is a constant where this is
 * inlined, and the arrays become registers. Lines AHEAD bytes further are asked for, none at or
 * after `end`. */
KERN_ALWAYS_INLINE void tile(enum kern_type type, unsigned n_x, const uint8_t *p,
                             const uint8_t *end, size_t n_cols, const float *x, size_t x_stride,
                             float u[][KERN_GROUP])
{
    const size_t col_bytes = KERN_GROUP * (type == KERN_F32 ? 4 : 2);

    memset(u, 0, n_x * sizeof *u);
    for (size_t c0 = 0; c0 < n_cols; c0 += KERN_SEGMENT) {
        const size_t c1 = kern_min_size(n_cols, c0 + KERN_SEGMENT);
        float32x4_t t[TILE][4];
        NEON_UNROLL
        for (unsigned i = 0; i < n_x; i++)
            t[i][0] = t[i][1] = t[i][2] = t[i][3] = vdupq_n_f32(0.0f);
        for (size_t c = c0; c < c1; c++) {
            const uint8_t *now = p + c * col_bytes;
            if ((size_t)(end - now) > AHEAD)
                __builtin_prefetch(now + AHEAD);
            NEON_UNROLL
            for (unsigned h = 0; h < 4; h++) {
                const float32x4_t w = load(type, p, c, h);
                NEON_UNROLL
                for (unsigned i = 0; i < n_x; i++)
                    t[i][h] = vfmaq_n_f32(t[i][h], w, x[i * x_stride + c]);
            }
        }
        NEON_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            NEON_UNROLL
            for (unsigned h = 0; h < 4; h++)
                vst1q_f32(u[i] + 4 * h, vaddq_f32(vld1q_f32(u[i] + 4 * h), t[i][h]));
        }
    }
}

KERN_ALWAYS_INLINE void product(enum kern_type type, const struct kern_matrix *w, size_t group0,
                                size_t group1, const struct kern_act *x, size_t n_x,
                                const struct neon_out *out)
{
    const uint8_t *end = w->data + group1 * w->group_bytes;
    for (size_t g = group0; g < group1; g++) {
        const uint8_t *p = w->data + g * w->group_bytes;
        for (size_t i = 0, n; i < n_x; i += n) {
            const float *xt = x->f + i * x->f_stride;
            float u[TILE][KERN_GROUP];
            n = n_x - i >= TILE ? TILE : 1;
            if (n == TILE)
                tile(type, TILE, p, end, w->n_cols, xt, x->f_stride, u);
            else
                tile(type, 1, p, end, w->n_cols, xt, x->f_stride, u);
            neon_put(out, w->n_rows, g, i, n, u);
        }
    }
}

#define MATMUL_FLOAT(type, name)                                                                   \
    static __attribute__((noinline)) void product_##name(                                          \
        const struct kern_matrix *w, size_t group0, size_t group1, const struct kern_act *x,       \
        size_t n_x, const struct neon_out *out)                                                    \
    {                                                                                              \
        product(type, w, group0, group1, x, n_x, out);                                             \
    }                                                                                              \
    NEON_MATMUL(name)

MATMUL_FLOAT(KERN_F32, f32_neon_4x)
MATMUL_FLOAT(KERN_F16, f16_neon_4x)
MATMUL_FLOAT(KERN_BF16, bf16_neon_4x)
