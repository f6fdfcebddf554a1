/* The definition of storing one row of keys or values. Conversion to F16 rounds to even and keeps
 * denormals. Q8_0 is the quantiser's rule (quantise.c) with an F16 scale: per 32 elements with m
 * the largest magnitude, d = f16(m / 127) and q = round_to_even(x * (127 / m)); blocks all below
 * 2^-100 are zeros. A row with an element that is not finite, or not in the stored type (Q8_0:
 * whose block's scale is not), is refused and stored as zeros, so that whatever reads the cache
 * later reads finite numbers. */
#include "kernels/internal.h"

#include <math.h>

/* Bits of the largest |x[i]|. */
static uint32_t largest_bits(const float *x, size_t n)
{
    uint32_t m = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = kern_bits(x[i]) & KERN_ABS_MASK;
        m = bits > m ? bits : m;
    }
    return m;
}

bool kern_kv_store_f16_generic(const float *x, uint32_t head_dim, void *row)
{
    uint16_t *out = row;
    if (largest_bits(x, head_dim) >= KERN_F16_OVER_BITS) {
        memset(row, 0, head_dim * sizeof *out);
        return false;
    }
    for (size_t i = 0; i < head_dim; i++)
        out[i] = kern_f16_from_f32(x[i]);
    return true;
}

bool kern_kv_store_f32_generic(const float *x, uint32_t head_dim, void *row)
{
    if (largest_bits(x, head_dim) >= KERN_INF_BITS) {
        memset(row, 0, head_dim * sizeof *x);
        return false;
    }
    memcpy(row, x, head_dim * sizeof *x);
    return true;
}

bool kern_kv_store_q8_0_generic(const float *x, uint32_t head_dim, void *row)
{
    int8_t *q = row;
    uint8_t *scales = (uint8_t *)row + head_dim;

    memset(row, 0, kern_kv_row_bytes(KERN_KV_Q8_0, head_dim));
    /* An infinity and a NaN are past the limit as well: their quotients are above it as bits. */
    const float d_max = kern_float(largest_bits(x, head_dim)) / 127.0f;
    if ((kern_bits(d_max) & KERN_ABS_MASK) >= KERN_F16_OVER_BITS)
        return false;
    for (size_t b = 0; b < head_dim / KERN_BLOCK; b++) {
        const float *xb = x + b * KERN_BLOCK;
        const uint32_t m_bits = largest_bits(xb, KERN_BLOCK);
        if (m_bits < KERN_TINY_BITS)
            continue;
        const float m = kern_float(m_bits), inverse = 127.0f / m;
        const uint16_t d = kern_f16_from_f32(m / 127.0f);
        memcpy(scales + 2 * b, &d, sizeof d);
        for (unsigned i = 0; i < KERN_BLOCK; i++)
            q[b * KERN_BLOCK + i] = (int8_t)lrintf(xb[i] * inverse);
    }
    return true;
}
