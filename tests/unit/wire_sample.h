/* Random messages of every kind, made from wire.def itself: for tests of what carries or decodes them. */
#ifndef TESTS_UNIT_WIRE_SAMPLE_H
#define TESTS_UNIT_WIRE_SAMPLE_H

#include "net/net.h"

/* How much a field with a maximum holds. */
enum wire_sample_amount {
    WIRE_SAMPLE_SHORTEST,
    WIRE_SAMPLE_SMALL,
    WIRE_SAMPLE_RANDOM,
    WIRE_SAMPLE_LONGEST
};
enum { WIRE_SAMPLE_BLOCKS_MAX = 64 };

/* Memory that a generated message points to. The same amount and rng give the same message. */
struct wire_sample {
    enum wire_sample_amount amount;
    uint64_t rng;
    uint8_t *blocks[WIRE_SAMPLE_BLOCKS_MAX];
    size_t n_blocks;
};

/* Fill *m, which borrows from *g until wire_sample_free. */
void wire_sample_message(struct wire_sample *g, enum net_code code, struct net_msg *m);
void wire_sample_free(struct wire_sample *g);
/* The same code and the same contents in every field. */
bool wire_sample_same(const struct net_msg *a, const struct net_msg *b);

#endif
