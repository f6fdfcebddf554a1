/* JSON out: texts made fit for it, numbers, one object a line.
 *
 * jansson refuses strings that are not UTF-8, and what a model writes need not be: it may end in
 * the middle of a character, and byte tokens may come in any order. Each byte that begins no
 * well-formed sequence becomes U+FFFD, so an answer can always be printed. Numbers have 9 digits,
 * which give an F32 back exactly. The invariant: what is printed is one line that a JSON reader
 * takes. */
#include "client/client.h"

#include <math.h>
#include <string.h>

/* No overlong forms, no surrogates, nothing beyond U+10FFFF. */
size_t cli_utf8_length(struct span s)
{
    const uint8_t *p = s.ptr;
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t len = p[0] < 0x80   ? 1
                       : p[0] < 0xc2 ? 0
                       : p[0] < 0xe0 ? 2
                       : p[0] < 0xf0 ? 3
                       : p[0] < 0xf5 ? 4
                                     : 0;
    uint32_t c = len < 2 ? p[0] : p[0] & (0x7fu >> len);
    if (len == 0 || len > s.len)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3fu);
    }
    return c < least[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : len;
}

bool cli_utf8_ok(struct span s)
{
    for (size_t i = 0; i < s.len;) {
        const size_t len = cli_utf8_length((struct span){s.ptr + i, s.len - i});
        if (len == 0)
            return false;
        i += len;
    }
    return true;
}

json_t *cli_json_text(struct span s)
{
    struct base_buf b = {0};
    json_t *text = NULL;
    if (s.len == 0)
        return json_string("");
    if (cli_utf8_ok(s))
        return json_stringn((const char *)s.ptr, s.len);
    for (size_t i = 0; i < s.len;) {
        const size_t len = cli_utf8_length((struct span){s.ptr + i, s.len - i});
        if (len == 0)
            base_buf_add(&b, "\xef\xbf\xbd", 3);
        else
            base_buf_add(&b, s.ptr + i, len);
        i += len == 0 ? 1 : len;
    }
    if (!b.failed)
        text = json_stringn((const char *)b.ptr, b.len);
    base_buf_deinit(&b);
    return text;
}

json_t *cli_json_number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

int cli_json_print(json_t *object, bool failed, struct err *e)
{
    int rc = 0;
    if (object == NULL || failed)
        rc = err_set(e, ERR_NOMEM, "out of memory for the answer's JSON");
    else if (json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0 ||
             putchar('\n') == EOF)
        rc = err_set(e, ERR_IO, "cannot write to the standard output: is the disk full?");
    json_decref(object);
    return rc;
}
