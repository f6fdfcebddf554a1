#!/bin/sh
# `shoal plan` without a cluster: the command of the README for six uneven boards, its table, its picture
# and its reasons, with a model of which only the shapes are there and whose name means something to XML.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

model="$work/a <b> & \"c\".gguf"
svg=$work/plan.svg
ini=$SHOAL_SRCDIR/configs/uneven6.ini
boards=$(sed -n 's/^\[worker \(.*\)\]/\1/p' "$ini")

check "a model of shapes alone" "$SHOAL_BUILDDIR/tests/tools/make_model" "$model" llama3-8b Q8_0 hollow 1

# The questions that follow need no good plan.
quick=$work/quick.ini
sed 's/^solve-seconds:.*/solve-seconds: 0.5/' "$ini" >"$quick"

plan()
{
    "$shoal" plan -c "$quick" --profile "$SHOAL_SRCDIR/configs/profiles/uneven6.ini" -m "$model" "$@"
}

well_formed()
{
    if command -v xmllint >/dev/null 2>&1; then
        check "$1" xmllint --noout "$2"
    elif command -v python3 >/dev/null 2>&1; then
        check "$1" python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$2"
    else
        skip "$1" "neither xmllint nor python3 is there"
    fi
}

# every_board EXPRESSION FILE: with NAME in the expression replaced by each board's.
every_board()
{
    for board in $boards; do
        grep -q -E -e "$(echo "$1" | sed "s/NAME/$board/g")" "$2" || return 1
    done
}

"$shoal" plan -c "$ini" --profile "$SHOAL_SRCDIR/configs/profiles/uneven6.ini" -m "$model" --svg "$svg" \
    >"$work/table" 2>&1
well_formed "the picture is well-formed" "$svg"
check "the picture names every board" every_board "<title>NAME</title>" "$svg"
well_formed "so is the one of the README" "$SHOAL_SRCDIR/docs/uneven6.svg"
check "which names every board" every_board "<title>NAME</title>" "$SHOAL_SRCDIR/docs/uneven6.svg"
check "the table names every board" every_board '^( +[0-9]+  .* NAME  |left out: NAME: .)' "$work/table"
says "layers, team, node, heads, columns, rows, memory" "$work/table" \
    '^ +0  0-[0-9]+ +(-|star|mesh) +[a-z0-9-]+ +[0-9-]+ +[0-9-]+ .* [0-9.]+ [GM]iB +[0-9.]+ [GM]iB +[0-9.]+$'
says "what binds" "$work/table" '^why: memory( does not bind| binds|:)'
says "one more board" "$work/table" '^why: one more board like laptop'
says "the table has the name of the model" "$work/table" 'model a <b> & "c"\.gguf$'
says "the picture has it as XML has it" "$svg" '>a &lt;b&gt; &amp; &quot;c&quot;\.gguf<'
plan --json >"$work/json" 2>&1
says "the reasons as JSON" "$work/json" '"why":\["memory'

plan --svg "$work/nowhere/plan.svg" >"$work/out" 2>"$work/err"
one_error "a folder that is not there" $? 1 "$work/err" "^shoal plan: .*$work/nowhere/plan.svg"
check "and nothing else is printed" test ! -s "$work/out"
mkdir "$work/folder"
plan --svg "$work/folder" >"$work/out" 2>"$work/err"
one_error "a picture that is a folder" $? 1 "$work/err" "^shoal plan: .*$work/folder"
"$shoal" plan -c "$ini" -m "$model" >"$work/out" 2>"$work/err"
one_error "a model for a running cluster" $? 2 "$work/err" '-m .*--profile'
rmdir "$work/folder" && ls "$work" >"$work/left"
check "no file is left beside it" test "$(grep -c svg "$work/left")" -eq 1

finish
