/* Activation quantisation, a block of 32 columns in two registers. vcvtps2dq rounds to even as the
 * definition asks, and the narrowing never cuts anything off, since every value is within
 * -127..127. Whether all elements are finite is seen block by block on the largest magnitude's bits;
 * where one is not, everything written so far is taken back. */
#include "kernels/avx512/avx512.h"

/* x [32], q [32], h [2]; m_bits: the largest |x|, as bits. */
KERN_ALWAYS_INLINE void quantise_block(__m512 x0, __m512 x1, uint32_t m_bits, int8_t *q, float *a,
                                       float *s, int16_t *h)
{
    const float m = kern_float(m_bits);
    const __m512 inverse = _mm512_set1_ps(127.0f / m);
    const __m512i v0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
    const __m512i v1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
    const int sum0 = _mm512_reduce_add_epi32(v0), sum1 = _mm512_reduce_add_epi32(v1);

    _mm_storeu_si128((void *)q, _mm512_cvtepi32_epi8(v0));
    _mm_storeu_si128((void *)(q + 16), _mm512_cvtepi32_epi8(v1));
    *a = m / 127.0f;
    *s = *a * (float)(sum0 + sum1);
    h[0] = (int16_t)sum0;
    h[1] = (int16_t)sum1;
}

bool kern_quantise_avx512(const float *x, uint32_t n, int8_t *q, float *a, float *s, int16_t *h)
{
    for (size_t b = 0; b < n / KERN_BLOCK; b++) {
        const __m512 x0 = _mm512_loadu_ps(x + b * KERN_BLOCK);
        const __m512 x1 = _mm512_loadu_ps(x + b * KERN_BLOCK + 16);
        const uint32_t m_bits = (uint32_t)_mm512_reduce_max_epi32(
            _mm512_max_epi32(avx512_abs_bits(x0), avx512_abs_bits(x1)));
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
            quantise_block(x0, x1, m_bits, q + b * KERN_BLOCK, a + b, s + b, h + 2 * b);
        }
    }
    return true;
}
