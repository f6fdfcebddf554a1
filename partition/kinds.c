/* A problem relaxed for lower bounds: devices become kinds, layers become weight, teams become sets of
 * kinds with a least time for each.
 *
 * Kinds: devices that are alike in everything are one kind; where that leaves too many sets of
 * devices to list, the two kinds most alike are merged into one that is in everything as good as the
 * better. Layers: a reference layer is on every device the slowest of all layers; layer l weighs w_l,
 * the least ratio of its seconds to the reference's, so a team takes at least w_l times what it takes
 * for the reference layer; bytes count by weight in the same way, rounded down. A team (how many of
 * each kind, the leader's kind) then has a least time per weight (halves.c). The more weight a team takes,
 * the less of it may lie on small boards, so that time is a rising staircase over weight.
 *
 * Invariant: no plan's stage is quicker, or needs less memory, than its set's numbers say. */
#include "partition/kinds.h"

#include <stdlib.h>
#include <string.h>

enum {
    SETS_MAX = 2000,
    SETS_FEW = 200, /* above, devices that differ by no more than measurements do are merged */
};

/* Distance of boards of one make whose measurements differ by some percent. */
static const double measured_alike = 0.12;

const double part_levels[PART_LEVELS + 1] = {0.0,   0.1,  0.2,   0.3,  0.4, 0.5,  0.55,
                                             0.6,   0.65, 0.7,   0.75, 0.8, 0.85, 0.9,
                                             0.925, 0.95, 0.965, 0.98, 1.0};

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

double part_held_bytes(const struct part_held *h, double weight)
{
    return along(h->weight, h->bytes, h->n, weight);
}

double part_held_weight(const struct part_held *h, double bytes)
{
    return bytes <= 0.0 ? 0.0 : along(h->bytes, h->weight, h->n, bytes);
}

void part_layers_weigh(struct part_relaxed *r)
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
    r->some = base_zalloc(r->n_vectors, sizeof *r->some);
    if (r->some == NULL || r->sets == NULL || r->set_at == NULL || r->attn == NULL ||
        r->ff == NULL || r->up == NULL)
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
    base_free(r->some);
}
