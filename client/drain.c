/* `shoal drain` and `shoal undrain`: a worker is emptied, its heads, layers and KV cache going to the
 * others while text keeps coming; or it is taken again.
 *
 * The coordinator does the work; this asks, says how far it is and ends when the worker holds
 * nothing, or when the others turn out not to be able to do without it. What was asked for goes on
 * where the command is interrupted. */
#include "client/client.h"

#include <string.h>

enum { AGAIN_MS = 250 };

static const struct cli_node *find(const struct cli_cluster_status *st, const char *name)
{
    for (uint32_t i = 0; i < st->n_nodes; i++)
        if (strcmp(st->nodes[i].name, name) == 0)
            return &st->nodes[i];
    return NULL;
}

/* Let some time pass; the coordinator may go and come meanwhile. */
static int pause_ms(struct cli_cluster *c, int64_t ms, struct err *e)
{
    struct net_event ev;
    const int64_t until_ms = base_clock_ms() + ms;
    int rc = 0;
    while (rc == 0 && base_clock_ms() < until_ms) {
        c->heard_ms = base_clock_ms(); /* it is not asked anything */
        rc = cli_cluster_next(c, (int)ms, &ev, e);
    }
    return rc;
}

static int wait_until_empty(struct cli_cluster *c, const char *name, struct cli_cluster_status *st,
                            struct err *e)
{
    const struct net_msg ask = {.code = NET_MSG_ASK_STATUS, .u.ASK_STATUS = {NET_CLIENT_VERSION}};
    int rc = 0;
    while (rc == 0) {
        const struct cli_node *n = find(st, name);
        if (n == NULL || strcmp(n->state, "draining") != 0)
            break;
        cli_note("%s holds layers %u to %u: the others get ready", name, n->layer0, n->layer1 - 1);
        if ((rc = pause_ms(c, AGAIN_MS, e)) == 0)
            rc = cli_cluster_status(c, &ask, st, e);
    }
    cli_note("%s", "");
    const struct cli_node *n = find(st, name);
    if (rc != 0)
        return rc;
    if (n != NULL && strcmp(n->state, "serving") == 0)
        return err_set(e, ERR_INFEASIBLE, "%s %s", name,
                       n->last_error[0] != 0 ? n->last_error : "was taken again by somebody else");
    cli_say("%s is drained: nothing runs on it until shoal undrain", name);
    return 0;
}

static int run(const struct cli_options *o, bool on, struct err *e)
{
    struct cli_cluster *c = NULL;
    struct cli_cluster_status *st = base_zalloc(1, sizeof *st);
    const struct net_msg ask = {
        .code = NET_MSG_DRAIN, .u.DRAIN = {NET_CLIENT_VERSION, base_span_str(o->args[0]), on}};
    int rc = err_set(e, ERR_NOMEM, "out of memory for the status");
    if (!net_name_ok(o->args[0]))
        rc = err_set(e, ERR_USAGE, "\"%.80s\" is no worker's name", o->args[0]);
    else if (st != NULL)
        rc = cli_cluster_open(o, &c, e);
    if (rc == 0)
        rc = cli_cluster_status(c, &ask, st, e);
    if (rc == 0 && on)
        rc = wait_until_empty(c, o->args[0], st, e);
    else if (rc == 0)
        cli_say("%s may work again", o->args[0]);
    cli_cluster_close(c);
    base_free(st);
    return rc;
}

int cli_drain(const struct cli_options *o, struct err *e)
{
    return run(o, true, e);
}

int cli_undrain(const struct cli_options *o, struct err *e)
{
    return run(o, false, e);
}
