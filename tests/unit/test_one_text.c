/* One text: the demo model's logits have one hash, whatever runs it. The slices and cuts of small
 * models are compared in test_slice; here a whole, trained model is held to a committed number, the
 * same that run_neon.sh holds emulated Arm processors to. */
#include "tests/unit/one_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const char *demo(void)
{
    static char path[1024];
    const char *src = getenv("SHOAL_SRCDIR");
    snprintf(path, sizeof path, "%s/models/shoal-demo-7m-q8_0.gguf", src != NULL ? src : ".");
    return path;
}

static void check_types(const struct kern_table *t, unsigned n_threads, uint32_t chunk)
{
    struct err e = {0};
    const uint64_t hash = one_text_types_hash(t, n_threads, chunk, &e);
    if (hash != ONE_TEXT_TYPES_HASH)
        fail_msg("all types, %s, %u threads, chunks of %u: hash %016llx %s", t->name, n_threads,
                 chunk, (unsigned long long)hash, e.text);
}

static void check(const struct kern_table *t, unsigned n_threads, uint32_t chunk)
{
    struct err e = {0};
    const uint64_t hash = one_text_hash(demo(), t, n_threads, chunk, &e);
    if (hash != ONE_TEXT_HASH)
        fail_msg("%s, %u threads, chunks of %u: hash %016llx %s", t->name, n_threads, chunk,
                 (unsigned long long)hash, e.text);
}

static void test_tables(void **state)
{
    (void)state;
    for (unsigned i = 0; kern_table_at(i) != NULL; i++)
        if (kern_table_runs(kern_table_at(i)))
            check(kern_table_at(i), 1, 12);
}

static void test_types(void **state)
{
    (void)state;
    for (unsigned i = 0; kern_table_at(i) != NULL; i++)
        if (kern_table_runs(kern_table_at(i)))
            check_types(kern_table_at(i), 1 + i % 2, 12 - i);
}

static void test_threads_and_chunks(void **state)
{
    (void)state;
    const struct kern_table *t = kern_table_select(NULL);
    for (unsigned n = 1; n <= 4; n++)
        check(t, n, n == 4 ? 1 : 12 / n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_threads_and_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
