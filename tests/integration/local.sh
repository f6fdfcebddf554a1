#!/bin/sh
# `shoal` in one process, the real program on the bundled model: committed expectations, one text whatever
# the batch, chunk, threads and kernels are, output and exit status as documented.
#
# tests/data/answers-q8_0.json is what `local` itself gave for tests/data/prompts.txt: the same bits on every
# machine, so any difference is one in the numerics or the sampler. The greedy continuations of another
# engine are compared in reference.sh, on the F16 file that they were made with.
: "${SHOAL_SRCDIR:=.}"
: "${SHOAL_BUILDDIR:=.}"

shoal=$SHOAL_BUILDDIR/shoal
expect=$SHOAL_BUILDDIR/tests/integration/expect
model=$SHOAL_SRCDIR/models/shoal-demo-7m-q8_0.gguf
data=$SHOAL_SRCDIR/tests/data
count=0
failures=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# result NAME STATUS: 0 is ok; what stands in $work/why is the diagnostics of a failure.
result()
{
    count=$((count + 1))
    if test "$2" -eq 0; then
        echo "ok $count - $1"
    else
        failures=$((failures + 1))
        echo "not ok $count - $1"
        head -n 20 "$work/why" | sed 's/^/# /'
    fi
}

# check NAME COMMAND...: the command succeeds.
check()
{
    name=$1
    shift
    "$@" >"$work/why" 2>&1
    result "$name" $?
}

# same NAME FILE FILE
same()
{
    check "$1" cmp "$2" "$3"
}

# fails NAME STATUS WORD COMMAND...: that exit status, nothing on stdout, one line on stderr with WORD.
fails()
{
    name=$1
    want=$2
    word=$3
    shift 3
    "$@" >"$work/out" 2>"$work/err"
    got=$?
    {
        echo "status $got, expected $want; stdout $(wc -c <"$work/out") bytes; stderr:"
        cat "$work/err"
    } >"$work/why"
    test "$got" -eq "$want" && ! test -s "$work/out" && test "$(wc -l <"$work/err")" -eq 1 &&
        grep -q -F -e "$word" "$work/err"
    result "$name" $?
}

# Answers as JSON without what a clock has measured.
answers()
{
    "$shoal" local -m "$model" --json -q "$@" | sed 's/,"ttft_ms":.*/}/'
}

# ---- the committed expectations

check "ids" "$expect" tokens "$shoal" "$model" "$data/tokens.json"
check "logits within 0.15" "$expect" logits "$shoal" "$model" "$data/logits-q8_0.json" 0.15

# ---- one text

prompts=$data/prompts.txt
answers --prompts "$prompts" -n 20 --seed 42 >"$work/together" 2>"$work/why"
same "the answers are those of every other machine" "$data/answers-q8_0.json" "$work/together"
while IFS= read -r line; do
    printf '%s\n' "$line" >"$work/one"
    answers --prompts "$work/one" -n 20 --seed 42
done <"$prompts" >"$work/apart" 2>"$work/why"
same "requests side by side give the answers they give alone" "$work/apart" "$work/together"

wc -l <"$work/together" | grep -q -x ' *10' >"$work/why"
result "every line is a request" $?

for options in "-t 1" "-t 4" "--chunk 1" "--chunk 3" "--chunk 512" "--kernels generic"; do
    # Word splitting is wanted.
    answers --prompts "$prompts" -n 20 --seed 42 $options >"$work/again" 2>"$work/why"
    same "the same text with $options" "$work/together" "$work/again"
done
for options in "-t 3" "--chunk 1" "--kernels generic -t 2 --chunk 5"; do
    "$shoal" logits -m "$model" -p "In the beginning God created" --json >"$work/a" 2>"$work/why"
    "$shoal" logits -m "$model" -p "In the beginning God created" --json $options >"$work/b"
    same "the same logits with $options" "$work/a" "$work/b"
done
"$shoal" logits -m "$model" -p "In the beginning God created" --json --kv f32 >"$work/b" 2>"$work/why"
if cmp -s "$work/a" "$work/b"; then
    echo "an F32 KV cache changes nothing" >"$work/why"
    result "the hash tells an F32 KV cache from an F16 one" 1
else
    result "the hash tells an F32 KV cache from an F16 one" 0
fi

# ---- numerics: fast

# Sums in OpenBLAS's order: near the exact ones, and not the same, or it was not asked.
prompt="In the beginning God created the heaven and the earth."
"$SHOAL_BUILDDIR/tests/tools/make_model" "$work/f16.gguf" llama F16 >"$work/why" 2>&1
"$shoal" logits -m "$work/f16.gguf" -p "$prompt" --json >"$work/exact" 2>"$work/why"
if "$shoal" logits -m "$work/f16.gguf" -p "$prompt" --json --numerics fast >"$work/fast" 2>"$work/why"; then
    (echo "["; cat "$work/exact"; echo "]") >"$work/exact.json"
    check "numerics: fast is within 0.05 of exact" \
        "$expect" logits "$shoal" "$work/f16.gguf" "$work/exact.json" 0.05 --numerics fast
    ! cmp -s "$work/exact" "$work/fast"
    result "the hash tells fast from exact" $?
elif grep -q "not installed here" "$work/why"; then
    count=$((count + 1))
    echo "ok $count - numerics: fast # SKIP OpenBLAS is not installed"
else
    result "numerics: fast" 1
fi

# ---- what is printed

"$shoal" local -m "$model" -p "In the beginning" -n 12 --seed 3 >"$work/text" 2>"$work/err"
answers -p "In the beginning" -n 12 --seed 3 | sed -e 's/.*"text":"//' -e 's/","finish".*//' >"$work/again"
same "stdout is the text and a line break" "$work/again" "$work/text"
check "statistics go to stderr" grep -q '^4 prompt tokens.* 12 tokens\|^5 prompt tokens.* 12 tokens' "$work/err"
grep -q seed "$work/err" && echo "a seed that was given is said" >"$work/why"
grep -q seed "$work/err"
result "a seed that was given is not said" $((1 - $?))

"$shoal" local -m "$model" -p "In the" -n 30 >"$work/text" 2>"$work/err"
seed=$(sed -n 's/^seed \([0-9]*\)$/\1/p' "$work/err")
"$shoal" local -m "$model" -p "In the" -n 30 --seed "$seed" >"$work/again" 2>"$work/why"
same "the seed that was drawn gives the text again" "$work/text" "$work/again"

answers -p "In the beginning" --temperature 0 --stop " the" >"$work/text"
check "a stop string ends the text before it" grep -q -F '"text":" of","finish":"stop","error":null' \
    "$work/text"
answers -p "In the beginning" --temperature 0 --context 20 >"$work/text"
check "the end of the context is the finish length" \
    grep -q '"tokens":\[\([0-9]*,\)\{14\}[0-9]*\],.*"finish":"length"' "$work/text"
printf '{"prompt":"one","n":1}\n{"nonsense":1}\n{broken\ntwo\n' >"$work/mixed"
"$shoal" local -m "$model" --prompts "$work/mixed" -n 1 --json >"$work/text" 2>"$work/err"
status=$?
cat "$work/text" "$work/err" >"$work/why"
test $status -eq 1 && test "$(wc -l <"$work/text")" -eq 4 && test "$(grep -c '"finish":"error"' "$work/text")" -eq 2
result "a line that is no request fails alone, and the status says so" $?

# ---- files

"$shoal" tokenize -m "$model" "don't" >"$work/text" 2>"$work/why"
echo "1 288 283 2007 1972" >"$work/again"
same "tokenize prints ids on one line" "$work/again" "$work/text"
"$shoal" tokenize -m "$model" --json --no-bos -- --json >"$work/text" 2>"$work/why"
check "tokenize takes what follows -- as text" grep -q '^{"text":"--json","ids":\[1[0-9]*,' "$work/text"
"$shoal" tokenize -m "$model" --no-bos "<s>" >"$work/text" 2>"$work/why"
"$shoal" tokenize -m "$model" --no-bos --special "<s>" >"$work/again" 2>>"$work/why"
echo 1 >"$work/special"
same "control tokens are parsed with --special" "$work/special" "$work/again"
if cmp -s "$work/text" "$work/again"; then
    echo "<s> is parsed in plain text" >"$work/why"
    result "text is text without --special" 1
else
    result "text is text without --special" 0
fi
"$shoal" inspect "$model" --json >"$work/text" 2>"$work/why"
check "inspect lists metadata and tensors" \
    grep -q '"llama.block_count":8.*"name":"blk.0.attn_k.weight","type":"Q8_0","dims":\[256,128\],"bytes":34816' \
    "$work/text"
for file in scalars version-2 vocab-only; do
    check "inspect takes $file" "$shoal" inspect "$SHOAL_SRCDIR/tests/fuzz/corpus/gguf/$file.gguf"
done
head -c 7000 "$SHOAL_SRCDIR/COPYING" >"$work/licence"
"$shoal" perplexity -m "$model" -f "$work/licence" -c 64 --json >"$work/text" 2>"$work/why"
check "perplexity has its three members" \
    grep -q '^{"perplexity":[0-9.]*,"context":64,"scored_tokens":[0-9]*}$' "$work/text"
"$shoal" perplexity -m "$model" -f "$work/licence" -c 64 --json --chunk 7 -t 3 >"$work/again" 2>"$work/why"
same "perplexity does not depend on chunk and threads" "$work/text" "$work/again"

# ---- keys

check "keygen makes pairs" "$shoal" keygen "$work/keys" coordinator alpha
find "$work/keys" -name '*.secret' -perm 600 | wc -l | grep -q -x ' *2' >"$work/why"
result "secrets are readable by their owner only" $?
cp "$work/keys/alpha.pub" "$work/before"
fails "a pair that is there is left alone" 1 alpha "$shoal" keygen -q "$work/keys" alpha
same "and unchanged" "$work/before" "$work/keys/alpha.pub"
fails "a name that is none" 2 '"../x"' "$shoal" keygen "$work/keys" ../x

# ---- mistakes

fails "no command" 2 "which command" "$shoal"
fails "no such command" 2 frobnicate "$shoal" frobnicate
fails "no such option" 2 --frobnicate "$shoal" local -m "$model" -p x --frobnicate
fails "a number that is none" 2 12x "$shoal" local -m "$model" -p x -n 12x
fails "kernels that are not there" 2 generic "$shoal" local -m "$model" -p x --kernels abacus
fails "no prompt" 2 -p "$shoal" local -m "$model"
fails "a prompt that is not UTF-8" 2 UTF-8 "$shoal" local -m "$model" -p "$(printf '\377')"
fails "no such model" 1 nowhere.gguf "$shoal" local -m "$work/nowhere.gguf" -p x
fails "a file that is no model" 1 licence "$shoal" local -m "$work/licence" -p x
fails "a prompt longer than the context" 1 "8 positions" \
    "$shoal" local -m "$model" -p "a b c d e f g h i j k" --context 8
fails "a context beyond the model's" 1 512 "$shoal" local -m "$model" -p x --context 513
fails "a text shorter than a window" 1 window "$shoal" perplexity -m "$model" -f "$work/why"
fails "no coordinator's configuration" 1 nowhere.ini "$shoal" generate -c "$work/nowhere.ini" -p x
fails "-m and -c" 2 either "$shoal" logits -m "$model" -c x -p y
if test -w /dev/full; then
    "$shoal" tokenize -m "$model" x >/dev/full 2>"$work/why"
    test $? -eq 1
    result "a full disk is a failure" $?
fi

# A signal in the middle of an answer: status 1, and a word.
yes "And it came to pass" | head -n 400 >"$work/many"
mkfifo "$work/pipe"
"$shoal" local -m "$model" --prompts "$work/many" -q >"$work/pipe" 2>"$work/err" &
child=$!
{
    read -r first
    kill -TERM $child
    cat >/dev/null
} <"$work/pipe"
wait $child
status=$?
{
    echo "status $status, first line \"$first\", stderr:"
    cat "$work/err"
} >"$work/why"
test $status -eq 1 && grep -q interrupted "$work/err"
result "a signal ends it with a word" $?

echo "1..$count"
test "$failures" -eq 0
