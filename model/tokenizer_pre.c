/* Cutting text into words before byte pair encoding: a table of the rules that models were trained
 * with, found by the name in tokenizer.ggml.pre.
 *
 * A rule is a list of regular expressions. Each cuts the pieces that the one before left: what it
 * matches is a piece, what lies between matches is one, too. No piece sees its neighbours. The
 * expressions run in PCRE2 with Unicode properties, and with its just-in-time compiler where there is
 * one; blank space is spelt out, because PCRE2's own class counts U+180E, which no model's does.
 *
 * Text that is not UTF-8: each run of bytes that belong to no well-formed character is a word of its
 * own, and the characters between two such runs are cut as a text of their own. So every text has
 * words, and they are the text.
 *
 * Hostile text cannot stall this. No expression has a repetition that the same characters can fill in
 * two ways; what one scans in vain is bounded by what the next alternative takes (a run of spaces at
 * the end of a text is looked for from its first space only). The matcher's limit grows with the
 * text, and to reach it is a failure, not a wait. A name that is not in the table is refused: another
 * rule gives other ids, and a model fed with them babbles. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tokenizer.h"

#include <pcre2.h>

enum {
    STEPS_MAX = 6,            /* expressions of a rule */
    MATCH_STEPS_A_BYTE = 8,   /* what the expressions below need is under 2 */
    MATCH_STEPS_LEAST = 10000 /* for short texts */
};

/* ---- the rules ------------------------------------------------------------------------------- */

/* White_Space of Unicode, inside a class. */
#define WS                                                                                         \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"   \
    "\\x{3000}"
#define SPACE "[" WS "]"

/* A run of blanks but its last one, which goes with the word behind it; failing that the run. */
#define BLANKS SPACE "+(?![^" WS "])|" SPACE "+"

#define GPT2 "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" BLANKS

/* Llama 3 and its kin, which differ in how many digits make a word. */
#define WORDS(digits)                                                                              \
    "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS  \
    "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" BLANKS

/* DeepSeek: cased letters as of the Unicode of its day, listed; punctuation of ASCII and of its
 * wide forms; Chinese, Japanese and Korean, as wide as its authors drew it. */
#define CASED                                                                                      \
    "A-Za-z\\xb5\\xc0-\\xd6\\xd8-\\xf6\\xf8-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"            \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}"          \
    "\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}"                 \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}"                     \
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}"                 \
    "\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"                 \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}"         \
    "\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"        \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"                 \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}"         \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}"         \
    "\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}"                   \
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}"                  \
    "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}"                 \
    "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                 \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"             \
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"         \
    "\\x{1e900}-\\x{1e943}"
#define MARKS   "!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}"
#define EASTERN "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+"

static const char *const gpt2[] = {GPT2, NULL};
static const char *const llama3[] = {WORDS("\\p{N}{1,3}"), NULL};
static const char *const qwen2[] = {WORDS("\\p{N}"), NULL};
static const char *const digits_apart[] = {"\\p{N}", GPT2, NULL};
static const char *const falcon[] = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]", NULL};
static const char *const plain[] = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]", NULL};
static const char *const deepseek_llm[] = {"[\\r\\n]",
                                           SPACE "?[" CASED "]+",
                                           SPACE "?[" MARKS "]+",
                                           "(?<!" SPACE ")" SPACE "++\\z",
                                           EASTERN,
                                           "\\p{N}+",
                                           NULL};
static const char *const deepseek_coder[] = {"[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+",
                                             EASTERN,    "\\p{N}",         NULL};
static const char *const deepseek_v3[] = {
    "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" BLANKS,
    NULL};

static const struct vocab_pre rules[] = {
    {"default", plain, false, false},
    {"llama-bpe", llama3, true, true},
    {"llama3", llama3, true, true},
    {"llama-v3", llama3, true, true},
    {"falcon3", llama3, true, true},
    {"falcon-h1", llama3, true, true},
    {"pixtral", llama3, true, true},
    {"midm-2.0", llama3, true, true},
    {"lfm2", llama3, true, true},
    {"dbrx", llama3, false, false},
    {"smaug-bpe", llama3, false, false},
    {"qwen2", qwen2, false, false},
    {"deepseek-r1-qwen", qwen2, false, false},
    {"megrez", qwen2, false, false},
    {"kormo", qwen2, false, false},
    {"stablelm2", qwen2, false, false},
    {"hunyuan", qwen2, false, false},
    {"grok-2", qwen2, false, false},
    {"smollm", digits_apart, false, false},
    {"starcoder", digits_apart, false, false},
    {"refact", digits_apart, false, false},
    {"command-r", digits_apart, false, false},
    {"codeshell", digits_apart, false, false},
    {"exaone", digits_apart, false, false},
    {"minerva-7b", digits_apart, false, false},
    {"gpt-2", gpt2, false, false},
    {"mpt", gpt2, false, false},
    {"olmo", gpt2, false, false},
    {"jais", gpt2, false, false},
    {"phi-2", gpt2, false, false},
    {"gigachat", gpt2, false, false},
    {"exaone4", gpt2, false, false},
    {"trillion", gpt2, false, false},
    {"granite-docling", gpt2, false, false},
    {"falcon", falcon, false, false},
    {"deepseek-llm", deepseek_llm, false, false},
    {"deepseek-coder", deepseek_coder, false, false},
    {"deepseek-v3", deepseek_v3, false, false},
};

const struct vocab_pre *model_vocab_pre_find(struct span name)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (base_span_is(name, rules[i].name))
            return &rules[i];
    return NULL;
}

/* ---- compiled rules -------------------------------------------------------------------------- */

struct vocab_splitter {
    pcre2_general_context *memory;
    pcre2_code *steps[STEPS_MAX];
    size_t n_steps;
};

static void *take_memory(size_t bytes, void *arg)
{
    (void)arg;
    return base_alloc(bytes);
}

static void give_memory(void *p, void *arg)
{
    (void)arg;
    base_free(p);
}

void model_vocab_splitter_free(struct vocab_splitter *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->n_steps; i++)
        pcre2_code_free(s->steps[i]);
    pcre2_general_context_free(s->memory);
    base_free(s);
}

/* The expressions are our own, so that only memory can be what is wrong. */
static bool compile(struct vocab_splitter *s, const struct vocab_pre *pre)
{
    pcre2_compile_context *context = NULL;
    bool good;
    s->memory = pcre2_general_context_create(take_memory, give_memory, NULL);
    if (s->memory != NULL)
        context = pcre2_compile_context_create(s->memory);
    good = context != NULL;
    for (size_t i = 0; good && pre->steps[i] != NULL; i++) {
        int code;
        size_t at;
        s->steps[i] = pcre2_compile((PCRE2_SPTR)(const void *)pre->steps[i], PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF | PCRE2_UCP, &code, &at, context);
        good = s->steps[i] != NULL;
        s->n_steps += good;
        /* Where it cannot compile to machine code the interpreter finds the same matches. */
        if (good)
            (void)pcre2_jit_compile(s->steps[i], PCRE2_JIT_COMPLETE);
    }
    pcre2_compile_context_free(context);
    return good;
}

int model_vocab_splitter_new(const struct vocab_pre *pre, struct vocab_splitter **out,
                             struct err *e)
{
    struct vocab_splitter *s = base_zalloc(1, sizeof *s);
    *out = NULL;
    if (s == NULL || !compile(s, pre)) {
        model_vocab_splitter_free(s);
        return err_set(e, ERR_NOMEM, "no memory for the pre-tokenizer '%s'", pre->name);
    }
    *out = s;
    return 0;
}

/* ---- cutting --------------------------------------------------------------------------------- */

struct cut {
    const struct vocab_splitter *s;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    vocab_word *word;
    void *arg;
    struct err *e;
};

/* Cut well-formed text by the expressions from `step` on; the depth is their number. */
static int cut_from(const struct cut *c, size_t step, struct span text)
{
    size_t done = 0;
    int rc = 0;
    if (step == c->s->n_steps)
        return c->word(c->arg, text, c->e);
    while (done < text.len && rc == 0) {
        const int n = pcre2_match(c->s->steps[step], text.ptr, text.len, done, PCRE2_NO_UTF_CHECK,
                                  c->match, c->limits);
        if (n == PCRE2_ERROR_NOMATCH)
            break;
        const size_t *found = pcre2_get_ovector_pointer(c->match);
        const size_t begin = found[0], end = found[1];
        if (n == PCRE2_ERROR_NOMEMORY || n == PCRE2_ERROR_HEAPLIMIT)
            return err_set(c->e, ERR_NOMEM, "no memory to cut a text of %zu bytes into words",
                           text.len);
        if (n < 0 || end <= begin)
            return err_set(c->e, ERR_RANGE,
                           "a text of %zu bytes cannot be cut into words (PCRE2 says %d): shorten "
                           "it",
                           text.len, n);
        if (begin > done)
            rc = cut_from(c, step + 1, (struct span){text.ptr + done, begin - done});
        if (rc == 0)
            rc = cut_from(c, step + 1, (struct span){text.ptr + begin, end - begin});
        done = end;
    }
    if (rc == 0 && done < text.len)
        rc = cut_from(c, step + 1, (struct span){text.ptr + done, text.len - done});
    return rc;
}

/* Bytes of the well-formed character that p[n] begins with; 0: it begins with none. */
static size_t character(const uint8_t *p, size_t n)
{
    const uint8_t b = p[0];
    if (b < 0x80)
        return 1;
    const size_t len = b < 0xc2 ? 0 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : b < 0xf5 ? 4 : 0;
    if (len == 0 || n < len)
        return 0;
    /* No over-long forms, no surrogates, nothing above U+10FFFF. */
    const uint8_t low = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

/* The run of characters, or of bytes that are none, at the start of text. */
static size_t run(struct span text, bool *well_formed)
{
    size_t at = 0;
    *well_formed = character(text.ptr, text.len) > 0;
    while (at < text.len) {
        const size_t len = character(text.ptr + at, text.len - at);
        if ((len > 0) != *well_formed)
            break;
        at += len > 0 ? len : 1;
    }
    return at;
}

static int cut_all(const struct cut *c, struct span text)
{
    int rc = 0;
    while (text.len > 0 && rc == 0) {
        bool well_formed;
        const struct span part = {text.ptr, run(text, &well_formed)};
        rc = well_formed ? cut_from(c, 0, part) : c->word(c->arg, part, c->e);
        text.ptr += part.len;
        text.len -= part.len;
    }
    return rc;
}

int model_vocab_split(const struct vocab_splitter *s, struct span text, vocab_word *word, void *arg,
                      struct err *e)
{
    const size_t steps = MATCH_STEPS_LEAST + MATCH_STEPS_A_BYTE * text.len;
    struct cut c = {.s = s, .word = word, .arg = arg, .e = e};
    int rc;
    c.match = pcre2_match_data_create(1, s->memory);
    c.limits = pcre2_match_context_create(s->memory);
    if (c.match == NULL || c.limits == NULL) {
        rc = err_set(e, ERR_NOMEM, "no memory to cut a text of %zu bytes into words", text.len);
    } else {
        (void)pcre2_set_match_limit(c.limits, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
        rc = cut_all(&c, text);
    }
    pcre2_match_context_free(c.limits);
    pcre2_match_data_free(c.match);
    return rc;
}
