/* The floor under test: errors, spans, numbers, memory, clock and log of common/common.h; its files
 * and jobs have test_common_files.c.
 *
 * What is promised to callers is what is checked: codes and texts of errors, the guard that aborts
 * and names its phase, failures of the n-th allocation without a leak, alignment and zeros of arena
 * parts, one unforgeable line a log event. What must end a process, or writes to stderr, runs in a
 * child. */
#include "common/common.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Run fn in a child whose stderr is a pipe; the text goes to out, the wait status is returned. */
static int run_child(void (*fn)(void), char *out, size_t room)
{
    size_t used = 0;
    ssize_t n;
    int status, ends[2];
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct rlimit no_core = {0, 0};

        (void)setrlimit(RLIMIT_CORE, &no_core);
        (void)signal(SIGABRT, SIG_DFL);
        (void)dup2(ends[1], STDERR_FILENO);
        fn();
        _exit(0);
    }
    (void)close(ends[1]);
    while ((n = read(ends[0], out + used, room - 1 - used)) > 0) {
        used += (size_t)n;
    }
    out[used] = '\0';
    (void)close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* ---- errors --------------------------------------------------------------------------------- */

static void err_text_and_code(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(err_set(&e, ERR_FORMAT, "tensor %d is %s", 7, "bad"), ERR_FORMAT);
    assert_int_equal(e.code, ERR_FORMAT);
    assert_string_equal(e.text, "tensor 7 is bad");
    assert_int_equal(err_wrap(&e, e.code, "cannot load %s", "m.gguf"), ERR_FORMAT);
    assert_string_equal(e.text, "cannot load m.gguf: tensor 7 is bad");
    assert_int_equal(err_set(NULL, ERR_IO, "x"), ERR_IO);
    assert_int_equal(err_wrap(NULL, ERR_IO, "x"), ERR_IO);
}

static void err_wrap_without_text(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(err_wrap(&e, ERR_NOMEM, "plan"), ERR_NOMEM);
    assert_string_equal(e.text, "plan: out of memory");
    assert_int_equal(e.code, ERR_NOMEM);
}

static void err_own_text_as_argument(void **state)
{
    struct err e = {0};

    (void)state;
    (void)err_set(&e, ERR_IO, "inner");
    (void)err_set(&e, ERR_PEER, "<%s>", e.text);
    assert_string_equal(e.text, "<inner>");
}

static void err_long_text_is_cut(void **state)
{
    char longer[2 * ERR_TEXT_MAX];
    struct err e = {0};

    (void)state;
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    (void)err_set(&e, ERR_IO, "%s", longer);
    assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
    (void)err_wrap(&e, ERR_IO, "context");
    assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
    assert_memory_equal(e.text, "context: aaa", 12);
    (void)err_wrap(&e, ERR_IO, "%s", longer);
    assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
}

static void err_sentences(void **state)
{
    (void)state;
    assert_string_equal(base_err_sentence(ERR_NOMEM), "out of memory");
    assert_string_equal(base_err_sentence(ERR_FULL), "full");
    assert_string_equal(base_err_sentence(0), "no error");
    assert_string_equal(base_err_sentence(-3), "unknown error");
}

/* ---- spans, arithmetic, numbers -------------------------------------------------------------- */

static void span_compare(void **state)
{
    static const uint8_t bytes[] = {'a', 'b', 0, 'c'};

    (void)state;
    assert_true(base_span_is(base_span_str("abc"), "abc"));
    assert_false(base_span_is(base_span_str("abc"), "ab"));
    assert_false(base_span_is(base_span_str("ab"), "abc"));
    assert_false(base_span_is((struct span){bytes, 4}, "ab"));
    assert_true(base_span_is((struct span){NULL, 0}, ""));
}

static void checked_arithmetic(void **state)
{
    size_t n;

    (void)state;
    assert_true(base_mul(SIZE_MAX / 4, 4, &n));
    assert_int_equal(n, SIZE_MAX - 3);
    assert_false(base_mul(SIZE_MAX / 2, 3, &n));
    assert_true(base_add(SIZE_MAX - 1, 1, &n));
    assert_false(base_add(SIZE_MAX, 1, &n));
    assert_int_equal(base_round_up(0, 64), 0);
    assert_int_equal(base_round_up(1, 64), 64);
    assert_int_equal(base_round_up(64, 64), 64);
}

static void median_of_odd_and_even(void **state)
{
    double five[] = {3, -1, 7, 2, 5}, four[] = {4, 1, 3, 2}, one[] = {6};
    (void)state;
    assert_true(base_median(five, 5) == 3 && five[0] == -1 && five[4] == 7);
    assert_true(base_median(four, 4) == 3);
    assert_true(base_median(one, 1) == 6);
}

/* The first numbers from seed 1234567, as the paper's Java class gives them. */
static void rng_known_numbers(void **state)
{
    static const uint64_t expected[] = {
        UINT64_C(6457827717110365317), UINT64_C(3203168211198807973), UINT64_C(9817491932198370423),
        UINT64_C(4593380528125082431), UINT64_C(16408922859458223821)};
    uint64_t word = 1234567;

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        assert_true(base_rng_next(&word) == expected[i]);
    }
    assert_true(base_mix64(0) == 0);
    assert_true(base_mix64(1) != base_mix64(2));
}

static void bytes_as_text(void **state)
{
    char t[24];

    (void)state;
    assert_string_equal(base_bytes_text(0, t), "0 B");
    assert_string_equal(base_bytes_text(1023, t), "1023 B");
    assert_string_equal(base_bytes_text(1024, t), "1.0 KiB");
    assert_string_equal(base_bytes_text(1048575, t), "1.0 MiB");
    assert_string_equal(base_bytes_text(UINT64_C(2040109466), t), "1.9 GiB");
    assert_string_equal(base_bytes_text(UINT64_MAX, t), "16.0 EiB");
}

/* ---- memory --------------------------------------------------------------------------------- */

static void alloc_and_live_count(void **state)
{
    int64_t before = base_alloc_live();
    uint8_t *z = base_zalloc(100, 3);
    void *a = base_alloc(0);
    char *s = base_strdup("text");
    void *r = base_realloc(NULL, 10);

    (void)state;
    assert_non_null(z);
    assert_non_null(a);
    assert_non_null(r);
    assert_string_equal(s, "text");
    for (size_t i = 0; i < 300; i++) {
        assert_int_equal(z[i], 0);
    }
    assert_int_equal(base_alloc_live(), before + 4);
    r = base_realloc(r, 100000);
    assert_non_null(r);
    assert_int_equal(base_alloc_live(), before + 4);
    base_free(z);
    base_free(a);
    base_free(s);
    base_free(r);
    base_free(NULL);
    assert_int_equal(base_alloc_live(), before);
}

static void zalloc_overflow(void **state)
{
    (void)state;
    assert_null(base_zalloc(SIZE_MAX / 2, 3));
}

static void alloc_fails_when_asked(void **state)
{
    void *a, *b, *c;

    (void)state;
    base_alloc_fail_nth(2);
    a = base_alloc(8);
    b = base_alloc(8);
    c = base_alloc(8);
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    base_alloc_fail_nth(1);
    assert_null(base_realloc(a, 100));
    base_alloc_fail_nth(1);
    assert_null(base_strdup("x"));
    base_alloc_fail_nth(0);
    base_free(a);
    base_free(c);
}

static void allocate_in_phase(void)
{
    base_guard_begin("decode step");
    base_free(base_alloc(1));
    base_guard_end();
}

static void reallocate_in_phase(void)
{
    void *p = base_alloc(1);

    base_guard_begin("decode step");
    p = base_realloc(p, 2);
    base_guard_end();
    base_free(p);
}

static void guard_aborts_and_names_phase(void **state)
{
    char text[1024];
    int status;

    (void)state;
    status = run_child(allocate_in_phase, text, sizeof text);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(text, "decode step"));
    status = run_child(reallocate_in_phase, text, sizeof text);
    assert_true(WIFSIGNALED(status));
}

/* Pages of this process in memory. */
static long resident_pages(void)
{
    long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (f == NULL || fscanf(f, "%ld %ld", &all, &resident) != 2) {
        _exit(2);
    }
    (void)fclose(f);
    return resident;
}

/* Take n blocks and give them back, with a small one behind them that stays; ends with 1 where more than a quarter
 * of their pages do, too. */
static void take_and_free(size_t n, size_t bytes, bool give_back)
{
    char **blocks = base_zalloc(n, sizeof *blocks);
    const long before = resident_pages(), pages = (long)(n * bytes / (size_t)sysconf(_SC_PAGESIZE));

    for (size_t i = 0; i < n; i++) {
        blocks[i] = base_alloc(bytes);
        memset(blocks[i], 1, bytes);
    }
    memset(base_alloc(100), 1, 100);
    for (size_t i = 0; i < n; i++) {
        base_free(blocks[i]);
    }
    if (give_back) {
        base_memory_give_back();
    }
    if (resident_pages() - before > pages / 4) {
        _exit(1);
    }
}

static void large_blocks(void)
{
    base_memory_frugal();
    base_free(base_alloc(20 << 20)); /* glibc would now have smaller ones in its heap */
    take_and_free(8, 4 << 20, false);
}

static void many_blocks(void)
{
    base_memory_frugal();
    take_and_free(1000, 16 << 10, true);
}

/* Not with a sanitizer, whose allocator is another; and only glibc promises it. */
static void freed_memory_goes_back(void **state)
{
    char text[64];

    (void)state;
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__ || !defined __GLIBC__
    skip();
#endif
    assert_int_equal(run_child(large_blocks, text, sizeof text), 0);
    assert_int_equal(run_child(many_blocks, text, sizeof text), 0);
}

static void *allocate_elsewhere(void *arg)
{
    *(void **)arg = base_alloc(1);
    return NULL;
}

static void guard_is_of_one_thread(void **state)
{
    pthread_t t;
    void *mine = base_alloc(1), *theirs = NULL;

    (void)state;
    base_guard_begin("phase");
    base_free(mine);
    assert_int_equal(pthread_create(&t, NULL, allocate_elsewhere, &theirs), 0);
    assert_int_equal(pthread_join(t, NULL), 0);
    base_guard_end();
    assert_non_null(theirs);
    base_free(theirs);
    mine = base_alloc(1);
    assert_non_null(mine);
    base_free(mine);
}

static void arena_parts(void **state)
{
    struct base_arena *a = base_arena_new(200); /* four parts of 64 */
    uint8_t *p[4];

    (void)state;
    assert_non_null(a);
    for (size_t i = 0; i < 4; i++) {
        p[i] = base_arena_take(a, i == 0 ? 1 : 64);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        for (size_t k = 0; k < 64; k++) {
            assert_int_equal(p[i][k], 0);
        }
        memset(p[i], 0xff, 64);
    }
    assert_int_equal(base_arena_used(a), 256);
    assert_null(base_arena_take(a, 1));
    assert_null(base_arena_take(a, SIZE_MAX));
    base_arena_free(a);
    base_arena_free(NULL);
}

/* Large pages stay inside the arena, whatever its size and however many threads ask; it stays zero. */
static void arena_large_pages(void **state)
{
    static const size_t sizes[] = {1, 2 << 20, 4 << 20, (9 << 20) + 100};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct base_arena *a = base_arena_new(sizes[i]);
        uint8_t *p, any = 0;
        assert_non_null(a);
        for (unsigned part = 0; part < 3; part++)
            base_arena_large_pages(a, part, 3);
        p = base_arena_take(a, sizes[i]);
        assert_non_null(p);
        for (size_t k = 0; k < sizes[i]; k++)
            any |= p[k];
        assert_int_equal(any, 0);
        base_arena_free(a);
    }
}

/* Wherever the heap puts an arena, its parts are aligned. */
static void arena_alignment(void **state)
{
    enum { N = 16 };
    struct base_arena *a[N];
    void *spacer[N];

    (void)state;
    for (size_t i = 0; i < N; i++) {
        a[i] = base_arena_new(100);
        spacer[i] = base_alloc(16 * (i % 5) + 8);
        assert_non_null(a[i]);
        assert_int_equal((uintptr_t)base_arena_take(a[i], 1) % 64, 0);
    }
    for (size_t i = 0; i < N; i++) {
        base_arena_free(a[i]);
        base_free(spacer[i]);
    }
}

static void arena_seals(void **state)
{
    struct base_arena *a = base_arena_new(1000);

    (void)state;
    assert_non_null(base_arena_take(a, 10));
    base_arena_seal(a);
    assert_null(base_arena_take(a, 10));
    assert_int_equal(base_arena_used(a), 64);
    base_arena_free(a);
    assert_null(base_arena_new(SIZE_MAX));
    assert_null(base_arena_new(SIZE_MAX - 100));
    base_alloc_fail_nth(1);
    assert_null(base_arena_new(10));
    base_alloc_fail_nth(0);
}

static void fill_buffer(struct base_buf *b)
{
    for (int i = 0; i < 200; i++) {
        base_buf_printf(b, "%d,", i);
        base_buf_add(b, "\0x", 2);
    }
}

static void buf_grows(void **state)
{
    struct base_buf b = {0};

    (void)state;
    base_buf_add(&b, NULL, 0);
    assert_int_equal(b.len, 0);
    fill_buffer(&b);
    assert_false(b.failed);
    assert_int_equal(b.len, 10 * 4 + 90 * 5 + 100 * 6);
    assert_memory_equal(b.ptr, "0,\0x1,\0x2,", 10);
    assert_memory_equal(b.ptr + b.len - 6, "199,\0x", 6);
    base_buf_deinit(&b);
    assert_null(b.ptr);
}

static void buf_failure_sticks(void **state)
{
    int64_t before = base_alloc_live();
    struct base_buf b = {0};

    (void)state;
    for (uint64_t n = 1; n <= 3; n++) {
        base_alloc_fail_nth(n);
        fill_buffer(&b);
        base_alloc_fail_nth(0);
        assert_true(b.failed);
        base_buf_add(&b, "more", 4);
        assert_true(b.failed);
        base_buf_deinit(&b);
        assert_int_equal(base_alloc_live(), before);
    }
    b = (struct base_buf){.len = 10};
    base_buf_add(&b, "x", SIZE_MAX - 5);
    assert_true(b.failed);
}

/* ---- clock, log, progress -------------------------------------------------------------------- */

static void clocks_agree(void **state)
{
    double before_s = base_clock_s();
    double s = (double)base_clock_ms() / 1000.0;
    double after_s = base_clock_s();

    (void)state;
    assert_true(before_s > 0.0);
    assert_true(s > before_s - 0.002 && s < after_s + 0.002);
}

static void log_hostile_lines(void)
{
    base_log_init("test", BASE_LOG_INFO);
    base_log(BASE_LOG_INFO, "hello", "peer=%s", "a\nb\033[2Jc\xc2\x9bz\xc3\xa9");
    base_log(BASE_LOG_DEBUG, "hidden", "x=1");
    base_log(BASE_LOG_ERROR, "last", "n=%d", 5);
}

static void log_one_line_an_event(void **state)
{
    char text[1024];
    char *second;

    (void)state;
    assert_int_equal(run_child(log_hostile_lines, text, sizeof text), 0);
    second = strchr(text, '\n');
    assert_non_null(second);
    *second++ = '\0';
    assert_int_equal(text[10], 'T');
    assert_int_equal(text[23], 'Z');
    assert_string_equal(text + 24, " info test hello peer=a?b?[2Jc??z\xc3\xa9");
    assert_string_equal(second + 24, " error test last n=5\n");
}

static void log_long_line(void)
{
    char longer[5000];

    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    base_log(BASE_LOG_ERROR, "long", "%s", longer);
    base_log(BASE_LOG_ERROR, "next", "%s", "");
}

static void log_cuts_long_lines(void **state)
{
    char text[8192];
    const char *end;

    (void)state;
    assert_int_equal(run_child(log_long_line, text, sizeof text), 0);
    end = strchr(text, '\n');
    assert_non_null(end);
    assert_int_equal(end - text, 2047);
    assert_memory_equal(end - 4, "x...", 4);
    assert_non_null(strstr(end, " next \n"));
}

static void progress_in_a_pipe(void)
{
    struct base_progress p;

    base_progress_begin(&p, "loading", 100);
    p.last_ms -= 1000;
    base_progress_step(&p, 50);
    p.last_ms -= 1000;
    base_progress_step(&p, 100);
    base_progress_end(&p);
}

static void progress_is_silent_in_a_pipe(void **state)
{
    char text[256];

    (void)state;
    assert_int_equal(run_child(progress_in_a_pipe, text, sizeof text), 0);
    assert_string_equal(text, "");
}

static void log_levels(void **state)
{
    (void)state;
    base_log_init("test", BASE_LOG_WARN);
    assert_true(base_log_on(BASE_LOG_ERROR));
    assert_true(base_log_on(BASE_LOG_WARN));
    assert_false(base_log_on(BASE_LOG_INFO));
    base_log_init("test", BASE_LOG_DEBUG);
    assert_true(base_log_on(BASE_LOG_DEBUG));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_text_and_code),
        cmocka_unit_test(err_wrap_without_text),
        cmocka_unit_test(err_own_text_as_argument),
        cmocka_unit_test(err_long_text_is_cut),
        cmocka_unit_test(err_sentences),
        cmocka_unit_test(span_compare),
        cmocka_unit_test(checked_arithmetic),
        cmocka_unit_test(median_of_odd_and_even),
        cmocka_unit_test(rng_known_numbers),
        cmocka_unit_test(bytes_as_text),
        cmocka_unit_test(alloc_and_live_count),
        cmocka_unit_test(zalloc_overflow),
        cmocka_unit_test(alloc_fails_when_asked),
        cmocka_unit_test(guard_aborts_and_names_phase),
        cmocka_unit_test(guard_is_of_one_thread),
        cmocka_unit_test(freed_memory_goes_back),
        cmocka_unit_test(arena_parts),
        cmocka_unit_test(arena_large_pages),
        cmocka_unit_test(arena_alignment),
        cmocka_unit_test(arena_seals),
        cmocka_unit_test(buf_grows),
        cmocka_unit_test(buf_failure_sticks),
        cmocka_unit_test(clocks_agree),
        cmocka_unit_test(log_one_line_an_event),
        cmocka_unit_test(log_cuts_long_lines),
        cmocka_unit_test(progress_is_silent_in_a_pipe),
        cmocka_unit_test(log_levels),
    };

    return cmocka_run_group_tests_name("common", tests, NULL, NULL);
}
