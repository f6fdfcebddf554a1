/* When the policy asks for another plan, and what it has the planner know: reports of two stages whose
 * passes take so many times as long as predicted. */
#include "coordinator/core_private.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { REPORT_MS = 1000, DWELL_MS = 30000, PASSES = 10, NEVER = 10000 };

static struct coord_core *core;
static struct coord_actions actions;
static struct net_msg_REPORT last[3];

static int setup(void **state)
{
    static struct net_config config;
    static const struct coord_model model = {.n_layers = 4, .n_vocab = 100, .context = 64};
    (void)state;
    config = (struct net_config){.slots = 4,
                                 .queue = 4,
                                 .heartbeat_ms = 500,
                                 .dead_ms = 3000,
                                 .report_ms = REPORT_MS,
                                 .dwell_ms = DWELL_MS,
                                 .n_workers = 3};
    for (uint32_t i = 0; i < 3; i++) {
        config.workers[i].layer0 = config.workers[i].layer1 = -1;
        snprintf(config.workers[i].name, NET_NAME_MAX, "w%u", i);
    }
    assert_int_equal(coord_core_new(&config, &model, 1, 7700, &core, NULL), 0);
    core->now_ms = 50000;
    core->policy_ms = core->now_ms - DWELL_MS;
    for (uint32_t i = 0; i < 3; i++) {
        core->nodes[i].connected = true;
        core->profile.nodes[i].throttle = 0.3;
        core->profile.nodes[i].memory_bytes = 1000;
        last[i] = (struct net_msg_REPORT){.memory_free = 1000, .share = 0.3};
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    coord_core_free(core);
    return 0;
}

/* Two stages, the first of which is a team of w0 and w2; or that one alone. Ten milliseconds each. */
static void have_plan(uint32_t n_stages)
{
    core->now =
        (struct ring_plan){.epoch = 7, .stage_s = {0.010, 0.010}, .stage_batch_s = {0.010, 0.010}};
    core->now.plan.n_stages = n_stages;
    core->now.plan.stages[0] =
        (struct part_stage){0, 2, PART_STAR, 2, {{.device = 0}, {.device = 2}}};
    core->now.plan.stages[1] = (struct part_stage){2, 4, PART_STAR, 1, {{.device = 1}}};
}

static void report(uint32_t node, double ratio)
{
    struct net_msg_REPORT *m = &last[node];
    m->decode_passes += PASSES;
    m->decode_rows += PASSES;
    m->decode_us += (uint64_t)(PASSES * 10000 * ratio);
    actions.n = 0;
    coord_core_report(core, node, m);
    coord_core_policy(core, node, &actions);
}

/* One report of each: passes of the two stages take so many times the predicted time. True: a plan is
 * wanted. */
static bool second(double first, double other)
{
    report(2, 0);
    report(0, first);
    report(1, other);
    core->now_ms += REPORT_MS;
    return core->plan_wanted;
}

/* Reports until a plan is wanted, `most` at most and then NEVER. */
static int until_wanted(double first, double other, int most)
{
    for (int i = 1; i <= most; i++)
        if (second(first, other))
            return i;
    return NEVER;
}

static void calm(int reports)
{
    assert_int_equal(until_wanted(1, 1, reports), NEVER);
}

static void near(double a, double b)
{
    assert_true(fabs(a - b) < 1e-4 * fabs(b)); /* reports count whole microseconds */
}

/* The planner said that the plan in force is to stay. */
static void stay(void)
{
    core->plan_wanted = core->plan_by_policy = false;
}

static void the_less_a_stage_is_off_the_longer_it_takes(void **state)
{
    static const struct {
        double ratio;
        int least, most;
    } cases[] = {
        {10, 4, 4},           {3.3, 4, 5},     {2, 8, 10},        {1.5, 40, 50},
        {1.39, NEVER, NEVER}, {1 / 3.3, 4, 5}, {1 / 1.5, 40, 50}, {1 / 1.39, NEVER, NEVER}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        teardown(NULL);
        setup(NULL);
        have_plan(2);
        calm(20);
        const int n = until_wanted(cases[i].ratio, 1, 300);
        assert_true(n >= cases[i].least && n <= cases[i].most);
        if (n < NEVER)
            near(core->slower[0], cases[i].ratio);
        near(core->now.stage_s[0], n < NEVER ? 0.010 * cases[i].ratio : 0.010);
        /* The other stage has its numbers still, and the same news is not news twice. */
        assert_true(core->slower[1] <= 0 && core->now.stage_s[1] <= 0.010);
        stay();
        assert_int_equal(until_wanted(cases[i].ratio, 1, 300), NEVER);
    }
}

static void a_moment_is_forgotten(void **state)
{
    (void)state;
    have_plan(2);
    calm(20);
    for (int i = 0; i < 10; i++) { /* four seconds of twice the time, twice a minute */
        assert_int_equal(until_wanted(2, 1, 4), NEVER);
        calm(26);
    }
    assert_int_equal(until_wanted(3.3, 1, 3), NEVER);
    calm(10);
    assert_int_equal(until_wanted(3.3, 1, 3), NEVER);
    /* It was long enough, but is over: while the dwell lasts nothing may be asked. */
    core->policy_ms = core->now_ms;
    assert_int_equal(until_wanted(3.3, 1, 20), NEVER);
    calm(60);
}

static void noise_is_no_news(void **state)
{
    uint64_t draw = 1;
    (void)state;
    have_plan(2);
    for (int i = 0; i < 2000; i++) { /* each report by itself up to 1.5 times more or less */
        const double a = (double)(base_rng_next(&draw) >> 11) / 0x1p52 - 1,
                     b = (double)(base_rng_next(&draw) >> 11) / 0x1p52 - 1;
        assert_false(second(pow(1.5, a), pow(1.5, b)));
    }
}

static void what_slows_all_is_no_news(void **state)
{
    (void)state;
    have_plan(2);
    for (int i = 0; i < 600;
         i++) /* a text that grows, for which a board is a little slow as well */
        assert_false(second(0.7 + i * 0.004, 1.2 * (0.7 + i * 0.004)));
    assert_int_equal(until_wanted(1.8 * 2, 2, 6), NEVER); /* nor does it make a moment one */
    /* A board that has become slow is, and is known by how much: beside the other. */
    for (int i = 0; i < 10; i++)
        assert_false(second(2, 2));
    assert_in_range(until_wanted(6, 2, 20), 4, 8);
    near(core->slower[0], 3);
    near(core->slower[2], 3);
    assert_true(core->slower[1] <= 0);
}

static void one_stage_alone_is_held_against_its_prediction(void **state)
{
    (void)state;
    have_plan(1);
    calm(10);
    assert_true(until_wanted(3.3, 1, 10) <= 5);
    near(core->slower[0], 3.3);
    near(core->slower[2], 3.3);
    assert_true(core->slower[1] <= 0);
}

static void a_quota_says_who_is_slow(void **state)
{
    struct coord_profile today;
    (void)state;
    have_plan(2);
    calm(10);
    last[2].share = 0.09;
    assert_true(until_wanted(2.5, 1, 20) <= 8);
    near(core->slower[2], 0.3 / 0.09);
    assert_true(core->slower[0] <= 0 && core->slower[1] <= 0);
    coord_core_today(core, &today);
    near(today.nodes[2].throttle, 0.09);
    near(today.nodes[0].throttle, 0.3);
    /* Then the other member becomes slow for a reason that nobody knows: the quota is no news. */
    stay();
    core->now_ms += DWELL_MS;
    assert_int_equal(until_wanted(2.5, 1, 10), NEVER);
    assert_true(until_wanted(5, 1, 20) <= 10);
    near(core->slower[2], 2 * 0.3 / 0.09);
    near(core->slower[0], 2);
    /* And is given back. */
    stay();
    core->now_ms += DWELL_MS;
    last[2].share = 0.3;
    assert_true(until_wanted(1.5, 1, 20) <= 8);
    near(core->slower[2], 2);
    near(core->share[2], 0.3);
}

static void between_questions_lies_the_dwell(void **state)
{
    (void)state;
    have_plan(2);
    calm(10);
    assert_true(until_wanted(3.3, 1, 10) <= 5);
    stay();
    assert_int_equal(until_wanted(3.3 * 3.3, 1, DWELL_MS / REPORT_MS - 2), NEVER);
    assert_true(until_wanted(3.3 * 3.3, 1, 4) <= 4);
    /* Memory that runs short waits for a fifth of it. */
    stay();
    core->nodes[0].planned_bytes = 900;
    last[0].memory_free = 800;
    const int n = until_wanted(3.3 * 3.3, 1, 20);
    assert_true(n >= DWELL_MS / 5 / REPORT_MS - 2 && n <= DWELL_MS / 5 / REPORT_MS + 1);
}

static void what_was_learnt_counts_no_more(void **state)
{
    (void)state;
    core->config.dwell_ms = REPORT_MS;
    have_plan(2);
    calm(10);
    assert_true(until_wanted(3.3, 1, 10) <= 5);
    stay();
    assert_int_equal(until_wanted(2 * 3.3, 1, 4), NEVER);
    assert_true(until_wanted(2 * 3.3, 1, 10) <= 6);
}

static void memory_is_looked_at_ten_seconds_ahead(void **state)
{
    int n = 0;
    (void)state;
    have_plan(2);
    core->nodes[2].planned_bytes = 500;
    last[2].memory_free = 600;
    calm(30); /* what is enough and stays is enough */
    last[2].memory_free = 1000;
    calm(20);
    while (!second(1, 1) && n < 100) {
        last[2].memory_free -= 20;
        n++;
    }
    /* 700 are left ten seconds before 500 are. */
    assert_int_equal(n, 16);
}

static void who_is_static_never_asks(void **state)
{
    (void)state;
    core->config.policy = NET_STATIC;
    have_plan(2);
    core->nodes[0].planned_bytes = 2000;
    assert_int_equal(until_wanted(10, 1, 100), NEVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_less_a_stage_is_off_the_longer_it_takes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_moment_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(noise_is_no_news, setup, teardown),
        cmocka_unit_test_setup_teardown(what_slows_all_is_no_news, setup, teardown),
        cmocka_unit_test_setup_teardown(one_stage_alone_is_held_against_its_prediction, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_quota_says_who_is_slow, setup, teardown),
        cmocka_unit_test_setup_teardown(between_questions_lies_the_dwell, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_learnt_counts_no_more, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_is_looked_at_ten_seconds_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_static_never_asks, setup, teardown),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
