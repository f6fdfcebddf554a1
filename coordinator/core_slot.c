/* The coordinator core: which request has which slot, and which KV rows a free slot still holds.
 *
 * A slot keeps its KV rows after an answer. What they were made of is remembered here, and a
 * request that begins with the same ids starts behind them: a conversation's second turn does not
 * read the first again. A row's bits depend on the tokens up to it and on nothing else
 * (docs/numerics.md), so the answer is the same.
 *
 * Which rows are there: those before a position whose token, or logits, have come back from the
 * last stage, since they have passed every stage, and those that the request found when it was
 * opened. Rows of it that are still on their way lie at or behind that position and are run or
 * dropped before the next request's first row, which overwrites them. The invariant: a slot
 * remembers at most this, only while it is free, and only under the plan in force. Whatever ends
 * the plan or replays requests forgets everything, but for rows that were moved to the plan that
 * follows, or can be had from what is left of one that broke (core_move.c, core_checkpoint.c): each
 * slot remembers its own, and the request that had it finds them there.
 *
 * Left out: copying rows from one slot to another, so two requests at a time share no prefix. */
#include "coordinator/core_private.h"

#include <string.h>

/* ---- what a slot remembers ------------------------------------------------------------------- */

static void forget(struct slot_rows *s)
{
    base_free(s->ids);
    *s = (struct slot_rows){0};
}

/* Without memory for it nothing is remembered, which costs time only. */
static void remember(struct coord_core *c, const struct request *r)
{
    struct slot_rows *s = &c->slot_rows[r->slot];
    s->left = ++c->left;
    s->ids = r->n_rows > 0 ? base_alloc(r->n_rows * sizeof *s->ids) : NULL;
    if (s->ids == NULL)
        return;
    memcpy(s->ids, r->tokens, r->n_rows * sizeof *s->ids);
    s->n = r->n_rows;
}

void coord_core_slot_leave(struct coord_core *c, struct request *r, struct coord_actions *out)
{
    if (r->state != REQ_ACTIVE)
        return;
    c->slot_request[r->slot] = 0;
    if (c->now.epoch == 0)
        return;
    remember(c, r);
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = c->now.plan.stages[0].members[0].device;
    a->msg = (struct net_msg){.code = NET_MSG_CLOSE, .u.CLOSE = {c->now.epoch, r->number, r->slot}};
}

void coord_core_slots_free(struct coord_core *c)
{
    for (uint32_t i = 0; i < MODEL_SLOTS_MAX; i++)
        forget(&c->slot_rows[i]);
}

void coord_core_slot_less(struct coord_core *c, uint32_t slot, uint32_t rows)
{
    struct slot_rows *s = &c->slot_rows[slot];
    if (rows < s->n)
        s->n = rows;
    if (s->n == 0)
        forget(s);
}

void coord_core_requeue(struct coord_core *c, const uint32_t rows[static MODEL_SLOTS_MAX])
{
    for (uint32_t i = 0; i < c->config.slots; i++) {
        if (c->slot_request[i] == 0) {
            coord_core_slot_less(c, i, rows[i]);
            continue;
        }
        struct request *r = &c->requests[c->slot_request[i] - 1];
        r->n_rows = rows[i];
        remember(c, r);
        r->state = REQ_QUEUED;
        r->fails = false;
        r->error[0] = 0;
        r->n_logits = 0;
        r->resumes = true;
        c->slot_request[i] = 0;
    }
}

/* ---- which slot a request gets --------------------------------------------------------------- */

/* Rows of the slot that the request can start behind. The last token is always run, for its logits;
 * a request for the logits of every position runs all. */
static uint32_t agreement(const struct slot_rows *s, const struct request *r)
{
    uint32_t n = 0;
    if ((r->flags & 1) != 0)
        return 0;
    while (n < s->n && n + 1 < r->n_tokens && s->ids[n] == r->tokens[n])
        n++;
    return n;
}

/* How much a slot suits: one that keeps more rows than it loses; then an empty one, so that two
 * conversations that merely begin alike do not drive each other out; then any. */
static int rank(const struct slot_rows *s, uint32_t same)
{
    if (same > 0 && same >= s->n - same)
        return 2;
    return s->n == 0 ? 1 : 0;
}

/* Is a slot with what it has in common with the request better than the other? Longest agreement
 * first, then what was left longest ago. */
static bool suits_better(const struct slot_rows *a, uint32_t same_a, const struct slot_rows *b,
                         uint32_t same_b)
{
    const int rank_a = rank(a, same_a), rank_b = rank(b, same_b);
    if (rank_a != rank_b)
        return rank_a > rank_b;
    return same_a != same_b ? same_a > same_b : a->left < b->left;
}

/* The free slot for a request; false: there is none. */
static bool choose_slot(const struct coord_core *c, const struct request *r, uint32_t *slot,
                        uint32_t *same)
{
    bool found = false;
    for (uint32_t i = 0; i < c->config.slots; i++) {
        if (c->slot_request[i] != 0 || coord_core_slot_moves(c, i) || coord_core_slot_copied(c, i))
            continue;
        const uint32_t n = agreement(&c->slot_rows[i], r);
        if (found && !suits_better(&c->slot_rows[i], n, &c->slot_rows[*slot], *same))
            continue;
        found = true;
        *slot = i;
        *same = n;
    }
    return found;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void send_open(struct coord_core *c, const struct request *r, struct coord_actions *out)
{
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = c->now.plan.stages[0].members[0].device;
    a->msg.code = NET_MSG_OPEN;
    a->msg.u.OPEN = (struct net_msg_OPEN){
        .epoch = c->now.epoch,
        .request = r->number,
        .slot = r->slot,
        .flags = r->flags,
        .start = r->n_rows,
        .end_position = r->end_position,
        .temperature = (double)r->sampling.temperature,
        .top_k = r->sampling.top_k,
        .top_p = (double)r->sampling.top_p,
        .min_p = (double)r->sampling.min_p,
        .repeat_penalty = (double)r->sampling.repeat_penalty,
        .seed = r->sampling.seed,
        .presence_penalty = (double)r->sampling.presence_penalty,
        .frequency_penalty = (double)r->sampling.frequency_penalty,
        .bias_ids = net_list_i32(r->sampling.bias_ids, r->sampling.n_biases),
        .biases = net_list_f64(r->sampling.biases, r->sampling.n_biases),
        .logprobs = r->sampling.logprobs,
        .ends = net_list_i32(c->model.ends, c->model.n_ends),
        .tokens = net_list_i32(r->tokens, r->n_tokens),
    };
}

static struct request *first_queued(struct coord_core *c)
{
    struct request *first = NULL;
    for (uint32_t i = 0; i < c->n_requests; i++)
        if (c->requests[i].state == REQ_QUEUED &&
            (first == NULL || c->requests[i].order < first->order))
            first = &c->requests[i];
    return first;
}

void coord_core_dispatch(struct coord_core *c, struct coord_actions *out)
{
    struct request *r;
    uint32_t slot = 0, same = 0;
    if (c->now.epoch == 0)
        return;
    while ((r = first_queued(c)) != NULL && choose_slot(c, r, &slot, &same)) {
        r->state = REQ_ACTIVE;
        r->slot = slot;
        const uint32_t known = same < r->n_prompt ? same : r->n_prompt;
        r->reused = r->number == 0 || known < r->reused ? known : r->reused;
        r->replays += r->number != 0 && same == 0 ? 1u : 0u;
        r->number = ++c->number;
        r->n_rows = same;
        r->first = same;
        c->slot_request[slot] = (uint32_t)(r - c->requests) + 1;
        forget(&c->slot_rows[slot]);
        coord_core_checkpoint_cut(c, slot, same);
        send_open(c, r, out);
    }
}

const char *coord_core_slot_invariant(const struct coord_core *c)
{
    for (uint32_t i = 0; i < MODEL_SLOTS_MAX; i++) {
        const struct slot_rows *s = &c->slot_rows[i];
        if (s->n == 0)
            continue;
        if (c->checkpoint.epoch == 0 || i >= c->config.slots || c->slot_request[i] != 0)
            return "a slot remembers KV rows that are not there any more";
        if (s->n > c->model.context || s->ids == NULL)
            return "a slot remembers more KV rows than it has";
    }
    return NULL;
}
