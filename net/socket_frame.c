/* ZeroMQ's sockets as the rest of net wants them: opened with every limit set, read and written
 * frame by frame without blocking, and watched by a monitor.
 *
 * All of Shoal's sockets get their options here, so no socket exists without CURVE keys, a maximal
 * message, high-water marks and a limit on handshakes. Calls interrupted by a signal are repeated:
 * a multi-part message must not be left half-sent.
 *
 * A monitor's queue has no bound on our side. ZeroMQ's I/O thread would otherwise wait for us to
 * read it while we wait for that thread to close a socket. */
#include "net/socket_private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { BULK_BYTES_MAX = 300 * 1024, LINGER_MS = 200 };

/* A ring or bulk queue holds a whole burst of the link test; credits keep other traffic far
 * below. */
const struct net_rules net_rules[NET_N_KINDS] = {
    [NET_KIND_CONTROL] = {"control", NET_TO_COORD, NET_TO_WORKER, NET_CONTROL_MAX, 1024, 1024},
    [NET_KIND_CLIENT] = {"client", NET_ASK_CLIENT, NET_CLIENT, NET_CONTROL_MAX, 256, 32},
    [NET_KIND_RING] = {"ring", NET_RING, NET_RING, NET_MESSAGE_MAX, 288, 288},
    [NET_KIND_TEAM] = {"team", NET_TEAM, NET_TEAM, NET_MESSAGE_MAX, 288, 288},
    [NET_KIND_BULK] = {"bulk", NET_ASK_BULK, NET_BULK, BULK_BYTES_MAX, 288, 288},
};
_Static_assert(NET_CHUNK_MAX + 1024 < BULK_BYTES_MAX, "a chunk fits a bulk message");

void net_life_begin(struct net_life *life)
{
    *life = (struct net_life){0};
    while (life->out_number == 0) {
        net_random(&life->out_number, sizeof life->out_number);
    }
}

/* ---- sockets --------------------------------------------------------------------------------- */

bool net_option(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

/* Options of every socket that faces the network. */
static bool options_set(const struct net *n, enum net_kind kind, void *socket)
{
    /* ZeroMQ's encryption and framing add less than this to a message. */
    enum { SEAL_BYTES = 128 };
    const struct net_rules *rules = &net_rules[kind];
    const int64_t frame_max = (int64_t)rules->bytes_max + SEAL_BYTES;
    const uint64_t thread =
        n->io_threads < 2 ? 0 : (uint64_t)1 << (kind == NET_KIND_BULK ? n->io_threads - 1 : 0);
    const struct {
        int option, value;
    } table[] = {
        {ZMQ_LINGER, LINGER_MS},
        {ZMQ_SNDHWM, rules->send_mark},
        {ZMQ_RCVHWM, rules->receive_mark},
        {ZMQ_HANDSHAKE_IVL, 3000},
        {ZMQ_CONNECT_TIMEOUT, 3000},
        {ZMQ_IPV6, 0},
        {ZMQ_TCP_KEEPALIVE, 1},
        {ZMQ_TCP_KEEPALIVE_IDLE, 10},
        {ZMQ_TCP_KEEPALIVE_INTVL, 5},
        {ZMQ_TCP_KEEPALIVE_CNT, 3},
        {ZMQ_TCP_MAXRT, 30000}, /* keepalive does not watch over bytes that nobody acknowledges */
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (!net_option(socket, table[i].option, table[i].value)) {
            return false;
        }
    }
    return zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max) == 0 &&
           zmq_setsockopt(socket, ZMQ_AFFINITY, &thread, sizeof thread) == 0 &&
           zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, n->keys.own, NET_KEY_BYTES) == 0 &&
           zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, n->keys.secret, NET_KEY_BYTES) == 0;
}

int net_socket_open(struct net *n, enum net_kind kind, int type, void **socket, struct err *e)
{
    void *s = zmq_socket(n->context, type);

    if (s == NULL || !options_set(n, kind, s)) {
        const int reason = errno;

        if (s != NULL) {
            (void)zmq_close(s);
        }
        return err_set(e, ERR_IO, "cannot open a %s socket: %s", net_rules[kind].name,
                       zmq_strerror(reason));
    }
    *socket = s;
    n->stale = true;
    return 0;
}

void net_socket_close(struct net *n, void **socket, void **monitor)
{
    if (*socket != NULL) {
        (void)zmq_socket_monitor(*socket, NULL, 0);
        (void)zmq_close(*socket);
    }
    if (*monitor != NULL) {
        (void)zmq_close(*monitor);
    }
    *socket = NULL;
    *monitor = NULL;
    n->stale = true;
}

int net_monitor_open(struct net *n, void *socket, int events, void **monitor, struct err *e)
{
    char address[64];
    void *m = NULL;

    (void)snprintf(address, sizeof address, "inproc://monitor-%llu",
                   (unsigned long long)++n->n_monitors);
    if (zmq_socket_monitor(socket, address, events) != 0) {
        return err_set(e, ERR_IO, "cannot watch a socket: %s", zmq_strerror(errno));
    }
    m = zmq_socket(n->context, ZMQ_PAIR);
    if (m == NULL || !net_option(m, ZMQ_LINGER, 0) || !net_option(m, ZMQ_RCVHWM, 0) ||
        zmq_connect(m, address) != 0) {
        const int reason = errno;

        if (m != NULL) {
            (void)zmq_close(m);
        }
        return err_set(e, ERR_IO, "cannot watch a socket: %s", zmq_strerror(reason));
    }
    *monitor = m;
    return 0;
}

bool net_monitor_read(void *monitor, unsigned *event, int *value)
{
    zmq_msg_t frame;
    uint16_t event16 = 0;
    int32_t value32 = 0;

    (void)zmq_msg_init(&frame);
    if (!net_frame_receive(monitor, &frame)) {
        (void)zmq_msg_close(&frame);
        return false;
    }
    if (zmq_msg_size(&frame) == sizeof event16 + sizeof value32) {
        const uint8_t *bytes = zmq_msg_data(&frame); /* in this machine's own byte order */

        memcpy(&event16, bytes, sizeof event16);
        memcpy(&value32, bytes + sizeof event16, sizeof value32);
    }
    (void)net_frames_drop(monitor, &frame); /* the address */
    (void)zmq_msg_close(&frame);
    *event = event16;
    *value = value32;
    return true;
}

/* ---- frames ---------------------------------------------------------------------------------- */

bool net_frame_receive(void *socket, zmq_msg_t *frame)
{
    int rc;

    do {
        rc = zmq_msg_recv(frame, socket, ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc >= 0;
}

/* Have ZeroMQ look at the socket's mailbox, which sending alone does only now and then. */
static void mailbox_look(void *socket)
{
    int events;
    size_t length = sizeof events;

    while (zmq_getsockopt(socket, ZMQ_EVENTS, &events, &length) != 0 && errno == EINTR) {
    }
}

bool net_frame_send(void *socket, zmq_msg_t *frame, int flags)
{
    bool looked = false;

    while (zmq_msg_send(frame, socket, flags | ZMQ_DONTWAIT) < 0) {
        if (errno == EAGAIN && !looked) {
            mailbox_look(socket); /* the news that there is room may lie in it */
            looked = true;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

bool net_frames_drop(void *socket, zmq_msg_t *frame)
{
    bool more = zmq_msg_more(frame) != 0, some = false;
    zmq_msg_t rest;

    while (more) {
        (void)zmq_msg_init(&rest);
        /* The parts of a message arrive together, so the next one is there. */
        more = net_frame_receive(socket, &rest) && zmq_msg_more(&rest) != 0;
        some = true;
        (void)zmq_msg_close(&rest);
    }
    return some;
}

struct span net_frame_span(zmq_msg_t *frame)
{
    return (struct span){zmq_msg_data(frame), zmq_msg_size(frame)};
}

/* ---- the message at hand -------------------------------------------------------------------- */

const char *net_held_decode(struct net *n, enum net_kind kind, enum net_dir dir,
                            const struct net_envelope *v)
{
    struct span bytes = net_frame_span(&n->msg);

    /* ZeroMQ's own limit is a little wider, for its encryption. */
    if (bytes.len > net_rules[kind].bytes_max) {
        return "a message beyond the limit";
    }
    if (net_msg_name((enum net_code)v->code) == NULL) {
        return "a message of no known code";
    }
    if (net_msg_dir((enum net_code)v->code) != dir) {
        return "a message that has no place on this connection";
    }
    bytes.ptr += NET_ENVELOPE_BYTES;
    bytes.len -= NET_ENVELOPE_BYTES;
    if (!net_msg_decode((enum net_code)v->code, bytes, &n->decoded)) {
        return "a malformed message";
    }
    return NULL;
}

void net_held_set(struct net *n, net_peer from)
{
    assert(n->msg_state == NET_HELD_NONE);
    n->msg_state = NET_HELD_NEXT;
    n->msg_peer = from;
}
