/* A model file in a smaller type, written row by row: quantise_types.c says what becomes of each
 * tensor, quantise_rows.c encodes.
 *
 * The file is written by asking for its tensors' data (model_gguf_source), a bounded number of rows
 * at a time that the threads share; so memory does not grow with the file. A value that is not
 * finite ends it with the tensor named: a model with one gives no text anyway.
 *
 * How far the new weights are from the old ones is the root mean square, over the layers, of each
 * layer's relative error: the norm of the difference by the norm of the original, over all its
 * matrices. Squared it is a sum over layers, which a budget can be set on (partition/precision.c). */
#include "model/quantise.h"
#include "model/gguf.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

/* Of each matrix about so many values tell how a type would do. */
enum { QUANTISATION_VERSION = 2, ROWS_VALUES = 1 << 20, SAMPLE_VALUES = 1 << 18 };

struct job {
    const struct gguf *in;
    const struct model_quantise *c;
    struct quantise_types new;
    struct quantise_rows rows;
    struct base_progress progress;
    uint64_t done_values;
    double sum[MODEL_LAYERS_MAX][2]; /* squared error, squared norm */
};

static bool counts(const struct gguf_tensor *t)
{
    return model_quantise_is_matrix(t) && model_quantise_layer(t) < MODEL_LAYERS_MAX;
}

/* A model_gguf_source: the next rows of tensor i in its new type. */
static int next_rows(void *arg, size_t i, uint64_t at, struct span *out, struct err *e)
{
    struct job *j = arg;
    const struct gguf_tensor *t = model_gguf_tensor_at(j->in, i);
    const uint64_t cols = t->dims[0];
    const size_t bytes = model_quantise_row_bytes(j->new.types[i], cols);
    if (j->c->stop != NULL && j->c->stop())
        return err_set(e, ERR_CANCELLED, "interrupted");
    const uint64_t row0 = at / bytes, left = model_quantise_n_rows(t) - row0;
    const uint64_t most = ROWS_VALUES / cols < 1 ? 1 : ROWS_VALUES / cols;
    const uint64_t n = left < most ? left : most;
    const int rc = model_quantise_rows(&j->rows, t, j->new.types[i], row0, n, 1,
                                       counts(t) ? j->sum[model_quantise_layer(t)] : NULL, e);
    if (rc != 0)
        return rc;
    j->done_values += n * cols;
    base_progress_step(&j->progress, j->done_values);
    *out = (struct span){j->rows.out, (size_t)n * bytes};
    return 0;
}

/* ---- the file -------------------------------------------------------------------------------- */

/* The old metadata but for what tells of types and parts. */
static void put_metadata(const struct job *j, struct gguf_writer *w)
{
    static const char *const dropped[] = {"general.file_type", "general.quantization_version",
                                          "split.no", "split.count", "split.tensors.count"};
    for (size_t i = 0; i < model_gguf_n_kv(j->in); i++) {
        const struct gguf_kv *kv = model_gguf_kv_at(j->in, i);
        bool drop = false;
        for (size_t k = 0; k < sizeof dropped / sizeof dropped[0]; k++)
            drop = drop || base_span_is(kv->key, dropped[k]);
        if (!drop)
            model_gguf_put_kv(w, kv);
    }
    if (j->new.file_type != UINT32_MAX)
        model_gguf_put_u32(w, "general.file_type", j->new.file_type);
    model_gguf_put_u32(w, "general.quantization_version", QUANTISATION_VERSION);
}

static void put_tensors(const struct job *j, struct gguf_writer *w, struct model_quantised *done,
                        uint64_t *n_values)
{
    for (size_t i = 0; i < model_gguf_n_tensors(j->in); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(j->in, i);
        const uint64_t rows = model_quantise_n_rows(t);
        char name[GGUF_NAME_MAX + 1];
        memcpy(name, t->name.ptr, t->name.len);
        name[t->name.len] = '\0';
        model_gguf_put_tensor(w, name, j->new.types[i], t->n_dims, t->dims, NULL);
        done->bytes_before += t->bytes;
        done->bytes_after += rows * model_quantise_row_bytes(j->new.types[i], t->dims[0]);
        *n_values += rows * t->dims[0];
    }
}

static int write_out(struct job *j, const char *out, struct model_quantised *done, struct err *e)
{
    uint64_t n_values = 0;
    struct gguf_writer *w = model_gguf_writer_new();
    put_metadata(j, w);
    model_gguf_writer_source(w, next_rows, j);
    put_tensors(j, w, done, &n_values);
    base_progress_begin(&j->progress, "quantising", n_values);
    const int rc = model_gguf_writer_finish(w, out, e);
    base_progress_end(&j->progress);
    model_gguf_writer_free(w);
    return rc;
}

/* Renaming onto the file that is read would lose it at the first error in the new one. */
static int check_apart(const struct job *j, const char *out, struct err *e)
{
    struct stat s;
    if (stat(out, &s) != 0)
        return 0;
    for (size_t i = 0; i < model_gguf_n_parts(j->in); i++) {
        const struct base_map *map = model_gguf_map(j->in, i);
        if ((uint64_t)s.st_ino == map->inode && (uint64_t)s.st_dev == map->device)
            return err_set(e, ERR_REFUSED,
                           "%s is the file to be read; give the new one another name", out);
    }
    return 0;
}

/* Squared, of one layer. */
static double loss_of(const double sum[static 2])
{
    return sum[1] > 0 ? sum[0] / sum[1] : 0;
}

/* What is measured of the layers, each as much as any other. */
static double loss_of_layers(const struct job *j)
{
    const uint32_t n = model_quantise_layers(j->in);
    double sum = 0;
    for (uint32_t l = 0; l < n && l < MODEL_LAYERS_MAX; l++)
        sum += loss_of(j->sum[l]);
    return n > 0 ? sqrt(sum / n) : 0;
}

static int begin(struct job *j, const char *path, const struct gguf *g, struct err *e)
{
    j->in = g;
    j->new.types = base_zalloc(model_gguf_n_tensors(g) + 1, sizeof *j->new.types);
    return j->new.types == NULL ? err_set(e, ERR_NOMEM, "out of memory for the table of tensors")
                                : model_quantise_rows_init(&j->rows, path, j->c->n_threads, e);
}

static void end(struct job *j)
{
    model_quantise_rows_deinit(&j->rows);
    base_free(j->new.types);
    base_free(j);
}

int model_quantise_file(const char *in, const char *out, const struct model_quantise *c,
                        struct model_quantised *done, struct err *e)
{
    struct gguf *g = NULL;
    struct job *j = base_zalloc(1, sizeof *j);
    *done = (struct model_quantised){0};
    int rc = j == NULL ? err_set(e, ERR_NOMEM, "out of memory") : 0;
    if (rc == 0)
        rc = model_gguf_open(in, GGUF_WITH_DATA, &g, e);
    if (rc != 0) {
        base_free(j);
        return rc;
    }
    j->c = c;
    rc = begin(j, in, g, e);
    if (rc == 0 && (rc = check_apart(j, out, e)) != 0)
        err_wrap(e, rc, "%s", in);
    if (rc == 0 && (rc = model_quantise_types(g, c->type, &j->new, e)) != 0 && rc != ERR_USAGE)
        err_wrap(e, rc, "%s", in);
    if (rc == 0)
        rc = write_out(j, out, done, e);
    done->n_matrices = j->new.n_matrices;
    done->n_others = j->new.n_others;
    done->loss = loss_of_layers(j);
    end(j);
    model_gguf_close(g);
    return rc;
}

/* ---- what files would be like ---------------------------------------------------------------- */

int model_quantised_open(const struct gguf *g, const char *type, struct model **out, struct err *e)
{
    struct job j = {.in = g};
    struct model_quantised done;
    struct gguf_writer *w = NULL;
    struct base_buf card = {0};
    uint64_t n_values = 0;
    j.new.types = base_zalloc(model_gguf_n_tensors(g) + 1, sizeof *j.new.types);
    int rc = j.new.types == NULL ? err_set(e, ERR_NOMEM, "out of memory for the table of tensors")
                                 : model_quantise_types(g, type, &j.new, e);
    if (rc == 0) {
        w = model_gguf_writer_new();
        put_metadata(&j, w);
        put_tensors(&j, w, &done, &n_values);
        rc = model_gguf_writer_bytes(w, &card, e);
    }
    if (rc == 0)
        rc = model_open_card((struct span){card.ptr, card.len}, out, e);
    model_gguf_writer_free(w);
    base_buf_deinit(&card);
    base_free(j.new.types);
    return rc;
}

/* One layer's matrices in one type, or of large ones a sample of their rows. */
static int measure(struct job *j, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < model_gguf_n_tensors(j->in); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(j->in, i);
        const uint64_t rows = model_quantise_n_rows(t);
        const uint64_t every = t->dims[0] * rows / SAMPLE_VALUES;
        if (!counts(t))
            continue;
        rc = j->c->stop != NULL && j->c->stop()
                 ? err_set(e, ERR_CANCELLED, "interrupted")
                 : model_quantise_rows(&j->rows, t, j->new.types[i], 0, rows, every < 1 ? 1 : every,
                                       j->sum[model_quantise_layer(t)], e);
        base_progress_step(&j->progress, ++j->done_values);
    }
    return rc;
}

int model_quantise_losses(const char *path, const struct gguf *g, const struct model_quantise *c,
                          double loss[MODEL_QUANTISE_CHOICES][MODEL_LAYERS_MAX], struct err *e)
{
    const uint32_t n_layers = model_quantise_layers(g);
    struct job *j = base_zalloc(1, sizeof *j);
    if (j == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    j->c = c;
    int rc = begin(j, path, g, e);
    for (unsigned k = 0; rc == 0 && k < MODEL_QUANTISE_CHOICES; k++) {
        char list[40];
        snprintf(list, sizeof list, "%s*%u", model_quantise_choice(k), n_layers);
        rc = model_quantise_types(g, list, &j->new, e);
        if (rc == 0 && k == 0)
            base_progress_begin(&j->progress, "measuring types",
                                MODEL_QUANTISE_CHOICES * (uint64_t)j->new.n_matrices);
        memset(j->sum, 0, sizeof j->sum);
        if (rc == 0)
            rc = measure(j, e);
        for (uint32_t l = 0; rc == 0 && l < n_layers && l < MODEL_LAYERS_MAX; l++) {
            loss[k][l] = loss_of(j->sum[l]);
            if (j->sum[l][1] == 0)
                rc = err_set(e, ERR_RANGE,
                             "%s: the weights of layer %u are all 0, as in a file of shapes alone",
                             path, l);
        }
    }
    base_progress_end(&j->progress);
    end(j);
    return rc;
}
