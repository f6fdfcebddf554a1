/* A pass carried out by a team (docs/teams.md).
 *
 * Each layer has two steps, attention and feed-forward. In a step every member that holds a part of
 * it computes its share of the sums, an integer for each value (docs/numerics.md, section 5), so
 * that shares may be added in any order, as they come, and give the bits of one process.
 *
 *   star   the leader sends normed rows to the members, adds up what they send back, and alone has
 *          the residual stream
 *   mesh   every member has the residual stream, sends its share to all others, and closes the step
 *          itself
 *
 * A long pass is cut into two groups of rows: while the sums of one travel, the other computes.
 * Rows do not depend on each other but through the KV cache, where the first group's are written
 * before the second one's attend, in every layer.
 *
 * Sums are told apart by a step's number counted over all passes. A member can be ahead of another
 * by the steps in which the other has no part: two at most, since whoever is in the exchange has a
 * part of one step in two. So the sums of three steps are kept. Everything a message says is checked
 * here; a member that says something else is lost, as is one that says nothing in time.
 *
 * Left out: which rows a pass has, and what follows from a loss; both are the core's. */
#include "worker/team.h"

#include <assert.h>
#include <string.h>

enum { ATTENTION, FEED_FORWARD, LOGIT_ROWS_MAX = 8 };
_Static_assert(WORKER_TEAM_GROUPS == 2, "a group is told by whether it begins with row 0");

/* Logits that the leader waits for. */
struct want_logits {
    uint32_t missing, n; /* members; rows */
    float *logits;       /* [n, n_vocab] */
    uint8_t *bad;        /* [n] */
};

/* ---- who holds what -------------------------------------------------------------------------- */

/* The leader of a mesh who has a part of neither half is taken to have one of the second, which is
 * zeros: others wait for it once a layer, and nobody gets far ahead of it. */
static bool holds(const struct worker_team *t, uint32_t i, uint32_t half)
{
    const uint32_t *b = half == ATTENTION ? t->heads : t->columns;
    if (t->mesh && i == 0 && half == FEED_FORWARD && t->heads[1] == 0 && t->columns[1] == 0)
        return true;
    return b[i] < b[i + 1];
}

/* In the exchange of sums at all: members that hold output only are not. */
static bool takes_part(const struct worker_team *t, uint32_t i)
{
    return i == 0 || holds(t, i, ATTENTION) || holds(t, i, FEED_FORWARD);
}

/* The other members that hold something of a step. */
static uint32_t others_of(const struct worker_team *t, uint32_t half)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < t->n; i++)
        if (i != t->me && holds(t, i, half))
            mask |= 1u << i;
    return mask;
}

static uint32_t n_steps(const struct worker_team_work *w)
{
    return 2 * w->n_layers;
}

static uint32_t group_first(const struct worker_team_work *w, uint32_t g)
{
    return w->n * g / w->n_groups;
}

static uint32_t group_rows(const struct worker_team_work *w, uint32_t g)
{
    return group_first(w, g + 1) - group_first(w, g);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t normed_row_bytes(const struct model *m)
{
    const uint32_t n = model_shape(m)->n_layers;
    size_t most = model_normed_bytes(m, MODEL_NORM_OUTPUT, n);
    for (uint32_t l = 0; l < n; l++)
        for (int half = MODEL_NORM_ATTENTION; half <= MODEL_NORM_FFN; half++) {
            const size_t bytes = model_normed_bytes(m, (enum model_norm)half, l);
            most = bytes > most ? bytes : most;
        }
    return most;
}

static size_t code_bytes(const struct model *m, const struct worker_team *t,
                         const struct model_exec_config *c)
{
    const uint32_t n = model_shape(m)->n_embd;
    const size_t sums = model_sums_bytes_max(c->max_rows, n, t->wire),
                 rows = model_rows_bytes(c->max_rows, n, t->wire);
    return sums > rows ? sums : rows;
}

static size_t part(size_t n, size_t bytes)
{
    return base_round_up(n * bytes, KERN_ALIGN);
}

size_t worker_team_bytes(const struct model *m, const struct worker_team *t,
                         const struct model_exec_config *c)
{
    const size_t rows = c->max_rows, width = model_shape(m)->n_embd;
    if (t->n < 2)
        return 0;
    return (1 + WORKER_TEAM_AHEAD) * part(rows * width, sizeof(int64_t)) +
           WORKER_TEAM_AHEAD * part(rows, sizeof(uint32_t)) + part(rows, normed_row_bytes(m)) +
           part(code_bytes(m, t, c), 1) + 2 * part(rows, sizeof(struct model_row)) +
           part(rows, sizeof(uint32_t)) + part(rows * width, sizeof(float));
}

void worker_team_init(struct worker_team_work *w, const struct model *m, const struct worker_team *t,
                      const struct model_slice *s, const struct model_exec_config *c,
                      struct base_arena *arena)
{
    const struct model_shape *shape = model_shape(m);
    const size_t rows = c->max_rows, width = shape->n_embd;
    *w = (struct worker_team_work){.team = *t,
                                   .model = m,
                                   .layer0 = s->layer0,
                                   .n_layers = s->layer1 - s->layer0,
                                   .n_embd = shape->n_embd,
                                   .n_vocab = shape->n_vocab,
                                   .vocab_run = shape->vocab_run,
                                   .max_rows = c->max_rows,
                                   .n_slots = c->n_slots,
                                   .context = c->context,
                                   .normed_bytes = (uint32_t)normed_row_bytes(m)};
    if (t->n < 2)
        return;
    for (int i = 0; i < WORKER_TEAM_AHEAD; i++) {
        w->sum[i] = base_arena_take(arena, rows * width * sizeof(int64_t));
        w->sum_bad[i] = base_arena_take(arena, rows * sizeof(uint32_t));
        memset(w->sum[i], 0, rows * width * sizeof(int64_t));
        memset(w->sum_bad[i], 0, rows * sizeof(uint32_t));
    }
    w->mine = base_arena_take(arena, rows * width * sizeof(int64_t));
    w->normed = base_arena_take(arena, rows * w->normed_bytes);
    w->code = base_arena_take(arena, code_bytes(m, t, c));
    w->rows = base_arena_take(arena, rows * sizeof *w->rows);
    w->next_rows = base_arena_take(arena, rows * sizeof *w->next_rows);
    w->bad = base_arena_take(arena, rows * sizeof *w->bad);
    w->next_hidden = base_arena_take(arena, rows * width * sizeof(float));
}

/* ---- losing a member ------------------------------------------------------------------------- */

static bool lose(struct worker_team_work *w, uint32_t member, const char *why)
{
    snprintf(w->lost->name, sizeof w->lost->name, "%s", w->team.names[member]);
    snprintf(w->lost->reason, sizeof w->lost->reason, "%.199s", why);
    return false;
}

static bool send(struct worker_team_work *w, uint32_t member, const struct net_msg *m)
{
    struct err e = {0};
    return worker_exchange_send(w->exchange, member, m, &e) == 0 || lose(w, member, e.text);
}

static bool send_to(struct worker_team_work *w, uint32_t mask, const struct net_msg *m)
{
    for (uint32_t i = 0; i < w->team.n; i++)
        if ((mask >> i & 1) != 0 && !send(w, i, m))
            return false;
    return true;
}

/* ---- what arrives ---------------------------------------------------------------------------- */

/* Rows of a message, counted from 0, into flags[n]. */
static bool mark_bad(struct net_list bad, uint32_t n, uint8_t *flags)
{
    for (uint32_t i = 0; i < bad.n; i++) {
        if (net_u32_at(bad, i) >= n)
            return false;
        flags[net_u32_at(bad, i)] = 1;
    }
    return true;
}

/* Add encoded sums of rows [first, first + n) to those of a step. */
static bool add_bytes(struct worker_team_work *w, uint32_t slot, uint32_t first, uint32_t n,
                      uint32_t step, struct span bytes)
{
    return model_sums_add(bytes, n, w->n_embd, w->team.wire, 1 + w->layer0 + step / 2,
                          w->sum[slot] + (size_t)first * w->n_embd, w->sum_bad[slot] + first);
}

static bool add_sum(struct worker_team_work *w, uint32_t from, const struct net_msg_TEAM_SUM *m)
{
    const uint32_t g = m->first == 0 ? 0 : 1;
    const uint64_t step = (m->pass - 1) * n_steps(w) + m->step;
    const uint32_t slot = (uint32_t)(step % WORKER_TEAM_AHEAD);
    uint32_t *got = &w->got[slot][g];
    if (m->pass == 0 || m->step >= n_steps(w) || step < w->at[g] ||
        step - w->at[g] >= WORKER_TEAM_AHEAD || !holds(&w->team, from, m->step % 2) ||
        (*got >> from & 1) != 0)
        return lose(w, from, "it sent sums that are not due");
    if (m->n == 0 || m->n > w->max_rows || m->first > w->max_rows - m->n ||
        !add_bytes(w, slot, m->first, m->n, m->step, m->sum))
        return lose(w, from, "it sent sums that are malformed");
    *got |= 1u << from;
    return true;
}

static bool take_pass(struct worker_team_work *w, const struct net_msg_TEAM_PASS *m)
{
    const uint32_t n = m->slots.n;
    if (w->pending || m->pass != w->pass + 1 || n == 0 || n > w->max_rows || m->positions.n != n)
        return lose(w, 0, "it began a pass that makes no sense");
    if (w->team.mesh && !model_rows_decode(m->hidden, n, w->n_embd, w->team.wire, w->next_hidden))
        return lose(w, 0, "it sent hidden states that are malformed");
    for (uint32_t i = 0; i < n; i++) {
        w->next_rows[i] = (struct model_row){net_u32_at(m->slots, i), net_u32_at(m->positions, i), 0,
                                             false};
        if (w->next_rows[i].slot >= w->n_slots || w->next_rows[i].position >= w->context)
            return lose(w, 0, "it began a pass with rows out of range");
    }
    w->next_n = n;
    w->pending = true;
    return true;
}

static bool take_logits(struct worker_team_work *w, uint32_t from, const struct net_msg_TEAM_LOGITS *m,
                        struct want_logits *want)
{
    const uint32_t col = w->team.runs[from] * w->vocab_run;
    uint32_t end = w->team.runs[from + 1] * w->vocab_run;
    end = end < w->n_vocab ? end : w->n_vocab;
    const size_t row = (end - col) * sizeof(float);
    if (want == NULL || (want->missing >> from & 1) == 0 || m->pass != w->pass || m->n != want->n ||
        m->logits.len != m->n * row || !mark_bad(m->bad, m->n, want->bad))
        return lose(w, from, "it sent logits that are not due");
    for (uint32_t t = 0; t < m->n; t++)
        memcpy(want->logits + (size_t)t * w->n_vocab + col, m->logits.ptr + t * row, row);
    want->missing &= ~(1u << from);
    return true;
}

/* ---- what the leader asks for ---------------------------------------------------------------- */

static uint32_t list_bad(const uint32_t *bad, uint32_t n, uint8_t *list)
{
    uint32_t k = 0;
    for (uint32_t t = 0; t < n; t++)
        if (bad[t] != 0)
            net_put_u32(list, k++, t);
    return k;
}

/* Encode and send our share of a step of rows [first, first + n), which stands in `mine`. */
static bool send_sum(struct worker_team_work *w, uint32_t mask, uint32_t step, uint32_t first,
                     uint32_t n, struct span *sent)
{
    const size_t bytes =
        model_sums_encode(w->mine, n, w->n_embd, w->team.wire, w->bad + first, w->code);
    const struct net_msg m = {
        .code = NET_MSG_TEAM_SUM,
        .u.TEAM_SUM = {w->team.epoch, w->pass, step, first, n, {w->code, bytes}}};
    *sent = (struct span){w->code, bytes};
    return send_to(w, mask, &m);
}

static void compute_normed(struct worker_team_work *w, uint32_t step, uint32_t first, uint32_t n,
                           const uint8_t *normed)
{
    const uint32_t layer = w->layer0 + step / 2;
    memset(w->mine, 0, (size_t)n * w->n_embd * sizeof *w->mine);
    if (step % 2 == ATTENTION)
        model_exec_attention_normed(w->exec, layer, w->rows + first, n, normed, w->mine,
                                    w->bad + first);
    else
        model_exec_ffn_normed(w->exec, layer, n, normed, w->mine, w->bad + first);
}

/* Logits of our runs, for rows that the leader has normed. */
static bool answer_logits(struct worker_team_work *w, const struct net_msg_TEAM_ROWS *m)
{
    const uint32_t layer = model_shape(w->model)->n_layers, me = w->team.me;
    const uint32_t col = w->team.runs[me] * w->vocab_run;
    uint32_t end = w->team.runs[me + 1] * w->vocab_run, bad[LOGIT_ROWS_MAX] = {0};
    uint8_t list[LOGIT_ROWS_MAX * 4];
    end = end < w->n_vocab ? end : w->n_vocab;
    if (col >= end || m->n == 0 || m->n > LOGIT_ROWS_MAX ||
        m->normed.len != m->n * model_normed_bytes(w->model, MODEL_NORM_OUTPUT, layer))
        return lose(w, 0, "it asked for logits that are not here");
    model_exec_logits_normed(w->exec, m->n, m->normed.ptr, w->logits, bad);
    for (uint32_t t = 0; t < m->n; t++)
        memmove(w->logits + (size_t)t * (end - col), w->logits + (size_t)t * w->n_vocab + col,
                (end - col) * sizeof(float));
    const struct net_msg answer = {
        .code = NET_MSG_TEAM_LOGITS,
        .u.TEAM_LOGITS = {w->team.epoch, m->pass, m->first, m->n, {list, list_bad(bad, m->n, list)},
                          {(const uint8_t *)w->logits, m->n * (size_t)(end - col) * sizeof(float)}}};
    return send(w, 0, &answer);
}

/* Our share of a step, for rows that the leader has normed. */
static bool answer_rows(struct worker_team_work *w, const struct net_msg_TEAM_ROWS *m)
{
    const uint32_t half = m->step % 2, layer = w->layer0 + m->step / 2;
    const enum model_norm norm = half == ATTENTION ? MODEL_NORM_ATTENTION : MODEL_NORM_FFN;
    struct span sent;
    if (m->step == n_steps(w))
        return answer_logits(w, m);
    if (w->team.mesh || m->pass != w->pass || m->step > n_steps(w) || m->n == 0 || m->n > w->n ||
        m->first > w->n - m->n || !holds(&w->team, w->team.me, half) ||
        m->normed.len != m->n * model_normed_bytes(w->model, norm, layer))
        return lose(w, 0, "it sent rows that are not due");
    compute_normed(w, m->step, m->first, m->n, m->normed.ptr);
    return send_sum(w, 1, m->step, m->first, m->n, &sent);
}

/* ---- one message ------------------------------------------------------------------------------ */

static bool take_message(struct worker_team_work *w, const struct worker_exchange_event *ev,
                         struct want_logits *want)
{
    switch ((int)ev->msg->code) {
    case NET_MSG_TEAM_JOIN:
        return true;
    case NET_MSG_TEAM_SUM:
        return add_sum(w, ev->from, &ev->msg->u.TEAM_SUM);
    case NET_MSG_TEAM_PASS:
        if (ev->from == 0)
            return take_pass(w, &ev->msg->u.TEAM_PASS);
        break;
    case NET_MSG_TEAM_ROWS:
        if (ev->from == 0)
            return answer_rows(w, &ev->msg->u.TEAM_ROWS);
        break;
    case NET_MSG_TEAM_LOGITS:
        return take_logits(w, ev->from, &ev->msg->u.TEAM_LOGITS, want);
    default:
        break;
    }
    return lose(w, ev->from, "it sent a message that is not its place to send");
}

/* Wait for one message and take it. False: somebody is lost, or (nobody's name) the plan is over.
 * `waiting` is the member to blame for silence. */
static bool take_one(struct worker_team_work *w, uint32_t waiting, struct want_logits *want)
{
    struct worker_exchange_event ev;
    char why[80];
    switch (worker_exchange_next(w->exchange, (int)w->team.silent_ms, &ev)) {
    case WORKER_EXCHANGE_OVER:
        return false;
    case WORKER_EXCHANGE_LOST:
        return lose(w, ev.from, ev.why);
    case WORKER_EXCHANGE_TIMEOUT:
        snprintf(why, sizeof why, "it said nothing for %u ms in a pass", w->team.silent_ms);
        return lose(w, waiting, why);
    case WORKER_EXCHANGE_MESSAGE:
        break;
    }
    return take_message(w, &ev, want);
}

static uint32_t lowest(uint32_t mask)
{
    uint32_t i = 0;
    while ((mask >> i & 1) == 0)
        i++;
    return i;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* What others sent was checked one by one; a wrapped sum of nonsense is nonsense as well. */
static void add(int64_t *to, const int64_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (int64_t)((uint64_t)to[i] + (uint64_t)from[i]);
}

static void close_step(struct worker_team_work *w, uint32_t step, uint32_t first, uint32_t n,
                       const int64_t *sum)
{
    float *hidden = w->hidden + (size_t)first * w->n_embd;
    (step % 2 == ATTENTION ? model_exec_attention_close : model_exec_ffn_close)(
        w->exec, w->layer0 + step / 2, n, sum, hidden, w->bad + first);
}

/* Wait until all shares of group g's next step are there, and put them into the residual stream. */
static bool settle(struct worker_team_work *w, uint32_t step, uint32_t g)
{
    const uint32_t slot = (uint32_t)(w->at[g] % WORKER_TEAM_AHEAD);
    const uint32_t others = others_of(&w->team, step % 2);
    const uint32_t first = group_first(w, g), n = group_rows(w, g);
    int64_t *sum = w->sum[slot] + (size_t)first * w->n_embd;
    uint32_t *bad = w->sum_bad[slot] + first;
    while ((w->got[slot][g] & others) != others)
        if (!take_one(w, lowest(others & ~w->got[slot][g]), NULL))
            return false;
    for (uint32_t t = 0; t < n; t++)
        if (w->bad[first + t] == 0)
            w->bad[first + t] = bad[t];
    close_step(w, step, first, n, sum);
    memset(sum, 0, (size_t)n * w->n_embd * sizeof *sum);
    memset(bad, 0, n * sizeof *bad);
    w->got[slot][g] = 0;
    w->at[g]++;
    /* A pass of one group takes the other's count along. */
    if (w->n_groups == 1)
        w->at[1] = w->at[0];
    return true;
}

static void compute(struct worker_team_work *w, uint32_t step, uint32_t first, uint32_t n,
                    int64_t *sum)
{
    const float *hidden = w->hidden + (size_t)first * w->n_embd;
    const uint32_t layer = w->layer0 + step / 2;
    if (step % 2 == ATTENTION)
        model_exec_attention(w->exec, layer, w->rows + first, n, hidden, sum, w->bad + first);
    else
        model_exec_ffn(w->exec, layer, n, hidden, sum, w->bad + first);
}

/* Sums of group g's step that is due. */
static int64_t *sums_due(struct worker_team_work *w, uint32_t g)
{
    return w->sum[w->at[g] % WORKER_TEAM_AHEAD] + (size_t)group_first(w, g) * w->n_embd;
}

static uint32_t mesh_peers(const struct worker_team *t)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < t->n; i++)
        if (i != t->me && takes_part(t, i))
            mask |= 1u << i;
    return mask;
}

static bool mesh_step(struct worker_team_work *w, uint32_t step, uint32_t g)
{
    const uint32_t first = group_first(w, g), n = group_rows(w, g);
    struct span sent;
    if (!holds(&w->team, w->team.me, step % 2))
        return true;
    memset(w->mine, 0, (size_t)n * w->n_embd * sizeof *w->mine);
    compute(w, step, first, n, w->mine);
    if (!send_sum(w, mesh_peers(&w->team), step, first, n, &sent))
        return false;
    /* As the others see it, so that all go on from the same bits where the form rounds, too. */
    return add_bytes(w, (uint32_t)(w->at[g] % WORKER_TEAM_AHEAD), first, n, step, sent) ||
           lose(w, w->team.me, "the sums do not fit");
}

static bool star_step(struct worker_team_work *w, uint32_t step, uint32_t g)
{
    const uint32_t first = group_first(w, g), n = group_rows(w, g), half = step % 2;
    const uint32_t others = others_of(&w->team, half), layer = w->layer0 + step / 2;
    const enum model_norm norm = half == ATTENTION ? MODEL_NORM_ATTENTION : MODEL_NORM_FFN;
    if (others == 0) {
        compute(w, step, first, n, sums_due(w, g));
        return true;
    }
    model_exec_norm(w->exec, norm, layer, n, w->hidden + (size_t)first * w->n_embd, w->normed,
                    w->bad + first);
    const struct net_msg m = {
        .code = NET_MSG_TEAM_ROWS,
        .u.TEAM_ROWS = {w->team.epoch, w->pass, step, first, n,
                        {w->normed, n * model_normed_bytes(w->model, norm, layer)}}};
    if (!send_to(w, others, &m))
        return false;
    if (holds(&w->team, w->team.me, half)) {
        compute_normed(w, step, first, n, w->normed);
        add(sums_due(w, g), w->mine, (size_t)n * w->n_embd);
    }
    return true;
}

/* All steps of the pass, for whoever has the residual stream. */
static bool run_steps(struct worker_team_work *w)
{
    for (uint32_t step = 0; step < n_steps(w); step++)
        for (uint32_t g = 0; g < w->n_groups; g++)
            if ((step > 0 && !settle(w, step - 1, g)) ||
                !(w->team.mesh ? mesh_step(w, step, g) : star_step(w, step, g)))
                return false;
    for (uint32_t g = 0; g < w->n_groups; g++)
        if (!settle(w, n_steps(w) - 1, g))
            return false;
    return true;
}

static void begin_pass(struct worker_team_work *w, uint32_t n)
{
    w->pass++;
    w->n = n;
    w->n_groups = n >= WORKER_TEAM_GROUPS * WORKER_TEAM_GROUP_ROWS ? WORKER_TEAM_GROUPS : 1;
}

/* ---- the leader ------------------------------------------------------------------------------ */

static bool begin_team(struct worker_team_work *w)
{
    if (!w->begun)
        worker_exchange_begin(w->exchange, &w->team);
    w->begun = true;
    for (uint32_t i = 1; i < w->team.n; i++)
        while (!worker_exchange_joined(w->exchange, i))
            if (!take_one(w, i, NULL))
                return false;
    return true;
}

static bool announce_pass(struct worker_team_work *w)
{
    static uint8_t slots[MODEL_ROWS_MAX * 4], positions[MODEL_ROWS_MAX * 4];
    const size_t bytes = w->team.mesh ? model_rows_bytes(w->n, w->n_embd, w->team.wire) : 0;
    for (uint32_t i = 0; i < w->n; i++) {
        net_put_u32(slots, i, w->rows[i].slot);
        net_put_u32(positions, i, w->rows[i].position);
    }
    if (bytes > 0)
        model_rows_encode(w->hidden, w->n, w->n_embd, w->team.wire, w->code);
    const struct net_msg m = {.code = NET_MSG_TEAM_PASS,
                              .u.TEAM_PASS = {w->team.epoch, w->pass, {slots, w->n},
                                              {positions, w->n}, {w->code, bytes}}};
    /* Where the form rounds, the leader goes on from what the members see. */
    if (bytes > 0)
        (void)model_rows_decode((struct span){w->code, bytes}, w->n, w->n_embd, w->team.wire,
                                w->hidden);
    return send_to(w, mesh_peers(&w->team), &m);
}

bool worker_team_lead(struct worker_team_work *w, const struct model_row *rows, uint32_t n,
                      float *hidden, uint32_t *bad, struct worker_lost *lost)
{
    w->lost = lost;
    w->hidden = hidden;
    memcpy(w->rows, rows, n * sizeof *rows);
    memcpy(w->bad, bad, n * sizeof *bad);
    if (!begin_team(w))
        return false;
    begin_pass(w, n);
    if (!announce_pass(w) || !run_steps(w))
        return false;
    memcpy(bad, w->bad, n * sizeof *bad);
    return true;
}

bool worker_team_logits(struct worker_team_work *w, uint32_t n, const float *hidden, float *logits,
                        uint32_t *bad, struct worker_lost *lost)
{
    const uint32_t step = n_steps(w), layer = model_shape(w->model)->n_layers;
    uint8_t flags[LOGIT_ROWS_MAX] = {0};
    struct want_logits want = {.n = n, .logits = logits, .bad = flags};
    assert(n <= LOGIT_ROWS_MAX);
    w->lost = lost;
    if (!begin_team(w))
        return false;
    for (uint32_t i = 1; i < w->team.n; i++)
        if (w->team.runs[i] < w->team.runs[i + 1])
            want.missing |= 1u << i;
    model_exec_norm(w->exec, MODEL_NORM_OUTPUT, layer, n, hidden, w->normed, bad);
    const struct net_msg m = {
        .code = NET_MSG_TEAM_ROWS,
        .u.TEAM_ROWS = {w->team.epoch, w->pass, step, 0, n,
                        {w->normed, n * model_normed_bytes(w->model, MODEL_NORM_OUTPUT, layer)}}};
    if (!send_to(w, want.missing, &m))
        return false;
    if (w->team.runs[0] < w->team.runs[1])
        model_exec_logits_normed(w->exec, n, w->normed, logits, bad);
    while (want.missing != 0)
        if (!take_one(w, lowest(want.missing), &want))
            return false;
    for (uint32_t t = 0; t < n; t++)
        if (flags[t] != 0 && bad[t] == 0)
            bad[t] = 1 + layer;
    return true;
}

/* ---- a member -------------------------------------------------------------------------------- */

/* The pass that is pending begins. */
static bool member_pass(struct worker_team_work *w)
{
    w->pending = false;
    begin_pass(w, w->next_n);
    memcpy(w->rows, w->next_rows, w->n * sizeof *w->rows);
    memset(w->bad, 0, w->n * sizeof *w->bad);
    if (!w->team.mesh)
        return true;
    memcpy(w->hidden, w->next_hidden, (size_t)w->n * w->n_embd * sizeof(float));
    return run_steps(w);
}

void worker_team_serve(struct worker_team_work *w, struct worker_served *served,
                       struct worker_lost *lost)
{
    enum { LOOK_MS = 1000 };
    struct worker_exchange_event ev;
    w->lost = lost;
    worker_exchange_begin(w->exchange, &w->team);
    for (;;) {
        const enum worker_exchange_end end = worker_exchange_next(w->exchange, LOOK_MS, &ev);
        if (end == WORKER_EXCHANGE_TIMEOUT)
            continue;
        if (end == WORKER_EXCHANGE_LOST)
            (void)lose(w, ev.from, ev.why);
        if (end != WORKER_EXCHANGE_MESSAGE)
            return;
        const double t = base_clock_s();
        atomic_store(&served->working, true);
        bool good = take_message(w, &ev, NULL);
        while (good && w->pending) {
            good = member_pass(w);
            atomic_fetch_add(&served->passes, 1);
        }
        atomic_fetch_add(&served->busy_us, (uint64_t)((base_clock_s() - t) * 1e6));
        atomic_store(&served->working, false);
        if (!good)
            return;
    }
}
