/* Products with Q8_0 weights. One 32-bit lane holds four columns of one row, the granule of the
 * packed layout, so the same four activations are broadcast to all lanes. The multiply takes one
 * unsigned operand: |w| and x with w's sign, which is right because x is never -128; two products
 * are at most 2 * 128 * 127 = 32512 and so fit int16, four would not, hence a widening after each
 * step. The walk and the float part are in blocks.h. */
#include "kernels/avx2/blocks.h"

KERN_ALWAYS_INLINE void block_dots(unsigned n_x, const uint8_t *w, const struct rows *x, size_t b,
                                   __m256i dot[TILE][2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    AVX2_UNROLL
    for (unsigned g = 0; g < 8; g++) { /* granules of 16 rows x 4 columns */
        const __m256i w0 = _mm256_loadu_si256((const void *)(w + 64 * g));
        const __m256i w1 = _mm256_loadu_si256((const void *)(w + 64 * g + 32));
        const __m256i w0_abs = _mm256_abs_epi8(w0), w1_abs = _mm256_abs_epi8(w1);
        avx2_ahead(w + 64 * g, AHEAD_BYTES);
        AVX2_UNROLL
        for (unsigned i = 0; i < n_x; i++) {
            const __m256i xs = four(x->q + i * x->stride + b * KERN_BLOCK + 4 * g);
            const __m256i p0 = _mm256_maddubs_epi16(w0_abs, _mm256_sign_epi8(xs, w0));
            const __m256i p1 = _mm256_maddubs_epi16(w1_abs, _mm256_sign_epi8(xs, w1));
            const __m256i s0 = _mm256_madd_epi16(p0, ones), s1 = _mm256_madd_epi16(p1, ones);
            dot[i][0] = g == 0 ? s0 : _mm256_add_epi32(dot[i][0], s0);
            dot[i][1] = g == 0 ? s1 : _mm256_add_epi32(dot[i][1], s1);
        }
    }
}

void kern_matmul_q8_0_avx2_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul_blocks(KERN_Q8_0_BLOCK_BYTES, w, group0, group1, x, n_x, y, y_stride);
}
