/* Teams: a stage whose members share heads, columns and output runs gives the bits of the whole
 * model, as star and as mesh, with all that members tell each other passing through bytes of its
 * exact length. Teams have 1 to 7 members, fewer and more than KV heads; cuts are even, uneven, and
 * such that members have heads only or columns only; head counts are such that no power of two
 * divides them; types are those that K-quants fall back to, and K-quants with 2 and 4 heads to a
 * block.
 *
 * A member is what a worker is: an executor, its own residual stream (mesh) or none (star), and its
 * own knowledge of which rows are bad. */
#include "tests/unit/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MEMBERS_MAX = 7, STAGES = 2, ROWS = 14, SLOTS = 2, CONTEXT = 16, GROUPS = 2 };

static void *room(size_t n)
{
    void *p = calloc(n > 0 ? n : 1, 1);
    assert_non_null(p);
    return p;
}

static uint32_t below(uint64_t *rng, uint32_t n)
{
    return (uint32_t)(base_rng_next(rng) % n);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static const uint32_t heads_of[][2] = {{32, 4}, {9, 3}, {15, 5}, {8, 4}, {14, 2}, {4, 1}};
enum { N_HEADS = sizeof heads_of / sizeof heads_of[0], N_SHAPES = 2 * N_HEADS + 3 };

/* Q4_K_M where 256 divides nothing but, sometimes, the columns. */
static void fall_back(struct tiny_model *c)
{
    bool down = c->n_ff % 256 == 0;
    tiny_model_set_types(c, KERN_Q5_0);
    c->type[TINY_V] = c->type[TINY_OUTPUT] = KERN_Q8_0;
    c->type[TINY_DOWN] = down ? KERN_Q6_K : KERN_Q8_0;
}

static struct tiny_model shape(unsigned i)
{
    struct tiny_model c = tiny_model_default(i < 2 * N_HEADS ? KERN_Q8_0 : KERN_Q4_K);
    c.seed = 40 + i;
    c.n_layers = 2;
    c.n_vocab = 310; /* ends inside a group */
    if (i < 2 * N_HEADS) {
        c.n_heads = heads_of[i / 2][0];
        c.n_kv_heads = heads_of[i / 2][1];
        c.n_ff = i % 4 < 2 ? 480 : 512;
        if (i % 2 == 1)
            fall_back(&c);
        return c;
    }
    c.type[TINY_V] = c.type[TINY_DOWN] = c.type[TINY_OUTPUT] = KERN_Q6_K;
    c.n_ff = 1024;
    if (i == 2 * N_HEADS) { /* four heads to a block, two blocks */
        c.n_heads = 8;
        c.n_kv_heads = 4;
        c.n_vocab = 1300;              /* several runs */
    } else if (i == 2 * N_HEADS + 1) { /* two heads to a block */
        c.head_dim = 128;
        c.n_kv_heads = 1;
    } else { /* and units of two heads of 80 that lie across blocks; norms of heads and outputs */
        tiny_model_set_arch(&c, "gemma3");
        c.head_dim = 80;
        c.n_heads = 16;
        c.n_kv_heads = 8;
    }
    return c;
}

/* ---- a model and what it answers whole ------------------------------------------------------- */

struct fixture {
    struct model *m;
    const struct model_shape *s;
    struct tiny_store store;
    struct model_row rows[ROWS]; /* in batches */
    float *hidden, *logits;      /* [ROWS, n_embd], [ROWS, n_vocab] */
    uint32_t bad[ROWS];
};

/* A chunk of each of two prompts, the rest of one beside a decode row, two decode rows, one. */
static const uint32_t batches[] = {8, 3, 2, 1};
enum { N_BATCHES = sizeof batches / sizeof batches[0] };
static const uint8_t slot_of[ROWS] = {0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0};

static struct model_exec *executor(struct fixture *f, const struct model_slice *s,
                                   unsigned n_threads, const struct kern_table *kernels)
{
    const struct model_exec_config c = {.n_slots = SLOTS,
                                        .context = CONTEXT,
                                        .max_rows = ROWS,
                                        .kv = KERN_KV_F16,
                                        .n_threads = n_threads,
                                        .kernels = kernels};
    struct model_exec *x = NULL;
    struct err e = {0};
    if (model_exec_new(f->m, s, &c, tiny_store_get, &f->store, &x, &e) != 0)
        fail_msg("%s", e.text);
    return x;
}

static struct fixture fixture_make(const struct tiny_model *c)
{
    struct fixture f = {0};
    struct err e = {0};
    uint64_t rng = c->seed;
    uint32_t next[SLOTS] = {0};
    if (tiny_model_open(c, &f.m, &e) != 0)
        fail_msg("%s", e.text);
    f.s = model_shape(f.m);
    f.store = tiny_store_make(f.m);
    f.hidden = room(ROWS * f.s->n_embd * sizeof(float));
    f.logits = room(ROWS * f.s->n_vocab * sizeof(float));
    for (uint32_t t = 0; t < ROWS; t++)
        f.rows[t] = (struct model_row){slot_of[t], next[slot_of[t]]++,
                                       (int32_t)below(&rng, f.s->n_vocab), true};
    return f;
}

static void answer(struct fixture *f)
{
    const struct model_slice whole = model_slice_layers(f->m, 0, f->s->n_layers);
    struct model_exec *x = executor(f, &whole, 1, kern_table_select(NULL));
    for (uint32_t i = 0, at = 0; i < N_BATCHES; at += batches[i++])
        model_exec_run(x, f->rows + at, batches[i], f->hidden + (size_t)at * f->s->n_embd,
                       f->logits + (size_t)at * f->s->n_vocab, f->bad + at);
    model_exec_free(x);
}

static void fixture_free(struct fixture *f)
{
    free(f->hidden);
    free(f->logits);
    tiny_store_free(&f->store);
    model_close(f->m);
}

/* ---- a plan ---------------------------------------------------------------------------------- */

enum cut { CUT_EVEN, CUT_UNEVEN, CUT_APART, N_CUTS };

/* Borders of n shares of `all`. */
static void share_out(uint64_t *rng, enum cut cut, uint32_t all, unsigned n,
                      uint32_t border[MEMBERS_MAX + 1])
{
    border[0] = 0;
    for (unsigned k = 1; k < n; k++) {
        border[k] = all * k / n;
        if (cut != CUT_EVEN)
            border[k] = border[k - 1] + below(rng, all - border[k - 1] + 1);
    }
    border[n] = all;
}

struct member {
    struct model_exec *x;
    struct model_slice s;
    bool heads, columns;
    float *hidden; /* [ROWS, n_embd]; the leader's, and every member's of a mesh */
    uint32_t bad[ROWS];
};

struct stage {
    unsigned n;
    struct member members[MEMBERS_MAX];
};

struct team {
    struct fixture *f;
    bool mesh, output_first;
    unsigned n_stages;
    struct stage stages[STAGES];
    uint64_t rng;
};

static void stage_make(struct team *t, struct stage *g, unsigned n, enum cut cut, uint32_t layer0,
                       uint32_t layer1, bool embed, bool output)
{
    const struct model_shape *s = t->f->s;
    uint32_t heads[MEMBERS_MAX + 1], units[MEMBERS_MAX + 1], runs[MEMBERS_MAX + 1];
    share_out(&t->rng, cut, s->n_head_units, n, heads);
    share_out(&t->rng, cut, s->n_ff_units, n, units);
    share_out(&t->rng, cut, output ? s->n_vocab_runs : 0, n, runs);
    /* The leader has all heads and the last all columns. */
    for (unsigned k = 1; k < n && cut == CUT_APART; k++) {
        heads[k] = s->n_head_units;
        units[k] = 0;
    }
    g->n = n;
    for (unsigned k = 0; k < n; k++) {
        struct member *m = &g->members[k];
        m->s = model_slice_part(layer0, layer1, heads[k], heads[k + 1], units[k], units[k + 1],
                                runs[k], runs[k + 1], embed && k == 0, output && k == 0);
        m->heads = heads[k] < heads[k + 1];
        m->columns = units[k] < units[k + 1];
        m->x = executor(t->f, &m->s, 1 + k % 2, kern_table_select(NULL));
        m->hidden = room(ROWS * s->n_embd * sizeof(float));
    }
}

static struct team team_make(struct fixture *f, unsigned n, enum cut cut, bool mesh, uint64_t seed)
{
    struct team t = {.f = f, .mesh = mesh, .rng = seed, .n_stages = 1 + (unsigned)(seed % 2)};
    uint32_t layer = f->s->n_layers / t.n_stages;
    t.output_first = t.n_stages == 2 && seed % 4 < 2;
    stage_make(&t, &t.stages[0], n, cut, 0, layer, true, t.n_stages == 1 || t.output_first);
    if (t.n_stages == 2)
        stage_make(&t, &t.stages[1], 1 + (n + 2) % MEMBERS_MAX, cut, layer, f->s->n_layers, false,
                   !t.output_first);
    return t;
}

static void team_free(struct team *t)
{
    for (unsigned i = 0; i < t->n_stages; i++) {
        for (unsigned k = 0; k < t->stages[i].n; k++) {
            model_exec_free(t->stages[i].members[k].x);
            free(t->stages[i].members[k].hidden);
        }
    }
}

/* ---- a pass ---------------------------------------------------------------------------------- */

/* One half of a layer for rows [at, at + n) of the batch. */
struct half {
    enum model_norm norm;
    uint32_t layer, at, n;
    const struct model_row *rows;
};

/* A member's share, into zeros: from `normed` or, where that is NULL, its own hidden rows. */
static void compute(const struct team *t, struct member *m, const struct half *h,
                    const uint8_t *normed, int64_t *sum)
{
    const float *hidden = m->hidden + (size_t)h->at * t->f->s->n_embd;
    uint32_t *bad = m->bad + h->at;
    memset(sum, 0, (size_t)h->n * t->f->s->n_embd * sizeof *sum);
    if (h->norm == MODEL_NORM_ATTENTION && normed != NULL)
        model_exec_attention_normed(m->x, h->layer, h->rows, h->n, normed, sum, bad);
    else if (h->norm == MODEL_NORM_ATTENTION)
        model_exec_attention(m->x, h->layer, h->rows, h->n, hidden, sum, bad);
    else if (normed != NULL)
        model_exec_ffn_normed(m->x, h->layer, h->n, normed, sum, bad);
    else
        model_exec_ffn(m->x, h->layer, h->n, hidden, sum, bad);
}

static void close_half(const struct team *t, struct member *m, const struct half *h,
                       const int64_t *sum)
{
    float *hidden = m->hidden + (size_t)h->at * t->f->s->n_embd;
    if (h->norm == MODEL_NORM_ATTENTION)
        model_exec_attention_close(m->x, h->layer, h->n, sum, hidden, m->bad + h->at);
    else
        model_exec_ffn_close(m->x, h->layer, h->n, sum, hidden, m->bad + h->at);
}

static bool takes_part(const struct member *m, const struct half *h)
{
    return h->norm == MODEL_NORM_ATTENTION ? m->heads : m->columns;
}

/* All members' shares of a half as messages; messages[k].ptr is NULL where k has no part. */
static void shares(struct team *t, struct stage *g, const struct half *h,
                   int64_t *sums[MEMBERS_MAX], struct span messages[MEMBERS_MAX])
{
    uint32_t n_embd = t->f->s->n_embd;
    size_t row_bytes = model_normed_bytes(t->f->m, h->norm, h->layer);
    uint8_t *normed = room(h->n * row_bytes),
            *out = room(model_sums_bytes_max(h->n, n_embd, MODEL_WIRE_EXACT));
    struct member *leader = &g->members[0];
    if (!t->mesh)
        model_exec_norm(leader->x, h->norm, h->layer, h->n, leader->hidden + (size_t)h->at * n_embd,
                        normed, leader->bad + h->at);
    for (unsigned k = 0; k < g->n; k++) {
        struct member *m = &g->members[k];
        messages[k] = (struct span){NULL, 0};
        sums[k] = room((size_t)h->n * n_embd * sizeof *sums[k]);
        compute(t, m, h, t->mesh ? NULL : normed, sums[k]);
        if (!takes_part(m, h))
            continue;
        size_t len =
            model_sums_encode(sums[k], h->n, n_embd, MODEL_WIRE_EXACT, m->bad + h->at, out);
        messages[k].ptr = memcpy(room(len), out, len);
        messages[k].len = len;
    }
    free(out);
    free(normed);
}

/* Member k adds the others' shares to its own, beginning anywhere, and closes. */
static void collect(struct team *t, struct stage *g, const struct half *h, unsigned k, int64_t *sum,
                    const struct span messages[MEMBERS_MAX])
{
    struct member *m = &g->members[k];
    unsigned first = below(&t->rng, g->n);
    for (unsigned i = 0; i < g->n; i++) {
        unsigned from = (first + i) % g->n;
        if (from != k && messages[from].ptr != NULL)
            assert_true(model_sums_add(messages[from], h->n, t->f->s->n_embd, MODEL_WIRE_EXACT,
                                       1 + h->layer, sum, m->bad + h->at));
    }
    close_half(t, m, h, sum);
}

static void run_half(struct team *t, struct stage *g, const struct half *h)
{
    int64_t *sums[MEMBERS_MAX];
    struct span messages[MEMBERS_MAX];
    shares(t, g, h, sums, messages);
    for (unsigned k = 0; k < (t->mesh ? g->n : 1); k++)
        collect(t, g, h, k, sums[k], messages);
    for (unsigned k = 0; k < g->n; k++) {
        free(sums[k]);
        free((void *)(uintptr_t)messages[k].ptr);
    }
}

/* The layers of a stage for a batch that its leader has; rows in two groups, as large as chance
 * will, that go through a half one after the other. */
static void run_stage(struct team *t, struct stage *g, const struct model_row *rows, uint32_t n)
{
    size_t bytes = (size_t)n * t->f->s->n_embd * sizeof(float);
    uint32_t border[GROUPS + 1] = {0, below(&t->rng, n + 1), n};
    for (unsigned k = 1; k < g->n && t->mesh; k++) {
        memcpy(g->members[k].hidden, g->members[0].hidden, bytes);
        memcpy(g->members[k].bad, g->members[0].bad, sizeof g->members[k].bad);
    }
    for (uint32_t layer = g->members[0].s.layer0; layer < g->members[0].s.layer1; layer++) {
        for (unsigned half = 0; half < 2; half++) {
            for (unsigned i = 0; i < GROUPS; i++) {
                const struct half h = {.norm = half == 0 ? MODEL_NORM_ATTENTION : MODEL_NORM_FFN,
                                       .layer = layer,
                                       .at = border[i],
                                       .n = border[i + 1] - border[i],
                                       .rows = rows + border[i]};
                run_half(t, g, &h);
            }
        }
    }
}

/* Logits of the leader's rows: everybody's columns, and no column of anybody else's. */
static void run_output(struct team *t, struct stage *g, uint32_t n, float *logits)
{
    const struct model_shape *s = t->f->s;
    struct member *leader = &g->members[0];
    uint8_t *normed = room(n * model_normed_bytes(t->f->m, MODEL_NORM_OUTPUT, 0));
    float *mine = room((size_t)n * s->n_vocab * sizeof *mine);
    model_exec_norm(leader->x, MODEL_NORM_OUTPUT, s->n_layers, n, leader->hidden, normed,
                    leader->bad);
    for (unsigned k = 0; k < g->n; k++) {
        struct member *m = &g->members[k];
        uint32_t col0 = m->s.run0 * s->vocab_run, col1 = m->s.run1 * s->vocab_run;
        if (m->s.run0 == m->s.run1)
            continue;
        memset(mine, 0xff, (size_t)n * s->n_vocab * sizeof *mine);
        model_exec_logits_normed(m->x, n, normed, mine, m->bad);
        for (size_t i = 0; i < (size_t)n * s->n_vocab; i++) {
            uint32_t bits;
            memcpy(&bits, &mine[i], sizeof bits);
            if (i % s->n_vocab >= col0 && i % s->n_vocab < col1)
                logits[i] = mine[i];
            else
                assert_true(bits == 0xffffffff);
        }
        for (uint32_t r = 0; r < n; r++) {
            if (leader->bad[r] == 0)
                leader->bad[r] = m->bad[r];
        }
    }
    free(mine);
    free(normed);
}

/* A batch through the whole ring; hidden and logits are the first leader's to keep. */
static void run_batch(struct team *t, const struct model_row *rows, uint32_t n, float *logits)
{
    struct stage *first = &t->stages[0], *last = &t->stages[t->n_stages - 1];
    size_t bytes = (size_t)n * t->f->s->n_embd * sizeof(float);
    for (unsigned i = 0; i < t->n_stages; i++) {
        for (unsigned k = 0; k < t->stages[i].n; k++)
            memset(t->stages[i].members[k].bad, 0, sizeof t->stages[i].members[k].bad);
    }
    model_exec_embed(first->members[0].x, rows, n, first->members[0].hidden, first->members[0].bad);
    run_stage(t, first, rows, n);
    if (t->n_stages == 2) {
        memcpy(last->members[0].hidden, first->members[0].hidden, bytes);
        memcpy(last->members[0].bad, first->members[0].bad, sizeof last->members[0].bad);
        run_stage(t, last, rows, n);
    }
    if (t->output_first) {
        memcpy(first->members[0].hidden, last->members[0].hidden, bytes);
        memcpy(first->members[0].bad, last->members[0].bad, sizeof first->members[0].bad);
    }
    run_output(t, t->output_first ? first : last, n, logits);
}

/* Everything a team computes against the whole model's answer. */
static void check_team(struct team *t, const char *what)
{
    const struct fixture *f = t->f;
    const uint32_t n_embd = f->s->n_embd, n_vocab = f->s->n_vocab;
    float *logits = room((size_t)ROWS * n_vocab * sizeof *logits);
    for (uint32_t i = 0, at = 0; i < N_BATCHES; at += batches[i++]) {
        struct stage *last = &t->stages[t->n_stages - 1],
                     *ends = t->output_first ? &t->stages[0] : last;
        run_batch(t, f->rows + at, batches[i], logits);
        for (uint32_t r = 0; r < batches[i]; r++) {
            if (ends->members[0].bad[r] != f->bad[at + r])
                fail_msg("%s: row %u is bad with %u instead of %u", what, at + r,
                         ends->members[0].bad[r], f->bad[at + r]);
            if (f->bad[at + r] != 0)
                continue;
            for (unsigned k = 0; k < (t->mesh ? last->n : 1); k++)
                if (memcmp(last->members[k].hidden + (size_t)r * n_embd,
                           f->hidden + (size_t)(at + r) * n_embd, n_embd * sizeof(float)) != 0)
                    fail_msg("%s: row %u of member %u differs", what, at + r, k);
            if (memcmp(logits + (size_t)r * n_vocab, f->logits + (size_t)(at + r) * n_vocab,
                       n_vocab * sizeof(float)) != 0)
                fail_msg("%s: logits of row %u differ", what, at + r);
        }
    }
    free(logits);
}

static void check_teams(struct fixture *f, const char *name)
{
    for (unsigned n = 1; n <= MEMBERS_MAX; n++) {
        for (unsigned i = 0; i < N_CUTS * 2; i++) {
            char what[96];
            bool mesh = i % 2 != 0;
            struct team t = team_make(f, n, (enum cut)(i / 2), mesh, 1 + n * 3 + i / 2);
            snprintf(what, sizeof what, "%s, %u members, cut %u, %s", name, n, i / 2,
                     mesh ? "mesh" : "star");
            check_team(&t, what);
            team_free(&t);
        }
    }
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_matrix(void **state)
{
    (void)state;
    for (unsigned i = 0; i < N_SHAPES; i++) {
        struct tiny_model c = shape(i);
        struct fixture f = fixture_make(&c);
        char name[64];
        snprintf(name, sizeof name, "shape %u (%u/%u heads)", i, c.n_heads, c.n_kv_heads);
        answer(&f);
        for (uint32_t t = 0; t < ROWS; t++)
            assert_int_equal(f.bad[t], 0);
        check_teams(&f, name);
        fixture_free(&f);
    }
}

/* Column 0 of the residual stream is zero for every token but one; a weight that reads it is
 * enormous, so that this token's row goes out of range, with one member only, and all must know. */
enum { POISON = 7, POISON_ROW = 6 };
struct poison {
    const char *arch, *tensor;
    enum kern_type type;
    uint32_t at; /* which value of the tensor, in column 0 */
    float value;
    uint32_t mark;
};

static void poison_patch(void *arg, const char *name, float *values, uint64_t n)
{
    const struct poison *p = arg;
    const uint32_t width = 64, heads = 9 * 32, columns = 480;
    if (strcmp(name, "token_embd.weight") == 0) {
        for (uint64_t i = 0; i < n; i += width)
            values[i] = i == POISON * width ? 8.0f : 0.0f;
    }
    if (strstr(name, "attn_output.weight") != NULL)
        memset(values, 0, heads * sizeof *values);
    if (strstr(name, "ffn_down.weight") != NULL)
        memset(values, 0, columns * sizeof *values);
    if (strcmp(name, p->tensor) == 0)
        values[p->at] = p->value;
}

static void test_bad_rows(void **state)
{
    (void)state;
    struct poison list[] = {
        {"llama", "token_embd.weight", KERN_F32, POISON * 64, __builtin_inff(), 1},
        {"llama", "blk.0.attn_norm.weight", KERN_Q8_0, 0, 3e38f, 1}, /* the quantiser, as NaN */
        {"llama", "blk.1.attn_norm.weight", KERN_F32, 0, 3e38f, 2},
        {"llama", "blk.0.attn_q.weight", KERN_F32, 5 * 32 * 64, 3e38f,
         1},                                                     /* a head of some member */
        {"llama", "blk.1.attn_v.weight", KERN_F32, 64, 1e5f, 2}, /* no F16: with whoever has it */
        {"llama", "blk.0.ffn_up.weight", KERN_F32, 300 * 64, 1e12f, 1}, /* beyond fixed point */
        {"llama", "blk.1.ffn_norm.weight", KERN_Q8_0, 0, 3e38f, 2},
        {"llama", "output_norm.weight", KERN_Q8_0, 0, 3e38f, 3},
        {"llama", "output.weight", KERN_F32, 4900 * 64, 3e38f, 3},     /* a later run's */
        {"qwen3", "blk.1.attn_q.weight", KERN_F32, 32 * 64, 1e30f, 2}, /* a head's norm */
        {"gemma3", "blk.0.post_attention_norm.weight", KERN_F32, 3, __builtin_nanf(""), 1},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct tiny_model c = tiny_model_default(list[i].type);
        tiny_model_set_arch(&c, list[i].arch);
        c.n_heads = 9;
        c.n_kv_heads = 3;
        c.n_ff = 480;
        if (strcmp(list[i].tensor, "output.weight") == 0)
            c.n_vocab = 5000;
        c.patch = poison_patch;
        c.arg = &list[i];
        struct fixture f = fixture_make(&c);
        for (uint32_t t = 0; t < ROWS; t++)
            f.rows[t].token += f.rows[t].token == POISON;
        f.rows[POISON_ROW].token = POISON;
        answer(&f);
        assert_int_equal(f.bad[POISON_ROW], list[i].mark);
        /* Rows of the same text that follow read its KV rows, which are the same too. */
        check_teams(&f, list[i].tensor);
        fixture_free(&f);
    }
}

/* Rows from a stranger, on every kernel set: anything may come of them but a crash or a touch of the
 * row beside them. */
static void hostile_rows(struct fixture *f, const struct kern_table *kernels, uint64_t *rng)
{
    const struct model_shape *s = f->s;
    const struct model_slice whole = model_slice_layers(f->m, 0, s->n_layers);
    struct model_exec *x = executor(f, &whole, 2, kernels);
    size_t bytes[3], most = (size_t)s->n_embd * sizeof(float);
    uint8_t *good = room(most), *normed = room(3 * most);
    int64_t *sum = room(3 * s->n_embd * sizeof *sum), *want = room(s->n_embd * sizeof *want);
    float *hidden = room(most), *logits = room(3 * (size_t)s->n_vocab * sizeof *logits);
    const struct model_row rows[] = {{0, 0, 0, true}, {1, 0, 0, true}, {0, 1, 0, true}};
    for (unsigned norm = 0; norm < 3; norm++)
        bytes[norm] = model_normed_bytes(f->m, (enum model_norm)norm, 0);
    for (unsigned trial = 0; trial < 60; trial++) {
        enum model_norm norm = (enum model_norm)(trial % 3);
        uint32_t layer = norm == MODEL_NORM_OUTPUT ? s->n_layers : 0;
        for (uint32_t i = 0; i < s->n_embd; i++)
            hidden[i] = (float)below(rng, 2001) / 1000 - 1;
        uint32_t bad[3] = {0};
        model_exec_norm(x, norm, layer, 1, hidden, good, bad);
        for (size_t i = 0; i < 3 * bytes[norm]; i++)
            normed[i] = trial < 6 ? 0x80 : trial < 12 ? 0x7f : (uint8_t)base_rng_next(rng);
        /* Mostly finite scales, so that they come through. */
        for (size_t i = trial % 2 * s->n_embd; i + 4 <= 3 * bytes[norm] && trial >= 20; i += 4)
            normed[i + 3] &= (uint8_t)(trial % 7 == 0 ? 0xff : 0xbe);
        memcpy(normed + bytes[norm], good, bytes[norm]);
        memset(sum, 0, 3 * s->n_embd * sizeof *sum);
        memset(want, 0, s->n_embd * sizeof *want);
        if (norm == MODEL_NORM_ATTENTION) {
            model_exec_attention_normed(x, 0, &rows[1], 1, good, want, bad + 1);
            model_exec_attention_normed(x, 0, rows, 3, normed, sum, bad);
        } else if (norm == MODEL_NORM_FFN) {
            model_exec_ffn_normed(x, 0, 1, good, want, bad + 1);
            model_exec_ffn_normed(x, 0, 3, normed, sum, bad);
        } else {
            model_exec_logits_normed(x, 3, normed, logits, bad);
        }
        assert_int_equal(bad[1], 0);
        assert_memory_equal(sum + s->n_embd, want, s->n_embd * sizeof *want);
    }
    free(logits);
    free(hidden);
    free(want);
    free(sum);
    free(normed);
    free(good);
    model_exec_free(x);
}

static void test_hostile_rows(void **state)
{
    (void)state;
    uint64_t rng = 3;
    for (unsigned type = 0; type < KERN_N_TYPES; type++) {
        struct tiny_model c = tiny_model_default((enum kern_type)type);
        if (kern_type_info((enum kern_type)type)->integer && type % 2 == 0)
            c.type[TINY_V] = c.type[TINY_UP] = KERN_F16; /* both forms from F32 */
        struct fixture f = fixture_make(&c);
        for (unsigned k = 0; kern_table_at(k) != NULL; k++) {
            if (kern_table_runs(kern_table_at(k)))
                hostile_rows(&f, kern_table_at(k), &rng);
        }
        fixture_free(&f);
    }
}

/* What a normed row takes: 36 bytes for 32 columns where its readers are of integer types. */
static void test_normed_bytes(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    c.type[TINY_UP] = KERN_F16;
    struct fixture f = fixture_make(&c);
    assert_int_equal(model_normed_bytes(f.m, MODEL_NORM_ATTENTION, 1), 72);
    assert_int_equal(model_normed_bytes(f.m, MODEL_NORM_FFN, 1), 256);
    assert_int_equal(model_normed_bytes(f.m, MODEL_NORM_OUTPUT, 2), 72);
    fixture_free(&f);
    c.tied = true;
    c.type[TINY_EMBED] = KERN_F32;
    f = fixture_make(&c);
    assert_int_equal(model_normed_bytes(f.m, MODEL_NORM_OUTPUT, 2), 256);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_bad_rows),
        cmocka_unit_test(test_hostile_rows),
        cmocka_unit_test(test_normed_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
