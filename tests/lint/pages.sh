#!/bin/sh
# The pages keep up with the code: every message of net/wire.def is on the protocol page, every key of
# the configuration reader's table on the configuration page.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"
cd "$SHOAL_SRCDIR" || exit 1

# names_on_page PAGE NAMES TITLE
names_on_page()
{
    if ! test -f "$1"; then
        skipped "$3" "no $1"
        return
    fi
    if ! test -s "$2"; then
        echo "no names were found to look for" >"$work/bad"
    else
        while read -r name; do
            grep -q -w -F -e "$name" "$1" || echo "$name is not in $1"
        done <"$2" >"$work/bad"
    fi
    verdict "$3" "$work/bad"
}

sed -n 's/^MSG(\([A-Z0-9_]*\),.*/\1/p' net/wire.def >"$work/messages"
names_on_page docs/protocol.md "$work/messages" "every message is on the protocol page"

# On the page a key stands in backquotes.
sed -n 's/^KEY([A-Z]*, "\([^"]*\)".*/`\1`/p' net/config.def >"$work/keys"
names_on_page docs/configuration.md "$work/keys" "every key is on the configuration page"

finish
