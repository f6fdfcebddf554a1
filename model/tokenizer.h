/* Private to model/: what the tokenizers share. A kind of tokenizer is one row of a table: what it
 * checks when a vocabulary opens, what a token's text is, and how plain text becomes ids. */
#ifndef MODEL_TOKENIZER_H
#define MODEL_TOKENIZER_H

#include "model/gguf.h"
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
    unsigned joins;                      /* bit t: joining may give tokens of type t */
    bool add_bos, add_eos, space_prefix; /* where the file does not say */
    int32_t bos, eos, unknown;           /* likewise; -1: none */
    /* Called in opening, each NULL where there is nothing to do. First of all: what the defaults
     * depend on. When tokens and ids are there and before texts are indexed: check and prepare what
     * this kind needs. When they are indexed: the rest. ERR_FORMAT, ERR_UNSUPPORTED, ERR_NOMEM. */
    int (*begin)(const struct gguf *g, struct vocab *v, struct err *e);
    int (*prepare)(struct vocab *v, struct err *e);
    int (*finish)(const struct gguf *g, struct vocab *v, struct err *e);
    void (*close)(struct vocab *v); /* what these took, whichever of them succeeded */
    /* Write what token `id` adds to a text to out[text.len] and return its length. */
    size_t (*plain)(const struct vocab *v, int32_t id, uint8_t *out);
    /* Ids of text in which no special token is to be looked for, and which begins a text or follows
     * a special token. ERR_NOMEM, ERR_RANGE. */
    int (*encode)(const struct vocab *v, struct span text, struct vocab_sink *out, struct err *e);
};

/* How text is cut into words (tokenizer_pre.c): one row of a table. */
struct vocab_pre {
    const char *name;         /* tokenizer.ggml.pre */
    const char *const *steps; /* regular expressions, NULL after the last */
    bool whole_tokens;        /* a word that is a token is taken whole, whatever the merges say */
    bool add_bos;             /* where the file does not say */
};
const struct vocab_pre *model_vocab_pre_find(struct span name); /* NULL: unknown */

struct vocab_splitter; /* a compiled rule; immutable, shared between threads */
int model_vocab_splitter_new(const struct vocab_pre *pre, struct vocab_splitter **out,
                             struct err *e); /* ERR_NOMEM */
void model_vocab_splitter_free(struct vocab_splitter *s);
/* Call `word` with each word of the text, in order; together they are the text. Its first failure
 * ends the cutting and is returned. ERR_NOMEM, ERR_RANGE. */
typedef int vocab_word(void *arg, struct span word, struct err *e);
int model_vocab_split(const struct vocab_splitter *s, struct span text, vocab_word *word, void *arg,
                      struct err *e);

/* Joining neighbours (tokenizer_join.c). A piece of the text; pieces form a list. len 0: joined into
 * the one before. */
struct vocab_piece {
    uint32_t at, len;   /* bytes */
    int32_t prev, next; /* -1: none */
    int32_t id;         /* what the piece is, in the tokenizer's own numbers */
};
struct vocab_pair {
    uint32_t key, len; /* len: bytes of both when the pair was found */
    int32_t left, right, id;
};
struct vocab_joiner {
    const struct vocab *v;
    const uint8_t *text;
    /* Whether two neighbours join; the lower key does first, and the whole is *id. */
    bool (*rate)(const struct vocab_joiner *j, const struct vocab_piece *left,
                 const struct vocab_piece *right, uint32_t *key, int32_t *id);
    struct vocab_piece *pieces; /* [cap] */
    struct vocab_pair *heap;    /* [2 * cap] */
    size_t n_heap, cap;
};
/* Room for n pieces, with nothing in them; false: out of memory. */
bool model_vocab_joiner_reserve(struct vocab_joiner *j, size_t n);
/* Join pieces [0, n), whose at, len and id the caller has set; the list then begins with piece 0. */
void model_vocab_join(struct vocab_joiner *j, int32_t n);
void model_vocab_joiner_deinit(struct vocab_joiner *j);

/* Special tokens in a text (tokenizer_special.c). */
struct vocab_place {
    uint32_t at;   /* byte */
    uint32_t rank; /* in vocab.specials */
    bool good;
};
struct vocab_places { /* a list that grows; the caller frees it */
    struct vocab_place *list;
    size_t n, cap;
};
struct vocab_specials;
int model_vocab_specials_open(struct vocab *v,
                              struct err *e); /* once specials are listed; ERR_NOMEM */
void model_vocab_specials_close(struct vocab *v);
/* Where text is to be cut, from left to right; `control`: at control and unknown tokens, too. *p is
 * empty before. ERR_NOMEM. */
int model_vocab_find_specials(const struct vocab *v, struct span text, bool control,
                              struct vocab_places *p, struct err *e);

struct vocab_bpe; /* tokenizer_bpe.c */

struct vocab {
    const struct vocab_kind *kind;
    const struct vocab_pre *pre; /* NULL: the kind knows no words */
    struct vocab_bpe *bpe;       /* NULL: of another kind */
    uint32_t n;
    bool typed;                 /* the file says the tokens' types */
    struct vocab_token *tokens; /* [n] */
    uint8_t *texts, *plains;    /* bytes of all tokens */
    size_t text_bytes_max;      /* longest text of a token */
    struct model_index index;   /* texts that plain text can become */
    int32_t byte_ids[256];      /* -1: none */
    int32_t bos, eos, unknown;  /* -1: none */
    bool add_bos, add_eos, space_prefix;
    struct base_buf chat_system; /* what the chat template says where nobody says anything */
    int32_t *specials;           /* [n_specials] longest text first, then lower id */
    size_t n_specials;
    struct vocab_specials *special_sets[2]; /* user-defined ones; all of them */
};

void model_vocab_emit(struct vocab_sink *out, int32_t id);
/* Ids of a text without BOS and EOS; `control`: control tokens written out in it are parsed. */
int model_vocab_encode_text(const struct vocab *v, struct span text, bool control,
                            struct vocab_sink *out, struct err *e);
/* The special token that text begins with, the longest, and its length in bytes; -1: none, and the
 * length is as it was. */
int32_t model_vocab_special_at(const struct vocab *v, struct span text, size_t *len);

/* The system message that the file's chat template quotes, appended to *out, which is empty
 * (chat.c). ERR_NOMEM. */
int model_chat_read_system(const struct gguf *g, struct base_buf *out, struct err *e);

extern const struct vocab_kind model_vocab_spm; /* SentencePiece BPE, "llama" */
extern const struct vocab_kind model_vocab_bpe; /* byte-level BPE, "gpt2" */

#endif
