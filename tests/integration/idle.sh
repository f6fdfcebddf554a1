#!/bin/sh
# What a cluster costs when it does nothing, and whether the plan's memory figure is true: under 1 % of a
# core for each process over ten seconds, and, with the whole context used in all slots, a share of memory
# (Pss) that is not more than the plan's figure + 10 % + 16 MiB, and of which the plan's figure is at most
# 1.25 times + 16 MiB. A sanitizer costs time and memory of its own, so such a build leaves this out.
# Alone: it counts the processor time of programs that do nothing.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

if test "$sanitized" -ne 0; then
    echo "1..0 # SKIP a sanitizer costs processor time and memory of its own"
    exit 0
fi

# Hundredths of a second of processor time that a process has used. Its name may hold blanks.
used_ticks()
{
    sed 's/.*) //' "/proc/$(pid_of "$1")/stat" | awk -v hz="$(getconf CLK_TCK)" '{ print int(($12 + $13) * 100 / hz) }'
}

# Bytes, from smaps_rollup.
pss_of()
{
    awk '$1 == "Pss:" { print $2 * 1024 }' "/proc/$(pid_of "$1")/smaps_rollup"
}

# planned_of NAME: bytes by the plan in force.
planned_of()
{
    awk -v name="$1" '
        BEGIN { m["B"] = 1; m["KiB"] = 1024; m["MiB"] = 1048576; m["GiB"] = 1073741824 }
        $4 == name { printf "%.0f\n", $7 * m[$8] }' "$work/plan"
}

# Every slot to its last position, all at once.
fill_all_slots()
{
    n=0
    while test "$n" -lt 32; do
        n=$((n + 1))
        printf '{"prompt":"%d. %s","temperature":0}\n' "$n" "$(long_prompt 28)"
    done >"$work/prompts"
    generate -q --prompts "$work/prompts" --json >"$work/full" 2>&1 && test "$(grep -c '"finish":"length"' "$work/full")" -eq 32
}

new_cluster alpha beta gamma
cluster_keys="context: 512
slots: 32"
must_start
sleep 2
for name in coordinator $workers; do
    used_ticks "$name" >"$work/before-$name"
done
sleep 10
for name in coordinator $workers; do
    used=$(($(used_ticks "$name") - $(cat "$work/before-$name")))
    check "$name: idle under 1 % of a core" test "$used" -lt 10
    note "$name used $used hundredths of a second in ten seconds"
done

bounded 30 "$shoal" plan -c "$lab/cluster.ini" >"$work/plan" 2>&1
check "every slot is filled to the end of the context" fill_all_slots
for name in $workers; do
    pss=$(pss_of "$name")
    planned=$(planned_of "$name")
    note "$name: planned $((planned / 1024)) KiB, measured $((pss / 1024)) KiB"
    check "$name: memory is within the plan" test "$pss" -lt $((planned / 10 * 11 + 16777216))
    check "$name: the plan does not exaggerate" test "$planned" -le $((pss / 4 * 5 + 16777216))
done
check "all end with status 0" stop_cluster
finish
