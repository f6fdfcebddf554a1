/* The coordinator's core by hand, for tests: events in, messages looked at, one step at a time. */
#ifndef TESTS_UNIT_COORD_FIXTURE_H
#define TESTS_UNIT_COORD_FIXTURE_H

#include "coordinator/coordinator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { N_WORKERS = 4, N_LAYERS = 6, UNITS = 4, UNIT_HEADS = 2, UNIT_COLS = 64, N_FF = 250 };

extern struct net_config config; /* too large for a stack */
extern struct coord_core *core;
extern struct coord_actions actions; /* of the last step */
extern struct part_plan plan;        /* the planner's next answer */
extern int64_t now_ms;
extern uint64_t serial;              /* of the last question to the planner */
extern double now_latency_s;         /* as in its answer */
extern bool now_fits;
extern struct coord_move_cost move_cost;

void step(struct coord_event ev);
void says(uint32_t node, struct net_msg m);
/* The message of this code to the node in the last step; NULL: none. */
const struct net_msg *told(uint32_t node, enum net_code code);
bool logged(const char *part);
/* All workers come, and are measured; the links one after the other as the core asks. */
void meet(void);
int setup(void **state);
int teardown(void **state);
/* w2 and w0 (which has no columns) hold layers 0-3 as a mesh, w3 leads and has the output matrix
 * with w1, which holds nothing else than heads, as a star. */
void two_teams(void);
void answer(void);
void ready(uint32_t node, uint64_t epoch);
void is_list(struct net_list l, uint32_t n, const uint32_t *want);
uint64_t serve(void);
/* Once a plan serves, each worker's link to the coordinator is tested; no plan depends on it. */
void coordinators_links(void);
void drain(const char *name, uint32_t on);

#endif
