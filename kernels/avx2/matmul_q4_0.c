/* Products with Q4_0 weights. A granule of 64 bytes gives 16 rows times four columns twice: from
 * the low nibbles and from the high ones, 16 columns further. Nibbles are unsigned, which is what
 * the multiply wants; a pair of products is at most 2 * 15 * 127 = 3810, so all eight steps of a
 * block stay within int16 (30480) and are widened once. The offset of 8 is taken off through the
 * sum of the block's activations, in integers. The walk and the float part are in blocks.h. */
#include "kernels/avx2/blocks.h"

KERN_ALWAYS_INLINE void block_dots(unsigned n_x, const uint8_t *w, const struct rows *x, size_t b,
                                   __m256i dot[TILE][2])
{
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    AVX2_UNROLL
    for (unsigned g = 0; g < 4; g++) {
        const __m256i w0 = _mm256_loadu_si256((const void *)(w + 64 * g));
        const __m256i w1 = _mm256_loadu_si256((const void *)(w + 64 * g + 32));
        const __m256i w0_low = _mm256_and_si256(w0, low), w1_low = _mm256_and_si256(w1, low);
        const __m256i w0_high = _mm256_and_si256(_mm256_srli_epi16(w0, 4), low);
        const __m256i w1_high = _mm256_and_si256(_mm256_srli_epi16(w1, 4), low);
        avx2_ahead(w + 64 * g, AHEAD_BYTES);
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const int8_t *q = x->q + i * x->stride + b * KERN_BLOCK + 4 * g;
            const __m256i x_low = four(q), x_high = four(q + 16);
            const __m256i p0 = _mm256_add_epi16(_mm256_maddubs_epi16(w0_low, x_low),
                                                _mm256_maddubs_epi16(w0_high, x_high));
            const __m256i p1 = _mm256_add_epi16(_mm256_maddubs_epi16(w1_low, x_low),
                                                _mm256_maddubs_epi16(w1_high, x_high));
            dot[i][0] = g == 0 ? p0 : _mm256_add_epi16(dot[i][0], p0);
            dot[i][1] = g == 0 ? p1 : _mm256_add_epi16(dot[i][1], p1);
        }
    }
    AVX2_UNROLL
    for (unsigned i = 0; i < n_x; i++) {
        const int16_t *half = x->h + i * (x->stride / 16) + 2 * b;
        const __m256i offset = _mm256_set1_epi32(8 * (half[0] + half[1]));
        dot[i][0] = _mm256_sub_epi32(_mm256_madd_epi16(dot[i][0], ones), offset);
        dot[i][1] = _mm256_sub_epi32(_mm256_madd_epi16(dot[i][1], ones), offset);
    }
}

void kern_matmul_q4_0_avx2_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul_blocks(KERN_Q4_0_BLOCK_BYTES, w, group0, group1, x, n_x, y, y_stride);
}
