#!/bin/sh
# `shoal plan` without a cluster: the command of the README for six uneven boards, its table and
# its reasons, with a model of which only the shapes are there.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

model="$work/a <b> & \"c\".gguf"
ini=$SHOAL_SRCDIR/configs/uneven6.ini
boards=$(sed -n 's/^\[worker \(.*\)\]/\1/p' "$ini")

check "a model of shapes alone" "$SHOAL_BUILDDIR/tests/tools/make_model" "$model" llama3-8b Q8_0 hollow 1

plan()
{
    "$shoal" plan -c "$ini" --profile "$SHOAL_SRCDIR/configs/profiles/uneven6.ini" -m "$model" "$@"
}

# every_board EXPRESSION FILE: with NAME in the expression replaced by each board's.
every_board()
{
    for board in $boards; do
        grep -q -E -e "$(echo "$1" | sed "s/NAME/$board/g")" "$2" || return 1
    done
}

plan >"$work/table" 2>&1
check "the table names every board" every_board '^( +[0-9]+  .* NAME  |left out: NAME: .)' "$work/table"
says "layers, team, node, heads, columns, rows, memory" "$work/table" \
    '^ +0  0-[0-9]+ +(-|star|mesh) +[a-z0-9-]+ +[0-9-]+ +[0-9-]+ .* [0-9.]+ [GM]iB +[0-9.]+ [GM]iB +[0-9.]+$'
says "what binds" "$work/table" '^why: memory( does not bind| binds|:)'
says "one more board" "$work/table" '^why: one more board like laptop: '
says "the table has the name of the model" "$work/table" 'model a <b> & "c"\.gguf$'
plan --json >"$work/json" 2>&1
says "the reasons as JSON" "$work/json" '"why":\["memory'

"$shoal" plan -c "$ini" -m "$model" >"$work/out" 2>"$work/err"
one_error "a model for a running cluster" $? 2 "$work/err" '-m .*--profile'

finish
