/* What the NEON kernels share (64-bit Arm, whose NEON is IEEE-exact; 32-bit Arm's flushes
 * denormals). Four registers of 4 lanes stand for the 16 rows of a group or the 16 lanes of a
 * vector product. Every step is one of the definition's, with the same rounding: vfmaq_f32 where
 * fmaf is written, never vmlaq_f32, whose rounding the compiler chooses; no estimate instructions.
 * Private to kernels/neon/. */
#ifndef KERNELS_NEON_NEON_H
#define KERNELS_NEON_NEON_H

#include "kernels/internal.h"

#include <arm_neon.h>
#include <math.h>

/* Before a loop whose count is a constant once its function is inlined: without it GCC leaves small
 * arrays of registers in memory at -O2. Other compilers unroll such loops by themselves. */
#if defined(__GNUC__) && !defined(__clang__)
#define NEON_UNROLL _Pragma("GCC unroll 8")
#else
#define NEON_UNROLL
#endif

/* Four F16 as F32. */
KERN_ALWAYS_INLINE float32x4_t neon_load_f16(const void *p)
{
    uint16x4_t half;
    memcpy(&half, p, sizeof half);
    return vcvt_f32_f16(vreinterpret_f16_u16(half));
}

/* Largest |x| of n, as bits: a NaN or an infinity shows as KERN_INF_BITS or more. */
KERN_ALWAYS_INLINE uint32_t neon_max_abs(const float *x, size_t n)
{
    uint32x4_t m = vdupq_n_u32(0);
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        m = vmaxq_u32(
            m, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(KERN_ABS_MASK)));
    uint32_t bits = vmaxvq_u32(m);
    for (; i < n; i++) {
        const uint32_t b = kern_bits(x[i]) & KERN_ABS_MASK;
        bits = b > bits ? b : bits;
    }
    return bits;
}

/* Lanes 0..15 in four registers folded: +8, +4, +2, +1. */
KERN_ALWAYS_INLINE float neon_fold16(const float32x4_t l[4])
{
    const float32x4_t by4 = vaddq_f32(vaddq_f32(l[0], l[2]), vaddq_f32(l[1], l[3]));
    const float32x2_t by2 = vadd_f32(vget_low_f32(by4), vget_high_f32(by4));
    return vget_lane_f32(by2, 0) + vget_lane_f32(by2, 1);
}

/* kern_exp of four values. */
KERN_ALWAYS_INLINE float32x4_t neon_exp(float32x4_t x)
{
    const uint32x4_t live = vcgtq_f32(x, vdupq_n_f32(-87.0f));
    const float32x4_t magic = vdupq_n_f32(12582912.0f);
    x = vminq_f32(x, vdupq_n_f32(88.0f));

    const float32x4_t z = vfmaq_f32(magic, x, vdupq_n_f32(1.44269504f));
    const float32x4_t n = vsubq_f32(z, magic);
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-0.693145752f));
    r = vfmaq_f32(r, n, vdupq_n_f32(-1.42860677e-6f));
    float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
    p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));

    const uint32x4_t shift = vsubq_u32(vreinterpretq_u32_f32(z), vdupq_n_u32(0x4b400000));
    const uint32x4_t bits = vaddq_u32(vreinterpretq_u32_f32(p), vshlq_n_u32(shift, 23));
    return vreinterpretq_f32_u32(vandq_u32(bits, live));
}

#endif
