/* Shipping, seen from the worker: a list of pieces goes in, and when all are in the store it is
 * done.
 *
 * The coordinator's side is stateless (FETCH names a hash, an offset and a length), so all of the
 * procedure is here: the disk thread says which pieces lack; they are asked for one after another
 * in parts of NET_CHUNK_MAX, at most a window of parts being on their way or waiting to be written,
 * so that a slow disk holds the network back; the disk thread writes them and checks the hash with
 * the last one. A piece that came damaged is asked for again a few times. When the connection
 * breaks, the window is asked for anew from the first part that has not come; whole pieces are
 * never sent twice, also after a restart, since the store keeps them.
 *
 * The list may name a piece twice (tied embeddings): duplicates are dropped by sorting. Jobs carry
 * the shipment's number, so that those of a dropped shipment are told apart when they come back.
 * Left out: fetching from other workers. */
#include "worker/loader.h"

#include <stdlib.h>
#include <string.h>

struct want {
    uint8_t hash[NET_HASH_BYTES];
    uint64_t bytes;
};

enum job_kind { JOB_CHECK, JOB_WRITE, JOB_SYNC };

struct job {
    struct worker_job base;
    struct worker_loader *loader;
    struct job *next, *previous; /* all jobs of the loader, so that none is lost at the end */
    enum job_kind kind;
    uint64_t shipment;
    struct want *list; /* CHECK: the list, from which pieces that are there are removed */
    struct want *keep; /* CHECK: pieces that must stay besides */
    uint32_t n, n_keep;
    uint64_t have_bytes;
    struct want piece; /* WRITE */
    uint64_t offset;
    size_t len;
    uint8_t *data;
    int rc;
    struct err e;
};

struct worker_loader {
    struct worker_store *store;
    struct base_jobs *disk;
    enum worker_loader_state state;
    struct err e;
    struct job *jobs;
    uint64_t shipment;
    struct want *want; /* pieces that lack, sorted by hash */
    uint32_t n_want;
    bool checked, syncing;
    uint64_t total, have, fetched;
    /* asked for up to here, received up to there, in list order */
    uint32_t ask_piece, got_piece, written;
    uint64_t ask_offset, got_offset;
    uint32_t window;  /* parts asked for that have not come */
    uint32_t writing; /* jobs with the disk thread, of dropped shipments, too */
    uint32_t retries;
    int64_t heard_ms;
};

int worker_loader_new(struct worker_store *store, struct base_jobs *disk,
                      struct worker_loader **out, struct err *e)
{
    struct worker_loader *l = base_zalloc(1, sizeof *l);
    if (l == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the loader");
    l->store = store;
    l->disk = disk;
    *out = l;
    return 0;
}

static void free_job(struct job *j)
{
    if (j == NULL)
        return;
    if (j->next != NULL)
        j->next->previous = j->previous;
    if (j->previous != NULL)
        j->previous->next = j->next;
    else
        j->loader->jobs = j->next;
    base_free(j->list);
    base_free(j->keep);
    base_free(j->data);
    base_free(j);
}

void worker_loader_free(struct worker_loader *l)
{
    if (l == NULL)
        return;
    while (l->jobs != NULL)
        free_job(l->jobs);
    base_free(l->want);
    base_free(l);
}

static void fail(struct worker_loader *l, int code, const char *why)
{
    l->state = WORKER_LOADER_FAILED;
    err_set(&l->e, code, "%s", why);
}

/* ---- the disk thread ------------------------------------------------------------------------- */

static int by_hash(const void *a, const void *b)
{
    return memcmp(((const struct want *)a)->hash, ((const struct want *)b)->hash, NET_HASH_BYTES);
}

/* Part of this shipment, or of the plan in force? */
static bool is_wanted(void *arg, const uint8_t hash[static NET_HASH_BYTES])
{
    const struct job *j = arg;
    struct want key;
    memcpy(key.hash, hash, NET_HASH_BYTES);
    return bsearch(&key, j->list, j->n, sizeof key, by_hash) != NULL ||
           (j->n_keep > 0 && bsearch(&key, j->keep, j->n_keep, sizeof key, by_hash) != NULL);
}

/* Which pieces lack, and room for them. */
static void run_check(struct job *j)
{
    struct worker_store *store = j->loader->store;
    uint32_t n = 0;
    uint64_t room = 0;
    qsort(j->list, j->n, sizeof *j->list, by_hash);
    for (uint32_t i = 0; i < j->n; i++)
        if (i == 0 || by_hash(&j->list[i], &j->list[n - 1]) != 0)
            j->list[n++] = j->list[i];
    const struct worker_store_stats st = worker_store_stats(store);
    for (uint32_t i = 0; i < n; i++)
        room += worker_store_has(store, j->list[i].hash) ? 0 : worker_store_room(j->list[i].bytes);
    j->n = n;
    if (j->n_keep > 0)
        qsort(j->keep, j->n_keep, sizeof *j->keep, by_hash);
    if (room > 0 && st.limit_bytes != 0 && st.disk_bytes + room > st.limit_bytes)
        j->rc = worker_store_evict(store, room, is_wanted, j, &j->e);
    j->n = 0;
    for (uint32_t i = 0; i < n && j->rc == 0; i++) {
        if (worker_store_has(store, j->list[i].hash))
            j->have_bytes += j->list[i].bytes;
        else
            j->list[j->n++] = j->list[i];
    }
}

static void run_write(struct job *j)
{
    struct worker_store *store = j->loader->store;
    if (j->offset == 0) {
        worker_store_abandon(store, j->piece.hash);
        j->rc = worker_store_begin(store, j->piece.hash, j->piece.bytes, &j->e);
        if (j->rc == ERR_REFUSED && worker_store_has(store, j->piece.hash))
            j->rc = 0;
    }
    if (j->rc == 0 && !worker_store_has(store, j->piece.hash))
        j->rc = worker_store_write(store, j->piece.hash, j->offset, (struct span){j->data, j->len},
                                   &j->e);
    if (j->rc == 0 && j->offset + j->len == j->piece.bytes &&
        !worker_store_has(store, j->piece.hash))
        j->rc = worker_store_finish(store, j->piece.hash, &j->e);
}

static void run_job(void *arg)
{
    struct job *j = arg;
    if (j->kind == JOB_CHECK)
        run_check(j);
    else if (j->kind == JOB_WRITE)
        run_write(j);
    else
        j->rc = worker_store_sync(j->loader->store, &j->e);
}

/* ---- the network thread ---------------------------------------------------------------------- */

/* Give a job to the disk thread, or fail the shipment. */
static void post(struct worker_loader *l, struct job *j)
{
    if (base_jobs_post(l->disk, run_job, j) == 0) {
        l->writing++;
        return;
    }
    free_job(j);
    fail(l, ERR_FULL, "the disk is too slow: its queue is full");
}

static struct job *new_job(struct worker_loader *l, enum job_kind kind)
{
    struct job *j = base_zalloc(1, sizeof *j);
    if (j == NULL) {
        fail(l, ERR_NOMEM, "out of memory while receiving pieces");
        return NULL;
    }
    j->base.owner = l;
    j->loader = l;
    j->kind = kind;
    j->shipment = l->shipment;
    j->next = l->jobs;
    if (j->next != NULL)
        j->next->previous = j;
    l->jobs = j;
    return j;
}

static struct want *copy_list(const uint8_t *hashes, const uint64_t *bytes, uint32_t n)
{
    struct want *list = base_zalloc(n, sizeof *list);
    for (uint32_t i = 0; list != NULL && i < n; i++) {
        memcpy(list[i].hash, hashes + (size_t)i * NET_HASH_BYTES, NET_HASH_BYTES);
        list[i].bytes = bytes != NULL ? bytes[i] : 0;
    }
    return list;
}

void worker_loader_drop(struct worker_loader *l)
{
    l->shipment++;
    base_free(l->want);
    l->want = NULL;
    l->n_want = l->ask_piece = l->got_piece = l->written = l->window = l->retries = 0;
    l->ask_offset = l->got_offset = l->total = l->have = l->fetched = 0;
    l->checked = l->syncing = false;
    l->state = WORKER_LOADER_IDLE;
}

int worker_loader_begin(struct worker_loader *l, const uint8_t *hashes, const uint64_t *bytes,
                        uint32_t n, const uint8_t *keep, uint32_t n_keep, struct err *e)
{
    worker_loader_drop(l);
    l->state = WORKER_LOADER_BUSY;
    struct job *j = new_job(l, JOB_CHECK);
    if (j != NULL) {
        j->n = n;
        j->n_keep = n_keep;
        j->list = copy_list(hashes, bytes, n);
        j->keep = n_keep > 0 ? copy_list(keep, NULL, n_keep) : NULL;
    }
    if (j == NULL || j->list == NULL || (n_keep > 0 && j->keep == NULL)) {
        free_job(j);
        l->state = WORKER_LOADER_FAILED;
        return err_set(e, ERR_NOMEM, "out of memory for a list of %u pieces", n);
    }
    post(l, j);
    return 0;
}

static void finish_if_all_written(struct worker_loader *l)
{
    if (l->state != WORKER_LOADER_BUSY || !l->checked || l->syncing || l->written < l->n_want)
        return;
    if (l->n_want == 0) {
        l->state = WORKER_LOADER_DONE;
        return;
    }
    l->syncing = true;
    struct job *j = new_job(l, JOB_SYNC);
    if (j != NULL)
        post(l, j);
}

bool worker_loader_is_quiet(const struct worker_loader *l)
{
    return l->window + l->writing == 0;
}

bool worker_loader_wants(const struct worker_loader *l, bool narrow)
{
    return l->state == WORKER_LOADER_BUSY && l->checked && l->ask_piece < l->n_want &&
           l->window + l->writing < (narrow ? 1 : WORKER_LOADER_WINDOW);
}

bool worker_loader_next(struct worker_loader *l, bool narrow, struct net_msg *out)
{
    if (!worker_loader_wants(l, narrow))
        return false;
    const struct want *w = &l->want[l->ask_piece];
    const uint64_t left = w->bytes - l->ask_offset;
    const uint32_t length = left < NET_CHUNK_MAX ? (uint32_t)left : NET_CHUNK_MAX;
    *out = (struct net_msg){.code = NET_MSG_FETCH, .u.FETCH = {w->hash, l->ask_offset, length}};
    l->window++;
    l->ask_offset += length;
    if (l->ask_offset == w->bytes) {
        l->ask_piece++;
        l->ask_offset = 0;
    }
    return true;
}

void worker_loader_piece(struct worker_loader *l, const struct net_msg_PIECE *m, int64_t now_ms)
{
    if (l->state != WORKER_LOADER_BUSY || l->got_piece >= l->n_want)
        return;
    const struct want *w = &l->want[l->got_piece];
    if (memcmp(m->hash, w->hash, NET_HASH_BYTES) != 0 || m->offset != l->got_offset)
        return; /* of a shipment or a window that was dropped */
    l->heard_ms = now_ms;
    if (m->total != w->bytes || m->bytes.len == 0 || m->bytes.len > w->bytes - l->got_offset) {
        fail(l, ERR_NOTFOUND,
             m->total == 0 ? "the coordinator does not have a piece that its plan names"
                           : "the coordinator sent a piece of another length than the card says");
        return;
    }
    struct job *j = new_job(l, JOB_WRITE);
    if (j != NULL)
        j->data = base_alloc(m->bytes.len);
    if (j == NULL || j->data == NULL) {
        free_job(j);
        fail(l, ERR_NOMEM, "out of memory while receiving pieces");
        return;
    }
    memcpy(j->data, m->bytes.ptr, m->bytes.len);
    j->len = m->bytes.len;
    j->piece = *w;
    j->offset = m->offset;
    l->window -= l->window > 0 ? 1u : 0u;
    l->got_offset += m->bytes.len;
    l->fetched += m->bytes.len;
    if (l->got_offset == w->bytes) {
        l->got_piece++;
        l->got_offset = 0;
    }
    post(l, j);
}

void worker_loader_reset(struct worker_loader *l, int64_t now_ms)
{
    l->ask_piece = l->got_piece;
    l->ask_offset = l->got_offset;
    l->window = 0;
    l->heard_ms = now_ms;
}

void worker_loader_tick(struct worker_loader *l, int64_t now_ms)
{
    /* Also where nothing could be asked for, since there is no bulk connection. */
    if (l->state != WORKER_LOADER_BUSY || !l->checked || l->writing > 0 ||
        l->got_piece == l->n_want)
        l->heard_ms = now_ms;
    else if (now_ms - l->heard_ms > WORKER_LOADER_SILENT_MS)
        fail(l, ERR_TIMEOUT,
             "the coordinator has sent no piece for 30 s: does it run, and is its bulk port open?");
}

/* A piece was damaged on its way: it goes to the end of the list. */
static void ask_again(struct worker_loader *l, const struct want *w)
{
    struct want *list = base_realloc(l->want, (l->n_want + 1) * sizeof *list);
    if (list == NULL || ++l->retries > WORKER_LOADER_RETRIES) {
        fail(l, ERR_MISMATCH,
             "pieces arrive damaged: their content does not have the hash that the plan names");
        l->want = list != NULL ? list : l->want;
        return;
    }
    list[l->n_want++] = *w;
    l->want = list;
}

static void written(struct worker_loader *l, const struct job *j)
{
    const bool last = j->offset + j->len == j->piece.bytes;
    if (j->rc == ERR_MISMATCH && last) {
        ask_again(l, &j->piece);
        l->written++;
    } else if (j->rc != 0) {
        fail(l, j->rc, j->e.text);
    } else if (last) {
        l->written++;
        l->have += j->piece.bytes;
    }
}

bool worker_loader_reap(struct worker_loader *l, void *job, int64_t now_ms)
{
    if (((struct worker_job *)job)->owner != l)
        return false;
    struct job *j = job;
    l->writing--;
    if (j->shipment == l->shipment && l->state == WORKER_LOADER_BUSY) {
        if (j->kind == JOB_WRITE)
            written(l, j);
        else if (j->rc != 0)
            fail(l, j->rc, j->e.text);
        else if (j->kind == JOB_SYNC)
            l->state = WORKER_LOADER_DONE;
        else {
            l->want = j->list;
            l->n_want = j->n;
            l->have = l->total = j->have_bytes;
            for (uint32_t i = 0; i < j->n; i++)
                l->total += j->list[i].bytes;
            j->list = NULL;
            l->checked = true;
            l->heard_ms = now_ms;
        }
    }
    free_job(j);
    finish_if_all_written(l);
    return true;
}

enum worker_loader_state worker_loader_state(const struct worker_loader *l, const char **reason)
{
    *reason = l->e.text;
    return l->state;
}

void worker_loader_progress(const struct worker_loader *l, uint64_t *done, uint64_t *total,
                            uint64_t *fetched)
{
    *done = l->have;
    *total = l->total;
    *fetched = l->fetched;
}
