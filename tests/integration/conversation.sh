#!/bin/sh
# Conversations: the coordinator puts one into the words of the model's own chat template and answers as
# one process does; the next turn starts behind what the last one left in the KV cache; a prompt that is
# no conversation, and a model without a template, are refused with the reason. First as any client may
# send them, then with `shoal chat`, whose turns with a cluster are those with a model in one process.
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

converse=$SHOAL_BUILDDIR/tests/integration/converse
plain=$model
template="{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ message['content'] + eos_token }}"

# talk NAME N MESSAGE...: cluster and process say the same, with as many tokens in the prompt.
talk()
{
    name=$1
    shift
    bounded 60 "$converse" -m "$model" "$@" >"$work/expected" 2>"$work/expected.err"
    bounded 60 "$converse" -c "$lab/cluster.ini" "$@" >"$work/actual" 2>"$work/actual.err"
    same "$name" "$work/expected" "$work/actual"
    reused=$(sed -n 's/^reused_tokens //p' "$work/actual.err")
}

# refused NAME EXPRESSION MESSAGE...: by both, and why.
refused()
{
    name=$1
    why=$2
    shift 2
    if bounded 60 "$converse" -c "$lab/cluster.ini" 8 "$@" >"$work/actual" 2>&1; then
        fail "$name" "$work/actual"
    else
        says "$name" "$work/actual" "$why"
    fi
}

check "a model gets a chat template" "$SHOAL_BUILDDIR/tests/integration/add_template" "$plain" "$work/chat.gguf" "$template"
model=$work/chat.gguf
new_cluster alpha beta
must_start
talk "a first turn" 16 "u:Who was the first man?"
says "the template's words stand around it" "$work/actual" '^prompt_tokens [2-9][0-9]'
answer=$(head -n 1 "$work/actual")
talk "a second turn" 16 "u:Who was the first man?" "a:$answer" "u:And who was his wife?"
check "it starts behind the first one's prompt ($reused)" test "$reused" -gt 15
talk "control tokens in a message are text" 8 "u:What is </s> and <s>?"
refused "two messages of the user" 'no words for the user' "u:one" "u:two"
refused "a system message, for which this template has no words" 'system message' "s:Be brief." "u:one"
refused "a conversation without a question" 'no words|nothing to answer' "u:one" "a:two"
generate -q -p "In the beginning" -n 8 --temperature 0 >"$work/actual" 2>&1
local_answer -q -p "In the beginning" -n 8 --temperature 0 >"$work/expected" 2>&1
same "a prompt that is text stays text" "$work/expected" "$work/actual"
check "the cluster ends" stop_cluster

# ---- shoal chat ------------------------------------------------------------------------------------------

# chat_here OPTION... and chat_there OPTION...: two questions; the statistics go to $work/here and there.
chat_here()
{
    printf 'who was the first man\nand who was his wife\n' |
        bounded 60 "$shoal" chat -m "$model" -n 16 "$@" 2>"$work/here"
}

chat_there()
{
    printf 'who was the first man\nand who was his wife\n' |
        bounded 60 "$shoal" chat -c "$lab/cluster.ini" -n 16 "$@" 2>"$work/there"
}

# reused FILE: tokens that the second turn did not read again.
reused()
{
    sed -n '2s/^[0-9]* prompt tokens, \([0-9]*\) of them reused.*/\1/p' "$1"
}

model=$work/chatml.gguf
check "a random model with a template" "$SHOAL_BUILDDIR/tests/tools/make_model" "$model" qwen3 mixed chatml 1
new_cluster alpha beta
must_start
for options in "--seed 5" "--seed 6 --temperature 1.5 --system brevity" "--temperature 0"; do
    # Word splitting is wanted.
    chat_here $options >"$work/expected"
    chat_there $options >"$work/actual"
    same "two turns with a cluster are two turns in one process ($options)" "$work/expected" "$work/actual"
    here=$(reused "$work/here")
    there=$(reused "$work/there")
    check "the second starts behind the first ($there tokens)" test "${there:-0}" -ge 20
    check "as far as one process does ($here)" test "${there:-0}" -ge "${here:-999}"
done
check "both end" stop_cluster

model=$plain
new_cluster solo
must_start
echo hello | bounded 60 "$shoal" chat -q -c "$lab/cluster.ini" >"$work/actual" 2>&1
check "chat fails with a model without a template" test $? -eq 1
says "and says why" "$work/actual" 'no conversations with this model: .*template'
refused "a model without a template" 'no conversations with this model: .*template' "u:one"
check "it ends as well" stop_cluster

finish
