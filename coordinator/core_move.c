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
 * meanwhile, the new one is put in force at once.
 *
 * With `checkpoint` the rows of a plan that has broken are not given up either. Its workers have them
 * still, until another plan is in force, and those of a lost one are in a copy on another worker, up to
 * some position (core_checkpoint.c): one round takes them, nobody writing meanwhile, up to the
 * lowest position that all of the slot's can be had to. Where that fails, or nobody is heard, all is
 * computed again, as it is without `checkpoint`. */
#include "coordinator/core_private.h"

#include <string.h>

enum {
    ROUNDS_MAX = 6, /* rounds before the last; the rest is run again */
    FEW_ROWS = 4,   /* of each slot, that are not worth a round but the last */
    TOKENS_MS = 2000, /* how long the last round waits for tokens */
    SAVE_MS = 5000    /* silence in a round for what is left of a plan: it is not worth waiting for */
};

uint32_t coord_core_rows_there(const struct coord_core *c, uint32_t slot)
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
        rows += coord_core_rows_there(c, i);
    return rows > 0 ? rows / ((double)c->config.slots * c->model.context) : 0;
}

bool coord_core_slot_moves(const struct coord_core *c, uint32_t slot)
{
    return c->move.round > 0 && c->move.end[slot] > 0;
}

/* ---- who has what ---------------------------------------------------------------------------- */

void coord_core_kv_heads(const struct coord_core *c, const struct part_member *m, uint32_t *head0,
                         uint32_t *head1)
{
    coord_kv_heads(c->model.kv_share, c->model.unit_heads, m, head0, head1);
}

/* Who has a KV head of a stage's layers under the plan that rows are of: a member that is left, the
 * worker `node` itself where it can, so that a copy does for a message; or who has a copy of a lost
 * one's. NET_WORKERS_MAX: nobody. */
static uint32_t holder(const struct coord_core *c, uint32_t stage, uint32_t head, uint32_t node,
                       bool *copy)
{
    const struct part_stage *g = &c->now.plan.stages[stage];
    uint32_t who = NET_WORKERS_MAX;
    for (uint32_t i = 0; i < g->n_members; i++) {
        const uint32_t device = g->members[i].device;
        uint32_t a, b;
        coord_core_kv_heads(c, &g->members[i], &a, &b);
        if (a <= head && head < b && (c->checkpoint.gone >> device & 1) == 0 &&
            (who == NET_WORKERS_MAX || device == node))
            who = device;
    }
    *copy = who == NET_WORKERS_MAX;
    for (uint32_t i = 0; who == NET_WORKERS_MAX && i < c->config.n_workers; i++)
        if (coord_core_has_copy(c, i, stage, head))
            who = i;
    return who;
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

/* Parts that cover what the member of the plan that is ready holds: runs of heads of one holder. */
static void find_parts(const struct coord_core *c, const struct part_stage *to,
                       const struct part_member *m, struct parts *p)
{
    uint32_t head0, head1;
    coord_core_kv_heads(c, m, &head0, &head1);
    for (uint32_t s = 0; s < c->now.plan.n_stages; s++) {
        const struct part_stage *g = &c->now.plan.stages[s];
        const uint32_t layer0 = g->layer0 > to->layer0 ? g->layer0 : to->layer0;
        const uint32_t layer1 = g->layer1 < to->layer1 ? g->layer1 : to->layer1;
        for (uint32_t h = head0, next; layer0 < layer1 && h < head1; h = next) {
            bool copy, other;
            const uint32_t who = holder(c, s, h, m->device, &copy);
            next = h + 1;
            while (next < head1 && holder(c, s, next, m->device, &other) == who && other == copy)
                next++;
            if (who != NET_WORKERS_MAX)
                add_part(c, p, who, layer0, layer1, h, next);
        }
    }
}

/* ---- a plan that has broken ------------------------------------------------------------------ */

/* The first of the slot's rows that can be had from those who are left. */
static uint32_t rows_had(const struct coord_core *c, uint32_t slot, uint32_t n)
{
    for (uint32_t s = 0; s < c->now.plan.n_stages && n > 0; s++) {
        const struct part_stage *g = &c->now.plan.stages[s];
        uint32_t head1 = 0;
        for (uint32_t i = 0; i < g->n_members; i++) {
            uint32_t a, b;
            coord_core_kv_heads(c, &g->members[i], &a, &b);
            head1 = b > head1 ? b : head1;
        }
        for (uint32_t h = 0; h < head1; h++) {
            bool copy;
            const uint32_t who = holder(c, s, h, NET_WORKERS_MAX, &copy),
                           rows = who == NET_WORKERS_MAX ? 0 : c->checkpoint.of[who].rows[slot];
            n = copy && rows < n ? rows : n;
        }
    }
    return n;
}

/* The rounds of a plan that was about to be put in force have moved some already, and it will be in
 * this step. Otherwise only what a request waits for is worth a round. */
void coord_core_rows_left(struct coord_core *c, uint32_t rows[static MODEL_SLOTS_MAX])
{
    bool some = false;
    for (uint32_t i = 0; i < MODEL_SLOTS_MAX; i++) {
        rows[i] = 0;
        if (c->config.checkpoint == 0 || c->model.kv_share == 0 || i >= c->config.slots)
            continue;
        const uint32_t n = coord_core_rows_there(c, i);
        if (c->move.round > 0)
            rows[i] = c->move.held[i] < n ? c->move.held[i] : n;
        else if (c->slot_request[i] != 0)
            rows[i] = rows_had(c, i, n);
        some = some || rows[i] > 0;
    }
    if (!some)
        c->checkpoint.epoch = 0;
}

void coord_core_rows_fewer(struct coord_core *c)
{
    for (uint32_t i = 0; i < c->config.slots; i++)
        coord_core_slot_less(c, i, rows_had(c, i, c->slot_rows[i].n));
    c->move.saves = false;
}

bool coord_core_move_saves(const struct coord_core *c)
{
    return c->move.saves && c->now_ms - c->prepare_heard_ms <= SAVE_MS;
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
        .from = c->checkpoint.epoch,
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
        c->move.end[i] = coord_core_rows_there(c, i);
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
        if (coord_core_rows_there(c, i) > c->move.held[i] + few)
            return true;
    return false;
}

void coord_core_move_reset(struct coord_core *c)
{
    c->move.round = 0;
    c->move.saves = false;
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
    c->move.saves = c->now.epoch == 0;
    coord_core_checkpoint_stop(c);
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
    if (c->checkpoint.epoch == 0 || c->model.kv_share == 0 || c->move.state == MOVE_LAST)
        return false;
    if (c->now.epoch == 0)
        return c->move.round == 0 && rows_lack(c, 0) && begin_round(c, out);
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
