/* The floor every folder stands on: errors, spans, checked arithmetic, memory, log, clock, files,
 * background jobs. Nothing here knows what Shoal is for. */
#ifndef COMMON_COMMON_H
#define COMMON_COMMON_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- errors ---------------------------------------------------------------------------------- */

/* Every expected failure in Shoal is one of these; 0 is success. */
#define BASE_ERRORS(X)                                                                             \
    X(ERR_USAGE, 1, "wrong usage")                                                                 \
    X(ERR_NOMEM, 2, "out of memory")                                                               \
    X(ERR_IO, 3, "input or output failed")                                                         \
    X(ERR_FORMAT, 4, "malformed input")                                                            \
    X(ERR_UNSUPPORTED, 5, "not supported")                                                         \
    X(ERR_RANGE, 6, "value out of range")                                                          \
    X(ERR_MISMATCH, 7, "the two sides do not agree")                                               \
    X(ERR_REFUSED, 8, "refused")                                                                   \
    X(ERR_TIMEOUT, 9, "deadline passed")                                                           \
    X(ERR_PEER, 10, "peer lost")                                                                   \
    X(ERR_INFEASIBLE, 11, "no feasible plan")                                                      \
    X(ERR_CANCELLED, 12, "cancelled")                                                              \
    X(ERR_NOTFOUND, 13, "not found")                                                               \
    X(ERR_FULL, 14, "full")

#define BASE_ERR_ENUM(name, value, sentence) name = value,
enum { BASE_ERRORS(BASE_ERR_ENUM) };
#undef BASE_ERR_ENUM

enum { ERR_TEXT_MAX = 512 };

/* A code and the sentence a person reads. Owned by the caller; functions accept NULL. */
struct err {
    int code;
    char text[ERR_TEXT_MAX];
};

const char *base_err_sentence(int code);
/* Fill *e (may be NULL) and return `code`. */
int base_err_set(struct err *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Put "context: " before the text of *e (may be NULL), which gets `code`, and return `code`; the
 * most general context comes first. */
int base_err_wrap(struct err *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define err_set  base_err_set
#define err_wrap base_err_wrap

/* ---- spans and checked arithmetic ------------------------------------------------------------ */

/* A borrowed view of bytes, never NUL-terminated by hope. */
struct span {
    const uint8_t *ptr;
    size_t len;
};

struct span base_span_str(const char *s);
bool base_span_is(struct span a, const char *s);

static inline bool base_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool base_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
/* Round up to a multiple of `to` (a power of two); the caller has checked that it cannot wrap. */
static inline size_t base_round_up(size_t n, size_t to)
{
    return (n + to - 1) & ~(to - 1);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* All heap memory of Shoal comes from here. NULL means out of memory (a fault test can ask for it);
 * an allocation inside a guarded phase aborts and names the phase. */
void *base_alloc(size_t bytes);
void *base_zalloc(size_t n, size_t bytes); /* zeroed array; NULL where n * bytes overflows */
void *base_realloc(void *p, size_t bytes);
char *base_strdup(const char *s);
void base_free(void *p);

/* Forbid allocation on this thread until base_guard_end; `phase` is borrowed. May not nest. */
void base_guard_begin(const char *phase);
void base_guard_end(void);

/* Fault tests: make the n-th allocation from now fail (0: never). Process-wide. */
void base_alloc_fail_nth(uint64_t n);
/* Blocks handed out and not freed; a test compares it before and after. */
int64_t base_alloc_live(void);

/* Before a program has threads: keep little of what is freed. One heap for all of them, which is no
 * place for programs that allocate much in several at once; large blocks are pages of their own. */
void base_memory_frugal(void);
/* After much was freed: free pages inside the heap go back to the system. */
void base_memory_give_back(void);

/* One block cut into aligned parts, given back as a whole. Parts are zeroed and 64-byte aligned. */
struct base_arena;
struct base_arena *base_arena_new(size_t bytes);
void *base_arena_take(struct base_arena *a, size_t bytes); /* NULL when exhausted or sealed */
void base_arena_seal(struct base_arena *a);
/* Back part `part` of n_parts of a new arena, each by a thread of its own, with large pages as far as
 * they come quickly, and touch those: for memory that is all used, and read again and again. Where a
 * system has none, nothing happens. */
void base_arena_large_pages(struct base_arena *a, unsigned part, unsigned n_parts);
size_t base_arena_used(const struct base_arena *a);
void base_arena_free(struct base_arena *a);

/* A growing byte buffer. `failed` sticks after the first failed growth, so that a run of appends
 * is checked once at its end. */
struct base_buf {
    uint8_t *ptr;
    size_t len, cap;
    bool failed;
};
void base_buf_add(struct base_buf *b, const void *p, size_t n);
void base_buf_printf(struct base_buf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void base_buf_deinit(struct base_buf *b);

/* ---- clock and log --------------------------------------------------------------------------- */

int64_t base_clock_ms(void); /* monotonic */
double base_clock_s(void);   /* monotonic, seconds */

/* The median of n > 0 times or other numbers, none of them NaN; of an even n the upper
 * one. Leaves them sorted, the smallest first. */
double base_median(double *values, size_t n);

enum base_log_level { BASE_LOG_ERROR, BASE_LOG_WARN, BASE_LOG_INFO, BASE_LOG_DEBUG };
void base_log_init(const char *program, enum base_log_level level);
/* One line an event on stderr: time, level, program, event, then `key=value` pairs from `fmt`.
 * Control characters in the text are replaced, so that no peer can forge a line. */
void base_log(enum base_log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
bool base_log_on(enum base_log_level level);

/* Progress of long work: one line rewritten in place on a terminal, silence in a pipe. */
struct base_progress {
    const char *what; /* borrowed */
    uint64_t total;
    int64_t last_ms;
    bool shown;
};
void base_progress_begin(struct base_progress *p, const char *what, uint64_t total);
void base_progress_step(struct base_progress *p, uint64_t done);
void base_progress_end(struct base_progress *p);

/* "1.9 GiB" into a buffer that the caller owns. */
char *base_bytes_text(uint64_t bytes, char out[static 24]);

/* ---- pseudo-random numbers ------------------------------------------------------------------- */

/* SplitMix64's finaliser (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
 * 2014): a bijection of 64-bit words whose output bits all depend on all input bits. */
uint64_t base_mix64(uint64_t x);
/* A generator is one word of state owned by whoever draws; the same word gives the same run. */
uint64_t base_rng_next(uint64_t *state);

/* ---- files ----------------------------------------------------------------------------------- */

/* A whole file mapped read-only. len 0 is a valid, empty mapping. */
struct base_map {
    const uint8_t *ptr;
    size_t len;
    uint64_t mtime_ns, inode, device;
};
int base_map_open(const char *path, struct base_map *out, struct err *e); /* ERR_IO, ERR_NOTFOUND */
void base_map_close(struct base_map *m);
/* The pages of it that are in memory now need not stay: they are read again from the system's cache
 * or the file when touched. Other threads may be reading. */
void base_map_forget(const struct base_map *m);
/* Read a small file whole, NUL-terminated for convenience; freed with base_free. ERR_IO,
 * ERR_NOTFOUND, ERR_RANGE when longer than max_bytes, ERR_NOMEM. */
int base_file_read(const char *path, size_t max_bytes, uint8_t **out, size_t *len, struct err *e);
/* Write to a temporary neighbour, fsync, rename: readers see the old file or the new one. */
int base_file_replace(const char *path, const void *bytes, size_t len, unsigned mode,
                      struct err *e);
/* mkdir -p. */
int base_dir_make(const char *path, struct err *e);
/* `path`, or, where it is relative, `path` seen from the folder that holds `file`; base_free. */
char *base_path_beside(const char *file, const char *path);

/* ---- background jobs ------------------------------------------------------------------------- */

/* One thread that runs jobs in order, for work that must not hold up a poll loop. A finished job is
 * announced through an eventfd and collected with base_jobs_reap by the thread that posted it. The
 * queue is bounded: post fails with ERR_FULL while max_queued jobs wait to be run or collected. */
struct base_jobs;
typedef void base_job_fn(void *arg);
int base_jobs_new(const char *name, size_t max_queued, struct base_jobs **out, struct err *e);
int base_jobs_post(struct base_jobs *j, base_job_fn *run, void *arg);
int base_jobs_fd(const struct base_jobs *j);            /* readable when a job has finished */
bool base_jobs_reap(struct base_jobs *j, void **arg);   /* next finished job's arg, in order */
uint64_t base_jobs_progress(const struct base_jobs *j); /* jobs finished since the start */
bool base_jobs_busy(const struct base_jobs *j);         /* a job is queued or running */
/* Waits for the running job and drops the queued ones, whose arguments stay the caller's. */
void base_jobs_free(struct base_jobs *j);

#endif
