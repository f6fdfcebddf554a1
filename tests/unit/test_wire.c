/* The codec under test: every message of wire.def, so that a new message is tested by being
 * written there.
 *
 * Messages are generated from the list itself, with the shortest, random and the longest
 * contents. What is promised is checked from both sides: what encodes decodes to the same fields;
 * what is cut, too long, left over or not text is refused; and whatever bytes do decode encode to
 * the same bytes again. Every decoded message stands in a heap block of exactly its length, so
 * that the address sanitizer sees a read past its end. A second, plain encoder (raw_*) keeps the
 * first one honest. */
#include "tests/unit/wire_sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const enum net_code codes[] = {
#define MSG(N, code, dir, sentence) NET_MSG_##N,
#include "net/wire.def"
};
enum { N_CODES = sizeof codes / sizeof codes[0] };

/* ---- a second encoder ------------------------------------------------------------------------ */

/* Bytes of a message all of whose fields are empty but field number `target`, which has as many
 * elements as its maximum and `extra` more. */
struct raw {
    struct base_buf buf;
    unsigned target, extra, field;
    bool each; /* of a list of texts: make the texts too long, not the list */
    bool met;  /* the target is a field with a length */
};

static void raw_u32(struct raw *r, uint32_t v)
{
    const uint8_t p[] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};

    base_buf_add(&r->buf, p, sizeof p);
}

static void raw_fill(struct raw *r, size_t n, uint8_t byte)
{
    uint8_t *p = malloc(n > 0 ? n : 1);

    assert_non_null(p);
    memset(p, byte, n);
    base_buf_add(&r->buf, p, n);
    free(p);
}

static void raw_list(struct raw *r, uint32_t max, size_t width)
{
    uint32_t n = 0;

    if (r->field++ == r->target) {
        n = max + r->extra;
        r->met = true;
    }
    raw_u32(r, n);
    raw_fill(r, n * width, 'a');
}

static void raw_texts(struct raw *r, uint32_t max, uint32_t max_each)
{
    uint32_t n = 0, each = max_each;

    if (r->field++ == r->target) {
        n = r->each ? max : max + r->extra;
        each = r->each ? max_each + r->extra : 0;
        r->met = true;
    }
    raw_u32(r, n);
    for (uint32_t i = 0; i < n; i++) {
        raw_u32(r, each);
        raw_fill(r, each, 'a');
    }
}

static void raw_number(struct raw *r, size_t bytes)
{
    r->field++;
    raw_fill(r, bytes, 0);
}

static unsigned raw_message(struct raw *r, enum net_code code)
{
    r->field = 0;
    switch (code) {
#define MSG(N, code_, dir, sentence) case NET_MSG_##N:
#define U8(N, f, s)                  raw_number(r, 1);
#define U32(N, f, s)                 raw_number(r, 4);
#define U64(N, f, s)                 raw_number(r, 8);
#define F64(N, f, s)                 raw_number(r, 8);
#define FIX(N, f, n, s)              raw_number(r, n);
#define STR(N, f, m, s)              raw_list(r, m, 1);
#define BYTES(N, f, m, s)            raw_list(r, m, 1);
#define U32S(N, f, m, s)             raw_list(r, m, 4);
#define I32S(N, f, m, s)             raw_list(r, m, 4);
#define U64S(N, f, m, s)             raw_list(r, m, 8);
#define F64S(N, f, m, s)             raw_list(r, m, 8);
#define STRS(N, f, m, e, s)          raw_texts(r, m, e);
#define END(N)                       break;
#include "net/wire.def"
    }
    assert_false(r->buf.failed);
    return r->field;
}

/* Give the target field of an otherwise empty message `extra` more elements than it may have. */
static void overfill(struct net_msg *m, unsigned target, unsigned extra, const uint8_t *filler)
{
    unsigned field = 0;

    switch (m->code) {
#define MSG(N, code_, dir, sentence) case NET_MSG_##N:
#define ONE_FIELD(member, value)                                                                   \
    if (field++ == target) {                                                                       \
        member = value;                                                                            \
    }
#define U8(N, f, s)         field++;
#define U32(N, f, s)        field++;
#define U64(N, f, s)        field++;
#define F64(N, f, s)        field++;
#define FIX(N, f, n, s)     field++;
#define STR(N, f, n, s)     ONE_FIELD(m->u.N.f, ((struct span){filler, (n) + extra}))
#define BYTES(N, f, n, s)   ONE_FIELD(m->u.N.f, ((struct span){filler, (n) + extra}))
#define U32S(N, f, n, s)    ONE_FIELD(m->u.N.f, ((struct net_list){filler, (n) + extra}))
#define I32S(N, f, n, s)    ONE_FIELD(m->u.N.f, ((struct net_list){filler, (n) + extra}))
#define U64S(N, f, n, s)    ONE_FIELD(m->u.N.f, ((struct net_list){filler, (n) + extra}))
#define F64S(N, f, n, s)    ONE_FIELD(m->u.N.f, ((struct net_list){filler, (n) + extra}))
#define STRS(N, f, n, e, s) ONE_FIELD(m->u.N.f, ((struct net_list){filler, (n) + extra}))
#define END(N)              break;
#include "net/wire.def"
    }
}

/* ---- helpers --------------------------------------------------------------------------------- */

static uint8_t *encoded(const struct net_msg *m, size_t *n)
{
    uint8_t *p;

    *n = net_msg_bytes(m);
    assert_true(*n > 0);
    p = malloc(*n);
    assert_non_null(p);
    net_msg_encode(m, p);
    return p;
}

/* Decode a copy in a heap block of exactly its length. Whatever decodes encodes to the same
 * bytes. */
static bool decodes(enum net_code code, const uint8_t *bytes, size_t n)
{
    uint8_t *copy = malloc(n > 0 ? n : 1), *again;
    struct net_msg m;
    size_t n_again;
    bool good;

    assert_non_null(copy);
    memcpy(copy, bytes, n);
    good = net_msg_decode(code, (struct span){copy, n}, &m);
    if (good) {
        assert_int_equal(m.code, code);
        again = encoded(&m, &n_again);
        assert_int_equal(n_again, n);
        assert_memory_equal(again, copy, n);
        free(again);
    }
    free(copy);
    return good;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void messages_survive_the_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CODES; i++) {
        for (unsigned run = 0; run < 24; run++) {
            struct wire_sample g = {.amount = run == 0   ? WIRE_SAMPLE_SHORTEST
                                              : run == 1 ? WIRE_SAMPLE_LONGEST
                                              : run < 8  ? WIRE_SAMPLE_SMALL
                                                         : WIRE_SAMPLE_RANDOM,
                                    .rng = 1000 * i + run};
            struct net_msg m, back;
            uint8_t *bytes;
            size_t n;

            wire_sample_message(&g, codes[i], &m);
            bytes = encoded(&m, &n);
            assert_true(net_msg_decode(codes[i], (struct span){bytes, n}, &back));
            assert_true(wire_sample_same(&m, &back));
            assert_int_equal(net_msg_bytes(&back), n);
            free(bytes);
            wire_sample_free(&g);
        }
    }
}

static void every_cut_and_every_addition_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CODES; i++) {
        for (unsigned run = 0; run < 4; run++) {
            struct wire_sample g = {.amount = run == 0 ? WIRE_SAMPLE_SHORTEST : WIRE_SAMPLE_SMALL,
                                    .rng = 77 * i + run};
            struct net_msg m;
            uint8_t *bytes, *longer;
            size_t n;

            wire_sample_message(&g, codes[i], &m);
            bytes = encoded(&m, &n);
            assert_true(decodes(codes[i], bytes, n));
            for (size_t cut = 0; cut < n; cut++) {
                assert_false(decodes(codes[i], bytes, cut));
            }
            longer = calloc(n + 4, 1);
            assert_non_null(longer);
            memcpy(longer, bytes, n);
            assert_false(decodes(codes[i], longer, n + 1));
            assert_false(decodes(codes[i], longer, n + 4));
            free(longer);
            free(bytes);
            wire_sample_free(&g);
        }
    }
}

static void flipped_bits_decode_or_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CODES; i++) {
        for (unsigned run = 0; run < 2; run++) {
            struct wire_sample g = {.amount = WIRE_SAMPLE_SMALL, .rng = 31 * i + run};
            struct net_msg m;
            uint8_t *bytes;
            size_t n;

            wire_sample_message(&g, codes[i], &m);
            bytes = encoded(&m, &n);
            for (size_t at = 0; at < n; at++) {
                const uint8_t was = bytes[at];

                for (unsigned bit = 0; bit < 8; bit++) {
                    bytes[at] = (uint8_t)(was ^ 1u << bit);
                    (void)decodes(codes[i], bytes, n);
                }
                bytes[at] = (uint8_t)~was;
                (void)decodes(codes[i], bytes, n);
                bytes[at] = was;
            }
            free(bytes);
            wire_sample_free(&g);
        }
    }
}

static void random_bytes_decode_or_are_refused(void **state)
{
    uint64_t rng = 5;
    uint8_t bytes[300];

    (void)state;
    for (size_t i = 0; i < N_CODES; i++) {
        for (unsigned run = 0; run < 300; run++) {
            const size_t n = base_rng_next(&rng) % sizeof bytes;

            for (size_t at = 0; at < n; at++) {
                uint64_t draw = base_rng_next(&rng);

                /* Mostly zeros, so that lengths are often small enough to go on. */
                bytes[at] = draw % 4 == 0 ? (uint8_t)(draw >> 8) : 0;
            }
            (void)decodes(codes[i], bytes, n);
        }
    }
}

static void fields_beyond_their_maximum_are_refused(void **state)
{
    enum { FILLER_BYTES = 8 * (NET_MESSAGE_MAX / 8 + 16) };
    uint8_t *filler = calloc(FILLER_BYTES, 1);

    (void)state;
    assert_non_null(filler);
    for (size_t i = 0; i < N_CODES; i++) {
        unsigned fields = 1;

        for (unsigned target = 0; target < fields; target++) {
            for (unsigned extra = 0; extra < 2; extra++) {
                for (unsigned each = 0; each < 2; each++) {
                    struct raw r = {.target = target, .extra = extra, .each = each == 1};

                    fields = raw_message(&r, codes[i]);
                    assert_int_equal(decodes(codes[i], r.buf.ptr, r.buf.len), !r.met || extra == 0);
                    base_buf_deinit(&r.buf);
                }
            }
        }
        for (unsigned target = 0; target < fields; target++) {
            struct wire_sample g = {.amount = WIRE_SAMPLE_SHORTEST};
            struct raw r = {.target = target};
            struct net_msg m;

            wire_sample_message(&g, codes[i], &m);
            overfill(&m, target, 1, filler);
            (void)raw_message(&r, codes[i]);
            assert_int_equal(net_msg_bytes(&m) == 0, r.met);
            base_buf_deinit(&r.buf);
            wire_sample_free(&g);
        }
    }
    free(filler);
}

static void texts_of_a_list_have_a_maximum(void **state)
{
    char text[65];

    (void)state;
    for (size_t n = 63; n <= 64; n++) {
        struct net_msg m = {.code = NET_MSG_PLAN};
        struct base_buf ring = {0};

        memset(text, 'a', n);
        text[n] = '\0';
        net_put_str(&ring, base_span_str("alpha"));
        net_put_str(&ring, base_span_str(text));
        m.u.PLAN.ring = (struct net_list){ring.ptr, 2};
        assert_int_equal(net_msg_bytes(&m) != 0, n == 63);
        base_buf_deinit(&ring);
    }
}

/* A length that lies by a lot, with hardly any bytes behind it. */
static void huge_lengths_are_refused(void **state)
{
    static const uint32_t lies[] = {0x7fffffff, 0x80000000, 0xfffffffc,
                                    0xffffffff, 0x20000000, 0x40000001};

    (void)state;
    for (size_t i = 0; i < N_CODES; i++) {
        struct raw r = {.target = UINT32_MAX};

        (void)raw_message(&r, codes[i]);
        for (size_t at = 0; at + 4 <= r.buf.len; at++) {
            uint8_t was[4];

            memcpy(was, r.buf.ptr + at, 4);
            for (size_t k = 0; k < sizeof lies / sizeof lies[0]; k++) {
                net_put_u32(r.buf.ptr + at, 0, lies[k]);
                (void)decodes(codes[i], r.buf.ptr, r.buf.len);
            }
            memcpy(r.buf.ptr + at, was, 4);
        }
        base_buf_deinit(&r.buf);
    }
}

static void only_text_is_text(void **state)
{
    static const struct {
        const char *bytes;
        bool good;
    } cases[] = {{"plain", true},
                 {"two\nlines\tand tab", true},
                 {"caf\xc3\xa9", true},
                 {"\xe2\x82\xac", true},
                 {"\xf0\x9f\x90\x9f", true},
                 {"\xf4\x8f\xbf\xbf", true},
                 {"bell\a", false},
                 {"\x1b[31m", false},
                 {"cr\r", false},
                 {"del\x7f", false},
                 {"\xc2\x9b", false},
                 {"\xc2\x80", false},
                 {"\xc2\xa0", true},
                 {"\x80", false},
                 {"\xc3", false},
                 {"\xc3(", false},
                 {"\xc0\x80", false},
                 {"\xc1\xbf", false},
                 {"\xe0\x9f\xbf", false},
                 {"\xed\xa0\x80", false},
                 {"\xed\xbf\xbf", false},
                 {"\xf0\x8f\xbf\xbf", false},
                 {"\xf4\x90\x80\x80", false},
                 {"\xf8\x88\x80\x80\x80", false},
                 {"\xff", false},
                 {"\xe2\x82", false},
                 {"\xf0\x9f\x90", false}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct span text = base_span_str(cases[i].bytes);
        struct net_msg m = {.code = NET_MSG_REFUSE, .u.REFUSE = {text}};
        struct base_buf list = {0};
        uint8_t id[16] = {0}, body[64];

        assert_int_equal(net_msg_bytes(&m) != 0, cases[i].good);
        net_put_u32(body, 0, (uint32_t)text.len);
        memcpy(body + 4, text.ptr, text.len);
        assert_int_equal(decodes(NET_MSG_REFUSE, body, 4 + text.len), cases[i].good);

        net_put_str(&list, text);
        m = (struct net_msg){.code = NET_MSG_SUBMIT};
        m.u.SUBMIT.id = id;
        m.u.SUBMIT.prompt = text; /* free bytes: the tokenizer takes anything */
        assert_true(net_msg_bytes(&m) > 0);
        m.u.SUBMIT.stops = (struct net_list){list.ptr, 1};
        assert_int_equal(net_msg_bytes(&m) != 0, cases[i].good);
        base_buf_deinit(&list);
    }
    /* A NUL needs a length of its own. */
    assert_false(decodes(NET_MSG_REFUSE, (const uint8_t *)"\3\0\0\0a\0b", 7));
    assert_true(decodes(NET_MSG_REFUSE, (const uint8_t *)"\3\0\0\0a b", 7));
}

static void numbers_are_finite(void **state)
{
    static const uint64_t bad[] = {0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000,
                                   0x7ff0000000000001, 0xffffffffffffffff};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct wire_sample g = {.amount = WIRE_SAMPLE_LONGEST, .rng = i};
        uint8_t bits[8], *bytes;
        struct net_msg m;
        size_t n;

        net_put_u64(bits, 0, bad[i]);
        /* LOGITS: u64, u64, u32, then mean; before the hash of 16 bytes, eight values. */
        wire_sample_message(&g, NET_MSG_LOGITS, &m);
        bytes = encoded(&m, &n);
        assert_true(decodes(NET_MSG_LOGITS, bytes, n));
        memcpy(bytes + 20, bits, 8);
        assert_false(decodes(NET_MSG_LOGITS, bytes, n));
        net_msg_encode(&m, bytes);
        memcpy(bytes + n - 16 - 8, bits, 8);
        assert_false(decodes(NET_MSG_LOGITS, bytes, n));
        free(bytes);

        m.u.LOGITS.mean = net_f64_at((struct net_list){bits, 1}, 0);
        assert_int_equal(net_msg_bytes(&m), 0);
        wire_sample_free(&g);

        m = (struct net_msg){.code = NET_MSG_LOGITS};
        m.u.LOGITS.hash = (const uint8_t *)"0123456789abcdef";
        assert_true(net_msg_bytes(&m) > 0);
        m.u.LOGITS.values = (struct net_list){bits, 1};
        assert_int_equal(net_msg_bytes(&m), 0);
    }
}

static void codes_have_names_and_directions(void **state)
{
    struct net_msg m;

    (void)state;
    for (uint32_t code = 0; code <= UINT16_MAX; code++) {
        bool known = false;

        for (size_t i = 0; i < N_CODES; i++) {
            known = known || (uint32_t)codes[i] == code;
        }
        assert_int_equal(net_msg_name((enum net_code)code) != NULL, known);
        assert_int_equal((int)net_msg_dir((enum net_code)code) >= 0, known);
        if (!known) {
            m.code = (enum net_code)code;
            assert_int_equal(net_msg_bytes(&m), 0);
            assert_false(net_msg_decode((enum net_code)code, (struct span){NULL, 0}, &m));
        }
    }
    assert_string_equal(net_msg_name(NET_MSG_HELLO), "HELLO");
    assert_int_equal(net_msg_dir(NET_MSG_HELLO), NET_TO_COORD);
    assert_int_equal(net_msg_dir(NET_MSG_ROWS), NET_RING);
    assert_int_equal(net_msg_dir(NET_MSG_DONE), NET_CLIENT);
}

/* The bytes on the wire, spelled out: neither side may change them without the other. */
static void the_encoding_is_this_one(void **state)
{
    static const uint8_t tokens[] = {
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,                /* epoch */
        1,    0,    0,    0,    0x22, 0x11, 0,    0,    0, 0, 0, 0x80, /* requests */
        2,    0,    0,    0,    5,    0,    0,    0,    6, 1, 0, 0,    /* positions */
        1,    0,    0,    0,    0xfe, 0xff, 0xff, 0xff};               /* tokens */
    static const uint8_t plan_ring[] = {2,   0,   0,   0,   5, 0, 0, 0, 'a',
                                        'l', 'p', 'h', 'a', 0, 0, 0, 0};
    uint8_t requests[8], positions[8], ids[4], *bytes;
    struct base_buf ring = {0};
    struct net_msg m = {.code = NET_MSG_TOKENS};
    size_t n;

    (void)state;
    net_put_u64(requests, 0, 0x8000000000001122);
    net_put_u32(positions, 0, 5);
    net_put_u32(positions, 1, 0x106);
    net_put_u32(ids, 0, (uint32_t)-2);
    m.u.TOKENS.epoch = 0x0102030405060708;
    m.u.TOKENS.requests = (struct net_list){requests, 1};
    m.u.TOKENS.positions = (struct net_list){positions, 2};
    m.u.TOKENS.tokens = (struct net_list){ids, 1};
    bytes = encoded(&m, &n);
    assert_int_equal(n, sizeof tokens);
    assert_memory_equal(bytes, tokens, n);
    assert_true(net_msg_decode(NET_MSG_TOKENS, (struct span){tokens, n}, &m));
    assert_int_equal(net_i32_at(m.u.TOKENS.tokens, 0), -2);
    assert_int_equal(net_u32_at(m.u.TOKENS.positions, 1), 0x106);
    assert_true(net_u64_at(m.u.TOKENS.requests, 0) == 0x8000000000001122);
    free(bytes);

    net_put_str(&ring, base_span_str("alpha"));
    net_put_str(&ring, base_span_str(""));
    m = (struct net_msg){.code = NET_MSG_PLAN};
    m.u.PLAN.ring = (struct net_list){ring.ptr, 2};
    bytes = encoded(&m, &n);
    assert_memory_equal(bytes + 16, plan_ring, sizeof plan_ring);
    assert_true(base_span_is(net_str_at(m.u.PLAN.ring, 0), "alpha"));
    assert_true(base_span_is(net_str_at(m.u.PLAN.ring, 1), ""));
    free(bytes);
    base_buf_deinit(&ring);

    m = (struct net_msg){.code = NET_MSG_PROBED, .u.PROBED = {1, -2.5}};
    bytes = encoded(&m, &n);
    assert_memory_equal(bytes, "\1\0\0\0\0\0\0\0\0\0\0\0\0\0\4\xc0", 16);
    free(bytes);
}

static void a_list_of_texts_survives_lack_of_memory(void **state)
{
    struct base_buf list = {0};
    const int64_t live = base_alloc_live();

    (void)state;
    base_alloc_fail_nth(1);
    net_put_str(&list, base_span_str("alpha"));
    base_alloc_fail_nth(0);
    assert_true(list.failed);
    base_buf_deinit(&list);
    assert_int_equal(base_alloc_live(), live);
}

static void sentences_are_made_to_fit(void **state)
{
    static const struct {
        const char *before, *after;
        size_t max;
    } cases[] = {{"all good", "all good", 300},   {"all good", "all", 3},
                 {"caf\xc3\xa9", "caf", 4},       {"caf\xc3\xa9", "caf\xc3\xa9", 5},
                 {"a\xff\xfe z", "a?? z", 300},   {"esc\x1b[1m", "esc?[1m", 300},
                 {"\xc2\x9b", "??", 300},         {"line\nline", "line\nline", 300},
                 {"cut \xe2\x82", "cut ??", 300}, {"", "", 0}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64];
        struct net_msg m = {.code = NET_MSG_REFUSE};

        (void)snprintf(text, sizeof text, "%s", cases[i].before);
        m.u.REFUSE.reason = net_text_fit(text, cases[i].max);
        assert_true(base_span_is(m.u.REFUSE.reason, cases[i].after));
        assert_true(net_msg_bytes(&m) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_survive_the_trip),
        cmocka_unit_test(every_cut_and_every_addition_is_refused),
        cmocka_unit_test(flipped_bits_decode_or_are_refused),
        cmocka_unit_test(random_bytes_decode_or_are_refused),
        cmocka_unit_test(fields_beyond_their_maximum_are_refused),
        cmocka_unit_test(texts_of_a_list_have_a_maximum),
        cmocka_unit_test(huge_lengths_are_refused),
        cmocka_unit_test(only_text_is_text),
        cmocka_unit_test(numbers_are_finite),
        cmocka_unit_test(codes_have_names_and_directions),
        cmocka_unit_test(the_encoding_is_this_one),
        cmocka_unit_test(a_list_of_texts_survives_lack_of_memory),
        cmocka_unit_test(sentences_are_made_to_fit),
    };

    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
