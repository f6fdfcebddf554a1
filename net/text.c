/* Text from outside: UTF-8, checked strictly.
 *
 * Whatever a peer or a file calls text may end on somebody's terminal or in a log, so text is
 * well-formed UTF-8 without control characters, and everything that is not is refused where it
 * enters, not cleaned up where it is shown. Only newline and tab pass, since sentences may hold
 * them. The one exception is net_text_fit: it makes our own sentences (which may quote a file
 * name of any bytes) acceptable to the other side before they are sent.
 *
 * The invariant: net_utf8_next reads no byte beyond the n that it was told of.
 *
 * Left out: normalisation, width, upper and lower case. Nothing here compares words of a
 * language. */
#include "net/text.h"

#include "net/net.h"

#include <string.h>

/* The shortest value that may be spelt with so many bytes: anything below is an overlong form. */
static const uint32_t least_value[5] = {0, 0, 0x80, 0x800, 0x10000};

size_t net_utf8_next(const uint8_t *p, size_t n, uint32_t *character)
{
    uint32_t value;
    size_t bytes;

    if (n == 0) {
        return 0;
    }
    if (p[0] < 0x80) {
        *character = p[0];
        return 1;
    }
    if (p[0] >= 0xc0 && p[0] < 0xe0) {
        bytes = 2;
    } else if (p[0] >= 0xe0 && p[0] < 0xf0) {
        bytes = 3;
    } else if (p[0] >= 0xf0 && p[0] < 0xf8) {
        bytes = 4;
    } else {
        return 0;
    }
    if (bytes > n) {
        return 0;
    }
    value = p[0] & (0x7fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        value = value << 6 | (p[i] & 0x3fu);
    }
    if (value < least_value[bytes] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) {
        return 0;
    }
    *character = value;
    return bytes;
}

bool net_text_control(uint32_t character)
{
    return (character < 0x20 && character != '\n' && character != '\t') ||
           (character >= 0x7f && character < 0xa0);
}

bool net_text_ok(struct span text)
{
    for (size_t at = 0; at < text.len;) {
        uint32_t character;
        size_t bytes = net_utf8_next(text.ptr + at, text.len - at, &character);

        if (bytes == 0 || net_text_control(character)) {
            return false;
        }
        at += bytes;
    }
    return true;
}

struct span net_text_fit(char *text, size_t max_bytes)
{
    uint8_t *p = (uint8_t *)text;
    size_t len = strlen(text), at = 0;

    while (at < len) {
        uint32_t character = 0;
        size_t bytes = net_utf8_next(p + at, len - at, &character);

        if (bytes == 0 || net_text_control(character)) {
            bytes = bytes == 0 ? 1 : bytes;
            memset(p + at, '?', bytes);
        }
        if (bytes > max_bytes - at) {
            break;
        }
        at += bytes;
    }
    return (struct span){p, at};
}

char *net_quote(const char *text, char out[static NET_QUOTE_MAX])
{
    static const char more[] = "...";
    size_t len = strlen(text), room = NET_QUOTE_MAX - sizeof "\"\"" - strlen(more), at = 0;

    /* Step by whole characters, so that the message stays UTF-8. */
    while (at < len) {
        uint32_t character;
        size_t bytes = net_utf8_next((const uint8_t *)text + at, len - at, &character);

        bytes = bytes == 0 ? 1 : bytes;
        if (bytes > room - at) {
            break;
        }
        at += bytes;
    }
    (void)snprintf(out, NET_QUOTE_MAX, "\"%.*s%s\"", (int)at, text, at < len ? more : "");
    return out;
}
