/* one_text MODEL TABLE...: does the demo model give the one hash with each of these kernel tables?
 * For machines under an emulator; the unit tests call the same function. */
#include "tests/unit/one_text.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    struct err e = {0};
    int failures = 0;
    for (int i = 2; i < argc; i++) {
        const struct kern_table *t = kern_table_select(argv[i]);
        const uint64_t hash = t == NULL ? 0 : one_text_hash(argv[1], t, 1, 5, &e);
        if (hash == ONE_TEXT_HASH)
            continue;
        printf("# %s: hash %016llx, not %016llx %s\n", argv[i], (unsigned long long)hash,
               (unsigned long long)ONE_TEXT_HASH, e.text);
        failures++;
    }
    return failures != 0;
}
