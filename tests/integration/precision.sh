#!/bin/sh
# `shoal plan --precision`: types for layers under a budget, the command that it prints, the file that this
# writes, and what that is worth: quicker plans with larger budgets, errors within them, and, where there
# is the demo model in F16, a perplexity that is the worse the larger the budget.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

f16=${SHOAL_REFERENCE-}/demo/shoal-demo-7m-f16.gguf
demo=yes
if test "$short" -ne 0 || ! test -f "$f16"; then
    demo=no
    f16=$work/m.gguf
    "$SHOAL_BUILDDIR/tests/tools/make_model" "$f16" llama F16 seed 3 || exit 99
fi

cat >"$work/c.ini" <<END
[cluster]
name: drawer
model: $f16
context: 64
slots: 2
control: tcp://127.0.0.1:7700
client: tcp://127.0.0.1:7710
keys: keys
[placement]
solve-seconds: 0.5
[worker fast]
data: tcp://127.0.0.1:7721
[worker slow]
data: tcp://127.0.0.1:7722
END
# The fast board has too little memory for the whole file.
cat >"$work/p.ini" <<END
[node fast]
memory: 12 MiB
bandwidth: 4e8
int8: 1e11
rate: 1e8
latency: 0.0001
[node slow]
memory: 100 MiB
bandwidth: 1e8
int8: 1e11
rate: 1e8
latency: 0.0001
END

plan()
{
    "$shoal" plan -c "$work/c.ini" --profile "$work/p.ini" "$@"
}

# list FILE: what it says the layers' types should be; field FILE ROW N.
list()
{
    sed -n "s/^    shoal quantize .* OUT '\(.*\)'\$/\1/p" "$1"
}

chosen()
{
    sed -n 's/^as chosen  *//p' "$1" | tr -d '%' | awk "{ print \$$2 }"
}

# no_more A B: a number is at most another, or a little above.
no_more()
{
    awk "BEGIN { exit !($1 <= $2 * 1.0001 + 0.005) }"
}

before=1e9
budgets='0 1.5 9'
for budget in $budgets; do
    plan --precision "$budget" -m "$f16" >"$work/$budget" 2>"$work/err" || fail "a plan for $budget %" "$work/err"
    says "of $budget % the error is said" "$work/$budget" '^as chosen +[0-9.]+ % +[0-9.]+ +[0-9.]+ +[0-9.]+ MiB$'
    check "which is within the budget" no_more "$(chosen "$work/$budget" 1)" "$budget"
    check "with more of it no token takes longer" no_more "$(chosen "$work/$budget" 2)" "$before"
    before=$(chosen "$work/$budget" 2)
    "$shoal" quantize "$f16" "$work/$budget.gguf" "$(list "$work/$budget")" 2>"$work/err"
    says "the file is as far off as was said" "$work/err" "weights are $(chosen "$work/$budget" 1) % off"
    check "it answers" "$shoal" local -q -m "$work/$budget.gguf" -p "In the" -n 4 --temperature 0
    plan -m "$work/$budget.gguf" 2>"$work/err" | sed '1,2d' >"$work/written"
    sed '1,/^    shoal quantize/d' "$work/$budget" | sed 1d >"$work/foretold"
    same "and its plan is the one that was printed" "$work/foretold" "$work/written"
done
check "budget 0 keeps all layers" grep -q -x -E 'keep\*[0-9]+' <<END
$(list "$work/0")
END
check "a large budget is used" test "$(list "$work/9")" != "$(list "$work/0")"
says "what no plan holds is said" "$work/9" '^all keep +0.00 % '
says "and what the budget forbids" "$work/1.5" '^all Q4_0 .* over the budget$'
plan --precision 9 -m "$f16" --json >"$work/json" 2>&1
says "the same as JSON" "$work/json" "\"types\":\"$(list "$work/9" | sed 's/\*/\\*/g')\""

if test "$demo" = yes; then
    head -c 20000 "$SHOAL_REFERENCE/demo/text.txt" >"$work/text"
    before=0
    for budget in $budgets; do
        now=$("$shoal" perplexity -q -m "$work/$budget.gguf" -f "$work/text" -c 256 --json |
            sed 's/.*"perplexity":\([0-9.]*\).*/\1/')
        note "budget $budget %: perplexity $now with $(list "$work/$budget")"
        check "a budget of $budget % costs quality" awk "BEGIN { exit !($now > $before) }"
        before=$now
    done
else
    skip "larger budgets cost quality" "no reference folder, or no time"
fi

# ---- refused

plan --precision 3 -m "$model" >"$work/out" 2>"$work/err"
one_error "a model that is quantised" $? 1 "$work/err" "q8_0.gguf has its types already: the tensor .* is of type Q8_0"
"$SHOAL_BUILDDIR/tests/tools/make_model" "$work/hollow.gguf" llama F16 hollow 1 || exit 99
plan --precision 3 -m "$work/hollow.gguf" >"$work/out" 2>"$work/err"
one_error "a file of shapes alone" $? 1 "$work/err" "hollow.gguf: the weights of layer 0 are all 0"
for bad in -1 101 2,5 3% x ''; do
    plan --precision "$bad" -m "$f16" >"$work/out" 2>"$work/err"
    one_error "the budget '$bad'" $? 2 "$work/err" '^shoal plan: --precision: .* is not a number from 0 to 100'
done
"$shoal" plan -c "$work/c.ini" --precision 3 >"$work/out" 2>"$work/err"
one_error "a cluster that runs" $? 2 "$work/err" '--precision goes with --profile'
sed -i 's/memory: .*/memory: 2 MiB/' "$work/p.ini"
plan --precision 3 -m "$f16" >"$work/out" 2>"$work/err"
one_error "too little memory for any type" $? 1 "$work/err" 'needs? .* has '
check "nothing is printed then" test ! -s "$work/out"

finish
