#!/bin/sh
# Make configure from configure.ac, in a checkout; a release tarball has it already.
set -eu
cd "$(dirname "$0")"
mkdir -p build-aux
exec autoreconf --install --warnings=all
