#!/bin/sh
# Recurrent pipeline, measured: tokens a second of 1, 3 and 6 requests at once on three workers of this
# machine. First with every pass slowed to 20 ms and of one row, so that a few cores hide nothing and no
# batch forms: three requests should give about three times the rate of one, six no more. Then without
# slowing, where batches form. Prints CSV; `busy` is the share of time that a stage computed, in ring order.
#
#   SHOAL_BUILDDIR=build sh tests/bench/pipeline.sh [RUNS]     (run on a quiet machine; 3 runs by default)
. "${SHOAL_SRCDIR:-.}/tests/integration/cluster_lib.sh"

runs=${1-3}
machine=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 | tr ',' ' ')

# measure SETTING TOKENS REQUESTS...
measure()
{
    setting=$1
    length=$2
    shift 2
    if ! start_cluster; then
        show_logs >&2
        exit 1
    fi
    kernels=$(awk '$2 == "serving" { print $0; exit }' "$lab/status.txt" | sed 's/.* % *\([a-z0-9-]*\) .*/\1/')
    run=0
    while test "$run" -lt "$runs"; do
        run=$((run + 1))
        for requests in "$@"; do
            race "$requests" "$length"
            test "$requests" -ne 1 || one=$rate
            echo "$machine,$kernels,${model##*/},512,$setting,$run,$requests,$rate,$(echo "$rate $one" |
                awk '{ printf "%.2f", ($2 > 0 ? $1 / $2 : 0) }'),$(echo "$busy" | sed 's/ *$//')"
        done
    done
    stop_cluster
}

echo "machine,kernels,model,context,setting,run,requests,tok_s,times_one,busy_percent"
new_cluster alpha beta gamma
for name in $workers; do
    eval "options_$name='--test-pass-ms 20 --test-rows 1'"
done
measure "20 ms a pass of one row" 80 1 3 6
for name in $workers; do
    eval "options_$name="
done
measure "no slowing" 400 1 6
