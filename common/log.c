/* The log and the progress line: everything a library of Shoal ever writes to stderr.
 *
 * One event is one line, written by one write(2), so that threads and processes sharing a terminal
 * do not cut into each other's lines. A line is built in a fixed buffer: logging allocates nothing
 * and may be used to say that memory is out. Whatever a peer or a file put into the text, control
 * characters are replaced: nobody can forge a second line or steer the terminal. Lines that do not
 * fit end in "...".
 *
 * The progress line is rewritten in place and only on a terminal; a log line wipes it first. It
 * stays silent in a pipe and under -q (a level below info).
 *
 * Left out: files, rotation, syslog. A service manager keeps stderr better than we would. */
#include "common/common.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 2048, PROGRESS_EVERY_MS = 100 };

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const char *log_program = "shoal";
static enum base_log_level log_level = BASE_LOG_INFO;
static atomic_bool progress_on_screen;

static const char wipe_line[] = "\r\033[K";

static void write_all(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(STDERR_FILENO, p, n);

        if (done <= 0) {
            return; /* nobody is left to tell */
        }
        p += done;
        n -= (size_t)done;
    }
}

void base_log_init(const char *program, enum base_log_level level)
{
    log_program = program;
    log_level = level;
}

bool base_log_on(enum base_log_level level)
{
    return level <= log_level;
}

/* Replace C0 controls, DEL, and the C1 controls as UTF-8 spells them (terminals obey U+009B). */
static void disarm(char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        unsigned char next = i + 1 < n ? (unsigned char)text[i + 1] : 0;

        if (c < 0x20 || c == 0x7f) {
            text[i] = '?';
        } else if (c == 0xc2 && next >= 0x80 && next < 0xa0) {
            text[i] = '?';
            text[i + 1] = '?';
        }
    }
}

static size_t line_head(char *line, size_t room, enum base_log_level level, const char *event)
{
    struct timespec now;
    struct tm tm;
    int n;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &tm) == NULL) {
        memset(&tm, 0, sizeof tm);
    }
    n = snprintf(line, room, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s %s %s ", tm.tm_year + 1900,
                 tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                 (int)(now.tv_nsec / 1000000), level_names[level], log_program, event);
    if (n < 0) {
        return 0;
    }
    return (size_t)n < room ? (size_t)n : room - 1;
}

void base_log(enum base_log_level level, const char *event, const char *fmt, ...)
{
    char line[LINE_BYTES];
    size_t start = 0, used, room;
    va_list ap;
    int n;

    if (!base_log_on(level)) {
        return;
    }
    if (atomic_load(&progress_on_screen)) {
        memcpy(line, wipe_line, sizeof wipe_line - 1);
        start = sizeof wipe_line - 1;
    }
    room = sizeof line; /* the newline takes the place of the closing NUL */
    used = start + line_head(line + start, room - start, level, event);
    va_start(ap, fmt);
    n = vsnprintf(line + used, room - used, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n >= room - used) {
        memcpy(line + room - 4, "...", 3);
        used = room - 1;
    } else if (n > 0) {
        used += (size_t)n;
    }
    disarm(line + start, used - start);
    line[used] = '\n';
    write_all(line, used + 1);
}

void base_progress_begin(struct base_progress *p, const char *what, uint64_t total)
{
    *p = (struct base_progress){.what = what, .total = total};
    p->last_ms = base_clock_ms();
}

void base_progress_step(struct base_progress *p, uint64_t done)
{
    char line[128];
    int64_t now_ms = base_clock_ms();
    int n;

    if (now_ms - p->last_ms < PROGRESS_EVERY_MS || !base_log_on(BASE_LOG_INFO) ||
        isatty(STDERR_FILENO) != 1) {
        return;
    }
    p->last_ms = now_ms;
    if (p->total > 0) {
        double percent = 100.0 * (double)done / (double)p->total;

        n = snprintf(line, sizeof line, "%s%.80s %3.0f %%", wipe_line, p->what, percent);
    } else {
        n = snprintf(line, sizeof line, "%s%.80s %llu", wipe_line, p->what,
                     (unsigned long long)done);
    }
    if (n > 0 && (size_t)n < sizeof line) {
        atomic_store(&progress_on_screen, true);
        p->shown = true;
        write_all(line, (size_t)n);
    }
}

void base_progress_end(struct base_progress *p)
{
    if (p->shown) {
        write_all(wipe_line, sizeof wipe_line - 1);
        atomic_store(&progress_on_screen, false);
        p->shown = false;
    }
}

char *base_bytes_text(uint64_t bytes, char out[static 24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;

    /* 1023.95 and up would print as "1024.0". */
    while (value >= 1023.95 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024.0;
        unit++;
    }
    if (unit == 0) {
        (void)snprintf(out, 24, "%u B", (unsigned)bytes);
    } else {
        (void)snprintf(out, 24, "%.1f %s", value, units[unit]);
    }
    return out;
}
