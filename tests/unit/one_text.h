/* One text, as numbers: for the demo model and for a random model of every architecture, a hash
 * over the bits of the logits of a prompt and a few tokens more. */
#ifndef TESTS_UNIT_ONE_TEXT_H
#define TESTS_UNIT_ONE_TEXT_H

#include "model/model.h"

/* A model and what every machine, kernel table, thread count and chunking must give. The hashes
 * change only where the numbers of docs/numerics.md change, which changes the text of every
 * model. */
struct one_text_case {
    const char *shape, *type; /* of make_model; shape NULL: the demo model */
    uint32_t n_prompt;        /* tokens */
    uint64_t hash[KERN_N_KV_TYPES];
};
/* The i-th case, or NULL past the last; the demo model is the first. */
const struct one_text_case *one_text_at(unsigned i);

/* One case's model with its weights, for any number of runs. `demo`: path of the demo model. NULL:
 * the reason is in *e. */
struct one_text;
struct one_text *one_text_open(const struct one_text_case *c, const char *demo, struct err *e);
void one_text_close(struct one_text *t);

/* Run the prompt in chunks of `chunk` rows (0: all at once) and two greedy tokens more, and hash
 * all logits. 0: it cannot be run, and the reason is in *e. */
uint64_t one_text_hash(struct one_text *t, const struct kern_table *kernels, unsigned n_threads,
                       uint32_t chunk, enum kern_kv_type kv, struct err *e);

#endif
