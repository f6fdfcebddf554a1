/* Products with signed bytes: Q8_0, and IQ4_NL, whose nibbles are looked up in a table of such
 * bytes. The multiply takes one unsigned operand: |w| and x with w's sign, which is right because x
 * is never -128. A pair of products is at most 2 * 128 * 127 = 32512 and fits int16; two pairs
 * would not, so every step is widened at once. Splitting the bytes into nibbles of four-bit steps
 * was slower: as many multiplies, and one pass more. Q8_0 has nothing to unpack and is never
 * written out wide. The walk and the float part are in blocks.h. */
#include "kernels/avx2/blocks.h"

KERN_ALWAYS_INLINE __m256i codes(enum kern_type type, const uint8_t *w, unsigned k, unsigned half)
{
    if (type == KERN_Q8_0)
        return _mm256_loadu_si256((const void *)(w + 64 * k + 32 * half));
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)kern_iq4nl));
    const __m256i both = _mm256_loadu_si256((const void *)(w + k % 4 * 64 + 32 * half));
    const __m256i code =
        _mm256_and_si256(k < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
    return _mm256_shuffle_epi8(table, code);
}

KERN_ALWAYS_INLINE void block_dots(enum kern_type type, bool wide, unsigned n_x, struct block w,
                                   const struct rows *x, __m256i dot[TILE][2])
{
    AVX2_UNROLL
    for (unsigned j = 0; j < 16; j++) {
        const unsigned half = j % 2, k = type == KERN_Q8_0 ? j / 2 : j / 2 % 2 * 4 + j / 4;
        const __m256i v = block_codes(type, wide, w, k, half), size = _mm256_abs_epi8(v);
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const __m256i xs = _mm256_sign_epi8(four(x->q + i * x->q_stride + 4 * k), v);
            const __m256i sum =
                _mm256_madd_epi16(_mm256_maddubs_epi16(size, xs), _mm256_set1_epi16(1));
            dot[i][half] = j < 2 ? sum : avx2_add32(dot[i][half], sum);
        }
    }
}

BLOCKS_KERNELS(KERN_Q8_0, q8_0)
BLOCKS_KERNELS(KERN_IQ4_NL, iq4_nl)
