/* What this machine's memory delivers to a plain read: the limit that decoding is measured against.
 * Each thread of the pool reads a share of its own of 1 GiB, which no cache holds, in
 * large pages as weights lie. Prints one CSV line for each number of threads, the median of the passes.
 *
 *   bench_read [THREADS_MAX [PASSES]] */
#include "common/common.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>

enum { BYTES = 1 << 30, LINE = 64, PASSES_MAX = 101 };

struct job {
    const uint64_t *words; /* [BYTES / 8] */
    uint64_t sums[256];
};

/* Every word, in order: reading one of each line is slower, for the hardware then foresees less.
 * Several sums, so that additions wait for memory and not for each other. */
static void read_part(void *arg, unsigned part, unsigned n_parts)
{
    struct job *j = arg;
    const size_t n = BYTES / LINE, first = n * part / n_parts, last = n * (part + 1) / n_parts;
    const uint64_t *w = j->words + first * (LINE / 8), *end = j->words + last * (LINE / 8);
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (; w < end; w += LINE / 8) {
        a += w[0] + w[4];
        b += w[1] + w[5];
        c += w[2] + w[6];
        d += w[3] + w[7];
    }
    j->sums[part] = a + b + c + d;
}

/* Median seconds of a pass; 0: no threads to be had. */
static double measure(struct job *j, unsigned n_threads, unsigned n_passes)
{
    double seconds[PASSES_MAX];
    struct kern_pool *p = kern_pool_new(n_threads);
    if (p == NULL)
        return 0;
    for (unsigned i = 0; i <= n_passes; i++) { /* the first is not counted */
        const double begun = base_clock_s();
        kern_pool_run(p, read_part, j);
        seconds[i > 0 ? i - 1 : 0] = base_clock_s() - begun;
    }
    kern_pool_free(p);
    return base_median(seconds, n_passes);
}

int main(int argc, char **argv)
{
    static struct job j;
    const unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 2;
    const unsigned passes = argc > 2 ? (unsigned)atoi(argv[2]) : 9;
    uint64_t checksum = 0;
    struct base_arena *arena = base_arena_new(BYTES);
    uint64_t *words = arena != NULL ? base_arena_take(arena, BYTES) : NULL;
    if (words == NULL || threads < 1 || threads > 256 || passes < 1 || passes >= PASSES_MAX) {
        fprintf(stderr, "usage: bench_read [THREADS_MAX [PASSES]], with 1 GiB of memory\n");
        return 2;
    }
    base_arena_large_pages(arena, 0, 1);
    for (size_t i = 0; i < BYTES / sizeof *words; i++)
        words[i] = i;
    j.words = words;
    printf("threads,gb_per_s\n");
    for (unsigned t = 1; t <= threads; t++) {
        const double seconds = measure(&j, t, passes);
        for (unsigned i = 0; i < t; i++)
            checksum += j.sums[i];
        if (seconds > 0)
            printf("%u,%.2f\n", t, BYTES / seconds / 1e9);
    }
    base_arena_free(arena);
    return checksum != 0 ? 0 : 1; /* the sums are used, so that they are made */
}
