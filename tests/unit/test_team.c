/* A team gives the bits of one process: members with exchanges of their own, over real sockets on
 * loopback, each on a thread as its compute thread would be. Every number of members, cuts that are
 * as uneven as they can be, star and mesh, prompts in two groups of rows and batches of single rows,
 * the vocabulary split. And a member that goes away or talks nonsense is named, in time. */
#include "tests/unit/net_lab.h"
#include "tests/unit/tiny_model.h"
#include "worker/team.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MEMBERS_MAX = 7, SLOTS = 3, CONTEXT = 64, ROWS = 40, LOGITS = 4, SILENT_MS = 10000 };

static const char *const names[MEMBERS_MAX] = {"w0", "w1", "w2", "w3", "w4", "w5", "w6"};
static struct worker_exchange *exchanges[MEMBERS_MAX];
static char keys[256];
static uint64_t epochs, draws = 7;

static uint32_t draw(uint32_t below)
{
    draws = base_mix64(draws + 0x9e3779b97f4a7c15u);
    return (uint32_t)(draws % below);
}

static void exchange_open(int i)
{
    struct err e = {0};
    if (worker_exchange_new(keys, names[i], "tcp://127.0.0.1:1", &exchanges[i], &e) != 0)
        fail_msg("%s", e.text);
    for (int k = 0; k < MEMBERS_MAX; k++)
        worker_exchange_allow(exchanges[i], names[k]);
}

/* ---- a model and what it must give ----------------------------------------------------------- */

struct batch {
    uint32_t n;
    struct model_row rows[ROWS];
    float *hidden, *logits; /* expected: [n, n_embd]; [LOGITS, n_vocab] of the first rows */
};

enum { BATCHES = 4 };
struct fixture {
    struct model *model;
    const struct model_shape *shape;
    struct tiny_store store;
    struct batch batches[BATCHES];
};

static struct model_exec_config config(void)
{
    return (struct model_exec_config){.n_slots = SLOTS,
                                      .context = CONTEXT,
                                      .max_rows = ROWS,
                                      .kv = KERN_KV_F16,
                                      .n_threads = 1,
                                      .kernels = kern_table_select(NULL)};
}

/* A long prompt in slot 0, one short enough for one group in slot 1, then rows of both. */
static void draw_batches(struct fixture *f)
{
    static const uint32_t first[BATCHES] = {ROWS, 5, 2, 2};
    uint32_t at[2] = {0, 0};
    for (int b = 0; b < BATCHES; b++) {
        struct batch *x = &f->batches[b];
        x->n = first[b];
        for (uint32_t i = 0; i < x->n; i++) {
            const uint32_t slot = b < 2 ? (uint32_t)b : i;
            x->rows[i] = (struct model_row){slot, at[slot]++, (int32_t)draw(f->shape->n_vocab), true};
        }
        x->hidden = base_zalloc((size_t)x->n * f->shape->n_embd, sizeof(float));
        x->logits = base_zalloc((size_t)LOGITS * f->shape->n_vocab, sizeof(float));
    }
}

static struct fixture fixture_make(struct tiny_model t)
{
    struct fixture f = {0};
    struct err e = {0};
    struct model_exec *x;
    const struct model_exec_config c = config();
    if (tiny_model_open(&t, &f.model, &e) != 0)
        fail_msg("%s", e.text);
    f.shape = model_shape(f.model);
    f.store = tiny_store_make(f.model);
    draw_batches(&f);
    const struct model_slice s = model_slice_layers(f.model, 0, f.shape->n_layers);
    assert_int_equal(model_exec_new(f.model, &s, &c, tiny_store_get, &f.store, &x, &e), 0);
    for (int b = 0; b < BATCHES; b++) {
        struct batch *y = &f.batches[b];
        uint32_t bad[ROWS] = {0};
        float *logits = base_zalloc((size_t)y->n * f.shape->n_vocab, sizeof(float));
        model_exec_run(x, y->rows, y->n, y->hidden, logits, bad);
        memcpy(y->logits, logits,
               (y->n < LOGITS ? y->n : LOGITS) * (size_t)f.shape->n_vocab * sizeof(float));
        base_free(logits);
    }
    model_exec_free(x);
    return f;
}

static void fixture_free(struct fixture *f)
{
    for (int b = 0; b < BATCHES; b++) {
        base_free(f->batches[b].hidden);
        base_free(f->batches[b].logits);
    }
    tiny_store_free(&f->store);
    model_close(f->model);
}

/* ---- a team ---------------------------------------------------------------------------------- */

struct member {
    struct worker_team_work work;
    struct worker_exchange *exchange;
    struct model_exec *exec;
    struct base_arena *arena;
    float *hidden, *logits;
    pthread_t thread;
    struct worker_served served;
    struct worker_lost lost;
    bool linked, running;
};

struct team {
    struct fixture *f;
    struct worker_team t;
    struct member members[MEMBERS_MAX];
};

/* Borders of n parts of a whole, drawn; some parts are empty. */
static void draw_borders(uint32_t *b, uint32_t n, uint32_t whole)
{
    b[0] = 0;
    b[n] = whole;
    for (uint32_t i = 1; i < n; i++)
        b[i] = draw(whole + 1);
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 1 && b[k] < b[k - 1]; k--) {
            const uint32_t x = b[k];
            b[k] = b[k - 1];
            b[k - 1] = x;
        }
}

static void member_open(struct team *m, uint32_t i)
{
    struct member *k = &m->members[i];
    const struct model_exec_config c = config();
    struct worker_team t = m->t;
    struct err e = {0};
    t.me = i;
    const struct model_slice s = model_slice_part(
        0, m->f->shape->n_layers, t.heads[i], t.heads[i + 1], t.columns[i], t.columns[i + 1],
        t.runs[i], t.runs[i + 1], i == 0, i == 0);
    k->exchange = exchanges[i];
    k->arena = base_arena_new(worker_team_bytes(m->f->model, &t, &c));
    worker_team_init(&k->work, m->f->model, &t, &s, &c, k->arena);
    if (model_exec_new(m->f->model, &s, &c, tiny_store_get, &m->f->store, &k->exec, &e) != 0)
        fail_msg("%s", e.text);
    k->hidden = base_zalloc((size_t)ROWS * m->f->shape->n_embd, sizeof(float));
    k->logits = base_zalloc((size_t)ROWS * m->f->shape->n_vocab, sizeof(float));
    k->work.exec = k->exec;
    k->work.hidden = k->hidden;
    k->work.logits = k->logits;
    k->work.exchange = k->exchange;
    worker_exchange_force(k->exchange, t.epoch);
    worker_exchange_want(k->exchange, &t);
}

static bool link_up(struct member *k)
{
    const int64_t until_ms = base_clock_ms() + SILENT_MS;
    while (!worker_exchange_ready(k->exchange, k->work.team.epoch) && base_clock_ms() < until_ms)
        worker_exchange_pump(k->exchange, 20);
    return worker_exchange_ready(k->exchange, k->work.team.epoch);
}

static void *member_run(void *arg)
{
    struct member *k = arg;
    kern_fp_init();
    k->linked = link_up(k);
    if (k->linked)
        worker_team_serve(&k->work, &k->served, &k->lost);
    return NULL;
}

static bool idle_leader; /* even borders leave the leader out */

static void even_borders(uint32_t *b, uint32_t n, uint32_t whole)
{
    const uint32_t out = idle_leader ? 1 : 0;
    for (uint32_t i = 0; i <= n; i++)
        b[i] = i < out ? 0 : whole * (i - out) / (n - out);
}

static void team_open(struct team *m, struct fixture *f, uint32_t n, bool mesh,
                      enum model_wire wire, bool even)
{
    void (*const borders)(uint32_t *, uint32_t, uint32_t) = even ? even_borders : draw_borders;
    *m = (struct team){.f = f};
    m->t = (struct worker_team){
        .epoch = ++epochs, .n = n, .mesh = mesh, .wire = wire, .silent_ms = SILENT_MS};
    borders(m->t.heads, n, f->shape->n_head_units);
    borders(m->t.columns, n, f->shape->n_ff_units);
    borders(m->t.runs, n, f->shape->n_vocab_runs);
    for (uint32_t i = 0; i < n; i++) {
        snprintf(m->t.names[i], NET_NAME_MAX, "%s", names[i]);
        snprintf(m->t.endpoints[i], NET_ENDPOINT_MAX, "tcp://127.0.0.1:%u",
                 worker_exchange_port(exchanges[i]));
    }
    for (uint32_t i = 0; i < n; i++)
        member_open(m, i);
    for (uint32_t i = 1; i < n; i++) {
        struct member *k = &m->members[i];
        assert_int_equal(pthread_create(&k->thread, NULL, member_run, k), 0);
        k->running = true;
    }
    assert_true(n < 2 || link_up(&m->members[0]));
}

static void member_end(struct member *k)
{
    if (!k->running)
        return;
    worker_exchange_force(k->exchange, 0);
    pthread_join(k->thread, NULL);
    k->running = false;
}

static void team_close(struct team *m)
{
    for (uint32_t i = 1; i < m->t.n; i++)
        member_end(&m->members[i]);
    for (uint32_t i = 0; i < m->t.n; i++) {
        model_exec_free(m->members[i].exec);
        base_arena_free(m->members[i].arena);
        base_free(m->members[i].hidden);
        base_free(m->members[i].logits);
    }
}

/* One batch through the team; false: somebody was lost. */
static bool run_batch(struct team *m, const struct batch *b, uint32_t *bad)
{
    struct member *k = &m->members[0];
    model_exec_embed(k->exec, b->rows, b->n, k->hidden, bad);
    return worker_team_lead(&k->work, b->rows, b->n, k->hidden, bad, &k->lost);
}

/* Whoever noticed first knows best. */
static void fail_lost(struct team *m)
{
    for (uint32_t i = 0; i < m->t.n; i++)
        if (m->members[i].lost.name[0] != 0)
            print_message("%s lost %s: %s\n", names[i], m->members[i].lost.name,
                          m->members[i].lost.reason);
    fail_msg("a team of %u, %s, lost a member", m->t.n, m->t.mesh ? "mesh" : "star");
}

static void expect_batches(struct team *m)
{
    const size_t width = m->f->shape->n_embd, vocab = m->f->shape->n_vocab;
    struct member *k = &m->members[0];
    for (int b = 0; b < BATCHES; b++) {
        const struct batch *x = &m->f->batches[b];
        const uint32_t n = x->n < LOGITS ? x->n : LOGITS;
        uint32_t bad[ROWS] = {0};
        if (!run_batch(m, x, bad))
            fail_lost(m);
        assert_memory_equal(k->hidden, x->hidden, x->n * width * sizeof(float));
        if (!worker_team_logits(&k->work, n, k->hidden, k->logits, bad, &k->lost))
            fail_lost(m);
        assert_memory_equal(k->logits, x->logits, n * vocab * sizeof(float));
        for (uint32_t i = 0; i < x->n; i++)
            assert_int_equal(bad[i], 0);
    }
}

/* ---- tests ----------------------------------------------------------------------------------- */

static struct tiny_model shape(uint32_t heads, uint32_t kv_heads, enum kern_type type)
{
    struct tiny_model t = tiny_model_default(type);
    t.n_heads = heads;
    t.n_kv_heads = kv_heads;
    t.head_dim = 32;
    t.context = CONTEXT;
    if (type == KERN_Q4_K) {
        t.n_embd = 256;
        t.n_ff = 512;
        /* As a Q4_K_M file does where rows are not whole super-blocks. */
        if (heads * t.head_dim % 256 != 0)
            t.type[TINY_ATTN_OUT] = KERN_Q5_0;
        t.type[TINY_V] = t.type[TINY_DOWN] = KERN_Q6_K;
    }
    return t;
}

static void every_team_gives_the_same_bits(void **state)
{
    static const struct {
        uint32_t heads, kv;
    } shapes[] = {{32, 4}, {9, 3}, {15, 5}, {8, 4}, {14, 2}, {4, 1}};
    static const enum kern_type types[] = {KERN_Q8_0, KERN_Q4_K};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
            struct fixture f = fixture_make(shape(shapes[i].heads, shapes[i].kv, types[k]));
            for (uint32_t n = 2; n <= MEMBERS_MAX; n++)
                for (int mesh = 0; mesh < 2; mesh++) {
                    struct team m;
                    team_open(&m, &f, n, mesh != 0, MODEL_WIRE_EXACT, false);
                    expect_batches(&m);
                    team_close(&m);
                }
            fixture_free(&f);
        }
}

/* A leader that only leads: of a mesh nobody would ever have to wait for it. */
static void a_leader_may_hold_nothing(void **state)
{
    struct fixture f = fixture_make(shape(8, 4, KERN_Q8_0));
    (void)state;
    idle_leader = true;
    for (int round = 0; round < 6; round++) {
        struct team m;
        team_open(&m, &f, 4, round % 2 == 0, MODEL_WIRE_EXACT, true);
        expect_batches(&m);
        team_close(&m);
    }
    idle_leader = false;
    fixture_free(&f);
}

/* Rounded on the wire: the bits are others, the numbers near, and of a mesh all members agree, which
 * shows in that nobody drifts. */
static void rounding_forms_stay_near(void **state)
{
    struct fixture f = fixture_make(shape(8, 4, KERN_Q8_0));
    const size_t width = f.shape->n_embd;
    (void)state;
    for (int wire = MODEL_WIRE_F16; wire < MODEL_N_WIRES; wire++)
        for (int mesh = 0; mesh < 2; mesh++) {
            struct team m;
            double error = 0, size = 0;
            uint32_t bad[ROWS] = {0};
            team_open(&m, &f, 3, mesh != 0, (enum model_wire)wire, true);
            assert_true(run_batch(&m, &f.batches[0], bad));
            for (size_t i = 0; i < f.batches[0].n * width; i++) {
                const double a = (double)m.members[0].hidden[i], b = (double)f.batches[0].hidden[i];
                error += (a - b) * (a - b);
                size += b * b;
            }
            assert_true(error > 0 && error < size * (wire == MODEL_WIRE_F16 ? 1e-3 : 3e-2));
            team_close(&m);
        }
    fixture_free(&f);
}

/* A member whose process goes away in the middle of the work. */
static void a_member_that_goes_is_named(void **state)
{
    struct fixture f = fixture_make(shape(8, 4, KERN_Q8_0));
    (void)state;
    for (int mesh = 0; mesh < 2; mesh++) {
        struct team m;
        uint32_t bad[ROWS] = {0};
        team_open(&m, &f, 3, mesh != 0, MODEL_WIRE_EXACT, true);
        assert_true(run_batch(&m, &f.batches[1], bad));
        member_end(&m.members[2]);
        worker_exchange_free(exchanges[2]);
        const int64_t t = base_clock_ms();
        assert_false(run_batch(&m, &f.batches[2], bad));
        assert_string_equal(m.members[0].lost.name, "w2");
        assert_true(base_clock_ms() - t < SILENT_MS / 2);
        team_close(&m);
        exchange_open(2);
    }
    fixture_free(&f);
}

static int group_begin(void **state)
{
    struct err e = {0};
    (void)state;
    if (net_init(&e) != 0)
        return -1;
    lab_keys_make(keys, "w0 w1 w2 w3 w4 w5 w6");
    for (int i = 0; i < MEMBERS_MAX; i++)
        exchange_open(i);
    return 0;
}

static int group_end(void **state)
{
    (void)state;
    for (int i = 0; i < MEMBERS_MAX; i++)
        worker_exchange_free(exchanges[i]);
    lab_keys_remove(keys);
    return 0;
}

/* Again and again: which end is ready first is up to the machine. */
static void messages_to_itself_are_timed(void **state)
{
    struct err e = {0};
    (void)state;
    for (int i = 0; i < 6; i++) {
        double seconds = 0;
        if (worker_exchange_time(keys, "w0", 4096, &seconds, &e) != 0)
            fail_msg("%s", e.text);
        assert_true(seconds > 0 && seconds < 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_team_gives_the_same_bits),
        cmocka_unit_test(a_leader_may_hold_nothing),
        cmocka_unit_test(rounding_forms_stay_near),
        cmocka_unit_test(a_member_that_goes_is_named),
        cmocka_unit_test(messages_to_itself_are_timed),
    };
    return cmocka_run_group_tests(tests, group_begin, group_end);
}
