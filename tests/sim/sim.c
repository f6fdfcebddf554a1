/* The simulator's clock: the queue of events, the trace, the run and its end.
 *
 * The earliest event fires; ties break by node, then kind, then sequence, so a seed gives the same
 * run wherever it is run. What fires and what is sent is folded into one hash, which two runs of a
 * seed must share; as text the trace is kept only where somebody will read it. Random numbers are
 * drawn from one stream in the order of events. */
#include "tests/sim/sim.h"

#include <string.h>

enum { QUIET_US = 3000000, BOUND_US = 300000000, STATUS_US = 10000000 };

uint64_t sim_draw(struct sim *s, uint64_t below)
{
    return below == 0 ? 0 : base_rng_next(&s->rng) % below;
}

int64_t sim_between(struct sim *s, int64_t low, int64_t high)
{
    return low + (int64_t)sim_draw(s, (uint64_t)(high - low + 1));
}

const char *sim_name(const struct sim *s, uint32_t node)
{
    static const char *const clients[] = {"client-0", "client-1", "client-2",  "client-3",
                                          "client-4", "client-5", "client-6",  "client-7",
                                          "client-8", "client-9", "client-10", "client-11"};
    if (node == SIM_COORDINATOR)
        return "coordinator";
    if (node < SIM_CLIENT0)
        return s->config.workers[node - SIM_WORKER0].name;
    return node < SIM_WORLD ? clients[node - SIM_CLIENT0] : "world";
}

/* ---- the trace ------------------------------------------------------------------------------- */

void sim_mark(struct sim *s, uint64_t x)
{
    s->trace_hash = base_mix64(s->trace_hash * UINT64_C(0x9e3779b97f4a7c15) + x);
}

void sim_say(struct sim *s, const char *fmt, ...)
{
    char line[600];
    va_list ap;
    if (!s->text && !s->print)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (s->text)
        base_buf_printf(&s->trace, "%.6f %s\n", (double)s->now_us / 1e6, line);
    if (s->print)
        printf("# %.6f %s\n", (double)s->now_us / 1e6, line);
}

void sim_fail(struct sim *s, const char *fmt, ...)
{
    char text[SIM_ERROR_MAX - 60];
    va_list ap;
    if (s->failed[0] != 0)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(s->failed, sizeof s->failed, "at %.6f s: %s", (double)s->now_us / 1e6, text);
    sim_say(s, "BROKEN %s", text);
}

/* ---- the queue ------------------------------------------------------------------------------- */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    if (a->at_us != b->at_us)
        return a->at_us < b->at_us;
    if (a->node != b->node)
        return a->node < b->node;
    return a->kind != b->kind ? a->kind < b->kind : a->seq < b->seq;
}

static void insert(struct sim *s, const struct sim_event *ev)
{
    if (s->n_heap == s->heap_cap) {
        s->heap_cap = s->heap_cap == 0 ? 256 : 2 * s->heap_cap;
        s->heap = base_realloc(s->heap, s->heap_cap * sizeof *s->heap);
    }
    uint32_t i = s->n_heap++;
    for (; i > 0 && before(ev, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = *ev;
}

static struct sim_event pop(struct sim *s)
{
    const struct sim_event first = s->heap[0], last = s->heap[--s->n_heap];
    uint32_t i = 0;
    for (;;) {
        uint32_t k = 2 * i + 1;
        if (k >= s->n_heap)
            break;
        if (k + 1 < s->n_heap && before(&s->heap[k + 1], &s->heap[k]))
            k++;
        if (!before(&s->heap[k], &last))
            break;
        s->heap[i] = s->heap[k];
        i = k;
    }
    if (s->n_heap > 0)
        s->heap[i] = last;
    return first;
}

static enum sim_kind kind_of(enum sim_what what)
{
    switch (what) {
    case SIM_NODE_UP:
    case SIM_NODE_DOWN:
    case SIM_NODE_MSG:
    case SIM_CONTROL_UP:
    case SIM_CONTROL_DOWN:
    case SIM_CONTROL_MSG:
        return SIM_ON_CONTROL;
    case SIM_RING_UP:
    case SIM_RING_DOWN:
    case SIM_RING_BROKEN:
    case SIM_RING_MSG:
    case SIM_RING_ANSWER:
        return SIM_ON_RING;
    case SIM_CLIENT_MSG:
    case SIM_CLIENT_DOWN:
    case SIM_ANSWER_MSG:
        return SIM_ON_CLIENT;
    default:
        return SIM_LOCAL;
    }
}

void sim_push(struct sim *s, struct sim_event ev, int64_t delay_us)
{
    ev.at_us = s->now_us + delay_us;
    ev.kind = kind_of(ev.what);
    ev.seq = ++s->seq;
    insert(s, &ev);
}

void sim_push_in_order(struct sim *s, struct sim_event ev, struct sim_pipe *pipe)
{
    int64_t at_us =
        s->now_us + pipe->latency_us + (int64_t)sim_draw(s, (uint64_t)s->setup.jitter_us + 1);
    if (pipe->cut_until_us > s->now_us && pipe->cut_until_us > at_us)
        at_us = pipe->cut_until_us;
    pipe->last_us = at_us > pipe->last_us ? at_us : pipe->last_us;
    sim_push(s, ev, pipe->last_us - s->now_us);
}

void sim_push_msg(struct sim *s, struct sim_event ev, struct sim_pipe *pipe,
                  const struct net_msg *m)
{
    ev.code = m->code;
    ev.n_bytes = net_msg_bytes(m);
    if (ev.n_bytes == 0) {
        sim_fail(s, "the other side would refuse the message %s", net_msg_name(m->code));
        return;
    }
    sim_fault_watch(s, m->code);
    if (pipe->cut_until_us > s->now_us && !pipe->held) {
        pipe->gap = ev.life;
        return;
    }
    ev.bytes = base_alloc(ev.n_bytes);
    net_msg_encode(m, ev.bytes);
    sim_push_in_order(s, ev, pipe);
}

/* ---- the run --------------------------------------------------------------------------------- */

static void mark_event(struct sim *s, const struct sim_event *ev)
{
    sim_mark(s, (uint64_t)ev->at_us);
    sim_mark(s, (uint64_t)ev->node << 40 | (uint64_t)ev->what << 32 | ev->peer);
    sim_mark(s, ev->life << 20 ^ ev->arg);
    for (size_t i = 0; i < ev->n_bytes; i += 8) {
        uint64_t word = 0;
        memcpy(&word, ev->bytes + i, ev->n_bytes - i < 8 ? ev->n_bytes - i : 8);
        sim_mark(s, word);
    }
}

static void world_event(struct sim *s, const struct sim_event *ev)
{
    if (ev->what == SIM_FAULT) {
        sim_fault_begin(s, &s->setup.faults[ev->arg]);
    } else if (ev->what == SIM_SILENT) {
        sim_link_event(s, ev);
    } else if (ev->peer == SIM_COORDINATOR) {
        sim_coord_start(s);
    } else {
        sim_worker_start(s, ev->peer - SIM_WORKER0);
    }
}

/* A process that stands still handles what has come for it when it goes on. */
static bool defer(struct sim *s, struct sim_event *ev)
{
    if (ev->node < SIM_WORKER0 || ev->node >= SIM_CLIENT0)
        return false;
    const struct sim_worker *k = &s->workers[ev->node - SIM_WORKER0];
    if (k->frozen_until_us <= s->now_us || k->core == NULL)
        return false;
    ev->arrived = ev->arrived || sim_link_delivers(s, ev);
    ev->at_us = k->frozen_until_us;
    insert(s, ev);
    return true;
}

static void fire(struct sim *s)
{
    struct sim_event ev = pop(s);
    s->now_us = ev.at_us;
    if (defer(s, &ev))
        return;
    s->n_fired++;
    mark_event(s, &ev);
    if (ev.node == SIM_COORDINATOR)
        sim_coord_event(s, &ev);
    else if (ev.node < SIM_CLIENT0)
        sim_worker_event(s, &ev);
    else if (ev.node < SIM_WORLD)
        sim_client_event(s, &ev);
    else
        world_event(s, &ev);
    base_free(ev.bytes);
}

static bool is_over(struct sim *s)
{
    int64_t over_us = s->heal_us;
    for (uint32_t i = 0; i < s->setup.n_requests; i++) {
        const struct sim_client *c = &s->clients[i];
        if (!c->over)
            return false;
        over_us = c->over_us > over_us ? c->over_us : over_us;
    }
    return s->now_us >= over_us + QUIET_US;
}

bool sim_run(struct sim *s)
{
    while (s->failed[0] == 0 && s->n_heap > 0 && !is_over(s)) {
        fire(s);
        if (s->now_us > s->heal_us + BOUND_US)
            sim_fail(s, "not all requests have ended %d s after all was well", BOUND_US / 1000000);
    }
    if (s->failed[0] == 0)
        sim_coord_check_end(s);
    for (uint32_t w = 0; s->failed[0] == 0 && w < s->setup.n_workers; w++)
        sim_worker_check(s, w, true);
    return s->failed[0] == 0;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static void configure(struct sim *s)
{
    static const char *const names[] = {"alpha", "beta", "gamma", "delta", "epsilon"};
    const struct sim_setup *w = &s->setup;
    struct net_config *c = &s->config;
    snprintf(c->name, sizeof c->name, "sim");
    c->context = w->context;
    c->slots = w->slots;
    c->queue = w->queue;
    c->chunk = w->chunk;
    c->heartbeat_ms = w->heartbeat_ms;
    c->report_ms = 1000;
    c->horizon_ms = 60000;
    c->dead_ms = w->dead_ms;
    c->objective = w->throughput ? 1.0 : 0.0;
    c->use_all = w->use_all;
    c->prefetch = w->ahead;
    c->checkpoint = w->checkpoint;
    c->remeasure_ms = w->remeasure_ms;
    c->n_workers = w->grow_us > 0 ? w->n_workers - 1 : w->n_workers;
    for (uint32_t i = 0; i < w->n_workers; i++) {
        snprintf(c->workers[i].name, sizeof c->workers[i].name, "%s", names[i]);
        c->workers[i].layer0 = c->workers[i].layer1 = -1;
    }
}

static void draw_latencies(struct sim *s)
{
    const int64_t most = s->setup.latency_us;
    for (uint32_t i = 0; i < s->setup.n_workers; i++) {
        struct sim_worker *k = &s->workers[i];
        k->control.out.latency_us = k->control.in.latency_us = sim_between(s, 50, most);
        for (uint32_t j = 0; j < s->setup.n_workers; j++)
            k->ring[j].out.latency_us = sim_between(s, 50, most);
    }
    for (uint32_t i = 0; i < s->setup.n_requests; i++)
        s->clients[i].out.latency_us = s->clients[i].in.latency_us = sim_between(s, 50, most);
}

static void heal_at(struct sim *s, int64_t at_us)
{
    s->heal_us = at_us > s->heal_us ? at_us : s->heal_us;
}

static void schedule(struct sim *s)
{
    const struct sim_setup *w = &s->setup;
    sim_push(s, (struct sim_event){.node = SIM_WORLD, .what = SIM_START, .peer = SIM_COORDINATOR},
             0);
    for (uint32_t i = 0; i < w->n_workers; i++)
        if (w->start_us[i] >= 0) {
            sim_push(
                s,
                (struct sim_event){.node = SIM_WORLD, .what = SIM_START, .peer = SIM_WORKER0 + i},
                w->start_us[i]);
            heal_at(s, w->start_us[i]);
        }
    for (uint32_t i = 0; i < w->n_requests; i++) {
        const struct sim_request *r = &w->requests[i];
        if (r->n_prompt <= w->context)
            sim_stub_reference(w, r, &s->clients[i].reference);
        sim_push(s, (struct sim_event){.node = SIM_CLIENT0 + i, .what = SIM_CLIENT_CONNECT},
                 r->at_us);
        if (r->way != SIM_READS)
            sim_push(s, (struct sim_event){.node = SIM_CLIENT0 + i, .what = SIM_CLIENT_WAY},
                     r->at_us + r->way_us);
        heal_at(s, r->at_us);
    }
    for (uint32_t i = 0; i < w->n_faults; i++) {
        const struct sim_fault *f = &w->faults[i];
        if (f->on != 0)
            continue;
        sim_push(s, (struct sim_event){.node = SIM_WORLD, .what = SIM_FAULT, .arg = i}, f->at_us);
        heal_at(s, f->for_us == SIM_FOREVER ? f->at_us : f->at_us + f->for_us);
    }
    if (w->grow_us > 0)
        sim_push(s, (struct sim_event){.node = SIM_COORDINATOR, .what = SIM_CONFIG}, w->grow_us);
    for (uint32_t i = 0; i < w->n_rereads; i++)
        sim_push(s, (struct sim_event){.node = SIM_COORDINATOR, .what = SIM_CONFIG},
                 w->reread_us[i]);
    heal_at(s, w->grow_us);
    sim_push(s, (struct sim_event){.node = SIM_COORDINATOR, .what = SIM_STATUS},
             sim_between(s, 0, STATUS_US));
}

struct sim *sim_new(const struct sim_setup *w, unsigned how)
{
    struct sim *s = base_zalloc(1, sizeof *s);
    s->setup = *w;
    s->rng = base_mix64(w->seed + 1);
    s->text = (how & SIM_TEXT) != 0;
    s->print = (how & SIM_PRINT) != 0;
    s->coord_actions = base_alloc(sizeof *s->coord_actions);
    s->actions = base_alloc(sizeof *s->actions);
    configure(s);
    draw_latencies(s);
    schedule(s);
    return s;
}

void sim_free(struct sim *s)
{
    if (s == NULL)
        return;
    while (s->n_heap > 0)
        base_free(s->heap[--s->n_heap].bytes);
    sim_coord_stop(s);
    for (uint32_t i = 0; i < s->setup.n_workers; i++)
        sim_worker_stop(s, i);
    base_free(s->heap);
    base_free(s->coord_actions);
    base_free(s->actions);
    base_buf_deinit(&s->trace);
    base_buf_deinit(&s->journal);
    base_free(s);
}
