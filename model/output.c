/* The ends of a model: rows of the embedding in, final norm and output matrix out.
 *
 * Both matrices come in runs of vocabulary rows (pieces). Threads share the groups of all runs that
 * the slice has as if they were one matrix. Kernels write whole groups of 16 rows; where the vocabulary does not end
 * on a group, the last one is computed row by row into a scratch of its own and its valid part
 * copied, so that nothing is written behind a row of logits.
 *
 * Logits are the last of the three places where a value out of range is caught
 * (docs/numerics.md). */
#include "model/model_private.h"

#include <assert.h>
#include <string.h>

void model_exec_embed(struct model_exec *x, const struct model_row *rows, uint32_t n, float *hidden,
                      uint32_t *bad)
{
    const struct model_shape *s = &x->model->shape;
    assert(x->embed != NULL);
    kern_fp_init();
    for (uint32_t t = 0; t < n; t++) {
        float *to = hidden + (size_t)t * s->n_embd;
        uint32_t token = (uint32_t)rows[t].token;
        bool good = bad[t] == 0 && rows[t].token >= 0 && token < s->n_vocab;
        if (good)
            kern_matrix_row(&x->embed[token / s->vocab_run], token % s->vocab_run, to);
        for (uint32_t i = 0; good && i < s->n_embd; i++) {
            to[i] *= s->embed_scale;
            good = model_f32_finite(to[i]);
        }
        if (good)
            continue;
        memset(to, 0, s->n_embd * sizeof *to);
        if (bad[t] == 0)
            bad[t] = 1;
    }
}

struct logits_job {
    struct model_exec *x;
    float *logits;       /* [n, n_vocab] */
    uint32_t col0, col1; /* columns of the slice's runs */
    uint32_t n;
};

/* The last group of a vocabulary that does not end on a group. `col` is its matrix's first column
 * of logits. */
static void uneven_group(const struct logits_job *j, const struct kern_matrix *w, uint32_t col)
{
    const struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    uint32_t group = w->n_rows / KERN_GROUP, row = group * KERN_GROUP;
    for (uint32_t t = 0; t < j->n; t++) {
        struct kern_act in = model_act_row(&x->normed, t);
        x->kern->matmul[w->type](w, group, group + 1, &in, 1, x->tail, s->vocab_run);
        memcpy(j->logits + (size_t)t * s->n_vocab + col + row, x->tail + row,
               (w->n_rows - row) * sizeof(float));
    }
}

static void logits_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct logits_job *j = arg;
    struct model_exec *x = j->x;
    const struct model_shape *s = &x->model->shape;
    uint32_t per_run = s->vocab_run / KERN_GROUP, first, last;
    struct kern_act in = model_act_view(&x->normed);
    uint8_t *flags = model_flags(x, part);
    model_share((j->col1 - j->col0 + KERN_GROUP - 1) / KERN_GROUP, part, n_parts, &first, &last);
    uint32_t col0 = j->col0 + first * KERN_GROUP, col1 = j->col0 + last * KERN_GROUP;
    if (col1 > j->col1)
        col1 = j->col1;
    while (first < last) {
        uint32_t run = first / per_run, group0 = first % per_run, group1 = group0 + (last - first);
        uint32_t col = j->col0 + run * s->vocab_run;
        const struct kern_matrix *w = &x->output[run];
        if (group1 > per_run)
            group1 = per_run;
        uint32_t whole = w->n_rows / KERN_GROUP < group1 ? w->n_rows / KERN_GROUP : group1;
        if (group0 < whole)
            model_product(x, part, w, group0, whole, &in, j->n, j->logits + col, s->n_vocab);
        if (whole < group1)
            uneven_group(j, w, col);
        first += group1 - group0;
    }
    for (uint32_t t = 0; t < j->n; t++) {
        const float *row = j->logits + (size_t)t * s->n_vocab;
        for (uint32_t i = col0; i < col1; i++) {
            if (!model_f32_finite(row[i]))
                flags[t] = 1;
        }
    }
}

/* Columns of logits of n rows in x->normed, which are pick[t] (t where pick is NULL). */
static void logits_tile(struct model_exec *x, const uint32_t *pick, uint32_t n, float *logits,
                        uint32_t *bad)
{
    const struct model_shape *s = &x->model->shape;
    struct logits_job j = {x, logits, x->slice.run0 * s->vocab_run, x->slice.run1 * s->vocab_run,
                           n};
    if (x->slice.run0 == x->slice.run1)
        return;
    if (j.col1 > s->n_vocab)
        j.col1 = s->n_vocab;
    model_phase(x, logits_part, &j, x->config.n_threads);
    model_settle(x, n, 1 + s->n_layers, pick, bad);
    for (uint32_t t = 0; t < n; t++) {
        if (bad[pick != NULL ? pick[t] : t] != 0)
            memset(logits + (size_t)t * s->n_vocab + j.col0, 0, (j.col1 - j.col0) * sizeof *logits);
    }
}

void model_exec_logits(struct model_exec *x, const struct model_row *rows, uint32_t n,
                       const float *hidden, float *logits, uint32_t *bad)
{
    const struct model_shape *s = &x->model->shape;
    uint32_t pick[MODEL_TILE_ROWS], n_pick = 0;
    bool integer = model_norm_forms(x->model, MODEL_NORM_OUTPUT, 0).some;
    assert(x->final_norm != NULL && n <= x->config.max_rows);
    kern_fp_init();
    for (uint32_t t = 0; t < n; t++) {
        if (rows[t].want_logits)
            pick[n_pick++] = t;
        if (n_pick == MODEL_TILE_ROWS || (n_pick > 0 && t + 1 == n)) {
            model_norm_rows(x, x->final_norm, integer, hidden, pick, n_pick, 1 + s->n_layers, bad);
            logits_tile(x, pick, n_pick, logits, bad);
            logits += (size_t)n_pick * s->n_vocab;
            n_pick = 0;
        }
    }
}

void model_exec_logits_normed(struct model_exec *x, uint32_t n, const uint8_t *normed,
                              float *logits, uint32_t *bad)
{
    const struct model_shape *s = &x->model->shape;
    size_t row_bytes = model_normed_bytes(x->model, MODEL_NORM_OUTPUT, s->n_layers);
    assert(x->output != NULL && n <= x->config.max_rows);
    kern_fp_init();
    for (uint32_t at = 0; at < n; at += MODEL_TILE_ROWS) {
        uint32_t n_tile = n - at < MODEL_TILE_ROWS ? n - at : MODEL_TILE_ROWS;
        model_take_normed(x, MODEL_NORM_OUTPUT, s->n_layers, n_tile, normed + at * row_bytes,
                          bad + at);
        logits_tile(x, NULL, n_tile, logits + at * (size_t)s->n_vocab, bad + at);
    }
}
