/* Random weights in every storage type, block by block.
 *
 * Quantised types are not rounded from numbers but drawn as blocks: quants, scales and minima take
 * every value that their bits can hold, negative scales and all, which files rounded from a bell
 * curve never show. The scale of a block is chosen so that the standard deviation comes out as
 * asked for: `UNIT` is the root mean square of a weight whose block scale is 1, worked out from the
 * uniform quants. Blocks vary by a quarter around it.
 *
 * Float types are a bell curve: four 16-bit numbers from one draw, summed. Nothing here calls the
 * kernels' decoders, which tests compare with what these blocks mean to another engine. */
#include "tests/tools/make_model.h"

#include <math.h>
#include <string.h>

float make_normal(uint64_t *rng)
{
    const uint64_t r = base_rng_next(rng);
    int64_t sum = -2 * 65535;
    for (unsigned i = 0; i < 64; i += 16)
        sum += (int64_t)(r >> i & 0xffff);
    return (float)sum * (1.0f / 37837.2f); /* 65536 * sqrt(4 / 12) */
}

static void put_half(uint8_t *to, float v)
{
    const uint16_t h = kern_f16_from_f32(v);
    to[0] = (uint8_t)h;
    to[1] = (uint8_t)(h >> 8);
}

static void random_bytes(uint64_t *rng, uint8_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (uint8_t)(base_rng_next(rng) >> 32);
}

/* 0.75 to 1.25. */
static float around_one(uint64_t *rng)
{
    return 0.75f + (float)(base_rng_next(rng) >> 40) * (0.5f / 16777216.0f);
}

static float sign(uint64_t *rng)
{
    return base_rng_next(rng) >> 63 != 0 ? -1.0f : 1.0f;
}

static void fill_f32(uint64_t *rng, float sigma, uint8_t *block)
{
    const float v = sigma * make_normal(rng);
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    for (unsigned i = 0; i < 4; i++)
        block[i] = (uint8_t)(bits >> 8 * i);
}

static void fill_f16(uint64_t *rng, float sigma, uint8_t *block)
{
    put_half(block, sigma * make_normal(rng));
}

/* The upper half of the F32: truncated, since which neighbour it is does not matter here. */
static void fill_bf16(uint64_t *rng, float sigma, uint8_t *block)
{
    uint8_t whole[4];
    fill_f32(rng, sigma, whole);
    memcpy(block, whole + 2, 2);
}

/* Scale, then quants that are symmetric but for half a step; the sign of the scale evens that out.
 */
static void fill_symmetric(uint64_t *rng, float sigma, float unit, size_t bytes, uint8_t *block)
{
    put_half(block, sign(rng) * around_one(rng) * sigma / unit);
    random_bytes(rng, block + 2, bytes - 2);
}

static void fill_q8_0(uint64_t *rng, float sigma, uint8_t *block)
{
    fill_symmetric(rng, sigma, 73.9f, 34, block);
}

static void fill_q4_0(uint64_t *rng, float sigma, uint8_t *block)
{
    fill_symmetric(rng, sigma, 4.637f, 18, block);
}

static void fill_q5_0(uint64_t *rng, float sigma, uint8_t *block)
{
    fill_symmetric(rng, sigma, 9.247f, 22, block);
}

static void fill_iq4_nl(uint64_t *rng, float sigma, uint8_t *block)
{
    fill_symmetric(rng, sigma, 67.44f, 18, block);
}

/* Scale and minimum: the minimum cancels the quants' mean up to a tenth. */
static void fill_minimum(uint64_t *rng, float sigma, float unit, float middle, size_t bytes,
                         uint8_t *block)
{
    const float d = sign(rng) * around_one(rng) * sigma / unit;
    put_half(block, d);
    put_half(block + 2, -d * middle + 0.1f * sigma * make_normal(rng));
    random_bytes(rng, block + 4, bytes - 4);
}

static void fill_q4_1(uint64_t *rng, float sigma, uint8_t *block)
{
    fill_minimum(rng, sigma, 4.61f, 7.5f, 20, block);
}

static void fill_q5_1(uint64_t *rng, float sigma, uint8_t *block)
{
    fill_minimum(rng, sigma, 9.233f, 15.5f, 24, block);
}

/* Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each in the low six bits
 * of bytes 0-3 and 4-7, the others' low halves in bytes 8-11 and their upper two bits on top of the
 * first four's. A minimum is its scale give or take 8, so that offsets stay moderate. */
static void put_scales(uint64_t *rng, uint8_t *to)
{
    int sc[8], m[8];
    for (unsigned i = 0; i < 8; i++) {
        const uint64_t r = base_rng_next(rng);
        sc[i] = (int)(r >> 58);
        m[i] = sc[i] + (int)((r & 0xffff) % 17) - 8;
        m[i] = m[i] < 0 ? 0 : m[i] > 63 ? 63 : m[i];
    }
    for (unsigned i = 0; i < 4; i++) {
        to[i] = (uint8_t)(sc[i] | sc[i + 4] >> 4 << 6);
        to[4 + i] = (uint8_t)(m[i] | m[i + 4] >> 4 << 6);
        to[8 + i] = (uint8_t)((sc[i + 4] & 15) | (m[i + 4] & 15) << 4);
    }
}

static void fill_super(uint64_t *rng, float sigma, float unit, float middle, size_t bytes,
                       uint8_t *block)
{
    const float d = sign(rng) * around_one(rng) * sigma / unit;
    put_half(block, d);
    put_half(block + 2, d * middle);
    put_scales(rng, block + 4);
    random_bytes(rng, block + 16, bytes - 16);
}

static void fill_q4_k(uint64_t *rng, float sigma, uint8_t *block)
{
    fill_super(rng, sigma, 172.3f, 7.5f, 144, block);
}

static void fill_q5_k(uint64_t *rng, float sigma, uint8_t *block)
{
    fill_super(rng, sigma, 345.6f, 15.5f, 176, block);
}

/* Quants and 8-bit scales first, the scale of all last. */
static void fill_q6_k(uint64_t *rng, float sigma, uint8_t *block)
{
    random_bytes(rng, block, 208);
    put_half(block + 208, sign(rng) * around_one(rng) * sigma / 1365.7f);
}

/* In the order of the tests; general.file_type as llama.cpp numbers it. */
static const struct make_type types[] = {
    {"F32", 0, 0, 1, 4, fill_f32},           {"F16", 1, 1, 1, 2, fill_f16},
    {"BF16", 30, 32, 1, 2, fill_bf16},       {"Q8_0", 8, 7, 32, 34, fill_q8_0},
    {"Q4_0", 2, 2, 32, 18, fill_q4_0},       {"Q4_1", 3, 3, 32, 20, fill_q4_1},
    {"Q5_0", 6, 8, 32, 22, fill_q5_0},       {"Q5_1", 7, 9, 32, 24, fill_q5_1},
    {"IQ4_NL", 20, 25, 32, 18, fill_iq4_nl}, {"Q4_K", 12, 15, 256, 144, fill_q4_k},
    {"Q5_K", 13, 17, 256, 176, fill_q5_k},   {"Q6_K", 14, 18, 256, 210, fill_q6_k},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

const char *make_type_name(unsigned i)
{
    return i < N_TYPES ? types[i].name : i == N_TYPES ? "mixed" : NULL;
}

const struct make_type *make_type_find(const char *name)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

const struct make_type *make_type_for(const struct make_type *t, uint64_t cols)
{
    if (cols % t->block_cols == 0)
        return t;
    return make_type_find(strcmp(t->name, "Q4_K") == 0   ? "Q5_0"
                          : strcmp(t->name, "Q5_K") == 0 ? "Q5_1"
                                                         : "Q8_0");
}
