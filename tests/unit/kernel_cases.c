/* Every kernel of kernels.def against the definition, bit for bit: the idea is that a kernel has no
 * freedom at all, so any input will do as a test, and the nasty ones are best. Inputs are drawn in
 * styles, in sizes that leave tails, from pointers aligned no better than the contract says, before
 * guard bytes (kernel_inputs.h). The only pardon is for NaN: where both results are one, its sign
 * and payload may differ, as they do between processors (docs/numerics.md).
 *
 * That the definition itself is right is not asked here but in test_kernels.c. */
#include "tests/unit/kernel_cases.h"
#include "tests/unit/kernel_inputs.h"

#include "common/common.h"

#include <math.h>
#include <string.h>

/* ---- comparison ----------------------------------------------------------------------------- */

static bool is_nan(uint32_t bits)
{
    return (bits & 0x7fffffffu) > 0x7f800000u;
}

static bool same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        if (x != y && !(is_nan(x) && is_nan(y)))
            return false;
    }
    return true;
}

/* Count one comparison; print it if it is the first that failed. */
static void tally(const struct kernel_case *c, bool same, unsigned *failures, FILE *out,
                  enum style style, size_t a, size_t b, size_t n)
{
    if (same)
        return;
    if (*failures == 0)
        fprintf(out,
                "# %s differs from the definition: style %d, size %zu x %zu, rows or offset %zu\n",
                c->function, (int)style, a, b, n);
    ++*failures;
}

static unsigned finish(const struct kernel_case *c, struct boxes *b, unsigned failures, FILE *out)
{
    if (b->overrun) {
        fprintf(out, "# %s wrote past the end of its output\n", c->function);
        failures++;
    }
    return failures;
}

/* ---- matrix products ------------------------------------------------------------------------ */

/* Bytes of quants: SATURATED ones are all ones, all zeros, or halves of bytes at either end, which
 * in every type but Q8_0 are the ends of its range. */
static void fill_quants(struct boxes *b, enum style style, enum kern_type type, uint8_t *p,
                        size_t n)
{
    static const uint8_t ends[4] = {0xff, 0x00, 0x0f, 0xf0},
                         ends_q8_0[4] = {0x80, 0x7f, 0x80, 0x7f};
    const unsigned fixed = draw_bits(b) % 3;
    for (size_t i = 0; i < n; i++) {
        const uint32_t r = draw_bits(b);
        const unsigned end = fixed < 2 ? fixed : r % 4;
        p[i] = (uint8_t)r;
        if (style == SATURATED)
            p[i] = type == KERN_Q8_0 ? ends_q8_0[end] : ends[end];
        else if (style == ZEROS)
            p[i] = 0;
    }
}

/* The integer scales of a block of a type with super-blocks. */
static void fill_scales(struct boxes *b, enum style style, enum kern_type type, uint8_t *p,
                        size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t r = (uint8_t)draw_bits(b);
        if (style == SATURATED)
            p[i] = type != KERN_Q6_K ? 63 : r % 4 == 0 ? 0x7f : 0x80;
        else
            p[i] = style == ZEROS ? 0 : type == KERN_Q6_K ? r : r & 63;
    }
}

/* A segment of n blocks; returns its end. halves: the style of F16 scales. */
static uint8_t *fill_segment(struct boxes *b, enum style style, enum style halves,
                             enum kern_type type, size_t n, uint8_t *p)
{
    const struct kern_type_info *info = kern_type_info(type);
    uint8_t *scales = p + info->head_bytes;
    const size_t padded = (info->head_bytes + n * info->scale_bytes + KERN_ALIGN - 1) / KERN_ALIGN;
    uint8_t *quants = p + padded * KERN_ALIGN;
    memset(p, 0, padded * KERN_ALIGN);
    fill_halves(b, halves, p, info->head_bytes);
    if (info->super)
        fill_scales(b, style, type, scales, n * info->scale_bytes);
    else
        fill_halves(b, halves, scales, n * info->scale_bytes);
    fill_quants(b, style, type, quants, n * info->quant_bytes);
    return quants + n * info->quant_bytes;
}

static void draw_matrix(struct boxes *b, enum style style, enum style halves, enum kern_type type,
                        uint32_t rows, uint32_t cols, uint32_t skip, struct kern_matrix *m)
{
    const size_t bytes = kern_packed_bytes(type, rows, cols, skip);
    uint8_t *p = box_take(b, bytes, KERN_ALIGN, 0), *const end = p + bytes;
    kern_matrix_bind(m, type, rows, cols, skip, p);
    m->small_pages = true; /* one way more to go; whole models are tested without */
    if (type == KERN_F16)
        fill_halves(b, style, p, bytes);
    for (; type == KERN_F32 && p < end; p += 4) {
        const float f = draw_float(b, style);
        memcpy(p, &f, 4);
    }
    for (; type == KERN_BF16 && p < end; p += 2) {
        const float f = draw_float(b, style);
        memcpy(p, (const uint8_t *)&f + 2, 2);
    }
    while (kern_type_info(type)->integer && p < end) { /* a group */
        const size_t n_blocks = cols / KERN_BLOCK, full = KERN_SEGMENT / KERN_BLOCK;
        for (size_t i = 0, n; i < n_blocks; i += n) {
            n = full - (i == 0 ? skip / KERN_BLOCK : 0);
            n = n < n_blocks - i ? n : n_blocks - i;
            p = fill_segment(b, style, halves, type, n, p);
        }
    }
}

/* Quantised rows as any quantiser might have made them, all extremes included. */
static struct kern_act draw_act(struct boxes *b, enum style style, bool integer, size_t n_x,
                                size_t cols)
{
    const size_t stride = (cols + 2 * KERN_BLOCK - 1) / KERN_BLOCK * KERN_BLOCK;
    const size_t n_blocks = n_x * stride / KERN_BLOCK;
    struct kern_act x = {.f_stride = cols + 3, .q_stride = stride};
    if (!integer) {
        x.f = draw_floats(b, style, n_x * x.f_stride, 4);
        return x;
    }
    int8_t *q = box_input(b, n_x * stride, 0);
    int16_t *h = box_input(b, 2 * n_blocks * sizeof *h, 2);
    float *a = draw_floats(b, style, n_blocks, 4), *s = box_input(b, n_blocks * sizeof *s, 4);
    for (size_t i = 0; i < 2 * n_blocks; i++) {
        h[i] = 0;
        for (size_t j = 16 * i; j < 16 * (i + 1); j++) {
            q[j] = style == ZEROS ? 0 : (int8_t)((int)(draw_bits(b) % 255) - 127);
            if (style == SATURATED)
                q[j] = i / 2 % 3 == 0 ? 127 : i / 2 % 3 == 1 ? -127 : q[j] > 0 ? 127 : -127;
            h[i] = (int16_t)(h[i] + q[j]);
        }
    }
    for (size_t i = 0; i < n_blocks; i++)
        s[i] = a[i] * (float)(h[2 * i] + h[2 * i + 1]);
    x.q = q;
    x.h = h;
    x.a = a;
    x.s = s;
    return x;
}

/* Row i of x alone. */
static struct kern_act act_row(struct kern_act x, size_t i)
{
    const size_t n_blocks = x.q_stride / KERN_BLOCK;
    if (x.f != NULL) {
        x.f += i * x.f_stride;
        return x;
    }
    x.q += i * x.q_stride;
    x.a += i * n_blocks;
    x.s += i * n_blocks;
    x.h += 2 * i * n_blocks;
    return x;
}

/* One product of a case: shape, and where its columns begin in a super-block. */
struct shape {
    uint32_t rows, cols, skip, n_x;
};

/* One product three ways: the definition, the kernel at once, the kernel by groups and rows. */
static bool matmul_same(struct boxes *b, const struct kernel_case *c, const struct kern_table *t,
                        enum style style, const struct shape *s)
{
    const enum kern_type type = (enum kern_type)c->index;
    const uint32_t groups = (s->rows + KERN_GROUP - 1) / KERN_GROUP;
    const size_t stride = groups * KERN_GROUP + 5, n_y = s->n_x * stride - 5;
    struct kern_matrix m;
    float *y[3];

    draw_matrix(b, style, style, type, s->rows, s->cols, s->skip, &m);
    const struct kern_act x = draw_act(b, style, kern_type_info(type)->integer, s->n_x, s->cols);
    for (unsigned i = 0; i < 3; i++)
        y[i] = box_take(b, n_y * sizeof(float), 16, 4);
    kern_table_at(0)->matmul[type](&m, 0, groups, &x, s->n_x, y[0], stride);
    t->matmul[type](&m, 0, groups, &x, s->n_x, y[1], stride);
    for (uint32_t i = 0; i < s->n_x; i++) {
        const struct kern_act row = act_row(x, i);
        for (uint32_t g = 0; g < groups; g++)
            t->matmul[type](&m, g, g + 1, &row, 1, y[2] + i * stride, stride);
    }
    return same_floats(y[0], y[1], n_y) && same_floats(y[0], y[2], n_y);
}

/* The same for sums. Rows of x are scaled down by steps, so that some are past the gate, some all
 * within and some smaller than the grid; a row past it must be marked, its sums mean nothing. */
static bool matmul_sum_same(struct boxes *b, const struct kernel_case *c,
                            const struct kern_table *t, enum style style, const struct shape *s)
{
    const enum kern_type type = (enum kern_type)c->index;
    const bool integer = kern_type_info(type)->integer;
    const uint32_t groups = (s->rows + KERN_GROUP - 1) / KERN_GROUP;
    const size_t stride = groups * KERN_GROUP + 5, n = s->n_x * stride - 5;
    struct kern_matrix m;
    int64_t *acc[3];
    uint8_t *bad[3];
    bool same = true;

    draw_matrix(b, style, style == SATURATED ? ORDINARY : style, type, s->rows, s->cols, s->skip,
                &m);
    const struct kern_act x = draw_act(b, style, integer, s->n_x, s->cols);
    const size_t per_row = integer ? x.q_stride / KERN_BLOCK : x.f_stride;
    for (size_t i = 0; i < s->n_x * per_row; i++) {
        float *value = (float *)(integer ? x.a : x.f) + i;
        *value = ldexpf(*value, -9 * (int)((i / per_row + s->n_x) % 4));
        if (integer)
            ((float *)x.s)[i] = *value * (float)(x.h[2 * i] + x.h[2 * i + 1]);
    }
    for (unsigned i = 0; i < 3; i++) {
        acc[i] = box_take(b, n * sizeof(int64_t), 16, 8);
        bad[i] = box_take(b, s->n_x, 16, 1); /* 0xa5, and stays so where nothing is wrong */
        for (size_t j = 0; j < n; j++)
            acc[i][j] =
                i > 0 ? acc[0][j] : (int64_t)(base_rng_next(&b->rng) >> 1) - ((int64_t)1 << 62);
    }
    memcpy(acc[2], acc[0], n * sizeof(int64_t));
    kern_table_at(0)->matmul_sum[type](&m, 0, groups, &x, s->n_x, acc[0], stride, bad[0]);
    t->matmul_sum[type](&m, 0, groups, &x, s->n_x, acc[1], stride, bad[1]);
    for (uint32_t i = 0; i < s->n_x; i++) {
        const struct kern_act row = act_row(x, i);
        for (uint32_t g = groups; g-- > 0;)
            t->matmul_sum[type](&m, g, g + 1, &row, 1, acc[2] + i * stride, stride, bad[2] + i);
        const size_t bytes = (stride - (i + 1 == s->n_x ? 5 : 0)) * sizeof(int64_t);
        if (bad[0][i] != 1)
            same = same && memcmp(acc[0] + i * stride, acc[1] + i * stride, bytes) == 0 &&
                   memcmp(acc[0] + i * stride, acc[2] + i * stride, bytes) == 0;
    }
    return same && memcmp(bad[0], bad[1], s->n_x) == 0 && memcmp(bad[0], bad[2], s->n_x) == 0;
}

/* All 65536 16-bit weights, one a row, times 1: the conversion alone. */
static bool every_half_same(struct boxes *b, const struct kernel_case *c,
                            const struct kern_table *t)
{
    const enum kern_type type = (enum kern_type)c->index;
    const float one = 1.0f;
    const struct kern_act x = {.f = &one, .f_stride = 1};
    float *y[2];
    struct kern_matrix m;
    uint8_t *packed = box_take(b, kern_packed_bytes(type, 65536, 1, 0), KERN_ALIGN, 0);

    for (uint32_t h = 0; h < 65536; h++)
        ((uint16_t *)(void *)packed)[h] = (uint16_t)h;
    kern_matrix_bind(&m, type, 65536, 1, 0, packed);
    for (unsigned i = 0; i < 2; i++) {
        y[i] = box_take(b, 65536 * sizeof(float), 16, 0);
        (i == 0 ? kern_table_at(0) : t)
            ->matmul[type](&m, 0, 65536 / KERN_GROUP, &x, 1, y[i], 65536);
    }
    return same_floats(y[0], y[1], 65536);
}

typedef bool product_same(struct boxes *b, const struct kernel_case *c, const struct kern_table *t,
                          enum style style, const struct shape *s);

static unsigned run_products(const struct kernel_case *c, const struct kern_table *t, FILE *out,
                             product_same *same_product)
{
    static const struct {
        uint32_t rows, cols; /* integer types round the columns up to blocks */
    } shapes[] = {{1, 1},   {5, 32},   {16, 255}, {17, 256}, {40, 257},
                  {33, 96}, {48, 288}, {64, 31},  {7, 544},  {24, 1056}};
    static const uint32_t n_x[] = {1, 4, 8, 2, 6, 3, 16, 5, 11, 7, 9, 21};
    const uint32_t cut = kern_type_cut((enum kern_type)c->index);
    struct boxes b = {.rng = (uint64_t)c->index + 1};
    unsigned failures = 0, i = 0;

    for (unsigned style = 0; style < N_STYLES; style++) {
        for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
            for (unsigned turn = 0; turn < 3; turn++, i++) {
                const struct shape s = {shapes[k].rows, (shapes[k].cols + cut - 1) / cut * cut,
                                        kern_column_skip((enum kern_type)c->index, i * KERN_BLOCK),
                                        turn == 0 ? 1 : n_x[(i + i / 12) % 12]};
                const bool same = same_product(&b, c, t, (enum style)style, &s);
                box_give_back(&b);
                tally(c, same, &failures, out, (enum style)style, s.rows, s.cols, s.n_x);
            }
        }
    }
    return finish(c, &b, failures, out);
}

static unsigned run_matmul(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    unsigned failures = run_products(c, t, out, matmul_same);
    if (c->index == KERN_F16 || c->index == KERN_BF16) {
        struct boxes b = {.rng = 1};
        const bool same = every_half_same(&b, c, t);
        box_give_back(&b);
        tally(c, same, &failures, out, ANY_BITS, 65536, 1, 1);
    }
    return failures;
}

static unsigned run_matmul_sum(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    return run_products(c, t, out, matmul_sum_same);
}

/* ---- rows ----------------------------------------------------------------------------------- */

/* Half of a block's largest value lands on 63.5 or just beside it: the most sensitive input. */
static void put_half_of_largest(float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += KERN_BLOCK) {
        float m = 0.0f;
        for (uint32_t j = i; j < i + KERN_BLOCK - 1; j++)
            m = fmaxf(m, fabsf(x[j]));
        x[i + KERN_BLOCK - 1] = m * (i / KERN_BLOCK % 2 == 0 ? 0.5f : -0.5f);
    }
}

/* One comparison of a row operation: n elements, inputs `off` bytes past an aligned address. */
typedef bool row_same(struct boxes *b, const struct kern_table *t, enum style style, uint32_t n,
                      size_t off);

/* n_turns of each style, of 1 to n_max times `step` elements. */
static unsigned run_rows(const struct kernel_case *c, const struct kern_table *t, FILE *out,
                         row_same *same_row, unsigned n_turns, uint32_t n_max, uint32_t step)
{
    struct boxes b = {.rng = n_max};
    unsigned failures = 0;
    for (unsigned i = 0; i < n_turns * N_STYLES; i++) {
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t n = step * (1 + i % n_max);
        const bool same = same_row(&b, t, style, n, 4 * (i % 4));
        box_give_back(&b);
        tally(c, same, &failures, out, style, n, 1, i % 4);
    }
    return finish(c, &b, failures, out);
}

static bool quantise_same(struct boxes *b, const struct kern_table *t, enum style style, uint32_t n,
                          size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
    const size_t n_blocks = n / KERN_BLOCK;
    float *x = draw_floats(b, style, n, off);
    if (style == ORDINARY || style == HUGE_VALUES)
        put_half_of_largest(x, n);
    if (style == ORDINARY && n > 32) { /* one block just below the threshold of zeros, one at it */
        for (size_t i = 0; i < 64; i++)
            x[i] = x[i] * 0x1p-110f;
        x[3] = -0x1.fffffep-101f;
        x[35] = 0x1p-100f;
    }
    if (style == SATURATED) /* ties: halves of integers with m = 127 */
        for (size_t i = 0; i < n; i++)
            x[i] = i % 32 == 0 ? 127.0f : (float)((int)(draw_bits(b) % 253) - 126) * 0.5f;
    int8_t *q[2];
    float *a[2], *s[2];
    int16_t *h[2];
    bool ok[2];
    for (unsigned i = 0; i < 2; i++) {
        q[i] = box_take(b, n, 16, 0);
        a[i] = box_take(b, n_blocks * sizeof(float), 16, 4);
        s[i] = box_take(b, n_blocks * sizeof(float), 16, 4);
        h[i] = box_take(b, n / 16 * sizeof(int16_t), 16, 2);
        ok[i] = (i == 0 ? generic : t)->quantise(x, n, q[i], a[i], s[i], h[i]);
    }
    return ok[0] == ok[1] && memcmp(q[0], q[1], n) == 0 && same_floats(a[0], a[1], n_blocks) &&
           same_floats(s[0], s[1], n_blocks) && memcmp(h[0], h[1], n / 16 * sizeof(int16_t)) == 0;
}

static unsigned run_quantise(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    return run_rows(c, t, out, quantise_same, 40, 61, KERN_BLOCK);
}

static bool unit_close_same(struct boxes *b, const struct kern_table *t, enum style style,
                            uint32_t n, size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
    int64_t *acc = box_input(b, n * sizeof *acc, 8);
    for (uint32_t i = 0; i < n; i++) { /* every magnitude, and halfway cases of both roundings */
        acc[i] = (int64_t)base_rng_next(&b->rng) >> draw_bits(b) % 64;
        if (style == SATURATED)
            acc[i] = (int64_t)(((uint64_t)acc[i] | 1) << draw_bits(b) % 20);
    }
    if (style == HUGE_VALUES)
        acc[0] = INT64_MIN, acc[n - 1] = INT64_MAX;
    const float *bias = style == ZEROS ? NULL : draw_floats(b, style, n, off);
    float *x[2] = {draw_floats(b, style, n, off), box_take(b, n * sizeof(float), 16, off)};
    memcpy(x[1], x[0], n * sizeof(float));
    generic->unit_close(acc, n, bias, x[0]);
    t->unit_close(acc, n, bias, x[1]);
    return same_floats(x[0], x[1], n);
}

static unsigned run_unit_close(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    return run_rows(c, t, out, unit_close_same, 40, 37, 1);
}

static bool rms_norm_same(struct boxes *b, const struct kern_table *t, enum style style, uint32_t n,
                          size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
    const float eps = style == DENORMALS ? 0.0f : 1e-5f;
    const float *x = draw_floats(b, style, n, off), *weight = draw_floats(b, ORDINARY, n, off);
    float *y[3];
    bool ok[3];
    for (unsigned i = 0; i < 3; i++)
        y[i] = box_take(b, n * sizeof(float), 16, off);
    memcpy(y[2], x, n * sizeof(float));
    ok[0] = generic->rms_norm(x, weight, n, eps, y[0]);
    ok[1] = t->rms_norm(x, weight, n, eps, y[1]);
    ok[2] = t->rms_norm(y[2], weight, n, eps, y[2]);
    return ok[0] == ok[1] && ok[0] == ok[2] && same_floats(y[0], y[1], n) &&
           same_floats(y[0], y[2], n);
}

static unsigned run_rms_norm(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    return run_rows(c, t, out, rms_norm_same, 60, 97, 1);
}

/* silu_mul and gelu_mul: `kernel` is one of them, `definition` its definition. */
typedef void gate_mul(const float *gate, const float *up, uint32_t n, float *y);

static bool gate_mul_same(struct boxes *b, gate_mul *definition, gate_mul *kernel, enum style style,
                          uint32_t n, size_t off)
{
    static const float edges[] = {87.0f, -87.0f,     88.0f,  -88.0f, 0.0f,   -0.0f, 86.99999f,
                                  10.0f, -88.00001f, 127.5f, -9.9f,  -10.1f, 5e18f, -3e38f};
    float *gate = draw_floats(b, style, n, off);
    const float *up = draw_floats(b, style, n, off);
    for (uint32_t i = 0; i < n && (style == ORDINARY || style == SATURATED); i++)
        gate[i] = style == ORDINARY ? gate[i] * (off == 4 ? 4.0f : 60.0f) : edges[i % 14];
    float *y[3];
    for (unsigned i = 0; i < 3; i++)
        y[i] = box_take(b, n * sizeof(float), 16, off);
    memcpy(y[2], gate, n * sizeof(float));
    definition(gate, up, n, y[0]);
    kernel(gate, up, n, y[1]);
    kernel(y[2], up, n, y[2]);
    return same_floats(y[0], y[1], n) && same_floats(y[0], y[2], n);
}

static bool silu_mul_same(struct boxes *b, const struct kern_table *t, enum style style, uint32_t n,
                          size_t off)
{
    return gate_mul_same(b, kern_table_at(0)->silu_mul, t->silu_mul, style, n, off);
}

static unsigned run_silu_mul(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    return run_rows(c, t, out, silu_mul_same, 100, 67, 1);
}

static bool gelu_mul_same(struct boxes *b, const struct kern_table *t, enum style style, uint32_t n,
                          size_t off)
{
    return gate_mul_same(b, kern_table_at(0)->gelu_mul, t->gelu_mul, style, n, off);
}

static unsigned run_gelu_mul(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    return run_rows(c, t, out, gelu_mul_same, 100, 67, 1);
}

/* ---- keys and values ------------------------------------------------------------------------ */

/* The least magnitude that a row of this type refuses. */
static float kv_limit(int kv)
{
    return kv == KERN_KV_F16 ? 65520.0f : kv == KERN_KV_Q8_0 ? 65520.0f * 127.0f : INFINITY;
}

static bool kv_store_same(struct boxes *b, const struct kernel_case *c, const struct kern_table *t,
                          enum style style, uint32_t n, size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
    const size_t bytes = kern_kv_row_bytes((enum kern_kv_type)c->index, n);
    const float limit = kv_limit(c->index);
    const size_t row_off = c->index == KERN_KV_F32 ? off : off / 2; /* as its elements need */
    float *x = draw_floats(b, style, n, off);
    /* The type's range, and where it ends. */
    for (uint32_t i = 0; style == ALL_EXPONENTS && i < n; i++)
        x[i] = i % 16 == 0
                   ? (off == 0 ? nextafterf(limit, 0.0f) : -limit)
                   : float_of_bits((draw_bits(b) & 0x807fffffu) | (100 + draw_bits(b) % 42) << 23);
    if (c->index == KERN_KV_Q8_0 && style == ORDINARY)
        put_half_of_largest(x, n);
    void *row[2] = {box_take(b, bytes, 16, row_off), box_take(b, bytes, 16, row_off)};
    const bool ok0 = generic->kv_store[c->index](x, n, row[0]);
    const bool ok1 = t->kv_store[c->index](x, n, row[1]);
    return ok0 == ok1 && memcmp(row[0], row[1], bytes) == 0;
}

/* Around the middle between every two neighbouring halves, where rounding decides. */
static bool every_rounding_same(struct boxes *b, const struct kernel_case *c,
                                const struct kern_table *t)
{
    enum { N = 3 * 31 };
    float *x = box_input(b, N * sizeof *x, 0);
    uint16_t *row[2] = {box_take(b, N * 4, 16, 0), box_take(b, N * 4, 16, 0)};
    bool same = true;
    for (uint32_t h = 0; h + 31 <= 0x7bff; h += 31) {
        for (uint32_t i = 0; i < 31; i++) {
            const float low = kern_f32_from_f16((uint16_t)(h + i));
            const float high = kern_f32_from_f16((uint16_t)(h + i + 1));
            x[3 * i] = (low + high) * 0.5f;
            x[3 * i + 1] = nextafterf(x[3 * i], 0.0f);
            x[3 * i + 2] = -nextafterf(x[3 * i], INFINITY);
        }
        same = kern_table_at(0)->kv_store[c->index](x, N, row[0]) && same;
        same = t->kv_store[c->index](x, N, row[1]) && same;
        same = memcmp(row[0], row[1], N * 4) == 0 && same;
    }
    return same;
}

static unsigned run_kv_store(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    struct boxes b = {.rng = 16};
    unsigned failures = 0;
    for (unsigned i = 0; i < 60 * N_STYLES; i++) {
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t n = c->index == KERN_KV_Q8_0 ? KERN_BLOCK * (1 + i % 16) : 1 + i % 135;
        const bool same = kv_store_same(&b, c, t, style, n, 4 * (i % 4));
        box_give_back(&b);
        tally(c, same, &failures, out, style, n, 1, i % 4);
    }
    if (c->index != KERN_KV_Q8_0) {
        const bool same = every_rounding_same(&b, c, t);
        box_give_back(&b);
        tally(c, same, &failures, out, ALL_EXPONENTS, 31743, 1, 0);
    }
    return finish(c, &b, failures, out);
}

/* n_pos rows, each as its type's kv_store may leave it. */
static void *draw_rows(struct boxes *b, enum style style, int kv, uint32_t n_pos, uint32_t head_dim)
{
    const size_t row_bytes = kern_kv_row_bytes((enum kern_kv_type)kv, head_dim);
    if (kv == KERN_KV_F32)
        return draw_floats(b, style, (size_t)n_pos * head_dim, 4);
    uint8_t *rows = box_input(b, n_pos * row_bytes, 2);
    for (size_t p = 0; p < n_pos; p++) {
        uint8_t *row = rows + p * row_bytes;
        const size_t n_quants = kv == KERN_KV_Q8_0 ? head_dim : 0;
        for (size_t i = 0; i < n_quants; i++) {
            const int q = style == ZEROS ? 0 : (int)(draw_bits(b) % 255) - 127;
            row[i] = (uint8_t)(style != SATURATED ? q : q < 0 ? -127 : 127);
        }
        fill_halves(b, style, row + n_quants, row_bytes - n_quants);
    }
    return rows;
}

/* In place of zeros: scores that differ by 87 exactly, where exp becomes 0, all of them far below
 * those of positions that do not count, if such a position were given one. F16 and F32. */
static void draw_edges(void *k, int kv, uint32_t head_dim, uint32_t n_pos)
{
    for (uint32_t p = 0; p < n_pos; p++) {
        const float x = (n_pos % 2 == 0 ? -100.0f : 0.0f) - (p % 2 == 0 ? 87.0f : 0.0f);
        if (kv == KERN_KV_F32)
            ((float *)k)[(size_t)p * head_dim] = x;
        else
            ((uint16_t *)k)[(size_t)p * head_dim] = kern_f16_from_f32(x);
    }
}

/* Queries of one call as a prompt has them: several heads of a row see the same positions, the next
 * row one more; every fourth looks back over a window only. */
static bool attend_same(struct boxes *b, const struct kernel_case *c, const struct kern_table *t,
                        enum style style, uint32_t head_dim, uint32_t first, uint32_t n_pos,
                        uint32_t n_q)
{
    const int kv = c->index;
    const size_t row_bytes = kern_kv_row_bytes((enum kern_kv_type)kv, head_dim);
    const float scale = style == ZEROS ? 1.0f : 0.11f;
    const enum style other = style == ZEROS ? SATURATED : style;
    struct kern_query list[3][KERN_QUERIES_MAX];
    float *q = draw_floats(b, other, (size_t)n_q * head_dim, 4), *out[3];
    uint8_t *k = draw_rows(b, style, kv, n_pos, head_dim);
    const void *v = draw_rows(b, other, kv, n_pos, head_dim);

    for (unsigned i = 0; i < 3; i++)
        out[i] = box_take(b, (size_t)n_q * head_dim * sizeof(float), 16, 4);
    for (uint32_t i = 0; i < n_q; i++) {
        const uint32_t back = i / 3, end = n_pos > first + back ? n_pos - back : first + 1;
        const uint32_t begin = i % 4 == 3 && end > first + 37 ? end - 37 : first;
        for (unsigned j = 0; j < 3; j++)
            list[j][i] = (struct kern_query){q + (size_t)i * head_dim,
                                             out[j] + (size_t)i * head_dim, begin, end};
        if (style == ZEROS)
            q[(size_t)i * head_dim] = 1.0f;
    }
    if (style == ZEROS && kv != KERN_KV_Q8_0)
        draw_edges(k, kv, head_dim, n_pos);
    if (style == SATURATED && head_dim % 32 == 0) { /* only the last score is not finite */
        const float infinite = INFINITY;
        const uint16_t half = 0x7c00;
        if (kv == KERN_KV_F32)
            memcpy(k + n_pos * row_bytes - 4, &infinite, 4);
        else
            memcpy(k + n_pos * row_bytes - 2, &half, 2);
    }
    kern_table_at(0)->attend[kv](list[0], n_q, k, v, head_dim, scale);
    t->attend[kv](list[1], n_q, k, v, head_dim, scale);
    t->attend[kv](&list[2][n_q - 1], 1, k, v, head_dim, scale); /* the last one alone */
    const size_t n = (size_t)n_q * head_dim, last = n - head_dim;
    return same_floats(out[0], out[1], n) && same_floats(out[0] + last, out[2] + last, head_dim);
}

static unsigned run_attend(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    static const uint32_t dims[] = {1, 20, 32, 56, 64, 80, 100, 120, 512};
    static const uint32_t dims_q8_0[] = {32, 64, 96, 128, 160, 256, 288, 320, 512};
    static const uint32_t n_qs[] = {1, 2, 7, 3, 16, 4, 9, 5};
    static const struct {
        uint32_t first, n_pos;
    } spans[] = {{0, 1},     {0, 7},     {3, 20},    {0, 128}, {0, 129},
                 {127, 130}, {100, 300}, {256, 257}, {0, 401}};
    struct boxes b = {.rng = 17};
    unsigned failures = 0;
    /* Each span with each style and three dims; then one full call. */
    for (unsigned i = 0; i < 190; i++) {
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t dim = (c->index == KERN_KV_Q8_0 ? dims_q8_0 : dims)[i % 9];
        const uint32_t first = spans[i / 21 % 9].first, n_pos = spans[i / 21 % 9].n_pos;
        const uint32_t n_q = i == 189 ? KERN_QUERIES_MAX : n_qs[i % 8];
        const bool same = attend_same(&b, c, t, style, dim, first, n_pos, n_q);
        box_give_back(&b);
        tally(c, same, &failures, out, style, dim, n_pos, n_q);
    }
    return finish(c, &b, failures, out);
}

/* ---- the list ------------------------------------------------------------------------------- */

enum { KERN_ANY = 0 };
enum {
#define SET(id, name, base) SET_##id,
#include "kernels/sets.def"
};
static const char set_names[][16] = {
#define SET(id, name, base) name,
#include "kernels/sets.def"
};

static const struct kernel_case cases[] = {
#define KERNEL(op, type, isa, function, tile)                                                      \
    {#op, #type, set_names[SET_##isa], #function, tile, (int)KERN_##type, run_##op},
#include "kernels/kernels.def"
};

const struct kernel_case *kernel_case_at(size_t i)
{
    return i < sizeof cases / sizeof cases[0] ? &cases[i] : NULL;
}

unsigned kernel_cases_run(const struct kern_table *t, FILE *out)
{
    unsigned failures = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (strcmp(cases[i].table, t->name) == 0)
            failures += cases[i].run(&cases[i], t, out);
    return failures;
}
