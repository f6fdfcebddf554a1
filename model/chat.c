/* Chat templates: a conversation as the ids that a model was trained to answer.
 *
 * A file carries its template as a program in a template language. We do not run it: a table of
 * families says by which marks a program's text is known and what it writes around the messages.
 * Rows are exact or absent; where two templates of a family put their blanks in different places they
 * are two rows, and a program that no row knows is refused. What a family's templates themselves
 * quote, as a system message for conversations that have none, is taken from the file.
 *
 * Control tokens come from the marks only. A message is text, whatever is written in it. Between two
 * control tokens marks and messages are tokenized as one text, since a blank of the one may join a
 * letter of the other, as it did in training.
 *
 * Left out: tools, images, a date in the system message other than the one the template falls back
 * to, and phi3, whose tokens swallow the blanks behind them. */
#include "model/tokenizer.h"

#include <string.h>

enum {
    MARKS_MAX = 4,
    MESSAGE_HEAD_BYTES = 5,       /* role, length */
    SYSTEM_BYTES_MAX = 16384,     /* of a message that a template quotes */
    TEMPLATE_BYTES_MAX = 1 << 18, /* read no further than that */

    TRIM = 1,           /* blanks around a message go */
    SYSTEM_IN_USER = 2, /* the system message stands inside the first user message */
    SYSTEM_ALWAYS = 4,  /* and is there even when it is empty */
    NO_SYSTEM = 8,
    ALTERNATE = 16,    /* user and assistant in turn, the user first and last */
    THOUGHTS = 32,     /* what an earlier answer thought, up to </think>, is not repeated */
    LINES = 64,        /* and neither are the line breaks behind it */
    ONE_BREAK = 128,   /* two line breaks become one */
    SYSTEM_RAW = 256,  /* the system message keeps its blanks though others lose them */
    SYSTEM_LAST = 512, /* it stands inside the last user message, not the first */
    TRIM_ANSWERS = 1024
};

/* In what is written around a message these two stand for the file's own tokens. */
#define EOS "\001"
#define BOS "\002"

/* In marks a line break also finds \n spelt out, and a quotation mark of one kind the other. */
struct model_chat {
    const char *name;
    const char *marks[MARKS_MAX], *without[MARKS_MAX]; /* all of them, none of them; then NULL */
    const char *around[MODEL_N_ROLES][2];              /* before and behind a message */
    const char *open;                                  /* before the answer to come */
    unsigned flags;
    /* Where the template quotes a system message: it begins behind `quote` less its last quote_kept
     * bytes, and ends before `unquote`. NULL: it quotes none. */
    const char *quote, *unquote;
    size_t quote_kept;
};

#define IM(role)                                                                                   \
    {                                                                                              \
        "<|im_start|>" role "\n", "<|im_end|>\n"                                                   \
    }
#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define TURN(role)                                                                                 \
    {                                                                                              \
        "<start_of_turn>" role "\n", "<end_of_turn>\n"                                             \
    }
#define DS_USER "<\xef\xbd\x9cUser\xef\xbd\x9c>"
#define DS_ASSISTANT                                                                               \
    "<\xef\xbd\x9c"                                                                                \
    "Assistant\xef\xbd\x9c>"
#define DS_END                                                                                     \
    "<\xef\xbd\x9c"                                                                                \
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"

/* The first row that fits is taken. */
static const struct model_chat families[] = {
    {.name = "chatml with thoughts",
     .marks = {"<|im_start|>", "<|im_end|>", "</think>"},
     .without = {"<|im_sep|>", "<end_of_utterance>", "<|im_middle|>", "## Metadata"},
     .around = {IM("system"), IM("user"), IM("assistant")},
     .open = "<|im_start|>assistant\n",
     .flags = THOUGHTS | LINES,
     .quote = "<|im_start|>system\n",
     .unquote = "<|im_end|>"},
    {.name = "chatml",
     .marks = {"<|im_start|>", "<|im_end|>"},
     .without = {"<|im_sep|>", "<end_of_utterance>", "<|im_middle|>", "## Metadata"},
     .around = {IM("system"), IM("user"), IM("assistant")},
     .open = "<|im_start|>assistant\n",
     .quote = "<|im_start|>system\n",
     .unquote = "<|im_end|>"},
    {.name = "llama3.1",
     .marks = {"<|start_header_id|>", "<|end_header_id|>", "Cutting Knowledge Date: December 2023",
               "26 Jul 2024"},
     .around = {{HEADER("system") "Cutting Knowledge Date: December 2023\n"
                                  "Today Date: 26 Jul 2024\n\n",
                 "<|eot_id|>"},
                {HEADER("user"), "<|eot_id|>"},
                {HEADER("assistant"), "<|eot_id|>"}},
     .open = HEADER("assistant"),
     .flags = TRIM | SYSTEM_ALWAYS},
    {.name = "llama3",
     .marks = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     .without = {"Knowledge Date"},
     .around = {{HEADER("system"), "<|eot_id|>"},
                {HEADER("user"), "<|eot_id|>"},
                {HEADER("assistant"), "<|eot_id|>"}},
     .open = HEADER("assistant"),
     .flags = TRIM},
    {.name = "mistral-v7",
     .marks = {"[INST]", "'[SYSTEM_PROMPT] '"},
     .around = {{"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"}, {"[INST] ", "[/INST]"}, {" ", EOS}},
     .open = "",
     .flags = ALTERNATE},
    {.name = "mistral-v7-tekken",
     .marks = {"[INST]", "'[SYSTEM_PROMPT]'"},
     .around = {{"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"}, {"[INST]", "[/INST]"}, {"", EOS}},
     .open = "",
     .flags = ALTERNATE},
    {.name = "mistral-v3",
     .marks = {"[AVAILABLE_TOOLS]", "'[INST] '", "loop.last and system_message is defined"},
     .without = {"' [INST] '", "[SYSTEM_PROMPT]"},
     .around = {{"", "\n\n"}, {"[INST] ", "[/INST]"}, {" ", EOS}},
     .open = "",
     .flags = ALTERNATE | SYSTEM_IN_USER | SYSTEM_LAST | TRIM_ANSWERS},
    {.name = "mistral-v3-tekken",
     .marks = {"[AVAILABLE_TOOLS]", "'[INST]'", "loop.last and system_message is defined"},
     .without = {"' [INST] '", "[SYSTEM_PROMPT]"},
     .around = {{"", "\n\n"}, {"[INST]", "[/INST]"}, {"", EOS}},
     .open = "",
     .flags = ALTERNATE | SYSTEM_IN_USER | SYSTEM_LAST},
    {.name = "mistral-v1",
     .marks = {"' [INST] '", "' [/INST]'"},
     .without = {"<<SYS>>", "[SYSTEM_PROMPT]"},
     .around = {{"", "\n\n"}, {" [INST] ", " [/INST]"}, {" ", EOS}},
     .open = "",
     .flags = ALTERNATE | SYSTEM_IN_USER},
    {.name = "mistral",
     .marks = {"'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token"},
     .without = {"<<SYS>>", "eos_token + ' '", "eos_token+ ' '"},
     .around = {{"", ""}, {"[INST] ", " [/INST]"}, {"", EOS}},
     .open = "",
     .flags = ALTERNATE | NO_SYSTEM},
    {.name = "mistral with a blank behind answers",
     .marks = {"'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token"},
     .without = {"<<SYS>>"},
     .around = {{"", ""}, {"[INST] ", " [/INST]"}, {"", EOS " "}},
     .open = "",
     .flags = ALTERNATE | NO_SYSTEM},
    {.name = "llama2",
     .marks = {"<<SYS>>\n", "bos_token + '[INST] '", ".strip() + ' [/INST]'",
               ".strip() + ' ' + eos_token"},
     .around = {{"<<SYS>>\n", "\n<</SYS>>\n\n"}, {BOS "[INST] ", " [/INST]"}, {" ", " " EOS}},
     .open = "",
     .flags = TRIM | ALTERNATE | SYSTEM_IN_USER | SYSTEM_RAW},
    {.name = "falcon3",
     .marks = {"'<|user|>\n' + message['content'] + '\n'", "<|assistant|>\n", "eos_token"},
     .around = {{"<|system|>\n", "\n"}, {"<|user|>\n", "\n"}, {"<|assistant|>\n", EOS "\n"}},
     .open = "<|assistant|>\n"},
    {.name = "zephyr",
     .marks = {"'<|user|>\n' + message['content'] + eos_token",
               "'<|assistant|>\n' + message['content'] + eos_token"},
     .without = {"<|end|>"},
     .around = {{"<|system|>\n", EOS "\n"},
                {"<|user|>\n", EOS "\n"},
                {"<|assistant|>\n", EOS "\n"}},
     .open = "<|assistant|>\n"},
    {.name = "gemma3",
     .marks = {"<start_of_turn>", "<end_of_turn>", "first_user_prefix"},
     .around = {{"", "\n\n"}, TURN("user"), TURN("model")},
     .open = "<start_of_turn>model\n",
     .flags = TRIM | ALTERNATE | SYSTEM_IN_USER | SYSTEM_RAW},
    {.name = "gemma",
     .marks = {"<start_of_turn>", "<end_of_turn>"},
     .around = {{"", ""}, TURN("user"), TURN("model")},
     .open = "<start_of_turn>model\n",
     .flags = TRIM | ALTERNATE | NO_SYSTEM},
    {.name = "deepseek-r1",
     .marks = {DS_USER, DS_ASSISTANT "<think>\n"},
     .around = {{"", ""}, {DS_USER, ""}, {DS_ASSISTANT, DS_END}},
     .open = DS_ASSISTANT "<think>\n",
     .flags = THOUGHTS},
    {.name = "deepseek-v3",
     .marks = {DS_USER, DS_ASSISTANT, DS_END},
     .around = {{"", ""}, {DS_USER, ""}, {DS_ASSISTANT, DS_END}},
     .open = DS_ASSISTANT,
     .flags = THOUGHTS},
    {.name = "deepseek-llm",
     .marks = {"'User: ' + message['content'] + '\n\n'",
               "'Assistant: ' + message['content'] + eos_token"},
     .around = {{"", "\n\n"}, {"User: ", "\n\n"}, {"Assistant: ", EOS}},
     .open = "Assistant:"},
    {.name = "deepseek-coder",
     .marks = {"'### Instruction:\n' + message['content'] + '\n'", "'\n<|EOT|>\n'"},
     .around = {{"", ""}, {"### Instruction:\n", "\n"}, {"### Response:\n", "\n<|EOT|>\n"}},
     .open = "### Response:\n",
     .quote = "{{'You are",
     .unquote = "'}}",
     .quote_kept = 7},
    {.name = "falcon",
     .marks = {"'\n\nUser: ' + message['content'].strip()", "'\n\nAssistant:'"},
     .around = {{"", ""}, {"\n\nUser: ", ""}, {"\n\nAssistant: ", ""}},
     .open = "\n\nAssistant:",
     .flags = TRIM | ONE_BREAK},
};

/* ---- recognition ----------------------------------------------------------------------------- */

/* Bytes of text[at...] that are what one byte of a mark stands for; 0: it is not that. */
static size_t match_byte(struct span text, size_t at, char want)
{
    const uint8_t b = text.ptr[at];
    if (want == '\n' && b == '\\')
        return at + 1 < text.len && text.ptr[at + 1] == 'n' ? 2 : 0;
    if (want == '\'' && b == '"')
        return 1;
    return b == (uint8_t)want ? 1 : 0;
}

/* Where `mark` ends that begins at `at`; 0: it does not. */
static size_t match_mark(struct span text, size_t at, const char *mark)
{
    for (; *mark != 0; mark++) {
        const size_t n = at < text.len ? match_byte(text, at, *mark) : 0;
        if (n == 0)
            return 0;
        at += n;
    }
    return at;
}

/* The first place from `at` on where `mark` stands, and where it ends; text.len: nowhere. */
static size_t find_mark(struct span text, size_t at, const char *mark, size_t *end)
{
    for (; at < text.len; at++)
        if ((*end = match_mark(text, at, mark)) != 0)
            return at;
    return text.len;
}

static bool has_mark(struct span text, const char *mark)
{
    size_t end;
    return find_mark(text, 0, mark, &end) < text.len;
}

static bool is_family(const struct model_chat *c, struct span text)
{
    for (size_t i = 0; i < MARKS_MAX && c->marks[i] != NULL; i++)
        if (!has_mark(text, c->marks[i]))
            return false;
    for (size_t i = 0; i < MARKS_MAX && c->without[i] != NULL; i++)
        if (has_mark(text, c->without[i]))
            return false;
    return true;
}

static int read_template(const struct gguf *g, struct span *text, struct err *e)
{
    if (model_gguf_kv(g, "tokenizer.chat_template") == NULL)
        return err_set(e, ERR_NOTFOUND,
                       "the model has no chat template: it completes texts (shoal local, shoal "
                       "generate)");
    const int rc = model_gguf_string(g, "tokenizer.chat_template", text, e);
    if (rc == 0 && text->len > TEMPLATE_BYTES_MAX)
        text->len = TEMPLATE_BYTES_MAX;
    return rc;
}

int model_chat_find(const struct gguf *g, const struct model_chat **out, struct err *e)
{
    struct span text;
    const int rc = read_template(g, &text, e);
    *out = NULL;
    for (size_t i = 0; rc == 0 && i < sizeof families / sizeof families[0]; i++) {
        if (is_family(&families[i], text)) {
            *out = &families[i];
            return 0;
        }
    }
    return rc != 0 ? rc
                   : err_set(e, ERR_UNSUPPORTED,
                             "the model's chat template is of no family that Shoal knows: write "
                             "its marks into the prompt yourself, with --special");
}

const char *model_chat_name(const struct model_chat *c)
{
    return c->name;
}

/* ---- the system message that a template quotes ----------------------------------------------- */

/* Copy the quoted text from `at` up to `unquote`. False where that is no single quotation: where it
 * ends before, or where the template puts something in. */
static bool read_quotation(struct span text, size_t at, char quote, const char *unquote,
                           struct base_buf *out)
{
    out->len = 0;
    while (at < text.len && match_mark(text, at, unquote) == 0) {
        uint8_t b = text.ptr[at];
        const bool escaped = quote != 0 && b == '\\' && at + 1 < text.len;
        if (escaped)
            b = text.ptr[++at];
        if (escaped && b == 'n')
            b = '\n';
        else if (!escaped && (quote != 0 ? b == (uint8_t)quote : b == '{' || b == '}'))
            return false;
        if (out->len == SYSTEM_BYTES_MAX)
            return false;
        base_buf_add(out, &b, 1);
        at++;
    }
    return at < text.len && out->len > 0;
}

int model_chat_read_system(const struct gguf *g, struct base_buf *out, struct err *e)
{
    const struct model_chat *c;
    struct span text;
    size_t at = 0, end;
    out->len = 0;
    if (model_chat_find(g, &c, NULL) != 0 || c->quote == NULL || read_template(g, &text, NULL) != 0)
        return 0;
    while ((at = find_mark(text, at, c->quote, &end)) < text.len) {
        const size_t begin = end - c->quote_kept;
        /* What opens the quotation stands before the mark, or is its last byte before the text. */
        const size_t opens = c->quote_kept > 0 ? begin : at;
        const uint8_t q = opens > 0 ? text.ptr[opens - 1] : 0;
        const bool good =
            read_quotation(text, begin, q == '\'' || q == '"' ? (char)q : 0, c->unquote, out);
        if (out->failed)
            return err_set(e, ERR_NOMEM, "no memory for the template's system message");
        if (good)
            return 0;
        out->len = 0;
        at = end;
    }
    return 0;
}

/* ---- rendering ------------------------------------------------------------------------------- */

struct render {
    const struct model_chat *c;
    const struct vocab *v;
    struct base_buf text; /* since the last control token */
    struct vocab_sink out;
    bool begun; /* a turn is written */
    struct err *e;
    int rc;
};

static void flush(struct render *r)
{
    if (r->rc == 0 && r->text.failed)
        r->rc = err_set(r->e, ERR_NOMEM, "no memory for the conversation");
    if (r->rc == 0 && r->text.len > 0)
        r->rc = model_vocab_encode_text(r->v, (struct span){r->text.ptr, r->text.len}, false,
                                        &r->out, r->e);
    r->text.len = 0;
}

static void token(struct render *r, int32_t id)
{
    flush(r);
    if (r->rc == 0 && id >= 0)
        model_vocab_emit(&r->out, id);
}

static void mark(struct render *r, const char *s)
{
    struct span rest = base_span_str(s);
    while (rest.len > 0) {
        size_t len = 1;
        const uint8_t b = rest.ptr[0];
        int32_t id = -1;
        if (b == EOS[0])
            token(r, r->v->eos);
        else if (b == BOS[0])
            token(r, r->begun ? r->v->bos : -1); /* the first comes as the file says */
        else if ((b == '<' || b == '[') && (id = model_vocab_special_at(r->v, rest, &len)) >= 0)
            token(r, id);
        else
            base_buf_add(&r->text, rest.ptr, 1);
        rest.ptr += len;
        rest.len -= len;
    }
}

static bool blank(uint8_t b)
{
    return b == ' ' || (b >= '\t' && b <= '\r');
}

/* What stays of an answer that was given earlier. */
static struct span without_thoughts(struct span text, bool lines)
{
    static const char end[] = "</think>";
    const size_t n = sizeof end - 1;
    for (size_t at = text.len; at >= n; at--) {
        if (memcmp(text.ptr + at - n, end, n) != 0)
            continue;
        text.ptr += at;
        text.len -= at;
        while (lines && text.len > 0 && text.ptr[0] == '\n') {
            text.ptr++;
            text.len--;
        }
        break;
    }
    return text;
}

static void message(struct render *r, enum model_role role, struct span text)
{
    const unsigned flags = r->c->flags;
    size_t breaks = 0;
    if (role == MODEL_ROLE_ASSISTANT && (flags & THOUGHTS) != 0)
        text = without_thoughts(text, (flags & LINES) != 0);
    if (role == MODEL_ROLE_SYSTEM      ? (flags & (TRIM | SYSTEM_RAW)) == TRIM
        : role == MODEL_ROLE_ASSISTANT ? (flags & (TRIM | TRIM_ANSWERS)) != 0
                                       : (flags & TRIM) != 0) {
        while (text.len > 0 && blank(text.ptr[0])) {
            text.ptr++;
            text.len--;
        }
        while (text.len > 0 && blank(text.ptr[text.len - 1]))
            text.len--;
    }
    if (text.len > 0 && ((flags & ONE_BREAK) == 0 || role == MODEL_ROLE_SYSTEM)) {
        base_buf_add(&r->text, text.ptr, text.len);
        return;
    }
    for (size_t i = 0; i < text.len; i++) {
        const bool line = text.ptr[i] == '\n';
        if (text.ptr[i] == '\r' && i + 1 < text.len && text.ptr[i + 1] == '\n')
            continue;
        breaks = line ? breaks + 1 : 0;
        if (!line || breaks % 2 == 1)
            base_buf_add(&r->text, text.ptr + i, 1);
    }
}

static void turn(struct render *r, const struct model_message *m, const struct span *system)
{
    mark(r, r->c->around[m->role][0]);
    if (system != NULL) {
        mark(r, r->c->around[MODEL_ROLE_SYSTEM][0]);
        message(r, MODEL_ROLE_SYSTEM, *system);
        mark(r, r->c->around[MODEL_ROLE_SYSTEM][1]);
    }
    message(r, m->role, m->text);
    mark(r, r->c->around[m->role][1]);
    r->begun = true;
}

/* Has the template words for messages in this order? */
static int check_order(const struct model_chat *c, const struct model_message *list, size_t n,
                       struct err *e)
{
    const bool system = n > 0 && list[0].role == MODEL_ROLE_SYSTEM;
    const size_t first = system ? 1 : 0;
    if (n == first)
        return err_set(e, ERR_FORMAT, "the conversation has no message to answer");
    for (size_t i = 0; i < n; i++)
        if ((unsigned)list[i].role >= MODEL_N_ROLES)
            return err_set(e, ERR_FORMAT, "message %zu has a role that does not exist", i + 1);
    if (system && (c->flags & NO_SYSTEM) != 0)
        return err_set(e, ERR_FORMAT,
                       "the model's chat template (%s) has no words for a system message: say it "
                       "in the first message",
                       c->name);
    for (size_t i = first; i < n; i++) {
        const enum model_role turn_of =
            (i - first) % 2 == 0 ? MODEL_ROLE_USER : MODEL_ROLE_ASSISTANT;
        const bool alternate = (c->flags & ALTERNATE) != 0;
        if (alternate ? list[i].role != turn_of : list[i].role == MODEL_ROLE_SYSTEM)
            return err_set(e, ERR_FORMAT,
                           "the model's chat template (%s) has no words for %s as message %zu",
                           c->name,
                           list[i].role == MODEL_ROLE_SYSTEM ? "a system message"
                           : list[i].role == MODEL_ROLE_USER ? "the user"
                                                             : "the assistant",
                           i + 1);
    }
    return list[n - 1].role == MODEL_ROLE_USER
               ? 0
               : err_set(e, ERR_FORMAT, "the last message is not the user's: nothing to answer");
}

static void render(struct render *r, const struct model_message *list, size_t n)
{
    const struct span quoted = {r->v->chat_system.ptr, r->v->chat_system.len};
    const bool given = list[0].role == MODEL_ROLE_SYSTEM;
    const struct span *system = given ? &list[0].text : quoted.len > 0 ? &quoted : NULL;
    const struct model_message own = {MODEL_ROLE_SYSTEM, system != NULL ? *system : quoted};
    const bool inside = (r->c->flags & SYSTEM_IN_USER) != 0;
    const size_t first = given ? 1 : 0, holder = (r->c->flags & SYSTEM_LAST) != 0 ? n - 1 : first;
    if (!inside && (system != NULL || (r->c->flags & SYSTEM_ALWAYS) != 0))
        turn(r, &own, NULL);
    for (size_t i = first; i < n; i++)
        turn(r, &list[i], inside && i == holder ? system : NULL);
    mark(r, r->c->open);
    flush(r);
}

int model_chat_encode(const struct model_chat *c, const struct vocab *v,
                      const struct model_message *list, size_t n_messages, int32_t *ids, size_t max,
                      size_t *n, struct err *e)
{
    struct render r = {.c = c, .v = v, .out = {.ids = ids, .max = max}, .e = e};
    *n = 0;
    r.rc = check_order(c, list, n_messages, e);
    if (r.rc == 0) {
        if (v->add_bos && v->bos >= 0)
            model_vocab_emit(&r.out, v->bos);
        render(&r, list, n_messages);
        *n = r.out.n;
    }
    base_buf_deinit(&r.text);
    if (r.rc == 0 && r.out.n > max)
        r.rc = err_set(e, ERR_RANGE, "the conversation takes %zu tokens, there is room for %zu",
                       r.out.n, max);
    return r.rc;
}

/* ---- conversations as bytes ------------------------------------------------------------------ */

bool model_messages_parse(struct span packed, struct model_message *list, size_t max, size_t *n)
{
    *n = 0;
    while (packed.len > 0) {
        if (packed.len < MESSAGE_HEAD_BYTES || *n == max || packed.ptr[0] >= MODEL_N_ROLES)
            return false;
        const size_t len = (size_t)gguf_le(packed.ptr + 1, 4);
        if (len > packed.len - MESSAGE_HEAD_BYTES)
            return false;
        list[(*n)++] = (struct model_message){(enum model_role)packed.ptr[0],
                                              {packed.ptr + MESSAGE_HEAD_BYTES, len}};
        packed.ptr += MESSAGE_HEAD_BYTES + len;
        packed.len -= MESSAGE_HEAD_BYTES + len;
    }
    return true;
}

int model_messages_pack(const struct model_message *list, size_t n, struct base_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        const size_t len = list[i].text.len;
        uint8_t head[MESSAGE_HEAD_BYTES] = {(uint8_t)list[i].role};
        if (len > UINT32_MAX)
            return ERR_RANGE;
        for (unsigned k = 0; k < 4; k++)
            head[1 + k] = (uint8_t)(len >> 8 * k);
        base_buf_add(out, head, sizeof head);
        if (len > 0)
            base_buf_add(out, list[i].text.ptr, len);
    }
    return out->failed ? ERR_NOMEM : 0;
}
