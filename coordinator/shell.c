/* The coordinator's shell: poll, decode, step, carry out actions. The planner runs on a thread of
 * its own, since a solve may take seconds, and so does the tokenizer (reader.c), since a long
 * prompt takes as long as some heartbeats; pieces are shipped by the bulk server's thread (bulk.c),
 * and what must survive a restart is written down by the journal's (journal.c).
 * All decisions are the core's. */
#include "coordinator/shell.h"

#include "coordinator/journal.h"

#include <assert.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { DEPTH_MAX = 4, MANIFEST_PART = 4096, PLANS_MAX = 4 };

struct plan_job {
    struct net_config config;
    struct coord_blocks blocks;
    struct coord_profile profile;
    struct coord_solution solution;
    struct part_plan now; /* in force when it was asked; no stages: none */
    uint32_t present;
    uint64_t serial;
    int rc;
    struct err e;
};

struct shell {
    const struct coord_options *options;
    struct net_config config;
    struct net *net;
    struct coord_core *core;
    struct model *model;
    struct vocab *vocab;
    struct coord_manifest manifest;
    struct coord_bulk *bulk;
    struct coord_blocks blocks;
    struct base_jobs *planner;
    struct plan_job *plans[PLANS_MAX]; /* with the planner */
    net_peer peers[NET_WORKERS_MAX];   /* control connections, 0: none */
    struct coord_reader *reader;
    struct coord_journal *journal;
    uint32_t context;
    int signals;
    bool stop;
    struct coord_actions *actions[DEPTH_MAX];
    int depth;
};

static void step(struct shell *sh, struct coord_event *ev);

/* ---- what the core asks of the model --------------------------------------------------------- */

static struct span token_text(void *arg, int32_t token)
{
    const struct shell *sh = arg;
    return model_vocab_text(sh->vocab, token);
}

static struct model_slice slice_of(const struct coord_shard *s)
{
    const struct part_member *m = &s->part;
    return model_slice_part(s->layer0, s->layer1, m->head0, m->head1, m->ff0, m->ff1, m->run0,
                            m->run1, s->embed, s->output);
}

static uint32_t n_pieces(void *arg, const struct coord_shard *shard)
{
    const struct shell *sh = arg;
    const struct model_slice s = slice_of(shard);
    return model_slice_pieces(sh->model, &s, NULL, 0);
}

/* ---- actions --------------------------------------------------------------------------------- */

static void run_plan(void *arg)
{
    struct plan_job *j = arg;
    j->rc = coord_solve(&j->config, &j->blocks, &j->profile, j->present,
                        j->now.n_stages > 0 ? &j->now : NULL, false, &j->solution, &j->e);
}

static void plan_done(struct shell *sh, struct plan_job *j)
{
    struct coord_event ev = {.type = COORD_EV_PLANNED,
                             .ok = j->rc == 0,
                             .reason = j->e.text,
                             .serial = j->serial,
                             .plan = &j->solution.plan,
                             .stage_s = j->solution.stage_s,
                             .stage_batch_s = j->solution.stage_batch_s,
                             .batch_rate = j->solution.batch_rate,
                             .chunk = j->solution.chunk,
                             .groups = j->solution.groups,
                             .now_latency_s = j->solution.now_latency_s,
                             .now_batch_rate = j->solution.now_batch_rate,
                             .now_fits = j->solution.now_fits,
                             .move = j->solution.move};
    for (int i = 0; i < PLANS_MAX; i++)
        if (sh->plans[i] == j)
            sh->plans[i] = NULL;
    step(sh, &ev);
    base_free(j);
}

static void start_plan(struct shell *sh, const struct coord_action *a)
{
    struct plan_job *j = base_zalloc(1, sizeof *j);
    struct coord_event failed = {
        .type = COORD_EV_PLANNED, .serial = a->serial, .reason = "out of memory for planning"};
    if (j == NULL) {
        step(sh, &failed);
        return;
    }
    j->config = sh->config;
    j->blocks = sh->blocks;
    coord_core_today(sh->core, &j->profile);
    if (a->ahead)
        j->config.solve_s /= 4;
    if (a->myopic)
        j->config.algorithm = NET_MYOPIC_HEADS;
    if (coord_core_last_plan(sh->core) != NULL)
        j->now = *coord_core_last_plan(sh->core);
    j->present = a->present;
    j->serial = a->serial;
    for (int i = 0; i < PLANS_MAX; i++)
        if (sh->plans[i] == NULL && base_jobs_post(sh->planner, run_plan, j) == 0) {
            sh->plans[i] = j;
            return;
        }
    base_free(j);
    failed.reason = "the planner is still busy with older questions";
    step(sh, &failed);
}

static void send_node(struct shell *sh, uint32_t node, const struct net_msg *m)
{
    struct err e = {0};
    if (sh->peers[node] != 0 && net_send(sh->net, sh->peers[node], m, &e) == 0)
        return;
    /* A worker that takes no control message is lost; its heartbeats, or their absence, will say
     * so. */
    base_log(BASE_LOG_WARN, "send", "node=%s message=%s error=\"%s\"",
             sh->config.workers[node].name, net_msg_name(m->code), e.text);
}

/* MANIFEST, or STOCK. */
static void send_pieces(struct shell *sh, const struct coord_action *a)
{
    const struct model_slice s = slice_of(&a->shard);
    const uint32_t n = model_slice_pieces(sh->model, &s, NULL, 0);
    uint32_t *numbers = base_zalloc(n, sizeof *numbers);
    uint8_t *part = base_zalloc(MANIFEST_PART, NET_HASH_BYTES);
    uint8_t *list = base_zalloc(MANIFEST_PART, sizeof(uint32_t));
    if (numbers == NULL || part == NULL || list == NULL) {
        base_log(BASE_LOG_ERROR, "manifest", "error=\"out of memory\"");
        goto out;
    }
    model_slice_pieces(sh->model, &s, numbers, n);
    for (uint32_t first = 0; first < n; first += MANIFEST_PART) {
        const uint32_t k = n - first < MANIFEST_PART ? n - first : MANIFEST_PART;
        for (uint32_t i = 0; i < k; i++) {
            memcpy(part + (size_t)i * NET_HASH_BYTES,
                   sh->manifest.hashes + (size_t)numbers[first + i] * NET_HASH_BYTES,
                   NET_HASH_BYTES);
            net_put_u32(list, i, numbers[first + i]);
        }
        const struct span hashes = {part, (size_t)k * NET_HASH_BYTES};
        struct net_msg m = {.code = NET_MSG_MANIFEST, .u.MANIFEST = {a->epoch, first, hashes}};
        if (a->type == COORD_ACT_STOCK)
            m = (struct net_msg){.code = NET_MSG_STOCK,
                                 .u.STOCK = {a->epoch, {list, k}, hashes}};
        send_node(sh, a->node, &m);
    }
out:
    base_free(numbers);
    base_free(part);
    base_free(list);
}

static void start_read(struct shell *sh, const struct coord_action *a)
{
    const struct net_msg_SUBMIT *m = &a->msg.u.SUBMIT;
    struct err e = {0};
    struct coord_event failed = {.type = COORD_EV_READ,
                                 .serial = a->serial,
                                 .reason = e.text,
                                 .prompt_bytes = (uint32_t)m->prompt.len};
    failed.code = coord_reader_post(sh->reader, a->serial, m, &e);
    if (failed.code != 0)
        step(sh, &failed);
}

static void save_profile(struct shell *sh)
{
    char path[NET_PATH_MAX + 16];
    struct err e = {0};
    snprintf(path, sizeof path, "%s/profile.ini", sh->config.state);
    if (coord_profile_write(path, coord_core_profile(sh->core), &e) != 0)
        base_log(BASE_LOG_WARN, "profile", "error=\"%s\"", e.text);
}

static void act(struct shell *sh, const struct coord_action *a)
{
    switch (a->type) {
    case COORD_ACT_NODE:
        send_node(sh, a->node, &a->msg);
        break;
    case COORD_ACT_DROP_NODE:
        if (sh->peers[a->node] != 0)
            net_disconnect(sh->net, sh->peers[a->node]);
        sh->peers[a->node] = 0;
        break;
    case COORD_ACT_CLIENT:
        /* A client that does not read loses this answer and asks again, or is gone. */
        net_send(sh->net, a->client, &a->msg, NULL);
        break;
    case COORD_ACT_PLAN:
        start_plan(sh, a);
        break;
    case COORD_ACT_READ:
        start_read(sh, a);
        break;
    case COORD_ACT_MANIFEST:
    case COORD_ACT_STOCK:
        send_pieces(sh, a);
        break;
    case COORD_ACT_SAVE:
        save_profile(sh);
        break;
    case COORD_ACT_LOG:
        base_log(a->warn ? BASE_LOG_WARN : BASE_LOG_INFO, "core", "%s", a->text);
        break;
    }
}

static void step(struct shell *sh, struct coord_event *ev)
{
    assert(sh->depth < DEPTH_MAX);
    struct coord_actions *list = sh->actions[sh->depth++];
    ev->now_ms = base_clock_ms();
    coord_core_step(sh->core, ev, list);
    if (list->journal.len > 0)
        coord_journal_add(sh->journal, list->journal);
    for (uint32_t i = 0; i < list->n; i++)
        act(sh, &list->list[i]);
    sh->depth--;
}

/* ---- what arrives ---------------------------------------------------------------------------- */

static int node_of(const struct shell *sh, const char *name)
{
    for (uint32_t i = 0; i < sh->config.n_workers; i++)
        if (strcmp(sh->config.workers[i].name, name) == 0)
            return (int)i;
    return -1;
}

static void on_node(struct shell *sh, const struct net_event *n)
{
    struct coord_event ev = {.msg = &n->msg, .reason = n->why};
    if (n->type == NET_EV_UP) {
        const int node = node_of(sh, net_peer_name(sh->net, n->peer));
        if (node < 0)
            return;
        ev.node = (uint32_t)node;
        ev.type = COORD_EV_NODE_UP;
        sh->peers[node] = n->peer;
        step(sh, &ev);
        return;
    }
    for (uint32_t i = 0; i < sh->config.n_workers; i++)
        if (sh->peers[i] == n->peer) {
            ev.node = i;
            ev.type = n->type == NET_EV_DOWN ? COORD_EV_NODE_DOWN : COORD_EV_NODE;
            if (n->type == NET_EV_DOWN)
                sh->peers[i] = 0;
            step(sh, &ev);
            return;
        }
}

static void on_client(struct shell *sh, const struct net_event *n)
{
    struct coord_event ev = {.type = COORD_EV_CLIENT, .client = n->peer, .msg = &n->msg};
    if (n->type == NET_EV_UP)
        return;
    if (n->type == NET_EV_DOWN) {
        ev.type = COORD_EV_CLIENT_DOWN;
        step(sh, &ev);
    } else {
        step(sh, &ev);
    }
}

/* ---- SIGHUP: the configuration again --------------------------------------------------------- */

/* What differs and cannot be taken without a restart; NULL: nothing. */
static const char *needs_restart(const struct net_config *a, const struct net_config *b)
{
    if (strcmp(a->name, b->name) != 0 || strcmp(a->model, b->model) != 0)
        return "the cluster's name or model";
    if (a->context != b->context || a->slots != b->slots || a->kv != b->kv || a->fast != b->fast ||
        a->wire != b->wire)
        return "context, slots, kv, numerics or wire";
    if (strcmp(a->control, b->control) != 0 || strcmp(a->client, b->client) != 0 ||
        strcmp(a->bulk, b->bulk) != 0)
        return "an endpoint of the coordinator";
    if (strcmp(a->keys, b->keys) != 0 || strcmp(a->state, b->state) != 0)
        return "the keys or state folder";
    if (b->n_workers < a->n_workers)
        return "a worker that was removed (exclude it instead)";
    for (uint32_t i = 0; i < a->n_workers; i++)
        if (strcmp(a->workers[i].name, b->workers[i].name) != 0)
            return "the order of the workers (add new ones at the end)";
    return NULL;
}

static void reload(struct shell *sh)
{
    struct net_config *c = base_alloc(sizeof *c);
    struct err e = {0};
    if (c == NULL || net_config_read(sh->options->config, c, &e) != 0) {
        base_log(BASE_LOG_ERROR, "reload", "error=\"%s\"", c == NULL ? "out of memory" : e.text);
        base_free(c);
        return;
    }
    const char *restart = needs_restart(&sh->config, c);
    if (restart != NULL) {
        base_log(BASE_LOG_ERROR, "reload", "error=\"not taken: %s differs, which needs a restart\"",
                 restart);
    } else {
        sh->config = *c;
        coord_bulk_configure(sh->bulk, c);
        net_keys_reload(sh->net);
        struct coord_event ev = {.type = COORD_EV_CONFIG, .config = &sh->config};
        step(sh, &ev);
        base_log(BASE_LOG_INFO, "reload", "workers=%u", c->n_workers);
    }
    base_free(c);
}

static void on_signal(struct shell *sh)
{
    struct signalfd_siginfo info;
    if (read(sh->signals, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGHUP)
        reload(sh);
    else
        sh->stop = true;
}

static void reap_plans(struct shell *sh)
{
    void *job;
    while (base_jobs_reap(sh->planner, &job))
        plan_done(sh, job);
}

static void reap_prompts(struct shell *sh)
{
    struct coord_reading *p;
    while ((p = coord_reader_reap(sh->reader)) != NULL) {
        struct coord_event ev = {.type = COORD_EV_READ,
                                 .serial = p->serial,
                                 .ok = p->rc == 0,
                                 .code = p->rc,
                                 .reason = p->e.text,
                                 .tokens = p->ids,
                                 .n_tokens = p->n < UINT32_MAX ? (uint32_t)p->n : UINT32_MAX,
                                 .prompt_bytes = (uint32_t)p->prompt.len};
        step(sh, &ev);
        coord_reader_done(p);
    }
}

static int next_timeout(const struct shell *sh)
{
    const int64_t due = coord_core_deadline_ms(sh->core), now_ms = base_clock_ms();
    return due == INT64_MAX       ? -1
           : due <= now_ms        ? 0
           : due - now_ms > 60000 ? 60000
                                  : (int)(due - now_ms);
}

static void loop(struct shell *sh)
{
    struct net_event n;
    while (!sh->stop) {
        if (!net_next(sh->net, next_timeout(sh), &n)) {
            struct coord_event ev = {.type = COORD_EV_TICK};
            step(sh, &ev);
        } else if (n.type == NET_EV_FD && n.fd == sh->signals) {
            on_signal(sh);
        } else if (n.type == NET_EV_FD && n.fd == coord_reader_fd(sh->reader)) {
            reap_prompts(sh);
        } else if (n.type == NET_EV_FD && n.fd == coord_journal_fd(sh->journal)) {
            coord_journal_reap(sh->journal);
        } else if (n.type == NET_EV_FD) {
            reap_plans(sh);
        } else if (n.kind == NET_KIND_CONTROL) {
            on_node(sh, &n);
        } else {
            on_client(sh, &n);
        }
    }
}

/* ---- start and end --------------------------------------------------------------------------- */

static bool allow(void *arg, enum net_kind kind, const char *name)
{
    const struct shell *sh = arg;
    const bool worker = node_of(sh, name) >= 0;
    return kind == NET_KIND_CONTROL
               ? worker
               : kind == NET_KIND_CLIENT && !worker && strcmp(name, "coordinator") != 0;
}

/* Each start has a number above all earlier ones, kept on disk before anything is said under it. */
static int next_incarnation(const char *state, uint64_t *out, struct err *e)
{
    char path[NET_PATH_MAX + 16], text[32];
    uint8_t *old = NULL;
    size_t len;
    unsigned long long last = 0;
    snprintf(path, sizeof path, "%s/incarnation", state);
    const int rc = base_file_read(path, sizeof text, &old, &len, e);
    if (rc != 0 && rc != ERR_NOTFOUND)
        return rc;
    if (rc == 0 && sscanf((const char *)old, "%llu", &last) != 1) {
        base_free(old);
        return err_set(e, ERR_FORMAT, "%s holds no number: write one above all former ones into it",
                       path);
    }
    base_free(old);
    if (last + 1 >= UINT32_MAX)
        return err_set(e, ERR_RANGE, "%s has run out of numbers", path);
    *out = last + 1;
    snprintf(text, sizeof text, "%llu\n", last + 1);
    return base_file_replace(path, text, strlen(text), 0600, e);
}

static int open_model(struct shell *sh, struct err *e)
{
    int rc = model_open(sh->config.model, &sh->model, e);
    if (rc == 0)
        rc = model_vocab_open(model_gguf(sh->model), &sh->vocab, e);
    if (rc != 0)
        return err_wrap(e, rc, "model %s", sh->config.model);
    if (model_vocab_size(sh->vocab) > model_shape(sh->model)->n_vocab)
        return err_set(
            e, ERR_FORMAT, "model %s: the tokenizer has %u tokens, the embedding %u rows",
            sh->config.model, model_vocab_size(sh->vocab), model_shape(sh->model)->n_vocab);
    sh->context = coord_context(&sh->config, sh->model);
    if (sh->context > model_shape(sh->model)->context)
        return err_set(e, ERR_RANGE,
                       "context %u is more than the %u positions that the model was trained for",
                       sh->context, model_shape(sh->model)->context);
    rc = coord_reader_new(sh->model, sh->vocab, sh->context, &sh->reader, e);
    if (rc != 0)
        return rc;
    coord_blocks_of(sh->model, &sh->config, &sh->blocks);
    return coord_manifest_new(sh->model, sh->config.model, sh->config.state, &sh->manifest, e);
}

static int make_core(struct shell *sh, uint64_t incarnation, unsigned port, struct err *e)
{
    const struct model_shape *shape = model_shape(sh->model);
    const char *slash = strrchr(sh->config.model, '/');
    const struct model_exec_config kv = {.kv = (enum kern_kv_type)sh->config.kv};
    struct coord_model m = {.n_layers = shape->n_layers,
                            .n_ff = shape->n_ff,
                            .unit_heads = shape->unit_heads,
                            .kv_share = shape->n_heads / shape->n_kv_heads,
                            .kv_row_bytes = model_kv_row_bytes(sh->model, &kv),
                            .unit_cols = shape->unit_cols,
                            .n_vocab = shape->n_vocab,
                            .context = sh->context,
                            .numerics = kern_table_hash(kern_table_select(NULL)),
                            .card_bytes = sh->manifest.card.len,
                            .text = token_text,
                            .n_pieces = n_pieces,
                            .arg = sh};
    snprintf(m.file, sizeof m.file, "%.255s", slash != NULL ? slash + 1 : sh->config.model);
    memcpy(m.card, sh->manifest.card_hash, NET_HASH_BYTES);
    m.n_ends = (uint32_t)model_vocab_ends(sh->vocab, m.ends, sizeof m.ends / sizeof *m.ends);
    for (int i = 0; i < DEPTH_MAX; i++)
        if ((sh->actions[i] = base_alloc(sizeof *sh->actions[i])) == NULL)
            return err_set(e, ERR_NOMEM, "out of memory for the coordinator's actions");
    return coord_core_new(&sh->config, &m, incarnation, port, &sh->core, e);
}

/* The model by its content, vocabulary included. */
static int hash_model(const struct shell *sh, uint8_t out[static NET_HASH_BYTES], struct err *e)
{
    struct net_hasher *h = net_hasher_new();
    if (h == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the model's hash");
    net_hasher_add(h, (struct span){sh->manifest.card_hash, NET_HASH_BYTES});
    net_hasher_add(
        h, (struct span){sh->manifest.hashes, (size_t)sh->manifest.n_pieces * NET_HASH_BYTES});
    for (uint32_t i = 0; i < model_vocab_size(sh->vocab); i++) {
        const struct span text = model_vocab_text(sh->vocab, (int32_t)i);
        uint8_t len[4];
        net_put_u32(len, 0, (uint32_t)text.len);
        net_hasher_add(h, (struct span){len, sizeof len});
        net_hasher_add(h, text);
    }
    net_hasher_end(h, out);
    net_hasher_free(h);
    return 0;
}

static int open_journal(struct shell *sh, struct err *e)
{
    struct coord_identity id = {.numerics = kern_table_hash(kern_table_select(NULL)),
                                .kv = sh->config.kv,
                                .fast = sh->config.fast ? 1 : 0,
                                .wire = sh->config.wire,
                                .context = sh->context};
    int rc = hash_model(sh, id.model, e);
    if (rc == 0)
        rc = coord_journal_open(sh->config.state, &id, &sh->journal, e);
    return rc == 0 ? net_watch(sh->net, coord_journal_fd(sh->journal), e) : rc;
}

/* Requests of an earlier life go on, or are refused. */
static void take_kept(struct shell *sh)
{
    struct coord_event ev = {.type = COORD_EV_KEPT,
                             .kept = coord_journal_kept(sh->journal),
                             .reason = coord_journal_refuses(sh->journal)};
    step(sh, &ev);
    coord_journal_forget(sh->journal);
}

static int open_signals(int *fd, struct err *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    /* Blocked before any thread starts, so that all of them are. */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    *fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return *fd < 0 ? err_set(e, ERR_IO, "no signal descriptor to be had") : 0;
}

static int open_sockets(struct shell *sh, struct err *e)
{
    const struct net_options o = {sh->config.keys, "coordinator", 1, allow, sh};
    int rc = net_new(&o, &sh->net, e);
    if (rc == 0)
        rc = net_listen(sh->net, NET_KIND_CONTROL, sh->config.control, NULL, e);
    if (rc == 0)
        rc = net_listen(sh->net, NET_KIND_CLIENT, sh->config.client, NULL, e);
    if (rc == 0)
        rc = net_watch(sh->net, sh->signals, e);
    if (rc == 0)
        rc = net_watch(sh->net, coord_reader_fd(sh->reader), e);
    return rc == 0 ? net_watch(sh->net, base_jobs_fd(sh->planner), e) : rc;
}

static void shell_free(struct shell *sh)
{
    base_jobs_free(sh->planner);
    for (int i = 0; i < PLANS_MAX; i++)
        base_free(sh->plans[i]);
    net_free(sh->net);
    coord_bulk_stop(sh->bulk);
    coord_core_free(sh->core);
    coord_journal_close(sh->journal);
    coord_manifest_deinit(&sh->manifest);
    coord_reader_free(sh->reader);
    model_vocab_close(sh->vocab);
    model_close(sh->model);
    for (int i = 0; i < DEPTH_MAX; i++)
        base_free(sh->actions[i]);
    if (sh->signals >= 0)
        close(sh->signals);
    base_free(sh);
}

int coord_run(const struct coord_options *o, struct err *e)
{
    struct shell *sh = base_zalloc(1, sizeof *sh);
    uint64_t incarnation = 0;
    unsigned port = 0;
    if (sh == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    sh->options = o;
    sh->signals = -1;
    int rc = net_config_read(o->config, &sh->config, e);
    if (rc == 0)
        rc = open_signals(&sh->signals, e);
    if (rc == 0)
        rc = base_dir_make(sh->config.state, e);
    if (rc == 0)
        rc = open_model(sh, e);
    if (rc == 0)
        rc = next_incarnation(sh->config.state, &incarnation, e);
    if (rc == 0)
        rc = base_jobs_new("planner", PLANS_MAX, &sh->planner, e);
    if (rc == 0)
        rc = coord_bulk_start(&sh->config, &sh->manifest, &sh->bulk, &port, e);
    if (rc == 0)
        rc = make_core(sh, incarnation, port, e);
    if (rc == 0)
        rc = open_sockets(sh, e);
    if (rc == 0) /* behind the sockets, which only one coordinator can have */
        rc = open_journal(sh, e);
    if (rc == 0) {
        base_log(BASE_LOG_INFO, "started",
                 "cluster=%s model=%s context=%u slots=%u control=%s client=%s", sh->config.name,
                 sh->config.model, sh->context, sh->config.slots, sh->config.control,
                 sh->config.client);
        take_kept(sh);
        loop(sh);
    }
    shell_free(sh);
    return rc;
}
