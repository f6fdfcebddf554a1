/* Numbers are checked once, here: all finite, none negative, byte sums that cannot wrap. Everything
 * behind it adds and divides without looking. What the numbers mean is not judged. */
#include "partition/internal.h"

#include <string.h>

/* Bounds that keep every sum exact enough: a pass of 30 years, a memory need of 4 EiB. */
#define SECONDS_MAX 1e9
#define BYTES_MAX   (UINT64_C(1) << 62)
#define RATE_MIN    1e-3

static bool number_good(double x)
{
    return isfinite(x) && x >= 0.0 && x <= SECONDS_MAX;
}

static bool time_good(struct part_time t)
{
    return number_good(t.pass_s) && number_good(t.row_s);
}

static int check_time(const struct part_device *dev, const char *name, struct part_time t,
                      struct err *e)
{
    return time_good(t) ? 0
                        : err_set(e, ERR_RANGE, "%s: %s = %g s and %g s a row is not a time",
                                  dev->name, name, t.pass_s, t.row_s);
}

static int check_seconds(const struct part_device *dev, const char *name, double s, struct err *e)
{
    return number_good(s) ? 0
                          : err_set(e, ERR_RANGE, "%s: %s = %g is not a time", dev->name, name, s);
}

static int check_times(const struct part_problem *p, const struct part_device *dev, struct err *e)
{
    int rc = 0;
    char name[32];
    for (uint32_t l = 0; rc == 0 && l < p->n_layers; l++) {
        snprintf(name, sizeof name, "attn[%u]", l);
        rc = check_time(dev, name, dev->attn[l], e);
        snprintf(name, sizeof name, "ff[%u]", l);
        rc = rc == 0 ? check_time(dev, name, dev->ff[l], e) : rc;
    }
    rc = rc == 0 ? check_time(dev, "half", dev->half, e) : rc;
    rc = rc == 0 ? check_time(dev, "embed", dev->embed, e) : rc;
    rc = rc == 0 ? check_time(dev, "output", dev->output, e) : rc;
    rc = rc == 0 ? check_seconds(dev, "pass_s", dev->pass_s, e) : rc;
    rc = rc == 0 ? check_seconds(dev, "message_s", dev->message_s, e) : rc;
    rc = rc == 0 ? check_seconds(dev, "byte_s", dev->byte_s, e) : rc;
    if (rc == 0 && !(dev->throttle >= 0.0 && dev->throttle <= 1.0))
        return err_set(e, ERR_RANGE, "%s: throttle = %g is not a share of the time", dev->name,
                       dev->throttle);
    return rc;
}

static int check_device(const struct part_problem *p, uint32_t d, struct err *e)
{
    const struct part_device *dev = &p->devices[d];
    if (memchr(dev->name, 0, sizeof dev->name) == NULL)
        return err_set(e, ERR_RANGE, "the name of device %u has no end", d);
    int rc = check_times(p, dev, e);
    if (rc != 0)
        return rc;
    if (dev->memory_bytes > BYTES_MAX)
        return err_set(e, ERR_RANGE, "%s: memory_bytes is beyond 4 EiB", dev->name);
    if (dev->pin0 >= 0 && (dev->pin1 <= dev->pin0 || (uint32_t)dev->pin1 > p->n_layers))
        return err_set(e, ERR_RANGE, "%s: pinned to layers %d-%d, the model has 0-%u", dev->name,
                       dev->pin0, dev->pin1 - 1, p->n_layers - 1);
    if (dev->pin_heads >= 0 && (uint32_t)dev->pin_heads > p->n_head_units)
        return err_set(e, ERR_RANGE, "%s: pinned to %d head units, a layer has %u", dev->name,
                       dev->pin_heads, p->n_head_units);
    if (dev->pin_ff >= 0 && (uint32_t)dev->pin_ff > p->n_ff_units)
        return err_set(e, ERR_RANGE, "%s: pinned to %d feed-forward units, a layer has %u",
                       dev->name, dev->pin_ff, p->n_ff_units);
    return 0;
}

static int check_links(const struct part_problem *p, struct err *e)
{
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t q = 0; q < p->n_devices; q++) {
            if (d == q)
                continue;
            if (!number_good(p->lat_s[d][q]))
                return err_set(e, ERR_RANGE, "lat_s from %s to %s = %g is not a time",
                               p->devices[d].name, p->devices[q].name, p->lat_s[d][q]);
            if (!isfinite(p->rate[d][q]) || p->rate[d][q] < RATE_MIN)
                return err_set(e, ERR_RANGE, "rate from %s to %s = %g is not a rate",
                               p->devices[d].name, p->devices[q].name, p->rate[d][q]);
        }
    return 0;
}

/* Adds n * bytes to *sum. False beyond 4 EiB. */
static bool add_bytes(uint64_t *sum, uint64_t n, uint64_t bytes)
{
    uint64_t all;
    return !__builtin_mul_overflow(n, bytes, &all) && all <= BYTES_MAX &&
           (*sum += all) <= BYTES_MAX;
}

static int check_bytes(const struct part_problem *p, struct err *e)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct part_layer *y = &p->layers[l];
        if (!add_bytes(&sum, 1, y->common_bytes) ||
            !add_bytes(&sum, p->n_head_units, y->head_bytes) ||
            !add_bytes(&sum, (uint64_t)p->n_head_units * p->unit_heads, y->kv_bytes) ||
            !add_bytes(&sum, p->n_ff_units, y->ff_bytes))
            return err_set(e, ERR_RANGE, "layers[%u]: the layers need more than 4 EiB", l);
        if (!(y->kv_share >= 0.0 && y->kv_share <= 1.0))
            return err_set(e, ERR_RANGE, "layers[%u]: kv_share = %g is not a share", l,
                           y->kv_share);
    }
    if (!add_bytes(&sum, 1, p->embed_bytes) || !add_bytes(&sum, 1, p->output_bytes) ||
        !add_bytes(&sum, p->n_vocab_runs, p->run_bytes) || !add_bytes(&sum, 1, p->base_bytes) ||
        !add_bytes(&sum, 1, p->scratch_bytes) || !add_bytes(&sum, 1, p->team_bytes))
        return err_set(e, ERR_RANGE, "the model's parts need more than 4 EiB");
    if (p->shared_run_bytes > p->run_bytes ||
        p->shared_run_bytes * p->n_vocab_runs > p->embed_bytes)
        return err_set(e, ERR_RANGE, "shared_run_bytes exceed the embedding or the output matrix");
    const double row[4] = {p->hidden_bytes, p->normed_bytes, p->sum_bytes, p->logits_bytes};
    for (int k = 0; k < 4; k++)
        if (!number_good(row[k]))
            return err_set(e, ERR_RANGE, "bytes a row on the wire: %g is not a size", row[k]);
    return 0;
}

static int check_count(const char *name, uint32_t n, uint32_t max, struct err *e)
{
    return n >= 1 && n <= max ? 0 : err_set(e, ERR_RANGE, "%s = %u, must be 1 to %u", name, n, max);
}

static int check_counts(const struct part_problem *p, struct err *e)
{
    const struct {
        const char *name;
        uint32_t n, max;
    } counts[] = {{"n_devices", p->n_devices, PART_DEVICES_MAX},
                  {"n_layers", p->n_layers, PART_LAYERS_MAX},
                  {"n_head_units", p->n_head_units, PART_UNITS_MAX},
                  {"unit_heads", p->unit_heads, PART_UNITS_MAX},
                  {"heads_per_kv", p->heads_per_kv, PART_UNITS_MAX},
                  {"n_ff_units", p->n_ff_units, PART_UNITS_MAX},
                  {"n_vocab_runs", p->n_vocab_runs, PART_UNITS_MAX},
                  {"slots", p->slots, 1u << 20}};
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        int rc = check_count(counts[k].name, counts[k].n, counts[k].max, e);
        if (rc != 0)
            return rc;
    }
    return p->prompt_rows == 0 ? 0 : check_count("chunk_rows", p->chunk_rows, 1u << 20, e);
}

int part_problem_check(const struct part_problem *p, struct err *e)
{
    int rc = check_counts(p, e);
    if (rc != 0)
        return rc;
    if (!number_good(p->time_limit_s))
        return err_set(e, ERR_RANGE, "time_limit_s = %g is not a time", p->time_limit_s);
    if (!number_good(p->ttft_max_s) || (p->ttft_max_s > 0.0 && p->prompt_rows == 0))
        return err_set(e, ERR_RANGE, "ttft_max_s = %g needs a time and prompt_rows", p->ttft_max_s);
    if (!(p->weight >= 0.0 && p->weight <= 1.0))
        return err_set(e, ERR_RANGE, "weight = %g is not between 0 and 1", p->weight);
    for (uint32_t d = 0; d < p->n_devices; d++)
        if ((rc = check_device(p, d, e)) != 0)
            return rc;
    if ((rc = check_links(p, e)) != 0)
        return rc;
    return check_bytes(p, e);
}
