/* What the coordinator keeps of its workers' reports: rings that wrap, values that are out of range,
 * slopes, times against predictions, and the causes of losses. */
#include "coordinator/core_private.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SLOTS = 5, REPORT_MS = 1000 };
static const double MIB = 1048576;

static struct coord_core *core;
static struct coord_actions actions;

static int setup(void **state)
{
    static struct net_config config;
    static const struct coord_model model = {.n_layers = 4, .n_vocab = 100, .context = 64};
    (void)state;
    config = (struct net_config){.slots = SLOTS,
                                 .queue = 4,
                                 .heartbeat_ms = 500,
                                 .dead_ms = 3000,
                                 .report_ms = REPORT_MS,
                                 .n_workers = 2};
    for (uint32_t i = 0; i < 2; i++) {
        config.workers[i].layer0 = config.workers[i].layer1 = -1;
        snprintf(config.workers[i].name, NET_NAME_MAX, "w%u", i);
    }
    assert_int_equal(coord_core_new(&config, &model, 1, 7700, &core, NULL), 0);
    core->now_ms = 50000;
    core->nodes[0].connected = core->nodes[1].connected = true;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    coord_core_free(core);
    return 0;
}

/* Both workers lead a stage; the first should take 10 ms for a row and 18 ms for five. */
static void have_plan(uint64_t epoch)
{
    core->now = (struct ring_plan){.epoch = epoch,
                                   .stage_s = {0.010, 0.005},
                                   .stage_batch_s = {0.018, 0.005}};
    core->now.plan.n_stages = 2;
    core->now.plan.stages[0] = (struct part_stage){0, 2, PART_STAR, 1, {{.device = 0}}};
    core->now.plan.stages[1] = (struct part_stage){2, 4, PART_STAR, 1, {{.device = 1}}};
}

static struct net_msg_REPORT calm(uint64_t free_bytes)
{
    return (struct net_msg_REPORT){.memory_free = free_bytes,
                                   .memory_pressure = NET_UNKNOWN,
                                   .cpu_pressure = 1.5,
                                   .temperature = 61,
                                   .clock = NET_UNKNOWN,
                                   .battery = NET_UNKNOWN,
                                   .power = NET_UNKNOWN,
                                   .round_trip = 2};
}

static void report(const struct net_msg_REPORT *m)
{
    coord_core_report(core, 0, m);
    core->now_ms += REPORT_MS;
}

static void slopes_follow_memory(void **state)
{
    double bytes, slope;
    (void)state;
    assert_false(coord_core_memory(core, 0, &bytes, &slope));
    for (int i = 0; i < 2; i++) {
        const struct net_msg_REPORT m = calm((uint64_t)((1000 - 20 * i) * MIB));
        report(&m);
    }
    assert_true(coord_core_memory(core, 0, &bytes, &slope));
    assert_true(bytes == 980 * MIB);
    assert_true(slope == 0); /* two points are no trend */
    for (int i = 2; i < 100; i++) {
        const struct net_msg_REPORT m = calm((uint64_t)((3000 - 20 * i) * MIB));
        report(&m);
    }
    assert_true(coord_core_memory(core, 0, &bytes, &slope));
    assert_true(bytes == 1020 * MIB);
    assert_true(fabs(slope + 20 * MIB) < 1);
    /* An older rise is forgotten after ten seconds of rest. */
    for (int i = 0; i < 12; i++) {
        const struct net_msg_REPORT m = calm((uint64_t)(500 * MIB));
        report(&m);
    }
    assert_true(coord_core_memory(core, 0, &bytes, &slope));
    assert_true(fabs(slope) < 1);
    /* Nor is it a trend that the worker takes memory itself. */
    for (int i = 0; i < 12; i++) {
        struct net_msg_REPORT m = calm((uint64_t)((500 - 20 * i) * MIB));
        m.memory_own = (uint64_t)(20 * i * MIB);
        report(&m);
    }
    assert_true(coord_core_memory(core, 0, &bytes, &slope));
    assert_true(bytes == 500 * MIB && fabs(slope) < 1);
    /* A worker that reports no more is not known any more. */
    core->now_ms += 4 * REPORT_MS;
    assert_false(coord_core_memory(core, 0, &bytes, &slope));
    assert_null(coord_core_watched(core, 0));
    assert_false(coord_core_memory(core, 1, &bytes, &slope));
}

static void rings_wrap_and_are_forgotten(void **state)
{
    static double lists[3][WATCH_SAMPLES];
    (void)state;
    assert_int_equal(coord_core_history(core, 0, lists), 0);
    for (uint64_t i = 0; i < WATCH_SAMPLES + 10; i++) {
        const struct net_msg_REPORT m = calm(i == WATCH_SAMPLES + 8 ? UINT64_MAX : i);
        report(&m);
        assert_int_equal(coord_core_history(core, 0, lists),
                         i + 1 < WATCH_SAMPLES ? i + 1 : WATCH_SAMPLES);
    }
    for (uint32_t i = 0; i < WATCH_SAMPLES; i++)
        assert_true(lists[1][i] == (i == WATCH_SAMPLES - 2 ? NET_UNKNOWN : i + 10.0));
    coord_core_watch_forget(core, 0);
    assert_int_equal(coord_core_history(core, 0, lists), 0);
}

static void what_is_out_of_range_is_not_known(void **state)
{
    struct net_msg_REPORT m = calm(UINT64_MAX);
    double bytes, slope;
    (void)state;
    m.memory_pressure = 100.5;
    m.cpu_pressure = -3;
    m.temperature = 1e30;
    m.clock = 1.01;
    m.battery = -1e-9;
    m.power = -1e300;
    m.round_trip = -1;
    coord_core_report(core, 0, &m);
    const struct watch_sample *s = coord_core_watched(core, 0);
    assert_non_null(s);
    assert_true(isnan(s->memory_pressure) && isnan(s->cpu_pressure) && isnan(s->temperature));
    assert_true(isnan(s->clock) && isnan(s->battery) && isnan(s->power));
    assert_true(isnan(s->round_trip_ms) && isnan(s->ms) && isnan(s->ratio));
    assert_false(coord_core_memory(core, 0, &bytes, &slope));
    m = calm(1);
    coord_core_report(core, 0, &m);
    s = coord_core_watched(core, 0);
    assert_true(s->temperature >= 61 && s->temperature <= 61 && isnan(s->memory_pressure));
}

/* Counts of passes that went on by `passes` of `rows` rows and `ms` each. */
static void passes(struct net_msg_REPORT *m, uint64_t n, uint64_t rows, double ms)
{
    m->decode_passes += n;
    m->decode_rows += n * rows;
    m->decode_us += (uint64_t)((double)n * ms * 1000);
    report(m);
}

static void passes_are_held_against_the_plan(void **state)
{
    struct net_msg_REPORT m = calm(1);
    double n;
    (void)state;
    have_plan(7);
    passes(&m, 100, 1, 1000); /* what was before the first report is nobody's */
    assert_true(coord_core_slowness(core, 0, &n) == 0 && n == 0);
    passes(&m, 10, 1, 20);
    assert_true(fabs(coord_core_slowness(core, 0, &n) - 2) < 1e-9 && n == 10);
    /* Three rows lie half way to five: 14 ms. */
    passes(&m, 30, 3, 14);
    assert_true(fabs(coord_core_slowness(core, 0, &n) - 1.25) < 1e-9 && n == 40);
    passes(&m, 0, 0, 0);
    assert_true(fabs(coord_core_slowness(core, 0, &n) - 1.25) < 1e-9 && n == 40);
    /* Under the next plan, whose first report still tells of the plan before, all begins anew. */
    have_plan(8);
    assert_true(coord_core_slowness(core, 0, &n) == 0);
    passes(&m, 50, 1, 50);
    assert_true(coord_core_slowness(core, 0, &n) == 0);
    passes(&m, 4, 5, 9);
    assert_true(fabs(coord_core_slowness(core, 0, &n) - 0.5) < 1e-9 && n == 4);
    /* Counts that run backwards are a liar's or a new process's. */
    m.decode_us = 0;
    passes(&m, 1, 1, 1);
    assert_true(n == 4);
    /* What is older than ten seconds is not recent. */
    core->now_ms += 11000;
    assert_true(coord_core_slowness(core, 0, &n) == 0);
    /* No plan, no promise. */
    core->now.epoch = 0;
    passes(&m, 1, 1, 1);
    passes(&m, 1, 1, 1);
    assert_true(coord_core_slowness(core, 0, &n) == 0);
}

static void the_pace_is_that_of_the_last_seconds(void **state)
{
    static double history[WATCH_SAMPLES - 1];
    (void)state;
    assert_true(coord_core_pace(core, history) == 0);
    for (int i = 0; i < 40; i++) { /* four a second, for ten seconds */
        coord_core_pace_count(core);
        core->now_ms += 250;
    }
    assert_true(coord_core_pace(core, history) == 4);
    assert_true(history[WATCH_SAMPLES - 2] == 4 && history[WATCH_SAMPLES - 11] == 4);
    assert_true(history[WATCH_SAMPLES - 12] == 0);
    core->now_ms += 2000;
    assert_true(fabs(coord_core_pace(core, history) - 12.0 / 5) < 1e-9);
    core->now_ms += 1000000;
    assert_true(coord_core_pace(core, history) == 0);
    for (uint32_t i = 0; i < WATCH_SAMPLES - 1; i++)
        assert_true(history[i] == 0);
}

static const struct net_msg_STATUS_NODE *status_of(uint32_t node)
{
    const struct coord_event ask = {
        .type = COORD_EV_CLIENT,
        .client = 1,
        .now_ms = core->now_ms,
        .msg = &(const struct net_msg){.code = NET_MSG_ASK_STATUS,
                                       .u.ASK_STATUS = {NET_CLIENT_VERSION}}};
    coord_core_step(core, &ask, &actions);
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == COORD_ACT_CLIENT &&
            actions.list[i].msg.code == NET_MSG_STATUS_NODE &&
            base_span_is(actions.list[i].msg.u.STATUS_NODE.name, node == 0 ? "w0" : "w1"))
            return &actions.list[i].msg.u.STATUS_NODE;
    fail();
    return NULL;
}

static void a_lost_worker_has_its_cause(void **state)
{
    const struct net_msg_REPORT m = calm(12345);
    (void)state;
    core->nodes[0].heard_ms = core->nodes[1].heard_ms = core->now_ms;
    coord_core_report(core, 0, &m);
    const struct net_msg_STATUS_NODE *s = status_of(0);
    assert_int_equal(s->memory_free, 12345);
    assert_int_equal(s->memory_then.n, 1);
    assert_int_equal(s->last_error.len, 0);
    assert_true(s->memory_pressure <= NET_UNKNOWN && s->temperature >= 61);
    const struct coord_event down = {.type = COORD_EV_NODE_DOWN,
                                     .node = 0,
                                     .now_ms = core->now_ms,
                                     .reason = "the connection broke"};
    coord_core_step(core, &down, &actions);
    core->now_ms += 2000;
    core->nodes[1].heard_ms = core->now_ms;
    s = status_of(0);
    assert_true(base_span_is(s->last_error, "the connection broke"));
    assert_int_equal(s->error_ms, 2000);
    assert_int_equal(s->lost, 1);
    assert_true(s->memory_free == UINT64_MAX && s->temperature <= NET_UNKNOWN);
    assert_int_equal(status_of(1)->lost, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(slopes_follow_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(rings_wrap_and_are_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_out_of_range_is_not_known, setup, teardown),
        cmocka_unit_test_setup_teardown(passes_are_held_against_the_plan, setup, teardown),
        cmocka_unit_test_setup_teardown(the_pace_is_that_of_the_last_seconds, setup, teardown),
        cmocka_unit_test_setup_teardown(a_lost_worker_has_its_cause, setup, teardown),
    };
    return cmocka_run_group_tests_name("watch", tests, NULL, NULL);
}
