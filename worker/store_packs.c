/* The store's pack files: where pieces lie, how their space comes back, and whether they are still
 * whole.
 *
 * A pack is filled from its start to its end and never in between: the space of a removed piece is
 * punched out of the file, so that the disk has it back at once while everything else stays where
 * it is mapped. Packs are numbered upwards and removed with their last piece. What file system
 * cannot punch holes keeps the space until then; there eviction removes whole packs.
 *
 * A mapping covers the longest pack there may be from the day it is made, and the file grows below
 * it: Linux looks at the file's length when a page is first touched, and no page is touched before
 * its piece was written. So nothing that was handed out ever moves.
 *
 * Weights are read from end to end for each token, and the hardware sees less far ahead in pages of
 * 4 KiB than in large ones. Linux keeps a file in large pages where the file system can (XFS, ext4 from
 * Linux 6.16 on), but in pages that are as small as what it was written in, which is a message. A hole that
 * is read through a mapping that asks for large pages becomes one, though, and what is then written goes
 * into it. So the file is grown by whole large pages, and these are read before a piece begins them;
 * what is left over at its end is cut off when the store is closed or opened. Where no large pages come
 * of it, packs are as they would be otherwise.
 *
 * The invariant: live_bytes and n_live of a pack are the sum over the pieces in the table and in
 * flight that lie in it, and no two of these overlap. */
#define _GNU_SOURCE /* fallocate: POSIX cannot give back the middle of a file */
#include "worker/store_private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CHECK_CHUNK = 64 * 1024, /* bytes read at once to hash a piece */
    LARGE_BYTES = 2 << 20    /* a large page, as x86-64 and arm64 with pages of 4 KiB have them */
};
_Static_assert(WORKER_STORE_PACK_BYTES % LARGE_BYTES == 0, "packs are whole large pages");

/* ---- packs ----------------------------------------------------------------------------------- */

void worker_pack_name(uint32_t id, char out[static STORE_PACK_NAME])
{
    (void)snprintf(out, STORE_PACK_NAME, "pack-%08x", (unsigned)id);
}

static int pack_open(const struct worker_store *s, uint32_t id, int flags)
{
    char name[STORE_PACK_NAME];

    worker_pack_name(id, name);
    return openat(s->dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW);
}

static int pack_error(const struct worker_store *s, struct err *e, const char *doing, uint32_t id)
{
    char name[STORE_PACK_NAME];

    worker_pack_name(id, name);
    return worker_store_io_error(s, e, doing, name);
}

/* Index of the first pack whose id is not below this one. */
static uint32_t pack_rank(const struct worker_store *s, uint32_t id)
{
    uint32_t low = 0, high = s->n_packs;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (s->packs[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

struct store_pack *worker_pack_find(const struct worker_store *s, uint32_t id)
{
    uint32_t i = pack_rank(s, id);

    return i < s->n_packs && s->packs[i].id == id ? &s->packs[i] : NULL;
}

struct store_pack *worker_pack_obtain(struct worker_store *s, uint32_t id)
{
    uint32_t i = pack_rank(s, id);

    if (i < s->n_packs && s->packs[i].id == id) {
        return &s->packs[i];
    }
    if (s->n_packs == s->max_packs) {
        uint32_t max = s->max_packs > 0 ? 2 * s->max_packs : 16;
        struct store_pack *packs = base_realloc(s->packs, max * sizeof *packs);

        if (packs == NULL) {
            return NULL;
        }
        s->packs = packs;
        s->max_packs = max;
    }
    memmove(&s->packs[i + 1], &s->packs[i], (s->n_packs - i) * sizeof *s->packs);
    s->packs[i] = (struct store_pack){.id = id};
    s->n_packs++;
    if (id >= s->next_pack) {
        s->next_pack = id + 1;
    }
    return &s->packs[i];
}

/* A pack without pieces: its file and its mapping go. */
static void pack_drop(struct worker_store *s, struct store_pack *pack)
{
    char name[STORE_PACK_NAME];
    uint32_t i = (uint32_t)(pack - s->packs);

    worker_pack_name(pack->id, name);
    if (unlinkat(s->dir_fd, name, 0) != 0 && errno != ENOENT) {
        base_log(BASE_LOG_WARN, "store-pack-stays", "dir=%s pack=%s reason=\"%s\"", s->dir, name,
                 strerror(errno));
    }
    if (pack->map != NULL) {
        /* munmap takes a plain pointer; nobody writes through it. */
        (void)munmap((void *)(uintptr_t)pack->map, WORKER_STORE_PACK_BYTES);
    }
    memmove(&s->packs[i], &s->packs[i + 1], (s->n_packs - i - 1) * sizeof *s->packs);
    s->n_packs--;
}

/* Give a range of a pack's file back to the disk. Failing is no failure: the space is lost until
 * the next start trims the pack. */
static void pack_punch(struct worker_store *s, int fd, uint32_t id, uint64_t from, uint64_t to)
{
    if (!s->can_punch || fd < 0 || from >= to) {
        return;
    }
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                  (off_t)(to - from)) == 0) {
        return;
    }
    if (errno == EOPNOTSUPP || errno == ENOSYS) {
        s->can_punch = false;
        return;
    }
    base_log(BASE_LOG_WARN, "store-space-lost", "dir=%s pack=%u bytes=%llu reason=\"%s\"", s->dir,
             (unsigned)id, (unsigned long long)(to - from), strerror(errno));
}

void worker_pack_charge(struct worker_store *s, const struct store_piece *p)
{
    struct store_pack *pack = worker_pack_find(s, p->pack);
    uint32_t room = (uint32_t)worker_store_room(p->bytes);

    assert(pack != NULL);
    pack->live_bytes += room;
    pack->n_live++;
    if (pack->end_bytes < p->offset + room) {
        pack->end_bytes = p->offset + room;
    }
}

void worker_pack_release(struct worker_store *s, const struct store_piece *p)
{
    struct store_pack *pack = worker_pack_find(s, p->pack);
    uint32_t room = (uint32_t)worker_store_room(p->bytes);
    int fd;

    assert(pack != NULL && pack->n_live > 0);
    pack->live_bytes -= room;
    pack->n_live--;
    if (pack->n_live == 0) {
        pack_drop(s, pack);
        return;
    }
    fd = pack_open(s, p->pack, O_RDWR);
    if (pack->end_bytes == p->offset + room) {
        pack->end_bytes = p->offset;
        (void)!ftruncate(fd, (off_t)p->offset);
    } else {
        pack_punch(s, fd, p->pack, p->offset, (uint64_t)p->offset + room);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
}

/* Has the page at p come as a part of a large one? */
static bool is_large(const volatile uint8_t *p)
{
    unsigned long long begin = 0, end = 0, kib = 0, a, b;
    char line[256];
    FILE *f = fopen("/proc/self/smaps", "re");

    if (f == NULL) {
        return false;
    }
    (void)*p;
    while (kib == 0 && fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "%llx-%llx ", &a, &b) == 2) {
            begin = a;
            end = b;
        }
        if (begin <= (uintptr_t)p && (uintptr_t)p < end) {
            (void)sscanf(line, "FilePmdMapped: %llu", &kib);
        }
    }
    (void)fclose(f);
    return kib > 0;
}

int worker_pack_map(struct worker_store *s, struct store_pack *pack, struct err *e)
{
    struct stat st;
    void *p;
    int fd;

    if (pack->map != NULL) {
        return 0;
    }
    fd = pack_open(s, pack->id, O_RDONLY);
    if (fd < 0) {
        return pack_error(s, e, "open", pack->id);
    }
    p = mmap(NULL, WORKER_STORE_PACK_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        int rc = pack_error(s, e, "map", pack->id);

        (void)close(fd);
        return rc;
    }
    /* What lies around a page belongs to other plans. Where memory is short, megabytes of it read with
     * each page that had to go would drive out the next ones. */
    (void)madvise(p, WORKER_STORE_PACK_BYTES, MADV_RANDOM);
    (void)madvise(p, WORKER_STORE_PACK_BYTES, MADV_HUGEPAGE);
    pack->map = p;
    pack->large = fstat(fd, &st) == 0 && st.st_size > 0 && is_large(p);
    (void)close(fd);
    return 0;
}

void worker_pack_grow(struct worker_store *s, struct store_pack *pack, int fd)
{
    struct stat st;
    uint64_t from, to;

    if (fstat(fd, &st) != 0 || (pack->map != NULL && !pack->large)) {
        return;
    }
    from = base_round_up((uint64_t)st.st_size, LARGE_BYTES);
    to = base_round_up(pack->end_bytes, LARGE_BYTES);
    if (from >= to || ftruncate(fd, (off_t)to) != 0 || worker_pack_map(s, pack, NULL) != 0) {
        return;
    }
    for (uint64_t at = from; pack->large && at < to; at += LARGE_BYTES) {
        (void)*(const volatile uint8_t *)(pack->map + at);
    }
}

uint64_t worker_packs_disk_bytes(const struct worker_store *s)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < s->n_packs; i++) {
        sum += s->can_punch ? s->packs[i].live_bytes : s->packs[i].end_bytes;
    }
    return sum;
}

int worker_packs_sync(struct worker_store *s, struct err *e)
{
    for (uint32_t i = 0; i < s->n_packs; i++) {
        struct store_pack *pack = &s->packs[i];
        int fd, rc = 0;

        if (!pack->unsynced) {
            continue;
        }
        fd = pack_open(s, pack->id, O_RDWR);
        if (fd < 0) {
            return pack_error(s, e, "open", pack->id);
        }
        if (fdatasync(fd) != 0) {
            /* The kernel may have thrown the pages away and would report success next time. */
            s->distrusted = true;
            rc = pack_error(s, e, "sync", pack->id);
        }
        (void)close(fd);
        if (rc != 0) {
            return rc;
        }
        pack->unsynced = false;
    }
    /* Names of new packs; a file system that cannot sync a folder keeps them in its own order. */
    (void)fsync(s->dir_fd);
    return 0;
}

/* Trim one pack; its pieces are list[0..n), in order. */
static void pack_trim(struct worker_store *s, const struct store_pack *pack,
                      const struct store_piece *list, size_t n)
{
    struct stat st;
    uint64_t at = 0;
    int fd = pack_open(s, pack->id, O_RDWR);

    if (fd < 0) {
        return;
    }
    if (fstat(fd, &st) == 0 && (uint64_t)st.st_size > pack->end_bytes) {
        (void)!ftruncate(fd, (off_t)pack->end_bytes);
    }
    if (fstat(fd, &st) == 0 && (uint64_t)st.st_blocks * 512 > pack->live_bytes) {
        for (size_t i = 0; i < n; i++) {
            pack_punch(s, fd, pack->id, at, list[i].offset);
            at = list[i].offset + worker_store_room(list[i].bytes);
        }
    }
    (void)close(fd);
}

int worker_packs_trim(struct worker_store *s, struct err *e)
{
    struct store_piece *list = worker_pieces_sorted(s, worker_pieces_by_place);
    size_t at = 0;

    if (list == NULL) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory to look at its packs", s->dir);
    }
    for (uint32_t i = 0; i < s->n_packs; i++) {
        size_t n = 0;

        while (at + n < s->n_pieces && list[at + n].pack == s->packs[i].id) {
            n++;
        }
        pack_trim(s, &s->packs[i], list + at, n);
        at += n;
    }
    base_free(list);
    return 0;
}

/* ---- checking -------------------------------------------------------------------------------- */

/* Hash one piece. Bytes that are missing or that the disk cannot read make it bad; other trouble is
 * ours. */
static int piece_check(const struct worker_store *s, int fd, const struct store_piece *p,
                       uint8_t *chunk, struct net_hasher *h, bool *good, struct err *e)
{
    uint8_t hash[NET_HASH_BYTES];
    uint32_t done = 0;
    int rc = 0;

    while (done < p->bytes) {
        size_t want = p->bytes - done < CHECK_CHUNK ? p->bytes - done : CHECK_CHUNK;
        ssize_t n = pread(fd, chunk, want, (off_t)p->offset + (off_t)done);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno != EIO) {
            rc = pack_error(s, e, "read", p->pack);
        }
        if (n <= 0) {
            break;
        }
        net_hasher_add(h, (struct span){chunk, (size_t)n});
        done += (uint32_t)n;
    }
    net_hasher_end(h, hash);
    *good = done == p->bytes && memcmp(hash, p->hash, NET_HASH_BYTES) == 0;
    return rc;
}

static void report_bad(const struct worker_store *s, const struct store_piece *p)
{
    char hex[2 * NET_HASH_BYTES + 1], name[STORE_PACK_NAME];

    net_hex(p->hash, NET_HASH_BYTES, hex);
    worker_pack_name(p->pack, name);
    base_log(BASE_LOG_WARN, "store-piece-bad", "dir=%s piece=%s pack=%s offset=%u bytes=%u", s->dir,
             hex, name, (unsigned)p->offset, (unsigned)p->bytes);
}

int worker_pieces_check(const struct worker_store *s, struct store_piece *list, size_t n,
                        worker_store_progress *progress, void *arg, size_t *n_bad, struct err *e)
{
    uint8_t *chunk = base_alloc(CHECK_CHUNK);
    struct net_hasher *h = net_hasher_new();
    uint64_t total = 0, done = 0;
    int fd = -1, rc = 0;

    *n_bad = 0;
    if (chunk == NULL || h == NULL) {
        rc = err_set(e, ERR_NOMEM, "store %s: out of memory to check pieces", s->dir);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        total += list[i].bytes;
    }
    for (size_t i = 0; i < n; i++) {
        struct store_piece p = list[i];
        bool good = false;

        if (i == 0 || p.pack != list[i - 1].pack) {
            if (fd >= 0) {
                (void)close(fd);
            }
            fd = pack_open(s, p.pack, O_RDONLY);
            if (fd < 0 && errno != ENOENT) {
                rc = pack_error(s, e, "open", p.pack);
                goto out;
            }
        }
        rc = fd >= 0 ? piece_check(s, fd, &p, chunk, h, &good, e) : 0;
        if (rc != 0) {
            goto out;
        }
        done += p.bytes;
        if (!good) {
            report_bad(s, &p);
            list[i] = list[*n_bad];
            list[(*n_bad)++] = p;
        }
        if (progress != NULL) {
            progress(arg, done, total);
        }
    }
out:
    if (fd >= 0) {
        (void)close(fd);
    }
    net_hasher_free(h);
    base_free(chunk);
    return rc;
}

int worker_pieces_remove(struct worker_store *s, const struct store_piece *list, size_t n,
                         struct err *e)
{
    int rc = n > 0 ? worker_index_drop(s, list, n, e) : 0;

    if (rc != 0) {
        return rc;
    }
    for (size_t i = 0; i < n; i++) {
        worker_table_remove(s, list[i].hash);
        worker_pack_release(s, &list[i]);
    }
    return 0;
}

int worker_store_verify(struct worker_store *s, worker_store_progress *progress, void *arg,
                        struct worker_store_report *out, struct err *e)
{
    struct store_piece *list = worker_pieces_sorted(s, worker_pieces_by_place);
    size_t n = s->n_pieces, n_bad = 0;
    int rc;

    *out = (struct worker_store_report){0};
    if (list == NULL) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory to check pieces", s->dir);
    }
    for (size_t i = 0; i < n; i++) {
        out->n_pieces++;
        out->bytes += list[i].bytes;
    }
    rc = worker_pieces_check(s, list, n, progress, arg, &n_bad, e);
    for (size_t i = 0; rc == 0 && i < n_bad; i++) {
        out->n_bad++;
        out->bad_bytes += list[i].bytes;
    }
    if (rc == 0) {
        rc = worker_pieces_remove(s, list, n_bad, e);
    }
    base_free(list);
    return rc;
}

/* ---- eviction -------------------------------------------------------------------------------- */

/* A piece that may go. Victims of one group go together or not at all; `frees` is said once a
 * group. */
struct victim {
    struct store_piece piece;
    uint64_t group; /* in order of use: a larger one was used later */
    uint64_t frees; /* bytes */
};

static int by_group(const void *a, const void *b)
{
    const struct victim *x = a, *y = b;

    return (x->group > y->group) - (x->group < y->group);
}

/* Where holes can be punched each piece is a group. Elsewhere a pack is, in the order of its latest
 * use, unless something that has to stay lies in it. Returns how many victims are left in the list.
 * */
static size_t victims_group(const struct worker_store *s, struct victim *v, size_t n)
{
    size_t kept = 0;

    for (size_t i = 0; i < n && s->can_punch; i++) {
        v[i].group = v[i].piece.use;
        v[i].frees = worker_store_room(v[i].piece.bytes);
    }
    if (s->can_punch) {
        return n;
    }
    /* The list is sorted by place, so a pack's victims are a run. */
    for (size_t from = 0, to; from < n; from = to) {
        const struct store_pack *pack = worker_pack_find(s, v[from].piece.pack);
        uint64_t latest = 0;

        assert(pack != NULL);
        for (to = from; to < n && v[to].piece.pack == pack->id; to++) {
            latest = v[to].piece.use > latest ? v[to].piece.use : latest;
        }
        for (size_t i = from; i < to && to - from == pack->n_live; i++) {
            v[kept] = v[i];
            v[kept].group = latest;
            v[kept++].frees = pack->end_bytes;
        }
    }
    return kept;
}

/* All pieces that need not be kept, oldest group first; NULL: no memory. */
static struct victim *victims_list(const struct worker_store *s, worker_store_keep *keep, void *arg,
                                   size_t *n)
{
    struct store_piece *all = worker_pieces_sorted(s, worker_pieces_by_place);
    struct victim *v = base_zalloc(s->n_pieces, sizeof *v);

    *n = 0;
    if (all == NULL || v == NULL) {
        base_free(all);
        base_free(v);
        return NULL;
    }
    for (uint32_t i = 0; i < s->n_pieces; i++) {
        if (!keep(arg, all[i].hash)) {
            v[(*n)++].piece = all[i];
        }
    }
    base_free(all);
    *n = victims_group(s, v, *n);
    qsort(v, *n, sizeof *v, by_group);
    return v;
}

/* Of the victims, oldest first, how many groups' pieces free this much? *freed is what they do
 * free. */
static size_t victims_enough(const struct victim *v, size_t n, uint64_t wanted, uint64_t *freed)
{
    size_t i = 0;

    for (*freed = 0; i < n; i++) {
        bool begins = i == 0 || v[i].group != v[i - 1].group;

        if (begins && *freed >= wanted) {
            break;
        }
        *freed += begins ? v[i].frees : 0;
    }
    return i;
}

int worker_store_evict(struct worker_store *s, uint64_t need_bytes, worker_store_keep *keep,
                       void *arg, struct err *e)
{
    uint64_t used = worker_packs_disk_bytes(s), wanted, freed;
    struct victim *v = NULL;
    struct store_piece *list = NULL;
    size_t n;
    int rc = 0;

    if (s->limit_bytes == 0 ||
        (need_bytes <= s->limit_bytes && used <= s->limit_bytes - need_bytes)) {
        return 0;
    }
    v = victims_list(s, keep, arg, &n);
    list = base_zalloc(s->n_pieces, sizeof *list);
    if (v == NULL || list == NULL) {
        rc = err_set(e, ERR_NOMEM, "store %s: out of memory to choose what to remove", s->dir);
        goto out;
    }
    /* A need beyond the limit can never be met: wanting everything there is says so. */
    wanted = need_bytes <= s->limit_bytes ? used - (s->limit_bytes - need_bytes) : UINT64_MAX;
    n = victims_enough(v, n, wanted, &freed);
    if (freed < wanted) {
        char need[24], limit[24], have[24], can[24];

        rc = err_set(
            e, ERR_FULL,
            "store %s: needs %s more of its limit of %s, of which %s are in use and %s could "
            "be freed",
            s->dir, base_bytes_text(need_bytes, need), base_bytes_text(s->limit_bytes, limit),
            base_bytes_text(used, have), base_bytes_text(freed, can));
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        list[i] = v[i].piece;
    }
    rc = worker_pieces_remove(s, list, n, e);
    if (rc == 0) {
        base_log(BASE_LOG_INFO, "store-evicted", "dir=%s pieces=%zu freed_bytes=%llu", s->dir, n,
                 (unsigned long long)freed);
    }
out:
    base_free(list);
    base_free(v);
    return rc;
}
