/* Speed of the matrix products, one thread: for every runnable table, type, and number of rows of
 * x, the median of five passes over enough matrices to exceed the caches when a row of x is one
 * (decode is bound by memory, and so is its bench). CSV on stdout: kernel table, function, type,
 * rows, cols, n_x, GB/s of packed weights, Gop/s (two operations a weight and row of x). Arguments:
 * a table's name to restrict it to one; `all` also measures the definition, which takes a while.
 * Where OpenBLAS is built in, its F32 product of the same shapes stands below as the yardstick. */
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

enum { ROWS = 2048, COLS = 2048, N_MATRICES = 16, N_X_MAX = 16, PASSES = 5 };

struct bench {
    uint8_t *weights; /* N_MATRICES packed matrices, one behind the other */
    float *f, *a, *y;
    int8_t *q;
    int16_t *h;
};

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of one pass over n_matrices. */
static double measure(const struct bench *b, const struct kern_table *t, enum kern_type type,
                      uint32_t n_x, unsigned n_matrices)
{
    const struct kern_act x = {b->f, b->q, b->a, b->h, COLS, COLS};
    const size_t bytes = kern_packed_bytes(type, ROWS, COLS);
    double seconds[PASSES];
    for (unsigned pass = 0; pass < PASSES; pass++) {
        const double start = base_clock_s();
        for (unsigned i = 0; i < n_matrices; i++) {
            struct kern_matrix m;
            kern_matrix_bind(&m, type, ROWS, COLS, b->weights + i * bytes);
            t->matmul[type](&m, 0, ROWS / KERN_GROUP, &x, n_x, b->y, ROWS);
        }
        seconds[pass] = base_clock_s() - start;
    }
    qsort(seconds, PASSES, sizeof seconds[0], compare_doubles);
    return seconds[PASSES / 2];
}

static const uint32_t batches[] = {1, 4, N_X_MAX};

static void print_row(const char *table, const char *function, enum kern_type type, uint32_t n_x,
                      size_t bytes, double s)
{
    printf("%s,%s,%s,%d,%d,%u,%.2f,%.2f\n", table, function, kern_type_info(type)->name, ROWS, COLS,
           n_x, (double)bytes / s * 1e-9, 2.0 * ROWS * COLS * n_x / s * 1e-9);
    fflush(stdout);
}

static void report(const struct bench *b, const struct kern_table *t, enum kern_type type,
                   const char *function)
{
    const size_t bytes = kern_packed_bytes(type, ROWS, COLS);
    const bool slow = strcmp(t->name, "generic") == 0;
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        const unsigned n_matrices = slow ? 1 : N_MATRICES;
        const double s = measure(b, t, type, batches[i], n_matrices) / n_matrices;
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
            const double start = base_clock_s();
            for (unsigned i = 0; i < N_MATRICES; i++) {
                const float *w = (const float *)(const void *)(b->weights + i * bytes);
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)batches[k], ROWS, COLS,
                            1.0f, b->f, COLS, w, COLS, 0.0f, b->y, ROWS);
            }
            seconds[pass] = (base_clock_s() - start) / N_MATRICES;
        }
        qsort(seconds, PASSES, sizeof seconds[0], compare_doubles);
        print_row("openblas", "cblas_sgemm", KERN_F32, batches[k], bytes, seconds[PASSES / 2]);
    }
#else
    (void)b;
#endif
}

static bool prepare(struct bench *b)
{
    const size_t bytes = N_MATRICES * kern_packed_bytes(KERN_F32, ROWS, COLS);
    uint64_t rng = 1;
    b->weights = base_alloc(bytes + KERN_ALIGN);
    b->f = base_zalloc(N_X_MAX * COLS, sizeof *b->f);
    b->a = base_zalloc(N_X_MAX * COLS / KERN_BLOCK, sizeof *b->a);
    b->y = base_zalloc(N_X_MAX * ROWS, sizeof *b->y);
    b->q = base_zalloc(N_X_MAX * COLS, 1);
    b->h = base_zalloc(N_X_MAX * COLS / 16, sizeof *b->h);
    if (b->weights == NULL || b->f == NULL || b->a == NULL || b->y == NULL || b->q == NULL ||
        b->h == NULL)
        return false;
    b->weights += KERN_ALIGN - (uintptr_t)b->weights % KERN_ALIGN;
    for (size_t i = 0; i < bytes; i += 8) { /* as any type: small finite numbers */
        const uint64_t r = base_rng_next(&rng) & 0x3fff3fff3fff3fffu;
        memcpy(b->weights + i, &r, 8);
    }
    for (size_t i = 0; i < N_X_MAX * COLS; i++)
        b->f[i] = (float)(int32_t)base_rng_next(&rng) * 0x1p-31f;
    return kern_table_at(0)->quantise(b->f, N_X_MAX * COLS, b->q, b->a, b->h);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *table, *op, *function;
        int type;
    } kernels[] = {
#define ISA_generic                           "generic"
#define ISA_avx2                              "avx2"
#define ISA_neon                              "neon"
#define ISA_neon_dotprod                      "neon-dotprod"
#define KERN_ANY                              0
#define KERNEL(op, type, isa, function, tile) {ISA_##isa, #op, #function, (int)KERN_##type},
#include "kernels/kernels.def"
    };
    struct bench b;
    if (!prepare(&b)) {
        fprintf(stderr, "bench_matmul: out of memory\n");
        return 1;
    }
    printf("table,kernel,type,rows,cols,n_x,gb_per_s,gop_per_s\n");
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        const char *only = argc > 1 ? argv[1] : NULL;
        const struct kern_table *t = kern_table_select(kernels[i].table);
        const bool all = only != NULL && strcmp(only, "all") == 0;
        if (t == NULL || strcmp(kernels[i].op, "matmul") != 0)
            continue;
        if (!all && strcmp(t->name, only != NULL ? only : kern_table_select(NULL)->name) != 0)
            continue;
        report(&b, t, (enum kern_type)kernels[i].type, kernels[i].function);
    }
    report_blas(&b);
    return 0;
}
