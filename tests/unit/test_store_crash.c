/* The piece store when things go wrong: processes die, the power fails, bits turn, disks are full,
 * memory runs out; and a long random life with all of that, beside a model of what has to be there.
 * */
#include "tests/unit/store_fixture.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- crashes and damage ---------------------------------------------------------------------- */

/* A history with everything in it: x[0] and x[1] stay, x[2] was removed from between, x[3] from the
 * end and x[4] took its place, x[5] came after the last sync. Killed at the end. */
enum { HISTORY = 6 };
static void history_make(struct sample *x)
{
    struct worker_store *s = open_ok(16 * PAGE);
    struct sample keep[3];

    samples_new(x, HISTORY, 1000, 3 * PAGE - 7);
    put_ok(s, x, 1);
    put_ok(s, x + 2, 1);
    put_ok(s, x + 1, 1);
    put_ok(s, x + 3, 1);
    keep[0] = x[0];
    keep[1] = x[1];
    keep[2].bytes = 0;
    assert_int_equal(worker_store_sync(s, NULL), 0);
    assert_int_equal(worker_store_evict(s, 10 * PAGE, keep_list, keep, NULL), 0);
    assert_int_equal(worker_store_stats(s).n_pieces, 2);
    put_ok(s, x + 4, 1);
    assert_int_equal(worker_store_sync(s, NULL), 0);
    put_ok(s, x + 5, 1);
    crash(s);
}

static void test_a_killed_process_loses_no_piece(void **state)
{
    struct sample x[HISTORY];
    struct worker_store *s;

    (void)state;
    history_make(x);
    s = open_ok(0);
    assert_int_equal(worker_store_stats(s).n_pieces, 4);
    assert_int_equal(worker_store_stats(s).disk_bytes, 12 * PAGE);
    assert_true(there(s, &x[0]) && there(s, &x[1]) && there(s, &x[4]) && there(s, &x[5]));
    crash(s);
    samples_free(x, HISTORY);
}

static void test_a_power_cut_before_the_sync(void **state)
{
    struct sample x[HISTORY];
    struct worker_store *s;
    char pack[16];
    long at;

    (void)state;
    history_make(x);
    /* The record of x[5] reached the disk, its last bytes did not. */
    at = locate(&x[5], pack);
    file_flip(pack, at + (long)x[5].bytes - 1);
    s = open_ok(0);
    assert_int_equal(worker_store_stats(s).n_lost, 1);
    assert_int_equal(worker_store_stats(s).n_pieces, 3);
    assert_false(there(s, &x[5]));
    put_ok(s, &x[5], 1);
    worker_store_close(s);
    s = open_ok(0);
    assert_int_equal(worker_store_stats(s).n_lost, 0);
    assert_int_equal(worker_store_stats(s).n_pieces, 4);
    worker_store_close(s);
    samples_free(x, HISTORY);
}

static void test_the_index_cut_at_every_byte(void **state)
{
    enum { N = 4 };
    struct sample x[N];
    struct worker_store *s = open_ok(0);
    uint8_t *index, *pack;
    size_t index_bytes, pack_bytes;

    (void)state;
    samples_new(x, N, 20, 5000);
    put_ok(s, x, 2);
    assert_int_equal(worker_store_sync(s, NULL), 0);
    put_ok(s, x + 2, 2);
    crash(s);
    index = file_get("index", &index_bytes);
    pack = file_get("pack-00000001", &pack_bytes);
    assert_int_equal(index_bytes, 5 * RECORD);
    for (size_t cut = 0; cut <= index_bytes; cut++) {
        /* Records: two pieces, the checkpoint, two pieces. */
        size_t whole = cut / RECORD, expected = whole <= 2 ? whole : whole - 1;

        file_put("index", index, cut);
        file_put("pack-00000001", pack, pack_bytes);
        s = open_ok(0);
        assert_int_equal(count_there(s, x, expected), expected);
        assert_int_equal(worker_store_stats(s).n_pieces, expected);
        assert_int_equal(worker_store_stats(s).n_lost, cut % RECORD != 0);
        put_ok(s, x + expected, N - expected);
        worker_store_close(s);
        s = open_ok(0);
        assert_int_equal(count_there(s, x, N), N);
        assert_int_equal(worker_store_stats(s).n_lost, 0);
        worker_store_close(s);
    }
    base_free(index);
    base_free(pack);
    samples_free(x, N);
}

static void test_the_index_lengthened_by_zeros(void **state)
{
    struct sample x[2];
    struct worker_store *s = open_ok(0);
    uint8_t *index, longer[1024] = {0};
    char pack[16];
    size_t n;
    long at;

    (void)state;
    samples_new(x, 2, 30, 100);
    put_ok(s, x, 2);
    worker_store_close(s);
    index = file_get("index", &n);
    memcpy(longer, index, n);
    file_put("index", longer, n + RECORD + 10);
    at = locate(&x[1], pack);
    file_flip(pack, at);
    s = open_ok(0);
    /* That is no damage: nothing is hashed again, so the piece that rotted is not found out. */
    assert_true(there(s, &x[0]));
    assert_true(worker_store_has(s, x[1].hash));
    worker_store_close(s);
    s = open_ok(0);
    assert_int_equal(worker_store_stats(s).n_lost, 0);
    worker_store_close(s);
    base_free(index);
    samples_free(x, 2);
}

static void test_every_byte_of_the_index_damaged(void **state)
{
    struct sample x[HISTORY];
    uint8_t *index, *pack;
    size_t index_bytes, pack_bytes;

    (void)state;
    history_make(x);
    index = file_get("index", &index_bytes);
    pack = file_get("pack-00000001", &pack_bytes);
    for (size_t at = 0; at < index_bytes; at++) {
        struct worker_store *s;

        index[at] ^= 0x10;
        file_put("index", index, index_bytes);
        index[at] ^= 0x10;
        file_put("pack-00000001", pack, pack_bytes);
        s = open_ok(0);
        assert_true(worker_store_stats(s).n_lost >= 1);
        /* One record is gone: at most its piece is, and nothing is there that is not right. What
         * had been removed may be back only if its bytes still are. */
        assert_true(count_there(s, x, HISTORY) >= 3);
        worker_store_close(s);
        s = open_ok(0);
        assert_int_equal(worker_store_stats(s).n_lost, 0);
        assert_true(count_there(s, x, HISTORY) >= 3);
        worker_store_close(s);
    }
    base_free(index);
    base_free(pack);
    samples_free(x, HISTORY);
}

/* Change a number of a record and make its checksum right. */
static void index_lie(uint8_t *record, size_t field, uint32_t value)
{
    uint8_t sum[16];

    for (size_t i = 0; i < 4; i++) {
        record[field + i] = (uint8_t)(value >> 8 * i);
    }
    net_hash16((struct span){record, RECORD - 8}, sum);
    memcpy(record + RECORD - 8, sum, 8);
}

static void test_records_that_lie(void **state)
{
    enum {
        KIND = 4,
        PACK = 40,
        OFFSET = 44,
        BYTES = 48,
        LONG = WORKER_STORE_PACK_BYTES + 8 * PAGE
    };
    static const struct {
        unsigned of; /* the piece whose record lies */
        size_t field;
        uint32_t value;
        off_t pack_bytes; /* length of the pack file, 0: as it is */
    } lies[] = {
        {0, KIND, 0, 0},
        {0, KIND, 4, 0},
        {0, PACK, 2, 0},
        {0, PACK, UINT32_MAX, 0},
        {0, OFFSET, 1, 0},
        {1, OFFSET, 2 * PAGE + 1, LONG},
        {0, OFFSET, 2 * PAGE, 0}, /* where x[1] lies, which came later */
        {0, OFFSET, 3 * PAGE, 0},
        {1, OFFSET, PAGE, 0}, /* where x[0] lies, too: now that came earlier */
        {0, OFFSET, 4 * PAGE, 0},
        {0, OFFSET, WORKER_STORE_PACK_BYTES - PAGE, LONG},
        {0, OFFSET, WORKER_STORE_PACK_BYTES, LONG},
        {0, OFFSET, UINT32_MAX - PAGE + 1, LONG},
        {0, BYTES, 0, 0},
        {0, BYTES, 2 * PAGE + 1, 0}, /* reaches into x[1] */
        {0, BYTES, WORKER_STORE_PIECE_MAX, 0},
        {0, BYTES, WORKER_STORE_PIECE_MAX + 1u, LONG},
        {0, BYTES, UINT32_MAX, LONG},
    };
    struct sample x[2];
    struct worker_store *s = open_ok(0);
    uint8_t *index, *pack, lying[1024];
    size_t index_bytes, pack_bytes;
    char path[2 * PATH_BYTES];

    (void)state;
    samples_new(x, 2, 45, 2 * PAGE);
    put_ok(s, x, 2);
    worker_store_close(s);
    index = file_get("index", &index_bytes);
    pack = file_get("pack-00000001", &pack_bytes);
    file_path("pack-00000001", path);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        memcpy(lying, index, index_bytes);
        index_lie(lying + lies[i].of * RECORD, lies[i].field, lies[i].value);
        file_put("index", lying, index_bytes);
        file_put("pack-00000001", pack, pack_bytes);
        if (lies[i].pack_bytes != 0) {
            assert_int_equal(truncate(path, lies[i].pack_bytes), 0);
        }
        s = open_ok(0);
        assert_int_equal(worker_store_stats(s).n_lost, 1);
        /* Of two that overlap the later is believed; that its content is wrong is for verify to
         * find. */
        assert_int_equal(worker_store_stats(s).n_pieces, 1);
        assert_int_equal(worker_store_has(s, x[0].hash), lies[i].of == 1 && lies[i].value != PAGE);
        put_ok(s, worker_store_has(s, x[0].hash) ? &x[1] : &x[0], 1);
        worker_store_close(s);
        s = open_ok(0);
        assert_int_equal(worker_store_stats(s).n_lost, 0);
        assert_int_equal(worker_store_stats(s).n_pieces, 2);
        assert_true(lies[i].value == PAGE || count_there(s, x, 2) == 2);
        worker_store_close(s);
    }
    base_free(index);
    base_free(pack);
    samples_free(x, 2);
}

static void test_a_piece_that_came_twice(void **state)
{
    struct sample x[2], keep[2];
    struct worker_store *s = open_ok(2 * PAGE);

    (void)state;
    samples_new(x, 2, 48, 100);
    keep[0] = x[1];
    keep[1].bytes = 0;
    put_ok(s, x, 2);
    assert_int_equal(worker_store_evict(s, PAGE, keep_list, keep, NULL), 0);
    put_ok(s, x, 1);
    worker_store_close(s);
    /* Without the record of its removal, which is the third, it seems to have come again. */
    file_flip("index", 2 * RECORD + 20);
    s = open_ok(2 * PAGE);
    assert_int_equal(worker_store_stats(s).n_lost, 1);
    assert_int_equal(worker_store_stats(s).n_pieces, 2);
    assert_int_equal(worker_store_stats(s).disk_bytes, 2 * PAGE);
    assert_int_equal(count_there(s, x, 2), 2);
    worker_store_close(s);
    samples_free(x, 2);
}

static void test_a_pack_cut_short(void **state)
{
    enum { N = 4 };
    struct sample x[N];
    struct worker_store *s = open_ok(0);
    uint8_t *index, *pack;
    size_t index_bytes, pack_bytes;

    (void)state;
    samples_new(x, N, 40, 2 * PAGE);
    put_ok(s, x, N);
    worker_store_close(s);
    index = file_get("index", &index_bytes);
    pack = file_get("pack-00000001", &pack_bytes);
    for (size_t cut = 0; cut <= pack_bytes; cut += cut % PAGE == 0 ? 1 : PAGE - 2) {
        size_t whole = cut / (2 * PAGE);

        file_put("index", index, index_bytes);
        file_put("pack-00000001", pack, cut);
        s = open_ok(0);
        assert_int_equal(worker_store_stats(s).n_pieces, whole);
        assert_int_equal(count_there(s, x, N), whole);
        put_ok(s, x + whole, N - whole);
        assert_int_equal(count_there(s, x, N), N);
        worker_store_close(s);
    }
    {
        char path[2 * PATH_BYTES];

        file_put("index", index, index_bytes);
        file_path("pack-00000001", path);
        assert_int_equal(unlink(path), 0);
        s = open_ok(0);
        assert_int_equal(worker_store_stats(s).n_pieces, 0);
        worker_store_close(s);
    }
    base_free(index);
    base_free(pack);
    samples_free(x, N);
}

static unsigned n_progress;
static void progress_rises(void *arg, uint64_t done, uint64_t total)
{
    uint64_t *last = arg;

    assert_true(done > *last && done <= total);
    *last = done;
    n_progress++;
}

static void test_verify_finds_what_rotted(void **state)
{
    enum { N = 5 };
    struct sample x[N];
    struct worker_store *s = open_ok(0);
    struct worker_store_report r;
    char pack[16];
    uint64_t last = 0;

    (void)state;
    samples_new(x, N, 60, 150000);
    put_ok(s, x, N);
    worker_store_close(s);
    file_flip(pack, locate(&x[1], pack) + 149999);
    file_flip(pack, locate(&x[3], pack));
    s = open_ok(0);
    assert_int_equal(worker_store_stats(s).n_pieces, N);
    n_progress = 0;
    assert_int_equal(worker_store_verify(s, progress_rises, &last, &r, NULL), 0);
    assert_int_equal(n_progress, N);
    assert_int_equal(last, N * 150000);
    assert_int_equal(r.n_pieces, N);
    assert_int_equal(r.bytes, N * 150000);
    assert_int_equal(r.n_bad, 2);
    assert_int_equal(r.bad_bytes, 300000);
    assert_true(there(s, &x[0]) && there(s, &x[2]) && there(s, &x[4]));
    assert_false(there(s, &x[1]) || there(s, &x[3]));
    crash(s);
    s = open_ok(0);
    assert_int_equal(count_there(s, x, N), 3);
    put_ok(s, &x[1], 1);
    assert_int_equal(worker_store_verify(s, NULL, NULL, &r, NULL), 0);
    assert_int_equal(r.n_pieces, 4);
    assert_int_equal(r.n_bad, 0);
    worker_store_close(s);
    samples_free(x, N);
}

/* ---- a disk that fails ----------------------------------------------------------------------- */

static void test_every_write_fails_once(void **state)
{
    enum { N = 3 };
    struct sample x[N], first = sample_new(400, 9000);
    bool again = true;

    (void)state;
    samples_new(x, N, 410, 7000);
    for (unsigned n = 1; again; n++) {
        struct worker_store *s = open_ok(0);
        struct err e = {0};
        size_t stored = 0;

        put_ok(s, &first, 1);
        disk.fail_pwrite = n / 2 + 1;
        disk.half_write = n % 2 == 0;
        for (size_t i = 0; i < N; i++) {
            int rc = put(s, &x[i], &e);

            assert_true(rc == 0 || rc == ERR_FULL);
            assert_int_equal(there(s, &x[i]), rc == 0);
            stored += rc == 0;
        }
        again = stored < N;
        assert_true(stored >= N - 1);
        disk.fail_pwrite = 0;
        disk.half_write = false;
        if (again) {
            assert_non_null(strstr(e.text, "No space left"));
        }
        assert_int_equal(worker_store_stats(s).disk_bytes, (3 + 2 * stored) * PAGE);
        for (size_t i = 0; i < N; i++) {
            if (!worker_store_has(s, x[i].hash)) {
                put_ok(s, &x[i], 1);
            }
        }
        crash(s);
        s = open_ok(0);
        assert_int_equal(worker_store_stats(s).n_lost, 0);
        assert_int_equal(count_there(s, x, N), N);
        assert_true(there(s, &first));
        worker_store_close(s);
        clear_folder(dir);
    }
    samples_free(x, N);
    samples_free(&first, 1);
}

static void test_removals_that_cannot_be_written(void **state)
{
    enum { N = 6 };
    struct sample x[N], none = {.bytes = 0};
    struct worker_store *s = open_ok(N * PAGE);

    (void)state;
    samples_new(x, N, 420, PAGE);
    put_ok(s, x, N - 1);
    disk.fail_pwrite = 1;
    disk.half_write = true;
    /* Of four records two reach the disk. */
    assert_int_equal(worker_store_evict(s, 5 * PAGE, keep_list, &none, NULL), ERR_FULL);
    disk.fail_pwrite = 0;
    assert_int_equal(count_there(s, x, N - 1), N - 1);
    put_ok(s, &x[N - 1], 1);
    crash(s);
    /* No half of the removals may have stayed in the index behind the record that came after. */
    s = open_ok(0);
    assert_int_equal(count_there(s, x, N), N);
    worker_store_close(s);
    samples_free(x, N);
}

static void test_a_sync_that_fails(void **state)
{
    struct sample x[2];
    struct worker_store *s = open_ok(0);
    char pack[16];

    (void)state;
    samples_new(x, 2, 430, 6000);
    put_ok(s, x, 1);
    disk.sync_fails = true;
    assert_int_equal(worker_store_sync(s, NULL), ERR_IO);
    disk.sync_fails = false;
    /* The kernel would now say yes to data that it threw away. */
    assert_int_equal(worker_store_sync(s, NULL), ERR_IO);
    put_ok(s, x + 1, 1);
    assert_int_equal(count_there(s, x, 2), 2);
    worker_store_close(s);
    file_flip(pack, locate(&x[0], pack) + 100);
    s = open_ok(0);
    assert_false(there(s, &x[0]));
    assert_true(there(s, &x[1]));
    assert_int_equal(worker_store_sync(s, NULL), 0);
    worker_store_close(s);
    samples_free(x, 2);
}

/* Everything the store does, once; true where all of it worked. */
static bool whole_life(const struct sample *x, size_t n)
{
    struct worker_store *s = NULL;
    struct worker_store_report r;
    struct sample keep[2] = {x[0], {.bytes = 0}};
    const void *ptr;
    size_t bytes;
    bool ok = worker_store_open(dir, (n + 1) * PAGE, &s, NULL) == 0;

    if (!ok) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        struct err e = {0};

        if (!worker_store_has(s, x[i].hash)) {
            int rc = put(s, &x[i], &e);

            assert_true(rc == 0 || rc == ERR_NOMEM);
            ok &= rc == 0;
        }
    }
    ok &= worker_store_sync(s, NULL) == 0;
    ok &= worker_store_map(s, x[n - 1].hash, &ptr, &bytes, NULL) == 0;
    ok &= worker_store_verify(s, NULL, NULL, &r, NULL) == 0 && r.n_bad == 0;
    ok &= worker_store_evict(s, 2 * PAGE, keep_list, keep, NULL) == 0;
    worker_store_close(s);
    return ok;
}

static void test_every_allocation_fails_once(void **state)
{
    enum { N = 60 }; /* more than the table's first size holds */
    struct sample x[N];
    bool done = false;

    (void)state;
    samples_new(x, N, 500, 50);
    for (uint64_t n = 1; !done; n++) {
        struct worker_store *s;

        base_alloc_fail_nth(n);
        done = whole_life(x, N);
        base_alloc_fail_nth(0);
        assert_int_equal(base_alloc_live(), live_before);
        s = open_ok(0);
        assert_int_equal(worker_store_stats(s).n_lost, 0);
        (void)count_there(s, x, N);
        crash(s);
        if (n % 2 == 0) {
            clear_folder(dir);
        }
        assert_true(n < 500);
    }
    samples_free(x, N);
}

/* ---- a long random life ---------------------------------------------------------------------- */

enum { POOL = 60, STEPS = 2000 };
static struct {
    struct sample x;
    bool stored, synced, keep;
    uint64_t use;
    bool begun;
    size_t sent;
} pool[POOL];
static uint64_t model_clock;

static uint64_t model_disk(void)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < POOL; i++) {
        sum += pool[i].stored || pool[i].begun ? worker_store_room(pool[i].x.bytes) : 0;
    }
    return sum;
}

static void model_check(struct worker_store *s)
{
    uint64_t n = 0, bytes = 0;

    for (size_t i = 0; i < POOL; i++) {
        assert_int_equal(worker_store_has(s, pool[i].x.hash), pool[i].stored);
        n += pool[i].stored;
        bytes += pool[i].stored ? pool[i].x.bytes : 0;
    }
    assert_int_equal(worker_store_stats(s).n_pieces, n);
    assert_int_equal(worker_store_stats(s).piece_bytes, bytes);
    assert_int_equal(worker_store_stats(s).disk_bytes, model_disk());
}

static bool model_keep(void *arg, const uint8_t hash[static NET_HASH_BYTES])
{
    (void)arg;
    for (size_t i = 0; i < POOL; i++) {
        if (memcmp(pool[i].x.hash, hash, NET_HASH_BYTES) == 0) {
            return pool[i].keep;
        }
    }
    fail_msg("the store asks for a piece that it never got");
    return true;
}

static void model_begin(struct worker_store *s, size_t i, uint64_t limit)
{
    size_t n_begun = 0;
    uint64_t room = worker_store_room(pool[i].x.bytes);
    int rc = worker_store_begin(s, pool[i].x.hash, pool[i].x.bytes, NULL);

    for (size_t j = 0; j < POOL; j++) {
        n_begun += pool[j].begun;
    }
    if (pool[i].begun || pool[i].stored) {
        assert_int_equal(rc, ERR_REFUSED);
    } else if (n_begun == WORKER_STORE_RECEIVING_MAX || model_disk() + room > limit) {
        assert_int_equal(rc, ERR_FULL);
    } else {
        assert_int_equal(rc, 0);
        pool[i].begun = true;
        pool[i].sent = 0;
    }
}

/* Send the next part of piece i, and finish where it was the last one; `spoil` changes a byte. */
static void model_send(struct worker_store *s, size_t i, size_t part, bool spoil)
{
    uint8_t bytes[8192];
    size_t n = pool[i].x.bytes - pool[i].sent;

    n = n < part ? n : part;
    memcpy(bytes, pool[i].x.content + pool[i].sent, n);
    bytes[0] ^= spoil && n > 0;
    assert_int_equal(
        worker_store_write(s, pool[i].x.hash, pool[i].sent, (struct span){bytes, n}, NULL),
        pool[i].begun ? 0 : ERR_NOTFOUND);
    if (!pool[i].begun) {
        return;
    }
    pool[i].sent += n;
    if (spoil || pool[i].sent == pool[i].x.bytes) {
        int rc = worker_store_finish(s, pool[i].x.hash, NULL);

        assert_int_equal(rc, spoil ? ERR_MISMATCH : 0);
        pool[i].begun = false;
        pool[i].stored = rc == 0;
        pool[i].synced = false;
        pool[i].use = rc == 0 ? ++model_clock : 0;
    }
}

static void model_evict(struct worker_store *s, uint64_t need, uint64_t limit)
{
    uint64_t can = 0, wanted = model_disk() + need;

    for (size_t i = 0; i < POOL; i++) {
        can += pool[i].stored && !pool[i].keep ? worker_store_room(pool[i].x.bytes) : 0;
    }
    if (wanted > limit && wanted - limit > can) {
        assert_int_equal(worker_store_evict(s, need, model_keep, NULL, NULL), ERR_FULL);
        return;
    }
    assert_int_equal(worker_store_evict(s, need, model_keep, NULL, NULL), 0);
    while (model_disk() + need > limit) {
        size_t oldest = POOL;

        for (size_t i = 0; i < POOL; i++) {
            if (pool[i].stored && !pool[i].keep &&
                (oldest == POOL || pool[i].use < pool[oldest].use)) {
                oldest = i;
            }
        }
        pool[oldest].stored = false;
    }
}

/* Stop, by a close or a crash, perhaps with the data of a piece that was never synced lost; start
 * again. The order of uses survives only as that of the index, so the model takes it up anew. */
static struct worker_store *model_restart(struct worker_store *s, uint64_t *seed, uint64_t limit)
{
    bool crashes = base_rng_next(seed) % 2 == 0;
    struct worker_store_piece p;
    uint64_t cursor = 0;

    if (crashes) {
        crash(s);
    } else {
        worker_store_close(s);
    }
    for (size_t i = 0; i < POOL; i++) {
        pool[i].begun = false;
        if (crashes && pool[i].stored && !pool[i].synced && base_rng_next(seed) % 4 == 0) {
            char pack[16];
            long at = locate(&pool[i].x, pack);

            file_flip(pack, at + (long)(base_rng_next(seed) % pool[i].x.bytes));
            pool[i].stored = false;
        }
        pool[i].synced = pool[i].stored;
    }
    s = open_ok(limit);
    while (worker_store_next(s, &cursor, &p)) {
        for (size_t i = 0; i < POOL; i++) {
            if (memcmp(pool[i].x.hash, p.hash, NET_HASH_BYTES) == 0) {
                assert_true(content_right(s, &pool[i].x));
                pool[i].use = ++model_clock;
            }
        }
    }
    return s;
}

static struct worker_store *model_step(struct worker_store *s, uint64_t *seed, uint64_t limit)
{
    size_t i = base_rng_next(seed) % POOL;
    uint64_t what = base_rng_next(seed) % 100;

    if (what < 25) {
        model_begin(s, i, limit);
    } else if (what < 60) {
        for (size_t j = 0; j < POOL && !pool[i].begun; j++) {
            i = (i + 1) % POOL;
        }
        model_send(s, i, 1 + base_rng_next(seed) % 8192, base_rng_next(seed) % 20 == 0);
    } else if (what < 64) {
        worker_store_abandon(s, pool[i].x.hash);
        pool[i].begun = false;
    } else if (what < 78) {
        if (pool[i].stored) {
            assert_true(content_right(s, &pool[i].x));
            pool[i].use = ++model_clock;
        }
    } else if (what < 84) {
        pool[i].keep = !pool[i].keep;
    } else if (what < 92) {
        model_evict(s, base_rng_next(seed) % 16 * PAGE, limit);
    } else if (what < 95) {
        assert_int_equal(worker_store_sync(s, NULL), 0);
        for (size_t j = 0; j < POOL; j++) {
            pool[j].synced = pool[j].stored;
        }
    } else if (what < 97) {
        struct worker_store_report r;

        assert_int_equal(worker_store_verify(s, NULL, NULL, &r, NULL), 0);
        assert_int_equal(r.n_bad, 0);
    } else {
        s = model_restart(s, seed, limit);
    }
    return s;
}

static void test_a_long_random_life(void **state)
{
    const uint64_t limit = 60 * PAGE;
    uint64_t seed = 12345, content = 1;
    struct worker_store *s = open_ok(limit);

    (void)state;
    memset(pool, 0, sizeof pool);
    for (size_t i = 0; i < POOL; i++) {
        pool[i].x = sample_new(content++, 1 + base_rng_next(&seed) % 20000);
    }
    for (unsigned step = 0; step < STEPS; step++) {
        s = model_step(s, &seed, limit);
        model_check(s);
    }
    worker_store_close(s);
    for (size_t i = 0; i < POOL; i++) {
        samples_free(&pool[i].x, 1);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_a_killed_process_loses_no_piece), TEST(test_a_power_cut_before_the_sync),
        TEST(test_the_index_cut_at_every_byte),     TEST(test_the_index_lengthened_by_zeros),
        TEST(test_every_byte_of_the_index_damaged), TEST(test_records_that_lie),
        TEST(test_a_piece_that_came_twice),         TEST(test_a_pack_cut_short),
        TEST(test_verify_finds_what_rotted),        TEST(test_every_write_fails_once),
        TEST(test_removals_that_cannot_be_written), TEST(test_a_sync_that_fails),
        TEST(test_every_allocation_fails_once),     TEST(test_a_long_random_life),
    };

    base_log_init("test_store_crash", BASE_LOG_ERROR);
    if (net_init(NULL) != 0) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
