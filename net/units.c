/* Values with units: sizes, times, decimal numbers and endpoints as people write them.
 *
 * Numbers are read digit by digit in integers, never through the C library's strtod: that one obeys
 * the locale, takes "nan" and "0x1p3", and rounds. A value is exactly what is written or an error.
 * A unit must stand there: "memory: 512" would be 512 bytes to one reader and 512 MiB to another.
 *
 * Left out: expressions, signs (nothing in a cluster is negative) and whether a host exists. */
#include "net/config_table.h"
#include "net/text.h"

#include <string.h>

struct decimal {
    uint64_t whole;     /* digits before the point */
    uint64_t part, one; /* digits after it, over 10^n */
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Read digits, optionally a point and more digits; *end is behind them. */
static bool read_decimal(const char *s, struct decimal *out, const char **end)
{
    struct decimal d = {.one = 1};
    size_t digits = 0;

    for (; is_digit(*s); s++) {
        if (++digits > 18) {
            return false;
        }
        d.whole = d.whole * 10 + (uint64_t)(*s - '0');
    }
    if (digits > 0 && s[0] == '.' && is_digit(s[1])) {
        for (s++; is_digit(*s); s++) {
            if (d.one >= 1000000000) {
                return false;
            }
            d.part = d.part * 10 + (uint64_t)(*s - '0');
            d.one *= 10;
        }
    }
    *out = d;
    *end = s;
    return digits > 0;
}

/* d * unit, rounded down; *exact where nothing was lost. False where it overflows. `unit` is at
 * most 2^30, so the part's product stays below 2^60. */
static bool scale(struct decimal d, uint64_t unit, uint64_t *out, bool *exact)
{
    uint64_t whole, sum;

    *exact = d.part * unit % d.one == 0;
    if (__builtin_mul_overflow(d.whole, unit, &whole) ||
        __builtin_add_overflow(whole, d.part * unit / d.one, &sum)) {
        return false;
    }
    *out = sum;
    return true;
}

struct unit {
    const char *name;
    uint64_t scale;
};

static const struct unit size_units[] = {{"B", 1},
                                         {"kB", 1000},
                                         {"MB", 1000000},
                                         {"GB", 1000000000},
                                         {"KiB", UINT64_C(1) << 10},
                                         {"MiB", UINT64_C(1) << 20},
                                         {"GiB", UINT64_C(1) << 30}};
static const struct unit time_units[] = {{"ms", 1}, {"s", 1000}};

static const struct unit *find_unit(const struct unit *units, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(units[i].name, name) == 0) {
            return &units[i];
        }
    }
    return NULL;
}

int net_parse_bytes(const char *text, uint64_t *out, struct err *e)
{
    const struct unit *unit = NULL;
    struct decimal d;
    const char *end;
    char quoted[NET_QUOTE_MAX];
    bool exact;

    if (read_decimal(text, &d, &end)) {
        unit = find_unit(size_units, sizeof size_units / sizeof size_units[0],
                         end + strspn(end, " \t"));
    }
    if (unit == NULL) {
        return err_set(e, ERR_FORMAT,
                       "%s is no size: write a number and KiB, MiB, GiB, kB, MB or GB",
                       net_quote(text, quoted));
    }
    if (!scale(d, unit->scale, out, &exact)) {
        return err_set(e, ERR_RANGE, "%s is too large a size", net_quote(text, quoted));
    }
    return 0;
}

int net_parse_ms(const char *text, uint32_t *out, struct err *e)
{
    const struct unit *unit = NULL;
    struct decimal d;
    const char *end;
    char quoted[NET_QUOTE_MAX];
    uint64_t ms;
    bool exact;

    if (read_decimal(text, &d, &end)) {
        unit = find_unit(time_units, sizeof time_units / sizeof time_units[0],
                         end + strspn(end, " \t"));
    }
    if (unit == NULL) {
        return err_set(e, ERR_FORMAT, "%s is no time: write a number and ms or s",
                       net_quote(text, quoted));
    }
    if (!scale(d, unit->scale, &ms, &exact) || ms > UINT32_MAX) {
        return err_set(e, ERR_RANGE, "%s is too long a time", net_quote(text, quoted));
    }
    if (!exact) {
        return err_set(e, ERR_FORMAT, "%s is not a whole number of milliseconds",
                       net_quote(text, quoted));
    }
    *out = (uint32_t)ms;
    return 0;
}

int net_parse_thousandths(const char *text, uint64_t *out, struct err *e)
{
    struct decimal d;
    const char *end;
    char quoted[NET_QUOTE_MAX];
    bool exact;

    if (!read_decimal(text, &d, &end) || *end != '\0' || !scale(d, 1000, out, &exact)) {
        return err_set(e, ERR_FORMAT, "%s is no number", net_quote(text, quoted));
    }
    return 0;
}

int net_parse_count(const char *text, uint64_t *out, struct err *e)
{
    struct decimal d;
    const char *end;
    char quoted[NET_QUOTE_MAX];

    if (!read_decimal(text, &d, &end) || *end != '\0' || d.one != 1) {
        return err_set(e, ERR_FORMAT, "%s is no whole number", net_quote(text, quoted));
    }
    *out = d.whole;
    return 0;
}

/* A name, an IPv4 address, an IPv6 address in brackets, or *. */
static bool host_ok(const char *host, size_t n)
{
    static const char name[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    static const char ipv6[] = "0123456789abcdefABCDEF:.";

    if (n == 0) {
        return false;
    }
    if (n == 1 && host[0] == '*') {
        return true;
    }
    if (host[0] == '[') {
        return n > 2 && host[n - 1] == ']' && strspn(host + 1, ipv6) == n - 2;
    }
    return strspn(host, name) == n;
}

int net_endpoint_split(const char *endpoint, char *host, size_t host_max, unsigned *port,
                       struct err *e)
{
    static const char scheme[] = "tcp://";
    const char *start = endpoint + strlen(scheme), *colon;
    char quoted[NET_QUOTE_MAX];
    uint64_t number = 0;
    size_t n;

    (void)net_quote(endpoint, quoted);
    if (strncmp(endpoint, scheme, strlen(scheme)) != 0) {
        return err_set(e, ERR_FORMAT, "%s is no endpoint: write tcp://HOST:PORT", quoted);
    }
    colon = strrchr(start, ':');
    if (colon == NULL || strchr(colon, ']') != NULL) {
        return err_set(e, ERR_FORMAT, "%s has no port: write tcp://HOST:PORT", quoted);
    }
    n = (size_t)(colon - start);
    if (!host_ok(start, n)) {
        return err_set(e, ERR_FORMAT, "%s has no good host%s", quoted,
                       memchr(start, ':', n) != NULL ? ": put an IPv6 address in [ ]" : "");
    }
    if (strcmp(colon + 1, "*") != 0 &&
        (net_parse_count(colon + 1, &number, NULL) != 0 || number > 65535)) {
        return err_set(e, ERR_FORMAT, "%s has no good port: it is a number up to 65535", quoted);
    }
    if (strlen(endpoint) >= NET_ENDPOINT_MAX || (host != NULL && n >= host_max)) {
        return err_set(e, ERR_RANGE, "%s is too long an endpoint", quoted);
    }
    if (host != NULL) {
        memcpy(host, start, n);
        host[n] = '\0';
    }
    *port = (unsigned)number;
    return 0;
}
