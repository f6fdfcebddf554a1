/* What the solver's files share: the cost model's parts, stages that could be ("choices") laid out
 * for quick questions, and the calls from one file to the next. */
#ifndef PARTITION_INTERNAL_H
#define PARTITION_INTERNAL_H

#include "partition/partition.h"

#include <math.h>

/* A value that no cost reaches: "no way to get here". */
#define PART_NEVER HUGE_VAL

/* Objectives closer than this, relatively, are equal. */
#define PART_EQUAL_WITHIN 1e-9

static inline double part_time_at(struct part_time t, double rows)
{
    return t.pass_s + rows * t.row_s;
}

/* ---- the cost model's parts (cost.c) --------------------------------------------------------- */

/* How much quicker than its mean a device computes as long as its quota is not spent. */
static inline double part_throttle(const struct part_device *dev)
{
    return dev->throttle > 0.0 ? dev->throttle : 1.0;
}

bool part_any_quota(const struct part_problem *p);
/* A member has so many heads and columns as its device is pinned to. */
bool part_keeps_pins(const struct part_device *dev, const struct part_member *m);

struct part_pass {
    double rows;
    bool prompt; /* rows of a prompt: cut in two groups, and one row of logits */
};

/* Devices that work on the same layers; members[0] leads. */
struct part_team {
    uint32_t n, members[PART_DEVICES_MAX];
    enum part_shape shape;
};

/* What a team does side by side before it exchanges results: member k computes for compute_s[k], if
 * it has a part at all, and sends sum_bytes[k]; a star's leader sends rows_bytes to each first. */
struct part_half {
    bool has[PART_DEVICES_MAX];
    double compute_s[PART_DEVICES_MAX], sum_bytes[PART_DEVICES_MAX];
    double rows_bytes;
};

/* A half lasts until the last member that has a part has computed, and then its lag: until its
 * result is where it is needed. [t->n] */
void part_half_lags(const struct part_problem *p, const struct part_team *t,
                    const struct part_half *h, double *lag_s);
double part_half_seconds(const struct part_problem *p, const struct part_team *t,
                         const struct part_half *h);
/* The parts of part_stage_seconds: beginning a pass, one half of a layer, the output matrix. */
double part_stage_begin(const struct part_problem *p, const struct part_stage *s,
                        struct part_pass pass);
double part_stage_half(const struct part_problem *p, const struct part_stage *s, uint32_t layer,
                       bool attn, struct part_pass pass);
/* Both halves, which a team's members may not do within less time than their quotas give them. */
double part_stage_layer(const struct part_problem *p, const struct part_stage *s, uint32_t layer,
                        struct part_pass pass);
double part_stage_output(const struct part_problem *p, const struct part_stage *s,
                         struct part_pass pass);
/* What a pass costs the ring: all stages and links, the slowest of them, the slowest link. */
struct part_ring {
    double sum_s, slowest_s, link_s;
};
struct part_ring part_ring_of(const struct part_problem *p, const struct part_plan *plan,
                              struct part_pass pass);
/* Of a chunk of the prompt. */
double part_stage_prompt_seconds(const struct part_problem *p, const struct part_stage *s);
double part_attn_seconds(const struct part_problem *p, uint32_t d, uint32_t layer, double rows,
                         uint32_t head0, uint32_t head1);
double part_ff_seconds(const struct part_problem *p, uint32_t d, uint32_t layer, double rows,
                       uint32_t n_units);
/* Everything of a layer, on one device. */
uint64_t part_layer_bytes(const struct part_problem *p, uint32_t layer);
/* With all slots in use: groups of rows that circulate, and rows of each. */
uint32_t part_groups(const struct part_problem *p, uint32_t n_stages);
double part_full_rows(const struct part_problem *p, uint32_t n_stages);
/* Chunks of the prompt, and rows of each; 0 where no prompt is stated. */
uint32_t part_chunks(const struct part_problem *p);
double part_chunk_rows(const struct part_problem *p);

/* ---- a problem laid out (view.c) ------------------------------------------------------------- */

/* The passes whose seconds count: one row, all slots in use, a chunk of the prompt. */
enum part_measure { PART_ONE, PART_FULL, PART_CHUNK, PART_MEASURES };

enum { PART_CHOICES_MAX = 20000 };

/* A team with its split: a stage whose layers are still open. */
struct part_choice {
    struct part_stage stage; /* layer0 and layer1 are not set */
    uint32_t mask, leader;
    bool output; /* holds the output matrix */
};

/* A problem with what the search adds to it. Choice c may take the layers [i, j) exactly when
 * near[c][i] <= j <= reach[c][i]: memory and pins are monotone in j, so one run of cuts says
 * everything and no later code asks about memory again. */
struct part_view {
    const struct part_problem *p; /* borrowed for the view's life */
    uint32_t n_devices, n_layers;
    uint32_t must;     /* devices that have to have work: use_all, a pin, or a question "what if" */
    uint32_t n_stages; /* the ring has exactly so many; 0: any number */
    bool output_first;
    bool wants[PART_MEASURES];
    struct part_pass pass[PART_MEASURES];
    double weight[PART_MEASURES];   /* of the summed seconds in the objective's lower estimate */
    uint16_t kind[PART_LAYERS_MAX]; /* the first layer that is like this one */
    uint32_t n_choices, n_room;
    struct part_choice *choices;    /* [n_choices] */
    double *begin_s[PART_MEASURES]; /* [n_choices] */
    double *sum_s[PART_MEASURES];   /* [n_choices][n_layers + 1], from layer 0 */
    double *begin, *sum;            /* the same, weighted */
    uint16_t *near, *reach;         /* [n_choices][n_layers] */
    double embed_s[PART_MEASURES][PART_DEVICES_MAX], embed[PART_DEVICES_MAX];
    double hop_s[PART_MEASURES][PART_DEVICES_MAX][PART_DEVICES_MAX];   /* stage to next stage */
    double close_s[PART_MEASURES][PART_DEVICES_MAX][PART_DEVICES_MAX]; /* last to first */
    double busy_s[PART_MEASURES][PART_DEVICES_MAX][PART_DEVICES_MAX];  /* a hop's use of the link */
};

/* `n_stages` decides the rows of PART_FULL; a view for PART_LATENCY may leave it 0. */
void part_view_init(struct part_view *v, const struct part_problem *p, uint32_t n_stages,
                    bool output_first);
void part_view_deinit(struct part_view *v);
/* Adds a choice unless it is there or can take no layers at all. ERR_NOMEM, ERR_FULL. */
int part_view_add(struct part_view *v, const struct part_choice *c);
/* The choice's stage with these layers. */
struct part_stage part_view_stage(const struct part_view *v, uint32_t c, uint32_t i, uint32_t j);
/* Another choice of the same devices and leader is no worse for these layers in anything. */
bool part_view_dominated(const struct part_view *v, uint32_t c, uint32_t i, uint32_t j);

static inline bool part_view_may(const struct part_view *v, uint32_t c, uint32_t i, uint32_t j)
{
    const size_t at = (size_t)c * v->n_layers + i;
    return v->near[at] <= j && j <= v->reach[at];
}
static inline double part_view_seconds(const struct part_view *v, enum part_measure m, uint32_t c,
                                       uint32_t i, uint32_t j)
{
    const double *sum_s = v->sum_s[m] + (size_t)c * (v->n_layers + 1);
    return v->begin_s[m][c] + (sum_s[j] - sum_s[i]) +
           (i == 0 ? v->embed_s[m][v->choices[c].leader] : 0.0);
}
/* Weighted. Summed over a ring's runs and hops, it never exceeds the objective. */
static inline double part_view_run(const struct part_view *v, uint32_t c, uint32_t i, uint32_t j)
{
    const double *sum = v->sum + (size_t)c * (v->n_layers + 1);
    return v->begin[c] + (sum[j] - sum[i]) + (i == 0 ? v->embed[v->choices[c].leader] : 0.0);
}
static inline double
part_view_link(const struct part_view *v,
               const double s[PART_MEASURES][PART_DEVICES_MAX][PART_DEVICES_MAX], uint32_t d,
               uint32_t e)
{
    return v->weight[PART_ONE] * s[PART_ONE][d][e] + v->weight[PART_FULL] * s[PART_FULL][d][e];
}

/* ---- teams and their splits (team.c) --------------------------------------------------------- */

/* Adds to the view every split worth having of the devices in `mask` led by `leader`: exactly, if
 * `exact` (part_team_small), otherwise some good ones. The codes of part_view_add. */
int part_team_choices(struct part_view *v, uint32_t mask, uint32_t leader, bool exact);
/* Some good ones for the team of *c, by the seconds of one measure (deal.c). */
int part_deal_choices(struct part_view *v, struct part_choice *c, enum part_measure m);
/* Better ones of a choice's team for just these layers. */
int part_deal_refine(struct part_view *v, uint32_t choice, uint32_t i, uint32_t j);
/* All splits of such a problem can be looked at. */
bool part_team_small(const struct part_problem *p);

/* ---- solvers --------------------------------------------------------------------------------- */

/* The best ring among orders of the given units (device masks with a leader each, disjoint), whose
 * choices are in the view (search.c). */
struct part_unit {
    uint32_t mask, leader;
};

/* Local search over teams and ring orders, adding choices as it goes; `plan` may hold a plan to
 * start from (n_stages > 0) and gets what is better. ERR_NOMEM, or 0. */
int part_search(struct part_view *v, bool exact, double deadline_s, struct part_plan *plan);

/* A lower bound on the objective of every plan made of the view's choices, and for each run of
 * layers and each hop the least of a plan that uses it (bound.c). Indexed [first
 * leader][leader][cut]. */
struct part_bound {
    double value_s; /* PART_NEVER: no plan at all */
    double price[PART_DEVICES_MAX];
    double rebate; /* sum of the prices, part of every path's cost */
    double enter[PART_DEVICES_MAX][PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    double done[PART_DEVICES_MAX][PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    double go[PART_DEVICES_MAX][PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    double after[PART_DEVICES_MAX][PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
};
/* `upper_s`: objective of a known plan. */
void part_bound_compute(const struct part_view *v, double upper_s, double deadline_s,
                        struct part_bound *b);
double part_bound_run(const struct part_view *v, const struct part_bound *b, uint32_t c, uint32_t i,
                      uint32_t j);
double part_bound_hop(const struct part_view *v, const struct part_bound *b, uint32_t d, uint32_t e,
                      uint32_t cut);
double part_bound_ring(const struct part_view *v, const struct part_bound *b, uint32_t last,
                       uint32_t first);

/* The master program over the view's choices (milp.c). In: `plan` with a known plan, or n_stages 0;
 * `bound` may be NULL. Out: the best plan known and *lower_s, a proven lower bound on the objective
 * of the view's plans. 0; ERR_INFEASIBLE: the view has no plan, or none better than the known one;
 * ERR_TIMEOUT nothing known within the deadline; ERR_FULL too many columns to try; ERR_NOMEM. */
int part_milp_solve(const struct part_view *v, const struct part_bound *bound, double deadline_s,
                    struct part_plan *plan, double *lower_s, struct err *e);

/* Calls `solve`, which calls GLPK: ERR_NOMEM where that fails on its own errors, out of memory among
 * them, otherwise what it returns. GLPK's memory is gone afterwards, and nothing was printed. */
int part_milp_guarded(int (*solve)(void *arg), void *arg);

/* Milliseconds until then as GLPK takes them, at least 1. */
int part_milp_left_ms(double deadline_s);
/* The relaxation of a program, under part_milp_guarded. 0 optimal, ERR_INFEASIBLE, ERR_TIMEOUT anything
 * else. */
struct glp_prob;
int part_milp_relax(struct glp_prob *lp, double deadline_s);

/* The best type of each layer for a plan that is there, or with NULL those of the fewest bytes, within
 * the budget (milp_types.c). 0; ERR_INFEASIBLE: there are none, by budget, memory or TTFT limit;
 * ERR_TIMEOUT; ERR_NOMEM. */
int part_milp_types(const struct part_precision *x, const struct part_plan *plan, double deadline_s,
                    uint8_t *type);

/* Lower bounds over kinds of devices instead of devices (relax.c): valid for every plan, whatever its
 * teams and divisions. NULL: no memory. */
struct part_relax;
struct part_relax *part_relax_new(const struct part_problem *p);
void part_relax_free(struct part_relax *r);
/* On the objective of plans of exactly n_stages stages (0: of any, latency only) from sums over the ring
 * alone and without regard to what memory does to a team. PART_NEVER: there is no such plan. */
double part_relax_sum(struct part_relax *r, uint32_t n_stages);
/* The same with memory, as far as the deadline allows, and the slowest stage; of plans that are better
 * than `upper` (PART_NEVER: of all), and not above it. */
double part_relax_close(struct part_relax *r, uint32_t n_stages, double upper, double deadline_s);

/* What a stage's members share out. */
enum part_of { PART_OF_HEADS, PART_OF_FF, PART_OF_RUNS, PART_OF_ALL };

/* Members that share a stage's layers and output matrix within their memory (couple.c): `n` alike each,
 * with x units of a part they take first_s + x * unit_s; `room` bytes for all parts. */
struct part_couple_member {
    uint32_t n;
    bool has[PART_OF_ALL];
    double first_s[PART_OF_ALL], unit_s[PART_OF_ALL], room;
};
struct part_couple {
    uint32_t n;
    struct part_couple_member at[PART_DEVICES_MAX];
    double units[PART_OF_ALL], bytes[PART_OF_ALL]; /* of all; of one, with its share of a KV head */
    double kv_bytes,
        heads_per_kv;       /* of a KV head; units that share one, of which a part needs it whole */
    double weight, fixed_s; /* layers, each with heads and columns; what comes on top of all */
    double far_s; /* each run that at[0], the leader, does not take keeps its port so long */
    double least_s[PART_OF_ALL],
        most_s[PART_OF_ALL]; /* no part takes less, nor need it take longer */
};
/* No division takes less, if it takes less than below_s, which is returned otherwise. */
double part_couple_seconds(const struct part_couple *c, double below_s);

/* Sentences (explain.c). */
bool part_explain_impossible(const struct part_problem *p, struct err *e);
int part_explain_infeasible(const struct part_problem *p, struct err *e);
void part_explain_left_out(const struct part_problem *p, struct part_plan *plan, uint32_t device,
                           const struct part_plan *with, bool proven);

/* May teams have this shape? */
static inline bool part_shape_wanted(const struct part_problem *p, enum part_shape shape)
{
    return p->exchange == PART_ANY_SHAPE || (shape == PART_MESH) == (p->exchange == PART_ONLY_MESH);
}

#endif
