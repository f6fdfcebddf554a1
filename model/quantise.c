/* A model file in a smaller type: what becomes of each tensor, and the file written row by row.
 *
 * Matrices become the type asked for; vectors (norms, biases, frequency factors) become F32, which
 * the executor wants; a router of experts stays as it is, since a little error there changes which
 * experts speak. The output matrix, or the embedding where that is the output matrix, is Q6_K in
 * files of 4 bits, as is usual: it costs little and its error goes straight into the logits.
 * "Q4_K_M" gives some more layers' attn_v and ffn_down 6 bits, the choice that published files
 * of that name have. Rows that are not whole blocks of 256 become Q8_0, and where 32 does not
 * divide them either, F16.
 *
 * The file is written by asking for its tensors' data (model_gguf_source), a bounded number of rows
 * at a time that the threads share; so memory does not grow with the file. A value that is not
 * finite ends it with the tensor named: a model with one gives no text anyway. */
#include "model/quantise.h"
#include "model/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

/* Numbers of the types in GGUF, and what general.file_type calls files of them. */
enum { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30 };
enum { FILE_Q4_0 = 2, FILE_Q8_0 = 7, FILE_Q4_K_S = 14, FILE_Q4_K_M = 15, FILE_Q6_K = 18 };
enum { QUANTISATION_VERSION = 2, ROWS_VALUES = 1 << 20, PARTS_MAX = 256 };

struct target {
    const char *name;
    uint32_t ggml, file_type;
    bool good_output; /* the output matrix is Q6_K */
    bool mixed;       /* and some attn_v and ffn_down */
};

static const struct target targets[] = {
    {"Q8_0", Q8_0, FILE_Q8_0, false, false},  {"Q4_0", Q4_0, FILE_Q4_0, true, false},
    {"Q4_K", Q4_K, FILE_Q4_K_S, true, false}, {"Q4_K_M", Q4_K, FILE_Q4_K_M, true, true},
    {"Q6_K", Q6_K, FILE_Q6_K, false, false},
};
enum { N_TARGETS = sizeof targets / sizeof targets[0] };

const char *model_quantise_type(unsigned i)
{
    return i < N_TARGETS ? targets[i].name : NULL;
}

/* What went wrong in one thread's rows. */
enum fault { FINE, NOT_FINITE, TOO_LARGE };

struct job {
    const char *path; /* of the old file */
    const struct gguf *in;
    const struct target *target;
    const struct model_quantise *c;
    uint32_t *types; /* [n_tensors] of the new file */
    uint32_t n_layers;
    struct kern_pool *pool;
    struct base_progress progress;
    uint64_t done_values;

    /* The rows in hand. */
    const struct gguf_tensor *t;
    uint32_t type;
    uint64_t row0, n_rows;
    uint8_t *out; /* [n_rows] rows of the new type */
    size_t out_cap;
    float *values; /* [threads, values_cap] one row each */
    size_t values_cap;
    uint8_t faults[PARTS_MAX]; /* enum fault, by thread */
};

/* ---- what becomes of a tensor ---------------------------------------------------------------- */

static bool ends_with(struct span s, const char *end)
{
    const size_t n = strlen(end);
    return s.len >= n && memcmp(s.ptr + s.len - n, end, n) == 0;
}

static bool is_matrix(const struct gguf_tensor *t)
{
    return t->n_dims >= 2 && ends_with(t->name, ".weight") && !ends_with(t->name, "_norm.weight") &&
           !ends_with(t->name, "ffn_gate_inp.weight");
}

/* The number in "blk.N."; UINT32_MAX: not a layer's tensor. */
static uint32_t layer_of(struct span name)
{
    uint32_t n = 0;
    size_t i = 4;
    if (name.len < 6 || memcmp(name.ptr, "blk.", 4) != 0)
        return UINT32_MAX;
    for (; i < name.len && i < 8 && name.ptr[i] >= '0' && name.ptr[i] <= '9'; i++)
        n = 10 * n + (uint32_t)(name.ptr[i] - '0');
    return i > 4 && i < name.len && name.ptr[i] == '.' ? n : UINT32_MAX;
}

/* The first and the last eighth of the layers and every third between them. */
static bool gets_more_bits(const struct job *j, const struct gguf_tensor *t)
{
    const uint32_t layer = layer_of(t->name), eighth = j->n_layers / 8;
    if (layer == UINT32_MAX ||
        !(ends_with(t->name, ".attn_v.weight") || ends_with(t->name, ".ffn_down.weight")))
        return false;
    return layer < eighth || layer >= 7 * j->n_layers / 8 || (layer - eighth) % 3 == 2;
}

static bool is_output(const struct job *j, const struct gguf_tensor *t)
{
    const bool tied = model_gguf_tensor(j->in, "output.weight") == NULL;
    return base_span_is(t->name, tied ? "token_embd.weight" : "output.weight");
}

/* Of a type that there is. */
static struct gguf_type_info info_of(uint32_t type)
{
    struct gguf_type_info info = {0};
    (void)model_gguf_type_info(type, &info);
    return info;
}

static uint32_t new_type(const struct job *j, const struct gguf_tensor *t)
{
    uint32_t type = j->target->ggml;
    if (t->n_dims == 1)
        return F32;
    if (!is_matrix(t))
        return t->ggml_type;
    if ((j->target->good_output && is_output(j, t)) || (j->target->mixed && gets_more_bits(j, t)))
        type = Q6_K;
    if (t->dims[0] % info_of(type).block_cols != 0)
        type = t->dims[0] % info_of(Q8_0).block_cols == 0 ? Q8_0 : F16;
    return type;
}

static int choose_types(struct job *j, struct model_quantised *done, struct err *e)
{
    const size_t n = model_gguf_n_tensors(j->in);
    for (size_t i = 0; i < n; i++) {
        const uint32_t layer = layer_of(model_gguf_tensor_at(j->in, i)->name);
        if (layer != UINT32_MAX && layer >= j->n_layers)
            j->n_layers = layer + 1;
    }
    for (size_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(j->in, i);
        if (t->ggml_type != F32 && t->ggml_type != F16 && t->ggml_type != BF16) {
            char text[GGUF_PRINTABLE_MAX];
            const char *name = model_gguf_type_name(t->ggml_type);
            return err_set(e, ERR_UNSUPPORTED,
                           "the tensor %s is of type %s; only F32, F16 and BF16 files are "
                           "quantised, begin with one of those",
                           model_gguf_printable(t->name, text), name != NULL ? name : "unknown");
        }
        j->types[i] = new_type(j, t);
        done->bytes_before += t->bytes;
        done->n_matrices += is_matrix(t);
        done->n_others += is_matrix(t) &&
                          (j->types[i] == F16 || (j->types[i] == Q8_0 && j->target->ggml != Q8_0));
    }
    return 0;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static size_t row_bytes(uint32_t type, uint64_t cols)
{
    const struct gguf_type_info info = info_of(type);
    return (size_t)(cols / info.block_cols * info.block_bytes);
}

/* One row of the old file as F32. False where a value is not finite. */
static bool read_row(const struct job *j, uint64_t row, float *x)
{
    const size_t cols = (size_t)j->t->dims[0];
    const uint8_t *p = j->t->data + row * row_bytes(j->t->ggml_type, cols);
    bool finite = true;
    for (size_t i = 0; i < cols; i++) {
        if (j->t->ggml_type == F32)
            x[i] = gguf_le_f32(p + 4 * i);
        else if (j->t->ggml_type == F16)
            x[i] = kern_f32_from_f16((uint16_t)gguf_le(p + 2 * i, 2));
        else
            x[i] = kern_f32_from_bf16((uint16_t)gguf_le(p + 2 * i, 2));
        finite = finite && isfinite(x[i]);
    }
    return finite;
}

/* One block of a float type is one value. */
static bool put_f32(const float *x, uint8_t *to)
{
    memcpy(to, x, sizeof *x);
    return true;
}

static bool put_f16(const float *x, uint8_t *to)
{
    const uint16_t h = kern_f16_from_f32(*x);
    memcpy(to, &h, sizeof h);
    return (h & 0x7c00) != 0x7c00;
}

static bool put_bf16(const float *x, uint8_t *to)
{
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    const uint16_t upper = (uint16_t)(bits >> 16); /* it came from BF16: nothing is lost */
    memcpy(to, &upper, sizeof upper);
    return true;
}

static model_quantise_block *encoder_of(uint32_t type)
{
    switch (type) {
    case F16:
        return put_f16;
    case BF16:
        return put_bf16;
    case Q4_0:
        return model_quantise_q4_0;
    case Q8_0:
        return model_quantise_q8_0;
    case Q4_K:
        return model_quantise_q4_k;
    case Q6_K:
        return model_quantise_q6_k;
    default:
        return put_f32;
    }
}

/* A thread's share of the rows in hand. */
static void encode_part(void *arg, unsigned part, unsigned n_parts)
{
    struct job *j = arg;
    const struct gguf_type_info info = info_of(j->type);
    model_quantise_block *encode = encoder_of(j->type);
    const size_t cols = (size_t)j->t->dims[0], bytes = row_bytes(j->type, cols);
    float *x = j->values + (size_t)part * j->values_cap;
    kern_fp_init();
    j->faults[part] = FINE;
    for (uint64_t r = j->n_rows * part / n_parts; r < j->n_rows * (part + 1) / n_parts; r++) {
        uint8_t *to = j->out + r * bytes;
        if (!read_row(j, j->row0 + r, x)) {
            j->faults[part] = NOT_FINITE;
            return;
        }
        for (size_t c = 0; c < cols; c += info.block_cols, to += info.block_bytes)
            if (!encode(x + c, to)) {
                j->faults[part] = TOO_LARGE;
                return;
            }
    }
}

static int check_faults(const struct job *j, struct err *e)
{
    char text[GGUF_PRINTABLE_MAX];
    const char *name = model_gguf_printable(j->t->name, text);
    for (unsigned part = 0; part < kern_pool_threads(j->pool); part++) {
        if (j->faults[part] == NOT_FINITE)
            return err_set(e, ERR_RANGE,
                           "%s: the tensor %s has a value that is not finite: the file is damaged, "
                           "or was converted with an overflow",
                           j->path, name);
        if (j->faults[part] == TOO_LARGE)
            return err_set(e, ERR_RANGE, "%s: the tensor %s has a value too large for %s", j->path,
                           name, model_gguf_type_name(j->type));
    }
    return 0;
}

/* Room for the rows in hand, grown as tensors get wider. */
static int make_room(struct job *j, struct err *e)
{
    const size_t cols = (size_t)j->t->dims[0], bytes = row_bytes(j->type, cols);
    size_t out = 0, values = 0;
    if (base_mul(bytes, (size_t)j->n_rows, &out) && out > j->out_cap) {
        base_free(j->out);
        j->out = base_alloc(out);
        j->out_cap = j->out != NULL ? out : 0;
    }
    if (cols > j->values_cap && base_mul(cols, kern_pool_threads(j->pool), &values)) {
        base_free(j->values);
        j->values = base_zalloc(values, sizeof *j->values);
        j->values_cap = j->values != NULL ? cols : 0;
    }
    return j->out_cap >= out && out > 0 && j->values_cap >= cols
               ? 0
               : err_set(e, ERR_NOMEM, "out of memory for rows of %zu values", cols);
}

/* A model_gguf_source: the next rows of tensor i in its new type. */
static int next_rows(void *arg, size_t i, uint64_t at, struct span *out, struct err *e)
{
    struct job *j = arg;
    j->t = model_gguf_tensor_at(j->in, i);
    j->type = j->types[i];
    const uint64_t cols = j->t->dims[0], rows = j->t->dims[1] * j->t->dims[2] * j->t->dims[3];
    const size_t bytes = row_bytes(j->type, cols);
    if (j->c->stop != NULL && j->c->stop())
        return err_set(e, ERR_CANCELLED, "interrupted");
    j->row0 = at / bytes;
    j->n_rows = ROWS_VALUES / cols < 1 ? 1 : ROWS_VALUES / cols;
    if (j->n_rows > rows - j->row0)
        j->n_rows = rows - j->row0;
    int rc = make_room(j, e);
    if (rc != 0)
        return rc;
    kern_pool_run(j->pool, encode_part, j);
    if ((rc = check_faults(j, e)) != 0)
        return rc;
    j->done_values += j->n_rows * cols;
    base_progress_step(&j->progress, j->done_values);
    *out = (struct span){j->out, (size_t)j->n_rows * bytes};
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
    model_gguf_put_u32(w, "general.file_type", j->target->file_type);
    model_gguf_put_u32(w, "general.quantization_version", QUANTISATION_VERSION);
}

static void put_tensors(const struct job *j, struct gguf_writer *w, struct model_quantised *done,
                        uint64_t *n_values)
{
    for (size_t i = 0; i < model_gguf_n_tensors(j->in); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(j->in, i);
        const uint64_t rows = t->dims[1] * t->dims[2] * t->dims[3];
        char name[GGUF_NAME_MAX + 1];
        memcpy(name, t->name.ptr, t->name.len);
        name[t->name.len] = '\0';
        model_gguf_put_tensor(w, name, j->types[i], t->n_dims, t->dims, NULL);
        done->bytes_after += rows * row_bytes(j->types[i], t->dims[0]);
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

static int find_target(const char *name, const struct target **out, struct err *e)
{
    for (size_t i = 0; i < N_TARGETS; i++)
        if (strcmp(targets[i].name, name) == 0) {
            *out = &targets[i];
            return 0;
        }
    return err_set(e, ERR_USAGE, "there is no type \"%.40s\" to quantise to", name);
}

int model_quantise_file(const char *in, const char *out, const struct model_quantise *c,
                        struct model_quantised *done, struct err *e)
{
    struct gguf *g = NULL;
    struct job j = {.path = in, .c = c};
    *done = (struct model_quantised){0};
    int rc = find_target(c->type, &j.target, e);
    if (rc == 0)
        rc = model_gguf_open(in, GGUF_WITH_DATA, &g, e);
    if (rc != 0)
        return rc;
    j.in = g;
    j.types = base_zalloc(model_gguf_n_tensors(g) + 1, sizeof *j.types);
    j.pool = kern_pool_new(c->n_threads < 1           ? 1
                           : c->n_threads > PARTS_MAX ? PARTS_MAX
                                                      : c->n_threads);
    if (j.types == NULL || j.pool == NULL) {
        rc = err_set(e, ERR_NOMEM, "out of memory, or of threads, for %u threads", c->n_threads);
        goto out;
    }
    rc = check_apart(&j, out, e);
    if (rc == 0)
        rc = choose_types(&j, done, e);
    if (rc != 0) {
        err_wrap(e, rc, "%s", in);
        goto out;
    }
    rc = write_out(&j, out, done, e);
out:
    kern_pool_free(j.pool);
    base_free(j.values);
    base_free(j.out);
    base_free(j.types);
    model_gguf_close(g);
    return rc;
}
