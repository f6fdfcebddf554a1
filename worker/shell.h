/* The worker's shell, shared by shell.c (loop, events), shell_act.c (the core's actions),
 * shell_load.c (card, plans, jobs) and shell_profile.c. Network thread only, but for what a job holds
 * while it runs. */
#ifndef WORKER_SHELL_H
#define WORKER_SHELL_H

#include "worker/engine.h"
#include "worker/linktest.h"
#include "worker/loader.h"
#include "worker/readings.h"
#include "worker/resources.h"

enum {
    WORKER_DEPTH_MAX = 8,
    WORKER_NOOPS = 15
}; /* empty jobs timed for the fixed cost of a pass */

struct job; /* of shell_load.c */

struct worker_link {
    char name[NET_NAME_MAX];
    net_peer peer;
    bool up;
    double rtt, rate; /* as measured since it came up; 0: not yet */
};

/* What was measured is so until the process ends, unless other work or another quota is asked about
 * or given: a coordinator that is restarted need not wait for it. */
struct worker_measured {
    uint8_t model[NET_HASH_BYTES]; /* its card's */
    struct model_exec_config config;
    struct worker_quota quota;
    struct worker_profile profile;
    double pass;
    int64_t at_ms; /* 0: nothing was */
};

/* What the loader's shipment is for. */
enum worker_loading {
    WORKER_LOADING_NONE,
    WORKER_LOADING_CARD,
    WORKER_LOADING_PLAN,
    WORKER_LOADING_STOCK
};

/* The plan being prepared, or in force: what the core does not keep. */
struct worker_shard {
    uint64_t epoch;
    uint32_t max_rows, n_pieces;
    struct model_slice slice;
    struct worker_team team;
    uint8_t *hashes; /* [n_pieces, 32] */
};

/* Pieces that STOCK has named (shell_stock.c). */
struct worker_stock {
    uint64_t epoch;
    const struct model *model; /* whose pieces they are */
    uint8_t *hashes;           /* [n_pieces of the model, 32] */
    bool *wanted;              /* [n_pieces] */
    bool more;                 /* some have been named since fetching began */
    double asked_s, due_s;     /* the part on its way, 0: none; when to ask for the next */
};

struct worker_shell {
    const struct worker_options *options;
    struct net_config config;
    int64_t config_ms;             /* when it was read */
    struct net_config_worker self; /* our own section, as it was at the start */
    const struct kern_table *kernels;
    unsigned threads;
    struct net *net;
    struct worker_core *core;
    struct worker_store *store;
    struct base_jobs *compute, *disk, *watch;
    struct worker_loader *loader;
    int signals;
    bool stop;
    struct err quit; /* code != 0: why the program ends */

    net_peer control, bulk;
    unsigned bulk_port;
    bool bulk_up;
    struct worker_link links[NET_WORKERS_MAX];
    uint32_t n_links;
    struct worker_linktest test;
    struct worker_answers answers;
    struct worker_exchange *exchange;
    struct worker_served served; /* by the compute thread as a team's member */
    bool serving;                /* the compute thread waits for a leader's passes */
    int64_t team_due_ms;         /* when to look after team connections again; 0: no need */

    /* settings of WELCOME */
    uint32_t context, n_slots, dead_ms;
    enum kern_kv_type kv;
    uint8_t card_hash[NET_HASH_BYTES]; /* of the card that is wanted */
    uint64_t card_bytes;

    uint8_t model_hash[NET_HASH_BYTES]; /* of the card that `model` was made from */
    struct model *model,
        *old_models[16]; /* cards of former coordinators: engines may still point into them */
    uint32_t n_old_models;
    bool large_pages; /* what the store maps lies in such */
    enum worker_loading loading;
    bool card_posted;            /* the card is with the disk thread */
    struct job *jobs, *pass_job; /* all; the one that serves every pass */
    struct worker_shard next, now;
    struct worker_engine *engine, *next_engine;
    struct model_kv_copy *copy; /* of another worker's KV rows, beside the plan in force; NULL: none */
    bool kv_failed; /* KV rows that an action of this step named are not in the caches */
    int64_t progress_ms;
    struct worker_stock stock;

    struct worker_load load; /* of the passes that this worker has led */
    struct worker_readings readings; /* the watch thread's until its job comes back */
    uint64_t base_bytes;
    uint32_t noops, profile_serial; /* jobs of an earlier profile are told by their number */
    int64_t noop_due_ms;            /* 0: none is to be posted */
    uint32_t profile_rows;
    struct worker_measured measured;
    double noop_at, noop_s[WORKER_NOOPS];
    /* one list of actions a level: carrying an action out may itself be an event */
    struct worker_actions *actions[WORKER_DEPTH_MAX];
    int depth;
};

/* shell.c */
void worker_shell_step(struct worker_shell *sh, struct worker_event *ev);
/* The section of another worker; NULL: the configuration has none, also read again just now. */
const struct net_config_worker *worker_shell_peer(struct worker_shell *sh, const char *name);
void worker_shell_load_now(struct worker_shell *sh, struct worker_load *out);
/* shell_act.c */
void worker_shell_act(struct worker_shell *sh, const struct worker_actions *list,
                      const struct worker_event *ev);
struct worker_link *worker_shell_link(struct worker_shell *sh, const char *peer, bool make);
void worker_shell_drop_copy(struct worker_shell *sh); /* of another worker's KV rows, if there is one */
/* shell_load.c */
void worker_shell_card(struct worker_shell *sh, const struct net_msg_WELCOME *m);
void worker_shell_prepare(struct worker_shell *sh, const struct net_msg_PLAN *m);
void worker_shell_manifest(struct worker_shell *sh, const struct net_msg_MANIFEST *m);
void worker_shell_load(struct worker_shell *sh, uint64_t epoch);
void worker_shell_activate(struct worker_shell *sh, uint64_t epoch);
void worker_shell_deactivate(struct worker_shell *sh);
void worker_shell_loader_pump(struct worker_shell *sh);
void worker_shell_team(struct worker_shell *sh); /* team connections for the plan being prepared */
void worker_shell_team_tick(struct worker_shell *sh);
void worker_shell_pass(struct worker_shell *sh, struct worker_pass *pass);
void worker_shell_profile(struct worker_shell *sh, uint32_t rows);
void worker_shell_profile_tick(struct worker_shell *sh);
/* shell_profile.c */
/* Would the same be measured again? */
bool worker_shell_is_measured(const struct worker_shell *sh);
/* PROFILED, from what was measured so long ago; or why it could not be. */
void worker_shell_say_profile(struct worker_shell *sh, uint64_t age_ms, const char *error);
int worker_shell_jobs_init(struct worker_shell *sh, struct err *e);
void worker_shell_jobs_free(struct worker_shell *sh); /* once the threads have ended */
void worker_shell_read(struct worker_shell *sh); /* readings come back through the reap */
void worker_shell_reap(struct worker_shell *sh);
/* The cards, and the pieces of every plan whose engine lives or is being made: a list for
 * base_free; NULL: out of memory. */
uint8_t *worker_shell_in_use(const struct worker_shell *sh, uint32_t *n);
/* shell_stock.c */
void worker_shell_stock(struct worker_shell *sh, const struct net_msg_STOCK *m);
void worker_shell_stock_pump(struct worker_shell *sh); /* begins, and ends */
/* Is the next part of it not yet to be asked for? Where it is, it is on its way from now on. */
bool worker_shell_stock_rests(struct worker_shell *sh);
void worker_shell_stock_free(struct worker_shell *sh);

#endif
