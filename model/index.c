/* Dictionary from byte strings to numbers: metadata keys, tensor names, token texts.
 *
 * The entries are sorted by hash and found through a table of buckets over the hash's top bits, so
 * that a lookup usually touches one bucket of one entry, like a hash table. Unlike one, it has no
 * bad day: inside a bucket the search is binary by (hash, key, id), so a file made of colliding
 * keys costs O(n log n) to build and O(log n) a lookup, and no secret seed is needed.
 *
 * Invariant after sealing: entries ascend, starts[b] <= starts[b + 1], and entries of bucket b are
 * [starts[b], starts[b + 1]). Left out on purpose: insertion after sealing and removal. */
#include "model/index.h"

#include <string.h>

/* FNV-1a (Fowler, Noll, Vo) and a finaliser, since the buckets need good top bits. */
static uint64_t hash_of(struct span key)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < key.len; i++)
        h = (h ^ key.ptr[i]) * 0x100000001b3u;
    return base_mix64(h);
}

static int compare_key(uint64_t hash, struct span key, const struct model_index_entry *b)
{
    if (hash != b->hash)
        return hash < b->hash ? -1 : 1;
    if (key.len != b->key.len)
        return key.len < b->key.len ? -1 : 1;
    return key.len == 0 ? 0 : memcmp(key.ptr, b->key.ptr, key.len);
}

static int compare_entries(const void *pa, const void *pb)
{
    const struct model_index_entry *a = pa, *b = pb;
    const int c = compare_key(a->hash, a->key, b);
    return c != 0 ? c : (a->id > b->id) - (a->id < b->id);
}

int model_index_init(struct model_index *x, size_t cap, struct err *e)
{
    *x = (struct model_index){.cap = cap, .bits = 1};
    while (x->bits < 30 && ((size_t)1 << x->bits) < cap)
        x->bits++;
    x->entries = base_zalloc(cap > 0 ? cap : 1, sizeof *x->entries);
    x->starts = base_zalloc(((size_t)1 << x->bits) + 1, sizeof *x->starts);
    if (x->entries == NULL || x->starts == NULL) {
        model_index_deinit(x);
        return err_set(e, ERR_NOMEM, "no memory for a dictionary of %zu names", cap);
    }
    return 0;
}

void model_index_add(struct model_index *x, struct span key, uint32_t id)
{
    x->entries[x->n++] = (struct model_index_entry){.hash = hash_of(key), .key = key, .id = id};
}

/* One merge pass: runs of `width` entries of `from` become runs of twice that in `to`. */
static void merge_pass(const struct model_index_entry *from, struct model_index_entry *to, size_t n,
                       size_t width)
{
    for (size_t lo = 0; lo < n; lo += 2 * width) {
        const size_t mid = n - lo < width ? n : lo + width;
        const size_t hi = n - lo < 2 * width ? n : lo + 2 * width;
        size_t a = lo, b = mid;
        for (size_t k = lo; k < hi; k++) {
            const bool left = a < mid && (b == hi || compare_entries(&from[a], &from[b]) <= 0);
            to[k] = left ? from[a++] : from[b++];
        }
    }
}

/* A merge sort of our own: libc's qsort may be quadratic on data made for it, and takes memory that
 * the allocation hook does not see. */
static int sort_entries(struct model_index *x, struct err *e)
{
    struct model_index_entry *spare = base_zalloc(x->n > 0 ? x->n : 1, sizeof *spare);
    if (spare == NULL)
        return err_set(e, ERR_NOMEM, "no memory to sort %zu names", x->n);
    for (size_t width = 1; width < x->n; width *= 2) {
        merge_pass(x->entries, spare, x->n, width);
        struct model_index_entry *sorted = spare;
        spare = x->entries;
        x->entries = sorted;
    }
    base_free(spare);
    return 0;
}

int model_index_seal(struct model_index *x, struct err *e)
{
    const int rc = sort_entries(x, e);
    if (rc != 0)
        return rc;
    size_t i = 0;
    for (size_t b = 0; b <= (size_t)1 << x->bits; b++) {
        while (i < x->n && (x->entries[i].hash >> (64 - x->bits)) < b)
            i++;
        x->starts[b] = (uint32_t)i;
    }
    return 0;
}

const struct model_index_entry *model_index_find(const struct model_index *x, struct span key)
{
    if (x->starts == NULL)
        return NULL;
    const uint64_t hash = hash_of(key);
    const size_t bucket = (size_t)(hash >> (64 - x->bits));
    const size_t first = x->starts[bucket];
    size_t lo = first, hi = x->starts[bucket + 1];
    while (lo < hi) { /* lo becomes the first entry whose key is greater */
        const size_t mid = lo + (hi - lo) / 2;
        if (compare_key(hash, key, &x->entries[mid]) < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    if (lo == first || compare_key(hash, key, &x->entries[lo - 1]) != 0)
        return NULL;
    return &x->entries[lo - 1];
}

const struct model_index_entry *model_index_duplicate(const struct model_index *x)
{
    for (size_t i = 1; i < x->n; i++)
        if (compare_key(x->entries[i].hash, x->entries[i].key, &x->entries[i - 1]) == 0)
            return &x->entries[i];
    return NULL;
}

void model_index_deinit(struct model_index *x)
{
    base_free(x->entries);
    base_free(x->starts);
    *x = (struct model_index){0};
}
