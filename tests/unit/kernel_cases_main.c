/* The kernel comparison without a test framework, for machines that have none: built statically by
 * run_neon.sh and run under emulation. Exit status 0: every table that this CPU runs has the hash
 * that all machines have, and those named by the arguments run here and equal the definition in
 * every case. A missing instruction set is thus a failure and not a silent pass. */
#include "tests/unit/kernel_cases.h"

#include <inttypes.h>
#include <string.h>

int main(int argc, char **argv)
{
    unsigned failures = 0;
    int found = 0;
    for (unsigned i = 0; kern_table_at(i) != NULL; i++) {
        const struct kern_table *t = kern_table_at(i);
        if (!kern_table_runs(t))
            continue;
        unsigned differing = 0;
        for (int a = 1; a < argc; a++) {
            if (strcmp(argv[a], t->name) == 0) {
                found++;
                differing = kernel_cases_run(t, stdout);
            }
        }
        const uint64_t hash = kern_table_hash(t);
        printf("# %s: %u differences, hash %016" PRIx64 "\n", t->name, differing, hash);
        failures += differing + (hash != KERNEL_HASH);
    }
    if (found != argc - 1)
        printf("# a table asked for does not run here\n");
    return failures == 0 && found == argc - 1 ? 0 : 1;
}
