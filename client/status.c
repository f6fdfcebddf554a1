/* `shoal status`: the nodes of a running cluster, what each holds, its memory, its speed, its last
 * error.
 *
 * Layers are written as the configuration writes them: first and last, both included. Figures that
 * are not known are "-" in the table and null in JSON. Texts that other machines sent are printed
 * without control characters. Left out: history; the coordinator's log has it. */
#include "client/client.h"

const char *cli_team_text(const struct cli_node *n)
{
    return n->members < 2 ? "-" : n->mesh ? "mesh" : "star";
}

json_t *cli_node_json(const struct cli_node *n)
{
    const bool works = n->layer1 > n->layer0;
    json_t *o = json_object();
    int bad = json_object_set_new(o, "name", cli_json_text(base_span_str(n->name)));
    bad |= json_object_set_new(o, "state", cli_json_text(base_span_str(n->state)));
    if (works)
        bad |= json_object_set_new(o, "layers",
                                   json_pack("[i,i]", (int)n->layer0, (int)n->layer1 - 1));
    else
        bad |= json_object_set_new(o, "layers", json_null());
    bad |= json_object_set_new(o, "heads", json_integer(works ? n->heads : 0));
    bad |= json_object_set_new(o, "columns", json_integer(works ? n->columns : 0));
    bad |= json_object_set_new(o, "memory_bytes", json_integer((json_int_t)n->memory_bytes));
    bad |= json_object_set_new(o, "memory_used", json_integer((json_int_t)n->memory_used));
    bad |= json_object_set_new(o, "ms", n->ms > 0 ? cli_json_number(n->ms) : json_null());
    bad |= json_object_set_new(o, "last_error",
                               n->last_error[0] != 0 ? cli_json_text(base_span_str(n->last_error))
                                                     : json_null());
    bad |= json_object_set_new(o, "stage", works ? json_integer(n->stage) : json_null());
    bad |= json_object_set_new(o, "team",
                               n->members > 1 ? json_string(cli_team_text(n)) : json_null());
    bad |= json_object_set_new(o, "leads", json_boolean(works && n->member == 0));
    if (bad == 0)
        return o;
    json_decref(o);
    return NULL;
}

static int print_json(const struct cli_cluster_status *st, struct err *e)
{
    json_t *o = json_object(), *nodes = json_array();
    int bad = json_object_set_new(o, "epoch", json_integer((json_int_t)st->epoch));
    for (uint32_t i = 0; i < st->n_nodes; i++)
        bad |= json_array_append_new(nodes, cli_node_json(&st->nodes[i]));
    bad |= json_object_set_new(o, "nodes", nodes);
    return cli_json_print(o, bad != 0, e);
}

static const char *bytes_or_dash(uint64_t bytes, char out[static 24])
{
    return bytes == 0 ? "-" : base_bytes_text(bytes, out);
}

static void print_node(const struct cli_node *n)
{
    char layers[24] = "-", used[24], usable[24], ms[24] = "-", busy[24] = "-";
    if (n->layer1 > n->layer0) {
        snprintf(layers, sizeof layers, "%u-%u", n->layer0, n->layer1 - 1);
        snprintf(busy, sizeof busy, "%.0f %%", 100 * n->busy);
    }
    if (n->ms > 0)
        snprintf(ms, sizeof ms, "%.3f", n->ms);
    printf("%-12s %-10s %-8s %-5s %5u %7u %11s %11s %9s %6s %-12s ", n->name, n->state, layers,
           cli_team_text(n), n->layer1 > n->layer0 ? n->heads : 0,
           n->layer1 > n->layer0 ? n->columns : 0, bytes_or_dash(n->memory_used, used),
           bytes_or_dash(n->memory_bytes, usable), ms, busy, n->kernels[0] != 0 ? n->kernels : "-");
    cli_put_name(base_span_str(n->last_error[0] != 0 ? n->last_error : "-"), sizeof n->last_error);
    putchar('\n');
}

static void print_table(const struct cli_cluster_status *st)
{
    char shipped[24];
    printf("cluster %s, model %s: ", st->cluster, st->model);
    cli_put_name(base_span_str(st->state), sizeof st->state);
    printf("\nplan %llu, %s shipped for it; %u of %u slots in use, %u requests wait",
           (unsigned long long)st->epoch, base_bytes_text(st->shipped_bytes, shipped), st->active,
           st->slots, st->queued);
    if (st->ms > 0)
        printf("; %.3f ms a token", st->ms);
    printf("\n\n%-12s %-10s %-8s %-5s %5s %7s %11s %11s %9s %6s %-12s %s\n", "node", "state",
           "layers", "team", "heads", "columns", "used", "usable", "ms a pass", "busy", "kernels",
           "last error");
    for (uint32_t i = 0; i < st->n_nodes; i++)
        print_node(&st->nodes[i]);
}

int cli_status(const struct cli_options *o, struct err *e)
{
    struct cli_cluster_status *st = base_zalloc(1, sizeof *st);
    int rc = st == NULL ? err_set(e, ERR_NOMEM, "out of memory for the status")
                        : cli_ask_status(o, st, e);
    if (rc == 0 && o->json)
        rc = print_json(st, e);
    else if (rc == 0)
        print_table(st);
    base_free(st);
    return rc;
}
