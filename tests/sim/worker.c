/* The simulated worker's shell: it carries out what the core decides, at once or after some time,
 * and hands back what came of it, as worker/worker.h describes.
 *
 * A worker's process may end at any time; what belongs to an earlier one is recognised by the
 * process' number and dropped, but the store stays. What belongs to an earlier preparation is
 * recognised by its number. */
#include "tests/sim/sim.h"

#include <string.h>

enum {
    PROFILE_US = 200000,
    TEST_US = 100000,
    TEST_LIMIT_US = 5000000,
    TRY_US = 50000,
    TEAM_US = 10000,
    CARD_US = 100000,
    READ_US = 1000,
    LATE_US = 3000000
};

static uint32_t index_of(const struct sim *s, const char *name)
{
    for (uint32_t i = 0; i < s->setup.n_workers; i++)
        if (strcmp(sim_name(s, SIM_WORKER0 + i), name) == 0)
            return i;
    return SIM_WORKERS_MAX;
}

static void push_local(struct sim *s, uint32_t w, enum sim_what what, uint64_t life,
                       int64_t delay_us)
{
    sim_push(s,
             (struct sim_event){
                 .node = SIM_WORKER0 + w, .what = what, .life = life, .arg = s->workers[w].process},
             delay_us);
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- loading --------------------------------------------------------------------------------- */

static void prepare(struct sim *s, uint32_t w, const struct net_msg_PLAN *m)
{
    struct sim_worker *k = &s->workers[w];
    k->prepare++;
    k->next_epoch = m->epoch;
    k->next_shard = sim_stub_shard(m);
    k->next_layer0 = m->layer0;
    k->next_layer1 = m->layer1;
    k->next_stage = m->stage;
    k->next_chunk = m->chunk;
    k->next_max_rows = m->max_rows;
    k->next_last = m->stage + 1 == m->n_stages;
    k->next_output_first = m->output_first != 0 && m->n_stages > 1;
    k->next_n_team = m->team.n == 0 ? 1 : m->team.n;
    k->next_me = m->member;
    k->next_team[0] = w;
    for (uint32_t i = 0; i < m->team.n; i++) {
        char name[NET_NAME_MAX];
        const struct span text = net_str_at(m->team, i);
        snprintf(name, sizeof name, "%.*s", (int)text.len, (const char *)text.ptr);
        k->next_team[i] = index_of(s, name);
    }
    k->n_pieces = m->n_pieces;
    k->n_manifest = 0;
    sim_engine_free(k->next_engine);
    k->next_engine = NULL;
}

static void manifest(struct sim *s, uint32_t w, const struct net_msg_MANIFEST *m)
{
    struct sim_worker *k = &s->workers[w];
    for (size_t at = 0; at < m->hashes.len; at += NET_HASH_BYTES) {
        if (m->epoch != k->next_epoch || k->n_manifest == SIM_PIECES_MAX) {
            sim_fail(s, "%s is given a manifest that is not its plan's",
                     sim_name(s, SIM_WORKER0 + w));
            return;
        }
        k->manifest[k->n_manifest++] = m->hashes.ptr[at];
    }
}

/* Pieces that lack come one after the other. */
static void load(struct sim *s, uint32_t w, uint64_t epoch)
{
    struct sim_worker *k = &s->workers[w];
    uint32_t pieces[SIM_PIECES_MAX];
    const uint32_t n = sim_stub_pieces(&s->setup, &k->next_shard, pieces);
    int64_t at_us = sim_between(s, 1000, 50000);
    if (epoch != k->next_epoch || n != k->n_manifest ||
        memcmp(pieces, k->manifest, n * sizeof *pieces) != 0)
        sim_fail(s, "%s loads something else than its plan's pieces", sim_name(s, SIM_WORKER0 + w));
    k->total_bytes = n * SIM_PIECE_BYTES;
    k->done_bytes = k->fetched_bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (k->store[pieces[i]]) {
            k->done_bytes += SIM_PIECE_BYTES;
            continue;
        }
        at_us += s->setup.piece_us;
        sim_push(s,
                 (struct sim_event){.node = SIM_WORKER0 + w,
                                    .what = SIM_PIECE,
                                    .peer = pieces[i],
                                    .life = k->prepare,
                                    .arg = k->process},
                 at_us);
    }
    push_local(s, w, SIM_LOADED, k->prepare, at_us + sim_between(s, 1000, 100000));
}

static void on_piece(struct sim *s, uint32_t w, const struct sim_event *ev,
                     struct worker_event *out)
{
    struct sim_worker *k = &s->workers[w];
    k->store[ev->peer] = true;
    k->done_bytes += SIM_PIECE_BYTES;
    k->fetched_bytes += SIM_PIECE_BYTES;
    out->type = WORKER_EV_FETCHED;
}

static void on_loaded(struct sim *s, uint32_t w, struct worker_event *out)
{
    struct sim_worker *k = &s->workers[w];
    out->type = WORKER_EV_LOADED;
    out->ok = !(s->setup.trouble && sim_draw(s, 20) == 0);
    if (!out->ok) {
        out->reason = "the disk is full";
        k->well_since_us = later(k->well_since_us, s->now_us + 31000000);
        return;
    }
    k->next_engine = sim_engine_new(s, w);
    sim_say(s, "%s loaded epoch=%llx fetched=%llu", sim_name(s, SIM_WORKER0 + w),
            (unsigned long long)k->next_epoch, (unsigned long long)k->fetched_bytes);
}

static void activate(struct sim *s, uint32_t w, uint64_t epoch)
{
    struct sim_worker *k = &s->workers[w];
    if (k->next_engine == NULL || k->next_engine->epoch != epoch)
        sim_fail(s, "%s puts a plan in force that it has not loaded", sim_name(s, SIM_WORKER0 + w));
    if (epoch <= k->epoch_max)
        sim_fail(s, "%s goes back to epoch %llx", sim_name(s, SIM_WORKER0 + w),
                 (unsigned long long)epoch);
    k->epoch_max = epoch;
    sim_copy_free(k->copy);
    k->copy = NULL;
    sim_engine_free(k->engine);
    k->engine = k->next_engine;
    k->next_engine = NULL;
}

static void deactivate(struct sim_worker *k)
{
    k->prepare++;
    sim_engine_free(k->engine);
    sim_engine_free(k->next_engine);
    sim_copy_free(k->copy);
    k->engine = k->next_engine = NULL;
    k->copy = NULL;
}

/* ---- actions --------------------------------------------------------------------------------- */

static void act_ring(struct sim *s, uint32_t w, const struct worker_action *a)
{
    struct sim_worker *k = &s->workers[w];
    const uint32_t to = index_of(s, a->peer);
    if (a->msg.code == NET_MSG_STARTED && k->engine != NULL) {
        if (a->msg.u.STARTED.rows < k->engine->taken || a->msg.u.STARTED.rows > k->engine->kept)
            sim_fail(s, "%s counts the prompt rows that it took up wrong",
                     sim_name(s, SIM_WORKER0 + w));
        k->engine->taken = a->msg.u.STARTED.rows;
        k->engine->dropped = a->msg.u.STARTED.dropped;
    }
    if (!sim_ring_send(s, w, to, &a->msg))
        k->broken = 1 + to;
}

static void act(struct sim *s, uint32_t w, const struct worker_action *a,
                const struct worker_event *ev)
{
    struct sim_worker *k = &s->workers[w];
    switch (a->type) {
    case WORKER_ACT_CONTROL:
        if (a->msg.code == NET_MSG_LINK_LOST && k->engine != NULL)
            k->engine->lost = true;
        sim_control_up(s, w, &a->msg);
        break;
    case WORKER_ACT_READ:
        push_local(s, w, SIM_READINGS, 0, READ_US);
        break;
    case WORKER_ACT_RING:
        act_ring(s, w, a);
        break;
    case WORKER_ACT_CARD:
        push_local(s, w, SIM_CARD, 0, sim_between(s, 1000, CARD_US));
        break;
    case WORKER_ACT_PROFILE:
        push_local(s, w, SIM_PROFILED, 0, sim_between(s, 10000, PROFILE_US));
        break;
    case WORKER_ACT_TEST_LINK:
        k->test_until_us = s->now_us + TEST_LIMIT_US;
        if (a->msg.u.TEST_LINK.peer.len > 0) {
            char name[NET_NAME_MAX];
            snprintf(name, sizeof name, "%.*s", (int)a->msg.u.TEST_LINK.peer.len,
                     (const char *)a->msg.u.TEST_LINK.peer.ptr);
            sim_ring_want(s, w, index_of(s, name));
            push_local(s, w, SIM_TESTED, 1 + index_of(s, name), sim_between(s, 10000, TEST_US));
        } else {
            push_local(s, w, SIM_TESTED, 0, sim_between(s, 10000, TEST_US));
        }
        break;
    case WORKER_ACT_PREPARE:
        prepare(s, w, &a->msg.u.PLAN);
        break;
    case WORKER_ACT_MANIFEST:
        manifest(s, w, &a->msg.u.MANIFEST);
        break;
    case WORKER_ACT_STOCK: /* shipping takes no time worth a world */
        break;
    case WORKER_ACT_LOAD:
        load(s, w, a->epoch);
        break;
    case WORKER_ACT_CONNECT:
        sim_ring_want(s, w, index_of(s, a->peer));
        break;
    case WORKER_ACT_TEAM:
        if (k->next_me > 0)
            sim_ring_want(s, w, k->next_team[0]);
        push_local(s, w, SIM_TEAM, k->prepare, TEAM_US);
        break;
    case WORKER_ACT_ACTIVATE:
        activate(s, w, a->epoch);
        break;
    case WORKER_ACT_DEACTIVATE:
        deactivate(k);
        break;
    case WORKER_ACT_KEEP:
        sim_compute_keep(s, w, a, &ev->msg->u.ROWS);
        break;
    case WORKER_ACT_KV_ROOM:
        sim_compute_kv_room(s, w, a);
        break;
    case WORKER_ACT_KV_COPY:
        sim_compute_kv_copy(s, w, a);
        break;
    case WORKER_ACT_KV_WRITE:
        sim_compute_kv_write(s, w, a, &ev->msg->u.KV_ROWS);
        break;
    case WORKER_ACT_KV_SEND:
        sim_compute_kv_send(s, w, a, &ev->msg->u.KV_ASK);
        break;
    case WORKER_ACT_PASS:
        sim_compute_pass(s, w, a->pass);
        break;
    case WORKER_ACT_SEND_ROWS:
        sim_compute_send_rows(s, w, a);
        break;
    case WORKER_ACT_LOGITS:
        sim_compute_logits(s, w, a);
        break;
    case WORKER_ACT_RECONNECT:
        sim_control_end(s, w, -1, sim_between(s, 1000, 50000));
        k->control.near = 0;
        sim_control_want(s, w, sim_between(s, 1000, 100000));
        break;
    case WORKER_ACT_LOG:
        sim_say(s, "%s: %s", sim_name(s, SIM_WORKER0 + w), a->text);
        break;
    case WORKER_ACT_QUIT:
        sim_say(s, "%s quits: %s", sim_name(s, SIM_WORKER0 + w), a->text);
        if (!s->setup.foreign[w])
            sim_fail(s, "%s gives up: %s", sim_name(s, SIM_WORKER0 + w), a->text);
        k->quit = true;
        break;
    }
}

static void want_tick(struct sim *s, uint32_t w)
{
    struct sim_worker *k = &s->workers[w];
    const int64_t due_ms = worker_core_deadline_ms(k->core);
    if (due_ms == INT64_MAX)
        return;
    const int64_t due_us = later(due_ms * 1000, s->now_us);
    if (k->tick_us >= 0 && k->tick_us <= due_us)
        return;
    k->tick_us = due_us;
    push_local(s, w, SIM_TICK, ++k->tick_id, due_us - s->now_us);
}

static void step(struct sim *s, uint32_t w, struct worker_event *ev)
{
    struct sim_worker *k = &s->workers[w];
    ev->now_ms = s->now_us / 1000;
    worker_core_step(k->core, ev, s->actions);
    for (uint32_t i = 0; i < s->actions->n && s->failed[0] == 0; i++)
        act(s, w, &s->actions->list[i], ev);
    sim_worker_check(s, w, false);
    if (k->kv_failed && s->failed[0] == 0) {
        struct worker_event failed = {.type = WORKER_EV_KV_FAILED};
        k->kv_failed = false;
        step(s, w, &failed);
    }
    if (k->broken != 0 && s->failed[0] == 0) {
        struct worker_event broken = {.type = WORKER_EV_RING_BROKEN,
                                      .peer = sim_name(s, SIM_WORKER0 + k->broken - 1),
                                      .reason = "the message was not taken"};
        k->broken = 0;
        step(s, w, &broken);
    }
}

/* ---- events ---------------------------------------------------------------------------------- */

static void on_profiled(struct sim *s, uint32_t w, struct net_msg *m)
{
    static double layers[COORD_BATCHES * SIM_LAYERS_MAX];
    static const double few[COORD_BATCHES] = {1e-6, 2e-6, 4e-6};
    static uint8_t rows[COORD_BATCHES * sizeof(uint32_t)];
    const uint32_t n = s->setup.n_layers;
    const bool fails = s->setup.trouble && sim_draw(s, 20) == 0;
    for (uint32_t i = 0; i < COORD_BATCHES * n; i++)
        layers[i] = 0.5e-6 * (double)s->setup.row_us * (1 + i / n);
    for (uint32_t i = 0; i < COORD_BATCHES; i++)
        net_put_u32(rows, i, 1 + 7 * i);
    *m = (struct net_msg){.code = NET_MSG_PROFILED,
                          .u.PROFILED = {.rows = {rows, COORD_BATCHES},
                                         .attention = net_list_f64(layers, COORD_BATCHES * n),
                                         .ffn = net_list_f64(layers, COORD_BATCHES * n),
                                         .attention_fixed = net_list_f64(few, COORD_BATCHES),
                                         .ffn_fixed = net_list_f64(few, COORD_BATCHES),
                                         .embed = net_list_f64(few, COORD_BATCHES),
                                         .output = net_list_f64(few, COORD_BATCHES),
                                         .throttle = 1,
                                         .pass = 1e-6 * (double)s->setup.pass_us,
                                         .memory_bytes = 1u << 20,
                                         .error = base_span_str(fails ? "no memory for it" : "")}};
    if (fails)
        s->workers[w].well_since_us = later(s->workers[w].well_since_us, s->now_us + 31000000);
}

/* False: the link is not there yet, and there is time to wait for it. */
static bool on_tested(struct sim *s, uint32_t w, const struct sim_event *ev, struct net_msg *m)
{
    struct sim_worker *k = &s->workers[w];
    const bool up = ev->life == 0 || k->ring[ev->life - 1].near != 0;
    if (!up && s->now_us < k->test_until_us) {
        push_local(s, w, SIM_TESTED, ev->life, TRY_US);
        return false;
    }
    *m = (struct net_msg){
        .code = NET_MSG_LINK_TESTED,
        .u.LINK_TESTED = {
            .peer = base_span_str(
                ev->life == 0 ? "" : sim_name(s, SIM_WORKER0 + (uint32_t)ev->life - 1)),
            .rtt = 1e-3,
            .up = s->setup.remeasure_ms > 0 ? 1e8 * (double)(1 + sim_draw(s, 3)) : 1e8,
            .down = 1e8,
            .error = base_span_str(up ? "" : "no connection"),
        }};
    return true;
}

/* Team connections stand for themselves as ring connections of the members to their leader. False:
 * some are not there yet. */
static bool on_team(struct sim *s, uint32_t w, const struct sim_event *ev, struct worker_event *out)
{
    const struct sim_worker *k = &s->workers[w];
    bool all = true;
    for (uint32_t i = 1; i < k->next_n_team; i++) {
        const struct sim_link *l = &s->workers[k->next_team[i]].ring[k->next_team[0]];
        if (k->next_me == 0 || k->next_me == i)
            all = all && l->alive && l->near == l->life;
    }
    if (ev->life != k->prepare || all) {
        out->type = WORKER_EV_TEAM_UP;
        return ev->life == k->prepare;
    }
    push_local(s, w, SIM_TEAM, k->prepare, TEAM_US);
    return false;
}

/* A pass is over when all members of the team could take part, or one could not for too long. False:
 * not yet. */
static bool on_pass(struct sim *s, uint32_t w, struct worker_event *out)
{
    struct sim_worker *k = &s->workers[w];
    const bool current = k->engine != NULL && k->engine->epoch == k->pass->epoch;
    const uint32_t absent = current ? sim_compute_absent(s, w) : SIM_WORKERS_MAX;
    if (absent != SIM_WORKERS_MAX && s->now_us < k->pass_until_us) {
        push_local(s, w, SIM_PASS, 0, TEAM_US);
        return false;
    }
    if (absent != SIM_WORKERS_MAX) {
        snprintf(k->pass->lost, sizeof k->pass->lost, "%s", sim_name(s, SIM_WORKER0 + absent));
        snprintf(k->pass->reason, sizeof k->pass->reason, "it said nothing in a pass");
    }
    out->type = WORKER_EV_PASS;
    out->pass = k->pass;
    k->pass = NULL;
    k->passes++;
    k->busy_us += (uint64_t)k->pass_us;
    return true;
}

/* False: nothing for the core. */
static bool on_local(struct sim *s, uint32_t w, const struct sim_event *ev,
                     struct worker_event *out, struct net_msg *m)
{
    static struct worker_readings readings;
    static struct model_shape shape;
    struct sim_worker *k = &s->workers[w];
    out->epoch = k->next_epoch;
    switch (ev->what) {
    case SIM_READINGS:
        /* There are boards without room for a copy. */
        readings.memory_free = (s->setup.seed + w) % 6 == 0 ? 1u << 16 : 1u << 26;
        out->type = WORKER_EV_READ;
        out->readings = &readings;
        return true;
    case SIM_CARD:
        shape.n_layers = s->setup.n_layers;
        shape.n_embd = SIM_EMBD;
        out->type = WORKER_EV_CARD;
        out->ok = true;
        out->shape = &shape;
        out->kv_row_bytes = SIM_KV_ROW_BYTES;
        return true;
    case SIM_PROFILED:
    case SIM_PASS:
        if (k->hung_until_us > s->now_us) {
            if (k->hung_until_us != SIM_FOREVER)
                push_local(s, w, ev->what, ev->life, k->hung_until_us - s->now_us);
            return false;
        }
        if (ev->what == SIM_PROFILED) {
            out->type = WORKER_EV_PROFILED;
            on_profiled(s, w, m);
            return true;
        }
        return on_pass(s, w, out);
    case SIM_TEAM:
        return on_team(s, w, ev, out);
    case SIM_TESTED:
        out->type = WORKER_EV_LINK_TESTED;
        return on_tested(s, w, ev, m);
    default:
        break;
    }
    if (ev->life != k->prepare)
        return false;
    if (ev->what == SIM_PIECE)
        on_piece(s, w, ev, out);
    else
        on_loaded(s, w, out);
    out->done_bytes = k->done_bytes;
    out->total_bytes = k->total_bytes;
    out->fetched_bytes = k->fetched_bytes;
    out->planned_bytes = 4096;
    return true;
}

static bool on_tick(struct sim *s, uint32_t w, const struct sim_event *ev, struct worker_event *out)
{
    struct sim_worker *k = &s->workers[w];
    if (ev->life != k->tick_id)
        return false;
    k->tick_us = -1;
    out->type = WORKER_EV_TICK;
    out->load = (struct worker_load){k->passes, k->busy_us, k->pass != NULL, 0, 0, 0};
    return s->now_us / 1000 >= worker_core_deadline_ms(k->core);
}

/* What came over a link; false: nothing for the core. */
static bool on_link(struct sim *s, uint32_t w, const struct sim_event *ev, struct worker_event *out)
{
    struct sim_worker *k = &s->workers[w];
    struct sim_link *ring = ev->kind == SIM_ON_RING ? &k->ring[ev->peer - SIM_WORKER0] : NULL;
    struct sim_link *back = ring != NULL ? &s->workers[ev->peer - SIM_WORKER0].ring[w] : NULL;
    bool news = true;
    out->reason = "the connection broke";
    out->peer = ring != NULL ? sim_name(s, ev->peer) : NULL;
    switch (ev->what) {
    case SIM_CONTROL_UP:
        out->type = WORKER_EV_CONTROL_UP;
        k->control.near = ev->life;
        break;
    case SIM_CONTROL_DOWN:
        out->type = WORKER_EV_CONTROL_DOWN;
        news = k->control.near == ev->life;
        k->control.near = news ? 0 : k->control.near;
        sim_link_event(s, ev);
        break;
    case SIM_RING_UP:
        out->type = WORKER_EV_RING_UP;
        ring->near = ev->life;
        break;
    case SIM_RING_DOWN:
        out->type = WORKER_EV_RING_DOWN;
        news = ring->near == ev->life;
        ring->near = news ? 0 : ring->near;
        sim_link_event(s, ev);
        break;
    case SIM_RING_BROKEN:
        out->type = WORKER_EV_RING_BROKEN;
        back->far = back->far == ev->life ? 0 : back->far;
        break;
    default:
        out->type = ev->what == SIM_CONTROL_MSG ? WORKER_EV_CONTROL : WORKER_EV_RING;
        break;
    }
    return news;
}

void sim_worker_event(struct sim *s, const struct sim_event *ev)
{
    const uint32_t w = ev->node - SIM_WORKER0;
    struct sim_worker *k = &s->workers[w];
    struct worker_event out = {0};
    struct net_msg m;
    bool news;
    if (k->core == NULL || ev->arg != k->process || !sim_link_delivers(s, ev))
        return;
    if (ev->what == SIM_CONNECT_CONTROL || ev->what == SIM_CONNECT_RING) {
        sim_link_event(s, ev);
        return;
    }
    if (ev->bytes != NULL && !net_msg_decode(ev->code, (struct span){ev->bytes, ev->n_bytes}, &m)) {
        sim_fail(s, "%s cannot decode %s", sim_name(s, ev->node), net_msg_name(ev->code));
        return;
    }
    out.msg = &m;
    if (ev->kind != SIM_LOCAL)
        news = on_link(s, w, ev, &out);
    else if (ev->what == SIM_TICK)
        news = on_tick(s, w, ev, &out);
    else
        news = on_local(s, w, ev, &out, &m);
    if (news)
        step(s, w, &out);
    if (k->quit)
        sim_worker_stop(s, w);
    else if (s->failed[0] == 0)
        want_tick(s, w);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void sim_worker_start(struct sim *s, uint32_t w)
{
    struct sim_worker *k = &s->workers[w];
    struct worker_identity id = {.numerics = s->setup.foreign[w] ? SIM_NUMERICS + 1 : SIM_NUMERICS,
                                 .memory_bytes = 1u << 20,
                                 .threads = 1,
                                 .rows_max = s->setup.rows_max};
    if (k->core != NULL)
        return;
    snprintf(id.name, sizeof id.name, "%s", sim_name(s, SIM_WORKER0 + w));
    snprintf(id.kernels, sizeof id.kernels, "stub");
    snprintf(id.data, sizeof id.data, "tcp://127.0.0.1:%u", 7000 + w);
    if (worker_core_new(&id, &k->core, NULL) != 0) {
        sim_fail(s, "no memory for a worker");
        return;
    }
    k->process++;
    k->tick_us = -1;
    k->well_since_us = later(k->well_since_us, s->now_us);
    sim_say(s, "%s starts", id.name);
    sim_control_want(s, w, sim_between(s, 1000, 50000));
}

/* The process is gone: its memory, not its store. Links are ended by who knows how it happened. */
void sim_worker_stop(struct sim *s, uint32_t w)
{
    struct sim_worker *k = &s->workers[w];
    if (k->core == NULL)
        return;
    worker_core_free(k->core);
    k->core = NULL;
    deactivate(k);
    k->process++;
    k->control.near = 0;
    for (uint32_t i = 0; i < s->setup.n_workers; i++) {
        k->ring[i].near = 0;
        k->ring[i].wanted = false;
        sim_ring_end(s, w, i, -1, 1000);
        sim_ring_end(s, i, w, 1000, -1);
    }
    sim_control_end(s, w, -1, 1000);
    k->pass = NULL;
    k->epoch_max = 0;
    k->frozen_until_us = k->hung_until_us = 0;
    k->quit = false;
    k->broken = 0;
}

/* A worker whose process runs knows within some seconds that it is in the plan in force. */
static void check_epoch(struct sim *s, uint32_t w)
{
    const struct sim_worker *k = &s->workers[w];
    const struct sim_plan *p = &s->plans[s->epoch % SIM_PLANS_MAX];
    if (s->epoch == 0 || !sim_link_hears(s, w) || k->frozen_until_us > s->now_us ||
        s->now_us - s->commit_us < LATE_US)
        return;
    if ((p->members >> w & 1) != 0 && worker_core_epoch(k->core) != s->epoch)
        sim_fail(s, "%s does not take part in the plan in force", sim_name(s, SIM_WORKER0 + w));
}

/* A worker that rows wait for computes, unless its ring is broken or it is the first stage, which
 * waits for credit; and one that computes nothing has accounted for every prompt row. */
static void check_busy(struct sim *s, uint32_t w)
{
    const struct sim_worker *k = &s->workers[w];
    const struct sim_engine *e = k->engine;
    if (e == NULL || k->pass != NULL || e->lost || (e->stage == 0 && !e->last))
        return;
    if (worker_core_waiting(k->core) > 0)
        sim_fail(s, "%s is idle though rows wait for it", sim_name(s, SIM_WORKER0 + w));
    if (!e->last && e->taken != e->dropped + e->sent)
        sim_fail(s, "%s took up %llu prompt rows, dropped %llu and sent %llu",
                 sim_name(s, SIM_WORKER0 + w), (unsigned long long)e->taken,
                 (unsigned long long)e->dropped, (unsigned long long)e->sent);
}

void sim_worker_check(struct sim *s, uint32_t w, bool idle)
{
    const struct sim_worker *k = &s->workers[w];
    if (k->core == NULL)
        return;
    const char *broken = worker_core_invariant(k->core);
    const uint32_t waiting = worker_core_waiting(k->core);
    const uint64_t epoch = worker_core_epoch(k->core);
    if (broken != NULL)
        sim_fail(s, "%s: %s", sim_name(s, SIM_WORKER0 + w), broken);
    if ((k->engine == NULL ? 0 : k->engine->epoch) != epoch)
        sim_fail(s, "%s: core and shell have other plans in force", sim_name(s, SIM_WORKER0 + w));
    check_busy(s, w);
    check_epoch(s, w);
    if (k->hung_until_us > s->now_us || k->frozen_until_us > s->now_us)
        return;
    if (idle && s->epoch != 0 && epoch != 0 && epoch != s->epoch && sim_link_hears(s, w) &&
        s->now_us - s->commit_us > 1000000)
        sim_fail(s, "%s keeps a plan that is not in force any more", sim_name(s, SIM_WORKER0 + w));
    if (idle && epoch != 0 && epoch == s->epoch && waiting != 0)
        sim_fail(s, "%s: %u rows wait when all is over", sim_name(s, SIM_WORKER0 + w), waiting);
}
