/* Products with the 4-bit types of 32-column blocks by sdot. The lanes begin at minus 8 times
 * the sum of x for Q4_0; IQ4_NL looks its bytes up in a register. */
#include "kernels/neon-dotprod/dots.h"

MATMUL_BLOCKS(KERN_Q4_0, q4_0_neon_dotprod_8x)
MATMUL_BLOCKS(KERN_Q4_1, q4_1_neon_dotprod_8x)
MATMUL_BLOCKS(KERN_IQ4_NL, iq4_nl_neon_dotprod_8x)
