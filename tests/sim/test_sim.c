/* Both cores under test, together: worlds drawn from seeds, and scenarios with the trace lines they
 * must give.
 *
 * SIM_SEED=N runs the world of that seed alone, SIM_TRACE=1 prints what happens in it, SIM_SEEDS=N
 * says how many worlds to run, SIM_FIRST=N from which on; SIM_REPORT=1 says what they were made of
 * (soak.sh). A world that fails is run again with its trace kept, since the same
 * seed gives the same run, and its end is shown; where a core aborts instead, the seed is printed
 * on the way down. */
#include "tests/sim/sim.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SEEDS = 3000, TAIL_LINES = 60, TWICE_EVERY = 10, SECOND_US = 1000000 };

static uint64_t environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL || text[0] == 0 ? otherwise : strtoull(text, NULL, 0);
}

/* ---- seeds ----------------------------------------------------------------------------------- */

static char aborting[120];

static void on_abort(int sig)
{
    (void)sig;
    const ssize_t n = write(STDERR_FILENO, aborting, strlen(aborting));
    _exit(n < 0 ? 98 : 99);
}

static void show_tail(const struct sim *s)
{
    const char *text = (const char *)s->trace.ptr;
    size_t at = s->trace.len;
    for (int lines = 0; at > 0 && lines <= TAIL_LINES; at--)
        lines += text[at - 1] == '\n' ? 1 : 0;
    fprintf(stderr, "%.*s", (int)(s->trace.len - at), text + at);
}

static uint64_t reused; /* KV rows, by requests that began behind them */
static uint64_t moved;  /* KV rows of a layer, from worker to worker */
static uint64_t copied; /* those of them that went into copies */
static uint64_t saved;  /* rows that requests went on behind when their plan had broken */
static uint64_t n_worlds, n_events, n_plans, n_faults[SIM_N_FAULTS];
static int64_t worst_us; /* from the last fault's end, or the last request, to the end of all */
static uint64_t worst_seed;

static void count(const struct sim *s)
{
    n_worlds++;
    n_events += s->n_fired;
    n_plans += s->n_commits;
    for (int i = 0; i < SIM_N_FAULTS; i++)
        n_faults[i] += s->n_faults[i];
    for (uint32_t i = 0; i < s->setup.n_requests; i++)
        if (s->clients[i].over_us - s->heal_us > worst_us) {
            worst_us = s->clients[i].over_us - s->heal_us;
            worst_seed = s->setup.seed;
        }
}

static void report(void)
{
    fprintf(stderr, "# worlds=%llu events=%llu plans=%llu", (unsigned long long)n_worlds,
            (unsigned long long)n_events, (unsigned long long)n_plans);
    for (int i = 0; i < SIM_N_FAULTS; i++)
        fprintf(stderr, " %s=%llu", sim_fault_name((enum sim_fault_kind)i),
                (unsigned long long)n_faults[i]);
    fprintf(stderr, " moved_rows=%llu copied_rows=%llu saved_rows=%llu worst_s=%.1f worst_seed=%llu\n",
            (unsigned long long)moved, (unsigned long long)copied, (unsigned long long)saved,
            (double)worst_us / 1e6, (unsigned long long)worst_seed);
}

/* The world's trace hash. A broken promise ends the test with the trace's tail. */

static uint64_t run_seed(uint64_t seed, unsigned how)
{
    static struct sim_setup w;
    const int64_t live = base_alloc_live();
    sim_setup_draw(&w, seed);
    snprintf(aborting, sizeof aborting,
             "# the world of seed %llu aborts; replay: SIM_SEED=%llu SIM_TRACE=1\n",
             (unsigned long long)seed, (unsigned long long)seed);
    struct sim *s = sim_new(&w, how);
    const bool good = sim_run(s);
    const uint64_t hash = s->trace_hash;
    reused += s->n_reused;
    moved += s->n_moved;
    copied += s->n_copied;
    saved += s->n_saved;
    if (good) {
        count(s);
        sim_free(s);
        assert_int_equal(base_alloc_live(), live);
        return hash;
    }
    if ((how & SIM_TEXT) == 0) {
        sim_free(s);
        return run_seed(seed, how | SIM_TEXT);
    }
    show_tail(s);
    fprintf(stderr, "# seed %llu, %s\n# replay: SIM_SEED=%llu SIM_TRACE=1\n",
            (unsigned long long)seed, s->failed, (unsigned long long)seed);
    sim_free(s);
    fail();
    return 0;
}

static void every_seed_keeps_every_promise(void **state)
{
    const uint64_t only = environment("SIM_SEED", UINT64_MAX), n = environment("SIM_SEEDS", SEEDS),
                   first = environment("SIM_FIRST", 0);
    const unsigned how = environment("SIM_TRACE", 0) != 0 ? SIM_PRINT : 0;
    (void)state;
    if (only != UINT64_MAX) {
        run_seed(only, how);
        return;
    }
    for (uint64_t seed = first; seed < first + n; seed++) {
        const uint64_t hash = run_seed(seed, how);
        if (seed % TWICE_EVERY == 0)
            assert_true(hash == run_seed(seed, how));
    }
    if (environment("SIM_REPORT", 0) != 0)
        report();
    /* Otherwise these worlds say nothing about KV rows that outlive their request or plan. */
    if (n >= 100 && (reused < 5 * n || moved - copied < 50 * n || copied < 50 * n || saved < 2 * n))
        fail_msg("only %llu rows were reused, %llu moved, %llu copied, and %llu saved in %llu worlds",
                 (unsigned long long)reused, (unsigned long long)(moved - copied),
                 (unsigned long long)copied, (unsigned long long)saved, (unsigned long long)n);
}

/* ---- scenarios ------------------------------------------------------------------------------- */

/* Run a world that must keep its promises; the caller frees it. */
static struct sim *run_scenario(const struct sim_setup *w)
{
    struct sim *s = sim_new(w, SIM_TEXT | (environment("SIM_TRACE", 0) != 0 ? SIM_PRINT : 0));
    snprintf(aborting, sizeof aborting, "# a scenario aborts\n");
    if (sim_run(s))
        return s;
    show_tail(s);
    fprintf(stderr, "# %s\n", s->failed);
    sim_free(s);
    fail();
    return NULL;
}

/* Every line is found in the trace, in this order; the last of the list is NULL. */
static void expect_lines(struct sim *s, const char *const *lines)
{
    const char *at;
    base_buf_add(&s->trace, "", 1);
    at = (const char *)s->trace.ptr;
    for (; *lines != NULL; lines++) {
        const char *found = strstr(at, *lines);
        if (found == NULL) {
            show_tail(s);
            fail_msg("the trace lacks, in its place, \"%s\"", *lines);
        }
        at = found + strlen(*lines);
    }
}

static void expect_and_free(struct sim *s, const char *const *lines)
{
    expect_lines(s, lines);
    sim_free(s);
}

static struct sim_fault after_tokens(enum sim_fault_kind kind, uint32_t node, int64_t for_us)
{
    return (struct sim_fault){.kind = kind,
                              .on = NET_MSG_TOKENS,
                              .nth = 20,
                              .for_us = for_us,
                              .node = node,
                              .peer = node};
}

static void a_worker_that_comes_back_is_not_shipped_to_again(void **state)
{
    static const char *const lines[] = {"beta loaded epoch=100000001 fetched=6000",
                                        "fault kill beta",
                                        "ring_broken epoch=100000001",
                                        "no_plan reason",
                                        "beta starts",
                                        "beta loaded epoch=100000002 fetched=0",
                                        "coordinator: commit epoch=100000002",
                                        "OPEN request=2 slot=0 tokens=24",
                                        "client-0 done finish=1 tokens=92 replays=1",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 1);
    for (uint32_t i = 0; i < 3; i++)
        w.layers_max[i] = 2; /* nobody can do without the others */
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_KILL, 1, 4 * SECOND_US);
    expect_and_free(run_scenario(&w), lines);
}

static void survivors_take_over(void **state)
{
    static const char *const lines[] = {"fault power_off gamma",
                                        "node_lost name=gamma reason=\"silent",
                                        "foreseen present=3",
                                        "beta loaded epoch=100000002 fetched=",
                                        "commit epoch=100000002",
                                        "client-0 done finish=1 tokens=92 replays=1",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 1);
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_POWER_OFF, 2, SIM_FOREVER);
    w.heartbeat_ms = 100; /* the coordinator is first to notice */
    w.dead_ms = 300;
    expect_and_free(run_scenario(&w), lines);
}

/* Two boards hold the model together; one alone cannot, and says whom it waits for and why. */
static void a_request_that_fails_names_who_was_lost(void **state)
{
    static const char *const lines[] = {
        "node_lost name=beta reason=\"silent",
        "client-0 done finish=2",
        "error=\"no plan: waiting for workers: beta (lost: silent for",
        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 2, 1);
    for (uint32_t i = 0; i < 2; i++)
        w.layers_max[i] = w.n_layers - 1;
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_POWER_OFF, 1, SIM_FOREVER);
    expect_and_free(run_scenario(&w), lines);
}

static void a_hung_worker_is_dropped(void **state)
{
    static const char *const lines[] = {
        "fault hang beta",
        "ring_broken epoch=100000001 reason=\"nothing moves in the ring\"",
        "node_lost name=beta reason=\"hung",
        "foreseen present=5",
        "client-0 done finish=1 tokens=92",
        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 1);
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_HANG, 1, SIM_FOREVER);
    struct sim *s = run_scenario(&w);
    expect_lines(s, lines);
    /* It came back and was asked to profile itself, which the others did not wait for. */
    assert_true(s->clients[0].over_us < 90 * (int64_t)SECOND_US);
    sim_free(s);
}

/* The first one to be measured hangs from the beginning: the others are measured after a while. */
static void who_hangs_does_not_keep_others_from_being_measured(void **state)
{
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 1);
    w.n_faults = 1;
    w.faults[0] = (struct sim_fault){.kind = SIM_HANG, .for_us = SIM_FOREVER};
    w.start_us[1] = w.start_us[2] = SECOND_US;
    struct sim *s = run_scenario(&w);
    expect_lines(s, (const char *const[]){"fault hang alpha", "measuring_slow name=alpha",
                                          "profiled name=gamma", "client-0 done finish=1 tokens=92",
                                          NULL});
    assert_true(s->clients[0].over_us < 30 * (int64_t)SECOND_US);
    sim_free(s);
}

/* A worker joins, and links to it are tested; one whose compute thread hangs passes that. It is lost
 * before a third plan is made with it. */
static void a_link_test_is_no_sign_of_computing(void **state)
{
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 1);
    w.start_us[2] = 20 * SECOND_US;
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_HANG, 1, SIM_FOREVER);
    struct sim *s = run_scenario(&w);
    expect_lines(s, (const char *const[]){"fault hang beta", "beta>coordinator LINK_TESTED",
                                          "commit epoch=100000002",
                                          "node_lost name=beta reason=\"hung",
                                          "commit epoch=100000003",
                                          "client-0 done finish=1 tokens=92", NULL});
    assert_true(s->clients[0].over_us < 65 * (int64_t)SECOND_US);
    sim_free(s);
}

/* Its neighbour notices first, and must not be taken for the one at fault. */
static void a_worker_dies_while_all_get_ready(void **state)
{
    static const char *const lines[] = {"fault power_off beta",
                                        "alpha: prepare_failed epoch=100000001",
                                        "prepare_failed name=alpha",
                                        "node_lost name=beta reason=\"silent",
                                        "asks for a plan present=1",
                                        "coordinator: commit epoch=",
                                        "client-0 done finish=1 tokens=92 replays=0",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 2, 1);
    w.n_faults = 1;
    w.faults[0] = (struct sim_fault){.kind = SIM_POWER_OFF,
                                     .on = NET_MSG_PLAN,
                                     .nth = 2,
                                     .at_us = 1000,
                                     .for_us = SIM_FOREVER,
                                     .node = 1};
    w.dead_ms = 6000;
    expect_and_free(run_scenario(&w), lines);
}

static void a_frozen_worker_wakes_up_in_the_past(void **state)
{
    static const char *const lines[] = {
        "fault freeze beta",         "node_lost name=beta",
        "commit epoch=100000002",    "beta>gamma ROWS epoch=100000001",
        "gamma: stale message=ROWS", NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 4);
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_FREEZE, 1, 5 * SECOND_US);
    expect_and_free(run_scenario(&w), lines);
}

static void a_link_that_blinks_costs_a_replay(void **state)
{
    static const char *const lines[] = {"the link from alpha to beta breaks",
                                        ": link_lost epoch=100000001",
                                        "ring_broken epoch=100000001",
                                        "commit epoch=100000002",
                                        "client-0 done finish=1 tokens=92 replays=1",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 2, 1);
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_LINK, 0, 10000);
    struct sim *s = run_scenario(&w);
    expect_lines(s, lines);
    assert_null(strstr((const char *)s->trace.ptr, "node_lost"));
    sim_free(s);
}

/* Two workers are cut off from the coordinator and the third, which go on alone; what the two had in
 * mind is stale when all are together again. */
static void the_part_with_the_coordinator_goes_on(void **state)
{
    static const char *const lines[] = {"fault partition side=c apart",
                                        "node_lost name=beta reason=\"silent",
                                        "node_lost name=gamma reason=\"silent",
                                        "asks for a plan present=1",
                                        "commit epoch=100000002",
                                        "client-0 done finish=1 tokens=92 replays=1",
                                        "coordinator>beta WELCOME",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 2);
    w.requests[1].at_us += 20 * SECOND_US;
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_PARTITION, 0, 12 * SECOND_US);
    w.faults[0].side = 12; /* beta and gamma */
    expect_and_free(run_scenario(&w), lines);
}

/* A member of the ring is heard but hears nothing: what it is sent is held, and comes too late. */
static void a_worker_that_hears_nothing_is_given_up(void **state)
{
    static const char *const lines[] = {"fault partition side=7 unheard, held",
                                        "gamma: silent peer=coordinator",
                                        "node_lost name=gamma reason=",
                                        "foreseen present=3",
                                        "client-0 done finish=1 tokens=92 replays=1",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 1);
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_PARTITION, 0, 12 * SECOND_US);
    w.faults[0].side = 7; /* the coordinator, alpha and beta */
    w.faults[0].one_way = w.faults[0].quiet = true;
    expect_and_free(run_scenario(&w), lines);
}

/* The journal has what the client has been given. */
static void a_coordinator_that_restarts_loses_no_token(void **state)
{
    static const char *const lines[] = {"coordinator starts incarnation=1",
                                        "fault restart coordinator",
                                        "coordinator starts incarnation=2",
                                        "kept requests=1 tokens=19 finished=0 dropped=0",
                                        "alpha: deactivate epoch=100000001",
                                        "alpha loaded epoch=200000001 fetched=0",
                                        "OPEN request=1 slot=0 tokens=23 start=0",
                                        "client-0 done finish=1 tokens=92 replays=1",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 2, 1);
    w.n_faults = 1;
    w.faults[0] = after_tokens(SIM_RESTART, 0, SECOND_US);
    expect_and_free(run_scenario(&w), lines);
}

static void a_client_that_goes_away_frees_its_slot(void **state)
{
    static const char *const lines[] = {"OPEN request=1 slot=0",
                                        "client-0 goes away",
                                        "CLOSE request=1 slot=0",
                                        "error=\"the client went away\"",
                                        "OPEN request=2 slot=0",
                                        "client-1 done finish=1 tokens=92",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 2, 2);
    w.slots = 1;
    w.pass_us = 60000; /* it would take longer than the coordinator waits for the client */
    w.requests[0].way = SIM_LEAVES;
    w.requests[0].way_us = 500000;
    w.requests[1].at_us += 100000;
    expect_and_free(run_scenario(&w), lines);
}

static void who_finds_the_queue_full_is_told_so(void **state)
{
    static const char *const lines[] = {"client-2 refused code=14 reason=\"the queue is full",
                                        "client-0 done finish=1 tokens=92",
                                        "client-1 done finish=1 tokens=92", NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 2, 3);
    w.slots = w.queue = 1;
    for (uint32_t i = 0; i < 3; i++)
        w.requests[i].at_us += i * 50000;
    expect_and_free(run_scenario(&w), lines);
}

static void a_stop_string_may_lie_across_tokens(void **state)
{
    static struct sim_setup w;
    static struct sim_reference free_text, stopped;
    char line[80];
    (void)state;
    sim_setup_calm(&w, 2, 1);
    struct sim_request *r = &w.requests[0];
    sim_stub_reference(&w, r, &free_text);
    /* Two bytes that belong to two tokens and stand nowhere before. */
    bool found = false;
    for (uint32_t i = 10; i + 1 < free_text.n_tokens && !found; i++) {
        const struct span a = sim_stub_text(NULL, free_text.tokens[i]),
                          b = sim_stub_text(NULL, free_text.tokens[i + 1]);
        if (a.len == 0 || b.len == 0 || a.ptr[a.len - 1] >= 0x80 || b.ptr[0] >= 0x80)
            continue;
        snprintf(r->stops[0], sizeof r->stops[0], "%c%c", a.ptr[a.len - 1], b.ptr[0]);
        r->n_stops = 1;
        sim_stub_reference(&w, r, &stopped);
        found = stopped.n_tokens == i + 2 && stopped.n_text + b.len + 1 == stopped.n_raw;
    }
    assert_true(found);
    snprintf(line, sizeof line, "client-0 done finish=0 tokens=%u", stopped.n_tokens);
    expect_and_free(run_scenario(&w), (const char *const[]){"CLOSE request=1 slot=0", line, NULL});
}

static void a_worker_of_another_build_is_refused(void **state)
{
    static const char *const lines[] = {
        "coordinator>beta REFUSE", "beta quits: the coordinator refused this worker",
        "asks for a plan present=5", "client-0 done finish=1 tokens=92", NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 1);
    w.foreign[1] = true;
    expect_and_free(run_scenario(&w), lines);
}

static void a_new_worker_is_taken_while_the_others_serve(void **state)
{
    static const char *const lines[] = {"commit epoch=100000001",
                                        "OPEN request=1",
                                        "the configuration is read again",
                                        "gamma loaded epoch=100000002",
                                        "commit epoch=100000002",
                                        "client-0 done finish=1 tokens=92 replays=0",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 1);
    w.use_all = true;
    w.grow_us = 6200000;
    w.pass_us = 20000;
    w.in_order = true;
    expect_and_free(run_scenario(&w), lines);
}

/* A second turn: the prompt is that of another request with its answer and `more` tokens. */
static void go_on(struct sim_setup *w, uint32_t request, uint32_t before, uint32_t more)
{
    static struct sim_reference answer;
    const struct sim_request *b = &w->requests[before];
    struct sim_request *r = &w->requests[request];
    sim_stub_reference(w, b, &answer);
    memcpy(r->prompt, b->prompt, b->n_prompt * sizeof *r->prompt);
    memcpy(r->prompt + b->n_prompt, answer.tokens, answer.n_tokens * sizeof *r->prompt);
    r->n_prompt = b->n_prompt + answer.n_tokens;
    for (uint32_t i = 0; i < more; i++)
        r->prompt[r->n_prompt++] = (int32_t)(30 + i);
    r->at_us = b->at_us + 2 * SECOND_US;
}

/* The last token of an answer was never run: its row is the first that the next turn lacks. Two
 * conversations that begin alike keep a slot each; a prompt that is there as a whole still runs its
 * last token; the logits of every position are computed from the first one on. */
static void a_second_turn_does_not_read_the_first_again(void **state)
{
    static const char *const lines[] = {"OPEN request=1 slot=0 tokens=4 start=0",
                                        "OPEN request=2 slot=1 tokens=4 start=0",
                                        "OPEN request=3 slot=0 tokens=17 start=13",
                                        "client-2 done finish=1 tokens=10 replays=0",
                                        "OPEN request=4 slot=1 tokens=17 start=13",
                                        "client-3 done finish=1 tokens=10 replays=0",
                                        "OPEN request=5 slot=0 tokens=17 start=16",
                                        "client-4 done finish=1 tokens=5 replays=0",
                                        "OPEN request=6 slot=2 tokens=17 start=0",
                                        "client-5 done finish=0",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 3, 6);
    for (uint32_t i = 0; i < 6; i++)
        w.requests[i].n = i == 4 ? 5 : 10;
    w.requests[1].at_us += SECOND_US; /* the first one's slot is free again */
    go_on(&w, 2, 0, 3);
    go_on(&w, 3, 1, 3);
    w.requests[4] = w.requests[5] = w.requests[2];
    w.requests[4].n = 5;
    w.requests[4].sampling.seed = 5;
    w.requests[5].sampling.seed = 6;
    w.requests[5].flags = 1;
    w.requests[4].at_us += 2 * SECOND_US;
    w.requests[5].at_us += 4 * SECOND_US;
    expect_and_free(run_scenario(&w), lines);
}

static void a_new_plan_forgets_what_slots_held(void **state)
{
    static const char *const lines[] = {"client-0 done finish=1 tokens=10 replays=0",
                                        "commit epoch=100000002",
                                        "OPEN request=2 slot=0 tokens=17 start=0",
                                        "client-1 done finish=1 tokens=10 replays=0",
                                        "OPEN request=3 slot=0 tokens=30 start=26",
                                        "client-2 done finish=1 tokens=10 replays=0",
                                        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 2, 3);
    for (uint32_t i = 0; i < 3; i++)
        w.requests[i].n = 10;
    go_on(&w, 1, 0, 3);
    w.requests[1].at_us += 2 * SECOND_US;
    go_on(&w, 2, 1, 3);
    w.n_faults = 1;
    w.faults[0] = (struct sim_fault){
        .kind = SIM_LINK, .at_us = 7500000, .for_us = 10000, .node = 0, .peer = 1};
    expect_and_free(run_scenario(&w), lines);
}

/* Requests are known while their prompts are read, one after the other: they can be asked for and
 * cancelled, and no one else's answer waits. */
static void prompts_are_read_while_others_are_answered(void **state)
{
    static const char *const lines[] = {
        "client-1 done finish=2 tokens=0 replays=0 error=\"cancelled\"",
        "coordinator>client-0 WAITING",
        "OPEN request=1 slot=0",
        "client-0 done finish=1 tokens=92",
        "client-2 done finish=2 tokens=0 replays=0 error=\"the prompt is unreadable\"",
        NULL};
    static struct sim_setup w;
    (void)state;
    sim_setup_calm(&w, 2, 3);
    w.read_us = 3 * SECOND_US;
    for (uint32_t i = 0; i < 3; i++)
        w.requests[i].at_us += i * 10000;
    w.requests[1].way = SIM_CANCELS;
    w.requests[1].way_us = 100000;
    w.requests[2].unreadable = true;
    expect_and_free(run_scenario(&w), lines);
}

/* Tokens a virtual second while `n` requests of the same length, begun at once, run on three stages. */
static double tokens_a_second(uint32_t n, bool output_first)
{
    static struct sim_setup w;
    int64_t last_us = 0;
    uint32_t tokens = 0;
    sim_setup_calm(&w, 3, n);
    w.slots = SIM_SLOTS_MAX;
    w.output_first_in = output_first ? 1 : 0;
    struct sim *s = run_scenario(&w);
    for (uint32_t i = 0; i < n; i++) {
        tokens += s->clients[i].n_tokens;
        last_us = s->clients[i].over_us > last_us ? s->clients[i].over_us : last_us;
    }
    sim_free(s);
    return tokens * 1e6 / (double)(last_us - w.requests[0].at_us);
}

static void three_requests_keep_three_stages_busy(void **state)
{
    (void)state;
    for (int first = 0; first < 2; first++) {
        const double gain = tokens_a_second(3, first != 0) / tokens_a_second(1, first != 0);
        if (gain < 2.7 || gain > 3.05)
            fail_msg("three requests give %.2f times the tokens of one", gain);
        const double more = tokens_a_second(6, first != 0) / tokens_a_second(2, first != 0);
        if (more < 2.7 || more > 3.05)
            fail_msg("six requests give %.2f times the tokens of two", more);
    }
}

/* A row that comes back is sampled in the pass that runs the token: a token takes as many passes as
 * there are stages, wherever the output is. */
static void output_on_the_first_stage_costs_no_pass(void **state)
{
    (void)state;
    const double ratio = tokens_a_second(1, true) / tokens_a_second(1, false);
    if (ratio < 0.98 || ratio > 1.02)
        fail_msg("%.3f times the tokens a second", ratio);
}

/* The first stage says that a row cannot go on while tokens ahead of it, which the last stage told, are
 * still on their way: on links that differ by more than a pass takes. The clients look whether they
 * get them. */
static void a_failure_waits_for_the_tokens_before_it(void **state)
{
    static struct sim_setup w;
    uint32_t bad = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        sim_setup_calm(&w, 2, 4);
        w.seed = seed;
        w.latency_us = 20000;
        w.pass_us = 100;
        w.bad_one_in = 200;
        struct sim *s = run_scenario(&w);
        for (uint32_t i = 0; i < w.n_requests; i++)
            bad += s->clients[i].reference.bad && s->clients[i].reference.n_tokens > 0 ? 1u : 0u;
        sim_free(s);
    }
    assert_true(bad > 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_seed_keeps_every_promise),
        cmocka_unit_test(a_worker_that_comes_back_is_not_shipped_to_again),
        cmocka_unit_test(survivors_take_over),
        cmocka_unit_test(a_request_that_fails_names_who_was_lost),
        cmocka_unit_test(a_failure_waits_for_the_tokens_before_it),
        cmocka_unit_test(a_hung_worker_is_dropped),
        cmocka_unit_test(who_hangs_does_not_keep_others_from_being_measured),
        cmocka_unit_test(a_link_test_is_no_sign_of_computing),
        cmocka_unit_test(a_worker_dies_while_all_get_ready),
        cmocka_unit_test(a_frozen_worker_wakes_up_in_the_past),
        cmocka_unit_test(a_link_that_blinks_costs_a_replay),
        cmocka_unit_test(the_part_with_the_coordinator_goes_on),
        cmocka_unit_test(a_worker_that_hears_nothing_is_given_up),
        cmocka_unit_test(a_coordinator_that_restarts_loses_no_token),
        cmocka_unit_test(a_client_that_goes_away_frees_its_slot),
        cmocka_unit_test(who_finds_the_queue_full_is_told_so),
        cmocka_unit_test(a_stop_string_may_lie_across_tokens),
        cmocka_unit_test(a_worker_of_another_build_is_refused),
        cmocka_unit_test(a_new_worker_is_taken_while_the_others_serve),
        cmocka_unit_test(a_second_turn_does_not_read_the_first_again),
        cmocka_unit_test(a_new_plan_forgets_what_slots_held),
        cmocka_unit_test(prompts_are_read_while_others_are_answered),
        cmocka_unit_test(three_requests_keep_three_stages_busy),
        cmocka_unit_test(output_on_the_first_stage_costs_no_pass),
    };
    signal(SIGABRT, on_abort);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
