/* What this process may use of the machine: memory, and cores, as the system and its control groups
 * say. Only readings; what follows from them is decided elsewhere.
 *
 * `root` is put before every path that is read, so that a test can bring a machine of its own; ""
 * is this one. Safe in any thread. */
#ifndef WORKER_RESOURCES_H
#define WORKER_RESOURCES_H

#include "common/common.h"

/* Bytes that this process can take without being killed or swapped out: the smallest of the limit
 * given (0: none), of what each control group above the process has left, and of MemAvailable. File
 * cache that a group could drop counts as left. 0 where nothing at all is known. */
uint64_t worker_memory_available(const char *root, uint64_t limit_bytes);

/* The same without a limit of ours; UINT64_MAX where nothing is known. */
uint64_t worker_memory_left(const char *root);

/* Bytes of memory that this process has: its share (Pss) where the system counts that, otherwise
 * its resident set, which counts shared pages in full. 0 where neither can be read. */
uint64_t worker_memory_resident(const char *root);

/* The same as its resident set at once, without that count, for which the system walks all pages
 * (27 ms for 2 GiB of small ones on the machine of docs/measured.md). */
uint64_t worker_memory_pages(const char *root);

/* Of those, bytes that no file backs: what the kernel cannot drop and read again. */
uint64_t worker_memory_own(const char *root);

/* The tightest CPU quota of the control groups above this process: so many cores, counted anew each
 * period, after which its threads stand still. Zeros: there is none. */
struct worker_quota {
    double cores, period_s;
};
struct worker_quota worker_cpu_quota(const char *root);

/* Cores that this process can keep busy: those it may run on, and no more than the whole ones in
 * the quota of each control group above it, as a thread that is held back stalls the others. At
 * least 1. */
unsigned worker_cores(const char *root);

/* ---- small files of the system --------------------------------------------------------------- */

/* The text of a file of at most max_bytes, base_free; NULL where it cannot be had. */
char *worker_read_text(const char *root, const char *path, size_t max_bytes);

/* A decimal number at the start of the text, followed by space or the end. Overflow is no number. */
bool worker_parse_number(const char *text, uint64_t *out);

/* The process's own control group in the version 2 hierarchy, as a path without `root`; "": there is
 * none, or its path has no room. */
void worker_group_folder(const char *root, char *out, size_t max);

#endif
