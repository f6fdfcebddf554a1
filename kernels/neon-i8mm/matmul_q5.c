/* Products with the 5-bit types of 32-column blocks by smmla, from two rows of x on. */
#include "kernels/neon-i8mm/dots.h"

MATMUL_BLOCKS(KERN_Q5_0, q5_0_neon_i8mm_8x)
MATMUL_BLOCKS(KERN_Q5_1, q5_1_neon_i8mm_8x)
