/* The lines of `shoal top`: the cluster, a table of boards with what they did lately, and under it
 * what is wrong.
 *
 * A history is drawn as one cell a report, the newest on the right: its share of computing, its free
 * memory beside the most of it that was seen or may be used, and the time of its passes beside the
 * longest that was seen. Eighty columns hold it all; what a terminal has beyond that goes to what the
 * boards say of themselves and then to longer histories. The invariant: no line is longer than the
 * terminal is wide, counting a character as a cell, and nothing in it steers the terminal, whatever
 * other machines sent. Left out: colours. */
#include "client/top.h"

#include <math.h>
#include <string.h>

enum {
    WIDTH = 80,      /* that the table is made for */
    SPARK = 5,       /* cells of a history at that width */
    BOARD = 5,       /* cells for what a board says at that width */
    BOARD_MORE = 20, /* and at most */
    SPARK_BYTES = 3 * CLI_THEN_MAX + 1
};

/* ---- lines ----------------------------------------------------------------------------------- */

static bool is_control(struct span s, size_t len)
{
    return s.ptr[0] < 0x20 || s.ptr[0] == 0x7f || (len == 2 && s.ptr[0] == 0xc2 && s.ptr[1] < 0xa0);
}

/* As much of the text as the width takes. */
static void copy_line(const struct cli_screen *s, const char *text, char *out)
{
    const size_t n = strlen(text);
    size_t at = 0, to = 0;
    const uint32_t columns = s->columns < CLI_SCREEN_COLUMNS ? s->columns : CLI_SCREEN_COLUMNS;
    for (uint32_t cells = 0; at < n && cells < columns; cells++) {
        const struct span rest = {(const uint8_t *)text + at, n - at};
        const size_t len = cli_utf8_length(rest);
        if (len == 0 || is_control(rest, len) || (len > 1 && !s->utf8)) {
            out[to++] = '?';
        } else {
            memcpy(out + to, text + at, len);
            to += len;
        }
        at += len > 0 ? len : 1;
    }
    out[to] = 0;
}

static void put(struct cli_screen *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct cli_screen *s, const char *fmt, ...)
{
    char text[2 * CLI_SCREEN_BYTES];
    va_list ap;
    if (s->n >= s->rows || s->n >= CLI_SCREEN_ROWS)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    copy_line(s, text, s->lines[s->n++]);
}

/* ---- histories ------------------------------------------------------------------------------- */

static double most_of(const double *then, uint32_t n, double least)
{
    for (uint32_t i = 0; i < n; i++)
        least = then[i] > least ? then[i] : least;
    return least;
}

/* The last `width` points as cells, 0 to `most`; what is not known is empty. */
static const char *spark(const struct cli_screen *s, const double *then, uint32_t n, double most,
                         uint32_t width, char out[static SPARK_BYTES])
{
    static const char ascii[] = "_.:-=+*#";
    size_t at = 0;
    for (uint32_t i = 0; i < width && i < CLI_THEN_MAX; i++) {
        const uint32_t back = width - i; /* from the end */
        const double v = back <= n ? then[n - back] : NAN;
        if (isnan(v)) {
            out[at++] = ' ';
            continue;
        }
        const double share = most > 0 ? fmin(1, fmax(0, v / most)) : 0;
        const int level = (int)(share * 7 + 0.5);
        if (s->utf8)
            at += (size_t)snprintf(out + at, SPARK_BYTES - at, "\xe2\x96%c", 0x81 + level);
        else
            out[at++] = ascii[level];
    }
    out[at] = 0;
    return out;
}

/* A time that is not known is 0. */
static const char *ms_text(double ms, char out[static 24])
{
    snprintf(out, 24, ms <= 0 ? "-" : ms < 1000 ? "%.3f" : "%.0f", ms);
    return out;
}

/* ---- the table ------------------------------------------------------------------------------- */

struct widths {
    uint32_t spark, board;
};

static struct widths widths_of(uint32_t columns)
{
    struct widths w = {SPARK, BOARD};
    uint32_t more = columns > WIDTH ? columns - WIDTH : 0;
    w.board += more < BOARD_MORE - BOARD ? more : BOARD_MORE - BOARD;
    more -= w.board - BOARD;
    w.spark += more / 3;
    w.spark = w.spark < CLI_THEN_MAX ? w.spark : CLI_THEN_MAX;
    return w;
}

static void put_head(struct cli_screen *s, struct widths w)
{
    s->table = s->n;
    put(s, "%-10s %-9s %-6s %-*s %-*s %-*s %5s %s", "node", "state", "layers", (int)w.spark + 5,
        "busy", (int)w.spark + 10, "free memory", (int)w.spark + 8, "ms a pass", "ratio", "board");
}

static void put_node(struct cli_screen *s, const struct cli_node *n, struct widths w)
{
    char sparks[3][SPARK_BYTES], layers[24] = "-", busy[24] = "-", left[24] = "-", ms[24],
                                 ratio[24] = "-", board[CLI_BOARD_BYTES];
    const double memory =
        n->memory_free == UINT64_MAX ? 0 : fmax((double)n->memory_bytes, (double)n->memory_free);
    if (n->layer1 > n->layer0) {
        snprintf(layers, sizeof layers, "%u-%u", n->layer0, n->layer1 - 1);
        snprintf(busy, sizeof busy, "%.0f%%", 100 * n->busy);
    }
    if (n->memory_free != UINT64_MAX)
        base_bytes_text(n->memory_free, left);
    if (n->ratio > 0)
        snprintf(ratio, sizeof ratio, n->ratio < 100 ? "%.2f" : "%.0f", n->ratio);
    cli_board_text(n, board);
    /* What does not fit is said in full under the table. */
    if (strlen(board) > w.board)
        snprintf(board, sizeof board, isnan(n->temperature) ? "!" : "%.0fC!", n->temperature);
    put(s, "%-10.10s %-9.9s %-6.6s %s %4s %s %9s %s %7s %5s %s", n->name, n->state, layers,
        spark(s, n->busy_then, n->n_then, 1, w.spark, sparks[0]), busy,
        spark(s, n->memory_then, n->n_then, most_of(n->memory_then, n->n_then, memory), w.spark,
              sparks[1]),
        left,
        spark(s, n->ms_then, n->n_then, most_of(n->ms_then, n->n_then, 0), w.spark, sparks[2]),
        ms_text(n->ms, ms), ratio, board);
}

/* ---- what is wrong --------------------------------------------------------------------------- */

static void put_notes(struct cli_screen *s, const struct cli_node *n)
{
    char text[CLI_ERROR_BYTES], board[CLI_BOARD_BYTES];
    if ((n->flags & 31) != 0)
        put(s, "%s: %s", n->name, cli_board_text(n, board));
    if (n->last_error[0] != 0)
        put(s, "%s: %s", n->name, cli_error_text(n, text));
    if (n->left_out[0] != 0)
        put(s, "%s has no layers: %s", n->name, n->left_out);
}

static uint32_t count_notes(const struct cli_node *n)
{
    return ((n->flags & 31) != 0 ? 1u : 0u) + (n->last_error[0] != 0 ? 1u : 0u) +
           (n->left_out[0] != 0 ? 1u : 0u);
}

void cli_top_draw(const struct cli_cluster_status *st, const char *trouble, struct cli_screen *out)
{
    char line[SPARK_BYTES], ms[24], predicted[24];
    const struct widths w = widths_of(out->columns);
    uint32_t notes = 0;
    out->n = 0;
    put(out, "shoal top (q quits)  %s: %s: %s", st->cluster, st->model,
        trouble[0] != 0 ? trouble : st->state);
    put(out, "%u of %u slots in use, %u requests wait; plan %llu", st->active, st->slots,
        st->queued, (unsigned long long)st->epoch);
    put(out, "one request: %s ms a token, %s predicted", ms_text(st->ms, ms),
        ms_text(st->ms_predicted, predicted));
    put(out, "%.1f tok/s [%s] at most %.0f in %u s", st->tok_s,
        spark(out, st->tok_s_then, st->n_then, most_of(st->tok_s_then, st->n_then, 0),
              out->columns > 45 ? out->columns - 45 : 0, line),
        most_of(st->tok_s_then, st->n_then, 0), st->n_then);
    put(out, "%s", "");
    put_head(out, w);
    for (uint32_t i = 0; i < st->n_nodes; i++) {
        put_node(out, &st->nodes[i], w);
        notes += count_notes(&st->nodes[i]);
    }
    put(out, "%s", "");
    const uint32_t first = out->n;
    for (uint32_t i = 0; i < st->n_nodes; i++)
        put_notes(out, &st->nodes[i]);
    /* The last line says how many did not fit. */
    if (out->n - first < notes && out->n > first) {
        const uint32_t shown = out->n - first - 1;
        out->n--;
        put(out, "and %u more", notes - shown);
    }
}
