/* Models: GGUF files, tokenizers, architectures as tables, pieces, the forward pass over a slice,
 * the KV cache and the sampler. A whole model is the slice that holds everything, so one process
 * and a cluster run the same code. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "common/common.h"
#include "kernels/kernels.h"

/* ---- limits ---------------------------------------------------------------------------------- */

enum {
    MODEL_LAYERS_MAX = 512,
    MODEL_HEADS_MAX = 256,  /* query heads of a layer */
    MODEL_EMBD_MAX = 65536, /* width of the residual stream */
    MODEL_FF_MAX = 262080,  /* feed-forward columns: 4095 units of 64 */
    MODEL_VOCAB_MAX = 1 << 20,
    MODEL_CONTEXT_MAX = 1 << 20,
    MODEL_SLOTS_MAX = 64,
    MODEL_ROWS_MAX = 512,      /* rows of one batch */
    MODEL_PENALTY_WINDOW = 64, /* tokens the penalties look back */
    MODEL_BIASES_MAX = 64,     /* tokens whose logits a request may shift */
    MODEL_MESSAGES_MAX = 4096, /* messages of a conversation that is taken */
    MODEL_LOGPROBS_MAX = 8     /* best tokens whose log-probabilities a request may ask for */
};

/* ---- GGUF files (model/gguf.c, model/gguf_write.c) ------------------------------------------- */

enum model_gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_N_TYPES
};

/* One metadata entry. Strings and arrays stay in the file's bytes; views are valid until the file
 * is closed. For scalars, `u`, `i` and `f` hold the value in each reading that fits. */
struct gguf_kv {
    struct span key;
    enum model_gguf_type type, elem_type; /* elem_type: of an array */
    uint64_t n;                           /* array length */
    uint64_t u;
    int64_t i;
    double f;
    struct span bytes; /* string text, or the encoded value or array elements */
};

struct gguf_tensor {
    struct span name;
    uint32_t ggml_type; /* as in the file; may be one that Shoal has no kernel for */
    uint32_t n_dims;
    uint64_t dims[4]; /* dims[0] is the row length (columns); unused ones are 1 */
    uint64_t offset;  /* from the start of the data section */
    uint64_t bytes;   /* 0 where the type is unknown */
    const uint8_t
        *data; /* borrowed; NULL in a file opened without tensor data or of unknown type */
};

struct gguf;
enum { GGUF_WITH_DATA = 0, GGUF_METADATA_ONLY = 1, GGUF_VOCABULARY = 2 };
/* Map and check a file. With GGUF_METADATA_ONLY tensor data need not be there (`inspect`, cards),
 * with GGUF_VOCABULARY neither need the other parts of a model in several files (`tokenize`).
 * Otherwise `path` is the first part, NAME-00001-of-0000N.gguf, and the others beside it are opened
 * with it: their tensors are the model's, the metadata is the first part's. Every offset, length,
 * type and shape is checked here, once. ERR_IO, ERR_NOTFOUND, ERR_FORMAT, ERR_UNSUPPORTED,
 * ERR_NOMEM. */
int model_gguf_open(const char *path, int mode, struct gguf **out, struct err *e);
/* The same over bytes that the caller keeps alive. */
int model_gguf_open_bytes(struct span bytes, int mode, struct gguf **out, struct err *e);
void model_gguf_close(struct gguf *g);
uint32_t model_gguf_version(const struct gguf *g);
size_t model_gguf_n_parts(const struct gguf *g); /* files */
/* NULL when opened from bytes */
const struct base_map *model_gguf_map(const struct gguf *g, size_t part);
/* What of the files is in this process's memory need not stay there (base_map_forget). */
void model_gguf_forget(const struct gguf *g);
size_t model_gguf_n_kv(const struct gguf *g);
const struct gguf_kv *model_gguf_kv_at(const struct gguf *g, size_t i);
const struct gguf_kv *model_gguf_kv(const struct gguf *g, const char *key); /* NULL: absent */
size_t model_gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *model_gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *model_gguf_tensor(const struct gguf *g,
                                            const char *name); /* NULL: absent */
/* "Q4_K" for a ggml type number, also those without a kernel here; "type 99" style never: NULL. */
const char *model_gguf_type_name(uint32_t ggml_type);
/* Typed reads: ERR_NOTFOUND when absent (out untouched), ERR_FORMAT when of another type. */
int model_gguf_u32(const struct gguf *g, const char *key, uint32_t *out, struct err *e);
int model_gguf_f32(const struct gguf *g, const char *key, float *out, struct err *e);
int model_gguf_bool(const struct gguf *g, const char *key, bool *out, struct err *e);
int model_gguf_string(const struct gguf *g, const char *key, struct span *out, struct err *e);
/* Walk an array of strings: *cursor starts at 0 and is advanced past the string returned. */
bool model_gguf_next_string(const struct gguf_kv *array, size_t *cursor, struct span *out);

/* Writer: metadata first, then tensors, then finish; files that other engines open. All functions
 * remember the first failure, which gguf_writer_finish reports. `data` is borrowed until finish. */
struct gguf_writer;
struct gguf_writer *model_gguf_writer_new(void);
void model_gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v);
void model_gguf_put_f32(struct gguf_writer *w, const char *key, float v);
void model_gguf_put_bool(struct gguf_writer *w, const char *key, bool v);
void model_gguf_put_string(struct gguf_writer *w, const char *key, struct span v);
/* Copy an entry of an open file as it is, whatever its type. */
void model_gguf_put_kv(struct gguf_writer *w, const struct gguf_kv *kv);
void model_gguf_put_strings(struct gguf_writer *w, const char *key, const struct span *v, size_t n);
void model_gguf_put_f32s(struct gguf_writer *w, const char *key, const float *v, size_t n);
void model_gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *v, size_t n);
void model_gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t ggml_type,
                           uint32_t n_dims, const uint64_t *dims,
                           const void *data); /* data NULL: from the source, or header only */
/* Where the data of tensors put without any comes from while the file is written: some bytes of
 * tensor `i` (in the order put) from byte `at` on, at least one and none past its end, borrowed
 * until the next call. Asked for in order, each byte once. */
typedef int model_gguf_source(void *arg, size_t i, uint64_t at, struct span *out, struct err *e);
void model_gguf_writer_source(struct gguf_writer *w, model_gguf_source *source, void *arg);
int model_gguf_writer_finish(struct gguf_writer *w, const char *path, struct err *e); /* a file */
int model_gguf_writer_bytes(struct gguf_writer *w, struct base_buf *out,
                            struct err *e); /* memory */
void model_gguf_writer_free(struct gguf_writer *w);

/* ---- to a smaller type (model/quantise*.c) --------------------------------------------------- */

struct model_quantise {
    /* A model_quantise_type for all matrices, or one for each layer's: "Q8_0*4,Q4_K*18", choices
     * that add up to the layers; "keep" leaves a layer's as they are, and the embedding and the
     * output matrix are then Q8_0. */
    const char *type;
    unsigned n_threads;
    bool (*stop)(void); /* asked now and then; true ends it with ERR_CANCELLED */
};
/* What it came to. */
struct model_quantised {
    uint64_t bytes_before, bytes_after; /* of tensor data */
    uint32_t n_matrices;
    uint32_t n_others; /* of them: whose rows are not whole blocks of their type */
    double loss;       /* of the layers, as in model_quantise_losses, but the root of their mean */
};
/* i-th type that there is, or choice for a layer, the finest first; NULL past the end. */
enum { MODEL_QUANTISE_CHOICES = 5 };
const char *model_quantise_type(unsigned i);
const char *model_quantise_choice(unsigned i);
/* Write the F32, F16 or BF16 file `in` (its parts) as one file `out` with the matrices of the type.
 * `out` is put into place when it is complete and replaces what was there; it may not be `in`.
 * ERR_USAGE for a type that is none, ERR_UNSUPPORTED with the tensor where its type is another one,
 * ERR_RANGE with the tensor where a value is not finite or too large for the type, ERR_REFUSED,
 * ERR_CANCELLED, ERR_IO, ERR_NOTFOUND, ERR_FORMAT, ERR_NOMEM. */
int model_quantise_file(const char *in, const char *out, const struct model_quantise *c,
                        struct model_quantised *done, struct err *e);
/* The shapes of the file that would be written: a model as from a card. The same codes. */
struct model;
int model_quantised_open(const struct gguf *g, const char *type, struct model **out, struct err *e);
/* loss[choice][layer]: squared norm of the difference that the choice makes to a layer's matrices by
 * their squared norm, from a sample of the rows of large ones. `path` is for errors, c->type is not
 * read. The same codes; ERR_RANGE, too, where a layer is all zeros. */
int model_quantise_losses(const char *path, const struct gguf *g, const struct model_quantise *c,
                          double loss[MODEL_QUANTISE_CHOICES][MODEL_LAYERS_MAX], struct err *e);

/* ---- tokenizer (model/tokenizer*.c) ---------------------------------------------------------- */

struct vocab;
/* Built from a file's metadata; copies what it keeps. ERR_UNSUPPORTED names an unknown tokenizer.
 */
int model_vocab_open(const struct gguf *g, struct vocab **out, struct err *e);
void model_vocab_close(struct vocab *v);
uint32_t model_vocab_size(const struct vocab *v);
enum { MODEL_ENCODE_BOS = 1, MODEL_ENCODE_SPECIAL = 2 };
/* Token ids of text[len] into ids[max]; *n is their number. MODEL_ENCODE_BOS puts BOS (and, where
 * the file says so, EOS) as the file asks for; MODEL_ENCODE_SPECIAL parses control tokens written
 * out in the text. ERR_RANGE where more than max would be needed (then *n is that number),
 * ERR_NOMEM. */
int model_vocab_encode(const struct vocab *v, struct span text, unsigned flags, int32_t *ids,
                       size_t max, size_t *n, struct err *e);
/* Text bytes of one token as it continues a text; control tokens give none. The space that the
 * tokenizer put before a text is the caller's to drop (model_vocab_space_prefix). */
struct span model_vocab_text(const struct vocab *v, int32_t id);
bool model_vocab_space_prefix(const struct vocab *v);
bool model_vocab_is_end(const struct vocab *v, int32_t id); /* end of text or of turn */
int32_t model_vocab_bos(const struct vocab *v);             /* -1: none */
/* Ids that end a text, at most max; returns their number. */
size_t model_vocab_ends(const struct vocab *v, int32_t *ids, size_t max);

/* ---- chat (model/chat.c) --------------------------------------------------------------------- */

enum model_role { MODEL_ROLE_SYSTEM, MODEL_ROLE_USER, MODEL_ROLE_ASSISTANT, MODEL_N_ROLES };
struct model_message {
    enum model_role role;
    struct span text;
};
struct model_chat; /* one row of the table of template families; static, never freed */
/* The family of the file's own template (tokenizer.chat_template), recognised by its marks.
 * ERR_NOTFOUND: the file has no template; ERR_UNSUPPORTED: one that no row recognises. */
int model_chat_find(const struct gguf *g, const struct model_chat **out, struct err *e);
const char *model_chat_name(const struct model_chat *c);
/* Ids of a conversation, open for the assistant's next message: the template's own marks become
 * control tokens, the messages' texts never do (text is text). BOS as the file says. ids[max], *n as
 * in model_vocab_encode. ERR_RANGE, ERR_NOMEM, ERR_FORMAT (roles in an order that the template has
 * no words for). */
int model_chat_encode(const struct model_chat *c, const struct vocab *v,
                      const struct model_message *list, size_t n_messages, int32_t *ids, size_t max,
                      size_t *n, struct err *e);
/* A conversation as bytes, as the wire carries it: of each message a byte for the role, its length
 * in 32 bits, little-endian, and its text. Parsing takes hostile input: false, also where there are
 * more than max messages; the texts are borrowed from `packed`. Packing appends: ERR_NOMEM,
 * ERR_RANGE. */
bool model_messages_parse(struct span packed, struct model_message *list, size_t max, size_t *n);
int model_messages_pack(const struct model_message *list, size_t n, struct base_buf *out);

/* ---- models, cards and shapes (model/arch.c) ------------------------------------------------- */

enum model_rope { MODEL_ROPE_NORM, MODEL_ROPE_NEOX };
enum model_gate { MODEL_GATE_SILU, MODEL_GATE_GELU };

struct model_shape {
    const char *arch; /* static: the row of the architecture table */
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    uint32_t context; /* positions the model was trained for */
    enum model_rope rope;
    enum model_gate gate; /* of the feed-forward half */
    uint32_t rope_dims;
    float rope_base, norm_eps;
    float embed_scale;     /* embedding rows are multiplied by it; 1: as they are */
    float attention_scale; /* of a score before the softmax */
    /* Layers that see the last `window` positions only, with a rotation of their own: those for
     * which (layer + 1) % window_pattern != 0. window 0: every layer sees all. */
    uint32_t window, window_pattern;
    float rope_base_window;
    bool tied;             /* the output matrix is the embedding */
    bool rope_factors;     /* a frequency-factor tensor is there */
    uint32_t unit_heads;   /* query heads of one attn_output unit: fewest with width % 32 == 0 */
    uint32_t n_head_units; /* n_heads / unit_heads */
    uint32_t unit_cols;    /* columns of one ffn_down unit: max(64, block size) */
    uint32_t n_ff_units;   /* the last may be short */
    uint32_t vocab_run;    /* rows of one embedding or output piece */
    uint32_t n_vocab_runs;
};

/* A model: shape and the tensors it is made of. Opened from a whole file it can pack pieces; opened
 * from a card (the file's metadata and tensor table without vocabulary and data) it knows only the
 * shapes, which is all that a worker needs. Immutable, shared between threads. */
struct model;
int model_open(const char *path, struct model **out, struct err *e);
int model_open_card(struct span card, struct model **out, struct err *e);
int model_card_write(const struct model *m, struct base_buf *out, struct err *e);
void model_close(struct model *m);
const struct model_shape *model_shape(const struct model *m);
/* Whether a layer sees a window only. */
bool model_shape_windowed(const struct model_shape *s, uint32_t layer);
const struct gguf *model_gguf(const struct model *m); /* borrowed */

/* ---- pieces (model/piece.c) ------------------------------------------------------------------ */

/* The unit of storing and shipping (design §7), in the one packed layout, so that a worker maps it
 * and computes on it in place. Content, in this order, each part at a multiple of 64 bytes, a
 * tensor that the model lacks left out:
 * - HEAD (layer, head unit): rows of attn_q, their bias, columns of attn_output
 * - KV (layer, KV head): rows of attn_k, their bias, rows of attn_v, their bias
 * - FFN (layer, unit): rows of ffn_gate, rows of ffn_up, columns of ffn_down
 * - COMMON (layer, 0): attn_norm, ffn_norm, biases of attn_output and ffn_down, norms of a query
 *   and a key head, norms after attention and feed-forward
 * - EMBED (0, run): rows of token_embd
 * - OUTPUT (0, run): rows of output (tied: of token_embd)
 * - FINAL (0, 0): output norm
 * - GLOBAL (0, 0): RoPE frequency factors */
enum model_piece_kind {
    MODEL_PIECE_GLOBAL,
    MODEL_PIECE_COMMON,
    MODEL_PIECE_HEAD,
    MODEL_PIECE_KV,
    MODEL_PIECE_FFN,
    MODEL_PIECE_EMBED,
    MODEL_PIECE_OUTPUT,
    MODEL_PIECE_FINAL,
    MODEL_N_PIECE_KINDS
};
struct model_piece {
    enum model_piece_kind kind;
    uint32_t layer, index;
};
/* Bytes of a piece; 0 where the model has no such piece. */
size_t model_piece_bytes(const struct model *m, struct model_piece p);
/* Pack a piece from the file into out[model_piece_bytes], all bytes written. Needs a whole file. */
void model_piece_pack(const struct model *m, struct model_piece p, void *out);
/* All pieces of the model in the one order that everybody numbers them by. */
uint32_t model_n_pieces(const struct model *m);
struct model_piece model_piece_at(const struct model *m, uint32_t number);
uint32_t model_piece_number(const struct model *m, struct model_piece p);

/* ---- slices ---------------------------------------------------------------------------------- */

/* What one worker computes: layers [layer0, layer1), in each of them the query heads whose unit bit
 * is set and feed-forward units [unit0, unit1); runs [run0, run1) of the output matrix, optionally
 * the embedding, optionally the final norm. Ends and layers are independent of each other: the
 * output may stand with the first layers, and its runs with several workers, of which one has the
 * norm. */
struct model_slice {
    uint32_t layer0, layer1;
    uint64_t head_units[MODEL_HEADS_MAX / 64]; /* bit u: head unit u */
    uint32_t unit0, unit1;
    uint32_t run0, run1; /* vocabulary runs of the output matrix; empty: none of it */
    bool embed;
    bool output; /* the final norm */
};
/* All heads and columns of layers [a, b); embedding and output where they end the model. */
struct model_slice model_slice_layers(const struct model *m, uint32_t layer0, uint32_t layer1);
/* The same of ranges: head units [head0, head1), feed-forward units [unit0, unit1), output runs
 * [run0, run1). Any may be empty, and out of bounds: model_slice_check looks. */
struct model_slice model_slice_part(uint32_t layer0, uint32_t layer1, uint32_t head0,
                                    uint32_t head1, uint32_t unit0, uint32_t unit1, uint32_t run0,
                                    uint32_t run1, bool embed, bool output);
/* ERR_RANGE with the reason where the slice does not fit the model. */
int model_slice_check(const struct model *m, const struct model_slice *s, struct err *e);
/* Numbers of the slice's pieces, ascending, into out[max] (NULL: count only); returns their count.
 */
uint32_t model_slice_pieces(const struct model *m, const struct model_slice *s, uint32_t *out,
                            uint32_t max);

/* ---- execution (model/exec.c, model/attention.c, ...) ---------------------------------------- */

struct model_exec_config {
    uint32_t n_slots, context; /* positions a slot */
    uint32_t max_rows;         /* rows of one batch, at most MODEL_ROWS_MAX */
    enum kern_kv_type kv;
    unsigned n_threads;
    const struct kern_table *kernels;
    bool fast; /* numerics: fast; kern_fast_open has been called */
    bool small_pages; /* weights lie in pages of 4 KiB, as most mapped files do: for speed alone */
};
/* What a slice takes, before anything is allocated; the planner and the executor use this one. */
struct model_memory {
    uint64_t weight_bytes, kv_bytes, scratch_bytes;
};
struct model_memory model_slice_memory(const struct model *m, const struct model_slice *s,
                                       const struct model_exec_config *c);

/* Where weights come from: the bytes of piece `number`, KERN_ALIGN-aligned, borrowed for the life
 * of the executor; NULL is a failure (ERR_NOTFOUND). */
typedef const void *model_piece_source(void *arg, uint32_t number);

/* One row of a batch: the token (used where the slice embeds) or hidden state of a slot at a
 * position. */
struct model_row {
    uint32_t slot, position;
    int32_t token;
    bool want_logits;
};

struct model_exec;
/* Allocates all it will ever need and seals it. The model is borrowed. ERR_NOMEM with the numbers,
 * ERR_RANGE, ERR_NOTFOUND. */
int model_exec_new(const struct model *m, const struct model_slice *s,
                   const struct model_exec_config *c, model_piece_source *source, void *arg,
                   struct model_exec **out, struct err *e);
void model_exec_free(struct model_exec *x);

/* One pass of n rows through the slice. hidden [n, n_embd] F32: in where the slice does not embed,
 * out always (residual stream). logits [n_wanted, n_vocab] F32: where the slice has the last layer
 * and the final norm, for the rows that want them, in row order, the columns of its runs; NULL
 * otherwise. bad[i] is 0, or 1 + the layer in which a value of row i went out of range
 * (1 + n_layers: in the output); such a row's results are zeros and the other rows' are as if it had
 * not been there. Rows of one slot come in ascending positions; position p reads KV rows [0, p]. No
 * allocation. */
void model_exec_run(struct model_exec *x, const struct model_row *rows, uint32_t n, float *hidden,
                    float *logits, uint32_t *bad);

/* The same in steps, for teams whose members hold parts of the heads and columns; layer counts from
 * 0 in the model. sum [n, n_embd] int64 fixed point: the slice's share is added to it. bad goes in
 * and out: zeros before the first step; rows that are bad already are skipped. Behind a step the sum
 * of a row that is bad is zeros, so that adding others' to it overflows nothing. */
void model_exec_embed(struct model_exec *x, const struct model_row *rows, uint32_t n, float *hidden,
                      uint32_t *bad);
void model_exec_attention(struct model_exec *x, uint32_t layer, const struct model_row *rows,
                          uint32_t n, const float *hidden, int64_t *sum, uint32_t *bad);
void model_exec_attention_close(struct model_exec *x, uint32_t layer, uint32_t n,
                                const int64_t *sum, float *hidden, uint32_t *bad);
void model_exec_ffn(struct model_exec *x, uint32_t layer, uint32_t n, const float *hidden,
                    int64_t *sum, uint32_t *bad);
void model_exec_ffn_close(struct model_exec *x, uint32_t layer, uint32_t n, const int64_t *sum,
                          float *hidden, uint32_t *bad);
/* Needs the final norm. Writes the columns of the slice's runs and leaves the others alone. */
void model_exec_logits(struct model_exec *x, const struct model_row *rows, uint32_t n,
                       const float *hidden, float *logits, uint32_t *bad);

/* The same steps with the norm apart, for members that get normed rows instead of hidden ones
 * (model/normed.c). A normed row is bytes, in the form that its readers take; a row that is bad
 * says so itself. */
enum model_norm { MODEL_NORM_ATTENTION, MODEL_NORM_FFN, MODEL_NORM_OUTPUT };
/* Bytes of one row, a function of the model alone; `layer` is not looked at for the output. */
size_t model_normed_bytes(const struct model *m, enum model_norm norm, uint32_t layer);
/* normed [n, model_normed_bytes]; `layer` is n_layers for the output, which needs the final norm
 * and takes every row. */
void model_exec_norm(struct model_exec *x, enum model_norm norm, uint32_t layer, uint32_t n,
                     const float *hidden, uint8_t *normed, uint32_t *bad);
/* As model_exec_attention and so on. Any bytes are safe. A row whose bytes say so becomes bad. */
void model_exec_attention_normed(struct model_exec *x, uint32_t layer, const struct model_row *rows,
                                 uint32_t n, const uint8_t *normed, int64_t *sum, uint32_t *bad);
void model_exec_ffn_normed(struct model_exec *x, uint32_t layer, uint32_t n, const uint8_t *normed,
                           int64_t *sum, uint32_t *bad);
/* logits [n, n_vocab]: of every row, the columns of the slice's runs. */
void model_exec_logits_normed(struct model_exec *x, uint32_t n, const uint8_t *normed,
                              float *logits, uint32_t *bad);

/* ---- KV rows that move (model/kv.c) ----------------------------------------------------------- */

/* Rows [first, first + rows) of a slot, of KV heads [head0, head1) of a layer, counted in the model.
 * As bytes: of each KV head the K rows, then the V rows, as they stand in the cache. */
struct model_kv_rows {
    uint32_t layer, head0, head1, slot, first, rows;
};
/* Bytes of one row of one KV head, K and V. */
size_t model_kv_row_bytes(const struct model *m, const struct model_exec_config *c);
/* Bytes of these rows; 0: the executor has not all of them. */
size_t model_kv_bytes(const struct model_exec *x, const struct model_kv_rows *r);
/* Rows that it has, [model_kv_bytes]; no pass writes them meanwhile. Any bytes are safe to write. */
void model_kv_read(const struct model_exec *x, const struct model_kv_rows *r, uint8_t *out);
void model_kv_write(struct model_exec *x, const struct model_kv_rows *r, const uint8_t *in);

/* A copy of what another worker has cached: of KV heads [head0, head1) of layers [layer0, layer1), as
 * many slots and positions as an executor with this configuration. It takes memory as rows come. */
struct model_kv_copy;
/* ERR_RANGE: the model has no such share; ERR_NOMEM. */
int model_kv_copy_new(const struct model *m, const struct model_exec_config *c, uint32_t layer0,
                      uint32_t layer1, uint32_t head0, uint32_t head1, struct model_kv_copy **out,
                      struct err *e);
void model_kv_copy_free(struct model_kv_copy *k); /* NULL is fine */
/* As those of an executor. That rows were written the caller must know. */
size_t model_kv_copy_bytes(const struct model_kv_copy *k, const struct model_kv_rows *r);
void model_kv_copy_read(const struct model_kv_copy *k, const struct model_kv_rows *r, uint8_t *out);
void model_kv_copy_write(struct model_kv_copy *k, const struct model_kv_rows *r, const uint8_t *in);

/* ---- between workers (model/wire.c) ---------------------------------------------------------- */

enum model_wire { MODEL_WIRE_EXACT, MODEL_WIRE_F16, MODEL_WIRE_Q8, MODEL_N_WIRES };

/* Partial sums sum [n_rows, n] (of a step above, n is n_embd) as bytes, out
 * [model_sums_bytes_max]; returns how many. Rows with bad[t] != 0 travel as that fact alone.
 *
 * Read by adding to acc [n_rows, n]: false where the bytes are not such rows, or where an int64
 * would overflow; acc is then spoilt. A row that came as bad sets bad[t] to `mark` where that is 0.
 * What a kernel adds is not checked, so a step's own share comes first: into zeros, before the
 * others'. The modes that are not exact change what they carry: members that are to have equal sums
 * (mesh) each add their own share as bytes too. Both in a thread that has called kern_fp_init. */
size_t model_sums_bytes_max(uint32_t n_rows, uint32_t n, enum model_wire mode);
size_t model_sums_encode(const int64_t *sum, uint32_t n_rows, uint32_t n, enum model_wire mode,
                         const uint32_t *bad, uint8_t *out);
bool model_sums_add(struct span bytes, uint32_t n_rows, uint32_t n, enum model_wire mode,
                    uint32_t mark, int64_t *acc, uint32_t *bad);

/* Hidden rows x [n_rows, n] F32 likewise; their bytes are as many whatever they hold. False where
 * the number is another. */
size_t model_rows_bytes(uint32_t n_rows, uint32_t n, enum model_wire mode);
void model_rows_encode(const float *x, uint32_t n_rows, uint32_t n, enum model_wire mode,
                       uint8_t *out);
bool model_rows_decode(struct span bytes, uint32_t n_rows, uint32_t n, enum model_wire mode,
                       float *x);

/* ---- sampling (model/sampler.c) -------------------------------------------------------------- */

/* The bias of a token that is never chosen. A number, so that it travels as the others do. */
#define MODEL_BANNED (-1e30)

struct model_sampling {
    float temperature;                  /* 0: greedy */
    uint32_t top_k;                     /* 0: all */
    float top_p, min_p, repeat_penalty; /* 1, 0, 1: off */
    uint64_t seed;
    float presence_penalty, frequency_penalty; /* 0: off */
    uint32_t n_biases;
    int32_t bias_ids[MODEL_BIASES_MAX]; /* those of one token add up */
    double biases[MODEL_BIASES_MAX];    /* added to the logit, -1000 to 1000, or MODEL_BANNED */
    uint32_t logprobs; /* 0: none; 1 + k: each token's log-probability and the k best */
};
/* Design §3's defaults, seed 0. */
struct model_sampling model_sampling_default(void);
int model_sampling_check(const struct model_sampling *s, struct err *e); /* ERR_RANGE */
/* Is there a token for each bias? ERR_RANGE. */
int model_biases_check(const struct model_sampling *s, uint32_t n_vocab, struct err *e);

/* Natural logs of probabilities as the model gives them: softmax of the logits before penalties,
 * biases, temperature and whatever else the request asks for. */
struct model_logprobs {
    double chosen;
    uint32_t n_best;                 /* as asked for, at most the vocabulary */
    int32_t ids[MODEL_LOGPROBS_MAX]; /* by probability, then lower id */
    double best[MODEL_LOGPROBS_MAX];
};

struct model_sampler; /* scratch for one vocabulary; not shared between threads */
struct model_sampler *model_sampler_new(uint32_t n_vocab);
/* The token for absolute position `position` (that of the token chosen), from logits [n_vocab],
 * which are overwritten. recent[n_recent]: the last tokens of the text, for the penalties. A
 * function of its arguments only; ties go to the lower id; no allocation. Returns -1 where a logit
 * is not finite or every token is banned. */
int32_t model_sample(struct model_sampler *x, const struct model_sampling *s, float *logits,
                     uint32_t position, const int32_t *recent, uint32_t n_recent);
/* Of the token last chosen, where its sampling asked for them; valid until the next one. */
const struct model_logprobs *model_sampler_logprobs(const struct model_sampler *x);
void model_sampler_free(struct model_sampler *x);

/* ---- the text of an answer (model/text.c) ---------------------------------------------------- */

/* Grows token by token. `certain` bytes of it can be shown: neither a stop string nor half a
 * character begins before that. Zero-initialised, then init; `failed` memory shows in text.failed.
 */
struct model_text {
    struct base_buf text;
    size_t certain;
    bool stopped; /* a stop string has come; the text ends before it */
    uint32_t n_stops;
    struct base_buf stops; /* u32 length, bytes, ... */
};
/* Copies the stop strings; empty ones are ignored. ERR_NOMEM. */
int model_text_init(struct model_text *t, const struct span *stops, uint32_t n_stops,
                    struct err *e);
/* Append one token's bytes. Returns `stopped`. */
bool model_text_add(struct model_text *t, struct span bytes);
/* No more tokens: all of the text is certain. */
void model_text_end(struct model_text *t);
void model_text_deinit(struct model_text *t);

/* Summary of one position's logits for `shoal logits`: best ids by (value, then lower id). */
enum { MODEL_BEST = 8 };
struct model_logits_summary {
    double mean, rms;
    int32_t ids[MODEL_BEST];
    float values[MODEL_BEST];
};
void model_logits_summarise(const float *logits, uint32_t n_vocab,
                            struct model_logits_summary *out);
/* Natural log of softmax(logits)[id], in double: perplexity. */
double model_log_probability(const float *logits, uint32_t n_vocab, int32_t id);

#endif
