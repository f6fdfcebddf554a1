/* The coordinator core: copies of KV rows, for the case that a worker is lost.
 *
 * With `checkpoint` each worker of the plan in force that has KV heads is kept by another one: the next
 * in the order of stages and members that has memory to spare and keeps nobody yet. That one takes
 * the rows of each text up to the last multiple of `checkpoint`, from the worker itself, as a plan's
 * successor would (core_move.c, worker/core_move.c): CHECKPOINT names some rows of a slot, and
 * CHECKPOINTED says that they are there. Between two of them it rests nine times as long as the one
 * took, so that hidden states have the links. When the plan breaks, core_move.c names the copy as the
 * holder of what was lost.
 *
 * What may be copied is what may move: rows that have passed every stage, of a slot that is not
 * given to another request meanwhile. A copy is good up to `rows` of a slot. A slot that is opened for
 * another request behind some rows has the same ones up to there, and no more than that of the copy
 * counts then. So a copy never has rows of another text than the slot, whatever crosses on the way; that
 * is the invariant.
 *
 * Copies are the first to go where memory gets short: a worker keeps one only while what it could have
 * is enough for its plan and the copy. They go with the plan, of which another begins anew. Left out:
 * a copy of a copy; a worker outside the plan; prompts that are being read. */
#include "coordinator/core_private.h"

#include <string.h>

enum {
    WAIT_MS = 2000,          /* a plan that has just begun may be about to change again */
    CHOOSE_MS = 5000,        /* between two attempts to find keepers for those who have none */
    LATER_MS = 60000,        /* a worker that had to give a copy up keeps none for so long */
    SILENT_MS = 5000,        /* of a round: the copy is given up */
    REST = 9,
    ROUND_BYTES = 256 * 1024 /* of a round, about: a slot waits for its end */
};

void coord_core_checkpoint_begin(struct coord_core *c)
{
    c->checkpoint.epoch = c->now.epoch;
    c->checkpoint.gone = c->checkpoint.alone = 0;
    c->checkpoint.choose_ms = c->now_ms + WAIT_MS;
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        c->checkpoint.of[i] = (struct copy){.later_ms = c->checkpoint.of[i].later_ms};
}

void coord_core_checkpoint_stop(struct coord_core *c)
{
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        c->checkpoint.of[i].round = 0;
}

bool coord_core_slot_copied(const struct coord_core *c, uint32_t slot)
{
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        if (c->checkpoint.of[i].round != 0 && c->checkpoint.of[i].slot == slot)
            return true;
    return false;
}

void coord_core_checkpoint_cut(struct coord_core *c, uint32_t slot, uint32_t first)
{
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        if (c->checkpoint.of[i].rows[slot] > first)
            c->checkpoint.of[i].rows[slot] = first;
}

bool coord_core_has_copy(const struct coord_core *c, uint32_t node, uint32_t stage, uint32_t head)
{
    const struct copy *y = &c->checkpoint.of[node];
    return y->on && y->stage == stage && y->head0 <= head && head < y->head1 &&
           (c->checkpoint.gone >> node & 1) == 0;
}

const struct copy *coord_core_copy_of(const struct coord_core *c, uint32_t owner)
{
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        if (c->checkpoint.of[i].on && c->checkpoint.of[i].owner == owner)
            return &c->checkpoint.of[i];
    return NULL;
}

/* ---- who keeps whom -------------------------------------------------------------------------- */

/* Bytes of one position of the share. */
static size_t position_bytes(const struct coord_core *c, const struct copy *y)
{
    const struct part_stage *g = &c->now.plan.stages[y->stage];
    return c->model.kv_row_bytes * (g->layer1 - g->layer0) * (y->head1 - y->head0);
}

/* Could the worker have so many bytes beside what its plan takes? False where that is not known. */
static bool has_room(const struct coord_core *c, uint32_t node, double bytes)
{
    double usable;
    return coord_core_usable(c, node, &usable) &&
           usable - (double)c->nodes[node].planned_bytes >= bytes;
}

static bool keep(struct coord_core *c, uint32_t node, const struct copy *what,
                 struct coord_actions *out)
{
    const double bytes = (double)position_bytes(c, what) * c->config.slots * c->model.context;
    struct copy *y = &c->checkpoint.of[node];
    char text[24];
    if (y->on || node == what->owner || c->now_ms < y->later_ms || !has_room(c, node, bytes))
        return false;
    *y = *what;
    coord_core_log(out, false, "checkpoint name=%s keeper=%s bytes=\"%s\"",
                   c->config.workers[y->owner].name, c->config.workers[node].name,
                   base_bytes_text((uint64_t)bytes, text));
    return true;
}

/* The plan's workers in order, with what each has of the KV cache. */
static uint32_t list_shares(const struct coord_core *c, struct copy list[static NET_WORKERS_MAX])
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < c->now.plan.n_stages; s++)
        for (uint32_t k = 0; k < c->now.plan.stages[s].n_members; k++) {
            const struct part_member *m = &c->now.plan.stages[s].members[k];
            struct copy *y = &list[n++];
            *y = (struct copy){.on = true, .owner = m->device, .stage = s};
            coord_core_kv_heads(c, m, &y->head0, &y->head1);
        }
    return n;
}

static void choose(struct coord_core *c, struct coord_actions *out)
{
    struct copy list[NET_WORKERS_MAX];
    const uint32_t n = list_shares(c, list);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t owner = list[i].owner, bit = 1u << owner;
        bool kept = list[i].head0 == list[i].head1 || coord_core_copy_of(c, owner) != NULL;
        for (uint32_t d = 1; d < n && !kept; d++)
            kept = keep(c, list[(i + d) % n].owner, &list[i], out);
        if (!kept && (c->checkpoint.alone & bit) == 0)
            coord_core_log(out, false,
                           "checkpoint name=%s reason=\"no other worker has memory to spare for its "
                           "KV rows\"",
                           c->config.workers[owner].name);
        c->checkpoint.alone = kept ? c->checkpoint.alone & ~bit : c->checkpoint.alone | bit;
    }
}

static void give_up(struct coord_core *c, uint32_t node, const char *why, struct coord_actions *out)
{
    struct copy *y = &c->checkpoint.of[node];
    coord_core_log(out, false, "checkpoint name=%s given_up=%s reason=\"%s\"",
                   c->config.workers[y->owner].name, c->config.workers[node].name, why);
    *y = (struct copy){.later_ms = c->now_ms + LATER_MS};
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = node;
    a->msg.code = NET_MSG_CHECKPOINT;
    a->msg.u.CHECKPOINT = (struct net_msg_CHECKPOINT){.epoch = c->now.epoch,
                                                      .round = ++c->checkpoint.round,
                                                      .owner = base_span_str("")};
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/* The slot of which most rows lack; false: none lacks any. */
static bool choose_rows(const struct coord_core *c, struct copy *y)
{
    const size_t bytes = position_bytes(c, y);
    const uint32_t fit = bytes < ROUND_BYTES ? (uint32_t)(ROUND_BYTES / bytes) : 1;
    uint32_t most = 0;
    for (uint32_t i = 0; i < c->config.slots; i++) {
        const uint32_t there = coord_core_rows_there(c, i),
                       due = there - there % c->config.checkpoint;
        if (c->slot_request[i] == 0 || due <= y->rows[i] + most)
            continue;
        most = due - y->rows[i];
        y->slot = i;
        y->end = y->rows[i] + (most < fit ? most : fit);
    }
    return most > 0;
}

static void begin_round(struct coord_core *c, uint32_t node, struct coord_actions *out)
{
    struct copy *y = &c->checkpoint.of[node];
    const struct part_stage *g = &c->now.plan.stages[y->stage];
    if (!choose_rows(c, y))
        return;
    y->round = ++c->checkpoint.round;
    y->begun_ms = c->now_ms;
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = node;
    a->msg.code = NET_MSG_CHECKPOINT;
    a->msg.u.CHECKPOINT =
        (struct net_msg_CHECKPOINT){.epoch = c->now.epoch,
                                    .round = y->round,
                                    .begins = !y->begun,
                                    .owner = base_span_str(c->config.workers[y->owner].name),
                                    .layer0 = g->layer0,
                                    .layer1 = g->layer1,
                                    .head0 = y->head0,
                                    .head1 = y->head1,
                                    .slot = y->slot,
                                    .first = y->rows[y->slot],
                                    .end = y->end};
    y->begun = true;
}

void coord_core_checkpointed(struct coord_core *c, uint32_t node, const struct net_msg_CHECKPOINTED *m,
                             struct coord_actions *out)
{
    struct copy *y = &c->checkpoint.of[node];
    char why[301];
    if (m->epoch == 0 || m->epoch != c->now.epoch || y->round == 0 || m->round != y->round)
        return;
    if (m->reason.len > 0) {
        snprintf(why, sizeof why, "%.*s", (int)m->reason.len, (const char *)m->reason.ptr);
        give_up(c, node, why, out);
        return;
    }
    y->rows[y->slot] = y->end;
    y->round = 0;
    y->due_ms = c->now_ms + REST * (c->now_ms - y->begun_ms);
}

/* Bytes that the copy takes, about: rows of a text that ended are there until others take their
 * place. */
static double bytes_kept(const struct coord_core *c, const struct copy *y)
{
    double rows = 0;
    for (uint32_t i = 0; i < c->config.slots; i++)
        rows += y->rows[i];
    return rows * (double)position_bytes(c, y);
}

void coord_core_checkpoint_pump(struct coord_core *c, struct coord_actions *out)
{
    const bool wanted = c->config.checkpoint > 0 && c->model.kv_share > 0;
    if (c->now.epoch == 0)
        return;
    if (wanted && c->now_ms >= c->checkpoint.choose_ms && c->plan_state == PLAN_IDLE) {
        c->checkpoint.choose_ms = c->now_ms + CHOOSE_MS;
        choose(c, out);
    }
    for (uint32_t i = 0; i < c->config.n_workers; i++) {
        const struct copy *y = &c->checkpoint.of[i];
        double usable;
        if (!y->on)
            continue;
        if (!wanted)
            give_up(c, i, "the configuration does not ask for it any more", out);
        else if (c->plan_state == PLAN_IDLE && coord_core_usable(c, i, &usable) &&
                 !has_room(c, i, bytes_kept(c, y)))
            give_up(c, i, "memory runs short", out);
        else if (y->round != 0 && c->now_ms - y->begun_ms > SILENT_MS)
            give_up(c, i, "nothing is heard of it", out);
        else if (y->round == 0 && c->move.round == 0 && c->now_ms >= y->due_ms)
            begin_round(c, i, out);
    }
}
