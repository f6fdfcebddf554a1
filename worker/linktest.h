/* Measuring links under the transport in use: round trip of a small message, bandwidth of a burst
 * timed by its receiver. Network thread only. */
#ifndef WORKER_LINKTEST_H
#define WORKER_LINKTEST_H

#include "net/net.h"

enum {
    WORKER_PINGS = 21,
    WORKER_PING_GAP_MS = 3,
    WORKER_PROBE_BYTES = 65536,
    WORKER_PROBES_MAX = 256,
    WORKER_TEST_MS = 20000
};

/* ---- the side that asks ---------------------------------------------------------------------- */

enum worker_test_state {
    WORKER_TEST_IDLE,
    WORKER_TEST_LINKING,
    WORKER_TEST_PINGS,
    WORKER_TEST_UP,
    WORKER_TEST_DOWN
};

struct worker_linktest {
    enum worker_test_state state;
    char peer[NET_NAME_MAX]; /* "": the coordinator, over its bulk connection */
    bool again;              /* the caller's: the link has numbers already */
    net_peer to;
    int64_t deadline_ms, ping_due_ms; /* due 0: a ping is on its way */
    uint64_t nonce;
    uint32_t n_pings, count, sent;
    double ping_at, burst_at, first_at, rtts[WORKER_PINGS];
    double rtt, up, down;
};

/* Begin a test over connection `to`; worker_linktest_linked tells when it is up. */
void worker_linktest_begin(struct worker_linktest *t, const char *peer, net_peer to, uint32_t bytes,
                           int64_t now_ms);
void worker_linktest_linked(struct worker_linktest *t, struct net *net,
                            net_peer to); /* a connection came up */
void worker_linktest_lost(struct worker_linktest *t, net_peer to);
/* An answer that may belong to the test. */
void worker_linktest_message(struct worker_linktest *t, struct net *net, net_peer from,
                             const struct net_msg *m);
void worker_linktest_tick(struct worker_linktest *t, struct net *net, int64_t now_ms);
/* True once when a test has ended: *out is the report; its texts are borrowed from t. */
bool worker_linktest_result(struct worker_linktest *t, struct net_msg *out);

/* ---- the side that answers ------------------------------------------------------------------- */

struct worker_burst {
    net_peer peer;
    uint64_t nonce, bytes;
    double first_at;
};
enum { WORKER_BURSTS_MAX = NET_WORKERS_MAX };
struct worker_answers {
    struct worker_burst bursts[WORKER_BURSTS_MAX];
    uint32_t next;
};
/* PING and PROBE of another worker. */
void worker_linktest_answer(struct worker_answers *a, struct net *net, net_peer from,
                            const struct net_msg *m);

#endif
