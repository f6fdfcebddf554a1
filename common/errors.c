/* Errors: a code from one list and a sentence for a person.
 *
 * The caller owns the struct, functions fill it on the way out, and whoever knows more puts that in
 * front on the way up, so the text reads from the general to the particular: "cannot load m.gguf:
 * tensor blk.3.ffn_up: type 19 is not supported". Text that does not fit is cut, never an error of
 * its own. Every text is formatted into a local buffer first, so that an argument may be the old
 * text of the same struct.
 *
 * Left out on purpose: no errno of our own, no stack of causes, no allocation (an out-of-memory
 * error must be reportable). */
#include "common/common.h"

#include <string.h>

struct err_row {
    int code;
    const char *sentence;
};

#define ERR_ROW(name, value, sentence) {name, sentence},
static const struct err_row err_rows[] = {BASE_ERRORS(ERR_ROW)};
#undef ERR_ROW

const char *base_err_sentence(int code)
{
    for (size_t i = 0; i < sizeof err_rows / sizeof err_rows[0]; i++) {
        if (err_rows[i].code == code) {
            return err_rows[i].sentence;
        }
    }
    return code == 0 ? "no error" : "unknown error";
}

int base_err_set(struct err *e, int code, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list ap;

    if (e == NULL) {
        return code;
    }
    va_start(ap, fmt);
    if (vsnprintf(text, sizeof text, fmt, ap) < 0) {
        text[0] = '\0';
    }
    va_end(ap);
    e->code = code;
    memcpy(e->text, text, sizeof text);
    return code;
}

int base_err_wrap(struct err *e, int code, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    const char *inner;
    size_t at, inner_len;
    va_list ap;

    if (e == NULL) {
        return code;
    }
    va_start(ap, fmt);
    if (vsnprintf(text, sizeof text, fmt, ap) < 0) {
        text[0] = '\0';
    }
    va_end(ap);
    /* A callee that set no text still leaves its code: the list has a sentence for it. */
    inner = e->text[0] != '\0' ? e->text : base_err_sentence(code);
    at = strlen(text);
    for (const char *p = ": "; *p != '\0' && at + 1 < sizeof text; p++) {
        text[at++] = *p;
    }
    inner_len = strnlen(inner, sizeof text - 1 - at);
    memcpy(text + at, inner, inner_len);
    text[at + inner_len] = '\0';
    e->code = code;
    memcpy(e->text, text, sizeof text);
    return code;
}
