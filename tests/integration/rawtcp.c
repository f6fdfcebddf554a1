/* What the integration tests need of TCP and a shell cannot do: free ports, bytes that mean nothing, and
 * connections that are opened and left silent.
 *
 *   rawtcp ports N                     N different ports of 127.0.0.1 that nobody listens on, one a line
 *   rawtcp random HOST PORT BYTES      connects and sends random bytes, anew where it is cut off, until
 *                                      so many have gone out; prints how often it connected
 *   rawtcp silent SECONDS HOST PORT N  opens N connections, says "open" and keeps them for so long
 *
 * Ports are drawn from below the range from which the system takes those of outgoing connections, from
 * the part that belongs to SHOAL_TEST_SLOT, so that tests side by side never draw the same one; each is
 * tried by binding it, for what else the machine does. Left out: anything that understands an answer. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT_LOW = 20000, SLOTS = 8, SLOT_PORTS = 1500, PORTS_MAX = 64, HELD_MAX = 512, STALL_MS = 5000 };

static int fail(const char *what)
{
    fprintf(stderr, "rawtcp: %s: %s\n", what, strerror(errno));
    return 1;
}

static bool entropy(void *out, size_t bytes)
{
    const int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    const bool ok = fd >= 0 && read(fd, out, bytes) == (ssize_t)bytes;
    if (fd >= 0)
        close(fd);
    return ok;
}

static struct sockaddr_in address(const char *host, unsigned port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

/* A socket that holds the port; -1: somebody else has it. */
static int hold(unsigned port)
{
    const struct sockaddr_in a = address("127.0.0.1", port);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static int ports(int n)
{
    unsigned found[PORTS_MAX];
    const char *slot = getenv("SHOAL_TEST_SLOT");
    const unsigned low = PORT_LOW + (slot != NULL ? (unsigned)atoi(slot) % SLOTS : 0) * SLOT_PORTS;
    int tries = 0, held = 0;
    if (n < 1 || n > PORTS_MAX)
        return fail("too many ports");
    while (held < n && tries++ < 10000) {
        uint16_t word;
        if (!entropy(&word, sizeof word))
            return fail("/dev/urandom");
        found[held] = low + word % SLOT_PORTS;
        /* All stay held until the end, so that no two are the same. */
        held += hold(found[held]) >= 0;
    }
    for (int i = 0; i < held; i++)
        printf("%u\n", found[i]);
    return held == n ? 0 : fail("no free ports");
}

static int dial(const char *host, const char *port)
{
    const struct sockaddr_in a = address(host, (unsigned)strtoul(port, NULL, 10));
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Send up to `left` random bytes over one connection; how many it took before it broke or stood still. */
static size_t pour(int fd, size_t left)
{
    static uint8_t bytes[16384];
    size_t sent = 0;
    while (sent < left) {
        struct pollfd p = {fd, POLLOUT, 0};
        const size_t n = left - sent < sizeof bytes ? left - sent : sizeof bytes;
        if (poll(&p, 1, STALL_MS) != 1 || !entropy(bytes, n))
            break;
        const ssize_t k = send(fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k < 0 && errno != EAGAIN)
            break;
        sent += k > 0 ? (size_t)k : 0;
    }
    return sent;
}

static int send_random(const char *host, const char *port, size_t bytes)
{
    unsigned connections = 0;
    for (size_t sent = 0; sent < bytes;) {
        const int fd = dial(host, port);
        if (fd < 0)
            return fail("connect");
        sent += pour(fd, bytes - sent);
        close(fd);
        connections++;
    }
    printf("%u\n", connections);
    return 0;
}

static int stay_silent(unsigned seconds, const char *host, const char *port, int n)
{
    int fds[HELD_MAX];
    const struct timespec t = {(time_t)seconds, 0};
    if (n < 1 || n > HELD_MAX)
        return fail("too many connections");
    for (int i = 0; i < n; i++)
        if ((fds[i] = dial(host, port)) < 0)
            return fail("connect");
    puts("open");
    fflush(stdout);
    nanosleep(&t, NULL);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "ports") == 0)
        return ports(atoi(argv[2]));
    if (argc == 5 && strcmp(argv[1], "random") == 0)
        return send_random(argv[2], argv[3], strtoull(argv[4], NULL, 10));
    if (argc == 6 && strcmp(argv[1], "silent") == 0)
        return stay_silent((unsigned)atoi(argv[2]), argv[3], argv[4], atoi(argv[5]));
    fputs("usage: rawtcp ports N | random HOST PORT BYTES | silent SECONDS HOST PORT N\n", stderr);
    return 2;
}
