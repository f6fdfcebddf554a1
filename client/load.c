/* A whole model in this process: the reference that a cluster is measured against.
 *
 * The same pieces that workers are shipped are packed from the file (client/weights.c), and the
 * executor gets the slice that holds everything. So this is a cluster's code with nothing between
 * its parts, and its results are the ones that any cut must give bit for bit. */
#include "client/client.h"

#include <unistd.h>

enum { SCORE_ROWS = 8 }; /* rows whose logits are there at once when a text is scored */

int cli_model_open(const char *path, struct cli_model **out, struct err *e)
{
    struct cli_model *m = base_zalloc(1, sizeof *m);
    int rc;
    if (m == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for %s", path);
    rc = model_open(path, &m->model, e);
    if (rc == 0)
        rc = model_vocab_open(model_gguf(m->model), &m->vocab, e);
    if (rc == 0)
        m->shape = model_shape(m->model);
    if (rc == 0 && model_vocab_size(m->vocab) > m->shape->n_vocab)
        rc = err_set(e, ERR_FORMAT, "%s: the tokenizer has %u tokens, the embedding %u rows", path,
                     model_vocab_size(m->vocab), m->shape->n_vocab);
    if (rc != 0) {
        cli_model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

int cli_model_context(const struct cli_model *m, const struct cli_options *o, uint32_t most,
                      uint32_t *out, struct err *e)
{
    const uint32_t own = m->shape->context;
    *out = o->context != 0 ? o->context : own < most ? own : most;
    if (*out > own)
        return err_set(e, ERR_RANGE,
                       "a context of %u is more than the %u positions that the model was "
                       "trained for",
                       *out, own);
    return 0;
}

void cli_model_close(struct cli_model *m)
{
    if (m == NULL)
        return;
    model_exec_free(m->exec);
    base_arena_free(m->weights);
    base_free(m->pieces);
    base_free(m->hidden);
    base_free(m->logits);
    model_vocab_close(m->vocab);
    model_close(m->model);
    base_free(m);
}

unsigned cli_threads(const struct cli_options *o)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (o->threads != 0)
        return o->threads;
    return cores < 1 ? 1 : cores > 256 ? 256 : (unsigned)cores;
}

int cli_model_load(struct cli_model *m, const struct cli_options *o, uint32_t n_slots,
                   uint32_t context, uint32_t n_logits, struct err *e)
{
    const struct model_slice slice = model_slice_layers(m->model, 0, m->shape->n_layers);
    const uint32_t rows = o->chunk + n_slots;
    size_t logits = 0;
    m->config = (struct model_exec_config){
        .n_slots = n_slots,
        .context = context,
        .max_rows = rows < MODEL_ROWS_MAX ? rows : MODEL_ROWS_MAX,
        .kv = o->kv,
        .n_threads = cli_threads(o),
        .kernels = o->kernels != NULL ? o->kernels : kern_table_select(NULL),
        .fast = o->fast,
    };
    int rc = o->fast ? kern_fast_open(e) : 0;
    if (rc == 0)
        rc = cli_weights_pack(m, e);
    if (rc != 0)
        return rc;
    base_log(BASE_LOG_DEBUG, "loaded", "kernels=%s threads=%u slots=%u context=%u rows=%u",
             m->config.kernels->name, m->config.n_threads, n_slots, context, m->config.max_rows);
    m->chunk = o->chunk;
    m->n_logits = n_logits;
    m->hidden = base_zalloc(m->config.max_rows, m->shape->n_embd * sizeof(float));
    if (base_mul(n_logits, m->shape->n_vocab, &logits))
        m->logits = base_zalloc(logits, sizeof(float));
    if (m->hidden == NULL || m->logits == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the logits of %u rows", n_logits);
    return model_exec_new(m->model, &slice, &m->config, cli_weights_piece, m, &m->exec, e);
}

/* Ids of a text or of a conversation: what `encode` makes of `what`, in a list of the right length. */
struct encoding {
    int (*encode)(const struct encoding *x, int32_t *ids, size_t max, size_t *n, struct err *e);
    const struct vocab *v;
    struct span text; /* a text and its flags, or a conversation and its template */
    unsigned flags;
    const struct model_chat *chat;
    const struct model_message *messages;
    size_t n_messages;
};

static int encode_text(const struct encoding *x, int32_t *ids, size_t max, size_t *n, struct err *e)
{
    return model_vocab_encode(x->v, x->text, x->flags, ids, max, n, e);
}

static int encode_chat(const struct encoding *x, int32_t *ids, size_t max, size_t *n, struct err *e)
{
    return model_chat_encode(x->chat, x->v, x->messages, x->n_messages, ids, max, n, e);
}

static int encode(const struct encoding *x, int32_t **ids, uint32_t *n, struct err *e)
{
    size_t count = 0;
    /* The first try says how many there are where the guess of one a byte is too low. */
    size_t max = x->text.len + 16;
    int rc = ERR_RANGE;
    for (int attempt = 0; attempt < 2 && rc == ERR_RANGE; attempt++) {
        int32_t *list = base_zalloc(max, sizeof *list);
        if (list == NULL)
            return err_set(e, ERR_NOMEM, "out of memory for the tokens of the text");
        rc = x->encode(x, list, max, &count, e);
        if (rc == 0) {
            *ids = list;
            *n = (uint32_t)count;
            return 0;
        }
        base_free(list);
        max = count;
    }
    return rc;
}

int cli_encode(const struct vocab *v, struct span text, unsigned flags, int32_t **ids, uint32_t *n,
               struct err *e)
{
    const struct encoding x = {.encode = encode_text, .v = v, .text = text, .flags = flags};
    return encode(&x, ids, n, e);
}

int cli_encode_chat(const struct cli_model *m, struct span packed, int32_t **ids, uint32_t *n,
                    struct err *e)
{
    struct encoding x = {.encode = encode_chat, .v = m->vocab, .text = packed};
    struct model_message *list = base_zalloc(MODEL_MESSAGES_MAX, sizeof *list);
    int rc = model_chat_find(model_gguf(m->model), &x.chat, e);
    if (rc == 0 && list == NULL)
        rc = err_set(e, ERR_NOMEM, "out of memory for the conversation");
    if (rc == 0 && !model_messages_parse(packed, list, MODEL_MESSAGES_MAX, &x.n_messages))
        rc = err_set(e, ERR_FORMAT, "the conversation has more than %d messages: /reset",
                     MODEL_MESSAGES_MAX);
    x.messages = list;
    if (rc == 0)
        rc = encode(&x, ids, n, e);
    base_free(list);
    return rc;
}

void cli_bad_text(const struct cli_model *m, uint32_t bad, uint32_t position, char *out, size_t max)
{
    if (bad > m->shape->n_layers)
        snprintf(out, max, "value out of range in the output matrix at position %u", position);
    else
        snprintf(out, max, "value out of range in layer %u at position %u", bad - 1, position);
}

/* ---- scoring --------------------------------------------------------------------------------- */

struct score {
    int (*each)(void *arg, uint32_t position, const float *logits, struct err *e);
    void *arg;
};

static int bad_row(const struct cli_model *m, uint32_t bad, uint32_t position, struct err *e)
{
    char why[100];
    cli_bad_text(m, bad, position, why, sizeof why);
    return err_set(e, ERR_RANGE, "%s", why);
}

/* Hand out the logits of n rows whose hidden states stand in m->hidden from row `at` on. */
static int hand_out(struct cli_model *m, const struct model_row *rows, uint32_t at, uint32_t n,
                    const struct score *s, struct err *e)
{
    uint32_t bad[SCORE_ROWS] = {0};
    model_exec_logits(m->exec, rows + at, n, m->hidden + (size_t)at * m->shape->n_embd, m->logits,
                      bad);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t position = rows[at + i].position;
        int rc = bad[i] != 0 ? bad_row(m, bad[i], position, e) : 0;
        if (rc == 0)
            rc = s->each(s->arg, position, m->logits + (size_t)i * m->shape->n_vocab, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int cli_model_score(struct cli_model *m, const int32_t *ids, uint32_t n, uint32_t first,
                    int (*each)(void *arg, uint32_t position, const float *logits, struct err *e),
                    void *arg, struct err *e)
{
    const struct score s = {each, arg};
    const uint32_t group = m->n_logits < SCORE_ROWS ? m->n_logits : SCORE_ROWS;
    const uint32_t chunk = m->chunk < m->config.max_rows ? m->chunk : m->config.max_rows;
    struct model_row rows[MODEL_ROWS_MAX];
    uint32_t bad[MODEL_ROWS_MAX], count;
    int rc = 0;
    for (uint32_t begin = 0; begin < n && rc == 0; begin += count) {
        uint32_t at = 0;
        count = n - begin < chunk ? n - begin : chunk;
        for (uint32_t i = 0; i < count; i++)
            rows[i] = (struct model_row){0, begin + i, ids[begin + i], false};
        model_exec_run(m->exec, rows, count, m->hidden, NULL, bad);
        for (uint32_t i = 0; i < count && rc == 0; i++)
            rc = bad[i] != 0 ? bad_row(m, bad[i], begin + i, e) : 0;
        for (uint32_t i = 0; i < count; i++)
            rows[i].want_logits = begin + i >= first;
        while (at < count && !rows[at].want_logits)
            at++;
        for (; at < count && rc == 0; at += group)
            rc = hand_out(m, rows, at, count - at < group ? count - at : group, &s, e);
        if (rc == 0 && cli_interrupted())
            rc = err_set(e, ERR_CANCELLED, "interrupted");
    }
    return rc;
}
