/* What a process may use: machines of files in a temporary folder, with every kind of control group
 * mounted the ways that systems mount them, and this machine, whatever it is. */
#include "tests/unit/fake_root.h"
#include "worker/resources.h"

#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const uint64_t MIB = 1024 * 1024;

static void have_memory(const char *available_kb)
{
    char text[256];

    (void)snprintf(text, sizeof text,
                   "MemTotal:       99999999 kB\nMemFree:          1234 kB\n"
                   "MemAvailable:    %s kB\nBuffers:            17 kB\n",
                   available_kb);
    fake_root_have("/proc/meminfo", text);
}

static uint64_t available(uint64_t limit)
{
    return worker_memory_available(fake_root, limit);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void test_a_machine_without_groups(void **state)
{
    (void)state;
    assert_int_equal(available(0), 0);
    assert_int_equal(available(5 * MIB), 5 * MIB);
    have_memory("1048576");
    assert_int_equal(available(0), 1024 * MIB);
    assert_int_equal(available(2000 * MIB), 1024 * MIB);
    assert_int_equal(available(5 * MIB), 5 * MIB);
    /* Groups exist, but nothing is mounted. */
    fake_root_have("/proc/self/cgroup", "0::/user.slice\n");
    assert_int_equal(available(0), 1024 * MIB);
    fake_root_have("/proc/self/mountinfo", "22 27 0:21 / /proc rw,relatime - proc proc rw\n");
    assert_int_equal(available(0), 1024 * MIB);
}

static const char v2_mount[] =
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";

static void test_version_2(void **state)
{
    (void)state;
    have_memory("8388608");
    fake_root_have("/proc/self/mountinfo", v2_mount);
    fake_root_have("/proc/self/cgroup", "0::/system.slice/shoal.service\n");
    assert_int_equal(available(0), 8192 * MIB);
    fake_root_have("/sys/fs/cgroup/system.slice/shoal.service/memory.max", "max\n");
    fake_root_have("/sys/fs/cgroup/system.slice/shoal.service/memory.current", "104857600\n");
    assert_int_equal(available(0), 8192 * MIB);
    fake_root_have("/sys/fs/cgroup/system.slice/shoal.service/memory.max", "1073741824\n");
    assert_int_equal(available(0), 924 * MIB);
    assert_int_equal(available(100 * MIB), 100 * MIB);
    /* The cache of files is to be had; "file" itself also counts shared memory, which is not. */
    fake_root_have("/sys/fs/cgroup/system.slice/shoal.service/memory.stat",
         "anon 1000\nfile 94371840\nsome_inactive_file 5\ninactive_file 20971520\n"
         "active_file 10485760\n");
    assert_int_equal(available(0), 954 * MIB);
    /* A group above binds, too. */
    fake_root_have("/sys/fs/cgroup/system.slice/memory.max", "524288000\n");
    fake_root_have("/sys/fs/cgroup/system.slice/memory.current", "209715200\n");
    assert_int_equal(available(0), 300 * MIB);
    fake_root_have("/sys/fs/cgroup/system.slice/memory.high", "419430400\n");
    assert_int_equal(available(0), 200 * MIB);
    /* More used than allowed leaves nothing, and not everything. */
    fake_root_have("/sys/fs/cgroup/system.slice/memory.current", "524289000\n");
    assert_int_equal(available(0), 0);
    fake_root_have("/sys/fs/cgroup/system.slice/memory.high", "max\n");
    assert_int_equal(available(0), 0);
}

static void test_a_container_of_version_2(void **state)
{
    (void)state;
    have_memory("8388608");
    fake_root_have("/proc/self/mountinfo", v2_mount);
    fake_root_have("/sys/fs/cgroup/memory.max", "268435456");
    fake_root_have("/sys/fs/cgroup/memory.current", "1048576");
    fake_root_have("/proc/self/cgroup", "0::/\n");
    assert_int_equal(available(0), 255 * MIB);
    /* A group outside of what the container sees. */
    fake_root_have("/proc/self/cgroup", "0::/../../other\n");
    fake_root_have("/sys/other/memory.max", "4096\n");
    assert_int_equal(available(0), 255 * MIB);
    /* More cache than use, as the two are not read at one time. */
    fake_root_have("/sys/fs/cgroup/memory.stat", "inactive_file 900000\nactive_file 900000\n");
    assert_int_equal(available(0), 256 * MIB);
}

static const char v1_cgroup[] = "12:pids:/docker/f00\n7:hugetlb,memory:/docker/f00\n"
                                "3:cpu,cpuacct:/docker/f00\n1:name=systemd:/docker/f00\n";

static void test_version_1(void **state)
{
    (void)state;
    have_memory("8388608");
    fake_root_have("/proc/self/cgroup", v1_cgroup);
    fake_root_have("/proc/self/mountinfo",
         "40 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
         "41 31 0:32 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory,hugetlb\n");
    fake_root_have("/sys/fs/cgroup/memory/docker/f00/memory.limit_in_bytes", "9223372036854771712\n");
    fake_root_have("/sys/fs/cgroup/memory/docker/f00/memory.usage_in_bytes", "314572800\n");
    assert_int_equal(available(0), 8192 * MIB);
    fake_root_have("/sys/fs/cgroup/memory/docker/f00/memory.limit_in_bytes", "524288000\n");
    assert_int_equal(available(0), 200 * MIB);
    fake_root_have("/sys/fs/cgroup/memory/docker/f00/memory.stat",
         "inactive_file 1\ntotal_inactive_file 52428800\ntotal_active_file 52428800\n");
    assert_int_equal(available(0), 300 * MIB);
    fake_root_have("/sys/fs/cgroup/memory/memory.limit_in_bytes", "104857600\n");
    assert_int_equal(available(0), 100 * MIB);
}

static void test_a_container_of_version_1(void **state)
{
    (void)state;
    have_memory("8388608");
    fake_root_have("/proc/self/cgroup", v1_cgroup);
    /* Only the container's own group is mounted, at a place with a space in its name. */
    fake_root_have("/proc/self/mountinfo",
         "41 31 0:32 /docker/f00 /sys/fs/c\\040g/memory ro - cgroup cg ro,memory\n");
    fake_root_have("/sys/fs/c g/memory/memory.limit_in_bytes", "209715200\n");
    fake_root_have("/sys/fs/c g/memory/memory.usage_in_bytes", "104857600\n");
    assert_int_equal(available(0), 100 * MIB);
    /* A mount that begins elsewhere, at a group whose name begins alike. */
    fake_root_have("/proc/self/mountinfo",
         "41 31 0:32 /docker/f0 /sys/fs/c\\040g/memory ro - cgroup cg ro,memory\n");
    assert_int_equal(available(0), 100 * MIB);
}

static void test_a_hybrid(void **state)
{
    (void)state;
    have_memory("8388608");
    fake_root_have("/proc/self/cgroup", "4:memory:/m\n1:cpu:/\n0::/u\n");
    fake_root_have("/proc/self/mountinfo", "41 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                                 "42 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    assert_int_equal(available(0), 8192 * MIB);
    fake_root_have("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "209715200\n");
    fake_root_have("/sys/fs/cgroup/memory/m/memory.usage_in_bytes", "0\n");
    assert_int_equal(available(0), 200 * MIB);
    fake_root_have("/sys/fs/cgroup/unified/u/memory.max", "104857600\n");
    fake_root_have("/sys/fs/cgroup/unified/u/memory.current", "0\n");
    assert_int_equal(available(0), 100 * MIB);
}

static void test_nonsense_sets_no_limit(void **state)
{
    static const char *const numbers[] = {"",      "\n",     "-1\n",
                                          "1e9\n", "0x10\n", "99999999999999999999999\n",
                                          " 5\n",  "5k\n",   "lots of it\n"};
    static const char *const mounts[] = {
        "",
        "\n\n",
        "1 2 3\n",
        "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9\n",
        "31 23 0:28 / /sys/fs/cgroup rw -\n",
        "31 23 0:28 / /sys/fs/cgroup rw - cgroup\n",
        "31 23 0:28 / /sys/fs/cgroup\\04 rw - cgroup2 cgroup2 rw\n"};
    static const char *const cgroups[] = {"",         "\n",         "0\n",
                                          "0:\n",     "0:x:/g\n",   "::/g\n",
                                          "memory\n", "4:mem:/g\n", "4:memoryx,xmemory:/g\n"};

    (void)state;
    have_memory("1024");
    fake_root_have("/proc/self/cgroup", "0::/g\n");
    fake_root_have("/proc/self/mountinfo", v2_mount);
    fake_root_have("/sys/fs/cgroup/g/memory.current", "0\n");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        fake_root_have("/sys/fs/cgroup/g/memory.max", numbers[i]);
        fake_root_have("/sys/fs/cgroup/g/cpu.max", numbers[i]);
        assert_int_equal(available(0), MIB);
        assert_int_equal(worker_cores(fake_root), worker_cores("/nowhere"));
    }
    fake_root_have("/sys/fs/cgroup/g/memory.max", "4096\n");
    assert_int_equal(available(0), 4096);
    fake_root_have("/sys/fs/cgroup/g/memory.current", "what\n");
    assert_int_equal(available(0), 4096);
    for (size_t i = 0; i < sizeof mounts / sizeof mounts[0]; i++) {
        fake_root_have("/proc/self/mountinfo", mounts[i]);
        assert_int_equal(available(0), MIB);
    }
    fake_root_have("/proc/self/mountinfo", v2_mount);
    for (size_t i = 0; i < sizeof cgroups / sizeof cgroups[0]; i++) {
        fake_root_have("/proc/self/cgroup", cgroups[i]);
        assert_int_equal(available(0), MIB);
    }
    have_memory("99999999999999999");
    assert_int_equal(available(7), 7);
    fake_root_have("/proc/meminfo", "MemAvailable");
    assert_int_equal(available(7), 7);
}

static void test_paths_too_long(void **state)
{
    enum { N = 5000 };
    static char text[2 * N + 64];

    (void)state;
    have_memory("1024");
    (void)memset(text, 'a', sizeof text);
    memcpy(text, "0::/", 4);
    memcpy(text + N, "\n", 2);
    fake_root_have("/proc/self/cgroup", text);
    fake_root_have("/proc/self/mountinfo", v2_mount);
    fake_root_have("/sys/fs/cgroup/memory.max", "4096\n");
    assert_int_equal(available(0), MIB);
    /* A group that is long, but possible; with the mount point before it, it is no path any more.
     * */
    memcpy(text + 4094, "\n", 2);
    fake_root_have("/proc/self/cgroup", text);
    assert_int_equal(available(0), MIB);
    fake_root_have("/proc/self/cgroup", "0::/\n");
    assert_int_equal(available(0), 4096);
    memset(text, 'a', sizeof text);
    memcpy(text, "31 23 0:28 / /", 14);
    memcpy(text + N, " rw - cgroup2 c rw\n", 20);
    fake_root_have("/proc/self/mountinfo", text);
    assert_int_equal(available(0), MIB);
}

static void test_resident(void **state)
{
    (void)state;
    assert_int_equal(worker_memory_resident(fake_root), 0);
    fake_root_have("/proc/self/statm", "5000 321 100 1 0 50 0\n");
    assert_int_equal(worker_memory_resident(fake_root), 321 * sysconf(_SC_PAGESIZE));
    fake_root_have("/proc/self/statm", "5000\n");
    assert_int_equal(worker_memory_resident(fake_root), 0);
    fake_root_have("/proc/self/smaps_rollup", "5590-7ffd ---p 00000000 00:00 0    [rollup]\nRss:   900 kB\n"
                                    "Pss_Dirty:      30 kB\nPss:                 512 kB\n");
    assert_int_equal(worker_memory_resident(fake_root), 512 * 1024);
}

/* ---- cores ----------------------------------------------------------------------------------- */

static unsigned at_most(unsigned n)
{
    unsigned all = worker_cores("/nowhere");

    return n < all ? n : all;
}

/* Of the tightest group above the process. */
static void quota_is(double cores, double period_s)
{
    const struct worker_quota q = worker_cpu_quota(fake_root);

    assert_true(fabs(q.cores - cores) < 1e-9 && fabs(q.period_s - period_s) < 1e-9);
}

static void test_cores(void **state)
{
    static const struct {
        const char *max;
        unsigned cores;
    } v2[] = {{"max 100000\n", UINT32_MAX}, {"100000 100000\n", 1}, {"50000 100000\n", 1},
              {"250000 100000\n", 2},       {"300000 100000\n", 3}, {"5 0\n", UINT32_MAX},
              {"1000000\n", UINT32_MAX}};

    (void)state;
    assert_true(worker_cores("/nowhere") >= 1);
    fake_root_have("/proc/self/cgroup", "3:cpu,cpuacct:/c\n0::/a/b\n");
    fake_root_have("/proc/self/mountinfo", v2_mount);
    for (size_t i = 0; i < sizeof v2 / sizeof v2[0]; i++) {
        fake_root_have("/sys/fs/cgroup/a/b/cpu.max", v2[i].max);
        assert_int_equal(worker_cores(fake_root), at_most(v2[i].cores));
    }
    fake_root_have("/sys/fs/cgroup/a/b/cpu.max", "2000 5000\n");
    quota_is(0.4, 0.005);
    fake_root_have("/sys/fs/cgroup/a/cpu.max", "30000 100000\n");
    quota_is(0.3, 0.1);
    fake_root_have("/sys/fs/cgroup/a/cpu.max", "max 100000\n");
    quota_is(0.4, 0.005);
    fake_root_have("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    quota_is(0, 0);
    fake_root_have("/sys/fs/cgroup/a/cpu.max", "100000 100000\n");
    assert_int_equal(worker_cores(fake_root), 1);
    fake_root_have("/proc/self/mountinfo", "41 31 0:32 / /cg/cpu rw - cgroup cgroup rw,cpuacct,cpu\n");
    fake_root_have("/cg/cpu/c/cpu.cfs_quota_us", "-1\n");
    fake_root_have("/cg/cpu/c/cpu.cfs_period_us", "100000\n");
    assert_int_equal(worker_cores(fake_root), at_most(UINT32_MAX));
    quota_is(0, 0);
    fake_root_have("/cg/cpu/c/cpu.cfs_quota_us", "199999\n");
    assert_int_equal(worker_cores(fake_root), 1);
    quota_is(1.99999, 0.1);
}

/* ---- this machine ---------------------------------------------------------------------------- */

static void test_this_machine(void **state)
{
    uint64_t before;
    char *block = malloc(32 * (size_t)MIB);

    (void)state;
    assert_non_null(block);
    assert_true(worker_cores("") >= 1);
    assert_true(worker_memory_available("", 0) > 0);
    assert_int_equal(worker_memory_available("", 4096), 4096);
    before = worker_memory_resident("");
    assert_true(before > 0);
    memset(block, 1, 32 * (size_t)MIB);
    __asm__ volatile("" : : "r"(block) : "memory");
    assert_true(worker_memory_resident("") >= before + 30 * MIB);
    free(block);
}

static void test_without_memory(void **state)
{
    (void)state;
    have_memory("1024");
    fake_root_have("/proc/self/mountinfo", v2_mount);
    fake_root_have("/proc/self/cgroup", "0::/g\n");
    fake_root_have("/sys/fs/cgroup/g/memory.max", "4096\n");
    for (uint64_t n = 1; n < 20; n++) {
        base_alloc_fail_nth(n);
        assert_true(available(MIB) <= MIB);
        base_alloc_fail_nth(n);
        assert_true(worker_cores(fake_root) >= 1);
        base_alloc_fail_nth(0);
    }
    assert_int_equal(available(MIB), 4096);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fake_root_set_up, fake_root_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_a_machine_without_groups),
        TEST(test_version_2),
        TEST(test_a_container_of_version_2),
        TEST(test_version_1),
        TEST(test_a_container_of_version_1),
        TEST(test_a_hybrid),
        TEST(test_nonsense_sets_no_limit),
        TEST(test_paths_too_long),
        TEST(test_resident),
        TEST(test_cores),
        TEST(test_this_machine),
        TEST(test_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
