#!/bin/sh
# Runs one test, a program or a script, keeps its exit status, and says at the end how long it took.
#
# A script that judges by the clock says so in a line `# Alone: WHY`: it runs while no other test does, even
# under make -j (one lock, which such tests take alone and all others share). All others bear each other;
# each has a number that no other has meanwhile, SHOAL_TEST_SLOT, from which follow its ports. A test that
# hangs ends after half an hour. And CMocka reports a skipped test as `not ok N # SKIP NAME`, which to the
# driver is a failure; in TAP a skip is `ok N - NAME # SKIP reason`.
SHOAL_TEST_SLOT=0
export SHOAL_TEST_SLOT
if command -v flock >/dev/null; then
    exec 9>"$SHOAL_BUILDDIR/tests/running.lock"
    for script in "$@"; do :; done
    if grep -q '^# Alone: ' "$script" 2>/dev/null; then
        flock -x 9
    else
        flock -s 9
    fi
    while exec 8>"$SHOAL_BUILDDIR/tests/running.$SHOAL_TEST_SLOT.lock" && ! flock -n 8; do
        SHOAL_TEST_SLOT=$((SHOAL_TEST_SLOT + 1))
    done
fi

# took SINCE: seconds by the clock of the machine, and of processor time of what has ended.
took()
{
    read -r now rest </proc/uptime
    read -r stat </proc/$$/stat
    # Words behind the name: the 14th and 15th are what ended children used, in ticks.
    # shellcheck disable=SC2086
    set -- "$1" ${stat##*) }
    awk -v since="$1" -v now="$now" -v used=$((${15} + ${16})) -v hz="$(getconf CLK_TCK)" \
        'BEGIN { printf "# took %.1f s, %.1f s of processor time\n", now - since, used / hz }'
}

read -r since rest </proc/uptime
exec 3>&1
status=$({
    {
        timeout --foreground -k 30 1800 "$@" 3>&- 4>&- 8>&- 9>&-
        echo $? >&4
    } | sed -u 's/^not ok \([0-9]*\) # SKIP \(.*\)/ok \1 - \2 # SKIP what it needs is not here/' >&3
} 4>&1)
took "$since"
exit "$status"
