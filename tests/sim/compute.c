/* The simulated compute side of a worker: what a loaded plan holds, and a pass over it.
 *
 * It is the strict reader of what the core asks for. Rows of a slot must come at positions without
 * a gap and under request numbers that only rise; a waiting state is read once; a pass keeps to the
 * plan's bounds. KV rows of a fresh plan and states that were read already are poison, so that
 * whoever uses them gives another text.
 *
 * A team's leader computes for all of it, on the KV rows that each member has of its own head
 * units. */
#include "tests/sim/sim.h"

#include <string.h>

static uint64_t poison(uint64_t what)
{
    return base_mix64(what ^ UINT64_C(0x0dd0a5b1b0b0cafe));
}

struct sim_engine *sim_engine_new(struct sim *s, uint32_t w)
{
    const struct sim_worker *k = &s->workers[w];
    struct sim_engine *e = base_zalloc(1, sizeof *e);
    e->epoch = k->next_epoch;
    e->layer0 = k->next_layer0;
    e->layer1 = k->next_layer1;
    e->stage = k->next_stage;
    e->last = k->next_last;
    e->output_first = k->next_output_first;
    e->chunk = k->next_chunk;
    e->max_rows = k->next_max_rows;
    e->n_team = k->next_n_team;
    e->me = k->next_me;
    memcpy(e->team, k->next_team, sizeof e->team);
    e->head0 = k->next_shard.part.head0;
    e->head1 = k->next_shard.part.head1;
    e->prompt_rows = worker_core_prompt_rows(k->core, e->epoch);
    const size_t n =
        (size_t)(e->layer1 - e->layer0) * SIM_UNITS * s->setup.slots * s->setup.context;
    e->kv = base_alloc(n * sizeof *e->kv);
    e->prompt = base_alloc(e->prompt_rows * sizeof *e->prompt);
    for (size_t i = 0; i < n; i++)
        e->kv[i] = e->epoch * 1000003 + i;
    for (uint32_t i = 0; i < e->prompt_rows; i++)
        e->prompt[i] = poison(i);
    return e;
}

static uint64_t *kv_of(const struct sim *s, const struct sim_engine *e, uint32_t layer, uint32_t unit,
                       uint32_t slot)
{
    return e->kv + (((size_t)(layer - e->layer0) * SIM_UNITS + unit) * s->setup.slots + slot) *
                       s->setup.context;
}

/* The engine of the leader's team that has a head unit; NULL: its worker is not there. */
static struct sim_engine *holder(struct sim *s, struct sim_engine *leader, uint32_t unit)
{
    for (uint32_t i = 0; i < leader->n_team; i++) {
        const struct sim_worker *k = &s->workers[leader->team[i]];
        struct sim_engine *const list[2] = {k->engine, k->next_engine};
        for (int j = 0; j < 2; j++)
            if (list[j] != NULL && list[j]->epoch == leader->epoch && unit >= list[j]->head0 &&
                unit < list[j]->head1)
                return list[j];
    }
    return NULL;
}

void sim_engine_free(struct sim_engine *e)
{
    if (e == NULL)
        return;
    base_free(e->kv);
    base_free(e->prompt);
    base_free(e);
}

void sim_compute_keep(struct sim *s, uint32_t w, const struct worker_action *a,
                      const struct net_msg_ROWS *m)
{
    struct sim_engine *e = s->workers[w].engine;
    if (e == NULL || e->epoch != m->epoch) {
        sim_fail(s, "%s keeps rows of a plan that is not in force", sim_name(s, SIM_WORKER0 + w));
        return;
    }
    const uint32_t room = a->to == WORKER_FROM_DECODE ? s->setup.slots : e->prompt_rows;
    if (a->to == WORKER_FROM_TOKEN || a->index + a->n_rows > room ||
        a->from_row + a->n_rows > m->requests.n) {
        sim_fail(s, "%s keeps rows beyond its buffer", sim_name(s, SIM_WORKER0 + w));
        return;
    }
    uint64_t *to = (a->to == WORKER_FROM_DECODE ? e->decode : e->prompt) + a->index;
    memcpy(to, m->hidden.ptr + (size_t)a->from_row * sizeof *to, a->n_rows * sizeof *to);
    if (a->to != WORKER_FROM_PROMPT)
        return;
    if (e->stage == 0)
        return; /* they have been counted */
    e->kept += a->n_rows;
    const uint32_t bound = (e->stage > 2 ? e->stage : 2) * e->chunk;
    if (e->kept - e->taken > bound)
        sim_fail(s, "%llu prompt rows wait at stage %u, %u may",
                 (unsigned long long)(e->kept - e->taken), e->stage, bound);
}

/* ---- a pass ---------------------------------------------------------------------------------- */

static void check_pass(struct sim *s, uint32_t w, const struct worker_pass *p)
{
    const struct sim_worker *k = &s->workers[w];
    const struct sim_engine *e = k->engine;
    const char *name = sim_name(s, SIM_WORKER0 + w);
    if (k->pass != NULL)
        sim_fail(s, "%s begins a pass while another runs", name);
    else if (e == NULL || p->epoch != e->epoch)
        sim_fail(s, "%s runs a pass of a plan that is not in force", name);
    else if (e->me != 0)
        sim_fail(s, "%s begins a pass and does not lead its team", name);
    else if (p->n == 0 || p->n_decode + p->n_back > p->n || p->n > e->max_rows ||
             p->n - p->n_decode - p->n_back > e->chunk || p->n_decode > s->setup.slots ||
             (p->n_back > 0 && (e->stage > 0 || !e->output_first)) ||
             (s->setup.rows_max != 0 && p->n > s->setup.rows_max))
        sim_fail(s, "%s runs a pass of %u decode rows, %u that are back and %u in all", name,
                 p->n_decode, p->n_back, p->n);
    for (uint32_t i = 0; s->failed[0] == 0 && i < p->n; i++) {
        const struct worker_pass_row *r = &p->rows[i];
        const bool ahead = i < p->n_decode + p->n_back;
        const enum worker_from from = e->stage == 0 && !(e->output_first && ahead)
                                          ? WORKER_FROM_TOKEN
                                      : i < p->n_decode ? WORKER_FROM_DECODE
                                                        : WORKER_FROM_PROMPT;
        if (r->row.slot >= s->setup.slots || r->row.position >= s->setup.context ||
            r->request == 0 || r->from != from ||
            (from == WORKER_FROM_DECODE && r->index != r->row.slot) ||
            (from == WORKER_FROM_PROMPT && r->index >= e->prompt_rows))
            sim_fail(s, "%s: row %u of a pass makes no sense", name, i);
        if (from == WORKER_FROM_TOKEN && i < p->n_decode &&
            r->row.token < (int32_t)s->setup.n_ends)
            sim_fail(s, "%s goes on after the end of a text", name);
        const bool output = e->output_first ? e->stage == 0 && ahead : e->last;
        if ((r->sample || r->summarise) && !output)
            sim_fail(s, "%s: row %u of a pass has not left the last layer", name, i);
    }
}

/* KV rows of a slot that all who have head units of the leader's stage have. */
static uint32_t rows_of(struct sim *s, struct sim_engine *e, uint32_t slot)
{
    uint32_t n = UINT32_MAX;
    for (uint32_t u = 0; u < SIM_UNITS; u++) {
        const struct sim_engine *h = holder(s, e, u);
        if (h != NULL && h->length[slot] < n)
            n = h->length[slot];
    }
    return n;
}

static void set_rows(struct sim *s, struct sim_engine *e, uint32_t slot, uint32_t n)
{
    e->length[slot] = n;
    for (uint32_t u = 0; u < SIM_UNITS; u++) {
        struct sim_engine *h = holder(s, e, u);
        if (h != NULL)
            h->length[slot] = n;
    }
}

/* A request begins where it was opened: at 0, or behind rows that the slot holds. What the slot
 * held from there on is lost. */
static void begin_request(struct sim *s, uint32_t w, const struct worker_pass_row *r)
{
    struct sim_engine *e = s->workers[w].engine;
    const struct sim_open *o = &s->opened[r->row.slot];
    const uint32_t slot = r->row.slot, at = r->row.position;
    if (at > rows_of(s, e, slot))
        sim_fail(s, "%s: request %llu begins at position %u, and slot %u holds %u rows",
                 sim_name(s, SIM_WORKER0 + w), (unsigned long long)r->request, at, slot,
                 rows_of(s, e, slot));
    if (o->epoch == e->epoch && o->request == r->request && o->start != at)
        sim_fail(s, "%s: request %llu begins at position %u and was opened at %u",
                 sim_name(s, SIM_WORKER0 + w), (unsigned long long)r->request, at, o->start);
    for (uint32_t u = 0; u < SIM_UNITS; u++) {
        const struct sim_engine *h = holder(s, e, u);
        for (uint32_t l = e->layer0; h != NULL && l < e->layer1; l++)
            for (uint32_t p = at; p < s->setup.context; p++)
                kv_of(s, h, l, u, slot)[p] = poison(kv_of(s, h, l, u, slot)[p]);
    }
    e->request[slot] = r->request;
    e->back[slot] = at;
    set_rows(s, e, slot, at);
}

/* The row's place among its slot's: requests follow each other, positions have no gap. */
static void check_row(struct sim *s, uint32_t w, const struct worker_pass_row *r)
{
    struct sim_engine *e = s->workers[w].engine;
    const uint32_t slot = r->row.slot;
    if (r->request < e->request[slot])
        sim_fail(s, "%s: slot %u goes back from request %llu to %llu", sim_name(s, SIM_WORKER0 + w),
                 slot, (unsigned long long)e->request[slot], (unsigned long long)r->request);
    if (r->request != e->request[slot])
        begin_request(s, w, r);
    if (r->row.position != e->length[slot])
        sim_fail(s, "%s: request %llu has position %u where %u is due",
                 sim_name(s, SIM_WORKER0 + w), (unsigned long long)r->request, r->row.position,
                 e->length[slot]);
    set_rows(s, e, slot, r->row.position + 1);
}

/* A row that is back belongs to whom the slot does; those of a logits request are back in order, and
 * of other requests the last row is. */
static void check_back(struct sim *s, uint32_t w, const struct worker_pass_row *r)
{
    struct sim_engine *e = s->workers[w].engine;
    const uint32_t slot = r->row.slot, due = r->sample ? e->length[slot] - 1 : e->back[slot];
    if (r->request != e->request[slot] || r->row.position != due || due >= e->length[slot] ||
        r->sample == r->summarise)
        sim_fail(s, "%s: position %u of request %llu is back in slot %u, where position %u of %llu "
                    "is due",
                 sim_name(s, SIM_WORKER0 + w), r->row.position, (unsigned long long)r->request, slot,
                 due, (unsigned long long)e->request[slot]);
    e->back[slot] = r->row.position + 1;
}

/* A KV row as all units have it; another one where they disagree, or one is not there. */
static uint64_t kv_row(struct sim *s, const struct sim_engine *const of[SIM_UNITS], uint32_t layer,
                       uint32_t slot, uint32_t position)
{
    uint64_t first = 0, row = 0;
    for (uint32_t u = 0; u < SIM_UNITS; u++) {
        const uint64_t x = of[u] == NULL
                               ? poison(layer + u)
                               : kv_of(s, of[u], layer, u, slot)[position] ^ base_mix64(u);
        first = u == 0 ? x : first;
        row += (u + 1) * (x ^ first);
    }
    return row ^ first;
}

/* The layers of one row; returns what `bad` says of it. */
static uint32_t run_row(struct sim *s, struct sim_engine *e, const struct worker_pass_row *r,
                        uint64_t *hidden)
{
    const uint32_t position = r->row.position;
    const struct sim_engine *of[SIM_UNITS];
    uint64_t kv[SIM_CONTEXT_MAX];
    for (uint32_t u = 0; u < SIM_UNITS; u++)
        of[u] = holder(s, e, u);
    for (uint32_t l = e->layer0; l < e->layer1; l++) {
        const uint64_t row = sim_stub_row(l, position, *hidden);
        for (uint32_t u = 0; u < SIM_UNITS; u++)
            if (of[u] != NULL)
                kv_of(s, of[u], l, u, r->row.slot)[position] = row ^ base_mix64(u);
        for (uint32_t p = 0; p <= position; p++)
            kv[p] = kv_row(s, of, l, r->row.slot, p);
        *hidden = sim_stub_layer(l, position, *hidden, kv);
        if (sim_stub_bad(s->setup.bad_one_in, *hidden))
            return 1 + l;
    }
    return 0;
}

static void finish_row(struct sim *s, struct sim_worker *k, struct worker_pass *p, uint32_t i)
{
    const struct worker_pass_row *r = &p->rows[i];
    const uint64_t hidden = k->hidden[i];
    if (!r->sample && !r->summarise)
        return;
    if (sim_stub_bad(s->setup.bad_one_in, ~hidden)) {
        /* Both ways in which the output matrix can fail a row. */
        p->bad[i] = r->summarise || (hidden & 1) != 0 ? 1 + s->setup.n_layers : 0;
        p->tokens[i] = -1;
        return;
    }
    if (r->summarise)
        sim_stub_summary(hidden, &k->summary[i]);
    if (!r->sample)
        return;
    p->tokens[i] =
        sim_stub_token(hidden, &r->sampling, r->row.position + 1, r->recent, r->n_recent);
    sim_stub_logprobs(hidden, &r->sampling, p->tokens[i], &p->logprobs[i]);
}

uint32_t sim_compute_absent(const struct sim *s, uint32_t w)
{
    const struct sim_engine *e = s->workers[w].engine;
    for (uint32_t i = 1; e != NULL && i < e->n_team; i++) {
        const struct sim_worker *k = &s->workers[e->team[i]];
        const struct sim_link *l = &k->ring[w];
        if (k->core == NULL || k->frozen_until_us > s->now_us || k->hung_until_us > s->now_us ||
            k->engine == NULL || k->engine->epoch != e->epoch || !l->alive || l->near != l->life ||
            l->out.cut_until_us > s->now_us || l->in.cut_until_us > s->now_us)
            return e->team[i];
    }
    return SIM_WORKERS_MAX;
}

void sim_compute_pass(struct sim *s, uint32_t w, struct worker_pass *p)
{
    struct sim_worker *k = &s->workers[w];
    struct sim_engine *e = k->engine;
    check_pass(s, w, p);
    if (s->failed[0] != 0)
        return;
    for (uint32_t i = 0; i < p->n; i++) {
        const struct worker_pass_row *r = &p->rows[i];
        uint64_t *from =
            r->from == WORKER_FROM_DECODE ? &e->decode[r->index] : &e->prompt[r->index];
        if (r->from == WORKER_FROM_TOKEN) {
            k->hidden[i] = sim_stub_embed(r->row.token);
            continue;
        }
        k->hidden[i] = *from;
        *from = poison(*from);
    }
    for (uint32_t i = 0; i < p->n; i++) {
        struct worker_pass_row r = p->rows[i];
        p->bad[i] = 0;
        p->tokens[i] = -1;
        p->at[i] = i;
        if (e->output_first && e->stage == 0 && r.from != WORKER_FROM_TOKEN) {
            check_back(s, w, &r);
            finish_row(s, k, p, i);
            if (p->tokens[i] < 0 || !worker_pass_goes_on(&r, p->tokens[i]))
                continue;
            r.row.position++;
            k->hidden[i] = sim_stub_embed(p->tokens[i]);
        }
        check_row(s, w, &r);
        p->bad[i] = run_row(s, e, &r, &k->hidden[i]);
        if (p->bad[i] == 0 && !(e->output_first && e->stage == 0))
            finish_row(s, k, p, i);
    }
    const int64_t row_us = s->setup.row_us * (int64_t)(p->n * (e->layer1 - e->layer0));
    k->pass = p;
    k->pass_until_us = s->now_us + (int64_t)s->config.dead_ms * 1000;
    k->pass_us = (s->setup.pass_us + row_us) * (k->slow_until_us > s->now_us ? 20 : 1);
    sim_say(s, "%s pass epoch=%llx decode=%u back=%u prompt=%u", sim_name(s, SIM_WORKER0 + w),
            (unsigned long long)p->epoch, p->n_decode, p->n_back, p->n - p->n_decode - p->n_back);
    sim_push(s, (struct sim_event){.node = SIM_WORKER0 + w, .what = SIM_PASS, .arg = k->process},
             k->pass_us);
}

/* ---- what a pass gave ------------------------------------------------------------------------ */

void sim_compute_send_rows(struct sim *s, uint32_t w, const struct worker_action *a)
{
    static uint8_t requests[MODEL_ROWS_MAX * 8], slots[MODEL_ROWS_MAX * 4],
        positions[MODEL_ROWS_MAX * 4];
    static uint64_t hidden[MODEL_ROWS_MAX];
    struct sim_worker *k = &s->workers[w];
    if (a->rows_kind == 1 && k->engine != NULL && k->engine->epoch == a->epoch)
        k->engine->sent += a->n_rows;
    for (uint32_t i = 0; i < a->n_rows; i++) {
        const struct worker_pass_row *r = &a->pass->rows[a->rows[i]];
        net_put_u64(requests, i, r->request);
        net_put_u32(slots, i, r->row.slot);
        net_put_u32(positions, i, r->row.position);
        hidden[i] = k->hidden[a->rows[i]];
    }
    const struct net_msg m = {.code = NET_MSG_ROWS,
                              .u.ROWS = {a->epoch,
                                         a->rows_kind,
                                         {requests, a->n_rows},
                                         {slots, a->n_rows},
                                         {positions, a->n_rows},
                                         {(const uint8_t *)hidden, a->n_rows * sizeof *hidden}}};
    for (uint32_t to = 0; to < s->setup.n_workers; to++)
        if (strcmp(a->peer, sim_name(s, SIM_WORKER0 + to)) == 0 && !sim_ring_send(s, w, to, &m))
            k->broken = 1 + to;
}

void sim_compute_logits(struct sim *s, uint32_t w, const struct worker_action *a)
{
    const struct sim_summary *m = &s->workers[w].summary[a->from_row];
    const struct worker_pass_row *r = &a->pass->rows[a->from_row];
    const struct net_msg msg = {.code = NET_MSG_LOGITS,
                                .u.LOGITS = {a->pass->epoch, r->request, r->row.position, m->mean,
                                             m->rms, net_list_i32(m->ids, MODEL_BEST),
                                             net_list_f64(m->values, MODEL_BEST), m->hash}};
    sim_control_up(s, w, &msg);
}

/* ---- KV rows that move ----------------------------------------------------------------------- */

void sim_copy_free(struct sim_copy *k)
{
    if (k == NULL)
        return;
    base_free(k->kv);
    base_free(k);
}

/* Now and then a board has no memory for it after all. */
void sim_compute_kv_room(struct sim *s, uint32_t w, const struct worker_action *a)
{
    struct sim_worker *k = &s->workers[w];
    const size_t n = (size_t)a->kv_layers * SIM_UNITS * s->setup.slots * s->setup.context;
    sim_copy_free(k->copy);
    k->copy = NULL;
    if (k->engine == NULL || k->engine->epoch != a->epoch ||
        a->kv.layer + a->kv_layers > s->setup.n_layers || a->kv.head1 > SIM_UNITS) {
        sim_fail(s, "%s is to copy what does not fit its plan", sim_name(s, SIM_WORKER0 + w));
        return;
    }
    if (a->kv_layers == 0)
        return;
    k->kv_failed = s->setup.trouble && sim_draw(s, 5) == 0;
    if (k->kv_failed)
        return;
    k->copy = base_zalloc(1, sizeof *k->copy);
    *k->copy = (struct sim_copy){.epoch = a->epoch,
                                 .layer0 = a->kv.layer,
                                 .layer1 = a->kv.layer + a->kv_layers,
                                 .head0 = a->kv.head0,
                                 .head1 = a->kv.head1,
                                 .kv = base_alloc(n * sizeof *k->copy->kv)};
    for (size_t i = 0; i < n; i++)
        k->copy->kv[i] = poison(a->epoch + i);
}

static bool are_within(const struct sim *s, const struct model_kv_rows *r, uint32_t layer0,
                       uint32_t layer1, uint32_t head0, uint32_t head1)
{
    return r->layer >= layer0 && r->layer < layer1 && r->head0 >= head0 && r->head0 < r->head1 &&
           r->head1 <= head1 && r->slot < s->setup.slots && r->rows > 0 &&
           r->first + r->rows <= s->setup.context;
}

/* The rows of one unit in an engine; NULL: it has not all of them. */
static uint64_t *rows_in(const struct sim *s, const struct sim_engine *e,
                         const struct model_kv_rows *r, uint32_t unit)
{
    if (e == NULL || !are_within(s, r, e->layer0, e->layer1, e->head0, e->head1))
        return NULL;
    return kv_of(s, e, r->layer, unit, r->slot) + r->first;
}

static uint64_t *rows_in_copy(const struct sim *s, const struct sim_copy *k,
                              const struct model_kv_rows *r, uint32_t unit)
{
    if (k == NULL || !are_within(s, r, k->layer0, k->layer1, k->head0, k->head1))
        return NULL;
    const size_t head = (size_t)(r->layer - k->layer0) * SIM_UNITS + unit;
    return k->kv + (head * s->setup.slots + r->slot) * s->setup.context + r->first;
}

/* What a worker has under a plan, in its cache or in its copy. */
static uint64_t *rows_under(const struct sim *s, uint32_t w, uint64_t epoch,
                            const struct model_kv_rows *r, uint32_t unit)
{
    const struct sim_worker *k = &s->workers[w];
    if (k->engine == NULL || k->engine->epoch != epoch)
        return NULL;
    uint64_t *rows = rows_in(s, k->engine, r, unit);
    return rows != NULL ? rows : rows_in_copy(s, k->copy, r, unit);
}

static void has_more(struct sim_engine *e, const struct model_kv_rows *r)
{
    if (e->length[r->slot] < r->first + r->rows)
        e->length[r->slot] = r->first + r->rows;
}

void sim_compute_kv_copy(struct sim *s, uint32_t w, const struct worker_action *a)
{
    const struct sim_worker *k = &s->workers[w];
    struct model_kv_rows r = a->kv;
    for (; r.layer < a->kv.layer + a->kv_layers; r.layer++)
        for (uint32_t u = r.head0; u < r.head1; u++) {
            const uint64_t *from = rows_under(s, w, a->epoch, &r, u);
            uint64_t *to = rows_in(s, k->next_engine, &r, u);
            if (from == NULL || to == NULL) {
                sim_fail(s, "%s copies KV rows that it has not", sim_name(s, SIM_WORKER0 + w));
                return;
            }
            memcpy(to, from, r.rows * sizeof *to);
        }
    has_more(k->next_engine, &a->kv);
}

void sim_compute_kv_write(struct sim *s, uint32_t w, const struct worker_action *a,
                          const struct net_msg_KV_ROWS *m)
{
    struct sim_worker *k = &s->workers[w];
    const struct model_kv_rows *r = &a->kv;
    const uint8_t *from = m->kv.ptr;
    for (uint32_t u = r->head0; u < r->head1; u++) {
        uint64_t *to = a->to_copy ? rows_in_copy(s, k->copy, r, u) : rows_in(s, k->next_engine, r, u);
        if (to == NULL) {
            k->kv_failed = a->to_copy && k->copy == NULL;
            if (!k->kv_failed)
                sim_fail(s, "%s is given KV rows that it has no room for",
                         sim_name(s, SIM_WORKER0 + w));
            return;
        }
        for (uint32_t p = 0; p < r->rows; p++, from += SIM_KV_ROW_BYTES)
            memcpy(&to[p], from, sizeof *to);
    }
    s->n_moved += r->rows;
    s->n_copied += a->to_copy ? r->rows : 0;
    if (!a->to_copy)
        has_more(k->next_engine, r);
}

void sim_compute_kv_send(struct sim *s, uint32_t w, const struct worker_action *a,
                         const struct net_msg_KV_ASK *ask)
{
    static uint8_t kv[SIM_UNITS * SIM_CONTEXT_MAX * SIM_KV_ROW_BYTES];
    const struct model_kv_rows *r = &a->kv;
    size_t n = 0;
    for (uint32_t u = r->head0; a->has_rows && u < r->head1; u++) {
        const uint64_t *from = rows_under(s, w, a->epoch, r, u);
        for (uint32_t p = 0; from != NULL && p < r->rows; p++, n += SIM_KV_ROW_BYTES)
            memcpy(kv + n, &from[p], sizeof *from);
    }
    const struct net_msg m = {.code = NET_MSG_KV_ROWS,
                              .u.KV_ROWS = {a->epoch, r->layer, r->head0, r->head1, r->slot,
                                            r->first, r->rows, ask->number, {kv, n}}};
    for (uint32_t to = 0; to < s->setup.n_workers; to++)
        if (strcmp(a->peer, sim_name(s, SIM_WORKER0 + to)) == 0)
            sim_ring_answer(s, w, to, &m);
}
