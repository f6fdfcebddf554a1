#!/bin/sh
# Cycles of the inner loops of the matrix products on Arm, by the scheduling models of llvm-mca: what
# docs/arm.md shows, for who has no board at hand. The kernels are cross-compiled as `make` would;
# in the code of each tile, a function of its own for 1 and for 8 rows of x, the innermost loops that
# multiply floats and store no results are found (in Q4_K one for the products, one for the minima),
# and a block of 32 columns and 16 rows takes the sum of their cycles. Loads are taken to hit the
# first-level cache: the question is whether the arithmetic keeps up with the memory.
#
# SHOAL_SRCDIR: the source tree (default: the current folder). CROSS_CC, OBJDUMP, LLVM_MCA: the tools.
set -u

src=${SHOAL_SRCDIR:-.}
cc=${CROSS_CC:-aarch64-linux-gnu-gcc}
objdump=${OBJDUMP:-aarch64-linux-gnu-objdump}
mca=${LLVM_MCA:-}
for tool in llvm-mca-19 llvm-mca; do
    test -n "$mca" || mca=$(command -v "$tool")
done
for tool in "$cc" "$objdump" "${mca:-llvm-mca}"; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "skipped: $tool is not installed"
        exit 77
    fi
done

dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

flags="-std=c11 -O2 -ffp-contract=off -fno-fast-math -fno-schedule-insns -D_DEFAULT_SOURCE"
iterations=200

# loops OBJECT FUNCTION: each such loop into $dir/loop.N.s; for each a line: file, how many times it
# multiplies and adds floats.
loops() {
    rm -f "$dir"/loop.*.s
    "$objdump" -d --no-show-raw-insn "$1" | awk -v name="<$2>:" -v out="$dir/loop." '
        /^[0-9a-f]+ </ { inside = $2 == name; next }
        inside && /^ *[0-9a-f]+:/ {
            address = $1
            sub(/:/, "", address)
            text = $0
            sub(/^[^\t]*\t/, "", text)
            sub(/ *\/\/.*/, "", text)
            line[++n] = text
            at[address] = n
            if (text ~ /^(b|b\.[a-z]+|cbn?z|tbn?z)[ \t]/ && match(text, /[0-9a-f]+ </)) {
                target = substr(text, RSTART, RLENGTH - 2)
                if (target in at) {
                    first[++edges] = at[target]
                    last[edges] = n
                }
            }
        }
        END {
            for (i = 1; i <= edges; i++) {
                count = 0
                inner = 1
                for (j = 1; j <= edges; j++)
                    if (j != i && first[j] >= first[i] && last[j] <= last[i])
                        inner = 0
                for (k = first[i]; k <= last[i]; k++) {
                    count += line[k] ~ /^fmla/
                    if (line[k] ~ /^(ret|st[rp][ \t]+q)/)
                        inner = 0
                }
                if (!inner || count == 0)
                    continue
                file = out (++found) ".s"
                print ".Lloop:" > file
                for (k = first[i]; k <= last[i]; k++) {
                    if (match(line[k], /[0-9a-f]+ </))
                        line[k] = substr(line[k], 1, RSTART - 1) ".Lloop"
                    print line[k] > file
                }
                close(file)
                print file, count
            }
        }'
}

# cycles OBJECT FUNCTION CPU OUTPUTS PASSES: of a block; OUTPUTS registers of results a pass, PASSES
# over the block. The CPU's model is left in $dir/model.
cycles() {
    loops "$1" "$2" >"$dir/found"
    while read -r file count; do
        "$mca" -mtriple=aarch64 -mcpu="$3" -iterations=$iterations "$file" 2>/dev/null >"$dir/report"
        sed -n 's/^\[0[.0-9]*\] *- \([A-Za-z0-9]*\)Unit.*/\1/p' "$dir/report" | head -1 >"$dir/model"
        awk -v count="$count" '/^Total Cycles:/ { print $3, count }' "$dir/report"
    done <"$dir/found" | awk -v per="$4" -v passes="$5" -v n=$iterations '
        { sum += $1 / n * per / $2 }
        END { printf "%.1f\n", sum * passes }'
}

# Bytes of a block in the packed form: scales, quants, and an eighth of a segment's head.
bytes() {
    awk -v id="TYPE($1," '$1 == id { gsub(/[(),]/, " "); print $9 / 8 + $10 + $11 }' \
        "$src/kernels/types.def"
}

# row SET CPU GHZ CORES TYPE NAME FILE
row() {
    suffix=$(echo "$1" | tr - _)_8x
    object=$dir/$1-$7.o
    one=$(cycles "$object" "tile1_$6_$suffix" "$2" 4 1)
    eight=$(cycles "$object" "tile8_$6_$suffix" "$2" 8 4)
    awk -v set="$1" -v cpu="$2" -v ghz="$3" -v cores="$4" -v type="$5" -v one="$one" \
        -v eight="$eight" -v bytes="$(bytes "$5")" 'BEGIN {
            if (one <= 0 || eight <= 0) {
                print "no loop found in the tiles of " type ", " set
                exit 1
            }
            printf "| %s | %s | %s | %.0f | %.0f | %.2f | %.2f | %.0f | %.0f | %.0f |\n", cpu, set,
                type, bytes, one, one / bytes, bytes / one, bytes / one * ghz * cores, eight,
                16 * 32 * 8 / eight
        }'
}

for set in neon neon-dotprod neon-i8mm; do
    case $set in
    neon) march= ;;
    neon-dotprod) march=-march=armv8.2-a+dotprod ;;
    neon-i8mm) march=-march=armv8.2-a+dotprod+i8mm ;;
    esac
    for file in q8_0 q4 q5 k; do
        # shellcheck disable=SC2086
        "$cc" $flags $march -I "$src" -c "$src/kernels/$set/matmul_$file.c" \
            -o "$dir/$set-$file.o" || exit 1
    done
done

echo "| core | kernels | type | bytes | cycles | cycles/byte | bytes/cycle | GB/s | 8 rows | MAC/cycle |"
echo "|---|---|---|---|---|---|---|---|---|---|"
for core in "cortex-a72 neon 1.8 4" "cortex-a76 neon-dotprod 2.4 4" \
    "neoverse-n1 neon-dotprod 2.4 4" "cortex-a78 neon-dotprod 1.5 6" \
    "neoverse-v1 neon-i8mm 2.6 1"; do
    # shellcheck disable=SC2086
    set -- $core
    for type in "Q4_0 q4_0 q4" "Q8_0 q8_0 q8_0" "Q4_K q4_k k" "Q6_K q6_k k" "Q5_K q5_k k" \
        "Q5_0 q5_0 q5" "Q4_1 q4_1 q4" "IQ4_NL iq4_nl q4"; do
        # shellcheck disable=SC2086
        row "$2" "$1" "$3" "$4" $type || exit 1
    done
    models="${models:-}$1: $(cat "$dir/model"); "
done
echo
echo "Models: $models$("$mca" --version | sed -n 's/.*LLVM version/LLVM/p')"
