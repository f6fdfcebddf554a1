/* The floating point state that the numerics assume. A thread may start with flush-to-zero set: a
 * library built with fast-math sets it in its constructor, and threads inherit it. The control
 * register is therefore written whole, not asked for its parts: round to nearest even, denormals
 * kept, no traps. On machines named below by instruction, elsewhere by the C library's default
 * state. */
#include "kernels/kernels.h"

#if defined(__x86_64__) || defined(__SSE2__)
#include <xmmintrin.h>

void kern_fp_init(void)
{
    _mm_setcsr(0x1f80);
}

#elif defined(__aarch64__)

void kern_fp_init(void)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
}

#else
#include <fenv.h>

void kern_fp_init(void)
{
    fesetenv(FE_DFL_ENV);
}

#endif
