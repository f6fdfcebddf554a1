/* The coordinator core: plans, from wanting one to having it in force.
 *
 * A plan is wanted when the set of measured workers changes or the ring breaks. It is solved by the
 * planner (outside, since that takes time), then prepared: each worker is sent PLAN and MANIFEST,
 * fetches what it lacks and loads beside the plan in force, which serves on. When all are ready
 * COMMIT puts the new epoch in force, and the requests that were in the old ring are opened again
 * with the tokens they have: by the canonical numerics the same KV rows and the same text
 * (docs/numerics.md). When a worker of the plan in force is lost the ring is broken at once: its
 * requests wait, keeping their tokens, until the survivors have a plan.
 *
 * A first plan waits JOIN_WAIT_MS for workers that have not come. One that is no better than the
 * plan in force, by 5 %, is not put in force, unless the ring is broken or `use: all` asks for a
 * new worker. Each wait has a deadline; a failed preparation names its worker, which is then left
 * out for a while. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

uint32_t coord_core_chunk_max(const struct net_config *c)
{
    return c->chunk != 0 ? c->chunk : CHUNK_DEFAULT;
}

uint32_t coord_core_rows_max(const struct net_config *c, uint32_t chunk)
{
    return chunk + c->slots < MODEL_ROWS_MAX ? chunk + c->slots : MODEL_ROWS_MAX;
}

bool coord_core_in_plan(const struct ring_plan *p, uint32_t node)
{
    for (uint32_t s = 0; p->epoch != 0 && s < p->plan.n_stages; s++)
        if (p->plan.stages[s].members[0].device == node)
            return true;
    return false;
}

void coord_core_want_plan(struct coord_core *c, int64_t delay_ms, bool forced)
{
    c->plan_wanted = true;
    c->plan_forced = c->plan_forced || forced;
    if (c->plan_at_ms < c->now_ms + delay_ms)
        c->plan_at_ms = c->now_ms + delay_ms;
}

/* The ring does not carry rows any more: no plan is in force until the next COMMIT. */
void coord_core_ring_broken(struct coord_core *c, const char *why, struct coord_actions *out)
{
    if (c->now.epoch == 0)
        return;
    coord_core_log(out, true, "ring_broken epoch=%llx reason=\"%s\"",
                   (unsigned long long)c->now.epoch, why);
    coord_core_requeue(c);
    c->now.epoch = 0;
    c->no_plan_since_ms = c->now_ms;
    snprintf(c->waits, sizeof c->waits, "a new plan: %s", why);
    coord_core_want_plan(c, SETTLE_MS, true);
}

static void drop_next(struct coord_core *c)
{
    c->next.epoch = 0;
    c->plan_state = PLAN_IDLE;
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        c->nodes[i].prepared = false;
}

void coord_core_plan_node_lost(struct coord_core *c, uint32_t node, const char *why,
                               struct coord_actions *out)
{
    if (c->plan_state == PLAN_PREPARING && coord_core_in_plan(&c->next, node)) {
        drop_next(c);
        coord_core_want_plan(c, SETTLE_MS, c->now.epoch == 0);
    }
    if (coord_core_in_plan(&c->now, node)) {
        char text[300];
        snprintf(text, sizeof text, "worker %s was lost (%.200s)", c->config.workers[node].name,
                 why);
        coord_core_ring_broken(c, text, out);
    }
    /* The planner may be at work on a cluster with this worker in it. */
    if (c->plan_state == PLAN_SOLVING) {
        c->plan_state = PLAN_IDLE;
        c->serial++;
        coord_core_want_plan(c, SETTLE_MS, c->now.epoch == 0);
    }
}

/* ---- asking for a plan ----------------------------------------------------------------------- */

static bool may_serve(const struct coord_core *c, uint32_t i)
{
    return c->nodes[i].state == NODE_MEASURED && !c->config.workers[i].exclude &&
           c->nodes[i].avoid_until_ms <= c->now_ms;
}

static uint32_t present_now(const struct coord_core *c)
{
    uint32_t present = 0;
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        present |= may_serve(c, i) ? 1u << i : 0u;
    return present;
}

/* Names of the workers that a plan would like to wait for; returns their number. */
static uint32_t missing(const struct coord_core *c, char *names, size_t max)
{
    uint32_t n = 0;
    names[0] = 0;
    for (uint32_t i = 0; i < c->config.n_workers; i++) {
        if (c->config.workers[i].exclude || may_serve(c, i))
            continue;
        const size_t len = strlen(names);
        /* One that is here but failed says why. */
        const bool failed = c->nodes[i].connected && c->nodes[i].avoid_until_ms > c->now_ms;
        snprintf(names + len, max - len, "%s%s%s%.150s%s", n > 0 ? ", " : "",
                 c->config.workers[i].name, failed ? " (" : "",
                 failed ? c->nodes[i].last_error : "", failed ? ")" : "");
        n++;
    }
    return n;
}

/* Requests do not wait for ever for a plan that will not come. As long as there is somebody to try
 * again with, one may: that a plan failed late, since a worker was lost while shards were shipped,
 * is no reason to give up. */
static void fail_hopeless(struct coord_core *c, uint32_t present, struct coord_actions *out)
{
    char why[360];
    if (c->now.epoch != 0 || c->plan_state != PLAN_IDLE || c->task.kind != TASK_NONE ||
        (c->plan_wanted && present != 0 && !c->hopeless))
        return;
    const int64_t since = c->no_plan_since_ms > c->joined_ms ? c->no_plan_since_ms : c->joined_ms;
    if (!c->hopeless && c->now_ms - since <= NO_PLAN_MS)
        return;
    snprintf(why, sizeof why, "%s%s", c->hopeless ? "" : "no plan: waiting for ", c->waits);
    coord_core_fail_waiting(c, why, out);
}

void coord_core_plan_pump(struct coord_core *c, struct coord_actions *out)
{
    char names[240];
    if (c->plan_state == PLAN_PREPARING && c->now_ms - c->prepare_heard_ms > PREPARE_SILENT_MS) {
        coord_core_log(out, true, "prepare_timeout epoch=%llx", (unsigned long long)c->next.epoch);
        for (uint32_t i = 0; i < c->config.n_workers; i++)
            if (coord_core_in_plan(&c->next, i) && !c->nodes[i].prepared) {
                c->nodes[i].avoid_until_ms = c->now_ms + PREPARE_SILENT_MS;
                coord_core_node_error(c, i, "it did not get ready for a plan in time");
            }
        drop_next(c);
        coord_core_want_plan(c, RETRY_MS, c->now.epoch == 0);
    }
    const uint32_t present = present_now(c);
    /* Whoever came, went or may be tried again is a reason to think anew. */
    if (present != c->planned_present && present != 0)
        c->plan_wanted = true;
    fail_hopeless(c, present, out);
    /* Numbers are worth waiting for, but a hung worker that is being profiled must not keep the
     * others from serving. */
    const bool measuring = c->task.kind != TASK_NONE &&
                           (c->now.epoch != 0 || c->now_ms - c->task.begun_ms <= MEASURE_WAIT_MS);
    if (!c->plan_wanted || c->plan_state != PLAN_IDLE || measuring || c->now_ms < c->plan_at_ms)
        return;
    const uint32_t absent = missing(c, names, sizeof names);
    if (present == 0 || (absent > 0 && c->count == 0 && c->now_ms - c->joined_ms < JOIN_WAIT_MS)) {
        if (absent > 0)
            snprintf(c->waits, sizeof c->waits, "workers: %s", names);
        return;
    }
    c->plan_wanted = false;
    c->plan_state = PLAN_SOLVING;
    c->planned_present = present;
    struct coord_action *a = coord_core_act(out, COORD_ACT_PLAN);
    a->present = present;
    a->serial = ++c->serial;
}

/* ---- an answer ------------------------------------------------------------------------------- */

static bool same_stages(const struct part_plan *a, const struct part_plan *b)
{
    if (a->n_stages != b->n_stages)
        return false;
    for (uint32_t s = 0; s < a->n_stages; s++)
        if (a->stages[s].members[0].device != b->stages[s].members[0].device ||
            a->stages[s].layer0 != b->stages[s].layer0 ||
            a->stages[s].layer1 != b->stages[s].layer1)
            return false;
    return true;
}

/* Is `plan` worth leaving the plan in force for? */
static bool worth_it(const struct coord_core *c, const struct coord_event *ev)
{
    const struct ring_plan *now = &c->now;
    if (now->epoch == 0 || c->plan_forced)
        return true;
    if (same_stages(&now->plan, ev->plan))
        return false;
    if (c->config.use_all && ev->plan->n_stages > now->plan.n_stages)
        return true;
    /* What the objective weighs: seconds a token of one request, and of all slots together. */
    const double w = c->config.objective;
    return (1 - w) * ev->plan->latency_s + w / ev->batch_rate <
           0.95 * ((1 - w) * now->plan.latency_s + w / now->batch_rate);
}

static void send_plan(struct coord_core *c, uint32_t stage, struct coord_actions *out)
{
    const struct part_stage *g = &c->next.plan.stages[stage];
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = g->members[0].device;
    a->msg.code = NET_MSG_PLAN;
    a->msg.u.PLAN = (struct net_msg_PLAN){
        .epoch = c->next.epoch,
        .n_stages = c->next.plan.n_stages,
        .stage = stage,
        .ring = {c->names.ptr, c->next.plan.n_stages},
        .layer0 = g->layer0,
        .layer1 = g->layer1,
        .max_rows = c->next.max_rows,
        .chunk = c->next.chunk,
        .n_pieces = c->model.n_pieces(c->model.arg, g->layer0, g->layer1),
    };
    struct coord_action *m = coord_core_act(out, COORD_ACT_MANIFEST);
    m->node = g->members[0].device;
    m->epoch = c->next.epoch;
    m->layer0 = g->layer0;
    m->layer1 = g->layer1;
}

static void begin_prepare(struct coord_core *c, const struct coord_event *ev,
                          struct coord_actions *out)
{
    c->next = (struct ring_plan){.epoch = c->incarnation << 32 | ++c->count,
                                 .plan = *ev->plan,
                                 .batch_rate = ev->batch_rate,
                                 .chunk = ev->chunk};
    memcpy(c->next.stage_s, ev->stage_s, ev->plan->n_stages * sizeof *ev->stage_s);
    c->next.max_rows = coord_core_rows_max(&c->config, c->next.chunk);
    c->plan_state = PLAN_PREPARING;
    c->plan_forced = false;
    c->prepare_heard_ms = c->now_ms;
    c->names.len = 0;
    for (uint32_t s = 0; s < ev->plan->n_stages; s++)
        net_put_str(&c->names,
                    base_span_str(c->config.workers[ev->plan->stages[s].members[0].device].name));
    if (c->names.failed) {
        drop_next(c);
        coord_core_want_plan(c, RETRY_MS, true);
        return;
    }
    for (uint32_t s = 0; s < ev->plan->n_stages; s++) {
        struct node *n = &c->nodes[ev->plan->stages[s].members[0].device];
        n->prepared = false;
        n->done_bytes = n->total_bytes = n->fetched_bytes = n->planned_bytes = 0;
        send_plan(c, s, out);
    }
    coord_core_log(out, false, "plan epoch=%llx stages=%u predicted_ms=%.3f gap=%.4f chunk=%u",
                   (unsigned long long)c->next.epoch, ev->plan->n_stages, ev->plan->latency_s * 1e3,
                   ev->plan->gap, c->next.chunk);
    snprintf(c->waits, sizeof c->waits, "workers to load their shards");
}

void coord_core_planned(struct coord_core *c, const struct coord_event *ev,
                        struct coord_actions *out)
{
    if (ev->serial != c->serial || c->plan_state != PLAN_SOLVING)
        return;
    c->plan_state = PLAN_IDLE;
    c->hopeless = false;
    if (!ev->ok) {
        char names[240];
        /* Who came while the planner was at work is not in its answer, and may be what was missing.
         */
        const bool all =
            missing(c, names, sizeof names) == 0 && present_now(c) == c->planned_present;
        coord_core_log(out, true, "no_plan reason=\"%s\"", ev->reason);
        if (c->now.epoch == 0) {
            c->hopeless = all;
            if (all)
                snprintf(c->waits, sizeof c->waits, "%s", ev->reason);
            else
                snprintf(c->waits, sizeof c->waits, "workers: %.90s (without them: %.180s)", names,
                         ev->reason);
        }
        return;
    }
    if (!worth_it(c, ev)) {
        memcpy(c->now.plan.left_out, ev->plan->left_out, sizeof c->now.plan.left_out);
        return;
    }
    begin_prepare(c, ev, out);
}

/* ---- getting ready --------------------------------------------------------------------------- */

static void commit(struct coord_core *c, struct coord_actions *out)
{
    coord_core_requeue(c);
    c->now = c->next;
    c->stalled_ms = c->now_ms;
    c->waits[0] = 0;
    drop_next(c);
    c->plan_forced = false; /* whatever asked for a new plan has one */
    /* Those that are not in it are told as well: they give the memory of the plan before back. */
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        if (c->nodes[i].state == NODE_MEASURED) {
            struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
            a->node = i;
            a->msg = (struct net_msg){.code = NET_MSG_COMMIT, .u.COMMIT = {c->now.epoch}};
        }
    coord_core_log(out, false, "commit epoch=%llx", (unsigned long long)c->now.epoch);
}

/* What clients that wait are told while shards are on their way. */
static void say_progress(struct coord_core *c)
{
    uint64_t done = 0, total = 0;
    char a[24], b[24];
    for (uint32_t s = 0; s < c->next.plan.n_stages; s++) {
        done += c->nodes[c->next.plan.stages[s].members[0].device].done_bytes;
        total += c->nodes[c->next.plan.stages[s].members[0].device].total_bytes;
    }
    if (c->now.epoch == 0)
        snprintf(c->waits, sizeof c->waits, "workers to load their shards: %s of %s are there",
                 base_bytes_text(done, a), base_bytes_text(total, b));
}

void coord_core_prepared(struct coord_core *c, uint32_t node, const struct net_msg_PREPARED *m,
                         struct coord_actions *out)
{
    struct node *n = &c->nodes[node];
    /* It was ready and is not any more, and its news crossed COMMIT: it will not take part in the
     * plan in force. */
    if (m->state == 2 && m->epoch == c->now.epoch && coord_core_in_plan(&c->now, node)) {
        char why[301];
        snprintf(why, sizeof why, "%.*s", (int)m->reason.len, (const char *)m->reason.ptr);
        coord_core_node_error(c, node, why);
        coord_core_ring_broken(c, why, out);
        return;
    }
    if (m->epoch != c->next.epoch || c->plan_state != PLAN_PREPARING ||
        !coord_core_in_plan(&c->next, node))
        return;
    c->prepare_heard_ms = c->now_ms;
    if (m->state == 2) {
        char why[301];
        snprintf(why, sizeof why, "%.*s", (int)m->reason.len, (const char *)m->reason.ptr);
        coord_core_node_error(c, node, why);
        coord_core_log(out, true, "prepare_failed name=%s reason=\"%s\"",
                       c->config.workers[node].name, why);
        n->avoid_until_ms = c->now_ms + PREPARE_SILENT_MS;
        drop_next(c);
        coord_core_want_plan(c, RETRY_MS, c->now.epoch == 0);
        return;
    }
    n->done_bytes = m->done_bytes;
    n->total_bytes = m->total_bytes;
    n->fetched_bytes = m->fetched_bytes;
    n->planned_bytes = m->planned_bytes;
    say_progress(c);
    if (m->state != 1)
        return;
    n->prepared = true;
    for (uint32_t s = 0; s < c->next.plan.n_stages; s++)
        if (!c->nodes[c->next.plan.stages[s].members[0].device].prepared)
            return;
    commit(c, out);
}
