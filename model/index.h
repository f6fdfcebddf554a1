/* Private to model/: a read-only dictionary from byte strings to numbers. */
#ifndef MODEL_INDEX_H
#define MODEL_INDEX_H

#include "common/common.h"

struct model_index_entry {
    uint64_t hash;
    struct span key; /* borrowed for the life of the index */
    uint32_t id;
};

struct model_index {
    struct model_index_entry *entries; /* [n], by (hash, key, id) once sealed */
    uint32_t *starts;                  /* [2^bits + 1], first entry of each bucket */
    size_t n, cap;
    unsigned bits; /* a bucket is the hash's top `bits` */
};

/* Room for `cap` keys (fewer than 2^31). ERR_NOMEM. */
int model_index_init(struct model_index *x, size_t cap, struct err *e);
void model_index_add(struct model_index *x, struct span key, uint32_t id);
/* Sort; afterwards the index is only read. ERR_NOMEM. */
int model_index_seal(struct model_index *x, struct err *e);
/* The entry of `key`, among equal keys the one with the highest id; NULL: absent. */
const struct model_index_entry *model_index_find(const struct model_index *x, struct span key);
/* Some entry whose key another entry has as well; NULL: all keys differ. */
const struct model_index_entry *model_index_duplicate(const struct model_index *x);
void model_index_deinit(struct model_index *x);

#endif
