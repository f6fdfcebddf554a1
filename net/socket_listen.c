/* Listeners and their guests: the connections that others make to us.
 *
 * A guest begins with a message of sequence 0 from a routing id that is not in the table. From then
 * on its number must stay and its sequence count up by one; anything else ends it. Messages of a
 * routing id that is not in the table and that begin nothing are dropped, and their sender is told
 * that its life is over, so that it begins a new one: a listener that has restarted or has lost
 * patience says so. No state is kept for strangers, so they cannot fill anything.
 *
 * The name comes from the key (net_zap_sender), is looked up again at each new life, and is
 * compared nowhere with anything a message says. Routing ids are those that ZeroMQ hands out; a
 * stranger who picks one of his own could pick another's, and is refused.
 *
 * A guest that is gone is seen through the listener's monitor, which names descriptors: a message
 * knows the one it came from. The events are read after the first message of a guest, so its
 * descriptor is open, or known to be closed already. (Where it was closed and taken again by then,
 * the guest ends together with the one that took it.) What had arrived before the end is handed out
 * first; a flood from others cannot delay NET_EV_DOWN by more than BROKEN_MS.
 *
 * Left out: a bound on messages of many frames that never end, which ZeroMQ 4.3 collects in
 * memory; only the owner of an allowed key can send them. */
#include "net/socket_private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
    LISTENER_EVENTS = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED |
                      ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL,
    ROUTE_BYTES = 5, /* a zero and a number */
    BROKEN_MS = 1000,
    NEWS_BURST = 64
};

/* ---- listening ------------------------------------------------------------------------------ */

static int port_of(void *socket, unsigned *port)
{
    char endpoint[256] = "";
    size_t length = sizeof endpoint;
    const char *colon;

    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &length) != 0) {
        return ERR_IO;
    }
    colon = strrchr(endpoint, ':');
    return colon != NULL && sscanf(colon + 1, "%u", port) == 1 ? 0 : ERR_IO;
}

static int listener_bind(struct net *n, struct net_listener *l, const char *endpoint,
                         unsigned *port, struct err *e)
{
    const char *domain = net_rules[l->kind].name;
    int rc = net_socket_open(n, l->kind, ZMQ_ROUTER, &l->socket, e);

    if (rc != 0) {
        return rc;
    }
    rc = net_monitor_open(n, l->socket, LISTENER_EVENTS, &l->monitor, e);
    if (rc != 0) {
        return rc;
    }
    if (!net_option(l->socket, ZMQ_ROUTER_MANDATORY, 1) ||
        !net_option(l->socket, ZMQ_CURVE_SERVER, 1) ||
        zmq_setsockopt(l->socket, ZMQ_ZAP_DOMAIN, domain, strlen(domain)) != 0 ||
        zmq_bind(l->socket, endpoint) != 0 || port_of(l->socket, port) != 0) {
        return err_set(e, ERR_IO, "cannot listen on %s: %s", endpoint, zmq_strerror(errno));
    }
    return 0;
}

int net_listen(struct net *n, enum net_kind kind, const char *endpoint, unsigned *port,
               struct err *e)
{
    struct net_listener *l;
    unsigned bound = 0;
    int rc;

    if (strncmp(endpoint, "tcp://", 6) != 0) {
        return err_set(e, ERR_IO, "cannot listen on %s: it should be tcp://HOST:PORT", endpoint);
    }
    if (n->n_listeners == NET_LISTENERS_MAX) {
        return err_set(e, ERR_FULL, "cannot listen on %s: there are %d listeners already", endpoint,
                       NET_LISTENERS_MAX);
    }
    l = base_zalloc(1, sizeof *l);
    if (l == NULL) {
        return err_set(e, ERR_NOMEM, "cannot listen on %s: out of memory", endpoint);
    }
    l->kind = kind;
    l->index = n->n_listeners;
    rc = listener_bind(n, l, endpoint, &bound, e);
    if (rc != 0) {
        net_socket_close(n, &l->socket, &l->monitor);
        base_free(l);
        return rc;
    }
    n->listeners[n->n_listeners++] = l;
    if (port != NULL) {
        *port = bound;
    }
    return 0;
}

/* ---- guests --------------------------------------------------------------------------------- */

static bool route_get(zmq_msg_t *id, uint32_t *route)
{
    const uint8_t *bytes = zmq_msg_data(id);

    if (zmq_msg_size(id) != ROUTE_BYTES || bytes[0] != 0) {
        return false;
    }
    *route = net_u32_at((struct net_list){bytes + 1, 1}, 0);
    return true;
}

static struct net_conn *guest_of(struct net *n, const struct net_listener *l, uint32_t route)
{
    const uint64_t wanted = (uint64_t)(l->index + 1) << 32 | route;

    for (unsigned i = 0; i < NET_GUESTS_MAX; i++) {
        if (n->routes[i] == wanted) {
            return &n->conns[NET_LINKS_MAX + i];
        }
    }
    return NULL;
}

int net_guest_address(struct net_listener *l, uint32_t route)
{
    zmq_msg_t id;
    int rc;

    l->written = true;
    (void)zmq_msg_init_size(&id, ROUTE_BYTES); /* so few bytes need no memory of their own */
    *(uint8_t *)zmq_msg_data(&id) = 0;
    net_put_u32((uint8_t *)zmq_msg_data(&id) + 1, 0, route);
    if (net_frame_send(l->socket, &id, ZMQ_SNDMORE)) {
        return 0;
    }
    rc = errno == EAGAIN ? ERR_FULL : ERR_PEER;
    (void)zmq_msg_close(&id);
    return rc;
}

static void gone_send(struct net_listener *l, uint32_t route, uint64_t number, enum net_gone gone)
{
    const struct net_envelope v = {.number = number, .code = NET_CODE_GONE};
    zmq_msg_t frame;

    /* Whoever is not there or has a full queue goes without; he will find out at his next
     * message. */
    if (number == 0 || net_guest_address(l, route) != 0) {
        return;
    }
    (void)zmq_msg_init_size(&frame, NET_ENVELOPE_BYTES + 1); /* no memory of its own either */
    net_envelope_put(zmq_msg_data(&frame), &v);
    ((uint8_t *)zmq_msg_data(&frame))[NET_ENVELOPE_BYTES] = (uint8_t)gone;
    if (!net_frame_send(l->socket, &frame, 0)) {
        (void)zmq_msg_close(&frame);
    }
}

void net_guest_dismiss(struct net_conn *c, enum net_gone gone)
{
    gone_send(c->listener, c->route, c->life.in_number, gone);
}

static void guest_break(struct net_conn *c)
{
    if (!c->broken) {
        c->broken = true;
        if (c->listener->n_broken++ == 0) {
            c->listener->broken_ms = base_clock_ms();
        }
    }
}

static void broken_end(struct net *n, struct net_listener *l)
{
    for (unsigned i = NET_LINKS_MAX; i < NET_CONNS_MAX && l->n_broken > 0; i++) {
        struct net_conn *c = &n->conns[i];

        if (c->handle != 0 && !c->ending && c->broken && c->listener == l) {
            net_conn_end(n, c, "the connection broke");
        }
    }
}

static bool fd_followed(int fd)
{
    return fd >= 0 && fd < NET_FDS_MAX;
}

static void fd_closed(struct net *n, const struct net_listener *l, int fd)
{
    for (unsigned i = NET_LINKS_MAX; i < NET_CONNS_MAX; i++) {
        struct net_conn *c = &n->conns[i];

        if (c->handle != 0 && !c->ending && c->listener == l && c->fd == fd) {
            guest_break(c);
        }
    }
}

/* One event of the monitor; false: there is none. */
static bool news_take(struct net *n, struct net_listener *l)
{
    unsigned event;
    int fd;

    if (!net_monitor_read(l->monitor, &event, &fd)) {
        return false;
    }
    if (event == ZMQ_EVENT_ACCEPTED && fd_followed(fd)) {
        l->open_fds[fd / 8] |= (uint8_t)(1u << fd % 8);
    } else if (event == ZMQ_EVENT_DISCONNECTED) {
        if (fd_followed(fd)) {
            l->open_fds[fd / 8] &= (uint8_t) ~(1u << fd % 8);
        }
        fd_closed(n, l, fd);
    } else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL ||
               event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL) {
        net_complain(n, "refused", l->kind, "peer", "unknown",
                     "no handshake: no Shoal, or a wrong key");
    }
    return true;
}

enum net_step net_listener_news(struct net *n, struct net_listener *l)
{
    for (unsigned i = 0; i < NEWS_BURST; i++) {
        if (!news_take(n, l)) {
            return NET_STEP_EMPTY;
        }
    }
    return NET_STEP_MORE;
}

/* Make room for one more connection of this name: of nodes the newest counts, of clients there
 * may be several. False: there is no room. */
static bool room_make(struct net *n, enum net_kind kind, const char *name)
{
    unsigned others = 0;

    for (unsigned i = NET_LINKS_MAX; i < NET_CONNS_MAX; i++) {
        struct net_conn *c = &n->conns[i];

        if (c->handle == 0 || c->ending || c->kind != kind || strcmp(c->name, name) != 0) {
            continue;
        }
        others++;
        if (kind != NET_KIND_CLIENT) {
            net_guest_dismiss(c, NET_GONE_REPLACED);
            net_conn_end(n, c, "a newer connection of the same name took its place");
        }
    }
    return kind != NET_KIND_CLIENT || others < NET_GUESTS_A_NAME;
}

/* A new guest, whose first message is n->msg; NULL: refused. */
static struct net_conn *guest_admit(struct net *n, struct net_listener *l, uint32_t route,
                                    const struct net_envelope *v)
{
    const struct net_key *key = net_zap_sender(n, &n->msg);
    struct net_conn *c;

    if (key == NULL || (n->allow != NULL && !n->allow(n->arg, l->kind, key->name))) {
        net_complain(n, "refused", l->kind, "peer", key != NULL ? key->name : "unknown",
                     "its key is no longer allowed");
        gone_send(l, route, v->number, NET_GONE_KEY);
        return NULL;
    }
    c = room_make(n, l->kind, key->name) ? net_conn_take(n, true) : NULL;
    if (c == NULL) {
        net_complain(n, "refused", l->kind, "peer", key->name, "too many connections");
        gone_send(l, route, v->number, NET_GONE_CROWDED);
        return NULL;
    }
    c->kind = l->kind;
    memcpy(c->name, key->name, sizeof c->name);
    c->serial = key->serial;
    net_life_begin(&c->life);
    c->life.in_number = v->number;
    c->listener = l;
    c->route = route;
    c->fd = zmq_msg_get(&n->msg, ZMQ_SRCFD);
    n->routes[c - n->conns - NET_LINKS_MAX] = (uint64_t)(l->index + 1) << 32 | route;
    while (news_take(n, l)) {
    }
    if (fd_followed(c->fd) && (l->open_fds[c->fd / 8] & 1u << c->fd % 8) == 0) {
        guest_break(c);
    }
    return c;
}

/* What is wrong with a message's numbers; NULL: it is the guest's next. */
static const char *gap_in(const struct net_life *life, const struct net_envelope *v)
{
    if (v->number != life->in_number) {
        return v->sequence == 0 ? "it began a new life on the same connection"
                                : "a message of another life";
    }
    return v->sequence != life->in_next ? "messages are missing" : NULL;
}

static void guest_fail(struct net *n, struct net_conn *c, const char *why)
{
    net_complain(n, "dropped", c->kind, "peer", c->name, why);
    net_guest_dismiss(c, NET_GONE_BAD);
    net_conn_end(n, c, why);
}

/* True: n->msg is to be handed out. */
static bool guest_message(struct net *n, struct net_listener *l, uint32_t route, bool surplus)
{
    struct net_envelope v = {0};
    struct net_conn *c = guest_of(n, l, route);
    const bool good = net_envelope_get(net_frame_span(&n->msg), &v) && !surplus;
    const char *why = good && c != NULL ? gap_in(&c->life, &v) : NULL;

    if (why != NULL && v.number != c->life.in_number && v.sequence == 0) {
        net_conn_end(n, c, why);
        c = NULL;
    } else if (why != NULL) {
        guest_fail(n, c, why);
        return false;
    }
    if (good && c == NULL && v.sequence != 0) {
        gone_send(l, route, v.number, NET_GONE_UNKNOWN);
        return false;
    }
    why = good ? net_held_decode(n, l->kind, net_rules[l->kind].to_listener, &v)
               : "a message without an envelope";
    if (why != NULL && c != NULL) {
        guest_fail(n, c, why);
        return false;
    }
    if (why != NULL) {
        const struct net_key *key = net_zap_sender(n, &n->msg);

        net_complain(n, "dropped", l->kind, "peer", key != NULL ? key->name : "unknown", why);
        gone_send(l, route, v.number, NET_GONE_BAD);
        return false;
    }
    if (c == NULL) {
        c = guest_admit(n, l, route, &v);
    }
    if (c == NULL) {
        return false;
    }
    c->life.in_next++;
    net_held_set(n, c->handle);
    return true;
}

enum net_step net_listener_step(struct net *n, struct net_listener *l)
{
    zmq_msg_t id;
    uint32_t route;
    bool taken = false, surplus = true;

    (void)zmq_msg_init(&id);
    if (!net_frame_receive(l->socket, &id)) {
        (void)zmq_msg_close(&id);
        l->written = false;
        broken_end(n, l);
        return NET_STEP_EMPTY;
    }
    (void)zmq_msg_init(&n->msg);
    if (zmq_msg_more(&id) != 0 && net_frame_receive(l->socket, &n->msg)) {
        surplus = net_frames_drop(l->socket, &n->msg);
    }
    if (route_get(&id, &route)) {
        taken = guest_message(n, l, route, surplus);
    } else {
        net_complain(n, "dropped", l->kind, "peer", "unknown", "a routing id of its own choice");
    }
    if (!taken) {
        (void)zmq_msg_close(&n->msg);
    }
    (void)zmq_msg_close(&id);
    if (l->n_broken > 0 && base_clock_ms() - l->broken_ms >= BROKEN_MS) {
        broken_end(n, l);
    }
    return NET_STEP_MORE;
}
