/* Products with F32, F16 and BF16 weights: a lane is an output row, so each lane runs the
 * definition's chain, fused multiply-add by column, and nothing is summed across lanes. One chain
 * waits four or five cycles for each step; to keep the multipliers busy several independent ones
 * run side by side: four rows of x (so that a weight is loaded once for four), or, with one row,
 * two groups. */
#include "kernels/avx2/avx2.h"

/* Eight weights of column c, half h (rows 8h..8h+7), of a group [n_cols][16]. */
KERN_ALWAYS_INLINE __m256 load(enum kern_type type, const uint8_t *group, size_t c, unsigned h)
{
    const size_t i = c * KERN_GROUP + h * 8;
    if (type == KERN_F32)
        return _mm256_loadu_ps((const float *)(const void *)group + i);
    if (type == KERN_F16)
        return avx2_load_f16(group + i * 2);
    const __m128i half = _mm_loadu_si128((const void *)(group + i * 2));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* n_g groups from `group` (group_bytes apart) times n_x rows of x; y: [n_x][16 * n_g]. The counts
 * are constants where this is inlined, and the arrays become registers. */
KERN_ALWAYS_INLINE void tile(enum kern_type type, unsigned n_g, unsigned n_x, const uint8_t *group,
                             size_t group_bytes, size_t n_cols, const float *x, size_t x_stride,
                             float *y, size_t y_stride)
{
    __m256 u[4][2][2];
    AVX2_UNROLL
    for (unsigned j = 0; j < n_g * n_x; j++)
        u[j / n_g][j % n_g][0] = u[j / n_g][j % n_g][1] = _mm256_setzero_ps();
    for (size_t c0 = 0; c0 < n_cols; c0 += KERN_SEGMENT) {
        const size_t c1 = kern_min_size(n_cols, c0 + KERN_SEGMENT);
        __m256 t[4][2][2];
        AVX2_UNROLL
        for (unsigned j = 0; j < n_g * n_x; j++)
            t[j / n_g][j % n_g][0] = t[j / n_g][j % n_g][1] = _mm256_setzero_ps();
        for (size_t c = c0; c < c1; c++) {
            AVX2_UNROLL
            for (unsigned g = 0; g < n_g; g++) {
                const __m256 w0 = load(type, group + g * group_bytes, c, 0);
                const __m256 w1 = load(type, group + g * group_bytes, c, 1);
                AVX2_UNROLL
                for (unsigned i = 0; i < n_x; i++) {
                    const __m256 xc = _mm256_broadcast_ss(x + i * x_stride + c);
                    t[i][g][0] = _mm256_fmadd_ps(w0, xc, t[i][g][0]);
                    t[i][g][1] = _mm256_fmadd_ps(w1, xc, t[i][g][1]);
                }
            }
        }
        AVX2_UNROLL
        for (unsigned j = 0; j < n_g * n_x; j++) {
            __m256 *const uj = u[j / n_g][j % n_g], *const tj = t[j / n_g][j % n_g];
            uj[0] = _mm256_add_ps(uj[0], tj[0]);
            uj[1] = _mm256_add_ps(uj[1], tj[1]);
        }
    }
    AVX2_UNROLL
    for (unsigned j = 0; j < n_g * n_x; j++) {
        float *const row = y + j / n_g * y_stride + j % n_g * KERN_GROUP;
        _mm256_storeu_ps(row, u[j / n_g][j % n_g][0]);
        _mm256_storeu_ps(row + 8, u[j / n_g][j % n_g][1]);
    }
}

KERN_ALWAYS_INLINE void matmul(enum kern_type type, const struct kern_matrix *w, uint32_t group0,
                               uint32_t group1, const struct kern_act *x, uint32_t n_x, float *y,
                               size_t y_stride)
{
    const size_t n_cols = w->n_cols, stride = x->f_stride;
    const size_t bytes = n_cols * KERN_GROUP * (type == KERN_F32 ? 4 : 2);
    size_t g = group0;

    if (n_x == 1)
        for (; g + 2 <= group1; g += 2)
            tile(type, 2, 1, w->quants + g * bytes, bytes, n_cols, x->f, stride, y + g * KERN_GROUP,
                 y_stride);
    for (; g < group1; g++) {
        const uint8_t *group = w->quants + g * bytes;
        const float *xt = x->f;
        float *yt = y + g * KERN_GROUP;
        size_t left = n_x;
        for (; left >= 4; left -= 4, xt += 4 * stride, yt += 4 * y_stride)
            tile(type, 1, 4, group, bytes, n_cols, xt, stride, yt, y_stride);
        if (left == 3)
            tile(type, 1, 3, group, bytes, n_cols, xt, stride, yt, y_stride);
        else if (left == 2)
            tile(type, 1, 2, group, bytes, n_cols, xt, stride, yt, y_stride);
        else if (left == 1)
            tile(type, 1, 1, group, bytes, n_cols, xt, stride, yt, y_stride);
    }
}

void kern_matmul_f32_avx2_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                             const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_F32, w, group0, group1, x, n_x, y, y_stride);
}

void kern_matmul_f16_avx2_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                             const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_F16, w, group0, group1, x, n_x, y, y_stride);
}

void kern_matmul_bf16_avx2_4x(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                              const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)
{
    matmul(KERN_BF16, w, group0, group1, x, n_x, y, y_stride);
}
