/* What it takes to go from one plan to another: weights that the new one's workers are shipped, and KV
 * rows that they take from the old one's.
 *
 * A worker has the pieces of its part of the old plan; what else its store may hold, of plans before
 * or fetched beforehand, is not known here, so the bytes to ship are an upper bound. KV rows come from
 * whoever had their head and layer, as in core_move.c, and are counted for full caches. Transfers go on
 * side by side, and the time is that of the port with the most to do: each worker's by the rates of its
 * links, and the coordinator's by the rate of its fastest. Links that were not measured count nothing.
 */
#include "coordinator/coordinator.h"

#include <math.h>

static uint32_t common(uint32_t a0, uint32_t a1, uint32_t b0, uint32_t b1)
{
    const uint32_t low = a0 > b0 ? a0 : b0, high = a1 < b1 ? a1 : b1;
    return low < high ? high - low : 0;
}

/* Units of [a0, a1) that are not in [b0, b1). */
static double lacking(uint32_t a0, uint32_t a1, uint32_t b0, uint32_t b1)
{
    return a1 - a0 - common(a0, a1, b0, b1);
}

struct span_of {
    uint32_t first, end;
};

void coord_kv_heads(uint32_t share, uint32_t width, const struct part_member *m, uint32_t *head0,
                    uint32_t *head1)
{
    *head0 = m->head0 * width / share;
    *head1 = m->head0 < m->head1 ? (m->head1 * width - 1) / share + 1 : *head0;
}

static struct span_of kv_heads(const struct coord_blocks *b, const struct part_member *m)
{
    struct span_of s;
    coord_kv_heads(b->n_heads / b->n_kv_heads, b->unit_heads, m, &s.first, &s.end);
    return s;
}

/* Bytes of weights of `to` that are not in `from`. */
static double shipped(const struct coord_blocks *b, const struct coord_shard *from,
                      const struct coord_shard *to)
{
    const struct part_member *x = &from->part, *y = &to->part;
    const struct span_of kx = kv_heads(b, x), ky = kv_heads(b, y);
    double bytes = 0;
    for (uint32_t l = to->layer0; l < to->layer1; l++) {
        const struct coord_layer *w = &b->layers[l];
        const bool had = from->layer0 <= l && l < from->layer1;
        bytes += had ? 0 : (double)w->common_bytes;
        bytes += (double)w->head_bytes *
                 lacking(y->head0, y->head1, had ? x->head0 : 0, had ? x->head1 : 0);
        bytes +=
            (double)w->kv_bytes * lacking(ky.first, ky.end, had ? kx.first : 0, had ? kx.end : 0);
        bytes += (double)w->ff_bytes * lacking(y->ff0, y->ff1, had ? x->ff0 : 0, had ? x->ff1 : 0);
    }
    if (to->embed && !from->embed)
        bytes += (double)b->embed_bytes;
    if (to->output && !from->output)
        bytes += (double)b->final_bytes;
    const bool embeds = to->embed || from->embed;
    return bytes + (double)(b->run_bytes - (embeds ? b->shared_run_bytes : 0)) *
                       lacking(y->run0, y->run1, x->run0, x->run1);
}

static bool measured(double rate)
{
    return rate > 0 && rate < INFINITY;
}

struct ports {
    double in_s[NET_WORKERS_MAX], out_s[NET_WORKERS_MAX];
};

/* The KV head of the layer comes from the first of the old plan's workers that have it, unless the
 * receiver is one. */
static void take_head(const struct coord_blocks *b, const struct coord_profile *p,
                      const struct part_stage *from, uint32_t head, uint32_t receiver,
                      struct ports *ports, double *bytes)
{
    uint32_t donor = UINT32_MAX;
    for (uint32_t k = 0; k < from->n_members; k++) {
        const struct span_of has = kv_heads(b, &from->members[k]);
        const uint32_t node = from->members[k].device;
        if (head < has.first || head >= has.end)
            continue;
        if (node == receiver)
            return;
        donor = donor == UINT32_MAX ? node : donor;
    }
    if (donor == UINT32_MAX)
        return;
    *bytes += (double)b->cache_bytes;
    if (measured(p->rate[donor][receiver])) {
        ports->out_s[donor] += (double)b->cache_bytes / p->rate[donor][receiver];
        ports->in_s[receiver] += (double)b->cache_bytes / p->rate[donor][receiver];
    }
}

static void take_rows(const struct coord_blocks *b, const struct coord_profile *p,
                      const struct part_plan *from, const struct coord_shard *to,
                      struct ports *ports, double *bytes)
{
    const struct span_of wants = kv_heads(b, &to->part);
    for (uint32_t s = 0; s < from->n_stages; s++) {
        const struct part_stage *g = &from->stages[s];
        for (uint32_t l = to->layer0; l < to->layer1; l++)
            for (uint32_t h = wants.first; g->layer0 <= l && l < g->layer1 && h < wants.end; h++)
                take_head(b, p, g, h, to->part.device, ports, bytes);
    }
}

void coord_move_cost(const struct coord_blocks *b, const struct coord_profile *p,
                     const struct part_plan *from, const struct part_plan *to,
                     struct coord_move_cost *out)
{
    struct ports kv = {0};
    double fastest = 0;
    *out = (struct coord_move_cost){0};
    for (uint32_t s = 0; s < to->n_stages; s++)
        for (uint32_t k = 0; k < to->stages[s].n_members; k++) {
            const struct coord_shard want = coord_shard_of(to, s, k);
            struct coord_shard has = {0};
            const uint32_t node = want.part.device;
            uint32_t member;
            const uint32_t stage = part_plan_find(from, node, &member);
            if (stage < from->n_stages)
                has = coord_shard_of(from, stage, member);
            const double bytes = shipped(b, &has, &want);
            out->ship_bytes += bytes;
            if (measured(p->coord_down[node])) {
                out->ship_s = fmax(out->ship_s, bytes / p->coord_down[node]);
                fastest = fmax(fastest, p->coord_down[node]);
            }
            take_rows(b, p, from, &want, &kv, &out->kv_bytes);
        }
    if (fastest > 0)
        out->ship_s = fmax(out->ship_s, out->ship_bytes / fastest);
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        out->kv_s = fmax(out->kv_s, fmax(kv.in_s[i], kv.out_s[i]));
}
