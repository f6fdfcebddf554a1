/* A plan's executor on one worker, and what runs beside it: buffers, sampling, summaries.
 *
 * The network thread owns `decode` and `prompt` (rows that wait) and gathers a pass's rows into
 * `hidden` before it hands the pass to the compute thread; until the pass comes back only the
 * compute thread touches `hidden`. So no lock is needed, and the invariant is the core's: one pass
 * at a time. Weights are the store's mappings, used in place. All memory is taken at the start, in
 * one sealed arena beside the executor's own; decoding allocates nothing.
 *
 * Logits are made for few rows at a time, since a logits request wants them for every row of a
 * chunk and a vocabulary may have a quarter of a million entries. */
#include "worker/engine.h"

#include <assert.h>
#include <string.h>

struct pieces {
    const uint32_t *numbers; /* ascending */
    const void **ptrs;
    uint32_t n;
};

/* Where the executor finds piece `number`. */
static const void *find_piece(void *arg, uint32_t number)
{
    const struct pieces *p = arg;
    uint32_t a = 0, b = p->n;
    while (a < b) {
        const uint32_t mid = a + (b - a) / 2;
        if (p->numbers[mid] < number)
            a = mid + 1;
        else
            b = mid;
    }
    return a < p->n && p->numbers[a] == number ? p->ptrs[a] : NULL;
}

static size_t part(size_t n, size_t bytes)
{
    return base_round_up(n * bytes, KERN_ALIGN);
}

static bool has_logits(const struct model_slice *s)
{
    return s->output || s->run0 < s->run1;
}

/* Rows of a pass as they leave a leader, where that is not as they stand in `hidden`. */
static size_t code_bytes(const struct model *m, const struct worker_team *t,
                         const struct model_exec_config *c)
{
    return t->me == 0 && t->wire != MODEL_WIRE_EXACT
               ? model_rows_bytes(c->max_rows, model_shape(m)->n_embd, t->wire)
               : 0;
}

static size_t arena_bytes(const struct model *m, const struct model_slice *s,
                          const struct worker_team *t, const struct model_exec_config *c,
                          uint32_t prompt_rows)
{
    const struct model_shape *shape = model_shape(m);
    const size_t row = shape->n_embd * sizeof(float);
    size_t n = part(c->max_rows, row) + part(code_bytes(m, t, c), 1) + worker_team_bytes(m, t, c);
    if (t->me == 0) /* only leaders have rows that wait */
        n += part(c->n_slots, row) + part(prompt_rows, row);
    if (has_logits(s))
        n += part(WORKER_LOGIT_ROWS, row) +
             part(WORKER_LOGIT_ROWS, shape->n_vocab * sizeof(float)) +
             part(c->max_rows, sizeof(struct worker_summary));
    return n;
}

struct model_memory worker_engine_memory(const struct model *m, const struct model_slice *s,
                                         const struct worker_team *t,
                                         const struct model_exec_config *c, uint32_t prompt_rows)
{
    struct model_memory mem = model_slice_memory(m, s, c);
    mem.scratch_bytes += arena_bytes(m, s, t, c, prompt_rows);
    return mem;
}

static int map_pieces(const struct model *m, const struct model_slice *s,
                      struct worker_store *store, const uint8_t *hashes, struct pieces *p,
                      uint32_t *numbers, struct err *e)
{
    p->numbers = numbers;
    model_slice_pieces(m, s, numbers, p->n);
    for (uint32_t i = 0; i < p->n; i++) {
        size_t bytes = 0;
        const int rc =
            worker_store_map(store, hashes + (size_t)i * NET_HASH_BYTES, &p->ptrs[i], &bytes, e);
        if (rc != 0)
            return err_wrap(e, rc, "piece %u of the model", numbers[i]);
        if (bytes != model_piece_bytes(m, model_piece_at(m, numbers[i])))
            return err_set(e, ERR_MISMATCH,
                           "piece %u of the model has %zu bytes, the card says %zu", numbers[i],
                           bytes, model_piece_bytes(m, model_piece_at(m, numbers[i])));
    }
    return 0;
}

static void take_buffers(struct worker_engine *g, const struct model *m,
                         const struct worker_team *t, uint32_t prompt_rows)
{
    const size_t row = g->shape->n_embd * sizeof(float);
    if (t->me == 0) {
        g->decode = base_arena_take(g->arena, g->config.n_slots * row);
        g->prompt = base_arena_take(g->arena, prompt_rows * row);
    }
    g->hidden = base_arena_take(g->arena, g->config.max_rows * row);
    if (code_bytes(m, t, &g->config) > 0)
        g->code = base_arena_take(g->arena, code_bytes(m, t, &g->config));
    worker_team_init(&g->team, m, t, &g->slice, &g->config, g->arena);
    if (has_logits(&g->slice)) {
        g->gather = base_arena_take(g->arena, WORKER_LOGIT_ROWS * row);
        g->logits = base_arena_take(g->arena,
                                    WORKER_LOGIT_ROWS * (size_t)g->shape->n_vocab * sizeof(float));
        g->summaries = base_arena_take(g->arena, g->config.max_rows * sizeof *g->summaries);
    }
    base_arena_seal(g->arena);
}

int worker_engine_new(const struct model *m, const struct model_slice *s,
                      const struct worker_team *t, const struct model_exec_config *c, uint32_t prompt_rows,
                      struct worker_store *store, const uint8_t *hashes, uint64_t epoch,
                      struct worker_engine **out, struct err *e)
{
    struct pieces p = {.n = model_slice_pieces(m, s, NULL, 0)};
    struct worker_engine *g = base_zalloc(1, sizeof *g);
    uint32_t *numbers = base_zalloc(p.n, sizeof *numbers);
    const struct model_memory mem = worker_engine_memory(m, s, t, c, prompt_rows);
    int rc = err_set(e, ERR_NOMEM, "out of memory for the plan's buffers");
    p.ptrs = base_zalloc(p.n, sizeof *p.ptrs);
    if (g == NULL || numbers == NULL || p.ptrs == NULL)
        goto out;
    g->epoch = epoch;
    g->slice = *s;
    g->config = *c;
    g->shape = model_shape(m);
    g->planned_bytes = mem.weight_bytes + mem.kv_bytes + mem.scratch_bytes;
    g->arena = base_arena_new(arena_bytes(m, s, t, c, prompt_rows));
    g->sampler = s->output ? model_sampler_new(g->shape->n_vocab) : NULL;
    if (g->arena == NULL || (s->output && g->sampler == NULL))
        goto out;
    take_buffers(g, m, t, prompt_rows);
    if ((rc = map_pieces(m, s, store, hashes, &p, numbers, e)) != 0)
        goto out;
    rc = model_exec_new(m, s, c, find_piece, &p, &g->exec, e);
    g->team.exec = g->exec;
    g->team.hidden = g->hidden;
    g->team.logits = g->logits;
out:
    base_free(numbers);
    base_free(p.ptrs);
    if (rc != 0) {
        worker_engine_free(g);
        return rc;
    }
    *out = g;
    return 0;
}

void worker_engine_free(struct worker_engine *g)
{
    if (g == NULL)
        return;
    model_exec_free(g->exec);
    model_sampler_free(g->sampler);
    base_arena_free(g->arena);
    base_free(g);
}

void worker_engine_gather(struct worker_engine *g, const struct worker_pass *p)
{
    const size_t n = g->shape->n_embd;
    for (uint32_t i = 0; i < p->n; i++) {
        const struct worker_pass_row *r = &p->rows[i];
        if (r->from != WORKER_FROM_TOKEN)
            memcpy(g->hidden + i * n,
                   (r->from == WORKER_FROM_DECODE ? g->decode : g->prompt) + r->index * n,
                   n * sizeof(float));
    }
}

static bool team_has_output(const struct worker_team *t)
{
    return t->n > 1 && t->runs[1] < t->runs[t->n];
}

/* The pass ends here: a member is lost. */
static bool lost(struct worker_pass *p, const struct worker_lost *l)
{
    snprintf(p->lost, sizeof p->lost, "%s", l->name);
    snprintf(p->reason, sizeof p->reason, "%s", l->reason);
    return false;
}

/* Sample or summarise a group of rows whose hidden states stand in `gather`. False: a member is
 * lost. */
static bool finish_rows(struct worker_engine *g, struct worker_pass *p, const uint32_t *rows,
                        uint32_t n)
{
    struct model_row row[WORKER_LOGIT_ROWS];
    uint32_t bad[WORKER_LOGIT_ROWS] = {0};
    struct worker_lost l = {0};
    for (uint32_t k = 0; k < n; k++) {
        row[k] = p->rows[rows[k]].row;
        row[k].want_logits = true;
    }
    if (!team_has_output(&g->team.team))
        model_exec_logits(g->exec, row, n, g->gather, g->logits, bad);
    else if (!worker_team_logits(&g->team, n, g->gather, g->logits, bad, &l))
        return lost(p, &l);
    base_guard_begin("sampling");
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t i = rows[k];
        const struct worker_pass_row *r = &p->rows[i];
        float *logits = g->logits + (size_t)k * g->shape->n_vocab;
        p->bad[i] = bad[k];
        if (bad[k] != 0)
            continue;
        if (r->summarise) {
            model_logits_summarise(logits, g->shape->n_vocab, &g->summaries[i].s);
            net_hash16((struct span){(const uint8_t *)logits, g->shape->n_vocab * sizeof *logits},
                       g->summaries[i].hash);
        }
        if (!r->sample)
            continue;
        p->tokens[i] = model_sample(g->sampler, &r->sampling, logits, r->row.position + 1,
                                    r->recent, r->n_recent);
        if (r->sampling.logprobs != 0)
            p->logprobs[i] = *model_sampler_logprobs(g->sampler);
    }
    base_guard_end();
    return true;
}

/* Sample and summarise what is asked for of the rows in `hidden`. */
static bool finish(struct worker_engine *g, struct worker_pass *p)
{
    uint32_t wanted[WORKER_LOGIT_ROWS], n = 0;
    const size_t width = g->shape->n_embd;
    for (uint32_t i = 0; i < p->n; i++) {
        if ((p->rows[i].sample || p->rows[i].summarise) && p->bad[i] == 0) {
            memcpy(g->gather + n * width, g->hidden + i * width, width * sizeof(float));
            wanted[n++] = i;
        }
        if (n == WORKER_LOGIT_ROWS || (i + 1 == p->n && n > 0)) {
            if (!finish_rows(g, p, wanted, n))
                return false;
            n = 0;
        }
    }
    return true;
}

/* The output stands on the first of several stages: rows come back to it to be finished. */
static bool output_is_first(const struct worker_engine *g)
{
    return g->slice.output && g->slice.layer1 < g->shape->n_layers;
}

/* What the layers are to run for pass row i; false: nothing. */
static bool row_to_run(const struct worker_engine *g, const struct worker_pass *p, uint32_t i,
                       struct model_row *out)
{
    const struct worker_pass_row *r = &p->rows[i];
    *out = r->row;
    if (!output_is_first(g) || r->from == WORKER_FROM_TOKEN)
        return true;
    *out = (struct model_row){r->row.slot, r->row.position + 1, p->tokens[i], false};
    return r->sample && p->tokens[i] >= 0 && worker_pass_goes_on(r, p->tokens[i]);
}

static bool run_layers(struct worker_engine *g, struct worker_pass *p)
{
    struct model_row rows[MODEL_ROWS_MAX];
    uint32_t of[MODEL_ROWS_MAX], bad[MODEL_ROWS_MAX], n = 0;
    struct worker_lost l = {0};
    for (uint32_t i = 0; i < p->n; i++) {
        if (!row_to_run(g, p, i, &rows[n]))
            continue;
        p->at[i] = n;
        bad[n] = 0;
        of[n++] = i;
    }
    if (n == 0)
        return true;
    if (g->team.team.n < 2) {
        model_exec_run(g->exec, rows, n, g->hidden, NULL, bad);
    } else {
        if (g->slice.embed)
            model_exec_embed(g->exec, rows, n, g->hidden, bad);
        if (!worker_team_lead(&g->team, rows, n, g->hidden, bad, &l))
            return lost(p, &l);
    }
    for (uint32_t k = 0; k < n; k++)
        p->bad[of[k]] = bad[k];
    return true;
}

void worker_engine_run(struct worker_engine *g, struct worker_exchange *x, struct worker_pass *p)
{
    assert(p->n <= g->config.max_rows);
    g->team.exchange = x;
    for (uint32_t i = 0; i < p->n; i++) {
        p->bad[i] = 0;
        p->tokens[i] = -1;
    }
    if (!output_is_first(g))
        (void)(run_layers(g, p) && finish(g, p));
    else
        (void)(finish(g, p) && run_layers(g, p));
}

void worker_engine_serve(struct worker_engine *g, struct worker_exchange *x,
                         struct worker_served *served, struct worker_lost *lost)
{
    g->team.exchange = x;
    worker_team_serve(&g->team, served, lost);
}
