/* The one door to the heap.
 *
 * Going through here buys three things. A thread may declare a phase in which it must not allocate
 * (decoding a token): an allocation inside aborts and names the phase, in production as well as in
 * tests, because a decode loop that allocates works today and stalls on a small board tomorrow. A
 * fault test may make the n-th allocation fail. A test may count the blocks that are alive.
 *
 * A request for 0 bytes gets a block of 1, so that NULL always means out of memory. Freeing inside
 * a guarded phase is allowed: it cannot fail.
 *
 * What is freed goes back to the system, as far as we can make it: a board runs for months under plans
 * that come and go, and what one of them kept the next one, or another program, lacks. glibc would keep
 * it: each thread that allocates may get a heap of its own, and once a large block has been freed, blocks
 * of up to its size (at most 32 MiB) come from those heaps, where a small one behind them holds them.
 *
 * Left out: no pools, no size classes, no tags. What must be placed carefully lives in an arena. */
#include "common/common.h"

#include <assert.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local const char *guarded_phase; /* NULL: allocation is allowed */
static atomic_uint_least64_t fail_countdown;    /* 0: no fault is planned */
static atomic_int_least64_t live_blocks;

/* True where this allocation has to fail because a fault test asked for it. */
static bool planned_fault(void)
{
    uint_least64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

    while (left > 0) {
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1)) {
            return left == 1;
        }
    }
    return false;
}

static bool may_allocate(size_t bytes)
{
    if (guarded_phase != NULL) {
        base_log(BASE_LOG_ERROR, "allocation-forbidden", "phase=\"%s\" bytes=%zu", guarded_phase,
                 bytes);
        abort();
    }
    return !planned_fault();
}

static void *counted(void *p)
{
    if (p != NULL) {
        atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    }
    return p;
}

void *base_alloc(size_t bytes)
{
    if (!may_allocate(bytes)) {
        return NULL;
    }
    return counted(malloc(bytes > 0 ? bytes : 1));
}

void *base_zalloc(size_t n, size_t bytes)
{
    size_t total;

    if (!base_mul(n, bytes, &total) || !may_allocate(total)) {
        return NULL;
    }
    return counted(calloc(total > 0 ? total : 1, 1));
}

void *base_realloc(void *p, size_t bytes)
{
    void *q;

    if (!may_allocate(bytes)) {
        return NULL;
    }
    q = realloc(p, bytes > 0 ? bytes : 1);
    return p == NULL ? counted(q) : q;
}

char *base_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = base_alloc(n);

    if (copy != NULL) {
        memcpy(copy, s, n);
    }
    return copy;
}

void base_free(void *p)
{
    if (p != NULL) {
        atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
        free(p);
    }
}

void base_guard_begin(const char *phase)
{
    assert(phase != NULL);
    assert(guarded_phase == NULL);
    guarded_phase = phase;
}

void base_guard_end(void)
{
    assert(guarded_phase != NULL);
    guarded_phase = NULL;
}

void base_alloc_fail_nth(uint64_t n)
{
    atomic_store(&fail_countdown, n);
}

int64_t base_alloc_live(void)
{
    return atomic_load_explicit(&live_blocks, memory_order_relaxed);
}

void base_memory_frugal(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
#endif
}

void base_memory_give_back(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}
