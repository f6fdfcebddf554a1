/* Products with Q8_0 weights by sdot: a granule of the packed layout is an operand as it
 * lies. */
#include "kernels/neon-dotprod/dots.h"

MATMUL_BLOCKS(KERN_Q8_0, q8_0_neon_dotprod_8x)
