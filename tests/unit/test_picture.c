/* The picture of a plan: every share is drawn once, every board is named, and no name can break the
 * XML. The picture is taken apart by a reader of XML that knows no more than these files need. */
#include "client/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct cli_plan plan; /* too large for a stack */
static char picture[1 << 20];

static struct cli_node *add(const char *name, uint32_t stage, uint32_t member, uint32_t members,
                            uint32_t layer0, uint32_t layer1)
{
    struct cli_node *n = &plan.status.nodes[plan.status.n_nodes++];
    *n = (struct cli_node){.stage = stage,
                           .member = member,
                           .members = members,
                           .layer0 = layer0,
                           .layer1 = layer1,
                           .memory_bytes = 3000000000,
                           .memory_planned = 2000000000,
                           .kv_bytes = 300000000,
                           .scratch_bytes = 100000000,
                           .ms_predicted = 20,
                           .ms_hop = 0.5};
    snprintf(n->name, sizeof n->name, "%s", name);
    return n;
}

static void hold(struct cli_node *n, uint32_t head0, uint32_t head1, uint32_t column0,
                 uint32_t column1, uint32_t row1)
{
    n->head0 = head0;
    n->heads = head1 - head0;
    n->kv0 = head0 / 4;
    n->kv1 = head1 > head0 ? (head1 + 3) / 4 : n->kv0;
    n->column0 = column0;
    n->columns = column1 - column0;
    n->row1 = row1;
}

/* Six boards: a star, a mesh, one alone with the output matrix; and one left out. */
static void make_plan(void)
{
    memset(&plan, 0, sizeof plan);
    snprintf(plan.status.cluster, sizeof plan.status.cluster, "drawer");
    snprintf(plan.status.model, sizeof plan.status.model, "some-model.gguf");
    plan.solved = true;
    plan.n_heads = 16;
    plan.n_kv_heads = 4;
    plan.n_columns = 1000;
    plan.n_rows = 5000;
    plan.status.ms_predicted = 61.5;
    hold(add("alpha", 0, 0, 2, 0, 4), 0, 10, 0, 600, 0);
    hold(add("beta", 0, 1, 2, 0, 4), 10, 16, 600, 1000, 0);
    for (uint32_t k = 0; k < 3; k++) {
        struct cli_node *n = add(k == 0 ? "gamma" : k == 1 ? "delta" : "epsilon", 1, k, 3, 4, 9);
        n->mesh = true;
        n->ms_exchange = 4;
        hold(n, k == 0 ? 0 : 8, k == 2 ? 8 : 8 * (k + 1), 400 * k, k == 2 ? 1000 : 400 * (k + 1),
             0);
    }
    hold(add("zeta", 2, 0, 1, 9, 10), 0, 16, 0, 1000, 5000);
    struct cli_node *out = add("eta", UINT32_MAX, 0, 0, 0, 0);
    out->memory_planned = out->kv_bytes = out->scratch_bytes = 0;
    snprintf(out->left_out, sizeof out->left_out, "including it would raise 61.5 to 80.1 ms/token");
    snprintf(plan.why[plan.n_why++], PLAN_WHY_BYTES_MAX, "memory does not bind");
}

static void draw(void)
{
    struct base_buf b = {0};
    cli_plan_draw(&plan, &b);
    assert_false(b.failed);
    assert_true(b.len < sizeof picture);
    memcpy(picture, b.ptr, b.len);
    picture[b.len] = 0;
    base_buf_deinit(&b);
}

static uint32_t count(const char *what)
{
    uint32_t n = 0;
    for (const char *p = picture; (p = strstr(p, what)) != NULL; p += strlen(what))
        n++;
    return n;
}

/* Elements close in the order in which they opened; "&" begins one of XML's own names; no byte
 * below a space but line ends. */
static void is_well_formed(void)
{
    const char *open[32];
    size_t depth = 0;
    for (const char *p = picture; *p != 0; p++) {
        assert_true((unsigned char)*p >= ' ' || *p == '\n');
        if (*p == '&')
            assert_true(strncmp(p, "&amp;", 5) == 0 || strncmp(p, "&lt;", 4) == 0 ||
                        strncmp(p, "&gt;", 4) == 0 || strncmp(p, "&quot;", 6) == 0);
        if (*p != '<')
            continue;
        const char *end = strchr(p, '>');
        assert_non_null(end);
        assert_null(memchr(p + 1, '<', (size_t)(end - p - 1)));
        if (p[1] == '/') {
            assert_true(depth > 0);
            depth--;
            assert_memory_equal(open[depth] + 1, p + 2, strcspn(p + 2, ">"));
        } else if (p[1] != '?' && end[-1] != '/') {
            assert_true(depth < sizeof open / sizeof *open);
            open[depth++] = p;
        }
        p = end;
    }
    assert_int_equal(depth, 0);
    assert_true(cli_utf8_ok(base_span_str(picture)));
}

static void test_parts(void **state)
{
    static const char *const names[] = {"alpha",   "beta", "gamma", "delta",
                                        "epsilon", "zeta", "eta"};
    (void)state;
    make_plan();
    draw();
    is_well_formed();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char title[64];
        snprintf(title, sizeof title, "<title>%s</title>", names[i]);
        assert_int_equal(count(title), 1);
    }
    assert_int_equal(count(">Left out<"), 1);
    assert_int_equal(count("including it would raise 61.5 to 80.1 ms/token"), 1);
    assert_int_equal(count("memory does not bind"), 1);
    assert_int_equal(count(", star of 2<"), 1);
    assert_int_equal(count(", mesh of 3<"), 1);
    /* alpha's tenth head and beta's first need the same KV head */
    assert_int_equal(count(">1 KV head replicated<"), 2);
    /* 0.5 ms on two links, and back with the token */
    assert_int_equal(count(">0.50 ms<"), 2);
    assert_int_equal(count(">token 0.50 ms<"), 1);
    assert_int_equal(count(">4.0 ms of it exchanges<"), 1);
    assert_int_equal(count(">5000, 100 %<"), 1);
    assert_int_equal(count(">1.86 of 2.79 GiB<"), 6);
}

/* A head that is held is a cell of its board's colour: 14 high and narrower than any other bar. */
static void test_heads(void **state)
{
    uint32_t held = 0;
    (void)state;
    make_plan();
    draw();
    for (const char *p = picture; (p = strstr(p, "<rect x=\"")) != NULL; p++) {
        char fill[16] = "";
        double x, y, w, h;
        if (sscanf(p, "<rect x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\" fill=\"%15[^\"]", &x,
                   &y, &w, &h, fill) == 5 &&
            h == 14 && x >= 436 && x < 676 && strcmp(fill, "#e3e5e8") != 0)
            held++;
    }
    assert_int_equal(held, 3 * 16);
}

static void test_hostile_texts(void **state)
{
    (void)state;
    make_plan();
    snprintf(plan.status.model, sizeof plan.status.model,
             "</text><script>\"&'\x01\x7f\xff\xfe\xef\xbf\xbf \xc3\xa4 ]]>");
    snprintf(plan.status.nodes[6].left_out, sizeof plan.status.nodes[6].left_out,
             "<b>\xe2\x82 %%s </b>");
    snprintf(plan.why[0], PLAN_WHY_BYTES_MAX, "a < b & b > c \x02");
    draw();
    is_well_formed();
    assert_int_equal(count("<script"), 0);
    assert_int_equal(count("\xc3\xa4"), 2); /* as a title, too */
    assert_int_equal(count("a &lt; b &amp; b &gt; c \xef\xbf\xbd"), 1);
}

/* What a running cluster does not tell is not drawn, and nothing divides by it. */
static void test_unknown(void **state)
{
    (void)state;
    make_plan();
    plan.solved = false;
    plan.n_kv_heads = plan.n_rows = 0;
    for (uint32_t i = 0; i < plan.status.n_nodes; i++) {
        struct cli_node *n = &plan.status.nodes[i];
        n->kv_bytes = n->scratch_bytes = 0;
        n->ms_hop = n->ms_exchange = 0;
        n->ms = n->stage == 1 ? 21 : 0;
    }
    draw();
    is_well_formed();
    assert_int_equal(count("nan"), 0);
    assert_int_equal(count(">measured 21.0<"), 1);
    assert_int_equal(count("KV"), 0);
    assert_int_equal(count("output rows"), 0);
}

static void test_largest(void **state)
{
    (void)state;
    make_plan();
    plan.status.n_nodes = 0;
    plan.n_heads = 128;
    plan.n_kv_heads = 8;
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++) {
        char name[32];
        snprintf(name, sizeof name, "board-%u", i);
        struct cli_node *n = add(name, 0, i, NET_WORKERS_MAX, 0, 512);
        n->mesh = true;
        hold(n, 8 * i, 8 * i + 8, 60 * i, 60 * i + 60, 0);
    }
    draw();
    is_well_formed();
    assert_int_equal(count("<title>board-"), NET_WORKERS_MAX);
}

static void test_out_of_memory(void **state)
{
    struct base_buf b = {0};
    (void)state;
    make_plan();
    base_alloc_fail_nth(3);
    cli_plan_draw(&plan, &b);
    base_alloc_fail_nth(0);
    assert_true(b.failed);
    base_buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),         cmocka_unit_test(test_heads),
        cmocka_unit_test(test_hostile_texts), cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_largest),       cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("picture", tests, NULL, NULL);
}
