/* Names: what is one, and finding a worker by it.
 *
 * A name is a key's file name, a folder in the store and a word on a command line and in logs, so
 * it is kept to letters that need no quoting anywhere. These functions stand apart from the files
 * that read keys and configurations so that code which must not touch a file may use them.
 *
 * Left out: who a name belongs to on a connection; the key decides that (net/zap.c). */
#include "net/net.h"

#include <string.h>

bool net_name_ok(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return n > 0 && n < NET_NAME_MAX && name[n] == '\0';
}

const struct net_config_worker *net_config_worker(const struct net_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_workers; i++) {
        if (strcmp(c->workers[i].name, name) == 0) {
            return &c->workers[i];
        }
    }
    return NULL;
}
