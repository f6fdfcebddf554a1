/* The coordinator's reader under test: each form of a prompt gives the ids that the tokenizer and
 * the chat template give, in the order in which prompts were posted; what cannot be read says why;
 * what nobody collects is freed. */
#include "coordinator/shell.h"
#include "tests/unit/tiny_model.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CONTEXT = 60 };

struct lab {
    struct model *model;
    struct vocab *vocab;
    struct coord_reader *reader;
};

static void put_template(struct gguf_writer *w, void *arg)
{
    model_gguf_put_string(w, "tokenizer.chat_template", base_span_str(arg));
}

/* A tiny model, with this template or without one. */
static void open_lab(struct lab *l, const char *template)
{
    static char text[200];
    struct tiny_model t = tiny_model_default(KERN_F32);
    struct err e = {0};
    if (template != NULL) {
        snprintf(text, sizeof text, "%s", template);
        t.keys = put_template;
        t.arg = text;
    }
    if (tiny_model_open(&t, &l->model, &e) != 0 ||
        model_vocab_open(model_gguf(l->model), &l->vocab, &e) != 0 ||
        coord_reader_new(l->model, l->vocab, CONTEXT, &l->reader, &e) != 0)
        fail_msg("%s", e.text);
}

static void close_lab(struct lab *l)
{
    coord_reader_free(l->reader);
    model_vocab_close(l->vocab);
    model_close(l->model);
}

static void post(struct lab *l, uint64_t serial, enum net_prompt form, struct span prompt)
{
    const struct net_msg_SUBMIT m = {.form = (uint32_t)form, .prompt = prompt};
    assert_int_equal(coord_reader_post(l->reader, serial, &m, NULL), 0);
}

static struct coord_reading *next(struct lab *l, uint64_t serial)
{
    struct pollfd p = {.fd = coord_reader_fd(l->reader), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 60000), 1);
    struct coord_reading *r = coord_reader_reap(l->reader);
    assert_non_null(r);
    assert_true(r->serial == serial);
    return r;
}

static void expect_ids(struct lab *l, uint64_t serial, const int32_t *ids, size_t n)
{
    struct coord_reading *r = next(l, serial);
    assert_int_equal(r->rc, 0);
    assert_int_equal(r->n, n);
    assert_memory_equal(r->ids, ids, n * sizeof *ids);
    coord_reader_done(r);
}

static void expect_error(struct lab *l, uint64_t serial, int code, const char *word)
{
    struct coord_reading *r = next(l, serial);
    assert_int_equal(r->rc, code);
    if (strstr(r->e.text, word) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", r->e.text, word);
    coord_reader_done(r);
}

static const char chat_template[] =
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ message['content'] + eos_token }}";

static void each_form_gives_its_ids(void **state)
{
    static const struct model_message talk[] = {{MODEL_ROLE_USER, {(const uint8_t *)"ab </s>", 7}},
                                                {MODEL_ROLE_ASSISTANT, {(const uint8_t *)"c", 1}},
                                                {MODEL_ROLE_USER, {(const uint8_t *)"", 0}}};
    const struct span text = base_span_str("a b</s>");
    const int64_t live = base_alloc_live();
    int32_t plain[CONTEXT], special[CONTEXT], chat_ids[CONTEXT];
    const struct model_chat *chat;
    struct base_buf packed = {0};
    size_t n_plain, n_special, n_chat;
    struct lab l;
    (void)state;
    open_lab(&l, chat_template);
    assert_int_equal(
        model_vocab_encode(l.vocab, text, MODEL_ENCODE_BOS, plain, CONTEXT, &n_plain, NULL), 0);
    assert_int_equal(model_vocab_encode(l.vocab, text, MODEL_ENCODE_BOS | MODEL_ENCODE_SPECIAL,
                                        special, CONTEXT, &n_special, NULL),
                     0);
    assert_true(n_special < n_plain);
    assert_int_equal(model_chat_find(model_gguf(l.model), &chat, NULL), 0);
    assert_int_equal(model_chat_encode(chat, l.vocab, talk, 3, chat_ids, CONTEXT, &n_chat, NULL),
                     0);
    assert_int_equal(model_messages_pack(talk, 3, &packed), 0);
    post(&l, 7, NET_PROMPT_TEXT, text);
    post(&l, 9, NET_PROMPT_CHAT, (struct span){packed.ptr, packed.len});
    post(&l, 3, NET_PROMPT_SPECIAL, text);
    packed.ptr[0] = 0xff; /* the reader has its own copy */
    base_buf_deinit(&packed);
    expect_ids(&l, 7, plain, n_plain);
    expect_ids(&l, 9, chat_ids, n_chat);
    expect_ids(&l, 3, special, n_special);
    assert_null(coord_reader_reap(l.reader));
    close_lab(&l);
    assert_int_equal(base_alloc_live(), live);
}

/* Beyond the context the number is what counts: who refuses the prompt says it. */
static void too_long_a_prompt_is_counted(void **state)
{
    char text[CONTEXT * 3];
    struct coord_reading *r;
    struct lab l;
    (void)state;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('0' + (i * 7 + i / 3) % 10);
    open_lab(&l, NULL);
    post(&l, 1, NET_PROMPT_TEXT, (struct span){(const uint8_t *)text, sizeof text});
    r = next(&l, 1);
    assert_int_equal(r->rc, 0);
    assert_true(r->n > CONTEXT);
    coord_reader_done(r);
    close_lab(&l);
}

static void what_cannot_be_read_says_why(void **state)
{
    static const uint8_t half[] = {MODEL_ROLE_USER, 5, 0, 0, 0, 'a'};
    static const uint8_t answer[] = {MODEL_ROLE_ASSISTANT, 1, 0, 0, 0, 'a'};
    const struct span one = {answer, sizeof answer};
    struct lab l;
    (void)state;
    open_lab(&l, chat_template);
    post(&l, 1, NET_PROMPT_CHAT, (struct span){half, sizeof half});
    post(&l, 2, NET_PROMPT_CHAT, one);
    post(&l, 3, NET_PROMPT_CHAT, (struct span){0});
    post(&l, 4, (enum net_prompt)3, base_span_str("a"));
    expect_error(&l, 1, ERR_FORMAT, "malformed");
    expect_error(&l, 2, ERR_FORMAT, "no words");
    expect_error(&l, 3, ERR_FORMAT, "no message");
    expect_error(&l, 4, ERR_UNSUPPORTED, "form 3");
    close_lab(&l);
    open_lab(&l, NULL);
    post(&l, 1, NET_PROMPT_CHAT, one);
    expect_error(&l, 1, ERR_NOTFOUND, "no conversations with this model");
    close_lab(&l);
    open_lab(&l, "{{ an unheard of template }}");
    post(&l, 1, NET_PROMPT_CHAT, one);
    expect_error(&l, 1, ERR_UNSUPPORTED, "no conversations with this model");
    close_lab(&l);
}

static void nothing_is_left_behind(void **state)
{
    const int64_t live = base_alloc_live();
    struct lab l;
    (void)state;
    open_lab(&l, NULL);
    for (uint64_t i = 0; i < 50; i++)
        post(&l, i, NET_PROMPT_TEXT, base_span_str("a prompt that nobody waits for"));
    close_lab(&l);
    assert_int_equal(base_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_form_gives_its_ids),
        cmocka_unit_test(too_long_a_prompt_is_counted),
        cmocka_unit_test(what_cannot_be_read_says_why),
        cmocka_unit_test(nothing_is_left_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
