#!/bin/sh
# Work moves while text comes: in mid-answer of eight requests, greedy and sampled, a worker is drained from a
# pipeline of teams and from one team, a member and a leader, and is taken again afterwards. All tokens are those
# of one process, and no request read its text again: the KV rows went to the others, and each pause is printed.
# A drain that cannot be is refused and changes nothing; a worker killed while another is drained costs no token.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

tokens=150
test "$short" -eq 0 || tokens=70
n=0
for word in And the Go But Now When Then In; do
    n=$((n + 1))
    heat=$((n % 2 * 8))
    echo "{\"prompt\":\"$word the king said unto\",\"n\":$tokens,\"temperature\":0.$heat,\"seed\":$n}"
done >"$work/prompts"
local_answer -q --json --prompts "$work/prompts" 2>"$work/err" | without_times >"$work/expected"

# begin: the eight requests in the background, all of them with tokens already.
begin()
{
    bounded 100 "$shoal" generate -q -c "$lab/cluster.ini" --json --prompts "$work/prompts" >"$work/answers" \
        2>"$work/answers.err" &
    asking=$!
    check "$1: eight requests are in flight" within 20 slots_in_use 8
}

# end NAME: they have ended as they must.
end()
{
    wait "$asking"
    without_times <"$work/answers" >"$work/actual"
    same "$1: the tokens of one process" "$work/expected" "$work/actual"
}

# drain NAME: its exit status; what it said is in $work/drained.
drain()
{
    bounded 60 "$shoal" drain -c "$lab/cluster.ini" "$1" >"$work/drained" 2>&1
}

undrain()
{
    bounded 20 "$shoal" undrain -c "$lab/cluster.ini" "$1" >"$work/drained" 2>&1
}

# Lines of the coordinator's log since the last call of mark.
mark()
{
    marked=$(wc -l <"$lab/coordinator.log")
}
since()
{
    tail -n +$((marked + 1)) "$lab/coordinator.log"
}

# moved NAME LEAST: since mark, so many requests at least went on where they were, and none was run again; prints
# each pause.
moved()
{
    since >"$work/since"
    note "$1: $(sed -n 's/.*moved="\(.*\)" rounds=\([0-9]*\).*/\1, \2 rounds/p' "$work/since"), pauses of" \
        "$(sed -n 's/.* resumed .*pause_ms=\([0-9]*\) .*/\1/p' "$work/since" | tr '\n' ' ')ms"
    resumed=$(grep -c ' resumed ' "$work/since")
    again=$(sed -n 's/.* resumed .* run=\([0-9]*\)$/\1/p' "$work/since" | awk '$1 > 12' | wc -l)
    check "$1: they went on where they were" test "$resumed" -ge "$2" -a "$again" -eq 0
}

# drained_in_mid_text WHAT NAME
drained_in_mid_text()
{
    begin "$1"
    mark
    drain "$2"
    check "$1: drained" test $? -eq 0
    says "$1: and it says so" "$work/drained" "^$2 is drained: nothing runs on it"
    check "$1: the status too" has_state "$2" drained
    end "$1"
    moved "$1" 4
}

slow()
{
    for name in $workers; do
        eval "options_$name='--test-pass-ms 15'"
    done
}

# ---- a pipeline of teams ------------------------------------------------------------------------------------

new_cluster alpha beta gamma delta
slow
placement_keys="use: all
exchange: star"
keys_alpha="layers: 0-3
threads: 1"
keys_beta=$keys_alpha
keys_gamma="layers: 4-7
threads: 1"
keys_delta=$keys_gamma
must_start
drained_in_mid_text "a member leaves a team of a pipeline" delta
begin "it comes back"
mark
undrain delta
check "it comes back: taken again" within 20 has_state delta serving
end "it comes back"
moved "it comes back" 4
drain beta
check "another one is drained with nothing in flight" test $? -eq 0
mark
begin "nobody else holds its layers"
drain alpha
check "nobody else holds its layers: refused" test $? -eq 1
says "nobody else holds its layers: with the reason" "$work/drained" 'alpha cannot be drained: '
drain omega
check "a worker that is none is refused" test $? -eq 1
says "by name" "$work/drained" 'there is no worker "omega"'
end "nobody else holds its layers"
check "all end with status 0" stop_cluster

# ---- one team, and a death ----------------------------------------------------------------------------------

new_cluster alpha beta gamma
slow
placement_keys="use: all
granularity: heads
exchange: mesh"
keys_alpha="role: leader
threads: 1"
must_start
drained_in_mid_text "a leader leaves a team" alpha
undrain alpha
check "it is taken again" within 20 all_serve
begin "one is killed while another is drained"
drain beta &
draining=$!
within 5 has_state beta draining
kill_program gamma
wait "$draining"
start_worker gamma --test-pass-ms 15
end "one is killed while another is drained"
check "all end with status 0" stop_cluster
finish
