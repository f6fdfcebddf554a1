/* linkprobe: what a link gives to TCP. deploy/lab.sh runs it between the nodes of a laboratory.
 *
 *   linkprobe serve PORT          answers two connections, those of one measurement, and ends
 *   linkprobe HOST PORT SECONDS   prints "one_way_us=MEDIAN mbit=RATE"
 *
 * The first connection sends one byte there and back, 201 times after a few to warm up: half of the
 * median is the one-way time, which includes what both kernels take to wake a process. The second
 * sends as fast as it goes for some seconds, and the other side then says how many bytes have come:
 * the rate is that of the payload, headers are not in it. Left out: IPv6, and losses, which show as a
 * lower rate. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 20, ROUNDS = 201, BLOCK = 65536, TRIES = 40, PAUSE_MS = 50 };

static uint8_t block[BLOCK];

static int fail(const char *what)
{
    fprintf(stderr, "linkprobe: %s: %s\n", what, strerror(errno));
    return 1;
}

static double clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool write_all(int fd, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    while (n > 0) {
        const ssize_t done = send(fd, p, n, MSG_NOSIGNAL);
        if (done <= 0)
            return false;
        p += done;
        n -= (size_t)done;
    }
    return true;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- the side that answers ------------------------------------------------------------------- */

/* The first byte says what is wanted: 'e', every byte back; 'c', the count once all have come. */
static void answer(int fd)
{
    uint8_t mode = 0;
    uint64_t count = 0;
    ssize_t n;
    if (recv(fd, &mode, 1, 0) != 1)
        return;
    while ((n = recv(fd, block, sizeof block, 0)) > 0) {
        count += (uint64_t)n;
        if (mode == 'e' && !write_all(fd, block, (size_t)n))
            return;
    }
    if (mode == 'c')
        (void)write_all(fd, &count, sizeof count);
}

static int serve(uint16_t port)
{
    const struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (listener < 0)
        return fail("socket");
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (const struct sockaddr *)&a, sizeof a) != 0 || listen(listener, 2) != 0)
        return fail("listen");
    for (int i = 0; i < 2; i++) {
        const int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            return fail("accept");
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        answer(fd);
        close(fd);
    }
    close(listener);
    return 0;
}

/* ---- the side that asks ---------------------------------------------------------------------- */

/* The other side may have been started just now: try for two seconds. */
static int connect_to(const struct sockaddr_in *a, char mode)
{
    const int on = 1;
    for (int i = 0; i < TRIES; i++) {
        const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return -1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (connect(fd, (const struct sockaddr *)a, sizeof *a) == 0 && write_all(fd, &mode, 1))
            return fd;
        const int why = errno;
        close(fd);
        errno = why;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    }
    return -1;
}

static bool measure_time(int fd, double *one_way_s)
{
    double s[WARM_UP + ROUNDS];
    for (int i = 0; i < WARM_UP + ROUNDS; i++) {
        const double begin = clock_s();
        if (!write_all(fd, block, 1) || recv(fd, block, 1, 0) != 1)
            return false;
        s[i] = clock_s() - begin;
    }
    qsort(s + WARM_UP, ROUNDS, sizeof *s, compare);
    *one_way_s = s[WARM_UP + ROUNDS / 2] / 2;
    return true;
}

static bool measure_rate(int fd, double seconds, double one_way_s, double *bits_per_s)
{
    const double begin = clock_s();
    uint64_t count = 0;
    while (clock_s() - begin < seconds)
        if (!write_all(fd, block, sizeof block))
            return false;
    if (shutdown(fd, SHUT_WR) != 0 || recv(fd, &count, sizeof count, MSG_WAITALL) != sizeof count)
        return false;
    *bits_per_s = 8 * (double)count / (clock_s() - begin - 2 * one_way_s);
    return true;
}

static int ask(const char *host, uint16_t port, double seconds)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    double one_way_s = 0, bits_per_s = 0;
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        fprintf(stderr, "linkprobe: %s is no IPv4 address\n", host);
        return 2;
    }
    int fd = connect_to(&a, 'e');
    if (fd < 0 || !measure_time(fd, &one_way_s))
        return fail(host);
    close(fd);
    fd = connect_to(&a, 'c');
    if (fd < 0 || !measure_rate(fd, seconds, one_way_s, &bits_per_s))
        return fail(host);
    close(fd);
    printf("one_way_us=%.0f mbit=%.1f\n", one_way_s * 1e6, bits_per_s / 1e6);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve((uint16_t)strtoul(argv[2], NULL, 10));
    if (argc == 4)
        return ask(argv[1], (uint16_t)strtoul(argv[2], NULL, 10), strtod(argv[3], NULL));
    fputs("usage: linkprobe serve PORT | linkprobe HOST PORT SECONDS\n", stderr);
    return 2;
}
