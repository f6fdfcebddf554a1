/* Every kernel of kernels.def against the definition, bit for bit: the idea is that a kernel has no
 * freedom at all, so any input will do as a test, and the nasty ones are best. Inputs are drawn in
 * styles (ordinary, signed zeros, denormals, huge, all exponents, saturated, any bits at all), in
 * sizes that leave tails, from pointers aligned no better than the contract says, between guard
 * bytes. The only pardon is for NaN: where both results are one, its sign and payload may differ,
 * as they do between processors (docs/numerics.md).
 *
 * That the definition itself is right is not asked here but in test_kernels.c. */
#include "tests/unit/kernel_cases.h"

#include "common/common.h"

#include <math.h>
#include <string.h>

/* The sanitizer sees reads past the end too, where no guard is in its way. */
#ifdef __SANITIZE_ADDRESS__
#define GUARD 0
#else
#define GUARD 64
#endif

/* ---- buffers -------------------------------------------------------------------------------- */

enum { BOXES_MAX = 24 };

/* All buffers of one comparison; freed together. */
struct boxes {
    struct {
        uint8_t *base, *end;
    } box[BOXES_MAX];
    unsigned n;
    uint64_t rng;
    bool overrun;
};

/* `bytes` bytes at an address that is `off` past a multiple of `align`, filled with 0xa5. */
static void *take(struct boxes *b, size_t bytes, size_t align, size_t off)
{
    uint8_t *base = base_alloc(align + off + bytes + GUARD);
    if (base == NULL || b->n == BOXES_MAX) {
        fprintf(stderr, "kernel_cases: out of memory\n");
        __builtin_trap();
    }
    uint8_t *p = (uint8_t *)(((uintptr_t)base + align - 1) / align * align) + off;
    memset(base, 0xa5, align + off + bytes + GUARD);
    b->box[b->n].base = base;
    b->box[b->n].end = p + bytes;
    b->n++;
    return p;
}

static void *take_input(struct boxes *b, size_t bytes, size_t off)
{
    return take(b, bytes, 16, off);
}

static void give_back(struct boxes *b)
{
    for (; b->n > 0; b->n--) {
        for (const uint8_t *p = b->box[b->n - 1].end; p != b->box[b->n - 1].end + GUARD; p++)
            b->overrun = b->overrun || *p != 0xa5;
        base_free(b->box[b->n - 1].base);
    }
}

/* ---- inputs --------------------------------------------------------------------------------- */

enum style {
    ORDINARY,
    ZEROS,
    DENORMALS,
    HUGE_VALUES,
    ALL_EXPONENTS,
    SATURATED,
    ANY_BITS,
    N_STYLES
};

static uint32_t draw(struct boxes *b)
{
    return (uint32_t)(base_rng_next(&b->rng) >> 32);
}

static float as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float draw_float(struct boxes *b, enum style style)
{
    const uint32_t bits = draw(b), sign_mantissa = bits & 0x807fffffu;
    switch (style) {
    case ORDINARY:
        return as_float(sign_mantissa | (117 + draw(b) % 12) << 23);
    case ZEROS:
        return as_float(bits & 0x80000000u);
    case DENORMALS:
        return as_float(sign_mantissa);
    case HUGE_VALUES:
        return as_float(sign_mantissa | (250 + draw(b) % 5) << 23);
    case ALL_EXPONENTS:
        return as_float(sign_mantissa | (draw(b) % 255) << 23);
    case SATURATED:
        return (bits & 1) != 0 ? 1.0f : -1.0f;
    default:
        return as_float(bits);
    }
}

static float *draw_floats(struct boxes *b, enum style style, size_t n, size_t off)
{
    float *x = take_input(b, n * sizeof *x, off);
    for (size_t i = 0; i < n; i++)
        x[i] = draw_float(b, style);
    return x;
}

static uint16_t draw_half(struct boxes *b, enum style style)
{
    const uint32_t bits = draw(b);
    switch (style) {
    case ORDINARY:
        return (uint16_t)((bits & 0x83ffu) | (8 + draw(b) % 10) << 10);
    case ZEROS:
        return (uint16_t)(bits & 0x8000u);
    case DENORMALS:
        return (uint16_t)(bits & 0x83ffu);
    case HUGE_VALUES:
    case SATURATED:
        return (uint16_t)((bits & 0x8000u) | 0x7bffu);
    case ALL_EXPONENTS:
        return (uint16_t)((bits & 0x83ffu) | (draw(b) % 31) << 10);
    default:
        return (uint16_t)bits;
    }
}

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

static void draw_matrix(struct boxes *b, enum style style, enum kern_type type, uint32_t rows,
                        uint32_t cols, struct kern_matrix *m)
{
    const size_t bytes = kern_packed_bytes(type, rows, cols);
    uint8_t *packed = take(b, bytes, KERN_ALIGN, 0);
    kern_matrix_bind(m, type, rows, cols, packed);
    const size_t quants = kern_type_info(type)->integer ? (size_t)(m->scales - m->quants) : 0;

    for (size_t i = 0; i < quants; i++) {
        const uint32_t r = draw(b);
        if (style == SATURATED && type == KERN_Q8_0)
            packed[i] = (r & 1) != 0 ? 0x80 : 0x7f;
        else
            packed[i] = style == SATURATED ? 0xff : style == ZEROS ? 0 : (uint8_t)r;
    }
    for (size_t i = quants; i < bytes;) {
        const float f = draw_float(b, style);
        const uint16_t h = draw_half(b, style);
        if (type == KERN_F32)
            memcpy(packed + i, &f, 4);
        else if (type == KERN_BF16)
            memcpy(packed + i, (const uint8_t *)&f + 2, 2);
        else
            memcpy(packed + i, &h, 2);
        i += type == KERN_F32 ? 4 : 2;
    }
}

/* Quantised rows as any quantiser might have made them, all extremes included. */
static struct kern_act draw_act(struct boxes *b, enum style style, bool integer, size_t n_x,
                                size_t cols)
{
    const size_t stride = (cols + 2 * KERN_BLOCK - 1) / KERN_BLOCK * KERN_BLOCK;
    struct kern_act x = {.f_stride = cols + 3, .q_stride = stride};
    if (!integer) {
        x.f = draw_floats(b, style, n_x * x.f_stride, 4);
        return x;
    }
    int8_t *q = take_input(b, n_x * stride, 0);
    int16_t *h = take_input(b, n_x * stride / 16 * sizeof *h, 2);
    for (size_t i = 0; i < n_x * stride / 16; i++) {
        h[i] = 0;
        for (size_t j = 16 * i; j < 16 * (i + 1); j++) {
            q[j] = style == ZEROS ? 0 : (int8_t)((int)(draw(b) % 255) - 127);
            if (style == SATURATED)
                q[j] = i % 3 == 0 ? 127 : i % 3 == 1 ? -127 : q[j] > 0 ? 127 : -127;
            h[i] = (int16_t)(h[i] + q[j]);
        }
    }
    x.q = q;
    x.h = h;
    x.a = draw_floats(b, style, n_x * stride / KERN_BLOCK, 4);
    return x;
}

/* One product three ways: the definition, the kernel at once, the kernel by groups and rows. */
static bool matmul_same(struct boxes *b, const struct kernel_case *c, const struct kern_table *t,
                        enum style style, uint32_t rows, uint32_t cols, uint32_t n_x)
{
    const struct kern_table *generic = kern_table_at(0);
    const enum kern_type type = (enum kern_type)c->index;
    const uint32_t groups = (rows + KERN_GROUP - 1) / KERN_GROUP;
    const size_t stride = groups * KERN_GROUP + 5, n_y = n_x * stride - 5;
    struct kern_matrix m;
    float *y[3];

    draw_matrix(b, style, type, rows, cols, &m);
    struct kern_act x = draw_act(b, style, kern_type_info(type)->integer, n_x, cols);
    for (unsigned i = 0; i < 3; i++)
        y[i] = take(b, n_y * sizeof(float), 16, 4);
    generic->matmul[type](&m, 0, groups, &x, n_x, y[0], stride);
    t->matmul[type](&m, 0, groups, &x, n_x, y[1], stride);
    for (uint32_t i = 0; i < n_x; i++) {
        struct kern_act row = x;
        row.f = x.f != NULL ? x.f + i * x.f_stride : NULL;
        row.q = x.q != NULL ? x.q + i * x.q_stride : NULL;
        row.a = x.a != NULL ? x.a + i * (x.q_stride / KERN_BLOCK) : NULL;
        row.h = x.h != NULL ? x.h + i * (x.q_stride / 16) : NULL;
        for (uint32_t g = 0; g < groups; g++)
            t->matmul[type](&m, g, g + 1, &row, 1, y[2] + i * stride, stride);
    }
    return same_floats(y[0], y[1], n_y) && same_floats(y[0], y[2], n_y);
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
    uint8_t *packed = take(b, kern_packed_bytes(type, 65536, 1), KERN_ALIGN, 0);

    for (uint32_t h = 0; h < 65536; h++)
        ((uint16_t *)(void *)packed)[h] = (uint16_t)h;
    kern_matrix_bind(&m, type, 65536, 1, packed);
    for (unsigned i = 0; i < 2; i++) {
        y[i] = take(b, 65536 * sizeof(float), 16, 0);
        (i == 0 ? kern_table_at(0) : t)
            ->matmul[type](&m, 0, 65536 / KERN_GROUP, &x, 1, y[i], 65536);
    }
    return same_floats(y[0], y[1], 65536);
}

static unsigned run_matmul(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    static const struct {
        uint32_t rows, cols; /* integer types round the columns up to blocks */
    } shapes[] = {{1, 1},   {5, 32},   {16, 255}, {17, 256}, {40, 257},
                  {33, 96}, {48, 288}, {64, 31},  {7, 544}};
    struct boxes b = {.rng = (uint64_t)c->index + 1};
    unsigned failures = 0;

    for (unsigned style = 0; style < N_STYLES; style++) {
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            const uint32_t block = kern_type_info((enum kern_type)c->index)->block_cols;
            const uint32_t cols = (shapes[s].cols + block - 1) / block * block;
            for (uint32_t n_x = 1 + style % 2; n_x <= 9; n_x += 1 + (uint32_t)s % 3) {
                const bool same =
                    matmul_same(&b, c, t, (enum style)style, shapes[s].rows, cols, n_x);
                give_back(&b);
                tally(c, same, &failures, out, (enum style)style, shapes[s].rows, cols, n_x);
            }
        }
    }
    if (c->index == KERN_F16 || c->index == KERN_BF16) {
        const bool same = every_half_same(&b, c, t);
        give_back(&b);
        tally(c, same, &failures, out, ANY_BITS, 65536, 1, 1);
    }
    return finish(c, &b, failures, out);
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

static bool quantise_same(struct boxes *b, const struct kern_table *t, enum style style, uint32_t n,
                          size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
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
            x[i] = i % 32 == 0 ? 127.0f : (float)((int)(draw(b) % 253) - 126) * 0.5f;
    int8_t *q[2];
    float *a[2];
    int16_t *h[2];
    bool ok[2];
    for (unsigned i = 0; i < 2; i++) {
        q[i] = take(b, n, 16, 0);
        a[i] = take(b, n / KERN_BLOCK * sizeof(float), 16, 4);
        h[i] = take(b, n / 16 * sizeof(int16_t), 16, 2);
        ok[i] = (i == 0 ? generic : t)->quantise(x, n, q[i], a[i], h[i]);
    }
    return ok[0] == ok[1] && memcmp(q[0], q[1], n) == 0 &&
           memcmp(a[0], a[1], n / 32 * sizeof(float)) == 0 &&
           memcmp(h[0], h[1], n / 16 * sizeof(int16_t)) == 0;
}

static unsigned run_quantise(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    struct boxes b = {.rng = 11};
    unsigned failures = 0;
    for (unsigned i = 0; i < 40 * N_STYLES; i++) {
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t n = KERN_BLOCK * (1 + i % 61);
        const bool same = quantise_same(&b, t, style, n, 4 * (i % 4));
        give_back(&b);
        tally(c, same, &failures, out, style, n, 1, i % 4);
    }
    return finish(c, &b, failures, out);
}

static bool unit_add_same(struct boxes *b, const struct kern_table *t, enum style style, uint32_t n,
                          size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
    float *u = draw_floats(b, style, n, off);
    for (uint32_t i = 0; style == SATURATED && i < n; i++) /* both ends of the range, and ties */
        u[i] = u[i] * (i % 3 == 0 ? 0x1p21f : i % 3 == 1 ? 0x1p-31f : 0x1.8p-30f);
    if (style == ORDINARY && n > 2 && off == 8)
        u[n - 1] = 0x1.000002p21f; /* refused, by the last element */
    int64_t *acc[2];
    bool ok[2];
    acc[0] = take(b, n * sizeof(int64_t), 16, 8);
    acc[1] = take(b, n * sizeof(int64_t), 16, 8);
    for (uint32_t i = 0; i < n; i++)
        acc[0][i] = acc[1][i] = (int64_t)(base_rng_next(&b->rng) >> 1) - ((int64_t)1 << 62);
    ok[0] = generic->unit_add(u, n, acc[0]);
    ok[1] = t->unit_add(u, n, acc[1]);
    return ok[0] == ok[1] && memcmp(acc[0], acc[1], n * sizeof(int64_t)) == 0;
}

static unsigned run_unit_add(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    struct boxes b = {.rng = 12};
    unsigned failures = 0;
    for (unsigned i = 0; i < 40 * N_STYLES; i++) {
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t n = 1 + i % 37;
        const bool same = unit_add_same(&b, t, style, n, 4 * (i % 4));
        give_back(&b);
        tally(c, same, &failures, out, style, n, 1, i % 4);
    }
    return finish(c, &b, failures, out);
}

static bool unit_close_same(struct boxes *b, const struct kern_table *t, enum style style,
                            uint32_t n, size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
    int64_t *acc = take_input(b, n * sizeof *acc, 8);
    for (uint32_t i = 0; i < n; i++) { /* every magnitude, and halfway cases of both roundings */
        acc[i] = (int64_t)base_rng_next(&b->rng) >> draw(b) % 64;
        if (style == SATURATED)
            acc[i] = (int64_t)(((uint64_t)acc[i] | 1) << draw(b) % 20);
    }
    if (style == HUGE_VALUES)
        acc[0] = INT64_MIN, acc[n - 1] = INT64_MAX;
    const float *bias = style == ZEROS ? NULL : draw_floats(b, style, n, off);
    float *x[2] = {draw_floats(b, style, n, off), take(b, n * sizeof(float), 16, off)};
    memcpy(x[1], x[0], n * sizeof(float));
    generic->unit_close(acc, n, bias, x[0]);
    t->unit_close(acc, n, bias, x[1]);
    return same_floats(x[0], x[1], n);
}

static unsigned run_unit_close(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    struct boxes b = {.rng = 13};
    unsigned failures = 0;
    for (unsigned i = 0; i < 40 * N_STYLES; i++) {
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t n = 1 + i % 37;
        const bool same = unit_close_same(&b, t, style, n, 4 * (i % 4));
        give_back(&b);
        tally(c, same, &failures, out, style, n, 1, i % 4);
    }
    return finish(c, &b, failures, out);
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
        y[i] = take(b, n * sizeof(float), 16, off);
    memcpy(y[2], x, n * sizeof(float));
    ok[0] = generic->rms_norm(x, weight, n, eps, y[0]);
    ok[1] = t->rms_norm(x, weight, n, eps, y[1]);
    ok[2] = t->rms_norm(y[2], weight, n, eps, y[2]);
    return ok[0] == ok[1] && ok[0] == ok[2] && same_floats(y[0], y[1], n) &&
           same_floats(y[0], y[2], n);
}

static unsigned run_rms_norm(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    struct boxes b = {.rng = 14};
    unsigned failures = 0;
    for (unsigned i = 0; i < 60 * N_STYLES; i++) {
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t n = 1 + i % 97;
        const bool same = rms_norm_same(&b, t, style, n, 4 * (i % 4));
        give_back(&b);
        tally(c, same, &failures, out, style, n, 1, i % 4);
    }
    return finish(c, &b, failures, out);
}

static bool silu_mul_same(struct boxes *b, const struct kern_table *t, enum style style, uint32_t n,
                          size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
    static const float edges[] = {87.0f, -87.0f,    88.0f,      -88.0f, 0.0f,
                                  -0.0f, 86.99999f, -88.00001f, 127.5f};
    float *gate = draw_floats(b, style, n, off);
    const float *up = draw_floats(b, style, n, off);
    for (uint32_t i = 0; i < n && (style == ORDINARY || style == SATURATED); i++)
        gate[i] = style == ORDINARY ? gate[i] * 60.0f : edges[i % 9];
    float *y[3];
    for (unsigned i = 0; i < 3; i++)
        y[i] = take(b, n * sizeof(float), 16, off);
    memcpy(y[2], gate, n * sizeof(float));
    generic->silu_mul(gate, up, n, y[0]);
    t->silu_mul(gate, up, n, y[1]);
    t->silu_mul(y[2], up, n, y[2]);
    return same_floats(y[0], y[1], n) && same_floats(y[0], y[2], n);
}

static unsigned run_silu_mul(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    struct boxes b = {.rng = 15};
    unsigned failures = 0;
    for (unsigned i = 0; i < 100 * N_STYLES; i++) {
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t n = 1 + i % 67;
        const bool same = silu_mul_same(&b, t, style, n, 4 * (i % 4));
        give_back(&b);
        tally(c, same, &failures, out, style, n, 1, i % 4);
    }
    return finish(c, &b, failures, out);
}

/* ---- keys and values ------------------------------------------------------------------------ */

static bool kv_store_same(struct boxes *b, const struct kernel_case *c, const struct kern_table *t,
                          enum style style, uint32_t n, size_t off)
{
    const struct kern_table *generic = kern_table_at(0);
    const size_t bytes = kern_kv_row_bytes((enum kern_kv_type)c->index, n);
    float *x = draw_floats(b, style, n, off);
    /* The range of F16, and where it ends. */
    for (uint32_t i = 0; style == ALL_EXPONENTS && i < n; i++)
        x[i] = i % 16 == 0 ? (off == 0 ? 0x1.ffdffep15f : -0x1.ffep15f)
                           : as_float((draw(b) & 0x807fffffu) | (100 + draw(b) % 42) << 23);
    void *row[2] = {take(b, bytes, 16, off / 2), take(b, bytes, 16, off / 2 / 4 * 4)};
    if (c->index == KERN_KV_F32)
        row[0] = take(b, bytes, 16, off), row[1] = take(b, bytes, 16, off);
    const bool ok0 = generic->kv_store[c->index](x, n, row[0]);
    const bool ok1 = t->kv_store[c->index](x, n, row[1]);
    return ok0 == ok1 && memcmp(row[0], row[1], bytes) == 0;
}

/* Around the middle between every two neighbouring halves, where rounding decides. */
static bool every_rounding_same(struct boxes *b, const struct kernel_case *c,
                                const struct kern_table *t)
{
    enum { N = 3 * 31 };
    float *x = take_input(b, N * sizeof *x, 0);
    uint16_t *row[2] = {take(b, N * 4, 16, 0), take(b, N * 4, 16, 0)};
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
        const uint32_t n = 1 + i % 135;
        const bool same = kv_store_same(&b, c, t, style, n, 4 * (i % 4));
        give_back(&b);
        tally(c, same, &failures, out, style, n, 1, i % 4);
    }
    const bool same = every_rounding_same(&b, c, t);
    give_back(&b);
    tally(c, same, &failures, out, ALL_EXPONENTS, 31743, 1, 0);
    return finish(c, &b, failures, out);
}

static void *draw_rows(struct boxes *b, enum style style, int kv, size_t n)
{
    void *rows;
    if (kv == KERN_KV_F32)
        return draw_floats(b, style, n, 4);
    rows = take_input(b, n * 2, 2);
    for (size_t i = 0; i < n; i++)
        ((uint16_t *)rows)[i] = draw_half(b, style);
    return rows;
}

static void set_element(void *rows, int kv, size_t i, float x)
{
    if (kv == KERN_KV_F32)
        ((float *)rows)[i] = x;
    else
        ((uint16_t *)rows)[i] = kern_f16_from_f32(x);
}

/* In place of zeros: scores that differ by 87 exactly, where exp becomes 0, all of them far below
 * those of positions that do not count, if such a position were given one. */
static void draw_edges(void *k, int kv, uint32_t head_dim, uint32_t n_pos)
{
    for (uint32_t p = 0; p < n_pos; p++)
        set_element(k, kv, (size_t)p * head_dim,
                    (n_pos % 2 == 0 ? -100.0f : 0.0f) - (p % 2 == 0 ? 87.0f : 0.0f));
}

static bool attend_same(struct boxes *b, const struct kernel_case *c, const struct kern_table *t,
                        enum style style, uint32_t head_dim, uint32_t first, uint32_t n_pos)
{
    const struct kern_table *generic = kern_table_at(0);
    const size_t n = (size_t)n_pos * head_dim;
    const float scale = style == ZEROS ? 1.0f : 0.11f;
    float *q = draw_floats(b, style == ZEROS ? SATURATED : style, head_dim, 4);
    void *k = draw_rows(b, style, c->index, n);
    const void *v = draw_rows(b, style == ZEROS ? SATURATED : style, c->index, n);
    float *out[2] = {take(b, head_dim * sizeof(float), 16, 4),
                     take(b, head_dim * sizeof(float), 16, 4)};
    if (style == ZEROS) {
        q[0] = 1.0f;
        draw_edges(k, c->index, head_dim, n_pos);
    }
    if (style == SATURATED && head_dim % 16 == 0) /* only the last score is not finite */
        set_element(k, c->index, n - 1, INFINITY);
    generic->attend[c->index](q, k, v, head_dim, first, n_pos, scale, out[0]);
    t->attend[c->index](q, k, v, head_dim, first, n_pos, scale, out[1]);
    return same_floats(out[0], out[1], head_dim);
}

static unsigned run_attend(const struct kernel_case *c, const struct kern_table *t, FILE *out)
{
    static const uint32_t dims[] = {1, 20, 32, 56, 64, 80, 100, 120, 512};
    static const struct {
        uint32_t first, n_pos;
    } spans[] = {{0, 1},     {0, 7},     {3, 20},    {0, 128}, {0, 129},
                 {127, 130}, {100, 300}, {256, 257}, {0, 401}};
    struct boxes b = {.rng = 17};
    unsigned failures = 0;
    for (unsigned i = 0; i < 189; i++) { /* each span with each style and three dims */
        const enum style style = (enum style)(i % N_STYLES);
        const uint32_t dim = dims[i % 9], first = spans[i / 21].first, n_pos = spans[i / 21].n_pos;
        const bool same = attend_same(&b, c, t, style, dim, first, n_pos);
        give_back(&b);
        tally(c, same, &failures, out, style, dim, n_pos, first);
    }
    return finish(c, &b, failures, out);
}

/* ---- the list ------------------------------------------------------------------------------- */

enum { KERN_ANY = 0 };
#define TABLE_generic      "generic"
#define TABLE_avx2         "avx2"
#define TABLE_neon         "neon"
#define TABLE_neon_dotprod "neon-dotprod"

static const struct kernel_case cases[] = {
#define KERNEL(op, type, isa, function, tile)                                                      \
    {#op, #type, TABLE_##isa, #function, tile, (int)KERN_##type, run_##op},
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
