/* Requests at the coordinator: submit, ask, collect.
 *
 * A request is named by a random id that we choose, and we pull: ASK says how much of the answer is
 * here, the coordinator answers with what is new, with WAITING, or with DONE. So nothing depends on
 * the connection: after a cut SUBMIT with the same id is the same request, and ASK goes on from
 * where we are. The invariant: an answer only grows, by exactly the tokens and bytes that follow
 * what is here; what comes twice is skipped, what leaves a hole is not taken and asked for again.
 *
 * All requests are submitted at once, up to a window. Where the coordinator's queue is full it says
 * NO. With other requests of ours there, whose end makes room, the request is submitted again after
 * a pause that doubles; each request that ends lets the first of those try at once. Where the queue
 * is full of others' requests ours fails, since nothing says when that ends. The NO for the ASK
 * that went out behind a refused SUBMIT is expected and ignored. An ASK that is not answered in
 * time was lost, with its answer or without, and is sent again.
 *
 * Left out: a limit on how long an answer may take; the coordinator knows what it waits for and
 * says so. */
#include "client/client.h"

#include <string.h>

enum {
    WINDOW = 256, /* requests at the coordinator at a time */
    PAUSE_MIN_MS = 100,
    PAUSE_MAX_MS = 2000,
    REPLY_MS = 3000, /* an ASK is answered within a second; one that is not has been lost */
    SUBMITS_MAX = 3  /* times that a request the coordinator has forgotten is submitted again */
};

struct remote {
    struct cli_cluster *c;
    struct cli_ask *asks;
    uint32_t n, n_done, first; /* asks before `first` are done */
    struct base_buf stops;
};

/* ---- sending --------------------------------------------------------------------------------- */

static uint32_t n_have(const struct cli_ask *a)
{
    return a->positions != NULL ? (uint32_t)(a->positions->len / sizeof(struct cli_position))
                                : (uint32_t)(a->answer->tokens.len / sizeof(int32_t));
}

static int ask(struct remote *r, struct cli_ask *a)
{
    const struct net_msg m = {.code = NET_MSG_ASK,
                              .u.ASK = {a->id, n_have(a), (uint32_t)a->answer->text.len}};
    a->again_ms = base_clock_ms() + REPLY_MS;
    return net_send(r->c->net, r->c->coordinator, &m, NULL);
}

static void later(struct cli_ask *a)
{
    const uint32_t doublings = a->refusals < 5 ? a->refusals : 5;
    const int64_t pause_ms = (int64_t)PAUSE_MIN_MS << doublings;
    a->refusals++;
    a->state = CLI_ASK_LATER;
    a->again_ms = base_clock_ms() + (pause_ms < PAUSE_MAX_MS ? pause_ms : PAUSE_MAX_MS);
}

static void done(struct remote *r, struct cli_ask *a)
{
    a->state = CLI_ASK_DONE;
    a->answer->done = true;
    r->n_done++;
}

static void fail(struct remote *r, struct cli_ask *a, const char *why, size_t len)
{
    cli_answer_fail(a->answer, "%.*s", (int)len, why);
    done(r, a);
}

static int submit(struct remote *r, struct cli_ask *a)
{
    const struct cli_request *q = a->request;
    struct net_msg m = {.code = NET_MSG_SUBMIT};
    struct err e = {0};
    int rc;
    r->stops.len = 0;
    for (uint32_t i = 0; i < q->n_stops; i++)
        net_put_str(&r->stops, q->stops[i]);
    if (r->stops.failed)
        return ERR_NOMEM;
    m.u.SUBMIT = (struct net_msg_SUBMIT){
        .version = NET_CLIENT_VERSION,
        .id = a->id,
        .flags = a->positions != NULL ? 1u : 0u,
        .form = (uint32_t)q->form,
        .prompt = q->prompt,
        .n = q->n,
        .temperature = (double)q->sampling.temperature,
        .top_k = q->sampling.top_k,
        .top_p = (double)q->sampling.top_p,
        .min_p = (double)q->sampling.min_p,
        .repeat_penalty = (double)q->sampling.repeat_penalty,
        .seed = q->sampling.seed,
        .presence_penalty = (double)q->sampling.presence_penalty,
        .frequency_penalty = (double)q->sampling.frequency_penalty,
        .bias_ids = net_list_i32(q->sampling.bias_ids, q->sampling.n_biases),
        .biases = net_list_f64(q->sampling.biases, q->sampling.n_biases),
        .logprobs = q->sampling.logprobs,
        .stops = {r->stops.ptr, q->n_stops},
    };
    rc = net_send(r->c->net, r->c->coordinator, &m, &e);
    if (rc == 0)
        rc = ask(r, a);
    if (rc == 0) {
        a->state = CLI_ASK_LIVE;
    } else if (rc == ERR_FULL) {
        later(a);
    } else if (rc == ERR_RANGE) {
        fail(r, a, e.text, strlen(e.text));
        rc = 0;
    }
    return rc;
}

/* Submit or ask again where it is time to. Not 0: the connection is full or gone; its next event,
 * or time, goes on here. */
static int tend(struct remote *r, struct cli_ask *a, int64_t now_ms)
{
    const bool due = a->again_ms <= now_ms;
    if (a->state == CLI_ASK_NEW || (a->state == CLI_ASK_LATER && due))
        return submit(r, a);
    return a->state == CLI_ASK_LIVE && due ? ask(r, a) : 0;
}

/* Do what is due; returns the milliseconds until there is more to do. */
static int tend_all(struct remote *r)
{
    const int64_t now_ms = base_clock_ms();
    int64_t next_ms = now_ms + 1000;
    uint32_t seen = 0;
    while (r->first < r->n && r->asks[r->first].state == CLI_ASK_DONE)
        r->first++;
    for (uint32_t i = r->first; i < r->n && seen < WINDOW && r->c->up; i++) {
        struct cli_ask *a = &r->asks[i];
        if (a->state == CLI_ASK_DONE)
            continue;
        seen++;
        if (tend(r, a, now_ms) != 0)
            break;
        if (a->state != CLI_ASK_DONE && a->again_ms < next_ms)
            next_ms = a->again_ms;
    }
    return next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
}

/* A place in the queue is likely free. */
static void hurry(struct remote *r)
{
    for (uint32_t i = r->first; i < r->n; i++) {
        if (r->asks[i].state != CLI_ASK_LATER)
            continue;
        r->asks[i].again_ms = 0;
        return;
    }
}

/* A new connection: everything that lives is submitted again. */
static void reconnect(struct remote *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        if (r->asks[i].state == CLI_ASK_DONE)
            continue;
        r->asks[i].state = CLI_ASK_NEW;
        r->asks[i].stray = false;
    }
}

static void cancel_all(struct remote *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        const struct net_msg m = {.code = NET_MSG_CANCEL, .u.CANCEL = {r->asks[i].id}};
        if (r->asks[i].state == CLI_ASK_LIVE)
            (void)net_send(r->c->net, r->c->coordinator, &m, NULL);
    }
}

/* ---- what comes back ------------------------------------------------------------------------- */

static struct cli_ask *by_id(struct remote *r, const uint8_t *id)
{
    for (uint32_t i = r->first; i < r->n; i++)
        if (r->asks[i].state != CLI_ASK_DONE &&
            memcmp(r->asks[i].id, id, sizeof r->asks[i].id) == 0)
            return &r->asks[i];
    return NULL;
}

/* Of token i of the answer; the lists are as long as they must be. */
static struct model_logprobs logprobs_at(const struct net_msg_ANSWER *m, uint32_t i)
{
    struct model_logprobs p = {.chosen = net_f64_at(m->logprobs, i),
                               .n_best = m->best.n / m->tokens.n};
    for (uint32_t k = 0; k < p.n_best; k++) {
        p.ids[k] = net_i32_at(m->best_ids, i * p.n_best + k);
        p.best[k] = net_f64_at(m->best, i * p.n_best + k);
    }
    return p;
}

/* Do log-probabilities come with the tokens where they were asked for? */
static bool logprobs_are_sound(const struct net_msg_ANSWER *m, const struct cli_request *q)
{
    const uint32_t n = m->tokens.n;
    if (q->sampling.logprobs == 0)
        return true;
    return m->logprobs.n == n && m->best.n == m->best_ids.n &&
           (n == 0 || (m->best.n % n == 0 && m->best.n / n <= MODEL_LOGPROBS_MAX));
}

static void on_answer(const struct net_msg_ANSWER *m, const struct cli_request *q,
                      struct cli_answer *a)
{
    const size_t have = a->tokens.len / sizeof(int32_t);
    if (!logprobs_are_sound(m, q))
        return;
    for (uint32_t i = 0; i < m->tokens.n && m->from <= have; i++) {
        const int32_t token = net_i32_at(m->tokens, i);
        if ((size_t)m->from + i < have)
            continue;
        base_buf_add(&a->tokens, &token, sizeof token);
        if (q->sampling.logprobs == 0)
            continue;
        const struct model_logprobs p = logprobs_at(m, i);
        base_buf_add(&a->logprobs, &p, sizeof p);
    }
    if (m->from_text <= a->text.len && m->from_text + m->text.len > a->text.len) {
        const size_t known = a->text.len - m->from_text;
        base_buf_add(&a->text, m->text.ptr + known, m->text.len - known);
    }
}

static void on_logits(const struct net_msg_ANSWER_LOGITS *m, struct cli_ask *a)
{
    struct cli_position p = {0};
    if (a->positions == NULL || m->position != n_have(a) || m->token.n != 1 ||
        m->ids.n != m->values.n || m->ids.n > MODEL_BEST)
        return;
    p.token = net_i32_at(m->token, 0);
    p.s.mean = m->mean;
    p.s.rms = m->rms;
    for (uint32_t i = 0; i < MODEL_BEST; i++) {
        p.s.ids[i] = i < m->ids.n ? net_i32_at(m->ids, i) : -1;
        p.s.values[i] = i < m->ids.n ? (float)net_f64_at(m->values, i) : 0;
    }
    memcpy(p.hash, m->hash, sizeof p.hash);
    base_buf_add(a->positions, &p, sizeof p);
}

static void on_done(struct remote *r, const struct net_msg_DONE *m, struct cli_ask *a)
{
    struct cli_answer *to = a->answer;
    to->prompt_tokens = m->prompt_tokens;
    to->reused_tokens = m->reused_tokens;
    to->ttft_ms = m->ttft_ms;
    to->tokens_per_s = m->tokens_per_s;
    if (m->finish > CLI_LENGTH) {
        fail(r, a, (const char *)m->error.ptr, m->error.len);
        return;
    }
    to->finish = (enum cli_finish)m->finish;
    done(r, a);
}

/* Has the coordinator another request of ours, whose end will make room? */
static bool another_lives(const struct remote *r, const struct cli_ask *a)
{
    for (uint32_t i = r->first; i < r->n; i++)
        if (&r->asks[i] != a && r->asks[i].state == CLI_ASK_LIVE)
            return true;
    return false;
}

static void on_no(struct remote *r, const struct net_msg_NO *m)
{
    static const char full[] =
        "the coordinator has forgotten the request again and again: its log should say why";
    struct cli_ask *a = by_id(r, m->id);
    if (a == NULL)
        return;
    if (m->code == ERR_NOTFOUND && a->stray) {
        a->stray = false;
    } else if (m->code == ERR_FULL) {
        a->stray = true;
        if (a->state == CLI_ASK_LIVE && another_lives(r, a))
            later(a);
        else if (a->state == CLI_ASK_LIVE)
            fail(r, a, (const char *)m->reason.ptr, m->reason.len);
    } else if (m->code == ERR_NOTFOUND && a->forgotten < SUBMITS_MAX) {
        a->forgotten++;
        a->state = CLI_ASK_NEW;
    } else if (m->code == ERR_NOTFOUND) {
        fail(r, a, full, sizeof full - 1);
    } else {
        fail(r, a, (const char *)m->reason.ptr, m->reason.len);
    }
}

static void on_waiting(const struct remote *r, const struct net_msg_WAITING *m,
                       const struct cli_ask *a)
{
    if (a != &r->asks[r->first] || n_have(a) > 0)
        return;
    if (m->why.len > 0)
        cli_note("waiting for %.*s", (int)m->why.len, (const char *)m->why.ptr);
    else if (m->queue > 0)
        cli_note("waiting for a slot, number %u in the queue", m->queue);
    else
        cli_note("waiting for the first token");
}

static void on_message(struct remote *r, const struct net_msg *m)
{
    struct cli_ask *a = NULL;
    switch ((int)m->code) {
    case NET_MSG_ANSWER:
        if ((a = by_id(r, m->u.ANSWER.id)) != NULL)
            on_answer(&m->u.ANSWER, a->request, a->answer);
        break;
    case NET_MSG_ANSWER_LOGITS:
        if ((a = by_id(r, m->u.ANSWER_LOGITS.id)) != NULL)
            on_logits(&m->u.ANSWER_LOGITS, a);
        break;
    case NET_MSG_WAITING:
        if ((a = by_id(r, m->u.WAITING.id)) != NULL)
            on_waiting(r, &m->u.WAITING, a);
        break;
    case NET_MSG_DONE:
        if ((a = by_id(r, m->u.DONE.id)) != NULL) {
            on_done(r, &m->u.DONE, a);
            hurry(r);
        }
        return;
    case NET_MSG_NO:
        on_no(r, &m->u.NO);
        return;
    default:
        return;
    }
    if (a == NULL || a->state != CLI_ASK_LIVE)
        return;
    a->refusals = 0;
    if (a->answer->text.failed || a->answer->tokens.failed || a->answer->logprobs.failed ||
        (a->positions != NULL && a->positions->failed))
        fail(r, a, "out of memory for the answer", strlen("out of memory for the answer"));
    else if (ask(r, a) == ERR_FULL)
        later(a); /* SUBMIT again is the same request */
}

int cli_remote_run(struct cli_cluster *c, struct cli_ask *asks, uint32_t n, void (*news)(void *arg),
                   void *arg, struct err *e)
{
    struct remote r = {.c = c, .asks = asks, .n = n};
    struct net_event ev;
    int rc = 0;
    for (uint32_t i = 0; i < n; i++) {
        net_random(asks[i].id, sizeof asks[i].id);
        if (asks[i].answer->done) {
            asks[i].state = CLI_ASK_DONE;
            r.n_done++;
        }
    }
    news(arg);
    c->waits = true;
    while (r.n_done < n && rc == 0) {
        const int timeout_ms = tend_all(&r);
        rc = cli_cluster_next(c, timeout_ms, &ev, e);
        if (ev.type == NET_EV_DOWN)
            reconnect(&r);
        if (ev.type == NET_EV_MESSAGE)
            on_message(&r, &ev.msg);
        news(arg);
    }
    c->waits = false;
    if (rc != 0)
        cancel_all(&r);
    cli_note("%s", "");
    base_buf_deinit(&r.stops);
    return rc;
}
