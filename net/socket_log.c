/* Complaints about peers: counted always, said with restraint.
 *
 * Whoever can reach a port can make us refuse him as often as he likes; the log must stay readable
 * and small. The same complaint about the same key is one line in some seconds, with the count so
 * far, and all complaints together have a limit for the same time, since a flood may come with ever
 * new keys.
 *
 * Left out: an exact memory of everybody. The table is small, and the complaint that was quiet
 * the longest makes room for a new one. */
#include "net/socket_private.h"

enum { LINES_MAX = 20 }; /* in NET_SAY_AGAIN_MS, all complaints together */

static uint64_t fold(uint64_t hash, const char *text)
{
    for (; *text != '\0'; text++) {
        hash = base_mix64(hash ^ (uint8_t)*text);
    }
    return hash;
}

static struct net_complaint *entry_of(struct net *n, uint64_t what)
{
    struct net_complaint *oldest = &n->complaints[0];

    for (unsigned i = 0; i < NET_COMPLAINTS_MAX; i++) {
        if (n->complaints[i].what == what) {
            return &n->complaints[i];
        }
        if (n->complaints[i].said_ms < oldest->said_ms) {
            oldest = &n->complaints[i];
        }
    }
    *oldest = (struct net_complaint){.what = what, .said_ms = INT64_MIN};
    return oldest;
}

void net_complain(struct net *n, const char *event, enum net_kind kind, const char *label,
                  const char *who, const char *why)
{
    const int64_t now_ms = base_clock_ms();
    struct net_complaint *c = entry_of(n, fold(fold(fold(1 + (uint64_t)kind, event), who), why));

    c->count++;
    if (c->count > 1 && now_ms - c->said_ms < NET_SAY_AGAIN_MS) {
        return;
    }
    c->said_ms = now_ms;
    if (now_ms - n->lines_since_ms >= NET_SAY_AGAIN_MS) {
        n->lines_since_ms = now_ms;
        n->lines = 0;
    }
    if (n->lines++ < LINES_MAX) {
        base_log(BASE_LOG_WARN, event, "%s=%s kind=%s why=\"%s\" count=%llu", label, who,
                 net_rules[kind].name, why, (unsigned long long)c->count);
    }
}
