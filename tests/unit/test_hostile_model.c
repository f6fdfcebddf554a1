/* Hostile model files, taken all the way: 12,000 random mutations of header, metadata and tensor
 * table, over the architectures, in one process. Each file is opened as a model with its vocabulary;
 * where that succeeds, a token is generated with it. Nothing may crash, hang, leak or read out of
 * bounds (the sanitizers watch), and whatever is refused is refused with a sentence. */
#include "tests/unit/gguf_mutate.h"
#include "tests/unit/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MUTATIONS = 3000, CONTEXT = 8, EXEC_MAX = 64 << 20 };

struct counts {
    unsigned refused, generated, spoiled;
};

/* Bytes of the file up to its tensor data. */
static size_t head_bytes(struct span file)
{
    struct gguf *g = NULL;
    struct err e = {0};
    size_t first = file.len;
    if (model_gguf_open_bytes(file, GGUF_WITH_DATA, &g, &e) != 0)
        fail_msg("%s", e.text);
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++) {
        const size_t at = (size_t)(model_gguf_tensor_at(g, i)->data - file.ptr);
        first = at < first ? at : first;
    }
    model_gguf_close(g);
    return first;
}

/* One greedy token after a prompt of two; a mutated norm or scale may well spoil the row. */
static void generate(struct model *m, struct vocab *v, struct counts *n)
{
    const struct model_shape *s = model_shape(m);
    const struct model_slice whole = model_slice_layers(m, 0, s->n_layers);
    const struct model_exec_config c = {.n_slots = 1,
                                        .context = CONTEXT,
                                        .max_rows = 2,
                                        .kv = KERN_KV_F16,
                                        .n_threads = 1,
                                        .kernels = kern_table_select(NULL)};
    const struct model_memory mem = model_slice_memory(m, &whole, &c);
    const struct model_row rows[2] = {{0, 0, 1, false}, {0, 1, 2, true}};
    struct model_sampling greedy = model_sampling_default();
    struct tiny_store store = tiny_store_make(m);
    struct model_exec *x = NULL;
    struct err e = {0};
    uint32_t bad[2] = {0};
    /* What a planner would refuse for its size is not tried here either. */
    if (mem.weight_bytes + mem.kv_bytes + mem.scratch_bytes > EXEC_MAX ||
        model_exec_new(m, &whole, &c, tiny_store_get, &store, &x, &e) != 0) {
        n->refused++;
        tiny_store_free(&store);
        return;
    }
    float *hidden = base_zalloc(2 * (size_t)s->n_embd, sizeof *hidden);
    float *logits = base_zalloc(s->n_vocab, sizeof *logits);
    struct model_sampler *sampler = model_sampler_new(s->n_vocab);
    assert_true(hidden != NULL && logits != NULL && sampler != NULL);
    model_exec_run(x, rows, 2, hidden, logits, bad);
    greedy.temperature = 0;
    const int32_t id = bad[1] != 0 ? -1 : model_sample(sampler, &greedy, logits, 2, NULL, 0);
    if (id < 0) {
        n->spoiled++;
    } else {
        assert_true((uint32_t)id < s->n_vocab);
        if ((uint32_t)id < model_vocab_size(v))
            (void)model_vocab_text(v, id);
        n->generated++;
    }
    model_sampler_free(sampler);
    base_free(logits);
    base_free(hidden);
    model_exec_free(x);
    tiny_store_free(&store);
}

static void try_file(const char *path, struct counts *n)
{
    struct model *m = NULL;
    struct vocab *v = NULL;
    struct err e = {0};
    if (model_open(path, &m, &e) != 0 || model_vocab_open(model_gguf(m), &v, &e) != 0) {
        assert_true(strlen(e.text) > 10);
        n->refused++;
    } else {
        generate(m, v, n);
    }
    model_vocab_close(v);
    model_close(m);
}

/* Written over in place: some file systems wait for the disk where a file is emptied first. */
static void write_file(int fd, const uint8_t *bytes, size_t len)
{
    assert_int_equal(pwrite(fd, bytes, len, 0), len);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
}

static void mutate(const char *arch, enum kern_type type)
{
    struct tiny_model shape = tiny_model_default(type);
    struct base_buf file = {0};
    struct counts n = {0};
    struct err e = {0};
    char path[] = "/tmp/shoal-hostile-XXXXXX";
    const int fd = mkstemp(path);
    uint64_t rng = 2023;
    tiny_model_set_arch(&shape, arch);
    shape.n_layers = 1;
    assert_true(fd >= 0);
    if (!tiny_model_bytes(&shape, &file, &e))
        fail_msg("%s", e.text);
    const size_t head = head_bytes((struct span){file.ptr, file.len});
    const int64_t live = base_alloc_live();
    uint8_t *bytes = malloc(file.len);
    assert_non_null(bytes);

    write_file(fd, file.ptr, file.len);
    try_file(path, &n);
    assert_int_equal(n.generated, 1); /* the file as it is */
    for (int i = 0; i < MUTATIONS; i++) {
        memcpy(bytes, file.ptr, file.len);
        /* A shortened head shifts the data: the file is cut there as well. */
        const size_t left = gguf_mutate(&rng, bytes, head);
        write_file(fd, bytes, left < head ? left : file.len);
        try_file(path, &n);
    }
    close(fd);
    unlink(path);
    free(bytes);
    assert_int_equal(base_alloc_live(), live);
    base_buf_deinit(&file);
    print_message("# %s: %u refused, %u gave a token, %u a value out of range\n", arch, n.refused,
                  n.generated, n.spoiled);
    /* Both kinds must have been seen, or the test tests nothing. */
    assert_true(n.refused > MUTATIONS / 10 && n.generated > MUTATIONS / 100);
}

static void test_mutations(void **state)
{
    (void)state;
    static const enum kern_type types[TINY_N_ARCHS] = {KERN_Q8_0, KERN_Q4_0, KERN_Q5_1,
                                                       KERN_IQ4_NL};
    for (unsigned i = 0; i < TINY_N_ARCHS; i++)
        mutate(tiny_archs[i], types[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
