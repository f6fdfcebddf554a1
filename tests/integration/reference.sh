#!/bin/sh
# The demo model against an independent engine: ids, logits, greedy continuations and perplexity; and the
# ids of six vocabularies. Without the reference folder these checks are skipped, and local.sh compares
# the committed expectations.
: "${SHOAL_BUILDDIR:=.}"
: "${SHOAL_REFERENCE:=}"

shoal=$SHOAL_BUILDDIR/shoal
expect=$SHOAL_BUILDDIR/tests/integration/expect
demo=$SHOAL_REFERENCE/demo
count=0
failures=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# check NAME COMMAND...
check()
{
    count=$((count + 1))
    name=$1
    shift
    if "$@" 2>"$work/why" >&2; then
        echo "ok $count - $name"
    else
        failures=$((failures + 1))
        echo "not ok $count - $name"
        head -n 20 "$work/why" | sed 's/^/# /'
    fi
}

# vocabulary NAME: the ids of texts, no BOS, by a vocabulary-only file.
vocabulary()
{
    check "ids of the vocabulary $1" \
        "$expect" vocabulary "$SHOAL_REFERENCE/tokenizers/$1.gguf" "$SHOAL_REFERENCE/tokenizers/$1.json"
}

if ! test -f "$demo/shoal-demo-7m-f16.gguf"; then
    echo "1..0 # SKIP there is no reference folder (SHOAL_REFERENCE)"
    exit 0
fi

f16=$demo/shoal-demo-7m-f16.gguf
q8=$demo/shoal-demo-7m-q8_0.gguf

check "ids of the demo vocabulary" "$expect" tokens "$shoal" "$q8" "$demo/tokens.json"
check "logits of the F16 file within 0.01" \
    "$expect" logits "$shoal" "$f16" "$demo/logits-f16.json" 0.01
check "logits of the F16 file, F32 KV cache, within 0.001" \
    "$expect" logits "$shoal" "$f16" "$demo/logits-f16.json" 0.001 --kv f32
check "logits of the Q8_0 file within 0.15" \
    "$expect" logits "$shoal" "$q8" "$demo/logits-q8_0.json" 0.15
check "greedy continuations of the F16 file" "$expect" greedy "$shoal" "$f16" "$demo/greedy.json"
for type in f16 q8_0 q4_0 q4_k_m; do
    check "perplexity of the $type file within 0.5 %" \
        "$expect" perplexity "$shoal" "$demo/shoal-demo-7m-$type.gguf" \
        "$demo/perplexity-$type.json" "$demo/text.txt" 0.005
done
for name in llama-spm llama-bpe qwen2 gpt-2 starcoder deepseek-llm; do
    vocabulary "$name"
done

echo "1..$count"
test "$failures" -eq 0
