/* Activation quantisation, a block of 32 columns in eight registers. A vector that is not finite is
 * found at its first such block, and what was written until then is cleared. */
#include "kernels/neon/neon.h"

bool kern_quantise_neon(const float *x, uint32_t n, int8_t *q, float *a, float *s, int16_t *h)
{
    for (size_t b = 0; b < n / KERN_BLOCK; b++) {
        const float *xb = x + b * KERN_BLOCK;
        int8_t *qb = q + b * KERN_BLOCK;
        const uint32_t m_bits = neon_max_abs(xb, KERN_BLOCK);
        if (m_bits >= KERN_INF_BITS) {
            memset(q, 0, n);
            memset(a, 0, n / KERN_BLOCK * sizeof *a);
            memset(s, 0, n / KERN_BLOCK * sizeof *s);
            memset(h, 0, n / 16 * sizeof *h);
            return false;
        }
        if (m_bits < KERN_TINY_BITS) {
            memset(qb, 0, KERN_BLOCK);
            a[b] = s[b] = 0.0f;
            h[2 * b] = h[2 * b + 1] = 0;
        } else {
            const float m = kern_float(m_bits), inverse = 127.0f / m;
            a[b] = m / 127.0f;
            h[2 * b] = neon_quantise16(xb, inverse, qb);
            h[2 * b + 1] = neon_quantise16(xb + 16, inverse, qb + 16);
            s[b] = a[b] * (float)(h[2 * b] + h[2 * b + 1]);
        }
    }
    return true;
}
