/* Private to model/: encoders of quantised blocks, what becomes of a file's tensors, and rows encoded
 * by threads. */
#ifndef MODEL_QUANTISE_H
#define MODEL_QUANTISE_H

#include "model/model.h"

/* Numbers of the types in GGUF. */
enum { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30 };

/* x[32] as one block of Q8_0 (34 bytes) or Q4_0 (18), x[256] as one of Q4_K (144) or Q6_K (210).
 * x is finite. False where the block's scale is beyond what F16 holds; the block is then not
 * written. */
typedef bool model_quantise_block(const float *x, uint8_t *block);
model_quantise_block model_quantise_q8_0, model_quantise_q4_0;
model_quantise_block model_quantise_q4_k, model_quantise_q6_k;

/* ---- model/quantise_types.c ------------------------------------------------------------------ */

bool model_quantise_is_matrix(const struct gguf_tensor *t);
/* The number in "blk.N."; UINT32_MAX: not a layer's tensor. */
uint32_t model_quantise_layer(const struct gguf_tensor *t);
uint32_t model_quantise_layers(const struct gguf *g);
/* What becomes of a file. */
struct quantise_types {
    uint32_t *types;               /* [n_tensors] of the new file; the caller's */
    uint32_t file_type;            /* general.file_type; UINT32_MAX: none fits */
    uint32_t n_matrices, n_others; /* as in struct model_quantised */
};
/* By `type`, as in struct model_quantise. ERR_USAGE, ERR_UNSUPPORTED with the tensor, ERR_NOMEM. */
int model_quantise_types(const struct gguf *g, const char *type, struct quantise_types *out,
                         struct err *e);

/* ---- model/quantise_rows.c ------------------------------------------------------------------- */

enum { QUANTISE_PARTS_MAX = 256 };
struct quantise_rows {
    const char *path; /* of the file that is read, for errors */
    struct kern_pool *pool;
    const struct gguf_tensor *t;
    uint32_t type;
    uint64_t row0, n_rows, every; /* of each `every` groups of KERN_GROUP rows the first is taken */
    bool measure;
    uint8_t *out;  /* the rows taken, in the new type, one after the other */
    double *error; /* [2 * groups] of each the squared error, then the squared norm */
    uint8_t *room; /* [threads, room_bytes] */
    size_t out_bytes, error_groups, room_bytes;
    uint8_t faults[QUANTISE_PARTS_MAX];
};
/* ERR_NOMEM. */
int model_quantise_rows_init(struct quantise_rows *q, const char *path, unsigned n_threads,
                             struct err *e);
void model_quantise_rows_deinit(struct quantise_rows *q);
/* Encode rows [row0, row0 + n_rows) of t in `type`, all or (every > 1) some groups of them, into
 * q->out. With `sum` their squared errors, as the kernels will read the weights, and squared norms
 * are added to sum[0] and sum[1], the same for any number of threads. ERR_RANGE with the tensor
 * where a value is not finite or too large for the type, ERR_NOMEM. */
int model_quantise_rows(struct quantise_rows *q, const struct gguf_tensor *t, uint32_t type,
                        uint64_t row0, uint64_t n_rows, uint64_t every, double *sum, struct err *e);
size_t model_quantise_row_bytes(uint32_t type, uint64_t cols);
uint64_t model_quantise_n_rows(const struct gguf_tensor *t);

#endif
