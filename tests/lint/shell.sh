#!/bin/sh
# Every script of the tree parses as POSIX shell.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"
cd "$SHOAL_SRCDIR" || exit 1

for script in autogen.sh $(find deploy tests -name '*.sh' | sort); do
    test -f "$script" || continue
    sh -n "$script" >"$work/bad" 2>&1
    verdict "$script parses" "$work/bad"
done

finish
