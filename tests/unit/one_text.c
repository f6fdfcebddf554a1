/* Models' logits as one number: the demo model's, and those of a tiny model of each weight type. Plain C without a test library, so that the same code runs
 * in the unit tests and, built for another machine, under an emulator. The hash is chained over the
 * bits of every logit of every position, so no difference is small enough to get lost. */
#include "tests/unit/one_text.h"

#include "tests/unit/tiny_model.h"

#include <string.h>

enum { PROMPT = 12, MORE = 2 };

static const int32_t prompt[PROMPT] = {1, 726, 262, 1875, 1070, 412, 1777, 286, 262, 853, 272, 262};

static uint64_t mix_logits(uint64_t hash, const float *logits, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        hash = base_mix64(hash ^ bits);
    }
    return hash;
}

static int32_t best(const float *logits, uint32_t n)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[at])
            at = i;
    return (int32_t)at;
}

/* Run n rows from `position` on and chain their logits; returns the best token of the last. */
static int32_t run(struct model_exec *x, const int32_t *tokens, uint32_t position, uint32_t n,
                   float *hidden, float *logits, uint32_t n_vocab, uint64_t *hash)
{
    struct model_row rows[PROMPT] = {{0}};
    uint32_t bad[PROMPT] = {0};
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct model_row){0, position + i, tokens[i], true};
    model_exec_run(x, rows, n, hidden, logits, bad);
    /* Row by row, so that the chain does not know where a chunk ended. */
    for (uint32_t i = 0; i < n; i++) {
        *hash = base_mix64(*hash ^ bad[i]);
        *hash = mix_logits(*hash, logits + (size_t)i * n_vocab, n_vocab);
    }
    return best(logits + (size_t)(n - 1) * n_vocab, n_vocab);
}

/* Chain the logits of an open model over the prompt and two tokens more into *hash. */
static bool hash_model(const struct model *m, enum kern_kv_type kv,
                       const struct kern_table *kernels, unsigned n_threads, uint32_t chunk,
                       uint64_t *hash, struct err *e)
{
    const struct model_shape *s = model_shape(m);
    const struct model_slice whole = model_slice_layers(m, 0, s->n_layers);
    const struct model_exec_config c = {1, 64, PROMPT, kv, n_threads, kernels, false};
    struct model_exec *x = NULL;
    struct tiny_store store = tiny_store_make(m);
    float *hidden = base_zalloc((size_t)PROMPT * s->n_embd, sizeof *hidden);
    float *logits = base_zalloc((size_t)PROMPT * s->n_vocab, sizeof *logits);
    int32_t tokens[PROMPT], token = 0;
    bool ok = false;

    if (hidden == NULL || logits == NULL) {
        err_set(e, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (model_exec_new(m, &whole, &c, tiny_store_get, &store, &x, e) != 0)
        goto out;
    for (unsigned i = 0; i < PROMPT; i++)
        tokens[i] = prompt[i] % (int32_t)s->n_vocab;
    for (uint32_t p = 0; p < PROMPT; p += chunk) {
        const uint32_t n = PROMPT - p < chunk ? PROMPT - p : chunk;
        token = run(x, tokens + p, p, n, hidden, logits, s->n_vocab, hash);
    }
    for (uint32_t p = PROMPT; p < PROMPT + MORE; p++)
        token = run(x, &token, p, 1, hidden, logits, s->n_vocab, hash);
    ok = true;
out:
    base_free(hidden);
    base_free(logits);
    model_exec_free(x);
    tiny_store_free(&store);
    return ok;
}

uint64_t one_text_hash(const char *path, const struct kern_table *kernels, unsigned n_threads,
                       uint32_t chunk, struct err *e)
{
    struct model *m = NULL;
    uint64_t hash = 0;
    if (model_open(path, &m, e) != 0)
        return 0;
    const bool ok = hash_model(m, KERN_KV_F16, kernels, n_threads, chunk, &hash, e);
    model_close(m);
    return ok ? hash : 0;
}

uint64_t one_text_types_hash(const struct kern_table *kernels, unsigned n_threads, uint32_t chunk,
                             struct err *e)
{
    uint64_t hash = 0;
    for (unsigned i = 0; i < KERN_N_TYPES; i++) {
        struct tiny_model c = tiny_model_default((enum kern_type)i);
        struct model *m = NULL;
        tiny_model_set_arch(&c, tiny_archs[i % TINY_N_ARCHS]);
        if (tiny_model_open(&c, &m, e) != 0)
            return 0;
        const enum kern_kv_type kv = (enum kern_kv_type)(i / TINY_N_ARCHS % KERN_N_KV_TYPES);
        const bool ok = hash_model(m, kv, kernels, n_threads, chunk, &hash, e);
        model_close(m);
        if (!ok)
            return 0;
    }
    return hash;
}
