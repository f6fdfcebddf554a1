/* Fuzz target: tokenizers over arbitrary text. The first byte chooses a small vocabulary, of each
 * kind and with each rule that cuts words, the second the flags. Every byte has a token, so that
 * what is decoded is the text, but for the space put before it and for the blanks that a kind writes
 * as another character. Hostile vocabularies are fuzz_gguf's. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { IDS_MAX = 1 << 14, NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, BYTE = 6, TOKENS = 300 };

/* The last two are the other kind. */
static const char *const rules[] = {"default",      "llama-bpe",      "qwen2",       "smollm", "gpt-2",
                                    "falcon",       "deepseek-llm",   "mpt",         "dbrx",
                                    "deepseek-coder", "deepseek-v3",  NULL,          NULL};
enum { N_VOCABS = sizeof rules / sizeof *rules, N_RULES = N_VOCABS - 2 };

static void must(bool holds)
{
    if (!holds)
        abort();
}

struct tokens {
    struct span texts[TOKENS];
    int32_t types[TOKENS];
    float scores[TOKENS];
    size_t n;
    char bytes[256][8];
};

static void add(struct tokens *t, const char *text, int32_t type)
{
    t->texts[t->n] = base_span_str(text);
    t->types[t->n] = type;
    t->scores[t->n] = -(float)(t->n % 7);
    t->n++;
}

/* The byte as it is written in the vocabulary of a byte-level tokenizer. */
static void write_letter(unsigned b, unsigned *hidden, char out[8])
{
    const bool shown = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
    const unsigned u = shown ? b : (*hidden)++;
    snprintf(out, 8, u < 0x80 ? "%c" : "%c%c", (int)(u < 0x80 ? u : 0xc0 | u >> 6),
             (int)(0x80 | (u & 0x3f)));
}

static struct vocab *make_vocab(unsigned which)
{
    static struct tokens t;
    static const char *const merges[] = {"b c",     "a b", "a bc",    "a a", "ab c", "\xc4\xa0 a",
                                         "\xc4\xa0 \xc4\xa0", "1 2", "' s"};
    struct span pairs[sizeof merges / sizeof *merges];
    const bool bpe = which < N_RULES;
    unsigned hidden = 0x100;
    struct base_buf b = {0};
    struct gguf *g = NULL;
    struct vocab *v = NULL;
    struct gguf_writer *w = model_gguf_writer_new();
    t.n = 0;
    if (!bpe) {
        add(&t, "<unk>", UNKNOWN);
        add(&t, "<s>", CONTROL);
        add(&t, "</s>", CONTROL);
    }
    for (unsigned i = 0; i < 256; i++) {
        if (bpe)
            write_letter(i, &hidden, t.bytes[i]);
        else
            snprintf(t.bytes[i], sizeof t.bytes[i], "<0x%02X>", i);
        add(&t, t.bytes[i], bpe ? NORMAL : BYTE);
    }
    add(&t, "ab", NORMAL);
    add(&t, "bc", NORMAL);
    add(&t, "abc", NORMAL);
    add(&t, "aa", NORMAL);
    add(&t, bpe ? "\xc4\xa0" "a" : "\xe2\x96\x81" "a", NORMAL);
    add(&t, bpe ? "\xc4\xa0\xc4\xa0" : "\xe2\x96\x81", NORMAL);
    add(&t, bpe ? "12" : "a", NORMAL);
    add(&t, bpe ? "'s" : "\xc3\xa9", NORMAL);
    add(&t, "<tool>", USER);
    if (bpe)
        add(&t, "<|end|>", CONTROL);
    model_gguf_put_string(w, "tokenizer.ggml.model", base_span_str(bpe ? "gpt2" : "llama"));
    if (bpe) {
        for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
            pairs[i] = base_span_str(merges[i]);
        model_gguf_put_string(w, "tokenizer.ggml.pre", base_span_str(rules[which]));
        model_gguf_put_strings(w, "tokenizer.ggml.merges", pairs, sizeof merges / sizeof *merges);
    } else {
        model_gguf_put_f32s(w, "tokenizer.ggml.scores", t.scores, t.n);
        model_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", which == N_RULES);
        model_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
    }
    model_gguf_put_strings(w, "tokenizer.ggml.tokens", t.texts, t.n);
    model_gguf_put_i32s(w, "tokenizer.ggml.token_type", t.types, t.n);
    must(model_gguf_writer_bytes(w, &b, NULL) == 0);
    model_gguf_writer_free(w);
    must(model_gguf_open_bytes((struct span){b.ptr, b.len}, GGUF_METADATA_ONLY, &g, NULL) == 0);
    must(model_vocab_open(g, &v, NULL) == 0);
    model_gguf_close(g);
    base_buf_deinit(&b);
    return v;
}

/* The next byte of the text as it comes back: of a kind that writes blanks as U+2581 a blank. */
static uint8_t next_byte(const uint8_t *text, size_t n, size_t *at, bool blanks)
{
    if (blanks && n - *at >= 3 && memcmp(text + *at, "\xe2\x96\x81", 3) == 0) {
        *at += 3;
        return ' ';
    }
    return text[(*at)++];
}

static void check_round_trip(const struct vocab *v, const uint8_t *text, size_t n,
                             const int32_t *ids, size_t n_ids, bool blanks)
{
    size_t at = 0;
    bool prefix = n > 0 && model_vocab_space_prefix(v);
    for (size_t i = 0; i < n_ids; i++) {
        const struct span s = model_vocab_text(v, ids[i]);
        for (size_t k = 0; k < s.len; k++) {
            if (prefix) {
                must(s.ptr[k] == ' ');
                prefix = false;
                continue;
            }
            must(at < n);
            must(s.ptr[k] == next_byte(text, n, &at, blanks));
        }
    }
    must(at == n && !prefix);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vocab *vocabs[N_VOCABS];
    static int32_t ids[IDS_MAX];
    struct err e;
    size_t n_ids = 0, needed = 0;
    if (size < 2 || size > IDS_MAX / 4)
        return 0;
    const unsigned which = data[0] % N_VOCABS, flags = data[1] % 4;
    const struct span text = {data + 2, size - 2};
    if (vocabs[which] == NULL)
        vocabs[which] = make_vocab(which);
    const struct vocab *v = vocabs[which];
    must(model_vocab_encode(v, text, flags, ids, IDS_MAX, &n_ids, &e) == 0 && n_ids <= IDS_MAX);
    for (size_t i = 0; i < n_ids; i++)
        must(ids[i] >= 0 && (uint32_t)ids[i] < model_vocab_size(v));
    if ((flags & MODEL_ENCODE_SPECIAL) == 0)
        check_round_trip(v, text.ptr, text.len, ids, n_ids, which >= N_RULES);
    /* Where there is not enough room the number that is needed comes back. */
    if (n_ids > 0) {
        must(model_vocab_encode(v, text, flags, ids, n_ids - 1, &needed, &e) == ERR_RANGE);
        must(needed == n_ids);
    }
    return 0;
}
