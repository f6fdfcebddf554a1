/* SVG, as far as a picture of boxes and texts needs it: marks are appended to a buffer, one a line.
 *
 * Texts come from configurations and model files, so each passes cli_svg_escape, which leaves nothing
 * that XML reads as markup and no character that it forbids: the invariant is that the picture is
 * well-formed whatever the names are. Widths of letters are not known here; callers cut texts by
 * characters and leave room. */
#include "client/svg.h"

#include <stdarg.h>
#include <string.h>

/* Bytes of the next character; `bad`: it cannot stand in XML. */
static size_t next(struct span rest, bool *bad)
{
    const size_t len = cli_utf8_length(rest);
    const uint8_t *p = rest.ptr;
    *bad = len == 0 || p[0] < 0x20 || p[0] == 0x7f ||
           (len == 3 && p[0] == 0xef && p[1] == 0xbf && p[2] >= 0xbe);
    return len == 0 ? 1 : len;
}

static size_t count(struct span text)
{
    size_t n = 0;
    bool bad;
    for (size_t i = 0; i < text.len; n++)
        i += next((struct span){text.ptr + i, text.len - i}, &bad);
    return n;
}

static void put(struct base_buf *b, const char *s)
{
    base_buf_add(b, s, strlen(s));
}

static void put_char(struct base_buf *b, const uint8_t *p, size_t len, bool bad)
{
    if (bad)
        put(b, "\xef\xbf\xbd");
    else if (p[0] == '&')
        put(b, "&amp;");
    else if (p[0] == '<')
        put(b, "&lt;");
    else if (p[0] == '>')
        put(b, "&gt;");
    else if (p[0] == '"')
        put(b, "&quot;");
    else
        base_buf_add(b, p, len);
}

void cli_svg_escape(struct base_buf *b, struct span text, size_t max_chars)
{
    const bool cut = count(text) > max_chars;
    size_t left = cut ? max_chars - 1 : max_chars;
    for (size_t i = 0; i < text.len && left > 0; left--) {
        bool bad;
        const size_t len = next((struct span){text.ptr + i, text.len - i}, &bad);
        put_char(b, text.ptr + i, len, bad);
        i += len;
    }
    if (cut)
        put(b, "\xe2\x80\xa6");
}

static void put_span(struct base_buf *b, double x, double y, struct cli_svg_style s,
                     struct span text, size_t max_chars)
{
    base_buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%.4g\" fill=\"%s\"", x, y, s.size,
                    s.fill);
    if (s.anchor != NULL)
        base_buf_printf(b, " text-anchor=\"%s\"", s.anchor);
    put(b, s.bold ? " font-weight=\"bold\">" : ">");
    cli_svg_escape(b, text, max_chars);
    put(b, "</text>\n");
}

void cli_svg_text(struct base_buf *b, double x, double y, struct cli_svg_style s, size_t max_chars,
                  const char *text)
{
    put_span(b, x, y, s, base_span_str(text), max_chars);
}

void cli_svg_textf(struct base_buf *b, double x, double y, struct cli_svg_style s, const char *fmt,
                   ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    cli_svg_text(b, x, y, s, sizeof text, text);
}

/* Bytes of the line that `text` begins with. A word that is longer than a line is not broken. */
static size_t line_of(size_t chars, const char *text)
{
    size_t end = strcspn(text, " ");
    while (text[end] != 0) {
        const size_t more = end + 1 + strcspn(text + end + 1, " ");
        if (count((struct span){(const uint8_t *)text, more}) > chars)
            break;
        end = more;
    }
    return end;
}

static uint32_t paragraph(struct base_buf *b, double x, double y, double line,
                          struct cli_svg_style s, size_t chars, const char *text)
{
    uint32_t n = 0;
    while (text[0] != 0) {
        const size_t len = line_of(chars, text);
        if (b != NULL)
            put_span(b, x, y + n * line, s, (struct span){(const uint8_t *)text, len}, len + 1);
        text += len;
        text += text[0] == ' ' ? 1 : 0;
        n++;
    }
    return n;
}

uint32_t cli_svg_paragraph(struct base_buf *b, double x, double y, double line,
                           struct cli_svg_style s, size_t chars, const char *text)
{
    return paragraph(b, x, y, line, s, chars, text);
}

uint32_t cli_svg_paragraph_lines(size_t chars, const char *text)
{
    return paragraph(NULL, 0, 0, 0, (struct cli_svg_style){0}, chars, text);
}

void cli_svg_rect(struct base_buf *b, double x, double y, double w, double h, const char *fill)
{
    cli_svg_rect_with(b, x, y, w, h, fill, "");
}

void cli_svg_rect_with(struct base_buf *b, double x, double y, double w, double h, const char *fill,
                       const char *attributes)
{
    base_buf_printf(
        b, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\"%s%s/>\n", x, y,
        w, h, fill, attributes[0] != 0 ? " " : "", attributes);
}

void cli_svg_dot(struct base_buf *b, double x, double y, double r, const char *fill,
                 const char *stroke)
{
    base_buf_printf(b,
                    "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\" stroke=\"%s\" "
                    "stroke-width=\"1.5\"/>\n",
                    x, y, r, fill, stroke);
}
