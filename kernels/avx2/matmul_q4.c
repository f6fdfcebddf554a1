/* Products with Q4_0, Q4_1 and Q4_K weights. A granule of 64 bytes gives 16 rows times four columns
 * twice: from the low nibbles and from the high ones, 16 columns further. Nibbles are unsigned,
 * which is what the multiply wants; a pair of products is at most 2 * 15 * 127 = 3810, so all eight
 * steps of a block stay within int16 (30480) and are widened once, by a multiply with ones, or with
 * the block's factor for Q4_K. The offset of Q4_0 is taken off through the sum of the block's
 * activations, in integers. The walk and the float part are in blocks.h. */
#include "kernels/avx2/blocks.h"

KERN_ALWAYS_INLINE __m256i codes(enum kern_type type, const uint8_t *w, unsigned k, unsigned half)
{
    (void)type;
    const __m256i both = _mm256_loadu_si256((const void *)(w + k % 4 * 64 + 32 * half));
    return _mm256_and_si256(k < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
}

KERN_ALWAYS_INLINE void block_dots(enum kern_type type, bool wide, unsigned n_x, struct block w,
                                   const struct rows *x, __m256i dot[TILE][2])
{
    sum_steps(type, wide, n_x, 0, 8, w, x, dot);
    AVX2_UNROLL
    for (unsigned half = 0; half < 2; half++) {
        const __m256i by = is_super(type) ? scale_sc(type, wide, w, 0, half) : _mm256_set1_epi16(1);
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++)
            dot[i][half] = _mm256_madd_epi16(dot[i][half], by);
    }
    if (type == KERN_Q4_0)
        take_offset(n_x, 8, x, dot);
}

BLOCKS_KERNELS(KERN_Q4_0, q4_0)
BLOCKS_KERNELS(KERN_Q4_1, q4_1)
BLOCKS_KERNELS(KERN_Q4_K, q4_k)
