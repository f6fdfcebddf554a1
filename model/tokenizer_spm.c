/* SentencePiece BPE ("llama"): as in Llama 2, Mistral, Gemma, and as llama.cpp runs it.
 *
 * Spaces become U+2581 and one more is put before the text. The text is cut into UTF-8 characters;
 * then, as long as two neighbours joined are a token, the pair with the highest score is joined,
 * the leftmost of equals. A piece that is no token in the end becomes its bytes' tokens <0x00> to
 * <0xFF>, or the unknown token where the vocabulary lacks one of them.
 *
 * Pairs wait in a heap ordered by (score, position), and one whose sides have changed since is
 * dropped when it comes up, so a text of n characters takes O(n log n). The heap never outgrows its
 * allocation: it starts with at most n - 1 pairs, and each of at most n - 1 joins takes one out and
 * puts two in.
 *
 * Control, unknown and byte tokens are not in the index that pairs are looked up in: text is text,
 * and no writing of "</s>" ends a conversation. Left out: the unigram model ("t5"), another
 * algorithm. */
#include "model/tokenizer.h"

#include <string.h>

static const uint8_t lower_block[3] = {0xe2, 0x96, 0x81}; /* U+2581 */

/* A piece of the text; pieces form a list. len 0: joined into the one before. */
struct piece {
    uint32_t at, len;   /* bytes */
    int32_t prev, next; /* -1: none */
};

struct pair {
    float score;
    int32_t left, right;
    uint32_t len; /* bytes of both when the pair was found */
};

struct work {
    const struct vocab *v;
    uint8_t *text; /* escaped */
    struct piece *pieces;
    struct pair *heap;
    size_t n_heap;
};

/* ---- heap ------------------------------------------------------------------------------------ */

static bool before(const struct pair *a, const struct pair *b)
{
    return a->score > b->score || (!(a->score < b->score) && a->left < b->left);
}

static void push(struct work *w, struct pair p)
{
    size_t i = w->n_heap++;
    while (i > 0 && before(&p, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = p;
}

static struct pair pop(struct work *w)
{
    const struct pair top = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0;
    for (size_t child = 1; child < w->n_heap; child = 2 * i + 1) {
        if (child + 1 < w->n_heap && before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!before(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

/* ---- joining --------------------------------------------------------------------------------- */

static const struct model_index_entry *lookup(const struct work *w, uint32_t at, uint32_t len)
{
    return model_index_find(&w->v->index, (struct span){w->text + at, len});
}

static void consider(struct work *w, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return;
    const uint32_t len = w->pieces[left].len + w->pieces[right].len;
    if (len > w->v->text_bytes_max)
        return;
    const struct model_index_entry *token = lookup(w, w->pieces[left].at, len);
    if (token != NULL)
        push(w, (struct pair){w->v->tokens[token->id].score, left, right, len});
}

static void join_pairs(struct work *w)
{
    while (w->n_heap > 0) {
        const struct pair p = pop(w);
        struct piece *l = &w->pieces[p.left], *r = &w->pieces[p.right];
        if (l->len == 0 || r->len == 0 || l->len + r->len != p.len)
            continue;
        l->len = p.len;
        r->len = 0;
        l->next = r->next;
        if (r->next >= 0)
            w->pieces[r->next].prev = p.left;
        consider(w, l->prev, p.left);
        consider(w, p.left, l->next);
    }
}

static void emit_piece(const struct work *w, const struct piece *s, struct vocab_sink *out)
{
    const struct model_index_entry *token = lookup(w, s->at, s->len);
    if (token != NULL) {
        model_vocab_emit(out, (int32_t)token->id);
        return;
    }
    bool bytes = true;
    for (uint32_t i = 0; i < s->len; i++)
        bytes = bytes && w->v->byte_ids[w->text[s->at + i]] >= 0;
    if (!bytes)
        model_vocab_emit(out, w->v->unknown);
    for (uint32_t i = 0; bytes && i < s->len; i++)
        model_vocab_emit(out, w->v->byte_ids[w->text[s->at + i]]);
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

/* Escape into w->text, which has room; returns its length in bytes. */
static uint32_t escape(struct work *w, struct span text, bool prefix)
{
    uint32_t n = 0;
    for (size_t i = prefix ? 0 : 1; i <= text.len; i++) { /* 0 is the prefix, i the byte i - 1 */
        const uint8_t c = i == 0 ? ' ' : text.ptr[i - 1];
        if (c == ' ') {
            memcpy(w->text + n, lower_block, sizeof lower_block);
            n += (uint32_t)sizeof lower_block;
        } else {
            w->text[n++] = c;
        }
    }
    return n;
}

/* Cut the escaped text into characters; returns their number. */
static int32_t cut(struct work *w, uint32_t n_bytes)
{
    int32_t n = 0;
    for (uint32_t at = 0; at < n_bytes; n++) {
        const uint32_t len = char_bytes(w->text + at, n_bytes - at);
        w->pieces[n] = (struct piece){at, len, n - 1, n + 1};
        at += len;
    }
    w->pieces[n - 1].next = -1;
    return n;
}

static int spm_encode(const struct vocab *v, struct span text, bool prefix, struct vocab_sink *out,
                      struct err *e)
{
    if (text.len == 0)
        return 0;
    prefix = prefix && v->space_prefix;
    size_t n_spaces = 0;
    for (size_t i = 0; i < text.len; i++)
        n_spaces += text.ptr[i] == ' ';
    const size_t n_chars_max = text.len + 1;
    struct work w = {.v = v};
    int rc = 0;
    w.text = base_alloc(n_chars_max + 2 * (n_spaces + 1));
    w.pieces = base_zalloc(n_chars_max, sizeof *w.pieces);
    w.heap = base_zalloc(n_chars_max, 2 * sizeof *w.heap);
    if (w.text == NULL || w.pieces == NULL || w.heap == NULL) {
        rc = err_set(e, ERR_NOMEM, "no memory to tokenize a text of %zu bytes", text.len);
        goto out;
    }
    const int32_t n = cut(&w, escape(&w, text, prefix));
    for (int32_t i = 1; i < n; i++)
        consider(&w, i - 1, i);
    join_pairs(&w);
    for (int32_t i = 0; i >= 0; i = w.pieces[i].next)
        emit_piece(&w, &w.pieces[i], out);
out:
    base_free(w.heap);
    base_free(w.pieces);
    base_free(w.text);
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
    .add_bos = true,
    .space_prefix = true,
    .bos = 1,
    .eos = 2,
    .unknown = 0,
    .prepare = spm_prepare,
    .plain = spm_plain,
    .encode = spm_encode,
};
