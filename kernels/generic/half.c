/* F16 and BF16 as bit formulas: exact to F32, round to nearest even from F32, denormals kept
 * whatever the floating point unit is set to. Conversion instructions (F16C, Arm's) give the same
 * bits for all inputs; a NaN keeps the top of its payload and becomes quiet, as theirs does. */
#include "kernels/internal.h"

float kern_f32_from_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u;
    const uint32_t mantissa = h & 0x3ffu;

    if (exponent == 31)
        return kern_float(sign | KERN_INF_BITS | (mantissa << 13) |
                          (mantissa != 0 ? 0x400000u : 0));
    if (exponent == 0) /* a multiple of 2^-24, exact as a product */
        return kern_float(sign | kern_bits((float)mantissa * 0x1p-24f));
    return kern_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

/* Round-to-even of v / 2^shift, shift at least 1. */
static uint32_t shift_round(uint32_t v, unsigned shift)
{
    const uint32_t half = 1u << (shift - 1);
    return (v + half - 1 + ((v >> shift) & 1)) >> shift;
}

uint16_t kern_f16_from_f32(float x)
{
    const uint32_t bits = kern_bits(x), m = bits & KERN_ABS_MASK;
    const uint32_t sign = (bits >> 16) & 0x8000u;

    if (m > KERN_INF_BITS)
        return (uint16_t)(sign | 0x7e00u | ((m >> 13) & 0x1ffu));
    if (m >= KERN_F16_OVER_BITS)
        return (uint16_t)(sign | 0x7c00u);
    /* From 2^-14 up a half is normal; a carry out of the mantissa rightly raises the exponent. */
    if (m >= 0x38800000u)
        return (uint16_t)(sign | shift_round(m - (112u << 23), 13));
    if (m < 0x33000000u) /* 2^-25, half of the least denormal */
        return (uint16_t)sign;
    return (uint16_t)(sign | shift_round((m & 0x7fffffu) | 0x800000u, 126 - (m >> 23)));
}

float kern_f32_from_bf16(uint16_t h)
{
    return kern_float((uint32_t)h << 16);
}
