/* Damage for GGUF files, for tests that feed a reader many broken ones: flips, random bytes,
 * numbers that decoders trip over, moved and cut pieces. The same state gives the same damage. */
#ifndef TESTS_UNIT_GGUF_MUTATE_H
#define TESTS_UNIT_GGUF_MUTATE_H

#include "common/common.h"

#include <string.h>

/* Write the `width` low bytes of v at p, little-endian. */
static inline void gguf_poke(uint8_t *p, uint64_t v, size_t width)
{
    for (size_t i = 0; i < width; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* Damage bytes[len] (len > 0) in one to four places; returns the new length, at most len. */
static inline size_t gguf_mutate(uint64_t *rng, uint8_t *bytes, size_t len)
{
    static const uint64_t tricky[] = {0,
                                      1,
                                      2,
                                      7,
                                      8,
                                      9,
                                      31,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      INT64_MAX,
                                      UINT64_MAX,
                                      1u << 20,
                                      UINT64_MAX / 8 + 1,
                                      UINT64_MAX - 7};
    const uint64_t n = 1 + base_rng_next(rng) % 4;
    for (uint64_t i = 0; i < n; i++) {
        const size_t at = (size_t)(base_rng_next(rng) % len);
        const size_t room = len - at;
        const uint64_t r = base_rng_next(rng);
        switch (r % 8) {
        case 0:
        case 1:
            bytes[at] ^= (uint8_t)(1u << (r >> 8) % 8);
            break;
        case 2:
            bytes[at] = (uint8_t)(r >> 8);
            break;
        case 3:
            gguf_poke(bytes + at, tricky[(r >> 8) % (sizeof tricky / sizeof tricky[0])],
                      room < 8 ? room : 8);
            break;
        case 4:
            gguf_poke(bytes + at, tricky[(r >> 8) % (sizeof tricky / sizeof tricky[0])],
                      room < 4 ? room : 4);
            break;
        case 5: { /* a piece from elsewhere */
            const size_t from = (size_t)((r >> 8) % len);
            const size_t most = len - from < room ? len - from : room;
            const size_t some = (size_t)((r >> 40) % 64);
            memmove(bytes + at, bytes + from, most < some ? most : some);
            break;
        }
        case 6: /* the header: version and counts */
            bytes[(r >> 8) % (len < 24 ? len : 24)] ^= (uint8_t)(1u << (r >> 40) % 8);
            break;
        default: /* the rest is missing; not always, or nothing else would be reached */
            if ((r >> 8) % 4 == 0)
                len = at + 1;
            break;
        }
    }
    return len;
}

#endif
