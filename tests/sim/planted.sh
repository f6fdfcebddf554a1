#!/bin/sh
# Shows that the simulator finds bugs: plants one after the other in a copy of the tree, builds the
# copy and runs worlds until one of them breaks a promise. Prints a line a bug: the first seed that
# finds it and what it says. Ends with 1 where a bug is not found in LIMIT seeds, or where the place
# that it belongs in is not there any more.
#
#   tests/sim/planted.sh [LIMIT [EXPRESSION]]     (default: 1000, and all; otherwise those that match)
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
limit=${1:-1000}
only=${2:-.}
work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-planted-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
. "$root/tests/tools/copy_tree.sh"

missed=0

build()
{
    make -s -C "$work/build" -j "$(getconf _NPROCESSORS_ONLN)" tests/sim/test_sim >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; return 1; }
}

# plant BUG FILE SED...: edit, build, look for it, put back.
plant()
{
    bug=$1
    file=$work/src/$2
    shift 2
    echo "$bug" | grep -qE "$only" || return 0
    cp "$file" "$work/before"
    for edit in "$@"; do
        cp "$file" "$work/edited"
        sed "$edit" "$work/edited" >"$file"
        if cmp -s "$file" "$work/edited"; then
            printf '%-58s its place is gone: %s\n' "$bug" "$edit"
            missed=$((missed + 1))
            cp "$work/before" "$file"
            return
        fi
    done
    if build; then
        SIM_SEEDS=$limit timeout 900 "$work/build/tests/sim/test_sim" >"$work/out" 2>&1 || :
        found=$(sed -n 's/^# seed \([0-9]*\), \(.*\)/\1 \2/p
            s/^# the world of seed \([0-9]*\) aborts.*/\1 a core aborts/p' "$work/out" | head -n 1)
        if test -n "$found"; then
            printf '%-58s seed %4s: %.100s\n' "$bug" "${found%% *}" "${found#* }"
        else
            printf '%-58s NOT FOUND in %s seeds\n' "$bug" "$limit"
            missed=$((missed + 1))
        fi
    else
        printf '%-58s does not build\n' "$bug"
        missed=$((missed + 1))
    fi
    cp "$work/before" "$file"
}

copy_tree "$root" "$work/src"
mkdir "$work/build"
test -x "$work/src/configure" || (cd "$work/src" && sh autogen.sh) >"$work/log" 2>&1
(cd "$work/build" && ../src/configure --disable-simd CFLAGS='-g -O1') >"$work/log" 2>&1
build

# ---- the worker's core

plant 'ring messages of another epoch are taken' worker/core_ring.c \
    's/if (epoch == 0 || epoch != c->plan.epoch || c->broken)/if (c->plan.epoch == 0)/'
plant 'a pass of the plan before goes on under the next' worker/core_pass.c \
    's/if (pass->epoch != c->plan.epoch || c->broken)/if (c->plan.epoch == 0 || c->broken)/'
plant 'rows of a closed request pass for the next one in its slot' worker/core_ring.c \
    's/request == 0 || c->slots\[slot\].request != request)/c->slots[slot].request == 0)/'
plant 'rows go on after a link has lost some' worker/core.c \
    's/^    c->broken = true;$/    c->broken = false;/'
plant 'a token is reported twice' worker/core_pass.c \
    's/^        remember_token(s, token);$/&\
        if (position % 32 == 31 \&\& n < MODEL_ROWS_MAX) {\
            net_put_u64(c->list64[0], n, r->request);\
            net_put_u32(c->list32[0], n, position);\
            net_put_u32(c->list32[1], n++, (uint32_t)token);\
        }/'
plant 'a later stage takes more prompt rows than it has room for' worker/core_pass.c \
    's/bound > coming ? bound - coming : 0;/bound;/'
plant 'dropped prompt rows do not give their credit back' worker/core_pass.c \
    's/^            c->dropped += back ? 0 : 1;$/            c->dropped += 0;/'
plant 'a plan is put in force by the COMMIT of another' worker/core.c \
    's/if (epoch == c->next.epoch && c->prep == WORKER_PREP_READY)$/if (c->prep == WORKER_PREP_READY)/'
plant 'a worker keeps its plan when it meets another coordinator' worker/core.c \
    '/mean nothing to this coordinator any more/{n;s/.*/    c->next.epoch = 0, c->prep = WORKER_PREP_NONE;/;}'

plant 'KV rows are believed to be there before they have come' worker/core_move.c \
    's/^    if (m->n_asked > 0)$/    if (m->n_asked > 99)/'

# ---- the coordinator's

plant 'requests are not opened again under a new plan' coordinator/core_plan.c \
    '/^static void commit/,/^}/s/^    coord_core_requeue(c, c->move.held);$//'
plant 'a plan is put in force before all are ready' coordinator/core_plan.c \
    's/if (coord_core_in_plan(&c->next, i) && !c->nodes\[i\].prepared)$/if (false)/'
plant 'a request is replayed without its last token' coordinator/core_slot.c \
    's/^        r->resumes = true;$/&\
        r->n_tokens -= r->n_tokens > r->n_prompt ? 1 : 0;/'
plant 'a slot is said to hold a KV row that was never run' coordinator/core_request.c \
    's/r->n_rows = position; .*/r->n_rows = position + 1;/'
plant 'who came last is served first' coordinator/core_slot.c \
    's/c->requests\[i\].order < first->order/c->requests[i].order > first->order/'
plant 'a slot is not closed when its request is cancelled' coordinator/core_slot.c \
    '/^void coord_core_slot_leave/,/^}/s/^    if (c->now.epoch == 0)$/    if (c->now.epoch == 0 || r->n_tokens < r->end_position)/'
plant 'workers that are left out keep the plan before' coordinator/core_plan.c \
    '/^static void commit/,/^}/s/state == NODE_MEASURED)/state == NODE_MEASURED \&\& coord_core_in_plan(\&c->now, i))/'
plant 'a request gets a slot whose KV rows are on their way' coordinator/core_move.c \
    's/return c->move.round > 0 \&\& c->move.end\[slot\] > 0;/return false \&\& slot < c->move.round;/'
plant 'one KV row more than was taken is believed to be there' coordinator/core_slot.c \
    's/^        r->n_rows = rows\[i\];$/        r->n_rows = rows[i] + (rows[i] > 0 ? 1 : 0);/'
plant 'a copy of an earlier request in the slot is taken' coordinator/core_slot.c \
    's/^        coord_core_checkpoint_cut(c, slot, same);$//'
plant 'a request gets a slot whose rows are being copied' coordinator/core_slot.c \
    's/ || coord_core_slot_copied(c, i))/)/'
plant 'a copy is believed to have rows before they have come' coordinator/core_checkpoint.c \
    's/^    y->begun = true;$/    y->rows[y->slot] = y->end;/'
plant 'a copy is believed to have all rows of the lost worker' coordinator/core_move.c \
    's/n = copy \&\& rows < n ? rows : n;/n = copy \&\& rows == 0 ? 0 : n;/'

if test $missed -gt 0; then
    echo "$missed planted bugs were not found"
    exit 1
fi
