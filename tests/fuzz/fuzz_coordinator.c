/* Fuzz target: the coordinator's core in every state. The input is a script of events: workers that
 * mostly answer what they were sent, a planner, a reader of prompts, clients, and messages of any
 * kind and content from any of them at any time; now and then it is
 * started again, with its journal as it was or damaged. The core itself asserts its invariant after each
 * step, its list of actions has room, and what it sends can be decoded. */
#include "coordinator/coordinator.h"
#include "tests/fuzz/script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NODES = 4, LAYERS = 6, VOCAB = 50, CONTEXT = 32, STEPS_MAX = 120, READS_MAX = 64 };

static const char *const names[] = {"a", "b", "c", "d", "", NULL};

struct shell {
    struct coord_core *core;
    struct coord_actions *out;
    struct script *script;
    int64_t now_ms;
    struct net_config config;
    enum net_code asked[NODES]; /* what each worker has not answered yet; 0: nothing */
    uint64_t epoch[NODES];      /* of the PLAN that it was sent last */
    uint32_t round[NODES];      /* of INHERIT or CHECKPOINT */
    char peer[NODES][NET_NAME_MAX];
    uint64_t open, position; /* the last request that was opened, and its next token's place */
    uint64_t planning, incarnation;
    struct base_buf journal;
    uint32_t present, n_reads;
    uint64_t reads[READS_MAX];
    uint32_t read_bytes[READS_MAX];
};

/* ---- what the core asks for ------------------------------------------------------------------ */

static void on_sent(struct shell *h, const struct coord_action *a)
{
    const struct net_msg *m = &a->msg;
    script_must(a->node < h->config.n_workers);
    script_check_sent(m);
    if (m->code == NET_MSG_OPEN) {
        h->open = m->u.OPEN.request;
        h->position = m->u.OPEN.tokens.n;
        script_must(m->u.OPEN.start < m->u.OPEN.tokens.n && m->u.OPEN.slot < h->config.slots &&
                    m->u.OPEN.end_position <= CONTEXT);
    } else if (m->code == NET_MSG_TEST_LINK) {
        snprintf(h->peer[a->node], NET_NAME_MAX, "%.*s", (int)m->u.TEST_LINK.peer.len,
                 (const char *)m->u.TEST_LINK.peer.ptr);
    } else if (m->code == NET_MSG_PLAN) {
        script_must(m->u.PLAN.epoch > h->epoch[a->node]);
        h->epoch[a->node] = m->u.PLAN.epoch;
    } else if (m->code == NET_MSG_INHERIT) {
        h->round[a->node] = m->u.INHERIT.round;
    } else if (m->code == NET_MSG_CHECKPOINT) {
        h->round[a->node] = m->u.CHECKPOINT.round;
        script_must(m->u.CHECKPOINT.owner.len == 0 ||
                    (m->u.CHECKPOINT.epoch == coord_core_epoch(h->core) &&
                     m->u.CHECKPOINT.layer0 < m->u.CHECKPOINT.layer1 &&
                     m->u.CHECKPOINT.head0 < m->u.CHECKPOINT.head1 &&
                     m->u.CHECKPOINT.slot < h->config.slots &&
                     m->u.CHECKPOINT.first < m->u.CHECKPOINT.end && m->u.CHECKPOINT.end <= CONTEXT));
    }
    if (m->code != NET_MSG_BEAT_BACK && m->code != NET_MSG_COMMIT && m->code != NET_MSG_OPEN &&
        m->code != NET_MSG_CLOSE)
        h->asked[a->node] = m->code;
}

static void act(struct shell *h, const struct coord_action *a)
{
    switch (a->type) {
    case COORD_ACT_NODE:
        on_sent(h, a);
        break;
    case COORD_ACT_CLIENT:
        script_check_sent(&a->msg);
        break;
    case COORD_ACT_DROP_NODE:
        script_must(a->node < h->config.n_workers);
        h->asked[a->node] = (enum net_code)0;
        break;
    case COORD_ACT_PLAN:
        script_must(a->present != 0 && a->present >> h->config.n_workers == 0);
        h->planning = a->serial;
        h->present = a->present;
        break;
    case COORD_ACT_READ:
        if (h->n_reads < READS_MAX) {
            h->reads[h->n_reads] = a->serial;
            h->read_bytes[h->n_reads++] = (uint32_t)a->msg.u.SUBMIT.prompt.len;
        }
        break;
    default:
        break;
    }
}

static void step(struct shell *h, struct coord_event ev)
{
    ev.now_ms = h->now_ms;
    coord_core_step(h->core, &ev, h->out);
    base_buf_add(&h->journal, h->out->journal.ptr, h->out->journal.len);
    for (uint32_t i = 0; i < h->out->n; i++)
        act(h, &h->out->list[i]);
    script_must(coord_core_n_active(h->core) <= h->config.slots);
}

/* ---- workers --------------------------------------------------------------------------------- */

static void from_node(struct shell *h, uint32_t node, struct net_msg *m)
{
    if (script_send(h->script, m))
        step(h, (struct coord_event){.type = COORD_EV_NODE, .node = node, .msg = m});
}

static void fill_profile(struct net_msg *m)
{
    static double layers[COORD_BATCHES * LAYERS];
    static const double few[COORD_BATCHES] = {1e-6, 2e-6, 4e-6};
    static uint8_t rows[COORD_BATCHES * 4];
    for (uint32_t i = 0; i < COORD_BATCHES * LAYERS; i++)
        layers[i] = 1e-3;
    for (uint32_t i = 0; i < COORD_BATCHES; i++)
        net_put_u32(rows, i, 1 + 7 * i);
    *m = (struct net_msg){.code = NET_MSG_PROFILED,
                          .u.PROFILED = {.rows = {rows, COORD_BATCHES},
                                         .attention = net_list_f64(layers, COORD_BATCHES * LAYERS),
                                         .ffn = net_list_f64(layers, COORD_BATCHES * LAYERS),
                                         .attention_fixed = net_list_f64(few, COORD_BATCHES),
                                         .ffn_fixed = net_list_f64(few, COORD_BATCHES),
                                         .embed = net_list_f64(few, COORD_BATCHES),
                                         .output = net_list_f64(few, COORD_BATCHES),
                                         .throttle = 1,
                                         .memory_bytes = 1u << 20}};
}

/* What a worker does that it was asked to. */
static void answer(struct shell *h, uint32_t node)
{
    struct net_msg m = {0};
    const enum net_code asked = h->asked[node];
    h->asked[node] = (enum net_code)0;
    switch ((int)asked) {
    case NET_MSG_WELCOME:
        m = (struct net_msg){.code = NET_MSG_READY, .u.READY = {h->incarnation}};
        break;
    case NET_MSG_PROFILE:
        fill_profile(&m);
        break;
    case NET_MSG_TEST_LINK:
        m = (struct net_msg){.code = NET_MSG_LINK_TESTED,
                             .u.LINK_TESTED = {.peer = base_span_str(h->peer[node]),
                                               .rtt = 1e-3,
                                               .up = 1e8,
                                               .down = 1e8}};
        break;
    case NET_MSG_PLAN:
        m = (struct net_msg){.code = NET_MSG_PREPARED,
                             .u.PREPARED = {.epoch = h->epoch[node],
                                            .state = 1 + (script_byte(h->script) == 0xff)}};
        break;
    case NET_MSG_INHERIT:
        m = (struct net_msg){.code = NET_MSG_PREPARED,
                             .u.PREPARED = {.epoch = h->epoch[node],
                                            .state = 1 + (script_byte(h->script) == 0xff),
                                            .round = h->round[node]}};
        break;
    case NET_MSG_CHECKPOINT:
        m = (struct net_msg){.code = NET_MSG_CHECKPOINTED,
                             .u.CHECKPOINTED = {coord_core_epoch(h->core), h->round[node],
                                                base_span_str(script_byte(h->script) == 0xff ? "no" : "")}};
        break;
    default:
        h->asked[node] = asked;
        m = (struct net_msg){.code = NET_MSG_REPORT, .u.REPORT = {.memory_free = 1u << 24}};
        from_node(h, node, &m);
        m = (struct net_msg){.code = NET_MSG_BEAT, .u.BEAT = {.nonce = 1, .passes = h->position}};
        break;
    }
    from_node(h, node, &m);
}

static void join(struct shell *h, uint32_t node)
{
    struct net_msg m = {.code = NET_MSG_HELLO,
                        .u.HELLO = {.wire = NET_WIRE_VERSION,
                                    .numerics = 7,
                                    .kernels = base_span_str("fuzz"),
                                    .threads = 1,
                                    .data = base_span_str("tcp://127.0.0.1:7001"),
                                    .team_port = 7002}};
    step(h, (struct coord_event){.type = COORD_EV_NODE_UP, .node = node});
    from_node(h, node, &m);
}

/* The ring's messages for the request that was opened last, or with any number at all. */
static void ring_says(struct shell *h, uint32_t node)
{
    struct script *s = h->script;
    uint8_t request[8], position[4], token[4];
    struct net_msg m;
    static const enum net_code codes[] = {NET_MSG_TOKENS,   NET_MSG_TOKENS, NET_MSG_TOKENS,
                                          NET_MSG_LOGPROBS, NET_MSG_LOGITS, NET_MSG_FAILED,
                                          NET_MSG_LINK_LOST};
    script_fill(s, codes[script_below(s, sizeof codes / sizeof *codes)], &m);
    const uint64_t epoch = script_byte(s) < 0xf0 ? coord_core_epoch(h->core) : script_number(s);
    net_put_u64(request, 0, h->open);
    net_put_u32(position, 0, (uint32_t)h->position);
    net_put_u32(token, 0, script_byte(s));
    switch ((int)m.code) {
    case NET_MSG_TOKENS:
        m.u.TOKENS = (struct net_msg_TOKENS){epoch, {request, 1}, {position, 1}, {token, 1}};
        h->position++;
        break;
    case NET_MSG_LOGPROBS:
        m.u.LOGPROBS.epoch = epoch;
        m.u.LOGPROBS.request = h->open;
        m.u.LOGPROBS.position = (uint32_t)h->position;
        break;
    case NET_MSG_LOGITS:
        m.u.LOGITS.epoch = epoch;
        m.u.LOGITS.request = h->open;
        break;
    case NET_MSG_FAILED:
        m.u.FAILED.epoch = epoch;
        m.u.FAILED.request = h->open;
        m.u.FAILED.position = (uint32_t)h->position + script_below(h->script, 3) - 1;
        break;
    default:
        m.u.LINK_LOST.epoch = epoch;
        break;
    }
    from_node(h, node, &m);
}

/* ---- planner and reader ---------------------------------------------------------------------- */

/* The nodes asked about in turn, with what is left of the layers; some form a team. */
static void planned(struct shell *h)
{
    static struct part_plan plan;
    static const double stage_s[PART_DEVICES_MAX] = {1e-3, 1e-3, 1e-3, 1e-3};
    struct script *s = h->script;
    uint32_t layer = 0, n = 0, nodes[NODES];
    const uint8_t how = script_byte(s);
    if (h->planning == 0)
        return;
    memset(&plan, 0, sizeof plan);
    for (uint32_t i = 0; i < h->config.n_workers; i++)
        if ((h->present >> i & 1) != 0)
            nodes[n++] = i;
    n = 1 + how / 4 % n;
    const bool team = (how & 1) != 0 && n > 1;
    plan.n_stages = team ? 1 : n;
    plan.output_first = (how & 2) != 0 && plan.n_stages > 1;
    for (uint32_t i = 0; i < plan.n_stages; i++) {
        struct part_stage *g = &plan.stages[i];
        g->layer0 = layer;
        g->layer1 = layer = i + 1 == plan.n_stages ? LAYERS : layer + 1;
        g->n_members = team ? n : 1;
        for (uint32_t k = 0; k < g->n_members; k++)
            g->members[k] = (struct part_member){nodes[i + k], k, k + 1, k, k + 1, k, k + 1};
    }
    plan.latency_s = plan.bottleneck_s = 1e-3 * (1 + script_below(s, 9));
    const uint64_t serial = h->planning;
    h->planning = 0;
    step(h, (struct coord_event){.type = COORD_EV_PLANNED,
                                 .serial = serial,
                                 .ok = how < 0xe0,
                                 .reason = "no feasible plan",
                                 .plan = &plan,
                                 .stage_s = stage_s,
                                 .stage_batch_s = stage_s,
                                 .now_fits = (how & 4) != 0,
                                 .move = {.ship_bytes = 3e5, .ship_s = (how & 8) != 0 ? 1e3 : 1},
                                 .batch_rate = 10,
                                 .chunk = 1 + how % 8,
                                 .groups = plan.n_stages});
}

static void read_prompt(struct shell *h, uint8_t how)
{
    int32_t tokens[CONTEXT];
    const uint32_t n = how % (CONTEXT + 4);
    if (h->n_reads == 0)
        return;
    for (uint32_t i = 0; i < CONTEXT; i++)
        tokens[i] = (int32_t)(i % (1 + how % 3));
    const uint64_t serial = h->reads[--h->n_reads];
    step(h, (struct coord_event){.type = COORD_EV_READ,
                                 .serial = serial,
                                 .ok = how < 0xf0,
                                 .code = ERR_FORMAT,
                                 .reason = "the prompt is unreadable",
                                 .tokens = tokens,
                                 .n_tokens = n,
                                 .prompt_bytes = h->read_bytes[h->n_reads]});
}

/* ---- clients --------------------------------------------------------------------------------- */

static void from_client(struct shell *h, uint64_t client, struct net_msg *m)
{
    if (m->code == NET_MSG_SUBMIT && h->n_reads == READS_MAX)
        return;
    if (script_send(h->script, m))
        step(h, (struct coord_event){.type = COORD_EV_CLIENT, .client = client, .msg = m});
}

static void submit(struct shell *h, uint64_t client, const uint8_t *id, uint32_t flags)
{
    struct script *s = h->script;
    struct net_msg m;
    script_fill(s, NET_MSG_SUBMIT, &m);
    struct net_msg_SUBMIT *x = &m.u.SUBMIT;
    x->version = NET_CLIENT_VERSION;
    x->id = id;
    x->flags = flags & 1;
    x->n = 1 + script_below(s, 20);
    x->temperature = script_below(s, 3);
    x->top_p = x->repeat_penalty = 1;
    x->min_p = x->presence_penalty = x->frequency_penalty = 0;
    x->bias_ids.n = x->biases.n = 0;
    x->logprobs = script_below(s, 10);
    from_client(h, client, &m);
}

static void ask(struct shell *h, uint64_t client, const uint8_t *id)
{
    struct net_msg m;
    script_fill(h->script, NET_MSG_ASK, &m);
    m.u.ASK.id = id;
    from_client(h, client, &m);
}

/* As many as the coordinator takes, all alike and all waiting for an answer. */
static void crowd(struct shell *h)
{
    const size_t at = h->script->at;
    uint8_t id[16] = {0xcc};
    for (uint32_t i = 0; i < COORD_REQUESTS_MAX; i++) {
        id[1] = (uint8_t)i;
        id[2] = (uint8_t)(i >> 8);
        submit(h, 9, id, 0);
        while (h->n_reads > 0)
            read_prompt(h, 3);
        ask(h, 9, id);
        h->script->at = at;
    }
}

static void client(struct shell *h)
{
    struct script *s = h->script;
    const uint64_t from = 1 + script_below(s, 3);
    uint8_t id[16] = {0};
    struct net_msg m;
    id[0] = (uint8_t)script_below(s, 12);
    switch (script_below(s, 6)) {
    case 0:
    case 1:
        submit(h, from, id, script_byte(s));
        break;
    case 2:
        ask(h, from, id);
        break;
    case 3:
        script_fill(s, NET_MSG_CANCEL, &m);
        m.u.CANCEL.id = id;
        from_client(h, from, &m);
        break;
    case 4:
        step(h, (struct coord_event){.type = COORD_EV_CLIENT_DOWN, .client = from});
        break;
    default:
        if (script_message(s, &m))
            from_client(h, from, &m);
        break;
    }
}

/* ---- events ---------------------------------------------------------------------------------- */

/* Everybody comes, is measured, and a plan is put in force. */
static void serve(struct shell *h)
{
    for (uint32_t i = 0; i < h->config.n_workers; i++)
        join(h, i);
    for (int round = 0; round < 40 && coord_core_epoch(h->core) == 0; round++) {
        h->now_ms += 300;
        step(h, (struct coord_event){.type = COORD_EV_TICK});
        for (uint32_t i = 0; i < h->config.n_workers; i++)
            answer(h, i);
        planned(h);
    }
}

static void reconfigure(struct shell *h)
{
    const uint8_t how = script_byte(h->script);
    if ((how & 1) != 0 && h->config.n_workers < NODES)
        h->config.n_workers++;
    h->config.workers[how / 8 % NODES].exclude = (how & 2) != 0;
    h->config.use_all = (how & 4) != 0;
    step(h, (struct coord_event){.type = COORD_EV_CONFIG, .config = &h->config});
}

/* ---- its life ------------------------------------------------------------------------------- */

static struct span text_of(void *arg, int32_t token)
{
    static const char *const texts[] = {"", "a", "b", "ab", "\xc3", "\xa9", " "};
    (void)arg;
    return base_span_str(texts[(uint32_t)token % (sizeof texts / sizeof *texts)]);
}

static uint32_t pieces_of(void *arg, const struct coord_shard *s)
{
    (void)arg;
    return s->layer1 - s->layer0;
}

static const struct coord_model model = {.n_layers = LAYERS,
                                         .n_ff = 64,
                                         .n_vocab = VOCAB,
                                         .unit_heads = 1,
                                         .unit_cols = 16,
                                         .kv_share = 1,
                                         .kv_row_bytes = 64,
                                         .context = CONTEXT,
                                         .file = "fuzz",
                                         .numerics = 7,
                                         .card_bytes = 100,
                                         .n_ends = 1,
                                         .text = text_of,
                                         .n_pieces = pieces_of};

static void start(struct shell *h)
{
    struct coord_kept_list kept = {0};
    struct base_buf before = h->journal;
    const uint8_t damage = before.len > 0 ? script_byte(h->script) : 0;
    if (damage >= 0xc0)
        before.ptr[script_number(h->script) % before.len] ^= damage;
    else if (damage >= 0x80)
        before.len -= script_number(h->script) % before.len;
    const size_t n = coord_records_read((struct span){before.ptr, before.len}, &kept);
    script_must(damage >= 0x80 ? n <= before.len : n == before.len);
    h->journal = (struct base_buf){0};
    coord_records_write(&kept, &h->journal);
    h->planning = h->open = 0;
    h->n_reads = 0;
    memset(h->asked, 0, sizeof h->asked);
    memset(h->epoch, 0, sizeof h->epoch);
    script_must(coord_core_new(&h->config, &model, ++h->incarnation, 7700, &h->core, NULL) == 0);
    step(h, (struct coord_event){.type = COORD_EV_KEPT, .kept = &kept});
    coord_kept_deinit(&kept);
    base_buf_deinit(&before);
}

static void event(struct shell *h)
{
    struct script *s = h->script;
    struct net_msg m;
    const uint8_t what = script_byte(s);
    const uint32_t node = what / 16 % h->config.n_workers;
    switch (what % 16) {
    case 0:
    case 1:
    case 2:
        answer(h, node);
        break;
    case 3:
        join(h, node);
        break;
    case 4:
        step(h, (struct coord_event){
                    .type = COORD_EV_NODE_DOWN, .node = node, .reason = "the connection broke"});
        break;
    case 5:
        planned(h);
        break;
    case 6:
    case 7:
    case 8:
        client(h);
        break;
    case 9:
        read_prompt(h, script_byte(s));
        break;
    case 10:
    case 11:
        ring_says(h, node);
        break;
    case 12:
        if (script_message(s, &m))
            from_node(h, node, &m);
        break;
    case 13:
        reconfigure(h);
        break;
    case 14:
        if (what >= 0xc0) {
            coord_core_free(h->core);
            start(h);
        } else if (script_byte(s) == 0xee) {
            crowd(h);
        } else {
            serve(h);
        }
        break;
    default:
        h->now_ms += (int64_t)(script_number(s) % 100000 * 10);
        step(h, (struct coord_event){.type = COORD_EV_TICK});
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct script s;
    static struct coord_actions out;
    static struct shell h;
    s = (struct script){.ptr = data, .len = size, .names = names};
    h = (struct shell){.out = &out, .script = &s, .now_ms = 1};
    const uint8_t begin = script_byte(&s);
    snprintf(h.config.name, sizeof h.config.name, "fuzz");
    h.config.context = CONTEXT;
    h.config.slots = 1 + begin % 4;
    h.config.checkpoint = begin / 4 % 3;
    h.config.queue = begin / 4 % 2 == 0 ? 4096 : 3;
    h.config.heartbeat_ms = 200;
    h.config.dead_ms = 3000;
    h.config.horizon_ms = 60000;
    h.config.move_budget = begin / 4 % 2 == 0 ? 0 : 1 << 20;
    h.config.n_workers = 1 + begin / 8 % NODES;
    for (uint32_t i = 0; i < NODES; i++) {
        snprintf(h.config.workers[i].name, NET_NAME_MAX, "%s", names[i]);
        h.config.workers[i].layer0 = h.config.workers[i].layer1 = -1;
    }
    start(&h);
    if (begin >= 64)
        serve(&h);
    for (int i = 0; i < STEPS_MAX && !script_ended(&s); i++)
        event(&h);
    coord_core_free(h.core);
    base_buf_deinit(&h.journal);
    script_end(&s);
    return 0;
}
