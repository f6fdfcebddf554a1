/* The definition of attention, one query at a time: queries of a call share its rows and nothing
 * else. Positions are taken in chunks of 128 by absolute position, so a chunk is the same set of
 * positions whoever computes it: inside, scores, their maximum, exp of the differences, their
 * 16-lane sum (position p in lane p & 15), and values added in order of position. Chunks are
 * combined in order: the first is copied, the others are rescaled to the common maximum. Positions
 * outside [first, n_pos) take no part. How a prompt was split into passes changes none of this.
 *
 * A score over F16 or F32 rows is a 16-lane dot product; over Q8_0 rows the query is quantised once
 * and the score is the chain of a Q8_0 matrix row. A score that is not finite, or a query that
 * cannot be quantised, makes every output a NaN, always the same one: exp would turn it into a
 * weight of 0 and hide it from the gate that follows. */
#include "kernels/internal.h"

#include <assert.h>
#include <math.h>

/* One call's rows, and the query in the form that they need. */
struct call {
    enum kern_kv_type type;
    const uint8_t *k, *v; /* [position] rows of row_bytes */
    size_t row_bytes;
    uint32_t head_dim;
    float scale;
    const float *q;               /* [head_dim] */
    int8_t q8[KERN_HEAD_DIM_MAX]; /* Q8_0: the query quantised */
    float q8_scale[KERN_HEAD_DIM_MAX / KERN_BLOCK];
};

/* Running result over chunks: maximum, sum of weights, weighted values. */
struct state {
    float max, sum;
    float out[KERN_HEAD_DIM_MAX];
};

static float element(enum kern_kv_type type, const uint8_t *row, size_t i)
{
    float x;
    if (type == KERN_KV_F16)
        return kern_f16_at(row, i);
    memcpy(&x, row + 4 * i, sizeof x);
    return x;
}

/* The scale of block b of a Q8_0 row. */
static float row_scale(const struct call *c, const uint8_t *row, size_t b)
{
    return kern_f16_at(row + c->head_dim, b);
}

static float dot_lanes(const struct call *c, const uint8_t *row)
{
    float lane[16] = {0};
    for (size_t i = 0; i < c->head_dim; i++)
        lane[i & 15] = fmaf(c->q[i], element(c->type, row, i), lane[i & 15]);
    return kern_fold16(lane);
}

static float dot_q8_0(const struct call *c, const uint8_t *row)
{
    const size_t n_blocks = c->head_dim / KERN_BLOCK;
    float u = 0.0f;
    for (size_t b0 = 0; b0 < n_blocks; b0 += KERN_SEGMENT_BLOCKS) {
        const size_t b1 = kern_min_size(n_blocks, b0 + KERN_SEGMENT_BLOCKS);
        float t = 0.0f;
        for (size_t b = b0; b < b1; b++) {
            int32_t sum = 0;
            for (size_t i = b * KERN_BLOCK; i < (b + 1) * KERN_BLOCK; i++)
                sum += (int8_t)row[i] * c->q8[i];
            t = fmaf((float)sum * row_scale(c, row, b), c->q8_scale[b], t);
        }
        u = u + t;
    }
    return u;
}

static float score(const struct call *c, size_t p)
{
    const uint8_t *row = c->k + p * c->row_bytes;
    return (c->type == KERN_KV_Q8_0 ? dot_q8_0(c, row) : dot_lanes(c, row)) * c->scale;
}

static void add_value(const struct call *c, size_t p, float w, float *out)
{
    const uint8_t *row = c->v + p * c->row_bytes;
    for (size_t i = 0; i < c->head_dim; i++)
        out[i] = c->type == KERN_KV_Q8_0
                     ? fmaf(w * row_scale(c, row, i / KERN_BLOCK), (float)(int8_t)row[i], out[i])
                     : fmaf(w, element(c->type, row, i), out[i]);
}

/* Positions [p0, p1) of one chunk. False where a score is not finite. */
static bool chunk(const struct call *c, size_t p0, size_t p1, struct state *s)
{
    float scores[KERN_ATTN_CHUNK];
    float lane[16] = {0};

    for (size_t p = p0; p < p1; p++) {
        const float x = score(c, p);
        if (!kern_is_finite(x))
            return false;
        scores[p - p0] = x;
        s->max = p == p0 || x > s->max ? x : s->max;
    }
    memset(s->out, 0, c->head_dim * sizeof s->out[0]);
    for (size_t p = p0; p < p1; p++) {
        const float w = kern_exp(scores[p - p0] - s->max);
        lane[p & 15] = lane[p & 15] + w;
        add_value(c, p, w, s->out);
    }
    s->sum = kern_fold16(lane);
    return true;
}

static void combine(struct state *all, const struct state *s, uint32_t head_dim)
{
    const float max = s->max > all->max ? s->max : all->max;
    const float a = kern_exp(all->max - max), b = kern_exp(s->max - max);

    all->max = max;
    all->sum = fmaf(s->sum, b, all->sum * a);
    for (size_t i = 0; i < head_dim; i++)
        all->out[i] = fmaf(s->out[i], b, all->out[i] * a);
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
    float sums[KERN_HEAD_DIM_MAX / KERN_BLOCK];
    int16_t halves[KERN_HEAD_DIM_MAX / 16];

    assert(n_q <= KERN_QUERIES_MAX && head_dim <= KERN_HEAD_DIM_MAX);
    c.row_bytes = kern_kv_row_bytes(type, head_dim);
    for (uint32_t i = 0; i < n_q; i++) {
        assert(list[i].first < list[i].n_pos);
        c.q = list[i].q;
        if ((type == KERN_KV_Q8_0 &&
             !kern_quantise_generic(c.q, head_dim, c.q8, c.q8_scale, sums, halves)) ||
            !attend_one(&c, &list[i]))
            for (size_t j = 0; j < head_dim; j++)
                list[i].out[j] = kern_float(KERN_NAN_BITS);
    }
}

void kern_attend_f16_generic(const struct kern_query *list, uint32_t n_q, const void *k,
                             const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_F16, list, n_q, k, v, head_dim, scale);
}

void kern_attend_f32_generic(const struct kern_query *list, uint32_t n_q, const void *k,
                             const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_F32, list, n_q, k, v, head_dim, scale);
}

void kern_attend_q8_0_generic(const struct kern_query *list, uint32_t n_q, const void *k,
                              const void *v, uint32_t head_dim, float scale)
{
    attend(KERN_KV_Q8_0, list, n_q, k, v, head_dim, scale);
}
