/* Every plan, tried: subsets of devices, their orders, the cuts between them. The judge of every
 * other solver here, so it is written to be obviously right: it builds whole rings and asks
 * part_plan_fits and part_plan_cost, without pruning by cost or memory and without any table. For
 * each device it also keeps the best ring that includes it, from which the reasons in left_out
 * follow.
 *
 * The number of rings grows like (cuts choose stages) x stages!, so it is limited to small
 * cases. */
#include "partition/internal.h"

#include <string.h>

enum { ENUM_DEVICES_MAX = 4, ENUM_LAYERS_MAX = 10 };

struct enumeration {
    const struct part_problem *p;
    struct part_plan now;                    /* the ring being built */
    struct part_plan best;                   /* n_stages 0: none yet */
    struct part_plan with[PART_DEVICES_MAX]; /* the best ring that uses device d */
};

static void keep_better(const struct part_problem *p, const struct part_plan *plan,
                        struct part_plan *best)
{
    if (best->n_stages == 0 || part_plan_objective(p, plan) < part_plan_objective(p, best))
        *best = *plan;
}

static void extend(struct enumeration *en, uint32_t cut)
{
    struct part_plan *now = &en->now;
    if (cut == en->p->n_layers) {
        if (!part_plan_fits(en->p, now))
            return;
        part_plan_cost(en->p, now);
        keep_better(en->p, now, &en->best);
        for (uint32_t k = 0; k < now->n_stages; k++)
            keep_better(en->p, now, &en->with[now->stages[k].members[0].device]);
        return;
    }
    if (now->n_stages == en->p->n_devices)
        return;
    for (uint32_t d = 0; d < en->p->n_devices; d++) {
        bool used = false;
        for (uint32_t k = 0; k < now->n_stages; k++)
            used = used || now->stages[k].members[0].device == d;
        for (uint32_t to = cut + 1; !used && to <= en->p->n_layers; to++) {
            now->stages[now->n_stages++] =
                part_stage_single(en->p, d, cut, to, to == en->p->n_layers);
            extend(en, to);
            now->n_stages--;
        }
    }
}

int part_plan_enumerate(const struct part_problem *p, struct part_plan *plan, struct err *e)
{
    double start_s = base_clock_s();
    int rc = part_problem_check(p, e);
    if (rc != 0)
        return rc;
    if (p->n_devices > ENUM_DEVICES_MAX || p->n_layers > ENUM_LAYERS_MAX)
        return err_set(e, ERR_RANGE, "enumeration takes at most %d devices and %d layers",
                       ENUM_DEVICES_MAX, ENUM_LAYERS_MAX);
    struct enumeration *en = base_zalloc(1, sizeof *en);
    if (en == NULL)
        return err_set(e, ERR_NOMEM, "no memory to enumerate plans");
    en->p = p;
    extend(en, 0);
    if (en->best.n_stages == 0) {
        rc = part_explain_infeasible(p, e);
        goto out;
    }
    *plan = en->best;
    plan->gap = 0.0;
    for (uint32_t d = 0; d < p->n_devices; d++)
        part_explain_left_out(p, plan, d, &en->with[d], true);
    plan->solve_s = base_clock_s() - start_s;
out:
    base_free(en);
    return rc;
}
