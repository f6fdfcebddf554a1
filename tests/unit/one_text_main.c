/* one_text DEMO TABLE...: does every model give its one hash with each of these kernel tables?
 * DEMO is the demo model's file; the others are made here. For machines under an emulator; the
 * unit tests call the same functions. */
#include "tests/unit/one_text.h"

#include <stdio.h>

/* Chunks of five: full ones and a rest, some rows served together and some alone. */
static int compare(struct one_text *t, const struct one_text_case *c, const char *name)
{
    const struct kern_table *k = kern_table_select(name);
    struct err e = {0};
    int failures = 0;
    for (unsigned kv = 0; kv < KERN_N_KV_TYPES; kv++) {
        const uint64_t hash = k == NULL ? 0 : one_text_hash(t, k, 1, 5, (enum kern_kv_type)kv, &e);
        if (hash == c->hash[kv])
            continue;
        printf("# %s: %s %s, KV type %u: hash %016llx, not %016llx %s\n", name,
               c->shape != NULL ? c->shape : "demo", c->shape != NULL ? c->type : "model", kv,
               (unsigned long long)hash, (unsigned long long)c->hash[kv], e.text);
        failures++;
    }
    return failures;
}

int main(int argc, char **argv)
{
    const struct one_text_case *c;
    int failures = 0;
    for (unsigned n = 0; argc > 2 && (c = one_text_at(n)) != NULL; n++) {
        struct err e = {0};
        struct one_text *t = one_text_open(c, argv[1], &e);
        if (t == NULL)
            printf("# %s: %s\n", c->shape != NULL ? c->shape : "demo", e.text);
        failures += t == NULL;
        for (int i = 2; t != NULL && i < argc; i++)
            failures += compare(t, c, argv[i]);
        one_text_close(t);
    }
    return failures != 0 || argc < 3;
}
