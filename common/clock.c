/* Monotonic time of this machine.
 *
 * Durations and deadlines are taken on one machine only; no two machines' clocks are ever compared,
 * so wall-clock time has no place here (the log stamps its lines itself). Cores never call these
 * functions: their time arrives with the event. */
#include "common/common.h"

#include <time.h>

int64_t base_clock_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

double base_clock_s(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
