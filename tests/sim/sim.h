/* The simulator: one coordinator core and some worker cores in one process, under virtual time.
 *
 * A world is drawn from a seed (world.c) or written down by a scenario, and then runs by itself:
 * events fire in the order of time, node, kind and sequence (sim.c); messages travel encoded over
 * links with latencies and lives (link.c); workers compute a hash in place of layers (worker.c,
 * stub.c); the coordinator plans with a stub (coordinator.c); clients ask, cancel, leave and come
 * back, and compare what they get with the reference (client.c); boards and links break and heal
 * (fault.c). Whatever goes against a promise ends the run with a sentence. */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include "coordinator/coordinator.h"
#include "worker/worker.h"

enum {
    SIM_WORKERS_MAX = 5,
    SIM_REQUESTS_MAX = 12,
    SIM_LAYERS_MAX = 12,
    SIM_SLOTS_MAX = 6,
    SIM_CONTEXT_MAX = 96,
    SIM_PROMPT_MAX = SIM_CONTEXT_MAX + 8,
    SIM_FAULTS_MAX = 6,
    SIM_REREADS_MAX = 5,
    SIM_STOPS_MAX = 2,
    SIM_VOCAB = 61,
    SIM_ENDS_MAX = 2,     /* tokens 0 and 1 may end a text */
    SIM_EMBD = 2,         /* floats of a hidden state: together they carry one 64-bit hash */
    SIM_UNITS = 4,        /* head units, and as many feed-forward units, of a layer */
    SIM_RUNS = 2,         /* of the output matrix */
    SIM_LAYER_PIECES = 3, /* what all members hold, heads, columns */
    SIM_PIECES_MAX = SIM_LAYERS_MAX * SIM_LAYER_PIECES + 2,
    SIM_PIECE_BYTES = 1000,
    SIM_KV_ROW_BYTES = 256, /* of one KV head; the first eight say something */
    SIM_NUMERICS =
        0x5eed,         /* hash of the kernels' bits, the same everywhere but on a foreign worker */
    SIM_PLANS_MAX = 64, /* plans remembered: the newest ones */
    SIM_ERROR_MAX = 400
};

/* ---- what a world is made of ----------------------------------------------------------------- */

#define SIM_PROMPT "drawn by the world" /* as SUBMIT has it; the tokens are the setup's */

enum sim_way { SIM_READS, SIM_CANCELS, SIM_LEAVES, SIM_IS_CUT };

struct sim_request {
    int64_t at_us, think_us; /* arrival; pause between an answer and the next question */
    enum sim_way way;
    int64_t way_us,
        back_us;     /* when, after arrival; how long a client that was cut off stays away */
    bool unreadable; /* its prompt cannot be made into tokens */
    uint32_t flags, n_prompt, n;
    int32_t prompt[SIM_PROMPT_MAX];
    struct model_sampling
        sampling; /* its seed is the request's own: the simulator knows a request by it */
    uint32_t n_stops;
    char stops[SIM_STOPS_MAX][8];
};

enum sim_fault_kind {
    SIM_KILL,      /* the process ends; it is started again */
    SIM_POWER_OFF, /* the same without a farewell: others notice by silence */
    SIM_FREEZE,    /* the whole process stands still, and goes on with what it had in mind */
    SIM_HANG,      /* passes do not end, heartbeats go on */
    SIM_SLOW,      /* passes take twenty times as long */
    SIM_LINK,      /* the ring connection of node to peer breaks */
    SIM_CONTROL,   /* the control connection breaks */
    SIM_RESTART,   /* the coordinator ends; it is started again */
    SIM_PARTITION, /* nothing passes between `side` and the others, or from it only */
    SIM_N_FAULTS
};

#define SIM_FOREVER INT64_MAX

/* A fault comes at a time, or so long after the nth message of a code was sent anywhere. */
struct sim_fault {
    enum sim_fault_kind kind;
    enum net_code on; /* 0: at_us is from the beginning on */
    uint32_t nth;
    int64_t at_us, for_us;
    uint32_t node, peer;
    bool quiet; /* LINK, CONTROL: noticed late; PARTITION: what is sent comes when it heals */
    uint32_t side; /* PARTITION: bits of the nodes cut off, bit 0 the coordinator */
    bool one_way;  /* PARTITION: the others are still heard */
};

struct sim_setup {
    uint64_t seed;
    uint32_t n_workers, n_layers, n_ends, slots, context, chunk, rows_max, queue;
    uint32_t heartbeat_ms, dead_ms;
    int64_t latency_us, jitter_us;        /* of a link at most; of a message at most */
    int64_t pass_us, row_us;              /* of a pass; of a row and layer */
    int64_t piece_us, plan_us, read_us;   /* shipping a piece; planner and tokenizer, at most */
    uint32_t layers_max[SIM_WORKERS_MAX]; /* layers that fit on a worker */
    int64_t start_us[SIM_WORKERS_MAX];    /* < 0: never comes */
    bool foreign[SIM_WORKERS_MAX];        /* its kernels give other bits */
    bool use_all, throughput;
    bool tears;    /* a coordinator that ends may not have written the last of its journal */
    bool in_order; /* plans take all workers in order with even shares; otherwise they are drawn */
    bool teams;    /* plans may have stages of several workers */
    bool ahead;            /* plans for the loss of a worker are made beforehand */
    uint32_t checkpoint;   /* KV rows are copied to others every so many positions; 0: never */
    uint32_t remeasure_ms; /* links are measured again so often, and differ; 0: never */
    uint32_t output_first_in; /* the output is on the first stage once in so many plans; 0: never */
    bool trouble;          /* now and then profiling or loading fails */
    uint32_t bad_one_in;   /* a value goes out of range once in so many rows and layers; 0: never */
    int64_t grow_us;       /* > 0: the last worker is not in the configuration before that */
    uint32_t
        n_rereads; /* the configuration is read again, which asks for a plan while one may serve */
    int64_t reread_us[SIM_REREADS_MAX];
    uint32_t n_requests, n_faults;
    struct sim_request requests[SIM_REQUESTS_MAX];
    struct sim_fault faults[SIM_FAULTS_MAX];
};

/* world.c: a world from a seed; a calm one to build scenarios on. */
void sim_setup_draw(struct sim_setup *w, uint64_t seed);
void sim_setup_calm(struct sim_setup *w, uint32_t n_workers, uint32_t n_requests);

/* ---- the model's stand-in (stub.c) ----------------------------------------------------------- */

struct sim_summary {
    double mean, rms, values[MODEL_BEST];
    int32_t ids[MODEL_BEST];
    uint8_t hash[16];
};

/* What a request must give, computed straight through. */
struct sim_reference {
    uint32_t n_tokens, n_logits, finish; /* finish as in DONE */
    bool bad;                            /* a value goes out of range */
    int32_t tokens[SIM_CONTEXT_MAX];
    struct sim_summary logits[SIM_CONTEXT_MAX];
    struct model_logprobs logprobs[SIM_CONTEXT_MAX];
    size_t n_text,
        n_raw; /* up to the stop string; of all tokens, as one that fails on the way may show it */
    uint8_t text[SIM_CONTEXT_MAX * 4];
};

uint64_t sim_stub_embed(int32_t token);
uint64_t sim_stub_row(uint32_t layer, uint32_t position, uint64_t hidden); /* the KV row */
uint64_t sim_stub_layer(uint32_t layer, uint32_t position, uint64_t hidden,
                        const uint64_t *kv); /* kv[0..position] */
bool sim_stub_bad(uint32_t one_in, uint64_t hidden);
int32_t sim_stub_token(uint64_t hidden, const struct model_sampling *m, uint32_t position,
                       const int32_t *recent, uint32_t n_recent);
/* Where the sampling asks for them. */
void sim_stub_logprobs(uint64_t hidden, const struct model_sampling *m, int32_t token,
                       struct model_logprobs *out);
void sim_stub_summary(uint64_t hidden, struct sim_summary *out);
struct span sim_stub_text(void *arg, int32_t token);
uint32_t sim_stub_n_pieces(void *arg, const struct coord_shard *s); /* arg: the setup */
/* Numbers of a shard's pieces; returns how many. */
uint32_t sim_stub_pieces(const struct sim_setup *w, const struct coord_shard *s,
                         uint32_t out[SIM_PIECES_MAX]);
/* What PLAN gives a worker to hold. */
struct coord_shard sim_stub_shard(const struct net_msg_PLAN *m);
void sim_stub_reference(const struct sim_setup *w, const struct sim_request *r,
                        struct sim_reference *out);

/* ---- events ---------------------------------------------------------------------------------- */

/* Nodes: the coordinator, then workers, then clients, then the world itself. */
enum { SIM_COORDINATOR = 0, SIM_WORKER0 = 1, SIM_CLIENT0 = 32, SIM_WORLD = 64 };

/* Kinds break ties; what is on one link has one kind, so that its order stays. */
enum sim_kind { SIM_ON_CONTROL, SIM_ON_RING, SIM_ON_CLIENT, SIM_LOCAL };

enum sim_what {
    SIM_NODE_UP,
    SIM_NODE_DOWN,
    SIM_NODE_MSG, /* coordinator; peer: the worker */
    SIM_CLIENT_MSG,
    SIM_CLIENT_DOWN, /* coordinator; peer: the client */
    SIM_PLANNED,
    SIM_READ,
    SIM_COORD_TICK,
    SIM_CONFIG,
    SIM_STATUS,
    SIM_CONTROL_UP,
    SIM_CONTROL_DOWN,
    SIM_CONTROL_MSG, /* worker */
    SIM_RING_UP,
    SIM_RING_DOWN,
    SIM_RING_BROKEN,
    SIM_RING_MSG,    /* by the connection that the sender made */
    SIM_RING_ANSWER, /* by the one that the receiver made */
    SIM_READINGS,
    SIM_CARD,
    SIM_PROFILED,
    SIM_TESTED,
    SIM_PIECE,
    SIM_LOADED,
    SIM_TEAM,
    SIM_PASS,
    SIM_TICK,
    SIM_CONNECT_CONTROL,
    SIM_CONNECT_RING,
    SIM_ANSWER_MSG,
    SIM_CLIENT_CONNECT,
    SIM_CLIENT_ASK,
    SIM_CLIENT_WAY, /* client */
    SIM_START,
    SIM_FAULT,  /* world; peer: the worker; arg: the fault */
    SIM_SILENT, /* world: a link that a partition cuts through; peer and arg: its ends, arg the
                   coordinator for a control link */
};

struct sim_event {
    int64_t at_us;
    uint32_t node, peer;
    enum sim_kind kind;
    enum sim_what what;
    uint64_t seq, life, arg;
    bool arrived; /* was received by a process that stood still: is handled even if its link has
                     broken since */
    enum net_code code;
    uint8_t *bytes; /* of a message: owned */
    size_t n_bytes;
};

/* ---- state ----------------------------------------------------------------------------------- */

/* One direction of messages in order. */
struct sim_pipe {
    int64_t latency_us, last_us;
    int64_t cut_until_us; /* by a partition */
    bool held;            /* what is sent meanwhile comes then; otherwise never */
    uint64_t gap;         /* the life of which something was lost so */
};

/* A worker's connection to the coordinator, or a worker's ring connection to another. Lives count
 * from 1; 0 is none. */
struct sim_link {
    bool wanted, alive; /* somebody keeps making it; it carries messages */
    uint64_t life, near,
        far;              /* of the last one made; up as the maker knows, as the listener knows */
    int64_t cut_until_us; /* cannot be made before that */
    struct sim_pipe out, in;
};

/* What a loaded plan is on a worker. */
struct sim_engine {
    uint64_t epoch;
    uint32_t layer0, layer1, stage, chunk, max_rows, prompt_rows;
    bool last, lost;                            /* last stage; its ring has broken */
    bool output_first;
    uint32_t n_team, me, team[SIM_WORKERS_MAX]; /* workers of the stage, its leader first */
    uint32_t head0, head1;                      /* head units of this worker; a KV head each */
    uint64_t *kv; /* [layer1 - layer0, SIM_UNITS, slots, context]; only of its units not poison */
    uint64_t decode[SIM_SLOTS_MAX], *prompt;    /* hidden states that wait; prompt [prompt_rows] */
    uint64_t request[SIM_SLOTS_MAX];            /* whose rows the slot's KV are */
    uint32_t length[SIM_SLOTS_MAX];             /* how many */
    uint32_t back[SIM_SLOTS_MAX];               /* how many of them are back, where output is first */
    uint64_t kept, taken, dropped,
        sent; /* prompt rows received; taken up and dropped, as STARTED said; sent on */
};

/* A copy of another worker's KV rows, beside a plan in force. */
struct sim_copy {
    uint64_t epoch;
    uint32_t layer0, layer1, head0, head1;
    uint64_t *kv; /* as an engine's */
};

struct sim_worker {
    struct worker_core *core; /* NULL: no process */
    uint64_t process;         /* counts them */
    bool store[SIM_PIECES_MAX];
    int64_t frozen_until_us, hung_until_us, slow_until_us, well_since_us;
    struct sim_link control, ring[SIM_WORKERS_MAX];
    uint64_t tick_id;
    int64_t tick_us;
    /* loading */
    uint64_t prepare; /* counts the plans prepared: what belongs to an older one is stale */
    uint64_t next_epoch;
    struct coord_shard next_shard;
    uint32_t next_head0, next_head1;
    uint32_t next_layer0, next_layer1, next_stage, next_chunk, next_max_rows, n_pieces, n_manifest;
    uint32_t manifest[SIM_PIECES_MAX];
    bool next_last, next_output_first;
    uint32_t next_n_team, next_me, next_team[SIM_WORKERS_MAX];
    uint64_t done_bytes, total_bytes, fetched_bytes;
    struct sim_engine *engine, *next_engine;
    struct sim_copy *copy;
    bool kv_failed; /* rows or room that an action of this step named are not there */
    /* computing */
    struct worker_pass *pass;
    int64_t pass_us, pass_until_us, profile_until_us, test_until_us;
    uint64_t passes, busy_us;
    uint64_t hidden[MODEL_ROWS_MAX];
    struct sim_summary summary[MODEL_ROWS_MAX];
    uint32_t broken; /* 1 + peer to which a message could not be sent in this step */
    bool quit;
    uint64_t epoch_max;
};

struct sim_client {
    uint64_t connection; /* 0: none */
    struct sim_pipe out, in;
    uint64_t order;     /* of arrival at the coordinator of this process; 0: not there */
    bool live, in_slot; /* as the coordinator must see it */
    bool opened;        /* had a slot, now or before */
    bool cancelled, left, over, refused, failed; /* failed: for a reason that accounts for it */
    bool unwanted; /* it has its answer, and the coordinator does not know any more */
    uint32_t n_tokens, n_text, finish, replays, reused;
    int64_t first_us, over_us;
    char error[320];
    struct sim_reference reference;
};

/* A plan as PLAN messages told it: of the stages told so far their leaders, layers and how many of
 * their members are still to be told; of all workers bits. */
struct sim_plan {
    uint64_t epoch, hash; /* of who holds what */
    uint32_t n_stages, n_said, worker[SIM_WORKERS_MAX], layer0[SIM_WORKERS_MAX],
        layer1[SIM_WORKERS_MAX], n_untold, members, ready;
};

struct sim_open {
    uint64_t epoch, request;
    uint32_t start;
};

struct sim {
    struct sim_setup setup;
    struct net_config config;
    uint64_t rng, seq, lives, trace_hash, n_fired;
    int64_t now_us, heal_us;
    uint32_t seen[SIM_FAULTS_MAX]; /* messages that a fault counts */
    uint32_t n_faults[SIM_N_FAULTS]; /* that came */

    struct sim_event *heap;
    uint32_t n_heap, heap_cap;

    struct coord_core *coord; /* NULL: no process */
    struct coord_actions *coord_actions;
    struct base_buf journal; /* outlives the coordinator's process */
    bool torn;               /* its end was lost, once */
    uint64_t coord_process, order, tick_id;
    uint64_t epoch, epoch_before, epoch_max,
        plan_epoch;     /* in force; before this step; ever; of the newest plan told */
    int64_t read_us;    /* when the last prompt will have been read */
    uint32_t n_reading; /* prompts until then */
    int64_t tick_us, commit_us, no_plan_since_us,
        idle_since_us; /* no plan; no plan though there could be one */
    uint32_t n_commits;
    bool could_plan;        /* there is none, though there are workers enough */
    bool no_plan, hopeless; /* the planner found none last time; though asked about everybody */
    struct sim_plan plans[SIM_PLANS_MAX];
    struct part_plan answer; /* the planner's last */
    uint32_t
        slot_owner[SIM_SLOTS_MAX]; /* 1 + client of the request that was opened and not closed */
    struct sim_open opened[SIM_SLOTS_MAX]; /* last in the slot */
    uint64_t n_reused;                     /* rows that requests were opened behind */
    uint64_t n_moved; /* KV rows of a layer that a worker took from another */
    uint64_t n_copied; /* those of them that went into copies */
    uint64_t n_saved;  /* rows that requests went on behind when their plan had broken */
    bool mends;        /* the plan in force follows one that broke */

    struct worker_actions *actions;
    struct sim_worker workers[SIM_WORKERS_MAX];
    struct sim_client clients[SIM_REQUESTS_MAX];

    bool text, print; /* keep the trace as text; print it, too */
    struct base_buf trace;
    char failed[SIM_ERROR_MAX]; /* "" or the first promise broken */
};

/* sim.c */
enum { SIM_TEXT = 1, SIM_PRINT = 2 };
struct sim *sim_new(const struct sim_setup *w, unsigned how);
void sim_free(struct sim *s);
bool sim_run(struct sim *s); /* until all is over; false: s->failed says why */
uint64_t sim_draw(struct sim *s, uint64_t below);
int64_t sim_between(struct sim *s, int64_t low, int64_t high);
void sim_push(struct sim *s, struct sim_event ev, int64_t delay_us);
void sim_push_msg(struct sim *s, struct sim_event ev, struct sim_pipe *pipe,
                  const struct net_msg *m);
void sim_push_in_order(struct sim *s, struct sim_event ev, struct sim_pipe *pipe);
void sim_mark(struct sim *s, uint64_t x);
void sim_say(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sim_fail(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *sim_name(const struct sim *s, uint32_t node);

/* link.c */
void sim_link_event(struct sim *s, const struct sim_event *ev); /* CONNECT_CONTROL, CONNECT_RING */
void sim_control_want(struct sim *s, uint32_t w, int64_t delay_us);
void sim_control_end(struct sim *s, uint32_t w, int64_t near_us,
                     int64_t far_us); /* when both notice; < 0: never */
bool sim_control_up(struct sim *s, uint32_t w, const struct net_msg *m); /* worker to coordinator */
bool sim_control_down(struct sim *s, uint32_t w, const struct net_msg *m);
void sim_ring_want(struct sim *s, uint32_t from, uint32_t to);
void sim_ring_end(struct sim *s, uint32_t from, uint32_t to, int64_t near_us, int64_t far_us);
bool sim_ring_send(struct sim *s, uint32_t from, uint32_t to, const struct net_msg *m);
/* By the connection that `to` made; dropped where it is not there any more. */
void sim_ring_answer(struct sim *s, uint32_t from, uint32_t to, const struct net_msg *m);
bool sim_client_send(struct sim *s, uint32_t client, const struct net_msg *m);
bool sim_client_answer(struct sim *s, uint64_t connection, const struct net_msg *m);
bool sim_link_delivers(const struct sim *s, const struct sim_event *ev);
bool sim_link_hears(const struct sim *s, uint32_t w); /* control messages reach the worker */
void sim_link_cut(struct sim *s, uint32_t from, uint32_t to, bool there, bool back, bool held,
                  int64_t until_us); /* by workers' numbers; to SIM_WORKERS_MAX: the coordinator */

/* worker.c */
void sim_worker_event(struct sim *s, const struct sim_event *ev);
void sim_worker_start(struct sim *s, uint32_t w);
void sim_worker_stop(struct sim *s, uint32_t w);
void sim_worker_check(struct sim *s, uint32_t w, bool idle);
void sim_engine_free(struct sim_engine *e);
/* compute.c */
struct sim_engine *sim_engine_new(struct sim *s, uint32_t w);
void sim_compute_keep(struct sim *s, uint32_t w, const struct worker_action *a,
                      const struct net_msg_ROWS *m);
void sim_compute_pass(struct sim *s, uint32_t w, struct worker_pass *p);
/* KV rows that move: from the plan in force to the one that is ready; from a message to the latter;
 * into an answer. */
void sim_compute_kv_room(struct sim *s, uint32_t w, const struct worker_action *a);
void sim_copy_free(struct sim_copy *k);
void sim_compute_kv_copy(struct sim *s, uint32_t w, const struct worker_action *a);
void sim_compute_kv_write(struct sim *s, uint32_t w, const struct worker_action *a,
                          const struct net_msg_KV_ROWS *m);
void sim_compute_kv_send(struct sim *s, uint32_t w, const struct worker_action *a,
                         const struct net_msg_KV_ASK *m);
/* The member of the pass's team that cannot take part just now; SIM_WORKERS_MAX: all do. */
uint32_t sim_compute_absent(const struct sim *s, uint32_t w);
void sim_compute_send_rows(struct sim *s, uint32_t w, const struct worker_action *a);
void sim_compute_logits(struct sim *s, uint32_t w, const struct worker_action *a);

/* coordinator.c */
void sim_coord_event(struct sim *s, const struct sim_event *ev);
void sim_coord_start(struct sim *s);
void sim_coord_stop(struct sim *s);
void sim_coord_check_end(struct sim *s);
/* planner.c */
void sim_planner_answer(struct sim *s, const struct sim_event *ev, struct coord_event *out,
                        struct part_plan *plan, double stage_s[PART_DEVICES_MAX]);

/* client.c */
void sim_client_event(struct sim *s, const struct sim_event *ev);
void sim_client_cut(struct sim *s, uint32_t client, int64_t notice_us);
void sim_client_accepted(struct sim *s, const uint8_t *id);
void sim_client_failed(struct sim *s, uint32_t client, const char *error);

/* fault.c */
uint32_t sim_well_room(const struct sim *s,
                       int64_t for_us); /* layers that fit on workers well for so long */
void sim_fault_watch(struct sim *s, enum net_code code); /* a message is sent */
void sim_fault_begin(struct sim *s, const struct sim_fault *f);
const char *sim_fault_name(enum sim_fault_kind kind);

#endif
