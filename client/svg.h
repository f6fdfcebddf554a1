/* A few marks of SVG, private to what draws pictures. Lengths are user units, a picture's pixels;
 * colours and styles are the program's own texts and are not escaped, everything else is. */
#ifndef CLIENT_SVG_H
#define CLIENT_SVG_H

#include "client/client.h"

struct cli_svg_style {
    const char *fill;
    double size;        /* of letters */
    const char *anchor; /* "start", "middle", "end" */
    bool bold;
};

/* A text's characters as XML has them, at most max_chars of them, the last "…" where there were
 * more. What is no character of UTF-8 or of XML becomes U+FFFD. */
void cli_svg_escape(struct base_buf *b, struct span text, size_t max_chars);
void cli_svg_text(struct base_buf *b, double x, double y, struct cli_svg_style s, size_t max_chars,
                  const char *text);
void cli_svg_textf(struct base_buf *b, double x, double y, struct cli_svg_style s, const char *fmt,
                   ...) __attribute__((format(printf, 5, 6)));
/* In lines of at most `chars` characters, broken at spaces; how many lines. */
uint32_t cli_svg_paragraph(struct base_buf *b, double x, double y, double line,
                           struct cli_svg_style s, size_t chars, const char *text);
uint32_t cli_svg_paragraph_lines(size_t chars, const char *text);
void cli_svg_rect(struct base_buf *b, double x, double y, double w, double h, const char *fill);
/* Attributes besides: stroke, corners. */
void cli_svg_rect_with(struct base_buf *b, double x, double y, double w, double h, const char *fill,
                       const char *attributes);
void cli_svg_dot(struct base_buf *b, double x, double y, double r, const char *fill,
                 const char *stroke);

#endif
