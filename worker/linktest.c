/* Link tests. The round trip is the median of WORKER_PINGS small messages, one at a time and with a
 * pause before each: a ring's threads have gone to sleep when a message comes, and so must these
 * have, or the round trip would lack the wake-ups that a hop has. The bandwidth is that of a burst
 * of 64 KiB messages, which the receiver times from the first to the last and whose first message
 * does not count (it opens the window). A short burst may have come in whole before the receiver
 * looks: then the sender, who waits for the receiver's word a round trip longer than the burst
 * lasts, knows better. No two machines' clocks are compared. Between workers the
 * ring connection is tested, since the ring is what the planner asks about; to the coordinator the
 * bulk connection, both ways.
 *
 * A burst is sent as the connection takes it: what does not fit its queue waits for the next tick.
 * Every test has a deadline. A result with rtt 0 and an error is a link that cannot be used. */
#include "worker/linktest.h"

#include <string.h>

static uint8_t load[WORKER_PROBE_BYTES];

static bool to_coordinator(const struct worker_linktest *t)
{
    return t->peer[0] == 0;
}

static void send_ping(struct worker_linktest *t, struct net *net)
{
    struct net_msg m = {.code = NET_MSG_PING, .u.PING = {++t->nonce}};
    if (to_coordinator(t))
        m = (struct net_msg){.code = NET_MSG_BULK_PING, .u.BULK_PING = {t->nonce}};
    t->ping_at = base_clock_s();
    /* A lost ping ends the test by its deadline. */
    net_send(net, t->to, &m, NULL);
}

static void send_burst(struct worker_linktest *t, struct net *net)
{
    const struct span bytes = {load, sizeof load};
    for (; t->sent < t->count; t->sent++) {
        struct net_msg m = {.code = NET_MSG_PROBE, .u.PROBE = {t->nonce, t->sent, t->count, bytes}};
        if (to_coordinator(t))
            m = (struct net_msg){.code = NET_MSG_BULK_SEND,
                                 .u.BULK_SEND = {t->nonce, t->sent, t->count, bytes}};
        if (net_send(net, t->to, &m, NULL) != 0)
            return;
    }
}

void worker_linktest_begin(struct worker_linktest *t, const char *peer, net_peer to, uint32_t bytes,
                           int64_t now_ms)
{
    const uint32_t n = bytes / WORKER_PROBE_BYTES;
    memset(t, 0, sizeof *t);
    snprintf(t->peer, sizeof t->peer, "%s", peer);
    t->to = to;
    t->state = WORKER_TEST_LINKING;
    t->deadline_ms =
        to != 0 ? now_ms + WORKER_TEST_MS : 0; /* without a connection it is over at once */
    t->count = n < 4 ? 4 : n > WORKER_PROBES_MAX ? WORKER_PROBES_MAX : n;
    net_random(&t->nonce, sizeof t->nonce);
}

void worker_linktest_linked(struct worker_linktest *t, struct net *net, net_peer to)
{
    if (t->state != WORKER_TEST_LINKING || to != t->to)
        return;
    t->state = WORKER_TEST_PINGS;
    send_ping(t, net);
}

void worker_linktest_lost(struct worker_linktest *t, net_peer to)
{
    if (t->state > WORKER_TEST_LINKING && to == t->to)
        t->deadline_ms = 0;
}

static void on_pong(struct worker_linktest *t, struct net *net, uint64_t nonce)
{
    if (t->state != WORKER_TEST_PINGS || nonce != t->nonce)
        return;
    t->rtts[t->n_pings++] = base_clock_s() - t->ping_at;
    if (t->n_pings < WORKER_PINGS) {
        t->ping_due_ms = base_clock_ms() + WORKER_PING_GAP_MS;
        return;
    }
    t->rtt = base_median(t->rtts, WORKER_PINGS);
    t->nonce++;
    t->state = WORKER_TEST_UP;
    t->burst_at = base_clock_s();
    send_burst(t, net);
}

static void on_up(struct worker_linktest *t, struct net *net, uint64_t nonce, double rate)
{
    if (t->state != WORKER_TEST_UP || nonce != t->nonce)
        return;
    const double s = base_clock_s() - t->burst_at - t->rtt,
                 sent = s > 0 ? (double)t->count * WORKER_PROBE_BYTES / s : rate;
    t->up = rate < sent ? rate : sent;
    t->nonce++;
    t->state = WORKER_TEST_DOWN;
    if (!to_coordinator(t)) {
        t->deadline_ms = 0;
        return;
    }
    const struct net_msg m = {.code = NET_MSG_BULK_WANT,
                              .u.BULK_WANT = {t->nonce, t->count, WORKER_PROBE_BYTES}};
    net_send(net, t->to, &m, NULL);
}

static void on_down(struct worker_linktest *t, const struct net_msg_BULK_BURST *m)
{
    if (t->state != WORKER_TEST_DOWN || m->nonce != t->nonce)
        return;
    if (m->index == 0)
        t->first_at = base_clock_s();
    if (m->index + 1 < t->count)
        return;
    const double s = base_clock_s() - t->first_at;
    t->down = s > 0 ? (double)(t->count - 1) * (double)m->load.len / s : 0;
    t->deadline_ms = 0;
}

void worker_linktest_message(struct worker_linktest *t, struct net *net, net_peer from,
                             const struct net_msg *m)
{
    if (t->state == WORKER_TEST_IDLE || from != t->to)
        return;
    switch ((int)m->code) {
    case NET_MSG_PONG:
        on_pong(t, net, m->u.PONG.nonce);
        break;
    case NET_MSG_BULK_PONG:
        on_pong(t, net, m->u.BULK_PONG.nonce);
        break;
    case NET_MSG_PROBED:
        on_up(t, net, m->u.PROBED.nonce, m->u.PROBED.bytes_per_s);
        break;
    case NET_MSG_BULK_SENT:
        on_up(t, net, m->u.BULK_SENT.nonce, m->u.BULK_SENT.bytes_per_s);
        break;
    case NET_MSG_BULK_BURST:
        on_down(t, &m->u.BULK_BURST);
        break;
    default:
        break;
    }
}

void worker_linktest_tick(struct worker_linktest *t, struct net *net, int64_t now_ms)
{
    if (t->state == WORKER_TEST_UP && t->sent < t->count)
        send_burst(t, net);
    if (t->state == WORKER_TEST_PINGS && t->ping_due_ms != 0 && now_ms >= t->ping_due_ms) {
        t->ping_due_ms = 0;
        send_ping(t, net);
    }
    if (t->state != WORKER_TEST_IDLE && now_ms > t->deadline_ms)
        t->deadline_ms = 0;
}

bool worker_linktest_result(struct worker_linktest *t, struct net_msg *out)
{
    if (t->state == WORKER_TEST_IDLE || t->deadline_ms != 0)
        return false;
    const bool ok = t->rtt > 0 && t->up > 0 && (!to_coordinator(t) || t->down > 0);
    const char *error =
        ok ? ""
        : t->state == WORKER_TEST_LINKING
            ? "no connection: is the worker's data address right, and its port open?"
            : "the connection broke or stood still during the test";
    *out = (struct net_msg){
        .code = NET_MSG_LINK_TESTED,
        .u.LINK_TESTED = {base_span_str(t->peer), t->rtt, t->up, t->down, base_span_str(error)}};
    t->state = WORKER_TEST_IDLE;
    return true;
}

/* ---- the side that answers ------------------------------------------------------------------- */

static void on_probe(struct worker_answers *a, struct net *net, net_peer from,
                     const struct net_msg_PROBE *m)
{
    struct worker_burst *b = NULL;
    for (uint32_t i = 0; i < WORKER_BURSTS_MAX; i++)
        if (a->bursts[i].peer == from && a->bursts[i].nonce == m->nonce)
            b = &a->bursts[i];
    if (m->index == 0) {
        b = &a->bursts[a->next++ % WORKER_BURSTS_MAX];
        *b = (struct worker_burst){from, m->nonce, 0, base_clock_s()};
    } else if (b != NULL) {
        b->bytes += m->load.len;
    }
    if (b == NULL || m->index + 1 != m->count)
        return;
    const double s = base_clock_s() - b->first_at;
    const struct net_msg out = {.code = NET_MSG_PROBED,
                                .u.PROBED = {m->nonce, s > 0 ? (double)b->bytes / s : 0}};
    net_send(net, from, &out, NULL);
    b->peer = 0;
}

void worker_linktest_answer(struct worker_answers *a, struct net *net, net_peer from,
                            const struct net_msg *m)
{
    if (m->code == NET_MSG_PING) {
        const struct net_msg out = {.code = NET_MSG_PONG, .u.PONG = {m->u.PING.nonce}};
        net_send(net, from, &out, NULL);
    } else if (m->code == NET_MSG_PROBE) {
        on_probe(a, net, from, &m->u.PROBE);
    }
}
