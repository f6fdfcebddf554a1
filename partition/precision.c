/* A type for each layer beside its place, under a budget of loss.
 *
 * Both are decided in turn: for a plan the best types (milp_types.c, exact), for types the best plan
 * (solve.c), until that brings nothing any more; every step keeps what was there if nothing is better,
 * so the objective only falls. It ends where neither alone can be bettered, which need not be the
 * best of both, so it begins from several places: the plan of each type for all layers, and the plan
 * for the smallest types that the budget allows, which is the one that fits where memory is short.
 * The best that came of them is then bettered by moving single layers across the cuts between stages,
 * each time with new types. tests/unit/test_precision.c says how far that is from the best.
 *
 * Left out: which divisions of a team's heads and columns go best with which types; a division is
 * that of the last plan. */
#include "partition/internal.h"

#include <string.h>

/* Of the problems' limit, for one plan and for one knapsack. */
static const double share_place = 0.5, share_types = 0.25;
enum { ROUNDS_MAX = 8 };

struct search {
    const struct part_precision *x;
    struct part_problem *p; /* room for a mix */
    double end_s;
    double best; /* PART_NEVER: none yet */
    struct part_precise *out;
};

void part_precision_mix(const struct part_precision *x, const uint8_t *type,
                        struct part_problem *out)
{
    *out = *x->of[0];
    for (uint32_t l = 0; l < out->n_layers; l++) {
        const struct part_problem *of = x->of[type[l]];
        out->layers[l] = of->layers[l];
        for (uint32_t d = 0; d < out->n_devices; d++) {
            out->devices[d].attn[l] = of->devices[d].attn[l];
            out->devices[d].ff[l] = of->devices[d].ff[l];
        }
    }
}

static bool in_budget(const struct part_precision *x, const uint8_t *type)
{
    double sum = 0.0;
    for (uint32_t l = 0; l < x->of[0]->n_layers; l++)
        sum += x->loss[type[l]][l];
    return sum <= x->budget * (1.0 + PART_EQUAL_WITHIN);
}

static double until(const struct search *s, double share)
{
    return fmin(s->end_s, base_clock_s() + share * s->x->of[0]->time_limit_s);
}

/* The mix s->p is that of `type`. Its objective, PART_NEVER where it breaks a rule; kept where it is the
 * best so far. */
static double keep(struct search *s, const uint8_t *type, struct part_plan *plan)
{
    part_plan_cost(s->p, plan);
    if (!in_budget(s->x, type) || !part_plan_fits(s->p, plan))
        return PART_NEVER;
    const double objective = part_plan_objective(s->p, plan);
    if (objective < s->best) {
        s->best = objective;
        s->out->plan = *plan;
        memcpy(s->out->type, type, sizeof s->out->type);
    }
    return objective;
}

/* The best plan for the types of the mix, beginning with the plan that is there. Nobody asks for its
 * gap. Codes of part_plan_solve. */
static int place(struct search *s, struct part_plan *plan, struct err *e)
{
    const struct part_plan begin = *plan;
    s->p->begin = begin.n_stages > 0 ? &begin : NULL;
    s->p->search_only = true;
    s->p->time_limit_s = fmax(until(s, share_place) - base_clock_s(), 1e-3);
    const int rc = part_plan_solve(s->p, plan, e);
    s->p->begin = NULL;
    return rc;
}

/* Types for the plan, a plan for the types, and so on. */
static int take_turns(struct search *s, struct part_plan plan)
{
    uint8_t type[PART_LAYERS_MAX] = {0};
    double last = PART_NEVER;
    for (int round = 0; round < ROUNDS_MAX && base_clock_s() < s->end_s; round++) {
        int rc = part_milp_types(s->x, &plan, until(s, share_types), type);
        if (rc != 0)
            return rc == ERR_NOMEM ? rc : 0;
        part_precision_mix(s->x, type, s->p);
        const double now = keep(s, type, &plan);
        if (now >= last * (1.0 - PART_EQUAL_WITHIN))
            return 0;
        rc = place(s, &plan, NULL);
        if (rc != 0)
            return rc == ERR_NOMEM ? rc : 0;
        last = fmin(now, keep(s, type, &plan));
    }
    return 0;
}

/* One layer across one cut of the best plan; *better where that brought something. */
static int move_cut(struct search *s, uint32_t k, int by, bool *better)
{
    struct part_plan plan = s->out->plan;
    struct part_stage *a = &plan.stages[k], *b = &plan.stages[k + 1];
    uint8_t type[PART_LAYERS_MAX] = {0};
    if ((by < 0 ? a->layer1 - a->layer0 : b->layer1 - b->layer0) < 2)
        return 0;
    const double before = s->best;
    a->layer1 = b->layer0 = by < 0 ? a->layer1 - 1 : a->layer1 + 1;
    const int rc = part_milp_types(s->x, &plan, until(s, share_types), type);
    if (rc != 0)
        return rc == ERR_NOMEM ? rc : 0;
    part_precision_mix(s->x, type, s->p);
    (void)keep(s, type, &plan);
    *better = *better || s->best < before * (1.0 - PART_EQUAL_WITHIN);
    return 0;
}

static int move_cuts(struct search *s)
{
    bool better = s->best < PART_NEVER;
    int rc = 0;
    while (better && rc == 0) {
        better = false;
        for (uint32_t k = 0; rc == 0 && k + 1 < s->out->plan.n_stages; k++)
            for (int by = -1; rc == 0 && by <= 1 && base_clock_s() < s->end_s; by += 2)
                rc = move_cut(s, k, by, &better);
    }
    return rc;
}

/* From the plans of each type, and of the smallest types that are allowed. What makes those impossible
 * is said. */
static int begin_everywhere(struct search *s, struct err *e)
{
    const struct part_precision *x = s->x;
    uint8_t type[PART_LAYERS_MAX] = {0};
    struct part_plan plan = {.n_stages = 0};
    for (uint32_t q = 0; q < x->n_types; q++) {
        memset(type, (int)q, sizeof type);
        *s->p = *x->of[q];
        int rc = place(s, &plan, NULL);
        if (rc == 0) {
            s->out->all[q] = plan;
            (void)keep(s, type, &plan);
            rc = take_turns(s, plan);
        }
        if (rc == ERR_NOMEM || rc == ERR_RANGE)
            return rc;
    }
    int rc = part_milp_types(x, NULL, until(s, share_types), type);
    if (rc != 0)
        return err_set(e, rc, "no types of the layers are within the budget");
    part_precision_mix(x, type, s->p);
    rc = place(s, &plan, e);
    if (rc != 0)
        return rc;
    (void)keep(s, type, &plan);
    return take_turns(s, plan);
}

int part_precision_solve(const struct part_precision *x, struct part_precise *out, struct err *e)
{
    struct search s = {.x = x, .best = PART_NEVER, .out = out};
    memset(out, 0, sizeof *out);
    int rc = part_problem_check(x->of[0], e);
    if (rc != 0)
        return rc;
    s.p = base_alloc(sizeof *s.p);
    if (s.p == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the placement problem");
    s.end_s = base_clock_s() + (x->n_types + 2) * x->of[0]->time_limit_s;
    rc = begin_everywhere(&s, e);
    if (rc != ERR_NOMEM && s.best < PART_NEVER)
        rc = move_cuts(&s);
    base_free(s.p);
    if (rc == ERR_NOMEM)
        return err_set(e, rc, "no memory to choose types");
    if (s.best < PART_NEVER)
        return 0;
    return rc != 0
               ? rc
               : err_set(e, ERR_INFEASIBLE,
                         "no types within the budget with a plan that keeps every rule were found");
}
