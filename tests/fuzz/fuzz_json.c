/* Fuzz target: JSON that comes in, as a line of a file of prompts, and JSON that goes out, as the
 * answer to it. A line is a request or says why it is none; what is printed is read by another
 * parser, below, which knows the grammar of RFC 8259 and nothing else. */
#include "client/client.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DEPTH_MAX = 64 };

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* ---- the other parser: each takes what it is named after from *p, or ends the run ------------- */

static void take_value(const char **p, int depth);

static bool take(const char **p, char c)
{
    if (**p != c)
        return false;
    (*p)++;
    return true;
}

static void take_digits(const char **p)
{
    must(**p >= '0' && **p <= '9');
    while (**p >= '0' && **p <= '9')
        (*p)++;
}

static void take_number(const char **p)
{
    take(p, '-');
    if (!take(p, '0'))
        take_digits(p);
    if (take(p, '.'))
        take_digits(p);
    if (**p == 'e' || **p == 'E') {
        (*p)++;
        if (!take(p, '+'))
            take(p, '-');
        take_digits(p);
    }
}

static void take_escape(const char **p)
{
    if (!take(p, 'u')) {
        must(**p != 0 && strchr("\"\\/bfnrt", **p) != NULL);
        (*p)++;
        return;
    }
    for (int i = 0; i < 4; i++, (*p)++)
        must(**p != 0 && strchr("0123456789abcdefABCDEF", **p) != NULL);
}

static void take_string(const char **p)
{
    must(take(p, '"'));
    while (!take(p, '"')) {
        const size_t n = cli_utf8_length(base_span_str(*p));
        must(n > 0 && (unsigned char)**p >= 0x20);
        if (take(p, '\\'))
            take_escape(p);
        else
            *p += n;
    }
}

static void take_list(const char **p, char end, bool named, int depth)
{
    must(depth < DEPTH_MAX);
    if (take(p, end))
        return;
    do {
        if (named) {
            take_string(p);
            must(take(p, ':'));
        }
        take_value(p, depth + 1);
    } while (take(p, ','));
    must(take(p, end));
}

static void take_word(const char **p, const char *word)
{
    must(strncmp(*p, word, strlen(word)) == 0);
    *p += strlen(word);
}

static void take_value(const char **p, int depth)
{
    if (take(p, '{'))
        take_list(p, '}', true, depth);
    else if (take(p, '['))
        take_list(p, ']', false, depth);
    else if (**p == '"')
        take_string(p);
    else if (**p == 't' || **p == 'f' || **p == 'n')
        take_word(p, **p == 't' ? "true" : **p == 'f' ? "false" : "null");
    else
        take_number(p);
}

/* Takes ownership. One line, and a value to its end. */
static void check_out(json_t *object)
{
    must(object != NULL);
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY);
    const char *p = text;
    must(text != NULL && strchr(text, '\n') == NULL);
    take_value(&p, 0);
    must(*p == 0);
    free(text);
    json_decref(object);
}

/* ---- what is checked -------------------------------------------------------------------------- */

static void check_request(const struct cli_request *r)
{
    if (r->error[0] != 0)
        return;
    must(cli_utf8_ok(r->prompt) && r->n_stops <= CLI_STOPS_MAX);
    must(model_sampling_check(&r->sampling, NULL) == 0);
    for (uint32_t i = 0; i < r->n_stops; i++)
        must(r->stops[i].len > 0 && r->stops[i].len <= CLI_STOP_BYTES_MAX);
}

/* An answer whose numbers and text are the input's bytes, from anywhere on. */
static void fill_answer(struct cli_answer *a, struct span bytes, uint32_t logprobs)
{
    struct model_logprobs p = {.n_best = logprobs > 1 ? logprobs - 1 : 0};
    const size_t n = bytes.len / 4 < 4 ? bytes.len / 4 : 4;
    memset(a, 0, sizeof *a);
    a->done = true;
    a->finish = (enum cli_finish)(bytes.len % 3);
    if (bytes.len >= sizeof p.best[0]) {
        memcpy(&p.chosen, bytes.ptr, sizeof p.chosen);
        memcpy(&a->ttft_ms, bytes.ptr + bytes.len - sizeof(double), sizeof(double));
        for (uint32_t i = 0; i < p.n_best; i++)
            p.best[i] = p.chosen * i;
    }
    base_buf_add(&a->tokens, bytes.ptr, n * sizeof(int32_t));
    for (size_t i = 0; i < n && logprobs != 0; i++)
        base_buf_add(&a->logprobs, &p, sizeof p);
    base_buf_add(&a->text, bytes.ptr, bytes.len);
    snprintf(a->error, sizeof a->error, "%.*s", (int)(bytes.len < 40 ? bytes.len : 40),
             (const char *)bytes.ptr);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct cli_request defaults = {.n = 10, .sampling = {.top_p = 1, .repeat_penalty = 1}};
    const struct span bytes = {data, size};
    struct cli_request r;
    struct cli_answer a;
    double number;
    cli_request_line(&defaults, bytes, &r);
    check_request(&r);
    if (r.error[0] != 0) {
        check_out(cli_json_text(base_span_str(r.error)));
        json_decref(r.object);
        r = defaults;
        r.prompt = bytes;
    }
    fill_answer(&a, bytes, r.sampling.logprobs);
    check_out(cli_answer_json(&r, &a));
    check_out(cli_json_text(bytes));
    if (size >= sizeof number) {
        memcpy(&number, data, sizeof number);
        check_out(cli_json_number(number));
    }
    base_buf_deinit(&a.tokens);
    base_buf_deinit(&a.logprobs);
    base_buf_deinit(&a.text);
    json_decref(r.object);
    return 0;
}
