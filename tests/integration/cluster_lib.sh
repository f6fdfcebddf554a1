# What the integration tests share: TAP output, a laboratory of real processes on loopback ports, and
# waiting with deadlines. Sourced, never run; POSIX sh.
#
# Everything lives in one temporary folder, $work; a cluster is a folder $lab in it with keys, stores,
# state, cluster.ini and, for every program, NAME.log (what it said), NAME.pid and, once it has ended,
# NAME.rc (its exit status). Programs are started in the background and ended by the trap at the latest.
# Every wait has a deadline, $patience times as long in a build with a sanitizer, where `short` is set
# and the tests leave out repetitions. SHOAL_TEST_SHORT=1 or =0 says so by hand.

: "${SHOAL_SRCDIR:=.}"
: "${SHOAL_BUILDDIR:=.}"

LC_ALL=C
export LC_ALL

shoal=$SHOAL_BUILDDIR/shoal
worker=$SHOAL_BUILDDIR/shoal-worker
coordinator=$SHOAL_BUILDDIR/shoal-coordinator
rawtcp=$SHOAL_BUILDDIR/tests/integration/rawtcp
model=$SHOAL_SRCDIR/models/shoal-demo-7m-q8_0.gguf
case $model in
/*) ;;
*) model=$PWD/$model ;;
esac

sanitized=0
if grep -q -e __asan_init -e __tsan_init -e __ubsan_handle "$worker" 2>/dev/null; then
    sanitized=1
fi
: "${SHOAL_TEST_SHORT:=$sanitized}"
short=$SHOAL_TEST_SHORT
figure_ms=3 # plans need no true profile here; 0 where one does
patience=1
test "$sanitized" -eq 0 || patience=4

count=0
failures=0
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-test-XXXXXX") || exit 99
lab=$work
labs=0
host=127.0.0.1 # of all programs but workers with a $host_NAME of their own

# ---- verdicts ----------------------------------------------------------------------------------------

comment()
{
    sed 's/^/# /'
}

note()
{
    printf '%s\n' "$*" | comment
}

pass()
{
    count=$((count + 1))
    echo "ok $count - $1"
}

# The last lines of every program's log, without what went as it should.
show_logs()
{
    for log in "$lab"/*.log; do
        test -s "$log" || continue
        note "--- ${log##*/}"
        grep -v -E ' core (profiled|link|node|request_done .*finish=(stop|length)) ' "$log" | tail -n 15 | comment
    done
}

# fail NAME [FILE...]: not ok, with the files and the logs as diagnostics.
fail()
{
    count=$((count + 1))
    failures=$((failures + 1))
    echo "not ok $count - $1"
    shift
    for file in "$@"; do
        note "--- ${file##*/}"
        head -c 2000 "$file" 2>/dev/null | comment
    done
    show_logs
}

skip()
{
    count=$((count + 1))
    echo "ok $count - $1 # SKIP $2"
}

# check NAME COMMAND...: ok where the command succeeds. Its output goes to $work/said.
check()
{
    title=$1
    shift
    if "$@" >"$work/said" 2>&1; then
        pass "$title"
    else
        fail "$title" "$work/said"
    fi
}

# same NAME EXPECTED ACTUAL: ok where the files are equal and not empty.
same()
{
    if test -s "$2" && cmp -s "$2" "$3"; then
        pass "$1"
    else
        diff "$2" "$3" >"$work/difference" 2>&1
        fail "$1" "$work/difference"
    fi
}

# says NAME FILE EXPRESSION: ok where a line of the file matches the extended expression.
says()
{
    if grep -q -E -e "$3" "$2"; then
        pass "$1"
    else
        fail "$1" "$2"
    fi
}

# one_error NAME STATUS EXPECTED FILE EXPRESSION: a command ended with this status and said one line,
# which matches.
one_error()
{
    if test "$2" -eq "$3" && test "$(wc -l <"$4")" -eq 1 && grep -q -E -e "$5" "$4"; then
        pass "$1"
    else
        note "exit status $2, expected $3 and one line like: $5"
        fail "$1" "$4"
    fi
}

finish()
{
    stop_all
    echo "1..$count"
    exit $((failures > 0))
}

# ---- time --------------------------------------------------------------------------------------------

# bounded SECONDS COMMAND...: with a deadline; 124 where it passed.
bounded()
{
    seconds=$(($1 * patience))
    shift
    timeout -k 5 "$seconds" "$@"
}

# Hundredths of a second since the machine was started.
ticks()
{
    read -r uptime_text uptime_rest </proc/uptime
    echo "${uptime_text%.*}${uptime_text#*.}"
}

# within SECONDS COMMAND...: try until it succeeds or the time is up.
within()
{
    deadline=$(($(ticks) + $1 * patience * 100))
    shift
    while ! "$@"; do
        test "$(ticks)" -lt "$deadline" || return 1
        sleep 0.05
    done
}

# ---- programs ----------------------------------------------------------------------------------------

# start_program NAME COMMAND...: in the background; stdout and stderr are appended to NAME.log.
start_program()
{
    program=$1
    shift
    rm -f "$lab/$program.pid" "$lab/$program.rc"
    grep -q -x "$program" "$lab/started" 2>/dev/null || echo "$program" >>"$lab/started"
    (
        sh -c 'echo $$ >"$0.new" && mv "$0.new" "$0" && exec "$@"' "$lab/$program.pid" "$@"
        echo $? >"$lab/$program.rc"
    ) >>"$lab/$program.log" 2>&1 &
}

start_coordinator()
{
    start_program coordinator "$coordinator" -c "$lab/cluster.ini" "$@"
}

# start_worker NAME [OPTION...]: under the command in $inside_NAME, where there is one.
start_worker()
{
    name=$1
    shift
    # shellcheck disable=SC2086 # a command and its options
    eval "start_program \"\$name\" \${inside_$name-} \"\$worker\" -c \"\$lab/cluster.ini\" --name \"\$name\" \
        --test-figure-ms $figure_ms \"\$@\""
}

pid_of()
{
    within 10 test -s "$lab/$1.pid" && cat "$lab/$1.pid"
}

ended()
{
    test -s "$lab/$1.rc"
}

# signal NAME SIGNAL
signal()
{
    kill "-$2" "$(pid_of "$1")" 2>/dev/null
}

# Kill without a word, and wait until it is gone; its status is nobody's business any more.
kill_program()
{
    signal "$1" KILL
    within 10 ended "$1"
    sed -i "/^$1\$/d" "$lab/started"
}

# End every program of the cluster; true where all ended by themselves, with status 0.
stop_cluster()
{
    stopped=0
    for program in $(cat "$lab/started" 2>/dev/null); do
        ended "$program" && continue
        signal "$program" CONT
        signal "$program" TERM
    done
    for program in $(cat "$lab/started" 2>/dev/null); do
        if ! within 10 ended "$program"; then
            note "$program does not end on SIGTERM"
            signal "$program" KILL
            within 10 ended "$program"
        fi
        if test "$(cat "$lab/$program.rc")" -ne 0; then
            note "$program ended with status $(cat "$lab/$program.rc")"
            stopped=1
        fi
    done
    rm -f "$lab/started"
    return "$stopped"
}

# Whatever still runs, in all clusters.
stop_all()
{
    for folder in "$work"/lab*; do
        test -d "$folder" || continue
        lab=$folder
        stop_cluster >/dev/null 2>&1
    done
}

trap 'stop_all; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# ---- clusters ----------------------------------------------------------------------------------------

# new_cluster NAME...: folder, keys and ports for a cluster of these workers; $lab is its folder.
new_cluster()
{
    labs=$((labs + 1))
    lab=$work/lab$labs
    workers=$*
    mkdir -p "$lab" || exit 99
    "$shoal" keygen -q "$lab/keys" coordinator client "$@" >"$work/said" 2>&1 || {
        comment <"$work/said"
        echo "Bail out! no keys"
        exit 99
    }
    new_ports
    cluster_keys="context: 512
slots: 8"
    placement_keys="use: all
granularity: layers"
    prefetch=no   # shipping is what many tests look at
    policy=static # a busy machine is no reason for another plan
    for name in $workers; do
        eval "keys_$name='threads: 1'"
    done
}

new_ports()
{
    "$rawtcp" ports $(($(echo "$workers" | wc -w) + 3)) >"$lab/ports" || exit 99
    control_port=$(sed -n 1p "$lab/ports")
    client_port=$(sed -n 2p "$lab/ports")
    bulk_port=$(sed -n 3p "$lab/ports")
}

# data_port NAME
data_port()
{
    position=3
    for name in $workers; do
        position=$((position + 1))
        test "$name" != "$1" || sed -n "${position}p" "$lab/ports"
    done
}

# Write cluster.ini from $cluster_keys, $placement_keys and $keys_NAME of each worker.
write_config()
{
    {
        echo "[cluster]"
        echo "name: lab"
        echo "model: $model"
        echo "control: tcp://$host:$control_port"
        echo "client: tcp://$host:$client_port"
        echo "bulk: tcp://$host:$bulk_port"
        echo "keys: keys"
        echo "state: state"
        printf '%s\n' "$cluster_keys"
        echo "[placement]"
        printf '%s\n' "$placement_keys"
        echo "policy: $policy"
        echo "prefetch: $prefetch"
        for name in $workers; do
            echo "[worker $name]"
            eval "echo \"data: tcp://\${host_$name-$host}:$(data_port "$name")\""
            echo "store: store-$name"
            eval "printf '%s\\n' \"\$keys_$name\""
        done
    } >"$lab/cluster.ini"
}

# Ask the coordinator; the table goes to $lab/status.txt.
ask_status()
{
    bounded 15 "$shoal" status -q -c "$lab/cluster.ini" >"$lab/status.txt" 2>"$lab/status.err"
}

is_serving()
{
    ask_status && grep -q '^cluster .*: serving$' "$lab/status.txt"
}

# has_state NAME STATE: what status says of a worker.
has_state()
{
    ask_status && row "$1" | grep -q -E "^$1 +$2 "
}

all_serve()
{
    is_serving && test "$(grep -c -E '^[a-z]+ +serving +[0-9]' "$lab/status.txt")" -eq "$(echo "$workers" | wc -w)"
}

# row NAME: the worker's line of the last status.
row()
{
    grep -E "^$1 " "$lab/status.txt"
}

# stored_kib NAME: KiB that a worker's pieces take on its disk; a pack's length is more than that.
stored_kib()
{
    du -k -c "$lab/store-$1"/pack-* 2>/dev/null | tail -n 1 | cut -f 1
}

# Bytes shipped for the plan in force, as the last status says them ("0 B", "4.0 MiB").
shipped()
{
    sed -n 's/^plan [0-9]*, \(.*\) shipped.*/\1/p' "$lab/status.txt"
}

# start_cluster: all programs, workers with the options in $options_NAME; true when it serves.
start_cluster()
{
    write_config
    start_coordinator
    for name in $workers; do
        eval "set -- \${options_$name-}"
        start_worker "$name" "$@"
    done
    within 30 is_serving
}

# Start or give up the whole test: nothing that follows would mean anything.
must_start()
{
    if ! start_cluster; then
        fail "the cluster starts" "$lab/status.txt" "$lab/status.err"
        finish
    fi
}

# must_start_four SLOTS MS: four workers, a pipeline of teams in stars, that miss each other soon; each of their passes
# takes MS longer.
must_start_four()
{
    cluster_keys="context: 512
slots: $1
heartbeat: 200 ms
dead-after: $((patience * 2)) s"
    placement_keys="use: all
exchange: star"
    for name in $workers; do
        eval "options_$name='--test-pass-ms $2'"
    done
    must_start
}

# ---- questions ---------------------------------------------------------------------------------------

# ships_nothing: start a cluster whose boards have their pieces. Which end of the ring has the output matrix is
# decided by measurements, anew at each start, so that a start may ship that; the next ones then do not.
ships_nothing()
{
    for again in 1 2 3; do
        must_start
        test "$(shipped)" != "0 B" || return 0
        test "$again" -eq 3 || stop_cluster >/dev/null
    done
    return 1
}

# generate OPTION...: ask the cluster; local_answer OPTION...: ask one process.
generate()
{
    bounded 60 "$shoal" generate -c "$lab/cluster.ini" "$@"
}

local_answer()
{
    bounded 60 "$shoal" local -m "$model" --context 512 -t 2 "$@"
}

# long_prompt N: N sentences, no two alike, of about ten tokens each.
long_prompt()
{
    n=0
    while test "$n" -lt "$1"; do
        n=$((n + 1))
        printf 'In the day %d the king said, Go %d cubits. ' "$((n * 7 % 90 + 10))" "$n"
    done
}

# many_prompts N TOKENS: a file of N requests, no two alike.
many_prompts()
{
    n=0
    while test "$n" -lt "$1"; do
        n=$((n + 1))
        echo "{\"prompt\":\"$(echo "And the Go But Now When Then In Let Thus So For" | cut -d ' ' -f "$n")\",\"n\":$2,\"temperature\":0}"
    done
}

slots_in_use()
{
    ask_status && grep -q " $1 of [0-9]* slots in use" "$lab/status.txt"
}

# race N TOKENS: that many requests at once. $rate: tokens a second of all together, after the first of
# each; $busy: the share of time that each stage computed, as the status says it, in ring order; $together:
# whether all had a slot at once. The answers are in $work/race.
race()
{
    many_prompts "$1" "$2" >"$work/race.prompts"
    bounded 100 "$shoal" generate -q -c "$lab/cluster.ini" --prompts "$work/race.prompts" --json >"$work/race" \
        2>"$work/race.err" &
    racer=$!
    together=0
    within 20 slots_in_use "$1" && together=1
    rm -f "$lab/busy.txt"
    while kill -0 "$racer" 2>/dev/null && ask_status; do
        ! grep -q " $1 of [0-9]* slots in use" "$lab/status.txt" || cp "$lab/status.txt" "$lab/busy.txt"
        sleep 0.1
    done
    wait "$racer"
    rate=$(sed 's/.*"tokens_per_s":\([0-9.e+-]*\).*/\1/' "$work/race" | awk '{ sum += $1 } END { printf "%.1f", sum }')
    busy=$(awk '$2 == "serving" { split($3, layers, "-"); print layers[1], $0 }' "$lab/busy.txt" 2>/dev/null | sort -n |
        sed 's/.* \([0-9]*\) % .*/\1/' | tr '\n' ' ')
}

# Answers in JSON without what no two runs share: times, and what a slot held already.
without_times()
{
    sed 's/,"ttft_ms":[^,}]*//; s/,"tokens_per_s":[^,}]*//; s/,"reused_tokens":[^,}]*//'
}
