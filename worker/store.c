/* The piece store: opening and closing, finding, receiving. The table of pieces and its file are in
 * store_index.c, pack files with eviction and checking in store_packs.c.
 *
 * The invariant is that a name stands for its content. A piece enters the index after its bytes
 * were hashed on arrival; bytes that a crash left without a record count for nothing; and a record
 * is believed at the next start only where a checkpoint says that its data had reached the disk
 * before it, otherwise the piece is hashed again. So whatever happens to process, power or disk, a
 * piece is either there and right, or absent and shipped again. Not covered: content that rots on
 * the disk afterwards (that is what worker_store_verify is for), and an index cut short exactly
 * between two records by something other than a crash, as its removals are synced before their
 * space is touched.
 *
 * Bytes of a piece in flight go straight to the place where the piece will lie, so that receiving
 * needs no memory; the space is given out in begin and taken back when the piece is given up.
 *
 * Left out: compression, sharing a folder between processes (the lock refuses the second), and
 * moving pieces together: packs only lose pieces until they are empty and go. */
#define _GNU_SOURCE /* fallocate's flags, to ask whether holes can be punched here */
#include "worker/store_private.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int worker_store_io_error(const struct worker_store *s, struct err *e, const char *doing,
                          const char *name)
{
    int code = errno == ENOSPC || errno == EDQUOT ? ERR_FULL : errno == ENOMEM ? ERR_NOMEM : ERR_IO;

    return err_set(e, code, "store %s: cannot %s %s: %s", s->dir, doing, name, strerror(errno));
}

bool worker_store_pwrite(int fd, const uint8_t *bytes, size_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t done = pwrite(fd, bytes, n, (off_t)at);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            errno = done == 0 ? ENOSPC : errno;
            return false;
        }
        bytes += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* The folder itself is nobody else's business (0700); its parents are made as usual. */
static int make_folder(struct worker_store *s, struct err *e)
{
    char *parent = base_path_beside(s->dir, ".");
    int rc;

    if (parent == NULL) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    rc = base_dir_make(parent, e);
    base_free(parent);
    if (rc != 0) {
        return err_wrap(e, rc, "store %s", s->dir);
    }
    if (mkdir(s->dir, 0700) != 0 && errno != EEXIST) {
        return worker_store_io_error(s, e, "create", "the folder");
    }
    s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return s->dir_fd >= 0 ? 0 : worker_store_io_error(s, e, "open", "the folder");
}

static int lock_folder(struct worker_store *s, struct err *e)
{
    s->lock_fd = openat(s->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd < 0) {
        return worker_store_io_error(s, e, "open", "lock");
    }
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            return err_set(
                e, ERR_REFUSED,
                "store %s is in use by another process; give each worker a store of its own",
                s->dir);
        }
        return worker_store_io_error(s, e, "lock", "lock");
    }
    /* Punching the empty lock file changes nothing and tells whether this file system can. */
    s->can_punch = fallocate(s->lock_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                             WORKER_STORE_ALIGN) == 0;
    s->index_fd = openat(s->dir_fd, "index", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return s->index_fd >= 0 ? 0 : worker_store_io_error(s, e, "open", "index");
}

/* The id of a pack file's name; false where it is none. */
static bool pack_id(const char *name, uint32_t *id)
{
    char again[STORE_PACK_NAME];

    if (strncmp(name, "pack-", 5) != 0) {
        return false;
    }
    *id = (uint32_t)strtoul(name + 5, NULL, 16);
    worker_pack_name(*id, again);
    return strcmp(name, again) == 0 && *id < UINT32_MAX;
}

/* Remove what a crash left: packs without a piece and an index that was never finished. */
static int sweep_folder(struct worker_store *s, struct err *e)
{
    int fd = openat(s->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    uint32_t id;

    if (d == NULL) {
        int rc = worker_store_io_error(s, e, "read", "the folder");

        if (fd >= 0) {
            (void)close(fd);
        }
        return rc;
    }
    while ((entry = readdir(d)) != NULL) {
        bool stray = strncmp(entry->d_name, "index.", 6) == 0 ||
                     (pack_id(entry->d_name, &id) && worker_pack_find(s, id) == NULL);

        if (stray) {
            (void)unlinkat(s->dir_fd, entry->d_name, 0);
        }
    }
    (void)closedir(d);
    return 0;
}

/* Bytes of a pack's file; 0 where there is none. */
static uint64_t pack_file_bytes(const struct worker_store *s, uint32_t id)
{
    char name[STORE_PACK_NAME];
    struct stat st;

    worker_pack_name(id, name);
    return fstatat(s->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (uint64_t)st.st_size : 0;
}

/* Hash the pieces that the index alone does not vouch for, and those that lie outside their pack
 * (they come out short); those that fail leave the table. Their space is not touched: where the
 * index is damaged it may belong to another piece. */
static int check_doubtful(struct worker_store *s, const struct store_replay *r, size_t *n_doubtful,
                          size_t *n_lost, struct err *e)
{
    struct store_piece *list = worker_pieces_sorted(s, worker_pieces_by_place);
    uint64_t pack_bytes = 0;
    size_t n = 0;
    int rc;

    if (list == NULL) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    for (uint32_t i = 0, known = UINT32_MAX; i < s->n_pieces; i++) {
        struct store_piece p = list[i];
        bool sure = p.use > r->damage && p.use <= r->checkpoint;

        if (p.pack != known) {
            pack_bytes = pack_file_bytes(s, p.pack);
            known = p.pack;
        }
        if (!sure || (uint64_t)p.offset + p.bytes > pack_bytes) {
            list[n++] = p;
        }
    }
    if (n > 0) {
        base_log(BASE_LOG_INFO, "store-recheck", "dir=%s pieces=%zu", s->dir, n);
    }
    *n_doubtful = n;
    rc = worker_pieces_check(s, list, n, NULL, NULL, n_lost, e);
    for (size_t i = 0; rc == 0 && i < *n_lost; i++) {
        worker_table_remove(s, list[i].hash);
    }
    base_free(list);
    return rc;
}

/* Give every piece its pack. Pieces that overlap, which only a damaged index says, cannot both be
 * right: the one that came later stays. `doubtful`: packs may hold data that was never synced. */
static int find_packs(struct worker_store *s, bool doubtful, size_t *n_lost, struct err *e)
{
    struct store_piece *list = worker_pieces_sorted(s, worker_pieces_by_place);
    size_t n = s->n_pieces, kept = 0;
    int rc = 0;

    if (list == NULL) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    for (size_t i = 0; i < n; i++) {
        struct store_piece *last = kept > 0 ? &list[kept - 1] : NULL;

        if (last != NULL && last->pack == list[i].pack &&
            list[i].offset < last->offset + worker_store_room(last->bytes)) {
            worker_table_remove(s, (last->use < list[i].use ? last : &list[i])->hash);
            *last = last->use < list[i].use ? list[i] : *last;
            ++*n_lost;
        } else {
            list[kept++] = list[i];
        }
    }
    for (size_t i = 0; i < kept; i++) {
        struct store_pack *pack = worker_pack_obtain(s, list[i].pack);

        if (pack == NULL) {
            rc = err_set(e, ERR_NOMEM, "store %s: out of memory", s->dir);
            break;
        }
        pack->unsynced = doubtful;
        worker_pack_charge(s, &list[i]);
    }
    base_free(list);
    return rc;
}

/* Bring table, index and packs to agree. The index is in order before any pack is touched. */
static int load(struct worker_store *s, struct err *e)
{
    struct store_replay r;
    size_t n_doubtful = 0, n_lost = 0;
    int rc = worker_index_replay(s, &r, e);

    rc = rc != 0 ? rc : check_doubtful(s, &r, &n_doubtful, &n_lost, e);
    rc = rc != 0 ? rc : find_packs(s, n_doubtful > 0, &n_lost, e);
    if (rc != 0) {
        return rc;
    }
    s->n_lost = r.n_bad + r.n_torn + n_lost;
    if (s->n_lost > 0) {
        base_log(BASE_LOG_WARN, "store-repaired", "dir=%s damaged=%llu torn=%llu bad=%zu pieces=%u",
                 s->dir, (unsigned long long)r.n_bad, (unsigned long long)r.n_torn, n_lost,
                 (unsigned)s->n_pieces);
    }
    if (s->n_lost > 0 || n_doubtful > 0) {
        rc = worker_packs_sync(s, e);
        /* A new index without the damage, so that the next start need not doubt everything again.
         * */
        rc = rc != 0 ? rc : worker_index_checkpoint(s, s->n_lost > 0, e);
    }
    rc = rc != 0 ? rc : sweep_folder(s, e);
    return rc != 0 ? rc : worker_packs_trim(s, e);
}

static void free_all(struct worker_store *s)
{
    for (uint32_t i = 0; i < s->n_packs; i++) {
        if (s->packs[i].map != NULL) {
            (void)munmap((void *)(uintptr_t)s->packs[i].map, WORKER_STORE_PACK_BYTES);
        }
    }
    for (size_t i = 0; i < WORKER_STORE_RECEIVING_MAX; i++) {
        net_hasher_free(s->receiving[i].hasher);
    }
    if (s->index_fd >= 0) {
        (void)close(s->index_fd);
    }
    if (s->lock_fd >= 0) {
        (void)close(s->lock_fd);
    }
    if (s->dir_fd >= 0) {
        (void)close(s->dir_fd);
    }
    base_free(s->packs);
    base_free(s->slots);
    base_free(s->dir);
    base_free(s);
}

int worker_store_open(const char *dir, uint64_t disk_limit_bytes, struct worker_store **out,
                      struct err *e)
{
    struct worker_store *s = base_zalloc(1, sizeof *s);
    size_t n = strlen(dir);
    int rc;

    if (s == NULL) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory", dir);
    }
    s->dir_fd = s->lock_fd = s->index_fd = -1;
    s->limit_bytes = disk_limit_bytes;
    s->next_pack = 1;
    s->dir = base_strdup(dir);
    if (s->dir == NULL) {
        rc = err_set(e, ERR_NOMEM, "store %s: out of memory", dir);
        goto out;
    }
    /* "a/b/" and "a/b" are one folder, and only the second tells which part is the parent. */
    while (n > 1 && s->dir[n - 1] == '/') {
        s->dir[--n] = '\0';
    }
    rc = make_folder(s, e);
    rc = rc != 0 ? rc : lock_folder(s, e);
    rc = rc != 0 ? rc : load(s, e);
out:
    if (rc != 0) {
        free_all(s);
        return rc;
    }
    *out = s;
    return 0;
}

/* ---- receiving ------------------------------------------------------------------------------- */

static struct store_receiving *find_receiving(struct worker_store *s, const uint8_t *hash)
{
    for (size_t i = 0; i < WORKER_STORE_RECEIVING_MAX; i++) {
        struct store_receiving *r = &s->receiving[i];

        if (r->begun && memcmp(r->piece.hash, hash, NET_HASH_BYTES) == 0) {
            return r;
        }
    }
    return NULL;
}

static struct store_receiving *free_receiving(struct worker_store *s)
{
    for (size_t i = 0; i < WORKER_STORE_RECEIVING_MAX; i++) {
        if (!s->receiving[i].begun) {
            return &s->receiving[i];
        }
    }
    return NULL;
}

static uint32_t count_receiving(const struct worker_store *s)
{
    uint32_t n = 0;

    for (size_t i = 0; i < WORKER_STORE_RECEIVING_MAX; i++) {
        n += s->receiving[i].begun;
    }
    return n;
}

/* End a receipt without giving its space back: the piece is in the index, or its space was
 * released. */
static void end_receiving(struct store_receiving *r)
{
    if (r->fd >= 0) {
        (void)close(r->fd);
    }
    r->fd = -1;
    r->begun = false;
}

static void give_up(struct worker_store *s, struct store_receiving *r)
{
    uint8_t ignored[NET_HASH_BYTES];

    net_hasher_end(r->hasher, ignored);
    end_receiving(r);
    worker_pack_release(s, &r->piece);
}

/* Reasons not to begin that need no disk. */
static int may_begin(const struct worker_store *s, const uint8_t *hash, uint64_t total_bytes,
                     uint32_t n_receiving, struct err *e)
{
    uint64_t used = worker_packs_disk_bytes(s);
    char need[24], have[24], limit[24];

    if (total_bytes == 0 || total_bytes > WORKER_STORE_PIECE_MAX) {
        return err_set(e, ERR_RANGE, "store %s: a piece has 1 to %d bytes, not %llu", s->dir,
                       (int)WORKER_STORE_PIECE_MAX, (unsigned long long)total_bytes);
    }
    if (worker_table_find(s, hash) != NULL) {
        return err_set(e, ERR_REFUSED, "store %s: the piece is there already", s->dir);
    }
    if (n_receiving == WORKER_STORE_RECEIVING_MAX) {
        return err_set(e, ERR_FULL, "store %s: %d pieces are being received already", s->dir,
                       (int)WORKER_STORE_RECEIVING_MAX);
    }
    if (s->n_pieces + n_receiving >= WORKER_STORE_PIECES_MAX) {
        return err_set(e, ERR_FULL, "store %s: it holds %u pieces, which is the most", s->dir,
                       (unsigned)s->n_pieces);
    }
    if (s->limit_bytes != 0 &&
        (used > s->limit_bytes || worker_store_room(total_bytes) > s->limit_bytes - used)) {
        return err_set(e, ERR_FULL, "store %s: a piece of %s does not fit: %s of %s are in use",
                       s->dir, base_bytes_text(total_bytes, need), base_bytes_text(used, have),
                       base_bytes_text(s->limit_bytes, limit));
    }
    return 0;
}

/* Choose a place: behind the last piece of the newest pack, or at the start of a new one. */
static int choose_place(struct worker_store *s, struct store_piece *p, struct err *e)
{
    const struct store_pack *last = s->n_packs > 0 ? &s->packs[s->n_packs - 1] : NULL;

    if (last == NULL ||
        worker_store_room(p->bytes) > (uint64_t)WORKER_STORE_PACK_BYTES - last->end_bytes) {
        if (s->next_pack == UINT32_MAX) {
            return err_set(e, ERR_FULL,
                           "store %s: all numbers for packs are used up; delete the folder",
                           s->dir);
        }
        last = worker_pack_obtain(s, s->next_pack);
    }
    if (last == NULL) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    p->pack = last->id;
    p->offset = last->end_bytes;
    worker_pack_charge(s, p);
    return 0;
}

int worker_store_begin(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                       uint64_t total_bytes, struct err *e)
{
    struct store_receiving *r = free_receiving(s);
    uint32_t n_receiving = count_receiving(s);
    char name[STORE_PACK_NAME];
    int rc;

    if (find_receiving(s, hash) != NULL) {
        return err_set(e, ERR_REFUSED, "store %s: the piece is being received already", s->dir);
    }
    rc = may_begin(s, hash, total_bytes, n_receiving, e);
    if (rc == 0 && s->unsynced_bytes >= WORKER_STORE_UNSYNCED_MAX) {
        rc = worker_store_sync(s, e);
    }
    if (rc != 0) {
        return rc;
    }
    assert(r != NULL);
    if (r->hasher == NULL) {
        r->hasher = net_hasher_new();
    }
    /* Room in the table is taken now, so that finish cannot run out of memory. */
    if (r->hasher == NULL || !worker_table_reserve(s, n_receiving + 1)) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory", s->dir);
    }
    r->piece = (struct store_piece){.bytes = (uint32_t)total_bytes};
    memcpy(r->piece.hash, hash, NET_HASH_BYTES);
    r->received_bytes = 0;
    rc = choose_place(s, &r->piece, e);
    if (rc != 0) {
        return rc;
    }
    r->begun = true;
    worker_pack_name(r->piece.pack, name);
    r->fd = openat(s->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (r->fd < 0) {
        rc = worker_store_io_error(s, e, "open", name);
        give_up(s, r);
        return rc;
    }
    worker_pack_grow(s, worker_pack_find(s, r->piece.pack), r->fd);
    return 0;
}

int worker_store_write(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                       uint64_t offset, struct span bytes, struct err *e)
{
    struct store_receiving *r = find_receiving(s, hash);

    if (r == NULL) {
        return err_set(e, ERR_NOTFOUND, "store %s: the piece was not begun", s->dir);
    }
    if (offset != r->received_bytes || bytes.len > r->piece.bytes - r->received_bytes) {
        return err_set(e, ERR_RANGE, "store %s: %zu bytes at %llu do not follow %u of %u", s->dir,
                       bytes.len, (unsigned long long)offset, (unsigned)r->received_bytes,
                       (unsigned)r->piece.bytes);
    }
    if (!worker_store_pwrite(r->fd, bytes.ptr, bytes.len, (uint64_t)r->piece.offset + offset)) {
        char name[STORE_PACK_NAME], have[24];
        int rc;

        worker_pack_name(r->piece.pack, name);
        rc = worker_store_io_error(s, e, "write", name);
        give_up(s, r);
        return err_wrap(e, rc, "with %s in its packs",
                        base_bytes_text(worker_packs_disk_bytes(s), have));
    }
    if (bytes.len > 0) {
        net_hasher_add(r->hasher, bytes);
    }
    r->received_bytes += (uint32_t)bytes.len;
    return 0;
}

int worker_store_finish(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                        struct err *e)
{
    struct store_receiving *r = find_receiving(s, hash);
    uint8_t found[NET_HASH_BYTES];
    int rc;

    if (r == NULL) {
        return err_set(e, ERR_NOTFOUND, "store %s: the piece was not begun", s->dir);
    }
    if (r->received_bytes != r->piece.bytes) {
        rc = err_set(e, ERR_MISMATCH, "store %s: %u of a piece's %u bytes came", s->dir,
                     (unsigned)r->received_bytes, (unsigned)r->piece.bytes);
        goto out;
    }
    net_hasher_end(r->hasher, found);
    if (memcmp(found, hash, NET_HASH_BYTES) != 0) {
        char is[2 * NET_HASH_BYTES + 1], should[2 * NET_HASH_BYTES + 1];

        net_hex(found, NET_HASH_BYTES, is);
        net_hex(hash, NET_HASH_BYTES, should);
        rc = err_set(e, ERR_MISMATCH, "store %s: a piece is %s, not %s as its name says", s->dir,
                     is, should);
        goto out;
    }
    rc = worker_index_add(s, &r->piece, e);
    if (rc != 0) {
        goto out;
    }
    r->piece.use = ++s->clock;
    worker_table_insert(s, &r->piece);
    worker_pack_find(s, r->piece.pack)->unsynced = true;
    s->unsynced_bytes += r->piece.bytes;
    end_receiving(r);
out:
    if (rc != 0) {
        give_up(s, r);
    }
    return rc;
}

void worker_store_abandon(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES])
{
    struct store_receiving *r = find_receiving(s, hash);

    if (r != NULL) {
        give_up(s, r);
    }
}

bool worker_store_receiving(const struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                            uint64_t *received_bytes, uint64_t *total_bytes)
{
    for (size_t i = 0; i < WORKER_STORE_RECEIVING_MAX; i++) {
        const struct store_receiving *r = &s->receiving[i];

        if (r->begun && memcmp(r->piece.hash, hash, NET_HASH_BYTES) == 0) {
            *received_bytes = r->received_bytes;
            *total_bytes = r->piece.bytes;
            return true;
        }
    }
    return false;
}

int worker_store_sync(struct worker_store *s, struct err *e)
{
    int rc;

    if (!s->unsynced) {
        return 0;
    }
    if (s->distrusted) {
        return err_set(e, ERR_IO,
                       "store %s: an earlier sync failed, so the disk is not to be believed",
                       s->dir);
    }
    rc = worker_packs_sync(s, e);
    return rc != 0 ? rc : worker_index_checkpoint(s, false, e);
}

void worker_store_close(struct worker_store *s)
{
    struct err e;

    if (s == NULL) {
        return;
    }
    for (size_t i = 0; i < WORKER_STORE_RECEIVING_MAX; i++) {
        if (s->receiving[i].begun) {
            give_up(s, &s->receiving[i]);
        }
    }
    if (worker_store_sync(s, &e) != 0) {
        base_log(BASE_LOG_WARN, "store-not-synced", "reason=\"%s\"", e.text);
    }
    (void)worker_packs_trim(s, NULL); /* otherwise the next start does it */
    free_all(s);
}

/* ---- finding --------------------------------------------------------------------------------- */

bool worker_store_has(const struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES])
{
    return worker_table_find(s, hash) != NULL;
}

int worker_store_map(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                     const void **ptr, size_t *bytes, struct err *e)
{
    struct store_piece *p = worker_table_find(s, hash);
    struct store_pack *pack;
    int rc;

    if (p == NULL) {
        char hex[2 * NET_HASH_BYTES + 1];

        net_hex(hash, NET_HASH_BYTES, hex);
        return err_set(e, ERR_NOTFOUND, "store %s: there is no piece %s", s->dir, hex);
    }
    pack = worker_pack_find(s, p->pack);
    assert(pack != NULL);
    rc = worker_pack_map(s, pack, e);
    if (rc != 0) {
        return rc;
    }
    p->use = ++s->clock;
    *ptr = pack->map + p->offset;
    *bytes = p->bytes;
    /* In one go, as its pages would be read one by one; but not ahead, where that would make small ones
     * of large ones. */
    const size_t before = p->offset % (size_t)sysconf(_SC_PAGESIZE);
    (void)madvise((void *)(uintptr_t)(pack->map + p->offset - before), before + p->bytes,
                  pack->large ? MADV_POPULATE_READ : MADV_WILLNEED);
    return 0;
}

bool worker_store_large_pages(const struct worker_store *s)
{
    uint32_t mapped = 0, large = 0;

    for (uint32_t i = 0; i < s->n_packs; i++) {
        mapped += s->packs[i].map != NULL;
        large += s->packs[i].large;
    }
    return 2 * large > mapped;
}

struct worker_store_stats worker_store_stats(const struct worker_store *s)
{
    return (struct worker_store_stats){.n_pieces = s->n_pieces,
                                       .piece_bytes = s->piece_bytes,
                                       .disk_bytes = worker_packs_disk_bytes(s),
                                       .limit_bytes = s->limit_bytes,
                                       .n_packs = s->n_packs,
                                       .n_receiving = count_receiving(s),
                                       .n_lost = s->n_lost};
}

bool worker_store_next(const struct worker_store *s, uint64_t *cursor,
                       struct worker_store_piece *out)
{
    while (*cursor < s->n_slots) {
        const struct store_piece *p = &s->slots[(*cursor)++];

        if (p->bytes != 0) {
            memcpy(out->hash, p->hash, NET_HASH_BYTES);
            out->bytes = p->bytes;
            return true;
        }
    }
    return false;
}
