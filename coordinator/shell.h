/* The coordinator's shell, shared by shell.c (loop, actions), manifest.c (hashes of the model's
 * pieces), reader.c (the thread that makes prompts into tokens) and bulk.c (the thread that ships
 * pieces). */
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

/* Prompts on their way to the reader's thread and back. */
struct coord_reader;
struct coord_reading {
    uint64_t serial; /* as posted */
    int rc; /* 0: the tokens are there; ids[n], of which the context has room for the first */
    struct err e;
    int32_t *ids;
    size_t n;
    struct base_buf prompt;
    /* the reader's */
    struct coord_reader *reader;
    struct coord_reading *next;
    uint32_t form;
};
/* Model and vocabulary are borrowed. ERR_NOMEM, ERR_IO. */
int coord_reader_new(const struct model *m, const struct vocab *v, uint32_t context,
                     struct coord_reader **out, struct err *e);
/* Read the prompt of a SUBMIT, which is copied. ERR_NOMEM, ERR_FULL. */
int coord_reader_post(struct coord_reader *r, uint64_t serial, const struct net_msg_SUBMIT *m,
                      struct err *e);
int coord_reader_fd(const struct coord_reader *r); /* readable when a prompt has been read */
/* The next prompt that has been read, in the order of posting; NULL: none. Let go with _done. */
struct coord_reading *coord_reader_reap(struct coord_reader *r);
void coord_reader_done(struct coord_reading *p);
void coord_reader_free(struct coord_reader *r);

/* The bulk server: a thread with sockets of its own. `port` is where it listens. */
struct coord_bulk;
int coord_bulk_start(const struct net_config *c, const struct coord_manifest *f,
                     struct coord_bulk **out, unsigned *port, struct err *e);
void coord_bulk_configure(struct coord_bulk *b,
                          const struct net_config *c); /* who may connect from now on */
void coord_bulk_stop(struct coord_bulk *b);

#endif
