/* What a cluster says of itself, for `status` and `plan`: one question, a message for each node,
 * one for each that was left out, and STATUS at the end.
 *
 * Texts are copied, since messages are lent. The invariant: what is returned is one whole answer; a
 * cut in the middle begins the question anew. A coordinator that says nothing is an error after a
 * while (client/cluster.c). Asking again and again is `top`'s. */
#include "client/client.h"

#include <string.h>

/* All of a text that the wire's maximum allows fits into its buffer. */
static void copy(char *to, size_t max, struct span s)
{
    const size_t n = s.len < max - 1 ? s.len : max - 1;
    if (n > 0)
        memcpy(to, s.ptr, n);
    to[n] = 0;
}

/* A history; returns how many points it has. */
static uint32_t copy_list(double to[static CLI_THEN_MAX], struct net_list l)
{
    const uint32_t n = l.n < CLI_THEN_MAX ? l.n : CLI_THEN_MAX;
    for (uint32_t i = 0; i < n; i++)
        to[i] = net_from_wire(net_f64_at(l, i));
    return n;
}

static void take_board(struct cli_node *n, const struct net_msg_STATUS_NODE *m)
{
    n->memory_free = m->memory_free;
    n->memory_slope = m->memory_slope;
    n->memory_pressure = net_from_wire(m->memory_pressure);
    n->cpu_pressure = net_from_wire(m->cpu_pressure);
    n->temperature = net_from_wire(m->temperature);
    n->clock = net_from_wire(m->clock);
    n->battery = net_from_wire(m->battery);
    n->power = net_from_wire(m->power);
    n->round_trip_ms = net_from_wire(m->round_trip);
    n->flags = m->flags;
    n->waiting = m->waiting;
    const uint32_t busy = copy_list(n->busy_then, m->busy_then),
                   memory = copy_list(n->memory_then, m->memory_then),
                   ms = copy_list(n->ms_then, m->ms_then);
    n->n_then = busy < memory ? busy : memory;
    n->n_then = ms < n->n_then ? ms : n->n_then;
}

static void on_node(struct cli_cluster_status *st, const struct net_msg_STATUS_NODE *m)
{
    if (st->n_nodes == NET_WORKERS_MAX)
        return;
    struct cli_node *n = &st->nodes[st->n_nodes++];
    *n = (struct cli_node){.stage = m->stage,
                           .layer0 = m->layer0,
                           .layer1 = m->layer1,
                           .member = m->member,
                           .members = m->members,
                           .mesh = m->mesh != 0,
                           .heads = m->heads,
                           .columns = m->columns,
                           .memory_bytes = m->memory_bytes,
                           .memory_planned = m->memory_planned,
                           .memory_used = m->memory_used,
                           .ms_predicted = m->ms_predicted,
                           .ms = m->ms,
                           .busy = m->busy,
                           .ratio = m->ratio,
                           .error_ms = m->error_ms,
                           .lost = m->lost != 0,
                           .copied = m->copied};
    take_board(n, m);
    copy(n->name, sizeof n->name, m->name);
    copy(n->state, sizeof n->state, m->state);
    copy(n->kernels, sizeof n->kernels, m->kernels);
    copy(n->last_error, sizeof n->last_error, m->last_error);
    copy(n->keeper, sizeof n->keeper, m->keeper);
}

static void on_left_out(struct cli_cluster_status *st, const struct net_msg_LEFT_OUT *m)
{
    for (uint32_t i = 0; i < st->n_nodes; i++)
        if (base_span_is(m->name, st->nodes[i].name))
            copy(st->nodes[i].left_out, sizeof st->nodes[i].left_out, m->reason);
}

static void on_status(struct cli_cluster_status *st, const struct net_msg_STATUS *m)
{
    st->epoch = m->epoch;
    st->shipped_bytes = m->shipped_bytes;
    st->slots = m->slots;
    st->active = m->active;
    st->queued = m->queued;
    st->ms_predicted = m->ms_predicted;
    st->ms = m->ms;
    st->tok_s_predicted = m->tok_s_predicted;
    st->prompt = m->prompt;
    st->ttft_predicted = m->ttft_predicted;
    st->gap = m->gap;
    st->tok_s = m->tok_s;
    st->n_then = copy_list(st->tok_s_then, m->tok_s_then);
    copy(st->cluster, sizeof st->cluster, m->cluster);
    copy(st->model, sizeof st->model, m->model);
    copy(st->state, sizeof st->state, m->state);
    copy(st->stays, sizeof st->stays, m->stays);
}

int cli_status_send(struct cli_cluster *c, struct err *e)
{
    const struct net_msg m = {.code = NET_MSG_ASK_STATUS, .u.ASK_STATUS = {NET_CLIENT_VERSION}};
    return net_send(c->net, c->coordinator, &m, e);
}

int cli_status_take(struct cli_cluster_status *out, const struct net_event *ev, bool *done,
                    struct err *e)
{
    *done = false;
    if (ev->type == NET_EV_UP)
        out->n_nodes = 0; /* what came before the cut is half an answer */
    if (ev->type != NET_EV_MESSAGE)
        return 0;
    switch ((int)ev->msg.code) {
    case NET_MSG_STATUS_NODE:
        on_node(out, &ev->msg.u.STATUS_NODE);
        break;
    case NET_MSG_LEFT_OUT:
        on_left_out(out, &ev->msg.u.LEFT_OUT);
        break;
    case NET_MSG_STATUS:
        on_status(out, &ev->msg.u.STATUS);
        *done = true;
        break;
    case NET_MSG_NO:
        return err_set(e, ERR_REFUSED, "the coordinator refuses: %.*s",
                       (int)ev->msg.u.NO.reason.len, (const char *)ev->msg.u.NO.reason.ptr);
    default:
        break;
    }
    return 0;
}

int cli_cluster_status(struct cli_cluster *c, const struct net_msg *ask,
                       struct cli_cluster_status *out, struct err *e)
{
    struct net_event ev;
    bool done = false;
    out->n_nodes = 0;
    int rc = c->up ? net_send(c->net, c->coordinator, ask, e) : 0;
    while (rc == 0 && !done && (rc = cli_cluster_next(c, 1000, &ev, e)) == 0) {
        if (ev.type == NET_EV_UP)
            rc = net_send(c->net, c->coordinator, ask, e);
        if (rc == 0)
            rc = cli_status_take(out, &ev, &done, e);
    }
    return rc;
}

int cli_ask_status(const struct cli_options *o, struct cli_cluster_status *out, struct err *e)
{
    const struct net_msg m = {.code = NET_MSG_ASK_STATUS, .u.ASK_STATUS = {NET_CLIENT_VERSION}};
    struct cli_cluster *c = NULL;
    int rc = cli_cluster_open(o, &c, e);
    if (rc == 0)
        rc = cli_cluster_status(c, &m, out, e);
    cli_cluster_close(c);
    return rc;
}
