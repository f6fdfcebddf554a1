/* SentencePiece BPE ("llama"): as in Llama 2, Mistral, Gemma, and as llama.cpp runs it.
 *
 * Spaces become U+2581 and one more is put before the text. The text is cut into UTF-8 characters;
 * then, as long as two neighbours joined are a token, the pair with the highest score is joined,
 * the leftmost of equals (tokenizer_join.c). A piece that is no token in the end becomes its bytes'
 * tokens <0x00> to <0xFF>, or the unknown token where the vocabulary lacks one of them.
 *
 * Control, unknown and byte tokens are not in the index that pairs are looked up in: text is text,
 * and no writing of "</s>" ends a conversation. Left out: the unigram model ("t5"), another
 * algorithm. */
#include "model/tokenizer.h"

#include <string.h>

static const uint8_t lower_block[3] = {0xe2, 0x96, 0x81}; /* U+2581 */

/* ---- joining --------------------------------------------------------------------------------- */

static const struct model_index_entry *lookup(const struct vocab_joiner *j, uint32_t at,
                                              uint32_t len)
{
    return model_index_find(&j->v->index, (struct span){j->text + at, len});
}

/* A number that ascends as the score descends. Adding 0 makes both zeros one. */
static uint32_t key_of(float score)
{
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    return (bits & 0x80000000u) != 0 ? bits : 0x7fffffffu - bits;
}

static bool rate(const struct vocab_joiner *j, const struct vocab_piece *left,
                 const struct vocab_piece *right, uint32_t *key, int32_t *id)
{
    const uint32_t len = left->len + right->len;
    const struct model_index_entry *token =
        len <= j->v->text_bytes_max ? lookup(j, left->at, len) : NULL;
    if (token == NULL)
        return false;
    *key = key_of(j->v->tokens[token->id].score);
    *id = (int32_t)token->id;
    return true;
}

static void emit_piece(const struct vocab_joiner *j, const struct vocab_piece *s,
                       struct vocab_sink *out)
{
    const struct model_index_entry *token = lookup(j, s->at, s->len);
    if (token != NULL) {
        model_vocab_emit(out, (int32_t)token->id);
        return;
    }
    bool bytes = true;
    for (uint32_t i = 0; i < s->len; i++)
        bytes = bytes && j->v->byte_ids[j->text[s->at + i]] >= 0;
    if (!bytes)
        model_vocab_emit(out, j->v->unknown);
    for (uint32_t i = 0; bytes && i < s->len; i++)
        model_vocab_emit(out, j->v->byte_ids[j->text[s->at + i]]);
}

/* ---- text ------------------------------------------------------------------------------------ */

/* Bytes of the character at the start of p[n]. In well-formed UTF-8 the lead byte says it; a lead
 * byte without its continuation ends where that does, or it would swallow a part of the escaped
 * space behind it and the text would not come back from its ids. */
static uint32_t char_bytes(const uint8_t *p, uint32_t n)
{
    const uint32_t want = p[0] < 0xc0 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    uint32_t len = 1;
    while (len < want && len < n && (p[len] & 0xc0) == 0x80)
        len++;
    return len;
}

/* Escape into out, which has room; returns the length in bytes. */
static uint32_t escape(struct span text, bool prefix, uint8_t *out)
{
    uint32_t n = 0;
    for (size_t i = prefix ? 0 : 1; i <= text.len; i++) { /* 0 is the prefix, i the byte i - 1 */
        const uint8_t c = i == 0 ? ' ' : text.ptr[i - 1];
        if (c == ' ') {
            memcpy(out + n, lower_block, sizeof lower_block);
            n += (uint32_t)sizeof lower_block;
        } else {
            out[n++] = c;
        }
    }
    return n;
}

/* Cut the escaped text into characters; returns their number. */
static int32_t cut(struct vocab_joiner *j, uint32_t n_bytes)
{
    int32_t n = 0;
    for (uint32_t at = 0; at < n_bytes; n++) {
        const uint32_t len = char_bytes(j->text + at, n_bytes - at);
        j->pieces[n] = (struct vocab_piece){.at = at, .len = len};
        at += len;
    }
    return n;
}

static int spm_encode(const struct vocab *v, struct span text, struct vocab_sink *out,
                      struct err *e)
{
    if (text.len == 0)
        return 0;
    size_t n_spaces = 0;
    for (size_t i = 0; i < text.len; i++)
        n_spaces += text.ptr[i] == ' ';
    struct vocab_joiner j = {.v = v, .rate = rate};
    uint8_t *escaped = base_alloc(text.len + 1 + 2 * (n_spaces + 1));
    int rc = 0;
    if (escaped == NULL || !model_vocab_joiner_reserve(&j, text.len + 1)) {
        rc = err_set(e, ERR_NOMEM, "no memory to tokenize a text of %zu bytes", text.len);
        goto out;
    }
    const uint32_t n_bytes = escape(text, v->space_prefix, escaped);
    j.text = escaped;
    model_vocab_join(&j, cut(&j, n_bytes));
    for (int32_t i = 0; i >= 0; i = j.pieces[i].next)
        emit_piece(&j, &j.pieces[i], out);
out:
    model_vocab_joiner_deinit(&j);
    base_free(escaped);
    return rc;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    const uint8_t lower = c | 0x20;
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* The byte that a token's text "<0x41>" stands for, or -1. */
static int byte_of(struct span text)
{
    if (text.len != 6 || memcmp(text.ptr, "<0x", 3) != 0 || text.ptr[5] != '>')
        return -1;
    const int high = hex_digit(text.ptr[3]), low = hex_digit(text.ptr[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

static int spm_prepare(struct vocab *v, struct err *e)
{
    for (uint32_t id = 0; id < v->n; id++) {
        struct vocab_token *t = &v->tokens[id];
        const int byte = byte_of(t->text);
        if (!v->typed && byte >= 0)
            t->type = TOKEN_BYTE;
        if (t->type != TOKEN_BYTE)
            continue;
        if (byte < 0)
            return err_set(e, ERR_FORMAT,
                           "token %u is a byte token, but its text is not like <0x41>", id);
        v->byte_ids[byte] = (int32_t)id;
    }
    for (int b = 0; b < 256 && v->unknown < 0; b++)
        if (v->byte_ids[b] < 0)
            return err_set(e, ERR_FORMAT,
                           "there is neither a token for byte 0x%02X nor an unknown token",
                           (unsigned)b);
    return 0;
}

static size_t spm_plain(const struct vocab *v, int32_t id, uint8_t *out)
{
    const struct vocab_token *t = &v->tokens[id];
    if (t->type == TOKEN_BYTE) {
        out[0] = (uint8_t)byte_of(t->text);
        return 1;
    }
    size_t n = 0;
    for (size_t i = 0; i < t->text.len;) {
        if (t->type == TOKEN_NORMAL && t->text.len - i >= sizeof lower_block &&
            memcmp(t->text.ptr + i, lower_block, sizeof lower_block) == 0) {
            out[n++] = ' ';
            i += sizeof lower_block;
        } else {
            out[n++] = t->text.ptr[i++];
        }
    }
    return n;
}

const struct vocab_kind model_vocab_spm = {
    .name = "llama",
    .joins =
        1u << TOKEN_UNDEFINED | 1u << TOKEN_NORMAL | 1u << TOKEN_USER_DEFINED | 1u << TOKEN_UNUSED,
    .add_bos = true,
    .space_prefix = true,
    .bos = 1,
    .eos = 2,
    .unknown = 0,
    .prepare = spm_prepare,
    .plain = spm_plain,
    .encode = spm_encode,
};
