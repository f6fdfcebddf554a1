/* Threads that run one function over its parts, again and again, some hundred times a token. Thread
 * i always gets part i, so a caller's split is the same in every run; the calling thread takes part
 * 0. A thread that waits spins briefly, since the next run usually comes within microseconds, then
 * sleeps on a condition: an idle pool costs nothing.
 *
 * Order of publication: the job is written, then `round` is advanced under the lock; a thread that
 * sees the new round sees the job. The last thread to finish takes the lock before it signals, so
 * the caller cannot miss it. One caller at a time; parts do not call back into the pool. */
#include "common/common.h"
#include "kernels/kernels.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

enum { SPINS = 4000 }; /* some 40 us */

struct thread {
    struct kern_pool *pool;
    pthread_t handle;
    unsigned part;
};

struct kern_pool {
    pthread_mutex_t lock;
    pthread_cond_t started, finished;
    atomic_uint round;   /* advanced once a job; changed under the lock, read without */
    atomic_uint pending; /* threads that have not finished the job, the caller not counted */
    bool stop;
    void (*fn)(void *arg, unsigned part, unsigned n_parts);
    void *arg;
    unsigned n_threads; /* the caller included */
    unsigned n_started;
    struct thread threads[];
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Wait until `round` is no longer `seen`; returns it. */
static unsigned wait_round(struct kern_pool *p, unsigned seen)
{
    for (unsigned i = 0; i < SPINS; i++) {
        const unsigned now = atomic_load_explicit(&p->round, memory_order_acquire);
        if (now != seen)
            return now;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load_explicit(&p->round, memory_order_acquire) == seen)
        pthread_cond_wait(&p->started, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return atomic_load_explicit(&p->round, memory_order_acquire);
}

static void *thread_main(void *arg)
{
    const struct thread *self = arg;
    struct kern_pool *p = self->pool;

    kern_fp_init();
    for (unsigned seen = 0;;) {
        seen = wait_round(p, seen);
        if (p->stop)
            return NULL;
        p->fn(p->arg, self->part, p->n_threads);
        if (atomic_fetch_sub_explicit(&p->pending, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void advance_round(struct kern_pool *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add_explicit(&p->round, 1, memory_order_release);
    pthread_cond_broadcast(&p->started);
    pthread_mutex_unlock(&p->lock);
}

/* Signals stay with the threads that expect them: pool threads start with all of them blocked. */
static bool start_threads(struct kern_pool *p)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (p->n_started + 1 < p->n_threads) {
        struct thread *t = &p->threads[p->n_started];
        *t = (struct thread){.pool = p, .part = p->n_started + 1};
        if (pthread_create(&t->handle, NULL, thread_main, t) != 0)
            break;
        p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return p->n_started + 1 == p->n_threads;
}

struct kern_pool *kern_pool_new(unsigned n_threads)
{
    size_t bytes;
    if (n_threads == 0)
        n_threads = 1;
    if (!base_mul(n_threads, sizeof(struct thread), &bytes) ||
        !base_add(bytes, sizeof(struct kern_pool), &bytes))
        return NULL;
    struct kern_pool *p = base_zalloc(1, bytes);
    if (p == NULL)
        return NULL;
    p->n_threads = n_threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->started, NULL);
    pthread_cond_init(&p->finished, NULL);
    if (!start_threads(p)) {
        kern_pool_free(p);
        return NULL;
    }
    return p;
}

unsigned kern_pool_threads(const struct kern_pool *p)
{
    return p->n_threads;
}

static void wait_finished(struct kern_pool *p)
{
    for (unsigned i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->pending, memory_order_acquire) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load_explicit(&p->pending, memory_order_acquire) != 0)
        pthread_cond_wait(&p->finished, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void kern_pool_run(struct kern_pool *p, void (*fn)(void *arg, unsigned part, unsigned n_parts),
                   void *arg)
{
    kern_fp_init();
    if (p->n_threads > 1) {
        p->fn = fn;
        p->arg = arg;
        atomic_store_explicit(&p->pending, p->n_threads - 1, memory_order_relaxed);
        advance_round(p);
    }
    fn(arg, 0, p->n_threads);
    if (p->n_threads > 1)
        wait_finished(p);
}

void kern_pool_free(struct kern_pool *p)
{
    if (p == NULL)
        return;
    p->stop = true;
    advance_round(p);
    for (unsigned i = 0; i < p->n_started; i++)
        pthread_join(p->threads[i].handle, NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->started);
    pthread_mutex_destroy(&p->lock);
    base_free(p);
}
