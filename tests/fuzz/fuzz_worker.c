/* Fuzz target: the worker's core in every state. The input is a script of events: a coordinator and
 * neighbours that mostly play by the rules, and messages of any kind and content at any time. The
 * shell's side is played as worker/worker.h promises it to the core, and everything that the core
 * asks for must lie within what the shell was given (its invariant the core asserts itself): buffers are not exceeded,
 * one pass runs at a time and on rows that make sense, and what it sends can be decoded. */
#include "tests/fuzz/script.h"
#include "worker/worker.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 8, EMBD = 4, KV_ROW_BYTES = 16, STEPS_MAX = 400 };

static const char *const names[] = {"a", "b", "c", "d", "", NULL};

/* What the shell knows. */
struct shell {
    struct worker_core *core;
    struct worker_actions *out;
    int64_t now_ms;
    uint64_t prepared, loading, loaded, active, newest; /* epochs */
    uint32_t slots, context, max_rows, chunk, n_pieces, manifest;
    bool quit;
    struct worker_pass *pass;
    const struct net_msg *msg; /* of the event */
    struct net_msg_KV_ASK ask; /* the last one that it sent, and to whom */
    char donor[NET_NAME_MAX];
};

/* ---- what the core asks for ------------------------------------------------------------------ */

static void check_pass(const struct shell *h, const struct worker_pass *p)
{
    script_must(h->pass == NULL && h->active != 0 && p->epoch == h->active);
    script_must(p->n > 0 && p->n <= h->max_rows && p->n_decode + p->n_back <= p->n);
    for (uint32_t i = 0; i < p->n; i++) {
        const struct worker_pass_row *r = &p->rows[i];
        script_must(r->request != 0 && r->row.slot < h->slots && r->row.position < h->context);
        script_must(r->from != WORKER_FROM_DECODE || r->index < h->slots);
        script_must(r->from != WORKER_FROM_PROMPT ||
                    r->index < worker_core_prompt_rows(h->core, h->active));
        script_must(!(r->sample && r->summarise));
        if (r->sample)
            script_must(r->n_recent <= MODEL_PENALTY_WINDOW && r->n_ends <= WORKER_ENDS_MAX &&
                        r->sampling.n_biases <= MODEL_BIASES_MAX &&
                        r->sampling.logprobs <= 1 + MODEL_LOGPROBS_MAX);
    }
}

static void check_keep(const struct shell *h, const struct worker_action *a)
{
    script_must(h->msg != NULL && h->msg->code == NET_MSG_ROWS && h->active != 0 &&
                h->msg->u.ROWS.epoch == h->active);
    script_must(a->to == WORKER_FROM_DECODE || a->to == WORKER_FROM_PROMPT);
    const uint64_t room = a->to == WORKER_FROM_DECODE
                              ? h->slots
                              : worker_core_prompt_rows(h->core, h->active);
    script_must((uint64_t)a->index + a->n_rows <= room);
    script_must((uint64_t)a->from_row + a->n_rows <= h->msg->u.ROWS.requests.n);
}

static void check_rows(const struct worker_action *a)
{
    script_must(a->peer != NULL && a->n_rows > 0 && a->epoch == a->pass->epoch);
    for (uint32_t i = 0; i < a->n_rows; i++)
        script_must(a->rows[i] < a->pass->n && a->pass->rows[a->rows[i]].request != 0);
}

static void prepare(struct shell *h, const struct net_msg_PLAN *m)
{
    script_must(m->epoch > h->active && m->layer0 < m->layer1 && m->layer1 <= LAYERS);
    h->prepared = m->epoch;
    h->loading = h->loaded = 0;
    h->n_pieces = m->n_pieces;
    h->manifest = 0;
}

static void activate(struct shell *h, const struct worker_action *a)
{
    script_must(a->epoch != 0 && a->epoch == h->loaded && a->epoch > h->active);
    h->active = a->epoch;
    h->loaded = h->prepared = 0;
}

/* Rows of the model and of a slot; whether the caches have them the shell looks itself. */
static void check_kv(const struct shell *h, const struct model_kv_rows *r, uint32_t layers)
{
    script_must(r->layer < LAYERS && layers <= LAYERS - r->layer && r->head0 < r->head1 &&
                r->slot < h->slots && r->first < h->context && r->rows > 0 &&
                r->rows <= h->context - r->first);
}

static void act(struct shell *h, const struct worker_action *a)
{
    switch (a->type) {
    case WORKER_ACT_RING:
        script_must(a->peer != NULL);
        script_check_sent(&a->msg);
        if (a->msg.code == NET_MSG_KV_ASK) {
            h->ask = a->msg.u.KV_ASK;
            snprintf(h->donor, sizeof h->donor, "%s", a->peer);
        }
        break;
    case WORKER_ACT_KV_ROOM:
        script_must(a->epoch == h->active && h->active != 0);
        script_must(a->kv_layers <= LAYERS && a->kv.layer <= LAYERS - a->kv_layers &&
                    (a->kv_layers == 0 || a->kv.head0 < a->kv.head1));
        break;
    case WORKER_ACT_KV_COPY:
        script_must(a->epoch == h->active && h->active != 0 && h->loaded != 0);
        check_kv(h, &a->kv, a->kv_layers);
        break;
    case WORKER_ACT_KV_WRITE:
        script_must(h->msg != NULL && h->msg->code == NET_MSG_KV_ROWS &&
                    (a->to_copy ? h->active : h->loaded) != 0);
        check_kv(h, &a->kv, 1);
        script_must(h->msg->u.KV_ROWS.kv.len ==
                    (size_t)KV_ROW_BYTES * a->kv.rows * (a->kv.head1 - a->kv.head0));
        break;
    case WORKER_ACT_KV_SEND:
        script_must(a->peer != NULL && (!a->has_rows || (a->epoch == h->active && h->active != 0)));
        break;
    case WORKER_ACT_CONTROL:
        script_check_sent(&a->msg);
        break;
    case WORKER_ACT_PREPARE:
        prepare(h, &a->msg.u.PLAN);
        break;
    case WORKER_ACT_MANIFEST:
        script_must(a->msg.u.MANIFEST.epoch == h->prepared);
        h->manifest += (uint32_t)(a->msg.u.MANIFEST.hashes.len / NET_HASH_BYTES);
        script_must(h->manifest <= h->n_pieces);
        break;
    case WORKER_ACT_LOAD:
        script_must(a->epoch != 0 && a->epoch == h->prepared && h->manifest == h->n_pieces);
        h->loading = a->epoch;
        break;
    case WORKER_ACT_ACTIVATE:
        activate(h, a);
        break;
    case WORKER_ACT_DEACTIVATE:
        h->active = h->prepared = h->loading = h->loaded = 0;
        break;
    case WORKER_ACT_KEEP:
        check_keep(h, a);
        break;
    case WORKER_ACT_PASS:
        check_pass(h, a->pass);
        h->pass = a->pass;
        break;
    case WORKER_ACT_SEND_ROWS:
        check_rows(a);
        break;
    case WORKER_ACT_LOGITS:
        script_must(a->from_row < a->pass->n);
        break;
    case WORKER_ACT_QUIT:
        h->quit = true;
        break;
    default:
        break;
    }
}

static void step(struct shell *h, struct worker_event ev)
{
    ev.now_ms = h->now_ms;
    h->msg = ev.msg;
    const bool welcome = ev.type == WORKER_EV_CONTROL && ev.msg->code == NET_MSG_WELCOME;
    if (ev.type == WORKER_EV_PASS)
        h->pass = NULL;
    worker_core_step(h->core, &ev, h->out);
    for (uint32_t i = 0; i < h->out->n; i++) {
        if (welcome && h->out->list[i].type == WORKER_ACT_CARD) {
            h->slots = ev.msg->u.WELCOME.slots;
            h->context = ev.msg->u.WELCOME.context;
        }
        act(h, &h->out->list[i]);
    }
    script_must(worker_core_epoch(h->core) == h->active);
    script_must(worker_core_deadline_ms(h->core) > 0);
}

/* ---- messages that make sense ---------------------------------------------------------------- */

static uint64_t draw_epoch(struct shell *h, struct script *s)
{
    switch (script_below(s, 8)) {
    case 0:
        return script_number(s);
    case 1:
        return h->newest;
    default:
        return h->active != 0 ? h->active : h->newest;
    }
}

static void make_welcome(struct script *s, struct net_msg *m)
{
    script_fill(s, NET_MSG_WELCOME, m);
    m->u.WELCOME.wire = NET_WIRE_VERSION;
    m->u.WELCOME.numerics = 7;
    m->u.WELCOME.slots = 1 + script_below(s, 6);
    m->u.WELCOME.context = 8 + script_below(s, 40);
    m->u.WELCOME.kv = 0;
    m->u.WELCOME.heartbeat_ms = 100 + script_below(s, 100);
    m->u.WELCOME.dead_ms = 1000;
    m->u.WELCOME.report_ms = 100;
}

/* This worker, "a", is on its own, or a stage of a ring, or somewhere in its first stage's team. */
static void make_plan(struct shell *h, struct script *s, struct net_msg *m)
{
    struct net_msg_PLAN *p = &m->u.PLAN;
    struct base_buf ring = {0}, team = {0};
    *m = (struct net_msg){.code = NET_MSG_PLAN};
    p->epoch = ++h->newest;
    p->n_stages = 1 + script_below(s, 4);
    p->stage = script_below(s, p->n_stages);
    p->output_first = script_below(s, 2);
    const uint32_t members = p->stage == 0 ? 1 + script_below(s, 3) : 1;
    p->member = script_below(s, members);
    for (uint32_t i = 0; i < p->n_stages; i++)
        net_put_str(&ring, base_span_str(i == p->stage && p->member == 0 ? "a"
                                         : i == p->stage                ? "e"
                                                                        : names[1 + (i + 3) % 3]));
    p->layer0 = p->stage == 0 ? 0 : p->stage;
    p->layer1 = p->stage + 1 == p->n_stages ? LAYERS : p->stage + 1;
    uint8_t *const cuts = script_take(s, 64);
    const bool output = p->stage == (p->output_first != 0 ? 0 : p->n_stages - 1);
    for (uint32_t i = 0; i < members; i++)
        net_put_str(&team, base_span_str(i == p->member ? "a" : i == 0 ? "e" : names[i]));
    for (uint32_t i = 0; i <= members; i++) {
        net_put_u32(cuts, i, i);
        net_put_u32(cuts + 32, i, output ? i : 0);
    }
    if (members > 1) {
        p->team = (struct net_list){team.ptr, members};
        p->ports = (struct net_list){cuts, members};
        p->heads = p->columns = (struct net_list){cuts, members + 1};
        p->runs = (struct net_list){cuts + 32, members + 1};
    }
    p->ring = (struct net_list){ring.ptr, p->n_stages};
    p->wire = script_below(s, MODEL_N_WIRES);
    p->chunk = 1 + script_below(s, 6);
    p->groups = 1 + p->chunk % p->n_stages;
    p->max_rows = p->chunk + (h->slots > 0 ? h->slots : 1);
    p->n_pieces = 1 + script_below(s, 3);
    h->max_rows = p->max_rows > h->max_rows ? p->max_rows : h->max_rows;
    script_must(script_send(s, m));
    base_buf_deinit(&ring);
    base_buf_deinit(&team);
}

static void make_manifest(struct shell *h, struct script *s, struct net_msg *m)
{
    const uint32_t left = h->n_pieces - h->manifest, n = left > 0 ? left : 1;
    const size_t len = (size_t)(n < 8 ? n : 8) * NET_HASH_BYTES;
    uint8_t *p = script_take(s, len);
    memset(p, 1, len);
    *m = (struct net_msg){.code = NET_MSG_MANIFEST,
                          .u.MANIFEST = {h->prepared, h->manifest, {p, len}}};
}

static void make_open(struct shell *h, struct script *s, struct net_msg *m)
{
    script_fill(s, NET_MSG_OPEN, m);
    m->u.OPEN.epoch = draw_epoch(h, s);
    m->u.OPEN.slot = h->slots > 0 ? script_below(s, h->slots) : 0;
    m->u.OPEN.request = 1 + script_below(s, 40);
    m->u.OPEN.end_position = script_below(s, h->context + 1);
    m->u.OPEN.logprobs = script_below(s, 10);
    m->u.OPEN.start = script_below(s, 4);
    m->u.OPEN.tokens = script_list(s, h->context, '4');
    m->u.OPEN.biases.n = m->u.OPEN.bias_ids.n =
        m->u.OPEN.biases.n < m->u.OPEN.bias_ids.n ? m->u.OPEN.biases.n : m->u.OPEN.bias_ids.n;
}

static void make_rows(struct shell *h, struct script *s, struct net_msg *m)
{
    static const uint8_t hidden[SCRIPT_LIST_MAX * EMBD * 8];
    const uint32_t n = 1 + script_below(s, 8);
    uint8_t *requests = script_take(s, n * 8), *slots = script_take(s, n * 4),
            *positions = script_take(s, n * 4);
    for (uint32_t i = 0; i < n; i++) {
        net_put_u64(requests, i, 1 + script_below(s, 40));
        net_put_u32(slots, i, script_below(s, h->slots + 1));
        net_put_u32(positions, i, (uint32_t)script_number(s));
    }
    *m = (struct net_msg){.code = NET_MSG_ROWS,
                          .u.ROWS = {draw_epoch(h, s),
                                     script_below(s, 3),
                                     {requests, n},
                                     {slots, n},
                                     {positions, n},
                                     {hidden, model_rows_bytes(n, EMBD, (enum model_wire)script_below(
                                                                            s, MODEL_N_WIRES))}}};
}

/* Of the messages of a request's life, with an epoch that may be the one in force. */
static bool make_ring(struct shell *h, struct script *s, struct net_msg *m)
{
    switch (script_below(s, 5)) {
    case 0:
        script_fill(s, NET_MSG_RING_OPEN, m);
        m->u.RING_OPEN.epoch = draw_epoch(h, s);
        m->u.RING_OPEN.request = 1 + script_below(s, 40);
        m->u.RING_OPEN.slot = script_below(s, h->slots + 1);
        m->u.RING_OPEN.end_position = script_below(s, h->context + 1);
        m->u.RING_OPEN.logprobs = script_below(s, 10);
        m->u.RING_OPEN.bias_ids.n = m->u.RING_OPEN.biases.n = 0;
        break;
    case 1:
        script_fill(s, NET_MSG_RING_CLOSE, m);
        m->u.RING_CLOSE.epoch = draw_epoch(h, s);
        break;
    case 2:
        make_rows(h, s, m);
        break;
    case 3:
        script_fill(s, NET_MSG_RING_TOKENS, m);
        m->u.RING_TOKENS.epoch = draw_epoch(h, s);
        m->u.RING_TOKENS.slots.n = m->u.RING_TOKENS.positions.n = m->u.RING_TOKENS.tokens.n =
            m->u.RING_TOKENS.requests.n = script_below(s, 2);
        break;
    default:
        script_fill(s, NET_MSG_STARTED, m);
        m->u.STARTED.epoch = draw_epoch(h, s);
        break;
    }
    return script_send(s, m);
}

/* ---- events ---------------------------------------------------------------------------------- */

static void pass_done(struct shell *h, struct script *s)
{
    struct worker_pass *p = h->pass;
    if (p == NULL)
        return;
    for (uint32_t i = 0; i < p->n; i++) {
        const uint8_t what = script_byte(s);
        p->bad[i] = what == 0xff ? 1 + script_below(s, LAYERS + 1) : 0;
        p->tokens[i] = !p->rows[i].sample || p->bad[i] != 0 || what == 0xfe ? -1 : what % 61;
        p->at[i] = i;
        p->logprobs[i].n_best = p->rows[i].sampling.logprobs > 0 ? p->rows[i].sampling.logprobs - 1 : 0;
    }
    if (script_byte(s) == 0xff) {
        snprintf(p->lost, sizeof p->lost, "b");
        snprintf(p->reason, sizeof p->reason, "it said nothing");
    }
    step(h, (struct worker_event){.type = WORKER_EV_PASS, .pass = p});
}

static void on_control(struct shell *h, struct script *s, struct net_msg *m)
{
    if (script_send(s, m))
        step(h, (struct worker_event){.type = WORKER_EV_CONTROL, .msg = m});
}

/* All that leads to a worker that may be given plans. */
static void meet(struct shell *h, struct script *s)
{
    static const struct model_shape shape = {.n_layers = LAYERS, .n_embd = EMBD};
    struct net_msg m;
    step(h, (struct worker_event){.type = WORKER_EV_CONTROL_UP});
    make_welcome(s, &m);
    on_control(h, s, &m);
    step(h, (struct worker_event){
                .type = WORKER_EV_CARD, .ok = true, .shape = &shape, .kv_row_bytes = KV_ROW_BYTES});
}

/* All that leads to a plan in force, or one that could be. */
static void serve(struct shell *h, struct script *s, bool commit)
{
    struct net_msg m;
    make_plan(h, s, &m);
    step(h, (struct worker_event){.type = WORKER_EV_CONTROL, .msg = &m});
    if (h->prepared != h->newest)
        return;
    make_manifest(h, s, &m);
    on_control(h, s, &m);
    h->loaded = h->loading;
    step(h, (struct worker_event){.type = WORKER_EV_LOADED, .epoch = h->loading, .ok = true});
    h->loading = 0;
    for (int i = 1; i <= 3; i++)
        step(h, (struct worker_event){.type = WORKER_EV_RING_UP, .peer = names[i]});
    step(h, (struct worker_event){.type = WORKER_EV_RING_UP, .peer = "e"});
    step(h, (struct worker_event){.type = WORKER_EV_TEAM_UP, .epoch = h->prepared});
    m = (struct net_msg){.code = NET_MSG_COMMIT, .u.COMMIT = {h->newest}};
    if (commit)
        on_control(h, s, &m);
}

/* Rows of another worker to be copied beside the plan in force. */
static void checkpoint(struct shell *h, struct script *s)
{
    struct net_msg m;
    script_fill(s, NET_MSG_CHECKPOINT, &m);
    struct net_msg_CHECKPOINT *x = &m.u.CHECKPOINT;
    x->epoch = h->active;
    x->round = 1 + script_byte(s);
    x->begins = script_byte(s) & 1;
    x->owner = base_span_str(script_below(s, 5) == 0 ? "" : names[script_below(s, 4)]);
    x->layer0 = script_below(s, LAYERS);
    x->layer1 = script_below(s, LAYERS + 2);
    x->head0 = script_below(s, 3);
    x->head1 = script_below(s, 5);
    x->slot = script_below(s, h->slots + 1);
    x->first = script_below(s, 4);
    x->end = script_below(s, h->context + 2);
    on_control(h, s, &m);
}

/* A slot or two, and parts of whom it says has them; with no part and one slot, a copy instead. */
static void inherit(struct shell *h, struct script *s)
{
    struct net_msg m;
    script_fill(s, NET_MSG_INHERIT, &m);
    struct net_msg_INHERIT *x = &m.u.INHERIT;
    const uint32_t n_slots = 1 + script_below(s, 2), n_parts = script_below(s, 4);
    if (n_parts == 0 && n_slots == 1) {
        checkpoint(h, s);
        return;
    }
    uint8_t *p = script_take(s, 160);
    struct base_buf donors = {0};
    for (uint32_t i = 0; i < n_slots; i++) {
        net_put_u32(p, i, script_below(s, h->slots + 1));
        net_put_u32(p + 16, i, script_below(s, 4));
        net_put_u32(p + 32, i, script_below(s, h->context + 1));
    }
    for (uint32_t i = 0; i < n_parts; i++) {
        net_put_str(&donors, base_span_str(names[script_below(s, 4)]));
        net_put_u32(p + 48, i, script_below(s, LAYERS));
        net_put_u32(p + 64, i, script_below(s, LAYERS + 1));
        net_put_u32(p + 80, i, script_below(s, 3));
        net_put_u32(p + 96, i, script_below(s, 5));
    }
    x->epoch = h->newest;
    x->from = h->active;
    x->slots = (struct net_list){p, n_slots};
    x->first = (struct net_list){p + 16, n_slots};
    x->end = (struct net_list){p + 32, n_slots};
    x->donors = (struct net_list){donors.ptr, n_parts};
    x->layer0 = (struct net_list){p + 48, n_parts};
    x->layer1 = (struct net_list){p + 64, n_parts};
    x->head0 = (struct net_list){p + 80, n_parts};
    x->head1 = (struct net_list){p + 96, n_parts};
    on_control(h, s, &m);
    base_buf_deinit(&donors);
}

/* What was asked for last comes, or less of it. */
static void kv_rows(struct shell *h, struct script *s)
{
    const struct net_msg_KV_ASK *a = &h->ask;
    const size_t len = (size_t)KV_ROW_BYTES * a->rows * (a->head1 - a->head0);
    struct net_msg m;
    const uint8_t how = script_byte(s);
    if (h->donor[0] == 0 || len == 0 || len > SCRIPT_POOL)
        return;
    uint8_t *kv = script_take(s, len);
    memset(kv, how, len);
    m = (struct net_msg){.code = NET_MSG_KV_ROWS,
                         .u.KV_ROWS = {a->epoch, a->layer, a->head0, a->head1, a->slot, a->first,
                                       a->rows, a->number, {kv, how < 0xf0 ? len : 0}}};
    if (script_send(s, &m))
        step(h, (struct worker_event){.type = WORKER_EV_RING, .msg = &m, .peer = h->donor});
}

static void coordinator(struct shell *h, struct script *s)
{
    struct net_msg m;
    switch (script_below(s, 13)) {
    case 9:
        serve(h, s, false);
        return;
    case 10:
        inherit(h, s);
        return;
    case 11:
        kv_rows(h, s);
        return;
    case 12:
        step(h, (struct worker_event){.type = WORKER_EV_KV_FAILED});
        return;
    case 7:
        meet(h, s);
        return;
    case 8:
        serve(h, s, true);
        return;
    case 0:
        make_welcome(s, &m);
        break;
    case 1:
        make_plan(h, s, &m);
        step(h, (struct worker_event){.type = WORKER_EV_CONTROL, .msg = &m});
        return;
    case 2:
        make_manifest(h, s, &m);
        break;
    case 3:
        m = (struct net_msg){.code = NET_MSG_COMMIT, .u.COMMIT = {h->newest}};
        break;
    case 4:
        make_open(h, s, &m);
        break;
    case 5:
        script_fill(s, NET_MSG_CLOSE, &m);
        m.u.CLOSE.epoch = draw_epoch(h, s);
        break;
    default:
        if (!script_message(s, &m))
            return;
        /* A coordinator that counts its epochs too high is believed. */
        if (m.code == NET_MSG_PLAN && m.u.PLAN.epoch > h->newest)
            h->newest = m.u.PLAN.epoch < UINT64_MAX / 2 ? m.u.PLAN.epoch : h->newest;
        if (m.code == NET_MSG_PLAN && m.u.PLAN.max_rows > h->max_rows)
            h->max_rows = m.u.PLAN.max_rows;
        break;
    }
    on_control(h, s, &m);
}

static void local(struct shell *h, struct script *s)
{
    static struct model_shape shape = {.n_layers = LAYERS, .n_embd = EMBD};
    struct worker_readings readings;
    struct worker_event ev = {.epoch = h->loading, .reason = "the disk is full"};
    switch (script_below(s, 5)) {
    case 4: { /* as odd as a board may tell */
        const double x = script_real(s);
        readings = (struct worker_readings){.memory_free = script_number(s),
                                            .memory_used = script_number(s),
                                            .memory_pressure = x,
                                            .temperature = NAN,
                                            .clock = x,
                                            .battery = NAN,
                                            .power = x,
                                            .flags = script_byte(s)};
        ev.type = WORKER_EV_READ;
        ev.readings = &readings;
        break;
    }
    case 0:
        ev.type = WORKER_EV_CARD;
        ev.ok = script_byte(s) != 0xff;
        ev.shape = &shape;
        ev.kv_row_bytes = KV_ROW_BYTES;
        break;
    case 1:
        ev.type = WORKER_EV_LOADED;
        ev.ok = script_byte(s) != 0xff;
        if (h->loading == 0)
            return;
        h->loaded = ev.ok ? h->loading : 0;
        h->loading = 0;
        break;
    case 2:
        ev.type = WORKER_EV_FETCHED;
        break;
    default:
        ev.type = WORKER_EV_TEAM_UP;
        ev.epoch = h->prepared;
        break;
    }
    step(h, ev);
}

static void link(struct shell *h, struct script *s)
{
    static const enum worker_event_type types[] = {WORKER_EV_RING_UP, WORKER_EV_RING_UP,
                                                   WORKER_EV_RING_DOWN, WORKER_EV_RING_BROKEN,
                                                   WORKER_EV_TEAM_LOST};
    struct worker_event ev = {.reason = "the connection broke"};
    const uint8_t what = script_byte(s);
    ev.type = types[what % (sizeof types / sizeof *types)];
    ev.peer = names[1 + what / 8 % 3];
    ev.epoch = h->active;
    step(h, ev);
}

static void event(struct shell *h, struct script *s)
{
    struct net_msg m;
    switch (script_below(s, 8)) {
    case 0:
    case 1:
        coordinator(h, s);
        break;
    case 2:
        local(h, s);
        break;
    case 3:
        pass_done(h, s);
        break;
    case 4: {
        const char *peer = names[1 + script_below(s, 3)];
        if (make_ring(h, s, &m))
            step(h, (struct worker_event){.type = WORKER_EV_RING, .msg = &m, .peer = peer});
        break;
    }
    case 5:
        link(h, s);
        break;
    case 6: {
        const char *peer = names[1 + script_below(s, 3)];
        if (script_message(s, &m))
            step(h, (struct worker_event){.type = WORKER_EV_RING, .msg = &m, .peer = peer});
        break;
    }
    default: {
        const uint8_t what = script_byte(s);
        h->now_ms += what;
        step(h, (struct worker_event){.type = what == 0xff   ? WORKER_EV_CONTROL_DOWN
                                              : what >= 0xf0 ? WORKER_EV_CONTROL_UP
                                                             : WORKER_EV_TICK});
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct script s;
    static struct worker_actions out;
    const struct worker_identity id = {.name = "a", .kernels = "fuzz", .numerics = 7, .threads = 1};
    struct shell h = {.out = &out, .now_ms = 1, .max_rows = 1};
    s = (struct script){.ptr = data, .len = size, .names = names};
    if (worker_core_new(&id, &h.core, NULL) != 0)
        return 0;
    const uint8_t begin = script_byte(&s);
    if (begin > 10)
        meet(&h, &s);
    if (begin > 20)
        serve(&h, &s, true);
    for (int i = 0; i < STEPS_MAX && !script_ended(&s) && !h.quit; i++)
        event(&h, &s);
    worker_core_free(h.core);
    script_end(&s);
    return 0;
}
