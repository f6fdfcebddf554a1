/* The screen of `shoal top`: on every size of terminal no line is too long and none too many; what
 * other machines sent does not steer the terminal; histories are drawn to scale. */
#include "client/top.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct cli_cluster_status st;
static struct cli_screen screen;

static int setup(void **state)
{
    (void)state;
    memset(&st, 0, sizeof st);
    snprintf(st.cluster, sizeof st.cluster, "kitchen");
    snprintf(st.model, sizeof st.model, "model.gguf");
    snprintf(st.state, sizeof st.state, "serving");
    st.epoch = 7;
    st.slots = 8;
    st.active = 3;
    st.n_then = CLI_THEN_MAX - 1;
    for (uint32_t i = 0; i < st.n_then; i++)
        st.tok_s_then[i] = i;
    st.n_nodes = NET_WORKERS_MAX;
    for (uint32_t i = 0; i < st.n_nodes; i++) {
        struct cli_node *n = &st.nodes[i];
        snprintf(n->name, sizeof n->name, "board-%u", i);
        snprintf(n->state, sizeof n->state, "serving");
        n->layer0 = i;
        n->layer1 = i + 1;
        n->busy = 0.45;
        n->ms = 1.5;
        n->ratio = 1.25;
        n->memory_bytes = 1u << 30;
        n->memory_free = 1u << 29;
        n->temperature = 61;
        n->battery = NAN;
        n->n_then = 8;
        for (uint32_t k = 0; k < 8; k++) {
            n->busy_then[k] = k / 7.0;
            n->memory_then[k] = (1u << 30) * (1 - k / 7.0);
            n->ms_then[k] = k == 3 ? NAN : (double)k;
        }
    }
    return 0;
}

/* Characters that take a cell; fails where one steers. */
static uint32_t cells_of(const char *line)
{
    uint32_t n = 0;
    for (const uint8_t *p = (const uint8_t *)line; *p != 0; p++) {
        assert_true(*p >= 0x20 && *p != 0x7f);
        assert_false(p[0] == 0xc2 && p[1] < 0xa0);
        n += (*p & 0xc0) != 0x80;
    }
    return n;
}

static void draw(uint32_t rows, uint32_t columns, bool utf8, const char *trouble)
{
    screen.rows = rows;
    screen.columns = columns;
    screen.utf8 = utf8;
    cli_top_draw(&st, trouble, &screen);
    assert_true(screen.n <= rows && screen.n <= CLI_SCREEN_ROWS);
    for (uint32_t y = 0; y < screen.n; y++) {
        assert_true(cells_of(screen.lines[y]) <= columns);
        assert_true(strlen(screen.lines[y]) < CLI_SCREEN_BYTES);
        for (const char *p = screen.lines[y]; !utf8 && *p != 0; p++)
            assert_true((unsigned char)*p < 0x80);
    }
}

static const char *line_with(const char *text)
{
    for (uint32_t y = 0; y < screen.n; y++)
        if (strstr(screen.lines[y], text) != NULL)
            return screen.lines[y];
    return NULL;
}

static void eighty_by_twenty_four_holds_sixteen_boards(void **state)
{
    (void)state;
    draw(24, 80, false, "");
    assert_non_null(line_with("kitchen: model.gguf: serving"));
    assert_non_null(line_with("3 of 8 slots in use"));
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++)
        assert_non_null(line_with(st.nodes[i].name));
    /* The last five of eight points; the newest on the right. */
    assert_string_equal(line_with("board-9"), "board-9    serving   9-9    -=+*#  45% =-:._ 512.0 MiB "
                                              " =+*#   1.500  1.25 61 C");
    assert_int_equal(cells_of(screen.lines[screen.table]), 80);
}

static void histories_are_block_elements_where_there_are_any(void **state)
{
    (void)state;
    draw(24, 80, true, "");
    assert_non_null(strstr(line_with("board-9"), "\xe2\x96\x88")); /* full */
    assert_non_null(strstr(line_with("board-9"), "\xe2\x96\x81")); /* an eighth */
}

static void trouble_is_told(void **state)
{
    (void)state;
    st.n_nodes = 3;
    st.nodes[0].flags = 4;
    snprintf(st.nodes[1].last_error, sizeof st.nodes[1].last_error, "the connection broke");
    st.nodes[1].lost = true;
    st.nodes[1].error_ms = 12345;
    snprintf(st.nodes[2].left_out, sizeof st.nodes[2].left_out, "too slow");
    draw(24, 80, false, "no coordinator: the connection broke");
    assert_non_null(line_with("model.gguf: no coordinator: the connection broke"));
    assert_non_null(line_with("board-0: 61 C throttled"));
    assert_non_null(line_with("61C!"));
    assert_non_null(line_with("board-1: lost 12 s ago: the connection broke"));
    assert_non_null(line_with("board-2 has no layers: too slow"));
    draw(12, 80, false, "");
    assert_non_null(line_with("board-0: 61 C throttled"));
    assert_non_null(line_with("and 2 more"));
    draw(24, 120, false, "");
    assert_null(line_with("61C!"));
}

static void every_size_holds(void **state)
{
    static const uint32_t sizes[] = {0, 1, 2, 3, 5, 8, 20, 44, 45, 46, 79, 81, 133, 319, 320, 5000};
    (void)state;
    snprintf(st.nodes[3].last_error, sizeof st.nodes[3].last_error, "%0300d", 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            draw(sizes[i], sizes[k], false, "");
            draw(sizes[i], sizes[k], true, "");
        }
}

static void nothing_steers_the_terminal(void **state)
{
    (void)state;
    snprintf(st.state, sizeof st.state, "a\033[2Jb\nc\xc2\x9bz\xff\xfe \xe4\xb8\xad");
    snprintf(st.nodes[0].name, sizeof st.nodes[0].name, "\r\b\x7f\xc3");
    snprintf(st.nodes[0].last_error, sizeof st.nodes[0].last_error, "\033]0;x\007");
    draw(24, 300, true, "");
    assert_non_null(line_with("a?[2Jb?c?z?? \xe4\xb8\xad"));
    draw(24, 300, false, "");
    assert_non_null(line_with("a?[2Jb?c?z?? ?"));
    memset(st.model, 0xf0, sizeof st.model - 1);
    draw(24, 80, true, "");
}

/* Whatever a coordinator says, numbers end up in their columns or are cut off at the right. */
static void numbers_out_of_all_bounds(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < st.n_nodes; i++) {
        struct cli_node *n = &st.nodes[i];
        n->ms = n->ratio = n->busy = n->temperature = n->battery = i % 2 == 0 ? 1e300 : -1e300;
        n->memory_free = n->memory_bytes = UINT64_MAX - 1;
        n->error_ms = UINT64_MAX;
        n->layer1 = UINT32_MAX;
        n->flags = UINT32_MAX;
        n->n_then = CLI_THEN_MAX;
        for (uint32_t k = 0; k < CLI_THEN_MAX; k++)
            n->busy_then[k] = n->memory_then[k] = n->ms_then[k] = k % 2 == 0 ? 1e300 : -1e300;
    }
    st.tok_s = st.ms = st.ms_predicted = 1e300;
    draw(24, 80, true, "");
    draw(64, 320, false, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(eighty_by_twenty_four_holds_sixteen_boards, setup),
        cmocka_unit_test_setup(histories_are_block_elements_where_there_are_any, setup),
        cmocka_unit_test_setup(trouble_is_told, setup),
        cmocka_unit_test_setup(every_size_holds, setup),
        cmocka_unit_test_setup(nothing_steers_the_terminal, setup),
        cmocka_unit_test_setup(numbers_out_of_all_bounds, setup),
    };
    return cmocka_run_group_tests_name("top", tests, NULL, NULL);
}
