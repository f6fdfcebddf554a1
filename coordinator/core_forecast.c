/* The coordinator core: what the cluster would do without each of its workers.
 *
 * While a plan serves and nothing else is under way, the planner is asked for the plan of the others,
 * for one worker of the plan in force after the other. The answers are good for two things. Whoever
 * would take over is told which pieces that takes (STOCK), and fetches them beforehand, so that
 * shipping does not stand between a loss and the text that goes on. And when the worker is lost or
 * drained its successor is there: nobody waits for the planner.
 *
 * What was worked out holds for one epoch and one set of workers; a worker measured anew, another
 * configuration, or whatever else makes the planner be asked in earnest ends it as well. Two workers
 * lost at once are planned for when it happens, with whatever pieces are there. */
#include "coordinator/core_private.h"

#include <string.h>

enum { FORECAST_WAIT_MS = 2000 }; /* a plan that has just begun may be about to change again */

void coord_core_forecast_forget(struct coord_core *c)
{
    c->forecasts.epoch = 0;
    c->forecasts.serial = 0;
}

static void begin(struct coord_core *c)
{
    struct forecasts *f = &c->forecasts;
    f->epoch = c->now.epoch;
    f->present = c->planned_present;
    f->next = 0;
    f->serial = 0;
    f->at_ms = c->now_ms + FORECAST_WAIT_MS;
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        f->of[i].state = FORECAST_UNKNOWN;
}

void coord_core_forecast_pump(struct coord_core *c, struct coord_actions *out)
{
    struct forecasts *f = &c->forecasts;
    const bool measuring = coord_core_measures_for_plan(c);
    if (!c->config.prefetch || c->now.epoch == 0 || c->plan_state != PLAN_IDLE || c->plan_wanted ||
        measuring)
        return;
    if (f->epoch != c->now.epoch || f->present != c->planned_present)
        begin(c);
    while (f->next < c->config.n_workers && !coord_core_in_plan(&c->now, f->next))
        f->next++;
    if (f->next == c->config.n_workers || f->serial != 0 || c->now_ms < f->at_ms)
        return;
    struct coord_action *a = coord_core_act(out, COORD_ACT_PLAN);
    a->present = f->present & ~(1u << f->next);
    a->serial = f->serial = ++c->serial;
    a->ahead = true;
}

static void stock(struct coord_core *c, const struct part_plan *p, struct coord_actions *out)
{
    for (uint32_t s = 0; s < p->n_stages; s++)
        for (uint32_t k = 0; k < p->stages[s].n_members; k++) {
            struct coord_action *a = coord_core_act(out, COORD_ACT_STOCK);
            a->shard = coord_shard_of(p, s, k);
            a->node = a->shard.part.device;
            a->epoch = c->now.epoch;
        }
}

bool coord_core_forecasted(struct coord_core *c, const struct coord_event *ev,
                           struct coord_actions *out)
{
    struct forecasts *f = &c->forecasts;
    if (f->serial == 0 || ev->serial != f->serial)
        return false;
    const char *name = c->config.workers[f->next].name;
    struct forecast *to = &f->of[f->next++];
    f->serial = 0;
    if (!ev->ok) {
        to->state = FORECAST_NONE;
        coord_core_log(out, false, "forecast without=%s reason=\"%s\"", name, ev->reason);
        return true;
    }
    *to = (struct forecast){.state = FORECAST_PLAN,
                            .plan = *ev->plan,
                            .batch_rate = ev->batch_rate,
                            .chunk = ev->chunk,
                            .groups = ev->groups};
    memcpy(to->stage_s, ev->stage_s, ev->plan->n_stages * sizeof *ev->stage_s);
    memcpy(to->stage_batch_s, ev->stage_batch_s, ev->plan->n_stages * sizeof *ev->stage_batch_s);
    coord_core_log(out, false, "forecast without=%s predicted_ms=%.3f", name,
                   ev->plan->latency_s * 1e3);
    if (f->epoch == c->now.epoch)
        stock(c, ev->plan, out);
    return true;
}

bool coord_core_forecast_for(const struct coord_core *c, uint32_t present, struct coord_event *ev)
{
    const struct forecasts *f = &c->forecasts;
    for (uint32_t i = 0; f->epoch != 0 && i < c->config.n_workers; i++)
        if (f->of[i].state == FORECAST_PLAN && (f->present & ~(1u << i)) == present) {
            *ev = (struct coord_event){.type = COORD_EV_PLANNED,
                                       .ok = true,
                                       .plan = &f->of[i].plan,
                                       .stage_s = f->of[i].stage_s,
                                       .stage_batch_s = f->of[i].stage_batch_s,
                                       .batch_rate = f->of[i].batch_rate,
                                       .chunk = f->of[i].chunk,
                                       .groups = f->of[i].groups};
            return true;
        }
    return false;
}
