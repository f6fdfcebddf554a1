/* The coordinator core and a plan of teams, by hand: who is told what, that a plan comes into force
 * when its last member is ready and goes with any of them, and what status says. The simulator does
 * the same with everything at once; here each sentence has its own line. */
#include "tests/unit/coord_fixture.h"

#include <stdio.h>
#include <string.h>

static const struct coord_action *manifest_of(uint32_t node)
{
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == COORD_ACT_MANIFEST && actions.list[i].node == node)
            return &actions.list[i];
    return NULL;
}

static void test_members_are_told(void **state)
{
    (void)state;
    meet();
    assert_true(serial != 0);
    two_teams();
    answer();
    const struct net_msg *m = told(0, NET_MSG_PLAN);
    assert_non_null(m);
    const struct net_msg_PLAN *p = &m->u.PLAN;
    assert_true(net_msg_bytes(m) > 0); /* it can be sent */
    assert_int_equal(p->n_stages, 2);
    assert_int_equal(p->stage, 0);
    assert_int_equal(p->member, 1);
    assert_int_equal(p->layer0, 0);
    assert_int_equal(p->layer1, 4);
    assert_int_equal(p->mesh, 1);
    assert_int_equal(p->wire, NET_SUMS_F16);
    assert_int_equal(p->output_first, 0);
    assert_int_equal(p->chunk, 32);
    assert_true(p->ring.n == 2 && base_span_is(net_str_at(p->ring, 0), "w2") &&
                base_span_is(net_str_at(p->ring, 1), "w3"));
    assert_true(p->team.n == 2 && base_span_is(net_str_at(p->team, 0), "w2") &&
                base_span_is(net_str_at(p->team, 1), "w0"));
    is_list(p->ports, 2, (const uint32_t[]){9002, 9000});
    is_list(p->heads, 3, (const uint32_t[]){0, 3, 4});
    is_list(p->columns, 3, (const uint32_t[]){0, 4, 4});
    is_list(p->runs, 3, (const uint32_t[]){0, 0, 0});
    assert_int_equal(p->n_pieces, 1 + 4 * 1);
    /* Leaders embed and norm, others hold runs without. */
    assert_int_equal(told(2, NET_MSG_PLAN)->u.PLAN.n_pieces, 1 + 4 * (3 + 40) + 1000);
    assert_int_equal(told(3, NET_MSG_PLAN)->u.PLAN.n_pieces, 1 + 2 * (1 + 40) + 2000 + 20000);
    p = &told(1, NET_MSG_PLAN)->u.PLAN;
    assert_int_equal(p->n_pieces, 1 + 2 * 3 + 30000);
    assert_int_equal(p->mesh, 0);
    is_list(p->ports, 2, (const uint32_t[]){9003, 9001});
    is_list(p->runs, 3, (const uint32_t[]){0, 2, 5});
    assert_true(base_span_is(net_str_at(p->team, 0), "w3"));
    const struct coord_action *f = manifest_of(1);
    assert_non_null(f);
    assert_int_equal(f->shard.layer0, 4);
    assert_int_equal(f->shard.part.head0, 1);
    assert_int_equal(f->shard.part.head1, 4);
    assert_false(f->shard.embed || f->shard.output);
    assert_true(manifest_of(3)->shard.output && manifest_of(2)->shard.embed);
    assert_true(logged("planned name=w0 stage=0 layers=0-3 team=mesh heads=2 columns=0 runs=0"));
    assert_true(logged("planned name=w3 stage=1 layers=4-5 team=star heads=2 columns=250 runs=2"));
}

static void test_the_last_member_commits(void **state)
{
    (void)state;
    serve();
}

static void test_any_member_ends_it(void **state)
{
    (void)state;
    serve();
    step((struct coord_event){.type = COORD_EV_NODE_DOWN, .node = 1, .reason = "power"});
    assert_true(coord_core_epoch(core) == 0);
    assert_true(logged("worker w1 was lost (power)"));
}

static void test_a_link_within_a_team_ends_it(void **state)
{
    (void)state;
    const uint64_t epoch = serve();
    says(0, (struct net_msg){.code = NET_MSG_LINK_LOST,
                             .u.LINK_LOST = {epoch, base_span_str("w2"), base_span_str("silent")}});
    assert_true(coord_core_epoch(core) == 0);
    assert_true(logged("the link between w0 and w2 broke: silent"));
}

static void test_a_member_that_fails_is_left_out(void **state)
{
    (void)state;
    meet();
    two_teams();
    answer();
    const uint64_t epoch = told(0, NET_MSG_PLAN)->u.PLAN.epoch;
    ready(2, epoch);
    says(0, (struct net_msg){
                .code = NET_MSG_PREPARED,
                .u.PREPARED = {.epoch = epoch, .state = 2, .reason = base_span_str("no memory")}});
    assert_true(logged("prepare_failed name=w0"));
    ready(1, epoch);
    ready(3, epoch);
    assert_true(coord_core_epoch(core) == 0);
}

/* The same shares in another shape, or other shares, are another plan; the same are not. */
static void test_what_is_another_plan(void **state)
{
    (void)state;
    serve();
    for (int change = 0; change < 4; change++) {
        two_teams();
        plan.latency_s = 0.001;
        if (change == 1)
            plan.stages[0].shape = PART_STAR;
        if (change == 2)
            plan.stages[0].members[0].head1 = plan.stages[0].members[1].head0 = 2;
        if (change == 3)
            plan.output_first = true;
        now_ms += 600;
        step((struct coord_event){.type = COORD_EV_CONFIG, .config = &config});
        answer();
        assert_int_equal(told(0, NET_MSG_PLAN) != NULL, change > 0);
        if (change > 0) { /* not ready: given up, so that the next change is asked about */
            says(2, (struct net_msg){.code = NET_MSG_PREPARED,
                                     .u.PREPARED = {.epoch = told(0, NET_MSG_PLAN)->u.PLAN.epoch,
                                                    .state = 2,
                                                    .reason = base_span_str("no")}});
            for (int beat = 0; beat < 62; beat++) {
                now_ms += 500;
                for (uint32_t i = 0; i < N_WORKERS; i++)
                    says(i, (struct net_msg){.code = NET_MSG_BEAT});
            }
        }
    }
}

/* So much time passes, with signs of life; the step in which a link test is asked for is kept. */
static bool waits_for_test(int64_t ms, uint32_t *node, char *peer)
{
    for (const int64_t end_ms = now_ms + ms; now_ms < end_ms;) {
        now_ms += 400;
        for (uint32_t i = 0; i < N_WORKERS; i++) {
            says(i, (struct net_msg){.code = NET_MSG_BEAT});
            for (*node = 0; *node < N_WORKERS; ++*node) {
                const struct net_msg *m = told(*node, NET_MSG_TEST_LINK);
                if (m == NULL)
                    continue;
                assert_int_equal(m->u.TEST_LINK.bytes, 524288);
                snprintf(peer, NET_NAME_MAX, "%.*s", (int)m->u.TEST_LINK.peer.len,
                         (const char *)m->u.TEST_LINK.peer.ptr);
                return true;
            }
        }
    }
    return false;
}

static bool asks_for_a_plan(uint32_t node, const char *peer, double rtt, double up)
{
    const uint64_t before = serial;
    says(node, (struct net_msg){.code = NET_MSG_LINK_TESTED,
                                .u.LINK_TESTED = {base_span_str(peer), rtt, up, 0,
                                                  base_span_str(rtt > 0 ? "" : "it stood still")}});
    return serial != before;
}

/* A coordinator that stood still for long blames nobody for that, but whoever is silent thereafter. */
static void test_standing_still_is_nobodys_silence(void **state)
{
    (void)state;
    const uint64_t epoch = serve();
    now_ms += 10000;
    step((struct coord_event){.type = COORD_EV_TICK});
    assert_true(coord_core_epoch(core) == epoch);
    for (int i = 0; i < 8; i++) {
        now_ms += 400;
        step((struct coord_event){.type = COORD_EV_TICK});
        assert_true(coord_core_epoch(core) == (i < 7 ? epoch : 0));
    }
}

static void test_links_are_measured_again(void **state)
{
    uint32_t node;
    char peer[NET_NAME_MAX];
    (void)state;
    serve();
    coordinators_links();
    assert_false(waits_for_test(70000, &node, peer)); /* the key is 0 */
    config.remeasure_ms = 60000;
    step((struct coord_event){.type = COORD_EV_CONFIG, .config = &config});
    /* That long ago is the last measurement: at once. */
    assert_true(base_span_is(told(0, NET_MSG_TEST_LINK)->u.TEST_LINK.peer, "w1"));
    step((struct coord_event){.type = COORD_EV_PLANNED, .serial = serial, .reason = "no"});
    assert_false(asks_for_a_plan(0, "w1", 1.1e-3, 0.9e8));
    const struct coord_profile *p = coord_core_profile(core);
    assert_true(p->rtt[0][1] > 1.04e-3 && p->rtt[1][0] < 1.06e-3);
    assert_false(waits_for_test(50000, &node, peer));
    assert_true(waits_for_test(20000, &node, peer));
    assert_string_equal(peer, "w2");
    /* One that fails keeps its numbers. */
    assert_false(asks_for_a_plan(node, peer, 0, 0));
    assert_true(p->rtt[0][2] > 0.9e-3 && p->rtt[0][2] < 1.1e-3);
    assert_true(waits_for_test(70000, &node, peer));
    assert_true(asks_for_a_plan(node, peer, 1e-3, 0.5e8));
    /* What the plan in force costs by today's numbers is what another one has to beat. */
    two_teams();
    plan.stages[0].shape = PART_STAR;
    plan.latency_s = 0.0099;
    answer();
    assert_null(told(0, NET_MSG_PLAN));
    step((struct coord_event){.type = COORD_EV_CONFIG, .config = &config});
    now_latency_s = 0.02;
    answer();
    assert_non_null(told(0, NET_MSG_PLAN));
}

/* When the ring has broken and its workers are there, they get the plan whose pieces they have,
 * unless another is better by 5 % or it breaks a rule by now. */
static void test_the_plan_before_is_as_good(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        serve();
        says(2, (struct net_msg){.code = NET_MSG_LINK_LOST,
                                 .u.LINK_LOST = {coord_core_epoch(core), base_span_str("w3"),
                                                 base_span_str("it broke")}});
        assert_true(coord_core_epoch(core) == 0);
        for (int64_t until = now_ms + 1000; now_ms < until;)
            step((struct coord_event){.type = COORD_EV_TICK});
        two_teams();
        plan.latency_s = k == 1 ? 0.009 : 0.0099;
        plan.stages[1].members[0].run1 = plan.stages[1].members[1].run0 = 4;
        now_latency_s = k == 2 ? 0 : 0.01;
        now_fits = k != 3;
        answer();
        is_list(told(1, NET_MSG_PLAN)->u.PLAN.runs, 3,
                k == 0 ? (const uint32_t[]){0, 2, 5} : (const uint32_t[]){0, 4, 5});
        teardown(NULL);
        setup(NULL);
    }
}

static const struct net_msg_STATUS *status(void)
{
    const struct net_msg ask = {.code = NET_MSG_ASK_STATUS, .u.ASK_STATUS = {NET_CLIENT_VERSION}};
    step((struct coord_event){.type = COORD_EV_CLIENT, .client = 9, .msg = &ask});
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == COORD_ACT_CLIENT && actions.list[i].msg.code == NET_MSG_STATUS)
            return &actions.list[i].msg.u.STATUS;
    fail();
    return NULL;
}

/* A better plan that takes more to move to than it brings is left, unless something forces the move. */
static void test_a_move_has_a_price(void **state)
{
    enum { NOTHING, DEAR, FORCED, DRAINED, HAS_TO };
    (void)state;
    for (int k = NOTHING; k <= HAS_TO; k++) {
        struct net_config other;
        serve();
        other = config;
        other.objective = k == FORCED ? 0.5 : 0;
        if (k == DRAINED)
            drain("w1", 1);
        else
            step((struct coord_event){.type = COORD_EV_CONFIG, .config = &other});
        two_teams();
        plan.stages[0].shape = PART_STAR;
        now_latency_s = 0.02;
        now_fits = k != HAS_TO;
        move_cost.ship_s = k == NOTHING ? 0 : 100;
        answer();
        assert_true((told(0, NET_MSG_PLAN) != NULL) == (k != DEAR));
        assert_true(logged("which brings -100.0 % more tokens") == (k == DEAR));
        const struct net_msg_STATUS *s = status();
        assert_true((s->stays.len > 0) == (k == DEAR));
        /* By today's numbers, though nothing has changed. */
        assert_true(k != DEAR || (s->ms_predicted > 19.9 && s->ms_predicted < 20.1));
        teardown(NULL);
        setup(NULL);
    }
}

static void test_a_drain_that_cannot_be(void **state)
{
    (void)state;
    const uint64_t epoch = serve();
    drain("w7", 1);
    assert_int_equal(actions.list[0].msg.code, NET_MSG_NO);
    drain("w2", 1);
    step((struct coord_event){.type = COORD_EV_PLANNED, .serial = serial, .reason = "too small"});
    assert_true(coord_core_epoch(core) == epoch);
    const struct net_msg m = {.code = NET_MSG_ASK_STATUS, .u.ASK_STATUS = {NET_CLIENT_VERSION}};
    step((struct coord_event){.type = COORD_EV_CLIENT, .client = 9, .msg = &m});
    const struct net_msg_STATUS_NODE *n = &actions.list[2].msg.u.STATUS_NODE;
    assert_true(base_span_is(n->name, "w2") && base_span_is(n->state, "serving"));
    assert_true(base_span_is(n->last_error, "cannot be drained: too small"));
    /* And nobody is asked again. */
    const uint64_t before = serial;
    for (int64_t until = now_ms + 3000; now_ms < until; now_ms += 200)
        step((struct coord_event){.type = COORD_EV_TICK});
    assert_true(serial == before);
}

static void test_status_counts(void **state)
{
    static const struct {
        uint32_t stage, member, mesh, heads, columns;
    } want[N_WORKERS] = {{0, 1, 1, 2, 0}, {1, 1, 0, 6, 0}, {0, 0, 1, 6, 250}, {1, 0, 0, 2, 250}};
    uint32_t n = 0;
    (void)state;
    serve();
    (void)status();
    for (uint32_t i = 0; i < actions.n; i++) {
        const struct net_msg *m = &actions.list[i].msg;
        if (actions.list[i].type != COORD_ACT_CLIENT || m->code != NET_MSG_STATUS_NODE)
            continue;
        assert_int_equal(m->u.STATUS_NODE.members, 2);
        assert_int_equal(m->u.STATUS_NODE.stage, want[n].stage);
        assert_int_equal(m->u.STATUS_NODE.member, want[n].member);
        assert_int_equal(m->u.STATUS_NODE.mesh, want[n].mesh);
        assert_int_equal(m->u.STATUS_NODE.heads, want[n].heads);
        assert_int_equal(m->u.STATUS_NODE.columns, want[n++].columns);
    }
    assert_int_equal(n, N_WORKERS);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_members_are_told),
        TEST(test_the_last_member_commits),
        TEST(test_any_member_ends_it),
        TEST(test_a_link_within_a_team_ends_it),
        TEST(test_a_member_that_fails_is_left_out),
        TEST(test_what_is_another_plan),
        TEST(test_links_are_measured_again),
        TEST(test_standing_still_is_nobodys_silence),
        TEST(test_the_plan_before_is_as_good),
        TEST(test_a_move_has_a_price),
        TEST(test_a_drain_that_cannot_be),
        TEST(test_status_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
