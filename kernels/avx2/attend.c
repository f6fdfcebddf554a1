/* Attention for queries that share rows of keys and values, chunk by chunk as the definition has
 * it. Up to QUERIES of them run together: eight rows at a time are widened to F32 once (rows of
 * Q8_0 keys stay bytes) and meet every query that sees them. Eight scores are formed side by side
 * and folded by a tree of transpositions, whose additions are those of the canonical fold: halves
 * onto halves. Values are added to a query's chunk sum in order of position, 64 dims in registers.
 *
 * A position outside a query's [first, n_pos) gets the score -infinity, hence the weight +0, which
 * changes neither maximum nor lane sum, and its values are not added. Rows from the last n_pos on
 * are not read. A head_dim that is no multiple of 16 is padded with zeros, which can only turn a -0
 * into +0 before the maximum is taken, and the numerics do not see that. */
#include "kernels/avx2/avx2.h"

#include <assert.h>

enum { QUERIES = 16, ROWS = 8, BLOCKS_MAX = KERN_HEAD_DIM_MAX / KERN_BLOCK };

/* The call, and what its queries share. */
struct call {
    const uint8_t *k, *v;
    size_t row_bytes, head_dim, padded; /* head_dim rounded up to 16 */
    float scale;
};

/* A query at work: M and L of the definition over the chunks so far (O is in query->out), and the
 * chunk at hand. */
struct state {
    const struct kern_query *query;
    float max, sum;
    bool begun, bad;
    _Alignas(32) float q[KERN_HEAD_DIM_MAX];
    int8_t q8[KERN_HEAD_DIM_MAX];
    float q8_scale[BLOCKS_MAX];
    _Alignas(32) float weight[KERN_ATTN_CHUNK]; /* score, then weight, of each position */
    _Alignas(32) float out[KERN_HEAD_DIM_MAX];  /* the chunk's weighted values */
};

/* Whether the query takes part in positions [p0, p1). */
static bool sees(const struct state *s, size_t p0, size_t p1)
{
    return !s->bad && s->query->first < p1 && p0 < s->query->n_pos;
}

/* Eight rows: as F32 [ROWS, padded]; of Q8_0 also each block's scale for all rows. */
struct rows {
    _Alignas(32) float x[ROWS * KERN_HEAD_DIM_MAX];
    _Alignas(32) float scale[BLOCKS_MAX][ROWS];
};

static void load_scales(const struct call *c, const uint8_t *row, size_t i, struct rows *r)
{
    for (size_t b = 0; b < c->head_dim / KERN_BLOCK; b++) {
        uint16_t half;
        memcpy(&half, row + c->head_dim + 2 * b, sizeof half);
        r->scale[b][i] = _cvtsh_ss(half);
    }
}

/* Row i of r, from a stored row. */
KERN_ALWAYS_INLINE void widen_row(enum kern_kv_type type, const struct call *c, const uint8_t *row,
                                  size_t i, struct rows *r)
{
    float *const x = r->x + i * c->padded;
    size_t d = 0;
    for (; d + 8 <= c->head_dim; d += 8) {
        __m256 v;
        if (type == KERN_KV_F16)
            v = avx2_load_f16(row + 2 * d);
        else if (type == KERN_KV_F32)
            v = _mm256_loadu_ps((const float *)(const void *)row + d);
        else
            v = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(row + d))));
        _mm256_store_ps(x + d, v);
    }
    for (; d < c->head_dim; d++)
        x[d] = type == KERN_KV_F16 ? kern_f16_at(row, d) : ((const float *)(const void *)row)[d];
    for (; d < c->padded; d++)
        x[d] = 0.0f;
}

/* ---- scores --------------------------------------------------------------------------------- */

/* Sums of the 16 lanes low and high of eight rows, row i in lane i: +8, +4, +2, +1. */
KERN_ALWAYS_INLINE __m256 fold_rows(const __m256 low[ROWS], const __m256 high[ROWS])
{
    __m256 by4[4], by2[2];
    AVX2_UNROLL
    for (unsigned i = 0; i < 4; i++) {
        const __m256 a = _mm256_add_ps(low[i], high[i]), b = _mm256_add_ps(low[i + 4], high[i + 4]);
        by4[i] = _mm256_add_ps(_mm256_blend_ps(a, b, 0xf0), _mm256_permute2f128_ps(a, b, 0x21));
    }
    AVX2_UNROLL
    for (unsigned i = 0; i < 2; i++)
        by2[i] = _mm256_add_ps(_mm256_shuffle_ps(by4[2 * i], by4[2 * i + 1], 0x44),
                               _mm256_shuffle_ps(by4[2 * i], by4[2 * i + 1], 0xee));
    return _mm256_add_ps(_mm256_shuffle_ps(by2[0], by2[1], 0x88),
                         _mm256_shuffle_ps(by2[0], by2[1], 0xdd));
}

/* q [padded] times eight rows; four at a time, for the registers' sake. */
static __m256 dots(const float *q, const float *x, size_t padded)
{
    __m256 low[ROWS], high[ROWS];
    for (unsigned half = 0; half < 2; half++) {
        const float *const base = x + 4 * half * padded;
        __m256 l[4], h[4];
        AVX2_UNROLL
        for (unsigned i = 0; i < 4; i++)
            l[i] = h[i] = _mm256_setzero_ps();
        for (size_t d = 0; d < padded; d += 16) {
            const __m256 q0 = _mm256_load_ps(q + d), q1 = _mm256_load_ps(q + d + 8);
            AVX2_UNROLL
            for (unsigned i = 0; i < 4; i++) {
                l[i] = _mm256_fmadd_ps(q0, _mm256_load_ps(base + i * padded + d), l[i]);
                h[i] = _mm256_fmadd_ps(q1, _mm256_load_ps(base + i * padded + d + 8), h[i]);
            }
        }
        AVX2_UNROLL
        for (unsigned i = 0; i < 4; i++) {
            low[4 * half + i] = l[i];
            high[4 * half + i] = h[i];
        }
    }
    return fold_rows(low, high);
}

/* Exact integer dot products of one block of q with eight Q8_0 rows; those from the n-th
 * on are not read and give 0. The multiply takes |k| and q with k's sign: q is never -128. */
KERN_ALWAYS_INLINE __m256i dots_block(const int8_t *q, const uint8_t *k, size_t row_bytes, size_t n)
{
    const __m256i qs = _mm256_loadu_si256((const void *)q);
    __m256i sum[ROWS];
    AVX2_UNROLL
    for (unsigned i = 0; i < ROWS; i++) {
        const __m256i row =
            i < n ? _mm256_loadu_si256((const void *)(k + i * row_bytes)) : _mm256_setzero_si256();
        sum[i] =
            _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(row), _mm256_sign_epi8(qs, row)),
                              _mm256_set1_epi16(1));
    }
    const __m256i a =
        _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[3]));
    const __m256i b =
        _mm256_hadd_epi32(_mm256_hadd_epi32(sum[4], sum[5]), _mm256_hadd_epi32(sum[6], sum[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
}

/* The chain of a Q8_0 matrix row, eight rows of k (n of them there) in eight lanes. */
static __m256 dots_q8_0(const struct call *c, const struct state *s, const uint8_t *k, size_t n,
                        const struct rows *r)
{
    const size_t n_blocks = c->head_dim / KERN_BLOCK;
    __m256 u = _mm256_setzero_ps(), t = u;
    for (size_t b = 0; b < n_blocks; b++) {
        const __m256i whole =
            dots_block(s->q8 + b * KERN_BLOCK, k + b * KERN_BLOCK, c->row_bytes, n);
        const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_load_ps(r->scale[b]));
        t = _mm256_fmadd_ps(scaled, _mm256_broadcast_ss(s->q8_scale + b), t);
        if ((b + 1) % KERN_SEGMENT_BLOCKS == 0 || b + 1 == n_blocks) {
            u = _mm256_add_ps(u, t);
            t = _mm256_setzero_ps();
        }
    }
    return u;
}

/* Scores of the n rows from position p0 on, a multiple of ROWS, for every query that sees some. */
KERN_ALWAYS_INLINE void score_rows(enum kern_kv_type type, const struct call *c, struct state *s,
                                   size_t n_s, size_t p0, size_t n, struct rows *r)
{
    const uint8_t *const k = c->k + p0 * c->row_bytes;
    const __m256i p =
        _mm256_add_epi32(_mm256_set1_epi32((int)p0), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    if (n < ROWS)
        memset(r, 0, sizeof *r);
    for (size_t i = 0; i < n; i++) {
        if (type == KERN_KV_Q8_0)
            load_scales(c, k + i * c->row_bytes, i, r);
        else
            widen_row(type, c, k + i * c->row_bytes, i, r);
    }
    for (; n_s > 0; n_s--, s++) {
        if (!sees(s, p0, p0 + n))
            continue;
        const __m256 dot =
            type == KERN_KV_Q8_0 ? dots_q8_0(c, s, k, n, r) : dots(s->q, r->x, c->padded);
        const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)s->query->first), p);
        const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)s->query->n_pos), p);
        const __m256 seen = _mm256_castsi256_ps(_mm256_andnot_si256(before, below));
        const __m256 score = _mm256_mul_ps(dot, _mm256_set1_ps(c->scale));
        _mm256_store_ps(s->weight + p0 % KERN_ATTN_CHUNK,
                        _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), score, seen));
    }
}

/* Scores of a chunk become weights; *max and *sum are the chunk's. False where one that counts, of
 * indices [i0, i1), is not finite. */
static bool soften(float *s, size_t i0, size_t i1, float *max, float *sum)
{
    const size_t from = i0 & ~(size_t)15;
    float lane[8];
    __m256 m = _mm256_set1_ps(-INFINITY);
    if (avx2_max_abs(s + i0, i1 - i0) >= KERN_INF_BITS)
        return false;
    for (size_t i = from; i < i1; i += 8)
        m = _mm256_max_ps(m, _mm256_load_ps(s + i));
    _mm256_storeu_ps(lane, m);
    *max = lane[0];
    for (unsigned i = 1; i < 8; i++)
        *max = lane[i] > *max ? lane[i] : *max;

    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    for (size_t i = from; i < i1; i += 16) {
        const __m256 w0 = avx2_exp(_mm256_sub_ps(_mm256_load_ps(s + i), _mm256_set1_ps(*max)));
        const __m256 w1 = avx2_exp(_mm256_sub_ps(_mm256_load_ps(s + i + 8), _mm256_set1_ps(*max)));
        _mm256_store_ps(s + i, w0);
        _mm256_store_ps(s + i + 8, w1);
        low = _mm256_add_ps(low, w0);
        high = _mm256_add_ps(high, w1);
    }
    *sum = avx2_fold16(low, high);
    return true;
}

/* ---- values --------------------------------------------------------------------------------- */

/* out[8 * n_regs] += weight times x over rows [i0, i1), in order; x: the dims' first column, rows
 * `padded` apart; w0 weighs the first four registers, w1 the others. */
KERN_ALWAYS_INLINE void weigh(unsigned n_regs, const float *w0, const float *w1, const float *x,
                              size_t padded, size_t i0, size_t i1, float *out)
{
    __m256 o[8];
    AVX2_UNROLL
    for (unsigned j = 0; j < n_regs; j++)
        o[j] = _mm256_load_ps(out + 8 * j);
    for (size_t i = i0; i < i1; i++) {
        const __m256 a = _mm256_broadcast_ss(w0 + i), b = _mm256_broadcast_ss(w1 + i);
        AVX2_UNROLL
        for (unsigned j = 0; j < n_regs; j++)
            o[j] = _mm256_fmadd_ps(j < 4 ? a : b, _mm256_load_ps(x + i * padded + 8 * j), o[j]);
    }
    AVX2_UNROLL
    for (unsigned j = 0; j < n_regs; j++)
        _mm256_store_ps(out + 8 * j, o[j]);
}

/* Add the values of the n rows from position p0 on to the chunk sums. */
KERN_ALWAYS_INLINE void value_rows(enum kern_kv_type type, const struct call *c, struct state *s,
                                   size_t n_s, size_t p0, size_t n, struct rows *r)
{
    for (size_t i = 0; i < n; i++) {
        widen_row(type, c, c->v + (p0 + i) * c->row_bytes, i, r);
        if (type == KERN_KV_Q8_0)
            load_scales(c, c->v + (p0 + i) * c->row_bytes, i, r);
    }
    for (; n_s > 0; n_s--, s++) {
        if (!sees(s, p0, p0 + n))
            continue;
        const size_t i0 = s->query->first > p0 ? s->query->first - p0 : 0;
        const size_t i1 = kern_min_size(s->query->n_pos - p0, n);
        const float *w = s->weight + p0 % KERN_ATTN_CHUNK;
        _Alignas(32) float scaled[BLOCKS_MAX][ROWS]; /* Q8_0: weight times the block's scale */
        for (size_t b = 0; type == KERN_KV_Q8_0 && b < c->head_dim / KERN_BLOCK; b++)
            _mm256_store_ps(scaled[b],
                            _mm256_mul_ps(_mm256_load_ps(w), _mm256_load_ps(r->scale[b])));
        size_t d = 0;
        for (; d + 64 <= c->padded; d += 64)
            weigh(8, type == KERN_KV_Q8_0 ? scaled[d / KERN_BLOCK] : w,
                  type == KERN_KV_Q8_0 ? scaled[d / KERN_BLOCK + 1] : w, r->x + d, c->padded, i0,
                  i1, s->out + d);
        for (; d < c->padded; d += 16)
            weigh(2, type == KERN_KV_Q8_0 ? scaled[d / KERN_BLOCK] : w, w, r->x + d, c->padded, i0,
                  i1, s->out + d);
    }
}

/* ---- chunks --------------------------------------------------------------------------------- */

/* The chunk's result joins those before it. */
static void combine(struct state *s, float chunk_max, float chunk_sum, size_t head_dim)
{
    float *const out = s->query->out;
    if (!s->begun) {
        s->begun = true;
        s->max = chunk_max;
        s->sum = chunk_sum;
        memcpy(out, s->out, head_dim * sizeof *out);
        return;
    }
    const float max = chunk_max > s->max ? chunk_max : s->max;
    const float a = kern_exp(s->max - max), b = kern_exp(chunk_max - max);
    s->max = max;
    s->sum = fmaf(chunk_sum, b, s->sum * a);
    for (size_t i = 0; i < head_dim; i++)
        out[i] = fmaf(s->out[i], b, out[i] * a);
}

/* Positions [p0, p1) of one chunk for the n_s queries. */
KERN_ALWAYS_INLINE void chunk(enum kern_kv_type type, const struct call *c, struct state *s,
                              size_t n_s, size_t p0, size_t p1, struct rows *r)
{
    const size_t origin = p0 - p0 % KERN_ATTN_CHUNK;
    float max[QUERIES], sum[QUERIES];

    for (size_t j = 0; j < n_s; j++) {
        for (size_t i = 0; i < KERN_ATTN_CHUNK; i++)
            s[j].weight[i] = -INFINITY;
        memset(s[j].out, 0, c->padded * sizeof s[j].out[0]);
    }
    for (size_t p = p0 - p0 % ROWS; p < p1; p += ROWS)
        score_rows(type, c, s, n_s, p, kern_min_size(p1 - p, ROWS), r);
    for (size_t j = 0; j < n_s; j++) {
        if (!sees(s + j, p0, p1))
            continue;
        const size_t i0 = s[j].query->first > origin ? s[j].query->first - origin : 0;
        const size_t i1 = kern_min_size(s[j].query->n_pos, p1) - origin;
        s[j].bad = !soften(s[j].weight, i0, i1, &max[j], &sum[j]);
    }
    for (size_t p = p0 - p0 % ROWS; p < p1; p += ROWS)
        value_rows(type, c, s, n_s, p, kern_min_size(p1 - p, ROWS), r);
    for (size_t j = 0; j < n_s; j++)
        if (sees(s + j, p0, p1))
            combine(s + j, max[j], sum[j], c->head_dim);
}

static void finish(const struct state *s, size_t head_dim)
{
    float *const out = s->query->out;
    for (size_t i = 0; i < head_dim; i++)
        out[i] = s->bad ? kern_float(KERN_NAN_BITS) : out[i] / s->sum;
}

/* n_s <= QUERIES queries of the call. */
KERN_ALWAYS_INLINE void attend_some(enum kern_kv_type type, const struct call *c,
                                    const struct kern_query *list, size_t n_s, struct state *s,
                                    struct rows *r)
{
    size_t first = SIZE_MAX, n_pos = 0;
    for (size_t j = 0; j < n_s; j++) {
        float sums[BLOCKS_MAX];
        int16_t halves[KERN_HEAD_DIM_MAX / 16];
        assert(list[j].first < list[j].n_pos);
        s[j].query = list + j;
        s[j].begun = s[j].bad = false;
        memcpy(s[j].q, list[j].q, c->head_dim * sizeof(float));
        memset(s[j].q + c->head_dim, 0, (c->padded - c->head_dim) * sizeof(float));
        if (type == KERN_KV_Q8_0)
            s[j].bad = !kern_quantise_avx2(s[j].q, (uint32_t)c->head_dim, s[j].q8, s[j].q8_scale,
                                           sums, halves);
        first = kern_min_size(first, list[j].first);
        n_pos = list[j].n_pos > n_pos ? list[j].n_pos : n_pos;
    }
    for (size_t p0 = first; p0 < n_pos;) {
        const size_t p1 = kern_min_size(n_pos, (p0 / KERN_ATTN_CHUNK + 1) * KERN_ATTN_CHUNK);
        chunk(type, c, s, n_s, p0, p1, r);
        p0 = p1;
    }
    for (size_t j = 0; j < n_s; j++)
        finish(s + j, c->head_dim);
}

KERN_ALWAYS_INLINE void attend(enum kern_kv_type type, const struct kern_query *list, size_t n_q,
                               const void *k, const void *v, uint32_t head_dim, float scale)
{
    struct state s[QUERIES];
    struct rows r;
    const struct call c = {.k = k,
                           .v = v,
                           .row_bytes = kern_kv_row_bytes(type, head_dim),
                           .head_dim = head_dim,
                           .padded = (head_dim + 15u) & ~15u,
                           .scale = scale};
    assert(head_dim <= KERN_HEAD_DIM_MAX);
    for (size_t i = 0; i < n_q; i += QUERIES)
        attend_some(type, &c, list + i, kern_min_size(n_q - i, QUERIES), s, &r);
}

void kern_attend_f16_avx2(const struct kern_query *list, uint32_t n_q, const void *k, const void *v,
                          uint32_t head_dim, float scale)
{
    attend(KERN_KV_F16, list, n_q, k, v, head_dim, scale);
}

void kern_attend_f32_avx2(const struct kern_query *list, uint32_t n_q, const void *k, const void *v,
                          uint32_t head_dim, float scale)
{
    attend(KERN_KV_F32, list, n_q, k, v, head_dim, scale);
}

void kern_attend_q8_0_avx2(const struct kern_query *list, uint32_t n_q, const void *k,
                           const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_Q8_0, list, n_q, k, v, head_dim, scale);
}
