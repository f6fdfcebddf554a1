/* Slots that keep what they hold: a request that goes on where another ended gives the answer that it
 * gives alone, and reads only what is new. */
#include "client/client.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct cli_model *model;

static const char story[] = "In the beginning God created the heaven and the earth. And the earth "
                            "was without form, and void; and darkness was upon the face";

static int load(void **state)
{
    const char *dir = getenv("SHOAL_SRCDIR");
    const struct cli_options o = {.kv = KERN_KV_F16, .threads = 2, .chunk = 16};
    char path[4096];
    struct err e = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/models/shoal-demo-7m-q8_0.gguf", dir != NULL ? dir : ".");
    if (cli_model_open(path, &model, &e) != 0 || cli_model_load(model, &o, 2, 128, 2, &e) != 0)
        fail_msg("%s", e.text);
    return 0;
}

static int unload(void **state)
{
    (void)state;
    cli_model_close(model);
    return 0;
}

static struct cli_batch *fresh(void)
{
    struct cli_batch *b;
    struct err e = {0};
    assert_int_equal(cli_batch_new(model, &b, &e), 0);
    return b;
}

/* What is printed would stand in the middle of the test's report. */
static int run(struct cli_batch *b, struct cli_printer *p, struct err *e)
{
    const int out = dup(STDOUT_FILENO), nothing = open("/dev/null", O_WRONLY);
    (void)fflush(stdout);
    assert_true(out >= 0 && nothing >= 0 && dup2(nothing, STDOUT_FILENO) >= 0);
    const int rc = cli_batch_run(b, p, e);
    (void)fflush(stdout);
    assert_true(dup2(out, STDOUT_FILENO) >= 0);
    close(out);
    close(nothing);
    return rc;
}

/* The answer to the first `len` bytes of the story and `more`. */
static struct cli_answer ask(struct cli_batch *b, size_t len, const char *more, uint32_t n)
{
    char prompt[400];
    struct cli_request r = {.n = n, .sampling = model_sampling_default()};
    struct cli_requests list = {.list = &r, .n = 1};
    struct cli_answer a = {0};
    struct cli_printer p = {.requests = &list, .answers = &a, .json = true, .quiet = true};
    struct err e = {0};
    snprintf(prompt, sizeof prompt, "%.*s%s", (int)len, story, more);
    r.prompt = base_span_str(prompt);
    r.sampling.temperature = 1;
    r.sampling.seed = 3;
    if (run(b, &p, &e) != 0 || !a.done || a.finish == CLI_ERROR)
        fail_msg("%s%s", e.text, a.error);
    return a;
}

static void let_go(struct cli_answer *a)
{
    base_buf_deinit(&a->tokens);
    base_buf_deinit(&a->text);
}

/* `a` is what the same request gives alone. */
static void expect_alone(const struct cli_answer *a, size_t len, const char *more, uint32_t n)
{
    struct cli_batch *b = fresh();
    struct cli_answer alone = ask(b, len, more, n);
    assert_int_equal(alone.reused_tokens, 0);
    assert_int_equal(a->prompt_tokens, alone.prompt_tokens);
    assert_int_equal(a->tokens.len, alone.tokens.len);
    assert_memory_equal(a->tokens.ptr, alone.tokens.ptr, alone.tokens.len);
    let_go(&alone);
    cli_batch_free(b);
}

static void test_goes_on(void **state)
{
    (void)state;
    struct cli_batch *b = fresh();
    struct cli_answer first = ask(b, 60, "", 12), again, next;
    char more[200];
    assert_int_equal(first.reused_tokens, 0);
    /* The same once more: all but the row whose logits are needed. */
    again = ask(b, 60, "", 12);
    assert_int_equal(again.reused_tokens, again.prompt_tokens - 1);
    expect_alone(&again, 60, "", 12);
    /* A text that goes on from the answer. */
    snprintf(more, sizeof more, "%.*s And so", (int)first.text.len, (const char *)first.text.ptr);
    next = ask(b, 60, more, 12);
    assert_true(next.reused_tokens >= first.prompt_tokens);
    expect_alone(&next, 60, more, 12);
    cli_batch_free(b);
    /* One that leaves it early, in the middle of what the slot holds. */
    b = fresh();
    let_go(&first);
    first = ask(b, 60, "", 4);
    let_go(&next);
    next = ask(b, 50, " a serpent", 12);
    assert_in_range(next.reused_tokens, 5, first.prompt_tokens - 1);
    expect_alone(&next, 50, " a serpent", 12);
    let_go(&first);
    let_go(&again);
    let_go(&next);
    cli_batch_free(b);
}

/* Two slots: another text takes the one that holds less, and both are there to go on with. */
static void test_takes_the_slot_that_agrees(void **state)
{
    (void)state;
    struct cli_batch *b = fresh();
    struct cli_answer a = ask(b, 100, "", 4), other, back;
    other = ask(b, 0, "The Jargon File says that a hacker is", 4);
    assert_true(other.reused_tokens <= 1); /* the begin-of-text token, at most */
    back = ask(b, 100, "", 4);
    assert_int_equal(back.reused_tokens, back.prompt_tokens - 1);
    assert_memory_equal(back.tokens.ptr, a.tokens.ptr, a.tokens.len);
    let_go(&back);
    back = ask(b, 0, "The Jargon File says that a hacker is", 4);
    assert_int_equal(back.reused_tokens, back.prompt_tokens - 1);
    assert_memory_equal(back.tokens.ptr, other.tokens.ptr, other.tokens.len);
    let_go(&back);
    let_go(&other);
    let_go(&a);
    cli_batch_free(b);
}

static void test_refused_requests_leave_the_slot(void **state)
{
    (void)state;
    struct cli_batch *b = fresh();
    struct cli_answer a = ask(b, 60, "", 4), back;
    char prompt[1200];
    struct cli_request r = {.n = 4, .sampling = model_sampling_default()};
    struct cli_requests list = {.list = &r, .n = 1};
    struct cli_answer refused = {0};
    struct cli_printer p = {.requests = &list, .answers = &refused, .json = true, .quiet = true};
    struct err e = {0};
    memset(prompt, 'x', sizeof prompt);
    r.prompt = (struct span){(const uint8_t *)prompt, sizeof prompt};
    assert_int_equal(run(b, &p, &e), 0);
    assert_int_equal(refused.finish, CLI_ERROR);
    assert_non_null(strstr(refused.error, "a slot 128 positions"));
    r.form = NET_PROMPT_CHAT;
    r.prompt.len = 0;
    refused.done = false;
    p.next = 0;
    assert_int_equal(run(b, &p, &e), 0);
    assert_non_null(strstr(refused.error, "no chat template"));
    back = ask(b, 60, "", 4);
    assert_int_equal(back.reused_tokens, back.prompt_tokens - 1);
    let_go(&back);
    let_go(&a);
    cli_batch_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_takes_the_slot_that_agrees),
        cmocka_unit_test(test_refused_requests_leave_the_slot),
    };
    return cmocka_run_group_tests_name("batch", tests, load, unload);
}
