/* Links: the connections we make.
 *
 * ZeroMQ would reconnect by itself and forget or resend what it likes, so it does not come to that:
 * its own pause before reconnecting is an hour, and the socket is closed as soon as its TCP
 * connection is over. The next life gets a new socket, a new number and sequence 0, after a pause
 * that doubles up to a second. What was queued in the old socket is gone with it. Hence the
 * invariant, for both directions:
 *
 *   Of the messages that were accepted in a life the other side gets a first part, in order, each
 *   once, and the rest never; none moves to another life. Where the newest connection of a name
 *   counts, no message of an older life comes after one of a newer.
 *
 * The monitor's events tell of the handshake and of the end. When the end is seen, what had arrived
 * before it is still handed out (a listener's last words often are the reason), then comes
 * NET_EV_DOWN. ZMQ_IMMEDIATE, or a reconnection interval of -1, would have ZeroMQ throw those words
 * away. Sending is possible from NET_EV_UP on only, so nothing piles up for somebody who is not
 * there.
 *
 * A connection that nobody answers is tried again without a word; one that is refused says so,
 * once in some seconds. Left out: deadlines for a peer that is silent; heartbeats are the cores'
 * business. */
#include "net/socket_private.h"

#include <errno.h>
#include <string.h>

enum {
    LINK_EVENTS = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                  ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                  ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED,
    RECONNECT_MS = 3600 * 1000,
    ATTEMPT_MS = 8000, /* beyond ZeroMQ's own limits for connecting and for the handshake */
    LASTING_MS = 1000  /* a life that long was a good one: the next begins without a pause */
};

static const char *const gone_texts[NET_N_GONE] = {
    [NET_GONE_ENDED] = "the other side ended the connection",
    [NET_GONE_REPLACED] = "a newer connection with our key took the place of this one",
    [NET_GONE_BAD] = "the other side could not accept what we sent",
    [NET_GONE_CROWDED] = "the other side has too many connections",
    [NET_GONE_KEY] = "the other side no longer takes our key",
    [NET_GONE_UNKNOWN] = "the other side has forgotten this connection",
};

int net_link_open(struct net *n, struct net_conn *c, struct err *e)
{
    struct net_link *link = c->link;
    const struct net_key *key = net_key_named(&n->keys, c->name);
    int rc;

    if (key == NULL) {
        return err_set(e, ERR_NOTFOUND, "there is no %s.pub in the keys folder %s", c->name,
                       n->keys.dir);
    }
    rc = net_socket_open(n, c->kind, ZMQ_DEALER, &link->socket, e);
    if (rc != 0) {
        return rc;
    }
    rc = net_monitor_open(n, link->socket, LINK_EVENTS, &link->monitor, e);
    if (rc != 0) {
        goto out;
    }
    if (!net_option(link->socket, ZMQ_RECONNECT_IVL, RECONNECT_MS) ||
        zmq_setsockopt(link->socket, ZMQ_CURVE_SERVERKEY, key->bytes, NET_KEY_BYTES) != 0 ||
        zmq_connect(link->socket, link->endpoint) != 0) {
        rc = err_set(e, ERR_IO, "cannot connect to %s at %s: %s", c->name, link->endpoint,
                     zmq_strerror(errno));
        goto out;
    }
    c->serial = key->serial;
    link->state = NET_LINK_TRYING;
    link->at_ms = base_clock_ms() + ATTEMPT_MS;
out:
    if (rc != 0) {
        net_socket_close(n, &link->socket, &link->monitor);
    }
    return rc;
}

/* The life, or the attempt at one, is over. With `why` that is news to the owner. */
void net_link_fail(struct net *n, struct net_conn *c, const char *why)
{
    struct net_link *link = c->link;
    const int64_t now_ms = base_clock_ms();

    if ((link->state == NET_LINK_UP || link->state == NET_LINK_BROKEN) &&
        now_ms - link->up_ms >= LASTING_MS) {
        link->backoff_ms = NET_BACKOFF_MIN_MS;
    }
    if (link->socket != NULL) {
        (void)net_option(link->socket, ZMQ_LINGER, 0);
    }
    net_socket_close(n, &link->socket, &link->monitor);
    link->state = NET_LINK_IDLE;
    link->at_ms = now_ms + link->backoff_ms;
    link->backoff_ms =
        link->backoff_ms < NET_BACKOFF_MAX_MS / 2 ? 2 * link->backoff_ms : NET_BACKOFF_MAX_MS;
    if (why != NULL) {
        net_conn_end(n, c, why);
    }
}

/* An attempt came to nothing for a reason that a person should hear, but not at every attempt. */
static void link_refused(struct net *n, struct net_conn *c, const char *why)
{
    const int64_t now_ms = base_clock_ms();
    const bool say = now_ms - c->link->said_ms >= NET_SAY_AGAIN_MS;

    if (say) {
        c->link->said_ms = now_ms;
    }
    c->link->backoff_ms = NET_BACKOFF_MAX_MS;
    net_link_fail(n, c, say ? why : NULL);
}

void net_link_timer(struct net *n, struct net_conn *c, int64_t now_ms)
{
    struct net_link *link = c->link;
    struct err e = {0};

    if (c->ending || now_ms < link->at_ms) {
        return;
    }
    if (link->state == NET_LINK_TRYING) {
        net_link_fail(n, c, NULL);
    } else if (link->state == NET_LINK_IDLE) {
        int rc = net_link_open(n, c, &e);

        if (rc == ERR_NOTFOUND) {
            link_refused(n, c, "the other side's key is not in the keys folder");
        } else if (rc != 0) {
            net_complain(n, "connect_failed", c->kind, "peer", c->name, e.text);
            net_link_fail(n, c, NULL);
        }
    }
}

enum net_step net_link_news(struct net *n, struct net_conn *c)
{
    struct net_link *link = c->link;
    unsigned event;
    int value;

    if (!net_monitor_read(link->monitor, &event, &value)) {
        return NET_STEP_EMPTY;
    }
    switch (event) {
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        net_life_begin(&c->life);
        link->state = NET_LINK_UP;
        link->up_ms = base_clock_ms();
        n->made = c->handle;
        n->stale = true;
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        link_refused(n, c,
                     "refused: the other side does not know our key, or does not take us here");
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        link_refused(
            n, c, "no handshake: the other side has another key than we think, or does not answer");
        break;
    default: /* the TCP connection was not made, or is over */
        if (link->state == NET_LINK_UP) {
            link->state = NET_LINK_BROKEN;
        } else if (link->state == NET_LINK_TRYING) {
            net_link_fail(n, c, NULL);
        }
        break;
    }
    return NET_STEP_MORE;
}

/* The listener says that it has ended this life. */
static const char *link_gone(struct net_conn *c, const struct net_envelope *v, struct span bytes)
{
    const unsigned reason =
        bytes.len == NET_ENVELOPE_BYTES + 1 ? bytes.ptr[NET_ENVELOPE_BYTES] : NET_N_GONE;

    if (reason >= NET_N_GONE || v->number != c->life.out_number) {
        return "a malformed farewell";
    }
    if (reason == NET_GONE_REPLACED || reason == NET_GONE_CROWDED || reason == NET_GONE_KEY) {
        c->link->up_ms = base_clock_ms(); /* coming back at once would change nothing */
        c->link->backoff_ms = NET_BACKOFF_MAX_MS;
    }
    return gone_texts[reason];
}

/* NULL where n->msg is the life's next message; else why the life is over. */
static const char *link_check(struct net *n, struct net_conn *c, bool surplus)
{
    const struct span bytes = net_frame_span(&n->msg);
    struct net_envelope v;
    const char *why;

    if (surplus || !net_envelope_get(bytes, &v)) {
        return "a message without an envelope";
    }
    if (v.code == NET_CODE_GONE) {
        return link_gone(c, &v, bytes);
    }
    if (v.sequence != c->life.in_next || (v.sequence > 0 && v.number != c->life.in_number)) {
        return "messages are missing";
    }
    why = net_held_decode(n, c->kind, net_rules[c->kind].to_link, &v);
    if (why != NULL) {
        net_complain(n, "dropped", c->kind, "peer", c->name, why);
        return why;
    }
    c->life.in_number = v.number;
    c->life.in_next++;
    return NULL;
}

enum net_step net_link_step(struct net *n, struct net_conn *c)
{
    const char *why;

    (void)zmq_msg_init(&n->msg);
    if (!net_frame_receive(c->link->socket, &n->msg)) {
        (void)zmq_msg_close(&n->msg);
        c->link->written = false;
        if (c->link->state == NET_LINK_BROKEN) {
            net_link_fail(n, c, "the connection broke");
        }
        return NET_STEP_EMPTY;
    }
    why = link_check(n, c, net_frames_drop(c->link->socket, &n->msg));
    if (why != NULL) {
        (void)zmq_msg_close(&n->msg);
        net_link_fail(n, c, why);
        return NET_STEP_MORE;
    }
    c->link->backoff_ms = NET_BACKOFF_MIN_MS;
    net_held_set(n, c->handle);
    return NET_STEP_MORE;
}
