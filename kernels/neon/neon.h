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
#define NEON_UNROLL _Pragma("GCC unroll 16")
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

/* x [16] * inverse, rounded to even (fcvtns), to q [16]; returns their sum. Narrowing loses nothing,
 * since every value is within -127..127. */
KERN_ALWAYS_INLINE int16_t neon_quantise16(const float *x, float inverse, int8_t *q)
{
    const int32x4_t v0 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inverse));
    const int32x4_t v1 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), inverse));
    const int32x4_t v2 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 8), inverse));
    const int32x4_t v3 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 12), inverse));
    const int16x8_t low = vcombine_s16(vmovn_s32(v0), vmovn_s32(v1));
    const int16x8_t high = vcombine_s16(vmovn_s32(v2), vmovn_s32(v3));
    const int8x16_t bytes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
    vst1q_s8(q, bytes);
    return vaddlvq_s8(bytes);
}

/* ---- where a matrix product goes -------------------------------------------------------------- */

/* To y, or where that is NULL to fixed-point sums. */
struct neon_out {
    float *y;
    int64_t *acc;
    uint8_t *bad;
    size_t stride; /* of y or acc, in elements */
};

/* Add the first n of u [16] as 2^-30 fixed point. This architecture converts between double and
 * int64 in registers, with the rounding that the definition has. */
KERN_ALWAYS_INLINE void neon_add_units(const float *u, size_t n, int64_t *acc)
{
    size_t r = 0;
    for (; r + 2 <= n; r += 2) {
        const float64x2_t scaled = vmulq_n_f64(vcvt_f64_f32(vld1_f32(u + r)), 0x1p30);
        vst1q_s64(acc + r, vaddq_s64(vld1q_s64(acc + r), vcvtnq_s64_f64(scaled)));
    }
    if (r < n)
        acc[r] += vcvtnd_s64_f64((double)u[r] * 0x1p30);
}

/* Results u [n][16] of group g with rows i .. i+n-1 of x. */
static inline void neon_put(const struct neon_out *out, size_t n_rows, size_t g, size_t i, size_t n,
                            float u[][KERN_GROUP])
{
    const size_t row = g * KERN_GROUP;
    for (size_t k = 0; k < n; k++) {
        const size_t at = (i + k) * out->stride + row;
        const size_t count = kern_min_size(n_rows - row, KERN_GROUP);
        if (out->y != NULL)
            memcpy(out->y + at, u[k], sizeof u[k]);
        else if (neon_max_abs(u[k], count) > KERN_UNIT_MAX_BITS)
            out->bad[i + k] = 1;
        else
            neon_add_units(u[k], count, out->acc + at);
    }
}

/* Both kernels of one type, made from product_NAME(w, group0, group1, x, n_x, out). */
#define NEON_MATMUL(name)                                                                          \
    void kern_matmul_##name(const struct kern_matrix *w, uint32_t group0, uint32_t group1,         \
                            const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride)     \
    {                                                                                              \
        const struct neon_out out = {.y = y, .stride = y_stride};                                  \
        product_##name(w, group0, group1, x, n_x, &out);                                           \
    }                                                                                              \
                                                                                                   \
    void kern_matmul_sum_##name(const struct kern_matrix *w, uint32_t group0, uint32_t group1,     \
                                const struct kern_act *x, uint32_t n_x, int64_t *acc,              \
                                size_t acc_stride, uint8_t *bad)                                   \
    {                                                                                              \
        const struct neon_out out = {.acc = acc, .bad = bad, .stride = acc_stride};                \
        product_##name(w, group0, group1, x, n_x, &out);                                           \
    }

#endif
