/* The definition of sums that a cut of the model may split. Each unit's F32 sum becomes an integer
 * number of 2^-30 and is added as int64: integer addition has no order, so it does not matter which
 * machine holds which unit, nor how partial sums are grouped. The gate at 2^21 makes a term at most
 * 2^51, and KERN_UNITS_MAX (4095) of them stay below 2^63: no grouping can overflow. The way back
 * is two roundings, int64 to double and double to float, once, after all units. */
#include "kernels/internal.h"

#include <math.h>

_Static_assert(KERN_UNITS_MAX < 4096, "4096 terms of 2^51 would reach 2^63");

bool kern_unit_add_generic(const float *u, uint32_t n, int64_t *acc)
{
    for (size_t i = 0; i < n; i++)
        if ((kern_bits(u[i]) & KERN_ABS_MASK) > KERN_UNIT_MAX_BITS)
            return false;
    for (size_t i = 0; i < n; i++)
        acc[i] += llrint((double)u[i] * 0x1p30);
    return true;
}

void kern_unit_close_generic(const int64_t *acc, uint32_t n, const float *bias, float *x)
{
    for (size_t i = 0; i < n; i++) {
        float sum = (float)((double)acc[i] * 0x1p-30);
        if (bias != NULL)
            sum = sum + bias[i];
        x[i] = x[i] + sum;
    }
}
