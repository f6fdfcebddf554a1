/* What the products with blocks of integer weights share: the walk over strips of x, groups,
 * segments and blocks, and the float part of the definition. A file includes this after the idea of
 * its family and defines the two functions that are declared below: how codes are unpacked, and how
 * exact integer dot products are formed.
 *
 * Up to TILE rows of x run against one group, straight from the packed bytes: decode is bound by
 * memory, and unpacking hides behind it. With more rows the codes of a segment are unpacked once
 * into a small buffer of bytes (struct wide), which stays in the first-level cache while all rows
 * of the strip pass over it in tiles; a strip is as many rows of x as stay near meanwhile.
 *
 * The running t, tm and u of a tile lie in memory, because its integer sums fill the registers.
 * Private to kernels/avx2/. */
#ifndef KERNELS_AVX2_BLOCKS_H
#define KERNELS_AVX2_BLOCKS_H

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/product.h"

enum { TILE = 4 };

/* A block unpacked: codes [8 quarters of 4 columns][16 rows][4] as bytes, and its scales as they
 * enter the arithmetic. */
struct wide {
    _Alignas(64) uint8_t codes[512];
    float d[16], m[16];
    int16_t sc[2][32];
};

/* Rows of x from the first of a tile, at one block; strides in elements. */
struct rows {
    const int8_t *q;
    const float *a, *s;
    const int16_t *h;
    size_t q_stride, a_stride, h_stride;
};

/* Where a block is: packed (codes and scales apart) or wide. */
struct block {
    const uint8_t *codes, *scales;
    const struct wide *wide;
};

/* Codes of quarter k (columns 4k..4k+3), rows 8 * half .. 8 * half + 7, from the packed codes. */
KERN_ALWAYS_INLINE __m256i codes(enum kern_type type, const uint8_t *w, unsigned k, unsigned half);
/* dot[i][half] = the block's integer dot product with row i; of the K types it is scaled. */
KERN_ALWAYS_INLINE void block_dots(enum kern_type type, bool wide, unsigned n_x, struct block w,
                                   const struct rows *x, __m256i dot[TILE][2]);

KERN_ALWAYS_INLINE bool is_super(enum kern_type type)
{
    return type == KERN_Q4_K || type == KERN_Q5_K || type == KERN_Q6_K;
}

KERN_ALWAYS_INLINE bool has_min(enum kern_type type)
{
    return type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q4_K || type == KERN_Q5_K;
}

/* Packed bytes of a segment's head, of a block's scales and of its quants. */
#define BLOCK_BYTES(what)                                                                          \
    KERN_ALWAYS_INLINE size_t bytes_##what(enum kern_type type)                                    \
    {                                                                                              \
        return type == KERN_Q8_0     ? KERN_Q8_0_##what                                            \
               : type == KERN_Q4_0   ? KERN_Q4_0_##what                                            \
               : type == KERN_Q4_1   ? KERN_Q4_1_##what                                            \
               : type == KERN_Q5_0   ? KERN_Q5_0_##what                                            \
               : type == KERN_Q5_1   ? KERN_Q5_1_##what                                            \
               : type == KERN_IQ4_NL ? KERN_IQ4_NL_##what                                          \
               : type == KERN_Q4_K   ? KERN_Q4_K_##what                                            \
               : type == KERN_Q5_K   ? KERN_Q5_K_##what                                            \
                                     : KERN_Q6_K_##what;                                           \
    }
BLOCK_BYTES(HEAD)
BLOCK_BYTES(SCALES)
BLOCK_BYTES(QUANTS)

/* ---- scales --------------------------------------------------------------------------------- */

KERN_ALWAYS_INLINE __m256 scale_d(bool wide, struct block w, unsigned half)
{
    return wide ? _mm256_load_ps(w.wide->d + 8 * half) : avx2_load_f16(w.scales + 16 * half);
}

KERN_ALWAYS_INLINE __m256 scale_m(enum kern_type type, bool wide, struct block w, unsigned half)
{
    if (wide)
        return _mm256_load_ps(w.wide->m + 8 * half);
    if (!is_super(type))
        return avx2_load_f16(w.scales + 32 + 16 * half);
    const __m128i m = _mm_loadl_epi64((const void *)(w.scales + 16 + 8 * half));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(m));
}

/* The factor of a K type's sums as int16, the same for both of a lane's sums: 16-column half `part`
 * of the block for Q6_K, whose factors have a sign; else the only one. */
KERN_ALWAYS_INLINE __m256i scale_sc(enum kern_type type, bool wide, struct block w, unsigned part,
                                    unsigned half)
{
    if (wide)
        return _mm256_load_si256((const void *)(w.wide->sc[part] + 16 * half));
    /* Byte r of 16 to the upper bytes of both halves of lane r, then down with its sign. */
    const __m256i all =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)(w.scales + 16 * part)));
    const __m256i lanes = _mm256_setr_epi32(0x00800080, 0x01800180, 0x02800280, 0x03800380,
                                            0x04800480, 0x05800580, 0x06800680, 0x07800780);
    const __m256i pick = _mm256_add_epi8(lanes, _mm256_set1_epi16((short)(0x800 * half)));
    const __m256i high = _mm256_shuffle_epi8(all, pick);
    return type == KERN_Q6_K ? _mm256_srai_epi16(high, 8) : _mm256_srli_epi16(high, 8);
}

KERN_ALWAYS_INLINE void widen(enum kern_type type, struct block w, struct wide *o)
{
    AVX2_UNROLL
    for (unsigned j = 0; j < 16; j++)
        _mm256_store_si256((void *)(o->codes + 32 * j), codes(type, w.codes, j / 2, j % 2));
    AVX2_UNROLL
    for (unsigned half = 0; half < 2; half++) {
        if (!is_super(type))
            _mm256_store_ps(o->d + 8 * half, scale_d(false, w, half));
        if (has_min(type))
            _mm256_store_ps(o->m + 8 * half, scale_m(type, false, w, half));
        for (unsigned part = 0; is_super(type) && part < (type == KERN_Q6_K ? 2u : 1u); part++)
            _mm256_store_si256((void *)(o->sc[part] + 16 * half),
                               scale_sc(type, false, w, part, half));
    }
}

/* ---- integer sums --------------------------------------------------------------------------- */

/* Four neighbouring activations, or the block's two sums, to every lane. */
KERN_ALWAYS_INLINE __m256i four(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

KERN_ALWAYS_INLINE __m256i block_codes(enum kern_type type, bool wide, struct block w, unsigned k,
                                       unsigned half)
{
    if (wide)
        return _mm256_load_si256((const void *)(w.wide->codes + 64 * k + 32 * half));
    return codes(type, w.codes, k, half);
}

/* acc[i][half] = int16 sums of unsigned codes times x over the quarters of steps [j0, j1): step 2g
 * is quarter g, step 2g + 1 quarter 4 + g, which share their packed bytes. */
KERN_ALWAYS_INLINE void sum_steps(enum kern_type type, bool wide, unsigned n_x, unsigned j0,
                                  unsigned j1, struct block w, const struct rows *x,
                                  __m256i acc[TILE][2])
{
    AVX2_UNROLL
    for (unsigned j = j0; j < j1; j++) {
        const unsigned k = j % 2 * 4 + j / 2;
        const __m256i w0 = block_codes(type, wide, w, k, 0);
        const __m256i w1 = block_codes(type, wide, w, k, 1);
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const __m256i xs = four(x->q + i * x->q_stride + 4 * k);
            const __m256i p0 = _mm256_maddubs_epi16(w0, xs), p1 = _mm256_maddubs_epi16(w1, xs);
            acc[i][0] = j == j0 ? p0 : avx2_add16(acc[i][0], p0);
            acc[i][1] = j == j0 ? p1 : avx2_add16(acc[i][1], p1);
        }
    }
}

/* dot = dot - offset * (sum of the block's x). */
KERN_ALWAYS_INLINE void take_offset(unsigned n_x, short offset, const struct rows *x,
                                    __m256i dot[TILE][2])
{
    AVX2_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        const __m256i sum =
            _mm256_madd_epi16(four(x->h + i * x->h_stride), _mm256_set1_epi16(offset));
        dot[i][0] = _mm256_sub_epi32(dot[i][0], sum);
        dot[i][1] = _mm256_sub_epi32(dot[i][1], sum);
    }
}

/* ---- the float part ------------------------------------------------------------------------- */

/* t += I * d * a or I * a, tm += m * s. */
KERN_ALWAYS_INLINE void block_step(enum kern_type type, bool wide, unsigned n_x, struct block w,
                                   const struct rows *x, float t[TILE][16], float tm[TILE][16])
{
    __m256i dot[TILE][2];
    block_dots(type, wide, n_x, w, x, dot);
    AVX2_UNROLL
    for (unsigned half = 0; half < 2; half++) {
        const __m256 d = is_super(type) ? _mm256_setzero_ps() : scale_d(wide, w, half);
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const __m256 a = _mm256_broadcast_ss(x->a + i * x->a_stride);
            const __m256 whole = _mm256_cvtepi32_ps(dot[i][half]);
            const __m256 v = is_super(type) ? whole : _mm256_mul_ps(whole, d);
            float *const ti = t[i] + 8 * half;
            _mm256_store_ps(ti, _mm256_fmadd_ps(v, a, _mm256_load_ps(ti)));
        }
        if (!has_min(type))
            continue;
        const __m256 m = scale_m(type, wide, w, half);
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const __m256 s = _mm256_broadcast_ss(x->s + i * x->a_stride);
            float *const ti = tm[i] + 8 * half;
            _mm256_store_ps(ti, _mm256_fmadd_ps(m, s, _mm256_load_ps(ti)));
        }
    }
}

/* u after a segment, from u before it. */
KERN_ALWAYS_INLINE __m256 segment_end(enum kern_type type, const uint8_t *head, unsigned half,
                                      __m256 t, __m256 tm, __m256 u)
{
    if (!is_super(type)) {
        u = _mm256_add_ps(u, t);
        return has_min(type) ? _mm256_add_ps(u, tm) : u;
    }
    u = _mm256_fmadd_ps(avx2_load_f16(head + 16 * half), t, u);
    return has_min(type) ? _mm256_fnmadd_ps(avx2_load_f16(head + 32 + 16 * half), tm, u) : u;
}

/* A segment: its packed parts, its blocks unpacked (or not), and where the stream of the call's
 * groups ends. */
struct segment {
    const uint8_t *head, *scales, *quants, *end;
    const struct wide *wide;
    size_t n_blocks;
    bool first; /* of its row: u is still +0 */
    bool small_pages;
};

/* Ask for the same place AHEAD_BYTES further on in the stream, if it is still the caller's. */
KERN_ALWAYS_INLINE void ahead(const uint8_t *p, size_t bytes, const uint8_t *end)
{
    if ((size_t)(end - p) < AHEAD_BYTES + bytes)
        return;
    AVX2_UNROLL
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + AHEAD_BYTES + i, _MM_HINT_T0);
}

/* One segment of a group times n_x rows of x; u [n_x, u_stride]. n_x, type and wide are constants
 * where this is inlined, and the small arrays become registers. */
KERN_ALWAYS_INLINE void tile(enum kern_type type, bool wide, unsigned n_x, const struct segment *s,
                             struct rows x, float *u, size_t u_stride)
{
    _Alignas(32) float t[TILE][16], tm[TILE][16];
    AVX2_UNROLL
    for (unsigned i = 0; i < 2 * n_x; i++) {
        _mm256_store_ps(t[i / 2] + i % 2 * 8, _mm256_setzero_ps());
        _mm256_store_ps(tm[i / 2] + i % 2 * 8, _mm256_setzero_ps());
    }
    if (!wide)
        ahead(s->head, bytes_HEAD(type) + 8 * bytes_SCALES(type), s->end);
    for (size_t b = 0; b < s->n_blocks; b++) {
        const struct block w = {s->quants + b * bytes_QUANTS(type),
                                s->scales + b * bytes_SCALES(type), s->wide + b};
        if (!wide && s->small_pages)
            kern_begin_page(w.codes, bytes_QUANTS(type), AHEAD_BYTES / 4096 + 2);
        if (!wide)
            ahead(w.codes, bytes_QUANTS(type), s->end);
        block_step(type, wide, n_x, w, &x, t, tm);
        x.q += KERN_BLOCK;
        x.a++;
        x.s++;
        x.h += 2;
    }
    AVX2_UNROLL
    for (unsigned i = 0; i < 2 * n_x; i++) {
        const unsigned half = i % 2;
        float *const ui = u + i / 2 * u_stride + 8 * half;
        const __m256 before = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(ui);
        _mm256_storeu_ps(ui, segment_end(type, s->head, half, _mm256_load_ps(t[i / 2] + 8 * half),
                                         _mm256_load_ps(tm[i / 2] + 8 * half), before));
    }
}

/* All rows of the strip against one segment. */
KERN_ALWAYS_INLINE void tiles(enum kern_type type, bool wide, const struct segment *s,
                              struct rows x, size_t n_x, float *u, size_t u_stride)
{
    for (; n_x >= TILE; n_x -= TILE, u += TILE * u_stride) {
        tile(type, wide, TILE, s, x, u, u_stride);
        x.q += TILE * x.q_stride;
        x.a += TILE * x.a_stride;
        x.s += TILE * x.a_stride;
        x.h += TILE * x.h_stride;
    }
    if (n_x >= 2) {
        tile(type, wide, 2, s, x, u, u_stride);
        u += 2 * u_stride;
        x.q += 2 * x.q_stride;
        x.a += 2 * x.a_stride;
        x.s += 2 * x.a_stride;
        x.h += 2 * x.h_stride;
    }
    if (n_x % 2 != 0)
        tile(type, wide, 1, s, x, u, u_stride);
}

/* One group times the n_x <= PRODUCT_STRIP rows of x; a product_group of product.h. */
KERN_ALWAYS_INLINE void blocks_group(enum kern_type type, const struct kern_matrix *m,
                                     const uint8_t *data, const uint8_t *end,
                                     const struct kern_act *x, size_t n_x, float *u,
                                     size_t u_stride)
{
    struct wide wide[KERN_SEGMENT_BLOCKS];
    const size_t n_blocks = m->n_cols / KERN_BLOCK;
    const size_t stride = x->q_stride;

    for (size_t b = 0, n; b < n_blocks; b += n) {
        n = kern_segment_blocks(b, n_blocks, m->skip);
        const struct segment s = {
            .head = data,
            .scales = data + bytes_HEAD(type),
            .quants = data + KERN_SEGMENT_HEAD(bytes_HEAD(type), bytes_SCALES(type), n),
            .end = end,
            .wide = wide,
            .n_blocks = n,
            .first = b == 0,
            .small_pages = m->small_pages,
        };
        const struct rows rows = {x->q + b * KERN_BLOCK, x->a + b,   x->s + b, x->h + 2 * b, stride,
                                  stride / KERN_BLOCK,   stride / 16};
        data = s.quants + n * bytes_QUANTS(type);
        if (n_x <= TILE || type == KERN_Q8_0) {
            tiles(type, false, &s, rows, n_x, u, u_stride);
            continue;
        }
        for (size_t i = 0; i < n; i++)
            widen(type,
                  (struct block){s.quants + i * bytes_QUANTS(type),
                                 s.scales + i * bytes_SCALES(type), NULL},
                  wide + i);
        tiles(type, true, &s, rows, n_x, u, u_stride);
    }
}

#define BLOCKS_KERNELS(type, lower)                                                                \
    static void lower##_group(const struct kern_matrix *m, const uint8_t *data,                    \
                              const uint8_t *end, const struct kern_act *x, size_t n_x, float *u,  \
                              size_t u_stride)                                                     \
    {                                                                                              \
        blocks_group(type, m, data, end, x, n_x, u, u_stride);                                     \
    }                                                                                              \
    void kern_matmul_##lower##_avx2(const struct kern_matrix *w, uint32_t group0, uint32_t group1, \
                                    const struct kern_act *x, uint32_t n_x, float *y,              \
                                    size_t y_stride)                                               \
    {                                                                                              \
        product(lower##_group, w, group0, group1, x, n_x, y, y_stride);                            \
    }                                                                                              \
    void kern_matmul_sum_##lower##_avx2(const struct kern_matrix *w, uint32_t group0,              \
                                        uint32_t group1, const struct kern_act *x, uint32_t n_x,   \
                                        int64_t *acc, size_t acc_stride, uint8_t *bad)             \
    {                                                                                              \
        product_sum(lower##_group, w, group0, group1, x, n_x, acc, acc_stride, bad);               \
    }

#endif
