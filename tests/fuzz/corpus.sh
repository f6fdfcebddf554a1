#!/bin/sh
# Every fuzz target over its committed corpus, corpus/NAME for fuzz_NAME: no input may crash it.
corpus=$SHOAL_SRCDIR/tests/fuzz/corpus
count=0

for folder in "$corpus"/*/; do
    name=$(basename "$folder")
    target=$SHOAL_BUILDDIR/tests/fuzz/fuzz_$name
    count=$((count + 1))
    if ! test -x "$target"; then
        echo "not ok $count - fuzz_$name is missing"
    elif output=$("$target" "$folder"* 2>&1); then
        echo "ok $count - fuzz_$name survives its corpus"
    else
        echo "not ok $count - fuzz_$name survives its corpus"
        echo "$output" | sed 's/^/# /'
    fi
done
echo "1..$count"
