/* Products with F32, F16 and BF16 weights: a lane is an output row, so each lane runs the
 * definition's chain, fused multiply-add by column, and nothing is summed across lanes. One chain
 * waits four or five cycles for each step; to keep the multipliers busy several independent ones
 * run side by side: four rows of x (so that a weight is loaded once for four), or, with one row,
 * two groups. Sums (matmul_sum) take one group at a time: their matrices are a few columns wide. */
#include "kernels/avx2/product.h"

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

/* Ask for column c's weights AHEAD_BYTES further on, once a cache line, if they are the
 * caller's. */
KERN_ALWAYS_INLINE void ahead(enum kern_type type, const uint8_t *group, size_t c,
                              const uint8_t *end)
{
    const uint8_t *const p = group + c * KERN_GROUP * (type == KERN_F32 ? 4 : 2);
    if ((type == KERN_F32 || c % 2 == 0) && (size_t)(end - p) > AHEAD_BYTES)
        _mm_prefetch((const char *)p + AHEAD_BYTES, _MM_HINT_T0);
}

/* n_g groups from `group` (group_bytes apart) times n_x rows of x; y: [n_x][16 * n_g]. The counts
 * are constants where this is inlined, and the arrays become registers. */
KERN_ALWAYS_INLINE void tile(enum kern_type type, unsigned n_g, unsigned n_x, const uint8_t *group,
                             size_t group_bytes, const uint8_t *end, size_t n_cols, const float *x,
                             size_t x_stride, float *y, size_t y_stride)
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
                ahead(type, group + g * group_bytes, c, end);
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

/* A product_group. */
KERN_ALWAYS_INLINE void float_group(enum kern_type type, const struct kern_matrix *m,
                                    const uint8_t *data, const uint8_t *end,
                                    const struct kern_act *x, size_t n_x, float *u, size_t u_stride)
{
    const size_t stride = x->f_stride;
    const float *xt = x->f;
    for (; n_x >= 4; n_x -= 4, xt += 4 * stride, u += 4 * u_stride)
        tile(type, 1, 4, data, 0, end, m->n_cols, xt, stride, u, u_stride);
    if (n_x >= 2) {
        tile(type, 1, 2, data, 0, end, m->n_cols, xt, stride, u, u_stride);
        xt += 2 * stride;
        u += 2 * u_stride;
    }
    if (n_x % 2 != 0)
        tile(type, 1, 1, data, 0, end, m->n_cols, xt, stride, u, u_stride);
}

/* One row of x, two groups at a time; the last group of an odd number is left: its number. */
KERN_ALWAYS_INLINE size_t pairs(enum kern_type type, const struct kern_matrix *m, size_t group0,
                                size_t group1, const float *x, float *y)
{
    size_t g = group0;
    for (; g + 2 <= group1; g += 2)
        tile(type, 2, 1, m->data + g * m->group_bytes, m->group_bytes,
             m->data + group1 * m->group_bytes, m->n_cols, x, 0, y + g * KERN_GROUP, 0);
    return g;
}

#define FLOAT_KERNELS(type, lower)                                                                 \
    static void lower##_group(const struct kern_matrix *m, const uint8_t *data,                    \
                              const uint8_t *end, const struct kern_act *x, size_t n_x, float *u,  \
                              size_t u_stride)                                                     \
    {                                                                                              \
        float_group(type, m, data, end, x, n_x, u, u_stride);                                      \
    }                                                                                              \
    void kern_matmul_##lower##_avx2(const struct kern_matrix *w, uint32_t group0, uint32_t group1, \
                                    const struct kern_act *x, uint32_t n_x, float *y,              \
                                    size_t y_stride)                                               \
    {                                                                                              \
        const size_t g = n_x == 1 ? pairs(type, w, group0, group1, x->f, y) : group0;              \
        product(lower##_group, w, g, group1, x, n_x, y, y_stride);                                 \
    }                                                                                              \
    void kern_matmul_sum_##lower##_avx2(const struct kern_matrix *w, uint32_t group0,              \
                                        uint32_t group1, const struct kern_act *x, uint32_t n_x,   \
                                        int64_t *acc, size_t acc_stride, uint8_t *bad)             \
    {                                                                                              \
        product_sum(lower##_group, w, group0, group1, x, n_x, acc, acc_stride, bad);               \
    }

FLOAT_KERNELS(KERN_F32, f32)
FLOAT_KERNELS(KERN_F16, f16)
FLOAT_KERNELS(KERN_BF16, bf16)
