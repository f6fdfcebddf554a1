/* Fuzz target: ini files and the configuration made of them. Entries must be clean text, an error
 * must name file and line, and a configuration that was taken must be complete and within its
 * limits. */
#include "net/net.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        __builtin_trap();
}

static bool clean(const char *s)
{
    for (; *s != '\0'; s++)
        if (((unsigned char)*s < 0x20 && *s != '\t') || *s == 0x7f)
            return false;
    return true;
}

static int check_entry(void *arg, const struct net_ini_entry *x, struct err *e)
{
    unsigned *last_line = arg;

    (void)e;
    must(x->line > *last_line);
    *last_line = x->line;
    must(x->section[0] != '\0' && clean(x->section) && strlen(x->section) <= NET_LINE_MAX &&
         clean(x->name));
    must((x->key == NULL) == (x->value == NULL));
    if (x->key != NULL)
        must(x->key[0] != '\0' && clean(x->key) && clean(x->value) &&
             strlen(x->value) < NET_LINE_MAX);
    return 0;
}

static void check_config(const struct net_config *c)
{
    unsigned port;

    must(net_name_ok(c->name) && c->model[0] != '\0' && c->keys[0] != '\0' && c->state[0] != '\0');
    must(c->slots >= 1 && c->slots <= 64 && c->context <= 262144 && c->kv <= 2 && c->chunk <= 512);
    must(c->heartbeat_ms >= 50 && c->dead_ms / 2 >= c->heartbeat_ms && c->solve_s > 0);
    must(c->objective >= 0 && c->objective <= 1 && c->granularity <= NET_AUTO &&
         c->algorithm <= NET_HYPERION && c->wire <= NET_SUMS_Q8);
    must(net_endpoint_split(c->control, NULL, 0, &port, NULL) == 0 && port > 0);
    must(net_endpoint_split(c->client, NULL, 0, &port, NULL) == 0 && port > 0);
    must(net_endpoint_split(c->bulk, NULL, 0, &port, NULL) == 0);
    must(c->n_workers >= 1 && c->n_workers <= NET_WORKERS_MAX);
    for (uint32_t i = 0; i < c->n_workers; i++) {
        const struct net_config_worker *w = &c->workers[i];

        must(net_name_ok(w->name) && net_config_worker(c, w->name) == w && w->store[0] != '\0');
        must(net_endpoint_split(w->data, NULL, 0, &port, NULL) == 0 && port > 0);
        must(net_endpoint_split(w->bind, NULL, 0, &port, NULL) == 0 && port > 0);
        must(w->layer0 == -1 ? w->layer1 == -1 : w->layer0 < w->layer1 && w->layer1 <= 512);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct net_config config;
    const struct span text = {data, size};
    struct err e = {.text = ""};
    unsigned line = 0;

    if (net_ini_read_bytes("f.ini", text, check_entry, &line, &e) != 0)
        must(strncmp(e.text, "f.ini:", 6) == 0 && e.text[6] >= '1' && e.text[6] <= '9' &&
             clean(e.text));
    if (net_config_read_bytes("f.ini", text, &config, &e) == 0)
        check_config(&config);
    else
        must(strncmp(e.text, "f.ini:", 6) == 0 && e.text[6] >= '1' && e.text[6] <= '9' &&
             clean(e.text));
    return 0;
}
