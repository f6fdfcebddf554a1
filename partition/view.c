/* A problem laid out for the solvers: choices with prefix sums of seconds, and for each choice and
 * cut i the run of cuts j at which a stage [i, j) may end. Invariant: a ring of choices of disjoint
 * devices through allowed runs, with every `must` device and the output matrix where output_first
 * says, passes part_plan_fits but for the TTFT limit. */
#include "partition/internal.h"

#include <string.h>

static bool same_time(struct part_time a, struct part_time b)
{
    return a.pass_s == b.pass_s && a.row_s == b.row_s;
}

static bool same_layers(const struct part_problem *p, uint32_t a, uint32_t b)
{
    const struct part_layer *x = &p->layers[a], *y = &p->layers[b];
    if (x->common_bytes != y->common_bytes || x->head_bytes != y->head_bytes ||
        x->kv_bytes != y->kv_bytes || x->ff_bytes != y->ff_bytes || x->kv_share != y->kv_share)
        return false;
    for (uint32_t d = 0; d < p->n_devices; d++)
        if (!same_time(p->devices[d].attn[a], p->devices[d].attn[b]) ||
            !same_time(p->devices[d].ff[a], p->devices[d].ff[b]))
            return false;
    return true;
}

static void init_links(struct part_view *v, int m)
{
    const struct part_problem *p = v->p;
    const double bytes = v->pass[m].rows * p->hidden_bytes;
    const double back = v->output_first ? (m == PART_CHUNK ? p->hidden_bytes : bytes) : 0.0;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        v->embed_s[m][d] = part_time_at(p->devices[d].embed, v->pass[m].rows);
        v->embed[d] += v->weight[m] * v->embed_s[m][d];
        for (uint32_t e = 0; e < p->n_devices; e++)
            if (d != e) {
                v->busy_s[m][d][e] = bytes / p->rate[d][e];
                v->hop_s[m][d][e] = p->lat_s[d][e] + v->busy_s[m][d][e];
                v->close_s[m][d][e] = p->lat_s[d][e] + back / p->rate[d][e];
            }
    }
}

void part_view_init(struct part_view *v, const struct part_problem *p, uint32_t n_stages,
                    bool output_first)
{
    memset(v, 0, sizeof *v);
    v->p = p;
    v->n_devices = p->n_devices;
    v->n_layers = p->n_layers;
    v->n_stages = n_stages;
    v->output_first = output_first;
    for (uint32_t d = 0; d < p->n_devices; d++)
        if (p->use_all || p->devices[d].pin0 >= 0 || p->devices[d].pin_heads > 0 ||
            p->devices[d].pin_ff > 0 || p->devices[d].pin_leader)
            v->must |= 1u << d;
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (v->kind[l] = 0; v->kind[l] < l && !same_layers(p, v->kind[l], l);)
            v->kind[l]++;
    v->pass[PART_ONE] = (struct part_pass){1.0, false};
    v->pass[PART_FULL] = (struct part_pass){part_full_rows(p, n_stages > 0 ? n_stages : 1), false};
    v->pass[PART_CHUNK] = (struct part_pass){part_chunk_rows(p), true};
    v->weight[PART_ONE] = p->objective == PART_LATENCY    ? 1.0
                          : p->objective == PART_WEIGHTED ? p->weight
                                                          : 0.0;
    v->weight[PART_FULL] = (1.0 - v->weight[PART_ONE]) / p->slots;
    v->wants[PART_ONE] = v->weight[PART_ONE] > 0.0;
    v->wants[PART_FULL] = v->weight[PART_FULL] > 0.0;
    v->wants[PART_CHUNK] = p->ttft_max_s > 0.0;
    for (int m = 0; m < PART_MEASURES; m++)
        if (v->wants[m])
            init_links(v, m);
}

void part_view_deinit(struct part_view *v)
{
    base_free(v->choices);
    for (int m = 0; m < PART_MEASURES; m++) {
        base_free(v->begin_s[m]);
        base_free(v->sum_s[m]);
    }
    base_free(v->begin);
    base_free(v->sum);
    base_free(v->near);
    base_free(v->reach);
}

static bool grow(void **array, size_t n, size_t room, size_t bytes)
{
    void *more = base_zalloc(room, bytes);
    if (more == NULL)
        return false;
    if (n > 0)
        memcpy(more, *array, n * bytes);
    base_free(*array);
    *array = more;
    return true;
}

static bool make_room(struct part_view *v)
{
    const uint32_t room = v->n_room == 0 ? 64 : 2 * v->n_room;
    const size_t layers = v->n_layers;
    if (v->n_choices < v->n_room)
        return true;
    bool good = grow((void **)&v->choices, v->n_choices, room, sizeof *v->choices) &&
                grow((void **)&v->near, v->n_choices, room, layers * sizeof *v->near) &&
                grow((void **)&v->reach, v->n_choices, room, layers * sizeof *v->reach);
    good = good && grow((void **)&v->begin, v->n_choices, room, sizeof(double)) &&
           grow((void **)&v->sum, v->n_choices, room, (layers + 1) * sizeof(double));
    for (int m = 0; good && m < PART_MEASURES; m++)
        good = !v->wants[m] ||
               (grow((void **)&v->begin_s[m], v->n_choices, room, sizeof(double)) &&
                grow((void **)&v->sum_s[m], v->n_choices, room, (layers + 1) * sizeof(double)));
    v->n_room = good ? room : v->n_room;
    return good;
}

/* Bytes of layer l on member k. */
static uint64_t layer_bytes(const struct part_problem *p, const struct part_member *m, uint32_t l)
{
    const struct part_layer *y = &p->layers[l];
    return y->common_bytes + (m->head1 - m->head0) * y->head_bytes +
           part_kv_heads(p, m->head0, m->head1) * y->kv_bytes + (m->ff1 - m->ff0) * y->ff_bytes;
}

/* Layer `l` is pinned to a device that is not in `mask`. */
static bool pinned_elsewhere(const struct part_problem *p, uint32_t mask, uint32_t l)
{
    for (uint32_t q = 0; q < p->n_devices; q++)
        if ((mask >> q & 1) == 0 && p->devices[q].pin0 >= 0 && l >= (uint32_t)p->devices[q].pin0 &&
            l < (uint32_t)p->devices[q].pin1)
            return true;
    return false;
}

/* The most layers from i on that member k can hold: memory only grows with j. */
static uint32_t member_reach(const struct part_view *v, const struct part_choice *c, uint32_t k,
                             uint32_t i, uint32_t limit)
{
    struct part_stage s = c->stage;
    s.layer0 = i;
    s.layer1 = i;
    uint64_t need = part_member_memory(v->p, &s, k);
    const uint64_t has = v->p->devices[s.members[k].device].memory_bytes;
    uint32_t j = i;
    while (j < limit && need + layer_bytes(v->p, &s.members[k], j) <= has)
        need += layer_bytes(v->p, &s.members[k], j++);
    return need <= has ? j : 0;
}

static void set_reach(struct part_view *v, const struct part_choice *c, uint32_t i, uint16_t *near,
                      uint16_t *reach)
{
    const struct part_problem *p = v->p;
    uint32_t from = i + 1, to = i, pin_from = 0, pin_to = UINT32_MAX;
    *near = 1;
    *reach = 0;
    if (v->output_first ? c->output != (i == 0) : false)
        return;
    while (to < v->n_layers && !pinned_elsewhere(p, c->mask, to))
        to++;
    for (uint32_t k = 0; k < c->stage.n_members; k++) {
        const struct part_device *dev = &p->devices[c->stage.members[k].device];
        to = member_reach(v, c, k, i, to);
        if (dev->pin0 >= 0 && i != (uint32_t)dev->pin0)
            return;
        if (dev->pin0 >= 0)
            pin_from = pin_to = (uint32_t)dev->pin1;
        if (dev->pin_leader && (i > 0 || k > 0))
            return;
    }
    for (uint32_t q = 0; i == 0 && q < p->n_devices; q++)
        if (p->devices[q].pin_leader && q != c->leader)
            return;
    if (v->output_first) {
        to = i == 0 && to == v->n_layers ? to - 1 : to;
    } else if (c->output) {
        from = v->n_layers;
    } else {
        to = to == v->n_layers ? to - 1 : to;
    }
    from = pin_from > from ? pin_from : from;
    to = pin_to < to ? pin_to : to;
    if (p->granularity == PART_HEADS)
        from = i == 0 ? v->n_layers : UINT16_MAX;
    *near = (uint16_t)from;
    *reach = (uint16_t)to;
}

static void set_seconds(struct part_view *v, const struct part_choice *c, uint32_t at, int m)
{
    const struct part_problem *p = v->p;
    double *sum_s = v->sum_s[m] + (size_t)at * (v->n_layers + 1);
    double *sum = v->sum + (size_t)at * (v->n_layers + 1);
    v->begin_s[m][at] = part_stage_begin(p, &c->stage, v->pass[m]) +
                        part_stage_output(p, &c->stage, v->pass[m]);
    sum_s[0] = 0.0;
    for (uint32_t l = 0; l < v->n_layers; l++) {
        const uint32_t k = v->kind[l];
        const double one = k < l ? sum_s[k + 1] - sum_s[k]
                                 : part_stage_layer(p, &c->stage, l, v->pass[m]);
        sum_s[l + 1] = sum_s[l] + one;
        sum[l + 1] += v->weight[m] * sum_s[l + 1];
    }
    v->begin[at] += v->weight[m] * v->begin_s[m][at];
}

static bool same_stage(const struct part_stage *a, const struct part_stage *b)
{
    return a->shape == b->shape && a->n_members == b->n_members &&
           memcmp(a->members, b->members, a->n_members * sizeof *a->members) == 0;
}

int part_view_add(struct part_view *v, const struct part_choice *c)
{
    bool any = false;
    for (uint32_t q = 0; q < v->n_choices; q++)
        if (v->choices[q].mask == c->mask && same_stage(&v->choices[q].stage, &c->stage))
            return 0;
    if (v->n_choices == PART_CHOICES_MAX)
        return ERR_FULL;
    if (!make_room(v))
        return ERR_NOMEM;
    const uint32_t at = v->n_choices;
    const size_t first = (size_t)at * v->n_layers;
    for (uint32_t i = 0; i < v->n_layers; i++) {
        set_reach(v, c, i, &v->near[first + i], &v->reach[first + i]);
        any = any || v->reach[first + i] >= v->near[first + i];
    }
    if (!any)
        return 0;
    v->choices[at] = *c;
    v->begin[at] = 0.0;
    memset(v->sum + (size_t)at * (v->n_layers + 1), 0, (v->n_layers + 1) * sizeof *v->sum);
    for (int m = 0; m < PART_MEASURES; m++)
        if (v->wants[m])
            set_seconds(v, c, at, m);
    v->n_choices++;
    return 0;
}

struct part_stage part_view_stage(const struct part_view *v, uint32_t c, uint32_t i, uint32_t j)
{
    struct part_stage s = v->choices[c].stage;
    s.layer0 = i;
    s.layer1 = j;
    return s;
}

bool part_view_dominated(const struct part_view *v, uint32_t c, uint32_t i, uint32_t j)
{
    for (uint32_t q = 0; q < v->n_choices; q++) {
        bool worse = false, better = false;
        if (q == c || v->choices[q].mask != v->choices[c].mask ||
            v->choices[q].leader != v->choices[c].leader ||
            v->choices[q].output != v->choices[c].output || !part_view_may(v, q, i, j))
            continue;
        for (int m = 0; m < PART_MEASURES; m++) {
            if (!v->wants[m])
                continue;
            const double a = part_view_seconds(v, (enum part_measure)m, q, i, j);
            const double b = part_view_seconds(v, (enum part_measure)m, c, i, j);
            worse = worse || a > b;
            better = better || a < b;
        }
        if (!worse && (better || q < c))
            return true;
    }
    return false;
}
