/* The picture of a plan, shared by the files that draw it: plan_svg.c the whole, plan_card.c a
 * stage's card. */
#ifndef CLIENT_PLAN_DRAWING_H
#define CLIENT_PLAN_DRAWING_H

#include "client/plan.h"
#include "client/svg.h"

#define INK   "#1a1a1a"
#define GREY  "#5f6368"
#define PALE  "#e3e5e8"
#define FRAME "#c4c7cc"

/* Where things are: a margin, the ring, and the cards with their columns. */
static const double DRAW_WIDTH = 1200, DRAW_MARGIN = 40, DRAW_RIGHT = 1160, DRAW_CLOSING_X = 22;
static const double DRAW_RING_X = 86, DRAW_CARD_X = 112, DRAW_STAGE_X = 126, DRAW_NAME_X = 322;
static const double DRAW_HEADS_X = 436, DRAW_COLUMNS_X = 704, DRAW_ROWS_X = 872,
                    DRAW_MEMORY_X = 984;
static const double DRAW_ROW_H = 44, DRAW_CARD_PAD = 4, DRAW_CARD_GAP = 12;

/* A picture in the making. */
struct cli_drawing {
    const struct cli_plan *p;
    struct base_buf *b;
    double y;        /* below what has been drawn */
    uint64_t memory; /* usable, of the board that has most */
    uint32_t n_stages;
    double leader_y[NET_WORKERS_MAX]; /* of each stage */
    const char *colour[NET_WORKERS_MAX];
};

/* "12.3": as many digits as say something. */
const char *cli_draw_ms(double ms, char out[static 24]);
const char *cli_draw_colour(const struct cli_drawing *d, const struct cli_node *n);
/* A board's name and what stands below it; its memory: usable as a frame, planned in it. */
void cli_draw_name(struct cli_drawing *d, const struct cli_node *n, double y, const char *below);
void cli_draw_memory(struct cli_drawing *d, const struct cli_node *n, const char *fill, double y);
/* A stage's card at d->y, below which d->y is then; sets its leader_y. */
void cli_draw_stage(struct cli_drawing *d, uint32_t stage);

#endif
