/* A problem laid out for the solvers: prefix sums of seconds, and for each device and cut i the run
 * of cuts j at which a stage [i, j) may end. Invariant: a ring whose stages and hops the view
 * allows, which uses every `must` device, passes part_plan_fits, and is no slower in any stage or
 * link than cap_s.
 *
 * Memory, pins and seconds only grow with j, and a run inside an allowed run is allowed, so the two
 * pointers below never go back: O(devices x layers) for each cap. */
#include "partition/internal.h"

static bool run_fits(const struct part_view *v, uint32_t d, uint32_t i, uint32_t j, uint64_t bytes)
{
    const struct part_problem *p = v->p;
    uint64_t need = p->base_bytes + p->scratch_bytes + bytes;
    if (i == 0)
        need += p->embed_bytes;
    if (j == v->n_layers)
        need +=
            p->output_bytes + p->n_vocab_runs * (p->run_bytes - (i == 0 ? p->shared_run_bytes : 0));
    return need <= p->devices[d].memory_bytes && part_view_seconds(v, d, i, j) <= v->cap_s;
}

/* Layer `l` is pinned to another device than d. */
static bool pinned_elsewhere(const struct part_problem *p, uint32_t d, uint32_t l)
{
    for (uint32_t q = 0; q < p->n_devices; q++)
        if (q != d && p->devices[q].pin0 >= 0 && l >= (uint32_t)p->devices[q].pin0 &&
            l < (uint32_t)p->devices[q].pin1)
            return true;
    return false;
}

static void cap_device(struct part_view *v, uint32_t d)
{
    const struct part_problem *p = v->p;
    const struct part_device *dev = &p->devices[d];
    uint64_t bytes = 0; /* of layers [i, j) */
    uint32_t j = 0;
    for (uint32_t i = 0; i < v->n_layers; i++) {
        if (j < i) {
            j = i;
            bytes = 0;
        }
        while (j < v->n_layers && !pinned_elsewhere(p, d, j) &&
               run_fits(v, d, i, j + 1, bytes + part_layer_bytes(p, j)))
            bytes += part_layer_bytes(p, j++);
        v->near[d][i] = (uint16_t)(i + 1);
        v->reach[d][i] = (uint16_t)j;
        if (dev->pin0 >= 0) {
            v->near[d][i] = (uint16_t)dev->pin1;
            if (i != (uint32_t)dev->pin0 || j < (uint32_t)dev->pin1)
                v->reach[d][i] = 0;
            else
                v->reach[d][i] = (uint16_t)dev->pin1;
        }
        if (j > i)
            bytes -= part_layer_bytes(p, i);
    }
}

void part_view_cap(struct part_view *v, double cap_s)
{
    v->cap_s = cap_s;
    for (uint32_t d = 0; d < v->n_devices; d++)
        cap_device(v, d);
}

static void view_links(struct part_view *v, double rows)
{
    const struct part_problem *p = v->p;
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t e = 0; e < p->n_devices; e++) {
            v->token_s[d][e] = d != e ? p->lat_s[d][e] : 0.0;
            v->busy_s[d][e] = d != e ? rows * p->hidden_bytes / p->rate[d][e] : 0.0;
            v->link_s[d][e] = v->token_s[d][e] + v->busy_s[d][e];
        }
}

void part_view_init(struct part_view *v, const struct part_problem *p, double rows)
{
    v->p = p;
    v->n_devices = p->n_devices;
    v->n_layers = p->n_layers;
    v->slowest = p->objective == PART_THROUGHPUT;
    view_links(v, rows);
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const struct part_device *dev = &p->devices[d];
        v->pass_s[d] = dev->pass_s;
        v->embed_s[d] = part_time_at(dev->embed, rows);
        v->output_s[d] = part_time_at(dev->output, rows);
        v->must[d] = p->use_all || dev->pin0 >= 0;
        v->sum_s[d][0] = 0.0;
        for (uint32_t l = 0; l < p->n_layers; l++)
            v->sum_s[d][l + 1] =
                v->sum_s[d][l] + part_time_at(dev->attn[l], rows) + part_time_at(dev->ff[l], rows);
    }
    part_view_cap(v, PART_NEVER);
}

/* The most layers that device d can hold in one run anywhere, beginning at 0, or ending at L; 0:
 * none. */
struct room {
    uint32_t any, first, last;
    bool whole;
};

static struct room room_of(const struct part_view *v, uint32_t d)
{
    struct room r = {0, 0, 0, false};
    for (uint32_t i = 0; i < v->n_layers; i++) {
        uint32_t j = v->reach[d][i];
        if (j < v->near[d][i])
            continue;
        r.any = j - i > r.any ? j - i : r.any;
        if (i == 0)
            r.first = j;
        if (j == v->n_layers && r.last == 0)
            r.last = j - i;
    }
    r.whole = r.first == v->n_layers;
    return r;
}

bool part_view_may_fit(const struct part_view *v)
{
    struct room room[PART_DEVICES_MAX];
    uint32_t total = 0, n_must = 0, only = 0;
    for (uint32_t d = 0; d < v->n_devices; d++) {
        room[d] = room_of(v, d);
        total += room[d].any;
        n_must += v->must[d] ? 1 : 0;
        only = v->must[d] ? d : only;
        if (v->must[d] && room[d].any == 0)
            return false;
    }
    if (n_must > v->n_layers)
        return false;
    for (uint32_t f = 0; f < v->n_devices; f++) {
        if (room[f].whole && (n_must == 0 || (n_must == 1 && only == f)))
            return true;
        for (uint32_t g = 0; g < v->n_devices; g++)
            if (f != g && room[f].first > 0 && room[g].last > 0 &&
                total - room[f].any - room[g].any + room[f].first + room[g].last >= v->n_layers)
                return true;
    }
    return false;
}

size_t part_view_runs(const struct part_view *v)
{
    size_t n = 0;
    for (uint32_t d = 0; d < v->n_devices; d++)
        for (uint32_t i = 0; i < v->n_layers; i++)
            if (v->reach[d][i] >= v->near[d][i])
                n += (size_t)(v->reach[d][i] - v->near[d][i]) + 1;
    return n;
}
