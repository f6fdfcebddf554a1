/* How the board is, from the files in which Linux says it.
 *
 * Memory that is free is the least of what the configuration, the control groups and the system
 * leave (resources.c). Pressure is the kernel's own measure of stalls (PSI): the process's control
 * group's where it has one, as that counts what hurts this process, otherwise the machine's.
 * Temperatures are the thermal zones', of which the hottest counts. A Raspberry Pi's firmware says
 * in one word why it holds the processor back; on any board a limit below the fastest clock shows in
 * cpufreq, which is where the kernel's own thermal governor puts it. Supplies of type Battery that
 * are the machine's own (a wireless mouse has one, too) give charge and power.
 *
 * The invariant: whatever these files contain, what comes back is in the range that REPORT promises,
 * or is said to be unknown. Left out: fans, GPUs, what a supply without a driver does. */
#include "worker/readings.h"
#include "worker/resources.h"

#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <string.h>

enum {
    NAME_BYTES = 256,
    PATH_BYTES = 4096,
    TEXT_MAX = 64 * 1024, /* bytes of any of these files */
    ENTRIES_MAX = 64,     /* zones, clocks or supplies that are looked at */
    COLDEST_C = -60,      /* a sensor that says less, or more, is broken */
    HOTTEST_C = 200,
    POWER_MAX_W = 1000
};

/* ---- numbers --------------------------------------------------------------------------------- */

static char *text_of(const char *root, const char *folder, const char *name)
{
    char path[PATH_BYTES];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n >= 0 && (size_t)n < sizeof path ? worker_read_text(root, path, TEXT_MAX) : NULL;
}

/* A whole number with a sign, alone in its file; NAN where there is none. What does not fit into 15
 * digits is no reading of anything. */
static double number_of(const char *root, const char *folder, const char *name)
{
    char *text = text_of(root, folder, name);
    const char *p = text;
    double v = NAN;
    uint64_t whole;
    const bool below = p != NULL && *p == '-';
    if (p != NULL && worker_parse_number(p + below, &whole) && whole < UINT64_C(1000000000000000))
        v = below ? -(double)whole : (double)whole;
    base_free(text);
    return v;
}

static bool word_is(const char *root, const char *folder, const char *name, const char *word)
{
    char *text = text_of(root, folder, name);
    const size_t n = strlen(word);
    const bool is = text != NULL && strncmp(text, word, n) == 0 && !isgraph((unsigned char)text[n]);
    base_free(text);
    return is;
}

static double within(double v, double low, double high)
{
    return v >= low && v <= high ? v : NAN; /* a NAN is not within */
}

/* ---- entries of a folder --------------------------------------------------------------------- */

/* Call `each` with the path, without root, of every entry of folder whose name begins so. */
static void for_each(const char *root, const char *folder, const char *begins,
                     void (*each)(const char *root, const char *path, struct worker_readings *out),
                     struct worker_readings *out)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s", root, folder);
    DIR *d = n >= 0 && (size_t)n < sizeof path ? opendir(path) : NULL;
    if (d == NULL)
        return;
    const struct dirent *entry;
    for (unsigned seen = 0; seen < ENTRIES_MAX && (entry = readdir(d)) != NULL;) {
        if (entry->d_name[0] == '.' || strncmp(entry->d_name, begins, strlen(begins)) != 0)
            continue;
        n = snprintf(path, sizeof path, "%s/%.*s", folder, NAME_BYTES, entry->d_name);
        if (n >= 0 && (size_t)n < sizeof path)
            each(root, path, out);
        seen++;
    }
    closedir(d);
}

/* ---- pressure -------------------------------------------------------------------------------- */

/* The line is "some avg10=1.23 avg60=...". */
static double avg10_of(char *text)
{
    static const char key[] = "some avg10=";
    const char *p = text != NULL ? strstr(text, key) : NULL;
    double v = NAN, scale = 1;
    if (p != NULL && (p == text || p[-1] == '\n') && isdigit((unsigned char)p[sizeof key - 1])) {
        p += sizeof key - 1;
        for (v = 0; isdigit((unsigned char)*p) && v <= 100; p++)
            v = v * 10 + (*p - '0');
        if (*p == '.')
            for (p++; isdigit((unsigned char)*p) && scale > 1e-6; p++)
                v += (*p - '0') * (scale /= 10);
    }
    base_free(text);
    return within(v, 0, 100);
}

static double pressure(const char *root, const char *group, const char *of)
{
    char name[32];
    double v = NAN;
    snprintf(name, sizeof name, "%s.pressure", of);
    if (group[0] != 0)
        v = avg10_of(text_of(root, group, name));
    return isnan(v) ? avg10_of(text_of(root, "/proc/pressure", of)) : v;
}

/* ---- heat ------------------------------------------------------------------------------------ */

static void zone(const char *root, const char *path, struct worker_readings *out)
{
    const double c = within(number_of(root, path, "temp") / 1000, COLDEST_C, HOTTEST_C);
    /* Jetsons have a zone that says 100 degrees, always. */
    if (isnan(c) || word_is(root, path, "type", "PMIC-Die"))
        return;
    out->temperature = isnan(out->temperature) || c > out->temperature ? c : out->temperature;
}

static void clock_policy(const char *root, const char *path, struct worker_readings *out)
{
    const double most = number_of(root, path, "cpuinfo_max_freq"),
                 now = number_of(root, path, "scaling_cur_freq"),
                 limit = number_of(root, path, "scaling_max_freq");
    if (!(most > 0))
        return;
    if (limit > 0 && limit < most)
        out->flags |= WORKER_CLOCK_LIMITED;
    /* A processor may for a while be faster than the most that it says. */
    const double share = now >= 0 ? fmin(1, now / most) : NAN;
    out->clock = isnan(out->clock) || share > out->clock ? share : out->clock;
}

/* A hexadecimal number, with or without 0x; the bits above the fourth are history. */
static void firmware(const char *root, struct worker_readings *out)
{
    char *text = text_of(root, "/sys/devices/platform/soc/soc:firmware", "get_throttled");
    const char *p = text;
    uint32_t v = 0;
    if (p != NULL && p[0] == '0' && (p[1] == 'x' || p[1] == 'X'))
        p += 2;
    const char *first = p;
    for (; p != NULL && isxdigit((unsigned char)*p); p++)
        v = v << 4 | (uint32_t)(isdigit((unsigned char)*p) ? *p - '0' : (*p | 0x20) - 'a' + 10);
    if (p != NULL && p > first && p <= first + 8 && !isgraph((unsigned char)*p))
        out->flags |= v & (WORKER_LOW_VOLTAGE | WORKER_CLOCK_LIMITED | WORKER_THROTTLED |
                           WORKER_NEARLY_HOT);
    base_free(text);
}

/* ---- batteries ------------------------------------------------------------------------------- */

/* Of several, the charge of the emptiest and the power of all. */
static void supply(const char *root, const char *path, struct worker_readings *out)
{
    if (!word_is(root, path, "type", "Battery") || word_is(root, path, "scope", "Device"))
        return;
    const double charge = within(number_of(root, path, "capacity") / 100, 0, 1);
    double watts = fabs(number_of(root, path, "power_now")) / 1e6; /* drivers differ in the sign */
    if (isnan(watts))
        watts = fabs(number_of(root, path, "current_now")) *
                fabs(number_of(root, path, "voltage_now")) / 1e12;
    watts = within(watts, 0, POWER_MAX_W);
    if (word_is(root, path, "status", "Discharging")) {
        out->flags |= WORKER_ON_BATTERY;
        watts = -watts;
    }
    if (!isnan(charge) && !(charge >= out->battery))
        out->battery = charge;
    if (!isnan(watts))
        out->power = isnan(out->power) ? watts : out->power + watts;
}

/* ---- all of it ------------------------------------------------------------------------------- */

void worker_readings_take(const char *root, uint64_t limit_bytes, struct worker_readings *out)
{
    char group[PATH_BYTES] = "";
    *out = (struct worker_readings){.memory_free = worker_memory_left(root),
                                    .memory_used = worker_memory_pages(root),
                                    .memory_own = worker_memory_own(root),
                                    .temperature = NAN,
                                    .clock = NAN,
                                    .battery = NAN,
                                    .power = NAN,
                                    .quota = worker_cpu_quota(root).cores};
    /* As with the control groups' limits, files that can be read again count as free. */
    if (limit_bytes != 0) {
        const uint64_t left = limit_bytes > out->memory_own ? limit_bytes - out->memory_own : 0;
        out->memory_free = left < out->memory_free ? left : out->memory_free;
    }
    worker_group_folder(root, group, sizeof group);
    out->memory_pressure = pressure(root, group, "memory");
    out->cpu_pressure = pressure(root, group, "cpu");
    for_each(root, "/sys/class/thermal", "thermal_zone", zone, out);
    for_each(root, "/sys/devices/system/cpu/cpufreq", "policy", clock_policy, out);
    firmware(root, out);
    for_each(root, "/sys/class/power_supply", "", supply, out);
}
