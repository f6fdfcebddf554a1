/* The piece store: the folder in which a worker keeps the pieces that were shipped to it.
 *
 * A piece is named by the BLAKE2b-256 of its content. Pieces lie in pack files (DIR/pack-00000001,
 * ...), each at a multiple of WORKER_STORE_ALIGN, are mapped read-only and computed on in place.
 * DIR/index says what lies where, DIR/lock keeps a second process out.
 *
 * Threading: a store is used by one thread at a time; calls may block on the disk. Only the memory
 * that worker_store_map hands out may be read by any thread at any time. */
#ifndef WORKER_STORE_H
#define WORKER_STORE_H

#include "common/common.h"
#include "net/net.h"

enum {
    WORKER_STORE_ALIGN = 4096,                   /* bytes; a block of most file systems */
    WORKER_STORE_PACK_BYTES = 64 * 1024 * 1024,  /* longest pack file */
    WORKER_STORE_PIECE_MAX = 64 * 1024 * 1024,   /* bytes of the longest piece */
    WORKER_STORE_PIECES_MAX = 1024 * 1024,       /* pieces in one store */
    WORKER_STORE_RECEIVING_MAX = 16,             /* pieces begun and not finished */
    WORKER_STORE_UNSYNCED_MAX = 64 * 1024 * 1024 /* bytes that come before it syncs by itself */
};
_Static_assert(WORKER_STORE_PIECE_MAX <= WORKER_STORE_PACK_BYTES, "a piece lies inside one pack");
_Static_assert(WORKER_STORE_PACK_BYTES % WORKER_STORE_ALIGN == 0, "packs are whole blocks");

struct worker_store;

/* Make DIR (0700, parents too) where it is missing, lock it and read its index. Index records that
 * are torn, damaged or point outside their pack count for nothing. Pieces received after the last
 * sync of a process that was killed are hashed again, all pieces where the index is damaged; what
 * fails is gone. disk_limit_bytes bounds the packs (0: no limit); the index, 64 bytes a record,
 * comes on top. A store that is over its limit opens; it takes nothing new until worker_store_evict
 * made room. ERR_REFUSED: another process has this folder. ERR_IO, ERR_FULL (an index that needs
 * repair and a full disk), ERR_NOMEM. */
int worker_store_open(const char *dir, uint64_t disk_limit_bytes, struct worker_store **out,
                      struct err *e);
/* Syncs, drops pieces in flight, unmaps: all borrowed pointers end here. NULL is fine. */
void worker_store_close(struct worker_store *s);

bool worker_store_has(const struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES]);
/* The piece's bytes, WORKER_STORE_ALIGN-aligned, borrowed until the store is closed or the piece is
 * evicted or found corrupt. Counts as a use; its pages begin to be read from the disk (large ones are
 * there when it returns), and nothing beside them will be. ERR_NOTFOUND, ERR_IO, ERR_NOMEM. */
int worker_store_map(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                     const void **ptr, size_t *bytes, struct err *e);
/* Do mapped pieces lie in large pages, as far as pieces have been mapped? For speed alone. */
bool worker_store_large_pages(const struct worker_store *s);

/* ---- receiving ------------------------------------------------------------------------------- */

/* Disk taken by a piece of so many bytes. */
static inline uint64_t worker_store_room(uint64_t piece_bytes)
{
    return (piece_bytes + WORKER_STORE_ALIGN - 1) / WORKER_STORE_ALIGN * WORKER_STORE_ALIGN;
}

/* Begin to receive a piece. ERR_REFUSED: it is there or begun already; ERR_RANGE: 0 bytes or more
 * than WORKER_STORE_PIECE_MAX; ERR_FULL: the limit, the disk, too many pieces or too many in
 * flight; ERR_IO, ERR_NOMEM. Does not evict: that is worker_store_evict, whose caller knows what is
 * in use. */
int worker_store_begin(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                       uint64_t total_bytes, struct err *e);
/* The next bytes. ERR_NOTFOUND: not begun. ERR_RANGE: not the next offset, or beyond the total;
 * nothing is written and the piece goes on. ERR_FULL, ERR_IO: the piece is given up (begin anew).
 * */
int worker_store_write(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                       uint64_t offset, struct span bytes, struct err *e);
/* Check the content against the name and, only then, enter the piece into the index. ERR_MISMATCH:
 * bytes are missing or the content has another hash. After any failure the piece is given up.
 * ERR_NOTFOUND, ERR_FULL, ERR_IO. */
int worker_store_finish(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                        struct err *e);
/* Give up a piece in flight; nothing where there is none. */
void worker_store_abandon(struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES]);
/* Is this piece in flight, and how far? */
bool worker_store_receiving(const struct worker_store *s, const uint8_t hash[static NET_HASH_BYTES],
                            uint64_t *received_bytes, uint64_t *total_bytes);

/* Make all finished pieces survive a power cut: the data first, then a checkpoint in the index.
 * Called at the end of a shipment. Without it a killed process loses nothing either, as the records
 * are in the index; only the next open has to hash these pieces again. Once a sync failed the disk
 * is not to be believed: no later sync of this process succeeds. ERR_IO, ERR_FULL, ERR_NOMEM. */
int worker_store_sync(struct worker_store *s, struct err *e);

/* ---- room, checking, counting ---------------------------------------------------------------- */

/* Does a current plan need this piece? */
typedef bool worker_store_keep(void *arg, const uint8_t hash[static NET_HASH_BYTES]);
/* Make room for need_bytes more (the sum of worker_store_room over the pieces to come) by removing
 * pieces that `keep` does not want, those used longest ago first. Where removing all of them would
 * not do, nothing is removed and ERR_FULL tells how much could be had. Where the file system cannot
 * punch holes, only packs without any piece to keep are removed, as a whole. ERR_IO, ERR_NOMEM. */
int worker_store_evict(struct worker_store *s, uint64_t need_bytes, worker_store_keep *keep,
                       void *arg, struct err *e);

typedef void worker_store_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes);
struct worker_store_report {
    uint64_t n_pieces, bytes;  /* looked at */
    uint64_t n_bad, bad_bytes; /* corrupt, and therefore removed; each is a line in the log */
};
/* Hash every piece anew. `progress` may be NULL. Corrupt pieces are a result, not a failure.
 * ERR_IO, ERR_NOMEM, ERR_FULL. */
int worker_store_verify(struct worker_store *s, worker_store_progress *progress, void *arg,
                        struct worker_store_report *out, struct err *e);

struct worker_store_stats {
    uint64_t n_pieces, piece_bytes; /* finished pieces and their content */
    uint64_t disk_bytes;            /* what counts against the limit, pieces in flight included */
    uint64_t limit_bytes;           /* 0: none */
    uint64_t n_packs;
    uint64_t n_receiving;
    uint64_t n_lost; /* index records that were of no use when the store was opened */
};
struct worker_store_stats worker_store_stats(const struct worker_store *s);

struct worker_store_piece {
    uint8_t hash[NET_HASH_BYTES];
    uint64_t bytes;
};
/* Walk over the pieces, in no order: *cursor is 0 at first; false at the end. A walk is void once a
 * piece is added or removed. */
bool worker_store_next(const struct worker_store *s, uint64_t *cursor,
                       struct worker_store_piece *out);

#endif
