/* The worker core: what a pass is made of, and what follows from it.
 *
 * A stage takes all that waits for it as one batch: decode rows first, each slot having at most
 * one, then prompt rows up to the plan's chunk (continuous batching). With fewer requests than
 * stages every board so works on another request (recurrent pipeline; Macario et al. 2025,
 * MDI-LLM). The last stage samples; it stops by itself at the text's end, the token limit or the
 * context, and the coordinator closes the slot.
 *
 * Of a team only the leader is here: it decides what a pass is made of, and the members carry it out
 * with it, out of sight of their cores (worker/team.c). A pass that a member did not carry out
 * breaks the ring like a link that breaks.
 *
 * Invariant: one pass at a time; a row of a request that has ended goes no further. Left out:
 * sampling itself (the shell's compute thread). */
#include "worker/core_private.h"

#include <assert.h>
#include <string.h>

/* ---- building a pass ------------------------------------------------------------------------- */

static void fill_row(struct worker_core *c, struct worker_pass_row *r, uint32_t slot,
                     uint32_t position, int32_t token, enum worker_from from, uint32_t index)
{
    const struct worker_slot *s = &c->slots[slot];
    r->row = (struct model_row){slot, position, token, false};
    r->request = s->request;
    r->from = from;
    r->index = index;
    r->summarise = worker_core_is_last(c) && (s->flags & 1) != 0;
    r->sample = worker_core_is_last(c) && (s->flags & 1) == 0 && position + 1 >= s->n_prompt &&
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
                 worker_core_is_first(c) ? WORKER_FROM_TOKEN : WORKER_FROM_DECODE, slot);
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
            worker_core_queue_remove(c->prompt_queue, &c->n_prompt, slot);
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
        if (worker_core_slot_of(c, p->slot, p->request) == NULL || p->position >= c->context) {
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
    if (worker_core_is_first(c))
        take_prompts(c, limit);
    else
        take_ring(c, limit);
    if (c->taken != taken)
        worker_core_send_started(c, out);
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
        const bool live = worker_core_slot_of(c, r->row.slot, r->request) != NULL;
        if (live && pass->bad[i] == 0 && !(r->sample && pass->tokens[i] < 0))
            continue;
        if (live) {
            fail_bad(c, r, pass->bad[i], out);
            worker_core_slot_reset(c, r->row.slot);
        }
        r->request = 0;
        if (i >= pass->n_decode)
            c->dropped++;
    }
    if (c->dropped != dropped)
        worker_core_send_started(c, out);
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
    a->peer = worker_core_next(c);
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
        struct worker_slot *s = worker_core_slot_of(c, r->row.slot, r->request);
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
        if (worker_core_is_first(c)) {
            worker_core_decode_wait(c, r->row.slot, position, token);
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
    if (worker_core_is_last(c)) {
        send_tokens(c, pass, out);
        return;
    }
    send_rows(c, pass, 0, 0, pass->n_decode, out);
    send_rows(c, pass, 1, pass->n_decode, pass->n, out);
}
