/* part_plan_solve: which solver, for how long, and what may be claimed afterwards.
 *
 * Latency: a few hundred candidate columns go straight to the integer program. Beyond, local search
 * finds a plan, the Lagrangian bound says how good it is and which columns could beat it, and the
 * integer program settles what is left. Throughput (the slowest stage or link) is solved by asking
 * for one plan after another whose stages and links are all at most some cap: a bottleneck is
 * always the seconds of one run or one link, so a binary search over those values is exact, each
 * question is a far tighter program than a minimised maximum, and the answer at the last cap can be
 * the one of least latency.
 *
 * Invariant: lower_s never exceeds the true optimum, so gap 0 is a proof, however the time ran out.
 * Time is shared: the plan first, then, from what is left of the limit, one forced solve for each
 * device left out, which gives its reason; a forced plan that turns out better than the plan
 * replaces it. */
#include "partition/internal.h"

#include <stdlib.h>
#include <string.h>

/* Shares of the time that is left at each point. */
static const double share_plan = 0.7, share_search = 0.3, share_bound = 0.3, share_probe = 0.4;

/* Up to this many runs the integer program alone is quickest. */
enum { RUNS_SMALL = 256 };

/* Objectives closer than this, relatively, are equal. */
static const double equal_within = 1e-9;

struct solving {
    struct part_view *view;
    struct part_bound *bound;
    struct part_plan plan; /* the best so far; n_stages 0: none */
    double lower_s;
    double deadline_s;
};

static double from_now(double deadline_s, double share)
{
    double now_s = base_clock_s();
    return now_s + fmax(deadline_s - now_s, 0.0) * share;
}

/* Is there a plan within the cap? 0 with it in *plan, ERR_INFEASIBLE proven, ERR_TIMEOUT,
 * ERR_NOMEM. */
static int probe(struct solving *s, double cap_s, double deadline_s, struct part_plan *plan,
                 struct err *e)
{
    double lower_s;
    plan->n_stages = 0;
    part_view_cap(s->view, cap_s);
    if (!part_view_may_fit(s->view))
        return ERR_INFEASIBLE;
    int rc = part_milp_solve(s->view, NULL, PART_MILP_LOOSE, deadline_s, plan, &lower_s, e);
    if (plan->n_stages == 0 && rc != ERR_INFEASIBLE && rc != ERR_NOMEM)
        rc = part_milp_solve(s->view, NULL, PART_MILP_ANY, deadline_s, plan, &lower_s, e);
    if (plan->n_stages > 0)
        return 0;
    return rc == ERR_INFEASIBLE || rc == ERR_NOMEM ? rc : ERR_TIMEOUT;
}

/* A plan to start from; the same codes. */
static int first_plan(struct solving *s, struct err *e)
{
    if (part_search(s->view, from_now(s->deadline_s, share_search), &s->plan))
        return 0;
    return probe(s, PART_NEVER, from_now(s->deadline_s, share_probe), &s->plan, e);
}

/* Least latency within the view; the same codes. */
static int solve_latency(struct solving *s, struct err *e)
{
    const struct part_view *v = s->view;
    double lower_s = 0.0;
    int rc;
    const bool small = part_view_runs(v) <= RUNS_SMALL;
    s->lower_s = 0.0;
    if (!small) {
        if ((rc = first_plan(s, e)) != 0)
            return rc;
        part_bound_compute(v, s->plan.latency_s, from_now(s->deadline_s, share_bound), s->bound);
        s->lower_s = fmin(s->bound->value_s, s->plan.latency_s);
        if (s->lower_s >= s->plan.latency_s * (1.0 - equal_within))
            return 0;
    }
    rc = part_milp_solve(v, small ? NULL : s->bound, PART_MILP_BEST, s->deadline_s, &s->plan,
                         &lower_s, e);
    if (s->plan.n_stages == 0)
        return rc == ERR_INFEASIBLE || rc == ERR_NOMEM ? rc : ERR_TIMEOUT;
    if (rc == 0)
        s->lower_s = fmin(fmax(s->lower_s, lower_s), s->plan.latency_s);
    return 0;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The largest cap that is refuted by counting alone, by bisection; 0 where none is. */
static double counted_lower(struct part_view *v, double upper_s)
{
    double low_s = 0.0, high_s = upper_s;
    for (int k = 0; k < 50; k++) {
        double mid_s = low_s + (high_s - low_s) / 2.0;
        part_view_cap(v, mid_s);
        if (part_view_may_fit(v))
            high_s = mid_s;
        else
            low_s = mid_s;
    }
    return low_s;
}

/* Every value in (low_s, below_s) that a bottleneck can have, sorted. NULL: no memory. */
static double *list_caps(struct part_view *v, double low_s, double below_s, size_t *n)
{
    part_view_cap(v, below_s);
    double *caps =
        base_zalloc(part_view_runs(v) + PART_DEVICES_MAX * PART_DEVICES_MAX + 1, sizeof *caps);
    *n = 0;
    for (uint32_t d = 0; caps != NULL && d < v->n_devices; d++) {
        for (uint32_t i = 0; i < v->n_layers; i++)
            for (uint32_t j = v->near[d][i]; j <= v->reach[d][i]; j++) {
                caps[*n] = part_view_seconds(v, d, i, j);
                *n += caps[*n] >= low_s && caps[*n] < below_s ? 1 : 0;
            }
        for (uint32_t q = 0; q < v->n_devices; q++) {
            caps[*n] = v->busy_s[d][q];
            *n += caps[*n] >= low_s && caps[*n] < below_s ? 1 : 0;
        }
    }
    if (caps != NULL)
        qsort(caps, *n, sizeof *caps, by_value);
    return caps;
}

/* Least bottleneck within the view; the same codes. */
static int solve_slowest(struct solving *s, struct err *e)
{
    struct part_view *v = s->view;
    struct part_plan found;
    size_t n = 0;
    int rc;
    s->lower_s = 0.0;
    if (part_view_runs(v) <= RUNS_SMALL)
        rc = probe(s, PART_NEVER, s->deadline_s, &s->plan, e);
    else
        rc = first_plan(s, e);
    if (rc != 0)
        return rc;
    const double low_s = counted_lower(v, s->plan.bottleneck_s);
    double *caps = list_caps(v, low_s, s->plan.bottleneck_s * (1.0 - equal_within), &n);
    if (caps == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the planner's %zu candidate times", n);
    size_t low = 0, high = n; /* caps below `low` are refuted; `high` and above need no question */
    while (low < high && base_clock_s() < s->deadline_s) {
        const size_t mid = low + (high - low) / 2;
        rc = probe(s, caps[mid], from_now(s->deadline_s, share_probe), &found, e);
        if (rc == ERR_INFEASIBLE) {
            low = mid + 1;
            continue;
        }
        high = mid;
        if (found.n_stages > 0 && found.bottleneck_s < s->plan.bottleneck_s)
            s->plan = found;
    }
    s->lower_s = low < n ? fmin(caps[low], s->plan.bottleneck_s) : s->plan.bottleneck_s;
    base_free(caps);
    return 0;
}

/* Among plans as quick as the one found, one of low latency: the cap stays, the sum falls. */
static void settle_ties(struct solving *s)
{
    struct part_plan plan = s->plan;
    s->view->slowest = false;
    part_view_cap(s->view, s->plan.bottleneck_s * (1.0 + 1e-12));
    if (part_search(s->view, from_now(s->deadline_s, share_search), &plan) &&
        plan.bottleneck_s <= s->view->cap_s && plan.latency_s < s->plan.latency_s)
        s->plan = plan;
    s->view->slowest = true;
}

static int solve_view(struct solving *s, struct err *e)
{
    part_view_cap(s->view, PART_NEVER);
    if (!part_view_may_fit(s->view))
        return ERR_INFEASIBLE;
    return s->view->slowest ? solve_slowest(s, e) : solve_latency(s, e);
}

/* The reasons for the devices without layers, from what is left of the limit. True where a forced
 * plan was better than the plan, which it then replaces: the reasons have to be found again. */
static bool explain(struct solving *s, double deadline_s, struct part_plan *plan)
{
    const struct part_problem *p = s->view->p;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        bool has_layers = s->view->must[d];
        for (uint32_t k = 0; k < plan->n_stages; k++)
            has_layers = has_layers || plan->stages[k].members[0].device == d;
        if (has_layers)
            continue;
        s->view->must[d] = true;
        s->plan.n_stages = 0;
        s->deadline_s = from_now(deadline_s, 1.0 / (double)(p->n_devices - d));
        int rc = solve_view(s, NULL);
        s->view->must[d] = false;
        if (rc != 0)
            s->plan.n_stages = 0;
        const double with_s = part_plan_objective(p, &s->plan);
        if (rc == 0 && with_s < part_plan_objective(p, plan) * (1.0 - equal_within)) {
            *plan = s->plan;
            return true;
        }
        part_explain_left_out(p, plan, d, &s->plan,
                              rc == ERR_INFEASIBLE ||
                                  (rc == 0 && s->lower_s >= with_s * (1.0 - equal_within)));
    }
    return false;
}

static int failed(const struct part_problem *p, int rc, struct err *e)
{
    if (rc == ERR_INFEASIBLE)
        return part_explain_infeasible(p, e);
    if (rc == ERR_TIMEOUT)
        return err_set(e, rc, "no plan was found within %g s, nor shown to be impossible",
                       p->time_limit_s);
    return rc;
}

int part_plan_solve(const struct part_problem *p, struct part_plan *plan, struct err *e)
{
    const double start_s = base_clock_s(), end_s = start_s + p->time_limit_s;
    struct solving s = {0};
    int rc = part_problem_check(p, e);
    if (rc != 0)
        return rc;
    if (part_explain_impossible(p, e))
        return ERR_INFEASIBLE;
    s.view = base_zalloc(1, sizeof *s.view);
    s.bound = base_zalloc(1, sizeof *s.bound);
    if (s.view == NULL || s.bound == NULL) {
        rc = err_set(e, ERR_NOMEM, "no memory to plan");
        goto out;
    }
    part_view_init(s.view, p,
                   p->objective == PART_THROUGHPUT ? part_full_rows(p, p->n_devices) : 1.0);
    s.deadline_s = from_now(end_s, p->use_all ? 1.0 : share_plan);
    rc = solve_view(&s, e);
    if (rc != 0) {
        rc = failed(p, rc, e);
        goto out;
    }
    if (p->objective == PART_THROUGHPUT)
        settle_ties(&s);
    const double lower_s = s.lower_s;
    *plan = s.plan;
    while (explain(&s, end_s, plan))
        continue;
    const double objective_s = part_plan_objective(p, plan);
    plan->gap = objective_s > lower_s * (1.0 + equal_within) ? 1.0 - lower_s / objective_s : 0.0;
    plan->solve_s = base_clock_s() - start_s;
out:
    base_free(s.bound);
    base_free(s.view);
    return rc;
}
