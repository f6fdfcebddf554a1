/* One text: the logits of a model have one hash, whatever runs it. The slices and cuts of small
 * models are compared in test_slice; here whole models, the trained demo model and a random one
 * of every architecture, are held to committed numbers, the same that run_neon.sh holds emulated
 * Arm processors to. A test a model: every kernel table that runs here, 1 to 4 threads, the
 * prompt at once, in chunks and row by row, and all types of KV cache. */
#include "tests/unit/one_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { CASES_MAX = 32 };

static const char *demo(void)
{
    static char path[1024];
    const char *src = getenv("SHOAL_SRCDIR");
    snprintf(path, sizeof path, "%s/models/shoal-demo-7m-q8_0.gguf", src != NULL ? src : ".");
    return path;
}

static void check(struct one_text *t, const struct one_text_case *c, const struct kern_table *k,
                  unsigned n_threads, uint32_t chunk, unsigned kv)
{
    struct err e = {0};
    const uint64_t hash = one_text_hash(t, k, n_threads, chunk, (enum kern_kv_type)kv, &e);
    if (hash != c->hash[kv])
        fail_msg("%s, %u threads, chunks of %u, KV type %u: hash %016llx, not %016llx %s", k->name,
                 n_threads, chunk, kv, (unsigned long long)hash, (unsigned long long)c->hash[kv],
                 e.text);
}

static void test_case(void **state)
{
    const struct one_text_case *c = *state;
    struct err e = {0};
    struct one_text *t = one_text_open(c, demo(), &e);
    if (t == NULL)
        fail_msg("the model cannot be opened: %s", e.text);
    for (unsigned i = 0; kern_table_at(i) != NULL; i++)
        for (unsigned kv = 0; kern_table_runs(kern_table_at(i)) && kv < KERN_N_KV_TYPES; kv++)
            check(t, c, kern_table_at(i), 1, 0, kv);
    const struct kern_table *k = kern_table_select(NULL);
    for (unsigned n = 1; n <= 4; n++)
        for (unsigned kv = 0; kv < KERN_N_KV_TYPES; kv++)
            check(t, c, k, n, n == 4 ? 1 : n * 4 - 1, kv);
    one_text_close(t);
}

int main(void)
{
    static char names[CASES_MAX][64];
    struct CMUnitTest tests[CASES_MAX] = {{0}};
    size_t n = 0;
    for (const struct one_text_case *c; n < CASES_MAX && (c = one_text_at((unsigned)n)) != NULL;
         n++) {
        snprintf(names[n], sizeof names[n], "%s %s", c->shape != NULL ? c->shape : "demo",
                 c->shape != NULL ? c->type : "model");
        tests[n] = (struct CMUnitTest){names[n], test_case, NULL, NULL, (void *)c};
    }
    return _cmocka_run_group_tests("one text", tests, n, NULL, NULL);
}
