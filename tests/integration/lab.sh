#!/bin/sh
# The laboratory and the launcher: four boards with shaped links on this machine, a cluster brought up on
# them over real ssh, an answer that is the one of `shoal local`, every way in which bringing it up can
# fail, and nothing left of it afterwards. Not under a sanitizer.
# Alone: it holds links and quotas against the clock.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

if test "$sanitized" -ne 0; then
    echo "1..0 # SKIP programs with a sanitizer do not fit the boards' small disks, and what is tested here is shell"
    exit 0
fi

. "${SHOAL_SRCDIR:-.}/tests/integration/lab_lib.sh"

# ---- whether it can be tried ---------------------------------------------------------------------------

reason=$(why_no_lab | head -n 1)
if test -n "$reason"; then
    skip "the laboratory" "$reason"
    finish
fi

# What is left of a laboratory on this machine. Processes that ended and that nobody waited for do not count.
left()
{
    ip netns list | grep -F "$id" || :
    find /sys/fs/cgroup -name "$id" 2>/dev/null
    for process in /proc/[0-9]*; do
        { tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null | grep -F -e "$box" -e "$id" || :
    done
    grep -F "$box" /proc/self/mounts || :
    test ! -e "$box" || echo "$box"
}

# left_nothing NAME
left_nothing()
{
    left >"$work/left"
    if test -s "$work/left"; then
        fail "$1" "$work/left"
    else
        pass "$1"
    fi
}

# ---- the laboratory ------------------------------------------------------------------------------------

id=shoal$(echo "$box" | cksum | cut -d ' ' -f 1)
lab up 2 --rate fast >"$work/out" 2>"$work/err"
one_error "a rate that is none is refused" $? 1 "$work/err" '--rate fast: write it like --rate 1gbit'
SHOAL_LAB_LINKS=tap SHOAL_BUILDDIR=$work lab up 2 --rate 1gbit >"$work/out" 2>"$work/err"
one_error "what fails half-way says why" $? 1 "$work/err" 'no .*/deploy/linkemu: build Shoal first'
left_nothing "and leaves nothing"

slice=/proc/sys/kernel/sched_cfs_bandwidth_slice_us
cat "$slice" >"$work/slice" 2>/dev/null
lab up 4 --rate 1gbit --delay 0.2ms --link node4=100mbit,1ms --slow node2=50% --memory node3=600M --disk node1=24M \
    >"$work/out" 2>"$work/err"
if test $? -ne 0; then
    fail "four boards" "$work/out" "$work/err"
    finish
fi
pass "four boards"
says "and their ssh is told" "$work/out" "ssh -F $box/ssh/config"
lab up 2 >"$work/out" 2>"$work/err"
one_error "a second one in its folder is refused" $? 1 "$work/err" 'there is a laboratory in .* already'

on node2 sh -c 'hostname; echo "$HOME"; ls -d /run/systemd 2>/dev/null; ps -e -o comm= | grep -c -x sshd; id -u' >"$work/node"
printf 'node2\n%s\n1\n0\n' "$box/node2/home" >"$work/expected"
same "a node has its own name, home and processes" "$work/expected" "$work/node"
on node5 true 2>"$work/err"
one_error "who does not exist is named" $? 1 "$work/err" 'no node "node5"; there are: coordinator node1'
on node1 sh -c 'exit 7'
check "exec gives the command's status" test $? -eq 7

# between LOW VALUE HIGH
between()
{
    test -n "$2" && test "$2" -ge "$1" && test "$2" -le "$3"
}

# all_of EXPRESSION: the last cluster command succeeded and said this of each of the five nodes.
all_of()
{
    test "$rc" -eq 0 && test "$(grep -c -E -e "$1" "$work/out")" -eq 5
}

# probe FROM TO ADDRESS: sets $one_way (us) and $mbit.
probe()
{
    on "$2" "$build/deploy/linkprobe" serve 5201 &
    on "$1" "$build/deploy/linkprobe" "$3" 5201 0.3 >"$work/probe" 2>&1
    wait $!
    one_way=$(sed -n 's/one_way_us=\([0-9]*\) .*/\1/p' "$work/probe")
    mbit=$(sed -n 's/.* mbit=\([0-9]*\)\..*/\1/p' "$work/probe")
    note "$1 to $2: $(cat "$work/probe")"
}

# How much worse than said a link is depends on who else uses this machine; the emulator corrects for the
# time of its wake-ups by their median, so that it may also be a little early.
probe coordinator node1 10.77.0.11
check "0.2 ms are 0.2 ms" between 150 "$one_way" 5000
check "1 Gbit/s is at most 1 Gbit/s" between 200 "$mbit" 1000
probe node1 node4 10.77.0.14
check "a slow link makes the way to it slow" between 550 "$one_way" 6000
check "in rate, too" between 50 "$mbit" 100
lab status >"$work/out" 2>&1
says "the status has nodes and limits" "$work/out" '^node2 +10\.77\.0\.12 +1gbit +0\.2ms +0 +50% '
says "and who makes the links" "$work/out" '^links: (linkemu, .*late by|by the kernel \(netem)'

# used NODE: hundredths of processor seconds so far.
used()
{
    lab status | awk -v node="$1" '$1 == node { printf "%.0f", $NF * 100 }'
}
before=$(used node2)
on node2 timeout 1 sh -c 'while :; do :; done'
spent=$(($(used node2) - before))
note "a busy loop of 1 s on node2 used $spent ms / 10"
check "half a core is half a core" between 5 "$spent" 70
check "a ticker keeps it to its periods" grep -q quotatick "/proc/$(cat "$box/quotatick.pid")/cmdline"
on node3 sh -c 'head -c 900000000 /dev/zero | tail -c 800000000 >/dev/null' >/dev/null 2>&1
check "beyond its memory a process is killed" test $? -ne 0
on node1 sh -c 'head -c 48000000 /dev/zero >"$HOME/fill"' >/dev/null 2>"$work/err"
check "a disk has its size" grep -q 'No space left' "$work/err"
on node1 sh -c 'rm "$HOME/fill"'

# ---- the cluster ---------------------------------------------------------------------------------------

sed -e "s|^model:.*|model: $model|" -e 's|^keys:.*|keys = keys  # beside this file|' \
    "$SHOAL_SRCDIR/configs/lab.ini" >"$ini"
cluster up
check "one command brings the cluster up" all_of ' up$'
on coordinator "$shoal" generate -q -c "$ini" -p "In the beginning" -n 24 --temperature 0 --json >"$work/said" 2>"$work/err"
without_times <"$work/said" >"$work/actual"
local_answer -q -p "In the beginning" -n 24 --temperature 0 --json 2>"$work/err" | without_times >"$work/expected"
same "it answers what one process answers" "$work/expected" "$work/actual"
for name in coordinator node1 node2 node3 node4; do
    on "$name" find "$box/$name/home" -name '*.secret'
done >"$work/secrets"
for n in 1 2 3 4; do
    echo "$box/node$n/home/shoal/lab/node$n/keys/node$n.secret"
done >"$work/expected"
same "each board has its own secret and nobody else's" "$work/expected" "$work/secrets"
check "its mode is 0600" on node1 sh -c 'test "$(stat -c %a ~/shoal/lab/node1/keys/node1.secret)" = 600'

cluster status
check "status: all are up" all_of 'up for [0-9]+ (s|min); '
on node2 sh -c 'kill -KILL "$(cat ~/shoal/lab/node2/pid)"'
restarted()
{
    on node2 grep -q 'supervise: ended with status 137, starts again' "$box/node2/home/shoal/lab/node2/log" &&
        cluster status && test "$rc" -eq 0
}
check "a worker that dies is started again" within 60 restarted
cluster logs --to "$work/logs"
check "logs are collected" all_of "$work/logs/[a-z0-9]+\.log\$"
says "they are the programs' own" "$work/logs/node4.log" 'shoal-worker serving '

cluster down --keep-stores
check "down, but for the stores" all_of ' down$'
check "a store is kept" on node1 sh -c 'test -s ~/.cache/shoal/lab/node1/index'
mkdir -p "$work/stores"
on node2 sh -c "cp -R ~/.cache/shoal/lab/node2 '$work/stores/node2' && rm -rf ~/.cache"
cluster push --stores "$work/stores"
check "push copies a store that is given" on node2 sh -c "cmp ~/.cache/shoal/lab/node2/index '$work/stores/node2/index'"
rm "$work/keys/node4.pub"
cluster push
check "a public key that was removed goes everywhere" on node1 sh -c 'test ! -e ~/shoal/lab/node1/keys/node4.pub &&
    test -e ~/shoal/lab/node1/keys/node3.pub'

# ---- what can go wrong, all at once --------------------------------------------------------------------

rm "$work"/keys/node4.*
on node1 sh -c 'rm -rf ~/shoal ~/.cache; head -c 48000000 /dev/zero >"$HOME/fill"' 2>/dev/null
on node2 sh -c "echo \$\$ >~/listener; exec '$build/deploy/linkprobe' serve 7720" &
ssh-keygen -q -t ed25519 -N '' -f "$work/other"
{
    grep -v IdentityFile "$box/ssh/config"
    printf 'Host node3\n    IdentityFile %s\n' "$work/other"
    printf 'Host * !node3\n    IdentityFile %s\n' "$box/ssh/key"
} >"$work/ssh_config"
ssh_config=$work/ssh_config
kill -KILL "$(cat "$box/node4/pid")"
cluster up
check "with four boards in trouble it fails" test "$rc" -eq 1
check "with one line for each" test "$(grep -c '^node[1-4]: ' "$work/err")" -eq 4
says "a full disk" "$work/err" '^node1: the disk of node1 is full: make room'
says "a port in use" "$work/err" '^node2: cannot listen on tcp://10\.77\.0\.12:7720: Address already in use: end what listens there'
says "a wrong key" "$work/err" '^node3: node3 does not accept this ssh key: ssh-copy-id node3'
says "a board that is down" "$work/err" '^node4: node4 cannot be reached \(Connection refused\): is the board on'
says "the coordinator is up all the same" "$work/out" '^coordinator .* up$'
on node2 sh -c 'kill "$(cat ~/listener)" && rm ~/listener'
wait

key2=$(cut -d ' ' -f 2 "$box/node2/host_key.pub")
sed -i "/^node2,/s|$key2|$(cut -d ' ' -f 2 "$box/node1/host_key.pub")|" "$box/ssh/known_hosts"
sed -i '/^node3,/d' "$box/ssh/known_hosts"
ssh_config=$box/ssh/config
cluster push
says "a host key that has changed" "$work/err" '^node2: the host key of node2 has changed: .* ssh-keygen -R node2'
says "a host key that is not known" "$work/err" '^node3: the host key of node3 is not known here: run ssh node3 once'
mkdir "$work/programs"
cluster push --programs "$work/programs"
one_error "programs that are not built" "$rc" 1 "$work/err" 'no .*/programs/shoal: build Shoal first'
ln -s "$build/shoal" "$build/shoal-coordinator" "$work/programs/"
on node1 rm "$box/node1/home/fill"
cluster push --programs "$work/programs"
says "no program for a board" "$work/err" '^node1: node1: no program for its machine .*: build there'
mkdir "$work/programs/$(uname -m)"
printf '\177ELF\2\1\1' >"$work/programs/$(uname -m)/shoal-worker"
chmod +x "$work/programs/$(uname -m)/shoal-worker"
cluster push --programs "$work/programs"
says "a program for another machine" "$work/err" '^node1: node1 is a machine of another kind: build there'
sed 's/ssh: .*//' "$ini" >"$work/none.ini"
on coordinator sh "$SHOAL_SRCDIR/deploy/cluster.sh" up -c "$work/none.ini" 2>"$work/err"
one_error "a cluster without ssh" $? 1 "$work/err" 'no worker has a line "ssh: USER@HOST"'

# ---- the end -------------------------------------------------------------------------------------------

printf 'node1,10.77.0.11 %s\n' "$(cut -d ' ' -f 1,2 "$box/node1/host_key.pub")" >"$box/ssh/known_hosts"
for n in 2 3; do
    printf 'node%d,10.77.0.1%d %s\n' "$n" "$n" "$(cut -d ' ' -f 1,2 "$box/node$n/host_key.pub")"
done >>"$box/ssh/known_hosts"
cluster down
one_error "down names who cannot be reached" "$rc" 1 "$work/err" '^node4: node4 cannot be reached'
for name in coordinator node1 node2 node3; do
    on "$name" find "$box/$name/home" -mindepth 1 ! -name lost+found ! -name .local ! -name state
    on "$name" ps -e -o args= | grep -v -e sshd -e '^ps ' -e '^grep '
done >"$work/left"
if test -s "$work/left"; then
    fail "down leaves nothing on a board" "$work/left"
else
    pass "down leaves nothing on a board"
fi
lab down >"$work/out" 2>&1
check "the laboratory ends" test $? -eq 0
left_nothing "nothing is left of it"
if test -s "$work/slice"; then
    cat "$slice" >"$work/slice-after"
    same "the machine's setting for quotas is what it was" "$work/slice" "$work/slice-after"
fi
finish
