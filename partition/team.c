/* How a team divides its layers: choices of head units, feed-forward units and output runs for each
 * member, in both shapes.
 *
 * Small problems: every division into ranges is looked at, and for each run of layers those are kept
 * that fit and that no other beats in all the seconds that count; so the choices hold the optimum of
 * every stage. Larger problems get some good ones (deal.c). */
#include "partition/internal.h"

#include <string.h>

enum {
    SMALL_DEVICES = 4,
    SMALL_DIVISIONS = 200, /* of one kind of unit over SMALL_DEVICES members */
    PARETO_MAX = 24,       /* divisions kept for one run of layers */
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

/* Not where there are quotas: these couple the halves of a layer, which are listed one by one. */
bool part_team_small(const struct part_problem *p)
{
    return p->granularity == PART_LAYERS ||
           (p->n_devices <= SMALL_DEVICES && !part_any_quota(p) &&
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
    const struct part_device *dev = &x->v->p->devices[x->c.stage.members[k].device];
    const int pin = kind == UNIT_HEAD ? dev->pin_heads : kind == UNIT_FF ? dev->pin_ff : -1;
    for (uint32_t to = k + 1 == n ? units : from; to <= units; to++) {
        if (pin >= 0 && to - from != (uint32_t)pin)
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

/* ---- both ------------------------------------------------------------------------------------ */

static int single_choices(struct part_view *v, uint32_t device)
{
    for (int output = 0; output < 2; output++) {
        const struct part_choice c = {.stage = part_stage_single(v->p, device, 0, 0, output == 1),
                                      .mask = 1u << device,
                                      .leader = device,
                                      .output = output == 1};
        const bool may = part_keeps_pins(&v->p->devices[device], &c.stage.members[0]);
        const int rc = may ? part_view_add(v, &c) : 0;
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
    for (int shape = 0; exact && rc == 0 && shape < 2; shape++) {
        c.stage.shape = shape == 0 ? PART_STAR : PART_MESH;
        if (!part_shape_wanted(v->p, c.stage.shape))
            continue;
        x->c = c;
        rc = exact_choices(x, mask == (1u << v->n_devices) - 1);
    }
    for (int m = 0; !exact && rc == 0 && m < PART_CHUNK; m++)
        if (v->wants[m])
            rc = part_deal_choices(v, &c, (enum part_measure)m);
    base_free(x);
    return rc;
}
