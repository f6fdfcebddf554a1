/* one_text MODEL TABLE...: do the demo model and tiny models of each weight type give the one hash
 * with each of these kernel tables? For machines under an emulator; the unit tests call the same
 * functions. */
#include "tests/unit/one_text.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    struct err e = {0};
    int failures = 0;
    for (int i = 2; i < argc; i++) {
        const struct kern_table *t = kern_table_select(argv[i]);
        const uint64_t demo = t == NULL ? 0 : one_text_hash(argv[1], t, 1, 5, &e);
        const uint64_t types = t == NULL ? 0 : one_text_types_hash(t, 1, 5, &e);
        if (demo == ONE_TEXT_HASH && types == ONE_TEXT_TYPES_HASH)
            continue;
        printf("# %s: hashes %016llx and %016llx, not %016llx and %016llx %s\n", argv[i],
               (unsigned long long)demo, (unsigned long long)types,
               (unsigned long long)ONE_TEXT_HASH, (unsigned long long)ONE_TEXT_TYPES_HASH, e.text);
        failures++;
    }
    return failures != 0;
}
