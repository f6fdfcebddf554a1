#!/bin/sh
# The long form of the fuzz targets: builds them all with clang, libFuzzer and the address and
# undefined behaviour sanitizers in a folder of its own, runs each for SECONDS from its committed
# corpus on, and prints a table. Ends with 1 where there is a finding; the inputs that are findings
# are left in the current folder as finding-TARGET-*.
#
#   tests/fuzz/fuzz.sh [SECONDS [TARGET...]]       (default: 900, all)
#
#   SHOAL_FUZZ_JOBS=N     targets at a time (default: the cores)
#   SHOAL_FUZZ_BUILD=DIR  a folder to build in and keep
#   SHOAL_FUZZ_CORPUS=DIR a folder to keep the corpora in, grown; each is begun anew otherwise
#
# Needs, beside what a build does, the package clang (Debian 12: with libFuzzer in libclang-rt-14-dev,
# which it brings).
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${1:-900}
test $# -eq 0 || shift
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-fuzz-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
build=${SHOAL_FUZZ_BUILD:-$work/build}
corpus=${SHOAL_FUZZ_CORPUS:-$work/corpus}
jobs=${SHOAL_FUZZ_JOBS:-$(getconf _NPROCESSORS_ONLN)}

command -v clang >/dev/null || { echo "fuzz.sh: there is no clang (Debian: clang)" >&2; exit 1; }
mkdir -p "$build" "$corpus"
build=$(cd "$build" && pwd)
corpus=$(cd "$corpus" && pwd)
test -x "$root/configure" || (cd "$root" && sh autogen.sh) >"$work/log" 2>&1
test -f "$build/Makefile" ||
    (cd "$build" && "$root/configure" CC=clang --enable-fuzz --enable-sanitize=address,undefined \
        --disable-simd) >"$work/log" 2>&1 || { tail "$work/log" >&2; exit 1; }

all=$(cd "$root/tests/fuzz" && ls fuzz_*.c | sed 's/fuzz_\(.*\)\.c/\1/')
targets=${*:-$all}
make -s -C "$build" -j "$(getconf _NPROCESSORS_ONLN)" $(printf 'tests/fuzz/fuzz_%s ' $targets) \
    >"$work/log" 2>&1 || { tail "$work/log" >&2; exit 1; }

# Bytes of the longest input worth trying.
longest()
{
    case $1 in
    gguf) echo 6000 ;;
    ini | wire) echo 3000 ;;
    coordinator) echo 300 ;;
    *) echo 600 ;;
    esac
}

cat >"$work/one" <<'END'
set -eu
mkdir -p "$corpus/$1"
cp -n "$root/tests/fuzz/corpus/$1/"* "$corpus/$1/"
"$build/tests/fuzz/fuzz_$1" -max_total_time="$seconds" -max_len="$2" -len_control=0 -timeout=20 \
    -print_final_stats=1 -artifact_prefix="finding-$1-" "$corpus/$1" >"$work/$1.out" 2>&1 ||
    echo finding >"$work/$1.found"
END
export root build corpus seconds work
for t in $targets; do
    echo "$t $(longest "$t")"
done | xargs -P "$jobs" -L 1 sh "$work/one"

printf '%-12s %12s %8s %8s %9s  %s\n' target executions 'exec/s' edges features findings
findings=0
for t in $targets; do
    out=$work/$t.out
    found=none
    if test -f "$work/$t.found"; then
        found=$(sed -n 's/^SUMMARY: //p' "$out" | head -n 1)
        findings=$((findings + 1))
    fi
    stat() { sed -n "s/^stat::$1: *//p" "$out" | tail -n 1; }
    cover=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 \2/p' "$out" | tail -n 1)
    printf '%-12s %12s %8s %8s %9s  %.80s\n' "$t" "$(stat number_of_executed_units)" \
        "$(stat average_exec_per_sec)" ${cover:-- -} "${found:-unknown}"
done
echo "$findings findings in $seconds s a target"
test $findings -eq 0
