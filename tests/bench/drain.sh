#!/bin/sh
# How long a text stops when a board is drained in the middle of it: 4 boards of deploy/lab.sh behind links of
# 1 Gbit/s and 0.2 ms, as one team and as a pipeline of two teams, eight requests in flight, one board drained.
# For each request its pause beside the bound 1.5 x (KV bytes moved / link) + 2 x the time of a token before +
# 100 ms, and whether its tokens are those of an undisturbed run. Needs root; docs/migration.md has a result.
#
#   SHOAL_BUILDDIR=build sh tests/bench/drain.sh MODEL [TOKENS]        (64 tokens by default)
model=$(realpath "${1?usage: drain.sh MODEL [TOKENS]}")
. "$(dirname "$0")/lab_lib.sh"
tokens=${2-64}

for n in 1 2 3 4 5 6 7 8; do
    echo "{\"prompt\":\"boats $n were on the sea and the wind\",\"n\":$tokens,\"temperature\":0.$((n % 2 * 8)),\"seed\":$n}"
done >"$work/prompts"

answer()
{
    ask generate -q -c "$work/cluster.ini" --prompts "$work/prompts" --json >"$work/$1.json"
    sed 's/,"ttft_ms".*//' "$work/$1.json" >"$work/$1"
}

# one_case WHAT DRAINED PLACEMENT
one_case()
{
    write_config 256 "use: all
exchange: star
$3"
    start_cluster
    answer undisturbed
    token=$(sed 's/.*"tokens_per_s":\([0-9.e+-]*\).*/\1/' "$work/undisturbed.json" |
        awk '{ sum += 1000 / $1 } END { print sum / NR }')
    (answer disturbed) &
    answering=$!
    until ask status -q -c "$work/cluster.ini" | grep -q '; 8 of 8 slots in use'; do
        :
    done
    sleep 2
    began=$(date +%s.%N)
    ask drain -q -c "$work/cluster.ini" "$2" 2>"$work/drained" || {
        cat "$work/drained" >&2
        exit 1
    }
    took=$(echo "$(date +%s.%N) $began" | awk '{ printf "%.1f", $1 - $2 }')
    wait "$answering"
    equal=no
    ! cmp -s "$work/undisturbed" "$work/disturbed" || equal=yes
    moved=$(sed -n 's/.* moved="\([^"]*\) in \([0-9]*\) ms" rounds=\([0-9]*\).*/\1|\2|\3/p' "$work/coordinator.log" | tail -n 1)
    sed -n 's/.* resumed order=[0-9]* pause_ms=\([0-9]*\) rows=\([0-9]*\) run=\([0-9]*\)$/\1 \2 \3/p' \
        "$work/coordinator.log" | tail -n 8 >"$work/pauses"
    echo "$moved" | tr '|' ' ' | awk -v what="$1" -v took="$took" -v equal="$equal" -v token="$token" -v pauses="$work/pauses" '
        {
            unit["B"] = 1; unit["KiB"] = 1024; unit["MiB"] = 1048576
            bytes = $1 * unit[$2]
            bound = 1500 * bytes / 125e6 + 2 * token + 100
            while ((getline line <pauses) > 0) {
                split(line, p, " ")
                list = list (list == "" ? "" : " ") p[1]
                worst = p[1] > worst ? p[1] : worst
                run = p[3] > run ? p[3] : run
            }
            printf "%s,%s s,%.1f MiB,%s,%d,%.0f,%d,%s,%.0f,%s\n", what, took, bytes / 1048576, $4, run, token, worst, list, bound, equal
        }'
    stop_cluster
}

"$build/shoal" keygen -q "$work/keys" coordinator client $names >/dev/null
lab up 4 --rate 1gbit --delay 0.2ms --slow node1=30% --slow node2=30% --slow node3=30% --slow node4=30% >"$work/lab.log" 2>&1 || {
    cat "$work/lab.log" >&2
    exit 1
}
echo "plan,until drained,KV moved,rounds,rows run again,ms a token before,worst pause ms,pauses ms,bound ms,same tokens"
one_case "one team of four" node3 "granularity: heads"
keys_node1="layers: 0-10"
keys_node2=$keys_node1
keys_node3="layers: 11-21"
keys_node4=$keys_node3
one_case "a pipeline of two teams" node4 ""
