/* What `shoal plan` knows of a plan, private to its files: plan.c fills it, plan_text.c and
 * plan_precision.c print it, plan_svg.c draws it. */
#ifndef CLIENT_PLAN_H
#define CLIENT_PLAN_H

#include "client/client.h"
#include "coordinator/coordinator.h"

enum { PLAN_WHY_MAX = 32, PLAN_WHY_BYTES_MAX = 320 };

struct cli_plan {
    struct cli_cluster_status status;
    /* Of the model; what a running cluster does not tell is 0. */
    uint32_t n_heads, n_kv_heads, n_columns, n_rows;
    bool solved;       /* here, so that links and what memory is for are known */
    bool output_first; /* the ring closes with a hidden state, not with a token */
    /* What is behind the plan, a sentence each: what binds it, what one more board would bring. */
    char why[PLAN_WHY_MAX][PLAN_WHY_BYTES_MAX];
    uint32_t n_why;
    /* With --precision: the types chosen, the budget in percent, the file that would be quantised. */
    bool precise;
    struct coord_precise precision;
    double budget;
    const char *source; /* path; borrowed */
};

/* The workers of a stage, leader first; how many there are, 0 past the last stage. */
uint32_t cli_plan_team(const struct cli_plan *p, uint32_t stage,
                       const struct cli_node *team[static NET_WORKERS_MAX]);
uint32_t cli_plan_stages(const struct cli_plan *p);

void cli_plan_print(const struct cli_plan *p);
/* Of --precision (client/plan_precision.c). */
void cli_plan_print_precision(const struct cli_plan *p);
json_t *cli_plan_precision_json(const struct cli_plan *p); /* NULL: out of memory */

/* The plan as an SVG picture, added to `out` (which may fail: out->failed). All texts are escaped:
 * names come from files. */
void cli_plan_draw(const struct cli_plan *p, struct base_buf *out);

#endif
