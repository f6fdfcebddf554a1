/* The definition of closing a sum that a cut of the model may split (product.c adds it up): two
 * roundings, int64 to double and double to float, once, after all units; then the bias where there
 * is one; then the row it belongs to. */
#include "kernels/internal.h"

void kern_unit_close_generic(const int64_t *acc, uint32_t n, const float *bias, float *x)
{
    for (size_t i = 0; i < n; i++) {
        float sum = (float)((double)acc[i] * 0x1p-30);
        if (bias != NULL)
            sum = sum + bias[i];
        x[i] = x[i] + sum;
    }
}
