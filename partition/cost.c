/* What a plan costs and whether it is one: the single definition that the integer program, the
 * local search, the enumeration and the explanations are all held to.
 *
 * A pass visits the stages in ring order. A stage takes its fixed cost, its layers, the embedding
 * where it holds layer 0 and the output matrix where it holds the last layer. Latency is the sum
 * over stages, the hand-overs between them and the token that closes the ring. The bottleneck is
 * the slowest stage or the busiest hand-over; the closing token is some bytes and keeps no link
 * busy, so it does not count.
 *
 * Numbers are checked once, in part_problem_check: all finite, none negative, byte sums that cannot
 * wrap. Everything behind it adds without looking. What the numbers mean is not judged here. */
#include "partition/internal.h"

#include <string.h>

/* Bounds that keep every sum exact enough: a pass of 30 years, a memory need of 4 EiB. */
#define SECONDS_MAX 1e9
#define BYTES_MAX   (UINT64_C(1) << 62)

static bool seconds_good(double s)
{
    return isfinite(s) && s >= 0.0 && s <= SECONDS_MAX;
}

static int check_device(const struct part_problem *p, uint32_t d, struct err *e)
{
    const struct part_device *dev = &p->devices[d];
    if (memchr(dev->name, 0, sizeof dev->name) == NULL)
        return err_set(e, ERR_RANGE, "the name of device %u has no end", d);
    for (uint32_t l = 0; l < p->n_layers; l++)
        if (!seconds_good(dev->layer_s[l]))
            return err_set(e, ERR_RANGE, "%s: layer_s[%u] = %g is not a time", dev->name, l,
                           dev->layer_s[l]);
    if (!seconds_good(dev->embed_s))
        return err_set(e, ERR_RANGE, "%s: embed_s = %g is not a time", dev->name, dev->embed_s);
    if (!seconds_good(dev->output_s))
        return err_set(e, ERR_RANGE, "%s: output_s = %g is not a time", dev->name, dev->output_s);
    if (!seconds_good(dev->pass_s))
        return err_set(e, ERR_RANGE, "%s: pass_s = %g is not a time", dev->name, dev->pass_s);
    if (dev->memory_bytes > BYTES_MAX)
        return err_set(e, ERR_RANGE, "%s: memory_bytes is beyond 4 EiB", dev->name);
    if (dev->pin0 >= 0 && (dev->pin1 <= dev->pin0 || (uint32_t)dev->pin1 > p->n_layers))
        return err_set(e, ERR_RANGE, "%s: pinned to layers %d-%d, the model has 0-%u", dev->name,
                       dev->pin0, dev->pin1 - 1, p->n_layers - 1);
    return 0;
}

static int check_links(const struct part_problem *p, struct err *e)
{
    static const char *const names[3] = {"link_s", "token_s", "busy_s"};
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t q = 0; q < p->n_devices; q++) {
            const double s[3] = {p->link_s[d][q], p->token_s[d][q], p->busy_s[d][q]};
            for (int k = 0; k < 3; k++)
                if (!seconds_good(s[k]) || (d == q && s[k] != 0.0))
                    return err_set(e, ERR_RANGE, "%s from %s to %s = %g is not a time%s", names[k],
                                   p->devices[d].name, p->devices[q].name, s[k],
                                   d == q ? " (to itself it is 0)" : "");
        }
    return 0;
}

static int check_bytes(const struct part_problem *p, struct err *e)
{
    const uint64_t parts[4] = {p->embed_bytes, p->output_bytes, p->base_bytes, p->scratch_bytes};
    uint64_t sum = 0;
    for (uint32_t l = 0; l < p->n_layers; l++)
        if (p->layer_bytes[l] > BYTES_MAX || (sum += p->layer_bytes[l]) > BYTES_MAX)
            return err_set(e, ERR_RANGE, "layer_bytes[%u]: the layers need more than 4 EiB", l);
    for (int k = 0; k < 4; k++)
        if (parts[k] > BYTES_MAX || (sum += parts[k]) > BYTES_MAX)
            return err_set(e, ERR_RANGE, "the model's parts need more than 4 EiB");
    if (p->shared_bytes > p->embed_bytes || p->shared_bytes > p->output_bytes)
        return err_set(e, ERR_RANGE, "shared_bytes exceeds the embedding or the output matrix");
    return 0;
}

int part_problem_check(const struct part_problem *p, struct err *e)
{
    if (p->n_devices < 1 || p->n_devices > PART_DEVICES_MAX)
        return err_set(e, ERR_RANGE, "n_devices = %u, must be 1 to %d", p->n_devices,
                       PART_DEVICES_MAX);
    if (p->n_layers < 1 || p->n_layers > PART_LAYERS_MAX)
        return err_set(e, ERR_RANGE, "n_layers = %u, must be 1 to %d", p->n_layers,
                       PART_LAYERS_MAX);
    if (!seconds_good(p->time_limit_s))
        return err_set(e, ERR_RANGE, "time_limit_s = %g is not a time", p->time_limit_s);
    for (uint32_t d = 0; d < p->n_devices; d++) {
        int rc = check_device(p, d, e);
        if (rc != 0)
            return rc;
    }
    int rc = check_links(p, e);
    return rc != 0 ? rc : check_bytes(p, e);
}

uint64_t part_stage_memory(const struct part_problem *p, const struct part_stage *s)
{
    uint64_t bytes = p->base_bytes + p->scratch_bytes;
    for (uint32_t l = s->layer0; l < s->layer1; l++)
        bytes += p->layer_bytes[l];
    if (s->layer0 == 0)
        bytes += p->embed_bytes;
    if (s->layer1 == p->n_layers)
        bytes += p->output_bytes - (s->layer0 == 0 ? p->shared_bytes : 0);
    return bytes;
}

double part_stage_seconds(const struct part_problem *p, const struct part_stage *s)
{
    const struct part_device *dev = &p->devices[s->device];
    double seconds = dev->pass_s;
    for (uint32_t l = s->layer0; l < s->layer1; l++)
        seconds += dev->layer_s[l];
    if (s->layer0 == 0)
        seconds += dev->embed_s;
    if (s->layer1 == p->n_layers)
        seconds += dev->output_s;
    return seconds;
}

void part_plan_cost(const struct part_problem *p, struct part_plan *plan)
{
    double sum = 0.0, worst = 0.0;
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        const struct part_stage *s = &plan->stages[k];
        double seconds = part_stage_seconds(p, s);
        sum += seconds;
        worst = fmax(worst, seconds);
        if (k + 1 < plan->n_stages) {
            uint32_t to = plan->stages[k + 1].device;
            sum += p->link_s[s->device][to];
            worst = fmax(worst, p->busy_s[s->device][to]);
        } else {
            sum += p->token_s[s->device][plan->stages[0].device];
        }
    }
    plan->latency_s = sum;
    plan->bottleneck_s = worst;
}

double part_plan_objective(const struct part_problem *p, const struct part_plan *plan)
{
    return p->throughput ? plan->bottleneck_s : plan->latency_s;
}

bool part_plan_fits(const struct part_problem *p, const struct part_plan *plan)
{
    bool used[PART_DEVICES_MAX] = {false};
    uint32_t next = 0;
    if (plan->n_stages < 1 || plan->n_stages > p->n_devices)
        return false;
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        const struct part_stage *s = &plan->stages[k];
        if (s->device >= p->n_devices || used[s->device] || s->layer0 != next ||
            s->layer1 <= s->layer0 || s->layer1 > p->n_layers)
            return false;
        const struct part_device *dev = &p->devices[s->device];
        if (dev->pin0 >= 0 &&
            (s->layer0 != (uint32_t)dev->pin0 || s->layer1 != (uint32_t)dev->pin1))
            return false;
        if (part_stage_memory(p, s) > dev->memory_bytes)
            return false;
        used[s->device] = true;
        next = s->layer1;
    }
    for (uint32_t d = 0; d < p->n_devices; d++)
        if (!used[d] && (p->use_all || p->devices[d].pin0 >= 0))
            return false;
    return next == p->n_layers;
}
