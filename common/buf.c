/* A byte buffer that grows.
 *
 * Its failure is sticky: after one growth that did not happen every append does nothing, so code
 * that writes forty pieces checks `failed` once, at the end. The bytes written before the failure
 * stay as they were. A buffer of all zeros is empty and ready; capacity doubles, so n appends cost
 * O(n) copies.
 *
 * Left out: reading back (use a span over ptr and len) and a NUL at the end (a buffer is bytes). */
#include "common/common.h"

#include <string.h>

enum { BUF_FIRST_BYTES = 256 };

/* Make room for n more bytes. */
static bool buf_reserve(struct base_buf *b, size_t n)
{
    size_t need, cap;
    uint8_t *grown;

    if (b->failed || !base_add(b->len, n, &need)) {
        b->failed = true;
        return false;
    }
    if (need <= b->cap) {
        return true;
    }
    if (!base_mul(b->cap, 2, &cap) || cap < need) {
        cap = need;
    }
    if (cap < BUF_FIRST_BYTES) {
        cap = BUF_FIRST_BYTES;
    }
    grown = base_realloc(b->ptr, cap);
    if (grown == NULL) {
        b->failed = true;
        return false;
    }
    b->ptr = grown;
    b->cap = cap;
    return true;
}

void base_buf_add(struct base_buf *b, const void *p, size_t n)
{
    if (n == 0 || !buf_reserve(b, n)) {
        return;
    }
    memcpy(b->ptr + b->len, p, n);
    b->len += n;
}

void base_buf_printf(struct base_buf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    /* vsnprintf ends its text with a NUL, which gets room but does not count. */
    if (n < 0 || !buf_reserve(b, (size_t)n + 1)) {
        b->failed = true;
        return;
    }
    va_start(ap, fmt);
    (void)vsnprintf((char *)b->ptr + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void base_buf_deinit(struct base_buf *b)
{
    base_free(b->ptr);
    *b = (struct base_buf){0};
}
