/* Products with F32, F16 and BF16 weights: lanes are rows, a column is one register of weights,
 * widened exactly, and one fma a row of x. One row of x takes four groups at a time, because a
 * chain of fma alone would wait for itself; more rows take two groups by eight rows, so that a
 * weight is widened once for eight and a broadcast activation serves twice. Nothing is asked for
 * ahead: four streams of whole columns are what hardware foresees best. */
#include "kernels/avx512/sink.h"

enum { TILE = 8 };

KERN_ALWAYS_INLINE size_t column_bytes(enum kern_type type)
{
    return KERN_GROUP * (type == KERN_F32 ? sizeof(float) : sizeof(uint16_t));
}

/* Sixteen weights as F32. */
KERN_ALWAYS_INLINE __m512 widen(enum kern_type type, const uint8_t *p)
{
    if (type == KERN_F32)
        return _mm512_loadu_ps(p);
    if (type == KERN_F16)
        return avx512_load_f16(p);
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}

/* n_g groups from row 16 g on, times n_x rows of x from row t on. */
KERN_ALWAYS_INLINE void tile(enum kern_type type, unsigned n_g, unsigned n_x,
                             const struct kern_matrix *m, size_t g, const struct kern_act *act,
                             size_t t, const struct sink *o)
{
    const size_t bytes = column_bytes(type), n_cols = m->n_cols;
    const uint8_t *w = m->data + g * m->group_bytes;
    const float *x = act->f + t * act->f_stride;
    __m512 u[4][TILE];

    AVX512_UNROLL
    for (unsigned i = 0; i < n_g * n_x; i++)
        u[i / n_x][i % n_x] = _mm512_setzero_ps();
    for (size_t c0 = 0; c0 < n_cols; c0 += KERN_SEGMENT) {
        const size_t c1 = kern_min_size(n_cols, c0 + KERN_SEGMENT);
        __m512 sum[4][TILE];
        AVX512_UNROLL
        for (unsigned i = 0; i < n_g * n_x; i++)
            sum[i / n_x][i % n_x] = _mm512_setzero_ps();
        for (size_t c = c0; c < c1; c++) {
            __m512 wide[4];
            AVX512_UNROLL
            for (unsigned j = 0; j < n_g; j++) {
                wide[j] = widen(type, w + j * m->group_bytes + c * bytes);
            }
            AVX512_UNROLL
            for (unsigned i = 0; i < n_x; i++) {
                const __m512 v = _mm512_set1_ps(x[i * act->f_stride + c]);
                AVX512_UNROLL
                for (unsigned j = 0; j < n_g; j++)
                    sum[j][i] = _mm512_fmadd_ps(wide[j], v, sum[j][i]);
            }
        }
        AVX512_UNROLL
        for (unsigned i = 0; i < n_g * n_x; i++)
            u[i / n_x][i % n_x] = _mm512_add_ps(u[i / n_x][i % n_x], sum[i / n_x][i % n_x]);
    }
    AVX512_UNROLL
    for (unsigned i = 0; i < n_g * n_x; i++)
        sink_put(o, t + i % n_x, (g + i / n_x) * KERN_GROUP, u[i / n_x][i % n_x]);
}

/* All rows of x times n_g groups. */
KERN_ALWAYS_INLINE void groups(enum kern_type type, unsigned n_g, const struct kern_matrix *m,
                               size_t g, const struct kern_act *x, size_t n_x, const struct sink *o)
{
    size_t t = 0;
    for (; t + TILE <= n_x; t += TILE)
        tile(type, n_g, TILE, m, g, x, t, o);
    if (n_x - t >= 4) {
        tile(type, n_g, 4, m, g, x, t, o);
        t += 4;
    }
    if (n_x - t >= 2) {
        tile(type, n_g, 2, m, g, x, t, o);
        t += 2;
    }
    if (n_x - t == 1)
        tile(type, n_g, 1, m, g, x, t, o);
}

KERN_ALWAYS_INLINE void product_of(enum kern_type type, const struct kern_matrix *m, size_t group0,
                                   size_t group1, const struct kern_act *x, size_t n_x,
                                   const struct sink *o)
{
    size_t g = group0;
    for (; n_x == 1 && g + 4 <= group1; g += 4)
        tile(type, 4, 1, m, g, x, 0, o);
    for (; g + 2 <= group1; g += 2)
        groups(type, 2, m, g, x, n_x, o);
    if (g < group1)
        groups(type, 1, m, g, x, n_x, o);
}

static void product_f32(const struct kern_matrix *m, size_t group0, size_t group1,
                        const struct kern_act *x, size_t n_x, const struct sink *o)
{
    product_of(KERN_F32, m, group0, group1, x, n_x, o);
}

static void product_f16(const struct kern_matrix *m, size_t group0, size_t group1,
                        const struct kern_act *x, size_t n_x, const struct sink *o)
{
    product_of(KERN_F16, m, group0, group1, x, n_x, o);
}

static void product_bf16(const struct kern_matrix *m, size_t group0, size_t group1,
                         const struct kern_act *x, size_t n_x, const struct sink *o)
{
    product_of(KERN_BF16, m, group0, group1, x, n_x, o);
}

SINK_KERNELS(product_f32, kern_matmul_f32_avx512_8x, kern_matmul_sum_f32_avx512_8x)
SINK_KERNELS(product_f16, kern_matmul_f16_avx512_8x, kern_matmul_sum_f16_avx512_8x)
SINK_KERNELS(product_bf16, kern_matmul_bf16_avx512_8x, kern_matmul_sum_bf16_avx512_8x)
