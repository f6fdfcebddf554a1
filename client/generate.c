/* `shoal generate`: one or many requests to a cluster, their text as it comes.
 *
 * The same lines are read and the same objects printed as by `local`, so that the two can be
 * compared. What travels, and what happens when a connection breaks, is told in client/remote.c. An
 * answer that fails does not stop the others; the command's status says that one did. */
#include "client/client.h"

static void print_news(void *arg)
{
    cli_printer_step(arg);
}

static int run(const struct cli_options *o, struct cli_printer *p, struct err *e)
{
    const uint32_t n = p->requests->n;
    struct cli_ask *asks = base_zalloc(n, sizeof *asks);
    struct cli_cluster *c = NULL;
    int rc;
    if (asks == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for %u requests", n);
    for (uint32_t i = 0; i < n; i++) {
        asks[i].request = &p->requests->list[i];
        asks[i].answer = &p->answers[i];
        if (asks[i].request->error[0] != 0)
            cli_answer_fail(asks[i].answer, "%s", asks[i].request->error);
    }
    rc = cli_cluster_open(o, &c, e);
    if (rc == 0)
        rc = cli_remote_run(c, asks, n, print_news, p, e);
    cli_cluster_close(c);
    base_free(asks);
    return rc;
}

int cli_generate(const struct cli_options *o, struct err *e)
{
    struct cli_requests requests = {0};
    struct cli_printer p = {.json = o->json, .quiet = o->quiet};
    int rc = cli_requests_open(o, &requests, e);
    if (rc != 0)
        goto out;
    p.requests = &requests;
    p.answers = base_zalloc(requests.n, sizeof *p.answers);
    rc = p.answers == NULL ? err_set(e, ERR_NOMEM, "out of memory for %u answers", requests.n)
                           : run(o, &p, e);
    if (p.answers != NULL)
        rc = cli_printer_end(&p, rc, e);
out:
    cli_answers_free(p.answers, requests.n);
    cli_requests_close(&requests);
    return rc;
}
