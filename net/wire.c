/* The codec: struct to bytes and back, for every message of wire.def.
 *
 * wire.def is included three times. The first makes one function a message that measures it and
 * refuses what the other side would refuse, the second one that writes it, the third one that
 * reads it. So the rules of a kind of field stand once, in one function of this file, and a new
 * message costs a few lines in wire.def and none here.
 *
 * Invariants. A cursor checks before it moves: no byte beyond the message is ever read, whatever
 * the message says. A count is compared with the field's maximum before it is multiplied or
 * believed in any other way. A message that is measured (net_msg_bytes > 0) decodes on the other
 * side to the same fields, and bytes that decode encode to the same bytes: there is one encoding
 * of a message.
 *
 * Left out: the envelope and the order of messages (net/socket.c and the cores know them),
 * meaning (an index within its maximum may still point at nothing), and allocation: decoded
 * fields borrow the bytes they were decoded from. */
#include "net/net.h"
#include "net/text.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- reading --------------------------------------------------------------------------------- */

struct cursor {
    const uint8_t *at;
    size_t left;
};

static bool take(struct cursor *c, size_t n, const uint8_t **out)
{
    if (n > c->left) {
        return false;
    }
    *out = c->at;
    c->at += n;
    c->left -= n;
    return true;
}

/* No message has a U8 just now, but wire.def offers it. */
__attribute__((unused)) static bool take_u8(struct cursor *c, uint8_t *out)
{
    const uint8_t *p;

    if (!take(c, 1, &p)) {
        return false;
    }
    *out = *p;
    return true;
}

static bool take_u32(struct cursor *c, uint32_t *out)
{
    const uint8_t *p;

    if (!take(c, 4, &p)) {
        return false;
    }
    *out = net_u32_at((struct net_list){p, 1}, 0);
    return true;
}

static bool take_u64(struct cursor *c, uint64_t *out)
{
    const uint8_t *p;

    if (!take(c, 8, &p)) {
        return false;
    }
    *out = net_u64_at((struct net_list){p, 1}, 0);
    return true;
}

static bool take_f64(struct cursor *c, double *out)
{
    const uint8_t *p;

    if (!take(c, 8, &p)) {
        return false;
    }
    *out = net_f64_at((struct net_list){p, 1}, 0);
    return isfinite(*out);
}

/* A count that is at most max. Maxima are small (checked below), so callers may multiply it. */
static bool take_count(struct cursor *c, uint32_t max, uint32_t *n)
{
    return take_u32(c, n) && *n <= max;
}

static bool take_bytes(struct cursor *c, uint32_t max, struct span *out)
{
    uint32_t n;

    if (!take_count(c, max, &n) || !take(c, n, &out->ptr)) {
        return false;
    }
    out->len = n;
    return true;
}

static bool take_text(struct cursor *c, uint32_t max, struct span *out)
{
    return take_bytes(c, max, out) && net_text_ok(*out);
}

static bool take_list(struct cursor *c, uint32_t max, size_t width, struct net_list *out)
{
    return take_count(c, max, &out->n) && take(c, out->n * width, &out->ptr);
}

static bool all_finite(struct net_list l)
{
    for (uint32_t i = 0; i < l.n; i++) {
        if (!isfinite(net_f64_at(l, i))) {
            return false;
        }
    }
    return true;
}

static bool take_texts(struct cursor *c, uint32_t max, uint32_t max_each, struct net_list *out)
{
    struct span each;

    if (!take_count(c, max, &out->n)) {
        return false;
    }
    out->ptr = c->at;
    for (uint32_t i = 0; i < out->n; i++) {
        if (!take_text(c, max_each, &each)) {
            return false;
        }
    }
    return true;
}

/* ---- measuring ------------------------------------------------------------------------------- */

static bool add_span(size_t *total, struct span s, uint32_t max)
{
    if (s.len > max) {
        return false;
    }
    *total += 4 + s.len;
    return true;
}

static bool add_text(size_t *total, struct span s, uint32_t max)
{
    return add_span(total, s, max) && net_text_ok(s);
}

static bool add_list(size_t *total, struct net_list l, uint32_t max, size_t width)
{
    if (l.n > max) {
        return false;
    }
    *total += 4 + l.n * width;
    return true;
}

/* Bytes of the n texts of a list as they stand in memory. */
static size_t texts_bytes(struct net_list l)
{
    const uint8_t *end = l.ptr;

    for (uint32_t i = 0; i < l.n; i++) {
        end += 4 + net_u32_at((struct net_list){end, 1}, 0);
    }
    return (size_t)(end - l.ptr);
}

static bool add_texts(size_t *total, struct net_list l, uint32_t max, uint32_t max_each)
{
    if (l.n > max) {
        return false;
    }
    *total += 4;
    for (uint32_t i = 0; i < l.n; i++) {
        if (!add_text(total, net_str_at(l, i), max_each)) {
            return false;
        }
    }
    return true;
}

static bool add_fixed(size_t *total, size_t n)
{
    *total += n;
    return true;
}

static bool add_f64(size_t *total, double v)
{
    *total += 8;
    return isfinite(v);
}

/* ---- writing --------------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *out, const uint8_t *p, size_t n)
{
    if (n > 0) {
        assert(p != NULL);
        memcpy(out, p, n);
    }
    return out + n;
}

static uint8_t *put_u32(uint8_t *out, uint32_t v)
{
    net_put_u32(out, 0, v);
    return out + 4;
}

static uint8_t *put_u64(uint8_t *out, uint64_t v)
{
    net_put_u64(out, 0, v);
    return out + 8;
}

static uint8_t *put_f64(uint8_t *out, double v)
{
    net_put_f64(out, 0, v);
    return out + 8;
}

static uint8_t *put_span(uint8_t *out, struct span s)
{
    out = put_u32(out, (uint32_t)s.len);
    return put(out, s.ptr, s.len);
}

static uint8_t *put_list(uint8_t *out, struct net_list l, size_t width)
{
    out = put_u32(out, l.n);
    return put(out, l.ptr, l.n * width);
}

static uint8_t *put_texts(uint8_t *out, struct net_list l)
{
    out = put_u32(out, l.n);
    return put(out, l.ptr, texts_bytes(l));
}

/* ---- limits ---------------------------------------------------------------------------------- */

/* The longest encoding of each message, so that the limits of net.h hold by construction. */
#define MSG(N, code, dir, sentence) LONGEST_##N = 0
#define U8(N, f, s)                 +1
#define U32(N, f, s)                +4
#define U64(N, f, s)                +8
#define F64(N, f, s)                +8
#define FIX(N, f, n, s)             +(n)
#define STR(N, f, m, s)             +4 + (m)
#define BYTES(N, f, m, s)           +4 + (m)
#define U32S(N, f, m, s)            +4 + 4 * (m)
#define I32S(N, f, m, s)            +4 + 4 * (m)
#define U64S(N, f, m, s)            +4 + 8 * (m)
#define F64S(N, f, m, s)            +4 + 8 * (m)
#define STRS(N, f, m, e, s)         +4 + (m) * (4 + (e))
#define END(N)                      ,
enum longest {
#include "net/wire.def"
};

/* What travels on control and client connections is bounded more tightly than ring and bulk. */
#define LIMIT_TO_COORD   NET_CONTROL_MAX
#define LIMIT_TO_WORKER  NET_CONTROL_MAX
#define LIMIT_ASK_CLIENT NET_CONTROL_MAX
#define LIMIT_CLIENT     NET_CONTROL_MAX
#define LIMIT_RING       NET_MESSAGE_MAX
#define LIMIT_TEAM       NET_MESSAGE_MAX
#define LIMIT_ASK_BULK   NET_MESSAGE_MAX
#define LIMIT_BULK       NET_MESSAGE_MAX
enum { ENVELOPE_BYTES = 18 };

#define MSG(N, code, dir, sentence)                                                                \
    _Static_assert((int)LONGEST_##N + (int)ENVELOPE_BYTES <= (int)LIMIT_##dir, #N " is too long");
#include "net/wire.def"

/* ---- one function a message ------------------------------------------------------------------ */

#define MSG(N, code, dir, sentence)                                                                \
    static bool measure_##N(const struct net_msg_##N *m, size_t *total)                            \
    {                                                                                              \
        return true
#define U8(N, f, s)          &&add_fixed(total, sizeof m->f)
#define U32(N, f, s)         &&add_fixed(total, sizeof m->f)
#define U64(N, f, s)         &&add_fixed(total, sizeof m->f)
#define F64(N, f, s)         &&add_f64(total, m->f)
#define FIX(N, f, n, s)      &&m->f != NULL &&add_fixed(total, n)
#define STR(N, f, m_, s)     &&add_text(total, m->f, m_)
#define BYTES(N, f, m_, s)   &&add_span(total, m->f, m_)
#define U32S(N, f, m_, s)    &&add_list(total, m->f, m_, 4)
#define I32S(N, f, m_, s)    &&add_list(total, m->f, m_, 4)
#define U64S(N, f, m_, s)    &&add_list(total, m->f, m_, 8)
#define F64S(N, f, m_, s)    &&add_list(total, m->f, m_, 8) && all_finite(m->f)
#define STRS(N, f, m_, e, s) &&add_texts(total, m->f, m_, e)
#define END(N)                                                                                     \
    ;                                                                                              \
    }
#include "net/wire.def"

#define MSG(N, code, dir, sentence)                                                                \
    static uint8_t *encode_##N(const struct net_msg_##N *m, uint8_t *out)                          \
    {
#define U8(N, f, s)          *out++ = m->f;
#define U32(N, f, s)         out = put_u32(out, m->f);
#define U64(N, f, s)         out = put_u64(out, m->f);
#define F64(N, f, s)         out = put_f64(out, m->f);
#define FIX(N, f, n, s)      out = put(out, m->f, n);
#define STR(N, f, m_, s)     out = put_span(out, m->f);
#define BYTES(N, f, m_, s)   out = put_span(out, m->f);
#define U32S(N, f, m_, s)    out = put_list(out, m->f, 4);
#define I32S(N, f, m_, s)    out = put_list(out, m->f, 4);
#define U64S(N, f, m_, s)    out = put_list(out, m->f, 8);
#define F64S(N, f, m_, s)    out = put_list(out, m->f, 8);
#define STRS(N, f, m_, e, s) out = put_texts(out, m->f);
#define END(N)                                                                                     \
    return out;                                                                                    \
    }
#include "net/wire.def"

#define MSG(N, code, dir, sentence)                                                                \
    static bool decode_##N(struct cursor *c, struct net_msg_##N *m)                                \
    {                                                                                              \
        return true
#define U8(N, f, s)          &&take_u8(c, &m->f)
#define U32(N, f, s)         &&take_u32(c, &m->f)
#define U64(N, f, s)         &&take_u64(c, &m->f)
#define F64(N, f, s)         &&take_f64(c, &m->f)
#define FIX(N, f, n, s)      &&take(c, n, &m->f)
#define STR(N, f, m_, s)     &&take_text(c, m_, &m->f)
#define BYTES(N, f, m_, s)   &&take_bytes(c, m_, &m->f)
#define U32S(N, f, m_, s)    &&take_list(c, m_, 4, &m->f)
#define I32S(N, f, m_, s)    &&take_list(c, m_, 4, &m->f)
#define U64S(N, f, m_, s)    &&take_list(c, m_, 8, &m->f)
#define F64S(N, f, m_, s)    &&take_list(c, m_, 8, &m->f) && all_finite(m->f)
#define STRS(N, f, m_, e, s) &&take_texts(c, m_, e, &m->f)
#define END(N)                                                                                     \
    &&c->left == 0;                                                                                \
    }
#include "net/wire.def"

/* ---- by code --------------------------------------------------------------------------------- */

const char *net_msg_name(enum net_code code)
{
    switch (code) {
#define MSG(N, code_, dir, sentence)                                                               \
    case NET_MSG_##N:                                                                              \
        return #N;
#include "net/wire.def"
    }
    return NULL;
}

enum net_dir net_msg_dir(enum net_code code)
{
    switch (code) {
#define MSG(N, code_, dir, sentence)                                                               \
    case NET_MSG_##N:                                                                              \
        return NET_##dir;
#include "net/wire.def"
    }
    return (enum net_dir) - 1;
}

size_t net_msg_bytes(const struct net_msg *m)
{
    size_t total = 0;
    bool good = false;

    switch (m->code) {
#define MSG(N, code_, dir, sentence)                                                               \
    case NET_MSG_##N:                                                                              \
        good = measure_##N(&m->u.N, &total);                                                       \
        break;
#include "net/wire.def"
    }
    return good ? total : 0;
}

void net_msg_encode(const struct net_msg *m, uint8_t *out)
{
    switch (m->code) {
#define MSG(N, code_, dir, sentence)                                                               \
    case NET_MSG_##N:                                                                              \
        out = encode_##N(&m->u.N, out);                                                            \
        break;
#include "net/wire.def"
    }
    (void)out;
}

bool net_msg_decode(enum net_code code, struct span bytes, struct net_msg *m)
{
    static const uint8_t nothing[1];
    /* An empty message may come as a NULL pointer, to which even 0 may not be added. */
    struct cursor c = {bytes.len > 0 ? bytes.ptr : nothing, bytes.len};

    m->code = code;
    switch (code) {
#define MSG(N, code_, dir, sentence)                                                               \
    case NET_MSG_##N:                                                                              \
        return decode_##N(&c, &m->u.N);
#include "net/wire.def"
    }
    return false;
}

/* ---- lists of texts -------------------------------------------------------------------------- */

struct span net_str_at(struct net_list l, uint32_t i)
{
    const uint8_t *p;

    assert(i < l.n);
    p = l.ptr + texts_bytes((struct net_list){l.ptr, i});
    return (struct span){p + 4, net_u32_at((struct net_list){p, 1}, 0)};
}

void net_put_str(struct base_buf *list, struct span s)
{
    uint8_t length[4];

    if (s.len > UINT32_MAX) {
        list->failed = true;
        return;
    }
    net_put_u32(length, 0, (uint32_t)s.len);
    base_buf_add(list, length, sizeof length);
    base_buf_add(list, s.ptr, s.len);
}
