#!/bin/sh
# Whoever dies or goes away, the rest serves on. A worker is killed in mid-answer and comes back, another
# one falls silent; a client goes away in mid-answer; the queue is full; a prompt is too long. (What dies with
# a coordinator: restart.sh.) Passes are slowed so that there is time to do it. An answer that comes is the right
# one, whatever happened on the way; one that does not come ends with a reason.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

tokens=80
question="In the beginning"
local_answer -q -p "$question" -n $tokens --temperature 0 >"$work/expected" 2>&1

# ask_slowly: the question in the background; its process is $asker.
ask_slowly()
{
    rm -f "$work/asked" "$work/asked.rc"
    (
        bounded 60 "$shoal" generate -q -c "$lab/cluster.ini" -p "$question" -n $tokens --temperature 0 >"$work/asked" \
            2>"$work/asked.err"
        echo $? >"$work/asked.rc"
    ) &
    within 20 test -s "$work/asked"
}

has_answered()
{
    test -s "$work/asked.rc"
}

# answered NAME: the question's answer has come and is right.
answered()
{
    within 60 has_answered
    if test "$(cat "$work/asked.rc")" = 0; then
        same "$1" "$work/expected" "$work/asked"
    else
        fail "$1" "$work/asked.err"
    fi
}

answers_now()
{
    generate -q -p "$question" -n 10 --temperature 0 >"$work/actual" 2>"$work/actual.err"
    local_answer -q -p "$question" -n 10 --temperature 0 >"$work/ten" 2>&1
    same "$1" "$work/ten" "$work/actual"
}

coordinator_lives()
{
    ! ended coordinator
}

slow_workers()
{
    for name in $workers; do
        eval "options_$name='--test-pass-ms 10'"
    done
}

# ---- a worker is killed that the others cannot do without ----------------------------------------------

# Two boards of which one has too little memory for the model; the request waits for half a minute, and the rest of
# this test goes on meanwhile. A sanitizer's own memory is too much for such boards.
waits_for_beta()
{
    ask_status && grep -q -E "^cluster .*: waiting for workers: $lost" "$lab/status.txt"
}

if test "$sanitized" -eq 0; then
    new_cluster alpha beta
    cluster_keys="context: 512
slots: 4
heartbeat: 200 ms"
    keys_alpha="threads: 1
memory: 14 MiB"
    keys_beta=$keys_alpha
    slow_workers
    must_start
    bounded 60 "$shoal" generate -q -c "$lab/cluster.ini" -p "$question" -n 400 >"$work/hopeless" 2>"$work/hopeless.err" &
    hopeless=$!
    within 20 test -s "$work/hopeless"
    kill_program beta
    lost='beta \(lost: the connection broke\) .*: the model needs [0-9.]+ MiB for weights, KV and scratch; the cluster has 14\.0 MiB'
    check "killed without another in its place: status says whom it waits for, why, and what lacks" within 10 waits_for_beta
    check "and of the board why it was lost" grep -q -E '^beta +absent .* lost [0-9]+ s ago: the connection broke' \
        "$lab/status.txt"
    hopeless_lab=$lab
fi

# ---- a worker is killed, and comes back --------------------------------------------------------------

# queue_is_full N: do N requests wait?
queue_is_full()
{
    ask_status && grep -q " slots in use, $1 requests wait" "$lab/status.txt"
}

new_cluster alpha beta gamma
cluster_keys="context: 512
slots: 4
queue: 2
heartbeat: 200 ms
dead-after: $((patience * 2)) s"
slow_workers
must_start

ask_slowly
kill_program beta
answered "a worker killed in mid-answer: the answer goes on elsewhere"
check "the coordinator lives" coordinator_lives
answers_now "the next request is answered"
check "the dead worker is absent" has_state beta absent
start_worker beta --test-pass-ms 10
check "started again, it serves again" within 20 has_state beta serving
answers_now "the three answer again"

# ---- a worker falls silent ----------------------------------------------------------------------------

ask_slowly
signal gamma STOP
answered "a worker stopped in mid-answer: the answer goes on elsewhere"
check "the silent worker is absent" has_state gamma absent
says "its silence is the reason" "$lab/status.txt" '^gamma .* silent for '
signal gamma CONT
check "awake again, it serves again" within 20 has_state gamma serving
answers_now "the three answer once more"

# ---- clients --------------------------------------------------------------------------------------------

"$shoal" generate -q -c "$lab/cluster.ini" -p "$question" -n 400 --temperature 0 >"$work/gone" 2>&1 &
client=$!
within 20 test -s "$work/gone"
check "a request has a slot" within 10 slots_in_use 1
kill -KILL $client
check "its client killed, the slot is free again" within 15 slots_in_use 0

generate -p "$(long_prompt 60)" >"$work/out" 2>"$work/err"
one_error "a prompt longer than the context" $? 1 "$work/err" 'the prompt has [0-9]+ tokens, a slot 512 positions'
generate -q --prompts "$work/none" >"$work/out" 2>"$work/err"
one_error "no such file of prompts" $? 1 "$work/err" 'none'

# More than slots and queue hold: refused ones are asked again by the client, and the queue keeps its limit.
many_prompts 12 15 >"$work/race.prompts"
bounded 60 "$shoal" local -q -m "$model" --context 512 --prompts "$work/race.prompts" --json 2>&1 |
    without_times >"$work/many"
generate -q --prompts "$work/race.prompts" --json >"$work/race" 2>&1 &
crowd=$!
most=0
while kill -0 $crowd 2>/dev/null && ask_status; do
    waiting=$(sed -n 's/.* slots in use, \([0-9]*\) requests wait.*/\1/p' "$lab/status.txt")
    test "$waiting" -le "$most" || most=$waiting
    sleep 0.05
done
wait $crowd
without_times <"$work/race" >"$work/actual"
same "twelve requests at four slots and a queue of two: all are answered" "$work/many" "$work/actual"
check "the queue kept its limit" test "$most" -ge 1 -a "$most" -le 2

# Where others fill the queue nothing says when there will be room: one error, and the others go on. They are as
# many as slots and queue hold, so that it stays full for as long as the first of them take.
many_prompts 6 100 >"$work/six.prompts"
bounded 60 "$shoal" local -q -m "$model" --context 512 --prompts "$work/six.prompts" --json 2>&1 |
    without_times >"$work/six"
generate -q --prompts "$work/six.prompts" --json >"$work/race" 2>&1 &
crowd=$!
check "others fill the queue" within 20 queue_is_full 2
generate -p "one more" -n 1 >"$work/out" 2>"$work/err"
one_error "a queue full of others' requests" $? 1 "$work/err" 'the queue is full: 2 requests wait already'
wait $crowd
without_times <"$work/race" >"$work/actual"
same "and the others are answered" "$work/six" "$work/actual"

check "all end with status 0" stop_cluster

if test "$sanitized" -eq 0; then
    lab=$hopeless_lab
    wait "$hopeless"
    one_error "the request that waited ends with that reason" $? 1 "$work/hopeless.err" "no plan: waiting for workers: $lost"
    check "all of that cluster end with status 0" stop_cluster
fi
finish
