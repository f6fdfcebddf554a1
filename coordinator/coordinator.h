/* The coordinator: a pure core that decides (meeting, profiling, plans, requests, recovery),
 * planning inputs that `shoal plan` shares, and a thin shell that polls, plans, ships and sends.
 * The core takes one event and fills a list of actions; it reads no clock, socket, file or entropy,
 * so that tests/sim runs it under virtual time. */
#ifndef COORDINATOR_COORDINATOR_H
#define COORDINATOR_COORDINATOR_H

#include "common/common.h"
#include "model/model.h"
#include "net/net.h"
#include "partition/partition.h"

enum {
    COORD_REQUESTS_MAX = 1024, /* queued, active and finished ones that may still be read */
    COORD_STOPS_MAX = 16,
    COORD_READING_MAX = 256, /* prompts that are being made into tokens, cancelled ones included */
    COORD_READING_BYTES_MAX = 67108864, /* of them all */
    COORD_ACTIONS_MAX = 2048,
    COORD_CLIENT_DEAD_MS = 5000, /* a client that has not asked for so long is gone */
    COORD_WAITING_MS = 1000,     /* an ASK that finds nothing is answered WAITING after so long */
    COORD_KEEP_DONE_MS = 30000,  /* a finished request may be asked for again for so long */
    COORD_KEPT_MS = 30000 /* a client has so long to come back to a coordinator that restarted */
};
_Static_assert(COORD_KEPT_MS >= COORD_CLIENT_DEAD_MS, "a restart costs a client no patience");

/* ---- measurements ---------------------------------------------------------------------------- */

/* What a worker said of itself, and the links. Seconds, bytes, bytes a second; NAN: not measured.
 */
enum { COORD_BATCHES = 3 }; /* one row; a row of each slot; a tile of one prompt */
struct coord_batch {
    double attention[MODEL_LAYERS_MAX], ffn[MODEL_LAYERS_MAX]; /* halves with all heads, columns */
    double attention_fixed, ffn_fixed; /* the part of a half that a smaller share does not shrink */
    double embed, output;              /* of all output runs */
};
/* What describes a board in the place of measurements: coordinator/profile_ini.c. 0: not given. */
struct coord_figures {
    double bandwidth, int8, half; /* bytes a second; operations a second; seconds */
    double rate, latency;         /* of its port, bytes a second; its part of a one-way time */
};
struct coord_node_profile {
    char name[NET_NAME_MAX];
    bool measured;
    struct coord_figures figures;
    uint32_t rows[COORD_BATCHES]; /* ascending from 1 */
    struct coord_batch batches[COORD_BATCHES];
    double sample, wake, codec, message, throttle, pass; /* as in PROFILED */
    uint64_t memory_bytes, base_bytes;
};
struct coord_profile {
    uint32_t n_nodes, n_layers;
    struct coord_node_profile nodes[NET_WORKERS_MAX];
    double rtt[NET_WORKERS_MAX][NET_WORKERS_MAX];  /* between workers' sockets, symmetric */
    double rate[NET_WORKERS_MAX][NET_WORKERS_MAX]; /* from row to column */
    double coord_rtt[NET_WORKERS_MAX], coord_up[NET_WORKERS_MAX], coord_down[NET_WORKERS_MAX];
};
/* The model's side of the placement problem: bytes of the parts that a layer can be cut into and of
 * the ends, as the executor will use them. Of units that are not all of one size, the largest. */
struct coord_layer {
    uint64_t common_bytes, head_bytes, kv_bytes, ff_bytes; /* weights; a unit's, a KV head's */
};
struct coord_blocks {
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    uint32_t unit_heads, n_head_units, unit_cols, n_ff_units, vocab_run, n_vocab_runs, slots;
    struct coord_layer layers[MODEL_LAYERS_MAX];
    uint64_t cache_bytes; /* of one KV head of a layer, all slots at the whole context */
    uint64_t embed_bytes, run_bytes, final_bytes;
    uint64_t shared_run_bytes;          /* of run_bytes, what a device that embeds has already */
    uint64_t scratch_bytes, team_bytes; /* at most; the latter in a team besides */
    double normed_bytes;                /* of a row as a star sends it, mean of a layer's halves */
};
/* Profiles as ini files (coordinator/profile_ini.c). Boards that are described by figures have no
 * times before coord_profile_complete, which computes those of the model's blocks. ERR_IO,
 * ERR_FORMAT, ERR_RANGE. */
int coord_profile_read(const char *path, struct coord_profile *out, struct err *e);
void coord_profile_complete(struct coord_profile *p, const struct coord_blocks *b);
int coord_profile_write(const char *path, const struct coord_profile *p, struct err *e);
void coord_blocks_of(const struct model *m, const struct net_config *c, struct coord_blocks *out);
/* Columns of feed-forward units [unit0, unit1), the last of which may be short; or, in the same way,
 * rows of output runs. */
uint32_t coord_columns(uint32_t n_ff, uint32_t unit_cols, uint32_t unit0, uint32_t unit1);
/* Positions of a slot: as configured, otherwise the model's own, at most 4096. */
uint32_t coord_context(const struct net_config *c, const struct model *m);

/* What a move from one plan to another takes. */
struct coord_move_cost {
    double ship_bytes, ship_s; /* weights, at most: workers have those of the plan that they leave */
    double kv_bytes, kv_s;     /* KV rows of full caches */
};
/* Solve for the nodes in `present`: the plan and its left_out come back by node. Codes of
 * part_plan_solve; ERR_RANGE for a pin that this model has no heads for. `now`, the plan in force
 * or the last one that was, by node, or NULL, is costed beside it, and the solver begins with it.
 * `search_only`: as in the problem. */
struct coord_solution {
    struct part_plan plan;
    double stage_s[PART_DEVICES_MAX];        /* predicted seconds of a pass of one row */
    double stage_batch_s[PART_DEVICES_MAX];  /* the same, of a row of each slot */
    double batch_rate;                       /* predicted tokens a second with all slots in use */
    uint32_t chunk;                          /* prompt rows of a pass */
    uint32_t groups;                         /* into which all slots' rows are divided */
    double exchange_s[PART_DEVICES_MAX];     /* of stage_s: a team's exchanges, beside computing */
    double hop_s[PART_DEVICES_MAX];          /* from each stage to the next, or back to the first */
    uint64_t memory_bytes[PART_DEVICES_MAX]; /* by node, as the program charges it */
    uint64_t kv_bytes[PART_DEVICES_MAX], scratch_bytes[PART_DEVICES_MAX]; /* of memory_bytes */
    double now_latency_s, now_batch_rate;    /* of `now`; 0: none, or a node of it is not present */
    bool now_fits;                           /* it obeys every rule by today's numbers */
    struct coord_move_cost move;             /* from `now` to the plan; zeros where there is none */
};
int coord_solve(const struct net_config *c, const struct coord_blocks *b,
                const struct coord_profile *p, uint32_t present, const struct part_plan *now,
                bool search_only, struct coord_solution *out, struct err *e);
/* KV heads [*head0, *head1) that a member's query heads read, where `share` of these read one KV head and
 * `width` are one head unit; *head0 == *head1: none. */
void coord_kv_heads(uint32_t share, uint32_t width, const struct part_member *m, uint32_t *head0,
                    uint32_t *head1);
/* What it takes to go from one plan to another, both by node (coordinator/move_cost.c). */
void coord_move_cost(const struct coord_blocks *b, const struct coord_profile *p,
                     const struct part_plan *from, const struct part_plan *to,
                     struct coord_move_cost *out);

/* Sentences on what is behind a solution (coordinator/explain.c): each rule that binds it, and what
 * one more board of each kind would bring. Solves anew for each question, all within limit_s, and
 * says what no answer was found to in time. ERR_NOMEM. */
enum { COORD_REASONS_MAX = 24, COORD_REASON_MAX = 320 };
struct coord_reasons {
    uint32_t n;
    char text[COORD_REASONS_MAX][COORD_REASON_MAX];
};
int coord_explain(const struct net_config *c, const struct coord_blocks *b,
                  const struct coord_profile *p, uint32_t present, const struct coord_solution *s,
                  double limit_s, struct coord_reasons *out, struct err *e);

/* A type for each layer of a model that is not quantised yet, so that the cluster is as quick as it can
 * be with weights that are at most `budget` off (partition.h names the paper; coordinator/precision.c).
 * A layer's loss is model_quantise_losses'; that of layers is the root of their mean. */
struct coord_precise_row {
    bool found; /* a plan; the rest but loss is of it */
    double loss, latency_s, rate;
    uint64_t memory_bytes; /* of all boards */
};
struct coord_precise {
    uint32_t n_layers;
    uint8_t choice[MODEL_LAYERS_MAX]; /* a model_quantise_choice for each layer */
    double loss[MODEL_LAYERS_MAX];
    uint64_t bytes[MODEL_LAYERS_MAX]; /* of the layer's weights */
    char list[10 * MODEL_LAYERS_MAX]; /* for model_quantise */
    struct coord_precise_row chosen, all[MODEL_QUANTISE_CHOICES]; /* all layers in one type */
};
/* `p` as coord_profile_read has it, by the configuration's workers. `how` says threads and stop. Takes
 * some times the configuration's solve_s. ERR_UNSUPPORTED where the model is quantised; codes of
 * part_precision_solve and model_quantise_losses. */
int coord_precision(const struct net_config *c, const char *path, const struct model *m,
                    const struct coord_profile *p, uint32_t present, double budget,
                    const struct model_quantise *how, struct coord_precise *out, struct err *e);
/* Times that were measured with the weights of `from`, for those of `to`; not of boards that figures
 * describe, whose times coord_profile_complete makes. */
void coord_profile_retype(struct coord_profile *p, const struct coord_blocks *from,
                          const struct coord_blocks *to);

/* What a worker holds by a plan: layers, its share of each, and the ends. */
struct coord_shard {
    uint32_t layer0, layer1;
    struct part_member part;
    bool embed;  /* all of the embedding */
    bool output; /* the final norm; runs of the output matrix are the part's */
};
struct coord_shard coord_shard_of(const struct part_plan *plan, uint32_t stage, uint32_t member);

/* ---- the core -------------------------------------------------------------------------------- */

/* A request as the journal has it (coordinator/records.c). What is borrowed is so from the bytes
 * that were read. */
struct coord_kept {
    struct net_msg_SUBMIT submit; /* borrowed; without its prompt where that was read */
    bool read, done;
    struct net_list prompt; /* i32 ids; borrowed */
    uint32_t logprobs;      /* as in TOKEN */
    struct base_buf tokens; /* generated, i32; where logprobs is 1 + k: with them, of each, */
    struct base_buf chosen, ids, best; /* f64; k i32; k f64 */
    uint32_t first_ms, last_ms;        /* from arrival to the first and to the last of them */
    uint32_t finish, replays, reused;  /* where done, as in DONE */
    struct span error;                 /* borrowed */
};
struct coord_kept_list {
    uint32_t n, n_drained;
    struct coord_kept *list; /* [COORD_REQUESTS_MAX] or NULL; in order of arrival */
    char drained[NET_WORKERS_MAX][NET_NAME_MAX]; /* [n_drained] names of drained workers */
};
/* Read records until one is not whole or makes no sense; what follows it is not believed. Adds to
 * the list, which borrows the bytes; returns the length of what was read. */
size_t coord_records_read(struct span bytes, struct coord_kept_list *l);
/* The shortest records that read back as the list. */
void coord_records_write(const struct coord_kept_list *l, struct base_buf *b);
void coord_kept_deinit(struct coord_kept_list *l);

enum coord_event_type {
    COORD_EV_TICK,
    COORD_EV_NODE_UP,     /* worker `node` has a control connection */
    COORD_EV_NODE_DOWN,   /* it broke: `reason` */
    COORD_EV_NODE,        /* msg from worker `node` */
    COORD_EV_PLANNED,     /* the planner's answer to COORD_ACT_PLAN number `serial`: ok and plan, or
                             reason */
    COORD_EV_CLIENT,      /* msg from client connection `client` */
    COORD_EV_READ,        /* the answer to COORD_ACT_READ number `serial`: ok and tokens, or code
                             and reason */
    COORD_EV_CLIENT_DOWN, /* client connection `client` ended */
    COORD_EV_CONFIG, /* the configuration was read again: `config` (checked by the shell to differ
                        only in workers) */
    COORD_EV_KEPT    /* first of all, where there was a journal: its requests `kept`, to go on
                        with, or, with a `reason`, to be refused; its drained workers stay so */
};

struct coord_event {
    enum coord_event_type type;
    int64_t now_ms;
    uint32_t node;   /* index in the configuration */
    uint64_t client; /* connection */
    const struct net_msg *msg;
    const char *reason;
    bool ok;
    uint64_t serial;
    const struct part_plan *plan; /* PLANNED: devices and left_out are by node */
    const double *stage_s;        /* PLANNED: [n_stages] predicted seconds of a pass of one row */
    const double *stage_batch_s;  /* PLANNED: the same, of a row of each slot */
    double batch_rate;            /* PLANNED: predicted tokens a second with all slots in use */
    uint32_t chunk, groups;       /* PLANNED: prompt rows of a pass; groups of decode rows */
    double now_latency_s, now_batch_rate; /* PLANNED: of the last plan in force by today's numbers;
                                             0: none, or it has a worker that was not asked about */
    bool now_fits; /* PLANNED: and it obeys every rule by them */
    struct coord_move_cost move; /* PLANNED: from the plan in force */
    int code;                             /* READ: of common.h, where not ok */
    const int32_t *tokens; /* READ: the prompt's ids, as many of n_tokens as the context has
                                     room for */
    uint32_t n_tokens, prompt_bytes;
    const struct net_config *config;
    const struct coord_kept_list *kept;
};

enum coord_action_type {
    COORD_ACT_NODE,      /* send msg to worker `node` */
    COORD_ACT_DROP_NODE, /* end worker `node`'s connection */
    COORD_ACT_CLIENT,    /* send msg to client connection `client` */
    COORD_ACT_PLAN,      /* solve for the nodes in `present` with today's profile, by the myopic rule
                            where `myopic`; answer with `serial`. `ahead`: in a quarter of the time,
                            since what is asked for in earnest waits meanwhile */
    COORD_ACT_READ,      /* make the prompt of msg, a SUBMIT, into tokens; answer with `serial` */
    COORD_ACT_MANIFEST,  /* send worker `node` the MANIFEST of plan `epoch`, pieces of `shard` */
    COORD_ACT_STOCK,     /* send worker `node` STOCK of plan `epoch`, pieces of `shard` */
    COORD_ACT_SAVE,      /* the profile has changed: keep it */
    COORD_ACT_LOG        /* text: one event of the trace; `warn`: a person should see it */
};

struct coord_action {
    enum coord_action_type type;
    struct net_msg msg; /* its lists point into the core's buffers: valid until the next step */
    uint32_t node, present;
    struct coord_shard shard;
    uint64_t client, epoch, serial;
    bool warn, myopic, ahead;
    char text[320];
};

struct coord_actions {
    uint32_t n;
    struct coord_action list[COORD_ACTIONS_MAX];
    struct span journal; /* records to append to the journal, ahead of everything else; valid until
                            the next step */
};

/* What the core must know of the model; the functions are pure. */
struct coord_model {
    uint32_t n_layers, n_ff, n_vocab;
    uint32_t unit_heads, unit_cols; /* query heads of a head unit, columns of a feed-forward unit */
    uint32_t kv_share;              /* query heads that share a KV head; 0: KV rows cannot move */
    size_t kv_row_bytes;            /* of one KV head's row, K and V */
    uint32_t context;               /* positions a slot */
    char file[256];                 /* name shown to people */
    uint64_t numerics;
    uint8_t card[NET_HASH_BYTES];
    uint64_t card_bytes;
    uint32_t n_ends;
    int32_t ends[32];
    struct span (*text)(void *arg, int32_t token); /* text bytes of a token, borrowed */
    void *arg;
    uint32_t (*n_pieces)(void *arg, const struct coord_shard *s); /* for PLAN */
};

struct coord_core;
/* `incarnation` is above that of every earlier start; the configuration is copied, the model's
 * functions stay valid as long as the core. ERR_NOMEM. */
int coord_core_new(const struct net_config *config, const struct coord_model *model,
                   uint64_t incarnation, uint32_t bulk_port, struct coord_core **out,
                   struct err *e);
void coord_core_free(struct coord_core *c);
/* One event in, actions out, to be carried out in order before the next event. */
void coord_core_step(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out);
int64_t coord_core_deadline_ms(const struct coord_core *c); /* next TICK wanted; INT64_MAX: none */
const char *coord_core_invariant(const struct coord_core *c); /* NULL: all hold */

/* What the shell and tests may ask. */
const struct coord_profile *coord_core_profile(const struct coord_core *c);
/* The same with what reports have said since: memory that is left, workers that are slower. */
void coord_core_today(const struct coord_core *c, struct coord_profile *out);
uint64_t coord_core_epoch(const struct coord_core *c);               /* plan in force; 0: none */
/* The plan in force, or, where none is, the one that was last. Borrowed; NULL: none was. */
const struct part_plan *coord_core_last_plan(const struct coord_core *c);
uint32_t coord_core_n_active(const struct coord_core *c);
uint32_t coord_core_n_reading(const struct coord_core *c); /* prompts with the shell */

/* ---- the program ----------------------------------------------------------------------------- */

struct coord_options {
    const char *config;
};
int coord_run(const struct coord_options *o, struct err *e);

#endif
