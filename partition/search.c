/* Good rings quickly: for a given order of the devices a dynamic program finds the best cuts and
 * which devices to skip, and a local search moves and swaps devices in the order, with random kicks
 * from a fixed seed. It gives the integer program its first plan, and large clusters their only
 * one.
 *
 * Invariant: what it returns obeys the view (a ring through allowed runs and hops, every `must`
 * device in it). It proves nothing: a lower bound comes from bound.c or the integer program.
 *
 * The device at the head of an order is the first stage, so the closing token's cost is known
 * within the dynamic program; that another device might be first is the local search's business. */
#include "partition/internal.h"

#include <string.h>

enum {
    SEARCH_KICKS_MAX = 24, /* kicks without improvement before giving up */
    SEARCH_KICK_SWAPS = 3,
};

/* How good an order is: layers left over where it holds no ring (so that the search has a slope to
 * follow under tight memory), then cost. */
struct score {
    uint32_t missing;
    double cost_s;
};

struct search {
    const struct part_view *v;
    double deadline_s;
    uint64_t seed;
    /* [position in the order][cut]: least cost up to entering the device there, and up to its
     * end */
    double enter[PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    double done[PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    uint8_t before[PART_DEVICES_MAX][PART_LAYERS_MAX + 1]; /* position handing over at this cut */
    uint16_t begin[PART_DEVICES_MAX][PART_LAYERS_MAX + 1]; /* where the run that ends here began */
};

static bool better(struct score a, struct score b)
{
    /* A relative margin, so that rounding does not make the search walk in circles among equals. */
    return a.missing < b.missing || (a.missing == b.missing && a.cost_s < b.cost_s * (1.0 - 1e-12));
}

/* Cost of entering order[k] at each cut from any earlier device with only skippable ones
 * between. */
static void order_enter(struct search *s, const uint8_t *order, uint32_t k)
{
    const struct part_view *v = s->v;
    for (uint32_t i = 0; i <= v->n_layers; i++)
        s->enter[k][i] = PART_NEVER;
    if (k == 0) {
        s->enter[0][0] = 0.0;
        return;
    }
    for (uint32_t q = k; q-- > 0;) {
        if (part_view_hop(v, order[q], order[k])) {
            double link_s = v->link_s[order[q]][order[k]];
            double busy_s = v->busy_s[order[q]][order[k]];
            for (uint32_t i = 1; i < v->n_layers; i++) {
                double c = v->slowest ? fmax(s->done[q][i], busy_s) : s->done[q][i] + link_s;
                if (c < s->enter[k][i]) {
                    s->enter[k][i] = c;
                    s->before[k][i] = (uint8_t)q;
                }
            }
        }
        if (v->must[order[q]])
            return;
    }
}

static void order_run(struct search *s, const uint8_t *order, uint32_t k)
{
    const struct part_view *v = s->v;
    const uint32_t d = order[k];
    for (uint32_t j = 0; j <= v->n_layers; j++)
        s->done[k][j] = PART_NEVER;
    for (uint32_t i = 0; i < v->n_layers; i++) {
        if (s->enter[k][i] == PART_NEVER)
            continue;
        for (uint32_t j = v->near[d][i]; j <= v->reach[d][i]; j++) {
            double run_s = part_view_seconds(v, d, i, j);
            double c = v->slowest ? fmax(s->enter[k][i], run_s) : s->enter[k][i] + run_s;
            if (c < s->done[k][j]) {
                s->done[k][j] = c;
                s->begin[k][j] = (uint16_t)i;
            }
        }
    }
}

/* The best ring within an order; *last gets the position of its last stage. */
static struct score order_score(struct search *s, const uint8_t *order, uint32_t *last)
{
    const struct part_view *v = s->v;
    struct score sc = {v->n_layers + 1, PART_NEVER};
    for (uint32_t k = 0; k < v->n_devices; k++) {
        order_enter(s, order, k);
        order_run(s, order, k);
        uint32_t far = v->n_layers;
        while (far > 0 && s->done[k][far] == PART_NEVER)
            far--;
        if (v->n_layers + 1 - far < sc.missing)
            sc.missing = v->n_layers + 1 - far;
    }
    for (uint32_t k = v->n_devices; k-- > 0;) {
        double c = s->done[k][v->n_layers];
        if (!v->slowest)
            c += v->token_s[order[k]][order[0]];
        if (c < sc.cost_s) {
            sc = (struct score){0, c};
            *last = k;
        }
        if (v->must[order[k]])
            break;
    }
    return sc;
}

/* Write the ring of the order just scored. */
static void order_trace(const struct search *s, const uint8_t *order, uint32_t last,
                        struct part_plan *plan)
{
    struct part_stage back[PART_DEVICES_MAX];
    uint32_t n = 0, k = last, cut = s->v->n_layers;
    while (cut > 0) {
        uint32_t from = s->begin[k][cut];
        back[n++] = part_stage_single(s->v->p, order[k], from, cut, cut == s->v->n_layers);
        k = from > 0 ? s->before[k][from] : 0;
        cut = from;
    }
    plan->n_stages = n;
    for (uint32_t q = 0; q < n; q++)
        plan->stages[q] = back[n - 1 - q];
    part_plan_cost(s->v->p, plan);
}

static void move(uint8_t *order, uint32_t from, uint32_t to)
{
    uint8_t d = order[from];
    if (from < to)
        memmove(order + from, order + from + 1, to - from);
    else
        memmove(order + to + 1, order + to, from - to);
    order[to] = d;
}

static void swap(uint8_t *order, uint32_t a, uint32_t b)
{
    uint8_t d = order[a];
    order[a] = order[b];
    order[b] = d;
}

/* Move one device elsewhere or swap two, as long as that helps. */
static void descend(struct search *s, uint8_t *order, struct score *best)
{
    const uint32_t n = s->v->n_devices;
    uint32_t last;
    for (bool again = true; again;) {
        again = false;
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < n; b++) {
                if (a == b)
                    continue;
                if (base_clock_s() > s->deadline_s)
                    return;
                for (int kind = 0; kind < (a < b ? 2 : 1); kind++) {
                    if (kind == 0)
                        move(order, a, b);
                    else
                        swap(order, a, b);
                    struct score sc = order_score(s, order, &last);
                    if (better(sc, *best)) {
                        *best = sc;
                        again = true;
                    } else if (kind == 0) {
                        move(order, b, a);
                    } else {
                        swap(order, a, b);
                    }
                }
            }
    }
}

/* A first order: the devices of `plan` as they are, then the others, those that would carry the
 * whole model sooner first. */
static void order_start(const struct part_view *v, const struct part_plan *plan, uint8_t *order)
{
    bool used[PART_DEVICES_MAX] = {false};
    uint32_t n = 0;
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        order[n++] = (uint8_t)plan->stages[k].members[0].device;
        used[plan->stages[k].members[0].device] = true;
    }
    while (n < v->n_devices) {
        uint32_t pick = PART_DEVICES_MAX;
        for (uint32_t d = 0; d < v->n_devices; d++)
            if (!used[d] &&
                (pick == PART_DEVICES_MAX || part_view_seconds(v, d, 0, v->n_layers) <
                                                 part_view_seconds(v, pick, 0, v->n_layers)))
                pick = d;
        order[n++] = (uint8_t)pick;
        used[pick] = true;
    }
}

bool part_search(const struct part_view *v, double deadline_s, struct part_plan *plan)
{
    struct search *s = base_zalloc(1, sizeof *s);
    uint8_t order[PART_DEVICES_MAX], tried[PART_DEVICES_MAX];
    uint32_t last = 0;
    if (s == NULL)
        return plan->n_stages > 0;
    s->v = v;
    s->deadline_s = deadline_s;
    s->seed = 1;
    order_start(v, plan, order);
    struct score best = order_score(s, order, &last);
    descend(s, order, &best);
    for (int idle = 0; idle < SEARCH_KICKS_MAX && base_clock_s() < deadline_s; idle++) {
        memcpy(tried, order, sizeof tried);
        for (int k = 0; k < SEARCH_KICK_SWAPS; k++)
            swap(tried, (uint32_t)(base_rng_next(&s->seed) % v->n_devices),
                 (uint32_t)(base_rng_next(&s->seed) % v->n_devices));
        struct score sc = order_score(s, tried, &last);
        descend(s, tried, &sc);
        if (better(sc, best)) {
            best = sc;
            memcpy(order, tried, sizeof order);
            idle = -1;
        }
    }
    best = order_score(s, order, &last);
    if (best.missing == 0)
        order_trace(s, order, last, plan);
    base_free(s);
    return plan->n_stages > 0;
}
