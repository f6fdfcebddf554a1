/* A pass carried out by a team: the exchange of partial sums, layer half by layer half. Compute
 * thread only, but for worker_team_bytes. */
#ifndef WORKER_TEAM_H
#define WORKER_TEAM_H

#include "model/model.h"
#include "worker/exchange.h"

#include <stdatomic.h>

enum {
    WORKER_TEAM_GROUPS = 2,     /* groups of rows, one of which computes while the other travels */
    WORKER_TEAM_GROUP_ROWS = 16, /* fewer rows in each are not worth a second pass over the weights */
    WORKER_TEAM_AHEAD = 3       /* steps of which sums may be here at once */
};

/* Why a pass could not be finished: the member at fault, and a sentence. */
struct worker_lost {
    char name[NET_NAME_MAX], reason[200];
};

/* What a member did, for heartbeats: written by the compute thread, read by the network thread. */
struct worker_served {
    atomic_uint_least64_t passes, busy_us;
    atomic_bool working;
};

/* The state of a worker's part in its team. */
struct worker_team_work {
    struct worker_team team;
    const struct model *model;
    struct model_exec *exec;
    struct worker_exchange *exchange;
    uint32_t layer0, n_layers, n_embd, n_vocab, vocab_run, normed_bytes;
    uint32_t max_rows, n_slots, context;
    bool begun;
    uint64_t pass; /* number of the pass at work, or of the last one */
    uint32_t n, n_groups;
    uint64_t at[WORKER_TEAM_GROUPS]; /* of each group: steps that are closed, over all passes */
    uint32_t got[WORKER_TEAM_AHEAD][WORKER_TEAM_GROUPS]; /* bit i: member i's sums are in `sum` */
    int64_t *sum[WORKER_TEAM_AHEAD];                     /* [max_rows, n_embd] zero where nothing came */
    uint32_t *sum_bad[WORKER_TEAM_AHEAD];                /* [max_rows] as in model_exec_run */
    int64_t *mine;                                       /* [max_rows, n_embd] */
    uint8_t *normed;                                     /* [max_rows, normed_bytes] */
    uint8_t *code;                                       /* encoded sums, or hidden states */
    struct model_row *rows;                              /* [max_rows] of the pass */
    uint32_t *bad;                                       /* [max_rows] */
    float *hidden;                                       /* [max_rows, n_embd] the engine's */
    float *logits;                                       /* [WORKER_LOGIT_ROWS, n_vocab] the engine's */
    bool pending;                                        /* a pass has begun before the last one ended here */
    uint32_t next_n;
    struct model_row *next_rows; /* [max_rows] */
    float *next_hidden;          /* [max_rows, n_embd] */
    struct worker_lost *lost;
};

/* Bytes of the buffers, all taken from one arena. */
size_t worker_team_bytes(const struct model *m, const struct worker_team *t,
                         const struct model_exec_config *c);
void worker_team_init(struct worker_team_work *w, const struct model *m, const struct worker_team *t,
                      const struct model_slice *s, const struct model_exec_config *c,
                      struct base_arena *arena);

/* The leader: one pass of n rows through the team's layers; hidden [n, n_embd] in and out, bad as in
 * model_exec_run. False: a member is lost. */
bool worker_team_lead(struct worker_team_work *w, const struct model_row *rows, uint32_t n,
                      float *hidden, uint32_t *bad, struct worker_lost *lost);
/* The leader: logits [n, n_vocab] of n rows, whose hidden states [n, n_embd] have left the last
 * layer. */
bool worker_team_logits(struct worker_team_work *w, uint32_t n, const float *hidden, float *logits,
                        uint32_t *bad, struct worker_lost *lost);
/* A member: carry out the leader's passes until the team is not in force any more, or (lost->name
 * is not empty) somebody is lost. */
void worker_team_serve(struct worker_team_work *w, struct worker_served *served,
                       struct worker_lost *lost);

#endif
