/* The definition of the gated activation: y = gate / (1 + exp(-gate)) * up, with our own exp. Each
 * element stands alone. An infinite or not-a-number gate gives a value that is not finite, which
 * the quantiser or the unit sum behind it refuses. */
#include "kernels/internal.h"

void kern_silu_mul_generic(const float *gate, const float *up, uint32_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + kern_exp(-gate[i])) * up[i];
}
