/* The connections of a team (worker/exchange.h).
 *
 * Of two members the one further from the leader connects, and greets, since a listener knows a
 * guest by its first message only. Connections stay from plan to plan: a pair whose places are
 * exchanged by the next plan has two, one made by each side, and uses the one that the plan in force
 * says.
 *
 * A member says TEAM_JOIN to its leader when a plan comes into force there, and the leader begins no
 * pass before all have said so. So nothing of an epoch arrives where that epoch is not yet in
 * force, and whatever names another one is old and dropped.
 *
 * Invariant: from worker_exchange_begin on, a connection of the team that ends after it was there
 * is reported as lost, once and for all: what was on its way is missing. */
#include "worker/exchange.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct peer {
    char name[NET_NAME_MAX], endpoint[NET_ENDPOINT_MAX];
    net_peer link, guest; /* 0: none */
    bool link_up;
    uint64_t joined; /* epoch of its last TEAM_JOIN */
};

struct worker_exchange {
    struct net *net;
    unsigned port;
    int wake;
    atomic_uint_least64_t force;
    atomic_uint_least64_t wanted_epoch, ready_epoch; /* the team to connect; the last one that was */
    pthread_mutex_t lock;
    struct worker_team wanted; /* this and the next: under the lock */
    char allowed[NET_WORKERS_MAX][NET_NAME_MAX];
    uint32_t n_allowed;

    /* the compute thread's */
    struct peer peers[NET_WORKERS_MAX];
    uint32_t n_peers;
    struct worker_team team, linking; /* in force, and to be; epoch 0: none */
    struct peer *members[WORKER_TEAM_MAX]; /* of the team in force; own place: NULL */
    bool greeted[WORKER_TEAM_MAX];         /* the connection to it was there */
    struct net_event event;
};

/* ---- network thread -------------------------------------------------------------------------- */

static bool allow(void *arg, enum net_kind kind, const char *name)
{
    struct worker_exchange *x = arg;
    bool known = false;
    (void)pthread_mutex_lock(&x->lock);
    for (uint32_t i = 0; i < x->n_allowed; i++)
        known = known || strcmp(x->allowed[i], name) == 0;
    (void)pthread_mutex_unlock(&x->lock);
    return known && kind == NET_KIND_TEAM;
}

int worker_exchange_new(const char *keys, const char *self, const char *bind,
                        struct worker_exchange **out, struct err *e)
{
    char host[NET_ENDPOINT_MAX], endpoint[NET_ENDPOINT_MAX + 16];
    unsigned port;
    struct worker_exchange *x = base_zalloc(1, sizeof *x);
    if (x == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the team's connections");
    (void)pthread_mutex_init(&x->lock, NULL);
    const struct net_options o = {keys, self, 1, allow, x};
    x->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = x->wake < 0 ? err_set(e, ERR_IO, "no event descriptor to be had") : 0;
    if (rc == 0)
        rc = net_endpoint_split(bind, host, sizeof host, &port, e);
    if (rc == 0)
        rc = net_new(&o, &x->net, e);
    if (rc == 0)
        rc = net_watch(x->net, x->wake, e);
    if (rc == 0) {
        snprintf(endpoint, sizeof endpoint, "tcp://%s:*", host);
        rc = net_listen(x->net, NET_KIND_TEAM, endpoint, &x->port, e);
    }
    if (rc != 0) {
        worker_exchange_free(x);
        return rc;
    }
    *out = x;
    return 0;
}

void worker_exchange_free(struct worker_exchange *x)
{
    if (x == NULL)
        return;
    net_free(x->net);
    if (x->wake >= 0)
        close(x->wake);
    (void)pthread_mutex_destroy(&x->lock);
    base_free(x);
}

unsigned worker_exchange_port(const struct worker_exchange *x)
{
    return x->port;
}

void worker_exchange_allow(struct worker_exchange *x, const char *name)
{
    bool known = false;
    (void)pthread_mutex_lock(&x->lock);
    for (uint32_t i = 0; i < x->n_allowed; i++)
        known = known || strcmp(x->allowed[i], name) == 0;
    if (!known && x->n_allowed < NET_WORKERS_MAX)
        snprintf(x->allowed[x->n_allowed++], NET_NAME_MAX, "%s", name);
    (void)pthread_mutex_unlock(&x->lock);
}

void worker_exchange_force(struct worker_exchange *x, uint64_t epoch)
{
    atomic_store(&x->force, epoch);
    (void)eventfd_write(x->wake, 1);
}

void worker_exchange_want(struct worker_exchange *x, const struct worker_team *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        worker_exchange_allow(x, t->names[i]);
    (void)pthread_mutex_lock(&x->lock);
    x->wanted = *t;
    (void)pthread_mutex_unlock(&x->lock);
    atomic_store(&x->wanted_epoch, t->epoch);
    (void)eventfd_write(x->wake, 1);
}

bool worker_exchange_ready(const struct worker_exchange *x, uint64_t epoch)
{
    return atomic_load(&x->ready_epoch) == epoch;
}

/* ---- connections ----------------------------------------------------------------------------- */

static struct peer *peer_of(struct worker_exchange *x, const char *name)
{
    for (uint32_t i = 0; i < x->n_peers; i++)
        if (strcmp(x->peers[i].name, name) == 0)
            return &x->peers[i];
    if (x->n_peers == NET_WORKERS_MAX)
        return NULL;
    struct peer *p = &x->peers[x->n_peers++];
    *p = (struct peer){0};
    snprintf(p->name, sizeof p->name, "%s", name);
    return p;
}

/* Members nearer the leader are reached by a connection of ours. */
static net_peer connection(const struct worker_exchange *x, uint32_t member)
{
    const struct peer *p = x->members[member];
    if (p == NULL)
        return 0;
    return member < x->team.me ? (p->link_up ? p->link : 0) : p->guest;
}

static void join(struct worker_exchange *x, struct peer *p, uint64_t epoch)
{
    const struct net_msg m = {.code = NET_MSG_TEAM_JOIN, .u.TEAM_JOIN = {epoch}};
    struct err e = {0};
    if (net_send(x->net, p->link, &m, &e) != 0)
        base_log(BASE_LOG_DEBUG, "team", "peer=%s error=\"%s\"", p->name, e.text);
}

/* Epoch of a message within a team. */
static uint64_t epoch_of(const struct net_msg *m)
{
    switch ((int)m->code) {
    case NET_MSG_TEAM_JOIN:
        return m->u.TEAM_JOIN.epoch;
    case NET_MSG_TEAM_PASS:
        return m->u.TEAM_PASS.epoch;
    case NET_MSG_TEAM_ROWS:
        return m->u.TEAM_ROWS.epoch;
    case NET_MSG_TEAM_SUM:
        return m->u.TEAM_SUM.epoch;
    case NET_MSG_TEAM_LOGITS:
        return m->u.TEAM_LOGITS.epoch;
    default:
        return 0;
    }
}

static void link_changed(struct worker_exchange *x, struct peer *p, bool up)
{
    p->link_up = up;
    if (up)
        join(x, p, x->members[0] == p ? x->team.epoch : 0);
}

/* Keep the books. Returns the peer of the event, NULL where it has none. */
static struct peer *take(struct worker_exchange *x, const struct net_event *n)
{
    if (n->type == NET_EV_FD) {
        eventfd_t count;
        (void)eventfd_read(x->wake, &count);
        return NULL;
    }
    for (uint32_t i = 0; i < x->n_peers; i++)
        if (x->peers[i].link == n->peer) {
            struct peer *p = &x->peers[i];
            if (n->type != NET_EV_MESSAGE)
                link_changed(x, p, n->type == NET_EV_UP);
            return p;
        }
    struct peer *p = NULL;
    if (n->type == NET_EV_DOWN) {
        for (uint32_t i = 0; i < x->n_peers; i++)
            p = x->peers[i].guest == n->peer ? &x->peers[i] : p;
        if (p != NULL)
            p->guest = p->joined = 0;
        return p;
    }
    p = peer_of(x, net_peer_name(x->net, n->peer));
    if (p != NULL && n->type == NET_EV_UP) {
        p->guest = n->peer;
        p->joined = 0;
    } else if (p != NULL && n->msg.code == NET_MSG_TEAM_JOIN) {
        p->joined = n->msg.u.TEAM_JOIN.epoch;
    }
    return p;
}

static void want_link(struct worker_exchange *x, struct peer *p, const char *endpoint)
{
    struct err e = {0};
    if (p->link != 0 && strcmp(p->endpoint, endpoint) == 0)
        return;
    if (p->link != 0) /* it was started again, and listens elsewhere */
        net_disconnect(x->net, p->link);
    p->link = 0;
    p->link_up = false;
    snprintf(p->endpoint, sizeof p->endpoint, "%s", endpoint);
    if (net_connect(x->net, NET_KIND_TEAM, p->name, endpoint, &p->link, &e) != 0)
        base_log(BASE_LOG_ERROR, "team", "peer=%s error=\"%s\"", p->name, e.text);
}

/* Do the two members exchange anything? */
static bool need(const struct worker_team *t, uint32_t i)
{
    return i != t->me && (t->mesh || i == 0 || t->me == 0);
}

/* Connect what the network thread wants connected, and tell it when all is there. */
static void link_wanted(struct worker_exchange *x)
{
    struct worker_team *t = &x->linking;
    const uint64_t epoch = atomic_load(&x->wanted_epoch);
    bool all = true;
    if (epoch == atomic_load(&x->ready_epoch))
        return;
    if (t->epoch != epoch) {
        (void)pthread_mutex_lock(&x->lock);
        *t = x->wanted;
        (void)pthread_mutex_unlock(&x->lock);
    }
    for (uint32_t i = 0; i < t->n; i++) {
        struct peer *p = need(t, i) ? peer_of(x, t->names[i]) : NULL;
        if (p != NULL && i < t->me)
            want_link(x, p, t->endpoints[i]);
        all = all && (!need(t, i) || (p != NULL && (i < t->me ? p->link_up : p->guest != 0)));
    }
    if (all)
        atomic_store(&x->ready_epoch, t->epoch);
}

static void take_all(struct worker_exchange *x, int wait_ms)
{
    for (int ms = wait_ms; net_next(x->net, ms, &x->event); ms = 0)
        (void)take(x, &x->event);
}

/* A connection may have ended long ago, while nobody looked: what is there is known once all that
 * has happened was taken. */
void worker_exchange_pump(struct worker_exchange *x, int wait_ms)
{
    take_all(x, 0);
    link_wanted(x);
    take_all(x, wait_ms);
    link_wanted(x);
}

/* ---- the team in force ----------------------------------------------------------------------- */

void worker_exchange_begin(struct worker_exchange *x, const struct worker_team *t)
{
    x->team = *t;
    for (uint32_t i = 0; i < t->n; i++) {
        x->members[i] = need(t, i) ? peer_of(x, t->names[i]) : NULL;
        x->greeted[i] = connection(x, i) != 0;
    }
    if (t->me != 0 && x->members[0] != NULL && x->members[0]->link_up)
        join(x, x->members[0], t->epoch);
}

static bool member_of(const struct worker_exchange *x, const struct peer *p, uint32_t *member)
{
    for (uint32_t i = 0; p != NULL && i < x->team.n; i++)
        if (x->members[i] == p) {
            *member = i;
            return true;
        }
    return false;
}

enum worker_exchange_end worker_exchange_next(struct worker_exchange *x, int timeout_ms,
                                              struct worker_exchange_event *ev)
{
    const int64_t until_ms = base_clock_ms() + timeout_ms;
    int64_t left_ms = timeout_ms;
    while (atomic_load(&x->force) == x->team.epoch) {
        link_wanted(x);
        for (uint32_t i = 0; i < x->team.n; i++) {
            const bool there = connection(x, i) != 0;
            if (x->greeted[i] && !there) {
                *ev = (struct worker_exchange_event){.from = i, .why = "the connection broke"};
                return WORKER_EXCHANGE_LOST;
            }
            x->greeted[i] = there;
        }
        if (!net_next(x->net, (int)left_ms, &x->event)) {
            left_ms = until_ms - base_clock_ms();
            if (left_ms <= 0)
                return WORKER_EXCHANGE_TIMEOUT;
            continue;
        }
        const struct peer *p = take(x, &x->event);
        if (x->event.type == NET_EV_MESSAGE && member_of(x, p, &ev->from) &&
            epoch_of(&x->event.msg) == x->team.epoch) {
            ev->msg = &x->event.msg;
            return WORKER_EXCHANGE_MESSAGE;
        }
        left_ms = until_ms - base_clock_ms();
        if (left_ms < 0)
            left_ms = 0;
    }
    return WORKER_EXCHANGE_OVER;
}

bool worker_exchange_joined(const struct worker_exchange *x, uint32_t member)
{
    return x->members[member] != NULL && x->members[member]->guest != 0 &&
           x->members[member]->joined == x->team.epoch;
}

int worker_exchange_send(struct worker_exchange *x, uint32_t member, const struct net_msg *m,
                         struct err *e)
{
    return net_send(x->net, connection(x, member), m, e);
}
