#!/bin/sh
# House style as far as text shows it: no tabs, nothing at the ends of lines, no file beyond 800 lines,
# an opening comment in every .c, nothing left to do, no type names that POSIX keeps for itself.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"
cd "$SHOAL_SRCDIR" || exit 1

find $folders tests -name '*.[ch]' -o -name '*.def' | sort >"$work/files"
tab=$(printf '\t')

xargs grep -n -e "$tab" <"$work/files" >"$work/bad"
verdict "no tabs" "$work/bad"

xargs grep -n -E ' +$' <"$work/files" >"$work/bad"
verdict "no blanks at the ends of lines" "$work/bad"

xargs awk 'FNR == 801 { print FILENAME " has more than 800 lines" }' <"$work/files" >"$work/bad"
verdict "no file beyond 800 lines" "$work/bad"

xargs awk 'FNR == 1 && !/^\/\*/ { print FILENAME }' <"$work/files" >"$work/bad"
verdict "every file opens with a comment" "$work/bad"

xargs grep -n -w -E 'TODO|FIXME|XXX|HACK' <"$work/files" >"$work/bad"
verdict "nothing left to do" "$work/bad"

xargs grep -n -E '(typedef .*|^\} *)[a-z0-9_]+_t;' <"$work/files" >"$work/bad"
verdict "no type is called *_t" "$work/bad"

finish
