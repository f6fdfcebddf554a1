/* The coordinator's journal: records of requests in flight and drained workers (records.c, pure) and
 * the file that they are appended to (journal.c). What a record means is said once, in records.c. */
#ifndef COORDINATOR_JOURNAL_H
#define COORDINATOR_JOURNAL_H

#include "coordinator/coordinator.h"

enum {
    COORD_JOURNAL_MAX = 268435456,       /* bytes of the file; what goes beyond is not kept */
    COORD_JOURNAL_BEHIND_MAX = 16777216, /* bytes that wait for a disk that does not keep up */
    COORD_JOURNAL_SLACK = 1048576 /* the file is compacted at twice its last length and this */
};

/* ---- records ------------------------------------------------------------------------------------ */

/* Each appends one record. `id`: the client's name of the request, 16 bytes. A token's list of best
 * ones is given where logprobs is 1 + k. */
void coord_record_request(struct base_buf *b, const struct net_msg_SUBMIT *m);
void coord_record_prompt(struct base_buf *b, const uint8_t *id, struct net_list ids);
struct coord_token {
    uint32_t index, elapsed_ms; /* among the generated ones; since the request's arrival */
    int32_t token;
    uint32_t logprobs; /* as in SUBMIT, at most the vocabulary */
    double chosen;
    struct net_list ids, best; /* [logprobs - 1] */
};
void coord_record_token(struct base_buf *b, const uint8_t *id, const struct coord_token *t);
/* n_tokens: generated; the rest as in DONE. */
void coord_record_done(struct base_buf *b, const uint8_t *id, uint32_t n_tokens, uint32_t finish,
                       uint32_t replays, uint32_t reused, struct span error);
void coord_record_gone(struct base_buf *b, const uint8_t *id);
/* The worker is drained, or not any more. */
void coord_record_drain(struct base_buf *b, const char *name, bool on);

/* 64 bits that tell damage, not forgery: each 8 bytes in turn, the last ones filled up with zeros,
 * and the length, through base_mix64. */
uint64_t coord_record_check(struct span bytes);

/* ---- the file ------------------------------------------------------------------------------------ */

/* What the tokens of a journal depend on, besides the requests. */
struct coord_identity {
    uint8_t model[NET_HASH_BYTES];
    uint64_t numerics;
    uint32_t kv, fast, wire, context;
};

struct coord_journal;
/* Take what STATE/journal holds and begin it anew with that. A file that cannot be read, is damaged
 * or cannot be written costs what it held, is logged and is no error. ERR_NOMEM, ERR_IO (no
 * thread). */
int coord_journal_open(const char *state, const struct coord_identity *own,
                       struct coord_journal **out, struct err *e);
/* Requests that the file held, until _forget; and why they cannot go on here, or NULL. */
const struct coord_kept_list *coord_journal_kept(const struct coord_journal *j);
const char *coord_journal_refuses(const struct coord_journal *j);
void coord_journal_forget(struct coord_journal *j);
/* Append, on a thread of its own: whatever the disk does, this returns at once. */
void coord_journal_add(struct coord_journal *j, struct span records);
int coord_journal_fd(const struct coord_journal *j); /* readable: call _reap */
void coord_journal_reap(struct coord_journal *j);
/* Writes what was added, and closes. */
void coord_journal_close(struct coord_journal *j);

#endif
