/* Files: map one, read one, replace one, make a folder, resolve a path.
 *
 * The invariant is that a reader never sees half a file: base_file_replace writes a neighbour on
 * the same file system, syncs it and renames it over the old one, then syncs the folder so that the
 * rename survives a power cut, which small boards have often.
 *
 * Left out: locking, and protection against somebody cutting a mapped file short (that is a SIGBUS
 * on every system; the store and the model are not edited in place, only replaced). */
#include "common/common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int io_error(struct err *e, const char *doing, const char *path)
{
    int code = errno == ENOENT ? ERR_NOTFOUND : errno == ENOMEM ? ERR_NOMEM : ERR_IO;

    return err_set(e, code, "cannot %s %s: %s", doing, path, strerror(errno));
}

int base_map_open(const char *path, struct base_map *out, struct err *e)
{
    static const uint8_t empty[1];
    struct base_map m = {.ptr = empty};
    struct stat st;
    int rc = 0;
    /* Without O_NONBLOCK a FIFO of that name would hold us up until somebody writes into it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        return io_error(e, "open", path);
    }
    if (fstat(fd, &st) != 0) {
        rc = io_error(e, "stat", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = err_set(e, ERR_IO, "cannot map %s: not a regular file", path);
        goto out;
    }
    if ((uintmax_t)st.st_size > SIZE_MAX / 2) {
        rc = err_set(e, ERR_IO, "cannot map %s: too big for this machine's addresses", path);
        goto out;
    }
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);

        if (p == MAP_FAILED) {
            rc = io_error(e, "map", path);
            goto out;
        }
        m.ptr = p;
    }
    m.len = (size_t)st.st_size;
    m.mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
    m.inode = (uint64_t)st.st_ino;
    m.device = (uint64_t)st.st_dev;
    *out = m;
out:
    (void)close(fd);
    return rc;
}

void base_map_forget(const struct base_map *m)
{
    if (m->len > 0)
        (void)madvise((void *)(uintptr_t)m->ptr, m->len, MADV_DONTNEED);
}

void base_map_close(struct base_map *m)
{
    if (m->len > 0) {
        /* munmap takes a plain pointer; nobody writes through it. */
        (void)munmap((void *)(uintptr_t)m->ptr, m->len);
    }
    *m = (struct base_map){0};
}

int base_file_read(const char *path, size_t max_bytes, uint8_t **out, size_t *len, struct err *e)
{
    struct base_buf b = {0};
    uint8_t chunk[4096];
    int rc = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return io_error(e, "open", path);
    }
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            rc = io_error(e, "read", path);
            goto out;
        }
        if (n == 0) {
            break;
        }
        if ((size_t)n > max_bytes - b.len) {
            rc = err_set(e, ERR_RANGE, "%s is longer than %zu bytes", path, max_bytes);
            goto out;
        }
        base_buf_add(&b, chunk, (size_t)n);
    }
    base_buf_add(&b, "", 1);
    if (b.failed) {
        rc = err_set(e, ERR_NOMEM, "cannot read %s: out of memory", path);
        goto out;
    }
    *out = b.ptr;
    *len = b.len - 1;
    b = (struct base_buf){0};
out:
    base_buf_deinit(&b);
    (void)close(fd);
    return rc;
}

static bool write_whole(int fd, const uint8_t *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, p, n);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return false;
        }
        p += done;
        n -= (size_t)done;
    }
    return true;
}

/* Make a rename in this path's folder durable. Some file systems refuse to sync a folder; the file
 * itself is safe then, so that is no failure. */
static void sync_folder_of(const char *path)
{
    char *folder = base_path_beside(path, ".");
    int fd = folder != NULL ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
    base_free(folder);
}

int base_file_replace(const char *path, const void *bytes, size_t len, unsigned mode, struct err *e)
{
    struct base_buf name = {0};
    char *temporary = NULL;
    int fd = -1, rc = 0;

    base_buf_printf(&name, "%s.XXXXXX", path);
    base_buf_add(&name, "", 1);
    if (name.failed) {
        rc = err_set(e, ERR_NOMEM, "cannot write %s: out of memory", path);
        goto out;
    }
    fd = mkstemp((char *)name.ptr);
    if (fd < 0) {
        rc = io_error(e, "write", path);
        goto out;
    }
    temporary = (char *)name.ptr;
    if (fchmod(fd, (mode_t)mode) != 0 || !write_whole(fd, bytes, len) || fsync(fd) != 0 ||
        rename(temporary, path) != 0) {
        rc = io_error(e, "write", path);
        goto out;
    }
    temporary = NULL;
    sync_folder_of(path);
out:
    if (fd >= 0) {
        (void)close(fd);
    }
    if (temporary != NULL) {
        (void)unlink(temporary);
    }
    base_buf_deinit(&name);
    return rc;
}

int base_dir_make(const char *path, struct err *e)
{
    struct stat st;
    int rc = 0;
    char *part = base_strdup(path);

    if (part == NULL) {
        return err_set(e, ERR_NOMEM, "cannot create folder %s: out of memory", path);
    }
    /* Every prefix that ends before a slash, then the whole; what exists already is fine. */
    for (char *at = part + (part[0] == '/'); rc == 0; at++) {
        bool last = *at == '\0';

        if (!last && *at != '/') {
            continue;
        }
        *at = '\0';
        if (part[0] != '\0' && mkdir(part, 0777) != 0 && errno != EEXIST) {
            rc = io_error(e, "create folder", part);
        }
        if (last) {
            break;
        }
        *at = '/';
    }
    if (rc == 0 && (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))) {
        rc = err_set(e, ERR_IO, "cannot create folder %s: a file is in the way", path);
    }
    base_free(part);
    return rc;
}

char *base_path_beside(const char *file, const char *path)
{
    const char *slash = strrchr(file, '/');
    size_t folder_len, path_len = strlen(path);
    char *joined;

    if (path[0] == '/' || slash == NULL) {
        return base_strdup(path);
    }
    folder_len = (size_t)(slash - file) + 1;
    joined = base_alloc(folder_len + path_len + 1);
    if (joined != NULL) {
        memcpy(joined, file, folder_len);
        memcpy(joined + folder_len, path, path_len + 1);
    }
    return joined;
}
