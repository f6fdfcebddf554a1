/* Rotary positions. The table of one position is computed in double by our own functions and
 * rounded once to F32; the rotation is two products and a sum or difference, unfused, so that it is
 * the same on machines with and without FMA whatever the compiler would like. A factor that makes
 * an angle infinite or not a number gives NaN in the table, and the row is refused when it is
 * stored. */
#include "kernels/internal.h"

void kern_rope_table(uint32_t pos, uint32_t n_dims, double base, const float *factors, float *cs)
{
    const double log_base = kern_log_f64(base);
    for (uint32_t i = 0; i < n_dims / 2; i++) {
        double angle = (double)pos * kern_exp_f64(log_base * (-(double)(2 * i) / (double)n_dims));
        double s, c;
        if (factors != NULL)
            angle = angle / (double)factors[i];
        kern_sincos_f64(angle, &s, &c);
        cs[2 * i] = (float)c;
        cs[2 * i + 1] = (float)s;
    }
}

/* Rotate the pair (*x0, *x1) by cs = {cos, sin}. */
static void rotate(float *x0, float *x1, const float *cs)
{
    const float a = *x0, b = *x1;
    *x0 = a * cs[0] - b * cs[1];
    *x1 = a * cs[1] + b * cs[0];
}

void kern_rope_norm(float *x, uint32_t n_dims, const float *cs)
{
    for (uint32_t i = 0; i < n_dims / 2; i++)
        rotate(&x[2 * i], &x[2 * i + 1], cs + 2 * i);
}

void kern_rope_neox(float *x, uint32_t n_dims, const float *cs)
{
    for (uint32_t i = 0; i < n_dims / 2; i++)
        rotate(&x[i], &x[i + n_dims / 2], cs + 2 * i);
}
