/* Profiles: what is written is read again, short forms mean what the long ones do, mistakes are
 * named, and boards that are described by figures get the times that their roofline says. */
#include "coordinator/coordinator.h"
#include "tests/tools/make_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/test-profile-XXXXXX";
static struct coord_profile a, b; /* too large for a stack */
static struct coord_blocks blocks;

static const char *in_dir(const char *name)
{
    static char path[2][128];
    static unsigned turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static int setup(void **state)
{
    const struct make_model whole = {.shape = "llama", .type = "Q8_0", .seed = 2};
    struct net_config *c = base_zalloc(1, sizeof *c);
    struct model *m = NULL;
    struct err e = {0};
    (void)state;
    if (c == NULL || mkdtemp(dir) == NULL || make_model_write(&whole, in_dir("m.gguf"), &e) != 0 ||
        model_open(in_dir("m.gguf"), &m, &e) != 0)
        return 1;
    c->slots = 4;
    c->context = 64;
    coord_blocks_of(m, c, &blocks);
    model_close(m);
    base_free(c);
    return 0;
}

static int teardown(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(in_dir(name), "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void is_good(const char *text)
{
    struct err e = {0};
    put("p.ini", text);
    if (coord_profile_read(in_dir("p.ini"), &a, &e) != 0)
        fail_msg("%s", e.text);
}

static void is_bad(const char *text, const char *part)
{
    struct err e = {0};
    put("p.ini", text);
    assert_int_not_equal(coord_profile_read(in_dir("p.ini"), &a, &e), 0);
    if (strstr(e.text, part) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", part, e.text);
}

static void near(double x, double y)
{
    if (!(fabs(x - y) <= 1e-8 * fmax(fabs(x), fabs(y))))
        fail_msg("%.17g is not %.17g", x, y);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void draw_times(struct coord_node_profile *n, const char *name, uint32_t n_layers,
                       uint64_t *draw)
{
#define DRAW ((double)(base_rng_next(draw) >> 40) * 1e-9)
    snprintf(n->name, sizeof n->name, "%s", name);
    n->measured = true;
    n->memory_bytes = 1000000007;
    n->base_bytes = 12345;
    n->pass = DRAW;
    n->sample = DRAW;
    n->wake = DRAW;
    n->codec = DRAW;
    n->throttle = 0.25;
    for (uint32_t i = 0; i < COORD_BATCHES; i++) {
        struct coord_batch *t = &n->batches[i];
        n->rows[i] = 1 + 5 * i;
        for (uint32_t l = 0; l < n_layers; l++) {
            t->attention[l] = l % 6 == 0 ? DRAW : 0.001;
            t->ffn[l] = 0.002;
        }
        t->attention_fixed = DRAW;
        t->ffn_fixed = DRAW;
        t->embed = DRAW;
        t->output = DRAW;
    }
#undef DRAW
}

static void test_what_is_written_is_read(void **state)
{
    uint64_t draw = 3;
    struct err e = {0};
    (void)state;
    memset(&b, 0, sizeof b);
    b.n_layers = MODEL_LAYERS_MAX;
    b.n_nodes = 3;
    draw_times(&b.nodes[0], "alpha", b.n_layers, &draw);
    draw_times(&b.nodes[1], "not-measured", b.n_layers, &draw);
    b.nodes[1].measured = false;
    draw_times(&b.nodes[2], "gamma", b.n_layers, &draw);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++)
            b.rtt[i][k] = 1e-3, b.rate[i][k] = i == k ? NAN : 1e6 + 1000 * i + k;
    assert_int_equal(coord_profile_write(in_dir("w.ini"), &b, &e), 0);
    if (coord_profile_read(in_dir("w.ini"), &a, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(a.n_layers, b.n_layers);
    assert_int_equal(a.n_nodes, 2);
    for (int k = 0; k < 2; k++) {
        const struct coord_node_profile *x = &a.nodes[k], *y = &b.nodes[2 * k];
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->memory_bytes, y->memory_bytes);
        assert_int_equal(x->base_bytes, y->base_bytes);
        near(x->pass, y->pass);
        near(x->sample, y->sample);
        near(x->wake, y->wake);
        near(x->codec, y->codec);
        near(x->throttle, y->throttle);
        for (int i = 0; i < COORD_BATCHES; i++) {
            const struct coord_batch *s = &x->batches[i], *t = &y->batches[i];
            assert_int_equal(x->rows[i], y->rows[i]);
            for (uint32_t l = 0; l < b.n_layers; l++) {
                near(s->attention[l], t->attention[l]);
                near(s->ffn[l], t->ffn[l]);
            }
            near(s->attention_fixed, t->attention_fixed);
            near(s->ffn_fixed, t->ffn_fixed);
            near(s->embed, t->embed);
            near(s->output, t->output);
        }
    }
    near(a.rtt[0][1], 1e-3);
    near(a.rate[0][1], 1e6 + 2);
    near(a.rate[1][0], 1e6 + 2000);
}

#define TIMES                                                                                      \
    "[profile]\nlayers: 4\n[node x]\nmemory: 1 GiB\n[times x 1]\nattention: 0.001\nffn: 0.002\n"   \
    "output: 0.01\n"
#define MORE "[times x 3]\nattention: 0.0012*2 0.0014 0.0016\nffn: 0.002*4\noutput: 0.01\n"

static void test_short_forms(void **state)
{
    (void)state;
    is_good(TIMES MORE);
    near(a.nodes[0].batches[0].attention[3], 0.001);
    near(a.nodes[0].batches[1].attention[1], 0.0012);
    near(a.nodes[0].batches[1].attention[2], 0.0014);
    /* The third batch is on the line through the two: 64 rows are 1 + 31.5 steps of two. */
    assert_int_equal(a.nodes[0].rows[2], 64);
    near(a.nodes[0].batches[2].attention[0], 0.001 + 31.5 * 0.0002);
    near(a.nodes[0].batches[2].ffn[0], 0.002);
    near(a.nodes[0].throttle, 1);
    assert_true(isnan(a.rtt[0][0]));
}

static void test_mistakes_are_named(void **state)
{
    (void)state;
    is_bad("", "no [node NAME] section");
    is_bad("[node x]\nbandwidth: 1e9\nint8: 1e9\n", "[node x] has no memory");
    is_bad("[node x]\nmemory: 1 GiB\n", "[node x] needs bandwidth and int8, or [times x 1]");
    is_bad("[node x]\nmemory: 1 GiB\nbandwidth: 1e9\n", "needs bandwidth and int8");
    is_bad("[node x]\nmemory: 1 GiB\n[times x 1]\n", "must come first");
    is_bad(TIMES, "[times x ROWS]");
    is_bad(TIMES "[times x 1]\nattention: 0.001*5\n", "5 numbers for 4 layers");
    is_bad(TIMES "[times x 2]\nattention: 0.001*\n", "'0.001*' does not repeat seconds");
    is_bad(TIMES "[times x 2]\nattention: 0.001*513\n", "'0.001*513' does not repeat seconds");
    is_bad(TIMES "[times x 2]\nattention: 0.001 0.002\n", "2 numbers for 4 layers");
    is_bad(TIMES "[times x 2]\nattention: -1\n", "does not begin with seconds");
    is_bad(TIMES "[times x 2]\n[times x 3]\n[times x 4]\n", "at most 3 batches");
    is_bad(TIMES "[times y 2]\n", "a node described before");
    is_bad("[profile]\nlayers: 4\n[node x]\nmemory: 1 GiB\n[times x 2]\n", "times of 1 row");
    is_bad("[node x]\ncolour: red\n", "unknown key 'colour' in [node]");
    is_bad("[node x]\nthrottle: 2\n", "not a number from 0 to 1");
    is_bad("[board]\n", "unknown section [board]");
    is_bad("[node x]\nboard: nowhere.ini\n", "nowhere.ini");
    put("board.ini", "[board]\nmemory: 2 GiB\nboard: board.ini\n");
    is_bad("[node x]\nboard: board.ini\n", "unknown key 'board' in [board]");
    put("board.ini", "[node y]\nmemory: 2 GiB\n");
    is_bad("[node x]\nboard: board.ini\n", "unknown section [node]");
}

/* ---- figures --------------------------------------------------------------------------------- */

static void test_figures_give_times(void **state)
{
    (void)state;
    put("board.ini", "[board]\nmemory: 2 GiB\nbandwidth: 1e6\nint8: 1e12\nhalf: 0.5\n"
                     "rate: 5e6\nlatency: 0.002\n");
    is_good(
        "[node x]\nboard: board.ini\nmemory: 1 GiB\n[node y]\nboard: board.ini\nrate: 4e6\n"
        "latency: 0.001\nint8: 1e3\n[node z]\nboard: board.ini\n[link x z]\nrtt: 0.1\nrate: 7\n");
    assert_int_equal(a.nodes[0].memory_bytes, UINT64_C(1) << 30);
    assert_int_equal(a.nodes[1].memory_bytes, UINT64_C(2) << 30);
    coord_profile_complete(&a, &blocks);
    assert_int_equal(a.n_layers, blocks.n_layers);
    /* x reads: weights over bandwidth, whatever the rows. */
    const double ffn_bytes = (double)blocks.layers[0].ff_bytes * blocks.n_ff_units;
    near(a.nodes[0].batches[0].ffn[0], 0.5 + ffn_bytes / 1e6);
    near(a.nodes[0].batches[2].ffn[0], 0.5 + ffn_bytes / 1e6);
    near(a.nodes[0].batches[0].ffn_fixed, 0.5);
    /* y computes: operations over int8, row by row. */
    const double ops = 2.0 * 3 * blocks.n_embd * blocks.n_ff;
    near(a.nodes[1].batches[0].ffn[0], 0.5 + ops / 1e3);
    near(a.nodes[1].batches[2].ffn[0], 0.5 + 64 * ops / 1e3);
    assert_int_equal(a.nodes[0].rows[1], 4);
    assert_true(a.nodes[0].batches[0].attention[0] > 0.5 && a.nodes[0].sample > 0);
    near(a.rtt[0][1], 2 * (0.002 + 0.001));
    near(a.rtt[1][0], 2 * (0.002 + 0.001));
    near(a.rate[0][1], 4e6);
    /* What the file says of a link stands. */
    near(a.rtt[2][0], 0.1);
    near(a.rate[0][2], 7);
    near(a.rate[2][0], 5e6);
}

/* Each algorithm of the configuration is the planner's of the same place. */
static void test_algorithms(void **state)
{
    static const char *const names[] = {
        "program", "even",         "memory",  "edgeshard", "edgeshard-throughput",
        "heads",   "lingualinked", "hyperion"};
    (void)state;
    for (int k = 0; k < PART_ALGORITHMS; k++)
        assert_int_equal(part_algorithm_find(names[k]), k);
}

/* The sample profiles are good ones. */
static void test_shipped_profiles(void **state)
{
    const char *root = getenv("SHOAL_SRCDIR");
    char path[512];
    struct err e = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/configs/profiles/uneven6.ini", root != NULL ? root : ".");
    if (coord_profile_read(path, &a, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(a.n_nodes, 6);
    coord_profile_complete(&a, &blocks);
    for (uint32_t i = 0; i < a.n_nodes; i++)
        for (uint32_t k = 0; k < a.n_nodes; k++)
            assert_true(i == k || (a.rtt[i][k] > 0 && a.rate[i][k] > 0));
}

/* A board's times, taken as measured with one type, go over to another as the figures would have it:
 * reading the weights is all that takes its time here. */
static void test_another_type(void **state)
{
    static struct coord_blocks small;
    const char *text = "[node x]\n memory: 1 GiB\n bandwidth: 1e9\n int8: 1e15\n half: 0.001\n";
    (void)state;
    small = blocks;
    for (uint32_t l = 0; l < small.n_layers; l++) {
        small.layers[l].head_bytes /= 2;
        small.layers[l].kv_bytes /= 2;
        small.layers[l].ff_bytes /= 4;
    }
    small.run_bytes /= 8;
    is_good(text);
    b = a;
    coord_profile_retype(&a, &blocks, &small);
    assert_int_equal(a.nodes[0].rows[0], 0); /* figures only: nothing to change yet */
    coord_profile_complete(&a, &blocks);
    coord_profile_retype(&a, &blocks, &small);
    coord_profile_complete(&b, &small);
    for (unsigned i = 0; i < COORD_BATCHES; i++) {
        const struct coord_batch *x = &a.nodes[0].batches[i], *y = &b.nodes[0].batches[i];
        for (uint32_t l = 0; l < small.n_layers; l++) {
            assert_true(fabs(x->ffn[l] - y->ffn[l]) < 1e-9);
            /* Of attention what reads the KV cache is charged as weights. */
            assert_true(fabs(x->attention[l] - y->attention[l]) <
                        (double)small.cache_bytes * small.n_kv_heads / small.slots / 1e9);
        }
        assert_true(fabs(x->output - y->output) < 0.001);
        assert_true(x->output > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_short_forms),
        cmocka_unit_test(test_mistakes_are_named),
        cmocka_unit_test(test_figures_give_times),
        cmocka_unit_test(test_another_type),
        cmocka_unit_test(test_algorithms),
        cmocka_unit_test(test_shipped_profiles),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
