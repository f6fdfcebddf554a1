/* exp in F32: the definition that every vector form repeats step for step. x = n ln 2 + r with n
 * found by adding 1.5 * 2^23 (round to even by the addition itself), r by two fused steps so that
 * nothing is lost, a polynomial of degree 7 in r (coefficients as in Cephes' expf: Moshier,
 * "Methods and Programs for Mathematical Functions", 1989), and n added into the exponent field.
 * Relative error at most 8.4e-8. Not above -87 (NaN included) gives 0 and above 88 gives exp(88):
 * the result is always a normal number or 0, so the exponent trick cannot leave its range. exp(0)
 * is 1 exactly. */
#include "kernels/internal.h"

#include <math.h>

float kern_exp(float x)
{
    if (!(x > -87.0f))
        return 0.0f;
    if (x > 88.0f)
        x = 88.0f;

    const float z = fmaf(x, 1.44269504f, 12582912.0f);
    const float n = z - 12582912.0f;
    const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    return kern_float(kern_bits(p) + ((kern_bits(z) - 0x4b400000u) << 23));
}
