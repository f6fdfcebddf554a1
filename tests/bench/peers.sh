#!/bin/sh
# Shoal beside programs that spread one model over several machines as it does, in the laboratory: 4 boards with the
# same quota of a core each, 1 Gbit/s and 0.2 ms, one thread a board, the same shape of model in 4 bits. Needs
# root and a quiet machine.
#
#   ms       a token of one request, behind about 100 tokens; the prompt's time is not in it
#   tok_s    of 8 requests at once, all together, behind short prompts; with "one at a time" the program serves
#            no more than one and the figure is that one's
#   cpu      seconds of processor that each board took while the requests behind `ms` ran, loading included where
#            a program loads for each, in the order node1/node2/node3/node4; `wall` is how long that was. Who takes
#            all of its quota, though its boards wait for each other, polls
#
#   SHOAL_BUILDDIR=build [PEER_...=PATH] sh tests/bench/peers.sh MODEL [RUNS [FOLDER]]     (3 runs by default)
#
# MODEL is of the TinyLlama shape in Q4_0 and without meaning: one token a letter. FOLDER, where given, keeps the
# boards' stores. SHOAL_BENCH_WHAT narrows it: "llama dllama dllama-turbo prima" and Shoal's granularity and
# objective, "layers-latency layers-throughput auto-latency auto-throughput".
# SHOAL_BENCH_QUOTA is each board's share of a core in percent, 30 by default.
#   PEER_LLAMA_RPC=DIR          rpc-server and llama-batched-bench; the client runs on the coordinator's node
#   PEER_DLLAMA=PROGRAM         distributed-llama; its root, which computes as well, runs on node1
#   PEER_DLLAMA_MODEL=FILE, PEER_DLLAMA_TOKENIZER=FILE      in its own formats
#   PEER_PRIMA=DIR              prima.cpp's llama-cli; its first rank, which computes as well, runs on node1
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${SHOAL_BUILDDIR-$root/build}" && pwd)
model=$(realpath "${1?usage: peers.sh MODEL [RUNS [FOLDER]]}")
runs=${2-3}
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-bench-XXXXXX")
folder=${3-$work}
what=${SHOAL_BENCH_WHAT:-llama dllama dllama-turbo prima layers-latency layers-throughput auto-latency auto-throughput}
quota=${SHOAL_BENCH_QUOTA:-30}
names="node1 node2 node3 node4"
pids=
length=24
prompt="in the beginning was the sea and the sea was dark and no one said a word of it until the wind came an"

lab()
{
    sh "$root/deploy/lab.sh" "$@" --dir "$work/lab"
}

# on NODE COMMAND...: this shell becomes that command.
on()
{
    node=$1
    shift
    exec sh "$root/deploy/lab.sh" exec --dir "$work/lab" "$node" "$@"
}

# start NODE LOG COMMAND...: in the background, until stop.
start()
{
    node=$1
    log=$2
    shift 2
    on "$node" "$@" >>"$work/$log" 2>&1 &
    pids="$pids $!"
}

stop()
{
    for pid in $pids; do
        kill "$pid" 2>/dev/null || :
    done
    for pid in $pids; do
        wait "$pid" 2>/dev/null || :
    done
    pids=
}

leave()
{
    stop
    lab down >/dev/null 2>&1 || :
    rm -rf "$work"
}
trap leave EXIT
trap 'exit 1' HUP INT TERM

median()
{
    sort -g "$work/$1" 2>/dev/null | awk '{ v[NR] = $1 }
        END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# Processor seconds of the boards, and the time.
clock()
{
    lab status | awk '$1 ~ /^node[0-9]/ { print $NF }'
    awk '{ print $1 }' /proc/uptime
}

begin()
{
    rm -f "$work/one" "$work/eight"
    clock >"$work/before"
}

# What was used since begin: cpu and wall.
end()
{
    used=$(clock | paste "$work/before" - | awk '{ d[NR] = $2 - $1 } END {
        printf "%.1f/%.1f/%.1f/%.1f,%.1f", d[1], d[2], d[3], d[4], d[5] }')
}

# row PROGRAM NOTE
row()
{
    echo "$1 $(median one) $(median eight)" | awk -v tail="$used,$2" '{ printf "%s,%.1f,%.2f,%s\n", $1, $2, $3, tail }'
}

# ---- llama.cpp, RPC ------------------------------------------------------------------------------------

# llama_bench PROMPT TOKENS REQUESTS: its table, one row a run.
llama_bench()
{
    parallel=$(yes "$3" | head -n "$runs" | paste -s -d , -)
    (on coordinator timeout 230 "$PEER_LLAMA_RPC/llama-batched-bench" -m "$model" -ngl 99 -t 1 -c 2048 -b 2048 -ub 512 \
        --rpc 10.77.0.11:50052,10.77.0.12:50052,10.77.0.13:50052,10.77.0.14:50052 \
        -npp "$1" -ntg "$2" -npl "$parallel") >"$work/llama.txt" 2>&1 || tail -n 5 "$work/llama.txt" >&2
    grep "^| *$1 | *$2 | *$3 |" "$work/llama.txt"
}

llama()
{
    i=10
    for name in $names; do
        i=$((i + 1))
        # It has no option for threads.
        start "$name" llama.log env OMP_THREAD_LIMIT=1 "$PEER_LLAMA_RPC/rpc-server" -H "10.77.0.$i" -p 50052
    done
    sleep 2
    begin
    llama_bench 100 "$length" 1 | awk -F '|' '{ print 1000 * $8 / $3 }' >"$work/one"
    end
    llama_bench 16 16 8 | awk -F '|' '{ print $9 + 0 }' >"$work/eight"
    stop
    row llama.cpp-rpc "batches of 8"
}

# ---- distributed-llama ---------------------------------------------------------------------------------

# dllama TURBO PROMPT: with its turbo (1, its default) it polls its sockets.
dllama()
{
    for i in 2 3 4; do
        start "node$i" dllama.log "$PEER_DLLAMA" worker --host "10.77.0.1$i" --port 9999 --nthreads 1 --net-turbo "$1"
    done
    sleep 1
    begin
    run=0
    while test "$run" -lt "$runs"; do
        run=$((run + 1))
        (on node1 timeout 110 "$PEER_DLLAMA" inference --model "$PEER_DLLAMA_MODEL" \
            --tokenizer "$PEER_DLLAMA_TOKENIZER" --buffer-float-type q80 --max-seq-len 256 --temperature 0 \
            --nthreads 1 --net-turbo "$1" --workers 10.77.0.12:9999 10.77.0.13:9999 10.77.0.14:9999 \
            --prompt "$2" --steps $((${#2} + length))) \
            >"$work/dllama.txt" 2>&1 || tail -n 5 "$work/dllama.txt" >&2
        sed -n '/^Prediction/,$s/.*(\([0-9.]*\) ms\/tok).*/\1/p' "$work/dllama.txt" >>"$work/one"
    done
    end
    stop
    awk '{ print 1000 / $1 }' "$work/one" >"$work/eight"
    row "distributed-llama-turbo-$1" "one at a time"
}

# ---- prima.cpp -----------------------------------------------------------------------------------------

# Layers by hand: its own scheduler needs files of control groups that not every machine has.
prima()
{
    begin
    run=0
    while test "$run" -lt "$runs"; do
        run=$((run + 1))
        for i in 2 3 4; do
            start "node$i" prima.log "$PEER_PRIMA/llama-cli" -m "$model" -c 256 --world 4 --rank $((i - 1)) -t 1 \
                --prefetch --master 10.77.0.11 --next "10.77.0.1$((i % 4 + 1))"
        done
        (on node1 timeout 110 "$PEER_PRIMA/llama-cli" -m "$model" -c 256 --world 4 --rank 0 -t 1 --prefetch \
            --master 10.77.0.11 --next 10.77.0.12 -lw 6,6,5,5 -n "$length" --temp 0 --ignore-eos -p "$prompt") \
            >"$work/prima.txt" 2>&1 || tail -n 5 "$work/prima.txt" >&2
        sed -n 's/.* eval time =.*( *\([0-9.]*\) ms per token.*/\1/p' "$work/prima.txt" | tail -n 1 >>"$work/one"
        stop
    done
    end
    awk '{ print 1000 / $1 }' "$work/one" >"$work/eight"
    row prima.cpp "one at a time"
}

# ---- Shoal ---------------------------------------------------------------------------------------------

ask()
{
    (on coordinator timeout 200 "$build/shoal" "$@" -q -c "$folder/cluster.ini")
}

# write_config GRANULARITY OBJECTIVE
write_config()
{
    {
        printf '[cluster]\nname: bench\nmodel: %s\ncontext: 256\nslots: 8\n' "$model"
        printf 'control: tcp://10.77.0.10:7700\nclient: tcp://10.77.0.10:7710\n'
        printf 'keys: keys\nstate: state\n'
        printf '[placement]\nuse: best\nsolve-seconds: 5\npolicy: static\ngranularity: %s\nobjective: %s\n' "$1" "$2"
        i=10
        for name in $names; do
            i=$((i + 1))
            printf '[worker %s]\ndata: tcp://10.77.0.%d:7721\nthreads: 1\nstore: store-%s\n' "$name" "$i" "$name"
        done
    } >"$folder/cluster.ini"
}

start_shoal()
{
    # shellcheck disable=SC2086 # a list of words
    test -e "$folder/keys" || "$build/shoal" keygen -q "$folder/keys" coordinator client $names >/dev/null
    rm -rf "$folder/state"
    start coordinator shoal.log "$build/shoal-coordinator" -c "$folder/cluster.ini"
    for name in $names; do
        start "$name" shoal.log "$build/shoal-worker" -c "$folder/cluster.ini" --name "$name"
    done
    tries=0
    until ask status 2>/dev/null | grep -q ': serving$'; do
        tries=$((tries + 1))
        if test "$tries" -gt 400; then
            tail -n 5 "$work/shoal.log" >&2
            exit 1
        fi
        sleep 0.5
    done
}

# rate: of all requests in $work/answer together, after the first token of each
rate()
{
    sed 's/.*"tokens_per_s":\([0-9.e+-]*\).*/\1/' "$work/answer" | awk '{ sum += $1 } END { print sum }'
}

# The plan: how many workers have which layers, from the status.
shape()
{
    ask status | awk '$2 == "serving" { n[$3]++ } END { for (l in n) print l " on " n[l] }' | sort -n |
        paste -s -d ';' -
}

# shoal GRANULARITY OBJECTIVE
shoal()
{
    write_config "$1" "$2"
    start_shoal
    plan=$(shape)
    begin
    run=0
    while test "$run" -lt "$runs"; do
        run=$((run + 1))
        # Another first letter: nothing is reused.
        ask generate -p "$run $prompt" -n "$length" --temperature 0 --json >"$work/answer"
        rate | awk '{ print 1000 / $1 }' >>"$work/one"
    done
    end
    run=0
    while test "$run" -lt "$runs"; do
        run=$((run + 1))
        for n in 1 2 3 4 5 6 7 8; do
            echo "$n boats of run $run"
        done >"$work/prompts"
        ask generate --prompts "$work/prompts" -n $((length * 2)) --temperature 0 --json >"$work/answer"
        rate >>"$work/eight"
    done
    stop
    row "shoal-$1-$2" "$plan"
}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
# shellcheck disable=SC2046,SC2086 # lists of words
lab up 4 --rate 1gbit --delay 0.2ms $(printf -- "--slow %s=$quota%% " $names) >"$work/lab.log" 2>&1 || {
    cat "$work/lab.log" >&2
    exit 1
}
echo "program,ms,tok_s,cpu,wall,note"
for one in $what; do
    case $one in
    llama) test -z "${PEER_LLAMA_RPC-}" || llama ;;
    dllama) test -z "${PEER_DLLAMA-}" || dllama 0 "$prompt" ;;
    # Its prompts take a second a token: a short one.
    dllama-turbo) test -z "${PEER_DLLAMA-}" || dllama 1 "in the beginning was the sea" ;;
    prima) test -z "${PEER_PRIMA-}" || prima ;;
    *) shoal "${one%-*}" "${one#*-}" ;;
    esac
done
