/* make_model OUT SHAPE TYPE [OPTION VALUE]...: writes a random model, for benches and for whoever
 * compares engines by hand. Options: seed, parts, hollow, chatml, rope-base, window, flat (make_model.h
 * says what they do). Without arguments it lists shapes and types. */
#include "tests/tools/make_model.h"

#include <stdlib.h>
#include <string.h>

static int usage(void)
{
    fprintf(stderr, "usage: make_model OUT SHAPE TYPE [seed N] [parts N] [hollow 1] [chatml 1] "
                    "[rope-base B] [window N] [flat NAME]\nshapes:");
    for (unsigned i = 0; make_shape_name(i) != NULL; i++)
        fprintf(stderr, " %s", make_shape_name(i));
    fprintf(stderr, "\ntypes:");
    for (unsigned i = 0; make_type_name(i) != NULL; i++)
        fprintf(stderr, " %s", make_type_name(i));
    fprintf(stderr, "\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc % 2 != 0)
        return usage();
    struct make_model c = {.shape = argv[2], .type = argv[3], .seed = 1};
    struct err e = {0};
    for (int i = 4; i < argc; i += 2) {
        const char *v = argv[i + 1];
        if (strcmp(argv[i], "seed") == 0)
            c.seed = strtoull(v, NULL, 10);
        else if (strcmp(argv[i], "parts") == 0)
            c.n_parts = (uint32_t)strtoul(v, NULL, 10);
        else if (strcmp(argv[i], "hollow") == 0)
            c.hollow = strcmp(v, "1") == 0;
        else if (strcmp(argv[i], "chatml") == 0)
            c.chatml = strcmp(v, "1") == 0;
        else if (strcmp(argv[i], "rope-base") == 0)
            c.rope_base = strtof(v, NULL);
        else if (strcmp(argv[i], "window") == 0)
            c.window = (uint32_t)strtoul(v, NULL, 10);
        else if (strcmp(argv[i], "flat") == 0)
            c.flat = v;
        else
            return usage();
    }
    if (make_model_write(&c, argv[1], &e) == 0)
        return 0;
    fprintf(stderr, "make_model: %s\n", e.text);
    return 1;
}
