/* Published algorithms against worked examples and, where they promise an optimum, against every ring
 * of their kind; the solver on clusters of boards against all of them; the bound of large problems
 * against known optima.
 *
 * With --table SECONDS [FROM TO] it prints instead how the solver does on each of the clusters. */
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

static const uint64_t MIB = 1u << 20;

static struct part_problem prob; /* big: not on the stack */

/* Boards of the given milliseconds a layer, half of it attention, all else free. */
static void boards(uint32_t n_devices, uint32_t n_layers, const double *layer_ms)
{
    memset(&prob, 0, sizeof prob);
    prob.n_devices = n_devices;
    prob.n_layers = n_layers;
    prob.n_head_units = prob.n_ff_units = 4;
    prob.unit_heads = prob.heads_per_kv = prob.n_vocab_runs = 1;
    prob.slots = 1;
    prob.hidden_bytes = prob.sum_bytes = prob.normed_bytes = 1000.0;
    prob.time_limit_s = 10.0;
    for (uint32_t l = 0; l < n_layers; l++)
        prob.layers[l] = (struct part_layer){.head_bytes = 10 * MIB, .ff_bytes = 15 * MIB};
    for (uint32_t d = 0; d < n_devices; d++) {
        struct part_device *dev = &prob.devices[d];
        snprintf(dev->name, sizeof dev->name, "board%u", d);
        dev->memory_bytes = 100000 * MIB;
        dev->pin0 = dev->pin_heads = dev->pin_ff = -1;
        for (uint32_t l = 0; l < n_layers; l++)
            dev->attn[l].row_s = dev->ff[l].row_s = layer_ms[d] * 0.5e-3;
        for (uint32_t e = 0; e < n_devices; e++) {
            prob.lat_s[d][e] = 1e-5;
            prob.rate[d][e] = 1e9;
        }
    }
}

static void near(double a, double b)
{
    if (fabs(a - b) > 1e-9 * fmax(fabs(a), fabs(b)))
        fail_msg("%.15g is not %.15g", a, b);
}

/* ---- a team by hand ---- */

/* One layer; the second board is half as quick. Milliseconds: attention 8 and 16, feed-forward 4 and
 * 8, output 1; a message 0.05 at either end, one way 0.2; normed rows 0.1 on the wire, sums and hidden
 * states 0.4; a pass 0.3. Both take half of both halves, the leader the output. */
static void test_team_by_hand(void **state)
{
    (void)state;
    boards(2, 1, (const double[]){12.0, 24.0});
    for (uint32_t d = 0; d < 2; d++) {
        struct part_device *dev = &prob.devices[d];
        dev->attn[0].row_s = d == 0 ? 8e-3 : 16e-3;
        dev->ff[0].row_s = d == 0 ? 4e-3 : 8e-3;
        dev->output.row_s = 1e-3;
        dev->message_s = 5e-5;
        dev->pass_s = 3e-4;
        for (uint32_t e = 0; e < 2; e++) {
            prob.lat_s[d][e] = 2e-4;
            prob.rate[d][e] = 1e6;
        }
    }
    prob.normed_bytes = 100.0;
    prob.sum_bytes = prob.hidden_bytes = 400.0;
    struct part_stage s = {
        .layer1 = 1, .n_members = 2, .members = {{0, 0, 2, 0, 2, 0, 1}, {1, 2, 4, 2, 4, 1, 1}}};
    /* The member ends last: sent 0.05, on the wire 0.1, way 0.2, taken 0.05, 8 or 4 computed, sent
     * 0.05, wire 0.4, way 0.2, taken by the leader 0.05. */
    near(part_stage_seconds(&prob, &s, 1.0), 0.3e-3 + 9.1e-3 + 5.1e-3 + 1e-3);
    s.shape = PART_MESH;
    /* First the hidden state: sent 0.05, wire 0.4, way 0.2, taken 0.05. Then 8 or 4 computed, sent
     * 0.05, wire 0.4, way 0.2, taken 0.05. */
    near(part_stage_seconds(&prob, &s, 1.0), 0.3e-3 + 0.7e-3 + 8.7e-3 + 4.7e-3 + 1e-3);
    /* A member without columns sends nothing in that half of a star. */
    s.shape = PART_STAR;
    s.members[0].ff1 = s.members[1].ff0 = 4;
    near(part_stage_seconds(&prob, &s, 1.0), 0.3e-3 + 9.1e-3 + 4e-3 + 1e-3);
    /* Twice the rows: everything but passes, ways and messages. */
    near(part_stage_seconds(&prob, &s, 2.0), 0.3e-3 + (9.1e-3 + 8e-3 + 0.5e-3) + 8e-3 + 2e-3);
}

/* Boards with half of the time each, so at full speed 4 + 2 and 8 + 4 ms for their shares as above. */
static void test_quota_by_hand(void **state)
{
    (void)state;
    boards(2, 1, (const double[]){24.0, 24.0});
    for (uint32_t d = 0; d < 2; d++) {
        prob.devices[d].attn[0].row_s = 16e-3;
        prob.devices[d].ff[0].row_s = 8e-3;
        prob.devices[d].throttle = 0.5;
        prob.lat_s[d][1 - d] = 1e-3;
    }
    prob.hidden_bytes = prob.sum_bytes = prob.normed_bytes = 0.0;
    struct part_stage s = {
        .layer1 = 1, .n_members = 2, .members = {{0, 0, 2, 0, 2, 0, 1}, {1, 2, 4, 2, 4, 1, 1}}};
    /* 4 + 2 ms computed and two ways a half are less than what the quotas give 12 ms for. */
    near(part_stage_seconds(&prob, &s, 1.0), 12e-3);
    /* Four messages a layer take of the leader's quota, too; a mesh begins with one more, and a way. */
    prob.devices[0].message_s = 1e-3;
    near(part_stage_seconds(&prob, &s, 1.0), 12e-3 + 4 * 2e-3);
    s.shape = PART_MESH;
    near(part_stage_seconds(&prob, &s, 1.0), 1e-3 + 1e-3 + 12e-3 + 4 * 2e-3);
    s.shape = PART_STAR;
    prob.devices[0].message_s = 0.0;
    prob.lat_s[0][1] = prob.lat_s[1][0] = 5e-3;
    near(part_stage_seconds(&prob, &s, 1.0), 4e-3 + 2e-3 + 4 * 5e-3);
    /* A member without a quota waits for the one that has. */
    prob.devices[0].throttle = 0.0;
    near(part_stage_seconds(&prob, &s, 1.0), 4e-3 + 2e-3 + 4 * 5e-3);
    /* Alone it always computes. */
    s = part_stage_single(&prob, 1, 0, 1, true);
    near(part_stage_seconds(&prob, &s, 1.0), 24e-3);
    /* A prompt goes in two halves, whose computing the other's ways hide. */
    prob.devices[0].throttle = 0.5;
    prob.prompt_rows = prob.chunk_rows = 4;
    s.n_members = 2;
    s.members[0] = (struct part_member){0, 0, 2, 0, 2, 0, 1};
    s.members[1] = (struct part_member){1, 2, 4, 2, 4, 1, 1};
    near(part_stage_prompt_seconds(&prob, &s), 4 * 12e-3);
}

/* The first stage samples in the pass that begins the next token: two passes a token, two hops with
 * hidden states. */
static void test_output_first_by_hand(void **state)
{
    (void)state;
    static struct part_plan plan;
    boards(2, 2, (const double[]){2.0, 3.0});
    for (uint32_t d = 0; d < 2; d++) {
        prob.devices[d].pass_s = 1e-3;
        prob.devices[d].output.row_s = 4e-3;
    }
    plan = (struct part_plan){.n_stages = 2, .output_first = true};
    plan.stages[0] = part_stage_single(&prob, 0, 0, 1, true);
    plan.stages[1] = part_stage_single(&prob, 1, 1, 2, false);
    part_plan_cost(&prob, &plan);
    near(plan.latency_s, (1e-3 + 2e-3 + 4e-3) + (1e-3 + 3e-3) + 2 * (1e-5 + 1e-6));
    assert_true(part_plan_fits(&prob, &plan));
}

/* Two query heads share a KV head; three members cut it in the middle. */
static void test_kv_heads_are_held_twice(void **state)
{
    (void)state;
    boards(2, 2, (const double[]){1.0, 1.0});
    prob.heads_per_kv = 2;
    for (uint32_t l = 0; l < 2; l++)
        prob.layers[l] = (struct part_layer){1, 10, 100, 1000, 0.5};
    const struct part_stage s = {.layer0 = 0,
                                 .layer1 = 2,
                                 .n_members = 2,
                                 .members = {{0, 0, 3, 0, 1, 0, 1}, {1, 3, 4, 1, 4, 1, 1}}};
    assert_int_equal(part_member_memory(&prob, &s, 0), 2 * (1 + 3 * 10 + 2 * 100 + 1000));
    assert_int_equal(part_member_memory(&prob, &s, 1), 2 * (1 + 10 + 100 + 3 * 1000));
    /* The member's half by KV heads is one of two, its half by heads one of four. */
    prob.lat_s[0][1] = prob.lat_s[1][0] = 1.0;
    prob.hidden_bytes = prob.sum_bytes = prob.normed_bytes = 0.0;
    near(part_stage_seconds(&prob, &s, 1.0),
         2 * (2.0 + 0.5e-3 * (0.5 * 1 / 4 + 0.5 * 1 / 2) + 2.0 + 0.5e-3 * 3 / 4));
}

/* ---- every ring of a kind ---- */

struct every {
    bool in_order, slowest;
    double rows, least;
};

static void extend(struct every *all, uint32_t cut, uint32_t used, uint32_t last, double cost)
{
    for (uint32_t d = 0; d < prob.n_devices; d++)
        for (uint32_t to = cut + 1; to <= prob.n_layers; to++) {
            if ((used >> d & 1) != 0 || (cut == 0 && d != 0) ||
                (all->in_order && cut > 0 && d < last))
                continue;
            const struct part_stage s = part_stage_single(&prob, d, cut, to, to == prob.n_layers);
            if (part_member_memory(&prob, &s, 0) > prob.devices[d].memory_bytes)
                continue;
            const double run = part_stage_seconds(&prob, &s, all->rows);
            const double busy = cut > 0 ? all->rows * prob.hidden_bytes / prob.rate[last][d] : 0.0;
            double next = all->slowest ? fmax(cost, fmax(run, busy))
                                       : cost + run + busy + (cut > 0 ? prob.lat_s[last][d] : 0.0);
            if (to < prob.n_layers) {
                extend(all, to, used | 1u << d, d, next);
                continue;
            }
            next += all->slowest || d == 0 ? 0.0 : prob.lat_s[d][0];
            all->least = fmin(all->least, next);
        }
}

static void random_layers(uint64_t *seed, bool tight)
{
    boards(3, 5,
           (const double[]){plan_between(seed, 1, 6), plan_between(seed, 1, 6),
                            plan_between(seed, 1, 6)});
    for (uint32_t d = 0; d < 3; d++) {
        for (uint32_t l = 0; l < 5; l++)
            prob.devices[d].attn[l].row_s *= plan_between(seed, 0.5, 1.5);
        prob.devices[d].output.row_s = plan_between(seed, 0, 4e-3);
        prob.devices[d].pass_s = plan_between(seed, 0, 1e-3);
        prob.devices[d].memory_bytes = MIB * (tight ? 200u + plan_below(seed, 300) : 9000u);
        for (uint32_t e = 0; e < 3; e++) {
            prob.lat_s[d][e] = plan_between(seed, 1e-4, 3e-3);
            prob.rate[d][e] = plan_between(seed, 2e5, 4e6);
        }
    }
    prob.slots = 1 + plan_below(seed, 6);
}

static void test_dynamic_programs(void **state)
{
    (void)state;
    static struct part_plan plan;
    int equal = 0, found = 0;
    for (uint64_t number = 0; number < 60; number++) {
        uint64_t seed = base_mix64(700 + number);
        random_layers(&seed, number % 2 == 1);
        struct every sum = {.rows = 1.0, .least = HUGE_VAL},
                     order = {.rows = 1.0, .least = HUGE_VAL, .in_order = true},
                     slowest = {.least = HUGE_VAL, .slowest = true};
        const uint32_t groups = prob.slots < 3 ? prob.slots : 3;
        slowest.rows = (double)prob.slots / groups;
        extend(&sum, 0, 0, 0, 0.0);
        extend(&order, 0, 0, 0, 0.0);
        extend(&slowest, 0, 0, 0, 0.0);
        const bool any = sum.least < HUGE_VAL;
        /* LinguaLinked's is exact among rings in order. */
        int rc = part_algorithm_run(PART_LINGUALINKED, &prob, &plan, NULL);
        assert_int_equal(rc == 0, order.least < HUGE_VAL);
        if (rc == 0)
            near(plan.latency_s, order.least);
        /* EdgeShard's second is exact; its first remembers only one path to each state. */
        rc = part_algorithm_run(PART_EDGESHARD_THROUGHPUT, &prob, &plan, NULL);
        assert_int_equal(rc == 0, any);
        for (uint32_t k = 0; rc == 0 && k < plan.n_stages; k++)
            assert_true(part_stage_seconds(&prob, &plan.stages[k], slowest.rows) <=
                        slowest.least * (1.0 + 1e-9));
        rc = part_algorithm_run(PART_EDGESHARD, &prob, &plan, NULL);
        found += rc == 0 ? 1 : 0;
        assert_true(rc != 0 || plan.latency_s >= sum.least * (1.0 - 1e-9));
        equal += rc == 0 && plan.latency_s <= sum.least * (1.0 + 1e-9) ? 1 : 0;
    }
    assert_true(found >= 45 && equal >= found * 8 / 10);
}

/* ---- worked examples ---- */

static void expect_cuts(enum part_algorithm a, uint32_t n, const uint32_t *ends)
{
    static struct part_plan plan;
    struct err e;
    if (part_algorithm_run(a, &prob, &plan, &e) != 0)
        fail_msg("%s: %s", part_algorithm_name(a), e.text);
    assert_int_equal(plan.n_stages, n);
    for (uint32_t k = 0; k < n; k++)
        assert_int_equal(plan.stages[k].layer1, ends[k]);
    assert_true(part_plan_fits(&prob, &plan) && plan.gap == 1.0);
}

static void test_splits_by_hand(void **state)
{
    (void)state;
    boards(3, 8, (const double[]){1.0, 3.0, 2.0});
    expect_cuts(PART_EVEN, 3, (const uint32_t[]){3, 6, 8}); /* 8/3 each, the first two get more */
    for (uint32_t d = 0; d < 3; d++)
        prob.devices[d].memory_bytes = (d == 1 ? 2000u : 1000u) * MIB;
    expect_cuts(PART_MEMORY, 3, (const uint32_t[]){2, 6, 8});
    /* 4 ms a stage: four layers, one, two make seven; with 5 ms: five, one, two. */
    expect_cuts(PART_HYPERION, 3, (const uint32_t[]){5, 6, 8});
    for (uint32_t d = 0; d < 3; d++)
        prob.devices[d].memory_bytes = 250 * MIB; /* two layers each: eight do not fit */
    static struct part_plan plan;
    for (int a = PART_EVEN; a < PART_ALGORITHMS; a++)
        assert_int_equal(part_algorithm_run((enum part_algorithm)a, &prob, &plan, NULL),
                         ERR_INFEASIBLE);
}

/* Two boards alike and a third five times slower: the myopic rule fills the quick ones evenly. */
static void test_heads_by_hand(void **state)
{
    (void)state;
    static struct part_plan plan;
    boards(3, 4, (const double[]){2.0, 2.0, 10.0});
    assert_int_equal(part_algorithm_run(PART_MYOPIC_HEADS, &prob, &plan, NULL), 0);
    assert_int_equal(plan.n_stages, 1);
    assert_int_equal(plan.stages[0].n_members, 2);
    for (uint32_t k = 0; k < 2; k++) {
        const struct part_member *m = &plan.stages[0].members[k];
        assert_int_equal(m->device, k);
        assert_int_equal(m->head1 - m->head0, 2);
        assert_int_equal(m->ff1 - m->ff0, 2);
    }
}

static void test_names(void **state)
{
    (void)state;
    for (int a = 0; a < PART_ALGORITHMS; a++)
        assert_int_equal(part_algorithm_find(part_algorithm_name((enum part_algorithm)a)), a);
    assert_int_equal(part_algorithm_find("no such"), -1);
}

/* ---- clusters ---- */

/* On a cluster: a plan that fits, no worse than any published one, and a bound that none of them
 * breaks. */
static void hold_against(uint32_t number, double limit_s, struct part_plan *plan, char *name)
{
    static struct part_plan other;
    struct err e;
    plan_case_cluster(number, &prob, name);
    prob.time_limit_s = limit_s;
    if (part_plan_solve(&prob, plan, &e) != 0)
        fail_msg("cluster %u: %s", number, e.text);
    const double mine = part_plan_objective(&prob, plan);
    assert_true(part_plan_fits(&prob, plan));
    assert_true(plan->gap >= 0.0 && plan->gap <= 1.0);
    for (int a = PART_EVEN; a < PART_ALGORITHMS; a++) {
        if (part_algorithm_run((enum part_algorithm)a, &prob, &other, NULL) != 0)
            continue;
        const double theirs = part_plan_objective(&prob, &other);
        if (mine > theirs * (1.0 + 1e-9) || mine * (1.0 - plan->gap) > theirs * (1.0 + 1e-9))
            fail_msg("cluster %u: %.9g with gap %.3g, %s finds %.9g", number, mine, plan->gap,
                     part_algorithm_name((enum part_algorithm)a), theirs);
    }
}

/* With a good plan given and next to no time, the solver's is no worse; one that breaks a rule is not
 * taken. */
static void test_begins_with_given(void **state)
{
    (void)state;
    static struct part_plan good, again;
    char name[96];
    hold_against(3, 1.0, &good, name);
    const double objective = part_plan_objective(&prob, &good);
    prob.begin = &good;
    prob.time_limit_s = 1e-3;
    assert_int_equal(part_plan_solve(&prob, &again, NULL), 0);
    assert_true(part_plan_objective(&prob, &again) <= objective * (1.0 + 1e-9));
    assert_true(again.gap > 0.0 && part_plan_fits(&prob, &again));

    const uint32_t leader = good.stages[0].members[0].device;
    prob.devices[leader].memory_bytes = 1;
    prob.time_limit_s = 0.2;
    assert_int_equal(part_plan_solve(&prob, &again, NULL), 0);
    assert_true(part_plan_find(&again, leader, NULL) == again.n_stages);
}

static void test_clusters(void **state)
{
    (void)state;
    static struct part_plan plan;
    char name[96];
    for (uint32_t number = 0; number < PLAN_CLUSTERS; number += 5)
        hold_against(number, 0.7, &plan, name);
}

/* Boards of one make: copies of the first that differ by a few percent. */
static void make_alike(struct part_problem *p, uint64_t number)
{
    uint64_t seed = base_mix64(number + 5000);
    for (uint32_t d = 1; d < p->n_devices; d++) {
        struct part_device *dev = &p->devices[d];
        const struct part_device own = *dev;
        *dev = p->devices[0];
        dev->memory_bytes = own.memory_bytes;
        dev->pin0 = own.pin0;
        dev->pin1 = own.pin1;
        dev->pin_heads = own.pin_heads;
        dev->pin_ff = own.pin_ff;
        dev->pin_leader = own.pin_leader;
        for (uint32_t l = 0; l < p->n_layers; l++) {
            dev->attn[l].pass_s *= plan_between(&seed, 0.97, 1.03);
            dev->ff[l].row_s *= plan_between(&seed, 0.97, 1.03);
        }
        dev->output.pass_s *= plan_between(&seed, 0.97, 1.03);
    }
}

/* Quotas for some of the boards. */
static void add_quotas(struct part_problem *p, uint64_t number)
{
    uint64_t seed = base_mix64(number + 6000);
    for (uint32_t d = 0; d < p->n_devices; d++)
        p->devices[d].throttle = plan_chance(&seed, 0.7) ? plan_between(&seed, 0.2, 1.0) : 0.0;
}

/* Some boards on Wi-Fi among wired ones. */
static void mix_links(struct part_problem *p, uint64_t number)
{
    uint64_t seed = base_mix64(number + 7000);
    const uint32_t first = plan_below(&seed, p->n_devices);
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t e = 0; e < p->n_devices; e++) {
            const bool slow = d % 2 == first % 2 || e % 2 == first % 2;
            p->lat_s[d][e] = slow ? 1e-3 : 2e-4;
            p->rate[d][e] = slow ? 6e6 : 117e6;
        }
}

/* Little more memory than the model has bytes, and heads and columns that are a good part of it. */
static void make_tight(struct part_problem *p, uint64_t number)
{
    uint64_t seed = base_mix64(number + 8000), need = p->embed_bytes;
    for (uint32_t l = 0; l < p->n_layers; l++)
        need += part_layer_bytes(p, l);
    need += p->n_vocab_runs * p->run_bytes;
    for (uint32_t d = 0; d < p->n_devices; d++)
        p->devices[d].memory_bytes =
            p->base_bytes + p->scratch_bytes + p->team_bytes +
            (uint64_t)((double)need * plan_between(&seed, 1.0, 1.8) / p->n_devices);
}

/* Devices that can hold nothing: the same plans, but too many sets of devices to list them all. */
static void add_dead_boards(struct part_problem *p)
{
    while (p->n_devices < 6) {
        const uint32_t n = p->n_devices++;
        p->devices[n] = p->devices[0];
        p->devices[n].memory_bytes = 0;
        p->devices[n].pin0 = p->devices[n].pin_heads = p->devices[n].pin_ff = -1;
        p->devices[n].pin_leader = false;
        for (uint32_t e = 0; e < n; e++) {
            p->lat_s[n][e] = p->lat_s[e][n] = p->lat_s[0][1];
            p->rate[n][e] = p->rate[e][n] = p->rate[0][1];
        }
    }
}

/* The bound of large problems on small ones: never above the optimum that enumeration finds. */
static void test_bound_is_below_optimum(void **state)
{
    (void)state;
    enum { PROBLEMS = 200 / PLAN_SHORTER };
    static struct part_plan truth;
    int compared = 0;
    for (uint64_t number = 0; number < PROBLEMS; number++) {
        plan_case_small(number, &prob);
        prob.ttft_max_s = 0.0;
        if (number % 2 == 1)
            make_alike(&prob, number);
        if (number % 3 == 2)
            add_quotas(&prob, number);
        if (number % 5 == 3)
            mix_links(&prob, number);
        if (number % 5 >= 3)
            make_tight(&prob, number);
        if (part_plan_enumerate(&prob, &truth, NULL) != 0)
            continue;
        const double best = part_plan_objective(&prob, &truth);
        const bool latency = prob.objective == PART_LATENCY;
        if (number % 2 == 1 && !prob.use_all)
            add_dead_boards(&prob);
        struct part_relax *r = part_relax_new(&prob);
        assert_non_null(r);
        const uint32_t n = latency ? 0 : truth.n_stages;
        const double upper = number % 4 < 2 ? HUGE_VAL : (1.0 + 0.1 * (double)(number % 8)) * best;
        const double bound = fmax(part_relax_sum(r, n), part_relax_close(r, n, upper, HUGE_VAL));
        part_relax_free(r);
        compared++;
        if (bound > best * (1.0 + 1e-9))
            fail_msg("problem %llu: a bound of %.12g, the optimum is %.12g",
                     (unsigned long long)number, bound, best);
    }
    assert_true(compared >= PROBLEMS * 2 / 3);
}

/* Quotas couple the halves of a layer, so that not every division is listed: the plan is good, and
 * what it claims is true. */
static void test_quotas(void **state)
{
    (void)state;
    enum { PROBLEMS = 40 / PLAN_SHORTER };
    static struct part_plan truth, plan;
    int compared = 0, best = 0;
    for (uint64_t number = 0; number < PROBLEMS; number++) {
        plan_case_small(number, &prob);
        add_quotas(&prob, number);
        prob.granularity = PART_AUTO;
        if (part_plan_enumerate(&prob, &truth, NULL) != 0)
            continue;
        prob.time_limit_s = 5.0; /* it is not needed */
        if (part_plan_solve(&prob, &plan, NULL) != 0)
            continue;
        const double found = part_plan_objective(&prob, &plan);
        const double least = part_plan_objective(&prob, &truth);
        compared++;
        best += found <= least * 1.15 ? 1 : 0;
        assert_true(part_plan_fits(&prob, &plan));
        if (found < least * (1.0 - 1e-9) || found * (1.0 - plan.gap) > least * (1.0 + 1e-9))
            fail_msg("problem %llu: %.12g with gap %.4g, the optimum is %.12g",
                     (unsigned long long)number, found, plan.gap, least);
    }
    print_message("%d of %d plans are within 15 %% of the best\n", best, compared);
    assert_true(compared >= PROBLEMS / 2 && best >= compared * 3 / 4);
}

/* ---- the table ---- */

/* The best of the published algorithms, in parts of the solver's objective. */
static double best_published(const struct part_plan *mine, const char **name)
{
    static struct part_plan other;
    double best = HUGE_VAL;
    *name = "none fits";
    for (int a = PART_EVEN; a < PART_ALGORITHMS; a++)
        if (part_algorithm_run((enum part_algorithm)a, &prob, &other, NULL) == 0 &&
            part_plan_objective(&prob, &other) < best) {
            best = part_plan_objective(&prob, &other);
            *name = part_algorithm_name((enum part_algorithm)a);
        }
    return best / part_plan_objective(&prob, mine);
}

static int print_table(double limit_s, uint32_t from, uint32_t to)
{
    static const char *const objectives[] = {"latency", "throughput", "weighted"};
    static struct part_plan plan;
    double gaps[PLAN_CLUSTERS];
    uint32_t n = 0;
    for (uint32_t number = from; number < to && number < PLAN_CLUSTERS; number++) {
        char name[96], stages[160] = "";
        const char *theirs;
        struct err e;
        plan_case_cluster(number, &prob, name);
        prob.time_limit_s = limit_s;
        if (part_plan_solve(&prob, &plan, &e) != 0) {
            printf("| %u | %s | %s |\n", number, name, e.text);
            continue;
        }
        for (uint32_t k = 0; k < plan.n_stages; k++) {
            const size_t at = strlen(stages);
            snprintf(stages + at, sizeof stages - at, "%s%u%s:%u", k > 0 ? " " : "",
                     plan.stages[k].n_members,
                     plan.stages[k].n_members == 1       ? ""
                     : plan.stages[k].shape == PART_STAR ? "*"
                                                         : "x",
                     plan.stages[k].layer1 - plan.stages[k].layer0);
        }
        const double ratio = best_published(&plan, &theirs);
        gaps[n++] = plan.gap;
        printf("| %u | %s | %s | %.2f | %s | %.1f | %.1f | %.2f | %s |\n", number, name,
               objectives[prob.objective], 1e3 * part_plan_objective(&prob, &plan), stages,
               100 * plan.gap, plan.solve_s, ratio, theirs);
        fflush(stdout);
    }
    if (n > 0) {
        const double median = base_median(gaps, n);
        printf("\n%u clusters: median gap %.1f %%, worst %.1f %%\n", n, 100 * median,
               100 * gaps[n - 1]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--table") == 0)
        return print_table(atof(argv[2]), argc > 3 ? (uint32_t)atoi(argv[3]) : 0,
                           argc > 4 ? (uint32_t)atoi(argv[4]) : PLAN_CLUSTERS);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output_first_by_hand),
        cmocka_unit_test(test_quota_by_hand),
        cmocka_unit_test(test_team_by_hand),
        cmocka_unit_test(test_kv_heads_are_held_twice),
        cmocka_unit_test(test_dynamic_programs),
        cmocka_unit_test(test_splits_by_hand),
        cmocka_unit_test(test_heads_by_hand),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_begins_with_given),
        cmocka_unit_test(test_clusters),
        cmocka_unit_test(test_bound_is_below_optimum),
        cmocka_unit_test(test_quotas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
