/* `shoal plan --svg`: the plan as a picture for a slide or a page.
 *
 * From top to bottom: title and figures; a bar of where a token's time goes; a card for each stage in
 * ring order, with a row for each member; the boards left out; what binds the plan. Columns are
 * aligned over all cards, so that shares and memories compare at a glance. The ring runs down the
 * left side from leader to leader and closes along the margin. Inside a team's card the lines
 * between its members have the shape of its exchange.
 *
 * Colours tell boards apart and repeat after eight; they are Okabe and Ito's (2008), which readers
 * with any colour vision can tell apart, less the yellow, which is lost on white. Nothing is said by
 * colour alone, so the picture survives a grey printer. Drawn from struct cli_plan; what a running
 * cluster does not tell (links, what memory is for) is left out. */
#include "client/plan_drawing.h"

#include <string.h>

static const char *const colours[] = {"#0072b2", "#e69f00", "#009e73", "#cc79a7",
                                      "#56b4e9", "#d55e00", "#4d4d4d", "#8a6d3b"};
enum { N_COLOURS = sizeof colours / sizeof *colours };

enum { WHY_CHARS = 170, REASON_CHARS = 84 };

static const struct cli_svg_style plain = {INK, 12, NULL, false}, bold = {INK, 14, NULL, true},
                                  note = {GREY, 11, NULL, false},
                                  note_end = {GREY, 11, "end", false};

const char *cli_draw_colour(const struct cli_drawing *d, const struct cli_node *n)
{
    return d->colour[n - d->p->status.nodes];
}

static void choose_colours(struct cli_drawing *d)
{
    const struct cli_node *team[NET_WORKERS_MAX];
    uint32_t at = 0;
    for (uint32_t s = 0; s < d->n_stages; s++) {
        const uint32_t n = cli_plan_team(d->p, s, team);
        for (uint32_t k = 0; k < n; k++)
            d->colour[team[k] - d->p->status.nodes] = colours[at++ % N_COLOURS];
    }
}

static bool is_light(const char *colour)
{
    unsigned r = 0, g = 0, b = 0;
    return sscanf(colour, "#%2x%2x%2x", &r, &g, &b) == 3 && 3 * r + 6 * g + b > 1200;
}

/* ---- head ------------------------------------------------------------------------------------ */

static void tile(struct cli_drawing *d, double x, const char *value, const char *caption)
{
    cli_svg_text(d->b, x, 48, (struct cli_svg_style){INK, 22, "end", true}, 24, value);
    cli_svg_text(d->b, x, 68, note_end, 40, caption);
}

static void draw_tiles(struct cli_drawing *d)
{
    const struct cli_cluster_status *st = &d->p->status;
    char value[40], caption[60], ms[24];
    double x = DRAW_RIGHT;
    if (d->p->solved) {
        snprintf(value, sizeof value, st->gap > 0 ? "\xe2\x89\xa4 %.1f %%" : "proven",
                 100 * st->gap);
        tile(d, x, value, st->gap > 0 ? "from the best plan" : "to be the best plan");
        x -= 142;
    }
    if (st->prompt > 0 && st->ttft_predicted > 0) {
        snprintf(value, sizeof value, "%s s", cli_draw_ms(st->ttft_predicted / 1e3, ms));
        snprintf(caption, sizeof caption, "first token of %u", st->prompt);
        tile(d, x, value, caption);
        x -= 122;
    }
    snprintf(value, sizeof value, "%.1f tok/s", st->tok_s_predicted);
    snprintf(caption, sizeof caption, "%u slots in use", st->slots);
    tile(d, x, value, caption);
    x -= 142;
    if (st->ms_predicted > 0)
        snprintf(value, sizeof value, "%.1f tok/s", 1e3 / st->ms_predicted);
    tile(d, x, value, "one request");
    x -= 138;
    snprintf(value, sizeof value, "%s ms", cli_draw_ms(st->ms_predicted, ms));
    tile(d, x, value, "a token, predicted");
}

static void draw_title(struct cli_drawing *d)
{
    const struct cli_cluster_status *st = &d->p->status;
    uint32_t n_layers = 0, n_used = 0;
    for (uint32_t i = 0; i < st->n_nodes; i++) {
        n_used += st->nodes[i].stage < d->n_stages ? 1 : 0;
        if (st->nodes[i].stage < d->n_stages && st->nodes[i].layer1 > n_layers)
            n_layers = st->nodes[i].layer1;
    }
    cli_svg_text(d->b, DRAW_MARGIN, 48, (struct cli_svg_style){INK, 22, NULL, true}, 34, st->model);
    cli_svg_textf(d->b, DRAW_MARGIN, 68, (struct cli_svg_style){GREY, 13, NULL, false},
                  "%u layers on %u of %u boards of cluster %s", n_layers, n_used, st->n_nodes,
                  st->cluster);
    draw_tiles(d);
    d->y = 92;
}

/* One piece of the bar of time, striped at its end, with a text where there is room. */
static double draw_time(struct cli_drawing *d, double x, double w, double striped, const char *fill,
                        const char *text, const char *ms)
{
    const struct cli_svg_style s = {is_light(fill) ? INK : "#ffffff", 11, "middle", true};
    char both[64];
    cli_svg_rect_with(d->b, x, d->y, w, 20, fill, "stroke=\"#ffffff\" stroke-width=\"1\"");
    cli_svg_rect(d->b, x + w - striped, d->y + 0.5, striped, 19, "url(#kv)");
    w -= striped;
    snprintf(both, sizeof both, "%s%s%s%s ms", text[0] != 0 ? "stage " : "", text,
             text[0] != 0 ? ": " : "", ms);
    if (w > 6.5 * (double)strlen(both) + 6)
        cli_svg_text(d->b, x + w / 2, d->y + 14, s, sizeof both, both);
    else if (w > 7 * (double)strlen(text) + 4)
        cli_svg_text(d->b, x + w / 2, d->y + 14, s, sizeof both, text);
    return x + w + striped;
}

static void draw_times(struct cli_drawing *d)
{
    const struct cli_node *team[NET_WORKERS_MAX];
    double sum = 0, x = DRAW_MARGIN;
    char text[24], ms[24];
    for (uint32_t s = 0; s < d->n_stages; s++)
        if (cli_plan_team(d->p, s, team) > 0)
            sum += team[0]->ms_predicted + team[0]->ms_hop;
    if (!(sum > 0))
        return;
    cli_svg_text(
        d->b, DRAW_MARGIN, d->y + 8, note, 80,
        d->p->solved
            ? "where the time of a token goes: stages, their exchanges striped; links in grey"
            : "where the time of a token goes: stages");
    d->y += 14;
    for (uint32_t s = 0; s < d->n_stages; s++) {
        const double w = (DRAW_RIGHT - DRAW_MARGIN) / sum;
        cli_plan_team(d->p, s, team);
        snprintf(text, sizeof text, "%u", s);
        x = draw_time(d, x, w * team[0]->ms_predicted, w * team[0]->ms_exchange,
                      cli_draw_colour(d, team[0]), text, cli_draw_ms(team[0]->ms_predicted, ms));
        if (team[0]->ms_hop > 0)
            x = draw_time(d, x, w * team[0]->ms_hop, 0, "#9aa0a6", "",
                          cli_draw_ms(team[0]->ms_hop, ms));
    }
    d->y += 20;
}

static void draw_captions(struct cli_drawing *d)
{
    d->y += 26;
    cli_svg_text(d->b, DRAW_STAGE_X, d->y, note, 40, "stage, layers");
    cli_svg_text(d->b, DRAW_NAME_X, d->y, note, 40, "boards");
    cli_svg_text(d->b, DRAW_HEADS_X, d->y, note, 60,
                 d->p->n_kv_heads > 0 ? "heads, below them KV heads" : "heads");
    cli_svg_text(d->b, DRAW_COLUMNS_X, d->y, note, 40, "feed-forward columns");
    if (d->p->n_rows > 0)
        cli_svg_text(d->b, DRAW_ROWS_X, d->y, note, 40, "output rows");
    cli_svg_text(d->b, DRAW_MEMORY_X, d->y, note, 40, "memory");
    d->y += 8;
}

/* ---- the ring -------------------------------------------------------------------------------- */

static void draw_hop(struct cli_drawing *d, const struct cli_node *from, double y0, double y1)
{
    char ms[24];
    base_buf_printf(d->b,
                    "<path d=\"M%.1f %.1fV%.1f\" stroke=\"" INK "\" stroke-width=\"1.5\" "
                    "fill=\"none\" marker-end=\"url(#arrow)\"/>\n",
                    DRAW_RING_X, y0 + 11, y1 - 12);
    if (d->p->solved)
        cli_svg_textf(d->b, DRAW_RING_X - 7, (y0 + y1) / 2 + 4, note_end, "%s ms",
                      cli_draw_ms(from->ms_hop, ms));
}

static void draw_closing(struct cli_drawing *d, const struct cli_node *last)
{
    const double y0 = d->leader_y[0], y1 = d->leader_y[d->n_stages - 1];
    const char *what = d->p->output_first ? "hidden state" : "token";
    char ms[24], text[64];
    base_buf_printf(d->b,
                    "<path d=\"M%.1f %.1fH%.1fQ%.1f %.1f %.1f %.1fV%.1fQ%.1f %.1f %.1f %.1fH%.1f\" "
                    "stroke=\"" INK "\" stroke-width=\"1.5\" fill=\"none\" "
                    "stroke-dasharray=\"5 3\" marker-end=\"url(#arrow)\"/>\n",
                    DRAW_RING_X - 11, y1, DRAW_CLOSING_X + 8, DRAW_CLOSING_X, y1, DRAW_CLOSING_X,
                    y1 - 8, y0 + 8, DRAW_CLOSING_X, y0, DRAW_CLOSING_X + 8, y0, DRAW_RING_X - 13);
    snprintf(text, sizeof text, d->p->solved ? "%s %s ms" : "%s", what,
             cli_draw_ms(last->ms_hop, ms));
    base_buf_printf(d->b,
                    "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\" fill=\"" GREY
                    "\" text-anchor=\"middle\" transform=\"rotate(-90 %.1f %.1f)\">%s</text>\n",
                    DRAW_CLOSING_X - 5, (y0 + y1) / 2, DRAW_CLOSING_X - 5, (y0 + y1) / 2, text);
}

static void draw_ring(struct cli_drawing *d)
{
    const struct cli_node *team[NET_WORKERS_MAX];
    for (uint32_t s = 0; s < d->n_stages; s++) {
        cli_plan_team(d->p, s, team);
        base_buf_printf(d->b,
                        "<path d=\"M%.1f %.1fH%.1f\" stroke=\"" INK "\" stroke-width=\"1.5\"/>\n",
                        DRAW_RING_X + 11, d->leader_y[s], DRAW_CARD_X);
        if (s + 1 < d->n_stages)
            draw_hop(d, team[0], d->leader_y[s], d->leader_y[s + 1]);
        else if (d->n_stages > 1)
            draw_closing(d, team[0]);
        cli_svg_dot(d->b, DRAW_RING_X, d->leader_y[s], 11, "#ffffff", INK);
        cli_svg_textf(d->b, DRAW_RING_X, d->leader_y[s] + 4,
                      (struct cli_svg_style){INK, 12, "middle", true}, "%u", s);
    }
}

/* ---- below the ring -------------------------------------------------------------------------- */

static void draw_left_out(struct cli_drawing *d, const struct cli_node *n)
{
    const uint32_t lines = cli_svg_paragraph_lines(REASON_CHARS, n->left_out);
    const double height = lines > 2 ? 20 + 15 * lines : 2 * DRAW_CARD_PAD + DRAW_ROW_H;
    const struct cli_svg_style s = {GREY, 12, NULL, false};
    cli_svg_rect_with(d->b, DRAW_CARD_X, d->y, DRAW_RIGHT - DRAW_CARD_X, height, "#f1f2f4",
                      "rx=\"6\" stroke=\"" FRAME "\" stroke-width=\"1\" stroke-dasharray=\"4 3\"");
    cli_svg_text(d->b, DRAW_STAGE_X, d->y + 21, (struct cli_svg_style){GREY, 14, NULL, true}, 20,
                 "Left out");
    cli_draw_name(d, n, d->y + 10, "");
    cli_svg_paragraph(d->b, DRAW_HEADS_X, d->y + 21, 15, s, REASON_CHARS, n->left_out);
    cli_draw_memory(d, n, GREY, d->y + 10);
    d->y += height + DRAW_CARD_GAP;
}

static void draw_legend(struct cli_drawing *d)
{
    static const struct {
        const char *text, *over;
    } parts[] = {{"weights", NULL}, {"KV cache", "url(#kv)"}, {"scratch", "url(#scratch)"}};
    double x = DRAW_MEMORY_X - 100;
    if (!d->p->solved)
        return;
    d->y += 8;
    cli_svg_text(d->b, x - 8, d->y, note_end, 40, "memory:");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        cli_svg_rect(d->b, x, d->y - 9, 14, 10, GREY);
        if (parts[i].over != NULL)
            cli_svg_rect(d->b, x, d->y - 9, 14, 10, parts[i].over);
        cli_svg_rect_with(d->b, x, d->y - 9, 14, 10, "none",
                          "stroke=\"" GREY "\" stroke-width=\"1\"");
        cli_svg_text(d->b, x + 19, d->y, note, 40, parts[i].text);
        x += 95;
    }
}

static void draw_why(struct cli_drawing *d)
{
    if (d->p->n_why == 0)
        return;
    d->y += 12;
    cli_svg_text(d->b, DRAW_CARD_X, d->y, bold, 40, "Why");
    d->y += 15;
    for (uint32_t i = 0; i < d->p->n_why; i++) {
        d->y += 4;
        d->y += 16 * cli_svg_paragraph(d->b, DRAW_CARD_X, d->y, 16, plain, WHY_CHARS, d->p->why[i]);
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void put_frame(struct base_buf *out, const struct cli_plan *p, double height)
{
    base_buf_printf(out,
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
                    "width=\"%.0f\" height=\"%.0f\" role=\"img\" "
                    "font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', "
                    "sans-serif\">\n<title>",
                    DRAW_WIDTH, height, DRAW_WIDTH, height);
    base_buf_printf(out, "Plan of cluster ");
    cli_svg_escape(out, base_span_str(p->status.cluster), sizeof p->status.cluster);
    base_buf_printf(out, " for ");
    cli_svg_escape(out, base_span_str(p->status.model), sizeof p->status.model);
    base_buf_printf(
        out, "</title>\n<defs>\n"
             "<marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" "
             "markerHeight=\"8\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">"
             "<path d=\"M0 0.5L8 4L0 7.5z\" fill=\"" INK "\"/></marker>\n"
             "<pattern id=\"kv\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" "
             "patternTransform=\"rotate(45)\"><rect width=\"2.5\" height=\"5\" fill=\"#ffffff\" "
             "fill-opacity=\"0.75\"/></pattern>\n"
             "<pattern id=\"scratch\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\">"
             "<rect width=\"4\" height=\"4\" fill=\"#ffffff\" fill-opacity=\"0.65\"/></pattern>\n"
             "</defs>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n");
}

void cli_plan_draw(const struct cli_plan *p, struct base_buf *out)
{
    struct base_buf body = {0};
    struct cli_drawing d = {.p = p, .b = &body, .n_stages = cli_plan_stages(p)};
    for (uint32_t i = 0; i < p->status.n_nodes; i++)
        if (p->status.nodes[i].memory_bytes > d.memory)
            d.memory = p->status.nodes[i].memory_bytes;
    choose_colours(&d);
    draw_title(&d);
    draw_times(&d);
    draw_captions(&d);
    for (uint32_t s = 0; s < d.n_stages; s++)
        cli_draw_stage(&d, s);
    draw_ring(&d);
    for (uint32_t i = 0; i < p->status.n_nodes; i++)
        if (p->status.nodes[i].left_out[0] != 0)
            draw_left_out(&d, &p->status.nodes[i]);
    draw_legend(&d);
    draw_why(&d);
    put_frame(out, p, d.y + 24);
    base_buf_add(out, body.ptr, body.len);
    base_buf_printf(out, "</svg>\n");
    out->failed = out->failed || body.failed;
    base_buf_deinit(&body);
}
