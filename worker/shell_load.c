/* The worker's shell: the card, plans on their way from manifest to engine, and the jobs of the two
 * threads.
 *
 * The disk thread owns the store while it works: the loader's jobs, mapping the card, building an
 * engine. The compute thread runs passes, profiling, and frees engines, so that one is never freed
 * under a running pass. Everything else happens here, on the network thread, when a job comes back.
 * A job that comes back for a plan or card that is no longer wanted is thrown away. */
#include "worker/shell.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum job_kind {
    JOB_CARD,
    JOB_ENGINE,
    JOB_PASS,
    JOB_SERVE,
    JOB_TEAM,
    JOB_NOOP,
    JOB_PROFILE,
    JOB_FREE
};
enum { TEAM_AGAIN_MS = 10 }; /* between looks at team connections that are being made */

struct job {
    struct worker_job base;
    struct worker_shell *shell;
    struct job *next, *previous; /* all jobs of the shell, so that none is lost at the end */
    enum job_kind kind;
    struct err e;
    int rc;
    const struct model *with; /* ENGINE, PROFILE: the model at the time of posting */
    uint8_t card[NET_HASH_BYTES]; /* CARD, PROFILE: its hash */
    /* CARD */
    struct model *model;
    bool large_pages;
    /* ENGINE, PASS, SERVE, FREE */
    struct worker_shard shard; /* hashes are the job's own copy */
    struct model_exec_config config;
    uint32_t prompt_rows;
    struct worker_engine *engine;
    struct worker_pass *pass;
    struct worker_lost lost;
    double seconds;
    /* NOOP, PROFILE */
    uint32_t serial;
    struct worker_profile profile;
    struct worker_quota quota; /* PROFILE: when it began */
};

/* Where a job cannot be had the worker cannot go on: it ends, and is started again by whoever
 * watches it. */
static struct job *new_job(struct worker_shell *sh, enum job_kind kind)
{
    struct job *j = base_zalloc(1, sizeof *j);
    if (j == NULL) {
        err_set(&sh->quit, ERR_NOMEM, "out of memory for a job");
        sh->stop = true;
        return NULL;
    }
    j->base.owner = sh;
    j->shell = sh;
    j->kind = kind;
    j->next = sh->jobs;
    if (j->next != NULL)
        j->next->previous = j;
    sh->jobs = j;
    return j;
}

/* With what it still owns. */
static void free_job(struct job *j)
{
    if (j->next != NULL)
        j->next->previous = j->previous;
    if (j->previous != NULL)
        j->previous->next = j->next;
    else
        j->shell->jobs = j->next;
    if (j->kind != JOB_PASS && j->kind != JOB_SERVE)
        worker_engine_free(j->engine);
    model_close(j->model);
    base_free(j->shard.hashes);
    base_free(j);
}

void worker_shell_jobs_free(struct worker_shell *sh)
{
    while (sh->jobs != NULL)
        free_job(sh->jobs);
}

static void run_card(struct job *j)
{
    const void *ptr;
    size_t bytes;
    j->rc = worker_store_map(j->shell->store, j->card, &ptr, &bytes, &j->e);
    if (j->rc == 0)
        j->rc = model_open_card((struct span){ptr, bytes}, &j->model, &j->e);
    j->large_pages = worker_store_large_pages(j->shell->store);
}

static void run_pass(struct job *j)
{
    const double t = base_clock_s();
    const uint32_t slow_ms = j->shell->options->test_pass_ms;
    kern_fp_init();
    worker_engine_run(j->engine, j->shell->exchange, j->pass);
    if (slow_ms > 0) {
        const struct timespec ts = {slow_ms / 1000, (long)(slow_ms % 1000) * 1000000};
        nanosleep(&ts, NULL);
    }
    j->seconds = base_clock_s() - t;
}

/* A message of one row's partial sums, of 31 bits mostly. */
static int time_messages(struct job *j)
{
    const struct worker_shell *sh = j->shell;
    const uint32_t bytes = model_shape(j->with)->n_embd * 31 / 8;
    return worker_exchange_time(sh->config.keys, sh->self.name, bytes, &j->profile.message, &j->e);
}

static void run_job(void *arg)
{
    struct job *j = arg;
    switch (j->kind) {
    case JOB_CARD:
        run_card(j);
        break;
    case JOB_ENGINE:
        j->rc = worker_engine_new(j->with, &j->shard.slice, &j->shard.team, &j->config,
                                  j->prompt_rows, j->shell->store, j->shard.hashes, j->shard.epoch,
                                  &j->engine, &j->e);
        break;
    case JOB_SERVE:
        kern_fp_init();
        worker_engine_serve(j->engine, j->shell->exchange, &j->shell->served, &j->lost);
        break;
    case JOB_TEAM:
        worker_exchange_pump(j->shell->exchange, 0);
        break;
    case JOB_PASS:
        run_pass(j);
        break;
    case JOB_PROFILE:
        kern_fp_init();
        j->profile.figure_ms = j->shell->options->test_figure_ms;
        j->rc = worker_profile_run(j->with, &j->config, "", &j->profile, &j->e);
        if (j->rc == 0)
            j->rc = time_messages(j);
        base_memory_give_back();
        break;
    case JOB_FREE:
        worker_engine_free(j->engine);
        j->engine = NULL;
        base_memory_give_back();
        break;
    case JOB_NOOP:
        break;
    }
}

static void post(struct worker_shell *sh, struct base_jobs *thread, struct job *j)
{
    if (base_jobs_post(thread, run_job, j) == 0)
        return;
    if (j != sh->pass_job)
        free_job(j);
    err_set(&sh->quit, ERR_FULL, "a thread's queue of jobs is full");
    sh->stop = true;
}

static struct model_exec_config exec_config(const struct worker_shell *sh, uint32_t max_rows)
{
    return (struct model_exec_config){
        .n_slots = sh->n_slots,
        .context = sh->context,
        .max_rows = max_rows,
        .kv = sh->kv,
        .n_threads = sh->threads,
        .kernels = sh->kernels,
        .fast = sh->config.fast,
        .small_pages = !sh->large_pages,
    };
}

uint8_t *worker_shell_in_use(const struct worker_shell *sh, uint32_t *n)
{
    uint8_t *list = NULL;
    size_t max = 2 + (size_t)sh->now.n_pieces, k = 2;
    for (const struct job *j = sh->jobs; j != NULL; j = j->next)
        max += j->shard.n_pieces;
    if (max > UINT32_MAX || (list = base_zalloc(max, NET_HASH_BYTES)) == NULL)
        return NULL;
    memcpy(list, sh->card_hash, NET_HASH_BYTES);
    memcpy(list + NET_HASH_BYTES, sh->model_hash, NET_HASH_BYTES);
    if (sh->now.hashes != NULL) {
        memcpy(list + k * NET_HASH_BYTES, sh->now.hashes,
               (size_t)sh->now.n_pieces * NET_HASH_BYTES);
        k += sh->now.n_pieces;
    }
    for (const struct job *j = sh->jobs; j != NULL; j = j->next) {
        if (j->shard.hashes == NULL)
            continue;
        memcpy(list + k * NET_HASH_BYTES, j->shard.hashes,
               (size_t)j->shard.n_pieces * NET_HASH_BYTES);
        k += j->shard.n_pieces;
    }
    *n = (uint32_t)k;
    return list;
}

/* ---- the card -------------------------------------------------------------------------------- */

static void card_event(struct worker_shell *sh, const char *reason)
{
    struct worker_event ev = {.type = WORKER_EV_CARD, .ok = reason == NULL, .reason = reason};
    if (reason == NULL) {
        const struct model_exec_config c = exec_config(sh, 1);
        ev.shape = model_shape(sh->model);
        ev.kv_row_bytes = model_kv_row_bytes(sh->model, &c);
    }
    sh->loading = WORKER_LOADING_NONE;
    worker_shell_step(sh, &ev);
}

static void connect_bulk(struct worker_shell *sh, unsigned port)
{
    char host[NET_ENDPOINT_MAX], endpoint[NET_ENDPOINT_MAX + 16];
    unsigned control_port;
    struct err e = {0};
    if (sh->bulk != 0 && sh->bulk_port == port)
        return;
    if (sh->bulk != 0)
        net_disconnect(sh->net, sh->bulk);
    sh->bulk_up = false;
    sh->bulk_port = port;
    if (net_endpoint_split(sh->config.control, host, sizeof host, &control_port, &e) == 0) {
        snprintf(endpoint, sizeof endpoint, "tcp://%s:%u", host, port);
        if (net_connect(sh->net, NET_KIND_BULK, "coordinator", endpoint, &sh->bulk, &e) == 0)
            return;
    }
    sh->bulk = 0;
    base_log(BASE_LOG_ERROR, "bulk", "error=\"%s\"", e.text);
}

/* What is being fetched for `next` is not wanted any more, and the stock has to wait. A card on its
 * way is wanted. */
static void drop_shipment(struct worker_shell *sh)
{
    if (sh->loading != WORKER_LOADING_PLAN && sh->loading != WORKER_LOADING_STOCK)
        return;
    sh->stock.more = sh->stock.more || sh->loading == WORKER_LOADING_STOCK;
    sh->stock.asked_s = 0;
    worker_loader_drop(sh->loader);
    sh->loading = WORKER_LOADING_NONE;
}

void worker_shell_card(struct worker_shell *sh, const struct net_msg_WELCOME *m)
{
    struct err e = {0};
    const bool same = sh->model != NULL && memcmp(sh->model_hash, m->card, NET_HASH_BYTES) == 0;
    sh->context = m->context;
    sh->n_slots = m->slots;
    sh->kv = (enum kern_kv_type)m->kv;
    sh->dead_ms = m->dead_ms;
    connect_bulk(sh, m->bulk_port);
    if (sh->loading == WORKER_LOADING_STOCK)
        drop_shipment(sh);
    else if (sh->loading != WORKER_LOADING_NONE)
        worker_loader_drop(sh->loader);
    memcpy(sh->card_hash, m->card, NET_HASH_BYTES);
    if (same) {
        card_event(sh, NULL);
        return;
    }
    sh->card_bytes = m->card_bytes;
    sh->loading = WORKER_LOADING_CARD;
    uint32_t n_keep = 0;
    uint8_t *keep = worker_shell_in_use(sh, &n_keep);
    if (keep == NULL)
        card_event(sh, "out of memory for a list of pieces");
    else if (worker_loader_begin(sh->loader, sh->card_hash, &sh->card_bytes, 1, keep, n_keep, &e) !=
             0)
        card_event(sh, e.text);
    base_free(keep);
}

static void card_done(struct worker_shell *sh, struct job *j)
{
    if (sh->loading != WORKER_LOADING_CARD || memcmp(j->card, sh->card_hash, NET_HASH_BYTES) != 0)
        return;
    if (j->rc == 0 && sh->model != NULL) {
        if (sh->n_old_models == sizeof sh->old_models / sizeof *sh->old_models) {
            j->rc = err_set(&j->e, ERR_FULL,
                            "the coordinator has changed its model too often: restart this worker");
        } else {
            sh->old_models[sh->n_old_models++] = sh->model;
        }
    }
    if (j->rc == 0) {
        sh->model = j->model;
        sh->large_pages = j->large_pages;
        memcpy(sh->model_hash, j->card, NET_HASH_BYTES);
        j->model = NULL;
    }
    card_event(sh, j->rc == 0 ? NULL : j->e.text);
}

/* ---- a plan ---------------------------------------------------------------------------------- */

static void loaded_event(struct worker_shell *sh, const char *reason)
{
    struct worker_event ev = {
        .type = WORKER_EV_LOADED, .epoch = sh->next.epoch, .ok = reason == NULL, .reason = reason};
    worker_loader_progress(sh->loader, &ev.done_bytes, &ev.total_bytes, &ev.fetched_bytes);
    if (sh->next_engine != NULL)
        ev.planned_bytes = sh->next_engine->planned_bytes + sh->base_bytes;
    sh->loading = WORKER_LOADING_NONE;
    worker_shell_step(sh, &ev);
}

/* Let go of a plan and its engine, which may still be at work on a pass: the compute thread frees
 * it, and until then its pieces stay where they are (worker_shell_in_use). */
static void free_shard(struct worker_shell *sh, struct worker_shard *shard,
                       struct worker_engine **g)
{
    struct job *j = *g != NULL ? new_job(sh, JOB_FREE) : NULL;
    if (j == NULL) {
        base_free(shard->hashes);
    } else {
        j->engine = *g;
        j->shard = *shard;
        post(sh, sh->compute, j);
    }
    *g = NULL;
    *shard = (struct worker_shard){0};
}

/* Where member i of the team listens; false: this worker's file does not know it. */
static bool team_endpoint(struct worker_shell *sh, const char *name, uint32_t port, char *out)
{
    char host[NET_ENDPOINT_MAX];
    unsigned own;
    const struct net_config_worker *w = worker_shell_peer(sh, name);
    if (w == NULL || net_endpoint_split(w->data, host, sizeof host, &own, NULL) != 0)
        return false;
    return snprintf(out, NET_ENDPOINT_MAX, "tcp://%s:%u", host, port) < NET_ENDPOINT_MAX;
}

/* The team of a plan whose numbers the core has checked; n = 0 where a member cannot be reached. */
static void read_team(struct worker_shell *sh, const struct net_msg_PLAN *m, struct worker_team *t)
{
    *t = (struct worker_team){.epoch = m->epoch,
                              .n = m->team.n == 0 ? 1 : m->team.n,
                              .me = m->member,
                              .mesh = m->mesh != 0,
                              .wire = (enum model_wire)m->wire,
                              .silent_ms = sh->dead_ms};
    for (uint32_t i = 0; i < m->team.n; i++) {
        const struct span s = net_str_at(m->team, i);
        snprintf(t->names[i], NET_NAME_MAX, "%.*s", (int)s.len, (const char *)s.ptr);
        if (i != t->me &&
            !team_endpoint(sh, t->names[i], net_u32_at(m->ports, i), t->endpoints[i])) {
            base_log(BASE_LOG_ERROR, "team",
                     "peer=%s error=\"this worker's configuration file does not name it\"",
                     t->names[i]);
            t->n = 0;
            return;
        }
    }
    for (uint32_t i = 0; i < m->heads.n; i++) {
        t->heads[i] = net_u32_at(m->heads, i);
        t->columns[i] = net_u32_at(m->columns, i);
        t->runs[i] = net_u32_at(m->runs, i);
    }
}

/* What of the stage this worker holds. */
static struct model_slice read_slice(struct worker_shell *sh, const struct net_msg_PLAN *m,
                                     const struct worker_team *t)
{
    const struct model_shape *shape = model_shape(sh->model);
    const uint32_t i = m->member;
    const bool output = m->stage == (m->output_first != 0 ? 0 : m->n_stages - 1);
    if (m->team.n == 0)
        return model_slice_part(m->layer0, m->layer1, 0, shape->n_head_units, 0, shape->n_ff_units,
                                0, output ? shape->n_vocab_runs : 0, m->layer0 == 0, output);
    return model_slice_part(m->layer0, m->layer1, t->heads[i], t->heads[i + 1], t->columns[i],
                            t->columns[i + 1], t->runs[i], t->runs[i + 1], i == 0 && m->layer0 == 0,
                            i == 0 && output);
}

void worker_shell_prepare(struct worker_shell *sh, const struct net_msg_PLAN *m)
{
    drop_shipment(sh);
    free_shard(sh, &sh->next, &sh->next_engine);
    sh->next = (struct worker_shard){
        .epoch = m->epoch, .max_rows = m->max_rows, .n_pieces = m->n_pieces};
    read_team(sh, m, &sh->next.team);
    sh->next.slice = read_slice(sh, m, &sh->next.team);
    /* Where the plan names more than there are, loading says so. */
    if (m->n_pieces <= model_n_pieces(sh->model))
        sh->next.hashes = base_zalloc(m->n_pieces, NET_HASH_BYTES);
}

void worker_shell_manifest(struct worker_shell *sh, const struct net_msg_MANIFEST *m)
{
    if (sh->next.hashes != NULL)
        memcpy(sh->next.hashes + (size_t)m->first * NET_HASH_BYTES, m->hashes.ptr, m->hashes.len);
}

/* Can this slice run here at all? Said before a byte is shipped. Room that a copy takes comes last: who
 * counts on its rows is told that they are not here. */
static int check_memory(struct worker_shell *sh, const struct model_slice *s, uint32_t prompt_rows,
                        struct err *e)
{
    const struct model_exec_config c = exec_config(sh, sh->next.max_rows);
    const struct model_memory mem =
        worker_engine_memory(sh->model, s, &sh->next.team, &c, prompt_rows);
    const uint64_t need = mem.weight_bytes + mem.kv_bytes + mem.scratch_bytes;
    uint64_t have = worker_memory_available("", sh->self.memory_bytes);
    char a[24], b[24];
    if (have != 0 && need > have && sh->copy != NULL) {
        base_log(BASE_LOG_WARN, "checkpoint", "error=\"a plan needs the memory of a copy\"");
        worker_shell_drop_copy(sh);
        have = worker_memory_available("", sh->self.memory_bytes);
    }
    if (have == 0 || need <= have)
        return 0;
    return err_set(e, ERR_NOMEM, "the plan needs %s here, there are %s", base_bytes_text(need, a),
                   base_bytes_text(have, b));
}

void worker_shell_load(struct worker_shell *sh, uint64_t epoch)
{
    struct err e = {0};
    const struct model_slice s = sh->next.slice;
    const uint32_t n = sh->next.n_pieces;
    uint32_t n_keep = 0, have;
    uint32_t *numbers = base_zalloc(n, sizeof *numbers);
    uint64_t *bytes = base_zalloc(n, sizeof *bytes);
    uint8_t *keep = worker_shell_in_use(sh, &n_keep);
    sh->loading = WORKER_LOADING_PLAN;
    int rc = sh->next.team.n == 0
                 ? err_set(&e, ERR_NOTFOUND, "its configuration file lacks a worker of its team")
                 : model_slice_check(sh->model, &s, &e);
    if (rc != 0)
        goto out;
    rc = err_set(&e, ERR_NOMEM, "out of memory for the plan's list of pieces");
    if ((have = model_slice_pieces(sh->model, &s, NULL, 0)) != n) {
        rc = err_set(&e, ERR_MISMATCH,
                     "the plan names %u pieces, this worker's model has %u in those layers", n,
                     have);
        goto out;
    }
    if (numbers == NULL || bytes == NULL || keep == NULL || sh->next.hashes == NULL)
        goto out;
    if ((rc = check_memory(sh, &s, worker_core_prompt_rows(sh->core, epoch), &e)) != 0)
        goto out;
    model_slice_pieces(sh->model, &s, numbers, n);
    for (uint32_t i = 0; i < n; i++)
        bytes[i] = model_piece_bytes(sh->model, model_piece_at(sh->model, numbers[i]));
    rc = worker_loader_begin(sh->loader, sh->next.hashes, bytes, n, keep, n_keep, &e);
out:
    base_free(numbers);
    base_free(bytes);
    base_free(keep);
    if (rc != 0)
        loaded_event(sh, e.text);
}

static void build_engine(struct worker_shell *sh)
{
    struct job *j = new_job(sh, JOB_ENGINE);
    if (j == NULL)
        return;
    j->shard = sh->next;
    j->shard.hashes = base_zalloc(sh->next.n_pieces, NET_HASH_BYTES);
    if (j->shard.hashes == NULL) {
        free_job(j);
        loaded_event(sh, "out of memory for the plan's list of pieces");
        return;
    }
    memcpy(j->shard.hashes, sh->next.hashes, (size_t)sh->next.n_pieces * NET_HASH_BYTES);
    j->with = sh->model;
    j->config = exec_config(sh, sh->next.max_rows);
    j->prompt_rows = worker_core_prompt_rows(sh->core, sh->next.epoch);
    sh->loading = WORKER_LOADING_NONE;
    post(sh, sh->disk, j);
}

static void engine_done(struct worker_shell *sh, struct job *j)
{
    if (j->shard.epoch != sh->next.epoch)
        return;
    sh->next_engine = j->engine;
    j->engine = NULL;
    loaded_event(sh, j->rc == 0 ? NULL : j->e.text);
}

/* The compute thread waits for the leader's passes until another plan is in force. */
static void serve(struct worker_shell *sh)
{
    struct job *j = new_job(sh, JOB_SERVE);
    if (j == NULL)
        return;
    j->engine = sh->engine;
    j->shard.epoch = sh->now.epoch;
    sh->serving = true;
    post(sh, sh->compute, j);
}

void worker_shell_activate(struct worker_shell *sh, uint64_t epoch)
{
    worker_exchange_force(sh->exchange, epoch);
    sh->serving = false;
    worker_shell_drop_copy(sh);
    free_shard(sh, &sh->now, &sh->engine);
    sh->engine = sh->next_engine;
    sh->now = sh->next;
    sh->next_engine = NULL;
    sh->next = (struct worker_shard){0};
    base_log(BASE_LOG_INFO, "serving", "epoch=%llx layers=%u-%u member=%u/%u",
             (unsigned long long)epoch, sh->now.slice.layer0, sh->now.slice.layer1 - 1,
             sh->now.team.me, sh->now.team.n);
    if (sh->now.team.me > 0)
        serve(sh);
}

void worker_shell_deactivate(struct worker_shell *sh)
{
    worker_exchange_force(sh->exchange, 0);
    sh->serving = false;
    drop_shipment(sh);
    worker_shell_drop_copy(sh);
    free_shard(sh, &sh->now, &sh->engine);
    free_shard(sh, &sh->next, &sh->next_engine);
}

/* Requests of the loader that its window allows, and its end. */
void worker_shell_loader_pump(struct worker_shell *sh)
{
    const char *reason;
    struct net_msg m;
    const int64_t now_ms = base_clock_ms();
    worker_shell_stock_pump(sh);
    const bool narrow = sh->loading == WORKER_LOADING_STOCK || worker_core_waiting(sh->core) > 0;
    while (sh->bulk_up && worker_loader_wants(sh->loader, narrow) &&
           !worker_shell_stock_rests(sh) && worker_loader_next(sh->loader, narrow, &m))
        if (net_send(sh->net, sh->bulk, &m, NULL) != 0) {
            worker_loader_reset(sh->loader, now_ms);
            break;
        }
    worker_loader_tick(sh->loader, now_ms);
    if (sh->loading == WORKER_LOADING_NONE)
        return;
    const enum worker_loader_state s = worker_loader_state(sh->loader, &reason);
    if (s == WORKER_LOADER_FAILED && sh->loading == WORKER_LOADING_CARD)
        card_event(sh, reason);
    else if (s == WORKER_LOADER_FAILED)
        loaded_event(sh, reason);
    else if (s == WORKER_LOADER_DONE && sh->loading == WORKER_LOADING_CARD && !sh->card_posted) {
        struct job *j = new_job(sh, JOB_CARD);
        if (j != NULL) {
            memcpy(j->card, sh->card_hash, NET_HASH_BYTES);
            sh->card_posted = true;
            post(sh, sh->disk, j);
        }
    } else if (s == WORKER_LOADER_DONE && sh->loading == WORKER_LOADING_PLAN)
        build_engine(sh);
    else if (s == WORKER_LOADER_BUSY && sh->loading == WORKER_LOADING_PLAN &&
             now_ms - sh->progress_ms >= 200) {
        struct worker_event ev = {.type = WORKER_EV_FETCHED, .epoch = sh->next.epoch};
        worker_loader_progress(sh->loader, &ev.done_bytes, &ev.total_bytes, &ev.fetched_bytes);
        sh->progress_ms = now_ms;
        worker_shell_step(sh, &ev);
    }
}

/* ---- teams ----------------------------------------------------------------------------------- */

/* The compute thread makes the connections: where it serves a team it does so at once, otherwise
 * between two jobs. */
void worker_shell_team(struct worker_shell *sh)
{
    if (sh->next.team.n > 1)
        worker_exchange_want(sh->exchange, &sh->next.team);
    sh->team_due_ms = base_clock_ms();
}

void worker_shell_team_tick(struct worker_shell *sh)
{
    struct worker_event ev = {.type = WORKER_EV_TEAM_UP, .epoch = sh->next.epoch};
    struct job *j;
    if (sh->team_due_ms == 0 || base_clock_ms() < sh->team_due_ms)
        return;
    sh->team_due_ms = 0;
    if (sh->next.team.n < 2)
        return;
    if (worker_exchange_ready(sh->exchange, sh->next.epoch)) {
        worker_shell_step(sh, &ev);
        return;
    }
    sh->team_due_ms = base_clock_ms() + TEAM_AGAIN_MS;
    if (sh->serving || base_jobs_busy(sh->compute))
        return;
    if ((j = new_job(sh, JOB_TEAM)) != NULL)
        post(sh, sh->compute, j);
}

static void serve_done(struct worker_shell *sh, struct job *j)
{
    struct worker_event ev = {.type = WORKER_EV_TEAM_LOST,
                              .epoch = j->shard.epoch,
                              .peer = j->lost.name,
                              .reason = j->lost.reason};
    if (sh->serving && j->shard.epoch == sh->now.epoch)
        sh->serving = false;
    if (j->lost.name[0] != 0)
        worker_shell_step(sh, &ev);
}

/* ---- passes and profiles --------------------------------------------------------------------- */

void worker_shell_pass(struct worker_shell *sh, struct worker_pass *pass)
{
    struct job *j = sh->pass_job; /* one pass at a time: one job serves them all, and decoding
                                     allocates nothing */
    worker_engine_gather(sh->engine, pass);
    j->engine = sh->engine;
    j->pass = pass;
    post(sh, sh->compute, j);
}

static void pass_done(struct worker_shell *sh, struct job *j)
{
    struct worker_event ev = {.type = WORKER_EV_PASS, .pass = j->pass};
    const uint64_t us = (uint64_t)(j->seconds * 1e6);
    sh->load.passes++;
    sh->load.busy_us += us;
    if (j->pass->n_decode == j->pass->n) {
        sh->load.decode_passes++;
        sh->load.decode_rows += j->pass->n;
        sh->load.decode_us += us;
    }
    worker_shell_step(sh, &ev);
}

int worker_shell_jobs_init(struct worker_shell *sh, struct err *e)
{
    if ((sh->pass_job = new_job(sh, JOB_PASS)) == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for a job");
    int rc = base_jobs_new("compute", 64, &sh->compute, e);
    if (rc == 0)
        rc = base_jobs_new("disk", 64, &sh->disk, e);
    return rc != 0 ? rc : base_jobs_new("watch", 1, &sh->watch, e);
}

static void profile_done(struct worker_shell *sh, struct job *j)
{
    /* Of a former coordinator's model nobody wants to know. */
    if (j->serial != sh->profile_serial || memcmp(j->card, sh->model_hash, NET_HASH_BYTES) != 0)
        return;
    sh->measured = (struct worker_measured){.config = j->config,
                                            .quota = j->quota,
                                            .profile = j->profile,
                                            .pass = base_median(sh->noop_s, WORKER_NOOPS),
                                            .at_ms = j->rc == 0 ? base_clock_ms() : 0};
    memcpy(sh->measured.model, j->card, NET_HASH_BYTES);
    worker_shell_say_profile(sh, 0, j->rc == 0 ? "" : j->e.text);
}

static void post_noop(struct worker_shell *sh)
{
    struct job *j = new_job(sh, JOB_NOOP);
    if (j == NULL)
        return;
    j->serial = sh->profile_serial;
    sh->noop_at = base_clock_s();
    post(sh, sh->compute, j);
}

void worker_shell_profile_tick(struct worker_shell *sh)
{
    if (sh->noop_due_ms == 0 || base_clock_ms() < sh->noop_due_ms)
        return;
    sh->noop_due_ms = 0;
    post_noop(sh);
}

/* First the fixed cost of a pass: empty jobs to the compute thread and back, one at a time and, as
 * in a ring, with both threads asleep before. */
void worker_shell_profile(struct worker_shell *sh, uint32_t rows)
{
    sh->profile_rows = rows < 2 ? 2 : rows > WORKER_PROMPT_ROWS / 2 ? WORKER_PROMPT_ROWS / 2 : rows;
    sh->noops = 0;
    sh->noop_due_ms = 0;
    sh->profile_serial++;
    post_noop(sh);
}

static void noop_done(struct worker_shell *sh, uint32_t serial)
{
    if (serial != sh->profile_serial)
        return;
    /* Only now has the compute thread given back what a former plan had of the memory. */
    if (worker_shell_is_measured(sh)) {
        const int64_t age_ms = base_clock_ms() - sh->measured.at_ms;
        worker_shell_say_profile(sh, age_ms > 0 ? (uint64_t)age_ms : 1, "");
        return;
    }
    sh->noop_s[sh->noops] = base_clock_s() - sh->noop_at;
    if (++sh->noops < WORKER_NOOPS) {
        sh->noop_due_ms = base_clock_ms() + WORKER_PING_GAP_MS;
        return;
    }
    struct job *j = new_job(sh, JOB_PROFILE);
    if (j == NULL)
        return;
    j->serial = sh->profile_serial;
    j->with = sh->model;
    j->config = exec_config(sh, WORKER_PROMPT_ROWS);
    j->quota = worker_cpu_quota("");
    memcpy(j->card, sh->model_hash, NET_HASH_BYTES);
    j->profile.rows[0] = 1;
    j->profile.rows[1] = sh->profile_rows;
    j->profile.rows[2] = WORKER_PROMPT_ROWS;
    post(sh, sh->compute, j);
}

static void job_done(struct worker_shell *sh, struct job *j)
{
    switch (j->kind) {
    case JOB_CARD:
        sh->card_posted = false;
        card_done(sh, j);
        break;
    case JOB_ENGINE:
        engine_done(sh, j);
        break;
    case JOB_PASS:
        pass_done(sh, j);
        return; /* kept for the next pass */
    case JOB_SERVE:
        serve_done(sh, j);
        break;
    case JOB_TEAM:
        break;
    case JOB_NOOP:
        noop_done(sh, j->serial);
        break;
    case JOB_PROFILE:
        profile_done(sh, j);
        break;
    case JOB_FREE:
        break;
    }
    free_job(j);
}

/* ---- readings -------------------------------------------------------------------------------- */

static void take_readings(void *arg)
{
    struct worker_shell *sh = arg;
    const char *root = sh->options->test_root;
    const double t = base_clock_s();
    worker_readings_take(root != NULL ? root : "", sh->self.memory_bytes, &sh->readings);
    base_log(BASE_LOG_DEBUG, "readings", "us=%.0f", (base_clock_s() - t) * 1e6);
}

/* On a thread of its own: tens of small files, and a sensor behind a slow bus, take longer than a
 * message may wait. One that never answers holds up the reports only. */
void worker_shell_read(struct worker_shell *sh)
{
    (void)base_jobs_post(sh->watch, take_readings, sh); /* refused while one is not back */
}

void worker_shell_reap(struct worker_shell *sh)
{
    void *job;
    while (base_jobs_reap(sh->watch, &job)) {
        struct worker_event ev = {.type = WORKER_EV_READ, .readings = &sh->readings};
        worker_shell_load_now(sh, &ev.load);
        worker_shell_step(sh, &ev);
    }
    while (base_jobs_reap(sh->compute, &job))
        job_done(sh, job);
    while (base_jobs_reap(sh->disk, &job))
        if (!worker_loader_reap(sh->loader, job, base_clock_ms()))
            job_done(sh, job);
}
