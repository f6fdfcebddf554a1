/* The store's index: a table in memory and a log on disk that rebuilds it.
 *
 * The log is a row of 64-byte records, each with a checksum of its own: a piece came, a piece went,
 * and a checkpoint, which says that the data of all pieces before it has been synced. Replaying it
 * believes a piece only where a checkpoint follows its record; the others are hashed again by
 * whoever opens the store. A record with a wrong checksum may have been the removal of any piece
 * before it, whose space may hold something else by now: so damage puts everything before it in
 * doubt, and nothing after it. A record cut short at the end, or one of zeros (a file system may
 * lengthen a file before it writes the data), is the ordinary trace of a power cut and says nothing
 * about others.
 *
 * The invariant: index_bytes is a multiple of the record, everything before it is replayable, and
 * the next record is written there, over whatever a failed write left behind. A removal is on the
 * disk before its space is used again.
 *
 * When most records are dead the file is written anew, in the order of use: that order, which
 * eviction follows, survives a restart only so far. Left out: a log of uses, which would wear out
 * SD cards. */
#include "worker/store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum record_kind { RECORD_ADD = 1, RECORD_DROP = 2, RECORD_CHECKPOINT = 3 };

enum {
    RECORD_BYTES = 64,
    RECORD_CHECKED = 56,   /* bytes that the checksum covers; the checksum fills the rest */
    RECORDS_AT_ONCE = 256, /* records of one read */
    RECORDS_SPARE = 1024   /* dead records that are not worth a new file */
};

static const uint8_t record_magic[4] = {'S', 'P', 'I', '1'};

/* ---- records --------------------------------------------------------------------------------- */

static void put_u32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> 8 * i);
    }
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void record_checksum(const uint8_t *record,
                            uint8_t out[static RECORD_BYTES - RECORD_CHECKED])
{
    uint8_t hash[16];

    net_hash16((struct span){record, RECORD_CHECKED}, hash);
    memcpy(out, hash, RECORD_BYTES - RECORD_CHECKED);
}

static void record_encode(enum record_kind kind, const struct store_piece *p,
                          uint8_t out[static RECORD_BYTES])
{
    memset(out, 0, RECORD_BYTES);
    memcpy(out, record_magic, sizeof record_magic);
    put_u32(out + 4, (uint32_t)kind);
    memcpy(out + 8, p->hash, NET_HASH_BYTES);
    put_u32(out + 40, p->pack);
    put_u32(out + 44, p->offset);
    put_u32(out + 48, p->bytes);
    record_checksum(out, out + RECORD_CHECKED);
}

static bool record_decode(const uint8_t in[static RECORD_BYTES], uint32_t *kind,
                          struct store_piece *p)
{
    uint8_t sum[RECORD_BYTES - RECORD_CHECKED];

    record_checksum(in, sum);
    if (memcmp(in, record_magic, sizeof record_magic) != 0 ||
        memcmp(in + RECORD_CHECKED, sum, sizeof sum) != 0) {
        return false;
    }
    *kind = get_u32(in + 4);
    memcpy(p->hash, in + 8, NET_HASH_BYTES);
    p->pack = get_u32(in + 40);
    p->offset = get_u32(in + 44);
    p->bytes = get_u32(in + 48);
    return true;
}

/* Does the record describe a place in a pack? Whether the pack is that long is seen later. */
static bool place_ok(const struct store_piece *p)
{
    return p->bytes > 0 && p->bytes <= WORKER_STORE_PIECE_MAX &&
           p->offset % WORKER_STORE_ALIGN == 0 && p->offset < WORKER_STORE_PACK_BYTES &&
           p->bytes <= WORKER_STORE_PACK_BYTES - p->offset && p->pack < UINT32_MAX;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* A piece's name is a hash already: its first bytes choose the slot. */
static uint32_t home_slot(uint32_t n_slots, const uint8_t *hash)
{
    return get_u32(hash) & (n_slots - 1);
}

struct store_piece *worker_table_find(const struct worker_store *s, const uint8_t *hash)
{
    if (s->n_slots == 0) {
        return NULL;
    }
    for (uint32_t i = home_slot(s->n_slots, hash);; i = (i + 1) & (s->n_slots - 1)) {
        struct store_piece *p = &s->slots[i];

        if (p->bytes == 0) {
            return NULL;
        }
        if (memcmp(p->hash, hash, NET_HASH_BYTES) == 0) {
            return p;
        }
    }
}

static void place_in(struct store_piece *slots, uint32_t n_slots, const struct store_piece *p)
{
    uint32_t i = home_slot(n_slots, p->hash);

    while (slots[i].bytes != 0) {
        i = (i + 1) & (n_slots - 1);
    }
    slots[i] = *p;
}

bool worker_table_reserve(struct worker_store *s, uint32_t n_more)
{
    uint64_t wanted = (uint64_t)s->n_pieces + n_more;
    uint32_t n_slots = s->n_slots > 0 ? s->n_slots : 64;
    struct store_piece *slots;

    while (wanted * 4 > (uint64_t)n_slots * 3) {
        n_slots *= 2; /* at most 2 * WORKER_STORE_PIECES_MAX, so this cannot wrap */
    }
    if (n_slots == s->n_slots) {
        return true;
    }
    slots = base_zalloc(n_slots, sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < s->n_slots; i++) {
        if (s->slots[i].bytes != 0) {
            place_in(slots, n_slots, &s->slots[i]);
        }
    }
    base_free(s->slots);
    s->slots = slots;
    s->n_slots = n_slots;
    return true;
}

void worker_table_insert(struct worker_store *s, const struct store_piece *p)
{
    place_in(s->slots, s->n_slots, p);
    s->n_pieces++;
    s->piece_bytes += p->bytes;
}

void worker_table_remove(struct worker_store *s, const uint8_t *hash)
{
    struct store_piece *gone = worker_table_find(s, hash);
    uint32_t mask = s->n_slots - 1, hole;

    if (gone == NULL) {
        return;
    }
    hole = (uint32_t)(gone - s->slots);
    s->n_pieces--;
    s->piece_bytes -= gone->bytes;
    gone->bytes = 0;
    /* A search stops at the first empty slot, so a later piece of this run moves into the hole,
     * unless it already sits between its home and itself without crossing the hole. */
    for (uint32_t i = (hole + 1) & mask; s->slots[i].bytes != 0; i = (i + 1) & mask) {
        uint32_t home = home_slot(s->n_slots, s->slots[i].hash);

        if (((i - home) & mask) >= ((i - hole) & mask)) {
            s->slots[hole] = s->slots[i];
            s->slots[i].bytes = 0;
            hole = i;
        }
    }
}

int worker_pieces_by_use(const void *a, const void *b)
{
    const struct store_piece *x = a, *y = b;

    return (x->use > y->use) - (x->use < y->use);
}

int worker_pieces_by_place(const void *a, const void *b)
{
    const struct store_piece *x = a, *y = b;

    if (x->pack != y->pack) {
        return x->pack > y->pack ? 1 : -1;
    }
    return (x->offset > y->offset) - (x->offset < y->offset);
}

struct store_piece *worker_pieces_sorted(const struct worker_store *s, store_piece_order *order)
{
    struct store_piece *list = base_zalloc(s->n_pieces, sizeof *list);
    uint32_t n = 0;

    if (list == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < s->n_slots; i++) {
        if (s->slots[i].bytes != 0) {
            list[n++] = s->slots[i];
        }
    }
    qsort(list, n, sizeof *list, order);
    return list;
}

/* ---- replaying ------------------------------------------------------------------------------- */

static int replay_add(struct worker_store *s, struct store_replay *r, struct store_piece *p,
                      struct err *e)
{
    if (!place_ok(p)) {
        r->n_bad++;
        return 0;
    }
    /* A piece that came twice lies where it came to last: the record of its removal was damaged. */
    worker_table_remove(s, p->hash);
    if (s->n_pieces == WORKER_STORE_PIECES_MAX) {
        r->n_bad++;
        return 0;
    }
    if (!worker_table_reserve(s, 1)) {
        return err_set(e, ERR_NOMEM, "store %s: out of memory for its index of %u pieces", s->dir,
                       (unsigned)s->n_pieces);
    }
    p->use = ++s->clock;
    worker_table_insert(s, p);
    return 0;
}

static int replay_record(struct worker_store *s, struct store_replay *r,
                         const uint8_t record[static RECORD_BYTES], struct err *e)
{
    static const uint8_t zeros[RECORD_BYTES];
    struct store_piece p;
    uint32_t kind;

    if (!record_decode(record, &kind, &p)) {
        if (memcmp(record, zeros, RECORD_BYTES) == 0) {
            r->n_torn++;
        } else {
            r->n_bad++;
            r->damage = s->clock;
        }
        return 0;
    }
    switch (kind) {
    case RECORD_ADD:
        return replay_add(s, r, &p, e);
    case RECORD_DROP:
        worker_table_remove(s, p.hash);
        return 0;
    case RECORD_CHECKPOINT:
        r->checkpoint = s->clock;
        return 0;
    default:
        r->n_bad++;
        return 0;
    }
}

/* Read until the buffer is full or the file ends; -1 with errno. */
static ssize_t read_at(int fd, uint8_t *out, size_t max, uint64_t at)
{
    size_t done = 0;

    while (done < max) {
        ssize_t n = pread(fd, out + done, max - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -1;
        }
        if (n == 0) {
            break;
        }
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int worker_index_replay(struct worker_store *s, struct store_replay *r, struct err *e)
{
    uint8_t chunk[RECORDS_AT_ONCE * RECORD_BYTES];
    size_t got;

    *r = (struct store_replay){0};
    s->index_bytes = 0;
    do {
        ssize_t n = read_at(s->index_fd, chunk, sizeof chunk, s->index_bytes);

        if (n < 0) {
            return worker_store_io_error(s, e, "read", "index");
        }
        got = (size_t)n;
        for (size_t i = 0; i + RECORD_BYTES <= got; i += RECORD_BYTES) {
            int rc = replay_record(s, r, chunk + i, e);

            if (rc != 0) {
                return rc;
            }
        }
        s->index_bytes += got - got % RECORD_BYTES;
    } while (got == sizeof chunk);
    r->n_torn += got % RECORD_BYTES != 0;
    return 0;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int append(struct worker_store *s, const uint8_t *records, size_t bytes, struct err *e)
{
    if (!worker_store_pwrite(s->index_fd, records, bytes, s->index_bytes)) {
        int rc = worker_store_io_error(s, e, "write", "index");

        /* Whole records of a run that failed must not be found by the next start. */
        (void)!ftruncate(s->index_fd, (off_t)s->index_bytes);
        return rc;
    }
    s->index_bytes += bytes;
    s->unsynced = true;
    return 0;
}

int worker_index_add(struct worker_store *s, const struct store_piece *p, struct err *e)
{
    uint8_t record[RECORD_BYTES];

    record_encode(RECORD_ADD, p, record);
    return append(s, record, sizeof record, e);
}

/* The records of a list of pieces; false where memory is short. */
static bool encode_list(struct base_buf *out, enum record_kind kind, const struct store_piece *list,
                        size_t n)
{
    uint8_t record[RECORD_BYTES];

    for (size_t i = 0; i < n; i++) {
        record_encode(kind, &list[i], record);
        base_buf_add(out, record, sizeof record);
    }
    return !out->failed;
}

int worker_index_drop(struct worker_store *s, const struct store_piece *list, size_t n,
                      struct err *e)
{
    struct base_buf records = {0};
    int rc;

    if (!encode_list(&records, RECORD_DROP, list, n)) {
        rc = err_set(e, ERR_NOMEM, "store %s: out of memory to remove %zu pieces", s->dir, n);
    } else {
        rc = append(s, records.ptr, records.len, e);
    }
    if (rc == 0 && fdatasync(s->index_fd) != 0) {
        s->distrusted = true;
        rc = worker_store_io_error(s, e, "sync", "index");
    }
    base_buf_deinit(&records);
    return rc;
}

/* Replace the file by one that holds the living pieces and a checkpoint. */
static int rewrite(struct worker_store *s, struct err *e)
{
    static const struct store_piece none;
    struct base_buf records = {0}, path = {0};
    struct store_piece *list = worker_pieces_sorted(s, worker_pieces_by_use);
    int rc;

    base_buf_printf(&path, "%s/index", s->dir);
    base_buf_add(&path, "", 1);
    if (list == NULL || path.failed || !encode_list(&records, RECORD_ADD, list, s->n_pieces) ||
        !encode_list(&records, RECORD_CHECKPOINT, &none, 1)) {
        rc = err_set(e, ERR_NOMEM, "store %s: out of memory to write its index anew", s->dir);
        goto out;
    }
    rc = base_file_replace((const char *)path.ptr, records.ptr, records.len, 0600, e);
    if (rc != 0) {
        goto out;
    }
    /* The old descriptor leads to a file without a name; a record written there would be lost. */
    (void)close(s->index_fd);
    s->index_fd = openat(s->dir_fd, "index", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    s->index_bytes = records.len;
    if (s->index_fd < 0) {
        rc = worker_store_io_error(s, e, "open", "index");
    }
out:
    base_buf_deinit(&records);
    base_buf_deinit(&path);
    base_free(list);
    return rc;
}

int worker_index_checkpoint(struct worker_store *s, bool anew, struct err *e)
{
    static const struct store_piece none;
    uint64_t n_records = s->index_bytes / RECORD_BYTES;
    uint8_t record[RECORD_BYTES];
    int rc;

    if (anew || n_records > 2 * (uint64_t)s->n_pieces + RECORDS_SPARE) {
        rc = rewrite(s, e);
    } else {
        record_encode(RECORD_CHECKPOINT, &none, record);
        rc = append(s, record, sizeof record, e);
        if (rc == 0 && fdatasync(s->index_fd) != 0) {
            s->distrusted = true;
            rc = worker_store_io_error(s, e, "sync", "index");
        }
    }
    if (rc == 0) {
        s->unsynced = false;
        s->unsynced_bytes = 0;
    }
    return rc;
}
