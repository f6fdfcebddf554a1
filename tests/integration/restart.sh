#!/bin/sh
# The coordinator is killed while requests are in flight, and started again: with some of them in the
# queue, in the middle of prompts, in the middle of answers, twice in a row before it serves. Their clients
# are the same processes before and after, and every answer is the one that `shoal local` gives. A drained
# worker stays drained, but where there is no other. Restarted with another kv it refuses to go on, by name.
# SHOAL_TEST_LONG=1 adds moments at random, and a coordinator
# that does not come back.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

journal_is_longer_than()
{
    test "$(wc -c <"$lab/state/journal")" -gt "$1"
}

# grows N: by so many bytes; a token takes 45.
grows()
{
    grown=$(($(wc -c <"$lab/state/journal") + $1))
    within 30 journal_is_longer_than "$grown"
}

# ask: the four requests in the background.
ask()
{
    rm -f "$work/asked.rc"
    (
        bounded 100 "$shoal" generate -q -c "$lab/cluster.ini" --prompts "$work/prompts" --json >"$work/asked" \
            2>"$work/asked.err"
        echo $? >"$work/asked.rc"
    ) &
}

has_answered()
{
    test -s "$work/asked.rc"
}

n_kept()
{
    grep -c ' kept ' "$lab/coordinator.log"
}

kept_more_than()
{
    test "$(n_kept)" -gt "$1"
}

n_plans()
{
    grep -c ' commit ' "$lab/coordinator.log"
}

more_plans_than()
{
    test "$(n_plans)" -gt "$1"
}

restart()
{
    before=$(n_kept)
    kill_program coordinator
    start_coordinator
    within 20 kept_more_than "$before"
}

answered()
{
    within 100 has_answered
    without_times <"$work/asked" >"$work/actual"
    if test "$(cat "$work/asked.rc")" = 0; then
        same "$1" "$work/expected" "$work/actual"
    else
        fail "$1" "$work/asked.err" "$work/asked"
    fi
}

# went_on N: the last start took up N requests, with tokens.
went_on()
{
    grep ' kept ' "$lab/coordinator.log" | tail -n 1 | grep -q -E "requests=$1 tokens=[1-9][0-9]* finished=[0-9]* dropped=0"
}

tokens=40
{
    echo "{\"prompt\":\"$(long_prompt 18)\",\"n\":$tokens,\"temperature\":0}"
    echo "{\"prompt\":\"And the king said\",\"n\":$tokens,\"temperature\":0.9,\"seed\":7}"
    echo "{\"prompt\":\"In the beginning\",\"n\":$tokens,\"temperature\":0}"
    echo "{\"prompt\":\"$(long_prompt 15)\",\"n\":$tokens,\"temperature\":0.7,\"seed\":11,\"stop\":[\"xyzzy\"]}"
} >"$work/prompts"
local_answer -q --prompts "$work/prompts" --json 2>&1 | without_times >"$work/expected"

new_cluster alpha beta
cluster_keys="context: 512
slots: 3
chunk: 16"
for name in $workers; do
    eval "options_$name='--test-pass-ms 10'"
done
must_start

# Three deaths: as soon as the first of them is written down; in mid-answer, with one in the queue; and once
# more before there is a plan.
ask
grows 100
restart
grows 2000
restart
check "in mid-answer: all four go on with what they have" went_on 4
restart
check "before it serves: all four go on" went_on 4
answered "the coordinator killed three times: the answers are the ones"

bounded 60 "$shoal" drain -q -c "$lab/cluster.ini" beta >/dev/null 2>&1
ask
grows 2000
restart
answered "killed while a worker is drained: the answers are the ones"
check "which stays drained" has_state beta drained
bounded 20 "$shoal" drain -q -c "$lab/cluster.ini" alpha >/dev/null 2>"$work/err"
says "the last one that serves cannot be" "$work/err" 'alpha cannot be drained: no other worker may serve'

# Times of profiles that were just measured.
n_measured()
{
    grep -c ' profiled .* age_ms=0$' "$lab/coordinator.log"
}
check "workers that lived on were measured once" test "$(n_measured)" -eq 2

ask
grows 4000
kill_program coordinator
sed -i 's/^context: 512/&\nkv: f32/; s/^\[worker alpha\]/&\nexclude: yes/' "$lab/cluster.ini"
start_coordinator
within 30 has_answered
check "started with another kv: status 1" test "$(cat "$work/asked.rc")" = 1
says "and the reason" "$work/asked" '"error":"the coordinator was restarted with another kv'
check "which it logs" grep -q -E 'kept refused=[1-9]' "$lab/coordinator.log"
check "a drained worker that is the only one left is taken again" within 30 has_state beta serving
check "measured anew, since other settings ask for it" test "$(n_measured)" -eq 3

if test "${SHOAL_TEST_LONG:-0}" -ne 0; then
    sed -i '/^kv: f32/d; /^exclude: yes/d' "$lab/cluster.ini"
    signal coordinator TERM
    within 10 ended coordinator
    start_coordinator
    within 30 is_serving
    ask
    grows 4000
    signal coordinator TERM
    within 10 ended coordinator
    start_coordinator
    answered "stopped in good order, and started"
    n=0
    rm -f "$work/pauses"
    while test "$n" -lt "${SHOAL_TEST_LONG}"; do
        n=$((n + 1))
        ask
        grows 100
        sleep "$(awk -v seed="$n$$" 'BEGIN { srand(seed); printf "%.2f", 3 * rand() }')"
        plans=$(n_plans)
        killed=$(ticks)
        restart
        within 30 more_plans_than "$plans"
        echo $(($(ticks) - killed)) >>"$work/pauses"
        answered "killed at a random moment, the $n. time: $(grep ' kept ' "$lab/coordinator.log" | tail -n 1 | sed 's/.*kept //')"
    done
    note "from the kill to a plan in force, median and worst: $(sort -n "$work/pauses" |
        awk '{ a[NR] = $1 / 100 } END { printf "%.2f s, %.2f s of %d", a[int((NR + 1) / 2)], a[NR], NR }')"
    ask
    grows 4000
    kill_program coordinator
    within 100 has_answered
    says "a coordinator that does not come back" "$work/asked.err" 'lost the coordinator'
    start_coordinator
fi
check "all end with status 0" stop_cluster
finish
