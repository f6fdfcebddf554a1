#!/bin/sh
# Recurrent pipeline: with few requests each stage works on another one. Shown apart from batching, with
# every pass slowed to 20 ms and of one row: three stages answer three requests in about the time of one.
# Then without slowing, where batches form. The answers are those of one process; what is asserted besides
# is that all requests are in the ring together. Rates are printed, not judged: that is for
# tests/bench/pipeline.sh, on a quiet machine.
# Alone: it looks whether requests are in the ring together.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

# run NAME REQUESTS TOKENS: race, check, and say the rate.
run()
{
    race "$2" "$3"
    without_times <"$work/race" >"$work/actual"
    bounded 60 "$shoal" local -q -m "$model" --context 512 -t 2 --prompts "$work/race.prompts" --json |
        without_times >"$work/expected"
    same "$1, $2 at once: each answer is that of one process" "$work/expected" "$work/actual"
    note "$1, $2 at once: $rate tok/s; busy ${busy:-?} %"
}

tokens=40
test "$short" -eq 0 || tokens=20

new_cluster alpha beta gamma
for name in $workers; do
    eval "options_$name='--test-pass-ms 20 --test-rows 1'"
done
must_start
run "passes of 20 ms and one row" 1 "$tokens"
one=$rate
for n in 3 6; do
    run "passes of 20 ms and one row" "$n" "$tokens"
    check "passes of 20 ms and one row, $n at once: all were in the ring together" test "$together" -eq 1
    note "$n requests against one: $(echo "$rate $one" | awk '{ printf "%.2f", ($2 > 0 ? $1 / $2 : 0) }') times"
done
check "the slowed cluster ends" stop_cluster

for name in $workers; do
    eval "options_$name="
done
must_start
run "no slowing" 1 200
one=$rate
run "no slowing" 6 200
note "6 requests against one: $(echo "$rate $one" | awk '{ printf "%.2f", ($2 > 0 ? $1 / $2 : 0) }') times"
check "the cluster ends" stop_cluster

finish
