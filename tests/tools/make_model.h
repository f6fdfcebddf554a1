/* Random models of every supported architecture and weight type, as GGUF files that other engines
 * open too. tests/data/logits holds what another engine made of them, so a file's bytes are a
 * function of this description alone, on every machine. */
#ifndef TESTS_TOOLS_MAKE_MODEL_H
#define TESTS_TOOLS_MAKE_MODEL_H

#include "model/model.h"

struct make_model {
    const char *shape; /* "llama", ... make_shape_name */
    const char *type;  /* "F32", ..., "Q6_K", or "mixed": make_type_name */
    uint64_t seed;
    uint32_t n_parts; /* 0 or 1: one file; else PATH is a prefix of PATH-00001-of-0000N.gguf */
    bool
        hollow; /* shapes only: all data are a hole in the file. For planning, which reads no more */
    bool chatml; /* it has a chat template, and the two control tokens of it end the vocabulary */

    /* Changes that a comparison with the unchanged file's logits must notice. */
    float rope_base;  /* 0: the shape's own */
    uint32_t window;  /* positions of the sliding window; 0: the shape's own */
    const char *flat; /* tensors of this name ("attn_q.bias", "attn_norm.weight") change nothing:
                       * zeros for a bias, ones for a norm or frequency factors; NULL: none */
};

/* i-th name, or NULL past the end. */
const char *make_shape_name(unsigned i);
const char *make_type_name(unsigned i);

/* Write the file or the parts. ERR_NOTFOUND for a name that is none; what the GGUF writer gives. */
int make_model_write(const struct make_model *c, const char *path, struct err *e);

/* ---- tests/tools/make_blocks.c --------------------------------------------------------------- */

/* Weights of a type with mean 0 and standard deviation sigma, made as blocks of the file's format
 * so that every bit field takes every value, not by rounding. */
struct make_type {
    const char *name;
    uint32_t ggml;                    /* number in GGUF */
    uint32_t file_type;               /* general.file_type */
    uint32_t block_cols, block_bytes; /* of one block in a row */
    void (*fill)(uint64_t *rng, float sigma, uint8_t *block);
};
/* NULL: no such name. */
const struct make_type *make_type_find(const char *name);
/* What a row of `cols` columns has where its file is of type t: t, or where a K-quant's blocks do
 * not fit the type with blocks of 32 that published files have instead. */
const struct make_type *make_type_for(const struct make_type *t, uint64_t cols);
/* About normal: mean 0, standard deviation 1. */
float make_normal(uint64_t *rng);

#endif
