/* KV rows. The conversion names its rounding in the instruction and keeps denormals whatever the
 * control register says, so it agrees with the bit formula for every input; the gates are on
 * integers. Q8_0 is the quantiser's work, with its scales narrowed to F16. */
#include "kernels/avx2/avx2.h"

#include <assert.h>

bool kern_kv_store_f16_avx2(const float *x, uint32_t head_dim, void *row)
{
    uint16_t *out = row;
    size_t i = 0;
    if (avx2_max_abs(x, head_dim) >= KERN_F16_OVER_BITS) {
        memset(row, 0, head_dim * sizeof *out);
        return false;
    }
    for (; i + 8 <= head_dim; i += 8)
        _mm_storeu_si128((void *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < head_dim; i++)
        out[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
    return true;
}

bool kern_kv_store_f32_avx2(const float *x, uint32_t head_dim, void *row)
{
    if (avx2_max_abs(x, head_dim) >= KERN_INF_BITS) {
        memset(row, 0, head_dim * sizeof *x);
        return false;
    }
    memcpy(row, x, head_dim * sizeof *x);
    return true;
}

bool kern_kv_store_q8_0_avx2(const float *x, uint32_t head_dim, void *row)
{
    const size_t n_blocks = head_dim / KERN_BLOCK;
    uint16_t *const d = (uint16_t *)(void *)((uint8_t *)row + head_dim);
    float a[KERN_HEAD_DIM_MAX / KERN_BLOCK], s[KERN_HEAD_DIM_MAX / KERN_BLOCK];
    int16_t h[KERN_HEAD_DIM_MAX / 16];

    assert(head_dim <= KERN_HEAD_DIM_MAX);
    if (!kern_quantise_avx2(x, head_dim, row, a, s, h) ||
        avx2_max_abs(a, n_blocks) >= KERN_F16_OVER_BITS) {
        memset(row, 0, head_dim + n_blocks * sizeof *d);
        return false;
    }
    for (size_t b = 0; b < n_blocks; b++)
        d[b] = _cvtss_sh(a[b], _MM_FROUND_TO_NEAREST_INT);
    return true;
}
