/* Speed of the matrix products, one thread: for every runnable table, operator, type, and number of
 * rows of x, the median of five passes over enough matrices to exceed the caches when a row of x is
 * one (decode is bound by memory, and so is its bench). CSV on stdout: kernel table, function,
 * type, rows, cols, n_x, GB/s of packed weights, Gop/s (two operations a weight and row of x).
 * Times are of this thread's processor clock, so that a busy machine spoils fewer of them.
 *
 * Arguments: a table's name to restrict it to one, then a type's to restrict it further, then `small`
 * for weights in pages of 4 KiB instead of large ones; `all` also measures the definition, which takes
 * a while. Where OpenBLAS is built in, its F32 product of the
 * same shapes stands below as the yardstick. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "common/common.h"
#include "kernels/kernels.h"

#ifdef SHOAL_WITH_OPENBLAS
#include <cblas.h>
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS = 2048, COLS = 2048, N_MATRICES = 16, N_X_MAX = 64, PASSES = 5 };

struct bench {
    uint8_t *weights; /* N_MATRICES packed F32 matrices, or more of smaller types, back to back */
    bool small_pages;
    size_t weight_bytes;
    float *f, *a, *s, *y;
    int8_t *q;
    int16_t *h;
    int64_t *acc;
};

/* Which of the two operators of a type. */
enum op { MATMUL, MATMUL_SUM, N_OPS };
static const char *const op_names[N_OPS] = {"matmul", "matmul_sum"};

static double thread_seconds(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Median seconds of one pass over n_matrices. */
static double measure(const struct bench *b, const struct kern_table *t, enum op op,
                      enum kern_type type, uint32_t n_x, unsigned n_matrices)
{
    const struct kern_act x = {b->f, b->q, b->a, b->s, b->h, COLS, COLS};
    const size_t bytes = kern_packed_bytes(type, ROWS, COLS, 0);
    double seconds[PASSES];
    for (unsigned pass = 0; pass < PASSES; pass++) {
        const double start = thread_seconds();
        for (unsigned i = 0; i < n_matrices; i++) {
            struct kern_matrix m;
            uint8_t bad[N_X_MAX] = {0};
            kern_matrix_bind(&m, type, ROWS, COLS, 0, b->weights + i * bytes);
            m.small_pages = b->small_pages;
            if (op == MATMUL)
                t->matmul[type](&m, 0, ROWS / KERN_GROUP, &x, n_x, b->y, ROWS);
            else
                t->matmul_sum[type](&m, 0, ROWS / KERN_GROUP, &x, n_x, b->acc, ROWS, bad);
        }
        seconds[pass] = thread_seconds() - start;
    }
    return base_median(seconds, PASSES);
}

static const uint32_t batches[] = {1, 4, 16, N_X_MAX};

static void print_row(const char *table, const char *function, enum kern_type type, uint32_t n_x,
                      size_t bytes, double s)
{
    printf("%s,%s,%s,%d,%d,%u,%.2f,%.2f\n", table, function, kern_type_info(type)->name, ROWS, COLS,
           n_x, (double)bytes / s * 1e-9, 2.0 * ROWS * COLS * n_x / s * 1e-9);
    fflush(stdout);
}

static void report(const struct bench *b, const struct kern_table *t, enum op op,
                   enum kern_type type, const char *function)
{
    const size_t bytes = kern_packed_bytes(type, ROWS, COLS, 0);
    const bool slow = strcmp(t->name, "generic") == 0;
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        /* A row alone reads as many matrices as there is memory for. */
        const unsigned all = (unsigned)(b->weight_bytes / bytes);
        const unsigned n_matrices = slow ? 1 : batches[i] == 1 ? all : N_MATRICES;
        const double s = measure(b, t, op, type, batches[i], n_matrices) / n_matrices;
        print_row(t->name, function, type, batches[i], bytes, s);
    }
}

/* The same product of F32 matrices by OpenBLAS, on one thread. */
static void report_blas(const struct bench *b)
{
#ifdef SHOAL_WITH_OPENBLAS
    const size_t bytes = sizeof(float) * ROWS * COLS;
    openblas_set_num_threads(1);
    for (size_t k = 0; k < sizeof batches / sizeof batches[0]; k++) {
        double seconds[PASSES];
        for (unsigned pass = 0; pass < PASSES; pass++) {
            const double start = thread_seconds();
            for (unsigned i = 0; i < N_MATRICES; i++) {
                const float *w = (const float *)(const void *)(b->weights + i * bytes);
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)batches[k], ROWS, COLS,
                            1.0f, b->f, COLS, w, COLS, 0.0f, b->y, ROWS);
            }
            seconds[pass] = (thread_seconds() - start) / N_MATRICES;
        }
        print_row("openblas", "cblas_sgemm", KERN_F32, batches[k], bytes,
                  base_median(seconds, PASSES));
    }
#else
    (void)b;
#endif
}

static bool prepare(struct bench *b)
{
    const size_t bytes = N_MATRICES * kern_packed_bytes(KERN_F32, ROWS, COLS, 0);
    uint64_t rng = 1;
    b->weight_bytes = bytes;
    struct base_arena *arena = base_arena_new(bytes);
    b->f = base_zalloc(N_X_MAX * COLS, sizeof *b->f);
    b->a = base_zalloc(N_X_MAX * COLS / KERN_BLOCK, sizeof *b->a);
    b->s = base_zalloc(N_X_MAX * COLS / KERN_BLOCK, sizeof *b->s);
    b->y = base_zalloc(N_X_MAX * ROWS, sizeof *b->y);
    b->acc = base_zalloc(N_X_MAX * ROWS, sizeof *b->acc);
    b->q = base_zalloc(N_X_MAX * COLS, 1);
    b->h = base_zalloc(N_X_MAX * COLS / 16, sizeof *b->h);
    if (arena == NULL || b->f == NULL || b->a == NULL || b->s == NULL || b->y == NULL ||
        b->acc == NULL || b->q == NULL || b->h == NULL)
        return false;
    if (!b->small_pages)
        base_arena_large_pages(arena, 0, 1);
    b->weights = base_arena_take(arena, bytes);
    for (size_t i = 0; i < bytes; i += 8) { /* as any type: small finite numbers */
        const uint64_t r = base_rng_next(&rng) & 0x2fff2fff2fff2fffu;
        memcpy(b->weights + i, &r, 8);
    }
    for (size_t i = 0; i < N_X_MAX * COLS; i++)
        b->f[i] = (float)(int32_t)base_rng_next(&rng) * 0x1p-31f;
    return kern_table_at(0)->quantise(b->f, N_X_MAX * COLS, b->q, b->a, b->s, b->h);
}

/* The lines of kernels.def; the sets' names by their numbers. */
enum { KERN_ANY = 0 };
enum {
#define SET(id, name, base) SET_##id,
#include "kernels/sets.def"
};
static const char set_names[][16] = {
#define SET(id, name, base) name,
#include "kernels/sets.def"
};
static const struct {
    const char *table, *op, *function;
    int type;
} kernels[] = {
#define KERNEL(op, type, isa, function, tile)                                                      \
    {set_names[SET_##isa], #op, #function, (int)KERN_##type},
#include "kernels/kernels.def"
};

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : kern_table_select(NULL)->name;
    const char *only_type = argc > 2 ? argv[2] : NULL;
    struct bench b = {.small_pages = argc > 3 && strcmp(argv[3], "small") == 0};
    if (!prepare(&b)) {
        fprintf(stderr, "bench_matmul: out of memory\n");
        return 1;
    }
    printf("table,kernel,type,rows,cols,n_x,gb_per_s,gop_per_s\n");
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        const struct kern_table *t = kern_table_select(kernels[i].table);
        const enum kern_type type = (enum kern_type)kernels[i].type;
        if (t == NULL || (strcmp(only, "all") != 0 && strcmp(t->name, only) != 0))
            continue;
        for (unsigned op = 0; op < N_OPS; op++)
            if (strcmp(kernels[i].op, op_names[op]) == 0 &&
                (only_type == NULL || strcmp(only_type, kern_type_info(type)->name) == 0))
                report(&b, t, (enum op)op, type, kernels[i].function);
    }
    report_blas(&b);
    return 0;
}
