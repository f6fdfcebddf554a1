#!/bin/sh
# Nothing grows in programs that others leave and come back to. Requests come all the time, four at once; meanwhile a
# worker is killed and started again, others are drained and taken back, clients go away in mid-text, and now and then
# the coordinator is killed and started again. After each of these, when all serve again, the anonymous memory and the
# open descriptors of every process are noted. Lines are fitted through those of each life, of one slope, but each of a
# height of its own for each share of the model that a plan gave the process; they may rise by no more than a part of the
# mean and some slack. And every text must be the one of one process.
#   SHOAL_SOAK_MINUTES=30   the long form: four phases, each with another worker that is killed, and between two of them
#                           the coordinator is; so every process has long lives, too. docs/migration.md has its result.
#   SHOAL_LAB=1             in deploy/lab.sh's boards of 30 % of a core behind 1 Gbit/s and 0.2 ms, over ssh
# The short one has one phase of a few seconds, and sees no more than what leaks quickly. Under a sanitizer, whose
# allocator keeps what was freed, memory is not looked at.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"
test -z "${SHOAL_LAB-}" || . "$SHOAL_SRCDIR/tests/integration/lab_lib.sh"

minutes=${SHOAL_SOAK_MINUTES-0}
phases=4
least=20       # samples that make a life worth judging, the first quarter of which is not taken
slack_kib=1024 # by how much it may rise, beside 5 % of the mean
slack_fds=12    # a connection to another worker takes four, and there are three others
pass_ms=20
rest=2 # seconds, so that it takes little of the processor
if test "$minutes" = 0; then
    phases=1
    least=5
    slack_kib=24576 # a plan with more layers takes some of it
    slack_fds=16 # connections, which are those that a plan needs
    pass_ms=10
    rest=0
fi

{
    echo "{\"prompt\":\"$(long_prompt 12)\",\"n\":40,\"temperature\":0}"
    echo "{\"prompt\":\"$(long_prompt 6)And\",\"n\":40,\"temperature\":0.8,\"seed\":3}"
    echo "{\"prompt\":\"But the king said unto\",\"n\":40,\"temperature\":0}"
    echo "{\"prompt\":\"And the king said unto\",\"n\":40,\"temperature\":0.8,\"seed\":4}"
} >"$work/prompts"
local_answer -q --json --prompts "$work/prompts" 2>"$work/err" | without_times >"$work/expected"

# Ask again and again until there is $work/enough; a line for each time in $work/texts.
ask_on()
{
    while ! test -e "$work/enough"; do
        bounded 120 "$shoal" generate -q -c "$lab/cluster.ini" --json --prompts "$work/prompts" >"$work/answers" \
            2>"$work/answers.err"
        if without_times <"$work/answers" | cmp -s "$work/expected" -; then
            echo right
        else
            cp "$work/answers" "$work/wrong"
            cp "$work/answers.err" "$work/wrong.err"
            echo wrong
        fi >>"$work/texts"
    done
}

# One line for each process: hundredths of seconds, name, process, KiB of anonymous memory, descriptors, its share.
sample()
{
    ask_status
    for program in coordinator $workers; do
        pid=$(pid_of "$program")
        echo "$(($(ticks) - began)) $program $pid $(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status") $(
            find "/proc/$pid/fd" -type l 2>/dev/null | wc -l
        ) share:$(row "$program" | awk '{ print $3 "," $4 "," $5 "," $6 }')"
    done >>"$work/samples"
}

# ---- what happens ----------------------------------------------------------------------------------------

kill_and_start()
{
    kill_program "$1"
    start_worker "$1" --test-pass-ms "$pass_ms"
}

drain_and_take_back()
{
    bounded 60 "$shoal" drain -q -c "$lab/cluster.ini" "$1" >"$work/said" 2>&1 || comment <"$work/said"
    sample
    bounded 20 "$shoal" undrain -q -c "$lab/cluster.ini" "$1" >"$work/said" 2>&1 || comment <"$work/said"
}

leave_in_mid_text()
{
    timeout 1 "$shoal" generate -q -c "$lab/cluster.ini" --prompts "$work/prompts" >"$work/said" 2>&1
}

# calm: all serve within a minute, or the test is over.
calm()
{
    if ! within 60 all_serve; then
        fail "all serve again after $1" "$lab/status.txt" "$lab/status.err"
        touch "$work/enough"
        finish
    fi
}

# churn N VICTIM: what comes next.
churn()
{
    others=$(echo "$workers" | tr ' ' '\n' | grep -v "^$2$")
    case $(($1 % 3)) in
    0)
        what="worker was killed"
        kill_and_start "$2"
        ;;
    1)
        what="worker was drained"
        drain_and_take_back "$(echo "$others" | sed -n "$(($1 / 3 % 3 + 1))p")"
        ;;
    2)
        what="client left"
        leave_in_mid_text
        ;;
    esac
    calm "a $what"
    sample
    sleep "$rest"
    echo "$what" >>"$work/happened"
}

# ---- what is made of it ----------------------------------------------------------------------------------

# judge: a line for the longest life of each program in which nothing grows, and one for each in which something does;
# ends with 1 where there are such, or where lives of more than one program (the victim's) are all too short to judge.
judge()
{
    awk -v least="$least" -v slack_kib="$slack_kib" -v slack_fds="$slack_fds" -v sanitized="$sanitized" '
        # rise(v): of the lines through v over t, from m to n; mean: of v.
        function rise(v,    i, k, st, sv, sum, dt, up, over) {
            for (i = m; i <= n; i++) {
                k[share[i]]++; st[share[i]] += t[i] - t[m]; sv[share[i]] += v[i]; sum += v[i]
            }
            for (i = m; i <= n; i++) {
                dt = t[i] - t[m] - st[share[i]] / k[share[i]]
                up += dt * (v[i] - sv[share[i]] / k[share[i]])
                over += dt * dt
            }
            mean = sum / (n - m + 1)
            return over > 0 ? up / over * (t[n] - t[m]) : 0
        }
        function end_life(    kib, allowed, fds, verdict) {
            lives[name]++
            if (n >= least) {
                m = int(n / 4) + 1
                kib = rise(rss)
                allowed = mean * 0.05 + slack_kib
                verdict = !sanitized && kib > allowed ? "  memory GROWS" : ""
                row = sprintf("%8.1f %8d %9d %9d %9d", (t[n] - t[1]) / 6000, n, mean, kib, allowed)
                fds = rise(open)
                if (fds > slack_fds)
                    verdict = verdict "  descriptors GROW"
                row = sprintf("%s %6.1f %6.1f%s", row, mean, fds, verdict)
                judged[name] = 1
                if (verdict != "") { grows = 1; bad[name] = bad[name] "\n" sprintf("%-12s %5s %s", name, "", row) }
                else if (t[n] - t[1] > longest[name]) { longest[name] = t[n] - t[1]; rows[name] = row }
            }
            n = 0
        }
        BEGIN {
            printf "%-12s %5s %8s %8s %9s %9s %9s %6s %6s\n", "program", "lives", "minutes", "samples", "mean KiB",
                "rise KiB", "allowed", "files", "rise"
        }
        # Sorted by program and time.
        n > 0 && ($2 != name || $3 != pid) { end_life() }
        { name = $2; pid = $3; n++; t[n] = $1; rss[n] = $4; open[n] = $5; share[n] = $6 }
        END {
            end_life()
            for (name in lives) {
                short += !(name in judged)
                printf "%-12s %5d %s%s\n", name, lives[name], name in judged ? rows[name] : "  (none is long enough)",
                    bad[name]
            }
            exit grows || short > 1
        }'
}

new_cluster alpha beta gamma delta
prefetch=yes
if test -n "${SHOAL_LAB-}" && ! to_boards --rate 1gbit --delay 0.2ms --slow alpha=30% --slow beta=30% \
    --slow gamma=30% --slow delta=30%; then
    fail "four boards" "$work/out" "$work/err"
    finish
fi
must_start_four 8 "$pass_ms"
calm "the start"

began=$(ticks)
ask_on &
asker=$!
phase=0
i=0
while test "$phase" -lt "$phases"; do
    victim=$(echo "$workers" | tr ' ' '\n' | sed -n "$((phase % 4 + 1))p")
    if test "$phase" -gt 0; then
        kill_program coordinator
        start_coordinator
        calm "a coordinator was killed"
        echo "coordinator was killed" >>"$work/happened"
    fi
    phase=$((phase + 1))
    rounds=0
    while test "$minutes" != 0 && test $(($(ticks) - began)) -lt $((minutes * 6000 * phase / phases)) ||
        test "$rounds" -lt 6; do
        rounds=$((rounds + 1))
        churn "$i" "$victim"
        i=$((i + 1))
    done
done
touch "$work/enough"
wait "$asker"

right=$(grep -c right "$work/texts")
wrong=$(grep -c wrong "$work/texts")
times=$(sort "$work/happened" | uniq -c | awk '{ n = $1; sub(/^ *[0-9]+ /, ""); printf ", %d times a %s", n, $0 }')
note "$((($(ticks) - began) / 100)) s$times"
if test "$right" -gt 0 && test "$wrong" -eq 0; then
    pass "$((right * 4)) of $((right * 4)) texts are those of one process"
else
    fail "$((wrong * 4)) texts are not all those of one process" "$work/wrong" "$work/wrong.err"
fi
if sort -k 2,2 -k 1,1n "$work/samples" | judge >"$work/table"; then
    pass "memory and descriptors are flat"
else
    fail "memory and descriptors are flat"
fi
comment <"$work/table"
test "${SHOAL_KEEP-}" = "" || cp "$work/samples" "$SHOAL_KEEP"
check "all end with status 0" stop_cluster
finish
