/* The coordinator core: when boards have changed so much that the plan in force should.
 *
 * Two things are watched in the reports of those who serve. Memory: what a worker could have ten
 * seconds from now, by the slope of the last ten, against what the plan charges it; below that it is
 * relieved before it swaps or is killed. Speed: the time of a stage's passes against the prediction;
 * AGREE reports in a row that agree and are off by `slow` (or faster by as much) are taken for how
 * things are. All stages are looked at then, since predictions may be off alike. Of a team it is the
 * members whose CPU quota has changed that are slower, or, where none has, all of them.
 *
 * What was learnt goes into today's profile, which the planner is given, and into the prediction,
 * so that the same news is not news twice. The planner's answer replaces the plan in force under
 * the usual rules: where that does not fit any more, or is beaten by 5 % (core_plan.c). Between two
 * questions lies `dwell`, a fifth of it where memory runs short. Left out: the price of moving, which
 * happens while the old plan serves; and boards outside the plan, which tell nothing of their speed. */
#include "coordinator/core_private.h"

#include <math.h>

enum { AHEAD_S = 10, AGREE = 4, SHORT_SHARE = 5 };
static const double slow = 1.4, agree = 1.25, quota_change = 1.15;

/* Bytes that a worker can have before long: what is free, and what it has itself. Its weights are
 * mapped files, which count as free already. False: not known. */
static bool usable(const struct coord_core *c, uint32_t node, double *bytes)
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
        if (usable(c, i, &bytes) && bytes < (double)p->memory_bytes)
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
    if (!usable(c, node, &bytes) || bytes >= (double)c->nodes[node].planned_bytes)
        return false;
    coord_core_log(out, true, "memory_short name=%s usable=\"%s\" planned=\"%s\"",
                   c->config.workers[node].name,
                   base_bytes_text(bytes > 0 ? (uint64_t)bytes : 0, a),
                   base_bytes_text(c->nodes[node].planned_bytes, b));
    return true;
}

/* ---- speed ----------------------------------------------------------------------------------- */

/* How much slower the stage is than predicted, where its last reports agree on it; 0: they do not. */
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

/* What its quota makes of a worker's speed now, beside when it was measured. */
static double by_quota(const struct coord_core *c, uint32_t node)
{
    const struct watch_sample *s = coord_core_watched(c, node);
    const double then = c->profile.nodes[node].throttle;
    return s != NULL && s->share > 0 && then > 0 ? then / s->share : 1;
}

static void learn(struct coord_core *c, uint32_t stage, double ratio, struct coord_actions *out)
{
    const struct part_stage *g = &c->now.plan.stages[stage];
    bool some = false;
    for (uint32_t k = 0; k < g->n_members; k++) {
        const uint32_t i = g->members[k].device;
        const double known = c->slower[i] > 0 ? c->slower[i] : 1, now = by_quota(c, i);
        if (now > known * quota_change || now * quota_change < known) {
            c->slower[i] = now;
            c->share[i] = coord_core_watched(c, i)->share;
            some = true;
        }
    }
    for (uint32_t k = 0; k < g->n_members && !some; k++) {
        double *const slower = &c->slower[g->members[k].device];
        *slower = fmin(100, fmax(0.01, (*slower > 0 ? *slower : 1) * ratio));
    }
    c->now.stage_s[stage] *= ratio;
    c->now.stage_batch_s[stage] *= ratio;
    coord_core_log(out, true, "pace name=%s ratio=%.2f reason=\"%s\"",
                   c->config.workers[g->members[0].device].name, ratio,
                   some ? "a CPU quota has changed" : "passes take so much of the predicted time");
}

/* ---- both ------------------------------------------------------------------------------------ */

static void ask(struct coord_core *c)
{
    c->policy_ms = c->now_ms;
    c->plan_by_policy = true;
    coord_core_want_plan(c, 0, false);
}

void coord_core_policy(struct coord_core *c, uint32_t node, struct coord_actions *out)
{
    const int64_t since_ms = c->now_ms - c->policy_ms, dwell_ms = c->config.dwell_ms;
    uint32_t member;
    if (c->config.policy == NET_STATIC || c->plan_state != PLAN_IDLE || c->plan_wanted ||
        !coord_core_in_plan(&c->now, node))
        return;
    const uint32_t stage = part_plan_find(&c->now.plan, node, &member);
    const double ratio = since_ms >= dwell_ms && member == 0 ? slowness(c, node) : 0;
    const bool off = ratio > slow || (ratio > 0 && ratio < 1 / slow);
    if (since_ms >= dwell_ms / SHORT_SHARE && runs_short(c, node, out)) {
        ask(c);
    } else if (off) {
        for (uint32_t s = 0; s < c->now.plan.n_stages; s++) {
            const double r =
                s == stage ? ratio : slowness(c, c->now.plan.stages[s].members[0].device);
            if (r > 0)
                learn(c, s, r, out);
        }
        ask(c);
    }
}
