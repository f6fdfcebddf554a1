/* The worker core: meeting the coordinator and preparing plans.
 *
 * A worker is OFFLINE until its control connection is made, says HELLO, fetches the card that
 * WELCOME names, and is then READY: it can be profiled and given plans. A plan comes as PLAN and
 * MANIFEST, is loaded beside the one in force, waits until the ring connections that it needs are
 * up, and is then reported ready. COMMIT puts it in force; so does the first ring message of its
 * epoch, since the coordinator commits only when all are ready and its COMMIT may be overtaken by a
 * neighbour's first rows.
 *
 * Which control message may come in which state is a table (permitted[]); what comes otherwise is
 * dropped with a trace line. The invariant: at most one plan in force and one being prepared, the
 * latter of a higher epoch. What belongs to slots and rows is core_ring.c, to passes core_pass.c, to
 * KV rows that are taken over core_move.c.
 * Left out: anything that measures or moves bytes. */
#include "worker/core_private.h"

#include <assert.h>
#include <math.h>
#include <string.h>

struct worker_action *worker_core_act(struct worker_actions *out, enum worker_action_type type)
{
    assert(out->n < sizeof out->list / sizeof *out->list);
    struct worker_action *a = &out->list[out->n++];
    memset(a, 0, sizeof *a);
    a->type = type;
    return a;
}

void worker_core_log(struct worker_actions *out, const char *fmt, ...)
{
    struct worker_action *a = worker_core_act(out, WORKER_ACT_LOG);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->text, sizeof a->text, fmt, ap);
    va_end(ap);
}

void worker_core_fail(struct worker_core *c, struct worker_actions *out, uint64_t request,
                      uint32_t position, const char *fmt, ...)
{
    struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->text, sizeof a->text, fmt, ap);
    va_end(ap);
    a->msg.code = NET_MSG_FAILED;
    a->msg.u.FAILED =
        (struct net_msg_FAILED){c->plan.epoch, request, position, net_text_fit(a->text, 300)};
}

void worker_core_link_lost(struct worker_core *c, struct worker_actions *out, const char *peer,
                           const char *reason)
{
    if (c->broken)
        return;
    c->broken = true;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
    snprintf(a->text, sizeof a->text, "%s", reason);
    a->msg.code = NET_MSG_LINK_LOST;
    a->msg.u.LINK_LOST =
        (struct net_msg_LINK_LOST){c->plan.epoch, base_span_str(peer), net_text_fit(a->text, 300)};
    worker_core_log(out, "link_lost epoch=%llx peer=%s", (unsigned long long)c->plan.epoch, peer);
}

int worker_core_new(const struct worker_identity *id, struct worker_core **out, struct err *e)
{
    struct worker_core *c = base_zalloc(1, sizeof *c);
    if (c == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the worker's state");
    c->id = *id;
    c->heartbeat_ms = 500;
    c->dead_ms = 3000;
    c->report_ms = 1000;
    c->round_trip_ms = NAN;
    *out = c;
    return 0;
}

void worker_core_free(struct worker_core *c)
{
    if (c == NULL)
        return;
    worker_core_ring_clear(c);
    base_free(c->ring);
    base_free(c);
}

/* ---- links ----------------------------------------------------------------------------------- */

bool worker_core_is_linked(const struct worker_core *c, const char *peer)
{
    for (uint32_t i = 0; i < c->n_linked; i++)
        if (strcmp(c->linked[i], peer) == 0)
            return true;
    return false;
}

static void set_linked(struct worker_core *c, const char *peer, bool up)
{
    for (uint32_t i = 0; i < c->n_linked; i++)
        if (strcmp(c->linked[i], peer) == 0) {
            if (!up)
                memmove(c->linked[i], c->linked[--c->n_linked], NET_NAME_MAX);
            return;
        }
    if (up && c->n_linked < WORKER_STAGES_MAX)
        snprintf(c->linked[c->n_linked++], NET_NAME_MAX, "%s", peer);
}

/* The peers that a stage's leader sends to: the next one, and the first, to which credit and tokens
 * go. */
static const char *next_peer(const struct worker_plan *p)
{
    return p->member == 0 && p->stage + 1 < p->n_stages ? p->ring[p->stage + 1] : NULL;
}

static const char *first_peer(const struct worker_plan *p)
{
    return p->member == 0 && p->stage > 0 ? p->ring[0] : NULL;
}

static bool ring_linked(const struct worker_core *c, const struct worker_plan *p)
{
    const char *next = next_peer(p), *first = first_peer(p);
    return (next == NULL || worker_core_is_linked(c, next)) &&
           (first == NULL || worker_core_is_linked(c, first));
}

/* Does the plan in force exchange ring messages with this peer? Leaders of neighbouring stages do,
 * and all of them with the first. */
static bool plan_has(const struct worker_plan *p, const char *peer)
{
    for (uint32_t i = 0; p->epoch != 0 && p->member == 0 && i < p->n_stages; i++)
        if (i != p->stage && strcmp(p->ring[i], peer) == 0)
            return i == 0 || p->stage == 0 || i + 1 == p->stage || i == p->stage + 1;
    return false;
}

/* ---- the preparation of a plan --------------------------------------------------------------- */

void worker_core_report(struct worker_core *c, struct worker_actions *out, uint32_t state,
                   const struct worker_event *ev, const char *reason)
{
    struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
    snprintf(a->text, sizeof a->text, "%s", reason);
    a->msg.code = NET_MSG_PREPARED;
    a->msg.u.PREPARED = (struct net_msg_PREPARED){
        .epoch = c->next.epoch,
        .state = state,
        .done_bytes = ev == NULL ? 0 : ev->done_bytes,
        .total_bytes = ev == NULL ? 0 : ev->total_bytes,
        .fetched_bytes = ev == NULL ? 0 : ev->fetched_bytes,
        .planned_bytes = ev == NULL ? 0 : ev->planned_bytes,
        .round = c->move.round != 0 && !c->move.copies ? c->move.round : c->move.done,
        .moved_bytes = c->move.bytes,
        .reason = net_text_fit(a->text, 300),
    };
}

/* No plan is being prepared. */
static void drop_next(struct worker_core *c)
{
    c->prep = WORKER_PREP_NONE;
    c->next.epoch = 0;
    if (c->move.copies)
        c->move.bytes = c->move.done = 0;
    else
        c->move = (struct worker_move){0};
}

void worker_core_prepare_failed(struct worker_core *c, struct worker_actions *out,
                                const char *reason)
{
    worker_core_report(c, out, 2, NULL, reason);
    worker_core_log(out, "prepare_failed epoch=%llx reason=\"%s\"",
                    (unsigned long long)c->next.epoch, reason);
    drop_next(c);
}

/* Borders of n members' parts: from 0, never back. */
static bool borders_are_sound(struct net_list l, uint32_t n)
{
    if (l.n != n + 1 || net_u32_at(l, 0) != 0)
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (net_u32_at(l, i) > net_u32_at(l, i + 1))
            return false;
    return true;
}

/* Whether the stage has the output matrix. */
static bool stage_has_output(const struct net_msg_PLAN *m)
{
    return m->stage == (m->output_first != 0 ? 0 : m->n_stages - 1);
}

/* The part of a PLAN that speaks of the worker's team. */
static bool team_is_sound(const struct worker_core *c, const struct net_msg_PLAN *m)
{
    const uint32_t n = m->team.n;
    if (n == 0)
        return m->member == 0 && m->ports.n == 0 && m->heads.n == 0 && m->columns.n == 0 &&
               m->runs.n == 0;
    if (n > WORKER_STAGES_MAX || m->member >= n || m->ports.n != n || m->mesh > 1 ||
        !borders_are_sound(m->heads, n) || !borders_are_sound(m->columns, n) ||
        !borders_are_sound(m->runs, n) || (net_u32_at(m->runs, n) > 0) != stage_has_output(m))
        return false;
    const struct span self = net_str_at(m->team, m->member);
    return self.len == strlen(c->id.name) && memcmp(self.ptr, c->id.name, self.len) == 0;
}

/* What a PLAN says, checked against what this worker knows; false: it makes no sense. */
static bool plan_read(const struct worker_core *c, const struct net_msg_PLAN *m,
                      struct worker_plan *p)
{
    if (m->n_stages == 0 || m->n_stages > WORKER_STAGES_MAX || m->stage >= m->n_stages ||
        m->ring.n != m->n_stages)
        return false;
    if (m->layer0 >= m->layer1 || m->layer1 > c->n_layers || (m->stage == 0) != (m->layer0 == 0) ||
        (m->stage + 1 == m->n_stages) != (m->layer1 == c->n_layers))
        return false;
    if (m->output_first > 1 || !team_is_sound(c, m) || m->wire >= MODEL_N_WIRES)
        return false;
    if (m->max_rows == 0 || m->max_rows > MODEL_ROWS_MAX || m->chunk == 0 ||
        m->chunk > m->max_rows || m->max_rows < c->n_slots || m->groups == 0 ||
        m->groups > m->n_stages)
        return false;
    memset(p, 0, sizeof *p);
    p->epoch = m->epoch;
    p->n_stages = m->n_stages;
    p->stage = m->stage;
    p->layer0 = m->layer0;
    p->layer1 = m->layer1;
    p->max_rows = m->max_rows;
    p->chunk = m->chunk;
    p->groups = m->groups;
    p->n_pieces = m->n_pieces;
    p->member = m->member;
    p->n_members = m->team.n == 0 ? 1 : m->team.n;
    p->output_first = m->output_first != 0 && m->n_stages > 1;
    p->wire = (enum model_wire)m->wire;
    for (uint32_t i = 0; i < m->n_stages; i++) {
        const struct span s = net_str_at(m->ring, i);
        snprintf(p->ring[i], NET_NAME_MAX, "%.*s", (int)s.len, (const char *)s.ptr);
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(p->ring[k], p->ring[i]) == 0)
                return false;
    }
    return (strcmp(p->ring[p->stage], c->id.name) == 0) == (p->member == 0);
}

static void on_plan(struct worker_core *c, const struct net_msg *msg, struct worker_actions *out)
{
    const struct net_msg_PLAN *m = &msg->u.PLAN;
    if (m->epoch <= c->plan.epoch || m->epoch <= c->next.epoch) {
        worker_core_log(out, "stale message=PLAN epoch=%llx", (unsigned long long)m->epoch);
        return;
    }
    struct worker_plan p;
    drop_next(c);
    c->next.epoch = m->epoch;
    if (!plan_read(c, m, &p)) {
        worker_core_prepare_failed(c, out, "the plan does not fit this worker or its model");
        return;
    }
    c->next = p;
    c->prep = WORKER_PREP_MANIFEST;
    c->manifest_have = 0;
    worker_core_act(out, WORKER_ACT_PREPARE)->msg = *msg;
    const char *peers[2] = {next_peer(&c->next), first_peer(&c->next)};
    for (int i = 0; i < 2; i++)
        if (peers[i] != NULL && !worker_core_is_linked(c, peers[i]))
            worker_core_act(out, WORKER_ACT_CONNECT)->peer = peers[i];
    c->team_linked = p.n_members == 1;
    if (!c->team_linked)
        worker_core_act(out, WORKER_ACT_TEAM)->epoch = p.epoch;
    worker_core_log(out, "prepare epoch=%llx stage=%u/%u layers=%u-%u member=%u/%u",
                    (unsigned long long)p.epoch, p.stage, p.n_stages, p.layer0, p.layer1 - 1,
                    p.member, p.n_members);
}

static void on_manifest(struct worker_core *c, const struct net_msg *msg,
                        struct worker_actions *out)
{
    const struct net_msg_MANIFEST *m = &msg->u.MANIFEST;
    const size_t n = m->hashes.len / NET_HASH_BYTES;
    if (m->epoch != c->next.epoch || c->prep != WORKER_PREP_MANIFEST) {
        worker_core_log(out, "stale message=MANIFEST epoch=%llx", (unsigned long long)m->epoch);
        return;
    }
    if (m->first != c->manifest_have || m->hashes.len % NET_HASH_BYTES != 0 || n == 0 ||
        n > c->next.n_pieces - c->manifest_have) {
        worker_core_prepare_failed(c, out, "the plan's list of pieces is not in order");
        return;
    }
    c->manifest_have += (uint32_t)n;
    worker_core_act(out, WORKER_ACT_MANIFEST)->msg = *msg;
    if (c->manifest_have == c->next.n_pieces) {
        c->prep = WORKER_PREP_LOADING;
        worker_core_act(out, WORKER_ACT_LOAD)->epoch = c->next.epoch;
    }
}

static void check_links(struct worker_core *c, struct worker_actions *out)
{
    if (c->prep != WORKER_PREP_LINKS || !c->team_linked || !ring_linked(c, &c->next))
        return;
    c->prep = WORKER_PREP_READY;
    worker_core_report(c, out, 1, &c->loaded, "");
    worker_core_log(out, "prepared epoch=%llx", (unsigned long long)c->next.epoch);
}

static void on_loaded(struct worker_core *c, const struct worker_event *ev,
                      struct worker_actions *out)
{
    if (ev->epoch != c->next.epoch || c->prep != WORKER_PREP_LOADING)
        return;
    if (!ev->ok) {
        worker_core_prepare_failed(c, out, ev->reason);
        return;
    }
    c->loaded = (struct worker_event){.done_bytes = ev->done_bytes,
                                      .total_bytes = ev->total_bytes,
                                      .fetched_bytes = ev->fetched_bytes,
                                      .planned_bytes = ev->planned_bytes};
    c->prep = WORKER_PREP_LINKS;
    check_links(c, out);
}

void worker_core_deactivate(struct worker_core *c, struct worker_actions *out)
{
    if (c->plan.epoch == 0 && c->next.epoch == 0)
        return;
    worker_core_ring_clear(c);
    worker_core_log(out, "deactivate epoch=%llx", (unsigned long long)c->plan.epoch);
    c->plan.epoch = 0;
    drop_next(c);
    c->move = (struct worker_move){0};
    worker_core_act(out, WORKER_ACT_DEACTIVATE);
}

void worker_core_activate(struct worker_core *c, struct worker_actions *out)
{
    assert(c->prep == WORKER_PREP_READY);
    worker_core_ring_clear(c);
    c->plan = c->next;
    drop_next(c);
    c->move = (struct worker_move){0};
    if (!worker_core_ring_init(c)) {
        c->plan.epoch = 0;
        worker_core_act(out, WORKER_ACT_DEACTIVATE);
        worker_core_act(out, WORKER_ACT_RECONNECT);
        worker_core_log(out, "error reason=\"out of memory for the ring's queues\"");
        return;
    }
    worker_core_act(out, WORKER_ACT_ACTIVATE)->epoch = c->plan.epoch;
    worker_core_log(out, "activate epoch=%llx stage=%u", (unsigned long long)c->plan.epoch,
                    c->plan.stage);
}

/* ---- meeting --------------------------------------------------------------------------------- */

static void set_state(struct worker_core *c, enum worker_state s, struct worker_actions *out)
{
    static const char *const names[] = {"offline", "meeting", "card", "ready", "refused"};
    if (s != c->state)
        worker_core_log(out, "state from=%s to=%s", names[c->state], names[s]);
    c->state = s;
    c->state_ms = c->now_ms;
}

static void say_hello(struct worker_core *c, struct worker_actions *out)
{
    struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
    a->msg.code = NET_MSG_HELLO;
    a->msg.u.HELLO = (struct net_msg_HELLO){
        .wire = NET_WIRE_VERSION,
        .numerics = c->id.numerics,
        .kernels = base_span_str(c->id.kernels),
        .fast = c->id.fast,
        .threads = c->id.threads,
        .memory_bytes = c->id.memory_bytes,
        .data = base_span_str(c->id.data),
        .team_port = c->id.team_port,
    };
    c->heard_ms = c->now_ms;
    set_state(c, WORKER_MEETING, out);
}

static void refuse(struct worker_core *c, struct worker_actions *out, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void refuse(struct worker_core *c, struct worker_actions *out, const char *fmt, ...)
{
    struct worker_action *a = worker_core_act(out, WORKER_ACT_QUIT);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->text, sizeof a->text, fmt, ap);
    va_end(ap);
    set_state(c, WORKER_REFUSED, out);
}

static void on_welcome(struct worker_core *c, const struct net_msg *msg, struct worker_actions *out)
{
    const struct net_msg_WELCOME *m = &msg->u.WELCOME;
    if (m->wire != NET_WIRE_VERSION) {
        refuse(c, out,
               "the coordinator speaks wire version %u, this worker %u: install the same version "
               "on both",
               m->wire, (unsigned)NET_WIRE_VERSION);
        return;
    }
    if (m->numerics != c->id.numerics) {
        refuse(c, out,
               "the coordinator's kernels give the bits %016llx, this worker's %016llx: one build "
               "is at fault",
               (unsigned long long)m->numerics, (unsigned long long)c->id.numerics);
        return;
    }
    if (m->slots == 0 || m->slots > MODEL_SLOTS_MAX || m->context == 0 ||
        m->context > MODEL_CONTEXT_MAX || m->kv >= KERN_N_KV_TYPES || m->heartbeat_ms == 0 ||
        m->dead_ms < m->heartbeat_ms || m->report_ms == 0) {
        refuse(c, out, "the coordinator's settings are out of range");
        return;
    }
    /* Plans of an earlier life of either side mean nothing to this coordinator any more. */
    worker_core_deactivate(c, out);
    c->incarnation = m->incarnation;
    c->context = m->context;
    c->n_slots = m->slots;
    c->heartbeat_ms = m->heartbeat_ms;
    c->dead_ms = m->dead_ms;
    c->report_ms = m->report_ms;
    c->beat_ms = c->read_ms = c->now_ms;
    c->round_trip_ms = NAN;
    worker_core_act(out, WORKER_ACT_CARD)->msg = *msg;
    set_state(c, WORKER_CARD, out);
}

static void on_card(struct worker_core *c, const struct worker_event *ev,
                    struct worker_actions *out)
{
    if (c->state != WORKER_CARD)
        return;
    if (!ev->ok) {
        refuse(c, out, "the model's card cannot be used: %s", ev->reason);
        return;
    }
    worker_core_act(out, WORKER_ACT_CONTROL)->msg =
        (struct net_msg){.code = NET_MSG_READY, .u.READY = {c->incarnation}};
    c->n_layers = ev->shape->n_layers;
    c->n_embd = ev->shape->n_embd;
    c->kv_row_bytes = ev->kv_row_bytes;
    set_state(c, WORKER_READY, out);
    /* A card that came late must not look like silence. */
    c->heard_ms = c->now_ms;
}

/* ---- control messages ------------------------------------------------------------------------ */

enum { IN_MEETING = 1 << WORKER_MEETING, IN_CARD = 1 << WORKER_CARD, IN_READY = 1 << WORKER_READY };

/* Control messages and the states that list them. */
static const struct {
    enum net_code code;
    unsigned states;
} permitted[] = {
    {NET_MSG_WELCOME, IN_MEETING},
    {NET_MSG_REFUSE, IN_MEETING | IN_CARD | IN_READY},
    {NET_MSG_BEAT_BACK, IN_CARD | IN_READY},
    {NET_MSG_PROFILE, IN_READY},
    {NET_MSG_TEST_LINK, IN_READY},
    {NET_MSG_PLAN, IN_READY},
    {NET_MSG_MANIFEST, IN_READY},
    {NET_MSG_STOCK, IN_READY},
    {NET_MSG_INHERIT, IN_READY},
    {NET_MSG_CHECKPOINT, IN_READY},
    {NET_MSG_COMMIT, IN_READY},
    {NET_MSG_OPEN, IN_READY},
    {NET_MSG_CLOSE, IN_READY},
};

/* A sign of life, and the time there and back. */
static void on_beat_back(struct worker_core *c, const struct net_msg_BEAT_BACK *m)
{
    if (m->nonce != c->nonce)
        return;
    const double ms = (double)(c->now_ms - c->sent_ms);
    c->round_trip_ms = isnan(c->round_trip_ms) ? ms : 0.8 * c->round_trip_ms + 0.2 * ms;
}

/* A plan that this worker is not part of, or no more, ends what is in force here. */
static void on_commit(struct worker_core *c, uint64_t epoch, struct worker_actions *out)
{
    if (epoch == c->next.epoch && c->prep == WORKER_PREP_READY)
        worker_core_activate(c, out);
    else if (epoch > c->plan.epoch)
        worker_core_deactivate(c, out);
}

static bool is_permitted(const struct worker_core *c, enum net_code code)
{
    for (size_t i = 0; i < sizeof permitted / sizeof *permitted; i++)
        if (permitted[i].code == code)
            return (permitted[i].states >> c->state & 1) != 0;
    return false;
}

static void on_control(struct worker_core *c, const struct net_msg *m, struct worker_actions *out)
{
    c->heard_ms = c->now_ms;
    if (!is_permitted(c, m->code)) {
        worker_core_log(out, "unexpected message=%s state=%d", net_msg_name(m->code),
                        (int)c->state);
        return;
    }
    switch ((int)m->code) {
    case NET_MSG_WELCOME:
        on_welcome(c, m, out);
        break;
    case NET_MSG_REFUSE:
        refuse(c, out, "the coordinator refused this worker: %.*s", (int)m->u.REFUSE.reason.len,
               (const char *)m->u.REFUSE.reason.ptr);
        break;
    case NET_MSG_PROFILE:
        worker_core_act(out, WORKER_ACT_PROFILE)->msg = *m;
        break;
    case NET_MSG_TEST_LINK:
        worker_core_act(out, WORKER_ACT_TEST_LINK)->msg = *m;
        break;
    case NET_MSG_PLAN:
        on_plan(c, m, out);
        break;
    case NET_MSG_MANIFEST:
        on_manifest(c, m, out);
        break;
    case NET_MSG_STOCK:
        if (m->u.STOCK.hashes.len == (size_t)m->u.STOCK.pieces.n * NET_HASH_BYTES)
            worker_core_act(out, WORKER_ACT_STOCK)->msg = *m;
        else
            worker_core_log(out, "bad message=STOCK: as many hashes as pieces are to be in it");
        break;
    case NET_MSG_INHERIT:
        worker_core_inherit(c, &m->u.INHERIT, out);
        break;
    case NET_MSG_CHECKPOINT:
        worker_core_checkpoint(c, &m->u.CHECKPOINT, out);
        break;
    case NET_MSG_COMMIT:
        on_commit(c, m->u.COMMIT.epoch, out);
        break;
    case NET_MSG_OPEN:
        worker_core_open(c, &m->u.OPEN, out);
        break;
    case NET_MSG_CLOSE:
        worker_core_close(c, &m->u.CLOSE, out);
        break;
    default:
        on_beat_back(c, &m->u.BEAT_BACK);
        break;
    }
}

/* ---- time ------------------------------------------------------------------------------------ */

static void on_tick(struct worker_core *c, const struct worker_event *ev,
                    struct worker_actions *out)
{
    if (c->state == WORKER_OFFLINE || c->state == WORKER_REFUSED)
        return;
    if (c->now_ms - c->heard_ms > (int64_t)c->dead_ms) {
        worker_core_log(out, "silent peer=coordinator ms=%lld",
                        (long long)(c->now_ms - c->heard_ms));
        worker_core_act(out, WORKER_ACT_RECONNECT);
        set_state(c, WORKER_OFFLINE, out);
        return;
    }
    if (c->state == WORKER_MEETING)
        return;
    if (c->now_ms >= c->read_ms) {
        c->read_ms = c->now_ms + c->report_ms;
        worker_core_act(out, WORKER_ACT_READ);
    }
    if (c->now_ms < c->beat_ms)
        return;
    c->beat_ms = c->now_ms + c->heartbeat_ms;
    c->sent_ms = c->now_ms;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
    a->msg.code = NET_MSG_BEAT;
    a->msg.u.BEAT = (struct net_msg_BEAT){++c->nonce, ev->load.passes, ev->load.busy_us,
                                          ev->load.working ? 1u : 0u};
}

static void on_read(struct worker_core *c, const struct worker_event *ev,
                    struct worker_actions *out)
{
    const struct worker_readings *r = ev->readings;
    if (c->state != WORKER_CARD && c->state != WORKER_READY)
        return;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
    a->msg.code = NET_MSG_REPORT;
    a->msg.u.REPORT = (struct net_msg_REPORT){
        .memory_free = r->memory_free,
        .memory_used = r->memory_used,
        .memory_own = r->memory_own,
        .memory_pressure = net_to_wire(r->memory_pressure),
        .cpu_pressure = net_to_wire(r->cpu_pressure),
        .temperature = net_to_wire(r->temperature),
        .clock = net_to_wire(r->clock),
        .flags = r->flags,
        .battery = net_to_wire(r->battery),
        .power = net_to_wire(r->power),
        .waiting = worker_core_waiting(c),
        .decode_passes = ev->load.decode_passes,
        .decode_rows = ev->load.decode_rows,
        .decode_us = ev->load.decode_us,
        .share = r->quota > 0 && r->quota < c->id.threads ? r->quota / c->id.threads : 1,
        .round_trip = net_to_wire(c->round_trip_ms),
    };
}

int64_t worker_core_deadline_ms(const struct worker_core *c)
{
    if (c->state == WORKER_OFFLINE || c->state == WORKER_REFUSED)
        return INT64_MAX;
    const int64_t silent = c->heard_ms + c->dead_ms + 1;
    const int64_t next = c->read_ms < c->beat_ms ? c->read_ms : c->beat_ms;
    return c->state == WORKER_MEETING || silent < next ? silent : next;
}

/* ---- the step -------------------------------------------------------------------------------- */

static void on_ring_down(struct worker_core *c, const struct worker_event *ev,
                         struct worker_actions *out)
{
    set_linked(c, ev->peer, false);
    if (c->prep == WORKER_PREP_READY && !ring_linked(c, &c->next))
        worker_core_prepare_failed(c, out, "a ring connection broke while the plan waited");
    worker_core_move_lost(c, ev->peer, ev->reason, out);
    if (plan_has(&c->plan, ev->peer))
        worker_core_link_lost(c, out, ev->peer, ev->reason);
}

static void on_ring_message(struct worker_core *c, const struct worker_event *ev,
                            struct worker_actions *out)
{
    if (ev->msg->code == NET_MSG_KV_ASK)
        worker_core_kv_ask(c, ev->peer, &ev->msg->u.KV_ASK, out);
    else if (ev->msg->code == NET_MSG_KV_ROWS)
        worker_core_kv_rows(c, ev->peer, &ev->msg->u.KV_ROWS, out);
    else
        worker_core_ring_message(c, ev->peer, ev->msg, out);
}

static void pass_control_message(const struct worker_event *ev, struct worker_actions *out)
{
    worker_core_act(out, WORKER_ACT_CONTROL)->msg = *ev->msg;
}

void worker_core_step(struct worker_core *c, const struct worker_event *ev,
                      struct worker_actions *out)
{
    out->n = 0;
    c->now_ms = ev->now_ms;
    switch (ev->type) {
    case WORKER_EV_TICK:
        on_tick(c, ev, out);
        break;
    case WORKER_EV_READ:
        on_read(c, ev, out);
        break;
    case WORKER_EV_CONTROL_UP:
        say_hello(c, out);
        break;
    case WORKER_EV_CONTROL_DOWN:
        if (c->state != WORKER_REFUSED)
            set_state(c, WORKER_OFFLINE, out);
        break;
    case WORKER_EV_CONTROL:
        on_control(c, ev->msg, out);
        break;
    case WORKER_EV_RING:
        on_ring_message(c, ev, out);
        break;
    case WORKER_EV_RING_UP:
        set_linked(c, ev->peer, true);
        check_links(c, out);
        break;
    case WORKER_EV_RING_DOWN:
        on_ring_down(c, ev, out);
        break;
    case WORKER_EV_RING_BROKEN:
        worker_core_move_lost(c, ev->peer, ev->reason, out);
        if (plan_has(&c->plan, ev->peer))
            worker_core_link_lost(c, out, ev->peer, ev->reason);
        break;
    case WORKER_EV_CARD:
        on_card(c, ev, out);
        break;
    case WORKER_EV_PROFILED:
    case WORKER_EV_LINK_TESTED:
        if (c->state == WORKER_READY)
            pass_control_message(ev, out);
        break;
    case WORKER_EV_FETCHED:
        if (ev->epoch == c->next.epoch && c->prep == WORKER_PREP_LOADING)
            worker_core_report(c, out, 0, ev, "");
        break;
    case WORKER_EV_LOADED:
        on_loaded(c, ev, out);
        break;
    case WORKER_EV_TEAM_UP:
        c->team_linked = c->team_linked || ev->epoch == c->next.epoch;
        check_links(c, out);
        break;
    case WORKER_EV_TEAM_LOST:
        if (ev->epoch != 0 && ev->epoch == c->plan.epoch)
            worker_core_link_lost(c, out, ev->peer, ev->reason);
        break;
    case WORKER_EV_KV_FAILED:
        worker_core_move_failed(c, out);
        break;
    case WORKER_EV_PASS:
        worker_core_pass_done(c, ev->pass, out);
        break;
    }
    worker_core_move_pump(c, out);
    worker_core_pump(c, out);
    assert(worker_core_invariant(c) == NULL);
}

uint64_t worker_core_epoch(const struct worker_core *c)
{
    return c->plan.epoch;
}
