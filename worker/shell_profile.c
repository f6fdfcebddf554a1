/* The worker's shell: what was measured of this worker, kept for coordinators to come, and told to
 * them. Measuring itself is a job (shell_load.c, profile.c). */
#include "worker/shell.h"

#include <string.h>

/* What is not compared does not change while the process lives. */
bool worker_shell_is_measured(const struct worker_shell *sh)
{
    const struct worker_measured *k = &sh->measured;
    const struct worker_quota q = worker_cpu_quota("");
    return k->at_ms != 0 && memcmp(k->model, sh->model_hash, NET_HASH_BYTES) == 0 &&
           k->config.n_slots == sh->n_slots && k->config.context == sh->context &&
           k->config.kv == sh->kv && k->profile.rows[1] == sh->profile_rows &&
           memcmp(&k->quota, &q, sizeof q) == 0;
}

void worker_shell_say_profile(struct worker_shell *sh, uint64_t age_ms, const char *error)
{
    const struct worker_profile *p = &sh->measured.profile;
    const uint32_t n = error[0] == 0 ? model_shape(sh->model)->n_layers : 0;
    double layers[2][WORKER_BATCHES * MODEL_LAYERS_MAX], others[4][WORKER_BATCHES];
    uint8_t rows[WORKER_BATCHES * sizeof(uint32_t)];
    char why[301];
    snprintf(why, sizeof why, "%s", error);
    for (uint32_t i = 0; i < WORKER_BATCHES; i++) {
        const struct worker_batch *b = &p->batches[i];
        net_put_u32(rows, i, p->rows[i]);
        memcpy(layers[0] + i * n, b->attention, n * sizeof *layers[0]);
        memcpy(layers[1] + i * n, b->ffn, n * sizeof *layers[1]);
        others[0][i] = b->attention_fixed;
        others[1][i] = b->ffn_fixed;
        others[2][i] = b->embed;
        others[3][i] = b->output;
    }
    const struct net_msg m = {
        .code = NET_MSG_PROFILED,
        .u.PROFILED = {
            .rows = {rows, WORKER_BATCHES},
            .attention = net_list_f64(layers[0], WORKER_BATCHES * n),
            .ffn = net_list_f64(layers[1], WORKER_BATCHES * n),
            .attention_fixed = net_list_f64(others[0], WORKER_BATCHES),
            .ffn_fixed = net_list_f64(others[1], WORKER_BATCHES),
            .embed = net_list_f64(others[2], WORKER_BATCHES),
            .output = net_list_f64(others[3], WORKER_BATCHES),
            .sample = p->sample,
            .wake = p->wake,
            .codec = p->codec,
            .message = p->message,
            .throttle = p->throttle,
            .pass = sh->measured.pass,
            .memory_bytes = worker_memory_available("", sh->self.memory_bytes),
            .base_bytes = sh->base_bytes,
            .age_ms = age_ms,
            .error = net_text_fit(why, 300),
        }};
    struct worker_event ev = {.type = WORKER_EV_PROFILED, .msg = &m};
    worker_shell_step(sh, &ev);
}
