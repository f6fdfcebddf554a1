/* What model/'s own files share: the inside of a model, the parts of a piece, the inside of an
 * executor. Included from model/ only. */
#ifndef MODEL_MODEL_PRIVATE_H
#define MODEL_MODEL_PRIVATE_H

#include "model/model.h"

/* ---- a model --------------------------------------------------------------------------------- */

/* Every tensor an architecture of the table may have. Those from MODEL_TENSOR_FIRST_OF_LAYER on are
 * there once a layer. */
enum model_tensor_id {
    MODEL_TENSOR_EMBED,
    MODEL_TENSOR_OUTPUT_NORM,
    MODEL_TENSOR_OUTPUT,
    MODEL_TENSOR_ROPE_FACTORS,
    MODEL_TENSOR_ATTN_NORM,
    MODEL_TENSOR_FIRST_OF_LAYER = MODEL_TENSOR_ATTN_NORM,
    MODEL_TENSOR_Q,
    MODEL_TENSOR_Q_BIAS,
    MODEL_TENSOR_Q_NORM,
    MODEL_TENSOR_K,
    MODEL_TENSOR_K_BIAS,
    MODEL_TENSOR_K_NORM,
    MODEL_TENSOR_V,
    MODEL_TENSOR_V_BIAS,
    MODEL_TENSOR_ATTN_OUT,
    MODEL_TENSOR_ATTN_OUT_BIAS,
    MODEL_TENSOR_ATTN_POST_NORM,
    MODEL_TENSOR_FFN_NORM,
    MODEL_TENSOR_GATE,
    MODEL_TENSOR_UP,
    MODEL_TENSOR_DOWN,
    MODEL_TENSOR_DOWN_BIAS,
    MODEL_TENSOR_FFN_POST_NORM,
    MODEL_N_TENSORS,
    MODEL_N_LAYER_TENSORS = MODEL_N_TENSORS - MODEL_TENSOR_FIRST_OF_LAYER
};

enum { MODEL_KEY_MAX = 96 }; /* bytes of a key or tensor name with its NUL */

struct model_tensor {
    const struct gguf_tensor *file; /* NULL: an optional tensor that is not there */
    enum kern_type type;
};

/* The switches that an architecture turns, whatever a file's keys say. */
struct model_arch {
    const char *name; /* general.architecture, and the prefix of the keys */
    enum model_rope rope;
    enum model_gate gate;
    bool scaled_embedding; /* embedding rows are multiplied by sqrt(n_embd) */
    /* Some layers see a window of positions only and rotate with rope_base_window and no scaling.
     * 0: none; otherwise every window_pattern-th layer sees all, unless the file says another
     * number. */
    uint32_t window_pattern;
    float rope_base_window; /* unless the file says another */
    /* At this many layers attention is scaled by the width of the residual stream a head instead
     * of the heads' own; 0: never. */
    uint32_t layers_scaled_by_width;
};

struct model {
    struct gguf *gguf;
    const struct model_arch *arch;
    uint8_t *card; /* the bytes behind gguf when opened from a card; NULL for a whole file */
    struct model_shape shape;
    float rope_scale; /* rotation angles of layers that see all are divided by it; 1: none */
    /* globals, then MODEL_N_LAYER_TENSORS for each layer */
    struct model_tensor *tensors;
};

/* `layer` is not looked at for tensors that the model has once. */
const struct model_tensor *model_tensor(const struct model *m, uint32_t layer,
                                        enum model_tensor_id id);

/* Fill m->shape from the file's keys and m->arch. ERR_FORMAT, ERR_RANGE, ERR_UNSUPPORTED. */
int model_read_shape(struct model *m, struct err *e);

/* ---- the parts of a piece -------------------------------------------------------------------- */

enum { MODEL_PARTS_MAX = 8 };

/* One tensor's share of a piece: rows [row0, row0 + n_rows), columns [col0, col0 + n_cols). A
 * vector is one row of F32. */
struct model_part {
    enum model_tensor_id id;
    const struct model_tensor *tensor;
    bool vector;
    uint32_t row0, n_rows, col0, n_cols;
    uint32_t skip;        /* of a matrix (kern_column_skip) */
    size_t offset, bytes; /* inside the piece; offset is a multiple of KERN_ALIGN, bytes is not
                             padded */
};

/* The parts of piece p in their order, absent optional tensors left out; returns their number, 0
 * where the model has no such piece. */
unsigned model_piece_parts(const struct model *m, struct model_piece p,
                           struct model_part parts[MODEL_PARTS_MAX]);

/* ---- the heads of a slice -------------------------------------------------------------------- */

/* Which head units and KV heads a slice has, in its own numbering and back. The inverses hold
 * only for units and KV heads that the slice has. A slice without layers has none. */
struct model_slice_heads {
    uint32_t n_units, n_kv;
    uint32_t unit_id[MODEL_HEADS_MAX], unit_at[MODEL_HEADS_MAX]; /* slice to model, and back */
    uint32_t kv_id[MODEL_HEADS_MAX], kv_at[MODEL_HEADS_MAX];
    /* Runs of units whose first heads read the same KV head: run i is units [run_at[i],
     * run_at[i + 1]) of the slice. */
    uint32_t n_runs, run_at[MODEL_HEADS_MAX + 1];
};
void model_slice_heads(const struct model *m, const struct model_slice *s,
                       struct model_slice_heads *out);

/* ---- an executor ----------------------------------------------------------------------------- */

enum {
    MODEL_TILE_ROWS = 64,     /* rows that pass through a step together: bounds the scratch */
    MODEL_FEW_ROWS = 8,       /* rows that take no longer than reading the weights, or little */
    MODEL_THREADS_MAX = 256,  /* threads of one executor */
    MODEL_KV_MAP_BYTES = 4096 /* KV mappings are counted in multiples of it */
};

/* A layer's weights, bound inside the pieces; arrays are in the slice's own numbering of units and
 * KV heads. w = unit_heads * head_dim, c = columns of an FFN unit. Biases are NULL where absent,
 * and so are norms of heads and outputs. */
struct model_layer {
    const float *attn_norm, *ffn_norm;           /* [n_embd] */
    const float *out_bias, *down_bias;           /* [n_embd] */
    const float *q_norm, *k_norm;                /* [head_dim] of every head before its rotation */
    const float *attn_post_norm, *ffn_post_norm; /* [n_embd] of a half's output */
    struct kern_matrix *q, *out;                 /* [n_units] of [w, n_embd], [n_embd, w] */
    const float **q_bias;                        /* [n_units] of [w] */
    struct kern_matrix *k, *v;                   /* [n_kv] of [head_dim, n_embd] */
    const float **k_bias, **v_bias;              /* [n_kv] of [head_dim] */
    struct kern_matrix *gate, *up, *down; /* [n_ff] of [c, n_embd], [c, n_embd], [n_embd, c] */
    uint8_t **kv_rows; /* [n_kv] mappings: K [slot][position][head_dim], then V */
    /* Whether a matrix that reads these activations is of an integer type. */
    bool qkv_integer, out_integer, ffn_integer, down_integer;
};

/* Scratch activations of a tile, in both forms; q, a, s and h are NULL where nobody reads them. */
struct model_act {
    float *f;      /* [MODEL_TILE_ROWS, stride] */
    int8_t *q;     /* [MODEL_TILE_ROWS, stride] */
    float *a, *s;  /* [MODEL_TILE_ROWS, stride / 32] */
    int16_t *h;    /* [MODEL_TILE_ROWS, stride / 16] */
    size_t stride; /* elements, a multiple of 32 */
};

struct model_exec {
    const struct model *model;
    struct model_slice slice;
    struct model_exec_config config;
    const struct kern_table *kern;
    struct kern_pool *pool;
    struct base_arena *arena;

    struct model_slice_heads heads;
    uint32_t n_layers, n_ff;              /* FFN units; 0 without layers */
    uint32_t unit_width;                  /* columns of a head unit */
    uint32_t head_pad;                    /* head_dim rounded up to whole groups */
    uint64_t kv_half_bytes, kv_map_bytes; /* of one layer and KV head: K alone, both */

    struct model_layer *layers;         /* [n_layers] */
    struct kern_matrix *embed, *output; /* [n_vocab_runs], [run1 - run0], or NULL */
    const float *final_norm;            /* [n_embd] */
    float *rope_factors;                /* [rope_dims / 2], scale included, or NULL */

    struct model_act normed; /* [tile, n_embd] after a norm */
    struct model_act mixed;  /* [tile, n_units * unit_width] after attention */
    struct model_act wide;   /* [tile, n_ff * unit_cols] between gate and down */
    float *q;                /* [tile, n_units * unit_width] */
    float *k, *v;            /* [tile, n_kv * head_pad] */
    float *up;               /* [threads][tile, unit_cols] */
    float *rope;             /* [tile, rope_dims] */
    float *rope_window;      /* [tile, rope_dims] of layers with a window; NULL where none has */
    uint32_t *rope_position; /* [tile] whose rotation both hold; UINT32_MAX: none */
    float *closed;           /* [threads][n_embd] a half's output before its norm, or NULL */
    float *tail;             /* [vocab_run] for the last group of an uneven vocabulary, or NULL */
    uint8_t *flags;          /* [threads][tile] rows that a thread found out of range */
    float *panel;            /* [threads][KERN_FAST_PANEL], NULL unless fast */
    float *unit;             /* [tile, unit_stride] sums before they become fixed point; likewise */
    size_t unit_stride;      /* n_embd rounded up to whole groups */
    int64_t *sum;            /* [tile, n_embd] model_exec_run's own sums */
    int64_t *sums;           /* [threads - 1][MODEL_FEW_ROWS, n_embd] of threads after the first */
};

/* Counts the scratch where arena is NULL, takes it otherwise. */
struct model_carver {
    struct base_arena *arena;
    uint64_t bytes;
};
/* Clear *x and fill in everything that follows from its arguments without allocating. */
void model_exec_measure(struct model_exec *x, const struct model *m, const struct model_slice *s,
                        const struct model_exec_config *c);
/* Lay out a measured executor's scratch. */
void model_exec_carve_all(struct model_exec *x, struct model_carver *c);
bool model_tensor_integer(const struct model *m, uint32_t layer, enum model_tensor_id id);
/* Whether some and whether all of the matrices that read rows behind a norm are of an integer
 * type. */
struct model_forms {
    bool some, all;
};
struct model_forms model_norm_forms(const struct model *m, enum model_norm norm, uint32_t layer);

/* A part of a phase: what one thread does of n_parts. */
typedef void model_phase_fn(void *job, unsigned part, unsigned n_parts);

/* [*first, *last) of n items for one thread of n_parts; the shares differ by at most one. */
void model_share(uint32_t n, unsigned part, unsigned n_parts, uint32_t *first, uint32_t *last);
/* Run a phase over the pool, or on this thread alone where there is one item. */
void model_phase(struct model_exec *x, model_phase_fn *fn, void *job, uint32_t n_items);
uint8_t *model_flags(struct model_exec *x, unsigned part);
/* Move the threads' flags of n rows into bad (of row pick[t], or t where pick is NULL) as
 * `mark`; the first mark of a row stays. */
void model_settle(struct model_exec *x, uint32_t n, uint32_t mark, const uint32_t *pick,
                  uint32_t *bad);

/* y = w times n rows of `in` (kern_table.matmul), by OpenBLAS where the configuration says fast and
 * there is something to gain. `part` is the calling thread's. */
void model_product(const struct model_exec *x, unsigned part, const struct kern_matrix *w,
                   uint32_t group0, uint32_t group1, const struct kern_act *in, uint32_t n, float *y,
                   size_t y_stride);
/* x->normed[t] = norm of hidden row pick[t] (t where pick is NULL), quantised too where `integer`;
 * zeros for rows that are bad or turn out to be. */
void model_norm_rows(struct model_exec *x, const float *weight, bool integer, const float *hidden,
                     const uint32_t *pick, uint32_t n, uint32_t mark, uint32_t *bad);
/* x->normed[t] = row t as model_exec_norm wrote it, in every form that its readers take; zeros for
 * rows that are bad or turn out to be. */
void model_take_normed(struct model_exec *x, enum model_norm norm, uint32_t layer, uint32_t n,
                       const uint8_t *normed, uint32_t *bad);
/* sum[t] += over units u of [unit0, n_units): w[u] times columns [u * unit_cols, ...) of act, as
 * fixed point; zeros for rows that are bad or turn out to be. */
void model_add_units(struct model_exec *x, const struct kern_matrix *w, uint32_t unit0,
                     uint32_t n_units, uint32_t unit_cols, const struct model_act *act, uint32_t n,
                     uint32_t mark, int64_t *sum, uint32_t *bad);
/* Of one matrix, from column `col` of act on, groups [group0, group1) of output rows; `part` is the
 * calling thread's, and gets the flags. */
void model_add_columns(struct model_exec *x, unsigned part, const struct kern_matrix *w,
                       uint32_t group0, uint32_t group1, const struct model_act *act, uint32_t col,
                       uint32_t n, int64_t *sum);
/* hidden[t] += the closed sum of row t plus bias, through post_norm where there is one (NULL:
 * neither). Bad rows are left as they are, and so is a row whose norm fails, which becomes bad. */
void model_close_rows(struct model_exec *x, const int64_t *sum, const float *bias,
                      const float *post_norm, uint32_t n, uint32_t mark, float *hidden,
                      uint32_t *bad);
struct kern_act model_act_view(const struct model_act *a);
struct kern_act model_act_row(const struct model_act *a, uint32_t t); /* from row t on */
/* Row t of an activation from column col on, quantised from its F32 form: n columns. */
bool model_act_quantise(const struct model_exec *x, const struct model_act *a, uint32_t t,
                        uint32_t col, uint32_t n);
void model_act_clear(const struct model_act *a, uint32_t t, uint32_t col, uint32_t n);
bool model_f32_finite(float v);

#endif
