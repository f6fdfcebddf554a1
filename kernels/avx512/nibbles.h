/* Unpacking of the types with four low bits a weight: a granule of 64 bytes gives 16 rows times four
 * columns twice, from the low nibbles and from the high ones, 16 columns further; what further bits
 * a type has are put above them. Private to kernels/avx512/. */
#ifndef KERNELS_AVX512_NIBBLES_H
#define KERNELS_AVX512_NIBBLES_H

#include "kernels/avx512/avx512.h"

/* w[k] = low four bits of columns 4k .. 4k+3 of the block at p. */
KERN_ALWAYS_INLINE void nibbles_low(const uint8_t *p, __m512i w[8])
{
    const __m512i mask = _mm512_set1_epi8(15);
    AVX512_UNROLL
    for (unsigned k = 0; k < 4; k++) {
        const __m512i v = _mm512_loadu_si512(p + 64 * k);
        w[k] = _mm512_and_si512(v, mask);
        w[4 + k] = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
    }
}

/* w | (bits & mask), one instruction. */
KERN_ALWAYS_INLINE __m512i nibbles_with(__m512i w, __m512i bits, __m512i mask)
{
    return _mm512_ternarylogic_epi32(w, bits, mask, 0xf8);
}

/* The same with the fifth bits, which lie behind: bit k of a byte is that of w[k]. */
KERN_ALWAYS_INLINE void nibbles_five(const uint8_t *p, __m512i w[8])
{
    const __m512i bit = _mm512_set1_epi8(16), v = _mm512_loadu_si512(p + 256);
    nibbles_low(p, w);
    w[0] = nibbles_with(w[0], _mm512_slli_epi16(v, 4), bit);
    w[1] = nibbles_with(w[1], _mm512_slli_epi16(v, 3), bit);
    w[2] = nibbles_with(w[2], _mm512_slli_epi16(v, 2), bit);
    w[3] = nibbles_with(w[3], _mm512_slli_epi16(v, 1), bit);
    w[4] = nibbles_with(w[4], v, bit);
    w[5] = nibbles_with(w[5], _mm512_srli_epi16(v, 1), bit);
    w[6] = nibbles_with(w[6], _mm512_srli_epi16(v, 2), bit);
    w[7] = nibbles_with(w[7], _mm512_srli_epi16(v, 3), bit);
}

#endif
