/* Products with every type of integer weights. A block is unpacked into plain form once for all
 * rows of x of a strip: codes as signed bytes, offsets taken off, and scales as numbers. From there
 * on one loop serves all types, because the emulated fused steps, not the integers, decide the
 * speed.
 *
 * The multiply takes one unsigned operand: |w| and x with w's sign, which is right because x is
 * never -128; two products are at most 2 * 128 * 127 = 32512, fit int16 and are widened at once. A
 * block's sum is kept for its two 16-column halves, since Q6_K has a factor for each. */
#include "kernels/sse4/product.h"

/* A block in plain form. Lane r of a 16-row array is row r of the group. */
struct plain {
    _Alignas(16) int8_t w[8][64];    /* [quarter of 4 columns][16 rows][4] */
    _Alignas(16) float d[16], m[16]; /* of a block; of Q*_K d is not used */
    _Alignas(16) int32_t sc[2][16];  /* Q*_K: factors of the columns 0..15 and 16..31 */
};

struct segment {
    const uint8_t *head, *scales, *quants;
};

static bool has_min(enum kern_type type)
{
    return type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q4_K || type == KERN_Q5_K;
}

/* ---- unpacking ------------------------------------------------------------------------------ */

/* Upper bits of the codes of quarter k, rows 4j..4j+3, in place above the nibble; w: the block. */
static __m128i upper_bits(enum kern_type type, const uint8_t *w, unsigned k, unsigned j)
{
    const bool six = type == KERN_Q6_K;
    const unsigned at = six ? k % 2 * 2 + k / 4 * 4 : k; /* first of its bits in a byte */
    const uint8_t *const from = w + 256 + (six ? k % 4 / 2 * 64 : 0) + 16 * j;
    const __m128i bits =
        _mm_srl_epi16(_mm_loadu_si128((const void *)from), _mm_cvtsi32_si128((int)at));
    return _mm_slli_epi16(_mm_and_si128(bits, _mm_set1_epi8(six ? 3 : 1)), 4);
}

/* The codes of quarter k, rows 4j..4j+3, as the numbers they stand for. */
static __m128i codes(enum kern_type type, const uint8_t *w, unsigned k, unsigned j)
{
    if (type == KERN_Q8_0)
        return _mm_loadu_si128((const void *)(w + 64 * k + 16 * j));
    const __m128i both = _mm_loadu_si128((const void *)(w + k % 4 * 64 + 16 * j));
    __m128i code = _mm_and_si128(k < 4 ? both : _mm_srli_epi16(both, 4), _mm_set1_epi8(15));
    switch (type) {
    case KERN_IQ4_NL:
        return _mm_shuffle_epi8(_mm_loadu_si128((const void *)kern_iq4nl), code);
    case KERN_Q4_0:
        return _mm_sub_epi8(code, _mm_set1_epi8(8));
    case KERN_Q5_0:
        code = _mm_or_si128(code, upper_bits(type, w, k, j));
        return _mm_sub_epi8(code, _mm_set1_epi8(16));
    case KERN_Q6_K:
        code = _mm_or_si128(code, upper_bits(type, w, k, j));
        return _mm_sub_epi8(code, _mm_set1_epi8(32));
    case KERN_Q5_1:
    case KERN_Q5_K:
        return _mm_or_si128(code, upper_bits(type, w, k, j));
    default:
        return code;
    }
}

/* Block b of a segment. */
static void unpack(enum kern_type type, const struct segment *s, size_t b, struct plain *p)
{
    const struct kern_type_info *const info = kern_type_info(type);
    const uint8_t *const w = s->quants + b * info->quant_bytes;
    const uint8_t *const scales = s->scales + b * info->scale_bytes;

    for (unsigned i = 0; i < 32; i++)
        _mm_store_si128((void *)(p->w[i / 4] + 16 * (i % 4)), codes(type, w, i / 4, i % 4));
    for (unsigned r = 0; r < KERN_GROUP; r += 4) {
        if (!info->super) {
            _mm_store_ps(p->d + r, sse4_load_f16(scales + 2 * r));
            if (has_min(type))
                _mm_store_ps(p->m + r, sse4_load_f16(scales + 32 + 2 * r));
            continue;
        }
        int32_t four[2];
        memcpy(four, scales + r, 4);
        memcpy(four + 1, scales + 16 + r, 4);
        const __m128i bytes0 = _mm_cvtsi32_si128(four[0]), bytes1 = _mm_cvtsi32_si128(four[1]);
        const bool six = type == KERN_Q6_K;
        const __m128i sc0 = six ? _mm_cvtepi8_epi32(bytes0) : _mm_cvtepu8_epi32(bytes0);
        _mm_store_si128((void *)(p->sc[0] + r), sc0);
        _mm_store_si128((void *)(p->sc[1] + r), six ? _mm_cvtepi8_epi32(bytes1) : sc0);
        _mm_store_ps(p->m + r, _mm_cvtepi32_ps(_mm_cvtepu8_epi32(bytes1)));
    }
}

/* ---- one block, one row of x ---------------------------------------------------------------- */

/* sum[j] = exact dot products of quarters [k0, k0 + 4) for rows 4j..4j+3 of the group; q [32]. */
KERN_ALWAYS_INLINE void half_dots(const struct plain *p, const int8_t *q, unsigned k0,
                                  __m128i sum[4])
{
    SSE4_UNROLL
    for (unsigned k = k0; k < k0 + 4; k++) {
        int32_t v;
        memcpy(&v, q + 4 * k, sizeof v);
        const __m128i xs = _mm_set1_epi32(v);
        SSE4_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            const __m128i w = _mm_load_si128((const void *)(p->w[k] + 16 * j));
            const __m128i part = _mm_madd_epi16(
                _mm_maddubs_epi16(_mm_abs_epi8(w), _mm_sign_epi8(xs, w)), _mm_set1_epi16(1));
            sum[j] = k == k0 ? part : _mm_add_epi32(sum[j], part);
        }
    }
}

/* t and tm [16] of one row of x, past one block; q [32], its scale a, and s. */
static void block_step(enum kern_type type, bool super, const struct plain *p, const int8_t *q,
                       float a, float s, float *t, float *tm)
{
    __m128i low[4], high[4];
    half_dots(p, q, 0, low);
    half_dots(p, q, 4, high);
    SSE4_UNROLL
    for (unsigned j = 0; j < 4; j++) {
        __m128 v;
        if (super) {
            const __m128i l =
                _mm_mullo_epi32(low[j], _mm_load_si128((const void *)(p->sc[0] + 4 * j)));
            const __m128i h =
                _mm_mullo_epi32(high[j], _mm_load_si128((const void *)(p->sc[1] + 4 * j)));
            v = _mm_cvtepi32_ps(_mm_add_epi32(l, h));
        } else {
            v = _mm_mul_ps(_mm_cvtepi32_ps(_mm_add_epi32(low[j], high[j])),
                           _mm_load_ps(p->d + 4 * j));
        }
        _mm_store_ps(t + 4 * j, sse4_fma(v, _mm_set1_ps(a), _mm_load_ps(t + 4 * j)));
    }
    if (!has_min(type))
        return;
    SSE4_UNROLL
    for (unsigned j = 0; j < 4; j++)
        _mm_store_ps(tm + 4 * j,
                     sse4_fma(_mm_load_ps(p->m + 4 * j), _mm_set1_ps(s), _mm_load_ps(tm + 4 * j)));
}

/* u [16] after a segment. */
static void segment_end(enum kern_type type, bool super, const uint8_t *head, const float *t,
                        const float *tm, float *u)
{
    SSE4_UNROLL
    for (unsigned j = 0; j < 16; j += 4) {
        __m128 v = _mm_loadu_ps(u + j);
        const __m128 tj = _mm_load_ps(t + j), tmj = _mm_load_ps(tm + j);
        v = super ? sse4_fma(sse4_load_f16(head + 2 * j), tj, v) : _mm_add_ps(v, tj);
        if (has_min(type)) {
            const __m128 minus = _mm_xor_ps(tmj, _mm_set1_ps(-0.0f));
            v = super ? sse4_fma(sse4_load_f16(head + 32 + 2 * j), minus, v) : _mm_add_ps(v, tmj);
        }
        _mm_storeu_ps(u + j, v);
    }
}

/* ---- the walk ------------------------------------------------------------------------------- */

static void blocks_group(const struct kern_matrix *m, const uint8_t *data, const struct kern_act *x,
                         size_t n_x, float *u, size_t u_stride)
{
    const struct kern_type_info *const info = kern_type_info(m->type);
    const size_t n_blocks = m->n_cols / KERN_BLOCK, a_stride = x->q_stride / KERN_BLOCK;
    _Alignas(16) float t[PRODUCT_STRIP][16], tm[PRODUCT_STRIP][16];

    for (size_t i = 0; i < n_x; i++)
        memset(u + i * u_stride, 0, 16 * sizeof *u);
    for (size_t b0 = 0; b0 < n_blocks;) {
        const size_t n = kern_segment_blocks(b0, n_blocks, m->skip);
        const struct segment s = {
            .head = data,
            .scales = data + info->head_bytes,
            .quants = data + KERN_SEGMENT_HEAD(info->head_bytes, info->scale_bytes, n),
        };
        memset(t, 0, n_x * sizeof t[0]);
        memset(tm, 0, n_x * sizeof tm[0]);
        for (size_t b = 0; b < n; b++) {
            struct plain p;
            unpack(m->type, &s, b, &p);
            for (size_t i = 0; i < n_x; i++)
                block_step(m->type, info->super, &p, x->q + i * x->q_stride + (b0 + b) * KERN_BLOCK,
                           x->a[i * a_stride + b0 + b], x->s[i * a_stride + b0 + b], t[i], tm[i]);
        }
        for (size_t i = 0; i < n_x; i++)
            segment_end(m->type, info->super, s.head, t[i], tm[i], u + i * u_stride);
        data = s.quants + n * info->quant_bytes;
        b0 += n;
    }
}

PRODUCT_KERNELS(q8_0, blocks_group)
PRODUCT_KERNELS(q4_0, blocks_group)
PRODUCT_KERNELS(q4_1, blocks_group)
PRODUCT_KERNELS(q5_0, blocks_group)
PRODUCT_KERNELS(q5_1, blocks_group)
PRODUCT_KERNELS(iq4_nl, blocks_group)
PRODUCT_KERNELS(q4_k, blocks_group)
PRODUCT_KERNELS(q5_k, blocks_group)
PRODUCT_KERNELS(q6_k, blocks_group)
