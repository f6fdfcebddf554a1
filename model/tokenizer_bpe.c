/* Byte-level BPE ("gpt2"): as in GPT-2, Llama 3, Qwen, SmolLM, DeepSeek, and as llama.cpp runs it
 * (Radford and others, "Language models are unsupervised multitask learners", 2019, section 2.2).
 *
 * In the file each byte of a token is written as a printable character: the bytes that are printable
 * in Latin-1 as themselves, the other 68 as U+0100 and on. Text is cut into words (tokenizer_pre.c),
 * a word into bytes, and neighbours are joined in the order of the file's merges, the leftmost of
 * equals first. Where the rule says so a word that is a token as a whole is taken without asking the
 * merges.
 *
 * Pieces are numbers throughout: tokens have their ids, and what only merges mention (pieces on the
 * way to a token, in files whose vocabulary was pruned) gets numbers from the vocabulary's size on. A
 * piece that is no token in the end becomes its bytes' tokens. A byte without one becomes the unknown
 * token, failing that the bytes of U+FFFD, failing that nothing.
 *
 * Control, unknown and user-defined tokens are no results of joining: text is text. A token whose
 * text is not written in the byte alphabet (added tokens are not) is that text. */
#include "model/tokenizer.h"

#include <inttypes.h>
#include <string.h>

enum {
    MERGES_MAX = 4 * MODEL_VOCAB_MAX,
    N_LOW = 0x21,      /* bytes 0x00 to 0x20 */
    FIRST_HIGH = 0x7f, /* bytes 0x7f to 0xa0 */
    N_HIGH = 0x22,
    SOFT_HYPHEN = 0xad
};

struct merge {
    int32_t left, right; /* pieces; the two are the key in the index */
};

struct vocab_bpe {
    struct vocab_splitter *splitter;
    size_t n_merges;
    struct merge *merges;     /* [n_merges] by rank */
    int32_t *joined;          /* [n_merges] piece that a merge gives */
    struct model_index ranks; /* of merges: n_merges - 1 - rank, so that the first of equals wins */
    struct model_index extras; /* pieces that are no tokens: texts to number - vocab.n */
    uint8_t *extra_texts;
    int32_t byte_pieces[256]; /* -1: none */
};

/* ---- the alphabet of bytes ------------------------------------------------------------------- */

/* The character that stands for byte b, as UTF-8; returns its length in bytes. */
static size_t write_byte(uint8_t b, uint8_t out[static 2])
{
    unsigned c = b;
    if (b < N_LOW)
        c = 0x100u + b;
    else if (b >= FIRST_HIGH && b < FIRST_HIGH + N_HIGH)
        c = 0x100u + N_LOW + (b - FIRST_HIGH);
    else if (b == SOFT_HYPHEN)
        c = 0x100u + N_LOW + N_HIGH;
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    out[0] = (uint8_t)(0xc0 | c >> 6);
    out[1] = (uint8_t)(0x80 | (c & 0x3f));
    return 2;
}

/* The byte that the character at the start of p[n] stands for, or -1; *len is its length. */
static int read_byte(const uint8_t *p, size_t n, size_t *len)
{
    unsigned c = p[0];
    *len = 1;
    if (c >= 0x80) {
        if (n < 2 || (c & 0xe0) != 0xc0 || (p[1] & 0xc0) != 0x80)
            return -1;
        c = (c & 0x1f) << 6 | (p[1] & 0x3f);
        *len = 2;
    }
    if (c >= 0x100) {
        c -= 0x100;
        if (c > N_LOW + N_HIGH)
            return -1;
        return c < N_LOW             ? (int)c
               : c == N_LOW + N_HIGH ? SOFT_HYPHEN
                                     : (int)(c - N_LOW + FIRST_HIGH);
    }
    const bool hidden =
        c < N_LOW || (c >= FIRST_HIGH && c < FIRST_HIGH + N_HIGH) || c == SOFT_HYPHEN;
    return hidden ? -1 : (int)c;
}

static size_t bpe_plain(const struct vocab *v, int32_t id, uint8_t *out)
{
    const struct vocab_token *t = &v->tokens[id];
    size_t n = 0, len = 0;
    for (size_t at = 0; at < t->text.len && t->type != TOKEN_USER_DEFINED; at += len) {
        const int b = read_byte(t->text.ptr + at, t->text.len - at, &len);
        if (b < 0)
            break;
        out[n++] = (uint8_t)b;
        if (at + len == t->text.len)
            return n;
    }
    if (t->text.len > 0)
        memcpy(out, t->text.ptr, t->text.len);
    return t->text.len;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int bpe_begin(const struct gguf *g, struct vocab *v, struct err *e)
{
    struct span name = base_span_str("default");
    int rc = 0;
    if (model_gguf_kv(g, "tokenizer.ggml.pre") != NULL)
        rc = model_gguf_string(g, "tokenizer.ggml.pre", &name, e);
    if (rc != 0)
        return rc;
    v->pre = model_vocab_pre_find(name);
    char text[GGUF_PRINTABLE_MAX];
    return v->pre != NULL ? 0
                          : err_set(e, ERR_UNSUPPORTED,
                                    "pre-tokenizer '%s' (of tokenizer 'gpt2') is not supported",
                                    model_gguf_printable(name, text));
}

static int32_t find_token(const struct vocab *v, struct span text)
{
    const struct model_index_entry *x = model_index_find(&v->index, text);
    return x != NULL ? (int32_t)x->id : -1;
}

static int32_t find_piece(const struct vocab *v, struct span text)
{
    const int32_t token = find_token(v, text);
    const struct model_index_entry *x = token < 0 ? model_index_find(&v->bpe->extras, text) : NULL;
    return x != NULL ? (int32_t)(v->n + x->id) : token;
}

/* The texts of a merge: both sides and the two joined, which is put together in *joined. */
static bool merge_texts(struct span merge, struct base_buf *joined, struct span out[static 3])
{
    const uint8_t *space = merge.len > 2 ? memchr(merge.ptr + 1, ' ', merge.len - 2)
                                         : NULL; /* neither side is empty */
    if (space == NULL)
        return false;
    out[0] = (struct span){merge.ptr, (size_t)(space - merge.ptr)};
    out[1] = (struct span){space + 1, merge.len - out[0].len - 1};
    joined->len = 0;
    base_buf_add(joined, out[0].ptr, out[0].len);
    base_buf_add(joined, out[1].ptr, out[1].len);
    out[2] = (struct span){joined->ptr, joined->len};
    return true;
}

/* Where merge `i` keeps the number of its left side, right side and result. */
static int32_t *merge_number(struct vocab_bpe *b, size_t i, int which)
{
    return which == 0 ? &b->merges[i].left : which == 1 ? &b->merges[i].right : &b->joined[i];
}

/* Number what is a token; count what is not, and its bytes. */
static int number_tokens(struct vocab *v, const struct gguf_kv *kv, size_t *n_extras,
                         size_t *n_bytes, struct err *e)
{
    struct base_buf joined = {0};
    struct span merge, text[3];
    size_t cursor = 0;
    int rc = 0;
    for (size_t i = 0; i < v->bpe->n_merges && rc == 0; i++) {
        if (!model_gguf_next_string(kv, &cursor, &merge) || !merge_texts(merge, &joined, text)) {
            rc = err_set(e, ERR_FORMAT, "merge %zu is not two texts with a space between", i);
            break;
        }
        for (int k = 0; k < 3; k++) {
            const int32_t token = joined.failed ? -1 : find_token(v, text[k]);
            *merge_number(v->bpe, i, k) = token;
            *n_extras += token < 0;
            *n_bytes += token < 0 ? text[k].len : 0;
        }
        if (joined.failed)
            rc = err_set(e, ERR_NOMEM, "no memory for the merges");
    }
    base_buf_deinit(&joined);
    return rc;
}

/* Number the rest. A text that several merges mention has the number that the index gives it. */
static int number_extras(struct vocab *v, const struct gguf_kv *kv, size_t n_extras, size_t n_bytes,
                         struct err *e)
{
    struct vocab_bpe *b = v->bpe;
    struct base_buf joined = {0};
    struct span merge, text[3];
    size_t at = 0, n = 0;
    int rc = model_index_init(&b->extras, n_extras, e);
    if (rc != 0)
        return rc;
    b->extra_texts = base_alloc(n_bytes);
    if (b->extra_texts == NULL)
        rc = err_set(e, ERR_NOMEM, "no memory for the merges");
    for (int pass = 0; pass < 2 && rc == 0; pass++) {
        size_t cursor = 0;
        for (size_t i = 0; i < b->n_merges && model_gguf_next_string(kv, &cursor, &merge); i++) {
            (void)merge_texts(merge, &joined, text);
            for (int k = 0; k < 3 && !joined.failed; k++) {
                int32_t *number = merge_number(b, i, k);
                if (pass == 1 && *number < 0) {
                    *number = find_piece(v, text[k]);
                } else if (*number < 0) {
                    memcpy(b->extra_texts + at, text[k].ptr, text[k].len);
                    model_index_add(&b->extras, (struct span){b->extra_texts + at, text[k].len},
                                    (uint32_t)n++);
                    at += text[k].len;
                }
            }
        }
        rc = joined.failed ? err_set(e, ERR_NOMEM, "no memory for the merges")
             : pass == 0   ? model_index_seal(&b->extras, e)
                           : 0;
    }
    base_buf_deinit(&joined);
    return rc;
}

static int rank_merges(struct vocab_bpe *b, struct err *e)
{
    const int rc = model_index_init(&b->ranks, b->n_merges, e);
    for (size_t i = 0; i < b->n_merges && rc == 0; i++)
        model_index_add(&b->ranks,
                        (struct span){(const uint8_t *)&b->merges[i], sizeof b->merges[i]},
                        (uint32_t)(b->n_merges - 1 - i));
    return rc != 0 ? rc : model_index_seal(&b->ranks, e);
}

static int read_merges(const struct gguf *g, struct vocab *v, struct err *e)
{
    const struct gguf_kv *kv = model_gguf_kv(g, "tokenizer.ggml.merges");
    struct vocab_bpe *b = v->bpe;
    size_t n_extras = 0, n_bytes = 0;
    if (kv == NULL || kv->type != GGUF_ARRAY || kv->elem_type != GGUF_STRING)
        return err_set(e, ERR_FORMAT,
                       "metadata 'tokenizer.ggml.merges' is missing or not an array of strings");
    if (kv->n > MERGES_MAX)
        return err_set(e, ERR_FORMAT, "there are %" PRIu64 " merges, at most %d are possible",
                       kv->n, MERGES_MAX);
    b->n_merges = (size_t)kv->n;
    b->merges = base_zalloc(b->n_merges + 1, sizeof *b->merges);
    b->joined = base_zalloc(b->n_merges + 1, sizeof *b->joined);
    if (b->merges == NULL || b->joined == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %zu merges", b->n_merges);
    int rc = number_tokens(v, kv, &n_extras, &n_bytes, e);
    if (rc == 0 && n_extras > 0)
        rc = number_extras(v, kv, n_extras, n_bytes, e);
    return rc != 0 ? rc : rank_merges(b, e);
}

static int bpe_finish(const struct gguf *g, struct vocab *v, struct err *e)
{
    v->bpe = base_zalloc(1, sizeof *v->bpe);
    if (v->bpe == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the merges");
    int rc = read_merges(g, v, e);
    if (rc == 0)
        rc = model_vocab_splitter_new(v->pre, &v->bpe->splitter, e);
    for (unsigned b = 0; b < 256 && rc == 0; b++) {
        uint8_t text[2];
        const struct span s = {text, write_byte((uint8_t)b, text)};
        v->byte_ids[b] = find_token(v, s);
        v->bpe->byte_pieces[b] = find_piece(v, s);
    }
    return rc;
}

static void bpe_close(struct vocab *v)
{
    if (v->bpe == NULL)
        return;
    model_vocab_splitter_free(v->bpe->splitter);
    model_index_deinit(&v->bpe->extras);
    model_index_deinit(&v->bpe->ranks);
    base_free(v->bpe->extra_texts);
    base_free(v->bpe->joined);
    base_free(v->bpe->merges);
    base_free(v->bpe);
}

/* ---- encoding -------------------------------------------------------------------------------- */

struct work {
    struct vocab_joiner joiner;
    struct base_buf written; /* a word in the alphabet of bytes */
    struct vocab_sink *out;
};

static bool rate(const struct vocab_joiner *j, const struct vocab_piece *left,
                 const struct vocab_piece *right, uint32_t *key, int32_t *id)
{
    const struct vocab_bpe *b = j->v->bpe;
    const struct merge m = {left->id, right->id};
    const struct model_index_entry *x =
        model_index_find(&b->ranks, (struct span){(const uint8_t *)&m, sizeof m});
    if (x == NULL)
        return false;
    *key = (uint32_t)(b->n_merges - 1) - x->id;
    *id = b->joined[*key];
    return true;
}

static void emit_byte(const struct vocab *v, uint8_t b, struct vocab_sink *out)
{
    static const uint8_t replacement[] = {0xef, 0xbf, 0xbd};
    if (v->byte_ids[b] >= 0) {
        model_vocab_emit(out, v->byte_ids[b]);
    } else if (v->unknown >= 0) {
        model_vocab_emit(out, v->unknown);
    } else {
        for (size_t i = 0; i < sizeof replacement; i++)
            if (v->byte_ids[replacement[i]] >= 0)
                model_vocab_emit(out, v->byte_ids[replacement[i]]);
    }
}

/* The token that a word is as a whole, or -1. */
static int32_t whole_token(struct work *w, struct span word)
{
    if (word.len > w->joiner.v->text_bytes_max)
        return -1;
    w->written.len = 0;
    for (size_t i = 0; i < word.len; i++) {
        uint8_t text[2];
        base_buf_add(&w->written, text, write_byte(word.ptr[i], text));
    }
    return find_token(w->joiner.v, (struct span){w->written.ptr, w->written.len});
}

static int encode_word(void *arg, struct span word, struct err *e)
{
    struct work *w = arg;
    struct vocab_joiner *j = &w->joiner;
    const struct vocab *v = j->v;
    const int32_t whole = v->pre->whole_tokens ? whole_token(w, word) : -1;
    if (w->written.failed || !model_vocab_joiner_reserve(j, word.len))
        return err_set(e, ERR_NOMEM, "no memory to tokenize a word of %zu bytes", word.len);
    if (whole >= 0) {
        model_vocab_emit(w->out, whole);
        return 0;
    }
    for (size_t i = 0; i < word.len; i++)
        j->pieces[i] = (struct vocab_piece){
            .at = (uint32_t)i, .len = 1, .id = v->bpe->byte_pieces[word.ptr[i]]};
    model_vocab_join(j, (int32_t)word.len);
    for (int32_t i = 0; i >= 0; i = j->pieces[i].next) {
        const struct vocab_piece *p = &j->pieces[i];
        if (p->id >= 0 && (uint32_t)p->id < v->n)
            model_vocab_emit(w->out, p->id);
        else
            for (uint32_t k = 0; k < p->len; k++)
                emit_byte(v, word.ptr[p->at + k], w->out);
    }
    return 0;
}

static int bpe_encode(const struct vocab *v, struct span text, struct vocab_sink *out,
                      struct err *e)
{
    struct work w = {.joiner = {.v = v, .rate = rate}, .out = out};
    const int rc = model_vocab_split(v->bpe->splitter, text, encode_word, &w, e);
    model_vocab_joiner_deinit(&w.joiner);
    base_buf_deinit(&w.written);
    return rc;
}

const struct vocab_kind model_vocab_bpe = {
    .name = "gpt2",
    .joins = 1u << TOKEN_UNDEFINED | 1u << TOKEN_NORMAL | 1u << TOKEN_UNUSED,
    .bos = -1,
    .eos = -1,
    .unknown = -1,
    .begin = bpe_begin,
    .finish = bpe_finish,
    .plain = bpe_plain,
    .encode = bpe_encode,
    .close = bpe_close,
};
