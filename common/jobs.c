/* Background jobs: one thread that runs jobs in the order they were posted.
 *
 * A poll loop must never hash a gigabyte; it posts the job, goes on polling, and finds the result
 * when the eventfd turns readable. The jobs lie in one ring, and three counters divide it:
 * reaped <= finished <= posted, and posted - reaped <= capacity. A slot is therefore never written
 * while anyone may still read it, and what waits to be collected is bounded along with what waits
 * to be run.
 *
 * The eventfd is readable exactly while finished > reaped: the job that ends a quiet time writes
 * it, the reap that empties the ring drains it, both under the lock.
 *
 * Left out: priorities, several threads, cancelling a running job (a long job reads a flag of its
 * own), and freeing the arguments of dropped jobs, which belong to whoever posted them. */
#include "common/common.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

struct job {
    base_job_fn *run;
    void *arg;
};

struct base_jobs {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work; /* a job was posted, or the end has come */
    int fd;
    bool closing;
    char name[16]; /* the kernel keeps 15 bytes of a thread's name */
    size_t capacity;
    uint64_t reaped;                        /* under the lock */
    atomic_uint_least64_t finished, posted; /* written under the lock, read by anyone */
    struct job ring[];
};

static void *jobs_thread(void *arg)
{
    struct base_jobs *j = arg;

    (void)prctl(PR_SET_NAME, j->name);
    (void)pthread_mutex_lock(&j->lock);
    for (;;) {
        struct job job;

        while (!j->closing && j->posted == j->finished) {
            (void)pthread_cond_wait(&j->work, &j->lock);
        }
        if (j->closing) {
            break;
        }
        job = j->ring[j->finished % j->capacity];
        (void)pthread_mutex_unlock(&j->lock);
        job.run(job.arg);
        (void)pthread_mutex_lock(&j->lock);
        if (j->finished++ == j->reaped) {
            (void)eventfd_write(j->fd, 1);
        }
    }
    (void)pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* Signals belong to the thread that polls; a new thread inherits the mask, so all are blocked here
 * for the moment of its birth. */
static int start_thread(struct base_jobs *j)
{
    sigset_t all, before;
    int rc;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&j->thread, NULL, jobs_thread, j);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int base_jobs_new(const char *name, size_t max_queued, struct base_jobs **out, struct err *e)
{
    struct base_jobs *j = NULL;
    size_t ring_bytes, bytes;
    int rc;

    if (max_queued == 0 || !base_mul(max_queued, sizeof(struct job), &ring_bytes) ||
        !base_add(ring_bytes, sizeof *j, &bytes)) {
        return err_set(e, ERR_RANGE, "a job queue of %zu entries", max_queued);
    }
    j = base_zalloc(1, bytes);
    if (j == NULL) {
        return err_set(e, ERR_NOMEM, "cannot make a job queue: out of memory");
    }
    j->capacity = max_queued;
    (void)snprintf(j->name, sizeof j->name, "%s", name);
    j->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (j->fd < 0) {
        rc = err_set(e, ERR_IO, "cannot make an eventfd: %s", strerror(errno));
        goto out;
    }
    (void)pthread_mutex_init(&j->lock, NULL);
    (void)pthread_cond_init(&j->work, NULL);
    rc = start_thread(j);
    if (rc != 0) {
        rc = err_set(e, ERR_IO, "cannot start thread %s: %s", name, strerror(rc));
        (void)pthread_cond_destroy(&j->work);
        (void)pthread_mutex_destroy(&j->lock);
        goto out;
    }
    *out = j;
    return 0;
out:
    if (j->fd >= 0) {
        (void)close(j->fd);
    }
    base_free(j);
    return rc;
}

int base_jobs_post(struct base_jobs *j, base_job_fn *run, void *arg)
{
    int rc = 0;

    (void)pthread_mutex_lock(&j->lock);
    if (j->posted - j->reaped == j->capacity) {
        rc = ERR_FULL;
    } else {
        j->ring[j->posted % j->capacity] = (struct job){run, arg};
        j->posted++;
        (void)pthread_cond_signal(&j->work);
    }
    (void)pthread_mutex_unlock(&j->lock);
    return rc;
}

int base_jobs_fd(const struct base_jobs *j)
{
    return j->fd;
}

bool base_jobs_reap(struct base_jobs *j, void **arg)
{
    bool found;

    (void)pthread_mutex_lock(&j->lock);
    found = j->finished > j->reaped;
    if (found) {
        *arg = j->ring[j->reaped % j->capacity].arg;
        j->reaped++;
        if (j->finished == j->reaped) {
            eventfd_t count;

            (void)eventfd_read(j->fd, &count);
        }
    }
    (void)pthread_mutex_unlock(&j->lock);
    return found;
}

uint64_t base_jobs_progress(const struct base_jobs *j)
{
    return atomic_load(&j->finished);
}

bool base_jobs_busy(const struct base_jobs *j)
{
    /* In this order a job posted in between can only make the answer "busy". */
    uint64_t finished = atomic_load(&j->finished);

    return atomic_load(&j->posted) != finished;
}

void base_jobs_free(struct base_jobs *j)
{
    if (j == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&j->lock);
    j->closing = true;
    (void)pthread_cond_signal(&j->work);
    (void)pthread_mutex_unlock(&j->lock);
    (void)pthread_join(j->thread, NULL);
    (void)pthread_cond_destroy(&j->work);
    (void)pthread_mutex_destroy(&j->lock);
    (void)close(j->fd);
    base_free(j);
}
