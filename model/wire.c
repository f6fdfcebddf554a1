/* Numbers that workers exchange in the middle of a pass, as bytes: partial sums within a team, and
 * hidden rows between stages.
 *
 * Exact is the default. Of a sum, each group of 64 values takes as many bytes a value as its
 * largest needs (docs/numerics.md §5): mostly four, and one massive channel costs its own group
 * only. What four bytes leave over is used where a row travels alone: one of 2048 values then fits
 * the 8 KiB that ZeroMQ sends, and receives, at once. Two modes give exactness up for fewer bytes:
 * f16 stores a group as halves under one power of two, so that nothing overflows; q8 stores blocks
 * of 32 as the largest magnitude / 127 in F32 and int8. Either is a function of the row alone, and
 * what is read is a function of the bytes.
 *
 * The invariant: a row is coded on its own, and reading checks everything before it counts.
 * Groups go through arrays of fixed size, so that loops have a constant number of turns, which
 * compilers turn into vector code, and no load or store needs room behind a row.
 *
 * Sums of rows that are bad mean nothing; such a row is one byte that says so. Left out: kernels of
 * an instruction set's own. The exact mode takes less than 1 ns a value without. */
#include "model/model_private.h"

#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they stand");

enum {
    GROUP = 64,                  /* values that share a width or an exponent */
    BLOCKS = GROUP / KERN_BLOCK, /* of q8 in a group */
    ROW_GOOD = 0,                /* first byte of a row of sums: its groups follow */
    ROW_BAD = 1,                 /* nothing follows */
    SPARE_MAX = 4,               /* bits that a word of four bytes has to spare, and are used */
    GROUP_BYTES = GROUP * 8 + 8  /* a group's values with room for a whole load of the last */
};

/* ---- integers of w bytes --------------------------------------------------------------------- */

/* Bits that hold each of the values in two's complement, up to 64. The highest bit in which a number
 * differs from itself shifted by one is where its sign begins. */
static unsigned bits_of(const int64_t v[static GROUP])
{
    uint64_t differs = 0;
    for (unsigned i = 0; i < GROUP; i++)
        differs |= (uint64_t)v[i] ^ (uint64_t)v[i] << 1;
    return differs == 0 ? 0 : 64 - (unsigned)__builtin_clzll(differs);
}

static inline void store(const int64_t v[static GROUP], unsigned w, uint8_t *restrict to)
{
    for (unsigned i = 0; i < GROUP; i++)
        memcpy(to + (size_t)i * w, &v[i], 8);
}

static inline void load(const uint8_t *from, unsigned w, int64_t v[restrict static GROUP])
{
    for (unsigned i = 0; i < GROUP; i++) {
        uint64_t u;
        memcpy(&u, from + (size_t)i * w, 8);
        v[i] = (int64_t)(u << (64 - 8 * w)) >> (64 - 8 * w);
    }
}

/* Four bytes by whole vectors. */
static void store4(const int64_t v[static GROUP], uint8_t *restrict to)
{
    uint32_t u[GROUP];
    for (unsigned i = 0; i < GROUP; i++)
        u[i] = (uint32_t)v[i];
    memcpy(to, u, sizeof u);
}

static void load4(const uint8_t *from, int64_t v[restrict static GROUP])
{
    int32_t s[GROUP];
    memcpy(s, from, sizeof s);
    for (unsigned i = 0; i < GROUP; i++)
        v[i] = s[i];
}

/* A whole group of values of 32 - s bits, s being 1, 2 or 4, in 64 - 2s words: the last 2s values
 * lie in the upper s bits of the words before, s bits in every 2s-th, the lowest first. */
static inline void squeeze(const int64_t v[static GROUP], unsigned s, uint32_t *restrict word)
{
    const unsigned lanes = 2 * s, n = GROUP - lanes, w = 32 - s;
    for (unsigned at = 0; at < n; at += lanes)
        for (unsigned l = 0; l < lanes; l++) {
            const uint32_t piece = (uint32_t)v[n + l] >> at / 2 & ((1u << s) - 1);
            word[at + l] = ((uint32_t)v[at + l] & ((1u << w) - 1)) | piece << w;
        }
}

static inline void widen(const uint32_t *word, unsigned s, int64_t v[restrict static GROUP])
{
    const unsigned lanes = 2 * s, n = GROUP - lanes, w = 32 - s;
    uint32_t last[2 * SPARE_MAX] = {0};
    for (unsigned at = 0; at < n; at += lanes)
        for (unsigned l = 0; l < lanes; l++) {
            v[at + l] = (int32_t)(word[at + l] << s) >> s;
            last[l] |= word[at + l] >> w << at / 2;
        }
    for (unsigned l = 0; l < lanes; l++)
        v[n + l] = (int32_t)(last[l] << s) >> s;
}

/* Spare bits of a word that squeeze can use; 0: none. */
static unsigned spare_of(unsigned bits, unsigned n)
{
    if (n < GROUP || bits <= 24 || bits > 31)
        return 0;
    return bits <= 28 ? 4 : bits <= 30 ? 2 : 1;
}

/* One byte of 32 - s, then the words. */
static size_t put_squeezed(const int64_t v[static GROUP], unsigned s, uint8_t *out)
{
    uint32_t word[GROUP];
    const size_t bytes = (GROUP - 2 * (size_t)s) * sizeof *word;
    if (s == 1)
        squeeze(v, 1, word);
    else if (s == 2)
        squeeze(v, 2, word);
    else
        squeeze(v, 4, word);
    out[0] = (uint8_t)(32 - s);
    memcpy(out + 1, word, bytes);
    return 1 + bytes;
}

static bool get_squeezed(struct span *in, unsigned s, int64_t v[static GROUP])
{
    uint32_t word[GROUP];
    const size_t bytes = (GROUP - 2 * (size_t)s) * sizeof *word;
    if (in->len < 1 + bytes)
        return false;
    memcpy(word, in->ptr + 1, bytes);
    if (s == 1)
        widen(word, 1, v);
    else if (s == 2)
        widen(word, 2, v);
    else
        widen(word, 4, v);
    *in = (struct span){in->ptr + 1 + bytes, in->len - 1 - bytes};
    return true;
}

static size_t put_integers(const int64_t v[static GROUP], unsigned n, bool tight, uint8_t *out)
{
    uint8_t bytes[GROUP_BYTES];
    const unsigned bits = bits_of(v), w = (bits + 7) / 8, spare = spare_of(bits, n);
    if (tight && spare > 0)
        return put_squeezed(v, spare, out);
    if (w == 4)
        store4(v, bytes);
    else if (w == 5)
        store(v, 5, bytes);
    else
        store(v, w, bytes);
    out[0] = (uint8_t)w;
    memcpy(out + 1, bytes, (size_t)n * w);
    return 1 + (size_t)n * w;
}

static bool get_integers(struct span *in, unsigned n, int64_t v[static GROUP])
{
    uint8_t bytes[GROUP_BYTES];
    unsigned w = in->len > 0 ? in->ptr[0] : 9;
    size_t all = 1 + (size_t)n * w;
    if (n == GROUP && (w == 28 || w == 30 || w == 31))
        return get_squeezed(in, 32 - w, v);
    if (w > 8 || in->len < all)
        return false;
    const uint8_t *from = in->ptr + 1;
    if (in->len <= GROUP_BYTES) { /* a whole group of loads may pass the end */
        memset(bytes, 0, sizeof bytes);
        from = memcpy(bytes, from, all - 1);
    }
    if (w == 4)
        load4(from, v);
    else if (w == 5)
        load(from, 5, v);
    else if (w > 0)
        load(from, w, v);
    else
        memset(v, 0, GROUP * sizeof *v);
    *in = (struct span){in->ptr + all, in->len - all};
    return true;
}

/* ---- floats in fewer bytes ------------------------------------------------------------------- */

/* The largest magnitude, as bits: NaN beats infinity beats numbers. */
static uint32_t largest(const float *x, unsigned n)
{
    uint32_t max = 0;
    for (unsigned i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        max = bits > max ? bits : max;
    }
    return max;
}

/* One byte e, then halves of x * 2^-e; e is 0 unless a value reaches 2^15. */
static size_t put_halves(const float x[static GROUP], unsigned n, uint8_t *out)
{
    uint32_t max = largest(x, GROUP), e = 0;
    if (max >= 0x47000000 && max < 0x7f800000)
        e = (max - 0x46800000) >> 23;
    float scale = ldexpf(1.0f, -(int)e);
    out[0] = (uint8_t)e;
    for (unsigned i = 0; i < n; i++) {
        uint16_t h = kern_f16_from_f32(x[i] * scale);
        memcpy(out + 1 + 2 * (size_t)i, &h, sizeof h);
    }
    return 1 + 2 * (size_t)n;
}

static void get_halves(const uint8_t *from, unsigned n, float x[static GROUP])
{
    float scale = ldexpf(1.0f, from[0]);
    for (unsigned i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + 1 + 2 * (size_t)i, sizeof h);
        x[i] = kern_f32_from_f16(h) * scale;
    }
}

/* Of each block a = max / 127, and round(x / a) by adding what leaves the integer in a float's low
 * bits. What is not a number makes the block's scale none either. */
static size_t put_bytes(const float x[static GROUP], unsigned n, uint8_t *out)
{
    uint8_t *to = out;
    for (unsigned b = 0; b * KERN_BLOCK < n; b++) {
        unsigned here = n - b * KERN_BLOCK < KERN_BLOCK ? n - b * KERN_BLOCK : KERN_BLOCK;
        uint32_t bits = largest(x + b * KERN_BLOCK, KERN_BLOCK);
        float max, a, inverse;
        int8_t q[KERN_BLOCK];
        memcpy(&max, &bits, sizeof max);
        bool zero = max < 0x1p-100f, odd = bits >= 0x7f800000;
        a = zero ? 0.0f : odd ? NAN : max / 127;
        inverse = zero || odd ? 0.0f : 127 / max;
        for (unsigned i = 0; i < KERN_BLOCK; i++) {
            float y = odd ? 0.0f : x[b * KERN_BLOCK + i] * inverse;
            q[i] = (int8_t)(y + 12582912.0f - 12582912.0f);
        }
        memcpy(to, &a, sizeof a);
        memcpy(to + sizeof a, q, here);
        to += sizeof a + here;
    }
    return (size_t)(to - out);
}

static void get_bytes(const uint8_t *from, unsigned n, float x[static GROUP])
{
    for (unsigned b = 0; b * KERN_BLOCK < n; b++) {
        unsigned here = n - b * KERN_BLOCK < KERN_BLOCK ? n - b * KERN_BLOCK : KERN_BLOCK;
        float a;
        memcpy(&a, from, sizeof a);
        from += sizeof a;
        for (unsigned i = 0; i < here; i++)
            x[b * KERN_BLOCK + i] = a * (float)(int8_t)from[i];
        from += here;
    }
}

/* Bytes of n values in a mode that has a fixed number. */
static size_t group_bytes(unsigned n, enum model_wire mode)
{
    if (mode == MODEL_WIRE_F16)
        return 1 + 2 * (size_t)n;
    return n + (n + KERN_BLOCK - 1) / KERN_BLOCK * sizeof(float);
}

static size_t put_floats(const float x[static GROUP], unsigned n, enum model_wire mode,
                         uint8_t *out)
{
    return mode == MODEL_WIRE_F16 ? put_halves(x, n, out) : put_bytes(x, n, out);
}

static void get_floats(const uint8_t *from, unsigned n, enum model_wire mode, float x[static GROUP])
{
    if (mode == MODEL_WIRE_F16)
        get_halves(from, n, x);
    else
        get_bytes(from, n, x);
}

/* ---- sums ------------------------------------------------------------------------------------ */

size_t model_sums_bytes_max(uint32_t n_rows, uint32_t n, enum model_wire mode)
{
    size_t groups = ((size_t)n + GROUP - 1) / GROUP;
    if (mode == MODEL_WIRE_EXACT)
        return n_rows * (1 + groups + 8 * (size_t)n);
    return n_rows * (1 + groups * group_bytes(GROUP, mode));
}

static size_t put_sums(const int64_t v[static GROUP], unsigned n, enum model_wire mode, bool tight,
                       uint8_t *out)
{
    float x[GROUP];
    if (mode == MODEL_WIRE_EXACT)
        return put_integers(v, n, tight, out);
    for (unsigned i = 0; i < GROUP; i++)
        x[i] = (float)((double)v[i] * 0x1p-30);
    return put_floats(x, n, mode, out);
}

size_t model_sums_encode(const int64_t *sum, uint32_t n_rows, uint32_t n, enum model_wire mode,
                         const uint32_t *bad, uint8_t *out)
{
    uint8_t *to = out;
    const bool tight = n_rows == 1;
    for (uint32_t t = 0; t < n_rows; t++) {
        const int64_t *row = sum + (size_t)t * n;
        *to++ = bad[t] == 0 ? ROW_GOOD : ROW_BAD;
        uint32_t i = 0;
        for (; i + GROUP <= n && bad[t] == 0; i += GROUP)
            to += put_sums(row + i, GROUP, mode, tight, to);
        if (i < n && bad[t] == 0) {
            int64_t last[GROUP] = {0};
            memcpy(last, row + i, (n - i) * sizeof *last);
            to += put_sums(last, n - i, mode, tight, to);
        }
    }
    return (size_t)(to - out);
}

/* False also for numbers that no sum can be. */
static bool get_sums(struct span *in, unsigned n, enum model_wire mode, int64_t v[static GROUP])
{
    float x[GROUP];
    size_t bytes = group_bytes(n, mode);
    bool good = true;
    if (mode == MODEL_WIRE_EXACT)
        return get_integers(in, n, v);
    memset(x, 0, sizeof x);
    if (in->len < bytes)
        return false;
    get_floats(in->ptr, n, mode, x);
    for (unsigned i = 0; i < GROUP; i++) {
        good = good && fabsf(x[i]) < 0x1p33f;
        v[i] = good ? llrint((double)x[i] * 0x1p30) : 0;
    }
    *in = (struct span){in->ptr + bytes, in->len - bytes};
    return good;
}

/* acc += v; false where one overflows. */
static bool add_group(const int64_t v[restrict static GROUP], int64_t acc[restrict static GROUP])
{
    uint64_t over = 0;
    for (unsigned i = 0; i < GROUP; i++) {
        uint64_t a = (uint64_t)acc[i], b = (uint64_t)v[i], sum = a + b;
        over |= (a ^ sum) & (b ^ sum);
        acc[i] = (int64_t)sum;
    }
    return over >> 63 == 0;
}

static bool add_row(struct span *in, uint32_t n, enum model_wire mode, int64_t *acc)
{
    int64_t v[GROUP];
    uint32_t i = 0;
    for (; i + GROUP <= n; i += GROUP) {
        if (!get_sums(in, GROUP, mode, v) || !add_group(v, acc + i))
            return false;
    }
    if (i == n)
        return true;
    int64_t last[GROUP] = {0};
    memcpy(last, acc + i, (n - i) * sizeof *last);
    if (!get_sums(in, n - i, mode, v) || !add_group(v, last))
        return false;
    memcpy(acc + i, last, (n - i) * sizeof *last);
    return true;
}

bool model_sums_add(struct span bytes, uint32_t n_rows, uint32_t n, enum model_wire mode,
                    uint32_t mark, int64_t *acc, uint32_t *bad)
{
    for (uint32_t t = 0; t < n_rows; t++) {
        if (bytes.len == 0 || bytes.ptr[0] > ROW_BAD)
            return false;
        bool good = bytes.ptr[0] == ROW_GOOD;
        bytes = (struct span){bytes.ptr + 1, bytes.len - 1};
        if (good && !add_row(&bytes, n, mode, acc + (size_t)t * n))
            return false;
        if (!good && bad[t] == 0)
            bad[t] = mark;
    }
    return bytes.len == 0;
}

/* ---- hidden rows ----------------------------------------------------------------------------- */

size_t model_rows_bytes(uint32_t n_rows, uint32_t n, enum model_wire mode)
{
    if (mode == MODEL_WIRE_EXACT)
        return (size_t)n_rows * n * sizeof(float);
    size_t last = n % GROUP > 0 ? group_bytes(n % GROUP, mode) : 0;
    return n_rows * (n / GROUP * group_bytes(GROUP, mode) + last);
}

void model_rows_encode(const float *x, uint32_t n_rows, uint32_t n, enum model_wire mode,
                       uint8_t *out)
{
    if (mode == MODEL_WIRE_EXACT) {
        memcpy(out, x, (size_t)n_rows * n * sizeof *x);
        return;
    }
    for (uint32_t t = 0; t < n_rows; t++, x += n) {
        for (uint32_t i = 0; i < n; i += GROUP) {
            float group[GROUP] = {0};
            unsigned here = n - i < GROUP ? n - i : GROUP;
            memcpy(group, x + i, here * sizeof *x);
            out += put_floats(group, here, mode, out);
        }
    }
}

bool model_rows_decode(struct span bytes, uint32_t n_rows, uint32_t n, enum model_wire mode,
                       float *x)
{
    const uint8_t *from = bytes.ptr;
    if (bytes.len != model_rows_bytes(n_rows, n, mode))
        return false;
    if (mode == MODEL_WIRE_EXACT) {
        memcpy(x, from, bytes.len);
        return true;
    }
    for (uint32_t t = 0; t < n_rows; t++, x += n) {
        for (uint32_t i = 0; i < n; i += GROUP) {
            float group[GROUP];
            unsigned here = n - i < GROUP ? n - i : GROUP;
            get_floats(from, here, mode, group);
            memcpy(x + i, group, here * sizeof *x);
            from += group_bytes(here, mode);
        }
    }
    return true;
}
