/* Products with F32, F16 and BF16 weights: a lane is an output row and runs the definition's chain,
 * one fused multiply-add a column. Emulating that costs far more than loading a weight, so rows of
 * x simply follow each other. */
#include "kernels/sse4/product.h"

/* Weights of column c, rows 4j..4j+3, of a group [n_cols][16]. */
KERN_ALWAYS_INLINE __m128 load(enum kern_type type, const uint8_t *group, size_t c, unsigned j)
{
    const size_t i = c * KERN_GROUP + 4 * j;
    if (type == KERN_F32)
        return _mm_loadu_ps((const float *)(const void *)group + i);
    if (type == KERN_F16)
        return sse4_load_f16(group + 2 * i);
    const __m128i half = _mm_loadl_epi64((const void *)(group + 2 * i));
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(half), 16));
}

KERN_ALWAYS_INLINE void float_group(enum kern_type type, const struct kern_matrix *m,
                                    const uint8_t *data, const struct kern_act *x, size_t n_x,
                                    float *u, size_t u_stride)
{
    for (size_t i = 0; i < n_x; i++, u += u_stride) {
        const float *const xi = x->f + i * x->f_stride;
        __m128 sum[4], t[4];
        SSE4_UNROLL
        for (unsigned j = 0; j < 4; j++)
            sum[j] = t[j] = _mm_setzero_ps();
        for (size_t c = 0; c < m->n_cols; c++) {
            const __m128 xc = _mm_set1_ps(xi[c]);
            SSE4_UNROLL
            for (unsigned j = 0; j < 4; j++)
                t[j] = sse4_fma(load(type, data, c, j), xc, t[j]);
            if ((c + 1) % KERN_SEGMENT != 0 && c + 1 != m->n_cols)
                continue;
            SSE4_UNROLL
            for (unsigned j = 0; j < 4; j++) {
                sum[j] = _mm_add_ps(sum[j], t[j]);
                t[j] = _mm_setzero_ps();
            }
        }
        SSE4_UNROLL
        for (unsigned j = 0; j < 4; j++)
            _mm_storeu_ps(u + 4 * j, sum[j]);
    }
}

#define FLOAT_KERNELS(type, lower)                                                                 \
    static void lower##_group(const struct kern_matrix *m, const uint8_t *data,                    \
                              const struct kern_act *x, size_t n_x, float *u, size_t u_stride)     \
    {                                                                                              \
        float_group(type, m, data, x, n_x, u, u_stride);                                           \
    }                                                                                              \
    PRODUCT_KERNELS(lower, lower##_group)

FLOAT_KERNELS(KERN_F32, f32)
FLOAT_KERNELS(KERN_F16, f16)
FLOAT_KERNELS(KERN_BF16, bf16)
