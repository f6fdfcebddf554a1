/* The gated activation with GELU in its tanh form, eight at a time, with the products in the order
 * of the definition; the walk is avx2_gated. */
#include "kernels/avx2/avx2.h"

KERN_ALWAYS_INLINE __m256 gelu(__m256 x)
{
    const __m256 cubic = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.044715f), x), x);
    const __m256 z = _mm256_mul_ps(_mm256_set1_ps(0.797884561f), _mm256_fmadd_ps(cubic, x, x));
    const __m256 e = avx2_exp(_mm256_mul_ps(_mm256_set1_ps(-2.0f), z));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

void kern_gelu_mul_avx2(const float *gate, const float *up, uint32_t n, float *y)
{
    avx2_gated(gelu, gate, up, n, y);
}
