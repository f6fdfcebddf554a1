/* Packed matrices: taken back apart row by row, and byte by byte as kernels.h writes the layout
 * down, from every column a cut may begin at; and the definitions of the products against double
 * precision, against the canonical chain over the file's own blocks, and against hand-made cases
 * whose exact result only that order gives. */
#include "kernels/kernels.h"

#include "common/common.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static uint32_t bits_of(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* Uniform in [-1, 1). */
static float draw(uint64_t *rng)
{
    return (float)((double)(base_rng_next(rng) >> 11) * 0x1p-52 - 1.0);
}

static const struct kern_table *generic(void)
{
    return kern_table_at(0);
}

/* ---- GGUF blocks ---------------------------------------------------------------------------- */

/* What a file's block holds, read plainly: column by column, bit by bit. The packer moves words and
 * never sees a number, so nothing is shared but the format. */

static uint16_t half_bits(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static float half(const uint8_t *p)
{
    return kern_f32_from_f16(half_bits(p));
}

static int low_or_high(uint8_t byte, bool high)
{
    return high ? byte >> 4 : byte & 15;
}

/* The stored number of column c of a block of an integer type. */
static int stored(enum kern_type type, const uint8_t *p, unsigned c)
{
    const unsigned l = c % 32, chunk = c / 32;
    switch (type) {
    case KERN_Q8_0:
        return (int8_t)p[2 + c];
    case KERN_Q4_0:
    case KERN_IQ4_NL:
        return low_or_high(p[2 + c % 16], c >= 16);
    case KERN_Q4_1:
        return low_or_high(p[4 + c % 16], c >= 16);
    case KERN_Q5_0:
        return low_or_high(p[6 + c % 16], c >= 16) + (p[2 + c / 8] >> c % 8 & 1) * 16;
    case KERN_Q5_1:
        return low_or_high(p[8 + c % 16], c >= 16) + (p[4 + c / 8] >> c % 8 & 1) * 16;
    case KERN_Q4_K:
        return low_or_high(p[16 + chunk / 2 * 32 + l], chunk % 2 == 1);
    case KERN_Q5_K:
        return low_or_high(p[48 + chunk / 2 * 32 + l], chunk % 2 == 1) +
               (p[16 + l] >> chunk & 1) * 16;
    default: /* Q6_K */
        return low_or_high(p[chunk / 4 * 64 + chunk % 2 * 32 + l], chunk % 4 >= 2) +
               (p[128 + chunk / 4 * 32 + l] >> chunk % 4 * 2 & 3) * 16;
    }
}

/* What that number stands for, before scales. */
static int number(enum kern_type type, int n)
{
    static const int nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
    return type == KERN_IQ4_NL ? nonlinear[n]
           : type == KERN_Q4_0 ? n - 8
           : type == KERN_Q5_0 ? n - 16
           : type == KERN_Q6_K ? n - 32
                               : n;
}

/* Scale (Q6_K: of the 16 columns c lies in) and minimum of a block with super-blocks. */
static int scale_of(enum kern_type type, const uint8_t *p, unsigned c)
{
    const unsigned b = c / 32;
    if (type == KERN_Q6_K)
        return (int8_t)p[192 + c / 16];
    return b < 4 ? p[4 + b] % 64 : p[8 + b] % 16 + p[b] / 64 * 16;
}

static int min_of(const uint8_t *p, unsigned c)
{
    const unsigned b = c / 32;
    return b < 4 ? p[8 + b] % 64 : p[8 + b] / 16 + p[4 + b] / 64 * 16;
}

/* One weight as docs/numerics.md section 4 defines its value in a row read back. */
static float value_of(enum kern_type type, const uint8_t *p, unsigned c)
{
    uint32_t bits;
    float f;
    switch (type) {
    case KERN_F32:
        memcpy(&f, p, 4);
        return f;
    case KERN_F16:
        return half(p);
    case KERN_BF16:
        bits = (uint32_t)half_bits(p) << 16;
        memcpy(&f, &bits, 4);
        return f;
    default:
        break;
    }
    const float n = (float)number(type, stored(type, p, c));
    switch (type) {
    case KERN_Q4_1:
    case KERN_Q5_1:
        return fmaf(half(p), n, half(p + 2));
    case KERN_Q4_K:
    case KERN_Q5_K:
        return fmaf(half(p) * (float)scale_of(type, p, c), n, -(half(p + 2) * (float)min_of(p, c)));
    case KERN_Q6_K:
        return half(p + 208) * (float)scale_of(type, p, c) * n;
    default:
        return half(p) * n;
    }
}

enum { MAX_ROWS = 40, MAX_COLS = 768 };

/* A row-major GGUF matrix of random weights. */
struct source {
    uint8_t bytes[MAX_ROWS * (MAX_COLS * 4 + 3)];
    size_t stride;
    enum kern_type type;
};

/* Row r's block that has column c. */
static const uint8_t *block_at(const struct source *s, uint32_t r, uint32_t c)
{
    const struct kern_type_info *info = kern_type_info(s->type);
    return s->bytes + r * s->stride + c / info->block_cols * info->block_bytes;
}

static float source_value(const struct source *s, uint32_t r, uint32_t c)
{
    return value_of(s->type, block_at(s, r, c), c % kern_type_info(s->type)->block_cols);
}

static void put_half(uint64_t *rng, uint8_t *p)
{
    const uint16_t h = kern_f16_from_f32(draw(rng) * 0.01f);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

/* Any bits, but scales of an ordinary size. */
static void source_fill(struct source *s, uint64_t seed, enum kern_type type, uint32_t n_rows,
                        uint32_t n_cols)
{
    const struct kern_type_info *info = kern_type_info(type);
    s->type = type;
    s->stride = n_cols / info->block_cols * info->block_bytes + 3; /* rows are not aligned */
    for (uint32_t r = 0; r < n_rows; r++) {
        for (uint32_t c = 0; c < n_cols; c += info->block_cols) {
            uint8_t *p = s->bytes + r * s->stride + c / info->block_cols * info->block_bytes;
            const float x = draw(&seed);
            const uint32_t bits = bits_of(x);
            for (uint32_t i = 0; i < info->block_bytes; i++)
                p[i] = (uint8_t)base_rng_next(&seed);
            if (type == KERN_F32)
                memcpy(p, &x, 4);
            else if (type == KERN_BF16)
                memcpy(p, (const uint8_t *)&bits + 2, 2);
            else
                put_half(&seed, type == KERN_Q6_K ? p + 208 : p);
            if (type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q4_K || type == KERN_Q5_K)
                put_half(&seed, p + 2);
        }
    }
}

static struct source source;
static _Alignas(KERN_ALIGN) uint8_t packed[(MAX_ROWS + 16) * MAX_COLS * 4];

/* ---- packing -------------------------------------------------------------------------------- */

/* Whether row r's columns from c on, 32 of them, and their scales are in the packed block whose
 * scales and quants begin there; as kernels.h writes the layout down. */
static bool block_laid_out(const struct source *s, uint32_t r, uint32_t c, const uint8_t *scales,
                           const uint8_t *quants)
{
    const enum kern_type type = s->type;
    const unsigned lane = r % 16, in = c % kern_type_info(type)->block_cols;
    const uint8_t *p = block_at(s, r, c);
    bool same = true;
    for (unsigned i = 0; i < 32; i++) {
        const unsigned n = (unsigned)stored(type, p, in + i), g = i % 16 / 4, j = i % 4;
        const uint8_t byte = quants[g * 64 + lane * 4 + j], fifth = quants[256 + lane * 4 + j];
        if (type == KERN_Q8_0)
            same = same && quants[i / 4 * 64 + lane * 4 + j] == (uint8_t)n;
        else
            same = same && (i < 16 ? byte % 16 : byte / 16) == (uint8_t)(n % 16);
        if (type == KERN_Q5_0 || type == KERN_Q5_1 || type == KERN_Q5_K)
            same = same && (fifth >> (i < 16 ? g : 4 + g) & 1) == (int)(n / 16);
        if (type == KERN_Q6_K) { /* halves of columns 0-7, 16-23 and of 8-15, 24-31 */
            const unsigned h = i / 8 % 2, bit = i / 16 * 4 + i / 4 % 2 * 2;
            same = same && (quants[256 + h * 64 + lane * 4 + j] >> bit & 3) == (int)(n / 16);
        }
    }
    switch (type) {
    case KERN_Q4_K:
    case KERN_Q5_K:
        return same && scales[lane] == scale_of(type, p, in) && scales[16 + lane] == min_of(p, in);
    case KERN_Q6_K:
        return same && (int8_t)scales[lane] == scale_of(type, p, in) &&
               (int8_t)scales[16 + lane] == scale_of(type, p, in + 16);
    case KERN_Q4_1:
    case KERN_Q5_1:
        return same && memcmp(scales + 2 * lane, p, 2) == 0 &&
               memcmp(scales + 32 + 2 * lane, p + 2, 2) == 0;
    default:
        return same && memcmp(scales + 2 * lane, p, 2) == 0;
    }
}

/* The same of a segment's head. */
static bool head_laid_out(const struct source *s, uint32_t r, uint32_t c, const uint8_t *head)
{
    const uint8_t *p = block_at(s, r, c);
    if (s->type == KERN_Q6_K)
        return memcmp(head + 2 * (r % 16), p + 208, 2) == 0;
    return memcmp(head + 2 * (r % 16), p, 2) == 0 &&
           memcmp(head + 32 + 2 * (r % 16), p + 2, 2) == 0;
}

/* Packed bytes of an integer type, every one but those of padding rows. Returns their number. */
static size_t check_layout(const struct source *s, uint32_t n_rows, uint32_t col0, uint32_t n_cols)
{
    const struct kern_type_info *info = kern_type_info(s->type);
    const uint8_t *p = packed;
    for (uint32_t r0 = 0; r0 < n_rows; r0 += 16) {
        for (uint32_t c = col0; c < col0 + n_cols;) {
            /* To the next border of 256, of the file or, without super-blocks, of the matrix. */
            const uint32_t from = info->super ? c : c - col0, end = c + 256 - from % 256;
            const uint32_t n = ((end < col0 + n_cols ? end : col0 + n_cols) - c) / 32;
            const size_t before = info->head_bytes + n * info->scale_bytes;
            const uint8_t *quants = p + (before + 63) / 64 * 64;
            for (const uint8_t *zero = p + before; zero < quants; zero++)
                assert_int_equal(*zero, 0);
            for (uint32_t r = r0; r < r0 + 16 && r < n_rows; r++) {
                assert_true(!info->super || head_laid_out(s, r, c, p));
                for (uint32_t b = 0; b < n; b++)
                    assert_true(block_laid_out(s, r, c + 32 * b,
                                               p + info->head_bytes + b * info->scale_bytes,
                                               quants + b * info->quant_bytes));
            }
            p = quants + n * info->quant_bytes;
            c += 32 * n;
        }
    }
    return (size_t)(p - packed);
}

/* Every row of a packed run of columns is the source's, padding rows and bytes are zeros. */
static void check_pack(enum kern_type t, uint32_t rows, uint32_t col0, uint32_t cols)
{
    static float row[MAX_COLS];
    const uint32_t skip = kern_column_skip(t, col0);
    const size_t bytes = kern_packed_bytes(t, rows, cols, skip);
    struct kern_matrix m;
    memset(packed, 0xa5, sizeof packed);
    kern_matrix_pack(t, rows, cols, source.bytes, source.stride, col0, packed);
    assert_int_equal(packed[bytes], 0xa5);
    kern_matrix_bind(&m, t, rows, cols, skip, packed);
    for (uint32_t r = 0; r < rows; r++) {
        kern_matrix_row(&m, r, row);
        for (uint32_t c = 0; c < cols; c++)
            assert_int_equal(bits_of(row[c]), bits_of(source_value(&source, r, col0 + c)));
    }
    if (kern_type_info(t)->integer)
        assert_int_equal(check_layout(&source, rows, col0, cols), bytes);
    m.n_rows = (rows + 15) / 16 * 16;
    for (uint32_t r = rows; r < m.n_rows; r++) {
        kern_matrix_row(&m, r, row);
        for (uint32_t c = 0; c < cols; c++)
            assert_true(row[c] == 0.0f);
    }
}

static void test_pack_and_back(void **state)
{
    (void)state;
    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        const enum kern_type t = (enum kern_type)type;
        const uint32_t cut = kern_type_cut(t), step = cut == 1 ? 51 : 32;
        for (uint32_t rows = 1; rows <= MAX_ROWS; rows += 13) {
            source_fill(&source, rows, t, rows, MAX_COLS);
            for (uint32_t col0 = 0; col0 < 2 * 256; col0 += step) {
                check_pack(t, rows, col0, cut);
                check_pack(t, rows, col0, 5 * step);
                check_pack(t, rows, col0, 256);
                check_pack(t, rows, col0, MAX_COLS - col0);
            }
        }
    }
}

/* The float types byte by byte; check_layout has the others. */
static void test_layout(void **state)
{
    (void)state;
    uint8_t row[2][34];
    for (unsigned i = 0; i < 34; i++) {
        row[0][i] = (uint8_t)i;
        row[1][i] = (uint8_t)(100 + i);
    }
    kern_matrix_pack(KERN_F16, 2, 3, row, 34, 1, packed);
    for (unsigned c = 0; c < 3; c++)
        for (unsigned r = 0; r < 2; r++)
            assert_memory_equal(packed + c * 32 + r * 2, &row[r][2 * (c + 1)], 2);
    for (unsigned i = 3 * 32; i < 128; i++) /* to a whole line */
        assert_int_equal(packed[i], 0);
    assert_int_equal(kern_packed_bytes(KERN_F16, 2, 3, 0), 128);
    kern_matrix_pack(KERN_F32, 2, 2, row, 34, 0, packed);
    assert_memory_equal(packed + 64 + 4, &row[1][4], 4);
}

static void test_packed_bytes(void **state)
{
    (void)state;
    assert_int_equal(kern_packed_bytes(KERN_F32, 0, 32, 0), 0);
    assert_int_equal(kern_packed_bytes(KERN_F32, 32, 0, 0), 0);
    assert_int_equal(kern_packed_bytes(KERN_Q8_0, 16, 31, 0), 0);
    assert_int_equal(kern_packed_bytes(KERN_Q4_0, 16, 33, 0), 0);
    assert_int_equal(kern_packed_bytes(KERN_Q4_K, 16, 48, 0), 0);
    assert_int_equal(kern_packed_bytes(KERN_Q4_K, 16, 32, 256), 0);
    assert_int_equal(kern_packed_bytes(KERN_Q4_K, 16, 32, 16), 0);
    assert_int_equal(kern_packed_bytes(KERN_Q8_0, 16, 32, 32), 0);
    assert_int_equal(kern_packed_bytes(KERN_F32, UINT32_MAX, UINT32_MAX, 0), 0);
    assert_int_equal(kern_packed_bytes(KERN_F32, 17, 3, 0), 2 * 16 * 3 * 4);
    assert_int_equal(kern_packed_bytes(KERN_BF16, 1, 1, 0), 64);
    assert_int_equal(kern_packed_bytes(KERN_Q8_0, 2, 32, 0), 64 + 512);
    assert_int_equal(kern_packed_bytes(KERN_Q4_0, 17, 64, 0), 2 * (64 + 2 * 256));
    /* One super-block; two halves of one and of the next. */
    assert_int_equal(kern_packed_bytes(KERN_Q4_K, 16, 256, 0), 64 + 8 * 32 + 8 * 256);
    assert_int_equal(kern_packed_bytes(KERN_Q6_K, 1, 256, 96),
                     192 + 5 * 384 + (32 + 3 * 32) + 3 * 384);

    enum kern_type t;
    assert_true(kern_type_from_ggml(2, &t) && t == KERN_Q4_0);
    assert_true(kern_type_from_ggml(30, &t) && t == KERN_BF16);
    assert_true(kern_type_from_ggml(14, &t) && t == KERN_Q6_K);
    assert_false(kern_type_from_ggml(10, &t));
    assert_int_equal(kern_type_cut(KERN_F16), 1);
    assert_int_equal(kern_type_cut(KERN_Q5_K), 32);
    assert_int_equal(kern_column_skip(KERN_Q5_K, 800), 32);
    assert_int_equal(kern_column_skip(KERN_Q5_0, 800), 0);
    assert_int_equal(kern_kv_row_bytes(KERN_KV_F16, 80), 160);
    assert_int_equal(kern_kv_row_bytes(KERN_KV_F32, 80), 320);
    assert_int_equal(kern_kv_row_bytes(KERN_KV_Q8_0, 96), 102);
}

/* ---- matrix products ------------------------------------------------------------------------ */

/* Quantised rows of a product and, for products by hand, one row's part. */
static float x_rows[3][MAX_COLS];
static int8_t x_quants[3][MAX_COLS];
static float x_scales[3][MAX_COLS / 32], x_sums[3][MAX_COLS / 32];
static int16_t x_halves[3][MAX_COLS / 16];

/* The chain of docs/numerics.md section 4 over the file's own blocks, written as it stands there:
 * row r of the source, columns [col0, col0 + n_cols), row t of x. */
static float chain_by_hand(const struct source *s, uint32_t r, uint32_t col0, uint32_t n_cols,
                           unsigned t)
{
    const enum kern_type type = s->type;
    const bool super = kern_type_info(type)->super;
    float u = 0.0f;
    for (uint32_t c = col0; c < col0 + n_cols;) {
        const uint32_t from = super ? c : c - col0, border = c + 256 - from % 256;
        const uint32_t end = border < col0 + n_cols ? border : col0 + n_cols;
        const uint8_t *p = block_at(s, r, c);
        float sum = 0.0f, sum_m = 0.0f;
        for (; c < end; c += 32) {
            const uint8_t *b = block_at(s, r, c);
            const unsigned in = c % kern_type_info(type)->block_cols;
            const float a = x_scales[t][c / 32], a_sum = x_sums[t][c / 32];
            int dot = 0, scaled = 0;
            for (unsigned i = 0; i < 32; i++) {
                const int product = number(type, stored(type, b, in + i)) * x_quants[t][c + i];
                dot += product;
                scaled += super ? scale_of(type, b, in + i) * product : 0;
            }
            sum = fmaf(super ? (float)scaled : (float)dot * half(b), a, sum);
            if (type == KERN_Q4_1 || type == KERN_Q5_1)
                sum_m = fmaf(half(b + 2), a_sum, sum_m);
            else if (type == KERN_Q4_K || type == KERN_Q5_K)
                sum_m = fmaf((float)min_of(b, in), a_sum, sum_m);
        }
        if (!super)
            u = u + sum;
        if (type == KERN_Q4_1 || type == KERN_Q5_1)
            u = u + sum_m;
        if (super)
            u = fmaf(half(type == KERN_Q6_K ? p + 208 : p), sum, u);
        if (type == KERN_Q4_K || type == KERN_Q5_K)
            u = fmaf(-half(p + 2), sum_m, u);
    }
    return u;
}

/* A full product, from GGUF bytes through packing, quantisation and a view of columns, against
 * double precision on the source's own values and, for integer types, on what the quantised rows
 * stand for; those also bit by bit against the chain by hand. Sums are the same on the grid. */
static void check_product(enum kern_type type, uint32_t rows, uint32_t col0, uint32_t cols,
                          uint64_t seed)
{
    enum { N_X = 3 };
    static float y[N_X][MAX_ROWS + 16];
    static int64_t acc[N_X][MAX_ROWS + 16];
    const bool integer = kern_type_info(type)->integer;
    const uint32_t skip = kern_column_skip(type, col0), groups = (rows + 15) / 16;
    uint8_t bad[N_X] = {0};
    struct kern_matrix m;
    struct kern_act act = {&x_rows[0][0],   &x_quants[0][0], &x_scales[0][0], &x_sums[0][0],
                           &x_halves[0][0], MAX_COLS,        MAX_COLS};

    source_fill(&source, seed, type, rows, MAX_COLS);
    kern_matrix_pack(type, rows, cols, source.bytes, source.stride, col0, packed);
    kern_matrix_bind(&m, type, rows, cols, skip, packed);
    for (unsigned t = 0; t < N_X; t++) {
        for (uint32_t c = 0; c < MAX_COLS; c++)
            x_rows[t][c] = draw(&seed) * (c % 64 < 32 ? 3.0f : 0.1f);
        assert_true(generic()->quantise(x_rows[t], MAX_COLS, x_quants[t], x_scales[t], x_sums[t],
                                        x_halves[t]));
    }
    act = kern_act_columns(act, col0);
    memset(acc, 0, sizeof acc);
    generic()->matmul[type](&m, 0, groups, &act, N_X, &y[0][0], MAX_ROWS + 16);
    generic()->matmul_sum[type](&m, 0, groups, &act, N_X, &acc[0][0], MAX_ROWS + 16, bad);

    for (unsigned t = 0; t < N_X; t++) {
        assert_int_equal(bad[t], 0);
        for (uint32_t r = 0; r < rows; r++) {
            double truth = 0.0, size = 0.0;
            for (uint32_t c = col0; c < col0 + cols; c++) {
                const double w = (double)source_value(&source, r, c);
                const double x =
                    integer ? (double)x_scales[t][c / 32] * x_quants[t][c] : (double)x_rows[t][c];
                truth += w * x;
                size += fabs(w * x);
            }
            assert_true(fabs((double)y[t][r] - truth) <= size * (integer ? 1e-6 : 4e-6));
            assert_int_equal(acc[t][r], llrint((double)y[t][r] * 0x1p30));
            if (integer)
                assert_int_equal(bits_of(y[t][r]),
                                 bits_of(chain_by_hand(&source, r, col0, cols, t)));
        }
        for (uint32_t r = rows; r < groups * 16; r++)
            assert_true(y[t][r] == 0.0f && acc[t][r] == 0);
    }
}

static void test_products_right(void **state)
{
    (void)state;
    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        const enum kern_type t = (enum kern_type)type;
        check_product(t, 40, 0, MAX_COLS, 1);
        check_product(t, 17, 64, 288, 2);
        check_product(t, 1, 224, 32, 3);
        for (uint32_t col0 = 0; col0 < 256; col0 += 32)
            check_product(t, 5, col0, 416, 5 + col0);
    }
    check_product(KERN_F16, 5, 32, 201, 4);
}

/* One output of every float type, where only the canonical order gives the wanted bits. */
static float one_f32(const float *w, const float *x, uint32_t n)
{
    float y[16];
    struct kern_matrix m;
    const struct kern_act act = {.f = x, .f_stride = n};
    kern_matrix_pack(KERN_F32, 1, n, w, n * sizeof *w, 0, packed);
    kern_matrix_bind(&m, KERN_F32, 1, n, 0, packed);
    for (unsigned i = 1; kern_table_at(i) != NULL; i++) { /* the others too, for good measure */
        float z[16];
        if (!kern_table_runs(kern_table_at(i)))
            continue;
        kern_table_at(i)->matmul[KERN_F32](&m, 0, 1, &act, 1, z, 16);
        generic()->matmul[KERN_F32](&m, 0, 1, &act, 1, y, 16);
        assert_int_equal(bits_of(y[0]), bits_of(z[0]));
    }
    generic()->matmul[KERN_F32](&m, 0, 1, &act, 1, y, 16);
    return y[0];
}

static void test_canonical_order_f32(void **state)
{
    (void)state;
    float w[300], x[300];
    for (unsigned i = 0; i < 300; i++)
        w[i] = x[i] = 1.0f;
    /* 2^24 swallows the ones of its own segment one by one; those of the next come as a sum. */
    w[0] = 0x1p24f;
    assert_true(one_f32(w, x, 256) == 0x1p24f);
    assert_true(one_f32(w, x, 300) == 0x1p24f + 44.0f);
    assert_true(one_f32(w, x, 257) == 0x1p24f);

    w[0] = -(1.0f + 0x1p-11f); /* fused: the product's last bit survives */
    w[1] = x[1] = 1.0f + 0x1p-12f;
    assert_true(one_f32(w, x, 2) == 0x1p-24f);
    w[0] = 0x1p-149f; /* denormals count */
    x[1] = 0.0f;
    assert_true(one_f32(w, x, 2) == 0x1p-149f);
}

/* Scales multiply as (I * d) * a: with a chosen so, any other order rounds otherwise. */
static void test_canonical_order_q8_0(void **state)
{
    (void)state;
    uint8_t row[9 * 34];
    int8_t q[9 * 32] = {0};
    int16_t h[18] = {0};
    float a[9], y[16];
    struct kern_matrix m;
    const struct kern_act act = {.q = q, .a = a, .h = h, .q_stride = 9 * 32};
    const uint16_t d = kern_f16_from_f32(1.0f + 0x1p-10f);
    memset(row, 0, sizeof row);
    for (unsigned b = 0; b < 9; b++) {
        memcpy(row + b * 34, &d, 2);
        row[b * 34 + 2] = 127;
        row[b * 34 + 33] = 0x80; /* -128 */
        q[b * 32] = 127;
        q[b * 32 + 31] = -127;
        h[2 * b] = 127;
        h[2 * b + 1] = -127;
        a[b] = 1.0f + 0x1p-23f * (float)(3 + 2 * b);
    }
    float u = 0.0f, t = 0.0f;
    for (unsigned b = 0; b < 9; b++) {
        t = fmaf((127.0f * 127.0f + 128.0f * 127.0f) * (1.0f + 0x1p-10f), a[b], t);
        if (b == 7 || b == 8) {
            u = u + t;
            t = 0.0f;
        }
    }
    kern_matrix_pack(KERN_Q8_0, 1, 288, row, sizeof row, 0, packed);
    kern_matrix_bind(&m, KERN_Q8_0, 1, 288, 0, packed);
    generic()->matmul[KERN_Q8_0](&m, 0, 1, &act, 1, y, 16);
    assert_int_equal(bits_of(y[0]), bits_of(u));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack_and_back),       cmocka_unit_test(test_layout),
        cmocka_unit_test(test_packed_bytes),        cmocka_unit_test(test_products_right),
        cmocka_unit_test(test_canonical_order_f32), cmocka_unit_test(test_canonical_order_q8_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
