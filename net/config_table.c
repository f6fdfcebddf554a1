/* The table of configuration keys and what each kind of value means.
 *
 * config.def says what there is; this file turns a row of it into a checked value in a member of
 * struct net_config or net_config_worker, and into the words for its range. The message a person
 * gets and the page of keys are made by the same function from the same row, so they agree.
 *
 * The invariant: a member is written only by a value that is good for its key, and a default goes
 * through the same checks as a value that was typed.
 *
 * Left out: which keys must be there and how values go together (net/config.c). */
#include "net/config_table.h"
#include "net/text.h"

#include <assert.h>
#include <string.h>

#define OWNER_CLUSTER   struct net_config
#define OWNER_PLACEMENT struct net_config
#define OWNER_WORKER    struct net_config_worker

#define NAME                 .kind = NET_VALUE_NAME
#define TEXT                 .kind = NET_VALUE_TEXT
#define PATH                 .kind = NET_VALUE_PATH
#define ENDPOINT(any)        .kind = NET_VALUE_ENDPOINT, .low = (any)
#define COUNT(low_, high_)   .kind = NET_VALUE_COUNT, .low = (low_), .high = (high_)
#define BYTES(low_, high_)   .kind = NET_VALUE_BYTES, .low = (low_), .high = (high_)
#define MS(low_, high_)      .kind = NET_VALUE_MS, .low = (low_), .high = (high_)
#define SECONDS(low_, high_) .kind = NET_VALUE_SECONDS, .low = (low_), .high = (high_)
#define CHOICE(list)         .kind = NET_VALUE_CHOICE, .choices = (list)
#define WEIGHT(list)         .kind = NET_VALUE_WEIGHT, .low = 0, .high = 1000, .choices = (list)
#define YESNO                .kind = NET_VALUE_YESNO
/* The last layer that a model may have, as in the widest list of layers on the wire. */
#define LAYERS            .kind = NET_VALUE_LAYERS, .high = 511
#define REQUIRED          .required = true
#define DEFAULT(text_)    .text = (text_)
#define OTHERWISE(words_) .words = (words_)

#define SECTION(S, word_, named_, sentence_)                                                       \
    [NET_SECTION_##S] = {.word = (word_), .named = (named_), .sentence = (sentence_)},
#define KEY(S, word_, member, type_, absent_, sentence_)
const struct net_config_section_info net_config_sections[NET_N_SECTIONS] = {
#include "net/config.def"
};

#define SECTION(S, word_, named_, sentence_)
#define KEY(S, word_, member, type_, absent_, sentence_)                                           \
    {.section = NET_SECTION_##S,                                                                   \
     .key = (word_),                                                                               \
     .offset = offsetof(OWNER_##S, member),                                                        \
     .bytes = sizeof(((OWNER_##S *)0)->member),                                                    \
     .type = {type_},                                                                              \
     .absent = {absent_},                                                                          \
     .sentence = (sentence_)},
const struct net_config_key net_config_keys[NET_N_KEYS] = {
#include "net/config.def"
};

/* ---- words ----------------------------------------------------------------------------------- */

const char *net_config_section_text(enum net_config_section s, char out[static NET_SECTION_TEXT])
{
    (void)snprintf(out, NET_SECTION_TEXT, "[%s%s]", net_config_sections[s].word,
                   net_config_sections[s].named ? " NAME" : "");
    return out;
}

static void ms_text(uint64_t ms, char out[static 32])
{
    if (ms % 1000 == 0) {
        (void)snprintf(out, 32, "%llu s", (unsigned long long)(ms / 1000));
    } else {
        (void)snprintf(out, 32, "%llu ms", (unsigned long long)ms);
    }
}

/* The i-th word of a list of choices; an empty span past the end. */
static struct span choice_at(const char *list, unsigned i)
{
    size_t n = strcspn(list, " ");

    for (; i > 0 && n > 0; i--) {
        list += n + (list[n] == ' ');
        n = strcspn(list, " ");
    }
    return (struct span){(const uint8_t *)list, n};
}

/* "a, b or c". */
static void choices_text(const char *list, char out[static NET_RANGE_TEXT])
{
    struct span words[16];
    size_t n = 0, used = 0;

    for (unsigned i = 0; n < 16; i++) {
        struct span word = choice_at(list, i);

        if (word.len == 0) {
            break;
        }
        words[n++] = word;
    }
    out[0] = '\0';
    for (size_t i = 0; i < n && used < NET_RANGE_TEXT; i++) {
        const char *glue = i == 0 ? "" : i + 1 == n ? " or " : ", ";

        used += (size_t)snprintf(out + used, NET_RANGE_TEXT - used, "%s%.*s", glue,
                                 (int)words[i].len, (const char *)words[i].ptr);
    }
}

const char *net_config_range_text(const struct net_config_type *t, char out[static NET_RANGE_TEXT])
{
    char low[32], high[32];

    out[0] = '\0';
    switch (t->kind) {
    case NET_VALUE_TEXT:
        (void)snprintf(out, NET_RANGE_TEXT, "any text");
        break;
    case NET_VALUE_PATH:
        (void)snprintf(out, NET_RANGE_TEXT, "a path");
        break;
    case NET_VALUE_NAME:
        (void)snprintf(out, NET_RANGE_TEXT, "1 to %d of a-z, 0-9 and -", NET_NAME_MAX - 1);
        break;
    case NET_VALUE_ENDPOINT:
        (void)snprintf(out, NET_RANGE_TEXT, "tcp://HOST:PORT%s%s",
                       (t->low & NET_ANY_HOST) != 0 ? ", HOST may be *" : "",
                       (t->low & NET_ANY_PORT) != 0 ? ", PORT may be *" : "");
        break;
    case NET_VALUE_COUNT:
        (void)snprintf(out, NET_RANGE_TEXT, "%llu to %llu", (unsigned long long)t->low,
                       (unsigned long long)t->high);
        break;
    case NET_VALUE_BYTES:
        (void)snprintf(out, NET_RANGE_TEXT, "%s to %s", base_bytes_text(t->low, low),
                       base_bytes_text(t->high, high));
        break;
    case NET_VALUE_MS:
        ms_text(t->low, low);
        ms_text(t->high, high);
        (void)snprintf(out, NET_RANGE_TEXT, "%s to %s", low, high);
        break;
    case NET_VALUE_SECONDS:
        (void)snprintf(out, NET_RANGE_TEXT, "%g to %g", (double)t->low / 1000,
                       (double)t->high / 1000);
        break;
    case NET_VALUE_CHOICE:
        choices_text(t->choices, out);
        break;
    case NET_VALUE_WEIGHT:
        choices_text(t->choices, out);
        (void)snprintf(out + strlen(out), NET_RANGE_TEXT - strlen(out),
                       ", or a number from 0 to 1");
        break;
    case NET_VALUE_YESNO:
        (void)snprintf(out, NET_RANGE_TEXT, "yes or no");
        break;
    case NET_VALUE_LAYERS:
        (void)snprintf(out, NET_RANGE_TEXT, "A-B with %llu <= A <= B <= %llu",
                       (unsigned long long)t->low, (unsigned long long)t->high);
        break;
    }
    return out;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Numbers, enums and bools of our structs are members of 1, 4 or 8 bytes. */
static void store_number(void *member, size_t bytes, uint64_t v)
{
    uint8_t v8 = (uint8_t)v;
    uint32_t v32 = (uint32_t)v;

    switch (bytes) {
    case sizeof v8:
        memcpy(member, &v8, sizeof v8);
        break;
    case sizeof v32:
        memcpy(member, &v32, sizeof v32);
        break;
    default:
        assert(bytes == sizeof v);
        memcpy(member, &v, sizeof v);
        break;
    }
}

static int store_text(const struct net_config_key *k, char *member, const char *text, struct err *e)
{
    size_t n = strlen(text);

    if (n >= k->bytes) {
        return err_set(e, ERR_RANGE, "the text has %zu bytes, at most %zu are allowed", n,
                       k->bytes - 1);
    }
    memcpy(member, text, n + 1);
    return 0;
}

static int set_path(const struct net_config_key *k, char *member, const char *file,
                    const char *text, struct err *e)
{
    char *path = base_path_beside(file, text);
    int rc;

    if (path == NULL) {
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    rc = store_text(k, member, path, e);
    base_free(path);
    return rc;
}

static int set_endpoint(const struct net_config_key *k, char *member, const char *text,
                        struct err *e)
{
    char host[NET_ENDPOINT_MAX];
    unsigned port;
    int rc = net_endpoint_split(text, host, sizeof host, &port, e);

    if (rc != 0) {
        return rc;
    }
    if ((k->type.low & NET_ANY_HOST) == 0 &&
        (strcmp(host, "*") == 0 || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "[::]") == 0)) {
        return err_set(e, ERR_FORMAT,
                       "others cannot connect to host %s: write this machine's address", host);
    }
    if ((k->type.low & NET_ANY_PORT) == 0 && port == 0) {
        return err_set(e, ERR_FORMAT, "the port must be a number from 1 to 65535");
    }
    return store_text(k, member, text, e);
}

static int set_choice(const struct net_config_key *k, void *member, const char *text, struct err *e)
{
    char quoted[NET_QUOTE_MAX], range[NET_RANGE_TEXT];

    (void)net_quote(text, quoted);
    (void)net_config_range_text(&k->type, range);
    for (unsigned i = 0;; i++) {
        struct span word = choice_at(k->type.choices, i);

        if (word.len == 0) {
            return err_set(e, ERR_FORMAT, "%s is none of its values: write %s", quoted, range);
        }
        if (base_span_is(word, text)) {
            store_number(member, k->bytes, i);
            return 0;
        }
    }
}

static int set_weight(const struct net_config_key *k, void *member, const char *text, struct err *e)
{
    char quoted[NET_QUOTE_MAX], range[NET_RANGE_TEXT];
    uint64_t thousandths = 0;
    double weight;

    if (base_span_is(choice_at(k->type.choices, 1), text)) {
        thousandths = k->type.high;
    } else if (!base_span_is(choice_at(k->type.choices, 0), text) &&
               (net_parse_thousandths(text, &thousandths, NULL) != 0 ||
                thousandths > k->type.high)) {
        return err_set(e, ERR_FORMAT, "%s is none of its values: write %s", net_quote(text, quoted),
                       net_config_range_text(&k->type, range));
    }
    weight = (double)thousandths / 1000;
    memcpy(member, &weight, sizeof weight);
    return 0;
}

static int set_yesno(const struct net_config_key *k, void *member, const char *text, struct err *e)
{
    char quoted[NET_QUOTE_MAX];
    bool yes = strcmp(text, "yes") == 0;

    if (!yes && strcmp(text, "no") != 0) {
        return err_set(e, ERR_FORMAT, "%s is none of its values: write yes or no",
                       net_quote(text, quoted));
    }
    store_number(member, k->bytes, yes);
    return 0;
}

static int set_layers(const struct net_config_key *k, struct net_config_worker *w, const char *text,
                      struct err *e)
{
    char first[24], quoted[NET_QUOTE_MAX], range[NET_RANGE_TEXT];
    const char *dash = strchr(text, '-');
    uint64_t a, b;

    if (dash == NULL || (size_t)(dash - text) >= sizeof first) {
        goto bad;
    }
    (void)snprintf(first, sizeof first, "%.*s", (int)(dash - text), text);
    if (net_parse_count(first, &a, NULL) != 0 || net_parse_count(dash + 1, &b, NULL) != 0) {
        goto bad;
    }
    if (a > b || b > k->type.high) {
        return err_set(e, ERR_RANGE, "%s is out of range: %s", net_quote(text, quoted),
                       net_config_range_text(&k->type, range));
    }
    w->layer0 = (int)a;
    w->layer1 = (int)b + 1;
    return 0;
bad:
    return err_set(e, ERR_FORMAT, "%s are no layers: write the first and the last, such as 0-3",
                   net_quote(text, quoted));
}

static int parse_number(enum net_config_kind kind, const char *text, uint64_t *v, struct err *e)
{
    uint32_t ms;
    int rc;

    switch (kind) {
    case NET_VALUE_BYTES:
        return net_parse_bytes(text, v, e);
    case NET_VALUE_SECONDS:
        return net_parse_thousandths(text, v, e);
    case NET_VALUE_MS:
        rc = net_parse_ms(text, &ms, e);
        *v = rc == 0 ? ms : 0;
        return rc;
    default:
        assert(kind == NET_VALUE_COUNT);
        return net_parse_count(text, v, e);
    }
}

static int set_number(const struct net_config_key *k, void *member, const char *text, struct err *e)
{
    char quoted[NET_QUOTE_MAX], range[NET_RANGE_TEXT];
    uint64_t v = 0;
    int rc = parse_number(k->type.kind, text, &v, e);

    if (rc != 0) {
        return rc;
    }
    if (v < k->type.low || v > k->type.high) {
        return err_set(e, ERR_RANGE, "%s is out of range: %s", net_quote(text, quoted),
                       net_config_range_text(&k->type, range));
    }
    if (k->type.kind == NET_VALUE_SECONDS) {
        double seconds = (double)v / 1000;

        memcpy(member, &seconds, sizeof seconds);
    } else {
        store_number(member, k->bytes, v);
    }
    return 0;
}

int net_config_set(const struct net_config_key *k, void *owner, const char *file, const char *text,
                   struct err *e)
{
    void *member = (char *)owner + k->offset;
    char quoted[NET_QUOTE_MAX];

    if (text[0] == '\0') {
        return err_set(e, ERR_FORMAT, "the value is missing");
    }
    switch (k->type.kind) {
    case NET_VALUE_NAME:
        if (!net_name_ok(text)) {
            return err_set(e, ERR_FORMAT, "%s is no name: a name is 1 to %d of a-z, 0-9 and -",
                           net_quote(text, quoted), NET_NAME_MAX - 1);
        }
        return store_text(k, member, text, e);
    case NET_VALUE_TEXT:
        return store_text(k, member, text, e);
    case NET_VALUE_PATH:
        return set_path(k, member, file, text, e);
    case NET_VALUE_ENDPOINT:
        return set_endpoint(k, member, text, e);
    case NET_VALUE_CHOICE:
        return set_choice(k, member, text, e);
    case NET_VALUE_WEIGHT:
        return set_weight(k, member, text, e);
    case NET_VALUE_YESNO:
        return set_yesno(k, member, text, e);
    case NET_VALUE_LAYERS:
        return set_layers(k, owner, text, e);
    case NET_VALUE_COUNT:
    case NET_VALUE_BYTES:
    case NET_VALUE_MS:
    case NET_VALUE_SECONDS:
        break;
    }
    return set_number(k, member, text, e);
}

/* ---- values as text -------------------------------------------------------------------------- */

static uint64_t load_number(const void *member, size_t bytes)
{
    uint8_t v8 = 0;
    uint32_t v32 = 0;
    uint64_t v = 0;

    switch (bytes) {
    case sizeof v8:
        memcpy(&v8, member, sizeof v8);
        return v8;
    case sizeof v32:
        memcpy(&v32, member, sizeof v32);
        return v32;
    default:
        assert(bytes == sizeof v);
        memcpy(&v, member, sizeof v);
        return v;
    }
}

/* The largest unit that says it exactly. */
static void bytes_exactly(uint64_t v, char out[static NET_VALUE_TEXT_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
    size_t u = 0;

    for (; u < 3 && v % 1024 == 0; u++) {
        v /= 1024;
    }
    (void)snprintf(out, NET_VALUE_TEXT_MAX, "%llu %s", (unsigned long long)v, units[u]);
}

static void word_text(const struct net_config_key *k, unsigned i,
                      char out[static NET_VALUE_TEXT_MAX])
{
    const struct span word = choice_at(k->type.choices, i);

    (void)snprintf(out, NET_VALUE_TEXT_MAX, "%.*s", (int)word.len, (const char *)word.ptr);
}

bool net_config_get(const struct net_config_key *k, const void *owner,
                    char out[static NET_VALUE_TEXT_MAX])
{
    const void *member = (const char *)owner + k->offset;
    const struct net_config_worker *w = owner;
    double number = 0;
    uint64_t v = 0;

    switch (k->type.kind) {
    case NET_VALUE_NAME:
    case NET_VALUE_TEXT:
    case NET_VALUE_PATH:
    case NET_VALUE_ENDPOINT:
        (void)snprintf(out, NET_VALUE_TEXT_MAX, "%s", (const char *)member);
        return out[0] != '\0';
    case NET_VALUE_LAYERS:
        (void)snprintf(out, NET_VALUE_TEXT_MAX, "%d-%d", w->layer0, w->layer1 - 1);
        return w->layer0 >= 0;
    case NET_VALUE_SECONDS:
        memcpy(&number, member, sizeof number);
        (void)snprintf(out, NET_VALUE_TEXT_MAX, "%.10g", number);
        return true;
    case NET_VALUE_WEIGHT:
        memcpy(&number, member, sizeof number);
        if (number > 0 && number < 1) {
            (void)snprintf(out, NET_VALUE_TEXT_MAX, "%.10g", number);
        } else {
            word_text(k, number > 0, out);
        }
        return true;
    case NET_VALUE_COUNT:
    case NET_VALUE_BYTES:
    case NET_VALUE_MS:
    case NET_VALUE_CHOICE:
    case NET_VALUE_YESNO:
        v = load_number(member, k->bytes);
        break;
    }
    switch (k->type.kind) {
    case NET_VALUE_BYTES:
        bytes_exactly(v, out);
        break;
    case NET_VALUE_MS:
        ms_text(v, out);
        break;
    case NET_VALUE_CHOICE:
        word_text(k, (unsigned)v, out);
        break;
    case NET_VALUE_YESNO:
        (void)snprintf(out, NET_VALUE_TEXT_MAX, "%s", v != 0 ? "yes" : "no");
        break;
    default:
        (void)snprintf(out, NET_VALUE_TEXT_MAX, "%llu", (unsigned long long)v);
        break;
    }
    return v != 0 || k->absent.words == NULL;
}
