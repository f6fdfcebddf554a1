/* Products with Q6_K weights. Codes are 0..63, two products at most 2 * 63 * 127 = 16002, so two
 * steps fit int16 (32004); each pair of steps belongs to one 16-column half of the block and is
 * widened by a multiply with that half's factor. The offset of 32 is taken off all at once: 32 *
 * (sc0 * h0 + sc1 * h1) is one multiply of int16 pairs, since 32 * sc fits. The 8 rows of a
 * register are finished before the next 8, so that the int32 sums of a tile stay in registers. */
#include "kernels/avx2/blocks.h"

KERN_ALWAYS_INLINE __m256i codes(enum kern_type type, const uint8_t *w, unsigned k, unsigned half)
{
    (void)type;
    const __m256i both = _mm256_loadu_si256((const void *)(w + k % 4 * 64 + 32 * half));
    const __m256i upper = _mm256_loadu_si256((const void *)(w + 256 + k % 4 / 2 * 64 + 32 * half));
    const unsigned at = k % 2 * 2 + k / 4 * 4; /* first of its two bits */
    const __m256i at4 =
        at < 4 ? _mm256_slli_epi16(upper, 4 - (int)at % 4) : _mm256_srli_epi16(upper, (int)at % 4);
    return _mm256_or_si256(
        _mm256_and_si256(k < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15)),
        _mm256_and_si256(at4, _mm256_set1_epi8(48)));
}

KERN_ALWAYS_INLINE void block_dots(enum kern_type type, bool wide, unsigned n_x, struct block w,
                                   const struct rows *x, __m256i dot[TILE][2])
{
    AVX2_UNROLL
    for (unsigned half = 0; half < 2; half++) {
        const __m256i sc[2] = {scale_sc(type, wide, w, 0, half), scale_sc(type, wide, w, 1, half)};
        /* A pointer of its own for each half: else the compiler keeps every broadcast of the first
         * for the second, in memory, and stores more than it computes. */
        const int8_t *first = x->q;
        if (n_x > 2)
            __asm__ volatile("" : "+r"(first));
        AVX2_UNROLL
        for (unsigned j = 0; j < 4; j++) { /* quarters 0 1, 4 5, 2 3, 6 7 */
            const unsigned k = j % 2 * 4 + j / 2 * 2;
            const __m256i w0 = block_codes(type, wide, w, k, half);
            const __m256i w1 = block_codes(type, wide, w, k + 1, half);
            AVX2_UNROLL
            for (unsigned i = 0; i < n_x; i++) {
                const int8_t *const q = first + i * x->q_stride + 4 * k;
                const __m256i sum =
                    _mm256_madd_epi16(avx2_add16(_mm256_maddubs_epi16(w0, four(q)),
                                                 _mm256_maddubs_epi16(w1, four(q + 4))),
                                      sc[j % 2]);
                dot[i][half] = j == 0 ? sum : avx2_add32(dot[i][half], sum);
            }
        }
        const __m256i by =
            _mm256_slli_epi16(_mm256_blend_epi16(sc[0], sc[1], 0xaa), 5); /* 32 * (sc0, sc1) */
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++)
            dot[i][half] =
                _mm256_sub_epi32(dot[i][half], _mm256_madd_epi16(four(x->h + i * x->h_stride), by));
    }
}

BLOCKS_KERNELS(KERN_Q6_K, q6_k)
