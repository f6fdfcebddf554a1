/* A lower bound for clusters too large to list every team and division: a linear program over sets of
 * kinds (kinds.c), which may be used in fractions.
 *
 * Which sets, with how much weight, so that all weight is taken, no kind is used more than it has
 * devices, one team has the embedding and one the output matrix. The corners of a set's staircase are
 * the columns, and these are generated as needed (Gilmore and Gomory, "A linear programming approach
 * to the cutting-stock problem", 1961); stopped early, value + devices * least reduced cost still is
 * a bound. For the slowest stage a bisection asks how much weight can be taken when no stage may last
 * longer than so long. */
#include "partition/kinds.h"

#include <string.h>

enum {
    RELAX_ADD = 40, /* columns added at a time */
    RELAX_ROUNDS = 60,
    RELAX_BISECTIONS = 14,
    BRANCHES_MAX = 24,
    ROLES = 8, /* 1: embeds, 2: has the output matrix, 4: which lies on further members only */
};

struct part_relax {
    struct part_relaxed k;
    /* By number of stages, what part_relax_sum found: of one row, with all slots in use. */
    double one_s[PART_DEVICES_MAX + 1], full_s[PART_DEVICES_MAX + 1];
    struct part_lp lp;
};

/* ---- columns --------------------------------------------------------------------------------- */

/* A set with a role, at a corner of its staircase. */
struct corner {
    double weight, seconds; /* begin, embedding and output included, hop not */
};

static double role_bytes(const struct part_problem *p, int role)
{
    double bytes = (role & 1) != 0 ? (double)p->embed_bytes : 0.0;
    if ((role & 6) == 2)
        bytes += (double)p->output_bytes +
                 (double)p->n_vocab_runs *
                     (double)(p->run_bytes - ((role & 1) != 0 ? p->shared_run_bytes : 0));
    return bytes;
}

/* Corners of a set in a role, of at most `most_s` seconds. */
static uint32_t corners(const struct part_relax *r, const struct part_set *s, int role,
                        double most_s, struct corner *out)
{
    const struct part_problem *p = &r->k.kinds;
    const double room = s->room - role_bytes(p, role), cap = part_held_weight(&r->k.all_held, room);
    const double fixed_s =
        s->begin_s + ((role & 1) != 0 ? part_time_at(p->devices[s->lead].embed, r->k.rows) : 0.0) +
        ((role & 4) != 0   ? r->k.output_least_s[s->lead]
         : (role & 2) != 0 ? s->output_s
                           : 0.0);
    uint32_t n = 0;
    if (cap < r->k.lightest * (1.0 - 1e-9))
        return 0;
    for (int level = 0; level < PART_LEVELS && s->tau[level] < PART_NEVER; level++) {
        const double end = fmin(part_levels[level + 1] * r->k.weight, cap);
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
    if ((role & 3) == 3)
        return 0.0;
    for (uint32_t g = 0; g < k->n_devices; g++)
        if (g != s->lead || r->k.n_of[g] > 1)
            least = fmin(
                least,
                k->lat_s[s->lead][g] +
                    ((role & 2) != 0 ? 0.0 : r->k.rows * k->hidden_bytes / k->rate[s->lead][g]));
    return least == PART_NEVER ? 0.0 : least;
}

enum row { ROW_WEIGHT, ROW_BYTES, ROW_EMBED, ROW_OUTPUT, ROW_STAGES, ROW_KINDS };

static void fill_use(const struct part_relax *r, const struct part_set *s, int role, double weight,
                     double *use)
{
    const struct part_problem *p = &r->k.kinds;
    /* Members that have runs of the output matrix only are in no set. */
    const double runs = (role & 4) != 0 ? (double)p->n_vocab_runs * (double)p->run_bytes : 0.0;
    use[ROW_WEIGHT] = weight;
    use[ROW_BYTES] = (s->room + runs) / r->k.bytes;
    use[ROW_EMBED] = role & 1;
    use[ROW_OUTPUT] = role >> 1 & 1;
    use[ROW_STAGES] = 1.0;
    for (uint32_t g = 0; g < p->n_devices; g++)
        use[ROW_KINDS + g] = s->count[g];
}

static void begin_lp(struct part_relax *r, uint32_t n_stages, double penalty)
{
    struct part_lp *lp = &r->lp;
    memset(lp, 0, sizeof *lp);
    lp->n_rows = ROW_KINDS + r->k.kinds.n_devices;
    lp->least[ROW_WEIGHT] = r->k.weight;
    lp->most[ROW_WEIGHT] = PART_NEVER;
    lp->least[ROW_BYTES] = 1.0;
    lp->most[ROW_BYTES] = PART_NEVER;
    lp->least[ROW_EMBED] = lp->most[ROW_EMBED] = 1.0;
    lp->least[ROW_OUTPUT] = lp->most[ROW_OUTPUT] = 1.0;
    lp->least[ROW_STAGES] = n_stages;
    lp->most[ROW_STAGES] = n_stages > 0 ? n_stages : PART_DEVICES_MAX;
    for (uint32_t g = 0; g < r->k.kinds.n_devices; g++) {
        lp->most[ROW_KINDS + g] = r->k.n_of[g];
        /* A member of a team may have runs of the output matrix only, which no set counts. */
        lp->least[ROW_KINDS + g] =
            r->k.p->use_all && r->k.p->granularity == PART_LAYERS ? r->k.n_of[g] : 0.0;
    }
    for (uint32_t k = 0; k < lp->n_rows; k++) {
        lp->cost[lp->n_columns] = k == ROW_WEIGHT ? penalty / r->k.weight : penalty;
        lp->use[lp->n_columns++][k] = 1.0;
    }
}

/* What a candidate column is worth at the current duals; kept are the RELAX_ADD best. */
struct candidates {
    uint32_t n;
    double reduced[RELAX_ADD], cost[RELAX_ADD];
    double use[RELAX_ADD][PART_LP_ROWS];
};

static void consider(struct candidates *c, double reduced, double cost, const double *use)
{
    uint32_t at = c->n;
    if (c->n == RELAX_ADD && reduced >= c->reduced[c->n - 1])
        return;
    at = c->n < RELAX_ADD ? c->n++ : c->n - 1;
    for (; at > 0 && c->reduced[at - 1] > reduced; at--) {
        c->reduced[at] = c->reduced[at - 1];
        c->cost[at] = c->cost[at - 1];
        memcpy(c->use[at], c->use[at - 1], sizeof c->use[at]);
    }
    c->reduced[at] = reduced;
    c->cost[at] = cost;
    memcpy(c->use[at], use, sizeof c->use[at]);
}

/* The columns of least reduced cost; *least_reduced of all. `take`: cost is minus the weight instead
 * of the seconds. */
static void price(const struct part_relax *r, bool take, double most_s, struct candidates *c,
                  double *least_reduced)
{
    double use[PART_LP_ROWS] = {0.0};
    struct corner at[PART_LEVELS + 1];
    c->n = 0;
    *least_reduced = 0.0;
    for (uint32_t q = 0; q < r->k.n_sets; q++)
        for (int role = 0; role < ROLES; role++) {
            const struct part_set *s = &r->k.sets[q];
            if ((r->k.p->granularity == PART_HEADS && (role & 3) != 3) ||
                ((role & 4) != 0 && ((role & 2) == 0 || r->k.p->granularity == PART_LAYERS)))
                continue;
            const uint32_t n = corners(r, s, role, most_s, at);
            const double hop_s = hop_least(r, s, role);
            for (uint32_t k = 0; k < n; k++) {
                const double cost = take ? -at[k].weight : at[k].seconds + hop_s;
                double reduced = cost;
                fill_use(r, s, role, at[k].weight, use);
                for (uint32_t row = 0; row < r->lp.n_rows; row++)
                    reduced -= use[row] * r->lp.dual[row];
                *least_reduced = fmin(*least_reduced, reduced);
                if (reduced < 0.0)
                    consider(c, reduced, cost, use);
            }
        }
}

/* The linear program's value, or a bound below it where the deadline comes first; *whole: nothing
 * of the penalty columns is in it. */
static double generate(struct part_relax *r, bool take, double most_s, double penalty,
                       double deadline_s, bool *feasible)
{
    struct candidates c;
    double best = -PART_NEVER, least;
    *feasible = true;
    for (int round = 0; round < RELAX_ROUNDS; round++) {
        if (part_lp_solve(&r->lp, deadline_s) != 0)
            return best;
        price(r, take, most_s, &c, &least);
        best = fmax(best, r->lp.value + r->k.p->n_devices * fmin(least, 0.0));
        *feasible = r->lp.value < penalty / 2.0;
        if (least > -1e-9 * fmax(fabs(r->lp.value), 1e-9) || c.n == 0 ||
            r->lp.n_columns + c.n > PART_LP_COLUMNS || base_clock_s() > deadline_s)
            break;
        for (uint32_t k = 0; k < c.n; k++) {
            r->lp.cost[r->lp.n_columns] = c.cost[k];
            memcpy(r->lp.use[r->lp.n_columns++], c.use[k], sizeof c.use[k]);
        }
    }
    return best;
}

/* ---- branching ------------------------------------------------------------------------------- */

/* How many devices of each kind are used, and how many teams there are, are whole numbers: where the
 * linear program says otherwise, it is solved again with either side. */
struct branch {
    double value, least[PART_LP_ROWS], most[PART_LP_ROWS], used[PART_LP_ROWS];
};

static void solve_branch(struct part_relax *r, struct branch *b, bool take, double most_s,
                         double penalty, double deadline_s)
{
    bool feasible;
    memcpy(r->lp.least, b->least, sizeof b->least);
    memcpy(r->lp.most, b->most, sizeof b->most);
    b->value = fmax(b->value, generate(r, take, most_s, penalty, deadline_s, &feasible));
    memcpy(b->used, r->lp.used, sizeof b->used);
}

/* A row to branch on, or n_rows. */
static uint32_t split_row(const struct part_relax *r, const struct branch *b)
{
    uint32_t row = r->lp.n_rows;
    double most = 1e-5;
    for (uint32_t k = ROW_STAGES; k < r->lp.n_rows; k++) {
        const double off = fabs(b->used[k] - round(b->used[k]));
        if (off > most) {
            most = off;
            row = k;
        }
    }
    return row;
}

/* The least value over all branches; ends early above `enough`, at the deadline, and after
 * BRANCHES_MAX. */
static double solve_branches(struct part_relax *r, bool take, double most_s, double penalty,
                             double enough, double deadline_s)
{
    struct branch all[BRANCHES_MAX];
    uint32_t n = 1;
    all[0].value = -PART_NEVER;
    memcpy(all[0].least, r->lp.least, sizeof all[0].least);
    memcpy(all[0].most, r->lp.most, sizeof all[0].most);
    solve_branch(r, &all[0], take, most_s, penalty, deadline_s);
    for (;;) {
        uint32_t low = 0;
        for (uint32_t k = 1; k < n; k++)
            low = all[k].value < all[low].value ? k : low;
        const uint32_t row = split_row(r, &all[low]);
        if (n == BRANCHES_MAX || all[low].value >= enough || row == r->lp.n_rows ||
            base_clock_s() > deadline_s)
            return all[low].value;
        all[n] = all[low];
        all[low].most[row] = floor(all[low].used[row]);
        all[n].least[row] = ceil(all[n].used[row]);
        solve_branch(r, &all[low], take, most_s, penalty, deadline_s);
        solve_branch(r, &all[n++], take, most_s, penalty, deadline_s);
    }
}

/* ---- bounds ---------------------------------------------------------------------------------- */

static double sum_bound(struct part_relax *r, uint32_t n_stages, double rows, double deadline_s)
{
    double high = 0.0;
    part_sets_time(&r->k, rows);
    for (uint32_t q = 0; q < r->k.n_sets; q++)
        if (r->k.sets[q].tau[0] < PART_NEVER)
            high = fmax(high, r->k.sets[q].begin_s + r->k.sets[q].output_s +
                                  r->k.sets[q].tau[0] * r->k.weight);
    const double penalty = 100.0 * r->k.p->n_devices * (high + 1.0);
    begin_lp(r, n_stages, penalty);
    const double value = solve_branches(r, false, PART_NEVER, penalty, penalty, deadline_s);
    return value > penalty / 2.0 ? PART_NEVER : fmax(value, 0.0);
}

double part_relax_sum(struct part_relax *r, uint32_t n_stages, double deadline_s)
{
    const struct part_problem *p = r->k.p;
    double *one = &r->one_s[n_stages], *full = &r->full_s[n_stages];
    *one = p->objective == PART_THROUGHPUT ? 0.0 : sum_bound(r, n_stages, 1.0, deadline_s);
    if (p->objective == PART_LATENCY || *one == PART_NEVER)
        return *one;
    *full = sum_bound(r, n_stages, part_full_rows(p, n_stages), deadline_s);
    const double weight = p->objective == PART_WEIGHTED ? p->weight : 0.0;
    return *full == PART_NEVER ? *full : weight * *one + (1.0 - weight) * *full / p->slots;
}

double part_relax_slowest(struct part_relax *r, uint32_t n_stages, double upper, double deadline_s)
{
    const struct part_problem *p = r->k.p;
    const uint32_t groups = part_groups(p, n_stages);
    const double weight = p->objective == PART_WEIGHTED ? p->weight : 0.0;
    const double one = r->one_s[n_stages];
    double low = r->full_s[n_stages], high = (upper - weight * one) / (1.0 - weight) * p->slots;
    part_sets_time(&r->k, part_full_rows(p, n_stages));
    /* A cycle of `mid` is refuted where the stages cannot take all the weight within it. */
    for (int k = 0; k < RELAX_BISECTIONS && high > low * 1.002 && base_clock_s() < deadline_s;
         k++) {
        const double mid = k == 0 ? high * (1.0 - PART_EQUAL_WITHIN) : low + (high - low) / 2.0;
        const double penalty = 100.0 * r->k.weight * p->n_devices;
        begin_lp(r, n_stages, penalty);
        r->lp.least[ROW_WEIGHT] = 0.0;
        const double short_of_all = -r->k.weight * (1.0 - 1e-9);
        if (solve_branches(r, true, mid / groups, penalty, short_of_all, deadline_s) > short_of_all)
            low = mid;
        else
            high = mid;
    }
    return weight * one + (1.0 - weight) * low / p->slots;
}

struct part_relax *part_relax_new(const struct part_problem *p)
{
    struct part_relax *r = base_zalloc(1, sizeof *r);
    if (r != NULL && !part_sets_init(&r->k, p)) {
        part_relax_free(r);
        return NULL;
    }
    return r;
}

void part_relax_free(struct part_relax *r)
{
    if (r == NULL)
        return;
    part_sets_deinit(&r->k);
    base_free(r);
}
