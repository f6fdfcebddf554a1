/* Sends a conversation as one, also such as `shoal chat` never makes.
 *
 *   converse -c FILE|-m GGUF N R:TEXT...
 *
 * N tokens in answer to messages (R: s, u or a, who speaks), from a cluster or from this process:
 * text, number of the prompt's tokens, ids; or the error and status 1. Sampling is greedy. Left
 * out: anything a person would want. */
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

enum { MESSAGES_MAX = 16, CONTEXT = 512, ROWS = 64 };

static void print_news(void *arg)
{
    cli_printer_step(arg);
}

static int from_cluster(const struct cli_options *o, struct cli_printer *p, struct err *e)
{
    struct cli_ask ask = {.request = p->requests->list, .answer = p->answers};
    struct cli_cluster *c = NULL;
    int rc = cli_cluster_open(o, &c, e);
    if (rc == 0)
        rc = cli_remote_run(c, &ask, 1, print_news, p, e);
    cli_cluster_close(c);
    return rc;
}

static int from_here(const struct cli_options *o, struct cli_printer *p, struct err *e)
{
    struct cli_model *m = NULL;
    struct cli_batch *b = NULL;
    int rc = cli_model_open(o->model, &m, e);
    if (rc == 0)
        rc = cli_model_load(m, o, 1, CONTEXT, 1, e);
    if (rc == 0)
        rc = cli_batch_new(m, &b, e);
    if (rc == 0)
        rc = cli_batch_run(b, p, e);
    cli_batch_free(b);
    cli_model_close(m);
    return rc;
}

static int pack(char **argv, int n, struct base_buf *packed, struct err *e)
{
    static const char roles[] = "sua";
    struct model_message list[MESSAGES_MAX];
    for (int i = 0; i < n; i++) {
        const char *role = strchr(roles, argv[i][0]);
        if (i == MESSAGES_MAX || role == NULL || *role == 0 || argv[i][1] != ':')
            return err_set(e, ERR_USAGE, "not a message: %s", argv[i]);
        list[i] =
            (struct model_message){(enum model_role)(role - roles), base_span_str(argv[i] + 2)};
    }
    return model_messages_pack(list, (size_t)n, packed);
}

static int ask(char **argv, int n, struct err *e)
{
    struct cli_options o = {.key = "client", .chunk = ROWS, .sampling = model_sampling_default()};
    struct cli_request r = {.form = NET_PROMPT_CHAT, .sampling = o.sampling};
    struct cli_answer a = {0};
    struct cli_requests requests = {.list = &r, .n = 1};
    struct cli_printer p = {.requests = &requests, .answers = &a, .quiet = true};
    struct base_buf packed = {0};
    const bool cluster = strcmp(argv[0], "-c") == 0;
    int rc = pack(argv + 3, n - 3, &packed, e);
    o.config = o.model = argv[1];
    r.prompt = (struct span){packed.ptr, packed.len};
    r.n = (uint32_t)strtoul(argv[2], NULL, 10);
    r.sampling.temperature = 0;
    if (rc == 0)
        rc = cli_printer_end(&p, cluster ? from_cluster(&o, &p, e) : from_here(&o, &p, e), e);
    printf("prompt_tokens %u\n", a.prompt_tokens);
    for (size_t i = 0; rc == 0 && i < a.tokens.len / sizeof(int32_t); i++)
        printf("%d ", ((const int32_t *)(const void *)a.tokens.ptr)[i]);
    puts("");
    fprintf(stderr, "reused_tokens %u\n", a.reused_tokens);
    base_buf_deinit(&packed);
    base_buf_deinit(&a.tokens);
    base_buf_deinit(&a.text);
    return rc;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    int rc = net_init(&e);
    if (rc == 0 && argc > 4)
        rc = ask(argv + 1, argc - 1, &e);
    else if (rc == 0)
        rc = err_set(&e, ERR_USAGE, "converse -c FILE|-m GGUF N R:TEXT...");
    if (rc != 0)
        puts(e.text);
    return rc != 0;
}
