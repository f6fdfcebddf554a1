/* The model's stand-in: a hash in place of layers.
 *
 * A layer's output depends on the hidden state that comes in, on layer and position, and on every
 * KV row of the slot up to that position, in order; a token depends on the last hidden state, the
 * request's sampling and the recent tokens. So a KV row that is missing, stale or another
 * request's, a row fed twice or at a wrong position, and a parameter lost on the way all change the
 * text. The reference computes the same straight through, one position after the other, without
 * slots, chunks, stages or stop strings in the middle: those are applied to the finished text. */
#include "tests/sim/sim.h"

#include <string.h>

static uint64_t mix(uint64_t a, uint64_t b)
{
    return base_mix64(a * UINT64_C(0x9e3779b97f4a7c15) + b + UINT64_C(0x632be59bd9b4e019));
}

uint64_t sim_stub_embed(int32_t token)
{
    return mix(1, (uint32_t)token);
}

uint64_t sim_stub_row(uint32_t layer, uint32_t position, uint64_t hidden)
{
    return mix(hidden, (uint64_t)layer << 32 | position);
}

uint64_t sim_stub_layer(uint32_t layer, uint32_t position, uint64_t hidden, const uint64_t *kv)
{
    uint64_t sum = hidden;
    for (uint32_t p = 0; p <= position; p++) {
        sum = (sum ^ kv[p]) * UINT64_C(0xff51afd7ed558ccd);
        sum ^= sum >> 29;
    }
    return mix(sum, (uint64_t)layer << 32 | position);
}

bool sim_stub_bad(uint32_t one_in, uint64_t hidden)
{
    return one_in != 0 && mix(hidden, 2) % one_in == 0;
}

int32_t sim_stub_token(uint64_t hidden, const struct model_sampling *m, uint32_t position,
                       const int32_t *recent, uint32_t n_recent)
{
    uint64_t x = mix(hidden, 3);
    if (m->temperature > 0) {
        x = mix(x, mix(m->seed, position));
        x = mix(x, (uint64_t)(m->temperature * 1000) << 32 | m->top_k);
        x = mix(x, (uint64_t)(m->top_p * 1000) << 32 | (uint64_t)(m->min_p * 1000));
    }
    if (m->presence_penalty != 0)
        x = mix(x, (uint64_t)(int64_t)(m->presence_penalty * 1000) << 32 |
                       (uint32_t)(int32_t)(m->frequency_penalty * 1000));
    for (uint32_t i = 0; i < m->n_biases; i++)
        x = mix(x, mix((uint32_t)m->bias_ids[i],
                       m->biases[i] == MODEL_BANNED ? 1 : (uint64_t)(1000 + m->biases[i]) + 2));
    if (m->repeat_penalty > 1 || m->presence_penalty != 0)
        for (uint32_t i = 0; i < n_recent; i++)
            x = mix(x, (uint32_t)recent[i]);
    return (int32_t)(x % SIM_VOCAB);
}

void sim_stub_logprobs(uint64_t hidden, const struct model_sampling *m, int32_t token,
                       struct model_logprobs *out)
{
    memset(out, 0, sizeof *out);
    if (m->logprobs == 0)
        return;
    out->chosen = -(double)(mix(hidden, 60 + (uint32_t)token) % 1000) / 16;
    out->n_best = m->logprobs - 1;
    for (uint32_t i = 0; i < out->n_best; i++) {
        out->ids[i] = (int32_t)(mix(hidden, 130 + i) % SIM_VOCAB);
        out->best[i] = -(double)(mix(hidden, 140 + i) % 1000) / 16;
    }
}

void sim_stub_summary(uint64_t hidden, struct sim_summary *out)
{
    out->mean = (double)(mix(hidden, 4) % 1000) / 16;
    out->rms = (double)(mix(hidden, 5) % 1000) / 16;
    for (uint32_t i = 0; i < MODEL_BEST; i++) {
        out->ids[i] = (int32_t)(mix(hidden, 6 + i) % SIM_VOCAB);
        out->values[i] = (double)(mix(hidden, 20 + i) % 1000) / 16;
    }
    for (uint32_t i = 0; i < 16; i++)
        out->hash[i] = (uint8_t)mix(hidden, 40 + i);
}

/* Few letters, so that stop strings of two or three are met; some tokens are half a character. */
struct span sim_stub_text(void *arg, int32_t token)
{
    static const char *const texts[] = {"",   "",   "a",  "b",  "ab",   "ba",   "c",        " ",
                                        "aa", "bb", "bc", "ca", "\xc3", "\xa9", "\xe2\x82", "\xac"};
    (void)arg;
    return base_span_str(texts[(uint32_t)token % (sizeof texts / sizeof *texts)]);
}

uint32_t sim_stub_n_pieces(void *arg, const struct coord_shard *s)
{
    uint32_t pieces[SIM_PIECES_MAX];
    return sim_stub_pieces(arg, s, pieces);
}

uint32_t sim_stub_pieces(const struct sim_setup *w, const struct coord_shard *s,
                         uint32_t out[SIM_PIECES_MAX])
{
    uint32_t n = 0;
    for (uint32_t l = s->layer0; l < s->layer1; l++) {
        out[n++] = l * SIM_LAYER_PIECES;
        if (s->part.head1 > s->part.head0)
            out[n++] = l * SIM_LAYER_PIECES + 1;
        if (s->part.ff1 > s->part.ff0)
            out[n++] = l * SIM_LAYER_PIECES + 2;
    }
    if (s->embed)
        out[n++] = w->n_layers * SIM_LAYER_PIECES;
    if (s->part.run1 > s->part.run0)
        out[n++] = w->n_layers * SIM_LAYER_PIECES + 1;
    return n;
}

struct coord_shard sim_stub_shard(const struct net_msg_PLAN *m)
{
    const uint32_t k = m->member;
    const bool ends = m->stage == (m->output_first != 0 ? 0 : m->n_stages - 1);
    struct coord_shard s = {.layer0 = m->layer0,
                            .layer1 = m->layer1,
                            .part = {0, 0, SIM_UNITS, 0, SIM_UNITS, 0, ends ? SIM_RUNS : 0},
                            .embed = m->stage == 0 && k == 0,
                            .output = ends && k == 0};
    if (m->team.n > 0)
        s.part = (struct part_member){
            0,
            net_u32_at(m->heads, k),
            net_u32_at(m->heads, k + 1),
            net_u32_at(m->columns, k),
            net_u32_at(m->columns, k + 1),
            net_u32_at(m->runs, k),
            net_u32_at(m->runs, k + 1),
        };
    return s;
}

/* ---- the reference --------------------------------------------------------------------------- */

/* All layers of one position; false: a value went out of range. */
static bool forward(const struct sim_setup *w, uint64_t kv[][SIM_CONTEXT_MAX], int32_t token,
                    uint32_t position, uint64_t *hidden)
{
    *hidden = sim_stub_embed(token);
    for (uint32_t l = 0; l < w->n_layers; l++) {
        kv[l][position] = sim_stub_row(l, position, *hidden);
        *hidden = sim_stub_layer(l, position, *hidden, kv[l]);
        if (sim_stub_bad(w->bad_one_in, *hidden))
            return false;
    }
    return true;
}

/* Where the first of the stop strings begins in the text; the text's length where none does. */
static size_t first_stop(const struct sim_request *r, const uint8_t *text, size_t n)
{
    size_t first = n;
    for (uint32_t k = 0; k < r->n_stops; k++) {
        const size_t len = strlen(r->stops[k]);
        for (size_t at = 0; len > 0 && at + len <= n && at < first; at++)
            if (memcmp(text + at, r->stops[k], len) == 0)
                first = at;
    }
    return first;
}

/* Append a generated token; true: it ends the answer. */
static bool take_token(const struct sim_setup *w, const struct sim_request *r,
                       struct sim_reference *out, int32_t token, uint32_t limit)
{
    if (token < (int32_t)w->n_ends) {
        out->finish = 0;
        return true;
    }
    const struct span text = sim_stub_text(NULL, token);
    out->tokens[out->n_tokens++] = token;
    memcpy(out->text + out->n_raw, text.ptr, text.len);
    out->n_raw += text.len;
    out->n_text = first_stop(r, out->text, out->n_raw);
    out->finish = out->n_text < out->n_raw ? 0 : 1;
    if (out->finish == 0)
        return true;
    return out->n_tokens == limit;
}

void sim_stub_reference(const struct sim_setup *w, const struct sim_request *r,
                        struct sim_reference *out)
{
    static uint64_t kv[SIM_LAYERS_MAX][SIM_CONTEXT_MAX];
    int32_t all[SIM_CONTEXT_MAX + 1];
    const uint32_t left = w->context - r->n_prompt, limit = r->n < left ? r->n : left;
    const bool logits = (r->flags & 1) != 0;
    uint64_t hidden;
    memset(out, 0, sizeof *out);
    if (!logits && limit == 0) {
        out->finish = 1;
        return;
    }
    memcpy(all, r->prompt, r->n_prompt * sizeof *all);
    for (uint32_t p = 0; p < w->context; p++) {
        const bool last = p + 1 >= r->n_prompt;
        if (!forward(w, kv, all[p], p, &hidden) ||
            ((logits || last) && sim_stub_bad(w->bad_one_in, ~hidden))) {
            out->bad = true;
            out->finish = 2;
            return;
        }
        if (logits) {
            sim_stub_summary(hidden, &out->logits[out->n_logits++]);
            if (last)
                return;
        } else if (last) {
            const uint32_t first = p + 1 < MODEL_PENALTY_WINDOW ? 0 : p + 1 - MODEL_PENALTY_WINDOW;
            all[p + 1] = sim_stub_token(hidden, &r->sampling, p + 1, all + first, p + 1 - first);
            sim_stub_logprobs(hidden, &r->sampling, all[p + 1], &out->logprobs[out->n_tokens]);
            if (take_token(w, r, out, all[p + 1], limit))
                return;
        }
    }
}
