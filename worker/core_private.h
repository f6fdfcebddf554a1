/* The worker core's state, shared by core.c (meeting, plans), core_move.c (KV rows taken over),
 * core_ring.c (slots, rows that wait) and core_pass.c (passes). */
#ifndef WORKER_CORE_PRIVATE_H
#define WORKER_CORE_PRIVATE_H

#include "worker/worker.h"

/* Where a worker stands with its coordinator. */
enum worker_state {
    WORKER_OFFLINE, /* no control connection */
    WORKER_MEETING, /* HELLO sent, no answer yet */
    WORKER_CARD,    /* welcome; the card is on its way */
    WORKER_READY,   /* may be profiled and given plans */
    WORKER_REFUSED  /* for good */
};

/* How far the plan that is being prepared is. */
enum worker_prepare {
    WORKER_PREP_NONE,
    WORKER_PREP_MANIFEST,
    WORKER_PREP_LOADING,
    WORKER_PREP_LINKS,
    WORKER_PREP_READY
};

/* Only the leader of a stage's team takes part in the ring; `ring` names leaders. */
struct worker_plan {
    uint64_t epoch; /* 0: none */
    uint32_t n_stages, stage, layer0, layer1, max_rows, chunk, groups, n_pieces;
    uint32_t member, n_members; /* place in the team, 0 leads */
    bool output_first; /* the output matrix stands on the first of several stages */
    enum model_wire wire;
    char ring[WORKER_STAGES_MAX][NET_NAME_MAX];
};

struct worker_slot {
    uint64_t request; /* 0: free */
    uint32_t flags, n_prompt, end_position, n_ends, n_recent;
    struct model_sampling sampling;
    int32_t ends[WORKER_ENDS_MAX];
    int32_t recent[MODEL_PENALTY_WINDOW]; /* oldest first */
    /* first stage only */
    int32_t *prompt; /* [n_prompt], owned; NULL once all rows are on their way */
    uint32_t next;   /* first prompt position not yet on its way */
    uint32_t away;   /* output first: rows of a logits request on their way, not back yet */
    uint32_t group;  /* that its decode row is on its way with, from 1; 0: it is not on its way */
    /* the decode row that waits, if one does */
    bool waiting;
    uint32_t position;
    int32_t token;
};

/* A prompt row that waits at a later stage, or is back at the first; its hidden state is the same row
 * of the prompt buffer. */
struct worker_prompt_row {
    uint64_t request;
    uint32_t slot, position;
};

/* KV rows being taken over for `next`, or copied beside `plan` (core_move.c). */
enum { WORKER_MOVE_WINDOW = 4 };
struct worker_move_part { /* layers [layer0, layer1), KV heads [head0, head1) that a donor has */
    char donor[NET_NAME_MAX];
    uint32_t layer0, layer1, head0, head1;
};
struct worker_move_ask { /* rows on their way from the donor of a part */
    uint64_t number;
    uint32_t part;
    struct model_kv_rows rows;
};
struct worker_move {
    uint64_t from;        /* epoch of the plan in force */
    bool copies;          /* for the case that the donor is lost: not for `next` */
    uint32_t round, done; /* under way, 0: none; the last one of `next` that was finished */
    uint64_t bytes;       /* that came from others for `next` */
    uint32_t n_parts, n_slots, n_asked;
    struct worker_move_part parts[WORKER_STAGES_MAX];
    uint32_t slots[MODEL_SLOTS_MAX], first[MODEL_SLOTS_MAX], end[MODEL_SLOTS_MAX];
    uint32_t part, layer, slot, row; /* next to be asked for, counted in the lists above */
    struct worker_move_ask asked[WORKER_MOVE_WINDOW];
    int64_t said_ms;
};

struct worker_core {
    struct worker_identity id;
    enum worker_state state;
    enum worker_prepare prep;
    struct worker_plan plan, next; /* in force; being prepared */
    uint32_t manifest_have;        /* hashes of `next` received */
    struct worker_event
        loaded; /* the LOADED event of `next`: its numbers are reported once linked */
    bool team_linked; /* the team connections of `next` are there */
    struct worker_move move;
    uint64_t n_asked; /* counts questions for KV rows */

    size_t kv_row_bytes; /* of one KV head, K and V */
    uint32_t n_layers, n_embd, context, n_slots, heartbeat_ms, dead_ms, report_ms;
    uint64_t incarnation, nonce;
    int64_t now_ms, heard_ms, beat_ms, state_ms;
    int64_t read_ms;                  /* when to take readings again */
    int64_t sent_ms;                  /* of the last BEAT */
    double round_trip_ms;             /* recent mean; NAN: none yet */

    char linked[WORKER_STAGES_MAX][NET_NAME_MAX]; /* ring peers our connections to which are up */
    uint32_t n_linked;

    struct worker_slot slots[MODEL_SLOTS_MAX];
    uint32_t decode_queue[MODEL_SLOTS_MAX],
        n_decode; /* slots whose decode row waits, oldest first */
    uint32_t prompt_queue[MODEL_SLOTS_MAX],
        n_prompt;                   /* first stage: slots with prompt rows, oldest first */
    struct worker_prompt_row *ring; /* [ring_cap] prompt rows that wait, a circle */
    uint32_t ring_cap, ring_head, ring_n, n_away; /* n_away: of all slots */
    uint64_t taken, dropped; /* prompt rows, as in STARTED */
    uint64_t stage_taken[WORKER_STAGES_MAX],
        stage_dropped[WORKER_STAGES_MAX]; /* first stage's view */

    bool computing; /* `pass` is with the shell */
    bool broken;    /* a link of the plan in force broke: messages are missing, so nothing goes on
                       under it */
    bool starved;   /* the last pass had no room for the prompt rows that waited */
    /* The next pass is built in the step in which the last one is done, while actions of that step
     * still read its rows: so there are two, in turn. */
    struct worker_pass passes[2], *pass;

    /* lists that messages of one step point into */
    uint8_t list64[2][MODEL_ROWS_MAX * 8], list32[5][MODEL_ROWS_MAX * 4];
    uint32_t rows[2][MODEL_ROWS_MAX];
};

struct worker_action *worker_core_act(struct worker_actions *out, enum worker_action_type type);
void worker_core_log(struct worker_actions *out, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Tell the coordinator that request cannot go on. */
void worker_core_fail(struct worker_core *c, struct worker_actions *out, uint64_t request,
                      uint32_t position, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The ring is broken towards peer: tell the coordinator, once, and be still until the next plan. */
void worker_core_link_lost(struct worker_core *c, struct worker_actions *out, const char *peer,
                           const char *reason);
bool worker_core_is_linked(const struct worker_core *c, const char *peer);
/* PREPARED of `next`: state 0 under way, 1 ready, 2 failed; ev's numbers, NULL: none. */
void worker_core_report(struct worker_core *c, struct worker_actions *out, uint32_t state,
                        const struct worker_event *ev, const char *reason);
/* `next` is given up, and the coordinator told. */
void worker_core_prepare_failed(struct worker_core *c, struct worker_actions *out,
                                const char *reason);
/* `next` becomes `plan`; slots and queues begin empty. */
void worker_core_activate(struct worker_core *c, struct worker_actions *out);
void worker_core_deactivate(struct worker_core *c, struct worker_actions *out);

/* In the ring a stage is its team's leader. */
static inline bool worker_core_leads(const struct worker_core *c)
{
    return c->plan.member == 0;
}

static inline bool worker_core_is_first(const struct worker_core *c)
{
    return c->plan.stage == 0;
}

static inline bool worker_core_is_last(const struct worker_core *c)
{
    return c->plan.stage + 1 == c->plan.n_stages;
}

/* Final norm and output matrix stand here. */
static inline bool worker_core_has_output(const struct worker_core *c)
{
    return c->plan.output_first ? worker_core_is_first(c) : worker_core_is_last(c);
}

/* A row of text may wait in the slot: none does, and its prompt has been taken. Rows that come where they
 * may not are from a peer that is not what it should be, and dropped. */
static inline bool worker_slot_may_wait(const struct worker_slot *s)
{
    return !s->waiting && s->prompt == NULL;
}

/* Logits are made of the row at this position: for the next token, or to be reported. */
static inline bool worker_slot_wants_logits(const struct worker_slot *s, uint32_t position)
{
    return (s->flags & 1) != 0 || (position + 1 >= s->n_prompt && position + 1 < s->end_position);
}

static inline const char *worker_core_next(const struct worker_core *c)
{
    return c->plan.ring[c->plan.stage + 1];
}

/* core_ring.c */
bool worker_core_ring_init(struct worker_core *c); /* for c->plan; false: out of memory */
void worker_core_ring_clear(struct worker_core *c);
void worker_core_open(struct worker_core *c, const struct net_msg_OPEN *m,
                      struct worker_actions *out);
void worker_core_close(struct worker_core *c, const struct net_msg_CLOSE *m,
                       struct worker_actions *out);
void worker_core_ring_message(struct worker_core *c, const char *peer, const struct net_msg *m,
                              struct worker_actions *out);
uint32_t worker_core_ring_rows(const struct worker_plan *p); /* capacity of the prompt buffer */
/* The slot where it is this request's; NULL: not any more, or there is none. */
struct worker_slot *worker_core_slot_of(struct worker_core *c, uint32_t slot, uint64_t request);
/* Drop what the slot holds, so that another request may have it. */
void worker_core_slot_reset(struct worker_core *c, uint32_t slot);
/* A slot's next decode row waits from now on. */
void worker_core_decode_wait(struct worker_core *c, uint32_t slot, uint32_t position,
                             int32_t token);
/* Tell the first stage what was taken up and dropped. */
void worker_core_send_started(struct worker_core *c, struct worker_actions *out);
void worker_core_queue_remove(uint32_t *queue, uint32_t *n, uint32_t slot);

/* core_move.c */
void worker_core_inherit(struct worker_core *c, const struct net_msg_INHERIT *m,
                         struct worker_actions *out);
void worker_core_checkpoint(struct worker_core *c, const struct net_msg_CHECKPOINT *m,
                            struct worker_actions *out);
void worker_core_kv_ask(struct worker_core *c, const char *peer, const struct net_msg_KV_ASK *m,
                        struct worker_actions *out);
void worker_core_kv_rows(struct worker_core *c, const char *peer, const struct net_msg_KV_ROWS *m,
                         struct worker_actions *out);
void worker_core_move_lost(struct worker_core *c, const char *peer, const char *reason,
                           struct worker_actions *out); /* the connection to `peer` broke */
void worker_core_move_failed(struct worker_core *c, struct worker_actions *out);
/* Go on asking for rows, and say so when all have come. */
void worker_core_move_pump(struct worker_core *c, struct worker_actions *out);

/* core_pass.c */
/* Start a pass where rows wait and none is running. */
void worker_core_pump(struct worker_core *c, struct worker_actions *out);
void worker_core_pass_done(struct worker_core *c, struct worker_pass *pass,
                           struct worker_actions *out);

#endif
