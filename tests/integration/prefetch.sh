#!/bin/sh
# Prefetching: while a plan serves, the coordinator works out what the others would do without each of
# its workers, and they have the pieces for it before one is killed. Then nothing is shipped, nobody
# waits for the planner, and the text is the same.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

question="In the beginning"
local_answer -q -p "$question" -n 100 --temperature 0 >"$work/hundred" 2>&1

# How many workers have been thought away.
n_forecasts()
{
    grep -c 'forecast without=.* predicted_ms=' "$lab/coordinator.log" || :
}

# Every worker's last word on its stock is that it is there, and that it knows of no more.
stocked()
{
    test "$(n_forecasts)" -ge 3 || return 1
    for name in $workers; do
        grep ' stock' "$lab/$name.log" | tail -n 1 | grep -q 'fetched=.* more=0' || return 1
    done
}

new_cluster alpha beta gamma
prefetch=yes
cluster_keys="context: 512
slots: 4
heartbeat: 200 ms
dead-after: $((patience * 2)) s"
write_config
start_coordinator
for name in $workers; do
    start_worker "$name" --test-pass-ms 10
done
check "three workers serve" within 60 is_serving
check "pieces for the loss of each are fetched while nothing else is" within 60 stocked
plans=$(grep -c 'plan epoch=' "$lab/coordinator.log")

generate -q -p "$question" -n 100 --temperature 0 >"$work/asked" 2>"$work/asked.err" &
asker=$!
check "text comes" within 20 test -s "$work/asked"
kill_program beta
wait "$asker" || note "exit status $?: $(cat "$work/asked.err")"
same "the text of a request whose worker was killed" "$work/hundred" "$work/asked"
is_replanned()
{
    test "$(grep -c 'plan epoch=' "$lab/coordinator.log")" -gt "$plans" && is_serving
}
check "the survivors have a plan" within 20 is_replanned
check "for which nothing was shipped, since they had every piece" test "$(shipped)" = "0 B"

generate -q -p "$question" -n 100 --temperature 0 >"$work/asked" 2>"$work/asked.err"
same "and the next text" "$work/hundred" "$work/asked"
stop_cluster >/dev/null || fail "all end with status 0"
finish
