/* A lower bound for clusters too large to list every team and division: a dynamic program over sets of
 * kinds (kinds.c).
 *
 * A ring is some sets that use no kind more than it has devices, one with the embedding and one with
 * the output matrix; stage by stage, the program remembers how many devices of each kind are used.
 * That the sets take all weight is not a state but has a price (Lagrangian relaxation: Held and Karp,
 * "The traveling-salesman problem and minimum spanning trees", 1970): each set takes the weight at a
 * corner of its staircase that is best at the price, and the bound holds for any price; the best one
 * lies where the lines that two prices gave meet. A cycle is bounded in a bisection: it cannot be so
 * short where stages of no more than a group's share of it take too little weight, or where rings of
 * such stages last longer than it. One stage with all layers is bounded on its own: no other stage has so
 * much weight.
 *
 * Left out: in which order the sets stand, and so which links hand over. */
#include "partition/kinds.h"

#include <string.h>

enum {
    RELAX_BISECTIONS = 14,
    RELAX_PRICES = 12,
    RELAX_CYCLE_PRICES = 4, /* for one cycle */
    ROLES = 8, /* of a set, and of all sets in a ring together */
    ROLE_EMBEDS = 1,
    ROLE_OUTPUT = 2,
    ROLE_ELSEWHERE = 4, /* the output matrix lies on members that hold nothing else */
};

/* A ring, or a set in it. */
struct sum {
    double cost, weight;
};

struct part_relax {
    struct part_relaxed k;
    /* By number of stages, what part_relax_sum found: of one row, with all slots in use. */
    double one_s[PART_DEVICES_MAX + 1], full_s[PART_DEVICES_MAX + 1];
    double price; /* the best one for the last sum */
    bool alone;   /* rings are one stage with all layers; otherwise, no stage has all */
    /* By devices used, as mixed radix numbers of kinds: */
    uint8_t (*used)[PART_DEVICES_MAX];
    double *room;              /* [n_vectors] bytes that they have */
    struct sum (*set)[ROLES];  /* [n_vectors] the best set of just these */
    uint32_t n_live, *live;    /* [n_vectors] those that have one */
    struct sum (*ring)[ROLES]; /* [stages + 1][n_vectors] the best ring */
};

/* ---- sets at a price ------------------------------------------------------------------------- */

/* A set with a role, at a corner of its staircase. */
struct corner {
    double weight, seconds; /* begin, embedding and output included, hop not */
};

static double role_bytes(const struct part_problem *p, int role)
{
    double bytes = (role & ROLE_EMBEDS) != 0 ? (double)p->embed_bytes : 0.0;
    if ((role & (ROLE_OUTPUT | ROLE_ELSEWHERE)) == ROLE_OUTPUT)
        bytes += (double)p->output_bytes +
                 (double)p->n_vocab_runs *
                     (double)(p->run_bytes - ((role & ROLE_EMBEDS) != 0 ? p->shared_run_bytes : 0));
    return bytes;
}

/* A set's seconds in a role beside its layers. */
static double fixed_seconds(const struct part_relax *r, const struct part_set *s, int role)
{
    return s->begin_s +
           ((role & ROLE_EMBEDS) != 0 ? part_time_at(r->k.kinds.devices[s->lead].embed, r->k.rows)
                                      : 0.0) +
           ((role & ROLE_ELSEWHERE) != 0 ? r->k.output_least_s[s->lead]
            : (role & ROLE_OUTPUT) != 0  ? s->output_s
                                         : 0.0);
}

static double most_weight(const struct part_relax *r, const struct part_set *s, int role)
{
    return part_held_weight(&r->k.all_held, s->room - role_bytes(&r->k.kinds, role));
}

/* Corners of a set in a role, of at most `most_s` seconds. [PART_LEVELS + 1] */
static uint32_t corners(const struct part_relax *r, const struct part_set *s, int role,
                        double most_s, struct corner *out)
{
    const double cap = most_weight(r, s, role), fixed_s = fixed_seconds(r, s, role);
    uint32_t n = 0;
    if (r->alone) {
        const bool output = (role & ROLE_OUTPUT) != 0, here = (role & ROLE_ELSEWHERE) == 0;
        const double all_s = fixed_s + s->all_s[here ? 1 : 0] - (here ? s->output_s : 0.0);
        if ((role & ROLE_EMBEDS) == 0 || !output || all_s > most_s ||
            cap < r->k.weight * (1.0 - PART_EQUAL_WITHIN))
            return 0;
        out[0] = (struct corner){r->k.weight, all_s};
        return 1;
    }
    if (cap < r->k.lightest * (1.0 - 1e-9))
        return 0;
    for (int level = 0; level < PART_LEVELS && s->tau[level] < PART_NEVER; level++) {
        const double end =
            fmin(fmin(part_levels[level + 1] * r->k.weight, cap), r->k.weight - r->k.lightest);
        if (end < r->k.lightest * (1.0 - 1e-9) || (n > 0 && end <= out[n - 1].weight))
            continue;
        /* A team has at least the lightest layer. */
        if (n == 0) {
            if (fixed_s + s->tau[level] * r->k.lightest > most_s)
                break;
            out[n++] = (struct corner){r->k.lightest, fixed_s + s->tau[level] * r->k.lightest};
        }
        double to = end;
        if (fixed_s + s->tau[level] * to > most_s)
            to = s->tau[level] > 0.0 ? (most_s - fixed_s) / s->tau[level] : to;
        if (to > out[n - 1].weight)
            out[n++] = (struct corner){to, fixed_s + s->tau[level] * to};
        if (to < end)
            break;
    }
    return n;
}

/* The least a stage pays to hand over, or the last one to close the ring. */
static double hop_least(const struct part_relax *r, const struct part_set *s, int role)
{
    const struct part_problem *k = &r->k.kinds;
    double least = PART_NEVER;
    if ((role & ROLE_EMBEDS) != 0 && (role & ROLE_OUTPUT) != 0)
        return 0.0;
    for (uint32_t g = 0; g < k->n_devices; g++)
        if (g != s->lead || r->k.n_of[g] > 1)
            least = fmin(least, k->lat_s[s->lead][g] +
                                    ((role & ROLE_OUTPUT) != 0
                                         ? 0.0
                                         : r->k.rows * k->hidden_bytes / k->rate[s->lead][g]));
    return least == PART_NEVER ? 0.0 : least;
}

static bool may_have(const struct part_problem *p, int role)
{
    if ((role & ROLE_ELSEWHERE) != 0 &&
        ((role & ROLE_OUTPUT) == 0 || p->granularity == PART_LAYERS))
        return false;
    return p->granularity != PART_HEADS || ((role & ROLE_EMBEDS) != 0 && (role & ROLE_OUTPUT) != 0);
}

static uint32_t vector_of(const struct part_relax *r, const struct part_set *s)
{
    uint32_t at = 0, step = 1;
    for (uint32_t g = 0; g < r->k.kinds.n_devices; g++) {
        at += s->count[g] * step;
        step *= r->k.n_of[g] + 1;
    }
    return at;
}

/* The best set of each vector in each role, with stages of at most `most_s`: the cheapest where weight
 * earns `price` a unit, or (`take`) the one that takes most. */
static void fill_sets(struct part_relax *r, bool take, double most_s, double price)
{
    for (uint32_t x = 0; x < r->k.n_vectors; x++)
        for (int role = 0; role < ROLES; role++)
            r->set[x][role] = (struct sum){PART_NEVER, 0.0};
    for (uint32_t q = 0; q < r->k.n_sets; q++) {
        const struct part_set *s = &r->k.sets[q];
        struct sum *best = r->set[vector_of(r, s)];
        struct corner at[PART_LEVELS + 1];
        for (int role = 0; role < ROLES; role++) {
            if (!may_have(r->k.p, role))
                continue;
            const uint32_t n = corners(r, s, role, most_s, at);
            const double hop_s = hop_least(r, s, role);
            for (uint32_t k = 0; k < n; k++) {
                const double cost =
                    take ? -at[k].weight : at[k].seconds + hop_s - price * at[k].weight;
                if (cost < best[role].cost)
                    best[role] = (struct sum){cost, at[k].weight};
            }
        }
    }
    r->n_live = 0;
    for (uint32_t x = 1; x < r->k.n_vectors; x++) {
        bool any = false;
        for (int role = 0; role < ROLES; role++)
            any = any || r->set[x][role].cost < PART_NEVER;
        if (any)
            r->live[r->n_live++] = x;
    }
}

/* ---- rings ----------------------------------------------------------------------------------- */

static bool together(const struct part_relax *r, uint32_t a, uint32_t b)
{
    bool good = true;
    for (uint32_t g = 0; g < r->k.kinds.n_devices; g++)
        good = good && r->used[a][g] + r->used[b][g] <= (int)r->k.n_of[g];
    return good;
}

/* Every ring of `from` with one set more. */
static void extend(const struct part_relax *r, uint32_t used, const struct sum *from,
                   struct sum (*to)[ROLES])
{
    for (uint32_t k = 0; k < r->n_live; k++) {
        const uint32_t x = r->live[k];
        if (!together(r, used, x))
            continue;
        for (int had = 0; had < ROLES; had++)
            for (int role = 0; from[had].cost < PART_NEVER && role < ROLES; role++) {
                const struct sum *s = &r->set[x][role];
                struct sum *best = &to[used + x][had | role];
                if ((had & role) == 0 && from[had].cost + s->cost < best->cost)
                    *best = (struct sum){from[had].cost + s->cost, from[had].weight + s->weight};
            }
    }
}

/* Sets of so many devices in such roles are a ring; who holds an output matrix that lies elsewhere is not
 * among them. */
static bool whole(const struct part_relax *r, uint32_t used, int role)
{
    const struct part_problem *p = r->k.p;
    const bool elsewhere = (role & ROLE_ELSEWHERE) != 0, all = used + 1 == r->k.n_vectors;
    const double runs = elsewhere ? (double)p->n_vocab_runs * (double)p->run_bytes : 0.0;
    return (role & ROLE_EMBEDS) != 0 && (role & ROLE_OUTPUT) != 0 && !(elsewhere && all) &&
           (all || !p->use_all || p->granularity != PART_LAYERS) &&
           r->room[used] + runs >= r->k.bytes * (1.0 - PART_EQUAL_WITHIN);
}

/* The least ring of n_stages sets, or of any number from three on (0), as the sets are filled in. */
static struct sum least_ring(struct part_relax *r, uint32_t n_stages)
{
    const uint32_t n = r->k.n_vectors;
    struct sum least = {PART_NEVER, 0.0};
    const uint32_t rows = n_stages > 0 ? n_stages : 3;
    for (size_t k = 0; k < (size_t)(rows + 1) * n; k++)
        for (int role = 0; role < ROLES; role++)
            r->ring[k][role] = (struct sum){PART_NEVER, 0.0};
    r->ring[0][0].cost = 0.0;
    for (uint32_t k = 0; k < rows; k++)
        for (uint32_t used = 0; used < n; used++)
            extend(r, used, r->ring[(size_t)k * n + used], r->ring + (size_t)(k + 1) * n);
    /* Any number: a vector's rings are complete when its turn comes. */
    for (uint32_t used = 0; n_stages == 0 && used < n; used++)
        extend(r, used, r->ring[3 * (size_t)n + used], r->ring + 3 * (size_t)n);
    for (uint32_t used = 1; used < n; used++)
        for (int role = 0; role < ROLES; role++) {
            const struct sum *s = &r->ring[(size_t)rows * n + used][role];
            if (whole(r, used, role) && s->cost < least.cost)
                least = *s;
        }
    return least;
}

/* Stages of at most `most_s` cannot take all weight. */
static bool refuted(struct part_relax *r, uint32_t n_stages, double most_s)
{
    fill_sets(r, true, most_s, 0.0);
    return -least_ring(r, n_stages).cost < r->k.weight * (1.0 - PART_EQUAL_WITHIN);
}

/* ---- bounds ---------------------------------------------------------------------------------- */

/* A ring's cost at a price, and how that would change with the price. */
struct line {
    double price, value, slope;
};

static struct line at_price(struct part_relax *r, uint32_t n_stages, double most_s, double price)
{
    fill_sets(r, false, most_s, price);
    const struct sum s = least_ring(r, n_stages);
    return (struct line){price, s.cost + price * r->k.weight, r->k.weight - s.weight};
}

/* The price at which two lines meet. */
static double meeting(struct line low, struct line up)
{
    return (up.value - up.slope * up.price - low.value + low.slope * low.price) /
           (low.slope - up.slope);
}

/* A set's seconds with so much weight, hop included; PART_NEVER: that is too much. */
static double seconds_with(const struct part_relax *r, const struct part_set *s, int role,
                           double weight)
{
    int level = 0;
    if (weight > most_weight(r, s, role) * (1.0 + PART_EQUAL_WITHIN))
        return PART_NEVER;
    while (level + 1 < PART_LEVELS &&
           part_levels[level + 1] * r->k.weight < weight * (1.0 - PART_EQUAL_WITHIN))
        level++;
    return fixed_seconds(r, s, role) + hop_least(r, s, role) + s->tau[level] * weight;
}

/* The least sum of two sets that share all weight, if it is less than below_s: one of them is at a corner
 * of its staircase. */
static double pair_seconds(const struct part_relax *r, const struct part_set *const s[2],
                           const int role[2], double below_s)
{
    for (int k = 0; k < 2; k++) {
        struct corner at[PART_LEVELS + 1];
        const uint32_t n = corners(r, s[k], role[k], PART_NEVER, at);
        const double fixed_s = hop_least(r, s[k], role[k]);
        for (uint32_t c = 0; c < n; c++) {
            const double rest = r->k.weight - at[c].weight;
            if (rest >= r->k.lightest * (1.0 - 1e-9) && at[c].seconds + fixed_s < below_s)
                below_s = fmin(below_s, at[c].seconds + fixed_s +
                                            seconds_with(r, s[1 - k], role[1 - k], rest));
        }
    }
    return below_s;
}

/* The set of just these devices that a kind leads; NULL: there is none. */
static const struct part_set *set_of(const struct part_relax *r, uint32_t vector, uint32_t lead)
{
    uint32_t step = 1;
    for (uint32_t g = 0; g < lead; g++)
        step *= r->k.n_of[g] + 1;
    return r->used[vector][lead] == 0
               ? NULL
               : &r->k.sets[r->k.set_at[lead * r->k.n_vectors + vector - step]];
}

static double vectors_seconds(const struct part_relax *r, uint32_t x, uint32_t y, const int role[2],
                              double below_s)
{
    for (uint32_t g = 0; g < r->k.kinds.n_devices; g++)
        for (uint32_t q = 0; q < r->k.kinds.n_devices; q++) {
            const struct part_set *s[2] = {set_of(r, x, g), set_of(r, y, q)};
            if (s[0] != NULL && s[1] != NULL)
                below_s = pair_seconds(r, s, role, below_s);
        }
    return below_s;
}

/* The least ring of two sets, if it is less than below_s. That both take all weight is not left to the
 * price here, which only says which pairs may be good enough. */
static double two_stages(struct part_relax *r, double below_s)
{
    const double rebate = r->price * r->k.weight;
    fill_sets(r, false, PART_NEVER, r->price);
    for (uint32_t a = 0; a < r->n_live; a++)
        for (uint32_t b = 0; b < r->n_live; b++) {
            const uint32_t x = r->live[a], y = r->live[b];
            if (!together(r, x, y))
                continue;
            for (int role = 0; role < ROLES * ROLES; role++) {
                const int roles[2] = {role % ROLES, role / ROLES};
                if ((roles[0] & ROLE_EMBEDS) != 0 && (roles[0] & roles[1]) == 0 &&
                    r->set[x][roles[0]].cost + r->set[y][roles[1]].cost + rebate < below_s &&
                    whole(r, x + y, roles[0] | roles[1]))
                    below_s = vectors_seconds(r, x, y, roles, below_s);
            }
        }
    return below_s;
}

static double ring_bound(struct part_relax *r, uint32_t n_stages)
{
    double high = 1e-9;
    r->alone = n_stages == 1;
    if (r->alone)
        return at_price(r, 1, PART_NEVER, 0.0).value;
    if (refuted(r, n_stages, PART_NEVER))
        return PART_NEVER;
    for (uint32_t q = 0; q < r->k.n_sets; q++)
        if (r->k.sets[q].tau[0] < PART_NEVER)
            high = fmax(high, r->k.sets[q].tau[0]);
    struct line low = at_price(r, n_stages, PART_NEVER, 0.0), up = low;
    double best = low.value;
    for (int k = 0; k < RELAX_PRICES && up.slope > 0.0; k++, high *= 4.0) {
        up = at_price(r, n_stages, PART_NEVER, high);
        best = fmax(best, up.value);
    }
    r->price = up.price;
    for (int k = 0; k < RELAX_PRICES && low.slope > 0.0 && up.slope < 0.0; k++) {
        const struct line mid = at_price(r, n_stages, PART_NEVER, meeting(low, up));
        r->price = mid.price;
        best = fmax(best, mid.value);
        if (mid.value >= (low.value + low.slope * (mid.price - low.price)) * (1.0 - 1e-6))
            break;
        *(mid.slope > 0.0 ? &low : &up) = mid;
    }
    return fmax(best, 0.0);
}

/* Of rings of at most ring_s, where memory has been looked at. */
static double sum_bound(struct part_relax *r, uint32_t n_stages, double ring_s)
{
    double least = PART_NEVER;
    if (n_stages == 0) {
        for (uint32_t n = 1; n <= 2 && n <= r->k.p->n_devices; n++)
            least = fmin(least, sum_bound(r, n, fmin(ring_s, least)));
        return r->k.p->n_devices > 2 ? fmin(least, ring_bound(r, 0)) : least;
    }
    least = ring_bound(r, n_stages);
    return n_stages == 2 && r->k.close && least < ring_s ? fmax(least, two_stages(r, ring_s))
                                                         : least;
}

/* What the objective is made of: weight * latency + (1 - weight) * cycle / slots. */
static double latency_weight(const struct part_problem *p)
{
    return p->objective == PART_LATENCY ? 1.0 : p->objective == PART_WEIGHTED ? p->weight : 0.0;
}

/* The sums for one row and with all slots in use, of plans better than `upper`. */
static double sums(struct part_relax *r, uint32_t n_stages, double upper, double deadline_s)
{
    const struct part_problem *p = r->k.p;
    const double weight = latency_weight(p);
    double *one = &r->one_s[n_stages], *full = &r->full_s[n_stages];
    *one = *full = 0.0;
    if (weight > 0.0) {
        part_sets_time(&r->k, 1.0, upper / weight, upper / weight, deadline_s);
        *one = sum_bound(r, n_stages, upper / weight);
    }
    if (weight < 1.0 && *one < PART_NEVER) {
        const double cycle_s = (upper - weight * *one) / (1.0 - weight) * p->slots;
        part_sets_time(&r->k, part_full_rows(p, n_stages), cycle_s,
                       cycle_s / part_groups(p, n_stages), deadline_s);
        *full = sum_bound(r, n_stages, cycle_s);
    }
    return *one == PART_NEVER || *full == PART_NEVER
               ? PART_NEVER
               : weight * *one + (1.0 - weight) * *full / p->slots;
}

double part_relax_sum(struct part_relax *r, uint32_t n_stages)
{
    return sums(r, n_stages, PART_NEVER, 0.0);
}

/* Rings of stages of at most `most_s` take longer than `cycle_s`: some price shows it. */
static bool too_long(struct part_relax *r, uint32_t n_stages, double most_s, double cycle_s)
{
    struct line low = {0.0, 0.0, 0.0}, up = low;
    double price = r->price;
    for (int k = 0; k < RELAX_CYCLE_PRICES; k++) {
        const struct line at = at_price(r, n_stages, most_s, price);
        r->price = price;
        if (at.value >= cycle_s)
            return true;
        *(at.slope > 0.0 ? &low : &up) = at;
        price = low.slope > 0.0 && up.slope < 0.0 ? meeting(low, up)
                                                  : price * (at.slope > 0.0 ? 1.25 : 0.8);
        if (at.slope == 0.0)
            break;
    }
    return false;
}

double part_relax_close(struct part_relax *r, uint32_t n_stages, double upper, double deadline_s)
{
    const struct part_problem *p = r->k.p;
    const uint32_t groups = part_groups(p, n_stages > 0 ? n_stages : 1);
    const double weight = latency_weight(p);
    const double sum = sums(r, n_stages, upper, deadline_s);
    if (weight == 1.0 || sum >= upper || upper == PART_NEVER)
        return fmin(sum, upper);
    const double one = r->one_s[n_stages];
    double low = r->full_s[n_stages], high = (upper - weight * one) / (1.0 - weight) * p->slots;
    for (int k = 0; k < RELAX_BISECTIONS && high > low * 1.002; k++) {
        const double mid = k == 0 ? high * (1.0 - PART_EQUAL_WITHIN) : low + (high - low) / 2.0;
        if (refuted(r, n_stages, mid / groups) || too_long(r, n_stages, mid / groups, mid))
            low = mid;
        else
            high = mid;
    }
    return fmin(weight * one + (1.0 - weight) * low / p->slots, upper);
}

/* Which devices each vector counts, and what they have. */
static void list_vectors(struct part_relax *r)
{
    const struct part_problem *k = &r->k.kinds;
    for (uint32_t x = 0; x < r->k.n_vectors; x++)
        for (uint32_t g = 0, rest = x; g < k->n_devices; g++) {
            r->used[x][g] = (uint8_t)(rest % (r->k.n_of[g] + 1));
            rest /= r->k.n_of[g] + 1;
            r->room[x] += r->used[x][g] * ((double)k->devices[g].memory_bytes -
                                           (double)(k->base_bytes + k->scratch_bytes));
        }
}

struct part_relax *part_relax_new(const struct part_problem *p)
{
    struct part_relax *r = base_zalloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    bool good = part_sets_init(&r->k, p);
    if (good) {
        const size_t n = r->k.n_vectors;
        r->used = base_zalloc(n, sizeof *r->used);
        r->room = base_zalloc(n, sizeof *r->room);
        r->live = base_zalloc(n, sizeof *r->live);
        r->set = base_zalloc(n, sizeof *r->set);
        r->ring = base_zalloc(n * (p->n_devices + 2), sizeof *r->ring);
        good = r->used != NULL && r->room != NULL && r->live != NULL && r->set != NULL &&
               r->ring != NULL;
    }
    if (!good) {
        part_relax_free(r);
        return NULL;
    }
    list_vectors(r);
    return r;
}

void part_relax_free(struct part_relax *r)
{
    if (r == NULL)
        return;
    part_sets_deinit(&r->k);
    base_free(r->used);
    base_free(r->room);
    base_free(r->live);
    base_free(r->set);
    base_free(r->ring);
    base_free(r);
}
