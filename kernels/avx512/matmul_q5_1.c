/* Products with Q5_1 weights: d times a number of five bits, plus m. The walk and the float part are
 * in blocks.h. */
#include "kernels/internal.h"

enum { HEAD = KERN_Q5_1_HEAD, SCALES = KERN_Q5_1_SCALES, QUANTS = KERN_Q5_1_QUANTS };
#define FORM   FORM_SCALE_MIN
#define OFFSET 0
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/nibbles.h"

KERN_ALWAYS_INLINE void unpack(const uint8_t *p, __m512i w[8])
{
    nibbles_five(p, w);
}

SINK_KERNELS(product, kern_matmul_q5_1_avx512_4x, kern_matmul_sum_q5_1_avx512_4x)
