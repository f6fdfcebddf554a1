# What the tests share that run in deploy/lab.sh's boards: the laboratory in $box, and a cluster that is brought up
# in it over ssh, as $ini says. Sourced behind cluster_lib.sh.

box=$work/box
ini=$work/cluster.ini
build=$(cd "$SHOAL_BUILDDIR" && pwd)
SHOAL_BUILDDIR=$build
export SHOAL_BUILDDIR
trap 'test ! -e "$box/id" || lab down; stop_all; rm -rf "$work"' EXIT

lab()
{
    verb=$1
    shift
    bounded 180 sh "$SHOAL_SRCDIR/deploy/lab.sh" "$verb" --dir "$box" "$@"
}

# on NODE COMMAND...
on()
{
    lab exec "$@"
}

# cluster VERB OPTION...: typed on the coordinator's machine; exit status, output and errors are kept.
cluster()
{
    verb=$1
    shift
    on coordinator sh "$SHOAL_SRCDIR/deploy/cluster.sh" "$verb" -c "$ini" -F "${ssh_config-$box/ssh/config}" "$@" \
        >"$work/out" 2>"$work/err" </dev/null
    rc=$?
    return "$rc"
}

# What this machine lacks for a laboratory; nothing where one can be made.
why_no_lab()
{
    test "$(id -u)" -eq 0 || echo "this is not root"
    for tool in ip tc nsenter unshare setpriv ssh ssh-keygen rsync mkfs.ext4 ps; do
        command -v "$tool" >/dev/null || echo "$tool is missing"
    done
    command -v sshd >/dev/null || test -x /usr/sbin/sshd || echo "sshd is missing"
    test -c /dev/net/tun || echo "there is no /dev/net/tun"
    unshare --net --mount --pid --uts --fork true 2>/dev/null || echo "no namespaces can be made"
    test -d /sys/fs/cgroup/cpu || test -f /sys/fs/cgroup/cgroup.controllers || echo "there are no control groups"
}

# to_boards OPTION...: a laboratory with a board for each of $workers. From here on the cluster is in it: what
# cluster_lib.sh does with programs is done on the boards over ssh, where they are kept running, and `shoal` is run on
# the coordinator's machine. A worker is not given options: boards are slow by themselves.
to_boards()
{
    lab up "$(echo "$workers" | wc -w)" --names "$(echo "$workers" | tr ' ' ,)" "$@" >"$work/out" 2>"$work/err" || return 1
    ini=$lab/cluster.ini
    printf '#!/bin/sh\nexec sh "%s" exec --dir "%s" coordinator "%s" "$@"\n' \
        "$SHOAL_SRCDIR/deploy/lab.sh" "$box" "$shoal" >"$work/shoal"
    chmod +x "$work/shoal"
    shoal=$work/shoal
    host=10.77.0.10
    n=10
    for name in $workers; do
        n=$((n + 1))
        eval "host_$name=10.77.0.$n keys_$name='threads: 1
ssh: $name'"
    done
    for name in coordinator $workers; do # their disks are this machine's
        ln -s "$box/$name/home/shoal/lab/$name/log" "$lab/$name.log"
    done

    start_cluster()
    {
        write_config
        cluster up && within 60 is_serving
    }

    stop_cluster()
    {
        cluster down
    }

    pid_of()
    {
        case $1 in
        coordinator) expression="^$build/shoal-coordinator -c $ini" ;;
        *) expression="^$box/$1/home/.*/bin/shoal-worker " ;;
        esac
        within 10 pgrep -f "$expression"
    }

    # Whoever keeps it running starts it again, later each time; a start by hand is at once.
    kill_program()
    {
        signal "$1" KILL
    }

    start_worker()
    {
        on coordinator ssh -F "$box/ssh/config" "$1" "cd shoal/lab/$1 && exec sh node.sh start . shoal-lab-$1 \
            \"\$PWD/bin/shoal-worker\" -c \"\$PWD/cluster.ini\" --name $1" >"$work/said" 2>&1 </dev/null
    }

    start_coordinator()
    {
        :
    }
}
