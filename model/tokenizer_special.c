/* Special tokens in a text: user-defined ones, which are tokens wherever they are written, and control
 * and unknown ones, which are only where the caller asks for it.
 *
 * Longer texts come before shorter ones and then lower ids first, each from left to right, as in
 * llama.cpp; what has been taken for one is not there for the next. So a token is taken where it
 * stands, unless it overlaps one that comes before it in that order.
 *
 * All places are found in one pass: for each place that begins like some special token, one look into
 * a dictionary for every length that special tokens have. Then they are gone through in order, with a
 * bit for each byte that is taken. The time is that of the text and not of the text times the number
 * of special tokens (there are vocabularies with thousands), whatever the text is. */
#include "model/tokenizer.h"

#include <string.h>

struct vocab_specials {
    struct model_index index;   /* texts; n_specials - 1 - place in vocab.specials */
    uint64_t pairs[65536 / 64]; /* first two bytes of a text */
    uint32_t *lens;             /* [n_lens] lengths of texts in bytes, descending */
    size_t n_lens;
};

/* ---- opening --------------------------------------------------------------------------------- */

static void note_pair(struct vocab_specials *s, struct span text)
{
    const unsigned first = (unsigned)text.ptr[0] << 8;
    for (unsigned c = 0; c < 256; c++) /* of a single byte any may be the second */
        if (text.len == 1 || text.ptr[1] == c)
            s->pairs[(first | c) / 64] |= (uint64_t)1 << (first | c) % 64;
}

static int open_set(const struct vocab *v, bool control, struct vocab_specials **out, struct err *e)
{
    struct vocab_specials *s = *out = base_zalloc(1, sizeof *s);
    if (s == NULL || (s->lens = base_zalloc(v->n_specials + 1, sizeof *s->lens)) == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %zu special tokens", v->n_specials);
    const int rc = model_index_init(&s->index, v->n_specials, e);
    for (size_t i = 0; i < v->n_specials && rc == 0; i++) {
        const struct vocab_token *t = &v->tokens[v->specials[i]];
        if (t->type != TOKEN_USER_DEFINED && !control)
            continue;
        model_index_add(&s->index, t->text, (uint32_t)(v->n_specials - 1 - i));
        note_pair(s, t->text);
        if (s->n_lens == 0 || s->lens[s->n_lens - 1] != t->text.len)
            s->lens[s->n_lens++] = (uint32_t)t->text.len;
    }
    return rc != 0 ? rc : model_index_seal(&s->index, e);
}

int model_vocab_specials_open(struct vocab *v, struct err *e)
{
    const int rc = open_set(v, false, &v->special_sets[0], e);
    return rc != 0 ? rc : open_set(v, true, &v->special_sets[1], e);
}

void model_vocab_specials_close(struct vocab *v)
{
    for (size_t i = 0; i < 2; i++) {
        struct vocab_specials *s = v->special_sets[i];
        if (s == NULL)
            continue;
        model_index_deinit(&s->index);
        base_free(s->lens);
        base_free(s);
    }
}

/* ---- finding --------------------------------------------------------------------------------- */

static bool append(struct vocab_places *p, struct vocab_place x)
{
    if (p->n == p->cap) {
        const size_t cap = p->cap == 0 ? 16 : 2 * p->cap;
        struct vocab_place *list = base_realloc(p->list, cap * sizeof *list);
        if (list == NULL)
            return false;
        p->list = list;
        p->cap = cap;
    }
    p->list[p->n++] = x;
    return true;
}

static bool may_begin(const struct vocab_specials *s, struct span text, size_t at)
{
    const unsigned pair = (unsigned)text.ptr[at] << 8 | (at + 1 < text.len ? text.ptr[at + 1] : 0u);
    return at + 1 == text.len || (s->pairs[pair / 64] >> pair % 64 & 1) != 0;
}

/* Every place where a special token stands, overlapping or not, from left to right. */
static bool find_all(const struct vocab *v, const struct vocab_specials *s, struct span text,
                     struct vocab_places *p)
{
    for (size_t at = 0; at < text.len; at++) {
        if (!may_begin(s, text, at))
            continue;
        for (size_t k = 0; k < s->n_lens; k++) {
            const struct span part = {text.ptr + at, s->lens[k]};
            const struct model_index_entry *x =
                part.len <= text.len - at ? model_index_find(&s->index, part) : NULL;
            if (x != NULL &&
                !append(p, (struct vocab_place){(uint32_t)at, (uint32_t)(v->n_specials - 1 - x->id),
                                                false}))
                return false;
        }
    }
    return true;
}

static bool is_taken(const uint8_t *taken, size_t at)
{
    return (taken[at / 8] >> at % 8 & 1) != 0;
}

/* order[p->n]: the places by rank and then from left to right. starts[n_specials + 1], zeroed. */
static void sort_places(const struct vocab_places *p, size_t n_specials, uint32_t *starts,
                        uint32_t *order)
{
    for (size_t i = 0; i < p->n; i++)
        starts[p->list[i].rank + 1]++;
    for (size_t r = 1; r <= n_specials; r++)
        starts[r] += starts[r - 1];
    for (size_t i = 0; i < p->n; i++)
        order[starts[p->list[i].rank]++] = (uint32_t)i;
}

/* Whatever was taken before is at least as long, so it covers an end of what it overlaps. */
static void take(const struct vocab *v, struct vocab_place *x, uint8_t *taken)
{
    const size_t at = x->at, len = v->tokens[v->specials[x->rank]].text.len;
    x->good = !is_taken(taken, at) && !is_taken(taken, at + len - 1);
    for (size_t i = at; i < at + len && x->good; i++)
        taken[i / 8] |= (uint8_t)(1u << i % 8);
}

int model_vocab_find_specials(const struct vocab *v, struct span text, bool control,
                              struct vocab_places *p, struct err *e)
{
    uint32_t *starts = NULL, *order = NULL;
    uint8_t *taken = NULL;
    size_t n = 0;
    bool room = find_all(v, v->special_sets[control ? 1 : 0], text, p);
    if (room && p->n > 0) {
        starts = base_zalloc(v->n_specials + 1, sizeof *starts);
        order = base_zalloc(p->n, sizeof *order);
        taken = base_zalloc(text.len / 8 + 1, 1);
        room = starts != NULL && order != NULL && taken != NULL;
    }
    if (room && p->n > 0) {
        sort_places(p, v->n_specials, starts, order);
        for (size_t i = 0; i < p->n; i++)
            take(v, &p->list[order[i]], taken);
        for (size_t i = 0; i < p->n; i++)
            if (p->list[i].good)
                p->list[n++] = p->list[i];
        p->n = n;
    }
    base_free(taken);
    base_free(order);
    base_free(starts);
    return room ? 0 : err_set(e, ERR_NOMEM, "no memory to tokenize a text of %zu bytes", text.len);
}
