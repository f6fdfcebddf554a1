/* How a board is, read from machines of files: a Raspberry Pi, a Jetson, a laptop, a container, and
 * files that say nothing or nonsense. */
#include "tests/unit/fake_root.h"
#include "worker/readings.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const uint64_t MIB = 1024 * 1024;

static struct worker_readings take(uint64_t limit_bytes)
{
    struct worker_readings r;
    worker_readings_take(fake_root, limit_bytes, &r);
    return r;
}

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-9;
}

static void a_machine_that_says_nothing(void **state)
{
    const struct worker_readings r = take(0);
    (void)state;
    assert_true(r.memory_free == UINT64_MAX);
    assert_int_equal(r.memory_used, 0);
    assert_true(isnan(r.memory_pressure) && isnan(r.cpu_pressure) && isnan(r.temperature));
    assert_true(isnan(r.clock) && isnan(r.battery) && isnan(r.power));
    assert_int_equal(r.flags, 0);
    assert_int_equal(take(100 * MIB).memory_free, 100 * MIB);
}

static void memory_is_what_the_tightest_limit_leaves(void **state)
{
    (void)state;
    fake_root_have("/proc/meminfo", "MemTotal: 1 kB\nMemAvailable: 1048576 kB\n");
    char statm[64];
    snprintf(statm, sizeof statm, "99999 %llu %llu 1 0 345 0\n",
             (unsigned long long)(200 * MIB) / (unsigned long long)sysconf(_SC_PAGESIZE),
             (unsigned long long)(120 * MIB) / (unsigned long long)sysconf(_SC_PAGESIZE));
    fake_root_have("/proc/self/statm", statm);
    struct worker_readings r = take(0);
    assert_int_equal(r.memory_free, 1024 * MIB);
    assert_int_equal(r.memory_used, 200 * MIB);
    assert_int_equal(r.memory_own, 80 * MIB);
    /* The weights that it has mapped are files. */
    assert_int_equal(take(512 * MIB).memory_free, 432 * MIB);
    assert_int_equal(take(70 * MIB).memory_free, 0);
    fake_root_have("/proc/self/cgroup", "0::/shoal\n");
    fake_root_have("/proc/self/mountinfo", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    fake_root_have("/sys/fs/cgroup/shoal/memory.max", "314572800\n");
    fake_root_have("/sys/fs/cgroup/shoal/memory.current", "209715200\n");
    assert_int_equal(take(512 * MIB).memory_free, 100 * MIB);
}

static void pressure_is_the_groups_own_or_the_machines(void **state)
{
    (void)state;
    fake_root_have("/proc/pressure/memory", "some avg10=12.34 avg60=0.00 avg300=0.00 total=9\n"
                                            "full avg10=99.00 avg60=0.00 avg300=0.00 total=9\n");
    fake_root_have("/proc/pressure/cpu", "some avg10=100.00 avg60=0.00 avg300=0.00 total=9\n");
    struct worker_readings r = take(0);
    assert_true(near(r.memory_pressure, 12.34) && near(r.cpu_pressure, 100));
    fake_root_have("/proc/self/cgroup", "0::/shoal\n");
    fake_root_have("/proc/self/mountinfo", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    fake_root_have("/sys/fs/cgroup/shoal/memory.pressure",
                   "some avg10=0.50 avg60=0.00 avg300=0.00 total=9\n");
    r = take(0);
    assert_true(near(r.memory_pressure, 0.5) && near(r.cpu_pressure, 100));
    static const char *const nonsense[] = {
        "",       "some avg10=\n",     "some avg10=-1.00\n",  "some avg10=100.01\n",
        "full avg10=1.00\n", "awesome avg10=1.00\n", "some avg10=nan\n",
        "some avg10=99999999999999999999999999999999999999999999999999.0\n"};
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        fake_root_have("/proc/pressure/cpu", nonsense[i]);
        assert_true(isnan(take(0).cpu_pressure));
    }
}

static void the_hottest_zone_counts(void **state)
{
    (void)state;
    fake_root_have("/sys/class/thermal/thermal_zone0/temp", "-12500\n");
    assert_true(near(take(0).temperature, -12.5));
    fake_root_have("/sys/class/thermal/thermal_zone1/temp", "61250\n");
    fake_root_have("/sys/class/thermal/thermal_zone1/type", "CPU-therm\n");
    fake_root_have("/sys/class/thermal/thermal_zone2/temp", "45000\n");
    fake_root_have("/sys/class/thermal/cooling_device0/temp", "90000\n");
    assert_true(near(take(0).temperature, 61.25));
    /* A Jetson's zone that always says 100. */
    fake_root_have("/sys/class/thermal/thermal_zone3/temp", "100000\n");
    fake_root_have("/sys/class/thermal/thermal_zone3/type", "PMIC-Die\n");
    assert_true(near(take(0).temperature, 61.25));
    static const char *const nonsense[] = {"",         "hot\n",     "-\n",      "--5000\n",
                                           "-273000\n", "999999\n", "6e4\n",    "0x10\n",
                                           "70000C\n",  "99999999999999999999999\n"};
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        fake_root_have("/sys/class/thermal/thermal_zone4/temp", nonsense[i]);
        assert_true(near(take(0).temperature, 61.25));
    }
}

static void a_raspberry_says_why_it_is_slow(void **state)
{
    static const char path[] = "/sys/devices/platform/soc/soc:firmware/get_throttled";
    static const struct {
        const char *text;
        uint32_t flags;
    } cases[] = {{"0\n", 0},           {"50005\n", 5}, {"0x50005\n", 5}, {"f0000", 0},
                 {"8\n", 8},           {"E\n", 14},    {"", 0},          {"\n", 0},
                 {"throttled=0x5", 0}, {"0x", 0},      {"5 5\n", 5},     {"100000005\n", 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fake_root_have(path, cases[i].text);
        assert_int_equal(take(0).flags, cases[i].flags);
    }
}

static void clocks_are_shares_of_the_most(void **state)
{
    (void)state;
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1800000\n");
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "1800000\n");
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "600000\n");
    struct worker_readings r = take(0);
    assert_true(near(r.clock, 1.0 / 3) && r.flags == 0);
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq", "2400000\n");
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq", "1200000\n");
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "1200000\n");
    r = take(0);
    assert_true(near(r.clock, 0.5));
    assert_int_equal(r.flags, WORKER_CLOCK_LIMITED);
    /* Faster than the most that it says; nothing; and a division by it. */
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "9000000\n");
    assert_true(near(take(0).clock, 1));
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "<unknown>\n");
    assert_true(near(take(0).clock, 1.0 / 3));
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "0\n");
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq", "-2\n");
    r = take(0);
    assert_true(isnan(r.clock) && r.flags == 0);
}

static void batteries_give_charge_and_power(void **state)
{
    (void)state;
    fake_root_have("/sys/class/power_supply/AC/type", "Mains\n");
    fake_root_have("/sys/class/power_supply/AC/capacity", "1\n");
    fake_root_have("/sys/class/power_supply/mouse/type", "Battery\n");
    fake_root_have("/sys/class/power_supply/mouse/scope", "Device\n");
    fake_root_have("/sys/class/power_supply/mouse/capacity", "2\n");
    assert_true(isnan(take(0).battery));
    fake_root_have("/sys/class/power_supply/BAT0/type", "Battery\n");
    fake_root_have("/sys/class/power_supply/BAT0/capacity", "80\n");
    fake_root_have("/sys/class/power_supply/BAT0/status", "Charging\n");
    fake_root_have("/sys/class/power_supply/BAT0/power_now", "12500000\n");
    struct worker_readings r = take(0);
    assert_true(near(r.battery, 0.8) && near(r.power, 12.5) && r.flags == 0);
    /* Drivers differ in the sign. */
    fake_root_have("/sys/class/power_supply/BAT0/status", "Discharging\n");
    fake_root_have("/sys/class/power_supply/BAT0/power_now", "-7500000\n");
    r = take(0);
    assert_true(near(r.power, -7.5));
    assert_int_equal(r.flags, WORKER_ON_BATTERY);
    /* A second one, which tells current and voltage. */
    fake_root_have("/sys/class/power_supply/BAT1/type", "Battery\n");
    fake_root_have("/sys/class/power_supply/BAT1/capacity", "30\n");
    fake_root_have("/sys/class/power_supply/BAT1/status", "Discharging\n");
    fake_root_have("/sys/class/power_supply/BAT1/current_now", "500000\n");
    fake_root_have("/sys/class/power_supply/BAT1/voltage_now", "5000000\n");
    r = take(0);
    assert_true(near(r.battery, 0.3) && near(r.power, -10));
    fake_root_have("/sys/class/power_supply/BAT1/capacity", "101\n");
    fake_root_have("/sys/class/power_supply/BAT1/current_now", "999999999999999999\n");
    r = take(0);
    assert_true(near(r.battery, 0.8) && near(r.power, -7.5));
}

/* A folder in a file's place, bytes that are no text, and no memory at any moment. */
static void whatever_the_files_are_it_comes_back(void **state)
{
    static char noise[4000];
    (void)state;
    for (size_t i = 0; i + 1 < sizeof noise; i++)
        noise[i] = (char)(1 + i * 37 % 255);
    fake_root_have("/sys/class/thermal/thermal_zone0/temp/inside", "1\n");
    fake_root_have("/sys/class/thermal/thermal_zone1/temp", noise);
    fake_root_have("/sys/class/power_supply/BAT0/type", noise);
    fake_root_have("/sys/devices/system/cpu/cpufreq/policy0", "a file\n");
    fake_root_have("/sys/devices/platform/soc/soc:firmware/get_throttled", noise);
    fake_root_have("/proc/pressure/memory", noise);
    fake_root_have("/proc/meminfo", noise);
    const struct worker_readings r = take(0);
    assert_true(isnan(r.temperature) && isnan(r.battery) && isnan(r.memory_pressure));
    assert_true(r.memory_free == UINT64_MAX && r.flags == 0);
    fake_root_have("/sys/class/thermal/thermal_zone1/temp", "50000\n");
    for (uint64_t n = 1; n < 40; n++) {
        base_alloc_fail_nth(n);
        (void)take(0);
    }
    base_alloc_fail_nth(0);
    assert_true(near(take(0).temperature, 50));
}

static void this_machine_has_memory(void **state)
{
    struct worker_readings r;
    (void)state;
    worker_readings_take("", 0, &r);
    assert_true(r.memory_free > 0 && r.memory_used > 0);
    assert_true(isnan(r.temperature) || (r.temperature > -60 && r.temperature < 200));
}

#define READINGS_TEST(f) cmocka_unit_test_setup_teardown(f, fake_root_set_up, fake_root_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        READINGS_TEST(a_machine_that_says_nothing),
        READINGS_TEST(memory_is_what_the_tightest_limit_leaves),
        READINGS_TEST(pressure_is_the_groups_own_or_the_machines),
        READINGS_TEST(the_hottest_zone_counts),
        READINGS_TEST(a_raspberry_says_why_it_is_slow),
        READINGS_TEST(clocks_are_shares_of_the_most),
        READINGS_TEST(batteries_give_charge_and_power),
        READINGS_TEST(whatever_the_files_are_it_comes_back),
        READINGS_TEST(this_machine_has_memory),
    };
    return cmocka_run_group_tests_name("readings", tests, NULL, NULL);
}
