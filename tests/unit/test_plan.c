/* The planner against two judges: exhaustive enumeration on small random problems, itself checked
 * on cases worked out by hand, and on middling ones a dynamic program over subsets of devices
 * written here, which shares nothing with the solver but the cost model. Besides equal objectives,
 * a proven gap has to be true: a lower bound above the true optimum is an error even where the plan
 * is the best one. The small problems go to the integer program alone, so that no heuristic can
 * hide a mistake in it; the middling ones exercise search, bound and program together. No assertion
 * depends on time. */
#include "partition/partition.h"
#include "tests/unit/plan_cases.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const uint64_t MIB = 1u << 20;

/* Big: not on the stack. Each test fills it anew. */
static struct part_problem prob;

/* ---- making problems ---- */

static double between(uint64_t *seed, double a, double b)
{
    return a + (b - a) * ((double)(base_rng_next(seed) >> 11) / 9007199254740992.0);
}

static bool chance(uint64_t *seed, double p)
{
    return between(seed, 0.0, 1.0) < p;
}

static uint32_t below(uint64_t *seed, uint32_t n)
{
    return (uint32_t)(base_rng_next(seed) % n);
}

static void plain(uint32_t n_devices, uint32_t n_layers)
{
    memset(&prob, 0, sizeof prob);
    prob.n_devices = n_devices;
    prob.n_layers = n_layers;
    prob.time_limit_s = 20.0;
    prob.granularity = PART_LAYERS;
    prob.n_head_units = prob.unit_heads = prob.heads_per_kv = 1;
    prob.n_ff_units = prob.n_vocab_runs = 1;
    prob.slots = 1;
    prob.hidden_bytes = 4096.0;
    for (uint32_t d = 0; d < n_devices; d++)
        for (uint32_t e = 0; e < n_devices; e++)
            prob.rate[d][e] = 1e9;
    for (uint32_t l = 0; l < n_layers; l++)
        prob.layers[l].common_bytes = 100 * MIB;
    for (uint32_t d = 0; d < n_devices; d++) {
        snprintf(prob.devices[d].name, PART_NAME_MAX, "board%u", d);
        prob.devices[d].memory_bytes = 100000 * MIB;
        prob.devices[d].pin0 = prob.devices[d].pin_heads = prob.devices[d].pin_ff = -1;
    }
}

static struct part_stage single(uint32_t device, uint32_t layer0, uint32_t layer1)
{
    return part_stage_single(&prob, device, layer0, layer1, layer1 == prob.n_layers);
}

/* A hand-over of one row from d to e: seconds under way and of the link's time. */
static void set_link(uint32_t d, uint32_t e, double lat_s, double busy_s)
{
    prob.lat_s[d][e] = lat_s;
    prob.rate[d][e] = prob.hidden_bytes / busy_s;
}

static void random_times(uint64_t *seed)
{
    const bool same_layers = chance(seed, 0.4), same_links = chance(seed, 0.3);
    const bool slow_links = chance(seed, 0.3);
    for (uint32_t d = 0; d < prob.n_devices; d++) {
        struct part_device *dev = &prob.devices[d];
        double speed = between(seed, 1e-3, 9e-3);
        for (uint32_t l = 0; l < prob.n_layers; l++)
            dev->attn[l].row_s = same_layers ? speed : speed * between(seed, 0.5, 1.5);
        dev->embed.row_s = between(seed, 0.0, 1e-3);
        dev->output.row_s = speed * between(seed, 0.0, 3.0);
        dev->pass_s = chance(seed, 0.2) ? 0.0 : between(seed, 1e-4, 2e-3);
    }
    for (uint32_t d = 0; d < prob.n_devices; d++)
        for (uint32_t e = 0; e < prob.n_devices; e++) {
            if (d == e)
                continue;
            set_link(d, e, same_links ? 1e-3 : between(seed, 1e-4, 8e-3),
                     same_links ? 1e-3 : between(seed, 1e-4, slow_links ? 4e-2 : 2e-3));
        }
}

static void random_memory(uint64_t *seed, double slack_low, double slack_high)
{
    const bool same_layers = chance(seed, 0.4);
    uint64_t total = 0;
    double share[PART_DEVICES_MAX], sum = 0.0;
    for (uint32_t l = 0; l < prob.n_layers; l++) {
        prob.layers[l].common_bytes = same_layers ? 100 * MIB : (50 + below(seed, 100)) * MIB;
        total += prob.layers[l].common_bytes;
    }
    prob.embed_bytes = below(seed, 150) * MIB;
    prob.run_bytes = below(seed, 150) * MIB;
    if (chance(seed, 0.5)) { /* a tied matrix, and a norm on top of it at the output */
        prob.run_bytes = prob.embed_bytes + MIB;
        prob.shared_run_bytes = prob.embed_bytes;
    }
    prob.base_bytes = below(seed, 20) * MIB;
    prob.scratch_bytes = below(seed, 20) * MIB;
    total += prob.embed_bytes + prob.run_bytes;
    for (uint32_t d = 0; d < prob.n_devices; d++)
        sum += share[d] = between(seed, 0.3, 1.0);
    double slack = between(seed, slack_low, slack_high);
    for (uint32_t d = 0; d < prob.n_devices; d++)
        prob.devices[d].memory_bytes = prob.base_bytes + prob.scratch_bytes +
                                       (uint64_t)((double)total * slack * share[d] / sum);
}

static void random_pins(uint64_t *seed)
{
    for (uint32_t d = 0; d < prob.n_devices; d++) {
        if (!chance(seed, 0.35))
            continue;
        uint32_t a = below(seed, prob.n_layers), b = a + 1 + below(seed, 3);
        prob.devices[d].pin0 = (int)a;
        prob.devices[d].pin1 = (int)(b < prob.n_layers ? b : prob.n_layers);
    }
}

/* ---- by hand ---- */

/* Two boards, two layers. a: 1 ms a layer, pass 0.1; b: 3 ms a layer, pass 0.2. Embedding 0.5 and
 * 0.6, output 2 and 4. a to b 0.3 and 0.4 of the link's time, b to a 0.25 and 0.65. */
static void two_boards(void)
{
    plain(2, 2);
    const double layer[2] = {1e-3, 3e-3}, pass[2] = {1e-4, 2e-4};
    const double embed[2] = {5e-4, 6e-4}, output[2] = {2e-3, 4e-3};
    for (int d = 0; d < 2; d++) {
        prob.devices[d].attn[0].row_s = prob.devices[d].attn[1].row_s = layer[d];
        prob.devices[d].pass_s = pass[d];
        prob.devices[d].embed.row_s = embed[d];
        prob.devices[d].output.row_s = output[d];
        prob.devices[d].memory_bytes = 1000 * MIB;
    }
    set_link(0, 1, 3e-4, 4e-4);
    set_link(1, 0, 2.5e-4, 6.5e-4);
    prob.embed_bytes = 40 * MIB;
    prob.run_bytes = 50 * MIB;
    prob.shared_run_bytes = 40 * MIB;
    prob.base_bytes = 3 * MIB;
    prob.scratch_bytes = 4 * MIB;
}

static void near(double a, double b)
{
    if (fabs(a - b) > 1e-9 * fmax(fabs(a), fabs(b)))
        fail_msg("%.15g is not %.15g", a, b);
}

static void test_cost_by_hand(void **state)
{
    (void)state;
    two_boards();
    struct part_plan plan = {.n_stages = 2, .stages = {single(0, 0, 1), single(1, 1, 2)}};
    part_plan_cost(&prob, &plan);
    /* a: 0.1 + 1 + 0.5; link 0.7; b: 0.2 + 3 + 4; token 0.25 */
    near(plan.latency_s, 1.6e-3 + 0.7e-3 + 7.2e-3 + 0.25e-3);
    near(plan.bottleneck_s, 7.2e-3);
    assert_int_equal(part_member_memory(&prob, &plan.stages[0], 0), 147 * MIB);
    assert_int_equal(part_member_memory(&prob, &plan.stages[1], 0), 157 * MIB);
    assert_true(part_plan_fits(&prob, &plan));

    plan = (struct part_plan){.n_stages = 2, .stages = {single(1, 0, 1), single(0, 1, 2)}};
    part_plan_cost(&prob, &plan);
    /* b: 0.2 + 3 + 0.6; link 0.9; a: 0.1 + 1 + 2; token 0.3 */
    near(plan.latency_s, 3.8e-3 + 0.9e-3 + 3.1e-3 + 0.3e-3);
    near(plan.bottleneck_s, 3.8e-3);
    set_link(1, 0, 2.5e-4, 5.5e-3);
    part_plan_cost(&prob, &plan);
    near(plan.bottleneck_s, 5.5e-3); /* the link */

    plan = (struct part_plan){.n_stages = 1, .stages = {single(0, 0, 2)}};
    part_plan_cost(&prob, &plan);
    near(plan.latency_s, 0.1e-3 + 2e-3 + 0.5e-3 + 2e-3);
    near(plan.bottleneck_s, plan.latency_s);
    /* the tied 40 MiB once: 7 + 200 + 40 + 50 - 40 */
    assert_int_equal(part_member_memory(&prob, &plan.stages[0], 0), 257 * MIB);
}

/* Eight slots. Where a pass takes as long as it has rows, two groups keep both boards busy; where b takes
 * 50 ms for a pass of any size, one group goes round sooner. */
static void test_groups_by_hand(void **state)
{
    double cycle_s;
    (void)state;
    two_boards();
    prob.slots = 8;
    struct part_plan plan = {.n_stages = 2, .stages = {single(0, 0, 1), single(1, 1, 2)}};
    assert_int_equal(part_best_groups(&prob, &plan, &cycle_s), 2);
    near(cycle_s, 2 * (0.2e-3 + 4 * 7e-3));
    part_plan_cost(&prob, &plan);
    near(plan.cycle_s, cycle_s);
    prob.devices[1].pass_s = 50e-3;
    assert_int_equal(part_best_groups(&prob, &plan, &cycle_s), 1);
    near(cycle_s, (0.1e-3 + 8 * 1.5e-3) + (0.3e-3 + 8 * 0.4e-3) + (50e-3 + 8 * 7e-3) + 0.25e-3);
    part_plan_cost(&prob, &plan);
    near(plan.cycle_s, 2 * (50e-3 + 4 * 7e-3));
}

static void test_fits(void **state)
{
    (void)state;
    two_boards();
    struct part_plan good = {.n_stages = 2, .stages = {single(0, 0, 1), single(1, 1, 2)}};
    struct part_plan bad = good;
    bad.stages[1].members[0].device = 0;
    assert_false(part_plan_fits(&prob, &bad)); /* a board twice */
    bad = good;
    bad.stages[1].layer1 = 1;
    assert_false(part_plan_fits(&prob, &bad)); /* nothing in a stage */
    bad = good;
    bad.n_stages = 1;
    assert_false(part_plan_fits(&prob, &bad)); /* a layer missing */
    bad = good;
    bad.stages[1] = single(1, 0, 2);
    assert_false(part_plan_fits(&prob, &bad)); /* a layer twice */
    bad.stages[1] = single(7, 1, 2);
    assert_false(part_plan_fits(&prob, &bad)); /* no such board */
    prob.devices[1].memory_bytes = 157 * MIB;
    assert_true(part_plan_fits(&prob, &good));
    prob.devices[1].memory_bytes--;
    assert_false(part_plan_fits(&prob, &good)); /* a byte short */
    two_boards();
    prob.devices[1].pin0 = 0;
    prob.devices[1].pin1 = 1;
    assert_false(part_plan_fits(&prob, &good)); /* pinned elsewhere */
    two_boards();
    prob.devices[1].pin_ff = (int)prob.n_ff_units;
    assert_true(part_plan_fits(&prob, &good));
    prob.devices[1].pin_ff--;
    assert_false(part_plan_fits(&prob, &good)); /* pinned to fewer columns */
    two_boards();
    struct part_plan alone = {.n_stages = 1, .stages = {single(0, 0, 2)}};
    assert_true(part_plan_fits(&prob, &alone));
    prob.use_all = true;
    assert_false(part_plan_fits(&prob, &alone)); /* a board without layers */
}

/* Enumeration and solver on the two boards: all four rings were worked out above. */
static void expect(double objective_s, uint32_t n_stages, uint32_t first)
{
    struct part_plan plan;
    struct err e;
    for (int k = 0; k < 2; k++) {
        int rc = k == 0 ? part_plan_enumerate(&prob, &plan, &e) : part_plan_solve(&prob, &plan, &e);
        if (objective_s < 0.0) {
            assert_int_equal(rc, ERR_INFEASIBLE);
            assert_int_equal(e.code, ERR_INFEASIBLE);
            continue;
        }
        assert_int_equal(rc, 0);
        near(part_plan_objective(&prob, &plan), objective_s);
        assert_int_equal(plan.n_stages, n_stages);
        assert_int_equal(plan.stages[0].members[0].device, first);
        near(plan.gap, 0.0);
    }
}

static void test_two_boards_by_hand(void **state)
{
    (void)state;
    two_boards();
    expect(4.6e-3, 1, 0); /* a alone; b alone takes 10.8, a-b 9.75, b-a 8.1 */
    prob.use_all = true;
    expect(8.1e-3, 2, 1);
    prob.objective = PART_THROUGHPUT;
    prob.slots = 2; /* two groups of one row: a-b takes 2 * 7.2, the slowest stage twice */
    set_link(1, 0, 2.5e-4, 5.5e-3);
    expect(12.95e-3 / 2, 2, 1); /* 3.8 + 5.75 + 3.1 + 0.3, more than twice the busy link */
    prob.use_all = false;
    expect(9.1e-3 / 2, 1, 0); /* one group of two rows: 0.1 + 2 * 4.5 */
    prob.slots = 1;
    set_link(1, 0, 2.5e-4, 6.5e-4);
    prob.objective = PART_LATENCY;
    prob.devices[0].memory_bytes = 257 * MIB - 1; /* a cannot hold both layers any more */
    expect(8.1e-3, 2, 1);
    prob.devices[0].memory_bytes = 157 * MIB - 1; /* nor the last one with the output matrix */
    expect(9.75e-3, 2, 0);
    prob.devices[1].memory_bytes = 157 * MIB - 1; /* nobody can */
    expect(-1.0, 0, 0);
    two_boards();
    prob.devices[1].pin0 = 0; /* b holds layer 0, whatever it costs */
    prob.devices[1].pin1 = 1;
    expect(8.1e-3, 2, 1);
    prob.devices[1].pin1 = 2; /* both layers: a has none */
    expect(10.8e-3, 1, 1);
    prob.use_all = true;
    expect(-1.0, 0, 0);
}

/* ---- against enumeration ---- */

static void same_as_enumeration(uint64_t number, int *feasible)
{
    static struct part_plan mine, truth, again;
    struct err e, why;
    int rc = part_plan_solve(&prob, &mine, &e);
    int wanted = part_plan_enumerate(&prob, &truth, &why);
    if (rc != wanted)
        fail_msg("problem %llu: solver %d (%s), enumeration %d (%s)", (unsigned long long)number,
                 rc, rc != 0 ? e.text : "", wanted, wanted != 0 ? why.text : "");
    if (rc != 0) {
        assert_int_equal(rc, ERR_INFEASIBLE);
        assert_string_equal(e.text, why.text);
        return;
    }
    ++*feasible;
    assert_true(part_plan_fits(&prob, &mine));
    again = mine;
    part_plan_cost(&prob, &again);
    near(again.latency_s, mine.latency_s);
    near(again.bottleneck_s, mine.bottleneck_s);
    double a = part_plan_objective(&prob, &mine), b = part_plan_objective(&prob, &truth);
    if (fabs(a - b) > 1e-9 * b || mine.gap > 1e-9 || mine.gap < 0.0)
        fail_msg("problem %llu: %.12g with gap %.3g, the optimum is %.12g",
                 (unsigned long long)number, a, mine.gap, b);
    for (uint32_t d = 0; d < prob.n_devices; d++) {
        bool used = false;
        for (uint32_t k = 0; k < mine.n_stages; k++)
            used = used || mine.stages[k].members[0].device == d;
        assert_int_equal(used, mine.left_out[d][0] == '\0');
    }
    /* Where both took the same boards, they give the same reasons, numbers included. */
    bool same = mine.n_stages == truth.n_stages;
    for (uint32_t k = 0; same && k < mine.n_stages; k++)
        same = mine.stages[k].members[0].device == truth.stages[k].members[0].device &&
               mine.stages[k].layer1 == truth.stages[k].layer1;
    for (uint32_t d = 0; same && d < prob.n_devices; d++)
        assert_string_equal(mine.left_out[d], truth.left_out[d]);
}

static void test_random_small(void **state)
{
    (void)state;
    enum { PROBLEMS = 480 / PLAN_SHORTER };
    int feasible = 0;
    for (uint64_t number = 0; number < PROBLEMS; number++) {
        uint64_t seed = base_mix64(number + 1);
        plain(2 + below(&seed, 3), 3 + below(&seed, 6));
        prob.objective = number % 2 == 1 ? PART_THROUGHPUT : PART_LATENCY;
        prob.use_all = number % 4 >= 2;
        random_times(&seed);
        if (number % 8 < 5)
            random_memory(&seed, 0.95, 1.6);
        else
            random_memory(&seed, 2.0, 8.0);
        if (number % 3 == 0)
            random_pins(&seed);
        same_as_enumeration(number, &feasible);
    }
    /* The generator itself: neither outcome is rare. */
    assert_in_range(feasible, PROBLEMS / 2, PROBLEMS - PROBLEMS / 10);
}

/* ---- against a dynamic program over subsets ---- */

enum { SUBSET_DEVICES = 6, SUBSET_LAYERS = 24, SUBSETS = 1 << SUBSET_DEVICES };

/* The true least latency: [devices used][the last of them][cut reached], for one first device at a
 * time and one place of the output matrix. */
static double optimum_with_first(uint32_t first, bool output_first)
{
    static double best[SUBSETS][SUBSET_DEVICES][SUBSET_LAYERS + 1];
    const uint32_t n = prob.n_devices, layers = prob.n_layers;
    double least = HUGE_VAL;
    for (uint32_t set = 0; set < SUBSETS; set++)
        for (uint32_t d = 0; d < SUBSET_DEVICES; d++)
            for (uint32_t j = 0; j <= SUBSET_LAYERS; j++)
                best[set][d][j] = HUGE_VAL;
    for (uint32_t set = 1u << first; set < (1u << n); set++)
        for (uint32_t d = 0; d < n; d++)
            for (uint32_t i = 0; i < layers; i++) {
                /* d takes [i, j) as the last stage of `set`, after any other device of it */
                double enter = HUGE_VAL;
                if ((set >> d & 1) == 0 || (set >> first & 1) == 0 || (d == first) != (i == 0))
                    continue;
                if (i == 0)
                    enter = set == 1u << first ? 0.0 : HUGE_VAL;
                for (uint32_t q = 0; i > 0 && q < n; q++)
                    if (q != d && (set >> q & 1) != 0) {
                        double before = best[set & ~(1u << d)][q][i];
                        enter = fmin(enter, before + prob.lat_s[q][d] +
                                                prob.hidden_bytes / prob.rate[q][d]);
                    }
                for (uint32_t j = i + 1; j <= layers && enter < HUGE_VAL; j++) {
                    struct part_stage s =
                        part_stage_single(&prob, d, i, j, output_first ? d == first : j == layers);
                    if (part_member_memory(&prob, &s, 0) > prob.devices[d].memory_bytes)
                        break;
                    double c = enter + part_stage_seconds(&prob, &s, 1.0);
                    best[set][d][j] = fmin(best[set][d][j], c);
                }
            }
    for (uint32_t set = prob.use_all ? (1u << n) - 1 : 1; set < (1u << n); set++)
        for (uint32_t d = 0; d < n; d++)
            least = fmin(least, best[set][d][layers] + (d == first ? 0.0 : prob.lat_s[d][first]) +
                                    (output_first ? prob.hidden_bytes / prob.rate[d][first] : 0.0));
    return least;
}

static double optimum(void)
{
    double least = HUGE_VAL;
    for (uint32_t first = 0; first < prob.n_devices; first++)
        least =
            fmin(least, fmin(optimum_with_first(first, false), optimum_with_first(first, true)));
    return least;
}

/* The solver's claims hold: a fitting plan, no better than the optimum, its bound no higher. */
static void claims_hold(uint64_t number, double truth, bool has_time)
{
    static struct part_plan plan;
    struct err e;
    int rc = part_plan_solve(&prob, &plan, &e);
    if (rc == ERR_TIMEOUT && !has_time)
        return;
    if ((rc == ERR_INFEASIBLE) != (truth == HUGE_VAL) || (rc != 0 && rc != ERR_INFEASIBLE))
        fail_msg("problem %llu: solver %d (%s), the optimum is %g", (unsigned long long)number, rc,
                 rc != 0 ? e.text : "", truth);
    if (rc != 0)
        return;
    double found = part_plan_objective(&prob, &plan);
    assert_true(part_plan_fits(&prob, &plan));
    assert_true(plan.gap >= 0.0 && plan.gap <= 1.0);
    if (found < truth * (1.0 - 1e-9) || found * (1.0 - plan.gap) > truth * (1.0 + 1e-9))
        fail_msg("problem %llu: %.12g with gap %.3g, the optimum is %.12g",
                 (unsigned long long)number, found, plan.gap, truth);
    if (has_time && plan.gap > 1e-9)
        fail_msg("problem %llu: gap %.3g with all the time", (unsigned long long)number, plan.gap);
}

static void test_random_middling(void **state)
{
    (void)state;
    enum { MIDDLING = 48 / PLAN_SHORTER };
    int feasible = 0;
    for (uint64_t number = 0; number < MIDDLING; number++) {
        uint64_t seed = base_mix64(1000 + number);
        plain(5 + below(&seed, 2), 16 + below(&seed, 9));
        prob.use_all = number % 4 >= 2;
        random_times(&seed);
        if (number % 8 < 5)
            random_memory(&seed, 1.0, 1.5);
        else
            random_memory(&seed, 2.0, 8.0);
        double truth = optimum();
        feasible += truth < HUGE_VAL ? 1 : 0;
        claims_hold(number, truth, true);
        const double limits_s[3] = {0.0, 0.002, 0.01};
        for (int k = 0; k < 3; k++) {
            prob.time_limit_s = limits_s[k];
            claims_hold(number, truth, false);
        }
    }
    assert_in_range(feasible, MIDDLING * 5 / 8, MIDDLING);
}

/* ---- limits ---- */

static void test_time_limit(void **state)
{
    (void)state;
    static struct part_plan plan;
    static const struct {
        uint32_t devices, layers;
        double slack;
    } sizes[] = {{8, 32, 1.2}, {8, 32, 4.0}, {16, 80, 1.3}, {16, PART_LAYERS_MAX, 4.0}};
    struct err e;
    for (uint32_t k = 0; k < 2 * sizeof sizes / sizeof sizes[0]; k++) {
        uint64_t seed = base_mix64(2000 + k);
        plain(sizes[k / 2].devices, sizes[k / 2].layers);
        random_times(&seed);
        random_memory(&seed, sizes[k / 2].slack, sizes[k / 2].slack);
        prob.objective = k % 2 == 1 ? PART_THROUGHPUT : PART_LATENCY;
        prob.time_limit_s = 1.0;
        int rc = part_plan_solve(&prob, &plan, &e);
        if (rc != 0)
            fail_msg("%u x %u: %s", prob.n_devices, prob.n_layers, e.text);
        assert_true(part_plan_fits(&prob, &plan));
        assert_true(plan.gap >= 0.0 && plan.gap <= 1.0);
        assert_true(plan.solve_s >= 0.0);
    }
}

/* Each allocation in turn fails: an error or a plan, and nothing lost. */
static void test_out_of_memory(void **state)
{
    (void)state;
    static struct part_plan plan;
    struct err e;
    bool whole = false;
    for (uint64_t nth = 1; !whole; nth++) {
        uint64_t seed = 77;
        plain(5, 20);
        random_times(&seed);
        random_memory(&seed, 1.4, 1.4);
        prob.objective = nth % 2 == 1 ? PART_THROUGHPUT : PART_LATENCY;
        int64_t live = base_alloc_live();
        base_alloc_fail_nth(nth);
        int rc = part_plan_solve(&prob, &plan, &e);
        base_alloc_fail_nth(0);
        assert_int_equal(base_alloc_live(), live);
        if (rc == 0)
            assert_true(part_plan_fits(&prob, &plan));
        else
            assert_int_equal(rc, ERR_NOMEM);
        whole = rc == 0 && plan.gap == 0.0 && nth > 200;
        if (nth > 400)
            fail_msg("no end of failing allocations");
    }
}

/* ---- sentences ---- */

static void impossible(const char *sentence)
{
    static struct part_plan plan;
    struct err e;
    assert_int_equal(part_plan_solve(&prob, &plan, &e), ERR_INFEASIBLE);
    assert_string_equal(e.text, sentence);
}

static void pin(uint32_t d, int from, int to)
{
    prob.devices[d].pin0 = from;
    prob.devices[d].pin1 = to;
}

static void test_infeasible_sentences(void **state)
{
    (void)state;
    plain(2, 8);
    prob.scratch_bytes = 50 * MIB;
    prob.devices[0].memory_bytes = 300 * MIB;
    prob.devices[1].memory_bytes = 400 * MIB;
    impossible("the model needs 900.0 MiB for weights, KV and scratch; the cluster has 700.0 MiB");
    prob.devices[1].memory_bytes = 649 * MIB;
    prob.devices[0].memory_bytes = 251 * MIB;
    impossible("the model needs 900.0 MiB for weights, KV and scratch and the cluster has "
               "900.0 MiB, but no division into whole layers fits every board");
    plain(2, 8);
    prob.layers[5].common_bytes = 2000 * MIB;
    prob.devices[0].memory_bytes = prob.devices[1].memory_bytes = 1500 * MIB;
    impossible("layer 5 and scratch need 2.0 GiB; no board has more than 1.5 GiB");
    plain(3, 2);
    prob.use_all = true;
    impossible("use: all needs a layer for each of 3 boards; the model has 2");
    plain(2, 8);
    prob.use_all = true;
    prob.devices[1].memory_bytes = 80 * MIB;
    impossible("use: all gives every board a layer, which needs 100.0 MiB with scratch; "
               "board1 has 80.0 MiB");
    plain(2, 8);
    pin(0, 0, 5);
    pin(1, 4, 8);
    impossible("board0 and board1 are pinned to the same layers (layers 0-4 and layers 4-7)");
    pin(1, 6, 8);
    impossible("every board is pinned and none of them holds layer 5");
    pin(1, 5, 8);
    prob.devices[1].memory_bytes = 250 * MIB;
    impossible("board1 is pinned to layers 5-7, which need 300.0 MiB there; it has 250.0 MiB");
    plain(3, 8);
    pin(0, 1, 3);
    pin(1, 5, 6);
    impossible("the pins leave 3 separate runs of layers, but only 1 boards without a pin");
    pin(0, 0, 3);
    pin(1, 3, 8);
    prob.use_all = true;
    impossible("use: all needs a layer for each of the 1 boards without a pin; the pins leave 0");
}

static void test_left_out_sentences(void **state)
{
    (void)state;
    static struct part_plan plan;
    struct err e;
    two_boards();
    assert_int_equal(part_plan_solve(&prob, &plan, &e), 0);
    assert_string_equal(plan.left_out[0], "");
    assert_string_equal(plan.left_out[1], "including it would raise 4.60 to 8.10 ms/token");
    prob.objective = PART_THROUGHPUT;
    prob.slots = 2;
    set_link(1, 0, 2.5e-4, 5.4e-3);
    assert_int_equal(part_plan_solve(&prob, &plan, &e), 0);
    assert_string_equal(plan.left_out[1],
                        "including it would raise 4.55 to 6.42 ms/token with all slots in use");
    prob.devices[1].memory_bytes = 100 * MIB;
    assert_int_equal(part_plan_solve(&prob, &plan, &e), 0);
    assert_string_equal(plan.left_out[1],
                        "its memory 100.0 MiB holds no layer, which needs 107.0 MiB with scratch");
    two_boards();
    pin(0, 0, 2);
    assert_int_equal(part_plan_solve(&prob, &plan, &e), 0);
    assert_string_equal(plan.left_out[1], "the other boards' pins leave it no layer");
    two_boards();
    memset(prob.lat_s, 0, sizeof prob.lat_s);
    prob.hidden_bytes = 0.0;
    prob.devices[1] = prob.devices[0];
    prob.devices[1].pass_s = prob.devices[0].pass_s = 0.0;
    assert_int_equal(part_plan_solve(&prob, &plan, &e), 0);
    if (plan.n_stages == 1)
        assert_string_equal(plan.left_out[1 - plan.stages[0].members[0].device],
                            "including it would not help: 4.50 ms/token either way");
}

/* ---- bad numbers ---- */

static void refused(const char *part_of_text)
{
    static struct part_plan plan;
    struct err e;
    assert_int_equal(part_problem_check(&prob, &e), ERR_RANGE);
    if (strstr(e.text, part_of_text) == NULL)
        fail_msg("\"%s\" does not name %s", e.text, part_of_text);
    assert_int_equal(part_plan_solve(&prob, &plan, NULL), ERR_RANGE);
    assert_int_equal(part_plan_enumerate(&prob, &plan, NULL), ERR_RANGE);
}

static void test_check(void **state)
{
    (void)state;
    struct err e;
    two_boards();
    assert_int_equal(part_problem_check(&prob, &e), 0);
    prob.n_devices = 0;
    refused("n_devices");
    prob.n_devices = PART_DEVICES_MAX + 1;
    refused("n_devices");
    two_boards();
    prob.n_layers = 0;
    refused("n_layers");
    prob.n_layers = PART_LAYERS_MAX + 1;
    refused("n_layers");
    two_boards();
    prob.time_limit_s = NAN;
    refused("time_limit_s");
    two_boards();
    prob.devices[1].attn[1].row_s = -1e-3;
    refused("attn[1]");
    two_boards();
    prob.devices[1].output.row_s = HUGE_VAL;
    refused("output");
    two_boards();
    prob.devices[0].embed.row_s = NAN;
    refused("embed");
    two_boards();
    prob.devices[0].pass_s = 1e30;
    refused("pass_s");
    two_boards();
    prob.lat_s[0][1] = -1.0;
    refused("lat_s from board0 to board1");
    two_boards();
    prob.rate[1][0] = NAN;
    refused("rate");
    two_boards();
    pin(1, 1, 3);
    refused("board1: pinned to layers 1-2");
    pin(1, 1, 1);
    refused("board1: pinned");
    two_boards();
    prob.layers[0].common_bytes = prob.layers[1].common_bytes = UINT64_MAX / 2;
    refused("layers[");
    two_boards();
    prob.scratch_bytes = UINT64_MAX;
    refused("parts");
    two_boards();
    prob.shared_run_bytes = prob.run_bytes + 1;
    refused("shared_run_bytes");
    two_boards();
    prob.devices[0].memory_bytes = UINT64_MAX;
    refused("memory_bytes");
    two_boards();
    memset(prob.devices[0].name, 'x', PART_NAME_MAX);
    refused("name");
}

/* Times that are all zero make no gap of 0 / 0. */
static void test_free_lunch(void **state)
{
    (void)state;
    static struct part_plan plan;
    struct err e;
    for (int k = 0; k < 2; k++) {
        plain(3, 6);
        prob.objective = k == 1 ? PART_THROUGHPUT : PART_LATENCY;
        assert_int_equal(part_plan_solve(&prob, &plan, &e), 0);
        assert_true(part_plan_fits(&prob, &plan));
        assert_true(plan.gap == 0.0 && part_plan_objective(&prob, &plan) == 0.0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost_by_hand),       cmocka_unit_test(test_groups_by_hand),
        cmocka_unit_test(test_fits),
        cmocka_unit_test(test_two_boards_by_hand), cmocka_unit_test(test_random_small),
        cmocka_unit_test(test_random_middling),    cmocka_unit_test(test_time_limit),
        cmocka_unit_test(test_out_of_memory),      cmocka_unit_test(test_infeasible_sentences),
        cmocka_unit_test(test_left_out_sentences), cmocka_unit_test(test_check),
        cmocka_unit_test(test_free_lunch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
