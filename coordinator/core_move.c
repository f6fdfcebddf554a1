/* The coordinator core: KV rows that go over to a new plan.
 *
 * When a plan is ready and another is in force, its workers first take the KV rows that their heads
 * and layers have there: INHERIT tells each who holds which part of its slice, and which rows of
 * which slots. That happens while the plan in force decodes; a second round, and a few more where
 * the first took long, take the rows that came meanwhile. The last one begins when tokens have just
 * come, so that COMMIT, right behind it, throws little away that is on its way round the ring. Each
 * request is opened anew behind the rows that all of its new plan's workers have, and runs the few
 * that lack: it pauses for about a pass. The bits are those of a text that was never moved, since a
 * row's are the same wherever it was computed (docs/numerics.md).
 *
 * Which rows may go: those that have passed every stage (request.n_rows, and what free slots
 * remember), which no pass writes any more. So that this stays true no request is given a slot whose
 * rows are on their way. A request that is in the middle of its prompt has none yet.
 *
 * A round that fails gives the new plan up, and the old one serves on. Where the old one breaks
 * meanwhile, the new one is put in force at once, and the rows are computed again: so are those of a
 * worker that was lost. */
#include "coordinator/core_private.h"

#include <string.h>

enum {
    ROUNDS_MAX = 6, /* rounds before the last; the rest is run again */
    FEW_ROWS = 4,   /* of each slot, that are not worth a round but the last */
    TOKENS_MS = 2000 /* how long the last round waits for tokens */
};

/* Rows of a slot that are known to be there under the plan in force. */
static uint32_t rows_there(const struct coord_core *c, uint32_t slot)
{
    if (c->slot_request[slot] == 0)
        return c->slot_rows[slot].n;
    const struct request *r = &c->requests[c->slot_request[slot] - 1];
    return (r->flags & 1) != 0 ? 0 : r->n_rows;
}

double coord_core_kv_filled(const struct coord_core *c)
{
    double rows = 0;
    for (uint32_t i = 0; i < c->config.slots; i++)
        rows += rows_there(c, i);
    return rows > 0 ? rows / ((double)c->config.slots * c->model.context) : 0;
}

bool coord_core_slot_moves(const struct coord_core *c, uint32_t slot)
{
    return c->move.round > 0 && c->move.end[slot] > 0;
}

uint32_t coord_core_moved_rows(const struct coord_core *c, uint32_t slot)
{
    return c->move.held[slot];
}

/* ---- who has what ---------------------------------------------------------------------------- */

/* KV heads that a member's query heads read; head0 == head1: none. */
static void kv_heads(const struct coord_core *c, const struct part_member *m, uint32_t *head0,
                     uint32_t *head1)
{
    const uint32_t share = c->model.kv_share, width = c->model.unit_heads;
    *head0 = m->head0 * width / share;
    *head1 = m->head0 < m->head1 ? (m->head1 * width - 1) / share + 1 : *head0;
}

struct parts {
    uint32_t n;
    uint8_t numbers[4][PART_DEVICES_MAX * sizeof(uint32_t)]; /* layer0, layer1, head0, head1 */
    struct base_buf *names;
};

static void add_part(const struct coord_core *c, struct parts *p, uint32_t node, uint32_t layer0,
                     uint32_t layer1, uint32_t head0, uint32_t head1)
{
    net_put_str(p->names, base_span_str(c->config.workers[node].name));
    net_put_u32(p->numbers[0], p->n, layer0);
    net_put_u32(p->numbers[1], p->n, layer1);
    net_put_u32(p->numbers[2], p->n, head0);
    net_put_u32(p->numbers[3], p->n, head1);
    p->n++;
}

/* Member i of old stage g, if it has any of the heads [*head0, head1) from *head0 on: adds its part,
 * and *head0 becomes what is left. */
static void take_from(const struct coord_core *c, struct parts *p, const struct part_stage *g,
                      uint32_t i, uint32_t layer0, uint32_t layer1, uint32_t *head0,
                      uint32_t head1)
{
    uint32_t a, b;
    kv_heads(c, &g->members[i], &a, &b);
    if (a > *head0 || b <= *head0)
        return;
    b = b < head1 ? b : head1;
    add_part(c, p, g->members[i].device, layer0, layer1, *head0, b);
    *head0 = b;
}

/* Who of old stage g has the KV heads [head0, head1) of the layers: the worker itself as far as it
 * can, so that a copy does for a message; then the others, whose heads ascend. */
static void parts_of_stage(const struct coord_core *c, struct parts *p, const struct part_stage *g,
                           uint32_t node, uint32_t layer0, uint32_t layer1, uint32_t head0,
                           uint32_t head1)
{
    uint32_t own0 = head1, own1 = head1;
    for (uint32_t i = 0; i < g->n_members; i++)
        if (g->members[i].device == node) {
            kv_heads(c, &g->members[i], &own0, &own1);
            own0 = own0 > head0 ? own0 : head0;
            own1 = own1 < head1 ? own1 : head1;
        }
    if (own0 >= own1)
        own0 = own1 = head1;
    else
        add_part(c, p, node, layer0, layer1, own0, own1);
    for (uint32_t i = 0; i < g->n_members && head0 < own0; i++)
        take_from(c, p, g, i, layer0, layer1, &head0, own0);
    head0 = own1;
    for (uint32_t i = 0; i < g->n_members && head0 < head1; i++)
        take_from(c, p, g, i, layer0, layer1, &head0, head1);
}

/* Parts that cover what the member of the plan that is ready holds. */
static void find_parts(const struct coord_core *c, const struct part_stage *to,
                       const struct part_member *m, struct parts *p)
{
    uint32_t head0, head1;
    kv_heads(c, m, &head0, &head1);
    for (uint32_t s = 0; s < c->now.plan.n_stages && head0 < head1; s++) {
        const struct part_stage *g = &c->now.plan.stages[s];
        const uint32_t layer0 = g->layer0 > to->layer0 ? g->layer0 : to->layer0;
        const uint32_t layer1 = g->layer1 < to->layer1 ? g->layer1 : to->layer1;
        if (layer0 < layer1)
            parts_of_stage(c, p, g, m->device, layer0, layer1, head0, head1);
    }
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static bool send_inherit(struct coord_core *c, const struct part_stage *to,
                         const struct part_member *m, uint32_t n_slots, struct coord_actions *out)
{
    static const struct net_list none;
    struct parts p = {.names = &c->names};
    c->names.len = 0;
    find_parts(c, to, m, &p);
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = m->device;
    a->msg.code = NET_MSG_INHERIT;
    a->msg.u.INHERIT = (struct net_msg_INHERIT){
        .epoch = c->next.epoch,
        .from = c->now.epoch,
        .round = c->move.round,
        .slots = {c->move.lists[0], n_slots},
        .first = {c->move.lists[1], n_slots},
        .end = {c->move.lists[2], n_slots},
        .donors = p.n > 0 ? (struct net_list){c->names.ptr, p.n} : none,
    };
    struct net_list *const lists[4] = {&a->msg.u.INHERIT.layer0, &a->msg.u.INHERIT.layer1,
                                       &a->msg.u.INHERIT.head0, &a->msg.u.INHERIT.head1};
    if (p.n == 0)
        return true;
    /* The names and numbers are read when the action is carried out, and the next worker's follow. */
    struct move_lists *keep = &c->move.of[m->device];
    keep->names.len = 0;
    base_buf_add(&keep->names, c->names.ptr, c->names.len);
    memcpy(keep->numbers, p.numbers, sizeof keep->numbers);
    a->msg.u.INHERIT.donors.ptr = keep->names.ptr;
    for (int i = 0; i < 4; i++)
        *lists[i] = (struct net_list){keep->numbers[i], p.n};
    return !keep->names.failed && !c->names.failed;
}

/* Which rows this round takes; returns the number of slots. */
static uint32_t choose_rows(struct coord_core *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->config.slots; i++) {
        c->move.end[i] = rows_there(c, i);
        if (c->move.end[i] <= c->move.held[i]) {
            c->move.end[i] = c->move.held[i];
            continue;
        }
        net_put_u32(c->move.lists[0], n, i);
        net_put_u32(c->move.lists[1], n, c->move.held[i]);
        net_put_u32(c->move.lists[2], n++, c->move.end[i]);
    }
    return n;
}

/* Does a slot have more rows than the new plan's workers, by more than `few`? */
static bool rows_lack(const struct coord_core *c, uint32_t few)
{
    for (uint32_t i = 0; i < c->config.slots; i++)
        if (rows_there(c, i) > c->move.held[i] + few)
            return true;
    return false;
}

void coord_core_move_reset(struct coord_core *c)
{
    c->move.round = 0;
    c->move.state = MOVE_ROUNDS;
    c->move.bytes = 0;
    memset(c->move.held, 0, sizeof c->move.held);
    memset(c->move.end, 0, sizeof c->move.end);
}

void coord_core_move_free(struct coord_core *c)
{
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        base_buf_deinit(&c->move.of[i].names);
}

static bool begin_round(struct coord_core *c, struct coord_actions *out)
{
    if (c->move.round++ == 0)
        c->move.begun_ms = c->now_ms;
    c->prepare_heard_ms = c->now_ms;
    const uint32_t n_slots = choose_rows(c);
    for (uint32_t s = 0; s < c->next.plan.n_stages; s++)
        for (uint32_t k = 0; k < c->next.plan.stages[s].n_members; k++) {
            const struct part_stage *g = &c->next.plan.stages[s];
            c->nodes[g->members[k].device].prepared = false;
            if (!send_inherit(c, g, &g->members[k], n_slots, out)) {
                coord_core_log(out, true, "move_failed reason=\"out of memory for lists\"");
                return false;
            }
        }
    return true;
}

bool coord_core_move_round(struct coord_core *c, struct coord_actions *out)
{
    if (c->move.round > 0)
        memcpy(c->move.held, c->move.end, sizeof c->move.held);
    if (c->now.epoch == 0 || c->model.kv_share == 0 || c->move.state == MOVE_LAST)
        return false;
    if (c->move.round < ROUNDS_MAX && rows_lack(c, c->move.round > 0 ? FEW_ROWS : 0))
        return begin_round(c, out);
    if (coord_core_n_active(c) == 0)
        return false;
    c->move.state = MOVE_WAITS;
    c->move.wait_ms = c->now_ms;
    return true;
}

bool coord_core_move_last(struct coord_core *c, bool tokens, struct coord_actions *out)
{
    if (c->move.state != MOVE_WAITS ||
        !(tokens || coord_core_n_active(c) == 0 || c->now_ms - c->move.wait_ms > TOKENS_MS))
        return true;
    c->move.state = MOVE_LAST;
    return rows_lack(c, 0) && begin_round(c, out);
}
