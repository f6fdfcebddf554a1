/* The journal's file: STATE/journal, a header and then records (records.c).
 *
 *     header  check u64, as in a record; magic "shoaljn1"; of what the tokens depend on: model (32
 *             bytes), numerics u64, kv, fast, wire, context u32 each
 *
 * It is read once, at the start, and begun anew with what is still wanted; from then on it is only
 * appended to, and written anew when it has grown to twice its length and a little. A thread does
 * all that, since a card may take seconds over a write, and heartbeats do not wait. What comes while
 * it is busy is collected and becomes one write(2).
 *
 * Appends are not synced: a coordinator that is killed loses what its thread had not yet written, at
 * most; a machine that loses its power, the seconds that the system had not written. Both cost time
 * only, as any beginning of a journal will do. For the same reason a write that fails is no disaster:
 * the file is cut back to the last whole record, the failure is said once, and the next records try
 * again.
 *
 * The file holds prompts and answers in clear, for its owner's eyes only (0600). */
#include "coordinator/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { CHECK_BYTES = 8, MAGIC_BYTES = 8, HEADER_BYTES = CHECK_BYTES + MAGIC_BYTES + 32 + 8 + 16 };

struct coord_journal {
    char path[NET_PATH_MAX + 16];
    struct coord_identity own;
    struct base_map map; /* what the kept requests borrow */
    struct coord_kept_list kept;
    char refuses[200]; /* "": they may go on */

    struct base_jobs *jobs;
    bool busy, failing; /* the thread has `writing`; the last write failed, which was said */
    struct base_buf waiting, writing;
    /* the thread's while it is busy */
    int fd; /* < 0: there is no file to append to */
    size_t length, compact_at;
    int rc;
    struct err e;
};

/* ---- the header ---------------------------------------------------------------------------------- */

static const char magic[MAGIC_BYTES + 1] = "shoaljn1";

static void header_of(const struct coord_identity *id, uint8_t out[static HEADER_BYTES])
{
    const uint32_t numbers[] = {id->kv, id->fast, id->wire, id->context};
    uint8_t *at = out + CHECK_BYTES;
    memcpy(at, magic, MAGIC_BYTES);
    memcpy(at + MAGIC_BYTES, id->model, 32);
    net_put_u64(at + MAGIC_BYTES + 32, 0, id->numerics);
    for (uint32_t i = 0; i < 4; i++)
        net_put_u32(at + MAGIC_BYTES + 40, i, numbers[i]);
    net_put_u64(out, 0, coord_record_check((struct span){at, HEADER_BYTES - CHECK_BYTES}));
}

static bool header_read(struct span bytes, struct coord_identity *out)
{
    uint8_t again[HEADER_BYTES];
    if (bytes.len < HEADER_BYTES)
        return false;
    const uint8_t *at = bytes.ptr + CHECK_BYTES + MAGIC_BYTES;
    const struct net_list numbers = {at + 40, 4};
    memcpy(out->model, at, 32);
    out->numerics = net_u64_at((struct net_list){at + 32, 1}, 0);
    out->kv = net_u32_at(numbers, 0);
    out->fast = net_u32_at(numbers, 1);
    out->wire = net_u32_at(numbers, 2);
    out->context = net_u32_at(numbers, 3);
    header_of(out, again);
    return memcmp(again, bytes.ptr, HEADER_BYTES) == 0;
}

/* Why requests of the one may not go on under the other; NULL: they may. */
static const char *differs(const struct coord_identity *a, const struct coord_identity *b)
{
    return memcmp(a->model, b->model, sizeof a->model) != 0 ? "model"
           : a->numerics != b->numerics                     ? "kernels, which give other bits"
           : a->kv != b->kv                                 ? "kv"
           : a->fast != b->fast                             ? "numerics"
           : a->wire != b->wire                             ? "wire"
           : a->context != b->context                       ? "context"
                                                            : NULL;
}

/* ---- on the thread ------------------------------------------------------------------------------- */

static int begin_anew(struct coord_journal *j, const struct coord_kept_list *l, struct err *e)
{
    struct base_buf b = {0};
    uint8_t header[HEADER_BYTES];
    header_of(&j->own, header);
    base_buf_add(&b, header, sizeof header);
    coord_records_write(l, &b);
    int rc = b.failed ? err_set(e, ERR_NOMEM, "out of memory for the journal")
                      : base_file_replace(j->path, b.ptr, b.len, 0600, e);
    if (rc == 0) {
        if (j->fd >= 0)
            (void)close(j->fd);
        j->fd = open(j->path, O_WRONLY | O_APPEND | O_CLOEXEC);
        j->length = b.len;
        j->compact_at = 2 * b.len + COORD_JOURNAL_SLACK;
        if (j->fd < 0)
            rc = err_set(e, ERR_IO, "cannot open %s: %s", j->path, strerror(errno));
    }
    base_buf_deinit(&b);
    return rc;
}

/* Leave out what nobody wants to know any more. Where that fails the file stays as it was. */
static int compact(struct coord_journal *j, struct err *e)
{
    struct coord_kept_list l = {0};
    struct base_map map;
    j->compact_at = 2 * j->length + COORD_JOURNAL_SLACK;
    int rc = base_map_open(j->path, &map, e);
    if (rc != 0)
        return rc;
    coord_records_read((struct span){map.ptr + HEADER_BYTES, map.len - HEADER_BYTES}, &l);
    rc = begin_anew(j, &l, e);
    coord_kept_deinit(&l);
    base_map_close(&map);
    return rc;
}

static int append(struct coord_journal *j, struct span bytes, struct err *e)
{
    static const struct coord_kept_list none;
    size_t done = 0;
    int rc;
    if (j->fd < 0 && (rc = begin_anew(j, &none, e)) != 0)
        return rc;
    if (bytes.len > COORD_JOURNAL_MAX - j->length)
        return err_set(e, ERR_FULL, "%s is as long as it may be", j->path);
    while (done < bytes.len) {
        const ssize_t n = write(j->fd, bytes.ptr + done, bytes.len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = err_set(e, ERR_IO, "cannot write %s: %s", j->path,
                         n < 0 ? strerror(errno) : "nothing is taken");
            /* Half a record would hide all that follow it. */
            if (ftruncate(j->fd, (off_t)j->length) != 0) {
                (void)close(j->fd);
                j->fd = -1;
            }
            return rc;
        }
        done += (size_t)n;
    }
    j->length += bytes.len;
    return 0;
}

static void write_job(void *arg)
{
    struct coord_journal *j = arg;
    j->rc = append(j, (struct span){j->writing.ptr, j->writing.len}, &j->e);
    j->writing.len = 0;
    if (j->rc == 0 && j->length > j->compact_at)
        j->rc = compact(j, &j->e);
}

/* ---- on the poll loop's thread ------------------------------------------------------------------- */

/* Say that the journal fails, or works again, once each. */
static void say(struct coord_journal *j, int rc, const char *why)
{
    if (rc != 0 && !j->failing)
        base_log(BASE_LOG_ERROR, "journal",
                 "error=\"%s\" effect=\"after a restart some requests would begin anew\"", why);
    if (rc == 0 && j->failing)
        base_log(BASE_LOG_INFO, "journal", "works again");
    j->failing = rc != 0;
}

static void post(struct coord_journal *j)
{
    if (j->busy || j->waiting.len == 0)
        return;
    const struct base_buf spare = j->writing;
    j->writing = j->waiting;
    j->waiting = spare;
    j->busy = true;
    /* The thread has nothing else, so there is room. */
    (void)base_jobs_post(j->jobs, write_job, j);
}

void coord_journal_add(struct coord_journal *j, struct span records)
{
    if (records.len > COORD_JOURNAL_BEHIND_MAX - j->waiting.len) {
        say(j, ERR_FULL, "the disk does not keep up");
        return;
    }
    base_buf_add(&j->waiting, records.ptr, records.len);
    if (j->waiting.failed) {
        say(j, ERR_NOMEM, "out of memory");
        base_buf_deinit(&j->waiting);
    }
    post(j);
}

int coord_journal_fd(const struct coord_journal *j)
{
    return base_jobs_fd(j->jobs);
}

void coord_journal_reap(struct coord_journal *j)
{
    void *arg;
    while (base_jobs_reap(j->jobs, &arg)) {
        j->busy = false;
        say(j, j->rc, j->e.text);
    }
    post(j);
}

/* ---- beginning and end --------------------------------------------------------------------------- */

/* What the file has; whatever is wrong with it is said, and is no reason not to start. */
static void read_file(struct coord_journal *j)
{
    struct coord_identity theirs;
    struct err e = {0};
    const int rc = base_map_open(j->path, &j->map, &e);
    if (rc != 0) {
        j->map = (struct base_map){0};
        if (rc != ERR_NOTFOUND)
            base_log(BASE_LOG_WARN, "journal", "not_read=\"%s\"", e.text);
        return;
    }
    struct span bytes = {j->map.ptr, j->map.len};
    if (j->map.len > COORD_JOURNAL_MAX || !header_read(bytes, &theirs)) {
        base_log(BASE_LOG_WARN, "journal", "not_read=\"%s is no journal of this version\"",
                 j->path);
        return;
    }
    bytes = (struct span){bytes.ptr + HEADER_BYTES, bytes.len - HEADER_BYTES};
    const size_t n = coord_records_read(bytes, &j->kept);
    if (n < bytes.len)
        base_log(BASE_LOG_WARN, "journal", "torn=\"the last %zu bytes of %s are not whole\"",
                 bytes.len - n, j->path);
    const char *what = differs(&theirs, &j->own);
    if (what != NULL)
        snprintf(j->refuses, sizeof j->refuses,
                 "the coordinator was restarted with another %s, which would give another text: "
                 "send the request again",
                 what);
}

int coord_journal_open(const char *state, const struct coord_identity *own,
                       struct coord_journal **out, struct err *e)
{
    struct coord_journal *j = base_zalloc(1, sizeof *j);
    struct err why = {0};
    if (j == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the journal");
    j->own = *own;
    j->fd = -1;
    snprintf(j->path, sizeof j->path, "%s/journal", state);
    const int rc = base_jobs_new("journal", 1, &j->jobs, e);
    if (rc != 0) {
        base_free(j);
        return rc;
    }
    read_file(j);
    /* Drained workers are drained, whatever the model. */
    struct coord_kept_list goes_on = j->kept;
    goes_on.n = j->refuses[0] == 0 ? j->kept.n : 0;
    say(j, begin_anew(j, &goes_on, &why), why.text);
    *out = j;
    return 0;
}

const struct coord_kept_list *coord_journal_kept(const struct coord_journal *j)
{
    return &j->kept;
}

const char *coord_journal_refuses(const struct coord_journal *j)
{
    return j->refuses[0] != 0 ? j->refuses : NULL;
}

void coord_journal_forget(struct coord_journal *j)
{
    coord_kept_deinit(&j->kept);
    base_map_close(&j->map);
}

void coord_journal_close(struct coord_journal *j)
{
    if (j == NULL)
        return;
    base_jobs_free(j->jobs); /* waits for the write under way, but not for one that has not begun */
    if (append(j, (struct span){j->writing.ptr, j->writing.len}, NULL) == 0)
        (void)append(j, (struct span){j->waiting.ptr, j->waiting.len}, NULL);
    if (j->fd >= 0)
        (void)close(j->fd);
    coord_journal_forget(j);
    base_buf_deinit(&j->waiting);
    base_buf_deinit(&j->writing);
    base_free(j);
}
