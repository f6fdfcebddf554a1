/* The coordinator core: requests, from SUBMIT to DONE.
 *
 * The shell makes a prompt into tokens, which takes a while for a long one; the request is known
 * meanwhile. It waits in a bounded queue, in order of arrival, until a slot is free and a plan in
 * force; then the first stage is sent OPEN with all tokens known so far (core_slot.c), and the last
 * stage's TOKENS come back one position at a time. The coordinator keeps the tokens: after a change
 * of plan the request is opened again under a new number with prompt and generated tokens together,
 * and goes on at the next position. A token is taken only for the number and position that the
 * request is at, so none is lost, repeated or out of order; that is the invariant.
 *
 * Clients pull: ASK names how much the client has and is answered when there is more, or WAITING
 * after a second. So a slow reader costs only the tokens that are kept anyway, a client that was
 * cut off asks again by its request's id, and one that has not asked for COORD_CLIENT_DEAD_MS is
 * gone and its slot is freed.
 *
 * What a restarted coordinator needs to go on goes into the journal (records.c, core_kept.c). */
#include "coordinator/core_private.h"

#include <assert.h>
#include <string.h>

static struct request *by_id(struct coord_core *c, const uint8_t *id)
{
    for (uint32_t i = 0; i < c->n_requests; i++)
        if (c->requests[i].state != REQ_FREE && memcmp(c->requests[i].id, id, 16) == 0)
            return &c->requests[i];
    return NULL;
}

static struct request *by_number(struct coord_core *c, uint64_t number)
{
    for (uint32_t i = 0; i < c->config.slots; i++)
        if (c->slot_request[i] != 0 && c->requests[c->slot_request[i] - 1].number == number)
            return &c->requests[c->slot_request[i] - 1];
    return NULL;
}

void coord_core_request_free(struct request *r)
{
    base_free(r->tokens);
    base_free(r->logits);
    base_buf_deinit(&r->logprobs.chosen);
    base_buf_deinit(&r->logprobs.ids);
    base_buf_deinit(&r->logprobs.best);
    model_text_deinit(&r->text);
    memset(r, 0, sizeof *r);
}

void coord_core_requests_free(struct coord_core *c)
{
    for (uint32_t i = 0; i < c->n_requests; i++)
        coord_core_request_free(&c->requests[i]);
    coord_core_slots_free(c);
}

/* Tokens that the client may have: all that were generated. */
static uint32_t n_generated(const struct request *r)
{
    return r->n_tokens - r->n_prompt;
}

static bool waits(const struct request *r)
{
    return r->state == REQ_READING || r->state == REQ_QUEUED;
}

uint32_t coord_core_n_reading(const struct coord_core *c)
{
    return c->n_reading;
}

static uint32_t queued_before(const struct coord_core *c, uint64_t order)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_requests; i++)
        n += waits(&c->requests[i]) && c->requests[i].order < order ? 1u : 0u;
    return n;
}

uint32_t coord_core_n_queued(const struct coord_core *c)
{
    return queued_before(c, UINT64_MAX);
}

/* ---- answers to the client ------------------------------------------------------------------- */

void coord_core_no(uint64_t client, const uint8_t *id, int code, struct coord_actions *out,
                   const char *fmt, ...)
{
    static const uint8_t none[16];
    struct coord_action *a = coord_core_act(out, COORD_ACT_CLIENT);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->text, 300, fmt, ap);
    va_end(ap);
    a->client = client;
    a->msg.code = NET_MSG_NO;
    a->msg.u.NO =
        (struct net_msg_NO){id == NULL ? none : id, (uint32_t)code, net_text_fit(a->text, 300)};
}

static void send_waiting(struct coord_core *c, struct request *r, struct coord_actions *out)
{
    struct coord_action *a = coord_core_act(out, COORD_ACT_CLIENT);
    snprintf(a->text, sizeof a->text, "%s",
             r->state == REQ_READING ? "its prompt to be made into tokens"
             : c->now.epoch == 0     ? c->waits
                                     : "");
    a->client = r->client;
    a->msg.code = NET_MSG_WAITING;
    a->msg.u.WAITING = (struct net_msg_WAITING){
        r->id, waits(r) ? queued_before(c, r->order) + 1 : 0, net_text_fit(a->text, 300)};
    r->asking = false;
}

static void send_done(struct request *r, struct coord_actions *out)
{
    const uint32_t n = n_generated(r);
    const double ttft = n > 0 ? (double)(r->first_ms - r->arrived_ms) : 0;
    const double rest = (double)(r->last_ms - r->first_ms) / 1000.0;
    struct coord_action *a = coord_core_act(out, COORD_ACT_CLIENT);
    a->client = r->client;
    a->msg.code = NET_MSG_DONE;
    a->msg.u.DONE = (struct net_msg_DONE){r->id,
                                          r->finish,
                                          net_text_fit(r->error, 300),
                                          n,
                                          r->n_prompt,
                                          ttft,
                                          n > 1 && rest > 0 ? (n - 1) / rest : 0,
                                          r->replays,
                                          r->reused};
}

/* One position of a logits request, as many messages as there is news. */
static bool send_logits(struct request *r, struct coord_actions *out)
{
    if (r->ask_from >= r->n_logits)
        return false;
    const struct logits_entry *l = &r->logits[r->ask_from];
    struct coord_action *a = coord_core_act(out, COORD_ACT_CLIENT);
    a->client = r->client;
    a->msg.code = NET_MSG_ANSWER_LOGITS;
    a->msg.u.ANSWER_LOGITS =
        (struct net_msg_ANSWER_LOGITS){r->id,
                                       r->ask_from,
                                       net_list_i32(r->tokens + r->ask_from, 1),
                                       l->mean,
                                       l->rms,
                                       net_list_i32(l->ids, MODEL_BEST),
                                       net_list_f64(l->values, MODEL_BEST),
                                       l->hash};
    r->asking = false;
    return true;
}

static bool send_news(struct request *r, struct coord_actions *out)
{
    const uint32_t have = n_generated(r), from = r->ask_from;
    const size_t text = r->text.certain, from_text = r->ask_text;
    if (from >= have && from_text >= text)
        return false;
    const struct token_logprobs *p = &r->logprobs;
    const uint32_t k = p->n_best, most = k > 0 ? 4096 / k : 4096;
    const uint32_t n = from >= have ? 0 : have - from < most ? have - from : most;
    const size_t first = n > 0 ? from : 0;
    const size_t bytes = from_text >= text          ? 0
                         : text - from_text < 65536 ? text - from_text
                                                    : 65536;
    struct coord_action *a = coord_core_act(out, COORD_ACT_CLIENT);
    a->client = r->client;
    a->msg.code = NET_MSG_ANSWER;
    struct net_msg_ANSWER *m = &a->msg.u.ANSWER;
    *m = (struct net_msg_ANSWER){
        .id = r->id,
        .from = from,
        .tokens = net_list_i32(r->tokens + r->n_prompt + first, n),
        .from_text = r->ask_text,
        .text = {bytes > 0 ? r->text.text.ptr + from_text : NULL, bytes},
    };
    if (r->sampling.logprobs != 0 && n > 0)
        m->logprobs = (struct net_list){p->chosen.ptr + first * sizeof(double), n};
    if (k > 0 && n > 0) {
        m->best_ids = (struct net_list){p->ids.ptr + first * k * sizeof(int32_t), n * k};
        m->best = (struct net_list){p->best.ptr + first * k * sizeof(double), n * k};
    }
    r->asking = false;
    return true;
}

/* Answer the ASK that waits, if there is news. */
static void answer(struct request *r, struct coord_actions *out)
{
    if (!r->asking)
        return;
    if ((r->flags & 1) != 0 ? send_logits(r, out) : send_news(r, out))
        return;
    if (r->state == REQ_DONE) {
        r->asking = false;
        send_done(r, out);
    }
}

/* ---- the end of a request -------------------------------------------------------------------- */

/* Nobody may ask for it any more. */
static void forget(struct coord_core *c, struct request *r)
{
    coord_record_gone(&c->journal, r->id);
    coord_core_request_free(r);
}

/* Logits that were computed are not in the journal: a request for them is made again. */
static void record_done(struct coord_core *c, const struct request *r)
{
    if ((r->flags & 1) != 0 && r->finish != FINISH_ERROR)
        coord_record_gone(&c->journal, r->id);
    else
        coord_record_done(&c->journal, r->id, n_generated(r), r->finish, r->replays, r->reused,
                          base_span_str(r->error));
}

void coord_core_request_finish(struct coord_core *c, struct request *r, enum request_finish how,
                               const char *why, struct coord_actions *out)
{
    coord_core_slot_leave(c, r, out);
    r->state = REQ_DONE;
    r->finish = how;
    snprintf(r->error, sizeof r->error, "%.300s", why);
    r->done_ms = c->now_ms;
    record_done(c, r);
    model_text_end(&r->text);
    coord_core_log(
        out, how == FINISH_ERROR,
        "request_done order=%llu finish=%s tokens=%u prompt=%u reused=%u replays=%u%s%s%s",
        (unsigned long long)r->order,
        how == FINISH_STOP     ? "stop"
        : how == FINISH_LENGTH ? "length"
                               : "error",
        n_generated(r), r->n_prompt, r->reused, r->replays, why[0] != 0 ? " error=\"" : "", why,
        why[0] != 0 ? "\"" : "");
    answer(r, out);
}

/* ---- SUBMIT, ASK, CANCEL --------------------------------------------------------------------- */

/* As many biases as both lists have. */
static struct model_sampling sampling_of(const struct net_msg_SUBMIT *m)
{
    struct model_sampling s = {.temperature = (float)m->temperature,
                               .top_k = m->top_k,
                               .top_p = (float)m->top_p,
                               .min_p = (float)m->min_p,
                               .repeat_penalty = (float)m->repeat_penalty,
                               .seed = m->seed,
                               .presence_penalty = (float)m->presence_penalty,
                               .frequency_penalty = (float)m->frequency_penalty,
                               .logprobs = m->logprobs};
    while (s.n_biases < m->bias_ids.n && s.n_biases < m->biases.n &&
           s.n_biases < MODEL_BIASES_MAX) {
        s.bias_ids[s.n_biases] = net_i32_at(m->bias_ids, s.n_biases);
        s.biases[s.n_biases] = net_f64_at(m->biases, s.n_biases);
        s.n_biases++;
    }
    return s;
}

int coord_core_check_sampling(const struct coord_core *c, const struct net_msg_SUBMIT *m,
                              struct err *e)
{
    const struct model_sampling s = sampling_of(m);
    if (m->bias_ids.n != m->biases.n)
        return err_set(e, ERR_FORMAT, "%u logit biases for %u tokens", m->biases.n, m->bias_ids.n);
    const int rc = model_sampling_check(&s, e);
    return rc != 0 ? rc : model_biases_check(&s, c->model.n_vocab, e);
}

struct request *coord_core_request_new(struct coord_core *c)
{
    struct request *oldest = NULL;
    for (uint32_t i = 0; i < c->n_requests; i++) {
        struct request *r = &c->requests[i];
        if (r->state == REQ_FREE)
            return r;
        if (r->state == REQ_DONE && (oldest == NULL || r->done_ms < oldest->done_ms))
            oldest = r;
    }
    if (c->n_requests < COORD_REQUESTS_MAX)
        return &c->requests[c->n_requests++];
    if (oldest != NULL)
        forget(c, oldest);
    return oldest;
}

/* What a SUBMIT says besides its prompt. */
int coord_core_request_fill(struct coord_core *c, struct request *r, const struct net_msg_SUBMIT *m,
                            struct err *e)
{
    struct span stops[COORD_STOPS_MAX];
    memcpy(r->id, m->id, 16);
    r->flags = m->flags & 1;
    r->n_wanted = r->flags != 0 ? 0 : m->n;
    r->sampling = sampling_of(m);
    if (r->sampling.logprobs != 0)
        r->logprobs.n_best = r->sampling.logprobs - 1 < c->model.n_vocab ? r->sampling.logprobs - 1
                                                                         : c->model.n_vocab;
    for (uint32_t i = 0; i < m->stops.n; i++)
        stops[i] = net_str_at(m->stops, i);
    return model_text_init(&r->text, stops, m->stops.n, e);
}

/* The prompt's tokens, if there is room for them and what is to follow. */
int coord_core_request_tokens(struct coord_core *c, struct request *r, struct net_list ids,
                              struct err *e)
{
    const uint32_t n = ids.n, context = c->model.context;
    if (n == 0)
        return err_set(e, ERR_RANGE, "the prompt is empty");
    if (n > context || (n == context && r->n_wanted > 0))
        return err_set(e, ERR_RANGE,
                       "the prompt has %u tokens, a slot %u positions: shorten it or raise context",
                       n, context);
    const uint32_t left = context - n;
    r->end_position = n + (r->n_wanted < left ? r->n_wanted : left);
    r->tokens = base_alloc((size_t)r->end_position * sizeof *r->tokens);
    r->logits = (r->flags & 1) != 0 ? base_zalloc(n, sizeof *r->logits) : NULL;
    if (r->tokens == NULL || ((r->flags & 1) != 0 && r->logits == NULL))
        return err_set(e, ERR_NOMEM, "the coordinator is out of memory for the request");
    memcpy(r->tokens, ids.ptr, n * sizeof *r->tokens);
    r->n_prompt = r->n_tokens = n;
    return 0;
}

/* The reason for which a request is refused, or 0. */
static int refuse_submit(const struct coord_core *c, const struct net_msg_SUBMIT *m, struct err *e)
{
    const uint32_t queued = coord_core_n_queued(c);
    if (m->stops.n > COORD_STOPS_MAX)
        return err_set(e, ERR_RANGE, "%u stop strings, at most %d are allowed", m->stops.n,
                       COORD_STOPS_MAX);
    if (c->now.epoch == 0 && c->hopeless)
        return err_set(e, ERR_INFEASIBLE, "%s", c->waits);
    if (queued >= c->config.queue)
        return err_set(e, ERR_FULL, "the queue is full: %u requests wait already; try again later",
                       queued);
    if (c->n_reading == COORD_READING_MAX ||
        c->reading_bytes + m->prompt.len > COORD_READING_BYTES_MAX)
        return err_set(e, ERR_FULL, "too many prompts are being read; try again later");
    return coord_core_check_sampling(c, m, e);
}

/* Have the prompt made into tokens. */
void coord_core_request_read(struct coord_core *c, const struct net_msg_SUBMIT *m, uint64_t order,
                             struct coord_actions *out)
{
    struct coord_action *a = coord_core_act(out, COORD_ACT_READ);
    a->msg = (struct net_msg){.code = NET_MSG_SUBMIT, .u.SUBMIT = *m};
    a->serial = order;
    c->n_reading++;
    c->reading_bytes += m->prompt.len;
}

static void on_submit(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out)
{
    const struct net_msg_SUBMIT *m = &ev->msg->u.SUBMIT;
    struct err e = {0};
    if (m->version != NET_CLIENT_VERSION) {
        coord_core_no(ev->client, m->id, ERR_MISMATCH, out,
                      "the client speaks version %u, the coordinator %u", m->version,
                      (unsigned)NET_CLIENT_VERSION);
        return;
    }
    struct request *r = by_id(c, m->id);
    if (r != NULL) { /* sent again after a cut: what was asked before it is not answered to the new
                        connection */
        r->asking = r->asking && r->client == ev->client;
        r->client = ev->client;
        r->asked_ms = c->now_ms;
        return;
    }
    int rc = refuse_submit(c, m, &e);
    if (rc == 0 && (r = coord_core_request_new(c)) == NULL)
        rc = err_set(&e, ERR_FULL, "too many requests");
    if (rc == 0 && (rc = coord_core_request_fill(c, r, m, &e)) != 0)
        coord_core_request_free(r);
    if (rc != 0) {
        coord_core_no(ev->client, m->id, rc, out, "%s", e.text);
        return;
    }
    r->state = REQ_READING;
    r->client = ev->client;
    r->order = ++c->order;
    r->arrived_ms = r->asked_ms = c->now_ms;
    coord_record_request(&c->journal, m);
    coord_core_request_read(c, m, r->order, out);
}

/* A request that ended while its prompt was read is not waited for any more. */
void coord_core_read(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out)
{
    struct request *r = NULL;
    struct err e = {0};
    assert(c->n_reading > 0 && c->reading_bytes >= ev->prompt_bytes);
    c->n_reading--;
    c->reading_bytes -= ev->prompt_bytes;
    for (uint32_t i = 0; i < c->n_requests; i++)
        if (c->requests[i].state == REQ_READING && c->requests[i].order == ev->serial)
            r = &c->requests[i];
    if (r == NULL)
        return;
    const struct net_list ids = net_list_i32(ev->tokens, ev->n_tokens);
    const int rc =
        ev->ok ? coord_core_request_tokens(c, r, ids, &e) : err_set(&e, ev->code, "%s", ev->reason);
    r->state = REQ_QUEUED;
    if (rc == 0)
        coord_record_prompt(&c->journal, r->id, ids);
    if (rc != 0)
        coord_core_request_finish(c, r, FINISH_ERROR, e.text, out);
    else if ((r->flags & 1) == 0 && r->end_position == r->n_prompt)
        coord_core_request_finish(c, r, FINISH_LENGTH, "", out);
}

static void on_ask(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out)
{
    const struct net_msg_ASK *m = &ev->msg->u.ASK;
    struct request *r = by_id(c, m->id);
    if (r == NULL) {
        coord_core_no(ev->client, m->id, ERR_NOTFOUND, out,
                      "there is no such request here any more");
        return;
    }
    r->client = ev->client;
    r->asked_ms = r->ask_ms = c->now_ms;
    r->asking = true;
    r->ask_from = m->from;
    r->ask_text = m->from_text;
    answer(r, out);
}

void coord_core_client(struct coord_core *c, const struct coord_event *ev,
                       struct coord_actions *out)
{
    struct request *r;
    switch ((int)ev->msg->code) {
    case NET_MSG_SUBMIT:
        on_submit(c, ev, out);
        break;
    case NET_MSG_ASK:
        on_ask(c, ev, out);
        break;
    case NET_MSG_CANCEL:
        r = by_id(c, ev->msg->u.CANCEL.id);
        if (r != NULL && r->state != REQ_DONE)
            coord_core_request_finish(c, r, FINISH_ERROR, "cancelled", out);
        break;
    case NET_MSG_DRAIN:
        coord_core_drain(c, ev->client, &ev->msg->u.DRAIN, out);
        break;
    case NET_MSG_ASK_STATUS:
        coord_core_status(c, ev->client, out);
        break;
    default:
        break;
    }
}

void coord_core_client_down(struct coord_core *c, uint64_t client, struct coord_actions *out)
{
    (void)out;
    /* It may come back within COORD_CLIENT_DEAD_MS; nobody is there to be answered meanwhile. */
    for (uint32_t i = 0; i < c->n_requests; i++)
        if (c->requests[i].state != REQ_FREE && c->requests[i].client == client)
            c->requests[i].asking = false;
}

/* ---- what the ring says ---------------------------------------------------------------------- */

static bool is_end(const struct coord_core *c, int32_t token)
{
    for (uint32_t i = 0; i < c->model.n_ends; i++)
        if (c->model.ends[i] == token)
            return true;
    return false;
}

static void time_token(struct coord_core *c, struct request *r)
{
    if (n_generated(r) == 0)
        r->first_ms = c->now_ms;
    else if (coord_core_n_active(c) == 1) {
        const double ms = (double)(c->now_ms - r->last_ms);
        c->token_ms = c->token_ms == 0 ? ms : 0.9 * c->token_ms + 0.1 * ms;
    }
    r->last_ms = c->now_ms;
}

enum request_finish coord_core_request_token(struct coord_core *c, struct request *r, int32_t token)
{
    r->tokens[r->n_tokens++] = token;
    model_text_add(&r->text, c->model.text(c->model.arg, token));
    return r->text.text.failed              ? FINISH_ERROR
           : r->text.stopped                ? FINISH_STOP
           : r->n_tokens == r->end_position ? FINISH_LENGTH
                                            : FINISH_NOT;
}

/* The last one, that is. */
static void record_token(struct coord_core *c, const struct request *r)
{
    const struct token_logprobs *p = &r->logprobs;
    const uint32_t at = n_generated(r) - 1;
    struct coord_token t = {.index = at,
                            .elapsed_ms = (uint32_t)(c->now_ms - r->arrived_ms),
                            .token = r->tokens[r->n_tokens - 1]};
    if (r->sampling.logprobs != 0) {
        t.logprobs = 1 + p->n_best;
        t.chosen = net_f64_at((struct net_list){p->chosen.ptr, at + 1}, at);
    }
    if (t.logprobs > 1) {
        const size_t first = (size_t)at * p->n_best;
        t.ids = (struct net_list){p->ids.ptr + first * sizeof(int32_t), p->n_best};
        t.best = (struct net_list){p->best.ptr + first * sizeof(double), p->n_best};
    }
    coord_record_token(&c->journal, r->id, &t);
}

/* A worker's word that a row cannot go on may overtake the last stage's tokens ahead of that row, of
 * which one may end the text. */
static void fail_when_due(struct coord_core *c, struct request *r, struct coord_actions *out)
{
    char why[301];
    if (!r->fails || r->n_tokens <= r->fails_at)
        return;
    snprintf(why, sizeof why, "%s", r->error);
    coord_core_request_finish(c, r, FINISH_ERROR, why, out);
}

static void on_token(struct coord_core *c, struct request *r, uint32_t position, int32_t token,
                     struct coord_actions *out)
{
    if (position != r->n_tokens || position >= r->end_position || token < 0 ||
        (uint32_t)token >= c->model.n_vocab) {
        r->n_rows = 0; /* who knows what the slot holds */
        coord_core_request_finish(c, r, FINISH_ERROR,
                                  "the ring sent a token out of order: a worker is at fault", out);
        return;
    }
    if (r->sampling.logprobs != 0 &&
        r->logprobs.chosen.len != (n_generated(r) + (size_t)1) * sizeof(double)) {
        coord_core_request_finish(c, r, FINISH_ERROR,
                                  r->logprobs.chosen.failed
                                      ? "the coordinator is out of memory for the answer"
                                      : "a token came without its log-probabilities",
                                  out);
        return;
    }
    r->n_rows = position; /* the row before it has come through all stages */
    if (r->resumes)
        coord_core_log(out, false, "resumed order=%llu pause_ms=%lld rows=%u run=%u",
                       (unsigned long long)r->order,
                       (long long)(c->now_ms - (n_generated(r) > 0 ? r->last_ms : r->arrived_ms)),
                       r->n_rows, r->n_rows - r->first);
    r->resumes = false;
    time_token(c, r);
    if (is_end(c, token)) {
        coord_core_request_finish(c, r, FINISH_STOP, "", out);
        return;
    }
    const enum request_finish how = coord_core_request_token(c, r, token);
    record_token(c, r);
    coord_core_pace_count(c);
    if (how == FINISH_NOT) {
        answer(r, out);
        fail_when_due(c, r, out);
    } else {
        coord_core_request_finish(
            c, r, how, how == FINISH_ERROR ? "the coordinator is out of memory for the answer" : "",
            out);
    }
}

void coord_core_tokens(struct coord_core *c, const struct net_msg_TOKENS *m,
                       struct coord_actions *out)
{
    if (m->epoch == 0 || m->epoch != c->now.epoch || m->positions.n != m->requests.n ||
        m->tokens.n != m->requests.n)
        return;
    c->stalled_ms = c->now_ms;
    for (uint32_t i = 0; i < m->requests.n; i++) {
        struct request *r = by_number(c, net_u64_at(m->requests, i));
        if (r != NULL && (r->flags & 1) == 0)
            on_token(c, r, net_u32_at(m->positions, i), net_i32_at(m->tokens, i), out);
    }
    coord_core_plan_tokens(c, out);
}

void coord_core_logits(struct coord_core *c, const struct net_msg_LOGITS *m,
                       struct coord_actions *out)
{
    struct request *r = m->epoch != 0 && m->epoch == c->now.epoch ? by_number(c, m->request) : NULL;
    if (r == NULL || (r->flags & 1) == 0 || m->position != r->n_logits || m->ids.n != MODEL_BEST ||
        m->values.n != MODEL_BEST)
        return;
    c->stalled_ms = c->now_ms;
    struct logits_entry *l = &r->logits[r->n_logits++];
    r->n_rows = r->n_logits;
    l->mean = m->mean;
    l->rms = m->rms;
    for (uint32_t i = 0; i < MODEL_BEST; i++) {
        l->ids[i] = net_i32_at(m->ids, i);
        l->values[i] = net_f64_at(m->values, i);
    }
    memcpy(l->hash, m->hash, 16);
    if (r->n_logits == r->n_prompt)
        coord_core_request_finish(c, r, FINISH_STOP, "", out);
    else
        answer(r, out);
}

void coord_core_logprobs(struct coord_core *c, const struct net_msg_LOGPROBS *m)
{
    struct request *r = m->epoch != 0 && m->epoch == c->now.epoch ? by_number(c, m->request) : NULL;
    if (r == NULL || r->sampling.logprobs == 0 || m->position != r->n_tokens ||
        m->ids.n != r->logprobs.n_best || m->best.n != r->logprobs.n_best)
        return;
    struct token_logprobs *p = &r->logprobs;
    const size_t at = n_generated(r), k = p->n_best;
    /* Those of this position may have come before, under a plan that broke ahead of the token. */
    p->chosen.len = at * sizeof(double);
    p->ids.len = at * k * sizeof(int32_t);
    p->best.len = at * k * sizeof(double);
    base_buf_add(&p->ids, m->ids.ptr, k * sizeof(int32_t));
    base_buf_add(&p->best, m->best.ptr, k * sizeof(double));
    base_buf_add(&p->chosen, &m->chosen, sizeof m->chosen);
    p->chosen.failed = p->chosen.failed || p->ids.failed || p->best.failed;
    p->chosen.len = p->chosen.failed ? 0 : p->chosen.len;
}

void coord_core_failed(struct coord_core *c, const struct net_msg_FAILED *m,
                       struct coord_actions *out)
{
    struct request *r = m->epoch != 0 && m->epoch == c->now.epoch ? by_number(c, m->request) : NULL;
    if (r == NULL || (r->fails && r->fails_at <= m->position))
        return;
    r->fails = true;
    r->fails_at = m->position;
    snprintf(r->error, sizeof r->error, "%.*s", (int)m->reason.len, (const char *)m->reason.ptr);
    fail_when_due(c, r, out);
}

/* May one more request end, or be told to wait, in this step? What else a step does needs room, too;
 * who finds none has his turn in the next one, which is asked for at once. */
static bool has_room(const struct coord_actions *out)
{
    return out->n < COORD_ACTIONS_MAX - 512;
}

void coord_core_fail_waiting(struct coord_core *c, const char *why, struct coord_actions *out)
{
    for (uint32_t i = 0; i < c->n_requests && has_room(out); i++)
        if (waits(&c->requests[i]))
            coord_core_request_finish(c, &c->requests[i], FINISH_ERROR, why, out);
}

/* ---- time ------------------------------------------------------------------------------------ */

void coord_core_request_time(struct coord_core *c, struct coord_actions *out)
{
    for (uint32_t i = 0; i < c->n_requests && has_room(out); i++) {
        struct request *r = &c->requests[i];
        if (r->state == REQ_FREE)
            continue;
        if (r->state != REQ_DONE && c->now_ms - r->asked_ms > COORD_CLIENT_DEAD_MS)
            coord_core_request_finish(c, r, FINISH_ERROR, "the client went away", out);
        if (r->state == REQ_DONE && c->now_ms - r->done_ms > COORD_KEEP_DONE_MS &&
            c->now_ms - r->asked_ms > COORD_KEEP_DONE_MS)
            forget(c, r);
        else if (r->asking && c->now_ms - r->ask_ms >= COORD_WAITING_MS)
            send_waiting(c, r, out);
    }
    while (c->n_requests > 0 && c->requests[c->n_requests - 1].state == REQ_FREE)
        c->n_requests--;
}

int64_t coord_core_request_deadline(const struct coord_core *c)
{
    int64_t t = INT64_MAX;
    for (uint32_t i = 0; i < c->n_requests; i++) {
        const struct request *r = &c->requests[i];
        int64_t due = INT64_MAX;
        if (r->state == REQ_DONE)
            due = (r->done_ms > r->asked_ms ? r->done_ms : r->asked_ms) + COORD_KEEP_DONE_MS + 1;
        else if (r->state != REQ_FREE)
            due = r->asking ? r->ask_ms + COORD_WAITING_MS : r->asked_ms + COORD_CLIENT_DEAD_MS + 1;
        t = due < t ? due : t;
    }
    return t;
}
