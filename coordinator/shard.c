/* What a worker holds by a plan: the plan's numbers for one member, in the words of a slice. Pure,
 * so that the core can ask. */
#include "coordinator/coordinator.h"

struct coord_shard coord_shard_of(const struct part_plan *plan, uint32_t stage, uint32_t member)
{
    const struct part_stage *g = &plan->stages[stage];
    const uint32_t ends = plan->output_first ? 0 : plan->n_stages - 1;
    return (struct coord_shard){.layer0 = g->layer0,
                                .layer1 = g->layer1,
                                .part = g->members[member],
                                .embed = stage == 0 && member == 0,
                                .output = stage == ends && member == 0};
}

uint32_t coord_columns(uint32_t n_ff, uint32_t unit_cols, uint32_t unit0, uint32_t unit1)
{
    const uint32_t end = unit1 * unit_cols;
    return unit1 > unit0 ? (end < n_ff ? end : n_ff) - unit0 * unit_cols : 0;
}
