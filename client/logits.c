/* `shoal logits`: a summary of the logits at every position of a text, from a file or from a
 * cluster.
 *
 * Mean, root mean square and the eight best show how two engines differ; the hash shows whether two
 * runs of this one agree in every bit. Both ways fill the same list of positions and print it by
 * the same code, so the outputs of -m and -c are equal where the numbers are. With -c only these
 * summaries travel. */
#include "client/client.h"

#include <string.h>

struct collect {
    const int32_t *ids;
    uint32_t n_vocab;
    struct base_buf *positions;
};

static int add_position(void *arg, uint32_t position, const float *logits, struct err *e)
{
    const struct collect *c = arg;
    struct cli_position p = {.token = c->ids[position]};
    model_logits_summarise(logits, c->n_vocab, &p.s);
    net_hash16((struct span){(const uint8_t *)logits, c->n_vocab * sizeof *logits}, p.hash);
    base_buf_add(c->positions, &p, sizeof p);
    return c->positions->failed ? err_set(e, ERR_NOMEM, "out of memory for the summaries") : 0;
}

static int from_file(const struct cli_options *o, struct base_buf *positions, struct err *e)
{
    const unsigned flags = MODEL_ENCODE_BOS | (o->special ? MODEL_ENCODE_SPECIAL : 0u);
    struct cli_model *m = NULL;
    int32_t *ids = NULL;
    uint32_t n = 0;
    int rc = cli_model_open(o->model, &m, e);
    if (rc == 0)
        rc = cli_encode(m->vocab, base_span_str(o->prompt), flags, &ids, &n, e);
    if (rc == 0 && n == 0)
        rc = err_set(e, ERR_RANGE, "the prompt is empty");
    if (rc == 0 && n > MODEL_CONTEXT_MAX)
        rc = err_set(e, ERR_RANGE, "the prompt has %u tokens, at most %d are taken", n,
                     MODEL_CONTEXT_MAX);
    if (rc == 0)
        rc = cli_model_load(m, o, 1, n, 8, e);
    if (rc == 0) {
        struct collect c = {ids, m->shape->n_vocab, positions};
        rc = cli_model_score(m, ids, n, 0, add_position, &c, e);
    }
    base_free(ids);
    cli_model_close(m);
    return rc;
}

static void note_progress(void *arg)
{
    const struct cli_ask *a = arg;
    cli_note("%zu positions", a->positions->len / sizeof(struct cli_position));
}

static int from_cluster(const struct cli_options *o, struct base_buf *positions, struct err *e)
{
    struct cli_request request = {.prompt = base_span_str(o->prompt),
                                  .form = o->special ? NET_PROMPT_SPECIAL : NET_PROMPT_TEXT,
                                  .sampling = model_sampling_default()};
    struct cli_answer *answer = base_zalloc(1, sizeof *answer);
    struct cli_ask ask = {.request = &request, .answer = answer, .positions = positions};
    struct cli_cluster *c = NULL;
    int rc = answer == NULL ? err_set(e, ERR_NOMEM, "out of memory for the answer") : 0;
    if (rc == 0)
        rc = cli_cluster_open(o, &c, e);
    if (rc == 0)
        rc = cli_remote_run(c, &ask, 1, note_progress, &ask, e);
    if (rc == 0 && answer->finish == CLI_ERROR)
        rc = err_set(e, ERR_REFUSED, "%s", answer->error);
    cli_note("%s", "");
    cli_cluster_close(c);
    cli_answers_free(answer, 1);
    return rc;
}

/* ---- printing -------------------------------------------------------------------------------- */

static json_t *position_json(const struct cli_position *p, int *bad)
{
    json_t *o = json_object(), *best = json_array();
    char hash[33];
    net_hex(p->hash, sizeof p->hash, hash);
    for (int i = 0; i < MODEL_BEST && p->s.ids[i] >= 0; i++) {
        json_t *pair = json_array();
        *bad |= json_array_append_new(pair, json_integer(p->s.ids[i]));
        *bad |= json_array_append_new(pair, cli_json_number((double)p->s.values[i]));
        *bad |= json_array_append_new(best, pair);
    }
    *bad |= json_object_set_new(o, "mean", cli_json_number(p->s.mean));
    *bad |= json_object_set_new(o, "rms", cli_json_number(p->s.rms));
    *bad |= json_object_set_new(o, "best", best);
    *bad |= json_object_set_new(o, "hash", json_string(hash));
    return o;
}

static int print_json(const char *text, const struct cli_position *list, size_t n, struct err *e)
{
    json_t *o = json_object(), *ids = json_array(), *top = json_array();
    int bad = json_object_set_new(o, "text", cli_json_text(base_span_str(text)));
    for (size_t i = 0; i < n; i++) {
        bad |= json_array_append_new(ids, json_integer(list[i].token));
        bad |= json_array_append_new(top, position_json(&list[i], &bad));
    }
    bad |= json_object_set_new(o, "ids", ids);
    bad |= json_object_set_new(o, "top", top);
    return cli_json_print(o, bad != 0, e);
}

static void print_table(const struct cli_position *list, size_t n)
{
    printf("%8s %8s %12s %12s  %-32s  best\n", "position", "token", "mean", "rms", "hash");
    for (size_t i = 0; i < n; i++) {
        char hash[33];
        net_hex(list[i].hash, sizeof list[i].hash, hash);
        printf("%8zu %8d %12.6f %12.6f  %s ", i, list[i].token, list[i].s.mean, list[i].s.rms,
               hash);
        for (int k = 0; k < MODEL_BEST && list[i].s.ids[k] >= 0; k++)
            printf(" %d:%.5f", list[i].s.ids[k], (double)list[i].s.values[k]);
        putchar('\n');
    }
}

int cli_logits(const struct cli_options *o, struct err *e)
{
    const uint64_t ours = CLI_BIT(THREADS) | CLI_BIT(KERNELS) | CLI_BIT(KV) | CLI_BIT(NUMERICS) |
                          CLI_BIT(CHUNK);
    struct base_buf positions = {0};
    int rc;
    if ((o->model != NULL) == (o->config != NULL))
        return err_set(e, ERR_USAGE, "say where to compute, with either -m GGUF or -c FILE");
    if (o->config != NULL && (o->given & ours) != 0)
        return err_set(e, ERR_USAGE,
                       "-t, --kernels, --kv and --chunk go with -m; with -c the "
                       "configuration says them");
    if (!cli_utf8_ok(base_span_str(o->prompt)))
        return err_set(e, ERR_USAGE, "-p: the prompt is not UTF-8");
    rc = o->model != NULL ? from_file(o, &positions, e) : from_cluster(o, &positions, e);
    if (rc == 0) {
        const struct cli_position *list = (const void *)positions.ptr;
        const size_t n = positions.len / sizeof *list;
        if (o->json)
            rc = print_json(o->prompt, list, n, e);
        else
            print_table(list, n);
    }
    base_buf_deinit(&positions);
    return rc;
}
