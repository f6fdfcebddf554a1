/* part_plan_solve: which solver, for how long, and what may be claimed afterwards.
 *
 * With all slots in use the rows of a pass depend on the number of stages, so such objectives are
 * solved for each number of stages; latency alone needs one question. Each question is asked twice,
 * with the output matrix on the last and on the first stage. Local search finds a plan. Where every
 * division of every team can be listed (part_team_small), the Lagrangian bound says which columns
 * could beat it and the master program settles what is left. In larger problems the published
 * algorithms give a first plan and the relaxed program over kinds of devices bounds every number of
 * stages, first without memory, and closer once a search had a glance; numbers that cannot beat the plan
 * are skipped.
 *
 * Invariant: lower never exceeds the true optimum, so gap 0 is a proof, however the time ran out.
 * Time is shared: the plan first, then, from what is left of the limit, one forced solve for each
 * device left out, which gives its reason; a forced plan that turns out better than the plan
 * replaces it. */
#include "partition/internal.h"

#include <string.h>

/* Shares of the time that is left at each point. */
static const double share_plan = 0.85, share_search = 0.4, share_bound = 0.3, share_step = 0.35,
                    share_begin = 0.15, share_close = 0.25, share_last = 0.8;

struct solving {
    const struct part_problem *p;
    uint32_t must; /* devices forced in, besides the problem's own */
    bool exact;
    struct part_bound *bound;
    struct part_relax *relax; /* NULL in small problems, forced questions, where nobody wants a bound,
                                 and without memory */
    struct part_plan plan;    /* the best so far; n_stages 0: none */
    double lower;             /* PART_NEVER: there is no plan */
    double deadline_s;
};

/* Up to this many the view's own program is quickest alone. */
enum { SMALL_DEVICES = 4 };

/* One number of stages, what is known of it, and the next step to learn more. */
enum step { STEP_BOUND, STEP_GLANCE, STEP_CLOSE, STEP_SEARCH, STEP_AGAIN, STEP_DONE };
struct question {
    uint32_t n_stages; /* 0: any */
    double lower;
    enum step step;
};

static double from_now(double deadline_s, double share)
{
    double now_s = base_clock_s();
    return now_s + fmax(deadline_s - now_s, 0.0) * share;
}

static double known(const struct solving *s)
{
    return s->plan.n_stages > 0 ? part_plan_objective(s->p, &s->plan) : PART_NEVER;
}

static bool closed(const struct solving *s, double lower)
{
    return lower >= known(s) * (1.0 - PART_EQUAL_WITHIN);
}

/* What the view's own solvers can prove: *lower is raised. */
static int prove(struct solving *s, const struct part_view *v, double deadline_s, double *lower,
                 struct err *e)
{
    double found = 0.0;
    if (s->plan.n_stages > 0) {
        part_bound_compute(v, known(s), from_now(deadline_s, share_bound), s->bound);
        *lower = fmax(*lower, s->bound->value_s);
        if (closed(s, *lower))
            return 0;
    }
    const double upper = known(s);
    const int rc = part_milp_solve(v, s->bound, deadline_s, &s->plan, &found, e);
    if (rc == ERR_INFEASIBLE)
        *lower = upper;
    else if (rc == 0)
        *lower = fmax(*lower, found);
    return rc == ERR_NOMEM ? rc : 0;
}

/* One question with the output matrix in one place. */
static int ask(struct solving *s, uint32_t n_stages, bool output_first, double deadline_s,
               double *lower, struct err *e)
{
    struct part_view v;
    part_view_init(&v, s->p, n_stages, output_first);
    v.must |= s->must;
    int rc =
        part_search(&v, s->exact, from_now(deadline_s, s->exact ? share_search : 1.0), &s->plan);
    if (rc == ERR_NOMEM)
        err_set(e, rc, "no memory for the planner's teams");
    else if (s->exact)
        rc = prove(s, &v, deadline_s, lower, e);
    else
        rc = 0;
    part_view_deinit(&v);
    return rc;
}

static uint32_t list_questions(const struct solving *s, struct question *q)
{
    const struct part_problem *p = s->p;
    const enum step first = s->relax != NULL ? STEP_BOUND : STEP_SEARCH;
    uint32_t n = 0;
    if (p->objective == PART_LATENCY) {
        q[n++] = (struct question){0, 0.0, first};
    } else {
        for (uint32_t k = 1; k <= p->n_devices && k <= p->n_layers; k++)
            if (k == 1 || p->granularity != PART_HEADS)
                q[n++] = (struct question){k, 0.0, first};
    }
    return n;
}

/* Both places of the output matrix. */
static int search(struct solving *s, struct question *q, double deadline_s, struct err *e)
{
    const bool one = q->n_stages == 1 || s->p->granularity == PART_HEADS || s->p->n_devices == 1;
    double lower[2] = {q->lower, one ? PART_NEVER : q->lower};
    int rc = 0;
    for (int first = 0; rc == 0 && first < (one ? 1 : 2); first++)
        rc = ask(s, q->n_stages, first == 1, from_now(deadline_s, one || first == 1 ? 1.0 : 0.6),
                 &lower[first], e);
    q->lower = fmin(lower[0], lower[1]);
    return rc;
}

/* Learn more of a question. */
static int take_step(struct solving *s, struct question *q, double deadline_s, struct err *e)
{
    const enum step step = q->step++;
    if (step == STEP_BOUND)
        q->lower = fmax(q->lower, part_relax_sum(s->relax, q->n_stages));
    /* Again: with a better plan there is less to look at, so there may be time for it now. */
    if (step == STEP_CLOSE || (step == STEP_AGAIN && s->relax != NULL))
        q->lower = fmax(q->lower, part_relax_close(s->relax, q->n_stages, known(s), deadline_s));
    /* Where latency is all, the search has begun already. */
    if (step == STEP_BOUND || step == STEP_CLOSE || step == STEP_AGAIN ||
        (step == STEP_GLANCE && s->p->objective == PART_LATENCY))
        return 0;
    return search(s, q, deadline_s, e);
}

/* The best plan within the deadline: always a step further with the question that may still hold the
 * best one. 0, ERR_INFEASIBLE proven, ERR_TIMEOUT, ERR_NOMEM. */
static int solve_questions(struct solving *s, struct err *e)
{
    struct question q[PART_DEVICES_MAX];
    const uint32_t n = list_questions(s, q);
    for (;;) {
        uint32_t next = n, open = 0;
        for (uint32_t k = 0; k < n; k++) {
            if (q[k].step == STEP_DONE || closed(s, q[k].lower))
                continue;
            open++;
            if (next == n || q[k].lower < q[next].lower ||
                (q[k].lower == q[next].lower && q[k].n_stages == s->plan.n_stages))
                next = k;
        }
        if (next == n || (s->plan.n_stages > 0 && base_clock_s() >= s->deadline_s))
            break;
        const enum step step = q[next].step;
        const double share = step == STEP_AGAIN    ? 1.0
                             : step == STEP_CLOSE  ? share_close
                             : step == STEP_SEARCH ? open == 1 ? share_last : share_step
                                                   : 0.5 / open;
        const int rc = take_step(s, &q[next], from_now(s->deadline_s, share), e);
        if (rc != 0)
            return rc;
        if (s->plan.n_stages == 0 && base_clock_s() >= s->deadline_s && q[next].step > STEP_GLANCE)
            break;
    }
    s->lower = PART_NEVER;
    for (uint32_t k = 0; k < n; k++)
        s->lower = fmin(s->lower, q[k].lower);
    if (s->plan.n_stages == 0)
        return s->lower == PART_NEVER ? ERR_INFEASIBLE : ERR_TIMEOUT;
    s->lower = fmin(s->lower, known(s));
    return 0;
}

static void begin_with_given(struct solving *s)
{
    if (s->p->begin == NULL)
        return;
    struct part_plan given = *s->p->begin;
    part_plan_cost(s->p, &given);
    if (part_plan_fits(s->p, &given))
        s->plan = given;
}

/* What published algorithms find is where a large search begins, so it never ends above them. */
static void begin_with_published(struct solving *s)
{
    struct part_plan found;
    for (int a = PART_EVEN; a < PART_ALGORITHMS; a++)
        if (part_algorithm_run((enum part_algorithm)a, s->p, &found, NULL) == 0 &&
            (s->plan.n_stages == 0 || part_plan_objective(s->p, &found) < known(s)))
            s->plan = found;
}

/* A ring of low latency, for whatever number of stages, is a good place to begin for the others; and the
 * better the plan, the sooner the bound has looked at all that could be better. */
static void begin_with_latency(struct solving *s)
{
    struct part_problem *p = base_alloc(sizeof *p);
    struct part_view v;
    if (p == NULL)
        return;
    *p = *s->p;
    p->objective = PART_LATENCY;
    part_view_init(&v, p, 0, false);
    struct part_plan found = s->plan;
    if (part_search(&v, s->exact, from_now(s->deadline_s, share_begin), &found) == 0 &&
        found.n_stages > 0) {
        part_plan_cost(s->p, &found);
        if (part_plan_objective(s->p, &found) < known(s))
            s->plan = found;
    }
    part_view_deinit(&v);
    base_free(p);
}

static int solve_all(struct solving *s, struct err *e)
{
    const bool large = (!s->exact || s->p->n_devices > SMALL_DEVICES) && s->must == 0;
    s->relax = large && !s->p->search_only ? part_relax_new(s->p) : NULL;
    if (s->must == 0)
        begin_with_given(s);
    if (large)
        begin_with_published(s);
    if (large)
        begin_with_latency(s);
    const int rc = solve_questions(s, e);
    part_relax_free(s->relax);
    return rc;
}

/* The reasons for the devices without work, from what is left of the limit. True where a forced
 * plan was better than the plan, which it then replaces: the reasons have to be found again. */
static bool explain(struct solving *s, double deadline_s, struct part_plan *plan)
{
    const struct part_problem *p = s->p;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        if (part_plan_find(plan, d, NULL) < plan->n_stages)
            continue;
        s->must = 1u << d;
        s->plan.n_stages = 0;
        s->deadline_s = from_now(deadline_s, 1.0 / (double)(p->n_devices - d));
        const int rc = base_clock_s() < deadline_s ? solve_all(s, NULL) : ERR_TIMEOUT;
        s->must = 0;
        if (rc != 0)
            s->plan.n_stages = 0;
        const double with = known(s);
        if (rc == 0 && with < part_plan_objective(p, plan) * (1.0 - PART_EQUAL_WITHIN)) {
            *plan = s->plan;
            return true;
        }
        part_explain_left_out(p, plan, d, &s->plan,
                              rc == ERR_INFEASIBLE || (rc == 0 && closed(s, s->lower)));
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
    struct solving s = {.p = p};
    int rc = part_problem_check(p, e);
    if (rc != 0)
        return rc;
    if (part_explain_impossible(p, e))
        return ERR_INFEASIBLE;
    s.bound = base_zalloc(1, sizeof *s.bound);
    if (s.bound == NULL)
        return err_set(e, ERR_NOMEM, "no memory to plan");
    s.exact = part_team_small(p);
    s.deadline_s = from_now(end_s, p->use_all ? 1.0 : share_plan);
    rc = solve_all(&s, e);
    if (rc != 0) {
        rc = failed(p, rc, e);
        goto out;
    }
    const double lower = s.lower;
    *plan = s.plan;
    memset(plan->left_out, 0, sizeof plan->left_out);
    while (explain(&s, end_s, plan))
        continue;
    const double objective = part_plan_objective(p, plan);
    plan->gap = objective > lower * (1.0 + PART_EQUAL_WITHIN) ? 1.0 - lower / objective : 0.0;
    plan->solve_s = base_clock_s() - start_s;
out:
    base_free(s.bound);
    return rc;
}
