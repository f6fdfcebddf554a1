/* What a message within a team costs a board beside the wire: two exchanges in this process, over
 * loopback, pass a message to and fro, each on a thread of its own as in service. A round trip is two
 * messages, and each is sent by one end and taken by the other: four times what one end pays, were it
 * not that on a board with several cores they overlap a little. Encryption, ZeroMQ's threads, system
 * calls and wake-ups are all in it. What a CPU quota takes is not, as the median leaves out the few
 * round trips in which the quota was spent: a team's member seldom has spent it (docs/planner.md). */
#include "worker/exchange.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_MS = 20000, LOOK_MS = 20, ROUNDS_MIN = 50, ROUNDS_MAX = 4096 };
static const double MEASURE_S = 0.25;

struct end {
    struct worker_exchange *x;
    struct worker_team t;
    const uint8_t *load; /* [bytes] */
    uint32_t bytes;
    double round_s; /* the first end's result; 0: it came to nothing */
};

static bool link_up(struct end *d)
{
    const int64_t until_ms = base_clock_ms() + PATIENCE_MS;
    worker_exchange_force(d->x, d->t.epoch);
    worker_exchange_want(d->x, &d->t);
    while (!worker_exchange_ready(d->x, d->t.epoch) && base_clock_ms() < until_ms)
        worker_exchange_pump(d->x, LOOK_MS);
    if (!worker_exchange_ready(d->x, d->t.epoch))
        return false;
    worker_exchange_begin(d->x, &d->t);
    return true;
}

static bool say(struct end *d)
{
    const struct net_msg m = {.code = NET_MSG_TEAM_SUM,
                              .u.TEAM_SUM = {d->t.epoch, 1, 0, 0, 1, {d->load, d->bytes}}};
    return worker_exchange_send(d->x, 1 - d->t.me, &m, NULL) == 0;
}

static bool hear(struct end *d)
{
    struct worker_exchange_event ev;
    do {
        if (worker_exchange_next(d->x, PATIENCE_MS, &ev) != WORKER_EXCHANGE_MESSAGE)
            return false;
    } while (ev.msg->code == NET_MSG_TEAM_JOIN);
    return true;
}

/* The other end says when it listens: what comes to it before that is dropped. */
static bool is_joined(struct end *d)
{
    struct worker_exchange_event ev;
    while (!worker_exchange_joined(d->x, 1))
        if (worker_exchange_next(d->x, PATIENCE_MS, &ev) != WORKER_EXCHANGE_MESSAGE)
            return false;
    return true;
}

/* Answers until the team is over. */
static void *echo(void *arg)
{
    struct end *d = arg;
    if (link_up(d))
        while (hear(d) && say(d)) {
        }
    return NULL;
}

static void ask(struct end *d)
{
    double round_s[ROUNDS_MAX], then_s, all_s = 0;
    uint32_t n = 0;
    if (!link_up(d) || !is_joined(d) || !say(d) || !hear(d)) /* the first waits for the other side */
        return;
    then_s = base_clock_s();
    while (n < ROUNDS_MAX && (n < ROUNDS_MIN || all_s < MEASURE_S)) {
        if (!say(d) || !hear(d))
            return;
        const double now_s = base_clock_s();
        round_s[n] = now_s - then_s;
        all_s += round_s[n++];
        then_s = now_s;
    }
    d->round_s = base_median(round_s, n);
}

int worker_exchange_time(const char *keys, const char *self, uint32_t bytes, double *seconds,
                         struct err *e)
{
    struct end ends[2] = {{.bytes = bytes}, {.bytes = bytes}};
    uint8_t *load = base_zalloc(bytes, 1);
    pthread_t thread;
    int rc = load == NULL ? err_set(e, ERR_NOMEM, "out of memory for timing messages") : 0;
    for (uint32_t i = 0; rc == 0 && i < 2; i++) {
        ends[i].load = load;
        ends[i].t = (struct worker_team){.epoch = 1, .n = 2, .me = i, .silent_ms = PATIENCE_MS};
        rc = worker_exchange_new(keys, self, "tcp://127.0.0.1:1", &ends[i].x, e);
        if (rc == 0)
            worker_exchange_allow(ends[i].x, self);
    }
    for (uint32_t i = 0; rc == 0 && i < 4; i++) {
        struct worker_team *t = &ends[i / 2].t;
        snprintf(t->names[i % 2], NET_NAME_MAX, "%s", self);
        snprintf(t->endpoints[i % 2], NET_ENDPOINT_MAX, "tcp://127.0.0.1:%u",
                 worker_exchange_port(ends[i % 2].x));
    }
    if (rc == 0 && pthread_create(&thread, NULL, echo, &ends[1]) != 0)
        rc = err_set(e, ERR_NOMEM, "no thread for timing messages");
    if (rc == 0) {
        ask(&ends[0]);
        worker_exchange_force(ends[1].x, 0);
        pthread_join(thread, NULL);
        if (ends[0].round_s == 0)
            rc = err_set(e, ERR_PEER, "messages to itself over loopback do not arrive");
        *seconds = ends[0].round_s / 4;
    }
    worker_exchange_free(ends[0].x);
    worker_exchange_free(ends[1].x);
    base_free(load);
    return rc;
}
