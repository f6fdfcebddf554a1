/* The store's test bench: a disk that fails to order, folders that go away again, pieces of noise.
 *
 * The calls through which the store changes its disk are taken over by functions of the same name:
 * the linker prefers the ones of the program to those of libc. */
#define _GNU_SOURCE /* fallocate, RTLD_NEXT */
#include "tests/unit/store_fixture.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a disk that can be told to fail --------------------------------------------------------- */

struct fake_disk disk;

/* The function of libc behind ours; its name has a 64 where off_t is longer than long. */
static void real_function(const char *name, bool has_offset, void *fn_out)
{
    char full[32];
    void *fn;

    (void)snprintf(full, sizeof full, "%s%s", name,
                   has_offset && sizeof(off_t) > sizeof(long) ? "64" : "");
    fn = dlsym(RTLD_NEXT, full);
    assert_non_null(fn);
    memcpy(fn_out, &fn, sizeof fn);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    ssize_t (*real)(int, const void *, size_t, off_t);

    real_function("pwrite", true, &real);
    if (disk.killed) {
        errno = EIO;
        return -1;
    }
    if (disk.fail_pwrite > 0 && --disk.fail_pwrite == 0) {
        if (disk.half_write && n > 1) {
            disk.fail_pwrite = 1; /* the rest fails */
            disk.half_write = false;
            return real(fd, bytes, n / 2, at);
        }
        errno = ENOSPC;
        return -1;
    }
    return real(fd, bytes, n, at);
}

int fdatasync(int fd)
{
    int (*real)(int);

    real_function("fdatasync", false, &real);
    if (disk.killed || disk.sync_fails) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int ftruncate(int fd, off_t length)
{
    int (*real)(int, off_t);

    real_function("ftruncate", true, &real);
    if (disk.killed) {
        errno = EIO;
        return -1;
    }
    return real(fd, length);
}

int fallocate(int fd, int mode, off_t at, off_t length)
{
    int (*real)(int, int, off_t, off_t);

    real_function("fallocate", true, &real);
    if (disk.killed || disk.no_punch) {
        errno = disk.killed ? EIO : EOPNOTSUPP;
        return -1;
    }
    return real(fd, mode, at, length);
}

int unlinkat(int fd, const char *name, int flags)
{
    int (*real)(int, const char *, int);

    real_function("unlinkat", false, &real);
    if (disk.killed) {
        errno = EIO;
        return -1;
    }
    return real(fd, name, flags);
}

/* ---- folders and files ----------------------------------------------------------------------- */

char dir[PATH_BYTES + 8];
int64_t live_before;
static char top[PATH_BYTES];

void clear_folder(const char *path)
{
    DIR *d = opendir(path);
    const struct dirent *x;

    while (d != NULL && (x = readdir(d)) != NULL) {
        char file[2 * PATH_BYTES + 64];

        (void)snprintf(file, sizeof file, "%s/%s", path, x->d_name);
        if (x->d_name[0] != '.') {
            (void)unlink(file);
        }
    }
    if (d != NULL) {
        (void)closedir(d);
    }
    (void)rmdir(path);
}

int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    memset(&disk, 0, sizeof disk);
    (void)snprintf(top, sizeof top, "%s/shoal-store-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(top));
    (void)snprintf(dir, sizeof dir, "%s/store", top);
    live_before = base_alloc_live();
    return 0;
}

int tear_down(void **state)
{
    (void)state;
    base_alloc_fail_nth(0);
    memset(&disk, 0, sizeof disk);
    clear_folder(dir);
    clear_folder(top);
    assert_int_equal(base_alloc_live(), live_before);
    return 0;
}

void file_path(const char *name, char out[static 2 * PATH_BYTES])
{
    (void)snprintf(out, 2 * PATH_BYTES, "%s/%s", dir, name);
}

/* A file of the store as it is, base_free. */
uint8_t *file_get(const char *name, size_t *n)
{
    char path[2 * PATH_BYTES];
    uint8_t *bytes = NULL;

    file_path(name, path);
    assert_int_equal(base_file_read(path, 256 * 1024 * 1024, &bytes, n, NULL), 0);
    return bytes;
}

void file_put(const char *name, const uint8_t *bytes, size_t n)
{
    char path[2 * PATH_BYTES];
    FILE *f;

    file_path(name, path);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

bool file_there(const char *name)
{
    char path[2 * PATH_BYTES];

    file_path(name, path);
    return access(path, F_OK) == 0;
}

void file_flip(const char *name, long at)
{
    char path[2 * PATH_BYTES];
    int c;
    FILE *f;

    file_path(name, path);
    f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    c = fgetc(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fputc(c ^ 0x40, f), c ^ 0x40);
    assert_int_equal(fclose(f), 0);
}

/* ---- pieces ---------------------------------------------------------------------------------- */

struct sample sample_new(uint64_t seed, size_t bytes)
{
    struct sample x = {.content = malloc(bytes), .bytes = bytes};

    assert_non_null(x.content);
    for (size_t i = 0; i < bytes; i++) {
        x.content[i] = (uint8_t)(i % 8 == 0 ? base_rng_next(&seed) : seed >> 8 * (i % 8));
    }
    net_hash((struct span){x.content, bytes}, x.hash);
    return x;
}

void samples_new(struct sample *x, size_t n, uint64_t seed, size_t bytes)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = sample_new(seed + i, bytes);
    }
}

void samples_free(struct sample *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(x[i].content);
    }
}

/* Receive a piece in parts of at most 3,000 bytes. */
int put(struct worker_store *s, const struct sample *x, struct err *e)
{
    int rc = worker_store_begin(s, x->hash, x->bytes, e);

    for (size_t at = 0; rc == 0 && at < x->bytes;) {
        size_t n = x->bytes - at < 3000 ? x->bytes - at : 3000;

        rc = worker_store_write(s, x->hash, at, (struct span){x->content + at, n}, e);
        at += n;
    }
    return rc != 0 ? rc : worker_store_finish(s, x->hash, e);
}

void put_ok(struct worker_store *s, const struct sample *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct err e = {0};
        int rc = put(s, &x[i], &e);

        if (rc != 0) {
            fail_msg("piece %zu: %s", i, e.text);
        }
    }
}

bool content_right(struct worker_store *s, const struct sample *x)
{
    const void *ptr;
    size_t bytes;

    assert_int_equal(worker_store_map(s, x->hash, &ptr, &bytes, NULL), 0);
    assert_int_equal((uintptr_t)ptr % WORKER_STORE_ALIGN, 0);
    return bytes == x->bytes && memcmp(ptr, x->content, bytes) == 0;
}

/* It is there, and right; or it is not there at all. Returns which. */
bool there(struct worker_store *s, const struct sample *x)
{
    const void *ptr;
    size_t bytes;

    if (!worker_store_has(s, x->hash)) {
        assert_int_equal(worker_store_map(s, x->hash, &ptr, &bytes, NULL), ERR_NOTFOUND);
        return false;
    }
    assert_true(content_right(s, x));
    return true;
}

size_t count_there(struct worker_store *s, const struct sample *x, size_t n)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        count += there(s, &x[i]);
    }
    return count;
}

struct worker_store *open_ok(uint64_t limit)
{
    struct worker_store *s = NULL;
    struct err e = {0};
    int rc = worker_store_open(dir, limit, &s, &e);

    if (rc != 0) {
        fail_msg("%s", e.text);
    }
    return s;
}

/* The process dies: what it wrote is there, and no more. */
void crash(struct worker_store *s)
{
    disk.killed = true;
    worker_store_close(s);
    disk.killed = false;
}

/* Where the index says that a piece lies; the record's layout is store_index.c's. */
long locate(const struct sample *x, char pack[static 16])
{
    size_t n;
    uint8_t *index = file_get("index", &n);
    long at = -1;

    for (size_t i = 0; i + RECORD <= n; i += RECORD) {
        const uint8_t *r = index + i;

        if (r[4] == 1 && memcmp(r + 8, x->hash, NET_HASH_BYTES) == 0) {
            (void)snprintf(pack, 16, "pack-%02x%02x%02x%02x", r[43], r[42], r[41], r[40]);
            at = (long)((uint32_t)r[44] | (uint32_t)r[45] << 8 | (uint32_t)r[46] << 16 |
                        (uint32_t)r[47] << 24);
        }
    }
    base_free(index);
    assert_true(at >= 0);
    return at;
}

bool keep_list(void *arg, const uint8_t hash[static NET_HASH_BYTES])
{
    const struct sample *x = arg;

    for (; x->bytes != 0; x++) {
        if (memcmp(x->hash, hash, NET_HASH_BYTES) == 0) {
            return true;
        }
    }
    return false;
}
