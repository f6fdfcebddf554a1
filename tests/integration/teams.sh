#!/bin/sh
# Teams, with real processes: clusters whose boards split heads and columns give the tokens and the logits of one
# process, in a star and in a mesh, one team or a ring of teams, of demo and random models whose heads do not go
# into the boards evenly; requests at the same time; and a member that is killed in mid-answer, whoever it is,
# takes nothing away.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

prompt="In the beginning God created the heaven and the earth. And the earth was without form, and void."

# compare WHAT: tokens of a request alone, of eight at once, and hashes of all logits.
compare()
{
    generate -q --json -p "$prompt" -n 40 --seed 7 | without_times >"$work/actual"
    local_answer -q --json -p "$prompt" -n 40 --seed 7 | without_times >"$work/expected"
    same "$1: sampled tokens" "$work/expected" "$work/actual"
    many_prompts 8 24 >"$work/prompts"
    generate -q --json --prompts "$work/prompts" | without_times >"$work/actual"
    local_answer -q --json --prompts "$work/prompts" | without_times >"$work/expected"
    same "$1: eight requests at once" "$work/expected" "$work/actual"
    bounded 60 "$shoal" logits -c "$lab/cluster.ini" -p "$prompt" --json >"$work/actual" 2>&1
    "$shoal" logits -m "$model" -p "$prompt" --json >"$work/expected"
    same "$1: logits of a prompt" "$work/expected" "$work/actual"
}

# try_team WHAT SHAPE "NAME=KEYS"...: a cluster of these workers
try_team()
{
    what=$1
    exchange=$2
    shift 2
    names=
    for worker_keys in "$@"; do
        names="$names ${worker_keys%%=*}"
    done
    # Word splitting is wanted: these are names.
    new_cluster $names
    for worker_keys in "$@"; do
        eval "keys_${worker_keys%%=*}=\"threads: 1
\${worker_keys#*=}\""
    done
    placement_keys="use: all
exchange: $exchange
$granularity"
    if start_cluster; then
        check "$what: all serve" within 20 all_serve
        says "$what: a $exchange" "$lab/status.txt" " $exchange "
        compare "$what"
    else
        fail "$what: the cluster starts" "$lab/status.txt" "$lab/status.err"
    fi
    check "$what: all end with status 0" stop_cluster
}

granularity="granularity: heads"
try_team "a star of four" star alpha= beta= gamma= delta=
try_team "a mesh of three, of another number of heads each" mesh "alpha=heads: 4" "beta=heads: 3" "gamma=heads: 1"
if test "$short" -eq 0; then
    granularity=
    try_team "a ring of two meshes" mesh "alpha=layers: 0-3" "beta=layers: 0-3" "gamma=layers: 4-7" "delta=layers: 4-7"
    granularity="granularity: heads"
    for shape in smollm qwen2 gemma3; do
        demo=$model
        model=$work/$shape.gguf
        "$SHOAL_BUILDDIR/tests/tools/make_model" "$model" "$shape" Q4_K >"$work/said" 2>&1
        prompt="in the beginning was the sea and the sea was dark and no one said a word of it"
        try_team "$shape in a star of three" star alpha= beta= gamma=
        model=$demo
    done
fi

# Whoever dies, the leader or a member, the others take over and the text is the same.
new_cluster alpha beta gamma
placement_keys="use: all
granularity: heads
exchange: star"
cluster_keys="context: 512
slots: 8
heartbeat: 200 ms
dead-after: 2 s"
for name in $workers; do
    eval "options_$name='--test-pass-ms 20'"
done
must_start
local_answer -q --json -p "$prompt" -n 240 --temperature 0 | without_times >"$work/expected"
for victim in alpha gamma; do
    generate -q --json -p "$prompt" -n 240 --temperature 0 >"$work/answer" 2>"$work/answer.err" &
    reader=$!
    check "a request is at work" within 20 slots_in_use 1
    sleep 1
    kill_program "$victim"
    wait "$reader"
    without_times <"$work/answer" >"$work/actual"
    same "$victim is killed in mid-answer: the same tokens" "$work/expected" "$work/actual"
    start_worker "$victim" --test-pass-ms 20
    check "$victim is taken in again" within 40 all_serve
done
# Nobody looks at the connections of a team that has nothing to do.
kill_program gamma
start_worker gamma
check "one that was started again while nothing ran is taken in at once" within 20 all_serve
check "all end with status 0" stop_cluster
finish
