#!/bin/sh
# A plan that changes by itself: a worker is slower than it was measured to be, and the model leaves it in mid-text
# with its KV cache; then everything stays as it is. One whose board runs out of memory (as made-up files say) is
# relieved, too. The tokens are those of one process. With `policy: static` nothing moves.
# Alone: a worker beside another test is slower than it was measured to be, too.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"
figure_ms=0 # workers are held against their promises

question="In the beginning God created"
tokens=240
local_answer -q --json -p "$question" -n "$tokens" --seed 2 | without_times >"$work/expected"

answers()
{
    generate -q --json -p "$question" -n "$tokens" --seed 2 2>"$work/answer.err" | without_times >"$work/actual"
    same "$1" "$work/expected" "$work/actual"
}

commits()
{
    grep -c ' core commit ' "$lab/coordinator.log"
}

# The worker that serves; one is enough for this model.
serving()
{
    ask_status && awk '$2 == "serving" { print $1 }' "$lab/status.txt"
}

# three POLICY
three()
{
    new_cluster alpha beta gamma
    cluster_keys="context: 512
slots: 4
heartbeat: 200 ms
report: 200 ms"
    placement_keys="use: best
granularity: layers
dwell: 1 s"
    policy=$1
    must_start
}

# slow_first POLICY: alpha and beta are slow, and one of them serves at first: they are measured alike, so that may
# take a few starts.
slow_first()
{
    options_alpha="--test-pass-ms 25"
    options_beta="--test-pass-ms 25"
    for try in 1 2 3 4 5 6 7 8; do
        three "$1"
        first=$(serving)
        test "$first" = gamma || break
        stop_cluster >/dev/null || fail "$1: all end with status 0 at start $try"
    done
    check "$1: a slow one serves at first" test "$first" != gamma
}

slow_first program
answers "a worker is slower than measured: the tokens of one process"
check "another serves now" test "$(serving)" = gamma
says "it is named" "$lab/coordinator.log" " pace name=$first ratio="
check "that was in mid-text" grep -q ' resumed .* run=[1-9]$' "$lab/coordinator.log"
check "nothing was read again" grep -q 'request_done .* replays=0' "$lab/coordinator.log"
now=$(commits)
answers "once more"
check "nothing moves any more" test "$(commits)" -eq "$now"
check "program: all end with status 0" stop_cluster

slow_first static
generate -q -p "$question" -n 60 --seed 2 >"$work/said" 2>&1
check "static: the slow one serves on" test "$(serving)" = "$first" -a "$(commits)" -eq 1
check "static: all end with status 0" stop_cluster

for name in alpha beta gamma; do
    mkdir -p "$work/board-$name/proc"
    echo 'MemAvailable: 4000000 kB' >"$work/board-$name/proc/meminfo"
    eval "options_$name='--test-root $work/board-$name'"
done
three program
generate -q -p "$question" -n 60 --temperature 0 >"$work/before" 2>"$work/err"
first=$(serving)
echo 'MemAvailable: 2000 kB' >"$work/board-$first/proc/meminfo"
check "a board without memory is relieved" within 20 has_state "$first" idle
says "it is named, too" "$lab/coordinator.log" " memory_short name=$first "
generate -q -p "$question" -n 60 --temperature 0 >"$work/after" 2>"$work/err"
same "a board without memory: the same text" "$work/before" "$work/after"
check "all end with status 0 at the end" stop_cluster
finish
