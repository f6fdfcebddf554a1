/* The arithmetic of Shoal: one table of kernels, a scalar definition for each slot, faster ones per
 * instruction set that equal it bit for bit (docs/numerics.md). Nothing here allocates, logs or
 * knows what a layer is.
 *
 * Vocabulary. A packed matrix has its rows in groups of KERN_GROUP (16), padded with zero rows: a
 * vector lane is an output row, and one output is one chain of operations. An activation row comes
 * as F32, or quantised to int8 in blocks of KERN_BLOCK (32) columns. A segment is a run of columns
 * inside one 256-column super-block of the matrix. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KERN_GROUP = 16,         /* rows of a group = lanes */
    KERN_BLOCK = 32,         /* columns that share one activation scale */
    KERN_SEGMENT = 256,      /* columns of the longest segment */
    KERN_ATTN_CHUNK = 128,   /* positions of an attention chunk */
    KERN_HEAD_DIM_MAX = 512, /* head_dim */
    KERN_UNITS_MAX = 4095,   /* units a row's fixed-point sum may have */
    KERN_ALIGN = 64          /* bytes; packed matrices and activations start on it */
};

/* ---- types ----------------------------------------------------------------------------------- */

/* Storage types of weights. Order is ours; `ggml` in the info table is the number in a GGUF file.
 */
enum kern_type { KERN_F32, KERN_F16, KERN_BF16, KERN_Q8_0, KERN_Q4_0, KERN_N_TYPES };

struct kern_type_info {
    const char *name;     /* "Q8_0" */
    uint32_t ggml;        /* number in GGUF */
    uint32_t block_cols;  /* columns of a block in a GGUF row */
    uint32_t block_bytes; /* bytes of a block in a GGUF row */
    bool integer;         /* the matrix product takes quantised activations */
};
const struct kern_type_info *kern_type_info(enum kern_type type);
bool kern_type_from_ggml(uint32_t ggml, enum kern_type *out);

/* ---- packed matrices ------------------------------------------------------------------------- */

/* Layout of the packed form, the same on every machine and in every store, little-endian:
 *   F32, F16, BF16  quants: [group][col][16 rows] elements; no scales
 *   Q8_0            quants: [group][block][8 granules][16 rows][4 cols] int8
 *   Q4_0            quants: [group][block][4 granules][16 rows][4 bytes]; byte j of granule g holds
 *                   column 4g+j in its low nibble and column 16+4g+j in its high nibble, each 0..15
 *                   standing for -8..7
 *   scales (Q*)     [group][block][16 rows] F16, after all quants, at the next multiple of 64
 * The whole is padded with zeros to a multiple of 64 bytes. Rows past n_rows are zeros. */
struct kern_matrix {
    enum kern_type type;
    uint32_t n_rows, n_cols;
    const uint8_t *quants; /* borrowed, KERN_ALIGN-aligned */
    const uint8_t *scales; /* borrowed; NULL for F32, F16, BF16 */
};

/* Bytes of the packed form; 0 where the shape is impossible (columns not whole blocks, overflow).
 */
size_t kern_packed_bytes(enum kern_type type, uint32_t n_rows, uint32_t n_cols);
/* View `packed` as a matrix; `packed` holds kern_packed_bytes and stays the caller's. */
void kern_matrix_bind(struct kern_matrix *m, enum kern_type type, uint32_t n_rows, uint32_t n_cols,
                      const void *packed);
/* Pack rows [0, n_rows), columns [col0, col0 + n_cols) of a row-major GGUF matrix whose rows are
 * src_stride bytes apart. col0 and n_cols are multiples of the type's block_cols. src may be
 * unaligned. */
void kern_matrix_pack(enum kern_type type, uint32_t n_rows, uint32_t n_cols, const void *src,
                      size_t src_stride, uint32_t col0, void *packed);
/* One row back as F32, out[n_cols]: the embedding lookup. F32/F16/BF16: exact; Q*: d * q in F32. */
void kern_matrix_row(const struct kern_matrix *m, uint32_t row, float *out);

/* ---- activations ----------------------------------------------------------------------------- */

/* n_rows activation rows, in the forms the matrices need; a form nobody needs may be NULL. Strides
 * are elements between rows. A view of columns [c, ...) adds c to f and q, c/32 to a, c/16 to h; c
 * is a multiple of 32. Borrowed. */
struct kern_act {
    const float *f;   /* [n_rows, f_stride] F32 */
    const int8_t *q;  /* [n_rows, q_stride] quantised, -127..127 */
    const float *a;   /* [n_rows, q_stride / 32] scale of each block */
    const int16_t *h; /* [n_rows, q_stride / 16] sum of each 16 quants */
    size_t f_stride, q_stride;
};
struct kern_act kern_act_columns(struct kern_act x, uint32_t col);

/* ---- KV rows --------------------------------------------------------------------------------- */

enum kern_kv_type { KERN_KV_F16, KERN_KV_F32, KERN_N_KV_TYPES };
size_t kern_kv_row_bytes(enum kern_kv_type type, uint32_t head_dim);

/* ---- the table ------------------------------------------------------------------------------- */

struct kern_table {
    const char *name; /* "generic", "avx2", "neon", "neon-dotprod" */

    /* Quantise x[n] (n a multiple of 32) into q[n], a[n/32], h[n/16] (numerics §2). False where an
     * element is not finite; the outputs are then zeros. No aliasing. */
    bool (*quantise)(const float *x, uint32_t n, int8_t *q, float *a, int16_t *h);

    /* y[t * y_stride + r] = sum over columns c of w[r, c] * x[t, c] for rows r of groups
     * [group0, group1) and t in [0, n_x): numerics §3, the whole of w's columns in segments of 256.
     * y is indexed by the matrix's own row; padding rows are written too, so y has room for
     * 16 * group1 values a row of x. Integer types read x.q, x.a, x.h; the others x.f. */
    void (*matmul[KERN_N_TYPES])(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                                 const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride);

    /* acc[i] += u[i] as 2^-30 fixed point (numerics §4). False, and acc untouched, where some
     * |u[i]| exceeds 2^21 or is not finite. */
    bool (*unit_add)(const float *u, uint32_t n, int64_t *acc);
    /* x[i] += (float)((double)acc[i] * 2^-30) + bias[i]; bias may be NULL (then nothing is added).
     */
    void (*unit_close)(const int64_t *acc, uint32_t n, const float *bias, float *x);

    /* y[i] = x[i] * (1 / sqrt(mean(x^2) + eps)) * weight[i] (numerics §5). y may be x. False where
     * the result's scale is not finite; y is then zeros. */
    bool (*rms_norm)(const float *x, const float *weight, uint32_t n, float eps, float *y);
    /* y[i] = silu(gate[i]) * up[i]; y may be gate. */
    void (*silu_mul)(const float *gate, const float *up, uint32_t n, float *y);

    /* Store x[head_dim] as one KV row. False where an element is not finite or overflows the type.
     */
    bool (*kv_store[KERN_N_KV_TYPES])(const float *x, uint32_t head_dim, void *row);
    /* out[head_dim] = softmax(scale * q K^T) V over positions [first, n_pos) of one slot
     * (numerics §6). k, v: rows [position][head_dim]. No aliasing. */
    void (*attend[KERN_N_KV_TYPES])(const float *q, const void *k, const void *v, uint32_t head_dim,
                                    uint32_t first, uint32_t n_pos, float scale, float *out);
};

/* The best table this CPU runs, or the one called `name` ("generic", ...); NULL where there is none
 * of that name or this CPU cannot run it. */
const struct kern_table *kern_table_select(const char *name);
/* i-th table compiled in (whether or not this CPU runs it), or NULL past the end; i = 0 is generic.
 */
const struct kern_table *kern_table_at(unsigned i);
bool kern_table_runs(const struct kern_table *t);
/* Hash of the bits that every slot gives on fixed vectors; equal on all machines that may share a
 * ring. */
uint64_t kern_table_hash(const struct kern_table *t);

/* Put this thread's floating point unit into the state that the numerics assume: round to nearest
 * even, denormals kept. Every thread that computes calls it first. */
void kern_fp_init(void);

/* ---- functions (numerics §7), the same bits on every machine --------------------------------- */

float kern_exp(float x);
double kern_log_f64(double x); /* x > 0, finite */
double kern_exp_f64(double x);
void kern_sincos_f64(double x, double *s, double *c); /* |x| < 2^31 */
float kern_f32_from_f16(uint16_t h);
uint16_t kern_f16_from_f32(float x);
float kern_f32_from_bf16(uint16_t h);

/* cos and sin of one position's rotation, cs[n_dims/2][2] = {cos, sin}: angle p = pos *
 * base^(-2i/n_dims) / factor[i], in double by the functions above, rounded once. factors may be
 * NULL. */
void kern_rope_table(uint32_t pos, uint32_t n_dims, double base, const float *factors, float *cs);
/* Rotate x[n_dims] in place: pairs (2i, 2i+1) for norm, (i, i + n_dims/2) for neox. */
void kern_rope_norm(float *x, uint32_t n_dims, const float *cs);
void kern_rope_neox(float *x, uint32_t n_dims, const float *cs);

/* ---- thread pool ----------------------------------------------------------------------------- */

/* n_threads including the caller. Threads wait on a condition, they do not spin for long. */
struct kern_pool;
struct kern_pool *
kern_pool_new(unsigned n_threads); /* NULL: out of memory or no thread to be had */
unsigned kern_pool_threads(const struct kern_pool *p);
/* Call fn(arg, part, n_parts) for every part in [0, n_parts), n_parts = threads; returns when all
 * are done. */
void kern_pool_run(struct kern_pool *p, void (*fn)(void *arg, unsigned part, unsigned n_parts),
                   void *arg);
void kern_pool_free(struct kern_pool *p);

#endif
