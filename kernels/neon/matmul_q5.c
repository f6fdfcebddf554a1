/* Products with the 5-bit types of 32-column blocks. A byte is 0..31, and an int16 lane
 * just holds a block; Q5_0's offset is taken off by the sums of x. */
#include "kernels/neon/dots.h"

MATMUL_BLOCKS(KERN_Q5_0, q5_0_neon_8x)
MATMUL_BLOCKS(KERN_Q5_1, q5_1_neon_8x)
