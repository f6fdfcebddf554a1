/* One text: a row's bits do not depend on the cut, the batch, the chunking of the prompt, the
 * number of threads or the kernels. The reference is the whole model on the scalar kernels, one
 * thread, one row at a time; everything else here must equal it bit for bit, hidden states and
 * logits, by memcmp.
 *
 * A way to run a model is a `plan`: stages by layers, each stage a team of parts that hold some
 * head units and feed-forward units and whose int64 sums are added; and a rule that cuts the
 * rows of several slots into batches. */
#include "tests/unit/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- kinds of models ------------------------------------------------------------------------- */

/* Architectures that reach the rest: norms of heads and outputs, windows, many query heads to a KV
 * head. */
static struct tiny_model arch_kind(struct tiny_model c, unsigned i)
{
    switch (i) {
    case 0: /* seven query heads to a KV head */
        tiny_model_set_arch(&c, "qwen2");
        c.n_heads = 7;
        c.n_kv_heads = 1;
        break;
    case 1:
        tiny_model_set_arch(&c, "qwen3");
        break;
    case 2:
        tiny_model_set_arch(&c, "gemma3");
        c.n_kv_heads = 1;
        break;
    case 3: /* windows in a K-quant file, heads of several to a unit */
        c = tiny_model_default(KERN_Q5_K);
        tiny_model_set_arch(&c, "gemma3");
        c.type[TINY_ATTN_OUT] = KERN_Q6_K;
        c.head_dim = 16;
        c.n_heads = 16;
        c.n_kv_heads = 4;
        c.n_layers = 2;
        break;
    case 4: /* nine heads, three to a KV head */
        c.n_heads = 9;
        c.n_kv_heads = 3;
        break;
    default:
        break;
    }
    return c;
}

/* Shapes and types that between them reach every path: each type, mixed ones, several heads a
 * unit, one KV head, widths that end inside a group, a vocabulary that does, biases, factors, tied
 * output, cuts inside a super-block. */
static struct tiny_model kind(unsigned i)
{
    struct tiny_model c = tiny_model_default(i < KERN_N_TYPES ? (enum kern_type)i : KERN_Q8_0);
    c.n_layers = c.n_embd > 64 ? 2 : 3;
    c.seed = 100 + i;
    switch (i) {
    case KERN_N_TYPES: /* mixed types in every layer */
        for (unsigned k = 0; k < TINY_N_MATRICES; k++)
            c.type[k] = (enum kern_type)(k % KERN_N_TYPES);
        c.type[TINY_ATTN_OUT] = KERN_F16;
        c.type[TINY_V] = KERN_F16;
        break;
    case KERN_N_TYPES + 1: /* two heads of 80 to a unit; 80 rows are five groups */
        c.head_dim = 80;
        c.n_kv_heads = 4;
        c.biases = true;
        break;
    case KERN_N_TYPES + 2: /* eight heads of 20 to a unit, KV rows end inside a group */
        c.head_dim = 20;
        c.n_heads = 16;
        c.n_kv_heads = 1;
        c.tied = true;
        c.rope_factors = true;
        break;
    case KERN_N_TYPES + 3: /* widths that no block divides */
        tiny_model_set_types(&c, KERN_F32);
        c.n_embd = 52;
        c.n_ff = 101;
        c.n_vocab = 303;
        c.head_dim = 16;
        c.n_heads = 8;
        c.n_kv_heads = 4;
        break;
    case KERN_N_TYPES + 4: /* many runs of a vocabulary that ends inside a group */
        c.n_embd = 256;
        c.n_vocab = 2500;
        c.n_layers = 1;
        c.tied = true;
        break;
    case KERN_N_TYPES + 5: /* heads of 96 and super-blocks of 256 end at different columns */
        c = tiny_model_default(KERN_Q4_K);
        c.type[TINY_V] = c.type[TINY_DOWN] = c.type[TINY_OUTPUT] = KERN_Q6_K;
        c.head_dim = 96;
        c.n_heads = 8;
        c.n_layers = 2;
        break;
    case KERN_N_TYPES + 6: /* so do units of two heads of 80 */
        c = tiny_model_default(KERN_Q6_K);
        c.type[TINY_Q] = c.type[TINY_GATE] = KERN_Q5_K;
        c.head_dim = 80;
        c.n_heads = 16;
        c.n_layers = 1;
        break;
    default:
        break;
    }
    return i < KERN_N_TYPES + 7 ? c : arch_kind(c, i - KERN_N_TYPES - 7);
}
enum { N_KINDS = KERN_N_TYPES + 12 };

static const struct kern_table *best(void)
{
    return kern_table_select(NULL);
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* Every kernel set with one number of threads, the best with each of 1 to 4. */
static void test_kernels_threads_and_batches(void **state)
{
    (void)state;
    for (unsigned i = 0; i < N_KINDS; i++) {
        struct tiny_model c = kind(i);
        struct fixture f = fixture_make(&c, 20);
        struct plan p = machine_whole(&f);
        for (unsigned t = 0; kern_table_at(t) != NULL; t++) {
            p.kernels = kern_table_at(t);
            if (!kern_table_runs(p.kernels))
                continue;
            bool all = p.kernels == best();
            p.n_threads = all ? 1 : 1 + (i + t) % 4;
            for (uint32_t last = all ? 4 : p.n_threads; p.n_threads <= last; p.n_threads++) {
                p.batch = 4 * p.n_threads;
                p.mix = 1 + p.n_threads;
                machine_check(&f, &p);
            }
        }
        p.kernels = best();
        p.n_threads = 2;
        p.batch = 1;
        p.mix = 0;
        machine_check(&f, &p);
        fixture_free(&f);
    }
}

static void test_batches_of_1_to_16_rows(void **state)
{
    (void)state;
    struct tiny_model c = kind(KERN_Q8_0);
    struct fixture f = fixture_make(&c, 30);
    struct plan p = machine_whole(&f);
    p.kernels = best();
    for (p.batch = 1; p.batch <= 16; p.batch++) {
        for (p.mix = 1; p.mix <= 4; p.mix++)
            machine_check(&f, &p);
    }
    fixture_free(&f);
}

/* Chunks around the sizes of tiles (64 rows) and attention chunks (128 positions) among them. */
static void test_prompt_chunks(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {2,  3,   5,   7,   16,  31,  63,  64,
                                      65, 100, 127, 128, 129, 149, 150, 512};
    struct tiny_model c = kind(KERN_Q8_0);
    struct fixture f = fixture_make(&c, CONTEXT);
    struct plan p = machine_whole(&f);
    p.kernels = best();
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        p.batch = chunks[i];
        p.n_threads = 1 + (unsigned)i % 3;
        p.mix = 0;
        machine_check(&f, &p);
        p.mix = 9;
        machine_check(&f, &p);
    }
    p.steps = true; /* a step takes more rows than a tile too */
    p.mix = 0;
    machine_check(&f, &p);
    fixture_free(&f);
}

static void test_cuts_by_layers(void **state)
{
    (void)state;
    for (unsigned i = 0; i < N_KINDS; i++) {
        struct tiny_model c = kind(i);
        c.n_layers = i == KERN_Q8_0 ? 5 : 3;
        struct fixture f = fixture_make(&c, 10);
        struct plan p = machine_whole(&f);
        p.kernels = best();
        p.batch = 8;
        p.mix = 5;
        p.n_stages = 2;
        p.border[2] = c.n_layers;
        for (p.border[1] = 1; p.border[1] < c.n_layers; p.border[1]++)
            machine_check(&f, &p);
        p.n_stages = 3;
        p.border[3] = c.n_layers;
        for (p.border[1] = 1; p.border[1] < c.n_layers; p.border[1]++) {
            for (p.border[2] = p.border[1] + 1; p.border[2] < c.n_layers; p.border[2]++)
                machine_check(&f, &p);
        }
        p.n_stages = 1;
        p.border[1] = c.n_layers;
        p.split_ends = true;
        machine_check(&f, &p);
        fixture_free(&f);
    }
}

/* Every set of head units against its complement, empty ones too, with the FFN border moving along;
 * of models with many units or large ones, some sets. */
static void test_cuts_by_heads_and_columns(void **state)
{
    (void)state;
    for (unsigned i = 0; i < N_KINDS; i++) {
        struct tiny_model c = kind(i);
        struct fixture f = fixture_make(&c, 8);
        struct plan p = machine_whole(&f);
        uint32_t n_units = f.shape->n_head_units, n_ff = f.shape->n_ff_units;
        p.kernels = best();
        p.batch = 6;
        p.mix = 3;
        p.steps = true;
        for (unsigned star = 0; star < 2; star++) {
            p.star = star != 0;
            machine_check(&f, &p);
        }
        p.n_parts = 2;
        p.ff_border[2] = n_ff;
        bool small = n_units <= 4 && c.n_embd <= 64;
        uint32_t n_sets = small ? 1u << n_units : 6;
        uint64_t rng = i;
        for (uint32_t set = 0; set < n_sets; set++) {
            uint32_t mine = small ? set : (uint32_t)base_rng_next(&rng);
            for (uint32_t u = 0; u < n_units; u++)
                p.part_of_unit[u] = mine >> u & 1;
            p.ff_border[1] = set % (n_ff + 1);
            p.n_threads = 1 + set % 2;
            p.star = set % 3 == 0;
            machine_check(&f, &p);
        }
        p.n_parts = 3;
        p.ff_border[3] = n_ff;
        for (unsigned trial = 0; trial < (small ? 12 : 6); trial++) {
            for (uint32_t u = 0; u < n_units; u++)
                p.part_of_unit[u] = (uint8_t)(base_rng_next(&rng) % 3);
            p.ff_border[1] = (uint32_t)(base_rng_next(&rng) % (n_ff + 1));
            p.ff_border[2] =
                p.ff_border[1] + (uint32_t)(base_rng_next(&rng) % (n_ff - p.ff_border[1] + 1));
            p.n_stages = 1 + trial % 2;
            p.star = trial % 3 == 0;
            p.border[1] = p.n_stages == 2 ? c.n_layers / 2 : c.n_layers;
            p.border[2] = c.n_layers;
            machine_check(&f, &p);
        }
        fixture_free(&f);
    }
}

/* Half-way through the texts each layer's KV rows move to other cuts, kernels and threads. */
static void test_rows_move(void **state)
{
    (void)state;
    for (unsigned i = 0; i < N_KINDS; i++) {
        struct tiny_model c = kind(i);
        uint64_t rng = 900 + i;
        c.n_layers = 3;
        struct fixture f = fixture_make(&c, 12);
        struct plan both[2] = {machine_whole(&f), machine_whole(&f)};
        for (unsigned trial = 0; trial < 6; trial++) {
            for (unsigned k = 0; k < 2; k++) {
                struct plan *p = &both[k];
                p->kernels = (trial + k) % 3 == 0 ? kern_table_select("generic") : best();
                p->n_threads = 1 + (trial + k) % 2;
                p->batch = 6;
                p->mix = 1 + trial;
                p->steps = true;
                p->n_stages = 1 + (uint32_t)(base_rng_next(&rng) % 2);
                p->border[1] = p->n_stages == 1 ? 3 : 1 + (uint32_t)(base_rng_next(&rng) % 2);
                p->border[2] = 3;
                p->n_parts = 1 + (uint32_t)(base_rng_next(&rng) % 3);
                for (uint32_t u = 0; u < f.shape->n_head_units; u++)
                    p->part_of_unit[u] = (uint8_t)(base_rng_next(&rng) % p->n_parts);
                for (unsigned j = 1; j < p->n_parts; j++)
                    p->ff_border[j] = f.shape->n_ff_units * j / p->n_parts;
                p->ff_border[p->n_parts] = f.shape->n_ff_units;
            }
            both[0].then = &both[1];
            machine_check(&f, &both[0]);
        }
        fixture_free(&f);
    }
}

static void test_kv_types(void **state)
{
    (void)state;
    static const unsigned kinds[] = {KERN_F32, KERN_N_TYPES + 5, KERN_N_TYPES + 9};
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct tiny_model c = kind(kinds[i]);
        struct fixture f = fixture_make(&c, 20);
        struct plan p = machine_whole(&f);
        for (unsigned kv = 0; kv < KERN_N_KV_TYPES; kv++) {
            p = machine_whole(&f);
            p.kv = (enum kern_kv_type)kv;
            machine_run_plan(&f, &p, f.hidden, f.logits); /* the reference of this KV type */
            p.batch = 16;
            p.mix = 4;
            p.n_threads = 3;
            for (unsigned t = 0; kern_table_at(t) != NULL; t++) {
                p.kernels = kern_table_at(t);
                if (kern_table_runs(p.kernels))
                    machine_check(&f, &p);
            }
        }
        fixture_free(&f);
    }
}

/* ---- rows out of range ----------------------------------------------------------------------- */

/* Column 0 of the residual stream is zero for every token but the poison, because no layer writes
 * to it; one weight that reads it is enormous. */
enum { POISON = 7, POISON_ROWS = 6, POISON_AT = 3 };
struct poison {
    const char *arch, *tensor; /* whose [0, 0] becomes `value` */
    float value;
    uint32_t mark; /* what bad[] must say */
};

static void poison_patch(void *arg, const char *name, float *values, uint64_t n)
{
    const struct poison *p = arg;
    const uint64_t width = 64;
    if (strcmp(name, "token_embd.weight") == 0) {
        for (uint64_t i = 0; i < n; i += width)
            values[i] = i == POISON * width ? 8.0f : 0.0f;
    }
    if (strstr(name, "attn_output.weight") != NULL)
        memset(values, 0, 128 * sizeof *values);
    if (strstr(name, "ffn_down.weight") != NULL)
        memset(values, 0, 160 * sizeof *values);
    if (strcmp(name, p->tensor) == 0)
        values[strcmp(name, "token_embd.weight") == 0 ? POISON * width : 0] = p->value;
}

/* One row of slot 2, which must be good; its logits in `logits`. */
static void good_row(const struct machine *m, uint32_t position, int32_t token, float *logits)
{
    struct model_row row = {2, position, token, true};
    uint32_t bad;
    float hidden[64];
    machine_run(m, &row, 1, hidden, logits, &bad);
    assert_int_equal(bad, 0);
}

/* A batch of two good texts with the poison among them, at position 1 of slot 2. */
static void poisoned_batch(const struct machine *m, const struct poison *poison, float *logits)
{
    const struct fixture *f = m->f;
    const uint32_t n_embd = f->shape->n_embd, n_vocab = f->shape->n_vocab;
    struct model_row rows[POISON_ROWS];
    uint32_t bad[POISON_ROWS] = {9, 9, 9, 9, 9, 9}, next[2] = {0};
    float hidden[POISON_ROWS * 64];
    for (uint32_t t = 0; t < POISON_ROWS; t++) {
        uint32_t slot = t % 2, at = t == POISON_AT ? 1 : next[slot]++;
        rows[t] = (struct model_row){slot, at, f->tokens[slot][at], true};
    }
    rows[POISON_AT].slot = 2;
    rows[POISON_AT].token = POISON;
    machine_run(m, rows, POISON_ROWS, hidden, logits, bad);
    for (uint32_t t = 0; t < POISON_ROWS; t++) {
        const float *h = hidden + (size_t)t * n_embd, *l = logits + (size_t)t * n_vocab;
        size_t at = (size_t)rows[t].slot * CONTEXT + rows[t].position;
        assert_int_equal(bad[t], t == POISON_AT ? poison->mark : 0);
        if (t != POISON_AT) {
            assert_memory_equal(h, f->hidden + at * n_embd, n_embd * sizeof *h);
            assert_memory_equal(l, f->logits + at * n_vocab, n_vocab * sizeof *l);
            continue;
        }
        for (uint32_t i = 0; i < n_embd; i++)
            assert_true(h[i] == 0.0f);
        for (uint32_t i = 0; i < n_vocab; i++)
            assert_true(l[i] == 0.0f);
    }
}

static void check_poison(struct poison *poison, unsigned n_threads,
                         const struct kern_table *kernels)
{
    struct tiny_model c = tiny_model_default(KERN_F32);
    tiny_model_set_arch(&c, poison->arch);
    c.patch = poison_patch;
    c.arg = poison;
    struct fixture f = fixture_make(&c, 10);
    struct plan p = machine_whole(&f);
    p.batch = 8;
    p.n_threads = n_threads;
    p.kernels = kernels;
    size_t n_bytes = f.shape->n_vocab * sizeof(float);
    float *logits = malloc(POISON_ROWS * n_bytes), *fresh = malloc(n_bytes);
    assert_true(logits != NULL && fresh != NULL);
    struct machine m = machine_make(&f, &p);
    good_row(&m, 0, f.tokens[0][0], logits);
    poisoned_batch(&m, poison, logits);
    good_row(&m, 2, f.tokens[0][2], fresh);
    /* The slot that failed serves the next text as if nothing had been. */
    for (uint32_t i = 0; i < 4; i++) {
        good_row(&m, i, f.tokens[0][i], logits);
        assert_memory_equal(logits, f.logits + (size_t)i * f.shape->n_vocab, n_bytes);
    }
    /* A bad row leaves zeros in the cache, not what an earlier text had there. */
    poisoned_batch(&m, poison, logits);
    good_row(&m, 2, f.tokens[0][2], logits);
    assert_memory_equal(logits, fresh, n_bytes);
    free(fresh);
    free(logits);
    machine_free(&m);
    fixture_free(&f);
}

static void test_bad_rows_fail_alone(void **state)
{
    (void)state;
    struct poison list[] = {
        {"llama", "token_embd.weight", __builtin_inff(), 1}, /* the embedding itself */
        {"llama", "token_embd.weight", 1e30f, 1},     /* finite, but its square is not: the norm */
        {"llama", "blk.0.attn_q.weight", 3e38f, 1},   /* a query */
        {"llama", "blk.0.attn_k.weight", 3e38f, 1},   /* KV rows */
        {"llama", "blk.1.attn_v.weight", 1e5f, 2},    /* finite, but no F16 */
        {"llama", "blk.1.ffn_gate.weight", 3e38f, 2}, /* the FFN's sum */
        {"llama", "blk.0.ffn_up.weight", 1e12f, 1},   /* finite, but beyond the fixed point */
        {"llama", "output.weight", 3e38f, 3},         /* a logit */
        {"qwen3", "blk.1.attn_q.weight", 1e30f, 2},   /* finite, but a head's norm is not */
        {"qwen3", "blk.0.attn_k.weight", 1e30f, 1},
        {"gemma3", "token_embd.weight", 1e38f, 1},     /* finite, but not when scaled */
        {"gemma3", "blk.1.ffn_gate.weight", 3e38f, 2}, /* through GELU */
        {"gemma3", "blk.0.attn_v.weight", 1e5f, 1},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        for (unsigned t = 0; kern_table_at(t) != NULL; t++) {
            if (kern_table_runs(kern_table_at(t)))
                check_poison(&list[i], 1 + t, kern_table_at(t));
        }
    }
}

/* A first stage without layers catches a bad embedding itself. */
static void test_bad_embedding_alone(void **state)
{
    (void)state;
    struct poison poison = {"llama", "token_embd.weight", __builtin_inff(), 1};
    struct tiny_model c = tiny_model_default(KERN_F32);
    c.patch = poison_patch;
    c.arg = &poison;
    struct fixture f = fixture_make(&c, 4);
    struct plan p = machine_whole(&f);
    p.split_ends = true;
    struct machine m = machine_make(&f, &p);
    struct model_row row = {0, 0, POISON, false};
    uint32_t bad;
    float hidden[64];
    model_exec_run(m.exec[0][0], &row, 1, hidden, NULL, &bad);
    assert_int_equal(bad, 1);
    for (uint32_t i = 0; i < 64; i++)
        assert_true(hidden[i] == 0.0f);
    machine_free(&m);
    fixture_free(&f);
}

/* A token that the vocabulary does not have is a bad row, not a crash. */
static void test_impossible_token(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    struct fixture f = fixture_make(&c, 4);
    struct plan p = machine_whole(&f);
    p.batch = 3;
    struct machine m = machine_make(&f, &p);
    struct model_row rows[] = {
        {0, 0, f.tokens[0][0], true}, {1, 0, -1, true}, {2, 0, (int32_t)c.n_vocab, true}};
    uint32_t bad[3];
    float hidden[3 * 64], *logits = calloc((size_t)3 * c.n_vocab, sizeof *logits);
    assert_non_null(logits);
    machine_run(&m, rows, 3, hidden, logits, bad);
    assert_int_equal(bad[0], 0);
    assert_int_equal(bad[1], 1);
    assert_int_equal(bad[2], 1);
    assert_memory_equal(logits, f.logits, c.n_vocab * sizeof *logits);
    free(logits);
    machine_free(&m);
    fixture_free(&f);
}

/* Rows that want no logits get none, and the others' come in row order. */
static void test_wanted_logits_only(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q4_0);
    struct fixture f = fixture_make(&c, 100);
    struct plan p = machine_whole(&f);
    p.batch = 100;
    p.kernels = best();
    struct machine m = machine_make(&f, &p);
    struct model_row rows[100];
    uint32_t bad[100], n_wanted = 0;
    float *hidden = calloc((size_t)100 * c.n_embd, sizeof *hidden);
    float *logits = calloc((size_t)101 * c.n_vocab, sizeof *logits);
    assert_true(hidden != NULL && logits != NULL);
    for (uint32_t t = 0; t < 100; t++)
        rows[t] = (struct model_row){0, t, f.tokens[0][t], t % 3 != 1};
    machine_run(&m, rows, 100, hidden, logits, bad);
    for (uint32_t t = 0; t < 100; t++) {
        if (rows[t].want_logits)
            assert_memory_equal(logits + (size_t)n_wanted++ * c.n_vocab,
                                f.logits + (size_t)t * c.n_vocab, c.n_vocab * sizeof *logits);
    }
    for (uint32_t i = 0; i < c.n_vocab; i++)
        assert_true(logits[(size_t)n_wanted * c.n_vocab + i] == 0.0f);
    free(logits);
    free(hidden);
    machine_free(&m);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels_threads_and_batches),
        cmocka_unit_test(test_batches_of_1_to_16_rows),
        cmocka_unit_test(test_prompt_chunks),
        cmocka_unit_test(test_cuts_by_layers),
        cmocka_unit_test(test_cuts_by_heads_and_columns),
        cmocka_unit_test(test_rows_move),
        cmocka_unit_test(test_kv_types),
        cmocka_unit_test(test_bad_rows_fail_alone),
        cmocka_unit_test(test_bad_embedding_alone),
        cmocka_unit_test(test_impossible_token),
        cmocka_unit_test(test_wanted_logits_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
