/* The simulated coordinator's shell, and what must hold of all that the coordinator's core does.
 *
 * Besides carrying out actions it keeps books of its own, from the messages alone: which plan is in
 * force and who is ready for it, which request has which slot, who came first. A plan is put in
 * force only when every one of its workers has said that it is ready, and it covers the layers
 * once; a slot is opened only after it was closed; who came first is opened first. */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <string.h>

enum {
    HASHES_A_MESSAGE = 5,
    IDLE_US = 100000000,
    SIMPLE_IDLE_US = 25000000,
    PROFILE_US = 20000000
};

static struct sim_plan *plan_of(struct sim *s, uint64_t epoch)
{
    return &s->plans[epoch % SIM_PLANS_MAX];
}

/* ---- plans ----------------------------------------------------------------------------------- */

/* Borders of a team's units: from 0 to all of them, without a step back. */
static bool is_cut(struct net_list borders, uint32_t members, uint32_t whole)
{
    bool good = borders.n == members + 1 && net_u32_at(borders, 0) == 0 &&
                net_u32_at(borders, members) == whole;
    for (uint32_t k = 0; good && k < members; k++)
        good = net_u32_at(borders, k + 1) >= net_u32_at(borders, k);
    return good;
}

/* A team has its members' names and ports, and every unit has one owner. */
static bool is_team(const struct sim *s, uint32_t w, const struct net_msg_PLAN *m)
{
    const bool ends = m->stage == (m->output_first != 0 ? 0 : m->n_stages - 1);
    const struct coord_shard mine = sim_stub_shard(m);
    return m->team.n > 1 && m->team.n <= s->setup.n_workers && m->ports.n == m->team.n &&
           m->member < m->team.n && is_cut(m->heads, m->team.n, SIM_UNITS) &&
           is_cut(m->columns, m->team.n, SIM_UNITS) &&
           is_cut(m->runs, m->team.n, ends ? SIM_RUNS : 0) &&
           base_span_is(net_str_at(m->team, m->member), sim_name(s, SIM_WORKER0 + w)) &&
           (mine.part.head1 > mine.part.head0 || mine.part.ff1 > mine.part.ff0 ||
            mine.part.run1 > mine.part.run0);
}

static void on_plan(struct sim *s, uint32_t w, const struct net_msg_PLAN *m)
{
    struct sim_plan *p = plan_of(s, m->epoch);
    s->plan_epoch = m->epoch;
    if (p->epoch != m->epoch)
        *p = (struct sim_plan){.epoch = m->epoch, .n_stages = m->n_stages};
    const uint32_t members = m->team.n > 0 ? m->team.n : 1,
                   member = p->n_untold > 0 ? members - p->n_untold : 0,
                   stage = p->n_untold > 0 ? p->n_said - 1 : p->n_said;
    if (m->stage != stage || m->member != member || m->n_stages != p->n_stages ||
        m->ring.n != p->n_stages || stage >= s->setup.n_workers || (p->members >> w & 1) != 0) {
        sim_fail(s, "the stages of plan %" PRIx64 " are told out of order", m->epoch);
        return;
    }
    if (m->team.n > 0 && !is_team(s, w, m)) {
        sim_fail(s, "plan %" PRIx64 " does not say who holds what of stage %u", m->epoch, stage);
        return;
    }
    if (member == 0) {
        p->worker[p->n_said] = w;
        p->layer0[p->n_said] = m->layer0;
        p->layer1[p->n_said++] = m->layer1;
    }
    const struct coord_shard mine = sim_stub_shard(m);
    for (size_t i = 0; i < sizeof mine.part / sizeof(uint32_t); i++)
        p->hash = base_mix64(p->hash + ((const uint32_t *)&mine.part)[i] + m->mesh);
    p->n_untold = members - member - 1;
    p->members |= 1u << w;
}

static void on_prepared(struct sim *s, uint32_t w, const struct net_msg_PREPARED *m)
{
    struct sim_plan *p = plan_of(s, m->epoch);
    if (p->epoch == m->epoch)
        /* One that takes KV rows over is ready all the while. */
        p->ready = m->state == 1 || (m->state == 0 && m->round > 0) ? p->ready | 1u << w
                                                                     : p->ready & ~(1u << w);
}

static bool same_stages(const struct sim_plan *a, const struct sim_plan *b)
{
    return a->n_stages == b->n_stages &&
           memcmp(a->worker, b->worker, a->n_stages * sizeof *a->worker) == 0 &&
           memcmp(a->layer0, b->layer0, a->n_stages * sizeof *a->layer0) == 0 &&
           a->members == b->members && a->hash == b->hash;
}

static void on_commit(struct sim *s, uint32_t w, uint64_t epoch)
{
    const struct sim_plan *p = plan_of(s, epoch);
    uint32_t layer = 0;
    /* A worker may be found dead in the very step that puts the plan in force: then it is gone
     * again already. */
    if (s->epoch == 0 && epoch > s->epoch_max)
        s->epoch_max = epoch;
    if (p->epoch != epoch || p->n_said != p->n_stages || p->n_untold != 0 ||
        epoch != (s->epoch == 0 ? s->epoch_max : s->epoch)) {
        sim_fail(s, "a plan is put in force that nobody was told of");
        return;
    }
    for (uint32_t i = 0; i < p->n_stages; i++) {
        if (p->layer0[i] != layer || p->layer1[i] <= layer)
            sim_fail(s, "plan %" PRIx64 " does not cover the layers once", epoch);
        layer = p->layer1[i];
    }
    if (layer != s->setup.n_layers)
        sim_fail(s, "plan %" PRIx64 " leaves layers out", epoch);
    if ((p->members & ~p->ready) != 0)
        sim_fail(s, "plan %" PRIx64 " is put in force, and workers %x are not ready", epoch,
                 p->members & ~p->ready);
    if (w != p->worker[0])
        return;
    s->n_commits++;
    s->commit_us = s->now_us;
    if (s->epoch_before != 0 && same_stages(p, plan_of(s, s->epoch_before)))
        sim_fail(s, "plan %" PRIx64 " takes the place of one just like it", epoch);
}

static uint32_t n_faults(const struct sim *s, enum sim_fault_kind kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->setup.n_faults; i++)
        n += s->setup.faults[i].kind == kind ? 1u : 0u;
    return n;
}

static bool has_fault(const struct sim *s, enum sim_fault_kind kind)
{
    return n_faults(s, kind) > 0;
}

/* Well workers that can hold the model do not stay without a plan for longer than a few attempts
 * take. Only those that come anew may have to wait a little for each hung worker's profile, since
 * one is measured at a time. */
static void watch_idle(struct sim *s)
{
    bool newcomers = s->setup.n_faults > 1 || s->setup.grow_us > 0;
    for (uint32_t i = 0; i < s->setup.n_workers; i++)
        newcomers = newcomers || s->setup.start_us[i] > 1000000;
    const int64_t profile_us = newcomers ? n_faults(s, SIM_HANG) * PROFILE_US : 0;
    const bool simple = !s->setup.trouble && !has_fault(s, SIM_LINK) && !has_fault(s, SIM_HANG) &&
                        !has_fault(s, SIM_SLOW) && !has_fault(s, SIM_PARTITION);
    const int64_t limit_us =
        (simple ? SIMPLE_IDLE_US : IDLE_US) + 3 * SIM_PIECES_MAX * s->setup.piece_us + profile_us;
    const bool could = s->epoch == 0 && !s->no_plan && sim_well_room(s, 0) >= s->setup.n_layers;
    if (!could || !s->could_plan)
        s->idle_since_us = s->now_us;
    s->could_plan = could;
    if (s->now_us - s->idle_since_us > limit_us)
        sim_fail(s, "no plan for %.0f s, though there are workers enough",
                 (double)(s->now_us - s->idle_since_us) / 1e6);
}

/* Plans come into force and go; with them go the slots of the old ring. */
static void watch_epoch(struct sim *s)
{
    const uint64_t epoch = coord_core_epoch(s->coord);
    if (epoch == s->epoch)
        return;
    if (epoch != 0 && epoch <= s->epoch_max)
        sim_fail(s, "the coordinator goes back from epoch %" PRIx64 " to %" PRIx64, s->epoch_max,
                 epoch);
    if (epoch == 0)
        s->no_plan_since_us = s->now_us;
    s->mends = s->epoch == 0;
    s->epoch_max = epoch > s->epoch_max ? epoch : s->epoch_max;
    s->epoch = epoch;
    memset(s->slot_owner, 0, sizeof s->slot_owner);
    for (uint32_t i = 0; i < s->setup.n_requests; i++)
        s->clients[i].in_slot = false;
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void on_open(struct sim *s, uint32_t w, const struct net_msg_OPEN *m)
{
    const struct sim_plan *p = plan_of(s, m->epoch);
    uint32_t who = s->setup.n_requests;
    for (uint32_t i = 0; i < s->setup.n_requests; i++)
        if (s->setup.requests[i].sampling.seed == m->seed)
            who = i;
    if (who == s->setup.n_requests || m->slot >= s->setup.slots || m->epoch != s->epoch ||
        p->worker[0] != w) {
        sim_fail(s, "a slot is opened for nobody, or not at the first stage of the plan in force");
        return;
    }
    struct sim_client *c = &s->clients[who];
    if (s->slot_owner[m->slot] != 0)
        sim_fail(s, "slot %u is opened again before it was closed", m->slot);
    if (!c->live || c->in_slot)
        sim_fail(s, "%s is opened, but has %s", sim_name(s, SIM_CLIENT0 + who),
                 c->live ? "a slot" : "ended");
    for (uint32_t i = 0; i < s->setup.n_requests; i++)
        if (s->clients[i].live && !s->clients[i].in_slot && s->clients[i].order < c->order)
            sim_fail(s, "%s is opened before %s, who came first", sim_name(s, SIM_CLIENT0 + who),
                     sim_name(s, SIM_CLIENT0 + i));
    if (m->tokens.n <
        s->setup.requests[who].n_prompt + (m->flags != 0 || s->torn ? 0 : c->n_tokens))
        sim_fail(s, "%s is opened with %u tokens, and has %u generated ones already",
                 sim_name(s, SIM_CLIENT0 + who), m->tokens.n, c->n_tokens);
    if (m->start >= m->tokens.n || ((m->flags & 1) != 0 && m->start != 0))
        sim_fail(s, "%s is opened at position %u of %u", sim_name(s, SIM_CLIENT0 + who), m->start,
                 m->tokens.n);
    s->opened[m->slot] = (struct sim_open){m->epoch, m->request, m->start};
    s->n_reused += m->start;
    s->n_saved += s->mends && s->commit_us == s->now_us ? m->start : 0;
    const uint32_t n_prompt = s->setup.requests[who].n_prompt,
                   known = m->start < n_prompt ? m->start : n_prompt;
    c->reused = c->opened && c->reused < known ? c->reused : known;
    c->in_slot = c->opened = true;
    s->slot_owner[m->slot] = 1 + who;
}

static void on_close(struct sim *s, const struct net_msg_CLOSE *m)
{
    if (m->epoch == s->epoch_before && m->epoch != s->epoch)
        return; /* the ring broke later in this step */
    if (m->slot >= s->setup.slots || m->epoch != s->epoch || s->slot_owner[m->slot] == 0) {
        sim_fail(s, "slot %u is closed, but is not open", m->slot);
        return;
    }
    s->clients[s->slot_owner[m->slot] - 1].in_slot = false;
    s->slot_owner[m->slot] = 0;
}

/* ---- what the core logs ---------------------------------------------------------------------- */

static void on_log(struct sim *s, const char *text)
{
    uint64_t order;
    sim_say(s, "coordinator: %s", text);
    for (const char *p = text; *p != 0; p++)
        sim_mark(s, (uint64_t)*p);
    if (sscanf(text, "request_done order=%" SCNu64, &order) == 1)
        for (uint32_t i = 0; i < s->setup.n_requests; i++)
            if (s->clients[i].order == order) {
                s->clients[i].live = false;
                if (strstr(text, "finish=error") != NULL)
                    sim_client_failed(s, i, strstr(text, "error=\""));
            }
    if (strstr(text, "out of order") != NULL)
        sim_fail(s, "%s", text);
    if (strstr(text, "nothing moves") != NULL && !has_fault(s, SIM_HANG) &&
        !has_fault(s, SIM_SLOW) && !has_fault(s, SIM_PARTITION))
        sim_fail(s, "the ring stands still, and no worker does");
    if (strstr(text, "ring_broken") != NULL && s->setup.n_faults == 0)
        sim_fail(s, "%s, and nothing broke", text);
    if (strstr(text, "measuring_failed") != NULL && s->setup.n_faults == 0 && !s->setup.trouble)
        sim_fail(s, "%s, and there is no trouble", text);
}

/* ---- actions --------------------------------------------------------------------------------- */

static void send_manifest(struct sim *s, const struct coord_action *a)
{
    uint8_t hashes[HASHES_A_MESSAGE * NET_HASH_BYTES] = {0};
    uint32_t pieces[SIM_PIECES_MAX];
    const uint32_t n = sim_stub_pieces(&s->setup, &a->shard, pieces);
    for (uint32_t first = 0; first < n; first += HASHES_A_MESSAGE) {
        const uint32_t count = n - first < HASHES_A_MESSAGE ? n - first : HASHES_A_MESSAGE;
        for (uint32_t i = 0; i < count; i++)
            hashes[i * NET_HASH_BYTES] = (uint8_t)pieces[first + i];
        const struct net_msg m = {
            .code = NET_MSG_MANIFEST,
            .u.MANIFEST = {a->epoch, first, {hashes, count * NET_HASH_BYTES}}};
        sim_control_down(s, a->node, &m);
    }
}

static void send_stock(struct sim *s, const struct coord_action *a)
{
    uint8_t hashes[SIM_PIECES_MAX * NET_HASH_BYTES] = {0}, list[SIM_PIECES_MAX * sizeof(uint32_t)];
    uint32_t pieces[SIM_PIECES_MAX];
    const uint32_t n = sim_stub_pieces(&s->setup, &a->shard, pieces);
    for (uint32_t i = 0; i < n; i++)
        net_put_u32(list, i, pieces[i]);
    const struct net_msg m = {
        .code = NET_MSG_STOCK,
        .u.STOCK = {a->epoch, {list, n}, {hashes, (size_t)n * NET_HASH_BYTES}}};
    sim_control_down(s, a->node, &m);
}

static void send_node(struct sim *s, const struct coord_action *a)
{
    switch ((int)a->msg.code) {
    case NET_MSG_PLAN:
        on_plan(s, a->node, &a->msg.u.PLAN);
        break;
    case NET_MSG_COMMIT:
        on_commit(s, a->node, a->msg.u.COMMIT.epoch);
        break;
    case NET_MSG_OPEN:
        on_open(s, a->node, &a->msg.u.OPEN);
        break;
    case NET_MSG_CLOSE:
        on_close(s, &a->msg.u.CLOSE);
        break;
    default:
        break;
    }
    sim_control_down(s, a->node, &a->msg);
}

/* One prompt after the other, as a thread would. */
static void read_prompt(struct sim *s, const struct coord_action *a)
{
    const int64_t from_us = s->read_us > s->now_us ? s->read_us : s->now_us;
    s->n_reading++;
    s->read_us = from_us + (s->setup.read_us > 0 ? sim_between(s, 0, s->setup.read_us) : 0);
    sim_push(s,
             (struct sim_event){.node = SIM_COORDINATOR,
                                .what = SIM_READ,
                                .peer = a->msg.u.SUBMIT.id[0],
                                .life = a->serial,
                                .arg = s->coord_process},
             s->read_us - s->now_us);
}

static void act(struct sim *s, const struct coord_action *a)
{
    switch (a->type) {
    case COORD_ACT_NODE:
        send_node(s, a);
        break;
    case COORD_ACT_DROP_NODE:
        sim_control_end(s, a->node, s->workers[a->node].control.in.latency_us, -1);
        s->workers[a->node].control.far = 0;
        break;
    case COORD_ACT_CLIENT:
        if (net_msg_bytes(&a->msg) == 0)
            sim_fail(s, "a client would refuse the message %s", net_msg_name(a->msg.code));
        sim_client_answer(s, a->client, &a->msg);
        break;
    case COORD_ACT_PLAN:
        sim_say(s, "coordinator asks for a plan present=%x", a->present);
        sim_push(s,
                 (struct sim_event){.node = SIM_COORDINATOR,
                                    .what = SIM_PLANNED,
                                    .life = a->serial,
                                    .peer = a->present,
                                    .arg = s->coord_process},
                 sim_between(s, 1000, s->setup.plan_us));
        break;
    case COORD_ACT_READ:
        read_prompt(s, a);
        break;
    case COORD_ACT_MANIFEST:
        send_manifest(s, a);
        break;
    case COORD_ACT_STOCK:
        send_stock(s, a);
        break;
    case COORD_ACT_SAVE:
        break;
    case COORD_ACT_LOG:
        on_log(s, a->text);
        break;
    }
}

static void want_tick(struct sim *s)
{
    const int64_t due_ms = coord_core_deadline_ms(s->coord);
    if (due_ms == INT64_MAX)
        return;
    const int64_t due_us = due_ms * 1000 > s->now_us ? due_ms * 1000 : s->now_us;
    if (s->tick_us >= 0 && s->tick_us <= due_us)
        return;
    s->tick_us = due_us;
    sim_push(
        s,
        (struct sim_event){.node = SIM_COORDINATOR, .what = SIM_COORD_TICK, .life = ++s->tick_id},
        due_us - s->now_us);
}

static void step(struct sim *s, struct coord_event *ev)
{
    ev->now_ms = s->now_us / 1000;
    s->epoch_before = s->epoch;
    coord_core_step(s->coord, ev, s->coord_actions);
    base_buf_add(&s->journal, s->coord_actions->journal.ptr, s->coord_actions->journal.len);
    const char *broken = coord_core_invariant(s->coord);
    if (broken != NULL)
        sim_fail(s, "coordinator: %s", broken);
    watch_epoch(s);
    watch_idle(s);
    if (ev->type == COORD_EV_CLIENT && ev->msg->code == NET_MSG_SUBMIT) {
        bool refused = false;
        for (uint32_t i = 0; i < s->coord_actions->n; i++)
            refused = refused || (s->coord_actions->list[i].type == COORD_ACT_CLIENT &&
                                  s->coord_actions->list[i].msg.code == NET_MSG_NO);
        if (!refused)
            sim_client_accepted(s, ev->msg->u.SUBMIT.id);
    }
    for (uint32_t i = 0; i < s->coord_actions->n && s->failed[0] == 0; i++)
        act(s, &s->coord_actions->list[i]);
    if (coord_core_n_reading(s->coord) != s->n_reading)
        sim_fail(s, "%u prompts are being read, the coordinator counts %u", s->n_reading,
                 coord_core_n_reading(s->coord));
}

/* ---- events ---------------------------------------------------------------------------------- */

static bool on_node(struct sim *s, const struct sim_event *ev, struct coord_event *out)
{
    struct sim_link *l = &s->workers[ev->peer - SIM_WORKER0].control;
    out->node = ev->peer - SIM_WORKER0;
    if (ev->what == SIM_NODE_UP) {
        out->type = COORD_EV_NODE_UP;
        l->far = ev->life;
    } else if (ev->what == SIM_NODE_DOWN) {
        out->type = COORD_EV_NODE_DOWN;
        out->reason = "the connection broke";
        l->far = 0;
    } else {
        out->type = COORD_EV_NODE;
        if (ev->code == NET_MSG_PREPARED)
            on_prepared(s, out->node, &out->msg->u.PREPARED);
    }
    return true;
}

static bool on_client(struct sim *s, const struct sim_event *ev, struct coord_event *out)
{
    (void)s;
    out->client = ev->life;
    out->type = ev->what == SIM_CLIENT_MSG ? COORD_EV_CLIENT : COORD_EV_CLIENT_DOWN;
    return true;
}

static bool on_read(struct sim *s, const struct sim_event *ev, struct coord_event *out)
{
    const struct sim_request *r = &s->setup.requests[ev->peer];
    out->type = COORD_EV_READ;
    out->serial = ev->life;
    out->ok = !r->unreadable;
    out->code = ERR_FORMAT;
    out->reason = "the prompt is unreadable";
    out->tokens = r->prompt;
    out->n_tokens = r->n_prompt;
    out->prompt_bytes = (uint32_t)strlen(SIM_PROMPT);
    s->n_reading -= ev->arg == s->coord_process ? 1u : 0u;
    return ev->arg == s->coord_process;
}

static bool on_tick(struct sim *s, const struct sim_event *ev, struct coord_event *out)
{
    if (ev->life != s->tick_id)
        return false;
    s->tick_us = -1;
    out->type = COORD_EV_TICK;
    return s->now_us / 1000 >= coord_core_deadline_ms(s->coord);
}

void sim_coord_event(struct sim *s, const struct sim_event *ev)
{
    struct coord_event out = {0};
    struct part_plan plan;
    double stage_s[PART_DEVICES_MAX];
    struct net_msg m;
    bool news = true;
    if (ev->what == SIM_CONFIG && s->now_us >= s->setup.grow_us)
        s->config.n_workers = s->setup.n_workers;
    if (s->coord == NULL || !sim_link_delivers(s, ev))
        return;
    if (ev->bytes != NULL && !net_msg_decode(ev->code, (struct span){ev->bytes, ev->n_bytes}, &m)) {
        sim_fail(s, "the coordinator cannot decode %s", net_msg_name(ev->code));
        return;
    }
    out.msg = &m;
    if (ev->kind == SIM_ON_CONTROL) {
        news = on_node(s, ev, &out);
    } else if (ev->kind == SIM_ON_CLIENT) {
        news = on_client(s, ev, &out);
    } else if (ev->what == SIM_COORD_TICK) {
        news = on_tick(s, ev, &out);
    } else if (ev->what == SIM_PLANNED) {
        news = ev->arg == s->coord_process;
        if (news)
            sim_planner_answer(s, ev, &out, &plan, stage_s);
    } else if (ev->what == SIM_READ) {
        news = on_read(s, ev, &out);
    } else if (ev->what == SIM_CONFIG) {
        out.type = COORD_EV_CONFIG;
        out.config = &s->config;
        sim_say(s, "the configuration is read again");
    } else { /* somebody looks at the cluster */
        m = (struct net_msg){.code = NET_MSG_ASK_STATUS, .u.ASK_STATUS = {NET_CLIENT_VERSION}};
        out.type = COORD_EV_CLIENT;
    }
    if (news)
        step(s, &out);
    if (s->failed[0] == 0)
        want_tick(s);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

/* Who is known to the new process, and in which order. */
static void book_kept(struct sim *s, const struct coord_kept_list *l)
{
    for (uint32_t i = 0; i < s->setup.n_requests; i++) {
        s->clients[i].order = 0;
        s->clients[i].live = false;
    }
    s->order = l->n;
    for (uint32_t i = 0; i < l->n; i++) {
        const struct coord_kept *k = &l->list[i];
        struct sim_client *c = &s->clients[k->submit.id[0]];
        if (!k->read && !k->done && k->submit.prompt.len == 0)
            continue; /* its prompt was read and then torn off */
        c->order = i + 1;
        c->live = !k->done;
        c->reused = k->done ? c->reused : 0;
        c->unwanted = c->live && c->over;
        if (c->unwanted)
            c->over_us = s->now_us + (COORD_KEPT_MS + 1000) * 1000;
    }
}

/* What the process before has left goes on, and the journal begins anew with it. */
static void take_kept(struct sim *s)
{
    struct base_buf before = s->journal;
    struct coord_kept_list l = {0};
    if (s->setup.tears && before.len > 0 && sim_draw(s, 2) == 0) {
        before.len -= sim_draw(s, before.len < 300 ? before.len : 300);
        s->torn = true;
    }
    const size_t n = coord_records_read((struct span){before.ptr, before.len}, &l);
    if (n != before.len && !s->torn)
        sim_fail(s, "%zu of %zu bytes of the journal can be read", n, before.len);
    s->journal = (struct base_buf){0};
    coord_records_write(&l, &s->journal);
    book_kept(s, &l);
    step(s, &(struct coord_event){.type = COORD_EV_KEPT, .kept = &l});
    coord_kept_deinit(&l);
    base_buf_deinit(&before);
}

void sim_coord_start(struct sim *s)
{
    static const uint8_t card[NET_HASH_BYTES] = {7};
    struct coord_model m = {.n_layers = s->setup.n_layers,
                            .n_ff = SIM_UNITS * 16,
                            .unit_heads = 1,
                            .kv_share = 1,
                            .kv_row_bytes = SIM_KV_ROW_BYTES,
                            .unit_cols = 16,
                            .n_vocab = SIM_VOCAB,
                            .context = s->setup.context,
                            .file = "stub",
                            .numerics = SIM_NUMERICS,
                            .card_bytes = 100,
                            .n_ends = s->setup.n_ends,
                            .ends = {0, 1},
                            .text = sim_stub_text,
                            .n_pieces = sim_stub_n_pieces,
                            .arg = &s->setup};
    if (s->coord != NULL)
        return;
    memcpy(m.card, card, sizeof card);
    s->coord_process++;
    if (coord_core_new(&s->config, &m, s->coord_process, 7700, &s->coord, NULL) != 0) {
        sim_fail(s, "no memory for the coordinator");
        return;
    }
    s->epoch = 0;
    s->read_us = s->n_reading = 0;
    memset(s->slot_owner, 0, sizeof s->slot_owner);
    s->no_plan_since_us = s->idle_since_us = s->now_us;
    s->tick_us = -1;
    s->no_plan = s->hopeless = false;
    sim_say(s, "coordinator starts incarnation=%u", (unsigned)s->coord_process);
    take_kept(s);
    want_tick(s);
}

void sim_coord_stop(struct sim *s)
{
    if (s->coord == NULL)
        return;
    coord_core_free(s->coord);
    s->coord = NULL;
    for (uint32_t w = 0; w < s->setup.n_workers; w++) {
        sim_control_end(s, w, 1000, -1);
        s->workers[w].control.far = 0;
    }
    for (uint32_t i = 0; i < s->setup.n_requests; i++) {
        s->clients[i].in_slot = s->clients[i].opened = false;
        s->clients[i].connection = 0;
    }
    s->tick_id++;
}

void sim_coord_check_end(struct sim *s)
{
    struct coord_kept_list l = {0};
    if (s->coord == NULL)
        return;
    coord_records_read((struct span){s->journal.ptr, s->journal.len}, &l);
    for (uint32_t i = 0; i < l.n; i++)
        if (!l.list[i].done)
            sim_fail(s, "%s is in the journal when all is over",
                     sim_name(s, SIM_CLIENT0 + l.list[i].submit.id[0]));
    coord_kept_deinit(&l);
    if (coord_core_n_active(s->coord) != 0)
        sim_fail(s, "%u slots are taken when all is over", coord_core_n_active(s->coord));
    for (uint32_t i = 0; i < s->setup.slots; i++)
        if (s->slot_owner[i] != 0)
            sim_fail(s, "slot %u was never closed", i);
    for (uint32_t i = 0; i < s->setup.n_requests; i++)
        if (s->clients[i].live)
            sim_fail(s, "%s is not forgotten when all is over", sim_name(s, SIM_CLIENT0 + i));
}
