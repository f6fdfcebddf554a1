/* Four workers that come, are measured and serve, as tests of the coordinator's core need them. */
#include "tests/unit/coord_fixture.h"

#include <stdio.h>
#include <string.h>

struct net_config config;
struct coord_core *core;
struct coord_actions actions;
struct part_plan plan;
int64_t now_ms;
uint64_t serial;
double now_latency_s;
bool now_fits;
struct coord_move_cost move_cost;

static struct span text(void *arg, int32_t token)
{
    (void)arg;
    (void)token;
    return base_span_str("x");
}

/* Tells apart who holds what. */
static uint32_t n_pieces(void *arg, const struct coord_shard *s)
{
    (void)arg;
    return 1 +
           (s->layer1 - s->layer0) *
               (s->part.head1 - s->part.head0 + 10 * (s->part.ff1 - s->part.ff0)) +
           (s->embed ? 1000u : 0u) + (s->output ? 2000u : 0u) +
           10000 * (s->part.run1 - s->part.run0);
}

void step(struct coord_event ev)
{
    ev.now_ms = ++now_ms;
    coord_core_step(core, &ev, &actions);
    assert_null(coord_core_invariant(core));
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == COORD_ACT_PLAN)
            serial = actions.list[i].serial;
}

void says(uint32_t node, struct net_msg m)
{
    step((struct coord_event){.type = COORD_EV_NODE, .node = node, .msg = &m});
}

const struct net_msg *told(uint32_t node, enum net_code code)
{
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == COORD_ACT_NODE && actions.list[i].node == node &&
            actions.list[i].msg.code == code)
            return &actions.list[i].msg;
    return NULL;
}

bool logged(const char *part)
{
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == COORD_ACT_LOG && strstr(actions.list[i].text, part) != NULL)
            return true;
    return false;
}

static void profile(uint32_t node)
{
    static double layers[COORD_BATCHES * N_LAYERS];
    static const double few[COORD_BATCHES] = {1e-6, 2e-6, 3e-6};
    uint8_t rows[COORD_BATCHES * sizeof(uint32_t)];
    for (uint32_t i = 0; i < COORD_BATCHES; i++)
        net_put_u32(rows, i, 1 + 3 * i);
    for (uint32_t i = 0; i < COORD_BATCHES * N_LAYERS; i++)
        layers[i] = 1e-3;
    says(node, (struct net_msg){
                   .code = NET_MSG_PROFILED,
                   .u.PROFILED = {.rows = {rows, COORD_BATCHES},
                                  .attention = net_list_f64(layers, COORD_BATCHES * N_LAYERS),
                                  .ffn = net_list_f64(layers, COORD_BATCHES * N_LAYERS),
                                  .attention_fixed = net_list_f64(few, COORD_BATCHES),
                                  .ffn_fixed = net_list_f64(few, COORD_BATCHES),
                                  .embed = net_list_f64(few, COORD_BATCHES),
                                  .output = net_list_f64(few, COORD_BATCHES),
                                  .throttle = 1,
                                  .memory_bytes = 1u << 30}});
}

void meet(void)
{
    for (uint32_t i = 0; i < N_WORKERS; i++) {
        step((struct coord_event){.type = COORD_EV_NODE_UP, .node = i});
        says(i, (struct net_msg){
                    .code = NET_MSG_HELLO,
                    .u.HELLO = {.wire = NET_WIRE_VERSION, .numerics = 1, .team_port = 9000 + i}});
        says(i, (struct net_msg){.code = NET_MSG_READY, .u.READY = {1}});
    }
    for (uint32_t i = 0; i < N_WORKERS; i++)
        profile(i);
    for (bool asked = true; asked;) {
        asked = false;
        for (uint32_t i = 0; i < N_WORKERS && !asked; i++) {
            const struct net_msg *m = told(i, NET_MSG_TEST_LINK);
            if (m == NULL)
                continue;
            char peer[NET_NAME_MAX];
            snprintf(peer, sizeof peer, "%.*s", (int)m->u.TEST_LINK.peer.len,
                     (const char *)m->u.TEST_LINK.peer.ptr);
            asked = true;
            assert_true(m->u.TEST_LINK.peer.len > 0);
            says(i, (struct net_msg){
                        .code = NET_MSG_LINK_TESTED,
                        .u.LINK_TESTED = {base_span_str(peer), 1e-3, 1e8, 1e8, base_span_str("")}});
        }
    }
}

int setup(void **state)
{
    struct coord_model m = {.n_layers = N_LAYERS,
                            .n_ff = N_FF,
                            .unit_heads = UNIT_HEADS,
                            .unit_cols = UNIT_COLS,
                            .kv_share = 2 * UNIT_HEADS,
                            .kv_row_bytes = 100,
                            .n_vocab = 100,
                            .context = 64,
                            .numerics = 1,
                            .text = text,
                            .n_pieces = n_pieces};
    (void)state;
    memset(&config, 0, sizeof config);
    config = (struct net_config){.slots = 2,
                                 .queue = 4,
                                 .heartbeat_ms = 500,
                                 .report_ms = 1000,
                                 .horizon_ms = 60000,
                                 .dead_ms = 3000,
                                 .wire = NET_SUMS_F16,
                                 .n_workers = N_WORKERS};
    for (uint32_t i = 0; i < N_WORKERS; i++) {
        config.workers[i].layer0 = config.workers[i].layer1 = -1;
        snprintf(config.workers[i].name, NET_NAME_MAX, "w%u", i);
    }
    now_ms = 1000;
    serial = 0;
    now_latency_s = 0;
    now_fits = true;
    move_cost = (struct coord_move_cost){0};
    return coord_core_new(&config, &m, 1, 7700, &core, NULL);
}

int teardown(void **state)
{
    (void)state;
    coord_core_free(core);
    return 0;
}

void two_teams(void)
{
    memset(&plan, 0, sizeof plan);
    plan.n_stages = 2;
    plan.latency_s = 0.01;
    plan.stages[0] =
        (struct part_stage){0, 4, PART_MESH, 2, {{2, 0, 3, 0, 4, 0, 0}, {0, 3, 4, 4, 4, 0, 0}}};
    plan.stages[1] =
        (struct part_stage){4, 6, PART_STAR, 2, {{3, 0, 1, 0, 4, 0, 2}, {1, 1, 4, 4, 4, 2, 5}}};
}

void answer(void)
{
    const double stage_s[PART_DEVICES_MAX] = {0.006, 0.004};
    step((struct coord_event){.type = COORD_EV_PLANNED,
                              .ok = true,
                              .serial = serial,
                              .plan = &plan,
                              .stage_s = stage_s,
                              .stage_batch_s = stage_s,
                              .batch_rate = 100,
                              .now_latency_s = now_latency_s,
                              .now_batch_rate = 100,
                              .now_fits = now_fits,
                              .move = move_cost,
                              .chunk = 32,
                              .groups = 1});
}

void ready(uint32_t node, uint64_t epoch)
{
    says(node, (struct net_msg){.code = NET_MSG_PREPARED,
                                .u.PREPARED = {.epoch = epoch, .state = 1, .planned_bytes = 7}});
}

void is_list(struct net_list l, uint32_t n, const uint32_t *want)
{
    assert_int_equal(l.n, n);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(net_u32_at(l, i), want[i]);
}

uint64_t serve(void)
{
    meet();
    two_teams();
    answer();
    const uint64_t epoch = told(0, NET_MSG_PLAN)->u.PLAN.epoch;
    for (uint32_t i = 0; i < N_WORKERS; i++) {
        assert_true(coord_core_epoch(core) == 0);
        ready(i, epoch);
    }
    assert_true(coord_core_epoch(core) == epoch);
    for (uint32_t i = 0; i < N_WORKERS; i++)
        assert_non_null(told(i, NET_MSG_COMMIT));
    return epoch;
}

void coordinators_links(void)
{
    for (uint32_t i = 0; i < N_WORKERS; i++) {
        const struct net_msg *m = told(i, NET_MSG_TEST_LINK);
        const uint64_t asked = serial;
        assert_non_null(m);
        assert_int_equal(m->u.TEST_LINK.peer.len, 0);
        says(i, (struct net_msg){
                    .code = NET_MSG_LINK_TESTED,
                    .u.LINK_TESTED = {base_span_str(""), 1e-3, 1e8, 1e8, base_span_str("")}});
        assert_true(serial == asked);
    }
    for (uint32_t i = 0; i < N_WORKERS; i++)
        assert_null(told(i, NET_MSG_TEST_LINK));
}

void drain(const char *name, uint32_t on)
{
    const struct net_msg m = {.code = NET_MSG_DRAIN,
                              .u.DRAIN = {NET_CLIENT_VERSION, base_span_str(name), on}};
    step((struct coord_event){.type = COORD_EV_CLIENT, .client = 9, .msg = &m});
}
