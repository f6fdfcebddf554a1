# What the lint scripts share: TAP output, and the table of layers (design: "the tree").
# Sourced, never run. A check collects offending lines in a file and passes where it is empty.

: "${SHOAL_SRCDIR:=.}"
: "${SHOAL_BUILDDIR:=.}"
: "${NM:=nm}"
: "${READELF:=readelf}"
: "${CC:=cc}"

LC_ALL=C
export LC_ALL

count=0
failures=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# verdict NAME FILE: ok where FILE is empty, else its lines are the diagnostics.
verdict()
{
    count=$((count + 1))
    if test -s "$2"; then
        failures=$((failures + 1))
        echo "not ok $count - $1"
        sed 's/^/# /' "$2"
    else
        echo "ok $count - $1"
    fi
}

# skipped NAME REASON
skipped()
{
    count=$((count + 1))
    echo "ok $count - $1 # SKIP $2"
}

finish()
{
    echo "1..$count"
    test "$failures" -eq 0
}

# The folders that hold C code, lowest first.
folders="common kernels model net partition worker coordinator client"

# Prefix of a folder's external symbols.
prefix_of()
{
    case $1 in
    common) echo base_ ;;
    kernels) echo kern_ ;;
    model) echo model_ ;;
    net) echo net_ ;;
    partition) echo part_ ;;
    worker) echo worker_ ;;
    coordinator) echo coord_ ;;
    client) echo cli_ ;;
    esac
}

# Folders that a folder may use besides itself. Who may use model may use the kernels' public header,
# which is part of model's own.
allowed_of()
{
    case $1 in
    common) ;;
    kernels | net | partition) echo "common" ;;
    model) echo "kernels common" ;;
    worker) echo "model kernels net common" ;;
    coordinator) echo "partition net model kernels common" ;;
    client) echo "coordinator net model partition kernels common" ;;
    tests) echo "$folders" ;;
    esac
}

# list_symbols OPTION...: "folder object symbol" for every archive that was built, object names
# without the library's name that Automake puts before them.
list_symbols()
{
    for folder in $folders; do
        for archive in "$SHOAL_BUILDDIR/$folder"/lib*.a; do
            test -f "$archive" || continue
            $NM -P -A -g "$@" "$archive" | sed -n \
                "s|^[^[]*\[\([^]]*\)\.o\]: *\([^ ]*\) .*|$folder \1 \2|p" |
                sed 's|^\([^ ]*\) [^ ]*_a-|\1 |'
        done
    done
}
