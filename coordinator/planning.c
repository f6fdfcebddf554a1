/* From measurements to the placement problem and back: shared by the coordinator and `shoal plan`.
 *
 * A device's time for a pass of r rows is taken as linear between the two batch sizes that were
 * measured. A hidden state is n_embd F32 values a row; one way is half a round trip. A link that was
 * not measured (NAN) costs LINK_UNUSABLE_S, so that a ring avoids it where another is to be had.
 *
 * Memory: weights and KV are exact, from the model; the queues of a stage are an upper bound here,
 * since they depend on the stage's place; the worker, which knows, refuses before anything is
 * shipped. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

static const double LINK_UNUSABLE_S = 10.0;

uint32_t coord_context(const struct net_config *c, const struct model *m)
{
    const uint32_t own = model_shape(m)->context;
    return c->context != 0 ? c->context : own < 4096 ? own : 4096;
}

static struct model_exec_config exec_config(const struct net_config *c, const struct model *m)
{
    return (struct model_exec_config){.n_slots = c->slots,
                                      .context = coord_context(c, m),
                                      .max_rows = coord_core_rows_max(c, coord_core_chunk_max(c)),
                                      .kv = (enum kern_kv_type)c->kv,
                                      .n_threads = 4,
                                      .fast = c->fast};
}

static uint64_t weights(const struct model *m, const struct model_exec_config *c, uint32_t a,
                        bool embed, bool output)
{
    struct model_slice s = model_slice_layers(m, a, a + 1);
    s.embed = embed;
    s.output = output;
    return model_slice_memory(m, &s, c).weight_bytes;
}

void coord_blocks_of(const struct model *m, const struct net_config *config,
                     struct coord_blocks *out)
{
    const struct model_shape *shape = model_shape(m);
    const struct model_exec_config c = exec_config(config, m);
    struct model_slice whole = model_slice_layers(m, 0, 1);
    whole.embed = whole.output = true;
    memset(out, 0, sizeof *out);
    out->n_layers = shape->n_layers;
    out->n_embd = shape->n_embd;
    out->n_heads = shape->n_heads;
    out->n_ff = shape->n_ff;
    for (uint32_t l = 0; l < shape->n_layers; l++)
        out->layer_weights[l] = weights(m, &c, l, false, false);
    out->layer_kv = model_slice_memory(m, &whole, &c).kv_bytes;
    out->embed_bytes = weights(m, &c, 0, true, false) - out->layer_weights[0];
    out->output_bytes = weights(m, &c, 0, false, true) - out->layer_weights[0];
    if (shape->tied)
        out->shared_bytes =
            out->embed_bytes < out->output_bytes ? out->embed_bytes : out->output_bytes;
    /* Waiting rows: a decode row a slot, up to five chunks of prompt, the pass itself; and some
     * logits. */
    const uint64_t rows = c.n_slots + 5ull * coord_core_chunk_max(config) + c.max_rows;
    out->scratch_bytes = model_slice_memory(m, &whole, &c).scratch_bytes +
                         rows * shape->n_embd * sizeof(float) +
                         8ull * shape->n_vocab * sizeof(float);
}

/* The line through what one row took and what `rows_many` rows took. */
static struct part_time line(double one, double many, uint32_t rows_many)
{
    const double row = rows_many < 2 || many < one ? 0.0 : (many - one) / (rows_many - 1);
    return row > one ? (struct part_time){0.0, row} : (struct part_time){one - row, row};
}

static void fill_device(struct part_device *d, const struct net_config_worker *w,
                        const struct coord_node_profile *p, uint32_t n_layers)
{
    snprintf(d->name, sizeof d->name, "%s", p->name);
    for (uint32_t l = 0; l < n_layers; l++)
        d->attn[l] = line(p->layer_one[l], p->layer_many[l], p->rows);
    d->embed = line(p->embed_one, p->embed_many, p->rows);
    d->output = line(p->output_one, p->output_many, p->rows);
    d->pass_s = p->pass;
    d->memory_bytes = p->memory_bytes;
    d->pin0 = w->layer0;
    d->pin1 = w->layer1;
    d->pin_heads = -1;
}

static void fill_link(struct part_problem *out, uint32_t d, uint32_t e, double rtt, double rate)
{
    const bool ok = rtt > 0 && rate > 0; /* false for NAN */
    out->lat_s[d][e] = ok ? rtt / 2 : LINK_UNUSABLE_S;
    out->rate[d][e] = ok ? rate : out->hidden_bytes / LINK_UNUSABLE_S;
}

static void build_problem(const struct net_config *c, const struct coord_blocks *b,
                          const struct coord_profile *p, uint32_t present, struct part_problem *out,
                          uint32_t *device_node)
{
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if ((present >> i & 1) != 0 && p->nodes[i].measured) {
            device_node[out->n_devices] = i;
            fill_device(&out->devices[out->n_devices++], &c->workers[i], &p->nodes[i], b->n_layers);
            if (p->nodes[i].base_bytes > out->base_bytes)
                out->base_bytes = p->nodes[i].base_bytes;
        }
    out->hidden_bytes = b->n_embd * 4.0;
    for (uint32_t d = 0; d < out->n_devices; d++)
        for (uint32_t e = 0; e < out->n_devices; e++)
            if (d != e)
                fill_link(out, d, e, p->rtt[device_node[d]][device_node[e]],
                          p->rate[device_node[d]][device_node[e]]);
    out->n_layers = b->n_layers;
    for (uint32_t l = 0; l < b->n_layers; l++)
        out->layers[l].common_bytes = b->layer_weights[l] + b->layer_kv;
    out->n_head_units = out->unit_heads = out->heads_per_kv = 1;
    out->n_ff_units = out->n_vocab_runs = 1;
    out->granularity = PART_LAYERS;
    out->slots = c->slots;
    out->embed_bytes = b->embed_bytes;
    out->run_bytes = b->output_bytes;
    out->shared_run_bytes = b->shared_bytes;
    out->scratch_bytes = b->scratch_bytes;
    out->objective = c->objective > 0.5 ? PART_THROUGHPUT : PART_LATENCY;
    out->use_all = c->use_all;
    out->time_limit_s = c->solve_s;
}

int coord_solve(const struct net_config *c, const struct coord_blocks *b,
                const struct coord_profile *p, uint32_t present, struct coord_solution *out,
                struct err *e)
{
    struct part_problem *problem = base_alloc(sizeof *problem);
    struct part_plan plan;
    uint32_t node[PART_DEVICES_MAX];
    int rc = ERR_NOMEM;
    if (problem == NULL)
        return err_set(e, rc, "out of memory for the placement problem");
    build_problem(c, b, p, present, problem, node);
    memset(&plan, 0, sizeof plan);
    if ((rc = part_plan_solve(problem, &plan, e)) != 0)
        goto out;
    out->plan = plan;
    for (uint32_t s = 0; s < plan.n_stages; s++) {
        out->stage_s[s] = part_stage_seconds(problem, &plan.stages[s], 1.0);
        out->memory_bytes[s] = part_member_memory(problem, &plan.stages[s], 0);
        for (uint32_t k = 0; k < plan.stages[s].n_members; k++)
            out->plan.stages[s].members[k].device = node[plan.stages[s].members[k].device];
    }
    memset(out->plan.left_out, 0, sizeof out->plan.left_out);
    for (uint32_t d = 0; d < problem->n_devices; d++)
        memcpy(out->plan.left_out[node[d]], plan.left_out[d], PART_REASON_MAX);
    out->batch_rate = fmax(c->slots / plan.cycle_s, 1.0 / plan.latency_s);
out:
    base_free(problem);
    return rc;
}
