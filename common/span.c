/* Spans: comparing borrowed bytes with the strings of our own code.
 *
 * A span carries its length, so text from a file or a peer is never searched for a NUL that may not
 * be there. Only our own literals become spans by strlen. Everything else that one does with a span
 * (cutting, parsing) belongs to the parser that knows what the bytes mean. */
#include "common/common.h"

#include <string.h>

struct span base_span_str(const char *s)
{
    return (struct span){(const uint8_t *)s, strlen(s)};
}

bool base_span_is(struct span a, const char *s)
{
    size_t n = strlen(s);

    return a.len == n && (n == 0 || memcmp(a.ptr, s, n) == 0);
}
