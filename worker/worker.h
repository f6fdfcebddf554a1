/* The worker: a pure core that decides, and a thin shell (worker/shell.c, main.c) that polls,
 * computes and sends. The core takes one event and fills a list of actions; it reads no clock,
 * socket, file or entropy, so that tests/sim runs it under virtual time. */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include "common/common.h"
#include "model/model.h"
#include "net/net.h"

enum { WORKER_STAGES_MAX = NET_WORKERS_MAX, WORKER_ENDS_MAX = 32, WORKER_ACTIONS_MAX = 64 };

/* ---- what a pass is made of ------------------------------------------------------------------ */

/* Hidden states that wait for a pass lie in two buffers of the shell: [slots, n_embd] for decode
 * rows, of which a slot has at most one, and [worker_core_prompt_rows, n_embd], a ring of prompt
 * rows. On the first stage rows begin with tokens, and the buffers hold rows that have come back from
 * the last stage, where the output matrix stands on the first. */
enum worker_from { WORKER_FROM_TOKEN, WORKER_FROM_DECODE, WORKER_FROM_PROMPT };

/* One row of a pass. */
struct worker_pass_row {
    struct model_row row; /* token is read by the first stage only */
    uint64_t request;     /* 0: the row failed and goes no further */
    enum worker_from from;
    uint32_t index;         /* row of the buffer */
    /* where the output is: choose the next token; report the logits */
    bool sample, summarise;
    struct model_sampling sampling;
    uint32_t n_recent, n_ends, end_position;
    int32_t recent[MODEL_PENALTY_WINDOW], ends[WORKER_ENDS_MAX];
};

/* A pass, built by the core of a team's leader, carried out by its shell together with the other
 * members', handed back in WORKER_EV_PASS. The first n_decode rows are decode rows, the next n_back
 * rows of logits requests that are back on the first stage, the others prompt rows.
 *
 * Where the output stands on the first of several stages, its rows that do not begin with a token are
 * back from the last layer. They are sampled or summarised before the layers run, and a token with
 * which the text goes on (worker_pass_goes_on) takes its row's place in the layers. */
struct worker_pass {
    uint64_t epoch;
    uint32_t n, n_decode, n_back;
    struct worker_pass_row rows[MODEL_ROWS_MAX];
    /* filled by the shell */
    uint32_t bad[MODEL_ROWS_MAX];   /* as in model_exec_run */
    int32_t tokens[MODEL_ROWS_MAX]; /* where sample: the id; -1: there is none */
    uint32_t at[MODEL_ROWS_MAX];    /* which of the states that have left the layers is the row's */
    struct model_logprobs logprobs[MODEL_ROWS_MAX]; /* where sampling asks for them */
    /* the team could not finish it: whose fault, and why; "": it did */
    char lost[NET_NAME_MAX], reason[200];
};

/* What the shell knows of its compute side, for heartbeats and reports. */
struct worker_load {
    uint64_t passes, busy_us;
    bool working;
    uint64_t decode_passes, decode_rows, decode_us; /* passes of decode rows only */
};

/* How the board is; what it does not tell is NAN. As in REPORT. */
enum {
    WORKER_LOW_VOLTAGE = 1, /* the first four as a Raspberry Pi's firmware numbers them */
    WORKER_CLOCK_LIMITED = 2,
    WORKER_THROTTLED = 4,
    WORKER_NEARLY_HOT = 8,
    WORKER_ON_BATTERY = 16
};
struct worker_readings {
    uint64_t memory_free, memory_used; /* bytes; free: UINT64_MAX is not known */
    uint64_t memory_own;               /* of those used, what no file backs */
    double memory_pressure, cpu_pressure; /* percent */
    double temperature;                   /* degrees Celsius */
    double clock, battery;                /* shares, 0 to 1 */
    double power;                         /* watts into the battery */
    double quota;                         /* cores that a CPU quota leaves; 0: none */
    uint32_t flags;
};

/* ---- events ---------------------------------------------------------------------------------- */

enum worker_event_type {
    WORKER_EV_TICK,         /* time passed */
    WORKER_EV_READ,         /* `readings` were taken */
    WORKER_EV_CONTROL_UP,   /* the control connection was made (again) */
    WORKER_EV_CONTROL_DOWN, /* it broke */
    WORKER_EV_CONTROL,      /* msg from the coordinator */
    WORKER_EV_RING,         /* msg from the worker `peer` */
    WORKER_EV_RING_UP,      /* our ring connection to `peer` was made */
    WORKER_EV_RING_DOWN,    /* our ring connection to `peer` broke: `reason` */
    WORKER_EV_CARD,         /* the model's card is there (ok) or cannot be had (reason) */
    WORKER_EV_PROFILED,     /* msg is the PROFILED to send */
    WORKER_EV_LINK_TESTED,  /* msg is the LINK_TESTED to send */
    WORKER_EV_FETCHED,      /* progress of the plan being prepared: done, total, fetched bytes */
    WORKER_EV_LOADED,       /* plan `epoch` can run (ok) or not (reason) */
    WORKER_EV_TEAM_UP,      /* the team connections of plan `epoch` are made */
    WORKER_EV_TEAM_LOST,    /* member of the team of plan `epoch`: it lost `peer`: `reason` */
    WORKER_EV_PASS,         /* `pass` is done */
    WORKER_EV_KV_FAILED,    /* KV rows that an action named are not in the caches here */
    WORKER_EV_RING_BROKEN   /* a message to `peer` was not taken, or its connection to us broke:
                               `reason` */
};

struct worker_event {
    enum worker_event_type type;
    int64_t now_ms;
    const struct net_msg *msg; /* borrowed for the step */
    const char *peer, *reason; /* borrowed for the step */
    uint64_t from;             /* RING: the connection that it came by; the core does not look */
    bool ok;
    uint64_t epoch, done_bytes, total_bytes, fetched_bytes, planned_bytes;
    struct worker_pass *pass;
    struct worker_load load;         /* TICK, READ */
    const struct worker_readings *readings;
    const struct model_shape *shape; /* CARD: of the card's model */
    size_t kv_row_bytes;             /* CARD: of one KV head, K and V, as it is cached */
};

/* ---- actions --------------------------------------------------------------------------------- */

enum worker_action_type {
    WORKER_ACT_CONTROL,    /* send msg to the coordinator */
    WORKER_ACT_READ,       /* take readings of the board, where none are being taken */
    WORKER_ACT_RING,       /* send msg to ring peer `peer` */
    WORKER_ACT_CARD,       /* get the card: hash, bytes in msg (the WELCOME) */
    WORKER_ACT_PROFILE,    /* measure: msg is PROFILE */
    WORKER_ACT_TEST_LINK,  /* msg is TEST_LINK */
    WORKER_ACT_PREPARE,    /* msg is PLAN: begin a manifest; an older preparation is dropped */
    WORKER_ACT_MANIFEST,   /* msg is MANIFEST, checked: hashes follow those before */
    WORKER_ACT_STOCK,      /* msg is STOCK, checked: have these pieces in the store by and by */
    WORKER_ACT_LOAD,       /* the manifest is whole: fetch what lacks, then build the executor */
    WORKER_ACT_CONNECT,    /* have a ring connection to `peer` */
    WORKER_ACT_TEAM,       /* have team connections for plan `epoch`, the one being prepared */
    WORKER_ACT_ACTIVATE,   /* plan `epoch` is in force; free the one before once its pass is done */
    WORKER_ACT_DEACTIVATE, /* no plan is in force */
    WORKER_ACT_KEEP, /* copy n_rows hidden states of the event's ROWS, from from_row on, into buffer
                        `to` from row `index` on */
    WORKER_ACT_KV_ROOM,  /* have room beside the plan in force, `epoch`, for a copy of another worker's
                            rows: kv_layers layers from kv.layer on, KV heads as in `kv`. The copy that
                            there is goes; with 0 layers that is all. It also goes with the plan */
    WORKER_ACT_KV_COPY,  /* copy `kv`, and the same of kv_layers layers in all, from the cache of the
                            plan in force, `epoch`, or the copy beside it, to the plan that is ready */
    WORKER_ACT_KV_WRITE, /* the event's KV_ROWS are rows `kv` of the plan that is ready, or, where
                            to_copy, of the copy */
    WORKER_ACT_KV_SEND,  /* answer the event's KV_ASK with rows `kv` of the plan in force or the copy,
                            or, where not has_rows or neither has all of them, with nothing */
    WORKER_ACT_PASS, /* carry out `pass`; no other is running */
    WORKER_ACT_SEND_ROWS, /* send ROWS of kind `rows_kind` to `peer`: the rows of `pass` listed */
    WORKER_ACT_LOGITS,    /* send the summary of pass row `from_row` to the coordinator */
    WORKER_ACT_RECONNECT, /* the coordinator is silent: begin the control connection anew */
    WORKER_ACT_LOG,       /* text: one event of the trace */
    WORKER_ACT_QUIT       /* stop the program: text says why */
};

struct worker_action {
    enum worker_action_type type;
    struct net_msg msg; /* its lists point into the core's buffers: valid until the next step */
    const char *peer;   /* borrowed from the core until the next step */
    uint64_t epoch;
    enum worker_from to;
    uint32_t index, from_row, n_rows, rows_kind;
    const uint32_t *rows; /* [n_rows] indices into pass->rows */
    struct worker_pass *pass;
    struct model_kv_rows kv;
    uint32_t kv_layers;
    bool has_rows, to_copy;
    char text[200];
};

struct worker_actions {
    uint32_t n;
    struct worker_action list[WORKER_ACTIONS_MAX + MODEL_ROWS_MAX];
};

/* ---- the core (worker/core*.c) --------------------------------------------------------------- */

struct worker_identity {
    char name[NET_NAME_MAX], kernels[32], data[NET_ENDPOINT_MAX];
    uint32_t team_port;
    uint64_t numerics, memory_bytes;
    bool fast; /* numerics: fast */
    uint32_t threads;
    uint32_t rows_max; /* test knob: rows of one pass at most; 0: as planned */
};

struct worker_core;
/* ERR_NOMEM. The identity is copied. */
int worker_core_new(const struct worker_identity *id, struct worker_core **out, struct err *e);
void worker_core_free(struct worker_core *c);
/* One event in, actions out, to be carried out in order before the next event. Aborts where the
 * shell breaks the contract (two passes at once); whatever a peer sends is dropped and logged at
 * most. */
void worker_core_step(struct worker_core *c, const struct worker_event *ev,
                      struct worker_actions *out);
int64_t
worker_core_deadline_ms(const struct worker_core *c); /* next TICK wanted; INT64_MAX: none */
/* Violated invariant as a sentence, NULL where all hold. For tests and, cheap enough, for every
 * step. */
const char *worker_core_invariant(const struct worker_core *c);

/* Whether the text goes on behind this token, chosen at the row: its own row is to be run. */
bool worker_pass_goes_on(const struct worker_pass_row *r, int32_t token);

/* What a shell or a test may ask. */
uint64_t worker_core_epoch(const struct worker_core *c); /* plan in force, 0: none */
uint32_t worker_core_prompt_rows(const struct worker_core *c,
                                 uint64_t epoch);          /* rows of the prompt buffer */
uint32_t worker_core_waiting(const struct worker_core *c); /* rows that wait for a pass */

/* ---- the program ----------------------------------------------------------------------------- */

struct worker_options {
    const char *config, *name;
    const char *kernels;   /* NULL: as configured */
    uint32_t test_pass_ms; /* sleep so long in every pass */
    uint32_t test_rows;    /* rows of one pass at most */
    uint32_t test_figure_ms; /* measure each figure of the profile for so long; 0: as it should be */
    const char *test_root; /* the board is read below this folder; NULL: / */
};
/* Run until a signal asks to stop (0) or the coordinator refuses us. */
int worker_run(const struct worker_options *o, struct err *e);
/* Check every piece of the store; prints nothing, *bad counts what was removed. */
int worker_verify_store(const struct worker_options *o, uint64_t *n, uint64_t *bad, struct err *e);
/* The store's folder, as the configuration and this machine say; it need not be there. */
int worker_store_folder(const struct worker_options *o, char out[static NET_PATH_MAX],
                        struct err *e);

#endif
