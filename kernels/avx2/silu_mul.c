/* Gated activation, eight at a time; the tail goes through the same code in a padded register. */
#include "kernels/avx2/avx2.h"

KERN_ALWAYS_INLINE __m256 silu_mul(__m256 gate, __m256 up)
{
    const __m256 negated = _mm256_xor_ps(gate, _mm256_set1_ps(-0.0f));
    const __m256 below = _mm256_add_ps(_mm256_set1_ps(1.0f), avx2_exp(negated));
    return _mm256_mul_ps(_mm256_div_ps(gate, below), up);
}

void kern_silu_mul_avx2(const float *gate, const float *up, uint32_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, silu_mul(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i < n) {
        float g[8] = {0}, u[8] = {0};
        memcpy(g, gate + i, (n - i) * sizeof *g);
        memcpy(u, up + i, (n - i) * sizeof *u);
        _mm256_storeu_ps(g, silu_mul(_mm256_loadu_ps(g), _mm256_loadu_ps(u)));
        memcpy(y + i, g, (n - i) * sizeof *g);
    }
}
