/* The best type of each layer for a plan that is there: a multiple-choice knapsack, solved with GLPK.
 *
 * Columns: x[l,q] = 1 where layer l has type q. Rows:
 *   one[l]      sum_q x[l,q] = 1
 *   budget      sum loss[q][l] x[l,q] <= budget
 *   memory[d]   the layers' bytes on each member <= its memory less everything else it has
 * A stage's seconds are the sum of its layers' and of what does not depend on types, so the objective
 * is exact: for latency the sum, and where the slowest stage counts, two more columns, slowest and
 * cycle, as in milp.c; likewise for the chunks of a prompt under a TTFT limit.
 *
 * Without a plan the columns' bytes are the objective, and one and budget the only rows. */
#include "partition/internal.h"

#include <glpk.h>

/* Sums are scaled so that they are about this much (milp.c says why); bytes are counted in MiB. */
static const double scale_to = 1e3, byte_scale = 1.0 / (1 << 20);
/* Proven this close, relatively, is good enough: layers that are alike would take long. */
static const double close_enough = 1e-5;

struct types {
    const struct part_precision *x;
    const struct part_plan *plan; /* NULL: fewest bytes */
    const struct part_problem *p; /* of type 0 */
    double scale, deadline_s;
    uint32_t stage[PART_LAYERS_MAX];
    int n_entries, room, *row, *col; /* from 1, as GLPK counts */
    double *value;
    glp_prob *lp;
    uint8_t *type; /* the answer */
};

static int column(const struct types *t, uint32_t l, uint32_t q)
{
    return (int)(l * t->x->n_types + q) + 1;
}

static void entry(struct types *t, int row, int col, double value)
{
    t->n_entries++;
    t->row[t->n_entries] = row;
    t->col[t->n_entries] = col;
    t->value[t->n_entries] = value;
}

static int at_most(struct types *t, double limit)
{
    const int row = glp_add_rows(t->lp, 1);
    glp_set_row_bnds(t->lp, row, GLP_UP, 0.0, limit);
    return row;
}

static int variable(struct types *t, double least)
{
    const int col = glp_add_cols(t->lp, 1);
    glp_set_col_bnds(t->lp, col, GLP_LO, least, 0.0);
    return col;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void build_choice(struct types *t)
{
    const struct part_precision *x = t->x;
    const double scale = x->budget > 0.0 ? 1.0 / x->budget : 1.0;
    const int first = glp_add_rows(t->lp, (int)t->p->n_layers);
    const int budget = at_most(t, x->budget * scale);
    for (uint32_t l = 0; l < t->p->n_layers; l++) {
        glp_set_row_bnds(t->lp, first + (int)l, GLP_FX, 1.0, 1.0);
        for (uint32_t q = 0; q < x->n_types; q++) {
            glp_set_col_kind(t->lp, column(t, l, q), GLP_BV);
            entry(t, first + (int)l, column(t, l, q), 1.0);
            entry(t, budget, column(t, l, q), x->loss[q][l] * scale);
        }
    }
}

static uint64_t member_bytes(const struct part_problem *p, const struct part_member *m, uint32_t l)
{
    const struct part_layer *y = &p->layers[l];
    return y->common_bytes + (m->head1 - m->head0) * y->head_bytes +
           part_kv_heads(p, m->head0, m->head1) * y->kv_bytes + (m->ff1 - m->ff0) * y->ff_bytes;
}

static void build_memory(struct types *t, const struct part_stage *s, uint32_t k)
{
    const struct part_member *m = &s->members[k];
    const struct part_device *dev = &t->p->devices[m->device];
    double room = (double)dev->memory_bytes - (double)part_member_memory(t->p, s, k);
    for (uint32_t l = s->layer0; l < s->layer1; l++)
        room += (double)member_bytes(t->p, m, l);
    const int row = at_most(t, room * byte_scale);
    for (uint32_t l = s->layer0; l < s->layer1; l++)
        for (uint32_t q = 0; q < t->x->n_types; q++)
            entry(t, row, column(t, l, q), (double)member_bytes(t->x->of[q], m, l) * byte_scale);
}

static double layer_seconds(const struct types *t, uint32_t l, uint32_t q, struct part_pass pass)
{
    return part_stage_layer(t->x->of[q], &t->plan->stages[t->stage[l]], l, pass) * t->scale;
}

/* Rows for the slowest stage or link of a pass, whose column is returned, and the ring's sum, whose row
 * is; the sum is at most `limit`. */
static int build_pass(struct types *t, struct part_pass pass, double limit, int *sum)
{
    const struct part_plan *plan = t->plan;
    const struct part_ring ring = part_ring_of(t->p, plan, pass);
    const int slowest = variable(t, ring.link_s * t->scale);
    double fixed = ring.sum_s * t->scale;
    int row[PART_DEVICES_MAX];
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        const struct part_stage *s = &plan->stages[k];
        double own = t->scale * (pass.prompt ? part_stage_prompt_seconds(t->p, s)
                                             : part_stage_seconds(t->p, s, pass.rows));
        for (uint32_t l = s->layer0; l < s->layer1; l++) {
            own -= layer_seconds(t, l, 0, pass);
            fixed -= layer_seconds(t, l, 0, pass);
        }
        row[k] = at_most(t, -own);
        entry(t, row[k], slowest, -1.0);
    }
    *sum = at_most(t, limit - fixed);
    for (uint32_t l = 0; l < t->p->n_layers; l++)
        for (uint32_t q = 0; q < t->x->n_types; q++) {
            const double seconds = layer_seconds(t, l, q, pass);
            entry(t, row[t->stage[l]], column(t, l, q), seconds);
            entry(t, *sum, column(t, l, q), seconds);
        }
    return slowest;
}

static void build_objective(struct types *t)
{
    const struct part_problem *p = t->p;
    const double one = p->objective == PART_LATENCY      ? 1.0
                       : p->objective == PART_THROUGHPUT ? 0.0
                                                         : p->weight;
    for (uint32_t l = 0; one > 0.0 && l < p->n_layers; l++)
        for (uint32_t q = 0; q < t->x->n_types; q++)
            glp_set_obj_coef(t->lp, column(t, l, q),
                             one * layer_seconds(t, l, q, (struct part_pass){1.0, false}));
    if (one < 1.0) {
        const uint32_t groups = part_groups(p, t->plan->n_stages);
        const int cycle = variable(t, 0.0), served = at_most(t, 0.0);
        int sum;
        glp_set_obj_coef(t->lp, cycle, (1.0 - one) / p->slots);
        entry(t, served,
              build_pass(t, (struct part_pass){part_full_rows(p, t->plan->n_stages), false}, 0.0,
                         &sum),
              groups);
        entry(t, served, cycle, -1.0);
        entry(t, sum, cycle, -1.0);
    }
    if (p->ttft_max_s > 0.0) {
        int sum;
        const int slowest = build_pass(t, (struct part_pass){part_chunk_rows(p), true},
                                       p->ttft_max_s * t->scale, &sum);
        entry(t, sum, slowest, part_chunks(p) - 1.0);
    }
}

static void build_bytes(struct types *t)
{
    for (uint32_t l = 0; l < t->p->n_layers; l++)
        for (uint32_t q = 0; q < t->x->n_types; q++)
            glp_set_obj_coef(t->lp, column(t, l, q),
                             (double)part_layer_bytes(t->x->of[q], l) * byte_scale);
}

/* ---- solving --------------------------------------------------------------------------------- */

static int run(struct types *t)
{
    glp_iocp how;
    const int relaxed = part_milp_relax(t->lp, t->deadline_s);
    if (relaxed != 0)
        return relaxed;
    glp_init_iocp(&how);
    how.msg_lev = GLP_MSG_OFF;
    how.tm_lim = part_milp_left_ms(t->deadline_s);
    how.mip_gap = close_enough;
    how.cov_cuts = GLP_ON;
    const int rc = glp_intopt(t->lp, &how);
    const int status = glp_mip_status(t->lp);
    if (status != GLP_OPT && status != GLP_FEAS)
        return rc == 0 && status == GLP_NOFEAS ? ERR_INFEASIBLE : ERR_TIMEOUT;
    for (uint32_t l = 0; l < t->p->n_layers; l++)
        for (uint32_t q = 0; q < t->x->n_types; q++)
            if (glp_mip_col_val(t->lp, column(t, l, q)) > 0.5)
                t->type[l] = (uint8_t)q;
    return 0;
}

static int solve(void *arg)
{
    struct types *t = arg;
    t->lp = glp_create_prob();
    glp_add_cols(t->lp, (int)(t->p->n_layers * t->x->n_types));
    build_choice(t);
    for (uint32_t s = 0; t->plan != NULL && s < t->plan->n_stages; s++)
        for (uint32_t k = 0; k < t->plan->stages[s].n_members; k++)
            build_memory(t, &t->plan->stages[s], k);
    if (t->plan != NULL)
        build_objective(t);
    else
        build_bytes(t);
    glp_load_matrix(t->lp, t->n_entries, t->row, t->col, t->value);
    return run(t);
}

int part_milp_types(const struct part_precision *x, const struct part_plan *plan, double deadline_s,
                    uint8_t *type)
{
    struct types t = {.x = x, .plan = plan, .p = x->of[0], .deadline_s = deadline_s, .type = type};
    const size_t n = (size_t)t.p->n_layers * x->n_types;
    int rc = ERR_NOMEM;
    t.scale = 1.0;
    if (plan != NULL)
        t.scale = scale_to / part_ring_of(t.p, plan, (struct part_pass){1.0, false}).sum_s;
    for (uint32_t s = 0; plan != NULL && s < plan->n_stages; s++)
        for (uint32_t l = plan->stages[s].layer0; l < plan->stages[s].layer1; l++)
            t.stage[l] = s;
    /* Of a column: one, budget, each member's memory, two passes' stage and sum. */
    const size_t room = n * (6 + t.p->n_devices) + 2 * PART_DEVICES_MAX + 16;
    t.row = base_zalloc(room, sizeof *t.row);
    t.col = base_zalloc(room, sizeof *t.col);
    t.value = base_zalloc(room, sizeof *t.value);
    if (t.row != NULL && t.col != NULL && t.value != NULL)
        rc = part_milp_guarded(solve, &t);
    base_free(t.row);
    base_free(t.col);
    base_free(t.value);
    return rc;
}
