/* linkemu: links of a laboratory, in user space, for kernels without netem. One Ethernet switch whose
 * ports are TAP devices in network namespaces; each port has a rate, a delay, jitter, loss and a
 * bounded queue. deploy/lab.sh starts it; docs/lab.md says how near to the truth it is.
 *
 *   linkemu NETNS[,rate=100mbit][,delay=1ms][,jitter=0.1ms][,loss=0.1%][,queue=256k]...
 *
 * makes eth0 in each namespace, says "ready" and forwards until SIGTERM. SIGUSR1 prints counters.
 *
 * A frame passes two links: its sender's, then its receiver's. On each it waits for the frames before
 * it, takes its bytes (with preamble, checksum and gap) at the link's rate, then half of the delay, so
 * that the way between two nodes takes the mean of their delays; so with jitter and loss. Frames
 * never overtake each other on a link. A sender's link that is busy is not read from, which is what a
 * full network card does; at a receiver's link with a full queue the frame is dropped, which is what a
 * switch does.
 *
 * Unless some link loses frames, the kernel hands over whole trains of TCP segments (TSO), which saves
 * most of the work. A train takes the time of its segments, each with its headers, and is delivered
 * when its last segment would be: what a receiver gets early is what it would have gotten late in the
 * train, never the end of a message. Segments at the switch go on while later ones still arrive.
 *
 * All times are of the monotonic clock. Whatever delays this process lengthens the links, so it runs
 * under SCHED_FIFO where it may, and keeps `lead_ns`, the time that a wake-up takes at the median: it
 * asks to be woken so much before a frame is due, and a frame that it reads was sent so long ago. It
 * counts how late deliveries were all the same. Left out: more than one address a port, VLANs, any
 * topology but a star. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    PORTS_MAX = 32,
    FRAME_MAX = 65536 + 64, /* a train and its Ethernet header */
    ETH_HEADER = 14,
    ETH_MIN = 60,    /* bytes of the shortest frame, without its checksum */
    ETH_AROUND = 24, /* preamble, checksum and gap */
    READS_MAX = 32,  /* frames taken from one port before the others have a turn */
    LEAD_STEP_NS = 250,
    LEAD_MAX_NS = 100000,
    LATE_BUCKETS = 24 /* powers of two of a microsecond */
};

struct frame {
    struct frame *next;
    int64_t due_ns;     /* when it has passed the link that it is on */
    uint64_t wire_bits; /* of all segments, with what surrounds them */
    uint64_t head_bits; /* of the first segment */
    int from;
    size_t len;      /* of bytes[] */
    uint8_t bytes[]; /* struct virtio_net_hdr, then the frame */
};

/* One direction of a link. Frames on it in the order in which they are due. */
struct way {
    struct frame *head, *tail;
    int64_t free_ns; /* when the last bit of the last frame has been put on the wire */
    int64_t due_ns;  /* of the last frame: the next one is not due before it */
    uint64_t n_frames, n_bytes, n_dropped;
};

struct port {
    const char *netns;
    int fd;
    uint64_t rate;               /* bit/s; 0: no limit */
    int64_t delay_ns, jitter_ns; /* this link's half */
    double loss;                 /* this link's half, as a probability */
    uint64_t queue_bits;
    uint8_t mac[6]; /* the last source address seen */
    bool known;     /* mac is set */
    struct way up, down;
};

static struct port ports[PORTS_MAX];
static int n_ports;
static int64_t lead_ns; /* from the end of a timer until this process runs; the median */
static uint64_t late_counts[LATE_BUCKETS], n_delivered;
static int64_t late_max_ns, start_ns;
static volatile sig_atomic_t ending, asked;

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Uniform in [0, 1): xorshift64*, always the same sequence. */
static double uniform(void)
{
    static uint64_t x = 88172645463325252u;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    return (double)((x * 2685821657736338717u) >> 11) / 9007199254740992.0;
}

static int64_t wire_ns(const struct port *p, uint64_t bits)
{
    return p->rate == 0 ? 0 : (int64_t)(bits * 1000000000u / p->rate);
}

static void *take(size_t bytes)
{
    void *p = malloc(bytes);
    if (p == NULL) {
        fputs("linkemu: out of memory\n", stderr);
        exit(1);
    }
    return p;
}

/* ---- frames on a way ------------------------------------------------------------------------- */

/* Bytes of the headers that each segment of a train repeats; 0: not TCP as we know it. */
static size_t train_headers(const uint8_t *f, size_t len, unsigned gso_type)
{
    const bool v4 = gso_type == VIRTIO_NET_HDR_GSO_TCPV4;
    if (len < ETH_HEADER + 40)
        return 0;
    const size_t ip = v4 ? (size_t)(f[ETH_HEADER] & 15) * 4 : 40;
    const size_t tcp = ETH_HEADER + ip;
    if (len < tcp + 20)
        return 0;
    const size_t all = tcp + (size_t)(f[tcp + 12] >> 4) * 4;
    return all < len ? all : 0;
}

/* What the frame takes on a wire, as a train or alone. */
static void measure(struct frame *f)
{
    struct virtio_net_hdr h;
    const size_t len = f->len - sizeof h;
    memcpy(&h, f->bytes, sizeof h);
    const unsigned type = h.gso_type & ~(unsigned)VIRTIO_NET_HDR_GSO_ECN;
    const size_t headers = type == VIRTIO_NET_HDR_GSO_NONE || h.gso_size == 0
                               ? 0
                               : train_headers(f->bytes + sizeof h, len, type);
    if (headers == 0) {
        f->wire_bits = f->head_bits = 8 * (uint64_t)((len < ETH_MIN ? ETH_MIN : len) + ETH_AROUND);
        return;
    }
    const size_t payload = len - headers, segment = h.gso_size;
    const uint64_t n = (payload + segment - 1) / segment;
    f->wire_bits = 8 * (payload + n * (headers + ETH_AROUND));
    f->head_bits = 8 * (uint64_t)((payload < segment ? payload : segment) + headers + ETH_AROUND);
}

/* Put a frame on a way whose wire it can have from begin_ns on, and whose last segment is there no
 * earlier than least_ns. */
static void enter(const struct port *p, struct way *w, struct frame *f, int64_t begin_ns,
                  int64_t least_ns)
{
    int64_t end_ns = (w->free_ns > begin_ns ? w->free_ns : begin_ns) + wire_ns(p, f->wire_bits);
    if (end_ns < least_ns)
        end_ns = least_ns;
    w->free_ns = end_ns;
    int64_t due_ns = end_ns + p->delay_ns;
    if (p->jitter_ns > 0)
        due_ns += (int64_t)((2 * uniform() - 1) * (double)p->jitter_ns);
    if (due_ns < end_ns)
        due_ns = end_ns;
    w->due_ns = f->due_ns = due_ns > w->due_ns ? due_ns : w->due_ns;
    f->next = NULL;
    if (w->head == NULL)
        w->head = f;
    else
        w->tail->next = f;
    w->tail = f;
    w->n_frames++;
    w->n_bytes += f->wire_bits / 8;
}

static struct frame *leave(struct way *w)
{
    struct frame *f = w->head;
    w->head = f->next;
    return f;
}

/* When there is room again for a frame on this way; in the past: now. */
static int64_t room_ns(const struct port *p, const struct way *w)
{
    return w->free_ns - wire_ns(p, p->queue_bits);
}

static bool lost(const struct port *p)
{
    return p->loss > 0 && uniform() < p->loss;
}

/* ---- the switch ------------------------------------------------------------------------------ */

/* A frame has come in at the switch: on to one port. Takes the frame. */
static void forward_to(struct port *p, struct frame *f)
{
    const int64_t now_ns = f->due_ns, head = wire_ns(p, f->head_bits);
    if (room_ns(p, &p->down) > now_ns || lost(p)) {
        p->down.n_dropped++;
        free(f);
        return;
    }
    /* Its first segment was here before the last one, by what separates them at the sender. */
    const int64_t ahead = wire_ns(&ports[f->from], f->wire_bits - f->head_bits);
    enter(p, &p->down, f, now_ns - ahead, now_ns + head);
}

static void forward(struct frame *f)
{
    const uint8_t *to = f->bytes + sizeof(struct virtio_net_hdr), *from = to + 6;
    struct port *source = &ports[f->from];
    memcpy(source->mac, from, 6);
    source->known = true;
    for (int i = 0; (to[0] & 1) == 0 && i < n_ports; i++)
        if (ports[i].known && memcmp(ports[i].mac, to, 6) == 0) {
            if (i != f->from)
                forward_to(&ports[i], f);
            else
                free(f);
            return;
        }
    for (int i = 0; i < n_ports; i++) {
        if (i == f->from)
            continue;
        struct frame *copy = take(sizeof *f + f->len);
        memcpy(copy, f, sizeof *f + f->len);
        forward_to(&ports[i], copy);
    }
    free(f);
}

static void deliver(struct port *p, struct frame *f, int64_t now_ns)
{
    const int64_t late_ns = now_ns - f->due_ns;
    int bucket = 0;
    while (bucket < LATE_BUCKETS - 1 && late_ns >> bucket >= 1000)
        bucket++;
    late_counts[bucket]++;
    n_delivered++;
    late_max_ns = late_ns > late_max_ns ? late_ns : late_max_ns;
    if (write(p->fd, f->bytes, f->len) != (ssize_t)f->len)
        p->down.n_dropped++;
    free(f);
}

/* Frames that are due, in the order of their times. Returns when the next one is; INT64_MAX: never.
 */
static int64_t run_due(void)
{
    for (;;) {
        struct port *next = NULL;
        bool up = false;
        int64_t next_ns = INT64_MAX;
        for (int i = 0; i < n_ports; i++) {
            struct port *p = &ports[i];
            if (p->up.head != NULL && p->up.head->due_ns < next_ns) {
                next = p;
                up = true;
                next_ns = p->up.head->due_ns;
            }
            if (p->down.head != NULL && p->down.head->due_ns < next_ns) {
                next = p;
                up = false;
                next_ns = p->down.head->due_ns;
            }
        }
        const int64_t now_ns = clock_ns();
        if (next == NULL || next_ns > now_ns)
            return next_ns;
        if (up)
            forward(leave(&next->up));
        else
            deliver(next, leave(&next->down), now_ns);
    }
}

/* Take frames from a port while its wire has room. */
static void read_port(int i)
{
    static uint8_t bytes[FRAME_MAX];
    struct port *p = &ports[i];
    for (int n = 0; n < READS_MAX; n++) {
        const int64_t now_ns = clock_ns();
        if (room_ns(p, &p->up) > now_ns)
            return;
        const ssize_t len = read(p->fd, bytes, sizeof bytes);
        if (len < (ssize_t)sizeof(struct virtio_net_hdr) + ETH_HEADER)
            return;
        if (lost(p)) {
            p->up.n_dropped++;
            continue;
        }
        struct frame *f = take(sizeof *f + (size_t)len);
        f->from = i;
        f->len = (size_t)len;
        memcpy(f->bytes, bytes, f->len);
        measure(f);
        enter(p, &p->up, f, now_ns - lead_ns, now_ns - lead_ns);
    }
}

/* ---- counters -------------------------------------------------------------------------------- */

/* Microseconds that this share of all deliveries was late at most, as a power of two. */
static unsigned late_us(double share)
{
    uint64_t seen = 0;
    for (int i = 0; i < LATE_BUCKETS; i++) {
        seen += late_counts[i];
        if ((double)seen >= share * (double)n_delivered)
            return 1u << i;
    }
    return 1u << (LATE_BUCKETS - 1);
}

static void print_counters(void)
{
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    for (int i = 0; i < n_ports; i++)
        printf("port=%s up_frames=%llu up_bytes=%llu up_lost=%llu down_frames=%llu down_bytes=%llu "
               "down_lost=%llu\n",
               ports[i].netns, (unsigned long long)ports[i].up.n_frames,
               (unsigned long long)ports[i].up.n_bytes, (unsigned long long)ports[i].up.n_dropped,
               (unsigned long long)ports[i].down.n_frames,
               (unsigned long long)ports[i].down.n_bytes,
               (unsigned long long)ports[i].down.n_dropped);
    printf("delivered=%llu late_p50_us=%u late_p99_us=%u late_max_us=%.0f lead_us=%.1f cpu_s=%.3f "
           "wall_s=%.3f\n",
           (unsigned long long)n_delivered, late_us(0.5), late_us(0.99), (double)late_max_ns / 1e3,
           (double)lead_ns / 1e3, (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9,
           (double)(clock_ns() - start_ns) / 1e9);
    fflush(stdout);
}

/* ---- set-up ---------------------------------------------------------------------------------- */

/* A number and one of the units, as its multiple of the base unit. */
struct unit {
    const char *name;
    double scale;
};
static const struct unit rates[] = {
    {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"none", 0}, {NULL, 0}};
static const struct unit times[] = {{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {NULL, 0}};
static const struct unit shares[] = {{"%", 0.01}, {NULL, 0}};
static const struct unit sizes[] = {{"k", 1024}, {"m", 1048576}, {NULL, 0}};

static bool quantity(const char *text, const struct unit *units, double high, double *out)
{
    char *end;
    const double v = strtod(text, &end);
    for (const struct unit *u = units; u->name != NULL; u++)
        if (strcmp(end, u->name) == 0 && (end != text || u->scale == 0)) {
            *out = v * u->scale;
            return *out >= 0 && *out <= high;
        }
    return false;
}

/* "rate=100mbit": one setting of a port. */
static bool set(struct port *p, const char *key, const char *value)
{
    double v = 0;
    if (strcmp(key, "rate") == 0 && quantity(value, rates, 1e11, &v))
        p->rate = (uint64_t)v;
    else if (strcmp(key, "delay") == 0 && quantity(value, times, 1e10, &v))
        p->delay_ns = (int64_t)(v / 2);
    else if (strcmp(key, "jitter") == 0 && quantity(value, times, 1e10, &v))
        p->jitter_ns = (int64_t)(v / 2);
    else if (strcmp(key, "loss") == 0 && quantity(value, shares, 1, &v))
        p->loss = v / 2;
    else if (strcmp(key, "queue") == 0 && quantity(value, sizes, 1e9, &v))
        p->queue_bits = (uint64_t)v * 8;
    else
        return false;
    return true;
}

static bool parse(struct port *p, char *text)
{
    char *next = strchr(text, ',');
    p->netns = text;
    p->queue_bits = 8 * 512 * 1024;
    while (next != NULL) {
        char *key = next + 1, *value = strchr(key, '=');
        *next = 0;
        if (value == NULL)
            return false;
        *value++ = 0;
        next = strchr(value, ',');
        if (next != NULL)
            *next = 0;
        if (!set(p, key, value))
            return false;
        if (next != NULL)
            *next = ',';
    }
    return true;
}

/* A TAP device eth0 in the port's namespace; this process is then in that namespace. */
static bool open_port(struct port *p, bool trains)
{
    char path[256];
    struct ifreq r = {.ifr_name = "eth0"};
    const unsigned offload =
        trains ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN : TUN_F_CSUM;
    int header = sizeof(struct virtio_net_hdr);
    (void)snprintf(path, sizeof path, "/run/netns/%s", p->netns);
    const int netns = open(path, O_RDONLY | O_CLOEXEC);
    const bool inside = netns >= 0 && setns(netns, CLONE_NEWNET) == 0;
    if (netns >= 0)
        close(netns);
    p->fd = inside ? open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;
    r.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    return p->fd >= 0 && ioctl(p->fd, TUNSETIFF, &r) == 0 &&
           ioctl(p->fd, TUNSETVNETHDRSZ, &header) == 0 &&
           ioctl(p->fd, TUNSETOFFLOAD, (unsigned long)offload) == 0;
}

static void on_signal(int sig)
{
    if (sig == SIGUSR1)
        asked = 1;
    else
        ending = 1;
}

/* A link must not wait for a core that a worker has. */
static void be_prompt(void)
{
    const struct sched_param first = {.sched_priority = 1};
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    if (sched_setscheduler(0, SCHED_FIFO, &first) != 0 && setpriority(PRIO_PROCESS, 0, -20) != 0)
        fputs("linkemu: may not run before others; delays will be longer under load\n", stderr);
}

/* A timer ended late_ns ago: one step towards the median. */
static void learn_lead(int64_t late_ns)
{
    if (late_ns > lead_ns && lead_ns < LEAD_MAX_NS)
        lead_ns += LEAD_STEP_NS;
    else if (late_ns < lead_ns && lead_ns > 0)
        lead_ns -= LEAD_STEP_NS;
}

/* Wait for frames to read, for the next one that is due, or for a signal. */
static void wait_until(int64_t next_ns, const sigset_t *open_mask)
{
    struct pollfd fds[PORTS_MAX];
    const int64_t now_ns = clock_ns();
    for (int i = 0; i < n_ports; i++) {
        const int64_t room = room_ns(&ports[i], &ports[i].up);
        fds[i] = (struct pollfd){.fd = ports[i].fd, .events = room > now_ns ? 0 : POLLIN};
        next_ns = room > now_ns && room < next_ns ? room : next_ns;
    }
    const int64_t wait_ns = next_ns - lead_ns > now_ns ? next_ns - lead_ns - now_ns : 0;
    const struct timespec t = {(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};
    const int n = ppoll(fds, (nfds_t)n_ports, next_ns == INT64_MAX ? NULL : &t, open_mask);
    if (n == 0 && wait_ns > 0)
        learn_lead(clock_ns() - now_ns - wait_ns);
    for (int i = 0; n > 0 && i < n_ports; i++)
        if ((fds[i].revents & POLLIN) != 0)
            read_port(i);
}

int main(int argc, char **argv)
{
    const struct sigaction act = {.sa_handler = on_signal};
    sigset_t closed, open_mask;
    bool trains = true;
    if (argc < 2 || argc > PORTS_MAX + 1) {
        fprintf(stderr, "usage: linkemu NETNS[,KEY=VALUE]...   (1 to %d ports)\n", PORTS_MAX);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        if (!parse(&ports[n_ports++], argv[i])) {
            fprintf(stderr,
                    "linkemu: port %s: keys are rate (100mbit), delay, jitter (0.2ms), loss "
                    "(0.1%%) and queue (256k)\n",
                    argv[i]);
            return 2;
        }
        trains = trains && ports[i - 1].loss == 0;
    }
    for (int i = 0; i < n_ports; i++)
        if (!open_port(&ports[i], trains)) {
            fprintf(stderr, "linkemu: no TAP device eth0 in namespace %s: %s\n", ports[i].netns,
                    strerror(errno));
            return 1;
        }
    sigemptyset(&closed);
    for (const int *s = (const int[]){SIGUSR1, SIGTERM, SIGINT, 0}; *s != 0; s++) {
        sigaddset(&closed, *s);
        sigaction(*s, &act, NULL);
    }
    sigprocmask(SIG_BLOCK, &closed, &open_mask);
    for (const int *s = (const int[]){SIGUSR1, SIGTERM, SIGINT, 0}; *s != 0; s++)
        sigdelset(&open_mask, *s);
    be_prompt();
    start_ns = clock_ns();
    puts("ready");
    fflush(stdout);
    while (!ending) {
        wait_until(run_due(), &open_mask);
        if (asked) {
            asked = 0;
            print_counters();
        }
    }
    print_counters();
    return 0;
}
