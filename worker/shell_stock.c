/* The worker's shell: pieces for plans that may come.
 *
 * STOCK names what this worker would need if another were lost. It is fetched while no plan is, a
 * part at a time, and after each part the link is left alone for nine times as long as that part
 * took: text that goes on keeps nine tenths of whatever the link is. A plan that comes ends it, and
 * what has been fetched by then stays. Where the store has no room the stock is given up: what is in
 * use never makes room for it. */
#include "worker/shell.h"

#include <string.h>

enum { REST = 9 };

void worker_shell_stock_free(struct worker_shell *sh)
{
    base_free(sh->stock.hashes);
    base_free(sh->stock.wanted);
    sh->stock = (struct worker_stock){0};
}

void worker_shell_stock(struct worker_shell *sh, const struct net_msg_STOCK *m)
{
    struct worker_stock *s = &sh->stock;
    const uint32_t n = model_n_pieces(sh->model);
    if (s->epoch != m->epoch || s->model != sh->model) {
        worker_shell_stock_free(sh);
        s->epoch = m->epoch;
        s->model = sh->model;
        s->hashes = base_zalloc(n, NET_HASH_BYTES);
        s->wanted = base_zalloc(n, sizeof *s->wanted);
    }
    if (s->hashes == NULL || s->wanted == NULL) {
        base_log(BASE_LOG_WARN, "stock", "error=\"out of memory for a list of pieces\"");
        worker_shell_stock_free(sh);
        return;
    }
    for (uint32_t i = 0; i < m->pieces.n; i++) {
        const uint32_t k = net_u32_at(m->pieces, i);
        if (k >= n) {
            base_log(BASE_LOG_WARN, "stock", "error=\"there is no piece %u in this model\"", k);
            continue;
        }
        memcpy(s->hashes + (size_t)k * NET_HASH_BYTES, m->hashes.ptr + (size_t)i * NET_HASH_BYTES,
               NET_HASH_BYTES);
        s->wanted[k] = true;
    }
    s->more = true;
    base_log(BASE_LOG_INFO, "stock", "epoch=%llx wanted=%u", (unsigned long long)m->epoch,
             m->pieces.n);
}

/* Begin to fetch it, where there is something new and no plan is under way. */
static void begin(struct worker_shell *sh)
{
    struct worker_stock *s = &sh->stock;
    struct err e = {0};
    uint32_t n = 0, n_keep = 0;
    if (!s->more || sh->next.epoch != 0 || s->model != sh->model)
        return;
    s->more = false;
    const uint32_t n_pieces = model_n_pieces(sh->model);
    uint8_t *hashes = base_zalloc(n_pieces, NET_HASH_BYTES);
    uint64_t *bytes = base_zalloc(n_pieces, sizeof *bytes);
    uint8_t *keep = worker_shell_in_use(sh, &n_keep);
    int rc = hashes == NULL || bytes == NULL || keep == NULL
                 ? err_set(&e, ERR_NOMEM, "out of memory for a list of pieces")
                 : 0;
    for (uint32_t i = 0; rc == 0 && i < n_pieces; i++) {
        if (!s->wanted[i])
            continue;
        memcpy(hashes + (size_t)n * NET_HASH_BYTES, s->hashes + (size_t)i * NET_HASH_BYTES,
               NET_HASH_BYTES);
        bytes[n++] = model_piece_bytes(sh->model, model_piece_at(sh->model, i));
    }
    if (rc == 0)
        rc = worker_loader_begin(sh->loader, hashes, bytes, n, keep, n_keep, &e);
    if (rc == 0)
        sh->loading = WORKER_LOADING_STOCK;
    else
        base_log(BASE_LOG_WARN, "stock", "error=\"%s\"", e.text);
    base_free(hashes);
    base_free(bytes);
    base_free(keep);
}

bool worker_shell_stock_rests(struct worker_shell *sh)
{
    struct worker_stock *s = &sh->stock;
    const double now_s = base_clock_s();
    if (sh->loading != WORKER_LOADING_STOCK)
        return false;
    if (s->asked_s > 0 && worker_loader_is_quiet(sh->loader)) {
        s->due_s = now_s + REST * (now_s - s->asked_s);
        s->asked_s = 0;
    }
    if (s->asked_s > 0 || now_s < s->due_s)
        return true;
    s->asked_s = now_s;
    return false;
}

void worker_shell_stock_pump(struct worker_shell *sh)
{
    const char *reason;
    uint64_t done, total, fetched;
    if (sh->loading == WORKER_LOADING_NONE)
        begin(sh);
    if (sh->loading != WORKER_LOADING_STOCK)
        return;
    const enum worker_loader_state state = worker_loader_state(sh->loader, &reason);
    if (state == WORKER_LOADER_BUSY)
        return;
    worker_loader_progress(sh->loader, &done, &total, &fetched);
    if (state == WORKER_LOADER_DONE)
        base_log(BASE_LOG_INFO, "stock", "epoch=%llx bytes=%llu fetched=%llu more=%d",
                 (unsigned long long)sh->stock.epoch, (unsigned long long)total,
                 (unsigned long long)fetched, sh->stock.more ? 1 : 0);
    else
        base_log(BASE_LOG_WARN, "stock", "error=\"%s\"", reason);
    sh->stock.asked_s = 0;
    sh->loading = WORKER_LOADING_NONE;
}
