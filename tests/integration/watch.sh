#!/bin/sh
# What workers tell of their boards, as a person sees it: memory, heat and throttling in `shoal status`, the
# time of a stage against the plan's promise, the cause of a loss; and `shoal top` on a terminal. gamma's board
# is a folder of files, which change under it.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

screen=$SHOAL_BUILDDIR/tests/integration/screen

new_cluster alpha beta gamma
cluster_keys="context: 512
slots: 4
report: 200 ms"
keys_alpha="threads: 1
memory: 512 MiB"
options_beta="--test-pass-ms 10"
options_gamma="--test-root $work/board"

# board PATH TEXT: a file of gamma's.
board()
{
    mkdir -p "$work/board${1%/*}"
    echo "$2" >"$work/board$1.new" && mv "$work/board$1.new" "$work/board$1"
}

zone=/sys/class/thermal/thermal_zone0/temp
throttled=/sys/devices/platform/soc/soc:firmware/get_throttled
board /proc/meminfo "MemAvailable: 524288 kB"
board $zone 61000
board $throttled 0
must_start

# shows NAME EXPRESSION: does the worker's row match?
shows()
{
    ask_status && row "$1" | grep -q -E -e "$2"
}

# ---- status -------------------------------------------------------------------------------------------

check "free memory and heat of a board" within 10 shows gamma ' 512\.0 MiB .* 61 C '
board /proc/meminfo "MemAvailable: 102400 kB"
board $zone 85000
board $throttled 50004
check "memory shrinks, it becomes hot and is throttled" within 10 shows gamma ' 100\.0 MiB .* 85 C throttled '
board /proc/meminfo "MemAvailable: -7 kB"
board $zone "$(head -c 300 /dev/zero | tr '\0' 9)"
board $throttled "nonsense"
check "nonsense is not known" within 10 shows gamma '^gamma +serving .* - +- .* - +- +[a-z0-9-]+ +-$'

# Of a limit, all is free but what no file backs: used, which has the mapped weights and libraries, and free are
# more than the limit together.
adds_up()
{
    ask_status && row alpha | awk '$8 != "MiB" || $10 != "MiB" { exit 1 }
        { exit !($7 + $9 > 514 && $9 < 511) }'
}
check "of a limit, what is not used or can be read again is free" within 10 adds_up

# beta's passes take 10 ms more than the plan says.
generate -q -p "In the beginning" -n 40 --temperature 0 >"$work/out" 2>&1
slow()
{
    ask_status && row beta | awk '{ exit !($15 > 2) }'
}
check "a slow stage is held against its promise" within 10 slow
generate -q -p "In the beginning" -n 300 --temperature 0 >"$work/out" 2>&1 &
counted()
{
    ask_status && grep -q ' tok/s$' "$lab/status.txt"
}
check "and the tokens of the last seconds are counted" within 10 counted

# ---- top ----------------------------------------------------------------------------------------------

"$shoal" top -c "$lab/cluster.ini" >"$work/out" 2>"$work/err" </dev/null
one_error "top in a pipe" $? 2 "$work/err" 'needs a terminal; shoal status'

# top SIZE STEP...: on a terminal. What the steps show goes to $work/screen.
top()
{
    columns=${1%x*}
    rows=${1#*x}
    shift
    bounded 90 "$screen" "$columns" "$rows" "$@" -- "$shoal" top -c "$lab/cluster.ini" >"$work/screen" 2>"$work/err"
}

# top_is NAME EXPRESSION: ok where it ended with 0, and a line of the screen matches.
top_is()
{
    if test "$topped" -eq 0 && grep -q -E -e "$2" "$work/screen"; then
        pass "$1"
    else
        note "exit status $topped"
        fail "$1" "$work/screen" "$work/err"
    fi
}

top 80x24 wait:gamma key:q
if grep -q "without ncurses" "$work/err" "$work/screen"; then
    skip "top" "built without ncurses"
    finish
fi

board /proc/meminfo "MemAvailable: 524288 kB"
board $zone 85000
board $throttled 4
top 80x24 "wait:gamma: 85 C throttled" show key:q
topped=$?
top_is "eighty columns: the worker's row" '^gamma +serving +[0-9]-[0-9] .* 512\.0 MiB .* 85C!$'
top_is "the row of one that computed" '^beta +serving .* [0-9]+%.* MiB|GiB .* [0-9.]+ +[0-9.]+ -$'
top_is "what the cluster does" '^[0-9.]+ tok/s \['
check "no line is longer than the terminal" awk 'length > 80 { exit 1 }' "$work/screen"

top 80x24 wait:85C! size:120x30 "wait:85 C throttled" size:30x6 gone:throttled size:80x24 wait:85C! show int
topped=$?
top_is "the window's size changes, and ^C ends it" '^gamma +serving '

(
    sleep 1
    kill_program gamma
) &
helper=$!
top 80x24 "wait:gamma: lost" show key:q
topped=$?
top_is "a lost worker's cause" '^gamma: lost [0-9]+ s ago: the connection broke'
wait $helper
(
    sleep 1
    kill_program coordinator
    sleep 1
    start_coordinator
) &
helper=$!
top 80x24 "wait:no coordinator" "gone:no coordinator" "wait:alpha      serving" show key:q
topped=$?
top_is "the coordinator goes, and comes back" '^alpha +serving '
wait $helper
check "all end by themselves" stop_cluster
finish
