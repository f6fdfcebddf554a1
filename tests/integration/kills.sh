#!/bin/sh
# kill -9 of each worker in turn, with four requests in flight: while prompts are read, while text comes, while a
# board without a store is shipped its shard, while another worker is drained. The worker is started again; every
# request must end with the tokens of one process. Prints how long it took from the kill until the next token.
# SHOAL_KILLS=N kills N times (default 4, each moment once); docs/migration.md has the long form's result.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

kills=${SHOAL_KILLS-4}
seed=${SHOAL_SEED-1}

tokens=70
{
    echo "{\"prompt\":\"$(long_prompt 20)\",\"n\":$tokens,\"temperature\":0}"
    echo "{\"prompt\":\"$(long_prompt 16)And\",\"n\":$tokens,\"temperature\":0.8,\"seed\":3}"
    echo "{\"prompt\":\"But the king said unto\",\"n\":$tokens,\"temperature\":0}"
    echo "{\"prompt\":\"And the king said unto\",\"n\":$tokens,\"temperature\":0.8,\"seed\":4}"
} >"$work/prompts"
local_answer -q --json --prompts "$work/prompts" 2>"$work/err" | without_times >"$work/expected"

# below N: a number from 0 to N - 1.
below()
{
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    echo $((seed / 65536 % $1))
}

# hundredths N: so long.
hundredths()
{
    sleep "$(printf '0.%02d' "$1")"
}

resumed()
{
    grep -c ' resumed ' "$lab/coordinator.log"
}

more_resumed_than()
{
    test "$(resumed)" -gt "$1"
}

fetches()
{
    test -n "$(find "$lab/store-$1" -type f -size +200k 2>/dev/null)"
}

ask()
{
    rm -f "$work/rc"
    (
        bounded 100 "$shoal" generate -q -c "$lab/cluster.ini" --json --prompts "$work/prompts" >"$work/answers" \
            2>"$work/answers.err"
        echo $? >"$work/rc"
    ) &
}

has_answered()
{
    test -s "$work/rc"
}

# The moment comes, and $victim dies.
await_prefill()
{
    hundredths "$(below 25)"
}
await_decode()
{
    within 20 slots_in_use 4
    hundredths $((30 + $(below 60)))
}
await_shipping()
{
    kill_program "$victim"
    rm -rf "$lab/store-$victim"
    start_worker "$victim" --test-pass-ms 10
    within 30 fetches "$victim"
}
await_migration()
{
    within 20 slots_in_use 4
    other=$(echo "$workers" | tr ' ' '\n' | grep -v "^$victim$" | sed -n "$((1 + $(below 3)))p")
    bounded 60 "$shoal" drain -q -c "$lab/cluster.ini" "$other" >/dev/null 2>&1 &
    drain=$!
    hundredths "$(below 12)"
}

new_cluster alpha beta gamma delta
cluster_keys="context: 512
slots: 4
heartbeat: 200 ms
dead-after: $((patience * 2)) s"
placement_keys="use: all
exchange: star"
for name in $workers; do
    eval "options_$name='--test-pass-ms 10'"
done
must_start

k=0
right=0
while test "$k" -lt "$kills"; do
    victim=$(echo "$workers" | tr ' ' '\n' | sed -n "$((1 + k % 4))p")
    moment=$(echo prefill decode shipping migration | cut -d ' ' -f $((1 + (k + k / 4) % 4)))
    k=$((k + 1))
    within 60 all_serve
    ask
    await_$moment
    before=$(resumed)
    killed=$(ticks)
    kill_program "$victim"
    took="nothing paused"
    within 10 more_resumed_than "$before" && took="next token after $((($(ticks) - killed) * 10)) ms"
    start_worker "$victim" --test-pass-ms 10
    test "$moment" != migration || wait "$drain"
    if within 60 has_answered && without_times <"$work/answers" >"$work/actual" &&
        cmp -s "$work/expected" "$work/actual"; then
        pass "kill $k: $victim at $moment, $took"
        right=$((right + 4))
    else
        fail "kill $k: $victim at $moment, $took" "$work/answers" "$work/answers.err"
    fi
    test "$moment" != migration || bounded 20 "$shoal" undrain -q -c "$lab/cluster.ini" "$other" >/dev/null 2>&1
done
note "$right of $((4 * kills)) requests ended with the tokens of one process"
check "all end with status 0" stop_cluster
finish
