/* Attention, sixteen queries at a time, chunk by chunk as the definition has it, without a matrix of
 * scores larger than a chunk. In a chunk, sixteen positions of keys are widened once and scored
 * against every query; then each query's weights are made, sixteen at a time; then values are added
 * position after position, for up to four queries with one load and one conversion, with 64 dims of
 * each in registers, and joined to what the earlier chunks gave, which stays in the query's `out`.
 *
 * A position that a query does not see gets the score -infinity, hence the weight +0, which changes
 * neither its maximum nor its sum; its values are not added at all. The queries of a tile see the
 * same positions of the chunk, else they are taken one by one. */
#include "kernels/avx512/attend.h"

#include <assert.h>

enum {
    BATCH = 16,     /* queries that share a pass over the rows: a lane each */
    TILE = 4,       /* queries that share a load of values */
    TILE_DIMS = 64, /* dims of a tile */
    TILE_BLOCKS = TILE_DIMS / KERN_BLOCK
};

struct call {
    const struct kern_query *list;
    size_t n_q;
    const uint8_t *k, *v;
    size_t row_bytes, head_dim;
    float scale;
};

/* Positions of a chunk, counted from its begin; from = to = 0: none. */
struct span {
    size_t from, to;
};

/* What the queries of a batch have come to, over the chunks so far. */
struct batch {
    _Alignas(64) float weight[BATCH][KERN_ATTN_CHUNK]; /* of the chunk: scores, then weights */
    _Alignas(64) float max[BATCH], sum[BATCH];         /* over the chunks so far */
    _Alignas(64) float chunk_max[BATCH], chunk_sum[BATCH];
    _Alignas(64) float keep[BATCH], join[BATCH]; /* factors of the earlier chunks and of this one */
    bool bad[BATCH];                             /* a score was not finite */
    struct span span[BATCH];                     /* the chunk's positions that a query sees */
    struct keys keys;
};

/* The positions of chunk [p0, p0 + 128) that a query sees. */
KERN_ALWAYS_INLINE struct span seen(const struct kern_query *q, size_t p0)
{
    const struct span s = {q->first > p0 ? q->first - p0 : 0,
                           q->n_pos > p0 ? kern_min_size(q->n_pos - p0, KERN_ATTN_CHUNK) : 0};
    return s.from < s.to ? s : (struct span){0, 0};
}

/* Lanes of positions i .. i + 15 that are in a span. */
KERN_ALWAYS_INLINE __mmask16 span_lanes(struct span s, size_t i)
{
    const size_t from = s.from > i ? kern_min_size(s.from - i, LANES) : 0;
    const size_t to = s.to > i ? kern_min_size(s.to - i, LANES) : 0;
    return (__mmask16)(avx512_first(to) & ~avx512_first(from));
}

/* Scores of the chunk's positions; those that a query does not see are -infinity. */
KERN_ALWAYS_INLINE void score_chunk(enum kern_kv_type type, const struct call *c, size_t p0,
                                    size_t low, size_t high, const struct query8 *q8,
                                    struct batch *s)
{
    const __m512 outside = _mm512_set1_ps(-INFINITY);

    for (size_t i = 0; i < KERN_ATTN_CHUNK; i += LANES) {
        const bool any = i < high && i + LANES > low;
        const size_t n = any ? kern_min_size(high - i, LANES) : 0;
        const uint8_t *rows = c->k + (p0 + i) * c->row_bytes;
        if (any && type == KERN_KV_Q8_0)
            keys_transpose(rows, n, c->row_bytes, c->head_dim, &s->keys);
        else if (any)
            keys_widen(type, rows, n, c->row_bytes, c->head_dim, &s->keys);
        for (size_t t = 0; t < c->n_q; t++) {
            const __mmask16 in = span_lanes(s->span[t], i);
            if (in == 0) {
                _mm512_store_ps(s->weight[t] + i, outside);
                continue;
            }
            const __m512 dot = type == KERN_KV_Q8_0 ? keys_dot8(&s->keys, &q8[t], c->head_dim)
                                                    : keys_dot(&s->keys, c->list[t].q, c->head_dim);
            const __m512 score = _mm512_mul_ps(dot, _mm512_set1_ps(c->scale));
            if (_mm512_mask_cmpge_epi32_mask(in, avx512_abs_bits(score),
                                             _mm512_set1_epi32((int)KERN_INF_BITS)) != 0)
                s->bad[t] = true;
            _mm512_store_ps(s->weight[t] + i, _mm512_mask_mov_ps(outside, in, score));
        }
    }
}

/* A query's scores of the chunk become weights; their maximum and sum. */
KERN_ALWAYS_INLINE void soften(float weight[KERN_ATTN_CHUNK], float *max, float *sum)
{
    __m512 m = _mm512_load_ps(weight), lane = _mm512_setzero_ps();
    for (size_t i = LANES; i < KERN_ATTN_CHUNK; i += LANES)
        m = _mm512_max_ps(m, _mm512_load_ps(weight + i));
    *max = _mm512_reduce_max_ps(m);
    for (size_t i = 0; i < KERN_ATTN_CHUNK; i += LANES) {
        const __m512 w =
            avx512_exp(_mm512_sub_ps(_mm512_load_ps(weight + i), _mm512_set1_ps(*max)));
        _mm512_store_ps(weight + i, w);
        lane = _mm512_add_ps(lane, w);
    }
    *sum = avx512_fold16(lane);
}

/* Weights of the chunk, and how it joins the chunks before it. A query that sees none of it has
 * maximum -infinity and sum 0 here, and is left out of what follows. */
KERN_ALWAYS_INLINE void weigh_chunk(const struct call *c, size_t p0, struct batch *s)
{
    __mmask16 first = 0, later = 0;
    for (size_t t = 0; t < c->n_q; t++) {
        if (s->span[t].to == 0)
            continue;
        soften(s->weight[t], &s->chunk_max[t], &s->chunk_sum[t]);
        const __mmask16 bit = (__mmask16)(1u << t);
        if (c->list[t].first >= p0)
            first |= bit;
        else
            later |= bit;
    }
    const __m512 max0 = _mm512_load_ps(s->max), max1 = _mm512_load_ps(s->chunk_max);
    const __m512 sum0 = _mm512_load_ps(s->sum), sum1 = _mm512_load_ps(s->chunk_sum);
    const __mmask16 above = _mm512_cmp_ps_mask(max1, max0, _CMP_GT_OQ);
    const __m512 max = _mm512_mask_mov_ps(max0, above, max1);
    const __m512 keep = avx512_exp(_mm512_sub_ps(max0, max));
    const __m512 join = avx512_exp(_mm512_sub_ps(max1, max));
    const __m512 sum = _mm512_fmadd_ps(sum1, join, _mm512_mul_ps(sum0, keep));

    _mm512_store_ps(s->keep, keep);
    _mm512_store_ps(s->join, join);
    _mm512_store_ps(s->max, _mm512_mask_mov_ps(_mm512_mask_mov_ps(max0, later, max), first, max1));
    _mm512_store_ps(s->sum, _mm512_mask_mov_ps(_mm512_mask_mov_ps(sum0, later, sum), first, sum1));
}

/* Values of the chunk's positions that n_t queries from t on all see, dims [d, d + 16 n_regs), or
 * the last ones for one register. */
KERN_ALWAYS_INLINE void add_values(enum kern_kv_type type, unsigned n_t, unsigned n_regs,
                                   const struct call *c, size_t t, size_t p0, size_t d,
                                   float (*scales)[KERN_ATTN_CHUNK], const struct batch *s)
{
    const size_t element = type == KERN_KV_F16 ? 2 : type == KERN_KV_F32 ? 4 : 1;
    const size_t n_dims = n_regs > 1 ? LANES : kern_min_size(c->head_dim - d, LANES);
    const struct span at = s->span[t];
    _Alignas(64) float scaled[TILE][TILE_BLOCKS][KERN_ATTN_CHUNK];
    const float *weight[TILE][TILE_BLOCKS];
    __m512 o[TILE][TILE_DIMS / LANES];

    for (unsigned i = 0; i < n_t; i++)
        for (unsigned j = 0; j < (n_regs + 1) / 2; j++)
            weight[i][j] = type == KERN_KV_Q8_0 ? scaled[i][j] : s->weight[t + i];
    for (unsigned i = 0; type == KERN_KV_Q8_0 && i < n_t; i++)
        for (unsigned j = 0; j < (n_regs + 1) / 2; j++)
            for (size_t p = at.from / LANES * LANES; p < at.to; p += LANES)
                _mm512_store_ps(scaled[i][j] + p,
                                _mm512_mul_ps(_mm512_load_ps(s->weight[t + i] + p),
                                              _mm512_load_ps(scales[d / KERN_BLOCK + j] + p)));
    AVX512_UNROLL
    for (unsigned i = 0; i < n_t * n_regs; i++)
        o[i / n_regs][i % n_regs] = _mm512_setzero_ps();
    for (size_t p = at.from; p < at.to; p++) {
        const uint8_t *row = c->v + (p0 + p) * c->row_bytes + d * element;
        AVX512_UNROLL
        for (unsigned j = 0; j < n_regs; j++) {
            const __m512 v = load_dims(type, row + j * LANES * element, n_dims);
            AVX512_UNROLL
            for (unsigned i = 0; i < n_t; i++)
                o[i][j] = _mm512_fmadd_ps(_mm512_set1_ps(weight[i][j / 2][p]), v, o[i][j]);
        }
    }
    AVX512_UNROLL
    for (unsigned i = 0; i < n_t * n_regs; i++) {
        const size_t q = t + i / n_regs;
        const __mmask16 there = avx512_first(n_dims);
        float *out = c->list[q].out + d + i % n_regs * LANES;
        __m512 v = o[i / n_regs][i % n_regs];
        if (c->list[q].first < p0)
            v = _mm512_fmadd_ps(
                v, _mm512_set1_ps(s->join[q]),
                _mm512_mul_ps(_mm512_maskz_loadu_ps(there, out), _mm512_set1_ps(s->keep[q])));
        _mm512_mask_storeu_ps(out, there, v);
    }
}

/* All dims of a tile of n_t queries that see the same positions of the chunk. */
KERN_ALWAYS_INLINE void add_tile(enum kern_kv_type type, unsigned n_t, const struct call *c,
                                 size_t t, size_t p0, float (*scales)[KERN_ATTN_CHUNK],
                                 const struct batch *s)
{
    size_t d = 0;
    for (; d + TILE_DIMS <= c->head_dim; d += TILE_DIMS)
        add_values(type, n_t, TILE_DIMS / LANES, c, t, p0, d, scales, s);
    for (; d + KERN_BLOCK <= c->head_dim; d += KERN_BLOCK)
        add_values(type, n_t, KERN_BLOCK / LANES, c, t, p0, d, scales, s);
    for (; d < c->head_dim; d += LANES)
        add_values(type, n_t, 1, c, t, p0, d, scales, s);
}

KERN_ALWAYS_INLINE void add_chunk(enum kern_kv_type type, const struct call *c, size_t p0,
                                  size_t low, size_t high, const struct batch *s)
{
    _Alignas(64) float scales[type == KERN_KV_Q8_0 ? KV_BLOCKS_MAX : 1][KERN_ATTN_CHUNK];
    for (size_t b = 0; type == KERN_KV_Q8_0 && b < c->head_dim / KERN_BLOCK; b++)
        for (size_t p = low / LANES * LANES; p < high; p += LANES)
            _mm512_store_ps(scales[b] + p, load_scales(c->v + (p0 + p) * c->row_bytes,
                                                       kern_min_size(high - p, LANES), c->row_bytes,
                                                       c->head_dim, b));
    for (size_t t = 0; t < c->n_q;) {
        size_t same = t;
        while (same < c->n_q && same < t + TILE && s->span[same].from == s->span[t].from &&
               s->span[same].to == s->span[t].to)
            same++;
        if (s->span[t].to == 0) {
            t++;
        } else if (same - t == TILE) {
            add_tile(type, TILE, c, t, p0, scales, s);
            t += TILE;
        } else {
            add_tile(type, 1, c, t, p0, scales, s);
            t++;
        }
    }
}

static void finish(const struct call *c, const struct batch *s)
{
    for (size_t t = 0; t < c->n_q; t++) {
        float *out = c->list[t].out;
        for (size_t d = 0; d < c->head_dim; d += LANES) {
            const __mmask16 there =
                c->head_dim - d < LANES ? avx512_first(c->head_dim - d) : (__mmask16)0xffff;
            const __m512 v =
                _mm512_div_ps(_mm512_maskz_loadu_ps(there, out + d), _mm512_set1_ps(s->sum[t]));
            _mm512_mask_storeu_ps(out + d, there,
                                  s->bad[t] ? _mm512_set1_ps(kern_float(KERN_NAN_BITS)) : v);
        }
    }
}

KERN_ALWAYS_INLINE void attend_batch(enum kern_kv_type type, const struct call *c,
                                     const struct query8 *q8, struct batch *s)
{
    size_t first = SIZE_MAX, end = 0;
    for (size_t t = 0; t < c->n_q; t++) {
        assert(c->list[t].first < c->list[t].n_pos);
        first = kern_min_size(first, c->list[t].first);
        end = c->list[t].n_pos > end ? c->list[t].n_pos : end;
    }
    for (size_t t = 0; t < BATCH; t++)
        s->max[t] = s->sum[t] = s->chunk_max[t] = s->chunk_sum[t] = 0.0f;
    for (size_t p0 = first - first % KERN_ATTN_CHUNK; p0 < end; p0 += KERN_ATTN_CHUNK) {
        const size_t low = first > p0 ? first - p0 : 0;
        const size_t high = kern_min_size(end - p0, KERN_ATTN_CHUNK);
        for (size_t t = 0; t < c->n_q; t++)
            s->span[t] = seen(&c->list[t], p0);
        score_chunk(type, c, p0, low, high, q8, s);
        weigh_chunk(c, p0, s);
        add_chunk(type, c, p0, low, high, s);
    }
    finish(c, s);
}

static void quantise_query(const float *q, size_t head_dim, struct query8 *out, bool *bad)
{
    float s[KV_BLOCKS_MAX];
    int16_t h[2 * KV_BLOCKS_MAX];
    *bad = !kern_quantise_avx512(q, (uint32_t)head_dim, out->q, out->a, s, h);
    for (size_t b = 0; b < head_dim / KERN_BLOCK; b++)
        out->start[b] = -128 * (h[2 * b] + h[2 * b + 1]);
}

KERN_ALWAYS_INLINE void attend(enum kern_kv_type type, const struct kern_query *list, uint32_t n_q,
                               const void *k, const void *v, uint32_t head_dim, float scale)
{
    struct call c = {.k = k, .v = v, .head_dim = head_dim, .scale = scale};
    struct query8 q8[type == KERN_KV_Q8_0 ? BATCH : 1];
    struct batch s;

    assert(n_q <= KERN_QUERIES_MAX && head_dim <= KERN_HEAD_DIM_MAX);
    c.row_bytes = kern_kv_row_bytes(type, head_dim);
    for (size_t t = 0; t < n_q; t += BATCH) {
        c.list = list + t;
        c.n_q = kern_min_size(n_q - t, BATCH);
        for (size_t i = 0; i < c.n_q; i++) {
            s.bad[i] = false;
            if (type == KERN_KV_Q8_0)
                quantise_query(list[t + i].q, head_dim, &q8[i], &s.bad[i]);
        }
        attend_batch(type, &c, q8, &s);
    }
}

void kern_attend_f16_avx512(const struct kern_query *list, uint32_t n_q, const void *k,
                            const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_F16, list, n_q, k, v, head_dim, scale);
}

void kern_attend_f32_avx512(const struct kern_query *list, uint32_t n_q, const void *k,
                            const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_F32, list, n_q, k, v, head_dim, scale);
}

void kern_attend_q8_0_avx512(const struct kern_query *list, uint32_t n_q, const void *k,
                             const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_Q8_0, list, n_q, k, v, head_dim, scale);
}
