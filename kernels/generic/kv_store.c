/* The definition of storing one row of keys or values. Conversion to F16 rounds to even and keeps
 * denormals. A row with an element that is not finite in the stored type is refused and stored as
 * zeros, so that whatever reads the cache later reads finite numbers. */
#include "kernels/internal.h"

static bool all_below(const float *x, uint32_t n, uint32_t limit_bits)
{
    for (size_t i = 0; i < n; i++)
        if ((kern_bits(x[i]) & KERN_ABS_MASK) >= limit_bits)
            return false;
    return true;
}

bool kern_kv_store_f16_generic(const float *x, uint32_t head_dim, void *row)
{
    uint16_t *out = row;
    if (!all_below(x, head_dim, KERN_F16_OVER_BITS)) {
        memset(row, 0, head_dim * sizeof *out);
        return false;
    }
    for (size_t i = 0; i < head_dim; i++)
        out[i] = kern_f16_from_f32(x[i]);
    return true;
}

bool kern_kv_store_f32_generic(const float *x, uint32_t head_dim, void *row)
{
    if (!all_below(x, head_dim, KERN_INF_BITS)) {
        memset(row, 0, head_dim * sizeof *x);
        return false;
    }
    memcpy(row, x, head_dim * sizeof *x);
    return true;
}
