#!/bin/sh
# The README's first command, on this build: three workers answer a prompt with the text that one process
# gives, the plan is shown with predicted and measured times, and nothing is left behind.
# Alone: it looks for programs of this build that are left behind.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

question="In the beginning"
mkdir "$work/tmp"
local_answer -q -p "$question" -n 96 --temperature 0.7 --seed 1 >"$work/text" 2>&1
bounded 60 env TMPDIR="$work/tmp" SHOAL_QUICKSTART_BUILD="$SHOAL_BUILDDIR" SHOAL_QUICKSTART_PROMPT="$question" \
    sh "$SHOAL_SRCDIR/deploy/quickstart.sh" >"$work/out" 2>"$work/err"
check "it ends with status 0" test $? -eq 0
sed -n "s/^$question//p" "$work/out" | sed -n 1p >"$work/first"
sed -n 1p "$work/text" >"$work/expected"
same "the text is the one of shoal local" "$work/expected" "$work/first"
for name in alpha beta gamma; do
    says "$name has layers, predicted and measured" "$work/out" "^ +[0-9] +[0-9]+-[0-9]+ +- +$name .* [0-9.]+ +[0-9.]+\$"
done
says "so has a token of one request" "$work/out" '^one request: [0-9.]+ ms a token predicted, [0-9.]+ ms measured$'
says "it says that one board alone would be faster" "$work/out" 'one board alone would be faster'
check "no file is left" test -z "$(ls -A "$work/tmp")"
for process in /proc/[0-9]*; do
    case $(readlink "$process/exe" 2>/dev/null) in
    "$SHOAL_BUILDDIR"/shoal*) tr '\0' ' ' <"$process/cmdline" ;;
    esac
done >"$work/left"
check "no process is left" test ! -s "$work/left"
finish
