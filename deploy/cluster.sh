#!/bin/sh
# A cluster over ssh. The coordinator runs on this machine, each worker with `ssh: USER@HOST` in its
# section on that host; workers without it are left alone.
#
#   cluster.sh up -c FILE       makes keys that are missing, pushes, and starts all (again)
#   cluster.sh push -c FILE     copies program, configuration and keys only
#   cluster.sh status -c FILE   says of each whether it runs, since when, and the last line of its log
#   cluster.sh logs -c FILE     the ends of all logs (-n LINES), or the whole logs into a folder (--to DIR)
#   cluster.sh down -c FILE     stops all and removes everything that it copied or that they stored
#
#   -F FILE           configuration of ssh, instead of the user's
#   --programs DIR    where Shoal was built; for boards of another kind DIR/MACHINE/shoal-worker, with
#                     MACHINE as `uname -m` says it there (default: $SHOAL_BUILDDIR, or build/ in the tree,
#                     or where `shoal` is installed)
#   --stores DIR      up and push: copy DIR/NAME into the worker's store, so that it is shipped less
#   --keep-stores     down: leave the workers' stores and the coordinator's state
#
# A board holds its own secret key and everybody's public ones, in ~/shoal/CLUSTER/NAME with the rest.
# Each node is one line of output, and one that fails is one line on stderr: the others go on, and the
# exit status is 1.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
self=$root/deploy/cluster.sh
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-cluster-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

die()
{
    echo "cluster.sh: $*" >&2
    exit 1
}

usage()
{
    sed -n '/^#   cluster.sh up/,/^#   --keep/s/^# *//p' "$self" >&2
    exit 2
}

# ---- the configuration ---------------------------------------------------------------------------------

# value KEY SECTION [NAME]: as the programs' own reader understood it; nothing where there is none.
value()
{
    awk -v key="$1: " -v section="[$2${3:+ $3}]" '/^\[/ { inside = $0 == section }
        inside && index($0, key) == 1 { print substr($0, length(key) + 1) }' "$work/config"
}

worker_names()
{
    sed -n 's/^\[worker \(.*\)\]$/\1/p' "$work/config"
}

# Workers that are started from here.
remote_names()
{
    for name in $(worker_names); do
        test -z "$(value ssh worker "$name")" || echo "$name"
    done
}

find_programs()
{
    if test -z "$programs"; then
        programs=${SHOAL_BUILDDIR-$root/build}
        test -x "$programs/shoal" || programs=$(dirname "$(command -v shoal || echo "$programs/shoal")")
    fi
    for program in shoal shoal-coordinator; do
        test -x "$programs/$program" || die "no $programs/$program: build Shoal first, or say --programs DIR"
    done
    programs=$(cd "$programs" && pwd)
}

read_config()
{
    test -n "$config" || usage
    "$programs/shoal" config -c "$config" >"$work/config" 2>"$work/error" ||
        die "$(sed 's/^shoal config: //' "$work/error")"
    config=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
    cluster=$(value name cluster)
    keys=$(value keys cluster)
    test -n "$(remote_names)" || die "$config: no worker has a line \"ssh: USER@HOST\""
}

# ---- one node ------------------------------------------------------------------------------------------

# What runs on a node's machine. The folder is seen from the user's home.
remote()
{
    target=$1
    shift
    # shellcheck disable=SC2086 # a list
    ssh $ssh_options -- "$target" "$@" </dev/null
}

# explain NAME TARGET FILE: what ssh, rsync or a program there said, as one line with the way out.
explain()
{
    said=$(tr -d '\r' <"$3")
    line=$(echo "$said" | grep -v -e '^$' -e '^rsync error' -e '^Warning' | tail -n 1)
    case $said in
    *"HOST IDENTIFICATION HAS CHANGED"* | *"host key for "*"has changed"*)
        echo "$1: the host key of $2 has changed: if the board was set up anew, ssh-keygen -R ${2#*@}; if not, somebody else answers there" ;;
    *"Host key verification failed"*)
        echo "$1: the host key of $2 is not known here: run ssh $2 once and compare it" ;;
    *"Permission denied (pub"* | *"Permission denied, please"* | *"Too many authentication"*)
        echo "$1: $2 does not accept this ssh key: ssh-copy-id $2 puts it there" ;;
    *"Could not resolve"* | *"Connection timed out"* | *"No route to host"* | *"Connection refused"* | *"Network is unreachable"* | *"Connection closed by"* | *"Connection reset"* | *"not responding"*)
        echo "$1: $2 cannot be reached (${line##*: }): is the board on, and is \"ssh:\" of [worker $1] right?" ;;
    *"No space left"* | *"Disk quota exceeded"*)
        echo "$1: the disk of $2 is full: make room in its home, or put less there" ;;
    *"rsync: not found"* | *"rsync: command not found"*)
        echo "$1: rsync is missing on $2: sudo apt-get install rsync" ;;
    *"Exec format error"* | *"cannot execute binary"*)
        echo "$1: $2 is a machine of another kind: build there and put its program into $programs/MACHINE/" ;;
    *"error while loading shared libraries"*)
        echo "$1: ${said##*shared libraries: } on $2: sudo apt-get install libzmq5 libsodium23 libpcre2-8-0" ;;
    *"GLIBC"*"not found"*)
        echo "$1: the program was built for a newer system than that of $2: build it there" ;;
    *"Address already in use"*)
        echo "$1: ${line#shoal-*: }: end what listens there on $2, or change the port in $config" ;;
    *) echo "$1: $2: ${line#shoal-*: }" ;;
    esac
}

# What goes onto a board: links, which rsync follows.
stage()
{
    mkdir -p "$work/$1/bin" "$work/$1/keys"
    chmod 700 "$work/$1/keys"
    if test -x "$programs/$2/shoal-worker"; then
        ln -s "$programs/$2/shoal-worker" "$work/$1/bin/"
    elif test -x "$programs/shoal-worker" && test "$2" = "$(uname -m)"; then
        ln -s "$programs/shoal-worker" "$work/$1/bin/"
    else
        echo "no program for its machine ($2): build there and put it at $programs/$2/shoal-worker" >&2
        return 1
    fi
    ln -s "$root/deploy/node.sh" "$work/$1/"
    cp "$keys"/*.pub "$keys/$1.secret" "$work/$1/keys/"
    # The keys are beside the file there; nothing else in it is changed.
    sed 's/^\([[:blank:]]*keys[[:blank:]]*[:=]\).*/\1 keys/' "$config" >"$work/$1/cluster.ini"
    there=$("$programs/shoal" config -c "$work/$1/cluster.ini" | sed -n 's/^keys: //p')
    test "$there" = "$work/$1/keys" || {
        echo "cannot put the folder of the keys into the configuration" >&2
        return 1
    }
}

# Each step of a node leaves what went wrong in $work/NAME.error.
push()
{
    name=$1
    target=$(value ssh worker "$name")
    folder=shoal/$cluster/$name
    machine=$(remote "$target" "mkdir -p '$folder' && uname -m") || return 1
    stage "$name" "$machine" || return 1
    # Keys that were taken away here go there, too; whatever else is in the folder stays.
    rsync -rptL --delete --filter='risk /keys/***' --filter='risk /bin/***' --filter='protect *' \
        -e "ssh $ssh_options" "$work/$name/" "$target:$folder/" || return 1
    remote "$target" "cd '$folder' && bin/shoal-worker --version >/dev/null" || return 1
    if test -n "$stores" && test -d "$stores/$name"; then
        store=$(remote "$target" "cd '$folder' && s=\$(bin/shoal-worker -c cluster.ini --name '$name' --store-folder) &&
            mkdir -p \"\$s\" && chmod 700 \"\$s\" && cd \"\$s\" && pwd") || return 1
        rsync -rpt -e "ssh $ssh_options" "$stores/$name/" "$target:$store/" || return 1
    fi
    echo pushed
}

up()
{
    push "$1" >/dev/null || return 1
    remote "$target" "cd '$folder' && exec sh node.sh start . 'shoal-$cluster-$name' \
        \"\$PWD/bin/shoal-worker\" -c \"\$PWD/cluster.ini\" --name '$name'" || return 1
    echo up
}

# seconds -> "3 min"
since()
{
    if test "$1" -lt 120; then
        echo "$1 s"
    elif test "$1" -lt 7200; then
        echo "$(($1 / 60)) min"
    else
        echo "$(($1 / 3600)) h"
    fi
}

# say_status "up SECONDS LINE" or "down LINE"; false unless it is up.
say_status()
{
    case $1 in
    "up "*)
        rest=${1#up }
        echo "up for $(since "${rest%% *}"); ${rest#* }"
        ;;
    *)
        rest=${1#down}
        echo "down${rest:+;}$rest"
        return 1
        ;;
    esac
}

status()
{
    name=$1
    target=$(value ssh worker "$name")
    folder=shoal/$cluster/$name
    said=$(remote "$target" "cd '$folder' 2>/dev/null && sh node.sh status . 'shoal-$cluster-$name' || echo 'down nothing was pushed'") ||
        return 1
    say_status "$said" || touch "$work/failed"
}

logs()
{
    name=$1
    target=$(value ssh worker "$name")
    file=shoal/$cluster/$name/log
    if test -n "$logs_to"; then
        remote "$target" "cat '$file'" >"$logs_to/$name.log" || return 1
        echo "$logs_to/$name.log"
    else
        echo
        remote "$target" "tail -n '$lines' '$file'" || return 1
    fi
}

down()
{
    name=$1
    target=$(value ssh worker "$name")
    folder=shoal/$cluster/$name
    # The program says where its store is; what is not a store's stays.
    remote "$target" "cd '$folder' 2>/dev/null && test -f node.sh || exit 0
        sh node.sh stop . 'shoal-$cluster-$name'
        if test '$keep_stores' -eq 0 && s=\$(bin/shoal-worker -c cluster.ini --name '$name' --store-folder); then
            rm -f \"\$s\"/pack-* \"\$s\"/index \"\$s\"/index.* \"\$s\"/lock
            rmdir \"\$s\" \"\${s%/*}\" 2>/dev/null
        fi
        sh node.sh remove .
        cd && rmdir 'shoal/$cluster' shoal .cache/shoal .cache 2>/dev/null || :" || return 1
    echo down
}

# ---- the coordinator, here -----------------------------------------------------------------------------

coordinator()
{
    folder=$HOME/shoal/$cluster/coordinator
    node="sh $root/deploy/node.sh"
    unit=shoal-$cluster-coordinator
    case $1 in
    push) echo "here" ;;
    up)
        $node start "$folder" "$unit" "$programs/shoal-coordinator" -c "$config" || return 1
        echo up
        ;;
    status)
        if test -d "$folder"; then
            said=$($node status "$folder" "$unit")
        else
            said=down
        fi
        say_status "$said" || touch "$work/failed"
        ;;
    logs)
        if test -n "$logs_to"; then
            cp "$folder/log" "$logs_to/coordinator.log" || return 1
            echo "$logs_to/coordinator.log"
        else
            echo
            tail -n "$lines" "$folder/log" || return 1
        fi
        ;;
    down)
        test ! -d "$folder" || $node stop "$folder" "$unit"
        test ! -d "$folder" || $node remove "$folder"
        rmdir "$HOME/shoal" 2>/dev/null || :
        state=$(value state cluster)
        if test "$keep_stores" -eq 0; then
            rm -f "$state"/incarnation "$state"/manifest-* "$state"/profile.ini "$state"/journal*
            rmdir "$state" "${state%/*}" 2>/dev/null || :
        fi
        echo down
        ;;
    esac
}

# ---- all of them ---------------------------------------------------------------------------------------

# one NAME WHERE COMMAND...: its result, or on stderr what went wrong, as one line when it is known.
one()
{
    name=$1
    where=$2
    shift 2
    if "$@" >"$work/$name.out" 2>"$work/$name.error"; then
        printf '%-14s %-24s %s\n' "$name" "$where" "$(cat "$work/$name.out")"
    else
        touch "$work/failed"
        explain "$name" "$where" "$work/$name.error" >&2
    fi
}

all()
{
    one coordinator "this machine" coordinator "$command" &
    for name in $(worker_names); do
        target=$(value ssh worker "$name")
        if test -n "$target"; then
            one "$name" "$target" "$command" "$name" &
        else
            printf '%-14s %-24s %s\n' "$name" - "left alone: no \"ssh:\" in its section"
        fi
    done
    wait
    test ! -e "$work/failed"
}

make_keys()
{
    missing=
    for name in coordinator client $(worker_names); do
        test -f "$keys/$name.secret" || missing="$missing $name"
    done
    # shellcheck disable=SC2086 # a list
    test -z "$missing" || "$programs/shoal" keygen "$keys" $missing ||
        die "cannot make the keys in $keys"
}

test $# -gt 0 || usage
command=$1
shift
config=
programs=
stores=
keep_stores=0
lines=20
logs_to=
ssh_options="-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5"
while test $# -gt 0; do
    case $1 in
    --keep-stores) keep_stores=1 ;;
    -c | -F | -n | --programs | --stores | --to)
        test $# -ge 2 || usage
        case $1 in
        -c) config=$2 ;;
        -F) ssh_options="-F $2 $ssh_options" ;;
        -n) lines=$2 ;;
        --programs) programs=$2 ;;
        --stores) stores=$2 ;;
        --to) logs_to=$2 ;;
        esac
        shift
        ;;
    *) usage ;;
    esac
    shift
done
case $command in
up | push | status | logs | down) ;;
*) usage ;;
esac
find_programs
read_config
command -v ssh >/dev/null || die "ssh is missing here: sudo apt-get install openssh-client"
case $command in
up | push)
    command -v rsync >/dev/null || die "rsync is missing here: sudo apt-get install rsync"
    make_keys
    ;;
logs) test -z "$logs_to" || mkdir -p "$logs_to" ;;
esac
all
