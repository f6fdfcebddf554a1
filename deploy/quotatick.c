/* quotatick: keeps CPU quotas to their word on kernels with a slow clock. deploy/lab.sh runs it.
 *
 *   quotatick MICROSECONDS      on each processor; until a signal
 *
 * The kernel looks whether a group has used up its quota when a thread of it goes to sleep, is put
 * off its processor, or at a tick of the clock, of which there may be only 250 a second: a thread
 * that computes gets 4 ms of a quota of 1.5 ms in every 5, and then stands still for two periods. A
 * thread of this program on each processor, before all others (under SCHED_FIFO where it may), puts
 * the one that runs there off for an instant, so often that quotas are exact to that many
 * microseconds. It does nothing else. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { NS_MIN = 50000, NS_MAX = 100000000 };

static long step_ns;

static void *tick(void *arg)
{
    cpu_set_t *const on = arg;
    const struct sched_param first = {.sched_priority = 1};
    struct timespec at;
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    if (pthread_setaffinity_np(pthread_self(), sizeof *on, on) != 0 ||
        (sched_setscheduler(0, SCHED_FIFO, &first) != 0 &&
         setpriority(PRIO_PROCESS, 0, -20) != 0)) {
        fprintf(stderr, "quotatick: not before all others: %s\n", strerror(errno));
        exit(1);
    }
    clock_gettime(CLOCK_MONOTONIC, &at);
    for (;;) {
        at.tv_nsec += step_ns;
        at.tv_sec += at.tv_nsec / 1000000000;
        at.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static cpu_set_t all, one[CPU_SETSIZE];
    char *end = "";
    pthread_t thread;
    step_ns = argc == 2 ? strtol(argv[1], &end, 10) * 1000 : 0;
    if (step_ns < NS_MIN || step_ns > NS_MAX || *end != '\0') {
        fprintf(stderr, "usage: quotatick MICROSECONDS   (%d to %d)\n", NS_MIN / 1000, NS_MAX / 1000);
        return 2;
    }
    if (sched_getaffinity(0, sizeof all, &all) != 0) {
        fprintf(stderr, "quotatick: which processors there are: %s\n", strerror(errno));
        return 1;
    }
    for (size_t i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &all))
            continue;
        CPU_SET(i, &one[i]);
        if (pthread_create(&thread, NULL, tick, &one[i]) != 0) {
            fprintf(stderr, "quotatick: no thread for processor %zu\n", i);
            return 1;
        }
    }
    for (;;)
        pause();
}
