# What the benches in the laboratory share: a cluster of four boards of deploy/lab.sh, named node1 to node4, with
# its coordinator on a machine of its own. Sourced with the model's path in $model; sets $root, $build and the
# temporary folder $work, in which everything is, and which is gone at the end.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${SHOAL_BUILDDIR-$root/build}" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-bench-XXXXXX")
names="node1 node2 node3 node4"
pids=

lab()
{
    sh "$root/deploy/lab.sh" "$@" --dir "$work/lab"
}

# on NODE COMMAND...
on()
{
    node=$1
    shift
    sh "$root/deploy/lab.sh" exec --dir "$work/lab" "$node" "$@"
}

ask()
{
    on coordinator timeout 200 "$build/shoal" "$@"
}

stop_cluster()
{
    for pid in $pids; do
        kill "$pid" 2>/dev/null || :
    done
    pkill -f "$work/cluster.ini" 2>/dev/null || :
    for pid in $pids; do
        wait "$pid" 2>/dev/null || :
    done
    pids=
    tries=0
    while pgrep -f "$work/cluster.ini" >"$work/left"; do # a board of 30 % of a core takes its time
        tries=$((tries + 1))
        if test "$tries" -gt 300; then
            echo "these do not end: $(tr '\n' ' ' <"$work/left")" >&2
            pkill -KILL -f "$work/cluster.ini"
        fi
        sleep 0.1
    done
}

leave()
{
    stop_cluster
    lab down >/dev/null 2>&1 || :
    rm -rf "$work"
}
trap leave EXIT
trap 'exit 1' HUP INT TERM

# write_config CONTEXT PLACEMENT: cluster.ini with these lines in [placement], and those of $keys_NAME for a board.
write_config()
{
    {
        printf '[cluster]\nname: bench\nmodel: %s\ncontext: %d\nslots: 8\n' "$model" "$1"
        printf 'control: tcp://10.77.0.10:7700\nclient: tcp://10.77.0.10:7710\n'
        printf 'keys: keys\nstate: state\n[placement]\nsolve-seconds: 5\npolicy: %s\n%s\n' "${policy-static}" "$2"
        i=10
        for name in $names; do
            i=$((i + 1))
            printf '[worker %s]\ndata: tcp://10.77.0.%d:7721\nthreads: 1\nstore: store-%s\n' "$name" "$i" "$name"
            eval "printf '%s\\n' \"\${keys_$name-}\""
        done
    } >"$work/cluster.ini"
}

start_cluster()
{
    rm -rf "$work/state"
    on coordinator "$build/shoal-coordinator" -c "$work/cluster.ini" >>"$work/coordinator.log" 2>&1 &
    pids=$!
    for name in $names; do
        on "$name" "$build/shoal-worker" -c "$work/cluster.ini" --name "$name" >>"$work/$name.log" 2>&1 &
        pids="$pids $!"
    done
    tries=0
    until ask status -q -c "$work/cluster.ini" 2>/dev/null | grep -q ': serving$'; do
        tries=$((tries + 1))
        if test "$tries" -gt 300; then
            tail -n 5 "$work"/*.log >&2
            exit 1
        fi
        sleep 0.5
    done
}
