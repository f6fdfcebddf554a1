/* The fused multiply-add of every kernel set that this CPU runs, where it is hardest: sums that
 * cancel, products half a unit in the last place of the addend or just beside it, denormal results,
 * overflow, and any bits at all. x86 without FMA builds the step from additions in double
 * (kernels/sse4/sse4.h), and a form that is right for ordinary numbers is wrong here now and then;
 * random matrices would hardly ever show it.
 *
 * The step is reached through the product of an F32 matrix of two columns: with x = (1, b) and a
 * row (c, a) the chain is fma(a, b, c), to which the segment's end adds +0. */
#include "kernels/kernels.h"

#include "common/common.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { ROUNDS = 60000 }; /* of 16 triples */

static uint64_t rng = 1;

static uint32_t draw(void)
{
    return (uint32_t)(base_rng_next(&rng) >> 32);
}

static uint32_t bits_of(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static float of_bits(uint32_t b)
{
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

static float draw_float(unsigned style)
{
    const uint32_t b = draw(), sign_mantissa = b & 0x807fffffu;
    switch (style % 6) {
    case 0:
        return of_bits(b);
    case 1: /* denormal */
        return of_bits(sign_mantissa);
    case 2: /* ordinary */
        return of_bits(sign_mantissa | (120 + draw() % 16) << 23);
    case 3: /* few bits: exact products, ties */
        return of_bits((b & 0x807f0000u) | (100 + draw() % 60) << 23);
    case 4: /* products that are denormal */
        return of_bits(sign_mantissa | (56 + draw() % 16) << 23);
    default: /* products that overflow */
        return of_bits(sign_mantissa | (185 + draw() % 12) << 23);
    }
}

/* An addend for the product a * b: any, what cancels it, or one whose last place, or half of it,
 * the product just reaches, or the other way round. */
static float draw_addend(float a, float b, unsigned style)
{
    const float p = a * b;
    const int exponent = (int)((bits_of(p) >> 23) & 255);
    int e = exponent;
    switch (style % 4) {
    case 0:
        return draw_float(style / 4);
    case 1:
        return of_bits(bits_of(-p) + draw() % 3 - 1);
    case 2:
        e += 22 + (int)(draw() % 5);
        break;
    default:
        e -= 22 + (int)(draw() % 5);
        break;
    }
    e = e < 0 ? 0 : e > 254 ? 254 : e;
    const uint32_t mantissa = (draw() & 1) != 0 ? draw() & 1 : draw() & 0x7fffffu;
    return of_bits((draw() & 0x80000000u) | (uint32_t)e << 23 | mantissa);
}

static void check_round(const struct kern_table *t)
{
    static _Alignas(KERN_ALIGN) float packed[2][KERN_GROUP];
    const float x[2] = {1.0f, draw_float(draw())};
    const struct kern_act act = {.f = x, .f_stride = 2};
    struct kern_matrix m;
    float y[KERN_GROUP];

    for (unsigned r = 0; r < KERN_GROUP; r++) {
        packed[1][r] = draw_float(draw());
        packed[0][r] = draw_addend(packed[1][r], x[1], draw());
    }
    kern_matrix_bind(&m, KERN_F32, KERN_GROUP, 2, 0, packed);
    t->matmul[KERN_F32](&m, 0, 1, &act, 1, y, KERN_GROUP);
    for (unsigned r = 0; r < KERN_GROUP; r++) {
        const float c = fmaf(packed[0][r], 1.0f, 0.0f);
        const float want = 0.0f + fmaf(packed[1][r], x[1], c);
        if (bits_of(want) == bits_of(y[r]) || (isnan(want) && isnan(y[r])))
            continue;
        print_error("%s: fma(%a, %a, %a) gave %a, not %a\n", t->name, (double)packed[1][r],
                    (double)x[1], (double)c, (double)y[r], (double)want);
        fail();
    }
}

static void test_fused(void **state)
{
    (void)state;
    for (unsigned i = 0; kern_table_at(i) != NULL; i++) {
        if (!kern_table_runs(kern_table_at(i)))
            continue;
        rng = 1;
        for (unsigned j = 0; j < ROUNDS; j++)
            check_round(kern_table_at(i));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fused)};
    kern_fp_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
