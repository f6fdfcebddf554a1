/* The simulated clients: each makes one request, pulls its answer, and compares every byte with the
 * reference.
 *
 * What is answered must go on exactly where the client stands and be the reference's next part; the
 * end must be the reference's end, or an error that something in this world accounts for. A client
 * may ask for a stop, go away without a word, or be cut off and come back under a new connection,
 * where it names the request again and how much it has. */
#include "tests/sim/sim.h"

#include <math.h>
#include <string.h>

enum { AWAY_US = 300000, LONG_US = 30000000, WELL_US = 20000000 };

static void id_of(uint32_t client, uint8_t id[16])
{
    memset(id, 0x51, 16);
    id[0] = (uint8_t)client;
}

static void push(struct sim *s, uint32_t client, enum sim_what what, int64_t delay_us)
{
    sim_push(s,
             (struct sim_event){
                 .node = SIM_CLIENT0 + client, .what = what, .life = s->clients[client].connection},
             delay_us);
}

static void submit(struct sim *s, uint32_t client)
{
    const struct sim_request *r = &s->setup.requests[client];
    struct base_buf stops = {0};
    uint8_t id[16];
    id_of(client, id);
    for (uint32_t i = 0; i < r->n_stops; i++)
        net_put_str(&stops, base_span_str(r->stops[i]));
    const struct net_msg m = {
        .code = NET_MSG_SUBMIT,
        .u.SUBMIT = {.version = NET_CLIENT_VERSION,
                     .id = id,
                     .flags = r->flags,
                     .prompt = base_span_str(SIM_PROMPT),
                     .n = r->n,
                     .temperature = (double)r->sampling.temperature,
                     .top_k = r->sampling.top_k,
                     .top_p = (double)r->sampling.top_p,
                     .min_p = (double)r->sampling.min_p,
                     .repeat_penalty = (double)r->sampling.repeat_penalty,
                     .seed = r->sampling.seed,
                     .presence_penalty = (double)r->sampling.presence_penalty,
                     .frequency_penalty = (double)r->sampling.frequency_penalty,
                     .bias_ids = net_list_i32(r->sampling.bias_ids, r->sampling.n_biases),
                     .biases = net_list_f64(r->sampling.biases, r->sampling.n_biases),
                     .logprobs = r->sampling.logprobs,
                     .stops = {stops.ptr, r->n_stops}}};
    sim_client_send(s, client, &m);
    base_buf_deinit(&stops);
}

static void ask(struct sim *s, uint32_t client)
{
    const struct sim_client *c = &s->clients[client];
    uint8_t id[16];
    id_of(client, id);
    const struct net_msg m = {.code = NET_MSG_ASK, .u.ASK = {id, c->n_tokens, c->n_text}};
    if (!c->left && !c->over)
        sim_client_send(s, client, &m);
}

static void connect(struct sim *s, uint32_t client)
{
    struct sim_client *c = &s->clients[client];
    if (c->connection != 0 || c->over || c->left)
        return;
    if (s->coord == NULL) {
        push(s, client, SIM_CLIENT_CONNECT, AWAY_US);
        return;
    }
    c->connection = ++s->lives;
    /* SUBMIT again is the same request; where it is known ASK alone will do, after a restart, too. */
    if (c->order == 0 || sim_draw(s, 2) == 0)
        submit(s, client);
    ask(s, client);
}

void sim_client_accepted(struct sim *s, const uint8_t *id)
{
    struct sim_client *c = &s->clients[id[0]];
    if (c->order != 0)
        return;
    c->order = ++s->order;
    c->live = true;
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* Do the log-probabilities of token i of the answer, where asked for, equal the reference's? */
static bool same_logprobs(const struct model_sampling *a, const struct model_logprobs *r,
                          const struct net_msg_ANSWER *m, uint32_t i)
{
    const uint32_t n = m->tokens.n, k = r->n_best;
    if (a->logprobs == 0)
        return m->logprobs.n == 0 && m->best_ids.n == 0 && m->best.n == 0;
    bool same = m->logprobs.n == n && m->best_ids.n == n * k && m->best.n == n * k &&
                fabs(net_f64_at(m->logprobs, i) - r->chosen) < 1e-9;
    for (uint32_t b = 0; same && b < k; b++)
        same = net_i32_at(m->best_ids, i * k + b) == r->ids[b] &&
               fabs(net_f64_at(m->best, i * k + b) - r->best[b]) < 1e-9;
    return same;
}

static void on_answer(struct sim *s, uint32_t client, const struct net_msg_ANSWER *m)
{
    struct sim_client *c = &s->clients[client];
    const struct sim_reference *r = &c->reference;
    if (m->from != c->n_tokens && m->tokens.n > 0)
        sim_fail(s, "%s is given tokens from %u on and has %u", sim_name(s, SIM_CLIENT0 + client),
                 m->from, c->n_tokens);
    if (m->from_text != c->n_text && m->text.len > 0)
        sim_fail(s, "%s is given text from %u on and has %u bytes",
                 sim_name(s, SIM_CLIENT0 + client), m->from_text, c->n_text);
    if (m->tokens.n == 0 && m->text.len == 0)
        sim_fail(s, "%s is answered with nothing", sim_name(s, SIM_CLIENT0 + client));
    for (uint32_t i = 0; i < m->tokens.n && s->failed[0] == 0; i++) {
        const uint32_t at = c->n_tokens++;
        if (at >= r->n_tokens || r->tokens[at] != net_i32_at(m->tokens, i))
            sim_fail(s, "%s: token %u is %d, must be %d", sim_name(s, SIM_CLIENT0 + client), at,
                     net_i32_at(m->tokens, i), at >= r->n_tokens ? -1 : r->tokens[at]);
        else if (!same_logprobs(&s->setup.requests[client].sampling, &r->logprobs[at], m, i))
            sim_fail(s, "%s: the log-probabilities of token %u are others",
                     sim_name(s, SIM_CLIENT0 + client), at);
    }
    if (m->text.len > r->n_raw - c->n_text ||
        memcmp(m->text.ptr, r->text + c->n_text, m->text.len) != 0)
        sim_fail(s, "%s: the text is another from byte %u on", sim_name(s, SIM_CLIENT0 + client),
                 c->n_text);
    c->n_text += (uint32_t)m->text.len;
    if (c->first_us == 0)
        c->first_us = s->now_us;
}

static void on_logits(struct sim *s, uint32_t client, const struct net_msg_ANSWER_LOGITS *m)
{
    struct sim_client *c = &s->clients[client];
    const struct sim_summary *r = &c->reference.logits[c->n_tokens];
    bool same =
        m->position == c->n_tokens && c->n_tokens < c->reference.n_logits && m->ids.n == MODEL_BEST;
    same = same && m->token.n == 1 &&
           net_i32_at(m->token, 0) == s->setup.requests[client].prompt[c->n_tokens];
    for (uint32_t i = 0; same && i < MODEL_BEST; i++)
        same = net_i32_at(m->ids, i) == r->ids[i] &&
               fabs(net_f64_at(m->values, i) - r->values[i]) < 1e-9;
    if (!same || fabs(m->mean - r->mean) > 1e-9 || fabs(m->rms - r->rms) > 1e-9 ||
        memcmp(m->hash, r->hash, 16) != 0)
        sim_fail(s, "%s: the logits of position %u are others", sim_name(s, SIM_CLIENT0 + client),
                 c->n_tokens);
    c->n_tokens++;
}

/* ---- the end --------------------------------------------------------------------------------- */

static bool too_long(const struct sim *s, uint32_t client)
{
    const struct sim_request *r = &s->setup.requests[client];
    return r->n_prompt > s->setup.context ||
           (r->n_prompt == s->setup.context && (r->flags & 1) == 0 && r->n > 0);
}

/* A team does not get ready over a link that stays cut, and the coordinator cannot know which end is
 * to blame. */
static bool team_is_cut(const struct sim *s)
{
    for (uint32_t w = 0; s->setup.teams && w < s->setup.n_workers; w++)
        for (uint32_t k = 0; k < s->setup.n_workers; k++)
            if (s->workers[w].ring[k].cut_until_us > s->no_plan_since_us)
                return true;
    return false;
}

/* Does something in this world account for the error? */
static bool error_is_due(const struct sim *s, uint32_t client, const char *error)
{
    const struct sim_client *c = &s->clients[client];
    if (error == NULL)
        return false;
    if (strstr(error, "cancelled") != NULL)
        return c->cancelled;
    if (strstr(error, "the client went away") != NULL)
        return c->left || c->unwanted;
    if (strstr(error, "unreadable") != NULL)
        return s->setup.requests[client].unreadable;
    if (strstr(error, "the prompt has") != NULL)
        return too_long(s, client);
    if (strstr(error, "value out of range") != NULL)
        return c->reference.bad;
    if (strstr(error, "no plan: waiting for") != NULL)
        return s->now_us - s->no_plan_since_us >= LONG_US &&
               (s->no_plan || sim_well_room(s, WELL_US) < s->setup.n_layers || team_is_cut(s));
    if (strstr(error, "no feasible") != NULL)
        return s->hopeless;
    return false;
}

void sim_client_failed(struct sim *s, uint32_t client, const char *error)
{
    if (!error_is_due(s, client, error))
        sim_fail(s, "%s fails: %s", sim_name(s, SIM_CLIENT0 + client), error);
    s->clients[client].failed = true;
}

static void end(struct sim *s, uint32_t client)
{
    s->clients[client].over = true;
    s->clients[client].over_us = s->now_us;
}

static void on_done(struct sim *s, uint32_t client, const struct net_msg_DONE *m)
{
    struct sim_client *c = &s->clients[client];
    const struct sim_reference *r = &c->reference;
    const char *name = sim_name(s, SIM_CLIENT0 + client);
    snprintf(c->error, sizeof c->error, "%.*s", (int)m->error.len, (const char *)m->error.ptr);
    c->finish = m->finish;
    c->replays = m->replays;
    sim_say(s, "%s done finish=%u tokens=%u replays=%u error=\"%s\"", name, m->finish, c->n_tokens,
            m->replays, c->error);
    if (m->finish == 2) {
        if (!c->failed)
            sim_fail(s, "%s is told of an error that there was not: %s", name, c->error);
        /* The news of a row may overtake the tokens ahead of it, which the client gets all the same. */
        if (strstr(c->error, "value out of range") != NULL &&
            (s->setup.requests[client].flags & 1) == 0 && c->n_tokens != r->n_tokens)
            sim_fail(s, "%s fails after %u tokens, must be %u", name, c->n_tokens, r->n_tokens);
    } else if (m->finish != r->finish || c->n_tokens != r->n_tokens + r->n_logits ||
               c->n_text != r->n_text || (r->n_logits == 0 && m->n_tokens != r->n_tokens)) {
        sim_fail(s, "%s ends with finish %u, %u tokens and %u bytes, must be %u, %u and %zu", name,
                 m->finish, c->n_tokens, c->n_text, r->finish, r->n_tokens + r->n_logits,
                 r->n_text);
    }
    /* A journal that lost its end may know all tokens and not how the answer ended. */
    if (m->finish != 2 && m->reused_tokens != c->reused &&
        !(s->torn && m->reused_tokens == 0))
        sim_fail(s, "%s is told of %u tokens that were not read again, must be %u", name,
                 m->reused_tokens, c->reused);
    if (m->replays > s->n_commits)
        sim_fail(s, "%s was replayed %u times, and there were %u plans", name, m->replays,
                 s->n_commits);
    end(s, client);
}

/* A request is refused because as many as may wait already do, or since there will be no plan. */
static void on_no(struct sim *s, uint32_t client, const struct net_msg_NO *m)
{
    struct sim_client *c = &s->clients[client];
    snprintf(c->error, sizeof c->error, "%.*s", (int)m->reason.len, (const char *)m->reason.ptr);
    /* Logits that are there are not in the journal. */
    if (m->code == ERR_NOTFOUND && (s->torn || s->setup.requests[client].flags != 0)) {
        submit(s, client);
        ask(s, client);
        return;
    }
    sim_say(s, "%s refused code=%u reason=\"%s\"", sim_name(s, SIM_CLIENT0 + client), m->code,
            c->error);
    c->refused = true;
    if (!(m->code == ERR_FULL && s->setup.queue < s->setup.n_requests) &&
        !(m->code == ERR_INFEASIBLE && s->hopeless))
        sim_fail(s, "%s is refused: %s", sim_name(s, SIM_CLIENT0 + client), c->error);
    end(s, client);
}

static void on_message(struct sim *s, uint32_t client, const struct sim_event *ev)
{
    struct net_msg m;
    if (!net_msg_decode(ev->code, (struct span){ev->bytes, ev->n_bytes}, &m)) {
        sim_fail(s, "%s cannot decode %s", sim_name(s, ev->node), net_msg_name(ev->code));
        return;
    }
    switch ((int)m.code) {
    case NET_MSG_ANSWER:
        on_answer(s, client, &m.u.ANSWER);
        break;
    case NET_MSG_ANSWER_LOGITS:
        on_logits(s, client, &m.u.ANSWER_LOGITS);
        break;
    case NET_MSG_DONE:
        on_done(s, client, &m.u.DONE);
        return;
    case NET_MSG_NO:
        on_no(s, client, &m.u.NO);
        return;
    default: /* WAITING */
        break;
    }
    push(s, client, SIM_CLIENT_ASK, s->setup.requests[client].think_us);
}

/* ---- its own ways ---------------------------------------------------------------------------- */

static void go_its_way(struct sim *s, uint32_t client)
{
    const struct sim_request *r = &s->setup.requests[client];
    struct sim_client *c = &s->clients[client];
    uint8_t id[16];
    id_of(client, id);
    if (c->over)
        return;
    if (r->way == SIM_CANCELS) {
        const struct net_msg m = {.code = NET_MSG_CANCEL, .u.CANCEL = {id}};
        c->cancelled = sim_client_send(s, client, &m);
        sim_say(s, "%s cancels", sim_name(s, SIM_CLIENT0 + client));
        return;
    }
    sim_say(s, "%s %s", sim_name(s, SIM_CLIENT0 + client),
            r->way == SIM_LEAVES ? "goes away" : "is cut off");
    sim_client_cut(s, client, sim_between(s, 1000, 2000000));
    if (r->way == SIM_IS_CUT) {
        push(s, client, SIM_CLIENT_CONNECT, r->back_us);
        push(s, client, SIM_CLIENT_WAY,
             r->back_us + sim_between(s, 20000, 1500000)); /* its line is a bad one */
        return;
    }
    c->left = true;
    end(s, client);
    c->over_us += (COORD_CLIENT_DEAD_MS + 1000) * 1000;
}

void sim_client_event(struct sim *s, const struct sim_event *ev)
{
    const uint32_t client = ev->node - SIM_CLIENT0;
    struct sim_client *c = &s->clients[client];
    if (ev->what == SIM_CLIENT_CONNECT)
        connect(s, client);
    else if (ev->what == SIM_CLIENT_WAY)
        go_its_way(s, client);
    else if (ev->what == SIM_CLIENT_ASK && ev->life == c->connection)
        ask(s, client);
    else if (ev->what == SIM_ANSWER_MSG && sim_link_delivers(s, ev) && !c->over)
        on_message(s, client, ev);
}
