/* Text from outside: what counts as text on the wire and in a configuration file, and how to
 * quote a stranger's words in an error message. Private to net/. */
#ifndef NET_TEXT_H
#define NET_TEXT_H

#include "common/common.h"

/* Bytes of the character at p[0], n bytes being there; 0 where they are not well-formed UTF-8
 * (overlong forms, surrogates, values above U+10FFFF and cut characters included). */
size_t net_utf8_next(const uint8_t *p, size_t n, uint32_t *character);
/* C0 controls except newline and tab, DEL, and the C1 controls that terminals obey. */
bool net_text_control(uint32_t character);
/* Well-formed UTF-8 without such controls; the empty text is good. */
bool net_text_ok(struct span text);

/* `text` in double quotes, cut at a character to fit, for a message that names it. Returns out. */
enum { NET_QUOTE_MAX = 72 };
char *net_quote(const char *text, char out[static NET_QUOTE_MAX]);

#endif
