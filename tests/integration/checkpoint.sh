#!/bin/sh
# Copies of KV rows: with `checkpoint` workers have copies of each other's, and when one is killed behind a long text
# only the rows behind the copy are run again. The tokens are those of one process. Without it all rows are.
#   SHOAL_CHECKPOINT=0   with the feature off: the test then says what it is for, and fails
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

tokens=60
{
    echo "{\"prompt\":\"$(long_prompt 20)\",\"n\":$tokens,\"temperature\":0}"
    echo "{\"prompt\":\"$(long_prompt 18)And\",\"n\":$tokens,\"temperature\":0.8,\"seed\":3}"
} >"$work/prompts"
local_answer -q --json --prompts "$work/prompts" 2>"$work/err" | without_times >"$work/expected"

# keepers N: so many workers' rows are kept.
keepers()
{
    test "$(grep -c ' checkpoint .*keeper=' "$lab/coordinator.log")" -ge "$1"
}

# is_copied N: so many workers' rows of both prompts, of about 300 tokens each, are with another.
is_copied()
{
    ask_status && awk -v least="$1" '/ has a copy of / && $6 >= 500 { n++ } END { exit n < least }' "$lab/status.txt"
}

# killed_behind_a_text WHAT NAME SHARES: of so many workers with KV heads.
killed_behind_a_text()
{
    check "$1: three workers serve" within 60 is_serving
    check "$1: each has somebody who keeps a copy" within 30 keepers "$3"
    bounded 100 "$shoal" generate -q -c "$lab/cluster.ini" --json --prompts "$work/prompts" >"$work/answers" \
        2>"$work/answers.err" &
    asker=$!
    check "$1: the prompts' rows are copied while text comes" within 20 is_copied "$3"
    kill_program "$2"
    wait "$asker" || note "exit status $?: $(cat "$work/answers.err")"
    without_times <"$work/answers" >"$work/actual"
    same "$1: the tokens of one process" "$work/expected" "$work/actual"
    sed -n 's/.* resumed .*pause_ms=\([0-9]*\) rows=\([0-9]*\) run=\([0-9]*\)$/\1 \2 \3/p' "$lab/coordinator.log" \
        >"$work/resumed"
    note "$1: of $2: $(awk '{ printf "%d of %d rows run again after %d ms; ", $3, $2, $1 }' "$work/resumed")"
    check "$1: both texts went on, and few rows were run again" \
        awk '{ n++; if ($2 < 180 || $3 > 60) bad = 1 } END { exit bad || n != 2 }' "$work/resumed"
    check "$1: neither counts as read again" \
        test "$(grep -c ' request_done .* replays=0' "$lab/coordinator.log")" -eq 2
    check "$1: all end with status 0" stop_cluster
}

configure()
{
    placement_keys="use: all
granularity: $1
checkpoint: ${SHOAL_CHECKPOINT-16}"
    cluster_keys="context: 512
slots: 2
report: 200 ms
heartbeat: 200 ms
dead-after: $((patience * 2)) s"
    for name in $workers; do
        eval "options_$name='--test-pass-ms 20'"
    done
}

new_cluster alpha beta gamma
configure layers
must_start
killed_behind_a_text "a pipeline" beta 3

if test "$short" -eq 0; then
    new_cluster alpha beta gamma
    configure heads
    keys_alpha="threads: 1
heads: 4"
    must_start
    other=$(sed -n 's/.* planned name=\([bg][a-z]*\) .* heads=[1-9].*/\1/p' "$lab/coordinator.log" | head -n 1)
    killed_behind_a_text "a team" "$other" 2
fi
finish
