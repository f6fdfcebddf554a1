/* The integer program, solved with GLPK: least latency among the rings that a view allows.
 *
 * Columns: run[d,i,j] = 1 where device d takes layers [i, j); hop[d,e,j] = 1 where d hands over to
 * e at cut j; ring[d,e] = 1 where the last device d sends its token to the first device e. Rows:
 *   start     sum run[*,0,*] = 1
 *   use[d]    sum run[d,*,*] <= 1, or = 1 where d must hold a layer
 *   in[d,i]   sum_e hop[e,d,i] = sum_j run[d,i,j]     for 0 < i < L
 *   out[d,j]  sum_i run[d,i,j] = sum_e hop[d,e,j]     for 0 < j < L
 *   last[d]   sum_i run[d,i,L] = sum_e ring[d,e]
 *   first[e]  sum_j run[e,0,j] = sum_d ring[d,e]
 * A unit flows from cut 0 to cut L; cuts grow along it, so there are no subtours to forbid, and
 * with the runs integral all else is. Only runs that fit become columns: memory, pins and caps need
 * no rows. Columns whose bound (bound.c) exceeds a known plan's latency are left out, and that plan
 * is GLPK's first incumbent.
 *
 * Where any plan will do, the "loose" program asks first: it has no hops and no ring, and one row
 * for each cut, "as many runs end as begin here". What it refutes is refuted; its plan is one where
 * the hand-overs happen to be allowed.
 *
 * GLPK stops the process on its own errors, out of memory among them: the hook jumps out instead,
 * and the environment with all its memory is thrown away after each solve. Nothing is printed. */
#include "partition/internal.h"

#include <glpk.h>
#include <limits.h>
#include <setjmp.h>
#include <string.h>

enum {
    MILP_COLUMNS_MAX = 30000, /* beyond, one relaxation takes longer than a person waits */
    MILP_ENTRIES_COLUMN = 4,  /* no column is in more rows */
};

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
};

struct milp {
    const struct part_view *v;
    const struct part_bound *bound; /* may be NULL */
    double upper_s, scale, deadline_s;
    bool any, loose;
    struct part_plan *plan;
    double lower_s;

    struct column *columns; /* [n_columns], GLPK's column k + 1 */
    size_t n_columns, n_entries;
    int *entry_row, *entry_col; /* from 1, as GLPK counts */
    double *entry_value;
    double *point; /* [n_columns + 1] */
    int row_in[PART_DEVICES_MAX][PART_LAYERS_MAX], row_out[PART_DEVICES_MAX][PART_LAYERS_MAX];
    glp_prob *lp;
    jmp_buf broken;
};

static void on_error(void *info)
{
    struct milp *m = info;
    longjmp(m->broken, 1);
}

/* Non-zero tells GLPK that the text is dealt with: it prints even with its output off when it
 * fails. */
static int on_text(void *info, const char *text)
{
    (void)info;
    (void)text;
    return 1;
}

static bool worth(const struct milp *m, double least_s)
{
    return least_s <= m->upper_s * (1.0 + milp_margin);
}

static void add_column(struct milp *m, struct column c)
{
    if (m->columns != NULL && m->n_columns < MILP_COLUMNS_MAX)
        m->columns[m->n_columns] = c;
    m->n_columns++;
}

/* All columns worth having; counts beyond the maximum without storing. */
static void list_columns(struct milp *m)
{
    const struct part_view *v = m->v;
    const uint32_t n = v->n_devices;
    for (uint32_t d = 0; d < n; d++) {
        for (uint32_t i = 0; i < v->n_layers; i++)
            for (uint32_t j = v->near[d][i]; j <= v->reach[d][i]; j++)
                if (m->bound == NULL || worth(m, part_bound_run(v, m->bound, d, i, j)))
                    add_column(
                        m, (struct column){COLUMN_RUN, (uint8_t)d, 0, (uint16_t)i, (uint16_t)j});
        for (uint32_t e = 0; !m->loose && e < n; e++) {
            for (uint32_t i = 1; i < v->n_layers && part_view_hop(v, d, e); i++)
                if (m->bound == NULL || worth(m, part_bound_hop(v, m->bound, d, e, i)))
                    add_column(m,
                               (struct column){COLUMN_HOP, (uint8_t)d, (uint8_t)e, (uint16_t)i, 0});
            if (m->bound == NULL || worth(m, part_bound_ring(v, m->bound, d, e)))
                add_column(m, (struct column){COLUMN_RING, (uint8_t)d, (uint8_t)e, 0, 0});
        }
    }
}

static double column_seconds(const struct part_view *v, const struct column *c)
{
    if (c->kind == COLUMN_RUN)
        return part_view_seconds(v, c->d, c->i, c->j);
    return c->kind == COLUMN_HOP ? v->link_s[c->d][c->e] : v->token_s[c->d][c->e];
}

/* Rows are made as they are needed, since most (device, cut) nodes have lost their columns. */
static int equality(struct milp *m, int *slot)
{
    if (*slot == 0) {
        *slot = glp_add_rows(m->lp, 1);
        glp_set_row_bnds(m->lp, *slot, GLP_FX, 0.0, 0.0);
    }
    return *slot;
}

static void entry(struct milp *m, int row, size_t k, double value)
{
    m->n_entries++;
    m->entry_row[m->n_entries] = row;
    m->entry_col[m->n_entries] = (int)k + 1;
    m->entry_value[m->n_entries] = value;
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
        glp_set_row_bnds(m->lp, use + d, v->must[d] ? GLP_FX : GLP_UP, 1.0, 1.0);
        glp_set_row_bnds(m->lp, last + d, GLP_FX, 0.0, 0.0);
        glp_set_row_bnds(m->lp, first + d, GLP_FX, 0.0, 0.0);
    }
    glp_add_cols(m->lp, (int)m->n_columns);
    for (size_t k = 0; k < m->n_columns; k++) {
        const struct column *c = &m->columns[k];
        const int d = c->d, e = c->e;
        glp_set_obj_coef(m->lp, (int)k + 1, column_seconds(v, c) * m->scale);
        if (c->kind == COLUMN_RUN) {
            glp_set_col_kind(m->lp, (int)k + 1, GLP_BV);
            entry(m, use + d, k, 1.0);
            if (c->i == 0)
                entry(m, start, k, 1.0);
            if (m->loose) {
                if (c->i > 0)
                    entry(m, equality(m, &m->row_in[0][c->i]), k, 1.0);
                if (c->j < v->n_layers)
                    entry(m, equality(m, &m->row_in[0][c->j]), k, -1.0);
                continue;
            }
            entry(m, c->i == 0 ? first + d : equality(m, &m->row_in[d][c->i]), k, 1.0);
            entry(m, c->j == v->n_layers ? last + d : equality(m, &m->row_out[d][c->j]), k, 1.0);
        } else {
            glp_set_col_bnds(m->lp, (int)k + 1, GLP_LO, 0.0, 0.0);
            entry(m, c->kind == COLUMN_RING ? last + d : equality(m, &m->row_out[d][c->i]), k,
                  -1.0);
            entry(m, c->kind == COLUMN_RING ? first + e : equality(m, &m->row_in[e][c->i]), k,
                  -1.0);
        }
    }
    glp_load_matrix(m->lp, (int)m->n_entries, m->entry_row, m->entry_col, m->entry_value);
}

/* Column c is part of the plan. */
static bool in_plan(const struct part_plan *plan, const struct column *c)
{
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        const struct part_stage *s = &plan->stages[k];
        const bool is_last = k + 1 == plan->n_stages;
        if (s->members[0].device != c->d)
            continue;
        if (c->kind == COLUMN_RUN)
            return s->layer0 == c->i && s->layer1 == c->j;
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
        const bool on = in_plan(m->plan, &m->columns[k]);
        m->point[k + 1] = on ? 1.0 : 0.0;
        found += on ? 1 : 0;
    }
    return found == 2 * (size_t)m->plan->n_stages;
}

/* GLPK's incumbent as a plan, where it is one and beats the known plan. */
static bool read_plan(struct milp *m)
{
    struct part_plan plan = {0};
    for (size_t k = 0; k < m->n_columns; k++) {
        const struct column *c = &m->columns[k];
        if (c->kind != COLUMN_RUN || glp_mip_col_val(m->lp, (int)k + 1) < 0.5)
            continue;
        if (plan.n_stages == m->v->n_devices)
            return false;
        uint32_t at = plan.n_stages++;
        for (; at > 0 && plan.stages[at - 1].layer0 > c->i; at--)
            plan.stages[at] = plan.stages[at - 1];
        plan.stages[at] = part_stage_single(m->v->p, c->d, c->i, c->j, c->j == m->v->n_layers);
    }
    if (!part_plan_fits(m->v->p, &plan))
        return false;
    for (uint32_t k = 0; k + 1 < plan.n_stages; k++)
        if (!part_view_hop(m->v, plan.stages[k].members[0].device,
                           plan.stages[k + 1].members[0].device))
            return false;
    part_plan_cost(m->v->p, &plan);
    if (m->plan->n_stages == 0 || plan.latency_s < m->plan->latency_s)
        *m->plan = plan;
    return true;
}

static void on_node(glp_tree *tree, void *info)
{
    struct milp *m = info;
    int reason = glp_ios_reason(tree);
    int best = glp_ios_best_node(tree);
    if (best != 0)
        m->lower_s = fmax(m->lower_s, glp_ios_node_bound(tree, best) / m->scale);
    if (reason == GLP_IHEUR && m->plan->n_stages > 0 && glp_ios_curr_node(tree) == 1 &&
        plan_point(m))
        glp_ios_heur_sol(tree, m->point);
    if (reason == GLP_IBINGO && m->any)
        glp_ios_terminate(tree);
}

static int left_ms(const struct milp *m)
{
    double ms = (m->deadline_s - base_clock_s()) * 1e3;
    return ms < 1.0 ? 1 : ms > 1e9 ? INT_MAX : (int)ms;
}

/* The relaxation. 0 optimal, ERR_INFEASIBLE, ERR_TIMEOUT anything else. */
static int solve_relaxed(struct milp *m)
{
    glp_smcp how;
    glp_init_smcp(&how);
    how.msg_lev = GLP_MSG_OFF;
    how.tm_lim = left_ms(m);
    glp_adv_basis(m->lp, 0);
    if (glp_simplex(m->lp, &how) != 0)
        return ERR_TIMEOUT;
    if (glp_get_status(m->lp) == GLP_NOFEAS)
        return ERR_INFEASIBLE;
    if (glp_get_status(m->lp) != GLP_OPT)
        return ERR_TIMEOUT;
    m->lower_s = fmax(m->lower_s, glp_get_obj_val(m->lp) / m->scale);
    return 0;
}

static int solve_integer(struct milp *m)
{
    glp_iocp how;
    glp_init_iocp(&how);
    how.msg_lev = GLP_MSG_OFF;
    how.tm_lim = left_ms(m);
    how.tol_obj = 1e-9;
    how.bt_tech = m->any ? GLP_BT_DFS : GLP_BT_BLB;
    how.cb_func = on_node;
    how.cb_info = m;
    int rc = glp_intopt(m->lp, &how);
    int status = glp_mip_status(m->lp);
    if (status == GLP_NOFEAS && rc == 0)
        return ERR_INFEASIBLE;
    if ((status == GLP_OPT || status == GLP_FEAS) && read_plan(m) && status == GLP_OPT)
        m->lower_s = glp_mip_obj_val(m->lp) / m->scale;
    return 0;
}

static int allocate(struct milp *m)
{
    const size_t entries = m->n_columns * MILP_ENTRIES_COLUMN + 1;
    m->columns = base_zalloc(m->n_columns, sizeof *m->columns);
    m->point = base_zalloc(m->n_columns + 1, sizeof *m->point);
    m->entry_row = base_zalloc(entries, sizeof *m->entry_row);
    m->entry_col = base_zalloc(entries, sizeof *m->entry_col);
    m->entry_value = base_zalloc(entries, sizeof *m->entry_value);
    if (m->columns == NULL || m->point == NULL || m->entry_row == NULL || m->entry_col == NULL ||
        m->entry_value == NULL)
        return ERR_NOMEM;
    m->n_columns = 0;
    list_columns(m);
    return 0;
}

/* Everything that calls GLPK, so that its failure can jump out of it. */
static int solve_guarded(struct milp *m)
{
    if (setjmp(m->broken) != 0)
        return ERR_NOMEM;
    glp_term_out(GLP_OFF);
    glp_term_hook(on_text, NULL);
    glp_error_hook(on_error, m);
    build(m);
    int rc = solve_relaxed(m);
    return rc != 0 ? rc : solve_integer(m);
}

int part_milp_solve(const struct part_view *v, const struct part_bound *bound,
                    enum part_milp_ask ask, double deadline_s, struct part_plan *plan,
                    double *lower_s, struct err *e)
{
    int rc = ERR_FULL;
    struct milp *m = base_zalloc(1, sizeof *m);
    *lower_s = 0.0;
    if (m == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the placement program");
    m->v = v;
    m->bound = plan->n_stages > 0 ? bound : NULL;
    m->upper_s = plan->n_stages > 0 ? plan->latency_s : PART_NEVER;
    m->any = ask != PART_MILP_BEST;
    m->loose = ask == PART_MILP_LOOSE;
    m->plan = plan;
    m->deadline_s = deadline_s;
    double typical_s =
        plan->n_stages > 0 ? plan->latency_s : part_view_seconds(v, 0, 0, v->n_layers);
    m->scale = typical_s > 0.0 ? milp_scale_to / typical_s : 1.0;
    list_columns(m);
    if (m->n_columns > MILP_COLUMNS_MAX)
        goto out;
    rc = allocate(m);
    if (rc == 0) {
        rc = solve_guarded(m);
        glp_error_hook(NULL, NULL);
        glp_free_env();
    }
    if (rc == ERR_NOMEM)
        err_set(e, rc, "no memory for a placement program of %zu columns", m->n_columns);
    *lower_s = m->lower_s;
out:
    base_free(m->columns);
    base_free(m->point);
    base_free(m->entry_row);
    base_free(m->entry_col);
    base_free(m->entry_value);
    base_free(m);
    return rc;
}
