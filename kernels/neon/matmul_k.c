/* Products with the types of 256-column super-blocks. The products with a block's scales
 * are exact, in integers or in floats; d and dmin are applied once a segment. */
#include "kernels/neon/dots.h"

MATMUL_BLOCKS(KERN_Q4_K, q4_k_neon_8x)
MATMUL_BLOCKS(KERN_Q5_K, q5_k_neon_8x)
MATMUL_BLOCKS(KERN_Q6_K, q6_k_neon_8x)
