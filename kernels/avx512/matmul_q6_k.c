/* Products with Q6_K weights: two integer sums a block, since sixteen columns share a scale, which
 * starts at -32 times the sum of their activations. Both sums times their scales, and the sum of
 * the two, are integers below 2^24, so they are made in floats without rounding. The walk and the
 * float part are in blocks.h. */
#include "kernels/internal.h"

enum { HEAD = KERN_Q6_K_HEAD, SCALES = KERN_Q6_K_SCALES, QUANTS = KERN_Q6_K_QUANTS };
#define FORM   FORM_SUPER_HALF
#define OFFSET 32
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/nibbles.h"

KERN_ALWAYS_INLINE void unpack(const uint8_t *p, __m512i w[8])
{
    const __m512i bits = _mm512_set1_epi8(0x30);
    nibbles_low(p, w);
    AVX512_UNROLL
    for (unsigned half = 0; half < 2; half++) {
        const __m512i v = _mm512_loadu_si512(p + 256 + 64 * half);
        w[2 * half] = nibbles_with(w[2 * half], _mm512_slli_epi16(v, 4), bits);
        w[2 * half + 1] = nibbles_with(w[2 * half + 1], _mm512_slli_epi16(v, 2), bits);
        w[4 + 2 * half] = nibbles_with(w[4 + 2 * half], v, bits);
        w[5 + 2 * half] = nibbles_with(w[5 + 2 * half], _mm512_srli_epi16(v, 2), bits);
    }
}

SINK_KERNELS(product, kern_matmul_q6_k_avx512_4x, kern_matmul_sum_q6_k_avx512_4x)
