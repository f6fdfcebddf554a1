/* `shoal plan` as text: a table with a line for each worker, what the plan should do, and why.
 *
 * A stage's layers and times stand on its leader's line; measured times have a column where there
 * are some. Ranges are first and last. */
#include "client/plan.h"

static const char *range_text(uint32_t first, uint32_t n, char out[static 24])
{
    if (n == 0)
        snprintf(out, 24, "-");
    else if (n == 1)
        snprintf(out, 24, "%u", first);
    else
        snprintf(out, 24, "%u-%u", first, first + n - 1);
    return out;
}

static const char *ms_text(double ms, bool known, char out[static 24])
{
    if (known)
        snprintf(out, 24, "%.3f", ms);
    else
        snprintf(out, 24, "-");
    return out;
}

static void print_worker(const struct cli_plan *p, const struct cli_node *n, bool measured)
{
    char layers[24], heads[24], columns[24], rows[24], planned[24], usable[24], ms[24];
    const bool leads = n->member == 0;
    snprintf(layers, sizeof layers, "%u-%u", n->layer0, n->layer1 - 1);
    printf("%5u  %-8s %-5s %-12s %-6s %-11s ", n->stage, leads ? layers : "",
           leads ? cli_team_text(n) : "", n->name, range_text(n->head0, n->heads, heads),
           range_text(n->column0, n->columns, columns));
    if (p->solved)
        printf("%-13s ", range_text(n->row0, n->row1 - n->row0, rows));
    printf("%9s %9s", base_bytes_text(n->memory_planned, planned),
           base_bytes_text(n->memory_bytes, usable));
    if (leads)
        printf(" %8.3f", n->ms_predicted);
    if (leads && measured)
        printf(" %9s", ms_text(n->ms, n->ms > 0, ms));
    printf("\n");
}

static void print_table(const struct cli_plan *p)
{
    const struct cli_node *team[NET_WORKERS_MAX];
    bool measured = false;
    for (uint32_t i = 0; i < p->status.n_nodes; i++)
        measured = measured || p->status.nodes[i].ms > 0;
    printf("%5s  %-8s %-5s %-12s %-6s %-11s ", "stage", "layers", "team", "node", "heads",
           "columns");
    if (p->solved)
        printf("%-13s ", "output rows");
    printf("%9s %9s %8s%s\n", "planned", "usable", "ms", measured ? "  measured" : "");
    for (uint32_t s = 0; s < cli_plan_stages(p); s++) {
        const uint32_t n = cli_plan_team(p, s, team);
        for (uint32_t k = 0; k < n; k++)
            print_worker(p, team[k], measured);
    }
}

/* Where the time of a token goes. */
static void print_times(const struct cli_plan *p)
{
    const struct cli_node *team[NET_WORKERS_MAX];
    double hops = 0, exchanges = 0;
    for (uint32_t s = 0; s < cli_plan_stages(p); s++)
        if (cli_plan_team(p, s, team) > 0) {
            hops += team[0]->ms_hop;
            exchanges += team[0]->ms_exchange;
        }
    if (hops > 0)
        printf(", %.3f of them on links", hops);
    if (exchanges >= 0.0005)
        printf(", %.3f %sin teams' exchanges", exchanges, hops > 0 ? "" : "of them ");
}

static void print_predictions(const struct cli_plan *p)
{
    const struct cli_cluster_status *st = &p->status;
    printf("\none request: %.3f ms a token predicted", st->ms_predicted);
    print_times(p);
    if (st->ms > 0)
        printf(", %.3f ms measured", st->ms);
    printf("\nall %u slots in use: %.1f tok/s predicted\n", st->slots, st->tok_s_predicted);
    printf("a prompt of %u tokens: %.0f ms to the first token predicted\n", st->prompt,
           st->ttft_predicted);
    if (st->gap > 0)
        printf("the best plan may be up to %.1f %% better: this one is not proven\n",
               100 * st->gap);
    else
        printf("proven to be the best plan\n");
}

void cli_plan_print(const struct cli_plan *p)
{
    const struct cli_cluster_status *st = &p->status;
    printf("cluster %s, model ", st->cluster);
    cli_put_name(base_span_str(st->model), sizeof st->model);
    printf("\n\n");
    if (p->precise)
        cli_plan_print_precision(p);
    print_table(p);
    print_predictions(p);
    for (uint32_t i = 0; i < st->n_nodes; i++) {
        if (st->nodes[i].left_out[0] == 0)
            continue;
        printf("left out: %s: ", st->nodes[i].name);
        cli_put_name(base_span_str(st->nodes[i].left_out), sizeof st->nodes[i].left_out);
        putchar('\n');
    }
    for (uint32_t i = 0; i < p->n_why; i++)
        printf("why: %s\n", p->why[i]);
}
