#!/bin/sh
# `shoal chat` in one process, on the bundled model with a chat template added: a turn gives what `local`
# gives for the whole conversation written out, though only what is new of it is read; and whatever
# happens to a turn, the conversation goes on.
: "${SHOAL_SRCDIR:=.}"
: "${SHOAL_BUILDDIR:=.}"

shoal=$SHOAL_BUILDDIR/shoal
plain=$SHOAL_SRCDIR/models/shoal-demo-7m-q8_0.gguf
count=0
failures=0
work=$(mktemp -d)
child=
trap 'test -z "$child" || kill "$child" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
model=$work/model.gguf

# result NAME STATUS: 0 is ok; what stands in $work/why is the diagnostics of a failure.
result()
{
    count=$((count + 1))
    if test "$2" -eq 0; then
        echo "ok $count - $1"
    else
        failures=$((failures + 1))
        echo "not ok $count - $1"
        head -n 20 "$work/why" | sed 's/^/# /'
    fi
}

same()
{
    diff "$2" "$3" >"$work/why" 2>&1
    result "$1" $?
}

# chat OPTION...: lines on stdin; what is printed goes to $work/out and $work/err.
chat()
{
    "$shoal" chat -m "$model" --seed 11 "$@" >"$work/out" 2>"$work/err"
    status=$?
    {
        echo "status $status, stderr:"
        cat "$work/err"
        echo "stdout:"
        cat "$work/out"
    } >"$work/why"
    return $status
}

# The answer to a text that holds the whole conversation.
whole()
{
    "$shoal" local -m "$model" --seed 11 -q --special "$@"
}

if ! "$SHOAL_BUILDDIR/tests/integration/add_template" "$plain" "$model" \
    "{{ 'User: ' + message['content'] + '\n\n' }}{{ 'Assistant: ' + message['content'] + eos_token }}" \
    2>"$work/why"; then
    result "the model gets a template" 1
    echo "1..$count"
    exit 1
fi

# ---- one text

first="Who was Moses?"
second="And what is a hacker?"
nl='

'
echo "$first" | chat -n 24 -q
result "a turn is answered" $?
cp "$work/out" "$work/first"
whole -n 24 -p "User: $first${nl}Assistant:" >"$work/want"
same "as the text that the template makes of it" "$work/want" "$work/first"
answer=$(cat "$work/first"; echo x)
answer=${answer%?x}
whole -n 24 -p "User: $first${nl}Assistant: $answer</s>User: $second${nl}Assistant:" >"$work/want2"
cat "$work/first" "$work/want2" >"$work/want"
for options in "-q" "-q -t 1 --chunk 1" "-q --kernels generic --chunk 7"; do
    # Word splitting is wanted.
    printf '%s\n%s' "$first" "$second" | chat -n 24 $options
    same "two turns are the conversation read as a whole ($options)" "$work/want" "$work/out"
done
printf '%s\n\n%s\n' "$first" "$second" | chat -n 24
grep -q "prompt tokens, [1-9][0-9]* of them reused" "$work/err"
result "the second turn does not read the first again" $?

printf '%s\n%s\n/reset\n%s\n/exit\nmore\n' "$first" "$second" "$first" | chat -n 24 -q
result "/exit ends it" $?
cat "$work/want" "$work/first" >"$work/thrice"
same "/reset starts anew" "$work/thrice" "$work/out"

echo "$first" | chat -n 24 -q --system "You are a prophet."
whole -n 24 -p "You are a prophet.${nl}User: $first${nl}Assistant:" >"$work/want"
same "--system comes first" "$work/want" "$work/out"

echo "say </s>" | chat -n 8 -q
"$shoal" local -m "$model" --seed 11 -q -n 8 -p "User: say </s>${nl}Assistant:" >"$work/want"
same "a control token written in a message is text" "$work/want" "$work/out"

# ---- what can go wrong

chat -q </dev/null
result "no input is no mistake" $?
printf '%s\n%s %s %s\n/reset\n%s\n' "$first" "$second" "$second" "$second" "$first" |
    chat -q --context 24 -n 4
test $? -eq 1 && grep -q "conversation has [0-9]* tokens.*/reset" "$work/err" &&
    test "$(wc -l <"$work/err")" -eq 1 && test "$(sort -u "$work/out" | wc -l)" -eq 1
result "a conversation that is too long says how to go on" $?
echo "$first" | chat -q --context 20
test $? -eq 0 && grep -q "context is full.*/reset" "$work/err"
result "an answer that the context ends says so" $?
printf 'a\377b\n' | chat -q
test $? -eq 0 && grep -q "not UTF-8" "$work/err" && ! test -s "$work/out"
result "a line that is no text is told" $?
echo x | "$shoal" chat -m "$plain" >"$work/why" 2>&1
test $? -eq 1 && grep -q "no chat template" "$work/why"
result "a model without a template says so" $?
"$shoal" chat >"$work/why" 2>&1
test $? -eq 2 && grep -q -e "either -m GGUF or -c FILE" "$work/why"
result "neither a model nor a cluster is wrong usage" $?

# ---- SIGINT

# wait_for TEST...: until it is true, at most a minute.
wait_for()
{
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        test $tries -lt 600 || return 1
        sleep 0.1
    done
}

mkfifo "$work/in"
"$shoal" chat -m "$model" --seed 11 -q --kernels generic -t 1 <"$work/in" >"$work/out" 2>"$work/err" &
child=$!
exec 4>"$work/in"
echo "$first" >&4
wait_for test -s "$work/out"
kill -INT $child
wait_for grep -q stopped "$work/err"
result "SIGINT stops an answer" $?
size=$(wc -c <"$work/out")
echo "$second" >&4
longer()
{
    test "$(wc -c <"$work/out")" -gt "$size"
}
wait_for longer
result "and the conversation goes on" $?
kill -INT $child
stopped_twice()
{
    test "$(grep -c stopped "$work/err")" -eq 2
}
wait_for stopped_twice
result "and can be stopped again" $?
kill -INT $child 2>/dev/null
wait $child
status=$?
child=
exec 4>&-
echo "status $status" >"$work/why"
test $status -eq 0
result "SIGINT at the prompt ends it" $?

echo "1..$count"
test "$failures" -eq 0
