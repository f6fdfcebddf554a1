/* Packed matrices: taken back apart row by row, byte by byte as kernels.h writes the layout down,
 * and the definitions of the products against double precision and against hand-made cases whose
 * exact result only the canonical order gives. */
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

/* ---- packing -------------------------------------------------------------------------------- */

enum { MAX_ROWS = 40, MAX_COLS = 320 };

/* A row-major GGUF matrix of random weights, and what it stands for. */
struct source {
    uint8_t bytes[MAX_ROWS * (MAX_COLS * 4 + 3)];
    float value[MAX_ROWS][MAX_COLS]; /* exact, or d * q rounded once, as GGUF defines it */
    size_t stride;
};

static void source_row(uint64_t *rng, enum kern_type type, uint32_t n_cols, uint8_t *p,
                       float *value)
{
    const uint32_t block = kern_type_info(type)->block_cols;
    for (uint32_t c = 0; c < n_cols; c += block, p += kern_type_info(type)->block_bytes) {
        const float x = draw(rng);
        const uint16_t h = kern_f16_from_f32(x * 0.01f);
        const uint32_t f = type == KERN_BF16 ? bits_of(x) & 0xffff0000u : bits_of(x);
        if (type == KERN_F32 || type == KERN_BF16) {
            memcpy(p, (const uint8_t *)&f + (type == KERN_BF16 ? 2 : 0), type == KERN_BF16 ? 2 : 4);
            memcpy(&value[c], &f, 4);
            continue;
        }
        memcpy(p, &h, 2);
        value[c] = kern_f32_from_f16(h);
        for (uint32_t i = block; type != KERN_F16 && i-- > 0;) {
            const int low = (int)(base_rng_next(rng) % 256);
            if (type == KERN_Q8_0) {
                p[2 + i] = (uint8_t)low;
                value[c + i] = kern_f32_from_f16(h) * (float)(low < 128 ? low : low - 256);
            } else if (i < 16) { /* byte i: columns i and 16 + i */
                p[2 + i] = (uint8_t)low;
                value[c + 16 + i] = kern_f32_from_f16(h) * (float)(low / 16 - 8);
                value[c + i] = kern_f32_from_f16(h) * (float)(low % 16 - 8);
            }
        }
    }
}

static void source_fill(struct source *s, uint64_t seed, enum kern_type type, uint32_t n_rows,
                        uint32_t n_cols)
{
    const struct kern_type_info *info = kern_type_info(type);
    s->stride = n_cols / info->block_cols * info->block_bytes + 3; /* rows are not aligned */
    for (uint32_t r = 0; r < n_rows; r++)
        source_row(&seed, type, n_cols, s->bytes + r * s->stride, s->value[r]);
}

static struct source source;
static _Alignas(KERN_ALIGN) uint8_t packed[(MAX_ROWS + 16) * MAX_COLS * 4];

/* Every row of a packed run of columns is the source's, padding rows and bytes are zeros. */
static void test_pack_and_back(void **state)
{
    (void)state;
    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        const enum kern_type t = (enum kern_type)type;
        for (uint32_t rows = 1; rows <= MAX_ROWS; rows += 13) {
            const uint32_t step = kern_type_info(t)->block_cols == 1 ? 51 : 64;
            source_fill(&source, rows, t, rows, 256);
            for (uint32_t col0 = 0; col0 < 256 - step; col0 += step) {
                float row[MAX_COLS];
                struct kern_matrix m;
                const uint32_t cols = 256 - col0;
                memset(packed, 0xa5, sizeof packed);
                kern_matrix_pack(t, rows, cols, source.bytes, source.stride, col0, packed);
                assert_int_equal(packed[kern_packed_bytes(t, rows, cols)], 0xa5);
                kern_matrix_bind(&m, t, rows, cols, packed);
                for (uint32_t r = 0; r < rows; r++) {
                    kern_matrix_row(&m, r, row);
                    assert_memory_equal(row, source.value[r] + col0, cols * sizeof *row);
                }
                m.n_rows = (rows + 15) / 16 * 16;
                for (uint32_t r = rows; r < m.n_rows && !kern_type_info(t)->integer; r++) {
                    kern_matrix_row(&m, r, row);
                    for (uint32_t c = 0; c < cols; c++)
                        assert_int_equal(bits_of(row[c]), 0);
                }
            }
        }
    }
}

/* The layout that kernels.h writes down, byte by byte: stores and wires depend on it. */
static void test_layout(void **state)
{
    (void)state;
    uint8_t row[2][34];
    for (unsigned i = 0; i < 34; i++) {
        row[0][i] = (uint8_t)i;
        row[1][i] = (uint8_t)(100 + i);
    }
    assert_int_equal(kern_packed_bytes(KERN_Q8_0, 2, 32), 512 + 64);
    kern_matrix_pack(KERN_Q8_0, 2, 32, row, 34, 0, packed);
    for (unsigned c = 0; c < 32; c++) /* [granule][row][col % 4] */
        for (unsigned r = 0; r < 2; r++)
            assert_int_equal(packed[c / 4 * 64 + r * 4 + c % 4], row[r][2 + c]);
    assert_memory_equal(packed + 512, row[0], 2);
    assert_memory_equal(packed + 514, row[1], 2);
    assert_int_equal(packed[516], 0);

    assert_int_equal(kern_packed_bytes(KERN_Q4_0, 17, 64), 2 * (2 * 256) + 128);
    kern_matrix_pack(KERN_Q4_0, 1, 32, row, 18, 0, packed);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(packed[i / 4 * 64 + i % 4], row[0][2 + i]);
    assert_memory_equal(packed + 256, row[0], 2);

    kern_matrix_pack(KERN_F16, 2, 3, row, 34, 0, packed);
    for (unsigned c = 0; c < 3; c++)
        for (unsigned r = 0; r < 2; r++)
            assert_memory_equal(packed + c * 32 + r * 2, &row[r][2 * c], 2);
    assert_int_equal(kern_packed_bytes(KERN_F16, 2, 3), 128);
}

static void test_packed_bytes(void **state)
{
    (void)state;
    assert_int_equal(kern_packed_bytes(KERN_F32, 0, 32), 0);
    assert_int_equal(kern_packed_bytes(KERN_F32, 32, 0), 0);
    assert_int_equal(kern_packed_bytes(KERN_Q8_0, 16, 31), 0);
    assert_int_equal(kern_packed_bytes(KERN_Q4_0, 16, 33), 0);
    assert_int_equal(kern_packed_bytes(KERN_F32, UINT32_MAX, UINT32_MAX), 0);
    assert_int_equal(kern_packed_bytes(KERN_F32, 17, 3), 2 * 16 * 3 * 4);
    assert_int_equal(kern_packed_bytes(KERN_BF16, 1, 1), 64);

    enum kern_type t;
    assert_true(kern_type_from_ggml(2, &t) && t == KERN_Q4_0);
    assert_true(kern_type_from_ggml(30, &t) && t == KERN_BF16);
    assert_false(kern_type_from_ggml(3, &t));
    assert_int_equal(kern_kv_row_bytes(KERN_KV_F16, 80), 160);
    assert_int_equal(kern_kv_row_bytes(KERN_KV_F32, 80), 320);
}

/* ---- matrix products ------------------------------------------------------------------------ */

/* A full product, from GGUF bytes through packing, quantisation and a view of columns, against
 * double precision on the source's own values and, for integer types, on what the quantised rows
 * stand for. */
static void check_product(enum kern_type type, uint32_t rows, uint32_t cols, uint64_t seed)
{
    enum { N_X = 3 };
    static float x[N_X][MAX_COLS], y[N_X][MAX_ROWS + 16];
    static int8_t q[N_X][MAX_COLS];
    float a[N_X][MAX_COLS / 32];
    int16_t h[N_X][MAX_COLS / 16];
    const uint32_t col0 = cols > 64 ? 64 : 0;
    struct kern_matrix m;
    struct kern_act act = {&x[0][0], &q[0][0], &a[0][0], &h[0][0], MAX_COLS, MAX_COLS};

    source_fill(&source, seed, type, rows, cols);
    kern_matrix_pack(type, rows, cols - col0, source.bytes, source.stride, col0, packed);
    kern_matrix_bind(&m, type, rows, cols - col0, packed);
    for (unsigned t = 0; t < N_X; t++) {
        for (uint32_t c = 0; c < MAX_COLS; c++)
            x[t][c] = draw(&seed) * (c % 64 < 32 ? 3.0f : 0.1f);
        assert_true(generic()->quantise(x[t], MAX_COLS, q[t], a[t], h[t]));
    }
    act = kern_act_columns(act, col0);
    generic()->matmul[type](&m, 0, (rows + 15) / 16, &act, N_X, &y[0][0], MAX_ROWS + 16);

    for (unsigned t = 0; t < N_X; t++) {
        for (uint32_t r = 0; r < rows; r++) {
            double truth = 0.0, size = 0.0;
            for (uint32_t c = col0; c < cols; c++) {
                const double xc = kern_type_info(type)->integer ? (double)a[t][c / 32] * q[t][c]
                                                                : (double)x[t][c];
                truth += (double)source.value[r][c] * xc;
                size += fabs((double)source.value[r][c] * xc);
            }
            assert_true(fabs((double)y[t][r] - truth) <=
                        size * (kern_type_info(type)->integer ? 3e-7 : 4e-6));
        }
        for (uint32_t r = rows; r < (rows + 15) / 16 * 16; r++)
            assert_true(y[t][r] == 0.0f);
    }
}

static void test_products_right(void **state)
{
    (void)state;
    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        check_product((enum kern_type)type, 40, 320, 1);
        check_product((enum kern_type)type, 17, 288, 2);
        check_product((enum kern_type)type, 1, 32, 3);
    }
    check_product(KERN_F16, 5, 201, 4);
}

/* One output of every float type, where only the canonical order gives the wanted bits. */
static float one_f32(const float *w, const float *x, uint32_t n)
{
    float y[16];
    struct kern_matrix m;
    const struct kern_act act = {.f = x, .f_stride = n};
    kern_matrix_pack(KERN_F32, 1, n, w, n * sizeof *w, 0, packed);
    kern_matrix_bind(&m, KERN_F32, 1, n, packed);
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
    kern_matrix_bind(&m, KERN_Q8_0, 1, 288, packed);
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
