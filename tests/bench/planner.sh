#!/bin/sh
# How the planner does on clusters of boards (tests/unit/plan_cases.c): for each the objective, the stages as
# members:layers (* star, x mesh), the proven gap, the time it took, and the best published algorithm's
# objective in parts of it. Prints the rows of the table in docs/planner.md.
#
#   SHOAL_BUILDDIR=build sh tests/bench/planner.sh [SECONDS [FROM TO]]     (on a quiet machine; 4 s by default)
seconds=${1-4}
test "$#" -eq 0 || shift
echo "| # | cluster | objective | ms | stages | gap % | solved s | best published | which |"
echo "|---|---|---|---|---|---|---|---|---|"
exec "${SHOAL_BUILDDIR:-.}/tests/unit/test_plan_published" --table "$seconds" "$@"
