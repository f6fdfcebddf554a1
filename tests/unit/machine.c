/* One model, run in any way: as stages by layers, each a team of parts that hold some head units and
 * feed-forward units, in batches of any rows; and half-way moved to another way. */
#include "tests/unit/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct plan machine_whole(const struct fixture *f)
{
    struct plan p = {.n_stages = 1,
                     .n_parts = 1,
                     .border = {0, f->shape->n_layers},
                     .ff_border = {0, f->shape->n_ff_units},
                     .n_threads = 1,
                     .kernels = kern_table_select("generic"),
                     .kv = KERN_KV_F16,
                     .batch = 1};
    assert_non_null(p.kernels);
    return p;
}

/* ---- running a plan -------------------------------------------------------------------------- */

static void add_stage(struct machine *m, uint32_t layer0, uint32_t layer1, bool embed, bool output)
{
    const struct plan *p = m->p;
    unsigned n_parts = layer0 == layer1 ? 1 : p->n_parts;
    for (unsigned k = 0; k < n_parts; k++) {
        struct model_slice s = {.layer0 = layer0,
                                .layer1 = layer1,
                                .unit0 = p->ff_border[k],
                                .unit1 = p->ff_border[k + 1],
                                .run1 = output && k == 0 ? m->f->shape->n_vocab_runs : 0,
                                .embed = embed && k == 0,
                                .output = output && k == 0};
        struct model_exec_config c = {.n_slots = SLOTS,
                                      .context = CONTEXT,
                                      .max_rows = p->batch,
                                      .kv = p->kv,
                                      .n_threads = p->n_threads,
                                      .kernels = p->kernels};
        struct err e = {0};
        for (uint32_t u = 0; u < m->f->shape->n_head_units; u++) {
            if (p->part_of_unit[u] == k)
                s.head_units[u / 64] |= (uint64_t)1 << (u % 64);
        }
        struct tiny_store *store = (struct tiny_store *)(uintptr_t)&m->f->store;
        int rc = model_exec_new(m->f->model, &s, &c, tiny_store_get, store,
                                &m->exec[m->n_stages][k], &e);
        if (rc != 0)
            fail_msg("%s", e.text);
        m->slice[m->n_stages][k] = s;
    }
    m->n_stages++;
}

struct machine machine_make(const struct fixture *f, const struct plan *p)
{
    struct machine m = {.f = f, .p = p};
    if (p->split_ends)
        add_stage(&m, 0, 0, true, false);
    for (unsigned i = 0; i < p->n_stages; i++)
        add_stage(&m, p->border[i], p->border[i + 1], i == 0 && !p->split_ends,
                  i + 1 == p->n_stages && !p->split_ends);
    if (p->split_ends)
        add_stage(&m, f->shape->n_layers, f->shape->n_layers, false, true);
    return m;
}

void machine_free(struct machine *m)
{
    for (unsigned i = 0; i < m->n_stages; i++) {
        for (unsigned k = 0; k < PARTS_MAX; k++)
            model_exec_free(m->exec[i][k]);
    }
}

/* Each part adds to a sum of its own; the leader, part 0, adds those up and closes. */
static void team_layer(const struct machine *m, unsigned stage, uint32_t layer,
                       const struct model_row *rows, uint32_t n, float *hidden, uint32_t *bad)
{
    size_t n_sum = (size_t)n * m->f->shape->n_embd;
    int64_t *total = malloc(n_sum * sizeof *total), *share = malloc(n_sum * sizeof *share);
    uint8_t *normed = malloc((size_t)n * m->f->shape->n_embd * sizeof(float));
    assert_true(total != NULL && share != NULL && normed != NULL);
    for (unsigned half = 0; half < 2; half++) {
        if (m->p->star)
            model_exec_norm(m->exec[stage][0], half == 0 ? MODEL_NORM_ATTENTION : MODEL_NORM_FFN,
                            layer, n, hidden, normed, bad);
        memset(total, 0, n_sum * sizeof *total);
        for (unsigned k = 0; k < m->p->n_parts; k++) {
            memset(share, 0, n_sum * sizeof *share);
            if (m->p->star && half == 0)
                model_exec_attention_normed(m->exec[stage][k], layer, rows, n, normed, share, bad);
            else if (m->p->star)
                model_exec_ffn_normed(m->exec[stage][k], layer, n, normed, share, bad);
            else if (half == 0)
                model_exec_attention(m->exec[stage][k], layer, rows, n, hidden, share, bad);
            else
                model_exec_ffn(m->exec[stage][k], layer, n, hidden, share, bad);
            for (size_t i = 0; i < n_sum; i++)
                total[i] += share[i];
        }
        if (half == 0)
            model_exec_attention_close(m->exec[stage][0], layer, n, total, hidden, bad);
        else
            model_exec_ffn_close(m->exec[stage][0], layer, n, total, hidden, bad);
    }
    free(normed);
    free(total);
    free(share);
}

void machine_run(const struct machine *m, const struct model_row *rows, uint32_t n,
                        float *hidden, float *logits, uint32_t *bad)
{
    for (unsigned i = 0; i < m->n_stages; i++) {
        const struct model_slice *s = &m->slice[i][0];
        struct model_exec *x = m->exec[i][0];
        if (m->p->n_parts == 1 && !m->p->steps) {
            model_exec_run(x, rows, n, hidden, logits, bad);
            continue;
        }
        memset(bad, 0, n * sizeof *bad);
        if (s->embed)
            model_exec_embed(x, rows, n, hidden, bad);
        for (uint32_t layer = s->layer0; layer < s->layer1; layer++)
            team_layer(m, i, layer, rows, n, hidden, bad);
        if (s->output)
            model_exec_logits(x, rows, n, hidden, logits, bad);
    }
}

/* The next batch of a plan; next[slot] is the first position not yet taken. */
static uint32_t next_batch(const struct fixture *f, const struct plan *p, uint64_t *rng,
                           uint32_t next[SLOTS], struct model_row *rows)
{
    uint32_t n = 0, limit = p->batch;
    if (p->mix != 0)
        limit = 1 + (uint32_t)(base_rng_next(rng) % p->batch);
    while (n < limit) {
        uint32_t slot = p->mix != 0 ? (uint32_t)(base_rng_next(rng) % SLOTS) : 0, tries = 0;
        while (tries < SLOTS && next[slot] == f->length[slot]) {
            slot = (slot + 1) % SLOTS;
            tries++;
        }
        if (tries == SLOTS)
            break;
        if (p->mix == 0 && n > 0 && rows[n - 1].slot != slot)
            break; /* a chunk ends with its slot's text */
        rows[n++] = (struct model_row){slot, next[slot], f->tokens[slot][next[slot]], true};
        next[slot]++;
    }
    return n;
}

/* The executor that has a KV head of a layer; NULL: none. */
static struct model_exec *holder(const struct machine *m, struct model_kv_rows r)
{
    r.first = 0;
    r.rows = 1;
    for (unsigned i = 0; i < m->n_stages; i++)
        for (unsigned k = 0; k < PARTS_MAX; k++)
            if (m->exec[i][k] != NULL && model_kv_bytes(m->exec[i][k], &r) > 0)
                return m->exec[i][k];
    return NULL;
}

/* Rows as they come back from a copy of the two halves of all layers and heads that they are in. */
static void through_a_copy(const struct machine *m, const struct model_kv_rows *r, uint8_t *rows)
{
    const struct model_shape *s = m->f->shape;
    const struct model_exec_config c = {.n_slots = SLOTS, .context = CONTEXT, .kv = m->p->kv};
    const uint32_t layer = r->layer < s->n_layers / 2 ? 0 : s->n_layers / 2;
    struct model_kv_copy *k = NULL;
    struct model_kv_rows beyond = *r;
    assert_int_equal(model_kv_copy_new(m->f->model, &c, layer, s->n_layers, 0, r->head1, &k, NULL), 0);
    beyond.head1++;
    assert_int_equal(model_kv_copy_bytes(k, &beyond), 0);
    const size_t bytes = model_kv_copy_bytes(k, r);
    model_kv_copy_write(k, r, rows);
    memset(rows, 0x5a, bytes);
    model_kv_copy_read(k, r, rows);
    model_kv_copy_free(k);
}

/* Every KV row that the new machine needs comes from whoever of the old one has it, in two pieces, of
 * which one is kept in a copy on the way. */
static void move_rows(const struct machine *from, const struct machine *to,
                      const uint32_t next[SLOTS])
{
    const struct model_shape *s = from->f->shape;
    uint8_t *rows = malloc((size_t)CONTEXT * 8 * s->head_dim);
    assert_non_null(rows);
    for (unsigned i = 0; i < to->n_stages * PARTS_MAX; i++) {
        struct model_exec *x = to->exec[i / PARTS_MAX][i % PARTS_MAX];
        struct model_kv_rows r = {0};
        for (; x != NULL && r.layer < s->n_layers; r.layer++)
            for (r.head0 = 0, r.head1 = 1; r.head1 <= s->n_kv_heads; r.head0++, r.head1++)
                for (r.slot = 0; r.slot < SLOTS; r.slot++)
                    for (unsigned half = 0; half < 2; half++) {
                        r.first = half == 0 ? 0 : next[r.slot] / 2;
                        r.rows = half == 0 ? next[r.slot] / 2 : next[r.slot] - r.first;
                        if (model_kv_bytes(x, &r) == 0)
                            continue;
                        struct model_exec *donor = holder(from, r);
                        assert_non_null(donor);
                        assert_int_equal(model_kv_bytes(donor, &r), model_kv_bytes(x, &r));
                        model_kv_read(donor, &r, rows);
                        if (half == 1)
                            through_a_copy(from, &r, rows);
                        model_kv_write(x, &r, rows);
                    }
    }
    free(rows);
}

/* Run a plan over all texts into hidden and logits, laid out like the reference. */
void machine_run_plan(const struct fixture *f, const struct plan *p, float *hidden, float *logits)
{
    const struct model_shape *s = f->shape;
    struct machine m = machine_make(f, p);
    struct model_row *rows = calloc(p->batch, sizeof *rows);
    uint32_t *bad = calloc(p->batch, sizeof *bad), next[SLOTS] = {0}, n;
    float *h = calloc((size_t)p->batch * s->n_embd, sizeof *h),
          *l = calloc((size_t)p->batch * s->n_vocab, sizeof *l);
    uint64_t rng = p->mix;
    assert_true(rows != NULL && bad != NULL && h != NULL && l != NULL);
    while ((n = next_batch(f, p, &rng, next, rows)) > 0) {
        if (p->then != NULL && m.p == p && next[0] > f->length[0] / 2) {
            uint32_t done[SLOTS];
            for (uint32_t i = 0; i < SLOTS; i++)
                done[i] = next[i];
            for (uint32_t t = 0; t < n; t++)
                done[rows[t].slot]--;
            struct machine old = m;
            m = machine_make(f, p->then);
            move_rows(&old, &m, done);
            machine_free(&old);
        }
        machine_run(&m, rows, n, h, l, bad);
        for (uint32_t t = 0; t < n; t++) {
            size_t at = (size_t)rows[t].slot * CONTEXT + rows[t].position;
            assert_int_equal(bad[t], 0);
            memcpy(hidden + at * s->n_embd, h + (size_t)t * s->n_embd, s->n_embd * sizeof *h);
            memcpy(logits + at * s->n_vocab, l + (size_t)t * s->n_vocab, s->n_vocab * sizeof *l);
        }
    }
    free(l);
    free(h);
    free(bad);
    free(rows);
    machine_free(&m);
}

struct fixture fixture_make(const struct tiny_model *c, uint32_t length)
{
    struct fixture f = {0};
    struct err e = {0};
    if (tiny_model_open(c, &f.model, &e) != 0)
        fail_msg("%s", e.text);
    f.shape = model_shape(f.model);
    f.store = tiny_store_make(f.model);
    uint64_t rng = c->seed + 77;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        f.length[slot] = length - slot * (length / 4);
        for (uint32_t i = 0; i < f.length[slot]; i++)
            f.tokens[slot][i] = (int32_t)(base_rng_next(&rng) % c->n_vocab);
    }
    f.hidden = calloc((size_t)SLOTS * CONTEXT * c->n_embd, sizeof *f.hidden);
    f.logits = calloc((size_t)SLOTS * CONTEXT * c->n_vocab, sizeof *f.logits);
    assert_true(f.hidden != NULL && f.logits != NULL);
    struct plan p = machine_whole(&f);
    machine_run_plan(&f, &p, f.hidden, f.logits);
    return f;
}

void fixture_free(struct fixture *f)
{
    free(f->hidden);
    free(f->logits);
    tiny_store_free(&f->store);
    model_close(f->model);
}

/* Where two runs part, as a text for the failure. */
static void compare(const struct fixture *f, const char *what, const float *a, const float *b,
                    uint32_t width)
{
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        for (uint32_t i = 0; i < f->length[slot]; i++) {
            size_t at = ((size_t)slot * CONTEXT + i) * width;
            for (uint32_t k = 0; k < width; k++) {
                if (memcmp(&a[at + k], &b[at + k], sizeof *a) != 0)
                    fail_msg("%s: slot %u position %u value %u: %.9g instead of %.9g", what, slot,
                             i, k, (double)a[at + k], (double)b[at + k]);
            }
        }
    }
}

void machine_check(const struct fixture *f, const struct plan *p)
{
    float *hidden = calloc((size_t)SLOTS * CONTEXT * f->shape->n_embd, sizeof *hidden);
    float *logits = calloc((size_t)SLOTS * CONTEXT * f->shape->n_vocab, sizeof *logits);
    assert_true(hidden != NULL && logits != NULL);
    machine_run_plan(f, p, hidden, logits);
    compare(f, "hidden", hidden, f->hidden, f->shape->n_embd);
    compare(f, "logits", logits, f->logits, f->shape->n_vocab);
    free(hidden);
    free(logits);
}
