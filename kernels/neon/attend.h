/* Attention for a list of queries over one slot's rows, chunk by chunk as the definition has it
 * (numerics §8). The queries that see some of a chunk are taken up to four at a time: where all of
 * them see a position, its key and its value are loaded and widened once for all; where only some
 * do, each goes alone, so that nothing is ever computed from a position that a query does not see.
 *
 * F16, F32: the 16 lanes of a dot product are four registers, and sixteen run side by side, for
 * queries or for positions. Q8_0: a lane is a position, as a lane is a row in the matrix products,
 * and runs the section-4 chain. Values are added in order of position, to 16 or 32 dims at once,
 * which stay in registers for the chunk. The running result over chunks is kept in the queries' own
 * outputs.
 *
 * A file defines attend_dot32 (32 products of bytes as four sums) and includes this. Private to
 * kernels/neon/ and kernels/neon-dotprod/. */
#ifndef KERNELS_NEON_ATTEND_H
#define KERNELS_NEON_ATTEND_H

#include "kernels/neon/neon.h"

#include <assert.h>

enum { QUERIES = 4 }; /* of a tile */

/* One call. */
struct call {
    const struct kern_query *list;
    const uint8_t *k, *v; /* [position] rows */
    size_t row_bytes, head_dim;
    float scale;
    /* By query: maximum and sum of weights so far; whether a score was not finite. */
    float max[KERN_QUERIES_MAX], sum[KERN_QUERIES_MAX];
    bool failed[KERN_QUERIES_MAX];
};

/* The queries in the form that Q8_0 rows need. */
struct quantised {
    int8_t q[KERN_QUERIES_MAX][KERN_HEAD_DIM_MAX];
    float a[KERN_QUERIES_MAX][KERN_HEAD_DIM_MAX / KERN_BLOCK];
};

/* Up to four queries in one chunk. */
struct tile {
    unsigned query[QUERIES];                 /* their numbers in the call */
    size_t lo[QUERIES], hi[QUERIES], origin; /* positions they see, of those from origin on */
    float weight[QUERIES][KERN_ATTN_CHUNK];  /* scores, then weights */
    float max[QUERIES], sum[QUERIES];
    float out[QUERIES][KERN_HEAD_DIM_MAX];
};

KERN_ALWAYS_INLINE int32x4_t attend_dot32(int8x16_t k0, int8x16_t k1, int8x16_t q0, int8x16_t q1);

/* ---- scores ---------------------------------------------------------------------------------- */

KERN_ALWAYS_INLINE float32x4_t load4(enum kern_kv_type type, const uint8_t *row, size_t i)
{
    float32x4_t x;
    if (type == KERN_KV_F16)
        return neon_load_f16(row + 2 * i);
    memcpy(&x, row + 4 * i, sizeof x);
    return x;
}

KERN_ALWAYS_INLINE float load1(enum kern_kv_type type, const uint8_t *row, size_t i)
{
    uint16_t half;
    float x;
    if (type == KERN_KV_F16) {
        memcpy(&half, row + 2 * i, sizeof half);
        return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
    }
    memcpy(&x, row + 4 * i, sizeof x);
    return x;
}

/* Queries j .. j+n_q-1 of the tile with positions p .. p+n_p-1, by 16-lane dot products. */
KERN_ALWAYS_INLINE void score_lanes(enum kern_kv_type type, unsigned n_q, unsigned n_p,
                                    const struct call *c, struct tile *t, unsigned j, size_t p)
{
    const uint8_t *k = c->k + p * c->row_bytes;
    const float *q[QUERIES];
    float32x4_t l[QUERIES][QUERIES][4];
    size_t i = 0;

    NEON_UNROLL
    for (unsigned a = 0; a < n_q; a++) {
        q[a] = c->list[t->query[j + a]].q;
        NEON_UNROLL
        for (unsigned b = 0; b < n_p; b++)
            l[a][b][0] = l[a][b][1] = l[a][b][2] = l[a][b][3] = vdupq_n_f32(0.0f);
    }
    for (; i + 16 <= c->head_dim; i += 16) {
        NEON_UNROLL
        for (unsigned r = 0; r < 4; r++) {
            NEON_UNROLL
            for (unsigned b = 0; b < n_p; b++) {
                const float32x4_t kr = load4(type, k + b * c->row_bytes, i + 4 * r);
                NEON_UNROLL
                for (unsigned a = 0; a < n_q; a++)
                    l[a][b][r] = vfmaq_f32(l[a][b][r], vld1q_f32(q[a] + i + 4 * r), kr);
            }
        }
    }
    NEON_UNROLL
    for (unsigned a = 0; a < n_q; a++) {
        NEON_UNROLL
        for (unsigned b = 0; b < n_p; b++) {
            float lane[16], sum;
            if (i == c->head_dim) {
                sum = neon_fold16(l[a][b]);
            } else {
                for (unsigned r = 0; r < 4; r++)
                    vst1q_f32(lane + 4 * r, l[a][b][r]);
                for (size_t e = i; e < c->head_dim; e++)
                    lane[e & 15] =
                        fmaf(q[a][e], load1(type, k + b * c->row_bytes, e), lane[e & 15]);
                sum = kern_fold16(lane);
            }
            t->weight[j + a][p + b - t->origin] = sum * c->scale;
        }
    }
}

/* The same for up to four positions [p, p1) of Q8_0 rows; a lane past p1 repeats the last position
 * and is dropped. */
KERN_ALWAYS_INLINE void score_q8_0(unsigned n_q, const struct call *c, const struct quantised *z,
                                   struct tile *t, unsigned j, size_t p, size_t p1)
{
    const size_t n_blocks = c->head_dim / KERN_BLOCK, n = kern_min_size(p1 - p, 4);
    const uint8_t *k[4];
    float32x4_t u[QUERIES];

    for (size_t b = 0; b < 4; b++)
        k[b] = c->k + (p + kern_min_size(b, n - 1)) * c->row_bytes;
    NEON_UNROLL
    for (unsigned a = 0; a < n_q; a++)
        u[a] = vdupq_n_f32(0.0f);
    for (size_t b0 = 0; b0 < n_blocks; b0 += KERN_SEGMENT_BLOCKS) {
        float32x4_t s[QUERIES];
        NEON_UNROLL
        for (unsigned a = 0; a < n_q; a++)
            s[a] = vdupq_n_f32(0.0f);
        for (size_t b = b0; b < kern_min_size(n_blocks, b0 + KERN_SEGMENT_BLOCKS); b++) {
            int8x16_t low[4], high[4];
            uint16_t half[4];
            NEON_UNROLL
            for (unsigned r = 0; r < 4; r++) {
                low[r] = vreinterpretq_s8_u8(vld1q_u8(k[r] + b * KERN_BLOCK));
                high[r] = vreinterpretq_s8_u8(vld1q_u8(k[r] + b * KERN_BLOCK + 16));
                memcpy(&half[r], k[r] + c->head_dim + 2 * b, sizeof half[r]);
            }
            const float32x4_t d = neon_load_f16(half);
            NEON_UNROLL
            for (unsigned a = 0; a < n_q; a++) {
                const int8_t *q = z->q[t->query[j + a]] + b * KERN_BLOCK;
                const int8x16_t q0 = vld1q_s8(q), q1 = vld1q_s8(q + 16);
                const int32x4_t two = vpaddq_s32(attend_dot32(low[0], high[0], q0, q1),
                                                 attend_dot32(low[1], high[1], q0, q1));
                const int32x4_t four = vpaddq_s32(attend_dot32(low[2], high[2], q0, q1),
                                                  attend_dot32(low[3], high[3], q0, q1));
                const float32x4_t dots = vcvtq_f32_s32(vpaddq_s32(two, four));
                s[a] = vfmaq_n_f32(s[a], vmulq_f32(dots, d), z->a[t->query[j + a]][b]);
            }
        }
        NEON_UNROLL
        for (unsigned a = 0; a < n_q; a++)
            u[a] = vaddq_f32(u[a], s[a]);
    }
    NEON_UNROLL
    for (unsigned a = 0; a < n_q; a++) {
        float four[4];
        vst1q_f32(four, vmulq_n_f32(u[a], c->scale));
        memcpy(&t->weight[j + a][p - t->origin], four, n * sizeof four[0]);
    }
}

/* Queries j .. j+n_q-1 with positions [p, p1). */
KERN_ALWAYS_INLINE void score(enum kern_kv_type type, unsigned n_q, const struct call *c,
                              const struct quantised *z, struct tile *t, unsigned j, size_t p,
                              size_t p1)
{
    const unsigned n_p = QUERIES / n_q;
    if (type == KERN_KV_Q8_0) {
        for (; p < p1; p += 4)
            score_q8_0(n_q, c, z, t, j, p, p1);
        return;
    }
    for (; p + n_p <= p1; p += n_p)
        score_lanes(type, n_q, n_p, c, t, j, p);
    for (; p < p1; p++)
        score_lanes(type, n_q, 1, c, t, j, p);
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Scores s [128] become weights; *max and *sum are the chunk's. Positions outside [i0, i1) have the
 * score -infinity, hence the weight +0, which changes neither. False where a score that counts is
 * not finite. */
static bool soften(float *s, size_t i0, size_t i1, float *max, float *sum)
{
    float32x4_t m = vdupq_n_f32(-INFINITY);
    float32x4_t l[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    if (neon_max_abs(s + i0, i1 - i0) >= KERN_INF_BITS)
        return false;
    for (size_t i = 0; i < KERN_ATTN_CHUNK; i += 4)
        m = vmaxq_f32(m, vld1q_f32(s + i));
    *max = vmaxvq_f32(m);
    for (size_t i = 0; i < KERN_ATTN_CHUNK; i += 16) {
        NEON_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            const float32x4_t w = neon_exp(vsubq_f32(vld1q_f32(s + i + 4 * j), vdupq_n_f32(*max)));
            vst1q_f32(s + i + 4 * j, w);
            l[j] = vaddq_f32(l[j], w);
        }
    }
    *sum = neon_fold16(l);
    return true;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Dims d .. d+4*n_regs-1 of queries j .. j+n_q-1: out += weight * value for positions [p, p1). */
KERN_ALWAYS_INLINE void add_values(enum kern_kv_type type, unsigned n_q, unsigned n_regs,
                                   const struct call *c, struct tile *t, unsigned j, size_t d,
                                   size_t p, size_t p1)
{
    float32x4_t o[QUERIES][8];
    NEON_UNROLL
    for (unsigned a = 0; a < n_q; a++) {
        NEON_UNROLL
        for (unsigned r = 0; r < n_regs; r++)
            o[a][r] = vld1q_f32(t->out[j + a] + d + 4 * r);
    }
    for (; p < p1; p++) {
        const uint8_t *row = c->v + p * c->row_bytes;
        float w[QUERIES];
        NEON_UNROLL
        for (unsigned a = 0; a < n_q; a++)
            w[a] = t->weight[j + a][p - t->origin];
        if (type == KERN_KV_Q8_0) {
            const float scale = load1(KERN_KV_F16, row + c->head_dim, d / KERN_BLOCK);
            NEON_UNROLL
            for (unsigned a = 0; a < n_q; a++)
                w[a] = w[a] * scale;
        }
        NEON_UNROLL
        for (unsigned r = 0; r < n_regs; r++) {
            float32x4_t v;
            if (type == KERN_KV_Q8_0) {
                const int16x8_t eight =
                    vmovl_s8(vreinterpret_s8_u8(vld1_u8(row + d + 8 * (r / 2))));
                v = vcvtq_f32_s32(r % 2 == 0 ? vmovl_s16(vget_low_s16(eight))
                                             : vmovl_high_s16(eight));
            } else {
                v = load4(type, row, d + 4 * r);
            }
            NEON_UNROLL
            for (unsigned a = 0; a < n_q; a++)
                o[a][r] = vfmaq_n_f32(o[a][r], v, w[a]);
        }
    }
    NEON_UNROLL
    for (unsigned a = 0; a < n_q; a++) {
        NEON_UNROLL
        for (unsigned r = 0; r < n_regs; r++)
            vst1q_f32(t->out[j + a] + d + 4 * r, o[a][r]);
    }
}

KERN_ALWAYS_INLINE void add_all_values(enum kern_kv_type type, unsigned n_q, const struct call *c,
                                       struct tile *t, unsigned j, size_t p, size_t p1)
{
    const unsigned n_regs = n_q == QUERIES ? 4 : 8;
    size_t d = 0;
    if (p >= p1)
        return;
    for (; d + 4 * n_regs <= c->head_dim; d += 4 * n_regs)
        add_values(type, n_q, n_regs, c, t, j, d, p, p1);
    if (type == KERN_KV_Q8_0)
        return;
    for (; d + 4 <= c->head_dim; d += 4)
        add_values(type, n_q, 1, c, t, j, d, p, p1);
    for (; d < c->head_dim; d++)
        for (unsigned a = 0; a < n_q; a++)
            for (size_t e = p; e < p1; e++)
                t->out[j + a][d] = fmaf(t->weight[j + a][e - t->origin],
                                        load1(type, c->v + e * c->row_bytes, d), t->out[j + a][d]);
}

/* ---- chunks ---------------------------------------------------------------------------------- */

/* Add the chunk's result of the tile's query j to what the call has of it. */
static void combine(struct call *c, struct tile *t, unsigned j)
{
    const unsigned i = t->query[j];
    const bool begins = t->lo[j] == c->list[i].first;
    const float max = begins || t->max[j] > c->max[i] ? t->max[j] : c->max[i];
    float *out = c->list[i].out;

    if (begins) {
        c->sum[i] = t->sum[j];
        memcpy(out, t->out[j], c->head_dim * sizeof *out);
    } else {
        const float a = kern_exp(c->max[i] - max), b = kern_exp(t->max[j] - max);
        size_t d = 0;
        c->sum[i] = fmaf(t->sum[j], b, c->sum[i] * a);
        for (; d + 4 <= c->head_dim; d += 4)
            vst1q_f32(out + d,
                      vfmaq_n_f32(vmulq_n_f32(vld1q_f32(out + d), a), vld1q_f32(t->out[j] + d), b));
        for (; d < c->head_dim; d++)
            out[d] = fmaf(t->out[j][d], b, out[d] * a);
    }
    c->max[i] = max;
}

/* One chunk of n_q queries, whose ranges t has. */
KERN_ALWAYS_INLINE void chunk(enum kern_kv_type type, unsigned n_q, struct call *c,
                              const struct quantised *z, struct tile *t)
{
    /* Positions [both0, both1) are seen by all; before and after them each query has its own. */
    size_t both0 = t->lo[0], both1 = t->hi[0];
    for (unsigned j = 1; j < n_q; j++) {
        both0 = t->lo[j] > both0 ? t->lo[j] : both0;
        both1 = kern_min_size(both1, t->hi[j]);
    }
    if (both1 < both0)
        both1 = both0;

    for (unsigned j = 0; j < n_q; j++) {
        const size_t hi0 = kern_min_size(both0, t->hi[j]);
        for (size_t i = 0; i < KERN_ATTN_CHUNK; i++)
            t->weight[j][i] = -INFINITY;
        memset(t->out[j], 0, c->head_dim * sizeof t->out[j][0]);
        score(type, 1, c, z, t, j, t->lo[j], hi0);
        score(type, 1, c, z, t, j, both1, t->hi[j]);
    }
    score(type, n_q, c, z, t, 0, both0, both1);
    for (unsigned j = 0; j < n_q; j++) {
        const unsigned i = t->query[j];
        c->failed[i] = !soften(t->weight[j], t->lo[j] - t->origin, t->hi[j] - t->origin, &t->max[j],
                               &t->sum[j]);
        if (!c->failed[i])
            add_all_values(type, 1, c, t, j, t->lo[j], kern_min_size(both0, t->hi[j]));
    }
    add_all_values(type, n_q, c, t, 0, both0, both1);
    for (unsigned j = 0; j < n_q; j++) {
        if (c->failed[t->query[j]])
            continue;
        add_all_values(type, 1, c, t, j, both1, t->hi[j]);
        combine(c, t, j);
    }
}

/* All queries that see some of the chunk at `origin`. */
KERN_ALWAYS_INLINE void chunk_of_all(enum kern_kv_type type, struct call *c, unsigned n_q,
                                     const struct quantised *z, size_t origin)
{
    struct tile t;
    unsigned seen[KERN_QUERIES_MAX], n = 0;

    for (unsigned i = 0; i < n_q; i++)
        if (!c->failed[i] && c->list[i].first < origin + KERN_ATTN_CHUNK &&
            c->list[i].n_pos > origin)
            seen[n++] = i;
    t.origin = origin;
    for (unsigned i = 0, step; i < n; i += step) {
        step = n - i >= 4 ? 4 : n - i >= 2 ? 2 : 1;
        for (unsigned j = 0; j < step; j++) {
            const struct kern_query *query = &c->list[seen[i + j]];
            t.query[j] = seen[i + j];
            t.lo[j] = query->first > origin ? query->first : origin;
            t.hi[j] = kern_min_size(query->n_pos, origin + KERN_ATTN_CHUNK);
        }
        if (step == 4)
            chunk(type, 4, c, z, &t);
        else if (step == 2)
            chunk(type, 2, c, z, &t);
        else
            chunk(type, 1, c, z, &t);
    }
}

/* z is NULL but for Q8_0. */
KERN_ALWAYS_INLINE void attend(enum kern_kv_type type, const struct kern_query *list, unsigned n_q,
                               const void *k, const void *v, uint32_t head_dim, float scale,
                               struct quantised *z)
{
    struct call c = {.list = list, .k = k, .v = v, .head_dim = head_dim, .scale = scale};
    size_t from = SIZE_MAX, to = 0;

    assert(n_q <= KERN_QUERIES_MAX && head_dim <= KERN_HEAD_DIM_MAX);
    c.row_bytes = kern_kv_row_bytes(type, head_dim);
    for (unsigned i = 0; i < n_q; i++) {
        assert(list[i].first < list[i].n_pos);
        from = kern_min_size(from, list[i].first);
        to = list[i].n_pos > to ? list[i].n_pos : to;
        if (type == KERN_KV_Q8_0) {
            float s[KERN_HEAD_DIM_MAX / KERN_BLOCK];
            int16_t h[KERN_HEAD_DIM_MAX / 16];
            c.failed[i] = !kern_quantise_neon(list[i].q, head_dim, z->q[i], z->a[i], s, h);
        }
    }
    for (size_t origin = from / KERN_ATTN_CHUNK * KERN_ATTN_CHUNK; origin < to;
         origin += KERN_ATTN_CHUNK)
        chunk_of_all(type, &c, n_q, z, origin);
    for (unsigned i = 0; i < n_q; i++)
        for (size_t d = 0; d < head_dim; d++)
            list[i].out[d] = c.failed[i] ? kern_float(KERN_NAN_BITS) : list[i].out[d] / c.sum[i];
}

#endif
