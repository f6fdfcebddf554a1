/* From numbers to quantised blocks: Q8_0, Q4_0, Q4_K and Q6_K, from the formats' definitions.
 *
 * What is made small is the plain squared error. For one run of values the best scale to given
 * quants is a least-squares fit, and the best quants to a given scale are the nearest ones; so a
 * few scales around the obvious one are tried, each is fitted to the quants it gives, and the one
 * with the smallest error is kept. K-quants then round the runs' scales (and minima) to few bits;
 * for each run the neighbours of the rounded values are tried as well, because the error of a run
 * is what counts, not the distance to the unrounded scale.
 *
 * Values that lie on the grid of some block come back exactly where the grid's end is among them.
 * All arithmetic is F32 in a fixed order without fused operations: one file in, one file out, on
 * every machine. Left out: weights by importance, which need a run of the model. */
#include "kernels/kernels.h"
#include "model/quantise.h"

#include <math.h>
#include <string.h>

enum { RUN = 32, SUPER = 256, RUNS_4K = SUPER / RUN, RUN_6K = 16, RUNS_6K = SUPER / RUN_6K };

static const float f16_max = 65504.0f;
static const float value_max =
    65504.0f * 128.0f * 32.0f; /* of Q6_K, the widest; squares are safe */

/* A scale as F16 keeps it. False where F16 ends before it. */
static bool put_f16(float v, uint8_t *to, float *kept)
{
    if (!(fabsf(v) <= f16_max))
        return false;
    const uint16_t h = kern_f16_from_f32(v);
    to[0] = (uint8_t)h;
    to[1] = (uint8_t)(h >> 8);
    *kept = kern_f32_from_f16(h);
    return true;
}

/* v rounded to even and kept within [low, high]; rintf is a call where SSE4 may not be used, adding
 * and subtracting 1.5 * 2^23 is not. */
static inline float level(float v, float low, float high)
{
    const float least = v < low ? low : v;
    return ((least > high ? high : least) + 12582912.0f) - 12582912.0f;
}

/* Of a scale that F16 would round to nothing anyway there is none: 1 / scale may be infinite. */
static inline float inverse(float scale)
{
    return fabsf(scale) >= 0x1p-100f ? 1.0f / scale : 0.0f;
}

/* The element of the largest magnitude. */
static float extreme(const float *x, unsigned n)
{
    float most = 0.0f;
    for (unsigned i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most))
            most = x[i];
    return most;
}

/* ---- x = s * q, q in [-half, half) ----------------------------------------------------------- */

/* Squared error of x against the nearest multiples of `scale`. */
static float symmetric_error(const float *x, unsigned n, float half, float scale)
{
    const float inv = inverse(scale);
    float sum = 0.0f;
    for (unsigned i = 0; i < n; i++) {
        const float d = x[i] - scale * level(x[i] * inv, -half, half - 1.0f);
        sum += d * d;
    }
    return sum;
}

/* The best scale for the quants that `scale` gives, and how much of the sum of squares it takes
 * away. */
static float symmetric_fit(const float *x, unsigned n, float half, float scale, float *gain)
{
    const float inv = inverse(scale);
    float xq = 0.0f, qq = 0.0f;
    for (unsigned i = 0; i < n; i++) {
        const float q = level(x[i] * inv, -half, half - 1.0f);
        xq += x[i] * q;
        qq += q * q;
    }
    *gain = qq > 0.0f ? xq * (xq / qq) : 0.0f;
    return qq > 0.0f ? xq / qq : 0.0f;
}

/* The extreme goes to the long end, -half, or near it: the ends are where a scale a little off
 * pays, by cutting one value short or by leaving the last level empty. */
static float symmetric_scale(const float *x, unsigned n, float half)
{
    enum { TRIES = 13 };
    const float most = extreme(x, n), step = half * 0.025f;
    float best = 0.0f, best_gain = 0.0f;
    for (int k = 0; k < TRIES; k++) {
        const float to = half + step * (float)(k - TRIES / 2);
        float gain;
        const float scale = symmetric_fit(x, n, half, -most / to, &gain);
        if (gain > best_gain) {
            best = scale;
            best_gain = gain;
        }
    }
    return best;
}

bool model_quantise_q8_0(const float *x, uint8_t *block)
{
    float d;
    if (!put_f16(fabsf(extreme(x, RUN)) / 127.0f, block, &d))
        return false;
    const float inv = inverse(d);
    for (unsigned i = 0; i < RUN; i++)
        block[2 + i] = (uint8_t)(int8_t)level(x[i] * inv, -127.0f, 127.0f);
    return true;
}

bool model_quantise_q4_0(const float *x, uint8_t *block)
{
    float d;
    if (fabsf(extreme(x, RUN)) > value_max)
        return false;
    if (!put_f16(symmetric_scale(x, RUN, 8.0f), block, &d))
        return false;
    const float inv = inverse(d);
    for (unsigned i = 0; i < RUN / 2; i++) {
        const int low = (int)level(x[i] * inv, -8.0f, 7.0f) + 8;
        const int high = (int)level(x[RUN / 2 + i] * inv, -8.0f, 7.0f) + 8;
        block[2 + i] = (uint8_t)(low | high << 4);
    }
    return true;
}

/* ---- Q6_K: x = d * sc * q, q in [-32, 32) ---------------------------------------------------- */

/* The 8-bit scale of a run, at or beside the rounded one. */
static int best_scale_6k(const float *x, float d, float scale)
{
    const int middle = (int)level(scale * inverse(d), -128.0f, 127.0f);
    int best = middle;
    float least = INFINITY;
    for (int sc = middle - 1; sc <= middle + 1; sc++) {
        if (sc < -128 || sc > 127)
            continue;
        const float error = symmetric_error(x, RUN_6K, 32.0f, d * (float)sc);
        if (error < least) {
            least = error;
            best = sc;
        }
    }
    return best;
}

/* Value i lies at i % 32 of lane i / 32 % 4 of half i / 128: lanes 0 and 1 have their low four bits
 * in the low nibbles of ql, lanes 2 and 3 in the high ones, and the upper two bits of all four
 * share a byte of qh. */
bool model_quantise_q6_k(const float *x, uint8_t *block)
{
    uint8_t *ql = block, *qh = block + 128, *scales = block + 192;
    float s[RUNS_6K], d;
    if (fabsf(extreme(x, SUPER)) > value_max)
        return false;
    for (unsigned j = 0; j < RUNS_6K; j++)
        s[j] = symmetric_scale(x + j * RUN_6K, RUN_6K, 32.0f);
    /* The largest becomes -128, the long end again. */
    if (!put_f16(extreme(s, RUNS_6K) / -128.0f, block + 208, &d))
        return false;
    memset(block, 0, 192);
    for (unsigned j = 0; j < RUNS_6K; j++) {
        const int sc = best_scale_6k(x + j * RUN_6K, d, s[j]);
        const float inv = inverse(d * (float)sc);
        scales[j] = (uint8_t)(int8_t)sc;
        for (unsigned i = j * RUN_6K; i < (j + 1) * RUN_6K; i++) {
            const unsigned q = (unsigned)((int)level(x[i] * inv, -32.0f, 31.0f) + 32);
            const unsigned half = i / 128, lane = i / 32 % 4, at = i % 32;
            ql[half * 64 + lane % 2 * 32 + at] |= (uint8_t)((q & 15u) << lane / 2 * 4);
            qh[half * 32 + at] |= (uint8_t)(q >> 4 << lane * 2);
        }
    }
    return true;
}

/* ---- Q4_K: x = d * sc * q - dmin * m, q in [0, 16) ------------------------------------------- */

/* A run's line: x = scale * q - minimum, neither negative. */
struct line {
    float scale, minimum, error;
};

static float line_error(const float *x, float scale, float minimum)
{
    const float inv = inverse(scale);
    float sum = 0.0f;
    for (unsigned i = 0; i < RUN; i++) {
        const float d = x[i] - (scale * level((x[i] + minimum) * inv, 0.0f, 15.0f) - minimum);
        sum += d * d;
    }
    return sum;
}

/* The best line for the quants that a given one has. */
static struct line line_fit(const float *x, float scale, float minimum)
{
    const float inv = inverse(scale), n = (float)RUN;
    float q1 = 0.0f, q2 = 0.0f, x1 = 0.0f, xq = 0.0f;
    for (unsigned i = 0; i < RUN; i++) {
        const float q = level((x[i] + minimum) * inv, 0.0f, 15.0f);
        q1 += q;
        q2 += q * q;
        x1 += x[i];
        xq += x[i] * q;
    }
    struct line to = {scale, minimum, 0.0f};
    const float det = n * q2 - q1 * q1;
    if (det <= 0.0f) { /* all on one level: only the scale is fitted */
        to.scale = q2 > 0.0f ? (xq + minimum * q1) / q2 : scale;
    } else {
        to.scale = (n * xq - x1 * q1) / det;
        to.minimum = (to.scale * q1 - x1) / n;
    }
    if (to.minimum < 0.0f) {
        to.minimum = 0.0f;
        to.scale = q2 > 0.0f ? xq / q2 : 0.0f;
    }
    if (to.scale < 0.0f)
        to.scale = 0.0f;
    to.error = line_error(x, to.scale, to.minimum);
    return to;
}

static struct line best_line(const float *x)
{
    enum { TRIES = 9 };
    float least = 0.0f, most = x[0];
    for (unsigned i = 0; i < RUN; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    struct line best = {0.0f, -least, line_error(x, 0.0f, -least)};
    for (int k = 0; k < TRIES; k++) {
        const float levels = 13.8f + 0.3f * (float)k; /* 15 and around it */
        const struct line to = line_fit(x, (most - least) / levels, -least);
        if (to.error < best.error)
            best = to;
    }
    const struct line again = line_fit(x, best.scale, best.minimum);
    return again.error < best.error ? again : best;
}

/* The 6-bit scale and minimum of a run, at or beside the rounded ones. */
static void best_pair_4k(const float *x, struct line to, float d, float dmin, uint8_t *sc,
                         uint8_t *m)
{
    const int sc0 = (int)level(to.scale * inverse(d), 0.0f, 63.0f);
    const int m0 = (int)level(to.minimum * inverse(dmin), 0.0f, 63.0f);
    float least = INFINITY;
    for (int a = sc0 > 0 ? sc0 - 1 : 0; a <= sc0 + 1 && a < 64; a++)
        for (int b = m0 > 0 ? m0 - 1 : 0; b <= m0 + 1 && b < 64; b++) {
            const float error = line_error(x, d * (float)a, dmin * (float)b);
            if (error < least) {
                least = error;
                *sc = (uint8_t)a;
                *m = (uint8_t)b;
            }
        }
}

/* The first four scales and minima lie in the low six bits of bytes 0-3 and 4-7; of the others the
 * low four bits share bytes 8-11 and the upper two top up the first eight bytes. */
static void put_pairs_4k(const uint8_t *sc, const uint8_t *m, uint8_t *to)
{
    for (unsigned i = 0; i < 4; i++) {
        to[i] = (uint8_t)(sc[i] | sc[4 + i] >> 4 << 6);
        to[4 + i] = (uint8_t)(m[i] | m[4 + i] >> 4 << 6);
        to[8 + i] = (uint8_t)((sc[4 + i] & 15) | (m[4 + i] & 15) << 4);
    }
}

/* Runs 2k and 2k + 1 share 32 bytes: the even one has the low nibbles. */
bool model_quantise_q4_k(const float *x, uint8_t *block)
{
    struct line lines[RUNS_4K];
    float scale = 0.0f, minimum = 0.0f, d, dmin;
    uint8_t sc[RUNS_4K] = {0}, m[RUNS_4K] = {0};
    if (fabsf(extreme(x, SUPER)) > value_max)
        return false;
    for (unsigned j = 0; j < RUNS_4K; j++) {
        lines[j] = best_line(x + j * RUN);
        scale = lines[j].scale > scale ? lines[j].scale : scale;
        minimum = lines[j].minimum > minimum ? lines[j].minimum : minimum;
    }
    if (!put_f16(scale / 63.0f, block, &d) || !put_f16(minimum / 63.0f, block + 2, &dmin))
        return false;
    memset(block + 16, 0, 128);
    for (unsigned j = 0; j < RUNS_4K; j++) {
        const float *run = x + j * RUN;
        best_pair_4k(run, lines[j], d, dmin, &sc[j], &m[j]);
        const float inv = inverse(d * (float)sc[j]), low = dmin * (float)m[j];
        for (unsigned i = 0; i < RUN; i++) {
            const unsigned q = (unsigned)level((run[i] + low) * inv, 0.0f, 15.0f);
            block[16 + j / 2 * RUN + i] |= (uint8_t)(q << j % 2 * 4);
        }
    }
    put_pairs_4k(sc, m, block + 4);
    return true;
}
