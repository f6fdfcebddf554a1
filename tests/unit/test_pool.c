/* The thread pool: every part exactly once, in every run, with results visible to the caller when
 * run returns; the floating point state of its threads; and what happens without memory. */
#include "kernels/kernels.h"

#include "common/common.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <cmocka.h>

enum { THREADS_MAX = 9 };

struct seen {
    unsigned calls[THREADS_MAX]; /* plain: each part writes its own, and run orders them */
    unsigned n_parts[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
};

static void note(void *arg, unsigned part, unsigned n_parts)
{
    struct seen *s = arg;
    s->calls[part]++;
    s->n_parts[part] = n_parts;
    s->thread[part] = pthread_self();
}

static void test_every_part_once(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= THREADS_MAX; n++) {
        struct kern_pool *p = kern_pool_new(n);
        struct seen s = {0};
        assert_non_null(p);
        assert_int_equal(kern_pool_threads(p), n);
        for (unsigned run = 1; run <= 300; run++) {
            kern_pool_run(p, note, &s);
            for (unsigned i = 0; i < n; i++) {
                assert_int_equal(s.calls[i], run);
                assert_int_equal(s.n_parts[i], n);
            }
        }
        assert_true(pthread_equal(s.thread[0], pthread_self()));
        for (unsigned i = 1; i < n; i++)
            assert_false(pthread_equal(s.thread[i], pthread_self()));
        kern_pool_free(p);
    }
}

static void test_zero_is_one(void **state)
{
    (void)state;
    struct kern_pool *p = kern_pool_new(0);
    struct seen s = {0};
    assert_non_null(p);
    assert_int_equal(kern_pool_threads(p), 1);
    kern_pool_run(p, note, &s);
    assert_int_equal(s.calls[0], 1);
    kern_pool_free(p);
    kern_pool_free(NULL);
}

/* Runs after the threads have gone to sleep, and a free of a pool that never ran. */
static void test_after_sleep(void **state)
{
    (void)state;
    struct kern_pool *p = kern_pool_new(3);
    struct seen s = {0};
    const struct timespec pause = {0, 20 * 1000 * 1000};
    assert_non_null(p);
    for (unsigned run = 1; run <= 5; run++) {
        nanosleep(&pause, NULL);
        kern_pool_run(p, note, &s);
        assert_int_equal(s.calls[2], run);
    }
    kern_pool_free(p);
    p = kern_pool_new(4);
    assert_non_null(p);
    kern_pool_free(p);
}

static void square_denormal(void *arg, unsigned part, unsigned n_parts)
{
    float *out = arg;
    const volatile float tiny = 0x1p-70f;
    (void)n_parts;
    out[part] = tiny * tiny;
}

/* Threads inherit the creator's control register; one left by a fast-math library must not reach
 * them. */
static void test_denormals_kept(void **state)
{
    (void)state;
    float out[4] = {0};
#if defined(__x86_64__)
    _mm_setcsr(0x1f80 | 0x8040); /* flush to zero, denormals are zero */
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24));
#endif
    struct kern_pool *p = kern_pool_new(4);
    assert_non_null(p);
    kern_pool_run(p, square_denormal, out);
    for (unsigned i = 0; i < 4; i++)
        assert_true(out[i] == 0x1p-140f);
    kern_pool_free(p);
}

static void take_mask(void *arg, unsigned part, unsigned n_parts)
{
    (void)n_parts;
    pthread_sigmask(SIG_SETMASK, NULL, (sigset_t *)arg + part);
}

/* A signal is handled by the thread that waits for it, not by one in the middle of a product. */
static void test_signals_blocked(void **state)
{
    (void)state;
    sigset_t masks[3];
    struct kern_pool *p = kern_pool_new(3);
    assert_non_null(p);
    kern_pool_run(p, take_mask, masks);
    assert_false(sigismember(&masks[0], SIGTERM));
    assert_true(sigismember(&masks[1], SIGTERM));
    assert_true(sigismember(&masks[2], SIGINT));
    kern_pool_free(p);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    const int64_t live = base_alloc_live();
    base_alloc_fail_nth(1);
    assert_null(kern_pool_new(4));
    base_alloc_fail_nth(0);
    assert_int_equal(base_alloc_live(), live);
    struct kern_pool *p = kern_pool_new(4);
    assert_non_null(p);
    kern_pool_free(p);
    assert_int_equal(base_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_part_once), cmocka_unit_test(test_zero_is_one),
        cmocka_unit_test(test_after_sleep),     cmocka_unit_test(test_denormals_kept),
        cmocka_unit_test(test_signals_blocked), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
