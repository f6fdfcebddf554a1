/* `shoal top`: the nodes of a running cluster, live on a terminal.
 *
 * The coordinator is asked once a second, and keeps the histories; so a display that has just begun
 * shows the last minute. Nothing is drawn before the first answer, so that whoever cannot reach the
 * cluster gets a line and a status like any other command. A coordinator that goes away later may
 * come back: its last answer stays, with a word on it. The invariant: however it ends, the terminal is
 * as it was before. Left out: keys but q, sorting, colours. */
#include "client/top.h"

#include <string.h>
#include <unistd.h>

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#ifdef SHOAL_WITH_NCURSES

#include <curses.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>

enum { ASK_MS = 1000, KEYS_MS = 100 };

struct top {
    struct cli_cluster *cluster;
    SCREEN *terminal;
    struct cli_cluster_status shown, next; /* the last whole answer; the one that comes */
    bool have, waiting;                    /* is there one; is one under way */
    int64_t asked_ms;
    char trouble[ERR_TEXT_MAX];
    struct cli_screen screen;
};

/* ---- the terminal ---------------------------------------------------------------------------- */

static int open_terminal(struct top *t, struct err *e)
{
    const char *name = getenv("TERM");
    /* Of the user's locale the characters only: numbers stay as they are everywhere else. */
    setlocale(LC_CTYPE, "");
    t->screen.utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    t->terminal = newterm(NULL, stdout, stdin);
    if (t->terminal == NULL)
        return err_set(e, ERR_UNSUPPORTED, "cannot draw on the terminal \"%s\": is TERM right?",
                       name != NULL ? name : "");
    cbreak();
    noecho();
    nodelay(stdscr, TRUE);
    keypad(stdscr, TRUE);
    curs_set(0);
    return 0;
}

static void close_terminal(struct top *t)
{
    if (t->terminal == NULL)
        return;
    endwin();
    delscreen(t->terminal);
    t->terminal = NULL;
}

static void draw(struct top *t)
{
    struct cli_screen *s = &t->screen;
    int rows, columns;
    getmaxyx(stdscr, rows, columns);
    s->rows = rows > 0 ? (uint32_t)rows : 0;
    s->columns = columns > 0 ? (uint32_t)columns : 0;
    cli_top_draw(&t->shown, t->trouble, s);
    erase();
    for (uint32_t y = 0; y < s->n; y++) {
        const bool strong = y == 0 || y == s->table;
        if (strong)
            attron(A_BOLD);
        mvaddstr((int)y, 0, s->lines[y]);
        if (strong)
            attroff(A_BOLD);
    }
    refresh();
}

/* False: the user has seen enough. */
static bool keys(struct top *t)
{
    for (int key = getch(); key != ERR; key = getch()) {
        if (key == 'q' || key == 'Q')
            return false;
        if (key == KEY_RESIZE)
            draw(t);
    }
    return true;
}

/* ---- the cluster ----------------------------------------------------------------------------- */

static int ask(struct top *t, struct err *e)
{
    t->next = (struct cli_cluster_status){0};
    t->waiting = true;
    t->asked_ms = base_clock_ms();
    return cli_status_send(t->cluster, e);
}

/* What came, and the next question where it is time for one. */
static int take(struct top *t, const struct net_event *ev, struct err *e)
{
    bool done = false;
    int rc = 0;
    if (ev->type == NET_EV_UP)
        return ask(t, e);
    if (ev->type == NET_EV_DOWN) {
        t->waiting = false;
        snprintf(t->trouble, sizeof t->trouble, "no coordinator: %s", t->cluster->why);
    }
    rc = cli_status_take(&t->next, ev, &done, e);
    if (rc == 0 && done) {
        t->shown = t->next;
        t->have = true;
        t->waiting = false;
        t->trouble[0] = 0;
        if (t->terminal == NULL)
            rc = open_terminal(t, e);
    }
    if (rc == 0 && (done || ev->type == NET_EV_DOWN) && t->have)
        draw(t);
    if (rc == 0 && t->cluster->up && !t->waiting && base_clock_ms() - t->asked_ms >= ASK_MS)
        rc = ask(t, e);
    return rc;
}

static int watch(struct top *t, struct err *e)
{
    struct net_event ev;
    for (;;) {
        int rc = cli_cluster_next(t->cluster, KEYS_MS, &ev, e);
        if (rc == ERR_TIMEOUT && t->have) {
            snprintf(t->trouble, sizeof t->trouble, "%s", e->text);
            t->cluster->heard_ms = base_clock_ms(); /* and on we wait */
            draw(t);
            rc = 0;
        }
        if (rc == ERR_CANCELLED && t->have)
            return 0; /* to interrupt it is as good a way to end it as any */
        if (rc == 0)
            rc = take(t, &ev, e);
        if (rc != 0)
            return rc;
        if (t->have && !keys(t))
            return 0;
    }
}

int cli_top(const struct cli_options *o, struct err *e)
{
    if (isatty(STDIN_FILENO) != 1 || isatty(STDOUT_FILENO) != 1)
        return err_set(e, ERR_USAGE, "it needs a terminal; shoal status shows the same once");
    struct top *t = base_zalloc(1, sizeof *t);
    int rc = t == NULL ? err_set(e, ERR_NOMEM, "out of memory for the display")
                       : cli_cluster_open(o, &t->cluster, e);
    if (rc == 0)
        rc = watch(t, e);
    if (t != NULL) {
        close_terminal(t);
        cli_cluster_close(t->cluster);
    }
    base_free(t);
    return rc;
}

#else

int cli_top(const struct cli_options *o, struct err *e)
{
    (void)o;
    return err_set(e, ERR_UNSUPPORTED,
                   "this shoal was built without ncurses: install it (Debian: libncurses-dev) and "
                   "build again; shoal status shows the same once");
}

#endif
