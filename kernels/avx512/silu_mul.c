/* Gated activation, sixteen at a time; the tail is a masked step of the same code. */
#include "kernels/avx512/avx512.h"

void kern_silu_mul_avx512(const float *gate, const float *up, uint32_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 there = n - i < 16 ? avx512_first(n - i) : 0xffff;
        const __m512 g = _mm512_maskz_loadu_ps(there, gate + i);
        const __m512 u = _mm512_maskz_loadu_ps(there, up + i);
        const __m512 negated = _mm512_xor_ps(g, _mm512_set1_ps(-0.0f));
        const __m512 below = _mm512_add_ps(_mm512_set1_ps(1.0f), avx512_exp(negated));
        _mm512_mask_storeu_ps(y + i, there, _mm512_mul_ps(_mm512_div_ps(g, below), u));
    }
}
