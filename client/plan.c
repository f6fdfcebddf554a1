/* `shoal plan`: which worker holds which layers, why, and what that should cost.
 *
 * Without --profile it is the plan in force of a running cluster, with measured times beside the
 * predicted ones. With --profile no cluster is needed: the measurements are read from a file, as a
 * coordinator keeps them in its state folder, the model's shapes from the model file, and the
 * program is solved here by the coordinator's own code, so the plan is the one it would choose.
 * Both fill the same structure, which is printed as a table or JSON and drawn with --svg. Only what
 * is solved here can be explained: the questions behind the explanation are programs, too.
 *
 * Measurements are matched with the configuration's workers by name; a worker that the file does
 * not know is left out, and said to be. */
#include "client/plan.h"

#include <string.h>

/* ---- solving here ---------------------------------------------------------------------------- */

struct solver {
    const char *model; /* path */
    struct net_config config;
    struct coord_profile read, profile; /* as in the file; by the configuration's workers */
    struct coord_blocks blocks;
    struct coord_solution solution;
    struct coord_reasons reasons;
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

/* With --precision: types for the layers, and from then on the model is the one that they make. */
static int choose_types(const struct cli_options *o, struct solver *s, struct model **m,
                        struct cli_plan *out, struct err *e)
{
    const struct model_quantise how = {.n_threads = cli_threads(o), .stop = cli_interrupted};
    const struct coord_blocks file = s->blocks;
    struct model *made = NULL;
    int rc = coord_precision(&s->config, s->model, *m, &s->profile, s->present,
                             o->precision / 100.0, &how, &out->precision, e);
    if (rc == ERR_UNSUPPORTED)
        err_wrap(e, rc, "%s has its types already", s->model);
    if (rc == 0)
        rc = model_quantised_open(model_gguf(*m), out->precision.list, &made, e);
    if (rc != 0)
        return rc;
    model_close(*m);
    *m = made;
    coord_blocks_of(made, &s->config, &s->blocks);
    coord_profile_retype(&s->profile, &file, &s->blocks);
    out->precise = true;
    out->budget = o->precision;
    out->source = o->model != NULL ? o->model : "IN";
    return 0;
}

static int read_inputs(const struct cli_options *o, struct solver *s, struct cli_plan *out,
                       struct err *e)
{
    struct model *m = NULL;
    int rc = net_config_read(o->config, &s->config, e);
    s->model = o->model != NULL ? o->model : s->config.model;
    if (rc == 0)
        rc = coord_profile_read(o->profile, &s->read, e);
    if (rc == 0)
        rc = model_open(s->model, &m, e);
    if (rc != 0)
        return rc;
    coord_blocks_of(m, &s->config, &s->blocks);
    match(s);
    if (s->read.n_layers != 0 && s->blocks.n_layers != s->read.n_layers)
        rc = err_set(e, ERR_MISMATCH, "%s was measured on a model of %u layers, %s has %u",
                     o->profile, s->read.n_layers, s->model, s->blocks.n_layers);
    else if (s->present == 0)
        rc = err_set(e, ERR_INFEASIBLE, "%s has no measurements of any worker of %s", o->profile,
                     o->config);
    else if ((o->given & CLI_BIT(PRECISION)) != 0)
        rc = choose_types(o, s, &m, out, e);
    if (rc == 0)
        coord_profile_complete(&s->profile, &s->blocks);
    model_close(m);
    return rc;
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
    const struct coord_blocks *b = &s->blocks;
    const uint32_t group = b->n_heads / b->n_kv_heads;
    snprintf(n->state, sizeof n->state, "planned");
    n->left_out[0] = 0;
    n->stage = stage;
    n->member = member;
    n->members = g->n_members;
    n->mesh = g->shape == PART_MESH;
    n->layer0 = g->layer0;
    n->layer1 = g->layer1;
    n->head0 = m->head0 * b->unit_heads;
    n->heads = (m->head1 - m->head0) * b->unit_heads;
    n->kv0 = n->head0 / group;
    n->kv1 = n->heads > 0 ? (n->head0 + n->heads - 1) / group + 1 : n->kv0;
    n->column0 = coord_columns(b->n_ff, b->unit_cols, 0, m->ff0);
    n->columns = coord_columns(b->n_ff, b->unit_cols, m->ff0, m->ff1);
    n->row0 = coord_columns(b->n_vocab, b->vocab_run, 0, m->run0);
    n->row1 = coord_columns(b->n_vocab, b->vocab_run, 0, m->run1);
    n->memory_planned = s->solution.memory_bytes[m->device];
    n->kv_bytes = s->solution.kv_bytes[m->device];
    n->scratch_bytes = s->solution.scratch_bytes[m->device];
    n->ms_predicted = s->solution.stage_s[stage] * 1e3;
    n->ms_exchange = s->solution.exchange_s[stage] * 1e3;
    n->ms_hop = s->solution.hop_s[stage] * 1e3;
}

static void describe(const struct solver *s, struct cli_plan *p)
{
    const struct part_plan *plan = &s->solution.plan;
    struct cli_cluster_status *out = &p->status;
    const char *slash = strrchr(s->model, '/');
    snprintf(out->cluster, sizeof out->cluster, "%s", s->config.name);
    snprintf(out->model, sizeof out->model, "%.255s", slash != NULL ? slash + 1 : s->model);
    snprintf(out->state, sizeof out->state, "solved here");
    out->slots = s->config.slots;
    out->n_nodes = s->config.n_workers;
    out->ms_predicted = plan->latency_s * 1e3;
    out->tok_s_predicted = s->solution.batch_rate;
    out->ttft_predicted = plan->ttft_s * 1e3;
    out->prompt = s->config.prompt;
    out->gap = plan->gap;
    p->solved = true;
    p->output_first = plan->output_first;
    p->n_heads = s->blocks.n_heads;
    p->n_kv_heads = s->blocks.n_kv_heads;
    p->n_columns = s->blocks.n_ff;
    p->n_rows = s->blocks.n_vocab;
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
    for (; p->n_why < s->reasons.n; p->n_why++)
        snprintf(p->why[p->n_why], PLAN_WHY_BYTES_MAX, "%s", s->reasons.text[p->n_why]);
}

static int solve_here(const struct cli_options *o, struct cli_plan *out, struct err *e)
{
    struct solver *s = base_zalloc(1, sizeof *s);
    int rc;
    if (s == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the placement problem");
    rc = read_inputs(o, s, out, e);
    if (rc == 0)
        rc = coord_solve(&s->config, &s->blocks, &s->profile, s->present, NULL, false, &s->solution,
                         e);
    if (rc == 0)
        rc = coord_explain(&s->config, &s->blocks, &s->profile, s->present, &s->solution,
                           s->config.solve_s, &s->reasons, e);
    if (rc == 0)
        describe(s, out);
    base_free(s);
    return rc;
}

/* ---- asking a cluster ------------------------------------------------------------------------ */

/* A cluster tells numbers of heads and columns. Members hold them one after the other. */
static int ask_cluster(const struct cli_options *o, struct cli_plan *p, struct err *e)
{
    struct cli_cluster_status *st = &p->status;
    const int rc = cli_ask_status(o, st, e);
    if (rc == 0 && st->epoch == 0)
        return err_set(e, ERR_INFEASIBLE, "no plan is in force yet: %s", st->state);
    if (rc == 0 && st->stays[0] != 0)
        snprintf(p->why[p->n_why++], PLAN_WHY_BYTES_MAX, "%s", st->stays);
    for (uint32_t s = 0; rc == 0 && s < cli_plan_stages(p); s++) {
        const struct cli_node *team[NET_WORKERS_MAX];
        const uint32_t n = cli_plan_team(p, s, team);
        p->n_heads = p->n_columns = 0;
        for (uint32_t k = 0; k < n; k++) {
            struct cli_node *node = &st->nodes[team[k] - st->nodes];
            node->head0 = p->n_heads;
            node->column0 = p->n_columns;
            p->n_heads += node->heads;
            p->n_columns += node->columns;
        }
    }
    return rc;
}

uint32_t cli_plan_team(const struct cli_plan *p, uint32_t stage,
                       const struct cli_node *team[static NET_WORKERS_MAX])
{
    const struct cli_cluster_status *st = &p->status;
    uint32_t n = 0;
    for (uint32_t k = 0; k < st->n_nodes; k++)
        for (uint32_t i = 0; i < st->n_nodes; i++)
            if (st->nodes[i].stage == stage && st->nodes[i].member == k &&
                st->nodes[i].layer1 > st->nodes[i].layer0)
                team[n++] = &st->nodes[i];
    return n;
}

uint32_t cli_plan_stages(const struct cli_plan *p)
{
    const struct cli_node *team[NET_WORKERS_MAX];
    uint32_t n = 0;
    while (n < NET_WORKERS_MAX && cli_plan_team(p, n, team) > 0)
        n++;
    return n;
}

/* ---- results --------------------------------------------------------------------------------- */

static int print_json(const struct cli_plan *p, struct err *e)
{
    const struct cli_cluster_status *st = &p->status;
    json_t *o = json_object(), *nodes = json_array(), *left_out = json_array(), *why = json_array();
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
    for (uint32_t i = 0; i < p->n_why; i++)
        bad |= json_array_append_new(why, cli_json_text(base_span_str(p->why[i])));
    bad |= json_object_set_new(o, "nodes", nodes);
    bad |= json_object_set_new(o, "predicted_ms_per_token", cli_json_number(st->ms_predicted));
    bad |= json_object_set_new(o, "predicted_tok_s", cli_json_number(st->tok_s_predicted));
    bad |= json_object_set_new(o, "gap", cli_json_number(st->gap));
    bad |= json_object_set_new(o, "left_out", left_out);
    bad |= json_object_set_new(o, "predicted_ttft_ms", cli_json_number(st->ttft_predicted));
    bad |= json_object_set_new(o, "prompt", json_integer(st->prompt));
    bad |= json_object_set_new(o, "why", why);
    if (p->precise)
        bad |= json_object_set_new(o, "precision", cli_plan_precision_json(p));
    return cli_json_print(o, bad != 0, e);
}

static int write_picture(const struct cli_plan *p, const char *path, struct err *e)
{
    struct base_buf b = {0};
    cli_plan_draw(p, &b);
    const int rc = b.failed ? err_set(e, ERR_NOMEM, "out of memory for the picture")
                            : base_file_replace(path, b.ptr, b.len, 0644, e);
    base_buf_deinit(&b);
    return rc;
}

int cli_plan(const struct cli_options *o, struct err *e)
{
    struct cli_plan *p;
    int rc;
    if (o->model != NULL && o->profile == NULL)
        return err_set(e, ERR_USAGE, "-m goes with --profile: a running cluster has its model");
    if ((o->given & CLI_BIT(PRECISION)) != 0 && o->profile == NULL)
        return err_set(e, ERR_USAGE,
                       "--precision goes with --profile: a running cluster's model "
                       "has its types");
    p = base_zalloc(1, sizeof *p);
    if (p == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the plan");
    rc = o->profile != NULL ? solve_here(o, p, e) : ask_cluster(o, p, e);
    if (rc == 0 && o->svg != NULL)
        rc = write_picture(p, o->svg, e);
    if (rc == 0 && o->json)
        rc = print_json(p, e);
    else if (rc == 0)
        cli_plan_print(p);
    base_free(p);
    return rc;
}
