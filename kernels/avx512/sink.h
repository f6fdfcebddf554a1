/* Where the sixteen results of a group and a row of x go: either as they are, or as one unit of a
 * sum that cuts may split. u times 2^30 is exact in F32 for every u that passes the gate, so the one
 * rounding is the conversion to int64, to nearest even as the definition's. Private to
 * kernels/avx512/. */
#ifndef KERNELS_AVX512_SINK_H
#define KERNELS_AVX512_SINK_H

#include "kernels/avx512/avx512.h"

struct sink {
    float *y; /* [n_x, y_stride]; NULL: the results are a unit */
    size_t y_stride;
    int64_t *acc; /* [n_x, acc_stride] */
    size_t acc_stride;
    uint8_t *bad; /* [n_x] */
    size_t n_rows;
};

KERN_ALWAYS_INLINE void sink_unit(const struct sink *o, size_t t, size_t row, __m512 u)
{
    const __mmask16 rows = o->n_rows - row < KERN_GROUP ? avx512_first(o->n_rows - row) : 0xffff;
    const __mmask8 low = (__mmask8)rows, high = (__mmask8)(rows >> 8);
    const __m512 scaled = _mm512_mul_ps(u, _mm512_set1_ps(0x1p30f));
    const __m512i k0 = _mm512_cvtps_epi64(_mm512_castps512_ps256(scaled));
    const __m512i k1 = _mm512_cvtps_epi64(_mm512_extractf32x8_ps(scaled, 1));
    int64_t *acc = o->acc + t * o->acc_stride + row;

    if (_mm512_mask_cmpgt_epi32_mask(rows, avx512_abs_bits(u),
                                     _mm512_set1_epi32((int)KERN_UNIT_MAX_BITS)) != 0)
        o->bad[t] = 1;
    _mm512_mask_storeu_epi64(acc, low, _mm512_add_epi64(_mm512_maskz_loadu_epi64(low, acc), k0));
    _mm512_mask_storeu_epi64(acc + 8, high,
                             _mm512_add_epi64(_mm512_maskz_loadu_epi64(high, acc + 8), k1));
}

/* Results of row t of x and the 16 rows of the matrix that begin at `row`, below n_rows. */
KERN_ALWAYS_INLINE void sink_put(const struct sink *o, size_t t, size_t row, __m512 u)
{
    if (o->y != NULL)
        _mm512_storeu_ps(o->y + t * o->y_stride + row, u);
    else
        sink_unit(o, t, row, u);
}

/* The two slots of a type, both made of product(w, group0, group1, x, n_x, sink). */
#define SINK_KERNELS(product, name, sum_name)                                                      \
    void name(const struct kern_matrix *w, uint32_t group0, uint32_t group1,                       \
              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)                   \
    {                                                                                              \
        const struct sink o = {.y = y, .y_stride = y_stride};                                      \
        product(w, group0, group1, x, n_x, &o);                                                    \
    }                                                                                              \
    void sum_name(const struct kern_matrix *w, uint32_t group0, uint32_t group1,                   \
                  const struct kern_act *x, uint32_t n_x, int64_t *acc, size_t acc_stride,         \
                  uint8_t *bad)                                                                    \
    {                                                                                              \
        const struct sink o = {                                                                    \
            .acc = acc, .acc_stride = acc_stride, .bad = bad, .n_rows = w->n_rows};                \
        product(w, group0, group1, x, n_x, &o);                                                    \
    }

#endif
