/* `shoal status`: the nodes of a running cluster, what each holds, its memory, its speed, its last
 * error.
 *
 * Layers are written as the configuration writes them: first and last, both included. Figures that
 * are not known are "-" in the table and null in JSON. Texts that other machines sent are printed
 * without control characters. Left out: histories, which `top` shows. */
#include "client/client.h"

#include <math.h>

const char *cli_board_text(const struct cli_node *n, char out[static CLI_BOARD_BYTES])
{
    /* As a Raspberry Pi's firmware numbers them, and then ours; the most telling first. */
    static const struct {
        uint32_t flag;
        const char *word;
    } words[] = {{1, "undervolted"}, {4, "throttled"}, {8, "near its limit"}, {2, "clock limited"}};
    char heat[16] = "", charge[32] = "";
    const char *word = "";
    if (!isnan(n->temperature))
        snprintf(heat, sizeof heat, "%.0f C", fmin(999, fmax(-999, n->temperature)));
    for (size_t i = 0; i < sizeof words / sizeof *words && word[0] == 0; i++)
        word = (n->flags & words[i].flag) != 0 ? words[i].word : "";
    if (!isnan(n->battery))
        snprintf(charge, sizeof charge, "%s %.0f%%",
                 (n->flags & 16) != 0 ? "on battery" : "battery",
                 100 * fmin(1, fmax(0, n->battery)));
    snprintf(out, CLI_BOARD_BYTES, "%s%s%s%s%s", heat, heat[0] != 0 && word[0] != 0 ? " " : "",
             word, charge[0] != 0 && (heat[0] != 0 || word[0] != 0) ? ", " : "", charge);
    if (out[0] == 0)
        snprintf(out, CLI_BOARD_BYTES, "-");
    return out;
}

const char *cli_error_text(const struct cli_node *n, char out[static CLI_ERROR_BYTES])
{
    const uint64_t s = n->error_ms / 1000;
    if (n->last_error[0] == 0)
        snprintf(out, CLI_ERROR_BYTES, "-");
    else
        snprintf(out, CLI_ERROR_BYTES, "%s%llu %s ago: %s", n->lost ? "lost " : "",
                 (unsigned long long)(s < 120      ? s
                                      : s < 7200   ? s / 60
                                      : s < 172800 ? s / 3600
                                                   : s / 86400),
                 s < 120      ? "s"
                 : s < 7200   ? "min"
                 : s < 172800 ? "h"
                              : "days",
                 n->last_error);
    return out;
}

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
    bad |= json_object_set_new(o, "keeper",
                               n->keeper[0] != 0 ? cli_json_text(base_span_str(n->keeper))
                                                 : json_null());
    bad |= json_object_set_new(o, "copied", json_integer(n->copied));
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
    bad |= json_object_set_new(
        o, "stays", st->stays[0] != 0 ? cli_json_text(base_span_str(st->stays)) : json_null());
    return cli_json_print(o, bad != 0, e);
}

static const char *bytes_or_dash(uint64_t bytes, char out[static 24])
{
    return bytes == 0 ? "-" : base_bytes_text(bytes, out);
}

static const char *number_or_dash(double v, bool known, const char *format, char out[static 24])
    __attribute__((format(printf, 3, 0)));
static const char *number_or_dash(double v, bool known, const char *format, char out[static 24])
{
    snprintf(out, 24, known ? format : "-", v);
    return out;
}

static void print_node(const struct cli_node *n)
{
    char layers[24] = "-", used[24], left[24] = "-", usable[24], ms[24], promised[24], ratio[24],
         busy[24], memory[24], cpu[24], board[CLI_BOARD_BYTES], error[CLI_ERROR_BYTES];
    const bool works = n->layer1 > n->layer0;
    if (works)
        snprintf(layers, sizeof layers, "%u-%u", n->layer0, n->layer1 - 1);
    if (n->memory_free != UINT64_MAX)
        base_bytes_text(n->memory_free, left);
    printf("%-12s %-10s %-8s %-5s %5u %7u %11s %11s %11s ", n->name, n->state, layers,
           cli_team_text(n), works ? n->heads : 0, works ? n->columns : 0,
           bytes_or_dash(n->memory_used, used), left, bytes_or_dash(n->memory_bytes, usable));
    printf("%9s %9s %5s %6s ", number_or_dash(n->ms, n->ms > 0, "%.3f", ms),
           number_or_dash(n->ms_predicted, works && n->member == 0, "%.3f", promised),
           number_or_dash(n->ratio, n->ratio > 0, "%.2f", ratio),
           number_or_dash(100 * n->busy, works, "%.0f %%", busy));
    printf("%7s %7s %-20s %-12s ",
           number_or_dash(n->memory_pressure, !isnan(n->memory_pressure), "%.1f", memory),
           number_or_dash(n->cpu_pressure, !isnan(n->cpu_pressure), "%.1f", cpu),
           cli_board_text(n, board), n->kernels[0] != 0 ? n->kernels : "-");
    cli_put_name(base_span_str(cli_error_text(n, error)), sizeof error);
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
    if (st->tok_s > 0)
        printf("; %.1f tok/s", st->tok_s);
    if (st->stays[0] != 0)
        printf("\n%s", st->stays);
    printf("\n\n%-12s %-10s %-8s %-5s %5s %7s %11s %11s %11s %9s %9s %5s %6s %7s %7s %-20s %-12s %s\n",
           "node", "state", "layers", "team", "heads", "columns", "used", "free", "usable",
           "ms a pass", "predicted", "ratio", "busy", "mem psi", "cpu psi", "board", "kernels",
           "last error");
    for (uint32_t i = 0; i < st->n_nodes; i++)
        print_node(&st->nodes[i]);
    for (uint32_t i = 0; i < st->n_nodes; i++)
        if (st->nodes[i].keeper[0] != 0)
            printf("%s has a copy of %u KV rows of %s\n", st->nodes[i].keeper, st->nodes[i].copied,
                   st->nodes[i].name);
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
