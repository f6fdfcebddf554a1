/* Ways to run a small model, and its reference answers: what test_slice.c and its like are made of. */
#ifndef TESTS_UNIT_MACHINE_H
#define TESTS_UNIT_MACHINE_H

#include "tests/unit/tiny_model.h"

enum { SLOTS = 3, STAGES_MAX = 4, PARTS_MAX = 3, CONTEXT = 150 };

struct fixture {
    struct model *model;
    const struct model_shape *shape;
    struct tiny_store store;
    uint32_t length[SLOTS]; /* tokens of each slot's text */
    int32_t tokens[SLOTS][CONTEXT];
    float *hidden, *logits; /* reference: [SLOTS][CONTEXT][n_embd], [...][n_vocab] */
};

struct plan {
    unsigned n_stages, n_parts;
    uint32_t border[STAGES_MAX + 1]; /* layers of stage i: [border[i], border[i + 1]) */
    bool split_ends;                 /* embedding and output are stages without layers */
    uint8_t part_of_unit[MODEL_HEADS_MAX];
    uint32_t ff_border[PARTS_MAX + 1]; /* FFN units of part i */
    bool steps;                        /* through the steps even with one part */
    bool star;                         /* parts get normed rows, as bytes */
    unsigned n_threads;
    const struct kern_table *kernels;
    enum kern_kv_type kv;
    uint32_t batch; /* rows of a batch, at most */
    /* 0: slot after slot, a run of positions each; otherwise a seed that mixes the slots. */
    uint64_t mix;
    const struct plan *then; /* half-way all KV rows move to this plan, which goes on; NULL: none */
};

struct machine {
    const struct fixture *f;
    const struct plan *p;
    unsigned n_stages;
    struct model_exec *exec[STAGES_MAX + 2][PARTS_MAX];
    struct model_slice slice[STAGES_MAX + 2][PARTS_MAX];
};

/* A model with random texts of up to `length` tokens in its slots, and the reference. */
struct fixture fixture_make(const struct tiny_model *c, uint32_t length);
void fixture_free(struct fixture *f);
/* The reference's plan: everything in one place, scalar kernels, one thread, one row at a time. */
struct plan machine_whole(const struct fixture *f);
struct machine machine_make(const struct fixture *f, const struct plan *p);
void machine_free(struct machine *m);
/* A batch through all stages, as model_exec_run says. */
void machine_run(const struct machine *m, const struct model_row *rows, uint32_t n, float *hidden,
                 float *logits, uint32_t *bad);
/* Run a plan over all texts into hidden and logits, laid out like the reference. */
void machine_run_plan(const struct fixture *f, const struct plan *p, float *hidden, float *logits);
/* The same, which must give the reference bit for bit. */
void machine_check(const struct fixture *f, const struct plan *p);

#endif
