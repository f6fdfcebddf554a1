/* The command line under test: options and their ranges, lines of a file of prompts, the JSON of an
 * answer.
 *
 * All commands share one table and one parser, so a made-up command that takes every option, and
 * two that give one letter different meanings, stand for all. */
#include "client/client.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SAMPLING                                                                                   \
    (CLI_BIT(PROMPT) | CLI_BIT(PROMPTS) | CLI_BIT(TOKENS) | CLI_BIT(TEMPERATURE) |                 \
     CLI_BIT(TOP_K) | CLI_BIT(TOP_P) | CLI_BIT(MIN_P) | CLI_BIT(PENALTY) | CLI_BIT(PRESENCE) |     \
     CLI_BIT(FREQUENCY) | CLI_BIT(BIAS) | CLI_BIT(LOGPROBS) | CLI_BIT(SEED) | CLI_BIT(STOP) |      \
     CLI_BIT(SPECIAL) | CLI_BIT(JSON) | CLI_BIT(CONFIG) | CLI_BIT(KEY) | CLI_BIT(MODEL) |          \
     CLI_BIT(THREADS) | CLI_BIT(KERNELS) | CLI_BIT(KV) | CLI_BIT(NUMERICS) |          \
     CLI_BIT(CHUNK))

static const struct cli_command ask = {
    .name = "ask", .usage = "", .takes = SAMPLING, .max_args = 0};
static const struct cli_command score = {.name = "score",
                                         .usage = "",
                                         .takes = CLI_BIT(WINDOW) | CLI_BIT(FILE) | CLI_BIT(MODEL),
                                         .needs = CLI_BIT(FILE),
                                         .max_args = 0};
static const struct cli_command words = {
    .name = "words", .usage = "WORD...", .takes = CLI_BIT(JSON), .min_args = 1, .max_args = 2};

enum { ARGS_MAX = 80 };

/* Parse a command line written with '|' between its words. */
static int parse(const struct cli_command *c, const char *line, struct cli_options *o,
                 struct err *e)
{
    static char text[2048];
    static char *argv[ARGS_MAX + 1];
    int argc = 0;
    snprintf(text, sizeof text, "%s%s%s", c->name, line[0] != 0 ? "|" : "", line);
    *e = (struct err){0};
    for (char *p = text; p != NULL && argc < ARGS_MAX;) {
        char *end = strchr(p, '|');
        argv[argc++] = p;
        p = end == NULL ? NULL : end + 1;
        if (end != NULL)
            *end = 0;
    }
    argv[argc] = NULL;
    return cli_options_parse(c, argc, argv, o, e);
}

static void good(const struct cli_command *c, const char *line, struct cli_options *o)
{
    struct err e;
    if (parse(c, line, o, &e) != 0)
        fail_msg("%s: %s", line, e.text);
}

/* The line is refused in one sentence that has `word` in it. */
static void bad(const struct cli_command *c, const char *line, const char *word)
{
    struct cli_options o;
    struct err e;
    if (parse(c, line, &o, &e) != ERR_USAGE)
        fail_msg("%s was taken", line);
    if (strstr(e.text, word) == NULL || strchr(e.text, '\n') != NULL)
        fail_msg("%s: \"%s\" does not say \"%s\" in one line", line, e.text, word);
}

/* ---- options --------------------------------------------------------------------------------- */

static void defaults(void **state)
{
    struct cli_options o;
    (void)state;
    good(&ask, "", &o);
    assert_true(o.n == UINT32_MAX && o.n_stops == 0 && o.given == 0 && !o.json && !o.quiet);
    assert_string_equal(o.key, "client");
    assert_true(o.sampling.temperature == 0.8f && o.sampling.top_k == 40 &&
                o.sampling.top_p == 0.95f);
    assert_true(o.sampling.min_p == 0.05f && o.sampling.repeat_penalty == 1.0f);
    assert_true(o.kernels == NULL && o.kv == KERN_KV_F16 && o.threads == 0 && o.chunk == CLI_CHUNK);
}

static void all_of_them(void **state)
{
    struct cli_options o;
    (void)state;
    good(&ask,
         "-c|x.ini|-p|a "
         "text|-n|0|-t|3|--temperature|0|--top-k=7|--top-p|0.5|--min-p|1|--repeat-penalty|1.25|"
         "--seed|18446744073709551615|--stop|\n|--stop|End|--json|-v|-q|--kernels|generic|--kv|f32|"
         "--chunk|512|"
         "--key|other|--special|--presence-penalty|-0.5|--frequency-penalty=2|--logit-bias|7=-3.5|"
         "--logit-bias|0=banned|--logprobs|0",
         &o);
    assert_true(o.sampling.presence_penalty == -0.5f && o.sampling.frequency_penalty == 2.0f);
    assert_true(o.sampling.n_biases == 2 && o.sampling.logprobs == 1);
    assert_true(o.sampling.bias_ids[0] == 7 && o.sampling.biases[0] == -3.5);
    assert_true(o.sampling.bias_ids[1] == 0 && o.sampling.biases[1] == MODEL_BANNED);
    assert_string_equal(o.config, "x.ini");
    assert_string_equal(o.prompt, "a text");
    assert_string_equal(o.key, "other");
    assert_string_equal(o.kernels->name, "generic");
    assert_true(o.n == 0 && o.threads == 3 && o.sampling.temperature == 0 && o.sampling.top_k == 7);
    assert_true(o.sampling.top_p == 0.5f && o.sampling.min_p == 1.0f);
    assert_true(o.sampling.repeat_penalty == 1.25f && o.sampling.seed == UINT64_MAX);
    assert_true(o.n_stops == 2 && base_span_is(o.stops[0], "\n") &&
                base_span_is(o.stops[1], "End"));
    assert_true(o.json && o.verbose && o.quiet && o.special && o.kv == KERN_KV_F32 &&
                o.chunk == 512);
}

static void numbers_are_strict(void **state)
{
    static const char *const wrong[] = {"-n|-1",
                                        "-n|4294967295",
                                        "-n|1x",
                                        "-n| 1",
                                        "-n|0x10",
                                        "-n|",
                                        "-n|1.0",
                                        "-t|0",
                                        "-t|257",
                                        "--chunk|0",
                                        "--chunk|513",
                                        "--seed|18446744073709551616",
                                        "--seed|-0",
                                        "--seed|99999999999999999999",
                                        "--temperature|-1",
                                        "--temperature|100.5",
                                        "--top-p|1.1",
                                        "--min-p|nan",
                                        "--temperature|inf",
                                        "--top-p|0,5",
                                        "--top-p|0x1p-1",
                                        "--repeat-penalty|0",
                                        "--presence-penalty|100.5",
                                        "--frequency-penalty|-101",
                                        "--logit-bias|5",
                                        "--logit-bias|5=",
                                        "--logit-bias|5=1001",
                                        "--logit-bias|5=ban",
                                        "--logit-bias|-1=1",
                                        "--logit-bias|=1",
                                        "--logit-bias|1048576=1",
                                        "--logit-bias|111111111111111111111111111111=1",
                                        "--logprobs|9",
                                        "--top-k|1e3",
                                        "--temperature|1e9",
                                        "--temperature|."};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        bad(&ask, wrong[i], " is not a ");
}

static void mistakes_are_named(void **state)
{
    (void)state;
    bad(&ask, "--wrong", "--wrong");
    bad(&ask, "-z", "-z");
    bad(&ask, "-p", "-p needs a value");
    bad(&ask, "--top-k", "--top-k needs a value");
    bad(&ask, "--json=1", "--json takes no value");
    bad(&ask, "stray", "stray");
    bad(&ask, "-f|x", "-f"); /* of another command */
    bad(&ask, "--kernels|fast", "generic");
    bad(&ask, "--kv|q4_0", "none of f16");
    bad(&ask, "--numerics|quick", "neither exact nor fast");
    bad(&ask, "--kv|f8", "f8");
    bad(&ask, "--stop|", "--stop");
    bad(&ask, "--stop|\xff", "UTF-8");
    bad(&score, "-m|x", "-f FILE is missing");
    bad(&words, "", "WORD");
    bad(&words, "a|b|c", "\"c\"");
}

static void too_many_biases(void **state)
{
    char line[1200] = "";
    struct cli_options o;
    (void)state;
    for (int i = 0; i < MODEL_BIASES_MAX; i++)
        strcat(line, i == 0 ? "--logit-bias=1=1" : "|--logit-bias=1=1");
    good(&ask, line, &o);
    assert_int_equal(o.sampling.n_biases, MODEL_BIASES_MAX);
    strcat(line, "|--logit-bias=1=1");
    bad(&ask, line, "at most");
}

static void too_many_stops(void **state)
{
    char line[400] = "";
    struct cli_options o;
    (void)state;
    for (int i = 0; i < CLI_STOPS_MAX; i++)
        strcat(line, i == 0 ? "--stop|x" : "|--stop|x");
    good(&ask, line, &o);
    assert_int_equal(o.n_stops, CLI_STOPS_MAX);
    strcat(line, "|--stop|x");
    bad(&ask, line, "at most");
}

/* One letter, two meanings: -c is a file for most commands and a number for perplexity. */
static void letters_belong_to_commands(void **state)
{
    struct cli_options o;
    (void)state;
    good(&score, "-c|64|-f|x", &o);
    assert_true(o.context == 64 && o.config == NULL);
    good(&ask, "-c|64", &o);
    assert_string_equal(o.config, "64");
    bad(&score, "-c|file.ini|-f|x", "-c");
    bad(&score, "-c|3|-f|x", "-c");
}

static void words_may_begin_with_a_dash(void **state)
{
    struct cli_options o;
    (void)state;
    good(&words, "--json|--|--json|-x", &o);
    assert_true(o.json && o.n_args == 2);
    assert_string_equal(o.args[0], "--json");
    assert_string_equal(o.args[1], "-x");
    good(&words, "a|--json", &o);
    assert_true(o.json && o.n_args == 1);
}

static void help_asks_for_nothing_else(void **state)
{
    struct cli_options o;
    (void)state;
    good(&score, "--help", &o);
    assert_true(o.help);
    good(&words, "--version", &o);
    assert_true(o.version);
}

/* ---- lines of a file of prompts -------------------------------------------------------------- */

static const struct cli_request base_request = {.n = 100,
                                                .sampling = {.temperature = 0.8f,
                                                             .top_k = 40,
                                                             .top_p = 0.95f,
                                                             .min_p = 0.05f,
                                                             .repeat_penalty = 1.0f,
                                                             .seed = 1234},
                                                .n_stops = 1,
                                                .stops = {{(const uint8_t *)"default", 7}},
                                                .form = NET_PROMPT_SPECIAL};

static struct cli_request line(const char *text)
{
    struct cli_request r;
    cli_request_line(&base_request, base_span_str(text), &r);
    return r;
}

static void plain_lines(void **state)
{
    static const char *const texts[] = {"a prompt", "", " {\"prompt\":\"x\"}", "[1]",
                                        "caf\xc3\xa9"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const struct cli_request r = line(texts[i]);
        assert_string_equal(r.error, "");
        assert_true(base_span_is(r.prompt, texts[i]) && r.object == NULL);
        assert_true(r.n == 100 && r.sampling.seed == 1234 && r.n_stops == 1 &&
                    r.form == NET_PROMPT_SPECIAL);
    }
    assert_string_not_equal(line("\xff").error, "");
    assert_string_not_equal(line("\xed\xa0\x80").error, ""); /* a surrogate is no character */
}

static void json_lines(void **state)
{
    struct cli_request r =
        line("{\"prompt\":\"a\\nb\",\"n\":0,\"temperature\":0,\"top_k\":3,\"top_p\":1,"
             "\"min_p\":0.5,\"repeat_penalty\":2,\"seed\":9,\"stop\":[\"x\",\"yz\"]}");
    (void)state;
    assert_string_equal(r.error, "");
    assert_true(base_span_is(r.prompt, "a\nb") && r.n == 0 && r.sampling.temperature == 0);
    assert_true(r.sampling.top_k == 3 && r.sampling.top_p == 1.0f && r.sampling.min_p == 0.5f);
    assert_true(r.sampling.repeat_penalty == 2.0f && r.sampling.seed == 9 && r.n_stops == 2);
    assert_true(base_span_is(r.stops[0], "x") && base_span_is(r.stops[1], "yz") &&
                r.form == NET_PROMPT_SPECIAL);
    json_decref(r.object);
    r = line("{\"prompt\":\"\",\"presence_penalty\":-1,\"frequency_penalty\":0.5,\"logprobs\":8,"
             "\"logit_bias\":{\"12\":2.5,\"3\":\"banned\"}}");
    assert_string_equal(r.error, "");
    assert_true(r.sampling.presence_penalty == -1.0f && r.sampling.frequency_penalty == 0.5f);
    assert_true(r.sampling.logprobs == 9 && r.sampling.n_biases == 2);
    assert_true(r.sampling.bias_ids[0] == 12 && r.sampling.biases[0] == 2.5);
    assert_true(r.sampling.bias_ids[1] == 3 && r.sampling.biases[1] == MODEL_BANNED);
    json_decref(r.object);
    r = line("{\"prompt\":\"\",\"stop\":\"one\"}");
    assert_string_equal(r.error, "");
    assert_true(r.prompt.len == 0 && r.n == 100 && r.n_stops == 1 &&
                base_span_is(r.stops[0], "one"));
    json_decref(r.object);
}

static void json_mistakes(void **state)
{
    static const struct {
        const char *text, *word;
    } wrong[] = {
        {"{", "JSON"},
        {"{}", "no prompt"},
        {"{\"prompt\":\"a\"} more", "JSON"},
        {"{\"prompt\":\"a\",\"prompt\":\"b\"}", "JSON"},
        {"{\"prompt\":1}", "prompt"},
        {"{\"prompt\":\"a\",\"n\":-1}", "n: "},
        {"{\"prompt\":\"a\",\"n\":1.5}", "n: "},
        {"{\"prompt\":\"a\",\"n\":4294967295}", "n: "},
        {"{\"prompt\":\"a\",\"top_k\":\"3\"}", "top_k"},
        {"{\"prompt\":\"a\",\"seed\":-1}", "seed"},
        {"{\"prompt\":\"a\",\"temperature\":101}", "temperature"},
        {"{\"prompt\":\"a\",\"temperature\":\"hot\"}", "temperature"},
        {"{\"prompt\":\"a\",\"top_p\":2}", "top-p"},
        {"{\"prompt\":\"a\",\"repeat_penalty\":0}", "penalty"},
        {"{\"prompt\":\"a\",\"presence_penalty\":101}", "presence"},
        {"{\"prompt\":\"a\",\"frequency_penalty\":\"x\"}", "frequency"},
        {"{\"prompt\":\"a\",\"logprobs\":9}", "logprobs"},
        {"{\"prompt\":\"a\",\"logit_bias\":[1]}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":\"ban\"}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":1001}}", "bias"},
        {"{\"prompt\":\"a\",\"stop\":[\"\"]}", "stop"},
        {"{\"prompt\":\"a\",\"stop\":5}", "stop"},
        {"{\"prompt\":\"a\",\"top-k\":5}", "top-k"},
        {"{\"prompt\":\"\\ud800\"}", "JSON"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct cli_request r = line(wrong[i].text);
        if (strstr(r.error, wrong[i].word) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", wrong[i].text, r.error, wrong[i].word);
        json_decref(r.object);
    }
}

/* Every line is a request, the last one with or without an end; lines that are none do not stop the
 * rest. */
static void files_of_lines(void **state)
{
    static const char text[] = "one\r\n\n{\"prompt\":\"three\",\"n\":1}\n{broken\nlast";
    char path[] = "/tmp/shoal-prompts-XXXXXX";
    struct cli_options o = {
        .prompts = path, .n = 5, .sampling = {.seed = 3}, .given = CLI_BIT(SEED)};
    struct cli_requests r;
    struct err e;
    const int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0 && write(fd, text, sizeof text - 1) == (ssize_t)(sizeof text - 1));
    assert_int_equal(close(fd), 0);
    assert_int_equal(cli_requests_open(&o, &r, &e), 0);
    assert_int_equal(r.n, 5);
    assert_true(base_span_is(r.list[0].prompt, "one") && r.list[1].prompt.len == 0);
    assert_true(base_span_is(r.list[2].prompt, "three") && r.list[2].n == 1 && r.list[1].n == 5);
    assert_string_not_equal(r.list[3].error, "");
    assert_true(base_span_is(r.list[4].prompt, "last") && r.list[4].sampling.seed == 3 &&
                !r.seed_drawn);
    cli_requests_close(&r);
    o.prompt = "x";
    assert_int_equal(cli_requests_open(&o, &r, &e), ERR_USAGE);
    cli_requests_close(&r);
    unlink(path);
    o.prompt = NULL;
    assert_int_equal(cli_requests_open(&o, &r, &e), ERR_NOTFOUND);
    cli_requests_close(&r);
}

/* No memory is a refusal, and nothing stays behind. */
static void memory_runs_out(void **state)
{
    char path[] = "/tmp/shoal-prompts-XXXXXX";
    struct cli_options o = {.prompts = path, .given = CLI_BIT(SEED)};
    struct cli_requests r;
    struct err e;
    const int fd = mkstemp(path);
    const int64_t live = base_alloc_live();
    int rc = ERR_NOMEM;
    (void)state;
    assert_true(fd >= 0 && write(fd, "a\nb\n", 4) == 4 && close(fd) == 0);
    for (uint64_t nth = 1; rc == ERR_NOMEM; nth++) {
        assert_true(nth < 20);
        base_alloc_fail_nth(nth);
        rc = cli_requests_open(&o, &r, &e);
        base_alloc_fail_nth(0);
        cli_requests_close(&r);
        assert_int_equal(base_alloc_live(), live);
    }
    assert_int_equal(rc, 0);
    unlink(path);
}

/* ---- answers --------------------------------------------------------------------------------- */

static void answers_as_json(void **state)
{
    static const char *const keys[] = {"prompt", "tokens",        "text",    "finish",
                                       "error",  "prompt_tokens", "ttft_ms", "tokens_per_s"};
    const int32_t ids[] = {5, 7};
    const struct cli_request r = line("say \"hi\"");
    struct cli_answer a = {.done = true, .finish = CLI_LENGTH, .prompt_tokens = 3, .ttft_ms = 1.5};
    const char *key;
    json_t *o, *v;
    size_t i = 0;
    (void)state;
    base_buf_add(&a.tokens, ids, sizeof ids);
    base_buf_add(&a.text, "a\xc3\xa9\xc3", 4); /* ends in half a character */
    o = cli_answer_json(&r, &a);
    assert_non_null(o);
    json_object_foreach(o, key, v)
    {
        assert_true(i < sizeof keys / sizeof *keys);
        assert_string_equal(key, keys[i++]);
    }
    assert_int_equal(i, sizeof keys / sizeof *keys);
    assert_string_equal(json_string_value(json_object_get(o, "prompt")), "say \"hi\"");
    assert_string_equal(json_string_value(json_object_get(o, "text")), "a\xc3\xa9\xef\xbf\xbd");
    assert_string_equal(json_string_value(json_object_get(o, "finish")), "length");
    assert_null(json_object_get(o, "logprobs"));
    assert_true(json_is_null(json_object_get(o, "error")));
    assert_int_equal(json_array_size(json_object_get(o, "tokens")), 2);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(o, "tokens"), 1)), 7);
    assert_int_equal(json_integer_value(json_object_get(o, "prompt_tokens")), 3);
    json_decref(o);
    a.reused_tokens = 2;
    o = cli_answer_json(&r, &a);
    assert_int_equal(json_integer_value(json_object_get(o, "reused_tokens")), 2);
    json_decref(o);
    cli_answer_fail(&a, "no %s", "luck");
    o = cli_answer_json(&r, &a);
    assert_string_equal(json_string_value(json_object_get(o, "finish")), "error");
    assert_string_equal(json_string_value(json_object_get(o, "error")), "no luck");
    json_decref(o);
    base_buf_deinit(&a.tokens);
    base_buf_deinit(&a.text);
}

static void log_probabilities_as_json(void **state)
{
    const int32_t ids[] = {5, 7};
    const struct model_logprobs p[] = {{-0.25, 2, {9, 5}, {-0.125, -0.25}}, {-1.5, 0, {0}, {0}}};
    struct cli_request r = line("x");
    struct cli_answer a = {.done = true};
    char *text;
    json_t *o;
    (void)state;
    r.sampling.logprobs = 3;
    base_buf_add(&a.tokens, ids, sizeof ids);
    base_buf_add(&a.logprobs, p, sizeof p);
    o = cli_answer_json(&r, &a);
    assert_non_null(o);
    text = json_dumps(json_object_get(o, "logprobs"), JSON_COMPACT);
    assert_string_equal(text, "[{\"id\":5,\"logprob\":-0.25,\"top\":[[9,-0.125],[5,-0.25]]},"
                              "{\"id\":7,\"logprob\":-1.5,\"top\":[]}]");
    free(text);
    json_decref(o);
    base_buf_deinit(&a.tokens);
    base_buf_deinit(&a.logprobs);
}

static void utf8(void **state)
{
    static const struct {
        const char *text;
        bool ok;
    } cases[] = {
        {"", true},
        {"plain", true},
        {"\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", true},
        {"\x80", false},
        {"\xc0\x80", false},         /* overlong */
        {"\xe0\x9f\xbf", false},     /* overlong */
        {"\xf0\x8f\xbf\xbf", false}, /* overlong */
        {"\xed\xa0\x80", false},     /* a surrogate */
        {"\xf4\x90\x80\x80", false}, /* beyond the last */
        {"\xf8\x88\x80\x80\x80", false},
        {"a\xe4\xb8", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(cli_utf8_ok(base_span_str(cases[i].text)), cases[i].ok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(all_of_them),
        cmocka_unit_test(numbers_are_strict),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(too_many_biases),
        cmocka_unit_test(too_many_stops),
        cmocka_unit_test(letters_belong_to_commands),
        cmocka_unit_test(words_may_begin_with_a_dash),
        cmocka_unit_test(help_asks_for_nothing_else),
        cmocka_unit_test(plain_lines),
        cmocka_unit_test(json_lines),
        cmocka_unit_test(json_mistakes),
        cmocka_unit_test(files_of_lines),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(answers_as_json),
        cmocka_unit_test(log_probabilities_as_json),
        cmocka_unit_test(utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
