/* Published placements, for users who compare: each makes a plan by its own rule, and the cost model
 * of this folder says what it is worth. Where a paper's model is not a ring of contiguous stages the
 * nearest plan that is one is made; docs/planner.md says what was changed. None of them knows pins,
 * use: all or a TTFT limit: a plan that breaks one is refused.
 *
 * Sources, by the sections of the papers as far as known:
 *   even         the split of GPipe (Huang et al. 2019, §2.2) as others use it for a baseline
 *   memory       layers in proportion to memory: llama.cpp's default, and the first guess of Halda
 *                (prima.cpp, 2504.08791, §3)
 *   edgeshard    EdgeShard (Zhang et al., 2405.14371), Algorithm 1: least latency
 *   edgeshard-throughput  the same paper's Algorithm 2: least bottleneck over sets of devices
 *   heads        resource-aware myopic rule (Kafetzis et al., 2505.02533), Algorithm 1
 *   lingualinked LinguaLinked (Zhao et al., 2312.00388), §3.2: least sum, devices in given order
 *   hyperion     Hyperion (Ma et al., 2511.14450), HypSplit-DP: bisection on the bottleneck */
#include "partition/internal.h"

#include <string.h>

enum { SUBSET_WORK_MAX = 60000000 };

typedef int algorithm_run(const struct part_problem *p, struct part_plan *plan, struct err *e);

/* ---- what they share ------------------------------------------------------------------------- */

static double layer_s(const struct part_problem *p, uint32_t d, uint32_t l, double rows)
{
    return part_time_at(p->devices[d].attn[l], rows) + part_time_at(p->devices[d].ff[l], rows);
}

/* Seconds of layers [i, j) on device d, the model's ends included. */
static double run_s(const struct part_problem *p, uint32_t d, uint32_t i, uint32_t j, double rows)
{
    const struct part_stage s = part_stage_single(p, d, i, j, j == p->n_layers);
    return part_stage_seconds(p, &s, rows);
}

static bool run_fits(const struct part_problem *p, uint32_t d, uint32_t i, uint32_t j)
{
    const struct part_stage s = part_stage_single(p, d, i, j, j == p->n_layers);
    return part_member_memory(p, &s, 0) <= p->devices[d].memory_bytes;
}

static double hop_s(const struct part_problem *p, uint32_t d, uint32_t e, double rows)
{
    return d == e ? 0.0 : p->lat_s[d][e] + rows * p->hidden_bytes / p->rate[d][e];
}

static void append(const struct part_problem *p, struct part_plan *plan, uint32_t d, uint32_t i,
                   uint32_t j)
{
    if (j > i)
        plan->stages[plan->n_stages++] = part_stage_single(p, d, i, j, j == p->n_layers);
}

static int no_plan(struct err *e)
{
    return err_set(e, ERR_INFEASIBLE, "the algorithm finds no plan that fits every board");
}

/* Rows with all slots in use, before the number of stages is known: one stage a device. */
static double full_rows(const struct part_problem *p)
{
    return part_full_rows(p, p->n_devices);
}

/* Seconds of every run of layers on every device; PART_NEVER where memory is too small. */
struct run_table {
    uint32_t layers;
    double *s; /* [device][i][j] */
};

static double run_at(const struct run_table *t, uint32_t d, uint32_t i, uint32_t j)
{
    return t->s[((size_t)d * t->layers + i) * (t->layers + 1) + j];
}

static bool fill_runs(struct run_table *t, const struct part_problem *p, double rows)
{
    t->layers = p->n_layers;
    t->s = base_alloc((size_t)p->n_devices * p->n_layers * (p->n_layers + 1) * sizeof *t->s);
    for (uint32_t d = 0; t->s != NULL && d < p->n_devices; d++)
        for (uint32_t i = 0; i < p->n_layers; i++) {
            double *s = &t->s[((size_t)d * p->n_layers + i) * (p->n_layers + 1)];
            const struct part_stage inside = part_stage_single(p, d, i, i, false),
                                    end = part_stage_single(p, d, i, i, true);
            const uint64_t ends = part_member_memory(p, &end, 0);
            uint64_t need = part_member_memory(p, &inside, 0);
            const uint64_t output = ends - need, has = p->devices[d].memory_bytes;
            double sum = p->devices[d].pass_s;
            sum += i == 0 ? part_time_at(p->devices[d].embed, rows) : 0.0;
            for (uint32_t j = 0; j <= p->n_layers; j++)
                s[j] = PART_NEVER;
            for (uint32_t j = i + 1; j <= p->n_layers; j++) {
                const bool last = j == p->n_layers;
                need += part_layer_bytes(p, j - 1) + (last ? output : 0);
                sum += layer_s(p, d, j - 1, rows) +
                       (last ? part_time_at(p->devices[d].output, rows) : 0.0);
                if (need > has)
                    break;
                s[j] = sum;
            }
        }
    return t->s != NULL;
}

/* ---- shares ---------------------------------------------------------------------------------- */

/* Layers in proportion to `part`, whole numbers by largest remainder. */
static int shares(const struct part_problem *p, const double *part, struct part_plan *plan)
{
    uint32_t n[PART_DEVICES_MAX], given = 0, at = 0;
    double rest[PART_DEVICES_MAX], sum = 0.0;
    for (uint32_t d = 0; d < p->n_devices; d++)
        sum += part[d];
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const double want = sum > 0.0 ? p->n_layers * part[d] / sum : 0.0;
        n[d] = (uint32_t)want;
        rest[d] = want - n[d];
        given += n[d];
    }
    for (; given < p->n_layers; given++) {
        uint32_t most = 0;
        for (uint32_t d = 1; d < p->n_devices; d++)
            most = rest[d] > rest[most] + 1e-12 ? d : most;
        n[most]++;
        rest[most] -= 1.0;
    }
    for (uint32_t d = 0; d < p->n_devices; d++) {
        append(p, plan, d, at, at + n[d]);
        at += n[d];
    }
    return 0;
}

static int run_even(const struct part_problem *p, struct part_plan *plan, struct err *e)
{
    double part[PART_DEVICES_MAX];
    (void)e;
    for (uint32_t d = 0; d < p->n_devices; d++)
        part[d] = 1.0;
    return shares(p, part, plan);
}

static int run_memory(const struct part_problem *p, struct part_plan *plan, struct err *e)
{
    double part[PART_DEVICES_MAX];
    const uint64_t each = p->base_bytes + p->scratch_bytes;
    (void)e;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const uint64_t has = p->devices[d].memory_bytes;
        part[d] = has > each ? (double)(has - each) : 0.0;
    }
    return shares(p, part, plan);
}

/* ---- EdgeShard ------------------------------------------------------------------------------- */

static uint32_t source_of(const struct part_problem *p)
{
    for (uint32_t d = 0; d < p->n_devices; d++)
        if (p->devices[d].pin_leader)
            return d;
    return 0;
}

/* DP(i, j): least time up to layer i with layer i on device j. Every state remembers where its best
 * path changed devices, and does not go where memory or an earlier visit forbids: a heuristic, as in
 * the paper. */
struct shard_state {
    double s;
    uint32_t used;
    uint16_t begin; /* first layer of the run that ends here */
    uint16_t from;  /* device before it; PART_DEVICES_MAX: none */
};

static int run_edgeshard(const struct part_problem *p, struct part_plan *plan, struct err *e)
{
    const uint32_t n = p->n_devices, layers = p->n_layers, source = source_of(p);
    struct shard_state(*dp)[PART_DEVICES_MAX] = base_zalloc(layers, sizeof *dp);
    if (dp == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the algorithm's table");
    for (uint32_t i = 0; i < layers; i++)
        for (uint32_t j = 0; j < n; j++) {
            struct shard_state *to = &dp[i][j];
            const struct part_device *dev = &p->devices[j];
            const double own_s = layer_s(p, j, i, 1.0) +
                                 (i + 1 == layers ? part_time_at(dev->output, 1.0) +
                                                        (j != source ? p->lat_s[j][source] : 0.0)
                                                  : 0.0);
            *to = (struct shard_state){.s = PART_NEVER};
            if (i == 0 && j == source && run_fits(p, j, 0, 1))
                *to = (struct shard_state){dev->pass_s + part_time_at(dev->embed, 1.0) + own_s,
                                           1u << j, 0, PART_DEVICES_MAX};
            for (uint32_t k = 0; i > 0 && k < n; k++) {
                const struct shard_state *from = &dp[i - 1][k];
                const uint32_t begin = k == j ? from->begin : i;
                const double s =
                    from->s + own_s + (k != j ? dev->pass_s + hop_s(p, k, j, 1.0) : 0.0);
                if (from->s == PART_NEVER || s >= to->s || (k != j && (from->used >> j & 1) != 0) ||
                    !run_fits(p, j, begin, i + 1))
                    continue;
                *to = (struct shard_state){s, from->used | 1u << j, (uint16_t)begin,
                                           (uint16_t)(k == j ? from->from : k)};
            }
        }
    uint32_t last = 0;
    for (uint32_t j = 1; j < n; j++)
        last = dp[layers - 1][j].s < dp[layers - 1][last].s ? j : last;
    bool found = dp[layers - 1][last].s < PART_NEVER;
    struct part_stage back[PART_DEVICES_MAX];
    uint32_t k = 0;
    for (uint32_t end = layers, d = last; found && end > 0;) {
        const struct shard_state s = dp[end - 1][d];
        back[k++] = part_stage_single(p, d, s.begin, end, end == layers);
        end = s.begin;
        d = s.from;
    }
    while (k > 0)
        plan->stages[plan->n_stages++] = back[--k];
    base_free(dp);
    return found ? 0 : no_plan(e);
}

/* g(m, S, j): least bottleneck of the first m layers on the devices S, j last. Sets grow as
 * 2^devices, so beyond what can be tabled only the quickest devices take part. */
struct set_table {
    const struct part_problem *p;
    struct run_table runs;
    uint32_t n, device[PART_DEVICES_MAX];
    double *g;       /* [set][last][m] */
    uint16_t *begin; /* where the last run began */
    uint8_t *before; /* device before it */
};

static uint32_t quickest(const struct part_problem *p, uint32_t source, uint32_t *device)
{
    uint32_t n = 0, most = p->n_devices;
    while (most > 1 && 0.25 * p->n_layers * p->n_layers * most * (1u << most) > SUBSET_WORK_MAX)
        most--;
    device[n++] = source;
    while (n < most) {
        uint32_t best = PART_DEVICES_MAX;
        for (uint32_t d = 0; d < p->n_devices; d++) {
            bool in = false;
            for (uint32_t k = 0; k < n; k++)
                in = in || device[k] == d;
            if (!in && (best == PART_DEVICES_MAX ||
                        run_s(p, d, 0, p->n_layers, 1.0) < run_s(p, best, 0, p->n_layers, 1.0)))
                best = d;
        }
        device[n++] = best;
    }
    return n;
}

static void fill_table(struct set_table *t)
{
    const struct part_problem *p = t->p;
    const uint32_t layers = p->n_layers, n = t->n;
    const double rows = full_rows(p);
    for (size_t k = 0; k < ((size_t)1 << n) * n * (layers + 1); k++)
        t->g[k] = PART_NEVER;
    for (uint32_t set = 1; set < 1u << n; set += 2) /* the source is always in it */
        for (uint32_t j = 0; j < n; j++) {
            const uint32_t d = t->device[j], rest = set & ~(1u << j);
            double *g = &t->g[((size_t)set * n + j) * (layers + 1)];
            if ((set >> j & 1) == 0 || (j == 0) != (set == 1))
                continue;
            for (uint32_t i = 0; i < (j == 0 ? 1 : layers); i++) {
                double enter = j == 0 ? 0.0 : PART_NEVER;
                uint32_t from = 0;
                for (uint32_t k = 0; i > 0 && k < n; k++) {
                    const double s = fmax(t->g[((size_t)rest * n + k) * (layers + 1) + i],
                                          rows * p->hidden_bytes / p->rate[t->device[k]][d]);
                    if ((rest >> k & 1) != 0 && s < enter) {
                        enter = s;
                        from = k;
                    }
                }
                for (uint32_t m = i + 1; enter < PART_NEVER && m <= layers; m++) {
                    const double s = fmax(enter, run_at(&t->runs, d, i, m));
                    if (s == PART_NEVER)
                        break;
                    if (s < g[m]) {
                        const size_t at = ((size_t)set * n + j) * (layers + 1) + m;
                        g[m] = s;
                        t->begin[at] = (uint16_t)i;
                        t->before[at] = (uint8_t)from;
                    }
                }
            }
        }
}

static int run_edgeshard_throughput(const struct part_problem *p, struct part_plan *plan,
                                    struct err *e)
{
    struct set_table t = {.p = p};
    t.n = quickest(p, source_of(p), t.device);
    const size_t cells = ((size_t)1 << t.n) * t.n * (p->n_layers + 1);
    int rc = ERR_NOMEM;
    t.g = base_alloc(cells * sizeof *t.g);
    t.begin = base_alloc(cells * sizeof *t.begin);
    t.before = base_alloc(cells * sizeof *t.before);
    if (t.g == NULL || t.begin == NULL || t.before == NULL ||
        !fill_runs(&t.runs, p, full_rows(p))) {
        err_set(e, rc, "no memory for the algorithm's table");
        goto out;
    }
    fill_table(&t);
    double least = PART_NEVER;
    uint32_t set = 0, last = 0, k = 0;
    for (uint32_t s = 1; s < 1u << t.n; s += 2)
        for (uint32_t j = 0; j < t.n; j++)
            if (t.g[((size_t)s * t.n + j) * (p->n_layers + 1) + p->n_layers] < least) {
                least = t.g[((size_t)s * t.n + j) * (p->n_layers + 1) + p->n_layers];
                set = s;
                last = j;
            }
    rc = least < PART_NEVER ? 0 : no_plan(e);
    struct part_stage back[PART_DEVICES_MAX];
    for (uint32_t m = p->n_layers; rc == 0 && m > 0;) {
        const size_t at = ((size_t)set * t.n + last) * (p->n_layers + 1) + m;
        back[k++] = part_stage_single(p, t.device[last], t.begin[at], m, m == p->n_layers);
        set &= ~(1u << last);
        last = t.before[at];
        m = t.begin[at];
    }
    while (k > 0)
        plan->stages[plan->n_stages++] = back[--k];
out:
    base_free(t.g);
    base_free(t.runs.s);
    base_free(t.begin);
    base_free(t.before);
    return rc;
}

/* ---- LinguaLinked and Hyperion: devices in the given order ----------------------------------- */

/* Least sum over the devices in their order, any of which but the first may be skipped. */
static int run_lingualinked(const struct part_problem *p, struct part_plan *plan, struct err *e)
{
    static const uint16_t none = UINT16_MAX;
    const uint32_t n = p->n_devices, layers = p->n_layers;
    struct run_table runs;
    double best[PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    uint16_t begin[PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    uint8_t before[PART_DEVICES_MAX][PART_LAYERS_MAX + 1];
    uint32_t last = n, k = 0;
    if (!fill_runs(&runs, p, 1.0))
        return err_set(e, ERR_NOMEM, "no memory for the algorithm's table");
    for (uint32_t d = 0; d < n; d++)
        for (uint32_t j = 0; j <= layers; j++) {
            best[d][j] = PART_NEVER;
            begin[d][j] = none;
        }
    for (uint32_t d = 0; d < n; d++)
        for (uint32_t i = 0; i < (d == 0 ? 1 : layers); i++) {
            double enter = d == 0 ? 0.0 : PART_NEVER;
            uint32_t from = 0;
            for (uint32_t q = 0; i > 0 && q < d; q++)
                if (best[q][i] + hop_s(p, q, d, 1.0) < enter) {
                    enter = best[q][i] + hop_s(p, q, d, 1.0);
                    from = q;
                }
            for (uint32_t j = i + 1; enter < PART_NEVER && j <= layers; j++) {
                const double s =
                    enter + run_at(&runs, d, i, j) + (j == layers && d > 0 ? p->lat_s[d][0] : 0.0);
                if (s < best[d][j]) {
                    best[d][j] = s;
                    begin[d][j] = (uint16_t)i;
                    before[d][j] = (uint8_t)from;
                }
            }
        }
    base_free(runs.s);
    for (uint32_t d = 0; d < n; d++)
        if (best[d][layers] < (last < n ? best[last][layers] : PART_NEVER))
            last = d;
    if (last == n)
        return no_plan(e);
    struct part_stage back[PART_DEVICES_MAX];
    for (uint32_t end = layers; end > 0;) {
        const uint32_t i = begin[last][end];
        back[k++] = part_stage_single(p, last, i, end, end == layers);
        last = before[last][end];
        end = i;
    }
    while (k > 0)
        plan->stages[plan->n_stages++] = back[--k];
    return 0;
}

/* Fill the devices in their order, each as far as `most_s` and its memory go. */
static bool fill_tiers(const struct part_problem *p, double most_s, struct part_plan *plan)
{
    const double rows = full_rows(p);
    uint32_t at = 0;
    plan->n_stages = 0;
    for (uint32_t d = 0; d < p->n_devices && at < p->n_layers; d++) {
        uint32_t to = at;
        while (to < p->n_layers && run_fits(p, d, at, to + 1) &&
               run_s(p, d, at, to + 1, rows) <= most_s)
            to++;
        append(p, plan, d, at, to);
        at = to;
    }
    return at == p->n_layers;
}

static int run_hyperion(const struct part_problem *p, struct part_plan *plan, struct err *e)
{
    double low = 0.0, high = 0.0;
    for (uint32_t d = 0; d < p->n_devices; d++)
        high = fmax(high, run_s(p, d, 0, p->n_layers, full_rows(p)));
    if (!fill_tiers(p, high, plan))
        return no_plan(e);
    for (int k = 0; k < 60; k++) {
        const double mid = low + (high - low) / 2.0;
        if (fill_tiers(p, mid, plan))
            high = mid;
        else
            low = mid;
    }
    fill_tiers(p, high, plan);
    return 0;
}

/* ---- the myopic rule by heads ---------------------------------------------------------------- */

/* Blocks are head units (with their KV) and feed-forward units of all layers; in order of falling
 * demand each goes to the device of least score: the largest of the share of memory taken, the share
 * of an interval spent computing, and the share spent on the exchange where the device is not the
 * controller. The interval is what the quickest device would take for the whole model. */
struct myopic {
    const struct part_problem *p;
    uint32_t lead, heads[PART_DEVICES_MAX], ffs[PART_DEVICES_MAX];
    double bytes[PART_DEVICES_MAX], busy_s[PART_DEVICES_MAX], interval_s;
};

static double score(const struct myopic *m, uint32_t d, double bytes, double busy_s)
{
    const struct part_problem *p = m->p;
    const double has = (double)p->devices[d].memory_bytes;
    const double comm_s = d == m->lead
                              ? 0.0
                              : p->n_layers * (p->lat_s[m->lead][d] + p->lat_s[d][m->lead] +
                                               p->normed_bytes / p->rate[m->lead][d] +
                                               p->sum_bytes / p->rate[d][m->lead]);
    const double memory = has > 0.0 ? (m->bytes[d] + bytes) / has : 2.0;
    return memory > 1.0 ? PART_NEVER
                        : fmax(memory, fmax((m->busy_s[d] + busy_s) / m->interval_s,
                                            comm_s / m->interval_s));
}

/* Hands out `n` like blocks; false where one fits nowhere. */
static bool place_blocks(struct myopic *m, bool heads, uint32_t n)
{
    const struct part_problem *p = m->p;
    for (uint32_t b = 0; b < n; b++) {
        double bytes = 0.0, least = PART_NEVER, busy_s = 0.0;
        uint32_t to = 0;
        for (uint32_t l = 0; l < p->n_layers; l++)
            bytes += heads ? (double)p->layers[l].head_bytes +
                                 (double)(part_kv_heads(p, 0, 1) * p->layers[l].kv_bytes)
                           : (double)p->layers[l].ff_bytes;
        for (uint32_t d = 0; d < p->n_devices; d++) {
            double s = 0.0;
            for (uint32_t l = 0; l < p->n_layers; l++)
                s += part_time_at(heads ? p->devices[d].attn[l] : p->devices[d].ff[l], 1.0) / n;
            if (score(m, d, bytes, s) < least) {
                least = score(m, d, bytes, s);
                to = d;
                busy_s = s;
            }
        }
        if (least == PART_NEVER)
            return false;
        m->bytes[to] += bytes;
        m->busy_s[to] += busy_s;
        (heads ? m->heads : m->ffs)[to]++;
    }
    return true;
}

static int run_heads(const struct part_problem *p, struct part_plan *plan, struct err *e)
{
    struct myopic m = {.p = p, .lead = source_of(p), .interval_s = PART_NEVER};
    double common = 0.0;
    for (uint32_t l = 0; l < p->n_layers; l++)
        common += (double)p->layers[l].common_bytes;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        m.interval_s = fmin(m.interval_s, run_s(p, d, 0, p->n_layers, 1.0));
        m.bytes[d] = (double)(p->base_bytes + p->scratch_bytes + p->team_bytes) + common;
    }
    m.interval_s = fmax(m.interval_s, 1e-12);
    m.bytes[m.lead] += (double)(p->embed_bytes + p->output_bytes) +
                       (double)p->n_vocab_runs * (double)(p->run_bytes - p->shared_run_bytes);
    m.heads[m.lead] = 0;
    /* A head is the smaller block in bytes and operations of every model known here. */
    if (!place_blocks(&m, false, p->n_ff_units) || !place_blocks(&m, true, p->n_head_units))
        return no_plan(e);
    struct part_stage *s = &plan->stages[0];
    *s = (struct part_stage){.layer1 = p->n_layers};
    plan->n_stages = 1;
    uint32_t head = 0, ff = 0;
    for (uint32_t k = 0; k <= p->n_devices; k++) {
        const uint32_t d = k == 0 ? m.lead : k - 1;
        if (k > 0 && (d == m.lead || (m.heads[d] == 0 && m.ffs[d] == 0)))
            continue;
        s->members[s->n_members++] = (struct part_member){d,
                                                          head,
                                                          head + m.heads[d],
                                                          ff,
                                                          ff + m.ffs[d],
                                                          k == 0 ? 0 : p->n_vocab_runs,
                                                          p->n_vocab_runs};
        head += m.heads[d];
        ff += m.ffs[d];
    }
    return 0;
}

/* ---- by name --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    algorithm_run *run;
} algorithms[PART_ALGORITHMS] = {
    [PART_PROGRAM] = {"program", part_plan_solve},
    [PART_EVEN] = {"even", run_even},
    [PART_MEMORY] = {"memory", run_memory},
    [PART_EDGESHARD] = {"edgeshard", run_edgeshard},
    [PART_EDGESHARD_THROUGHPUT] = {"edgeshard-throughput", run_edgeshard_throughput},
    [PART_MYOPIC_HEADS] = {"heads", run_heads},
    [PART_LINGUALINKED] = {"lingualinked", run_lingualinked},
    [PART_HYPERION] = {"hyperion", run_hyperion},
};

int part_algorithm_find(const char *name)
{
    for (int k = 0; k < PART_ALGORITHMS; k++)
        if (strcmp(algorithms[k].name, name) == 0)
            return k;
    return -1;
}

const char *part_algorithm_name(enum part_algorithm a)
{
    return algorithms[a].name;
}

int part_algorithm_run(enum part_algorithm a, const struct part_problem *p, struct part_plan *plan,
                       struct err *e)
{
    const double start_s = base_clock_s();
    if (a == PART_PROGRAM)
        return part_plan_solve(p, plan, e);
    int rc = part_problem_check(p, e);
    if (rc != 0)
        return rc;
    memset(plan, 0, sizeof *plan);
    rc = algorithms[a].run(p, plan, e);
    if (rc != 0)
        return rc;
    part_plan_cost(p, plan);
    if (!part_plan_fits(p, plan))
        return err_set(e, ERR_INFEASIBLE,
                       "the plan of algorithm %s breaks a board's memory, a pin or another rule",
                       algorithms[a].name);
    for (uint32_t d = 0; d < p->n_devices; d++)
        if (part_plan_find(plan, d, NULL) == plan->n_stages)
            snprintf(plan->left_out[d], PART_REASON_MAX, "algorithm %s gives it nothing",
                     algorithms[a].name);
    plan->gap = 1.0;
    plan->solve_s = base_clock_s() - start_s;
    return 0;
}
