#!/bin/sh
# The NEON kernels against the definition, on a machine that has none: the kernels, the comparison
# and its main program are built statically for 64-bit Arm and run by qemu as three processors
# (without and with the dot-product instructions, and all that qemu knows, i8mm among it). Each must
# also give the one hash that all machines have; and the demo model and random ones of
# each architecture, run by each, the one text. TAP on stdout; skipped where a tool is missing.
#
# SHOAL_SRCDIR: the source tree (default: the current folder). CROSS_CC, QEMU: the tools.
set -u

src=${SHOAL_SRCDIR:-.}
cc=${CROSS_CC:-aarch64-linux-gnu-gcc}
qemu=${QEMU:-qemu-aarch64-static}
for tool in "$cc" "$qemu"; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "1..0 # SKIP $tool is not installed"
        exit 0
    fi
done

dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

flags="-std=c11 -O2 -ffp-contract=off -fno-fast-math -Wall -Wextra -Werror -pthread
    -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE -DSHOAL_WITH_NEON -DSHOAL_WITH_NEONDOT
    -DSHOAL_WITH_NEONI8MM"
neon=-fno-schedule-insns

jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

# compile NAME FLAGS FILE...: objects are named after NAME, as folders share file names
compile() {
    name=$1 extra=$2
    shift 2
    # shellcheck disable=SC2016
    printf '%s\n' "$@" | xargs -P "$jobs" -I FILE sh -c \
        '"$1" $2 -I "$3" -c "$6" -o "$4/$5-$(basename "$6" .c).o"' \
        sh "$cc" "$flags $extra" "$src" "$dir" "$name" FILE
}

# The forward pass knows no text, and the library that cuts texts into words is not there for Arm.
build() {
    set --
    for file in "$src"/model/*.c; do
        case $file in
        */tokenizer*.c | */chat.c) ;;
        *) set -- "$@" "$file" ;;
        esac
    done
    compile base "" "$src"/common/*.c &&
        compile kern "" "$src"/kernels/*.c "$src"/kernels/generic/*.c &&
        compile neon "$neon" "$src"/kernels/neon/*.c &&
        compile dot "$neon -march=armv8.2-a+dotprod" "$src"/kernels/neon-dotprod/*.c &&
        compile i8mm "$neon -march=armv8.2-a+dotprod+i8mm" "$src"/kernels/neon-i8mm/*.c &&
        compile test "" "$src"/tests/unit/kernel_cases.c "$src"/tests/unit/kernel_inputs.c \
            "$src"/tests/unit/kernel_cases_main.c &&
        "$cc" -static -pthread "$dir"/*.o -lm -o "$dir/kernel_cases" &&
        rm "$dir"/test-*.o &&
        compile model "" "$@" &&
        compile tool "" "$src"/tests/tools/make_model.c "$src"/tests/tools/make_blocks.c &&
        compile test "" "$src"/tests/unit/tiny_model.c "$src"/tests/unit/tiny_types.c \
            "$src"/tests/unit/one_text.c "$src"/tests/unit/one_text_main.c &&
        "$cc" -static -pthread "$dir"/*.o -lm -o "$dir/one_text"
}

verdict() {
    n=$((n + 1))
    if "$@"; then
        echo "ok $n - $what"
    else
        echo "not ok $n - $what"
    fi
}

echo 1..6
if ! build >"$dir/log" 2>&1; then
    sed 's/^/# /' "$dir/log"
    echo "Bail out! the kernels do not build for 64-bit Arm"
    exit 1
fi
n=0
# A set is compared on the poorest processor that has it; the richer ones have its hash.
for cpu in "cortex-a53 neon" "cortex-a76 neon-dotprod" "max neon-i8mm"; do
    model=${cpu% *} isa=${cpu#* }
    what="$model: $isa"
    verdict "$qemu" -cpu "$model" "$dir/kernel_cases" "$isa"
    what="$model: one text with $isa"
    verdict "$qemu" -cpu "$model" "$dir/one_text" "$src/models/shoal-demo-7m-q8_0.gguf" "$isa"
done
