/* Inputs for the comparison of kernels with their definitions: buffers with guard bytes behind
 * them, and numbers drawn in styles. */
#ifndef TESTS_UNIT_KERNEL_INPUTS_H
#define TESTS_UNIT_KERNEL_INPUTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BOXES_MAX = 24 };

/* All buffers of one comparison, freed together, and the generator they are filled from. */
struct boxes {
    struct {
        uint8_t *base, *end;
    } box[BOXES_MAX];
    unsigned n;
    uint64_t rng;
    bool overrun; /* something was written past the end of one */
};

/* `bytes` bytes at an address that is `off` past a multiple of `align`, filled with 0xa5. */
void *box_take(struct boxes *b, size_t bytes, size_t align, size_t off);
/* The same, as aligned as an input need be. */
void *box_input(struct boxes *b, size_t bytes, size_t off);
void box_give_back(struct boxes *b);

enum style {
    ORDINARY,
    ZEROS, /* of both signs */
    DENORMALS,
    HUGE_VALUES,
    ALL_EXPONENTS,
    SATURATED, /* +-1, and the ends of integer ranges */
    ANY_BITS,
    N_STYLES
};

uint32_t draw_bits(struct boxes *b);
float draw_float(struct boxes *b, enum style style);
float *draw_floats(struct boxes *b, enum style style, size_t n, size_t off);
uint16_t draw_half(struct boxes *b, enum style style);
void fill_halves(struct boxes *b, enum style style, uint8_t *p, size_t bytes);
float float_of_bits(uint32_t bits);

#endif
