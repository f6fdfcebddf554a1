#!/bin/sh
# Shows that each fuzz target finds bugs: plants one for each in a copy of the tree, builds it with
# clang, libFuzzer and sanitizers, and runs the target from an empty corpus and from the committed one
# until it finds it. Prints a line a bug; ends with 1 where one is not found in SECONDS, or where the
# place that it belongs in is not there any more.
#
#   tests/fuzz/planted.sh [SECONDS [TARGET...]]    (default: 120, all)
#
# Needs, beside what a build does, the package clang.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${1:-120}
test $# -eq 0 || shift
wanted=" ${*:-} "
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-planted-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
. "$root/tests/tools/copy_tree.sh"

command -v clang >/dev/null || { echo "planted.sh: there is no clang (Debian: clang)" >&2; exit 1; }
missed=0

build()
{
    make -s -C "$work/build" -j "$(getconf _NPROCESSORS_ONLN)" "$@" >"$work/log" 2>&1
}

# hunt TARGET CORPUS: how it was found, in how many runs; nothing where it was not.
hunt()
{
    mkdir -p "$work/grown"
    if "$work/build/tests/fuzz/fuzz_$1" -max_total_time="$seconds" -max_len="$3" -len_control=0 \
        -artifact_prefix="$work/" "$work/grown" $2 >"$work/out" 2>&1; then
        echo "not found in $seconds s"
    else
        runs=$(sed -n 's/^#\([0-9]*\).*/\1/p' "$work/out" | tail -n 1)
        printf '%s' "$(($(date +%s) - began)) s, ${runs:-0} runs"
    fi
    rm -rf "$work/grown"
}

# plant TARGET BUG FILE LONGEST SED
plant()
{
    case $wanted in "  " | *" $1 "*) ;; *) return ;; esac
    cp "$work/src/$3" "$work/before"
    sed "$5" "$work/before" >"$work/src/$3"
    if cmp -s "$work/src/$3" "$work/before"; then
        printf '%-12s %-50s its place is gone\n' "$1" "$2"
        missed=$((missed + 1))
        return
    fi
    if build "tests/fuzz/fuzz_$1"; then
        began=$(date +%s)
        alone=$(hunt "$1" "" "$4")
        began=$(date +%s)
        from_corpus=$(hunt "$1" "$work/src/tests/fuzz/corpus/$1" "$4")
        how=$(grep -m 1 -oE 'AddressSanitizer: [a-z-]+|runtime error: [a-z ]+|Assertion .* failed|deadly signal' \
            "$work/out" || :)
        printf '%-12s %-50s %-20s %-20s %.60s\n' "$1" "$2" "$alone" "$from_corpus" "$how"
        case $from_corpus in not*) missed=$((missed + 1)) ;; esac
    else
        printf '%-12s %-50s does not build\n' "$1" "$2"
        missed=$((missed + 1))
    fi
    cp "$work/before" "$work/src/$3"
}

copy_tree "$root" "$work/src"
mkdir "$work/build"
test -x "$work/src/configure" || (cd "$work/src" && sh autogen.sh) >"$work/log" 2>&1
(cd "$work/build" && ../src/configure CC=clang --enable-fuzz --enable-sanitize=address,undefined \
    --disable-simd) >"$work/log" 2>&1 || { tail "$work/log" >&2; exit 1; }

printf '%-12s %-50s %-20s %-20s %s\n' target 'planted bug' 'from nothing' 'from its corpus' found
plant coordinator 'a request that has ended keeps its slot' coordinator/core_slot.c 300 \
    '/^void coord_core_slot_leave/,/^}/s/^    c->slot_request\[r->slot\] = 0;$//'
plant coordinator 'all requests may end in one step' coordinator/core_request.c 300 \
    's/return out->n < COORD_ACTIONS_MAX - 512;/return out != NULL;/'
plant gguf "a tensor's place may lie beyond the file" model/gguf.c 6000 \
    's/if (start > file_bytes || end > file_bytes - start) {/if (start > file_bytes) {/'
plant ini 'a line may hold control characters' net/ini.c 3000 \
    's/if (net_text_control(character)) {/if (character == 0) {/'
plant json 'half of a surrogate pair passes for text' client/json.c 600 \
    's/ || (c >= 0xd800 \&\& c < 0xe000)//'
plant messages 'a message may be longer than its pack' model/chat.c 600 \
    's/if (len > packed.len - MESSAGE_HEAD_BYTES)/if (len > packed.len)/'
plant sums 'a group of coded sums may end early' model/wire.c 600 \
    's/if (w > 8 || in->len < all)/if (w > 8)/'
plant tokenizer 'a piece that has been joined is joined again' model/tokenizer_join.c 600 \
    's/l->len == 0 || r->len == 0 || l->len + r->len != p.len/r->len == 0/'
plant wire 'text need not be UTF-8' net/wire.c 3000 \
    's/return take_bytes(c, max, out) \&\& net_text_ok(\*out);/return take_bytes(c, max, out);/'
plant worker 'more prompt rows are taken than there is room for' worker/core_ring.c 600 \
    's/if (n > c->ring_cap - c->ring_n) {/if (n > MODEL_ROWS_MAX) {/'

if test $missed -gt 0; then
    echo "$missed planted bugs were not found"
    exit 1
fi
