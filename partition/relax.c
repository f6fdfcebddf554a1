/* A lower bound for clusters too large to list every team and division: devices become kinds, layers
 * become weight, and a team may be used in fractions.
 *
 * Kinds: devices that are alike in everything are one kind; where that leaves too many sets of
 * devices to list, the two kinds most alike are merged into one that is in everything as good as the
 * better. Layers: a reference layer is on every device the slowest of all layers; layer l weighs w_l,
 * the least ratio of its seconds to the reference's, so a team takes at least w_l times what it takes
 * for the reference layer; bytes count by weight in the same way, rounded down. A team (how many of
 * each kind, the leader's kind) then has a least time per weight for each half: units are dealt as
 * integers, but members may also take none, links are the best of their kind, and the memory that a
 * member has limits its units only one kind of unit at a time. The more weight a team takes, the less
 * of it may lie on small boards, so that time is a rising staircase over weight, whose corners become
 * columns.
 *
 * What is left is a linear program: which teams, with how much weight, so that all weight is taken,
 * no kind is used more than it has devices, one team has the embedding and one the output matrix. It
 * is solved by generating columns (Gilmore and Gomory, "A linear programming approach to the
 * cutting-stock problem", 1961); stopped early, value + devices * least reduced cost still is a
 * bound. For the slowest stage a bisection asks how much weight can be taken when no stage may last
 * longer than so long. */
#include "partition/internal.h"

#include <string.h>

enum {
    RELAX_SETS_MAX = 700,
    RELAX_LEVELS = 6,
    RELAX_ADD = 40, /* columns added at a time */
    RELAX_ROUNDS = 60,
    RELAX_BISECTIONS = 14,
    ROLES = 4, /* 1: embeds, 2: has the output matrix */
};

/* Where the staircase over weight has its corners, as parts of all the weight. */
static const double levels[RELAX_LEVELS + 1] = {0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0};

/* A team of kinds. */
struct set {
    uint8_t count[PART_DEVICES_MAX], lead;
    uint16_t smaller[PART_DEVICES_MAX]; /* with one of kind g less, same leader; UINT16_MAX: none */
    uint8_t n;
    double room;              /* bytes of all members beside what each needs */
    double tau[RELAX_LEVELS]; /* least seconds per weight, where the weight is above that level */
    double begin_s, output_s;
};

struct part_relax {
    const struct part_problem *p;
    struct part_problem kinds; /* devices are kinds; layer 0 is the reference; diagonals are used */
    uint32_t n_of[PART_DEVICES_MAX], kind_of[PART_DEVICES_MAX];
    double weight, lightest; /* of all layers, of one */
    double rows;
    double common, head, kv, ff; /* bytes per weight */
    uint32_t n_sets;
    struct set *sets;
    double *half_s; /* [n_sets]: scratch */
    struct part_lp lp;
};

/* ---- kinds ----------------------------------------------------------------------------------- */

static bool alike(double a, double b, double within)
{
    return fabs(a - b) <= within * fmax(fabs(a), fabs(b));
}

/* Seconds of the whole model on one device: what makes kinds more or less alike. */
static double whole_s(const struct part_problem *p, uint32_t d)
{
    const struct part_stage s = part_stage_single(p, d, 0, p->n_layers, true);
    return part_stage_seconds(p, &s, 1.0);
}

static double distance(const struct part_problem *p, uint32_t a, uint32_t b)
{
    const struct part_device *x = &p->devices[a], *y = &p->devices[b];
    double far = fabs(log(fmax(whole_s(p, a), 1e-12) / fmax(whole_s(p, b), 1e-12)));
    far += 0.5 * fabs(log(((double)x->memory_bytes + 1.0) / ((double)y->memory_bytes + 1.0)));
    for (uint32_t q = 0; q < p->n_devices; q++)
        if (q != a && q != b) {
            far +=
                0.1 * fabs(log((p->lat_s[a][q] + 1e-6) / (p->lat_s[b][q] + 1e-6))) / p->n_devices;
            far += 0.1 * fabs(log(p->rate[a][q] / p->rate[b][q])) / p->n_devices;
        }
    return far + (alike(x->message_s, y->message_s, 1e-9) ? 0.0 : 0.01);
}

static uint64_t n_sets(const uint32_t *n_of, uint32_t kinds)
{
    uint64_t n = 1;
    for (uint32_t g = 0; g < kinds; g++)
        n *= n_of[g] + 1;
    return n * kinds;
}

static uint32_t make_kinds(struct part_relax *r)
{
    const struct part_problem *p = r->p;
    uint32_t kinds = p->n_devices;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        r->kind_of[d] = d;
        r->n_of[d] = 1;
    }
    for (;;) {
        double least = PART_NEVER;
        uint32_t a = 0, b = 0;
        for (uint32_t d = 0; d < p->n_devices; d++)
            for (uint32_t e = d + 1; e < p->n_devices; e++)
                if (r->kind_of[d] != r->kind_of[e] && distance(p, d, e) < least) {
                    least = distance(p, d, e);
                    a = r->kind_of[d];
                    b = r->kind_of[e];
                }
        if (least == PART_NEVER || (least > 1e-9 && n_sets(r->n_of, kinds) <= RELAX_SETS_MAX))
            break;
        if (a > b) {
            const uint32_t t = a;
            a = b;
            b = t;
        }
        r->n_of[a] += r->n_of[b];
        r->n_of[b] = r->n_of[--kinds];
        for (uint32_t d = 0; d < p->n_devices; d++)
            r->kind_of[d] = r->kind_of[d] == b ? a : r->kind_of[d] == kinds ? b : r->kind_of[d];
    }
    return kinds;
}

static struct part_time sooner(struct part_time a, struct part_time b)
{
    return (struct part_time){fmin(a.pass_s, b.pass_s), fmin(a.row_s, b.row_s)};
}

/* Each kind in everything as good as the best of its devices. */
static void fill_kinds(struct part_relax *r, uint32_t n)
{
    const struct part_problem *p = r->p;
    struct part_problem *k = &r->kinds;
    bool seen[PART_DEVICES_MAX] = {false};
    k->n_devices = n;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const uint32_t g = r->kind_of[d];
        const struct part_device *x = &p->devices[d];
        struct part_device *y = &k->devices[g];
        if (!seen[g])
            *y = *x;
        seen[g] = true;
        y->half = sooner(y->half, x->half);
        y->embed = sooner(y->embed, x->embed);
        y->output = sooner(y->output, x->output);
        y->pass_s = fmin(y->pass_s, x->pass_s);
        y->message_s = fmin(y->message_s, x->message_s);
        y->byte_s = fmin(y->byte_s, x->byte_s);
        y->memory_bytes = y->memory_bytes > x->memory_bytes ? y->memory_bytes : x->memory_bytes;
    }
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++) {
            k->lat_s[a][b] = PART_NEVER;
            k->rate[a][b] = 1e-3;
        }
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t e = 0; e < p->n_devices; e++) {
            double *lat = &k->lat_s[r->kind_of[d]][r->kind_of[e]];
            double *rate = &k->rate[r->kind_of[d]][r->kind_of[e]];
            if (d == e)
                continue;
            *lat = fmin(*lat, p->lat_s[d][e]);
            *rate = fmax(*rate, p->rate[d][e]);
        }
}

/* The reference layer and the weights, for passes of r->rows rows. */
static void weigh_layers(struct part_relax *r)
{
    const struct part_problem *p = r->p;
    struct part_problem *k = &r->kinds;
    double attn[PART_DEVICES_MAX] = {0.0}, ff[PART_DEVICES_MAX] = {0.0};
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t l = 0; l < p->n_layers; l++) {
            attn[d] = fmax(attn[d], part_time_at(p->devices[d].attn[l], r->rows));
            ff[d] = fmax(ff[d], part_time_at(p->devices[d].ff[l], r->rows));
        }
    for (uint32_t g = 0; g < k->n_devices; g++) {
        k->devices[g].attn[0] = k->devices[g].ff[0] = (struct part_time){PART_NEVER, 0.0};
        for (uint32_t d = 0; d < p->n_devices; d++)
            if (r->kind_of[d] == g) {
                k->devices[g].attn[0].pass_s = fmin(k->devices[g].attn[0].pass_s, attn[d]);
                k->devices[g].ff[0].pass_s = fmin(k->devices[g].ff[0].pass_s, ff[d]);
            }
    }
    r->weight = 0.0;
    r->lightest = 1.0;
    r->common = r->head = r->kv = r->ff = PART_NEVER;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        double w = 1.0;
        for (uint32_t d = 0; d < p->n_devices; d++) {
            const double a = part_time_at(p->devices[d].attn[l], r->rows);
            const double f = part_time_at(p->devices[d].ff[l], r->rows);
            w = attn[d] > 0.0 ? fmin(w, a / attn[d]) : w;
            w = ff[d] > 0.0 ? fmin(w, f / ff[d]) : w;
        }
        w = fmax(w, 1e-6);
        r->weight += w;
        r->lightest = fmin(r->lightest, w);
        r->common = fmin(r->common, (double)p->layers[l].common_bytes / w);
        r->head = fmin(r->head, (double)p->layers[l].head_bytes / w);
        r->kv = fmin(r->kv, (double)p->layers[l].kv_bytes / w);
        r->ff = fmin(r->ff, (double)p->layers[l].ff_bytes / w);
    }
}

/* ---- teams of kinds -------------------------------------------------------------------------- */

static uint32_t find_set(const struct part_relax *r, const uint8_t *count, uint8_t lead)
{
    for (uint32_t q = 0; q < r->n_sets; q++)
        if (r->sets[q].lead == lead &&
            memcmp(r->sets[q].count, count, sizeof r->sets[q].count) == 0)
            return q;
    return UINT16_MAX;
}

/* Smaller sets come first. */
static void list_sets(struct part_relax *r)
{
    const struct part_problem *p = r->p;
    const uint32_t kinds = r->kinds.n_devices;
    for (uint32_t n = 1; n <= p->n_devices; n++) {
        if ((p->granularity == PART_LAYERS && n > 1))
            break;
        uint8_t count[PART_DEVICES_MAX] = {0};
        for (bool more = true; more;) {
            uint32_t sum = 0;
            for (uint32_t g = 0; g < kinds; g++)
                sum += count[g];
            for (uint32_t g = 0; sum == n && g < kinds; g++) {
                if (count[g] == 0)
                    continue;
                struct set *s = &r->sets[r->n_sets];
                memset(s, 0, sizeof *s);
                memcpy(s->count, count, sizeof count);
                s->lead = (uint8_t)g;
                s->n = (uint8_t)n;
                for (uint32_t q = 0; q < kinds; q++) {
                    s->smaller[q] = UINT16_MAX;
                    if (count[q] > (q == g ? 1 : 0)) {
                        count[q]--;
                        s->smaller[q] = (uint16_t)find_set(r, count, (uint8_t)g);
                        count[q]++;
                    }
                }
                r->n_sets++;
            }
            uint32_t g = 0;
            while (g < kinds && count[g] == r->n_of[g])
                count[g++] = 0;
            more = g < kinds;
            if (more)
                count[g]++;
        }
    }
}

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

enum part { PART_OF_HEADS, PART_OF_FF, PART_OF_RUNS };

/* The least time of a half of the reference layer (or of the output matrix) in which all members, or
 * all but the leader, take part. `room`: weight per member's memory, bytes. */
static double half_time(const struct part_relax *r, const struct set *s, enum part_shape shape,
                        enum part what, bool leader_too, double weight)
{
    const struct part_problem *k = &r->kinds;
    struct part_team t = {.n = s->n, .members = {s->lead}, .shape = shape};
    struct part_half h = {.rows_bytes = r->rows * k->normed_bytes};
    struct taker takers[PART_DEVICES_MAX + 1];
    uint32_t n = 1, n_takers = 0;
    const double units = what == PART_OF_HEADS ? k->n_head_units
                         : what == PART_OF_FF  ? k->n_ff_units
                                               : k->n_vocab_runs;
    for (uint32_t g = 0; g < k->n_devices; g++)
        for (uint32_t c = g == s->lead ? 1 : 0; c < s->count[g]; c++)
            t.members[n++] = g;
    for (uint32_t m = 0; m < n; m++) {
        h.has[m] = m > 0 || leader_too;
        h.sum_bytes[m] = what == PART_OF_RUNS ? 0.0 : r->rows * k->sum_bytes;
    }
    for (uint32_t m = leader_too ? 0 : 1; m < n; m++) {
        const uint32_t d = t.members[m];
        const struct part_device *dev = &k->devices[d];
        if (m > 1 && d == t.members[m - 1] && n_takers > 0) {
            takers[n_takers - 1].n++;
            continue;
        }
        struct taker *x = &takers[n_takers++];
        h.compute_s[m] = 1e3;
        const double lag_s = part_half_seconds(k, &t, &h) - 1e3;
        h.compute_s[m] = 0.0;
        const double whole = what == PART_OF_HEADS ? dev->attn[0].pass_s
                             : what == PART_OF_FF  ? dev->ff[0].pass_s
                                                   : part_time_at(dev->output, r->rows);
        const double fixed =
            what == PART_OF_RUNS ? 0.0 : fmin(part_time_at(dev->half, r->rows), whole);
        const double bytes = what == PART_OF_HEADS ? r->head * weight
                             : what == PART_OF_FF  ? r->ff * weight
                                                   : (double)(k->run_bytes - k->shared_run_bytes);
        const double room = (double)dev->memory_bytes - (double)(k->base_bytes + k->scratch_bytes) -
                            r->common * weight;
        x->n = 1;
        x->s = lag_s + fixed;
        x->unit_s = (whole - fixed) / units;
        if (what == PART_OF_RUNS && m > 0)
            x->unit_s += r->rows * k->logits_bytes / units / k->rate[d][s->lead];
        x->cap = room < 0.0 ? 0.0 : bytes > 0.0 ? floor(room / bytes) : units;
    }
    return deal_time(takers, n_takers, units);
}

/* The least time of one part for every set: also of any of its members alone. */
static void part_times(struct part_relax *r, enum part_shape shape, enum part what, double weight)
{
    for (uint32_t q = 0; q < r->n_sets; q++) {
        const struct set *s = &r->sets[q];
        double least = half_time(r, s, shape, what, true, weight);
        if (s->n > 1)
            least = fmin(least, half_time(r, s, shape, what, false, weight));
        for (uint32_t g = 0; g < r->kinds.n_devices; g++)
            if (s->smaller[g] != UINT16_MAX)
                least = fmin(least, r->half_s[s->smaller[g]]);
        r->half_s[q] = least;
    }
}

/* Memory limits no member's units, even with so much weight. */
static bool roomy(const struct part_relax *r, double weight)
{
    const struct part_problem *k = &r->kinds;
    for (uint32_t g = 0; g < k->n_devices; g++) {
        const double room = (double)k->devices[g].memory_bytes -
                            (double)(k->base_bytes + k->scratch_bytes) - r->common * weight;
        if (room < r->head * weight * k->n_head_units || room < r->ff * weight * k->n_ff_units)
            return false;
    }
    return true;
}

/* Everything about the sets, for passes of so many rows. */
static void time_sets(struct part_relax *r, double rows)
{
    double heads_s[4 * RELAX_SETS_MAX];
    const struct part_problem *k = &r->kinds;
    if (r->rows == rows)
        return;
    r->rows = rows;
    weigh_layers(r);
    for (int level = 0; level < RELAX_LEVELS; level++) {
        if (level > 0 && roomy(r, levels[level] * r->weight)) {
            for (uint32_t q = 0; q < r->n_sets; q++)
                r->sets[q].tau[level] = r->sets[q].tau[level - 1];
            continue;
        }
        for (int shape = 0; shape < 2; shape++) {
            const double weight = levels[level] * r->weight;
            part_times(r, (enum part_shape)shape, PART_OF_HEADS, weight);
            memcpy(heads_s, r->half_s, r->n_sets * sizeof *heads_s);
            part_times(r, (enum part_shape)shape, PART_OF_FF, weight);
            for (uint32_t q = 0; q < r->n_sets; q++) {
                double *tau = &r->sets[q].tau[level];
                const double s = heads_s[q] + r->half_s[q];
                *tau = shape == 0 ? s : fmin(*tau, s);
            }
        }
    }
    part_times(r, PART_STAR, PART_OF_RUNS, 0.0);
    for (uint32_t q = 0; q < r->n_sets; q++) {
        struct set *s = &r->sets[q];
        s->output_s = r->half_s[q];
        s->begin_s = k->devices[s->lead].pass_s;
        s->room = 0.0;
        for (uint32_t g = 0; g < k->n_devices; g++)
            s->room +=
                s->count[g] *
                ((double)k->devices[g].memory_bytes -
                 (double)(k->base_bytes + k->scratch_bytes + (s->n > 1 ? k->team_bytes : 0)));
    }
}

/* ---- columns --------------------------------------------------------------------------------- */

/* A set with a role, at a corner of its staircase. */
struct corner {
    double weight, seconds; /* begin, embedding and output included, hop not */
};

static double role_bytes(const struct part_problem *p, int role)
{
    double bytes = (role & 1) != 0 ? (double)p->embed_bytes : 0.0;
    if ((role & 2) != 0)
        bytes += (double)p->output_bytes +
                 (double)p->n_vocab_runs *
                     (double)(p->run_bytes - ((role & 1) != 0 ? p->shared_run_bytes : 0));
    return bytes;
}

/* Corners of a set in a role, of at most `most_s` seconds. */
static uint32_t corners(const struct part_relax *r, const struct set *s, int role, double most_s,
                        struct corner *out)
{
    const struct part_problem *p = &r->kinds;
    const double layer = s->n * r->common + p->n_head_units * r->head +
                         part_kv_heads(p, 0, p->n_head_units) * r->kv + p->n_ff_units * r->ff;
    const double room = s->room - role_bytes(p, role);
    const double cap = layer > 0.0 ? fmin(room / layer, r->weight) : r->weight;
    const double fixed_s =
        s->begin_s + ((role & 1) != 0 ? part_time_at(p->devices[s->lead].embed, r->rows) : 0.0) +
        ((role & 2) != 0 ? s->output_s : 0.0);
    uint32_t n = 0;
    if (room < 0.0 || cap < r->lightest * (1.0 - 1e-9))
        return 0;
    for (int level = 0; level < RELAX_LEVELS && s->tau[level] < PART_NEVER; level++) {
        const double from = level == 0 ? r->lightest : levels[level] * r->weight;
        double to = fmin(levels[level + 1] * r->weight, cap);
        if (fixed_s + s->tau[level] * to > most_s)
            to = s->tau[level] > 0.0 ? (most_s - fixed_s) / s->tau[level] : to;
        if (level == 0 && fixed_s + s->tau[0] * from <= most_s)
            out[n++] = (struct corner){from, fixed_s + s->tau[0] * from};
        /* A layer may be more than the first level's share of the model. */
        if (to <= from && level == 0)
            continue;
        if (to <= from)
            break;
        out[n++] = (struct corner){to, fixed_s + s->tau[level] * to};
    }
    return n;
}

/* The least a stage pays to hand over, or the last one to close the ring. */
static double hop_least(const struct part_relax *r, const struct set *s, int role)
{
    const struct part_problem *k = &r->kinds;
    double least = PART_NEVER;
    if (role == 3)
        return 0.0;
    for (uint32_t g = 0; g < k->n_devices; g++)
        if (g != s->lead || r->n_of[g] > 1)
            least =
                fmin(least,
                     k->lat_s[s->lead][g] +
                         ((role & 2) != 0 ? 0.0 : r->rows * k->hidden_bytes / k->rate[s->lead][g]));
    return least == PART_NEVER ? 0.0 : least;
}

enum row { ROW_WEIGHT, ROW_EMBED, ROW_OUTPUT, ROW_STAGES, ROW_KINDS };

static void fill_use(const struct part_relax *r, const struct set *s, int role, double weight,
                     double *use)
{
    use[ROW_WEIGHT] = weight;
    use[ROW_EMBED] = role & 1;
    use[ROW_OUTPUT] = role >> 1 & 1;
    use[ROW_STAGES] = 1.0;
    for (uint32_t g = 0; g < r->kinds.n_devices; g++)
        use[ROW_KINDS + g] = s->count[g];
}

static void begin_lp(struct part_relax *r, uint32_t n_stages, double penalty)
{
    struct part_lp *lp = &r->lp;
    memset(lp, 0, sizeof *lp);
    lp->n_rows = ROW_KINDS + r->kinds.n_devices;
    lp->least[ROW_WEIGHT] = r->weight;
    lp->most[ROW_WEIGHT] = PART_NEVER;
    lp->least[ROW_EMBED] = lp->most[ROW_EMBED] = 1.0;
    lp->least[ROW_OUTPUT] = lp->most[ROW_OUTPUT] = 1.0;
    lp->least[ROW_STAGES] = n_stages;
    lp->most[ROW_STAGES] = n_stages > 0 ? n_stages : PART_DEVICES_MAX;
    for (uint32_t g = 0; g < r->kinds.n_devices; g++) {
        lp->most[ROW_KINDS + g] = r->n_of[g];
        lp->least[ROW_KINDS + g] = r->p->use_all ? r->n_of[g] : 0.0;
    }
    for (uint32_t k = 0; k < lp->n_rows; k++) {
        lp->cost[lp->n_columns] = k == ROW_WEIGHT ? penalty / r->weight : penalty;
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
    struct corner at[RELAX_LEVELS + 1];
    c->n = 0;
    *least_reduced = 0.0;
    for (uint32_t q = 0; q < r->n_sets; q++)
        for (int role = 0; role < ROLES; role++) {
            const struct set *s = &r->sets[q];
            if (r->p->granularity == PART_HEADS && role != 3)
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
        best = fmax(best, r->lp.value + r->p->n_devices * fmin(least, 0.0));
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

/* ---- bounds ---------------------------------------------------------------------------------- */

static double sum_bound(struct part_relax *r, uint32_t n_stages, double rows, double deadline_s)
{
    bool feasible;
    double high = 0.0;
    time_sets(r, rows);
    for (uint32_t q = 0; q < r->n_sets; q++)
        if (r->sets[q].tau[0] < PART_NEVER)
            high = fmax(high,
                        r->sets[q].begin_s + r->sets[q].output_s + r->sets[q].tau[0] * r->weight);
    const double penalty = 100.0 * r->p->n_devices * (high + 1.0);
    begin_lp(r, n_stages, penalty);
    const double value = generate(r, false, PART_NEVER, penalty, deadline_s, &feasible);
    return value > penalty / 2.0 ? PART_NEVER : fmax(value, 0.0);
}

double part_relax_sum(struct part_relax *r, uint32_t n_stages, double deadline_s)
{
    const struct part_problem *p = r->p;
    const double one =
        p->objective == PART_THROUGHPUT ? 0.0 : sum_bound(r, n_stages, 1.0, deadline_s);
    if (p->objective == PART_LATENCY || one == PART_NEVER)
        return one;
    const double full = sum_bound(r, n_stages, part_full_rows(p, n_stages), deadline_s);
    const double weight = p->objective == PART_WEIGHTED ? p->weight : 0.0;
    return full == PART_NEVER ? full : weight * one + (1.0 - weight) * full / p->slots;
}

double part_relax_slowest(struct part_relax *r, uint32_t n_stages, double upper, double deadline_s)
{
    const struct part_problem *p = r->p;
    const uint32_t groups = part_groups(p, n_stages);
    const double weight = p->objective == PART_WEIGHTED ? p->weight : 0.0;
    const double one = weight > 0.0 ? sum_bound(r, n_stages, 1.0, deadline_s) : 0.0;
    const double full = sum_bound(r, n_stages, part_full_rows(p, n_stages), deadline_s);
    double low = full, high = (upper - weight * one) / (1.0 - weight) * p->slots;
    if (one == PART_NEVER || full == PART_NEVER)
        return PART_NEVER;
    /* A cycle of `mid` is refuted where the stages cannot take all the weight within it. */
    for (int k = 0; k < RELAX_BISECTIONS && high > low * 1.002 && base_clock_s() < deadline_s;
         k++) {
        bool feasible;
        const double mid = k == 0 ? high * (1.0 - PART_EQUAL_WITHIN) : low + (high - low) / 2.0;
        const double penalty = 100.0 * r->weight * p->n_devices;
        begin_lp(r, n_stages, penalty);
        r->lp.least[ROW_WEIGHT] = 0.0;
        const double value = generate(r, true, mid / groups, penalty, deadline_s, &feasible);
        if (value > -r->weight * (1.0 - 1e-9))
            low = mid;
        else
            high = mid;
    }
    return weight * one + (1.0 - weight) * low / p->slots;
}

struct part_relax *part_relax_new(const struct part_problem *p)
{
    struct part_relax *r = base_zalloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->p = p;
    r->kinds = *p;
    const uint32_t kinds = make_kinds(r);
    fill_kinds(r, kinds);
    const size_t most = n_sets(r->n_of, kinds);
    r->sets = base_zalloc(most, sizeof *r->sets);
    r->half_s = base_zalloc(most, sizeof *r->half_s);
    if (r->sets == NULL || r->half_s == NULL || most > 4 * RELAX_SETS_MAX) {
        part_relax_free(r);
        return NULL;
    }
    list_sets(r);
    return r;
}

void part_relax_free(struct part_relax *r)
{
    if (r == NULL)
        return;
    base_free(r->sets);
    base_free(r->half_s);
    base_free(r);
}
