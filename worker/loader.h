/* Fetching pieces: which the store lacks, a window of requests to the coordinator, writing on the
 * disk thread. One shipment at a time: a new one drops the one before. Used by the network thread
 * only. */
#ifndef WORKER_LOADER_H
#define WORKER_LOADER_H

#include "worker/store.h"

enum { WORKER_LOADER_WINDOW = 4, WORKER_LOADER_RETRIES = 3, WORKER_LOADER_SILENT_MS = 30000 };

/* First member of every job on a worker's threads: whose it is. */
struct worker_job {
    void *owner;
};

struct worker_loader;
enum worker_loader_state {
    WORKER_LOADER_IDLE,
    WORKER_LOADER_BUSY,
    WORKER_LOADER_DONE,
    WORKER_LOADER_FAILED
};

int worker_loader_new(struct worker_store *store, struct base_jobs *disk,
                      struct worker_loader **out, struct err *e);
void worker_loader_free(struct worker_loader *l); /* once the disk thread has ended */
/* Begin: hashes [n, 32] and the bytes of each; keep [n_keep, 32]: pieces in use that must not make
 * room. All copied. */
int worker_loader_begin(struct worker_loader *l, const uint8_t *hashes, const uint64_t *bytes,
                        uint32_t n, const uint8_t *keep, uint32_t n_keep, struct err *e);
/* No shipment is wanted any more: what is on its way is dropped. */
void worker_loader_drop(struct worker_loader *l);
enum worker_loader_state worker_loader_state(const struct worker_loader *l, const char **reason);
/* Bytes there, in all, and shipped for this shipment. */
void worker_loader_progress(const struct worker_loader *l, uint64_t *done, uint64_t *total,
                            uint64_t *fetched);
/* The next request to send, as long as the window has room (`narrow`: of one, while text is
 * produced). */
bool worker_loader_next(struct worker_loader *l, bool narrow, struct net_msg *out);
bool worker_loader_wants(const struct worker_loader *l, bool narrow); /* is there one? */
bool worker_loader_is_quiet(const struct worker_loader *l); /* no part is on its way to the store */
void worker_loader_piece(struct worker_loader *l, const struct net_msg_PIECE *m, int64_t now_ms);
/* The bulk connection began anew: what was asked for is asked for again. */
void worker_loader_reset(struct worker_loader *l, int64_t now_ms);
void worker_loader_tick(struct worker_loader *l, int64_t now_ms);
/* A job of ours has come back from the disk thread; false: it was not ours. */
bool worker_loader_reap(struct worker_loader *l, void *job, int64_t now_ms);
#endif
