/* Private to model/: what the tokenizers share. A kind of tokenizer is one row of a table: what it
 * checks when a vocabulary opens, what a token's text is, and how plain text becomes ids. */
#ifndef MODEL_TOKENIZER_H
#define MODEL_TOKENIZER_H

#include "model/index.h"
#include "model/model.h"

/* As numbered in tokenizer.ggml.token_type; 0 stands for a type that the writer did not know. */
enum token_type {
    TOKEN_UNDEFINED,
    TOKEN_NORMAL,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL,
    TOKEN_USER_DEFINED,
    TOKEN_UNUSED,
    TOKEN_BYTE,
    TOKEN_N_TYPES
};

struct vocab_token {
    struct span text;  /* as in the file; in vocab.texts */
    struct span plain; /* what it adds to a text; in vocab.plains */
    float score;       /* never NaN */
    enum token_type type;
    bool end; /* of text or of turn */
};

struct vocab_sink {
    int32_t *ids;  /* [max] */
    size_t max, n; /* n counts on past max */
};

struct vocab_kind {
    const char *name;                    /* tokenizer.ggml.model */
    bool add_bos, add_eos, space_prefix; /* where the file does not say */
    int32_t bos, eos, unknown;           /* likewise; -1: none */
    /* Called in opening, when tokens and ids are there and before texts are indexed: check and
     * prepare what this kind needs. ERR_FORMAT, ERR_NOMEM. */
    int (*prepare)(struct vocab *v, struct err *e);
    /* Write what token `id` adds to a text to out[text.len] and return its length. */
    size_t (*plain)(const struct vocab *v, int32_t id, uint8_t *out);
    /* Ids of text in which no special token is to be looked for. `prefix`: it begins the text or
     * follows a special token. ERR_NOMEM. */
    int (*encode)(const struct vocab *v, struct span text, bool prefix, struct vocab_sink *out,
                  struct err *e);
};

struct vocab {
    const struct vocab_kind *kind;
    uint32_t n;
    bool typed;                 /* the file says the tokens' types */
    struct vocab_token *tokens; /* [n] */
    uint8_t *texts, *plains;    /* bytes of all tokens */
    size_t text_bytes_max;      /* longest text of a token */
    struct model_index index;   /* texts that plain text can become */
    int32_t byte_ids[256];      /* -1: none */
    int32_t bos, eos, unknown;  /* -1: none */
    bool add_bos, add_eos, space_prefix;
    int32_t *specials; /* [n_specials] longest text first, then lower id */
    size_t n_specials;
};

void model_vocab_emit(struct vocab_sink *out, int32_t id);

extern const struct vocab_kind model_vocab_spm; /* SentencePiece BPE, "llama" */

#endif
