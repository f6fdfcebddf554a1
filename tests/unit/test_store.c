/* The piece store on a disk that works: finding, receiving, checking, making room. */
#include "tests/unit/store_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- finding --------------------------------------------------------------------------------- */

static void test_what_goes_in_comes_out(void **state)
{
    static const size_t sizes[] = {1, 63, 64, 4095, 4096, 4097, 100000, 500000};
    enum { N = sizeof sizes / sizeof sizes[0] };
    struct sample x[N], other = sample_new(99, 10);
    struct worker_store *s = open_ok(0);
    uint64_t sum = 0;
    struct stat st;

    (void)state;
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    for (size_t i = 0; i < N; i++) {
        x[i] = sample_new(i, sizes[i]);
        sum += sizes[i];
        assert_false(worker_store_has(s, x[i].hash));
    }
    put_ok(s, x, N);
    for (unsigned round = 0; round < 3; round++) {
        struct worker_store_stats t = worker_store_stats(s);
        struct worker_store_piece p;
        uint64_t cursor = 0, walked = 0;

        assert_int_equal(count_there(s, x, N), N);
        assert_false(there(s, &other));
        assert_int_equal(t.n_pieces, N);
        assert_int_equal(t.piece_bytes, sum);
        assert_int_equal(t.n_packs, 1);
        assert_int_equal(t.n_lost, 0);
        assert_int_equal(t.n_receiving, 0);
        while (worker_store_next(s, &cursor, &p)) {
            walked += p.bytes;
        }
        assert_int_equal(walked, sum);
        worker_store_close(s);
        s = open_ok(0);
    }
    worker_store_close(s);
    samples_free(x, N);
    samples_free(&other, 1);
}

/* What /proc/self/smaps says in the line that begins with `key` of the mapping that has ptr. */
static void mapping_line(const void *ptr, const char *key, char *line, size_t size)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    uintptr_t from, to;
    bool here = false, found = false;

    assert_non_null(f);
    while (!found && fgets(line, (int)size, f) != NULL) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
            here = from <= (uintptr_t)ptr && (uintptr_t)ptr < to;
        found = here && strncmp(line, key, strlen(key)) == 0;
    }
    (void)fclose(f);
    assert_true(found);
}

static void test_nothing_around_a_piece_is_read_with_it(void **state)
{
    struct sample x[1];
    struct worker_store *s = open_ok(0);
    char line[256];
    const void *ptr;
    size_t bytes;

    (void)state;
    samples_new(x, 1, 3, 100000);
    put_ok(s, x, 1);
    assert_int_equal(worker_store_map(s, x[0].hash, &ptr, &bytes, NULL), 0);
    mapping_line(ptr, "VmFlags:", line, sizeof line);
    assert_non_null(strstr(line, " rr")); /* read in random order: without read-ahead */
    worker_store_close(s);
    samples_free(x, 1);
}

/* Large pages are claimed where the system shows some, and what the file was made longer for them goes
 * when the store is closed. */
static void test_large_pages_where_there_are_any(void **state)
{
    enum { N = 3, BYTES = 1500000 };
    struct sample x[N];
    struct worker_store *s = open_ok(0);
    char line[256], path[2 * PATH_BYTES];
    unsigned long kib = 0;
    struct stat st;
    const void *at;
    size_t bytes;

    (void)state;
    samples_new(x, N, 3, BYTES);
    put_ok(s, x, N);
    assert_int_equal(count_there(s, x, N), N);
    assert_int_equal(worker_store_map(s, x[0].hash, &at, &bytes, NULL), 0);
    mapping_line(at, "FilePmdMapped:", line, sizeof line);
    assert_int_equal(sscanf(line, "FilePmdMapped: %lu", &kib), 1);
    assert_true(worker_store_large_pages(s) == (kib > 0));
    print_message("large pages: %lu KiB\n", kib);
    worker_store_close(s);
    file_path("pack-00000001", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, N * worker_store_room(BYTES));
    s = open_ok(0);
    assert_int_equal(count_there(s, x, N), N);
    worker_store_close(s);
    samples_free(x, N);
}

static void test_pointers_stay_while_packs_fill(void **state)
{
    enum { N = 5 };
    struct sample x[N];
    struct worker_store *s = open_ok(0);
    const void *first, *again;
    char pack[16];
    size_t bytes;
    long at;

    (void)state;
    /* Three fill a pack, and with four WORKER_STORE_UNSYNCED_MAX is reached. */
    samples_new(x, N, 7, WORKER_STORE_UNSYNCED_MAX / 4 + 5);
    put_ok(s, x, 1);
    assert_int_equal(worker_store_map(s, x[0].hash, &first, &bytes, NULL), 0);
    assert_memory_equal(first, x[0].content, bytes);
    put_ok(s, x + 1, N - 1);
    assert_int_equal(worker_store_stats(s).n_packs, 2);
    assert_int_equal(count_there(s, x, N), N);
    assert_int_equal(worker_store_map(s, x[0].hash, &again, &bytes, NULL), 0);
    assert_ptr_equal(first, again);
    assert_memory_equal(first, x[0].content, bytes);
    /* All but the last were synced by themselves: a start believes in them and not in it. */
    crash(s);
    at = locate(&x[0], pack);
    file_flip(pack, at + 12345);
    at = locate(&x[N - 1], pack);
    file_flip(pack, at + 12345);
    s = open_ok(0);
    assert_int_equal(count_there(s, x + 1, N - 1), N - 2);
    assert_true(worker_store_has(s, x[0].hash));
    assert_false(worker_store_has(s, x[N - 1].hash));
    worker_store_close(s);
    samples_free(x, N);
}

static void test_a_second_process_is_refused(void **state)
{
    struct worker_store *s = open_ok(0), *second = NULL;
    struct err e = {0};
    pid_t child;
    int status;

    (void)state;
    assert_int_equal(worker_store_open(dir, 0, &second, &e), ERR_REFUSED);
    assert_non_null(strstr(e.text, dir));
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        _exit(worker_store_open(dir, 0, &second, NULL) == ERR_REFUSED ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    worker_store_close(s);
    s = open_ok(0);
    worker_store_close(s);
}

static void test_folders(void **state)
{
    struct worker_store *s = NULL;
    struct stat st;
    struct err e = {0};
    char deep[PATH_BYTES + 32];

    (void)state;
    /* Slashes at the end name the same folder, which is nobody else's business, whoever makes it.
     * */
    (void)snprintf(deep, sizeof deep, "%s//", dir);
    assert_int_equal(worker_store_open(deep, 0, &s, &e), 0);
    worker_store_close(s);
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    (void)snprintf(deep, sizeof deep, "%s/lock/below", dir);
    assert_int_equal(worker_store_open(deep, 0, &s, &e), ERR_IO);
    assert_non_null(strstr(e.text, "lock"));
}

/* ---- receiving ------------------------------------------------------------------------------- */

static void test_wrong_content_is_refused(void **state)
{
    struct sample x = sample_new(1, 10000), good = sample_new(2, 5000);
    struct worker_store *s = open_ok(0);
    struct err e = {0};

    (void)state;
    put_ok(s, &good, 1);
    for (size_t at = 0; at < x.bytes; at += 999) {
        x.content[at] ^= 1;
        assert_int_equal(put(s, &x, &e), ERR_MISMATCH);
        assert_false(there(s, &x));
        x.content[at] ^= 1;
    }
    assert_int_equal(worker_store_begin(s, x.hash, x.bytes, NULL), 0);
    assert_int_equal(worker_store_write(s, x.hash, 0, (struct span){x.content, x.bytes - 1}, NULL),
                     0);
    assert_int_equal(worker_store_finish(s, x.hash, &e), ERR_MISMATCH);
    assert_int_equal(worker_store_finish(s, x.hash, NULL), ERR_NOTFOUND);
    /* All failures gave their space back, and none of it is left after a restart. */
    assert_int_equal(worker_store_stats(s).disk_bytes, 2 * PAGE);
    put_ok(s, &x, 1);
    assert_int_equal(worker_store_stats(s).disk_bytes, 5 * PAGE);
    worker_store_close(s);
    s = open_ok(0);
    assert_true(there(s, &x) && there(s, &good));
    worker_store_close(s);
    samples_free(&x, 1);
    samples_free(&good, 1);
}

static void test_calls_out_of_order(void **state)
{
    struct sample x = sample_new(1, 10000);
    struct worker_store *s = open_ok(0);
    struct span all = {x.content, x.bytes}, half = {x.content, 5000},
                rest = {x.content + 5000, 5000};
    uint64_t received, total;

    (void)state;
    assert_int_equal(worker_store_write(s, x.hash, 0, all, NULL), ERR_NOTFOUND);
    assert_int_equal(worker_store_finish(s, x.hash, NULL), ERR_NOTFOUND);
    assert_int_equal(worker_store_begin(s, x.hash, 0, NULL), ERR_RANGE);
    assert_int_equal(worker_store_begin(s, x.hash, WORKER_STORE_PIECE_MAX + 1ull, NULL), ERR_RANGE);
    assert_int_equal(worker_store_begin(s, x.hash, UINT64_MAX, NULL), ERR_RANGE);
    assert_false(worker_store_receiving(s, x.hash, &received, &total));
    assert_int_equal(worker_store_begin(s, x.hash, x.bytes, NULL), 0);
    assert_int_equal(worker_store_begin(s, x.hash, x.bytes, NULL), ERR_REFUSED);
    assert_int_equal(worker_store_write(s, x.hash, 1, half, NULL), ERR_RANGE);
    assert_int_equal(worker_store_write(s, x.hash, UINT64_MAX, half, NULL), ERR_RANGE);
    assert_int_equal(worker_store_write(s, x.hash, 0, half, NULL), 0);
    assert_int_equal(worker_store_write(s, x.hash, 0, half, NULL), ERR_RANGE);
    assert_int_equal(worker_store_write(s, x.hash, 5000, all, NULL), ERR_RANGE);
    assert_int_equal(worker_store_write(s, x.hash, 5000, (struct span){NULL, 0}, NULL), 0);
    assert_true(worker_store_receiving(s, x.hash, &received, &total));
    assert_int_equal(received, 5000);
    assert_int_equal(total, 10000);
    assert_false(worker_store_has(s, x.hash));
    assert_int_equal(worker_store_write(s, x.hash, 5000, rest, NULL), 0);
    assert_int_equal(worker_store_finish(s, x.hash, NULL), 0);
    assert_int_equal(worker_store_begin(s, x.hash, x.bytes, NULL), ERR_REFUSED);
    worker_store_abandon(s, x.hash);
    assert_true(there(s, &x));
    worker_store_close(s);
    samples_free(&x, 1);
}

static void test_many_at_once(void **state)
{
    enum { N = WORKER_STORE_RECEIVING_MAX + 1 };
    struct sample x[N];
    struct worker_store *s = open_ok(0);
    struct err e = {0};

    (void)state;
    samples_new(x, N, 50, 20000);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(worker_store_begin(s, x[i].hash, x[i].bytes, &e),
                         i + 1 < N ? 0 : ERR_FULL);
    }
    for (size_t at = 0; at < 20000; at += 1000) {
        for (size_t i = 0; i + 1 < N; i++) {
            struct span part = {x[i].content + at, 1000};

            if (i % 4 != 3 || at < 7000) {
                assert_int_equal(worker_store_write(s, x[i].hash, at, part, NULL), 0);
            }
        }
    }
    for (size_t i = 0; i + 1 < N; i++) {
        if (i % 4 != 3) {
            assert_int_equal(worker_store_finish(s, x[i].hash, NULL), 0);
        }
    }
    worker_store_abandon(s, x[3].hash);
    assert_int_equal(worker_store_stats(s).n_receiving, 3);
    assert_int_equal(count_there(s, x, N), 12);
    /* Three pieces are cut off in the middle; they leave nothing. */
    crash(s);
    s = open_ok(0);
    assert_int_equal(count_there(s, x, N), 12);
    assert_int_equal(worker_store_stats(s).disk_bytes, 12 * 5 * PAGE);
    assert_int_equal(worker_store_stats(s).n_lost, 0);
    worker_store_close(s);
    samples_free(x, N);
}

/* ---- room ------------------------------------------------------------------------------------ */

static uint64_t pack_blocks(const char *name)
{
    char path[2 * PATH_BYTES];
    struct stat st;

    file_path(name, path);
    return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void test_eviction_keeps_current_pieces(void **state)
{
    enum { N = 10 };
    struct sample x[N + 2], keep[4];
    struct worker_store *s = open_ok(N * PAGE);
    struct err e = {0};

    (void)state;
    samples_new(x, N + 2, 70, PAGE);
    put_ok(s, x, N);
    assert_int_equal(put(s, &x[N], &e), ERR_FULL);
    assert_non_null(strstr(e.text, "40.0 KiB"));
    keep[0] = x[0];
    keep[1] = x[3];
    keep[2] = x[4];
    keep[3].bytes = 0;
    /* Used again: the oldest that may go are now 2, 5, 6, ... */
    assert_true(there(s, &x[1]));
    assert_int_equal(worker_store_evict(s, 0, keep_list, keep, NULL), 0);
    assert_int_equal(worker_store_stats(s).n_pieces, N);
    assert_int_equal(worker_store_evict(s, 2 * PAGE, keep_list, keep, NULL), 0);
    assert_int_equal(worker_store_stats(s).n_pieces, N - 2);
    assert_false(worker_store_has(s, x[2].hash) || worker_store_has(s, x[5].hash));
    put_ok(s, x + N, 2);
    assert_int_equal(worker_store_stats(s).disk_bytes, N * PAGE);
    /* More than can be had: nothing goes. */
    assert_int_equal(worker_store_evict(s, 8 * PAGE, keep_list, keep, &e), ERR_FULL);
    assert_non_null(strstr(e.text, "28.0 KiB"));
    assert_int_equal(worker_store_evict(s, UINT64_MAX, keep_list, keep, &e), ERR_FULL);
    assert_int_equal(worker_store_stats(s).n_pieces, N);
    assert_int_equal(worker_store_evict(s, 7 * PAGE, keep_list, keep, &e), 0);
    assert_int_equal(worker_store_stats(s).n_pieces, 3);
    crash(s);
    s = open_ok(2 * PAGE);
    assert_true(there(s, &x[0]) && there(s, &x[3]) && there(s, &x[4]));
    assert_int_equal(worker_store_stats(s).n_pieces, 3);
    /* The limit was lowered: what is there stays until somebody asks. */
    assert_int_equal(put(s, &x[1], NULL), ERR_FULL);
    keep[2].bytes = 0;
    assert_int_equal(worker_store_evict(s, 0, keep_list, keep, NULL), 0);
    assert_int_equal(worker_store_stats(s).n_pieces, 2);
    worker_store_close(s);
    samples_free(x, N + 2);
}

static void test_eviction_gives_space_back(void **state)
{
    enum { N = 4 };
    struct sample x[N + 1], keep[2];
    struct worker_store *s = open_ok(100 * PAGE);
    struct span all;
    uint64_t before;

    (void)state;
    samples_new(x, N, 80, 25 * PAGE);
    x[N].bytes = 0;
    put_ok(s, x, N);
    assert_int_equal(worker_store_sync(s, NULL), 0);
    before = pack_blocks("pack-00000001");
    assert_int_equal(worker_store_evict(s, 25 * PAGE, keep_list, x + 1, NULL), 0);
    assert_false(worker_store_has(s, x[0].hash));
    /* A piece that is given up leaves nothing behind either. */
    assert_int_equal(worker_store_begin(s, x[0].hash, x[0].bytes, NULL), 0);
    all = (struct span){x[0].content, x[0].bytes};
    assert_int_equal(worker_store_write(s, x[0].hash, 0, all, NULL), 0);
    worker_store_abandon(s, x[0].hash);
    assert_true(pack_blocks("pack-00000001") + 20 * PAGE <= before);
    keep[0] = x[3];
    keep[1].bytes = 0;
    assert_int_equal(worker_store_evict(s, 75 * PAGE, keep_list, keep, NULL), 0);
    assert_true(pack_blocks("pack-00000001") + 70 * PAGE <= before);
    assert_true(there(s, &x[3]));
    /* With its last piece the file goes. */
    assert_int_equal(worker_store_evict(s, 100 * PAGE, keep_list, keep + 1, NULL), 0);
    assert_false(file_there("pack-00000001"));
    put_ok(s, x, N);
    assert_true(file_there("pack-00000002"));
    worker_store_close(s);
    samples_free(x, N);
}

static void test_space_lost_in_a_crash_comes_back(void **state)
{
    enum { N = 4 };
    struct sample x[N], keep[3];
    struct worker_store *s = open_ok(100 * PAGE);

    (void)state;
    samples_new(x, N, 90, 25 * PAGE);
    put_ok(s, x, N);
    assert_int_equal(worker_store_sync(s, NULL), 0);
    keep[0] = x[0];
    keep[1] = x[2];
    keep[2].bytes = 0;
    /* The removals are in the index, and then no hole is punched. */
    disk.no_punch = true;
    assert_int_equal(worker_store_evict(s, 25 * PAGE, keep_list, keep, NULL), 0);
    disk.no_punch = false;
    assert_int_equal(worker_store_stats(s).disk_bytes, 100 * PAGE);
    crash(s);
    assert_true(pack_blocks("pack-00000001") >= 75 * PAGE);
    file_put("pack-00000007", x[0].content, x[0].bytes);
    file_put("index.AbCdEf", x[0].content, 100);
    file_put("mine", x[0].content, 100);
    s = open_ok(100 * PAGE);
    assert_false(file_there("pack-00000007") || file_there("index.AbCdEf"));
    assert_true(file_there("mine"));
    assert_int_equal(worker_store_stats(s).n_pieces, 3);
    assert_true(pack_blocks("pack-00000001") <= 80 * PAGE);
    assert_true(there(s, &x[0]) && there(s, &x[2]));
    worker_store_close(s);
    samples_free(x, N);
}

static void test_a_disk_without_holes(void **state)
{
    enum { N = 9 };
    const uint64_t limit = (uint64_t)WORKER_STORE_PACK_BYTES * 3;
    struct sample x[N], keep[2];
    struct worker_store *s;

    (void)state;
    disk.no_punch = true;
    s = open_ok(limit);
    /* Three pieces fill a pack. */
    samples_new(x, N, 300, WORKER_STORE_PACK_BYTES / 3 / PAGE * PAGE);
    put_ok(s, x, 7);
    assert_int_equal(worker_store_stats(s).n_packs, 3);
    keep[0] = x[1];
    keep[1].bytes = 0;
    /* x[0] is the oldest, but its pack has to stay; x[3] was used after x[6]. */
    assert_true(there(s, &x[3]));
    assert_int_equal(
        worker_store_evict(s, 3 * worker_store_room(x[0].bytes), keep_list, keep, NULL), 0);
    assert_int_equal(worker_store_stats(s).n_pieces, 6);
    assert_false(worker_store_has(s, x[6].hash));
    assert_false(file_there("pack-00000003"));
    assert_int_equal(worker_store_evict(s, limit, keep_list, keep, NULL), ERR_FULL);
    assert_int_equal(worker_store_stats(s).n_pieces, 6);
    put_ok(s, &x[6], 3);
    assert_int_equal(worker_store_evict(s, limit * 2 / 3, keep_list, keep, NULL), 0);
    assert_int_equal(worker_store_stats(s).n_pieces, 3);
    assert_true(there(s, &x[0]) && there(s, &x[1]) && there(s, &x[2]));
    worker_store_close(s);
    samples_free(x, N);
}

static long index_bytes(void)
{
    char path[2 * PATH_BYTES];
    struct stat st;

    file_path("index", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    return (long)st.st_size;
}

static void test_the_index_is_written_anew(void **state)
{
    struct sample x = sample_new(5, 100), y = sample_new(6, 100), none = {.bytes = 0};
    struct worker_store *s = open_ok(2 * PAGE);

    (void)state;
    for (long before = 0; before <= index_bytes();) {
        assert_int_equal(worker_store_evict(s, 2 * PAGE, keep_list, &none, NULL), 0);
        put_ok(s, &x, 1);
        put_ok(s, &y, 1);
        assert_true(there(s, &x));
        before = index_bytes();
        assert_true(before < 2000 * RECORD);
        assert_int_equal(worker_store_sync(s, NULL), 0);
    }
    assert_int_equal(index_bytes(), 3 * RECORD);
    /* It remembers that x was used after y, and records go on into the new file. */
    worker_store_close(s);
    s = open_ok(2 * PAGE);
    assert_int_equal(worker_store_evict(s, PAGE, keep_list, &none, NULL), 0);
    assert_true(there(s, &x));
    assert_false(there(s, &y));
    put_ok(s, &y, 1);
    worker_store_close(s);
    s = open_ok(2 * PAGE);
    assert_true(there(s, &x) && there(s, &y));
    worker_store_close(s);
    samples_free(&x, 1);
    samples_free(&y, 1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_what_goes_in_comes_out),
        TEST(test_nothing_around_a_piece_is_read_with_it),
        TEST(test_large_pages_where_there_are_any),
        TEST(test_pointers_stay_while_packs_fill),
        TEST(test_a_second_process_is_refused),
        TEST(test_folders),
        TEST(test_wrong_content_is_refused),
        TEST(test_calls_out_of_order),
        TEST(test_many_at_once),
        TEST(test_eviction_keeps_current_pieces),
        TEST(test_eviction_gives_space_back),
        TEST(test_space_lost_in_a_crash_comes_back),
        TEST(test_a_disk_without_holes),
        TEST(test_the_index_is_written_anew),
    };

    base_log_init("test_store", BASE_LOG_ERROR);
    if (net_init(NULL) != 0) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
