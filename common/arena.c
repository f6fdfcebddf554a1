/* An arena: one block whose size is computed beforehand, cut into parts that live and die together.
 *
 * A plan's activations and scratch come from one arena, so the planner can charge a single number
 * for them and nothing is left to chance while tokens are produced. Sealing it says that the sizes
 * were final: a part taken afterwards is refused, and the caller decides whether that is an error.
 *
 * Parts start on 64 bytes (a cache line, the widest vector register) and are zero: the block is
 * zeroed when it is made and no part is ever handed out twice. There is no giving back of a single
 * part. */
#include "common/common.h"

enum { ARENA_ALIGN = 64 }; /* bytes */

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

size_t base_arena_used(const struct base_arena *a)
{
    return a->used_bytes;
}

void base_arena_free(struct base_arena *a)
{
    base_free(a);
}
