/* The two operators of every matrix type, given the chain that computes one output. A product
 * writes each chain's u. A sum adds it to an accumulator that a cut of the model may split: u
 * becomes an integer number of 2^-30 and is added as int64. Integer addition has no order, so it
 * does not matter which machine holds which unit, nor how partial sums are grouped. The gate at
 * 2^21 makes a term at most 2^51, and KERN_UNITS_MAX (4095) of them stay below 2^63: no grouping
 * can overflow. A row past the gate is marked and not finished, for its sums mean nothing. */
#include "kernels/generic/product.h"

#include <math.h>

_Static_assert(KERN_UNITS_MAX < 4096, "4096 terms of 2^51 would reach 2^63");

static struct kern_segment segment_at(const struct kern_matrix *w, const uint8_t *p, size_t block)
{
    const struct kern_type_info *info = kern_type_info(w->type);
    const size_t n_blocks = w->n_cols / KERN_BLOCK;
    struct kern_segment s = {.head = p, .block = block};
    if (block == n_blocks)
        return s;
    s.n_blocks = kern_segment_blocks(block, n_blocks, w->skip);
    s.scales = p + info->head_bytes;
    s.quants = p + KERN_SEGMENT_HEAD(info->head_bytes, info->scale_bytes, s.n_blocks);
    return s;
}

struct kern_segment kern_segment_first(const struct kern_matrix *w, size_t group)
{
    return segment_at(w, w->data + group * w->group_bytes, 0);
}

struct kern_segment kern_segment_next(const struct kern_matrix *w, struct kern_segment s)
{
    return segment_at(w, s.quants + s.n_blocks * kern_type_info(w->type)->quant_bytes,
                      s.block + s.n_blocks);
}

void kern_generic_matmul(kern_chain_fn *chain, const struct kern_matrix *w, uint32_t group0,
                         uint32_t group1, const struct kern_act *x, uint32_t n_x, float *y,
                         size_t y_stride)
{
    for (size_t t = 0; t < n_x; t++)
        for (size_t g = group0; g < group1; g++)
            for (unsigned r = 0; r < KERN_GROUP; r++)
                y[t * y_stride + g * KERN_GROUP + r] = chain(w, g, r, x, t);
}

void kern_generic_matmul_sum(kern_chain_fn *chain, const struct kern_matrix *w, uint32_t group0,
                             uint32_t group1, const struct kern_act *x, uint32_t n_x, int64_t *acc,
                             size_t acc_stride, uint8_t *bad)
{
    const size_t row1 = kern_min_size((size_t)group1 * KERN_GROUP, w->n_rows);
    for (size_t t = 0; t < n_x; t++) {
        for (size_t row = (size_t)group0 * KERN_GROUP; row < row1; row++) {
            const float u = chain(w, row / KERN_GROUP, row % KERN_GROUP, x, t);
            if ((kern_bits(u) & KERN_ABS_MASK) > KERN_UNIT_MAX_BITS) {
                bad[t] = 1;
                break;
            }
            acc[t * acc_stride + row] += llrint((double)u * 0x1p30);
        }
    }
}
