/* A problem relaxed for lower bounds (kinds.c): kinds of devices, weight of layers, sets of kinds. Only
 * the bound's files look inside. */
#ifndef PARTITION_KINDS_H
#define PARTITION_KINDS_H

#include "partition/internal.h"

enum { PART_LEVELS = 18 };

/* Where the staircase over weight has its corners, as parts of all the weight. */
extern const double part_levels[PART_LEVELS + 1];

/* A team of kinds. */
struct part_set {
    uint8_t count[PART_DEVICES_MAX], lead;
    uint16_t smaller[PART_DEVICES_MAX]; /* with one of kind g less, same leader; UINT16_MAX: none */
    uint8_t n;
    double room;             /* bytes of all members beside what each needs */
    double tau[PART_LEVELS]; /* least seconds per weight, where the weight is above that level */
    double all_s[2];         /* least seconds of all layers; and with the output matrix */
    double begin_s, output_s;
};

/* The fewest bytes that layers of so much weight have: corners, from (0, 0) on. */
struct part_held {
    uint32_t n;
    double weight[PART_LAYERS_MAX + 1], bytes[PART_LAYERS_MAX + 1];
};

/* The least time of a half where the leader takes no part, and where it does. */
struct part_of_set {
    double leader[2];
};

/* Seconds of one member of a kind for n units of a half: first_s + n * unit_s. */
struct part_of_kind {
    double first_s, unit_s;
};

struct part_relaxed {
    const struct part_problem *p; /* borrowed */
    struct part_problem kinds; /* devices are kinds; layer 0 is the reference; diagonals are used */
    uint32_t n_of[PART_DEVICES_MAX], kind_of[PART_DEVICES_MAX];
    double weight, lightest; /* of all layers, of one */
    double bytes;            /* of the whole model, held once */
    double rows, deadline_s;
    bool close;    /* memory has been looked at, until the deadline */
    double common; /* bytes per weight */
    /* KV heads for each head unit; and of attention's seconds, what all units together are sure to
     * take, less than all only where the last KV head has fewer query heads than the others. */
    double kv_per_head, heads_share;
    struct part_held head_held, kv_held, ff_held; /* a head unit, a KV head, a feed-forward unit */
    struct part_held all_held;                    /* everything once */
    uint32_t n_sets;
    struct part_set *sets;
    uint32_t n_vectors;                 /* counts of each kind, as mixed radix numbers */
    uint16_t *set_at;                   /* [leader's kind][counts beside the leader] */
    struct part_of_set *attn, *ff, *up; /* [n_sets]; up: [n_vectors] */
    uint16_t *some; /* [n_vectors] subsets of the set at hand, with its leader */
    double output_least_s[PART_DEVICES_MAX]; /* by the leader's kind */
};

/* False: no memory, or too many sets; part_sets_deinit in any case. */
bool part_sets_init(struct part_relaxed *r, const struct part_problem *p);
void part_sets_deinit(struct part_relaxed *r);
/* Fills in everything about the sets, for passes of so many rows (halves.c), as rings of at most `ring_s`
 * with stages of at most `stage_s` need it: other times may be too short. Memory is looked at until
 * deadline_s; 0: not at all. */
void part_sets_time(struct part_relaxed *r, double rows, double ring_s, double stage_s,
                    double deadline_s);
/* The reference layer and the weights, for passes of r->rows rows. */
void part_layers_weigh(struct part_relaxed *r);
/* The fewest bytes of layers of so much weight. */
double part_held_bytes(const struct part_held *h, double weight);
/* The most weight that layers of so many bytes have. */
double part_held_weight(const struct part_held *h, double bytes);

#endif
