#!/bin/sh
# SIGHUP: the coordinator reads its file again. A new worker is taken in, with a key that was made
# meanwhile; a worker that is excluded gives up its layers, and another pin is followed, both while an
# answer streams; a file with a mistake, or with something that needs a restart, is refused with the reason.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

question="In the beginning"
local_answer -q -p "$question" -n 10 --temperature 0 >"$work/ten" 2>&1
local_answer -q -p "$question" -n 100 --temperature 0 >"$work/hundred" 2>&1

answers_now()
{
    generate -q -p "$question" -n 10 --temperature 0 >"$work/actual" 2>"$work/actual.err"
    same "$1" "$work/ten" "$work/actual"
}

ask_slowly()
{
    rm -f "$work/asked"
    generate -q -p "$question" -n 100 --temperature 0 >"$work/asked" 2>"$work/asked.err" &
    asker=$!
    within 20 test -s "$work/asked"
}

answered()
{
    wait "$asker" || note "exit status $?: $(cat "$work/asked.err")"
    same "$1" "$work/hundred" "$work/asked"
}

log_says()
{
    grep -q -e "$1" "$lab/coordinator.log"
}

new_cluster alpha beta gamma
cluster_keys="context: 512
slots: 4
heartbeat: 200 ms
dead-after: $((patience * 2)) s"
for name in $workers; do
    eval "options_$name='--test-pass-ms 10'"
done

# gamma comes later: neither its section nor its key is there at the start.
write_config
cp "$lab/cluster.ini" "$work/three.ini"
sed '/^\[worker gamma\]/,$d' "$work/three.ini" >"$work/two.ini"
cp "$work/two.ini" "$lab/cluster.ini"
mkdir "$work/later"
mv "$lab/keys/gamma.pub" "$lab/keys/gamma.secret" "$work/later"
start_coordinator
start_worker alpha --test-pass-ms 10
start_worker beta --test-pass-ms 10
check "two workers serve" within 30 is_serving

ask_slowly
mv "$work/later"/gamma.* "$lab/keys"
cp "$work/three.ini" "$lab/cluster.ini"
start_worker gamma --test-pass-ms 10
signal coordinator HUP
check "a new worker gets layers" within 30 has_state gamma serving
answered "an answer streams on meanwhile"
answers_now "the three answer"

ask_slowly
sed 's/^\[worker beta\]/&\
exclude: yes/' "$work/three.ini" >"$lab/cluster.ini"
signal coordinator HUP
check "a worker that is excluded gives up its layers" within 30 has_state beta idle
answered "an answer streams on meanwhile, again"
bounded 30 "$shoal" plan -c "$lab/cluster.ini" >"$work/plan" 2>&1
says "and the plan says why" "$work/plan" '^left out: beta: excluded by the configuration$'

ask_slowly
sed 's/^\[worker gamma\]/&\
layers: 3-7/' "$work/three.ini" >"$lab/cluster.ini"
signal coordinator HUP
check "a pin is followed" within 30 has_state gamma 'serving +3-7'
answered "an answer streams on meanwhile, once more"

echo "nonsense: 1" >>"$lab/cluster.ini"
signal coordinator HUP
check "a mistake is named with file and line" within 10 log_says 'reload error=.*cluster.ini:[0-9]*: .*nonsense'
sed 's/^slots: .*/slots: 5/' "$work/three.ini" >"$lab/cluster.ini"
signal coordinator HUP
check "what needs a restart is named" within 10 log_says 'reload error=.*slots.*needs a restart'
cp "$work/three.ini" "$lab/cluster.ini"
answers_now "the cluster serves on"
check "all end with status 0" stop_cluster
finish
