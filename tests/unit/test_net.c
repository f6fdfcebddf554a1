/* Sockets among honest peers: what arrives and in which order, who it is from, how one waits, and
 * what cannot be opened. Ends and new beginnings are in test_net_lives.c, keys in test_net_keys.c,
 * vandals in test_net_hostile.c.
 *
 * Real sockets on loopback with ports that the system picks. Nothing sleeps: tests wait for
 * events. */
#include "tests/unit/net_lab.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- messages ------------------------------------------------------------------------------- */

enum { MANY = 10000, WINDOW = 200 };

struct echo_thread {
    struct net *n;
    uint64_t beats;
};

/* A coordinator that answers MANY beats and then leaves. */
static void *echo_run(void *arg)
{
    struct echo_thread *t = arg;
    struct net_event ev;

    while (t->beats < MANY && net_next(t->n, 60000, &ev)) {
        if (ev.type == NET_EV_MESSAGE) {
            struct net_msg m = lab_message(NET_MSG_BEAT_BACK, ev.msg.u.BEAT.nonce);

            if (ev.msg.u.BEAT.nonce != t->beats || net_send(t->n, ev.peer, &m, NULL) != 0) {
                break;
            }
            t->beats++;
        }
    }
    /* The last answers must be out before the sockets close; the other side ends the connection
     * then. */
    while (net_next(t->n, 60000, &ev) && ev.type != NET_EV_DOWN) {
    }
    return NULL;
}

static void two_threads_ten_thousand_messages_in_order(void **state)
{
    struct echo_thread t = {0};
    uint64_t sent = 0, back = 0;
    struct net_event ev;
    pthread_t thread;
    struct lab lab;
    net_peer p;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    t.n = lab_side(&lab, 0, NULL, "coordinator")->n;
    lab_side(&lab, 1, NULL, "alpha");
    p = lab_connect(&lab.sides[1], NET_KIND_CONTROL, "coordinator",
                    lab_listen(&lab.sides[0], NET_KIND_CONTROL, 0));
    assert_int_equal(pthread_create(&thread, NULL, echo_run, &t), 0);
    assert_true(net_next(lab.sides[1].n, 60000, &ev));
    assert_int_equal(ev.type, NET_EV_UP);
    while (back < MANY) {
        while (sent < MANY && sent - back < WINDOW &&
               lab_send(&lab.sides[1], p, NET_MSG_BEAT, sent) == 0) {
            sent++;
        }
        assert_true(net_next(lab.sides[1].n, 60000, &ev));
        assert_int_equal(ev.type, NET_EV_MESSAGE);
        assert_int_equal(ev.msg.u.BEAT_BACK.nonce, back);
        back++;
    }
    net_disconnect(lab.sides[1].n, p);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(t.beats, MANY);
    lab_close(&lab);
}

static void every_kind_both_ways(void **state)
{
    static const struct {
        enum net_kind kind;
        enum net_code ask, answer;
    } rows[] = {
        {NET_KIND_CONTROL, NET_MSG_BEAT, NET_MSG_BEAT_BACK},
        {NET_KIND_RING, NET_MSG_PING, NET_MSG_PONG},
        {NET_KIND_BULK, NET_MSG_BULK_PING, NET_MSG_BULK_PONG},
    };
    struct lab lab;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    lab_side(&lab, 0, NULL, "coordinator")->echo = true;
    lab_side(&lab, 1, NULL, "alpha");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        unsigned port = lab_listen(&lab.sides[0], rows[i].kind, 0);
        net_peer p = lab_connect(&lab.sides[1], rows[i].kind, "coordinator", port);
        struct lab_event x = lab_expect(&lab, &lab.sides[1], NET_EV_UP);

        assert_true(x.peer == p && x.kind == rows[i].kind);
        assert_string_equal(x.name, "coordinator");
        assert_int_equal(lab_send(&lab.sides[1], p, rows[i].ask, 70 + i), 0);
        x = lab_expect(&lab, &lab.sides[0], NET_EV_UP);
        assert_int_equal(x.kind, rows[i].kind);
        assert_string_equal(x.name, "alpha"); /* nothing in the message says so */
        x = lab_expect(&lab, &lab.sides[0], NET_EV_MESSAGE);
        assert_true(x.code == rows[i].ask && x.nonce == 70 + i);
        x = lab_expect(&lab, &lab.sides[1], NET_EV_MESSAGE);
        assert_true(x.code == rows[i].answer && x.nonce == 70 + i);
    }
    lab_close(&lab);
}

static void five_megabytes_arrive_whole(void **state)
{
    enum { ROWS_BYTES = 5 * 1024 * 1024 };
    uint8_t *bytes = base_alloc(ROWS_BYTES), one[8] = {0};
    struct net_msg m = {.code = NET_MSG_ROWS};
    uint64_t seed = 5;
    struct net_event ev;
    struct lab lab;
    net_peer p;

    (void)state;
    assert_non_null(bytes);
    for (size_t i = 0; i < ROWS_BYTES; i++) {
        bytes[i] = (uint8_t)base_rng_next(&seed);
    }
    m.u.ROWS.hidden = (struct span){bytes, ROWS_BYTES};
    m.u.ROWS.requests = (struct net_list){one, 1};
    lab_open(&lab, "alpha beta");
    lab_side(&lab, 0, NULL, "alpha");
    lab_side(&lab, 1, NULL, "beta");
    p = lab_connect(&lab.sides[1], NET_KIND_RING, "alpha",
                    lab_listen(&lab.sides[0], NET_KIND_RING, 0));
    (void)lab_expect(&lab, &lab.sides[1], NET_EV_UP);
    assert_int_equal(net_send(lab.sides[1].n, p, &m, NULL), 0);
    assert_true(net_next(lab.sides[0].n, 60000, &ev) && ev.type == NET_EV_UP);
    assert_true(net_next(lab.sides[0].n, 60000, &ev) && ev.type == NET_EV_MESSAGE);
    assert_int_equal(ev.msg.u.ROWS.hidden.len, ROWS_BYTES);
    assert_memory_equal(ev.msg.u.ROWS.hidden.ptr, bytes, ROWS_BYTES);
    assert_int_equal(ev.wire_bytes, net_msg_bytes(&m) + 18);
    base_free(bytes);
    lab_close(&lab);
}

/* Send until the queue is full; returns how many were taken. */
static uint32_t fill(struct lab_side *s, net_peer p, struct net_msg *m, uint32_t *index)
{
    uint32_t n = 0;
    struct err e = {0};
    int rc;

    for (;;) {
        *index = n;
        rc = net_send(s->n, p, m, &e);
        if (rc != 0) {
            break;
        }
        n++;
        assert_true(n < 10000);
    }
    assert_int_equal(rc, ERR_FULL);
    return n;
}

static void full_queue_says_so_and_recovers(void **state)
{
    static uint8_t load[65536];
    struct net_msg up = {.code = NET_MSG_BULK_SEND}, down = {.code = NET_MSG_BULK_BURST};
    struct lab_side *s, *c;
    net_peer p, guest;
    struct lab lab;
    uint32_t n;

    (void)state;
    up.u.BULK_SEND.load = (struct span){load, sizeof load};
    down.u.BULK_BURST.load = (struct span){load, sizeof load};
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    p = lab_connect(c, NET_KIND_BULK, "coordinator", lab_listen(s, NET_KIND_BULK, 0));
    (void)lab_expect(&lab, c, NET_EV_UP);

    s->deaf = true;
    n = fill(c, p, &up, &up.u.BULK_SEND.index);
    s->deaf = false;
    guest = lab_expect(&lab, s, NET_EV_UP).peer;
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(lab_expect(&lab, s, NET_EV_MESSAGE).nonce, i);
    }
    lab_deliver(&lab, c, p, s, NET_MSG_BULK_PING, 5);

    c->deaf = true;
    n = fill(s, guest, &down, &down.u.BULK_BURST.index);
    c->deaf = false;
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(lab_expect(&lab, c, NET_EV_MESSAGE).nonce, i);
    }
    lab_deliver(&lab, s, guest, c, NET_MSG_BULK_PONG, 6);
    lab_close(&lab);
}

static void sending_to_nobody_and_too_much(void **state)
{
    static uint8_t text[400];
    struct net_msg m = {.code = NET_MSG_REFUSE};
    struct lab_side *s, *c;
    net_peer p, guest;
    struct lab lab;

    (void)state;
    memset(text, 'a', sizeof text);
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), ERR_PEER); /* not made yet */
    assert_int_equal(lab_send(c, 0, NET_MSG_BEAT, 1), ERR_PEER);
    assert_int_equal(lab_send(c, 12345678, NET_MSG_BEAT, 1), ERR_PEER);
    assert_string_equal(net_peer_name(c->n, 12345678), "");
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), 0);
    guest = lab_expect(&lab, s, NET_EV_UP).peer;
    m.u.REFUSE.reason = (struct span){text, sizeof text};
    assert_int_equal(net_send(s->n, guest, &m, NULL), ERR_RANGE);
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);
    lab_deliver(&lab, s, guest, c, NET_MSG_BEAT_BACK, 2); /* a refused message leaves no gap */
    net_disconnect(c->n, p);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), ERR_PEER);
    (void)lab_expect(&lab, s, NET_EV_DOWN);
    assert_int_equal(lab_send(s, guest, NET_MSG_BEAT_BACK, 1), ERR_PEER);
    lab_close(&lab);
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void watched_descriptor(void **state)
{
    struct net_event ev;
    struct lab_side *s;
    struct lab lab;
    int ends[2];
    char c;

    (void)state;
    lab_open(&lab, "coordinator");
    s = lab_side(&lab, 0, NULL, "coordinator");
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(net_watch(s->n, ends[0], NULL), 0);
    assert_false(net_next(s->n, 0, &ev));
    assert_int_equal(ev.type, NET_EV_NONE);
    assert_int_equal(write(ends[1], "x", 1), 1);
    for (unsigned i = 0; i < 2; i++) { /* as long as it is readable */
        assert_true(net_next(s->n, 60000, &ev));
        assert_true(ev.type == NET_EV_FD && ev.fd == ends[0]);
    }
    assert_int_equal(read(ends[0], &c, 1), 1);
    assert_false(net_next(s->n, 0, &ev));
    (void)close(ends[1]); /* its end is readable, too */
    assert_true(net_next(s->n, 60000, &ev));
    assert_int_equal(ev.type, NET_EV_FD);
    lab_close(&lab);
    (void)close(ends[0]);
}

static void waiting_takes_its_time_and_no_cpu(void **state)
{
    struct net_event ev;
    struct lab_side *s, *c;
    int64_t before_ms;
    struct lab lab;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    (void)lab_connect(c, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    (void)lab_expect(&lab, c, NET_EV_UP);
    before_ms = base_clock_ms();
    assert_false(net_next(c->n, 300, &ev));
    assert_true(base_clock_ms() - before_ms >= 300);
    lab_close(&lab);
}

/* ZeroMQ's descriptors are silent about a message whose news was taken out of the mailbox in
 * passing. These rounds give the message time to come, and sending time to do so. */
static void deliver_many(struct lab *lab, struct lab_side *from, net_peer p, struct lab_side *to,
                         enum net_code code)
{
    for (uint64_t i = 0; i < 200; i++) {
        lab_deliver(lab, from, p, to, code, i);
    }
}

static void sending_hides_no_message(void **state)
{
    struct net_event ev;
    struct lab_side *s, *c;
    net_peer p, guest;
    struct lab lab;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), 0);
    guest = lab_expect(&lab, s, NET_EV_UP).peer;
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);

    c->deaf = true;
    assert_int_equal(lab_send(s, guest, NET_MSG_BEAT_BACK, 2), 0);
    deliver_many(&lab, c, p, s, NET_MSG_BEAT);
    assert_true(net_next(c->n, 10000, &ev));
    assert_int_equal(ev.type, NET_EV_MESSAGE);
    c->deaf = false;

    s->deaf = true;
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 3), 0);
    deliver_many(&lab, s, guest, c, NET_MSG_BEAT_BACK);
    assert_true(net_next(s->n, 10000, &ev));
    assert_int_equal(ev.type, NET_EV_MESSAGE);
    lab_close(&lab);
}

static void a_new_socket_hides_no_message(void **state)
{
    struct net_event ev;
    struct lab_side *s, *c, *other;
    net_peer p, guest;
    unsigned port;
    struct lab lab;

    (void)state;
    lab_open(&lab, "coordinator alpha beta");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    other = lab_side(&lab, 2, NULL, "beta");
    port = lab_listen(s, NET_KIND_CONTROL, 0);
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", port);
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), 0);
    guest = lab_expect(&lab, s, NET_EV_UP).peer;
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);
    p = lab_connect(other, NET_KIND_CONTROL, "coordinator", port);
    (void)lab_expect(&lab, other, NET_EV_UP);
    assert_int_equal(lab_send(other, p, NET_MSG_BEAT, 1), 0);
    (void)lab_expect(&lab, s, NET_EV_UP);
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);

    c->deaf = true;
    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(lab_send(s, guest, NET_MSG_BEAT_BACK, i), 0);
    }
    deliver_many(&lab, other, p, s, NET_MSG_BEAT);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(net_next(c->n, 10000, &ev));
        assert_int_equal(ev.type, NET_EV_MESSAGE);
        (void)lab_listen(c, NET_KIND_RING, 0);
    }
    lab_close(&lab);
}

static void a_flood_hides_no_message(void **state)
{
    struct net_event ev;
    struct lab_side *s, *c, *other;
    net_peer p, flood, guest;
    struct lab lab;
    bool heard = false;

    (void)state;
    lab_open(&lab, "coordinator alpha beta");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    other = lab_side(&lab, 2, NULL, "beta");
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), 0);
    guest = lab_expect(&lab, s, NET_EV_UP).peer;
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);
    flood = lab_connect(other, NET_KIND_CONTROL, "alpha", lab_listen(c, NET_KIND_CONTROL, 0));
    (void)lab_expect(&lab, other, NET_EV_UP);

    c->deaf = true;
    for (uint64_t i = 0; i < 500; i++) {
        assert_int_equal(lab_send(other, flood, NET_MSG_BEAT, i), 0);
    }
    for (unsigned i = 0; i < 2; i++) { /* it comes up and says something */
        assert_true(net_next(c->n, 10000, &ev));
    }
    assert_int_equal(lab_send(s, guest, NET_MSG_BEAT_BACK, 2), 0);
    deliver_many(&lab, c, p, s, NET_MSG_BEAT);
    for (unsigned i = 0; i < 200 && !heard; i++) {
        assert_true(net_next(c->n, 10000, &ev));
        heard = ev.type == NET_EV_MESSAGE && ev.peer == p;
    }
    assert_true(heard);
    lab_close(&lab);
}

/* ---- failures ------------------------------------------------------------------------------- */

static void errors_of_opening(void **state)
{
    struct net_options o = {.self = "coordinator"};
    struct err e = {0};
    struct net *n = NULL;
    char path[600];
    struct lab lab;
    net_peer p = 0;
    unsigned port;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    o.keys = "/nonexistent/keys";
    assert_int_equal(net_new(&o, &n, &e), ERR_NOTFOUND);
    o.keys = lab.keys;
    o.self = "nobody";
    assert_int_equal(net_new(&o, &n, &e), ERR_NOTFOUND);
    o.self = "../x";
    assert_int_equal(net_new(&o, &n, &e), ERR_RANGE);
    (void)snprintf(path, sizeof path, "%s/odd.secret", lab.keys);
    assert_int_equal(base_file_replace(path, "short\n", 6, 0600, NULL), 0);
    o.self = "odd";
    assert_int_equal(net_new(&o, &n, &e), ERR_FORMAT);
    o.self = "coordinator";
    assert_int_equal(net_new(&o, &n, &e), 0);
    assert_int_equal(net_connect(n, NET_KIND_CONTROL, "nobody", "tcp://127.0.0.1:1", &p, &e),
                     ERR_NOTFOUND);
    assert_int_equal(net_connect(n, NET_KIND_CONTROL, "alpha", "udp://127.0.0.1:1", &p, &e),
                     ERR_IO);
    assert_int_equal(net_listen(n, NET_KIND_CONTROL, "tcp://127.0.0.1:*", &port, &e), 0);
    (void)snprintf(path, sizeof path, "tcp://127.0.0.1:%u", port);
    assert_int_equal(net_listen(n, NET_KIND_RING, path, NULL, &e), ERR_IO);
    assert_non_null(strstr(e.text, path));
    net_free(n);
    lab_close(&lab);
}

static int open_all(const char *keys)
{
    struct net_options o = {.keys = keys, .self = "coordinator"};
    struct net *n = NULL;
    net_peer p;
    int rc = net_new(&o, &n, NULL);

    if (rc == 0) {
        rc = net_listen(n, NET_KIND_CONTROL, "tcp://127.0.0.1:*", NULL, NULL);
    }
    if (rc == 0) {
        rc = net_connect(n, NET_KIND_RING, "alpha", "tcp://127.0.0.1:1", &p, NULL);
    }
    net_free(n);
    return rc;
}

static void out_of_memory_leaks_nothing(void **state)
{
    unsigned failed = 0;
    int64_t live;
    struct lab lab;
    int fds, rc;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    assert_int_equal(open_all(lab.keys), 0);
    live = base_alloc_live();
    fds = lab_open_fds();
    for (uint64_t nth = 1; nth <= 12; nth++) {
        base_alloc_fail_nth(nth);
        rc = open_all(lab.keys);
        base_alloc_fail_nth(0);
        assert_int_equal(base_alloc_live(), live);
        assert_int_equal(lab_open_fds(), fds);
        assert_true(rc == 0 || rc == ERR_NOMEM || rc == ERR_IO);
        failed += rc != 0;
        assert_true(nth < 12 || rc == 0);
    }
    assert_true(failed >= 5); /* the net, its folder's name and keys, a listener, a link */
    lab_close(&lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_threads_ten_thousand_messages_in_order),
        cmocka_unit_test(every_kind_both_ways),
        cmocka_unit_test(five_megabytes_arrive_whole),
        cmocka_unit_test(full_queue_says_so_and_recovers),
        cmocka_unit_test(sending_to_nobody_and_too_much),
        cmocka_unit_test(watched_descriptor),
        cmocka_unit_test(waiting_takes_its_time_and_no_cpu),
        cmocka_unit_test(sending_hides_no_message),
        cmocka_unit_test(a_new_socket_hides_no_message),
        cmocka_unit_test(a_flood_hides_no_message),
        cmocka_unit_test(errors_of_opening),
        cmocka_unit_test(out_of_memory_leaks_nothing),
    };

    return cmocka_run_group_tests_name("net", tests, lab_group_begin, lab_group_end);
}
