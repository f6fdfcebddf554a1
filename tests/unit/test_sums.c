/* Numbers between workers: sums come back exactly and in as few bytes as the format promises, in any
 * order and grouping; the modes that are not exact keep to their error; nothing malformed is taken
 * and nothing overflows. */
#include "model/model.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WIDTHS_MAX = 300, ROWS_MAX = 5 };
static const uint32_t widths[] = {1, 31, 32, 33, 52, 63, 64, 65, 96, 128, 256, WIDTHS_MAX};
enum { N_WIDTHS = sizeof widths / sizeof widths[0] };

/* A number of up to `bits` bits and a sign. */
static int64_t number(uint64_t *rng, unsigned bits)
{
    return bits == 0 ? 0 : (int64_t)base_rng_next(rng) >> (64 - bits);
}

/* Rows in memory of their exact size, so that a sanitizer sees a step over either end. */
static struct span coded(const int64_t *sum, uint32_t n_rows, uint32_t n, enum model_wire mode,
                         const uint32_t *bad)
{
    size_t max = model_sums_bytes_max(n_rows, n, mode);
    uint8_t *wide = malloc(max);
    assert_non_null(wide);
    size_t len = model_sums_encode(sum, n_rows, n, mode, bad, wide);
    assert_true(len <= max);
    uint8_t *exact = malloc(len);
    assert_non_null(exact);
    memcpy(exact, wide, len);
    free(wide);
    return (struct span){exact, len};
}

static void release(struct span s)
{
    free((void *)(uintptr_t)s.ptr);
}

/* Values of 1 to 64 bits, groups of different widths side by side. */
static void test_exact_sums_come_back(void **state)
{
    (void)state;
    uint64_t rng = 1;
    for (unsigned k = 0; k < N_WIDTHS; k++) {
        for (unsigned bits = 0; bits <= 62; bits++) {
            uint32_t n = widths[k], n_rows = 1 + bits % ROWS_MAX, bad[ROWS_MAX] = {0};
            static int64_t sum[ROWS_MAX * WIDTHS_MAX], acc[ROWS_MAX * WIDTHS_MAX];
            for (uint32_t i = 0; i < n_rows * n; i++) {
                sum[i] = number(&rng, (bits + i / 64 * 17) % 63);
                acc[i] = number(&rng, 62);
            }
            static int64_t want[ROWS_MAX * WIDTHS_MAX];
            for (uint32_t i = 0; i < n_rows * n; i++)
                want[i] = sum[i] + acc[i];
            struct span s = coded(sum, n_rows, n, MODEL_WIRE_EXACT, bad);
            assert_true(model_sums_add(s, n_rows, n, MODEL_WIRE_EXACT, 9, acc, bad));
            assert_memory_equal(acc, want, (size_t)n_rows * n * sizeof *acc);
            for (uint32_t t = 0; t < n_rows; t++)
                assert_int_equal(bad[t], 0);
            release(s);
        }
    }
}

/* The bytes themselves: a row's mark, then for each group its width and little-endian numbers. */
static void test_bytes_of_sums(void **state)
{
    (void)state;
    static const struct {
        int64_t value;
        unsigned width;
    } cases[] = {{0, 0},
                 {1, 1},
                 {-1, 1},
                 {127, 1},
                 {128, 2},
                 {-128, 1},
                 {-129, 2},
                 {32767, 2},
                 {32768, 3},
                 {INT32_MAX, 4},
                 {INT32_MIN, 4},
                 {1ll << 31, 5},
                 {-(1ll << 31) - 1, 5},
                 {(1ll << 39) - 1, 5},
                 {1ll << 39, 6},
                 {1ll << 51, 7},
                 {-(1ll << 51), 7},
                 {(1ll << 55) - 1, 7},
                 {1ll << 55, 8},
                 {4095ll << 51, 8},
                 {-(4095ll << 51), 8},
                 {INT64_MAX, 8},
                 {INT64_MIN, 8}};
    const uint32_t good = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t sum[70] = {0}, acc[70] = {0};
        sum[66] = cases[i].value;
        struct span s = coded(sum, 1, 70, MODEL_WIRE_EXACT, &good);
        unsigned w = cases[i].width;
        assert_int_equal(s.len, 1 + 1 + 1 + 6 * w);
        assert_int_equal(s.ptr[0], 0);
        assert_int_equal(s.ptr[1], 0);
        assert_int_equal(s.ptr[2], w);
        for (unsigned b = 0; b < w; b++)
            assert_int_equal(s.ptr[3 + 2 * w + b], (uint64_t)cases[i].value >> 8 * b & 0xff);
        uint32_t bad = 0;
        assert_true(model_sums_add(s, 1, 70, MODEL_WIRE_EXACT, 9, acc, &bad));
        assert_memory_equal(acc, sum, sizeof sum);
        release(s);
    }
}

/* Whole groups that need 25 to 31 bits: 28, 30 or 31 are used, and where each value lies. */
static void test_spare_bits_are_used(void **state)
{
    (void)state;
    static const unsigned used[] = {28, 28, 28, 28, 30, 30, 31};
    const uint32_t good = 0;
    uint64_t rng = 11;
    for (unsigned bits = 25; bits <= 31; bits++) {
        const unsigned w = used[bits - 25], s = 32 - w, words = 64 - 2 * s;
        int64_t sum[64], acc[64] = {0};
        for (unsigned i = 0; i < 64; i++)
            sum[i] = number(&rng, bits);
        sum[0] = (1ll << (bits - 1)) - 1;
        sum[63] = -(1ll << (bits - 1));
        struct span c = coded(sum, 1, 64, MODEL_WIRE_EXACT, &good);
        assert_int_equal(c.len, 2 + 4 * words);
        assert_int_equal(c.ptr[1], w);
        uint64_t last[8] = {0};
        for (unsigned i = 0; i < words; i++) {
            uint32_t word;
            memcpy(&word, c.ptr + 2 + 4 * i, sizeof word);
            assert_int_equal(word & ((1u << w) - 1), (uint64_t)sum[i] & ((1u << w) - 1));
            last[i % (2 * s)] |= (uint64_t)(word >> w) << s * (i / (2 * s));
        }
        for (unsigned i = 0; i < 2 * s; i++)
            assert_int_equal(last[i], (uint64_t)sum[words + i] & ((1u << w) - 1));
        uint32_t bad = 0;
        assert_true(model_sums_add(c, 1, 64, MODEL_WIRE_EXACT, 9, acc, &bad));
        assert_memory_equal(acc, sum, sizeof sum);
        acc[0] = 0;
        c.len--;
        assert_false(model_sums_add(c, 1, 64, MODEL_WIRE_EXACT, 9, acc, &bad));
        c.len++;
        release(c);
    }
}

static void test_bad_rows_are_a_byte(void **state)
{
    (void)state;
    for (unsigned mode = 0; mode < MODEL_N_WIRES; mode++) {
        int64_t sum[3 * 64], acc[3 * 64] = {0};
        const uint32_t from[3] = {0, 4, 0};
        uint32_t bad[3] = {2, 0, 0};
        for (unsigned i = 0; i < 3 * 64; i++)
            sum[i] = (int64_t)1 << 30;
        struct span s = coded(sum, 3, 64, (enum model_wire)mode, from);
        const uint32_t all[3] = {1, 1, 1};
        assert_true(model_sums_add(s, 3, 64, (enum model_wire)mode, 7, acc, bad));
        assert_int_equal(bad[0], 2); /* the first mark stays */
        assert_int_equal(bad[1], 7);
        assert_int_equal(bad[2], 0);
        for (unsigned i = 0; i < 3 * 64; i++)
            assert_true(acc[i] == (i / 64 == 1 ? 0 : (int64_t)1 << 30));
        release(s);
        s = coded(sum, 3, 64, (enum model_wire)mode, all);
        assert_int_equal(s.len, 3);
        release(s);
    }
}

/* As many members as a team has, each with as much as all units of a row can be: not all of that
 * fits, and what does not is refused, at either end. */
static void test_overflow_is_refused(void **state)
{
    (void)state;
    static const int64_t signs[] = {-1, 1};
    for (unsigned i = 0; i < 2; i++) {
        const int64_t sign = signs[i];
        int64_t sum[65] = {0}, acc[65] = {0};
        uint32_t bad = 0;
        sum[64] = sign * (4095ll << 51);
        struct span s = coded(sum, 1, 65, MODEL_WIRE_EXACT, &bad);
        assert_true(model_sums_add(s, 1, 65, MODEL_WIRE_EXACT, 1, acc, &bad));
        assert_false(model_sums_add(s, 1, 65, MODEL_WIRE_EXACT, 1, acc, &bad));
        acc[64] = -sign * (1ll << 51);
        assert_true(model_sums_add(s, 1, 65, MODEL_WIRE_EXACT, 1, acc, &bad));
        assert_true(acc[64] == sign * (4094ll << 51));
        release(s);
    }
    /* The last number that fits, and the next, in a whole group. */
    int64_t one[64], acc[64];
    uint32_t bad = 0;
    for (unsigned i = 0; i < 64; i++) {
        one[i] = 1;
        acc[i] = INT64_MAX - 1;
    }
    struct span s = coded(one, 1, 64, MODEL_WIRE_EXACT, &bad);
    assert_true(model_sums_add(s, 1, 64, MODEL_WIRE_EXACT, 1, acc, &bad));
    assert_true(acc[0] == INT64_MAX && acc[63] == INT64_MAX);
    for (unsigned i = 0; i < 64; i++)
        acc[i] = i == 17 ? INT64_MAX : 0;
    assert_false(model_sums_add(s, 1, 64, MODEL_WIRE_EXACT, 1, acc, &bad));
    release(s);
}

/* Every shorter form of a message, every longer one, and every value of a byte that steers. */
static void test_malformed_sums(void **state)
{
    (void)state;
    uint64_t rng = 5;
    for (unsigned mode = 0; mode < MODEL_N_WIRES; mode++) {
        int64_t sum[2 * 70], acc[2 * 70] = {0};
        uint32_t bad[2] = {0};
        for (unsigned i = 0; i < 2 * 70; i++)
            sum[i] = number(&rng, 36);
        struct span s = coded(sum, 2, 70, (enum model_wire)mode, bad);
        for (size_t len = 0; len <= s.len + 1; len++) {
            uint8_t *cut = calloc(len + 1, 1);
            assert_non_null(cut);
            memcpy(cut, s.ptr, len < s.len ? len : s.len);
            memset(acc, 0, sizeof acc);
            assert_true(model_sums_add((struct span){cut, len}, 2, 70, (enum model_wire)mode, 1,
                                       acc, bad) == (len == s.len));
            free(cut);
        }
        uint8_t *odd = malloc(s.len);
        assert_non_null(odd);
        memcpy(odd, s.ptr, s.len);
        for (unsigned b = 2; b < 256; b++) {
            odd[0] = (uint8_t)b;
            assert_false(model_sums_add((struct span){odd, s.len}, 2, 70, (enum model_wire)mode, 1,
                                        acc, bad));
        }
        odd[0] = 0;
        for (unsigned b = 0; b < 256 && mode == MODEL_WIRE_EXACT; b++) {
            odd[1] = (uint8_t)b;
            assert_true(model_sums_add((struct span){odd, s.len}, 2, 70, (enum model_wire)mode, 1,
                                       acc, bad) == (b == s.ptr[1]));
        }
        free(odd);
        release(s);
    }
}

/* A scale or a half that is no number, or too large for a sum. */
static void test_impossible_floats(void **state)
{
    (void)state;
    const float scales[] = {NAN, INFINITY, -INFINITY, 0x1p33f, -0x1p33f, 3e38f};
    int64_t acc[32] = {0};
    uint32_t bad = 0;
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        uint8_t q8[1 + 4 + 32] = {0};
        memcpy(q8 + 1, &scales[i], 4);
        memset(q8 + 5, 1, 32);
        assert_false(
            model_sums_add((struct span){q8, sizeof q8}, 1, 32, MODEL_WIRE_Q8, 1, acc, &bad));
    }
    const uint16_t halves[] = {0x7c00, 0xfc00, 0x7e01};
    for (size_t i = 0; i < sizeof halves / sizeof halves[0]; i++) {
        uint8_t f16[1 + 1 + 64] = {0};
        memcpy(f16 + 2 + 40, &halves[i], 2);
        assert_false(
            model_sums_add((struct span){f16, sizeof f16}, 1, 32, MODEL_WIRE_F16, 1, acc, &bad));
    }
    for (unsigned e = 0; e < 256; e++) {
        uint8_t f16[1 + 1 + 64] = {0, (uint8_t)e, 0, 0x3c}; /* 2^e */
        memset(acc, 0, sizeof acc);
        assert_true(model_sums_add((struct span){f16, sizeof f16}, 1, 32, MODEL_WIRE_F16, 1, acc,
                                   &bad) == (e < 33));
        assert_true(e >= 33 || acc[0] == (int64_t)1 << (30 + e));
    }
}

/* The other modes: within their error, the same from any position, as many bytes as promised. */
static void test_fewer_bytes(void **state)
{
    (void)state;
    uint64_t rng = 9;
    for (unsigned k = 0; k < N_WIDTHS; k++) {
        for (unsigned mode = MODEL_WIRE_F16; mode < MODEL_N_WIRES; mode++) {
            uint32_t n = widths[k], bad[2] = {0};
            float x[2 * WIDTHS_MAX], back[2 * WIDTHS_MAX];
            int64_t sum[2 * WIDTHS_MAX], acc[2 * WIDTHS_MAX] = {0};
            for (uint32_t i = 0; i < 2 * n; i++) {
                /* A massive channel now and then, beyond what a half holds. */
                sum[i] = number(&rng, i % 61 == 7 ? 51 : 31);
                x[i] = (float)((double)sum[i] * 0x1p-30);
            }
            size_t len = model_rows_bytes(2, n, (enum model_wire)mode);
            uint8_t *bytes = malloc(len);
            assert_non_null(bytes);
            model_rows_encode(x, 2, n, (enum model_wire)mode, bytes);
            assert_true(
                model_rows_decode((struct span){bytes, len}, 2, n, (enum model_wire)mode, back));
            for (uint32_t i = 0; i < 2 * n; i++) {
                uint32_t at = i % n, block = at / 32 * 32, group = at / 64 * 64;
                float most = 0, most64 = 0;
                for (uint32_t c = group; c < group + 64 && c < n; c++) {
                    float v = fabsf(x[i / n * n + c]);
                    most64 = fmaxf(most64, v);
                    if (c / 32 * 32 == block)
                        most = fmaxf(most, v);
                }
                float error = mode == MODEL_WIRE_Q8 ? most * 0.503f / 127
                                                    : fmaxf(fabsf(x[i]) * 0x1p-11f,
                                                            fmaxf(most64 * 0x1p-15f, 1) * 0x1p-24f);
                assert_true(fabsf(back[i] - x[i]) <= error);
            }
            assert_false(model_rows_decode((struct span){bytes, len - 1}, 2, n,
                                           (enum model_wire)mode, back));
            free(bytes);
            /* Sums are those numbers. */
            struct span s = coded(sum, 2, n, (enum model_wire)mode, bad);
            assert_int_equal(s.len, 2 + len);
            assert_true(model_sums_add(s, 2, n, (enum model_wire)mode, 1, acc, bad));
            for (uint32_t i = 0; i < 2 * n; i++)
                assert_true(acc[i] == llrint((double)back[i] * 0x1p30));
            release(s);
        }
    }
}

/* A hidden row that holds something odd is odd when it arrives, and the others are not. */
static void test_odd_rows(void **state)
{
    (void)state;
    const float odd[] = {NAN, INFINITY, -INFINITY};
    for (unsigned mode = 0; mode < MODEL_N_WIRES; mode++) {
        for (unsigned i = 0; i < 3; i++) {
            float x[2 * 64], back[2 * 64];
            uint8_t bytes[2 * 64 * 4];
            size_t len = model_rows_bytes(2, 64, (enum model_wire)mode);
            for (unsigned c = 0; c < 2 * 64; c++)
                x[c] = (float)(int)(c % 7) - 3;
            x[40] = odd[i];
            model_rows_encode(x, 2, 64, (enum model_wire)mode, bytes);
            assert_true(
                model_rows_decode((struct span){bytes, len}, 2, 64, (enum model_wire)mode, back));
            assert_true(fabsf(back[40]) > FLT_MAX || back[40] != back[40]);
            for (unsigned c = 64; c < 2 * 64; c++)
                assert_true(fabsf(back[c] - x[c]) <= 3.0f / 127);
        }
    }
    float none[64] = {0}, back[64];
    uint8_t bytes[64 * 4];
    for (unsigned mode = 0; mode < MODEL_N_WIRES; mode++) {
        size_t len = model_rows_bytes(1, 64, (enum model_wire)mode);
        model_rows_encode(none, 1, 64, (enum model_wire)mode, bytes);
        assert_true(
            model_rows_decode((struct span){bytes, len}, 1, 64, (enum model_wire)mode, back));
        assert_memory_equal(back, none, sizeof none);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_sums_come_back), cmocka_unit_test(test_bytes_of_sums),
        cmocka_unit_test(test_spare_bits_are_used),
        cmocka_unit_test(test_bad_rows_are_a_byte),  cmocka_unit_test(test_overflow_is_refused),
        cmocka_unit_test(test_malformed_sums),       cmocka_unit_test(test_impossible_floats),
        cmocka_unit_test(test_fewer_bytes),          cmocka_unit_test(test_odd_rows),
    };
    kern_fp_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
