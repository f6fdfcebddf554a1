/* Rows of a file's tensor in another type, encoded by threads in groups of 16, and what that costs
 * them: the squared difference between the original weights and those that the kernels will read
 * from the new ones, which is found by packing the group and reading it back.
 *
 * Sums are kept group by group and added in order, so that they do not depend on the threads. */
#include "model/gguf.h"
#include "model/quantise.h"

#include <math.h>
#include <string.h>

/* What went wrong in one thread's rows. */
enum fault { FINE, NOT_FINITE, TOO_LARGE };

size_t model_quantise_row_bytes(uint32_t type, uint64_t cols)
{
    struct gguf_type_info info = {0};
    (void)model_gguf_type_info(type, &info);
    return (size_t)(cols / info.block_cols * info.block_bytes);
}

uint64_t model_quantise_n_rows(const struct gguf_tensor *t)
{
    return t->dims[1] * t->dims[2] * t->dims[3];
}

/* One row of the old file as F32. False where a value is not finite. */
static bool read_row(const struct gguf_tensor *t, uint64_t row, float *x)
{
    const size_t cols = (size_t)t->dims[0];
    const uint8_t *p = t->data + row * model_quantise_row_bytes(t->ggml_type, cols);
    bool finite = true;
    for (size_t i = 0; i < cols; i++) {
        if (t->ggml_type == F32)
            x[i] = gguf_le_f32(p + 4 * i);
        else if (t->ggml_type == F16)
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

/* ---- a thread's part ------------------------------------------------------------------------- */

/* A thread's room: x[KERN_GROUP][cols], y[cols], and a packed group. */
static size_t y_at(size_t cols)
{
    return base_round_up(KERN_GROUP * cols * sizeof(float), KERN_ALIGN);
}

static size_t packed_at(size_t cols)
{
    return y_at(cols) + base_round_up(cols * sizeof(float), KERN_ALIGN);
}

static enum kern_type kernel_type(uint32_t type)
{
    enum kern_type k = KERN_F32;
    (void)kern_type_from_ggml(type, &k);
    return k;
}

static enum fault encode_group(const struct quantise_rows *q, uint64_t row, uint32_t n, float *x,
                               uint8_t *to)
{
    struct gguf_type_info info = {0};
    model_quantise_block *encode = encoder_of(q->type);
    const size_t cols = (size_t)q->t->dims[0];
    (void)model_gguf_type_info(q->type, &info);
    for (uint32_t r = 0; r < n; r++, x += cols) {
        if (!read_row(q->t, row + r, x))
            return NOT_FINITE;
        for (size_t c = 0; c < cols; c += info.block_cols, to += info.block_bytes)
            if (!encode(x + c, to))
                return TOO_LARGE;
    }
    return FINE;
}

static void measure_group(const struct quantise_rows *q, uint32_t n, const uint8_t *rows,
                          uint8_t *room, double *sum)
{
    const uint32_t cols = (uint32_t)q->t->dims[0];
    const enum kern_type type = kernel_type(q->type);
    const float *x = (const float *)(void *)room;
    float *y = (float *)(void *)(room + y_at(cols));
    struct kern_matrix m;
    kern_matrix_pack(type, n, cols, rows, model_quantise_row_bytes(q->type, cols), 0,
                     room + packed_at(cols));
    kern_matrix_bind(&m, type, n, cols, 0, room + packed_at(cols));
    sum[0] = sum[1] = 0;
    for (uint32_t r = 0; r < n; r++, x += cols) {
        kern_matrix_row(&m, r, y);
        for (uint32_t c = 0; c < cols; c++) {
            const double off = (double)x[c] - (double)y[c];
            sum[0] += off * off;
            sum[1] += (double)x[c] * (double)x[c];
        }
    }
}

static uint64_t n_groups(const struct quantise_rows *q)
{
    const uint64_t all = (q->n_rows + KERN_GROUP - 1) / KERN_GROUP;
    return (all + q->every - 1) / q->every;
}

static void encode_part(void *arg, unsigned part, unsigned n_parts)
{
    struct quantise_rows *q = arg;
    const size_t bytes = model_quantise_row_bytes(q->type, q->t->dims[0]);
    uint8_t *room = q->room + part * q->room_bytes;
    const uint64_t n = n_groups(q);
    kern_fp_init();
    q->faults[part] = FINE;
    for (uint64_t g = n * part / n_parts; g < n * (part + 1) / n_parts; g++) {
        const uint64_t at = g * q->every * KERN_GROUP, left = q->n_rows - at;
        const uint32_t rows = left < KERN_GROUP ? (uint32_t)left : KERN_GROUP;
        uint8_t *to = q->out + g * KERN_GROUP * bytes;
        q->faults[part] = (uint8_t)encode_group(q, q->row0 + at, rows, (float *)(void *)room, to);
        if (q->faults[part] != FINE)
            return;
        if (q->measure)
            measure_group(q, rows, to, room, q->error + 2 * g);
    }
}

/* ---- all of them ----------------------------------------------------------------------------- */

int model_quantise_rows_init(struct quantise_rows *q, const char *path, unsigned n_threads,
                             struct err *e)
{
    *q = (struct quantise_rows){.path = path};
    q->pool = kern_pool_new(n_threads < 1                    ? 1
                            : n_threads > QUANTISE_PARTS_MAX ? QUANTISE_PARTS_MAX
                                                             : n_threads);
    return q->pool != NULL
               ? 0
               : err_set(e, ERR_NOMEM, "out of memory, or of threads, for %u threads", n_threads);
}

void model_quantise_rows_deinit(struct quantise_rows *q)
{
    kern_pool_free(q->pool);
    base_free(q->out);
    base_free(q->error);
    base_free(q->room);
}

static int check_faults(const struct quantise_rows *q, struct err *e)
{
    char text[GGUF_PRINTABLE_MAX];
    const char *name = model_gguf_printable(q->t->name, text);
    for (unsigned part = 0; part < kern_pool_threads(q->pool); part++) {
        if (q->faults[part] == NOT_FINITE)
            return err_set(e, ERR_RANGE,
                           "%s: the tensor %s has a value that is not finite: the file is damaged, "
                           "or was converted with an overflow",
                           q->path, name);
        if (q->faults[part] == TOO_LARGE)
            return err_set(e, ERR_RANGE, "%s: the tensor %s has a value too large for %s", q->path,
                           name, model_gguf_type_name(q->type));
    }
    return 0;
}

/* At least n * each bytes in the place of `old`, which has *has * each; NULL: out of memory. */
static void *grown(void *old, size_t *has, size_t n, size_t each)
{
    size_t bytes;
    if (old != NULL && *has >= n)
        return old;
    base_free(old);
    void *p = base_mul(n, each, &bytes) ? base_alloc(bytes) : NULL;
    *has = p != NULL ? n : 0;
    return p;
}

/* Room for the rows in hand, grown as tensors get wider. */
static int make_room(struct quantise_rows *q, struct err *e)
{
    const size_t cols = (size_t)q->t->dims[0], groups = (size_t)n_groups(q);
    const size_t bytes = model_quantise_row_bytes(q->type, cols);
    size_t out = 0, room = 0;
    if (!base_mul(bytes, KERN_GROUP * groups, &out) ||
        !base_mul(cols, 2 * KERN_GROUP * sizeof(float), &room))
        return err_set(e, ERR_NOMEM, "out of memory for rows of %zu values", cols);
    room =
        packed_at(cols) +
        (q->measure ? kern_packed_bytes(kernel_type(q->type), KERN_GROUP, (uint32_t)cols, 0) : 0);
    q->out = grown(q->out, &q->out_bytes, out, 1);
    q->error = grown(q->error, &q->error_groups, groups, 2 * sizeof *q->error);
    q->room =
        grown(q->room, &q->room_bytes, base_round_up(room, KERN_ALIGN), kern_pool_threads(q->pool));
    return q->out != NULL && q->error != NULL && q->room != NULL
               ? 0
               : err_set(e, ERR_NOMEM, "out of memory for rows of %zu values", cols);
}

int model_quantise_rows(struct quantise_rows *q, const struct gguf_tensor *t, uint32_t type,
                        uint64_t row0, uint64_t n_rows, uint64_t every, double *sum, struct err *e)
{
    q->t = t;
    q->type = type;
    q->row0 = row0;
    q->n_rows = n_rows;
    q->every = every;
    q->measure = sum != NULL && t->dims[0] <= MODEL_FF_MAX;
    int rc = make_room(q, e);
    if (rc != 0)
        return rc;
    kern_pool_run(q->pool, encode_part, q);
    rc = check_faults(q, e);
    for (size_t g = 0; rc == 0 && q->measure && g < n_groups(q); g++) {
        sum[0] += q->error[2 * g];
        sum[1] += q->error[2 * g + 1];
    }
    return rc;
}
