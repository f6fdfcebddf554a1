/* The worker core: slots, the rows that wait, and passes.
 *
 * A stage takes all that waits for it as one batch: decode rows first, each slot having at most
 * one, then prompt rows up to the plan's chunk (continuous batching). With fewer requests than
 * stages every board so works on another request (recurrent pipeline; Macario et al. 2025,
 * MDI-LLM). The first stage cuts prompts into chunks and holds them back by credit: to stage k at
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
 * learns of a request before its first row. The last stage samples; it stops by itself at the
 * text's end, the token limit or the context, and the coordinator closes the slot.
 *
 * Of a team only the leader is here: it decides what a pass is made of, and the members carry it out
 * with it, out of sight of their cores (worker/team.c). A pass that a member did not carry out
 * breaks the ring like a link that breaks.
 *
 * Invariant: a decode row waits at most once a slot; ring_n <= ring_cap; one pass at a time; taken
 * >= dropped. Left out: stop strings (the coordinator's), sampling itself (the shell's compute
 * thread). */
#include "worker/core_private.h"

#include <assert.h>
#include <string.h>

/* In the ring a stage is its team's leader. */
static bool leads(const struct worker_core *c)
{
    return c->plan.member == 0;
}

static bool is_first(const struct worker_core *c)
{
    return c->plan.stage == 0;
}

static bool is_last(const struct worker_core *c)
{
    return c->plan.stage + 1 == c->plan.n_stages;
}

static const char *next_peer(const struct worker_core *c)
{
    return c->plan.ring[c->plan.stage + 1];
}

static void slot_free(struct worker_slot *s)
{
    base_free(s->prompt);
    memset(s, 0, sizeof *s);
}

static void queue_remove(uint32_t *queue, uint32_t *n, uint32_t slot)
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
    if (p->member != 0)
        return 1;
    const uint32_t chunks = p->stage > 2 ? p->stage : 2;
    return (chunks + 1) * p->chunk;
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
    c->ring_head = c->ring_n = 0;
    c->taken = c->dropped = 0;
    memset(c->stage_taken, 0, sizeof c->stage_taken);
    memset(c->stage_dropped, 0, sizeof c->stage_dropped);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static struct worker_slot *slot_of(struct worker_core *c, uint32_t slot, uint64_t request)
{
    if (slot >= c->n_slots || request == 0 || c->slots[slot].request != request)
        return NULL;
    return &c->slots[slot];
}

/* Drop what the slot holds, so that another request may have it. */
static void slot_reset(struct worker_core *c, uint32_t slot)
{
    queue_remove(c->decode_queue, &c->n_decode, slot);
    queue_remove(c->prompt_queue, &c->n_prompt, slot);
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

static bool biases_are_sound(struct net_list ids, struct net_list biases, uint32_t logprobs)
{
    return ids.n == biases.n && ids.n <= MODEL_BIASES_MAX && logprobs <= 1 + MODEL_LOGPROBS_MAX;
}

static void take_biases(struct model_sampling *s, struct net_list ids, struct net_list biases)
{
    s->n_biases = ids.n;
    for (uint32_t i = 0; i < ids.n; i++) {
        s->bias_ids[i] = net_i32_at(ids, i);
        s->biases[i] = net_f64_at(biases, i);
    }
}

static bool open_is_sound(const struct worker_core *c, const struct net_msg_OPEN *m)
{
    return m->slot < c->n_slots && m->request != 0 && m->tokens.n > 0 &&
           m->tokens.n <= c->context && m->start < m->tokens.n && m->end_position <= c->context &&
           m->ends.n <= WORKER_ENDS_MAX && biases_are_sound(m->bias_ids, m->biases, m->logprobs);
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
    a->peer = next_peer(c);
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
    if (m->epoch != c->plan.epoch || c->plan.epoch == 0 || c->broken || !is_first(c) || !leads(c)) {
        worker_core_log(out, "stale message=OPEN request=%llu", (unsigned long long)m->request);
        return;
    }
    if (!open_is_sound(c, m)) {
        worker_core_fail(c, out, m->request,
                         "the request does not fit the plan's slots or context");
        return;
    }
    slot_reset(c, m->slot);
    struct worker_slot *s = &c->slots[m->slot];
    s->prompt = base_alloc((size_t)m->tokens.n * sizeof *s->prompt);
    if (s->prompt == NULL) {
        worker_core_fail(c, out, m->request, "out of memory for the prompt on the first stage");
        return;
    }
    for (uint32_t i = 0; i < m->tokens.n; i++)
        s->prompt[i] = net_i32_at(m->tokens, i);
    s->request = m->request;
    s->flags = m->flags;
    s->n_prompt = m->tokens.n;
    s->next = m->start;
    s->end_position = m->end_position;
    s->sampling = SAMPLING_OF(m);
    take_biases(&s->sampling, m->bias_ids, m->biases);
    s->n_ends = m->ends.n;
    for (uint32_t i = 0; i < m->ends.n; i++)
        s->ends[i] = net_i32_at(m->ends, i);
    s->n_recent = m->tokens.n < MODEL_PENALTY_WINDOW ? m->tokens.n : MODEL_PENALTY_WINDOW;
    memcpy(s->recent, s->prompt + s->n_prompt - s->n_recent, s->n_recent * sizeof *s->recent);
    c->prompt_queue[c->n_prompt++] = m->slot;
    if (!is_last(c))
        send_ring_open(c, m->slot, out);
}

static void on_ring_open(struct worker_core *c, const struct net_msg_RING_OPEN *m,
                         struct worker_actions *out)
{
    if (m->slot >= c->n_slots || m->request == 0 || m->end_position > c->context ||
        !biases_are_sound(m->bias_ids, m->biases, m->logprobs))
        return;
    slot_reset(c, m->slot);
    struct worker_slot *s = &c->slots[m->slot];
    s->request = m->request;
    s->flags = m->flags;
    s->n_prompt = m->n_prompt;
    s->end_position = m->end_position;
    s->sampling = SAMPLING_OF(m);
    take_biases(&s->sampling, m->bias_ids, m->biases);
    s->n_ends = m->ends.n;
    for (uint32_t i = 0; i < m->ends.n; i++)
        s->ends[i] = net_i32_at(m->ends, i);
    s->n_recent = m->recent.n;
    for (uint32_t i = 0; i < m->recent.n; i++)
        s->recent[i] = net_i32_at(m->recent, i);
    if (!is_last(c))
        send_ring_open(c, m->slot, out);
}

static void close_slot(struct worker_core *c, uint64_t request, uint32_t slot,
                       struct worker_actions *out)
{
    if (slot_of(c, slot, request) != NULL)
        slot_reset(c, slot);
    if (is_last(c))
        return;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_RING);
    a->peer = next_peer(c);
    a->msg.code = NET_MSG_RING_CLOSE;
    a->msg.u.RING_CLOSE = (struct net_msg_RING_CLOSE){c->plan.epoch, request, slot};
}

void worker_core_close(struct worker_core *c, const struct net_msg_CLOSE *m,
                       struct worker_actions *out)
{
    if (m->epoch == c->plan.epoch && c->plan.epoch != 0 && !c->broken && is_first(c) && leads(c))
        close_slot(c, m->request, m->slot, out);
}

/* ---- rows that arrive ------------------------------------------------------------------------ */

/* A slot's next decode row waits from now on. */
static void decode_wait(struct worker_core *c, uint32_t slot, uint32_t position, int32_t token)
{
    struct worker_slot *s = &c->slots[slot];
    assert(!s->waiting);
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
        struct worker_slot *s = slot_of(c, slot, net_u64_at(m->requests, i));
        if (s == NULL || s->waiting || position >= c->context)
            continue;
        decode_wait(c, slot, position, 0);
        keep(out, WORKER_FROM_DECODE, slot, i, 1);
    }
}

static void send_started(struct worker_core *c, struct worker_actions *out)
{
    if (is_first(c))
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
        struct worker_slot *s = slot_of(c, slot, net_u64_at(m->requests, i));
        if (s != NULL && !s->waiting && s->prompt == NULL && position < c->context)
            decode_wait(c, slot, position, net_i32_at(m->tokens, i));
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
           m->kind <= 1;
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
    if (!leads(c)) {
        worker_core_log(out, "unexpected message=%s peer=%s", net_msg_name(m->code), peer);
        return;
    }
    const bool from_previous = !is_first(c) && strcmp(peer, c->plan.ring[c->plan.stage - 1]) == 0;
    const bool from_last = strcmp(peer, c->plan.ring[c->plan.n_stages - 1]) == 0;
    if (m->code == NET_MSG_RING_OPEN && from_previous)
        on_ring_open(c, &m->u.RING_OPEN, out);
    else if (m->code == NET_MSG_RING_CLOSE && from_previous)
        close_slot(c, m->u.RING_CLOSE.request, m->u.RING_CLOSE.slot, out);
    else if (m->code == NET_MSG_ROWS && from_previous && rows_are_sound(c, &m->u.ROWS)) {
        if (m->u.ROWS.kind == 0)
            on_decode_rows(c, &m->u.ROWS, out);
        else
            on_prompt_rows(c, peer, &m->u.ROWS, out);
    } else if (m->code == NET_MSG_RING_TOKENS && is_first(c) && from_last &&
               lists_match(&m->u.RING_TOKENS))
        on_ring_tokens(c, &m->u.RING_TOKENS);
    else if (m->code == NET_MSG_STARTED && is_first(c))
        on_started(c, peer, &m->u.STARTED);
    else
        worker_core_log(out, "unexpected message=%s peer=%s", net_msg_name(m->code), peer);
}

/* ---- building a pass ------------------------------------------------------------------------- */

static void fill_row(struct worker_core *c, struct worker_pass_row *r, uint32_t slot,
                     uint32_t position, int32_t token, enum worker_from from, uint32_t index)
{
    const struct worker_slot *s = &c->slots[slot];
    r->row = (struct model_row){slot, position, token, false};
    r->request = s->request;
    r->from = from;
    r->index = index;
    r->summarise = is_last(c) && (s->flags & 1) != 0;
    r->sample = is_last(c) && (s->flags & 1) == 0 && position + 1 >= s->n_prompt &&
                position + 1 < s->end_position;
    if (r->sample) {
        r->sampling = s->sampling;
        r->n_recent = s->n_recent;
        memcpy(r->recent, s->recent, s->n_recent * sizeof *s->recent);
    }
}

static void take_decode(struct worker_core *c, uint32_t limit)
{
    const uint32_t n = c->n_decode < limit ? c->n_decode : limit;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t slot = c->decode_queue[i];
        struct worker_slot *s = &c->slots[slot];
        s->waiting = false;
        fill_row(c, &c->pass->rows[i], slot, s->position, s->token,
                 is_first(c) ? WORKER_FROM_TOKEN : WORKER_FROM_DECODE, slot);
    }
    memmove(c->decode_queue, c->decode_queue + n, (c->n_decode - n) * sizeof *c->decode_queue);
    c->n_decode -= n;
    c->pass->n = c->pass->n_decode = n;
}

/* Prompt rows that may still leave the first stage before some later stage has max(2, k) chunks to
 * come. */
static uint64_t credit(const struct worker_core *c)
{
    uint64_t least = UINT64_MAX, gone = c->dropped;
    for (uint32_t k = 1; k < c->plan.n_stages; k++) {
        const uint64_t bound = (uint64_t)(k > 2 ? k : 2) * c->plan.chunk;
        const uint64_t coming =
            c->taken - gone > c->stage_taken[k] ? c->taken - gone - c->stage_taken[k] : 0;
        const uint64_t left = bound > coming ? bound - coming : 0;
        least = left < least ? left : least;
        gone += c->stage_dropped[k];
    }
    return least;
}

/* First stage: rows of the prompts that wait, oldest first. */
static void take_prompts(struct worker_core *c, uint32_t limit)
{
    uint64_t pending = 0;
    for (uint32_t i = 0; i < c->n_prompt; i++)
        pending += c->slots[c->prompt_queue[i]].n_prompt - c->slots[c->prompt_queue[i]].next;
    uint32_t n = pending < limit ? (uint32_t)pending : limit;
    if (credit(c) < n)
        return;
    for (; n > 0; n--) {
        const uint32_t slot = c->prompt_queue[0];
        struct worker_slot *s = &c->slots[slot];
        fill_row(c, &c->pass->rows[c->pass->n++], slot, s->next, s->prompt[s->next],
                 WORKER_FROM_TOKEN, slot);
        c->taken++;
        if (++s->next == s->n_prompt) {
            base_free(s->prompt);
            s->prompt = NULL;
            queue_remove(c->prompt_queue, &c->n_prompt, slot);
        }
    }
}

/* Later stages: rows that came, in order; those of closed requests give their credit back and are
 * gone. */
static void take_ring(struct worker_core *c, uint32_t limit)
{
    for (uint32_t n = 0; n < limit && c->ring_n > 0;) {
        const uint32_t index = c->ring_head;
        const struct worker_prompt_row *p = &c->ring[index];
        c->ring_head = (c->ring_head + 1) % c->ring_cap;
        c->ring_n--;
        c->taken++;
        if (slot_of(c, p->slot, p->request) == NULL || p->position >= c->context) {
            c->dropped++;
            continue;
        }
        fill_row(c, &c->pass->rows[c->pass->n++], p->slot, p->position, 0, WORKER_FROM_PROMPT,
                 index);
        n++;
    }
}

void worker_core_pump(struct worker_core *c, struct worker_actions *out)
{
    if (c->plan.epoch == 0 || c->broken || c->computing ||
        (c->n_decode == 0 && c->n_prompt == 0 && c->ring_n == 0))
        return;
    const uint32_t max = c->id.rows_max != 0 && c->id.rows_max < c->plan.max_rows
                             ? c->id.rows_max
                             : c->plan.max_rows;
    const uint64_t taken = c->taken;
    c->pass = c->pass == &c->passes[0] ? &c->passes[1] : &c->passes[0];
    /* Decode rows go first, but where they alone fill every pass (only the test knob makes passes
     * so small) every second pass is the prompts'. */
    const bool prompts = c->n_prompt > 0 || c->ring_n > 0;
    take_decode(c, c->starved && prompts ? max - 1 : max);
    c->starved = prompts && c->pass->n == max;
    const uint32_t room = max - c->pass->n, limit = room < c->plan.chunk ? room : c->plan.chunk;
    if (is_first(c))
        take_prompts(c, limit);
    else
        take_ring(c, limit);
    if (c->taken != taken)
        send_started(c, out);
    if (c->pass->n == 0) /* no prompt row could go after all */
        take_decode(c, max);
    if (c->pass->n == 0)
        return;
    c->pass->epoch = c->plan.epoch;
    c->pass->lost[0] = 0;
    c->computing = true;
    worker_core_act(out, WORKER_ACT_PASS)->pass = c->pass;
}

/* ---- a pass is done -------------------------------------------------------------------------- */

/* Why a row cannot go on, where that is so. */
static void fail_bad(struct worker_core *c, const struct worker_pass_row *r, uint32_t bad,
                     struct worker_actions *out)
{
    if (bad == 0 || bad > c->n_layers)
        worker_core_fail(c, out, r->request,
                         "value out of range in the output matrix at position %u", r->row.position);
    else
        worker_core_fail(c, out, r->request, "value out of range in layer %u at position %u",
                         bad - 1, r->row.position);
}

/* Rows that a value out of range has spoiled end their request here. Its later rows lack what those
 * should have left in the KV cache, so they go no further either, nor do rows of a request that was
 * closed meanwhile. */
static void drop_bad(struct worker_core *c, struct worker_pass *pass, struct worker_actions *out)
{
    const uint64_t dropped = c->dropped;
    for (uint32_t i = 0; i < pass->n; i++) {
        struct worker_pass_row *r = &pass->rows[i];
        const bool live = slot_of(c, r->row.slot, r->request) != NULL;
        if (live && pass->bad[i] == 0 && !(r->sample && pass->tokens[i] < 0))
            continue;
        if (live) {
            fail_bad(c, r, pass->bad[i], out);
            slot_reset(c, r->row.slot);
        }
        r->request = 0;
        if (i >= pass->n_decode)
            c->dropped++;
    }
    if (c->dropped != dropped)
        send_started(c, out);
}

static void send_rows(struct worker_core *c, struct worker_pass *pass, uint32_t kind,
                      uint32_t first, uint32_t end, struct worker_actions *out)
{
    uint32_t n = 0;
    for (uint32_t i = first; i < end; i++)
        if (pass->rows[i].request != 0)
            c->rows[kind][n++] = i;
    if (n == 0)
        return;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_SEND_ROWS);
    a->peer = next_peer(c);
    a->epoch = pass->epoch;
    a->rows_kind = kind;
    a->rows = c->rows[kind];
    a->n_rows = n;
    a->pass = pass;
}

static void remember_token(struct worker_slot *s, int32_t token)
{
    if (s->n_recent == MODEL_PENALTY_WINDOW)
        memmove(s->recent, s->recent + 1, --s->n_recent * sizeof *s->recent);
    s->recent[s->n_recent++] = token;
}

static bool is_end(const struct worker_slot *s, int32_t token)
{
    for (uint32_t i = 0; i < s->n_ends; i++)
        if (s->ends[i] == token)
            return true;
    return false;
}

/* They reach the coordinator before the token they belong to. */
static void send_logprobs(struct worker_core *c, const struct worker_pass *pass, uint32_t row,
                          struct worker_actions *out)
{
    const struct worker_pass_row *r = &pass->rows[row];
    const struct model_logprobs *p = &pass->logprobs[row];
    struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
    a->msg.code = NET_MSG_LOGPROBS;
    a->msg.u.LOGPROBS = (struct net_msg_LOGPROBS){c->plan.epoch,
                                                  r->request,
                                                  r->row.position + 1,
                                                  p->chosen,
                                                  net_list_i32(p->ids, p->n_best),
                                                  net_list_f64(p->best, p->n_best)};
}

/* The last stage: report the tokens, and send those that go on to the first stage. */
static void send_tokens(struct worker_core *c, struct worker_pass *pass, struct worker_actions *out)
{
    uint32_t n = 0, again = 0;
    for (uint32_t i = 0; i < pass->n; i++) {
        const struct worker_pass_row *r = &pass->rows[i];
        struct worker_slot *s = slot_of(c, r->row.slot, r->request);
        if (s == NULL)
            continue;
        if (r->summarise) {
            struct worker_action *a = worker_core_act(out, WORKER_ACT_LOGITS);
            a->pass = pass;
            a->from_row = i;
        }
        if (!r->sample)
            continue;
        const uint32_t position = r->row.position + 1;
        const int32_t token = pass->tokens[i];
        if (r->sampling.logprobs != 0)
            send_logprobs(c, pass, i, out);
        net_put_u64(c->list64[0], n, r->request);
        net_put_u32(c->list32[0], n, position);
        net_put_u32(c->list32[1], n++, (uint32_t)token);
        remember_token(s, token);
        if (is_end(s, token) || position + 1 >= s->end_position)
            continue;
        if (is_first(c)) {
            decode_wait(c, r->row.slot, position, token);
            continue;
        }
        net_put_u64(c->list64[1], again, r->request);
        net_put_u32(c->list32[2], again, r->row.slot);
        net_put_u32(c->list32[3], again, position);
        net_put_u32(c->list32[4], again++, (uint32_t)token);
    }
    if (again > 0) {
        struct worker_action *a = worker_core_act(out, WORKER_ACT_RING);
        a->peer = c->plan.ring[0];
        a->msg.code = NET_MSG_RING_TOKENS;
        a->msg.u.RING_TOKENS = (struct net_msg_RING_TOKENS){c->plan.epoch,
                                                            {c->list64[1], again},
                                                            {c->list32[2], again},
                                                            {c->list32[3], again},
                                                            {c->list32[4], again}};
    }
    if (n > 0) {
        struct worker_action *a = worker_core_act(out, WORKER_ACT_CONTROL);
        a->msg.code = NET_MSG_TOKENS;
        a->msg.u.TOKENS = (struct net_msg_TOKENS){
            c->plan.epoch, {c->list64[0], n}, {c->list32[0], n}, {c->list32[1], n}};
    }
}

void worker_core_pass_done(struct worker_core *c, struct worker_pass *pass,
                           struct worker_actions *out)
{
    assert(c->computing && pass == c->pass);
    c->computing = false;
    if (pass->epoch != c->plan.epoch || c->broken)
        return;
    if (pass->lost[0] != 0) {
        worker_core_link_lost(c, out, pass->lost, pass->reason);
        return;
    }
    drop_bad(c, pass, out);
    if (is_last(c)) {
        send_tokens(c, pass, out);
        return;
    }
    send_rows(c, pass, 0, 0, pass->n_decode, out);
    send_rows(c, pass, 1, pass->n_decode, pass->n, out);
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
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        waiting += c->slots[i].waiting ? 1u : 0u;
        if (c->slots[i].waiting && (c->slots[i].request == 0 || c->slots[i].prompt != NULL))
            return "a decode row waits in a slot that is free or still reads its prompt";
    }
    return waiting == c->n_decode ? NULL : "the decode queue and the slots disagree";
}
