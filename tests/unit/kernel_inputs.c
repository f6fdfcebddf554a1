/* Buffers whose ends are watched, and numbers of every kind a kernel may meet. Each style is a
 * distribution that hides one sort of mistake: ordinary values a wrong order, denormals a flushing
 * unit, huge ones an overflow, saturated ones a lost carry, any bits at all infinities and NaN.
 *
 * Guard bytes see writes past the end of a buffer; reads are left to the sanitizer, in whose way no
 * guard stands. */
#include "tests/unit/kernel_inputs.h"

#include "common/common.h"

#include <stdio.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
enum { GUARD = 0 };
#else
enum { GUARD = 64 };
#endif

void *box_take(struct boxes *b, size_t bytes, size_t align, size_t off)
{
    uint8_t *base = base_alloc(align + off + bytes + GUARD);
    if (base == NULL || b->n == BOXES_MAX) {
        fprintf(stderr, "kernel_inputs: out of memory\n");
        __builtin_trap();
    }
    uint8_t *p = (uint8_t *)(((uintptr_t)base + align - 1) / align * align) + off;
    memset(base, 0xa5, align + off + bytes + GUARD);
    b->box[b->n].base = base;
    b->box[b->n].end = p + bytes;
    b->n++;
    return p;
}

void *box_input(struct boxes *b, size_t bytes, size_t off)
{
    return box_take(b, bytes, 16, off);
}

void box_give_back(struct boxes *b)
{
    for (; b->n > 0; b->n--) {
        for (const uint8_t *p = b->box[b->n - 1].end; p != b->box[b->n - 1].end + GUARD; p++)
            b->overrun = b->overrun || *p != 0xa5;
        base_free(b->box[b->n - 1].base);
    }
}

uint32_t draw_bits(struct boxes *b)
{
    return (uint32_t)(base_rng_next(&b->rng) >> 32);
}

float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float draw_float(struct boxes *b, enum style style)
{
    const uint32_t bits = draw_bits(b), sign_mantissa = bits & 0x807fffffu;
    switch (style) {
    case ORDINARY:
        return float_of_bits(sign_mantissa | (117 + draw_bits(b) % 12) << 23);
    case ZEROS:
        return float_of_bits(bits & 0x80000000u);
    case DENORMALS:
        return float_of_bits(sign_mantissa);
    case HUGE_VALUES:
        return float_of_bits(sign_mantissa | (250 + draw_bits(b) % 5) << 23);
    case ALL_EXPONENTS:
        return float_of_bits(sign_mantissa | (draw_bits(b) % 255) << 23);
    case SATURATED:
        return (bits & 1) != 0 ? 1.0f : -1.0f;
    default:
        return float_of_bits(bits);
    }
}

float *draw_floats(struct boxes *b, enum style style, size_t n, size_t off)
{
    float *x = box_input(b, n * sizeof *x, off);
    for (size_t i = 0; i < n; i++)
        x[i] = draw_float(b, style);
    return x;
}

uint16_t draw_half(struct boxes *b, enum style style)
{
    const uint32_t bits = draw_bits(b);
    switch (style) {
    case ORDINARY:
        return (uint16_t)((bits & 0x83ffu) | (8 + draw_bits(b) % 10) << 10);
    case ZEROS:
        return (uint16_t)(bits & 0x8000u);
    case DENORMALS:
        return (uint16_t)(bits & 0x83ffu);
    case HUGE_VALUES:
    case SATURATED:
        return (uint16_t)((bits & 0x8000u) | 0x7bffu);
    case ALL_EXPONENTS:
        return (uint16_t)((bits & 0x83ffu) | (draw_bits(b) % 31) << 10);
    default:
        return (uint16_t)bits;
    }
}

void fill_halves(struct boxes *b, enum style style, uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 2) {
        const uint16_t h = draw_half(b, style);
        memcpy(p + i, &h, 2);
    }
}
