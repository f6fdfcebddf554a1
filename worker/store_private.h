/* What the store's three files share: store.c (opening, finding, receiving), store_index.c (the
 * table of pieces and its file), store_packs.c (pack files, room, checking). */
#ifndef WORKER_STORE_PRIVATE_H
#define WORKER_STORE_PRIVATE_H

#include "worker/store.h"

struct store_piece {
    uint8_t hash[NET_HASH_BYTES];
    uint32_t pack;   /* id */
    uint32_t offset; /* bytes, a multiple of WORKER_STORE_ALIGN */
    uint32_t bytes;  /* 0: this slot of the table is empty */
    uint64_t use;    /* position in the order of uses: a larger one is later */
};

struct store_pack {
    uint32_t id;
    uint32_t end_bytes;  /* where the next piece would go */
    uint64_t live_bytes; /* room of its pieces, those in flight included */
    uint32_t n_live;     /* these pieces */
    bool unsynced;
    const uint8_t *map; /* [WORKER_STORE_PACK_BYTES], NULL until the first use */
    bool large;         /* and mapped: its first page is a large one */
};

struct store_receiving {
    bool begun;
    int fd; /* of the pack */
    struct store_piece piece;
    uint32_t received_bytes;
    struct net_hasher *hasher; /* kept for the next piece */
};

struct worker_store {
    char *dir;
    uint64_t limit_bytes;
    int dir_fd, lock_fd, index_fd;
    bool can_punch;  /* the file system gives space inside a file back */
    bool distrusted; /* a sync failed: no checkpoint may follow */
    uint64_t clock;  /* latest use */
    uint64_t n_lost;

    struct store_piece *slots; /* open addressing, linear probing, at most 3/4 full */
    uint32_t n_slots;          /* a power of two, or 0 */
    uint32_t n_pieces;
    uint64_t piece_bytes; /* sum of their content */

    uint64_t index_bytes; /* whole records in the file */
    bool unsynced;        /* a record came after the last checkpoint */
    uint64_t unsynced_bytes;

    struct store_pack *packs; /* ascending ids */
    uint32_t n_packs, max_packs;
    uint32_t next_pack;

    struct store_receiving receiving[WORKER_STORE_RECEIVING_MAX];
};

/* Fill *e from errno: "store DIR: cannot DOING NAME: reason". ERR_FULL, ERR_NOMEM or ERR_IO. */
int worker_store_io_error(const struct worker_store *s, struct err *e, const char *doing,
                          const char *name);
/* All bytes at this place; false with errno. */
bool worker_store_pwrite(int fd, const uint8_t *bytes, size_t n, uint64_t at);

/* ---- the table and its file (store_index.c) -------------------------------------------------- */

struct store_piece *worker_table_find(const struct worker_store *s, const uint8_t *hash);
bool worker_table_reserve(struct worker_store *s, uint32_t n_more); /* false: no memory */
void worker_table_insert(struct worker_store *s,
                         const struct store_piece *p); /* reserved, not there */
void worker_table_remove(struct worker_store *s, const uint8_t *hash);

/* Copies of all pieces in an order, base_free; NULL: no memory. */
typedef int store_piece_order(const void *a, const void *b);
store_piece_order worker_pieces_by_use, worker_pieces_by_place;
struct store_piece *worker_pieces_sorted(const struct worker_store *s, store_piece_order *order);

/* What replaying the index told. A piece is beyond doubt where damage < use <= checkpoint. */
struct store_replay {
    uint64_t checkpoint; /* use of the last piece before the last checkpoint */
    uint64_t damage;     /* use of the last piece before the last damaged record */
    uint64_t n_bad;      /* damaged records, and ones that say nonsense */
    uint64_t n_torn;     /* records whose writing was cut off */
};
int worker_index_replay(struct worker_store *s, struct store_replay *r, struct err *e);
int worker_index_add(struct worker_store *s, const struct store_piece *p, struct err *e);
/* All or none, and on the disk when it returns 0: only then may the space be used again. */
int worker_index_drop(struct worker_store *s, const struct store_piece *list, size_t n,
                      struct err *e);
/* A checkpoint, or a new file where most records are dead or `anew` asks for it. All data is
 * synced. */
int worker_index_checkpoint(struct worker_store *s, bool anew, struct err *e);

/* ---- packs (store_packs.c) ------------------------------------------------------------------- */

enum { STORE_PACK_NAME = 16 }; /* bytes of "pack-00000001" and its NUL */
void worker_pack_name(uint32_t id, char out[static STORE_PACK_NAME]);
struct store_pack *worker_pack_find(const struct worker_store *s, uint32_t id);
struct store_pack *worker_pack_obtain(struct worker_store *s, uint32_t id); /* NULL: no memory */
/* Charge a piece to its pack, which exists; give its space back, and with its last piece the pack's
 * file. */
void worker_pack_charge(struct worker_store *s, const struct store_piece *p);
void worker_pack_release(struct worker_store *s, const struct store_piece *p);
int worker_pack_map(struct worker_store *s, struct store_pack *pack, struct err *e);
/* Before a piece that was charged is written to fd, the pack's file: make large pages ready for it
 * where there are such. */
void worker_pack_grow(struct worker_store *s, struct store_pack *pack, int fd);
/* Cut off what lies behind the last piece of each pack, and give back space between pieces that an
 * eviction or a receipt cut short by a crash left taken. No piece is in flight. */
int worker_packs_trim(struct worker_store *s, struct err *e);
int worker_packs_sync(struct worker_store *s, struct err *e);
uint64_t worker_packs_disk_bytes(const struct worker_store *s);

/* Hash the pieces of a list that is sorted by place and move the bad ones to its front. */
int worker_pieces_check(const struct worker_store *s, struct store_piece *list, size_t n,
                        worker_store_progress *progress, void *arg, size_t *n_bad, struct err *e);
/* Remove pieces from index, table and disk. */
int worker_pieces_remove(struct worker_store *s, const struct store_piece *list, size_t n,
                         struct err *e);

#endif
