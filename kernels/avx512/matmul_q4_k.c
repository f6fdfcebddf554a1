/* Products with Q4_K weights: d * sc times a nibble, minus dmin * m, with d and dmin of a whole
 * super-block. (float)I * sc is exact. The walk and the float part are in blocks.h. */
#include "kernels/internal.h"

enum { HEAD = KERN_Q4_K_HEAD, SCALES = KERN_Q4_K_SCALES, QUANTS = KERN_Q4_K_QUANTS };
#define FORM   FORM_SUPER_MIN
#define OFFSET 0
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/nibbles.h"

KERN_ALWAYS_INLINE void unpack(const uint8_t *p, __m512i w[8])
{
    nibbles_low(p, w);
}

SINK_KERNELS(product, kern_matmul_q4_k_avx512_4x, kern_matmul_sum_q4_k_avx512_4x)
