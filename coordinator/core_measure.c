/* The coordinator core: measuring workers and links.
 *
 * One task at a time in the whole cluster: first every worker's own speed (PROFILE), then every
 * ordered pair of workers (TEST_LINK). So no two transfers share a board, and workers that share a
 * machine do not disturb each other. No plan depends on a worker's link to the coordinator: that is
 * measured once a plan serves and there is no request, for the log. A worker whose PROFILE takes
 * longer than MEASURE_WAIT_MS is slow, or hangs: the others wait no longer for it, and what it says
 * is taken when it comes. Each task has a deadline; one that fails is logged
 * and noted, and its numbers stay NAN, which coord_solve takes for a link that is not to be used. A
 * worker that reconnects is asked again, and has the numbers ready where its process has lived on;
 * so has it those of connections that have not broken (worker/shell.h): then nothing has to wait
 * for a coordinator that was restarted but the plan.
 *
 * While the cluster serves, one link after the other is measured again, `remeasure` apart, with a
 * short burst and only while no request is in the ring. Its numbers are mixed with those before, and
 * when they have gone by CHANGED from what the planner last had, it is asked again; whether its
 * answer is worth a move is judged as always. A link that fails then keeps its numbers: that it is
 * broken, the ring finds out. Left out: measuring workers again, whose passes are timed anyway. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

void coord_core_profile_forget(struct coord_core *c, uint32_t node)
{
    struct coord_profile *p = &c->profile;
    p->nodes[node].measured = false;
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++) {
        p->rtt[node][i] = p->rtt[i][node] = p->rate[node][i] = p->rate[i][node] = NAN;
        c->link_tried[node][i] = c->link_tried[i][node] = false;
    }
    c->link_tried[node][NET_WORKERS_MAX] = false;
    p->coord_rtt[node] = p->coord_up[node] = p->coord_down[node] = NAN;
}

enum { BURST_BYTES = 4 << 20, BURST_AGAIN_BYTES = 512 << 10 };
static const double CHANGED = 0.2; /* of a link's numbers: worth asking the planner */

static void begin(struct coord_core *c, enum task_kind kind, uint32_t node, uint32_t peer,
                  struct coord_actions *out)
{
    const bool again = kind == TASK_LINK && c->link_tried[node][peer];
    c->task =
        (struct task){kind, again,     node,
                      peer, c->now_ms, c->now_ms + (kind == TASK_PROFILE ? PROFILE_MS : LINK_MS)};
    struct coord_action *a = coord_core_act(out, COORD_ACT_NODE);
    a->node = node;
    if (kind == TASK_PROFILE) {
        a->msg.code = NET_MSG_PROFILE;
        a->msg.u.PROFILE.rows = c->config.slots > 1 ? c->config.slots : 2;
        return;
    }
    const char *peer_name = peer < NET_WORKERS_MAX ? c->config.workers[peer].name : "";
    a->msg.code = NET_MSG_TEST_LINK;
    a->msg.u.TEST_LINK = (struct net_msg_TEST_LINK){
        base_span_str(peer_name), again ? BURST_AGAIN_BYTES : BURST_BYTES, again};
    c->link_tried[node][peer] = true;
}

/* The plan will need this worker's numbers. */
static bool counts(const struct coord_core *c, uint32_t i)
{
    return c->nodes[i].connected && !c->config.workers[i].exclude;
}

/* A plan serves, and a burst disturbs nobody. */
static bool is_quiet(const struct coord_core *c)
{
    return c->now.epoch != 0 && c->plan_state == PLAN_IDLE && coord_core_n_active(c) == 0;
}

static void measure_coordinator(struct coord_core *c, struct coord_actions *out)
{
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        if (counts(c, i) && c->nodes[i].state == NODE_MEASURED &&
            !c->link_tried[i][NET_WORKERS_MAX]) {
            begin(c, TASK_LINK, i, NET_WORKERS_MAX, out);
            return;
        }
}

/* Measure the next link again, where it is time. */
static void measure_again(struct coord_core *c, struct coord_actions *out)
{
    const uint32_t n = c->config.n_workers;
    if (c->config.remeasure_ms == 0 || c->now_ms - c->again_ms < (int64_t)c->config.remeasure_ms)
        return;
    for (uint32_t tried = 0; tried < n * n; tried++) {
        const uint32_t i = c->again_next / n % n, k = c->again_next % n;
        c->again_next = (c->again_next + 1) % (n * n);
        if (i != k && counts(c, i) && counts(c, k) && c->nodes[i].state == NODE_MEASURED &&
            c->nodes[k].state == NODE_MEASURED && c->profile.rate[i][k] > 0) {
            begin(c, TASK_LINK, i, k, out);
            return;
        }
    }
}

void coord_core_measure(struct coord_core *c, struct coord_actions *out)
{
    const uint32_t n = c->config.n_workers;
    if (c->task.kind != TASK_NONE)
        return;
    for (uint32_t i = 0; i < n; i++)
        if (counts(c, i) && c->nodes[i].state == NODE_READY &&
            !coord_core_is_profiled(c, i) && c->nodes[i].avoid_until_ms <= c->now_ms) {
            begin(c, TASK_PROFILE, i, 0, out);
            return;
        }
    for (uint32_t i = 0; i < n; i++) {
        if (!counts(c, i) || c->nodes[i].state != NODE_MEASURED)
            continue;
        for (uint32_t k = 0; k < n; k++)
            if (k != i && counts(c, k) && c->nodes[k].state == NODE_MEASURED &&
                !c->link_tried[i][k]) {
                begin(c, TASK_LINK, i, k, out);
                return;
            }
    }
    if (is_quiet(c) && coord_core_n_queued(c) == 0)
        measure_coordinator(c, out);
    if (is_quiet(c) && c->task.kind == TASK_NONE)
        measure_again(c, out);
}

bool coord_core_measures_for_plan(const struct coord_core *c)
{
    return c->task.kind == TASK_PROFILE ||
           (c->task.kind == TASK_LINK && !c->task.again && c->task.peer < NET_WORKERS_MAX);
}

void coord_core_measured_for_plan(struct coord_core *c)
{
    memcpy(c->planned_rtt, c->profile.rtt, sizeof c->planned_rtt);
    memcpy(c->planned_rate, c->profile.rate, sizeof c->planned_rate);
}

static bool changed(double now, double then)
{
    return fabs(now - then) > CHANGED * then;
}

static void say_failed(struct coord_core *c, uint32_t node, const char *error,
                       struct coord_actions *out)
{
    coord_core_node_error(c, node, error);
    coord_core_log(out, true, "measuring_failed name=%s reason=\"%s\"",
                   c->config.workers[node].name, error);
}

bool coord_core_is_profiled(const struct coord_core *c, uint32_t node)
{
    return c->nodes[node].profile_until_ms != 0 ||
           (c->task.kind == TASK_PROFILE && c->task.node == node);
}

/* A task is over, well or not: the numbers are what they are. */
static void end_profile(struct coord_core *c, uint32_t node, const char *error,
                        struct coord_actions *out)
{
    coord_core_task_drop(c, node);
    /* A compute thread that has measured has not hung meanwhile; links are tested without it. */
    c->nodes[node].progress_ms = c->now_ms;
    if (error[0] != 0) {
        say_failed(c, node, error, out);
        c->nodes[node].avoid_until_ms = c->now_ms + PREPARE_SILENT_MS;
    }
    coord_core_act(out, COORD_ACT_SAVE);
    c->again_ms = c->now_ms;
    coord_core_want_plan(c, 0, false);
}

static void end_link(struct coord_core *c, const char *error, struct coord_actions *out)
{
    const struct task t = c->task;
    c->task.kind = TASK_NONE;
    if (error[0] != 0)
        say_failed(c, t.node, error, out);
    coord_core_act(out, COORD_ACT_SAVE);
    c->again_ms = c->now_ms;
    if (t.peer == NET_WORKERS_MAX)
        return;
    if (!t.again || changed(c->profile.rtt[t.node][t.peer], c->planned_rtt[t.node][t.peer]) ||
        changed(c->profile.rate[t.node][t.peer], c->planned_rate[t.node][t.peer]))
        coord_core_want_plan(c, 0, false);
}

static bool numbers_ok(struct net_list l)
{
    for (uint32_t i = 0; i < l.n; i++)
        if (!(net_f64_at(l, i) >= 0 && net_f64_at(l, i) < 1e6))
            return false;
    return true;
}

static bool profile_ok(const struct net_msg_PROFILED *m, uint32_t n_layers)
{
    const struct net_list of_batches[] = {m->rows, m->attention_fixed, m->ffn_fixed, m->embed,
                                          m->output};
    bool ok = m->attention.n == COORD_BATCHES * n_layers && m->ffn.n == m->attention.n &&
              numbers_ok(m->attention) && numbers_ok(m->ffn) && m->throttle > 0 &&
              m->throttle <= 1 && m->sample >= 0 && m->wake >= 0 && m->codec >= 0 && m->message >= 0 && m->pass >= 0;
    for (size_t i = 0; i < sizeof of_batches / sizeof *of_batches; i++)
        ok = ok && of_batches[i].n == COORD_BATCHES && (i == 0 || numbers_ok(of_batches[i]));
    for (uint32_t i = 0; ok && i < COORD_BATCHES; i++)
        ok = i == 0 ? net_u32_at(m->rows, 0) == 1
                    : net_u32_at(m->rows, i) > net_u32_at(m->rows, i - 1);
    return ok;
}

static void keep_profile(const struct net_msg_PROFILED *m, uint32_t n_layers,
                         struct coord_node_profile *p)
{
    for (uint32_t i = 0; i < COORD_BATCHES; i++) {
        struct coord_batch *b = &p->batches[i];
        p->rows[i] = net_u32_at(m->rows, i);
        for (uint32_t l = 0; l < n_layers; l++) {
            b->attention[l] = net_f64_at(m->attention, i * n_layers + l);
            b->ffn[l] = net_f64_at(m->ffn, i * n_layers + l);
        }
        b->attention_fixed = net_f64_at(m->attention_fixed, i);
        b->ffn_fixed = net_f64_at(m->ffn_fixed, i);
        b->embed = net_f64_at(m->embed, i);
        b->output = net_f64_at(m->output, i);
    }
    p->sample = m->sample;
    p->wake = m->wake;
    p->codec = m->codec;
    p->message = m->message;
    p->throttle = m->throttle;
    p->pass = m->pass;
    p->memory_bytes = m->memory_bytes;
    p->base_bytes = m->base_bytes;
    p->measured = true;
}

void coord_core_profiled(struct coord_core *c, uint32_t node, const struct net_msg_PROFILED *m,
                         struct coord_actions *out)
{
    if (!coord_core_is_profiled(c, node))
        return;
    struct coord_node_profile *p = &c->profile.nodes[node];
    char error[301];
    snprintf(error, sizeof error, "%.*s", (int)m->error.len, (const char *)m->error.ptr);
    if (error[0] == 0 && !profile_ok(m, c->model.n_layers))
        snprintf(error, sizeof error, "its profile does not fit the model");
    if (error[0] == 0) {
        keep_profile(m, c->model.n_layers, p);
        if (m->age_ms == 0)
            coord_core_policy_forget(c, node);
        coord_core_forecast_forget(c);
        coord_core_log(out, false,
                       "profiled name=%s attention_ms=%.3f ffn_ms=%.3f output_ms=%.3f pass_ms=%.3f "
                       "wake_ms=%.3f throttle=%.2f memory=%llu age_ms=%llu",
                       c->config.workers[node].name, p->batches[0].attention[0] * 1e3,
                       p->batches[0].ffn[0] * 1e3, p->batches[0].output * 1e3, p->pass * 1e3,
                       p->wake * 1e3, p->throttle, (unsigned long long)p->memory_bytes,
                       (unsigned long long)m->age_ms);
    }
    end_profile(c, node, error, out);
}

void coord_core_link_tested(struct coord_core *c, uint32_t node,
                            const struct net_msg_LINK_TESTED *m, struct coord_actions *out)
{
    const uint32_t peer = c->task.peer;
    const char *name = peer < NET_WORKERS_MAX ? c->config.workers[peer].name : "";
    if (c->task.kind != TASK_LINK || c->task.node != node || !base_span_is(m->peer, name))
        return;
    char error[301];
    snprintf(error, sizeof error, "%.*s", (int)m->error.len, (const char *)m->error.ptr);
    if (error[0] == 0 && !(m->rtt > 0 && m->rtt < 1e3 && m->up > 0 && m->down >= 0))
        snprintf(error, sizeof error, "its link test to %s gave no sound numbers",
                 name[0] != 0 ? name : "the coordinator");
    if (error[0] == 0 && c->task.again) {
        double *const rtt = &c->profile.rtt[node][peer], *const rate = &c->profile.rate[node][peer];
        *rtt = c->profile.rtt[peer][node] = (*rtt + m->rtt) / 2;
        *rate = (*rate + m->up) / 2;
    } else if (error[0] == 0 && peer == NET_WORKERS_MAX) {
        c->profile.coord_rtt[node] = m->rtt;
        c->profile.coord_up[node] = m->up;
        c->profile.coord_down[node] = m->down;
    } else if (error[0] == 0) {
        /* Round trips in both directions cross the same wire: the smaller one has less of other
         * work in it. */
        const double back = c->profile.rtt[peer][node], rtt = back < m->rtt ? back : m->rtt;
        c->profile.rtt[node][peer] = c->profile.rtt[peer][node] = rtt;
        c->profile.rate[node][peer] = m->up;
    }
    if (error[0] == 0)
        coord_core_log(out, false, "link from=%s to=%s rtt_ms=%.3f up_mb_s=%.1f down_mb_s=%.1f",
                       c->config.workers[node].name, name[0] != 0 ? name : "coordinator",
                       m->rtt * 1e3, m->up / 1e6, m->down / 1e6);
    end_link(c, error, out);
}

void coord_core_task_drop(struct coord_core *c, uint32_t node)
{
    c->nodes[node].profile_until_ms = 0;
    if (c->task.kind != TASK_NONE &&
        (c->task.node == node || (c->task.kind == TASK_LINK && c->task.peer == node)))
        c->task.kind = TASK_NONE;
}

void coord_core_task_time(struct coord_core *c, struct coord_actions *out)
{
    if (c->task.kind == TASK_PROFILE && c->now_ms - c->task.begun_ms > MEASURE_WAIT_MS) {
        coord_core_log(out, true, "measuring_slow name=%s effect=\"the others do not wait for it\"",
                       c->config.workers[c->task.node].name);
        c->nodes[c->task.node].profile_until_ms = c->task.deadline_ms;
        c->task.kind = TASK_NONE;
    }
    if (c->task.kind == TASK_LINK && c->now_ms > c->task.deadline_ms)
        end_link(c, "it did not finish testing a link in time", out);
    for (uint32_t i = 0; i < c->config.n_workers; i++)
        if (c->nodes[i].profile_until_ms != 0 && c->now_ms > c->nodes[i].profile_until_ms)
            end_profile(c, i, "it did not finish profiling in time", out);
}
