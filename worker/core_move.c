/* The worker core: KV rows that are taken over from the plan in force, or copied.
 *
 * Once a plan is ready, the coordinator may have its workers take the KV rows that their heads and
 * layers have under the plan in force, which serves on: rows of positions that have passed every
 * stage are written no more. INHERIT names the slots, the rows of each, and who holds which part of
 * this worker's slice. What the worker holds itself is copied; the rest is asked for, some rows at a
 * time and WINDOW messages ahead, so that hidden states on the same connections do not wait long.
 * The donor answers from the cache that it computes on and keeps it until the next plan is in force.
 *
 * A round ends with PREPARED, like loading. COMMIT may come at any time: what has not arrived by
 * then is computed again from the tokens, by the canonical numerics to the same bits.
 *
 * CHECKPOINT is the same for one slot of one donor, into a copy beside the plan in force, and ends with
 * CHECKPOINTED. When the donor is lost the copy is what INHERIT names in its place; the plan that was
 * in force has broken then, and its rows and copies stay until another is. INHERIT goes before: it
 * ends a round of copying without a word.
 *
 * Invariant: rows are asked for only while a plan waits, ready, or for a copy beside the plan in force,
 * and an answer is taken only where it has the number of a question to that donor that is open. */
#include "worker/core_private.h"

#include <string.h>

enum { PART_BYTES = 32768 }; /* of one answer, about */

/* ---- what INHERIT says ----------------------------------------------------------------------- */

static bool read_slots(const struct worker_core *c, const struct net_msg_INHERIT *m,
                       struct worker_move *to)
{
    to->n_slots = m->slots.n;
    if (m->slots.n > c->n_slots || m->first.n != m->slots.n || m->end.n != m->slots.n)
        return false;
    for (uint32_t i = 0; i < to->n_slots; i++) {
        to->slots[i] = net_u32_at(m->slots, i);
        to->first[i] = net_u32_at(m->first, i);
        to->end[i] = net_u32_at(m->end, i);
        if (to->slots[i] >= c->n_slots || to->first[i] > to->end[i] || to->end[i] > c->context)
            return false;
    }
    return true;
}

static bool read_parts(const struct worker_core *c, const struct net_msg_INHERIT *m,
                       struct worker_move *to)
{
    const uint32_t n = m->donors.n;
    to->n_parts = n;
    if (n > WORKER_STAGES_MAX || m->layer0.n != n || m->layer1.n != n ||
        m->head0.n != n || m->head1.n != n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        struct worker_move_part *p = &to->parts[i];
        const struct span name = net_str_at(m->donors, i);
        snprintf(p->donor, sizeof p->donor, "%.*s", (int)name.len, (const char *)name.ptr);
        p->layer0 = net_u32_at(m->layer0, i);
        p->layer1 = net_u32_at(m->layer1, i);
        p->head0 = net_u32_at(m->head0, i);
        p->head1 = net_u32_at(m->head1, i);
        if (p->layer0 < c->next.layer0 || p->layer0 >= p->layer1 || p->layer1 > c->next.layer1 ||
            p->head0 >= p->head1 || p->head1 > MODEL_HEADS_MAX)
            return false;
    }
    return true;
}

/* ---- taking ---------------------------------------------------------------------------------- */

static void end_round(struct worker_core *c)
{
    c->move = (struct worker_move){.done = c->move.done, .bytes = c->move.bytes};
}

/* A round of copying is over: the coordinator is told, with a reason where it failed. */
static void copied(struct worker_core *c, struct worker_actions *out, const char *why)
{
    struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
    snprintf(a->text, sizeof a->text, "%s", why);
    a->msg.code = NET_MSG_CHECKPOINTED;
    a->msg.u.CHECKPOINTED = (struct net_msg_CHECKPOINTED){c->move.from, c->move.round,
                                                          net_text_fit(a->text, 300)};
    end_round(c);
}

static bool is_self(const struct worker_core *c, const struct worker_move_part *p)
{
    return strcmp(p->donor, c->id.name) == 0;
}

static void give_up(struct worker_core *c, struct worker_actions *out, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void give_up(struct worker_core *c, struct worker_actions *out, const char *fmt, ...)
{
    char why[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    if (c->move.copies)
        copied(c, out, why);
    else
        worker_core_prepare_failed(c, out, why);
}

/* What it holds itself, all layers of a slot at once. */
static void copy_own(struct worker_core *c, const struct worker_move_part *p,
                     struct worker_actions *out)
{
    const struct worker_move *m = &c->move;
    for (uint32_t i = 0; i < m->n_slots; i++) {
        if (m->first[i] == m->end[i])
            continue;
        struct worker_action *a = worker_core_act(out, WORKER_ACT_KV_COPY);
        a->epoch = m->from;
        a->kv_layers = p->layer1 - p->layer0;
        a->kv = (struct model_kv_rows){p->layer0,   p->head0,    p->head1,
                                       m->slots[i], m->first[i], m->end[i] - m->first[i]};
    }
}

/* Rows of one answer: as many as PART_BYTES hold, one at least. */
static uint32_t rows_of(const struct worker_core *c, const struct worker_move_part *p, uint32_t left)
{
    const size_t row = c->kv_row_bytes * (p->head1 - p->head0);
    const uint32_t most = row < PART_BYTES ? (uint32_t)(PART_BYTES / row) : 1;
    return left < most ? left : most;
}

/* The next rows of a slot and layer that another worker has; false: all have been asked for. */
static bool next_rows(struct worker_core *c, struct model_kv_rows *out)
{
    struct worker_move *m = &c->move;
    for (; m->part < m->n_parts; m->part++, m->layer = 0) {
        const struct worker_move_part *p = &m->parts[m->part];
        if (is_self(c, p))
            continue;
        for (; p->layer0 + m->layer < p->layer1; m->layer++, m->slot = 0) {
            for (; m->slot < m->n_slots; m->slot++, m->row = 0) {
                const uint32_t at = m->first[m->slot] + m->row, end = m->end[m->slot];
                if (at == end)
                    continue;
                *out = (struct model_kv_rows){p->layer0 + m->layer, p->head0, p->head1,
                                              m->slots[m->slot],    at,       rows_of(c, p, end - at)};
                m->row += out->rows;
                return true;
            }
        }
    }
    return false;
}

static bool all_linked(const struct worker_core *c)
{
    for (uint32_t i = 0; i < c->move.n_parts; i++)
        if (!is_self(c, &c->move.parts[i]) && !worker_core_is_linked(c, c->move.parts[i].donor))
            return false;
    return true;
}

void worker_core_move_pump(struct worker_core *c, struct worker_actions *out)
{
    struct worker_move *m = &c->move;
    struct model_kv_rows r;
    if (m->round == 0 || !all_linked(c))
        return;
    while (m->n_asked < WORKER_MOVE_WINDOW && next_rows(c, &r)) {
        m->asked[m->n_asked++] = (struct worker_move_ask){++c->n_asked, m->part, r};
        struct worker_action *a = worker_core_act(out, WORKER_ACT_RING);
        a->peer = m->parts[m->part].donor;
        a->msg.code = NET_MSG_KV_ASK;
        a->msg.u.KV_ASK = (struct net_msg_KV_ASK){m->from, r.layer, r.head0, r.head1,
                                                  r.slot,  r.first, r.rows, c->n_asked};
    }
    if (m->n_asked > 0)
        return;
    if (m->copies) {
        copied(c, out, "");
        return;
    }
    m->done = m->round;
    m->round = 0;
    worker_core_report(c, out, 1, &c->loaded, "");
}

void worker_core_inherit(struct worker_core *c, const struct net_msg_INHERIT *m,
                         struct worker_actions *out)
{
    struct worker_move to = {
        .from = m->from, .round = m->round, .done = c->move.done, .bytes = c->move.bytes};
    bool own = false;
    if (m->epoch != c->next.epoch || c->prep != WORKER_PREP_READY || m->round == 0) {
        worker_core_log(out, "stale message=INHERIT epoch=%llx", (unsigned long long)m->epoch);
        return;
    }
    bool sound = read_slots(c, m, &to) && read_parts(c, m, &to);
    for (uint32_t i = 0; sound && i < to.n_parts; i++)
        own = own || is_self(c, &to.parts[i]);
    c->move = to;
    if (!sound || (own && (to.from == 0 || to.from != c->plan.epoch))) {
        give_up(c, out, "what it is to inherit does not fit its plans");
        return;
    }
    for (uint32_t i = 0; i < to.n_parts; i++) {
        const struct worker_move_part *p = &c->move.parts[i];
        if (is_self(c, p))
            copy_own(c, p, out);
        else if (!worker_core_is_linked(c, p->donor))
            worker_core_act(out, WORKER_ACT_CONNECT)->peer = p->donor;
    }
}

void worker_core_checkpoint(struct worker_core *c, const struct net_msg_CHECKPOINT *m,
                            struct worker_actions *out)
{
    struct worker_move to = {.from = m->epoch,
                             .copies = true,
                             .round = m->round,
                             .done = c->move.done,
                             .bytes = c->move.bytes,
                             .n_parts = 1,
                             .n_slots = 1,
                             .slots = {m->slot},
                             .first = {m->first},
                             .end = {m->end}};
    struct worker_move_part *const p = &to.parts[0];
    *p = (struct worker_move_part){"", m->layer0, m->layer1, m->head0, m->head1};
    snprintf(p->donor, sizeof p->donor, "%.*s", (int)m->owner.len, (const char *)m->owner.ptr);
    if (m->epoch != c->plan.epoch || c->plan.epoch == 0 || m->round == 0) {
        worker_core_log(out, "stale message=CHECKPOINT epoch=%llx", (unsigned long long)m->epoch);
        return;
    }
    if (p->donor[0] == 0) {
        to.round = 0;
        c->move = to;
        worker_core_act(out, WORKER_ACT_KV_ROOM)->epoch = c->plan.epoch;
        return;
    }
    c->move = to;
    if (m->layer0 >= m->layer1 || m->layer1 > c->n_layers || m->head0 >= m->head1 ||
        m->head1 > MODEL_HEADS_MAX || m->slot >= c->n_slots || m->first > m->end ||
        m->end > c->context || is_self(c, p)) {
        give_up(c, out, "what it is to copy makes no sense");
        return;
    }
    if (m->begins != 0) {
        struct worker_action *a = worker_core_act(out, WORKER_ACT_KV_ROOM);
        a->epoch = c->plan.epoch;
        a->kv_layers = m->layer1 - m->layer0;
        a->kv = (struct model_kv_rows){.layer = m->layer0, .head0 = m->head0, .head1 = m->head1};
    }
    if (!worker_core_is_linked(c, p->donor))
        worker_core_act(out, WORKER_ACT_CONNECT)->peer = c->move.parts[0].donor;
}

/* ---- answers --------------------------------------------------------------------------------- */

void worker_core_kv_rows(struct worker_core *c, const char *peer, const struct net_msg_KV_ROWS *m,
                         struct worker_actions *out)
{
    struct worker_move *v = &c->move;
    const struct model_kv_rows r = {m->layer, m->head0, m->head1, m->slot, m->first, m->rows};
    uint32_t i = 0;
    while (i < v->n_asked && (v->asked[i].number != m->number ||
                              memcmp(&v->asked[i].rows, &r, sizeof r) != 0 ||
                              strcmp(v->parts[v->asked[i].part].donor, peer) != 0))
        i++;
    if (v->round == 0 || m->epoch != v->from || i == v->n_asked)
        return; /* of a round or plan that is over */
    if (m->kv.len != c->kv_row_bytes * r.rows * (r.head1 - r.head0)) {
        give_up(c, out, "%s has no KV rows of layer %u for it any more", peer, r.layer);
        return;
    }
    memmove(&v->asked[i], &v->asked[i + 1], (--v->n_asked - i) * sizeof *v->asked);
    v->bytes += v->copies ? 0 : m->kv.len;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_KV_WRITE);
    a->kv = r;
    a->to_copy = v->copies;
    if (!v->copies && c->now_ms - v->said_ms >= (int64_t)c->heartbeat_ms) {
        v->said_ms = c->now_ms;
        worker_core_report(c, out, 0, &c->loaded, "");
    }
}

void worker_core_kv_ask(struct worker_core *c, const char *peer, const struct net_msg_KV_ASK *m,
                        struct worker_actions *out)
{
    struct worker_action *a = worker_core_act(out, WORKER_ACT_KV_SEND);
    a->peer = peer;
    a->epoch = m->epoch;
    a->kv = (struct model_kv_rows){m->layer, m->head0, m->head1, m->slot, m->first, m->rows};
    a->has_rows = m->epoch != 0 && m->epoch == c->plan.epoch;
}

void worker_core_move_lost(struct worker_core *c, const char *peer, const char *reason,
                           struct worker_actions *out)
{
    const struct worker_move *m = &c->move;
    for (uint32_t i = 0; m->round > 0 && i < m->n_parts; i++) {
        if (strcmp(m->parts[i].donor, peer) != 0)
            continue;
        /* What has been copied is for this very case; the coordinator hears of the loss, too. */
        if (m->copies)
            end_round(c);
        else
            give_up(c, out, "its KV rows cannot be had from %s: %.120s", peer, reason);
        return;
    }
}

void worker_core_move_failed(struct worker_core *c, struct worker_actions *out)
{
    if (c->move.round > 0)
        give_up(c, out, c->move.copies ? "it has no room for a copy"
                                       : "KV rows that it is to inherit are not in its cache");
}
