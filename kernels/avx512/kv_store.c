/* KV rows. The conversion to F16 names its rounding in the instruction and keeps denormals whatever
 * the control register says, so it agrees with the bit formula for every input; the gate comes
 * first, on integers. Of Q8_0 rows the gate is on each block's scale. */
#include "kernels/avx512/avx512.h"

bool kern_kv_store_f16_avx512(const float *x, uint32_t head_dim, void *row)
{
    uint16_t *out = row;
    if (avx512_max_abs(x, head_dim) >= KERN_F16_OVER_BITS) {
        memset(row, 0, head_dim * sizeof *out);
        return false;
    }
    for (size_t i = 0; i < head_dim; i += 16) {
        const __mmask16 there = head_dim - i < 16 ? avx512_first(head_dim - i) : 0xffff;
        const __m512 v = _mm512_maskz_loadu_ps(there, x + i);
        _mm256_mask_storeu_epi16(out + i, there, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    return true;
}

bool kern_kv_store_f32_avx512(const float *x, uint32_t head_dim, void *row)
{
    if (avx512_max_abs(x, head_dim) >= KERN_INF_BITS) {
        memset(row, 0, head_dim * sizeof *x);
        return false;
    }
    memcpy(row, x, head_dim * sizeof *x);
    return true;
}

bool kern_kv_store_q8_0_avx512(const float *x, uint32_t head_dim, void *row)
{
    int8_t *q = row;
    uint8_t *scales = (uint8_t *)row + head_dim;
    for (size_t b = 0; b < head_dim / KERN_BLOCK; b++) {
        const __m512 x0 = _mm512_loadu_ps(x + b * KERN_BLOCK);
        const __m512 x1 = _mm512_loadu_ps(x + b * KERN_BLOCK + 16);
        const uint32_t m_bits = (uint32_t)_mm512_reduce_max_epi32(
            _mm512_max_epi32(avx512_abs_bits(x0), avx512_abs_bits(x1)));
        const float m = kern_float(m_bits), a = m / 127.0f;
        uint16_t d = 0;
        if (m_bits >= KERN_INF_BITS || kern_bits(a) >= KERN_F16_OVER_BITS) {
            memset(row, 0, head_dim + head_dim / KERN_BLOCK * sizeof d);
            return false;
        }
        if (m_bits < KERN_TINY_BITS) {
            memset(q + b * KERN_BLOCK, 0, KERN_BLOCK);
        } else {
            const __m512 inverse = _mm512_set1_ps(127.0f / m);
            const __m512i v0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
            const __m512i v1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
            _mm_storeu_si128((void *)(q + b * KERN_BLOCK), _mm512_cvtepi32_epi8(v0));
            _mm_storeu_si128((void *)(q + b * KERN_BLOCK + 16), _mm512_cvtepi32_epi8(v1));
            d = _cvtss_sh(a, _MM_FROUND_TO_NEAREST_INT);
        }
        memcpy(scales + b * sizeof d, &d, sizeof d);
    }
    return true;
}
