/* The coordinator core: what `shoal status`, `top` and `plan` are told: a STATUS_NODE for each
 * worker, LEFT_OUT for each that has no layers, and STATUS. Numbers come from the plan (predicted)
 * and from heartbeats (measured); a figure that is not known is 0; histories come
 * from core_watch.c. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

static const char *state_name(const struct coord_core *c, uint32_t i)
{
    if (coord_core_in_plan(&c->now, i))
        return c->nodes[i].drained ? "draining" : "serving";
    if (c->plan_state == PLAN_PREPARING && coord_core_in_plan(&c->next, i))
        return "preparing";
    if (coord_core_is_profiled(c, i))
        return "profiling";
    if (c->nodes[i].drained && c->nodes[i].connected)
        return "drained";
    static const char *const names[] = {"absent", "joining", "joining", "idle"};
    return names[c->nodes[i].state];
}

/* What the board said last; unknown where it is not heard. */
static void fill_board(struct coord_core *c, uint32_t i, struct net_msg_STATUS_NODE *m)
{
    static const struct watch_sample unknown = {.memory_free = UINT64_MAX,
                                                .memory_pressure = NAN,
                                                .cpu_pressure = NAN,
                                                .temperature = NAN,
                                                .clock = NAN,
                                                .battery = NAN,
                                                .power = NAN,
                                                .round_trip_ms = NAN};
    const struct watch_sample *s = c->nodes[i].connected ? coord_core_watched(c, i) : NULL;
    double bytes, passes;
    s = s != NULL ? s : &unknown;
    m->memory_free = s->memory_free;
    m->memory_used = s->memory_used;
    m->memory_pressure = net_to_wire(s->memory_pressure);
    m->cpu_pressure = net_to_wire(s->cpu_pressure);
    m->temperature = net_to_wire(s->temperature);
    m->clock = net_to_wire(s->clock);
    m->flags = s->flags;
    m->battery = net_to_wire(s->battery);
    m->power = net_to_wire(s->power);
    m->waiting = s->waiting;
    m->round_trip = net_to_wire(s->round_trip_ms);
    if (s != &unknown)
        (void)coord_core_memory(c, i, &bytes, &m->memory_slope);
    m->ratio = coord_core_slowness(c, i, &passes);
    const uint32_t n = coord_core_history(c, i, c->histories[i]);
    m->busy_then = net_list_f64(c->histories[i][0], n);
    m->memory_then = net_list_f64(c->histories[i][1], n);
    m->ms_then = net_list_f64(c->histories[i][2], n);
}

static void send_node(struct coord_core *c, uint32_t i, uint64_t client, struct coord_actions *out)
{
    struct node *n = &c->nodes[i];
    struct net_msg_STATUS_NODE m = {
        .name = base_span_str(c->config.workers[i].name),
        .state = base_span_str(state_name(c, i)),
        .stage = UINT32_MAX,
        .memory_bytes = c->profile.nodes[i].measured ? c->profile.nodes[i].memory_bytes : 0,
        .ms = n->pass_ms,
        .busy = n->connected ? n->busy : 0,
        .kernels = base_span_str(n->kernels),
    };
    const struct copy *y = c->now.epoch != 0 ? coord_core_copy_of(c, i) : NULL;
    if (y != NULL) {
        m.keeper = base_span_str(c->config.workers[y - c->checkpoint.of].name);
        for (uint32_t k = 0; k < c->config.slots; k++)
            m.copied += y->rows[k];
    }
    if (coord_core_in_plan(&c->now, i)) {
        m.stage = part_plan_find(&c->now.plan, i, &m.member);
        const struct part_stage *g = &c->now.plan.stages[m.stage];
        const struct part_member *part = &g->members[m.member];
        m.members = g->n_members;
        m.mesh = g->shape == PART_MESH;
        m.layer0 = g->layer0;
        m.layer1 = g->layer1;
        m.heads = (part->head1 - part->head0) * c->model.unit_heads;
        m.columns = coord_columns(c->model.n_ff, c->model.unit_cols, part->ff0, part->ff1);
        m.ms_predicted = c->now.stage_s[m.stage] * 1e3;
        m.memory_planned = n->planned_bytes;
    }
    fill_board(c, i, &m);
    m.error_ms = n->last_error[0] != 0 ? (uint64_t)(c->now_ms - n->error_ms) : 0;
    m.lost = n->lost;
    struct coord_action *a = coord_core_act(out, COORD_ACT_CLIENT);
    /* A copy: the same step may still find the node dead, and say so in the place of this text. */
    snprintf(a->text, sizeof a->text, "%s", n->last_error);
    m.last_error = net_text_fit(a->text, 300);
    a->client = client;
    a->msg.code = NET_MSG_STATUS_NODE;
    a->msg.u.STATUS_NODE = m;
}

static void send_left_out(struct coord_core *c, uint32_t i, uint64_t client,
                          struct coord_actions *out)
{
    if (c->now.epoch == 0 || coord_core_in_plan(&c->now, i))
        return;
    const char *why = c->config.workers[i].exclude      ? "excluded by the configuration"
                      : c->nodes[i].drained             ? "drained: shoal undrain takes it again"
                      : !c->nodes[i].connected          ? "not connected"
                      : c->now.plan.left_out[i][0] != 0 ? c->now.plan.left_out[i]
                                                        : "not needed by the plan in force";
    struct coord_action *a = coord_core_act(out, COORD_ACT_CLIENT);
    a->client = client;
    a->msg.code = NET_MSG_LEFT_OUT;
    a->msg.u.LEFT_OUT =
        (struct net_msg_LEFT_OUT){base_span_str(c->config.workers[i].name), base_span_str(why)};
}

void coord_core_status(struct coord_core *c, uint64_t client, struct coord_actions *out)
{
    uint64_t shipped = 0;
    for (uint32_t i = 0; i < c->config.n_workers; i++) {
        send_node(c, i, client, out);
        shipped += coord_core_in_plan(&c->now, i) ? c->nodes[i].fetched_bytes : 0;
    }
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        send_left_out(c, i, client, out);
    const bool serving = c->now.epoch != 0;
    const double tok_s = coord_core_pace(c, c->pace_history);
    struct coord_action *a = coord_core_act(out, COORD_ACT_CLIENT);
    snprintf(a->text, sizeof a->text, "%s%.280s",
             serving       ? "serving"
             : c->hopeless ? "no plan: "
                           : "waiting for ",
             serving ? "" : c->waits);
    a->client = client;
    a->msg.code = NET_MSG_STATUS;
    a->msg.u.STATUS = (struct net_msg_STATUS){
        .epoch = c->now.epoch,
        .cluster = base_span_str(c->config.name),
        .model = net_text_fit(c->model.file, 255),
        .state = net_text_fit(a->text, 300),
        .slots = c->config.slots,
        .active = coord_core_n_active(c),
        .queued = coord_core_n_queued(c),
        .ms_predicted = serving ? c->now.plan.latency_s * 1e3 : 0,
        .ms = c->token_ms,
        .tok_s_predicted = serving ? c->now.batch_rate : 0,
        .prompt = c->config.prompt,
        .ttft_predicted = serving ? c->now.plan.ttft_s * 1e3 : 0,
        .gap = serving ? c->now.plan.gap : 0,
        .shipped_bytes = shipped,
        .tok_s = tok_s,
        .tok_s_then = net_list_f64(c->pace_history, WATCH_SAMPLES - 1),
        .stays = base_span_str(serving ? c->stays : ""),
    };
}
