/* Answers, as they are shown: text that grows, or one JSON object a request.
 *
 * Requests run side by side and end in any order; the printer shows them in the order in which they
 * were asked. The first that is not shown whole is shown as far as its text is certain, later ones
 * wait. The invariant: what has been printed is never taken back, and an answer's statistics follow
 * its text.
 *
 * In plain text each answer ends with a line break, whatever its last character is, so that the
 * output of `generate` and `local` can be compared byte by byte. */
#include "client/client.h"

static const char *const finish_names[] = {"stop", "length", "error"};

void cli_answer_fail(struct cli_answer *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->error, sizeof a->error, fmt, ap);
    va_end(ap);
    a->finish = CLI_ERROR;
    a->done = true;
}

void cli_answers_free(struct cli_answer *list, uint32_t n)
{
    for (uint32_t i = 0; list != NULL && i < n; i++) {
        base_buf_deinit(&list[i].tokens);
        base_buf_deinit(&list[i].logprobs);
        base_buf_deinit(&list[i].text);
    }
    base_free(list);
}

static uint32_t n_tokens(const struct cli_answer *a)
{
    return (uint32_t)(a->tokens.len / sizeof(int32_t));
}

static json_t *token_list(const struct cli_answer *a)
{
    const int32_t *ids = (const int32_t *)(const void *)a->tokens.ptr;
    json_t *list = json_array();
    for (uint32_t i = 0; i < n_tokens(a); i++) {
        if (json_array_append_new(list, json_integer(ids[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *best_list(const struct model_logprobs *p)
{
    json_t *list = json_array();
    int bad = 0;
    for (uint32_t i = 0; i < p->n_best; i++) {
        json_t *pair = json_array();
        bad |= json_array_append_new(pair, json_integer(p->ids[i]));
        bad |= json_array_append_new(pair, cli_json_number(p->best[i]));
        bad |= json_array_append_new(list, pair);
    }
    if (bad == 0)
        return list;
    json_decref(list);
    return NULL;
}

static json_t *logprob_list(const struct cli_answer *a)
{
    const int32_t *ids = (const int32_t *)(const void *)a->tokens.ptr;
    const struct model_logprobs *p = (const void *)a->logprobs.ptr;
    const size_t n = a->logprobs.len / sizeof *p;
    json_t *list = json_array();
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        json_t *o = json_object();
        bad |= json_object_set_new(o, "id", json_integer(ids[i]));
        bad |= json_object_set_new(o, "logprob", cli_json_number(p[i].chosen));
        bad |= json_object_set_new(o, "top", best_list(&p[i]));
        bad |= json_array_append_new(list, o);
    }
    if (bad == 0)
        return list;
    json_decref(list);
    return NULL;
}

json_t *cli_answer_json(const struct cli_request *r, const struct cli_answer *a)
{
    const struct span text = {a->text.ptr, a->text.len};
    json_t *o = json_object();
    int bad = json_object_set_new(o, "prompt", cli_json_text(r->prompt));
    bad |= json_object_set_new(o, "tokens", token_list(a));
    bad |= json_object_set_new(o, "text", cli_json_text(text));
    bad |= json_object_set_new(o, "finish", json_string(finish_names[a->finish]));
    bad |= json_object_set_new(
        o, "error", a->error[0] != 0 ? cli_json_text(base_span_str(a->error)) : json_null());
    bad |= json_object_set_new(o, "prompt_tokens", json_integer(a->prompt_tokens));
    bad |= json_object_set_new(o, "ttft_ms", cli_json_number(a->ttft_ms));
    bad |= json_object_set_new(o, "tokens_per_s", cli_json_number(a->tokens_per_s));
    if (a->reused_tokens > 0)
        bad |= json_object_set_new(o, "reused_tokens", json_integer(a->reused_tokens));
    if (r->sampling.logprobs != 0)
        bad |= json_object_set_new(o, "logprobs", logprob_list(a));
    if (bad == 0)
        return o;
    json_decref(o);
    return NULL;
}

/* ---- printing -------------------------------------------------------------------------------- */

static void say_statistics(const struct cli_printer *p, const struct cli_answer *a)
{
    char which[32] = "", reused[40] = "", prefill[48] = "", decode[48] = "";
    if (p->requests->n > 1)
        snprintf(which, sizeof which, "request %u: ", p->next + 1);
    if (a->finish == CLI_ERROR)
        return;
    if (a->reused_tokens > 0)
        snprintf(reused, sizeof reused, ", %u of them reused", a->reused_tokens);
    if (a->prefill_per_s > 0)
        snprintf(prefill, sizeof prefill, " (%.1f tok/s)", a->prefill_per_s);
    if (a->tokens_per_s > 0)
        snprintf(decode, sizeof decode, " at %.2f tok/s", a->tokens_per_s);
    if (n_tokens(a) == 0)
        cli_say("%s%u prompt tokens%s%s; nothing generated; finish %s", which, a->prompt_tokens,
                reused, prefill, finish_names[a->finish]);
    else
        cli_say("%s%u prompt tokens%s%s; first token after %.1f ms; %u tokens%s; finish %s", which,
                a->prompt_tokens, reused, prefill, a->ttft_ms, n_tokens(a), decode,
                finish_names[a->finish]);
}

/* A seed that was drawn, once, before the first answer that it may have shaped. */
static void say_seed(struct cli_printer *p)
{
    const struct cli_requests *r = p->requests;
    const struct model_sampling *s = &r->list[p->next].sampling;
    if (p->seed_said || p->quiet || !r->seed_drawn || s->temperature == 0 || s->seed != r->seed)
        return;
    cli_say("seed %llu", (unsigned long long)r->seed);
    p->seed_said = true;
}

static void show_text(struct cli_printer *p, const struct cli_answer *a)
{
    const struct span more = {a->text.ptr + p->shown, a->text.len - p->shown};
    if (more.len > 0)
        cli_put_text(more);
    p->shown = a->text.len;
    /* A single request that failed before its first word leaves stdout empty. */
    if (a->done && (a->finish != CLI_ERROR || p->shown > 0 || p->requests->n > 1))
        putchar('\n');
    (void)fflush(stdout);
}

static void finish(struct cli_printer *p, const struct cli_answer *a)
{
    struct err e = {0};
    if (p->json) {
        const int rc = cli_json_print(cli_answer_json(&p->requests->list[p->next], a), false, &e);
        p->rc = p->rc != 0 ? p->rc : rc;
        (void)fflush(stdout);
    }
    if (a->finish == CLI_ERROR && p->requests->n > 1)
        cli_say("request %u failed: %s", p->next + 1, a->error);
    if (a->finish == CLI_ERROR)
        p->failed++;
    else if (!p->quiet)
        say_statistics(p, a);
}

void cli_printer_step(struct cli_printer *p)
{
    while (p->next < p->requests->n) {
        const struct cli_answer *a = &p->answers[p->next];
        if (a->text.len > 0 || (a->done && a->finish != CLI_ERROR))
            say_seed(p);
        if (!p->json && (a->done || a->text.len > p->shown))
            show_text(p, a);
        if (!a->done)
            return;
        finish(p, a);
        p->next++;
        p->shown = 0;
    }
}

int cli_printer_end(struct cli_printer *p, int rc, struct err *e)
{
    if (rc != 0) {
        if (p->shown > 0) {
            putchar('\n');
            (void)fflush(stdout);
        }
        return rc;
    }
    if (p->rc != 0)
        return err_set(e, p->rc, "cannot print the answers as JSON");
    if (p->failed == 0)
        return 0;
    return p->requests->n > 1 ? err_set(e, ERR_REFUSED, "%s", "")
                              : err_set(e, ERR_REFUSED, "%s", p->answers[0].error);
}
