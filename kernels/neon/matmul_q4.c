/* Products with the 4-bit types of 32-column blocks. Nibbles are multiplied as 0..15 and the
 * offset of Q4_0 is taken off by the sums of x, so that an int16 lane holds a whole block; IQ4_NL
 * looks its bytes up in a register and is added as Q8_0 is. */
#include "kernels/neon/dots.h"

MATMUL_BLOCKS(KERN_Q4_0, q4_0_neon_8x)
MATMUL_BLOCKS(KERN_Q4_1, q4_1_neon_8x)
MATMUL_BLOCKS(KERN_IQ4_NL, iq4_nl_neon_8x)
