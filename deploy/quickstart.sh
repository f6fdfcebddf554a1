#!/bin/sh
# From a bare Debian 12 or Raspberry Pi OS to an answer: installs the packages that are missing, builds Shoal
# in build/, starts a coordinator and three workers on this machine, asks the bundled demo model for a text,
# shows the plan, and stops everything again.
#
#   SHOAL_QUICKSTART_PROMPT=TEXT   what to ask (default: In the beginning)
#   SHOAL_QUICKSTART_BUILD=DIR     where to build, or an existing build (default: build/ in the tree)
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/deploy/packages.sh"

prompt=${SHOAL_QUICKSTART_PROMPT-In the beginning}
build=${SHOAL_QUICKSTART_BUILD-$root/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-quickstart-XXXXXX")
started=

say()
{
    printf '== %s\n' "$*"
}

# Stop what was started, newest first, and wait for it: nothing is left running.
finish()
{
    status=$?
    trap - EXIT INT TERM
    for pid in $started; do
        kill "$pid" 2>/dev/null || :
    done
    for pid in $started; do
        wait "$pid" 2>/dev/null || :
    done
    if test "$status" -ne 0; then
        for log in "$work"/*.log; do
            test -f "$log" || continue
            say "the end of $log"
            tail -n 20 "$log"
        done
        say "failed; the logs are in $work"
    else
        rm -rf "$work"
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 1' INT TERM

# attempt LOG COMMAND...: run quietly; on failure show the end of the log.
attempt()
{
    log=$work/$1
    shift
    "$@" >"$log" 2>&1
}

# start NAME PROGRAM ARGUMENTS...
start()
{
    log=$work/$1.log
    shift
    "$@" 2>"$log" &
    started="$! $started"
}

packages_install $packages_build

if test -z "${SHOAL_QUICKSTART_BUILD-}" || test ! -x "$build/shoal"; then
    say "building in $build (a minute or two on a small board)"
    mkdir -p "$build"
    test -x "$root/configure" || attempt autogen.log sh "$root/autogen.sh"
    cd "$build"
    test -f Makefile || attempt configure.log "$root/configure"
    attempt make.log make -j"$(getconf _NPROCESSORS_ONLN)"
fi

say "a cluster of three workers on this machine"
config=$work/local3.ini
sed -e "s|^model:.*|model: $root/models/shoal-demo-7m-q8_0.gguf|" \
    -e "s|^keys:.*|keys: keys|" \
    -e "s|^\[placement\]|state: state\n[placement]|" \
    -e "s|^\[worker \(.*\)\]|[worker \1]\n  store: store-\1|" \
    "$root/configs/local3.ini" >"$config"
"$build/shoal" keygen "$work/keys" coordinator alpha beta gamma client >"$work/keygen.log"
start coordinator "$build/shoal-coordinator" -c "$config"
for name in alpha beta gamma; do
    start "$name" "$build/shoal-worker" -c "$config" --name "$name"
done

# The request waits in the coordinator's queue until the workers are measured and have their shards.
say "asking: $prompt"
printf '%s' "$prompt"
"$build/shoal" generate -c "$config" -p "$prompt" -n 96 --temperature 0.7 --seed 1

# Measured times come with the workers' heartbeats, twice a second.
tries=0
while "$build/shoal" status -c "$config" --json | grep -q '"ms":null' && test "$tries" -lt 20; do
    tries=$((tries + 1))
    sleep 0.1
done

say "the plan that was used, predicted and measured"
"$build/shoal" plan -c "$config"
say "one board alone would be faster for so small a model: 'use: all' in the configuration makes every
   worker take part. Without it ('use: best') the plan leaves out whoever slows it down."
