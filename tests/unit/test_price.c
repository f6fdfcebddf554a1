/* What a move to another plan costs, and when it is worth that. */
#include "coordinator/core_private.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct coord_core *core;
static struct coord_actions actions;
static struct part_plan plan;
static struct coord_event ev;

/* One request takes 100 ms a token; another plan is there that takes half of it. */
static int setup(void **state)
{
    static struct net_config config;
    static const struct coord_model model = {.n_layers = 4, .n_vocab = 100, .context = 100};
    (void)state;
    config = (struct net_config){.slots = 2,
                                 .queue = 4,
                                 .heartbeat_ms = 500,
                                 .dead_ms = 3000,
                                 .report_ms = 1000,
                                 .horizon_ms = 100000,
                                 .n_workers = 2};
    assert_int_equal(coord_core_new(&config, &model, 1, 7700, &core, NULL), 0);
    core->now_ms = 5000;
    core->now = (struct ring_plan){.epoch = 7, .batch_rate = 20};
    core->now.plan.n_stages = 1;
    core->now.plan.latency_s = 0.1;
    memset(&plan, 0, sizeof plan);
    plan.n_stages = 1;
    plan.latency_s = 0.05;
    ev =
        (struct coord_event){.type = COORD_EV_PLANNED, .ok = true, .plan = &plan, .batch_rate = 20};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    coord_core_free(core);
    return 0;
}

static bool goes(void)
{
    actions.n = 0;
    return coord_core_worth_moving(core, &ev, &actions);
}

static bool says(const char *part)
{
    return actions.n == 1 && actions.list[0].type == COORD_ACT_LOG &&
           strstr(actions.list[0].text, part) != NULL;
}

static void a_move_is_to_pay_within_the_horizon(void **state)
{
    (void)state;
    assert_true(coord_core_is_better(core, &ev));
    assert_true(goes() && actions.n == 0);
    /* Half the pace for s seconds, 0.1 s of pause, twice the pace for the rest of 100 s: as many tokens
     * as before where 0.5 s + 2 (99.9 - s) = 100. */
    ev.move.ship_bytes = 1 << 20;
    ev.move.ship_s = 66.5;
    assert_true(goes());
    ev.move.ship_s = 66.6;
    assert_false(goes());
    assert_true(
        says("stays reason=\"another plan is 50.0 % better, but moving to it takes 1.0 MiB of "
             "weights (66.6 s) and 0 B of KV rows (0.0 s), which brings -0.1 % more tokens in "
             "100 s\""));
    core->config.horizon_ms = 101000;
    assert_true(goes());
    /* A move that is not done by then brings nothing, however good the plan. */
    plan.latency_s = 1e-6;
    ev.move.ship_s = 101;
    assert_false(goes());
    ev.move.ship_s = 100;
    assert_true(goes());
}

static void a_small_gain_is_worth_a_small_move(void **state)
{
    (void)state;
    plan.latency_s = 0.094;
    assert_true(coord_core_is_better(core, &ev));
    ev.move.ship_s = 10; /* 5 s of 100 are lost, 6 % of 90 gained */
    assert_true(goes());
    ev.move.ship_s = 12;
    assert_false(goes());
    plan.latency_s = 0.096;
    assert_false(coord_core_is_better(core, &ev));
    /* What the plan in force takes today is what counts. */
    ev.now_latency_s = 0.2;
    ev.now_batch_rate = 20;
    assert_true(coord_core_is_better(core, &ev) && goes());
    /* So is it with all slots, where those are asked for. */
    core->config.objective = 1;
    assert_false(coord_core_is_better(core, &ev));
    ev.batch_rate = 22;
    assert_true(coord_core_is_better(core, &ev));
    ev.move.ship_s = 20;
    assert_false(goes());
    ev.move.ship_s = 5;
    assert_true(goes());
}

static void rows_count_as_far_as_there_are_any(void **state)
{
    (void)state;
    ev.move.kv_bytes = 8e6;
    ev.move.kv_s = 1000;
    assert_true(goes());
    core->slot_rows[1].n = 20; /* a tenth of what both slots can hold: 100 s */
    assert_false(goes());
    assert_true(says(" and 781.2 KiB of KV rows (100.0 s)"));
    core->slot_rows[1].n = 10;
    assert_true(goes());
    core->slot_rows[1].n = 0;
}

static void the_budget_fills_up_within_an_hour(void **state)
{
    (void)state;
    core->config.move_budget = 100 << 20;
    ev.move.ship_bytes = 60 << 20;
    assert_true(goes());
    assert_false(goes());
    assert_true(says("; 40.0 MiB of the budget are left\""));
    core->now_ms += 11 * 60000; /* 18.3 MiB */
    assert_false(goes());
    core->now_ms += 2 * 60000;
    assert_true(goes());
    /* It does not become more than it is. */
    core->now_ms += 100 * 3600000LL;
    assert_true(goes());
    assert_false(goes());
    assert_true(says("; 40.0 MiB of the budget are left\""));
    core->now_ms += 3600000;
    ev.move.ship_bytes = 101 << 20;
    assert_false(goes());
    /* Rows are paid as well. */
    ev.move.ship_bytes = 99 << 20;
    ev.move.kv_bytes = 2 << 20;
    assert_true(goes());
    core->now_ms += 3600000;
    core->slot_rows[0].n = core->slot_rows[1].n = 100;
    assert_false(goes());
    core->slot_rows[0].n = core->slot_rows[1].n = 0;
    core->config.move_budget = 0;
    ev.move.ship_bytes = 1e15;
    assert_true(goes());
}

/* ---- bytes and times ------------------------------------------------------------------------- */

/* Four layers of four head units with a KV head each, four units of columns; five runs. */
static struct coord_blocks blocks(void)
{
    struct coord_blocks b = {.n_layers = 4,
                             .n_heads = 8,
                             .n_kv_heads = 4,
                             .unit_heads = 2,
                             .n_head_units = 4,
                             .n_ff_units = 4,
                             .n_vocab_runs = 5,
                             .run_bytes = 10000,
                             .final_bytes = 100000,
                             .embed_bytes = 1000000,
                             .cache_bytes = 7};
    for (uint32_t l = 0; l < 4; l++)
        b.layers[l] = (struct coord_layer){
            .common_bytes = 1, .head_bytes = 10, .kv_bytes = 100, .ff_bytes = 1000};
    return b;
}

static struct coord_profile links(void)
{
    struct coord_profile p = {.n_nodes = 4};
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++) {
        p.coord_down[i] = 1e9;
        for (uint32_t k = 0; k < NET_WORKERS_MAX; k++)
            p.rate[i][k] = 1e9;
    }
    return p;
}

static const struct part_plan from = {
    .n_stages = 2,
    .stages = {{0, 2, PART_STAR, 2, {{0, 0, 2, 0, 2, 0, 0}, {1, 2, 4, 2, 4, 0, 0}}},
               {2, 4, PART_STAR, 1, {{2, 0, 4, 0, 4, 0, 5}}}},
};

static bool is(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fabs(b);
}

static void what_lacks_is_counted(void **state)
{
    const struct coord_blocks b = blocks();
    struct coord_profile p = links();
    struct coord_move_cost cost;
    (void)state;
    const struct part_plan to = {
        .n_stages = 2,
        .stages = {{0, 3, PART_STAR, 2, {{0, 0, 3, 0, 1, 0, 0}, {1, 3, 4, 1, 4, 0, 0}}},
                   {3, 4, PART_STAR, 2, {{2, 0, 4, 0, 4, 0, 4}, {3, 4, 4, 4, 4, 4, 5}}}},
    };
    coord_move_cost(&b, &p, &from, &from, &cost);
    assert_true(is(cost.ship_bytes, 0) && is(cost.kv_bytes, 0));
    assert_true(is(cost.ship_s, 0) && is(cost.kv_s, 0));
    /* Workers 0 and 1 lack a head each unit of which is worth 110, and one of columns, and layer 2. */
    const double zero = 2 * 110 + 1 + 330 + 1000, one = 2 * 1000 + 1 + 110 + 3000,
                 three = 1 + 10000;
    p.coord_down[0] = 1000;
    p.coord_down[3] = NAN;
    p.rate[1][0] = 14; /* a head of layers 0 and 1: 1 s */
    p.rate[2][0] = 7;  /* three of layer 2: 3 s */
    p.rate[2][1] = 1;  /* one of it: 7 s */
    coord_move_cost(&b, &p, &from, &to, &cost);
    assert_true(is(cost.ship_bytes, zero + one + three));
    assert_true(is(cost.ship_s, zero / 1000));
    assert_true(is(cost.kv_bytes, 42));
    assert_true(is(cost.kv_s, 10));
    /* The coordinator has one port, too. */
    p.coord_down[0] = p.coord_down[1] = p.coord_down[2] = p.coord_down[3] = 1000;
    coord_move_cost(&b, &p, &from, &to, &cost);
    assert_true(is(cost.ship_s, (zero + one + three) / 1000));
}

static void ends_are_weights_as_well(void **state)
{
    struct coord_blocks b = blocks();
    const struct coord_profile p = links();
    struct coord_move_cost cost;
    struct part_plan to = from;
    (void)state;
    /* The first two change places: one embeds, and has the other's halves. */
    to.stages[0].members[0].device = 1;
    to.stages[0].members[1].device = 0;
    coord_move_cost(&b, &p, &from, &to, &cost);
    assert_true(is(cost.ship_bytes, 1000000 + 2 * 2 * (220 + 2000)));
    assert_true(is(cost.kv_bytes, 2 * 2 * 2 * 7));
    /* The output moves to the first stage; with shared weights who embeds has its runs. */
    to = from;
    to.output_first = true;
    to.stages[1].members[0].run1 = 0;
    to.stages[0].members[0].run1 = 5;
    coord_move_cost(&b, &p, &from, &to, &cost);
    assert_true(is(cost.ship_bytes, 100000 + 5 * 10000) && is(cost.kv_bytes, 0));
    b.shared_run_bytes = 10000;
    coord_move_cost(&b, &p, &from, &to, &cost);
    assert_true(is(cost.ship_bytes, 100000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_move_is_to_pay_within_the_horizon, setup, teardown),
        cmocka_unit_test_setup_teardown(a_small_gain_is_worth_a_small_move, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_count_as_far_as_there_are_any, setup, teardown),
        cmocka_unit_test_setup_teardown(the_budget_fills_up_within_an_hour, setup, teardown),
        cmocka_unit_test(what_lacks_is_counted),
        cmocka_unit_test(ends_are_weights_as_well),
    };
    return cmocka_run_group_tests_name("price", tests, NULL, NULL);
}
