#!/bin/sh
# What is in the tree is in the release: every file of the manifest (SHOAL_MANIFEST, written by
# deploy/selftest.sh before anything is generated) is on the distribution's list.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"

if ! test -f "${SHOAL_MANIFEST-}"; then
    skipped "every file of the tree is distributed" "no manifest"
    finish
    exit
fi

# Folders of test data are listed whole.
make -s -C "$SHOAL_BUILDDIR" print-distfiles 2>/dev/null | while read -r path; do
    if test -d "$SHOAL_SRCDIR/$path"; then
        (cd "$SHOAL_SRCDIR" && find "$path" -type f)
    else
        echo "$path"
    fi
done | sort -u >"$work/distributed"
# What only a checkout has a use for.
grep -v -E '^(\.ci/|\.gitignore$|\.gitattributes$)' "$SHOAL_MANIFEST" | sort |
    comm -23 - "$work/distributed" >"$work/bad"
verdict "every file of the tree is distributed" "$work/bad"

finish
