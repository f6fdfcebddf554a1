/* What every kernel file shares: the conditions under which the bits of docs/numerics.md come out,
 * views of a float as its bits, the function type of each slot, and the declarations derived from
 * kernels.def. Private to kernels/. */
#ifndef KERNELS_INTERNAL_H
#define KERNELS_INTERNAL_H

#include "kernels/kernels.h"

#include <float.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "the kernels promise bits: build them without -ffast-math and -Ofast"
#endif
_Static_assert(FLT_EVAL_METHOD == 0,
               "float expressions must be evaluated in float (i386: -mfpmath=sse)");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "packed matrices are little-endian");

enum { KERN_SEGMENT_BLOCKS = KERN_SEGMENT / KERN_BLOCK };

/* The packed bytes of each type as constants: KERN_Q4_K_HEAD, KERN_Q4_K_SCALES, KERN_Q4_K_QUANTS. */
enum {
#define TYPE(id, name, ggml, cols, bytes, integer, super, head, scales, quants)                    \
    KERN_##id##_HEAD = head, KERN_##id##_SCALES = scales, KERN_##id##_QUANTS = quants,
#include "kernels/types.def"
};

/* Bytes from a segment's start to its quants, for n_blocks blocks. */
#define KERN_SEGMENT_HEAD(head, scales, n_blocks)                                                  \
    (((size_t)(head) + (size_t)(scales) * (n_blocks) + KERN_ALIGN - 1) / KERN_ALIGN * KERN_ALIGN)

/* Blocks of the segment that begins at block b of a matrix of n_blocks blocks whose first segment is
 * `skip` columns short. */
static inline size_t kern_segment_blocks(size_t b, size_t n_blocks, uint32_t skip)
{
    const size_t most = KERN_SEGMENT_BLOCKS - (b == 0 ? skip / KERN_BLOCK : 0);
    return n_blocks - b < most ? n_blocks - b : most;
}

#define KERN_ABS_MASK      0x7fffffffu /* bits of |x| */
#define KERN_INF_BITS      0x7f800000u /* |x| at least this: infinite or not a number */
#define KERN_TINY_BITS     0x0d800000u /* 2^-100: a block that is all below counts as zeros */
#define KERN_UNIT_MAX_BITS 0x4a000000u /* 2^21: largest |u| that a unit sum may have */
#define KERN_F16_OVER_BITS 0x477ff000u /* 65520: the least |x| that rounds to F16 infinity */
#define KERN_NAN_BITS      0x7fc00000u

#define KERN_ALWAYS_INLINE static inline __attribute__((always_inline))

/* What hardware foresees of a stream ends with the page, and the next one's address has to be looked
 * up. Where weights lie in pages of 4 KiB, ask for one line of the page `ahead` pages on, once a page:
 * when one ends within the bytes at p. Nothing is read, so it does not matter what lies there. */
KERN_ALWAYS_INLINE void kern_begin_page(const void *p, size_t bytes, unsigned ahead)
{
    const uintptr_t from = (uintptr_t)p, to = from + bytes, page = 4096;
    if (((from ^ to) & page) != 0)
        __builtin_prefetch((const void *)(to / page * page + ahead * page));
}

static inline uint32_t kern_bits(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static inline float kern_float(uint32_t b)
{
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* As integers, because comparisons with NaN are where machines and compilers differ. */
static inline bool kern_is_finite(float x)
{
    return (kern_bits(x) & KERN_ABS_MASK) < KERN_INF_BITS;
}

static inline size_t kern_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Sum of 16 lanes in the one order the numerics know: halves onto halves. Overwrites them. */
static inline float kern_fold16(float lane[static 16])
{
    for (unsigned width = 8; width > 0; width /= 2)
        for (unsigned i = 0; i < width; i++)
            lane[i] = lane[i] + lane[i + width];
    return lane[0];
}

/* The i-th of an array of little-endian F16 that need not be aligned. */
static inline float kern_f16_at(const uint8_t *p, size_t i)
{
    uint16_t half;
    memcpy(&half, p + 2 * i, sizeof half);
    return kern_f32_from_f16(half);
}

/* The function type of each slot; kernels.h says what each computes. */
typedef bool kern_quantise_fn(const float *x, uint32_t n, int8_t *q, float *a, float *s, int16_t *h);
typedef void kern_matmul_fn(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                            const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride);
typedef void kern_matmul_sum_fn(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                                const struct kern_act *x, uint32_t n_x, int64_t *acc,
                                size_t acc_stride, uint8_t *bad);
typedef void kern_unit_close_fn(const int64_t *acc, uint32_t n, const float *bias, float *x);
typedef bool kern_rms_norm_fn(const float *x, const float *weight, uint32_t n, float eps, float *y);
typedef void kern_silu_mul_fn(const float *gate, const float *up, uint32_t n, float *y);
typedef void kern_gelu_mul_fn(const float *gate, const float *up, uint32_t n, float *y);
typedef bool kern_kv_store_fn(const float *x, uint32_t head_dim, void *row);
typedef void kern_attend_fn(const struct kern_query *list, uint32_t n_q, const void *k,
                            const void *v, uint32_t head_dim, float scale);

#define KERNEL(op, type, isa, function, tile) kern_##op##_fn function;
#include "kernels/kernels.def"

#endif
