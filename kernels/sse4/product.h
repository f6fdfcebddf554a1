/* The two ends of every product: groups and rows of x in, rows or fixed-point sums out. A family
 * gives a function for one group; the same one serves matmul, whose u is y itself, and matmul_sum,
 * whose u is a buffer that is then added as integers. Rows of x come in strips, so that what a
 * group has unpacked serves many and the buffer is bounded. Private to kernels/sse4/. */
#ifndef KERNELS_SSE4_PRODUCT_H
#define KERNELS_SSE4_PRODUCT_H

#include "kernels/sse4/sse4.h"

enum { PRODUCT_STRIP = 64 }; /* rows of x */

/* u[t * u_stride + r] = the product of the group at `data` with n_x <= PRODUCT_STRIP rows of x. */
typedef void product_group(const struct kern_matrix *m, const uint8_t *data,
                           const struct kern_act *x, size_t n_x, float *u, size_t u_stride);

/* x from its row t on. */
static inline struct kern_act product_rows(const struct kern_act *x, size_t t)
{
    struct kern_act from = *x;
    if (from.f != NULL)
        from.f += t * x->f_stride;
    if (from.q != NULL) {
        from.q += t * x->q_stride;
        from.a += t * (x->q_stride / KERN_BLOCK);
        from.s += t * (x->q_stride / KERN_BLOCK);
    }
    return from;
}

static inline void product(product_group *group, const struct kern_matrix *w, size_t group0,
                           size_t group1, const struct kern_act *x, size_t n_x, float *y,
                           size_t y_stride)
{
    for (size_t t = 0; t < n_x; t += PRODUCT_STRIP) {
        const struct kern_act strip = product_rows(x, t);
        for (size_t g = group0; g < group1; g++)
            group(w, w->data + g * w->group_bytes, &strip, kern_min_size(n_x - t, PRODUCT_STRIP),
                  y + t * y_stride + g * KERN_GROUP, y_stride);
    }
}

/* acc += the first n results of one row of x, as 2^-30; false where one is out of range. */
static inline bool product_add(const float *u, size_t n, int64_t *acc)
{
    if (sse4_max_abs(u, n) > KERN_UNIT_MAX_BITS)
        return false;
    for (size_t i = 0; i < n; i++)
        acc[i] += llrint((double)u[i] * 0x1p30);
    return true;
}

static inline void product_sum(product_group *group, const struct kern_matrix *w, size_t group0,
                               size_t group1, const struct kern_act *x, size_t n_x, int64_t *acc,
                               size_t acc_stride, uint8_t *bad)
{
    float u[PRODUCT_STRIP][KERN_GROUP];
    for (size_t t = 0; t < n_x; t += PRODUCT_STRIP) {
        const struct kern_act strip = product_rows(x, t);
        const size_t n = kern_min_size(n_x - t, PRODUCT_STRIP);
        for (size_t g = group0; g < group1; g++) {
            const size_t n_rows = kern_min_size(w->n_rows - g * KERN_GROUP, KERN_GROUP);
            group(w, w->data + g * w->group_bytes, &strip, n, u[0], KERN_GROUP);
            for (size_t i = 0; i < n; i++)
                if (!product_add(u[i], n_rows, acc + (t + i) * acc_stride + g * KERN_GROUP))
                    bad[t + i] = 1;
        }
    }
}

/* Both operators of a type, from its group function. */
#define PRODUCT_KERNELS(lower, group)                                                              \
    void kern_matmul_##lower##_sse4(const struct kern_matrix *w, uint32_t group0, uint32_t group1, \
                                    const struct kern_act *x, uint32_t n_x, float *y,              \
                                    size_t y_stride)                                               \
    {                                                                                              \
        product(group, w, group0, group1, x, n_x, y, y_stride);                                    \
    }                                                                                              \
    void kern_matmul_sum_##lower##_sse4(const struct kern_matrix *w, uint32_t group0,              \
                                        uint32_t group1, const struct kern_act *x, uint32_t n_x,   \
                                        int64_t *acc, size_t acc_stride, uint8_t *bad)             \
    {                                                                                              \
        product_sum(group, w, group0, group1, x, n_x, acc, acc_stride, bad);                       \
    }

#endif
