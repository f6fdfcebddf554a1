/* Products with Q5_0, Q5_1 and Q5_K weights: as with four bits (matmul_q4.c), the fifth bit put in
 * from its own 64 bytes, where bit k of a byte belongs to quarter k of the block. A pair of
 * products is at most 2 * 31 * 127 = 7874, so four steps fit int16 (31496) and a block is widened
 * in two parts. */
#include "kernels/avx2/blocks.h"

KERN_ALWAYS_INLINE __m256i codes(enum kern_type type, const uint8_t *w, unsigned k, unsigned half)
{
    (void)type;
    const __m256i both = _mm256_loadu_si256((const void *)(w + k % 4 * 64 + 32 * half));
    const __m256i fifth = _mm256_loadu_si256((const void *)(w + 256 + 32 * half));
    const __m256i at4 =
        k < 4 ? _mm256_slli_epi16(fifth, 4 - (int)k % 4) : _mm256_srli_epi16(fifth, (int)k % 4);
    return _mm256_or_si256(
        _mm256_and_si256(k < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15)),
        _mm256_and_si256(at4, _mm256_set1_epi8(16)));
}

KERN_ALWAYS_INLINE void block_dots(enum kern_type type, bool wide, unsigned n_x, struct block w,
                                   const struct rows *x, __m256i dot[TILE][2])
{
    AVX2_UNROLL
    for (unsigned part = 0; part < 2; part++) {
        __m256i acc[TILE][2];
        sum_steps(type, wide, n_x, 4 * part, 4 * part + 4, w, x, acc);
        AVX2_UNROLL
        for (unsigned half = 0; half < 2; half++) {
            const __m256i by =
                is_super(type) ? scale_sc(type, wide, w, 0, half) : _mm256_set1_epi16(1);
            AVX2_UNROLL
            for (unsigned i = 0; i < n_x; i++) {
                const __m256i sum = _mm256_madd_epi16(acc[i][half], by);
                dot[i][half] = part == 0 ? sum : avx2_add32(dot[i][half], sum);
            }
        }
    }
    if (type == KERN_Q5_0)
        take_offset(n_x, 16, x, dot);
}

BLOCKS_KERNELS(KERN_Q5_0, q5_0)
BLOCKS_KERNELS(KERN_Q5_1, q5_1)
BLOCKS_KERNELS(KERN_Q5_K, q5_k)
