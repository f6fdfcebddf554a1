#!/bin/sh
# What happens when a board shrinks under a text: 4 boards of deploy/lab.sh, eight requests in flight.
#   memory  a neighbour in its control group takes 20 MB a second until half of its memory is gone
#   limit   the limit of that group is lowered by 20 MB a second to half
#   cpu     its CPU quota is cut to 30 % of what it had
# It is the board with the most heads. Each case prints what happened as CSV, a line a fact with the seconds since the
# change began, and verdicts. Needs root; docs/migration.md has a result.
#
#   SHOAL_BUILDDIR=build sh tests/bench/pressure.sh MODEL [CASE]...        (all by default)
#   SHOAL_SECONDS=300       how long nothing may flap after the quota was cut (60 by default)
#   SHOAL_POLICY=program    or myopic or static
#   SHOAL_LIMIT_MB=512      what the board has before
#   SHOAL_KEEP=FOLDER       where the logs are copied to, and what was seen each second
model=$(realpath "${1?usage: pressure.sh MODEL [memory|limit|cpu]...}")
. "$(dirname "$0")/lab_lib.sh"
shift
test $# -gt 0 || set -- memory limit cpu
seconds=${SHOAL_SECONDS-60}
policy=${SHOAL_POLICY-program}
limit_mb=${SHOAL_LIMIT_MB-512}
step_mb=20
log=$work/coordinator.log

# prompts TOKENS: eight requests, half of them greedy
prompts()
{
    for n in 1 2 3 4 5 6 7 8; do
        echo "{\"prompt\":\"boats $n were on the sea and the wind\",\"n\":$1,\"temperature\":0.$((n % 2 * 8)),\"seed\":$n}"
    done >"$work/prompts"
}

answer()
{
    on coordinator timeout 560 "$build/shoal" generate -q -c "$work/cluster.ini" --prompts "$work/prompts" --json \
        >"$work/$1.json" 2>"$work/$1.err" || :
    sed 's/,"ttft_ms".*//' "$work/$1.json" >"$work/$1"
}

now()
{
    date +%s.%N
}

# fact WHAT TEXT: one line, with the seconds since $began
fact()
{
    awk -v a="$began" -v b="$(now)" -v what="$1" -v text="$2" 'BEGIN { printf "%s,%.1f,%s\n", what, b - a, text }'
}

verdict()
{
    what=$1
    shift
    if "$@"; then
        echo "verdict,ok,$what"
    else
        echo "verdict,FAILED,$what"
        status=1
    fi
}

# Where the victim's memory group is, and one of its counters.
group()
{
    id=$(cat "$work/lab/id")
    if test -d "/sys/fs/cgroup/memory/$id/$victim"; then
        echo "/sys/fs/cgroup/memory/$id/$victim"
    else
        echo "/sys/fs/cgroup/$id/$victim"
    fi
}

# The board with the most heads, or columns where none has more heads, of the plan in force.
most_loaded()
{
    sed -n 's/.* planned name=\([^ ]*\) .* heads=\([0-9]*\) columns=\([0-9]*\) .*/\2 \3 \1/p' "$log" | tail -n 4 |
        sort -k 1,1n -k 2,2n | sed -n '$s/.* //p'
}

oom_kills()
{
    cat "$(group)/memory.oom_control" "$(group)/memory.events" 2>/dev/null | awk '$1 == "oom_kill" { n += $2 } END { print n + 0 }'
}

# What the victim has of the plan, and its memory.
share()
{
    ask status -q -c "$work/cluster.ini" --json | tr '{' '\n' | sed -n '/"name":"'"$victim"'"/{
        s/.*"heads":\([0-9]*\).*"columns":\([0-9]*\).*"memory_used":\([0-9]*\).*/\1 heads \2 columns, \3 bytes used/p
    }'
}

worker_pids()
{
    pgrep -f "shoal-worker -c $work/cluster.ini" | sort | tr '\n' ' '
}

# Pages that the kernel took from the victim's group and had to give back, as often as that happened.
came_back()
{
    awk '/^workingset_refault(_file)? / { n += $2 } END { print n + 0 }' "$(group)/memory.stat"
}

# observe FILE: a line a second, until FILE.stop is there: time, tokens a second of late, pages that came back
observe()
{
    : >"$1"
    while ! test -e "$1.stop"; do
        echo "$(now) $(pace) $(came_back)" >>"$1"
        sleep 1
    done
}

# span FILE FROM TO FIELD: that field of the lines of observe between two times
span()
{
    awk -v from="$2" -v to="$3" -v field="$4" 'NF == 3 && $1 >= from && $1 < to { print $field }' "$1"
}

# returned FROM TO: MiB that came back to the victim
returned()
{
    span "$work/seen" "$1" "$2" 3 | awk 'NR == 1 { first = $1 } { last = $1 } END { printf "%.0f", (last - first) / 256 }'
}

# What one had to wait for in a phase. phase NAME FROM TO
phase()
{
    span "$work/seen" "$2" "$3" 2 >"$work/paces"
    fact "$1" "$(median <"$work/paces") tokens a second ($(sort -n "$work/paces" | head -n 1) at least); \
$(returned "$2" "$3") MiB of pages came back to $victim"
}

# Thrashing is when pages go and come back over and over, and text waits for them.
no_thrashing()
{
    worst=$(span "$work/seen" "$squeezed" "$settled" 2 | sort -n | head -n 1)
    usual=$({ span "$work/seen" 0 "$squeezed" 2 | median && echo && span "$work/seen" "$settled" 1e12 2 | median; } |
        sort -n | head -n 1)
    awk -v worst="$worst" -v usual="$usual" 'BEGIN { exit !(worst > 0 && worst >= usual / 2) }' &&
        test "$(returned "$squeezed" 1e12)" -le $((limit_mb / 2))
}

# changes FROM: the plans that were put in force since line FROM of the log
changes()
{
    tail -n +"$1" "$log" | grep -E ' (plan|planned|commit|memory_short|pace|prepare_failed|no_plan|ring_broken) ' |
        sed 's/^/log,/'
}

same()
{
    test "$(wc -l <"$work/$1")" -eq 8 && cmp -s "$work/$1" "$work/$2"
}

keep()
{
    test "${SHOAL_KEEP-}" = "" || cp "$work"/*.log "$work"/before "$work"/after "$work"/seen "$SHOAL_KEEP" 2>/dev/null || :
}

# The median of the lines of a column of numbers.
median()
{
    sort -n | awk '{ v[NR] = $1 } END { if (NR > 0) printf "%.1f", v[int((NR + 1) / 2)] }'
}

# in_flight: wait until all eight are
in_flight()
{
    until ask status -q -c "$work/cluster.ini" | grep -q '; 8 of 8 slots in use'; do
        sleep 0.2
    done
}

# memory_case HOW
memory_case()
{
    write_config 512 "granularity: ${SHOAL_GRANULARITY-heads}
exchange: star
use: all"
    start_cluster
    victim=$(most_loaded)
    lab change --memory "$victim=${limit_mb}M"
    prompts "${SHOAL_TOKENS-200}"
    began=$(now)
    answer undisturbed
    fact "undisturbed" "$(sed 's/.*"tokens_per_s":\([0-9.e+-]*\).*/\1/' "$work/undisturbed.json" | median) tokens a second each"
    before=$(worker_pids)
    killed=$(oom_kills)
    (answer disturbed) &
    answering=$!
    in_flight
    rm -f "$work/seen.stop"
    observe "$work/seen" &
    observing=$!
    sleep 10
    line=$(($(wc -l <"$log") + 1))
    began=$(now)
    squeezed=$began
    fact "before" "$victim: $(share)"
    steps=$(((limit_mb / 2 + step_mb - 1) / step_mb))
    if test "$1" = memory; then
        touch "$work/neighbour"
        # tail keeps what it reads until the end.
        on "$victim" sh -c "(i=0; while test \$i -lt $steps; do head -c ${step_mb}M /dev/zero; sleep 1; i=\$((i + 1)); done
            while test -e '$work/neighbour'; do sleep 1; done) | tail -c 1G >/dev/null" &
        neighbour=$!
    fi
    i=0
    while test "$i" -lt "$steps"; do
        i=$((i + 1))
        if test "$1" = limit; then
            lab change --memory "$victim=$((limit_mb - i * step_mb))M" || fact limit "not taken"
        fi
        sleep 1
        test $((i % 4)) -ne 0 || fact "meanwhile" "$(share)"
    done
    sleep 5 # what status says of the pace is the mean of 5 s
    settled=$(now)
    wait "$answering" || :
    ended=$(now)
    touch "$work/seen.stop"
    wait "$observing"
    fact "after" "$(share)"
    changes "$line"
    phase "pace before" 0 "$squeezed"
    phase "pace while it shrank" "$squeezed" "$settled"
    phase "pace after" "$settled" "$ended"
    verdict "$1: something left it" test "$(tail -n +"$line" "$log" | grep -c ' commit ')" -gt 0
    verdict "$1: no thrashing: half the pace at least, no more came back than its memory holds" \
        no_thrashing
    verdict "$1: nobody was killed" test "$(oom_kills)" -eq "$killed" -a "$(worker_pids)" = "$before"
    verdict "$1: no plan was broken" test "$(tail -n +"$line" "$log" | grep -c ' ring_broken ')" -eq 0
    verdict "$1: tokens are those of an undisturbed run" same undisturbed disturbed
    if test "$1" = memory; then
        rm "$work/neighbour"
        wait "$neighbour" || :
    fi
    keep
    stop_cluster
    lab change --memory "$victim=4G"
}

# Tokens a second of all requests together, of late; and what the plan in force promises.
pace()
{
    ask status -q -c "$work/cluster.ini" | sed -n 's/.*; \([0-9.]*\) tok\/s$/\1/p'
}

promised()
{
    ask plan -c "$work/cluster.ini" 2>/dev/null | sed -n 's/^all 8 slots in use: \([0-9.]*\) tok.*/\1/p'
}

# paces SECONDS FILE: tokens a second of late, and when
paces()
{
    until=$(($(date +%s) + $1))
    : >"$2"
    while test "$(date +%s)" -lt "$until"; do
        sleep 1
        is=$(pace)
        echo "${is:-0} $(now)" >>"$2"
    done
}

within_15()
{
    awk -v is="$1" -v should="$2" 'BEGIN { exit !(is > 0 && should > 0 && 1 / is <= 1.15 / should) }'
}

cpu_case()
{
    # One that computes more than the others, as it has the same share of a core.
    write_config 2048 "granularity: ${SHOAL_GRANULARITY-auto}
exchange: star
use: all"
    start_cluster
    prompts 2000
    (answer disturbed) &
    answering=$!
    in_flight
    sleep 20
    victim=$(most_loaded)
    paces 15 "$work/before"
    began=$(now)
    fact "before" "$(median <"$work/before") tokens a second (promised $(promised))"
    line=$(($(wc -l <"$log") + 1))
    began=$(now)
    lab change --slow "$victim=9%"
    fact "cut" "$victim has 9 % of a core instead of 30 %"
    paces "$seconds" "$work/after"
    five=$(awk -v began="$began" '$2 >= began + 5 { print $1; exit }' "$work/after")
    should=$(promised)
    fact "five seconds later" "$five tokens a second"
    # The minute behind the change; what status says is the mean of 5 s. Later the texts are longer.
    since=$(date -d "$(tail -n +"$line" "$log" | sed -n 's/ .* commit .*//p' | head -n 1)" +%s)
    minute=$(awk -v from=$((since + 6)) '$2 >= from && $2 < from + 60 { print $1 }' "$work/after" | median)
    fact "the minute behind the new plan" "$minute tokens a second (promised $should)"
    fact "within 15 % of that" "$(awk -v began="$began" -v should="$should" '$2 >= began + 5 && 1 / $1 <= 1.15 / should {
        printf "%.0f s after the cut", $2 - began; exit }' "$work/after")"
    fact "at the end" "$(tail -n 15 "$work/after" | median) tokens a second, with longer texts"
    changes "$line"
    verdict "cpu: the plan changed once" test "$(tail -n +"$line" "$log" | grep -c ' commit ')" -eq 1
    verdict "cpu: the pace is within 15 % of the promised one" within_15 "$minute" "$should"
    verdict "cpu: no plan was broken" test "$(tail -n +"$line" "$log" | grep -c ' ring_broken ')" -eq 0
    keep
    stop_cluster
    lab change --slow "$victim=30%"
}

status=0
"$build/shoal" keygen -q "$work/keys" coordinator client $names >/dev/null
lab up 4 --rate 1gbit --delay 0.2ms --slow node1=30% --slow node2=30% --slow node3=30% --slow node4=30% >"$work/lab.log" 2>&1 || {
    cat "$work/lab.log" >&2
    exit 1
}
for one in "$@"; do
    case $one in
    memory | limit) memory_case "$one" ;;
    cpu) cpu_case ;;
    *) echo "there is no case $one" >&2; exit 2 ;;
    esac
done
exit "$status"
