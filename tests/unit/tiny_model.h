/* Tiny random models for tests: whole GGUF files with vocabulary, in any shape and mix of types,
 * made by the project's own writer, and a store that packs their pieces for an executor. */
#ifndef TESTS_UNIT_TINY_MODEL_H
#define TESTS_UNIT_TINY_MODEL_H

#include "model/model.h"

/* Matrices whose type can be chosen apart from the others. */
enum tiny_matrix {
    TINY_EMBED,
    TINY_OUTPUT,
    TINY_Q,
    TINY_K,
    TINY_V,
    TINY_ATTN_OUT,
    TINY_GATE,
    TINY_UP,
    TINY_DOWN,
    TINY_N_MATRICES
};

struct tiny_model {
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, context;
    enum kern_type type[TINY_N_MATRICES];
    const char *arch; /* general.architecture; set by tiny_model_set_arch */
    bool tied, rope_factors;
    bool biases;      /* of all matrices that may have one; qwen2 has those of Q, K and V anyway */
    float rope_base;  /* 0: no key */
    float rope_scale; /* 0: no key; otherwise the factor of linear scaling */
    uint32_t window, window_pattern; /* 0: no key */
    uint64_t seed;

    /* Ways to break a file. Names are those of keys and tensors; NULL: leave it be. */
    const char *omit;       /* this key or tensor is left out */
    const char *odd_tensor; /* this tensor gets the type and shape below */
    uint32_t odd_type;      /* ggml number */
    uint64_t odd_dims[2];
    const char *extra_tensor; /* an F32 vector [n_embd] of this name is added */
    void (*keys)(struct gguf_writer *w, void *arg); /* writes keys of its own, after `omit`ting */
    void (*patch)(void *arg, const char *tensor, float *values,
                  uint64_t n); /* before it is stored */
    void *arg;
};

/* 2 layers, width 64, 4 heads of 32, 2 KV heads, 160 feed-forward columns, 320 tokens, context
 * 64; for types with super-blocks width 256, heads of 64, 512 feed-forward columns. */
struct tiny_model tiny_model_default(enum kern_type type);
void tiny_model_set_types(struct tiny_model *c, enum kern_type type);
/* An architecture, with keys as its models have them in small: a large RoPE base, a window of 7
 * positions on every other layer. */
enum { TINY_N_ARCHS = 4 };
extern const char *const tiny_archs[TINY_N_ARCHS];
void tiny_model_set_arch(struct tiny_model *c, const char *arch);
/* The file's bytes; false where the writer failed. */
bool tiny_model_bytes(const struct tiny_model *c, struct base_buf *out, struct err *e);
/* The file itself. */
bool tiny_model_write(const struct tiny_model *c, const char *path, struct err *e);

/* Written to a temporary file, opened as a model, and the file removed: what model_open
 * returned. */
int tiny_model_open(const struct tiny_model *c, struct model **m, struct err *e);
/* n values (whole blocks) as a file has them, and one row of a tensor as double, out[dims[0]]:
 * coded in tests/unit/tiny_types.c and not by the kernels. */
void tiny_encode(enum kern_type type, const float *x, uint64_t n, uint8_t *to);
void tiny_tensor_row(const struct gguf_tensor *t, uint64_t row, double *out);

/* Pieces packed from an open model; tiny_store_get is a model_piece_source with the store as its
 * arg. */
struct tiny_store {
    const struct model *model; /* borrowed */
    void **pieces;             /* [model_n_pieces] */
    uint32_t missing;          /* number of a piece that the store pretends not to have */
};
struct tiny_store tiny_store_make(const struct model *m);
const void *tiny_store_get(void *store, uint32_t number);
void tiny_store_free(struct tiny_store *s);

#endif
