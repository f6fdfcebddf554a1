#!/bin/sh
# Boundaries, asked of the text: our headers are included by their full path from the root, a folder
# includes only what its row of the layers allows, private headers stay at home, and a library's header
# appears only behind its own files.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"
cd "$SHOAL_SRCDIR" || exit 1

# "file header" for every include with quotes; "file <header" for the others.
find $folders tests -name '*.[ch]' -o -name '*.def' | sort >"$work/files"
xargs grep -H -E '^[ 	]*#[ 	]*include' <"$work/files" |
    sed -n -e 's/^\([^:]*\):[^"]*"\([^"]*\)".*/\1 \2/p' \
        -e 's/^\([^:]*\):[^<]*<\([^>]*\)>.*/\1 <\2/p' >"$work/includes"

# config.h is written by configure into the build's root.
grep -v -E ' <| config\.h$' "$work/includes" >"$work/own"

grep -v -E ' [a-z]+/[a-z0-9_/-]+\.(h|def|inc)$' "$work/own" >"$work/bad"
verdict "own headers are named by their path from the root" "$work/bad"

while read -r file header; do
    test -f "$header" || echo "$file: $header does not exist"
done <"$work/own" >"$work/bad"
verdict "own headers exist" "$work/bad"

while read -r file header; do
    from=${file%%/*}
    to=${header%%/*}
    test "$from" = "$to" && continue
    case " $(allowed_of "$from") " in
    *" $to "*) ;;
    *) echo "$file includes $header" ;;
    esac
done <"$work/own" >"$work/bad"
verdict "each folder includes only what its layer allows" "$work/bad"

# Lists made to be included with macros (*.def) are public: tests and benches derive from them. A unit
# test or a bench may look into its module.
while read -r file header; do
    from=${file%%/*}
    to=${header%%/*}
    case $header in
    "$to/$to.h" | *.def) continue ;;
    esac
    case $file in
    tests/unit/* | tests/bench/*) continue ;;
    esac
    test "$from" = "$to" || echo "$file includes the private $header"
done <"$work/own" >"$work/bad"
verdict "private headers are included only from their own folder" "$work/bad"

# header_only_in HEADER FILES (extended expressions)
header_only_in()
{
    grep -E " <($1)$" "$work/includes" | grep -v -E "^($2)" >"$work/bad"
    verdict "<$1> only in $2" "$work/bad"
}

header_only_in 'zmq\.h' 'net/|tests/'
header_only_in 'sodium(/.*)?\.h' 'net/|tests/'
header_only_in 'glpk\.h' 'partition/milp'
header_only_in 'cblas\.h' 'kernels/|tests/bench/'
header_only_in 'pcre2\.h' 'model/tokenizer'
header_only_in 'jansson\.h' 'client/|tests/'
header_only_in 'n?curses\.h' 'client/'
header_only_in 'cmocka\.h' 'tests/'
header_only_in 'immintrin\.h|arm_neon\.h|x86intrin\.h' 'kernels/(sse4|avx2|avx512|neon|neon-dotprod|neon-i8mm|pool|fp)'

finish
