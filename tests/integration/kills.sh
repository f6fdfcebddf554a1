#!/bin/sh
# Whatever dies, hangs or is cut off, with four requests in flight, every request ends with the tokens of one process.
# What happens to a worker in turn: kill -9, SIGSTOP, all its packets lost; and kill -9 of the coordinator, whose
# clients go on. When: while prompts are read, while text comes, while a board without a store is shipped its shard,
# while another worker is drained. Then it is mended: started again, woken or connected. Prints how long it took
# until the next token: median and worst of each kind and moment, and beside them the bound: what noticing may take and
# reading the texts again. Waits beyond it are counted, and are no failure: the machine need not be quiet.
#   SHOAL_KILLS=N   N times each kind (default: four rounds that have each kind and each moment once)
#   SHOAL_KINDS=... some of: kill stop coordinator link
# docs/migration.md has the long form's result. Loss of packets takes root and network namespaces: the test then runs
# in one of its own, and each worker in another, at a bridge.
if test -z "${SHOAL_ISLAND-}" && unshare --net sh -c 'ip link set lo up && ip link add br0 type bridge &&
    ip link add veth0 type veth peer name veth1' 2>/dev/null; then
    SHOAL_ISLAND=1 exec unshare --net sh "$0" "$@"
fi
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

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

# when_resumed N: milliseconds of the clock when the Nth was, as the log says.
when_resumed()
{
    date -d "$(grep ' resumed ' "$lab/coordinator.log" | sed -n "$1s/ .*//p")" +%s%3N
}

fetches()
{
    test "$(stored_kib "$1")" -gt 200
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

# goes_on N: more requests than N were resumed, or there are none any more.
goes_on()
{
    test "$(resumed)" -gt "$1" || has_answered
}

# ---- networks ----------------------------------------------------------------------------------------

# A network for each worker, and this one at the bridge. The bridge has an address of its own: otherwise it takes that of a
# port, and another when this port is cut off, and the other workers' packets to the coordinator are lost with it.
make_networks()
{
    ip link set lo up && ip link add br0 address 02:00:00:00:00:01 type bridge forward_delay 0 &&
        ip addr add 10.77.1.1/24 dev br0 && ip link set br0 up || return 1
    n=10
    for name in $workers; do
        n=$((n + 1))
        unshare --net setpriv --pdeathsig KILL sleep infinity &
        holder=$!
        within 10 has_network "$holder" || return 1
        ip link add "to-$name" type veth peer name eth0 netns "$holder" &&
            ip link set "to-$name" master br0 up || return 1
        nsenter --net="/proc/$holder/ns/net" sh -c "ip link set lo up && ip addr add 10.77.1.$n/24 dev eth0 &&
            ip link set eth0 up" || return 1
        eval "inside_$name='nsenter --net=/proc/$holder/ns/net' host_$name=10.77.1.$n"
    done
    host=10.77.1.1
}

has_network()
{
    grep -q -x sleep "/proc/$1/comm" 2>/dev/null
}

# ---- what happens, and how it is mended ----------------------------------------------------------------

break_kill()
{
    kill_program "$victim"
}
mend_kill()
{
    start_worker "$victim" --test-pass-ms 10
}

break_stop()
{
    signal "$victim" STOP
}
mend_stop()
{
    if test $((k % 2)) -eq 0; then
        signal "$victim" CONT
    else
        kill_program "$victim"
        start_worker "$victim" --test-pass-ms 10
    fi
}

break_link()
{
    ip link set "to-$victim" nomaster
}
mend_link()
{
    ip link set "to-$victim" master br0
}

break_coordinator()
{
    kill_program coordinator
    start_coordinator
}
mend_coordinator()
{
    :
}

# ---- moments -------------------------------------------------------------------------------------------

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

# ---- one round -----------------------------------------------------------------------------------------

# strike KIND MOMENT N: the Nth time.
strike()
{
    kind=$1
    moment=$2
    k=$3
    victim=$(echo "$workers" | tr ' ' '\n' | sed -n "$((1 + k % 4))p")
    within 60 all_serve
    ask
    "await_$moment"
    before=$(resumed)
    struck=$(date +%s%3N)
    "break_$kind"
    took=-
    if within 30 goes_on "$before" && test "$(resumed)" -gt "$before"; then
        took=$(($(when_resumed "$((before + 1))") - struck))
    fi
    "mend_$kind"
    test "$moment" != migration || wait "$drain"
    said="$kind $k: $victim at $moment, next token after $took ms"
    right=0
    if within 60 has_answered && without_times <"$work/answers" >"$work/actual" &&
        cmp -s "$work/expected" "$work/actual"; then
        pass "$said"
        right=4
    else
        fail "$said" "$work/answers" "$work/answers.err"
    fi
    echo "$kind $moment $took $right" >>"$work/rounds"
    test "$moment" != migration || bounded 20 "$shoal" undrain -q -c "$lab/cluster.ini" "$other" >/dev/null 2>&1
}

# What reading all four texts again takes: the longest time to the first token of an undisturbed run whose prompts are
# the texts that the rounds end with, all at once, none of which the slots hold yet.
measure_replay()
{
    sed 's/^{"prompt":"\(.*\)","tokens":.*,"text":"\(.*\)","finish".*/{"prompt":"\1\2","n":1,"temperature":0}/' \
        "$work/expected" >"$work/known"
    bounded 60 "$shoal" generate -q -c "$lab/cluster.ini" --json --prompts "$work/known" >"$work/replayed" 2>"$work/err"
    replay=$(sed -n 's/.*"ttft_ms":\([0-9]*\).*/\1/p' "$work/replayed" | sort -n | tail -n 1)
    test "$(wc -l <"$work/replayed")" -eq 4 && test -n "$replay"
}

# bound KIND: in milliseconds. One that is silent is noticed after dead-after; whoever is lost, its other news are waited
# for (SETTLE_MS of coordinator/core_private.h). A coordinator is noticed by those that look for it, with pauses of up to
# a second (NET_BACKOFF_MAX_MS of net/socket_private.h); nobody is lost then.
bound()
{
    case $1 in
    coordinator) echo $((1000 + replay)) ;;
    stop | link) echo $((patience * 2000 + 200 + replay)) ;;
    *) echo $((200 + replay)) ;;
    esac
}

# The table: median and worst of each kind and moment.
report()
{
    note "$(printf '%-12s %-10s %6s %10s %10s %10s %10s %10s %10s' struck while times right 'median ms' 'worst ms' \
        'bound ms' beyond 'no pause')"
    for kind in $kinds; do
        for moment in prefill decode shipping migration; do
            grep "^$kind $moment " "$work/rounds" | sort -k 3,3n | awk -v kind="$kind" -v moment="$moment" -v bound="$(bound "$kind")" '
                { right += $4 }
                $3 == "-" { none++ }
                $3 != "-" { ms[++n] = $3; beyond += $3 > bound }
                END { if (NR) printf "%-12s %-10s %6d %10s %10s %10s %10d %10d %10d\n", kind, moment, NR,
                    right " of " 4 * NR, n ? ms[int((n + 1) / 2)] : "-", n ? ms[n] : "-", bound, beyond, none }' |
                comment
        done
        awk -v kind="$kind" '$1 == kind { right += $4; all += 4 }
            END { if (all) printf "%s: %d of %d requests ended with the tokens of one process\n", kind, right, all }' \
            "$work/rounds" | comment
    done
    note "bound: $((patience * 2)) s (dead-after) where one is silent, 0.2 s for other news, or 1 s in which workers look for their"
    note "coordinator again, and $replay ms for reading the texts again, which is the time to the first token of an undisturbed"
    note "run with all of them as prompts"
}

new_cluster alpha beta gamma delta
kinds=${SHOAL_KINDS-kill stop coordinator link}
if test -z "${SHOAL_ISLAND-}"; then
    skip "links that lose everything" "takes root and network namespaces"
    kinds=$(echo "$kinds" | sed 's/link//')
elif ! make_networks; then
    echo "Bail out! no networks for the workers"
    exit 99
fi
must_start_four 4 10
check "an undisturbed run reads the texts" measure_replay

if test -n "${SHOAL_KILLS-}"; then
    for kind in $kinds; do
        i=0
        while test "$i" -lt "$SHOAL_KILLS"; do
            strike "$kind" "$(echo prefill decode shipping migration | cut -d ' ' -f $((1 + (i + i / 4) % 4)))" "$i"
            i=$((i + 1))
        done
    done
else
    i=0
    for round in kill/shipping stop/decode link/migration coordinator/prefill; do
        i=$((i + 1))
        case " $kinds " in
        *" ${round%/*} "*) strike "${round%/*}" "${round#*/}" "$i" ;;
        esac
    done
fi
report
check "all end with status 0" stop_cluster
finish
