/* The definition of the gated activation with GELU in its tanh form (Hendrycks, Gimpel, "Gaussian
 * Error Linear Units", 2016). 0.5 * (1 + tanh y) is 1 / (1 + exp(-2y)), so our own exp is all it
 * takes: with y = sqrt(2 / pi) * (x + 0.044715 x^3), gelu(x) = x / (1 + exp(-2y)). The order of the
 * products is the one written, left to right, and only the fmaf is fused. Each element stands
 * alone. An infinite or not-a-number gate gives a value that is not finite, which the quantiser or
 * the unit sum behind it refuses. */
#include "kernels/internal.h"

#include <math.h>

void kern_gelu_mul_generic(const float *gate, const float *up, uint32_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        const float x = gate[i];
        const float z = 0.797884561f * fmaf(0.044715f * x * x, x, x);
        y[i] = x / (1.0f + kern_exp(-2.0f * z)) * up[i];
    }
}
