/* The bulk server: pieces of the model, on a thread and sockets of their own, so that shipping
 * never holds up a heartbeat.
 *
 * It keeps no state about workers: FETCH names a hash, an offset and a length, and is answered. A
 * piece is packed from the GGUF file when it is first asked for; the last few packed ones are kept,
 * since a piece is asked for in parts and by several workers. It also answers link tests: it times
 * bursts sent to it and sends those asked for, as its queue takes them. Only workers of the
 * configuration reach it. */
#include "coordinator/shell.h"

#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { PACKED_MAX = 8, BURSTS_MAX = NET_WORKERS_MAX };

struct packed {
    bool used;
    uint32_t number;
    uint64_t last;
    size_t len;
    uint8_t *bytes;
};

struct burst {
    net_peer peer; /* 0: free */
    uint64_t nonce, bytes;
    double first_at;
    uint32_t next, count, length; /* of one that we send */
};

struct coord_bulk {
    const struct coord_manifest *manifest;
    pthread_mutex_t lock; /* over `config`, which the main thread may replace */
    struct net_config config;
    struct net *net;
    struct base_jobs *thread;
    int stop;
    uint64_t use;
    struct packed packed[PACKED_MAX];
    struct burst in[BURSTS_MAX], out[BURSTS_MAX];
    uint8_t load[NET_CHUNK_MAX];
};

/* The packed piece, NULL: out of memory. */
static const struct packed *pack(struct coord_bulk *b, uint32_t number)
{
    struct packed *p = &b->packed[0];
    for (int i = 0; i < PACKED_MAX; i++) {
        struct packed *q = &b->packed[i];
        if (q->used && q->number == number) {
            q->last = ++b->use;
            return q;
        }
        if (!q->used || (p->used && q->last < p->last))
            p = q;
    }
    const struct model_piece piece = model_piece_at(b->manifest->model, number);
    const size_t len = model_piece_bytes(b->manifest->model, piece);
    uint8_t *bytes = base_realloc(p->bytes, len);
    if (bytes == NULL)
        return NULL;
    model_piece_pack(b->manifest->model, piece, bytes);
    *p = (struct packed){true, number, ++b->use, len, bytes};
    return p;
}

static void on_fetch(struct coord_bulk *b, net_peer from, const struct net_msg_FETCH *m)
{
    struct span content = {NULL, 0};
    uint32_t number;
    if (memcmp(m->hash, b->manifest->card_hash, NET_HASH_BYTES) == 0) {
        content = (struct span){b->manifest->card.ptr, b->manifest->card.len};
    } else if (coord_manifest_find(b->manifest, m->hash, &number)) {
        const struct packed *p = pack(b, number);
        if (p == NULL) {
            base_log(BASE_LOG_ERROR, "bulk", "error=\"out of memory for a piece\"");
            return;
        }
        content = (struct span){p->bytes, p->len};
    }
    struct net_msg out = {.code = NET_MSG_PIECE,
                          .u.PIECE = {m->hash, m->offset, content.len, {NULL, 0}}};
    if (m->offset < content.len) {
        const uint64_t left = content.len - m->offset;
        const uint64_t n = left < m->length ? left : m->length;
        out.u.PIECE.bytes =
            (struct span){content.ptr + m->offset, n < NET_CHUNK_MAX ? (size_t)n : NET_CHUNK_MAX};
    }
    struct err e = {0};
    /* A worker's window is far below the queue's mark: a refusal means that the connection is gone.
     */
    if (net_send(b->net, from, &out, &e) != 0)
        base_log(BASE_LOG_WARN, "bulk", "peer=%s error=\"%s\"", net_peer_name(b->net, from),
                 e.text);
}

static void on_burst(struct coord_bulk *b, net_peer from, const struct net_msg_BULK_SEND *m)
{
    struct burst *u = NULL;
    for (int i = 0; i < BURSTS_MAX; i++)
        if (b->in[i].peer == from && b->in[i].nonce == m->nonce)
            u = &b->in[i];
    if (m->index == 0) {
        u = &b->in[b->use++ % BURSTS_MAX];
        *u = (struct burst){.peer = from, .nonce = m->nonce, .first_at = base_clock_s()};
    } else if (u != NULL) {
        u->bytes += m->load.len;
    }
    if (u == NULL || m->index + 1 != m->count)
        return;
    const double s = base_clock_s() - u->first_at;
    const struct net_msg out = {.code = NET_MSG_BULK_SENT,
                                .u.BULK_SENT = {m->nonce, s > 0 ? (double)u->bytes / s : 0}};
    net_send(b->net, from, &out, NULL);
    u->peer = 0;
}

static void on_want(struct coord_bulk *b, net_peer from, const struct net_msg_BULK_WANT *m)
{
    if (m->count == 0 || m->count > 256 || m->length == 0 || m->length > NET_CHUNK_MAX)
        return;
    b->out[b->use++ % BURSTS_MAX] =
        (struct burst){.peer = from, .nonce = m->nonce, .count = m->count, .length = m->length};
}

/* Send what the queues take of the bursts asked for; true: some is left. */
static bool send_bursts(struct coord_bulk *b)
{
    bool left = false;
    for (int i = 0; i < BURSTS_MAX; i++) {
        struct burst *u = &b->out[i];
        for (; u->peer != 0; u->next++) {
            const struct net_msg m = {
                .code = NET_MSG_BULK_BURST,
                .u.BULK_BURST = {u->nonce, u->next, u->count, {b->load, u->length}}};
            const int rc = u->next == u->count ? ERR_PEER : net_send(b->net, u->peer, &m, NULL);
            if (rc == ERR_FULL) {
                left = true;
                break;
            }
            if (rc != 0)
                u->peer = 0;
        }
    }
    return left;
}

static void serve(void *arg)
{
    struct coord_bulk *b = arg;
    struct net_event ev;
    bool left = false;
    for (;;) {
        if (net_next(b->net, left ? 2 : -1, &ev)) {
            if (ev.type == NET_EV_FD)
                return;
            if (ev.type == NET_EV_MESSAGE && ev.msg.code == NET_MSG_FETCH)
                on_fetch(b, ev.peer, &ev.msg.u.FETCH);
            else if (ev.type == NET_EV_MESSAGE && ev.msg.code == NET_MSG_BULK_PING) {
                const struct net_msg out = {.code = NET_MSG_BULK_PONG,
                                            .u.BULK_PONG = {ev.msg.u.BULK_PING.nonce}};
                net_send(b->net, ev.peer, &out, NULL);
            } else if (ev.type == NET_EV_MESSAGE && ev.msg.code == NET_MSG_BULK_SEND)
                on_burst(b, ev.peer, &ev.msg.u.BULK_SEND);
            else if (ev.type == NET_EV_MESSAGE && ev.msg.code == NET_MSG_BULK_WANT)
                on_want(b, ev.peer, &ev.msg.u.BULK_WANT);
        }
        left = send_bursts(b);
    }
}

static bool allow(void *arg, enum net_kind kind, const char *name)
{
    struct coord_bulk *b = arg;
    pthread_mutex_lock(&b->lock);
    const bool ok = kind == NET_KIND_BULK && net_config_worker(&b->config, name) != NULL;
    pthread_mutex_unlock(&b->lock);
    return ok;
}

void coord_bulk_configure(struct coord_bulk *b, const struct net_config *c)
{
    pthread_mutex_lock(&b->lock);
    b->config = *c;
    pthread_mutex_unlock(&b->lock);
}

/* The endpoint to bind: as configured, or the control endpoint's host and any port. */
static int bulk_endpoint(const struct net_config *c, char *out, size_t max, struct err *e)
{
    char host[NET_ENDPOINT_MAX];
    unsigned port;
    if (c->bulk[0] != 0) {
        snprintf(out, max, "%s", c->bulk);
        return 0;
    }
    const int rc = net_endpoint_split(c->control, host, sizeof host, &port, e);
    snprintf(out, max, "tcp://%s:0", host);
    return rc;
}

int coord_bulk_start(const struct net_config *c, const struct coord_manifest *f,
                     struct coord_bulk **out, unsigned *port, struct err *e)
{
    char endpoint[NET_ENDPOINT_MAX + 16];
    struct coord_bulk *b = base_zalloc(1, sizeof *b);
    if (b == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the bulk server");
    b->manifest = f;
    b->config = *c;
    pthread_mutex_init(&b->lock, NULL);
    b->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const struct net_options o = {c->keys, "coordinator", 1, allow, b};
    int rc =
        b->stop < 0 ? err_set(e, ERR_IO, "no event descriptor to be had") : net_new(&o, &b->net, e);
    if (rc == 0)
        rc = bulk_endpoint(c, endpoint, sizeof endpoint, e);
    if (rc == 0)
        rc = net_listen(b->net, NET_KIND_BULK, endpoint, port, e);
    if (rc == 0)
        rc = net_watch(b->net, b->stop, e);
    if (rc == 0)
        rc = base_jobs_new("bulk", 1, &b->thread, e);
    if (rc == 0)
        rc = base_jobs_post(b->thread, serve, b);
    if (rc != 0) {
        coord_bulk_stop(b);
        return rc;
    }
    *out = b;
    return 0;
}

void coord_bulk_stop(struct coord_bulk *b)
{
    const uint64_t one = 1;
    if (b == NULL)
        return;
    /* An eventfd that was just made takes a one. */
    if (b->stop >= 0 && write(b->stop, &one, sizeof one) != sizeof one)
        base_log(BASE_LOG_ERROR, "bulk", "error=\"the thread cannot be told to stop\"");
    base_jobs_free(b->thread);
    net_free(b->net);
    if (b->stop >= 0)
        close(b->stop);
    for (int i = 0; i < PACKED_MAX; i++)
        base_free(b->packed[i].bytes);
    pthread_mutex_destroy(&b->lock);
    base_free(b);
}
