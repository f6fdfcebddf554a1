/* What the solver's files share: a problem laid out for quick questions ("which runs of layers may
 * this device take, and how long would each last"), and the calls from one file to the next. */
#ifndef PARTITION_INTERNAL_H
#define PARTITION_INTERNAL_H

#include "partition/partition.h"

#include <math.h>

/* A value that no cost reaches: "no way to get here". */
#define PART_NEVER HUGE_VAL

static inline double part_time_at(struct part_time t, double rows)
{
    return t.pass_s + rows * t.row_s;
}

/* ---- the cost model's parts (cost.c) --------------------------------------------------------- */

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

double part_half_seconds(const struct part_problem *p, const struct part_team *t,
                         const struct part_half *h);
/* Handing a pass to the members, once a stage. */
double part_start_seconds(const struct part_problem *p, const struct part_team *t, double rows);
double part_attn_seconds(const struct part_problem *p, uint32_t d, uint32_t layer, double rows,
                         uint32_t head0, uint32_t head1);
double part_ff_seconds(const struct part_problem *p, uint32_t d, uint32_t layer, double rows,
                       uint32_t n_units);
/* Everything of a layer, on one device. */
uint64_t part_layer_bytes(const struct part_problem *p, uint32_t layer);
uint32_t part_kv_heads(const struct part_problem *p, uint32_t head0, uint32_t head1);
/* Rows of a pass when every slot is in use and the ring has so many stages. */
double part_full_rows(const struct part_problem *p, uint32_t n_stages);

/* ---- a problem laid out ---------------------------------------------------------------------- */

/* A problem with what the search adds to it. Device d may take the layers [i, j) exactly when
 * near[d][i] <= j <= reach[d][i]: memory, pins and the cap on a stage's seconds are all monotone in
 * j, so one run of cuts says everything and no later code asks about memory again. */
struct part_view {
    const struct part_problem *p; /* borrowed for the view's life */
    uint32_t n_devices, n_layers;
    bool must[PART_DEVICES_MAX]; /* has to hold a layer: use_all, a pin, or a question "what if" */
    bool slowest;                /* the objective is the slowest stage or link, not the sum */
    double cap_s;                /* no stage and no link is slower than this */
    double sum_s[PART_DEVICES_MAX][PART_LAYERS_MAX + 1]; /* seconds of layers [0, j) */
    double pass_s[PART_DEVICES_MAX], embed_s[PART_DEVICES_MAX], output_s[PART_DEVICES_MAX];
    /* A hand-over, the token that closes the ring, and how long a hand-over keeps the link busy. */
    double link_s[PART_DEVICES_MAX][PART_DEVICES_MAX];
    double token_s[PART_DEVICES_MAX][PART_DEVICES_MAX];
    double busy_s[PART_DEVICES_MAX][PART_DEVICES_MAX];
    uint16_t near[PART_DEVICES_MAX][PART_LAYERS_MAX];
    uint16_t reach[PART_DEVICES_MAX][PART_LAYERS_MAX];
};

/* `rows`: of a pass, for all seconds. */
void part_view_init(struct part_view *v, const struct part_problem *p, double rows);
/* Set cap_s and with it near and reach. */
void part_view_cap(struct part_view *v, double cap_s);
/* A necessary condition, quickly: false proves that no plan obeys the view. */
bool part_view_may_fit(const struct part_view *v);
/* Runs of layers that some device may take: the program's binary columns before any are ruled
 * out. */
size_t part_view_runs(const struct part_view *v);

static inline double part_view_seconds(const struct part_view *v, uint32_t d, uint32_t i,
                                       uint32_t j)
{
    return v->pass_s[d] + (v->sum_s[d][j] - v->sum_s[d][i]) + (i == 0 ? v->embed_s[d] : 0.0) +
           (j == v->n_layers ? v->output_s[d] : 0.0);
}
static inline bool part_view_hop(const struct part_view *v, uint32_t d, uint32_t e)
{
    return d != e && v->busy_s[d][e] <= v->cap_s;
}

/* Local search over ring orders (search.c). True with a plan that obeys the view; `plan` may hold a
 * plan to start from (n_stages > 0). Ends at the deadline or where nothing improves. */
bool part_search(const struct part_view *v, double deadline_s, struct part_plan *plan);

/* A lower bound on the latency of every plan that obeys the view, and for each run of layers and
 * each hop the least latency of a plan that uses it (bound.c). Indexed [first
 * device][device][cut]. */
struct part_bound {
    double value_s; /* PART_NEVER: no plan at all */
    double price[PART_DEVICES_MAX];
    double rebate; /* sum of the prices, part of every path's cost */
    double enter[PART_DEVICES_MAX][PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    double done[PART_DEVICES_MAX][PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    double go[PART_DEVICES_MAX][PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    double after[PART_DEVICES_MAX][PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
};
/* `upper_s`: latency of a known plan. */
void part_bound_compute(const struct part_view *v, double upper_s, double deadline_s,
                        struct part_bound *b);
double part_bound_run(const struct part_view *v, const struct part_bound *b, uint32_t d, uint32_t i,
                      uint32_t j);
double part_bound_hop(const struct part_view *v, const struct part_bound *b, uint32_t d, uint32_t e,
                      uint32_t cut);
double part_bound_ring(const struct part_view *v, const struct part_bound *b, uint32_t last,
                       uint32_t first);

/* One integer program (milp.c): the plan of least latency within the view, or just any plan, or any
 * while not looking at which devices may hand over to which. In: `plan` with a known plan, or
 * n_stages 0; `bound` may be NULL. Out: the best plan known and *lower_s, a proven lower bound on
 * the latency. 0 (the loose question may leave n_stages 0); ERR_INFEASIBLE proven; ERR_TIMEOUT
 * nothing known within the deadline; ERR_FULL too many columns to try; ERR_NOMEM. */
enum part_milp_ask { PART_MILP_BEST, PART_MILP_ANY, PART_MILP_LOOSE };
int part_milp_solve(const struct part_view *v, const struct part_bound *bound,
                    enum part_milp_ask ask, double deadline_s, struct part_plan *plan,
                    double *lower_s, struct err *e);

/* Sentences (explain.c). */
bool part_explain_impossible(const struct part_problem *p, struct err *e);
int part_explain_infeasible(const struct part_problem *p, struct err *e);
void part_explain_left_out(const struct part_problem *p, struct part_plan *plan, uint32_t device,
                           const struct part_plan *with, bool proven);

#endif
