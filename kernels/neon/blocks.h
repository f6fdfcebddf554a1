/* What the products with blocks of integer weights share in all three NEON sets: the walk over
 * groups, segments and blocks, the unpacking of a type's bits to signed bytes, the float part of
 * the definition (numerics §4), and where a result goes. Only the exact integer dot products
 * differ between the sets; each set has them in a private header, which includes this one and
 * defines
 *
 *     blocks_prepare(rows, n_x, n_blocks, scratch)  once a segment, before its products
 *     blocks_arrange(n_x, w)                        once 4 rows of weights and a block
 *     blocks_dot(type, step, w, rows, scratch, i, b, dot)
 *         dot[k][0] += dot products of w with block b of rows i..i+step-1, k < step; for Q6_K of
 *         columns 0..15 only, and dot[k][1] those of columns 16..31
 *
 * One row of x takes all 16 weight rows of a block at a time, in the order of memory. More rows go
 * over a segment four times, 4 weight rows each, so that the unpacked weights (8 registers) and one
 * sum for each of up to 8 rows of x stay in registers. */
#ifndef KERNELS_NEON_BLOCKS_H
#define KERNELS_NEON_BLOCKS_H

#include "kernels/neon/neon.h"

enum { TILE = 8 };

/* Rows of x, from some column on that begins a block; stride of q in elements. */
struct rows {
    const int8_t *q;
    const float *a, *s;
    const int16_t *h;
    size_t stride;
};

/* What one segment of a tile's rows is worth computing before the passes over it. */
struct scratch {
    /* Where each dot product begins: minus the type's offset times the sum of 16 quants (Q6_K) or
     * of the block's 32 (in the even places). */
    _Alignas(16) int32_t start[2 * KERN_SEGMENT_BLOCKS][TILE];
    /* For i8mm: of each pair of rows, 8 columns of one, the same 8 columns of the other. */
    _Alignas(16) int8_t pairs[TILE / 2][KERN_SEGMENT_BLOCKS][4][16];
};

/* One segment of one group. */
struct segment {
    const uint8_t *head, *scales, *quants;
    size_t n_blocks;
    /* The lines AHEAD bytes further are asked for while this segment is used, in equal shares;
     * nothing at or after `end`. */
    const uint8_t *end;
};
enum { AHEAD = 2048 };

struct block_bytes {
    size_t head, scales, quants;
};

KERN_ALWAYS_INLINE struct block_bytes block_bytes(enum kern_type type)
{
    switch (type) {
#define TYPE(id, name, ggml, cols, bytes, integer, super, head, scales, quants)                    \
    case KERN_##id:                                                                                \
        return (struct block_bytes){head, scales, quants};
#include "kernels/types.def"
    default:
        return (struct block_bytes){0, 0, 0};
    }
}

/* What a type's stored number is too large by. */
KERN_ALWAYS_INLINE int32_t block_offset(enum kern_type type)
{
    return type == KERN_Q4_0 ? 8 : type == KERN_Q5_0 ? 16 : type == KERN_Q6_K ? 32 : 0;
}

KERN_ALWAYS_INLINE bool is_super(enum kern_type type)
{
    return type == KERN_Q4_K || type == KERN_Q5_K || type == KERN_Q6_K;
}

KERN_ALWAYS_INLINE bool has_minima(enum kern_type type)
{
    return type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q4_K || type == KERN_Q5_K;
}

KERN_ALWAYS_INLINE void blocks_prepare(const struct rows *x, unsigned n_x, size_t n_blocks,
                                       struct scratch *scratch);
KERN_ALWAYS_INLINE void blocks_arrange(unsigned n_x, int8x16_t w[8]);
KERN_ALWAYS_INLINE void blocks_dot(enum kern_type type, unsigned step, const int8x16_t w[8],
                                   const struct rows *x, const struct scratch *scratch, unsigned i,
                                   size_t b, int32x4_t dot[2][2]);

/* ---- weights to bytes ------------------------------------------------------------------------ */

/* Rows 4h..4h+3 of a block of quants at p: byte 4r+j of out[g] is the number of column 4g+j. */
KERN_ALWAYS_INLINE void unpack_q8(const uint8_t *p, unsigned h, int8x16_t out[8])
{
    NEON_UNROLL
    for (unsigned g = 0; g < 8; g++)
        out[g] = vreinterpretq_s8_u8(vld1q_u8(p + 64 * g + 16 * h));
}

KERN_ALWAYS_INLINE void unpack_q4(enum kern_type type, const uint8_t *p, unsigned h,
                                  int8x16_t out[8])
{
    const int8x16_t table = vld1q_s8(kern_iq4nl);
    NEON_UNROLL
    for (unsigned g = 0; g < 4; g++) {
        const uint8x16_t both = vld1q_u8(p + 64 * g + 16 * h);
        const uint8x16_t low = vandq_u8(both, vdupq_n_u8(15)), high = vshrq_n_u8(both, 4);
        out[g] = type == KERN_IQ4_NL ? vqtbl1q_s8(table, low) : vreinterpretq_s8_u8(low);
        out[4 + g] = type == KERN_IQ4_NL ? vqtbl1q_s8(table, high) : vreinterpretq_s8_u8(high);
    }
}

/* Insertions by sli and sri put the fifth bit above a nibble; what else they bring is masked. The
 * shifts that would be by 0 are left out, as the instructions know none to the right. */
#define UNPACK_Q5(g)                                                                               \
    do {                                                                                           \
        const uint8x16_t both = vld1q_u8(p + 64 * (g) + 16 * h);                                   \
        const uint8x16_t bits = (g) == 0 ? fifth : vshrq_n_u8(fifth, (g) == 0 ? 1 : (g));          \
        out[g] = vreinterpretq_s8_u8(vandq_u8(vsliq_n_u8(both, bits, 4), vdupq_n_u8(31)));         \
        out[4 + (g)] = vreinterpretq_s8_u8(vandq_u8(vsriq_n_u8(bits, both, 4), vdupq_n_u8(31)));   \
    } while (0)

KERN_ALWAYS_INLINE void unpack_q5(const uint8_t *p, unsigned h, int8x16_t out[8])
{
    const uint8x16_t fifth = vld1q_u8(p + 256 + 16 * h);
    UNPACK_Q5(0);
    UNPACK_Q5(1);
    UNPACK_Q5(2);
    UNPACK_Q5(3);
}

KERN_ALWAYS_INLINE void unpack_q6(const uint8_t *p, unsigned h, int8x16_t out[8])
{
    NEON_UNROLL
    for (unsigned g = 0; g < 4; g++) {
        const uint8x16_t both = vld1q_u8(p + 64 * g + 16 * h);
        uint8x16_t bits = vld1q_u8(p + 256 + 64 * (g / 2) + 16 * h);
        if (g % 2 != 0)
            bits = vshrq_n_u8(bits, 2);
        out[g] = vreinterpretq_s8_u8(vandq_u8(vsliq_n_u8(both, bits, 4), vdupq_n_u8(63)));
        out[4 + g] = vreinterpretq_s8_u8(vandq_u8(vsriq_n_u8(bits, both, 4), vdupq_n_u8(63)));
    }
}

KERN_ALWAYS_INLINE void unpack(enum kern_type type, const uint8_t *p, unsigned h, int8x16_t out[8])
{
    if (type == KERN_Q8_0)
        unpack_q8(p, h, out);
    else if (type == KERN_Q5_0 || type == KERN_Q5_1 || type == KERN_Q5_K)
        unpack_q5(p, h, out);
    else if (type == KERN_Q6_K)
        unpack_q6(p, h, out);
    else
        unpack_q4(type, p, h, out);
}

/* ---- the float part -------------------------------------------------------------------------- */

/* Four bytes as one lane's worth of a register. */
KERN_ALWAYS_INLINE uint8x8_t four_bytes(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return vreinterpret_u8_u32(vdup_n_u32(v));
}

KERN_ALWAYS_INLINE float32x4_t float_u8(const uint8_t *p)
{
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p)))));
}

KERN_ALWAYS_INLINE int32x4_t int_s8(const uint8_t *p)
{
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(p)))));
}

/* Scales of rows 4h..4h+3 in one block: d or sc as floats, or the two int8 of Q6_K. */
struct scale {
    float32x4_t d;
    int32x4_t sc0, sc1;
};

KERN_ALWAYS_INLINE struct scale load_scale(enum kern_type type, const uint8_t *scales, unsigned h)
{
    const float32x4_t none = vdupq_n_f32(0.0f);
    if (type == KERN_Q6_K)
        return (struct scale){none, int_s8(scales + 4 * h), int_s8(scales + 16 + 4 * h)};
    if (type == KERN_Q4_K || type == KERN_Q5_K)
        return (struct scale){float_u8(scales + 4 * h), vdupq_n_s32(0), vdupq_n_s32(0)};
    return (struct scale){neon_load_f16(scales + 8 * h), vdupq_n_s32(0), vdupq_n_s32(0)};
}

/* t + (dot scaled) * a as the definition rounds it. Products with sc stay below 2^24, so the float
 * ones of Q4_K and Q5_K are as exact as the integer ones of Q6_K. */
KERN_ALWAYS_INLINE float32x4_t add_block(enum kern_type type, float32x4_t t, const int32x4_t dot[2],
                                         const struct scale *s, float a)
{
    if (type == KERN_Q6_K) {
        const int32x4_t sum = vmlaq_s32(vmulq_s32(dot[0], s->sc0), dot[1], s->sc1);
        return vfmaq_n_f32(t, vcvtq_f32_s32(sum), a);
    }
    return vfmaq_n_f32(t, vmulq_f32(vcvtq_f32_s32(dot[0]), s->d), a);
}

KERN_ALWAYS_INLINE float32x4_t load_minimum(enum kern_type type, const uint8_t *scales, unsigned h)
{
    if (type == KERN_Q4_K || type == KERN_Q5_K)
        return float_u8(scales + 16 + 4 * h);
    return neon_load_f16(scales + 32 + 8 * h);
}

/* The segment's end: t, and tm where the type has minima, into u [4]. */
KERN_ALWAYS_INLINE void close_segment(enum kern_type type, const uint8_t *head, unsigned h,
                                      float32x4_t t, float32x4_t tm, float *u)
{
    float32x4_t v = vld1q_f32(u);
    if (is_super(type))
        v = vfmaq_f32(v, neon_load_f16(head + 8 * h), t);
    else
        v = vaddq_f32(v, t);
    if (type == KERN_Q4_K || type == KERN_Q5_K)
        v = vfmsq_f32(v, neon_load_f16(head + 32 + 8 * h), tm);
    else if (has_minima(type))
        v = vaddq_f32(v, tm);
    vst1q_f32(u, v);
}

/* ---- segments -------------------------------------------------------------------------------- */

KERN_ALWAYS_INLINE void set_starts(enum kern_type type, const struct rows *x, unsigned n_x,
                                   size_t n_blocks, struct scratch *scratch)
{
    const int32_t offset = block_offset(type);
    for (unsigned i = 0; i < n_x; i++) {
        const int16_t *h = x->h + i * (x->stride / 16);
        for (size_t b = 0; b < n_blocks; b++) {
            const int32_t h0 = h[2 * b], h1 = h[2 * b + 1];
            scratch->start[2 * b][i] = -offset * (type == KERN_Q6_K ? h0 : h0 + h1);
            scratch->start[2 * b + 1][i] = -offset * h1;
        }
    }
}

/* Ask for the `part`-th share, in bytes, of the lines that are due while this segment is used; near
 * the end for the last share once more, since compilers move hints across branches. */
KERN_ALWAYS_INLINE void ask_ahead(const struct segment *seg, size_t share, size_t part)
{
    const size_t left = (size_t)(seg->end - seg->head);
    const uint8_t *p = seg->head + kern_min_size(AHEAD + part * share, left - share);
    NEON_UNROLL
    for (size_t i = 0; i < share; i += 64)
        __builtin_prefetch(p + i);
}

/* Weight rows 4h0 .. 4(h0+n_h)-1 of one segment times n_x rows, into u. n_x and n_h are constants
 * where this is inlined, and the arrays become registers. */
KERN_ALWAYS_INLINE void segment(enum kern_type type, unsigned n_x, unsigned n_h, unsigned h0,
                                const struct segment *seg, const struct rows *x,
                                const struct scratch *scratch, float u[][KERN_GROUP])
{
    const struct block_bytes bytes = block_bytes(type);
    const size_t share = ((bytes.quants + bytes.scales) * n_h / 4 + 63) / 64 * 64;
    const unsigned step = n_x == 1 ? 1 : 2;
    float32x4_t t[TILE][4], tm[TILE][4];

    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        t[i][0] = t[i][1] = t[i][2] = t[i][3] = vdupq_n_f32(0.0f);
    for (size_t b = 0; b < seg->n_blocks; b++) {
        ask_ahead(seg, share, h0 / n_h * seg->n_blocks + b);
        NEON_UNROLL
        for (unsigned h = 0; h < n_h; h++) {
            const struct scale s = load_scale(type, seg->scales + b * bytes.scales, h0 + h);
            int8x16_t w[8];
            unpack(type, seg->quants + b * bytes.quants, h0 + h, w);
            blocks_arrange(n_x, w);
            NEON_UNROLL
            for (unsigned i = 0; i < n_x; i += step) {
                int32x4_t dot[2][2];
                blocks_dot(type, step, w, x, scratch, i, b, dot);
                NEON_UNROLL
                for (unsigned k = 0; k < step; k++) {
                    const float a = x->a[(i + k) * (x->stride / KERN_BLOCK) + b];
                    t[i + k][h] = add_block(type, t[i + k][h], dot[k], &s, a);
                }
            }
        }
    }
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++)
        tm[i][0] = tm[i][1] = tm[i][2] = tm[i][3] = vdupq_n_f32(0.0f);
    for (size_t b = 0; has_minima(type) && b < seg->n_blocks; b++) {
        NEON_UNROLL
        for (unsigned h = 0; h < n_h; h++) {
            const float32x4_t m = load_minimum(type, seg->scales + b * bytes.scales, h0 + h);
            NEON_UNROLL
            for (unsigned i = 0; i < n_x; i++)
                tm[i][h] = vfmaq_n_f32(tm[i][h], m, x->s[i * (x->stride / KERN_BLOCK) + b]);
        }
    }
    NEON_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        NEON_UNROLL
        for (unsigned h = 0; h < n_h; h++)
            close_segment(type, seg->head, h0 + h, t[i][h], tm[i][h], u[i] + 4 * (h0 + h));
    }
}

/* ---- the walk -------------------------------------------------------------------------------- */

/* One group, whose bytes begin at p, times n_x rows, into u; `end` ends the weights to be read. */
KERN_ALWAYS_INLINE void tile(enum kern_type type, unsigned n_x, const struct kern_matrix *m,
                             const uint8_t *p, const uint8_t *end, struct rows x,
                             float u[][KERN_GROUP])
{
    const struct block_bytes bytes = block_bytes(type);
    const size_t n_blocks = m->n_cols / KERN_BLOCK;
    const unsigned n_h = n_x == 1 ? 4 : n_x == 2 ? 2 : 1;
    struct scratch scratch;

    memset(u, 0, n_x * sizeof *u);
    for (size_t b0 = 0; b0 < n_blocks;) {
        const size_t n = kern_segment_blocks(b0, n_blocks, m->skip);
        const uint8_t *quants = p + KERN_SEGMENT_HEAD(bytes.head, bytes.scales, n);
        const struct segment seg = {p, p + bytes.head, quants, n, end};
        if (block_offset(type) != 0)
            set_starts(type, &x, n_x, n, &scratch);
        blocks_prepare(&x, n_x, n, &scratch);
        for (unsigned h = 0; h < 4; h += n_h)
            segment(type, n_x, n_h, h, &seg, &x, &scratch, u);
        p = quants + n * bytes.quants;
        x.q += n * KERN_BLOCK;
        x.a += n;
        x.s += n;
        x.h += 2 * n;
        b0 += n;
    }
}

/* tile() of one type and number of rows, as a function of its own: the bench of the inner loops
 * (tests/bench/arm_mca.sh) finds them by these names. */
typedef void tile_fn(const struct kern_matrix *m, const uint8_t *p, const uint8_t *end,
                     const struct rows *x, float u[][KERN_GROUP]);

/* tiles: for 1, 2, 4 and 8 rows of x. */
static inline void product(tile_fn *const tiles[4], const struct kern_matrix *m, size_t group0,
                           size_t group1, const struct kern_act *act, size_t n_x,
                           const struct neon_out *out)
{
    const uint8_t *end = m->data + group1 * m->group_bytes;
    for (size_t g = group0; g < group1; g++) {
        for (size_t i = 0, n; i < n_x; i += n) {
            const size_t left = n_x - i;
            const unsigned size = left >= 8 ? 3 : left >= 4 ? 2 : left >= 2 ? 1 : 0;
            const struct rows x = {act->q + i * act->q_stride,
                                   act->a + i * (act->q_stride / KERN_BLOCK),
                                   act->s + i * (act->q_stride / KERN_BLOCK),
                                   act->h + i * (act->q_stride / 16), act->q_stride};
            float u[TILE][KERN_GROUP];
            n = (size_t)1 << size;
            tiles[size](m, m->data + g * m->group_bytes, end, &x, u);
            neon_put(out, m->n_rows, g, i, n, u);
        }
    }
}

#define TILE_FUNCTION(type, n_x, name)                                                             \
    static __attribute__((noinline)) void tile##n_x##_##name(                                      \
        const struct kern_matrix *m, const uint8_t *p, const uint8_t *end, const struct rows *x,   \
        float u[][KERN_GROUP])                                                                     \
    {                                                                                              \
        tile(type, n_x, m, p, end, *x, u);                                                         \
    }

/* Both kernels of one type. */
#define MATMUL_BLOCKS(type, name)                                                                  \
    TILE_FUNCTION(type, 1, name)                                                                   \
    TILE_FUNCTION(type, 2, name)                                                                   \
    TILE_FUNCTION(type, 4, name)                                                                   \
    TILE_FUNCTION(type, 8, name)                                                                   \
    static void product_##name(const struct kern_matrix *w, size_t group0, size_t group1,          \
                               const struct kern_act *x, size_t n_x, const struct neon_out *out)   \
    {                                                                                              \
        static tile_fn *const tiles[4] = {tile1_##name, tile2_##name, tile4_##name, tile8_##name}; \
        product(tiles, w, group0, group1, x, n_x, out);                                            \
    }                                                                                              \
    NEON_MATMUL(name)

#endif
