/* A worker core by itself, as the first of three stages with the output matrix on it, or as the last:
 * which rows it lets go, which it takes back, and what it makes of them. What whole clusters do is
 * tests/sim's business; here neighbours say what no honest one would. */
#include "worker/worker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 6, EMBD = 64, CONTEXT = 512, SLOTS = 3, CHUNK = 8, EPOCH = 1, STAGES = 3 };

static const char *const ring[STAGES] = {"alpha", "beta", "gamma"};
static struct worker_actions actions;
static struct worker_pass *pass; /* begun and not done */
static uint32_t groups = 1;

static void step(struct worker_core *c, struct worker_event ev)
{
    worker_core_step(c, &ev, &actions);
    assert_null(worker_core_invariant(c));
    if (ev.type == WORKER_EV_PASS)
        pass = NULL;
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == WORKER_ACT_PASS) {
            assert_null(pass);
            pass = actions.list[i].pass;
        }
}

static void control(struct worker_core *c, const struct net_msg *m)
{
    step(c, (struct worker_event){.type = WORKER_EV_CONTROL, .msg = m});
}

/* The only action of this type in the last step; NULL: none. */
static const struct worker_action *action(enum worker_action_type type)
{
    const struct worker_action *found = NULL;
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == type) {
            assert_null(found);
            found = &actions.list[i];
        }
    return found;
}

static const struct net_msg *sent(enum worker_action_type type, enum net_code code)
{
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == type && actions.list[i].msg.code == code)
            return &actions.list[i].msg;
    return NULL;
}

/* ---- a worker at its place -------------------------------------------------------------------- */

static struct net_msg plan(uint32_t stage, bool output_first, enum model_wire wire)
{
    static uint8_t names[256];
    uint8_t *at = names;
    for (int i = 0; i < STAGES; i++) {
        const uint32_t len = (uint32_t)strlen(ring[i]);
        net_put_u32(at, 0, len);
        memcpy(at + 4, ring[i], len);
        at += 4 + len;
    }
    return (struct net_msg){.code = NET_MSG_PLAN,
                            .u.PLAN = {.epoch = EPOCH,
                                       .n_stages = STAGES,
                                       .stage = stage,
                                       .ring = {names, STAGES},
                                       .layer0 = stage * 2,
                                       .layer1 = stage * 2 + 2,
                                       .output_first = output_first,
                                       .wire = (uint32_t)wire,
                                       .max_rows = CHUNK + SLOTS,
                                       .chunk = CHUNK,
                                       .groups = groups,
                                       .n_pieces = 1}};
}

static struct worker_core *ready_worker(uint32_t stage)
{
    static const struct model_shape shape = {.n_layers = LAYERS, .n_embd = EMBD};
    struct worker_identity id = {.threads = 1};
    struct worker_core *c;
    static const uint8_t card[NET_HASH_BYTES];
    pass = NULL;
    const struct net_msg welcome = {.code = NET_MSG_WELCOME,
                                    .u.WELCOME = {.wire = NET_WIRE_VERSION,
                                                  .context = CONTEXT,
                                                  .slots = SLOTS,
                                                  .heartbeat_ms = 500,
                                                  .report_ms = 1000,
                                                  .dead_ms = 3000,
                                                  .card = card}};
    snprintf(id.name, sizeof id.name, "%s", ring[stage]);
    assert_int_equal(worker_core_new(&id, &c, NULL), 0);
    step(c, (struct worker_event){.type = WORKER_EV_CONTROL_UP});
    control(c, &welcome);
    step(c, (struct worker_event){.type = WORKER_EV_CARD,
                                .ok = true,
                                .shape = &shape,
                                .kv_row_bytes = 64});
    return c;
}

/* Its plan is loaded, and waits for COMMIT. */
static struct worker_core *loaded_worker(uint32_t stage, bool output_first, enum model_wire wire)
{
    static const uint8_t hash[NET_HASH_BYTES];
    struct worker_core *c = ready_worker(stage);
    const struct net_msg p = plan(stage, output_first, wire),
                         manifest = {.code = NET_MSG_MANIFEST,
                                     .u.MANIFEST = {EPOCH, 0, {hash, sizeof hash}}};
    control(c, &p);
    control(c, &manifest);
    for (int i = 0; i < STAGES; i++)
        step(c, (struct worker_event){.type = WORKER_EV_RING_UP, .peer = ring[i]});
    step(c, (struct worker_event){.type = WORKER_EV_LOADED, .epoch = EPOCH, .ok = true});
    return c;
}

static struct worker_core *worker_at(uint32_t stage, bool output_first, enum model_wire wire)
{
    const struct net_msg commit = {.code = NET_MSG_COMMIT, .u.COMMIT = {EPOCH}};
    struct worker_core *c = loaded_worker(stage, output_first, wire);
    control(c, &commit);
    assert_int_equal(worker_core_epoch(c), EPOCH);
    return c;
}

/* ---- what others say -------------------------------------------------------------------------- */

static void open_request(struct worker_core *c, uint64_t request, uint32_t slot, uint32_t flags,
                         uint32_t n_prompt)
{
    static uint8_t tokens[CONTEXT * 4];
    static const int32_t end = 7;
    for (uint32_t i = 0; i < n_prompt; i++)
        net_put_u32(tokens, i, 10 + i);
    const struct net_msg m = {.code = NET_MSG_OPEN,
                              .u.OPEN = {.epoch = EPOCH,
                                         .request = request,
                                         .slot = slot,
                                         .flags = flags,
                                         .end_position = CONTEXT,
                                         .repeat_penalty = 1,
                                         .ends = net_list_i32(&end, 1),
                                         .tokens = {tokens, n_prompt}}};
    control(c, &m);
}

static void close_request(struct worker_core *c, uint64_t request, uint32_t slot)
{
    const struct net_msg m = {.code = NET_MSG_CLOSE, .u.CLOSE = {EPOCH, request, slot}};
    control(c, &m);
}

/* n rows of a request from `position` on. */
static void rows(struct worker_core *c, const char *peer, uint32_t kind, uint64_t request,
                 uint32_t slot, uint32_t position, uint32_t n, enum model_wire wire)
{
    static uint8_t requests[64 * 8], slots[64 * 4], positions[64 * 4];
    static uint8_t hidden[64 * EMBD * 4];
    for (uint32_t i = 0; i < n; i++) {
        net_put_u64(requests, i, request);
        net_put_u32(slots, i, slot);
        net_put_u32(positions, i, position + i);
    }
    const struct net_msg m = {.code = NET_MSG_ROWS,
                              .u.ROWS = {EPOCH,
                                         kind,
                                         {requests, n},
                                         {slots, n},
                                         {positions, n},
                                         {hidden, model_rows_bytes(n, EMBD, wire)}}};
    step(c, (struct worker_event){.type = WORKER_EV_RING, .peer = peer, .msg = &m});
}

/* The last stage's token for a request, at `position`. */
static void token(struct worker_core *c, uint64_t request, uint32_t slot, uint32_t position)
{
    static const int32_t id = 40;
    uint8_t requests[8], slots[4], positions[4];
    net_put_u64(requests, 0, request);
    net_put_u32(slots, 0, slot);
    net_put_u32(positions, 0, position);
    const struct net_msg m = {.code = NET_MSG_RING_TOKENS,
                              .u.RING_TOKENS = {EPOCH,
                                                {requests, 1},
                                                {slots, 1},
                                                {positions, 1},
                                                net_list_i32(&id, 1)}};
    step(c, (struct worker_event){.type = WORKER_EV_RING, .peer = "gamma", .msg = &m});
}

/* Stages behind the first have taken up everything that could have come. */
static void all_started(struct worker_core *c)
{
    for (uint32_t k = 1; k < STAGES; k++) {
        const struct net_msg m = {.code = NET_MSG_STARTED, .u.STARTED = {EPOCH, k, 1u << 20, 0}};
        step(c, (struct worker_event){.type = WORKER_EV_RING, .peer = ring[k], .msg = &m});
    }
}

/* The pass is carried out as asked; every token is `token`. */
static struct worker_pass *run(struct worker_core *c, int32_t token)
{
    struct worker_pass *p = pass;
    assert_non_null(p);
    for (uint32_t i = 0; i < p->n; i++) {
        p->bad[i] = 0;
        p->at[i] = i;
        p->tokens[i] = p->rows[i].sample ? token : -1;
    }
    step(c, (struct worker_event){.type = WORKER_EV_PASS, .pass = p});
    return p;
}

/* ---- tests ------------------------------------------------------------------------------------ */

/* However much the stages behind it take up, no more rows of logits requests are on their way, or
 * wait, than the first stage has room for; those of a request that is closed make room. */
static void rows_on_their_way_are_bounded(void **state)
{
    (void)state;
    struct worker_core *c = worker_at(0, true, MODEL_WIRE_EXACT);
    const uint32_t room = worker_core_prompt_rows(c, EPOCH);
    uint32_t out = 0;
    open_request(c, 1, 0, 1, CONTEXT);
    while (pass != NULL) {
        all_started(c);
        out += run(c, 0)->n;
        assert_true(out <= room);
    }
    assert_true(out > room - CHUNK);
    open_request(c, 2, 1, 1, CHUNK);
    assert_null(pass);
    close_request(c, 1, 0);
    assert_int_equal(pass->n, CHUNK);
    assert_int_equal(pass->rows[0].request, 2);
    worker_core_free(c);
}

/* Rows that are back come first, and their room is had by new prompt rows in the same pass. */
static void rows_that_are_back_make_room(void **state)
{
    (void)state;
    struct worker_core *c = worker_at(0, true, MODEL_WIRE_EXACT);
    uint32_t out = 0;
    open_request(c, 1, 0, 1, CONTEXT);
    while (pass != NULL) {
        all_started(c);
        out += run(c, 0)->n;
    }
    rows(c, "gamma", 2, 1, 0, 0, CHUNK, MODEL_WIRE_EXACT);
    const struct worker_pass *p = pass;
    assert_non_null(p);
    assert_int_equal(p->n_decode, 0);
    assert_int_equal(p->n_back, CHUNK);
    for (uint32_t i = 0; i < p->n_back; i++) {
        assert_int_equal(p->rows[i].from, WORKER_FROM_PROMPT);
        assert_true(p->rows[i].summarise);
        assert_false(p->rows[i].sample);
    }
    for (uint32_t i = p->n_back; i < p->n; i++) {
        assert_int_equal(p->rows[i].row.position, out + i - p->n_back);
        assert_false(p->rows[i].summarise);
    }
    assert_int_equal(p->n, CHUNK + SLOTS);
    worker_core_free(c);
}

/* What comes twice, unasked, of a closed request, from the wrong side or in another form is not
 * kept. */
static void rows_that_nobody_waits_for_are_dropped(void **state)
{
    (void)state;
    struct worker_core *c = worker_at(0, true, MODEL_WIRE_F16);
    open_request(c, 1, 0, 1, CHUNK);
    all_started(c);
    run(c, 0);
    open_request(c, 2, 1, 0, CHUNK);
    run(c, 0);
    rows(c, "beta", 2, 1, 0, 0, 1, MODEL_WIRE_F16);
    assert_null(action(WORKER_ACT_KEEP));
    rows(c, "gamma", 0, 1, 0, 0, 1, MODEL_WIRE_F16);
    assert_null(action(WORKER_ACT_KEEP));
    rows(c, "gamma", 3, 1, 0, 0, 1, MODEL_WIRE_F16);
    assert_null(action(WORKER_ACT_KEEP));
    rows(c, "gamma", 2, 1, 0, 0, 1, MODEL_WIRE_EXACT);
    assert_null(action(WORKER_ACT_KEEP));
    rows(c, "gamma", 2, 3, 0, 0, 1, MODEL_WIRE_F16);
    assert_null(action(WORKER_ACT_KEEP));
    rows(c, "gamma", 2, 1, SLOTS, 0, 1, MODEL_WIRE_F16);
    assert_null(action(WORKER_ACT_KEEP));
    rows(c, "gamma", 2, 1, 0, CONTEXT, 1, MODEL_WIRE_F16);
    assert_null(action(WORKER_ACT_KEEP));
    rows(c, "gamma", 2, 2, 1, 0, 1, MODEL_WIRE_F16); /* no token is chosen there */
    assert_null(action(WORKER_ACT_KEEP));
    for (uint32_t i = 0; i < CHUNK; i++) {
        rows(c, "gamma", 2, 1, 0, i, 1, MODEL_WIRE_F16);
        assert_non_null(action(WORKER_ACT_KEEP));
    }
    rows(c, "gamma", 2, 1, 0, 0, 1, MODEL_WIRE_F16); /* all are back */
    assert_null(action(WORKER_ACT_KEEP));
    close_request(c, 2, 1);
    rows(c, "gamma", 2, 2, 1, CHUNK - 1, 1, MODEL_WIRE_F16);
    assert_null(action(WORKER_ACT_KEEP));
    worker_core_free(c);
}

/* A token is reported and its row sent on by the pass that chose it; one that ends the text is
 * reported only; one whose row went wrong is reported before the request fails. */
static void a_row_that_is_back_becomes_the_next(void **state)
{
    (void)state;
    struct worker_core *c = worker_at(0, true, MODEL_WIRE_EXACT);
    open_request(c, 1, 0, 0, 3);
    run(c, 0);
    assert_int_equal(action(WORKER_ACT_SEND_ROWS)->rows_kind, 1);
    rows(c, "gamma", 2, 1, 0, 2, 1, MODEL_WIRE_EXACT);
    assert_int_equal(pass->n_decode, 1);
    assert_true(pass->rows[0].sample);
    const struct worker_pass *p = run(c, 40);
    const struct net_msg *m = sent(WORKER_ACT_CONTROL, NET_MSG_TOKENS);
    assert_int_equal(net_u32_at(m->u.TOKENS.positions, 0), 3);
    assert_int_equal(net_i32_at(m->u.TOKENS.tokens, 0), 40);
    assert_int_equal(action(WORKER_ACT_SEND_ROWS)->rows_kind, 0);
    assert_string_equal(action(WORKER_ACT_SEND_ROWS)->peer, "beta");
    assert_int_equal(p->rows[0].row.position, 3);
    rows(c, "gamma", 2, 1, 0, 3, 1, MODEL_WIRE_EXACT);
    run(c, 7);
    assert_non_null(sent(WORKER_ACT_CONTROL, NET_MSG_TOKENS));
    assert_null(action(WORKER_ACT_SEND_ROWS));
    open_request(c, 2, 0, 0, 3);
    run(c, 0);
    rows(c, "gamma", 2, 2, 0, 2, 1, MODEL_WIRE_EXACT);
    struct worker_pass *bad = pass;
    bad->tokens[0] = 40;
    bad->bad[0] = 1;
    step(c, (struct worker_event){.type = WORKER_EV_PASS, .pass = bad});
    assert_non_null(sent(WORKER_ACT_CONTROL, NET_MSG_TOKENS));
    assert_non_null(sent(WORKER_ACT_CONTROL, NET_MSG_FAILED));
    assert_true(sent(WORKER_ACT_CONTROL, NET_MSG_TOKENS) <
                sent(WORKER_ACT_CONTROL, NET_MSG_FAILED));
    assert_null(action(WORKER_ACT_SEND_ROWS));
    worker_core_free(c);
}

/* With one group: a row that comes back while another is on its way waits for it, and they go on
 * together. A request that ends is not waited for, whether another of its group is back or it is
 * closed. */
static void rows_go_in_groups(void **state)
{
    (void)state;
    struct worker_core *c = worker_at(0, false, MODEL_WIRE_EXACT);
    for (uint32_t i = 0; i < 2; i++) {
        open_request(c, 1 + i, i, 0, 3);
        run(c, 0);
    }
    token(c, 1, 0, 3);
    assert_int_equal(run(c, 0)->n_decode, 1);
    token(c, 2, 1, 3);
    assert_null(pass);
    token(c, 1, 0, 4);
    assert_int_equal(run(c, 0)->n_decode, 2);
    token(c, 2, 1, 4); /* and request 1 has ended */
    assert_int_equal(run(c, 0)->n_decode, 1);
    close_request(c, 1, 0);
    open_request(c, 3, 0, 0, 3);
    run(c, 0);
    token(c, 3, 0, 3);
    assert_null(pass);
    close_request(c, 2, 1);
    assert_int_equal(run(c, 0)->n_decode, 1);
    worker_core_free(c);
}

/* Short prompts that wait together become as many groups, not one. */
static void prompts_end_in_groups(void **state)
{
    (void)state;
    groups = 3;
    struct worker_core *c = worker_at(0, false, MODEL_WIRE_EXACT);
    groups = 1;
    for (uint32_t i = 0; i < 3; i++)
        open_request(c, 1 + i, i, 0, 2);
    for (uint32_t i = 0; i < 3; i++) {
        const struct worker_pass *p = run(c, 0);
        assert_int_equal(p->n, 2);
        assert_int_equal(p->rows[0].request, 1 + i);
    }
    assert_null(pass);
    worker_core_free(c);
}

/* No coordinator lets such numbers through, and the next stage would refuse the message: as F32 the
 * temperature is infinite. */
static void sampling_out_of_range_fails_the_request(void **state)
{
    (void)state;
    struct worker_core *c = worker_at(0, false, MODEL_WIRE_EXACT);
    static const int32_t token = 3;
    const struct net_msg open = {.code = NET_MSG_OPEN,
                                 .u.OPEN = {.epoch = EPOCH,
                                            .request = 1,
                                            .end_position = CONTEXT,
                                            .temperature = 1e300,
                                            .repeat_penalty = 1,
                                            .tokens = net_list_i32(&token, 1)}};
    control(c, &open);
    assert_non_null(sent(WORKER_ACT_CONTROL, NET_MSG_FAILED));
    assert_null(sent(WORKER_ACT_RING, NET_MSG_RING_OPEN));
    assert_int_equal(worker_core_waiting(c), 0);
    worker_core_free(c);
}

/* The last stage sends back what tokens are chosen at, and nothing else of a prompt. */
static void the_last_stage_sends_back_what_is_wanted(void **state)
{
    (void)state;
    struct worker_core *c = worker_at(2, true, MODEL_WIRE_EXACT);
    const struct net_msg open = {
        .code = NET_MSG_RING_OPEN,
        .u.RING_OPEN = {
            .epoch = EPOCH, .request = 1, .slot = 0, .n_prompt = 5, .end_position = CONTEXT,
            .repeat_penalty = 1}};
    step(c, (struct worker_event){.type = WORKER_EV_RING, .peer = "beta", .msg = &open});
    rows(c, "beta", 1, 1, 0, 0, 3, MODEL_WIRE_EXACT);
    assert_false(pass->rows[2].sample);
    run(c, 0);
    assert_null(action(WORKER_ACT_SEND_ROWS));
    rows(c, "beta", 1, 1, 0, 3, 2, MODEL_WIRE_EXACT);
    run(c, 0);
    const struct worker_action *a = action(WORKER_ACT_SEND_ROWS);
    assert_int_equal(a->rows_kind, 2);
    assert_int_equal(a->n_rows, 1);
    assert_int_equal(a->rows[0], 1);
    assert_string_equal(a->peer, "alpha");
    assert_null(sent(WORKER_ACT_CONTROL, NET_MSG_TOKENS));
    assert_null(sent(WORKER_ACT_RING, NET_MSG_RING_TOKENS));
    worker_core_free(c);
}

/* A plan that puts the output where the stage has none of its runs is refused, as is one that puts it
 * nowhere. */
static void plans_say_where_the_output_is(void **state)
{
    static const uint32_t all[] = {0, 1, 2}, none[] = {0, 0, 0};
    (void)state;
    for (uint32_t stage = 0; stage < STAGES; stage += 2)
        for (uint32_t first = 0; first < 3; first++)
            for (int runs = 0; runs < 2; runs++) {
                struct worker_core *c = ready_worker(stage);
                struct net_msg m = plan(stage, first, MODEL_WIRE_EXACT);
                uint8_t team[64], ports[8], borders[12], run[12];
                net_put_u32(team, 0, (uint32_t)strlen(ring[stage]));
                memcpy(team + 4, ring[stage], strlen(ring[stage]));
                net_put_u32(team + 4 + strlen(ring[stage]), 0, 5);
                memcpy(team + 8 + strlen(ring[stage]), "delta", 5);
                for (uint32_t i = 0; i < 3; i++) {
                    net_put_u32(ports, i % 2, 1);
                    net_put_u32(borders, i, all[i]);
                    net_put_u32(run, i, runs != 0 ? all[i] : none[i]);
                }
                m.u.PLAN.output_first = first;
                m.u.PLAN.team = (struct net_list){team, 2};
                m.u.PLAN.ports = (struct net_list){ports, 2};
                m.u.PLAN.heads = m.u.PLAN.columns = (struct net_list){borders, 3};
                m.u.PLAN.runs = (struct net_list){run, 3};
                control(c, &m);
                const bool good = first < 2 && (runs != 0) == (stage == (first != 0 ? 0 : 2));
                assert_int_equal(action(WORKER_ACT_PREPARE) != NULL, good);
                assert_int_equal(sent(WORKER_ACT_CONTROL, NET_MSG_PREPARED) != NULL, !good);
                worker_core_free(c);
            }
}

/* Rows of a worker's own are those of the plan in force, where there is one. */
static void nothing_is_inherited_of_no_plan(void **state)
{
    uint8_t at[4][4], name[9];
    (void)state;
    struct worker_core *c = loaded_worker(0, false, MODEL_WIRE_EXACT);
    net_put_u32(at[0], 0, 0);
    net_put_u32(at[1], 0, 5);
    net_put_u32(at[2], 0, 2);
    net_put_u32(at[3], 0, 1);
    net_put_u32(name, 0, 5);
    memcpy(name + 4, ring[0], 5);
    const struct net_msg m = {.code = NET_MSG_INHERIT,
                              .u.INHERIT = {.epoch = EPOCH,
                                            .round = 1,
                                            .slots = {at[0], 1},
                                            .first = {at[0], 1},
                                            .end = {at[1], 1},
                                            .donors = {name, 1},
                                            .layer0 = {at[0], 1},
                                            .layer1 = {at[2], 1},
                                            .head0 = {at[0], 1},
                                            .head1 = {at[3], 1}}};
    control(c, &m);
    assert_null(action(WORKER_ACT_KV_COPY));
    assert_int_equal(sent(WORKER_ACT_CONTROL, NET_MSG_PREPARED)->u.PREPARED.state, 2);
    worker_core_free(c);
}

/* Who keeps another's KV rows says that a copy is not to be counted on where it cannot be written, but
 * not where the other is lost in the middle of a round: the rows before it are for that very case. */
static void a_copy_outlives_whom_it_is_of(void **state)
{
    const struct net_msg m = {.code = NET_MSG_CHECKPOINT,
                              .u.CHECKPOINT = {.epoch = EPOCH,
                                               .round = 1,
                                               .begins = 1,
                                               .owner = base_span_str("beta"),
                                               .layer0 = 2,
                                               .layer1 = 4,
                                               .head1 = 1,
                                               .end = 10}};
    (void)state;
    for (int lost = 0; lost < 2; lost++) {
        struct worker_core *c = worker_at(0, false, MODEL_WIRE_EXACT);
        control(c, &m);
        assert_non_null(action(WORKER_ACT_KV_ROOM));
        step(c, lost != 0 ? (struct worker_event){.type = WORKER_EV_RING_BROKEN,
                                                  .peer = "beta",
                                                  .reason = "power"}
                          : (struct worker_event){.type = WORKER_EV_KV_FAILED});
        assert_int_equal(sent(WORKER_ACT_CONTROL, NET_MSG_CHECKPOINTED) != NULL, lost == 0);
        worker_core_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_on_their_way_are_bounded),
        cmocka_unit_test(rows_that_are_back_make_room),
        cmocka_unit_test(rows_that_nobody_waits_for_are_dropped),
        cmocka_unit_test(a_row_that_is_back_becomes_the_next),
        cmocka_unit_test(rows_go_in_groups),
        cmocka_unit_test(prompts_end_in_groups),
        cmocka_unit_test(sampling_out_of_range_fails_the_request),
        cmocka_unit_test(the_last_stage_sends_back_what_is_wanted),
        cmocka_unit_test(plans_say_where_the_output_is),
        cmocka_unit_test(nothing_is_inherited_of_no_plan),
        cmocka_unit_test(a_copy_outlives_whom_it_is_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
