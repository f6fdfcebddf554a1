/* `shoal top`: what stands on the screen, apart from how it gets there (client/top.c). */
#ifndef CLIENT_TOP_H
#define CLIENT_TOP_H

#include "client/client.h"

enum {
    CLI_SCREEN_ROWS = 64,     /* what is larger stays empty */
    CLI_SCREEN_COLUMNS = 320,
    CLI_SCREEN_BYTES = 4 * CLI_SCREEN_COLUMNS + 1
};

struct cli_screen {
    uint32_t rows, columns; /* of the terminal */
    bool utf8;              /* it shows block elements; otherwise ASCII */
    uint32_t n, table;      /* lines; the one that heads the table, n or more: there is none */
    char lines[CLI_SCREEN_ROWS][CLI_SCREEN_BYTES];
};

/* Write the lines for a terminal of out->rows and out->columns, none longer and no more than fit.
 * `trouble` takes the place of the cluster's state where it is not "". */
void cli_top_draw(const struct cli_cluster_status *st, const char *trouble, struct cli_screen *out);

#endif
