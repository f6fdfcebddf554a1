/* A file's weights as pieces in memory: the work that a coordinator does before it ships, done here
 * for a model that stays.
 *
 * Packing is one pass over the file. Threads take the next piece that nobody has, so a slow one
 * delays no other; where a piece goes was settled before. What has been read of the file is given
 * back every few megabytes: the file stays in the system's cache, but the process holds the weights
 * once, not twice. The pieces of a tied output matrix are those of the embedding, and are not packed
 * again.
 *
 * Left out: keeping the packed form on disk, as a worker's store does. */
#include "client/client.h"

#include <stdatomic.h>

enum { FORGET_BYTES = 8 << 20 }; /* packed by a thread between two times of giving the file back */

struct pack_job {
    struct cli_model *m;
    struct base_progress progress; /* the calling thread's */
    atomic_uint next;              /* piece */
    atomic_size_t done;            /* bytes */
};

/* Whether piece p is another one's bytes, and whose. */
static bool shared_piece(const struct cli_model *m, struct model_piece p, uint32_t *other)
{
    if (p.kind != MODEL_PIECE_OUTPUT || !m->shape->tied)
        return false;
    *other = model_piece_number(m->model, (struct model_piece){MODEL_PIECE_EMBED, 0, p.index});
    return true;
}

static void large_pages_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct cli_model *m = arg;
    base_arena_large_pages(m->weights, part, n_parts);
}

static void pack_part(void *arg, unsigned part, unsigned n_parts)
{
    struct pack_job *j = arg;
    const struct model *model = j->m->model;
    const uint32_t n = model_n_pieces(model);
    size_t since = 0;
    (void)n_parts;
    for (uint32_t i = atomic_fetch_add(&j->next, 1); i < n && !cli_interrupted();
         i = atomic_fetch_add(&j->next, 1)) {
        const struct model_piece p = model_piece_at(model, i);
        const size_t bytes = model_piece_bytes(model, p);
        uint32_t other;
        if (shared_piece(j->m, p, &other))
            continue;
        model_piece_pack(model, p, (void *)(uintptr_t)j->m->pieces[i]);
        const size_t done = atomic_fetch_add(&j->done, bytes) + bytes;
        since += bytes;
        if (since >= FORGET_BYTES) {
            model_gguf_forget(model_gguf(model));
            since = 0;
        }
        if (part == 0)
            base_progress_step(&j->progress, done);
    }
}

/* A place for every piece. */
static int place_pieces(struct cli_model *m, size_t *total, struct err *e)
{
    const uint32_t n = model_n_pieces(m->model);
    char size[24];
    uint32_t other;
    *total = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct model_piece p = model_piece_at(m->model, i);
        if (!shared_piece(m, p, &other))
            *total += base_round_up(model_piece_bytes(m->model, p), KERN_ALIGN);
    }
    m->pieces = base_zalloc(n, sizeof *m->pieces);
    m->weights = base_arena_new(*total);
    if (m->pieces == NULL || m->weights == NULL)
        return err_set(e, ERR_NOMEM,
                       "the model needs %s of memory, which this machine does not have",
                       base_bytes_text(*total, size));
    for (uint32_t i = 0; i < n; i++) {
        const struct model_piece p = model_piece_at(m->model, i);
        m->pieces[i] = shared_piece(m, p, &other)
                           ? m->pieces[other]
                           : base_arena_take(m->weights, model_piece_bytes(m->model, p));
    }
    base_arena_seal(m->weights);
    return 0;
}

int cli_weights_pack(struct cli_model *m, struct err *e)
{
    struct pack_job j = {.m = m};
    size_t total;
    int rc = place_pieces(m, &total, e);
    if (rc != 0)
        return rc;
    struct kern_pool *pool = kern_pool_new(m->config.n_threads);
    if (pool == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %u threads", m->config.n_threads);
    base_progress_begin(&j.progress, "loading", total);
    kern_pool_run(pool, large_pages_part, m);
    kern_pool_run(pool, pack_part, &j);
    base_progress_end(&j.progress);
    kern_pool_free(pool);
    model_gguf_forget(model_gguf(m->model));
    return cli_interrupted() ? err_set(e, ERR_CANCELLED, "interrupted") : 0;
}

const void *cli_weights_piece(void *model, uint32_t number)
{
    const struct cli_model *m = model;
    return m->pieces[number];
}
