/* What the socket files share: the state of a struct net. Included by net/socket*.c and net/zap.c
 * only.
 *
 * Words: a *link* is a connection that we make (a DEALER of its own); a *guest* is one that a
 * stranger made to one of our listeners (a routing id of a ROUTER). Both are a struct net_conn,
 * and a net_peer is its slot and a number that is never used again. A *life* is one TCP
 * connection's worth of messages. */
#ifndef NET_SOCKET_PRIVATE_H
#define NET_SOCKET_PRIVATE_H

#include "net/net.h"

#include <poll.h>
#include <zmq.h>

enum {
    NET_KEY_BYTES = 32,
    NET_KEY_TEXT = 40,   /* characters of Z85 */
    NET_KEYS_MAX = 1024, /* keys in the folder; more are not read */
    NET_LINKS_MAX = 64,
    NET_GUESTS_MAX = 256,
    NET_GUESTS_A_NAME = 32, /* of one kind, so that one key cannot take all places */
    NET_CONNS_MAX = NET_LINKS_MAX + NET_GUESTS_MAX,
    NET_LISTENERS_MAX = 8,
    NET_WATCHES_MAX = 16,
    NET_ITEMS_MAX = 1 + 2 * NET_LISTENERS_MAX + 2 * NET_LINKS_MAX + NET_WATCHES_MAX,
    NET_FDS_MAX = 8192, /* descriptors above are not followed; their guests end by other means */
    NET_COMPLAINTS_MAX = 32,
    NET_ENVELOPE_BYTES = 8 + 8 + 2,
    NET_SAY_AGAIN_MS = 5000, /* the same complaint is not made twice within this */
    NET_BACKOFF_MIN_MS = 50,
    NET_BACKOFF_MAX_MS = 1000
};
_Static_assert(NET_GUESTS_A_NAME < NET_GUESTS_MAX, "one key must leave room for others");
_Static_assert(NET_CONNS_MAX < 65535, "a slot's number must fit the low bits of a net_peer");

/* What a kind of connection may carry. */
struct net_rules {
    const char *name;            /* also its ZAP domain */
    enum net_dir to_listener;    /* what the connecting side sends */
    enum net_dir to_link;        /* what the listening side sends */
    size_t bytes_max;            /* of a message with its envelope */
    int send_mark, receive_mark; /* messages in a queue */
};
extern const struct net_rules net_rules[NET_N_KINDS];

/* ---- the envelope ---------------------------------------------------------------------------- */

/* Code 0 is no message of wire.def: it tells a link that the listener has ended its life. One
 * byte of reason follows. */
enum { NET_CODE_GONE = 0 };
enum net_gone {
    NET_GONE_ENDED,
    NET_GONE_REPLACED,
    NET_GONE_BAD,
    NET_GONE_CROWDED,
    NET_GONE_KEY,
    NET_GONE_UNKNOWN,
    NET_N_GONE
};

struct net_envelope {
    uint64_t number, sequence;
    uint16_t code;
};

static inline void net_envelope_put(uint8_t *out, const struct net_envelope *v)
{
    net_put_u64(out, 0, v->number);
    net_put_u64(out, 1, v->sequence);
    out[16] = (uint8_t)(v->code & 0xff);
    out[17] = (uint8_t)(v->code >> 8);
}

static inline bool net_envelope_get(struct span bytes, struct net_envelope *v)
{
    const struct net_list words = {bytes.ptr, 2};

    if (bytes.len < NET_ENVELOPE_BYTES) {
        return false;
    }
    v->number = net_u64_at(words, 0);
    v->sequence = net_u64_at(words, 1);
    v->code = (uint16_t)(bytes.ptr[16] | bytes.ptr[17] << 8);
    return v->number != 0; /* 0 stands for "none yet" */
}

/* ---- connections ----------------------------------------------------------------------------- */

/* The numbering of both directions. A number is drawn at random by the side that sends. */
struct net_life {
    uint64_t out_number, out_next;
    uint64_t in_number, in_next; /* in_number 0: nothing received yet */
};

enum net_link_state {
    NET_LINK_IDLE,   /* no socket; a new one at at_ms */
    NET_LINK_TRYING, /* a socket that has until at_ms to finish its handshake */
    NET_LINK_UP,
    NET_LINK_BROKEN /* the TCP connection is over; what had arrived before is still delivered */
};

struct net_link {
    enum net_link_state state;
    void *socket, *monitor;
    char endpoint[NET_ENDPOINT_MAX];
    bool written; /* since the socket last had nothing to read: see net/socket_poll.c */
    int64_t at_ms, up_ms, said_ms;
    int backoff_ms;
};

struct net_listener {
    enum net_kind kind;
    unsigned index;
    void *socket, *monitor;
    bool written;                      /* as in a link */
    unsigned n_broken;                 /* guests whose TCP connection is over */
    int64_t broken_ms;                 /* since when */
    uint8_t open_fds[NET_FDS_MAX / 8]; /* a bit for each descriptor: accepted and not yet closed */
};

struct net_conn {
    net_peer handle; /* 0: the slot is free */
    enum net_kind kind;
    char name[NET_NAME_MAX];
    uint64_t serial; /* of the key, see struct net_key */
    struct net_life life;
    bool ending;    /* NET_EV_DOWN is due; nothing is sent or received any more */
    uint64_t order; /* among those that are ending */
    const char *why;
    struct net_link *link; /* NULL: a guest, to which the rest belongs */
    struct net_listener *listener;
    uint32_t route; /* routing id at the listener */
    int fd;         /* of its TCP connection, -1: not known; never touched, only compared */
    bool announced; /* NET_EV_UP was reported */
    bool broken;
};

/* ---- keys and complaints -------------------------------------------------------------------- */

/* A serial number stands for one name with one key: a key that was removed and replaced under
 * the same name has another. It is the authenticated user id that ZeroMQ keeps with each
 * message. */
struct net_key {
    char name[NET_NAME_MAX];
    uint8_t bytes[NET_KEY_BYTES];
    uint64_t serial;
};

struct net_keys {
    char *dir;
    struct net_key *list; /* in the order of names */
    size_t n;
    uint64_t serials;
    int64_t mtime_ns, asked_ms;
    bool settled;       /* the folder's time of change can be trusted to show the next change */
    bool unreadable;    /* so it was at the last look */
    uint64_t bad_names; /* of the files that were no key at the last look */
    uint8_t *secret;    /* NET_KEY_BYTES in libsodium's locked memory */
    uint8_t own[NET_KEY_BYTES];
};

struct net_complaint {
    uint64_t what, count; /* count: times it happened */
    int64_t said_ms;
};

/* ---- polling -------------------------------------------------------------------------------- */

enum net_source {
    NET_SRC_ZAP,
    NET_SRC_GUESTS,
    NET_SRC_LISTENER_NEWS,
    NET_SRC_LINK,
    NET_SRC_LINK_NEWS,
    NET_SRC_FD
};

struct net_item {
    enum net_source source;
    unsigned index; /* of the listener, slot or watch */
    bool ready;
};

enum net_step { NET_STEP_EMPTY, NET_STEP_MORE };
enum net_held { NET_HELD_NONE, NET_HELD_NEXT, NET_HELD_LENT };

struct net {
    void *context, *zap;
    bool (*allow)(void *arg, enum net_kind kind, const char *name);
    void *arg;
    unsigned io_threads;
    struct net_keys keys;
    uint64_t n_handles, n_monitors, n_endings;

    struct net_conn conns[NET_CONNS_MAX]; /* links first, then guests */
    uint64_t routes
        [NET_GUESTS_MAX]; /* listener and routing id of each guest, for a quick search; 0: free */
    struct net_listener *listeners[NET_LISTENERS_MAX];
    unsigned n_listeners;
    int watches[NET_WATCHES_MAX];
    unsigned n_watches;

    /* What net_next has to report: conns that are ending, then these. */
    unsigned n_ending;
    net_peer made; /* a link that was made; 0: none */
    int readable;  /* a watched descriptor; -1: none */
    enum net_held msg_state;
    zmq_msg_t msg;
    net_peer msg_peer;
    struct net_msg decoded;

    struct net_item items[NET_ITEMS_MAX];
    struct pollfd poll[NET_ITEMS_MAX]; /* of each item */
    unsigned n_items, n_ready, cursor, budget;
    bool stale; /* sockets were opened or closed: items must be made anew */

    struct net_complaint complaints[NET_COMPLAINTS_MAX];
    int64_t lines_since_ms;
    unsigned lines;
};

/* net/socket.c */
struct net_conn *net_conn_find(struct net *n, net_peer p);
struct net_conn *net_conn_take(struct net *n, bool guest); /* a free slot, with its handle; NULL */
void net_conn_release(struct net *n, struct net_conn *c);
/* The connection is over and NET_EV_DOWN is due; *c may be a free slot afterwards. */
void net_conn_end(struct net *n, struct net_conn *c, const char *why);

/* net/socket_frame.c */
void net_life_begin(struct net_life *life);
bool net_option(void *socket, int option, int value);
int net_socket_open(struct net *n, enum net_kind kind, int type, void **socket, struct err *e);
void net_socket_close(struct net *n, void **socket, void **monitor);
int net_monitor_open(struct net *n, void *socket, int events, void **monitor, struct err *e);
/* One event of a monitor; false: there is none. */
bool net_monitor_read(void *monitor, unsigned *event, int *value);
/* Neither blocks; false where nothing is there, or nothing can be sent (errno). */
bool net_frame_receive(void *socket, zmq_msg_t *frame);
bool net_frame_send(void *socket, zmq_msg_t *frame, int flags);
/* Drop the frames that follow `frame`; true: there were some. */
bool net_frames_drop(void *socket, zmq_msg_t *frame);
struct span net_frame_span(zmq_msg_t *frame);
/* Decode n->msg, a message with envelope `v`, into n->decoded. NULL, or what is wrong with it. */
const char *net_held_decode(struct net *n, enum net_kind kind, enum net_dir dir,
                            const struct net_envelope *v);
void net_held_set(struct net *n, net_peer from);

/* net/socket_log.c */
/* Count a refusal and log it, unless the same was said a moment ago. `label` says what `who` is. */
void net_complain(struct net *n, const char *event, enum net_kind kind, const char *label,
                  const char *who, const char *why);

/* net/socket_link.c */
int net_link_open(struct net *n, struct net_conn *c, struct err *e);
void net_link_fail(struct net *n, struct net_conn *c, const char *why);
void net_link_timer(struct net *n, struct net_conn *c, int64_t now_ms);
enum net_step net_link_step(struct net *n, struct net_conn *c);
enum net_step net_link_news(struct net *n, struct net_conn *c);

/* net/socket_listen.c */
enum net_step net_listener_step(struct net *n, struct net_listener *l);
enum net_step net_listener_news(struct net *n, struct net_listener *l);
/* Tell the guest that its life is over; ending it is the caller's. */
void net_guest_dismiss(struct net_conn *c, enum net_gone gone);
/* Begin a message to a guest: its payload, one frame, must follow. ERR_FULL, ERR_PEER. */
int net_guest_address(struct net_listener *l, uint32_t route);

/* net/keyring.c */
int net_keys_open(struct net_keys *k, const char *dir, const char *self, struct err *e);
void net_keys_close(struct net_keys *k);
const struct net_key *net_key_named(const struct net_keys *k, const char *name);
const struct net_key *net_key_serial(const struct net_keys *k, uint64_t serial);
const struct net_key *net_key_bytes(const struct net_keys *k,
                                    const uint8_t bytes[static NET_KEY_BYTES]);
/* Read the folder again. False where it cannot be read: the keys known so far stay. */
bool net_keys_scan(struct net_keys *k);
/* Has the folder, as far as one can see, changed since it was read? Asks the system at most every
 * `every_ms`. */
bool net_keys_changed(struct net_keys *k, int64_t now_ms, int64_t every_ms);

/* net/zap.c */
int net_zap_open(struct net *n, struct err *e);
enum net_step net_zap_step(struct net *n);
/* The valid key that a received message's connection was authenticated with; NULL: none. */
const struct net_key *net_zap_sender(struct net *n, zmq_msg_t *frame);
/* Read the keys again and end what they no longer allow. */
void net_zap_reload(struct net *n);

#endif
