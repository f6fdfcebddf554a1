/* What the definitions of the matrix products share: reading the packed form one number at a time
 * (kernels.h has the layout), and the two operators made from one chain. Private to generic/. */
#ifndef KERNELS_GENERIC_PRODUCT_H
#define KERNELS_GENERIC_PRODUCT_H

#include "kernels/internal.h"

/* A segment of a group of 16 rows: its head, and n_blocks blocks of scales and of quants. */
struct kern_segment {
    const uint8_t *head, *scales, *quants;
    size_t block, n_blocks; /* the first one's number in its row; 0 blocks: past the last */
};

/* The first segment of a group, and the one that follows s. */
struct kern_segment kern_segment_first(const struct kern_matrix *w, size_t group);
struct kern_segment kern_segment_next(const struct kern_matrix *w, struct kern_segment s);

/* What column c (0..31) of row r stands for, before any scale, in a block's quants. Inlined into
 * each caller, which knows its type. */
KERN_ALWAYS_INLINE int32_t kern_number(enum kern_type type, const uint8_t *quants, unsigned r,
                                       unsigned c)
{
    if (type == KERN_Q8_0)
        return (int8_t)quants[((c / 4) * KERN_GROUP + r) * 4 + c % 4];

    const uint8_t nibbles = quants[((c % 16 / 4) * KERN_GROUP + r) * 4 + c % 4];
    const int32_t low = c < 16 ? nibbles & 15 : nibbles >> 4;
    const uint8_t *upper = quants + 4 * KERN_GROUP * 4;
    const unsigned granule = c / 4; /* 0..7 */
    switch (type) {
    case KERN_Q4_0:
        return low - 8;
    case KERN_IQ4_NL:
        return kern_iq4nl[low];
    case KERN_Q5_0:
        return (low | (upper[r * 4 + c % 4] >> granule & 1) << 4) - 16;
    case KERN_Q5_1:
    case KERN_Q5_K:
        return low | (upper[r * 4 + c % 4] >> granule & 1) << 4;
    case KERN_Q6_K: {
        const unsigned half = granule / 2 % 2, shift = granule / 4 * 4 + granule % 2 * 2;
        return (low | (upper[(half * KERN_GROUP + r) * 4 + c % 4] >> shift & 3) << 4) - 32;
    }
    default:
        return low;
    }
}

/* Exact integer dot product of columns [c0, c1) of row r of a block with the block's x [32]. */
KERN_ALWAYS_INLINE int32_t kern_block_dot(enum kern_type type, const uint8_t *quants, unsigned r,
                                          const int8_t *x, unsigned c0, unsigned c1)
{
    int32_t sum = 0;
    for (unsigned c = c0; c < c1; c++)
        sum += kern_number(type, quants, r, c) * x[c];
    return sum;
}

/* u of row r of a group: the whole chain over w's columns with row t of x. */
typedef float kern_chain_fn(const struct kern_matrix *w, size_t group, unsigned r,
                            const struct kern_act *x, size_t t);

void kern_generic_matmul(kern_chain_fn *chain, const struct kern_matrix *w, uint32_t group0,
                         uint32_t group1, const struct kern_act *x, uint32_t n_x, float *y,
                         size_t y_stride);
void kern_generic_matmul_sum(kern_chain_fn *chain, const struct kern_matrix *w, uint32_t group0,
                             uint32_t group1, const struct kern_act *x, uint32_t n_x, int64_t *acc,
                             size_t acc_stride, uint8_t *bad);

/* Both kernels of a type, named after `name`, from its chain. */
#define KERN_GENERIC_PRODUCTS(name, chain)                                                         \
    void kern_matmul_##name##_generic(const struct kern_matrix *w, uint32_t group0,                \
                                      uint32_t group1, const struct kern_act *x, uint32_t n_x,     \
                                      float *y, size_t y_stride)                                   \
    {                                                                                              \
        kern_generic_matmul(chain, w, group0, group1, x, n_x, y, y_stride);                        \
    }                                                                                              \
    void kern_matmul_sum_##name##_generic(const struct kern_matrix *w, uint32_t group0,            \
                                          uint32_t group1, const struct kern_act *x, uint32_t n_x, \
                                          int64_t *acc, size_t acc_stride, uint8_t *bad)           \
    {                                                                                              \
        kern_generic_matmul_sum(chain, w, group0, group1, x, n_x, acc, acc_stride, bad);           \
    }

#endif
