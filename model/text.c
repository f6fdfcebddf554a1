/* The text of an answer: detokenised bytes, stop strings, whole characters.
 *
 * A stop string may begin in one token and end in a later one, and a character may be spread over
 * byte tokens. So the text that a reader may see ends before the longest suffix that is a beginning
 * of a stop string, and before a UTF-8 sequence that is not complete. The invariant: `certain`
 * never shrinks, and no stop string has a byte before it. The same code serves `shoal local` and
 * the coordinator, so both show the same text for the same tokens. */
#include "model/model.h"

#include <string.h>

int model_text_init(struct model_text *t, const struct span *stops, uint32_t n_stops, struct err *e)
{
    memset(t, 0, sizeof *t);
    for (uint32_t i = 0; i < n_stops; i++) {
        const uint32_t len = (uint32_t)stops[i].len;
        if (len == 0)
            continue;
        base_buf_add(&t->stops, &len, sizeof len);
        base_buf_add(&t->stops, stops[i].ptr, len);
        t->n_stops++;
    }
    return t->stops.failed ? err_set(e, ERR_NOMEM, "out of memory for the stop strings") : 0;
}

/* Bytes at the end that are a UTF-8 sequence still incomplete. */
static size_t partial_character(const uint8_t *p, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const uint8_t b = p[n - back];
        if ((b & 0xc0) == 0x80)
            continue;
        const size_t need = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc0 ? 2 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

/* Longest suffix of the text that is a proper beginning of `stop`. */
static size_t overlap(const uint8_t *p, size_t n, struct span stop)
{
    size_t k = stop.len - 1 < n ? stop.len - 1 : n;
    while (k > 0 && memcmp(p + n - k, stop.ptr, k) != 0)
        k--;
    return k;
}

static bool next_stop(const struct model_text *t, size_t *at, struct span *stop)
{
    uint32_t len;
    if (*at >= t->stops.len)
        return false;
    memcpy(&len, t->stops.ptr + *at, sizeof len);
    *stop = (struct span){t->stops.ptr + *at + sizeof len, len};
    *at += sizeof len + len;
    return true;
}

/* First place at or after `from` where `stop` stands; the text's length where it does not. */
static size_t find(const struct base_buf *text, size_t from, struct span stop)
{
    for (size_t i = from; i + stop.len <= text->len; i++)
        if (memcmp(text->ptr + i, stop.ptr, stop.len) == 0)
            return i;
    return text->len;
}

bool model_text_add(struct model_text *t, struct span bytes)
{
    if (t->stopped)
        return true;
    base_buf_add(&t->text, bytes.ptr, bytes.len);
    if (t->text.failed)
        return false;
    size_t held = partial_character(t->text.ptr, t->text.len), cut = t->text.len, at = 0;
    struct span stop;
    while (next_stop(t, &at, &stop)) {
        const size_t place = find(&t->text, t->certain, stop),
                     k = overlap(t->text.ptr, t->text.len, stop);
        cut = place < cut ? place : cut;
        held = k > held ? k : held;
    }
    if (cut < t->text.len) {
        t->text.len = t->certain = cut;
        t->stopped = true;
    } else if (t->text.len - held > t->certain) {
        t->certain = t->text.len - held;
    }
    return t->stopped;
}

void model_text_end(struct model_text *t)
{
    t->certain = t->text.len;
}

void model_text_deinit(struct model_text *t)
{
    base_buf_deinit(&t->text);
    base_buf_deinit(&t->stops);
}
