#!/bin/sh
# Every test of Shoal, from a bare Debian 12 or Raspberry Pi OS on: installs the packages that are
# missing, then, on a copy of the tree,
#   1. a build with warnings as errors, its unit, integration and lint tests,
#   2. a build with AddressSanitizer and UndefinedBehaviorSanitizer, the same tests,
#   3. make distcheck: the release tarball builds and passes its tests from a read-only tree.
# Prints the log of every test that fails and ends with one line, `N passed, N failed, N skipped`.
#
#   SHOAL_SELFTEST_SHORT=1   leave out step 3
#   SHOAL_SELFTEST_JOBS=N    processes at once (default: the cores)
#   SHOAL_REFERENCE=DIR      expected values that are not part of the tree (default, where it exists:
#                            ../shared/reference beside the tree); without them some tests are skipped
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/deploy/packages.sh"

jobs=${SHOAL_SELFTEST_JOBS-$(getconf _NPROCESSORS_ONLN)}
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-selftest-XXXXXX")
broken=0 # steps that failed before there were test results
whole=0  # steps that count as one test and passed

SHOAL_REFERENCE=${SHOAL_REFERENCE-$root/../shared/reference}
SHOAL_MANIFEST=$work/manifest
export SHOAL_REFERENCE SHOAL_MANIFEST
unset CFLAGS CPPFLAGS LDFLAGS MAKEFLAGS MAKELEVEL 2>/dev/null || :

started=$(date +%s)
say()
{
    printf '== %4d s  %s\n' $(($(date +%s) - started)) "$*"
}

# attempt TITLE LOG COMMAND...: run quietly; on failure show the end of the log and remember.
attempt()
{
    title=$1
    log=$2
    shift 2
    say "$title"
    if "$@" >"$log" 2>&1; then
        return 0
    fi
    tail -n 60 "$log"
    say "$title: FAILED"
    broken=$((broken + 1))
    return 1
}

# The files of the tree, without what a build in it has left. In a git checkout git knows which.
copy_tree()
{
    mkdir "$work/src"
    if git -C "$root" ls-files -co --exclude-standard >"$work/listed" 2>/dev/null; then
        (cd "$root" && while read -r f; do
            test ! -f "$f" || echo "$f"
        done) <"$work/listed" | sort >"$SHOAL_MANIFEST"
    else
        (cd "$root" && find . \( -name .git -o -path './build*' -o -path ./autom4te.cache \
            -o -name .deps \) -prune -o -type f ! -name '*.o' ! -name '*.a' ! -name '*.log' \
            ! -name '*.trs' ! -name '*~' ! -name .dirstamp ! -path ./config.h ! -path ./config.status \
            ! -path ./stamp-h1 ! -path ./Makefile -print) | sed 's|^\./||' >"$work/listed"
        sort "$work/listed" >"$SHOAL_MANIFEST"
    fi
    (cd "$root" && tar -cf - -T "$SHOAL_MANIFEST") | (cd "$work/src" && tar -xf -)
}

# The six tests below here that took longest, as tests/tap.sh says it.
slowest()
{
    find tests -name '*.log' -exec grep '^# took ' /dev/null {} + |
        sed -n 's|.*/\([^/]*\)\.log:# took \([0-9]*\).*|\2 \1|p' | sort -rn | head -n 6 |
        awk '{ printf "%s%s %s", sep, $2, $1; sep = ", " }'
}

# build_and_check NAME CONFIGURE-FLAGS...
build_and_check()
{
    name=$1
    shift
    mkdir "$work/$name"
    cd "$work/$name"
    attempt "$name: configure $*" configure.out ../src/configure "$@" || return 0
    attempt "$name: make" make.out make -j"$jobs" || return 0
    attempt "$name: test programs" programs.out make -j"$jobs" check TESTS= || return 0
    say "$name: make check"
    rc=0
    make -j"$jobs" check >check.out 2>&1 || rc=$?
    say "$name: slowest, in seconds: $(slowest)"
    test "$rc" -ne 0 || return 0
    if ! grep -r -q -E --include='*.trs' '^:test-result: (FAIL|ERROR|XPASS)' .; then
        tail -n 60 check.out
        say "$name: make check FAILED, but no test did"
        broken=$((broken + 1))
    fi
}

distcheck()
{
    # Packagers have no reference folder and no manifest: this step shows that none is needed, and nothing that
    # the tarball lacks. A unit test that reads nothing of the tree has run twice by now and would do the same
    # here; of the tests with clusters, which take long and are no different here, it runs the first.
    cd "$work/plain"
    readers=$(cd ../src && grep -l SHOAL_SRCDIR tests/unit/*.c | sed 's/\.c$//')
    tests="$(echo $readers) tests/fuzz/corpus.sh \$(LINT_TESTS)"
    tests="$tests tests/integration/local.sh tests/integration/cluster.sh"
    if attempt "make distcheck" distcheck.out env -u SHOAL_MANIFEST SHOAL_REFERENCE="$work/none" \
        SHOAL_TEST_SHORT=1 make -j"$jobs" distcheck DISTCHECK_CONFIGURE_FLAGS=--enable-werror \
        TESTS="$tests"; then
        whole=$((whole + 1))
    fi
}

# Results of both builds; a distcheck that failed leaves a third tree, whose end has been shown.
result_files()
{
    find plain sanitized -name _build -prune -o -name '*.trs' -print 2>/dev/null | sort
}

show_failures()
{
    for trs in $(result_files); do
        if grep -q -E '^:test-result: (FAIL|ERROR|XPASS)' "$trs"; then
            say "log of ${trs%.trs}"
            grep -v -E '^(ok|PASS:|FAIL:) ' "${trs%.trs}.log" || :
        fi
    done
}

# count_results: "PASSED FAILED SKIPPED" over all tests of both builds. A program with failures also
# exits with a status, which the driver reports as one more error: that is no second failure.
count_results()
{
    for trs in $(result_files); do
        awk '$1 == ":test-result:" { n[$2]++ }
            END { f = n["FAIL"] + n["XPASS"]; if (f == 0) f = n["ERROR"]
                  print n["PASS"] + n["XFAIL"], f + 0, n["SKIP"] + 0 }' "$trs"
    done | awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }'
}

test "$(id -u)" -eq 0 || packages_lab=
packages_install $packages_build $packages_test $packages_lab
copy_tree
if attempt "autogen.sh" "$work/autogen.out" sh "$work/src/autogen.sh"; then
    build_and_check plain --enable-werror
    build_and_check sanitized --enable-sanitize=address,undefined
    if test "${SHOAL_SELFTEST_SHORT-}" != 1 && test "$broken" -eq 0; then
        distcheck
    fi
fi
cd "$work"

show_failures
for name in plain sanitized; do
    test -f "$name/check.out" || continue
    grep '^SKIP: ' "$name/check.out" >skips || continue
    say "$name: skipped"
    sed 's/^SKIP:/   /' skips
done
set -- $(count_results)
passed=$(($1 + whole))
failed=$(($2 + broken))
skipped=$3
if test "$failed" -eq 0 && test "$passed" -gt 0; then
    say "done"
    cd "$root"
    chmod -R u+w "$work"
    rm -rf "$work"
else
    say "what was built and logged is in $work"
fi
echo "$passed passed, $failed failed, $skipped skipped"
test "$failed" -eq 0 && test "$passed" -gt 0
