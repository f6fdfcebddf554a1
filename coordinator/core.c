/* The coordinator core: meeting workers, their signs of life, and the step.
 *
 * A worker is ABSENT, JOINING once it was welcomed, READY once it has the model's card, MEASURED
 * once it was profiled. Its name is its key's: no message says it. What may come from a worker in
 * which state is a table (permitted[]). A worker is dead when its connection ends, when it has been
 * silent for dead-after, or when one pass has taken HANG_MS: the heartbeat comes from its network
 * thread and says how far its compute thread is.
 *
 * The invariant, checked after every step: a plan in force covers the layers once, on nodes that
 * are connected; every slot belongs to at most one active request and every active request to one
 * slot. What is measured is in core_measure.c, plans in core_plan.c, requests in core_request.c.
 * Left out: all input and output. */
#include "coordinator/core_private.h"

#include <assert.h>
#include <math.h>
#include <string.h>

struct coord_action *coord_core_act(struct coord_actions *out, enum coord_action_type type)
{
    assert(out->n < COORD_ACTIONS_MAX);
    struct coord_action *a = &out->list[out->n++];
    memset(a, 0, sizeof *a);
    a->type = type;
    return a;
}

void coord_core_log(struct coord_actions *out, bool warn, const char *fmt, ...)
{
    struct coord_action *a = coord_core_act(out, COORD_ACT_LOG);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->text, sizeof a->text, fmt, ap);
    va_end(ap);
    a->warn = warn;
}

int coord_core_new(const struct net_config *config, const struct coord_model *model,
                   uint64_t incarnation, uint32_t bulk_port, struct coord_core **out, struct err *e)
{
    struct coord_core *c = base_zalloc(1, sizeof *c);
    if (c == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the coordinator's state");
    c->config = *config;
    c->model = *model;
    c->incarnation = incarnation;
    c->bulk_port = bulk_port;
    c->profile.n_nodes = config->n_workers;
    c->profile.n_layers = model->n_layers;
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++) {
        if (i < config->n_workers)
            snprintf(c->profile.nodes[i].name, NET_NAME_MAX, "%s", config->workers[i].name);
        coord_core_profile_forget(c, i);
    }
    snprintf(c->waits, sizeof c->waits, "workers to connect");
    c->started_ms = INT64_MIN;
    c->waiting_most = config->queue + config->slots;
    *out = c;
    return 0;
}

void coord_core_free(struct coord_core *c)
{
    if (c == NULL)
        return;
    coord_core_requests_free(c);
    coord_core_move_free(c);
    base_buf_deinit(&c->names);
    base_buf_deinit(&c->journal);
    base_free(c);
}

void coord_core_node_error(struct coord_core *c, uint32_t node, const char *why)
{
    struct node *n = &c->nodes[node];
    snprintf(n->last_error, sizeof n->last_error, "%.300s", why);
    n->error_ms = c->now_ms;
    n->lost = false;
}

/* ---- coming and going ------------------------------------------------------------------------ */

static void set_state(struct coord_core *c, uint32_t node, enum node_state s,
                      struct coord_actions *out)
{
    static const char *const names[] = {"absent", "joining", "ready", "measured"};
    struct node *n = &c->nodes[node];
    if (n->state != s)
        coord_core_log(out, false, "node name=%s from=%s to=%s", c->config.workers[node].name,
                       names[n->state], names[s]);
    n->state = s;
}

void coord_core_node_lost(struct coord_core *c, uint32_t node, const char *why,
                          struct coord_actions *out)
{
    struct node *n = &c->nodes[node];
    if (!n->connected)
        return;
    coord_core_node_error(c, node, why);
    n->lost = true;
    coord_core_log(out, true, "node_lost name=%s reason=\"%s\"", c->config.workers[node].name, why);
    n->connected = n->working = n->prepared = false;
    n->pass_ms = n->busy = 0;
    set_state(c, node, NODE_ABSENT, out);
    coord_core_task_drop(c, node);
    coord_core_profile_forget(c, node);
    /* Neighbours notice first, and a plan that failed on them failed because of this one: they may
     * serve again. */
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        c->nodes[i].avoid_until_ms = c->now_ms;
    coord_core_plan_node_lost(c, node, why, out);
}

static void on_node_up(struct coord_core *c, uint32_t node, struct coord_actions *out)
{
    coord_core_node_lost(c, node, "it connected anew", out);
    struct node *n = &c->nodes[node];
    n->connected = true;
    n->heard_ms = n->progress_ms = n->beat_ms = c->joined_ms = c->now_ms;
    n->passes = n->busy_us = 0;
    coord_core_watch_forget(c, node);
}

static void refuse(struct coord_core *c, uint32_t node, struct coord_actions *out, const char *fmt,
                   ...) __attribute__((format(printf, 4, 5)));
static void refuse(struct coord_core *c, uint32_t node, struct coord_actions *out, const char *fmt,
                   ...)
{
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->text, 300, fmt, ap);
    va_end(ap);
    a->node = node;
    a->msg.code = NET_MSG_REFUSE;
    a->msg.u.REFUSE.reason = net_text_fit(a->text, 300);
    coord_core_node_error(c, node, a->text);
    coord_core_log(out, true, "refused name=%s reason=\"%s\"", c->config.workers[node].name,
                   a->text);
}

static void on_hello(struct coord_core *c, uint32_t node, const struct net_msg_HELLO *m,
                     struct coord_actions *out)
{
    struct node *n = &c->nodes[node];
    if (m->wire != NET_WIRE_VERSION) {
        refuse(c, node, out,
               "it speaks wire version %u, the coordinator %u: install the same version on both",
               m->wire, (unsigned)NET_WIRE_VERSION);
        return;
    }
    if (m->numerics != c->model.numerics) {
        refuse(c, node, out,
               "its kernels (%.*s) give the bits %016llx, the coordinator's %016llx: one build is "
               "at fault",
               (int)m->kernels.len, (const char *)m->kernels.ptr, (unsigned long long)m->numerics,
               (unsigned long long)c->model.numerics);
        return;
    }
    if ((m->fast != 0) != c->config.fast) {
        refuse(c, node, out,
               "its file says numerics: %s, the coordinator's %s: give both the same file",
               m->fast != 0 ? "fast" : "exact", c->config.fast ? "fast" : "exact");
        return;
    }
    snprintf(n->kernels, sizeof n->kernels, "%.*s", (int)m->kernels.len,
             (const char *)m->kernels.ptr);
    n->team_port = m->team_port;
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = node;
    a->msg.code = NET_MSG_WELCOME;
    a->msg.u.WELCOME = (struct net_msg_WELCOME){
        .wire = NET_WIRE_VERSION,
        .numerics = c->model.numerics,
        .incarnation = c->incarnation,
        .bulk_port = c->bulk_port,
        .card = c->model.card,
        .card_bytes = c->model.card_bytes,
        .context = c->model.context,
        .slots = c->config.slots,
        .kv = c->config.kv,
        .heartbeat_ms = c->config.heartbeat_ms,
        .dead_ms = c->config.dead_ms,
        .report_ms = c->config.report_ms,
    };
    set_state(c, node, NODE_JOINING, out);
}

/* Keep short means of what heartbeats say: time a pass, share of time spent computing. */
static void on_beat(struct coord_core *c, uint32_t node, const struct net_msg_BEAT *m,
                    struct coord_actions *out)
{
    struct node *n = &c->nodes[node];
    const double ms = (double)(c->now_ms - n->beat_ms),
                 busy_ms = (double)(m->busy_us - n->busy_us) / 1000.0;
    if (m->passes > n->passes) {
        const double pass_ms = busy_ms / (double)(m->passes - n->passes);
        n->pass_ms = n->pass_ms == 0 ? pass_ms : 0.7 * n->pass_ms + 0.3 * pass_ms;
        c->stalled_ms = c->now_ms;
    }
    if (ms > 0)
        n->busy = 0.7 * n->busy + 0.3 * fmin(1.0, fmax(0.0, busy_ms / ms));
    if (m->passes != n->passes || !m->working || !n->working)
        n->progress_ms = c->now_ms;
    n->passes = m->passes;
    n->busy_us = m->busy_us;
    n->working = m->working != 0;
    n->beat_ms = c->now_ms;
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = node;
    a->msg = (struct net_msg){.code = NET_MSG_BEAT_BACK, .u.BEAT_BACK = {m->nonce}};
}

/* ---- messages of workers --------------------------------------------------------------------- */

enum {
    IN_ABSENT = 1 << NODE_ABSENT,
    IN_JOINING = 1 << NODE_JOINING,
    IN_READY = 1 << NODE_READY,
    IN_MEASURED = 1 << NODE_MEASURED,
    IN_ALL = IN_JOINING | IN_READY | IN_MEASURED
};

/* Messages of workers and the states that list them. */
static const struct {
    enum net_code code;
    unsigned states;
} permitted[] = {
    {NET_MSG_HELLO, IN_ABSENT},
    {NET_MSG_READY, IN_JOINING},
    {NET_MSG_BEAT, IN_ALL},
    {NET_MSG_REPORT, IN_ALL},
    {NET_MSG_PROFILED, IN_READY | IN_MEASURED},
    {NET_MSG_LINK_TESTED, IN_MEASURED},
    {NET_MSG_PREPARED, IN_MEASURED},
    {NET_MSG_CHECKPOINTED, IN_MEASURED},
    {NET_MSG_TOKENS, IN_MEASURED},
    {NET_MSG_FAILED, IN_MEASURED},
    {NET_MSG_LOGITS, IN_MEASURED},
    {NET_MSG_LOGPROBS, IN_MEASURED},
    {NET_MSG_LINK_LOST, IN_MEASURED},
};

static bool is_permitted(const struct coord_core *c, uint32_t node, enum net_code code)
{
    for (size_t i = 0; i < sizeof permitted / sizeof *permitted; i++)
        if (permitted[i].code == code)
            return (permitted[i].states >> c->nodes[node].state & 1) != 0;
    return false;
}

static void on_link_lost(struct coord_core *c, uint32_t node, const struct net_msg_LINK_LOST *m,
                         struct coord_actions *out)
{
    if (m->epoch == 0 || m->epoch != c->now.epoch)
        return;
    char why[300];
    snprintf(why, sizeof why, "the link between %s and %.*s broke: %.*s",
             c->config.workers[node].name, (int)m->peer.len, (const char *)m->peer.ptr,
             (int)m->reason.len, (const char *)m->reason.ptr);
    coord_core_node_error(c, node, why);
    coord_core_ring_broken(c, why, out);
}

static void on_node(struct coord_core *c, uint32_t node, const struct net_msg *m,
                    struct coord_actions *out)
{
    struct node *n = &c->nodes[node];
    if (!n->connected)
        return;
    n->heard_ms = c->now_ms;
    if (!is_permitted(c, node, m->code)) {
        coord_core_log(out, true, "unexpected message=%s name=%s state=%d", net_msg_name(m->code),
                       c->config.workers[node].name, (int)n->state);
        return;
    }
    switch ((int)m->code) {
    case NET_MSG_HELLO:
        on_hello(c, node, &m->u.HELLO, out);
        break;
    case NET_MSG_READY:
        if (m->u.READY.incarnation == c->incarnation)
            set_state(c, node, NODE_READY, out);
        break;
    case NET_MSG_BEAT:
        on_beat(c, node, &m->u.BEAT, out);
        break;
    case NET_MSG_REPORT:
        coord_core_report(c, node, &m->u.REPORT);
        coord_core_policy(c, node, out);
        break;
    case NET_MSG_PROFILED:
        coord_core_profiled(c, node, &m->u.PROFILED, out);
        if (c->profile.nodes[node].measured)
            set_state(c, node, NODE_MEASURED, out);
        break;
    case NET_MSG_LINK_TESTED:
        coord_core_link_tested(c, node, &m->u.LINK_TESTED, out);
        break;
    case NET_MSG_PREPARED:
        coord_core_prepared(c, node, &m->u.PREPARED, out);
        break;
    case NET_MSG_CHECKPOINTED:
        coord_core_checkpointed(c, node, &m->u.CHECKPOINTED, out);
        break;
    case NET_MSG_TOKENS:
        coord_core_tokens(c, &m->u.TOKENS, out);
        break;
    case NET_MSG_FAILED:
        coord_core_failed(c, &m->u.FAILED, out);
        break;
    case NET_MSG_LOGITS:
        coord_core_logits(c, &m->u.LOGITS, out);
        break;
    case NET_MSG_LOGPROBS:
        coord_core_logprobs(c, &m->u.LOGPROBS);
        break;
    default:
        on_link_lost(c, node, &m->u.LINK_LOST, out);
        break;
    }
}

/* ---- time ------------------------------------------------------------------------------------ */

static void check_lives(struct coord_core *c, struct coord_actions *out)
{
    for (uint32_t i = 0; i < c->config.n_workers; i++) {
        struct node *n = &c->nodes[i];
        char why[120];
        if (!n->connected)
            continue;
        if (c->now_ms - n->heard_ms > (int64_t)c->config.dead_ms)
            snprintf(why, sizeof why, "silent for %.1f s",
                     (double)(c->now_ms - n->heard_ms) / 1000.0);
        else if (n->working && !coord_core_is_profiled(c, i) &&
                 c->now_ms - n->progress_ms > HANG_MS &&
                 (coord_core_in_plan(&c->now, i) || coord_core_in_plan(&c->next, i)))
            snprintf(why, sizeof why, "hung: one pass takes longer than %d s", HANG_MS / 1000);
        else
            continue;
        coord_core_act(out, COORD_ACT_DROP_NODE)->node = i;
        coord_core_node_lost(c, i, why, out);
    }
    if (coord_core_n_active(c) == 0 || c->now.epoch == 0)
        c->stalled_ms = c->now_ms;
    else if (c->now_ms - c->stalled_ms > STALL_MS)
        coord_core_ring_broken(c, "nothing moves in the ring", out);
}

int64_t coord_core_deadline_ms(const struct coord_core *c)
{
    /* Nothing here needs better than a quarter of the heartbeat, but for requests that wait for an
     * answer. */
    int64_t t = c->now_ms + (c->config.heartbeat_ms > 40 ? c->config.heartbeat_ms / 4 : 10);
    bool idle = c->task.kind == TASK_NONE && !c->plan_wanted && c->plan_state == PLAN_IDLE;
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        idle = idle && !c->nodes[i].connected;
    const int64_t asks = coord_core_request_deadline(c);
    if (idle)
        return asks;
    return asks < t ? asks : t;
}

/* Does a person ask for another placement? Then it is put in force even where it is slower. */
static bool placement_changed(const struct net_config *a, const struct net_config *b)
{
    bool changed = a->use_all != b->use_all || a->objective < b->objective ||
                   a->objective > b->objective || a->chunk != b->chunk ||
                   a->granularity != b->granularity || a->algorithm != b->algorithm ||
                   a->ttft_ms != b->ttft_ms || a->prompt != b->prompt;
    for (uint32_t i = 0; i < a->n_workers; i++) {
        const struct net_config_worker *x = &a->workers[i], *y = &b->workers[i];
        changed = changed || x->exclude != y->exclude || x->layer0 != y->layer0 ||
                  x->layer1 != y->layer1 || x->heads != y->heads ||
                  x->columns != y->columns || x->leader != y->leader;
    }
    return changed;
}

/* ---- the step -------------------------------------------------------------------------------- */

/* A step comes every quarter of a heartbeat while somebody is connected, unless this process stood
 * still: it was stopped, or its machine had other work. Whom it has not heard meanwhile may have spoken,
 * which it is about to read; so that time counts for nobody. */
static void stood_still(struct coord_core *c, int64_t for_ms)
{
    if (for_ms <= (int64_t)c->config.heartbeat_ms)
        return;
    for (uint32_t i = 0; i < c->config.n_workers; i++) {
        c->nodes[i].heard_ms += for_ms;
        c->nodes[i].progress_ms += for_ms;
    }
    c->stalled_ms += for_ms;
    c->prepare_heard_ms += for_ms;
}

void coord_core_step(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out)
{
    out->n = 0;
    c->journal.len = 0;
    c->journal.failed = false;
    if (c->started_ms != INT64_MIN)
        stood_still(c, ev->now_ms - c->now_ms);
    c->now_ms = ev->now_ms;
    if (c->started_ms == INT64_MIN)
        c->started_ms = c->joined_ms = c->no_plan_since_ms = c->stalled_ms = c->now_ms;
    switch (ev->type) {
    case COORD_EV_TICK:
        break;
    case COORD_EV_NODE_UP:
        on_node_up(c, ev->node, out);
        break;
    case COORD_EV_NODE_DOWN:
        coord_core_node_lost(c, ev->node, ev->reason, out);
        break;
    case COORD_EV_NODE:
        on_node(c, ev->node, ev->msg, out);
        break;
    case COORD_EV_PLANNED:
        coord_core_planned(c, ev, out);
        break;
    case COORD_EV_CLIENT:
        coord_core_client(c, ev, out);
        break;
    case COORD_EV_READ:
        coord_core_read(c, ev, out);
        break;
    case COORD_EV_CLIENT_DOWN:
        coord_core_client_down(c, ev->client, out);
        break;
    case COORD_EV_CONFIG:
        for (uint32_t i = c->config.n_workers; i < ev->config->n_workers; i++)
            snprintf(c->profile.nodes[i].name, NET_NAME_MAX, "%s", ev->config->workers[i].name);
        coord_core_want_plan(c, 0, placement_changed(&c->config, ev->config));
        c->config = *ev->config;
        coord_core_forecast_forget(c);
        c->profile.n_nodes = c->config.n_workers;
        if (c->waiting_most < c->config.queue + c->config.slots)
            c->waiting_most = c->config.queue + c->config.slots;
        break;
    case COORD_EV_KEPT:
        coord_core_kept(c, ev, out);
        break;
    }
    check_lives(c, out);
    coord_core_task_time(c, out);
    coord_core_measure(c, out);
    coord_core_plan_pump(c, out);
    coord_core_forecast_pump(c, out);
    coord_core_checkpoint_pump(c, out);
    coord_core_request_time(c, out);
    coord_core_dispatch(c, out);
    /* Without memory for it the journal lacks these records, which costs time only. */
    out->journal = (struct span){c->journal.ptr, c->journal.failed ? 0 : c->journal.len};
    assert(coord_core_invariant(c) == NULL);
}

const struct coord_profile *coord_core_profile(const struct coord_core *c)
{
    return &c->profile;
}

uint64_t coord_core_epoch(const struct coord_core *c)
{
    return c->now.epoch;
}

const struct part_plan *coord_core_last_plan(const struct coord_core *c)
{
    return c->now.plan.n_stages > 0 ? &c->now.plan : NULL;
}

uint32_t coord_core_n_active(const struct coord_core *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->config.slots; i++)
        n += c->slot_request[i] != 0 ? 1u : 0u;
    return n;
}

/* Each member's ranges begin where those of the one before it end. */
static bool tiles(const struct part_stage *g)
{
    struct part_member at = {0};
    for (uint32_t k = 0; k < g->n_members; k++) {
        const struct part_member *m = &g->members[k];
        if (m->head0 != at.head1 || m->head1 < m->head0 || m->ff0 != at.ff1 || m->ff1 < m->ff0 ||
            m->run0 != at.run1 || m->run1 < m->run0)
            return false;
        at = *m;
    }
    return g->n_members > 0;
}

static const char *plan_invariant(const struct coord_core *c)
{
    uint32_t layer = 0;
    for (uint32_t s = 0; s < c->now.plan.n_stages; s++) {
        const struct part_stage *g = &c->now.plan.stages[s];
        if (g->layer0 != layer || g->layer1 <= g->layer0 || !tiles(g))
            return "the plan in force does not cover the layers once";
        for (uint32_t k = 0; k < g->n_members; k++)
            if (!c->nodes[g->members[k].device].connected)
                return "the plan in force has a worker that is gone";
        layer = g->layer1;
    }
    return layer == c->model.n_layers ? NULL : "the plan in force leaves layers out";
}

const char *coord_core_invariant(const struct coord_core *c)
{
    if (c->now.epoch != 0 && plan_invariant(c) != NULL)
        return plan_invariant(c);
    uint32_t in_slots = 0, active = 0;
    for (uint32_t i = 0; i < c->config.slots; i++) {
        const uint64_t r = c->slot_request[i];
        if (r == 0)
            continue;
        in_slots++;
        if (r > c->n_requests || c->requests[r - 1].state != REQ_ACTIVE ||
            c->requests[r - 1].slot != i)
            return "a slot belongs to a request that is not in it";
    }
    for (uint32_t i = 0; i < c->n_requests; i++)
        active += c->requests[i].state == REQ_ACTIVE ? 1u : 0u;
    if (active != in_slots)
        return "an active request has no slot";
    if (active > 0 && c->now.epoch == 0)
        return "requests are active without a plan";
    if (coord_core_slot_invariant(c) != NULL)
        return coord_core_slot_invariant(c);
    return coord_core_n_queued(c) <= c->waiting_most ? NULL
                                                     : "more requests wait than the queue may hold";
}
