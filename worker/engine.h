/* What a plan becomes on a worker: the executor for its slice, the buffers that rows wait in, and
 * the sampler. Made on the disk thread, fed by the network thread, run by the compute thread, one
 * after the other. */
#ifndef WORKER_ENGINE_H
#define WORKER_ENGINE_H

#include "worker/store.h"
#include "worker/team.h"
#include "worker/worker.h"

enum { WORKER_LOGIT_ROWS = 8 }; /* rows whose logits are there at once */

struct worker_summary {
    struct model_logits_summary s;
    uint8_t hash[16];
};

struct worker_engine {
    uint64_t epoch;
    struct model_slice slice;
    struct model_exec_config config;
    const struct model_shape *shape;
    struct model_exec *exec;
    struct worker_team_work team; /* team.team.n == 1: alone */
    struct model_sampler *sampler; /* where the output is */
    uint64_t planned_bytes;
    float *decode; /* [n_slots, n_embd] decode rows that wait */
    float *prompt; /* [prompt_rows, n_embd] prompt rows that wait; worker.h: or rows that are back */
    float *hidden; /* [max_rows, n_embd] rows of the pass */
    float *gather;                    /* [WORKER_LOGIT_ROWS, n_embd] */
    float *logits;                    /* [WORKER_LOGIT_ROWS, n_vocab] */
    uint8_t *code; /* rows of a pass as they travel; NULL where that is how they stand in memory */
    struct worker_summary *summaries; /* [max_rows] */
    struct base_arena *arena;
};

/* What an engine for this slice takes beside the process itself. */
struct model_memory worker_engine_memory(const struct model *m, const struct model_slice *s,
                                         const struct worker_team *t,
                                         const struct model_exec_config *c, uint32_t prompt_rows);
/* Map the slice's pieces (hashes [n_pieces, 32], in the order of model_slice_pieces) and build the
 * executor. */
int worker_engine_new(const struct model *m, const struct model_slice *s,
                      const struct worker_team *t, const struct model_exec_config *c, uint32_t prompt_rows,
                      struct worker_store *store, const uint8_t *hashes, uint64_t epoch,
                      struct worker_engine **out, struct err *e);
void worker_engine_free(struct worker_engine *g);
/* Network thread: copy the waiting states of the pass's rows together; the wait buffers are free
 * afterwards. */
void worker_engine_gather(struct worker_engine *g, const struct worker_pass *p);
/* Compute thread: run the pass, with the team where there is one; sample, summarise. No allocation.
 * A member that is lost stands in the pass. */
void worker_engine_run(struct worker_engine *g, struct worker_exchange *x, struct worker_pass *p);
/* Compute thread of a team's member: carry out the leader's passes (worker_team_serve). */
void worker_engine_serve(struct worker_engine *g, struct worker_exchange *x,
                         struct worker_served *served, struct worker_lost *lost);

/* worker/profile.c: what PROFILED says, in seconds. */
enum { WORKER_BATCHES = 3, WORKER_PROMPT_ROWS = 64 };
struct worker_batch {
    double attention[MODEL_LAYERS_MAX], ffn[MODEL_LAYERS_MAX]; /* halves of each layer */
    double attention_fixed, ffn_fixed; /* the part of a half that a smaller share does not shrink */
    double embed, output;
};
struct worker_profile {
    uint32_t
        rows[WORKER_BATCHES]; /* in: ascending from 1, the last one at most the rows of a tile */
    uint32_t figure_ms; /* in: time spent on each figure; 0: what makes it a true one */
    struct worker_batch batches[WORKER_BATCHES];
    double sample;   /* choosing one token */
    double wake;     /* what a half takes longer when its threads slept before */
    double codec;    /* a byte of partial sums, coding or adding; at full speed, as message */
    double message;  /* worker_exchange_time; the caller's to fill */
    double throttle; /* share of the time that a CPU quota lets the threads run; 1: none */
};
/* Compute thread: measure the real kernels on the card's shapes, with made-up weights. `root` as in
 * worker/resources.h; the configuration's max_rows is that of the largest batch. ERR_NOMEM. */
int worker_profile_run(const struct model *m, const struct model_exec_config *c, const char *root,
                       struct worker_profile *out, struct err *e);

#endif
