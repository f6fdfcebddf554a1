#!/bin/sh
# What the programs load. GLPK is for those who plan: a worker, which runs on every board, needs
# neither GLPK nor what only the command line uses.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"

# loads_only PROGRAM LIBRARIES (extended expression), besides libc and the compiler's own.
loads_only()
{
    program=$SHOAL_BUILDDIR/$1
    if ! test -f "$program"; then
        skipped "$1 loads only what it may" "$1 is not part of this build"
        return
    fi
    $READELF -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' >"$work/needed"
    if ! test -s "$work/needed"; then
        echo "$READELF lists no libraries for $program" >"$work/bad"
    else
        grep -v -E '^(libc|libm|libgcc_s|libpthread|libatomic|ld-linux[^.]*)\.so' "$work/needed" |
            grep -v -E "^($2)(-[0-9]+)?\.so" >"$work/bad"
    fi
    verdict "$1 loads only what it may" "$work/bad"
}

loads_only shoal-worker 'libzmq|libsodium|libpcre2-8|libopenblas'
loads_only shoal-coordinator 'libzmq|libsodium|libpcre2-8|libglpk|libopenblas'
loads_only shoal 'libzmq|libsodium|libpcre2-8|libglpk|libopenblas|libjansson|lib(ncurses|tinfo)w?'

if test -f "$SHOAL_BUILDDIR/shoal-worker"; then
    $NM -P "$SHOAL_BUILDDIR/shoal-worker" | grep -E '^(glp|part|coord)_' >"$work/bad"
    verdict "shoal-worker holds no code of the planner or the coordinator" "$work/bad"
else
    skipped "shoal-worker holds no code of the planner or the coordinator" "not built"
fi

finish
