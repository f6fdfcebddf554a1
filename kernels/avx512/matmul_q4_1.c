/* Products with Q4_1 weights: d times a nibble, plus m; the latter meets the sum of a block's
 * activations as a float chain of its own. The walk and the float part are in blocks.h. */
#include "kernels/internal.h"

enum { HEAD = KERN_Q4_1_HEAD, SCALES = KERN_Q4_1_SCALES, QUANTS = KERN_Q4_1_QUANTS };
#define FORM   FORM_SCALE_MIN
#define OFFSET 0
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/nibbles.h"

KERN_ALWAYS_INLINE void unpack(const uint8_t *p, __m512i w[8])
{
    nibbles_low(p, w);
}

SINK_KERNELS(product, kern_matmul_q4_1_avx512_4x, kern_matmul_sum_q4_1_avx512_4x)
