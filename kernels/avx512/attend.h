/* The pieces of attention that know how rows of keys lie: sixteen positions of keys are made ready
 * once, then scored against one query after another, a lane a position. Private to
 * kernels/avx512/. */
#ifndef KERNELS_AVX512_ATTEND_H
#define KERNELS_AVX512_ATTEND_H

#include "kernels/avx512/avx512.h"

enum {
    LANES = 16,
    DIMS_MAX = KERN_HEAD_DIM_MAX, /* a multiple of 16 and of 32 */
    KV_BLOCKS_MAX = DIMS_MAX / KERN_BLOCK
};

/* Keys of sixteen positions. F16, F32: [dim / 16][position][16 dims] F32, zeros behind the last
 * dim. Q8_0: [dim / 4][position][4 dims], each byte 128 above its number; and the scales. */
struct keys {
    union {
        __m512 wide[DIMS_MAX];
        __m512i quads[DIMS_MAX / 4];
    };
    __m512 d[KV_BLOCKS_MAX];
};

/* A query as Q8_0 rows want it; start is -128 times the sum of a block's numbers, which undoes what
 * the keys' bytes have too much. */
struct query8 {
    int8_t q[DIMS_MAX];
    float a[KV_BLOCKS_MAX];
    int32_t start[KV_BLOCKS_MAX];
};

/* The n <= 16 dims from p on, as F32, zeros behind them. */
KERN_ALWAYS_INLINE __m512 load_dims(enum kern_kv_type type, const uint8_t *p, size_t n)
{
    const __mmask16 there = n < LANES ? avx512_first(n) : 0xffff;
    if (type == KERN_KV_F16)
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, p));
    if (type == KERN_KV_F32)
        return _mm512_maskz_loadu_ps(there, p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, p)));
}

/* Scales of block b of the n <= 16 rows of Q8_0 from p on. */
KERN_ALWAYS_INLINE __m512 load_scales(const uint8_t *p, size_t n, size_t row_bytes, size_t head_dim,
                                      size_t b)
{
    uint16_t d[LANES] = {0};
    for (size_t i = 0; i < n; i++)
        memcpy(d + i, p + i * row_bytes + head_dim + b * sizeof d[0], sizeof d[0]);
    return avx512_load_f16(d);
}

/* ---- F16 and F32 ----------------------------------------------------------------------------- */

/* Rows of keys of n <= 16 positions from p on; the other positions become zeros. */
KERN_ALWAYS_INLINE void keys_widen(enum kern_kv_type type, const uint8_t *p, size_t n,
                                   size_t row_bytes, size_t head_dim, struct keys *k)
{
    const size_t element = type == KERN_KV_F16 ? sizeof(uint16_t) : sizeof(float);
    const size_t whole = head_dim - head_dim % LANES;
    for (size_t i = 0; i < LANES; i++, p += row_bytes) {
        if (i < n) {
            for (size_t d = 0; d < whole; d += LANES)
                k->wide[d + i] = load_dims(type, p + d * element, LANES);
            if (whole < head_dim)
                k->wide[whole + i] = load_dims(type, p + whole * element, head_dim - whole);
        } else {
            for (size_t d = 0; d < head_dim; d += LANES)
                k->wide[d + i] = _mm512_setzero_ps();
        }
    }
}

/* Two rows of sixteen lanes: +8. */
KERN_ALWAYS_INLINE __m512 fold8(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}

/* Two results of fold8: +4, which leaves four lanes of each of four rows. */
KERN_ALWAYS_INLINE __m512 fold4(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* Two results of fold4: +2. */
KERN_ALWAYS_INLINE __m512 fold2(__m512 a, __m512 b)
{
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

/* Sixteen positions' dot products with q [head_dim]: lanes of each position by fma, folded for all
 * at once by shuffles that pair lane with lane + 8, + 4, + 2, + 1. */
KERN_ALWAYS_INLINE __m512 keys_dot(const struct keys *k, const float *q, size_t head_dim)
{
    __m512 lane[LANES], quad[4];
    AVX512_UNROLL
    for (unsigned i = 0; i < LANES; i++)
        lane[i] = _mm512_setzero_ps();
    size_t d = 0;
    for (; d + LANES <= head_dim; d += LANES) {
        const __m512 v = _mm512_loadu_ps(q + d);
        AVX512_UNROLL
        for (unsigned i = 0; i < LANES; i++)
            lane[i] = _mm512_fmadd_ps(v, k->wide[d + i], lane[i]);
    }
    if (d < head_dim) {
        const __mmask16 tail = avx512_first(head_dim - d);
        const __m512 v = _mm512_maskz_loadu_ps(tail, q + d);
        AVX512_UNROLL
        for (unsigned i = 0; i < LANES; i++)
            lane[i] = _mm512_mask3_fmadd_ps(v, k->wide[d + i], lane[i], tail);
    }
    AVX512_UNROLL
    for (unsigned i = 0; i < 4; i++)
        quad[i] = fold4(fold8(lane[i], lane[i + 4]), fold8(lane[i + 8], lane[i + 12]));
    const __m512 even = fold2(quad[0], quad[1]), odd = fold2(quad[2], quad[3]);
    return _mm512_add_ps(_mm512_shuffle_ps(even, odd, 0x88), _mm512_shuffle_ps(even, odd, 0xdd));
}

/* ---- Q8_0 ------------------------------------------------------------------------------------ */

/* Sixteen rows of sixteen 32-bit elements to sixteen columns. */
KERN_ALWAYS_INLINE void transpose(__m512i r[LANES])
{
    __m512i t[LANES];
    AVX512_UNROLL
    for (unsigned i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    AVX512_UNROLL
    for (unsigned i = 0; i < LANES; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* Quarter l of r[4 i + c] now has column 4 l + c of rows 4 i .. 4 i + 3. */
    AVX512_UNROLL
    for (unsigned c = 0; c < 4; c++) {
        const __m512i low0 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x44);
        const __m512i low1 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x44);
        const __m512i high0 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xee);
        const __m512i high1 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xee);
        t[c] = _mm512_shuffle_i32x4(low0, low1, 0x88);
        t[4 + c] = _mm512_shuffle_i32x4(low0, low1, 0xdd);
        t[8 + c] = _mm512_shuffle_i32x4(high0, high1, 0x88);
        t[12 + c] = _mm512_shuffle_i32x4(high0, high1, 0xdd);
    }
    AVX512_UNROLL
    for (unsigned i = 0; i < LANES; i++)
        r[i] = t[i];
}

/* As keys_widen, for Q8_0; head_dim is a multiple of 32. */
KERN_ALWAYS_INLINE void keys_transpose(const uint8_t *p, size_t n, size_t row_bytes,
                                       size_t head_dim, struct keys *k)
{
    for (size_t d = 0; d < head_dim; d += 64) {
        const __mmask16 there = avx512_first(kern_min_size(head_dim - d, 64) / 4);
        __m512i r[LANES];
        for (size_t i = 0; i < LANES; i++)
            r[i] = i < n ? _mm512_maskz_loadu_epi32(there, p + i * row_bytes + d)
                         : _mm512_setzero_si512();
        transpose(r);
        for (size_t i = 0; i < kern_min_size(head_dim - d, 64) / 4; i++)
            k->quads[d / 4 + i] = _mm512_xor_si512(r[i], _mm512_set1_epi8(-128));
    }
    for (size_t b = 0; b < head_dim / KERN_BLOCK; b++)
        k->d[b] = load_scales(p, n, row_bytes, head_dim, b);
}

/* Sixteen positions' scores before the scale, by the chain of a Q8_0 matrix. */
KERN_ALWAYS_INLINE __m512 keys_dot8(const struct keys *k, const struct query8 *q, size_t head_dim)
{
    const size_t n_blocks = head_dim / KERN_BLOCK;
    __m512 u = _mm512_setzero_ps();
    for (size_t b0 = 0; b0 < n_blocks; b0 += KERN_SEGMENT_BLOCKS) {
        const size_t b1 = kern_min_size(n_blocks, b0 + KERN_SEGMENT_BLOCKS);
        __m512 t = _mm512_setzero_ps();
        for (size_t b = b0; b < b1; b++) {
            __m512i dot = _mm512_set1_epi32(q->start[b]);
            AVX512_UNROLL
            for (unsigned i = 0; i < 8; i++) {
                int32_t four;
                memcpy(&four, q->q + b * KERN_BLOCK + 4 * i, sizeof four);
                dot = _mm512_dpbusd_epi32(dot, k->quads[8 * b + i], _mm512_set1_epi32(four));
            }
            t = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot), k->d[b]),
                                _mm512_set1_ps(q->a[b]), t);
        }
        u = _mm512_add_ps(u, t);
    }
    return u;
}

#endif
