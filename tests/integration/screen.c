/* Runs a program on a terminal of its own and looks at the screen, as a person would.
 *
 *   screen COLUMNS ROWS STEP... -- PROGRAM ARG...
 *
 *   wait:TEXT   until the screen shows it, a minute at most
 *   gone:TEXT   until it does not
 *   key:K       press it
 *   size:CxR    make the window so large
 *   show        print the screen
 *   int         SIGINT, as from the keyboard
 *
 * Then the program must end: its exit status is ours, 98 where it does not end, 97 where a step failed,
 * with the screen on stderr. The terminal is a VT52, the least that can place a cursor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { COLUMNS_MAX = 400, ROWS_MAX = 100, STEP_S = 60, END_S = 20, STEP_FAILED = 97, NO_END = 98 };

static char cells[ROWS_MAX][COLUMNS_MAX][5]; /* one character each */
static int n_rows, n_columns, row, column, escape; /* escape: characters of a sequence so far */
static int address_row;
static int master;
static pid_t child;

/* ---- the screen ------------------------------------------------------------------------------ */

static void clear_from(int y, int x)
{
    for (; y < ROWS_MAX; y++, x = 0)
        for (; x < COLUMNS_MAX; x++)
            strcpy(cells[y][x], " ");
}

static int bound(int v, int n)
{
    return v < 0 ? 0 : v >= n ? n - 1 : v;
}

static void on_escape(int c)
{
    escape = 0;
    switch (c) {
    case 'A':
    case 'I':
        row = bound(row - 1, n_rows);
        break;
    case 'B':
        row = bound(row + 1, n_rows);
        break;
    case 'C':
        column = bound(column + 1, n_columns);
        break;
    case 'D':
        column = bound(column - 1, n_columns);
        break;
    case 'H':
        row = column = 0;
        break;
    case 'J':
        clear_from(row, column);
        break;
    case 'K':
        for (int x = column; x < COLUMNS_MAX; x++)
            strcpy(cells[row][x], " ");
        break;
    case 'Y':
        escape = 2;
        break;
    default: /* keypads and character sets */
        break;
    }
}

static void on_text(int c)
{
    char *cell = cells[row][column];
    if ((c & 0xc0) == 0x80) { /* goes on with the character before */
        cell = cells[row][column > 0 ? column - 1 : 0];
        const size_t n = strlen(cell);
        if (n < 4) {
            cell[n] = (char)c;
            cell[n + 1] = 0;
        }
        return;
    }
    cell[0] = (char)c;
    cell[1] = 0;
    column = bound(column + 1, n_columns);
}

static void on_byte(int c)
{
    if (escape == 1) {
        on_escape(c);
    } else if (escape == 2) {
        address_row = c - 32;
        escape = 3;
    } else if (escape == 3) {
        row = bound(address_row, n_rows);
        column = bound(c - 32, n_columns);
        escape = 0;
    } else if (c == 27) {
        escape = 1;
    } else if (c == '\r') {
        column = 0;
    } else if (c == '\n') {
        if (row == n_rows - 1) {
            memmove(cells[0], cells[1], sizeof cells - sizeof cells[0]);
            clear_from(row, 0);
        }
        row = bound(row + 1, n_rows);
    } else if (c == '\b') {
        column = bound(column - 1, n_columns);
    } else if (c == '\t') {
        column = bound((column / 8 + 1) * 8, n_columns);
    } else if (c >= 32 && c != 127) {
        on_text(c);
    }
}

static const char *line_text(int y)
{
    static char text[COLUMNS_MAX * 4 + 1];
    size_t n = 0;
    text[0] = 0;
    for (int x = 0; x < n_columns; x++) {
        strcpy(text + n, cells[y][x]);
        n += strlen(cells[y][x]);
    }
    while (n > 0 && text[n - 1] == ' ')
        text[--n] = 0;
    return text;
}

static bool shows(const char *text)
{
    for (int y = 0; y < n_rows; y++)
        if (strstr(line_text(y), text) != NULL)
            return true;
    return false;
}

static void show(FILE *out)
{
    for (int y = 0; y < n_rows; y++)
        fprintf(out, "%s\n", line_text(y));
}

/* ---- the program ----------------------------------------------------------------------------- */

static void resize(int columns, int rows)
{
    struct winsize w = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    n_columns = columns;
    n_rows = rows;
    clear_from(0, 0);
    row = column = 0;
    (void)ioctl(master, TIOCSWINSZ, &w);
}

/* False: the terminal is not to be had. */
static bool start(char **argv)
{
    master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
        return false;
    resize(n_columns, n_rows);
    child = fork();
    if (child != 0)
        return child > 0;
    setsid();
    const int fd = open(ptsname(master), O_RDWR);
    if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) != 0)
        _exit(126);
    dup2(fd, 0);
    dup2(fd, 1);
    dup2(fd, 2);
    close(master);
    setenv("TERM", "vt52", 1);
    unsetenv("LINES");
    unsetenv("COLUMNS");
    execvp(argv[0], argv);
    _exit(127);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Take what the program writes for a moment; false: it has closed the terminal. */
static bool listen_a_while(void)
{
    unsigned char bytes[4096];
    struct pollfd p = {.fd = master, .events = POLLIN};
    if (poll(&p, 1, 50) <= 0)
        return true;
    const ssize_t n = read(master, bytes, sizeof bytes);
    for (ssize_t i = 0; i < n; i++)
        on_byte(bytes[i]);
    return n > 0 || (n < 0 && errno == EINTR);
}

static bool wait_for(const char *text, bool there)
{
    const double until = now_s() + STEP_S;
    while (now_s() < until) {
        const bool open = listen_a_while();
        if (shows(text) == there)
            return true;
        if (!open)
            return false;
    }
    return false;
}

static bool step(const char *s)
{
    int columns, rows;
    if (strncmp(s, "wait:", 5) == 0)
        return wait_for(s + 5, true);
    if (strncmp(s, "gone:", 5) == 0)
        return wait_for(s + 5, false);
    if (strncmp(s, "key:", 4) == 0)
        return write(master, s + 4, strlen(s + 4)) == (ssize_t)strlen(s + 4);
    if (strcmp(s, "int") == 0)
        return write(master, "\003", 1) == 1;
    if (strcmp(s, "show") == 0) {
        show(stdout);
        return true;
    }
    if (sscanf(s, "size:%dx%d", &columns, &rows) == 2 && columns > 0 && columns <= COLUMNS_MAX &&
        rows > 0 && rows <= ROWS_MAX) {
        resize(columns, rows);
        return true;
    }
    return false;
}

/* The program's exit status. */
static int end(void)
{
    const double until = now_s() + END_S;
    int status;
    while (now_s() < until) {
        if (waitpid(child, &status, WNOHANG) == child) {
            while (listen_a_while() && now_s() < until)
                if (poll(&(struct pollfd){.fd = master, .events = POLLIN}, 1, 0) <= 0)
                    break;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        listen_a_while();
    }
    return NO_END;
}

int main(int argc, char **argv)
{
    int at = 3;
    while (at < argc && strcmp(argv[at], "--") != 0)
        at++;
    if (at + 1 >= argc)
        return STEP_FAILED;
    n_columns = bound(atoi(argv[1]), COLUMNS_MAX + 1);
    n_rows = bound(atoi(argv[2]), ROWS_MAX + 1);
    if (n_columns == 0 || n_rows == 0 || !start(argv + at + 1)) {
        fprintf(stderr, "no terminal: %s\n", strerror(errno));
        return STEP_FAILED;
    }
    int rc = 0;
    for (int i = 3; i < at && rc == 0; i++)
        if (!step(argv[i])) {
            fprintf(stderr, "failed: %s\n", argv[i]);
            rc = STEP_FAILED;
        }
    if (rc == 0)
        rc = end();
    if (rc == STEP_FAILED || rc == NO_END) {
        show(stderr);
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
    }
    return rc;
}
