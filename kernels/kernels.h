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

struct err;

enum {
    KERN_GROUP = 16,         /* rows of a group = lanes */
    KERN_BLOCK = 32,         /* columns that share one activation scale */
    KERN_SEGMENT = 256,      /* columns of the longest segment */
    KERN_ATTN_CHUNK = 128,   /* positions of an attention chunk */
    KERN_HEAD_DIM_MAX = 512, /* head_dim */
    KERN_QUERIES_MAX = 64,   /* queries of one attention call */
    KERN_UNITS_MAX = 4095,   /* units a row's fixed-point sum may have */
    KERN_ALIGN = 64          /* bytes; packed matrices and activations start on it */
};

/* ---- types ----------------------------------------------------------------------------------- */

/* Storage types of weights, in the order of kernels/types.def, which states each one's block layout
 * once for the reader, the kernels and the planner. */
enum kern_type {
#define TYPE(id, name, ggml, cols, bytes, integer, super, head, scales, quants) KERN_##id,
#include "kernels/types.def"
    KERN_N_TYPES
};

struct kern_type_info {
    const char *name;     /* "Q8_0" */
    uint32_t ggml;        /* number in GGUF */
    uint32_t block_cols;  /* columns of a block in a GGUF row */
    uint32_t block_bytes; /* bytes of a block in a GGUF row */
    bool integer;         /* the matrix product takes quantised activations */
    bool super;           /* scales are shared by super-blocks of KERN_SEGMENT columns */
    /* Bytes of the packed form, of a group: of a segment's head, of a block's scales, of a block's
     * quants. Of F32, F16, BF16 only the last, of a single column. */
    uint32_t head_bytes, scale_bytes, quant_bytes;
};
const struct kern_type_info *kern_type_info(enum kern_type type);
bool kern_type_from_ggml(uint32_t ggml, enum kern_type *out);
/* Columns at which a matrix of this type may be cut: 1, or KERN_BLOCK, also inside super-blocks. */
uint32_t kern_type_cut(enum kern_type type);

/* ---- packed matrices ------------------------------------------------------------------------- */

/* Layout of the packed form, the same on every machine and in every store, little-endian. Groups
 * of 16 rows follow each other; rows past n_rows are zeros; the whole is padded with zeros to a
 * multiple of 64 bytes.
 *
 * F32, F16, BF16: a group is [column][16 rows] elements.
 *
 * Integer types: a group is its segments, a segment is
 *   head    Q4_K, Q5_K: [16 rows] F16 d, [16 rows] F16 dmin; Q6_K: [16 rows] F16 d; others: nothing
 *   scales  [block] of
 *             Q8_0, Q4_0, Q5_0, IQ4_NL: [16 rows] F16 d
 *             Q4_1, Q5_1:               [16 rows] F16 d, [16 rows] F16 m
 *             Q4_K, Q5_K:               [16 rows] uint8 sc (0..63), [16 rows] uint8 m (0..63)
 *             Q6_K:                     [16 rows] int8 sc0 (columns 0..15), [16 rows] int8 sc1
 *   zeros up to the next multiple of 64 bytes
 *   quants  [block] of
 *             Q8_0:   [8 granules][16 rows][4] int8; byte j of granule g is column 4g+j
 *             others: [4 granules][16 rows][4]; byte j of granule g has in its low nibble the low
 *                     four bits of column 4g+j, in its high nibble those of column 16+4g+j; then
 *             Q5_*:   [16 rows][4]; bit g of byte j is the fifth bit of column 4g+j, bit 4+g that
 *                     of column 16+4g+j
 *             Q6_K:   [2][16 rows][4]; of byte j of half h, bits 0-1 are the upper bits of column
 *                     8h+j, bits 2-3 of 8h+4+j, bits 4-5 of 16+8h+j, bits 6-7 of 20+8h+j
 *
 * A column's number n stands for n - 8 in Q4_0, n - 16 in Q5_0, n - 32 in Q6_K, an entry of
 * kern_iq4nl in IQ4_NL, and n itself in the other types.
 *
 * A segment is a run of at most 8 blocks. Of a super-block type it never crosses a border of the
 * file's 256-column super-blocks: a matrix cut out at a column inside one begins `skip` columns
 * after such a border, and its first segment is that much shorter. */
struct kern_matrix {
    enum kern_type type;
    uint32_t n_rows, n_cols;
    uint32_t skip;       /* columns, a multiple of 32 below 256; 0 for types without super-blocks */
    size_t group_bytes;  /* from one group to the next */
    const uint8_t *data; /* borrowed, KERN_ALIGN-aligned */
    bool small_pages;    /* it lies in pages of 4 KiB, as mapped files do: how best to read it */
};
extern const int8_t kern_iq4nl[16];

/* `skip` of a matrix that is cut out of its file at column col0. */
uint32_t kern_column_skip(enum kern_type type, uint32_t col0);
/* Bytes of the packed form; 0 where the shape is impossible (columns not a multiple of
 * kern_type_cut, overflow). */
size_t kern_packed_bytes(enum kern_type type, uint32_t n_rows, uint32_t n_cols, uint32_t skip);
/* View `packed` as a matrix; `packed` holds kern_packed_bytes and stays the caller's. */
void kern_matrix_bind(struct kern_matrix *m, enum kern_type type, uint32_t n_rows, uint32_t n_cols,
                      uint32_t skip, const void *packed);
/* Pack rows [0, n_rows), columns [col0, col0 + n_cols) of a row-major GGUF matrix whose rows are
 * src_stride bytes apart; the result has kern_column_skip(type, col0). col0 and n_cols are
 * multiples of kern_type_cut. src may be unaligned; it points at the rows' first column. */
void kern_matrix_pack(enum kern_type type, uint32_t n_rows, uint32_t n_cols, const void *src,
                      size_t src_stride, uint32_t col0, void *packed);
/* One row back as F32, out[n_cols]: the embedding lookup (numerics §4). */
void kern_matrix_row(const struct kern_matrix *m, uint32_t row, float *out);

/* ---- activations ----------------------------------------------------------------------------- */

/* n_rows activation rows, in the forms the matrices need; a form nobody needs may be NULL. Strides
 * are elements between rows. A view of columns [c, ...) adds c to f and q, c/32 to a and s, c/16 to
 * h; c is a multiple of 32. Borrowed. */
struct kern_act {
    const float *f;   /* [n_rows, f_stride] F32 */
    const int8_t *q;  /* [n_rows, q_stride] quantised, -127..127 */
    const float *a;   /* [n_rows, q_stride / 32] scale of each block */
    const float *s;   /* [n_rows, q_stride / 32] a times the sum of the block's quants */
    const int16_t *h; /* [n_rows, q_stride / 16] sum of each 16 quants */
    size_t f_stride, q_stride;
};
struct kern_act kern_act_columns(struct kern_act x, uint32_t col);

/* ---- KV rows --------------------------------------------------------------------------------- */

/* F16, F32: [head_dim]. Q8_0: [head_dim] int8, then [head_dim / 32] F16 scales; head_dim is then a
 * multiple of 32. */
enum kern_kv_type { KERN_KV_F16, KERN_KV_F32, KERN_KV_Q8_0, KERN_N_KV_TYPES };
size_t kern_kv_row_bytes(enum kern_kv_type type, uint32_t head_dim); /* 0: not for this head_dim */

/* One query of an attention call: softmax over positions [first, n_pos) of the call's KV rows. */
struct kern_query {
    const float *q; /* [head_dim] */
    float *out;     /* [head_dim], aliases nothing */
    uint32_t first, n_pos;
};

/* ---- the table ------------------------------------------------------------------------------- */

struct kern_table {
    const char *name; /* "generic", "avx2", "neon", ... */

    /* Quantise x[n] (n a multiple of 32) into q[n], a[n/32], s[n/32], h[n/16] (numerics §3). False
     * where an element is not finite; the outputs are then zeros. No aliasing. */
    bool (*quantise)(const float *x, uint32_t n, int8_t *q, float *a, float *s, int16_t *h);

    /* y[t * y_stride + r] = sum over columns c of w[r, c] * x[t, c] for rows r of groups
     * [group0, group1) and t in [0, n_x): numerics §4, the whole of w's columns in segments.
     * y is indexed by the matrix's own row; padding rows are written too, so y has room for
     * 16 * group1 values a row of x. Integer types read x.q, x.a, x.s, x.h; the others x.f. */
    void (*matmul[KERN_N_TYPES])(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                                 const struct kern_act *x, uint32_t n_x, float *y, size_t y_stride);
    /* The same product as one unit of a sum that cuts may split (numerics §5): acc[t * acc_stride +
     * r] += it as 2^-30 fixed point, for rows r below w's n_rows; padding rows are not touched.
     * Where some |product| of row t exceeds 2^21 or is not finite, bad[t] becomes 1 and the row's
     * sums mean nothing; bad is otherwise left as it is. */
    void (*matmul_sum[KERN_N_TYPES])(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                                     const struct kern_act *x, uint32_t n_x, int64_t *acc,
                                     size_t acc_stride, uint8_t *bad);
    /* x[i] += (float)((double)acc[i] * 2^-30) + bias[i]; bias may be NULL (then nothing is added).
     */
    void (*unit_close)(const int64_t *acc, uint32_t n, const float *bias, float *x);

    /* y[i] = x[i] * (1 / sqrt(mean(x^2) + eps)) * weight[i] (numerics §6). y may be x. False where
     * the result's scale is not finite; y is then zeros. */
    bool (*rms_norm)(const float *x, const float *weight, uint32_t n, float eps, float *y);
    /* y[i] = silu(gate[i]) * up[i]; y may be gate. */
    void (*silu_mul)(const float *gate, const float *up, uint32_t n, float *y);
    /* y[i] = gelu(gate[i]) * up[i], the tanh form (numerics §7); y may be gate. */
    void (*gelu_mul)(const float *gate, const float *up, uint32_t n, float *y);

    /* Store x[head_dim] as one KV row. False where an element is not finite or overflows the type.
     */
    bool (*kv_store[KERN_N_KV_TYPES])(const float *x, uint32_t head_dim, void *row);
    /* For each of n_q queries: out = softmax(scale * q K^T) V over its positions of one slot's rows
     * (numerics §8). k, v: rows [position][head_dim]. The queries share the rows, so that a kernel
     * may load and widen a row once for all of them; a query's result does not depend on the
     * others. NaN where a score is not finite. */
    void (*attend[KERN_N_KV_TYPES])(const struct kern_query *list, uint32_t n_q, const void *k,
                                    const void *v, uint32_t head_dim, float scale);
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

/* ---- numerics: fast -------------------------------------------------------------------------- */

enum {
    KERN_FAST_ROWS = 16,       /* rows of x from which OpenBLAS gains anything */
    KERN_FAST_PANEL = 256 * 256 /* floats of scratch a thread gives it */
};
/* Load OpenBLAS; once, before any other thread runs. ERR_UNSUPPORTED with what to do. */
int kern_fast_open(struct err *e);
/* As matmul of a float type, with sums in an order that nobody promises; `add` puts the product on
 * top of y. panel[KERN_FAST_PANEL] is the calling thread's. Only after kern_fast_open. */
void kern_fast_matmul(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                      const struct kern_act *x, uint32_t n_x, bool add, float *panel, float *y,
                      size_t y_stride);

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
