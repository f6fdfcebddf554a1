/* Logits as one number. Plain C without a test library, so that the same code runs in the unit
 * tests and, built for another machine, under an emulator. The hash is chained over the bits of
 * every logit of every position, so no difference is small enough to get lost.
 *
 * Of the models one is trained, the demo model; the others are random, made by the code that makes
 * them for comparisons with another engine, one for each architecture, so that each switch of the
 * forward pass has a number to hold. Their matrices are of "mixed" types, ten of them, neighbours
 * never alike; the two types that are not among those, and the two that most files consist of, have
 * cases of their own. Prompts are longer than gemma3's window, and once than a chunk of the
 * attention.
 *
 * Left out: cuts, which test_slice compares on smaller models. */
#include "tests/unit/one_text.h"

#include "tests/tools/make_model.h"
#include "tests/unit/tiny_model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MORE = 2, SEED = 1 };

static const struct one_text_case cases[] = {
    {NULL, NULL, 12, {0xefaa514dec447f29ull, 0x8eb37181185a689eull, 0x3f3d2a9d11c54e47ull}},
    {"llama", "mixed", 140, {0x00cf54a165b6e014ull, 0xc411198812ab8744ull, 0xf1d7bce86a04a027ull}},
    {"llama", "F32", 12, {0xafab434b2d15d28bull, 0xbe210aaeaec226bbull, 0xea03191ad8ff59fdull}},
    {"llama", "BF16", 12, {0xa7fde84868bd4a13ull, 0x85ba3009e89fff94ull, 0x4c1fb3ceef173634ull}},
    {"llama", "Q4_K", 20, {0x525097f17e98d182ull, 0x682fad4fd47c3ad8ull, 0x825b61a42430ee76ull}},
    {"llama", "Q6_K", 20, {0xd8e50d56f75e30e2ull, 0x4120b4ac3f081974ull, 0x9c67c0855795059bull}},
    {"llama3", "mixed", 20, {0x74b59eabef60404cull, 0xdbdae4dcdd472de6ull, 0x14c95ad1b7f45d4dull}},
    {"smollm", "mixed", 20, {0x336f2f7b5e5b9e58ull, 0x5ebad4d1769b1d7eull, 0xc19db07544acc460ull}},
    {"qwen2", "mixed", 20, {0x1e206d461e37a983ull, 0xfc494a9eb8de0f9cull, 0xdc791283b08eabccull}},
    {"qwen3", "mixed", 20, {0x4b915237a6a30f4full, 0x0395207ad117fd7aull, 0x1d7a596fb98910f5ull}},
    {"gemma3", "mixed", 40, {0xb3416da995cb4f04ull, 0xe805c1187fa1a232ull, 0x86496d1b58ec56f4ull}},
};

static const int32_t demo_prompt[] = {1, 726, 262, 1875, 1070, 412, 1777, 286, 262, 853, 272, 262};

struct one_text {
    const struct one_text_case *c;
    struct model *model;
    struct tiny_store store;
    float *hidden; /* [n_prompt, n_embd] */
    float *logits; /* [n_prompt, n_vocab] */
};

const struct one_text_case *one_text_at(unsigned i)
{
    return i < sizeof cases / sizeof cases[0] ? &cases[i] : NULL;
}

/* A random model exists as a file only until it is open. */
static int open_random(const struct one_text_case *c, struct model **m, struct err *e)
{
    const struct make_model made = {.shape = c->shape, .type = c->type, .seed = SEED};
    const char *tmp = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/shoal-one-text-XXXXXX", tmp != NULL ? tmp : "/tmp");
    const int fd = mkstemp(path);
    if (fd < 0)
        return err_set(e, ERR_IO, "no temporary file can be made at %s", path);
    close(fd);
    int rc = make_model_write(&made, path, e);
    if (rc == 0)
        rc = model_open(path, m, e);
    unlink(path);
    return rc;
}

struct one_text *one_text_open(const struct one_text_case *c, const char *demo, struct err *e)
{
    struct one_text *t = base_zalloc(1, sizeof *t);
    if (t == NULL) {
        err_set(e, ERR_NOMEM, "out of memory");
        return NULL;
    }
    t->c = c;
    int rc = c->shape == NULL ? model_open(demo, &t->model, e) : open_random(c, &t->model, e);
    if (rc == 0) {
        const struct model_shape *s = model_shape(t->model);
        t->store = tiny_store_make(t->model);
        t->hidden = base_zalloc((size_t)c->n_prompt * s->n_embd, sizeof *t->hidden);
        t->logits = base_zalloc((size_t)c->n_prompt * s->n_vocab, sizeof *t->logits);
        if (t->hidden == NULL || t->logits == NULL)
            rc = err_set(e, ERR_NOMEM, "out of memory");
    }
    if (rc != 0) {
        one_text_close(t);
        t = NULL;
    }
    return t;
}

void one_text_close(struct one_text *t)
{
    if (t == NULL)
        return;
    base_free(t->hidden);
    base_free(t->logits);
    if (t->model != NULL)
        tiny_store_free(&t->store);
    model_close(t->model);
    base_free(t);
}

static int32_t token_at(const struct one_text_case *c, uint32_t i)
{
    return c->shape == NULL ? demo_prompt[i]
           : i == 0         ? 1
                            : (int32_t)(3 + (i * i * 7 + i * 31) % 157);
}

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

/* Run n rows from `position` on and chain their logits; returns the best token of the last, or
 * -1 where a row went out of range: zeros would be the same on any machine. */
static int32_t run(struct one_text *t, struct model_exec *x, const int32_t *tokens,
                   uint32_t position, uint32_t n, uint64_t *hash)
{
    const uint32_t n_vocab = model_shape(t->model)->n_vocab;
    struct model_row rows[MODEL_ROWS_MAX];
    uint32_t bad[MODEL_ROWS_MAX] = {0};
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct model_row){0, position + i, tokens[i], true};
    model_exec_run(x, rows, n, t->hidden, t->logits, bad);
    /* Row by row, so that the chain does not know where a chunk ended. */
    for (uint32_t i = 0; i < n; i++) {
        if (bad[i] != 0)
            return -1;
        *hash = base_mix64(*hash ^ bad[i]);
        *hash = mix_logits(*hash, t->logits + (size_t)i * n_vocab, n_vocab);
    }
    return best(t->logits + (size_t)(n - 1) * n_vocab, n_vocab);
}

uint64_t one_text_hash(struct one_text *t, const struct kern_table *kernels, unsigned n_threads,
                       uint32_t chunk, enum kern_kv_type kv, struct err *e)
{
    const uint32_t n_prompt = t->c->n_prompt;
    const struct model_slice whole =
        model_slice_layers(t->model, 0, model_shape(t->model)->n_layers);
    const struct model_exec_config c = {.n_slots = 1,
                                        .context = n_prompt + MORE,
                                        .max_rows = n_prompt,
                                        .kv = kv,
                                        .n_threads = n_threads,
                                        .kernels = kernels};
    struct model_exec *x = NULL;
    int32_t prompt[MODEL_ROWS_MAX];
    uint64_t hash = 0;
    int32_t token = 0;
    if (model_exec_new(t->model, &whole, &c, tiny_store_get, &t->store, &x, e) != 0)
        return 0;
    for (uint32_t i = 0; i < n_prompt; i++)
        prompt[i] = token_at(t->c, i);
    chunk = chunk == 0 ? n_prompt : chunk;
    for (uint32_t p = 0; p < n_prompt && token >= 0; p += chunk) {
        const uint32_t n = n_prompt - p < chunk ? n_prompt - p : chunk;
        token = run(t, x, prompt + p, p, n, &hash);
    }
    for (uint32_t p = n_prompt; p < n_prompt + MORE && token >= 0; p++)
        token = run(t, x, &token, p, 1, &hash);
    if (token < 0) {
        err_set(e, ERR_RANGE, "a row went out of range");
        hash = 0;
    }
    model_exec_free(x);
    return hash;
}
