/* Runs `shoal` and compares its JSON with a file of expected values: the check behind reference.sh
 * and local.sh. Says what differs on stderr and ends with 1; 0 where everything is as expected.
 *
 *   expect vocabulary MODEL FILE                     ids of every text, without the program: a large
 *                                                    vocabulary is read once, not for each text
 *   expect tokens PROGRAM MODEL FILE                 ids of every text
 *   expect logits PROGRAM MODEL FILE TOLERANCE       ids, mean, rms, 4 best at every position
 *   expect greedy PROGRAM MODEL FILE                 ids of every continuation
 *   expect perplexity PROGRAM MODEL FILE TEXT TOLERANCE   relative
 *
 * What follows is handed to the program as further options. Texts go to it as arguments, not
 * through a shell, so that nothing in them is changed. */
#include "model/model.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARGS_MAX = 64, BEST = 4, IDS_MAX = 4096 };

static char **more_args; /* NULL-terminated */
static unsigned n_bad;

static void differs(const char *text, const char *what, double want, double got)
{
    fprintf(stderr, "\"%.50s\": %s: %.9g expected, %.9g found\n", text, what, want, got);
    n_bad++;
}

/* Run the program, arguments up to NULL; its JSON, or NULL after a word on stderr. */
static json_t *run(const char *const *args)
{
    char *list[ARGS_MAX + 1];
    json_error_t why;
    json_t *j;
    int n = 0, fd[2], status = 0;
    for (int i = 0; args[i] != NULL && n < ARGS_MAX; i++) {
        for (char **a = more_args; i == 2 && *a != NULL && n < ARGS_MAX; a++)
            list[n++] = *a; /* behind the command, before what may be a "--" */
        list[n++] = (char *)(uintptr_t)args[i];
    }
    list[n] = NULL;
    if (pipe(fd) != 0)
        return NULL;
    const pid_t child = fork();
    if (child == 0) {
        dup2(fd[1], STDOUT_FILENO);
        close(fd[0]);
        close(fd[1]);
        execv(list[0], list);
        _exit(127);
    }
    close(fd[1]);
    FILE *in = fdopen(fd[0], "r");
    j = in != NULL && child > 0 ? json_loadf(in, JSON_ALLOW_NUL, &why) : NULL;
    if (j == NULL)
        fprintf(stderr, "%s %s: no JSON: %s\n", list[0], list[1], why.text);
    if (in != NULL)
        fclose(in);
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "%s %s ended with status %d\n", list[0], list[1], WEXITSTATUS(status));
        json_decref(j);
        return NULL;
    }
    return j;
}

/* Equal lists of ids? */
static bool same_ids(const char *text, const json_t *want, const json_t *got)
{
    if (json_array_size(want) != json_array_size(got)) {
        differs(text, "number of ids", (double)json_array_size(want), (double)json_array_size(got));
        return false;
    }
    for (size_t i = 0; i < json_array_size(want); i++) {
        const json_int_t w = json_integer_value(json_array_get(want, i));
        const json_int_t g = json_integer_value(json_array_get(got, i));
        if (w == g)
            continue;
        differs(text, "id", (double)w, (double)g);
        return false;
    }
    return true;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s != NULL ? s : "";
}

static double number_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static void check_tokens(const char *program, const char *model, const json_t *want)
{
    const char *text = text_of(want, "text");
    const char *args[] = {program, "tokenize", "-m", model, "--json", "--", text, NULL};
    json_t *got = run(args);
    if (got == NULL || strcmp(text_of(got, "text"), text) != 0)
        n_bad++;
    else
        same_ids(text, json_object_get(want, "ids"), json_object_get(got, "ids"));
    json_decref(got);
}

/* No BOS: not all of these files say whether there is one. */
static void check_ids(const struct vocab *v, const json_t *want)
{
    const json_t *text = json_object_get(want, "text");
    const struct span s = {(const uint8_t *)json_string_value(text), json_string_length(text)};
    int32_t ids[IDS_MAX];
    struct err e = {0};
    size_t n = 0;
    json_t *got = json_array();
    if (model_vocab_encode(v, s, 0, ids, IDS_MAX, &n, &e) != 0) {
        fprintf(stderr, "\"%.50s\": %s\n", text_of(want, "text"), e.text);
        n_bad++;
    } else {
        for (size_t i = 0; i < n; i++)
            json_array_append_new(got, json_integer(ids[i]));
        same_ids(text_of(want, "text"), json_object_get(want, "ids"), got);
    }
    json_decref(got);
}

static int check_vocabulary(const char *model, const char *file)
{
    json_error_t why;
    json_t *list = json_load_file(file, JSON_ALLOW_NUL, &why);
    struct gguf *g = NULL;
    struct vocab *v = NULL;
    struct err e = {0};
    if (json_array_size(list) == 0 || model_gguf_open(model, GGUF_VOCABULARY, &g, &e) != 0 ||
        model_vocab_open(g, &v, &e) != 0) {
        fprintf(stderr, "expect: %s: %s\n", model, e.text[0] != 0 ? e.text : why.text);
        n_bad++;
    }
    for (size_t i = 0; v != NULL && i < json_array_size(list); i++)
        check_ids(v, json_array_get(list, i));
    model_vocab_close(v);
    model_gguf_close(g);
    json_decref(list);
    return n_bad == 0 ? 0 : 1;
}

static void check_position(const char *text, const json_t *want, const json_t *got,
                           double tolerance)
{
    const json_t *best = json_object_get(want, "best"), *ours = json_object_get(got, "best");
    static const char *const keys[] = {"mean", "rms"};
    for (int i = 0; i < 2; i++)
        if (!(fabs(number_of(want, keys[i]) - number_of(got, keys[i])) <= tolerance))
            differs(text, keys[i], number_of(want, keys[i]), number_of(got, keys[i]));
    for (size_t i = 0; i < BEST; i++) {
        const json_t *pair = json_array_get(best, i);
        const double w = json_number_value(json_array_get(pair, 1));
        double g = NAN;
        for (size_t k = 0; k < json_array_size(ours); k++)
            if (json_equal(json_array_get(json_array_get(ours, k), 0), json_array_get(pair, 0)))
                g = json_number_value(json_array_get(json_array_get(ours, k), 1));
        if (!(fabs(w - g) <= tolerance))
            differs(text, "one of the best logits", w, g);
    }
}

static void check_logits(const char *program, const char *model, const json_t *want,
                         double tolerance)
{
    const char *text = text_of(want, "text");
    const char *args[] = {program, "logits", "-m", model, "--json", "-p", text, NULL};
    const json_t *top = json_object_get(want, "top"), *ours;
    json_t *got = run(args);
    if (got == NULL) {
        n_bad++;
        return;
    }
    ours = json_object_get(got, "top");
    if (!same_ids(text, json_object_get(want, "ids"), json_object_get(got, "ids")) ||
        json_array_size(top) == 0 || json_array_size(top) != json_array_size(ours))
        differs(text, "positions", (double)json_array_size(top), (double)json_array_size(ours));
    else
        for (size_t i = 0; i < json_array_size(top); i++)
            check_position(text, json_array_get(top, i), json_array_get(ours, i), tolerance);
    json_decref(got);
}

static void check_greedy(const char *program, const char *model, const json_t *want)
{
    const char *prompt = text_of(want, "prompt"), *finish = text_of(want, "finish");
    const bool stops = strcmp(finish, "stop") == 0;
    const json_t *ids = json_object_get(want, "ids");
    char n[24];
    snprintf(n, sizeof n, "%zu", json_array_size(ids) + (stops ? 1 : 0));
    const char *args[] = {program, "local", "-m", model, "--json", "-q", "--temperature",
                          "0",     "-n",    n,    "-p",  prompt,   NULL};
    json_t *got = run(args);
    if (got == NULL || strcmp(text_of(got, "finish"), finish) != 0) {
        fprintf(stderr, "\"%.50s\": finish %s expected\n", prompt, finish);
        n_bad++;
    } else {
        same_ids(prompt, ids, json_object_get(got, "tokens"));
    }
    json_decref(got);
}

static void check_perplexity(const char *program, const char *model, const char *text,
                             const json_t *want, double tolerance)
{
    char window[24];
    snprintf(window, sizeof window, "%.0f", number_of(want, "context"));
    const char *args[] = {program, "perplexity", "-m",   model,    "-f",
                          text,    "-c",         window, "--json", NULL};
    const double w = number_of(want, "perplexity");
    json_t *got = run(args);
    if (got == NULL) {
        n_bad++;
        return;
    }
    if (!(fabs(number_of(got, "perplexity") - w) <= tolerance * w))
        differs(text, "perplexity", w, number_of(got, "perplexity"));
    if (!(number_of(got, "scored_tokens") == number_of(want, "scored_tokens")))
        differs(text, "scored tokens", number_of(want, "scored_tokens"),
                number_of(got, "scored_tokens"));
    json_decref(got);
}

int main(int argc, char **argv)
{
    json_error_t why;
    const char *kind = argc > 4 ? argv[1] : "";
    if (argc == 4 && strcmp(argv[1], "vocabulary") == 0)
        return check_vocabulary(argv[2], argv[3]);
    const bool logits = strcmp(kind, "logits") == 0, perplexity = strcmp(kind, "perplexity") == 0;
    const int used = 5 + (logits ? 1 : 0) + (perplexity ? 2 : 0);
    json_t *list = argc >= used && argc > 4 ? json_load_file(argv[4], JSON_ALLOW_NUL, &why) : NULL;
    if (json_array_size(list) == 0) {
        fprintf(stderr, "expect: wrong usage, or %s has no list of expected values\n",
                argc > 4 ? argv[4] : "FILE");
        return 1;
    }
    more_args = argv + used;
    const double tolerance = strtod(argv[used - 1], NULL);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *want = json_array_get(list, i);
        if (logits)
            check_logits(argv[2], argv[3], want, tolerance);
        else if (perplexity)
            check_perplexity(argv[2], argv[3], argv[5], want, tolerance);
        else if (strcmp(kind, "tokens") == 0)
            check_tokens(argv[2], argv[3], want);
        else
            check_greedy(argv[2], argv[3], want);
    }
    json_decref(list);
    return n_bad == 0 ? 0 : 1;
}
