/* What the products with integer weights share: the walk over groups, segments and blocks, the
 * float part of the definition, and the choice of tile. A file defines, before it includes this,
 *
 *     HEAD, SCALES, QUANTS   the packed bytes of its type (types.def)
 *     FORM                   which of the definition's forms it has, see below
 *     OFFSET                 what is to be taken off a weight as unpack gives it
 *
 * and after it
 *
 *     unpack(p, w)           w[k] = columns 4k .. 4k+3 of a block for 16 rows, unsigned bytes
 *
 * Weights are unsigned, because vpdpbusd wants them so; the offset is taken off through the sums of
 * the activations, as the number that the integer sum of a block starts with.
 *
 * Up to eight rows of x, as in decoding: weights go from memory through registers once, in order. For
 * one row and two, hardware foresees that stream better than requests for each line would, which take
 * its places. With three rows the arithmetic of a block is so long that few loads of later ones are
 * begun meanwhile, and memory and arithmetic would take turns: each line is asked for.
 *
 * More rows of x: a segment of two groups is unpacked into the first-level cache once for up to 64
 * rows, and a tile is two groups by four rows, so that a broadcast activation serves twice and a
 * loaded weight four times; the multiply units are then busy with little but the products that must
 * be made. While a tile is multiplied, a share of the next segment is on its way. Private to
 * kernels/avx512/. */
#ifndef KERNELS_AVX512_BLOCKS_H
#define KERNELS_AVX512_BLOCKS_H

#include "kernels/avx512/sink.h"

enum {
    FORM_SCALE,     /* F16 d a block: t = fmaf((float)I * d, a, t), u = u + t */
    FORM_SCALE_MIN, /* F16 d and m a block: tm = fmaf(m, s, tm) besides, then u = u + tm */
    FORM_SUPER_MIN, /* sc and m a block, d and dmin a segment: u = fmaf(d, t, u), -dmin with tm */
    FORM_SUPER_HALF /* sc0 and sc1 a block for 16 columns each, d a segment */
};
enum {
    HAS_MIN = FORM == FORM_SCALE_MIN || FORM == FORM_SUPER_MIN,
    IS_SUPER = FORM == FORM_SUPER_MIN || FORM == FORM_SUPER_HALF,
    N_STARTS = FORM == FORM_SUPER_HALF ? 2 : 1, /* integer sums of a block */
    FEW = 8,                                    /* rows of x served while weights stream */
    FEW_AHEAD = 3,                              /* rows of x from which on each line is asked for, */
    AHEAD_BYTES = 4096,                         /* so far ahead */
    TILE = 4,                                   /* rows of x of a tile, else */
    MANY = 64,                                  /* rows of x that share an unpacked segment */
    LINE = 64                                   /* bytes of a cache line */
};

/* Rows of x from the first of a tile on, columns from the first of a segment on. */
struct rows {
    const int8_t *q;
    const float *a, *s;
    size_t stride; /* of q, in elements */
};

/* What a block's integer sums start with, for each row of x: -OFFSET times the sums of x. */
struct starts {
    _Alignas(64) int32_t of[MANY][KERN_SEGMENT_BLOCKS * N_STARTS];
};

/* A segment of one group, ready to multiply. */
struct unpacked {
    __m512i w[KERN_SEGMENT_BLOCKS][8];
    __m512 scale[KERN_SEGMENT_BLOCKS], other[KERN_SEGMENT_BLOCKS]; /* other: m, or sc1 */
    __m512 d, dmin;
};

KERN_ALWAYS_INLINE void unpack(const uint8_t *p, __m512i w[8]);

/* Sixteen bytes as F32. */
KERN_ALWAYS_INLINE __m512 from_bytes(const uint8_t *p, bool is_signed)
{
    const __m128i v = _mm_loadu_si128((const void *)p);
    return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(v) : _mm512_cvtepu8_epi32(v));
}

/* The two numbers a block has for each row; the second is 0 where there is none. */
KERN_ALWAYS_INLINE void block_scales(const uint8_t *p, __m512 *scale, __m512 *other)
{
    *other = _mm512_setzero_ps();
    if (IS_SUPER) {
        *scale = from_bytes(p, FORM == FORM_SUPER_HALF);
        *other = from_bytes(p + KERN_GROUP, FORM == FORM_SUPER_HALF);
    } else {
        *scale = avx512_load_f16(p);
        if (HAS_MIN)
            *other = avx512_load_f16(p + 2 * KERN_GROUP);
    }
}

/* u after a segment with sums t and tm, whose head begins at `head`. */
KERN_ALWAYS_INLINE __m512 segment_end(const uint8_t *head, __m512 t, __m512 tm, __m512 u)
{
    if (!IS_SUPER) {
        u = _mm512_add_ps(u, t);
        return HAS_MIN ? _mm512_add_ps(u, tm) : u;
    }
    u = _mm512_fmadd_ps(avx512_load_f16(head), t, u);
    return HAS_MIN ? _mm512_fnmadd_ps(avx512_load_f16(head + 2 * KERN_GROUP), tm, u) : u;
}

/* t after a block with the integer sums dot[0] (and dot[1]), activation scale a. */
KERN_ALWAYS_INLINE __m512 block_end(const __m512i *dot, __m512 scale, __m512 other, __m512 a,
                                    __m512 t)
{
    __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[0]), scale);
    if (FORM == FORM_SUPER_HALF)
        v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[1]), other, v);
    return _mm512_fmadd_ps(v, a, t);
}

/* starts of n_x rows for n_blocks blocks, of which h points at the first of the first row. */
KERN_ALWAYS_INLINE void starts_of(const int16_t *h, size_t h_stride, size_t n_x, size_t n_blocks,
                                  struct starts *s)
{
    if (OFFSET == 0)
        return;
    const __mmask16 there = avx512_first(2 * n_blocks);
    for (size_t i = 0; i < n_x; i++) {
        const __m256i half = _mm256_maskz_loadu_epi16(there, h + i * h_stride);
        if (N_STARTS == 1)
            _mm256_store_si256((void *)s->of[i],
                               _mm256_madd_epi16(half, _mm256_set1_epi16(-OFFSET)));
        else
            _mm512_store_si512(s->of[i], _mm512_mullo_epi32(_mm512_cvtepi16_epi32(half),
                                                            _mm512_set1_epi32(-OFFSET)));
    }
}

KERN_ALWAYS_INLINE __m512i start_at(const struct starts *s, size_t i, size_t b, size_t which)
{
    return OFFSET == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(s->of[i][b * N_STARTS + which]);
}

/* Four neighbouring activations to every lane. */
KERN_ALWAYS_INLINE __m512i four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

/* Ask for `bytes` from p on, or for the last bytes before `end` where p is behind them. */
KERN_ALWAYS_INLINE void ask_for(const uint8_t *p, size_t bytes, const uint8_t *end)
{
    const uint8_t *from = (uintptr_t)p + bytes <= (uintptr_t)end ? p : end - bytes;
    for (size_t i = 0; i < bytes; i += LINE)
        _mm_prefetch((const char *)from + i, _MM_HINT_T1);
}

/* Ask for what follows the block at p; behind the matrix nothing is read. */
KERN_ALWAYS_INLINE void ask_ahead(unsigned n_x, bool small_pages, const uint8_t *p)
{
    const uintptr_t at = (uintptr_t)p;
    if (small_pages)
        kern_begin_page(p, QUANTS + SCALES, 2);
    for (size_t i = 0; n_x >= FEW_AHEAD && i < QUANTS + SCALES; i += LINE)
        _mm_prefetch((const char *)(at + AHEAD_BYTES + i), _MM_HINT_T0);
}

/* ---- up to eight rows of x ------------------------------------------------------------------- */

/* One segment of one group, which begins at `head`, times n_x rows: u. */
KERN_ALWAYS_INLINE void few_segment(unsigned n_x, const uint8_t *head, size_t n_blocks,
                                    bool small_pages, const struct rows *x, const struct starts *s,
                                    __m512 u[FEW])
{
    const uint8_t *quants = head + KERN_SEGMENT_HEAD(HEAD, SCALES, n_blocks);
    __m512 t[FEW], tm[FEW];

    AVX512_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        t[i] = tm[i] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, quants += QUANTS) {
        __m512i w[8];
        __m512 scale, other;
        ask_ahead(n_x, small_pages, quants);
        unpack(quants, w);
        block_scales(head + HEAD + b * SCALES, &scale, &other);
        AVX512_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const int8_t *q = x->q + i * x->stride + b * KERN_BLOCK;
            const size_t at = i * (x->stride / KERN_BLOCK) + b;
            __m512i dot[2] = {start_at(s, i, b, 0),
                              N_STARTS == 2 ? start_at(s, i, b, 1) : _mm512_setzero_si512()};
            AVX512_UNROLL
            for (unsigned k = 0; k < 8; k++)
                dot[k / 4] = _mm512_dpbusd_epi32(dot[k / 4], w[k], four(q + 4 * k));
            if (N_STARTS == 1)
                dot[0] = _mm512_add_epi32(dot[0], dot[1]);
            t[i] = block_end(dot, scale, other, _mm512_set1_ps(x->a[at]), t[i]);
            if (HAS_MIN)
                tm[i] = _mm512_fmadd_ps(other, _mm512_set1_ps(x->s[at]), tm[i]);
        }
    }
    AVX512_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        u[i] = segment_end(head, t[i], tm[i], u[i]);
}

/* n_x rows of x times groups [group0, group1). starts_at says of which block the starts are at hand:
 * matrices of one segment, as units are, keep them for all groups. */
KERN_ALWAYS_INLINE void few(unsigned n_x, const struct kern_matrix *m, size_t group0, size_t group1,
                            const struct kern_act *act, const struct sink *o)
{
    const size_t n_blocks = m->n_cols / KERN_BLOCK;
    const uint8_t *p = m->data + group0 * m->group_bytes;
    size_t starts_at = SIZE_MAX;
    struct starts s;

    for (size_t g = group0; g < group1; g++) {
        __m512 u[FEW];
        AVX512_UNROLL
        for (unsigned i = 0; i < n_x; i++)
            u[i] = _mm512_setzero_ps();
        for (size_t b = 0, n; b < n_blocks; b += n) {
            const struct rows x = {act->q + b * KERN_BLOCK, act->a + b, act->s + b, act->q_stride};
            n = kern_segment_blocks(b, n_blocks, m->skip);
            if (starts_at != b)
                starts_of(act->h + 2 * b, act->q_stride / 16, n_x, n, &s);
            starts_at = b;
            few_segment(n_x, p, n, m->small_pages, &x, &s, u);
            p += KERN_SEGMENT_HEAD(HEAD, SCALES, n) + n * QUANTS;
        }
        AVX512_UNROLL
        for (unsigned i = 0; i < n_x; i++)
            sink_put(o, i, g * KERN_GROUP, u[i]);
    }
}

/* ---- more rows of x -------------------------------------------------------------------------- */

KERN_ALWAYS_INLINE void unpack_segment(const uint8_t *head, size_t n_blocks, struct unpacked *w)
{
    const uint8_t *quants = head + KERN_SEGMENT_HEAD(HEAD, SCALES, n_blocks);
    for (size_t b = 0; b < n_blocks; b++) {
        unpack(quants + b * QUANTS, w->w[b]);
        block_scales(head + HEAD + b * SCALES, &w->scale[b], &w->other[b]);
    }
}

/* tm of a tile; apart from t's, so that both find registers. */
KERN_ALWAYS_INLINE void tile_minima(unsigned n_g, unsigned n_x, const struct unpacked *w,
                                    size_t n_blocks, const struct rows *x, __m512 tm[2][TILE])
{
    AVX512_UNROLL
    for (unsigned i = 0; i < n_g * n_x; i++)
        tm[i / n_x][i % n_x] = _mm512_setzero_ps();
    for (size_t b = 0; HAS_MIN && b < n_blocks; b++) {
        AVX512_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const __m512 s = _mm512_set1_ps(x->s[i * (x->stride / KERN_BLOCK) + b]);
            AVX512_UNROLL
            for (unsigned g = 0; g < n_g; g++)
                tm[g][i] = _mm512_fmadd_ps(w[g].other[b], s, tm[g][i]);
        }
    }
}

/* Integer sums of granules [k0, k0 + n_k) of block b of a tile, from the starts on. */
KERN_ALWAYS_INLINE void tile_dots(unsigned n_g, unsigned n_x, const struct unpacked *w, size_t b,
                                  unsigned k0, unsigned n_k, const struct rows *x,
                                  const struct starts *s, size_t i0, __m512i dot[2][TILE])
{
    AVX512_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        dot[0][i] = dot[1][i] = start_at(s, i0 + i, b, k0 / 4);
    AVX512_UNROLL
    for (unsigned k = k0; k < k0 + n_k; k++) {
        AVX512_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const __m512i v = four(x->q + i * x->stride + b * KERN_BLOCK + 4 * k);
            AVX512_UNROLL
            for (unsigned g = 0; g < n_g; g++)
                dot[g][i] = _mm512_dpbusd_epi32(dot[g][i], w[g].w[b][k], v);
        }
    }
}

/* A segment of n_g groups times n_x rows, whose starts are s->of[i0 ...]; u [n_x][2] of the rows. */
KERN_ALWAYS_INLINE void tile(unsigned n_g, unsigned n_x, const struct unpacked *w,
                             const uint8_t *const head[2], size_t n_blocks, const struct rows *x,
                             const struct starts *s, size_t i0, __m512 (*u)[2])
{
    __m512 t[2][TILE], tm[2][TILE];
    AVX512_UNROLL
    for (unsigned i = 0; i < n_g * n_x; i++)
        t[i / n_x][i % n_x] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++) {
        __m512i dot[2][TILE], dot1[2][TILE];
        tile_dots(n_g, n_x, w, b, 0, 8 / N_STARTS, x, s, i0, dot);
        if (N_STARTS == 2)
            tile_dots(n_g, n_x, w, b, 4, 4, x, s, i0, dot1);
        AVX512_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const __m512 a = _mm512_set1_ps(x->a[i * (x->stride / KERN_BLOCK) + b]);
            AVX512_UNROLL
            for (unsigned g = 0; g < n_g; g++) {
                const __m512i both[2] = {dot[g][i], N_STARTS == 2 ? dot1[g][i] : dot[g][i]};
                t[g][i] = block_end(both, w[g].scale[b], w[g].other[b], a, t[g][i]);
            }
        }
    }
    tile_minima(n_g, n_x, w, n_blocks, x, tm);
    AVX512_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        AVX512_UNROLL
        for (unsigned g = 0; g < n_g; g++)
            u[i][g] = segment_end(head[g], t[g][i], tm[g][i], u[i][g]);
    }
}

/* The segments after the ones at hand, of which each tile asks for `share` bytes a group. */
struct coming {
    const uint8_t *at[2], *end;
    size_t share;
};

/* All tiles of one segment of n_g groups. */
KERN_ALWAYS_INLINE void many_segment(unsigned n_g, const struct unpacked *w,
                                     const uint8_t *const head[2], size_t n_blocks, struct rows x,
                                     const struct starts *s, size_t n_x,
                                     const struct coming *coming, __m512 (*u)[2])
{
    size_t i = 0;
    for (; i + TILE <= n_x; i += TILE) {
        for (unsigned j = 0; j < n_g; j++)
            ask_for(coming->at[j] + i / TILE * coming->share, coming->share, coming->end);
        tile(n_g, TILE, w, head, n_blocks, &x, s, i, u + i);
        x.q += TILE * x.stride;
        x.a += TILE * (x.stride / KERN_BLOCK);
        x.s += TILE * (x.stride / KERN_BLOCK);
    }
    if (n_x - i == 3)
        tile(n_g, 3, w, head, n_blocks, &x, s, i, u + i);
    else if (n_x - i == 2)
        tile(n_g, 2, w, head, n_blocks, &x, s, i, u + i);
    else if (n_x - i == 1)
        tile(n_g, 1, w, head, n_blocks, &x, s, i, u + i);
}

/* n_x <= MANY rows of x times n_g groups from g on; *starts_at as in few. */
KERN_ALWAYS_INLINE void many(unsigned n_g, const struct kern_matrix *m, size_t g, size_t group1,
                             const struct kern_act *act, size_t t0, size_t n_x, struct starts *s,
                             size_t *starts_at, const struct sink *o)
{
    const size_t n_blocks = m->n_cols / KERN_BLOCK, stride = act->q_stride;
    const size_t row = t0 * (stride / KERN_BLOCK);
    const uint8_t *head[2] = {m->data + g * m->group_bytes, m->data + (g + 1) * m->group_bytes};
    struct unpacked w[2];
    __m512 u[MANY][2];

    for (size_t i = 0; i < n_x; i++)
        u[i][0] = u[i][1] = _mm512_setzero_ps();
    for (size_t b = 0, n; b < n_blocks; b += n) {
        const struct rows x = {act->q + t0 * stride + b * KERN_BLOCK, act->a + row + b,
                               act->s + row + b, stride};
        n = kern_segment_blocks(b, n_blocks, m->skip);
        const size_t bytes = KERN_SEGMENT_HEAD(HEAD, SCALES, n) + n * QUANTS;
        const size_t on = b + n < n_blocks ? bytes : bytes + (n_g - 1) * m->group_bytes;
        const size_t n_tiles = kern_min_size(MANY, n_x + TILE - 1) / TILE;
        const struct coming coming = {{head[0] + on, head[1] + on},
                                      m->data + group1 * m->group_bytes,
                                      (bytes / n_tiles + LINE - 1) / LINE * LINE};
        if (*starts_at != b)
            starts_of(act->h + 2 * (row + b), stride / 16, n_x, n, s);
        *starts_at = b;
        for (unsigned j = 0; j < n_g; j++)
            unpack_segment(head[j], n, &w[j]);
        many_segment(n_g, w, head, n, x, s, n_x, &coming, u);
        for (unsigned j = 0; j < n_g; j++)
            head[j] += bytes;
    }
    for (size_t i = 0; i < n_x; i++)
        for (unsigned j = 0; j < n_g; j++)
            sink_put(o, t0 + i, (g + j) * KERN_GROUP, u[i][j]);
}

static void product(const struct kern_matrix *m, size_t group0, size_t group1,
                    const struct kern_act *act, size_t n_x, const struct sink *o)
{
    struct starts s;
    switch (n_x) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        few(n, m, group0, group1, act, o);                                                         \
        return;
        CASE(1)
        CASE(2)
        CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
            default : break;
    }
    for (size_t t0 = 0; t0 < n_x; t0 += MANY) {
        const size_t n = kern_min_size(MANY, n_x - t0);
        size_t g = group0, starts_at = SIZE_MAX;
        for (; g + 2 <= group1; g += 2)
            many(2, m, g, group1, act, t0, n, &s, &starts_at, o);
        if (g < group1)
            many(1, m, g, group1, act, t0, n, &s, &starts_at, o);
    }
}

#endif
