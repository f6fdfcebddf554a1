#!/bin/sh
# Rings of other kinds than the plainest: the output matrix on the first stage, to which rows come back
# (the text is one process's, bit for bit), and hidden states that travel in fewer bytes (it need not be,
# but it is the same every time, and near).
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"
figure_ms=0 # which stage comes first follows from what boards were measured as

# Pinned so that the last stage is by far the slowest: the planner spares it the output matrix.
uneven_cluster()
{
    new_cluster alpha beta gamma
    cluster_keys="$cluster_keys
wire: $1"
    placement_keys="$placement_keys
objective: throughput"
    keys_alpha="threads: 1
layers: 0-0"
    keys_beta="threads: 1
layers: 1-1"
    keys_gamma="threads: 1
layers: 2-7"
    must_start
}

write_prompts()
{
    cat >"$work/prompts" <<'END'
In the beginning
{"prompt":"The king answered and said,","n":30,"temperature":0.9,"seed":1,"logprobs":3}
{"prompt":"Thou shalt not","n":30,"temperature":0,"stop":["LORD","king"]}
{"prompt":"And it came to pass","n":1,"temperature":0}
{"prompt":"Now there was a man","n":40,"temperature":0.7,"repeat_penalty":1.3,"seed":3}
END
    printf '{"prompt":"%s","n":12,"temperature":0}\n' "$(long_prompt 10)" >>"$work/prompts"
}

# logits OPTION...: of a prompt of some chunks.
logits()
{
    bounded 60 "$shoal" logits "$@" -p "$(long_prompt 20)" --json
}

# The best token of each position, one a line.
best_tokens()
{
    grep -o '"best":\[\[[0-9]*' "$1" | sed 's/.*\[//'
}

# near: nine of ten positions have the same best token.
near()
{
    best_tokens "$work/expected" >"$work/best1"
    best_tokens "$work/actual" >"$work/best2"
    paste "$work/best1" "$work/best2" |
        awk '{ n++; same += $1 == $2 } END { print same, "of", n; exit !(n > 50 && same >= 0.9 * n) }'
}

other_bits()
{
    ! cmp -s "$work/expected" "$work/actual"
}

# ---- output on the first stage -------------------------------------------------------------------------

output_is_first()
{
    grep -q 'planned name=alpha stage=0 .* runs=[1-9]' "$lab/coordinator.log" &&
        grep -q 'planned name=gamma stage=2 .* runs=0$' "$lab/coordinator.log"
}

# Where the machine is busy with other things, a board may be measured as many times slower as it has
# fewer layers: then once more.
write_prompts
tries=0
while :; do
    uneven_cluster exact
    tries=$((tries + 1))
    if output_is_first || test "$tries" -ge 5; then
        break
    fi
    stop_cluster
done
check "the output matrix stands on the first stage" output_is_first
logits -m "$model" >"$work/expected" 2>&1
logits -c "$lab/cluster.ini" >"$work/actual" 2>&1
same "output first: logits of every prompt position are the same bits" "$work/expected" "$work/actual"
local_answer --json --prompts "$work/prompts" --seed 11 -n 24 2>/dev/null | without_times >"$work/texts"
generate --json --prompts "$work/prompts" --seed 11 -n 24 2>/dev/null | without_times >"$work/answers"
same "output first: requests of each kind at once" "$work/texts" "$work/answers"
ask_status
says "output first: no slot is in use afterwards" "$lab/status.txt" '0 of 8 slots in use, 0 requests wait'
check "output first: all programs end with status 0" stop_cluster

# ---- fewer bytes ---------------------------------------------------------------------------------------

for wire in f16 q8; do
    uneven_cluster "$wire"
    logits -c "$lab/cluster.ini" >"$work/actual" 2>&1
    logits -c "$lab/cluster.ini" >"$work/again" 2>&1
    same "wire: $wire: the same logits every time" "$work/actual" "$work/again"
    check "wire: $wire: they are not those of one process" other_bits
    check "wire: $wire: but near" near
    check "wire: $wire: all programs end with status 0" stop_cluster
done

finish
