/* Two generators. The small problems are arbitrary numbers: no board is like that, but every rule of
 * the cost model decides some of them. The clusters are boards and models that exist: matrix read
 * bandwidth and memory of Raspberry Pi 3, 4, 5, Jetson Nano, Orin Nano, an old laptop and a mini PC,
 * on Wi-Fi, 100 Mbit/s or gigabit links, under TinyLlama, 7B, 13B, 32B and 70B shapes. A board's
 * seconds follow from bytes over bandwidth, and for many rows from operations over their rate. */
#include "tests/unit/plan_cases.h"

#include <math.h>
#include <string.h>

static const uint64_t MIB = 1u << 20;

double plan_between(uint64_t *seed, double a, double b)
{
    return a + (b - a) * ((double)(base_rng_next(seed) >> 11) / 9007199254740992.0);
}

bool plan_chance(uint64_t *seed, double p)
{
    return plan_between(seed, 0.0, 1.0) < p;
}

uint32_t plan_below(uint64_t *seed, uint32_t n)
{
    return (uint32_t)(base_rng_next(seed) % n);
}

/* ---- small ----------------------------------------------------------------------------------- */

static struct part_time some_time(uint64_t *seed, double most_s)
{
    return (struct part_time){plan_between(seed, 0.0, most_s), plan_between(seed, 0.0, most_s / 4)};
}

static void small_devices(uint64_t *seed, struct part_problem *p)
{
    const bool same_layers = plan_chance(seed, 0.4), dear_messages = plan_chance(seed, 0.3);
    for (uint32_t d = 0; d < p->n_devices; d++) {
        struct part_device *dev = &p->devices[d];
        snprintf(dev->name, sizeof dev->name, "board%u", d);
        const double slow = plan_between(seed, 1.0, 6.0);
        for (uint32_t l = 0; l < p->n_layers; l++) {
            dev->attn[l] = l > 0 && same_layers ? dev->attn[0] : some_time(seed, 2e-3 * slow);
            dev->ff[l] = l > 0 && same_layers ? dev->ff[0] : some_time(seed, 4e-3 * slow);
        }
        dev->half = some_time(seed, 2e-4);
        dev->embed = some_time(seed, 2e-4);
        dev->output = some_time(seed, 6e-3 * slow);
        dev->pass_s = plan_between(seed, 0.0, 1e-3);
        dev->message_s = plan_between(seed, 0.0, dear_messages ? 1e-3 : 5e-5);
        dev->byte_s = plan_between(seed, 0.0, 1e-9);
        dev->pin0 = dev->pin_heads = dev->pin_ff = -1;
    }
}

static void small_links(uint64_t *seed, struct part_problem *p)
{
    const bool same = plan_chance(seed, 0.3);
    const double lat_s = plan_chance(seed, 0.5) ? 2e-4 : 2e-3;
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t e = 0; e < p->n_devices; e++) {
            p->lat_s[d][e] = same ? lat_s : plan_between(seed, lat_s / 4, lat_s * 2);
            p->rate[d][e] = same ? 1e8 : pow(10.0, plan_between(seed, 6.5, 8.5));
        }
    p->hidden_bytes = 4096 * plan_between(seed, 0.5, 4.0);
    p->normed_bytes = p->hidden_bytes * 0.28;
    p->sum_bytes = p->hidden_bytes;
    p->logits_bytes = p->hidden_bytes * plan_between(seed, 0.1, 20.0);
}

static void small_bytes(uint64_t *seed, struct part_problem *p)
{
    const bool same_layers = plan_chance(seed, 0.4), tied = plan_chance(seed, 0.5);
    const double share = plan_between(seed, 0.0, 0.4);
    double total = 0.0, has[PART_DEVICES_MAX], sum = 0.0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        struct part_layer *y = &p->layers[l];
        *y = (struct part_layer){plan_below(seed, 3) * MIB, (4 + plan_below(seed, 8)) * MIB,
                                 plan_below(seed, 6) * MIB, (10 + plan_below(seed, 20)) * MIB,
                                 share};
        if (l > 0 && same_layers)
            *y = p->layers[0];
        total += (double)(y->common_bytes + p->n_head_units * (y->head_bytes + y->kv_bytes) +
                          p->n_ff_units * y->ff_bytes);
    }
    p->embed_bytes = plan_below(seed, 60) * MIB;
    p->output_bytes = plan_below(seed, 2) * MIB;
    p->run_bytes = plan_below(seed, 40) * MIB;
    if (tied) {
        p->shared_run_bytes = p->run_bytes;
        p->embed_bytes = p->run_bytes * p->n_vocab_runs;
    }
    p->base_bytes = plan_below(seed, 8) * MIB;
    p->scratch_bytes = plan_below(seed, 8) * MIB;
    p->team_bytes = plan_below(seed, 4) * MIB;
    total += (double)(p->embed_bytes + p->n_vocab_runs * p->run_bytes);
    const double slack =
        plan_chance(seed, 0.6) ? plan_between(seed, 1.0, 1.6) : plan_between(seed, 2.0, 8.0);
    for (uint32_t d = 0; d < p->n_devices; d++)
        sum += has[d] = plan_between(seed, 0.3, 1.0);
    for (uint32_t d = 0; d < p->n_devices; d++)
        p->devices[d].memory_bytes = p->base_bytes + p->scratch_bytes + p->team_bytes +
                                     (uint64_t)(total * slack * has[d] / sum);
}

static void small_pins(uint64_t *seed, struct part_problem *p)
{
    for (uint32_t d = 0; d < p->n_devices; d++) {
        struct part_device *dev = &p->devices[d];
        if (plan_chance(seed, 0.25)) {
            const uint32_t a = plan_below(seed, p->n_layers), b = a + 1 + plan_below(seed, 4);
            dev->pin0 = (int)a;
            dev->pin1 = (int)(b < p->n_layers ? b : p->n_layers);
        }
        if (plan_chance(seed, 0.2))
            dev->pin_heads = (int)plan_below(seed, p->n_head_units + 1);
        if (plan_chance(seed, 0.1))
            dev->pin_ff = (int)plan_below(seed, p->n_ff_units + 1);
    }
    if (plan_chance(seed, 0.5))
        p->devices[plan_below(seed, p->n_devices)].pin_leader = true;
}

void plan_case_small(uint64_t number, struct part_problem *p)
{
    uint64_t s = base_mix64(number + 4000), *seed = &s;
    memset(p, 0, sizeof *p);
    p->n_devices = 2 + plan_below(seed, 3);
    p->n_layers = 2 + plan_below(seed, 5);
    p->n_head_units = 1 + plan_below(seed, 8);
    p->unit_heads = 1 + plan_below(seed, 2);
    p->heads_per_kv = 1 + plan_below(seed, 3);
    p->n_ff_units = 1 + plan_below(seed, p->n_devices == 4 ? 4 : 8);
    p->n_vocab_runs = 1 + plan_below(seed, p->n_devices == 4 ? 2 : 4);
    p->slots = 1 + plan_below(seed, 8);
    p->objective = (enum part_objective)(number % 3);
    p->weight = plan_between(seed, 0.0, 1.0);
    p->granularity = plan_chance(seed, 0.8)   ? PART_AUTO
                     : plan_chance(seed, 0.5) ? PART_HEADS
                                              : PART_LAYERS;
    p->use_all = plan_chance(seed, 0.25);
    p->time_limit_s = 60.0;
    small_devices(seed, p);
    small_links(seed, p);
    small_bytes(seed, p);
    if (plan_chance(seed, 0.2))
        small_pins(seed, p);
    if (plan_chance(seed, 0.25)) {
        p->prompt_rows = 1 + plan_below(seed, 200);
        p->chunk_rows = 16 + plan_below(seed, 64);
        p->ttft_max_s = plan_between(seed, 0.01, 1.0);
    }
}

/* ---- clusters -------------------------------------------------------------------------------- */

struct board {
    const char *name;
    double read_rate;  /* bytes of weights a second, all cores */
    double ops;        /* multiplications and additions a second on many rows */
    double memory_mib; /* usable */
    double message_s, copy_rate, port_rate, half_lat_s;
};

static const struct board boards[] = {
    {"pi3", 1.8e9, 4e9, 700, 90e-6, 250e6, 11.7e6, 150e-6},
    {"pi4", 3.6e9, 12e9, 3300, 60e-6, 500e6, 117e6, 90e-6},
    {"pi5", 9.5e9, 45e9, 7200, 30e-6, 1500e6, 117e6, 60e-6},
    {"nano", 7.0e9, 14e9, 3200, 60e-6, 600e6, 117e6, 90e-6},
    {"orin", 22e9, 70e9, 6700, 30e-6, 2000e6, 117e6, 60e-6},
    {"laptop", 12e9, 50e9, 6000, 25e-6, 2500e6, 117e6, 60e-6},
    {"minipc", 18e9, 90e9, 14500, 20e-6, 3500e6, 117e6, 50e-6},
};

struct shape {
    const char *name;
    uint32_t layers, embd, ff, heads, kv_heads, vocab;
};

static const struct shape shapes[] = {
    {"tinyllama", 22, 2048, 5632, 32, 4, 32000}, {"7b", 32, 4096, 11008, 32, 32, 32000},
    {"8b", 32, 4096, 14336, 32, 8, 128256},      {"13b", 40, 5120, 13824, 40, 40, 32000},
    {"32b", 64, 5120, 27648, 40, 8, 152064},     {"70b", 80, 8192, 28672, 64, 8, 128256},
};

static const double bytes_weight = 4.5 / 8; /* Q4_0 */

static void cluster_layer(const struct shape *m, double more, uint32_t kv_tokens,
                          struct part_layer *y)
{
    const double d = m->embd, hd = d / m->heads;
    const uint32_t columns = m->ff / (m->ff > 10000 ? 256 : 64);
    *y = (struct part_layer){.common_bytes = (uint64_t)(8 * d),
                             .head_bytes = (uint64_t)(2 * hd * d * bytes_weight * more),
                             .kv_bytes =
                                 (uint64_t)(2 * hd * d * bytes_weight * more + 4 * hd * kv_tokens),
                             .ff_bytes = (uint64_t)(3 * d * m->ff / columns * bytes_weight * more),
                             .kv_share = (double)m->kv_heads / (m->heads + m->kv_heads)};
}

static void cluster_device(const struct shape *m, const struct board *b, double speed,
                           const struct part_problem *p, struct part_device *dev)
{
    const double d = m->embd, kv = (double)m->kv_heads / m->heads;
    const double attn = 2 * d * d * (1 + kv), ff = 3 * d * m->ff, out = d * m->vocab;
    for (uint32_t l = 0; l < m->layers; l++) {
        const double more = (double)p->layers[l].ff_bytes / (double)p->layers[0].ff_bytes;
        dev->attn[l] = (struct part_time){
            speed * (attn * bytes_weight * more / b->read_rate + 20e-6), speed * 2 * attn / b->ops};
        dev->ff[l] = (struct part_time){speed * (ff * bytes_weight * more / b->read_rate + 20e-6),
                                        speed * 2 * ff / b->ops};
    }
    dev->half = (struct part_time){speed * 15e-6, speed * d * 3e-9};
    dev->embed = (struct part_time){speed * 5e-6, speed * d * 2e-9};
    dev->output =
        (struct part_time){speed * out * bytes_weight / b->read_rate, speed * 2 * out / b->ops};
    dev->pass_s = speed * 3 * b->message_s;
    dev->message_s = speed * b->message_s;
    dev->byte_s = speed / b->copy_rate;
    dev->memory_bytes = (uint64_t)(b->memory_mib * (double)MIB);
    dev->pin0 = dev->pin_heads = dev->pin_ff = -1;
}

static void cluster_model(const struct shape *m, bool mixed, uint32_t kv_tokens,
                          struct part_problem *p)
{
    p->n_layers = m->layers;
    p->n_head_units = m->heads;
    p->unit_heads = 1;
    p->heads_per_kv = m->heads / m->kv_heads;
    p->n_ff_units = m->ff / (m->ff > 10000 ? 256 : 64);
    p->n_vocab_runs = 64;
    for (uint32_t l = 0; l < m->layers; l++)
        cluster_layer(m,
                      mixed && (l < m->layers / 8 || l >= m->layers - m->layers / 8 || l % 3 == 2)
                          ? 1.2
                          : 1.0,
                      kv_tokens, &p->layers[l]);
    p->embed_bytes = (uint64_t)(bytes_weight * m->embd * m->vocab);
    p->run_bytes = p->embed_bytes / p->n_vocab_runs;
    p->output_bytes = 4 * m->embd;
    p->base_bytes = 20 * MIB;
    p->scratch_bytes = 30 * MIB;
    p->team_bytes = 4 * MIB;
    p->hidden_bytes = p->sum_bytes = 4.0 * m->embd;
    p->normed_bytes = 1.125 * m->embd;
    p->logits_bytes = 4.0 * m->vocab;
}

static double cluster_need(const struct part_problem *p)
{
    double need = (double)p->embed_bytes * 2;
    for (uint32_t l = 0; l < p->n_layers; l++)
        need += (double)p->n_head_units * (double)p->layers[l].head_bytes +
                (double)p->n_head_units / p->heads_per_kv * (double)p->layers[l].kv_bytes +
                (double)p->n_ff_units * (double)p->layers[l].ff_bytes;
    return need;
}

void plan_case_cluster(uint32_t number, struct part_problem *p, char name[static 96])
{
    static const char *const nets[] = {"100 Mbit/s", "1 Gbit/s", "Wi-Fi", "1 Gbit/s mixed"};
    enum {
        N_BOARDS = sizeof boards / sizeof boards[0],
        N_SHAPES = sizeof shapes / sizeof shapes[0]
    };
    uint64_t s = base_mix64(number + 9000), *seed = &s;
    uint32_t of[PART_DEVICES_MAX], kinds[4], n_kinds = 1 + plan_below(seed, 4);
    memset(p, 0, sizeof *p);
    p->n_devices = number % 4 == 3 ? 16 : 2 + plan_below(seed, 15);
    for (uint32_t k = 0; k < n_kinds; k++)
        kinds[k] = plan_below(seed, N_BOARDS);
    double room = 0.0;
    for (uint32_t d = 0; d < p->n_devices; d++) {
        of[d] = kinds[plan_below(seed, n_kinds)];
        room += (boards[of[d]].memory_mib - 54) * (double)MIB;
    }
    const bool mixed = plan_chance(seed, 0.5), noisy = plan_chance(seed, 0.3);
    const uint32_t net = plan_below(seed, 4), kv_tokens = 1024u << plan_below(seed, 4);
    uint32_t shape = number % 4 == 3 ? N_SHAPES - 1 : plan_below(seed, N_SHAPES);
    for (;; shape--) {
        cluster_model(&shapes[shape], mixed, kv_tokens, p);
        if (shape == 0 || cluster_need(p) * 1.1 < room)
            break;
    }
    double port[PART_DEVICES_MAX], lat_s[PART_DEVICES_MAX];
    for (uint32_t d = 0; d < p->n_devices; d++) {
        const struct board *b = &boards[of[d]];
        const bool wifi = net == 2 || (net == 3 && d % 4 == 1);
        const double slow = noisy ? plan_between(seed, 0.97, 1.03) : 1.0;
        cluster_device(&shapes[shape], b, slow, p, &p->devices[d]);
        snprintf(p->devices[d].name, PART_NAME_MAX, "%s-%u", b->name, d);
        port[d] = wifi ? 6e6 : net == 0 ? 11.7e6 : b->port_rate;
        lat_s[d] = (b->half_lat_s + (wifi       ? 8e-4
                                     : net == 0 ? 5e-5
                                                : 0.0)) *
                   (noisy ? plan_between(seed, 0.95, 1.05) : 1.0);
    }
    for (uint32_t d = 0; d < p->n_devices; d++)
        for (uint32_t e = 0; e < p->n_devices; e++) {
            p->lat_s[d][e] = lat_s[d] + lat_s[e];
            p->rate[d][e] = port[d] < port[e] ? port[d] : port[e];
        }
    p->slots = 1u << plan_below(seed, 5);
    p->objective = number % 2 == 0   ? PART_LATENCY
                   : number % 8 == 5 ? PART_WEIGHTED
                                     : PART_THROUGHPUT;
    p->weight = 0.5;
    p->granularity = PART_AUTO;
    p->prompt_rows = 256;
    p->chunk_rows = 64;
    p->time_limit_s = 10.0;
    snprintf(name, 96, "%u boards of %u kinds, %s%s, %s%s", p->n_devices, n_kinds,
             shapes[shape].name, mixed ? " mixed types" : "", nets[net], noisy ? ", noisy" : "");
}
