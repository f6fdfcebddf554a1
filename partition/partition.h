/* Placement: a function from numbers to a plan. A ring of stages, each a contiguous run of layers
 * on one device, chosen by an integer program solved with GLPK (partition/milp.c), with the
 * exhaustive enumeration that the tests hold it to. Knows nothing of files, sockets or models. */
#ifndef PARTITION_PARTITION_H
#define PARTITION_PARTITION_H

#include "common/common.h"

enum { PART_DEVICES_MAX = 16, PART_LAYERS_MAX = 512, PART_NAME_MAX = 64, PART_REASON_MAX = 200 };

/* One device as the program sees it. All times are seconds for one pass of `rows` rows. */
struct part_device {
    char name[PART_NAME_MAX];
    double layer_s[PART_LAYERS_MAX]; /* compute of each layer of the model on this device */
    double embed_s, output_s;        /* embedding lookup; final norm, output matrix and sampling */
    double pass_s;         /* fixed cost of any pass: waking up, taking and sending a message */
    uint64_t memory_bytes; /* usable for the model */
    int pin0, pin1;        /* layers [pin0, pin1) are this device's exactly; pin0 < 0: free */
};

/* The placement problem. link_s[d][e]: seconds until a hidden state of `rows` rows sent by d is at
 * e (half a round trip plus bytes over bandwidth); token_s the same for a token message, which
 * closes the ring; busy_s[d][e]: seconds that the transfer occupies the link (bytes over
 * bandwidth). Diagonals are 0. */
struct part_problem {
    uint32_t n_layers, n_devices;
    struct part_device devices[PART_DEVICES_MAX];
    double link_s[PART_DEVICES_MAX][PART_DEVICES_MAX];
    double token_s[PART_DEVICES_MAX][PART_DEVICES_MAX];
    double busy_s[PART_DEVICES_MAX][PART_DEVICES_MAX];
    /* memory a device needs: base + scratch + its layers' (weights + KV) + embedding where it is
     * first + output where it is last (shared_bytes of both counted once where it is first and
     * last) */
    uint64_t layer_bytes[PART_LAYERS_MAX]; /* weights + KV at the configured context and slots */
    uint64_t embed_bytes, output_bytes, shared_bytes, base_bytes, scratch_bytes;
    bool throughput; /* minimise the slowest stage or link; otherwise the sum over the ring */
    bool use_all;    /* every device gets at least one layer */
    double time_limit_s;
};

struct part_stage {
    uint32_t device, layer0, layer1;
};

struct part_plan {
    uint32_t n_stages;
    struct part_stage
        stages[PART_DEVICES_MAX]; /* in ring order; stage 0 embeds, the last samples */
    double latency_s;    /* one token of one request: stages, links, the token back to stage 0 */
    double bottleneck_s; /* the slowest stage or link of a pass */
    double gap;          /* proven: (objective - bound) / objective; 0 = optimal */
    double solve_s;
    char left_out[PART_DEVICES_MAX]
                 [PART_REASON_MAX]; /* why device d has no layers; "" where it has */
};

/* Checks sizes, finiteness, pins. ERR_RANGE names the field. */
int part_problem_check(const struct part_problem *p, struct err *e);

/* The cost model, the one definition that program, enumeration and explanation share. Fills
 * latency_s and bottleneck_s of a plan whose stages are set; part_plan_fits says whether it covers
 * the layers once, obeys use_all, pins and memory. */
void part_plan_cost(const struct part_problem *p, struct part_plan *plan);
bool part_plan_fits(const struct part_problem *p, const struct part_plan *plan);
uint64_t part_stage_memory(const struct part_problem *p, const struct part_stage *s);
double part_stage_seconds(const struct part_problem *p, const struct part_stage *s);
double part_plan_objective(const struct part_problem *p, const struct part_plan *plan);

/* Solve with GLPK within time_limit_s. 0 with a plan and its gap; ERR_INFEASIBLE with the numbers
 * ("needs 1.9 GiB, the cluster has 1.2 GiB", or which pins or use rule cannot be met); ERR_RANGE;
 * ERR_NOMEM; ERR_TIMEOUT where the limit passed without any feasible plan. Among plans of equal
 * objective any may be returned. Not reentrant: one thread at a time (GLPK's environment is per
 * thread, the library's choice). */
int part_plan_solve(const struct part_problem *p, struct part_plan *plan, struct err *e);

/* Every plan, tried: small cases only (tests, and n_devices <= 4 with n_layers <= 10). Same
 * results. */
int part_plan_enumerate(const struct part_problem *p, struct part_plan *plan, struct err *e);

#endif
