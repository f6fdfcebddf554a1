/* The planner's sentences: why there is no plan, and why a device has no layers.
 *
 * Each test in `impossible` is a necessary condition, tried from the most particular (this pin,
 * this board) to the most general (memory in sum), so that the first that fails is the reason a
 * person can act on. They are exact about what they say but not complete: whole layers may not
 * divide over the boards although the bytes would, which only a solver finds, and then the last
 * sentence of part_explain_infeasible stands.
 *
 * Sentences give numbers in the units of the status line (GiB, ms) and never mention the
 * program. */
#include "partition/internal.h"

#include <string.h>

/* Milliseconds with one decimal, or more where they are few or where the two would read the
 * same. */
static void ms_text(double a_s, double b_s, char a_out[static 24], char b_out[static 24])
{
    int digits = a_s >= 10e-3 ? 1 : a_s >= 1e-3 ? 2 : 3;
    do {
        snprintf(a_out, 24, "%.*f", digits, a_s * 1e3);
        snprintf(b_out, 24, "%.*f", digits, b_s * 1e3);
    } while (a_s != b_s && strcmp(a_out, b_out) == 0 && ++digits <= 6);
}

/* Two sizes that differ should not read the same: "1.9 GiB" and "1.9 GiB" become bytes. */
static void sizes_text(uint64_t a, uint64_t b, char a_out[static 24], char b_out[static 24])
{
    base_bytes_text(a, a_out);
    base_bytes_text(b, b_out);
    if (a != b && strcmp(a_out, b_out) == 0) {
        snprintf(a_out, 24, "%llu B", (unsigned long long)a);
        snprintf(b_out, 24, "%llu B", (unsigned long long)b);
    }
}

static const char *layers_text(uint32_t from, uint32_t to, char out[static 32])
{
    if (to - from == 1)
        snprintf(out, 32, "layer %u", from);
    else
        snprintf(out, 32, "layers %u-%u", from, to - 1);
    return out;
}

static bool pinned(const struct part_problem *p, uint32_t d)
{
    return p->devices[d].pin0 >= 0;
}

static bool any_pin(const struct part_problem *p)
{
    for (uint32_t d = 0; d < p->n_devices; d++)
        if (pinned(p, d))
            return true;
    return false;
}

static bool layer_pinned(const struct part_problem *p, uint32_t layer)
{
    for (uint32_t d = 0; d < p->n_devices; d++)
        if (pinned(p, d) && layer >= (uint32_t)p->devices[d].pin0 &&
            layer < (uint32_t)p->devices[d].pin1)
            return true;
    return false;
}

/* The least memory with which a board without a pin could hold one layer; UINT64_MAX: none is
 * left. */
static uint64_t least_need(const struct part_problem *p)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct part_stage s = part_stage_single(p, 0, l, l + 1, p->n_layers == 1);
        uint64_t need = part_member_memory(p, &s, 0);
        if (!layer_pinned(p, l) && need < least)
            least = need;
    }
    return least;
}

/* What the model needs on the boards that hold more than the scratch, and what these have. False
 * where that is too little. */
static bool memory_sums(const struct part_problem *p, uint64_t *need, uint64_t *has)
{
    const uint64_t each = p->base_bytes + p->scratch_bytes;
    uint64_t parts = p->embed_bytes + p->output_bytes +
                     p->n_vocab_runs * (p->run_bytes - p->shared_run_bytes),
             room = 0, all = 0, boards = 0;
    for (uint32_t l = 0; l < p->n_layers; l++)
        parts += part_layer_bytes(p, l);
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const uint64_t memory = p->devices[d].memory_bytes;
        if (__builtin_add_overflow(all, memory, &all))
            all = UINT64_MAX;
        if (memory <= each)
            continue;
        if (__builtin_add_overflow(room, memory - each, &room))
            room = UINT64_MAX;
        boards++;
    }
    *need = parts + each * (boards > 0 ? boards : 1);
    *has = boards == 0                         ? all
           : room > UINT64_MAX - each * boards ? UINT64_MAX
                                               : room + each * boards;
    return room >= parts;
}

static bool pin_impossible(const struct part_problem *p, struct err *e)
{
    char a[32], b[32], need_text[24], has_text[24];
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const struct part_device *dev = &p->devices[d];
        if (!pinned(p, d))
            continue;
        const struct part_stage s =
            part_stage_single(p, d, (uint32_t)dev->pin0, (uint32_t)dev->pin1,
                              dev->pin0 == 0 && (uint32_t)dev->pin1 == p->n_layers);
        uint64_t need = part_member_memory(p, &s, 0);
        if (need > dev->memory_bytes) {
            sizes_text(need, dev->memory_bytes, need_text, has_text);
            err_set(e, ERR_INFEASIBLE, "%s is pinned to %s, which need %s there; it has %s",
                    dev->name, layers_text(s.layer0, s.layer1, a), need_text, has_text);
            return true;
        }
        for (uint32_t q = 0; q < d; q++) {
            const struct part_device *other = &p->devices[q];
            if (!pinned(p, q) || other->pin0 >= dev->pin1 || dev->pin0 >= other->pin1)
                continue;
            layers_text((uint32_t)other->pin0, (uint32_t)other->pin1, a);
            err_set(e, ERR_INFEASIBLE, "%s and %s are pinned to the same layers (%s and %s)",
                    other->name, dev->name, a, layers_text(s.layer0, s.layer1, b));
            return true;
        }
    }
    return false;
}

/* Numbers of boards and layers that cannot agree, whatever the memory. */
static bool counts_impossible(const struct part_problem *p, struct err *e)
{
    uint32_t n_free = 0, n_open = 0, n_gaps = 0, gap0 = 0;
    for (uint32_t d = 0; d < p->n_devices; d++)
        n_free += pinned(p, d) ? 0 : 1;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        if (layer_pinned(p, l))
            continue;
        n_open++;
        if (l == 0 || layer_pinned(p, l - 1)) {
            n_gaps++;
            gap0 = l;
        }
    }
    if (p->use_all && n_free > n_open) {
        if (n_free == p->n_devices)
            err_set(e, ERR_INFEASIBLE,
                    "use: all needs a layer for each of %u boards; the model has %u", p->n_devices,
                    p->n_layers);
        else
            err_set(
                e, ERR_INFEASIBLE,
                "use: all needs a layer for each of the %u boards without a pin; the pins leave %u",
                n_free, n_open);
        return true;
    }
    if (n_gaps <= n_free)
        return false;
    if (n_free == 0)
        err_set(e, ERR_INFEASIBLE, "every board is pinned and none of them holds layer %u", gap0);
    else
        err_set(e, ERR_INFEASIBLE,
                "the pins leave %u separate runs of layers, but only %u boards without a pin",
                n_gaps, n_free);
    return true;
}

static bool sum_impossible(const struct part_problem *p, struct err *e)
{
    uint64_t need, has;
    char need_text[24], has_text[24];
    if (memory_sums(p, &need, &has))
        return false;
    sizes_text(need, has, need_text, has_text);
    err_set(e, ERR_INFEASIBLE, "the model needs %s for weights, KV and scratch; the cluster has %s",
            need_text, has_text);
    return true;
}

/* A layer that no board can take. The first brings the embedding with it; the output matrix may be
 * on another stage. */
static bool layer_impossible(const struct part_problem *p, struct err *e)
{
    char need_text[24], has_text[24];
    uint64_t most = 0;
    for (uint32_t d = 0; d < p->n_devices; d++)
        if (!pinned(p, d) && p->devices[d].memory_bytes > most)
            most = p->devices[d].memory_bytes;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct part_stage s = part_stage_single(p, 0, l, l + 1, p->n_layers == 1);
        uint64_t need = part_member_memory(p, &s, 0);
        if (layer_pinned(p, l) || need <= most)
            continue;
        const char *with = l == 0 ? " with the embedding" : "";
        sizes_text(need, most, need_text, has_text);
        err_set(e, ERR_INFEASIBLE, "layer %u%s and scratch need %s; no board%s has more than %s", l,
                with, need_text, any_pin(p) ? " without a pin" : "", has_text);
        return true;
    }
    return false;
}

static bool board_impossible(const struct part_problem *p, struct err *e)
{
    const uint64_t need = least_need(p);
    char need_text[24], has_text[24];
    for (uint32_t d = 0; p->use_all && d < p->n_devices; d++) {
        const struct part_device *dev = &p->devices[d];
        if (pinned(p, d) || need <= dev->memory_bytes)
            continue;
        sizes_text(need, dev->memory_bytes, need_text, has_text);
        err_set(e, ERR_INFEASIBLE,
                "use: all gives every board a layer, which needs %s with scratch; %s has %s",
                need_text, dev->name, has_text);
        return true;
    }
    return false;
}

bool part_explain_impossible(const struct part_problem *p, struct err *e)
{
    /* A team may share a layer that no board could hold, and boards may share their pins. */
    if (p->granularity != PART_LAYERS)
        return sum_impossible(p, e);
    return pin_impossible(p, e) || counts_impossible(p, e) || sum_impossible(p, e) ||
           board_impossible(p, e) || layer_impossible(p, e);
}

int part_explain_infeasible(const struct part_problem *p, struct err *e)
{
    uint64_t need, has;
    char need_text[24], has_text[24];
    if (part_explain_impossible(p, e))
        return ERR_INFEASIBLE;
    memory_sums(p, &need, &has);
    return err_set(e, ERR_INFEASIBLE,
                   "the model needs %s for weights, KV and scratch and the cluster has %s, but no "
                   "division into whole layers%s%s fits every board",
                   base_bytes_text(need, need_text), base_bytes_text(has, has_text),
                   any_pin(p) ? " with these pins" : "", p->use_all ? " with use: all" : "");
}

void part_explain_left_out(const struct part_problem *p, struct part_plan *plan, uint32_t device,
                           const struct part_plan *with, bool proven)
{
    char *out = plan->left_out[device];
    char a[24], b[24];
    const uint64_t need = least_need(p), has = p->devices[device].memory_bytes;
    out[0] = '\0';
    if (part_plan_find(plan, device, NULL) < plan->n_stages)
        return;
    if (need == UINT64_MAX && p->granularity == PART_LAYERS) {
        snprintf(out, PART_REASON_MAX, "the other boards' pins leave it no layer");
        return;
    }
    if (need > has && p->granularity == PART_LAYERS) {
        sizes_text(need, has, a, b);
        snprintf(out, PART_REASON_MAX, "its memory %s holds no layer, which needs %s with scratch",
                 b, a);
        return;
    }
    if (with->n_stages == 0) {
        snprintf(out, PART_REASON_MAX, "no plan that includes it %s",
                 proven ? "fits every board" : "was found in time");
        return;
    }
    const double now_s = part_plan_objective(p, plan), with_s = part_plan_objective(p, with);
    const char *unit = p->objective == PART_LATENCY      ? "/token"
                       : p->objective == PART_THROUGHPUT ? "/token with all slots in use"
                                                         : "/token, weighted";
    ms_text(now_s, with_s, a, b);
    if (with_s <= now_s * (1.0 + 1e-9))
        snprintf(out, PART_REASON_MAX, "including it would not help: %s ms%s either way", a, unit);
    else
        snprintf(out, PART_REASON_MAX, "including it would raise %s to %s%s ms%s", a,
                 proven ? "" : "about ", b, unit);
}
