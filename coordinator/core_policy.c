/* The coordinator core: when boards have changed so much that the plan in force should.
 *
 * Two things are watched in the reports of those who serve. Memory: what a worker could have ten
 * seconds from now, by the slope of the last ten, against what the plan charges it; below that it is
 * relieved before it swaps or is killed. Speed: the time of a stage's passes against the prediction,
 * beside that of the stage whose prediction is nearest to right. What slows all stages alike, such as
 * a text that grows, for which attention takes longer, is no news of a board; of a plan with one
 * stage there is nothing else to look at.
 *
 * How long a stage must be off is a cumulative sum (Page, Continuous inspection schemes, Biometrika
 * 41, 1954): each report adds the logarithm of how far it is beyond `slow`, and takes away by as much
 * where it is within, down to 0. At `enough` the news is believed: a few reports of a quota cut to a
 * third, a minute of what is hardly beyond. The last AGREE reports then say how far the stage is off,
 * if they agree. Stages that are not off keep their numbers. Of a team it is the members whose CPU
 * quota has changed that are slower, or, where none has, all of them.
 *
 * What was learnt goes into today's profile, which the planner is given, and into the prediction,
 * so that the same news is not news twice. The planner's answer replaces the plan in force under
 * the usual rules: where that does not fit any more, or is beaten by so much that the move is worth
 * it (core_plan.c, core_price.c). Between two questions lies `dwell`, a fifth of it where memory runs
 * short. Left out: boards outside the plan, which tell nothing of their speed. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

enum { AHEAD_S = 10, AGREE = 4, SHORT_SHARE = 5 };
static const double slow = 1.4, agree = 1.25, quota_change = 1.15, enough = 3.0;

bool coord_core_usable(const struct coord_core *c, uint32_t node, double *bytes)
{
    double slope;
    if (!coord_core_memory(c, node, bytes, &slope))
        return false;
    *bytes += fmin(0, slope) * AHEAD_S;
    return true;
}

void coord_core_today(const struct coord_core *c, struct coord_profile *out)
{
    *out = c->profile;
    for (uint32_t i = 0; i < c->config.n_workers; i++) {
        struct coord_node_profile *p = &out->nodes[i];
        const double slower = c->slower[i] > 0 ? c->slower[i] : 1;
        double bytes;
        if (coord_core_usable(c, i, &bytes) && bytes < (double)p->memory_bytes)
            p->memory_bytes = bytes > 0 ? (uint64_t)bytes : 0;
        p->throttle = c->share[i] > 0 ? c->share[i] : p->throttle;
        for (uint32_t b = 0; b < COORD_BATCHES; b++) {
            struct coord_batch *t = &p->batches[b];
            for (uint32_t l = 0; l < out->n_layers; l++) {
                t->attention[l] *= slower;
                t->ffn[l] *= slower;
            }
            t->attention_fixed *= slower;
            t->ffn_fixed *= slower;
            t->embed *= slower;
            t->output *= slower;
        }
    }
}

void coord_core_policy_forget(struct coord_core *c, uint32_t node)
{
    c->slower[node] = c->share[node] = 0;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static bool runs_short(struct coord_core *c, uint32_t node, struct coord_actions *out)
{
    char a[24], b[24];
    double bytes;
    if (!coord_core_usable(c, node, &bytes) || bytes >= (double)c->nodes[node].planned_bytes)
        return false;
    coord_core_log(out, true, "memory_short name=%s usable=\"%s\" planned=\"%s\"",
                   c->config.workers[node].name,
                   base_bytes_text(bytes > 0 ? (uint64_t)bytes : 0, a),
                   base_bytes_text(c->nodes[node].planned_bytes, b));
    return true;
}

/* ---- speed ----------------------------------------------------------------------------------- */

/* How much slower than predicted the stage's passes of the last report were; 0: not known. */
static double last_ratio(const struct coord_core *c, uint32_t leader)
{
    const struct watch_sample *s = coord_core_watched(c, leader);
    return s != NULL && s->epoch == c->now.epoch && !isnan(s->ratio) ? s->ratio : 0;
}

/* The same of its last reports, where they agree on it; 0: they do not. */
static double slowness(const struct coord_core *c, uint32_t leader)
{
    const struct watch *w = &c->nodes[leader].watch;
    double low = INFINITY, high = 0, sum = 0;
    for (uint32_t i = 0; i < AGREE; i++) {
        if (i >= w->n)
            return 0;
        const struct watch_sample *s = &w->samples[(w->n - 1 - i) % WATCH_SAMPLES];
        if (s->epoch != c->now.epoch || isnan(s->ratio))
            return 0;
        low = fmin(low, s->ratio);
        high = fmax(high, s->ratio);
        sum += s->ratio;
    }
    return high <= agree * low ? sum / AGREE : 0;
}

/* What slows all: the figure nearest to 1 of the stages that have one; where there is but one stage,
 * 1. 0: not known. */
static double common(const struct coord_core *c,
                     double (*figure)(const struct coord_core *c, uint32_t leader))
{
    double nearest = 0;
    uint32_t n = 0;
    for (uint32_t s = 0; s < c->now.plan.n_stages; s++) {
        const double r = figure(c, c->now.plan.stages[s].members[0].device);
        n += r > 0;
        if (r > 0 && (nearest <= 0 || fabs(log(r)) < fabs(log(nearest))))
            nearest = r;
    }
    return c->now.plan.n_stages == 1 ? 1 : n > 1 ? nearest : 0;
}

static bool is_off(double ratio)
{
    return ratio > slow || (ratio > 0 && ratio < 1 / slow);
}

/* The report that has just come, added to what speaks for the stage's being slower or faster. */
static void gather(struct coord_core *c, uint32_t leader)
{
    double *const sum = c->nodes[leader].watch.evidence;
    const double ratio = last_ratio(c, leader), all = common(c, last_ratio);
    if (ratio <= 0 || all <= 0)
        return;
    const double beyond = log(ratio / all);
    sum[0] = fmin(enough, fmax(0, sum[0] + beyond - log(slow)));
    sum[1] = fmin(enough, fmax(0, sum[1] - beyond - log(slow)));
}

/* How many times smaller a worker's CPU quota is than the planner has it; 1: about the same. */
static double quota_cut(const struct coord_core *c, uint32_t node)
{
    const struct watch_sample *s = coord_core_watched(c, node);
    const double then = c->share[node] > 0 ? c->share[node] : c->profile.nodes[node].throttle;
    const double cut = s != NULL && s->share > 0 && then > 0 ? then / s->share : 1;
    return cut > quota_change || cut * quota_change < 1 ? cut : 1;
}

static void is_slower(struct coord_core *c, uint32_t node, double times)
{
    double *const slower = &c->slower[node];
    *slower = fmin(100, fmax(0.01, (*slower > 0 ? *slower : 1) * times));
}

static void learn(struct coord_core *c, uint32_t stage, double ratio, struct coord_actions *out)
{
    const struct part_stage *g = &c->now.plan.stages[stage];
    bool some = false;
    for (uint32_t k = 0; k < g->n_members; k++) {
        const uint32_t i = g->members[k].device;
        const double cut = quota_cut(c, i);
        if (cut > 1 || cut < 1) {
            is_slower(c, i, cut);
            c->share[i] = coord_core_watched(c, i)->share;
            some = true;
        }
    }
    for (uint32_t k = 0; k < g->n_members && !some; k++)
        is_slower(c, g->members[k].device, ratio);
    struct watch *w = &c->nodes[g->members[0].device].watch;
    memset(w->evidence, 0, sizeof w->evidence);
    c->now.stage_s[stage] *= ratio;
    c->now.stage_batch_s[stage] *= ratio;
    coord_core_log(out, true, "pace name=%s ratio=%.2f reason=\"%s\"",
                   c->config.workers[g->members[0].device].name, ratio,
                   some ? "a CPU quota has changed"
                        : "passes take so much of the predicted time, beside the others'");
}

/* ---- both ------------------------------------------------------------------------------------ */

static void ask(struct coord_core *c)
{
    c->policy_ms = c->now_ms;
    c->plan_by_policy = true;
    coord_core_want_plan(c, 0, false);
}

/* Stages are off: take their reports for how things are. False: nothing is certain. */
static bool news(struct coord_core *c, uint32_t leader, struct coord_actions *out)
{
    const double *sum = c->nodes[leader].watch.evidence;
    const double all = common(c, slowness);
    if (fmax(sum[0], sum[1]) < enough || all <= 0 || !is_off(slowness(c, leader) / all))
        return false;
    for (uint32_t s = 0; s < c->now.plan.n_stages; s++) {
        const double r = slowness(c, c->now.plan.stages[s].members[0].device) / all;
        if (is_off(r))
            learn(c, s, r, out);
    }
    return true;
}

void coord_core_policy(struct coord_core *c, uint32_t node, struct coord_actions *out)
{
    const int64_t since_ms = c->now_ms - c->policy_ms, dwell_ms = c->config.dwell_ms;
    uint32_t member;
    if (c->config.policy == NET_STATIC || !coord_core_in_plan(&c->now, node))
        return;
    (void)part_plan_find(&c->now.plan, node, &member);
    if (member == 0)
        gather(c, node);
    if (c->plan_state != PLAN_IDLE || c->plan_wanted)
        return;
    if ((since_ms >= dwell_ms / SHORT_SHARE && runs_short(c, node, out)) ||
        (since_ms >= dwell_ms && member == 0 && news(c, node, out)))
        ask(c);
}
