/* What a person sees: lines on stderr, text on stdout, and the keys that interrupt.
 *
 * Texts come from models, files and other machines. Whatever is in them, a line on stderr stays one
 * line, and a terminal is not steered by it: control characters are replaced where a terminal
 * reads. Into a pipe the text of an answer goes as it is, byte for byte, since programs compare it.
 *
 * A note is a line that says what is being waited for; it is rewritten in place, only on a
 * terminal, and is gone before anything else is written. Left out: colours, widths. */
#include "client/client.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

/* ---- interrupts ------------------------------------------------------------------------------ */

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    interrupted = number;
}

void cli_interrupt_begin(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    a.sa_flags = (int)SA_RESETHAND;
    sigemptyset(&a.sa_mask);
    (void)sigaction(SIGINT, &a, NULL);
    (void)sigaction(SIGTERM, &a, NULL);
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

bool cli_interrupt_take(void)
{
    if (interrupted != SIGINT)
        return false;
    interrupted = 0;
    cli_interrupt_begin();
    return true;
}

/* ---- stderr ---------------------------------------------------------------------------------- */

static bool note_shown;

/* Replace what a terminal would obey: C0 controls, DEL, and C1 controls as UTF-8 spells them. */
static void disarm(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p != 0; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            *p = p[1] = '?';
    }
}

static void note_clear(void)
{
    if (note_shown)
        fputs("\r\033[K", stderr);
    note_shown = false;
}

void cli_say(const char *fmt, ...)
{
    char line[2 * ERR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    disarm(line);
    (void)fflush(stdout);
    note_clear();
    fprintf(stderr, "%s\n", line);
}

void cli_note(const char *fmt, ...)
{
    char line[120];
    va_list ap;
    if (!base_log_on(BASE_LOG_INFO) || isatty(STDERR_FILENO) != 1)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    disarm(line);
    note_clear();
    fputs(line, stderr);
    (void)fflush(stderr);
    note_shown = line[0] != 0;
}

/* ---- stdout ---------------------------------------------------------------------------------- */

void cli_put_text(struct span text)
{
    static int terminal = -1;
    if (terminal < 0)
        terminal = isatty(STDOUT_FILENO) == 1;
    if (text.len > 0)
        note_clear();
    if (terminal == 0) {
        (void)fwrite(text.ptr, 1, text.len, stdout);
        return;
    }
    for (size_t i = 0; i < text.len; i++) {
        const uint8_t b = text.ptr[i];
        const bool c1 =
            b == 0xc2 && i + 1 < text.len && text.ptr[i + 1] >= 0x80 && text.ptr[i + 1] < 0xa0;
        i += c1 ? 1 : 0;
        putchar(c1 || b == 0x7f || (b < 0x20 && b != '\n' && b != '\t') ? '?' : b);
    }
}

void cli_put_name(struct span text, size_t max_bytes)
{
    char shown[1024];
    size_t n = text.len < max_bytes ? text.len : max_bytes;
    n = n < sizeof shown - 1 ? n : sizeof shown - 1;
    while (n < text.len && n > 0 && (text.ptr[n] & 0xc0) == 0x80)
        n--; /* whole characters only */
    for (size_t i = 0; i < n; i++)
        shown[i] = (char)(text.ptr[i] == 0 ? '?' : text.ptr[i]);
    shown[n] = 0;
    disarm(shown);
    fputs(shown, stdout);
    if (n < text.len)
        fputs("...", stdout);
}

int cli_out_check(struct err *e)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return err_set(e, ERR_IO, "cannot write to the standard output: is the disk full?");
    return 0;
}
