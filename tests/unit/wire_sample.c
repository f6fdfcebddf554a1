/* Random messages and their comparison, both derived from wire.def, so that a message written there
 * is generated and compared without another line. Text fields hold text of characters of all lengths;
 * numbers and bytes are arbitrary. What a message points to is allocated to the byte, so that the
 * address sanitizer sees whoever reads too far. */
#include "tests/unit/wire_sample.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- generator ------------------------------------------------------------------------------- */

static uint8_t *gen_block(struct wire_sample *g, size_t bytes)
{
    uint8_t *p = malloc(bytes > 0 ? bytes : 1);

    assert_non_null(p);
    assert_true(g->n_blocks < WIRE_SAMPLE_BLOCKS_MAX);
    g->blocks[g->n_blocks++] = p;
    return p;
}

void wire_sample_free(struct wire_sample *g)
{
    while (g->n_blocks > 0) {
        free(g->blocks[--g->n_blocks]);
    }
}

static uint32_t gen_count(struct wire_sample *g, uint32_t max)
{
    uint64_t draw = base_rng_next(&g->rng);

    switch (g->amount) {
    case WIRE_SAMPLE_SHORTEST:
        return 0;
    case WIRE_SAMPLE_SMALL:
        return (uint32_t)(draw % (max < 4 ? max + 1 : 5));
    case WIRE_SAMPLE_RANDOM:
        return (uint32_t)(draw % (max < 2000 ? max + 1 : 2001));
    case WIRE_SAMPLE_LONGEST:
        break;
    }
    return max;
}

static struct span gen_bytes(struct wire_sample *g, uint32_t max)
{
    uint32_t n = gen_count(g, max);
    uint8_t *p = gen_block(g, n);

    for (uint32_t i = 0; i < n; i++) {
        p[i] = (uint8_t)base_rng_next(&g->rng);
    }
    return (struct span){p, n};
}

/* Text of characters of all lengths, exactly n bytes. */
static void gen_characters(struct wire_sample *g, uint8_t *p, uint32_t n)
{
    static const char *const some[] = {"a",
                                       "~",
                                       " ",
                                       "\n",
                                       "\t",
                                       "\xc2\xa0",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    uint32_t at = 0;

    while (at < n) {
        const char *c = some[base_rng_next(&g->rng) % (sizeof some / sizeof some[0])];
        size_t bytes = strlen(c);

        if (bytes <= n - at) {
            memcpy(p + at, c, bytes);
            at += (uint32_t)bytes;
        }
    }
}

static struct span gen_text(struct wire_sample *g, uint32_t max)
{
    uint32_t n = gen_count(g, max);
    uint8_t *p = gen_block(g, n);

    gen_characters(g, p, n);
    return (struct span){p, n};
}

static double gen_f64(struct wire_sample *g)
{
    static const double some[] = {0.0, -0.0, 1.0, -1.5e300, 5e-324, 1.7976931348623157e308};
    uint64_t draw = base_rng_next(&g->rng);

    return draw % 2 == 0 ? some[draw / 2 % (sizeof some / sizeof some[0])]
                         : (double)(int64_t)base_rng_next(&g->rng) / 1024;
}

static struct net_list gen_list(struct wire_sample *g, uint32_t max, size_t width)
{
    uint32_t n = gen_count(g, max);
    uint8_t *p = gen_block(g, n * width);

    for (size_t i = 0; i < n * width; i++) {
        p[i] = (uint8_t)base_rng_next(&g->rng);
    }
    return (struct net_list){p, n};
}

static struct net_list gen_f64s(struct wire_sample *g, uint32_t max)
{
    uint32_t n = gen_count(g, max);
    uint8_t *p = gen_block(g, (size_t)n * 8);

    for (uint32_t i = 0; i < n; i++) {
        net_put_f64(p, i, gen_f64(g));
    }
    return (struct net_list){p, n};
}

static struct net_list gen_texts(struct wire_sample *g, uint32_t max, uint32_t max_each)
{
    uint32_t n = gen_count(g, max);
    uint8_t *p = gen_block(g, (size_t)n * (4 + max_each)), *at = p;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t bytes = gen_count(g, max_each);

        net_put_u32(at, 0, bytes);
        gen_characters(g, at + 4, bytes);
        at += 4 + bytes;
    }
    return (struct net_list){p, n};
}

static uint8_t *gen_fixed(struct wire_sample *g, size_t n)
{
    uint8_t *p = gen_block(g, n);

    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)base_rng_next(&g->rng);
    }
    return p;
}

#define MSG(N, code, dir, sentence)                                                                \
    static void gen_##N(struct wire_sample *g, struct net_msg_##N *m)                              \
    {
#define U8(N, f, s)          m->f = (uint8_t)base_rng_next(&g->rng);
#define U32(N, f, s)         m->f = (uint32_t)base_rng_next(&g->rng);
#define U64(N, f, s)         m->f = base_rng_next(&g->rng);
#define F64(N, f, s)         m->f = gen_f64(g);
#define FIX(N, f, n, s)      m->f = gen_fixed(g, n);
#define STR(N, f, m_, s)     m->f = gen_text(g, m_);
#define BYTES(N, f, m_, s)   m->f = gen_bytes(g, m_);
#define U32S(N, f, m_, s)    m->f = gen_list(g, m_, 4);
#define I32S(N, f, m_, s)    m->f = gen_list(g, m_, 4);
#define U64S(N, f, m_, s)    m->f = gen_list(g, m_, 8);
#define F64S(N, f, m_, s)    m->f = gen_f64s(g, m_);
#define STRS(N, f, m_, e, s) m->f = gen_texts(g, m_, e);
#define END(N)               }
#include "net/wire.def"

void wire_sample_message(struct wire_sample *g, enum net_code code, struct net_msg *m)
{
    memset(m, 0, sizeof *m);
    m->code = code;
    switch (code) {
#define MSG(N, code_, dir, sentence)                                                               \
    case NET_MSG_##N:                                                                              \
        gen_##N(g, &m->u.N);                                                                       \
        break;
#include "net/wire.def"
    }
}

/* ---- comparison ------------------------------------------------------------------------------ */

static bool same_bytes(const uint8_t *a, const uint8_t *b, size_t n)
{
    return n == 0 || memcmp(a, b, n) == 0;
}

static bool same_span(struct span a, struct span b)
{
    return a.len == b.len && same_bytes(a.ptr, b.ptr, a.len);
}

static bool same_list(struct net_list a, struct net_list b, size_t width)
{
    return a.n == b.n && same_bytes(a.ptr, b.ptr, a.n * width);
}

static bool same_texts(struct net_list a, struct net_list b)
{
    bool same = a.n == b.n;

    for (uint32_t i = 0; same && i < a.n; i++) {
        same = same_span(net_str_at(a, i), net_str_at(b, i));
    }
    return same;
}

#define MSG(N, code, dir, sentence)                                                                \
    static bool same_##N(const struct net_msg_##N *a, const struct net_msg_##N *b)                 \
    {                                                                                              \
        return true
#define U8(N, f, s)         &&a->f == b->f
#define U32(N, f, s)        &&a->f == b->f
#define U64(N, f, s)        &&a->f == b->f
#define F64(N, f, s)        &&memcmp(&a->f, &b->f, 8) == 0
#define FIX(N, f, n, s)     &&memcmp(a->f, b->f, n) == 0
#define STR(N, f, m, s)     &&same_span(a->f, b->f)
#define BYTES(N, f, m, s)   &&same_span(a->f, b->f)
#define U32S(N, f, m, s)    &&same_list(a->f, b->f, 4)
#define I32S(N, f, m, s)    &&same_list(a->f, b->f, 4)
#define U64S(N, f, m, s)    &&same_list(a->f, b->f, 8)
#define F64S(N, f, m, s)    &&same_list(a->f, b->f, 8)
#define STRS(N, f, m, e, s) &&same_texts(a->f, b->f)
#define END(N)                                                                                     \
    ;                                                                                              \
    }
#include "net/wire.def"

bool wire_sample_same(const struct net_msg *a, const struct net_msg *b)
{
    if (a->code != b->code) {
        return false;
    }
    switch (a->code) {
#define MSG(N, code_, dir, sentence)                                                               \
    case NET_MSG_##N:                                                                              \
        return same_##N(&a->u.N, &b->u.N);
#include "net/wire.def"
    }
    return false;
}
