/* The connections of a team. During a pass the members' compute threads talk to each other without
 * their network threads between: a hand-over between two threads costs as much as a small message on
 * a good wire. So these sockets live in a ZeroMQ context of their own, which belongs to the compute
 * thread; the network thread only says what it wants (the first group of functions). */
#ifndef WORKER_EXCHANGE_H
#define WORKER_EXCHANGE_H

#include "model/model.h"
#include "net/net.h"

enum { WORKER_TEAM_MAX = NET_WORKERS_MAX };

/* What a plan says of a worker's team. Member i holds head units [heads[i], heads[i + 1]), units of
 * feed-forward columns [columns[i], columns[i + 1]) and runs [runs[i], runs[i + 1]) of the output
 * matrix. */
struct worker_team {
    uint64_t epoch;
    uint32_t n, me; /* members, the leader first */
    bool mesh;
    enum model_wire wire;
    uint32_t silent_ms; /* a member that is waited for and says nothing for so long is lost */
    uint32_t heads[WORKER_TEAM_MAX + 1], columns[WORKER_TEAM_MAX + 1], runs[WORKER_TEAM_MAX + 1];
    char names[WORKER_TEAM_MAX][NET_NAME_MAX];
    char endpoints[WORKER_TEAM_MAX][NET_ENDPOINT_MAX];
};

struct worker_exchange;

/* ---- network thread -------------------------------------------------------------------------- */

/* Listens on a free port of the host of `bind`. ERR_NOMEM; codes of net_new and net_listen. */
int worker_exchange_new(const char *keys, const char *self, const char *bind,
                        struct worker_exchange **out, struct err *e);
void worker_exchange_free(struct worker_exchange *x); /* once the compute thread has ended */
unsigned worker_exchange_port(const struct worker_exchange *x);
/* Take connections of this worker from now on. */
void worker_exchange_allow(struct worker_exchange *x, const char *name);
/* The plan in force, 0: none. Whoever waits for messages of another one stops waiting. */
void worker_exchange_force(struct worker_exchange *x, uint64_t epoch);
/* Have the connections that this team needs, made by the compute thread when it next waits for
 * messages or pumps; and whether they are there. */
void worker_exchange_want(struct worker_exchange *x, const struct worker_team *t);
bool worker_exchange_ready(const struct worker_exchange *x, uint64_t epoch);

/* Seconds that sending or taking a message of so many bytes costs this board beside the wire
 * (worker/exchange_time.c). Takes about half a second. ERR_NOMEM, ERR_PEER, codes of
 * worker_exchange_new. */
int worker_exchange_time(const char *keys, const char *self, uint32_t bytes, double *seconds,
                         struct err *e);

/* ---- compute thread -------------------------------------------------------------------------- */

/* Take note of what has happened to the connections, waiting so long at most for something to
 * happen. */
void worker_exchange_pump(struct worker_exchange *x, int wait_ms);
/* The team is the one in force from now on; what older ones say is dropped. A member tells its
 * leader (TEAM_JOIN), as soon as that can be done. */
void worker_exchange_begin(struct worker_exchange *x, const struct worker_team *t);

enum worker_exchange_end {
    WORKER_EXCHANGE_MESSAGE, /* there is one */
    WORKER_EXCHANGE_TIMEOUT,
    WORKER_EXCHANGE_LOST, /* the connection to member `from` is gone: why */
    WORKER_EXCHANGE_OVER  /* the team is not in force any more */
};
struct worker_exchange_event {
    uint32_t from; /* member of the team */
    const struct net_msg *msg; /* of the team's epoch; borrowed until the next call */
    const char *why;
};
/* The next message of the team in force, or the reason why there is none within timeout_ms. */
enum worker_exchange_end worker_exchange_next(struct worker_exchange *x, int timeout_ms,
                                              struct worker_exchange_event *ev);
/* Has the member the team's plan in force, so that it takes passes? Leader only. */
bool worker_exchange_joined(const struct worker_exchange *x, uint32_t member);
/* Codes of net_send. */
int worker_exchange_send(struct worker_exchange *x, uint32_t member, const struct net_msg *m,
                         struct err *e);

#endif
