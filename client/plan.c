/* `shoal plan`: which worker holds which layers, why, and what that should cost.
 *
 * Without --profile it is the plan in force of a running cluster, with measured times beside the
 * predicted ones. With --profile no cluster is needed: the measurements are read from a file, as a
 * coordinator keeps them in its state folder, the model's shapes from the model file, and the
 * program is solved here by the coordinator's own code, so the plan is the one it would choose.
 * Both fill the same structure.
 *
 * Measurements are matched with the configuration's workers by name; a worker that the file does
 * not know is left out, and said to be. */
#include "client/client.h"
#include "coordinator/coordinator.h"

#include <string.h>

/* ---- solving here ---------------------------------------------------------------------------- */

struct solver {
    struct net_config config;
    struct coord_profile read, profile; /* as in the file; by the configuration's workers */
    struct coord_blocks blocks;
    struct coord_solution solution;
    uint32_t present;
};

static int node_of(const struct coord_profile *p, const char *name)
{
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if (strcmp(p->nodes[i].name, name) == 0)
            return (int)i;
    return -1;
}

/* Put the measurements into the order of the configuration's workers. */
static void match(struct solver *s)
{
    const struct coord_profile *from = &s->read;
    struct coord_profile *to = &s->profile;
    int node[NET_WORKERS_MAX];
    to->n_nodes = s->config.n_workers;
    to->n_layers = from->n_layers;
    for (uint32_t i = 0; i < to->n_nodes; i++) {
        node[i] = node_of(from, s->config.workers[i].name);
        if (node[i] >= 0) {
            to->nodes[i] = from->nodes[node[i]];
            to->coord_rtt[i] = from->coord_rtt[node[i]];
            to->coord_up[i] = from->coord_up[node[i]];
            to->coord_down[i] = from->coord_down[node[i]];
        }
        memcpy(to->nodes[i].name, s->config.workers[i].name, sizeof to->nodes[i].name);
        if (to->nodes[i].measured && !s->config.workers[i].exclude)
            s->present |= UINT32_C(1) << i;
    }
    for (uint32_t i = 0; i < to->n_nodes; i++) {
        for (uint32_t k = 0; k < to->n_nodes; k++) {
            if (node[i] < 0 || node[k] < 0)
                continue;
            to->rtt[i][k] = from->rtt[node[i]][node[k]];
            to->rate[i][k] = from->rate[node[i]][node[k]];
        }
    }
}

static int read_inputs(const struct cli_options *o, struct solver *s, struct err *e)
{
    struct model *m = NULL;
    int rc = net_config_read(o->config, &s->config, e);
    if (rc == 0)
        rc = coord_profile_read(o->profile, &s->read, e);
    if (rc == 0)
        rc = model_open(s->config.model, &m, e);
    if (rc != 0)
        return rc;
    coord_blocks_of(m, &s->config, &s->blocks);
    model_close(m);
    coord_profile_complete(&s->read, &s->blocks);
    match(s);
    if (s->blocks.n_layers != s->read.n_layers)
        return err_set(e, ERR_MISMATCH, "%s was measured on a model of %u layers, %s has %u",
                       o->profile, s->read.n_layers, s->config.model, s->blocks.n_layers);
    if (s->present == 0)
        return err_set(e, ERR_INFEASIBLE, "%s has no measurements of any worker of %s", o->profile,
                       o->config);
    return 0;
}

static const char *reason_of(const struct solver *s, uint32_t i)
{
    if (s->config.workers[i].exclude)
        return "excluded by the configuration";
    if ((s->present >> i & 1) == 0)
        return "the profile has no measurements of it";
    return s->solution.plan.left_out[i][0] != 0 ? s->solution.plan.left_out[i] : "not needed";
}

static void describe_member(const struct solver *s, uint32_t stage, uint32_t member,
                            struct cli_node *n)
{
    const struct part_stage *g = &s->solution.plan.stages[stage];
    const struct part_member *m = &g->members[member];
    snprintf(n->state, sizeof n->state, "planned");
    n->left_out[0] = 0;
    n->stage = stage;
    n->member = member;
    n->members = g->n_members;
    n->mesh = g->shape == PART_MESH;
    n->layer0 = g->layer0;
    n->layer1 = g->layer1;
    n->heads = (m->head1 - m->head0) * s->blocks.unit_heads;
    n->columns = coord_columns(s->blocks.n_ff, s->blocks.unit_cols, m->ff0, m->ff1);
    n->memory_planned = s->solution.memory_bytes[m->device];
    n->ms_predicted = s->solution.stage_s[stage] * 1e3;
}

static void describe(const struct solver *s, struct cli_cluster_status *out)
{
    const struct part_plan *plan = &s->solution.plan;
    const char *slash = strrchr(s->config.model, '/');
    snprintf(out->cluster, sizeof out->cluster, "%s", s->config.name);
    snprintf(out->model, sizeof out->model, "%.255s", slash != NULL ? slash + 1 : s->config.model);
    snprintf(out->state, sizeof out->state, "solved here");
    out->slots = s->config.slots;
    out->n_nodes = s->config.n_workers;
    out->ms_predicted = plan->latency_s * 1e3;
    out->tok_s_predicted = s->solution.batch_rate;
    out->ttft_predicted = plan->ttft_s * 1e3;
    out->prompt = s->config.prompt;
    out->gap = plan->gap;
    for (uint32_t i = 0; i < out->n_nodes; i++) {
        struct cli_node *n = &out->nodes[i];
        snprintf(n->name, sizeof n->name, "%s", s->config.workers[i].name);
        snprintf(n->state, sizeof n->state, "idle");
        snprintf(n->left_out, sizeof n->left_out, "%s", reason_of(s, i));
        n->stage = UINT32_MAX;
        n->memory_bytes = s->profile.nodes[i].memory_bytes;
    }
    for (uint32_t k = 0; k < plan->n_stages; k++)
        for (uint32_t i = 0; i < plan->stages[k].n_members; i++)
            describe_member(s, k, i, &out->nodes[plan->stages[k].members[i].device]);
}

static int solve_here(const struct cli_options *o, struct cli_cluster_status *out, struct err *e)
{
    struct solver *s = base_zalloc(1, sizeof *s);
    int rc;
    if (s == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the placement problem");
    rc = read_inputs(o, s, e);
    if (rc == 0)
        rc = coord_solve(&s->config, &s->blocks, &s->profile, s->present, NULL, &s->solution, e);
    if (rc == 0)
        describe(s, out);
    base_free(s);
    return rc;
}

/* ---- printing -------------------------------------------------------------------------------- */

static int print_json(const struct cli_cluster_status *st, struct err *e)
{
    json_t *o = json_object(), *nodes = json_array(), *left_out = json_array();
    int bad = 0;
    for (uint32_t i = 0; i < st->n_nodes; i++) {
        const struct cli_node *n = &st->nodes[i];
        bad |= json_array_append_new(nodes, cli_node_json(n));
        if (n->left_out[0] == 0)
            continue;
        json_t *one = json_object();
        bad |= json_object_set_new(one, "name", cli_json_text(base_span_str(n->name)));
        bad |= json_object_set_new(one, "reason", cli_json_text(base_span_str(n->left_out)));
        bad |= json_array_append_new(left_out, one);
    }
    bad |= json_object_set_new(o, "nodes", nodes);
    bad |= json_object_set_new(o, "predicted_ms_per_token", cli_json_number(st->ms_predicted));
    bad |= json_object_set_new(o, "predicted_tok_s", cli_json_number(st->tok_s_predicted));
    bad |= json_object_set_new(o, "gap", cli_json_number(st->gap));
    bad |= json_object_set_new(o, "left_out", left_out);
    bad |= json_object_set_new(o, "predicted_ttft_ms", cli_json_number(st->ttft_predicted));
    bad |= json_object_set_new(o, "prompt", json_integer(st->prompt));
    return cli_json_print(o, bad != 0, e);
}

static void print_worker(const struct cli_node *n)
{
    char layers[24], planned[24], usable[24], predicted[24] = "", ms[24] = "-";
    snprintf(layers, sizeof layers, "%u-%u", n->layer0, n->layer1 - 1);
    /* The prediction is the stage's, whose leader comes first. */
    if (n->member == 0)
        snprintf(predicted, sizeof predicted, "%.3f", n->ms_predicted);
    if (n->ms > 0)
        snprintf(ms, sizeof ms, "%.3f", n->ms);
    printf("%5u  %-12s %-5s %-8s %5u %7u %11s %11s %12s %11s\n", n->stage, n->name,
           cli_team_text(n), layers, n->heads, n->columns,
           base_bytes_text(n->memory_planned, planned), base_bytes_text(n->memory_bytes, usable),
           predicted, ms);
}

static void print_table(const struct cli_cluster_status *st)
{
    printf("cluster %s, model %s\n", st->cluster, st->model);
    printf("\n%5s  %-12s %-5s %-8s %5s %7s %11s %11s %12s %11s\n", "stage", "node", "team",
           "layers", "heads", "columns", "planned", "usable", "ms predicted", "ms measured");
    for (uint32_t place = 0; place < st->n_nodes * st->n_nodes; place++)
        for (uint32_t i = 0; i < st->n_nodes; i++)
            if (st->nodes[i].stage == place / st->n_nodes &&
                st->nodes[i].member == place % st->n_nodes)
                print_worker(&st->nodes[i]);
    printf("\none request: %.3f ms a token predicted", st->ms_predicted);
    if (st->ms > 0)
        printf(", %.3f ms measured", st->ms);
    printf("\nall %u slots in use: %.1f tok/s predicted\n", st->slots, st->tok_s_predicted);
    printf("a prompt of %u tokens: %.0f ms to the first token predicted\n", st->prompt,
           st->ttft_predicted);
    if (st->gap > 0)
        printf("the best plan may be up to %.1f %% better: the time for solving ran out\n",
               100 * st->gap);
    else
        printf("proven to be the best plan\n");
    for (uint32_t i = 0; i < st->n_nodes; i++) {
        if (st->nodes[i].left_out[0] == 0)
            continue;
        printf("left out: %s: ", st->nodes[i].name);
        cli_put_name(base_span_str(st->nodes[i].left_out), sizeof st->nodes[i].left_out);
        putchar('\n');
    }
}

int cli_plan(const struct cli_options *o, struct err *e)
{
    struct cli_cluster_status *st = base_zalloc(1, sizeof *st);
    int rc;
    if (st == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the plan");
    rc = o->profile != NULL ? solve_here(o, st, e) : cli_ask_status(o, st, e);
    if (rc == 0 && o->profile == NULL && st->epoch == 0)
        rc = err_set(e, ERR_INFEASIBLE, "no plan is in force yet: %s", st->state);
    if (rc == 0 && o->json)
        rc = print_json(st, e);
    else if (rc == 0)
        print_table(st);
    base_free(st);
    return rc;
}
