/* The gated activation with GELU in its tanh form, four at a time, with the products in the order
 * of the definition; the walk is sse4_gated. */
#include "kernels/sse4/sse4.h"

KERN_ALWAYS_INLINE __m128 gelu(__m128 x)
{
    const __m128 cubic = _mm_mul_ps(_mm_mul_ps(_mm_set1_ps(0.044715f), x), x);
    const __m128 z = _mm_mul_ps(_mm_set1_ps(0.797884561f), sse4_fma(cubic, x, x));
    const __m128 e = sse4_exp(_mm_mul_ps(_mm_set1_ps(-2.0f), z));
    return _mm_div_ps(x, _mm_add_ps(_mm_set1_ps(1.0f), e));
}

void kern_gelu_mul_sse4(const float *gate, const float *up, uint32_t n, float *y)
{
    sse4_gated(gelu, gate, up, n, y);
}
