/* The least time of a layer, and of all layers and the output matrix, on a team of kinds.
 *
 * Which members have heads, which have columns and which have both says what a half's exchange costs:
 * a pattern. For each pattern units are dealt as integers to those that take part, first without
 * regard to the other half, then, where that could be less than what other patterns take, with both
 * halves in the members' memory (couple.c). The bytes are those of the weight that the team at least
 * takes, so there is a time for each level of the staircase. A team with all layers also has the
 * embedding in memory and, most often, the output matrix. Links are the best of their kinds. */
#include "partition/kinds.h"

#include <string.h>

enum { QUOTA_STEPS = 8 };

/* Units to deal: member j lasts lag + fixed + n * unit for n of them, at most cap. */
struct taker {
    double s, unit_s;
    double cap;
    uint32_t n; /* members alike */
};

/* The least time at which `units` are taken; a lower side of a bisection. */
static double deal_time(const struct taker *t, uint32_t n, double units)
{
    double low = PART_NEVER, high = 0.0, can = 0.0;
    for (uint32_t k = 0; k < n; k++) {
        const double cap = fmin(t[k].cap, units);
        can += t[k].n * cap;
        low = fmin(low, t[k].s + (cap >= 1.0 ? t[k].unit_s : 0.0));
        high = fmax(high, t[k].s + cap * t[k].unit_s);
    }
    if (can < units)
        return PART_NEVER;
    for (int k = 0; k < 40 && high - low > 1e-9 * high; k++) {
        const double mid = low + (high - low) / 2.0;
        double taken = 0.0;
        for (uint32_t q = 0; q < n; q++)
            if (mid >= t[q].s) {
                const double fit =
                    t[q].unit_s > 0.0 ? floor((mid - t[q].s) / t[q].unit_s * (1.0 + 1e-12)) : units;
                taken += t[q].n * fmin(fit, fmin(t[q].cap, units));
            }
        if (taken >= units)
            high = mid;
        else
            low = mid;
    }
    return low;
}

/* What a team holds: layers of so much weight. */
struct loads {
    double weight, of[PART_OF_ALL]; /* bytes by unit */
    double kv;                      /* bytes of a KV head, which are in those of heads by share */
    double common, leader;          /* bytes that every member needs, and the leader besides */
    double layers;                  /* all, so many; 0: a part of them */
    int level;                      /* a part's */
    bool output;                    /* the output matrix too */
};

static double room_of(const struct part_relaxed *r, uint32_t kind, bool leads,
                      const struct loads *y)
{
    const struct part_problem *k = &r->kinds;
    return fmax((double)k->devices[kind].memory_bytes - (double)(k->base_bytes + k->scratch_bytes) -
                    y->common - (leads ? y->leader : 0.0),
                0.0);
}

static double units_of(const struct part_problem *k, enum part_of of)
{
    return of == PART_OF_HEADS ? k->n_head_units
           : of == PART_OF_FF  ? k->n_ff_units
                               : k->n_vocab_runs;
}

/* A set as a team: the leader, then the others by kind. */
static struct part_team team_of(const struct part_relaxed *r, const struct part_set *s,
                                enum part_shape shape)
{
    struct part_team t = {.n = 1, .members = {s->lead}, .shape = shape};
    for (uint32_t g = 0; g < r->kinds.n_devices; g++)
        for (uint32_t c = g == s->lead ? 1 : 0; c < s->count[g]; c++)
            t.members[t.n++] = g;
    return t;
}

/* What a member takes for n units: first_s + n * unit_s. A set is also part of a larger one, whose
 * members do not spend their quotas. */
static struct part_of_kind time_of(const struct part_relaxed *r, uint32_t kind, enum part_of of)
{
    const struct part_problem *k = &r->kinds;
    const struct part_device *dev = &k->devices[kind];
    const double quick = part_throttle(dev);
    if (of == PART_OF_RUNS)
        return (struct part_of_kind){0.0, part_time_at(dev->output, r->rows) / k->n_vocab_runs};
    const double whole = quick * (of == PART_OF_HEADS ? dev->attn : dev->ff)[0].pass_s;
    const double fixed = fmin(quick * part_time_at(dev->half, r->rows), whole);
    return (struct part_of_kind){
        fixed, (whole - fixed) * (of == PART_OF_HEADS ? r->heads_share : 1.0) / units_of(k, of)};
}

/* The least time of a half of the reference layer in which all members, or all but the leader, take
 * part. */
static double half_time(const struct part_relaxed *r, const struct part_set *s,
                        enum part_shape shape, enum part_of of, bool leader_too)
{
    const struct part_problem *k = &r->kinds;
    const struct part_team t = team_of(r, s, shape);
    struct part_half h = {.rows_bytes = r->rows * k->normed_bytes};
    struct taker takers[PART_DEVICES_MAX + 1];
    uint32_t n_takers = 0;
    for (uint32_t m = 0; m < t.n; m++) {
        h.has[m] = m > 0 || leader_too;
        h.sum_bytes[m] = r->rows * k->sum_bytes;
    }
    double lag_s[PART_DEVICES_MAX];
    part_half_lags(k, &t, &h, lag_s);
    for (uint32_t m = leader_too ? 0 : 1; m < t.n; m++) {
        const uint32_t d = t.members[m];
        const struct part_of_kind one = time_of(r, d, of);
        if (m > 1 && d == t.members[m - 1] && n_takers > 0) {
            takers[n_takers - 1].n++;
            continue;
        }
        struct taker *x = &takers[n_takers++];
        *x = (struct taker){.n = 1, .s = lag_s[m] + one.first_s, .unit_s = one.unit_s};
        x->cap =
            k->devices[d].memory_bytes > k->base_bytes + k->scratch_bytes ? units_of(k, of) : 0.0;
    }
    return deal_time(takers, n_takers, units_of(k, of));
}

/* Members of kind g beside the leader. */
static uint32_t others(const struct part_set *s, uint32_t g)
{
    return s->count[g] - (g == s->lead ? 1u : 0u);
}

/* The least time of both halves for every set, all of it taking part, with the leader and without. */
static void half_times(struct part_relaxed *r, enum part_shape shape)
{
    for (uint32_t q = 0; q < r->n_sets; q++) {
        const struct part_set *s = &r->sets[q];
        for (int lead = 0; lead < 2; lead++) {
            const bool none = s->n == 1 && lead == 0;
            r->attn[q].leader[lead] =
                none ? PART_NEVER : half_time(r, s, shape, PART_OF_HEADS, lead == 1);
            r->ff[q].leader[lead] =
                none ? PART_NEVER : half_time(r, s, shape, PART_OF_FF, lead == 1);
        }
    }
}

/* ---- the output matrix ----------------------------------------------------------------------- */

/* Seconds that a run on a member keeps the leader's port, and the leader itself. */
static double far_seconds(const struct part_relaxed *r, uint32_t lead, bool port)
{
    const struct part_problem *k = &r->kinds;
    const double bytes = r->rows * k->logits_bytes / k->n_vocab_runs;
    double rate = 0.0;
    for (uint32_t g = 0; g < k->n_devices; g++)
        rate = fmax(rate, k->rate[g][lead]);
    return bytes * k->devices[lead].byte_s + (port ? bytes / rate : 0.0);
}

/* The least time of the output matrix where all members but perhaps the leader take part. */
static double output_time(const struct part_relaxed *r, const struct part_set *s)
{
    const struct part_problem *k = &r->kinds;
    const struct part_team t = team_of(r, s, PART_STAR);
    const double runs = k->n_vocab_runs, run_bytes = r->rows * k->logits_bytes / runs;
    const double port_s = far_seconds(r, s->lead, true), take_s = far_seconds(r, s->lead, false);
    struct part_half h = {.has = {true}, .rows_bytes = r->rows * k->normed_bytes};
    struct taker takers[PART_DEVICES_MAX];
    double lag_s[PART_DEVICES_MAX], least = PART_NEVER;
    uint32_t n = 0;
    for (uint32_t m = 1; m < t.n; m++)
        h.has[m] = true;
    part_half_lags(k, &t, &h, lag_s);
    for (uint32_t m = 1; m < t.n; m++) {
        const uint32_t d = t.members[m];
        if (m > 1 && d == t.members[m - 1]) {
            takers[n - 1].n++;
            continue;
        }
        takers[n++] = (struct taker){.n = 1,
                                     .s = lag_s[m],
                                     .unit_s = time_of(r, d, PART_OF_RUNS).unit_s +
                                               run_bytes * k->devices[d].byte_s,
                                     .cap = runs};
    }
    /* By what lies on others than the leader: their logits all come through its port. */
    for (double far = t.n == 1 ? 0.0 : 1.0; far <= (t.n == 1 ? 0.0 : runs); far += 1.0) {
        const double own_s =
            lag_s[0] + far * take_s + (runs - far) * time_of(r, s->lead, PART_OF_RUNS).unit_s;
        const double far_s = far > 0.0 ? deal_time(takers, n, far) + far * port_s : 0.0;
        least = fmin(least, fmax(far < runs ? own_s : 0.0, far_s));
    }
    return least;
}

/* ---- patterns -------------------------------------------------------------------------------- */

/* Some of a set's members beside its leader are counts of each kind; as a number, mixed radix over
 * `others`. The next ones within `most`; false after the last. */
static bool next_some(const struct part_relaxed *r, const uint8_t *most, uint8_t *count)
{
    uint32_t g = 0;
    while (g < r->kinds.n_devices && count[g] == most[g])
        count[g++] = 0;
    if (g == r->kinds.n_devices)
        return false;
    count[g]++;
    return true;
}

/* All of a set's members, in two halves. */
struct pattern {
    uint32_t set;
    enum part_shape shape;
    const struct loads *loads;
    uint8_t attn[PART_DEVICES_MAX], ff[PART_DEVICES_MAX]; /* members beside the leader, by kind */
    bool leader_attn, leader_ff;
};

/* Lags of one half by kind, the leader's last; those of kinds that take no part are not set. Returns
 * the least one. */
static double lags_of(const struct part_relaxed *r, const struct pattern *x, bool attn,
                      double *lag_s)
{
    const struct part_problem *k = &r->kinds;
    const struct part_team t = team_of(r, &r->sets[x->set], x->shape);
    struct part_half h = {.rows_bytes = r->rows * k->normed_bytes};
    double member_s[PART_DEVICES_MAX], least_s = PART_NEVER;
    uint8_t left[PART_DEVICES_MAX];
    memcpy(left, attn ? x->attn : x->ff, sizeof left);
    h.has[0] = attn ? x->leader_attn : x->leader_ff;
    for (uint32_t m = 0; m < t.n; m++) {
        if (m > 0 && left[t.members[m]] > 0) {
            h.has[m] = true;
            left[t.members[m]]--;
        }
        h.sum_bytes[m] = r->rows * k->sum_bytes;
    }
    part_half_lags(k, &t, &h, member_s);
    for (uint32_t m = 0; m < t.n; m++)
        if (h.has[m]) {
            lag_s[m == 0 ? k->n_devices : t.members[m]] = member_s[m];
            least_s = fmin(least_s, member_s[m]);
        }
    return least_s < PART_NEVER ? least_s : 0.0;
}

/* `n` members of a kind that have heads, columns or both. */
static void add_members(const struct part_relaxed *r, const struct pattern *x,
                        struct part_couple *c, uint32_t kind, bool leads, uint32_t n,
                        const bool *has, double lag_s[2][PART_DEVICES_MAX + 1])
{
    const struct part_problem *k = &r->kinds;
    const uint32_t lead = r->sets[x->set].lead;
    if (n == 0)
        return;
    struct part_couple_member *m = &c->at[c->n++];
    *m = (struct part_couple_member){
        .n = n,
        .has = {has[0], has[1], c->units[PART_OF_RUNS] > 0.0},
        .room = fmax(room_of(r, kind, leads, x->loads) -
                         (r->sets[x->set].n > 1 ? (double)k->team_bytes : 0.0),
                     0.0)};
    for (int of = 0; of < PART_OF_ALL; of++) {
        const struct part_of_kind one = time_of(r, kind, (enum part_of)of);
        m->first_s[of] = one.first_s;
        m->unit_s[of] = one.unit_s;
        if (of != PART_OF_RUNS)
            m->first_s[of] += lag_s[of][leads ? k->n_devices : kind];
        else if (!leads)
            m->first_s[of] += k->lat_s[lead][kind] + k->lat_s[kind][lead];
        if (m->has[of])
            c->most_s[of] =
                fmax(c->most_s[of], m->first_s[of] + m->unit_s[of] * c->units[of] +
                                        (of == PART_OF_RUNS ? c->far_s * c->units[of] : 0.0));
    }
}

/* The least of a pattern with both halves in memory (and, where these are loads of a whole model with
 * its output, that too), if it is less than below_s. */
static double pattern_time(const struct part_relaxed *r, const struct pattern *x, double attn_s,
                           double ff_s, double below_s)
{
    const struct part_problem *k = &r->kinds;
    const struct part_set *s = &r->sets[x->set];
    const struct loads *y = x->loads;
    struct part_couple c = {.weight = y->layers > 0.0 ? y->weight : 1.0,
                            .least_s = {attn_s, ff_s},
                            .kv_bytes = y->kv,
                            .heads_per_kv = 1.0 / r->kv_per_head};
    double lag_s[2][PART_DEVICES_MAX + 1] = {{0.0}};
    for (int of = 0; of < PART_OF_ALL; of++) {
        c.units[of] = of == PART_OF_RUNS && !y->output ? 0.0 : units_of(k, (enum part_of)of);
        c.bytes[of] = y->of[of];
    }
    const double lags_s = lags_of(r, x, true, lag_s[0]) + lags_of(r, x, false, lag_s[1]);
    /* A layer of weight w takes w times the reference's seconds and 1 - w times its lag. */
    c.fixed_s = fmax(y->layers - y->weight, 0.0) * lags_s;
    if (y->output) {
        c.least_s[PART_OF_RUNS] = s->output_s;
        c.far_s = far_seconds(r, s->lead, true);
    }
    add_members(r, x, &c, s->lead, true, 1, (bool[2]){x->leader_attn, x->leader_ff}, lag_s);
    for (uint32_t g = 0; g < k->n_devices; g++) {
        const uint32_t a = x->attn[g], f = x->ff[g], n = others(s, g), both = a + f - n;
        add_members(r, x, &c, g, false, a - both, (bool[2]){true, false}, lag_s);
        add_members(r, x, &c, g, false, f - both, (bool[2]){false, true}, lag_s);
        add_members(r, x, &c, g, false, both, (bool[2]){true, true}, lag_s);
    }
    return part_couple_seconds(&c, below_s);
}

/* Codes of some of set q's members, and for each the set that they are with its leader. */
static uint32_t list_some(struct part_relaxed *r, uint32_t q)
{
    const struct part_set *s = &r->sets[q];
    uint8_t most[PART_DEVICES_MAX], count[PART_DEVICES_MAX] = {0};
    uint32_t n = 0;
    for (uint32_t g = 0; g < r->kinds.n_devices; g++)
        most[g] = (uint8_t)others(s, g);
    do {
        uint32_t at = 0, step = 1;
        for (uint32_t g = 0; g < r->kinds.n_devices; g++) {
            at += count[g] * step;
            step *= r->n_of[g] + 1;
        }
        r->some[n++] = r->set_at[s->lead * r->n_vectors + at];
    } while (next_some(r, most, count));
    return n;
}

/* r->up[f]: the least feed-forward time of those that f counts and any others of the set. */
static void fill_up(struct part_relaxed *r, const struct part_set *s, uint32_t n)
{
    for (uint32_t f = n; f-- > 0;) {
        struct part_of_set *up = &r->up[f];
        uint32_t step = 1;
        *up = r->ff[r->some[f]];
        for (uint32_t g = 0; g < r->kinds.n_devices; g++) {
            if (f / step % (others(s, g) + 1) < others(s, g))
                for (int lead = 0; lead < 2; lead++)
                    up->leader[lead] = fmin(up->leader[lead], r->up[f + step].leader[lead]);
            step *= others(s, g) + 1;
        }
    }
}

/* What one layer's seconds alone say of a layer, or of all. */
static double least_of(const struct loads *y, const struct part_set *s, double layer_s)
{
    return y->layers > 0.0 ? y->weight * layer_s + (y->output ? s->output_s : 0.0) : layer_s;
}

/* The least of the patterns in which so much is known: the leader's part and who has heads. */
static double with_heads(const struct part_relaxed *r, struct pattern *x, uint32_t rest,
                         double attn_s, double below_s)
{
    const struct part_set *s = &r->sets[x->set];
    uint8_t both[PART_DEVICES_MAX] = {0};
    do {
        uint32_t f = rest, step = 1;
        for (uint32_t g = 0; g < r->kinds.n_devices; g++) {
            f += both[g] * step;
            step *= others(s, g) + 1;
            x->ff[g] = (uint8_t)(others(s, g) - x->attn[g] + both[g]);
        }
        const double ff_s = r->ff[r->some[f]].leader[x->leader_ff];
        if (least_of(x->loads, s, attn_s + ff_s) < below_s)
            below_s =
                x->loads->weight > 0.0 ? pattern_time(r, x, attn_s, ff_s, below_s) : attn_s + ff_s;
    } while (next_some(r, x->attn, both));
    return below_s;
}

/* A pattern's leader takes part as two bits say. */
static double with_leader(const struct part_relaxed *r, struct pattern *x, uint32_t a,
                          uint32_t rest, int lead, double below_s)
{
    const double attn_s = r->attn[r->some[a]].leader[lead & 1];
    x->leader_attn = (lead & 1) != 0;
    x->leader_ff = (lead & 2) != 0;
    if (least_of(x->loads, &r->sets[x->set], attn_s + r->up[rest].leader[lead >> 1]) >= below_s)
        return below_s;
    return with_heads(r, x, rest, attn_s, below_s);
}

/* The least time of a layer (or of all, with or without the output matrix) where every member has a part
 * of at least one half, but perhaps the leader, whose part may be of the output matrix; if it is less
 * than below_s. What looks best comes first, as most others then need no closer look. */
static double both_halves(struct part_relaxed *r, uint32_t q, enum part_shape shape,
                          const struct loads *y, double below_s)
{
    const struct part_set *s = &r->sets[q];
    struct pattern x = {.set = q, .shape = shape, .loads = y};
    const uint32_t n = list_some(r, q);
    uint8_t most[PART_DEVICES_MAX], first_attn[PART_DEVICES_MAX] = {0};
    double first_s = PART_NEVER;
    uint32_t first = 0;
    int first_lead = 0;
    fill_up(r, s, n);
    for (uint32_t g = 0; g < r->kinds.n_devices; g++)
        most[g] = (uint8_t)others(s, g);
    for (uint32_t a = 0; a < n; a++, next_some(r, most, x.attn))
        for (int lead = 0; lead < 4; lead++) {
            const double here_s =
                r->attn[r->some[a]].leader[lead & 1] + r->up[n - 1 - a].leader[lead >> 1];
            if (here_s < first_s) {
                first_s = here_s;
                first = a;
                first_lead = lead;
                memcpy(first_attn, x.attn, sizeof first_attn);
            }
        }
    if (least_of(y, s, first_s) >= below_s)
        return below_s;
    memcpy(x.attn, first_attn, sizeof first_attn);
    below_s = with_leader(r, &x, first, n - 1 - first, first_lead, below_s);
    memset(x.attn, 0, sizeof x.attn);
    for (uint32_t a = 0; a < n; a++, next_some(r, most, x.attn))
        for (int lead = 0; lead < 4; lead++)
            if (a != first || lead != first_lead)
                below_s = with_leader(r, &x, a, n - 1 - a, lead, below_s);
    return below_s;
}

/* What the members' quotas give them no less time for: with a weight of `a` on heads and 1 - a on
 * columns, a member within s seconds has at most (s - fixed) * the dearer of both of what all need.
 * That holds for every a, so the largest of several. */
static double quota_time(const struct part_relaxed *r, const struct part_set *s)
{
    const struct part_problem *k = &r->kinds;
    double most = 0.0;
    if (s->n == 1)
        return k->devices[s->lead].attn[0].pass_s + k->devices[s->lead].ff[0].pass_s;
    for (int step = 1; step < QUOTA_STEPS; step++) {
        const double a = (double)step / QUOTA_STEPS;
        double low = 0.0, high = 0.0, worth[PART_DEVICES_MAX], fixed[PART_DEVICES_MAX];
        for (uint32_t g = 0; g < k->n_devices; g++) {
            const struct part_device *dev = &k->devices[g];
            const double attn = dev->attn[0].pass_s, ff = dev->ff[0].pass_s;
            fixed[g] = fmin(part_time_at(dev->half, r->rows), fmin(attn, ff));
            worth[g] = fmax(a / fmax((attn - fixed[g]) * r->heads_share, 1e-12),
                            (1.0 - a) / fmax(ff - fixed[g], 1e-12));
            high = s->count[g] > 0 ? fmax(high, attn + ff) : high;
        }
        for (int q = 0; q < 30 && high - low > 1e-4 * high; q++) {
            const double mid = low + (high - low) / 2.0;
            double done = 0.0;
            for (uint32_t g = 0; g < k->n_devices; g++)
                done += s->count[g] * fmax(mid - fixed[g], 0.0) * worth[g];
            if (done >= 1.0)
                high = mid;
            else
                low = mid;
        }
        most = fmax(most, low);
    }
    return most;
}

/* What memory has to hold of layers of so much weight. */
static struct loads loads_of(const struct part_relaxed *r, double weight)
{
    return (struct loads){.weight = weight,
                          .kv = part_held_bytes(&r->kv_held, weight),
                          .of = {part_held_bytes(&r->head_held, weight) +
                                     part_held_bytes(&r->kv_held, weight) * r->kv_per_head,
                                 part_held_bytes(&r->ff_held, weight)},
                          .common = r->common * weight};
}

/* What the loads decide of a set. */
static double *answer(struct part_set *s, const struct loads *y)
{
    return y->layers > 0.0 ? &s->all_s[y->output ? 1 : 0] : &s->tau[y->level];
}

/* The least times of every set with these loads, where they are less than what is there already; without
 * regard to memory where there is no time. */
static void least_times(struct part_relaxed *r, enum part_shape shape, const struct loads *y)
{
    for (uint32_t q = 0; q < r->n_sets; q++) {
        struct part_set *s = &r->sets[q];
        double *least = answer(s, y);
        const double least_s = y->weight > 0.0 ? least_of(y, s, s->tau[0]) : 0.0;
        if (y->weight > 0.0 && base_clock_s() >= r->deadline_s) {
            *least = least_s;
            r->close = false;
        } else if (least_s < *least)
            *least = both_halves(r, q, shape, y, *least);
    }
}

/* Where times are longer than in any ring of at most ring_s with stages of at most stage_s, it is enough to
 * know that. */
static void preset(struct part_relaxed *r, double ring_s, double stage_s)
{
    double least_s = PART_NEVER;
    for (uint32_t q = 0; q < r->n_sets; q++)
        least_s = fmin(least_s, r->sets[q].tau[0]);
    for (uint32_t q = 0; q < r->n_sets; q++) {
        struct part_set *s = &r->sets[q];
        for (int level = 1; level < PART_LEVELS; level++) {
            /* The rest of the weight takes at least least_s each. */
            const double weight = part_levels[level] * r->weight;
            const double most_s =
                fmin(least_s + (ring_s - least_s * r->weight) / weight, stage_s / weight);
            s->tau[level] = fmax(s->tau[0], most_s);
        }
        for (int output = 0; output < 2; output++)
            s->all_s[output] = fmax(r->weight * s->tau[0] + (output == 1 ? s->output_s : 0.0),
                                    fmin(ring_s, stage_s));
    }
}

/* Times of a layer on every set for each level, and of all layers. */
static void layer_times(struct part_relaxed *r, enum part_shape shape)
{
    const struct part_problem *p = r->p;
    struct loads y;
    half_times(r, shape);
    for (int level = PART_LEVELS; --level > 0;) {
        y = loads_of(r, part_levels[level] * r->weight);
        y.level = level;
        /* What memory leaves alone with more weight, it does with less. */
        for (uint32_t q = 0; level + 1 < PART_LEVELS && q < r->n_sets; q++)
            if (r->sets[q].tau[level + 1] <= r->sets[q].tau[0])
                r->sets[q].tau[level] = r->sets[q].tau[0];
        least_times(r, shape, &y);
    }
    y = loads_of(r, r->weight);
    y.layers = p->n_layers;
    for (int output = 0; output < 2; output++) {
        y.output = output == 1;
        y.leader = (double)p->embed_bytes + (y.output ? (double)p->output_bytes : 0.0);
        y.of[PART_OF_RUNS] = (double)(p->run_bytes - p->shared_run_bytes);
        least_times(r, shape, &y);
    }
}

static bool wanted(const struct part_problem *p, enum part_shape shape)
{
    return part_shape_wanted(p, shape) || p->granularity == PART_LAYERS;
}

static void quota_times(struct part_relaxed *r)
{
    for (uint32_t q = 0; q < r->n_sets; q++) {
        struct part_set *s = &r->sets[q];
        const double least_s = quota_time(r, s);
        for (int level = 0; level < PART_LEVELS; level++)
            s->tau[level] = fmax(s->tau[level], least_s);
        for (int output = 0; output < 2; output++)
            s->all_s[output] = fmax(s->all_s[output], r->weight * least_s);
    }
}

/* Everything about the sets, for passes of so many rows. */
void part_sets_time(struct part_relaxed *r, double rows, double ring_s, double stage_s,
                    double deadline_s)
{
    const struct part_problem *k = &r->kinds;
    const bool close = deadline_s > 0.0;
    if (r->rows == rows && (r->close || !close))
        return;
    r->rows = rows;
    r->close = close;
    r->deadline_s = deadline_s;
    part_layers_weigh(r);
    for (uint32_t g = 0; g < k->n_devices; g++)
        r->output_least_s[g] = PART_NEVER;
    for (uint32_t q = 0; q < r->n_sets; q++) {
        struct part_set *s = &r->sets[q];
        s->begin_s = k->devices[s->lead].pass_s;
        s->room = 0.0;
        for (uint32_t g = 0; g < k->n_devices; g++)
            s->room +=
                s->count[g] *
                ((double)k->devices[g].memory_bytes -
                 (double)(k->base_bytes + k->scratch_bytes + (s->n > 1 ? k->team_bytes : 0)));
        s->tau[0] = PART_NEVER;
        s->output_s = output_time(r, s);
        for (uint32_t g = 0; g < k->n_devices; g++)
            if (s->smaller[g] != UINT16_MAX)
                s->output_s = fmin(s->output_s, r->sets[s->smaller[g]].output_s);
        r->output_least_s[s->lead] = fmin(r->output_least_s[s->lead], s->output_s);
    }
    const struct loads none = {.level = 0};
    for (int shape = 0; shape < 2; shape++)
        if (wanted(r->p, (enum part_shape)shape)) {
            half_times(r, (enum part_shape)shape);
            least_times(r, (enum part_shape)shape, &none);
        }
    preset(r, ring_s, stage_s);
    for (int shape = 0; shape < 2; shape++)
        if (wanted(r->p, (enum part_shape)shape))
            layer_times(r, (enum part_shape)shape);
    if (part_any_quota(r->p))
        quota_times(r);
}
