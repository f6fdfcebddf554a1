#!/bin/sh
# The engine beside llama.cpp and ik_llama.cpp: the TinyLlama-1.1B shape with random weights, in several
# types and numbers of threads. All programs take turns inside each run, so that a change of the machine's
# mood meets all of them; a figure is the median of the runs.
#
#   decode    tokens a second, one after the other, from an empty context
#   prefill   tokens a second of a prompt of 512
#   deep      tokens a second, one after the other, behind 1,900 positions
#
# `read_share` is what decoding reads of weights, in bytes a second, as a share of what bench_read gets out
# of the memory in the same run; `ratio` is Shoal's figure over the better peer's.
#
#   SHOAL_BUILDDIR=build [PEER_LLAMA=DIR] [PEER_IK=DIR] sh tests/bench/engine.sh [RUNS [FOLDER]]
#
# PEER_*: folders with llama-bench. FOLDER keeps the model files (4 GB).
# SHOAL_BENCH_TYPES, _THREADS, _WHAT, _KERNELS narrow it: "Q4_0 Q8_0 Q4_K_M", "1 2", "decode prefill deep",
# "avx2". Run it on a quiet machine.
set -eu
build=${SHOAL_BUILDDIR:-build}
runs=${1-3}
folder=${2-${TMPDIR:-/tmp}/shoal-bench}
types=${SHOAL_BENCH_TYPES:-Q4_0 Q8_0 Q4_K_M}
threads=${SHOAL_BENCH_THREADS:-1 2}
what=${SHOAL_BENCH_WHAT:-decode prefill deep}
kernels=${SHOAL_BENCH_KERNELS:-}
for program in shoal tests/bench/bench_read tests/tools/make_model; do
    test -x "$build/$program" || { echo "engine.sh: there is no $build/$program: make all bench" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$folder"

# model TYPE: the path of the model in that type, made where it is not there.
model()
{
    f16=$folder/tinyllama-f16.gguf
    file=$folder/tinyllama-$1.gguf
    test -s "$f16" || "$build/tests/tools/make_model" "$f16" tinyllama F16 >&2
    test -s "$file" || "$build/shoal" quantize "$f16" "$file" "$1" >&2
    echo "$file"
}

# bytes_a_token FILE: of weights read for each decoded token: everything but the embedding.
bytes_a_token()
{
    "$build/shoal" inspect --json "$1" | jq '[.tensors[] | select(.name != "token_embd.weight") | .bytes] | add'
}

# shoal_rate FILE THREADS WHAT
shoal_rate()
{
    case $3 in
    decode) set -- "$1" "$2" 1 96 decode_tok_s ;;
    prefill) set -- "$1" "$2" 512 1 prefill_tok_s ;;
    deep) set -- "$1" "$2" 1900 64 decode_tok_s ;;
    esac
    "$build/shoal" bench -q -m "$1" -t "$2" -p "$3" -g "$4" -r 1 ${kernels:+--kernels "$kernels"} --json |
        jq ".$5.mean"
}

# peer_rate DIR FILE THREADS WHAT [FLAGS...]
peer_rate()
{
    bench=$1/llama-bench
    file=$2
    n=$3
    kind=$4
    shift 4
    case $kind in
    decode) set -- "$@" -p 0 -n 96 ;;
    prefill) set -- "$@" -p 512 -n 0 ;;
    deep) set -- "$@" -p 1900 -n 0 -pg 1900,128 ;;
    esac
    "$bench" -m "$file" -t "$n" -r 1 -o json "$@" 2>/dev/null >"$work/peer.json" || true
    if test "$kind" = deep; then
        # The time behind the prompt is that of prompt and tokens less that of the prompt alone.
        jq '(.[] | select(.n_gen == 0) | .avg_ns) as $p | (.[] | select(.n_gen > 0) | .avg_ns) as $all
            | 128e9 / ($all - $p)' "$work/peer.json" 2>/dev/null || echo 0
    else
        jq '.[0].avg_ts' "$work/peer.json" 2>/dev/null || echo 0
    fi
}

note()
{
    echo "$2" >>"$work/$1"
}

median()
{
    sort -g "$work/$1" 2>/dev/null | awk '{ v[NR] = $1 } END { printf "%.2f", NR ? v[int((NR + 1) / 2)] : 0 }'
}

echo "type,threads,what,shoal,llama_cpp,ik_llama_cpp,ik_llama_cpp_rtr,ratio,read_gb_s,read_share"
for type in $types; do
    file=$(model "$type")
    bytes=$(bytes_a_token "$file")
    for n in $threads; do
        for kind in $what; do
            rm -f "$work/shoal" "$work/llama" "$work/ik" "$work/rtr" "$work/read"
            run=0
            while test "$run" -lt "$runs"; do
                run=$((run + 1))
                note read "$("$build/tests/bench/bench_read" "$n" 5 | sed -n "s/^$n,//p")"
                note shoal "$(shoal_rate "$file" "$n" "$kind")"
                test -z "${PEER_LLAMA:-}" || note llama "$(peer_rate "$PEER_LLAMA" "$file" "$n" "$kind")"
                test -z "${PEER_IK:-}" || note ik "$(peer_rate "$PEER_IK" "$file" "$n" "$kind")"
                test -z "${PEER_IK:-}" || note rtr "$(peer_rate "$PEER_IK" "$file" "$n" "$kind" -rtr 1)"
            done
            echo "$type,$n,$kind,$(median shoal),$(median llama),$(median ik),$(median rtr),$bytes,$(median read)" |
                awk -F, '{
                    best = $5 > $6 ? $5 : $6
                    if ($7 > best)
                        best = $7
                    ratio = best > 0 ? sprintf("%.2f", $4 / best) : ""
                    share = $3 != "prefill" && $9 > 0 ? sprintf("%.2f", $4 * $8 / $9 / 1e9) : ""
                    print $1 "," $2 "," $3 "," $4 "," $5 "," $6 "," $7 "," ratio "," $9 "," share
                }'
        done
    done
done
