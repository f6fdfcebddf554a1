/* Requests: from -p, or one from each line of a file.
 *
 * A line is the prompt itself or, where it begins with '{', a JSON object that may say more. What a
 * line does not say is taken from the command line. Texts are not copied: they stay in the file's
 * bytes or in the parsed object, which the request keeps. `generate` and `local` read the same
 * lines by this code.
 *
 * A line that is no request does not stop the others: it becomes a request that has failed already,
 * with the reason, so that answers keep the order and number of the lines. Without --seed one seed
 * is drawn for the whole run; the printer says it, so that the run can be repeated. */
#include "client/client.h"

#include <string.h>

static int line_error(struct cli_request *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static int line_error(struct cli_request *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->error, sizeof r->error, fmt, ap);
    va_end(ap);
    return ERR_FORMAT;
}

/* ---- members of a JSON line ------------------------------------------------------------------ */

static struct span text_of(const json_t *v)
{
    return (struct span){(const uint8_t *)json_string_value(v), json_string_length(v)};
}

static int whole(struct cli_request *r, const char *key, const json_t *v, uint64_t high,
                 uint64_t *out)
{
    const json_int_t i = json_integer_value(v);
    if (!json_is_integer(v) || i < 0 || (uint64_t)i > high)
        return line_error(r, "%s: not a whole number from 0 to %llu", key,
                          (unsigned long long)high);
    *out = (uint64_t)i;
    return 0;
}

static int decimal(struct cli_request *r, const char *key, const json_t *v, float *out)
{
    if (!json_is_number(v))
        return line_error(r, "%s: not a number", key);
    *out = (float)json_number_value(v);
    return 0;
}

static int stop(struct cli_request *r, const json_t *v)
{
    const struct span s = text_of(v);
    if (!json_is_string(v) || s.len == 0 || s.len > CLI_STOP_BYTES_MAX)
        return line_error(r, "stop: not a text of 1 to %d bytes", CLI_STOP_BYTES_MAX);
    if (r->n_stops == CLI_STOPS_MAX)
        return line_error(r, "stop: more than %d texts", CLI_STOPS_MAX);
    r->stops[r->n_stops++] = s;
    return 0;
}

static int stops(struct cli_request *r, const json_t *v)
{
    r->n_stops = 0;
    if (!json_is_array(v))
        return stop(r, v);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (stop(r, json_array_get(v, i)) != 0)
            return ERR_FORMAT;
    return 0;
}

static int biases(struct cli_request *r, const json_t *v)
{
    const char *id;
    const json_t *bias;
    r->sampling.n_biases = 0;
    if (!json_is_object(v))
        return line_error(r, "logit_bias: not an object of ids and biases");
    if (json_object_size(v) > MODEL_BIASES_MAX)
        return line_error(r, "logit_bias: more than %d tokens", MODEL_BIASES_MAX);
    json_object_foreach((json_t *)v, id, bias)
    {
        const bool banned = json_is_string(bias) && base_span_is(text_of(bias), CLI_BANNED);
        if (!banned && !json_is_number(bias))
            return line_error(r, "logit_bias: \"%.24s\" has neither a number nor \"%s\"", id,
                              CLI_BANNED);
        if (!cli_bias_add(&r->sampling, id, banned ? MODEL_BANNED : json_number_value(bias)))
            return line_error(r, "logit_bias: \"%.24s\" is not a token's id", id);
    }
    return 0;
}

/* Members that are numbers of the sampler. */
static float *decimal_member(struct model_sampling *s, const char *key)
{
    const struct {
        const char *key;
        float *member;
    } all[] = {{"temperature", &s->temperature},
               {"top_p", &s->top_p},
               {"min_p", &s->min_p},
               {"repeat_penalty", &s->repeat_penalty},
               {"presence_penalty", &s->presence_penalty},
               {"frequency_penalty", &s->frequency_penalty}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].key, key) == 0)
            return all[i].member;
    return NULL;
}

static int member(struct cli_request *r, const char *key, const json_t *v)
{
    float *number = decimal_member(&r->sampling, key);
    uint64_t u = 0;
    int rc = 0;
    if (number != NULL) {
        rc = decimal(r, key, v, number);
    } else if (strcmp(key, "prompt") == 0) {
        if (!json_is_string(v))
            return line_error(r, "prompt: not a text");
        r->prompt = text_of(v);
    } else if (strcmp(key, "n") == 0) {
        rc = whole(r, key, v, UINT32_MAX - 1, &u);
        r->n = (uint32_t)u;
    } else if (strcmp(key, "top_k") == 0) {
        rc = whole(r, key, v, MODEL_VOCAB_MAX, &u);
        r->sampling.top_k = (uint32_t)u;
    } else if (strcmp(key, "seed") == 0) {
        rc = whole(r, key, v, INT64_MAX, &u);
        r->sampling.seed = u;
    } else if (strcmp(key, "logit_bias") == 0) {
        rc = biases(r, v);
    } else if (strcmp(key, "logprobs") == 0) {
        rc = whole(r, key, v, MODEL_LOGPROBS_MAX, &u);
        r->sampling.logprobs = 1 + (uint32_t)u;
    } else if (strcmp(key, "stop") == 0) {
        rc = stops(r, v);
    } else {
        rc = line_error(r, "\"%.40s\" is no member of a request", key);
    }
    return rc;
}

static int json_line(struct cli_request *r, struct span line)
{
    json_error_t je;
    const char *key;
    json_t *v;
    struct err e = {0};
    r->object = json_loadb((const char *)line.ptr, line.len, JSON_REJECT_DUPLICATES, &je);
    if (r->object == NULL)
        return line_error(r, "not a JSON object: column %d: %.100s", je.column, je.text);
    r->prompt = (struct span){0};
    json_object_foreach(r->object, key, v)
    {
        if (member(r, key, v) != 0)
            return ERR_FORMAT;
    }
    if (r->prompt.ptr == NULL)
        return line_error(r, "the object has no prompt");
    if (model_sampling_check(&r->sampling, &e) != 0)
        return line_error(r, "%.150s", e.text);
    return 0;
}

static int check_prompt(struct cli_request *r)
{
    if (r->prompt.len > CLI_PROMPT_BYTES_MAX)
        return line_error(r, "the prompt has %zu bytes, at most %d are taken", r->prompt.len,
                          CLI_PROMPT_BYTES_MAX);
    return cli_utf8_ok(r->prompt) ? 0 : line_error(r, "the prompt is not UTF-8");
}

void cli_request_line(const struct cli_request *defaults, struct span line, struct cli_request *out)
{
    *out = *defaults;
    out->prompt = line;
    if (line.len > 0 && line.ptr[0] == '{' && json_line(out, line) != 0)
        return;
    (void)check_prompt(out);
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* The next line without its end; false after the last. */
static bool next_line(struct span *rest, struct span *line)
{
    if (rest->len == 0)
        return false;
    const uint8_t *end = memchr(rest->ptr, '\n', rest->len);
    const size_t len = end != NULL ? (size_t)(end - rest->ptr) : rest->len;
    *line = (struct span){rest->ptr, len};
    rest->ptr += len + (end != NULL ? 1 : 0);
    rest->len -= len + (end != NULL ? 1 : 0);
    if (line->len > 0 && line->ptr[line->len - 1] == '\r')
        line->len--;
    return true;
}

static int read_lines(const char *path, const struct cli_request *defaults,
                      struct cli_requests *out, struct err *e)
{
    struct span rest = {0}, line;
    uint32_t n = 0;
    int rc = base_file_read(path, CLI_TEXT_BYTES_MAX, &out->file, &rest.len, e);
    if (rc != 0)
        return rc;
    rest.ptr = out->file;
    for (struct span r = rest; next_line(&r, &line);)
        n++;
    if (n == 0)
        return err_set(e, ERR_FORMAT, "%s has no lines, so there is nothing to ask", path);
    out->list = base_zalloc(n, sizeof *out->list);
    if (out->list == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for %u requests", n);
    while (next_line(&rest, &line))
        cli_request_line(defaults, line, &out->list[out->n++]);
    return 0;
}

int cli_requests_open(const struct cli_options *o, struct cli_requests *out, struct err *e)
{
    struct cli_request defaults = {.form = o->special ? NET_PROMPT_SPECIAL : NET_PROMPT_TEXT,
                                   .n = o->n,
                                   .sampling = o->sampling,
                                   .n_stops = o->n_stops};
    int rc = 0;
    *out = (struct cli_requests){0};
    if ((o->prompt != NULL) == (o->prompts != NULL))
        return err_set(e, ERR_USAGE, "say what to answer, with either -p TEXT or --prompts FILE");
    if ((o->given & CLI_BIT(LOGPROBS)) != 0 && !o->json)
        return err_set(e, ERR_USAGE, "--logprobs shows in the answer's JSON: give --json, too");
    memcpy(defaults.stops, o->stops, sizeof defaults.stops);
    if ((o->given & CLI_BIT(SEED)) == 0) {
        uint32_t seed;
        net_random(&seed, sizeof seed);
        defaults.sampling.seed = seed;
        out->seed_drawn = true;
    }
    out->seed = defaults.sampling.seed;
    if (o->prompts != NULL) {
        rc = read_lines(o->prompts, &defaults, out, e);
    } else if ((out->list = base_zalloc(1, sizeof *out->list)) == NULL) {
        rc = err_set(e, ERR_NOMEM, "out of memory for the request");
    } else {
        out->n = 1;
        out->list[0] = defaults;
        out->list[0].prompt = base_span_str(o->prompt);
        if (check_prompt(&out->list[0]) != 0)
            rc = err_set(e, ERR_USAGE, "-p: %s", out->list[0].error);
    }
    return rc;
}

void cli_requests_close(struct cli_requests *r)
{
    for (uint32_t i = 0; i < r->n; i++)
        json_decref(r->list[i].object);
    base_free(r->list);
    base_free(r->file);
    *r = (struct cli_requests){0};
}
