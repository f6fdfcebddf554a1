#!/bin/sh
# What workers keep: a worker that comes back is not shipped its pieces again; a damaged piece is found by
# --verify-store and fetched anew; shipping that was interrupted, at either end, goes on where it was; a
# store too small is said before anything is shipped. Layers are pinned, so that every plan has the same.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

question="In the beginning"
local_answer -q -p "$question" -n 10 --temperature 0 >"$work/ten" 2>&1

answers_now()
{
    generate -q -p "$question" -n 10 --temperature 0 >"$work/actual" 2>"$work/actual.err"
    same "$1" "$work/ten" "$work/actual"
}

# shipped_bytes: of the last status, as a number.
shipped_bytes()
{
    shipped | awk '{ m["B"] = 1; m["KiB"] = 1024; m["MiB"] = 1048576; printf "%d\n", $1 * m[$2] }'
}

# verify NAME: exit status of --verify-store; what it said is in $work/verified.
verify()
{
    bounded 60 "$worker" -c "$lab/cluster.ini" --name "$1" --verify-store >"$work/verified" 2>&1
}

pack_of()
{
    find "$lab/store-$1" -type f -size +64k | head -n 1
}

# flip FILE OFFSET: change one byte.
flip()
{
    byte=$(od -A n -t u1 -j "$2" -N 1 "$1" | tr -d ' ')
    # The format holds an octal escape that printf makes a byte of.
    printf "\\$(printf '%03o' $((byte ^ 255)))" | dd of="$1" bs=1 seek="$2" count=1 conv=notrunc 2>/dev/null
}

new_cluster alpha beta
cluster_keys="context: 512
slots: 4
heartbeat: 200 ms
dead-after: $((patience * 2)) s"
keys_alpha="layers: 0-3"
keys_beta="layers: 4-7"
must_start
whole=$(shipped_bytes)
check "the first start ships the model" test "$whole" -gt 7000000

# ---- a worker that comes back -------------------------------------------------------------------------

kill_program beta
check "without it there is no plan" within 20 has_state beta absent
(
    bounded 60 "$shoal" generate -q -c "$lab/cluster.ini" -p "$question" -n 10 --temperature 0 >"$work/waited" 2>&1
    echo $? >"$work/waited.rc"
) &
start_worker beta
check "a worker killed and started again serves" within 30 all_serve
check "its pieces are not shipped again" test "$(shipped)" = "0 B"
within 30 test -s "$work/waited.rc"
same "a request that had waited for it is answered" "$work/ten" "$work/waited"

# ---- damage ----------------------------------------------------------------------------------------------

stop_cluster >/dev/null || fail "all end with status 0"
verify beta
check "a sound store verifies with status 0" test $? -eq 0
says "and says how many pieces are in it" "$work/verified" '^[1-9][0-9]* pieces checked, 0 damaged$'
pack=$(pack_of beta)
flip "$pack" $(($(wc -c <"$pack") / 2))
verify beta
check "a damaged store verifies with status 1" test $? -eq 1
says "and the damage is counted" "$work/verified" '^[1-9][0-9]* pieces checked, 1 damaged and removed'
verify beta
check "the damaged piece is removed" test $? -eq 0
must_start
fetched=$(shipped_bytes)
check "only the damaged piece is fetched again" test "$fetched" -gt 0 -a "$fetched" -lt 1000000
answers_now "and the answer is right"
stop_cluster >/dev/null || fail "all end with status 0 after damage"

# ---- interrupted shipping -----------------------------------------------------------------------------------

has_begun()
{
    test "$(stored_kib beta)" -gt 256
}

# interrupt NAME: begin with an empty store at beta and kill the program as soon as beta has some of its
# pieces. Whether that was early enough is known when it goes on; the machine may need a few tries.
interrupt()
{
    rm -rf "$lab/store-beta"
    write_config
    start_coordinator
    start_worker alpha
    start_worker beta
    deadline=$(($(ticks) + 3000 * patience))
    until has_begun || test "$(ticks)" -gt "$deadline"; do
        :
    done
    kill_program "$1"
}

stored_bytes()
{
    echo $((1024 * $(stored_kib beta)))
}

for victim in beta coordinator; do
    tries=0
    while :; do
        tries=$((tries + 1))
        interrupt "$victim"
        begun=$(stored_bytes)
        case $victim in
        beta) start_worker beta ;;
        *) start_coordinator ;;
        esac
        if ! within 30 all_serve; then
            fail "$victim killed while beta fetches: the cluster serves in the end" "$lab/status.txt"
            break
        fi
        rest=$(shipped_bytes)
        all=$(stored_bytes)
        stop_cluster >/dev/null || fail "all end with status 0 after interrupted shipping"
        note "$victim killed with $begun of $all bytes stored; then about $rest were shipped"
        if test "$begun" -lt $((all - 500000)); then
            check "$victim killed while beta fetches: only the rest is shipped" \
                test "$rest" -gt 400000 -a "$rest" -lt $((all - 200000))
            break
        fi
        if test "$tries" -eq 8; then
            skip "$victim killed while beta fetches: only the rest is shipped" "never interrupted in time"
            break
        fi
    done
done
check "nothing is left to ship" ships_nothing
answers_now "and the answer is right after all that"
stop_cluster >/dev/null || fail "all end with status 0 at the end"

# ---- a store that is too small ----------------------------------------------------------------------------

new_cluster alpha
keys_alpha="disk: 2 MiB"
write_config
start_coordinator
start_worker alpha
says_too_small()
{
    ask_status && grep -q 'needs .* of its limit of 2.0 MiB' "$lab/status.txt"
}
check "a store that is too small is said to be" within 20 says_too_small
check "all end with status 0" stop_cluster
finish
