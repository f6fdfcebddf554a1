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

/* Rings cross no link that could not be measured. */
static bool linked(const struct sim *s, const uint32_t *nodes, uint32_t n)
{
    const struct coord_profile *p = coord_core_profile(s->coord);
    for (uint32_t i = 0; n > 1 && i < n; i++)
        if (isnan(p->rate[nodes[i]][nodes[(i + 1) % n]]))
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

/* Shares of nodes[0..n): each at least one layer and no more than fits, whatever is left for those
 * behind. */
static void share(struct sim *s, const uint32_t *nodes, uint32_t n, struct part_plan *plan)
{
    uint32_t layer = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t left = s->setup.n_layers - layer, behind = n - i - 1,
                       after = room(s, nodes, i + 1, n);
        const uint32_t most = left - behind < s->setup.layers_max[nodes[i]]
                                  ? left - behind
                                  : s->setup.layers_max[nodes[i]];
        const uint32_t least = left > after && left - after > 1 ? left - after : 1;
        uint32_t take = (left + behind) / (behind + 1);
        if (!s->setup.in_order)
            take = least + (uint32_t)sim_draw(s, most - least + 1);
        take = take < least ? least : take > most ? most : take;
        plan->stages[i] = (struct part_stage){
            .layer0 = layer,
            .layer1 = layer + take,
            .n_members = 1,
            .members = {{.device = nodes[i], .head1 = 1, .ff1 = 1, .run1 = i + 1 == n ? 1 : 0}}};
        layer += take;
    }
    plan->n_stages = n;
}

/* The last answer may serve again, as a solver's would for the same question. */
static bool again(struct sim *s, uint32_t present)
{
    uint32_t nodes[SIM_WORKERS_MAX];
    const uint32_t n = s->answer.n_stages;
    for (uint32_t i = 0; i < n; i++) {
        nodes[i] = s->answer.stages[i].members[0].device;
        if ((present >> nodes[i] & 1) == 0)
            return false;
    }
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
    plan->bottleneck_s = plan->latency_s / n;
    for (uint32_t i = 0; i < s->setup.n_workers; i++)
        snprintf(plan->left_out[i], sizeof plan->left_out[i], "it would make no difference");
    for (uint32_t i = 0; i < n; i++) {
        plan->left_out[plan->stages[i].members[0].device][0] = 0;
        stage_s[i] = plan->bottleneck_s;
    }
    out->plan = plan;
    out->stage_s = stage_s;
    out->batch_rate = s->setup.in_order ? 10.0 : (double)(5 + sim_draw(s, 10));
    out->chunk = s->setup.chunk != 0 ? s->setup.chunk : 64;
}
