/* Products with the 4-bit types of 32-column blocks by smmla, from two rows of x on. */
#include "kernels/neon-i8mm/dots.h"

MATMUL_BLOCKS(KERN_Q4_0, q4_0_neon_i8mm_8x)
MATMUL_BLOCKS(KERN_Q4_1, q4_1_neon_i8mm_8x)
MATMUL_BLOCKS(KERN_IQ4_NL, iq4_nl_neon_i8mm_8x)
