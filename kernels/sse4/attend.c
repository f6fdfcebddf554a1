/* Attention, one query after the other, chunk by chunk as the definition has it: the emulated fused
 * steps take all the time, so there is nothing to gain by sharing rows between queries. A row is
 * widened to F32 and meets the query in 16 lanes (rows of Q8_0 keys stay bytes and run like a
 * matrix row); weights are computed four at a time; values are added in order of position. A
 * position outside [first, n_pos) gets the score -infinity, hence the weight +0, and its row is not
 * read. */
#include "kernels/sse4/sse4.h"

#include <assert.h>

enum { BLOCKS_MAX = KERN_HEAD_DIM_MAX / KERN_BLOCK };

/* The call, and the query at work. */
struct call {
    enum kern_kv_type type;
    const uint8_t *k, *v;
    size_t row_bytes, head_dim;
    float scale;
    const float *q;
    int8_t q8[KERN_HEAD_DIM_MAX];
    float q8_scale[BLOCKS_MAX];
};

/* Running result over chunks: maximum, sum of weights, weighted values. */
struct state {
    float max, sum;
    float out[KERN_HEAD_DIM_MAX];
};

/* A stored row as F32; Q8_0: its quants, unscaled. */
static void widen(const struct call *c, const uint8_t *row, float *x)
{
    size_t i = 0;
    if (c->type == KERN_KV_F32) {
        memcpy(x, row, c->head_dim * sizeof *x);
        return;
    }
    for (; c->type == KERN_KV_F16 && i + 4 <= c->head_dim; i += 4)
        _mm_storeu_ps(x + i, sse4_load_f16(row + 2 * i));
    for (; c->type == KERN_KV_Q8_0 && i < c->head_dim; i += 4) {
        int32_t four;
        memcpy(&four, row + i, sizeof four);
        _mm_storeu_ps(x + i, _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four))));
    }
    for (; i < c->head_dim; i++)
        x[i] = kern_f16_at(row, i);
}

/* Exact integer dot product of 32 quants; |w| and x with w's sign: x is never -128. */
static int32_t dot_block(const int8_t *x, const uint8_t *w)
{
    __m128i sum = _mm_setzero_si128();
    for (unsigned i = 0; i < 32; i += 16) {
        const __m128i wi = _mm_loadu_si128((const void *)(w + i));
        const __m128i xi = _mm_sign_epi8(_mm_loadu_si128((const void *)(x + i)), wi);
        sum = _mm_add_epi32(
            sum, _mm_madd_epi16(_mm_maddubs_epi16(_mm_abs_epi8(wi), xi), _mm_set1_epi16(1)));
    }
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

static float score(const struct call *c, const uint8_t *row)
{
    float x[KERN_HEAD_DIM_MAX], u = 0.0f, t = 0.0f;
    if (c->type != KERN_KV_Q8_0) {
        widen(c, row, x);
        return sse4_dot16(c->q, x, c->head_dim) * c->scale;
    }
    const size_t n_blocks = c->head_dim / KERN_BLOCK;
    for (size_t b = 0; b < n_blocks; b++) {
        const float whole = (float)dot_block(c->q8 + b * KERN_BLOCK, row + b * KERN_BLOCK);
        t = sse4_fma1(whole * kern_f16_at(row + c->head_dim, b), c->q8_scale[b], t);
        if ((b + 1) % KERN_SEGMENT_BLOCKS == 0 || b + 1 == n_blocks) {
            u = u + t;
            t = 0.0f;
        }
    }
    return u * c->scale;
}

/* Scores s [128] become weights; *max and *sum are the chunk's. False where one that counts, of
 * indices [i0, i1), is not finite. */
static bool soften(float *s, size_t i0, size_t i1, float *max, float *sum)
{
    float lane[16] = {0};
    if (sse4_max_abs(s + i0, i1 - i0) >= KERN_INF_BITS)
        return false;
    *max = s[i0];
    for (size_t i = i0; i < i1; i++)
        *max = s[i] > *max ? s[i] : *max;
    for (size_t i = i0 & ~(size_t)3; i < i1; i += 4) {
        const __m128 w = sse4_exp(_mm_sub_ps(_mm_loadu_ps(s + i), _mm_set1_ps(*max)));
        _mm_storeu_ps(s + i, w);
        _mm_storeu_ps(lane + i % 16, _mm_add_ps(_mm_loadu_ps(lane + i % 16), w));
    }
    *sum = kern_fold16(lane);
    return true;
}

/* out += weight * the row's values. */
static void add_values(const struct call *c, const uint8_t *row, float weight, float *out)
{
    float x[KERN_HEAD_DIM_MAX];
    size_t i = 0;
    widen(c, row, x);
    for (; i + 4 <= c->head_dim; i += 4) {
        const float w = c->type == KERN_KV_Q8_0
                            ? weight * kern_f16_at(row + c->head_dim, i / KERN_BLOCK)
                            : weight;
        _mm_storeu_ps(out + i,
                      sse4_fma(_mm_set1_ps(w), _mm_loadu_ps(x + i), _mm_loadu_ps(out + i)));
    }
    for (; i < c->head_dim; i++)
        out[i] = sse4_fma1(weight, x[i], out[i]);
}

/* Positions [p0, p1) of one chunk. False where a score is not finite. */
static bool chunk(const struct call *c, size_t p0, size_t p1, struct state *s)
{
    const size_t origin = p0 - p0 % KERN_ATTN_CHUNK;
    float weight[KERN_ATTN_CHUNK];

    for (size_t i = 0; i < KERN_ATTN_CHUNK; i++)
        weight[i] = -INFINITY;
    for (size_t p = p0; p < p1; p++)
        weight[p - origin] = score(c, c->k + p * c->row_bytes);
    if (!soften(weight, p0 - origin, p1 - origin, &s->max, &s->sum))
        return false;
    memset(s->out, 0, c->head_dim * sizeof s->out[0]);
    for (size_t p = p0; p < p1; p++)
        add_values(c, c->v + p * c->row_bytes, weight[p - origin], s->out);
    return true;
}

static void combine(struct state *all, const struct state *s, size_t head_dim)
{
    const float max = s->max > all->max ? s->max : all->max;
    const float a = kern_exp(all->max - max), b = kern_exp(s->max - max);

    all->max = max;
    all->sum = sse4_fma1(s->sum, b, all->sum * a);
    for (size_t i = 0; i < head_dim; i++)
        all->out[i] = sse4_fma1(s->out[i], b, all->out[i] * a);
}

/* False where a score is not finite. */
static bool attend_one(const struct call *c, const struct kern_query *query)
{
    struct state all, one;
    for (size_t p0 = query->first; p0 < query->n_pos;) {
        const bool begin = p0 == query->first;
        const size_t p1 = kern_min_size(query->n_pos, (p0 / KERN_ATTN_CHUNK + 1) * KERN_ATTN_CHUNK);
        if (!chunk(c, p0, p1, begin ? &all : &one))
            return false;
        if (!begin)
            combine(&all, &one, c->head_dim);
        p0 = p1;
    }
    for (size_t i = 0; i < c->head_dim; i++)
        query->out[i] = all.out[i] / all.sum;
    return true;
}

static void attend(enum kern_kv_type type, const struct kern_query *list, uint32_t n_q,
                   const void *k, const void *v, uint32_t head_dim, float scale)
{
    struct call c = {.type = type, .k = k, .v = v, .head_dim = head_dim, .scale = scale};
    float sums[BLOCKS_MAX];
    int16_t halves[KERN_HEAD_DIM_MAX / 16];

    assert(head_dim <= KERN_HEAD_DIM_MAX);
    c.row_bytes = kern_kv_row_bytes(type, head_dim);
    for (uint32_t i = 0; i < n_q; i++) {
        assert(list[i].first < list[i].n_pos);
        c.q = list[i].q;
        if ((type == KERN_KV_Q8_0 &&
             !kern_quantise_sse4(c.q, head_dim, c.q8, c.q8_scale, sums, halves)) ||
            !attend_one(&c, &list[i]))
            for (size_t j = 0; j < head_dim; j++)
                list[i].out[j] = kern_float(KERN_NAN_BITS);
    }
}

void kern_attend_f16_sse4(const struct kern_query *list, uint32_t n_q, const void *k, const void *v,
                          uint32_t head_dim, float scale)
{
    attend(KERN_KV_F16, list, n_q, k, v, head_dim, scale);
}

void kern_attend_f32_sse4(const struct kern_query *list, uint32_t n_q, const void *k, const void *v,
                          uint32_t head_dim, float scale)
{
    attend(KERN_KV_F32, list, n_q, k, v, head_dim, scale);
}

void kern_attend_q8_0_sse4(const struct kern_query *list, uint32_t n_q, const void *k,
                           const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_Q8_0, list, n_q, k, v, head_dim, scale);
}
