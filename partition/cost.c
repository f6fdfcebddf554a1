/* What a plan costs and whether it is one: the single definition that the integer programs, the
 * local search, the enumeration and the explanations are all held to. docs/planner.md writes the
 * same formulas down.
 *
 * A pass visits the stages in ring order. A stage takes its leader's fixed cost, its layers, the
 * embedding where it holds layer 0 and the output matrix where it has one. A layer is two halves,
 * attention and feed-forward; a team computes each half side by side and then exchanges partial
 * sums, so a half lasts until the last member's sum has come. What is charged for an exchange is the
 * case in which all members end at once, so that their messages queue at one port; processors pay
 * for every message and byte beside the link, which on small boards is more than the wire.
 *
 * Latency is the sum over stages and the hand-overs between them. With all slots in use, as many
 * groups of rows circulate as there are stages (or slots, if fewer), and a slot gets its next token
 * when its group has been round: after the slowest stage or link has served every group, but not
 * before the group's own way round. */
#include "partition/internal.h"

#include <string.h>

bool part_any_quota(const struct part_problem *p)
{
    bool any = false;
    for (uint32_t d = 0; d < p->n_devices; d++)
        any = any || part_throttle(&p->devices[d]) < 1.0;
    return any;
}

bool part_keeps_pins(const struct part_device *dev, const struct part_member *m)
{
    return (dev->pin_heads < 0 || m->head1 - m->head0 == (uint32_t)dev->pin_heads) &&
           (dev->pin_ff < 0 || m->ff1 - m->ff0 == (uint32_t)dev->pin_ff);
}

static double message_seconds(const struct part_problem *p, uint32_t d, double bytes)
{
    return p->devices[d].message_s + bytes * p->devices[d].byte_s;
}

uint32_t part_kv_heads(const struct part_problem *p, uint32_t head0, uint32_t head1)
{
    const uint32_t q0 = head0 * p->unit_heads, q1 = head1 * p->unit_heads, g = p->heads_per_kv;
    return head1 > head0 ? (q1 + g - 1) / g - q0 / g : 0;
}

/* A share of a half whose whole takes `whole_s`, `fixed_s` of it whatever the share. */
static double part_of(double whole_s, double fixed_s, double share)
{
    return fixed_s < whole_s ? fixed_s + share * (whole_s - fixed_s) : whole_s;
}

double part_attn_seconds(const struct part_problem *p, uint32_t d, uint32_t layer, double rows,
                         uint32_t head0, uint32_t head1)
{
    const struct part_device *dev = &p->devices[d];
    const double kv = p->layers[layer].kv_share;
    if (head1 <= head0)
        return 0.0;
    const double share = (1.0 - kv) * (head1 - head0) / p->n_head_units +
                         kv * part_kv_heads(p, head0, head1) / part_kv_heads(p, 0, p->n_head_units);
    return part_of(part_time_at(dev->attn[layer], rows), part_time_at(dev->half, rows), share);
}

double part_ff_seconds(const struct part_problem *p, uint32_t d, uint32_t layer, double rows,
                       uint32_t n_units)
{
    const struct part_device *dev = &p->devices[d];
    return n_units == 0 ? 0.0
                        : part_of(part_time_at(dev->ff[layer], rows), part_time_at(dev->half, rows),
                                  (double)n_units / p->n_ff_units);
}

/* Star (TPI-LLM, 2410.00531, §3; 2(N-1) messages): the leader encodes and sends the normed rows to
 * every member that has a part, one after the other through its port, computes its own, and takes
 * the sums, which come through that port too. */
static void star_lags(const struct part_problem *p, const struct part_team *t,
                      const struct part_half *h, double *lag_s)
{
    const uint32_t lead = t->members[0];
    double send_s = 0.0, out_s = 0.0, in_s = 0.0, take_s = 0.0;
    for (uint32_t k = 1; k < t->n; k++) {
        const uint32_t d = t->members[k];
        if (!h->has[k])
            continue;
        send_s += message_seconds(p, lead, h->rows_bytes);
        out_s += h->rows_bytes / p->rate[lead][d];
        in_s += h->sum_bytes[k] / p->rate[d][lead];
        take_s += message_seconds(p, lead, h->sum_bytes[k]);
    }
    lag_s[0] = send_s + take_s;
    for (uint32_t k = 1; k < t->n; k++) {
        const uint32_t d = t->members[k];
        lag_s[k] = send_s + out_s + p->lat_s[lead][d] + message_seconds(p, d, h->rows_bytes) +
                   message_seconds(p, d, h->sum_bytes[k]) + p->lat_s[d][lead] + in_s + take_s;
    }
}

/* Mesh (all-to-all of partial sums; N(N-1) messages, one way): every member that has a part encodes
 * its sum for every other one; a member goes on when the last sum has come and been added, and the
 * half is over when the last member goes on. Sending and receiving ports work at the same time, so
 * the busier one counts. */
static void mesh_lags(const struct part_problem *p, const struct part_team *t,
                      const struct part_half *h, double *lag_s)
{
    double in_s[PART_DEVICES_MAX] = {0.0}, take_s[PART_DEVICES_MAX] = {0.0};
    for (uint32_t q = 0; q < t->n; q++)
        for (uint32_t k = 0; k < t->n; k++)
            if (k != q && h->has[k]) {
                in_s[q] += h->sum_bytes[k] / p->rate[t->members[k]][t->members[q]];
                take_s[q] += message_seconds(p, t->members[q], h->sum_bytes[k]);
            }
    for (uint32_t k = 0; k < t->n; k++) {
        const uint32_t d = t->members[k];
        double out_s = 0.0, after_s = take_s[k];
        for (uint32_t q = 0; q < t->n; q++)
            out_s += q != k ? h->sum_bytes[k] / p->rate[d][t->members[q]] : 0.0;
        for (uint32_t q = 0; q < t->n; q++)
            if (q != k)
                after_s =
                    fmax(after_s, fmax(out_s, in_s[q]) + p->lat_s[d][t->members[q]] + take_s[q]);
        lag_s[k] = (t->n - 1) * message_seconds(p, d, h->sum_bytes[k]) + after_s;
    }
}

void part_half_lags(const struct part_problem *p, const struct part_team *t,
                    const struct part_half *h, double *lag_s)
{
    lag_s[0] = 0.0;
    if (t->n > 1 && t->shape == PART_STAR)
        star_lags(p, t, h, lag_s);
    else if (t->n > 1)
        mesh_lags(p, t, h, lag_s);
}

double part_half_seconds(const struct part_problem *p, const struct part_team *t,
                         const struct part_half *h)
{
    double lag_s[PART_DEVICES_MAX], last_s = 0.0;
    part_half_lags(p, t, h, lag_s);
    for (uint32_t k = 0; k < t->n; k++)
        last_s = h->has[k] ? fmax(last_s, h->compute_s[k] + lag_s[k]) : last_s;
    return last_s;
}

/* Handing a pass to the members of a mesh, once a stage. */
static double start_seconds(const struct part_problem *p, const struct part_team *t, double rows)
{
    const uint32_t lead = t->members[0];
    const double bytes = rows * p->hidden_bytes;
    double send_s = 0.0, out_s = 0.0, last_s = 0.0;
    if (t->n == 1 || t->shape == PART_STAR)
        return 0.0;
    for (uint32_t k = 1; k < t->n; k++) {
        const uint32_t d = t->members[k];
        send_s += message_seconds(p, lead, bytes);
        out_s += bytes / p->rate[lead][d];
        last_s = fmax(last_s, p->lat_s[lead][d] + message_seconds(p, d, bytes));
    }
    return send_s + out_s + last_s;
}

static struct part_team team_of(const struct part_stage *s)
{
    struct part_team t = {.n = s->n_members, .shape = s->shape};
    for (uint32_t k = 0; k < s->n_members; k++)
        t.members[k] = s->members[k].device;
    return t;
}

/* A member's part of one half of a layer, for so many rows. */
static double part_seconds(const struct part_problem *p, const struct part_member *m,
                           uint32_t layer, bool attn, double rows)
{
    return attn ? part_attn_seconds(p, m->device, layer, rows, m->head0, m->head1)
                : part_ff_seconds(p, m->device, layer, rows, m->ff1 - m->ff0);
}

/* One half of a layer for so many rows. A member of a team has not spent its quota when a half
 * begins, as it has waited before, and computes unthrottled. */
static double half_of(const struct part_problem *p, const struct part_stage *s, uint32_t layer,
                      bool attn, double rows, double *slowest_s)
{
    const struct part_team t = team_of(s);
    struct part_half h = {.rows_bytes = rows * p->normed_bytes};
    *slowest_s = 0.0;
    for (uint32_t k = 0; k < t.n; k++) {
        const struct part_member *m = &s->members[k];
        h.has[k] = attn ? m->head1 > m->head0 : m->ff1 > m->ff0;
        h.compute_s[k] = part_seconds(p, m, layer, attn, rows) *
                         (t.n > 1 ? part_throttle(&p->devices[m->device]) : 1.0);
        h.sum_bytes[k] = rows * p->sum_bytes;
        *slowest_s = fmax(*slowest_s, h.compute_s[k]);
    }
    return part_half_seconds(p, &t, &h);
}

/* A team cuts the rows of a prompt in two: one half of them computes while the other's sums
 * travel. */
static bool in_two(const struct part_stage *s, struct part_pass pass)
{
    return pass.prompt && s->n_members > 1 && pass.rows >= 2.0;
}

double part_stage_half(const struct part_problem *p, const struct part_stage *s, uint32_t layer,
                       bool attn, struct part_pass pass)
{
    const bool two = in_two(s, pass);
    double slowest_s;
    const double one_s = half_of(p, s, layer, attn, two ? pass.rows / 2.0 : pass.rows, &slowest_s);
    return two ? fmax(one_s, 2.0 * slowest_s) : one_s;
}

/* What a member's processor does for the messages of one half, in which `n` members beside the
 * leader have a part: a star's leader sends rows to each and takes its sums. */
static double messages_seconds(const struct part_problem *p, const struct part_stage *s, uint32_t k,
                               bool attn, double rows)
{
    const uint32_t d = s->members[k].device;
    const double sum_s = message_seconds(p, d, rows * p->sum_bytes);
    const double rows_s = message_seconds(p, d, rows * p->normed_bytes);
    bool has = false;
    uint32_t others = 0;
    for (uint32_t q = 0; q < s->n_members; q++) {
        const struct part_member *m = &s->members[q];
        const bool part = attn ? m->head1 > m->head0 : m->ff1 > m->ff0;
        has = q == k ? part : has;
        others += q != k && part;
    }
    if (s->shape == PART_MESH)
        return ((has ? s->n_members - 1 : 0) + others) * sum_s;
    return (k == 0 ? others : has ? 1 : 0) * (rows_s + sum_s);
}

/* Seconds of a layer that a member's quota leaves it time for: its parts of both halves, and all
 * their messages, which are timed at full speed. */
static double spent_seconds(const struct part_problem *p, const struct part_stage *s, uint32_t k,
                            uint32_t layer, double rows)
{
    const struct part_member *m = &s->members[k];
    return part_seconds(p, m, layer, true, rows) + part_seconds(p, m, layer, false, rows) +
           (messages_seconds(p, s, k, true, rows) + messages_seconds(p, s, k, false, rows)) /
               part_throttle(&p->devices[m->device]);
}

double part_stage_layer(const struct part_problem *p, const struct part_stage *s, uint32_t layer,
                        struct part_pass pass)
{
    const bool two = in_two(s, pass);
    const double rows = two ? pass.rows / 2.0 : pass.rows;
    double seconds =
        part_stage_half(p, s, layer, true, pass) + part_stage_half(p, s, layer, false, pass);
    for (uint32_t k = 0; s->n_members > 1 && k < s->n_members; k++)
        if (part_throttle(&p->devices[s->members[k].device]) < 1.0)
            seconds = fmax(seconds, (two ? 2.0 : 1.0) * spent_seconds(p, s, k, layer, rows));
    return seconds;
}

static bool has_output(const struct part_stage *s)
{
    return s->members[s->n_members - 1].run1 > 0;
}

/* Only the last row of a prompt is asked for its token. */
double part_stage_output(const struct part_problem *p, const struct part_stage *s,
                         struct part_pass pass)
{
    const struct part_team t = team_of(s);
    struct part_team star = t;
    const double rows = pass.prompt ? 1.0 : pass.rows;
    struct part_half h = {.rows_bytes = rows * p->normed_bytes};
    star.shape = PART_STAR;
    if (!has_output(s))
        return 0.0;
    for (uint32_t k = 0; k < t.n; k++) {
        const uint32_t runs = s->members[k].run1 - s->members[k].run0;
        const double share = (double)runs / p->n_vocab_runs;
        h.has[k] = runs > 0;
        h.compute_s[k] = share * part_time_at(p->devices[t.members[k]].output, rows);
        h.sum_bytes[k] = share * rows * p->logits_bytes;
    }
    return part_half_seconds(p, &star, &h);
}

double part_stage_begin(const struct part_problem *p, const struct part_stage *s,
                        struct part_pass pass)
{
    const struct part_team t = team_of(s);
    return p->devices[t.members[0]].pass_s + start_seconds(p, &t, pass.rows);
}

static double stage_seconds(const struct part_problem *p, const struct part_stage *s,
                            struct part_pass pass)
{
    const struct part_device *lead = &p->devices[s->members[0].device];
    double seconds = part_stage_begin(p, s, pass) + part_stage_output(p, s, pass);
    for (uint32_t l = s->layer0; l < s->layer1; l++)
        seconds += part_stage_layer(p, s, l, pass);
    if (s->layer0 == 0)
        seconds += part_time_at(lead->embed, pass.rows);
    return seconds;
}

double part_stage_seconds(const struct part_problem *p, const struct part_stage *s, double rows)
{
    return stage_seconds(p, s, (struct part_pass){rows, false});
}

double part_stage_prompt_seconds(const struct part_problem *p, const struct part_stage *s)
{
    return stage_seconds(p, s, (struct part_pass){part_chunk_rows(p), true});
}

uint64_t part_member_memory(const struct part_problem *p, const struct part_stage *s,
                            uint32_t member)
{
    const struct part_member *m = &s->members[member];
    const uint64_t heads = m->head1 - m->head0, units = m->ff1 - m->ff0, runs = m->run1 - m->run0;
    const uint64_t kv = part_kv_heads(p, m->head0, m->head1);
    const bool embeds = s->layer0 == 0 && member == 0;
    uint64_t bytes = p->base_bytes + p->scratch_bytes + (s->n_members > 1 ? p->team_bytes : 0);
    for (uint32_t l = s->layer0; l < s->layer1; l++) {
        const struct part_layer *y = &p->layers[l];
        bytes += y->common_bytes + heads * y->head_bytes + kv * y->kv_bytes + units * y->ff_bytes;
    }
    bytes += runs * (p->run_bytes - (embeds ? p->shared_run_bytes : 0));
    bytes += embeds ? p->embed_bytes : 0;
    return bytes + (member == 0 && has_output(s) ? p->output_bytes : 0);
}

uint64_t part_layer_bytes(const struct part_problem *p, uint32_t layer)
{
    const struct part_layer *y = &p->layers[layer];
    return y->common_bytes + p->n_head_units * y->head_bytes +
           part_kv_heads(p, 0, p->n_head_units) * y->kv_bytes + p->n_ff_units * y->ff_bytes;
}

struct part_stage part_stage_single(const struct part_problem *p, uint32_t device, uint32_t layer0,
                                    uint32_t layer1, bool output)
{
    return (struct part_stage){.layer0 = layer0,
                               .layer1 = layer1,
                               .n_members = 1,
                               .members = {{.device = device,
                                            .head1 = p->n_head_units,
                                            .ff1 = p->n_ff_units,
                                            .run1 = output ? p->n_vocab_runs : 0}}};
}

uint32_t part_plan_find(const struct part_plan *plan, uint32_t device, uint32_t *member)
{
    for (uint32_t s = 0; s < plan->n_stages; s++)
        for (uint32_t k = 0; k < plan->stages[s].n_members; k++)
            if (plan->stages[s].members[k].device == device) {
                if (member != NULL)
                    *member = k;
                return s;
            }
    return plan->n_stages;
}

/* A token closes the ring, or one hidden state of a prompt. */
static double hop_bytes(const struct part_problem *p, const struct part_plan *plan, uint32_t stage,
                        double rows, bool prompt)
{
    const bool closes = stage + 1 == plan->n_stages;
    return closes && !plan->output_first ? 0.0
           : closes && prompt            ? p->hidden_bytes
                                         : rows * p->hidden_bytes;
}

double part_hop_seconds(const struct part_problem *p, const struct part_plan *plan, uint32_t stage,
                        double rows)
{
    const uint32_t from = plan->stages[stage].members[0].device;
    const uint32_t to = plan->stages[(stage + 1) % plan->n_stages].members[0].device;
    return from == to
               ? 0.0
               : p->lat_s[from][to] + hop_bytes(p, plan, stage, rows, false) / p->rate[from][to];
}

struct part_ring part_ring_of(const struct part_problem *p, const struct part_plan *plan,
                              struct part_pass pass)
{
    struct part_ring r = {0.0, 0.0, 0.0};
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        const struct part_stage *s = &plan->stages[k];
        const uint32_t from = s->members[0].device;
        const bool closes = k + 1 == plan->n_stages;
        const uint32_t to = plan->stages[closes ? 0 : k + 1].members[0].device;
        const double seconds = stage_seconds(p, s, pass);
        r.sum_s += seconds;
        r.slowest_s = fmax(r.slowest_s, seconds);
        if (from == to)
            continue;
        const double link_s = hop_bytes(p, plan, k, pass.rows, pass.prompt) / p->rate[from][to];
        r.sum_s += p->lat_s[from][to] + link_s;
        r.link_s = fmax(r.link_s, link_s);
    }
    r.slowest_s = fmax(r.slowest_s, r.link_s);
    return r;
}

uint32_t part_chunks(const struct part_problem *p)
{
    return p->prompt_rows == 0 ? 0 : (p->prompt_rows + p->chunk_rows - 1) / p->chunk_rows;
}

double part_chunk_rows(const struct part_problem *p)
{
    return p->prompt_rows == 0 ? 0.0 : (double)p->prompt_rows / part_chunks(p);
}

/* Chunks follow each other through the stages (Jupiter, 2504.08242: the sum for one chunk, and the
 * slowest stage once more for each other). */
static double ttft_of(const struct part_problem *p, const struct part_plan *plan)
{
    if (p->prompt_rows == 0)
        return 0.0;
    const struct part_ring r =
        part_ring_of(p, plan, (struct part_pass){part_chunk_rows(p), true});
    return r.sum_s + (part_chunks(p) - 1) * r.slowest_s;
}

uint32_t part_groups(const struct part_problem *p, uint32_t n_stages)
{
    return p->slots < n_stages ? p->slots : n_stages;
}

double part_full_rows(const struct part_problem *p, uint32_t n_stages)
{
    return (double)p->slots / part_groups(p, n_stages);
}

void part_plan_cost(const struct part_problem *p, struct part_plan *plan)
{
    const uint32_t groups = part_groups(p, plan->n_stages);
    const struct part_ring full =
        part_ring_of(p, plan, (struct part_pass){part_full_rows(p, plan->n_stages), false});
    plan->latency_s = part_ring_of(p, plan, (struct part_pass){1.0, false}).sum_s;
    plan->bottleneck_s = full.slowest_s;
    plan->cycle_s = fmax(groups * full.slowest_s, full.sum_s);
    plan->ttft_s = ttft_of(p, plan);
}

uint32_t part_best_groups(const struct part_problem *p, const struct part_plan *plan,
                          double *cycle_s)
{
    uint32_t best = 1;
    *cycle_s = HUGE_VAL;
    for (uint32_t groups = 1; groups <= part_groups(p, plan->n_stages); groups++) {
        const struct part_ring r =
            part_ring_of(p, plan, (struct part_pass){(double)p->slots / groups, false});
        const double cycle = fmax(groups * r.slowest_s, r.sum_s);
        if (cycle < *cycle_s) {
            *cycle_s = cycle;
            best = groups;
        }
    }
    return best;
}

double part_plan_objective(const struct part_problem *p, const struct part_plan *plan)
{
    const double token_s = plan->cycle_s / p->slots;
    return p->objective == PART_LATENCY ? plan->latency_s
           : p->objective == PART_THROUGHPUT
               ? token_s
               : p->weight * plan->latency_s + (1.0 - p->weight) * token_s;
}

/* One kind of unit: ranges of the members one after the other, from 0 to `whole`. */
static bool tiles(uint32_t *at, uint32_t from, uint32_t to)
{
    const bool good = from == *at && to >= from;
    *at = to;
    return good;
}

static bool stage_fits(const struct part_problem *p, const struct part_stage *s, bool output,
                       uint32_t *used)
{
    uint32_t head = 0, ff = 0, run = 0;
    if (s->n_members < 1 || s->n_members > p->n_devices || s->layer1 <= s->layer0 ||
        s->layer1 > p->n_layers || (s->n_members == 1 && s->shape != PART_STAR))
        return false;
    for (uint32_t k = 0; k < s->n_members; k++) {
        const struct part_member *m = &s->members[k];
        if (m->device >= p->n_devices || (*used >> m->device & 1) != 0 ||
            (k > 1 && m->device < s->members[k - 1].device))
            return false;
        *used |= 1u << m->device;
        if (!tiles(&head, m->head0, m->head1) || !tiles(&ff, m->ff0, m->ff1) ||
            !tiles(&run, m->run0, m->run1) ||
            (m->head1 == m->head0 && m->ff1 == m->ff0 && m->run1 == m->run0))
            return false;
        const struct part_device *dev = &p->devices[m->device];
        if (dev->pin0 >= 0 &&
            (s->layer0 != (uint32_t)dev->pin0 || s->layer1 != (uint32_t)dev->pin1))
            return false;
        if (!part_keeps_pins(dev, m) || part_member_memory(p, s, k) > dev->memory_bytes)
            return false;
    }
    return head == p->n_head_units && ff == p->n_ff_units && run == (output ? p->n_vocab_runs : 0);
}

bool part_plan_fits(const struct part_problem *p, const struct part_plan *plan)
{
    uint32_t used = 0, next = 0;
    if (plan->n_stages < 1 || plan->n_stages > p->n_devices ||
        (plan->output_first && plan->n_stages == 1))
        return false;
    for (uint32_t k = 0; k < plan->n_stages; k++) {
        const struct part_stage *s = &plan->stages[k];
        const bool output = k == (plan->output_first ? 0 : plan->n_stages - 1);
        if (s->layer0 != next || !stage_fits(p, s, output, &used))
            return false;
        next = s->layer1;
        if ((p->granularity == PART_LAYERS && s->n_members > 1) ||
            (p->granularity == PART_HEADS && plan->n_stages > 1))
            return false;
    }
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const struct part_device *dev = &p->devices[d];
        if ((used >> d & 1) == 0 &&
            (p->use_all || dev->pin0 >= 0 || dev->pin_heads > 0 || dev->pin_ff > 0))
            return false;
        if (dev->pin_leader && plan->stages[0].members[0].device != d)
            return false;
    }
    return next == p->n_layers && (p->ttft_max_s == 0.0 || ttft_of(p, plan) <= p->ttft_max_s);
}
