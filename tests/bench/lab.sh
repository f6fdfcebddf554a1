#!/bin/sh
# Predictions held against the laboratory: 4 boards of deploy/lab.sh, even and uneven, behind three kinds of
# links, with a model cut by layers, by heads and as the planner likes: 18 cases. What the coordinator predicts
# is written down before anything is asked; then one request's ms a token and eight requests' tokens a second are
# measured, medians of RUNS. The latter is what is predicted, the rate while all slots decode: 8 times 48 tokens by
# the time that answers of 50 take longer than such of 2. Needs root and a quiet machine. The coordinator, which
# shares the machine with its boards here, works nothing out ahead meanwhile.
#
#   SHOAL_BUILDDIR=build sh tests/bench/lab.sh MODEL [RUNS]        (5 runs by default; CSV on stdout)
#
# Boards are slowed by CPU quotas so that all of them and the link emulator leave the machine something: `idle`
# is how much of its cores was left over, and a case that leaves less than 0.2 of a core is void and is repeated
# with boards a quarter slower. A ratio is measured by predicted. What other programs use of the machine, however
# low they are in priority, counts as not left over; SHOAL_BENCH_FACTORS=1 keeps such cases and does not repeat.
# SHOAL_BENCH_LINKS and SHOAL_BENCH_BOARDS say which of the links and boards below, if not all.
model=$(realpath "${1?usage: lab.sh MODEL [RUNS]}")
. "$(dirname "$0")/lab_lib.sh"
runs=${2-5}
length=24
long="in the beginning was the sea and the sea was dark and no one said a word of it until the wind"

# median: of the numbers on stdin
median()
{
    sort -g | awk '{ v[NR] = $1 } END { printf "%.2f", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# Sum of the requests' tokens a second in $work/answer.
rate()
{
    sed 's/.*"tokens_per_s":\([0-9.e+-]*\).*/\1/' "$work/answer" | awk '{ sum += $1 } END { printf "%.4f", sum }'
}

# Idle time of all cores so far, and the time, in hundredths of a second.
clock()
{
    awk '$1 == "cpu" { print $5 }' /proc/stat
    awk '{ print $1 * 100 }' /proc/uptime
}

# json KEY: of the plan
json()
{
    sed -n "s/.*\"$1\":\([0-9.e+-]*\).*/\1/p" "$work/plan"
}

# eight N NAME: seconds that eight answers of N tokens take
eight()
{
    for n in 1 2 3 4 5 6 7 8; do
        echo "$2$n boats" # nothing of it was read before, so both times have it in them
    done >"$work/prompts"
    begun=$(clock | tail -n 1)
    ask generate -q -c "$work/cluster.ini" --prompts "$work/prompts" -n "$1" --temperature 0 --json >"$work/answer"
    echo "$(clock | tail -n 1) $begun" | awk '{ print ($1 - $2) / 100 }'
}

measure()
{
    : >"$work/one"
    : >"$work/eight"
    set -- $(clock)
    idle=$1
    since=$2
    run=0
    while test "$run" -lt "$runs"; do
        run=$((run + 1))
        ask generate -q -c "$work/cluster.ini" -p "run $run $long" -n "$length" --temperature 0 --json >"$work/answer"
        echo "$(rate)" | awk '{ print 1000 / $1 }' >>"$work/one"
        begin=$(eight 2 "a$run")
        echo "$(eight 50 "b$run") $begin" | awk '{ printf "%.4f\n", 8 * 48 / ($1 - $2) }' >>"$work/eight"
    done
    set -- $(clock)
    left=$(echo "$1 $idle $2 $since" | awk '{ printf "%.2f", ($1 - $2) / ($3 - $4) }')
}

# shape: stages as "team sizes and layers", from the plan
shape()
{
    ask status -q -c "$work/cluster.ini" | awk '$2 == "serving" { n[$3] = n[$3] + 1; s[$3] = $4 }
        END { for (l in n) printf "%s:%dx%s ", l, n[l], (n[l] > 1 ? s[l] : "alone") }' | tr ' ' '\n' | sort -n | tr '\n' ' ' | sed 's/ *$//'
}

# one_case LINKS BOARDS GRANULARITY
one_case()
{
    write_config 256 "use: best
prefetch: no
granularity: $3"
    start_cluster
    ask plan -q -c "$work/cluster.ini" --json >"$work/plan"
    predicted_ms=$(json predicted_ms_per_token)
    predicted_rate=$(json predicted_tok_s)
    what=$(shape)
    measure
    stop_cluster
    one=$(median <"$work/one")
    eight=$(median <"$work/eight")
    void=
    test "$(echo "$left" | awk '{ print ($1 < 0.2) }')" -eq 0 || void=void
    echo "$predicted_ms $one $predicted_rate $eight" | awk -v head="$1,$2,$3,$what" -v tail="$left,$void" \
        '{ printf "%s,%.1f,%.1f,%.2f,%.2f,%.2f,%.2f,%s\n", head, $1, $2, $2 / $1, $3, $4, $4 / $3, tail }'
}

# lab_up LINKS BOARDS FACTOR: quotas in percent of a core, times FACTOR
lab_up()
{
    case $1 in
    none) options= ;;
    *) options="--rate ${1%+*} --delay ${1#*+}" ;;
    esac
    case $2 in
    even) quotas="30 30 30 30" ;;
    uneven) quotas="50 30 20 15" ;;
    esac
    i=0
    for name in $names; do
        i=$((i + 1))
        quota=$(echo "$quotas" | cut -d ' ' -f "$i")
        options="$options --slow $name=$(echo "$quota $3" | awk '{ printf "%d", $1 * $2 }')%"
    done
    # Word splitting is wanted: these are options.
    lab up 4 $options >"$work/lab.log" 2>&1 || {
        cat "$work/lab.log" >&2
        exit 1
    }
}

"$build/shoal" keygen -q "$work/keys" coordinator client $names >/dev/null
echo "links,boards,granularity,plan,predicted_ms,ms,ratio,predicted_tok_s,tok_s,ratio,idle_cores,void"
for links in ${SHOAL_BENCH_LINKS-100mbit+1ms 1gbit+0.2ms none}; do
    for boards in ${SHOAL_BENCH_BOARDS-even uneven}; do
        for factor in ${SHOAL_BENCH_FACTORS-1 0.75}; do
            lab_up "$links" "$boards" "$factor"
            for granularity in layers heads auto; do
                one_case "$links" "$boards" "$granularity"
            done >"$work/cases"
            lab down >/dev/null 2>&1
            grep -q ',void$' "$work/cases" || break
        done
        cat "$work/cases" | tee -a "$work/all"
    done
done
# A case is within 15 % where both of its ratios are; auto is to be no slower than the better of the others.
awk -F , '{ good += $7 > 0.85 && $7 < 1.15 && $10 > 0.85 && $10 < 1.15; n++
        ms[$3] = $6; rate[$3] = $9
        if ($3 == "auto") { best = ms["layers"] < ms["heads"] ? ms["layers"] : ms["heads"]
            worse += $6 > best * 1.05 } }
    END { printf "# %d of %d cases within 15 %%; auto slower than the better of the others by more than 5 %% in %d\n",
        good, n, worse }' "$work/all"
