/* The two ends of every product: strips of x and groups in, rows or fixed-point sums out. A family
 * gives a function for one group; the same one serves matmul, whose u is y itself, and matmul_sum,
 * whose u is a buffer that is then added as integers. Strips are the outer loop: a strip of x stays
 * in the second-level cache while the weights stream past.
 *
 * AVX2 has no conversion between double and int64. u * 2^30 is exact in double, and adding
 * 1.5 * 2^52 leaves it, rounded to even, in the low bits for sizes up to 2^51, which the gate
 * guarantees. Private to kernels/avx2/. */
#ifndef KERNELS_AVX2_PRODUCT_H
#define KERNELS_AVX2_PRODUCT_H

#include "kernels/avx2/avx2.h"

enum {
    PRODUCT_STRIP = 64, /* rows of x */
    AHEAD_BYTES = 8192  /* from where the weights are read to where they are asked for */
};

/* u[t * u_stride + r] = the product of the group at `data` with n_x <= PRODUCT_STRIP rows of x, for
 * its 16 rows r. The call's weights end at `end`. */
typedef void product_group(const struct kern_matrix *m, const uint8_t *data, const uint8_t *end,
                           const struct kern_act *x, size_t n_x, float *u, size_t u_stride);

/* x from its row t on. */
KERN_ALWAYS_INLINE struct kern_act product_rows(const struct kern_act *x, size_t t)
{
    struct kern_act from = *x;
    if (from.f != NULL)
        from.f += t * x->f_stride;
    if (from.q != NULL) {
        from.q += t * x->q_stride;
        from.a += t * (x->q_stride / KERN_BLOCK);
        from.s += t * (x->q_stride / KERN_BLOCK);
        from.h += t * (x->q_stride / 16);
    }
    return from;
}

static inline void product(product_group *group, const struct kern_matrix *w, size_t group0,
                           size_t group1, const struct kern_act *x, size_t n_x, float *y,
                           size_t y_stride)
{
    const uint8_t *const end = w->data + group1 * w->group_bytes;
    for (size_t t = 0; t < n_x; t += PRODUCT_STRIP) {
        const struct kern_act strip = product_rows(x, t);
        const size_t n = kern_min_size(n_x - t, PRODUCT_STRIP);
        for (size_t g = group0; g < group1; g++)
            group(w, w->data + g * w->group_bytes, end, &strip, n,
                  y + t * y_stride + g * KERN_GROUP, y_stride);
    }
}

KERN_ALWAYS_INLINE void product_add4(const float *u, int64_t *acc)
{
    const __m256d magic = _mm256_set1_pd(0x1.8p52);
    const __m256d k =
        _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(u)), _mm256_set1_pd(0x1p30), magic);
    const __m256i whole = _mm256_sub_epi64(_mm256_castpd_si256(k), _mm256_castpd_si256(magic));
    const __m256i sum = _mm256_loadu_si256((const void *)acc);
    _mm256_storeu_si256((void *)acc, _mm256_add_epi64(sum, whole));
}

/* acc += n <= 16 results of one row of x; false where one is out of range. Those past n are results
 * of padding, which may be anything. */
static inline bool product_add(float u[static 16], size_t n, int64_t *acc)
{
    int64_t spill[16];
    for (size_t i = n; i < 16; i++)
        u[i] = 0.0f;
    const __m256i over =
        _mm256_max_epi32(avx2_abs_bits(_mm256_loadu_ps(u)), avx2_abs_bits(_mm256_loadu_ps(u + 8)));
    const bool good =
        _mm256_testz_si256(_mm256_cmpgt_epi32(over, _mm256_set1_epi32(KERN_UNIT_MAX_BITS)),
                           _mm256_set1_epi32(-1)) != 0;
    if (n < 16)
        memcpy(spill, acc, n * sizeof *acc);
    int64_t *const to = n < 16 ? spill : acc;
    AVX2_UNROLL
    for (unsigned i = 0; i < 16; i += 4)
        product_add4(u + i, to + i);
    if (n < 16)
        memcpy(acc, spill, n * sizeof *acc);
    return good;
}

static inline void product_sum(product_group *group, const struct kern_matrix *w, size_t group0,
                               size_t group1, const struct kern_act *x, size_t n_x, int64_t *acc,
                               size_t acc_stride, uint8_t *bad)
{
    const uint8_t *const end = w->data + group1 * w->group_bytes;
    float u[PRODUCT_STRIP][KERN_GROUP];
    for (size_t t = 0; t < n_x; t += PRODUCT_STRIP) {
        const struct kern_act strip = product_rows(x, t);
        const size_t n = kern_min_size(n_x - t, PRODUCT_STRIP);
        for (size_t g = group0; g < group1; g++) {
            const size_t n_rows = kern_min_size(w->n_rows - g * KERN_GROUP, KERN_GROUP);
            group(w, w->data + g * w->group_bytes, end, &strip, n, u[0], KERN_GROUP);
            for (size_t i = 0; i < n; i++)
                if (!product_add(u[i], n_rows, acc + (t + i) * acc_stride + g * KERN_GROUP))
                    bad[t + i] = 1;
        }
    }
}

#endif
