/* A problem relaxed for lower bounds: devices become kinds, layers become weight, teams become sets of
 * kinds with a least time for each.
 *
 * Kinds: devices that are alike in everything are one kind; where that leaves too many sets of
 * devices to list, the two kinds most alike are merged into one that is in everything as good as the
 * better. Layers: a reference layer is on every device the slowest of all layers; layer l weighs w_l,
 * the least ratio of its seconds to the reference's, so a team takes at least w_l times what it takes
 * for the reference layer; bytes count by weight in the same way, rounded down. A team (how many of
 * each kind, the leader's kind) then has a least time per weight for each half: units are dealt as
 * integers, but members may also take none of one half, and links are the best of their kind. The more
 * weight a team takes, the less of it may lie on small boards (couple.c), so that time is a rising
 * staircase over weight.
 *
 * Invariant: no plan's stage is quicker, or needs less memory, than its set's numbers say. */
#include "partition/kinds.h"

#include <stdlib.h>
#include <string.h>

enum {
    SETS_MAX = 2000,
    QUOTA_STEPS = 8,
    SETS_FEW = 200, /* above, devices that differ by no more than measurements do are merged */
};

/* Distance of boards of one make whose measurements differ by some percent. */
static const double measured_alike = 0.12;

const double part_levels[PART_LEVELS + 1] = {0.0, 0.2, 0.4, 0.6, 0.8, 0.92, 0.98, 1.0};

/* ---- kinds ----------------------------------------------------------------------------------- */

static bool alike(double a, double b, double within)
{
    return fabs(a - b) <= within * fmax(fabs(a), fabs(b));
}

/* Seconds of the whole model on one device: what makes kinds more or less alike. */
static double whole_s(const struct part_problem *p, uint32_t d)
{
    const struct part_stage s = part_stage_single(p, d, 0, p->n_layers, true);
    return part_stage_seconds(p, &s, 1.0);
}

static double distance(const struct part_problem *p, uint32_t a, uint32_t b)
{
    const struct part_device *x = &p->devices[a], *y = &p->devices[b];
    double far = fabs(log(fmax(whole_s(p, a), 1e-12) / fmax(whole_s(p, b), 1e-12)));
    far += 0.5 * fabs(log(((double)x->memory_bytes + 1.0) / ((double)y->memory_bytes + 1.0)));
    for (uint32_t q = 0; q < p->n_devices; q++)
        if (q != a && q != b) {
            far +=
                0.1 * fabs(log((p->lat_s[a][q] + 1e-6) / (p->lat_s[b][q] + 1e-6))) / p->n_devices;
            far += 0.1 * fabs(log(p->rate[a][q] / p->rate[b][q])) / p->n_devices;
        }
    far += fabs(log(part_throttle(x) / part_throttle(y)));
    return far + (alike(x->message_s, y->message_s, 1e-9) ? 0.0 : 0.01);
}

static uint64_t n_sets(const uint32_t *n_of, uint32_t kinds)
{
    uint64_t n = 1;
    for (uint32_t g = 0; g < kinds; g++)
        n *= n_of[g] + 1;
    return n * kinds;
}

static uint32_t make_kinds(struct part_relaxed *r)
{
    const struct part_problem *p = r->p;
    uint32_t kinds = p->n_devices;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        r->kind_of[d] = d;
        r->n_of[d] = 1;
    }
    for (;;) {
        double least = PART_NEVER;
        uint32_t a = 0, b = 0;
        for (uint32_t d = 0; d < p->n_devices; d++)
            for (uint32_t e = d + 1; e < p->n_devices; e++)
                if (r->kind_of[d] != r->kind_of[e] && distance(p, d, e) < least) {
                    least = distance(p, d, e);
                    a = r->kind_of[d];
                    b = r->kind_of[e];
                }
        const uint64_t sets = n_sets(r->n_of, kinds);
        if (least == PART_NEVER ||
            (least > 1e-9 && sets <= (least < measured_alike ? SETS_FEW : SETS_MAX)))
            break;
        if (a > b) {
            const uint32_t t = a;
            a = b;
            b = t;
        }
        r->n_of[a] += r->n_of[b];
        r->n_of[b] = r->n_of[--kinds];
        for (uint32_t d = 0; d < p->n_devices; d++)
            r->kind_of[d] = r->kind_of[d] == b ? a : r->kind_of[d] == kinds ? b : r->kind_of[d];
    }
    return kinds;
}

static struct part_time sooner(struct part_time a, struct part_time b)
{
    return (struct part_time){fmin(a.pass_s, b.pass_s), fmin(a.row_s, b.row_s)};
}

/* Each kind in everything as good as the best of its devices. */
static void fill_kinds(struct part_relaxed *r, uint32_t n)
{
    const struct part_problem *p = r->p;
    struct part_problem *k = &r->kinds;
    bool seen[PART_DEVICES_MAX] = {false};
    k->n_devices = n;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const uint32_t g = r->kind_of[d];
        const struct part_device *x = &p->devices[d];
        struct part_device *y = &k->devices[g];
        if (!seen[g])
            *y = *x;
        seen[g] = true;
        y->half = sooner(y->half, x->half);
        y->embed = sooner(y->embed, x->embed);
        y->output = sooner(y->output, x->output);
        y->pass_s = fmin(y->pass_s, x->pass_s);
        y->message_s = fmin(y->message_s, x->message_s);
        y->byte_s = fmin(y->byte_s, x->byte_s);
        y->throttle = fmin(part_throttle(y), part_throttle(x));
        y->memory_bytes = y->memory_bytes > x->memory_bytes ? y->memory_bytes : x->memory_bytes;
    }
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++) {
            k->lat_s[a][b] = PART_NEVER;
            k->rate[a][b] = 1e-3;
        }
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t e = 0; e < p->n_devices; e++) {
            double *lat = &k->lat_s[r->kind_of[d]][r->kind_of[e]];
            double *rate = &k->rate[r->kind_of[d]][r->kind_of[e]];
            if (d == e)
                continue;
            *lat = fmin(*lat, p->lat_s[d][e]);
            *rate = fmax(*rate, p->rate[d][e]);
        }
}

static int by_bytes(const void *a, const void *b)
{
    const double *x = a, *y = b; /* weight, bytes */
    const double d = x[1] * y[0] - y[1] * x[0];
    return (d > 0.0) - (d < 0.0);
}

/* Layers with the fewest bytes per weight first. */
static void fill_held(struct part_held *h, double (*layers)[2], uint32_t n)
{
    qsort(layers, n, sizeof *layers, by_bytes);
    h->n = n + 1;
    h->weight[0] = h->bytes[0] = 0.0;
    for (uint32_t l = 0; l < n; l++) {
        h->weight[l + 1] = h->weight[l] + layers[l][0];
        h->bytes[l + 1] = h->bytes[l] + layers[l][1];
    }
}

/* Piecewise linear; `of` rises. */
static double along(const double *of, const double *to, uint32_t n, double x)
{
    uint32_t low = 0, high = n - 1;
    if (x >= of[n - 1])
        return to[n - 1];
    while (high - low > 1) {
        const uint32_t mid = (low + high) / 2;
        if (of[mid] <= x)
            low = mid;
        else
            high = mid;
    }
    return of[high] > of[low]
               ? to[low] + (to[high] - to[low]) * (x - of[low]) / (of[high] - of[low])
               : to[high];
}

static double held_bytes(const struct part_held *h, double weight)
{
    return along(h->weight, h->bytes, h->n, weight);
}

double part_held_weight(const struct part_held *h, double bytes)
{
    return bytes <= 0.0 ? 0.0 : along(h->bytes, h->weight, h->n, bytes);
}

/* The reference layer and the weights, for passes of r->rows rows. */
static void weigh_layers(struct part_relaxed *r)
{
    const struct part_problem *p = r->p;
    struct part_problem *k = &r->kinds;
    double attn[PART_DEVICES_MAX] = {0.0}, ff[PART_DEVICES_MAX] = {0.0};
    double head[PART_LAYERS_MAX][2], kv[PART_LAYERS_MAX][2], columns[PART_LAYERS_MAX][2],
        all[PART_LAYERS_MAX][2];
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t l = 0; l < p->n_layers; l++) {
            attn[d] = fmax(attn[d], part_time_at(p->devices[d].attn[l], r->rows));
            ff[d] = fmax(ff[d], part_time_at(p->devices[d].ff[l], r->rows));
        }
    for (uint32_t g = 0; g < k->n_devices; g++) {
        k->devices[g].attn[0] = k->devices[g].ff[0] = (struct part_time){PART_NEVER, 0.0};
        for (uint32_t d = 0; d < p->n_devices; d++)
            if (r->kind_of[d] == g) {
                k->devices[g].attn[0].pass_s = fmin(k->devices[g].attn[0].pass_s, attn[d]);
                k->devices[g].ff[0].pass_s = fmin(k->devices[g].ff[0].pass_s, ff[d]);
            }
    }
    r->weight = 0.0;
    r->lightest = r->heads_share = 1.0;
    r->kv_per_head = (double)p->unit_heads / p->heads_per_kv;
    r->bytes = (double)p->embed_bytes + (double)p->output_bytes +
               (double)p->n_vocab_runs * (double)(p->run_bytes - p->shared_run_bytes);
    for (uint32_t l = 0; l < p->n_layers; l++)
        r->bytes += (double)part_layer_bytes(p, l);
    r->bytes = fmax(r->bytes, 1.0);
    r->common = PART_NEVER;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        double w = 1.0;
        for (uint32_t d = 0; d < p->n_devices; d++) {
            const double a = part_time_at(p->devices[d].attn[l], r->rows);
            const double f = part_time_at(p->devices[d].ff[l], r->rows);
            w = attn[d] > 0.0 ? fmin(w, a / attn[d]) : w;
            w = ff[d] > 0.0 ? fmin(w, f / ff[d]) : w;
        }
        w = fmax(w, 1e-6);
        r->weight += w;
        r->lightest = fmin(r->lightest, w);
        const double share = p->layers[l].kv_share;
        r->heads_share =
            fmin(r->heads_share, (1.0 - share) + share * r->kv_per_head * p->n_head_units /
                                                     part_kv_heads(p, 0, p->n_head_units));
        r->common = fmin(r->common, (double)p->layers[l].common_bytes / w);
        head[l][0] = kv[l][0] = columns[l][0] = all[l][0] = w;
        head[l][1] = (double)p->layers[l].head_bytes;
        kv[l][1] = (double)p->layers[l].kv_bytes;
        columns[l][1] = (double)p->layers[l].ff_bytes;
        all[l][1] = (double)part_layer_bytes(p, l);
    }
    fill_held(&r->head_held, head, p->n_layers);
    fill_held(&r->kv_held, kv, p->n_layers);
    fill_held(&r->ff_held, columns, p->n_layers);
    fill_held(&r->all_held, all, p->n_layers);
}

/* ---- teams of kinds -------------------------------------------------------------------------- */

static uint32_t find_set(const struct part_relaxed *r, const uint8_t *count, uint8_t lead)
{
    for (uint32_t q = 0; q < r->n_sets; q++)
        if (r->sets[q].lead == lead &&
            memcmp(r->sets[q].count, count, sizeof r->sets[q].count) == 0)
            return q;
    return UINT16_MAX;
}

/* Smaller sets come first. */
static void list_sets(struct part_relaxed *r)
{
    const struct part_problem *p = r->p;
    const uint32_t kinds = r->kinds.n_devices;
    for (uint32_t n = 1; n <= p->n_devices; n++) {
        if ((p->granularity == PART_LAYERS && n > 1))
            break;
        uint8_t count[PART_DEVICES_MAX] = {0};
        for (bool more = true; more;) {
            uint32_t sum = 0;
            for (uint32_t g = 0; g < kinds; g++)
                sum += count[g];
            for (uint32_t g = 0; sum == n && g < kinds; g++) {
                if (count[g] == 0)
                    continue;
                struct part_set *s = &r->sets[r->n_sets];
                memset(s, 0, sizeof *s);
                memcpy(s->count, count, sizeof count);
                s->lead = (uint8_t)g;
                s->n = (uint8_t)n;
                uint32_t vector = 0, step = 1;
                for (uint32_t q = 0; q < kinds; q++) {
                    vector += (count[q] - (q == g ? 1u : 0u)) * step;
                    step *= r->n_of[q] + 1;
                }
                r->set_at[g * r->n_vectors + vector] = (uint16_t)r->n_sets;
                for (uint32_t q = 0; q < kinds; q++) {
                    s->smaller[q] = UINT16_MAX;
                    if (count[q] > (q == g ? 1 : 0)) {
                        count[q]--;
                        s->smaller[q] = (uint16_t)find_set(r, count, (uint8_t)g);
                        count[q]++;
                    }
                }
                r->n_sets++;
            }
            uint32_t g = 0;
            while (g < kinds && count[g] == r->n_of[g])
                count[g++] = 0;
            more = g < kinds;
            if (more)
                count[g]++;
        }
    }
}

/* Units to deal: member j lasts lag + fixed + n * unit for n of them, at most cap. */
struct taker {
    double s, unit_s;
    double cap;
    uint32_t n; /* members alike */
};

/* The least time at which `units` are taken; a lower side of a bisection. */
static double deal_time(const struct taker *t, uint32_t n, double units)
{
    double low = PART_NEVER, high = 0.0, can = 0.0;
    for (uint32_t k = 0; k < n; k++) {
        const double cap = fmin(t[k].cap, units);
        can += t[k].n * cap;
        low = fmin(low, t[k].s + (cap >= 1.0 ? t[k].unit_s : 0.0));
        high = fmax(high, t[k].s + cap * t[k].unit_s);
    }
    if (can < units)
        return PART_NEVER;
    for (int k = 0; k < 40 && high - low > 1e-9 * high; k++) {
        const double mid = low + (high - low) / 2.0;
        double taken = 0.0;
        for (uint32_t q = 0; q < n; q++)
            if (mid >= t[q].s) {
                const double fit =
                    t[q].unit_s > 0.0 ? floor((mid - t[q].s) / t[q].unit_s * (1.0 + 1e-12)) : units;
                taken += t[q].n * fmin(fit, fmin(t[q].cap, units));
            }
        if (taken >= units)
            high = mid;
        else
            low = mid;
    }
    return low;
}

enum part { PART_OF_HEADS, PART_OF_FF, PART_OF_RUNS };

/* The least time of a half of the reference layer (or of the output matrix) in which all members, or
 * all but the leader, take part. `room`: weight per member's memory, bytes. */
static double half_time(const struct part_relaxed *r, const struct part_set *s,
                        enum part_shape shape, enum part what, bool leader_too)
{
    const struct part_problem *k = &r->kinds;
    struct part_team t = {.n = s->n, .members = {s->lead}, .shape = shape};
    struct part_half h = {.rows_bytes = r->rows * k->normed_bytes};
    struct taker takers[PART_DEVICES_MAX + 1];
    uint32_t n = 1, n_takers = 0;
    const double units = what == PART_OF_HEADS ? k->n_head_units
                         : what == PART_OF_FF  ? k->n_ff_units
                                               : k->n_vocab_runs;
    for (uint32_t g = 0; g < k->n_devices; g++)
        for (uint32_t c = g == s->lead ? 1 : 0; c < s->count[g]; c++)
            t.members[n++] = g;
    for (uint32_t m = 0; m < n; m++) {
        h.has[m] = m > 0 || leader_too;
        h.sum_bytes[m] = what == PART_OF_RUNS ? 0.0 : r->rows * k->sum_bytes;
    }
    double lag_s[PART_DEVICES_MAX];
    part_half_lags(k, &t, &h, lag_s);
    for (uint32_t m = leader_too ? 0 : 1; m < n; m++) {
        const uint32_t d = t.members[m];
        const struct part_device *dev = &k->devices[d];
        if (m > 1 && d == t.members[m - 1] && n_takers > 0) {
            takers[n_takers - 1].n++;
            continue;
        }
        struct taker *x = &takers[n_takers++];
        /* A set is also part of a larger one, whose members do not spend their quotas. */
        const double quick = part_throttle(dev);
        const double whole = what == PART_OF_HEADS ? quick * dev->attn[0].pass_s
                             : what == PART_OF_FF  ? quick * dev->ff[0].pass_s
                                                   : part_time_at(dev->output, r->rows);
        const double fixed =
            what == PART_OF_RUNS ? 0.0 : fmin(quick * part_time_at(dev->half, r->rows), whole);
        x->n = 1;
        x->s = lag_s[m] + fixed;
        x->unit_s = (whole - fixed) * (what == PART_OF_HEADS ? r->heads_share : 1.0) / units;
        if (what == PART_OF_RUNS && m > 0)
            x->unit_s += r->rows * k->logits_bytes / units / k->rate[d][s->lead];
        x->cap = dev->memory_bytes > k->base_bytes + k->scratch_bytes ? units : 0.0;
    }
    return deal_time(takers, n_takers, units);
}

/* Members of kind g beside the leader. */
static uint32_t others(const struct part_set *s, uint32_t g)
{
    return s->count[g] - (g == s->lead ? 1u : 0u);
}

/* The least time of one part for every set, all of it taking part, with the leader and without. */
static void part_times(struct part_relaxed *r, enum part_shape shape, enum part what,
                       struct part_of_set *out)
{
    for (uint32_t q = 0; q < r->n_sets; q++) {
        out[q].with_s = half_time(r, &r->sets[q], shape, what, true);
        out[q].without_s =
            r->sets[q].n > 1 ? half_time(r, &r->sets[q], shape, what, false) : PART_NEVER;
    }
}

/* The part of set q's members that `code` counts of each kind (mixed radix over its others); as a
 * set of its own. */
static uint32_t subset(const struct part_relaxed *r, uint32_t q, uint32_t code)
{
    const struct part_set *s = &r->sets[q];
    uint32_t at = 0, step = 1;
    for (uint32_t g = 0; g < r->kinds.n_devices; g++) {
        at += code % (others(s, g) + 1) * step;
        code /= others(s, g) + 1;
        step *= r->n_of[g] + 1;
    }
    return r->set_at[s->lead * r->n_vectors + at];
}

/* The least time of both halves where every member has a part of at least one of them: attention by
 * some members, feed-forward by all others and perhaps some of these too. */
static double both_halves(struct part_relaxed *r, uint32_t q)
{
    const struct part_set *s = &r->sets[q];
    uint32_t n = 1;
    double least = PART_NEVER;
    for (uint32_t g = 0; g < r->kinds.n_devices; g++)
        n *= others(s, g) + 1;
    /* r->up[f]: the least feed-forward time of those that f counts and any others of the set */
    for (uint32_t f = n; f-- > 0;) {
        struct part_of_set *up = &r->up[f];
        uint32_t step = 1;
        *up = r->ff[subset(r, q, f)];
        for (uint32_t g = 0; g < r->kinds.n_devices; g++) {
            if (f / step % (others(s, g) + 1) < others(s, g)) {
                up->with_s = fmin(up->with_s, r->up[f + step].with_s);
                up->without_s = fmin(up->without_s, r->up[f + step].without_s);
            }
            step *= others(s, g) + 1;
        }
    }
    for (uint32_t a = 0; a < n; a++) {
        const struct part_of_set *attn = &r->attn[subset(r, q, a)];
        const struct part_of_set *ff = &r->up[n - 1 - a]; /* at least the others */
        least = fmin(least, attn->with_s + fmin(ff->with_s, ff->without_s));
        least = fmin(least, attn->without_s + ff->with_s);
    }
    return least;
}

/* Memory decides little where a team has this much more than it needs. */
#define COUPLED_WITHIN 1.15

/* What a star pays for member m of kind d in a half, whoever ends last: messages at the leader, and
 * (*wires_s, unless the leader itself ends last) the leader's port. */
static double star_share(const struct part_relaxed *r, uint32_t lead, uint32_t d, double *wires_s)
{
    const struct part_problem *k = &r->kinds;
    const struct part_device *dev = &k->devices[lead];
    const double rows = r->rows * k->normed_bytes, sums = r->rows * k->sum_bytes;
    *wires_s = rows / k->rate[lead][d] + sums / k->rate[d][lead];
    return 2.0 * dev->message_s + (rows + sums) * dev->byte_s;
}

/* The least time of a layer as memory couples heads and columns, where every member has a part of at
 * least one half. Lags are those of a member alone in taking part; of a star, what each member costs
 * all others is taken out of them, once, and comes on top: only the leader may be quicker by the
 * time on the wires. */
static double coupled(const struct part_relaxed *r, uint32_t set, enum part_shape shape, int level)
{
    const struct part_problem *k = &r->kinds;
    const struct part_set *s = &r->sets[set];
    const double weight = part_levels[level] * r->weight,
                 cap = part_held_weight(&r->all_held, s->room);
    if (cap < weight)
        return PART_NEVER;
    if (level == 0 || s->n == 1 || cap > COUPLED_WITHIN * weight)
        return 0.0;
    struct part_couple c = {.heads = k->n_head_units,
                            .columns = k->n_ff_units,
                            .head_bytes = held_bytes(&r->head_held, weight) +
                                          held_bytes(&r->kv_held, weight) * r->kv_per_head,
                            .column_bytes = held_bytes(&r->ff_held, weight)};
    struct part_team t = {.n = s->n, .members = {s->lead}, .shape = shape};
    uint32_t n = 1;
    for (uint32_t g = 0; g < k->n_devices; g++)
        for (uint32_t q = 0; q < others(s, g); q++)
            t.members[n++] = g;
    double shared_s = 0.0, all_wires_s = 0.0, wires_s = 0.0;
    for (uint32_t m = 1; shape == PART_STAR && m < n; m++) {
        shared_s += star_share(r, s->lead, t.members[m], &wires_s) + wires_s;
        all_wires_s += wires_s;
    }
    for (uint32_t m = 0; m < n; m++) {
        const struct part_device *dev = &k->devices[t.members[m]];
        struct part_half h = {.rows_bytes = r->rows * k->normed_bytes};
        double lag_s[PART_DEVICES_MAX];
        if (m > 1 && t.members[m] == t.members[m - 1]) {
            c.at[c.n - 1].n++;
            continue;
        }
        h.has[m] = true;
        h.sum_bytes[m] = r->rows * k->sum_bytes;
        part_half_lags(k, &t, &h, lag_s);
        if (shape == PART_STAR)
            lag_s[m] -=
                m == 0 ? all_wires_s : star_share(r, s->lead, t.members[m], &wires_s) + wires_s;
        const double quick = part_throttle(dev), fixed = quick * part_time_at(dev->half, r->rows);
        const double attn = quick * dev->attn[0].pass_s, ff = quick * dev->ff[0].pass_s;
        c.at[c.n++] = (struct part_couple_member){
            .n = 1,
            .attn_s = lag_s[m] + fmin(fixed, attn),
            .head_s = (attn - fmin(fixed, attn)) * r->heads_share / k->n_head_units,
            .ff_s = lag_s[m] + fmin(fixed, ff),
            .column_s = (ff - fmin(fixed, ff)) / k->n_ff_units,
            .room = (double)dev->memory_bytes - (double)(k->base_bytes + k->scratch_bytes) -
                    r->common * weight};
        c.most_s = fmax(c.most_s, lag_s[m] + fmax(attn, ff));
    }
    return part_couple_seconds(&c) + shared_s;
}

/* What the members' quotas give them no less time for: with a weight of `a` on heads and 1 - a on
 * columns, a member within s seconds has at most (s - fixed) * the dearer of both of what all need.
 * That holds for every a, so the largest of several. */
static double quota_time(const struct part_relaxed *r, const struct part_set *s)
{
    const struct part_problem *k = &r->kinds;
    double most = 0.0;
    if (s->n == 1)
        return k->devices[s->lead].attn[0].pass_s + k->devices[s->lead].ff[0].pass_s;
    for (int step = 1; step < QUOTA_STEPS; step++) {
        const double a = (double)step / QUOTA_STEPS;
        double low = 0.0, high = 0.0, worth[PART_DEVICES_MAX], fixed[PART_DEVICES_MAX];
        for (uint32_t g = 0; g < k->n_devices; g++) {
            const struct part_device *dev = &k->devices[g];
            const double attn = dev->attn[0].pass_s, ff = dev->ff[0].pass_s;
            fixed[g] = fmin(part_time_at(dev->half, r->rows), fmin(attn, ff));
            worth[g] = fmax(a / fmax((attn - fixed[g]) * r->heads_share, 1e-12),
                            (1.0 - a) / fmax(ff - fixed[g], 1e-12));
            high = s->count[g] > 0 ? fmax(high, attn + ff) : high;
        }
        for (int q = 0; q < 30 && high - low > 1e-4 * high; q++) {
            const double mid = low + (high - low) / 2.0;
            double done = 0.0;
            for (uint32_t g = 0; g < k->n_devices; g++)
                done += s->count[g] * fmax(mid - fixed[g], 0.0) * worth[g];
            if (done >= 1.0)
                high = mid;
            else
                low = mid;
        }
        most = fmax(most, low);
    }
    return most;
}

/* Everything about the sets, for passes of so many rows. */
void part_sets_time(struct part_relaxed *r, double rows)
{
    const struct part_problem *k = &r->kinds;
    if (r->rows == rows)
        return;
    r->rows = rows;
    weigh_layers(r);
    for (uint32_t q = 0; q < r->n_sets; q++) {
        struct part_set *s = &r->sets[q];
        s->room = 0.0;
        for (uint32_t g = 0; g < k->n_devices; g++)
            s->room +=
                s->count[g] *
                ((double)k->devices[g].memory_bytes -
                 (double)(k->base_bytes + k->scratch_bytes + (s->n > 1 ? k->team_bytes : 0)));
    }
    for (uint32_t q = 0; q < r->n_sets; q++)
        for (int level = 0; level < PART_LEVELS; level++)
            r->sets[q].tau[level] = PART_NEVER;
    const bool quota = part_any_quota(r->p);
    for (int shape = 0; shape < 2; shape++) {
        if (!part_shape_wanted(r->p, (enum part_shape)shape) && r->p->granularity != PART_LAYERS)
            continue;
        part_times(r, (enum part_shape)shape, PART_OF_HEADS, r->attn);
        part_times(r, (enum part_shape)shape, PART_OF_FF, r->ff);
        for (uint32_t q = 0; q < r->n_sets; q++) {
            const double both_s = both_halves(r, q);
            const double quota_s = quota ? quota_time(r, &r->sets[q]) : 0.0;
            for (int level = 0; level < PART_LEVELS; level++) {
                double *tau = &r->sets[q].tau[level];
                const double least = fmax(both_s, coupled(r, q, (enum part_shape)shape, level));
                *tau = fmin(*tau, fmax(least, quota_s));
            }
        }
    }
    part_times(r, PART_STAR, PART_OF_RUNS, r->ff);
    for (uint32_t g = 0; g < k->n_devices; g++)
        r->output_least_s[g] = PART_NEVER;
    for (uint32_t q = 0; q < r->n_sets; q++) {
        struct part_set *s = &r->sets[q];
        s->output_s = fmin(r->ff[q].with_s, r->ff[q].without_s);
        for (uint32_t g = 0; g < k->n_devices; g++)
            if (s->smaller[g] != UINT16_MAX)
                s->output_s = fmin(s->output_s, r->sets[s->smaller[g]].output_s);
        r->output_least_s[s->lead] = fmin(r->output_least_s[s->lead], s->output_s);
        s->begin_s = k->devices[s->lead].pass_s;
    }
}

bool part_sets_init(struct part_relaxed *r, const struct part_problem *p)
{
    memset(r, 0, sizeof *r);
    r->p = p;
    r->kinds = *p;
    const uint32_t kinds = make_kinds(r);
    fill_kinds(r, kinds);
    const size_t most = n_sets(r->n_of, kinds);
    if (most > 4 * SETS_MAX)
        return false;
    r->sets = base_zalloc(most, sizeof *r->sets);
    r->n_vectors = (uint32_t)most / kinds;
    r->set_at = base_zalloc(most, sizeof *r->set_at);
    r->attn = base_zalloc(most, sizeof *r->attn);
    r->ff = base_zalloc(most, sizeof *r->ff);
    r->up = base_zalloc(r->n_vectors, sizeof *r->up);
    if (r->sets == NULL || r->set_at == NULL || r->attn == NULL || r->ff == NULL || r->up == NULL)
        return false;
    list_sets(r);
    return true;
}

void part_sets_deinit(struct part_relaxed *r)
{
    base_free(r->sets);
    base_free(r->set_at);
    base_free(r->attn);
    base_free(r->ff);
    base_free(r->up);
}
