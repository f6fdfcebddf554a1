/* What the tests of the piece store share: a disk that fails to order, folders, pieces. */
#ifndef TESTS_UNIT_STORE_FIXTURE_H
#define TESTS_UNIT_STORE_FIXTURE_H

#include "worker/store.h"

enum { RECORD = 64, PATH_BYTES = 256, PAGE = WORKER_STORE_ALIGN };

/* What the disk does to the store; all false and 0 at the start of each test. */
struct fake_disk {
    bool killed;   /* nothing is written any more */
    bool no_punch; /* fallocate is not supported */
    bool sync_fails;
    unsigned fail_pwrite; /* the n-th write from now fails, 0: none */
    bool half_write;      /* and leaves half of its bytes behind */
};
extern struct fake_disk disk;

/* ---- folders and files ----------------------------------------------------------------------- */

extern char dir[PATH_BYTES + 8]; /* the store's folder, which does not exist at first */
extern int64_t live_before;      /* blocks of memory in use before the test */
int set_up(void **state);
int tear_down(void **state); /* removes everything, and finds blocks that were not freed */

void clear_folder(const char *path); /* and remove it */
void file_path(const char *name, char out[static 2 * PATH_BYTES]);
uint8_t *file_get(const char *name, size_t *n); /* a file of the store as it is, base_free */
void file_put(const char *name, const uint8_t *bytes, size_t n);
bool file_there(const char *name);
void file_flip(const char *name, long at); /* one bit of the byte at this place */

/* ---- pieces ---------------------------------------------------------------------------------- */

struct sample {
    uint8_t hash[NET_HASH_BYTES];
    uint8_t *content;
    size_t bytes;
};
struct sample sample_new(uint64_t seed, size_t bytes);
void samples_new(struct sample *x, size_t n, uint64_t seed, size_t bytes);
void samples_free(struct sample *x, size_t n);

/* Receive a piece in parts of at most 3,000 bytes. */
int put(struct worker_store *s, const struct sample *x, struct err *e);
void put_ok(struct worker_store *s, const struct sample *x, size_t n);
bool content_right(struct worker_store *s, const struct sample *x);
/* It is there, and right; or it is not there at all. Returns which. */
bool there(struct worker_store *s, const struct sample *x);
size_t count_there(struct worker_store *s, const struct sample *x, size_t n);

struct worker_store *open_ok(uint64_t limit);
/* The process dies: what it wrote is there, and no more. */
void crash(struct worker_store *s);
/* Where the index says that a piece lies; the record's layout is store_index.c's. */
long locate(const struct sample *x, char pack[static 16]);
/* For worker_store_evict: `arg` is a list of samples to keep, ended by one of 0 bytes. */
bool keep_list(void *arg, const uint8_t hash[static NET_HASH_BYTES]);

#endif
