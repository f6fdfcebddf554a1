#!/bin/sh
# A slot keeps its KV cache after an answer: a request that begins as an earlier one did starts behind
# what the two have in common, and answers as one process does, token for token. A conversation's turns
# do so one after the other; a worker that dies takes its part of the cache along, and nothing is reused
# that is not there any more.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

# turn NAME OPTION...: cluster and process print the same JSON but for times; $reused and $prompt_tokens
# are the cluster's, its text is in $work/text.
turn()
{
    name=$1
    shift
    local_answer -q --json "$@" 2>"$work/expected.err" | without_times >"$work/expected"
    generate -q --json "$@" >"$work/answer" 2>"$work/actual.err"
    without_times <"$work/answer" >"$work/actual"
    same "$name" "$work/expected" "$work/actual"
    reused=$(number reused_tokens)
    prompt_tokens=$(number prompt_tokens)
}

# number MEMBER: of the last answer; 0 where it has none.
number()
{
    found=$(sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$work/answer")
    echo "${found:-0}"
}

# between LEAST REUSED: at least so many, and not the last one.
between()
{
    test "$2" -ge "$1" && test "$2" -lt "$prompt_tokens"
}

# A conversation of three turns, each of which begins with the prompt and the answer of the one before.
converse()
{
    prompt="In the beginning God created"
    least=0
    for i in one two three; do
        turn "turn $i says what one process says" -p "$prompt" -n 24 --seed 3
        check "turn $i reuses what it should ($reused of $prompt_tokens)" between "$least" "$reused"
        least=$((prompt_tokens - 1))
        generate -q -p "$prompt" -n 24 --seed 3 >"$work/text" 2>&1
        prompt="$prompt$(cat "$work/text") And"
    done
}

new_cluster alpha beta
cluster_keys="context: 512
slots: 3"
must_start

converse
turn "another conversation" -p "The king answered and said, $(long_prompt 6)" -n 12 --temperature 0
check "another conversation reuses next to nothing ($reused)" test "$reused" -le 3
turn "the same prompt again" -p "The king answered and said, $(long_prompt 6)" -n 12 --temperature 0
check "the same prompt again runs its last token only" test "$reused" -eq $((prompt_tokens - 1))
turn "half of it, then something else" -p "The king answered and said, $(long_prompt 5) Behold" -n 12 --seed 8
check "half of it is reused ($reused of $prompt_tokens)" between 30 "$reused"
generate -p "The king answered and said, $(long_prompt 5) Behold" -n 3 --seed 8 >"$work/text" 2>"$work/said"
says "the statistics say it" "$work/said" '^[0-9]+ prompt tokens, [1-9][0-9]* of them reused; first token after'

"$shoal" logits -m "$model" -p "The king answered and said, $(long_prompt 6)" --json >"$work/expected" 2>&1
bounded 60 "$shoal" logits -c "$lab/cluster.ini" -p "The king answered and said, $(long_prompt 6)" --json >"$work/actual" 2>&1
same "logits of every position are made anew" "$work/expected" "$work/actual"

# ---- many at once ------------------------------------------------------------------------------------

for i in 1 2 3 4 5 6 7 8; do
    echo "{\"prompt\":\"$(long_prompt $((i % 4 + 2))) And\",\"n\":10,\"seed\":$i}"
done >"$work/prompts"
turn "eight requests with beginnings in common, in three slots" --prompts "$work/prompts"

# ---- a worker dies -----------------------------------------------------------------------------------

turn "before a worker dies" -p "Thus saith the LORD $(long_prompt 4)" -n 8 --temperature 0
kill_program beta
check "the other one takes over" within 30 has_state alpha serving
within 30 is_serving
turn "after that" -p "Thus saith the LORD $(long_prompt 4)" -n 8 --temperature 0
check "nothing is left to reuse" test "$reused" -eq 0
turn "and once more" -p "Thus saith the LORD $(long_prompt 4)" -n 8 --temperature 0
check "now there is" test "$reused" -eq $((prompt_tokens - 1))

finish
