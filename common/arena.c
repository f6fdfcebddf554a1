/* An arena: one block whose size is computed beforehand, cut into parts that live and die together.
 *
 * A plan's activations and scratch come from one arena, so the planner can charge a single number
 * for them and nothing is left to chance while tokens are produced. Sealing it says that the sizes
 * were final: a part taken afterwards is refused, and the caller decides whether that is an error.
 *
 * Parts start on 64 bytes (a cache line, the widest vector register) and are zero: the block is
 * zeroed when it is made and no part is ever handed out twice. There is no giving back of a single
 * part.
 *
 * Weights are read from end to end for each token, and pages of 4 KiB cost that a fifth of its speed.
 * Large pages may make a system move memory about first, which has been seen to take seconds; so
 * they are taken one by one, against a budget of processor time. */
#include "common/common.h"

#include <sys/mman.h>
#include <time.h>

enum { ARENA_ALIGN = 64, LARGE_BYTES = 2 << 20 }; /* bytes */

/* Seconds of processor time that a thread's large pages may take: the first once, the other for each.
 * To clear one takes a twentieth of it; a virtual machine whose host has to find the memory first may
 * need nearly all. */
#define LARGE_GRACE_S 0.02
#define LARGE_EACH_S  5e-3

struct base_arena {
    uint8_t *first; /* the block's first aligned byte */
    size_t capacity_bytes, used_bytes;
    bool sealed;
};

struct base_arena *base_arena_new(size_t bytes)
{
    struct base_arena *a;
    size_t capacity, total;
    uintptr_t at;

    if (!base_add(bytes, ARENA_ALIGN - 1, &capacity)) {
        return NULL;
    }
    capacity &= ~(size_t)(ARENA_ALIGN - 1);
    if (!base_add(capacity, sizeof *a + ARENA_ALIGN - 1, &total)) {
        return NULL;
    }
    a = base_zalloc(1, total);
    if (a == NULL) {
        return NULL;
    }
    at = (uintptr_t)(a + 1);
    a->first = (uint8_t *)(a + 1) + (base_round_up(at, ARENA_ALIGN) - at);
    a->capacity_bytes = capacity;
    return a;
}

void *base_arena_take(struct base_arena *a, size_t bytes)
{
    size_t rounded;
    uint8_t *part;

    if (a->sealed || !base_add(bytes, ARENA_ALIGN - 1, &rounded)) {
        return NULL;
    }
    rounded &= ~(size_t)(ARENA_ALIGN - 1);
    if (rounded > a->capacity_bytes - a->used_bytes) {
        return NULL;
    }
    part = a->first + a->used_bytes;
    a->used_bytes += rounded;
    return part;
}

void base_arena_seal(struct base_arena *a)
{
    a->sealed = true;
}

static double thread_seconds(void)
{
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void base_arena_large_pages(struct base_arena *a, unsigned part, unsigned n_parts)
{
    const uintptr_t first = base_round_up((uintptr_t)a->first, LARGE_BYTES);
    const size_t n = ((uintptr_t)a->first + a->capacity_bytes - first) / LARGE_BYTES;
    const uintptr_t begin = first + n * part / n_parts * LARGE_BYTES;
    const uintptr_t end = first + n * (part + 1) / n_parts * LARGE_BYTES;
    double allowed_s = thread_seconds() + LARGE_GRACE_S;

    if (a->capacity_bytes < 2 * (size_t)LARGE_BYTES || begin >= end ||
        madvise((void *)begin, end - begin, MADV_HUGEPAGE) != 0)
        return;
    for (uintptr_t at = begin; at < end; at += LARGE_BYTES) {
        *(volatile uint8_t *)at = 0;
        allowed_s += LARGE_EACH_S;
        if (thread_seconds() > allowed_s) {
            (void)madvise((void *)at, end - at, MADV_NOHUGEPAGE);
            return;
        }
    }
}

size_t base_arena_used(const struct base_arena *a)
{
    return a->used_bytes;
}

void base_arena_free(struct base_arena *a)
{
    base_free(a);
}
