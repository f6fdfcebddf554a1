/* How connections between honest peers end and begin anew: what was sent before an end arrives
 * before it or never, what comes after belongs to a new life, and the owner is told of both.
 *
 * Real sockets on loopback with ports that the system picks. Nothing sleeps: tests wait for
 * events. */
#include "tests/unit/net_lab.h"

#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

static void listener_comes_later(void **state)
{
    struct lab_side *s, *c;
    struct lab lab;
    unsigned port;
    net_peer p;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    port = lab_listen(s, NET_KIND_CONTROL, 0);
    lab_side_close(s);
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", port);
    for (unsigned i = 0; i < 10; i++) {
        lab_pump(&lab);
    }
    assert_int_equal(c->n_log, 0); /* nobody there is no news */
    s = lab_side(&lab, 0, NULL, "coordinator");
    (void)lab_listen(s, NET_KIND_CONTROL, port);
    assert_true(lab_expect(&lab, c, NET_EV_UP).peer == p);
    lab_close(&lab);
}

static void listener_restarts(void **state)
{
    struct lab_side *s, *c;
    struct lab_event x;
    struct lab lab;
    unsigned port;
    net_peer p;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    port = lab_listen(s, NET_KIND_CONTROL, 0);
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", port);
    (void)lab_expect(&lab, c, NET_EV_UP);
    for (unsigned round = 0; round < 3; round++) {
        assert_int_equal(lab_send(c, p, NET_MSG_BEAT, round), 0);
        (void)lab_expect(&lab, s, NET_EV_UP); /* and not a hundred old messages */
        assert_int_equal(lab_expect(&lab, s, NET_EV_MESSAGE).nonce, round);
        for (uint64_t i = 100; i < 200; i++) { /* these the old listener never reads */
            assert_int_equal(lab_send(c, p, NET_MSG_BEAT, i), 0);
        }
        lab_side_close(s);
        x = lab_expect(&lab, c, NET_EV_DOWN);
        assert_true(x.peer == p);
        assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 2), ERR_PEER);
        s = lab_side(&lab, 0, NULL, "coordinator");
        (void)lab_listen(s, NET_KIND_CONTROL, port);
        x = lab_expect(&lab, c, NET_EV_UP);
        assert_true(x.peer == p);
    }
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 7), 0);
    (void)lab_expect(&lab, s, NET_EV_UP);
    assert_int_equal(lab_expect(&lab, s, NET_EV_MESSAGE).nonce, 7);
    lab_close(&lab);
}

static void last_words_come_before_the_end(void **state)
{
    struct lab_side *s, *c;
    net_peer p, guest;
    struct lab_event x;
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

    /* The listener dismisses its guest: no event at the listener, the reason at the other side. */
    assert_int_equal(lab_send(s, guest, NET_MSG_BEAT_BACK, 8), 0);
    net_disconnect(s->n, guest);
    assert_int_equal(lab_expect(&lab, c, NET_EV_MESSAGE).nonce, 8);
    x = lab_expect(&lab, c, NET_EV_DOWN);
    assert_non_null(strstr(x.why, "ended"));
    assert_true(lab_expect(&lab, c, NET_EV_UP).peer == p);

    /* The link says something and leaves. */
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 2), 0);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 3), 0);
    net_disconnect(c->n, p);
    x = lab_expect(&lab, s, NET_EV_UP);
    assert_true(x.peer != guest);
    assert_int_equal(lab_expect(&lab, s, NET_EV_MESSAGE).nonce, 2);
    assert_int_equal(lab_expect(&lab, s, NET_EV_MESSAGE).nonce, 3);
    assert_true(lab_expect(&lab, s, NET_EV_DOWN).peer == x.peer);
    lab_close(&lab);
}

/* A listener speaks and goes; its words were sent, so they are not lost with it. */
static void last_words_of_a_listener_that_leaves(void **state)
{
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
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(lab_send(s, guest, NET_MSG_BEAT_BACK, i), 0);
    }
    lab_side_close(s);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(lab_expect(&lab, c, NET_EV_MESSAGE).nonce, i);
    }
    (void)lab_expect(&lab, c, NET_EV_DOWN);
    lab_close(&lab);
}

static void forgotten_between_up_and_message(void **state)
{
    struct lab_side *s, *c;
    struct lab_event x;
    struct lab lab;
    net_peer p;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    (void)lab_expect(&lab, c, NET_EV_UP);
    s->deaf = true;
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), 0);
    for (;;) { /* one event at a time: a lab_pump would take the message, too */
        struct net_event ev;

        if (net_next(s->n, 60000, &ev)) {
            assert_int_equal(ev.type, NET_EV_UP);
            net_disconnect(s->n, ev.peer);
            break;
        }
    }
    s->deaf = false;
    (void)lab_expect(&lab, c, NET_EV_DOWN);
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 2), 0);
    (void)lab_expect(&lab, s, NET_EV_UP); /* the first life's message was not delivered */
    x = lab_expect(&lab, s, NET_EV_MESSAGE);
    assert_int_equal(x.nonce, 2);
    lab_close(&lab);
}

static void newest_connection_of_a_node_counts(void **state)
{
    struct lab_side *s, *a, *b;
    struct lab_event x;
    struct lab lab;
    net_peer first, pa, pb;
    unsigned port;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    a = lab_side(&lab, 1, NULL, "alpha");
    b = lab_side(&lab, 2, NULL, "alpha");
    port = lab_listen(s, NET_KIND_CONTROL, 0);
    pa = lab_connect(a, NET_KIND_CONTROL, "coordinator", port);
    (void)lab_expect(&lab, a, NET_EV_UP);
    assert_int_equal(lab_send(a, pa, NET_MSG_BEAT, 1), 0);
    first = lab_expect(&lab, s, NET_EV_UP).peer;
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);
    pb = lab_connect(b, NET_KIND_CONTROL, "coordinator", port);
    (void)lab_expect(&lab, b, NET_EV_UP);
    assert_int_equal(lab_send(b, pb, NET_MSG_BEAT, 2), 0);
    assert_true(lab_expect(&lab, s, NET_EV_DOWN).peer == first);
    x = lab_expect(&lab, s, NET_EV_UP);
    assert_true(x.peer != first);
    assert_int_equal(lab_expect(&lab, s, NET_EV_MESSAGE).nonce, 2);
    x = lab_expect(&lab, a, NET_EV_DOWN);
    assert_non_null(strstr(x.why, "newer"));
    lab_close(&lab);
}

static void clients_of_one_key_up_to_a_bound(void **state)
{
    enum { BOUND = 32 };
    unsigned down = 0, up = 0;
    struct lab_side *s, *c;
    struct lab_event x;
    struct lab lab;
    unsigned port;

    (void)state;
    lab_open(&lab, "coordinator client");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "client");
    port = lab_listen(s, NET_KIND_CLIENT, 0);
    for (unsigned i = 0; i < BOUND + 1; i++) {
        (void)lab_connect(c, NET_KIND_CLIENT, "coordinator", port);
    }
    while (down == 0) {
        x = lab_next(&lab, c);
        if (x.type == NET_EV_UP) {
            assert_int_equal(lab_send(c, x.peer, NET_MSG_ASK, 1), 0);
        } else {
            assert_int_equal(x.type, NET_EV_DOWN);
            assert_non_null(strstr(x.why, "too many"));
            down++;
        }
    }
    while (s->seen < s->n_log) {
        up += s->log[s->seen++].type == NET_EV_UP;
    }
    assert_int_equal(up, BOUND);
    lab_close(&lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listener_comes_later),
        cmocka_unit_test(listener_restarts),
        cmocka_unit_test(last_words_come_before_the_end),
        cmocka_unit_test(last_words_of_a_listener_that_leaves),
        cmocka_unit_test(forgotten_between_up_and_message),
        cmocka_unit_test(newest_connection_of_a_node_counts),
        cmocka_unit_test(clients_of_one_key_up_to_a_bound),
    };

    return cmocka_run_group_tests_name("net_lives", tests, lab_group_begin, lab_group_end);
}
