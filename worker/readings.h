/* How the board is while it works: memory, pressure, temperature, throttling, battery. Only
 * readings; what follows from them is decided by the coordinator. */
#ifndef WORKER_READINGS_H
#define WORKER_READINGS_H

#include "worker/worker.h"

/* Read everything once. `root` is put before every path, as in resources.h; `limit_bytes` is what
 * the configuration lets the process take (0: no limit). Slow beside a message: tens of files, and
 * sensors behind slow buses. */
void worker_readings_take(const char *root, uint64_t limit_bytes, struct worker_readings *out);

#endif
