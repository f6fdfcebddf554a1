/* The table of configuration keys, made from config.def: what the reader obeys and the page of keys
 * prints. Private to net/. */
#ifndef NET_CONFIG_TABLE_H
#define NET_CONFIG_TABLE_H

#include "net/net.h"

enum net_config_section {
    NET_SECTION_CLUSTER,
    NET_SECTION_PLACEMENT,
    NET_SECTION_WORKER,
    NET_N_SECTIONS
};

enum net_config_kind {
    NET_VALUE_NAME,     /* a-z, 0-9, - */
    NET_VALUE_TEXT,     /* as it stands */
    NET_VALUE_PATH,     /* relative ones are seen from the ini file */
    NET_VALUE_ENDPOINT, /* tcp://HOST:PORT; low: NET_ANY_* that are allowed */
    NET_VALUE_COUNT,    /* a whole number */
    NET_VALUE_BYTES,    /* a size */
    NET_VALUE_MS,       /* a time */
    NET_VALUE_SECONDS,  /* a plain number of seconds, kept as a double; range in ms */
    NET_VALUE_CHOICE,   /* one of a list, kept as its index */
    NET_VALUE_WEIGHT,   /* the first or second of a list or a number from 0 to 1, kept as a double */
    NET_VALUE_YESNO,
    NET_VALUE_LAYERS /* A-B, kept as layer0 = A and layer1 = B + 1 */
};
enum { NET_ANY_HOST = 1, NET_ANY_PORT = 2 };

/* What a value may be. */
struct net_config_type {
    enum net_config_kind kind;
    uint64_t low, high; /* range, in the unit in which the value is kept */
    const char *choices; /* "layers heads auto" */
};

/* What holds where the key is absent: exactly one of the three is set. */
struct net_config_absent {
    bool required;
    const char *text;  /* the default, as one would write it */
    const char *words; /* or what happens */
};

struct net_config_key {
    enum net_config_section section;
    const char *key;
    size_t offset, bytes; /* of the member in net_config or net_config_worker */
    struct net_config_type type;
    struct net_config_absent absent;
    const char *sentence;
};

enum {
#define SECTION(S, word, named, sentence)
#define KEY(S, word, member, type, absent, sentence) +1
    NET_N_KEYS = 0
#include "net/config.def"
};

struct net_config_section_info {
    const char *word;
    bool named; /* [worker NAME], one for each; others stand alone, at most once */
    const char *sentence;
};

extern const struct net_config_section_info net_config_sections[NET_N_SECTIONS];
extern const struct net_config_key net_config_keys[NET_N_KEYS];

/* "[cluster]" or "[worker NAME]". */
enum { NET_SECTION_TEXT = 32, NET_RANGE_TEXT = 160 };
const char *net_config_section_text(enum net_config_section s, char out[static NET_SECTION_TEXT]);
/* "1 to 64", "50 ms to 60 s", "latency or throughput": what a value may be. */
const char *net_config_range_text(const struct net_config_type *t, char out[static NET_RANGE_TEXT]);

/* Check `text` as a value of key k and keep it in *owner, a net_config or net_config_worker as
 * the key's section says. `file` is where relative paths start. ERR_FORMAT, ERR_RANGE, ERR_NOMEM;
 * the text does not name the key. */
int net_config_set(const struct net_config_key *k, void *owner, const char *file, const char *text,
                   struct err *e);
/* The other way round: the value of key k in *owner, as one would write it. False where it has none,
 * because the key is absent and what then happens is no value. */
enum { NET_VALUE_TEXT_MAX = NET_PATH_MAX };
bool net_config_get(const struct net_config_key *k, const void *owner,
                    char out[static NET_VALUE_TEXT_MAX]);

/* net/units.c: "2.5" -> 2500 (rounded down) and "64" -> 64. ERR_FORMAT. */
int net_parse_thousandths(const char *text, uint64_t *out, struct err *e);
int net_parse_count(const char *text, uint64_t *out, struct err *e);

#endif
