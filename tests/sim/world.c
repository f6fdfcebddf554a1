/* Worlds: drawn from a seed, or calm ones that scenarios build on.
 *
 * A drawn world is small enough to run in some milliseconds and odd enough to meet the corners:
 * passes of one row, a queue of one, prompts as long as the context, links slower than passes and
 * the other way round, workers that come late or never, and faults that overlap. Everything is
 * drawn here, once, so that a world can be read before it runs. */
#include "tests/sim/sim.h"

enum { MS = 1000, SECOND = 1000 * MS };

static int64_t between(uint64_t *rng, int64_t low, int64_t high)
{
    return low + (int64_t)(base_rng_next(rng) % (uint64_t)(high - low + 1));
}

static bool once_in(uint64_t *rng, int64_t n)
{
    return between(rng, 1, n) == 1;
}

static uint32_t number(uint64_t *rng, uint32_t low, uint32_t high)
{
    return (uint32_t)between(rng, low, high);
}

static void draw_shape(struct sim_setup *w, uint64_t *rng)
{
    w->n_workers = number(rng, 1, SIM_WORKERS_MAX);
    w->n_layers = number(rng, w->n_workers < 4 ? 4 : w->n_workers, SIM_LAYERS_MAX);
    w->n_ends = number(rng, 0, SIM_ENDS_MAX);
    w->slots = number(rng, 1, SIM_SLOTS_MAX);
    w->context = number(rng, 16, SIM_CONTEXT_MAX);
    w->chunk = once_in(rng, 6) ? 0 : number(rng, 1, 12);
    w->rows_max = once_in(rng, 4) ? number(rng, 1, once_in(rng, 2) ? 2 : w->slots + 4) : 0;
    w->queue = once_in(rng, 8) ? number(rng, 1, 4) : 64;
    w->heartbeat_ms = number(rng, 200, 800);
    w->dead_ms = number(rng, 4, 6) * w->heartbeat_ms + 500;
    w->use_all = once_in(rng, 3);
    w->throughput = once_in(rng, 3);
    w->trouble = once_in(rng, 12);
    w->bad_one_in = once_in(rng, 6) ? number(rng, 300, 6000) : 0;
}

static void draw_times(struct sim_setup *w, uint64_t *rng)
{
    w->latency_us =
        between(rng, 0, 1) == 0 ? between(rng, 100, 2 * MS) : between(rng, 1 * MS, 30 * MS);
    w->jitter_us = once_in(rng, 3) ? 0 : between(rng, 1, 8 * MS);
    w->pass_us = once_in(rng, 3) ? between(rng, 8 * MS, 60 * MS) : between(rng, 100, 8 * MS);
    w->row_us = between(rng, 10, 400);
    w->piece_us =
        once_in(rng, 10) ? between(rng, 60 * MS, 2 * SECOND) : between(rng, 1 * MS, 60 * MS);
    w->plan_us = between(rng, 2 * MS, 1500 * MS);
    w->read_us = once_in(rng, 3) ? between(rng, 1 * MS, 900 * MS) : between(rng, 0, 1 * MS);
}

static void draw_workers(struct sim_setup *w, uint64_t *rng)
{
    const bool tight = once_in(rng, 3);
    const uint32_t fair = (w->n_layers + w->n_workers - 1) / w->n_workers;
    for (uint32_t i = 0; i < w->n_workers; i++) {
        w->layers_max[i] = tight
                               ? number(rng, fair, fair + 2 < w->n_layers ? fair + 2 : w->n_layers)
                               : w->n_layers;
        w->start_us[i] = once_in(rng, 8) ? between(rng, 0, 9 * SECOND) : between(rng, 0, 500 * MS);
        w->foreign[i] = false;
    }
    if (w->n_workers > 1 && !tight && once_in(rng, 12))
        w->start_us[number(rng, 0, w->n_workers - 1)] = -1;
    if (w->n_workers > 1 && !tight && once_in(rng, 16))
        w->foreign[number(rng, 1, w->n_workers - 1)] = true;
    if (w->n_workers > 1 && !tight && once_in(rng, 6))
        w->grow_us = once_in(rng, 2) ? between(rng, 200 * MS, 2 * SECOND)
                                     : between(rng, 1 * SECOND, 10 * SECOND);
}

static struct model_sampling draw_sampling(uint64_t *rng, uint32_t who)
{
    struct model_sampling s = {.temperature = once_in(rng, 3) ? 0.0f : 0.8f,
                               .top_k = number(rng, 0, 40),
                               .top_p = once_in(rng, 2) ? 1.0f : 0.95f,
                               .min_p = once_in(rng, 2) ? 0.0f : 0.05f,
                               .repeat_penalty = once_in(rng, 2) ? 1.0f : 1.1f,
                               .seed = (base_rng_next(rng) << 8) + who,
                               .presence_penalty = once_in(rng, 3) ? 0.5f : 0.0f,
                               .frequency_penalty = once_in(rng, 2) ? -0.25f : 0.0f,
                               .n_biases = once_in(rng, 3) ? number(rng, 1, 5) : 0,
                               .logprobs = once_in(rng, 3) ? number(rng, 1, 9) : 0};
    for (uint32_t i = 0; i < s.n_biases; i++) {
        s.bias_ids[i] = (int32_t)number(rng, 0, SIM_VOCAB - 1);
        s.biases[i] = once_in(rng, 3) ? MODEL_BANNED : (double)number(rng, 0, 9) - 5;
    }
    return s;
}

static void draw_stops(struct sim_request *r, uint64_t *rng)
{
    static const char *const stops[] = {"ab",       "aba", "bb", "c a", "aab",
                                        "\xc3\xa9", "bc",  "ca", "bab", "a"};
    r->n_stops = once_in(rng, 2) ? number(rng, 1, SIM_STOPS_MAX) : 0;
    for (uint32_t i = 0; i < r->n_stops; i++)
        snprintf(r->stops[i], sizeof r->stops[i], "%s",
                 stops[number(rng, 0, sizeof stops / sizeof *stops - 1)]);
}

static void draw_way(struct sim_request *r, uint64_t *rng)
{
    const uint32_t dice = number(rng, 1, 20);
    r->way = dice == 1 ? SIM_CANCELS : dice == 2 ? SIM_LEAVES : dice <= 5 ? SIM_IS_CUT : SIM_READS;
    r->way_us = between(rng, 0, once_in(rng, 2) ? 500 * MS : 8 * SECOND);
    r->back_us =
        once_in(rng, 2) ? between(rng, 1 * MS, 100 * MS) : between(rng, 1 * MS, 2 * SECOND);
    r->think_us = once_in(rng, 6) ? between(rng, 0, 1000 * MS) : between(rng, 0, 20 * MS);
}

/* Half of the prompts go on where an earlier request or its answer stands, somewhere. */
static void draw_prompt(const struct sim_setup *w, struct sim_request *r, uint64_t *rng,
                        uint32_t who)
{
    static struct sim_reference answer;
    uint32_t n = 0;
    if (who > 0 && once_in(rng, 2)) {
        const struct sim_request *before = &w->requests[number(rng, 0, who - 1)];
        const bool fits = before->n_prompt < w->context;
        if (fits)
            sim_stub_reference(w, before, &answer);
        for (; n < before->n_prompt && n < r->n_prompt; n++)
            r->prompt[n] = before->prompt[n];
        for (uint32_t i = 0; fits && i < answer.n_tokens && n < r->n_prompt; i++)
            r->prompt[n++] = answer.tokens[i];
        n = once_in(rng, 3) ? number(rng, 0, n) : n;
    }
    for (; n < r->n_prompt; n++)
        r->prompt[n] = (int32_t)number(rng, 0, SIM_VOCAB - 1);
}

static void draw_request(struct sim_setup *w, struct sim_request *r, uint64_t *rng, uint32_t who,
                         bool burst)
{
    const uint32_t longest = once_in(rng, 10) ? w->context : 1 + w->context / 2;
    r->at_us = burst ? between(rng, 0, 50 * MS) + 3 * SECOND : between(rng, 1 * SECOND, 8 * SECOND);
    r->flags = once_in(rng, 8) ? 1 : 0;
    r->n_prompt = once_in(rng, 30) ? w->context + number(rng, 1, 8) : number(rng, 1, longest);
    r->n = once_in(rng, 3) ? UINT32_MAX : number(rng, once_in(rng, 10) ? 0 : 1, w->context);
    r->unreadable = once_in(rng, 40);
    draw_prompt(w, r, rng, who);
    r->sampling = draw_sampling(rng, who);
    draw_stops(r, rng);
    draw_way(r, rng);
}

/* Much happens between two messages that cross, so faults are aimed at them. */
static void draw_moment(const struct sim_setup *w, struct sim_fault *f, uint64_t *rng)
{
    static const struct {
        enum net_code code;
        uint32_t most;
    } moments[] = {{NET_MSG_COMMIT, 6},     {NET_MSG_COMMIT, 6},    {NET_MSG_COMMIT, 12},
                   {NET_MSG_PLAN, 6},       {NET_MSG_PREPARED, 60}, {NET_MSG_OPEN, 12},
                   {NET_MSG_CLOSE, 8},      {NET_MSG_TOKENS, 200},  {NET_MSG_ROWS, 100},
                   {NET_MSG_RING_OPEN, 20}, {NET_MSG_PROFILED, 6}};
    const uint32_t k = number(rng, 0, sizeof moments / sizeof *moments - 1);
    f->on = moments[k].code;
    f->nth = number(rng, 1, moments[k].most);
    f->at_us = between(rng, 0, 2 * w->latency_us);
}

static void draw_fault(const struct sim_setup *w, struct sim_fault *f, uint64_t *rng)
{
    static const enum sim_fault_kind dice[] = {
        SIM_KILL,   SIM_KILL,    SIM_KILL,    SIM_POWER_OFF, SIM_POWER_OFF, SIM_FREEZE,
        SIM_FREEZE, SIM_HANG,    SIM_SLOW,    SIM_LINK,      SIM_LINK,      SIM_LINK,
        SIM_LINK,   SIM_CONTROL, SIM_CONTROL, SIM_RESTART,   SIM_PARTITION, SIM_PARTITION};
    f->kind = dice[number(rng, 0, sizeof dice / sizeof *dice - 1)];
    f->at_us = between(rng, 2 * SECOND, 10 * SECOND);
    f->for_us = once_in(rng, 8) ? between(rng, 10 * SECOND, 60 * SECOND)
                                : between(rng, 10 * MS, 8 * SECOND);
    f->node = number(rng, 0, w->n_workers - 1);
    f->peer = w->n_workers > 1 ? (f->node + number(rng, 1, w->n_workers - 1)) % w->n_workers : 0;
    f->quiet = once_in(rng, 3);
    f->side = number(rng, 1, (2u << w->n_workers) - 2); /* somebody on either side */
    f->one_way = once_in(rng, 3);
    if (f->kind == SIM_LINK && w->n_workers == 1)
        f->kind = SIM_KILL;
    if (once_in(rng, 2))
        draw_moment(w, f, rng);
}

/* One worker of several may be lost for good, where the others can hold the model. */
static void draw_last(struct sim_setup *w, uint64_t *rng)
{
    uint32_t room = 0, lost;
    if (w->n_faults == 0 || w->n_workers < 2 || !once_in(rng, 5))
        return;
    struct sim_fault *f = &w->faults[number(rng, 0, w->n_faults - 1)];
    lost = f->node;
    for (uint32_t i = 0; i < w->n_workers; i++)
        if (i != lost && w->start_us[i] >= 0 && !w->foreign[i])
            room += w->layers_max[i];
    if (room < w->n_layers)
        return;
    f->for_us = SIM_FOREVER;
    if (f->kind == SIM_CONTROL || f->kind == SIM_RESTART || f->kind == SIM_SLOW ||
        f->kind == SIM_PARTITION)
        f->kind = SIM_HANG;
}

/* ---- moods: what a world is mostly about ----------------------------------------------------- */

static void lengthen_prompts(struct sim_setup *w, uint64_t *rng)
{
    w->chunk = number(rng, 1, 5);
    for (uint32_t i = 0; i < w->n_requests; i++) {
        struct sim_request *r = &w->requests[i];
        r->n_prompt = number(rng, w->context / 2, w->context - 1);
        for (uint32_t k = 0; k < r->n_prompt; k++)
            r->prompt[k] = (int32_t)number(rng, 0, SIM_VOCAB - 1);
    }
}

/* Long prompts in small chunks, from clients that do not wait for the end. */
static void mood_prompts(struct sim_setup *w, uint64_t *rng)
{
    lengthen_prompts(w, rng);
    w->pass_us = between(rng, 2 * MS, 30 * MS);
    for (uint32_t i = 0; i < w->n_requests; i++) {
        struct sim_request *r = &w->requests[i];
        r->flags = once_in(rng, 3) ? 1 : 0;
        if (once_in(rng, 2))
            r->way = once_in(rng, 3) ? SIM_LEAVES : SIM_CANCELS;
        r->way_us = between(rng, 0, 2 * SECOND);
    }
}

/* The plan is thought over again and again while it serves. */
static void mood_plans(struct sim_setup *w, uint64_t *rng)
{
    w->n_rereads = number(rng, 2, SIM_REREADS_MAX);
    for (uint32_t i = 0; i < w->n_rereads; i++)
        w->reread_us[i] = between(rng, 3 * SECOND, 9 * SECOND);
    w->plan_us = between(rng, 2 * MS, 200 * MS);
    w->piece_us = between(rng, 1 * MS, 10 * MS);
    w->pass_us = between(rng, 1 * MS, 20 * MS);
    w->latency_us = between(rng, 1 * MS, 40 * MS);
    if (once_in(rng, 2))
        lengthen_prompts(w, rng);
    for (uint32_t i = 0; i < w->n_faults; i++) {
        w->faults[i].on = once_in(rng, 2) ? NET_MSG_PLAN : NET_MSG_PREPARED;
        w->faults[i].nth = number(rng, 1, 20);
        w->faults[i].at_us = between(rng, 0, 50 * MS);
    }
}

/* Links break and come back at the worst moments. */
static void mood_links(struct sim_setup *w, uint64_t *rng)
{
    w->latency_us = between(rng, 2 * MS, 40 * MS);
    w->jitter_us = between(rng, 0, 20 * MS);
    w->n_faults = number(rng, 2, SIM_FAULTS_MAX);
    for (uint32_t i = 0; i < w->n_faults; i++) {
        draw_fault(w, &w->faults[i], rng);
        w->faults[i].kind = w->n_workers > 1 ? SIM_LINK : SIM_CONTROL;
        draw_moment(w, &w->faults[i], rng);
        if (once_in(rng, 3)) {
            w->faults[i].on = NET_MSG_COMMIT;
            w->faults[i].nth = number(rng, 1, 12);
        } else {
            w->faults[i].on = NET_MSG_ROWS;
            w->faults[i].nth = number(rng, 1, 200);
        }
        w->faults[i].for_us = between(rng, 0, 50 * MS);
        w->faults[i].quiet = false;
    }
}

/* The cluster falls apart, in parts that change. */
static void mood_partitions(struct sim_setup *w, uint64_t *rng)
{
    w->n_faults = number(rng, 1, SIM_FAULTS_MAX);
    for (uint32_t i = 0; i < w->n_faults; i++) {
        draw_fault(w, &w->faults[i], rng);
        w->faults[i].kind = SIM_PARTITION;
        w->faults[i].quiet = once_in(rng, 2);
    }
}

/* Workers stand still until the others go on without them, and wake up in the past. */
static void mood_past(struct sim_setup *w, uint64_t *rng)
{
    w->n_faults = number(rng, 1, 3);
    for (uint32_t i = 0; i < w->n_workers; i++)
        w->layers_max[i] = w->n_layers;
    for (uint32_t i = 0; i < w->n_faults; i++) {
        draw_fault(w, &w->faults[i], rng);
        w->faults[i].kind = SIM_FREEZE;
        w->faults[i].on = once_in(rng, 2) ? NET_MSG_ROWS : NET_MSG_TOKENS;
        w->faults[i].nth = number(rng, 1, 100);
        w->faults[i].at_us = 0;
        w->faults[i].for_us = (int64_t)w->dead_ms * MS + between(rng, 0, 3 * SECOND);
    }
}

/* Nothing goes without the worker that comes last, or that goes while all get ready. */
static void mood_late(struct sim_setup *w, uint64_t *rng)
{
    const uint32_t last = number(rng, 0, w->n_workers - 1),
                   fair = (w->n_layers + w->n_workers - 1) / w->n_workers;
    w->plan_us = between(rng, 500 * MS, 3 * SECOND);
    for (uint32_t i = 0; i < w->n_workers; i++) {
        w->layers_max[i] = once_in(rng, 2) ? fair : w->n_layers;
        w->start_us[i] =
            i == last ? between(rng, 4 * SECOND, 7 * SECOND) : between(rng, 0, 300 * MS);
        w->foreign[i] = false;
    }
    w->n_faults = number(rng, 0, 2);
    for (uint32_t i = 0; i < w->n_faults; i++) {
        draw_fault(w, &w->faults[i], rng);
        w->faults[i].kind = once_in(rng, 2) ? SIM_POWER_OFF : SIM_KILL;
        w->faults[i].on = once_in(rng, 2) ? NET_MSG_PLAN : NET_MSG_PREPARED;
        w->faults[i].nth = number(rng, 1, 30);
        w->faults[i].at_us = between(rng, 0, 100 * MS);
    }
}

/* The coordinator ends again and again, while prompts are read, requests wait and texts grow. */
static void mood_restarts(struct sim_setup *w, uint64_t *rng)
{
    static const enum net_code moments[] = {NET_MSG_SUBMIT, NET_MSG_OPEN, NET_MSG_TOKENS,
                                            NET_MSG_DONE, NET_MSG_PREPARED};
    w->n_faults = number(rng, 1, 4);
    for (uint32_t i = 0; i < w->n_faults; i++) {
        draw_fault(w, &w->faults[i], rng);
        w->faults[i].kind = SIM_RESTART;
        w->faults[i].on = moments[number(rng, 0, sizeof moments / sizeof *moments - 1)];
        w->faults[i].nth = number(rng, 1, w->faults[i].on == NET_MSG_TOKENS ? 150 : 8);
        w->faults[i].at_us = between(rng, 0, 50 * MS);
    }
}

/* Long texts whose KV rows are copied, and losses that strike when some are. */
static void mood_copies(struct sim_setup *w, uint64_t *rng)
{
    static const enum net_code moments[] = {NET_MSG_TOKENS, NET_MSG_CHECKPOINTED, NET_MSG_KV_ASK,
                                            NET_MSG_OPEN, NET_MSG_INHERIT};
    static const enum sim_fault_kind kinds[] = {SIM_KILL, SIM_KILL, SIM_POWER_OFF, SIM_LINK, SIM_FREEZE};
    const bool busy = once_in(rng, 2); /* one text follows the other in a slot */
    w->pass_us = between(rng, 5 * MS, 40 * MS);
    w->latency_us = busy ? between(rng, 10 * MS, 60 * MS) : w->latency_us;
    w->slots = busy ? number(rng, 1, 2) : w->slots;
    w->context = number(rng, 48, SIM_CONTEXT_MAX);
    w->bad_one_in = 0;
    for (uint32_t i = 0; i < w->n_workers; i++) {
        w->layers_max[i] = w->n_layers;
        w->start_us[i] = between(rng, 0, 500 * MS);
        w->foreign[i] = false;
    }
    w->grow_us = 0;
    for (uint32_t i = 0; i < w->n_requests; i++) {
        struct sim_request *r = &w->requests[i];
        r->n_prompt = r->n_prompt < w->context / 2 ? r->n_prompt : w->context / 2;
        r->n = once_in(rng, 3) ? r->n : busy ? number(rng, 6, 30) : UINT32_MAX;
        r->flags = once_in(rng, 10) ? r->flags : 0;
        r->way = once_in(rng, 4) ? r->way : SIM_READS;
    }
    w->n_faults = number(rng, 1, 4);
    for (uint32_t i = 0; i < w->n_faults; i++) {
        struct sim_fault *f = &w->faults[i];
        draw_fault(w, f, rng);
        f->kind = w->n_workers > 1 ? kinds[number(rng, 0, sizeof kinds / sizeof *kinds - 1)] : SIM_KILL;
        f->on = moments[number(rng, 0, sizeof moments / sizeof *moments - 1)];
        f->nth = number(rng, 1, f->on == NET_MSG_TOKENS ? 400 : f->on == NET_MSG_INHERIT ? 12 : 60);
        f->at_us = between(rng, 0, 50 * MS);
    }
}

/* A share of the worlds has copies, drawn last of all: the others are as they were without. */
static void draw_copies(struct sim_setup *w, uint64_t *rng)
{
    w->checkpoint = once_in(rng, 2) ? number(rng, 1, once_in(rng, 2) ? 3 : 12) : 0;
    if (w->checkpoint > 0 && once_in(rng, 2))
        mood_copies(w, rng);
}

void sim_setup_draw(struct sim_setup *w, uint64_t seed)
{
    static void (*const moods[])(struct sim_setup * w, uint64_t * rng) = {
        mood_prompts, mood_plans, mood_links, mood_late, mood_partitions, mood_restarts,
        mood_past};
    uint64_t rng = base_mix64(seed * 2 + 1);
    *w = (struct sim_setup){.seed = seed};
    draw_shape(w, &rng);
    draw_times(w, &rng);
    draw_workers(w, &rng);
    w->n_requests = number(&rng, once_in(&rng, 3) ? 1 : 6, SIM_REQUESTS_MAX);
    const bool burst = once_in(&rng, 3);
    for (uint32_t i = 0; i < w->n_requests; i++)
        draw_request(w, &w->requests[i], &rng, i, burst);
    w->n_faults = once_in(&rng, 4) ? 0 : number(&rng, 1, SIM_FAULTS_MAX - 2);
    for (uint32_t i = 0; i < w->n_faults; i++)
        draw_fault(w, &w->faults[i], &rng);
    if (once_in(&rng, 2))
        moods[number(&rng, 0, sizeof moods / sizeof *moods - 1)](w, &rng);
    draw_last(w, &rng);
    w->teams = once_in(&rng, 2);
    w->remeasure_ms = once_in(&rng, 3) ? number(&rng, 200, 3000) : 0;
    w->output_first_in = number(&rng, 0, 3);
    w->tears = once_in(&rng, 3);
    w->ahead = seed % 2 == 1;
    draw_copies(w, &rng);
}

/* Equal workers and quick links; requests of four tokens that ask for as much as the context holds.
 */
void sim_setup_calm(struct sim_setup *w, uint32_t n_workers, uint32_t n_requests)
{
    *w = (struct sim_setup){.seed = 7,
                            .n_workers = n_workers,
                            .n_layers = 2 * n_workers,
                            .n_ends = 0,
                            .slots = 4,
                            .context = SIM_CONTEXT_MAX,
                            .chunk = 8,
                            .queue = 64,
                            .heartbeat_ms = 500,
                            .dead_ms = 3000,
                            .latency_us = 100,
                            .pass_us = 10 * MS,
                            .row_us = 1,
                            .piece_us = 5 * MS,
                            .plan_us = 100 * MS,
                            .in_order = true,
                            .ahead = true,
                            .n_requests = n_requests};
    for (uint32_t i = 0; i < n_workers; i++)
        w->layers_max[i] = w->n_layers;
    for (uint32_t i = 0; i < n_requests; i++)
        w->requests[i] =
            (struct sim_request){.at_us = 6 * SECOND,
                                 .n_prompt = 4,
                                 .n = UINT32_MAX,
                                 .prompt = {5, 6, 7, (int32_t)i},
                                 .sampling = {.top_p = 1, .repeat_penalty = 1, .seed = i + 1}};
}
