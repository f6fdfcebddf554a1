#!/bin/sh
# The units of systemd are such as systemd understands, and leave the programs little that they do not
# need. They name where `make install` puts the programs; here the build's stand for them.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"

if ! command -v systemd-analyze >/dev/null; then
    skipped "units are good" "no systemd-analyze (package systemd)"
    finish
    exit
fi
for unit in "$SHOAL_SRCDIR"/deploy/systemd/*.service; do
    name=${unit##*/}
    sed "s|=/usr/local/bin/|=$SHOAL_BUILDDIR/|" "$unit" >"$work/$name"
    systemd-analyze verify --man=no "$work/$name" >"$work/said" 2>&1
    status=$?
    # What is wrong elsewhere on this machine is not ours.
    grep -F -e "${name%.service}" -e "$work" "$work/said" >"$work/bad"
    test "$status" -eq 0 || cat "$work/said" >>"$work/bad"
    verdict "$name is a good unit" "$work/bad"
    # Of 10, which is a service without any restriction.
    systemd-analyze security --offline=true --threshold=20 "$work/$name" >"$work/said" 2>&1 &&
        : >"$work/said"
    tail -n 1 "$work/said" >"$work/bad"
    verdict "$name is shut in (exposure of 2 at most)" "$work/bad"
done

finish
