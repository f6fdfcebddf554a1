/* The coordinator core: plans, from wanting one to having it in force.
 *
 * A plan is wanted when the set of measured workers changes or the ring breaks. It is solved by the
 * planner (outside, since that takes time), then prepared: each worker is sent PLAN and MANIFEST,
 * fetches what it lacks and loads beside the plan in force, which serves on. When all are ready
 * COMMIT puts the new epoch in force, and the requests that were in the old ring are opened again
 * with the tokens they have: by the canonical numerics the same KV rows and the same text
 * (docs/numerics.md). When a worker of the plan in force is lost the ring is broken at once: its
 * requests wait, keeping their tokens, until the survivors have a plan; with `checkpoint` also what KV
 * rows can still be had (core_move.c).
 *
 * A first plan waits JOIN_WAIT_MS for workers that have not come. One that is no better than the
 * plan in force, by 5 % and by what the move costs (core_price.c), is not put in force, unless the
 * ring is broken or `use: all` asks for a new worker; and where the ring broke and its workers came
 * back, they get the plan that they had.
 * Each wait has a deadline; a failed preparation names its worker, which is then left out for a
 * while. */
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
    return p->epoch != 0 && part_plan_find(&p->plan, node, NULL) < p->plan.n_stages;
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
    uint32_t rows[MODEL_SLOTS_MAX];
    coord_core_rows_left(c, rows);
    coord_core_requeue(c, rows);
    c->now.epoch = 0;
    c->no_plan_since_ms = c->now_ms;
    snprintf(c->waits, sizeof c->waits, "a new plan: %s", why);
    coord_core_want_plan(c, SETTLE_MS, true);
}

static void drop_next(struct coord_core *c)
{
    c->next.epoch = 0;
    c->plan_state = PLAN_IDLE;
    coord_core_move_reset(c);
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        c->nodes[i].prepared = false;
}

void coord_core_plan_node_lost(struct coord_core *c, uint32_t node, const char *why,
                               struct coord_actions *out)
{
    /* A plan that has just failed, on a neighbour, failed because of this one: RETRY_MS is for others. */
    c->plan_at_ms = c->now_ms;
    if (c->checkpoint.epoch != 0 && part_plan_find(&c->now.plan, node, NULL) < c->now.plan.n_stages)
        c->checkpoint.gone |= 1u << node;
    if (c->plan_state == PLAN_PREPARING && coord_core_in_plan(&c->next, node)) {
        drop_next(c);
        coord_core_want_plan(c, SETTLE_MS, c->now.epoch == 0);
    }
    if (coord_core_in_plan(&c->now, node)) {
        char text[300];
        snprintf(text, sizeof text, "worker %s was lost (%.200s)", c->config.workers[node].name,
                 why);
        coord_core_ring_broken(c, text, out);
    } else if (c->now.epoch == 0 && (c->checkpoint.gone >> node & 1) != 0) {
        coord_core_rows_fewer(c);
    }
    /* The planner may be at work on a cluster with this worker in it. */
    if (c->plan_state == PLAN_SOLVING) {
        c->plan_state = PLAN_IDLE;
        c->serial++;
        coord_core_want_plan(c, SETTLE_MS, c->now.epoch == 0);
    }
}

/* ---- putting a plan in force ------------------------------------------------------------------ */

static void commit(struct coord_core *c, struct coord_actions *out)
{
    char moved[100] = "", bytes[24];
    if (c->move.round > 0)
        snprintf(moved, sizeof moved, " moved=\"%s in %lld ms\" rounds=%u",
                 base_bytes_text(c->move.bytes, bytes), (long long)(c->now_ms - c->move.begun_ms),
                 c->move.round);
    coord_core_requeue(c, c->move.held);
    c->now = c->next;
    coord_core_checkpoint_begin(c);
    coord_core_forecast_forget(c);
    c->stalled_ms = c->now_ms;
    c->again_ms = c->now_ms; /* no request has a slot now, but links are not idle: all come back */
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
    coord_core_log(out, false, "commit epoch=%llx%s", (unsigned long long)c->now.epoch, moved);
}

/* ---- asking for a plan ----------------------------------------------------------------------- */

static bool may_serve(const struct coord_core *c, uint32_t i)
{
    return c->nodes[i].state == NODE_MEASURED && !c->config.workers[i].exclude &&
           !c->nodes[i].drained && c->nodes[i].avoid_until_ms <= c->now_ms;
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
        if (c->config.workers[i].exclude || c->nodes[i].drained || may_serve(c, i))
            continue;
        const size_t len = strlen(names);
        /* One that is here but failed says why; so does one that was lost. */
        const struct node *w = &c->nodes[i];
        const bool failed = w->connected && w->avoid_until_ms > c->now_ms,
                   lost = !w->connected && w->lost;
        snprintf(names + len, max - len, "%s%s%s%.150s%s", n > 0 ? ", " : "",
                 c->config.workers[i].name,
                 failed ? " ("
                 : lost ? " (lost: "
                        : "",
                 failed || lost ? w->last_error : "", failed || lost ? ")" : "");
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
    bool measuring = c->task.kind != TASK_NONE;
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        measuring = measuring || coord_core_is_profiled(c, i);
    if (c->now.epoch != 0 || c->plan_state != PLAN_IDLE || measuring ||
        (c->plan_wanted && present != 0 && !c->hopeless))
        return;
    const int64_t since = c->no_plan_since_ms > c->joined_ms ? c->no_plan_since_ms : c->joined_ms;
    if (!c->hopeless && c->now_ms - since <= NO_PLAN_MS)
        return;
    snprintf(why, sizeof why, "%s%s", c->hopeless ? "" : "no plan: waiting for ", c->waits);
    coord_core_fail_waiting(c, why, out);
}

static void weigh(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out);

static void set_drained(struct coord_core *c, uint32_t i, bool on)
{
    c->nodes[i].drained = on;
    coord_record_drain(&c->journal, c->config.workers[i].name, on);
}

/* Workers that were to be emptied stay as they are, since the others cannot do without them. Where
 * no plan is in force, since the coordinator was restarted before the planner had said so, and nobody
 * is `missing`, they are taken again. True: there are such. */
static bool drain_failed(struct coord_core *c, const char *why, bool missing)
{
    bool again = false;
    for (uint32_t i = 0; i < c->config.n_workers; i++) {
        const bool serves = coord_core_in_plan(&c->now, i),
                   could = c->now.epoch == 0 && !missing && c->nodes[i].connected;
        if (!c->nodes[i].drained || !(serves || could))
            continue;
        char text[301];
        set_drained(c, i, false);
        again = again || could;
        if (serves)
            c->planned_present |= 1u << i;
        snprintf(text, sizeof text, "cannot be drained: %.270s", why);
        coord_core_node_error(c, i, text);
    }
    return again;
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
    /* Nobody has rows to give any more, or it is time. */
    const bool moves = c->move.round > 0 || c->move.state != MOVE_ROUNDS;
    if (c->plan_state == PLAN_PREPARING && moves &&
        (c->now.epoch == 0 ? !coord_core_move_saves(c) : !coord_core_move_last(c, false, out)))
        commit(c, out);
    const uint32_t present = present_now(c);
    /* Whoever came, went or may be tried again is a reason to think anew. */
    if (present != c->planned_present && present != 0)
        c->plan_wanted = true;
    fail_hopeless(c, present, out);
    /* Numbers are worth waiting for. */
    const bool measuring = coord_core_measures_for_plan(c) &&
                           (c->now.epoch != 0 || c->now_ms - c->task.begun_ms <= MEASURE_WAIT_MS);
    if (!c->plan_wanted || c->plan_state != PLAN_IDLE || measuring || c->now_ms < c->plan_at_ms)
        return;
    const uint32_t absent = missing(c, names, sizeof names);
    if (present == 0 && drain_failed(c, "no other worker may serve", absent > 0))
        return;
    if (present == 0 || (absent > 0 && c->count == 0 && c->now_ms - c->joined_ms < JOIN_WAIT_MS)) {
        if (absent > 0)
            snprintf(c->waits, sizeof c->waits, "workers: %s", names);
        return;
    }
    struct coord_event known;
    c->plan_wanted = false;
    c->planned_present = present;
    if (!c->plan_by_policy && coord_core_forecast_for(c, present, &known)) {
        coord_core_log(out, false, "foreseen present=%x", present);
        weigh(c, &known, out);
        coord_core_forecast_forget(c); /* should it fail, the next one is for what is so by then */
        return;
    }
    c->plan_state = PLAN_SOLVING;
    coord_core_forecast_forget(c);
    coord_core_measured_for_plan(c);
    struct coord_action *a = coord_core_act(out, COORD_ACT_PLAN);
    a->present = present;
    a->serial = ++c->serial;
    a->myopic = c->plan_by_policy && c->config.policy == NET_MYOPIC;
    c->plan_by_policy = false;
}

void coord_core_drain(struct coord_core *c, uint64_t client, const struct net_msg_DRAIN *m,
                      struct coord_actions *out)
{
    uint32_t i = 0;
    if (m->version != NET_CLIENT_VERSION) {
        coord_core_no(client, NULL, ERR_MISMATCH, out,
                      "the client speaks version %u, the coordinator %u", m->version,
                      (unsigned)NET_CLIENT_VERSION);
        return;
    }
    while (i < c->config.n_workers && !base_span_is(m->name, c->config.workers[i].name))
        i++;
    if (i == c->config.n_workers) {
        coord_core_no(client, NULL, ERR_NOTFOUND, out, "there is no worker \"%.*s\"",
                      (int)m->name.len, (const char *)m->name.ptr);
        return;
    }
    if (c->nodes[i].drained != (m->on != 0)) {
        set_drained(c, i, m->on != 0);
        c->nodes[i].last_error[0] = 0;
        coord_core_log(out, false, "%s name=%s", m->on != 0 ? "drain" : "undrain",
                       c->config.workers[i].name);
        if (m->on == 0 || coord_core_in_plan(&c->now, i) || coord_core_in_plan(&c->next, i))
            coord_core_want_plan(c, 0, false);
        /* A plan with it is not wanted any more. */
        if (m->on != 0 && coord_core_in_plan(&c->next, i))
            drop_next(c);
    }
    coord_core_status(c, client, out);
}

void coord_core_plan_tokens(struct coord_core *c, struct coord_actions *out)
{
    if (c->plan_state == PLAN_PREPARING && !coord_core_move_last(c, true, out))
        commit(c, out);
}

/* ---- an answer ------------------------------------------------------------------------------- */

static bool same_members(const struct part_stage *a, const struct part_stage *b)
{
    bool same = a->layer0 == b->layer0 && a->layer1 == b->layer1 && a->shape == b->shape &&
                a->n_members == b->n_members;
    for (uint32_t k = 0; same && k < a->n_members; k++)
        same = memcmp(&a->members[k], &b->members[k], sizeof a->members[k]) == 0;
    return same;
}

static bool same_stages(const struct part_plan *a, const struct part_plan *b)
{
    bool same = a->n_stages == b->n_stages && a->output_first == b->output_first;
    for (uint32_t s = 0; same && s < a->n_stages; s++)
        same = same_members(&a->stages[s], &b->stages[s]);
    return same;
}

static uint32_t n_workers(const struct part_plan *p)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->n_stages; s++)
        n += p->stages[s].n_members;
    return n;
}

/* Has the plan in force a worker that is to have no work? */
static bool must_leave(const struct coord_core *c)
{
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        if ((c->nodes[i].drained || c->config.workers[i].exclude) && coord_core_in_plan(&c->now, i))
            return true;
    return false;
}

/* Is it worth leaving the plan in force for? */
static bool worth_it(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out)
{
    if (c->now.epoch == 0 || c->plan_forced || must_leave(c))
        return true;
    if (same_stages(&c->now.plan, ev->plan))
        return false;
    if (ev->now_latency_s > 0 && !ev->now_fits)
        return true;
    if (c->config.use_all && n_workers(ev->plan) > n_workers(&c->now.plan))
        return true;
    return coord_core_is_better(c, ev) && coord_core_worth_moving(c, ev, out);
}

/* Where the ring broke and all its workers are there again, the plan that it had is as good as
 * another that is hardly better: each has its pieces. */
static bool as_before(const struct coord_core *c, const struct coord_event *ev)
{
    return c->now.epoch == 0 && c->now.plan.n_stages > 0 && ev->now_latency_s > 0 && ev->now_fits &&
           !(c->config.use_all && n_workers(ev->plan) > n_workers(&c->now.plan)) &&
           !coord_core_is_better(c, ev);
}

/* The lists of every PLAN message: the names of the leaders, which are the ring, then those of each
 * stage's team, whose place in the list goes to team_at; and the teams' numbers. */
static void write_lists(struct coord_core *c, size_t team_at[PART_DEVICES_MAX])
{
    const struct part_plan *p = &c->next.plan;
    c->names.len = 0;
    for (uint32_t s = 0; s < p->n_stages; s++)
        net_put_str(&c->names,
                    base_span_str(c->config.workers[p->stages[s].members[0].device].name));
    for (uint32_t s = 0; s < p->n_stages; s++) {
        const struct part_stage *g = &p->stages[s];
        uint8_t(*list)[sizeof c->numbers[0][0]] = c->numbers[s];
        team_at[s] = c->names.len;
        for (uint32_t k = 0; k < g->n_members; k++) {
            const struct part_member *m = &g->members[k];
            net_put_str(&c->names, base_span_str(c->config.workers[m->device].name));
            net_put_u32(list[0], k, c->nodes[m->device].team_port);
            net_put_u32(list[1], k, m->head0);
            net_put_u32(list[2], k, m->ff0);
            net_put_u32(list[3], k, m->run0);
            net_put_u32(list[1], k + 1, m->head1);
            net_put_u32(list[2], k + 1, m->ff1);
            net_put_u32(list[3], k + 1, m->run1);
        }
    }
}

static void send_plan(struct coord_core *c, uint32_t stage, uint32_t member, size_t team_at,
                      struct coord_actions *out)
{
    const struct part_stage *g = &c->next.plan.stages[stage];
    const struct coord_shard shard = coord_shard_of(&c->next.plan, stage, member);
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = shard.part.device;
    a->msg.code = NET_MSG_PLAN;
    a->msg.u.PLAN = (struct net_msg_PLAN){
        .epoch = c->next.epoch,
        .n_stages = c->next.plan.n_stages,
        .stage = stage,
        .ring = {c->names.ptr, c->next.plan.n_stages},
        .layer0 = g->layer0,
        .layer1 = g->layer1,
        .output_first = c->next.plan.output_first,
        .wire = c->config.wire,
        .max_rows = c->next.max_rows,
        .chunk = c->next.chunk,
        .groups = c->next.groups,
        .n_pieces = c->model.n_pieces(c->model.arg, &shard),
    };
    if (g->n_members > 1) {
        struct net_msg_PLAN *m = &a->msg.u.PLAN;
        m->member = member;
        m->mesh = g->shape == PART_MESH;
        m->team = (struct net_list){c->names.ptr + team_at, g->n_members};
        m->ports = (struct net_list){c->numbers[stage][0], g->n_members};
        m->heads = (struct net_list){c->numbers[stage][1], g->n_members + 1};
        m->columns = (struct net_list){c->numbers[stage][2], g->n_members + 1};
        m->runs = (struct net_list){c->numbers[stage][3], g->n_members + 1};
    }
    struct coord_action *m = coord_core_act(out, COORD_ACT_MANIFEST);
    m->node = shard.part.device;
    m->epoch = c->next.epoch;
    m->shard = shard;
}

static void log_plan(const struct coord_core *c, struct coord_actions *out)
{
    const struct part_plan *p = &c->next.plan;
    coord_core_log(out, false,
                   "plan epoch=%llx stages=%u predicted_ms=%.3f gap=%.4f chunk=%u groups=%u",
                   (unsigned long long)c->next.epoch, p->n_stages, p->latency_s * 1e3, p->gap,
                   c->next.chunk, c->next.groups);
    for (uint32_t s = 0; s < p->n_stages; s++)
        for (uint32_t k = 0; k < p->stages[s].n_members; k++) {
            const struct part_stage *g = &p->stages[s];
            const struct part_member *m = &g->members[k];
            coord_core_log(out, false,
                           "planned name=%s stage=%u layers=%u-%u%s heads=%u columns=%u runs=%u",
                           c->config.workers[m->device].name, s, g->layer0, g->layer1 - 1,
                           g->n_members == 1       ? ""
                           : g->shape == PART_MESH ? " team=mesh"
                                                   : " team=star",
                           (m->head1 - m->head0) * c->model.unit_heads,
                           coord_columns(c->model.n_ff, c->model.unit_cols, m->ff0, m->ff1),
                           m->run1 - m->run0);
        }
}

static void begin_prepare(struct coord_core *c, const struct coord_event *ev,
                          struct coord_actions *out)
{
    if (as_before(c, ev)) {
        c->next = c->now;
        c->next.chunk = ev->chunk;
        c->next.groups = ev->groups;
        memcpy(c->next.plan.left_out, ev->plan->left_out, sizeof c->next.plan.left_out);
    } else {
        c->next = (struct ring_plan){.plan = *ev->plan,
                                     .batch_rate = ev->batch_rate,
                                     .chunk = ev->chunk,
                                     .groups = ev->groups};
        memcpy(c->next.stage_s, ev->stage_s, ev->plan->n_stages * sizeof *ev->stage_s);
        memcpy(c->next.stage_batch_s, ev->stage_batch_s,
               ev->plan->n_stages * sizeof *ev->stage_batch_s);
    }
    c->next.epoch = c->incarnation << 32 | ++c->count;
    c->next.max_rows = coord_core_rows_max(&c->config, c->next.chunk);
    c->plan_state = PLAN_PREPARING;
    c->plan_forced = false;
    c->prepare_heard_ms = c->now_ms;
    size_t team_at[PART_DEVICES_MAX];
    write_lists(c, team_at);
    if (c->names.failed) {
        drop_next(c);
        coord_core_want_plan(c, RETRY_MS, true);
        return;
    }
    for (uint32_t s = 0; s < c->next.plan.n_stages; s++)
        for (uint32_t k = 0; k < c->next.plan.stages[s].n_members; k++) {
            struct node *n = &c->nodes[c->next.plan.stages[s].members[k].device];
            n->prepared = false;
            n->done_bytes = n->total_bytes = n->fetched_bytes = n->planned_bytes = 0;
            n->moved_bytes = 0;
            send_plan(c, s, k, team_at[s], out);
        }
    log_plan(c, out);
    snprintf(c->waits, sizeof c->waits, "workers to load their shards");
}

/* A plan is there: take it, or stay with the one in force. */
static void weigh(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out)
{
    c->stays[0] = 0;
    if (worth_it(c, ev, out)) {
        begin_prepare(c, ev, out);
        return;
    }
    memcpy(c->now.plan.left_out, ev->plan->left_out, sizeof c->now.plan.left_out);
    if (ev->now_latency_s > 0) { /* what is promised is so by today's numbers */
        c->now.plan.latency_s = ev->now_latency_s;
        c->now.batch_rate = ev->now_batch_rate;
    }
}

void coord_core_planned(struct coord_core *c, const struct coord_event *ev,
                        struct coord_actions *out)
{
    if (coord_core_forecasted(c, ev, out))
        return;
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
        if (!drain_failed(c, ev->reason, !all) && c->now.epoch == 0) {
            c->hopeless = all;
            if (all)
                snprintf(c->waits, sizeof c->waits, "%s", ev->reason);
            else
                snprintf(c->waits, sizeof c->waits, "workers: %.120s (without them: %.150s)", names,
                         ev->reason);
        }
        return;
    }
    weigh(c, ev, out);
}

/* ---- getting ready --------------------------------------------------------------------------- */

/* What clients that wait are told while shards are on their way. */
static void say_progress(struct coord_core *c)
{
    uint64_t done = 0, total = 0;
    char a[24], b[24];
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        if (coord_core_in_plan(&c->next, i)) {
            done += c->nodes[i].done_bytes;
            total += c->nodes[i].total_bytes;
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
        if (c->move.saves) { /* it may serve, without what was left of the plan before */
            for (uint32_t i = 0; i < c->config.slots; i++)
                coord_core_slot_less(c, i, 0);
            c->checkpoint.epoch = 0;
            drop_next(c);
            coord_core_want_plan(c, 0, true);
            return;
        }
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
    if (m->round != c->move.round)
        return;
    n->moved_bytes = m->moved_bytes;
    n->prepared = true;
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        if (coord_core_in_plan(&c->next, i) && !c->nodes[i].prepared)
            return;
    c->move.bytes = 0;
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        c->move.bytes += coord_core_in_plan(&c->next, i) ? c->nodes[i].moved_bytes : 0;
    if (!coord_core_move_round(c, out))
        commit(c, out);
}
