/* The definition of activation quantisation: blocks of 32 columns to int8 with one F32 scale. The
 * largest magnitude m is found on bit patterns, so that NaN cannot hide in a comparison. The scale
 * is a = m / 127, and a value becomes round-to-even(x * (127 / m)), which never exceeds 127 in size
 * and so never is -128 (kernels that take absolute values rely on it). 127 / m is divided anew: the
 * reciprocal of a would give other integers now and then. Blocks all below 2^-100 are zeros. Beside
 * the quants stand their sums, which types with an offset or a minimum need: of each 16, and of the
 * block times a. */
#include "kernels/internal.h"

#include <math.h>

/* x [32], q [32], a [1], s [1], h [2]; m_bits: the largest |x|, as bits. */
static void quantise_block(const float *x, uint32_t m_bits, int8_t *q, float *a, float *s,
                           int16_t *h)
{
    const float m = kern_float(m_bits);
    const float inverse = 127.0f / m;
    int sums[2] = {0, 0};

    *a = m / 127.0f;
    for (unsigned i = 0; i < KERN_BLOCK; i++) {
        q[i] = (int8_t)lrintf(x[i] * inverse);
        sums[i / 16] += q[i];
    }
    h[0] = (int16_t)sums[0];
    h[1] = (int16_t)sums[1];
    *s = *a * (float)(sums[0] + sums[1]);
}

bool kern_quantise_generic(const float *x, uint32_t n, int8_t *q, float *a, float *s, int16_t *h)
{
    memset(q, 0, n);
    memset(a, 0, n / KERN_BLOCK * sizeof *a);
    memset(s, 0, n / KERN_BLOCK * sizeof *s);
    memset(h, 0, n / 16 * sizeof *h);
    for (size_t i = 0; i < n; i++)
        if (!kern_is_finite(x[i]))
            return false;
    for (size_t b = 0; b < n / KERN_BLOCK; b++) {
        uint32_t m_bits = 0;
        for (size_t i = b * KERN_BLOCK; i < (b + 1) * KERN_BLOCK; i++) {
            const uint32_t bits = kern_bits(x[i]) & KERN_ABS_MASK;
            m_bits = bits > m_bits ? bits : m_bits;
        }
        if (m_bits >= KERN_TINY_BITS)
            quantise_block(x + b * KERN_BLOCK, m_bits, q + b * KERN_BLOCK, a + b, s + b, h + 2 * b);
    }
    return true;
}
