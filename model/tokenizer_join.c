/* Joining neighbours: what both kinds of byte pair encoding do with a text once it is cut.
 *
 * The text is a list of pieces. As long as two neighbours may be joined, the pair with the lowest
 * key is, the leftmost of equals; what a pair's key is, and what joining gives, the tokenizer says.
 *
 * Pairs wait in a heap ordered by (key, position), and one whose sides have changed since is dropped
 * when it comes up, so n pieces take O(n log n). The invariant: the heap never outgrows its
 * allocation. It starts with at most n - 1 pairs, and each of at most n - 1 joins takes one out and
 * puts two in.
 *
 * Left out: dropout, and any second order of joining. */
#include "model/tokenizer.h"

enum { PIECES_MIN = 64 }; /* short words share one allocation */

bool model_vocab_joiner_reserve(struct vocab_joiner *j, size_t n)
{
    size_t cap = j->cap > 0 ? 2 * j->cap : PIECES_MIN;
    if (n <= j->cap)
        return true;
    cap = cap < n ? n : cap;
    base_free(j->pieces); /* nothing in them outlives a word */
    base_free(j->heap);
    j->cap = 0;
    j->pieces = base_zalloc(cap, sizeof *j->pieces);
    j->heap = base_zalloc(cap, 2 * sizeof *j->heap);
    if (j->pieces == NULL || j->heap == NULL)
        return false;
    j->cap = cap;
    return true;
}

void model_vocab_joiner_deinit(struct vocab_joiner *j)
{
    base_free(j->heap);
    base_free(j->pieces);
    j->heap = NULL;
    j->pieces = NULL;
    j->cap = 0;
}

/* ---- heap ------------------------------------------------------------------------------------ */

static bool before(const struct vocab_pair *a, const struct vocab_pair *b)
{
    return a->key != b->key ? a->key < b->key : a->left < b->left;
}

static void push(struct vocab_joiner *j, struct vocab_pair p)
{
    size_t i = j->n_heap++;
    while (i > 0 && before(&p, &j->heap[(i - 1) / 2])) {
        j->heap[i] = j->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    j->heap[i] = p;
}

static struct vocab_pair pop(struct vocab_joiner *j)
{
    const struct vocab_pair top = j->heap[0], last = j->heap[--j->n_heap];
    size_t i = 0;
    for (size_t child = 1; child < j->n_heap; child = 2 * i + 1) {
        if (child + 1 < j->n_heap && before(&j->heap[child + 1], &j->heap[child]))
            child++;
        if (!before(&j->heap[child], &last))
            break;
        j->heap[i] = j->heap[child];
        i = child;
    }
    j->heap[i] = last;
    return top;
}

/* ---- joining --------------------------------------------------------------------------------- */

static void consider(struct vocab_joiner *j, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return;
    const struct vocab_piece *l = &j->pieces[left], *r = &j->pieces[right];
    struct vocab_pair p = {.left = left, .right = right, .len = l->len + r->len};
    if (j->rate(j, l, r, &p.key, &p.id))
        push(j, p);
}

void model_vocab_join(struct vocab_joiner *j, int32_t n)
{
    j->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        j->pieces[i].prev = i - 1;
        j->pieces[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 1; i < n; i++)
        consider(j, i - 1, i);
    while (j->n_heap > 0) {
        const struct vocab_pair p = pop(j);
        struct vocab_piece *l = &j->pieces[p.left], *r = &j->pieces[p.right];
        if (l->len == 0 || r->len == 0 || l->len + r->len != p.len)
            continue;
        l->len = p.len;
        l->id = p.id;
        r->len = 0;
        l->next = r->next;
        if (r->next >= 0)
            j->pieces[r->next].prev = p.left;
        consider(j, l->prev, p.left);
        consider(j, p.left, l->next);
    }
}
