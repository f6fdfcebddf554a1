/* The worker core: what a pass is made of, and what follows from it.
 *
 * A stage takes all that waits for it as one batch: decode rows first, each slot having at most
 * one, then prompt rows up to the plan's chunk (continuous batching). But the first stage divides
 * decode rows into the plan's groups, and lets a group go only while fewer are on their way: rows that
 * travel together would do so for ever, with one stage at work at a time, and rows that each travel
 * alone would have the weights read for each. So every board works on another group (recurrent
 * pipeline; Macario et al. 2025, MDI-LLM). Behind the first stage, groups that wait for the same
 * board become one batch. The last stage samples; it stops by itself at the text's end, the token limit or the
 * context, and the coordinator closes the slot.
 *
 * Where the output matrix stands on the first stage, that one samples. A row that has come back is
 * then the beginning of the next token's: one pass samples and runs that token through the first
 * stage's layers, so a token costs as many passes as anywhere. It is reported once the pass is done.
 * Rows of logits requests come between decode and prompt rows, and make room for new prompt rows.
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
    /* Of output on the first stage: rows that begin here have not left the last layer. */
    const bool logits = worker_core_has_output(c) && worker_slot_wants_logits(s, position) &&
                        (from != WORKER_FROM_TOKEN || worker_core_is_last(c));
    r->row = (struct model_row){slot, position, token, false};
    r->request = s->request;
    r->from = from;
    r->index = index;
    r->summarise = logits && (s->flags & 1) != 0;
    r->sample = logits && !r->summarise;
    if (r->sample) {
        r->sampling = s->sampling;
        r->end_position = s->end_position;
        r->n_recent = s->n_recent;
        r->n_ends = s->n_ends;
        memcpy(r->recent, s->recent, s->n_recent * sizeof *s->recent);
        memcpy(r->ends, s->ends, s->n_ends * sizeof *s->ends);
    }
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* A group's share of the requests that decode, and where `prompts` of those that will as well. */
static uint32_t group_share(const struct worker_core *c, bool prompts)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        const struct worker_slot *s = &c->slots[i];
        n += s->request != 0 && (prompts || s->prompt == NULL) && (s->flags & 1) == 0 ? 1 : 0;
    }
    return (n + c->plan.groups - 1) / c->plan.groups;
}

/* The group in which the first stage lets decode rows go now; 0 while as many are on their way as the
 * plan has. */
static uint32_t next_group(const struct worker_core *c)
{
    uint64_t away = 0;
    uint32_t group = 1;
    for (uint32_t i = 0; i < c->n_slots; i++)
        away |= UINT64_C(1) << c->slots[i].group;
    while ((away >> group & 1) != 0)
        group++;
    return group <= c->plan.groups ? group : 0;
}

static void take_decode(struct worker_core *c, uint32_t limit)
{
    const bool token = worker_core_is_first(c) && !c->plan.output_first;
    uint32_t n = least(c->n_decode, limit), group = 0;
    if (worker_core_is_first(c) && c->plan.n_stages > 1) {
        group = next_group(c);
        n = group != 0 ? least(n, group_share(c, false)) : 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t slot = c->decode_queue[i];
        struct worker_slot *s = &c->slots[slot];
        s->waiting = false;
        s->group = group;
        fill_row(c, &c->pass->rows[i], slot, s->position, s->token,
                 token ? WORKER_FROM_TOKEN : WORKER_FROM_DECODE, slot);
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

/* First stage: rows of the prompts that wait, oldest first. Those that end in one pass decode
 * together, so no more than a group's share do: as when all requests go on under a new plan. */
static void take_prompts(struct worker_core *c, uint32_t limit)
{
    const uint32_t share = group_share(c, true);
    uint32_t n = 0, away = 0; /* of them, rows that come back and wait in the ring */
    for (uint32_t i = 0, ends = 0; i < c->n_prompt && n < limit; i++) {
        const struct worker_slot *s = &c->slots[c->prompt_queue[i]];
        const uint32_t all = s->n_prompt - s->next, take = all < limit - n ? all : limit - n;
        ends += take == all && (s->flags & 1) == 0 ? 1 : 0;
        if (ends > share)
            break;
        n += take;
        away += c->plan.output_first && (s->flags & 1) != 0 ? take : 0;
    }
    if (credit(c) < n || away > c->ring_cap - c->ring_n - c->n_away)
        return;
    c->n_away += away;
    for (; n > 0; n--) {
        const uint32_t slot = c->prompt_queue[0];
        struct worker_slot *s = &c->slots[slot];
        s->away += c->plan.output_first && (s->flags & 1) != 0 ? 1 : 0;
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

/* Rows that came, in order; those of closed requests give their credit back and are gone. */
static void take_ring(struct worker_core *c, uint32_t limit)
{
    const bool back = worker_core_is_first(c); /* their credit is room in the ring */
    for (uint32_t n = 0; n < limit && c->ring_n > 0;) {
        const uint32_t index = c->ring_head;
        const struct worker_prompt_row *p = &c->ring[index];
        c->ring_head = (c->ring_head + 1) % c->ring_cap;
        c->ring_n--;
        c->taken += back ? 0 : 1;
        if (worker_core_slot_of(c, p->slot, p->request) == NULL || p->position >= c->context) {
            c->dropped += back ? 0 : 1;
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
    take_ring(c, least(max - c->pass->n, c->plan.chunk));
    c->pass->n_back = worker_core_is_first(c) ? c->pass->n - c->pass->n_decode : 0;
    if (worker_core_is_first(c))
        take_prompts(c, least(max - c->pass->n, c->plan.chunk));
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
        worker_core_fail(c, out, r->request, r->row.position,
                         "value out of range in the output matrix at position %u", r->row.position);
    else
        worker_core_fail(c, out, r->request, r->row.position,
                         "value out of range in layer %u at position %u", bad - 1, r->row.position);
}

/* The row, or the token that is chosen at it, could not be computed. */
static bool failed(const struct worker_pass *pass, uint32_t i)
{
    return pass->rows[i].sample ? pass->tokens[i] < 0 : pass->bad[i] != 0;
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
        if (r->request == 0 || (live && !failed(pass, i)))
            continue;
        if (live) {
            fail_bad(c, r, pass->bad[i], out);
            worker_core_slot_reset(c, r->row.slot);
        }
        r->request = 0;
        if (i >= pass->n_decode + pass->n_back)
            c->dropped++;
    }
    if (c->dropped != dropped)
        worker_core_send_started(c, out);
}

static void send_rows(struct worker_core *c, struct worker_pass *pass, uint32_t kind,
                      const uint32_t *rows, uint32_t n, struct worker_actions *out)
{
    if (n == 0)
        return;
    struct worker_action *a = worker_core_act(out, WORKER_ACT_SEND_ROWS);
    a->peer = kind == 2 ? c->plan.ring[0] : worker_core_next(c);
    a->epoch = pass->epoch;
    a->rows_kind = kind;
    a->rows = rows;
    a->n_rows = n;
    a->pass = pass;
}

/* To the next stage: rows whose request lives. */
static void send_on(struct worker_core *c, struct worker_pass *pass, struct worker_actions *out)
{
    uint32_t n[2] = {0, 0};
    for (uint32_t i = 0; i < pass->n; i++) {
        const bool back = i >= pass->n_decode && i < pass->n_decode + pass->n_back;
        const uint32_t kind = i < pass->n_decode ? 0 : 1;
        if (pass->rows[i].request != 0 && !back)
            c->rows[kind][n[kind]++] = i;
    }
    for (uint32_t kind = 0; kind < 2; kind++)
        send_rows(c, pass, kind, c->rows[kind], n[kind], out);
}

/* The last stage, where the output is on the first: rows that logits are made of. */
static void send_back(struct worker_core *c, struct worker_pass *pass, struct worker_actions *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < pass->n; i++) {
        const struct worker_pass_row *r = &pass->rows[i];
        if (r->request != 0 && worker_slot_wants_logits(&c->slots[r->row.slot], r->row.position))
            c->rows[0][n++] = i;
    }
    send_rows(c, pass, 2, c->rows[0], n, out);
}

static void remember_token(struct worker_slot *s, int32_t token)
{
    if (s->n_recent == MODEL_PENALTY_WINDOW)
        memmove(s->recent, s->recent + 1, --s->n_recent * sizeof *s->recent);
    s->recent[s->n_recent++] = token;
}

bool worker_pass_goes_on(const struct worker_pass_row *r, int32_t token)
{
    for (uint32_t i = 0; i < r->n_ends; i++)
        if (r->ends[i] == token)
            return false;
    return r->row.position + 2 < r->end_position;
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

/* A token with which the text goes on: its row waits here, or has run in this pass already. True: it
 * is to be sent to the first stage. */
static bool go_on(struct worker_core *c, struct worker_pass_row *r, int32_t token)
{
    const uint32_t position = r->row.position + 1;
    if (c->plan.output_first) {
        r->row = (struct model_row){r->row.slot, position, token, false};
        r->sample = false;
    } else if (worker_core_is_first(c) && worker_slot_may_wait(&c->slots[r->row.slot])) {
        worker_core_decode_wait(c, r->row.slot, position, token);
    }
    return !worker_core_is_first(c);
}

/* Where the output is: report the tokens, and see to those that go on. */
static void send_tokens(struct worker_core *c, struct worker_pass *pass, struct worker_actions *out)
{
    uint32_t n = 0, again = 0;
    for (uint32_t i = 0; i < pass->n; i++) {
        struct worker_pass_row *r = &pass->rows[i];
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
        if (!worker_pass_goes_on(r, token)) {
            r->request = 0;
        } else if (go_on(c, r, token)) {
            net_put_u64(c->list64[1], again, r->request);
            net_put_u32(c->list32[2], again, r->row.slot);
            net_put_u32(c->list32[3], again, position);
            net_put_u32(c->list32[4], again++, (uint32_t)token);
        }
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
    if (worker_core_has_output(c)) {
        send_tokens(c, pass, out);
        drop_bad(c, pass, out); /* the tokens' own rows */
    }
    if (!worker_core_is_last(c))
        send_on(c, pass, out);
    else if (c->plan.output_first)
        send_back(c, pass, out);
}
