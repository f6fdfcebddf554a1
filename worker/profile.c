/* A worker measures itself: the real kernels on the real shapes, with made-up weights.
 *
 * Layers whose pieces have the same sizes are of one kind; each kind is timed once. Where all
 * layers are of one kind, as in most files, as many of them as SPAN_BYTES hold are run in a row, so
 * that weights come from memory as they will in service and not from a cache that one layer fits.
 * Rows stand at half the context, because attention's share grows with the position. Each figure is
 * the median of several runs after one that is not counted.
 *
 * The weights' bytes are FILL: as F16 0.26, as F32 and BF16 1.7e-7, as int8 52, so that no value
 * overflows a unit sum or becomes denormal, either of which would time something else. Frequency
 * factors are ones, since the executor refuses such as would make nonsense of an angle. KV rows
 * before the timed one are the system's zero page: attention over a long context comes out a little
 * fast. */
#include "worker/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FILL = 0x34, SPAN_BYTES = 64 << 20, RUNS_MIN = 5, RUNS_MAX = 50 };
static const double RUN_S = 0.06; /* time spent on one figure, where RUNS_MIN do not take longer */

struct bench {
    const struct model *m;
    const struct model_exec_config *c;
    struct model_exec *exec;
    struct model_row rows[MODEL_ROWS_MAX];
    float *hidden, *logits;
    uint32_t bad[MODEL_ROWS_MAX];
    void **pieces; /* [model_n_pieces] made-up content, NULL where not needed yet */
};

static void fill(void *to, struct model_piece p, size_t bytes)
{
    const float one = 1.0f;
    memset(to, FILL, bytes);
    for (size_t i = 0; p.kind == MODEL_PIECE_GLOBAL && i + sizeof one <= bytes; i += sizeof one)
        memcpy((uint8_t *)to + i, &one, sizeof one);
}

static const void *make_piece(void *arg, uint32_t number)
{
    struct bench *b = arg;
    const struct model_piece p = model_piece_at(b->m, number);
    const size_t bytes = model_piece_bytes(b->m, p);
    bool made = false;
    void *at;
    if (b->pieces[number] == NULL) {
        b->pieces[number] = base_alloc(bytes + KERN_ALIGN);
        if (b->pieces[number] == NULL)
            return NULL;
        made = true;
    }
    at = (void *)(((uintptr_t)b->pieces[number] + KERN_ALIGN - 1) & ~(uintptr_t)(KERN_ALIGN - 1));
    if (made)
        fill(at, p, bytes);
    return at;
}

static void free_pieces(struct bench *b)
{
    for (uint32_t i = 0; i < model_n_pieces(b->m); i++) {
        base_free(b->pieces[i]);
        b->pieces[i] = NULL;
    }
}

static void run_layers(struct bench *b, uint32_t n)
{
    model_exec_run(b->exec, b->rows, n, b->hidden, NULL, b->bad);
}

static void run_embed(struct bench *b, uint32_t n)
{
    model_exec_embed(b->exec, b->rows, n, b->hidden, b->bad);
}

static void run_logits(struct bench *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += WORKER_LOGIT_ROWS) {
        const uint32_t k = n - i < WORKER_LOGIT_ROWS ? n - i : WORKER_LOGIT_ROWS;
        model_exec_logits(b->exec, b->rows + i, k,
                          b->hidden + (size_t)i * model_shape(b->m)->n_embd, b->logits, b->bad);
    }
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of run(b, n). */
static double measure(struct bench *b, void (*run)(struct bench *, uint32_t), uint32_t n)
{
    const uint32_t width = model_shape(b->m)->n_embd;
    double s[RUNS_MAX], total = 0;
    int k = -1;
    while (k < RUNS_MAX && (k < RUNS_MIN || total < RUN_S)) {
        for (size_t i = 0; i < (size_t)n * width; i++)
            b->hidden[i] = (float)(i % 17) / 16.0f - 0.5f;
        for (uint32_t i = 0; i < n; i++)
            b->rows[i] = (struct model_row){i % b->c->n_slots, b->c->context / 2, 0, true};
        const double t = base_clock_s();
        run(b, n);
        if (k >= 0)
            total += s[k] = base_clock_s() - t;
        k++;
    }
    qsort(s, (size_t)k, sizeof *s, by_value);
    return s[k / 2];
}

/* Time layers [a, z): seconds a layer at one row and at `rows`. */
static int time_layers(struct bench *b, uint32_t a, uint32_t z, uint32_t rows, double *one,
                       double *many, struct err *e)
{
    struct model_slice s = model_slice_layers(b->m, a, z);
    s.embed = s.output = false;
    const int rc = model_exec_new(b->m, &s, b->c, make_piece, b, &b->exec, e);
    if (rc == 0) {
        *one = measure(b, run_layers, 1) / (z - a);
        *many = measure(b, run_layers, rows) / (z - a);
    }
    model_exec_free(b->exec);
    b->exec = NULL;
    free_pieces(b);
    return rc;
}

static uint64_t layer_bytes(const struct bench *b, uint32_t layer)
{
    struct model_slice s = model_slice_layers(b->m, layer, layer + 1);
    s.embed = s.output = false;
    return model_slice_memory(b->m, &s, b->c).weight_bytes;
}

static int time_kinds(struct bench *b, struct worker_profile *out, struct err *e)
{
    const uint32_t n = model_shape(b->m)->n_layers;
    bool alike = true;
    int rc = 0;
    for (uint32_t l = 1; l < n; l++)
        alike = alike && layer_bytes(b, l) == layer_bytes(b, 0);
    for (uint32_t l = 0; l < n && rc == 0; l++) {
        uint32_t same = 0;
        while (same < l && layer_bytes(b, same) != layer_bytes(b, l))
            same++;
        if (same < l) {
            out->layer_one[l] = out->layer_one[same];
            out->layer_many[l] = out->layer_many[same];
            continue;
        }
        const uint64_t fit = SPAN_BYTES / layer_bytes(b, l);
        const uint32_t span = !alike || fit < 1 ? 1 : fit > n ? n : (uint32_t)fit;
        rc = time_layers(b, l, l + span, out->rows, &out->layer_one[l], &out->layer_many[l], e);
    }
    return rc;
}

static int time_ends(struct bench *b, struct worker_profile *out, struct err *e)
{
    struct model_slice s = model_slice_layers(b->m, 0, 1);
    s.embed = s.output = true;
    const int rc = model_exec_new(b->m, &s, b->c, make_piece, b, &b->exec, e);
    if (rc == 0) {
        out->embed_one = measure(b, run_embed, 1);
        out->embed_many = measure(b, run_embed, out->rows);
        out->output_one = measure(b, run_logits, 1);
        out->output_many = measure(b, run_logits, out->rows);
    }
    model_exec_free(b->exec);
    b->exec = NULL;
    free_pieces(b);
    return rc;
}

int worker_profile_run(const struct model *m, const struct model_exec_config *c,
                       struct worker_profile *out, struct err *e)
{
    struct bench *b = base_zalloc(1, sizeof *b);
    int rc = err_set(e, ERR_NOMEM, "out of memory for profiling");
    if (b == NULL)
        return rc;
    b->m = m;
    b->c = c;
    b->hidden = base_zalloc((size_t)c->max_rows * model_shape(m)->n_embd, sizeof(float));
    b->logits = base_zalloc((size_t)WORKER_LOGIT_ROWS * model_shape(m)->n_vocab, sizeof(float));
    b->pieces = base_zalloc(model_n_pieces(m), sizeof *b->pieces);
    if (b->hidden != NULL && b->logits != NULL && b->pieces != NULL &&
        (rc = time_kinds(b, out, e)) == 0)
        rc = time_ends(b, out, e);
    if (b->pieces != NULL)
        free_pieces(b);
    base_free(b->pieces);
    base_free(b->logits);
    base_free(b->hidden);
    base_free(b);
    return rc == ERR_NOTFOUND
               ? err_set(e, ERR_NOMEM, "out of memory for profiling: a layer's weights do not fit")
               : rc;
}
