/* Fuzz target: partial sums as the wire carries them. The first bytes choose mode, width and rows.
 * What is taken in the exact mode is one set of numbers, which written again are taken again. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 3, WIDTH = 200 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t again[ROWS * WIDTH * 9 + 64];
    int64_t acc[ROWS * WIDTH] = {0}, second[ROWS * WIDTH] = {0};
    float rows[ROWS * WIDTH];
    uint32_t bad[ROWS] = {0}, bad_again[ROWS] = {0};
    if (size < 3)
        return 0;
    const enum model_wire mode = (enum model_wire)(data[0] % MODEL_N_WIRES);
    const uint32_t n = 1 + data[1] % WIDTH, n_rows = 1 + data[2] % ROWS;
    const struct span in = {data + 3, size - 3};
    kern_fp_init();
    model_rows_decode(in, n_rows, n, mode, rows);
    if (!model_sums_add(in, n_rows, n, mode, 5, acc, bad))
        return 0;
    const size_t len = model_sums_encode(acc, n_rows, n, MODEL_WIRE_EXACT, bad, again);
    if (len > model_sums_bytes_max(n_rows, n, MODEL_WIRE_EXACT) ||
        !model_sums_add((struct span){again, len}, n_rows, n, MODEL_WIRE_EXACT, 5, second,
                        bad_again) ||
        memcmp(bad, bad_again, sizeof bad) != 0 || memcmp(acc, second, sizeof acc) != 0)
        __builtin_trap();
    return 0;
}
