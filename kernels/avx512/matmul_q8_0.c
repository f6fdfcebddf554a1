/* Products with Q8_0 weights. vpdpbusd multiplies unsigned by signed bytes: a weight w is read as
 * w + 128, which is its byte with the top bit flipped, and 128 times the sum of the activations is
 * taken off in integers. The walk and the float part are in blocks.h. */
#include "kernels/internal.h"

enum { HEAD = KERN_Q8_0_HEAD, SCALES = KERN_Q8_0_SCALES, QUANTS = KERN_Q8_0_QUANTS };
#define FORM   FORM_SCALE
#define OFFSET 128
#include "kernels/avx512/blocks.h"

KERN_ALWAYS_INLINE void unpack(const uint8_t *p, __m512i w[8])
{
    const __m512i top = _mm512_set1_epi8(-128);
    AVX512_UNROLL
    for (unsigned k = 0; k < 8; k++)
        w[k] = _mm512_xor_si512(_mm512_loadu_si512(p + 64 * k), top);
}

SINK_KERNELS(product, kern_matmul_q8_0_avx512_4x, kern_matmul_sum_q8_0_avx512_4x)
