/* Placement: a function from numbers to a plan. A ring of stages, each a contiguous run of layers on
 * a team of devices that split the heads and feed-forward columns of those layers, chosen by an
 * integer program solved with GLPK, with the exhaustive enumeration that the tests hold it to. Knows
 * nothing of files, sockets or models. */
#ifndef PARTITION_PARTITION_H
#define PARTITION_PARTITION_H

#include "common/common.h"

enum {
    PART_DEVICES_MAX = 16,
    PART_LAYERS_MAX = 512,
    PART_UNITS_MAX = 4096, /* head units, feed-forward units or vocabulary runs */
    PART_NAME_MAX = 64,
    PART_REASON_MAX = 200
};

/* Seconds of a pass of r rows: pass_s + r * row_s. */
struct part_time {
    double pass_s, row_s;
};

/* One device as the program sees it. */
struct part_device {
    char name[PART_NAME_MAX];
    struct part_time attn[PART_LAYERS_MAX]; /* attention of each layer, all heads, norm included */
    struct part_time ff[PART_LAYERS_MAX];   /* feed-forward of each layer, all columns */
    struct part_time half; /* the part of either half that a smaller share does not shrink */
    struct part_time embed, output; /* lookup; final norm, output matrix (all runs) and sampling */
    double pass_s; /* any pass of a stage it leads: waking up, taking and sending a ring message */
    double
        message_s; /* a team message sent or taken costs it this beside the link (codec, wake-up) */
    double byte_s; /* ... and this for each byte */
    /* Share of the time that a CPU quota lets it run, in the seconds above already; 0 or 1: no quota.
     * A team's member spends none while it waits (part_stage_layer). */
    double throttle;
    uint64_t memory_bytes; /* usable for the model */
    int pin0, pin1;        /* layers [pin0, pin1) are this device's exactly; pin0 < 0: free */
    int pin_heads, pin_ff; /* head and feed-forward units it holds of each of its layers; < 0: free */
    bool pin_leader;       /* leads the first stage */
};

/* Bytes of one layer on a device, weights and KV at the configured context and slots, and how its
 * attention divides. */
struct part_layer {
    uint64_t common_bytes; /* on every member: norms, biases */
    uint64_t head_bytes;   /* each head unit */
    uint64_t kv_bytes; /* each KV head, weights and cache; a KV head needed twice is held twice */
    uint64_t ff_bytes; /* each feed-forward unit */
    double kv_share; /* of the attention's seconds, goes by KV heads held; the rest by head units */
};

enum part_objective {
    PART_LATENCY,    /* seconds a token of one request */
    PART_THROUGHPUT, /* seconds a token with all slots in use: cycle_s / slots */
    PART_WEIGHTED    /* weight * the first + (1 - weight) * the second */
};
enum part_granularity {
    PART_AUTO,   /* whatever is best */
    PART_LAYERS, /* every stage is one device */
    PART_HEADS   /* one stage: all its devices split every layer */
};

enum part_exchange { PART_ANY_SHAPE, PART_ONLY_STAR, PART_ONLY_MESH };

struct part_plan;

/* The placement problem. Diagonals of lat_s and rate are not read. */
struct part_problem {
    uint32_t n_layers, n_devices;
    struct part_device devices[PART_DEVICES_MAX];
    double lat_s[PART_DEVICES_MAX][PART_DEVICES_MAX]; /* one way, from row to column */
    double rate[PART_DEVICES_MAX]
               [PART_DEVICES_MAX]; /* bytes a second; so long the sender's port and
                                                         the receiver's are both taken */
    uint32_t n_head_units, unit_heads, heads_per_kv; /* query heads a unit, query heads a KV head */
    uint32_t n_ff_units, n_vocab_runs;
    struct part_layer layers[PART_LAYERS_MAX];
    uint64_t embed_bytes;      /* on the first stage's leader */
    uint64_t output_bytes;     /* final norm, on the leader of the stage with the output matrix */
    uint64_t run_bytes;        /* each run of the output matrix */
    uint64_t shared_run_bytes; /* of each run that a device has in its embedding too (tied) */
    uint64_t base_bytes, scratch_bytes; /* on every device that is used */
    uint64_t team_bytes;                /* on every member of a team of two or more, besides */
    /* Bytes a row on the wire: residual stream; normed rows as a star sends them; a member's partial
     * sum of one half; logits of the whole vocabulary. A token is no bytes. */
    double hidden_bytes, normed_bytes, sum_bytes, logits_bytes;
    uint32_t slots; /* requests at saturation */
    enum part_objective objective;
    double weight; /* of latency; PART_WEIGHTED only */
    enum part_granularity granularity;
    enum part_exchange exchange; /* shapes that teams may have; algorithms by name do not look */
    /* A prompt of prompt_rows rows in chunks of at most chunk_rows has its first token within
     * ttft_max_s; prompt_rows 0: no prediction, ttft_max_s 0: no limit. */
    uint32_t prompt_rows, chunk_rows;
    double ttft_max_s;
    bool use_all; /* every device gets work */
    /* A plan to begin with, such as the one in force, or NULL: where it fits, the solver's is no worse.
     * Only its stages are read. The algorithms by name do not look. */
    const struct part_plan *begin;
    bool search_only; /* large problems: all time for finding plans, none for a bound; gap is 1 then */
    double time_limit_s;
};

enum part_shape { PART_STAR, PART_MESH };

/* What a member holds of each layer of its stage, and of the output matrix. The ranges of a team's
 * members tile the whole in member order; any may be empty, not all of a member's. */
struct part_member {
    uint32_t device, head0, head1, ff0, ff1, run0, run1;
};

struct part_stage {
    uint32_t layer0, layer1;
    enum part_shape shape; /* of a team of one: PART_STAR */
    uint32_t n_members;
    struct part_member members[PART_DEVICES_MAX]; /* [0] leads; the others by rising device */
};

struct part_plan {
    uint32_t n_stages;
    struct part_stage stages[PART_DEVICES_MAX]; /* in ring order; stage 0 embeds */
    bool output_first;   /* the output matrix is on stage 0 of several, not on the last */
    double latency_s;    /* one token of one request: stages, links, the way back to stage 0 */
    double bottleneck_s; /* the slowest stage or link of a pass with all slots in use */
    double cycle_s;      /* with all slots in use, every slot gets a token in so long */
    double ttft_s;       /* the first token of a prompt of prompt_rows rows; 0: not asked */
    double gap;          /* proven: (objective - bound) / objective; 0 = optimal */
    double solve_s;
    char left_out[PART_DEVICES_MAX]
                 [PART_REASON_MAX]; /* why device d has no work; "" where it has */
};

/* Checks sizes, finiteness, pins. ERR_RANGE names the field. */
int part_problem_check(const struct part_problem *p, struct err *e);

/* The cost model (docs/planner.md has the formulas), the one definition that programs, enumeration
 * and explanation share. Fills latency_s, bottleneck_s, cycle_s and ttft_s of a plan whose stages
 * are set. part_plan_fits says whether it is one: layers covered once, ranges tiling, granularity,
 * use_all, pins, memory and the TTFT limit obeyed (it reads ttft_s). */
void part_plan_cost(const struct part_problem *p, struct part_plan *plan);
bool part_plan_fits(const struct part_problem *p, const struct part_plan *plan);
double part_plan_objective(const struct part_problem *p, const struct part_plan *plan);
/* Into how many groups of rows, at most as many as stages, all slots are best divided: with few, stages
 * wait for each other; with many, weights are read once for each. *cycle_s: every slot then gets a
 * token in so long, which is no more than the plan's cycle_s. */
uint32_t part_best_groups(const struct part_problem *p, const struct part_plan *plan,
                          double *cycle_s);
/* Seconds that a stage takes for a pass of `rows` rows, links to other stages aside. It has the
 * output matrix where its members have runs of it. */
double part_stage_seconds(const struct part_problem *p, const struct part_stage *s, double rows);
uint64_t part_member_memory(const struct part_problem *p, const struct part_stage *s,
                            uint32_t member);
/* KV heads of a layer that query heads of the head units [head0, head1) need. */
uint32_t part_kv_heads(const struct part_problem *p, uint32_t head0, uint32_t head1);
/* Seconds from a stage's leader to the next one's, of the last stage to the first one's, for a pass
 * of `rows` rows; 0 where there is one stage. */
double part_hop_seconds(const struct part_problem *p, const struct part_plan *plan, uint32_t stage,
                        double rows);
/* A stage of one device, with everything of its layers; `output`: and the output matrix. */
struct part_stage part_stage_single(const struct part_problem *p, uint32_t device, uint32_t layer0,
                                    uint32_t layer1, bool output);
/* Place of a device in a plan: its stage, and with member != NULL its place in the team; n_stages
 * where it has no work. */
uint32_t part_plan_find(const struct part_plan *plan, uint32_t device, uint32_t *member);

/* Solve with GLPK within time_limit_s. 0 with a plan and its gap; ERR_INFEASIBLE with the numbers
 * ("needs 1.9 GiB, the cluster has 1.2 GiB", or which pins or use rule cannot be met); ERR_RANGE;
 * ERR_NOMEM; ERR_TIMEOUT where the limit passed without any feasible plan. Among plans of equal
 * objective any may be returned. Not reentrant: one thread at a time (GLPK's environment is per
 * thread, the library's choice). */
int part_plan_solve(const struct part_problem *p, struct part_plan *plan, struct err *e);

/* Who decides: the program, or a published algorithm to compare it with (partition/algorithms.c has
 * the sources). */
enum part_algorithm {
    PART_PROGRAM,
    PART_EVEN,
    PART_MEMORY,
    PART_EDGESHARD,
    PART_EDGESHARD_THROUGHPUT,
    PART_MYOPIC_HEADS,
    PART_LINGUALINKED,
    PART_HYPERION,
    PART_ALGORITHMS
};
int part_algorithm_find(const char *name); /* -1: no such */
const char *part_algorithm_name(enum part_algorithm a);
/* Its plan under this cost model, gap 1 (nothing is proven); PART_PROGRAM is part_plan_solve. The
 * same codes; ERR_INFEASIBLE also where the algorithm's plan breaks a rule that it does not know. */
int part_algorithm_run(enum part_algorithm a, const struct part_problem *p, struct part_plan *plan,
                       struct err *e);

/* A type for each layer beside its place, under a budget of loss (partition/precision.c), after
 * DILEMMA (Hosseinzadeh, Khamfroush, 2503.01704: its integer program for one model): each layer is
 * on a server in one precision, the objective is the time of a token, and what quantising does to
 * the model is a budget on a sum over layers of what it does to their weights. What differs: types
 * are those that files have, with the seconds and bytes of each; layers lie in contiguous stages,
 * teams and all, by Shoal's cost model; and place and types are decided in turn instead of in one
 * program. */
enum { PART_TYPES_MAX = 8 };
struct part_precision {
    uint32_t n_types;
    /* The problem with all layers in that type, borrowed. They differ in bytes of layers and in
     * devices' seconds of attn and ff, in nothing else. */
    const struct part_problem *of[PART_TYPES_MAX];
    double loss[PART_TYPES_MAX][PART_LAYERS_MAX]; /* of a layer in that type, at least 0 */
    double budget;                                /* of the sum over the layers */
};
struct part_precise {
    uint8_t type[PART_LAYERS_MAX]; /* of each layer */
    struct part_plan plan;         /* costed with these types; without gap and left_out */
    /* All layers in one type, whatever it loses; n_stages 0: no plan was found. */
    struct part_plan all[PART_TYPES_MAX];
};
/* Within (n_types + 2) times the problems' time_limit_s. 0; ERR_INFEASIBLE: nothing within budget and
 * memory was found; ERR_RANGE; ERR_NOMEM. */
int part_precision_solve(const struct part_precision *x, struct part_precise *out, struct err *e);
/* The problem with layers of these types. */
void part_precision_mix(const struct part_precision *x, const uint8_t *type,
                        struct part_problem *out);

/* Every plan, tried: small cases only (tests, and n_devices <= 4 with n_layers <= 10). Same
 * results. */
int part_plan_enumerate(const struct part_problem *p, struct part_plan *plan, struct err *e);

#endif
