#!/bin/sh
# One text: whatever the cluster looks like, tokens and logits are the bits of one process. Every cut of
# the demo model's eight layers into two and into three stages, one after the other on a running cluster,
# whose coordinator reads new pins on SIGHUP; then one cut with other chunks, slots, threads and kernels,
# mixed, each cluster started anew. In a sanitized build a sample of the cuts.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

# ask_file PROMPT and ask_cluster PROMPT: logits of every prompt position, then eight greedy tokens.
ask_file()
{
    "$shoal" logits -m "$model" -p "$1" --json
    local_answer --json -p "$1" -n 8 --temperature 0 -q | without_times
}

ask_cluster()
{
    bounded 60 "$shoal" logits -c "$lab/cluster.ini" -p "$1" --json
    generate --json -p "$1" -n 8 --temperature 0 -q | without_times
}

# compare NAME PROMPT EXPECTED: start the cluster, compare, and stop it.
compare()
{
    if start_cluster; then
        ask_cluster "$2" >"$work/actual" 2>&1
        same "$1" "$3" "$work/actual"
    else
        fail "$1: the cluster starts" "$lab/status.txt" "$lab/status.err"
    fi
    stop_cluster >/dev/null || fail "$1: all end with status 0"
    rm -f "$lab"/*.log
}

# pin NAME FIRST LAST [KEYS]
pin()
{
    eval "pinned_$1=$2-$3"
    eval "keys_$1=\"layers: $2-$3
\${4-threads: 1}\""
}

# Every worker serves the layers that it is pinned to.
pins_hold()
{
    is_serving || return 1
    for name in $workers; do
        eval "layers=\$pinned_$name"
        row "$name" | grep -q -E "^$name +serving +$layers " || return 1
    done
}

# recut NAME PROMPT EXPECTED: put the pins in force, and compare.
recut()
{
    write_config
    signal coordinator HUP
    if within 20 pins_hold; then
        ask_cluster "$2" >"$work/actual" 2>&1
        same "$1" "$3" "$work/actual"
    else
        fail "$1: the pins are followed" "$lab/status.txt" "$lab/status.err"
    fi
}

prompt=$(long_prompt 3)
ask_file "$prompt" >"$work/expected" 2>&1
says "the reference has hashes" "$work/expected" '"hash":"[0-9a-f]{32}".*"hash":'

# ---- two stages ----------------------------------------------------------------------------------------

new_cluster alpha beta
must_start
for a in 1 2 3 4 5 6 7; do
    if test "$short" -ne 0 && test "$a" -ne 3; then
        continue
    fi
    pin alpha 0 $((a - 1))
    pin beta "$a" 7
    recut "two stages, cut at $a" "$prompt" "$work/expected"
done
check "two workers end with status 0" stop_cluster

# ---- three stages ---------------------------------------------------------------------------------------

new_cluster alpha beta gamma
must_start
for a in 1 2 3 4 5 6; do
    b=$a
    while test "$b" -lt 7; do
        b=$((b + 1))
        case $short:$a-$b in
        0:* | 1:1-2 | 1:2-7 | 1:6-7) ;;
        *) continue ;;
        esac
        # The ring's order is that of the layers, not that of the names.
        pin gamma 0 $((a - 1))
        pin alpha "$a" $((b - 1))
        pin beta "$b" 7
        recut "three stages, cut at $a and $b" "$prompt" "$work/expected"
    done
done
check "three workers end with status 0" stop_cluster

# ---- one cut in other ways --------------------------------------------------------------------------------

head -n 1 "$work/expected" >"$work/best"
"$shoal" logits -m "$model" --kernels generic --chunk 7 -t 3 -p "$prompt" --json >"$work/generic" 2>&1
same "generic kernels, chunk 7, three threads in one process" "$work/best" "$work/generic"

# vary NAME "CLUSTER KEYS" "KEYS OF alpha" "KEYS OF beta" "KEYS OF gamma"
vary()
{
    cluster_keys="context: 512
$2"
    pin alpha 0 1 "$3"
    pin beta 2 4 "$4"
    pin gamma 5 7 "$5"
    compare "$1" "$prompt" "$work/expected"
}

vary "threads 1, 2 and 3" "slots: 3" "threads: 1" "threads: 2" "threads: 3"
if test "$short" -eq 0; then
    vary "threads 4, 2 and 1, generic kernels on two workers" "chunk: 20
slots: 16" "threads: 4" "threads: 2
kernels: generic" "threads: 1
kernels: generic"
fi

# Many chunks of seven rows, and part of one of 512.
prompt=$(long_prompt 24)
ask_file "$prompt" >"$work/expected" 2>&1
vary "chunk 1, one slot" "chunk: 1
slots: 1" "threads: 1" "threads: 1" "threads: 1"
vary "chunk 7, generic kernels on one worker" "chunk: 7" "kernels: generic" "threads: 1" "threads: 1"
vary "chunk 512, sixteen slots" "chunk: 512
slots: 16" "threads: 1" "threads: 1" "threads: 1"
finish
