#!/bin/sh
# Boundaries, asked of the linker's own tables: every external symbol carries its folder's prefix, no
# archive calls upwards, each library lives behind the files that may call it, and what libraries must
# not do (exit, print, use the heap behind our back, read a clock in a core) they do not do.
. "${SHOAL_SRCDIR:-.}/tests/lint/lib.sh"

list_symbols --defined-only >"$work/defined"
list_symbols -u >"$work/undefined"

if ! test -s "$work/defined"; then
    echo "# nm found no symbols in $SHOAL_BUILDDIR" >"$work/bad"
    verdict "archives were built" "$work/bad"
    finish
    exit
fi

# ---- prefixes and layers

all_prefixes=
for folder in $folders; do
    all_prefixes="$all_prefixes${all_prefixes:+|}$(prefix_of "$folder")"
done

for folder in $folders; do
    grep -q "^$folder " "$work/defined" || continue
    prefix=$(prefix_of "$folder")
    grep "^$folder " "$work/defined" | grep -v "^$folder [^ ]* $prefix" >"$work/bad"
    verdict "$folder: every external symbol begins with $prefix" "$work/bad"

    may=$prefix
    for other in $(allowed_of "$folder"); do
        may="$may|$(prefix_of "$other")"
    done
    grep "^$folder " "$work/undefined" | grep -E " ($all_prefixes)[a-z0-9_]*$" |
        grep -v -E " ($may)[a-z0-9_]*$" >"$work/bad"
    verdict "$folder: calls nobody outside its layer's list" "$work/bad"
done

# ---- libraries behind one file family: only_in NAME SYMBOLS FOLDER OBJECTS (extended expressions)

only_in()
{
    grep -E " ($2)$" "$work/undefined" | grep -v -E "^$3 $4 " >"$work/bad"
    verdict "$1" "$work/bad"
}

only_in "only net calls ZeroMQ" 'zmq_.*' net '[^ ]*'
only_in "only net calls libsodium" '(sodium|crypto|randombytes)_.*|randombytes' net '[^ ]*'
only_in "only partition/milp*.c calls GLPK" 'glp_.*' partition 'milp[^ ]*'
only_in "only kernels calls BLAS" '(cblas|openblas)_.*' kernels '[^ ]*'
only_in "only model/tokenizer*.c calls PCRE2" 'pcre2_.*' model 'tokenizer[^ ]*'
only_in "only client calls jansson" 'json_.*|jsonp_.*' client '[^ ]*'
only_in "only common/memory.c calls the heap" \
    'malloc|calloc|realloc|reallocarray|free|aligned_alloc|posix_memalign|memalign|valloc|strdup|strndup|v?asprintf|getline|getdelim|open_memstream' \
    common memory
only_in "only common/memory.c aborts" 'abort' common memory
grep -E " (exit|_exit|_Exit|quick_exit|on_exit|atexit)$" "$work/undefined" >"$work/bad"
verdict "no library ends the process" "$work/bad"
only_in "only client and the log print" \
    'stdout|stderr|printf|vprintf|__v?printf_chk|puts|putchar|perror|psignal|d?printf|vdprintf' \
    '(client|common)' '[^ ]*'
grep -E "^common " "$work/undefined" | grep -v "^common log " |
    grep -E " (stdout|stderr|v?d?printf|puts|putchar|perror)$" >"$work/bad"
verdict "in common only the log prints" "$work/bad"

# Kernels run while a token is made. The pool is the one thing there that is created.
grep "^kernels " "$work/undefined" | grep -v "^kernels pool " |
    grep -E " (base_(alloc|zalloc|realloc|strdup|free|arena_new|buf_.*)|mmap)$" >"$work/bad"
verdict "kernels allocate nothing but the pool" "$work/bad"

# ---- pure cores

# Follow every call from the core objects, object by object, through their own folder, common, net and
# partition. The log is exempt, since nothing comes back from it; model and kernels are arithmetic but
# for the functions that are named here.
senses='clock_gettime|clock_nanosleep|gettimeofday|time|times|nanosleep|usleep|sleep|poll|ppoll|select|epoll_.*|socket|bind|connect|accept4?|send|sendto|sendmsg|recv|recvfrom|recvmsg|open|open64|openat|fopen|fopen64|read|pread|mmap|stat|fstat|opendir|getenv|secure_getenv|getrandom|getentropy|s?rand|s?random|rand_r|[djlmn]rand48|arc4random.*|randombytes.*|crypto_.*keypair|zmq_.*|pthread_create|model_(gguf_)?open|model_gguf_writer_finish|kern_pool_.*'
for folder in worker coordinator; do
    if ! grep -q "^$folder core" "$work/defined"; then
        skipped "$folder: the core senses nothing" "no $folder/core*.c in this build"
        continue
    fi
    awk -v folder="$folder" '
        FILENAME == ARGV[1] { home[$3] = $1 " " $2; next }
        { calls[$1 " " $2] = calls[$1 " " $2] " " $3
          if ($1 == folder && $2 ~ /^core/) todo[$1 " " $2] = $1 "/" $2 }
        END {
            do {
                more = 0
                for (o in todo) {
                    if (o in done) continue
                    done[o] = 1
                    more = 1
                    n = split(calls[o], c, " ")
                    for (i = 1; i <= n; i++) {
                        if (!(c[i] in home)) print c[i], "by way of", todo[o]
                        else if (home[c[i]] ~ /^(model|kernels) /) print c[i], "by way of", todo[o]
                        else if (!(home[c[i]] in todo) && home[c[i]] != "common log")
                            todo[home[c[i]]] = todo[o] " -> " c[i]
                    }
                }
            } while (more)
        }' "$work/defined" "$work/undefined" | grep -E "^($senses) by" >"$work/bad"
    verdict "$folder: the core senses neither clock, socket, file, environment nor entropy" "$work/bad"
done

finish
