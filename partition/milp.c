/* The master program, solved with GLPK: the best ring of the view's choices.
 *
 * Columns: run[c,i,j] = 1 where the team of choice c takes layers [i, j); hop[d,e,j] = 1 where leader
 * d hands over to leader e at cut j; ring[d,e] = 1 where the last leader d closes the ring to the
 * first leader e. Rows:
 *   start     sum run[*,0,*] = 1
 *   use[d]    sum of the runs of teams with d <= 1, or = 1 where d must have work
 *   in[d,i]   sum_e hop[e,d,i] = sum of the runs from i that d leads    for 0 < i < L
 *   out[d,j]  sum of the runs to j that d leads = sum_e hop[d,e,j]      for 0 < j < L
 *   last[d]   sum of the runs to L that d leads = sum_e ring[d,e]
 *   first[e]  sum of the runs from 0 that e leads = sum_d ring[d,e]
 *   count     sum run = n_stages, where the view says how many
 * A unit flows from cut 0 to cut L; cuts grow along it, so there are no subtours to forbid, and with
 * the runs integral all else is. Only runs that fit become columns: memory and pins need no rows.
 * Where the slowest stage counts, two more columns: slowest, at least the seconds of the run that
 * device d takes part in and of the hop it sends (a row each), and cycle, at least groups * slowest
 * and at least the sum over the ring. The same for the chunks of a prompt under a TTFT limit.
 *
 * Columns whose bound (bound.c) exceeds a known plan's objective are left out, and where only sums
 * count that plan is GLPK's first incumbent; elsewhere `cycle` is held below the known plan's.
 *
 * GLPK stops the process on its own errors, out of memory among them: the hook jumps out instead,
 * and the environment with all its memory is thrown away after each solve. Nothing is printed. */
#include "partition/internal.h"

#include <assert.h>
#include <glpk.h>
#include <limits.h>
#include <setjmp.h>
#include <string.h>

enum { MILP_COLUMNS_MAX = 30000 }; /* beyond, one relaxation takes longer than a person waits */

/* GLPK compares objectives with relative and absolute tolerances near 1e-7 and 1: costs are scaled
 * so that a plan costs about this much. */
static const double milp_scale_to = 1e3;

/* Costs this much above a known plan, relatively, are kept: rounding must not rule that plan
 * out. */
static const double milp_margin = 1e-9;

enum column_kind { COLUMN_RUN, COLUMN_HOP, COLUMN_RING };
struct column {
    uint8_t kind, d, e;
    uint16_t i, j; /* a run's cuts; a hop's cut is i */
    uint32_t choice;
};

/* Rows and columns that carry the slowest stage or link of a measure. */
struct slow {
    bool on;
    int column, row[PART_DEVICES_MAX], sum_row; /* sum_row: over the whole ring */
};

struct milp {
    const struct part_view *v;
    const struct part_bound *bound; /* may be NULL */
    double upper, scale, deadline_s;
    struct part_plan *plan;
    double lower;

    struct column *columns; /* [n_columns], GLPK's column k + 1 */
    size_t n_columns, n_entries, room;
    int *entry_row, *entry_col; /* from 1, as GLPK counts */
    double *entry_value;
    double *point; /* [n_columns + 1] */
    int row_in[PART_DEVICES_MAX][PART_LAYERS_MAX], row_out[PART_DEVICES_MAX][PART_LAYERS_MAX];
    struct slow full, chunk;
    int cycle;
    glp_prob *lp;
};

static void on_error(void *info)
{
    jmp_buf *broken = info;
    longjmp(*broken, 1);
}

/* Non-zero tells GLPK that the text is dealt with: it prints even with its output off when it
 * fails. */
static int on_text(void *info, const char *text)
{
    (void)info;
    (void)text;
    return 1;
}

int part_milp_guarded(int (*solve)(void *arg), void *arg)
{
    jmp_buf broken;
    volatile int rc = ERR_NOMEM;
    if (setjmp(broken) == 0) {
        glp_term_out(GLP_OFF);
        glp_term_hook(on_text, NULL);
        glp_error_hook(on_error, &broken);
        rc = solve(arg);
    }
    glp_error_hook(NULL, NULL);
    glp_free_env();
    return rc;
}

static bool worth(const struct milp *m, double least)
{
    return least <= m->upper * (1.0 + milp_margin);
}

static void add_column(struct milp *m, struct column c)
{
    if (m->columns != NULL && m->n_columns < MILP_COLUMNS_MAX)
        m->columns[m->n_columns] = c;
    m->n_columns++;
}

/* The least objective of a plan with this run, from what the run alone says of the slowest. */
static double run_least(const struct milp *m, uint32_t c, uint32_t i, uint32_t j)
{
    const struct part_view *v = m->v;
    double least = m->bound != NULL ? part_bound_run(v, m->bound, c, i, j) : 0.0;
    if (v->wants[PART_FULL])
        least = fmax(least, v->weight[PART_FULL] * part_groups(v->p, v->n_stages) *
                                part_view_seconds(v, PART_FULL, c, i, j));
    return least;
}

/* All columns worth having; counts beyond the maximum without storing. */
static void list_columns(struct milp *m)
{
    const struct part_view *v = m->v;
    const uint32_t n = v->n_devices;
    for (uint32_t c = 0; c < v->n_choices; c++)
        for (uint32_t i = 0; i < v->n_layers; i++)
            for (uint32_t j = v->near[(size_t)c * v->n_layers + i];
                 j <= v->reach[(size_t)c * v->n_layers + i]; j++)
                if (worth(m, run_least(m, c, i, j)) && m->n_columns <= MILP_COLUMNS_MAX &&
                    !part_view_dominated(v, c, i, j))
                    add_column(m, (struct column){COLUMN_RUN, (uint8_t)v->choices[c].leader, 0,
                                                  (uint16_t)i, (uint16_t)j, c});
    for (uint32_t d = 0; d < n; d++)
        for (uint32_t e = 0; e < n; e++) {
            for (uint32_t i = 1; i < v->n_layers && d != e; i++)
                if (m->bound == NULL || worth(m, part_bound_hop(v, m->bound, d, e, i)))
                    add_column(
                        m, (struct column){COLUMN_HOP, (uint8_t)d, (uint8_t)e, (uint16_t)i, 0, 0});
            if (m->bound == NULL || worth(m, part_bound_ring(v, m->bound, d, e)))
                add_column(m, (struct column){COLUMN_RING, (uint8_t)d, (uint8_t)e, 0, 0, 0});
        }
}

static double column_seconds(const struct part_view *v, const struct column *c, enum part_measure m)
{
    if (c->kind == COLUMN_RUN)
        return part_view_seconds(v, m, c->choice, c->i, c->j);
    return c->kind == COLUMN_HOP ? v->hop_s[m][c->d][c->e] : v->close_s[m][c->d][c->e];
}

/* How long it keeps a stage or a link. */
static double column_busy(const struct part_view *v, const struct column *c, enum part_measure m)
{
    const double seconds = column_seconds(v, c, m);
    if (c->kind == COLUMN_RUN || c->d == c->e)
        return seconds;
    return seconds - v->p->lat_s[c->d][c->e];
}

/* Rows are made as they are needed, since most (leader, cut) nodes have lost their columns. */
static int equality(struct milp *m, int *slot)
{
    if (*slot == 0) {
        *slot = glp_add_rows(m->lp, 1);
        glp_set_row_bnds(m->lp, *slot, GLP_FX, 0.0, 0.0);
    }
    return *slot;
}

static void entry(struct milp *m, int row, int column, double value)
{
    assert(m->n_entries + 1 < m->room);
    m->n_entries++;
    m->entry_row[m->n_entries] = row;
    m->entry_col[m->n_entries] = column;
    m->entry_value[m->n_entries] = value;
}

static void build_slow(struct milp *m, struct slow *s, double sum_limit)
{
    const int n = (int)m->v->n_devices;
    s->on = true;
    s->column = glp_add_cols(m->lp, 1);
    glp_set_col_bnds(m->lp, s->column, GLP_LO, 0.0, 0.0);
    const int row = glp_add_rows(m->lp, 2 * n + 1);
    for (int d = 0; d < n; d++) {
        s->row[d] = row + 2 * d; /* and the next: the hop it sends */
        glp_set_row_bnds(m->lp, s->row[d], GLP_UP, 0.0, 0.0);
        glp_set_row_bnds(m->lp, s->row[d] + 1, GLP_UP, 0.0, 0.0);
        entry(m, s->row[d], s->column, -1.0);
        entry(m, s->row[d] + 1, s->column, -1.0);
    }
    s->sum_row = row + 2 * n;
    glp_set_row_bnds(m->lp, s->sum_row, GLP_UP, 0.0, sum_limit);
}

/* Besides the flow: the slowest stage with all slots in use, and the prompt's chunks. */
static void build_slowest(struct milp *m)
{
    const struct part_view *v = m->v;
    if (v->wants[PART_FULL]) {
        build_slow(m, &m->full, 0.0);
        m->cycle = glp_add_cols(m->lp, 1);
        const int groups = glp_add_rows(m->lp, 1);
        glp_set_row_bnds(m->lp, groups, GLP_UP, 0.0, 0.0);
        glp_set_col_bnds(m->lp, m->cycle, GLP_LO, 0.0, 0.0);
        if (m->upper < PART_NEVER && v->weight[PART_ONE] == 0.0)
            glp_set_col_bnds(m->lp, m->cycle, GLP_DB, 0.0,
                             m->upper * (1.0 - milp_margin) * v->p->slots * m->scale);
        glp_set_obj_coef(m->lp, m->cycle, v->weight[PART_FULL]);
        entry(m, groups, m->full.column, part_groups(v->p, v->n_stages));
        entry(m, groups, m->cycle, -1.0);
        entry(m, m->full.sum_row, m->cycle, -1.0);
    }
    if (v->wants[PART_CHUNK]) {
        build_slow(m, &m->chunk, v->p->ttft_max_s * m->scale);
        entry(m, m->chunk.sum_row, m->chunk.column, part_chunks(v->p) - 1.0);
    }
}

static void slow_entries(struct milp *m, const struct slow *s, int column, const struct column *c,
                         enum part_measure measure)
{
    if (!s->on)
        return;
    const double busy = column_busy(m->v, c, measure) * m->scale;
    entry(m, s->sum_row, column, column_seconds(m->v, c, measure) * m->scale);
    if (c->kind != COLUMN_RUN)
        entry(m, s->row[c->d] + 1, column, busy);
    for (uint32_t d = 0; c->kind == COLUMN_RUN && d < m->v->n_devices; d++)
        if ((m->v->choices[c->choice].mask >> d & 1) != 0)
            entry(m, s->row[d], column, busy);
}

static void build_column(struct milp *m, size_t k, int start, int count)
{
    const struct part_view *v = m->v;
    const struct column *c = &m->columns[k];
    const int n = (int)v->n_devices, d = c->d, e = c->e, at = (int)k + 1;
    const int use = start + 1, last = use + n, first = last + n;
    if (v->weight[PART_ONE] > 0.0)
        glp_set_obj_coef(m->lp, at,
                         v->weight[PART_ONE] * column_seconds(v, c, PART_ONE) * m->scale);
    slow_entries(m, &m->full, at, c, PART_FULL);
    slow_entries(m, &m->chunk, at, c, PART_CHUNK);
    if (c->kind != COLUMN_RUN) {
        const bool ring = c->kind == COLUMN_RING;
        glp_set_col_bnds(m->lp, at, GLP_LO, 0.0, 0.0);
        entry(m, ring ? last + d : equality(m, &m->row_out[d][c->i]), at, -1.0);
        entry(m, ring ? first + e : equality(m, &m->row_in[e][c->i]), at, -1.0);
        return;
    }
    glp_set_col_kind(m->lp, at, GLP_BV);
    for (int q = 0; q < n; q++)
        if ((v->choices[c->choice].mask >> q & 1) != 0)
            entry(m, use + q, at, 1.0);
    if (c->i == 0)
        entry(m, start, at, 1.0);
    if (count > 0)
        entry(m, count, at, 1.0);
    entry(m, c->i == 0 ? first + d : equality(m, &m->row_in[d][c->i]), at, 1.0);
    entry(m, c->j == v->n_layers ? last + d : equality(m, &m->row_out[d][c->j]), at, 1.0);
}

static void build(struct milp *m)
{
    const struct part_view *v = m->v;
    const int n = (int)v->n_devices;
    m->lp = glp_create_prob();
    const int start = glp_add_rows(m->lp, 1 + 3 * n);
    const int use = start + 1, last = use + n, first = last + n;
    glp_set_row_bnds(m->lp, start, GLP_FX, 1.0, 1.0);
    for (int d = 0; d < n; d++) {
        glp_set_row_bnds(m->lp, use + d, (v->must >> d & 1) != 0 ? GLP_FX : GLP_UP, 1.0, 1.0);
        glp_set_row_bnds(m->lp, last + d, GLP_FX, 0.0, 0.0);
        glp_set_row_bnds(m->lp, first + d, GLP_FX, 0.0, 0.0);
    }
    const int count = v->n_stages > 0 ? glp_add_rows(m->lp, 1) : 0;
    if (count > 0)
        glp_set_row_bnds(m->lp, count, GLP_FX, v->n_stages, v->n_stages);
    glp_add_cols(m->lp, (int)m->n_columns);
    build_slowest(m);
    for (size_t k = 0; k < m->n_columns; k++)
        build_column(m, k, start, count);
    glp_load_matrix(m->lp, (int)m->n_entries, m->entry_row, m->entry_col, m->entry_value);
}

static bool same_stage(const struct part_stage *a, const struct part_stage *b)
{
    return a->layer0 == b->layer0 && a->layer1 == b->layer1 && a->shape == b->shape &&
           a->n_members == b->n_members &&
           memcmp(a->members, b->members, a->n_members * sizeof *a->members) == 0;
}

/* Column c is part of the plan. */
static bool in_plan(const struct milp *m, const struct column *c)
{
    const struct part_plan *plan = m->plan;
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        const struct part_stage *s = &plan->stages[k];
        const bool is_last = k + 1 == plan->n_stages;
        if (s->members[0].device != c->d)
            continue;
        if (c->kind == COLUMN_RUN) {
            const struct part_stage own = part_view_stage(m->v, c->choice, c->i, c->j);
            return same_stage(s, &own);
        }
        if (c->kind == COLUMN_RING)
            return is_last && plan->stages[0].members[0].device == c->e;
        return !is_last && s->layer1 == c->i && plan->stages[k + 1].members[0].device == c->e;
    }
    return false;
}

/* The known plan as a point of the program; false where a column of it is missing, for GLPK
 * believes what it is handed without checking. The presolver stays off, as it would renumber the
 * columns. */
static bool plan_point(struct milp *m)
{
    size_t found = 0;
    for (size_t k = 0; k < m->n_columns; k++) {
        const bool on = in_plan(m, &m->columns[k]);
        m->point[k + 1] = on ? 1.0 : 0.0;
        found += on ? 1 : 0;
    }
    return found == 2 * (size_t)m->plan->n_stages;
}

/* GLPK's incumbent as a plan, where it is one and beats the known plan. */
static bool read_plan(struct milp *m)
{
    struct part_plan plan = {.output_first = m->v->output_first};
    for (size_t k = 0; k < m->n_columns; k++) {
        const struct column *c = &m->columns[k];
        if (c->kind != COLUMN_RUN || glp_mip_col_val(m->lp, (int)k + 1) < 0.5)
            continue;
        if (plan.n_stages == m->v->n_devices)
            return false;
        uint32_t at = plan.n_stages++;
        for (; at > 0 && plan.stages[at - 1].layer0 > c->i; at--)
            plan.stages[at] = plan.stages[at - 1];
        plan.stages[at] = part_view_stage(m->v, c->choice, c->i, c->j);
    }
    if (!part_plan_fits(m->v->p, &plan))
        return false;
    part_plan_cost(m->v->p, &plan);
    if (m->plan->n_stages == 0 ||
        part_plan_objective(m->v->p, &plan) < part_plan_objective(m->v->p, m->plan))
        *m->plan = plan;
    return true;
}

static void on_node(glp_tree *tree, void *info)
{
    struct milp *m = info;
    int best = glp_ios_best_node(tree);
    if (best != 0)
        m->lower = fmax(m->lower, glp_ios_node_bound(tree, best) / m->scale);
    if (glp_ios_reason(tree) == GLP_IHEUR && m->plan->n_stages > 0 && !m->full.on && !m->chunk.on &&
        glp_ios_curr_node(tree) == 1 && plan_point(m))
        glp_ios_heur_sol(tree, m->point);
}

int part_milp_left_ms(double deadline_s)
{
    const double ms = (deadline_s - base_clock_s()) * 1e3;
    return ms < 1.0 ? 1 : ms > 1e9 ? INT_MAX : (int)ms;
}

int part_milp_relax(glp_prob *lp, double deadline_s)
{
    glp_smcp how;
    glp_init_smcp(&how);
    how.msg_lev = GLP_MSG_OFF;
    how.tm_lim = part_milp_left_ms(deadline_s);
    glp_adv_basis(lp, 0);
    if (glp_simplex(lp, &how) != 0)
        return ERR_TIMEOUT;
    if (glp_get_status(lp) == GLP_NOFEAS)
        return ERR_INFEASIBLE;
    return glp_get_status(lp) == GLP_OPT ? 0 : ERR_TIMEOUT;
}

static int solve_relaxed(struct milp *m)
{
    const int rc = part_milp_relax(m->lp, m->deadline_s);
    if (rc == 0)
        m->lower = fmax(m->lower, glp_get_obj_val(m->lp) / m->scale);
    return rc;
}

static int solve_integer(struct milp *m)
{
    glp_iocp how;
    glp_init_iocp(&how);
    how.msg_lev = GLP_MSG_OFF;
    how.tm_lim = part_milp_left_ms(m->deadline_s);
    how.tol_obj = 1e-9;
    how.bt_tech = GLP_BT_BLB;
    how.cb_func = on_node;
    how.cb_info = m;
    int rc = glp_intopt(m->lp, &how);
    int status = glp_mip_status(m->lp);
    if (status == GLP_NOFEAS && rc == 0)
        return ERR_INFEASIBLE;
    if ((status == GLP_OPT || status == GLP_FEAS) && read_plan(m) && status == GLP_OPT)
        m->lower = glp_mip_obj_val(m->lp) / m->scale;
    return 0;
}

static int allocate(struct milp *m)
{
    const size_t n = m->v->n_devices;
    m->room = m->n_columns * (4 + n + (m->v->wants[PART_FULL] ? n + 1 : 0) +
                              (m->v->wants[PART_CHUNK] ? n + 1 : 0)) +
              8 * n + 16;
    m->columns = base_zalloc(m->n_columns, sizeof *m->columns);
    m->point = base_zalloc(m->n_columns + 1, sizeof *m->point);
    m->entry_row = base_zalloc(m->room, sizeof *m->entry_row);
    m->entry_col = base_zalloc(m->room, sizeof *m->entry_col);
    m->entry_value = base_zalloc(m->room, sizeof *m->entry_value);
    if (m->columns == NULL || m->point == NULL || m->entry_row == NULL || m->entry_col == NULL ||
        m->entry_value == NULL)
        return ERR_NOMEM;
    m->n_columns = 0;
    list_columns(m);
    return 0;
}

/* Everything that calls GLPK. */
static int solve_program(void *arg)
{
    struct milp *m = arg;
    build(m);
    const int rc = solve_relaxed(m);
    return rc != 0 ? rc : solve_integer(m);
}

int part_milp_solve(const struct part_view *v, const struct part_bound *bound, double deadline_s,
                    struct part_plan *plan, double *lower, struct err *e)
{
    int rc = ERR_FULL;
    struct milp *m = base_zalloc(1, sizeof *m);
    *lower = 0.0;
    if (m == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the placement program");
    m->v = v;
    m->bound = plan->n_stages > 0 ? bound : NULL;
    m->upper = plan->n_stages > 0 ? part_plan_objective(v->p, plan) : PART_NEVER;
    m->plan = plan;
    m->deadline_s = deadline_s;
    m->scale = m->upper > 0.0 && m->upper < PART_NEVER ? milp_scale_to / m->upper : 1.0;
    list_columns(m);
    if (m->n_columns > MILP_COLUMNS_MAX)
        goto out;
    rc = ERR_INFEASIBLE;
    if (m->n_columns == 0)
        goto out;
    rc = allocate(m);
    if (rc == 0)
        rc = part_milp_guarded(solve_program, m);
    if (rc == ERR_NOMEM)
        err_set(e, rc, "no memory for a placement program of %zu columns", m->n_columns);
    *lower = m->lower;
out:
    base_free(m->columns);
    base_free(m->point);
    base_free(m->entry_row);
    base_free(m->entry_col);
    base_free(m->entry_value);
    base_free(m);
    return rc;
}
