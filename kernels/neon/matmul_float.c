/* Products with F32, F16 and BF16 weights: a lane is an output row, so each lane runs the
 * definition's chain, fused multiply-add by column, and nothing is summed across lanes. The 16 rows
 * of a group are four independent chains, and up to four rows of x share each load of weights. */
#include "kernels/neon/neon.h"

enum { TILE = 4 };

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

/* One group times n_x rows; n_x is a constant where this is inlined, and the arrays become
 * registers. */
KERN_ALWAYS_INLINE void tile(enum kern_type type, unsigned n_x, const uint8_t *group, size_t n_cols,
                             const float *x, size_t x_stride, float *y, size_t y_stride)
{
    float32x4_t u[TILE][4];
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        u[i][0] = u[i][1] = u[i][2] = u[i][3] = vdupq_n_f32(0.0f);
    for (size_t c0 = 0; c0 < n_cols; c0 += KERN_SEGMENT) {
        const size_t c1 = kern_min_size(n_cols, c0 + KERN_SEGMENT);
        float32x4_t t[TILE][4];
        NEON_UNROLL
        for (unsigned i = 0; i < n_x; i++)
            t[i][0] = t[i][1] = t[i][2] = t[i][3] = vdupq_n_f32(0.0f);
        for (size_t c = c0; c < c1; c++) {
            NEON_UNROLL
            for (unsigned h = 0; h < 4; h++) {
                const float32x4_t w = load(type, group, c, h);
                NEON_UNROLL
                for (unsigned i = 0; i < n_x; i++)
                    t[i][h] = vfmaq_n_f32(t[i][h], w, x[i * x_stride + c]);
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
            vst1q_f32(y + i * y_stride + h * 4, u[i][h]);
    }
}

KERN_ALWAYS_INLINE void matmul(enum kern_type type, const struct kern_matrix *w, uint32_t group0,
                               uint32_t group1, const struct kern_act *x, uint32_t n_x, float *y,
                               size_t y_stride)
{
    const size_t n_cols = w->n_cols, stride = x->f_stride;
    const size_t bytes = n_cols * KERN_GROUP * (type == KERN_F32 ? 4 : 2);
    for (size_t g = group0; g < group1; g++) {
        const uint8_t *group = w->quants + g * bytes;
        const float *xt = x->f;
        float *yt = y + g * KERN_GROUP;
        size_t left = n_x;
        for (; left >= TILE; left -= TILE, xt += TILE * stride, yt += TILE * y_stride)
            tile(type, TILE, group, n_cols, xt, stride, yt, y_stride);
        for (; left > 0; left--, xt += stride, yt += y_stride)
            tile(type, 1, group, n_cols, xt, stride, yt, y_stride);
    }
}

void kern_matmul_f32_neon_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                             const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_F32, w, group0, group1, x, n_x, y, y_stride);
}

void kern_matmul_f16_neon_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                             const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_F16, w, group0, group1, x, n_x, y, y_stride);
}

void kern_matmul_bf16_neon_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_BF16, w, group0, group1, x, n_x, y, y_stride);
}
