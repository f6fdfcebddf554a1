#!/bin/sh
# A laboratory in one machine: N boards as network namespaces with shaped links, CPU and memory limits, a
# disk, a host name, processes and an sshd of their own, and one more, `coordinator`, for whoever
# coordinates them. All traffic stays inside. Needs root; docs/lab.md says what it can show.
#
#   lab.sh up N [OPTION]...     boards node1 ... nodeN at 10.77.0.11 and on, coordinator at 10.77.0.10
#     --names A,B,...           other names for the boards
#     --rate R --delay D        of every link: 100mbit, 1gbit, none; 0.2ms one way from node to node
#     --loss P --jitter D       of every link: 0.1%; 0.05ms more or less
#     --link NAME=R[,D[,P]]     rate, delay and loss of one node's link
#     --slow NAME=PERCENT%      of one core
#     --memory NAME=SIZE        limit, such as 700M
#     --disk NAME=SIZE          size of its disk, such as 200M; otherwise the room that this machine has
#   lab.sh change OPTION...     other --slow and --memory for boards that run
#   lab.sh exec NAME COMMAND... run a command as root of that node, in this folder
#   lab.sh status [--measure]   nodes, links, limits, CPU time; and what the links really give
#   lab.sh down                 end it and remove everything that it made
#
# Each takes --dir DIR, the laboratory's folder (default: $TMPDIR/shoal-lab, with /tmp for TMPDIR); two
# folders are two laboratories. The way between two nodes has the lower of their rates and the mean of
# their delays, jitters and losses.
#   SHOAL_BUILDDIR=DIR          where Shoal was built (default: build/ in the tree)
#   SHOAL_LAB_LINKS=netem|tap   how links are made (default: netem where the kernel has it)
set -eu
umask 022

root=$(cd "$(dirname "$0")/.." && pwd)
self=$root/deploy/lab.sh
build=${SHOAL_BUILDDIR-$root/build}
dir=${TMPDIR:-/tmp}/shoal-lab
net=10.77.0
port=5201 # where --measure listens
period_us=5000
tick_us=250 # what quotas are exact to
slice_us=500 # of a quota, what one core of a board may hold back from the others
slice=/proc/sys/kernel/sched_cfs_bandwidth_slice_us

die()
{
    echo "lab.sh: $*" >&2
    exit 1
}

usage()
{
    sed -n '/^#   lab.sh up/,/^#   lab.sh down/s/^# *//p' "$self" >&2
    exit 2
}

# ---- what is known of a node ---------------------------------------------------------------------------

# Settings are files in DIR/NAME: rate, delay, jitter, loss, slow, memory, disk, address, pid.
setting()
{
    cat "$dir/$1/$2" 2>/dev/null || :
}

nodes()
{
    cat "$dir/nodes" 2>/dev/null || :
}

# The pid, as this machine numbers it, of a node's first process; nothing where it has ended.
node_pid()
{
    pid=$(setting "$1" pid)
    if test -n "$pid" && grep -q -s -F "$dir/$1/sshd_config" "/proc/$pid/cmdline"; then
        echo "$pid"
    fi
}

need_lab()
{
    test -s "$dir/id" || die "there is no laboratory in $dir: lab.sh up N makes one"
    id=$(cat "$dir/id")
}

need_node()
{
    nodes | grep -q -x -e "$1" || die "there is no node \"$1\"; there are: $(nodes | tr '\n' ' ')"
}

# ---- limits --------------------------------------------------------------------------------------------

# Folders of a node's control groups, one with version 2, one a controller with version 1.
cgroups()
{
    if test -f /sys/fs/cgroup/cgroup.controllers; then
        echo "/sys/fs/cgroup/$id/$1"
    else
        for controller in cpu cpuacct memory; do
            test ! -d "/sys/fs/cgroup/$controller" || echo "/sys/fs/cgroup/$controller/$id/$1"
        done
    fi
}

# limit FILE VALUE NODE WHAT
limit()
{
    { echo "$2" >"$1"; } 2>/dev/null || die "cannot limit the $4 of $3 to $2: $1 does not take it"
}

make_limits()
{
    slow=$(setting "$1" slow)
    memory=$(setting "$1" memory)
    v1=/sys/fs/cgroup/cpu/$id/$1
    v2=/sys/fs/cgroup/$id/$1
    for group in $(cgroups "$1"); do
        mkdir -p "$group" || die "cannot make the control group $group"
    done
    if test -f /sys/fs/cgroup/cgroup.controllers; then
        for group in /sys/fs/cgroup "/sys/fs/cgroup/$id"; do
            echo "+cpu +memory" >"$group/cgroup.subtree_control" 2>/dev/null || :
        done
    fi
    if test -n "$slow"; then
        # shellcheck disable=SC2046 # two words
        # A quota is at least 1 ms: below a fifth of a core the period is longer.
        set -- "$1" $(awk -v share="${slow%\%}" -v period="$period_us" 'BEGIN {
            if (share * period / 100 < 1000) period = 100000 / share
            printf "%d %d", share * period / 100, period }')
        if test -d "$v1"; then
            limit "$v1/cpu.cfs_period_us" "$3" "$1" CPU
            limit "$v1/cpu.cfs_quota_us" "$2" "$1" CPU
        else
            limit "$v2/cpu.max" "$2 $3" "$1" CPU
        fi
    fi
    if test -n "$memory"; then
        if test -d "/sys/fs/cgroup/memory/$id/$1"; then
            limit "/sys/fs/cgroup/memory/$id/$1/memory.limit_in_bytes" "$memory" "$1" memory
        else
            limit "$v2/memory.max" "$memory" "$1" memory
        fi
    fi
}

# Quotas that are kept in every period, and that are one pot for all threads of a board. The kernel hands a
# quota out to cores in slices of 5 ms, all of it to the first that asks, where the setting for the whole
# machine is not made smaller.
keep_quotas()
{
    set -- "$dir"/*/slow
    test -e "$1" && test -z "$(ticker_pid)" || return 0
    test -x "$build/deploy/quotatick" || die "no $build/deploy/quotatick: build Shoal first, or set SHOAL_BUILDDIR"
    setsid "$build/deploy/quotatick" "$tick_us" >"$dir/quotatick.log" 2>&1 </dev/null &
    echo $! >"$dir/quotatick.pid"
    if test "$(cat "$slice" 2>/dev/null || echo 0)" -gt "$slice_us"; then
        cp "$slice" "$dir/slice"
        echo "$slice_us" >"$slice"
    fi
}

ticker_pid()
{
    pid=$(cat "$dir/quotatick.pid" 2>/dev/null || :)
    if test -n "$pid" && grep -q -s quotatick "/proc/$pid/cmdline"; then
        echo "$pid"
    fi
}

# Processor seconds that a node has used.
cpu_seconds()
{
    if test -f "/sys/fs/cgroup/cpuacct/$id/$1/cpuacct.usage"; then
        awk '{ printf "%.2f", $1 / 1e9 }' "/sys/fs/cgroup/cpuacct/$id/$1/cpuacct.usage"
    elif test -f "/sys/fs/cgroup/$id/$1/cpu.stat"; then
        awk '$1 == "usage_usec" { printf "%.2f", $2 / 1e6 }' "/sys/fs/cgroup/$id/$1/cpu.stat"
    else
        echo "-"
    fi
}

# in_node NAME COMMAND...: this shell becomes a process of that node: with its limits, network, files,
# host name and process numbers.
in_node()
{
    name=$1
    shift
    pid=$(node_pid "$name")
    test -n "$pid" || die "$name is not running: see $dir/$name/sshd.log"
    # shellcheck disable=SC2016
    exec sh -c 'for group in $1; do echo $$ >"$group/cgroup.procs" || exit 1; done; shift; exec "$@"' sh \
        "$(cgroups "$name")" nsenter -t "$pid" -m -u -n -p setpriv --pdeathsig TERM \
        sh -c 'cd "$1" && shift && exec "$@"' sh "$PWD" \
        env HOME="$dir/$name/home" USER=root LOGNAME=root "$@"
}

# ---- links ---------------------------------------------------------------------------------------------

is_shaped()
{
    for name in $(nodes); do
        case $(setting "$name" rate)$(setting "$name" delay)$(setting "$name" jitter)$(setting "$name" loss) in
        none | '') ;;
        *) return 0 ;;
        esac
    done
    return 1
}

# bridge, netem or tap
links_kind()
{
    if test -n "${SHOAL_LAB_LINKS-}"; then
        echo "$SHOAL_LAB_LINKS"
    elif ! is_shaped; then
        echo bridge
    elif tc -n "$id-switch" qdisc add dev lo root netem delay 1ms 2>/dev/null; then
        tc -n "$id-switch" qdisc del dev lo root
        echo netem
    else
        echo tap
    fi
}

# A link's half of "1ms" or "0.1%": each way has two links.
half()
{
    echo "$1" | awk '{ unit = $1; sub(/^[0-9.]*/, "", unit); print $1 / 2 unit }'
}

# What netem is to do on one side of a node's link.
netem_options()
{
    rate=$(setting "$1" rate)
    delay=$(setting "$1" delay)
    jitter=$(setting "$1" jitter)
    loss=$(setting "$1" loss)
    test "${rate:-none}" = none || echo "rate $rate"
    test -z "$delay$jitter" || echo "delay $(half "${delay:-0ms}") ${jitter:+$(half "$jitter")}"
    test -z "$loss" || echo "loss $(half "$loss")"
}

# The kernel's own: a bridge in a namespace of its own, a veth pair to each node.
make_bridge()
{
    ip -n "$id-switch" link add br0 type bridge forward_delay 0
    ip -n "$id-switch" link set br0 up
    n=0
    for name in $(nodes); do
        n=$((n + 1))
        ip link add eth0 netns "$id-$name" type veth peer name "p$n" netns "$id-switch"
        ip -n "$id-switch" link set "p$n" master br0 up
        # shellcheck disable=SC2046 # a list of words
        if test "$links" = netem; then
            tc -n "$id-$name" qdisc add dev eth0 root netem $(netem_options "$name")
            tc -n "$id-switch" qdisc add dev "p$n" root netem $(netem_options "$name")
        fi
    done
}

make_emulator()
{
    test -x "$build/deploy/linkemu" || die "no $build/deploy/linkemu: build Shoal first, or set SHOAL_BUILDDIR"
    set --
    for name in $(nodes); do
        port_text=$id-$name
        for key in rate delay jitter loss; do
            value=$(setting "$name" "$key")
            test -z "$value" || port_text=$port_text,$key=$value
        done
        set -- "$@" "$port_text"
    done
    setsid "$build/deploy/linkemu" "$@" >"$dir/linkemu.log" 2>&1 &
    echo $! >"$dir/linkemu.pid"
    tries=0
    until grep -q -s -x ready "$dir/linkemu.log"; do
        tries=$((tries + 1))
        if test "$tries" -gt 100 || ! kill -0 "$(cat "$dir/linkemu.pid")" 2>/dev/null; then
            die "the link emulator does not run: $(tail -n 1 "$dir/linkemu.log")"
        fi
        sleep 0.05
    done
}

emulator_pid()
{
    pid=$(cat "$dir/linkemu.pid" 2>/dev/null || :)
    if test -n "$pid" && grep -q -s linkemu "/proc/$pid/cmdline"; then
        echo "$pid"
    fi
}

# A TAP device takes frames as fast as they come; a network card does not, and TCP then keeps what waits
# in its socket, where it delays nobody else. The token bucket in front is for that: it is a little
# slower than the wire.
hold_back()
{
    rate=$(setting "$1" rate)
    test "${rate:-none}" != none || return 0
    # shellcheck disable=SC2046 # two words
    set -- "$1" $(echo "$rate" | awk '{ b = $1 * (/gbit$/ ? 1e9 : /mbit$/ ? 1e6 : 1e3)
        bytes = b / 8 * 0.002
        printf "%.0f %.0f", b * 0.984, (bytes > 98304 ? bytes : 98304) }')
    tc -n "$id-$1" qdisc add dev eth0 root tbf rate "$2" burst "$3" latency 100ms 2>/dev/null ||
        echo "lab.sh: this kernel has no token bucket (sch_tbf): bulk transfers of $1 delay its other traffic more" >&2
}

make_links()
{
    links=$(links_kind)
    echo "$links" >"$dir/links"
    case $links in
    tap) make_emulator ;;
    bridge | netem) make_bridge ;;
    *) die "SHOAL_LAB_LINKS is netem or tap, not $links" ;;
    esac
    for name in $(nodes); do
        ip -n "$id-$name" addr add "$(setting "$name" address)/24" dev eth0
        ip -n "$id-$name" link set lo up
        ip -n "$id-$name" link set eth0 up
        test "$links" != tap || hold_back "$name"
    done
}

# ---- nodes ---------------------------------------------------------------------------------------------

make_key()
{
    ssh-keygen -q -t ed25519 -N '' -C "$2" -f "$1"
}

# Everything that ssh needs to reach the nodes from within the laboratory.
make_ssh()
{
    mkdir -m 700 "$dir/ssh"
    make_key "$dir/ssh/key" shoal-lab
    printf '127.0.0.1 localhost\n' >"$dir/hosts"
    for name in $(nodes); do
        address=$(setting "$name" address)
        echo "$address $name" >>"$dir/hosts"
        make_key "$dir/$name/host_key" "$name"
        echo "$name,$address $(cut -d ' ' -f 1,2 "$dir/$name/host_key.pub")" >>"$dir/ssh/known_hosts"
        cat >>"$dir/ssh/config" <<END
Host $name
    HostName $address
END
        cat >"$dir/$name/sshd_config" <<END
Port 22
ListenAddress $address
HostKey $dir/$name/host_key
AuthorizedKeysFile $dir/ssh/key.pub
PidFile none
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
Subsystem sftp internal-sftp
END
        # root's home is in the laboratory's folder.
        awk -F : -v OFS=: -v home="$dir/$name/home" '$1 == "root" { $6 = home } { print }' /etc/passwd \
            >"$dir/$name/passwd"
    done
    cat >>"$dir/ssh/config" <<END
Host *
    User root
    IdentityFile $dir/ssh/key
    IdentitiesOnly yes
    UserKnownHostsFile $dir/ssh/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 5
END
}

# No IPv6, whose discoveries are traffic too. Boards use cubic; a machine that has something else may
# not let a namespace choose it, reno is then nearest to it.
set_kernel()
{
    # shellcheck disable=SC2016
    ip netns exec "$id-$1" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
        cd /proc/sys/net/ipv4
        grep -q cubic tcp_congestion_control || echo cubic >tcp_congestion_control ||
            echo reno >tcp_congestion_control' 2>/dev/null || :
}

make_disk()
{
    mkdir "$dir/$1/home"
    size=$(setting "$1" disk)
    test -n "$size" || return 0
    truncate -s "$size" "$dir/$1/disk.img"
    mkfs.ext4 -q -m 0 "$dir/$1/disk.img" || die "cannot make a disk of $size for $1"
}

# In namespaces of its own, as their first process: the node's files, then its sshd, which takes in
# whatever loses its parent. Its pid as the machine numbers it is in /proc until that is replaced.
be_node()
{
    name=$1
    sshd=$(command -v sshd || echo /usr/sbin/sshd)
    read -r pid rest </proc/self/stat
    : "$rest"
    mount -t proc proc /proc
    hostname "$name"
    # The size-limited disk needs a loop device; where there is none, memory must do.
    if test -f "$dir/$name/disk.img"; then
        mount -o loop "$dir/$name/disk.img" "$dir/$name/home" 2>/dev/null ||
            mount -t tmpfs -o "size=$(setting "$name" disk)" shoal-lab "$dir/$name/home"
    fi
    mount --bind "$dir/$name/passwd" /etc/passwd
    mount --bind "$dir/hosts" /etc/hosts
    # The machine's own services are not the node's.
    mount -t tmpfs -o mode=755,size=16m shoal-lab /run
    mkdir /run/sshd
    echo "$pid" >"$dir/$name/pid"
    cd /
    exec "$sshd" -D -e -f "$dir/$name/sshd_config"
}

start_node()
{
    # shellcheck disable=SC2016
    setsid sh -c 'for group in $1; do echo $$ >"$group/cgroup.procs" || exit 1; done; shift; exec "$@"' sh \
        "$(cgroups "$1")" nsenter --net="/run/netns/$id-$1" unshare --mount --uts --pid --fork --kill-child \
        env HOME="$dir/$1/home" sh "$self" node "$1" --dir "$dir" >"$dir/$1/sshd.log" 2>&1 </dev/null &
}

wait_for_node()
{
    tries=0
    until test -n "$(node_pid "$1")" && grep -q -s '^Server listening' "$dir/$1/sshd.log"; do
        tries=$((tries + 1))
        test "$tries" -lt 200 || die "$1 does not start: $(tail -n 1 "$dir/$1/sshd.log")"
        sleep 0.05
    done
}

# ---- up ------------------------------------------------------------------------------------------------

# An extended expression for the values of a key.
pattern_of()
{
    case $1 in
    rate) echo '[0-9]+(\.[0-9]+)?[kmg]bit|none' ;;
    delay | jitter) echo '[0-9]+(\.[0-9]+)?(us|ms|s)' ;;
    loss | slow) echo '[0-9]+(\.[0-9]+)?%' ;;
    memory | disk) echo '[0-9]+[KMG]' ;;
    esac
}

# Settings of options that come first are overridden by later ones.
apply_option()
{
    key=${1#--}
    case $key in
    rate) example=1gbit ;;
    delay | jitter) example=0.2ms ;;
    loss) example=0.1% ;;
    slow) example=node1=50% ;;
    memory | disk) example=node1=700M ;;
    link) example=node1=100mbit,1ms ;;
    esac
    wrong="$1 $2: write it like $1 $example"
    value=${2#*=}
    case $key in
    rate | delay | jitter | loss) where=$(nodes) ;;
    *)
        where=${2%%=*}
        test "$where" != "$2" || die "$wrong"
        need_node "$where"
        ;;
    esac
    case $key in
    link)
        put "$where" rate "$(echo "$value" | cut -d , -f 1)"
        put "$where" delay "$(echo "$value" | cut -s -d , -f 2)"
        put "$where" loss "$(echo "$value" | cut -s -d , -f 3)"
        ;;
    *) put "$where" "$key" "$value" ;;
    esac
}

# put NODES KEY VALUE: keep a setting; an empty one is none.
put()
{
    test -n "$3" || return 0
    echo "$3" | grep -q -x -E -e "$(pattern_of "$2")" || die "$wrong"
    for name in $1; do
        echo "$3" >"$dir/$name/$2"
    done
}

need_tools()
{
    test "$(id -u)" -eq 0 || die "making network namespaces needs root: sudo sh deploy/lab.sh up ..."
    for tool in ip tc nsenter unshare setpriv ssh-keygen ssh; do
        command -v "$tool" >/dev/null || die "$tool is missing: apt-get install iproute2 util-linux openssh-client"
    done
    command -v sshd >/dev/null || test -x /usr/sbin/sshd || die "sshd is missing: apt-get install openssh-server"
}

# Node names, one a line: those of --names, or node1 ... nodeN.
make_names()
{
    echo coordinator
    if test -n "$names"; then
        echo "$names" | tr , '\n'
    else
        i=0
        while test "$i" -lt "$n_nodes"; do
            i=$((i + 1))
            echo "node$i"
        done
    fi
}

make_nodes()
{
    i=9
    for name in $(make_names); do
        i=$((i + 1))
        echo "$name" | grep -q -x -E '[a-z0-9][a-z0-9-]{0,31}' || die "$name is no name: 1 to 32 of a-z, 0-9 and -"
        mkdir "$dir/$name" 2>/dev/null || die "two nodes are called $name"
        echo "$name" >>"$dir/nodes"
        echo "$net.$i" >"$dir/$name/address"
    done
    test "$(nodes | wc -l)" -eq $((n_nodes + 1)) || die "--names has $(($(nodes | wc -l) - 1)) names for $n_nodes nodes"
}

# Limits of boards that run become others.
change()
{
    need_lab
    changed=
    while test $# -gt 0; do
        case $1 in
        --slow | --memory) apply_option "$1" "$2" ;;
        *) die "$1 cannot be changed while boards run" ;;
        esac
        changed="$changed ${2%%=*}"
        shift 2
    done
    for name in $changed; do
        make_limits "$name"
    done
    keep_quotas
}

give_up()
{
    trap - EXIT
    down
    exit 1
}

up()
{
    need_tools
    case ${n_nodes:-x} in
    *[!0-9]*) usage ;;
    esac
    if test "$n_nodes" -lt 1 || test "$n_nodes" -gt 30; then
        die "1 to 30 nodes, please"
    fi
    if test -e "$dir"; then
        test ! -e "$dir/id" || die "there is a laboratory in $dir already: lab.sh down ends it"
        rmdir "$dir" 2>/dev/null || die "$dir is not empty: another --dir, please"
    fi
    mkdir -p "$dir"
    chmod 700 "$dir"
    dir=$(cd "$dir" && pwd)
    id=shoal$(echo "$dir" | cksum | cut -d ' ' -f 1)
    echo "$id" >"$dir/id"
    trap give_up EXIT
    trap 'exit 1' HUP INT TERM
    make_nodes
    while test $# -gt 0; do
        apply_option "$1" "$2"
        shift 2
    done
    make_ssh
    ip netns add "$id-switch"
    for name in $(nodes); do
        ip netns add "$id-$name"
        set_kernel "$name"
        make_limits "$name"
        make_disk "$name"
    done
    keep_quotas
    make_links
    for name in $(nodes); do
        start_node "$name"
    done
    for name in $(nodes); do
        wait_for_node "$name"
    done
    trap - EXIT HUP INT TERM
    status
    cat <<END
As a node:        sh $self exec --dir $dir coordinator COMMAND...
By ssh, from it:  ssh -F $dir/ssh/config NODE COMMAND...
END
}

# ---- status --------------------------------------------------------------------------------------------

status()
{
    need_lab
    printf '%-12s %-11s %-8s %-8s %-8s %-7s %-8s %-8s %s\n' node address rate delay loss cpu memory disk "CPU seconds"
    for name in $(nodes); do
        rate=$(setting "$name" rate)
        delay=$(setting "$name" delay)
        loss=$(setting "$name" loss)
        slow=$(setting "$name" slow)
        memory=$(setting "$name" memory)
        disk=$(setting "$name" disk)
        used=$(cpu_seconds "$name")
        test -n "$(node_pid "$name")" || used="not running: see $dir/$name/sshd.log"
        printf '%-12s %-11s %-8s %-8s %-8s %-7s %-8s %-8s %s\n' "$name" "$(setting "$name" address)" \
            "${rate:-none}" "${delay:-0}" "${loss:-0}" "${slow:--}" "${memory:--}" "${disk:--}" "$used"
    done
    emulator_status
}

# The emulator's counters, as "key=value" words; nothing where it does not run.
emulator_counters()
{
    pid=$(emulator_pid)
    test -n "$pid" || return 0
    before=$(wc -l <"$dir/linkemu.log")
    kill -USR1 "$pid"
    tries=0
    until tail -n +$((before + 1)) "$dir/linkemu.log" | grep '^delivered='; do
        tries=$((tries + 1))
        test "$tries" -lt 100 || return 0
        sleep 0.02
    done
}

emulator_status()
{
    counters=$(emulator_counters)
    if test "$(cat "$dir/links")" != tap; then
        echo "links: by the kernel ($(cat "$dir/links"))"
    elif test -z "$counters"; then
        echo "links: the emulator is not running: see $dir/linkemu.log"
    else
        echo "$counters" | tr ' ' '\n' | awk -F = '{ v[$1] = $2 } END {
            printf "links: linkemu, %.2f CPU seconds in %.1f s; ", v["cpu_s"], v["wall_s"]
            printf "%d frames, late by %d us (median), %d us (99 %%)\n",
                v["delivered"], v["late_p50_us"], v["late_p99_us"] }'
    fi
}

# Real traffic from the coordinator to each node and on from node to node, one pair at a time, and the
# share of a core that the emulator takes meanwhile.
measure()
{
    test -x "$build/deploy/linkprobe" || die "no $build/deploy/linkprobe: build Shoal first, or set SHOAL_BUILDDIR"
    from=coordinator
    printf '\n%-12s %-12s %10s %14s %14s %14s\n' from to "one way" "to" "back" "emulator"
    for to in $(nodes | sed 1d) $(nodes | sed -n 2p); do
        test "$from" != "$to" || continue
        before=$(emulator_counters)
        there=$(probe "$from" "$to")
        back=$(probe "$to" "$from")
        echo "$from $to $there $back $before $(emulator_counters)" | tr ' ' '\n' |
            awk -F = 'NR <= 2 { name[NR] = $1 }
                $1 == "one_way_us" { ms = ms ? ms : $2 / 1000 }
                $1 == "mbit" { mbit[++n] = $2 }
                $1 == "cpu_s" { cpu = $2 - cpu }
                $1 == "wall_s" { wall = $2 - wall }
                END { printf "%-12s %-12s %7.3f ms %7.1f Mbit/s %7.1f Mbit/s %9.2f core\n",
                    name[1], name[2], ms, mbit[1], mbit[2], wall ? cpu / wall : 0 }'
        from=$to
    done
}

# probe FROM TO
probe()
{
    in_node "$2" "$build/deploy/linkprobe" serve "$port" &
    (in_node "$1" "$build/deploy/linkprobe" "$(setting "$2" address)" "$port" 1) || die "no traffic from $1 to $2"
    wait
}

# ---- down ----------------------------------------------------------------------------------------------

# Processes of the laboratory: whoever is in one of its control groups, each node's first, the emulator, the
# ticker.
processes()
{
    for name in $(nodes); do
        for group in $(cgroups "$name"); do
            cat "$group/cgroup.procs" 2>/dev/null || :
        done
        node_pid "$name"
    done
    emulator_pid
    ticker_pid
}

down()
{
    if ! test -s "$dir/id"; then
        echo "lab.sh: there is no laboratory in $dir" >&2
        return 0
    fi
    id=$(cat "$dir/id")
    tries=0
    while left=$(processes | sort -u) && test -n "$left"; do
        tries=$((tries + 1))
        test "$tries" -lt 100 || die "these processes do not end: $(echo "$left" | tr '\n' ' ')"
        # shellcheck disable=SC2086 # a list
        kill -KILL $left 2>/dev/null || :
        sleep 0.05
    done
    for name in switch $(nodes); do
        test ! -e "/run/netns/$id-$name" || ip netns del "$id-$name"
        for group in $(cgroups "$name"); do
            test ! -d "$group" || rmdir "$group"
        done
    done
    for group in $(cgroups .); do
        test ! -d "$group" || rmdir "${group%/.}"
    done
    test ! -e "$dir/slice" || cat "$dir/slice" >"$slice"
    rm -rf "$dir"
}

# ---- the command line ----------------------------------------------------------------------------------

# Sets $dir, $words (positional arguments) and $options (of `up`, to be applied once the nodes are
# known). No value has a blank in it. Returns at the command of `exec`, with $taken arguments read.
read_arguments()
{
    while test $# -gt 0; do
        taken=$((taken + 1))
        case $1 in
        --measure) measure=1 ;;
        --*)
            test $# -ge 2 || usage
            taken=$((taken + 1))
            case $1 in
            --dir) dir=$2 ;;
            --names) names=$2 ;;
            --rate | --delay | --jitter | --loss | --link | --slow | --memory | --disk)
                echo "$2" | grep -q -x -E '[a-zA-Z0-9.=,%-]+' || die "$1 $2: that is no value for it"
                options="$options $1 $2"
                ;;
            *) usage ;;
            esac
            shift
            ;;
        *)
            words="$words $1"
            test "$command" != exec || return 0
            ;;
        esac
        shift
    done
}

test $# -gt 0 || usage
command=$1
shift
names=
measure=0
options=
words=
taken=0
read_arguments "$@"
shift "$taken"

case $command$words in
"up "*)
    n_nodes=${words# }
    # shellcheck disable=SC2086 # a list
    up $options
    ;;
"exec "*)
    test $# -gt 0 || usage
    need_lab
    need_node "${words# }"
    in_node "${words# }" "$@"
    ;;
status)
    need_lab
    status
    test "$measure" -eq 0 || measure
    ;;
change)
    # shellcheck disable=SC2086 # a list
    change $options
    ;;
down) down ;;
"node "*) be_node "${words# }" ;;
*) usage ;;
esac
