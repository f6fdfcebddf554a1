/* The connections of one process: making, naming, sending, forgetting.
 *
 * A struct net belongs to one thread and owns everything below it. Connections live in one table of
 * fixed size; a net_peer is a slot's index and a count that only grows, so a handle kept too long
 * names nobody instead of somebody else. Sending never blocks and encodes straight into ZeroMQ's
 * message; a message is numbered only when ZeroMQ has taken it, so a refusal leaves no gap.
 *
 * How a life begins and ends is told in net/socket_link.c for connections of ours and in
 * net/socket_listen.c for those of others; net/socket_poll.c waits for all of them.
 *
 * Left out: waiting until a full queue has room. Credits keep queues short; who meets ERR_FULL
 * all the same tries again after the next event. */
#include "net/socket_private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { SLOT_BITS = 16, SOCKETS_MAX = 1023 };
_Static_assert(4 * (NET_LINKS_MAX + NET_LISTENERS_MAX) < SOCKETS_MAX,
               "sockets, monitors, and those closing");

/* ---- the table ------------------------------------------------------------------------------- */

struct net_conn *net_conn_find(struct net *n, net_peer p)
{
    const uint64_t slot = p & ((1u << SLOT_BITS) - 1);

    return p != 0 && slot < NET_CONNS_MAX && n->conns[slot].handle == p ? &n->conns[slot] : NULL;
}

struct net_conn *net_conn_take(struct net *n, bool guest)
{
    const unsigned first = guest ? NET_LINKS_MAX : 0;
    const unsigned end = guest ? NET_CONNS_MAX : NET_LINKS_MAX;

    for (unsigned i = first; i < end; i++) {
        if (n->conns[i].handle == 0) {
            n->conns[i] = (struct net_conn){.handle = ++n->n_handles << SLOT_BITS | i, .fd = -1};
            return &n->conns[i];
        }
    }
    return NULL;
}

/* A guest's route leads nowhere any more, so what still comes on it begins nothing. */
static void guest_leave(struct net *n, struct net_conn *c)
{
    if (c->link != NULL) {
        return;
    }
    n->routes[c - n->conns - NET_LINKS_MAX] = 0;
    if (c->broken) {
        c->broken = false;
        c->listener->n_broken--;
    }
}

void net_conn_release(struct net *n, struct net_conn *c)
{
    guest_leave(n, c);
    if (c->ending) {
        n->n_ending--;
    }
    if (c->link != NULL) {
        net_socket_close(n, &c->link->socket, &c->link->monitor);
        base_free(c->link);
    }
    *c = (struct net_conn){0};
}

void net_conn_end(struct net *n, struct net_conn *c, const char *why)
{
    assert(!c->ending);
    if (c->link == NULL && !c->announced) { /* its owner has never heard of it */
        net_conn_release(n, c);
        return;
    }
    guest_leave(n, c);
    c->ending = true;
    c->why = why;
    c->order = ++n->n_endings;
    n->n_ending++;
}

/* ---- life of a struct net ------------------------------------------------------------------- */

int net_new(const struct net_options *o, struct net **out, struct err *e)
{
    struct net *n;
    int rc;

    if (zmq_has("curve") != 1) {
        return err_set(e, ERR_UNSUPPORTED, "this ZeroMQ was built without CURVE");
    }
    n = base_zalloc(1, sizeof *n);
    if (n == NULL) {
        return err_set(e, ERR_NOMEM, "cannot open the network: out of memory");
    }
    n->allow = o->allow;
    n->arg = o->arg;
    n->io_threads = o->io_threads < 1 ? 1 : o->io_threads > 16 ? 16 : o->io_threads;
    n->readable = -1;
    n->stale = true;
    rc = net_keys_open(&n->keys, o->keys, o->self, e);
    if (rc != 0) {
        goto out;
    }
    n->context = zmq_ctx_new();
    if (n->context == NULL || zmq_ctx_set(n->context, ZMQ_IO_THREADS, (int)n->io_threads) != 0 ||
        zmq_ctx_set(n->context, ZMQ_MAX_SOCKETS, SOCKETS_MAX) != 0) {
        rc = err_set(e, ERR_NOMEM, "cannot open the network: %s", zmq_strerror(errno));
        goto out;
    }
    rc = net_zap_open(n, e);
    if (rc == 0) {
        *out = n;
        n = NULL;
    }
out:
    net_free(n);
    return rc;
}

void net_free(struct net *n)
{
    if (n == NULL) {
        return;
    }
    if (n->msg_state != NET_HELD_NONE) {
        (void)zmq_msg_close(&n->msg);
    }
    for (unsigned i = 0; i < NET_CONNS_MAX; i++) {
        if (n->conns[i].handle != 0) {
            net_conn_release(n, &n->conns[i]);
        }
    }
    for (unsigned i = 0; i < n->n_listeners; i++) {
        net_socket_close(n, &n->listeners[i]->socket, &n->listeners[i]->monitor);
        base_free(n->listeners[i]);
    }
    if (n->zap != NULL) {
        (void)zmq_close(n->zap);
    }
    if (n->context != NULL) {
        while (zmq_ctx_term(n->context) != 0 && errno == EINTR) {
        }
    }
    net_keys_close(&n->keys);
    base_free(n);
}

int net_watch(struct net *n, int fd, struct err *e)
{
    if (n->n_watches == NET_WATCHES_MAX) {
        return err_set(e, ERR_FULL, "cannot watch more than %d descriptors", NET_WATCHES_MAX);
    }
    n->watches[n->n_watches++] = fd;
    n->stale = true;
    return 0;
}

/* ---- peers ---------------------------------------------------------------------------------- */

int net_connect(struct net *n, enum net_kind kind, const char *name, const char *endpoint,
                net_peer *out, struct err *e)
{
    struct net_conn *c;
    int rc;

    if (!net_name_ok(name) || strlen(endpoint) >= NET_ENDPOINT_MAX ||
        strncmp(endpoint, "tcp://", 6) != 0) {
        return err_set(e, ERR_IO, "cannot connect to %.80s at %.150s: it should be tcp://HOST:PORT",
                       name, endpoint);
    }
    c = net_conn_take(n, false);
    if (c == NULL) {
        return err_set(e, ERR_FULL, "cannot connect to %s: there are %d connections already", name,
                       NET_LINKS_MAX);
    }
    c->kind = kind;
    memcpy(c->name, name, strlen(name) + 1);
    c->link = base_zalloc(1, sizeof *c->link);
    if (c->link == NULL) {
        *c = (struct net_conn){0};
        return err_set(e, ERR_NOMEM, "cannot connect to %s: out of memory", name);
    }
    memcpy(c->link->endpoint, endpoint, strlen(endpoint) + 1);
    c->link->backoff_ms = NET_BACKOFF_MIN_MS;
    c->link->said_ms = base_clock_ms() - NET_SAY_AGAIN_MS;
    rc = net_link_open(n, c, e);
    if (rc == ERR_NOTFOUND && net_keys_scan(&n->keys)) {
        rc = net_link_open(n, c, e);
    }
    if (rc != 0) {
        net_conn_release(n, c);
        return rc;
    }
    *out = c->handle;
    return 0;
}

void net_disconnect(struct net *n, net_peer p)
{
    struct net_conn *c = net_conn_find(n, p);

    if (c == NULL) {
        return;
    }
    if (c->link == NULL && !c->ending) {
        net_guest_dismiss(c, NET_GONE_ENDED);
    }
    net_conn_release(n, c);
}

const char *net_peer_name(const struct net *n, net_peer p)
{
    const uint64_t slot = p & ((1u << SLOT_BITS) - 1);

    return p != 0 && slot < NET_CONNS_MAX && n->conns[slot].handle == p ? n->conns[slot].name : "";
}

/* ---- sending -------------------------------------------------------------------------------- */

static bool can_send(const struct net_conn *c)
{
    return c != NULL && !c->ending && !c->broken &&
           (c->link == NULL || c->link->state == NET_LINK_UP);
}

int net_send(struct net *n, net_peer p, const struct net_msg *m, struct err *e)
{
    struct net_conn *c = net_conn_find(n, p);
    const size_t bytes = net_msg_bytes(m);
    struct net_envelope v;
    zmq_msg_t frame;
    int rc = 0;

    if (!can_send(c)) {
        return err_set(e, ERR_PEER, "no connection to %s", c != NULL ? c->name : "that peer");
    }
    assert(net_msg_dir(m->code) ==
           (c->link != NULL ? net_rules[c->kind].to_listener : net_rules[c->kind].to_link));
    if (bytes == 0 || bytes > net_rules[c->kind].bytes_max - NET_ENVELOPE_BYTES) {
        return err_set(e, ERR_RANGE, "%s for %s has a field beyond its maximum",
                       net_msg_name(m->code), c->name);
    }
    if (zmq_msg_init_size(&frame, NET_ENVELOPE_BYTES + bytes) != 0) {
        return err_set(e, ERR_NOMEM, "cannot send to %s: out of memory", c->name);
    }
    if (c->link != NULL) {
        c->link->written = true;
    } else {
        rc = net_guest_address(c->listener, c->route);
    }
    if (rc == 0) {
        v = (struct net_envelope){c->life.out_number, c->life.out_next, (uint16_t)m->code};
        net_envelope_put(zmq_msg_data(&frame), &v);
        net_msg_encode(m, (uint8_t *)zmq_msg_data(&frame) + NET_ENVELOPE_BYTES);
        if (!net_frame_send(c->link != NULL ? c->link->socket : c->listener->socket, &frame, 0)) {
            rc = errno == EAGAIN ? ERR_FULL : ERR_PEER;
        }
    }
    if (rc != 0) {
        (void)zmq_msg_close(&frame);
        return err_set(e, rc, rc == ERR_FULL ? "the queue to %s is full" : "%s is gone", c->name);
    }
    c->life.out_next++;
    return 0;
}
