/* The simulator's connections: a life number decides what is delivered.
 *
 * A link is made by one side and listened to by the other; each life has a number of its own, and
 * both sides learn of its beginning and its end at their own times. A message belongs to the life
 * in which it was sent: it arrives in order or, once the life has ended, never. So what net
 * promises of its connections is what the cores get here, at its worst: everything in flight is
 * lost at the end, and a sender may go on for a while without noticing. Messages are encoded and
 * decoded, so that the codec takes part.
 *
 * A partition leaves lives alone at first: what is sent through it is held or lost, without a word.
 * A life in which something was lost ends when the partition does, as a network forgets connections;
 * a ring connection ends when its sender has waited for too long. */
#include "tests/sim/sim.h"

#include <string.h>

enum { AGAIN_US = 300000, SILENT_LEAST_US = 5000000, SILENT_US = 30000000 };

static bool in_order_of_life(const struct sim_link *l, const struct sim_event *ev, uint64_t known)
{
    return (ev->arrived || (l->alive && l->life == ev->life)) && known == ev->life;
}

bool sim_link_delivers(const struct sim *s, const struct sim_event *ev)
{
    const bool worker = ev->node >= SIM_WORKER0 && ev->node < SIM_CLIENT0;
    const struct sim_worker *k = worker ? &s->workers[ev->node - SIM_WORKER0] : NULL;
    const struct sim_link *control = worker ? &k->control : NULL, *out = NULL, *in = NULL;
    if (worker && (ev->kind == SIM_ON_RING)) {
        out = &k->ring[ev->peer - SIM_WORKER0];
        in = &s->workers[ev->peer - SIM_WORKER0].ring[ev->node - SIM_WORKER0];
    } else if (ev->node == SIM_COORDINATOR && ev->kind == SIM_ON_CONTROL) {
        control = &s->workers[ev->peer - SIM_WORKER0].control;
    }
    switch (ev->what) {
    case SIM_NODE_UP:
        return control->alive && control->life == ev->life;
    case SIM_NODE_MSG:
        return in_order_of_life(control, ev, control->far);
    case SIM_NODE_DOWN:
        return control->far == ev->life;
    case SIM_CONTROL_UP:
        return ev->arrived || (control->alive && control->life == ev->life);
    case SIM_CONTROL_MSG:
        return in_order_of_life(control, ev, control->near);
    case SIM_RING_UP:
    case SIM_RING_ANSWER:
        return ev->arrived || (out->alive && out->life == ev->life);
    case SIM_RING_MSG:
        return ev->arrived || (in->alive && in->life == ev->life);
    case SIM_RING_BROKEN:
        return ev->life == 0 || in->far == ev->life;
    case SIM_CLIENT_MSG:
        return s->clients[ev->peer - SIM_CLIENT0].connection == ev->life &&
               s->coord_process == ev->arg;
    case SIM_CLIENT_DOWN:
        return s->coord_process == ev->arg;
    case SIM_ANSWER_MSG:
        return s->clients[ev->node - SIM_CLIENT0].connection == ev->life;
    default:
        return true;
    }
}

/* ---- control --------------------------------------------------------------------------------- */

void sim_control_want(struct sim *s, uint32_t w, int64_t delay_us)
{
    sim_push(s,
             (struct sim_event){.node = SIM_WORKER0 + w,
                                .what = SIM_CONNECT_CONTROL,
                                .arg = s->workers[w].process},
             delay_us);
}

static void connect_control(struct sim *s, uint32_t w)
{
    struct sim_worker *k = &s->workers[w];
    struct sim_link *l = &k->control;
    if (l->alive || l->near != 0)
        return;
    if (s->coord == NULL || l->cut_until_us > s->now_us || w >= s->config.n_workers) {
        sim_control_want(s, w, AGAIN_US);
        return;
    }
    l->life = ++s->lives;
    l->alive = true;
    sim_push_in_order(
        s,
        (struct sim_event){
            .node = SIM_WORKER0 + w, .what = SIM_CONTROL_UP, .life = l->life, .arg = k->process},
        &l->in);
    sim_push_in_order(
        s,
        (struct sim_event){
            .node = SIM_COORDINATOR, .what = SIM_NODE_UP, .peer = SIM_WORKER0 + w, .life = l->life},
        &l->out);
}

void sim_control_end(struct sim *s, uint32_t w, int64_t near_us, int64_t far_us)
{
    struct sim_worker *k = &s->workers[w];
    struct sim_link *l = &k->control;
    if (!l->alive)
        return;
    l->alive = false;
    near_us = l->in.cut_until_us > s->now_us ? -1 : near_us;
    far_us = l->out.cut_until_us > s->now_us ? -1 : far_us;
    if (near_us >= 0)
        sim_push(s,
                 (struct sim_event){.node = SIM_WORKER0 + w,
                                    .what = SIM_CONTROL_DOWN,
                                    .life = l->life,
                                    .arg = k->process},
                 near_us);
    if (far_us >= 0)
        sim_push(s,
                 (struct sim_event){.node = SIM_COORDINATOR,
                                    .what = SIM_NODE_DOWN,
                                    .peer = SIM_WORKER0 + w,
                                    .life = l->life},
                 far_us);
}

/* One line a message, but for heartbeats. */
static void say_message(struct sim *s, uint32_t from, uint32_t to, const struct net_msg *m)
{
    if (m->code == NET_MSG_BEAT || m->code == NET_MSG_BEAT_BACK || (!s->text && !s->print))
        return;
    char more[120] = "";
    if (m->code == NET_MSG_ROWS)
        snprintf(more, sizeof more, " epoch=%llx kind=%u n=%u first=%llu@%u",
                 (unsigned long long)m->u.ROWS.epoch, m->u.ROWS.kind, m->u.ROWS.requests.n,
                 (unsigned long long)net_u64_at(m->u.ROWS.requests, 0),
                 net_u32_at(m->u.ROWS.positions, 0));
    else if (m->code == NET_MSG_TOKENS)
        snprintf(more, sizeof more, " epoch=%llx n=%u first=%llu@%u",
                 (unsigned long long)m->u.TOKENS.epoch, m->u.TOKENS.requests.n,
                 (unsigned long long)net_u64_at(m->u.TOKENS.requests, 0),
                 net_u32_at(m->u.TOKENS.positions, 0));
    else if (m->code == NET_MSG_OPEN)
        snprintf(more, sizeof more, " request=%llu slot=%u tokens=%u start=%u",
                 (unsigned long long)m->u.OPEN.request, m->u.OPEN.slot, m->u.OPEN.tokens.n,
                 m->u.OPEN.start);
    else if (m->code == NET_MSG_CLOSE)
        snprintf(more, sizeof more, " request=%llu slot=%u", (unsigned long long)m->u.CLOSE.request,
                 m->u.CLOSE.slot);
    else if (m->code == NET_MSG_PREPARED)
        snprintf(more, sizeof more, " epoch=%llx state=%u fetched=%llu",
                 (unsigned long long)m->u.PREPARED.epoch, m->u.PREPARED.state,
                 (unsigned long long)m->u.PREPARED.fetched_bytes);
    else if (m->code == NET_MSG_STARTED)
        snprintf(more, sizeof more, " rows=%llu dropped=%llu",
                 (unsigned long long)m->u.STARTED.rows, (unsigned long long)m->u.STARTED.dropped);
    sim_say(s, "%s>%s %s%s", sim_name(s, from), sim_name(s, to), net_msg_name(m->code), more);
}

bool sim_control_up(struct sim *s, uint32_t w, const struct net_msg *m)
{
    struct sim_link *l = &s->workers[w].control;
    if (l->near == 0)
        return false;
    say_message(s, SIM_WORKER0 + w, SIM_COORDINATOR, m);
    sim_push_msg(s,
                 (struct sim_event){.node = SIM_COORDINATOR,
                                    .what = SIM_NODE_MSG,
                                    .peer = SIM_WORKER0 + w,
                                    .life = l->near},
                 &l->out, m);
    return true;
}

bool sim_control_down(struct sim *s, uint32_t w, const struct net_msg *m)
{
    struct sim_worker *k = &s->workers[w];
    if (k->control.far == 0)
        return false;
    say_message(s, SIM_COORDINATOR, SIM_WORKER0 + w, m);
    sim_push_msg(s,
                 (struct sim_event){.node = SIM_WORKER0 + w,
                                    .what = SIM_CONTROL_MSG,
                                    .life = k->control.far,
                                    .arg = k->process},
                 &k->control.in, m);
    return true;
}

/* ---- ring ------------------------------------------------------------------------------------ */

static void try_ring(struct sim *s, uint32_t from, uint32_t to, int64_t delay_us)
{
    sim_push(s,
             (struct sim_event){.node = SIM_WORKER0 + from,
                                .what = SIM_CONNECT_RING,
                                .peer = SIM_WORKER0 + to,
                                .arg = s->workers[from].process},
             delay_us);
}

void sim_ring_want(struct sim *s, uint32_t from, uint32_t to)
{
    struct sim_link *l = &s->workers[from].ring[to];
    if (l->wanted)
        return;
    l->wanted = true;
    try_ring(s, from, to, sim_between(s, 100, 5000));
}

static void connect_ring(struct sim *s, uint32_t from, uint32_t to)
{
    struct sim_worker *a = &s->workers[from], *b = &s->workers[to];
    struct sim_link *l = &a->ring[to];
    if (l->alive || l->near != 0)
        return;
    if (b->core == NULL || b->frozen_until_us > s->now_us || l->cut_until_us > s->now_us) {
        try_ring(s, from, to, AGAIN_US);
        return;
    }
    if (l->far != 0) /* the listener had not noticed the end of the life before */
        sim_push(s,
                 (struct sim_event){.node = SIM_WORKER0 + to,
                                    .what = SIM_RING_BROKEN,
                                    .peer = SIM_WORKER0 + from,
                                    .arg = b->process},
                 0);
    l->life = l->far = ++s->lives;
    l->alive = true;
    sim_push_in_order(s,
                      (struct sim_event){.node = SIM_WORKER0 + from,
                                         .what = SIM_RING_UP,
                                         .peer = SIM_WORKER0 + to,
                                         .life = l->life,
                                         .arg = a->process},
                      &l->in);
}

void sim_ring_end(struct sim *s, uint32_t from, uint32_t to, int64_t near_us, int64_t far_us)
{
    struct sim_worker *a = &s->workers[from], *b = &s->workers[to];
    struct sim_link *l = &a->ring[to];
    if (!l->alive)
        return;
    l->alive = false;
    if (near_us >= 0)
        sim_push(s,
                 (struct sim_event){.node = SIM_WORKER0 + from,
                                    .what = SIM_RING_DOWN,
                                    .peer = SIM_WORKER0 + to,
                                    .life = l->life,
                                    .arg = a->process},
                 near_us);
    if (far_us >= 0)
        sim_push(s,
                 (struct sim_event){.node = SIM_WORKER0 + to,
                                    .what = SIM_RING_BROKEN,
                                    .peer = SIM_WORKER0 + from,
                                    .life = l->life,
                                    .arg = b->process},
                 far_us);
}

bool sim_ring_send(struct sim *s, uint32_t from, uint32_t to, const struct net_msg *m)
{
    struct sim_link *l = &s->workers[from].ring[to];
    if (l->near == 0)
        return false;
    say_message(s, SIM_WORKER0 + from, SIM_WORKER0 + to, m);
    sim_push_msg(s,
                 (struct sim_event){.node = SIM_WORKER0 + to,
                                    .what = SIM_RING_MSG,
                                    .peer = SIM_WORKER0 + from,
                                    .life = l->near,
                                    .arg = s->workers[to].process},
                 &l->out, m);
    return true;
}

void sim_ring_answer(struct sim *s, uint32_t from, uint32_t to, const struct net_msg *m)
{
    struct sim_link *l = &s->workers[to].ring[from];
    if (!l->alive || l->far == 0)
        return;
    say_message(s, SIM_WORKER0 + from, SIM_WORKER0 + to, m);
    sim_push_msg(s,
                 (struct sim_event){.node = SIM_WORKER0 + to,
                                    .what = SIM_RING_ANSWER,
                                    .peer = SIM_WORKER0 + from,
                                    .life = l->far,
                                    .arg = s->workers[to].process},
                 &l->in, m);
}

/* ---- partitions ------------------------------------------------------------------------------ */

bool sim_link_hears(const struct sim *s, uint32_t w)
{
    const struct sim_link *l = &s->workers[w].control;
    return l->alive && l->far == l->near && l->in.cut_until_us <= s->now_us &&
           l->in.gap != l->life;
}

static void cut_pipe(struct sim_pipe *pipe, int64_t until_us, bool held)
{
    pipe->cut_until_us = until_us > pipe->cut_until_us ? until_us : pipe->cut_until_us;
    pipe->held = held;
}

void sim_link_cut(struct sim *s, uint32_t from, uint32_t to, bool there, bool back, bool held,
                  int64_t until_us)
{
    const bool control = to == SIM_WORKERS_MAX;
    struct sim_worker *k = &s->workers[from];
    struct sim_link *l = control ? &k->control : &k->ring[to];
    if (there)
        cut_pipe(&l->out, until_us, held);
    if (back)
        cut_pipe(&l->in, until_us, held);
    l->cut_until_us = until_us > l->cut_until_us ? until_us : l->cut_until_us;
    const struct sim_event silent = {.node = SIM_WORLD,
                                     .what = SIM_SILENT,
                                     .peer = SIM_WORKER0 + from,
                                     .arg = control ? SIM_COORDINATOR : SIM_WORKER0 + to,
                                     .life = l->life};
    const int64_t patience_us = sim_between(s, SILENT_LEAST_US, SILENT_US);
    if (!l->alive)
        return;
    sim_push(s, silent, until_us - s->now_us);
    if (!control && patience_us < until_us - s->now_us)
        sim_push(s, silent, patience_us);
}

static void on_silent(struct sim *s, const struct sim_event *ev)
{
    const uint32_t from = ev->peer - SIM_WORKER0;
    const bool control = ev->arg == SIM_COORDINATOR;
    struct sim_worker *k = &s->workers[from];
    struct sim_link *l = control ? &k->control : &k->ring[ev->arg - SIM_WORKER0];
    const bool healed = l->cut_until_us <= s->now_us;
    const int64_t near_us = sim_between(s, 500, healed ? 50000 : SILENT_LEAST_US),
                  far_us = sim_between(s, 500, healed ? 50000 : SILENT_LEAST_US);
    if (!l->alive || l->life != ev->life || (healed && l->out.gap != l->life && l->in.gap != l->life))
        return;
    if (control)
        sim_control_end(s, from, near_us, far_us);
    else
        sim_ring_end(s, from, (uint32_t)ev->arg - SIM_WORKER0, near_us, far_us);
}

void sim_link_event(struct sim *s, const struct sim_event *ev)
{
    const uint32_t w = ev->node - SIM_WORKER0;
    if (ev->what == SIM_SILENT)
        on_silent(s, ev);
    else if (ev->what == SIM_CONNECT_CONTROL)
        connect_control(s, w);
    else if (ev->what == SIM_CONNECT_RING)
        connect_ring(s, w, ev->peer - SIM_WORKER0);
    else if (ev->what == SIM_CONTROL_DOWN && ev->life == s->workers[w].control.life)
        sim_control_want(s, w, sim_between(s, 1000, AGAIN_US));
    else if (ev->what == SIM_RING_DOWN &&
             ev->life == s->workers[w].ring[ev->peer - SIM_WORKER0].life)
        try_ring(s, w, ev->peer - SIM_WORKER0,
                 sim_between(s, 500, sim_draw(s, 2) == 0 ? 3000 : AGAIN_US));
}

/* ---- clients --------------------------------------------------------------------------------- */

bool sim_client_send(struct sim *s, uint32_t client, const struct net_msg *m)
{
    struct sim_client *c = &s->clients[client];
    if (c->connection == 0)
        return false;
    if (m->code != NET_MSG_ASK)
        say_message(s, SIM_CLIENT0 + client, SIM_COORDINATOR, m);
    sim_push_msg(s,
                 (struct sim_event){.node = SIM_COORDINATOR,
                                    .what = SIM_CLIENT_MSG,
                                    .peer = SIM_CLIENT0 + client,
                                    .life = c->connection,
                                    .arg = s->coord_process},
                 &c->out, m);
    return true;
}

bool sim_client_answer(struct sim *s, uint64_t connection, const struct net_msg *m)
{
    for (uint32_t i = 0; i < s->setup.n_requests; i++) {
        struct sim_client *c = &s->clients[i];
        if (connection == 0 || c->connection != connection)
            continue;
        say_message(s, SIM_COORDINATOR, SIM_CLIENT0 + i, m);
        sim_push_msg(
            s,
            (struct sim_event){.node = SIM_CLIENT0 + i, .what = SIM_ANSWER_MSG, .life = connection},
            &c->in, m);
        return true;
    }
    return false;
}

void sim_client_cut(struct sim *s, uint32_t client, int64_t notice_us)
{
    struct sim_client *c = &s->clients[client];
    if (c->connection == 0)
        return;
    sim_push(s,
             (struct sim_event){.node = SIM_COORDINATOR,
                                .what = SIM_CLIENT_DOWN,
                                .peer = SIM_CLIENT0 + client,
                                .life = c->connection,
                                .arg = s->coord_process},
             notice_us);
    c->connection = 0;
}
