/* What an exchange within a team costs beside the wire: round trips of two members on loopback, each
 * a thread, with the bytes of one row's normed values one way and its partial sums the other; over
 * the team's connections (ZeroMQ, CURVE, checks) and over a bare TCP socket. Prints CSV: median and
 * 90th percentile in microseconds.
 *
 *     bench_exchange [WIDTH [ROUNDS]] */
#include "tests/unit/net_lab.h"
#include "worker/exchange.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROUNDS_MAX = 100000, BYTES_MAX = 1 << 20, PATIENCE_MS = 5000 };

static struct worker_exchange *sides[2];
static struct worker_team team = {.epoch = 1, .n = 2, .silent_ms = PATIENCE_MS};
static uint32_t there, back, rounds; /* bytes each way */
static uint8_t bytes[BYTES_MAX];
static double times[ROUNDS_MAX];

static void print(const char *what)
{
    const double median_s = base_median(times, rounds);
    printf("%s,%u,%u,%.1f,%.1f\n", what, there, back, median_s * 1e6,
           times[rounds * 9 / 10] * 1e6);
}

static void quit(const char *why)
{
    fprintf(stderr, "bench_exchange: %s\n", why);
    exit(1);
}

/* ---- a team's connections -------------------------------------------------------------------- */

static struct worker_team member(uint32_t me)
{
    struct worker_team t = team;
    t.me = me;
    return t;
}

static void link_up(uint32_t me)
{
    const struct worker_team t = member(me);
    worker_exchange_want(sides[me], &t);
    worker_exchange_force(sides[me], t.epoch);
    while (!worker_exchange_ready(sides[me], t.epoch))
        worker_exchange_pump(sides[me], 20);
    worker_exchange_begin(sides[me], &t);
}

static void send_one(uint32_t me, uint32_t n)
{
    const struct net_msg m = {.code = NET_MSG_TEAM_SUM,
                              .u.TEAM_SUM = {team.epoch, 1, 0, 0, 1, {bytes, n}}};
    struct err e = {0};
    if (worker_exchange_send(sides[me], 1 - me, &m, &e) != 0)
        quit(e.text);
}

static void take_one(uint32_t me)
{
    struct worker_exchange_event ev;
    do {
        if (worker_exchange_next(sides[me], PATIENCE_MS, &ev) != WORKER_EXCHANGE_MESSAGE)
            quit("the other side is gone");
    } while (ev.msg->code == NET_MSG_TEAM_JOIN);
}

static void *answer_team(void *arg)
{
    link_up(1);
    for (uint32_t i = 0; i < rounds; i++) {
        take_one(1);
        send_one(1, back);
    }
    return arg;
}

static void time_team(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer_team, NULL) != 0)
        quit("no thread");
    link_up(0);
    for (uint32_t i = 0; i < rounds; i++) {
        const double t = base_clock_s();
        send_one(0, there);
        take_one(0);
        times[i] = base_clock_s() - t;
    }
    pthread_join(thread, NULL);
    print("team");
}

/* ---- a bare socket --------------------------------------------------------------------------- */

static void whole(int fd, size_t n, bool out)
{
    for (size_t at = 0; at < n;) {
        const ssize_t k = out ? write(fd, bytes + at, n - at) : read(fd, bytes + at, n - at);
        if (k <= 0)
            quit("a socket failed");
        at += (size_t)k;
    }
}

static void *answer_bare(void *arg)
{
    const int fd = accept(*(int *)arg, NULL, NULL), on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (uint32_t i = 0; i < rounds; i++) {
        whole(fd, there, false);
        whole(fd, back, true);
    }
    close(fd);
    return NULL;
}

static void time_bare(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    pthread_t thread;
    const int on = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&a, &len) != 0 ||
        pthread_create(&thread, NULL, answer_bare, &listener) != 0 ||
        connect(fd, (struct sockaddr *)&a, sizeof a) != 0)
        quit("no socket");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (uint32_t i = 0; i < rounds; i++) {
        const double t = base_clock_s();
        whole(fd, there, true);
        whole(fd, back, false);
        times[i] = base_clock_s() - t;
    }
    pthread_join(thread, NULL);
    close(fd);
    close(listener);
    print("bare");
}

int main(int argc, char **argv)
{
    const uint32_t width = argc > 1 ? (uint32_t)atoi(argv[1]) : 2048;
    char keys[256];
    struct err e = {0};
    there = width / 32 * 36;
    back = width / 64 * 249;
    rounds = argc > 2 ? (uint32_t)atoi(argv[2]) : 5000;
    if (rounds == 0 || rounds > ROUNDS_MAX || back > BYTES_MAX)
        quit("usage: bench_exchange [WIDTH [ROUNDS]]");
    if (net_init(&e) != 0)
        quit(e.text);
    lab_keys_make(keys, "a b");
    for (uint32_t i = 0; i < 2; i++) {
        snprintf(team.names[i], NET_NAME_MAX, "%s", i == 0 ? "a" : "b");
        if (worker_exchange_new(keys, team.names[i], "tcp://127.0.0.1:1", &sides[i], &e) != 0)
            quit(e.text);
        snprintf(team.endpoints[i], NET_ENDPOINT_MAX, "tcp://127.0.0.1:%u",
                 worker_exchange_port(sides[i]));
    }
    printf("transport,bytes_there,bytes_back,median_us,p90_us\n");
    time_bare();
    time_team();
    for (uint32_t i = 0; i < 2; i++)
        worker_exchange_free(sides[i]);
    lab_keys_remove(keys);
    return 0;
}
