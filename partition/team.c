/* How a team divides its layers: choices of head units, feed-forward units and output runs for each
 * member, in both shapes.
 *
 * Small problems: every division into ranges is looked at, and for each run of layers those are kept
 * that fit and that no other beats in all the seconds that count; so the choices hold the optimum of
 * every stage. Larger ones: a half is over when its last member is, so units are handed out one at a
 * time to the member that would end first with one more (for equal units and one half that greedy is
 * optimal: Ibaraki and Katoh, "Resource Allocation Problems", 1988, ch. 5), each member up to the
 * memory it has for the number of layers asked about. Where memory binds, what heads may take of it
 * is tried in several proportions. Several numbers of layers give several divisions: the more layers,
 * the more memory and the less speed decides. */
#include "partition/internal.h"

#include <string.h>

enum {
    SMALL_DEVICES = 4,
    SMALL_DIVISIONS = 200, /* of one kind of unit over SMALL_DEVICES members */
    PARETO_MAX = 24,       /* divisions kept for one run of layers */
    LEVELS = 5,            /* numbers of layers asked about */
};

/* ---- every division -------------------------------------------------------------------------- */

enum unit_kind { UNIT_HEAD, UNIT_FF, UNIT_RUN, UNIT_KINDS };

struct divisions {
    uint32_t n;
    uint16_t end[SMALL_DIVISIONS][SMALL_DEVICES]; /* where each member's range ends */
    /* seconds of layers [0, l) for heads and columns, of the output in [0] for runs */
    double sum_s[PART_MEASURES][SMALL_DIVISIONS][PART_LAYERS_MAX + 1];
};

struct exact {
    struct part_view *v;
    struct part_choice c; /* members without ranges */
    struct divisions of[UNIT_KINDS];
    uint64_t common[PART_LAYERS_MAX + 1], head[PART_LAYERS_MAX + 1], kv[PART_LAYERS_MAX + 1],
        ff[PART_LAYERS_MAX + 1]; /* bytes of layers [0, l) */
};

static uint64_t n_divisions(uint64_t units, uint64_t members)
{
    uint64_t n = 1;
    for (uint64_t k = 1; k < members; k++)
        n = n * (units + k) / k;
    return n;
}

bool part_team_small(const struct part_problem *p)
{
    return p->granularity == PART_LAYERS ||
           (p->n_devices <= SMALL_DEVICES &&
            n_divisions(p->n_head_units, p->n_devices) <= SMALL_DIVISIONS &&
            n_divisions(p->n_ff_units, p->n_devices) <= SMALL_DIVISIONS &&
            n_divisions(p->n_vocab_runs, p->n_devices) <= SMALL_DIVISIONS && p->n_layers <= 64);
}

static void set_ranges(struct part_stage *s, const uint16_t *heads, const uint16_t *ffs,
                       const uint16_t *runs)
{
    for (uint32_t k = 0; k < s->n_members; k++) {
        struct part_member *m = &s->members[k];
        m->head0 = k > 0 && heads != NULL ? heads[k - 1] : 0;
        m->head1 = heads != NULL ? heads[k] : 0;
        m->ff0 = k > 0 && ffs != NULL ? ffs[k - 1] : 0;
        m->ff1 = ffs != NULL ? ffs[k] : 0;
        m->run0 = k > 0 && runs != NULL ? runs[k - 1] : 0;
        m->run1 = runs != NULL ? runs[k] : 0;
    }
}

static void list_divisions(struct exact *x, enum unit_kind kind, uint32_t units, uint16_t *end,
                           uint32_t k)
{
    struct divisions *all = &x->of[kind];
    const uint32_t n = x->c.stage.n_members, from = k > 0 ? end[k - 1] : 0;
    if (k == n) {
        memcpy(all->end[all->n++], end, n * sizeof *end);
        return;
    }
    const int pin = x->v->p->devices[x->c.stage.members[k].device].pin_heads;
    for (uint32_t to = k + 1 == n ? units : from; to <= units; to++) {
        if (kind == UNIT_HEAD && pin >= 0 && to - from != (uint32_t)pin)
            continue;
        end[k] = (uint16_t)to;
        list_divisions(x, kind, units, end, k + 1);
    }
}

static void time_divisions(struct exact *x, enum unit_kind kind)
{
    struct part_view *v = x->v;
    struct divisions *all = &x->of[kind];
    struct part_stage *s = &x->c.stage;
    for (uint32_t q = 0; q < all->n; q++) {
        set_ranges(s, kind == UNIT_HEAD ? all->end[q] : NULL, kind == UNIT_FF ? all->end[q] : NULL,
                   kind == UNIT_RUN ? all->end[q] : NULL);
        for (int m = 0; m < PART_MEASURES; m++) {
            double *sum_s = all->sum_s[m][q];
            if (!v->wants[m])
                continue;
            sum_s[0] = kind == UNIT_RUN ? part_stage_output(v->p, s, v->pass[m]) : 0.0;
            for (uint32_t l = 0; kind != UNIT_RUN && l < v->n_layers; l++)
                sum_s[l + 1] =
                    sum_s[l] + (v->kind[l] < l
                                    ? sum_s[v->kind[l] + 1] - sum_s[v->kind[l]]
                                    : part_stage_half(v->p, s, l, kind == UNIT_HEAD, v->pass[m]));
        }
    }
}

static bool division_fits(const struct exact *x, uint32_t i, uint32_t j)
{
    const struct part_problem *p = x->v->p;
    struct part_stage s = x->c.stage;
    s.layer0 = s.layer1 = i;
    for (uint32_t k = 0; k < s.n_members; k++) {
        const struct part_member *m = &s.members[k];
        if (m->head1 == m->head0 && m->ff1 == m->ff0 && m->run1 == m->run0)
            return false;
        const uint64_t layers = x->common[j] - x->common[i] +
                                (m->head1 - m->head0) * (x->head[j] - x->head[i]) +
                                part_kv_heads(p, m->head0, m->head1) * (x->kv[j] - x->kv[i]) +
                                (m->ff1 - m->ff0) * (x->ff[j] - x->ff[i]);
        if (part_member_memory(p, &s, k) + layers > p->devices[m->device].memory_bytes)
            return false;
    }
    return true;
}

/* Divisions of one run of layers that none beats. */
struct pareto {
    uint32_t n;
    double s[PARETO_MAX][PART_MEASURES];
    uint32_t at[PARETO_MAX][UNIT_KINDS];
};

static bool beaten(const struct part_view *v, const struct pareto *best, const double *s)
{
    for (uint32_t q = 0; q < best->n; q++) {
        bool all = true;
        for (int m = 0; m < PART_MEASURES; m++)
            all = all && (!v->wants[m] || best->s[q][m] <= s[m]);
        if (all)
            return true;
    }
    return false;
}

static void keep(const struct part_view *v, struct pareto *best, const double *s,
                 const uint32_t *at)
{
    uint32_t n = 0;
    for (uint32_t q = 0; q < best->n; q++) {
        bool better = false;
        for (int m = 0; m < PART_MEASURES; m++)
            better = better || (v->wants[m] && best->s[q][m] < s[m]);
        if (!better)
            continue;
        memcpy(best->s[n], best->s[q], sizeof best->s[n]);
        memcpy(best->at[n++], best->at[q], sizeof best->at[q]);
    }
    best->n = n < PARETO_MAX ? n : PARETO_MAX - 1;
    memcpy(best->s[best->n], s, sizeof best->s[0]);
    memcpy(best->at[best->n++], at, sizeof best->at[0]);
}

static int exact_run(struct exact *x, uint32_t i, uint32_t j)
{
    struct part_view *v = x->v;
    struct pareto best = {.n = 0};
    const struct divisions *h = &x->of[UNIT_HEAD], *f = &x->of[UNIT_FF], *r = &x->of[UNIT_RUN];
    for (uint32_t a = 0; a < h->n; a++)
        for (uint32_t b = 0; b < f->n; b++)
            for (uint32_t c = 0; c < r->n; c++) {
                double s[PART_MEASURES] = {0.0};
                for (int m = 0; m < PART_MEASURES; m++)
                    if (v->wants[m])
                        s[m] = h->sum_s[m][a][j] - h->sum_s[m][a][i] + f->sum_s[m][b][j] -
                               f->sum_s[m][b][i] + (x->c.output ? r->sum_s[m][c][0] : 0.0);
                if (beaten(v, &best, s))
                    continue;
                set_ranges(&x->c.stage, h->end[a], f->end[b], x->c.output ? r->end[c] : NULL);
                if (division_fits(x, i, j))
                    keep(v, &best, s, (uint32_t[UNIT_KINDS]){a, b, c});
            }
    for (uint32_t q = 0; q < best.n; q++) {
        set_ranges(&x->c.stage, h->end[best.at[q][0]], f->end[best.at[q][1]],
                   x->c.output ? r->end[best.at[q][2]] : NULL);
        const int rc = part_view_add(v, &x->c);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int exact_choices(struct exact *x, bool all_devices)
{
    const struct part_problem *p = x->v->p;
    const uint32_t layers = p->n_layers,
                   units[UNIT_KINDS] = {p->n_head_units, p->n_ff_units, p->n_vocab_runs};
    uint16_t end[SMALL_DEVICES];
    int rc = 0;
    for (int kind = 0; kind < UNIT_KINDS; kind++) {
        x->of[kind].n = 0;
        list_divisions(x, (enum unit_kind)kind, units[kind], end, 0);
        time_divisions(x, (enum unit_kind)kind);
    }
    for (int output = 0; rc == 0 && output < 2; output++) {
        x->c.output = output == 1;
        x->of[UNIT_RUN].n = x->c.output ? x->of[UNIT_RUN].n : 1;
        for (uint32_t i = 0; rc == 0 && i < layers; i++)
            for (uint32_t j = i + 1; rc == 0 && j <= layers; j++) {
                const bool here = x->v->output_first ? i == 0 && j < layers : j == layers;
                const bool whole = i == 0 && j == layers;
                if ((output == 1) == here && !(all_devices && !whole) &&
                    !(p->granularity == PART_HEADS && !whole))
                    rc = exact_run(x, i, j);
            }
        if (output == 0) {
            x->of[UNIT_RUN].n = 0;
            list_divisions(x, UNIT_RUN, units[UNIT_RUN], end, 0);
        }
    }
    return rc;
}

static void layer_sums(struct exact *x)
{
    const struct part_problem *p = x->v->p;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct part_layer *y = &p->layers[l];
        x->common[l + 1] = x->common[l] + y->common_bytes;
        x->head[l + 1] = x->head[l] + y->head_bytes;
        x->kv[l + 1] = x->kv[l] + y->kv_bytes;
        x->ff[l + 1] = x->ff[l] + y->ff_bytes;
    }
}

/* ---- good divisions -------------------------------------------------------------------------- */

/* A half, or the output matrix, as units to hand out. */
struct dealing {
    const struct part_view *v;
    struct part_choice *c;
    enum unit_kind kind;
    struct part_pass pass;
    uint32_t layer, n_units;
    uint64_t unit_bytes[PART_DEVICES_MAX]; /* of all the layers asked about, by member */
};

static double unit_seconds(const struct dealing *g, uint32_t k, uint32_t n)
{
    const struct part_problem *p = g->v->p;
    const uint32_t d = g->c->stage.members[k].device;
    const double rows = g->pass.rows;
    return g->kind == UNIT_HEAD ? part_attn_seconds(p, d, g->layer, rows, 0, n)
           : g->kind == UNIT_FF ? part_ff_seconds(p, d, g->layer, rows, n)
                                : n * part_time_at(p->devices[d].output, rows) / p->n_vocab_runs;
}

/* What each member's result needs beside its computing, where those in `has` take part. */
static void lags(const struct dealing *g, const bool *has, double *lag_s)
{
    const struct part_problem *p = g->v->p;
    const double much_s = 1e3;
    struct part_team t = {.n = g->c->stage.n_members,
                          .shape = g->kind == UNIT_RUN ? PART_STAR : g->c->stage.shape};
    struct part_half h = {.rows_bytes = g->pass.rows * p->normed_bytes};
    for (uint32_t k = 0; k < t.n; k++) {
        t.members[k] = g->c->stage.members[k].device;
        h.has[k] = has[k];
        h.sum_bytes[k] =
            g->pass.rows * (g->kind == UNIT_RUN ? p->logits_bytes / t.n : p->sum_bytes);
    }
    for (uint32_t k = 0; k < t.n; k++) {
        h.compute_s[k] = much_s;
        lag_s[k] = has[k] ? part_half_seconds(p, &t, &h) - much_s : 0.0;
        h.compute_s[k] = 0.0;
    }
}

/* Hand out the units; what each member has goes to count[], memory is taken from room[]. False where
 * there is not enough. */
static bool deal_among(const struct dealing *g, const bool *has, const uint64_t *room,
                       uint32_t *count, double *last_s)
{
    const uint32_t n = g->c->stage.n_members;
    double lag_s[PART_DEVICES_MAX];
    lags(g, has, lag_s);
    memset(count, 0, n * sizeof *count);
    *last_s = 0.0;
    for (uint32_t k = 0; k < n; k++) {
        const int pin = g->v->p->devices[g->c->stage.members[k].device].pin_heads;
        if (g->kind == UNIT_HEAD && pin >= 0)
            count[k] = (uint32_t)pin;
        if (count[k] * g->unit_bytes[k] > room[k])
            return false;
    }
    uint32_t dealt = 0;
    for (uint32_t k = 0; k < n; k++)
        dealt += count[k];
    for (; dealt < g->n_units; dealt++) {
        uint32_t to = n;
        double least = PART_NEVER;
        for (uint32_t k = 0; k < n; k++) {
            const int pin = g->v->p->devices[g->c->stage.members[k].device].pin_heads;
            if (!has[k] || (g->kind == UNIT_HEAD && pin >= 0) ||
                (count[k] + 1) * g->unit_bytes[k] > room[k])
                continue;
            const double s = lag_s[k] + unit_seconds(g, k, count[k] + 1);
            if (s < least) {
                least = s;
                to = k;
            }
        }
        if (to == n)
            return false;
        count[to]++;
    }
    for (uint32_t k = 0; k < n; k++)
        if (count[k] > 0)
            *last_s = fmax(*last_s, lag_s[k] + unit_seconds(g, k, count[k]));
    return dealt == g->n_units;
}

/* As above among the best set of takers: all, and then without those that got nothing or end
 * last. */
static bool deal(const struct dealing *g, uint64_t *room, uint32_t *count)
{
    const uint32_t n = g->c->stage.n_members;
    bool has[PART_DEVICES_MAX], any = false;
    uint32_t now[PART_DEVICES_MAX];
    double best_s = PART_NEVER, last_s;
    for (uint32_t k = 0; k < n; k++)
        has[k] = true;
    for (uint32_t left = n; left > 0; left--) {
        if (!deal_among(g, has, room, now, &last_s))
            break;
        if (last_s < best_s) {
            best_s = last_s;
            memcpy(count, now, n * sizeof *now);
            any = true;
        }
        uint32_t out = n;
        double most = -1.0;
        for (uint32_t k = 0; k < n; k++) {
            const double s = !has[k] ? -2.0 : now[k] == 0 ? 1e9 : unit_seconds(g, k, 1);
            if (s > most) {
                most = s;
                out = k;
            }
        }
        if (out == n)
            break;
        has[out] = false;
    }
    for (uint32_t k = 0; any && k < n; k++)
        room[k] -= count[k] * g->unit_bytes[k];
    return any;
}

static void set_counts(struct part_choice *c, enum unit_kind kind, const uint32_t *count)
{
    uint32_t at = 0;
    for (uint32_t k = 0; k < c->stage.n_members; k++) {
        struct part_member *m = &c->stage.members[k];
        const uint32_t to = at + count[k];
        if (kind == UNIT_HEAD) {
            m->head0 = at;
            m->head1 = to;
        } else if (kind == UNIT_FF) {
            m->ff0 = at;
            m->ff1 = to;
        } else {
            m->run0 = at;
            m->run1 = to;
        }
        at = to;
    }
}

/* A member that is best left without anything takes one unit of columns from whoever has most: it is
 * in the team, and where every device must work there may be no other team for it. */
static void use_idle(const struct part_stage *s, uint64_t *room, uint64_t unit_bytes,
                     uint32_t *count)
{
    for (uint32_t k = 0; k < s->n_members; k++) {
        const struct part_member *m = &s->members[k];
        uint32_t from = 0;
        if (count[k] > 0 || m->head0 < m->head1 || m->run0 < m->run1 || room[k] < unit_bytes)
            continue;
        for (uint32_t i = 1; i < s->n_members; i++)
            from = count[i] > count[from] ? i : from;
        if (count[from] < 2)
            continue;
        count[from]--;
        count[k]++;
        room[k] -= unit_bytes;
    }
}

/* Divide for the layers [i, j): `heads_room` of each member's memory is the heads' at most. */
static bool divide(const struct part_view *v, struct part_choice *c, enum part_measure m,
                   uint32_t i, uint32_t j, double heads_room, double runs_room)
{
    const struct part_problem *p = v->p;
    const uint32_t n = c->stage.n_members;
    uint64_t room[PART_DEVICES_MAX], some[PART_DEVICES_MAX], head = 0, ff = 0, common = 0;
    uint32_t count[PART_DEVICES_MAX] = {0};
    struct dealing g = {.v = v, .c = c, .pass = v->pass[m], .layer = i};
    for (uint32_t l = i; l < j; l++) {
        const struct part_layer *y = &p->layers[l];
        head += y->head_bytes + y->kv_bytes * part_kv_heads(p, 0, 1);
        ff += y->ff_bytes;
        common += y->common_bytes;
    }
    set_ranges(&c->stage, NULL, NULL, NULL);
    struct part_stage s = c->stage;
    s.layer0 = s.layer1 = i;
    for (uint32_t k = 0; k < n; k++) {
        const uint64_t has = p->devices[s.members[k].device].memory_bytes;
        const uint64_t need =
            part_member_memory(p, &s, k) + common + (k == 0 && c->output ? p->output_bytes : 0);
        if (need > has)
            return false;
        room[k] = has - need;
    }
    if (c->output) {
        g.kind = UNIT_RUN;
        g.n_units = p->n_vocab_runs;
        for (uint32_t k = 0; k < n; k++) {
            g.unit_bytes[k] = p->run_bytes - (i == 0 && k == 0 ? p->shared_run_bytes : 0);
            some[k] = (uint64_t)((double)room[k] * runs_room);
        }
        if (!deal(&g, some, count))
            return false;
        for (uint32_t k = 0; k < n; k++)
            room[k] -= count[k] * g.unit_bytes[k];
        set_counts(c, UNIT_RUN, count);
    }
    g.kind = UNIT_HEAD;
    g.n_units = p->n_head_units;
    for (uint32_t k = 0; k < n; k++) {
        g.unit_bytes[k] = head;
        some[k] = (uint64_t)((double)room[k] * heads_room);
    }
    if (!deal(&g, some, count))
        return false;
    set_counts(c, UNIT_HEAD, count);
    for (uint32_t k = 0; k < n; k++) {
        room[k] -= count[k] * head;
        g.unit_bytes[k] = ff;
    }
    g.kind = UNIT_FF;
    g.n_units = p->n_ff_units;
    if (!deal(&g, room, count))
        return false;
    use_idle(&c->stage, room, ff, count);
    set_counts(c, UNIT_FF, count);
    s = c->stage;
    s.layer0 = i;
    s.layer1 = j;
    for (uint32_t k = 0; k < n; k++) {
        const struct part_member *mm = &s.members[k];
        if ((mm->head1 == mm->head0 && mm->ff1 == mm->ff0 && mm->run1 == mm->run0) ||
            part_member_memory(p, &s, k) > p->devices[mm->device].memory_bytes)
            return false;
    }
    return true;
}

/* The best of several ways to share memory between runs, heads and columns. */
static bool divide_best(const struct part_view *v, struct part_choice *c, enum part_measure m,
                        uint32_t i, uint32_t j)
{
    const struct part_problem *p = v->p;
    const double heads =
        (double)p->n_head_units * (double)p->layers[i].head_bytes +
        (double)part_kv_heads(p, 0, p->n_head_units) * (double)p->layers[i].kv_bytes;
    const double share =
        heads / fmax(heads + (double)p->n_ff_units * (double)p->layers[i].ff_bytes, 1.0);
    const double shares[] = {1.0, 1.1 * share, share, 0.9 * share};
    const double runs[] = {1.0, 0.5, 0.25};
    struct part_choice best = *c;
    double best_s = PART_NEVER;
    for (int r = 0; r < (c->output ? 3 : 1); r++)
        for (int k = 0; k < 4; k++) {
            if (!divide(v, c, m, i, j, fmin(shares[k], 1.0), runs[r]))
                continue;
            const double s = (part_stage_half(p, &c->stage, i, true, v->pass[m]) +
                              part_stage_half(p, &c->stage, i, false, v->pass[m])) *
                                 (j - i) +
                             part_stage_output(p, &c->stage, v->pass[m]);
            if (s < best_s) {
                best_s = s;
                best = *c;
            }
            if (k == 0 && r == 0)
                goto out; /* memory is no matter */
        }
out:
    *c = best;
    return best_s < PART_NEVER;
}

static int good_choices(struct part_view *v, struct part_choice *c, enum part_measure m)
{
    const uint32_t layers = v->n_layers;
    struct part_choice last = {.mask = 0};
    for (int output = 0; output < 2; output++)
        for (int place = 0; place < 2; place++) {
            c->output = output == 1;
            if (place == 1 && (c->output || v->output_first))
                continue;
            for (uint32_t level = 0; level < LEVELS; level++) {
                const uint32_t n = layers * (LEVELS - level) / LEVELS;
                const uint32_t from = c->output && !v->output_first ? layers - n
                                      : place == 1 || c->output     ? 0
                                                                    : (layers - n) / 2;
                if (n == 0 || (v->p->granularity == PART_HEADS && n < layers) ||
                    !divide_best(v, c, m, from, from + n))
                    continue;
                const bool same = last.mask != 0 && memcmp(last.stage.members, c->stage.members,
                                                           sizeof last.stage.members) == 0;
                const int rc = part_view_add(v, c);
                if (rc != 0)
                    return rc;
                if (same)
                    break;
                last = *c;
            }
        }
    return 0;
}

/* ---- both ------------------------------------------------------------------------------------ */

static int single_choices(struct part_view *v, uint32_t device)
{
    for (int output = 0; output < 2; output++) {
        const struct part_choice c = {.stage = part_stage_single(v->p, device, 0, 0, output == 1),
                                      .mask = 1u << device,
                                      .leader = device,
                                      .output = output == 1};
        const int pin = v->p->devices[device].pin_heads;
        const int rc = pin >= 0 && (uint32_t)pin != v->p->n_head_units ? 0 : part_view_add(v, &c);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int part_team_choices(struct part_view *v, uint32_t mask, uint32_t leader, bool exact)
{
    struct part_choice c = {.mask = mask, .leader = leader};
    struct exact *x = NULL;
    int rc = 0;
    c.stage.members[c.stage.n_members++].device = leader;
    for (uint32_t d = 0; d < v->n_devices; d++)
        if ((mask >> d & 1) != 0 && d != leader)
            c.stage.members[c.stage.n_members++].device = d;
    if (c.stage.n_members == 1)
        return single_choices(v, leader);
    if (exact) {
        x = base_zalloc(1, sizeof *x);
        if (x == NULL)
            return ERR_NOMEM;
        x->v = v;
        layer_sums(x);
    }
    for (int shape = 0; rc == 0 && shape < 2; shape++) {
        c.stage.shape = shape == 0 ? PART_STAR : PART_MESH;
        if (!part_shape_wanted(v->p, c.stage.shape))
            continue;
        if (exact) {
            x->c = c;
            rc = exact_choices(x, mask == (1u << v->n_devices) - 1);
            continue;
        }
        for (int m = 0; rc == 0 && m < PART_CHUNK; m++)
            if (v->wants[m])
                rc = good_choices(v, &c, (enum part_measure)m);
    }
    base_free(x);
    return rc;
}
