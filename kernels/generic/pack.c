/* GGUF rows into the packed form of kernels.h, and one row of it back. Packing only moves bits: no
 * weight is rounded, so a model cut into pieces and a whole one hold the same numbers. The layout
 * puts 16 output rows side by side because a vector lane is an output row (docs/numerics.md); in a
 * Q4_0 byte both nibbles belong to the same 32 columns, so that any run of blocks can be cut out
 * and stands alone. It is the same on every machine: what is packed here is stored, hashed and
 * shipped as it is.
 *
 * Left out: checking that `src` is long enough, which is the GGUF reader's promise. */
#include "common/common.h"
#include "kernels/internal.h"

#include <assert.h>

/* Bytes of the quants of one group of 16 rows; 0 on overflow or for columns not whole blocks. */
static size_t group_bytes(enum kern_type type, uint32_t n_cols)
{
    static const uint8_t col_bytes[KERN_N_TYPES] = {
        [KERN_F32] = 64, [KERN_F16] = 32, [KERN_BF16] = 32, [KERN_Q8_0] = 16, [KERN_Q4_0] = 8};
    size_t bytes;
    if (n_cols % kern_type_info(type)->block_cols != 0)
        return 0;
    if (!base_mul(n_cols, col_bytes[type], &bytes))
        return 0;
    return bytes;
}

static size_t n_groups(uint32_t n_rows)
{
    return ((size_t)n_rows - 1) / KERN_GROUP + 1;
}

/* Where the scales begin, or, without scales, the padded end of the quants; 0 on overflow. */
static size_t quants_bytes(enum kern_type type, uint32_t n_rows, uint32_t n_cols)
{
    size_t bytes;
    if (n_rows == 0 || !base_mul(group_bytes(type, n_cols), n_groups(n_rows), &bytes))
        return 0;
    if (bytes > SIZE_MAX - KERN_ALIGN)
        return 0;
    return base_round_up(bytes, KERN_ALIGN);
}

size_t kern_packed_bytes(enum kern_type type, uint32_t n_rows, uint32_t n_cols)
{
    size_t quants = quants_bytes(type, n_rows, n_cols);
    if (quants == 0 || !kern_type_info(type)->integer)
        return quants;
    size_t scales, sum;
    if (!base_mul((size_t)(n_cols / KERN_BLOCK) * KERN_SCALE_BLOCK_BYTES, n_groups(n_rows),
                  &scales) ||
        !base_add(quants, scales, &sum) || sum > SIZE_MAX - KERN_ALIGN)
        return 0;
    return base_round_up(sum, KERN_ALIGN);
}

void kern_matrix_bind(struct kern_matrix *m, enum kern_type type, uint32_t n_rows, uint32_t n_cols,
                      const void *packed)
{
    const uint8_t *bytes = packed;
    assert(kern_packed_bytes(type, n_rows, n_cols) != 0);
    *m = (struct kern_matrix){
        .type = type,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .quants = bytes,
        .scales = kern_type_info(type)->integer ? bytes + quants_bytes(type, n_rows, n_cols) : NULL,
    };
}

/* Elements of `bytes` each; src[n_cols] to lane r of [col][16]. */
static void pack_row_plain(const uint8_t *src, uint32_t n_cols, size_t bytes, unsigned r,
                           uint8_t *group)
{
    for (size_t c = 0; c < n_cols; c++)
        memcpy(group + (c * KERN_GROUP + r) * bytes, src + c * bytes, bytes);
}

/* src: GGUF blocks of an F16 scale and `n_granules` times 4 bytes, which is how both Q8_0 (8) and
 * Q4_0 (4) store 32 columns; lane r of quants [block][granule][16][4] and scales [block][16]. */
static void pack_row_blocks(const uint8_t *src, size_t n_blocks, size_t n_granules, unsigned r,
                            uint8_t *quants, uint8_t *scales)
{
    for (size_t b = 0; b < n_blocks; b++) {
        memcpy(scales + (b * KERN_GROUP + r) * 2, src, 2);
        src += 2;
        for (size_t g = 0; g < n_granules; g++, src += 4)
            memcpy(quants + ((b * n_granules + g) * KERN_GROUP + r) * 4, src, 4);
    }
}

void kern_matrix_pack(enum kern_type type, uint32_t n_rows, uint32_t n_cols, const void *src,
                      size_t src_stride, uint32_t col0, void *packed)
{
    const struct kern_type_info *info = kern_type_info(type);
    assert(col0 % info->block_cols == 0 && n_cols % info->block_cols == 0);
    const size_t group = group_bytes(type, n_cols), n_blocks = n_cols / info->block_cols;
    const uint8_t *from =
        (const uint8_t *)src + (size_t)(col0 / info->block_cols) * info->block_bytes;
    uint8_t *quants = packed;
    uint8_t *scales = quants + quants_bytes(type, n_rows, n_cols);

    memset(packed, 0, kern_packed_bytes(type, n_rows, n_cols));
    for (size_t row = 0; row < n_rows; row++) {
        const uint8_t *src_row = from + row * src_stride;
        const size_t g = row / KERN_GROUP;
        const unsigned r = (unsigned)(row % KERN_GROUP);
        if (info->integer)
            pack_row_blocks(src_row, n_blocks, (info->block_bytes - 2) / 4, r, quants + g * group,
                            scales + g * n_blocks * KERN_SCALE_BLOCK_BYTES);
        else
            pack_row_plain(src_row, n_cols, info->block_bytes, r, quants + g * group);
    }
}

static float scale_at(const struct kern_matrix *m, size_t group, size_t block, unsigned r)
{
    const size_t n_blocks = m->n_cols / KERN_BLOCK;
    return kern_f16_at(m->scales, (group * n_blocks + block) * KERN_GROUP + r);
}

static float element(const struct kern_matrix *m, size_t g, unsigned r, size_t col)
{
    const uint8_t *group = m->quants + g * group_bytes(m->type, m->n_cols);
    const size_t block = col / KERN_BLOCK, c = col % KERN_BLOCK;
    float x;
    uint16_t half;
    uint8_t byte;

    switch (m->type) {
    case KERN_F32:
        memcpy(&x, group + (col * KERN_GROUP + r) * 4, 4);
        return x;
    case KERN_F16:
        return kern_f16_at(group, col * KERN_GROUP + r);
    case KERN_BF16:
        memcpy(&half, group + (col * KERN_GROUP + r) * 2, 2);
        return kern_f32_from_bf16(half);
    case KERN_Q8_0:
        byte = group[block * KERN_Q8_0_BLOCK_BYTES + ((c / 4) * KERN_GROUP + r) * 4 + c % 4];
        return scale_at(m, g, block, r) * (float)(int8_t)byte;
    case KERN_Q4_0:
        byte = group[block * KERN_Q4_0_BLOCK_BYTES + ((c % 16 / 4) * KERN_GROUP + r) * 4 + c % 4];
        return scale_at(m, g, block, r) * (float)((c < 16 ? byte & 15 : byte >> 4) - 8);
    default:
        assert(m->type < KERN_N_TYPES);
        return 0.0f;
    }
}

void kern_matrix_row(const struct kern_matrix *m, uint32_t row, float *out)
{
    assert(row < m->n_rows);
    for (size_t c = 0; c < m->n_cols; c++)
        out[c] = element(m, row / KERN_GROUP, row % KERN_GROUP, c);
}
