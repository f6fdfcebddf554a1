#!/bin/sh
# Many worlds of the simulator on all cores: the long form of test_sim. Prints what they were made of,
# the longest time from the last fault's end to the end of all requests, and each world that breaks a
# promise; ends with 1 where one does.
#
#   tests/sim/soak.sh BUILD [SEEDS [FIRST]]      (default: 20000 from 0 on)
set -eu

build=${1:?usage: soak.sh BUILD [SEEDS [FIRST]]}
seeds=${2:-20000}
first=${3:-0}
program=$build/tests/sim/test_sim
cores=$(getconf _NPROCESSORS_ONLN)
share=500
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-soak-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

test -x "$program" || make -s -C "$build" tests/sim/test_sim
began=$(date +%s)
cp "$program" "$work/test_sim" # nobody's build changes it on the way
at=$first
while test "$at" -lt $((first + seeds)); do
    n=$((first + seeds - at < share ? first + seeds - at : share))
    echo "$at $n"
    at=$((at + n))
done >"$work/parts"

export work
xargs -P "$cores" -L 1 sh -c 'SIM_REPORT=1 SIM_FIRST=$0 SIM_SEEDS=$1 "$work/test_sim" >"$work/$0.out" 2>&1 || :' \
    <"$work/parts"
took=$(($(date +%s) - began))

sed -n 's/^# worlds=/worlds=/p' "$work"/*.out | awk -v took="$took" -v seeds="$seeds" -v first="$first" '
    {
        for (i = 1; i <= NF; i++) {
            split($i, f, "=")
            if (f[1] == "worst_s") {
                if (f[2] > worst) { worst = f[2]; split($(i + 1), g, "="); seed = g[2] }
            } else if (f[1] != "worst_seed") {
                if (!(f[1] in sum) && i > 3 && f[1] !~ /_rows$/) names[++n] = f[1]
                sum[f[1]] += f[2]
            }
        }
    }
    END {
        printf "seeds %d to %d: %d runs (every tenth world runs twice), %.1f million events, %d s\n",
            first, first + seeds - 1, sum["worlds"], sum["events"] / 1e6, took
        printf "plans put in force: %d, KV rows moved: %d, copied: %d, texts went on behind %d\nfaults:",
            sum["plans"], sum["moved_rows"] - sum["copied_rows"], sum["copied_rows"], sum["saved_rows"]
        for (i = 1; i <= n; i++) printf "%s %s %d", (i > 1 ? "," : ""), names[i], sum[names[i]]
        printf "\nlongest from the last fault to the end of all requests: %.1f s (seed %d)\n", worst, seed
    }'

# A part that ended early has no report.
findings=0
while read -r at n; do
    if ! grep -q '^# worlds=' "$work/$at.out"; then
        findings=$((findings + 1))
        echo "seeds from $at on:"
        grep -E '^# (seed|replay|the world)' "$work/$at.out" || tail -n 5 "$work/$at.out"
    elif grep -q '^\[  FAILED' "$work/$at.out"; then
        findings=$((findings + 1))
        grep '^\[  FAILED' "$work/$at.out"
    fi
done <"$work/parts"
echo "findings: $findings"
test $findings -eq 0
