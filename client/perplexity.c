/* `shoal perplexity`: how well a model predicts a text it has not seen.
 *
 * The usual measure, so that numbers can be compared with those of other engines: the text is
 * tokenised once with BOS in front and cut into windows of CTX tokens without overlap, what is left
 * over is dropped; the first token of each window is replaced by BOS (where the model has one); of
 * each window the tokens CTX/2 + 1 to CTX - 1 are scored, each from the logits of the position
 * before it. Perplexity is exp of the mean negative logarithm. Logs are summed in double, in order,
 * so a run is repeatable.
 *
 * Logits are looked at a few rows at a time, so memory does not grow with the window. */
#include "client/client.h"

#include <math.h>

enum { WINDOW = 512 };

struct score {
    const int32_t *ids; /* of the window */
    uint32_t context, n_vocab;
    double sum; /* of log probabilities */
    uint64_t n;
};

static int add_token(void *arg, uint32_t position, const float *logits, struct err *e)
{
    struct score *s = arg;
    (void)e;
    if (position + 1 < s->context) {
        s->sum += model_log_probability(logits, s->n_vocab, s->ids[position + 1]);
        s->n++;
    }
    return 0;
}

static int read_ids(const struct cli_options *o, const struct cli_model *m, int32_t **ids,
                    uint32_t *n, struct err *e)
{
    struct span text = {0};
    uint8_t *bytes = NULL;
    int rc = base_file_read(o->file, CLI_TEXT_BYTES_MAX, &bytes, &text.len, e);
    if (rc != 0)
        return rc;
    text.ptr = bytes;
    rc = cli_encode(m->vocab, text, MODEL_ENCODE_BOS, ids, n, e);
    base_free(bytes);
    return rc;
}

static int score_windows(struct cli_model *m, int32_t *ids, uint32_t n_windows, struct score *s,
                         struct err *e)
{
    const int32_t bos = model_vocab_bos(m->vocab);
    struct base_progress progress;
    int rc = 0;
    base_progress_begin(&progress, "scoring", n_windows);
    for (uint32_t w = 0; w < n_windows && rc == 0; w++) {
        int32_t *window = ids + (size_t)w * s->context;
        if (bos >= 0)
            window[0] = bos;
        s->ids = window;
        rc = cli_model_score(m, window, s->context, s->context / 2, add_token, s, e);
        base_progress_step(&progress, w + 1);
    }
    base_progress_end(&progress);
    return rc;
}

static int print_result(const struct cli_options *o, const struct score *s, double perplexity,
                        struct err *e)
{
    json_t *j;
    int bad;
    if (!o->json) {
        printf("perplexity %.6f  (context %u, %llu tokens scored)\n", perplexity, s->context,
               (unsigned long long)s->n);
        return 0;
    }
    j = json_object();
    bad = json_object_set_new(j, "perplexity", cli_json_number(perplexity));
    bad |= json_object_set_new(j, "context", json_integer(s->context));
    bad |= json_object_set_new(j, "scored_tokens", json_integer((json_int_t)s->n));
    return cli_json_print(j, bad != 0, e);
}

int cli_perplexity(const struct cli_options *o, struct err *e)
{
    struct cli_model *m = NULL;
    struct score s = {0};
    int32_t *ids = NULL;
    uint32_t n = 0;
    int rc = cli_model_open(o->model, &m, e);
    if (rc != 0)
        goto out;
    s.n_vocab = m->shape->n_vocab;
    rc = cli_model_context(m, o, WINDOW, &s.context, e);
    if (rc == 0)
        rc = read_ids(o, m, &ids, &n, e);
    if (rc == 0 && n < s.context)
        rc = err_set(e, ERR_RANGE,
                     "%s has %u tokens, less than a window of %u: use a longer text or a "
                     "smaller -c",
                     o->file, n, s.context);
    if (rc == 0)
        rc = cli_model_load(m, o, 1, s.context, 8, e);
    if (rc == 0)
        rc = score_windows(m, ids, n / s.context, &s, e);
    if (rc == 0)
        rc = print_result(o, &s, exp(-s.sum / (double)s.n), e);
out:
    base_free(ids);
    cli_model_close(m);
    return rc;
}
