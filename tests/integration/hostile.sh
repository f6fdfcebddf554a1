#!/bin/sh
# Strangers and mistakes: unknown keys, random bytes and silent connections at every port while an answer
# streams, a model that fits nowhere, nobody at home. Each gives one clear error in time, and the cluster
# answers on as if nothing had happened.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

question="In the beginning"
local_answer -q -p "$question" -n 10 --temperature 0 >"$work/ten" 2>&1

answers_now()
{
    generate -q -p "$question" -n 10 --temperature 0 >"$work/actual" 2>"$work/actual.err"
    same "$1" "$work/ten" "$work/actual"
}

# in_time NAME SECONDS SINCE: not more than so long after `ticks` was SINCE.
in_time()
{
    check "$1" test $(($(ticks) - $3)) -le $(($2 * patience * 100))
}

# ---- nobody at home ----------------------------------------------------------------------------------

new_cluster alpha beta
cluster_keys="context: 512
slots: 4
heartbeat: 200 ms
dead-after: $((patience * 2)) s"
write_config
started=$(ticks)
generate -p "$question" >"$work/out" 2>"$work/err"
one_error "no coordinator: generate" $? 1 "$work/err" "no answer from tcp://127.0.0.1:$client_port.*is shoal-coordinator running"
bounded 60 "$shoal" status -c "$lab/cluster.ini" >"$work/out" 2>"$work/err"
one_error "no coordinator: status" $? 1 "$work/err" "no answer from tcp://127.0.0.1:$client_port"
in_time "no coordinator: both in time" 25 "$started"

# ---- unknown keys ---------------------------------------------------------------------------------------

for name in $workers; do
    eval "options_$name='--test-pass-ms 10'"
done
must_start
"$shoal" keygen -q "$work/others" intruder beta >"$work/said" 2>&1
cp "$lab/keys/coordinator.pub" "$work/others"
sed "s|^keys: .*|keys: $work/others|" "$lab/cluster.ini" >"$work/intruder.ini"
started=$(ticks)
bounded 60 "$shoal" generate -c "$work/intruder.ini" --key intruder -p "$question" >"$work/out" 2>"$work/err"
one_error "a client with an unknown key" $? 1 "$work/err" "no answer from tcp://127.0.0.1:$client_port.*key +intruder"
in_time "a client with an unknown key: in time" 15 "$started"

says_refused()
{
    grep -q -i -E "$1" "$lab/$2.log"
}

signal beta TERM
within 10 ended beta
sed "s|^store: store-|store: $work/store-|" "$work/intruder.ini" >"$work/impostor.ini"
start_program impostor "$worker" -c "$work/impostor.ini" --name beta
check "a worker with an unknown key is told so" within 10 says_refused 'refused|key' impostor
check "the coordinator says who knocked" within 10 says_refused 'key' coordinator
ask_status
says "a worker with an unknown key is no node" "$lab/status.txt" '^beta +absent '
kill_program impostor
start_worker beta --test-pass-ms 10
check "the right one is taken" within 20 all_serve
answers_now "and they answer"

# ---- noise and silence at every port -----------------------------------------------------------------------

# Plans that were put in force since the start.
plans()
{
    grep -c ' core commit ' "$lab/coordinator.log"
}

bytes=1000000
plans_before=$(plans)
tokens=100
local_answer -q -p "$question" -n $tokens --temperature 0 >"$work/expected" 2>&1
for port in $(cat "$lab/ports"); do
    "$rawtcp" silent 20 127.0.0.1 "$port" 20 >"$work/silent-$port" 2>&1 &
    within 10 test -s "$work/silent-$port"
done
generate -q -p "$question" -n $tokens --temperature 0 >"$work/actual" 2>&1 &
reader=$!
within 20 test -s "$work/actual"
for port in $(cat "$lab/ports"); do
    bounded 30 "$rawtcp" random 127.0.0.1 "$port" $bytes >"$work/random-$port" 2>&1 ||
        fail "noise goes to port $port" "$work/random-$port"
done
wait $reader
same "silence and a megabyte of noise at every port: the answer streams on" "$work/expected" "$work/actual"
check "the plan is still the one before the noise" test "$(plans)" -eq "$plans_before"
check "and it serves" is_serving
answers_now "the next request is answered"
check "no log is flooded" test "$(cat "$lab"/*.log | wc -l)" -lt 400
check "all end with status 0" stop_cluster

# ---- a model that fits nowhere ------------------------------------------------------------------------------

new_cluster alpha beta
keys_alpha="memory: 1 MiB"
keys_beta="memory: 1 MiB"
write_config
start_coordinator
start_worker alpha
start_worker beta
knows_it()
{
    ask_status && grep -q 'needs .* the cluster has ' "$lab/status.txt"
}
check "status says that the model does not fit" within 20 knows_it
check "and nothing of it is shipped" test "$(du -s -k "$lab/store-alpha" | cut -f 1)" -lt 512
generate -p "$question" >"$work/out" 2>"$work/err"
one_error "a model that fits nowhere: generate" $? 1 "$work/err" 'needs [0-9.]+ .iB.* the cluster has [0-9.]+ .iB'
bounded 60 "$shoal" plan -c "$lab/cluster.ini" >"$work/out" 2>"$work/err"
one_error "a model that fits nowhere: plan" $? 1 "$work/err" 'needs [0-9.]+ .iB.* the cluster has [0-9.]+ .iB'
check "all end with status 0" stop_cluster
finish
