/* `shoal local`: the reference. One process answers requests with the whole model, as a cluster
 * does with its parts; what it prints is what a cluster must print, byte for byte.
 *
 * Several requests (--prompts) run in slots side by side, at most CLI_LOCAL_SLOTS; the others wait
 * for a slot, in order. Weights are loaded once, before the first request's clock starts. The work
 * is done in client/batch.c. Left out: a conversation, which is client/chat.c. */
#include "client/client.h"

int cli_local(const struct cli_options *o, struct err *e)
{
    struct cli_requests requests = {0};
    struct cli_model *m = NULL;
    struct cli_batch *b = NULL;
    struct cli_printer p = {.json = o->json, .quiet = o->quiet};
    uint32_t context = 0, slots;
    int rc = cli_requests_open(o, &requests, e);
    if (rc != 0)
        goto out;
    slots = requests.n < CLI_LOCAL_SLOTS ? requests.n : CLI_LOCAL_SLOTS;
    p.requests = &requests;
    p.answers = base_zalloc(requests.n, sizeof *p.answers);
    if (p.answers == NULL) {
        rc = err_set(e, ERR_NOMEM, "out of memory for %u answers", requests.n);
        goto out;
    }
    rc = cli_model_open(o->model, &m, e);
    if (rc == 0)
        rc = cli_model_context(m, o, CLI_CONTEXT_MAX, &context, e);
    if (rc == 0)
        rc = cli_model_load(m, o, slots, context, slots, e);
    if (rc == 0)
        rc = cli_batch_new(m, &b, e);
    if (rc == 0)
        rc = cli_batch_run(b, &p, e);
    if (p.answers != NULL)
        rc = cli_printer_end(&p, rc, e);
out:
    cli_batch_free(b);
    cli_model_close(m);
    cli_answers_free(p.answers, requests.n);
    cli_requests_close(&requests);
    return rc;
}
