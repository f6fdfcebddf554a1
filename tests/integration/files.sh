#!/bin/sh
# Model files as users meet them: a model in several files is the model, for every command and for a
# cluster; a part that is missing is named; `quantize` makes a file that runs.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

make_model=$SHOAL_BUILDDIR/tests/tools/make_model

"$make_model" "$work/m" llama F16 seed 3 parts 3 || exit 99
"$make_model" "$work/whole.gguf" llama F16 seed 3 || exit 99
whole=$work/whole.gguf
model=$work/m-00001-of-00003.gguf
second=$work/m-00002-of-00003.gguf

# logits FILE: a summary of every position, without the name of the file.
logits()
{
    "$shoal" logits -m "$1" -p "abc xyz" --json
}

# ---- in several files

"$shoal" inspect "$model" >"$work/text" 2>&1
says "inspect counts files and tensors" "$work/text" '30 tensors in 3 files$'
says "inspect counts by type" "$work/text" '^F16: 23 tensors, 1851392 parameters, 3\.5 MiB$'
"$shoal" inspect "$model" --json >"$work/text" 2>&1
says "so it does in JSON" "$work/text" '"files":3,.*"types":\{"F16":\{"tensors":23,"parameters":1851392,"bytes":3702784\},"F32"'
logits "$whole" >"$work/a" 2>&1
logits "$model" >"$work/b" 2>&1
same "the parts give the logits of the whole" "$work/a" "$work/b"
local_answer -q -p "abc" -n 12 --temperature 0 >"$work/local" 2>&1

new_cluster alpha beta
must_start
generate -q -p "abc" -n 12 --temperature 0 >"$work/cluster" 2>&1
same "a cluster answers from the parts" "$work/local" "$work/cluster"
check "the cluster ends by itself" stop_cluster

"$shoal" inspect "$second" >/dev/null 2>"$work/err"
one_error "a later part names the first" $? 1 "$work/err" "part 2 of 3 .* open $model"
mv "$second" "$work/away"
"$shoal" local -m "$model" -p a >/dev/null 2>"$work/err"
one_error "a missing part is named" $? 1 "$work/err" "part 2 of 3: .*$second"
check "a vocabulary is in the first part" "$shoal" tokenize -m "$model" abc
mv "$work/away" "$second"

# ---- smaller

"$shoal" quantize "$model" "$work/q.gguf" Q8_0 >"$work/out" 2>"$work/err"
one_error "quantize says what it made of the parts" $? 0 "$work/err" '3\.5 MiB of tensors became 1\.9 MiB, the layers. weights are 0\.5. % off$'
"$shoal" quantize -q -t 1 "$whole" "$work/r.gguf" Q8_0 >"$work/out" 2>&1
if test -s "$work/out"; then
    fail "with -q it is silent" "$work/out"
else
    pass "with -q it is silent"
fi
same "parts and threads do not show in the file" "$work/q.gguf" "$work/r.gguf"
check "what it made runs" logits "$work/q.gguf"
"$shoal" quantize "$whole" "$work/t.gguf" Q9 2>"$work/err"
one_error "a type that is none" $? 2 "$work/err" 'Q9.*Q8_0, Q4_0, Q4_K, Q4_K_M, Q6_K'
"$shoal" quantize "$work/q.gguf" "$work/t.gguf" Q4_0 2>"$work/err"
one_error "what is quantised is not quantised again" $? 1 "$work/err" 'token_embd.weight is of type Q8_0'
"$shoal" quantize "$model" "$second" Q8_0 2>"$work/err"
one_error "a part is not written over" $? 1 "$work/err" 'is the file to be read'
find "$work" -maxdepth 1 -name 't.gguf*' >"$work/text"
if test -s "$work/text"; then
    fail "a failure leaves no file" "$work/text"
else
    pass "a failure leaves no file"
fi

finish
