/* A type for each layer: the knapsack for a plan that is there against every choice of types; types and
 * places together against every choice of types with the best plan of each, by the enumeration that
 * the planner's other tests are held to; and what must be refused.
 *
 * Deciding types and places in turn promises no optimum. How far it is from that is printed, and
 * bounded by what was seen; SHOAL_CASES=200 in the environment looks at so many cases. */
#include "partition/internal.h"
#include "tests/unit/plan_cases.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TYPES = 3, CASES = 12, LAYERS_MAX = 4 };

/* Big: not on the stack. Each case fills them anew. */
static struct part_problem of[TYPES], mixed;
static struct part_precision x;
static struct part_precise found;

static uint32_t n_cases(void)
{
    const char *wanted = getenv("SHOAL_CASES");
    return wanted != NULL ? (uint32_t)atoi(wanted) : CASES;
}

static uint64_t shrunk(uint64_t bytes, double by)
{
    return (uint64_t)((double)bytes * by);
}

/* The problem of type 0 with smaller layers, quicker by another factor on each board: "fewer bits are
 * not always faster". */
static void make_type(uint64_t *seed, uint32_t q, double bytes)
{
    of[q] = of[0];
    for (uint32_t l = 0; l < of[q].n_layers; l++) {
        struct part_layer *y = &of[q].layers[l];
        y->head_bytes = shrunk(y->head_bytes, bytes);
        y->kv_bytes = shrunk(y->kv_bytes, bytes);
        y->ff_bytes = shrunk(y->ff_bytes, bytes);
    }
    for (uint32_t d = 0; d < of[q].n_devices; d++) {
        const double by = bytes * plan_between(seed, 0.8, 1.4);
        for (uint32_t l = 0; l < of[q].n_layers; l++) {
            struct part_device *dev = &of[q].devices[d];
            dev->attn[l] = (struct part_time){dev->attn[l].pass_s * by, dev->attn[l].row_s};
            dev->ff[l] = (struct part_time){dev->ff[l].pass_s * by, dev->ff[l].row_s};
        }
    }
}

/* False: the case is too large to enumerate. */
static bool make_case(uint64_t number)
{
    uint64_t s = base_mix64(number + 77), *seed = &s;
    plan_case_small(number, &of[0]);
    if (of[0].n_devices > 3 || of[0].n_layers > LAYERS_MAX || of[0].n_ff_units > 5 ||
        of[0].n_head_units > 5)
        return false;
    x = (struct part_precision){.n_types = TYPES, .of = {&of[0], &of[1], &of[2]}};
    make_type(seed, 1, 0.53);
    make_type(seed, 2, 0.28);
    double most = 0.0;
    for (uint32_t l = 0; l < of[0].n_layers; l++) {
        x.loss[1][l] = plan_between(seed, 0.01, 0.1);
        x.loss[2][l] = x.loss[1][l] + plan_between(seed, 0.1, 1.0);
        most += x.loss[2][l];
    }
    x.budget = plan_chance(seed, 0.1) ? 0.0 : most * plan_between(seed, 0.02, 0.8);
    if (plan_chance(seed, 0.5)) { /* not all layers fit in type 0, perhaps not in type 1 */
        const double less = plan_between(seed, 0.35, 0.9);
        for (uint32_t q = 0; q < TYPES; q++)
            for (uint32_t d = 0; d < of[0].n_devices; d++)
                of[q].devices[d].memory_bytes =
                    shrunk(of[0].devices[d].memory_bytes, q > 0 ? 1.0 : less);
    }
    return true;
}

/* The next of all choices of types; false after the last. */
static bool next_types(uint8_t *type)
{
    uint32_t l = 0;
    while (l < of[0].n_layers && ++type[l] == TYPES)
        type[l++] = 0;
    return l < of[0].n_layers;
}

static double loss_of(const uint8_t *type)
{
    double sum = 0.0;
    for (uint32_t l = 0; l < of[0].n_layers; l++)
        sum += x.loss[type[l]][l];
    return sum;
}

/* The least objective of a plan with types, PART_NEVER: none fits. */
static double best_types(const struct part_plan *plan)
{
    uint8_t type[PART_LAYERS_MAX] = {0};
    double best = PART_NEVER;
    do {
        struct part_plan now = *plan;
        part_precision_mix(&x, type, &mixed);
        part_plan_cost(&mixed, &now);
        if (loss_of(type) <= x.budget && part_plan_fits(&mixed, &now))
            best = fmin(best, part_plan_objective(&mixed, &now));
    } while (next_types(type));
    return best;
}

static void test_knapsack(void **state)
{
    uint32_t n = 0, without = 0;
    (void)state;
    for (uint64_t number = 0; n < 6 * n_cases(); number++) {
        struct part_plan plan;
        uint8_t type[PART_LAYERS_MAX] = {0};
        /* A plan for the smallest type, whose memory the others may exceed. */
        if (!make_case(number) || part_plan_enumerate(&of[2], &plan, NULL) != 0)
            continue;
        n++;
        const double best = best_types(&plan);
        const int rc = part_milp_types(&x, &plan, base_clock_s() + 60.0, type);
        if (best == PART_NEVER) {
            without++;
            assert_int_equal(rc, ERR_INFEASIBLE);
            continue;
        }
        assert_int_equal(rc, 0);
        part_precision_mix(&x, type, &mixed);
        part_plan_cost(&mixed, &plan);
        assert_true(part_plan_fits(&mixed, &plan));
        assert_true(loss_of(type) <= x.budget * (1.0 + 1e-9));
        if (part_plan_objective(&mixed, &plan) > best * (1.0 + 2e-5))
            fail_msg("case %llu: %.9g instead of %.9g", (unsigned long long)number,
                     part_plan_objective(&mixed, &plan), best);
    }
    print_message("# %u plans, %u of them with no types that fit\n", n, without);
    assert_true(without > 0 && without < n);
}

/* The least objective of all types and all their plans. */
static double best_of_all(void)
{
    uint8_t type[PART_LAYERS_MAX] = {0};
    double best = PART_NEVER;
    do {
        struct part_plan plan;
        if (loss_of(type) > x.budget)
            continue;
        part_precision_mix(&x, type, &mixed);
        const int rc = part_plan_enumerate(&mixed, &plan, NULL);
        assert_true(rc == 0 || rc == ERR_INFEASIBLE);
        if (rc == 0)
            best = fmin(best, part_plan_objective(&mixed, &plan));
    } while (next_types(type));
    return best;
}

static void check_all(const struct part_precise *p)
{
    for (uint32_t q = 0; q < TYPES; q++) {
        struct part_plan plan;
        const int rc = part_plan_enumerate(&of[q], &plan, NULL);
        assert_int_equal(rc == 0, p->all[q].n_stages > 0);
        if (rc == 0)
            assert_true(
                fabs(part_plan_objective(&of[q], &p->all[q]) / part_plan_objective(&of[q], &plan) -
                     1.0) < 1e-6);
    }
}

static void test_joint(void **state)
{
    uint32_t n = 0, best_found = 0, none = 0;
    double sum = 0.0, worst = 0.0;
    (void)state;
    for (uint64_t number = 0; n < n_cases(); number++) {
        struct err e = {0};
        if (!make_case(number))
            continue;
        n++;
        const double best = best_of_all();
        const int rc = part_precision_solve(&x, &found, &e);
        if (best == PART_NEVER) {
            none++;
            assert_int_equal(rc, ERR_INFEASIBLE);
            assert_true(e.text[0] != 0);
            continue;
        }
        if (rc != 0)
            fail_msg("case %llu: %s", (unsigned long long)number, e.text);
        part_precision_mix(&x, found.type, &mixed);
        assert_true(part_plan_fits(&mixed, &found.plan));
        assert_true(loss_of(found.type) <= x.budget * (1.0 + 1e-9));
        const double off = part_plan_objective(&mixed, &found.plan) / best - 1.0;
        assert_true(off > -1e-6);
        best_found += off < 2e-5;
        sum += off;
        worst = fmax(worst, off);
        if (off > 0.005)
            print_message("# case %llu: %.3g %% above\n", (unsigned long long)number, 100 * off);
        check_all(&found);
    }
    print_message("# %u cases, %u impossible, %u best, mean %.3g %% above, worst %.3g %%\n", n,
                  none, best_found, 100 * sum / (n - none), 100 * worst);
    assert_true(none > 0 && none < n / 2);
    assert_true(10 * best_found >= 9 * (n - none) && worst < 0.16);
}

static void test_memory(void **state)
{
    struct err e = {0};
    int rc = ERR_NOMEM;
    (void)state;
    uint64_t number = 0;
    while (!make_case(number) || part_precision_solve(&x, &found, &e) != 0)
        number++;
    const int64_t live = base_alloc_live();
    for (uint64_t n = 1; rc != 0 && n < 10000; n++) {
        base_alloc_fail_nth(n);
        rc = part_precision_solve(&x, &found, &e);
        base_alloc_fail_nth(0);
        assert_int_equal(base_alloc_live(), live);
        assert_true(rc == 0 || rc == ERR_NOMEM);
    }
    assert_int_equal(rc, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_knapsack),
        cmocka_unit_test(test_joint),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("precision", tests, NULL, NULL);
}
