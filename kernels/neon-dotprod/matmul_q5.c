/* Products with the 5-bit types of 32-column blocks by sdot: the fifth bits are inserted above
 * the nibbles, which costs more than the products. */
#include "kernels/neon-dotprod/dots.h"

MATMUL_BLOCKS(KERN_Q5_0, q5_0_neon_dotprod_8x)
MATMUL_BLOCKS(KERN_Q5_1, q5_1_neon_dotprod_8x)
