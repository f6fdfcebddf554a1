/* The coordinator core: what workers report, kept for a while.
 *
 * Each report becomes a sample in its worker's ring of WATCH_SAMPLES; the oldest is overwritten. From
 * them come the two figures that a policy needs, free memory with its slope and the time of a stage
 * against what the plan promised, and the histories that `shoal status` and `top` show. Passes are
 * compared with the prediction for as many rows as they had; those that also took prompt rows, and
 * those of another plan, are not compared.
 *
 * A report is a peer's word: what is out of its range counts as not known. The invariant: a sample is
 * never of another life of its worker, and nothing here decides anything. */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

enum {
    RECENT_MS = 10000, /* what "recent" means for slopes and means */
    SLOPE_SAMPLES = 3, /* fewer say nothing of a slope */
    PACE_S = 5         /* seconds that a rate is the mean of */
};

/* Sample `back` before the newest; NULL: there is none. */
static const struct watch_sample *sample_at(const struct watch *w, uint32_t back)
{
    if (back >= WATCH_SAMPLES || back >= w->n)
        return NULL;
    return &w->samples[(w->n - 1 - back) % WATCH_SAMPLES];
}

static double within(double v, double low, double high)
{
    return v >= low && v <= high ? v : NAN; /* a NAN is not within */
}

/* ---- taking reports -------------------------------------------------------------------------- */

/* Predicted milliseconds of a pass of so many rows of decoding. */
static double predicted_ms(const struct coord_core *c, uint32_t stage, double rows)
{
    const double one = c->now.stage_s[stage], all = c->now.stage_batch_s[stage];
    const double slots = c->config.slots;
    const double part = slots > 1 ? fmin(1, fmax(0, (rows - 1) / (slots - 1))) : 0;
    return 1e3 * (one + part * (all - one));
}

/* The passes since the report before, if all of them were of the plan in force. */
static void compare(const struct coord_core *c, uint32_t node, const struct net_msg_REPORT *m,
                    struct watch_sample *s)
{
    const struct watch *w = &c->nodes[node].watch;
    uint32_t member;
    if (c->now.epoch == 0 || w->epoch != c->now.epoch || w->n == 0 ||
        m->decode_passes <= w->decode_passes || m->decode_rows < w->decode_rows ||
        m->decode_us < w->decode_us)
        return;
    const uint32_t stage = part_plan_find(&c->now.plan, node, &member);
    if (stage >= c->now.plan.n_stages || member != 0)
        return;
    const double passes = (double)(m->decode_passes - w->decode_passes);
    const double expected =
        predicted_ms(c, stage, (double)(m->decode_rows - w->decode_rows) / passes);
    s->passes = passes;
    s->ms = (double)(m->decode_us - w->decode_us) / 1e3 / passes;
    s->ratio = expected > 0 ? s->ms / expected : NAN;
}

void coord_core_report(struct coord_core *c, uint32_t node, const struct net_msg_REPORT *m)
{
    struct watch *w = &c->nodes[node].watch;
    struct watch_sample s = {
        .at_ms = c->now_ms,
        .epoch = c->now.epoch,
        .memory_free = m->memory_free,
        .memory_used = m->memory_used,
        .memory_own = m->memory_own,
        .memory_pressure = within(m->memory_pressure, 0, 100),
        .cpu_pressure = within(m->cpu_pressure, 0, 100),
        .temperature = within(m->temperature, -100, 300),
        .clock = within(m->clock, 0, 1),
        .battery = within(m->battery, 0, 1),
        .power = within(m->power, -1e6, 1e6),
        .share = within(m->share, 1e-3, 1),
        .round_trip_ms = within(m->round_trip, 0, 1e6),
        .busy = c->nodes[node].busy,
        .ms = NAN,
        .ratio = NAN,
        .waiting = m->waiting,
        .flags = m->flags,
    };
    compare(c, node, m, &s);
    if (w->epoch != c->now.epoch)
        memset(w->evidence, 0, sizeof w->evidence);
    w->samples[w->n++ % WATCH_SAMPLES] = s;
    w->epoch = c->now.epoch;
    w->decode_passes = m->decode_passes;
    w->decode_rows = m->decode_rows;
    w->decode_us = m->decode_us;
}

void coord_core_watch_forget(struct coord_core *c, uint32_t node)
{
    memset(&c->nodes[node].watch, 0, sizeof c->nodes[node].watch);
}

/* ---- what a policy asks ---------------------------------------------------------------------- */

const struct watch_sample *coord_core_watched(const struct coord_core *c, uint32_t node)
{
    const struct watch_sample *s = sample_at(&c->nodes[node].watch, 0);
    const int64_t fresh_ms = 3 * (int64_t)c->config.report_ms + 500;
    return s != NULL && c->now_ms - s->at_ms <= fresh_ms ? s : NULL;
}

static double can_have(const struct watch_sample *s)
{
    return (double)s->memory_free + (double)s->memory_own;
}

/* Least squares through the recent samples. What the worker takes or gives back itself, as when its
 * plan changes, is no trend. */
bool coord_core_memory(const struct coord_core *c, uint32_t node, double *bytes, double *slope)
{
    const struct watch *w = &c->nodes[node].watch;
    const struct watch_sample *now = coord_core_watched(c, node), *s;
    double n = 0, t = 0, tt = 0, y = 0, ty = 0;
    if (now == NULL || now->memory_free == UINT64_MAX)
        return false;
    for (uint32_t i = 0; (s = sample_at(w, i)) != NULL && c->now_ms - s->at_ms <= RECENT_MS; i++) {
        if (s->memory_free == UINT64_MAX)
            continue;
        /* From the newest on, so that the numbers stay small beside what changes. */
        const double seconds = (double)(s->at_ms - now->at_ms) / 1e3,
                     more = can_have(s) - can_have(now);
        n += 1;
        t += seconds;
        tt += seconds * seconds;
        y += more;
        ty += seconds * more;
    }
    const double spread = n * tt - t * t;
    *bytes = can_have(now);
    *slope = n >= SLOPE_SAMPLES && spread > 0 ? (n * ty - t * y) / spread : 0;
    return true;
}

double coord_core_slowness(const struct coord_core *c, uint32_t node, double *passes)
{
    const struct watch *w = &c->nodes[node].watch;
    const struct watch_sample *s;
    double sum = 0;
    *passes = 0;
    for (uint32_t i = 0; (s = sample_at(w, i)) != NULL && c->now_ms - s->at_ms <= RECENT_MS; i++)
        if (c->now.epoch != 0 && s->epoch == c->now.epoch && !isnan(s->ratio)) {
            sum += s->ratio * s->passes;
            *passes += s->passes;
        }
    return *passes > 0 ? sum / *passes : 0;
}

/* ---- histories ------------------------------------------------------------------------------- */

uint32_t coord_core_history(const struct coord_core *c, uint32_t node,
                            double lists[static 3][WATCH_SAMPLES])
{
    const struct watch *w = &c->nodes[node].watch;
    const uint32_t n = w->n < WATCH_SAMPLES ? (uint32_t)w->n : WATCH_SAMPLES;
    for (uint32_t i = 0; i < n; i++) {
        const struct watch_sample *s = sample_at(w, n - 1 - i);
        lists[0][i] = s->busy;
        lists[1][i] = s->memory_free == UINT64_MAX ? NET_UNKNOWN : (double)s->memory_free;
        lists[2][i] = net_to_wire(s->ms);
    }
    return n;
}

/* Seconds that have passed had no tokens. */
static void pace_go_on(struct coord_core *c)
{
    const int64_t second = c->now_ms / 1000;
    for (uint32_t i = 0; c->pace_second < second && i < WATCH_SAMPLES; i++)
        c->pace[++c->pace_second % WATCH_SAMPLES] = 0;
    c->pace_second = second;
}

void coord_core_pace_count(struct coord_core *c)
{
    pace_go_on(c);
    c->pace[c->pace_second % WATCH_SAMPLES]++;
}

double coord_core_pace(struct coord_core *c, double history[static WATCH_SAMPLES - 1])
{
    uint32_t recent = 0;
    pace_go_on(c);
    /* The second that runs is left out. */
    for (uint32_t i = 0; i < WATCH_SAMPLES - 1; i++)
        history[i] = c->pace[(c->pace_second + 1 + i) % WATCH_SAMPLES];
    for (uint32_t i = 0; i < PACE_S; i++)
        recent += (uint32_t)history[WATCH_SAMPLES - 2 - i];
    return (double)recent / PACE_S;
}
