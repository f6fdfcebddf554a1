/* The coordinator core and KV rows, by hand: who is told to take which rows from whom when they move to
 * a new plan or are copied, and what is left of a plan that has broken. */
#include "tests/unit/coord_fixture.h"

#include <string.h>

/* ---- KV rows that move ----------------------------------------------------------------------- */

static const uint8_t request_id[16] = {9};

/* A request with a prompt of three tokens; its number. */
static uint64_t ask(void)
{
    static const int32_t tokens[] = {5, 6, 7};
    const struct net_msg m = {.code = NET_MSG_SUBMIT,
                              .u.SUBMIT = {.version = NET_CLIENT_VERSION,
                                           .id = request_id,
                                           .n = 40,
                                           .top_p = 1,
                                           .repeat_penalty = 1,
                                           .prompt = {(const uint8_t *)"abc", 3}}};
    step((struct coord_event){.type = COORD_EV_CLIENT, .client = 9, .msg = &m});
    step((struct coord_event){.type = COORD_EV_READ,
                              .ok = true,
                              .serial = 1,
                              .tokens = tokens,
                              .n_tokens = 3,
                              .prompt_bytes = 3});
    assert_non_null(told(2, NET_MSG_OPEN));
    return told(2, NET_MSG_OPEN)->u.OPEN.request;
}

static void token(uint64_t epoch, uint64_t number, uint32_t position)
{
    uint8_t request[8], at[4], id[4];
    net_put_u64(request, 0, number);
    net_put_u32(at, 0, position);
    net_put_u32(id, 0, 8);
    says(3, (struct net_msg){.code = NET_MSG_TOKENS,
                             .u.TOKENS = {epoch, {request, 1}, {at, 1}, {id, 1}}});
}

static void has(uint64_t epoch, uint32_t node, uint32_t round)
{
    says(node, (struct net_msg){.code = NET_MSG_PREPARED,
                                .u.PREPARED = {.epoch = epoch, .state = 1, .round = round}});
}

struct part {
    const char *donor;
    uint32_t layer0, layer1, head0, head1;
};

static void inherits(uint32_t node, uint32_t round, uint32_t first, uint32_t end,
                     const struct part *parts, uint32_t n)
{
    const struct net_msg *m = told(node, NET_MSG_INHERIT);
    assert_non_null(m);
    assert_true(net_msg_bytes(m) > 0);
    const struct net_msg_INHERIT *p = &m->u.INHERIT;
    assert_int_equal(p->round, round);
    is_list(p->slots, 1, (const uint32_t[]){0});
    is_list(p->first, 1, &first);
    is_list(p->end, 1, &end);
    assert_int_equal(p->donors.n, n);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(base_span_is(net_str_at(p->donors, i), parts[i].donor));
        assert_int_equal(net_u32_at(p->layer0, i), parts[i].layer0);
        assert_int_equal(net_u32_at(p->layer1, i), parts[i].layer1);
        assert_int_equal(net_u32_at(p->head0, i), parts[i].head0);
        assert_int_equal(net_u32_at(p->head1, i), parts[i].head1);
    }
}

/* w1 and w3 take over all layers; four query heads share a KV head, of which w2 has both, w0 and w3
 * one each, and w1 both. */
static void two_are_left(void)
{
    memset(&plan, 0, sizeof plan);
    plan.n_stages = 1;
    plan.latency_s = 0.02;
    plan.stages[0] =
        (struct part_stage){0, 6, PART_STAR, 2, {{1, 0, 2, 0, 4, 0, 5}, {3, 2, 4, 4, 4, 5, 5}}};
}

static void test_rows_go_where_they_are_needed(void **state)
{
    static const struct part of_1[] = {{"w2", 0, 4, 0, 1}, {"w1", 4, 6, 0, 1}},
                             of_3[] = {{"w2", 0, 4, 1, 2}, {"w1", 4, 6, 1, 2}};
    (void)state;
    const uint64_t epoch = serve(), number = ask();
    token(epoch, number, 3);
    drain("w2", 1);
    two_are_left();
    answer();
    const uint64_t next = told(1, NET_MSG_PLAN)->u.PLAN.epoch;
    has(next, 1, 0);
    token(epoch, number, 4); /* the plan in force serves */
    has(next, 3, 0);
    inherits(1, 1, 0, 4, of_1, 2);
    inherits(3, 1, 0, 4, of_3, 2);
    for (uint32_t position = 5; position < 10; position++)
        token(epoch, number, position);
    has(next, 1, 1);
    has(next, 3, 0); /* old news */
    assert_true(coord_core_epoch(core) == epoch);
    has(next, 3, 1);
    inherits(1, 2, 4, 9, of_1, 2);
    token(epoch, number, 10);
    has(next, 3, 2);
    has(next, 1, 2);
    /* One row more is not worth a round; the last one begins with the next token. */
    assert_true(coord_core_epoch(core) == epoch);
    token(epoch, number, 11);
    inherits(1, 3, 9, 11, of_1, 2);
    has(next, 3, 3);
    has(next, 1, 3);
    assert_true(coord_core_epoch(core) == next);
    assert_non_null(told(2, NET_MSG_COMMIT));
    const struct net_msg_OPEN *o = &told(1, NET_MSG_OPEN)->u.OPEN;
    assert_int_equal(o->slot, 0);
    assert_int_equal(o->start, 11);
    assert_int_equal(o->tokens.n, 12);
    assert_true(o->request != number);
    token(next, o->request, 12);
    assert_true(logged("resumed order=1 pause_ms=") && logged(" rows=12 run=1"));
}

/* Who cannot take rows is left out, and the plan in force serves on; who had them and dies takes
 * nothing but time. */
static void test_a_move_that_fails(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        const uint64_t epoch = serve(), number = ask();
        token(epoch, number, 3);
        drain("w2", 1);
        two_are_left();
        answer();
        const uint64_t next = told(1, NET_MSG_PLAN)->u.PLAN.epoch;
        has(next, 1, 0);
        has(next, 3, 0);
        assert_non_null(told(1, NET_MSG_INHERIT));
        if (k == 0) {
            says(3, (struct net_msg){.code = NET_MSG_PREPARED,
                                     .u.PREPARED = {.epoch = next,
                                                    .state = 2,
                                                    .reason = base_span_str("it is gone")}});
            assert_true(coord_core_epoch(core) == epoch);
            token(epoch, number, 4);
            /* What is to be empty becomes so, however much slower that is. */
            for (int64_t until = now_ms + 2100; now_ms < until;)
                step((struct coord_event){.type = COORD_EV_TICK});
            plan.stages[0].n_members = 1;
            plan.stages[0].members[0] = (struct part_member){1, 0, 4, 0, 4, 0, 5};
            answer();
            assert_non_null(told(1, NET_MSG_PLAN));
        } else {
            step((struct coord_event){.type = COORD_EV_NODE_DOWN, .node = 2, .reason = "power"});
            assert_true(coord_core_epoch(core) == next);
            assert_int_equal(told(1, NET_MSG_OPEN)->u.OPEN.start, 0);
            assert_int_equal(told(1, NET_MSG_OPEN)->u.OPEN.tokens.n, 4);
        }
        teardown(NULL);
        setup(NULL);
    }
}

/* Time passes, and everybody is heard who is there. */
static void pass_ms(int64_t ms)
{
    const struct net_msg m = {.code = NET_MSG_ASK, .u.ASK = {.id = request_id}};
    now_ms += ms;
    step((struct coord_event){.type = COORD_EV_CLIENT, .client = 9, .msg = &m});
    for (uint32_t i = 0; i < N_WORKERS; i++)
        says(i, (struct net_msg){.code = NET_MSG_BEAT, .u.BEAT = {.nonce = 1}});
}

/* No request has a slot in the moment in which a plan begins. That is not the time to test links, however
 * long ago the last test is: the requests come back at once. */
static void test_links_rest_when_a_plan_begins(void **state)
{
    (void)state;
    const uint64_t epoch = serve();
    coordinators_links();
    const uint64_t number = ask();
    config.remeasure_ms = 5000;
    step((struct coord_event){.type = COORD_EV_CONFIG, .config = &config});
    step((struct coord_event){.type = COORD_EV_PLANNED, .serial = serial, .reason = "no"});
    token(epoch, number, 3);
    pass_ms(6000);
    drain("w2", 1);
    two_are_left();
    answer();
    const uint64_t next = told(1, NET_MSG_PLAN)->u.PLAN.epoch;
    for (uint32_t round = 0; round < 2; round++) {
        has(next, 1, round);
        has(next, 3, round);
    }
    token(epoch, number, 4);
    has(next, 1, 2);
    has(next, 3, 2);
    assert_true(coord_core_epoch(core) == next);
    for (uint32_t i = 0; i < N_WORKERS; i++)
        assert_null(told(i, NET_MSG_TEST_LINK));
}

/* ---- KV rows that are copied ----------------------------------------------------------------- */

static void report_memory(const uint64_t free[N_WORKERS])
{
    for (uint32_t i = 0; i < N_WORKERS; i++)
        says(i,
             (struct net_msg){.code = NET_MSG_REPORT, .u.REPORT = {.memory_free = free[i]}});
}

/* A request with three rows, under a plan whose keepers have been found among those with memory: each
 * worker's is the next in the order w2, w0, w3, w1. */
static uint64_t serve_with_keepers(const uint64_t free[N_WORKERS], uint64_t *number)
{
    const uint64_t epoch = serve();
    config.checkpoint = 4;
    config.policy = NET_STATIC;
    step((struct coord_event){.type = COORD_EV_CONFIG, .config = &config});
    step((struct coord_event){.type = COORD_EV_PLANNED, .serial = serial, .reason = "no"});
    report_memory(free);
    pass_ms(2000);
    *number = ask();
    token(epoch, *number, 3);
    return epoch;
}

static const struct net_msg_CHECKPOINT *checkpoint_of(uint32_t node)
{
    const struct net_msg *m = told(node, NET_MSG_CHECKPOINT);
    assert_non_null(m);
    assert_true(net_msg_bytes(m) > 0);
    return &m->u.CHECKPOINT;
}

static void is_checkpoint(uint32_t node, uint32_t begins, const struct part *share, uint32_t first,
                          uint32_t end)
{
    const struct net_msg_CHECKPOINT *p = checkpoint_of(node);
    assert_true(base_span_is(p->owner, share->donor));
    assert_int_equal(p->begins, begins);
    assert_int_equal(p->layer0, share->layer0);
    assert_int_equal(p->layer1, share->layer1);
    assert_int_equal(p->head0, share->head0);
    assert_int_equal(p->head1, share->head1);
    assert_int_equal(p->slot, 0);
    assert_int_equal(p->first, first);
    assert_int_equal(p->end, end);
}

static void has_copied(uint64_t epoch, uint32_t node, uint32_t round, const char *why)
{
    says(node, (struct net_msg){.code = NET_MSG_CHECKPOINTED,
                                .u.CHECKPOINTED = {epoch, round, base_span_str(why)}});
}

static const uint64_t plenty[N_WORKERS] = {1 << 30, 1 << 30, 1 << 30, 1 << 30};

/* w2 has both KV heads of the first four layers, w0 the second of them; of the others w3 has the first
 * and w1 both. */
static void test_rows_are_copied(void **state)
{
    static const struct part of_0 = {"w2", 0, 4, 0, 2}, of_3 = {"w0", 0, 4, 1, 2},
                             of_1 = {"w3", 4, 6, 0, 1}, of_2 = {"w1", 4, 6, 0, 2};
    uint64_t number;
    (void)state;
    const uint64_t epoch = serve_with_keepers(plenty, &number);
    assert_null(told(0, NET_MSG_CHECKPOINT));
    token(epoch, number, 4);
    is_checkpoint(0, 1, &of_0, 0, 4);
    is_checkpoint(3, 1, &of_3, 0, 4);
    is_checkpoint(1, 1, &of_1, 0, 4);
    is_checkpoint(2, 1, &of_2, 0, 4);
    const uint32_t round = checkpoint_of(0)->round;
    for (uint32_t position = 5; position < 8; position++)
        token(epoch, number, position);
    /* One at a time, and nine times as long nothing. */
    now_ms += 95;
    has_copied(epoch, 0, round + 1, "");
    token(epoch, number, 8);
    assert_null(told(0, NET_MSG_CHECKPOINT));
    has_copied(epoch, 0, round, "");
    pass_ms(850);
    assert_null(told(0, NET_MSG_CHECKPOINT));
    now_ms += 200;
    step((struct coord_event){.type = COORD_EV_TICK});
    is_checkpoint(0, 0, &of_0, 4, 8);
    /* Who cannot is not asked again soon. */
    has_copied(epoch, 0, checkpoint_of(0)->round, "it has no room");
    assert_int_equal(checkpoint_of(0)->owner.len, 0);
    pass_ms(2000);
    token(epoch, number, 9);
    assert_null(told(0, NET_MSG_CHECKPOINT));
}

/* The rows that all four have copied go to a plan without w2: of its heads the first is only with w0,
 * which has the copy. What fails or falls silent is run again. */
static void test_a_copy_stands_in_for_the_lost(void **state)
{
    static const struct part of_1[] = {{"w0", 0, 4, 0, 1}, {"w1", 4, 6, 0, 1}},
                             of_3[] = {{"w0", 0, 4, 1, 2}, {"w1", 4, 6, 1, 2}};
    (void)state;
    for (int k = 0; k < 5; k++) {
        uint64_t number;
        const uint64_t epoch = serve_with_keepers(plenty, &number);
        token(epoch, number, 4);
        const uint32_t round = checkpoint_of(0)->round;
        token(epoch, number, 5);
        if (k != 4) /* otherwise on their way */
            has_copied(epoch, 0, round, "");
        step((struct coord_event){.type = COORD_EV_NODE_DOWN, .node = 2, .reason = "power"});
        assert_true(coord_core_epoch(core) == 0);
        if (k == 1)
            step((struct coord_event){.type = COORD_EV_NODE_DOWN, .node = 0, .reason = "power"});
        pass_ms(300);
        two_are_left();
        answer();
        const uint64_t next = told(1, NET_MSG_PLAN)->u.PLAN.epoch;
        has(next, 1, 0);
        has(next, 3, 0);
        if (k == 0 || k == 2 || k == 3) {
            inherits(1, 1, 0, 4, of_1, 2);
            inherits(3, 1, 0, 4, of_3, 2);
            assert_true(told(1, NET_MSG_INHERIT)->u.INHERIT.from == epoch);
            has(next, 1, 1);
            assert_true(coord_core_epoch(core) == 0);
        }
        if (k == 0) {
            has(next, 3, 1);
        } else if (k == 2) {
            says(3, (struct net_msg){.code = NET_MSG_PREPARED,
                                     .u.PREPARED = {.epoch = next, .state = 2, .round = 1}});
            answer(); /* it is asked at once, and nobody is left out */
            assert_non_null(told(3, NET_MSG_PLAN));
            has(told(3, NET_MSG_PLAN)->u.PLAN.epoch, 1, 0);
            has(next + 1, 3, 0);
        } else if (k == 3) {
            pass_ms(400);
            for (uint32_t i = 0; i < 60 && coord_core_epoch(core) == 0; i++) {
                now_ms += 100;
                says(i % N_WORKERS, (struct net_msg){.code = NET_MSG_BEAT, .u.BEAT = {.nonce = 1}});
            }
        }
        assert_true(coord_core_epoch(core) == next + (k == 2 ? 1 : 0));
        const struct net_msg_OPEN *o = &told(1, NET_MSG_OPEN)->u.OPEN;
        assert_int_equal(o->start, k == 0 ? 4 : 0);
        assert_int_equal(o->tokens.n, 6);
        teardown(NULL);
        setup(NULL);
    }
}

/* Copies are for memory that nobody needs. */
static void test_memory_goes_before_copies(void **state)
{
    uint64_t free[N_WORKERS] = {1 << 30, 4096, 1 << 30, 1 << 30}, number;
    (void)state;
    const uint64_t epoch = serve_with_keepers(free, &number);
    token(epoch, number, 4);
    assert_null(told(1, NET_MSG_CHECKPOINT));
    assert_true(base_span_is(checkpoint_of(2)->owner, "w3"));
    const uint32_t round = checkpoint_of(0)->round;
    has_copied(epoch, 0, round, "");
    assert_null(told(0, NET_MSG_CHECKPOINT));
    /* Four rows of two heads in four layers take 3200 bytes. */
    says(0, (struct net_msg){.code = NET_MSG_REPORT, .u.REPORT = {.memory_free = 3000}});
    assert_true(coord_core_epoch(core) == epoch);
    assert_true(logged("checkpoint name=w2 given_up=w0 reason=\"memory runs short\""));
    assert_int_equal(checkpoint_of(0)->owner.len, 0);
    /* w1 has some by now, and w2 nobody. */
    bool found = false;
    for (uint32_t i = 0; i < 60 && !found; i++) {
        now_ms += 100;
        says(i % 4, (struct net_msg){.code = NET_MSG_REPORT, .u.REPORT = {.memory_free = 1 << 30}});
        assert_false(logged("keeper=w0"));
        found = logged("checkpoint name=w2 keeper=w1");
    }
    assert_true(found);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_rows_go_where_they_are_needed),
        TEST(test_a_move_that_fails),
        TEST(test_links_rest_when_a_plan_begins),
        TEST(test_rows_are_copied),
        TEST(test_a_copy_stands_in_for_the_lost),
        TEST(test_memory_goes_before_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
