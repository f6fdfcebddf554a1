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

enum { ROWS = 24, COLS = 288, XROWS = 3, DIM = 48, POSITIONS = 200 };

struct work {
    _Alignas(KERN_ALIGN) uint8_t packed[2 * KERN_GROUP * COLS * 4];
    _Alignas(KERN_ALIGN) float x[XROWS * COLS];
    float a[XROWS * COLS / 32];
    int16_t h[XROWS * COLS / 16];
    int8_t q[XROWS * COLS];
    float y[XROWS * 2 * KERN_GROUP];
    int64_t sums[COLS];
    float k[POSITIONS * DIM], v[POSITIONS * DIM]; /* rows of either KV type */
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

/* Random weights; the first 32 columns all extreme, and scales from the least denormal upwards. */
static void draw_weights(struct work *w, enum kern_type type)
{
    const size_t bytes = kern_packed_bytes(type, ROWS, COLS);
    struct kern_matrix m;
    kern_matrix_bind(&m, type, ROWS, COLS, w->packed);
    for (size_t i = 0; i < bytes; i++)
        w->packed[i] = (uint8_t)draw(w);
    if (type == KERN_F32) {
        for (size_t i = 0; i < bytes / 4; i++) {
            const float value = i % 32 == 0 ? kern_float(draw(w) & 0x807fffffu) : draw_float(w, 20);
            memcpy(w->packed + 4 * i, &value, 4);
        }
    } else if (!kern_type_info(type)->integer) { /* clear an exponent bit: no infinities, no NaN */
        for (size_t i = 1; i < bytes; i += 2)
            w->packed[i] = (uint8_t)(w->packed[i] & 0xbf);
    } else {
        memset(w->packed, 0x80, KERN_Q4_0_BLOCK_BYTES);
        for (size_t i = (size_t)(m.scales - m.quants) + 1; i < bytes; i += 2)
            w->packed[i] = (uint8_t)(w->packed[i] & (i % 8 == 1 ? 0x83 : 0xbf));
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

static void hash_matmul(const struct kern_table *t, struct work *w)
{
    const struct kern_act act = {
        .f = w->x, .q = w->q, .a = w->a, .h = w->h, .f_stride = COLS, .q_stride = COLS};
    draw_floats(w, 12, w->x, XROWS * COLS);
    for (size_t i = 0; i < XROWS * COLS; i += KERN_BLOCK)
        put_half_of_largest(w->x + i);
    for (size_t i = 0; i < 32; i++)
        w->x[i] = i % 2 != 0 ? 1.5f : -1.5f;
    for (size_t i = 32; i < 64; i++)
        w->x[COLS + i] = kern_float(draw(w) & 0x807fffffu);
    for (size_t i = 0; i < XROWS; i++) {
        const bool finite = t->quantise(w->x + i * COLS, COLS, w->q + i * COLS,
                                        w->a + i * (COLS / 32), w->h + i * (COLS / 16));
        feed(w, &finite, 1);
    }
    feed(w, w->q, sizeof w->q);
    feed(w, w->a, sizeof w->a);
    feed(w, w->h, sizeof w->h);
    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        struct kern_matrix m;
        draw_weights(w, (enum kern_type)type);
        kern_matrix_bind(&m, (enum kern_type)type, ROWS, COLS, w->packed);
        t->matmul[type](&m, 0, 2, &act, XROWS, w->y, 2 * KERN_GROUP);
        feed(w, w->y, sizeof w->y);
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

    memset(w->sums, 0, sizeof w->sums);
    for (unsigned i = 0; i < 5; i++) {
        draw_floats(w, 40, y, COLS);
        y[i] = kern_float(KERN_UNIT_MAX_BITS | (draw(w) & 0x80000000u));
        const bool fits = t->unit_add(y, COLS - 1, w->sums);
        feed(w, &fits, 1);
    }
    feed(w, w->sums, sizeof w->sums);
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
        draw_floats(w, 6, w->x, DIM);
        for (unsigned i = 0; i < 3; i++) {
            const uint32_t first = i == 2 ? 77 : 0, n_pos = i == 0 ? 5 : POSITIONS - i;
            t->attend[type](w->x, w->k, w->v, DIM, first, n_pos, 0.125f, w->y);
            feed(w, w->y, DIM * sizeof *w->y);
        }
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
    hash_matmul(t, &w);
    hash_rows(t, &w);
    hash_attention(t, &w);
    hash_functions(&w);
    return w.hash;
}
