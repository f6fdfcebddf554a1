/* Who may connect: the answers to ZeroMQ's authentication requests (ZAP, RFC 27).
 *
 * Every CURVE handshake at one of our listeners asks over inproc; the question is answered between
 * messages, on the thread that owns the struct net. A key is let in when it is in the keys folder
 * and the owner's allow() takes its name for this kind of listener. The user id that ZeroMQ then
 * attaches to each message of that connection is "NAME:SERIAL": the sender's name comes from there,
 * never from a message.
 *
 * ZeroMQ 4.3 lets everybody in when nobody answers ZAP. Hence the invariant: the answering socket
 * is bound before the first listener and closed after the last; and a message without a valid user
 * id is refused, whatever let it through.
 *
 * An unknown key has the folder looked at again, at a bounded rate, so new keys need no restart. */
#include "net/socket_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ZAP_FRAMES = 7, RESCAN_EVERY_MS = 200 };
enum { F_VERSION, F_REQUEST, F_DOMAIN, F_ADDRESS, F_IDENTITY, F_MECHANISM, F_KEY };

int net_zap_open(struct net *n, struct err *e)
{
    n->zap = zmq_socket(n->context, ZMQ_REP);
    if (n->zap == NULL || !net_option(n->zap, ZMQ_LINGER, 0) ||
        zmq_bind(n->zap, "inproc://zeromq.zap.01") != 0) {
        return err_set(e, ERR_IO, "cannot answer for keys: %s", zmq_strerror(errno));
    }
    return 0;
}

static bool frame_is(zmq_msg_t *frame, const char *text)
{
    return base_span_is(net_frame_span(frame), text);
}

static bool domain_kind(zmq_msg_t *frame, enum net_kind *kind)
{
    for (unsigned i = 0; i < NET_N_KINDS; i++) {
        if (frame_is(frame, net_rules[i].name)) {
            *kind = (enum net_kind)i;
            return true;
        }
    }
    return false;
}

/* The key that may come in; NULL, and the refusal is counted and logged. */
static const struct net_key *decide(struct net *n, zmq_msg_t frames[static ZAP_FRAMES])
{
    const struct net_key *key;
    enum net_kind kind;
    uint8_t bytes[NET_KEY_BYTES];
    char text[NET_KEY_TEXT + 1];

    if (!frame_is(&frames[F_VERSION], "1.0") || !frame_is(&frames[F_MECHANISM], "CURVE") ||
        !domain_kind(&frames[F_DOMAIN], &kind) || zmq_msg_size(&frames[F_KEY]) != NET_KEY_BYTES) {
        return NULL;
    }
    memcpy(bytes, zmq_msg_data(&frames[F_KEY]), NET_KEY_BYTES);
    key = net_key_bytes(&n->keys, bytes);
    if (key == NULL && net_keys_changed(&n->keys, base_clock_ms(), RESCAN_EVERY_MS)) {
        net_zap_reload(n);
        key = net_key_bytes(&n->keys, bytes);
    }
    if (key == NULL) {
        (void)zmq_z85_encode(text, bytes, NET_KEY_BYTES);
        net_complain(n, "refused", kind, "key", text, "unknown key");
        return NULL;
    }
    if (n->allow != NULL && !n->allow(n->arg, kind, key->name)) {
        net_complain(n, "refused", kind, "peer", key->name, "not allowed here");
        return NULL;
    }
    return key;
}

/* Frames of so few bytes lie inside a zmq_msg_t, so only the user id can fail for lack of
 * memory. */
static void answer_part(struct net *n, struct span part, int flags)
{
    zmq_msg_t frame;

    if (zmq_msg_init_size(&frame, part.len) != 0) {
        (void)zmq_msg_init(&frame);
    } else if (part.len > 0) {
        memcpy(zmq_msg_data(&frame), part.ptr, part.len);
    }
    if (!net_frame_send(n->zap, &frame, flags)) {
        (void)zmq_msg_close(&frame);
    }
}

/* A user id that came out empty is refused when its first message arrives. */
static void answer(struct net *n, struct span request, const struct net_key *key)
{
    char user[NET_NAME_MAX + 24] = "";

    if (key != NULL) {
        (void)snprintf(user, sizeof user, "%s:%llu", key->name, (unsigned long long)key->serial);
    }
    answer_part(n, base_span_str("1.0"), ZMQ_SNDMORE);
    answer_part(n, request, ZMQ_SNDMORE);
    answer_part(n, base_span_str(key != NULL ? "200" : "400"), ZMQ_SNDMORE);
    answer_part(n, base_span_str(""), ZMQ_SNDMORE);
    answer_part(n, base_span_str(user), ZMQ_SNDMORE);
    answer_part(n, base_span_str(""), 0);
}

enum net_step net_zap_step(struct net *n)
{
    zmq_msg_t frames[ZAP_FRAMES];
    const struct net_key *key;
    size_t count = 0;
    bool more = true, surplus;

    while (more && count < ZAP_FRAMES) {
        (void)zmq_msg_init(&frames[count]);
        if (!net_frame_receive(n->zap, &frames[count])) {
            (void)zmq_msg_close(&frames[count]);
            break;
        }
        more = zmq_msg_more(&frames[count]) != 0;
        count++;
    }
    if (count == 0) {
        return NET_STEP_EMPTY;
    }
    surplus = net_frames_drop(n->zap, &frames[count - 1]);
    key = surplus || count < ZAP_FRAMES ? NULL : decide(n, frames);
    answer(n, count > F_REQUEST ? net_frame_span(&frames[F_REQUEST]) : (struct span){0}, key);
    for (size_t i = 0; i < count; i++) {
        (void)zmq_msg_close(&frames[i]);
    }
    return NET_STEP_MORE;
}

const struct net_key *net_zap_sender(struct net *n, zmq_msg_t *frame)
{
    const char *user = zmq_msg_gets(frame, "User-Id");
    const char *colon = user != NULL ? strchr(user, ':') : NULL;

    return colon != NULL ? net_key_serial(&n->keys, strtoull(colon + 1, NULL, 10)) : NULL;
}

void net_zap_reload(struct net *n)
{
    if (!net_keys_scan(&n->keys)) {
        return;
    }
    for (unsigned i = 0; i < NET_CONNS_MAX; i++) {
        struct net_conn *c = &n->conns[i];

        if (c->handle == 0 || c->ending) {
            continue;
        }
        if (c->link != NULL && c->link->state != NET_LINK_IDLE &&
            net_key_serial(&n->keys, c->serial) == NULL) {
            net_link_fail(n, c, "the other side's key is no longer in the keys folder");
        } else if (c->link == NULL && (net_key_serial(&n->keys, c->serial) == NULL ||
                                       (n->allow != NULL && !n->allow(n->arg, c->kind, c->name)))) {
            net_guest_dismiss(c, NET_GONE_KEY);
            net_conn_end(n, c, "its key is no longer allowed");
        }
    }
}

void net_keys_reload(struct net *n)
{
    net_zap_reload(n);
}
