/* The worker core: slots, and the rows that wait.
 *
 * The first stage cuts prompts into chunks and holds them back by credit: to stage k at
 * most max(2, k) chunks may be on their way that k has not taken up, so that prompts never pile up
 * before a slow board and decode rows never wait behind more than that.
 *
 * Every row carries its request's number. A slot is reused at once, a number never: whatever
 * belongs to an older request of the slot, or to another epoch, is dropped here, and so is
 * everything once a link of the epoch has broken, since a row that comes after a gap would be
 * computed on KV rows that are missing. A request may start behind position 0 where the slot's KV
 * rows before that are its own already: rows of earlier requests of the slot were all run, or
 * dropped, before its first one, and never below the position that the coordinator knows to be
 * there. RING_OPEN, rows and RING_CLOSE go the same way round the ring, in order, so a later stage
 * learns of a request before its first row.
 *
 * Where the output matrix stands on the first stage, the rows that logits are wanted of come back to
 * it and wait where rows wait at later stages: one of a request that generates, as a decode row, and
 * any number of a logits request. The first stage counts how many of these are on their way, and
 * sends no more than its ring has room for.
 *
 * Invariant: a decode row waits at most once a slot; ring_n + n_away <= ring_cap; taken >= dropped.
 * Left out: what passes are made of (core_pass.c), stop strings (the coordinator's). */
#include "worker/core_private.h"

#include <assert.h>
#include <string.h>

static void slot_free(struct worker_slot *s)
{
    base_free(s->prompt);
    memset(s, 0, sizeof *s);
}

void worker_core_queue_remove(uint32_t *queue, uint32_t *n, uint32_t slot)
{
    for (uint32_t i = 0; i < *n; i++)
        if (queue[i] == slot) {
            memmove(queue + i, queue + i + 1, (*n - i - 1) * sizeof *queue);
            (*n)--;
            return;
        }
}

uint32_t worker_core_ring_rows(const struct worker_plan *p)
{
    if (p->member != 0 || (p->stage == 0 && !p->output_first))
        return 1;
    /* Rows that are back have come as far as one stage more would be. */
    const uint32_t stage = p->stage == 0 ? p->n_stages : p->stage;
    return ((stage > 2 ? stage : 2) + 1) * p->chunk;
}

uint32_t worker_core_prompt_rows(const struct worker_core *c, uint64_t epoch)
{
    return worker_core_ring_rows(epoch == c->plan.epoch ? &c->plan : &c->next);
}

bool worker_core_ring_init(struct worker_core *c)
{
    const uint32_t cap = worker_core_ring_rows(&c->plan);
    struct worker_prompt_row *ring = base_realloc(c->ring, cap * sizeof *ring);
    if (ring == NULL)
        return false;
    c->ring = ring;
    c->ring_cap = cap;
    return true;
}

void worker_core_ring_clear(struct worker_core *c)
{
    for (uint32_t i = 0; i < MODEL_SLOTS_MAX; i++)
        slot_free(&c->slots[i]);
    c->broken = false;
    c->n_decode = c->n_prompt = 0;
    c->ring_head = c->ring_n = c->n_away = 0;
    c->taken = c->dropped = 0;
    memset(c->stage_taken, 0, sizeof c->stage_taken);
    memset(c->stage_dropped, 0, sizeof c->stage_dropped);
}

/* ---- opening and closing --------------------------------------------------------------------- */

struct worker_slot *worker_core_slot_of(struct worker_core *c, uint32_t slot, uint64_t request)
{
    if (slot >= c->n_slots || request == 0 || c->slots[slot].request != request)
        return NULL;
    return &c->slots[slot];
}

void worker_core_slot_reset(struct worker_core *c, uint32_t slot)
{
    worker_core_queue_remove(c->decode_queue, &c->n_decode, slot);
    worker_core_queue_remove(c->prompt_queue, &c->n_prompt, slot);
    c->n_away -= c->slots[slot].away;
    slot_free(&c->slots[slot]);
}

/* OPEN and RING_OPEN name the sampling alike. */
#define SAMPLING_OF(m)                                                                             \
    (struct model_sampling)                                                                        \
    {                                                                                              \
        .temperature = (float)(m)->temperature, .top_k = (m)->top_k, .top_p = (float)(m)->top_p,   \
        .min_p = (float)(m)->min_p, .repeat_penalty = (float)(m)->repeat_penalty,                  \
        .seed = (m)->seed, .presence_penalty = (float)(m)->presence_penalty,                       \
        .frequency_penalty = (float)(m)->frequency_penalty, .logprobs = (m)->logprobs              \
    }

/* The biases, besides; false where a coordinator would have refused the request, and the next stage
 * the message: a number out of range may be none at all as F32. */
static bool take_biases(struct model_sampling *s, struct net_list ids, struct net_list biases)
{
    if (ids.n != biases.n || ids.n > MODEL_BIASES_MAX)
        return false;
    s->n_biases = ids.n;
    for (uint32_t i = 0; i < ids.n; i++) {
        s->bias_ids[i] = net_i32_at(ids, i);
        s->biases[i] = net_f64_at(biases, i);
    }
    return model_sampling_check(s, NULL) == 0;
}

static bool open_is_sound(const struct worker_core *c, const struct net_msg_OPEN *m)
{
    return m->slot < c->n_slots && m->request != 0 && m->tokens.n > 0 &&
           m->tokens.n <= c->context && m->start < m->tokens.n && m->end_position <= c->context &&
           m->ends.n <= WORKER_ENDS_MAX;
}

/* Send the request's parameters ahead of its rows. */
static void send_ring_open(struct worker_core *c, uint32_t slot, struct worker_actions *out)
{
    struct worker_slot *s = &c->slots[slot];
    for (uint32_t i = 0; i < s->n_ends; i++)
        net_put_u32(c->list32[0], i, (uint32_t)s->ends[i]);
    for (uint32_t i = 0; i < s->n_recent; i++)
        net_put_u32(c->list32[1], i, (uint32_t)s->recent[i]);
    struct worker_action *a = worker_core_act(out, WORKER_ACT_RING);
    a->peer = worker_core_next(c);
    a->msg.code = NET_MSG_RING_OPEN;
    a->msg.u.RING_OPEN = (struct net_msg_RING_OPEN){
        .epoch = c->plan.epoch,
        .request = s->request,
        .slot = slot,
        .flags = s->flags,
        .n_prompt = s->n_prompt,
        .end_position = s->end_position,
        .temperature = (double)s->sampling.temperature,
        .top_k = s->sampling.top_k,
        .top_p = (double)s->sampling.top_p,
        .min_p = (double)s->sampling.min_p,
        .repeat_penalty = (double)s->sampling.repeat_penalty,
        .seed = s->sampling.seed,
        .presence_penalty = (double)s->sampling.presence_penalty,
        .frequency_penalty = (double)s->sampling.frequency_penalty,
        .bias_ids = net_list_i32(s->sampling.bias_ids, s->sampling.n_biases),
        .biases = net_list_f64(s->sampling.biases, s->sampling.n_biases),
        .logprobs = s->sampling.logprobs,
        .ends = {c->list32[0], s->n_ends},
        .recent = {c->list32[1], s->n_recent},
    };
}

void worker_core_open(struct worker_core *c, const struct net_msg_OPEN *m,
                      struct worker_actions *out)
{
    if (m->epoch != c->plan.epoch || c->plan.epoch == 0 || c->broken || !worker_core_is_first(c) || !worker_core_leads(c)) {
        worker_core_log(out, "stale message=OPEN request=%llu", (unsigned long long)m->request);
        return;
    }
    struct model_sampling sampling = SAMPLING_OF(m);
    if (!open_is_sound(c, m) || !take_biases(&sampling, m->bias_ids, m->biases)) {
        worker_core_fail(c, out, m->request, 0,
                         "the request does not fit the plan's slots or context");
        return;
    }
    worker_core_slot_reset(c, m->slot);
    struct worker_slot *s = &c->slots[m->slot];
    s->prompt = base_alloc((size_t)m->tokens.n * sizeof *s->prompt);
    if (s->prompt == NULL) {
        worker_core_fail(c, out, m->request, 0, "out of memory for the prompt on the first stage");
        return;
    }
    for (uint32_t i = 0; i < m->tokens.n; i++)
        s->prompt[i] = net_i32_at(m->tokens, i);
    s->request = m->request;
    s->flags = m->flags;
    s->n_prompt = m->tokens.n;
    s->next = m->start;
    s->end_position = m->end_position;
    s->sampling = sampling;
    s->n_ends = m->ends.n;
    for (uint32_t i = 0; i < m->ends.n; i++)
        s->ends[i] = net_i32_at(m->ends, i);
    s->n_recent = m->tokens.n < MODEL_PENALTY_WINDOW ? m->tokens.n : MODEL_PENALTY_WINDOW;
    memcpy(s->recent, s->prompt + s->n_prompt - s->n_recent, s->n_recent * sizeof *s->recent);
    c->prompt_queue[c->n_prompt++] = m->slot;
    if (!worker_core_is_last(c))
        send_ring_open(c, m->slot, out);
}

static void on_ring_open(struct worker_core *c, const struct net_msg_RING_OPEN *m,
                         struct worker_actions *out)
{
    struct model_sampling sampling = SAMPLING_OF(m);
    if (m->slot >= c->n_slots || m->request == 0 || m->end_position > c->context ||
        !take_biases(&sampling, m->bias_ids, m->biases))
        return;
    worker_core_slot_reset(c, m->slot);
    struct worker_slot *s = &c->slots[m->slot];
    s->request = m->request;
    s->flags = m->flags;
    s->n_prompt = m->n_prompt;
    s->end_position = m->end_position;
    s->sampling = sampling;
    s->n_ends = m->ends.n;
    for (uint32_t i = 0; i < m->ends.n; i++)
        s->ends[i] = net_i32_at(m->ends, i);
    s->n_recent = m->recent.n;
    for (uint32_t i = 0; i < m->recent.n; i++)
        s->recent[i] = net_i32_at(m->recent, i);
    if (!worker_core_is_last(c))
        send_ring_open(c, m->slot, out);
}

static void close_slot(struct worker_core *c, uint64_t request, uint32_t slot,
                       struct worker_actions *out)
{
    if (worker_core_slot_of(c, slot, request) != NULL)
        worker_core_slot_reset(c, slot);
    if (worker_core_is_last(c))
        return;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_RING);
    a->peer = worker_core_next(c);
    a->msg.code = NET_MSG_RING_CLOSE;
    a->msg.u.RING_CLOSE = (struct net_msg_RING_CLOSE){c->plan.epoch, request, slot};
}

void worker_core_close(struct worker_core *c, const struct net_msg_CLOSE *m,
                       struct worker_actions *out)
{
    if (m->epoch == c->plan.epoch && c->plan.epoch != 0 && !c->broken && worker_core_is_first(c) && worker_core_leads(c))
        close_slot(c, m->request, m->slot, out);
}

/* ---- rows that arrive ------------------------------------------------------------------------ */

void worker_core_decode_wait(struct worker_core *c, uint32_t slot, uint32_t position,
                             int32_t token)
{
    struct worker_slot *s = &c->slots[slot];
    assert(!s->waiting);
    /* Who is not back with it has ended. */
    for (uint32_t i = 0, group = s->group; group != 0 && i < c->n_slots; i++)
        if (c->slots[i].group == group)
            c->slots[i].group = 0;
    s->waiting = true;
    s->position = position;
    s->token = token;
    c->decode_queue[c->n_decode++] = slot;
}

static void keep(struct worker_actions *out, enum worker_from to, uint32_t index, uint32_t from_row,
                 uint32_t n)
{
    struct worker_action *a = worker_core_act(out, WORKER_ACT_KEEP);
    a->to = to;
    a->index = index;
    a->from_row = from_row;
    a->n_rows = n;
}

static void on_decode_rows(struct worker_core *c, const struct net_msg_ROWS *m,
                           struct worker_actions *out)
{
    for (uint32_t i = 0; i < m->requests.n; i++) {
        const uint32_t slot = net_u32_at(m->slots, i), position = net_u32_at(m->positions, i);
        struct worker_slot *s = worker_core_slot_of(c, slot, net_u64_at(m->requests, i));
        if (s == NULL || s->waiting || position >= c->context)
            continue;
        worker_core_decode_wait(c, slot, position, 0);
        keep(out, WORKER_FROM_DECODE, slot, i, 1);
    }
}

void worker_core_send_started(struct worker_core *c, struct worker_actions *out)
{
    if (worker_core_is_first(c))
        return;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_RING);
    a->peer = c->plan.ring[0];
    a->msg.code = NET_MSG_STARTED;
    a->msg.u.STARTED = (struct net_msg_STARTED){c->plan.epoch, c->plan.stage, c->taken, c->dropped};
}

static void on_prompt_rows(struct worker_core *c, const char *peer, const struct net_msg_ROWS *m,
                           struct worker_actions *out)
{
    const uint32_t n = m->requests.n, at = (c->ring_head + c->ring_n) % c->ring_cap;
    if (n > c->ring_cap - c->ring_n) {
        worker_core_link_lost(c, out, peer, "it sent more prompt rows than it had credit for");
        return;
    }
    /* Rows of closed requests are kept as well: they are dropped when their turn comes, where the
     * credit that they hold is given back. */
    for (uint32_t i = 0; i < n; i++)
        c->ring[(at + i) % c->ring_cap] = (struct worker_prompt_row){
            net_u64_at(m->requests, i), net_u32_at(m->slots, i), net_u32_at(m->positions, i)};
    c->ring_n += n;
    const uint32_t straight = n < c->ring_cap - at ? n : c->ring_cap - at;
    keep(out, WORKER_FROM_PROMPT, at, 0, straight);
    if (n > straight)
        keep(out, WORKER_FROM_PROMPT, 0, straight, n - straight);
}

static void on_ring_tokens(struct worker_core *c, const struct net_msg_RING_TOKENS *m)
{
    for (uint32_t i = 0; i < m->requests.n; i++) {
        const uint32_t slot = net_u32_at(m->slots, i), position = net_u32_at(m->positions, i);
        struct worker_slot *s = worker_core_slot_of(c, slot, net_u64_at(m->requests, i));
        if (s != NULL && worker_slot_may_wait(s) && position < c->context)
            worker_core_decode_wait(c, slot, position, net_i32_at(m->tokens, i));
    }
}

/* Rows that have left the last layer. Those of closed requests are counted no more, and dropped. */
static void on_rows_back(struct worker_core *c, const struct net_msg_ROWS *m,
                         struct worker_actions *out)
{
    for (uint32_t i = 0; i < m->requests.n; i++) {
        const uint32_t slot = net_u32_at(m->slots, i), position = net_u32_at(m->positions, i);
        const uint64_t request = net_u64_at(m->requests, i);
        struct worker_slot *s = worker_core_slot_of(c, slot, request);
        if (s == NULL || position >= c->context || !worker_slot_wants_logits(s, position))
            continue;
        if (s->away > 0) {
            const uint32_t at = (c->ring_head + c->ring_n++) % c->ring_cap;
            c->ring[at] = (struct worker_prompt_row){request, slot, position};
            s->away--;
            c->n_away--;
            keep(out, WORKER_FROM_PROMPT, at, i, 1);
        } else if ((s->flags & 1) == 0 && worker_slot_may_wait(s)) {
            worker_core_decode_wait(c, slot, position, 0);
            keep(out, WORKER_FROM_DECODE, slot, i, 1);
        }
    }
}

static void on_started(struct worker_core *c, const char *peer, const struct net_msg_STARTED *m)
{
    if (m->stage == 0 || m->stage >= c->plan.n_stages ||
        strcmp(c->plan.ring[m->stage], peer) != 0 || m->rows < m->dropped)
        return;
    c->stage_taken[m->stage] = m->rows;
    c->stage_dropped[m->stage] = m->dropped;
}

static bool rows_are_sound(const struct worker_core *c, const struct net_msg_ROWS *m)
{
    return m->requests.n > 0 && m->slots.n == m->requests.n && m->positions.n == m->requests.n &&
           m->hidden.len == model_rows_bytes(m->requests.n, c->n_embd, c->plan.wire) &&
           m->kind <= 2;
}

static bool lists_match(const struct net_msg_RING_TOKENS *m)
{
    return m->slots.n == m->requests.n && m->positions.n == m->requests.n &&
           m->tokens.n == m->requests.n;
}

/* Epoch of a ring message; false: it has none. */
static bool ring_epoch(const struct net_msg *m, uint64_t *epoch)
{
    switch ((int)m->code) {
    case NET_MSG_RING_OPEN:
        *epoch = m->u.RING_OPEN.epoch;
        return true;
    case NET_MSG_RING_CLOSE:
        *epoch = m->u.RING_CLOSE.epoch;
        return true;
    case NET_MSG_ROWS:
        *epoch = m->u.ROWS.epoch;
        return true;
    case NET_MSG_RING_TOKENS:
        *epoch = m->u.RING_TOKENS.epoch;
        return true;
    case NET_MSG_STARTED:
        *epoch = m->u.STARTED.epoch;
        return true;
    default:
        return false;
    }
}

void worker_core_ring_message(struct worker_core *c, const char *peer, const struct net_msg *m,
                              struct worker_actions *out)
{
    uint64_t epoch;
    if (!ring_epoch(m, &epoch))
        return;
    if (epoch != 0 && epoch == c->next.epoch && c->prep == WORKER_PREP_READY)
        worker_core_activate(c, out);
    if (epoch == 0 || epoch != c->plan.epoch || c->broken) {
        worker_core_log(out, "stale message=%s epoch=%llx", net_msg_name(m->code),
                        (unsigned long long)epoch);
        return;
    }
    if (!worker_core_leads(c)) {
        worker_core_log(out, "unexpected message=%s peer=%s", net_msg_name(m->code), peer);
        return;
    }
    const bool from_previous = !worker_core_is_first(c) && strcmp(peer, c->plan.ring[c->plan.stage - 1]) == 0;
    const bool closes = worker_core_is_first(c) &&
                        strcmp(peer, c->plan.ring[c->plan.n_stages - 1]) == 0;
    if (m->code == NET_MSG_RING_OPEN && from_previous)
        on_ring_open(c, &m->u.RING_OPEN, out);
    else if (m->code == NET_MSG_RING_CLOSE && from_previous)
        close_slot(c, m->u.RING_CLOSE.request, m->u.RING_CLOSE.slot, out);
    else if (m->code == NET_MSG_ROWS && rows_are_sound(c, &m->u.ROWS) &&
             (m->u.ROWS.kind == 2 ? closes && c->plan.output_first : from_previous)) {
        if (m->u.ROWS.kind == 0)
            on_decode_rows(c, &m->u.ROWS, out);
        else if (m->u.ROWS.kind == 1)
            on_prompt_rows(c, peer, &m->u.ROWS, out);
        else
            on_rows_back(c, &m->u.ROWS, out);
    } else if (m->code == NET_MSG_RING_TOKENS && closes && !c->plan.output_first &&
               lists_match(&m->u.RING_TOKENS))
        on_ring_tokens(c, &m->u.RING_TOKENS);
    else if (m->code == NET_MSG_STARTED && worker_core_is_first(c))
        on_started(c, peer, &m->u.STARTED);
    else
        worker_core_log(out, "unexpected message=%s peer=%s", net_msg_name(m->code), peer);
}

/* ---- for shells and tests -------------------------------------------------------------------- */

uint32_t worker_core_waiting(const struct worker_core *c)
{
    uint32_t n = c->n_decode + c->ring_n;
    for (uint32_t i = 0; i < c->n_prompt; i++)
        n += c->slots[c->prompt_queue[i]].n_prompt - c->slots[c->prompt_queue[i]].next;
    return n;
}

const char *worker_core_invariant(const struct worker_core *c)
{
    if (c->next.epoch != 0 && c->next.epoch <= c->plan.epoch)
        return "a plan is prepared whose epoch is not above that in force";
    if ((c->prep == WORKER_PREP_NONE) != (c->next.epoch == 0))
        return "the state of preparing and its epoch disagree";
    if (c->plan.epoch == 0)
        return NULL;
    if (c->ring_n > c->ring_cap || c->taken < c->dropped)
        return "prompt rows are counted wrong";
    uint32_t waiting = 0, away = 0;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        away += c->slots[i].away;
        waiting += c->slots[i].waiting ? 1u : 0u;
        if (c->slots[i].waiting && (c->slots[i].request == 0 || c->slots[i].prompt != NULL))
            return "a decode row waits in a slot that is free or still reads its prompt";
    }
    if (away != c->n_away || away + c->ring_n > c->ring_cap)
        return "rows that are to come back are counted wrong";
    return waiting == c->n_decode ? NULL : "the decode queue and the slots disagree";
}
