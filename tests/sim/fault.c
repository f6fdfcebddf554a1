/* What breaks, and how the others come to know of it.
 *
 * A process that is killed says farewell through its operating system: its peers notice within
 * milliseconds. One whose power fails says nothing: the coordinator notices by its heartbeat,
 * neighbours in the ring some seconds later, or all of them when it is back. A process that stands
 * still (frozen) keeps its memory and its connections, and when it goes on it acts on what it knew.
 * A partition cuts through every link between two sets of nodes, one way or both, and nobody is told.
 * Healing is an event of its own only where somebody has to do something. */
#include "tests/sim/sim.h"

#include <math.h>

enum { SECOND_US = 1000000 };

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Faults that last for ever heal never, and nobody waits for that. */
static int64_t until_us(const struct sim *s, const struct sim_fault *f)
{
    return f->for_us == SIM_FOREVER ? SIM_FOREVER : s->now_us + f->for_us;
}

uint32_t sim_well_room(const struct sim *s, int64_t for_us)
{
    uint32_t layers = 0;
    for (uint32_t i = 0; i < s->config.n_workers; i++) {
        const struct sim_worker *k = &s->workers[i];
        if (k->core != NULL && !s->setup.foreign[i] && k->well_since_us <= s->now_us - for_us)
            layers += s->setup.layers_max[i];
    }
    return layers;
}

void sim_fault_watch(struct sim *s, enum net_code code)
{
    for (uint32_t i = 0; i < s->setup.n_faults; i++)
        if (s->setup.faults[i].on == code && ++s->seen[i] == s->setup.faults[i].nth)
            sim_push(s, (struct sim_event){.node = SIM_WORLD, .what = SIM_FAULT, .arg = i},
                     s->setup.faults[i].at_us);
}

static int64_t notice_us(struct sim *s, bool quiet)
{
    return quiet ? sim_between(s, SECOND_US / 2, 5 * SECOND_US) : sim_between(s, 500, 50000);
}

/* All links of a worker end; others notice in time or late. */
static void lose_links(struct sim *s, uint32_t w, bool quiet)
{
    for (uint32_t i = 0; i < s->setup.n_workers; i++) {
        sim_ring_end(s, i, w, notice_us(s, quiet), -1);
        sim_ring_end(s, w, i, -1, notice_us(s, quiet));
    }
    sim_control_end(s, w, -1, quiet ? -1 : notice_us(s, false));
}

static void stop_worker(struct sim *s, const struct sim_fault *f)
{
    struct sim_worker *k = &s->workers[f->node];
    if (k->core == NULL)
        return;
    lose_links(s, f->node, f->kind == SIM_POWER_OFF);
    sim_worker_stop(s, f->node);
    if (f->for_us != SIM_FOREVER)
        sim_push(
            s,
            (struct sim_event){.node = SIM_WORLD, .what = SIM_START, .peer = SIM_WORKER0 + f->node},
            f->for_us);
}

static void break_ring(struct sim *s, const struct sim_fault *f)
{
    uint32_t from = f->node, to = f->peer;
    const uint64_t epoch = s->epoch != 0 && sim_draw(s, 2) == 0 ? s->epoch : s->plan_epoch;
    const struct sim_plan *p = &s->plans[epoch % SIM_PLANS_MAX];
    if (f->on != 0 &&
        p->n_said > 1) { /* aimed: a link that the plan in force or the newest one uses */
        from = p->worker[f->node % p->n_said];
        to = p->worker[(f->node + 1) % p->n_said];
    }
    struct sim_link *l = &s->workers[from].ring[to];
    sim_say(s, "the link from %s to %s breaks", sim_name(s, SIM_WORKER0 + from),
            sim_name(s, SIM_WORKER0 + to));
    sim_ring_end(s, from, to, notice_us(s, f->quiet), notice_us(s, f->quiet));
    l->cut_until_us = later(l->cut_until_us, until_us(s, f));
}

static void break_control(struct sim *s, const struct sim_fault *f)
{
    struct sim_link *l = &s->workers[f->node].control;
    sim_control_end(s, f->node, notice_us(s, f->quiet), f->quiet ? -1 : notice_us(s, false));
    l->cut_until_us = later(l->cut_until_us, until_us(s, f));
}

static void restart_coordinator(struct sim *s, const struct sim_fault *f)
{
    if (s->coord == NULL)
        return;
    sim_coord_stop(s);
    sim_push(s, (struct sim_event){.node = SIM_WORLD, .what = SIM_START, .peer = SIM_COORDINATOR},
             f->for_us);
    for (uint32_t i = 0; i < s->setup.n_requests; i++)
        sim_push(s, (struct sim_event){.node = SIM_CLIENT0 + i, .what = SIM_CLIENT_CONNECT},
                 notice_us(s, false));
}

static void part(struct sim *s, const struct sim_fault *f)
{
    const uint32_t n = s->setup.n_workers;
    for (uint32_t i = 0; i < n; i++) {
        s->workers[i].well_since_us = later(s->workers[i].well_since_us, until_us(s, f));
        for (uint32_t k = 0; k <= n; k++) {
            const uint32_t to = k == n ? SIM_COORDINATOR : SIM_WORKER0 + k;
            const bool here = (f->side >> (SIM_WORKER0 + i) & 1) != 0,
                       there = (f->side >> to & 1) != 0;
            if (here != there)
                sim_link_cut(s, i, k == n ? SIM_WORKERS_MAX : k, here || !f->one_way,
                             there || !f->one_way, f->quiet, until_us(s, f));
        }
    }
}

const char *sim_fault_name(enum sim_fault_kind kind)
{
    static const char *const names[SIM_N_FAULTS] = {"kill", "power_off", "freeze",  "hang", "slow",
                                                    "link", "control",   "restart", "partition"};
    return names[kind];
}

void sim_fault_begin(struct sim *s, const struct sim_fault *f)
{
    struct sim_worker *k = &s->workers[f->node];
    const int64_t until = until_us(s, f);
    s->n_faults[f->kind]++;
    if (f->kind == SIM_PARTITION)
        sim_say(s, "fault partition side=%x %s%s for %.3f s", f->side,
                f->one_way ? "unheard" : "apart", f->quiet ? ", held" : "",
                (double)f->for_us / 1e6);
    else
        sim_say(s, "fault %s %s for %.3f s", sim_fault_name(f->kind),
                sim_name(s, f->kind == SIM_RESTART ? SIM_COORDINATOR : SIM_WORKER0 + f->node),
                f->for_us == SIM_FOREVER ? INFINITY : (double)f->for_us / 1e6);
    if (until != SIM_FOREVER)
        s->heal_us = later(s->heal_us, until);
    if (f->kind != SIM_RESTART && f->kind != SIM_PARTITION)
        k->well_since_us = later(k->well_since_us, until);
    switch (f->kind) {
    case SIM_KILL:
    case SIM_POWER_OFF:
        stop_worker(s, f);
        break;
    case SIM_FREEZE:
        k->frozen_until_us = later(k->frozen_until_us, until);
        break;
    case SIM_HANG:
        k->hung_until_us = later(k->hung_until_us, until);
        break;
    case SIM_SLOW:
        k->slow_until_us = later(k->slow_until_us, until);
        break;
    case SIM_LINK:
        break_ring(s, f);
        break;
    case SIM_CONTROL:
        break_control(s, f);
        break;
    case SIM_RESTART:
        restart_coordinator(s, f);
        break;
    case SIM_PARTITION:
        part(s, f);
        break;
    case SIM_N_FAULTS:
        break;
    }
}
