#!/bin/sh
# A cluster at its main job: three workers answer what one process answers, token for token, one request
# or many at once; status and plan tell what is there; it stops when told and starts again without
# shipping anything. The same for a cluster of one worker, and for one that may choose.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"
figure_ms=0 # one script with boards that are measured as all clusters do it

# agree NAME OPTION...: cluster and process print the same text and the same JSON but for times.
agree()
{
    name=$1
    shift
    local_answer "$@" >"$work/expected" 2>"$work/expected.err"
    expected=$?
    generate "$@" >"$work/actual" 2>"$work/actual.err"
    if test $? -ne "$expected"; then
        fail "$name" "$work/actual.err" "$work/expected.err"
        return
    fi
    local_answer --json "$@" 2>/dev/null | without_times >>"$work/expected"
    generate --json "$@" 2>>"$work/actual.err" | without_times >>"$work/actual"
    same "$name" "$work/expected" "$work/actual"
}

# finishes NAME HOW: as the last `agree` ended.
finishes()
{
    says "$1" "$work/actual" "\"finish\":\"$2\""
}

# The layers of all stages, in ring order, cover the model once.
covers_layers()
{
    sed -n 's/^ *[0-9]*  *\([0-9]*\)-\([0-9]*\)  *-  .*/\1 \2/p' "$work/plan" >"$work/ranges"
    awk '$1 != next_layer || $2 < $1 { bad = 1 } { next_layer = $2 + 1 } END { exit bad || next_layer != 8 }' \
        "$work/ranges"
}

# Requests of every kind, some of which end early.
write_prompts()
{
    cat >"$work/prompts8" <<'END'
In the beginning
{"prompt":"And the LORD said unto Moses,","n":20,"temperature":0}
{"prompt":"The king answered and said,","n":30,"temperature":0.9,"seed":1}
{"prompt":"Behold, I will","n":25,"temperature":1.2,"top_k":0,"top_p":0.9,"min_p":0,"seed":2}
{"prompt":"Thou shalt not","n":30,"temperature":0,"stop":["LORD","king"]}
{"prompt":"And it came to pass","n":1,"temperature":0}
{"prompt":"Now there was a man","n":40,"temperature":0.7,"repeat_penalty":1.3,"seed":3}
{"prompt":"And","n":0}
END
    {
        cat "$work/prompts8"
        printf '{"prompt":"%s","n":12,"temperature":0}\n' "$(long_prompt 10)"
        printf '{"prompt":"%s","n":8,"temperature":0.8,"seed":18446744073709551615}\n' "$(long_prompt 25)"
        echo 'Then said Jesus unto them'
        cat <<'END'
{"prompt":"And he said, And he said,","n":30,"temperature":0,"presence_penalty":0.5,"frequency_penalty":0.7}
{"prompt":"In the beginning","n":20,"seed":6,"logit_bias":{"13":-2.5,"5":"banned"},"logprobs":3}
END
        echo '{"prompt":"Wherefore","n":60,"temperature":0.8,"seed":4,"repeat_penalty":1.1}'
    } >"$work/prompts14"
}

ask_in_all_ways()
{
    agree "$1: greedy" -p "In the beginning" -n 40 --temperature 0
    agree "$1: sampled with a seed" -p "And the LORD said unto Moses," -n 40 --seed 7
    agree "$1: a request of each kind at once" --prompts "$work/prompts8" --seed 11 -n 24
}

# ---- three workers -----------------------------------------------------------------------------------

write_prompts
new_cluster alpha beta gamma
must_start
pass "three workers serve"
cp "$lab/status.txt" "$work/first"
says "status: alpha serves" "$work/first" '^alpha +serving +[0-9]-[0-9] +- +8 +768 '
says "status: beta serves" "$work/first" '^beta +serving +[0-9]-[0-9] +- +8 +768 '
says "status: gamma serves" "$work/first" '^gamma +serving +[0-9]-[0-9] +- +8 +768 '
says "status: no slot is in use" "$work/first" '0 of 8 slots in use, 0 requests wait'
"$shoal" status -c "$lab/cluster.ini" --json >"$work/json" 2>&1
says "status --json names the nodes" "$work/json" \
    '^\{"epoch":[1-9][0-9]*,"nodes":\[\{"name":"alpha","state":"serving","layers":\[[0-7],[0-7]\],"heads":8,"columns":768,"memory_bytes":[1-9]'
"$shoal" plan -c "$lab/cluster.ini" >"$work/plan" 2>&1
check "plan: the stages cover the layers once" covers_layers
says "plan: a prediction" "$work/plan" '^one request: [0-9.]+ ms a token predicted'
says "plan: proven" "$work/plan" '^proven to be the best plan$'
"$shoal" plan -c "$lab/cluster.ini" --json >"$work/json" 2>&1
"$shoal" plan -c "$lab/cluster.ini" --svg "$work/plan.svg" >"$work/plan" 2>&1
says "plan --svg draws the plan in force" "$work/plan.svg" '<title>alpha</title>'
says "plan --json predicts" "$work/json" '"predicted_ms_per_token":[0-9.e-]+,"predicted_tok_s":[0-9.e]+,"gap":0.0,"left_out":\[\],"predicted_ttft_ms":[0-9.e]+,"prompt":128'

ask_in_all_ways "three workers"
agree "fourteen requests, more than slots" --prompts "$work/prompts14" --seed 12 -n 24
says "log-probabilities are asked for and given" "$work/actual" '"logprobs":\[\{"id":[0-9]+,"logprob":-[0-9.e-]+,"top":\[\[[0-9]+,-'
agree "a penalty and other samplers" -p "Behold, I will" -n 40 --seed 5 --temperature 1.1 --top-k 10 \
    --top-p 0.8 --min-p 0.02 --repeat-penalty 1.2
agree "penalties and biases" -p "And it came to pass" -n 40 --seed 6 --presence-penalty 0.4 \
    --frequency-penalty 0.6 --logit-bias 300=4 --logit-bias 13=banned
agree "a stop string" -p "In the beginning" -n 40 --temperature 0 --stop "Son of" --stop zebra
finishes "a stop string ends the answer" stop
agree "no token at all" -p "In the beginning" -n 0
finishes "no token at all: length" length
agree "one token" -p "In the beginning" -n 1 --temperature 0
finishes "one token: length" length
agree "to the end of the context" -p "$(long_prompt 25)" --temperature 0
finishes "the end of the context: length" length

"$shoal" logits -m "$model" -p "$(long_prompt 20)" --json >"$work/expected" 2>&1
bounded 60 "$shoal" logits -c "$lab/cluster.ini" -p "$(long_prompt 20)" --json >"$work/actual" 2>&1
same "logits of every prompt position are the same bits" "$work/expected" "$work/actual"

ask_status
says "nothing waits and no slot is in use afterwards" "$lab/status.txt" '0 of 8 slots in use, 0 requests wait'
check "all programs end on SIGTERM with status 0" stop_cluster

# ---- the same cluster once more -----------------------------------------------------------------------

# The first plan rests on measured times; pinned, the second one is the same.
for name in $workers; do
    eval "keys_$name=\"threads: 1
layers: $(sed -n "s/^$name *serving *\([0-9]*-[0-9]*\) .*/\1/p" "$work/first")\""
done
check "a second start ships nothing" ships_nothing
agree "the second start answers" -p "In the beginning" -n 20 --temperature 0
check "all programs end again" stop_cluster

# ---- one worker, and a choice --------------------------------------------------------------------------

new_cluster solo
must_start
ask_in_all_ways "one worker"
check "a cluster of one ends" stop_cluster

new_cluster alpha beta
placement_keys="use: best"
must_start
"$shoal" plan -c "$lab/cluster.ini" >"$work/plan" 2>&1
says "use: best leaves a worker out and says why" "$work/plan" '^left out: (alpha|beta): .+'
ask_status
says "the worker that is left out is idle" "$lab/status.txt" '^(alpha|beta) +idle +- '
agree "use: best answers" -p "In the beginning" -n 20 --temperature 0
check "a cluster that chose ends" stop_cluster

finish
