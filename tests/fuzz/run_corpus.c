/* Runs a fuzz target over the files named on the command line, once each, for builds without a
 * fuzzer: the committed corpus is a test everywhere. Each file is read into a block of exactly its
 * size, so that the address sanitizer sees a read past its end. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *bytes = NULL;
    long size = -1;
    int rc = 1;
    if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (size = ftell(f)) < 0 ||
        fseek(f, 0, SEEK_SET) != 0)
        goto out;
    bytes = malloc((size_t)size + (size == 0));
    if (bytes == NULL || fread(bytes, 1, (size_t)size, f) != (size_t)size)
        goto out;
    LLVMFuzzerTestOneInput(bytes, (size_t)size);
    rc = 0;
out:
    free(bytes);
    if (f != NULL)
        fclose(f);
    if (rc != 0)
        fprintf(stderr, "%s: cannot be read\n", path);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE...\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < argc; i++)
        if (run_file(argv[i]) != 0)
            return 1;
    printf("%d inputs, no crash\n", argc - 1);
    return 0;
}
