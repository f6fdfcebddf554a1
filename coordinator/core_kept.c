/* The coordinator core: requests that an earlier life of this coordinator has left in the journal, and
 * which workers it was told to drain.
 *
 * Each is taken up as if it had lost its slot to a change of plan: it waits, in its order, with the
 * tokens it has, and is opened with them as soon as there is a plan. By the canonical numerics the
 * text goes on as it would have (docs/numerics.md). One that had finished can be read once more.
 * Clients come back by themselves and ask by the request's id; they have COORD_KEPT_MS for that.
 *
 * Where other bits would follow, since model, kernels or the configuration are others now, the
 * requests are refused: each ends with an error that its client is told. What does not make sense
 * is dropped: its client finds no such request and submits it again.
 *
 * The invariant: whatever the journal says, a request has the state that the same messages would
 * have brought it to. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

static bool all_finite(const struct base_buf *b)
{
    const struct net_list l = {b->ptr, (uint32_t)(b->len / sizeof(double))};
    for (uint32_t i = 0; i < l.n; i++)
        if (!isfinite(net_f64_at(l, i)))
            return false;
    return true;
}

/* The tokens that were generated. False: they are not such as this model and request give. */
static bool take_tokens(struct coord_core *c, struct request *r, const struct coord_kept *k,
                        enum request_finish *how)
{
    const uint32_t n = (uint32_t)(k->tokens.len / sizeof(int32_t));
    const struct net_list tokens = {k->tokens.ptr, n};
    struct token_logprobs *p = &r->logprobs;
    if (!all_finite(&k->chosen) || !all_finite(&k->best) || n > r->end_position - r->n_prompt ||
        ((r->flags & 1) != 0 && n > 0) ||
        (n > 0 && k->logprobs != (r->sampling.logprobs != 0 ? p->n_best + 1 : 0)))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const int32_t token = net_i32_at(tokens, i);
        if (*how != FINISH_NOT || token < 0 || (uint32_t)token >= c->model.n_vocab)
            return false;
        *how = coord_core_request_token(c, r, token);
    }
    base_buf_add(&p->chosen, k->chosen.ptr, k->chosen.len);
    base_buf_add(&p->ids, k->ids.ptr, k->ids.len);
    base_buf_add(&p->best, k->best.ptr, k->best.len);
    /* Its times go on as if the coordinator had not been away. */
    r->arrived_ms = c->now_ms - (int64_t)k->last_ms;
    r->first_ms = r->arrived_ms + (int64_t)k->first_ms;
    r->last_ms = c->now_ms;
    r->replays = n > 0 ? 1 : 0;
    return !(p->chosen.failed || p->ids.failed || p->best.failed);
}

static bool ids_are_sound(const struct coord_core *c, struct net_list ids)
{
    for (uint32_t i = 0; i < ids.n; i++)
        if (net_i32_at(ids, i) < 0 || (uint32_t)net_i32_at(ids, i) >= c->model.n_vocab)
            return false;
    return true;
}

static void take_done(struct coord_core *c, struct request *r, const struct coord_kept *k)
{
    r->state = REQ_DONE;
    r->finish = k->finish;
    r->replays = k->replays;
    r->reused = k->reused;
    r->done_ms = r->asked_ms = c->now_ms;
    snprintf(r->error, sizeof r->error, "%.*s", (int)(k->error.len < 300 ? k->error.len : 300),
             (const char *)k->error.ptr);
    model_text_end(&r->text);
}

/* Go on with one request; false: it is dropped. */
static bool take(struct coord_core *c, struct request *r, const struct coord_kept *k,
                 struct coord_actions *out)
{
    const struct net_msg_SUBMIT *m = &k->submit;
    enum request_finish how = FINISH_NOT;
    if (m->stops.n > COORD_STOPS_MAX || coord_core_check_sampling(c, m, NULL) != 0 ||
        coord_core_request_fill(c, r, m, NULL) != 0 || (k->done && k->finish > FINISH_ERROR))
        return false;
    r->order = ++c->order;
    r->arrived_ms = c->now_ms;
    r->asked_ms = c->now_ms + COORD_KEPT_MS - COORD_CLIENT_DEAD_MS;
    if (k->read &&
        (!ids_are_sound(c, k->prompt) || coord_core_request_tokens(c, r, k->prompt, NULL) != 0 ||
         !take_tokens(c, r, k, &how)))
        return false;
    if (k->done) {
        take_done(c, r, k);
        return k->read || k->finish == FINISH_ERROR;
    }
    r->state = k->read ? REQ_QUEUED : REQ_READING;
    r->resumes = true;
    if (!k->read) {
        /* Without a prompt: that was read, and then the journal was damaged. */
        if (m->prompt.len == 0 || c->n_reading == COORD_READING_MAX ||
            c->reading_bytes + m->prompt.len > COORD_READING_BYTES_MAX)
            return false;
        coord_core_request_read(c, m, r->order, out);
    } else if ((r->flags & 1) == 0 && r->end_position == r->n_prompt) {
        how = FINISH_LENGTH;
    }
    /* The end was known when the last token came, but did not get into the journal. */
    if (how != FINISH_NOT)
        coord_core_request_finish(c, r, how, "", out);
    return true;
}

/* The journal begins anew with the refusal, which must outlive the next restart, too: the client may
 * have the beginning of an answer. */
static void refuse(struct coord_core *c, struct request *r, const struct coord_kept *k,
                   const char *why)
{
    struct net_msg_SUBMIT m = k->submit;
    m.prompt = (struct span){NULL, 0};
    memcpy(r->id, m.id, 16);
    r->order = ++c->order;
    r->arrived_ms = c->now_ms;
    take_done(c, r, &(struct coord_kept){.finish = FINISH_ERROR, .error = base_span_str(why)});
    coord_record_request(&c->journal, &m);
    coord_record_done(&c->journal, r->id, 0, FINISH_ERROR, 0, 0, base_span_str(r->error));
}

/* One that the configuration does not name any more is forgotten. */
static void take_drained(struct coord_core *c, const char *name, struct coord_actions *out)
{
    uint32_t i = 0;
    while (i < c->config.n_workers && strcmp(c->config.workers[i].name, name) != 0)
        i++;
    if (i == c->config.n_workers) {
        coord_record_drain(&c->journal, name, false);
        return;
    }
    c->nodes[i].drained = true;
    coord_core_log(out, false, "kept drained=%s", name);
}

void coord_core_kept(struct coord_core *c, const struct coord_event *ev, struct coord_actions *out)
{
    uint32_t n = 0, n_done = 0, tokens = 0;
    for (uint32_t i = 0; i < ev->kept->n_drained; i++)
        take_drained(c, ev->kept->drained[i], out);
    for (uint32_t i = 0; i < ev->kept->n; i++) {
        const struct coord_kept *k = &ev->kept->list[i];
        struct request *r = coord_core_request_new(c);
        if (ev->reason != NULL) {
            refuse(c, r, k, ev->reason);
        } else if (take(c, r, k, out)) {
            n++;
            n_done += k->done ? 1u : 0u;
            tokens += k->done ? 0 : r->n_tokens - r->n_prompt;
        } else {
            coord_core_request_free(r);
            coord_record_gone(&c->journal, k->submit.id);
        }
    }
    if (ev->kept->n > 0 && ev->reason != NULL)
        coord_core_log(out, true, "kept refused=%u reason=\"%s\"", ev->kept->n, ev->reason);
    else if (ev->kept->n > 0)
        coord_core_log(out, false, "kept requests=%u tokens=%u finished=%u dropped=%u", n - n_done,
                       tokens, n_done, ev->kept->n - n);
    if (c->waiting_most < coord_core_n_queued(c))
        c->waiting_most = coord_core_n_queued(c);
}
