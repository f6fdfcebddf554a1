/* Products with the types of 256-column super-blocks by smmla, from two rows of x on. Q6_K has
 * two sums a block, as its scales are for 16 columns. */
#include "kernels/neon-i8mm/dots.h"

MATMUL_BLOCKS(KERN_Q4_K, q4_k_neon_i8mm_8x)
MATMUL_BLOCKS(KERN_Q5_K, q5_k_neon_i8mm_8x)
MATMUL_BLOCKS(KERN_Q6_K, q6_k_neon_i8mm_8x)
