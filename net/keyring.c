/* The keys folder: every NAME.pub is somebody we know, one NAME.secret is our own.
 *
 * The table is read whole and replaced whole, so a scan that fails half-way leaves the old one in
 * force. A name with a key has a serial number that lives as long as the pair does; whoever was
 * authenticated under it is cut off when it is gone, even if another key has come under the same
 * name.
 *
 * A folder's time of change has the granularity of a timer tick and moves when a file is made, not
 * when its text is finished. So it is believed only where it lies well behind the moment of reading
 * and all files were good; until then the folder counts as changed.
 *
 * The secret is read straight into libsodium's guarded pages, which are locked and wiped when
 * freed. ZeroMQ keeps copies of its own in its sockets' options, which we cannot wipe.
 *
 * Left out: noticing that a key file was edited in place. net_keys_reload does. */
#include "net/socket_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KEYS_SETTLE_MS = 2000, PATH_ROOM = NET_PATH_MAX + NET_NAME_MAX + 16 };

/* Read a line of Z85 into `text`, 40 characters and a NUL. `text` may be the caller's locked
 * memory. */
static int key_text_read(const char *path, char text[static NET_KEY_TEXT + 2], struct err *e)
{
    struct stat st;
    size_t used = 0;
    int rc = 0;
    /* Without O_NONBLOCK a FIFO of that name would hold us up. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        return err_set(e, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "cannot read key %s: %s", path,
                       strerror(errno));
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        rc = err_set(e, ERR_IO, "cannot read key %s: not a regular file", path);
        goto out;
    }
    while (used < NET_KEY_TEXT + 2) {
        ssize_t got = read(fd, text + used, NET_KEY_TEXT + 2 - used);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            rc = err_set(e, ERR_IO, "cannot read key %s: %s", path, strerror(errno));
            goto out;
        }
        if (got == 0) {
            break;
        }
        used += (size_t)got;
    }
    if (used < NET_KEY_TEXT || (used > NET_KEY_TEXT && text[NET_KEY_TEXT] != '\n') ||
        used > NET_KEY_TEXT + 1) {
        rc = err_set(e, ERR_FORMAT, "%s is no key: it should hold %d characters and a newline",
                     path, NET_KEY_TEXT);
        goto out;
    }
    text[NET_KEY_TEXT] = '\0';
out:
    (void)close(fd);
    return rc;
}

static int key_read(const char *dir, const char *name, const char *suffix, char *text,
                    uint8_t out[static NET_KEY_BYTES], struct err *e)
{
    char path[PATH_ROOM];
    int length = snprintf(path, sizeof path, "%s/%s%s", dir, name, suffix);
    int rc;

    if (length < 0 || (size_t)length >= sizeof path) {
        return err_set(e, ERR_RANGE, "the path of the keys folder is too long");
    }
    rc = key_text_read(path, text, e);
    if (rc == 0 && zmq_z85_decode(out, text) == NULL) {
        rc = err_set(e, ERR_FORMAT, "%s is no key: it is not Z85 text", path);
    }
    return rc;
}

/* ---- the table ------------------------------------------------------------------------------- */

const struct net_key *net_key_named(const struct net_keys *k, const char *name)
{
    for (size_t i = 0; i < k->n; i++) {
        if (strcmp(k->list[i].name, name) == 0) {
            return &k->list[i];
        }
    }
    return NULL;
}

const struct net_key *net_key_serial(const struct net_keys *k, uint64_t serial)
{
    for (size_t i = 0; i < k->n; i++) {
        if (k->list[i].serial == serial) {
            return &k->list[i];
        }
    }
    return NULL;
}

const struct net_key *net_key_bytes(const struct net_keys *k,
                                    const uint8_t bytes[static NET_KEY_BYTES])
{
    for (size_t i = 0; i < k->n; i++) {
        if (memcmp(k->list[i].bytes, bytes, NET_KEY_BYTES) == 0) {
            return &k->list[i];
        }
    }
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    const struct net_key *x = a, *y = b;

    return strcmp(x->name, y->name);
}

/* The name in NAME.pub, or false. */
static bool public_name(const char *file, char name[static NET_NAME_MAX])
{
    const char *dot = strchr(file, '.');
    size_t length = dot != NULL ? (size_t)(dot - file) : 0;

    if (dot == NULL || strcmp(dot, ".pub") != 0 || length >= NET_NAME_MAX) {
        return false;
    }
    memcpy(name, file, length);
    name[length] = '\0';
    return net_name_ok(name);
}

/* Files that are no key, perhaps not yet. `names` tells one set of them from another, so that
 * each is logged once and not at every look at the folder. */
struct bad_files {
    unsigned n;
    uint64_t names;
    struct err first;
};

static void bad_add(struct bad_files *bad, const char *name, const struct err *e)
{
    uint64_t hash = 0;

    for (; *name != '\0'; name++) {
        hash = base_mix64(hash ^ (uint8_t)*name);
    }
    if (bad->n == 0) {
        bad->first = *e;
    }
    bad->names += hash; /* readdir's order does not matter */
    bad->n++;
}

/* Append the folder's good keys to `list`. */
static bool folder_read(const struct net_keys *k, struct net_key *list, size_t *n,
                        struct bad_files *bad)
{
    char text[NET_KEY_TEXT + 2];
    DIR *dir = opendir(k->dir);
    struct dirent *entry;

    if (dir == NULL) {
        return false;
    }
    while (*n < NET_KEYS_MAX && (entry = readdir(dir)) != NULL) {
        struct net_key *key = &list[*n];
        struct err e = {0};

        if (!public_name(entry->d_name, key->name)) {
            continue;
        }
        if (key_read(k->dir, key->name, ".pub", text, key->bytes, &e) != 0) {
            bad_add(bad, key->name, &e);
            continue;
        }
        ++*n;
    }
    (void)closedir(dir);
    return true;
}

/* Keep the serial numbers of pairs that were there before; warn of a key that has two names. */
static void serials_set(struct net_keys *k, struct net_key *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct net_key *old = net_key_named(k, list[i].name);

        if (old != NULL && memcmp(old->bytes, list[i].bytes, NET_KEY_BYTES) == 0) {
            list[i].serial = old->serial;
            continue;
        }
        list[i].serial = ++k->serials;
        for (size_t j = 0; j < i; j++) {
            if (memcmp(list[j].bytes, list[i].bytes, NET_KEY_BYTES) == 0) {
                base_log(BASE_LOG_WARN, "key_twice", "name=%s also=%s counts_as=%s", list[i].name,
                         list[j].name, list[j].name);
            }
        }
    }
}

static int64_t folder_time_ns(const struct net_keys *k)
{
    struct stat st;

    return stat(k->dir, &st) == 0 ? (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec
                                  : -1;
}

bool net_keys_scan(struct net_keys *k)
{
    struct net_key *list = base_zalloc(NET_KEYS_MAX, sizeof *list), *fitting;
    const int64_t changed_ns =
        folder_time_ns(k); /* before reading: what changes meanwhile is seen later */
    struct timespec now;
    struct bad_files bad = {0};
    size_t n = 0;

    if (list == NULL || !folder_read(k, list, &n, &bad)) {
        if (!k->unreadable) {
            base_log(BASE_LOG_WARN, "keys_unreadable", "folder=%s", k->dir);
        }
        k->unreadable = true;
        base_free(list);
        return false;
    }
    if (bad.names != k->bad_names && bad.n > 0) {
        base_log(BASE_LOG_WARN, "key_unreadable", "files=%u first=\"%s\"", bad.n, bad.first.text);
    }
    k->bad_names = bad.names;
    k->unreadable = false;
    qsort(list, n, sizeof *list, by_name);
    serials_set(k, list, n);
    fitting = n > 0 ? base_realloc(list, n * sizeof *list) : NULL;
    base_free(k->list);
    k->list = fitting != NULL ? fitting : list;
    k->n = n;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    k->mtime_ns = changed_ns;
    k->settled =
        bad.n == 0 && changed_ns >= 0 &&
        (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 - changed_ns / 1000000 > KEYS_SETTLE_MS;
    return true;
}

bool net_keys_changed(struct net_keys *k, int64_t now_ms, int64_t every_ms)
{
    if (now_ms - k->asked_ms < every_ms) {
        return false;
    }
    k->asked_ms = now_ms;
    return !k->settled || folder_time_ns(k) != k->mtime_ns;
}

/* ---- our own key ---------------------------------------------------------------------------- */

static int own_read(struct net_keys *k, const char *self, struct err *e)
{
    uint8_t derived[NET_KEY_BYTES];
    char text[NET_KEY_TEXT + 2];
    char *secret_text = sodium_malloc(NET_KEY_TEXT + 2);
    int rc;

    k->secret = sodium_malloc(NET_KEY_BYTES);
    if (secret_text == NULL || k->secret == NULL) {
        rc = err_set(e, ERR_NOMEM, "cannot read our key: out of memory");
        goto out;
    }
    rc = key_read(k->dir, self, ".secret", secret_text, k->secret, e);
    if (rc != 0) {
        goto out;
    }
    rc = key_read(k->dir, self, ".pub", text, k->own, e);
    if (rc != 0) {
        goto out;
    }
    if (crypto_scalarmult_base(derived, k->secret) != 0 ||
        memcmp(derived, k->own, sizeof derived) != 0) {
        rc = err_set(e, ERR_MISMATCH, "%s/%s.pub and .secret are no pair", k->dir, self);
    }
out:
    sodium_free(secret_text); /* wipes it */
    return rc;
}

int net_keys_open(struct net_keys *k, const char *dir, const char *self, struct err *e)
{
    int rc;

    if (!net_name_ok(self)) {
        return err_set(e, ERR_RANGE, "\"%.80s\" is no name: a name is made of a-z, 0-9 and -",
                       self);
    }
    k->dir = base_strdup(dir);
    if (k->dir == NULL) {
        return err_set(e, ERR_NOMEM, "cannot read the keys: out of memory");
    }
    rc = own_read(k, self, e);
    if (rc == 0 && !net_keys_scan(k)) {
        rc = err_set(e, ERR_IO, "cannot read the keys folder %s", dir);
    }
    if (rc != 0) {
        net_keys_close(k);
    }
    return rc;
}

void net_keys_close(struct net_keys *k)
{
    sodium_free(k->secret);
    base_free(k->list);
    base_free(k->dir);
    *k = (struct net_keys){0};
}
