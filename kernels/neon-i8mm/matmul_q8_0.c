/* Products with Q8_0 weights by smmla, from two rows of x on. */
#include "kernels/neon-i8mm/dots.h"

MATMUL_BLOCKS(KERN_Q8_0, q8_0_neon_i8mm_8x)
