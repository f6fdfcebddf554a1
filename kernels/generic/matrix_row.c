/* One row of a packed matrix as F32: the embedding lookup. Float types come back exactly; integer
 * types by the formula of each, which is part of the numerics (section 4): one rounding for d * q,
 * and for types with a minimum one fused step from a rounded product. What a number in the packed
 * form stands for is product.h's, so that a row read here and a product agree on every bit. */
#include "kernels/generic/product.h"

#include <assert.h>
#include <math.h>

static void float_row(const struct kern_matrix *m, uint32_t row, float *out)
{
    const uint8_t *group = m->data + row / KERN_GROUP * m->group_bytes;
    for (size_t c = 0; c < m->n_cols; c++) {
        const size_t i = c * KERN_GROUP + row % KERN_GROUP;
        uint16_t half;
        if (m->type == KERN_F32) {
            memcpy(&out[c], group + 4 * i, 4);
            continue;
        }
        memcpy(&half, group + 2 * i, 2);
        out[c] = m->type == KERN_F16 ? kern_f32_from_f16(half) : kern_f32_from_bf16(half);
    }
}

/* Column c of block b of a segment. */
static float element(enum kern_type type, const struct kern_segment *s, size_t b, unsigned r,
                     unsigned c)
{
    const struct kern_type_info *info = kern_type_info(type);
    const uint8_t *scales = s->scales + b * info->scale_bytes;
    const float q = (float)kern_number(type, s->quants + b * info->quant_bytes, r, c);

    switch (type) {
    case KERN_Q4_1:
    case KERN_Q5_1:
        return fmaf(kern_f16_at(scales, r), q, kern_f16_at(scales, KERN_GROUP + r));
    case KERN_Q4_K:
    case KERN_Q5_K: {
        const float d = kern_f16_at(s->head, r), dmin = kern_f16_at(s->head, KERN_GROUP + r);
        return fmaf(d * (float)scales[r], q, -(dmin * (float)scales[KERN_GROUP + r]));
    }
    case KERN_Q6_K:
        return kern_f16_at(s->head, r) * (float)(int8_t)scales[c / 16 * KERN_GROUP + r] * q;
    default:
        return kern_f16_at(scales, r) * q;
    }
}

void kern_matrix_row(const struct kern_matrix *m, uint32_t row, float *out)
{
    assert(row < m->n_rows);
    if (!kern_type_info(m->type)->integer) {
        float_row(m, row, out);
        return;
    }
    for (struct kern_segment s = kern_segment_first(m, row / KERN_GROUP); s.n_blocks > 0;
         s = kern_segment_next(m, s))
        for (size_t b = 0; b < s.n_blocks; b++)
            for (unsigned c = 0; c < KERN_BLOCK; c++)
                *out++ = element(m->type, &s, b, row % KERN_GROUP, c);
}
