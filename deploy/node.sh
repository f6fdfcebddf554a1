#!/bin/sh
# One program of a cluster on its own machine: starts it and keeps it running, says how it does, stops
# it, removes it. deploy/cluster.sh copies this to every board and calls it there.
#
#   node.sh start DIR UNIT COMMAND...  start anew; fails, with the program's own line, where it ends at once
#   node.sh status DIR UNIT            "up SECONDS" or "down", and the last line of the log
#   node.sh stop DIR UNIT              end it and wait until it has ended
#   node.sh remove DIR                 what cluster.sh put into DIR; DIR and the folders above where empty
#
# DIR is the program's folder, for log, log.old and, while it runs, how it is kept running: by systemd,
# as the transient unit UNIT, where this user's programs may outlive a login; otherwise by the few lines
# at `supervise`, which start it again when it ends, after 1, 2, 4 ... 30 seconds.
set -eu

log_bytes_max=8388608 # a longer log is put aside at the next start
pause_max=30          # seconds between two starts
good_seconds=60       # after which a program counts as having run

# --system, --user or nothing
manager()
{
    test -d /run/systemd/system && command -v systemd-run >/dev/null || return 0
    if test "$(id -u)" -eq 0; then
        echo --system
    elif test "$(loginctl show-user "$(id -un)" -p Linger --value 2>/dev/null)" = yes &&
        systemctl --user show-environment >/dev/null 2>&1; then
        echo --user
    fi
}

supervisor_pid()
{
    pid=$(cat "$dir/supervisor" 2>/dev/null || :)
    if test -n "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -F " supervise $dir "; then
        echo "$pid"
    fi
}

# The program's pid; nothing while it does not run.
program_pid()
{
    if test -s "$dir/manager"; then
        systemctl "$(cat "$dir/manager")" show -p MainPID --value "$unit" 2>/dev/null | grep -v -x 0 || :
    elif test -n "$(supervisor_pid)"; then
        pid=$(cat "$dir/pid" 2>/dev/null || :)
        test -z "$pid" || ! kill -0 "$pid" 2>/dev/null || echo "$pid"
    fi
}

supervise()
{
    ending=0
    pause=1
    echo $$ >"$dir/supervisor"
    trap 'ending=1; kill "$child" 2>/dev/null || :' HUP INT TERM
    while test "$ending" -eq 0; do
        began=$(date +%s)
        "$@" &
        child=$!
        echo "$child" >"$dir/pid"
        rc=0
        wait "$child" || rc=$?
        # The trap ends the first wait; the second one is for the program.
        test "$ending" -eq 0 || wait "$child" || :
        rm -f "$dir/pid"
        test "$ending" -eq 0 || break
        test $(($(date +%s) - began)) -lt "$good_seconds" || pause=1
        echo "supervise: ended with status $rc, starts again in $pause s"
        sleep "$pause" &
        child=$!
        wait "$child" || :
        pause=$((pause * 2 < pause_max ? pause * 2 : pause_max))
    done
    rm -f "$dir/supervisor"
}

# Wait for the program's first line in the part of the log behind byte $1.
wait_for_start()
{
    tries=0
    while test "$tries" -lt 300; do
        tries=$((tries + 1))
        tail -c +$(($1 + 1)) "$dir/log" >"$dir/first" 2>/dev/null || :
        if grep -q ' started ' "$dir/first"; then
            rm -f "$dir/first"
            return 0
        fi
        if why=$(grep -E '^(shoal-[a-z]*|supervise): ' "$dir/first"); then
            break
        fi
        sleep 0.1
    done
    rm -f "$dir/first"
    why=$(echo "${why:-it said nothing for 30 s}" | head -n 1)
    stop
    echo "$why" >&2
    return 1
}

start()
{
    stop
    test "$(stat -c %s "$dir/log" 2>/dev/null || echo 0)" -lt "$log_bytes_max" || mv "$dir/log" "$dir/log.old"
    : >>"$dir/log"
    size=$(stat -c %s "$dir/log")
    how=$(manager)
    if test -n "$how"; then
        echo "$how" >"$dir/manager"
        systemd-run "$how" --unit "$unit" --collect --quiet -p Restart=always -p RestartSec=2 \
            -p StartLimitIntervalSec=0 -p "WorkingDirectory=$dir" \
            -p "StandardOutput=append:$dir/log" -p "StandardError=append:$dir/log" "$@"
    else
        setsid sh "$self" supervise "$dir" "$@" </dev/null >>"$dir/log" 2>&1 &
    fi
    wait_for_start "$size"
}

stop()
{
    if test -s "$dir/manager"; then
        systemctl "$(cat "$dir/manager")" stop "$unit" 2>/dev/null || :
        rm -f "$dir/manager"
        return 0
    fi
    tries=0
    while pid=$(supervisor_pid) && test -n "$pid"; do
        tries=$((tries + 1))
        if test "$tries" -eq 1; then
            kill "$pid" 2>/dev/null || :
        elif test "$tries" -eq 100; then
            kill -KILL "$pid" "$(cat "$dir/pid")" 2>/dev/null || :
        fi
        sleep 0.1
    done
    rm -f "$dir/supervisor" "$dir/pid"
}

status()
{
    pid=$(program_pid)
    if test -n "$pid"; then
        echo "up $(ps -o etimes= -p "$pid" | tr -d ' ') $(tail -n 1 "$dir/log")"
    else
        echo "down $(tail -n 1 "$dir/log" 2>/dev/null || :)"
    fi
}

remove()
{
    rm -rf "${dir:?}/bin" "${dir:?}/keys"
    rm -f "$dir/cluster.ini" "$dir/log" "$dir/log.old" "$dir/node.sh"
    rmdir "$dir" "${dir%/*}" 2>/dev/null || :
}

self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
verb=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
shift 2
case $verb in
supervise) supervise "$@" ;;
remove) remove ;;
start | stop | status)
    unit=$1
    shift
    "$verb" "$@"
    ;;
*)
    echo "node.sh: there is no \"$verb\"" >&2
    exit 2
    ;;
esac
