/* Bytes of a fuzzer's input as a script: numbers, texts and whole messages drawn from it.
 *
 * Small numbers are likely, since what a core looks up (slots, requests, epochs, positions) is small
 * here; every other value can be written out. A message is filled field by field from net/wire.def,
 * then encoded and decoded, so that a core is given only what the codec lets through. A script that
 * has ended gives zeros. */
#ifndef TESTS_FUZZ_SCRIPT_H
#define TESTS_FUZZ_SCRIPT_H

#include "net/net.h"

#include <stdlib.h>
#include <string.h>

enum { SCRIPT_POOL = 1 << 16, SCRIPT_LIST_MAX = 40 };

struct script {
    const uint8_t *ptr;
    size_t len, at, used;
    const char *const *names; /* that texts choose from; the last is NULL */
    uint8_t pool[SCRIPT_POOL], *encoded; /* the last message, a block of just its size; owned */
};

static inline void script_must(bool holds)
{
    if (!holds)
        abort();
}

/* Of its use. */
static inline void script_end(struct script *s)
{
    free(s->encoded);
    s->encoded = NULL;
}

static inline bool script_ended(const struct script *s)
{
    return s->at >= s->len;
}

static inline uint8_t script_byte(struct script *s)
{
    return script_ended(s) ? 0 : s->ptr[s->at++];
}

static inline uint32_t script_below(struct script *s, uint32_t n)
{
    return n == 0 ? 0 : script_byte(s) % n;
}

static inline uint64_t script_number(struct script *s)
{
    const uint8_t b = script_byte(s);
    uint64_t v = 0;
    if (b < 0xe0)
        return b < 0x80 ? b % 12u : b % 96u;
    for (int i = 0; i < (b < 0xf0 ? 2 : 8); i++)
        v = v << 8 | script_byte(s);
    return b == 0xff ? ~v : v;
}

static inline double script_real(struct script *s)
{
    static const double some[] = {0, 1, 0.5, -1, 1e-3, 1e9, -1e30, 0.95, 1e308, 40, 1e-300, 2};
    return some[script_below(s, sizeof some / sizeof *some)];
}

static inline uint8_t *script_take(struct script *s, size_t n)
{
    if (n > SCRIPT_POOL - s->used)
        s->used = 0; /* what was there before is overwritten: a message with odd contents */
    s->used += n;
    return s->pool + s->used - n;
}

static inline struct span script_text(struct script *s, size_t max)
{
    uint32_t n = 0;
    while (s->names[n] != NULL)
        n++;
    const uint8_t b = script_byte(s);
    if (b < 0xf0) {
        const struct span name = base_span_str(s->names[b % n]);
        return name.len <= max ? name : (struct span){name.ptr, max};
    }
    size_t len = script_byte(s);
    len = len < max ? len : max;
    len = len < s->len - s->at ? len : s->len - s->at;
    const struct span raw = {s->ptr + s->at, len};
    s->at += len;
    return raw;
}

static inline struct net_list script_list(struct script *s, uint32_t max, char of)
{
    const uint32_t most = max < SCRIPT_LIST_MAX ? max : SCRIPT_LIST_MAX, n = script_below(s, 1 + most);
    struct base_buf names = {0};
    uint8_t *p = of == 's' ? NULL : script_take(s, n * (of == '4' ? 4u : 8u));
    for (uint32_t i = 0; i < n; i++) {
        if (of == '4')
            net_put_u32(p, i, (uint32_t)script_number(s));
        else if (of == '8')
            net_put_u64(p, i, script_number(s));
        else if (of == 'f')
            net_put_f64(p, i, script_real(s));
        else
            net_put_str(&names, script_text(s, NET_NAME_MAX - 1));
    }
    if (of == 's') {
        p = script_take(s, names.len);
        if (names.len > 0)
            memcpy(p, names.ptr, names.len);
        base_buf_deinit(&names);
    }
    return (struct net_list){p, n};
}

static inline struct span script_bytes(struct script *s, size_t max)
{
    const size_t n = script_number(s) % 600;
    uint8_t *p = script_take(s, n < max ? n : max);
    memset(p, script_byte(s), n < max ? n : max);
    return (struct span){p, n < max ? n : max};
}

/* Fill a message of this code; false: there is no such code. */
static inline bool script_fill(struct script *s, enum net_code code, struct net_msg *m)
{
    memset(m, 0, sizeof *m);
    m->code = code;
    switch ((int)code) {
#define MSG(N, c, d, t)                                                                            \
    case c: {                                                                                      \
        struct net_msg_##N *const x = &m->u.N;
#define U8(N, f, t)         x->f = (uint8_t)script_number(s);
#define U32(N, f, t)        x->f = (uint32_t)script_number(s);
#define U64(N, f, t)        x->f = script_number(s);
#define F64(N, f, t)        x->f = script_real(s);
#define FIX(N, f, n, t)     x->f = memset(script_take(s, n), script_byte(s), n);
#define STR(N, f, max, t)   x->f = script_text(s, max);
#define BYTES(N, f, max, t) x->f = script_bytes(s, max);
#define U32S(N, f, max, t)  x->f = script_list(s, max, '4');
#define I32S(N, f, max, t)  x->f = script_list(s, max, '4');
#define U64S(N, f, max, t)  x->f = script_list(s, max, '8');
#define F64S(N, f, max, t)  x->f = script_list(s, max, 'f');
#define STRS(N, f, m, e, t) x->f = script_list(s, m, 's');
#define END(N)                                                                                     \
    return true;                                                                                   \
    }
#include "net/wire.def"
    default:
        return false;
    }
}

/* As the other side gets it; false: the codec refuses it. */
static inline bool script_send(struct script *s, struct net_msg *m)
{
    const struct net_msg sent = *m;
    const size_t n = net_msg_bytes(&sent);
    if (n == 0)
        return false;
    uint8_t *const bytes = malloc(n);
    script_must(bytes != NULL);
    net_msg_encode(&sent, bytes); /* it may borrow from the message before */
    free(s->encoded);
    s->encoded = bytes;
    return net_msg_decode(sent.code, (struct span){s->encoded, n}, m);
}

/* Any message. */
static inline bool script_message(struct script *s, struct net_msg *m)
{
    return script_fill(s, (enum net_code)script_byte(s), m) && script_send(s, m);
}

/* What a core sends must be what the other side takes. */
static inline void script_check_sent(const struct net_msg *m)
{
    struct net_msg again;
    const size_t n = net_msg_bytes(m);
    script_must(n > 0);
    uint8_t *bytes = malloc(n);
    script_must(bytes != NULL);
    net_msg_encode(m, bytes);
    script_must(net_msg_decode(m->code, (struct span){bytes, n}, &again));
    free(bytes);
}

#endif
