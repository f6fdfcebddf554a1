/* The tokenizer against an independent engine's ids, against a slow and simple statement of the
 * same algorithm on random texts, and against vocabularies made to break it. */
#include "model/model.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *source_path(const char *name, char out[4096])
{
    const char *dir = getenv("SHOAL_SRCDIR");
    snprintf(out, 4096, "%s/%s", dir != NULL ? dir : ".", name);
    return out;
}

/* A file of the reference folder; skips the test where there is none. */
static const char *reference_path(const char *name, char out[4096])
{
    const char *dir = getenv("SHOAL_REFERENCE");
    snprintf(out, 4096, "%s/%s", dir != NULL ? dir : "", name);
    if (dir == NULL || access(out, R_OK) != 0)
        skip();
    return out;
}

static struct vocab *open_vocab(const char *path)
{
    struct gguf *g;
    struct vocab *v = NULL;
    struct err e;
    if (model_gguf_open(path, GGUF_METADATA_ONLY, &g, &e) != 0 || model_vocab_open(g, &v, &e) != 0)
        fail_msg("%s", e.text);
    model_gguf_close(g); /* the vocabulary keeps nothing of the file */
    return v;
}

static struct vocab *demo_vocab(void)
{
    char path[4096];
    return open_vocab(source_path("models/shoal-demo-7m-q8_0.gguf", path));
}

static struct span text_span(const char *s)
{
    return base_span_str(s);
}

enum { IDS_MAX = 1 << 18 };
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
    const size_t got = encode(v, text_span(text), flags);
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

/* The bytes that ids[n] stand for, in order. */
static struct base_buf decode(const struct vocab *v, size_t n)
{
    struct base_buf b = {0};
    for (size_t i = 0; i < n; i++) {
        const struct span s = model_vocab_text(v, ids[i]);
        if (s.len > 0)
            base_buf_add(&b, s.ptr, s.len);
    }
    assert_false(b.failed);
    return b;
}

/* Text, tokenized and back, is the text after one space; nothing stays nothing. */
static void expect_round_trip(const struct vocab *v, struct span text)
{
    const size_t n = encode(v, text, MODEL_ENCODE_BOS);
    struct base_buf b = decode(v, n);
    if (text.len == 0) {
        assert_int_equal(b.len, 0);
    } else {
        assert_int_equal(b.len, text.len + 1);
        assert_int_equal(b.ptr[0], ' ');
        assert_memory_equal(b.ptr + 1, text.ptr, text.len);
    }
    base_buf_deinit(&b);
}

/* ---- against the reference ------------------------------------------------------------------- */

static void check_list(const struct vocab *v, const char *json_path, unsigned flags, size_t n_texts)
{
    json_error_t je;
    json_t *list = json_load_file(json_path, JSON_ALLOW_NUL, &je), *item;
    size_t i, k;
    if (list == NULL)
        fail_msg("%s: %s", json_path, je.text);
    assert_int_equal(json_array_size(list), n_texts);
    json_array_foreach(list, i, item)
    {
        const json_t *text = json_object_get(item, "text"), *want = json_object_get(item, "ids");
        const struct span s = {(const uint8_t *)json_string_value(text), json_string_length(text)};
        const size_t n = encode(v, s, flags);
        if (n != json_array_size(want))
            fail_msg("text %zu, \"%.*s\": %zu ids, wanted %zu", i, (int)s.len, (const char *)s.ptr,
                     n, json_array_size(want));
        for (k = 0; k < n; k++)
            if (ids[k] != json_integer_value(json_array_get(want, k)))
                fail_msg("text %zu, \"%.*s\": id %zu is %d", i, (int)s.len, (const char *)s.ptr, k,
                         ids[k]);
        expect_round_trip(v, s);
    }
    json_decref(list);
}

static void test_demo_ids(void **state)
{
    (void)state;
    char path[4096];
    struct vocab *v = demo_vocab();
    assert_int_equal(model_vocab_size(v), 2048);
    assert_int_equal(model_vocab_bos(v), 1);
    assert_true(model_vocab_space_prefix(v));
    check_list(v, source_path("tests/data/tokens.json", path), MODEL_ENCODE_BOS, 20);
    model_vocab_close(v);
}

static void test_reference_demo_ids(void **state)
{
    (void)state;
    char path[4096];
    struct vocab *v = open_vocab(reference_path("demo/shoal-demo-7m-q8_0.gguf", path));
    check_list(v, reference_path("demo/tokens.json", path), MODEL_ENCODE_BOS, 20);

    /* The reference cut its long text into 31 windows of 512. */
    uint8_t *text;
    size_t len;
    struct err e;
    assert_int_equal(
        base_file_read(reference_path("demo/text.txt", path), 1 << 20, &text, &len, &e), 0);
    assert_int_equal(encode(v, (struct span){text, len}, MODEL_ENCODE_BOS) / 512, 31);
    expect_round_trip(v, (struct span){text, len});
    base_free(text);
    model_vocab_close(v);
}

static void test_reference_llama_ids(void **state)
{
    (void)state;
    char path[4096];
    struct vocab *v = open_vocab(reference_path("tokenizers/llama-spm.gguf", path));
    assert_int_equal(model_vocab_size(v), 32000);
    check_list(v, reference_path("tokenizers/llama-spm.json", path), 0, 47);
    EXPECT(v, "</s>", MODEL_ENCODE_BOS, 1, 1533, 29879, 29958);
    EXPECT(v, "</s>", MODEL_ENCODE_BOS | MODEL_ENCODE_SPECIAL, 1, 2);
    model_vocab_close(v);
}

/* ---- against the algorithm's plain statement --------------------------------------------------
 */

/* The demo file's tokens as they are in it. */
struct plain_vocab {
    struct span text[2048];
    float score[2048];
    int32_t type[2048];
};

static void read_plain(const struct gguf *g, struct plain_vocab *p)
{
    const struct gguf_kv *texts = model_gguf_kv(g, "tokenizer.ggml.tokens");
    size_t cursor = 0;
    for (size_t i = 0; i < 2048; i++)
        assert_true(model_gguf_next_string(texts, &cursor, &p->text[i]));
    memcpy(p->score, model_gguf_kv(g, "tokenizer.ggml.scores")->bytes.ptr, sizeof p->score);
    memcpy(p->type, model_gguf_kv(g, "tokenizer.ggml.token_type")->bytes.ptr, sizeof p->type);
}

static int32_t find_plain(const struct plain_vocab *p, const char *text, size_t len)
{
    for (int32_t i = 0; i < 2048; i++)
        if (p->type[i] == 1 && p->text[i].len == len && memcmp(p->text[i].ptr, text, len) == 0)
            return i;
    return -1;
}

/* Pieces of `text` (ASCII, the prefix space in it) joined best pair first, by searching all pairs
 * again after each join. Returns the number of ids in out. */
static size_t slow_encode(const struct plain_vocab *p, const char *text, int32_t *out)
{
    char bytes[1024];
    size_t start[400], n = 0, len = 0, n_ids = 0;
    for (const char *c = text; *c != '\0'; c++) {
        start[n++] = len;
        if (*c == ' ')
            memcpy(bytes + len, "\xe2\x96\x81", 3);
        else
            bytes[len] = *c;
        len += *c == ' ' ? 3 : 1;
    }
    start[n] = len;
    for (;;) {
        size_t best = n;
        float best_score = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const int32_t id = find_plain(p, bytes + start[i], start[i + 2] - start[i]);
            if (id >= 0 && (best == n || p->score[id] > best_score)) {
                best = i;
                best_score = p->score[id];
            }
        }
        if (best == n)
            break;
        memmove(start + best + 1, start + best + 2, (n - best - 1) * sizeof start[0]);
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        const int32_t id = find_plain(p, bytes + start[i], start[i + 1] - start[i]);
        for (size_t k = start[i]; id < 0 && k < start[i + 1]; k++)
            out[n_ids++] = 3 + (uint8_t)bytes[k];
        if (id >= 0)
            out[n_ids++] = id;
    }
    return n_ids;
}

static void test_equals_the_slow_algorithm(void **state)
{
    (void)state;
    static struct plain_vocab plain;
    static const char letters[] = "eeethaaiosnr  \tdlcuZ\\\x01";
    char path[4096], text[64];
    int32_t want[256];
    struct gguf *g;
    struct vocab *v;
    struct err e;
    uint64_t rng = 7;
    source_path("models/shoal-demo-7m-q8_0.gguf", path);
    assert_int_equal(model_gguf_open(path, GGUF_METADATA_ONLY, &g, &e), 0);
    assert_int_equal(model_vocab_open(g, &v, &e), 0);
    read_plain(g, &plain);
    for (int round = 0; round < 150; round++) {
        const size_t len = 2 + base_rng_next(&rng) % 40;
        text[0] = ' ';
        for (size_t i = 1; i < len; i++)
            text[i] = letters[base_rng_next(&rng) % (sizeof letters - 1)];
        text[len] = '\0';
        expect_ids(v, text + 1, 0, slow_encode(&plain, text, want), want);
    }
    model_vocab_close(v);
    model_gguf_close(g);
}

static void test_round_trips(void **state)
{
    (void)state;
    struct vocab *v = demo_vocab();
    uint8_t bytes[300];
    uint64_t rng = 11;
    for (int round = 0; round < 500; round++) {
        const size_t len = base_rng_next(&rng) % sizeof bytes;
        for (size_t i = 0; i < len; i++)
            bytes[i] = (uint8_t)(base_rng_next(&rng) >> 20);
        expect_round_trip(v, (struct span){bytes, len});
    }
    expect_round_trip(v, (struct span){(const uint8_t *)"a\0b\0", 4});
    expect_round_trip(v, text_span("\xf0\x9f\xa6")); /* a character cut short */
    expect_round_trip(v, text_span("   three before, two after  "));
    model_vocab_close(v);
}

static void test_long_texts(void **state)
{
    (void)state;
    struct vocab *v = demo_vocab();
    enum { LEN = 100000 };
    uint8_t *text = malloc(LEN);
    uint64_t rng = 3;
    assert_non_null(text);
    memset(text, 'a', LEN);
    expect_round_trip(v, (struct span){text, LEN});
    memset(text, ' ', LEN);
    expect_round_trip(v, (struct span){text, LEN});
    for (size_t i = 0; i < LEN; i++)
        text[i] = (uint8_t)("etaoinshr  dlu"[base_rng_next(&rng) % 14]);
    expect_round_trip(v, (struct span){text, LEN});
    free(text);
    model_vocab_close(v);
}

/* ---- small vocabularies ---------------------------------------------------------------------- */

struct small_token {
    const char *text;
    float score;
    int32_t type;
};

/* 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. */
static const struct small_token few[] = {
    {"<unk>", 0, 2},
    {"<s>", 0, 3},
    {"</s>", 0, 3},
    {"a", -10, 1},
    {"b", -11, 1},
    {"c", -12, 1},
    {"ab", -2, 1},
    {"bc", -1, 1},
    {"abc", -5, 1},
    {"aa", -3, 1},
    {"\xe2\x96\x81", -13, 1},
    {"\xe2\x96\x81"
     "a",
     -4, 1},
    {"<tool>", 0, 4},
    {"<x>", 0, 3},
    {"<0x64>", 0, 6},
    {"<", -14, 1},
    {"s", -15, 1},
    {">", -16, 1},
    {"<s", -6, 1},
    {"ca", -1, 5},
    {"<tool><tool>", 0, 4},
    {"", 0, 1},
    {"<|im_end|>", 0, 3},
    {"<|end|>", 0, 1},
    {"\xe2\x96\x81!", 0, 4},
};
enum { N_FEW = sizeof few / sizeof few[0] };

enum small_flags { NO_TYPES = 1, NO_SCORES = 2, NO_IDS = 4, NO_FLAGS = 8 };

static struct gguf_writer *small_writer(const struct small_token *tokens, size_t n,
                                        unsigned leave_out)
{
    struct span texts[64];
    float scores[64];
    int32_t types[64];
    struct gguf_writer *w = model_gguf_writer_new();
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++) {
        texts[i] = base_span_str(tokens[i].text);
        scores[i] = tokens[i].score;
        types[i] = tokens[i].type;
    }
    model_gguf_put_string(w, "tokenizer.ggml.model", base_span_str("llama"));
    model_gguf_put_strings(w, "tokenizer.ggml.tokens", texts, n);
    if (!(leave_out & NO_SCORES))
        model_gguf_put_f32s(w, "tokenizer.ggml.scores", scores, n);
    if (!(leave_out & NO_TYPES))
        model_gguf_put_i32s(w, "tokenizer.ggml.token_type", types, n);
    if (!(leave_out & NO_IDS)) {
        model_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
        model_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
        model_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    }
    if (!(leave_out & NO_FLAGS)) {
        model_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
        model_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
        model_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false);
    }
    return w;
}

/* Open what a writer has; frees the writer. */
static int finish(struct gguf_writer *w, struct vocab **v, struct err *e)
{
    struct base_buf b = {0};
    struct gguf *g;
    assert_int_equal(model_gguf_writer_bytes(w, &b, e), 0);
    model_gguf_writer_free(w);
    assert_int_equal(model_gguf_open_bytes((struct span){b.ptr, b.len}, GGUF_WITH_DATA, &g, e), 0);
    const int rc = model_vocab_open(g, v, e);
    model_gguf_close(g);
    base_buf_deinit(&b);
    return rc;
}

static struct vocab *finish_good(struct gguf_writer *w)
{
    struct vocab *v;
    struct err e;
    if (finish(w, &v, &e) != 0)
        fail_msg("%s", e.text);
    return v;
}

static void finish_bad(struct gguf_writer *w, int code, const char *sentence)
{
    struct vocab *v;
    struct err e = {0};
    const int64_t live = base_alloc_live();
    const int rc = finish(w, &v, &e);
    if (rc != code || strstr(e.text, sentence) == NULL)
        fail_msg("code %d, wanted %d; text \"%s\", wanted \"%s\"", rc, code, e.text, sentence);
    assert_null(v);
    assert_true(base_alloc_live() < live); /* the writer is gone, and nothing came instead */
}

static void test_joining(void **state)
{
    (void)state;
    struct vocab *v = finish_good(small_writer(few, N_FEW, 0));
    EXPECT(v, "abc", 0, 8);    /* "bc" first, then "a" with it */
    EXPECT(v, "aab", 0, 3, 6); /* "ab" scores better than the "aa" before it */
    EXPECT(v, "aaa", 0, 9, 3); /* of equals the left one */
    EXPECT(v, "bca", 0, 7, 3); /* likewise, of two different pairs */
    EXPECT(v, "bbca", 0, 4, 7, 3);
    EXPECT(v, "cab", 0, 19, 4); /* an unused token joins as others do */
    EXPECT(v, "c a", 0, 5, 11); /* U+2581 stands for the space */
    assert_int_equal(encode(v, text_span(""), 0), 0);
    model_vocab_close(v);
}

static void test_special_tokens(void **state)
{
    (void)state;
    const unsigned special = MODEL_ENCODE_SPECIAL;
    struct vocab *v = finish_good(small_writer(few, N_FEW, 0));
    /* Control tokens written out are text, even where their parts join up to them. */
    EXPECT(v, "<s>", 0, 18, 17);
    EXPECT(v, "<s>", special, 1);
    EXPECT(v, "a<s>b</s>", special, 3, 1, 4, 2);
    EXPECT(v, "<unk>", special, 0);
    EXPECT(v, "<s><s>", special | MODEL_ENCODE_BOS, 1, 1, 1);
    /* User-defined ones are parsed always, the longer first. */
    EXPECT(v, "a<tool>b", 0, 3, 12, 4);
    EXPECT(v, "<tool><tool><tool>", 0, 20, 12);
    EXPECT(v, "<tool", special, 15, 0, 0, 0, 0);
    /* A byte token's text is text, its byte is the token; what has no byte token is unknown. */
    EXPECT(v, "d", 0, 14);
    EXPECT(v, "z\xc3\xa9z", 0, 0, 0, 0);
    model_vocab_close(v);
}

static void test_special_tokens_and_spaces(void **state)
{
    (void)state;
    struct gguf_writer *w = small_writer(few, N_FEW, NO_FLAGS);
    struct vocab *v = finish_good(w);
    assert_true(model_vocab_space_prefix(v));
    /* Absent flags: BOS and a space before the text, and a space after each special token. */
    EXPECT(v, "a", MODEL_ENCODE_BOS, 1, 11);
    EXPECT(v, "a", 0, 11);
    EXPECT(v, "", MODEL_ENCODE_BOS, 1);
    EXPECT(v, "a<tool>a<tool>b", 0, 11, 12, 11, 12, 10, 4);
    EXPECT(v, " a", 0, 10, 11);
    model_vocab_close(v);
}

static void test_bos_and_eos(void **state)
{
    (void)state;
    struct gguf_writer *w = small_writer(few, N_FEW, NO_FLAGS);
    model_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
    model_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", true);
    model_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false);
    struct vocab *v = finish_good(w);
    EXPECT(v, "a", MODEL_ENCODE_BOS, 3, 2);
    EXPECT(v, "", MODEL_ENCODE_BOS, 2);
    EXPECT(v, "a", 0, 3);
    assert_false(model_vocab_space_prefix(v));
    assert_true(model_vocab_is_end(v, 2));
    assert_true(model_vocab_is_end(v, 22));  /* <|im_end|>, a control token */
    assert_false(model_vocab_is_end(v, 23)); /* <|end|>, but an ordinary one */
    assert_false(model_vocab_is_end(v, 1));
    assert_false(model_vocab_is_end(v, -1));
    assert_false(model_vocab_is_end(v, N_FEW));
    int32_t ends[4] = {-7, -7, -7, -7};
    assert_int_equal(model_vocab_ends(v, ends, 4), 2);
    assert_int_equal(ends[0], 2);
    assert_int_equal(ends[1], 22);
    assert_int_equal(model_vocab_ends(v, ends, 1), 1);
    model_vocab_close(v);

    w = small_writer(few, N_FEW, 0);
    model_gguf_put_u32(w, "tokenizer.ggml.eot_token_id", 13);
    v = finish_good(w);
    assert_true(model_vocab_is_end(v, 13));
    model_vocab_close(v);

    /* -1 written as 32 bits says that there is none. */
    w = small_writer(few, N_FEW, NO_IDS);
    model_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", UINT32_MAX);
    v = finish_good(w);
    assert_int_equal(model_vocab_bos(v), -1);
    EXPECT(v, "a", MODEL_ENCODE_BOS, 3);
    model_vocab_close(v);
}

static void expect_text(const struct vocab *v, int32_t id, const char *want)
{
    const struct span s = model_vocab_text(v, id);
    if (!base_span_is(s, want))
        fail_msg("token %d is \"%.*s\", wanted \"%s\"", id, (int)s.len, (const char *)s.ptr, want);
}

static void test_texts(void **state)
{
    (void)state;
    struct vocab *v = finish_good(small_writer(few, N_FEW, 0));
    expect_text(v, 0, ""); /* unknown */
    expect_text(v, 1, ""); /* control */
    expect_text(v, 3, "a");
    expect_text(v, 10, " ");
    expect_text(v, 11, " a");
    expect_text(v, 12, "<tool>");        /* user-defined */
    expect_text(v, 24, "\xe2\x96\x81!"); /* likewise, so this is no space */
    expect_text(v, 14, "d");             /* byte */
    expect_text(v, 19, "");              /* unused */
    expect_text(v, 21, "");
    expect_text(v, -1, "");
    expect_text(v, N_FEW, "");
    expect_text(v, INT32_MAX, "");
    model_vocab_close(v);
}

/* Without types: byte tokens by their looks, control tokens by their ids; without scores all are
 * equal and the leftmost pair wins; without ids those of SentencePiece. */
static void test_old_files(void **state)
{
    (void)state;
    struct vocab *v =
        finish_good(small_writer(few, N_FEW, NO_TYPES | NO_SCORES | NO_IDS | NO_FLAGS));
    assert_int_equal(model_vocab_bos(v), 1);
    assert_true(model_vocab_is_end(v, 2));
    EXPECT(v, "abcd", MODEL_ENCODE_BOS, 1, 11, 7, 14);
    EXPECT(v, "<s>", MODEL_ENCODE_SPECIAL | MODEL_ENCODE_BOS, 1, 1);
    expect_text(v, 1, "");
    expect_text(v, 14, "d");
    model_vocab_close(v);

    static const struct small_token alone[] = {{"a", 0, 1}};
    v = finish_good(small_writer(alone, 1, NO_IDS | NO_FLAGS));
    assert_int_equal(model_vocab_bos(v), -1); /* the usual id 1 is not there */
    model_vocab_close(v);
}

static void test_later_of_equal_texts_wins(void **state)
{
    (void)state;
    static const struct small_token twins[] = {
        {"<unk>", 0, 2}, {"q", -1, 1}, {"r", -1, 1}, {"q", -1, 1}};
    struct vocab *v = finish_good(small_writer(twins, 4, NO_IDS));
    EXPECT(v, "qr", 0, 3, 2);
    model_vocab_close(v);
}

static void test_too_little_room(void **state)
{
    (void)state;
    struct vocab *v = demo_vocab();
    struct err e;
    int32_t few_ids[4] = {-7, -7, -7, -7};
    size_t n = 0;
    const struct span text = text_span("don't");
    assert_int_equal(model_vocab_encode(v, text, MODEL_ENCODE_BOS, few_ids, 3, &n, &e), ERR_RANGE);
    assert_int_equal(n, 5);
    assert_int_equal(few_ids[2], 283);
    assert_int_equal(few_ids[3], -7);
    assert_non_null(strstr(e.text, "5 tokens, there is room for 3"));
    assert_int_equal(model_vocab_encode(v, text, MODEL_ENCODE_BOS, NULL, 0, &n, NULL), ERR_RANGE);
    assert_int_equal(n, 5);
    assert_int_equal(model_vocab_encode(v, text_span(""), 0, NULL, 0, &n, &e), 0);
    assert_int_equal(n, 0);
    model_vocab_close(v);
}

/* ---- hostile vocabularies -------------------------------------------------------------------- */

/* A writer with the tokenizer's name and n of the tokens "a" and "b". */
static struct gguf_writer *bare_writer(const char *model, size_t n)
{
    const struct span two[] = {base_span_str("a"), base_span_str("b")};
    struct gguf_writer *w = model_gguf_writer_new();
    model_gguf_put_string(w, "tokenizer.ggml.model", base_span_str(model));
    model_gguf_put_strings(w, "tokenizer.ggml.tokens", two, n);
    return w;
}

static void test_no_vocabulary(void **state)
{
    (void)state;
    const float numbers[] = {1, 2};
    finish_bad(model_gguf_writer_new(), ERR_NOTFOUND,
               "the file has no vocabulary: metadata 'tokenizer.ggml.model' is missing");
    finish_bad(bare_writer("gpt\n2", 2), ERR_UNSUPPORTED, "tokenizer 'gpt?2' is not supported");
    finish_bad(bare_writer("llama", 0), ERR_FORMAT, "the vocabulary has 0 tokens");

    struct gguf_writer *w = model_gguf_writer_new();
    model_gguf_put_string(w, "tokenizer.ggml.model", base_span_str("llama"));
    finish_bad(w, ERR_FORMAT, "'tokenizer.ggml.tokens' is missing");
    w = model_gguf_writer_new();
    model_gguf_put_string(w, "tokenizer.ggml.model", base_span_str("llama"));
    model_gguf_put_f32s(w, "tokenizer.ggml.tokens", numbers, 2);
    finish_bad(w, ERR_FORMAT, "not an array of strings");
}

static void test_lying_arrays(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        size_t n;
        int32_t values[2];
        const char *sentence;
    } cases[] = {
        {"tokenizer.ggml.token_type", 1, {1}, "token_type' has 1 elements for 2 tokens"},
        {"tokenizer.ggml.token_type", 2, {1, 7}, "token 1 has type 7, which does not exist"},
        {"tokenizer.ggml.token_type", 2, {1, -1}, "token 1 has type 4294967295"},
        {"tokenizer.ggml.token_type", 2, {2, 6}, "token 1 is a byte token, but its text is not"},
        {"tokenizer.ggml.scores", 2, {1, 1}, "scores' is not an array of the right type"},
    };
    const float scores[] = {0, NAN};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gguf_writer *w = bare_writer("llama", 2);
        model_gguf_put_i32s(w, cases[i].key, cases[i].values, cases[i].n);
        finish_bad(w, ERR_FORMAT, cases[i].sentence);
    }
    struct gguf_writer *w = bare_writer("llama", 2);
    model_gguf_put_f32s(w, "tokenizer.ggml.scores", scores, 1);
    finish_bad(w, ERR_FORMAT, "'tokenizer.ggml.scores' has 1 elements for 2 tokens");
    w = bare_writer("llama", 2);
    model_gguf_put_f32s(w, "tokenizer.ggml.scores", scores, 2);
    finish_bad(w, ERR_FORMAT, "the score of token 1 is not a number");
}

static void test_lying_ids(void **state)
{
    (void)state;
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.unknown_token_id",
                                       "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        struct gguf_writer *w = bare_writer("llama", 2);
        model_gguf_put_u32(w, keys[i], 2);
        finish_bad(w, ERR_FORMAT, "_token_id' is 2, the vocabulary has 2 tokens");
        w = bare_writer("llama", 2);
        model_gguf_put_f32(w, keys[i], 1);
        finish_bad(w, ERR_FORMAT, "is of type f32 where an integer is expected");
    }
    struct gguf_writer *w = bare_writer("llama", 2);
    model_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", UINT32_MAX);
    finish_bad(w, ERR_FORMAT, "there is neither a token for byte 0x00 nor an unknown token");
    w = bare_writer("llama", 2);
    model_gguf_put_u32(w, "tokenizer.ggml.add_bos_token", 1);
    finish_bad(w, ERR_FORMAT, "add_bos_token' is of type u32 where bool is expected");
}

/* A token longer than any text, scores at the ends of the range, and all scores equal. */
static void test_extremes(void **state)
{
    (void)state;
    char *huge = malloc(1 << 20);
    assert_non_null(huge);
    memset(huge, 'a', 1 << 20);
    huge[(1 << 20) - 1] = '\0';
    const struct small_token tokens[] = {{"<unk>", 0, 2},       {"a", 0, 1},
                                         {"aa", INFINITY, 1},   {huge, 0, 1},
                                         {"aaa", -INFINITY, 1}, {huge, 0, 4}};
    struct vocab *v = finish_good(small_writer(tokens, 6, NO_IDS));
    EXPECT(v, "aaaaa", 0, 2, 4);
    model_vocab_close(v);
    free(huge);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct base_buf b = {0};
    struct gguf *g;
    struct gguf_writer *w = small_writer(few, N_FEW, 0);
    assert_int_equal(model_gguf_writer_bytes(w, &b, NULL), 0);
    model_gguf_writer_free(w);
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
    assert_true(n > 5);
    model_gguf_close(g);

    const int64_t open = base_alloc_live();
    int rc = ERR_NOMEM;
    for (n = 0; rc != 0;) {
        struct err e = {0};
        size_t n_ids = 0;
        base_alloc_fail_nth(++n);
        rc = model_vocab_encode(
            v, text_span("ab<tool>c<tool>a<tool>b<tool>c<tool>ab<tool>a<tool>a<tool>c"), 0, ids, 64,
            &n_ids, &e);
        base_alloc_fail_nth(0);
        if (rc != 0)
            assert_int_equal(rc, ERR_NOMEM);
        assert_int_equal(base_alloc_live(), open);
    }
    assert_true(n > 5);
    model_vocab_close(v);
    base_buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo_ids),
        cmocka_unit_test(test_reference_demo_ids),
        cmocka_unit_test(test_reference_llama_ids),
        cmocka_unit_test(test_equals_the_slow_algorithm),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_joining),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_special_tokens_and_spaces),
        cmocka_unit_test(test_bos_and_eos),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_old_files),
        cmocka_unit_test(test_later_of_equal_texts_wins),
        cmocka_unit_test(test_too_little_room),
        cmocka_unit_test(test_no_vocabulary),
        cmocka_unit_test(test_lying_arrays),
        cmocka_unit_test(test_lying_ids),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
