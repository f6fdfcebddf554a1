# The one list of Debian packages (Raspberry Pi OS has the same names) and the function that installs
# what is missing of it. Sourced by quickstart.sh and selftest.sh, never run.

packages_build="gcc libc6-dev make autoconf automake pkg-config libzmq3-dev libsodium-dev
    libglpk-dev libpcre2-dev libjansson-dev libncurses-dev"

# The tests, besides: CMocka, OpenBLAS for `numerics: fast`, and on x86 a compiler and an emulator for
# the Arm kernels.
packages_test="libcmocka-dev libopenblas0-pthread"
case $(uname -m) in
x86_64) packages_test="$packages_test gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static" ;;
esac

# What the laboratory (deploy/lab.sh) and its test need. Only root can make one, so nobody else is
# given an ssh server for it.
packages_lab="e2fsprogs iproute2 openssh-client openssh-server procps rsync"

packages_is_there()
{
    test "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed
}

# packages_install NAME...: install what is missing; asks for nothing where nothing is.
packages_install()
{
    packages_missing=
    packages_root=

    if ! command -v dpkg-query >/dev/null 2>&1; then
        echo "this is no Debian: install these, or what your system calls them: $*" >&2
        return 0
    fi
    for package in "$@"; do
        packages_is_there "$package" || packages_missing="$packages_missing $package"
    done
    test -n "$packages_missing" || return 0
    if test "$(id -u)" -ne 0; then
        if ! command -v sudo >/dev/null 2>&1; then
            echo "packages are missing and there is no sudo; as root:" >&2
            echo "    apt-get install$packages_missing" >&2
            return 1
        fi
        packages_root=sudo
    fi
    echo "installing$packages_missing" >&2
    # Word splitting is wanted here: these are lists.
    $packages_root apt-get update -q >&2 || return 1
    $packages_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
        --no-install-recommends $packages_missing >&2
}
