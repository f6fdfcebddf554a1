/* `shoal chat`: a conversation, a line of input for each message, with a model in this process or
 * with a cluster.
 *
 * Each turn is a request of its own whose prompt is the whole conversation; the template that stands
 * in the model's file makes tokens of it. That costs nothing, because whoever answers keeps what it
 * has computed and reads on where the new tokens begin (client/batch.c). So a turn can be stopped,
 * dropped or refused, and the conversation is as it was before. Both ways share all but one function.
 *
 * SIGINT during an answer ends that answer, and what there is of it stays in the conversation; while
 * a line is being waited for it ends the command, as SIGTERM always does.
 *
 * Left out: editing of lines, which rlwrap does, and messages of several lines. */
#include "client/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_MS = 200 }; /* between two looks at whether a signal has come */

struct chat {
    const struct cli_options *o;
    struct cli_model *m; /* these two are NULL where a cluster answers */
    struct cli_batch *batch;
    struct base_buf said; /* the conversation, packed */
    struct cli_request request;
    struct cli_answer answer;
    struct cli_requests requests;
    struct cli_printer printer;
    struct base_buf input; /* read and not used */
    bool ended;            /* no more input will come */
    bool failed;           /* a turn has */
};

/* ---- lines ----------------------------------------------------------------------------------- */

static int read_more(struct chat *c, struct err *e)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    uint8_t bytes[4096];
    /* Waiting in short pieces, a signal that comes just before the wait is not missed. */
    while (!cli_interrupted()) {
        const int ready = poll(&p, 1, LOOK_MS);
        if (ready == 0 || (ready < 0 && errno == EINTR))
            continue;
        const ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return err_set(e, ERR_IO, "cannot read the standard input: %s", strerror(errno));
        c->ended = n == 0;
        if (n > 0)
            base_buf_add(&c->input, bytes, (size_t)n);
        return c->input.failed ? err_set(e, ERR_NOMEM, "out of memory for the input") : 0;
    }
    return err_set(e, ERR_CANCELLED, "interrupted");
}

/* The next line without its end, in c->input; *used is what to drop of it afterwards. False: there is
 * none, or *rc says why. */
static bool next_line(struct chat *c, struct span *line, size_t *used, int *rc, struct err *e)
{
    size_t looked = 0;
    *rc = 0;
    for (;;) {
        const uint8_t *end = c->input.len > looked
                                 ? memchr(c->input.ptr + looked, '\n', c->input.len - looked)
                                 : NULL;
        if (end != NULL || (c->ended && c->input.len > 0)) {
            const size_t len = end != NULL ? (size_t)(end - c->input.ptr) : c->input.len;
            *line = (struct span){c->input.ptr, len};
            *used = len + (end != NULL ? 1 : 0);
            if (len > 0 && line->ptr[len - 1] == '\r')
                line->len--;
            return true;
        }
        looked = c->input.len;
        if (c->ended)
            return false;
        if (looked > CLI_PROMPT_BYTES_MAX)
            *rc = err_set(e, ERR_RANGE, "a line has more than %d bytes", CLI_PROMPT_BYTES_MAX);
        else
            *rc = read_more(c, e);
        if (*rc != 0)
            return false;
    }
}

/* ---- turns ----------------------------------------------------------------------------------- */

static int add_message(struct chat *c, enum model_role role, struct span text, struct err *e)
{
    const struct model_message m = {role, text};
    return model_messages_pack(&m, 1, &c->said) == 0
               ? 0
               : err_set(e, ERR_NOMEM, "out of memory for the conversation");
}

/* A conversation with nothing in it but the system message. */
static int reset(struct chat *c, struct err *e)
{
    c->said.len = 0;
    return c->o->system != NULL ? add_message(c, MODEL_ROLE_SYSTEM, base_span_str(c->o->system), e)
                                : 0;
}

static void print_news(void *arg)
{
    cli_printer_step(arg);
}

/* A connection to a cluster lasts one turn: nobody looks after it while a person thinks. */
static int ask_cluster(struct chat *c, struct err *e)
{
    struct cli_ask one = {.request = &c->request, .answer = &c->answer};
    struct cli_cluster *cluster = NULL;
    int rc = cli_cluster_open(c->o, &cluster, e);
    if (rc == 0)
        rc = cli_remote_run(cluster, &one, 1, print_news, &c->printer, e);
    cli_cluster_close(cluster);
    return rc;
}

static int ask(struct chat *c, struct err *e)
{
    return c->batch != NULL ? cli_batch_run(c->batch, &c->printer, e) : ask_cluster(c, e);
}

/* Was it the context that ended the answer, and not -n? */
static bool context_ended_it(const struct chat *c)
{
    return c->answer.finish == CLI_LENGTH && c->answer.tokens.len / sizeof(int32_t) < c->request.n;
}

static int turn(struct chat *c, struct span text, struct err *e)
{
    const size_t before = c->said.len;
    int rc = add_message(c, MODEL_ROLE_USER, text, e);
    bool stopped;
    if (rc != 0)
        return rc;
    c->request.prompt = (struct span){c->said.ptr, c->said.len};
    c->answer.tokens.len = c->answer.text.len = 0;
    c->answer = (struct cli_answer){.tokens = c->answer.tokens, .text = c->answer.text};
    c->printer.next = 0;
    c->printer.shown = 0;
    rc = ask(c, e);
    stopped = rc == ERR_CANCELLED && cli_interrupt_take();
    if (rc != 0 && !stopped)
        return cli_printer_end(&c->printer, rc, e);
    if (stopped) {
        (void)cli_printer_end(&c->printer, rc, e);
        cli_say("stopped");
    } else if (c->answer.finish == CLI_ERROR) {
        cli_say("%s (this message is dropped; /reset starts a new conversation)", c->answer.error);
        c->failed = true;
    } else if (context_ended_it(c)) {
        cli_say("the context is full, so the answer ends here: /reset starts a new conversation");
    }
    if (c->answer.text.len > 0 && c->answer.finish != CLI_ERROR)
        return add_message(c, MODEL_ROLE_ASSISTANT,
                           (struct span){c->answer.text.ptr, c->answer.text.len}, e);
    c->said.len = before;
    return 0;
}

static int talk(struct chat *c, struct err *e)
{
    const bool person = isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1;
    int rc = reset(c, e);
    bool going = true;
    while (rc == 0 && going) {
        struct span line;
        size_t used = 0;
        if (person) {
            fputs("> ", stdout);
            (void)fflush(stdout);
        }
        if (!next_line(c, &line, &used, &rc, e))
            break;
        if (base_span_is(line, "/exit"))
            going = false;
        else if (base_span_is(line, "/reset"))
            rc = reset(c, e);
        else if (!cli_utf8_ok(line))
            cli_say("that line is not UTF-8");
        else if (line.len > 0)
            rc = turn(c, line, e);
        memmove(c->input.ptr, c->input.ptr + used, c->input.len - used);
        c->input.len -= used;
    }
    /* To interrupt at the prompt is how some people leave. */
    if (rc == ERR_CANCELLED && cli_interrupt_take())
        rc = 0;
    if (person && going)
        putchar('\n');
    return rc;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* A model that cannot chat is told before its weights are loaded. */
static int open_model(struct chat *c, struct err *e)
{
    const struct model_chat *family;
    uint32_t context = 0;
    int rc = cli_model_open(c->o->model, &c->m, e);
    if (rc == 0)
        rc = model_chat_find(model_gguf(c->m->model), &family, e);
    if (rc == 0)
        rc = cli_model_context(c->m, c->o, CLI_CONTEXT_MAX, &context, e);
    if (rc == 0)
        rc = cli_model_load(c->m, c->o, 1, context, 1, e);
    if (rc == 0)
        rc = cli_batch_new(c->m, &c->batch, e);
    if (rc == 0)
        base_log(BASE_LOG_DEBUG, "chat", "template=%s context=%u", model_chat_name(family),
                 context);
    return rc;
}

static void open_requests(struct chat *c)
{
    const struct cli_options *o = c->o;
    c->request = (struct cli_request){
        .form = NET_PROMPT_CHAT, .n = o->n, .sampling = o->sampling, .n_stops = o->n_stops};
    memcpy(c->request.stops, o->stops, sizeof c->request.stops);
    if ((o->given & CLI_BIT(SEED)) == 0) {
        uint32_t seed;
        net_random(&seed, sizeof seed);
        c->request.sampling.seed = seed;
        c->requests.seed_drawn = true;
    }
    c->requests.list = &c->request;
    c->requests.n = 1;
    c->requests.seed = c->request.sampling.seed;
    c->printer =
        (struct cli_printer){.requests = &c->requests, .answers = &c->answer, .quiet = o->quiet};
}

int cli_chat(const struct cli_options *o, struct err *e)
{
    struct chat c = {.o = o};
    int rc;
    if ((o->model != NULL) == (o->config != NULL))
        return err_set(e, ERR_USAGE, "say whom to talk with, with either -m GGUF or -c FILE");
    if (o->system != NULL && !cli_utf8_ok(base_span_str(o->system)))
        return err_set(e, ERR_USAGE, "--system: the text is not UTF-8");
    open_requests(&c);
    rc = o->model != NULL ? open_model(&c, e) : 0;
    if (rc == 0)
        rc = talk(&c, e);
    if (rc == 0 && c.failed)
        rc = err_set(e, ERR_REFUSED, "%s", ""); /* each turn has said why */
    cli_batch_free(c.batch);
    cli_model_close(c.m);
    base_buf_deinit(&c.said);
    base_buf_deinit(&c.input);
    base_buf_deinit(&c.answer.tokens);
    base_buf_deinit(&c.answer.text);
    return rc;
}
