/* Requests in slots, decoded together in one process: `shoal local` and `shoal chat` at work.
 *
 * A slot holds a request from its first prompt row to its last token. Each pass takes one row of
 * every slot that decodes and then prompt rows, at most a chunk of them. What is sampled where is
 * the rule of the ring's last stage: the token for position p comes from the row at p - 1, with the
 * tokens before it as the penalty's window; an end token ends the answer and is not part of it; no
 * token gets a position beyond the prompt's length + n or the context. Text is made by the code
 * that the coordinator uses.
 *
 * A slot keeps what its KV cache holds when its request is over, and a request takes the free slot
 * whose tokens agree best with its own. What agrees is not computed again, but for the last
 * row, whose logits are needed; since a row's bits depend on the tokens before it and on nothing
 * else, the answer is the same.
 *
 * The invariant: an answer depends on its request alone, not on the others in the batch, because a
 * row's bits do not (docs/numerics.md) and a sampled token depends on seed and position only. A
 * request whose numbers run out of range fails by itself. */
#include "client/client.h"

#include <string.h>

struct slot {
    bool busy;
    uint32_t request; /* index */
    int32_t *ids;     /* [end_position] prompt, then what was generated; kept when it is over */
    uint32_t n_prompt, n_ids, end_position;
    uint32_t n_kept; /* positions that the slot held when the request came */
    uint32_t n_done; /* positions that are in the KV cache; kept when it is over */
    struct model_text text;
    double started_s, first_s, last_s;
};

struct cli_batch {
    struct cli_model *m;
    struct cli_printer *out;
    struct model_sampler *sampler;
    struct slot slots[CLI_LOCAL_SLOTS];
    uint32_t n_slots, next; /* next request to take a slot */
    double begun_s;
    int32_t ends[32];
    size_t n_ends;
    struct model_row rows[MODEL_ROWS_MAX];
    uint32_t bad[MODEL_ROWS_MAX], n_rows;
};

/* The request is over; the first `n_done` of its tokens stay with the slot. */
static void leave(struct slot *s, uint32_t n_done)
{
    model_text_deinit(&s->text);
    *s = (struct slot){.ids = s->ids, .n_done = n_done};
}

/* ---- an answer grows ------------------------------------------------------------------------- */

static void show(struct cli_answer *a, const struct slot *s)
{
    if (s->text.certain > a->text.len)
        base_buf_add(&a->text, s->text.text.ptr + a->text.len, s->text.certain - a->text.len);
}

static void finish(struct cli_batch *b, struct slot *s, enum cli_finish how)
{
    struct cli_answer *a = &b->out->answers[s->request];
    const uint32_t n = s->n_ids - s->n_prompt;
    const double rest_s = s->last_s - s->first_s;
    model_text_end(&s->text);
    show(a, s);
    a->finish = how;
    a->tokens_per_s = n > 1 && rest_s > 0 ? (n - 1) / rest_s : 0;
    a->done = true;
    if (a->text.failed || a->tokens.failed || a->logprobs.failed || s->text.text.failed)
        cli_answer_fail(a, "out of memory for the answer");
    leave(s, s->n_done);
}

static bool is_end(const struct cli_batch *b, int32_t token)
{
    for (size_t i = 0; i < b->n_ends; i++)
        if (b->ends[i] == token)
            return true;
    return false;
}

static void take_token(struct cli_batch *b, struct slot *s, int32_t token)
{
    struct cli_answer *a = &b->out->answers[s->request];
    s->last_s = base_clock_s();
    if (s->first_s == 0) {
        s->first_s = s->last_s;
        a->ttft_ms = (s->first_s - b->begun_s) * 1e3;
        a->prefill_per_s = (s->n_prompt - s->n_kept) / (s->first_s - s->started_s);
    }
    if (is_end(b, token)) {
        finish(b, s, CLI_STOP);
        return;
    }
    s->ids[s->n_ids++] = token;
    base_buf_add(&a->tokens, &token, sizeof token);
    if (b->out->requests->list[s->request].sampling.logprobs != 0)
        base_buf_add(&a->logprobs, model_sampler_logprobs(b->sampler),
                     sizeof(struct model_logprobs));
    model_text_add(&s->text, model_vocab_text(b->m->vocab, token));
    show(a, s);
    if (s->text.stopped)
        finish(b, s, CLI_STOP);
    else if (s->n_ids == s->end_position || s->text.text.failed)
        finish(b, s, CLI_LENGTH);
}

static void sample(struct cli_batch *b, struct slot *s, float *logits)
{
    const struct cli_request *r = &b->out->requests->list[s->request];
    const uint32_t n_recent = s->n_ids < MODEL_PENALTY_WINDOW ? s->n_ids : MODEL_PENALTY_WINDOW;
    const int32_t token = model_sample(b->sampler, &r->sampling, logits, s->n_ids,
                                       s->ids + s->n_ids - n_recent, n_recent);
    if (token >= 0) {
        take_token(b, s, token);
        return;
    }
    cli_answer_fail(&b->out->answers[s->request],
                    "value out of range in the output matrix at position %u", s->n_ids - 1);
    leave(s, s->n_done);
}

/* ---- requests take slots --------------------------------------------------------------------- */

static int encode(const struct cli_batch *b, const struct cli_request *r, int32_t **ids,
                  uint32_t *n, struct err *e)
{
    const unsigned special = r->form == NET_PROMPT_SPECIAL ? MODEL_ENCODE_SPECIAL : 0u;
    if (r->error[0] != 0)
        return err_set(e, ERR_FORMAT, "%s", r->error);
    return r->form == NET_PROMPT_CHAT
               ? cli_encode_chat(b->m, r->prompt, ids, n, e)
               : cli_encode(b->m->vocab, r->prompt, MODEL_ENCODE_BOS | special, ids, n, e);
}

/* The ids of a request's prompt, with room for the answer. */
static int read_prompt(const struct cli_batch *b, uint32_t request, int32_t **ids, uint32_t *n,
                       uint32_t *end_position, struct err *e)
{
    const struct cli_request *r = &b->out->requests->list[request];
    const uint32_t context = b->m->config.context;
    int32_t *grown;
    int rc = model_biases_check(&r->sampling, b->m->shape->n_vocab, e);
    if (rc == 0)
        rc = encode(b, r, ids, n, e);
    if (rc != 0)
        return rc;
    b->out->answers[request].prompt_tokens = *n;
    if (*n == 0)
        return err_set(e, ERR_RANGE, "the prompt is empty");
    if (*n > context || (*n == context && r->n > 0))
        return err_set(e, ERR_RANGE,
                       "the %s has %u tokens, a slot %u positions: shorten it or raise --context",
                       r->form == NET_PROMPT_CHAT ? "conversation" : "prompt", *n, context);
    *end_position = *n + (r->n < context - *n ? r->n : context - *n);
    grown = base_realloc(*ids, *end_position * sizeof *grown);
    if (grown == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the answer's tokens");
    *ids = grown;
    return 0;
}

/* How many of the first tokens are those that the slot holds. */
static uint32_t agreement(const struct slot *s, const int32_t *ids, uint32_t n)
{
    uint32_t k = 0;
    while (k < s->n_done && k < n && s->ids[k] == ids[k])
        k++;
    return k;
}

/* The free slot that gains the most: what a request can use of it counts, less what would be lost
 * that another one may go on with. (All texts agree in their first token; that alone is no reason to
 * overwrite a conversation.) NULL: none is free. */
static struct slot *choose_slot(struct cli_batch *b, const int32_t *ids, uint32_t n, uint32_t *kept)
{
    struct slot *best = NULL;
    int64_t best_gain = 0;
    for (uint32_t i = 0; i < b->n_slots; i++) {
        struct slot *s = &b->slots[i];
        if (s->busy)
            continue;
        const uint32_t k = agreement(s, ids, n);
        const int64_t gain = 2 * (int64_t)k - (int64_t)s->n_done;
        if (best != NULL && gain <= best_gain)
            continue;
        best = s;
        best_gain = gain;
        *kept = k;
    }
    return best;
}

static int begin(struct cli_batch *b, uint32_t request, struct err *e)
{
    const struct cli_request *r = &b->out->requests->list[request];
    int32_t *ids = NULL;
    uint32_t n = 0, end_position = 0, kept = 0;
    int rc = read_prompt(b, request, &ids, &n, &end_position, e);
    struct slot *s = rc == 0 ? choose_slot(b, ids, n, &kept) : NULL;
    if (rc == 0)
        rc = model_text_init(&s->text, r->stops, r->n_stops, e);
    if (rc != 0) {
        base_free(ids);
        return rc;
    }
    base_free(s->ids);
    s->ids = ids;
    s->n_prompt = s->n_ids = n;
    s->end_position = end_position;
    s->n_kept = s->n_done = kept < n ? kept : n - 1; /* the last row gives the logits */
    s->request = request;
    s->started_s = base_clock_s();
    b->out->answers[request].reused_tokens = s->n_kept;
    if (end_position == n)
        finish(b, s, CLI_LENGTH);
    else
        s->busy = true;
    return 0;
}

static bool any_free(const struct cli_batch *b)
{
    for (uint32_t i = 0; i < b->n_slots; i++)
        if (!b->slots[i].busy)
            return true;
    return false;
}

/* Fill free slots with requests in order; those that cannot be begun have failed. */
static void admit(struct cli_batch *b)
{
    while (b->next < b->out->requests->n && any_free(b)) {
        const uint32_t request = b->next++;
        struct err e = {0};
        if (begin(b, request, &e) != 0)
            cli_answer_fail(&b->out->answers[request], "%s", e.text);
    }
}

/* ---- a pass ---------------------------------------------------------------------------------- */

static void add_rows(struct cli_batch *b, uint32_t slot, uint32_t n)
{
    struct slot *s = &b->slots[slot];
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t p = s->n_done++;
        b->rows[b->n_rows++] = (struct model_row){slot, p, s->ids[p], p + 1 == s->n_ids};
    }
}

static void build(struct cli_batch *b)
{
    uint32_t left;
    b->n_rows = 0;
    for (uint32_t i = 0; i < b->n_slots; i++)
        if (b->slots[i].busy && b->slots[i].n_done >= b->slots[i].n_prompt)
            add_rows(b, i, 1);
    left = b->m->config.max_rows - b->n_rows;
    left = left < b->m->chunk ? left : b->m->chunk;
    for (uint32_t i = 0; i < b->n_slots && left > 0; i++) {
        const struct slot *s = &b->slots[i];
        if (!s->busy || s->n_done >= s->n_prompt)
            continue;
        const uint32_t n = s->n_prompt - s->n_done < left ? s->n_prompt - s->n_done : left;
        add_rows(b, i, n);
        left -= n;
    }
}

static void fail_row(struct cli_batch *b, uint32_t row)
{
    struct slot *s = &b->slots[b->rows[row].slot];
    char why[100];
    if (!s->busy)
        return;
    cli_bad_text(b->m, b->bad[row], b->rows[row].position, why, sizeof why);
    cli_answer_fail(&b->out->answers[s->request], "%s", why);
    leave(s, b->rows[row].position);
}

static void pass(struct cli_batch *b)
{
    float *logits = b->m->logits;
    model_exec_run(b->m->exec, b->rows, b->n_rows, b->m->hidden, logits, b->bad);
    for (uint32_t i = 0; i < b->n_rows; i++)
        if (b->bad[i] != 0)
            fail_row(b, i);
    for (uint32_t i = 0; i < b->n_rows; i++) {
        struct slot *s = &b->slots[b->rows[i].slot];
        if (!b->rows[i].want_logits)
            continue;
        if (s->busy)
            sample(b, s, logits);
        logits += b->m->shape->n_vocab;
    }
}

int cli_batch_new(struct cli_model *m, struct cli_batch **out, struct err *e)
{
    struct cli_batch *b = base_zalloc(1, sizeof *b);
    *out = NULL;
    if (b == NULL || (b->sampler = model_sampler_new(m->shape->n_vocab)) == NULL) {
        base_free(b);
        return err_set(e, ERR_NOMEM, "out of memory for the batch");
    }
    b->m = m;
    b->n_slots = m->config.n_slots < CLI_LOCAL_SLOTS ? m->config.n_slots : CLI_LOCAL_SLOTS;
    b->n_ends = model_vocab_ends(m->vocab, b->ends, sizeof b->ends / sizeof *b->ends);
    *out = b;
    return 0;
}

void cli_batch_free(struct cli_batch *b)
{
    if (b == NULL)
        return;
    for (uint32_t i = 0; i < CLI_LOCAL_SLOTS; i++) {
        model_text_deinit(&b->slots[i].text);
        base_free(b->slots[i].ids);
    }
    model_sampler_free(b->sampler);
    base_free(b);
}

int cli_batch_run(struct cli_batch *b, struct cli_printer *p, struct err *e)
{
    int rc = 0;
    b->out = p;
    b->next = 0;
    b->begun_s = base_clock_s();
    for (;;) {
        admit(b);
        cli_printer_step(p);
        if (p->next == p->requests->n)
            break;
        if (cli_interrupted()) {
            rc = err_set(e, ERR_CANCELLED, "interrupted");
            break;
        }
        build(b);
        pass(b);
    }
    for (uint32_t i = 0; i < b->n_slots; i++)
        if (b->slots[i].busy)
            leave(&b->slots[i], b->slots[i].n_done);
    return rc;
}
