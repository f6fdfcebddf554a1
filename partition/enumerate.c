/* Every plan, tried: ordered lists of disjoint teams, their leaders and shapes, the cuts between
 * them, both places of the output matrix, and every division of every team's units. The judge of
 * every other solver here, so it is written to be obviously right: a stage's seconds and memory come
 * from part_stage_seconds and part_member_memory, a ring's objective from part_plan_cost and
 * part_plan_fits, without bounds. Only one thing is taken apart: as a plan costs nothing but its
 * stages and hand-overs, and no less where a stage takes longer, each stage's divisions are tried
 * first and those kept that no other beats in all passes that count.
 *
 * For each device it also keeps the best ring that includes it, from which the reasons in left_out
 * follow. */
#include "partition/internal.h"

#include <string.h>

enum { ENUM_DEVICES_MAX = 4, ENUM_LAYERS_MAX = 10, ENUM_KEPT_MAX = 16 };

/* Divisions of one stage that none beats. */
struct kept {
    uint32_t n;
    struct part_stage at[ENUM_KEPT_MAX];
    double s[ENUM_KEPT_MAX][PART_DEVICES_MAX + 2];
};

struct enumeration {
    const struct part_problem *p;
    bool broken;                             /* no memory */
    struct part_plan now;                    /* the ring being built */
    struct part_plan best;                   /* n_stages 0: none yet */
    struct part_plan with[PART_DEVICES_MAX]; /* the best ring that uses device d */
    /* by devices, leader, layers and whether the output matrix is there; NULL: not tried yet */
    struct kept
        *kept[1 << ENUM_DEVICES_MAX][ENUM_DEVICES_MAX][ENUM_LAYERS_MAX][ENUM_LAYERS_MAX + 1][2];
};

static void keep_better(const struct part_problem *p, const struct part_plan *plan,
                        struct part_plan *best)
{
    if (best->n_stages == 0 || part_plan_objective(p, plan) < part_plan_objective(p, best))
        *best = *plan;
}

/* Seconds for every number of rows that may count. */
static uint32_t seconds_of(const struct part_problem *p, const struct part_stage *s, double *out)
{
    uint32_t n = 0;
    if (p->objective != PART_THROUGHPUT)
        out[n++] = part_stage_seconds(p, s, 1.0);
    for (uint32_t k = 1; p->objective != PART_LATENCY && k <= p->n_devices; k++)
        if (k == 1 || part_full_rows(p, k) != part_full_rows(p, k - 1))
            out[n++] = part_stage_seconds(p, s, part_full_rows(p, k));
    if (p->ttft_max_s > 0.0)
        out[n++] = part_stage_prompt_seconds(p, s);
    return n;
}

static void keep_stage(const struct part_problem *p, const struct part_stage *s, struct kept *all)
{
    double now[PART_DEVICES_MAX + 2];
    const uint32_t n = seconds_of(p, s, now);
    uint32_t left = 0;
    for (uint32_t q = 0; q < all->n; q++) {
        bool beats = true;
        for (uint32_t m = 0; m < n; m++)
            beats = beats && all->s[q][m] <= now[m];
        if (beats)
            return;
    }
    for (uint32_t q = 0; q < all->n; q++) {
        bool beaten = true;
        for (uint32_t m = 0; m < n; m++)
            beaten = beaten && now[m] <= all->s[q][m];
        if (beaten)
            continue;
        all->at[left] = all->at[q];
        memcpy(all->s[left++], all->s[q], sizeof all->s[q]);
    }
    left = left < ENUM_KEPT_MAX ? left : ENUM_KEPT_MAX - 1;
    all->at[left] = *s;
    memcpy(all->s[left], now, sizeof now);
    all->n = left + 1;
}

static bool stage_fits(const struct part_problem *p, const struct part_stage *s)
{
    for (uint32_t k = 0; k < s->n_members; k++) {
        const struct part_member *m = &s->members[k];
        const struct part_device *dev = &p->devices[m->device];
        if ((m->head1 == m->head0 && m->ff1 == m->ff0 && m->run1 == m->run0) ||
            (dev->pin_heads >= 0 && m->head1 - m->head0 != (uint32_t)dev->pin_heads) ||
            (dev->pin_ff >= 0 && m->ff1 - m->ff0 != (uint32_t)dev->pin_ff) ||
            part_member_memory(p, s, k) > dev->memory_bytes)
            return false;
    }
    return true;
}

/* Every division from member k on; the ranges before it are set. */
static void divide(const struct part_problem *p, struct part_stage *s, uint32_t k, bool output,
                   struct kept *all)
{
    const uint32_t runs = output ? p->n_vocab_runs : 0;
    const uint32_t head0 = k > 0 ? s->members[k - 1].head1 : 0;
    const uint32_t ff0 = k > 0 ? s->members[k - 1].ff1 : 0;
    const uint32_t run0 = k > 0 ? s->members[k - 1].run1 : 0;
    const bool last = k + 1 == s->n_members;
    if (k == s->n_members) {
        if (stage_fits(p, s))
            keep_stage(p, s, all);
        return;
    }
    struct part_member *m = &s->members[k];
    for (uint32_t head1 = last ? p->n_head_units : head0; head1 <= p->n_head_units; head1++)
        for (uint32_t ff1 = last ? p->n_ff_units : ff0; ff1 <= p->n_ff_units; ff1++)
            for (uint32_t run1 = last ? runs : run0; run1 <= runs; run1++) {
                *m = (struct part_member){m->device, head0, head1, ff0, ff1, run0, run1};
                divide(p, s, k + 1, output, all);
            }
}

static void try_plan(struct enumeration *en)
{
    struct part_plan *now = &en->now;
    part_plan_cost(en->p, now);
    if (!part_plan_fits(en->p, now))
        return;
    keep_better(en->p, now, &en->best);
    for (uint32_t d = 0; d < en->p->n_devices; d++)
        if (part_plan_find(now, d, NULL) < now->n_stages)
            keep_better(en->p, now, &en->with[d]);
}

/* Every division of a team for layers [cut, to), in both shapes. */
static const struct kept *stages_of(struct enumeration *en, uint32_t cut, uint32_t to,
                                    uint32_t mask, uint32_t leader, bool output)
{
    const struct part_problem *p = en->p;
    struct kept **at = &en->kept[mask][leader][cut][to][output ? 1 : 0];
    if (*at != NULL)
        return *at;
    *at = base_zalloc(1, sizeof **at);
    for (int shape = 0; *at != NULL && shape < 2; shape++) {
        struct part_stage s = {.layer0 = cut,
                               .layer1 = to,
                               .shape = shape == 0 ? PART_STAR : PART_MESH,
                               .n_members = 1,
                               .members = {{.device = leader}}};
        for (uint32_t d = 0; d < p->n_devices; d++)
            if ((mask >> d & 1) != 0 && d != leader)
                s.members[s.n_members++].device = d;
        if (s.n_members == 1 ? shape == 0 : part_shape_wanted(p, s.shape))
            divide(p, &s, 0, output, *at);
    }
    en->broken = en->broken || *at == NULL;
    return *at;
}

static void extend(struct enumeration *en, uint32_t cut, uint32_t used);

/* The next stage is this team on [cut, to). */
static void extend_with(struct enumeration *en, uint32_t cut, uint32_t to, uint32_t mask,
                        uint32_t leader, uint32_t used)
{
    const struct part_problem *p = en->p;
    const bool output = en->now.output_first ? cut == 0 : to == p->n_layers;
    if (en->now.output_first && cut == 0 && to == p->n_layers)
        return; /* one stage is the other place of the output matrix too */
    const struct kept *all = stages_of(en, cut, to, mask, leader, output);
    for (uint32_t q = 0; all != NULL && q < all->n; q++) {
        en->now.stages[en->now.n_stages++] = all->at[q];
        if (to == p->n_layers)
            try_plan(en);
        else
            extend(en, to, used | mask);
        en->now.n_stages--;
    }
}

static void extend(struct enumeration *en, uint32_t cut, uint32_t used)
{
    const struct part_problem *p = en->p;
    for (uint32_t mask = 1; mask < 1u << p->n_devices; mask++) {
        const bool team = (mask & (mask - 1)) != 0;
        if ((mask & used) != 0 || (team && p->granularity == PART_LAYERS))
            continue;
        for (uint32_t d = 0; d < p->n_devices; d++)
            for (uint32_t to = cut + 1; (mask >> d & 1) != 0 && to <= p->n_layers; to++)
                if (to == p->n_layers ||
                    (p->granularity != PART_HEADS && (used | mask) != (1u << p->n_devices) - 1))
                    extend_with(en, cut, to, mask, d, used);
    }
}

static void free_kept(struct enumeration *en)
{
    struct kept **all = &en->kept[0][0][0][0][0];
    for (size_t k = 0; k < sizeof en->kept / sizeof *all; k++)
        base_free(all[k]);
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
    for (int first = 0; first < 2; first++) {
        en->now.output_first = first == 1;
        extend(en, 0, 0);
    }
    if (en->broken) {
        rc = err_set(e, ERR_NOMEM, "no memory to enumerate plans");
        goto out;
    }
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
    free_kept(en);
    base_free(en);
    return rc;
}
