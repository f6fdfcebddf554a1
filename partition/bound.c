/* A lower bound on summed seconds without the integer program: Lagrangian relaxation. "Each device at
 * most once" is dropped and paid for instead: every use of device d costs price[d] more and every
 * plan gets sum(price) back, so a plan that obeys the rule costs what it did or less. Without the
 * rule the cheapest ring is a shortest path through (leader, cut) nodes, found by dynamic
 * programming for each first leader (which closes the ring exactly, and may itself not lead
 * again). The prices are raised for devices used twice and lowered for idle ones (subgradient
 * steps: Held, Wolfe, Crowder, "Validation of subgradient optimization", 1974, with their step
 * rule); any prices >= 0 give a valid bound, and a device that must be used may have a negative
 * one.
 *
 * At the best prices, paths to a node and from it together bound every plan that uses a given run
 * or hop: what exceeds the latency of a known plan need not become a column of the integer program.
 * That rule is what keeps rings of 16 devices and 80 layers within reach. The bound itself stays
 * where the integer program is too big to try. */
#include "partition/internal.h"

#include <string.h>

enum {
    BOUND_STEPS_MAX = 400,
    BOUND_PATIENCE = 12, /* steps without a better bound before the step is halved */
};

/* The relaxed ring of least cost, as uses of each device. */
struct path {
    double cost_s;
    uint32_t uses[PART_DEVICES_MAX];
};

/* What the devices of choice c cost beside its seconds. */
static double price_of(const struct part_view *v, const struct part_bound *b, uint32_t c)
{
    double sum = 0.0;
    for (uint32_t d = 0; d < v->n_devices; d++)
        sum += (v->choices[c].mask >> d & 1) != 0 ? b->price[d] : 0.0;
    return sum;
}

/* Least cost from the start at `first` to every node. [device][cut] */
static void forward(const struct part_view *v, struct part_bound *b, uint32_t first)
{
    const uint32_t n = v->n_devices, layers = v->n_layers;
    double(*enter)[PART_LAYERS_MAX + 1] = b->enter[first];
    double(*done)[PART_LAYERS_MAX + 1] = b->done[first];
    for (uint32_t d = 0; d < n; d++)
        for (uint32_t i = 0; i <= layers; i++)
            enter[d][i] = done[d][i] = PART_NEVER;
    enter[first][0] = -b->rebate;
    for (uint32_t i = 0; i < layers; i++) {
        for (uint32_t d = 0; i > 0 && d < n; d++)
            for (uint32_t q = 0; d != first && q < n; q++)
                if (q != d)
                    enter[d][i] = fmin(enter[d][i], done[q][i] + part_view_link(v, v->hop_s, q, d));
        for (uint32_t c = 0; c < v->n_choices; c++) {
            const uint32_t d = v->choices[c].leader;
            const size_t at = (size_t)c * layers + i;
            if (enter[d][i] == PART_NEVER)
                continue;
            const double base = enter[d][i] + price_of(v, b, c);
            for (uint32_t j = v->near[at]; j <= v->reach[at]; j++)
                done[d][j] = fmin(done[d][j], base + part_view_run(v, c, i, j));
        }
    }
}

/* Least cost from every node to the ring's closing at `first`. */
static void backward(const struct part_view *v, struct part_bound *b, uint32_t first)
{
    const uint32_t n = v->n_devices, layers = v->n_layers;
    double(*go)[PART_LAYERS_MAX + 1] = b->go[first];
    double(*after)[PART_LAYERS_MAX + 1] = b->after[first];
    for (uint32_t d = 0; d < n; d++)
        after[d][layers] = part_view_link(v, v->close_s, d, first);
    for (uint32_t i = layers; i-- > 0;) {
        for (uint32_t d = 0; d < n; d++)
            go[d][i] = after[d][i] = PART_NEVER;
        for (uint32_t c = 0; c < v->n_choices; c++) {
            const uint32_t d = v->choices[c].leader;
            const size_t at = (size_t)c * layers + i;
            if ((d == first) != (i == 0))
                continue;
            for (uint32_t j = v->near[at]; j <= v->reach[at]; j++)
                go[d][i] =
                    fmin(go[d][i], part_view_run(v, c, i, j) + price_of(v, b, c) + after[d][j]);
        }
        for (uint32_t d = 0; d < n; d++)
            for (uint32_t q = 0; q < n; q++)
                if (q != d)
                    after[d][i] = fmin(after[d][i], part_view_link(v, v->hop_s, d, q) + go[q][i]);
    }
}

/* Follow the cheapest path back from its end and count the uses of each device. */
static void trace(const struct part_view *v, const struct part_bound *b, uint32_t first,
                  uint32_t last, struct path *path)
{
    uint32_t d = last, j = v->n_layers;
    memset(path->uses, 0, sizeof path->uses);
    for (;;) {
        double least = PART_NEVER;
        uint32_t from = 0, mask = 0, q = 0;
        for (uint32_t c = 0; c < v->n_choices; c++)
            for (uint32_t i = 0; v->choices[c].leader == d && i < j; i++) {
                const double cost =
                    part_view_may(v, c, i, j)
                        ? b->enter[first][d][i] + price_of(v, b, c) + part_view_run(v, c, i, j)
                        : PART_NEVER;
                if (cost < least) {
                    least = cost;
                    from = i;
                    mask = v->choices[c].mask;
                }
            }
        for (uint32_t e = 0; e < v->n_devices; e++)
            path->uses[e] += mask >> e & 1;
        if (from == 0)
            return;
        least = PART_NEVER;
        for (uint32_t e = 0; e < v->n_devices; e++)
            if (e != d && b->done[first][e][from] + part_view_link(v, v->hop_s, e, d) < least) {
                least = b->done[first][e][from] + part_view_link(v, v->hop_s, e, d);
                q = e;
            }
        d = q;
        j = from;
    }
}

/* The relaxed problem at the current prices. False where the deadline passed first. */
static bool relax(const struct part_view *v, struct part_bound *b, double deadline_s,
                  struct path *path)
{
    path->cost_s = PART_NEVER;
    b->rebate = 0.0;
    for (uint32_t d = 0; d < v->n_devices; d++)
        b->rebate += b->price[d];
    for (uint32_t first = 0; first < v->n_devices; first++) {
        uint32_t last = PART_DEVICES_MAX;
        if (base_clock_s() > deadline_s)
            return false;
        forward(v, b, first);
        for (uint32_t d = 0; d < v->n_devices; d++) {
            double c = b->done[first][d][v->n_layers] + part_view_link(v, v->close_s, d, first);
            if (c < path->cost_s) {
                path->cost_s = c;
                last = d;
            }
        }
        if (last < PART_DEVICES_MAX)
            trace(v, b, first, last, path);
    }
    return true;
}

/* One subgradient step from the prices in b, aimed at `upper_s`. False where the path obeys the
 * rule. */
static bool reprice(const struct part_view *v, struct part_bound *b, const struct path *path,
                    double upper_s, double step)
{
    double norm = 0.0;
    for (uint32_t d = 0; d < v->n_devices; d++) {
        double g = (double)path->uses[d] - 1.0;
        if (g > 0.0 || (v->must >> d & 1) != 0 || b->price[d] > 0.0)
            norm += g * g;
    }
    if (norm == 0.0)
        return false;
    for (uint32_t d = 0; d < v->n_devices; d++) {
        b->price[d] += step * (upper_s - path->cost_s) / norm * ((double)path->uses[d] - 1.0);
        if ((v->must >> d & 1) == 0 && b->price[d] < 0.0)
            b->price[d] = 0.0;
    }
    return true;
}

void part_bound_compute(const struct part_view *v, double upper_s, double deadline_s,
                        struct part_bound *b)
{
    double best_price[PART_DEVICES_MAX] = {0.0}, step = 1.0;
    int idle = 0;
    struct path path;
    memset(b->price, 0, sizeof b->price);
    b->value_s = 0.0;
    for (int k = 0; k < BOUND_STEPS_MAX && relax(v, b, deadline_s, &path); k++) {
        if (path.cost_s == PART_NEVER) {
            b->value_s = PART_NEVER;
            return;
        }
        if (path.cost_s > b->value_s) {
            idle = path.cost_s > b->value_s * (1.0 + 1e-6) ? 0 : idle + 1;
            b->value_s = path.cost_s;
            memcpy(best_price, b->price, sizeof best_price);
        } else {
            idle++;
        }
        if (idle >= BOUND_PATIENCE) {
            idle = 0;
            step *= 0.5;
        }
        if (b->value_s >= upper_s || step < 1e-3 || !reprice(v, b, &path, upper_s, step))
            break;
    }
    memcpy(b->price, best_price, sizeof best_price);
    b->rebate = 0.0;
    for (uint32_t d = 0; d < v->n_devices; d++)
        b->rebate += b->price[d];
    for (uint32_t first = 0; first < v->n_devices; first++) {
        forward(v, b, first);
        backward(v, b, first);
    }
}

double part_bound_run(const struct part_view *v, const struct part_bound *b, uint32_t c, uint32_t i,
                      uint32_t j)
{
    double least = PART_NEVER;
    const uint32_t d = v->choices[c].leader;
    const double run = part_view_run(v, c, i, j) + price_of(v, b, c);
    if (i == 0)
        return b->enter[d][d][0] + run + b->after[d][d][j];
    for (uint32_t f = 0; f < v->n_devices; f++)
        least = fmin(least, b->enter[f][d][i] + run + b->after[f][d][j]);
    return least;
}

double part_bound_hop(const struct part_view *v, const struct part_bound *b, uint32_t d, uint32_t e,
                      uint32_t cut)
{
    double least = PART_NEVER;
    for (uint32_t f = 0; f < v->n_devices; f++)
        least =
            fmin(least, b->done[f][d][cut] + part_view_link(v, v->hop_s, d, e) + b->go[f][e][cut]);
    return least;
}

double part_bound_ring(const struct part_view *v, const struct part_bound *b, uint32_t last,
                       uint32_t first)
{
    return b->done[first][last][v->n_layers] + part_view_link(v, v->close_s, last, first);
}
