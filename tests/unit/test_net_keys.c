/* Keys and connections: who is let in is decided by the keys folder as it is now, and by the
 * owner of the listener; a stranger is never seen by the application, and a removed key is cut
 * off. */
#include "tests/unit/net_lab.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void key_path(char path[static 600], const char *dir, const char *file)
{
    (void)snprintf(path, 600, "%s/%s", dir, file);
}

static void unknown_key_is_refused_until_it_is_added(void **state)
{
    struct lab_side *s, *c;
    char theirs[256], path[600];
    struct lab_event x;
    struct lab lab;
    net_peer p;

    (void)state;
    lab_open(&lab, "coordinator");
    lab_keys_make(theirs, "mallory");
    lab_key_copy(lab.keys, theirs, "coordinator");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, theirs, "mallory");
    p = lab_connect(c, NET_KIND_CLIENT, "coordinator", lab_listen(s, NET_KIND_CLIENT, 0));
    x = lab_expect(&lab, c, NET_EV_DOWN);
    assert_true(x.peer == p);
    assert_non_null(strstr(x.why, "refused"));
    assert_int_equal(s->n_log, 0);

    /* Knocking again, it is let in: nobody told the listener to look. */
    lab_key_copy(theirs, lab.keys, "mallory");
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_ASK, 1), 0);
    x = lab_expect(&lab, s, NET_EV_UP);
    assert_string_equal(x.name, "mallory");
    assert_int_equal(lab_expect(&lab, s, NET_EV_MESSAGE).nonce, 1);

    /* Removed, it is cut off. */
    key_path(path, lab.keys, "mallory.pub");
    assert_int_equal(unlink(path), 0);
    net_keys_reload(s->n);
    assert_int_equal(lab_send(s, x.peer, NET_MSG_BEAT_BACK, 1), ERR_PEER);
    assert_true(lab_expect(&lab, s, NET_EV_DOWN).peer == x.peer);
    x = lab_expect(&lab, c, NET_EV_DOWN);
    assert_non_null(strstr(x.why, "no longer"));
    x = lab_expect(&lab, c, NET_EV_DOWN);
    assert_non_null(strstr(x.why, "refused"));
    assert_int_equal(s->seen, s->n_log);
    lab_keys_remove(theirs);
    lab_close(&lab);
}

static void removed_key_is_noticed_without_a_reload(void **state)
{
    struct lab_side *s, *c;
    struct lab_event x;
    char path[600];
    struct lab lab;
    net_peer p;

    (void)state;
    lab_open(&lab, "coordinator alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, NULL, "alpha");
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 1), 0);
    (void)lab_expect(&lab, s, NET_EV_UP);
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);
    key_path(path, lab.keys, "alpha.pub");
    assert_int_equal(unlink(path), 0);
    x = lab_expect(&lab, s, NET_EV_DOWN);
    assert_non_null(strstr(x.why, "key"));
    lab_close(&lab);
}

/* The owner of a removed key keeps his TCP connection, but cannot begin again on it. */
static void removed_key_cannot_begin_again(void **state)
{
    struct net_msg m = lab_message(NET_MSG_BEAT, 1);
    char path[600], beta[600];
    struct lab_side *s, *c;
    struct lab_event x;
    struct lab_raw raw;
    struct lab lab;
    net_peer p;

    (void)state;
    lab_open(&lab, "coordinator alpha beta");
    s = lab_side(&lab, 0, NULL, "coordinator");
    lab_raw_open(&raw, &lab, "alpha", "coordinator", lab_listen(s, NET_KIND_CONTROL, 0), NULL);
    lab_raw_message(&raw, 77, 0, &m);
    (void)lab_expect(&lab, s, NET_EV_UP);
    (void)lab_expect(&lab, s, NET_EV_MESSAGE);
    /* Another key comes under the same name. */
    key_path(path, lab.keys, "alpha.pub");
    key_path(beta, lab.keys, "beta.pub");
    assert_int_equal(rename(beta, path), 0);
    net_keys_reload(s->n);
    (void)lab_expect(&lab, s, NET_EV_DOWN);
    lab_raw_message(&raw, 78, 0, &m);
    lab_raw_message(&raw, 78, 1, &m);
    lab_raw_close(&raw);
    /* What comes next is somebody who is still welcome. */
    c = lab_side(&lab, 1, NULL, "coordinator");
    p = lab_connect(c, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    (void)lab_expect(&lab, c, NET_EV_UP);
    assert_int_equal(lab_send(c, p, NET_MSG_BEAT, 9), 0);
    x = lab_expect(&lab, s, NET_EV_UP);
    assert_string_equal(x.name, "coordinator");
    lab_close(&lab);
}

static bool no_clients_at_rings(void *arg, enum net_kind kind, const char *name)
{
    (void)arg;
    return kind == NET_KIND_CLIENT || strcmp(name, "client") != 0;
}

static void known_key_that_may_not_come_here(void **state)
{
    struct lab_side *s, *c;
    struct lab_event x;
    struct lab lab;
    net_peer p;

    (void)state;
    lab_open(&lab, "alpha client");
    lab.allow = no_clients_at_rings;
    s = lab_side(&lab, 0, NULL, "alpha");
    c = lab_side(&lab, 1, NULL, "client");
    (void)lab_connect(c, NET_KIND_RING, "alpha", lab_listen(s, NET_KIND_RING, 0));
    x = lab_expect(&lab, c, NET_EV_DOWN);
    assert_non_null(strstr(x.why, "refused"));
    p = lab_connect(c, NET_KIND_CLIENT, "alpha", lab_listen(s, NET_KIND_CLIENT, 0));
    while ((x = lab_next(&lab, c)).type != NET_EV_UP) {
    }
    assert_true(x.peer == p);
    assert_int_equal(s->n_log, 0);
    lab_close(&lab);
}

static void wrong_key_of_the_listener(void **state)
{
    char theirs[256];
    struct lab_side *s, *c;
    struct lab lab;

    (void)state;
    lab_open(&lab, "coordinator");
    lab_keys_make(theirs, "coordinator alpha"); /* a coordinator, but not that one */
    lab_key_copy(theirs, lab.keys, "alpha");
    s = lab_side(&lab, 0, NULL, "coordinator");
    c = lab_side(&lab, 1, theirs, "alpha");
    (void)lab_connect(c, NET_KIND_CONTROL, "coordinator", lab_listen(s, NET_KIND_CONTROL, 0));
    assert_non_null(strstr(lab_expect(&lab, c, NET_EV_DOWN).why, "no handshake"));
    assert_int_equal(s->n_log, 0);
    lab_keys_remove(theirs);
    lab_close(&lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_key_is_refused_until_it_is_added),
        cmocka_unit_test(removed_key_is_noticed_without_a_reload),
        cmocka_unit_test(removed_key_cannot_begin_again),
        cmocka_unit_test(known_key_that_may_not_come_here),
        cmocka_unit_test(wrong_key_of_the_listener),
    };

    return cmocka_run_group_tests_name("net_keys", tests, lab_group_begin, lab_group_end);
}
