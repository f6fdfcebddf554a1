/* The gated activation with SiLU, eight at a time; the walk is avx2_gated. */
#include "kernels/avx2/avx2.h"

KERN_ALWAYS_INLINE __m256 silu(__m256 x)
{
    const __m256 negated = _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), avx2_exp(negated)));
}

void kern_silu_mul_avx2(const float *gate, const float *up, uint32_t n, float *y)
{
    avx2_gated(silu, gate, up, n, y);
}
