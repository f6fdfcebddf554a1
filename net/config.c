/* The cluster's configuration: which keys stand in the file, and whether they go together.
 *
 * The walk over the file (net/ini.c) finds each key's row in the table and has its value checked
 * and kept (net/config_table.c); this file notices what is unknown, repeated or missing, and
 * after the walk what contradicts itself. It remembers the line of every section and key, so that
 * also the mistakes seen at the end are reported where a person will look: every message is
 * "FILE:LINE: reason", and unknown words come with the known one they resemble.
 *
 * The invariant: a net_config that was read without error is complete. Every member has a value
 * in its range, whether from the file, from a default or derived from another member.
 *
 * Left out: whether the model, the keys folder and the hosts exist. Each program checks what it
 * itself needs. */
#include "net/config_table.h"
#include "net/text.h"

#include <assert.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    N_SCOPES = 1 + NET_WORKERS_MAX, /* keys of the whole cluster, then those of each worker */
    WORD_MAX = 32,                  /* longer words resemble nothing we know */
    SIMILAR_MAX = 2                 /* edits between words that are called similar */
};

struct reader {
    struct net_config *c;
    const char *path;
    enum net_config_section section; /* of the line at hand */
    unsigned section_line[NET_N_SECTIONS], worker_line[NET_WORKERS_MAX];
    unsigned key_line[N_SCOPES][NET_N_KEYS]; /* 0: not in the file */
};

/* Where keys of the section at hand are kept: the struct, and the row of key_line. */
static void *owner_of(struct reader *r, enum net_config_section s, unsigned *scope)
{
    if (s == NET_SECTION_WORKER) {
        *scope = r->c->n_workers;
        return &r->c->workers[r->c->n_workers - 1];
    }
    *scope = 0;
    return r->c;
}

/* ---- suggestions ----------------------------------------------------------------------------- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Levenshtein distance (insertions, deletions, substitutions), upper and lower case being one. */
static unsigned distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned row[WORD_MAX + 1];

    if (na > WORD_MAX || nb > WORD_MAX) {
        return WORD_MAX;
    }
    for (size_t j = 0; j <= nb; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= na; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned replaced = diagonal + (lower(a[i - 1]) != lower(b[j - 1]));
            unsigned best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;

            diagonal = row[j];
            row[j] = best < replaced ? best : replaced;
        }
    }
    return row[nb];
}

/* Worth suggesting: nearer than what was nearest so far, and few edits for the word's length. */
static bool similar(const char *typed, const char *known, unsigned *least)
{
    const size_t length = strlen(typed);
    const size_t bound = length < 6 ? 1 : SIMILAR_MAX;
    const unsigned d = distance(typed, known);

    if (d > bound || d >= *least) {
        return false;
    }
    *least = d;
    return true;
}

static int unknown_section(const char *word, struct err *e)
{
    char quoted[NET_QUOTE_MAX], text[NET_SECTION_TEXT];
    const char *hint = NULL;
    unsigned least = WORD_MAX;

    for (int s = 0; s < NET_N_SECTIONS; s++) {
        if (similar(word, net_config_sections[s].word, &least)) {
            hint = net_config_section_text((enum net_config_section)s, text);
        }
    }
    return err_set(e, ERR_FORMAT, "unknown section %s%s%s%s", net_quote(word, quoted),
                   hint != NULL ? "; did you mean " : "", hint != NULL ? hint : "",
                   hint != NULL ? "?" : "");
}

static int unknown_key(const struct reader *r, const char *word, struct err *e)
{
    char quoted[NET_QUOTE_MAX], here[NET_SECTION_TEXT], there[NET_SECTION_TEXT];
    const char *hint = NULL;
    unsigned least = WORD_MAX;

    (void)net_quote(word, quoted);
    (void)net_config_section_text(r->section, here);
    for (size_t i = 0; i < NET_N_KEYS; i++) {
        const struct net_config_key *k = &net_config_keys[i];

        if (k->section != r->section && strcmp(k->key, word) == 0) {
            return err_set(e, ERR_FORMAT, "unknown key %s in %s; it belongs into %s", quoted, here,
                           net_config_section_text(k->section, there));
        }
        if (k->section == r->section && similar(word, k->key, &least)) {
            hint = k->key;
        }
    }
    return err_set(e, ERR_FORMAT, "unknown key %s in %s%s%s%s", quoted, here,
                   hint != NULL ? "; did you mean " : "", hint != NULL ? hint : "",
                   hint != NULL ? "?" : "");
}

/* ---- the walk -------------------------------------------------------------------------------- */

static void set_defaults(void *owner, enum net_config_section s)
{
    for (size_t i = 0; i < NET_N_KEYS; i++) {
        const struct net_config_key *k = &net_config_keys[i];

        if (k->section == s && k->absent.text != NULL) {
            int rc = net_config_set(k, owner, "", k->absent.text, NULL);

            /* A default that its own key refuses is a mistake in config.def. */
            assert(rc == 0);
            (void)rc;
        }
    }
}

static int begin_worker(struct reader *r, const char *name, unsigned line, struct err *e)
{
    struct net_config *c = r->c;
    struct net_config_worker *w;
    char quoted[NET_QUOTE_MAX];

    if (!net_name_ok(name)) {
        return err_set(e, ERR_FORMAT, "%s is no worker's name: a name is 1 to %d of a-z, 0-9 and -",
                       net_quote(name, quoted), NET_NAME_MAX - 1);
    }
    if (strcmp(name, "coordinator") == 0 || strcmp(name, "client") == 0) {
        return err_set(e, ERR_FORMAT,
                       "no worker can be called %s: the key of that name is the %s's", name, name);
    }
    for (uint32_t i = 0; i < c->n_workers; i++) {
        if (strcmp(c->workers[i].name, name) == 0) {
            return err_set(e, ERR_FORMAT, "[worker %s] is at line %u already", name,
                           r->worker_line[i]);
        }
    }
    if (c->n_workers == NET_WORKERS_MAX) {
        return err_set(e, ERR_RANGE, "more than %d workers", NET_WORKERS_MAX);
    }
    r->worker_line[c->n_workers] = line;
    w = &c->workers[c->n_workers++];
    *w = (struct net_config_worker){.layer0 = -1, .layer1 = -1};
    (void)snprintf(w->name, sizeof w->name, "%s", name);
    set_defaults(w, NET_SECTION_WORKER);
    return 0;
}

static int begin_section(struct reader *r, const struct net_ini_entry *x, struct err *e)
{
    int s = 0;

    while (s < NET_N_SECTIONS && strcmp(net_config_sections[s].word, x->section) != 0) {
        s++;
    }
    if (s == NET_N_SECTIONS) {
        return unknown_section(x->section, e);
    }
    r->section = (enum net_config_section)s;
    if (r->section == NET_SECTION_WORKER) {
        return begin_worker(r, x->name, x->line, e);
    }
    if (x->name[0] != '\0') {
        return err_set(e, ERR_FORMAT, "[%s] takes no name", x->section);
    }
    if (r->section_line[s] != 0) {
        return err_set(e, ERR_FORMAT, "[%s] is at line %u already", x->section, r->section_line[s]);
    }
    r->section_line[s] = x->line;
    return 0;
}

static int take_entry(void *arg, const struct net_ini_entry *x, struct err *e)
{
    struct reader *r = arg;
    unsigned scope;
    void *owner;
    int rc;

    if (x->key == NULL) {
        return begin_section(r, x, e);
    }
    for (size_t i = 0; i < NET_N_KEYS; i++) {
        const struct net_config_key *k = &net_config_keys[i];

        if (k->section != r->section || strcmp(k->key, x->key) != 0) {
            continue;
        }
        owner = owner_of(r, r->section, &scope);
        if (r->key_line[scope][i] != 0) {
            return err_set(e, ERR_FORMAT, "%s is at line %u already", k->key,
                           r->key_line[scope][i]);
        }
        r->key_line[scope][i] = x->line;
        rc = net_config_set(k, owner, r->path, x->value, e);
        return rc == 0 ? 0 : err_wrap(e, rc, "%s", k->key);
    }
    return unknown_key(r, x->key, e);
}

/* ---- after the walk -------------------------------------------------------------------------- */

/* Line of a key of [cluster] (scope 0) or of a worker; 0 where it is absent. */
static unsigned key_line(const struct reader *r, unsigned scope, const char *key)
{
    for (size_t i = 0; i < NET_N_KEYS; i++) {
        const struct net_config_key *k = &net_config_keys[i];

        if (k->section == (scope > 0 ? NET_SECTION_WORKER : NET_SECTION_CLUSTER) &&
            strcmp(k->key, key) == 0) {
            return r->key_line[scope][i];
        }
    }
    return 0;
}

static unsigned section_line(const struct reader *r, unsigned scope)
{
    return scope > 0 ? r->worker_line[scope - 1] : r->section_line[NET_SECTION_CLUSTER];
}

/* Where to send a person who must mend this key: its line, or that of the section that lacks it. */
static unsigned line_of(const struct reader *r, unsigned scope, const char *key)
{
    unsigned line = key_line(r, scope, key);

    return line != 0 ? line : section_line(r, scope);
}

static int check_required(const struct reader *r, struct err *e)
{
    if (r->section_line[NET_SECTION_CLUSTER] == 0) {
        return err_set(e, ERR_FORMAT, "%s:1: there is no [cluster] section", r->path);
    }
    if (r->c->n_workers == 0) {
        return err_set(e, ERR_FORMAT, "%s:1: there is no [worker NAME] section", r->path);
    }
    for (unsigned scope = 0; scope <= r->c->n_workers; scope++) {
        for (size_t i = 0; i < NET_N_KEYS; i++) {
            const struct net_config_key *k = &net_config_keys[i];

            if (k->absent.required && (k->section == NET_SECTION_WORKER) == (scope > 0) &&
                r->key_line[scope][i] == 0) {
                return err_set(
                    e, ERR_FORMAT, "%s:%u: [%s%s%s] has no key \"%s\", which is required", r->path,
                    section_line(r, scope), net_config_sections[k->section].word,
                    scope > 0 ? " " : "", scope > 0 ? r->c->workers[scope - 1].name : "", k->key);
            }
        }
    }
    return 0;
}

static int check_times(const struct reader *r, struct err *e)
{
    const struct net_config *c = r->c;
    unsigned line;

    if (c->dead_ms / 2 >= c->heartbeat_ms) {
        return 0;
    }
    line = key_line(r, 0, "dead-after");
    if (line == 0) {
        line = key_line(r, 0, "heartbeat");
    }
    return err_set(e, ERR_RANGE, "%s:%u: dead-after (%u ms) is less than twice heartbeat (%u ms)",
                   r->path, line, c->dead_ms, c->heartbeat_ms);
}

/* One thing that somebody listens on. */
struct listener {
    const char *endpoint, *key;
    unsigned scope;
    char host[NET_ENDPOINT_MAX];
    unsigned port;
};

static bool same_host(const char *a, const char *b)
{
    while (*a != '\0' && lower(*a) == lower(*b)) {
        a++;
        b++;
    }
    return lower(*a) == lower(*b);
}

static int check_endpoints(const struct reader *r, struct err *e)
{
    const struct net_config *c = r->c;
    struct listener all[3 + NET_WORKERS_MAX] = {{.endpoint = c->control, .key = "control"},
                                                {.endpoint = c->client, .key = "client"},
                                                {.endpoint = c->bulk, .key = "bulk"}};
    size_t n = 3;

    for (uint32_t i = 0; i < c->n_workers; i++) {
        all[n++] = (struct listener){.endpoint = c->workers[i].data, .key = "data", .scope = i + 1};
    }
    for (size_t i = 0; i < n; i++) {
        struct listener *x = &all[i];
        int rc = net_endpoint_split(x->endpoint, x->host, sizeof x->host, &x->port, e);

        assert(rc == 0); /* each was checked when it was read */
        (void)rc;
        for (size_t j = 0; j < i && x->port != 0; j++) {
            const struct listener *y = &all[j];

            if (x->port == y->port && same_host(x->host, y->host)) {
                return err_set(e, ERR_FORMAT, "%s:%u: %s: %s is %s of line %u already", r->path,
                               line_of(r, x->scope, x->key), x->key, x->endpoint, y->key,
                               line_of(r, y->scope, y->key));
            }
        }
    }
    return 0;
}

/* Workers on one machine must not share a store; the same path on different machines is fine. */
static int check_stores(const struct reader *r, struct err *e)
{
    const struct net_config *c = r->c;

    for (uint32_t i = 0; i < c->n_workers; i++) {
        for (uint32_t j = 0; j < i; j++) {
            char host_i[NET_ENDPOINT_MAX] = "", host_j[NET_ENDPOINT_MAX] = "";
            unsigned port;

            (void)net_endpoint_split(c->workers[i].data, host_i, sizeof host_i, &port, NULL);
            (void)net_endpoint_split(c->workers[j].data, host_j, sizeof host_j, &port, NULL);
            if (same_host(host_i, host_j) &&
                strcmp(c->workers[i].store, c->workers[j].store) == 0) {
                return err_set(
                    e, ERR_FORMAT,
                    "%s:%u: store: workers on one host need folders of their own, this one is "
                    "%s's",
                    r->path, line_of(r, i + 1, "store"), c->workers[j].name);
            }
        }
    }
    return 0;
}

/* The first stage has one leader. */
static int check_leader(const struct reader *r, struct err *e)
{
    const struct net_config *c = r->c;
    int leader = -1;

    for (uint32_t i = 0; i < c->n_workers; i++) {
        if (c->workers[i].leader && leader >= 0) {
            return err_set(e, ERR_FORMAT, "%s:%u: role: %s leads the first stage already", r->path,
                           line_of(r, i + 1, "role"), c->workers[leader].name);
        }
        leader = c->workers[i].leader ? (int)i : leader;
    }
    return 0;
}

/* ---- derived values -------------------------------------------------------------------------- */

/* A base folder as the XDG base directory specification has it: the variable where it is an
 * absolute path, otherwise `below` in the user's home. False where there is no home or the path
 * is too long. */
static bool user_folder(const char *variable, const char *below, char out[static NET_PATH_MAX])
{
    const char *set = getenv(variable), *home = getenv("HOME");
    int n;

    if (set != NULL && set[0] == '/') {
        n = snprintf(out, NET_PATH_MAX, "%s", set);
        return n >= 0 && n < NET_PATH_MAX;
    }
    if (home == NULL || home[0] != '/') {
        /* A service started at boot often has no environment; the user still has a home. */
        const struct passwd *p = getpwuid(getuid());

        home = p != NULL ? p->pw_dir : NULL;
    }
    if (home == NULL || home[0] != '/') {
        return false;
    }
    n = snprintf(out, NET_PATH_MAX, "%s/%s", home, below);
    return n >= 0 && n < NET_PATH_MAX;
}

/* Put BASE/shoal/CLUSTER[/NAME] into out[NET_PATH_MAX] where it is still empty. */
static int default_folder(const struct reader *r, unsigned scope, const char *key,
                          const char *variable, const char *below, char *out, struct err *e)
{
    const char *worker = scope > 0 ? r->c->workers[scope - 1].name : "";
    char base[NET_PATH_MAX];
    int n = -1;

    if (out[0] != '\0') {
        return 0;
    }
    if (user_folder(variable, below, base)) {
        n = snprintf(out, NET_PATH_MAX, "%s/shoal/%s%s%s", base, r->c->name, scope > 0 ? "/" : "",
                     worker);
    }
    if (n < 0 || n >= NET_PATH_MAX) {
        return err_set(
            e, ERR_RANGE, "%s:%u: %s: there is no good default, as %s and the user's home are %s",
            r->path, line_of(r, scope, key), key, variable, n < 0 ? "not set" : "too long a path");
    }
    return 0;
}

static int derive(const struct reader *r, struct err *e)
{
    struct net_config *c = r->c;
    char host[NET_ENDPOINT_MAX];
    unsigned port;
    int rc = net_endpoint_split(c->control, host, sizeof host, &port, e);

    assert(rc == 0);
    if (c->bulk[0] == '\0' &&
        (size_t)snprintf(c->bulk, sizeof c->bulk, "tcp://%s:0", host) >= sizeof c->bulk) {
        return err_set(e, ERR_RANGE, "%s:%u: control: the endpoint is too long", r->path,
                       line_of(r, 0, "control"));
    }
    rc = default_folder(r, 0, "state", "XDG_STATE_HOME", ".local/state", c->state, e);
    for (uint32_t i = 0; rc == 0 && i < c->n_workers; i++) {
        struct net_config_worker *w = &c->workers[i];

        if (w->bind[0] == '\0') {
            memcpy(w->bind, w->data, sizeof w->bind);
        }
        rc = default_folder(r, i + 1, "store", "XDG_CACHE_HOME", ".cache", w->store, e);
    }
    return rc;
}

/* ---- the door -------------------------------------------------------------------------------- */

static int begin(struct reader *r, const char *path, struct net_config *out, struct err *e)
{
    *r = (struct reader){.c = out, .path = path};
    memset(out, 0, sizeof *out);
    if (strlen(path) >= sizeof out->path) {
        return err_set(e, ERR_RANGE, "the path of the configuration is longer than %d bytes",
                       NET_PATH_MAX - 1);
    }
    memcpy(out->path, path, strlen(path) + 1);
    set_defaults(out, NET_SECTION_CLUSTER);
    set_defaults(out, NET_SECTION_PLACEMENT);
    return 0;
}

static int finish(const struct reader *r, struct err *e)
{
    int rc = check_required(r, e);

    if (rc == 0) {
        rc = check_times(r, e);
    }
    if (rc == 0) {
        rc = derive(r, e);
    }
    if (rc == 0) {
        rc = check_endpoints(r, e);
    }
    if (rc == 0) {
        rc = check_leader(r, e);
    }
    return rc == 0 ? check_stores(r, e) : rc;
}

int net_config_read(const char *path, struct net_config *out, struct err *e)
{
    struct reader r;
    int rc = begin(&r, path, out, e);

    if (rc == 0) {
        rc = net_ini_read(path, take_entry, &r, e);
    }
    return rc == 0 ? finish(&r, e) : rc;
}

int net_config_read_bytes(const char *path, struct span text, struct net_config *out, struct err *e)
{
    struct reader r;
    int rc = begin(&r, path, out, e);

    if (rc == 0) {
        rc = net_ini_read_bytes(path, text, take_entry, &r, e);
    }
    return rc == 0 ? finish(&r, e) : rc;
}
