/* The comparison of every kernel with its definition, in plain C: the CMocka test runs it for the
 * tables of this machine, and kernel_cases_main.c, cross-built, for those of another under
 * emulation. */
#ifndef TESTS_UNIT_KERNEL_CASES_H
#define TESTS_UNIT_KERNEL_CASES_H

#include "kernels/kernels.h"

#include <stdio.h>

/* What kern_table_hash gives on every machine. It changes only with the numerics themselves, and
 * then machines of before and after refuse each other. */
#define KERNEL_HASH UINT64_C(0x9a443bad0cb3974f)

/* One line of kernels.def. */
struct kernel_case {
    const char *op, *type;
    const char *table; /* its name */
    const char *function;
    unsigned tile;
    int index; /* of the type, in the slot's array; 0 where the slot has none */
    unsigned (*run)(const struct kernel_case *c, const struct kern_table *t, FILE *out);
};

const struct kernel_case *kernel_case_at(size_t i); /* NULL past the end */

/* Compare every kernel that kernels.def lists for table t with the definition, bit for bit. Returns
 * the number of inputs on which one differed; says on `out` what the first was. */
unsigned kernel_cases_run(const struct kern_table *t, FILE *out);

#endif
