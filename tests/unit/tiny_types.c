/* Weight types for tests: rows of floats to a file's blocks and back to doubles, written from the
 * formats' descriptions and apart from the kernels, so that the reader under test is not its own
 * judge.
 *
 * A block is a table of small numbers, one for each column, and scales. Both directions go through
 * that table: `numbers_in` and `numbers_out` know where a type keeps them, the rest knows what they
 * mean. Encoding is plain rounding to the nearest, with no search for better scales: a test needs
 * weights that are what they are, not good ones. */
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SUPER = 256 };

static const int8_t iq4nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};

static void put_half(uint8_t *to, float v)
{
    uint16_t h = kern_f16_from_f32(v);
    memcpy(to, &h, sizeof h);
}

static double get_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return (double)kern_f32_from_f16(h);
}

/* ---- where a type keeps its numbers ---------------------------------------------------------- */

/* Set or read `width` bits at bit `at` of *byte. */
static void bits(uint8_t *byte, unsigned at, unsigned width, uint8_t *number, unsigned shift,
                 bool in)
{
    uint8_t mask = (uint8_t)((1u << width) - 1);
    if (in)
        *byte = (uint8_t)(*byte | (unsigned)(*number >> shift & mask) << at);
    else
        *number = (uint8_t)(*number | (unsigned)(*byte >> at & mask) << shift);
}

/* 32 columns: a byte has columns j and 16 + j; fifth bits are one 32-bit word. */
static void numbers_32(uint8_t *quants, uint8_t *fifth, uint8_t *n, bool in)
{
    for (unsigned c = 0; c < 32; c++) {
        bits(&quants[c % 16], c < 16 ? 0 : 4, 4, &n[c], 0, in);
        if (fifth != NULL)
            bits(&fifth[c / 8], c % 8, 1, &n[c], 4, in);
    }
}

/* 256 columns of Q4_K and Q5_K: each 64 share 32 bytes, the first half in the low nibbles; byte l
 * of the fifth bits has one bit for column l of each 32. */
static void numbers_k(uint8_t *quants, uint8_t *fifth, uint8_t *n, bool in)
{
    for (unsigned c = 0; c < SUPER; c++) {
        bits(&quants[c / 64 * 32 + c % 32], c % 64 < 32 ? 0 : 4, 4, &n[c], 0, in);
        if (fifth != NULL)
            bits(&fifth[c % 32], c / 32, 1, &n[c], 4, in);
    }
}

/* Q6_K: each 128 columns have 64 bytes of low nibbles and 32 of upper bits. */
static void numbers_6k(uint8_t *low, uint8_t *high, uint8_t *n, bool in)
{
    for (unsigned c = 0; c < SUPER; c++) {
        unsigned half = c / 128, at = c % 128;
        bits(&low[half * 64 + at % 64], at < 64 ? 0 : 4, 4, &n[c], 0, in);
        bits(&high[half * 32 + at % 32], at / 32 * 2, 2, &n[c], 4, in);
    }
}

/* The eight 6-bit scales and minima of a K block, in 12 bytes. */
static void scales_k(uint8_t *p, uint8_t sc[8], uint8_t m[8], bool in)
{
    for (unsigned b = 0; b < 8; b++) {
        if (b < 4) {
            bits(&p[b], 0, 6, &sc[b], 0, in);
            bits(&p[b + 4], 0, 6, &m[b], 0, in);
        } else {
            bits(&p[b + 4], 0, 4, &sc[b], 0, in);
            bits(&p[b - 4], 6, 2, &sc[b], 4, in);
            bits(&p[b + 4], 4, 4, &m[b], 0, in);
            bits(&p[b], 6, 2, &m[b], 4, in);
        }
    }
}

static void numbers(enum kern_type type, uint8_t *block, uint8_t *n, bool in)
{
    switch (type) {
    case KERN_Q4_0:
    case KERN_IQ4_NL:
        numbers_32(block + 2, NULL, n, in);
        break;
    case KERN_Q4_1:
        numbers_32(block + 4, NULL, n, in);
        break;
    case KERN_Q5_0:
        numbers_32(block + 6, block + 2, n, in);
        break;
    case KERN_Q5_1:
        numbers_32(block + 8, block + 4, n, in);
        break;
    case KERN_Q4_K:
        numbers_k(block + 16, NULL, n, in);
        break;
    case KERN_Q5_K:
        numbers_k(block + 48, block + 16, n, in);
        break;
    case KERN_Q6_K:
        numbers_6k(block, block + 128, n, in);
        break;
    default:
        abort();
    }
}

/* ---- to blocks ------------------------------------------------------------------------------- */

static uint8_t nearest(double v, int most)
{
    return (uint8_t)(v < 0 ? 0 : v > most ? most : lrint(v));
}

/* The value of largest magnitude, with its sign. */
static float extreme(const float *x, unsigned n)
{
    float most = 0;
    for (unsigned i = 0; i < n; i++)
        most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    return most;
}

static void encode_q8_0(const float *x, uint8_t *to)
{
    float d = fabsf(extreme(x, 32)) / 127.0f;
    put_half(to, d);
    for (unsigned i = 0; i < 32; i++)
        to[2 + i] = (uint8_t)(int8_t)(d > 0 ? lrintf(x[i] / d) : 0);
}

/* x = d * (n - offset), offset 8 or 16. */
static void encode_offset(enum kern_type type, int offset, const float *x, uint8_t *to)
{
    uint8_t n[32];
    float d = extreme(x, 32) / (float)-offset;
    put_half(to, d);
    for (unsigned i = 0; i < 32; i++)
        n[i] = nearest(d != 0 ? (double)(x[i] / d) + offset : offset, 2 * offset - 1);
    numbers(type, to, n, true);
}

static void encode_iq4nl(const float *x, uint8_t *to)
{
    uint8_t n[32];
    float d = extreme(x, 32) / -127.0f;
    put_half(to, d);
    for (unsigned i = 0; i < 32; i++) {
        float v = d != 0 ? x[i] / d : 0;
        n[i] = 0;
        for (uint8_t k = 1; k < 16; k++)
            n[i] = fabsf(v - iq4nl[k]) < fabsf(v - iq4nl[n[i]]) ? k : n[i];
    }
    numbers(KERN_IQ4_NL, to, n, true);
}

static void range(const float *x, unsigned n, float *low, float *high)
{
    *low = *high = x[0];
    for (unsigned i = 1; i < n; i++) {
        *low = fminf(*low, x[i]);
        *high = fmaxf(*high, x[i]);
    }
}

/* x = d * n + m. */
static void encode_min(enum kern_type type, int most, const float *x, uint8_t *to)
{
    uint8_t n[32];
    float low, high, d;
    range(x, 32, &low, &high);
    d = (high - low) / (float)most;
    put_half(to, d);
    put_half(to + 2, low);
    for (unsigned i = 0; i < 32; i++)
        n[i] = nearest(d > 0 ? (double)((x[i] - low) / d) : 0, most);
    numbers(type, to, n, true);
}

/* x = d * sc * n - dmin * m for each 32 columns. */
static void encode_k(enum kern_type type, int most, const float *x, uint8_t *to)
{
    uint8_t n[SUPER], sc[8], m[8];
    float scale[8], min[8];
    for (unsigned b = 0; b < 8; b++) {
        float low, high;
        range(x + 32 * b, 32, &low, &high);
        min[b] = fmaxf(0, -low);
        scale[b] = fmaxf(0, high + min[b]) / (float)most;
    }
    put_half(to, extreme(scale, 8) / 63.0f);
    put_half(to + 2, extreme(min, 8) / 63.0f);
    double d = get_half(to), dmin = get_half(to + 2);
    for (unsigned b = 0; b < 8; b++) {
        sc[b] = nearest(d > 0 ? (double)scale[b] / d : 0, 63);
        m[b] = nearest(dmin > 0 ? (double)min[b] / dmin : 0, 63);
        for (unsigned i = 32 * b; i < 32 * b + 32; i++)
            n[i] = nearest(d * sc[b] > 0 ? ((double)x[i] + dmin * m[b]) / (d * sc[b]) : 0, most);
    }
    scales_k(to + 4, sc, m, true);
    numbers(type, to, n, true);
}

/* x = d * sc * (n - 32), a signed sc for each 16 columns. */
static void encode_6k(const float *x, uint8_t *to)
{
    uint8_t n[SUPER];
    float scale[16];
    for (unsigned b = 0; b < 16; b++)
        scale[b] = extreme(x + 16 * b, 16) / -32.0f;
    put_half(to + 208, extreme(scale, 16) / -128.0f);
    double d = get_half(to + 208);
    for (unsigned b = 0; b < 16; b++) {
        long sc = d != 0 ? lrint((double)scale[b] / d) : 0;
        sc = sc > 127 ? 127 : sc < -128 ? -128 : sc;
        to[192 + b] = (uint8_t)(int8_t)sc;
        for (unsigned i = 16 * b; i < 16 * b + 16; i++) {
            double step = d * (double)sc;
            n[i] = nearest(step != 0 ? (double)x[i] / step + 32 : 32, 63);
        }
    }
    numbers(KERN_Q6_K, to, n, true);
}

static void encode_block(enum kern_type type, const float *x, uint8_t *to)
{
    uint32_t word;
    uint16_t upper;
    switch (type) {
    case KERN_F32:
        memcpy(to, x, 4);
        break;
    case KERN_F16:
        put_half(to, *x);
        break;
    case KERN_BF16:
        memcpy(&word, x, sizeof word);
        upper = (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
        memcpy(to, &upper, 2);
        break;
    case KERN_Q8_0:
        encode_q8_0(x, to);
        break;
    case KERN_Q4_0:
    case KERN_Q5_0:
        encode_offset(type, type == KERN_Q4_0 ? 8 : 16, x, to);
        break;
    case KERN_IQ4_NL:
        encode_iq4nl(x, to);
        break;
    case KERN_Q4_1:
    case KERN_Q5_1:
        encode_min(type, type == KERN_Q4_1 ? 15 : 31, x, to);
        break;
    case KERN_Q4_K:
    case KERN_Q5_K:
        encode_k(type, type == KERN_Q4_K ? 15 : 31, x, to);
        break;
    case KERN_Q6_K:
        encode_6k(x, to);
        break;
    case KERN_N_TYPES:
        break;
    }
}

void tiny_encode(enum kern_type type, const float *x, uint64_t n, uint8_t *to)
{
    const struct kern_type_info *info = kern_type_info(type);
    memset(to, 0, n / info->block_cols * info->block_bytes);
    for (uint64_t i = 0; i < n; i += info->block_cols, to += info->block_bytes)
        encode_block(type, x + i, to);
}

/* ---- and back -------------------------------------------------------------------------------- */

static void decode_k(uint8_t *p, const uint8_t *n, double *out)
{
    uint8_t sc[8] = {0}, m[8] = {0};
    scales_k(p + 4, sc, m, false);
    for (unsigned i = 0; i < SUPER; i++)
        out[i] = get_half(p) * sc[i / 32] * n[i] - get_half(p + 2) * m[i / 32];
}

/* Types whose numbers are not whole bytes. */
static void decode_small(enum kern_type type, const uint8_t *block, double *out)
{
    uint8_t n[SUPER] = {0}, copy[SUPER];
    uint32_t cols = kern_type_info(type)->block_cols;
    memcpy(copy, block, kern_type_info(type)->block_bytes);
    numbers(type, copy, n, false);
    for (unsigned i = 0; i < cols; i++) {
        if (type == KERN_Q4_0 || type == KERN_Q5_0)
            out[i] = get_half(copy) * (n[i] - (type == KERN_Q4_0 ? 8 : 16));
        else if (type == KERN_IQ4_NL)
            out[i] = get_half(copy) * iq4nl[n[i]];
        else if (type == KERN_Q6_K)
            out[i] = get_half(copy + 208) * (int8_t)copy[192 + i / 16] * (n[i] - 32);
        else
            out[i] = get_half(copy) * n[i] + get_half(copy + 2);
    }
    if (type == KERN_Q4_K || type == KERN_Q5_K)
        decode_k(copy, n, out);
}

void tiny_tensor_row(const struct gguf_tensor *t, uint64_t row, double *out)
{
    enum kern_type type;
    if (!kern_type_from_ggml(t->ggml_type, &type))
        abort();
    const struct kern_type_info *info = kern_type_info(type);
    const uint8_t *p = t->data + row * (t->dims[0] / info->block_cols) * info->block_bytes;
    for (uint64_t c = 0; c < t->dims[0]; c += info->block_cols, p += info->block_bytes) {
        uint32_t word = 0;
        float f;
        switch (type) {
        case KERN_F32:
            memcpy(&f, p, 4);
            out[c] = (double)f;
            break;
        case KERN_F16:
            out[c] = get_half(p);
            break;
        case KERN_BF16:
            memcpy((uint8_t *)&word, p, 2);
            word <<= 16;
            memcpy(&f, &word, 4);
            out[c] = (double)f;
            break;
        case KERN_Q8_0:
            for (unsigned i = 0; i < 32; i++)
                out[c + i] = get_half(p) * (int8_t)p[2 + i];
            break;
        default:
            decode_small(type, p, &out[c]);
            break;
        }
    }
}
