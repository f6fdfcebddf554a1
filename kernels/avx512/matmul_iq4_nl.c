/* Products with IQ4_NL weights: a nibble is looked up among sixteen levels, which are stored here
 * 128 higher so as to be unsigned; 128 times the sum of the activations is taken off in integers.
 * The walk and the float part are in blocks.h. */
#include "kernels/internal.h"

enum { HEAD = KERN_IQ4_NL_HEAD, SCALES = KERN_IQ4_NL_SCALES, QUANTS = KERN_IQ4_NL_QUANTS };
#define FORM   FORM_SCALE
#define OFFSET 128
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/nibbles.h"

KERN_ALWAYS_INLINE void unpack(const uint8_t *p, __m512i w[8])
{
    const __m128i levels =
        _mm_xor_si128(_mm_loadu_si128((const void *)kern_iq4nl), _mm_set1_epi8(-128));
    nibbles_low(p, w);
    AVX512_UNROLL
    for (unsigned k = 0; k < 8; k++)
        w[k] = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), w[k]);
}

SINK_KERNELS(product, kern_matmul_iq4_nl_avx512_4x, kern_matmul_sum_iq4_nl_avx512_4x)
