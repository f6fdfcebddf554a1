/* Activation quantisation, a block of 32 columns in four registers. cvtps2dq rounds to even as the
 * definition asks; the saturating packs never saturate, since every value is within -127..127. */
#include "kernels/avx2/avx2.h"

/* x [32], q [32], a, s [1], h [2]; m_bits: the largest |x|, as bits. */
static void quantise_block(const float *x, uint32_t m_bits, int8_t *q, float *a, float *s,
                           int16_t *h)
{
    const float m = kern_float(m_bits);
    const __m256 inverse = _mm256_set1_ps(127.0f / m);
    __m256i v[4];
    for (unsigned i = 0; i < 4; i++)
        v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
    *a = m / 127.0f;

    /* The packs work within 128-bit halves; the permutation puts runs of four back in order. */
    const __m256i packed =
        _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((void *)q, _mm256_permutevar8x32_epi32(packed, order));

    for (unsigned i = 0; i < 2; i++) {
        const __m256i sum8 = _mm256_add_epi32(v[2 * i], v[2 * i + 1]);
        __m128i sum =
            _mm_add_epi32(_mm256_castsi256_si128(sum8), _mm256_extracti128_si256(sum8, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        h[i] = (int16_t)_mm_cvtsi128_si32(sum);
    }
    *s = *a * (float)(h[0] + h[1]);
}

bool kern_quantise_avx2(const float *x, uint32_t n, int8_t *q, float *a, float *s, int16_t *h)
{
    for (size_t b = 0; b < n / KERN_BLOCK; b++) {
        const uint32_t m_bits = avx2_max_abs(x + b * KERN_BLOCK, KERN_BLOCK);
        if (m_bits >= KERN_INF_BITS) {
            memset(q, 0, n);
            memset(a, 0, n / KERN_BLOCK * sizeof *a);
            memset(s, 0, n / KERN_BLOCK * sizeof *s);
            memset(h, 0, n / 16 * sizeof *h);
            return false;
        }
        if (m_bits < KERN_TINY_BITS) {
            memset(q + b * KERN_BLOCK, 0, KERN_BLOCK);
            a[b] = s[b] = 0.0f;
            h[2 * b] = h[2 * b + 1] = 0;
        } else {
            quantise_block(x + b * KERN_BLOCK, m_bits, q + b * KERN_BLOCK, a + b, s + b, h + 2 * b);
        }
    }
    return true;
}
