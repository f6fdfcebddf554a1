/* The linear programs of relax.c, solved with GLPK: a few rows and some hundred columns, built anew
 * each time, which takes less than a millisecond. GLPK's own failures are caught as in milp.c. */
#include "partition/internal.h"

#include <glpk.h>
#include <limits.h>
#include <setjmp.h>

static void on_error(void *info)
{
    longjmp(*(jmp_buf *)info, 1);
}

static int on_text(void *info, const char *text)
{
    (void)info;
    (void)text;
    return 1;
}

static void build(const struct part_lp *lp, glp_prob *g)
{
    int row[PART_LP_ROWS + 1];
    double value[PART_LP_ROWS + 1];
    glp_add_rows(g, (int)lp->n_rows);
    for (uint32_t k = 0; k < lp->n_rows; k++)
        glp_set_row_bnds(g, (int)k + 1,
                         lp->most[k] == PART_NEVER     ? GLP_LO
                         : lp->least[k] == lp->most[k] ? GLP_FX
                                                       : GLP_DB,
                         lp->least[k], lp->most[k] == PART_NEVER ? 0.0 : lp->most[k]);
    glp_add_cols(g, (int)lp->n_columns);
    for (uint32_t c = 0; c < lp->n_columns; c++) {
        int n = 0;
        glp_set_col_bnds(g, (int)c + 1, GLP_LO, 0.0, 0.0);
        glp_set_obj_coef(g, (int)c + 1, lp->cost[c]);
        for (uint32_t k = 0; k < lp->n_rows; k++)
            if (lp->use[c][k] != 0.0) {
                row[++n] = (int)k + 1;
                value[n] = lp->use[c][k];
            }
        glp_set_mat_col(g, (int)c + 1, n, row, value);
    }
}

static int solve_guarded(struct part_lp *lp, double deadline_s)
{
    jmp_buf broken;
    glp_smcp how;
    const double ms = (deadline_s - base_clock_s()) * 1e3;
    if (setjmp(broken) != 0)
        return ERR_NOMEM;
    glp_term_out(GLP_OFF);
    glp_term_hook(on_text, NULL);
    glp_error_hook(on_error, &broken);
    glp_prob *g = glp_create_prob();
    build(lp, g);
    glp_init_smcp(&how);
    how.msg_lev = GLP_MSG_OFF;
    how.tm_lim = ms < 1.0 ? 1 : ms > 1e9 ? INT_MAX : (int)ms;
    if (glp_simplex(g, &how) != 0)
        return ERR_TIMEOUT;
    if (glp_get_status(g) == GLP_NOFEAS)
        return ERR_INFEASIBLE;
    if (glp_get_status(g) != GLP_OPT)
        return ERR_TIMEOUT;
    lp->value = glp_get_obj_val(g);
    for (uint32_t k = 0; k < lp->n_rows; k++)
        lp->dual[k] = glp_get_row_dual(g, (int)k + 1);
    for (uint32_t k = 0; k < lp->n_rows; k++)
        lp->used[k] = glp_get_row_prim(g, (int)k + 1);
    return 0;
}

int part_lp_solve(struct part_lp *lp, double deadline_s)
{
    const int rc = solve_guarded(lp, deadline_s);
    glp_error_hook(NULL, NULL);
    glp_free_env();
    return rc;
}
