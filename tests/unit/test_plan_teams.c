/* Teams: the joint program against exhaustive enumeration on small random problems. */
#include "partition/partition.h"
#include "tests/unit/plan_cases.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct part_problem prob; /* big: not on the stack */

/* ---- against enumeration ---- */

static void test_joint_is_enumeration(void **state)
{
    (void)state;
    enum { PROBLEMS = 300 / PLAN_SHORTER };
    static struct part_plan mine, truth;
    struct err e, why;
    int feasible = 0, teams = 0, output_first = 0, mesh = 0;
    for (uint64_t number = 0; number < PROBLEMS; number++) {
        plan_case_small(number, &prob);
        const int wanted = part_plan_enumerate(&prob, &truth, &why);
        const int rc = part_plan_solve(&prob, &mine, &e);
        if (rc != wanted)
            fail_msg("problem %llu: solver %d (%s), enumeration %d (%s)",
                     (unsigned long long)number, rc, rc != 0 ? e.text : "", wanted,
                     wanted != 0 ? why.text : "");
        if (rc != 0)
            continue;
        feasible++;
        assert_true(part_plan_fits(&prob, &mine));
        const double a = part_plan_objective(&prob, &mine), b = part_plan_objective(&prob, &truth);
        if (fabs(a - b) > 1e-9 * b || mine.gap > 1e-9 || mine.gap < 0.0)
            fail_msg("problem %llu: %.12g with gap %.3g, the optimum is %.12g",
                     (unsigned long long)number, a, mine.gap, b);
        for (uint32_t k = 0; k < mine.n_stages; k++) {
            teams += mine.stages[k].n_members > 1 ? 1 : 0;
            mesh += mine.stages[k].shape == PART_MESH ? 1 : 0;
        }
        output_first += mine.output_first ? 1 : 0;
    }
    print_message("%d feasible, %d teams, %d meshes, %d with the output first\n", feasible, teams,
                  mesh, output_first);
    /* The generator itself: nothing is rare. */
    assert_true(feasible >= PROBLEMS * 2 / 3 && teams > PROBLEMS / 10 && mesh > PROBLEMS / 30 &&
                output_first > PROBLEMS / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joint_is_enumeration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
