/* What the solver's files share: a problem laid out for quick questions ("which runs of layers may
 * this device take, and how long would each last"), and the calls from one file to the next. */
#ifndef PARTITION_INTERNAL_H
#define PARTITION_INTERNAL_H

#include "partition/partition.h"

#include <math.h>

/* A value that no cost reaches: "no way to get here". */
#define PART_NEVER HUGE_VAL

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
    uint16_t near[PART_DEVICES_MAX][PART_LAYERS_MAX];
    uint16_t reach[PART_DEVICES_MAX][PART_LAYERS_MAX];
};

void part_view_init(struct part_view *v, const struct part_problem *p);
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
    const struct part_device *dev = &v->p->devices[d];
    return dev->pass_s + (v->sum_s[d][j] - v->sum_s[d][i]) + (i == 0 ? dev->embed_s : 0.0) +
           (j == v->n_layers ? dev->output_s : 0.0);
}
static inline bool part_view_hop(const struct part_view *v, uint32_t d, uint32_t e)
{
    return d != e && v->p->busy_s[d][e] <= v->cap_s;
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
