/* Byte-level BPE against an independent engine's ids, word rules against words cut by hand, and
 * vocabularies and texts made to break it. */
#include "model/tokenizer.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { IDS_MAX = 1 << 21 };
static int32_t ids[IDS_MAX];

static size_t encode(const struct vocab *v, struct span text, unsigned flags)
{
    struct err e;
    size_t n = 0;
    if (model_vocab_encode(v, text, flags, ids, IDS_MAX, &n, &e) != 0)
        fail_msg("%s", e.text);
    return n;
}

static void expect_ids(const struct vocab *v, const char *text, unsigned flags, size_t n,
                       const int32_t *want)
{
    const size_t got = encode(v, base_span_str(text), flags);
    for (size_t i = 0; i < got || i < n; i++)
        if (i >= got || i >= n || ids[i] != want[i])
            fail_msg("\"%s\": id %zu is %d of %zu, wanted %d of %zu", text, i,
                     i < got ? ids[i] : -1, got, i < n ? want[i] : -1, n);
}
#define EXPECT(v, text, flags, ...)                                                                \
    do {                                                                                           \
        const int32_t want_[] = {__VA_ARGS__};                                                     \
        expect_ids(v, text, flags, sizeof want_ / sizeof want_[0], want_);                         \
    } while (0)

/* A text, tokenized and back, is the same bytes. */
static void expect_round_trip(const struct vocab *v, struct span text)
{
    struct base_buf b = {0};
    const size_t n = encode(v, text, 0);
    for (size_t i = 0; i < n; i++) {
        const struct span s = model_vocab_text(v, ids[i]);
        base_buf_add(&b, s.ptr, s.len);
    }
    assert_false(b.failed);
    assert_int_equal(b.len, text.len);
    if (text.len > 0)
        assert_memory_equal(b.ptr, text.ptr, text.len);
    base_buf_deinit(&b);
}

/* ---- against the reference ------------------------------------------------------------------- */

static void check_list(const struct vocab *v, const char *json_path)
{
    json_error_t je;
    json_t *list = json_load_file(json_path, JSON_ALLOW_NUL, &je), *item;
    size_t i, k;
    if (list == NULL)
        fail_msg("%s: %s", json_path, je.text);
    assert_int_equal(json_array_size(list), 47);
    json_array_foreach(list, i, item)
    {
        const json_t *text = json_object_get(item, "text"), *want = json_object_get(item, "ids");
        const struct span s = {(const uint8_t *)json_string_value(text), json_string_length(text)};
        const size_t n = encode(v, s, 0);
        if (n != json_array_size(want))
            fail_msg("%s, text %zu: %zu ids, wanted %zu", json_path, i, n, json_array_size(want));
        for (k = 0; k < n; k++)
            if (ids[k] != json_integer_value(json_array_get(want, k)))
                fail_msg("%s, text %zu: id %zu is %d", json_path, i, k, ids[k]);
        expect_round_trip(v, s);
    }
    json_decref(list);
}

/* `all_bytes`: there is a token for each byte, so that what is not UTF-8 comes back, too. */
static void check_reference(const char *name, bool bos, bool all_bytes)
{
    const char *dir = getenv("SHOAL_REFERENCE");
    char path[4096], list[4096];
    uint8_t bytes[300];
    uint64_t rng = 5;
    struct gguf *g;
    struct vocab *v;
    struct err e;
    snprintf(path, sizeof path, "%s/tokenizers/%s.gguf", dir != NULL ? dir : "", name);
    snprintf(list, sizeof list, "%s/tokenizers/%s.json", dir != NULL ? dir : "", name);
    if (dir == NULL || access(path, R_OK) != 0)
        skip();
    if (model_gguf_open(path, GGUF_METADATA_ONLY, &g, &e) != 0 || model_vocab_open(g, &v, &e) != 0)
        fail_msg("%s", e.text);
    model_gguf_close(g);
    check_list(v, list);
    assert_int_equal(encode(v, base_span_str(""), MODEL_ENCODE_BOS), bos ? 1 : 0);
    assert_false(model_vocab_space_prefix(v));
    for (int round = 0; round < 200 && all_bytes; round++) {
        const size_t len = base_rng_next(&rng) % sizeof bytes;
        for (size_t i = 0; i < len; i++)
            bytes[i] = (uint8_t)(base_rng_next(&rng) >> 20);
        expect_round_trip(v, (struct span){bytes, len});
    }
    model_vocab_close(v);
}

static void test_reference_llama_bpe(void **state)
{
    (void)state;
    check_reference("llama-bpe", true, true);
}

static void test_reference_qwen2(void **state)
{
    (void)state;
    check_reference("qwen2", false, true);
}

static void test_reference_gpt_2(void **state)
{
    (void)state;
    check_reference("gpt-2", false, true);
}

/* This vocabulary and the next lack the bytes that occur in no UTF-8. */
static void test_reference_deepseek_llm(void **state)
{
    (void)state;
    check_reference("deepseek-llm", true, false);
}

static void test_reference_starcoder(void **state)
{
    (void)state;
    check_reference("starcoder", false, false);
}

/* ---- words ----------------------------------------------------------------------------------- */

static int mark_word(void *arg, struct span word, struct err *e)
{
    struct base_buf *b = arg;
    (void)e;
    assert_true(word.len > 0);
    if (b->len > 0)
        base_buf_add(b, "|", 1);
    base_buf_add(b, word.ptr, word.len);
    return 0;
}

static void expect_words(const char *rule, const char *text, const char *want)
{
    struct vocab_splitter *s;
    struct base_buf b = {0};
    struct err e;
    const struct vocab_pre *pre = model_vocab_pre_find(base_span_str(rule));
    assert_non_null(pre);
    assert_int_equal(model_vocab_splitter_new(pre, &s, &e), 0);
    assert_int_equal(model_vocab_split(s, base_span_str(text), mark_word, &b, &e), 0);
    if (!base_span_is((struct span){b.ptr, b.len}, want))
        fail_msg("%s: \"%.*s\", wanted \"%s\"", rule, (int)b.len, (const char *)b.ptr, want);
    base_buf_deinit(&b);
    model_vocab_splitter_free(s);
}

static void test_words(void **state)
{
    (void)state;
    static const char text[] = "I'll pay  12345 (DON'T) now\n\n  x\t";
    expect_words("gpt-2", text, "I|'ll| pay| | 12345| (|DON|'|T|)| now|\n\n | x|\t");
    expect_words("smollm", text, "I|'ll| pay|  |1|2|3|4|5| (|DON|'|T|)| now|\n\n | x|\t");
    expect_words("llama-bpe", text, "I|'ll| pay| | |123|45| (|DON|'T|)| now|\n\n| | x|\t");
    expect_words("qwen2", text, "I|'ll| pay| | |1|2|3|4|5| (|DON|'T|)| now|\n\n| | x|\t");
    expect_words("falcon", text, "I|'|ll| pay| | |123|45| |(|DON|'|T|)| now|\n\n | x|\t");
    expect_words("default", text, "I|'|ll| pay| | |123|45| |(|DON|'|T|)| now|\n\n | x|\t");
    expect_words("deepseek-llm", text, "I|'|ll| pay|  |12345| (|DON|'|T|)| now|\n|\n| | x|\t");
    expect_words("deepseek-coder", text,
                 "I|'|ll| pay|  |1|2|3|4|5| (|DON|'|T|)| now|\n|\n| | x|\t");
    expect_words("deepseek-v3", text, "I|'ll| pay|  |123|45| (|DON|'T|)| now|\n\n| | x|\t");
    /* Caseless contractions are of ASCII, and U+180E is no blank. */
    expect_words("qwen2", "it'\xc5\xbf", "it|'\xc5\xbf");
    expect_words("gpt-2", "a \xe1\xa0\x8e", "a| \xe1\xa0\x8e");
    expect_words("gpt-2",
                 "a\xe3\x80\x80"
                 "b",
                 "a|\xe3\x80\x80|b");
    /* A blank run at the end of a text is DeepSeek's word, in the middle it is cut. */
    expect_words("deepseek-llm", "a   ", "a|   ");
    expect_words("deepseek-llm", "   \xd7\x90   ", "   \xd7\x90|   ");
}

static void test_words_of_what_is_no_text(void **state)
{
    (void)state;
    /* Runs of stray bytes are words, and what is between them does not see across. */
    expect_words("gpt-2",
                 "ab\xff\xfe"
                 "cd",
                 "ab|\xff\xfe|cd");
    expect_words("gpt-2", " \xff a", " |\xff| a");
    expect_words("gpt-2",
                 "a\xed\xa0\x80"
                 "b",
                 "a|\xed\xa0\x80|b"); /* a surrogate */
    expect_words("gpt-2", "\xc0\x80\xf4\x90\x80\x80\xe2\x82", "\xc0\x80\xf4\x90\x80\x80\xe2\x82");
    expect_words("llama-bpe",
                 "1\x80"
                 "2",
                 "1|\x80|2");
}

static void test_rules_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {
        "llama-bpe", "llama3",       "llama-v3", "qwen2",          "smollm",
        "gpt-2",     "deepseek-llm", "falcon",   "deepseek-coder", "deepseek-r1-qwen",
        "starcoder", "refact",       "mpt",      "default",        "dbrx",
        "command-r", "deepseek-v3"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_non_null(model_vocab_pre_find(base_span_str(names[i])));
    assert_null(model_vocab_pre_find(base_span_str("llama")));
    assert_null(model_vocab_pre_find(base_span_str("")));
}

/* ---- small vocabularies ---------------------------------------------------------------------- */

/* Token b is byte b for b in 0..255, then come `more`. */
struct small {
    const char *pre; /* NULL: none named */
    const char *more[24];
    int32_t types[24]; /* 0: normal */
    const char *merges[24];
    unsigned first_byte; /* bytes below it have no token */
    bool no_merges;
    void (*keys)(struct gguf_writer *w);
};

static struct base_buf letters; /* the alphabet's 256 characters, NUL behind each */

static const char *letter(unsigned b)
{
    if (letters.len == 0) {
        unsigned hidden = 0x100;
        for (unsigned c = 0; c < 256; c++) {
            const bool shown = (c > 0x20 && c < 0x7f) || (c > 0xa0 && c < 0x100 && c != 0xad);
            const unsigned u = shown ? c : hidden++;
            const char text[4] = {(char)(u < 0x80 ? u : 0xc0 | u >> 6),
                                  (char)(u < 0x80 ? 0 : 0x80 | (u & 0x3f))};
            base_buf_add(&letters, text, sizeof text);
        }
    }
    return (const char *)letters.ptr + 4 * (size_t)b;
}

static struct base_buf small_bytes(const struct small *s)
{
    struct span texts[300], merges[24];
    int32_t types[300];
    struct gguf_writer *w = model_gguf_writer_new();
    struct base_buf b = {0};
    size_t n = 0, n_merges = 0;
    for (unsigned i = 0; i < 256; i++, n++) {
        texts[n] = base_span_str(i < s->first_byte ? "-" : letter(i));
        types[n] = TOKEN_NORMAL;
    }
    for (size_t i = 0; i < 24 && s->more[i] != NULL; i++, n++) {
        texts[n] = base_span_str(s->more[i]);
        types[n] = s->types[i] == 0 ? TOKEN_NORMAL : s->types[i];
    }
    while (n_merges < 24 && s->merges[n_merges] != NULL) {
        merges[n_merges] = base_span_str(s->merges[n_merges]);
        n_merges++;
    }
    model_gguf_put_string(w, "tokenizer.ggml.model", base_span_str("gpt2"));
    if (s->pre != NULL)
        model_gguf_put_string(w, "tokenizer.ggml.pre", base_span_str(s->pre));
    model_gguf_put_strings(w, "tokenizer.ggml.tokens", texts, n);
    model_gguf_put_i32s(w, "tokenizer.ggml.token_type", types, n);
    if (!s->no_merges)
        model_gguf_put_strings(w, "tokenizer.ggml.merges", merges, n_merges);
    if (s->keys != NULL)
        s->keys(w);
    assert_int_equal(model_gguf_writer_bytes(w, &b, NULL), 0);
    model_gguf_writer_free(w);
    return b;
}

static int small_open(const struct small *s, struct vocab **v, struct err *e)
{
    struct base_buf b = small_bytes(s);
    struct gguf *g;
    assert_int_equal(model_gguf_open_bytes((struct span){b.ptr, b.len}, GGUF_WITH_DATA, &g, e), 0);
    const int rc = model_vocab_open(g, v, e);
    model_gguf_close(g);
    base_buf_deinit(&b);
    return rc;
}

static struct vocab *small_good(const struct small *s)
{
    struct vocab *v;
    struct err e;
    if (small_open(s, &v, &e) != 0)
        fail_msg("%s", e.text);
    return v;
}

static void small_bad(const struct small *s, int code, const char *sentence)
{
    struct vocab *v;
    struct err e = {0};
    const int64_t live = base_alloc_live();
    const int rc = small_open(s, &v, &e);
    if (rc != code || strstr(e.text, sentence) == NULL)
        fail_msg("code %d, wanted %d; text \"%s\", wanted \"%s\"", rc, code, e.text, sentence);
    assert_null(v);
    assert_int_equal(base_alloc_live(), live);
}

#define G "\xc4\xa0" /* a space in the alphabet of bytes */

static void test_joining(void **state)
{
    (void)state;
    const struct small s = {.pre = "gpt-2",
                            .more = {"ab", "bc", "abc", "aa", "abcd", G "a"},
                            .merges = {"b c", "a b", "a bc", "a a", "ab c", G " a"}};
    struct vocab *v = small_good(&s);
    EXPECT(v, "abc", 0, 258); /* "b c" comes before "a b", then "a bc" */
    EXPECT(v, "ab", 0, 256);
    EXPECT(v, "aaa", 0, 259, 'a');      /* of equals the left one */
    EXPECT(v, "aab", 0, 'a', 256);      /* "a b" before "a a" */
    EXPECT(v, "abcd", 0, 258, 'd');     /* a token that no merge makes is not made */
    EXPECT(v, "b a", 0, 'b', 261);      /* the space is the word's */
    EXPECT(v, "a b", 0, 'a', ' ', 'b'); /* no merge crosses words */
    EXPECT(v, "\xc4\xa0", 0, 0xc4, 0xa0);
    model_vocab_close(v);
}

static void test_whole_tokens(void **state)
{
    (void)state;
    struct small s = {.pre = "gpt-2", .more = {"ab", "bcd", "abcd"}, .merges = {"a b"}};
    struct vocab *v = small_good(&s);
    EXPECT(v, "abcd", 0, 256, 'c', 'd');
    model_vocab_close(v);
    s.pre = "llama-bpe";
    v = small_good(&s);
    EXPECT(v, "abcd", 0, 258);
    EXPECT(v, "abcda", 0, 256, 'c', 'd', 'a'); /* whole words only */
    EXPECT(v, "bcd abcd", 0, 257, ' ', 256, 'c', 'd');
    model_vocab_close(v);
}

/* A merge may lead over a piece that is no token; one that stays such a piece becomes its bytes. */
static void test_pieces_that_are_no_tokens(void **state)
{
    (void)state;
    const struct small s = {.pre = "gpt-2",
                            .more = {"abc"},
                            .merges = {"a b", "ab c", "x y", "x y", "xy xy", "q \xe2\x82\xac"}};
    struct vocab *v = small_good(&s);
    EXPECT(v, "abc", 0, 256);
    EXPECT(v, "abd", 0, 'a', 'b', 'd');
    EXPECT(v, "xyxy", 0, 'x', 'y', 'x', 'y');
    model_vocab_close(v);
}

static void test_special_tokens(void **state)
{
    (void)state;
    const unsigned special = MODEL_ENCODE_SPECIAL;
    const struct small s = {
        .pre = "gpt-2",
        .more = {"<|im_end|>", "<think>", "ab", "\xc3\xb8", "  ", "\xe2\x96\x81x", "xy", "<0x41>"},
        .types = {3, 4, 0, 4, 4, 0, 5, 6},
        .merges = {"a b", "x y", "\xc3\x83 \xc2\xb8"}};
    struct vocab *v = small_good(&s);
    EXPECT(v, "<|im_end|>", 0, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    EXPECT(v, "ab<|im_end|>ab", special, 258, 256, 258);
    EXPECT(v, "a<think>b", 0, 'a', 257, 'b');
    EXPECT(v, "\xc3\xb8", 0, 259); /* its text stands for itself */
    EXPECT(v, "\xf8", 0, 0xf8);    /* and not for a byte */
    EXPECT(v, "a  b", 0, 'a', 260, 'b');
    EXPECT(v, "xy", 0, 262); /* an unused token joins as others do */
    assert_true(base_span_is(model_vocab_text(v, 256), ""));
    assert_true(base_span_is(model_vocab_text(v, 257), "<think>"));
    assert_true(base_span_is(model_vocab_text(v, 259), "\xc3\xb8"));
    assert_true(base_span_is(model_vocab_text(v, 260), "  "));
    assert_true(base_span_is(model_vocab_text(v, 261), "\xe2\x96\x81x"));
    for (unsigned b = 0; b < 256; b++) {
        const struct span text = model_vocab_text(v, (int32_t)b);
        assert_int_equal(text.len, 1);
        assert_int_equal(text.ptr[0], b);
    }
    assert_true(model_vocab_is_end(v, 256));
    model_vocab_close(v);
}

/* What finding special tokens means, said plainly: one after the other, each wherever nothing is
 * taken yet. rank[i] is 1 + the rank of the token that begins at byte i. */
static void slow_specials(const struct vocab *v, struct span text, bool control, uint32_t *rank)
{
    bool taken[64] = {false};
    memset(rank, 0, text.len * sizeof *rank);
    for (size_t s = 0; s < v->n_specials; s++) {
        const struct vocab_token *t = &v->tokens[v->specials[s]];
        for (size_t at = 0; at + t->text.len <= text.len; at++) {
            bool fits = (control || t->type == TOKEN_USER_DEFINED) &&
                        memcmp(text.ptr + at, t->text.ptr, t->text.len) == 0;
            for (size_t i = 0; i < t->text.len; i++)
                fits = fits && !taken[at + i];
            for (size_t i = 0; i < t->text.len && fits; i++)
                taken[at + i] = true;
            rank[at] = fits ? (uint32_t)s + 1 : rank[at];
        }
    }
}

static void test_specials_that_overlap(void **state)
{
    (void)state;
    const struct small s = {
        .pre = "gpt-2",
        .more = {"ab", "aba", "bab", "ba", "<a", "a>b", "ab", "b", "abab", "b", "><", "a<"},
        .types = {4, 3, 4, 2, 4, 3, 3, 3, 4, 4, 4, 4}};
    struct vocab *v = small_good(&s);
    uint64_t rng = 23;
    for (int round = 0; round < 3000; round++) {
        uint8_t bytes[40];
        uint32_t want[40];
        const struct span text = {bytes, base_rng_next(&rng) % sizeof bytes};
        const bool control = round % 2 == 0;
        struct vocab_places p = {0};
        size_t k = 0;
        for (size_t i = 0; i < text.len; i++)
            bytes[i] = (uint8_t) "ababab<>c"[base_rng_next(&rng) % 9];
        slow_specials(v, text, control, want);
        assert_int_equal(model_vocab_find_specials(v, text, control, &p, NULL), 0);
        for (size_t i = 0; i < text.len; i++) {
            const uint32_t got = k < p.n && p.list[k].at == i ? p.list[k++].rank + 1 : 0;
            if (got != want[i])
                fail_msg("\"%.*s\": at %zu %u, wanted %u", (int)text.len, (const char *)bytes, i,
                         got, want[i]);
        }
        assert_int_equal(k, p.n);
        base_free(p.list);
    }
    model_vocab_close(v);
}

static void bos_and_eos(struct gguf_writer *w)
{
    model_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 256);
    model_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 257);
}

static void bos_and_eos_added(struct gguf_writer *w)
{
    bos_and_eos(w);
    model_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
    model_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", true);
    model_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", true);
}

static void bos_not_added(struct gguf_writer *w)
{
    bos_and_eos(w);
    model_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
}

static void test_bos_and_eos(void **state)
{
    (void)state;
    struct small s = {.pre = "qwen2", .more = {"<s>", "</s>"}, .types = {3, 3}};
    struct vocab *v = small_good(&s);
    assert_int_equal(model_vocab_bos(v), -1); /* no id is guessed */
    EXPECT(v, "a", MODEL_ENCODE_BOS, 'a');
    model_vocab_close(v);
    s.keys = bos_and_eos;
    v = small_good(&s);
    assert_int_equal(model_vocab_bos(v), 256);
    assert_true(model_vocab_is_end(v, 257));
    EXPECT(v, "a", MODEL_ENCODE_BOS, 'a'); /* none unless the file says so */
    model_vocab_close(v);
    s.pre = "llama-bpe"; /* or the rule does */
    v = small_good(&s);
    EXPECT(v, "a", MODEL_ENCODE_BOS, 256, 'a');
    EXPECT(v, "a", 0, 'a');
    model_vocab_close(v);
    s.keys = bos_not_added;
    v = small_good(&s);
    EXPECT(v, "a", MODEL_ENCODE_BOS, 'a');
    model_vocab_close(v);
    s.pre = NULL;
    s.keys = bos_and_eos_added;
    v = small_good(&s);
    EXPECT(v, "a", MODEL_ENCODE_BOS, 256, 'a', 257);
    EXPECT(v, "", MODEL_ENCODE_BOS, 256, 257);
    assert_false(model_vocab_space_prefix(v)); /* bytes need none, whatever the file says */
    model_vocab_close(v);
}

static void unknown_is_minus(struct gguf_writer *w)
{
    model_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", '-');
}

static void test_bytes_without_tokens(void **state)
{
    (void)state;
    struct small s = {.pre = "gpt-2", .first_byte = 0x20};
    struct vocab *v = small_good(&s);
    EXPECT(v, "a\nb", 0, 'a', 0xef, 0xbf, 0xbd, 'b'); /* U+FFFD */
    model_vocab_close(v);
    s.keys = unknown_is_minus;
    v = small_good(&s);
    EXPECT(v, "a\nb", 0, 'a', '-', 'b');
    model_vocab_close(v);
}

/* ---- hostile texts and files ----------------------------------------------------------------- */

static const char *const all_rules[] = {"default",        "llama-bpe",  "qwen2",        "smollm",
                                        "gpt-2",          "falcon",     "deepseek-llm", "mpt",
                                        "deepseek-coder", "deepseek-v3"};
enum { N_RULES = sizeof all_rules / sizeof all_rules[0], LONG = 1 << 20 };

/* Texts that make a matcher look far for little: in time that grows with more than the length none
 * of these would end. */
static void test_long_texts(void **state)
{
    (void)state;
    static const char *const units[] = {
        "a",   " ", "\n",   " \n ",         "1",    "'",   "\t a",
        "   ", ".", "\xff", "\xe4\xb8\x80", "  \r", "a1 ", "\xcc\x81"};
    struct small s = {.more = {"aa", "aaaa", G G}, .merges = {"a a", "aa aa", G " " G}};
    uint8_t *text = malloc(LONG + 1);
    assert_non_null(text);
    for (size_t r = 0; r < N_RULES; r++) {
        s.pre = all_rules[r];
        struct vocab *v = small_good(&s);
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            const size_t len = strlen(units[u]), n = u < 2 ? LONG : LONG / 8;
            for (size_t i = 0; i < n; i++)
                text[i] = (uint8_t)units[u][i % len];
            for (size_t k = 0; k < 2; k++) {
                text[n] = (uint8_t) "x1"[k]; /* what ends a run of blanks */
                expect_round_trip(v, (struct span){text, n + 1});
            }
        }
        model_vocab_close(v);
    }
    free(text);
}

static void test_random_bytes(void **state)
{
    (void)state;
    static const char pool[] = "ab \n\t'1.,\xc3\xa9\xe4\xb8\x80\xff\xf0\x9f\xa6\x99ST";
    struct small s = {.more = {"ab", G "a"}, .merges = {"a b", G " a"}};
    uint64_t rng = 17;
    uint8_t text[200];
    for (size_t r = 0; r < N_RULES; r++) {
        s.pre = all_rules[r];
        struct vocab *v = small_good(&s);
        for (int round = 0; round < 300; round++) {
            const size_t len = base_rng_next(&rng) % sizeof text;
            for (size_t i = 0; i < len; i++)
                text[i] = round % 2 == 0 ? (uint8_t)(base_rng_next(&rng) >> 20)
                                         : (uint8_t)pool[base_rng_next(&rng) % (sizeof pool - 1)];
            expect_round_trip(v, (struct span){text, len});
        }
        model_vocab_close(v);
    }
}

static void bad_pre_type(struct gguf_writer *w)
{
    model_gguf_put_u32(w, "tokenizer.ggml.pre", 1);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const char *const bad_merges[] = {"", "a", "ab", " a", "a ", " ", "  "};
    struct small s = {.pre = "made\nup"};
    small_bad(&s, ERR_UNSUPPORTED, "pre-tokenizer 'made?up' (of tokenizer 'gpt2') is not");
    s = (struct small){.keys = bad_pre_type};
    small_bad(&s, ERR_FORMAT, "'tokenizer.ggml.pre'");
    s = (struct small){.no_merges = true};
    small_bad(&s, ERR_FORMAT, "'tokenizer.ggml.merges' is missing or not an array of strings");
    for (size_t i = 0; i < sizeof bad_merges / sizeof bad_merges[0]; i++) {
        s = (struct small){.merges = {"a b", bad_merges[i]}};
        small_bad(&s, ERR_FORMAT, "merge 1 is not two texts with a space between");
    }
    s = (struct small){.pre = NULL};
    struct vocab *v = small_good(&s); /* no merge at all is no mistake */
    EXPECT(v, "ab", 0, 'a', 'b');
    model_vocab_close(v);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    const struct small s = {.pre = "llama-bpe",
                            .more = {"ab", "<t>"},
                            .types = {0, 4},
                            .merges = {"a b", "q r", "qr s"}};
    struct base_buf b = small_bytes(&s);
    struct gguf *g;
    assert_int_equal(model_gguf_open_bytes((struct span){b.ptr, b.len}, GGUF_WITH_DATA, &g, NULL),
                     0);
    const int64_t live = base_alloc_live();
    struct vocab *v = NULL;
    uint64_t n = 0;
    while (v == NULL) {
        struct err e = {0};
        base_alloc_fail_nth(++n);
        const int rc = model_vocab_open(g, &v, &e);
        base_alloc_fail_nth(0);
        if (rc != 0) {
            assert_int_equal(rc, ERR_NOMEM);
            assert_int_equal(base_alloc_live(), live);
        }
    }
    assert_true(n > 10);
    model_gguf_close(g);

    const int64_t open = base_alloc_live();
    int rc = ERR_NOMEM;
    for (n = 0; rc != 0;) {
        struct err e = {0};
        size_t n_ids = 0;
        static const char text[] =
            "ab<t>a long word qrs\xff aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        base_alloc_fail_nth(++n);
        rc = model_vocab_encode(v, base_span_str(text), 0, ids, IDS_MAX, &n_ids, &e);
        base_alloc_fail_nth(0);
        if (rc != 0)
            assert_int_equal(rc, ERR_NOMEM);
        assert_int_equal(base_alloc_live(), open);
    }
    assert_true(n > 5);
    model_vocab_close(v);
    base_buf_deinit(&b);
    base_buf_deinit(&letters);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_llama_bpe),
        cmocka_unit_test(test_reference_qwen2),
        cmocka_unit_test(test_reference_gpt_2),
        cmocka_unit_test(test_reference_deepseek_llm),
        cmocka_unit_test(test_reference_starcoder),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_words_of_what_is_no_text),
        cmocka_unit_test(test_rules_by_name),
        cmocka_unit_test(test_joining),
        cmocka_unit_test(test_whole_tokens),
        cmocka_unit_test(test_pieces_that_are_no_tokens),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_specials_that_overlap),
        cmocka_unit_test(test_bos_and_eos),
        cmocka_unit_test(test_bytes_without_tokens),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("tokenizer_bpe", tests, NULL, NULL);
}
