/* The tests' network, see net_lab.h. Nothing here waits by the clock: a side is pumped until the
 * event is there, and only a test that has failed runs into the limit. */
#include "tests/unit/net_lab.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

enum { PATIENCE_MS = 60000 };

/* ---- keys ----------------------------------------------------------------------------------- */

void lab_keys_make(char dir[static 256], const char *names)
{
    const char *base = getenv("TMPDIR");
    char list[256], *rest = list, *name;
    struct err e = {0};

    (void)snprintf(dir, 256, "%.200s/shoal-net-XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(list, sizeof list, "%s", names);
    while ((name = strtok_r(rest, " ", &rest)) != NULL) {
        assert_int_equal(net_keygen(dir, name, &e), 0);
    }
}

void lab_keys_remove(const char *dir)
{
    char path[600];
    DIR *d = opendir(dir);
    struct dirent *entry;

    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        (void)unlink(path);
    }
    (void)closedir(d);
    assert_int_equal(rmdir(dir), 0);
}

void lab_key_copy(const char *from, const char *to, const char *name)
{
    char path[600];
    uint8_t *bytes = NULL;
    size_t n = 0;

    (void)snprintf(path, sizeof path, "%s/%s.pub", from, name);
    assert_int_equal(base_file_read(path, 100, &bytes, &n, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/%s.pub", to, name);
    assert_int_equal(base_file_replace(path, bytes, n, 0644, NULL), 0);
    base_free(bytes);
}

void lab_key_text(const char *dir, const char *file, char text[static 41])
{
    char path[600];
    uint8_t *bytes = NULL;
    size_t n = 0;

    (void)snprintf(path, sizeof path, "%s/%s", dir, file);
    assert_int_equal(base_file_read(path, 100, &bytes, &n, NULL), 0);
    assert_int_equal(n, 41);
    memcpy(text, bytes, 40);
    text[40] = '\0';
    base_free(bytes);
}

/* ---- sides ---------------------------------------------------------------------------------- */

void lab_open(struct lab *lab, const char *names)
{
    *lab = (struct lab){0};
    lab_keys_make(lab->keys, names);
}

void lab_close(struct lab *lab)
{
    for (unsigned i = 0; i < LAB_SIDES_MAX; i++) {
        lab_side_close(&lab->sides[i]);
    }
    lab_keys_remove(lab->keys);
}

struct lab_side *lab_side(struct lab *lab, unsigned i, const char *keys, const char *self)
{
    struct lab_side *s = &lab->sides[i];
    struct net_options o = {.keys = keys != NULL ? keys : lab->keys,
                            .self = self,
                            .io_threads = 2,
                            .allow = lab->allow};
    struct err e = {0};

    assert_null(s->n);
    assert_int_equal(net_new(&o, &s->n, &e), 0);
    s->log = base_zalloc(LAB_LOG_MAX, sizeof *s->log);
    assert_non_null(s->log);
    return s;
}

void lab_side_close(struct lab_side *s)
{
    net_free(s->n);
    base_free(s->log);
    *s = (struct lab_side){0};
}

unsigned lab_listen(struct lab_side *s, enum net_kind kind, unsigned port)
{
    char endpoint[NET_ENDPOINT_MAX];
    struct err e = {0};
    unsigned bound = 0;

    (void)snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%u", port);
    assert_int_equal(net_listen(s->n, kind, endpoint, &bound, &e), 0);
    assert_true(bound > 0 && (port == 0 || port == bound));
    return bound;
}

net_peer lab_connect(struct lab_side *s, enum net_kind kind, const char *name, unsigned port)
{
    char endpoint[NET_ENDPOINT_MAX];
    struct err e = {0};
    net_peer p = 0;

    (void)snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%u", port);
    assert_int_equal(net_connect(s->n, kind, name, endpoint, &p, &e), 0);
    assert_true(p != 0);
    return p;
}

struct net_msg lab_message(enum net_code code, uint64_t nonce)
{
    static const uint8_t id[16];
    struct net_msg m = {.code = code};

    switch (code) {
    case NET_MSG_BEAT:
        m.u.BEAT.nonce = nonce;
        break;
    case NET_MSG_BEAT_BACK:
        m.u.BEAT_BACK.nonce = nonce;
        break;
    case NET_MSG_PING:
        m.u.PING.nonce = nonce;
        break;
    case NET_MSG_PONG:
        m.u.PONG.nonce = nonce;
        break;
    case NET_MSG_BULK_PING:
        m.u.BULK_PING.nonce = nonce;
        break;
    case NET_MSG_BULK_PONG:
        m.u.BULK_PONG.nonce = nonce;
        break;
    case NET_MSG_ASK:
        m.u.ASK.id = id;
        m.u.ASK.from = (uint32_t)nonce;
        break;
    default:
        fail_msg("the lab does not know message %d", (int)code);
    }
    return m;
}

static uint64_t nonce_of(const struct net_msg *m)
{
    switch (m->code) {
    case NET_MSG_BEAT:
        return m->u.BEAT.nonce;
    case NET_MSG_BEAT_BACK:
        return m->u.BEAT_BACK.nonce;
    case NET_MSG_PING:
        return m->u.PING.nonce;
    case NET_MSG_PONG:
        return m->u.PONG.nonce;
    case NET_MSG_BULK_PING:
        return m->u.BULK_PING.nonce;
    case NET_MSG_BULK_PONG:
        return m->u.BULK_PONG.nonce;
    case NET_MSG_BULK_SEND:
        return m->u.BULK_SEND.index;
    case NET_MSG_BULK_BURST:
        return m->u.BULK_BURST.index;
    case NET_MSG_ASK:
        return m->u.ASK.from;
    default:
        return 0;
    }
}

int lab_send(struct lab_side *s, net_peer p, enum net_code code, uint64_t nonce)
{
    struct net_msg m = lab_message(code, nonce);

    return net_send(s->n, p, &m, NULL);
}

static void side_echo(struct lab_side *s, const struct lab_event *x)
{
    const enum net_code answer = x->code == NET_MSG_BEAT        ? NET_MSG_BEAT_BACK
                                 : x->code == NET_MSG_PING      ? NET_MSG_PONG
                                 : x->code == NET_MSG_BULK_PING ? NET_MSG_BULK_PONG
                                                                : (enum net_code)0;

    if (x->type == NET_EV_MESSAGE && answer != 0) {
        assert_int_equal(lab_send(s, x->peer, answer, x->nonce), 0);
    }
}

static bool side_pump(struct lab_side *s, int timeout_ms)
{
    struct net_event ev;
    struct lab_event *x;

    if (!net_next(s->n, timeout_ms, &ev)) {
        return false;
    }
    assert_true(s->n_log < LAB_LOG_MAX);
    x = &s->log[s->n_log++];
    *x = (struct lab_event){.type = ev.type, .peer = ev.peer, .kind = ev.kind, .fd = ev.fd};
    (void)snprintf(x->name, sizeof x->name, "%s", net_peer_name(s->n, ev.peer));
    (void)snprintf(x->why, sizeof x->why, "%s", ev.why != NULL ? ev.why : "");
    if (ev.type == NET_EV_MESSAGE) {
        assert_true(ev.wire_bytes > 18);
        x->code = ev.msg.code;
        x->nonce = nonce_of(&ev.msg);
    }
    if (s->echo) {
        side_echo(s, x);
    }
    return true;
}

void lab_pump(struct lab *lab)
{
    for (unsigned i = 0; i < LAB_SIDES_MAX; i++) {
        struct lab_side *s = &lab->sides[i];

        for (unsigned k = 0; s->n != NULL && !s->deaf && k < 100 && side_pump(s, k == 0); k++) {
        }
    }
}

struct lab_event lab_next(struct lab *lab, struct lab_side *s)
{
    const int64_t limit_ms = base_clock_ms() + PATIENCE_MS;

    while (s->seen == s->n_log) {
        lab_pump(lab);
        if (base_clock_ms() > limit_ms) {
            fail_msg("no event came");
        }
    }
    return s->log[s->seen++];
}

struct lab_event lab_expect(struct lab *lab, struct lab_side *s, enum net_event_type type)
{
    struct lab_event x = lab_next(lab, s);

    if (x.type != type) {
        fail_msg("event %d of %s (%s), expected %d", (int)x.type, x.name, x.why, (int)type);
    }
    return x;
}

void lab_deliver(struct lab *lab, struct lab_side *from, net_peer p, struct lab_side *to,
                 enum net_code code, uint64_t nonce)
{
    struct lab_event x;

    assert_int_equal(lab_send(from, p, code, nonce), 0);
    x = lab_expect(lab, to, NET_EV_MESSAGE);
    assert_int_equal(x.code, code);
    assert_int_equal(x.nonce, nonce);
}

/* ---- a socket without manners --------------------------------------------------------------- */

static void raw_new(struct lab_raw *r, struct lab *lab, int type, const char *self)
{
    const int linger_ms = 1000;
    char file[100], text[41];

    *r = (struct lab_raw){.lab = lab, .context = zmq_ctx_new(), .listens = type == ZMQ_ROUTER};
    r->socket = zmq_socket(r->context, type);
    assert_non_null(r->socket);
    (void)snprintf(file, sizeof file, "%s.pub", self);
    lab_key_text(lab->keys, file, text);
    assert_int_equal(zmq_setsockopt(r->socket, ZMQ_CURVE_PUBLICKEY, text, 41), 0);
    (void)snprintf(file, sizeof file, "%s.secret", self);
    lab_key_text(lab->keys, file, text);
    assert_int_equal(zmq_setsockopt(r->socket, ZMQ_CURVE_SECRETKEY, text, 41), 0);
    assert_int_equal(zmq_setsockopt(r->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms), 0);
}

void lab_raw_open(struct lab_raw *r, struct lab *lab, const char *self, const char *server,
                  unsigned port, const char *routing_id)
{
    char file[100], text[41], endpoint[64];
    const int immediate = 1;

    raw_new(r, lab, ZMQ_DEALER, self);
    (void)snprintf(file, sizeof file, "%s.pub", server);
    lab_key_text(lab->keys, file, text);
    assert_int_equal(zmq_setsockopt(r->socket, ZMQ_CURVE_SERVERKEY, text, 41), 0);
    /* Sending is possible from the end of the handshake on, which takes a pumped listener. */
    assert_int_equal(zmq_setsockopt(r->socket, ZMQ_IMMEDIATE, &immediate, sizeof immediate), 0);
    if (routing_id != NULL) {
        assert_int_equal(zmq_setsockopt(r->socket, ZMQ_ROUTING_ID, routing_id, strlen(routing_id)),
                         0);
    }
    (void)snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%u", port);
    assert_int_equal(zmq_connect(r->socket, endpoint), 0);
}

unsigned lab_raw_listen(struct lab_raw *r, struct lab *lab, const char *self)
{
    char endpoint[64] = "";
    size_t n = sizeof endpoint;
    const int server = 1;

    raw_new(r, lab, ZMQ_ROUTER, self);
    assert_int_equal(zmq_setsockopt(r->socket, ZMQ_CURVE_SERVER, &server, sizeof server), 0);
    assert_int_equal(zmq_bind(r->socket, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(r->socket, ZMQ_LAST_ENDPOINT, endpoint, &n), 0);
    return (unsigned)strtoul(strrchr(endpoint, ':') + 1, NULL, 10);
}

uint64_t lab_raw_hear(struct lab_raw *r)
{
    uint8_t bytes[1024];

    while (zmq_recv(r->socket, r->route, sizeof r->route, ZMQ_DONTWAIT) != (int)sizeof r->route) {
        lab_pump(r->lab);
    }
    assert_true(zmq_recv(r->socket, bytes, sizeof bytes, 0) >= 18);
    return net_u64_at((struct net_list){bytes, 1}, 0);
}

void lab_raw_close(struct lab_raw *r)
{
    (void)zmq_close(r->socket);
    (void)zmq_ctx_term(r->context);
}

static void raw_frame(struct lab_raw *r, const void *bytes, size_t n, bool more)
{
    while (zmq_send(r->socket, bytes, n, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) < 0) {
        assert_int_equal(errno, EAGAIN);
        lab_pump(r->lab);
    }
}

void lab_raw_bytes(struct lab_raw *r, const void *bytes, size_t n, bool more)
{
    if (r->listens && !r->within) {
        raw_frame(r, r->route, sizeof r->route, true);
    }
    raw_frame(r, bytes, n, more);
    r->within = more;
}

void lab_raw_message(struct lab_raw *r, uint64_t number, uint64_t sequence, const struct net_msg *m)
{
    const size_t n = net_msg_bytes(m);
    uint8_t *bytes = base_alloc(18 + n);

    assert_non_null(bytes);
    net_put_u64(bytes, 0, number);
    net_put_u64(bytes, 1, sequence);
    bytes[16] = (uint8_t)((unsigned)m->code & 0xff);
    bytes[17] = (uint8_t)((unsigned)m->code >> 8);
    net_msg_encode(m, bytes + 18);
    lab_raw_bytes(r, bytes, 18 + n, false);
    base_free(bytes);
}

int lab_open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(d);
    while (readdir(d) != NULL) {
        n++;
    }
    (void)closedir(d);
    return n;
}

static int fds_before;

int lab_group_begin(void **state)
{
    (void)state;
    base_log_init("test", BASE_LOG_ERROR);
    assert_int_equal(net_init(NULL), 0);
    fds_before = lab_open_fds();
    return 0;
}

int lab_group_end(void **state)
{
    (void)state;
    return lab_open_fds() == fds_before && base_alloc_live() == 0 ? 0 : -1;
}
