/* Good rings quickly: a local search over lists of teams in ring order. For a given list a dynamic
 * program finds the best cuts, each team's best division for its layers, and which teams to skip;
 * the search moves devices between teams, swaps them, joins, splits and reorders teams and changes
 * leaders, with random kicks from a fixed seed. It gives the master program its first plan, and
 * large clusters their only one. It also makes the choices: a team is divided (team.c) when a list
 * first has it.
 *
 * Invariant: what it returns passes part_plan_fits. It proves nothing.
 *
 * The team at the head of a list is the first stage, so the way back to it is known within the
 * dynamic program; that another might be first is the local search's business. Where the slowest
 * stage counts, a second dynamic program minimises the largest instead of the sum, and the better of
 * the two rings is taken: the true objective mixes both. */
#include "partition/internal.h"

#include <string.h>

enum {
    SEARCH_KICKS_MAX = 24,        /* kicks without improvement before giving up */
    SEARCH_KICKS_LARGE_MAX = 400, /* where not every division is listed */
    SEARCH_KICK_MOVES = 3,
    KNOWN_MAX = 4096,
};

/* Teams in ring order. */
struct list {
    uint32_t n;
    struct part_unit at[PART_DEVICES_MAX];
};

/* How good a list is: layers left over where it holds no ring (so that the search has a slope to
 * follow under tight memory), then the objective. */
struct score {
    uint32_t missing;
    double cost;
};

struct known {
    struct part_unit unit;
    uint32_t first; /* of its choices, the others by next[]; PART_CHOICES_MAX: none */
};

struct ring {
    uint32_t n;
    struct {
        uint32_t choice;
        uint16_t i, j;
    } at[PART_DEVICES_MAX];
};

struct search {
    struct part_view *v;
    bool exact, broken; /* no memory */
    double deadline_s;
    uint64_t seed;
    uint32_t n_known;
    struct known known[KNOWN_MAX];
    uint32_t next[PART_CHOICES_MAX];
    struct list best_list;
    struct ring best_ring;
    struct score best;
    /* [place in the list][cut]: least cost up to entering the team there, and up to its end */
    double enter[PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    double done[PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    uint8_t before[PART_DEVICES_MAX][PART_LAYERS_MAX + 1]; /* place handing over at this cut */
    uint16_t begin[PART_DEVICES_MAX][PART_LAYERS_MAX + 1]; /* where the run that ends here began */
    uint16_t pick[PART_DEVICES_MAX][PART_LAYERS_MAX + 1];  /* and its choice */
};

static bool better(struct score a, struct score b)
{
    /* A relative margin, so that rounding does not make the search walk in circles among equals. */
    return a.missing < b.missing || (a.missing == b.missing && a.cost < b.cost * (1.0 - 1e-12));
}

/* The choices from `first` on are this team's. */
static void chain(struct search *s, struct known *x, uint32_t first)
{
    for (uint32_t c = first; c < s->v->n_choices; c++) {
        s->next[c] = x->first;
        x->first = c;
    }
}

static struct known *know(struct search *s, struct part_unit u)
{
    for (uint32_t k = 0; k < s->n_known; k++)
        if (s->known[k].unit.mask == u.mask && s->known[k].unit.leader == u.leader)
            return &s->known[k];
    if (s->n_known == KNOWN_MAX)
        return NULL;
    struct known *x = &s->known[s->n_known];
    *x = (struct known){u, PART_CHOICES_MAX};
    const uint32_t first = s->v->n_choices;
    const int rc = part_team_choices(s->v, u.mask, u.leader, s->exact);
    if (rc != 0) {
        s->broken = s->broken || rc == ERR_NOMEM;
        return NULL;
    }
    s->n_known++;
    chain(s, x, first);
    return x;
}

/* ---- the best ring of a list ----------------------------------------------------------------- */

/* Cost of entering team k at each cut from any earlier one with only skippable ones between. */
static void list_enter(struct search *s, const struct list *o, uint32_t k, bool slowest)
{
    const struct part_view *v = s->v;
    for (uint32_t i = 0; i <= v->n_layers; i++)
        s->enter[k][i] = PART_NEVER;
    if (k == 0) {
        s->enter[0][0] = 0.0;
        return;
    }
    for (uint32_t q = k; q-- > 0;) {
        const uint32_t d = o->at[q].leader, e = o->at[k].leader;
        const double link = part_view_link(v, v->hop_s, d, e), busy = v->busy_s[PART_FULL][d][e];
        for (uint32_t i = 1; i < v->n_layers; i++) {
            const double c = slowest ? fmax(s->done[q][i], busy) : s->done[q][i] + link;
            if (c < s->enter[k][i]) {
                s->enter[k][i] = c;
                s->before[k][i] = (uint8_t)q;
            }
        }
        if (v->n_stages > 0 || (o->at[q].mask & v->must) != 0)
            return;
    }
}

static void list_run(struct search *s, const struct known *x, uint32_t k, bool slowest)
{
    const struct part_view *v = s->v;
    for (uint32_t j = 0; j <= v->n_layers; j++)
        s->done[k][j] = PART_NEVER;
    for (uint32_t c = x->first; c < PART_CHOICES_MAX; c = s->next[c]) {
        const double *sum =
            (slowest ? v->sum_s[PART_FULL] : v->sum) + (size_t)c * (v->n_layers + 1);
        for (uint32_t i = 0; i < v->n_layers; i++) {
            const size_t at = (size_t)c * v->n_layers + i;
            const double enter = s->enter[k][i];
            if (enter == PART_NEVER || v->near[at] > v->reach[at])
                continue;
            const double begin = slowest ? part_view_seconds(v, PART_FULL, c, i, i)
                                         : enter + part_view_run(v, c, i, i);
            for (uint32_t j = v->near[at]; j <= v->reach[at]; j++) {
                const double run = begin + (sum[j] - sum[i]);
                const double cost = slowest && run < enter ? enter : run;
                if (cost < s->done[k][j]) {
                    s->done[k][j] = cost;
                    s->begin[k][j] = (uint16_t)i;
                    s->pick[k][j] = (uint16_t)c;
                }
            }
        }
    }
}

static void list_trace(const struct search *s, uint32_t last, struct ring *r)
{
    uint32_t n = 0, k = last, cut = s->v->n_layers;
    struct ring back;
    while (cut > 0) {
        const uint32_t from = s->begin[k][cut];
        back.at[n].choice = s->pick[k][cut];
        back.at[n].i = (uint16_t)from;
        back.at[n++].j = (uint16_t)cut;
        k = from > 0 ? s->before[k][from] : 0;
        cut = from;
    }
    r->n = n;
    for (uint32_t q = 0; q < n; q++)
        r->at[q] = back.at[n - 1 - q];
}

/* The objective of a ring, as part_plan_cost has it. */
static struct score ring_score(const struct part_view *v, const struct ring *r)
{
    const struct part_problem *p = v->p;
    double sum[PART_MEASURES] = {0.0}, slowest[PART_MEASURES] = {0.0};
    for (int m = 0; m < PART_MEASURES; m++)
        for (uint32_t k = 0; v->wants[m] && k < r->n; k++) {
            const bool closes = k + 1 == r->n;
            const uint32_t d = v->choices[r->at[k].choice].leader;
            const uint32_t e = v->choices[r->at[closes ? 0 : k + 1].choice].leader;
            const double run_s =
                part_view_seconds(v, (enum part_measure)m, r->at[k].choice, r->at[k].i, r->at[k].j);
            sum[m] += run_s + (closes ? v->close_s : v->hop_s)[m][d][e];
            slowest[m] = fmax(slowest[m], fmax(run_s, closes ? v->close_s[m][d][e] -
                                                                   (d != e ? p->lat_s[d][e] : 0.0)
                                                             : v->busy_s[m][d][e]));
        }
    const double cycle_s = fmax(part_groups(p, r->n) * slowest[PART_FULL], sum[PART_FULL]);
    const double ttft_s = sum[PART_CHUNK] + (fmax(part_chunks(p), 1) - 1) * slowest[PART_CHUNK];
    if (p->ttft_max_s > 0.0 && ttft_s > p->ttft_max_s)
        return (struct score){1, ttft_s};
    return (struct score){0, v->weight[PART_ONE] * sum[PART_ONE] + v->weight[PART_FULL] * cycle_s};
}

/* One dynamic program over the list. */
static struct score list_program(struct search *s, const struct list *o, bool slowest,
                                 struct ring *r)
{
    const struct part_view *v = s->v;
    struct score sc = {v->n_layers + 1, PART_NEVER};
    uint32_t last = PART_DEVICES_MAX;
    double least = PART_NEVER;
    for (uint32_t k = 0; k < o->n; k++) {
        const struct known *x = know(s, o->at[k]);
        if (x == NULL)
            return sc;
        list_enter(s, o, k, slowest);
        list_run(s, x, k, slowest);
        uint32_t far = v->n_layers;
        while (far > 0 && s->done[k][far] == PART_NEVER)
            far--;
        if (v->n_layers + 1 - far < sc.missing)
            sc.missing = v->n_layers + 1 - far;
    }
    for (uint32_t k = o->n; k-- > 0;) {
        const double c =
            s->done[k][v->n_layers] +
            (slowest ? 0.0 : part_view_link(v, v->close_s, o->at[k].leader, o->at[0].leader));
        if (c < least) {
            least = c;
            last = k;
        }
        if (v->n_stages > 0 || (o->at[k].mask & v->must) != 0)
            break;
    }
    if (last == PART_DEVICES_MAX)
        return (struct score){sc.missing + 1, PART_NEVER};
    list_trace(s, last, r);
    return ring_score(v, r);
}

static struct score list_score(struct search *s, const struct list *o)
{
    const struct part_view *v = s->v;
    struct score worst = {v->n_layers + 2, PART_NEVER}, sc = worst;
    uint32_t mask = 0;
    struct ring r = {.n = 0};
    for (uint32_t k = 0; k < o->n; k++)
        mask |= o->at[k].mask;
    if ((v->must & ~mask) != 0 || o->n == 0 || (v->n_stages > 0 && o->n != v->n_stages))
        return worst;
    for (int slowest = 0; slowest < 2; slowest++) {
        if (slowest == 1 && !v->wants[PART_FULL])
            continue;
        struct score now = list_program(s, o, slowest == 1, &r);
        if (better(now, s->best)) {
            s->best = now;
            s->best_list = *o;
            s->best_ring = r;
        }
        sc = better(now, sc) ? now : sc;
    }
    return sc;
}

/* ---- moves ----------------------------------------------------------------------------------- */

static uint32_t count_bits(uint32_t x)
{
    uint32_t n = 0;
    for (; x != 0; x &= x - 1)
        n++;
    return n;
}

static uint32_t lowest(uint32_t mask)
{
    uint32_t d = 0;
    while ((mask >> d & 1) == 0)
        d++;
    return d;
}

static uint32_t place_of(const struct list *o, uint32_t d)
{
    uint32_t k = 0;
    while (k < o->n && (o->at[k].mask >> d & 1) == 0)
        k++;
    return k;
}

static void remove_unit(struct list *o, uint32_t k)
{
    memmove(&o->at[k], &o->at[k + 1], (--o->n - k) * sizeof o->at[0]);
}

static void insert_unit(struct list *o, uint32_t k, struct part_unit u)
{
    memmove(&o->at[k + 1], &o->at[k], (o->n++ - k) * sizeof o->at[0]);
    o->at[k] = u;
}

/* Takes device d out of the list; a team that is empty then goes too. */
static void take_out(struct list *o, uint32_t d)
{
    const uint32_t k = place_of(o, d);
    if (k == o->n)
        return;
    o->at[k].mask &= ~(1u << d);
    if (o->at[k].mask == 0)
        remove_unit(o, k);
    else if (o->at[k].leader == d)
        o->at[k].leader = lowest(o->at[k].mask);
}

enum move_kind {
    MOVE_JOIN,
    MOVE_ALONE,
    MOVE_LEAVE,
    MOVE_LEAD,
    MOVE_ORDER,
    MOVE_SWAP,
    MOVE_MERGE,
    MOVE_SPLIT,
    MOVES
};

/* Change the list; false where the move means nothing here. a and b are devices or places. */
static bool apply(const struct search *s, struct list *o, enum move_kind kind, uint32_t a,
                  uint32_t b)
{
    const struct part_view *v = s->v;
    const uint32_t n = v->n_devices;
    const bool teams = v->p->granularity != PART_LAYERS;
    const uint32_t at = kind <= MOVE_LEAD || kind == MOVE_SWAP ? place_of(o, a) : 0;
    switch (kind) {
    case MOVE_JOIN: /* device a into the team of device b */
        if (!teams || a == b || place_of(o, b) == o->n || place_of(o, b) == at)
            return false;
        take_out(o, a);
        o->at[place_of(o, b)].mask |= 1u << a;
        return true;
    case MOVE_ALONE: /* device a on its own at place b */
        if (at < o->n && count_bits(o->at[at].mask) == 1)
            return false;
        take_out(o, a);
        if (b > o->n || o->n == PART_DEVICES_MAX)
            return false;
        insert_unit(o, b, (struct part_unit){1u << a, a});
        return true;
    case MOVE_LEAVE:
        if (b != 0 || at == o->n || (v->must >> a & 1) != 0)
            return false;
        take_out(o, a);
        return true;
    case MOVE_LEAD:
        if (b != 0 || at == o->n || o->at[at].leader == a)
            return false;
        o->at[at].leader = a;
        return true;
    case MOVE_ORDER: {
        if (a == b || a >= o->n || b >= o->n)
            return false;
        const struct part_unit u = o->at[a];
        remove_unit(o, a);
        insert_unit(o, b, u);
        return true;
    }
    case MOVE_SWAP: {
        const uint32_t other = a < b ? place_of(o, b) : at;
        if (other == at)
            return false;
        for (uint32_t k = 0; k < o->n; k++) {
            struct part_unit *u = &o->at[k];
            const uint32_t both = 1u << a | 1u << b;
            u->mask ^= (u->mask & both) != 0 ? both : 0;
            u->leader = u->leader == a ? b : u->leader == b ? a : u->leader;
        }
        return true;
    }
    case MOVE_MERGE:
        if (!teams || a >= b || b >= o->n)
            return false;
        o->at[a].mask |= o->at[b].mask;
        remove_unit(o, b);
        return true;
    case MOVE_SPLIT: {
        if (b != 0 || a >= o->n || count_bits(o->at[a].mask) == 1)
            return false;
        const uint32_t mask = o->at[a].mask;
        remove_unit(o, a);
        for (uint32_t d = n; d-- > 0;)
            if ((mask >> d & 1) != 0)
                insert_unit(o, a, (struct part_unit){1u << d, d});
        return true;
    }
    default:
        return false;
    }
}

/* The devices, those without work first: who begins with a good plan wants to know what they bring. */
static void idle_first(const struct list *o, uint32_t n, uint32_t *order)
{
    uint32_t at = 0;
    for (int works = 0; works < 2; works++)
        for (uint32_t d = 0; d < n; d++)
            if ((place_of(o, d) < o->n) == (works == 1))
                order[at++] = d;
}

/* Move as long as that helps. */
static struct score descend(struct search *s, struct list *o)
{
    const uint32_t n = s->v->n_devices;
    uint32_t order[PART_DEVICES_MAX];
    struct score best = list_score(s, o);
    for (bool again = true; again;) {
        again = false;
        idle_first(o, n, order);
        for (int kind = 0; kind < MOVES; kind++)
            for (uint32_t k = 0; k < n; k++)
                for (uint32_t b = 0; b <= n; b++) {
                    const uint32_t a = kind == MOVE_JOIN || kind == MOVE_ALONE ? order[k] : k;
                    struct list next = *o;
                    if (b == n && kind != MOVE_ALONE)
                        continue;
                    if (s->broken || base_clock_s() > s->deadline_s)
                        return best;
                    if (!apply(s, &next, (enum move_kind)kind, a, b))
                        continue;
                    const struct score sc = list_score(s, &next);
                    if (better(sc, best)) {
                        best = sc;
                        *o = next;
                        again = true;
                    }
                }
    }
    return best;
}

/* Divide the teams of the best ring anew for the layers they have got, and for one more or less. */
static void refine(struct search *s)
{
    for (bool again = !s->exact; again && !s->broken && base_clock_s() < s->deadline_s;) {
        const struct score before = s->best;
        const struct ring r = s->best_ring;
        for (uint32_t k = 0; before.missing == 0 && k < r.n; k++)
            for (int more = -1; more <= 1; more++) {
                const struct part_choice *c = &s->v->choices[r.at[k].choice];
                struct known *x = know(s, (struct part_unit){c->mask, c->leader});
                const uint32_t first = s->v->n_choices;
                const int64_t i = r.at[k].i - (c->output && !s->v->output_first ? more : 0);
                const int64_t j = r.at[k].j + (c->output && !s->v->output_first ? 0 : more);
                if (x == NULL || i < 0 || j <= i || j > s->v->n_layers)
                    continue;
                if (part_deal_refine(s->v, r.at[k].choice, (uint32_t)i, (uint32_t)j) == ERR_NOMEM)
                    s->broken = true;
                chain(s, x, first);
            }
        const struct list o = s->best_list;
        list_score(s, &o);
        again = better(s->best, before);
    }
}

/* ---- starts ---------------------------------------------------------------------------------- */

/* Devices, those that would carry the whole model sooner first. */
static void by_speed(const struct part_problem *p, uint32_t *order)
{
    double s[PART_DEVICES_MAX];
    for (uint32_t d = 0; d < p->n_devices; d++) {
        uint32_t at = d;
        const struct part_stage all = part_stage_single(p, d, 0, p->n_layers, true);
        s[d] = part_stage_seconds(p, &all, 1.0);
        for (; at > 0 && s[order[at - 1]] > s[d]; at--)
            order[at] = order[at - 1];
        order[at] = d;
    }
}

/* The `n` quickest devices as `units` teams, dealt in turn. */
static struct list dealt(const struct part_view *v, const uint32_t *order, uint32_t n,
                         uint32_t units)
{
    struct list o = {.n = units};
    for (uint32_t k = 0; k < n; k++) {
        struct part_unit *u = &o.at[k % units];
        u->leader = u->mask == 0 ? order[k] : u->leader;
        u->mask |= 1u << order[k];
    }
    for (uint32_t d = 0; d < v->n_devices; d++)
        if (v->p->devices[d].pin_leader) {
            const uint32_t at = place_of(&o, d);
            if (at < o.n) {
                const struct part_unit u = {o.at[at].mask, d};
                remove_unit(&o, at);
                insert_unit(&o, 0, u);
            }
        }
    return o;
}

static struct list of_plan(const struct part_plan *plan)
{
    struct list o = {.n = plan->n_stages};
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        const struct part_stage *g = &plan->stages[k];
        o.at[k].leader = g->members[0].device;
        for (uint32_t q = 0; q < g->n_members; q++)
            o.at[k].mask |= 1u << g->members[q].device;
    }
    return o;
}

static void kicks(struct search *s)
{
    const uint32_t n = s->v->n_devices;
    const int most = s->exact ? SEARCH_KICKS_MAX : SEARCH_KICKS_LARGE_MAX;
    for (int idle = 0; idle < most && !s->broken && base_clock_s() < s->deadline_s; idle++) {
        const struct score before = s->best;
        struct list o = s->best_list;
        for (int k = 0; k < SEARCH_KICK_MOVES;) {
            struct list next = o;
            const enum move_kind kind = (enum move_kind)(base_rng_next(&s->seed) % MOVES);
            const uint32_t a = (uint32_t)(base_rng_next(&s->seed) % n);
            const uint32_t b = (uint32_t)(base_rng_next(&s->seed) % (n + 1));
            k += n > 1 ? 0 : 1;
            if (b < n && apply(s, &next, kind, a, b))
                o = next;
            k++;
        }
        descend(s, &o);
        if (better(s->best, before))
            idle = -1;
    }
}

static void starts(struct search *s, const struct part_plan *plan)
{
    const struct part_view *v = s->v;
    const uint32_t n = v->n_devices;
    uint32_t order[PART_DEVICES_MAX];
    by_speed(v->p, order);
    if (plan->n_stages > 0) {
        struct list o = of_plan(plan);
        descend(s, &o);
    }
    for (uint32_t units = n; units >= 1; units--) {
        if (v->n_stages > 0 ? units != v->n_stages
                            : units != n && units != 1 && units != (n + 1) / 2)
            continue;
        for (uint32_t use = n; use >= units; use = use > units ? units + (use - units) / 2 : 0) {
            if ((v->p->granularity == PART_LAYERS && use != units) ||
                (v->p->granularity == PART_HEADS && units != 1))
                continue;
            struct list o = dealt(v, order, use, units);
            descend(s, &o);
        }
    }
}

static int add_all(struct search *s)
{
    const uint32_t n = s->v->n_devices;
    for (uint32_t mask = 1; mask < 1u << n; mask++) {
        if (s->v->p->granularity == PART_LAYERS && (mask & (mask - 1)) != 0)
            continue;
        for (uint32_t d = 0; d < n; d++)
            if ((mask >> d & 1) != 0 && know(s, (struct part_unit){mask, d}) == NULL)
                return s->broken ? ERR_NOMEM : ERR_FULL;
    }
    return 0;
}

int part_search(struct part_view *v, bool exact, double deadline_s, struct part_plan *plan)
{
    struct search *s = base_zalloc(1, sizeof *s);
    int rc = 0;
    if (s == NULL)
        return ERR_NOMEM;
    s->v = v;
    s->exact = exact;
    s->deadline_s = deadline_s;
    s->seed = 1;
    s->best = (struct score){UINT32_MAX, PART_NEVER};
    if (exact && (rc = add_all(s)) != 0)
        goto out;
    starts(s, plan);
    refine(s);
    s->deadline_s -= 0.2 * fmax(deadline_s - base_clock_s(), 0.0);
    kicks(s);
    s->deadline_s = deadline_s;
    refine(s);
    rc = s->broken ? ERR_NOMEM : 0;
    if (s->best.missing > 0)
        goto out;
    struct part_plan found = {.n_stages = s->best_ring.n, .output_first = v->output_first};
    for (uint32_t k = 0; k < found.n_stages; k++)
        found.stages[k] = part_view_stage(v, s->best_ring.at[k].choice, s->best_ring.at[k].i,
                                          s->best_ring.at[k].j);
    part_plan_cost(v->p, &found);
    if (part_plan_fits(v->p, &found) &&
        (plan->n_stages == 0 ||
         part_plan_objective(v->p, &found) < part_plan_objective(v->p, plan)))
        *plan = found;
out:
    base_free(s);
    return rc;
}
