/* Activation quantisation, a block of 32 columns in eight registers. cvtps2dq rounds to even as the
 * definition asks; the saturating packs never saturate, since every value is within -127..127. */
#include "kernels/sse4/sse4.h"

/* x [32], q [32], a, s [1], h [2]; m_bits: the largest |x|, as bits. */
static void quantise_block(const float *x, uint32_t m_bits, int8_t *q, float *a, float *s,
                           int16_t *h)
{
    const float m = kern_float(m_bits);
    const __m128 inverse = _mm_set1_ps(127.0f / m);
    *a = m / 127.0f;
    for (unsigned i = 0; i < 2; i++) {
        __m128i v[4];
        for (unsigned j = 0; j < 4; j++)
            v[j] = _mm_cvtps_epi32(_mm_mul_ps(_mm_loadu_ps(x + 16 * i + 4 * j), inverse));
        _mm_storeu_si128((void *)(q + 16 * i),
                         _mm_packs_epi16(_mm_packs_epi32(v[0], v[1]), _mm_packs_epi32(v[2], v[3])));
        __m128i sum = _mm_add_epi32(_mm_add_epi32(v[0], v[1]), _mm_add_epi32(v[2], v[3]));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        h[i] = (int16_t)_mm_cvtsi128_si32(sum);
    }
    *s = *a * (float)(h[0] + h[1]);
}

bool kern_quantise_sse4(const float *x, uint32_t n, int8_t *q, float *a, float *s, int16_t *h)
{
    memset(q, 0, n);
    memset(a, 0, n / KERN_BLOCK * sizeof *a);
    memset(s, 0, n / KERN_BLOCK * sizeof *s);
    memset(h, 0, n / 16 * sizeof *h);
    if (sse4_max_abs(x, n) >= KERN_INF_BITS)
        return false;
    for (size_t b = 0; b < n / KERN_BLOCK; b++) {
        const float *const xb = x + b * KERN_BLOCK;
        const uint32_t m_bits = sse4_max_abs(xb, KERN_BLOCK);
        if (m_bits >= KERN_TINY_BITS)
            quantise_block(xb, m_bits, q + b * KERN_BLOCK, a + b, s + b, h + 2 * b);
    }
    return true;
}
