/* A number for the bits that a table computes here: every slot and every function run on fixed
 * inputs, all outputs fed to FNV-1a (Fowler, Noll, Vo; 64 bits). Two machines whose numbers differ
 * must not share a ring; compilers with wrong flags, emulators and a floating point unit that
 * flushes denormals are caught by it before they spoil a text. So the inputs hold denormals, long
 * chains that differ when an addition is fused or reordered, a short last segment and saturated
 * blocks, and no result is a NaN, whose bits no standard fixes. The inputs come from a seeded
 * generator and exact operations. */
#include "common/common.h"
#include "kernels/internal.h"

#include <math.h>

/* SKIP: of types with super-blocks, so that segments are short at either end. */
enum { ROWS = 24, COLS = 288, SKIP = 64, XROWS = 3, DIM = 64, POSITIONS = 200, QUERIES = 3 };

struct work {
    _Alignas(KERN_ALIGN) uint8_t packed[2 * KERN_GROUP * COLS * 4];
    _Alignas(KERN_ALIGN) float x[XROWS * COLS];
    float a[XROWS * COLS / 32], s[XROWS * COLS / 32];
    int16_t h[XROWS * COLS / 16];
    int8_t q[XROWS * COLS];
    float y[XROWS * 2 * KERN_GROUP];
    int64_t sums[COLS];
    float out[QUERIES * DIM];
    float k[POSITIONS * DIM], v[POSITIONS * DIM]; /* rows of any KV type */
    uint64_t rng, hash;
};

static void feed(struct work *w, const void *p, size_t bytes)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < bytes; i++)
        w->hash = (w->hash ^ b[i]) * 0x100000001b3u;
}

static uint32_t draw(struct work *w)
{
    return (uint32_t)(base_rng_next(&w->rng) >> 32);
}

/* Values of either sign between 2^-spread and 2, all exponents equally often. */
static float draw_float(struct work *w, unsigned spread)
{
    const uint32_t bits = draw(w);
    const uint32_t exponent = 127 - draw(w) % (spread + 1);
    return kern_float((bits & 0x807fffffu) | (exponent << 23));
}

static void draw_floats(struct work *w, unsigned spread, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = draw_float(w, spread);
}

/* F16 below 2 in size, so that no sum leaves its range; some are denormals. */
static void draw_halves(struct work *w, uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 2) {
        const uint32_t bits = draw(w);
        const uint16_t half = (uint16_t)(bits & (bits >> 29 == 0 ? 0x83ff : 0xbfff));
        memcpy(p + i, &half, 2);
    }
}

/* A segment of n blocks: random, but its first two blocks are the extremes of its type. */
static uint8_t *draw_segment(struct work *w, enum kern_type type, size_t n, uint8_t *p)
{
    const struct kern_type_info *info = kern_type_info(type);
    uint8_t *scales = p + info->head_bytes;
    uint8_t *quants = p + KERN_SEGMENT_HEAD(info->head_bytes, info->scale_bytes, n);
    draw_halves(w, p, info->head_bytes);
    memset(scales, 0, (size_t)(quants - scales));
    for (size_t b = 0; b < n; b++, scales += info->scale_bytes, quants += info->quant_bytes) {
        for (size_t i = 0; i < info->quant_bytes; i++)
            quants[i] = (uint8_t)draw(w);
        if (b < 2 && type == KERN_Q8_0)
            memset(quants, b == 0 ? 0x80 : 0x7f, info->quant_bytes);
        else if (b < 2)
            memset(quants, b == 0 ? 0xff : 0, info->quant_bytes);
        if (!info->super) {
            draw_halves(w, scales, info->scale_bytes);
            continue;
        }
        for (size_t i = 0; i < info->scale_bytes; i++) {
            if (type == KERN_Q6_K)
                scales[i] = (uint8_t)(b < 2 ? 0x80 : draw(w));
            else
                scales[i] = (uint8_t)(b < 2 ? 63 : draw(w) & 63);
        }
    }
    return quants;
}

static void draw_weights(struct work *w, enum kern_type type, struct kern_matrix *m)
{
    const uint32_t skip = kern_column_skip(type, SKIP);
    const size_t bytes = kern_packed_bytes(type, ROWS, COLS, skip), n_blocks = COLS / KERN_BLOCK;
    kern_matrix_bind(m, type, ROWS, COLS, skip, w->packed);
    if (type == KERN_F16) {
        draw_halves(w, w->packed, bytes);
    } else if (!kern_type_info(type)->integer) { /* BF16 is the upper half of an F32 */
        const size_t size = type == KERN_F32 ? 4 : 2;
        for (size_t i = 0; i < bytes; i += size) {
            const uint32_t bits = draw(w);
            const float value = bits % 8 == 0 ? kern_float(bits & 0x807fffffu) : draw_float(w, 20);
            memcpy(w->packed + i, (const uint8_t *)&value + 4 - size, size);
        }
    } else {
        uint8_t *p = w->packed;
        for (unsigned group = 0; group < 2; group++)
            for (size_t b = 0; b < n_blocks; b += kern_segment_blocks(b, n_blocks, skip))
                p = draw_segment(w, type, kern_segment_blocks(b, n_blocks, skip), p);
    }
}

/* Half of a block's largest value lands on 63.5 or just beside it: the most sensitive input of the
 * quantiser. */
static void put_half_of_largest(float *block)
{
    float m = 0.0f;
    for (size_t i = 0; i < KERN_BLOCK - 1; i++)
        m = fabsf(block[i]) > m ? fabsf(block[i]) : m;
    block[KERN_BLOCK - 1] = m * 0.5f;
}

static void hash_quantise(const struct kern_table *t, struct work *w)
{
    draw_floats(w, 12, w->x, XROWS * COLS);
    for (size_t i = 0; i < XROWS * COLS; i += KERN_BLOCK)
        put_half_of_largest(w->x + i);
    for (size_t i = 0; i < 64; i++)
        w->x[i] = i < 32 ? 1.5f : -1.5f;
    for (size_t i = 32; i < 64; i++)
        w->x[COLS + i] = kern_float(draw(w) & 0x807fffffu);
    for (size_t i = 0; i < XROWS; i++) {
        const size_t block = i * (COLS / KERN_BLOCK);
        const bool finite = t->quantise(w->x + i * COLS, COLS, w->q + i * COLS, w->a + block,
                                        w->s + block, w->h + 2 * block);
        feed(w, &finite, 1);
    }
    feed(w, w->q, sizeof w->q);
    feed(w, w->a, sizeof w->a);
    feed(w, w->s, sizeof w->s);
    feed(w, w->h, sizeof w->h);
}

/* Products, and sums in which the last row of x is past the gate. */
static void hash_matmul(const struct kern_table *t, struct work *w)
{
    enum { STRIDE = 2 * KERN_GROUP, LAST = XROWS - 1 };
    const struct kern_act act = {w->x, w->q, w->a, w->s, w->h, COLS, COLS};
    float *const last_x = &w->x[LAST * COLS + 100], *const last_a = &w->a[LAST * (COLS / 32) + 3];
    const float x = *last_x, a = *last_a;

    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        struct kern_matrix m;
        uint8_t bad[XROWS] = {0};
        draw_weights(w, (enum kern_type)type, &m);
        t->matmul[type](&m, 0, 2, &act, XROWS, w->y, STRIDE);
        feed(w, w->y, sizeof w->y);

        *last_x = *last_a = 0x1p100f;
        for (size_t i = 0; i < COLS; i++)
            w->sums[i] = (int64_t)i;
        t->matmul_sum[type](&m, 0, 2, &act, XROWS, w->sums, STRIDE, bad);
        feed(w, w->sums, LAST * STRIDE * sizeof w->sums[0]);
        feed(w, bad, sizeof bad);
        *last_x = x;
        *last_a = a;
    }
}

static void hash_rows(const struct kern_table *t, struct work *w)
{
    float *const up = w->x + COLS, *const y = w->x + 2 * COLS;
    draw_floats(w, 24, w->x, 2 * COLS);

    t->silu_mul(w->x, up, COLS - 3, y);
    feed(w, y, (COLS - 3) * sizeof *y);
    const bool finite = t->rms_norm(w->x, up, COLS - 5, 1e-6f, y);
    feed(w, &finite, 1);
    feed(w, y, (COLS - 5) * sizeof *y);

    t->gelu_mul(w->x, up, COLS - 3, y);
    feed(w, y, (COLS - 3) * sizeof *y);
    for (size_t i = 0; i < COLS; i++) /* magnitudes up to 2^62 */
        w->sums[i] = (int64_t)base_rng_next(&w->rng) >> (1 + i % 40);
    t->unit_close(w->sums, COLS - 1, up, w->x);
    t->unit_close(w->sums, COLS - 1, NULL, w->x);
    feed(w, w->x, COLS * sizeof *w->x);
}

static void hash_attention(const struct kern_table *t, struct work *w)
{
    for (unsigned type = 0; type < KERN_N_KV_TYPES; type++) {
        const size_t row_bytes = kern_kv_row_bytes((enum kern_kv_type)type, DIM);
        memset(w->k, 0, sizeof w->k);
        memset(w->v, 0, sizeof w->v);
        for (size_t p = 0; p < POSITIONS; p++) {
            draw_floats(w, 20, w->x, 2 * DIM);
            const bool stored = t->kv_store[type](w->x, DIM, (uint8_t *)w->k + p * row_bytes) &&
                                t->kv_store[type](w->x + DIM, DIM, (uint8_t *)w->v + p * row_bytes);
            feed(w, &stored, 1);
        }
        feed(w, w->k, sizeof w->k);
        static const uint32_t span[QUERIES][2] = {{0, 5}, {0, POSITIONS - 1}, {77, POSITIONS}};
        struct kern_query list[QUERIES];
        draw_floats(w, 6, w->x, QUERIES * DIM);
        for (unsigned i = 0; i < QUERIES; i++)
            list[i] = (struct kern_query){w->x + (size_t)i * DIM, w->out + (size_t)i * DIM,
                                          span[i][0], span[i][1]};
        t->attend[type](list, QUERIES, w->k, w->v, DIM, 0.125f);
        feed(w, w->out, sizeof w->out);
    }
}

static void hash_functions(struct work *w)
{
    for (unsigned i = 0; i < 64; i++) {
        const float x = draw_float(w, 30) * 40.0f;
        const float e = kern_exp(x);
        const uint16_t half = kern_f16_from_f32(x * 0x1p-8f);
        double value[4] = {kern_log_f64(fabs((double)x)), kern_exp_f64((double)x), 0.0, 0.0};
        kern_sincos_f64((double)x * 1e5, &value[2], &value[3]);
        feed(w, &e, sizeof e);
        feed(w, &half, sizeof half);
        feed(w, value, sizeof value);
    }
    for (uint32_t pos = 3; pos < 1u << 20; pos = pos * 7 + pos % 3) {
        draw_floats(w, 1, w->x, DIM);
        for (size_t i = 0; i < DIM; i++)
            w->x[DIM + i] = fabsf(w->x[i]);
        kern_rope_table(pos, DIM, 10000.0, pos % 2 == 0 ? w->x + DIM : NULL, w->y);
        kern_rope_norm(w->x, DIM, w->y);
        kern_rope_neox(w->x, DIM, w->y);
        feed(w, w->y, DIM * sizeof *w->y);
        feed(w, w->x, DIM * sizeof *w->x);
    }
}

uint64_t kern_table_hash(const struct kern_table *t)
{
    struct work w = {.rng = 1, .hash = 0xcbf29ce484222325u};
    kern_fp_init();
    hash_quantise(t, &w);
    hash_matmul(t, &w);
    hash_rows(t, &w);
    hash_attention(t, &w);
    hash_functions(&w);
    return w.hash;
}
