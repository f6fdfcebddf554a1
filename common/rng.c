/* Pseudo-random numbers that replay.
 *
 * SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
 * figure 16 and section 5): the state walks by an odd constant, the golden ratio of 2^64, and a
 * finaliser scatters it. The finaliser alone is a good hash of a word, which is how a number can be
 * a function of (seed, position) without any state. Both are exact integer arithmetic, so every
 * machine draws the same. Not for secrets: keys come from net. */
#include "common/common.h"

uint64_t base_mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t base_rng_next(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return base_mix64(*state);
}
