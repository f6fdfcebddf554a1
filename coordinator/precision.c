/* A type for each layer of a model that is not quantised yet: the inputs of part_precision_solve. Each
 * type that a layer can have gives a problem of its own, that of the file with all layers in that
 * type, of which only the shapes are made.
 *
 * The problems have to agree in everything but layers. So feed-forward units are the widest of all
 * types', and what a worker needs besides weights is the most that any type needs; the plan for the
 * file itself, which is solved for anew, can only have more room.
 *
 * Boards that are described by figures have times for every type. Those that were measured have been
 * so with the file as it is: what reading a layer's weights took goes by their bytes, what each row
 * adds is left (coord_profile_retype). Left out: types of the embedding and the output matrix, which
 * are Q8_0 throughout. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

enum { TYPES = MODEL_QUANTISE_CHOICES };
_Static_assert((int)TYPES <= (int)PART_TYPES_MAX, "types");

struct choosing {
    const struct net_config *config;
    const struct coord_profile *read;
    uint32_t present;
    struct coord_blocks file; /* as it is */
    struct coord_blocks blocks[TYPES];
    struct coord_profile profile; /* of one type */
    struct part_problem problem[TYPES], mixed;
    struct part_precision x;
    struct part_precise found;
    double loss[TYPES][MODEL_LAYERS_MAX];
};

/* ---- times of another type ------------------------------------------------------------------- */

static double attention_bytes(const struct coord_blocks *b, uint32_t l)
{
    return (double)b->layers[l].head_bytes * b->n_head_units +
           (double)b->layers[l].kv_bytes * b->n_kv_heads;
}

static double ff_bytes(const struct coord_blocks *b, uint32_t l)
{
    return (double)b->layers[l].ff_bytes * b->n_ff_units;
}

static uint64_t layer_bytes(const struct coord_blocks *b, uint32_t l)
{
    return b->layers[l].common_bytes + (uint64_t)(attention_bytes(b, l) + ff_bytes(b, l));
}

/* What one row takes less when its weights are this part of what they were. */
static double saved(double one, double fixed, double part)
{
    return one > fixed ? (one - fixed) * (1 - part) : 0;
}

static void retype_node(struct coord_node_profile *n, const struct coord_blocks *from,
                        const struct coord_blocks *to)
{
    const struct coord_batch one = n->batches[0];
    for (uint32_t l = 0; l < from->n_layers; l++) {
        const double attention = saved(one.attention[l], one.attention_fixed,
                                       attention_bytes(to, l) / attention_bytes(from, l));
        const double ffn = saved(one.ffn[l], one.ffn_fixed, ff_bytes(to, l) / ff_bytes(from, l));
        for (uint32_t i = 0; i < COORD_BATCHES; i++) {
            n->batches[i].attention[l] -= attention;
            n->batches[i].ffn[l] -= ffn;
        }
    }
    const double output = saved(one.output, 0,
                                (double)to->run_bytes * to->n_vocab_runs /
                                    ((double)from->run_bytes * from->n_vocab_runs));
    for (uint32_t i = 0; i < COORD_BATCHES; i++)
        n->batches[i].output -= output;
}

void coord_profile_retype(struct coord_profile *p, const struct coord_blocks *from,
                          const struct coord_blocks *to)
{
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if (p->nodes[i].measured && p->nodes[i].rows[0] != 0)
            retype_node(&p->nodes[i], from, to);
}

/* ---- the problems ---------------------------------------------------------------------------- */

/* "Q8_0*4,Q4_K*18" */
static void write_list(const uint8_t *choice, uint32_t n_layers, char *out, size_t max)
{
    size_t used = 0;
    for (uint32_t l = 0, n; l < n_layers && used < max; l += n) {
        n = 1;
        while (l + n < n_layers && choice[l + n] == choice[l])
            n++;
        used += (size_t)snprintf(out + used, max - used, "%s%s*%u", l == 0 ? "" : ",",
                                 model_quantise_choice(choice[l]), n);
    }
}

static int read_blocks(const struct gguf *g, struct choosing *s, struct err *e)
{
    int rc = 0;
    for (uint32_t k = 0; rc == 0 && k < TYPES; k++) {
        struct model *m = NULL;
        char list[40];
        snprintf(list, sizeof list, "%s*%u", model_quantise_choice(k), s->file.n_layers);
        rc = model_quantised_open(g, list, &m, e);
        if (rc == 0)
            coord_blocks_of(m, s->config, &s->blocks[k]);
        model_close(m);
    }
    return rc;
}

/* One width of units, one bound of what is no weight. */
static void align_blocks(struct choosing *s)
{
    struct coord_blocks most = s->blocks[0];
    for (uint32_t k = 1; k < TYPES; k++) {
        const struct coord_blocks *b = &s->blocks[k];
        if (b->unit_cols > most.unit_cols)
            most.unit_cols = b->unit_cols;
        if (b->scratch_bytes > most.scratch_bytes)
            most.scratch_bytes = b->scratch_bytes;
        if (b->team_bytes > most.team_bytes)
            most.team_bytes = b->team_bytes;
        most.normed_bytes = fmax(most.normed_bytes, b->normed_bytes);
    }
    for (uint32_t k = 0; k < TYPES; k++) {
        struct coord_blocks *b = &s->blocks[k];
        const uint32_t wider = most.unit_cols / b->unit_cols;
        for (uint32_t l = 0; l < b->n_layers; l++)
            b->layers[l].ff_bytes *= wider;
        b->n_ff_units = (b->n_ff_units + wider - 1) / wider;
        b->unit_cols = most.unit_cols;
        b->scratch_bytes = most.scratch_bytes;
        b->team_bytes = most.team_bytes;
        b->normed_bytes = most.normed_bytes;
    }
}

static void build_problems(struct choosing *s, double budget)
{
    uint32_t node[PART_DEVICES_MAX];
    const uint32_t batch = s->config->ttft_ms > 0 ? COORD_BATCHES - 1 : 1;
    s->x = (struct part_precision){.n_types = TYPES, .budget = budget * budget * s->file.n_layers};
    for (uint32_t k = 0; k < TYPES; k++) {
        s->profile = *s->read;
        coord_profile_retype(&s->profile, &s->file, &s->blocks[k]);
        coord_profile_complete(&s->profile, &s->blocks[k]);
        coord_problem_build(s->config, &s->blocks[k], &s->profile, s->present, batch,
                            &s->problem[k], node);
        s->x.of[k] = &s->problem[k];
        memcpy(s->x.loss[k], s->loss[k], s->file.n_layers * sizeof *s->loss[k]);
    }
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* `plan` of n_stages 0: there is none. */
static struct coord_precise_row row_of(const struct choosing *s, const struct part_problem *p,
                                       const struct part_plan *plan, const uint8_t *choice)
{
    struct coord_precise_row r = {.found = plan->n_stages > 0};
    uint32_t groups;
    for (uint32_t l = 0; l < s->file.n_layers; l++)
        r.loss += s->loss[choice[l]][l] / s->file.n_layers;
    r.loss = sqrt(r.loss);
    if (!r.found)
        return r;
    r.latency_s = plan->latency_s;
    r.rate = coord_batch_rate(p, plan, &groups);
    for (uint32_t k = 0; k < plan->n_stages; k++)
        for (uint32_t m = 0; m < plan->stages[k].n_members; m++)
            r.memory_bytes += part_member_memory(p, &plan->stages[k], m);
    return r;
}

static void keep(struct choosing *s, struct coord_precise *out)
{
    const uint32_t n = out->n_layers = s->file.n_layers;
    uint8_t all[MODEL_LAYERS_MAX];
    memcpy(out->choice, s->found.type, n);
    write_list(out->choice, n, out->list, sizeof out->list);
    for (uint32_t l = 0; l < n; l++) {
        out->loss[l] = s->loss[out->choice[l]][l];
        out->bytes[l] = layer_bytes(&s->blocks[out->choice[l]], l);
    }
    for (uint32_t k = 0; k < TYPES; k++) {
        memset(all, (int)k, sizeof all);
        out->all[k] = row_of(s, &s->problem[k], &s->found.all[k], all);
    }
    part_precision_mix(&s->x, s->found.type, &s->mixed);
    out->chosen = row_of(s, &s->mixed, &s->found.plan, out->choice);
}

int coord_precision(const struct net_config *c, const char *path, const struct model *m,
                    const struct coord_profile *p, uint32_t present, double budget,
                    const struct model_quantise *how, struct coord_precise *out, struct err *e)
{
    struct choosing *s = base_zalloc(1, sizeof *s);
    if (s == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the placement problems");
    s->config = c;
    s->read = p;
    s->present = present;
    coord_blocks_of(m, c, &s->file);
    int rc = read_blocks(model_gguf(m), s, e);
    if (rc == 0)
        rc = model_quantise_losses(path, model_gguf(m), how, s->loss, e);
    if (rc == 0) {
        align_blocks(s);
        build_problems(s, budget);
        rc = part_precision_solve(&s->x, &s->found, e);
    }
    if (rc == 0)
        keep(s, out);
    base_free(s);
    return rc;
}
