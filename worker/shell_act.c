/* The worker's shell: carrying out what the core decided. Each action is a few lines; none decides
 * anything. A message that a ring connection does not take comes back to the core as RING_BROKEN
 * after the actions of this step, KV rows that are not there as KV_FAILED. */
#include "worker/shell.h"

#include <string.h>

enum { KV_ROWS_MAX = 1048576 }; /* as in the wire's KV_ROWS */

struct worker_link *worker_shell_link(struct worker_shell *sh, const char *peer, bool make)
{
    const struct net_config_worker *w;
    struct err e = {0};
    for (uint32_t i = 0; i < sh->n_links; i++)
        if (strcmp(sh->links[i].name, peer) == 0)
            return &sh->links[i];
    if (!make)
        return NULL;
    struct worker_link *l = &sh->links[sh->n_links];
    if ((w = worker_shell_peer(sh, peer)) == NULL || sh->n_links == NET_WORKERS_MAX) {
        base_log(BASE_LOG_ERROR, "ring",
                 "peer=%s error=\"this worker's configuration file does not name it\"", peer);
        return NULL;
    }
    if (net_connect(sh->net, NET_KIND_RING, peer, w->data, &l->peer, &e) != 0) {
        base_log(BASE_LOG_ERROR, "ring", "peer=%s error=\"%s\"", peer, e.text);
        return NULL;
    }
    snprintf(l->name, sizeof l->name, "%s", peer);
    l->up = false;
    sh->n_links++;
    return l;
}

/* Whether the message went out. */
static bool send_ring(struct worker_shell *sh, const char *peer, const struct net_msg *m,
                      struct err *e)
{
    const struct worker_link *l = worker_shell_link(sh, peer, false);
    if (l == NULL) {
        err_set(e, ERR_PEER, "there is no connection to it");
        return false;
    }
    return net_send(sh->net, l->peer, m, e) == 0;
}

static void send_control(struct worker_shell *sh, const struct net_msg *m)
{
    struct err e = {0};
    const int rc = net_send(sh->net, sh->control, m, &e);
    /* A control connection that takes nothing is about to be noticed as broken, or was; what
     * matters is said anew then. */
    if (rc != 0)
        base_log(rc == ERR_PEER ? BASE_LOG_DEBUG : BASE_LOG_WARN, "control",
                 "message=%s error=\"%s\"", net_msg_name(m->code), e.text);
}

static void keep(struct worker_shell *sh, const struct worker_action *a,
                 const struct net_msg_ROWS *m)
{
    const struct worker_engine *g = sh->engine;
    const uint32_t n_embd = g->shape->n_embd;
    const size_t row = model_rows_bytes(1, n_embd, g->team.team.wire);
    float *to = a->to == WORKER_FROM_DECODE ? g->decode : g->prompt;
    /* The core has checked the number of bytes. */
    (void)model_rows_decode((struct span){m->hidden.ptr + a->from_row * row, a->n_rows * row},
                            a->n_rows, n_embd, g->team.team.wire, to + a->index * (size_t)n_embd);
}

/* Rows of a finished pass as they travel: encoded, or moved together in place. */
static struct span gather(const struct worker_engine *g, const struct worker_action *a)
{
    const uint32_t n_embd = g->shape->n_embd;
    const enum model_wire wire = g->team.team.wire;
    const size_t row = model_rows_bytes(1, n_embd, wire);
    const uint32_t *at = a->pass->at;
    uint8_t *to =
        g->code != NULL ? g->code : (uint8_t *)(g->hidden + at[a->rows[0]] * (size_t)n_embd);
    for (uint32_t k = 0; k < a->n_rows; k++) {
        const float *from = g->hidden + at[a->rows[k]] * (size_t)n_embd;
        if ((const uint8_t *)from != to + k * row)
            model_rows_encode(from, 1, n_embd, wire, to + k * row);
    }
    return (struct span){to, a->n_rows * row};
}

static bool send_rows(struct worker_shell *sh, const struct worker_action *a, struct err *e)
{
    static uint8_t requests[MODEL_ROWS_MAX * 8], slots[MODEL_ROWS_MAX * 4],
        positions[MODEL_ROWS_MAX * 4];
    for (uint32_t k = 0; k < a->n_rows; k++) {
        const struct worker_pass_row *r = &a->pass->rows[a->rows[k]];
        net_put_u64(requests, k, r->request);
        net_put_u32(slots, k, r->row.slot);
        net_put_u32(positions, k, r->row.position);
    }
    const struct net_msg m = {
        .code = NET_MSG_ROWS,
        .u.ROWS = {a->epoch,
                   a->rows_kind,
                   {requests, a->n_rows},
                   {slots, a->n_rows},
                   {positions, a->n_rows},
                   gather(sh->engine, a)}};
    return send_ring(sh, a->peer, &m, e);
}

static void send_summary(struct worker_shell *sh, const struct worker_action *a)
{
    const struct worker_pass_row *r = &a->pass->rows[a->from_row];
    const struct worker_summary *s = &sh->engine->summaries[a->from_row];
    double values[MODEL_BEST];
    for (int i = 0; i < MODEL_BEST; i++)
        values[i] = (double)s->s.values[i];
    const struct net_msg m = {.code = NET_MSG_LOGITS,
                              .u.LOGITS = {a->pass->epoch, r->request, r->row.position, s->s.mean,
                                           s->s.rms, net_list_i32(s->s.ids, MODEL_BEST),
                                           net_list_f64(values, MODEL_BEST), s->hash}};
    send_control(sh, &m);
}

/* ---- KV rows that move ----------------------------------------------------------------------- */

void worker_shell_drop_copy(struct worker_shell *sh)
{
    model_kv_copy_free(sh->copy);
    sh->copy = NULL;
}

static bool kv_room(struct worker_shell *sh, const struct worker_action *a)
{
    const struct model_exec_config c = {.n_slots = sh->n_slots, .context = sh->context, .kv = sh->kv};
    struct err e = {0};
    worker_shell_drop_copy(sh);
    if (a->kv_layers == 0 || (sh->engine != NULL && sh->engine->epoch == a->epoch &&
                              model_kv_copy_new(sh->model, &c, a->kv.layer, a->kv.layer + a->kv_layers,
                                                a->kv.head0, a->kv.head1, &sh->copy, &e) == 0))
        return true;
    base_log(BASE_LOG_WARN, "checkpoint", "error=\"%s\"", e.text);
    return false;
}

/* Bytes of rows that are here under plan `epoch`, in its cache or in the copy beside it; 0: they are
 * not. */
static size_t kv_bytes(const struct worker_shell *sh, uint64_t epoch, const struct model_kv_rows *r)
{
    if (sh->engine == NULL || sh->engine->epoch != epoch)
        return 0;
    const size_t bytes = model_kv_bytes(sh->engine->exec, r);
    return bytes > 0 || sh->copy == NULL ? bytes : model_kv_copy_bytes(sh->copy, r);
}

static void kv_read(const struct worker_shell *sh, const struct model_kv_rows *r, uint8_t *out)
{
    if (model_kv_bytes(sh->engine->exec, r) > 0)
        model_kv_read(sh->engine->exec, r, out);
    else
        model_kv_copy_read(sh->copy, r, out);
}

/* All layers of the action, to the plan that is ready; false: one of them has not these rows. */
static bool kv_copy(struct worker_shell *sh, const struct worker_action *a)
{
    struct model_kv_rows r = a->kv;
    const size_t bytes = kv_bytes(sh, a->epoch, &r);
    uint8_t *rows = bytes > 0 && sh->next_engine != NULL ? base_alloc(bytes) : NULL;
    bool ok = rows != NULL;
    for (; ok && r.layer < a->kv.layer + a->kv_layers; r.layer++) {
        ok = kv_bytes(sh, a->epoch, &r) == bytes &&
             model_kv_bytes(sh->next_engine->exec, &r) == bytes;
        if (ok) {
            kv_read(sh, &r, rows);
            model_kv_write(sh->next_engine->exec, &r, rows);
        }
    }
    base_free(rows);
    return ok;
}

static bool kv_write(struct worker_shell *sh, const struct worker_action *a, struct span kv)
{
    if (kv.len == 0)
        return false;
    if (a->to_copy) {
        if (sh->copy == NULL || model_kv_copy_bytes(sh->copy, &a->kv) != kv.len)
            return false;
        model_kv_copy_write(sh->copy, &a->kv, kv.ptr);
        return true;
    }
    if (sh->next_engine == NULL || model_kv_bytes(sh->next_engine->exec, &a->kv) != kv.len)
        return false;
    model_kv_write(sh->next_engine->exec, &a->kv, kv.ptr);
    return true;
}

static void kv_send(struct worker_shell *sh, const struct worker_action *a,
                    const struct net_msg_KV_ASK *ask, net_peer to)
{
    const struct model_kv_rows *r = &a->kv;
    size_t bytes = a->has_rows ? kv_bytes(sh, a->epoch, r) : 0;
    uint8_t *rows = bytes > 0 && bytes <= KV_ROWS_MAX ? base_alloc(bytes) : NULL;
    struct err e = {0};
    if (rows != NULL)
        kv_read(sh, r, rows);
    else
        bytes = 0;
    const struct net_msg m = {.code = NET_MSG_KV_ROWS,
                              .u.KV_ROWS = {a->epoch, r->layer, r->head0, r->head1, r->slot,
                                            r->first, r->rows, ask->number, {rows, bytes}}};
    /* One that does not get its answer gives up when the connection breaks, or later. */
    if (net_send(sh->net, to, &m, &e) != 0)
        base_log(BASE_LOG_WARN, "move", "peer=%s error=\"%s\"", a->peer, e.text);
    base_free(rows);
}

static void test_link(struct worker_shell *sh, const struct net_msg_TEST_LINK *m)
{
    char peer[NET_NAME_MAX];
    snprintf(peer, sizeof peer, "%.*s", (int)m->peer.len, (const char *)m->peer.ptr);
    const struct worker_link *l = peer[0] != 0 ? worker_shell_link(sh, peer, true) : NULL;
    if (l != NULL && l->rtt > 0 && m->again == 0) {
        const struct net_msg known = {
            .code = NET_MSG_LINK_TESTED,
            .u.LINK_TESTED = {base_span_str(peer), l->rtt, l->rate, 0, base_span_str("")}};
        struct worker_event ev = {.type = WORKER_EV_LINK_TESTED, .msg = &known};
        worker_shell_step(sh, &ev);
        return;
    }
    worker_linktest_begin(&sh->test, peer,
                          peer[0] == 0 ? sh->bulk
                          : l != NULL  ? l->peer
                                       : 0,
                          m->bytes, base_clock_ms());
    sh->test.again = m->again != 0;
    if (peer[0] == 0 ? sh->bulk_up : l != NULL && l->up)
        worker_linktest_linked(&sh->test, sh->net, sh->test.to);
}

static void reconnect(struct worker_shell *sh)
{
    struct err e = {0};
    net_disconnect(sh->net, sh->control);
    sh->control = 0;
    if (net_connect(sh->net, NET_KIND_CONTROL, "coordinator", sh->config.control, &sh->control,
                    &e) != 0) {
        sh->quit = e;
        sh->stop = true;
    }
}

static void act(struct worker_shell *sh, const struct worker_action *a,
                const struct worker_event *ev, struct err *broken, const char **peer)
{
    struct err e = {0};
    switch (a->type) {
    case WORKER_ACT_CONTROL:
        send_control(sh, &a->msg);
        break;
    case WORKER_ACT_READ:
        worker_shell_read(sh);
        break;
    case WORKER_ACT_RING:
    case WORKER_ACT_SEND_ROWS:
        if (!(a->type == WORKER_ACT_RING ? send_ring(sh, a->peer, &a->msg, &e)
                                         : send_rows(sh, a, &e))) {
            *broken = e;
            *peer = a->peer;
        }
        break;
    case WORKER_ACT_CARD:
        worker_shell_card(sh, &a->msg.u.WELCOME);
        break;
    case WORKER_ACT_PROFILE:
        worker_shell_profile(sh, a->msg.u.PROFILE.rows);
        break;
    case WORKER_ACT_TEST_LINK:
        test_link(sh, &a->msg.u.TEST_LINK);
        break;
    case WORKER_ACT_PREPARE:
        worker_shell_prepare(sh, &a->msg.u.PLAN);
        break;
    case WORKER_ACT_STOCK:
        worker_shell_stock(sh, &a->msg.u.STOCK);
        break;
    case WORKER_ACT_MANIFEST:
        worker_shell_manifest(sh, &a->msg.u.MANIFEST);
        break;
    case WORKER_ACT_LOAD:
        worker_shell_load(sh, a->epoch);
        break;
    case WORKER_ACT_CONNECT:
        worker_shell_link(sh, a->peer, true);
        break;
    case WORKER_ACT_TEAM:
        worker_shell_team(sh);
        break;
    case WORKER_ACT_ACTIVATE:
        worker_shell_activate(sh, a->epoch);
        break;
    case WORKER_ACT_DEACTIVATE:
        worker_shell_deactivate(sh);
        break;
    case WORKER_ACT_KEEP:
        keep(sh, a, &ev->msg->u.ROWS);
        break;
    case WORKER_ACT_KV_ROOM:
        sh->kv_failed = !kv_room(sh, a) || sh->kv_failed;
        break;
    case WORKER_ACT_KV_COPY:
        sh->kv_failed = !kv_copy(sh, a) || sh->kv_failed;
        break;
    case WORKER_ACT_KV_WRITE:
        sh->kv_failed = !kv_write(sh, a, ev->msg->u.KV_ROWS.kv) || sh->kv_failed;
        break;
    case WORKER_ACT_KV_SEND:
        kv_send(sh, a, &ev->msg->u.KV_ASK, ev->from);
        break;
    case WORKER_ACT_PASS:
        worker_shell_pass(sh, a->pass);
        break;
    case WORKER_ACT_LOGITS:
        send_summary(sh, a);
        break;
    case WORKER_ACT_RECONNECT:
        reconnect(sh);
        break;
    case WORKER_ACT_LOG:
        base_log(BASE_LOG_DEBUG, "core", "%s", a->text);
        break;
    case WORKER_ACT_QUIT:
        err_set(&sh->quit, ERR_REFUSED, "%s", a->text);
        sh->stop = true;
        break;
    }
}

void worker_shell_act(struct worker_shell *sh, const struct worker_actions *list,
                      const struct worker_event *ev)
{
    struct err broken = {0};
    char peer[NET_NAME_MAX];
    const char *lost = NULL;
    for (uint32_t i = 0; i < list->n; i++) {
        act(sh, &list->list[i], ev, &broken, &lost);
        if (lost != NULL)
            snprintf(peer, sizeof peer, "%s", lost);
    }
    if (sh->kv_failed) {
        struct worker_event failed = {.type = WORKER_EV_KV_FAILED};
        sh->kv_failed = false;
        worker_shell_step(sh, &failed);
    }
    if (lost == NULL)
        return;
    struct worker_event down = {.type = WORKER_EV_RING_BROKEN, .peer = peer, .reason = broken.text};
    worker_shell_step(sh, &down);
}
