/* Products with Q4_0 weights: a nibble n stands for n - 8, and 8 times the sum of the activations is
 * taken off in integers. The walk and the float part are in blocks.h. */
#include "kernels/internal.h"

enum { HEAD = KERN_Q4_0_HEAD, SCALES = KERN_Q4_0_SCALES, QUANTS = KERN_Q4_0_QUANTS };
#define FORM   FORM_SCALE
#define OFFSET 8
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/nibbles.h"

KERN_ALWAYS_INLINE void unpack(const uint8_t *p, __m512i w[8])
{
    nibbles_low(p, w);
}

SINK_KERNELS(product, kern_matmul_q4_0_avx512_4x, kern_matmul_sum_q4_0_avx512_4x)
