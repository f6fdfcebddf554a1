/* GGUF rows into the packed form of kernels.h, and the form's sizes. Packing only moves bits: no
 * weight is rounded, so a model cut into pieces and a whole one hold the same numbers. The layout
 * puts 16 output rows side by side because a vector lane is an output row (docs/numerics.md); every
 * block of 32 columns stands alone, so that a matrix may be cut between any two, also inside the
 * super-blocks of 256. It is the same on every machine: what is packed here is stored, hashed and
 * shipped as it is.
 *
 * A whole file passes through here when it is loaded, so 16 rows of a block are moved at once, four
 * columns of a row as one 32-bit word, and each line of the output is written whole and once. The
 * block layouts of GGUF are the structs below. Rows past the last are made of a block of zeros,
 * which packs to zeros in every type.
 *
 * Left out: checking that `src` is long enough, which is the GGUF reader's promise. */
#include "common/common.h"
#include "kernels/internal.h"

#include <assert.h>

/* Blocks as files hold them; all members are bytes, so there is no padding and no alignment. In the
 * types of 32 columns, byte j of qs has column j in its low nibble, column 16 + j in its high one;
 * bit c of qh is the fifth bit of column c. */
struct q8_0 {
    uint8_t d[2], q[32];
};
struct q4_0 { /* and IQ4_NL */
    uint8_t d[2], qs[16];
};
struct q4_1 {
    uint8_t d[2], m[2], qs[16];
};
struct q5_0 {
    uint8_t d[2], qh[4], qs[16];
};
struct q5_1 {
    uint8_t d[2], m[2], qh[4], qs[16];
};
/* Byte l of qs's i-th 32 has column 64i + l low and column 64i + 32 + l high; bit b of qh[l] is the
 * fifth bit of column 32b + l. scales: see scale_min. */
struct q4_k {
    uint8_t d[2], dmin[2], scales[12], qs[128];
};
struct q5_k {
    uint8_t d[2], dmin[2], scales[12], qh[32], qs[128];
};
/* Byte l of ql's i-th 64 has column 128i + l low and column 128i + 64 + l high; bits 2k and 2k + 1
 * of byte l of qh's i-th 32 are the upper bits of column 128i + 32k + l. A scale is for 16 columns.
 */
struct q6_k {
    uint8_t ql[128], qh[64], scales[16], d[2];
};
_Static_assert(sizeof(struct q8_0) == 34 && sizeof(struct q4_0) == 18 &&
                   sizeof(struct q4_1) == 20 && sizeof(struct q5_0) == 22 &&
                   sizeof(struct q5_1) == 24 && sizeof(struct q4_k) == 144 &&
                   sizeof(struct q5_k) == 176 && sizeof(struct q6_k) == 210,
               "blocks are as types.def says");

/* ---- sizes ----------------------------------------------------------------------------------- */

uint32_t kern_column_skip(enum kern_type type, uint32_t col0)
{
    return kern_type_info(type)->super ? col0 % KERN_SEGMENT : 0;
}

static size_t segment_bytes(const struct kern_type_info *info, size_t n_blocks)
{
    return KERN_SEGMENT_HEAD(info->head_bytes, info->scale_bytes, n_blocks) +
           info->quant_bytes * n_blocks;
}

/* Bytes of a group of 16 rows; below 2^42 for any number of columns. */
static uint64_t group_bytes(enum kern_type type, uint32_t n_cols, uint32_t skip)
{
    const struct kern_type_info *info = kern_type_info(type);
    if (!info->integer)
        return (uint64_t)n_cols * info->quant_bytes;

    const size_t n_blocks = n_cols / KERN_BLOCK;
    const size_t first = kern_segment_blocks(0, n_blocks, skip), rest = n_blocks - first;
    return segment_bytes(info, first) +
           (uint64_t)(rest / KERN_SEGMENT_BLOCKS) * segment_bytes(info, KERN_SEGMENT_BLOCKS) +
           (rest % KERN_SEGMENT_BLOCKS != 0 ? segment_bytes(info, rest % KERN_SEGMENT_BLOCKS) : 0);
}

size_t kern_packed_bytes(enum kern_type type, uint32_t n_rows, uint32_t n_cols, uint32_t skip)
{
    const bool skip_fits =
        skip == 0 || (kern_type_info(type)->super && skip < KERN_SEGMENT && skip % KERN_BLOCK == 0);
    if (n_rows == 0 || n_cols == 0 || n_cols % kern_type_cut(type) != 0 || !skip_fits)
        return 0;

    const uint64_t group = group_bytes(type, n_cols, skip);
    const size_t n_groups = ((size_t)n_rows - 1) / KERN_GROUP + 1;
    size_t bytes;
    if (group > SIZE_MAX || !base_mul((size_t)group, n_groups, &bytes) ||
        bytes > SIZE_MAX - KERN_ALIGN)
        return 0;
    return base_round_up(bytes, KERN_ALIGN);
}

void kern_matrix_bind(struct kern_matrix *m, enum kern_type type, uint32_t n_rows, uint32_t n_cols,
                      uint32_t skip, const void *packed)
{
    assert(kern_packed_bytes(type, n_rows, n_cols, skip) != 0);
    *m = (struct kern_matrix){
        .type = type,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .skip = skip,
        .group_bytes = (size_t)group_bytes(type, n_cols, skip),
        .data = packed,
    };
}

/* ---- moving bits ----------------------------------------------------------------------------- */

KERN_ALWAYS_INLINE uint32_t load(const uint8_t *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

KERN_ALWAYS_INLINE void store(uint8_t *p, uint32_t w)
{
    memcpy(p, &w, sizeof w);
}

/* n granules that the file has as the packed form does, at `offset` in each block. */
KERN_ALWAYS_INLINE uint8_t *pack_granules(const uint8_t *const row[static KERN_GROUP],
                                          size_t offset, unsigned n, uint8_t *out)
{
    for (unsigned g = 0; g < n; g++)
        for (unsigned r = 0; r < KERN_GROUP; r++, out += 4)
            store(out, load(row[r] + offset + (size_t)4 * g));
    return out;
}

/* F16 number at `offset` in each block. */
KERN_ALWAYS_INLINE uint8_t *pack_halves(const uint8_t *const row[static KERN_GROUP], size_t offset,
                                        uint8_t *out)
{
    for (unsigned r = 0; r < KERN_GROUP; r++, out += 2)
        memcpy(out, row[r] + offset, 2);
    return out;
}

/* Fifth bits of 32 columns, bit c of the file's word that of column c: bits 4k to 4k + 3 become bit
 * k of the bytes 0 to 3. The product puts a copy of nibble k at every 7th bit, so that bit j of
 * copy j is bit 8j. */
KERN_ALWAYS_INLINE void pack_fifth(const uint8_t *const row[static KERN_GROUP], size_t offset,
                                   uint8_t *out)
{
    for (unsigned r = 0; r < KERN_GROUP; r++) {
        const uint32_t bits = load(row[r] + offset);
        uint32_t w = 0;
        for (unsigned k = 0; k < 8; k++)
            w |= ((((bits >> 4 * k) & 15) * 0x00204081u) & 0x01010101u) << k;
        store(out + (size_t)4 * r, w);
    }
}

/* The nibbles of 32 consecutive columns, the low ones (shift 0) or the high ones (shift 4) of 32
 * bytes at `offset`. */
KERN_ALWAYS_INLINE uint8_t *pack_nibbles(const uint8_t *const row[static KERN_GROUP], size_t offset,
                                         unsigned shift, uint8_t *out)
{
    for (unsigned g = 0; g < 4; g++) {
        for (unsigned r = 0; r < KERN_GROUP; r++, out += 4) {
            const uint8_t *p = row[r] + offset + (size_t)4 * g;
            store(out, ((load(p) >> shift) & 0x0f0f0f0fu) | ((load(p + 16) >> shift) & 0x0f0f0f0fu)
                                                                << 4);
        }
    }
    return out;
}

/* Bit b of 32 bytes at `offset`. */
KERN_ALWAYS_INLINE void pack_plane(const uint8_t *const row[static KERN_GROUP], size_t offset,
                                   unsigned b, uint8_t *out)
{
    for (unsigned r = 0; r < KERN_GROUP; r++) {
        uint32_t w = 0;
        for (unsigned k = 0; k < 8; k++)
            w |= ((load(row[r] + offset + (size_t)4 * k) >> b) & 0x01010101u) << k;
        store(out + (size_t)4 * r, w);
    }
}

/* Bits 2k and 2k + 1 of 32 bytes at `offset`. */
KERN_ALWAYS_INLINE void pack_two_planes(const uint8_t *const row[static KERN_GROUP], size_t offset,
                                        unsigned k, uint8_t *out)
{
    for (unsigned half = 0; half < 2; half++) {
        for (unsigned r = 0; r < KERN_GROUP; r++, out += 4) {
            uint32_t w = 0;
            for (unsigned i = 0; i < 4; i++) { /* columns 8h, 8h + 4, 16 + 8h, 20 + 8h */
                const size_t column = i / 2 * 16 + half * 8 + i % 2 * 4;
                w |= ((load(row[r] + offset + column) >> 2 * k) & 0x03030303u) << 2 * i;
            }
            store(out, w);
        }
    }
}

/* Scale and minimum of block b, six bits each: those of blocks 0 to 3 are the low six bits of bytes
 * b and 4 + b; of blocks 4 to 7 the low four are the nibbles of byte 4 + b, the upper two what the
 * others left free. */
static void scale_min(const uint8_t *scales, unsigned b, uint8_t *scale, uint8_t *min)
{
    if (b < 4) {
        *scale = scales[b] & 63;
        *min = scales[b + 4] & 63;
    } else {
        *scale = (uint8_t)((scales[b + 4] & 15) | scales[b - 4] >> 6 << 4);
        *min = (uint8_t)(scales[b + 4] >> 4 | scales[b] >> 6 << 4);
    }
}

static void pack_scales_k(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *out)
{
    for (unsigned r = 0; r < KERN_GROUP; r++) /* Q5_K has them at the same place */
        scale_min(row[r] + offsetof(struct q4_k, scales), b, out + r, out + KERN_GROUP + r);
}

/* ---- blocks of each type --------------------------------------------------------------------- */

/* row: the file's blocks of 16 rows; b: which 32 columns of a super-block. */
typedef void pack_block_fn(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                           uint8_t *quants);

static void pack_q8_0(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                      uint8_t *quants)
{
    (void)b;
    pack_halves(row, offsetof(struct q8_0, d), scales);
    pack_granules(row, offsetof(struct q8_0, q), 8, quants);
}

static void pack_q4_0(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                      uint8_t *quants)
{
    (void)b;
    pack_halves(row, offsetof(struct q4_0, d), scales);
    pack_granules(row, offsetof(struct q4_0, qs), 4, quants);
}

static void pack_q4_1(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                      uint8_t *quants)
{
    (void)b;
    scales = pack_halves(row, offsetof(struct q4_1, d), scales);
    pack_halves(row, offsetof(struct q4_1, m), scales);
    pack_granules(row, offsetof(struct q4_1, qs), 4, quants);
}

static void pack_q5_0(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                      uint8_t *quants)
{
    (void)b;
    pack_halves(row, offsetof(struct q5_0, d), scales);
    quants = pack_granules(row, offsetof(struct q5_0, qs), 4, quants);
    pack_fifth(row, offsetof(struct q5_0, qh), quants);
}

static void pack_q5_1(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                      uint8_t *quants)
{
    (void)b;
    scales = pack_halves(row, offsetof(struct q5_1, d), scales);
    pack_halves(row, offsetof(struct q5_1, m), scales);
    quants = pack_granules(row, offsetof(struct q5_1, qs), 4, quants);
    pack_fifth(row, offsetof(struct q5_1, qh), quants);
}

static void pack_q4_k(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                      uint8_t *quants)
{
    pack_scales_k(row, b, scales);
    pack_nibbles(row, offsetof(struct q4_k, qs) + (size_t)b / 2 * 32, b % 2 * 4, quants);
}

static void pack_q5_k(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                      uint8_t *quants)
{
    pack_scales_k(row, b, scales);
    quants = pack_nibbles(row, offsetof(struct q5_k, qs) + (size_t)b / 2 * 32, b % 2 * 4, quants);
    pack_plane(row, offsetof(struct q5_k, qh), b, quants);
}

static void pack_q6_k(const uint8_t *const row[static KERN_GROUP], unsigned b, uint8_t *scales,
                      uint8_t *quants)
{
    const size_t low = (size_t)b / 4 * 64 + b % 2 * 32;
    for (unsigned r = 0; r < KERN_GROUP; r++) {
        const uint8_t *sc = row[r] + offsetof(struct q6_k, scales) + (size_t)2 * b;
        scales[r] = sc[0];
        scales[KERN_GROUP + r] = sc[1];
    }
    quants = pack_nibbles(row, offsetof(struct q6_k, ql) + low, b % 4 / 2 * 4, quants);
    pack_two_planes(row, offsetof(struct q6_k, qh) + (size_t)b / 4 * 32, b % 4, quants);
}

static pack_block_fn *const pack_block[KERN_N_TYPES] = {
    [KERN_Q8_0] = pack_q8_0, [KERN_Q4_0] = pack_q4_0, [KERN_Q4_1] = pack_q4_1,
    [KERN_Q5_0] = pack_q5_0, [KERN_Q5_1] = pack_q5_1, [KERN_IQ4_NL] = pack_q4_0,
    [KERN_Q4_K] = pack_q4_k, [KERN_Q5_K] = pack_q5_k, [KERN_Q6_K] = pack_q6_k,
};

/* The head of a segment, from the blocks of its super-block. */
static void pack_head(enum kern_type type, const uint8_t *const row[static KERN_GROUP],
                      uint8_t *head)
{
    if (type == KERN_Q6_K) {
        pack_halves(row, offsetof(struct q6_k, d), head);
    } else if (type == KERN_Q4_K || type == KERN_Q5_K) {
        head = pack_halves(row, offsetof(struct q4_k, d), head);
        pack_halves(row, offsetof(struct q4_k, dmin), head);
    }
}

_Static_assert(offsetof(struct q4_k, scales) == offsetof(struct q5_k, scales) &&
                   offsetof(struct q4_k, dmin) == offsetof(struct q5_k, dmin),
               "Q4_K and Q5_K begin alike");

/* ---- matrices -------------------------------------------------------------------------------- */

/* 16 rows of a source, of which the first n_rows exist. */
struct rows {
    const uint8_t *first;
    size_t stride, n_rows;
};

/* Pointers to what lies `offset` into each row, or to zeros. */
static void rows_at(const struct rows *rows, size_t offset, const uint8_t *p[static KERN_GROUP])
{
    static const uint8_t zeros[sizeof(struct q6_k)];
    for (size_t r = 0; r < KERN_GROUP; r++)
        p[r] = r < rows->n_rows ? rows->first + r * rows->stride + offset : zeros;
}

/* Columns of elements of `bytes` each, to [column][16 rows]. */
KERN_ALWAYS_INLINE void pack_elements(const struct rows *rows, size_t bytes, size_t col0,
                                      size_t n_cols, uint8_t *out)
{
    for (size_t c = 0; c < n_cols; c++) {
        const uint8_t *from = rows->first + (col0 + c) * bytes;
        for (size_t r = 0; r < rows->n_rows; r++, from += rows->stride, out += bytes)
            memcpy(out, from, bytes);
        const size_t rest = (KERN_GROUP - rows->n_rows) * bytes;
        memset(out, 0, rest);
        out += rest;
    }
}

static void pack_group(enum kern_type type, const struct rows *rows, size_t col0, size_t n_cols,
                       uint8_t *out)
{
    const struct kern_type_info *info = kern_type_info(type);
    const size_t n_blocks = n_cols / KERN_BLOCK, per = info->block_cols / KERN_BLOCK;
    const uint8_t *row[KERN_GROUP];

    for (size_t b = 0; b < n_blocks;) {
        const size_t from = col0 / KERN_BLOCK + b; /* in the file's row */
        const size_t n = kern_segment_blocks(b, n_blocks, kern_column_skip(type, (uint32_t)col0));
        uint8_t *scales = out + info->head_bytes;
        uint8_t *quants = out + KERN_SEGMENT_HEAD(info->head_bytes, info->scale_bytes, n);

        rows_at(rows, from / per * info->block_bytes, row);
        pack_head(type, row, out);
        for (size_t i = 0; i < n; i++) {
            if (!info->super)
                rows_at(rows, (from + i) * info->block_bytes, row);
            pack_block[type](row, (unsigned)((from + i) % per), scales,
                             quants + i * info->quant_bytes);
            scales += info->scale_bytes;
        }
        memset(scales, 0, (size_t)(quants - scales));
        out = quants + n * info->quant_bytes;
        b += n;
    }
}

void kern_matrix_pack(enum kern_type type, uint32_t n_rows, uint32_t n_cols, const void *src,
                      size_t src_stride, uint32_t col0, void *packed)
{
    const uint32_t cut = kern_type_cut(type), skip = kern_column_skip(type, col0);
    const size_t group = (size_t)group_bytes(type, n_cols, skip);
    uint8_t *out = packed, *end = out + kern_packed_bytes(type, n_rows, n_cols, skip);
    assert(col0 % cut == 0 && n_cols % cut == 0 && n_rows > 0);

    for (size_t row = 0; row < n_rows; row += KERN_GROUP, out += group) {
        const struct rows rows = {(const uint8_t *)src + row * src_stride, src_stride,
                                  kern_min_size(n_rows - row, KERN_GROUP)};
        if (type == KERN_F32)
            pack_elements(&rows, 4, col0, n_cols, out);
        else if (!kern_type_info(type)->integer)
            pack_elements(&rows, 2, col0, n_cols, out);
        else
            pack_group(type, &rows, col0, n_cols, out);
    }
    memset(out, 0, (size_t)(end - out));
}
