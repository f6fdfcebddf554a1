/* Good divisions of a team whose every division cannot be looked at.
 *
 * A half is over when its last member is, so units are handed out one at a time to the member that
 * would end first with one more (for equal units and one half that greedy is optimal: Ibaraki and
 * Katoh, "Resource Allocation Problems", 1988, ch. 5), each member up to the memory it has for the
 * layers asked about. Where memory binds, what heads may take of it is tried in several proportions,
 * and then single units, and heads against columns, are moved between members as long as that helps.
 * Several numbers of layers give several divisions: the more layers, the more memory and the less
 * speed decides. The first of the layers asked about stands for all of them. */
#include "partition/internal.h"

#include <string.h>

enum {
    LEVELS = 5,       /* numbers of layers asked about */
    CLIMBS_MAX = 400, /* moves that helped */
};

enum unit_kind { UNIT_HEAD, UNIT_FF, UNIT_RUN, UNIT_KINDS };

/* A half, or the output matrix, as units to hand out. */
struct dealing {
    const struct part_view *v;
    struct part_choice *c;
    enum unit_kind kind;
    struct part_pass pass;
    bool quick;                            /* as if no quota were spent */
    uint32_t layer, n_units, grain;        /* grain: units dealt at a time */
    uint64_t unit_bytes[PART_DEVICES_MAX]; /* of all the layers asked about, by member */
};

static double unit_seconds(const struct dealing *g, uint32_t k, uint32_t n)
{
    const struct part_problem *p = g->v->p;
    const uint32_t d = g->c->stage.members[k].device;
    const double rows = g->pass.rows;
    const double quick = g->quick ? part_throttle(&p->devices[d]) : 1.0;
    return g->kind == UNIT_HEAD ? quick * part_attn_seconds(p, d, g->layer, rows, 0, n)
           : g->kind == UNIT_FF ? quick * part_ff_seconds(p, d, g->layer, rows, n)
                                : n * part_time_at(p->devices[d].output, rows) / p->n_vocab_runs;
}

/* What each member's result needs beside its computing, where those in `has` take part. */
static void lags(const struct dealing *g, const bool *has, double *lag_s)
{
    const struct part_problem *p = g->v->p;
    struct part_team t = {.n = g->c->stage.n_members,
                          .shape = g->kind == UNIT_RUN ? PART_STAR : g->c->stage.shape};
    struct part_half h = {.rows_bytes = g->pass.rows * p->normed_bytes};
    for (uint32_t k = 0; k < t.n; k++) {
        t.members[k] = g->c->stage.members[k].device;
        h.has[k] = has[k];
        h.sum_bytes[k] =
            g->pass.rows * (g->kind == UNIT_RUN ? p->logits_bytes / t.n : p->sum_bytes);
    }
    part_half_lags(p, &t, &h, lag_s);
}

/* A member as the dealing sees it: n units last first_s + n * unit_s. */
struct taker {
    double first_s, unit_s;
    uint32_t least, most; /* units, in whole grains */
};

static uint32_t taken_by(const struct taker *t, double within_s, uint32_t grain)
{
    const double fit = t->unit_s > 0.0 ? (within_s - t->first_s) / t->unit_s * (1.0 + 1e-12)
                       : within_s >= t->first_s ? 1e9
                                                : 0.0;
    const uint32_t n = fit <= 0.0 ? 0 : fit >= t->most ? t->most : (uint32_t)fit / grain * grain;
    return n > t->least ? n : t->least;
}

static void fill_takers(const struct dealing *g, const bool *has, const uint64_t *room,
                        struct taker *t)
{
    double lag_s[PART_DEVICES_MAX];
    lags(g, has, lag_s);
    for (uint32_t k = 0; k < g->c->stage.n_members; k++) {
        const struct part_device *dev = &g->v->p->devices[g->c->stage.members[k].device];
        const int pin = g->kind == UNIT_HEAD ? dev->pin_heads : g->kind == UNIT_FF ? dev->pin_ff : -1;
        const double one_s = unit_seconds(g, k, 1), all_s = unit_seconds(g, k, g->n_units);
        const uint64_t fit = g->unit_bytes[k] > 0 ? room[k] / g->unit_bytes[k] : g->n_units;
        t[k].unit_s = g->n_units > 1 ? fmax(all_s - one_s, 0.0) / (g->n_units - 1) : 0.0;
        t[k].first_s = lag_s[k] + one_s - t[k].unit_s;
        t[k].most = !has[k]            ? 0
                    : fit < g->n_units ? (uint32_t)fit / g->grain * g->grain
                                       : g->n_units;
        t[k].least = 0;
        if (pin >= 0)
            t[k].least = t[k].most = (uint32_t)pin <= fit ? (uint32_t)pin : 0;
    }
}

/* Hand out the units: the least time in which all are taken, by bisection, and what is then taken too
 * much given back by who ends last. False where memory does not hold them. */
static bool deal_among(const struct dealing *g, const bool *has, const uint64_t *room,
                       uint32_t *count, double *last_s)
{
    const uint32_t n = g->c->stage.n_members;
    struct taker t[PART_DEVICES_MAX];
    uint64_t can = 0, sum = 0;
    double low = 0.0, high = 0.0;
    fill_takers(g, has, room, t);
    for (uint32_t k = 0; k < n; k++) {
        can += t[k].most;
        high = fmax(high, t[k].first_s + t[k].unit_s * t[k].most);
    }
    if (can < g->n_units)
        return false;
    for (int k = 0; k < 40 && high - low > 1e-7 * high; k++) {
        const double mid = low + (high - low) / 2.0;
        uint64_t taken = 0;
        for (uint32_t q = 0; q < n; q++)
            taken += taken_by(&t[q], mid, g->grain);
        if (taken >= g->n_units)
            high = mid;
        else
            low = mid;
    }
    for (uint32_t k = 0; k < n; k++)
        sum += count[k] = taken_by(&t[k], high, g->grain);
    while (sum > g->n_units) {
        uint32_t last = n;
        for (uint32_t k = 0; k < n; k++)
            if (count[k] > t[k].least &&
                (last == n || t[k].first_s + t[k].unit_s * count[k] >
                                  t[last].first_s + t[last].unit_s * count[last]))
                last = k;
        if (last == n)
            return false;
        const uint64_t over = sum - g->n_units;
        const uint32_t back = over < g->grain ? (uint32_t)over : g->grain;
        const uint32_t less =
            back < count[last] - t[last].least ? back : count[last] - t[last].least;
        count[last] -= less;
        sum -= less;
    }
    *last_s = 0.0;
    for (uint32_t k = 0; k < n; k++)
        if (count[k] > 0)
            *last_s = fmax(*last_s, t[k].first_s + t[k].unit_s * count[k]);
    return sum == g->n_units;
}

/* As above among the best set of takers: all, and then without those that got nothing or end
 * last. */
static bool deal(const struct dealing *g, uint64_t *room, uint32_t *count)
{
    const uint32_t n = g->c->stage.n_members;
    bool has[PART_DEVICES_MAX], any = false;
    uint32_t now[PART_DEVICES_MAX];
    double best_s = PART_NEVER, last_s;
    for (uint32_t k = 0; k < n; k++)
        has[k] = true;
    int worse = 0;
    for (uint32_t left = n; left > 0 && worse < 2; left--) {
        if (!deal_among(g, has, room, now, &last_s))
            break;
        worse = last_s < best_s ? 0 : worse + 1;
        if (last_s < best_s) {
            best_s = last_s;
            memcpy(count, now, n * sizeof *now);
            any = true;
        }
        uint32_t out = n;
        double most = -1.0;
        for (uint32_t k = 0; k < n; k++) {
            const double s = !has[k] ? -2.0 : now[k] == 0 ? 1e9 : unit_seconds(g, k, 1);
            if (s > most) {
                most = s;
                out = k;
            }
        }
        if (out == n)
            break;
        has[out] = false;
    }
    for (uint32_t k = 0; any && k < n; k++)
        room[k] -= count[k] * g->unit_bytes[k];
    return any;
}

static void set_counts(struct part_choice *c, enum unit_kind kind, const uint32_t *count)
{
    uint32_t at = 0;
    for (uint32_t k = 0; k < c->stage.n_members; k++) {
        struct part_member *m = &c->stage.members[k];
        const uint32_t to = at + count[k];
        if (kind == UNIT_HEAD) {
            m->head0 = at;
            m->head1 = to;
        } else if (kind == UNIT_FF) {
            m->ff0 = at;
            m->ff1 = to;
        } else {
            m->run0 = at;
            m->run1 = to;
        }
        at = to;
    }
}

/* A member that is best left without anything takes one unit of columns from whoever has most: it is
 * in the team, and where every device must work there may be no other team for it. */
static void use_idle(const struct part_stage *s, uint64_t *room, uint64_t unit_bytes,
                     uint32_t *count)
{
    for (uint32_t k = 0; k < s->n_members; k++) {
        const struct part_member *m = &s->members[k];
        uint32_t from = 0;
        if (count[k] > 0 || m->head0 < m->head1 || m->run0 < m->run1 || room[k] < unit_bytes)
            continue;
        for (uint32_t i = 1; i < s->n_members; i++)
            from = count[i] > count[from] ? i : from;
        if (count[from] < 2)
            continue;
        count[from]--;
        count[k]++;
        room[k] -= unit_bytes;
    }
}

static bool stage_fits(const struct part_view *v, const struct part_choice *c, uint32_t i,
                       uint32_t j)
{
    const struct part_problem *p = v->p;
    struct part_stage s = c->stage;
    s.layer0 = i;
    s.layer1 = j;
    for (uint32_t k = 0; k < s.n_members; k++) {
        const struct part_member *m = &s.members[k];
        if ((m->head1 == m->head0 && m->ff1 == m->ff0 && m->run1 == m->run0) ||
            !part_keeps_pins(&p->devices[m->device], m) ||
            part_member_memory(p, &s, k) > p->devices[m->device].memory_bytes)
            return false;
    }
    return true;
}

/* How to divide. */
struct way {
    uint32_t grain;               /* of head units */
    bool quick;                   /* as if no quota were spent */
    double heads_room, runs_room; /* of each member's memory, what these may take */
};

/* Divide for the layers [i, j). */
static bool divide(const struct part_view *v, struct part_choice *c, enum part_measure m,
                   uint32_t i, uint32_t j, struct way way)
{
    const struct part_problem *p = v->p;
    const uint32_t n = c->stage.n_members;
    uint64_t room[PART_DEVICES_MAX], some[PART_DEVICES_MAX], head = 0, ff = 0, common = 0;
    uint32_t count[PART_DEVICES_MAX] = {0};
    struct dealing g = {
        .v = v, .c = c, .pass = v->pass[m], .layer = i, .grain = 1, .quick = way.quick};
    for (uint32_t l = i; l < j; l++) {
        const struct part_layer *y = &p->layers[l];
        /* A KV head for every unit, or its share where units stay together. */
        head += y->head_bytes +
                (way.grain == 1
                     ? y->kv_bytes * part_kv_heads(p, 0, 1)
                     : (y->kv_bytes * part_kv_heads(p, 0, way.grain) + way.grain - 1) / way.grain);
        ff += y->ff_bytes;
        common += y->common_bytes;
    }
    for (uint32_t k = 0; k < n; k++)
        c->stage.members[k] = (struct part_member){.device = c->stage.members[k].device};
    struct part_stage s = c->stage;
    s.layer0 = s.layer1 = i;
    for (uint32_t k = 0; k < n; k++) {
        const uint64_t has = p->devices[s.members[k].device].memory_bytes;
        const uint64_t need =
            part_member_memory(p, &s, k) + common + (k == 0 && c->output ? p->output_bytes : 0);
        if (need > has)
            return false;
        room[k] = has - need;
    }
    if (c->output) {
        g.kind = UNIT_RUN;
        g.n_units = p->n_vocab_runs;
        for (uint32_t k = 0; k < n; k++) {
            g.unit_bytes[k] = p->run_bytes - (i == 0 && k == 0 ? p->shared_run_bytes : 0);
            some[k] = (uint64_t)((double)room[k] * way.runs_room);
        }
        if (!deal(&g, some, count))
            return false;
        for (uint32_t k = 0; k < n; k++)
            room[k] -= count[k] * g.unit_bytes[k];
        set_counts(c, UNIT_RUN, count);
    }
    g.kind = UNIT_HEAD;
    g.n_units = p->n_head_units;
    for (uint32_t k = 0; k < n; k++) {
        g.unit_bytes[k] = head;
        some[k] = (uint64_t)((double)room[k] * way.heads_room);
    }
    g.grain = way.grain;
    if (!deal(&g, some, count))
        return false;
    g.grain = 1;
    set_counts(c, UNIT_HEAD, count);
    for (uint32_t k = 0; k < n; k++) {
        room[k] -= count[k] * head;
        g.unit_bytes[k] = ff;
    }
    g.kind = UNIT_FF;
    g.n_units = p->n_ff_units;
    if (!deal(&g, room, count))
        return false;
    use_idle(&c->stage, room, ff, count);
    set_counts(c, UNIT_FF, count);
    return stage_fits(v, c, i, j);
}

/* ---- moving units ---------------------------------------------------------------------------- */

static double stage_cost(const struct part_view *v, const struct part_choice *c,
                         enum part_measure m, uint32_t i, uint32_t j)
{
    return part_stage_layer(v->p, &c->stage, i, v->pass[m]) * (j - i) +
           part_stage_output(v->p, &c->stage, v->pass[m]);
}

static uint32_t count_of(const struct part_member *m, enum unit_kind kind)
{
    return kind == UNIT_HEAD ? m->head1 - m->head0
           : kind == UNIT_FF ? m->ff1 - m->ff0
                             : m->run1 - m->run0;
}

/* Move `n` units of a kind from member a to b. */
static bool shift(struct part_choice *c, enum unit_kind kind, uint32_t a, uint32_t b, uint32_t n)
{
    uint32_t count[PART_DEVICES_MAX] = {0};
    for (uint32_t k = 0; k < c->stage.n_members; k++)
        count[k] = count_of(&c->stage.members[k], kind);
    if (count[a] < n)
        return false;
    count[a] -= n;
    count[b] += n;
    set_counts(c, kind, count);
    return true;
}

/* One move: some units of a kind from a to b, and in return some of the other kind back. */
static bool try_move(const struct part_view *v, struct part_choice *c, enum part_measure m,
                     uint32_t i, uint32_t j, enum unit_kind kind, uint32_t a, uint32_t b,
                     uint32_t n, uint32_t back, double *best)
{
    struct part_choice next = *c;
    if (!shift(&next, kind, a, b, n) ||
        (back > 0 && !shift(&next, kind == UNIT_HEAD ? UNIT_FF : UNIT_HEAD, b, a, back)) ||
        !stage_fits(v, &next, i, j))
        return false;
    const double s = stage_cost(v, &next, m, i, j);
    if (s >= *best * (1.0 - 1e-12))
        return false;
    *best = s;
    *c = next;
    return true;
}

static void climb(const struct part_view *v, struct part_choice *c, enum part_measure m, uint32_t i,
                  uint32_t j)
{
    const struct part_layer *y = &v->p->layers[i];
    const uint32_t n = c->stage.n_members;
    const double ratio = (double)y->head_bytes / fmax((double)y->ff_bytes, 1.0);
    const uint32_t swap = ratio < 1.0 ? 1 : ratio < 1000.0 ? (uint32_t)ceil(ratio) : 1000;
    double best = stage_cost(v, c, m, i, j);
    bool again = true;
    for (int moves = 0; again && moves < CLIMBS_MAX;) {
        again = false;
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < n; b++) {
                if (a == b)
                    continue;
                for (int kind = 0; kind < (c->output ? UNIT_KINDS : UNIT_RUN); kind++)
                    for (uint32_t step = 16; step > 0; step /= 2)
                        while (moves < CLIMBS_MAX && try_move(v, c, m, i, j, (enum unit_kind)kind,
                                                              a, b, step, 0, &best)) {
                            again = true;
                            moves++;
                        }
                while (moves < CLIMBS_MAX &&
                       (try_move(v, c, m, i, j, UNIT_HEAD, a, b, 1, swap, &best) ||
                        try_move(v, c, m, i, j, UNIT_FF, a, b, swap, 1, &best))) {
                    again = true;
                    moves++;
                }
            }
    }
}

/* The best of several ways to share memory between runs, heads and columns; `climbing` from each. */
static bool divide_best(const struct part_view *v, struct part_choice *c, enum part_measure m,
                        uint32_t i, uint32_t j, bool climbing)
{
    const struct part_problem *p = v->p;
    const double heads =
        (double)p->n_head_units * (double)p->layers[i].head_bytes +
        (double)part_kv_heads(p, 0, p->n_head_units) * (double)p->layers[i].kv_bytes;
    const double share =
        heads / fmax(heads + (double)p->n_ff_units * (double)p->layers[i].ff_bytes, 1.0);
    const double shares[] = {1.0, 1.1 * share, share, 0.9 * share};
    const double runs[] = {1.0, 0.5, 0.25};
    struct part_choice best = *c;
    double best_s = PART_NEVER;
    const uint32_t group = p->heads_per_kv / p->unit_heads;
    const uint32_t grains[2] = {1, group > 1 && group < p->n_head_units ? group : 1};
    const bool quota = part_any_quota(p);
    for (int q = 0; q < 4; q++) {
        struct way way = {.grain = grains[q % 2], .quick = q >= 2};
        bool roomy = false; /* memory is no matter */
        if ((q % 2 == 1 && grains[1] == 1) || (way.quick && !quota))
            continue;
        for (int r = 0; r < (c->output ? 3 : 1) && !roomy; r++)
            for (int k = 0; k < 4 && !roomy; k++) {
                way.heads_room = fmin(shares[k], 1.0);
                way.runs_room = runs[r];
                if (!divide(v, c, m, i, j, way))
                    continue;
                if (climbing)
                    climb(v, c, m, i, j);
                const double s = stage_cost(v, c, m, i, j);
                if (s < best_s) {
                    best_s = s;
                    best = *c;
                }
                roomy = k == 0 && r == 0;
            }
    }
    *c = best;
    return best_s < PART_NEVER;
}

/* The better of both shapes. */
static bool divide_shapes(const struct part_view *v, struct part_choice *c, enum part_measure m,
                          uint32_t i, uint32_t j)
{
    struct part_choice mesh = *c;
    c->stage.shape = PART_STAR;
    mesh.stage.shape = PART_MESH;
    const bool star_fits = part_shape_wanted(v->p, PART_STAR) && divide_best(v, c, m, i, j, false);
    const bool mesh_fits =
        part_shape_wanted(v->p, PART_MESH) && divide_best(v, &mesh, m, i, j, false);
    if (mesh_fits && (!star_fits || stage_cost(v, &mesh, m, i, j) < stage_cost(v, c, m, i, j)))
        *c = mesh;
    return star_fits || mesh_fits;
}

int part_deal_choices(struct part_view *v, struct part_choice *c, enum part_measure m)
{
    const uint32_t layers = v->n_layers;
    for (int output = 0; output < 2; output++)
        for (int place = 0; place < 2; place++) {
            struct part_choice last = {.mask = 0};
            c->output = output == 1;
            if (place == 1 && (c->output || v->output_first))
                continue;
            for (uint32_t level = 0; level < LEVELS; level++) {
                const uint32_t n = layers * (LEVELS - level) / LEVELS;
                const uint32_t from = c->output && !v->output_first ? layers - n
                                      : place == 1 || c->output     ? 0
                                                                    : (layers - n) / 2;
                if (n == 0 || (v->p->granularity == PART_HEADS && n < layers) ||
                    !divide_shapes(v, c, m, from, from + n))
                    continue;
                if (last.mask != 0 &&
                    memcmp(last.stage.members, c->stage.members, sizeof last.stage.members) == 0)
                    break;
                const int rc = part_view_add(v, c);
                if (rc != 0)
                    return rc;
                last = *c;
            }
        }
    return 0;
}

int part_deal_refine(struct part_view *v, uint32_t choice, uint32_t i, uint32_t j)
{
    struct part_choice c = v->choices[choice];
    int rc = 0;
    for (int shape = 0; rc == 0 && shape < 2; shape++)
        for (int m = 0; rc == 0 && m < PART_CHUNK; m++) {
            c.stage.shape = shape == 0 ? PART_STAR : PART_MESH;
            if (!v->wants[m] || c.stage.n_members == 1 || !part_shape_wanted(v->p, c.stage.shape) ||
                !divide_best(v, &c, (enum part_measure)m, i, j, true))
                continue;
            rc = part_view_add(v, &c);
        }
    return rc;
}
