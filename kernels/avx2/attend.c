/* Attention for one query head, chunk by chunk as the definition has it. The 16 lanes of a dot
 * product are two registers; the weights of a chunk are computed eight at a time; the values of 64
 * dims stay in registers while the chunk's positions are added to them in order. A position outside
 * [first, n_pos) gets the score -infinity, hence the weight +0, which changes neither maximum nor
 * lane sum, and its values are not read. */
#include "kernels/avx2/avx2.h"

#include <assert.h>

/* Running result over chunks: maximum, sum of weights, weighted values. */
struct state {
    float max, sum;
    float out[KERN_HEAD_DIM_MAX];
};

KERN_ALWAYS_INLINE __m256 load8(enum kern_kv_type type, const void *rows, size_t i)
{
    if (type == KERN_KV_F16)
        return avx2_load_f16((const uint16_t *)rows + i);
    return _mm256_loadu_ps((const float *)rows + i);
}

KERN_ALWAYS_INLINE float load1(enum kern_kv_type type, const void *rows, size_t i)
{
    return type == KERN_KV_F16 ? _cvtsh_ss(((const uint16_t *)rows)[i]) : ((const float *)rows)[i];
}

KERN_ALWAYS_INLINE float dot(enum kern_kv_type type, const float *q, const void *k, size_t base,
                             size_t n)
{
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        low = _mm256_fmadd_ps(_mm256_loadu_ps(q + i), load8(type, k, base + i), low);
        high = _mm256_fmadd_ps(_mm256_loadu_ps(q + i + 8), load8(type, k, base + i + 8), high);
    }
    if (i < n) {
        float lane[16];
        _mm256_storeu_ps(lane, low);
        _mm256_storeu_ps(lane + 8, high);
        for (; i < n; i++)
            lane[i & 15] = fmaf(q[i], load1(type, k, base + i), lane[i & 15]);
        return kern_fold16(lane);
    }
    return avx2_fold16(low, high);
}

/* Scores s [128] become weights; *max and *sum are the chunk's. False where one that counts, of
 * indices [i0, i1), is not finite. */
static bool soften(float *s, size_t i0, size_t i1, float *max, float *sum)
{
    float lane[8];
    __m256 m = _mm256_set1_ps(-INFINITY);
    if (avx2_max_abs(s + i0, i1 - i0) >= KERN_INF_BITS)
        return false;
    for (size_t i = 0; i < KERN_ATTN_CHUNK; i += 8)
        m = _mm256_max_ps(m, _mm256_loadu_ps(s + i));
    _mm256_storeu_ps(lane, m);
    *max = lane[0];
    for (unsigned i = 1; i < 8; i++)
        *max = lane[i] > *max ? lane[i] : *max;

    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    for (size_t i = 0; i < KERN_ATTN_CHUNK; i += 16) {
        const __m256 w0 = avx2_exp(_mm256_sub_ps(_mm256_loadu_ps(s + i), _mm256_set1_ps(*max)));
        const __m256 w1 = avx2_exp(_mm256_sub_ps(_mm256_loadu_ps(s + i + 8), _mm256_set1_ps(*max)));
        _mm256_storeu_ps(s + i, w0);
        _mm256_storeu_ps(s + i + 8, w1);
        low = _mm256_add_ps(low, w0);
        high = _mm256_add_ps(high, w1);
    }
    *sum = avx2_fold16(low, high);
    return true;
}

/* out[8 * n_regs] = sum over positions [p0, p1) of weight[p - origin] * v[p][d0 ...], in order. */
KERN_ALWAYS_INLINE void weigh(enum kern_kv_type type, unsigned n_regs, const float *weight,
                              const void *v, size_t head_dim, size_t d0, size_t p0, size_t p1,
                              size_t origin, float *out)
{
    __m256 o[8];
    AVX2_UNROLL
    for (unsigned j = 0; j < n_regs; j++)
        o[j] = _mm256_setzero_ps();
    for (size_t p = p0; p < p1; p++) {
        const __m256 w = _mm256_broadcast_ss(weight + (p - origin));
        AVX2_UNROLL
        for (unsigned j = 0; j < n_regs; j++)
            o[j] = _mm256_fmadd_ps(w, load8(type, v, p * head_dim + d0 + 8 * j), o[j]);
    }
    AVX2_UNROLL
    for (unsigned j = 0; j < n_regs; j++)
        _mm256_storeu_ps(out + 8 * j, o[j]);
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
    for (; d + 64 <= head_dim; d += 64)
        weigh(type, 8, weight, v, head_dim, d, p0, p1, origin, s->out + d);
    for (; d + 16 <= head_dim; d += 16)
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

void kern_attend_f16_avx2(const float *q, const void *k, const void *v, uint32_t head_dim,
                          uint32_t first, uint32_t n_pos, float scale, float *out)
{
    attend(KERN_KV_F16, q, k, v, head_dim, first, n_pos, scale, out);
}

void kern_attend_f32_avx2(const float *q, const void *k, const void *v, uint32_t head_dim,
                          uint32_t first, uint32_t n_pos, float scale, float *out)
{
    attend(KERN_KV_F32, q, k, v, head_dim, first, n_pos, scale, out);
}
