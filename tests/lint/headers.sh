#!/bin/sh
# Every header compiles alone, and a second time after itself. Warnings do not count: a header that
# declares what its includer defines is used half here.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"

machine=$($CC -dumpmachine 2>/dev/null)
for header in $(cd "$SHOAL_SRCDIR" && find $folders -name '*.h' | sort); do
    flags=
    case $header:$machine in
    */sse4/*:x86_64*) flags="-msse4.1 -mssse3" ;;
    */avx2/*:x86_64*) flags="-mavx2 -mfma -mf16c" ;;
    */avx512/*:x86_64*)
        flags="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c"
        ;;
    */neon-i8mm/*:aarch64*) flags="-march=armv8.2-a+dotprod+i8mm" ;;
    */neon-dotprod/*:aarch64*) flags="-march=armv8.2-a+dotprod" ;;
    */neon/*:aarch64*) ;;
    */sse4/* | */avx2/* | */avx512/* | */neon/* | */neon-dotprod/* | */neon-i8mm/*)
        skipped "$header compiles alone" "for another machine"
        continue
        ;;
    esac
    # What a type's file defines before it includes this one.
    case $header in
    kernels/avx512/blocks.h) flags="$flags -DHEAD=64 -DSCALES=32 -DQUANTS=256 -DFORM=FORM_SUPER_MIN -DOFFSET=0" ;;
    esac
    printf '#include "%s"\n#include "%s"\nint lint_probe;\nint lint_probe = 1;\n' \
        "$header" "$header" >"$work/probe.c"
    # Word splitting is wanted: CC and the flags are lists.
    $CC -I"$SHOAL_SRCDIR" $LINT_CFLAGS -w -Wno-error $flags -fsyntax-only "$work/probe.c" \
        >"$work/bad" 2>&1
    test $? -eq 0 && : >"$work/bad"
    verdict "$header compiles alone" "$work/bad"
done

finish
