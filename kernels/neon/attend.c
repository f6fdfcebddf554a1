/* Attention for one query head, chunk by chunk as the definition has it. The 16 lanes of a dot
 * product are four registers; the weights of a chunk are computed four at a time; the values of 32
 * dims stay in registers while the chunk's positions are added to them in order. A position outside
 * [first, n_pos) gets the score -infinity, hence the weight +0, which changes neither maximum nor
 * lane sum, and its values are not read. */
#include "kernels/neon/neon.h"

#include <assert.h>

/* Running result over chunks: maximum, sum of weights, weighted values. */
struct state {
    float max, sum;
    float out[KERN_HEAD_DIM_MAX];
};

KERN_ALWAYS_INLINE float32x4_t load4(enum kern_kv_type type, const void *rows, size_t i)
{
    if (type == KERN_KV_F16)
        return neon_load_f16((const uint16_t *)rows + i);
    return vld1q_f32((const float *)rows + i);
}

KERN_ALWAYS_INLINE float load1(enum kern_kv_type type, const void *rows, size_t i)
{
    if (type == KERN_KV_F16)
        return vgetq_lane_f32(
            vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(((const uint16_t *)rows)[i]))), 0);
    return ((const float *)rows)[i];
}

KERN_ALWAYS_INLINE float dot(enum kern_kv_type type, const float *q, const void *k, size_t base,
                             size_t n)
{
    float32x4_t l[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    float lane[16];
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        NEON_UNROLL
        for (unsigned j = 0; j < 4; j++)
            l[j] = vfmaq_f32(l[j], vld1q_f32(q + i + 4 * j), load4(type, k, base + i + 4 * j));
    }
    if (i == n)
        return neon_fold16(l);
    for (unsigned j = 0; j < 4; j++)
        vst1q_f32(lane + 4 * j, l[j]);
    for (; i < n; i++)
        lane[i & 15] = fmaf(q[i], load1(type, k, base + i), lane[i & 15]);
    return kern_fold16(lane);
}

/* Scores s [128] become weights; *max and *sum are the chunk's. False where one that counts, of
 * indices [i0, i1), is not finite. */
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

/* out[4 * n_regs] = sum over positions [p0, p1) of weight[p - origin] * v[p][d0 ...], in order. */
KERN_ALWAYS_INLINE void weigh(enum kern_kv_type type, unsigned n_regs, const float *weight,
                              const void *v, size_t head_dim, size_t d0, size_t p0, size_t p1,
                              size_t origin, float *out)
{
    float32x4_t o[8];
    NEON_UNROLL
    for (unsigned j = 0; j < n_regs; j++)
        o[j] = vdupq_n_f32(0.0f);
    for (size_t p = p0; p < p1; p++) {
        NEON_UNROLL
        for (unsigned j = 0; j < n_regs; j++)
            o[j] = vfmaq_n_f32(o[j], load4(type, v, p * head_dim + d0 + 4 * j), weight[p - origin]);
    }
    NEON_UNROLL
    for (unsigned j = 0; j < n_regs; j++)
        vst1q_f32(out + 4 * j, o[j]);
}

/* Positions [p0, p1) of one chunk. False where a score is not finite. */
KERN_ALWAYS_INLINE bool chunk(enum kern_kv_type type, const float *q, const void *k, const void *v,
                              size_t head_dim, size_t p0, size_t p1, float scale, struct state *s)
{
    const size_t origin = p0 - p0 % KERN_ATTN_CHUNK;
    float weight[KERN_ATTN_CHUNK];
    size_t d = 0;

    for (size_t i = 0; i < KERN_ATTN_CHUNK; i++)
        weight[i] = -INFINITY;
    for (size_t p = p0; p < p1; p++)
        weight[p - origin] = dot(type, q, k, p * head_dim, head_dim) * scale;
    if (!soften(weight, p0 - origin, p1 - origin, &s->max, &s->sum))
        return false;
    for (; d + 32 <= head_dim; d += 32)
        weigh(type, 8, weight, v, head_dim, d, p0, p1, origin, s->out + d);
    for (; d + 8 <= head_dim; d += 8)
        weigh(type, 2, weight, v, head_dim, d, p0, p1, origin, s->out + d);
    for (; d < head_dim; d++) {
        float o = 0.0f;
        for (size_t p = p0; p < p1; p++)
            o = fmaf(weight[p - origin], load1(type, v, p * head_dim + d), o);
        s->out[d] = o;
    }
    return true;
}

static void combine(struct state *all, const struct state *s, size_t head_dim)
{
    const float max = s->max > all->max ? s->max : all->max;
    const float a = kern_exp(all->max - max), b = kern_exp(s->max - max);

    all->max = max;
    all->sum = fmaf(s->sum, b, all->sum * a);
    for (size_t i = 0; i < head_dim; i++)
        all->out[i] = fmaf(s->out[i], b, all->out[i] * a);
}

KERN_ALWAYS_INLINE void attend(enum kern_kv_type type, const float *q, const void *k, const void *v,
                               uint32_t head_dim, uint32_t first, uint32_t n_pos, float scale,
                               float *out)
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

void kern_attend_f16_neon(const float *q, const void *k, const void *v, uint32_t head_dim,
                          uint32_t first, uint32_t n_pos, float scale, float *out)
{
    attend(KERN_KV_F16, q, k, v, head_dim, first, n_pos, scale, out);
}

void kern_attend_f32_neon(const float *q, const void *k, const void *v, uint32_t head_dim,
                          uint32_t first, uint32_t n_pos, float scale, float *out)
{
    attend(KERN_KV_F32, q, k, v, head_dim, first, n_pos, scale, out);
}
