/* What blocks.h asks of this set: every row of x by sdot, as weights and x come. Private to
 * kernels/neon-dotprod/. */
#ifndef KERNELS_NEON_DOTPROD_DOTS_H
#define KERNELS_NEON_DOTPROD_DOTS_H

#include "kernels/neon-dotprod/sdot.h"

KERN_ALWAYS_INLINE void blocks_prepare(const struct rows *x, unsigned n_x, size_t n_blocks,
                                       struct scratch *scratch)
{
    (void)x, (void)n_x, (void)n_blocks, (void)scratch;
}

KERN_ALWAYS_INLINE void blocks_arrange(unsigned n_x, int8x16_t w[8])
{
    (void)n_x, (void)w;
}

KERN_ALWAYS_INLINE void blocks_dot(enum kern_type type, unsigned step, const int8x16_t w[8],
                                   const struct rows *x, const struct scratch *scratch, unsigned i,
                                   size_t b, int32x4_t dot[2][2])
{
    NEON_UNROLL
    for (unsigned k = 0; k < step; k++)
        dot_row(type, w, x, scratch, i + k, b, dot[k]);
}

#endif
