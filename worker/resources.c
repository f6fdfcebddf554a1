/* Memory and cores that this process may use.
 *
 * A board that runs Shoal in a container or under systemd has limits of its own beside the
 * machine's, and taking more than they allow gets a worker killed. A control group's limit binds
 * everything below it, so the groups are walked from the process's own up to the top of what is
 * mounted, and the smallest answer counts. /proc/self/cgroup names the group, /proc/self/mountinfo
 * says where the hierarchy is mounted and which of its groups the mount begins at: in a container
 * that is often not the top one, and the group may lie outside of it altogether.
 *
 * Both versions are asked, because a hybrid system mounts both and either may hold the limit. What
 * cannot be read, or makes no sense, sets no limit.
 *
 * Left out: limits on swap, memory nodes. */
#define _GNU_SOURCE /* sched_getaffinity: the cores this process may run on */
#include "worker/resources.h"

#include <ctype.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096,
    SMALL_FILE_MAX = 1024 * 1024,  /* bytes of a file in /proc or in a group */
    MOUNTS_MAX = 16 * 1024 * 1024, /* bytes of mountinfo: a busy container host has many */
};

static const uint64_t UNLIMITED = UINT64_MAX;

/* ---- reading --------------------------------------------------------------------------------- */

char *worker_read_text(const char *root, const char *path, size_t max_bytes)
{
    char full[PATH_BYTES];
    uint8_t *text = NULL;
    size_t n;
    int length = snprintf(full, sizeof full, "%s%s", root, path);

    if (length < 0 || (size_t)length >= sizeof full ||
        base_file_read(full, max_bytes, &text, &n, NULL) != 0) {
        return NULL;
    }
    return (char *)text;
}

bool worker_parse_number(const char *text, uint64_t *out)
{
    uint64_t v = 0;

    if (!isdigit((unsigned char)*text)) {
        return false;
    }
    for (; isdigit((unsigned char)*text); text++) {
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v)) {
            return false;
        }
    }
    *out = v;
    return *text == '\0' || isspace((unsigned char)*text);
}

static bool read_number(const char *root, const char *folder, const char *name, uint64_t *out)
{
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    char *text =
        length >= 0 && (size_t)length < sizeof path ? worker_read_text(root, path, SMALL_FILE_MAX) : NULL;
    bool ok = text != NULL && worker_parse_number(text, out);

    base_free(text);
    return ok;
}

/* The number behind `key` at the start of a line; 0 where there is none. */
static uint64_t number_after(const char *text, const char *key)
{
    size_t n = strlen(key);

    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        uint64_t v;

        line += *line == '\n';
        if (strncmp(line, key, n) == 0 && worker_parse_number(line + n + strspn(line + n, " \t"), &v)) {
            return v;
        }
    }
    return 0;
}

/* The same in a file of lines "Key:   123 kB", in bytes. */
static uint64_t read_kilobytes(const char *root, const char *path, const char *key)
{
    char *text = worker_read_text(root, path, SMALL_FILE_MAX);
    uint64_t kilobytes = text != NULL ? number_after(text, key) : 0, bytes;

    base_free(text);
    return __builtin_mul_overflow(kilobytes, (uint64_t)1024, &bytes) ? 0 : bytes;
}

/* ---- finding the groups ---------------------------------------------------------------------- */

/* A process's own group in one hierarchy, as a folder below the mount point. */
struct group {
    char folder[PATH_BYTES]; /* without `root`; the mount point is its first top_len bytes */
    size_t top_len;
};

/* Is `word` one of the comma-separated words of list[0..n)? */
static bool has_word(const char *list, size_t n, const char *word)
{
    size_t length = strlen(word);

    for (size_t at = 0; at < n;) {
        size_t end = at;

        while (end < n && list[end] != ',') {
            end++;
        }
        if (end - at == length && memcmp(list + at, word, length) == 0) {
            return true;
        }
        at = end + 1;
    }
    return false;
}

/* The path of the process's group: of the version 2 hierarchy where `controller` is NULL. */
static bool group_path(const char *cgroups, const char *controller, char out[static PATH_BYTES])
{
    for (const char *line = cgroups; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        const char *first = memchr(line, ':', n);
        const char *second =
            first != NULL ? memchr(first + 1, ':', n - (size_t)(first + 1 - line)) : NULL;

        if (second != NULL) {
            size_t names = (size_t)(second - first - 1), length = n - (size_t)(second + 1 - line);
            bool ours = controller == NULL ? line[0] == '0' && names == 0
                                           : has_word(first + 1, names, controller);

            if (ours && length < PATH_BYTES) {
                memcpy(out, second + 1, length);
                out[length] = '\0';
                return true;
            }
        }
        line += n + (line[n] == '\n');
    }
    return false;
}

/* The next word of a mountinfo line with its octal escapes undone (a space is \040); false at the
 * end of the line or where the word is too long. */
static bool next_word(const char **at, char out[static PATH_BYTES])
{
    const char *p = *at + strspn(*at, " ");
    size_t n = 0;

    while (*p != '\0' && *p != '\n' && *p != ' ' && n + 1 < PATH_BYTES) {
        bool escaped = p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
                       p[3] >= '0' && p[3] <= '7';

        out[n] = *p;
        if (escaped) {
            out[n] = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
        }
        n++;
        p += escaped ? 4 : 1;
    }
    out[n] = '\0';
    *at = p;
    return n > 0 && (*p == '\0' || *p == '\n' || *p == ' ');
}

/* Does this line mount the hierarchy that we look for? Fills where, and which group it begins at.
 * The fields: id, parent, device, root, mount point, options, any number of tags, "-", type,
 * source, options of the file system. */
static bool mount_of(const char *line, const char *controller, char begins[static PATH_BYTES],
                     char point[static PATH_BYTES])
{
    char word[PATH_BYTES];

    for (unsigned i = 0; i < 3; i++) {
        if (!next_word(&line, word)) {
            return false;
        }
    }
    if (!next_word(&line, begins) || !next_word(&line, point)) {
        return false;
    }
    do {
        if (!next_word(&line, word)) {
            return false;
        }
    } while (strcmp(word, "-") != 0);
    if (!next_word(&line, word)) {
        return false;
    }
    if (controller == NULL) {
        return strcmp(word, "cgroup2") == 0;
    }
    return strcmp(word, "cgroup") == 0 && next_word(&line, word) && next_word(&line, word) &&
           has_word(word, strlen(word), controller);
}

/* Where `path` lies below a mount that begins at `begins`: "" where it does not, or is that itself.
 * */
static const char *path_below(const char *path, const char *begins)
{
    size_t n = strcmp(begins, "/") == 0 ? 0 : strlen(begins);

    if (strncmp(path, begins, n) != 0 || path[n] != '/' || strcmp(path + n, "/") == 0 ||
        strncmp(path + n, "/..", 3) == 0) {
        return "";
    }
    return path + n;
}

/* The process's group in the hierarchy of `controller` (version 1) or in version 2 (NULL). */
static bool find_group(const char *root, const char *controller, struct group *out)
{
    char path[PATH_BYTES], begins[PATH_BYTES], point[PATH_BYTES];
    char *cgroups = worker_read_text(root, "/proc/self/cgroup", SMALL_FILE_MAX);
    char *mounts = worker_read_text(root, "/proc/self/mountinfo", MOUNTS_MAX);
    bool found = false;

    if (cgroups != NULL && mounts != NULL && group_path(cgroups, controller, path)) {
        for (const char *line = mounts; *line != '\0' && !found;) {
            size_t n = strcspn(line, "\n");

            if (mount_of(line, controller, begins, point)) {
                int length = snprintf(out->folder, sizeof out->folder, "%s%s", point,
                                      path_below(path, begins));

                out->top_len = strlen(point);
                found = length >= 0 && (size_t)length < sizeof out->folder;
            }
            line += n + (line[n] == '\n');
        }
    }
    base_free(mounts);
    base_free(cgroups);
    return found;
}

void worker_group_folder(const char *root, char *out, size_t max)
{
    struct group g;

    (void)snprintf(out, max, "%s", find_group(root, NULL, &g) ? g.folder : "");
}

/* Smallest answer of a group and all above it, up to the mount point. */
static uint64_t ask_upwards(const char *root, const char *controller,
                            uint64_t (*ask)(const char *root, const char *folder))
{
    struct group g;
    uint64_t least = UNLIMITED;

    if (!find_group(root, controller, &g)) {
        return UNLIMITED;
    }
    for (;;) {
        uint64_t answer = ask(root, g.folder);
        char *slash = strrchr(g.folder + g.top_len, '/');

        least = answer < least ? answer : least;
        if (slash == NULL) {
            return least;
        }
        *slash = '\0';
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Bytes left below `limit`. The cache of files counts as used for the kernel, but goes when memory
 * is wanted; without it a worker that has just stored its pieces would seem to have no memory at
 * all. */
static uint64_t left_of(const char *root, const char *folder, uint64_t limit,
                        const char *usage_name, const char *inactive_key, const char *active_key)
{
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof path, "%s/memory.stat", folder);
    uint64_t used = 0, cache = 0;
    char *stat;

    if (!read_number(root, folder, usage_name, &used) || length < 0 ||
        (size_t)length >= sizeof path) {
        return limit;
    }
    stat = worker_read_text(root, path, SMALL_FILE_MAX);
    if (stat != NULL) {
        uint64_t inactive = number_after(stat, inactive_key);

        cache = inactive < used ? inactive : used;
        used -= cache;
        cache = number_after(stat, active_key);
        used -= cache < used ? cache : used;
    }
    base_free(stat);
    return used < limit ? limit - used : 0;
}

static uint64_t memory_left_v2(const char *root, const char *folder)
{
    uint64_t max = UNLIMITED, high = UNLIMITED;
    bool limited = read_number(root, folder, "memory.max", &max);

    /* Beyond memory.high nobody is killed, but everything that allocates is slowed to a crawl. */
    limited |= read_number(root, folder, "memory.high", &high);
    if (!limited) {
        return UNLIMITED;
    }
    return left_of(root, folder, max < high ? max : high, "memory.current", "inactive_file ",
                   "active_file ");
}

static uint64_t memory_left_v1(const char *root, const char *folder)
{
    uint64_t limit;

    /* Version 1 spells "no limit" as the largest number of whole pages that its counter holds. */
    if (!read_number(root, folder, "memory.limit_in_bytes", &limit) || limit >= UNLIMITED / 4) {
        return UNLIMITED;
    }
    return left_of(root, folder, limit, "memory.usage_in_bytes", "total_inactive_file ",
                   "total_active_file ");
}

uint64_t worker_memory_left(const char *root)
{
    uint64_t answers[3] = {
        ask_upwards(root, NULL, memory_left_v2),
        ask_upwards(root, "memory", memory_left_v1),
        read_kilobytes(root, "/proc/meminfo", "MemAvailable:"),
    };
    uint64_t least = UNLIMITED;

    answers[2] = answers[2] != 0 ? answers[2] : UNLIMITED;
    for (size_t i = 0; i < 3; i++) {
        least = answers[i] < least ? answers[i] : least;
    }
    return least;
}

uint64_t worker_memory_available(const char *root, uint64_t limit_bytes)
{
    const uint64_t left = worker_memory_left(root);

    if (limit_bytes != 0 && limit_bytes < left) {
        return limit_bytes;
    }
    return left != UNLIMITED ? left : 0;
}

/* Number `which` of a process's sizes, in bytes: total, resident, and that part of the resident that
 * files back. */
static uint64_t size_of(const char *text, unsigned which)
{
    uint64_t pages, bytes;

    for (unsigned i = 0; i < which && text != NULL; i++) {
        text = strchr(text, ' ');
        text += text != NULL;
    }
    if (text == NULL || !worker_parse_number(text, &pages) ||
        __builtin_mul_overflow(pages, (uint64_t)sysconf(_SC_PAGESIZE), &bytes)) {
        return 0;
    }
    return bytes;
}

uint64_t worker_memory_pages(const char *root)
{
    char *statm = worker_read_text(root, "/proc/self/statm", SMALL_FILE_MAX);
    const uint64_t bytes = size_of(statm, 1);

    base_free(statm);
    return bytes;
}

uint64_t worker_memory_own(const char *root)
{
    char *statm = worker_read_text(root, "/proc/self/statm", SMALL_FILE_MAX);
    const uint64_t all = size_of(statm, 1), files = size_of(statm, 2);

    base_free(statm);
    return files < all ? all - files : 0;
}

uint64_t worker_memory_resident(const char *root)
{
    const uint64_t bytes = read_kilobytes(root, "/proc/self/smaps_rollup", "Pss:");

    return bytes != 0 ? bytes : worker_memory_pages(root);
}

/* ---- cores ----------------------------------------------------------------------------------- */

/* A quota as one number, so that the smallest share of a core wins and brings its period: millionths
 * of a core in the high half, microseconds in the low. */
static uint64_t quota_of(uint64_t quota_us, uint64_t period_us)
{
    uint64_t share;

    if (period_us == 0 || period_us > UINT32_MAX ||
        __builtin_mul_overflow(quota_us, (uint64_t)1000000, &share) ||
        share / period_us >= UINT32_MAX) {
        return UNLIMITED;
    }
    return share / period_us << 32 | period_us;
}

/* cpu.max is "QUOTA PERIOD", with "max" for no quota. */
static uint64_t quota_v2(const char *root, const char *folder)
{
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof path, "%s/cpu.max", folder);
    char *text =
        length >= 0 && (size_t)length < sizeof path ? worker_read_text(root, path, SMALL_FILE_MAX) : NULL;
    uint64_t quota, period, answer = UNLIMITED;

    if (text != NULL && worker_parse_number(text, &quota)) {
        const char *space = strchr(text, ' ');

        if (space != NULL && worker_parse_number(space + 1, &period)) {
            answer = quota_of(quota, period);
        }
    }
    base_free(text);
    return answer;
}

/* A quota of -1, which is no number here, is none. */
static uint64_t quota_v1(const char *root, const char *folder)
{
    uint64_t quota, period;

    if (!read_number(root, folder, "cpu.cfs_quota_us", &quota) ||
        !read_number(root, folder, "cpu.cfs_period_us", &period)) {
        return UNLIMITED;
    }
    return quota_of(quota, period);
}

struct worker_quota worker_cpu_quota(const char *root)
{
    const uint64_t v2 = ask_upwards(root, NULL, quota_v2), v1 = ask_upwards(root, "cpu", quota_v1);
    const uint64_t least = v2 < v1 ? v2 : v1;

    if (least == UNLIMITED) {
        return (struct worker_quota){0, 0};
    }
    return (struct worker_quota){(double)(least >> 32) / 1e6, (double)(uint32_t)least / 1e6};
}

unsigned worker_cores(const char *root)
{
    cpu_set_t allowed;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t cores = online > 0 ? (uint64_t)online : 1;
    const struct worker_quota quota = worker_cpu_quota(root);

    /* Fails on a machine with more cores than the set has bits; then all that are online count. */
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        cores = (uint64_t)CPU_COUNT(&allowed);
    }
    if (quota.period_s > 0 && quota.cores < (double)cores) {
        cores = (uint64_t)quota.cores;
    }
    return cores > 0 ? (unsigned)cores : 1;
}
