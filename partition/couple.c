/* The least time of a stage whose members' memory is shared by heads, columns and runs of the output
 * matrix: a lower bound.
 *
 * With heads done within a, columns within f and runs within o, a member can take so many units of each
 * and so many bytes of all. Fractions of units allowed, all units find a place exactly where for any
 * of the parts together what the members can take of them is as much as these parts are (each
 * member's is a polymatroid; Edmonds, "Submodular functions, matroids, and certain polyhedra", 1970).
 * And all parts, and both halves, have to find place in whole units and whole KV heads, member by member.
 * Where one of these conditions fails (a, f, o) is impossible. Who needs less in all than some time does
 * it with a and o in one of a few boxes: where the ends of a box and what its beginnings leave for columns
 * are impossible, nothing in the box will do; the others are divided again. */
#include "partition/internal.h"

enum { PIECES = 4, BISECTIONS = 12 };

/* A box whose sides are this short, in parts of the time, is not divided again. */
static const double couple_short = 0.001;

/* The least times of parts are lower sides of bisections. */
static const double couple_rounding = 1e-8;

/* Bytes of a unit; what needs none is as good as none. */
static double size_of(const struct part_couple *c, enum part_of of)
{
    return fmax(c->bytes[of], 1e-6);
}

/* What a member can take of a part within so much time, in bytes. */
static double bytes_within(const struct part_couple *c, const struct part_couple_member *m,
                           enum part_of of, double within_s)
{
    if (!m->has[of] || within_s < m->first_s[of])
        return 0.0;
    const double fit = c->bytes[of] > 0.0 ? m->room / c->bytes[of] * (1.0 + 1e-12) : c->units[of];
    const double units = m->unit_s[of] > 0.0
                             ? (within_s - m->first_s[of]) / m->unit_s[of] * (1.0 + 1e-12) + 1e-9
                             : c->units[of];
    return fmin(fmin(floor(units), floor(fit)), c->units[of]) * size_of(c, of);
}

/* The most bytes of all parts together, and of both halves (*halves), that a member can hold of use, `most`
 * at most of each part: whole units, and the part of a KV head that has no heads there is of no use.
 * Columns come before runs, which are smaller and fill what is left. */
static double bytes_together(const struct part_couple *c, const struct part_couple_member *m,
                             const double *most, double *halves)
{
    const double head = size_of(c, PART_OF_HEADS), column = size_of(c, PART_OF_FF);
    const double heads = most[PART_OF_HEADS] / head;
    double best = 0.0;
    *halves = 0.0;
    for (double h = 0.0; h <= heads + 0.5; h += 1.0) {
        const double unused =
            (ceil(h / c->heads_per_kv - 1e-9) - h / c->heads_per_kv) * c->kv_bytes;
        const double left = m->room * (1.0 + 1e-12) - h * head - unused;
        if (left < 0.0)
            break;
        const double columns = fmin(most[PART_OF_FF], floor(left / column) * column);
        *halves = fmax(*halves, h * head + columns);
        best = fmax(best, h * head + columns + fmin(most[PART_OF_RUNS], left - columns));
    }
    return best;
}

static bool possible(const struct part_couple *c, const double *within_s)
{
    enum { ALL = 1 << PART_OF_ALL };
    double can[ALL] = {0.0}, output_s = within_s[PART_OF_RUNS], most[PART_DEVICES_MAX][PART_OF_ALL];
    for (uint32_t k = 0; k < c->n; k++) {
        double of[ALL] = {0.0};
        for (int x = 0; x < PART_OF_ALL; x++)
            of[1 << x] = most[k][x] = bytes_within(c, &c->at[k], (enum part_of)x,
                                                   x == PART_OF_RUNS ? output_s : within_s[x]);
        if (k == 0)
            output_s -= c->far_s *
                        (c->units[PART_OF_RUNS] - of[1 << PART_OF_RUNS] / size_of(c, PART_OF_RUNS));
        for (int set = 1; set < ALL; set++) {
            const int low = set & -set;
            if (set != low)
                of[set] = of[low] + of[set - low];
            can[set] += c->at[k].n * (set == low ? of[set] : fmin(of[set], c->at[k].room));
        }
    }
    double need[ALL] = {0.0}, halves_of, halves = 0.0, all = 0.0;
    for (int set = 1; set < ALL; set++) {
        for (int x = 0; x < PART_OF_ALL; x++)
            need[set] += (set >> x & 1) != 0 ? c->units[x] * size_of(c, (enum part_of)x) : 0.0;
        if (can[set] < need[set] * (1.0 - 1e-9))
            return false;
    }
    for (uint32_t k = 0; k < c->n; k++) {
        all += c->at[k].n * bytes_together(c, &c->at[k], most[k], &halves_of);
        halves += c->at[k].n * halves_of;
    }
    return all >= need[ALL - 1] * (1.0 - 1e-9) &&
           halves >= need[1 << PART_OF_HEADS | 1 << PART_OF_FF] * (1.0 - 1e-9);
}

/* The least f up to `high` for heads within attn_s and runs within output_s, where that is possible; a
 * lower side. */
static double least_ff(const struct part_couple *c, double attn_s, double output_s, double high)
{
    double low = c->least_s[PART_OF_FF];
    for (int k = 0; k < BISECTIONS && high - low > couple_short * high; k++) {
        const double mid = low + (high - low) / 2.0;
        if (possible(c, (double[PART_OF_ALL]){attn_s, mid, output_s}))
            high = mid;
        else
            low = mid;
    }
    return low;
}

struct box {
    double attn_s, attn_to_s, output_s, output_to_s;
};

static double least_in(const struct part_couple *c, struct box b, double below_s)
{
    const double attn_s = b.attn_to_s - b.attn_s, output_s = b.output_to_s - b.output_s;
    const double left_s = (below_s - b.output_s) / c->weight - b.attn_s;
    if (left_s <= c->least_s[PART_OF_FF] ||
        !possible(c, (double[PART_OF_ALL]){b.attn_to_s, left_s, b.output_to_s}))
        return below_s;
    if (fmax(c->weight * attn_s, output_s) <= couple_short * below_s) {
        const double ff_s = least_ff(c, b.attn_to_s, b.output_to_s, left_s);
        return fmin(below_s, c->weight * (b.attn_s + ff_s) + b.output_s);
    }
    for (int k = 0; k < PIECES; k++) {
        struct box x = b;
        if (c->weight * attn_s >= output_s) {
            x.attn_s = b.attn_s + attn_s * k / PIECES;
            x.attn_to_s = b.attn_s + attn_s * (k + 1) / PIECES;
        } else {
            x.output_s = b.output_s + output_s * k / PIECES;
            x.output_to_s = b.output_s + output_s * (k + 1) / PIECES;
        }
        below_s = least_in(c, x, below_s);
    }
    return below_s;
}

double part_couple_seconds(const struct part_couple *c, double below_s)
{
    const double *least = c->least_s;
    const double least_s =
        c->weight * (least[PART_OF_HEADS] + least[PART_OF_FF]) + least[PART_OF_RUNS] + c->fixed_s;
    double quick[PART_OF_ALL], most_s = c->fixed_s;
    if (least_s >= below_s)
        return below_s;
    for (int x = 0; x < PART_OF_ALL; x++) {
        quick[x] = least[x] * (1.0 + couple_rounding);
        most_s += c->most_s[x] * (x == PART_OF_RUNS ? 1.0 : c->weight);
    }
    if (possible(c, quick))
        return least_s;
    if (!possible(c, c->most_s))
        return below_s;
    const double end_s = fmin(below_s, most_s * (1.0 + couple_rounding)), spare_s = end_s - least_s;
    const struct box all = {
        least[PART_OF_HEADS],
        fmin(c->most_s[PART_OF_HEADS], least[PART_OF_HEADS] + spare_s / c->weight),
        least[PART_OF_RUNS], fmin(c->most_s[PART_OF_RUNS], least[PART_OF_RUNS] + spare_s)};
    return least_in(c, all, end_s - c->fixed_s) + c->fixed_s;
}
