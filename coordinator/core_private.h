/* The coordinator core's state, shared by core.c (meeting, time), core_measure.c, core_plan.c,
 * core_move.c, core_checkpoint.c, core_policy.c, core_price.c, core_forecast.c, core_request.c,
 * core_kept.c, core_slot.c, core_status.c and core_watch.c. */
#ifndef COORDINATOR_CORE_PRIVATE_H
#define COORDINATOR_CORE_PRIVATE_H

#include "coordinator/coordinator.h"
#include "coordinator/journal.h"

enum {
    JOIN_WAIT_MS = 5000, /* how long a first plan waits for workers that have not come */
    PROFILE_MS = 120000, /* deadlines of the measuring tasks */
    LINK_MS = 30000,
    MEASURE_WAIT_MS = 20000, /* how long a worker that measures itself may hold up the others */
    PREPARE_SILENT_MS =
        30000,          /* a worker that prepares says nothing for so long: the plan is given up */
    SETTLE_MS = 200,    /* after a loss, wait for its other news before planning again */
    RETRY_MS = 2000,    /* before planning again after a plan failed */
    HANG_MS = 30000,    /* a pass that takes longer is a hung worker */
    STALL_MS = 20000,   /* requests are active, yet no pass and no token for so long */
    NO_PLAN_MS = 30000, /* requests wait so long for a plan when workers are missing */
    CHUNK_DEFAULT = 128, /* prompt rows of a pass at most, where the configuration names none */
    WATCH_SAMPLES = 64   /* reports of a worker, and seconds of the cluster, that are kept */
};

/* One report of a worker; NAN: not known. */
struct watch_sample {
    int64_t at_ms;
    uint64_t epoch;                    /* in force when it came */
    uint64_t memory_free, memory_used; /* bytes; free: UINT64_MAX is not known */
    uint64_t memory_own;               /* as in REPORT */
    double memory_pressure, cpu_pressure, temperature, clock, battery, power; /* as in REPORT */
    double round_trip_ms;
    double busy;       /* share of the last seconds spent computing */
    double passes, ms; /* of decoding since the report before: how many, mean time of one */
    double share;      /* as in REPORT */
    double ratio;      /* of that time to what the plan predicts for as many rows */
    uint32_t waiting, flags;
};
struct watch {
    struct watch_sample samples[WATCH_SAMPLES];
    uint64_t n; /* taken in this life; the newest is at (n - 1) % WATCH_SAMPLES */
    uint64_t epoch, decode_passes, decode_rows, decode_us; /* at the last report */
    double evidence[2]; /* that its stage is slower, or faster, than this epoch's plan says */
};

enum node_state {
    NODE_ABSENT,
    NODE_JOINING, /* WELCOME sent */
    NODE_READY,   /* has the card */
    NODE_MEASURED /* profiled */
};

struct node {
    enum node_state state;
    bool connected, drained; /* drained: a person wants no work on it */
    int64_t heard_ms, progress_ms; /* last message; last change of passes, or no work */
    int64_t avoid_until_ms;        /* a plan failed on it: left out until then */
    int64_t profile_until_ms;      /* it measures itself still, and nobody waits for it; 0: no */
    uint64_t passes, busy_us;
    bool working;
    double pass_ms, busy; /* recent means */
    struct watch watch;
    uint32_t team_port;
    int64_t beat_ms;
    char kernels[33], last_error[301];
    int64_t error_ms; /* when last_error came */
    bool lost;        /* it is why the worker was lost */
    /* the plan being prepared or in force */
    bool prepared;
    uint64_t done_bytes, total_bytes, fetched_bytes, planned_bytes, moved_bytes;
};

enum task_kind { TASK_NONE, TASK_PROFILE, TASK_LINK };
struct task {
    enum task_kind kind;
    bool again;          /* a link that has numbers already: nothing waits for it */
    uint32_t node, peer; /* peer == NET_WORKERS_MAX: the coordinator */
    int64_t begun_ms, deadline_ms;
};

enum plan_state {
    PLAN_IDLE,     /* nothing under way */
    PLAN_SOLVING,  /* the planner works */
    PLAN_PREPARING /* workers fetch and load */
};

struct ring_plan {
    uint64_t epoch;        /* 0: none */
    struct part_plan plan; /* devices are nodes */
    double stage_s[PART_DEVICES_MAX], stage_batch_s[PART_DEVICES_MAX], batch_rate;
    uint32_t max_rows, chunk, groups;
};

/* What the planner would do without each worker of the plan in force (core_forecast.c). */
enum forecast_state { FORECAST_UNKNOWN, FORECAST_PLAN, FORECAST_NONE /* the others cannot serve */ };
struct forecast {
    enum forecast_state state;
    struct part_plan plan;
    double stage_s[PART_DEVICES_MAX], stage_batch_s[PART_DEVICES_MAX], batch_rate;
    uint32_t chunk, groups;
};
struct forecasts {
    uint64_t epoch; /* plan in force then; 0: nothing is known */
    uint32_t present, next; /* workers that could serve; the next to be thought away */
    uint64_t serial;        /* of the question that the planner has; 0: none */
    int64_t at_ms;          /* not before */
    struct forecast of[NET_WORKERS_MAX];
};

enum request_state {
    REQ_FREE,
    REQ_READING, /* its prompt is being made into tokens */
    REQ_QUEUED,
    REQ_ACTIVE,
    REQ_DONE
};

struct logits_entry {
    double mean, rms, values[MODEL_BEST];
    int32_t ids[MODEL_BEST];
    uint8_t hash[16];
};

/* Log-probabilities of the generated tokens, as they go into an ANSWER. */
struct token_logprobs {
    uint32_t n_best;        /* of each token */
    struct base_buf chosen; /* of double */
    struct base_buf ids;    /* of n_best int32_t each */
    struct base_buf best;   /* of n_best double each */
};

struct request {
    enum request_state state;
    uint8_t id[16];
    uint64_t client, order,
        number;        /* connection; arrival; as the workers know it, one for each OPEN */
    uint32_t n_wanted; /* tokens to generate at most, as in SUBMIT */
    uint32_t slot, flags, n_prompt, n_tokens, end_position, replays;
    uint32_t n_rows; /* KV rows of its slot that are known to be there, on every stage */
    uint32_t reused; /* those of the prompt that were there whenever it was opened */
    bool resumes;    /* taken up again, under another plan or after a restart, no token since */
    uint32_t first;  /* row from which on it then ran */
    int32_t *tokens; /* [end_position or n_prompt] prompt, then the generated ones; owned */
    struct model_sampling sampling;
    struct model_text text;
    struct logits_entry *logits; /* [n_prompt] where flags & 1; owned */
    uint32_t n_logits;
    struct token_logprobs
        logprobs;    /* where sampling asks for them; may be one ahead of the tokens */
    bool fails;      /* its row `fails_at` cannot go on, as `error` says; tokens up to it are to come */
    uint32_t fails_at;
    uint32_t finish; /* as in DONE */
    char error[301];
    int64_t arrived_ms, first_ms, last_ms, done_ms, asked_ms;
    bool asking; /* an ASK waits for news */
    int64_t ask_ms;
    uint32_t ask_from, ask_text;
};

/* What a slot's KV rows were made of, on every stage of the plan in force, while nobody has it; or, of
 * one that has broken, where they can still be had. */
struct slot_rows {
    int32_t *ids; /* [n] of the rows from position 0 on; owned */
    uint32_t n;
    uint64_t left; /* counts the requests that have left slots; 0: never used under this plan */
};

/* KV rows on their way to the plan that is ready (core_move.c). `round` counts from 1, 0: none yet;
 * rows [0, held) of a slot are with all its workers, those up to `end` will be. */
struct move_lists {
    struct base_buf names;
    uint8_t numbers[4][PART_DEVICES_MAX * sizeof(uint32_t)];
};
enum move_state {
    MOVE_ROUNDS, /* before the first round, and in all but the last */
    MOVE_WAITS,  /* for tokens, with which the last round begins */
    MOVE_LAST
};
struct move {
    enum move_state state;
    bool saves;      /* the round takes what is left of a plan that has broken */
    int64_t wait_ms; /* since when it waits */
    uint32_t round, held[MODEL_SLOTS_MAX], end[MODEL_SLOTS_MAX];
    uint64_t bytes; /* that workers took from each other */
    int64_t begun_ms;
    uint8_t lists[3][MODEL_SLOTS_MAX * sizeof(uint32_t)]; /* of the round: slots, first, end */
    struct move_lists of[NET_WORKERS_MAX];
};

/* What a worker has of another's KV rows, for the case that the other is lost (core_checkpoint.c). */
struct copy {
    bool on, begun;                      /* it has been told to begin */
    uint32_t owner, stage, head0, head1; /* whose; all layers of the stage; KV heads */
    uint32_t rows[MODEL_SLOTS_MAX];      /* of each slot, from position 0 on */
    uint32_t round, slot, end;           /* rows that are on their way; round 0: none */
    int64_t begun_ms, due_ms;            /* when that round began, and when the next one may */
    int64_t later_ms;                    /* it is to keep nothing before */
};
struct checkpoint {
    /* The plan that the copies and the rows that slots remember are of: the one in force, or, since it
     * broke, the one before it; 0: there are no rows. */
    uint64_t epoch;
    uint32_t gone;  /* workers that it has lost, as bits */
    uint32_t round; /* counts CHECKPOINTs */
    uint32_t alone; /* workers that nobody has room for, as bits */
    int64_t choose_ms;
    struct copy of[NET_WORKERS_MAX]; /* by who keeps it */
};

struct coord_core {
    struct net_config config;
    struct coord_model model;
    uint64_t incarnation;
    uint32_t bulk_port, count; /* count: plans of this incarnation */
    int64_t now_ms, started_ms, joined_ms;

    struct node nodes[NET_WORKERS_MAX];
    struct coord_profile profile;
    bool link_tried[NET_WORKERS_MAX]
                   [NET_WORKERS_MAX + 1]; /* [from][to]; the last column is the coordinator */
    struct task task;
    int64_t again_ms;    /* when a link was last measured again, or a plan began */
    uint32_t again_next; /* the next pair, counted through [from][to] */
    /* How the policy finds workers beside their profile: so many times slower, and their share of the
     * time; 0: as measured. */
    double slower[NET_WORKERS_MAX], share[NET_WORKERS_MAX];
    int64_t policy_ms;   /* when it last asked for a plan */
    bool plan_by_policy; /* the plan that is wanted is its */
    double allowance;    /* bytes of `move-budget` that were left at price_ms; there 0: never */
    int64_t price_ms;
    char stays[300]; /* why the last better plan was left; empty: the last was not better */
    /* As the planner last had them. */
    double planned_rtt[NET_WORKERS_MAX][NET_WORKERS_MAX],
        planned_rate[NET_WORKERS_MAX][NET_WORKERS_MAX];

    enum plan_state plan_state;
    bool plan_wanted, plan_forced; /* forced: even where the stages are the same */
    int64_t plan_at_ms;            /* not before */
    uint64_t serial;
    uint32_t planned_present;   /* workers that the planner was last asked about */
    struct ring_plan now, next; /* in force; being prepared */
    struct move move;
    struct checkpoint checkpoint;
    struct forecasts forecasts;
    int64_t prepare_heard_ms, stalled_ms, no_plan_since_ms;
    char waits[300]; /* what the cluster waits for, where no plan is in force */
    bool hopeless;   /* all workers are there, and no plan is feasible */

    struct request requests[COORD_REQUESTS_MAX];
    uint32_t n_requests; /* those from here on are free */
    uint64_t order, number;
    uint32_t
        waiting_most; /* requests that may wait: the queue, and whoever a slot was taken from */
    struct base_buf journal; /* records of this step */
    uint32_t n_reading; /* prompts with the shell */
    uint64_t reading_bytes;
    uint64_t slot_request[MODEL_SLOTS_MAX]; /* index + 1 of the request in each slot; 0: free */
    struct slot_rows slot_rows[MODEL_SLOTS_MAX];
    uint64_t left;
    double token_ms; /* recent mean time between tokens while one request runs alone */
    uint32_t pace[WATCH_SAMPLES]; /* tokens of the last seconds, at second % WATCH_SAMPLES */
    int64_t pace_second;

    /* Lists of the plan being sent: the ring, then each stage's team; team ports, then the borders of
     * heads, columns and runs, a stage each. */
    struct base_buf names;
    uint8_t numbers[PART_DEVICES_MAX][4][(PART_DEVICES_MAX + 1) * sizeof(uint32_t)];
    /* Lists of an answer to ASK_STATUS. */
    double histories[NET_WORKERS_MAX][3][WATCH_SAMPLES], pace_history[WATCH_SAMPLES - 1];
};

/* core.c */
struct coord_action *coord_core_act(struct coord_actions *out, enum coord_action_type type);
void coord_core_log(struct coord_actions *out, bool warn, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void coord_core_node_lost(struct coord_core *c, uint32_t node, const char *why,
                          struct coord_actions *out);
void coord_core_node_error(struct coord_core *c, uint32_t node, const char *why);

/* core_measure.c */
void coord_core_measure(struct coord_core *c,
                        struct coord_actions *out);      /* begin the next task where none runs */
/* Numbers that a plan should not be made without are on their way. */
bool coord_core_measures_for_plan(const struct coord_core *c);
void coord_core_measured_for_plan(struct coord_core *c); /* the planner is given today's numbers */
void coord_core_profiled(struct coord_core *c, uint32_t node, const struct net_msg_PROFILED *m,
                         struct coord_actions *out);
void coord_core_link_tested(struct coord_core *c, uint32_t node,
                            const struct net_msg_LINK_TESTED *m, struct coord_actions *out);
void coord_core_task_drop(struct coord_core *c, uint32_t node); /* node is gone */
void coord_core_task_time(struct coord_core *c, struct coord_actions *out);
void coord_core_profile_forget(struct coord_core *c, uint32_t node);
bool coord_core_is_profiled(const struct coord_core *c, uint32_t node); /* just now */

/* core_plan.c */
void coord_core_want_plan(struct coord_core *c, int64_t delay_ms, bool forced);
void coord_core_plan_pump(struct coord_core *c, struct coord_actions *out);
/* Tokens have come. */
void coord_core_plan_tokens(struct coord_core *c, struct coord_actions *out);
void coord_core_planned(struct coord_core *c, const struct coord_event *ev,
                        struct coord_actions *out);
void coord_core_prepared(struct coord_core *c, uint32_t node, const struct net_msg_PREPARED *m,
                         struct coord_actions *out);
void coord_core_plan_node_lost(struct coord_core *c, uint32_t node, const char *why,
                               struct coord_actions *out);
void coord_core_ring_broken(struct coord_core *c, const char *why, struct coord_actions *out);
/* Answer DRAIN. */
void coord_core_drain(struct coord_core *c, uint64_t client, const struct net_msg_DRAIN *m,
                      struct coord_actions *out);
bool coord_core_in_plan(const struct ring_plan *p, uint32_t node);
uint32_t coord_core_chunk_max(const struct net_config *c);
/* Rows of a pass at most: a decode row of every slot and a chunk of prompts, as far as the executor
 * takes them. */
uint32_t coord_core_rows_max(const struct net_config *c, uint32_t chunk);

/* core_policy.c */
/* After a report of the worker: is another plan wanted? */
void coord_core_policy(struct coord_core *c, uint32_t node, struct coord_actions *out);
/* Bytes that a worker can have before long: what is free, and what it has itself. Its weights are
 * mapped files, which count as free already. False: not known. */
bool coord_core_usable(const struct coord_core *c, uint32_t node, double *bytes);
void coord_core_policy_forget(struct coord_core *c, uint32_t node); /* it was measured anew */

/* core_price.c */
/* Is the planner's plan better than the last one, by so much that it is worth a thought? */
bool coord_core_is_better(const struct coord_core *c, const struct coord_event *ev);
/* Is such a plan worth the move from the plan in force? Pays for it where it is, and logs why where
 * it is not. */
bool coord_core_worth_moving(struct coord_core *c, const struct coord_event *ev,
                             struct coord_actions *out);

/* core_forecast.c */
void coord_core_forecast_pump(struct coord_core *c, struct coord_actions *out);
/* The planner's answer, where it is one to such a question; false: it is not. */
bool coord_core_forecasted(struct coord_core *c, const struct coord_event *ev,
                           struct coord_actions *out);
/* As the planner would answer for these workers; borrowed until the next step. False: not known. */
bool coord_core_forecast_for(const struct coord_core *c, uint32_t present, struct coord_event *ev);
void coord_core_forecast_forget(struct coord_core *c);

/* core_move.c */
/* All workers of `next` are ready with what they were asked for: ask them for KV rows that they
 * lack, or wait for the moment to. False: put the plan in force. */
bool coord_core_move_round(struct coord_core *c, struct coord_actions *out);
/* In each step; `tokens`: some have just come. Begins the last round when it is time. False: put the
 * plan in force. */
bool coord_core_move_last(struct coord_core *c, bool tokens, struct coord_actions *out);
/* A round for what is left of a plan that has broken is under way, and worth waiting for. */
bool coord_core_move_saves(const struct coord_core *c);
/* The plan in force breaks: rows of each slot that a request can go on behind. */
void coord_core_rows_left(struct coord_core *c, uint32_t rows[static MODEL_SLOTS_MAX]);
/* It has broken, and now another worker that it had is gone, too. */
void coord_core_rows_fewer(struct coord_core *c);
/* Rows that are there for the request in the slot, or that a free slot remembers. */
uint32_t coord_core_rows_there(const struct coord_core *c, uint32_t slot);
/* KV heads that a member's query heads read; head0 == head1: none. */
void coord_core_kv_heads(const struct coord_core *c, const struct part_member *m, uint32_t *head0,
                         uint32_t *head1);
void coord_core_move_reset(struct coord_core *c);
void coord_core_move_free(struct coord_core *c);
/* No request may have this slot now. */
bool coord_core_slot_moves(const struct coord_core *c, uint32_t slot);
/* KV rows that are known to be there, as a share of what all slots can hold. */
double coord_core_kv_filled(const struct coord_core *c);

/* core_checkpoint.c */
void coord_core_checkpoint_pump(struct coord_core *c, struct coord_actions *out);
void coord_core_checkpointed(struct coord_core *c, uint32_t node, const struct net_msg_CHECKPOINTED *m,
                             struct coord_actions *out);
/* Another plan is in force, of which there is no copy yet. */
void coord_core_checkpoint_begin(struct coord_core *c);
/* Rows that are on their way to copies do not arrive. */
void coord_core_checkpoint_stop(struct coord_core *c);
/* Rows of the slot are read for a copy: no pass may write them. */
bool coord_core_slot_copied(const struct coord_core *c, uint32_t slot);
/* The slot is opened behind `first`: copies of what was there from then on are worth nothing. */
void coord_core_checkpoint_cut(struct coord_core *c, uint32_t slot, uint32_t first);
/* Has the worker a copy of the stage's KV head? */
bool coord_core_has_copy(const struct coord_core *c, uint32_t node, uint32_t stage, uint32_t head);
/* The copy of the worker's rows; NULL: there is none. */
const struct copy *coord_core_copy_of(const struct coord_core *c, uint32_t owner);

/* core_request.c */
void coord_core_client(struct coord_core *c, const struct coord_event *ev,
                       struct coord_actions *out);
void coord_core_read(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out);
/* Requests that wait for a slot, or to be read before that. */
uint32_t coord_core_n_queued(const struct coord_core *c);
void coord_core_client_down(struct coord_core *c, uint64_t client, struct coord_actions *out);
void coord_core_tokens(struct coord_core *c, const struct net_msg_TOKENS *m,
                       struct coord_actions *out);
void coord_core_logits(struct coord_core *c, const struct net_msg_LOGITS *m,
                       struct coord_actions *out);
void coord_core_logprobs(struct coord_core *c, const struct net_msg_LOGPROBS *m);
void coord_core_failed(struct coord_core *c, const struct net_msg_FAILED *m,
                       struct coord_actions *out);
void coord_core_fail_waiting(struct coord_core *c, const char *why, struct coord_actions *out);
void coord_core_request_time(struct coord_core *c, struct coord_actions *out);
void coord_core_requests_free(struct coord_core *c);
int64_t coord_core_request_deadline(const struct coord_core *c);
void coord_core_no(uint64_t client, const uint8_t *id, int code, struct coord_actions *out,
                   const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* What SUBMIT, and what later a read prompt say of a request; codes of NO. */
int coord_core_check_sampling(const struct coord_core *c, const struct net_msg_SUBMIT *m,
                              struct err *e);
struct request *coord_core_request_new(struct coord_core *c);
int coord_core_request_fill(struct coord_core *c, struct request *r, const struct net_msg_SUBMIT *m,
                            struct err *e);
int coord_core_request_tokens(struct coord_core *c, struct request *r, struct net_list ids,
                              struct err *e);
void coord_core_request_read(struct coord_core *c, const struct net_msg_SUBMIT *m, uint64_t order,
                             struct coord_actions *out);
void coord_core_request_free(struct request *r);
enum request_finish { FINISH_STOP, FINISH_LENGTH, FINISH_ERROR, FINISH_NOT };
/* One more token of the answer, and whether it is the last. */
enum request_finish coord_core_request_token(struct coord_core *c, struct request *r,
                                             int32_t token);
void coord_core_request_finish(struct coord_core *c, struct request *r, enum request_finish how,
                               const char *why, struct coord_actions *out);

/* core_kept.c */
void coord_core_kept(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out);

/* core_slot.c */
/* The request leaves its slot; the slot remembers the rows that are there. */
void coord_core_slot_leave(struct coord_core *c, struct request *r, struct coord_actions *out);
/* The ring is gone: active requests wait again, with their tokens. KV rows are gone with it, but for so
 * many of each slot, which the slots remember. */
void coord_core_requeue(struct coord_core *c, const uint32_t rows[static MODEL_SLOTS_MAX]);
/* What a free slot remembers is no more than so many rows. */
void coord_core_slot_less(struct coord_core *c, uint32_t slot, uint32_t rows);
/* Slots to those who wait. */
void coord_core_dispatch(struct coord_core *c, struct coord_actions *out);
void coord_core_slots_free(struct coord_core *c);
const char *coord_core_slot_invariant(const struct coord_core *c);

/* core_watch.c */
void coord_core_report(struct coord_core *c, uint32_t node, const struct net_msg_REPORT *m);
void coord_core_watch_forget(struct coord_core *c, uint32_t node); /* a new life begins */
/* The newest report; NULL: there is none, or it is older than three intervals. */
const struct watch_sample *coord_core_watched(const struct coord_core *c, uint32_t node);
/* Bytes that the worker can have, those that are free and its own, and bytes a second by which they
 * have changed in the last 10 s (below 0: others take them; 0 also where there are too few reports).
 * False: not known. */
bool coord_core_memory(const struct coord_core *c, uint32_t node, double *bytes, double *slope);
/* Time of the stage's passes of decoding against the plan's prediction for as many rows, mean over the
 * last 10 s: 2 is twice as slow. Of a team the leader's, which waits for the others. 0 where nothing
 * was measured under the plan in force; *passes is how many it is the mean of. */
double coord_core_slowness(const struct coord_core *c, uint32_t node, double *passes);
/* The worker's busy shares, free bytes and milliseconds a pass of decoding, oldest first, for the
 * wire; returns how many. */
uint32_t coord_core_history(const struct coord_core *c, uint32_t node,
                            double lists[static 3][WATCH_SAMPLES]);
void coord_core_pace_count(struct coord_core *c); /* a token was generated */
/* Tokens a second, mean of the last 5 s, and of each second before this one, oldest first. */
double coord_core_pace(struct coord_core *c, double history[static WATCH_SAMPLES - 1]);

/* core_status.c */
void coord_core_status(struct coord_core *c, uint64_t client, struct coord_actions *out);

/* ---- planning inputs (planning.c) ------------------------------------------------------------- */

/* The placement problem for the nodes in `present`; device_node[PART_DEVICES_MAX] are its devices'.
 * `batch`: through which of the larger batches a device's lines go. */
void coord_problem_build(const struct net_config *c, const struct coord_blocks *b,
                         const struct coord_profile *p, uint32_t present, uint32_t batch,
                         struct part_problem *out, uint32_t *device_node);
/* Tokens a second with all slots in use, in as many groups of rows. */
double coord_batch_rate(const struct part_problem *problem, const struct part_plan *plan,
                        uint32_t *groups);

#endif
