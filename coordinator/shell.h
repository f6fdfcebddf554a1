/* The coordinator's shell, shared by shell.c (loop, actions), manifest.c (hashes of the model's
 * pieces) and bulk.c (the thread that ships them). */
#ifndef COORDINATOR_SHELL_H
#define COORDINATOR_SHELL_H

#include "coordinator/coordinator.h"

/* Hashes of a model's pieces and of its card. Immutable once made; shared between threads. */
struct coord_manifest {
    const struct model *model;
    uint32_t n_pieces;
    uint8_t *hashes;   /* [n_pieces, 32], by piece number */
    uint32_t *by_hash; /* [n_pieces] piece numbers in order of their hashes */
    struct base_buf card;
    uint8_t card_hash[NET_HASH_BYTES];
};
/* Computed with progress, or read back from `state`, where the file's size, time and inode are as
 * they were. */
int coord_manifest_new(const struct model *m, const char *path, const char *state,
                       struct coord_manifest *out, struct err *e);
void coord_manifest_deinit(struct coord_manifest *f);
/* Piece number with this hash; false: none. */
bool coord_manifest_find(const struct coord_manifest *f, const uint8_t *hash, uint32_t *number);

/* The bulk server: a thread with sockets of its own. `port` is where it listens. */
struct coord_bulk;
int coord_bulk_start(const struct net_config *c, const struct coord_manifest *f,
                     struct coord_bulk **out, unsigned *port, struct err *e);
void coord_bulk_configure(struct coord_bulk *b,
                          const struct net_config *c); /* who may connect from now on */
void coord_bulk_stop(struct coord_bulk *b);

#endif
