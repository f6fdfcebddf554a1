/* The connection to a coordinator: configuration, keys, one client connection, and its silence.
 *
 * ZeroMQ connects, and connects again, by itself; what a person needs is to be told when nobody is
 * there. So every sign of life is noted, and a coordinator that has given none for CLI_SILENCE_MS
 * ends the command with the three things worth checking: is it running, is it this address, does it
 * know our key. A refusal at the handshake is said sooner, after a second try, since a key that was
 * just added to the folder is read when it is first shown.
 *
 * A coordinator that was there and has requests of ours gets longer, CLI_LOST_MS: restarted, it goes
 * on with them.
 *
 * The caller always waits for something, so silence is never normal: the coordinator answers every
 * question at least with WAITING once a second. */
#include "client/client.h"

#include <string.h>

enum { REFUSED_MS = 2500, WAIT_MS = 250 };

int cli_cluster_open(const struct cli_options *o, struct cli_cluster **out, struct err *e)
{
    struct cli_cluster *c = base_zalloc(1, sizeof *c);
    struct net_options n = {.self = o->key, .io_threads = 1};
    int rc;
    if (c == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the connection");
    c->key = o->key;
    rc = net_config_read(o->config, &c->config, e);
    n.keys = c->config.keys;
    if (rc == 0)
        rc = net_new(&n, &c->net, e);
    if (rc == ERR_NOTFOUND && c->config.keys[0] != 0)
        rc = err_set(e, rc,
                     "there is no key %s/%s.secret: make one with shoal keygen, or name yours with "
                     "--key",
                     c->config.keys, c->key);
    if (rc == 0)
        rc = net_connect(c->net, NET_KIND_CLIENT, "coordinator", c->config.client, &c->coordinator,
                         e);
    c->heard_ms = base_clock_ms();
    if (rc != 0) {
        cli_cluster_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void cli_cluster_close(struct cli_cluster *c)
{
    if (c == NULL)
        return;
    net_free(c->net);
    base_free(c);
}

static int silent(const struct cli_cluster *c, struct err *e)
{
    if (c->was_up)
        return err_set(e, ERR_TIMEOUT, "lost the coordinator at %s%s%s: is it still running?",
                       c->config.client, c->why[0] != 0 ? ": " : "", c->why);
    return err_set(
        e, ERR_TIMEOUT,
        "no answer from %s%s%s%s: is shoal-coordinator running there, and is this machine's key "
        "%s in its keys folder?",
        c->config.client, c->why[0] != 0 ? " (" : "", c->why, c->why[0] != 0 ? ")" : "", c->key);
}

static void note_event(struct cli_cluster *c, const struct net_event *ev)
{
    const int64_t now_ms = base_clock_ms();
    switch (ev->type) {
    case NET_EV_UP:
        c->up = c->was_up = true;
        c->heard_ms = now_ms;
        break;
    case NET_EV_MESSAGE:
        c->heard_ms = now_ms;
        c->why[0] = 0;
        break;
    case NET_EV_DOWN:
        snprintf(c->why, sizeof c->why, "%s", ev->why);
        /* Refused before there was a connection: one more try, then it is an error. */
        if (!c->was_up && now_ms - c->heard_ms < CLI_SILENCE_MS - REFUSED_MS)
            c->heard_ms = now_ms - (CLI_SILENCE_MS - REFUSED_MS);
        c->up = false;
        if (c->was_up && c->waits)
            cli_note("lost the coordinator: trying for %d s", CLI_LOST_MS / 1000);
        break;
    default:
        break;
    }
}

int cli_cluster_next(struct cli_cluster *c, int timeout_ms, struct net_event *ev, struct err *e)
{
    *ev = (struct net_event){0};
    if (net_next(c->net, timeout_ms < WAIT_MS ? timeout_ms : WAIT_MS, ev))
        note_event(c, ev);
    else
        ev->type = NET_EV_NONE;
    if (cli_interrupted())
        return err_set(e, ERR_CANCELLED, "interrupted");
    const int64_t patience_ms = c->was_up && c->waits ? CLI_LOST_MS : CLI_SILENCE_MS;
    if (ev->type == NET_EV_NONE && base_clock_ms() - c->heard_ms >= patience_ms)
        return silent(c, e);
    return 0;
}
