/* `numerics: fast`: products of F32, F16 and BF16 weights with many rows by OpenBLAS, which is tuned
 * for more processors than we are and promises nothing about the order of a sum. So its results are
 * not those of docs/numerics.md: who asks for it gives up one text, and nothing here runs otherwise.
 *
 * The library is loaded when it is asked for and not linked: it starts threads and takes memory when
 * it is loaded, and a worker without it computes as well as ever. It runs in the calling thread, one
 * share of the work in each thread of the pool, so its own threads are switched off.
 *
 * Packed weights are widened panel by panel, PANEL_COLS columns of up to PANEL_ROWS rows, into
 * scratch that stays in the second-level cache, and multiplied from there. Left out: integer types,
 * whose own kernels are faster, and single rows, for which there is nothing to gain. */
#include "common/common.h"
#include "kernels/internal.h"

#include <dlfcn.h>
#include <stdlib.h>

enum { PANEL_COLS = 256, PANEL_ROWS = KERN_FAST_PANEL / PANEL_COLS };
_Static_assert(PANEL_ROWS % KERN_GROUP == 0, "a panel holds whole groups");

/* The C interface to BLAS (2001), of a library whose integers are int, as Debian's is. */
enum { ROW_MAJOR = 101, AS_IT_IS = 111 };
typedef void sgemm_fn(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                      const float *a, int lda, const float *b, int ldb, float beta, float *c,
                      int ldc);
static sgemm_fn *sgemm; /* NULL: not loaded */

int kern_fast_open(struct err *e)
{
    if (sgemm != NULL)
        return 0;
    /* Read by the library when it is loaded; threads that it started could not be sent away. */
    (void)setenv("OPENBLAS_NUM_THREADS", "1", 1);
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL)
        return err_set(e, ERR_UNSUPPORTED,
                       "numerics: fast needs OpenBLAS, which is not installed here (Debian: "
                       "libopenblas0-pthread)");
    /* POSIX lets a data pointer from dlsym become a function's; ISO C has no word for it. */
    *(void **)(void *)&sgemm = dlsym(lib, "cblas_sgemm");
    return sgemm != NULL ? 0 : err_set(e, ERR_UNSUPPORTED, "this OpenBLAS has no cblas_sgemm");
}

/* Sixteen F16 as F32: the exponent is moved by a multiplication that is exact for denormals, too. */
static void widen_f16(const uint8_t *from, float *to)
{
    uint16_t h[KERN_GROUP];
    memcpy(h, from, sizeof h);
    for (unsigned i = 0; i < KERN_GROUP; i++) {
        const uint32_t magnitude = (uint32_t)(h[i] & 0x7fffu) << 13;
        const uint32_t moved = kern_bits(kern_float(magnitude) * 0x1p112f);
        const uint32_t wide = magnitude >= 0x0f800000u ? magnitude | KERN_INF_BITS : moved;
        to[i] = kern_float(wide | (uint32_t)(h[i] & 0x8000u) << 16);
    }
}

static void widen_bf16(const uint8_t *from, float *to)
{
    uint16_t h[KERN_GROUP];
    memcpy(h, from, sizeof h);
    for (unsigned i = 0; i < KERN_GROUP; i++)
        to[i] = kern_float((uint32_t)h[i] << 16);
}

/* Columns [col, col + n_cols) of groups [group0, group0 + n_groups) as panel[n_cols, 16 * n_groups].
 */
static void widen(const struct kern_matrix *w, uint32_t group0, uint32_t n_groups, uint32_t col,
                  uint32_t n_cols, float *panel)
{
    const size_t column = kern_type_info(w->type)->quant_bytes;
    for (size_t g = 0; g < n_groups; g++) {
        const uint8_t *from = w->data + (group0 + g) * w->group_bytes + col * column;
        float *to = panel + g * KERN_GROUP;
        for (size_t c = 0; c < n_cols; c++, from += column, to += (size_t)n_groups * KERN_GROUP) {
            if (w->type == KERN_F16)
                widen_f16(from, to);
            else if (w->type == KERN_BF16)
                widen_bf16(from, to);
            else
                memcpy(to, from, column);
        }
    }
}

void kern_fast_matmul(const struct kern_matrix *w, uint32_t group0, uint32_t group1,
                      const struct kern_act *x, uint32_t n_x, bool add, float *panel, float *y,
                      size_t y_stride)
{
    for (uint32_t g = group0; g < group1; g += PANEL_ROWS / KERN_GROUP) {
        const uint32_t left = group1 - g, most = PANEL_ROWS / KERN_GROUP;
        const uint32_t n_groups = left < most ? left : most, n_rows = n_groups * KERN_GROUP;
        for (uint32_t c = 0; c < w->n_cols; c += PANEL_COLS) {
            const uint32_t n_cols = w->n_cols - c < PANEL_COLS ? w->n_cols - c : PANEL_COLS;
            widen(w, g, n_groups, c, n_cols, panel);
            sgemm(ROW_MAJOR, AS_IT_IS, AS_IT_IS, (int)n_x, (int)n_rows, (int)n_cols, 1.0f, x->f + c,
                  (int)x->f_stride, panel, (int)n_rows, add || c > 0 ? 1.0f : 0.0f,
                  y + (size_t)g * KERN_GROUP, (int)y_stride);
        }
    }
}
