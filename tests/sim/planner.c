/* The simulated planner: plans that cover the layers, otherwise at the world's whim.
 *
 * It takes the workers that the core names, in order or shuffled, all of them or as many as it
 * likes, and gives each a share that fits. Its predictions are drawn, so that the core now and then
 * takes a new plan for better and now and then does not. What it gives is what partition promises:
 * layers covered once, devices that are nodes, reasons for those left out. Left out: optimality,
 * which is tests/unit/test_plan.c's business. */
#include "tests/sim/sim.h"

#include <math.h>
#include <string.h>

enum { ATTEMPTS = 40 };

/* Nodes of `present` in the order of a ring. */
static uint32_t draw_order(struct sim *s, uint32_t present, uint32_t nodes[SIM_WORKERS_MAX])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->setup.n_workers; i++)
        if ((present >> i & 1) != 0)
            nodes[n++] = i;
    for (uint32_t i = n; !s->setup.in_order && i > 1; i--) {
        const uint32_t k = (uint32_t)sim_draw(s, i), t = nodes[i - 1];
        nodes[i - 1] = nodes[k];
        nodes[k] = t;
    }
    return n;
}

/* Rings cross no link that could not be measured; nor do teams, for which any two may be linked. */
static bool linked(const struct sim *s, const uint32_t *nodes, uint32_t n)
{
    const struct coord_profile *p = coord_core_profile(s->coord);
    for (uint32_t i = 0; n > 1 && i < n; i++)
        for (uint32_t k = 0; k < n; k++)
            if (k != i && (k == (i + 1) % n || s->setup.teams) &&
                isnan(p->rate[nodes[i]][nodes[k]]))
                return false;
    return true;
}

static uint32_t room(const struct sim *s, const uint32_t *nodes, uint32_t from, uint32_t n)
{
    uint32_t layers = 0;
    for (uint32_t i = from; i < n; i++)
        layers += s->setup.layers_max[nodes[i]];
    return layers;
}

/* Cut `whole` units for n members; where they are drawn, anybody may go without. */
static void cut(struct sim *s, uint32_t whole, uint32_t n, uint32_t at[SIM_WORKERS_MAX + 1])
{
    at[0] = 0;
    at[n] = whole;
    for (uint32_t k = 1; k < n; k++)
        at[k] = s->setup.in_order ? whole * k / n
                                  : at[k - 1] + (uint32_t)sim_draw(s, whole - at[k - 1] + 1);
}

/* Who holds what of a stage; whoever would have nothing takes the last member's head. */
static void divide(struct sim *s, const uint32_t *nodes, uint32_t n, bool ends,
                   struct part_stage *g)
{
    uint32_t heads[SIM_WORKERS_MAX + 1], units[SIM_WORKERS_MAX + 1], runs[SIM_WORKERS_MAX + 1];
    bool idle;
    g->n_members = n;
    g->shape = n > 1 && sim_draw(s, 2) == 0 ? PART_MESH : PART_STAR;
    do {
        cut(s, SIM_UNITS, n, heads);
        cut(s, SIM_UNITS, n, units);
        cut(s, ends ? SIM_RUNS : 0, n, runs);
        idle = false;
        for (uint32_t k = 0; k < n; k++) {
            idle = idle ||
                   (heads[k + 1] == heads[k] && units[k + 1] == units[k] && runs[k + 1] == runs[k]);
            g->members[k] = (struct part_member){nodes[k],     heads[k], heads[k + 1], units[k],
                                                 units[k + 1], runs[k],  runs[k + 1]};
        }
    } while (idle);
}

/* Members of the stages: one each, or as the world likes. */
static uint32_t gather(struct sim *s, uint32_t n, uint32_t size[SIM_WORKERS_MAX])
{
    uint32_t n_stages = 0;
    for (uint32_t taken = 0; taken < n; taken += size[n_stages++])
        size[n_stages] =
            s->setup.teams
                ? 1 + (uint32_t)sim_draw(s, n - taken < SIM_UNITS ? n - taken : SIM_UNITS)
                : 1;
    return n_stages;
}

/* Layers of the stages that nodes[0..n) form: each at least one and no more than fits, whatever is
 * left for those behind. */
static void share(struct sim *s, const uint32_t *nodes, uint32_t n, struct part_plan *plan)
{
    uint32_t size[SIM_WORKERS_MAX], layer = 0, first = 0;
    plan->n_stages = gather(s, n, size);
    plan->output_first = plan->n_stages > 1 && s->setup.output_first_in > 0 &&
                         sim_draw(s, s->setup.output_first_in) == 0;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const uint32_t left = s->setup.n_layers - layer, behind = plan->n_stages - i - 1,
                       fits = room(s, nodes, first, first + size[i]),
                       after = room(s, nodes, first + size[i], n);
        const uint32_t most = left - behind < fits ? left - behind : fits;
        const uint32_t least = left > after && left - after > 1 ? left - after : 1;
        uint32_t take = (left + behind) / (behind + 1);
        if (!s->setup.in_order)
            take = least + (uint32_t)sim_draw(s, most - least + 1);
        take = take < least ? least : take > most ? most : take;
        struct part_stage *g = &plan->stages[i];
        g->layer0 = layer;
        g->layer1 = layer += take;
        divide(s, nodes + first, size[i], i == (plan->output_first ? 0 : behind + i), g);
        first += size[i];
    }
}

/* The last answer may serve again, as a solver's would for the same question. */
static bool again(struct sim *s, uint32_t present)
{
    uint32_t nodes[SIM_WORKERS_MAX], n = 0;
    for (uint32_t i = 0; i < s->answer.n_stages; i++)
        for (uint32_t k = 0; k < s->answer.stages[i].n_members; k++) {
            nodes[n] = s->answer.stages[i].members[k].device;
            if ((present >> nodes[n++] & 1) == 0)
                return false;
        }
    if (s->setup.in_order && n < (uint32_t)__builtin_popcount(present))
        return false; /* all workers are taken */
    return n > 0 && linked(s, nodes, n) && sim_draw(s, 2) == 0;
}

/* As many workers as a plan takes, in `nodes`; 0: there is no plan. */
static uint32_t choose(struct sim *s, uint32_t present, uint32_t nodes[SIM_WORKERS_MAX])
{
    const uint32_t layers = s->setup.n_layers;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        uint32_t n = draw_order(s, present, nodes);
        n = n < layers ? n : layers;
        while (n > 1 && room(s, nodes, 0, n - 1) >= layers &&
               !(linked(s, nodes, n) && (s->setup.in_order || sim_draw(s, 3) > 0)))
            n--;
        if (n > 0 && room(s, nodes, 0, n) >= layers && linked(s, nodes, n))
            return n;
    }
    return 0;
}

void sim_planner_answer(struct sim *s, const struct sim_event *ev, struct coord_event *out,
                        struct part_plan *plan, double stage_s[PART_DEVICES_MAX])
{
    uint32_t nodes[SIM_WORKERS_MAX];
    const bool same = again(s, ev->peer);
    const uint32_t n = same ? s->answer.n_stages : choose(s, ev->peer, nodes);
    out->type = COORD_EV_PLANNED;
    out->serial = ev->life;
    out->ok = n > 0;
    s->no_plan = !out->ok;
    s->hopeless = !out->ok && ev->peer == (1u << s->config.n_workers) - 1;
    if (!out->ok) {
        out->reason = "no feasible plan";
        return;
    }
    if (!same) {
        memset(&s->answer, 0, sizeof s->answer);
        share(s, nodes, n, &s->answer);
    }
    *plan = s->answer;
    plan->latency_s = s->setup.in_order ? 1.0 : 0.5 + (double)sim_draw(s, 100) / 100;
    plan->bottleneck_s = plan->latency_s / plan->n_stages;
    for (uint32_t i = 0; i < s->setup.n_workers; i++)
        snprintf(plan->left_out[i], sizeof plan->left_out[i], "it would make no difference");
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        stage_s[i] = plan->bottleneck_s;
        for (uint32_t k = 0; k < plan->stages[i].n_members; k++)
            plan->left_out[plan->stages[i].members[k].device][0] = 0;
    }
    out->plan = plan;
    out->stage_s = out->stage_batch_s = stage_s;
    out->batch_rate = s->setup.in_order ? 10.0 : (double)(5 + sim_draw(s, 10));
    /* Now and then a move costs more than any plan could bring. */
    if (!s->setup.in_order && (s->setup.seed + out->serial) % 8 == 0)
        out->move = (struct coord_move_cost){.ship_bytes = 1e9, .ship_s = 1e3};
    out->chunk = s->setup.chunk != 0 ? s->setup.chunk : 64;
    out->groups = s->setup.in_order ? plan->n_stages
                                    : 1 + (uint32_t)(s->setup.seed % plan->n_stages);
}
