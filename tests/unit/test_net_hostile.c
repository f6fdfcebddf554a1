/* Sockets among vandals: bytes that are no handshake, messages that are none, floods. The
 * application must see nothing of what was not allowed, and its honest peers must notice nothing
 * at all. */
#include "tests/unit/net_lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- bytes that are no handshake ------------------------------------------------------------ */

static int tcp_connect(unsigned port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Has the other side closed? */
static bool tcp_over(int fd)
{
    uint8_t bytes[256];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t n;

    while (poll(&p, 1, 0) == 1) {
        n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n <= 0) {
            return n == 0 || errno != EAGAIN;
        }
    }
    return false;
}

static void strangers_on_the_port(void **state)
{
    static uint8_t noise[1 << 20];
    struct lab_side *s, *c;
    int loud, silent, half;
    uint64_t seed = 11;
    struct lab lab;
    unsigned port;
    size_t sent = 0;
    net_peer p;

    (void)state;
    for (size_t i = 0; i < sizeof noise; i++) {
        noise[i] = (uint8_t)base_rng_next(&seed);
    }
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    port = lab_listen(s, NET_KIND_CONTROL, 0);
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", port);
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 0), 0);
    (void)lab_expect(&lab, s, NET_EV_UP);
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);

    loud = tcp_connect(port);
    silent = tcp_connect(port);
    half = tcp_connect(port);
    assert_int_equal(send(half, "\xff\0\0\0\0\0\0\0\1\x7f\3", 11, MSG_NOSIGNAL), 11);
    while (sent < sizeof noise) {
        ssize_t n = send(loud, noise + sent, sizeof noise - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0) {
            break; /* it is closed already, or has stopped listening */
        }
        sent += (size_t)n;
    }
    for (uint64_t i = 1; !tcp_over(loud) || !tcp_over(silent) || !tcp_over(half); i++) {
        lab_deliver(&lab, c, p, s, NET_MSG_BEAT, i % 1000);
        s->seen = s->n_log = 0;
    }
    assert_int_equal(c->n_log, 1);
    (void)close(loud);
    (void)close(silent);
    (void)close(half);
    lab_close(&lab);
}

/* ---- messages that are none ----------------------------------------------------------------- */

enum vandal {
    RANDOM_BYTES,
    TOO_SHORT,
    EMPTY,
    NUMBER_ZERO,
    WRONG_DIRECTION,
    NO_SUCH_CODE,
    GONE_CODE,
    TRAILING_BYTE,
    TWO_FRAMES,
    SEQUENCE_GAP,
    SEQUENCE_AGAIN,
    OTHER_NUMBER,
    BEYOND_THE_KIND,
    BEYOND_THE_SOCKET,
    N_VANDALS
};

enum { NUMBER = 4711 };

static void envelope(uint8_t *bytes, uint64_t number, uint64_t sequence, unsigned code)
{
    net_put_u64(bytes, 0, number);
    net_put_u64(bytes, 1, sequence);
    bytes[16] = (uint8_t)(code & 0xff);
    bytes[17] = (uint8_t)(code >> 8);
}

/* Send something bad where message `sequence` of the life would be due. */
static void vandalise(struct lab_raw *r, enum vandal v, uint64_t sequence, uint8_t *bytes,
                      size_t room)
{
    const enum net_code code = r->listens ? NET_MSG_BULK_PONG : NET_MSG_BULK_PING;
    struct net_msg good = lab_message(code, 1);
    struct net_msg back = lab_message(r->listens ? NET_MSG_BULK_PING : NET_MSG_BULK_PONG, 1);
    uint64_t seed = 3;

    memset(bytes, 0, room);
    envelope(bytes, NUMBER, sequence, code);
    switch (v) {
    case RANDOM_BYTES:
        for (size_t i = 0; i < 500; i++) {
            bytes[i] = (uint8_t)base_rng_next(&seed);
        }
        lab_raw_bytes(r, bytes, 500, false);
        break;
    case TOO_SHORT:
        lab_raw_bytes(r, bytes, 17, false);
        break;
    case EMPTY:
        lab_raw_bytes(r, bytes, 0, false);
        break;
    case NUMBER_ZERO:
        lab_raw_message(r, 0, sequence, &good);
        break;
    case WRONG_DIRECTION:
        lab_raw_message(r, NUMBER, sequence, &back);
        break;
    case NO_SUCH_CODE:
        envelope(bytes, NUMBER, sequence, 9999);
        lab_raw_bytes(r, bytes, 26, false);
        break;
    case GONE_CODE:
        envelope(bytes, NUMBER, sequence, 0);
        lab_raw_bytes(r, bytes, 19, false);
        break;
    case TRAILING_BYTE:
        lab_raw_bytes(r, bytes, 27, false);
        break;
    case TWO_FRAMES:
        lab_raw_bytes(r, bytes, 26, true);
        lab_raw_bytes(r, bytes, 26, false);
        break;
    case SEQUENCE_GAP:
        lab_raw_message(r, NUMBER, sequence + 1, &good);
        break;
    case SEQUENCE_AGAIN:
        lab_raw_message(r, NUMBER, sequence - 1, &good);
        break;
    case OTHER_NUMBER:
        lab_raw_message(r, NUMBER + 1, sequence > 0 ? sequence : 1, &good);
        break;
    case BEYOND_THE_KIND:
    case BEYOND_THE_SOCKET:
        lab_raw_bytes(r, bytes, v == BEYOND_THE_KIND ? 300 * 1024 + 1 : 400 * 1024, false);
        break;
    case N_VANDALS:
        break;
    }
}

/* As the first message of a connection each is dropped unseen; later each ends the connection,
 * once, and what follows on it is dropped. An honest peer sees nothing of it. */
static void bad_messages_end_the_connection(void **state)
{
    enum { ROOM = 512 * 1024 };
    struct net_msg good = lab_message(NET_MSG_BULK_PING, 1);
    uint8_t *bytes = base_alloc(ROOM);
    struct lab_side *s, *c;
    struct lab_event x;
    struct lab lab;
    unsigned port;
    net_peer p;

    (void)state;
    assert_non_null(bytes);
    lab_open(&lab, "coordinator alpha beta");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "beta");
    port = lab_listen(s, NET_KIND_BULK, 0);
    p = lab_connect(c, NET_KIND_BULK, "coordinator", port);
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BULK_PING, 0), 0);
    (void)lab_expect(&lab, s, NET_EV_UP);
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);
    for (unsigned i = 0; i < 2 * N_VANDALS; i++) {
        const enum vandal v = (enum vandal)(i / 2);
        const bool at_once = i % 2 == 0;
        struct lab_raw raw;

        lab_raw_open(&raw, &lab, "alpha", "coordinator", port, NULL);
        if (!at_once) {
            lab_raw_message(&raw, NUMBER, 0, &good);
            lab_raw_message(&raw, NUMBER, 1, &good);
            x = lab_expect(&lab, s, NET_EV_UP);
            assert_string_equal(x.name, "alpha");
            (void)lab_expect(&lab, s, NET_EV_MESSAGE);
            (void)lab_expect(&lab, s, NET_EV_MESSAGE);
        }
        vandalise(&raw, v, at_once ? 0 : 2, bytes, ROOM);
        if (!at_once) {
            assert_true(lab_expect(&lab, s, NET_EV_DOWN).peer == x.peer);
            if (v != BEYOND_THE_SOCKET) { /* ZeroMQ has closed that one */
                lab_raw_message(&raw, NUMBER, 3, &good);
            }
        }
        lab_deliver(&lab, c, p, s, NET_MSG_BULK_PING, i);
        lab_raw_close(&raw);
    }
    assert_int_equal(c->n_log, 1);
    base_free(bytes);
    lab_close(&lab);
}

/* The same from a listener. Its farewell, which ends a link too, must name the link's own
 * number. */
static void bad_messages_of_a_listener_end_the_link(void **state)
{
    enum { ROOM = 512 * 1024, FAREWELL = N_VANDALS, FALSE_FAREWELL, N_CASES };
    struct net_msg back = lab_message(NET_MSG_BULK_PONG, 8);
    uint8_t *bytes = base_alloc(ROOM);
    struct lab_side *c;
    struct lab_event x;
    struct lab_raw raw;
    struct lab lab;
    uint64_t number;
    unsigned port;
    net_peer p;

    (void)state;
    assert_non_null(bytes);
    lab_open(&lab, "coordinator alpha");
    c = lab_side(&lab, 1, NULL, "alpha");
    port = lab_raw_listen(&raw, &lab, "coordinator");
    p = lab_connect(c, NET_KIND_BULK, "coordinator", port);
    for (unsigned i = 0; i < 2 * N_CASES; i++) {
        const unsigned v = i / 2;
        const uint64_t first = i % 2 == 0 ? 0 : 2;

        assert_true(lab_expect(&lab, c, NET_EV_UP).peer == p);
        assert_int_equal(lab_send(c, p, NET_MSG_BULK_PING, 1), 0);
        number = lab_raw_hear(&raw);
        for (uint64_t k = 0; k < first; k++) {
            lab_raw_message(&raw, NUMBER, k, &back);
            assert_int_equal(lab_expect(&lab, c, NET_EV_MESSAGE).nonce, 8);
        }
        if (v < N_VANDALS) {
            vandalise(&raw, (enum vandal)v, first, bytes, ROOM);
        } else {
            envelope(bytes, v == FAREWELL ? number : number + 1, 0, 0);
            bytes[18] = 0;
            lab_raw_bytes(&raw, bytes, 19, false);
        }
        lab_raw_message(&raw, NUMBER, first, &back);
        x = lab_expect(&lab, c, NET_EV_DOWN);
        assert_true(x.peer == p);
        assert_true((strstr(x.why, "ended") != NULL) == (v == FAREWELL));
    }
    lab_raw_close(&raw);
    base_free(bytes);
    lab_close(&lab);
}

static void new_life_on_the_same_connection(void **state)
{
    struct net_msg m = lab_message(NET_MSG_BEAT, 5), other = lab_message(NET_MSG_BEAT, 6);
    struct lab_side *s;
    struct lab_event x, y;
    struct lab_raw raw;
    struct lab lab;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    lab_raw_open(&raw, &lab, "alpha", "coordinator", lab_listen(s, NET_KIND_CONTROL, 0), NULL);
    lab_raw_message(&raw, NUMBER, 0, &m);
    x = lab_expect(&lab, s, NET_EV_UP);
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);
    lab_raw_message(&raw, NUMBER + 1, 0, &other);
    assert_true(lab_expect(&lab, s, NET_EV_DOWN).peer == x.peer);
    y = lab_expect(&lab, s, NET_EV_UP);
    assert_true(y.peer != x.peer);
    assert_int_equal(lab_expect(&lab, s, NET_EV_MESSAGE).nonce, 6);
    assert_int_equal(lab_send(s, x.peer, NET_MSG_BEAT_BACK, 1), ERR_PEER);
    assert_int_equal(lab_send(s, y.peer, NET_MSG_BEAT_BACK, 1), 0);
    lab_raw_close(&raw);
    assert_true(lab_expect(&lab, s, NET_EV_DOWN).peer == y.peer);
    lab_close(&lab);
}

static void routing_id_of_ones_own_choice(void **state)
{
    struct net_msg m = lab_message(NET_MSG_BEAT, 5);
    struct lab_side *s, *c;
    struct lab_event x;
    struct lab_raw raw;
    struct lab lab;
    unsigned port;
    net_peer p;

    (void)state;
    lab_open(&lab, "coordinator alpha beta");
    s = lab_side(&lab, 0, NULL, "coordinator");
    port = lab_listen(s, NET_KIND_CONTROL, 0);
    lab_raw_open(&raw, &lab, "alpha", "coordinator", port, "abcde");
    lab_raw_message(&raw, NUMBER, 0, &m);
    c = lab_side(&lab, 1, NULL, "beta");
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", port);
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), 0);
    x = lab_expect(&lab, s, NET_EV_UP);
    assert_string_equal(x.name, "beta");
    lab_raw_close(&raw);
    lab_close(&lab);
}

/* A client that floods does not hold up a worker: with its queue full, the worker's one message
 * comes among the first, although the client's listener is the older one. */
static void flood_of_a_client_does_not_starve_control(void **state)
{
    enum { FLOOD = 2000 };
    struct lab_side *s, *c, *w;
    struct lab_event x;
    struct lab lab;
    unsigned flood = 0, before = 0;
    net_peer pc, pw;
    unsigned port;

    (void)state;
    lab_open(&lab, "coordinator client alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "client");
    w = lab_side(&lab, 2, NULL, "alpha");
    port = lab_listen(s, NET_KIND_CLIENT, 0);
    pc = lab_connect(c, NET_KIND_CLIENT, "coordinator", port);
    pw = lab_connect(w, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    (void)lab_expect(&lab, c, NET_EV_UP);
    (void)lab_expect(&lab, w, NET_EV_UP);
    assert_int_equal(lab_send(w, pw, NET_MSG_BEAT, 0), 0);
    (void)lab_expect(&lab, s, NET_EV_UP);
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);

    s->deaf = true;
    assert_int_equal(lab_send(w, pw, NET_MSG_BEAT, 1), 0);
    while (flood < FLOOD) {
        flood += lab_send(c, pc, NET_MSG_ASK, flood) == 0;
    }
    s->deaf = false;
    while ((x = lab_next(&lab, s)).kind != NET_KIND_CONTROL) {
        before++;
    }
    assert_true(before < FLOOD / 2);
    lab_close(&lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strangers_on_the_port),
        cmocka_unit_test(bad_messages_end_the_connection),
        cmocka_unit_test(bad_messages_of_a_listener_end_the_link),
        cmocka_unit_test(new_life_on_the_same_connection),
        cmocka_unit_test(routing_id_of_ones_own_choice),
        cmocka_unit_test(flood_of_a_client_does_not_starve_control),
    };

    return cmocka_run_group_tests_name("net_hostile", tests, lab_group_begin, lab_group_end);
}
