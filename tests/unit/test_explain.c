/* What `shoal plan` says of a plan: which rule binds it and what one more board would bring, on
 * clusters where the answers are plain. */
#include "coordinator/coordinator.h"
#include "tests/tools/make_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, CHUNK = 64, TIME_S = 600 }; /* more time than any of these takes */

static struct net_config config; /* too large for a stack */
static struct coord_profile profile;
static struct coord_blocks blocks, of_eight;
static struct coord_solution solution;
static struct coord_reasons reasons;

static int setup(void **state)
{
    const struct make_model whole = {.shape = "tinyllama", .type = "Q8_0", .hollow = true};
    char path[] = "/tmp/test-explain-XXXXXX";
    struct model *m = NULL;
    struct err e = {0};
    const int fd = mkstemp(path);
    (void)state;
    config.slots = 4;
    config.context = 256;
    config.chunk = CHUNK;
    const bool good =
        fd >= 0 && make_model_write(&whole, path, &e) == 0 && model_open(path, &m, &e) == 0;
    if (good)
        coord_blocks_of(m, &config, &blocks);
    config.n_workers = 8;
    if (good)
        coord_blocks_of(m, &config, &of_eight);
    config.n_workers = 0;
    model_close(m);
    close(fd);
    unlink(path);
    return good ? 0 : 1;
}

static void add_board(const char *name, double bandwidth, uint64_t memory_bytes)
{
    const uint32_t i = profile.n_nodes++;
    struct coord_node_profile *n = &profile.nodes[i];
    *n = (struct coord_node_profile){.measured = true,
                                     .throttle = 1,
                                     .pass = 1e-4,
                                     .memory_bytes = memory_bytes,
                                     .figures = {.bandwidth = bandwidth,
                                                 .int8 = bandwidth * 10,
                                                 .half = 3e-5,
                                                 .rate = 112e6,
                                                 .latency = 1e-4}};
    snprintf(n->name, sizeof n->name, "%s", name);
    snprintf(config.workers[i].name, sizeof config.workers[i].name, "%s", name);
    config.n_workers = profile.n_nodes;
}

static void new_cluster(void)
{
    memset(&profile, 0, sizeof profile);
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        for (uint32_t k = 0; k < NET_WORKERS_MAX; k++)
            profile.rtt[i][k] = profile.rate[i][k] = NAN;
    memset(&config, 0, sizeof config);
    config.slots = 4;
    config.context = 256;
    config.granularity = NET_LAYERS;
    config.prompt = 64;
    config.solve_s = TIME_S;
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        config.workers[i].layer0 = config.workers[i].layer1 = -1;
}

static void explain(void)
{
    const uint32_t present = (UINT32_C(1) << profile.n_nodes) - 1;
    struct err e = {0};
    coord_profile_complete(&profile, &blocks);
    if (coord_solve(&config, &blocks, &profile, present, NULL, false, &solution, &e) != 0 ||
        coord_explain(&config, &blocks, &profile, present, &solution, TIME_S, &reasons, &e) != 0)
        fail_msg("%s", e.text);
}

/* One sentence has all of this in it. */
static void says(const char *a, const char *b, const char *c)
{
    for (uint32_t i = 0; i < reasons.n; i++)
        if (strstr(reasons.text[i], a) != NULL && strstr(reasons.text[i], b) != NULL &&
            strstr(reasons.text[i], c) != NULL)
            return;
    for (uint32_t i = 0; i < reasons.n; i++)
        print_error("%s\n", reasons.text[i]);
    fail_msg("no sentence says \"%s\", \"%s\" and \"%s\"", a, b, c);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void test_memory_binds(void **state)
{
    (void)state;
    new_cluster();
    add_board("quick", 10e9, (uint64_t)700 * MIB);
    add_board("slow", 2e9, (uint64_t)4096 * MIB);
    explain();
    says("memory binds", "quick would hold 1.", "it has 700.0 MiB");
    says("one more board like quick", "% less", "ms a token instead of");
}

static void test_memory_does_not_bind(void **state)
{
    (void)state;
    new_cluster();
    add_board("quick", 10e9, (uint64_t)4096 * MIB);
    add_board("slow", 2e9, (uint64_t)4096 * MIB);
    explain();
    says("memory does not bind", "", "");
    says("one more board like quick or slow: no gain", "", "");
    says("granularity binds: without it ", "% less", "");
    assert_int_equal(reasons.n, 3);
}

/* What is gained is what the program says of the cluster that has one board more. */
static void test_gain(void **state)
{
    char part[64];
    (void)state;
    new_cluster();
    add_board("quick", 10e9, (uint64_t)700 * MIB);
    add_board("slow", 2e9, (uint64_t)4096 * MIB);
    explain();
    const double before_ms = solution.plan.latency_s * 1e3;
    struct coord_reasons was = reasons;
    add_board("quick2", 10e9, (uint64_t)700 * MIB);
    explain();
    snprintf(part, sizeof part, "%.1f ms a token instead of %.1f", solution.plan.latency_s * 1e3,
             before_ms);
    says("one more board like quick", "", "");
    reasons = was;
    says("one more board like quick", part, "");
}

static void test_rules(void **state)
{
    (void)state;
    new_cluster();
    add_board("quick", 10e9, (uint64_t)4096 * MIB);
    add_board("slow", 2e9, (uint64_t)4096 * MIB);
    config.use_all = true;
    explain();
    says("use: all binds: without it ", "% less", "");
    config.use_all = false;
    config.workers[1].layer0 = 0;
    config.workers[1].layer1 = 11;
    explain();
    says("pins (layers, heads, columns, role) binds: without it ", "% less", "");
}

static void test_throughput(void **state)
{
    (void)state;
    new_cluster();
    add_board("quick", 10e9, (uint64_t)700 * MIB);
    add_board("slow", 2e9, (uint64_t)4096 * MIB);
    config.objective = 1;
    explain();
    says("one more board like quick", "% more", "tok/s instead of");
    config.objective = 0.5;
    explain();
    says("one more board like quick", "% better by the weighted objective", "tok/s instead of");
}

/* Hidden states take the wire as long as the bytes that they travel in. */
static void test_hidden_states(void **state)
{
    (void)state;
    new_cluster();
    add_board("one", 10e9, (uint64_t)700 * MIB);
    add_board("other", 10e9, (uint64_t)800 * MIB);
    explain();
    assert_int_equal(solution.plan.n_stages, 2);
    const double exact_s = solution.hop_s[0];
    config.wire = NET_SUMS_Q8;
    explain();
    const double fewer = (double)model_rows_bytes(1, blocks.n_embd, MODEL_WIRE_EXACT) -
                         (double)model_rows_bytes(1, blocks.n_embd, MODEL_WIRE_Q8);
    assert_true(fewer > 2.5 * blocks.n_embd);
    assert_true(fabs(exact_s - solution.hop_s[0] - fewer / 112e6) < 1e-9);
}

/* The more stages a ring may have, the more chunks of a prompt may wait before one: three for two
 * stages, nine for eight. */
static void test_waiting_rows(void **state)
{
    (void)state;
    assert_int_equal(of_eight.scratch_bytes - blocks.scratch_bytes,
                     6 * CHUNK * blocks.n_embd * sizeof(float));
}

/* A time that is no time answers nothing, and says so. */
static void test_no_time(void **state)
{
    struct err e = {0};
    (void)state;
    new_cluster();
    add_board("quick", 10e9, (uint64_t)700 * MIB);
    add_board("slow", 2e9, (uint64_t)4096 * MIB);
    explain();
    assert_int_equal(coord_explain(&config, &blocks, &profile, 3, &solution, 0, &reasons, &e), 0);
    says("memory: with more of it no better plan was found in time", "", "");
    says("one more board like quick or slow: no better plan was found in time", "", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_binds), cmocka_unit_test(test_memory_does_not_bind),
        cmocka_unit_test(test_gain),         cmocka_unit_test(test_rules),
        cmocka_unit_test(test_throughput),   cmocka_unit_test(test_no_time),
        cmocka_unit_test(test_waiting_rows), cmocka_unit_test(test_hidden_states),
    };
    return cmocka_run_group_tests_name("explain", tests, setup, NULL);
}
