/* The definition of attention for one query head. Positions are taken in chunks of 128 by absolute
 * position, so a chunk is the same set of positions whoever computes it: inside, scores by a
 * 16-lane dot product, their maximum, exp of the differences, their 16-lane sum (position p in lane
 * p & 15), and values added in order of position. Chunks are combined in order: the first is
 * copied, the others are rescaled to the common maximum. Positions outside [first, n_pos) take no
 * part. How a prompt was split into passes changes none of this.
 *
 * A score that is not finite makes every output a NaN, always the same one: exp would turn it into
 * a weight of 0 and hide it from the gate that follows. */
#include "kernels/internal.h"

#include <assert.h>
#include <math.h>

/* Running result over chunks: maximum, sum of weights, weighted values. */
struct state {
    float max, sum;
    float out[KERN_HEAD_DIM_MAX];
};

static float kv_element(enum kern_kv_type type, const void *rows, size_t i)
{
    return type == KERN_KV_F16 ? kern_f32_from_f16(((const uint16_t *)rows)[i])
                               : ((const float *)rows)[i];
}

/* Sum of q[i] * rows[base + i] over head_dim. */
static float dot(enum kern_kv_type type, const float *q, const void *rows, size_t base,
                 uint32_t head_dim)
{
    float lane[16] = {0};
    for (size_t i = 0; i < head_dim; i++)
        lane[i & 15] = fmaf(q[i], kv_element(type, rows, base + i), lane[i & 15]);
    return kern_fold16(lane);
}

/* Positions [p0, p1) of one chunk. False where a score is not finite. */
static bool chunk(enum kern_kv_type type, const float *q, const void *k, const void *v,
                  uint32_t head_dim, size_t p0, size_t p1, float scale, struct state *s)
{
    float weight[KERN_ATTN_CHUNK];
    float lane[16] = {0};

    for (size_t p = p0; p < p1; p++) {
        const float score = dot(type, q, k, p * head_dim, head_dim) * scale;
        if (!kern_is_finite(score))
            return false;
        weight[p - p0] = score;
        s->max = p == p0 || score > s->max ? score : s->max;
    }
    memset(s->out, 0, head_dim * sizeof s->out[0]);
    for (size_t p = p0; p < p1; p++) {
        const float w = kern_exp(weight[p - p0] - s->max);
        lane[p & 15] = lane[p & 15] + w;
        for (size_t i = 0; i < head_dim; i++)
            s->out[i] = fmaf(w, kv_element(type, v, p * head_dim + i), s->out[i]);
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

static void attend(enum kern_kv_type type, const float *q, const void *k, const void *v,
                   uint32_t head_dim, uint32_t first, uint32_t n_pos, float scale, float *out)
{
    struct state all, one;
    assert(first < n_pos && head_dim <= KERN_HEAD_DIM_MAX);

    for (size_t p0 = first; p0 < n_pos;) {
        const size_t p1 = kern_min_size(n_pos, (p0 / KERN_ATTN_CHUNK + 1) * KERN_ATTN_CHUNK);
        if (!chunk(type, q, k, v, head_dim, p0, p1, scale, p0 == first ? &all : &one)) {
            for (size_t i = 0; i < head_dim; i++)
                out[i] = kern_float(KERN_NAN_BITS);
            return;
        }
        if (p0 != first)
            combine(&all, &one, head_dim);
        p0 = p1;
    }
    for (size_t i = 0; i < head_dim; i++)
        out[i] = all.out[i] / all.sum;
}

void kern_attend_f16_generic(const float *q, const void *k, const void *v, uint32_t head_dim,
                             uint32_t first, uint32_t n_pos, float scale, float *out)
{
    attend(KERN_KV_F16, q, k, v, head_dim, first, n_pos, scale, out);
}

void kern_attend_f32_generic(const float *q, const void *k, const void *v, uint32_t head_dim,
                             uint32_t first, uint32_t n_pos, float scale, float *out)
{
    attend(KERN_KV_F32, q, k, v, head_dim, first, n_pos, scale, out);
}
