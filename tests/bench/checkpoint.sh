#!/bin/sh
# How long a text stops when a board dies behind it, without copies of KV rows and with them: 4 boards of
# deploy/lab.sh of 30 % of a core behind links of 1 Gbit/s and 0.2 ms, one stage each; one request with a long prompt,
# and kill -9 of the third board in the middle of its answer. What the other three need is in their stores by then,
# and is planned for. Needs root; docs/migration.md has a result.
#
#   SHOAL_BUILDDIR=build sh tests/bench/checkpoint.sh MODEL [SENTENCES]        (of the prompt; 16 by default)
model=$(realpath "${1?usage: checkpoint.sh MODEL [SENTENCES]}")
. "$(dirname "$0")/lab_lib.sh"

n=0
while test "$n" -lt "${2-16}"; do
    n=$((n + 1))
    printf 'On day %d of the year they saw %d boats on the sea and the wind. ' "$n" "$((n * 7 % 90 + 10))"
done >"$work/prompt"

# logs COUNT EXPRESSION: the coordinator has said so that often.
logs()
{
    test "$(grep -c "$2" "$work/coordinator.log")" -ge "$1"
}

# until_it COMMAND...: wait for it, a minute or two.
until_it()
{
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        if test "$tries" -gt 1200 || ! kill -0 "${asking-$$}" 2>/dev/null; then
            echo "in vain: $*" >&2
            exit 1
        fi
        sleep 0.1
    done
}

has_text()
{
    test -s "$work/$1" && test "$(wc -c <"$work/$1")" -gt 100
}

stocked()
{
    for name in $names; do
        tail -n 3 "$work/$name.log" | grep -q ' stock .*fetched=' || return 1
    done
}

# one_case POSITIONS
one_case()
{
    write_config 2048 "use: all
granularity: layers
checkpoint: $1"
    : >"$work/coordinator.log"
    start_cluster
    until_it logs 4 'forecast without='
    until_it stocked
    test "$1" -eq 0 || until_it logs 4 ' checkpoint .*keeper='
    ask generate -q -c "$work/cluster.ini" -p "$(cat "$work/prompt")" -n 100 --temperature 0 >"$work/text-$1" &
    asking=$!
    until_it has_text "text-$1"
    pkill -KILL -f "$work/cluster.ini --name node3"
    wait "$asking"
    unset asking
    sed -n 's/.* resumed .*pause_ms=\([0-9]*\) rows=\([0-9]*\) run=\([0-9]*\)$/\2,\3,\1/p' "$work/coordinator.log" |
        sed "s/^/$1,/"
    stop_cluster
}

"$build/shoal" keygen -q "$work/keys" coordinator client $names >/dev/null
lab up 4 --rate 1gbit --delay 0.2ms --slow node1=30% --slow node2=30% --slow node3=30% --slow node4=30% >"$work/lab.log" 2>&1 || {
    cat "$work/lab.log" >&2
    exit 1
}
echo "checkpoint,rows of the text,rows run again,pause ms"
one_case 0
one_case 32
if cmp -s "$work/text-0" "$work/text-32"; then
    echo "the same text"
else
    echo "another text"
    exit 1
fi
