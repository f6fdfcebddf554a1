/* Key pairs on disk: NAME.pub and NAME.secret, a line of Z85 text each.
 *
 * The invariant is that no key is ever lost to a second `keygen`: both files are created with
 * O_EXCL or not at all, the secret first, and on any failure this call removes what this call
 * created. The secret is readable by its owner only, from its first byte on, and so is a folder
 * made for it. In memory it lives in libsodium's guarded pages, which are wiped when they are
 * freed.
 *
 * Left out: reading keys (net/zap.c knows what it needs of them) and removing or replacing them,
 * which is a person's decision. */
#include "net/net.h"
#include "net/text.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { KEY_TEXT = 40, KEY_LINE = KEY_TEXT + 1 }; /* Z85 of 32 bytes; with its NUL or newline */

/* Make the folder that holds `dir` as usual, and `dir` itself for its owner only. */
static int make_folder(const char *dir, struct err *e)
{
    char *path = base_strdup(dir), *parent = NULL;
    int rc = 0;

    if (path == NULL) {
        return err_set(e, ERR_NOMEM, "cannot create folder %s: out of memory", dir);
    }
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--) {
        path[n - 1] = '\0';
    }
    parent = base_path_beside(path, ".");
    if (parent == NULL) {
        rc = err_set(e, ERR_NOMEM, "cannot create folder %s: out of memory", dir);
        goto out;
    }
    rc = base_dir_make(parent, e);
    if (rc == 0 && mkdir(path, 0700) != 0 && errno != EEXIST) {
        rc = err_set(e, ERR_IO, "cannot create folder %s: %s", dir, strerror(errno));
    }
out:
    base_free(parent);
    base_free(path);
    return rc;
}

static int create_only(const char *path, mode_t mode, int *fd, struct err *e)
{
    *fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (*fd >= 0) {
        return 0;
    }
    if (errno == EEXIST) {
        return err_set(e, ERR_REFUSED,
                       "%s is there already; remove it first if its key may be lost", path);
    }
    return err_set(e, ERR_IO, "cannot write %s: %s", path, strerror(errno));
}

/* One line, one write: a key is far below what a file system would split. */
static int write_line(int fd, const char *path, const char line[static KEY_LINE], struct err *e)
{
    ssize_t done;

    do {
        done = write(fd, line, KEY_LINE);
    } while (done < 0 && errno == EINTR);
    if (done != KEY_LINE) {
        return err_set(e, ERR_IO, "cannot write %s: %s", path,
                       done < 0 ? strerror(errno) : "the disk is full");
    }
    if (fsync(fd) != 0) {
        return err_set(e, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    }
    return 0;
}

static int write_pair(const char *secret_path, const char *public_path,
                      const char secret_line[static KEY_LINE],
                      const char public_line[static KEY_LINE], struct err *e)
{
    bool have_secret = false, have_public = false;
    int secret_fd = -1, public_fd = -1;
    int rc = create_only(secret_path, 0600, &secret_fd, e);

    if (rc != 0) {
        goto out;
    }
    have_secret = true;
    rc = create_only(public_path, 0644, &public_fd, e);
    if (rc != 0) {
        goto out;
    }
    have_public = true;
    rc = write_line(secret_fd, secret_path, secret_line, e);
    if (rc == 0) {
        rc = write_line(public_fd, public_path, public_line, e);
    }
out:
    if (public_fd >= 0) {
        (void)close(public_fd);
    }
    if (secret_fd >= 0) {
        (void)close(secret_fd);
    }
    if (rc != 0 && have_public) {
        (void)unlink(public_path);
    }
    if (rc != 0 && have_secret) {
        (void)unlink(secret_path);
    }
    return rc;
}

int net_keygen(const char *dir, const char *name, struct err *e)
{
    struct base_buf secret_path = {0}, public_path = {0};
    char public_line[KEY_LINE], quoted[NET_QUOTE_MAX];
    char *secret_line = NULL;
    int rc;

    if (!net_name_ok(name)) {
        return err_set(e, ERR_RANGE, "%s is no name: a name is 1 to %d of a-z, 0-9 and -",
                       net_quote(name, quoted), NET_NAME_MAX - 1);
    }
    rc = make_folder(dir, e);
    if (rc != 0) {
        return rc;
    }
    base_buf_printf(&secret_path, "%s/%s.secret", dir, name);
    base_buf_printf(&public_path, "%s/%s.pub", dir, name);
    secret_line = sodium_malloc(KEY_LINE);
    if (secret_path.failed || public_path.failed || secret_line == NULL) {
        rc = err_set(e, ERR_NOMEM, "cannot make a key for %s: out of memory", name);
        goto out;
    }
    if (zmq_curve_keypair(public_line, secret_line) != 0) {
        rc = err_set(e, ERR_UNSUPPORTED, "cannot make a key for %s: ZeroMQ was built without CURVE",
                     name);
        goto out;
    }
    public_line[KEY_TEXT] = '\n';
    secret_line[KEY_TEXT] = '\n';
    rc = write_pair((const char *)secret_path.ptr, (const char *)public_path.ptr, secret_line,
                    public_line, e);
out:
    sodium_free(secret_line); /* wipes it */
    base_buf_deinit(&public_path);
    base_buf_deinit(&secret_path);
    return rc;
}
