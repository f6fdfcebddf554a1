/* The least time of a layer whose members' memory is shared by heads and columns: a lower bound.
 *
 * With heads done within a and columns within f, a member can take so many heads and so many columns,
 * and memory trades the one for the other. All columns can be held exactly where heads are first put
 * into memory that columns have no time for, and each further head displaces the columns of its
 * bytes; which member holds it does not matter. That closed form says whether (a, f) is possible,
 * fractions of units allowed. The least f falls as a grows, so over an interval of a the sum is at
 * least its left end plus the least f of its right end; intervals that could hold the least sum are
 * divided again. */
#include "partition/internal.h"

enum { INTERVALS = 8, ROUNDS = 3, BISECTIONS = 16 };

static double units_within(double within_s, double first_s, double unit_s)
{
    return within_s <= first_s ? 0.0 : unit_s > 0.0 ? (within_s - first_s) / unit_s : PART_NEVER;
}

static bool possible(const struct part_couple *c, double attn_s, double ff_s)
{
    double free_heads = 0.0, more_heads = 0.0, columns = 0.0;
    for (uint32_t k = 0; k < c->n; k++) {
        const struct part_couple_member *m = &c->at[k];
        const double room = m->room > 0.0 ? m->room : 0.0;
        const double heads = fmin(fmin(units_within(attn_s, m->attn_s, m->head_s), c->heads),
                                  c->head_bytes > 0.0 ? room / c->head_bytes : c->heads);
        const double ffs = fmin(fmin(units_within(ff_s, m->ff_s, m->column_s), c->columns),
                                c->column_bytes > 0.0 ? room / c->column_bytes : c->columns);
        const double spare = room - ffs * c->column_bytes;
        const double idle =
            c->head_bytes > 0.0 ? fmin(heads, fmax(spare, 0.0) / c->head_bytes) : heads;
        free_heads += m->n * idle;
        more_heads += m->n * (heads - idle);
        columns += m->n * ffs;
    }
    const double more = c->heads - free_heads;
    if (more > more_heads * (1.0 + 1e-12) + 1e-12)
        return false;
    if (more > 0.0 && c->column_bytes > 0.0)
        columns -= more * c->head_bytes / c->column_bytes;
    return columns >= c->columns * (1.0 - 1e-12);
}

/* The least f for heads within attn_s; a lower side. PART_NEVER: none. */
static double least_ff(const struct part_couple *c, double attn_s)
{
    double low = 0.0, high = c->most_s;
    if (!possible(c, attn_s, high))
        return PART_NEVER;
    for (int k = 0; k < BISECTIONS; k++) {
        const double mid = low + (high - low) / 2.0;
        if (possible(c, attn_s, mid))
            high = mid;
        else
            low = mid;
    }
    return low;
}

static double least_sum(const struct part_couple *c, double from, double to, int round,
                        double *known)
{
    double least = PART_NEVER;
    for (int k = 0; k < INTERVALS; k++) {
        const double a = from + (to - from) * k / INTERVALS,
                     b = from + (to - from) * (k + 1) / INTERVALS;
        const double f = least_ff(c, b);
        double here = a + f;
        if (f == PART_NEVER)
            continue;
        *known = fmin(*known, b + f);
        if (here < *known && round + 1 < ROUNDS && b - a > 0.002 * here)
            here = fmax(here, least_sum(c, a, b, round + 1, known));
        least = fmin(least, here);
    }
    return least;
}

double part_couple_seconds(const struct part_couple *c)
{
    double known = PART_NEVER;
    return least_sum(c, 0.0, c->most_s, 0, &known);
}
