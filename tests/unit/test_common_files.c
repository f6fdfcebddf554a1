/* The floor under test: files and background jobs of common/common.h.
 *
 * A reader sees the old file or the new one, nothing is left behind when memory or the folder fails,
 * jobs finish in order behind a bounded queue. Waiting is done with poll and at gates, never with a
 * timed assertion. */
#include "common/common.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- scratch folder -------------------------------------------------------------------------- */

static char scratch_dir[256];

static int make_scratch(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    (void)snprintf(scratch_dir, sizeof scratch_dir, "%s/shoal-common-XXXXXX",
                   tmp != NULL ? tmp : "/tmp");
    return mkdtemp(scratch_dir) == NULL;
}

static int remove_scratch(void **state)
{
    char command[300];

    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", scratch_dir);
    return system(command);
}

static const char *scratch(const char *name)
{
    static char path[400];

    (void)snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    return path;
}

static void put_file(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(scratch(name), "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ---- files ---------------------------------------------------------------------------------- */

static void map_a_file(void **state)
{
    struct base_map m;
    struct err e = {0};
    struct stat st;

    (void)state;
    put_file("map", "hello", 5);
    put_file("empty", "", 0);
    assert_int_equal(base_map_open(scratch("map"), &m, &e), 0);
    assert_int_equal(m.len, 5);
    assert_memory_equal(m.ptr, "hello", 5);
    assert_int_equal(stat(scratch("map"), &st), 0);
    assert_true(m.inode == (uint64_t)st.st_ino && m.device == (uint64_t)st.st_dev);
    assert_true(m.mtime_ns / 1000000000u == (uint64_t)st.st_mtim.tv_sec);
    base_map_close(&m);
    assert_int_equal(base_map_open(scratch("empty"), &m, &e), 0);
    assert_int_equal(m.len, 0);
    assert_non_null(m.ptr);
    base_map_close(&m);
    base_map_close(&m);
}

static void map_what_is_no_file(void **state)
{
    struct base_map m;
    struct err e = {0};

    (void)state;
    assert_int_equal(base_map_open(scratch("absent"), &m, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "absent"));
    assert_int_equal(base_map_open(scratch_dir, &m, &e), ERR_IO);
    assert_int_equal(mkfifo(scratch("fifo"), 0600), 0);
    assert_int_equal(base_map_open(scratch("fifo"), &m, &e), ERR_IO);
}

static void read_a_file(void **state)
{
    static uint8_t big[10000];
    int64_t before = base_alloc_live();
    uint8_t *bytes;
    size_t n;
    struct err e = {0};

    (void)state;
    memset(big, 7, sizeof big);
    put_file("big", big, sizeof big);
    assert_int_equal(base_file_read(scratch("big"), sizeof big, &bytes, &n, &e), 0);
    assert_int_equal(n, sizeof big);
    assert_memory_equal(bytes, big, n);
    assert_int_equal(bytes[n], 0);
    base_free(bytes);
    assert_int_equal(base_file_read(scratch("big"), sizeof big - 1, &bytes, &n, &e), ERR_RANGE);
    assert_int_equal(base_file_read(scratch("absent"), 10, &bytes, &n, &e), ERR_NOTFOUND);
    assert_int_equal(base_file_read(scratch_dir, 10, &bytes, &n, &e), ERR_IO);
    base_alloc_fail_nth(1);
    assert_int_equal(base_file_read(scratch("big"), SIZE_MAX, &bytes, &n, &e), ERR_NOMEM);
    base_alloc_fail_nth(0);
    assert_int_equal(base_alloc_live(), before);
}

/* True where no temporary neighbour was left in the scratch folder. */
static bool no_leftovers(void)
{
    char command[400];

    (void)snprintf(command, sizeof command, "test -z \"$(ls '%s' | grep '[.]')\"", scratch_dir);
    return system(command) == 0;
}

static void replace_a_file(void **state)
{
    uint8_t *bytes;
    size_t n;
    struct err e = {0};
    struct stat st;

    (void)state;
    assert_int_equal(base_file_replace(scratch("key"), "one", 3, 0600, &e), 0);
    assert_int_equal(stat(scratch("key"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(base_file_replace(scratch("key"), "second", 6, 0644, &e), 0);
    assert_int_equal(stat(scratch("key"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    assert_int_equal(base_file_read(scratch("key"), 100, &bytes, &n, &e), 0);
    assert_string_equal((char *)bytes, "second");
    base_free(bytes);
    assert_int_equal(base_file_replace(scratch("no/such/folder"), "x", 1, 0600, &e), ERR_NOTFOUND);
    assert_int_equal(mkdir(scratch("folder"), 0700), 0);
    assert_int_equal(base_file_replace(scratch("folder"), "x", 1, 0600, &e), ERR_IO);
    assert_true(no_leftovers());
}

static void replace_survives_faults(void **state)
{
    int64_t before = base_alloc_live();
    struct err e = {0};
    int rc = ERR_NOMEM;

    (void)state;
    for (uint64_t n = 1; rc != 0; n++) {
        assert_true(n < 10);
        base_alloc_fail_nth(n);
        rc = base_file_replace(scratch("faulty"), "x", 1, 0600, &e);
        base_alloc_fail_nth(0);
        assert_true(rc == 0 || rc == ERR_NOMEM);
        assert_int_equal(base_alloc_live(), before);
    }
    assert_true(no_leftovers());
}

static void make_folders(void **state)
{
    struct stat st;
    struct err e = {0};

    (void)state;
    assert_int_equal(base_dir_make(scratch("a/b//c/"), &e), 0);
    assert_int_equal(base_dir_make(scratch("a/b/c"), &e), 0);
    assert_int_equal(stat(scratch("a/b/c"), &st), 0);
    assert_true(S_ISDIR(st.st_mode));
    put_file("plain", "", 0);
    assert_int_equal(base_dir_make(scratch("plain"), &e), ERR_IO);
    assert_int_equal(base_dir_make(scratch("plain/below"), &e), ERR_IO);
    assert_int_equal(base_dir_make("", &e), ERR_IO);
    assert_int_equal(base_dir_make("/", &e), 0);
}

static void path_is(const char *file, const char *path, const char *expected)
{
    char *joined = base_path_beside(file, path);

    assert_string_equal(joined, expected);
    base_free(joined);
}

static void paths_beside(void **state)
{
    (void)state;
    path_is("configs/kitchen.ini", "../models/m.gguf", "configs/../models/m.gguf");
    path_is("/etc/shoal.ini", "keys", "/etc/keys");
    path_is("/shoal.ini", "keys", "/keys");
    path_is("kitchen.ini", "keys", "keys");
    path_is("configs/kitchen.ini", "/abs/keys", "/abs/keys");
}

/* ---- jobs ----------------------------------------------------------------------------------- */

enum { N_JOBS = 20, QUEUE = 4 };

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
    unsigned passed;
};

static struct gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0};

static void set_gate(bool open)
{
    (void)pthread_mutex_lock(&gate.lock);
    gate.open = open;
    (void)pthread_cond_broadcast(&gate.opened);
    (void)pthread_mutex_unlock(&gate.lock);
}

/* A job that waits at the gate and then notes its place in line. */
static void pass_gate(void *arg)
{
    (void)pthread_mutex_lock(&gate.lock);
    while (!gate.open) {
        (void)pthread_cond_wait(&gate.opened, &gate.lock);
    }
    *(unsigned *)arg = gate.passed++;
    (void)pthread_mutex_unlock(&gate.lock);
}

static bool readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, timeout_ms) == 1;
}

static void jobs_in_order(void **state)
{
    struct base_jobs *j;
    unsigned place[N_JOBS], posted = 0, reaped = 0;
    void *arg;

    (void)state;
    gate.passed = 0;
    set_gate(true);
    assert_int_equal(base_jobs_new("test-jobs", QUEUE, &j, NULL), 0);
    while (reaped < N_JOBS) {
        while (posted < N_JOBS && base_jobs_post(j, pass_gate, &place[posted]) == 0) {
            posted++;
        }
        assert_true(readable(base_jobs_fd(j), -1));
        while (base_jobs_reap(j, &arg)) {
            assert_ptr_equal(arg, &place[reaped]);
            assert_int_equal(place[reaped], reaped);
            reaped++;
        }
    }
    assert_int_equal(base_jobs_progress(j), N_JOBS);
    assert_false(base_jobs_busy(j));
    assert_false(readable(base_jobs_fd(j), 0));
    base_jobs_free(j);
}

static void jobs_queue_is_bounded(void **state)
{
    struct base_jobs *j;
    unsigned place[QUEUE + 1];
    void *arg;

    (void)state;
    set_gate(false);
    assert_int_equal(base_jobs_new("test-jobs", QUEUE, &j, NULL), 0);
    for (unsigned i = 0; i < QUEUE; i++) {
        assert_int_equal(base_jobs_post(j, pass_gate, &place[i]), 0);
    }
    assert_int_equal(base_jobs_post(j, pass_gate, &place[QUEUE]), ERR_FULL);
    assert_true(base_jobs_busy(j));
    assert_false(base_jobs_reap(j, &arg));
    assert_int_equal(base_jobs_progress(j), 0);
    set_gate(true);
    assert_true(readable(base_jobs_fd(j), -1));
    assert_true(base_jobs_reap(j, &arg));
    assert_int_equal(base_jobs_post(j, pass_gate, &place[QUEUE]), 0);
    base_jobs_free(j);
}

static void *open_gate_later(void *arg)
{
    (void)arg;
    (void)poll(NULL, 0, 20);
    set_gate(true);
    return NULL;
}

static void jobs_free_waits(void **state)
{
    int64_t before = base_alloc_live();
    struct base_jobs *j;
    unsigned place[QUEUE] = {99, 99, 99, 99};
    pthread_t opener;

    (void)state;
    gate.passed = 0;
    set_gate(false);
    assert_int_equal(base_jobs_new("a-name-that-is-too-long", QUEUE, &j, NULL), 0);
    for (unsigned i = 0; i < QUEUE; i++) {
        assert_int_equal(base_jobs_post(j, pass_gate, &place[i]), 0);
    }
    assert_int_equal(pthread_create(&opener, NULL, open_gate_later, NULL), 0);
    base_jobs_free(j);
    assert_int_equal(pthread_join(opener, NULL), 0);
    assert_int_equal(base_alloc_live(), before);
    base_jobs_free(NULL);
    /* What ran, ran in order; what did not run was dropped whole. */
    for (unsigned i = 0; i < QUEUE; i++) {
        assert_true(place[i] == i || place[i] == 99);
        assert_true(i == 0 || place[i] == 99 || place[i - 1] == i - 1);
    }
}

static void jobs_new_refuses(void **state)
{
    int64_t before = base_alloc_live();
    struct base_jobs *j;
    struct err e = {0};

    (void)state;
    assert_int_equal(base_jobs_new("x", 0, &j, &e), ERR_RANGE);
    assert_int_equal(base_jobs_new("x", SIZE_MAX / 2, &j, &e), ERR_RANGE);
    base_alloc_fail_nth(1);
    assert_int_equal(base_jobs_new("x", 1, &j, &e), ERR_NOMEM);
    base_alloc_fail_nth(0);
    assert_int_equal(base_alloc_live(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_a_file),
        cmocka_unit_test(map_what_is_no_file),
        cmocka_unit_test(read_a_file),
        cmocka_unit_test(replace_a_file),
        cmocka_unit_test(replace_survives_faults),
        cmocka_unit_test(make_folders),
        cmocka_unit_test(paths_beside),
        cmocka_unit_test(jobs_in_order),
        cmocka_unit_test(jobs_queue_is_bounded),
        cmocka_unit_test(jobs_free_waits),
        cmocka_unit_test(jobs_new_refuses),
    };

    return cmocka_run_group_tests_name("common_files", tests, make_scratch, remove_scratch);
}
