/* Placement problems from numbers: small random ones for enumeration, and clusters of real boards. */
#ifndef TESTS_UNIT_PLAN_CASES_H
#define TESTS_UNIT_PLAN_CASES_H

#include "partition/partition.h"

enum { PLAN_CLUSTERS = 40 };

/* Random problems are fewer by this where a sanitizer makes each take several times as long. */
#ifdef __SANITIZE_ADDRESS__
enum { PLAN_SHORTER = 5 };
#else
enum { PLAN_SHORTER = 1 };
#endif

double plan_between(uint64_t *seed, double a, double b);
bool plan_chance(uint64_t *seed, double p);
uint32_t plan_below(uint64_t *seed, uint32_t n);

/* At most 4 devices, 6 layers, 8 head units; all objectives, granularities, pins, limits. */
void plan_case_small(uint64_t number, struct part_problem *p);
/* Up to 16 boards and 80 layers, number < PLAN_CLUSTERS; `name`: what it is, in a few words. */
void plan_case_cluster(uint32_t number, struct part_problem *p, char name[static 96]);

#endif
