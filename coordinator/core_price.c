/* The coordinator core: is a better plan worth the move to it?
 *
 * Only asked where nothing forces the move. Text is taken to go on like this for `horizon`. Staying
 * makes as many tokens in that time as the plan in force makes. Going makes fewer while weights are
 * shipped and KV rows taken, since links and processors have that to do as well (SHARED of the pace
 * is left), none for a pause of about two passes, and those of the new plan for the rest. The plan
 * that makes more tokens is the one to have; so a move that takes longer than the horizon is never
 * made. Both paces are the objective's: of one request, of all slots, or weighed.
 *
 * `move-budget` limits the bytes of such moves: it is an allowance that fills up within an hour, from
 * which each move is paid, and what it cannot pay is not made. Weights that a worker has in its store
 * from elsewhere are paid all the same, as nobody here knows of them (move_cost.c). */
#include "coordinator/core_private.h"

#include <math.h>

static const double BETTER = 0.95, SHARED = 0.5, PAUSE_PASSES = 2, HOUR_MS = 3600e3;

/* Seconds a token as the objective weighs them: of one request, and between tokens of all slots. */
static double token_s(const struct coord_core *c, double latency_s, double rate)
{
    const double w = c->config.objective;
    return (1 - w) * latency_s + w / rate;
}

/* Of the last plan, by today's numbers where the planner was asked about it. */
static double last_token_s(const struct coord_core *c, const struct coord_event *ev)
{
    const bool asked = ev->now_latency_s > 0;
    return token_s(c, asked ? ev->now_latency_s : c->now.plan.latency_s,
                   asked ? ev->now_batch_rate : c->now.batch_rate);
}

bool coord_core_is_better(const struct coord_core *c, const struct coord_event *ev)
{
    return token_s(c, ev->plan->latency_s, ev->batch_rate) < BETTER * last_token_s(c, ev);
}

/* Tokens more, or fewer, within the horizon, as a share of those of the plan in force. */
static double profit(const struct coord_core *c, double now_s, double next_s, double moving_s,
                     double pause_s)
{
    const double horizon_s = c->config.horizon_ms / 1e3;
    const double left_s = horizon_s - moving_s - pause_s;
    if (left_s <= 0)
        return -1;
    return (SHARED * moving_s / now_s + left_s / next_s) / (horizon_s / now_s) - 1;
}

/* The allowance as it is now. */
static double allowance(struct coord_core *c)
{
    const double most = (double)c->config.move_budget;
    if (c->price_ms == 0)
        c->allowance = most;
    else
        c->allowance += most * (double)(c->now_ms - c->price_ms) / HOUR_MS;
    c->price_ms = c->now_ms;
    return c->allowance = fmin(c->allowance, most);
}

bool coord_core_worth_moving(struct coord_core *c, const struct coord_event *ev,
                             struct coord_actions *out)
{
    const struct coord_move_cost *m = &ev->move;
    const double filled = coord_core_kv_filled(c), kv_bytes = filled * m->kv_bytes,
                 bytes = m->ship_bytes + kv_bytes, moving_s = m->ship_s + filled * m->kv_s,
                 now_s = last_token_s(c, ev),
                 next_s = token_s(c, ev->plan->latency_s, ev->batch_rate),
                 brings = profit(c, now_s, next_s, moving_s, PAUSE_PASSES * ev->plan->latency_s);
    const bool limited = c->config.move_budget > 0, dear = limited && bytes > allowance(c);
    char ship[24], kv[24], left[24], budget[48] = "";
    if (brings > 0 && !dear) {
        c->allowance -= limited ? bytes : 0;
        return true;
    }
    if (limited)
        snprintf(budget, sizeof budget, "; %s of the budget are left",
                 base_bytes_text((uint64_t)c->allowance, left));
    snprintf(c->stays, sizeof c->stays,
             "another plan is %.1f %% better, but moving to it takes %s of weights (%.1f s) and %s "
             "of KV "
             "rows (%.1f s), which brings %.1f %% more tokens in %.0f s%s",
             100 * (1 - next_s / now_s), base_bytes_text((uint64_t)m->ship_bytes, ship), m->ship_s,
             base_bytes_text((uint64_t)kv_bytes, kv), filled * m->kv_s, 100 * brings,
             c->config.horizon_ms / 1e3, budget);
    coord_core_log(out, true, "stays reason=\"%s\"", c->stays);
    return false;
}
