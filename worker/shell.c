/* The worker's shell: poll, decode, step, carry out actions. One network thread, which touches all
 * sockets but a team's (worker/exchange.h) and so answers heartbeats whatever the compute thread
 * does, and behind bounded queues a compute thread, a disk thread and one that reads how the board
 * is.
 *
 * Everything the core sees comes through worker_shell_step. What it does not see: link tests
 * (worker/linktest.c) and the loader's procedure (worker/loader.c), which measure and move bytes
 * but decide nothing about requests or plans. */
#include "worker/shell.h"

#include <assert.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { CONFIG_AGAIN_MS = 1000 }; /* the configuration is not read again sooner */

void worker_shell_step(struct worker_shell *sh, struct worker_event *ev)
{
    /* A step's actions may themselves be events: each level needs a list of its own, and the depth
     * is small. */
    struct worker_actions *list = sh->depth < WORKER_DEPTH_MAX ? sh->actions[sh->depth] : NULL;
    assert(list != NULL);
    ev->now_ms = base_clock_ms();
    sh->depth++;
    worker_core_step(sh->core, ev, list);
    worker_shell_act(sh, list, ev);
    sh->depth--;
}

/* ---- what arrives ---------------------------------------------------------------------------- */

static void on_ring(struct worker_shell *sh, const struct net_event *n)
{
    struct worker_event ev = {.peer = net_peer_name(sh->net, n->peer), .reason = n->why};
    struct worker_link *link = NULL;
    for (uint32_t i = 0; i < sh->n_links; i++)
        if (sh->links[i].peer == n->peer)
            link = &sh->links[i];
    if (link != NULL && n->type != NET_EV_MESSAGE) {
        link->up = n->type == NET_EV_UP;
        link->rtt = link->rate = 0;
        ev.peer = link->name;
        ev.type = link->up ? WORKER_EV_RING_UP : WORKER_EV_RING_DOWN;
        if (link->up)
            worker_linktest_linked(&sh->test, sh->net, n->peer);
        else
            worker_linktest_lost(&sh->test, n->peer);
        worker_shell_step(sh, &ev);
    } else if (n->type == NET_EV_DOWN) {
        ev.type = WORKER_EV_RING_BROKEN;
        worker_shell_step(sh, &ev);
    } else if (n->type == NET_EV_MESSAGE) {
        const enum net_code code = n->msg.code;
        if (code == NET_MSG_PONG || code == NET_MSG_PROBED) {
            worker_linktest_message(&sh->test, sh->net, n->peer, &n->msg);
        } else if (code == NET_MSG_PING || code == NET_MSG_PROBE) {
            worker_linktest_answer(&sh->answers, sh->net, n->peer, &n->msg);
        } else {
            ev.type = WORKER_EV_RING;
            ev.msg = &n->msg;
            ev.from = n->peer;
            worker_shell_step(sh, &ev);
        }
    }
}

static void on_bulk(struct worker_shell *sh, const struct net_event *n)
{
    if (n->type == NET_EV_UP) {
        sh->bulk_up = true;
        worker_loader_reset(sh->loader, base_clock_ms());
        worker_linktest_linked(&sh->test, sh->net, n->peer);
    } else if (n->type == NET_EV_DOWN) {
        sh->bulk_up = false;
        worker_linktest_lost(&sh->test, n->peer);
    } else if (n->msg.code == NET_MSG_PIECE) {
        worker_loader_piece(sh->loader, &n->msg.u.PIECE, base_clock_ms());
    } else {
        worker_linktest_message(&sh->test, sh->net, n->peer, &n->msg);
    }
}

static void on_control(struct worker_shell *sh, const struct net_event *n)
{
    struct worker_event ev = {.msg = &n->msg, .reason = n->why};
    ev.type = n->type == NET_EV_UP     ? WORKER_EV_CONTROL_UP
              : n->type == NET_EV_DOWN ? WORKER_EV_CONTROL_DOWN
                                       : WORKER_EV_CONTROL;
    if (n->type == NET_EV_UP)
        base_log(BASE_LOG_INFO, "connected", "endpoint=%s", sh->config.control);
    if (n->type == NET_EV_DOWN)
        base_log(BASE_LOG_WARN, "disconnected", "endpoint=%s reason=\"%s\"", sh->config.control,
                 n->why);
    worker_shell_step(sh, &ev);
}

static void on_event(struct worker_shell *sh, const struct net_event *n)
{
    if (n->type == NET_EV_FD && n->fd == sh->signals)
        sh->stop = true;
    else if (n->type == NET_EV_FD)
        worker_shell_reap(sh);
    else if (n->peer == sh->control)
        on_control(sh, n);
    else if (n->kind == NET_KIND_RING)
        on_ring(sh, n);
    else if (n->peer == sh->bulk)
        on_bulk(sh, n);
}

/* ---- time ------------------------------------------------------------------------------------ */

/* What the compute thread has done, as a leader and as a member. */
void worker_shell_load_now(struct worker_shell *sh, struct worker_load *out)
{
    *out = sh->load;
    out->passes += atomic_load(&sh->served.passes);
    out->busy_us += atomic_load(&sh->served.busy_us);
    out->working = sh->serving ? atomic_load(&sh->served.working) : base_jobs_busy(sh->compute);
}

static void tick(struct worker_shell *sh)
{
    struct worker_event ev = {.type = WORKER_EV_TICK};
    worker_shell_load_now(sh, &ev.load);
    worker_shell_step(sh, &ev);
}

static int next_timeout(const struct worker_shell *sh)
{
    const int64_t now_ms = base_clock_ms();
    int64_t due = worker_core_deadline_ms(sh->core);
    if (sh->loading != WORKER_LOADING_NONE)
        due = due < now_ms + 20 ? due : now_ms + 20;
    if (sh->team_due_ms != 0)
        due = due < sh->team_due_ms ? due : sh->team_due_ms;
    if (sh->test.state != WORKER_TEST_IDLE || sh->noop_due_ms != 0)
        due = due < now_ms + WORKER_PING_GAP_MS ? due : now_ms + WORKER_PING_GAP_MS;
    if (due == INT64_MAX)
        return -1;
    return due <= now_ms ? 0 : due - now_ms > 60000 ? 60000 : (int)(due - now_ms);
}

/* The link's numbers are kept as the coordinator keeps them (coordinator/core_measure.c). */
static void link_tested(struct worker_shell *sh, const struct net_msg *result)
{
    const struct net_msg_LINK_TESTED *m = &result->u.LINK_TESTED;
    struct worker_event ev = {.type = WORKER_EV_LINK_TESTED, .msg = result};
    struct worker_link *l =
        m->peer.len > 0 ? worker_shell_link(sh, sh->test.peer, false) : NULL;
    if (l != NULL && l->up && m->error.len == 0) {
        const bool mix = sh->test.again && l->rtt > 0;
        l->rtt = mix ? (l->rtt + m->rtt) / 2 : m->rtt;
        l->rate = mix ? (l->rate + m->up) / 2 : m->up;
    }
    worker_shell_step(sh, &ev);
}

static void loop(struct worker_shell *sh)
{
    struct net_event n;
    struct net_msg result;
    kern_fp_init(); /* rows are encoded and decoded here */
    while (!sh->stop) {
        if (net_next(sh->net, next_timeout(sh), &n))
            on_event(sh, &n);
        if (base_clock_ms() >= worker_core_deadline_ms(sh->core))
            tick(sh);
        worker_linktest_tick(&sh->test, sh->net, base_clock_ms());
        if (worker_linktest_result(&sh->test, &result))
            link_tested(sh, &result);
        worker_shell_profile_tick(sh);
        worker_shell_loader_pump(sh);
        worker_shell_team_tick(sh);
    }
}

/* ---- start and end --------------------------------------------------------------------------- */

/* A worker that is new in the cluster is found when it is first named: the file is read again, for
 * its list of workers only. What else has changed in it needs a restart. */
const struct net_config_worker *worker_shell_peer(struct worker_shell *sh, const char *name)
{
    const struct net_config_worker *w = net_config_worker(&sh->config, name);
    const int64_t now_ms = base_clock_ms();
    struct err e = {0};
    if (w != NULL || now_ms - sh->config_ms < CONFIG_AGAIN_MS)
        return w;
    struct net_config *c = base_alloc(sizeof *c);
    sh->config_ms = now_ms;
    if (c != NULL && net_config_read(sh->options->config, c, &e) == 0) {
        memcpy(sh->config.workers, c->workers, sizeof c->workers);
        sh->config.n_workers = c->n_workers;
    }
    if (e.code != 0)
        base_log(BASE_LOG_WARN, "config", "error=\"%s\"", e.text);
    base_free(c);
    return net_config_worker(&sh->config, name);
}

/* Only workers of the configuration may reach the data port. */
static bool allow(void *arg, enum net_kind kind, const char *name)
{
    return kind == NET_KIND_RING && worker_shell_peer(arg, name) != NULL;
}

static int configure(struct worker_shell *sh, struct err *e)
{
    int rc = net_config_read(sh->options->config, &sh->config, e);
    if (rc != 0)
        return rc;
    const struct net_config_worker *self = net_config_worker(&sh->config, sh->options->name);
    if (self == NULL)
        return err_set(e, ERR_NOTFOUND, "%s has no section [worker %s]", sh->options->config,
                       sh->options->name);
    sh->self = *self;
    sh->config_ms = base_clock_ms();
    const char *kernels = sh->options->kernels != NULL ? sh->options->kernels
                          : sh->self.kernels[0] != 0   ? sh->self.kernels
                                                       : NULL;
    sh->kernels = kern_table_select(kernels);
    if (sh->kernels == NULL)
        return err_set(e, ERR_UNSUPPORTED,
                       "kernels '%s' are not known or this processor cannot run them", kernels);
    if (sh->config.fast && (rc = kern_fast_open(e)) != 0)
        return rc;
    sh->threads = sh->self.threads != 0 ? sh->self.threads : worker_cores("");
    return 0;
}

static int make_core(struct worker_shell *sh, struct err *e)
{
    struct worker_identity id = {.numerics = kern_table_hash(sh->kernels),
                                 .fast = sh->config.fast,
                                 .memory_bytes = worker_memory_available("", sh->self.memory_bytes),
                                 .threads = sh->threads,
                                 .rows_max = sh->options->test_rows};
    snprintf(id.name, sizeof id.name, "%s", sh->self.name);
    snprintf(id.kernels, sizeof id.kernels, "%s", sh->kernels->name);
    snprintf(id.data, sizeof id.data, "%s", sh->self.data);
    id.team_port = worker_exchange_port(sh->exchange);
    for (int i = 0; i < WORKER_DEPTH_MAX; i++)
        if ((sh->actions[i] = base_alloc(sizeof *sh->actions[i])) == NULL)
            return err_set(e, ERR_NOMEM, "out of memory for the worker's actions");
    return worker_core_new(&id, &sh->core, e);
}

static int open_signals(int *fd, struct err *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    /* Blocked before any thread starts, so that all of them are. */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    *fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return *fd < 0 ? err_set(e, ERR_IO, "no signal descriptor to be had") : 0;
}

static int open_exchange(struct worker_shell *sh, struct err *e)
{
    const int rc =
        worker_exchange_new(sh->config.keys, sh->self.name, sh->self.bind, &sh->exchange, e);
    for (uint32_t i = 0; rc == 0 && i < sh->config.n_workers; i++)
        worker_exchange_allow(sh->exchange, sh->config.workers[i].name);
    return rc;
}

static int open_sockets(struct worker_shell *sh, struct err *e)
{
    const struct net_options o = {sh->config.keys, sh->self.name, 2, allow, sh};
    int rc = net_new(&o, &sh->net, e);
    if (rc == 0)
        rc = net_listen(sh->net, NET_KIND_RING, sh->self.bind, NULL, e);
    if (rc == 0)
        rc = net_watch(sh->net, sh->signals, e);
    if (rc == 0)
        rc = net_watch(sh->net, base_jobs_fd(sh->compute), e);
    if (rc == 0)
        rc = net_watch(sh->net, base_jobs_fd(sh->disk), e);
    if (rc == 0)
        rc = net_watch(sh->net, base_jobs_fd(sh->watch), e);
    if (rc == 0)
        rc = net_connect(sh->net, NET_KIND_CONTROL, "coordinator", sh->config.control, &sh->control,
                         e);
    return rc;
}

static void shell_free(struct worker_shell *sh)
{
    if (sh->exchange != NULL)
        worker_exchange_force(sh->exchange, 0);
    base_jobs_free(sh->compute); /* waits for the running job */
    base_jobs_free(sh->disk);
    base_jobs_free(sh->watch);
    worker_shell_jobs_free(sh);
    worker_exchange_free(sh->exchange);
    net_free(sh->net);
    worker_core_free(sh->core);
    worker_engine_free(sh->engine);
    worker_engine_free(sh->next_engine);
    model_kv_copy_free(sh->copy);
    base_free(sh->now.hashes);
    base_free(sh->next.hashes);
    worker_shell_stock_free(sh);
    worker_loader_free(sh->loader);
    worker_store_close(sh->store);
    model_close(sh->model);
    for (uint32_t i = 0; i < sh->n_old_models; i++)
        model_close(sh->old_models[i]);
    for (int i = 0; i < WORKER_DEPTH_MAX; i++)
        base_free(sh->actions[i]);
    if (sh->signals >= 0)
        close(sh->signals);
    base_free(sh);
}

int worker_run(const struct worker_options *o, struct err *e)
{
    struct worker_shell *sh = base_zalloc(1, sizeof *sh);
    if (sh == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    sh->options = o;
    sh->signals = -1;
    int rc = configure(sh, e);
    if (rc == 0)
        rc = open_signals(&sh->signals, e);
    if (rc == 0)
        rc = worker_store_open(sh->self.store, sh->self.disk_bytes, &sh->store, e);
    if (rc == 0)
        rc = worker_shell_jobs_init(sh, e);
    if (rc == 0)
        rc = worker_loader_new(sh->store, sh->disk, &sh->loader, e);
    if (rc == 0)
        rc = open_exchange(sh, e);
    if (rc == 0)
        rc = make_core(sh, e);
    if (rc == 0)
        rc = open_sockets(sh, e);
    if (rc == 0) {
        sh->base_bytes = worker_memory_resident("");
        base_log(BASE_LOG_INFO, "started", "worker=%s kernels=%s threads=%u data=%s store=%s",
                 sh->self.name, sh->kernels->name, sh->threads, sh->self.bind, sh->self.store);
        loop(sh);
        if (sh->quit.code != 0)
            rc = err_set(e, sh->quit.code, "%s", sh->quit.text);
    }
    shell_free(sh);
    return rc;
}

static void count_progress(void *arg, uint64_t done, uint64_t total)
{
    struct base_progress *p = arg;
    p->total = total;
    base_progress_step(p, done);
}

/* Our section of the file, borrowed from *c, which is the caller's to free, too after a failure. */
static int read_section(const struct worker_options *o, struct net_config **c,
                        const struct net_config_worker **w, struct err *e)
{
    *c = base_alloc(sizeof **c);
    int rc =
        *c == NULL ? err_set(e, ERR_NOMEM, "out of memory") : net_config_read(o->config, *c, e);
    *w = rc == 0 ? net_config_worker(*c, o->name) : NULL;
    if (rc == 0 && *w == NULL)
        rc = err_set(e, ERR_NOTFOUND, "%s has no section [worker %s]", o->config, o->name);
    return rc;
}

int worker_store_folder(const struct worker_options *o, char out[static NET_PATH_MAX],
                        struct err *e)
{
    struct net_config *c;
    const struct net_config_worker *w;
    const int rc = read_section(o, &c, &w, e);
    if (rc == 0)
        memcpy(out, w->store, sizeof w->store);
    base_free(c);
    return rc;
}

int worker_verify_store(const struct worker_options *o, uint64_t *n, uint64_t *bad, struct err *e)
{
    struct net_config *c;
    const struct net_config_worker *w;
    struct worker_store *store = NULL;
    struct worker_store_report report = {0};
    struct base_progress progress;
    int rc = read_section(o, &c, &w, e);
    if (rc == 0)
        rc = worker_store_open(w->store, w->disk_bytes, &store, e);
    if (rc == 0) {
        base_progress_begin(&progress, "checking the store", 0);
        rc = worker_store_verify(store, count_progress, &progress, &report, e);
        base_progress_end(&progress);
    }
    *n = report.n_pieces;
    *bad = report.n_bad;
    worker_store_close(store);
    base_free(c);
    return rc;
}
