#!/bin/sh
# One text for every architecture: of random models of each, with matrices of ten types, and of the two
# types that most files consist of, a cluster gives the logits and the greedy tokens of one process. The
# first worker computes with the generic kernels, the others with the best ones that there are. In a
# sanitized build a sample of the models.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

# Words of many letters, each a token: more than a window of gemma3, and many chunks of seven.
prompt="in the beginning was the sea and the sea was dark and no one said a word of it"

# ask_file [OPTION...] and ask_cluster: logits of every prompt position, then twelve greedy tokens.
ask_file()
{
    "$shoal" logits -m "$model" "$@" -p "$prompt" --json
    local_answer "$@" --json -p "$prompt" -n 12 --temperature 0 -q | without_times
}

ask_cluster()
{
    bounded 60 "$shoal" logits -c "$lab/cluster.ini" -p "$prompt" --json
    generate --json -p "$prompt" -n 12 --temperature 0 -q | without_times
}

# compare SHAPE TYPE "LAYERS..." "CLUSTER KEYS" [OPTION...]: a worker for each range of layers; the options
# are those of the one process that say the same as the keys.
compare()
{
    shape=$1
    type=$2
    ranges=$3
    keys=$4
    shift 4
    what="$shape, $type, layers $ranges"
    model=$work/$shape-$type.gguf
    if ! "$SHOAL_BUILDDIR/tests/tools/make_model" "$model" "$shape" "$type" >"$work/said" 2>&1; then
        fail "$what: the model is made" "$work/said"
        return
    fi
    ask_file "$@" >"$work/expected" 2>&1
    says "$what: the reference has hashes and tokens" "$work/expected" '"tokens":\[[0-9]+(,[0-9]+){11}\]'
    # Word splitting is wanted: a name for each range.
    set -- $ranges
    new_cluster $(echo alpha beta gamma | cut -d ' ' -f "1-$#")
    cluster_keys="context: 512
$keys"
    kernels="kernels: generic"
    for worker_name in $workers; do
        eval "keys_$worker_name=\"threads: 1
layers: \$1
\$kernels\""
        kernels=
        shift
    done
    if start_cluster; then
        ask_cluster >"$work/actual" 2>&1
        same "$what${keys:+, $keys}" "$work/expected" "$work/actual"
    else
        fail "$what: the cluster starts" "$lab/status.txt" "$lab/status.err"
    fi
    check "$what: all end with status 0" stop_cluster
    rm -f "$model"
}

compare gemma3 mixed "0-2 3-3 4-6" ""
compare llama Q4_K "0-0 1-2" ""
if test "$short" -eq 0; then
    compare llama Q6_K "0-1 2-2" ""
    compare llama3 mixed "0-0 1-2" "chunk: 7"
    compare smollm mixed "0-0 1-1" ""
    compare qwen2 mixed "0-1 2-2" "kv: f32" --kv f32
    compare qwen3 mixed "0-0 1-2" "kv: q8_0" --kv q8_0
fi
finish
