/* From measurements to the placement problem and back: shared by the coordinator and `shoal plan`.
 *
 * A device's time for a pass of r rows is taken as a line over r. It goes through what one row took
 * and what a row of each slot took; where a prompt is asked about, through one row and a tile of a
 * prompt, since a processor that waits for memory at few rows computes at many. One way is half a
 * round trip. A link that was not measured (NAN) costs LINK_UNUSABLE_S, so that a ring avoids it
 * where another is to be had.
 *
 * Memory: weights and KV are exact but for units that are shorter than the others, from the model;
 * the queues of a stage are an upper bound here, since they depend on the stage's place; the worker,
 * which knows, refuses before anything is shipped. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

static const double LINK_UNUSABLE_S = 10.0;
/* The configuration's names are the planner's, one for one. */
_Static_assert((int)NET_HYPERION == (int)PART_HYPERION && (int)NET_EVEN == (int)PART_EVEN &&
                   (int)NET_MYOPIC_HEADS == (int)PART_MYOPIC_HEADS &&
                   (int)NET_HYPERION + 1 == (int)PART_ALGORITHMS,
               "algorithms");
_Static_assert((int)NET_SUMS_EXACT == (int)MODEL_WIRE_EXACT &&
                   (int)NET_SUMS_F16 == (int)MODEL_WIRE_F16 &&
                   (int)NET_SUMS_Q8 == (int)MODEL_WIRE_Q8,
               "wire");
enum { TEAM_SUMS = 4, TEAM_OTHER_BYTES = 65536 }; /* of a member's buffers, worker/team.c */

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

static uint64_t piece_bytes(const struct model *m, enum model_piece_kind kind, uint32_t layer)
{
    return model_piece_bytes(m, (struct model_piece){kind, layer, 0});
}

void coord_blocks_of(const struct model *m, const struct net_config *config,
                     struct coord_blocks *out)
{
    const struct model_shape *shape = model_shape(m);
    const struct model_exec_config c = exec_config(config, m);
    const struct model_slice whole = model_slice_part(
        0, 1, 0, shape->n_head_units, 0, shape->n_ff_units, 0, shape->n_vocab_runs, true, true);
    *out = (struct coord_blocks){.n_layers = shape->n_layers,
                                 .n_embd = shape->n_embd,
                                 .n_heads = shape->n_heads,
                                 .n_kv_heads = shape->n_kv_heads,
                                 .head_dim = shape->head_dim,
                                 .n_ff = shape->n_ff,
                                 .n_vocab = shape->n_vocab,
                                 .unit_heads = shape->unit_heads,
                                 .n_head_units = shape->n_head_units,
                                 .unit_cols = shape->unit_cols,
                                 .n_ff_units = shape->n_ff_units,
                                 .vocab_run = shape->vocab_run,
                                 .n_vocab_runs = shape->n_vocab_runs,
                                 .slots = config->slots};
    for (uint32_t l = 0; l < shape->n_layers; l++)
        out->layers[l] = (struct coord_layer){
            piece_bytes(m, MODEL_PIECE_COMMON, l), piece_bytes(m, MODEL_PIECE_HEAD, l),
            piece_bytes(m, MODEL_PIECE_KV, l), piece_bytes(m, MODEL_PIECE_FFN, l)};
    for (uint32_t l = 0; l < shape->n_layers; l++)
        out->normed_bytes += (double)(model_normed_bytes(m, MODEL_NORM_ATTENTION, l) +
                                      model_normed_bytes(m, MODEL_NORM_FFN, l)) /
                             (2.0 * shape->n_layers);
    out->cache_bytes = model_slice_memory(m, &whole, &c).kv_bytes / shape->n_kv_heads;
    for (uint32_t i = 0; i < shape->n_vocab_runs; i++)
        out->embed_bytes += model_piece_bytes(m, (struct model_piece){MODEL_PIECE_EMBED, 0, i});
    out->run_bytes = piece_bytes(m, MODEL_PIECE_OUTPUT, 0);
    out->final_bytes = piece_bytes(m, MODEL_PIECE_FINAL, 0);
    out->shared_run_bytes = shape->tied ? out->run_bytes : 0;
    /* Waiting rows: a decode row a slot, chunks of prompt (worker/core_ring.c; one more than stages,
     * of which there are no more than workers), the pass itself; and some logits. */
    const uint64_t n_chunks = (config->n_workers > 2 ? config->n_workers : 2) + 1;
    const uint64_t rows = c.n_slots + n_chunks * coord_core_chunk_max(config) + c.max_rows;
    out->scratch_bytes =
        piece_bytes(m, MODEL_PIECE_GLOBAL, 0) + model_slice_memory(m, &whole, &c).scratch_bytes +
        rows * shape->n_embd * sizeof(float) + 8ull * shape->n_vocab * sizeof(float);
    /* Of each row of a pass: hidden state, normed bytes, and sums, own ones and those that come
     * ahead. */
    out->team_bytes =
        c.max_rows * (uint64_t)(out->normed_bytes + shape->n_embd * (4.0 + 8.0 * TEAM_SUMS)) +
        TEAM_OTHER_BYTES;
}

/* ---- the problem ----------------------------------------------------------------------------- */

/* The line through what one row took and what `rows` rows took. */
static struct part_time line(double one, double many, uint32_t rows)
{
    const double row = many < one ? 0.0 : (many - one) / (rows - 1);
    return row > one ? (struct part_time){0.0, row} : (struct part_time){one - row, row};
}

/* `batch`: through which of the larger batches the lines go. */
static void fill_device(struct part_device *d, const struct net_config_worker *w,
                        const struct coord_node_profile *p, const struct coord_blocks *b,
                        uint32_t batch)
{
    const struct coord_batch *one = &p->batches[0], *many = &p->batches[batch];
    const uint32_t rows = p->rows[batch];
    snprintf(d->name, sizeof d->name, "%s", p->name);
    for (uint32_t l = 0; l < b->n_layers; l++) {
        d->attn[l] = line(one->attention[l], many->attention[l], rows);
        d->ff[l] = line(one->ffn[l], many->ffn[l], rows);
    }
    d->half = line((one->attention_fixed + one->ffn_fixed) / 2,
                   (many->attention_fixed + many->ffn_fixed) / 2, rows);
    d->embed = line(one->embed, many->embed, rows);
    d->output = line(one->output, many->output, rows);
    d->output.row_s += p->sample;
    d->pass_s = p->pass;
    /* A half that a message begins wakes the threads up once, and has a message at each end. */
    d->message_s = p->message + p->wake / 2;
    d->byte_s = p->codec;
    d->throttle = p->throttle;
    d->memory_bytes = p->memory_bytes;
    d->pin0 = w->layer0;
    d->pin1 = w->layer1;
    d->pin_heads = w->heads > 0 ? (int)(w->heads / b->unit_heads) : -1;
    d->pin_ff = w->columns > 0 ? (int)((w->columns + b->unit_cols - 1) / b->unit_cols) : -1;
    d->pin_leader = w->leader;
}

static void fill_link(struct part_problem *out, uint32_t d, uint32_t e, double rtt, double rate)
{
    const bool ok = rtt > 0 && rate > 0; /* false for NAN */
    out->lat_s[d][e] = ok ? rtt / 2 : LINK_UNUSABLE_S;
    out->rate[d][e] = ok ? rate : out->hidden_bytes / LINK_UNUSABLE_S;
}

/* Bytes a row on the wire. */
static void fill_messages(struct part_problem *out, const struct net_config *c,
                          const struct coord_blocks *b)
{
    static const double sum_bytes[] = {
        [NET_SUMS_EXACT] = 4, [NET_SUMS_F16] = 2, [NET_SUMS_Q8] = 36.0 / 32};
    out->hidden_bytes = (double)model_rows_bytes(1, b->n_embd, (enum model_wire)c->wire);
    out->normed_bytes = b->normed_bytes;
    out->sum_bytes = b->n_embd * sum_bytes[c->wire];
    out->logits_bytes = b->n_vocab * 4.0;
}

static void fill_bytes(struct part_problem *out, const struct coord_blocks *b)
{
    /* Multiply-adds of a row: Q and the output projection go by query heads, K and V by KV heads. */
    const double kv = 2.0 * b->n_kv_heads, all = 2.0 * b->n_heads + kv;
    out->n_layers = b->n_layers;
    out->n_head_units = b->n_head_units;
    out->unit_heads = b->unit_heads;
    out->heads_per_kv = b->n_heads / b->n_kv_heads;
    out->n_ff_units = b->n_ff_units;
    out->n_vocab_runs = b->n_vocab_runs;
    for (uint32_t l = 0; l < b->n_layers; l++)
        out->layers[l] = (struct part_layer){.common_bytes = b->layers[l].common_bytes,
                                             .head_bytes = b->layers[l].head_bytes,
                                             .kv_bytes = b->layers[l].kv_bytes + b->cache_bytes,
                                             .ff_bytes = b->layers[l].ff_bytes,
                                             .kv_share = kv / all};
    out->embed_bytes = b->embed_bytes;
    out->output_bytes = b->final_bytes;
    out->run_bytes = b->run_bytes;
    out->shared_run_bytes = b->shared_run_bytes;
    out->scratch_bytes = b->scratch_bytes;
    out->team_bytes = b->team_bytes;
}

static void fill_wishes(struct part_problem *out, const struct net_config *c)
{
    out->slots = c->slots;
    out->objective = c->objective <= 0   ? PART_LATENCY
                     : c->objective >= 1 ? PART_THROUGHPUT
                                         : PART_WEIGHTED;
    out->weight = 1 - c->objective;
    out->granularity = c->granularity == NET_HEADS    ? PART_HEADS
                       : c->granularity == NET_LAYERS ? PART_LAYERS
                                                      : PART_AUTO;
    out->exchange = c->exchange == NET_STAR   ? PART_ONLY_STAR
                    : c->exchange == NET_MESH ? PART_ONLY_MESH
                                              : PART_ANY_SHAPE;
    out->chunk_rows = coord_core_chunk_max(c);
    out->prompt_rows = c->ttft_ms > 0 ? c->prompt : 0;
    out->ttft_max_s = c->ttft_ms / 1e3;
    out->use_all = c->use_all;
    out->time_limit_s = c->solve_s;
}

void coord_problem_build(const struct net_config *c, const struct coord_blocks *b,
                         const struct coord_profile *p, uint32_t present, uint32_t batch,
                         struct part_problem *out, uint32_t *device_node)
{
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if ((present >> i & 1) != 0 && p->nodes[i].measured) {
            device_node[out->n_devices] = i;
            fill_device(&out->devices[out->n_devices++], &c->workers[i], &p->nodes[i], b, batch);
            if (p->nodes[i].base_bytes > out->base_bytes)
                out->base_bytes = p->nodes[i].base_bytes;
        }
    fill_messages(out, c, b);
    for (uint32_t d = 0; d < out->n_devices; d++)
        for (uint32_t e = 0; e < out->n_devices; e++)
            if (d != e)
                fill_link(out, d, e, p->rtt[device_node[d]][device_node[e]],
                          p->rate[device_node[d]][device_node[e]]);
    fill_bytes(out, b);
    fill_wishes(out, c);
}

/* What a person asks of the heads and columns must be possible with this model. */
static int check_pins(const struct net_config *c, const struct coord_blocks *b, struct err *e)
{
    for (uint32_t i = 0; i < c->n_workers; i++) {
        const uint32_t heads = c->workers[i].heads, columns = c->workers[i].columns;
        if (heads > b->n_heads || heads % b->unit_heads != 0)
            return err_set(e, ERR_RANGE,
                           "[worker %s] heads: %u: this model has %u heads, in units of %u",
                           c->workers[i].name, heads, b->n_heads, b->unit_heads);
        if (columns > b->n_ff ||
            (columns % b->unit_cols != 0 && columns % b->unit_cols != b->n_ff % b->unit_cols))
            return err_set(e, ERR_RANGE,
                           "[worker %s] columns: %u: this model has %u columns, in units of %u",
                           c->workers[i].name, columns, b->n_ff, b->unit_cols);
    }
    return 0;
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* Prompt rows of a pass: as many as take about 50 ms on the slowest stage, so that decode rows do
 * not wait long. */
static uint32_t choose_chunk(const struct net_config *c, const struct coord_blocks *b,
                             const struct coord_profile *p, const struct part_plan *plan)
{
    double row_s = 1e-6;
    if (c->chunk != 0)
        return c->chunk;
    for (uint32_t s = 0; s < plan->n_stages; s++)
        for (uint32_t k = 0; k < plan->stages[s].n_members; k++) {
            const struct part_member *m = &plan->stages[s].members[k];
            const struct coord_node_profile *n = &p->nodes[m->device];
            const struct coord_batch *t = &n->batches[COORD_BATCHES - 1];
            const double heads = (double)(m->head1 - m->head0) / b->n_head_units,
                         columns = (double)(m->ff1 - m->ff0) / b->n_ff_units;
            double sum = 0;
            for (uint32_t l = plan->stages[s].layer0; l < plan->stages[s].layer1; l++)
                sum += heads * t->attention[l] + columns * t->ffn[l];
            row_s = fmax(row_s, sum / n->rows[COORD_BATCHES - 1]);
        }
    const double rows = 0.05 / row_s;
    return rows < 16                        ? 16
           : rows > coord_core_chunk_max(c) ? coord_core_chunk_max(c)
                                            : (uint32_t)rows;
}

double coord_batch_rate(const struct part_problem *problem, const struct part_plan *plan,
                        uint32_t *groups)
{
    double cycle_s;
    *groups = part_best_groups(problem, plan, &cycle_s);
    return fmax(problem->slots / cycle_s, 1.0 / plan->latency_s);
}

/* A stage's seconds beyond those that it would take if messages took no time. */
static double exchange_of(const struct part_problem *problem, const struct part_stage *s,
                          struct part_problem *free_links)
{
    if (s->n_members == 1)
        return 0;
    *free_links = *problem;
    for (uint32_t d = 0; d < problem->n_devices; d++) {
        free_links->devices[d].message_s = free_links->devices[d].byte_s = 0;
        for (uint32_t e = 0; e < problem->n_devices; e++) {
            free_links->lat_s[d][e] = 0;
            free_links->rate[d][e] = HUGE_VAL;
        }
    }
    return part_stage_seconds(problem, s, 1.0) - part_stage_seconds(free_links, s, 1.0);
}

/* What a member's memory is for. */
static void keep_memory(const struct part_problem *problem, const struct coord_blocks *b,
                        const struct part_stage *s, uint32_t member, uint32_t node,
                        struct coord_solution *out)
{
    const struct part_member *m = &s->members[member];
    out->memory_bytes[node] = part_member_memory(problem, s, member);
    out->kv_bytes[node] =
        (s->layer1 - s->layer0) * b->cache_bytes * part_kv_heads(problem, m->head0, m->head1);
    out->scratch_bytes[node] =
        problem->base_bytes + problem->scratch_bytes + (s->n_members > 1 ? problem->team_bytes : 0);
}

/* The plan by nodes. */
static int keep_plan(const struct part_problem *problem, const struct coord_blocks *b,
                     const struct part_plan *plan, const uint32_t *node, struct coord_solution *out,
                     struct err *e)
{
    struct part_problem *free_links = base_alloc(sizeof *free_links);
    if (free_links == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the placement problem");
    *out = (struct coord_solution){.plan = *plan};
    for (uint32_t s = 0; s < plan->n_stages; s++) {
        const struct part_stage *g = &plan->stages[s];
        out->stage_s[s] = part_stage_seconds(problem, g, 1.0);
        out->stage_batch_s[s] = part_stage_seconds(problem, g, problem->slots);
        out->exchange_s[s] = exchange_of(problem, g, free_links);
        out->hop_s[s] = part_hop_seconds(problem, plan, s, 1.0);
        for (uint32_t k = 0; k < g->n_members; k++) {
            const uint32_t i = node[g->members[k].device];
            out->plan.stages[s].members[k].device = i;
            keep_memory(problem, b, g, k, i, out);
        }
    }
    memset(out->plan.left_out, 0, sizeof out->plan.left_out);
    for (uint32_t d = 0; d < problem->n_devices; d++)
        memcpy(out->plan.left_out[node[d]], plan->left_out[d], PART_REASON_MAX);
    out->batch_rate = coord_batch_rate(problem, plan, &out->groups);
    base_free(free_links);
    return 0;
}

/* A plan by nodes as one by devices; false: there is none, or it has a node that is not present. */
static bool by_devices(const struct part_problem *problem, const struct part_plan *by_node,
                       const uint32_t *node, struct part_plan *out)
{
    if (by_node == NULL)
        return false;
    *out = *by_node;
    for (uint32_t s = 0; s < out->n_stages; s++)
        for (uint32_t k = 0; k < out->stages[s].n_members; k++) {
            uint32_t *const device = &out->stages[s].members[k].device, d = 0;
            while (d < problem->n_devices && node[d] != *device)
                d++;
            if (d == problem->n_devices)
                return false;
            *device = d;
        }
    return true;
}

int coord_solve(const struct net_config *c, const struct coord_blocks *b,
                const struct coord_profile *p, uint32_t present, const struct part_plan *now,
                bool search_only, struct coord_solution *out, struct err *e)
{
    struct part_problem *problem = base_alloc(sizeof *problem);
    struct part_plan plan, last;
    uint32_t node[PART_DEVICES_MAX];
    int rc = ERR_NOMEM;
    if (problem == NULL)
        return err_set(e, rc, "out of memory for the placement problem");
    if ((rc = check_pins(c, b, e)) != 0)
        goto out;
    coord_problem_build(c, b, p, present, c->ttft_ms > 0 ? COORD_BATCHES - 1 : 1, problem, node);
    const bool had = by_devices(problem, now, node, &last);
    problem->begin = had ? &last : NULL;
    problem->search_only = search_only;
    memset(&plan, 0, sizeof plan);
    if ((rc = part_algorithm_run((enum part_algorithm)c->algorithm, problem, &plan, e)) != 0)
        goto out;
    const double gap = plan.gap, solve_s = plan.solve_s;
    coord_problem_build(c, b, p, present, 1, problem, node);
    part_plan_cost(problem, &plan);
    if ((rc = keep_plan(problem, b, &plan, node, out, e)) != 0)
        goto out;
    if (had) {
        part_plan_cost(problem, &last);
        out->now_latency_s = last.latency_s;
        uint32_t groups;
        out->now_batch_rate = coord_batch_rate(problem, &last, &groups);
    }
    out->chunk = choose_chunk(c, b, p, &out->plan);
    coord_problem_build(c, b, p, present, COORD_BATCHES - 1, problem, node);
    problem->prompt_rows = c->prompt;
    problem->chunk_rows = out->chunk;
    part_plan_cost(problem, &plan);
    out->plan.ttft_s = plan.ttft_s;
    if (had) {
        part_plan_cost(problem, &last);
        out->now_fits = part_plan_fits(problem, &last);
    }
    out->plan.gap = gap;
    out->plan.solve_s = solve_s;
    if (now != NULL)
        coord_move_cost(b, p, now, &out->plan, &out->move);
out:
    base_free(problem);
    return rc;
}
