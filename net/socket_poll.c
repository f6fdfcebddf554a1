/* Waiting: one event at a time out of all sockets, monitors and watched descriptors.
 *
 * Whatever is marked ready is visited in turn, one message each, until it has nothing more; after a
 * bounded number of visits everything is polled again. So a client that floods its connection
 * delays a worker's heartbeat by one message for each of ours, and not by its whole queue. A visit
 * either leaves something to report (a connection that ended or was made, a message, a descriptor)
 * or was housekeeping; reports come first: an end, then a beginning, then a message.
 *
 * One poll(2) waits for all, where zmq_poll would ask every socket with a poll of its own, twice.
 * The trap: the descriptor of a ZeroMQ socket (ZMQ_FD) does not tell of messages. It tells of
 * commands in the socket's mailbox ("a message came into your pipe"), which whatever is done with
 * the socket may take out, sending too. Then a message is there and the descriptor is silent. Hence
 * the invariant: we sleep only when each socket, since it was last used for anything, has said that
 * it has nothing more. So a mark stays until a visit finds nothing, whatever is polled in between;
 * a socket that was written to is marked; and a table made anew has all its sockets marked.
 *
 * Nothing runs by the clock while connections are up: the wait ends with an event, with the
 * caller's deadline, or when a broken link is to be tried again. A signal ends it early, as
 * NET_EV_NONE. */
#include "net/socket_private.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>

enum { VISITS_MAX = 64, KEYS_EVERY_MS = 2000 };

/* ---- reporting ------------------------------------------------------------------------------ */

static struct net_conn *first_ending(struct net *n)
{
    struct net_conn *first = NULL;

    for (unsigned i = 0; i < NET_CONNS_MAX; i++) {
        struct net_conn *c = &n->conns[i];

        if (c->handle != 0 && c->ending && (first == NULL || c->order < first->order)) {
            first = c;
        }
    }
    return first;
}

static void report(struct net_event *ev, enum net_event_type type, const struct net_conn *c)
{
    ev->type = type;
    ev->peer = c->handle;
    ev->kind = c->kind;
}

static bool report_ending(struct net *n, struct net_event *ev)
{
    struct net_conn *c = first_ending(n);

    assert(c != NULL);
    report(ev, NET_EV_DOWN, c);
    ev->why = c->why;
    if (c->link == NULL) {
        net_conn_release(n, c);
        return true;
    }
    c->ending = false;
    n->n_ending--;
    return true;
}

static bool report_message(struct net *n, struct net_event *ev)
{
    struct net_conn *c = net_conn_find(n, n->msg_peer);

    if (c == NULL || c->ending) { /* forgotten between NET_EV_UP and this message */
        (void)zmq_msg_close(&n->msg);
        n->msg_state = NET_HELD_NONE;
        return false;
    }
    if (c->link == NULL && !c->announced) {
        c->announced = true;
        report(ev, NET_EV_UP, c);
        return true;
    }
    report(ev, NET_EV_MESSAGE, c);
    ev->msg = n->decoded;
    ev->wire_bytes = zmq_msg_size(&n->msg);
    n->msg_state = NET_HELD_LENT;
    return true;
}

static bool report_any(struct net *n, struct net_event *ev)
{
    if (n->n_ending > 0) {
        return report_ending(n, ev);
    }
    if (n->made != 0) {
        struct net_conn *c = net_conn_find(n, n->made);

        n->made = 0;
        if (c != NULL) {
            report(ev, NET_EV_UP, c);
            return true;
        }
    }
    if (n->msg_state == NET_HELD_NEXT && report_message(n, ev)) {
        return true;
    }
    if (n->readable >= 0) {
        ev->type = NET_EV_FD;
        ev->fd = n->readable;
        n->readable = -1;
        return true;
    }
    return false;
}

/* ---- visiting ------------------------------------------------------------------------------- */

static void item_add(struct net *n, enum net_source source, unsigned index, int fd)
{
    assert(n->n_items < NET_ITEMS_MAX);
    n->items[n->n_items] = (struct net_item){source, index, false};
    n->poll[n->n_items] = (struct pollfd){.fd = fd, .events = POLLIN};
    n->n_items++;
}

static void item_mark(struct net *n, struct net_item *item)
{
    n->n_ready += !item->ready;
    item->ready = true;
}

static void socket_add(struct net *n, enum net_source source, unsigned index, void *socket)
{
    int fd, rc;
    size_t length = sizeof fd;

    rc = zmq_getsockopt(socket, ZMQ_FD, &fd, &length);
    assert(rc == 0); /* of a socket that is open */
    item_add(n, source, index, fd);
    item_mark(n, &n->items[n->n_items - 1]);
}

static void items_make(struct net *n)
{
    n->n_items = 0;
    n->n_ready = 0;
    n->cursor = 0;
    n->stale = false;
    socket_add(n, NET_SRC_ZAP, 0, n->zap);
    for (unsigned i = 0; i < n->n_listeners; i++) {
        socket_add(n, NET_SRC_LISTENER_NEWS, i, n->listeners[i]->monitor);
        socket_add(n, NET_SRC_GUESTS, i, n->listeners[i]->socket);
    }
    for (unsigned i = 0; i < NET_LINKS_MAX; i++) {
        const struct net_conn *c = &n->conns[i];

        if (c->handle == 0 || c->link->state == NET_LINK_IDLE) {
            continue;
        }
        socket_add(n, NET_SRC_LINK_NEWS, i, c->link->monitor);
        if (c->link->state != NET_LINK_TRYING) {
            socket_add(n, NET_SRC_LINK, i, c->link->socket);
        }
    }
    for (unsigned i = 0; i < n->n_watches; i++) {
        item_add(n, NET_SRC_FD, i, n->watches[i]);
    }
}

/* Is there something to do at this item that its descriptor may not tell? Its socket was written to;
 * or a connection is over, and its last message may have been read already. */
static bool item_due(const struct net *n, const struct net_item *item)
{
    if (item->source == NET_SRC_GUESTS) {
        const struct net_listener *l = n->listeners[item->index];

        return l->written || l->n_broken > 0;
    }
    if (item->source == NET_SRC_LINK) {
        const struct net_link *link = n->conns[item->index].link;

        return link->written || link->state == NET_LINK_BROKEN;
    }
    return false;
}

static void items_due(struct net *n)
{
    for (unsigned i = 0; i < n->n_items; i++) {
        if (item_due(n, &n->items[i])) {
            item_mark(n, &n->items[i]);
        }
    }
}

static enum net_step visit(struct net *n, const struct net_item *item)
{
    switch (item->source) {
    case NET_SRC_ZAP:
        return net_zap_step(n);
    case NET_SRC_GUESTS:
        return net_listener_step(n, n->listeners[item->index]);
    case NET_SRC_LISTENER_NEWS:
        return net_listener_news(n, n->listeners[item->index]);
    case NET_SRC_LINK:
        return net_link_step(n, &n->conns[item->index]);
    case NET_SRC_LINK_NEWS:
        return net_link_news(n, &n->conns[item->index]);
    case NET_SRC_FD:
        n->readable = n->watches[item->index];
        break;
    }
    return NET_STEP_EMPTY; /* a descriptor is reported once for each time it was polled */
}

/* Visit the next item that is ready; there is one. */
static void visit_next(struct net *n)
{
    struct net_item *item;

    do {
        n->cursor = n->cursor + 1 < n->n_items ? n->cursor + 1 : 0;
        item = &n->items[n->cursor];
    } while (!item->ready);
    n->budget--;
    if (visit(n, item) == NET_STEP_EMPTY) {
        item->ready = false;
        n->n_ready--;
    }
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* Run what is due by the clock; returns when to do so again. */
static int64_t timers_run(struct net *n, int64_t now_ms)
{
    int64_t next_ms = INT64_MAX;

    if (net_keys_changed(&n->keys, now_ms, KEYS_EVERY_MS)) {
        net_zap_reload(n);
    }
    for (unsigned i = 0; i < NET_LINKS_MAX; i++) {
        struct net_conn *c = &n->conns[i];

        if (c->handle == 0) {
            continue;
        }
        net_link_timer(n, c, now_ms);
        if (c->link->state <= NET_LINK_TRYING && c->link->at_ms < next_ms) {
            next_ms = c->link->at_ms;
        }
    }
    return next_ms;
}

/* Poll until `until_ms` at most. False: a signal came. */
static bool wait_ready(struct net *n, int64_t now_ms, int64_t until_ms)
{
    int64_t wait_ms = until_ms - now_ms; /* INT64_MAX stands for ever, and needs not be exact */

    wait_ms = n->n_ready > 0 || wait_ms < 0 ? 0 : wait_ms > INT_MAX / 2 ? INT_MAX / 2 : wait_ms;
    if (poll(n->poll, n->n_items, (int)wait_ms) < 0) {
        return false;
    }
    for (unsigned i = 0; i < n->n_items; i++) {
        /* A descriptor whose other end was closed has only its error bit set; reading will tell. */
        if (n->poll[i].revents != 0) {
            item_mark(n, &n->items[i]);
        }
    }
    n->budget = VISITS_MAX;
    return true;
}

bool net_next(struct net *n, int timeout_ms, struct net_event *ev)
{
    int64_t deadline_ms = -1; /* not set yet */

    *ev = (struct net_event){.type = NET_EV_NONE, .fd = -1};
    if (n->msg_state == NET_HELD_LENT) {
        (void)zmq_msg_close(&n->msg);
        n->msg_state = NET_HELD_NONE;
    }
    for (;;) {
        int64_t now_ms, next_ms;

        if (report_any(n, ev)) {
            return true;
        }
        if (!n->stale && (n->n_ready == 0 || n->budget == 0)) {
            items_due(n);
        }
        if (!n->stale && n->n_ready > 0 && n->budget > 0) {
            visit_next(n);
            continue;
        }
        now_ms = base_clock_ms();
        if (deadline_ms < 0) {
            deadline_ms = timeout_ms < 0 ? INT64_MAX : now_ms + timeout_ms;
        } else if (now_ms >= deadline_ms) {
            return false;
        }
        next_ms = timers_run(n, now_ms);
        if (n->n_ending > 0) {
            continue;
        }
        if (n->stale) {
            items_make(n);
        }
        if (!wait_ready(n, now_ms, next_ms < deadline_ms ? next_ms : deadline_ms)) {
            return false;
        }
    }
}
