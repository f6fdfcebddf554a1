/* A stage's card: its layers and times, its team, and for each member a row with its heads, the KV
 * heads that these need, its shares of feed-forward columns and output matrix, and its memory.
 *
 * Shares are drawn to one scale over all cards, from the whole of what the model has; memory to one
 * scale over all boards. A KV head that several members hold is dark. The lines between a team's
 * members have the shape of its exchange: from the leader to each in a star, between any two in a
 * mesh. */
#include "client/plan_drawing.h"

static const double HEADS_W = 240, COLUMNS_W = 140, ROWS_W = 84, MEMORY_W = 164;
static const double DOT_X = 304, TIME_X = 272, BAR_H = 14, TEXT_Y = 30;
enum { NAME_CHARS = 14, HEAD_CELLS_MAX = 80 };

static const struct cli_svg_style bold = {INK, 14, NULL, true}, note = {GREY, 11, NULL, false},
                                  note_end = {GREY, 11, "end", false};

const char *cli_draw_ms(double ms, char out[static 24])
{
    snprintf(out, 24, "%.*f", ms >= 100 ? 0 : ms >= 1 ? 1 : 2, ms);
    return out;
}

/* ---- a member -------------------------------------------------------------------------------- */

static void draw_heads(struct cli_drawing *d, const struct cli_node *n, double y)
{
    const uint32_t all = d->p->n_heads, group = d->p->n_kv_heads > 0 ? all / d->p->n_kv_heads : 1;
    const char *fill = cli_draw_colour(d, n);
    if (all > HEAD_CELLS_MAX) {
        const double w = HEADS_W / all;
        cli_svg_rect(d->b, DRAW_HEADS_X, y, HEADS_W, BAR_H, PALE);
        cli_svg_rect(d->b, DRAW_HEADS_X + w * n->head0, y, w * n->heads, BAR_H, fill);
    } else {
        const double w = HEADS_W / all, gap = w > 4 ? 1.5 : 0.7;
        for (uint32_t h = 0; h < all; h++) {
            const bool held = h >= n->head0 && h < n->head0 + n->heads;
            const double last = group > 1 && h % group == group - 1 ? gap : 0;
            cli_svg_rect(d->b, DRAW_HEADS_X + w * h, y, w - gap - last, BAR_H, held ? fill : PALE);
        }
    }
    if (n->heads == 0)
        cli_svg_text(d->b, DRAW_HEADS_X, y + TEXT_Y, note, 40, "none");
    else if (n->heads == all)
        cli_svg_textf(d->b, DRAW_HEADS_X, y + TEXT_Y, note, "all %u", all);
    else if (n->heads == 1)
        cli_svg_textf(d->b, DRAW_HEADS_X, y + TEXT_Y, note, "1: %u", n->head0);
    else
        cli_svg_textf(d->b, DRAW_HEADS_X, y + TEXT_Y, note, "%u: %u\xe2\x80\x93%u", n->heads,
                      n->head0, n->head0 + n->heads - 1);
}

/* KV heads that two members hold are dark. */
static void draw_kv(struct cli_drawing *d, const struct cli_node *n,
                    const struct cli_node *const *team, uint32_t members, double y)
{
    const double w = HEADS_W / (d->p->n_kv_heads > 0 ? d->p->n_kv_heads : 1);
    uint32_t twice = 0;
    for (uint32_t h = n->kv0; h < n->kv1 && d->p->n_kv_heads > 0; h++) {
        uint32_t holders = 0;
        for (uint32_t k = 0; k < members; k++)
            holders += h >= team[k]->kv0 && h < team[k]->kv1 ? 1 : 0;
        cli_svg_rect(d->b, DRAW_HEADS_X + w * h, y + BAR_H + 1.5, w - 2, holders > 1 ? 4.5 : 3,
                     holders > 1 ? INK : cli_draw_colour(d, n));
        twice += holders > 1 ? 1 : 0;
    }
    if (twice > 0)
        cli_svg_textf(d->b, DRAW_HEADS_X + HEADS_W - 2, y + TEXT_Y, note_end,
                      "%u KV head%s replicated", twice, twice > 1 ? "s" : "");
}

static void draw_share(struct cli_drawing *d, double x, double w, double y, const char *fill,
                       uint32_t from, uint32_t to, uint32_t all)
{
    if (all == 0)
        return;
    cli_svg_rect(d->b, x, y, w, BAR_H, PALE);
    if (to > from) {
        cli_svg_rect(d->b, x + w * from / all, y, w * (to - from) / all, BAR_H, fill);
        cli_svg_textf(d->b, x, y + TEXT_Y, note, "%u, %.0f %%", to - from,
                      100.0 * (to - from) / all);
    } else {
        cli_svg_text(d->b, x, y + TEXT_Y, note, 40, "none");
    }
}

static void memory_text(uint64_t planned, uint64_t usable, char out[static 48])
{
    const bool giga = usable >= UINT64_C(1) << 30;
    const double unit = giga ? 0x1p30 : 0x1p20;
    if (planned > 0)
        snprintf(out, 48, "%.*f of %.*f %s", giga ? 2 : 0, (double)planned / unit, giga ? 2 : 0,
                 (double)usable / unit, giga ? "GiB" : "MiB");
    else
        snprintf(out, 48, "%.*f %s", giga ? 2 : 0, (double)usable / unit, giga ? "GiB" : "MiB");
}

/* Usable memory as a frame, to one scale for all boards; in it weights solid, KV striped, scratch
 * pale. */
void cli_draw_memory(struct cli_drawing *d, const struct cli_node *n, const char *fill, double y)
{
    const double scale = MEMORY_W / (double)(d->memory > 0 ? d->memory : 1);
    const uint64_t parts[] = {n->memory_planned - n->kv_bytes - n->scratch_bytes, n->kv_bytes,
                              n->scratch_bytes};
    static const char *const over[] = {NULL, "url(#kv)", "url(#scratch)"};
    double x = DRAW_MEMORY_X;
    char text[48];
    cli_svg_rect(d->b, x, y, scale * (double)n->memory_bytes, BAR_H, "#ffffff");
    for (int i = 0; i < 3 && n->memory_planned > 0; i++) {
        const double w = scale * (double)parts[i];
        cli_svg_rect(d->b, x, y, w, BAR_H, fill);
        if (over[i] != NULL && w > 0)
            cli_svg_rect(d->b, x, y, w, BAR_H, over[i]);
        x += w;
    }
    cli_svg_rect_with(d->b, DRAW_MEMORY_X, y, scale * (double)n->memory_bytes, BAR_H, "none",
                      "stroke=\"" GREY "\" stroke-width=\"1\"");
    memory_text(n->memory_planned, n->memory_bytes, text);
    cli_svg_text(d->b, DRAW_MEMORY_X, y + TEXT_Y, note, sizeof text, text);
}

void cli_draw_name(struct cli_drawing *d, const struct cli_node *n, double y, const char *below)
{
    base_buf_printf(d->b, "<g><title>");
    cli_svg_escape(d->b, base_span_str(n->name), sizeof n->name);
    base_buf_printf(d->b, "</title>\n");
    cli_svg_text(d->b, DRAW_NAME_X, y + 11, (struct cli_svg_style){INK, 13, NULL, true}, NAME_CHARS,
                 n->name);
    base_buf_printf(d->b, "</g>\n");
    cli_svg_text(d->b, DRAW_NAME_X, y + TEXT_Y, note, 30, below);
}

static void draw_member(struct cli_drawing *d, const struct cli_node *const *team, uint32_t members,
                        uint32_t k, double y)
{
    const struct cli_node *n = team[k];
    bool output = false;
    for (uint32_t i = 0; i < members; i++)
        output = output || team[i]->row1 > team[i]->row0;
    cli_draw_name(d, n, y, members > 1 && k == 0 ? "leads" : "");
    draw_heads(d, n, y);
    draw_kv(d, n, team, members, y);
    draw_share(d, DRAW_COLUMNS_X, COLUMNS_W, y, cli_draw_colour(d, n), n->column0,
               n->column0 + n->columns, d->p->n_columns);
    if (output)
        draw_share(d, DRAW_ROWS_X, ROWS_W, y, cli_draw_colour(d, n), n->row0, n->row1,
                   d->p->n_rows);
    cli_draw_memory(d, n, cli_draw_colour(d, n), y);
}

/* ---- stages ---------------------------------------------------------------------------------- */

static double dot_y(double card_y, uint32_t k)
{
    return card_y + DRAW_CARD_PAD + k * DRAW_ROW_H + 6 + BAR_H / 2;
}

/* One line of a team's exchange, bulging to the left by more the farther apart the two are. */
static void draw_exchange(struct cli_drawing *d, double y0, double y1, double span)
{
    const double out = DOT_X - 8 - 28 * (y1 - y0) / span;
    base_buf_printf(d->b,
                    "<path d=\"M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f\" fill=\"none\" "
                    "stroke=\"" GREY "\" stroke-width=\"1.2\"/>\n",
                    DOT_X, y0, out, y0, out, y1, DOT_X, y1);
}

static void draw_team(struct cli_drawing *d, const struct cli_node *const *team, uint32_t members,
                      double card_y)
{
    for (uint32_t k = 0; k < (team[0]->mesh ? members : 1); k++)
        for (uint32_t q = k + 1; q < members; q++)
            draw_exchange(d, dot_y(card_y, k), dot_y(card_y, q), (members - 1) * DRAW_ROW_H);
    for (uint32_t k = 0; k < members; k++)
        cli_svg_dot(d->b, DOT_X, dot_y(card_y, k), k == 0 ? 6 : 4.5, cli_draw_colour(d, team[k]),
                    k == 0 ? INK : "#ffffff");
}

static void draw_stage_text(struct cli_drawing *d, const struct cli_node *lead, uint32_t members,
                            double y)
{
    char ms[24], measured[48] = "", team[40] = "";
    const uint32_t n = lead->layer1 - lead->layer0;
    if (n == 1)
        cli_svg_textf(d->b, DRAW_STAGE_X, y + 11, bold, "Layer %u", lead->layer0);
    else
        cli_svg_textf(d->b, DRAW_STAGE_X, y + 11, bold, "Layers %u\xe2\x80\x93%u", lead->layer0,
                      lead->layer1 - 1);
    cli_svg_textf(d->b, TIME_X, y + 11, (struct cli_svg_style){INK, 13, "end", false}, "%s ms",
                  cli_draw_ms(lead->ms_predicted, ms));
    if (members > 1)
        snprintf(team, sizeof team, ", %s of %u", lead->mesh ? "mesh" : "star", members);
    if (lead->ms > 0)
        snprintf(measured, sizeof measured, "measured %s", cli_draw_ms(lead->ms, ms));
    cli_svg_textf(d->b, DRAW_STAGE_X, y + TEXT_Y, note, "%u layer%s%s", n, n > 1 ? "s" : "", team);
    if (lead->ms_exchange > 0)
        cli_svg_textf(d->b, DRAW_STAGE_X, y + TEXT_Y + 15, note, "%s ms of it exchanges",
                      cli_draw_ms(lead->ms_exchange, ms));
    cli_svg_text(d->b, TIME_X, y + TEXT_Y + (members > 1 ? 29 : 0), note_end, sizeof measured,
                 measured);
}

void cli_draw_stage(struct cli_drawing *d, uint32_t stage)
{
    const struct cli_node *team[NET_WORKERS_MAX];
    const uint32_t members = cli_plan_team(d->p, stage, team);
    const double card_y = d->y, height = 2 * DRAW_CARD_PAD + members * DRAW_ROW_H;
    cli_svg_rect_with(d->b, DRAW_CARD_X, card_y, DRAW_RIGHT - DRAW_CARD_X, height, "#fafbfc",
                      "rx=\"6\" stroke=\"" FRAME "\" stroke-width=\"1\"");
    draw_stage_text(d, team[0], members, card_y + DRAW_CARD_PAD + 6);
    draw_team(d, team, members, card_y);
    for (uint32_t k = 0; k < members; k++)
        draw_member(d, team, members, k, card_y + DRAW_CARD_PAD + 6 + k * DRAW_ROW_H);
    d->leader_y[stage] = dot_y(card_y, 0);
    d->y += height + DRAW_CARD_GAP;
}
