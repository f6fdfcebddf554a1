/* One text, as one number: a hash over the bits of the demo model's logits. */
#ifndef TESTS_UNIT_ONE_TEXT_H
#define TESTS_UNIT_ONE_TEXT_H

#include "model/model.h"

/* What every machine, kernel table and thread count must give. It changes only where the numbers
 * of docs/numerics.md change, which changes the text of every model. */
#define ONE_TEXT_HASH 0xefaa514dec447f29ull

/* Run the model in the file over a fixed prompt in chunks of `chunk` rows and two greedy tokens
 * more, and hash all logits. 0: it cannot be run, and the reason is in *e. */
uint64_t one_text_hash(const char *path, const struct kern_table *kernels, unsigned n_threads,
                       uint32_t chunk, struct err *e);

/* The same of a tiny model for each weight type, architectures and KV types taking turns. */
#define ONE_TEXT_TYPES_HASH 0x265e5ddc29294563ull
uint64_t one_text_types_hash(const struct kern_table *kernels, unsigned n_threads, uint32_t chunk,
                             struct err *e);

#endif
