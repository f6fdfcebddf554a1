/* Ini files: sections and "key: value" lines, one entry at a time.
 *
 *   [cluster]              a section
 *   [worker alpha]         a section with a name
 *     data: tcp://...      an entry, indented as one likes; "key = value" says the same
 *   # words                a comment: '#' at the start of a line or after a space or tab
 *
 * We read this ourselves because the usual readers take an indented line for a continuation of the
 * one above and cut long lines silently. Here a line is a line, and what is not understood is an
 * error that names file and line: nothing is skipped, cut or guessed.
 *
 * The invariant: a line is checked as a whole (length, NUL, UTF-8, control characters) before any
 * of it is looked at, so entries hold clean text that may be shown to a person.
 *
 * Left out: quotes, escapes, continued lines, included files. What a key means, whether it may
 * repeat and whether it exists is the caller's to say. */
#include "net/net.h"
#include "net/text.h"

#include <string.h>

enum { FILE_BYTES_MAX = 1 << 20 };

struct walk {
    const char *file;
    unsigned line;
    bool in_section;
    char text[NET_LINE_MAX + 1];    /* the line at hand, cut into pieces by NULs */
    char section[NET_LINE_MAX + 1]; /* "worker", a NUL, "alpha" */
    const char *name;               /* points into section */
    int (*entry)(void *arg, const struct net_ini_entry *x, struct err *e);
    void *arg;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Cut blanks off both ends, in place. */
static char *trim(char *s)
{
    size_t n;

    s += strspn(s, " \t");
    for (n = strlen(s); n > 0 && is_blank(s[n - 1]); n--) {
        s[n - 1] = '\0';
    }
    return s;
}

static void cut_comment(char *s)
{
    for (size_t i = 0; s[i] != '\0'; i++) {
        if (s[i] == '#' && (i == 0 || is_blank(s[i - 1]))) {
            s[i] = '\0';
            return;
        }
    }
}

/* Check a raw line and copy it to w->text, NUL-terminated. */
static int take_line(struct walk *w, struct span raw, struct err *e)
{
    if (raw.len > 0 && raw.ptr[raw.len - 1] == '\r') {
        raw.len--;
    }
    if (raw.len > NET_LINE_MAX) {
        return err_set(e, ERR_FORMAT, "the line has %zu bytes, at most %d are allowed", raw.len,
                       NET_LINE_MAX);
    }
    for (size_t at = 0; at < raw.len;) {
        uint32_t character;
        size_t bytes = net_utf8_next(raw.ptr + at, raw.len - at, &character);

        if (bytes == 0) {
            return err_set(e, ERR_FORMAT, "byte %zu of the line is not UTF-8 text", at + 1);
        }
        if (net_text_control(character)) {
            return err_set(e, ERR_FORMAT, "byte %zu of the line is the control character 0x%02x",
                           at + 1, (unsigned)character);
        }
        at += bytes;
    }
    memcpy(w->text, raw.ptr, raw.len);
    w->text[raw.len] = '\0';
    return 0;
}

static int tell(struct walk *w, const char *key, const char *value, struct err *e)
{
    const struct net_ini_entry x = {
        .section = w->section, .name = w->name, .key = key, .value = value, .line = w->line};

    return w->entry(w->arg, &x, e);
}

/* `s` begins with '[' and has no blanks at its ends. */
static int take_section(struct walk *w, char *s, struct err *e)
{
    char *close = strchr(s, ']'), *inner;
    size_t word;

    if (close == NULL) {
        return err_set(e, ERR_FORMAT, "\"]\" is missing at the end of the section's line");
    }
    if (close[1] != '\0') {
        return err_set(e, ERR_FORMAT, "nothing but a comment may follow the \"]\" of a section");
    }
    *close = '\0';
    inner = trim(s + 1);
    word = strcspn(inner, " \t");
    if (word == 0) {
        return err_set(e, ERR_FORMAT, "the section has no name");
    }
    memcpy(w->section, inner, strlen(inner) + 1);
    w->name = w->section + strlen(w->section);
    if (w->section[word] != '\0') {
        w->section[word] = '\0';
        w->name = trim(w->section + word + 1);
    }
    w->in_section = true;
    return tell(w, NULL, NULL, e);
}

static int take_entry(struct walk *w, char *s, struct err *e)
{
    size_t at = strcspn(s, ":=");
    char *key;

    if (s[at] == '\0') {
        return err_set(e, ERR_FORMAT, "\":\" is missing: a line is [section] or key: value");
    }
    if (!w->in_section) {
        return err_set(e, ERR_FORMAT, "a key before the first [section]");
    }
    s[at] = '\0';
    key = trim(s);
    if (key[0] == '\0') {
        return err_set(e, ERR_FORMAT, "the key before \":\" is missing");
    }
    return tell(w, key, trim(s + at + 1), e);
}

static int take(struct walk *w, struct span raw, struct err *e)
{
    char *s;
    int rc = take_line(w, raw, e);

    if (rc == 0) {
        cut_comment(w->text);
        s = trim(w->text);
        if (s[0] == '[') {
            rc = take_section(w, s, e);
        } else if (s[0] != '\0') {
            rc = take_entry(w, s, e);
        }
    }
    return rc == 0 ? 0 : err_wrap(e, rc, "%s:%u", w->file, w->line);
}

int net_ini_read_bytes(const char *file, struct span text,
                       int (*entry)(void *arg, const struct net_ini_entry *x, struct err *e),
                       void *arg, struct err *e)
{
    static const uint8_t bom[] = {0xef, 0xbb, 0xbf};
    struct walk w = {.file = file, .entry = entry, .arg = arg};
    size_t at = 0;
    int rc = 0;

    /* Some editors put a byte order mark before UTF-8 text; it is not part of the first line. */
    if (text.len >= sizeof bom && memcmp(text.ptr, bom, sizeof bom) == 0) {
        at = sizeof bom;
    }
    while (rc == 0 && at < text.len) {
        const uint8_t *start = text.ptr + at;
        const uint8_t *end = memchr(start, '\n', text.len - at);
        size_t len = end != NULL ? (size_t)(end - start) : text.len - at;

        w.line++;
        rc = take(&w, (struct span){start, len}, e);
        at += len + 1;
    }
    return rc;
}

int net_ini_read(const char *path,
                 int (*entry)(void *arg, const struct net_ini_entry *x, struct err *e), void *arg,
                 struct err *e)
{
    uint8_t *text = NULL;
    size_t len = 0;
    int rc = base_file_read(path, FILE_BYTES_MAX, &text, &len, e);

    if (rc != 0) {
        return rc;
    }
    rc = net_ini_read_bytes(path, (struct span){text, len}, entry, arg, e);
    base_free(text);
    return rc;
}
