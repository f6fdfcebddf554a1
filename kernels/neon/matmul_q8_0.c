/* Products with Q8_0 weights. Any byte may be -128, so an int16 lane holds two products
 * and is then added to int32. */
#include "kernels/neon/dots.h"

MATMUL_BLOCKS(KERN_Q8_0, q8_0_neon_8x)
