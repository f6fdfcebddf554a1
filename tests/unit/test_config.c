/* The configuration reader under test.
 *
 * Each kind of mistake is made once in an otherwise good file, and the message is compared whole: a
 * person must be sent to the right line and told what to write. Then values, defaults and derived
 * ones, each sample in configs/, and the grammar of ini files by itself. */
#include "net/net.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- helpers --------------------------------------------------------------------------------- */

/* A good file; mistakes are lines put behind one of these. */
static const char good[] = "[cluster]\n"                     /* 1 */
                           "name: kitchen\n"                 /* 2 */
                           "model: m.gguf\n"                 /* 3 */
                           "control: tcp://127.0.0.1:7700\n" /* 4 */
                           "client: tcp://127.0.0.1:7710\n"  /* 5 */
                           "keys: ../keys\n"                 /* 6 */
                           "[placement]\n"                   /* 7 */
                           "[worker alpha]\n"                /* 8 */
                           "data: tcp://127.0.0.1:7721\n"    /* 9 */
                           "[worker beta]\n"                 /* 10 */
                           "data: tcp://127.0.0.1:7722\n";   /* 11 */

static int read_text(const char *text, size_t n, struct net_config *c, struct err *e)
{
    return net_config_read_bytes("etc/c.ini", (struct span){(const uint8_t *)text, n}, c, e);
}

/* The good file with line `line` replaced by `with` (several lines, or none), or with `with` put in
 * front of it. */
static char *edited(unsigned line, bool replace, const char *with)
{
    const size_t room = sizeof good + strlen(with) + 2;
    char *out = malloc(room);
    const char *at = good, *rest;

    assert_non_null(out);
    for (unsigned i = 1; i < line; i++) {
        at = strchr(at, '\n') + 1;
    }
    rest = replace ? strchr(at, '\n') + 1 : at;
    (void)snprintf(out, room, "%.*s%s%s%s", (int)(at - good), good, with,
                   with[0] != '\0' ? "\n" : "", rest);
    return out;
}

static struct net_config config; /* too large for a stack that is guarded */

static void is_good(unsigned line, bool replace, const char *with)
{
    struct err e = {.text = ""};
    char *text = edited(line, replace, with);

    if (read_text(text, strlen(text), &config, &e) != 0) {
        fail_msg("%s: %s", with, e.text);
    }
    free(text);
}

static void is_bad(unsigned line, bool replace, const char *with, int code, const char *message)
{
    struct err e = {.text = ""};
    char *text = edited(line, replace, with), *block;
    const size_t n = strlen(text);
    int rc;

    /* Exactly as long as the text, so that a sanitizer sees a step beyond it. */
    block = malloc(n);
    assert_non_null(block);
    memcpy(block, text, n);
    rc = read_text(block, n, &config, &e);
    if (strcmp(e.text, message) != 0) {
        print_message("expected: %s\n     got: %s\n", message, e.text);
    }
    assert_int_equal(rc, code);
    assert_string_equal(e.text, message);
    assert_int_equal(e.code, code);
    free(block);
    free(text);
}

#define AT(text)                           "etc/c.ini:" text
#define AFTER(line, with, code, message)   is_bad((line) + 1, false, with, code, AT(message))
#define INSTEAD(line, with, code, message) is_bad(line, true, with, code, AT(message))

/* ---- mistakes -------------------------------------------------------------------------------- */

static void bad_lines_are_named(void **state)
{
    char *longest = malloc(NET_LINE_MAX + 2);

    (void)state;
    AFTER(6, "slots", ERR_FORMAT, "7: \":\" is missing: a line is [section] or key: value");
    AFTER(6, ": 3", ERR_FORMAT, "7: the key before \":\" is missing");
    AFTER(6, "  slots:", ERR_FORMAT, "7: slots: the value is missing");
    AFTER(6, "slots: # 3", ERR_FORMAT, "7: slots: the value is missing");
    INSTEAD(7, "[placement", ERR_FORMAT, "7: \"]\" is missing at the end of the section's line");
    INSTEAD(7, "[placement # ]", ERR_FORMAT,
            "7: \"]\" is missing at the end of the section's line");
    INSTEAD(7, "[placement] x", ERR_FORMAT,
            "7: nothing but a comment may follow the \"]\" of a section");
    INSTEAD(7, "[ ]", ERR_FORMAT, "7: the section has no name");
    is_bad(1, false, "slots: 3", ERR_FORMAT, "etc/c.ini:1: a key before the first [section]");
    AFTER(6, "state: \xff", ERR_FORMAT, "7: byte 8 of the line is not UTF-8 text");
    AFTER(6, "state: \x1b[1m", ERR_FORMAT, "7: byte 8 of the line is the control character 0x1b");
    AFTER(6, "# \x01", ERR_FORMAT, "7: byte 3 of the line is the control character 0x01");
    AFTER(6, "state: a\rb", ERR_FORMAT, "7: byte 9 of the line is the control character 0x0d");

    assert_non_null(longest);
    memset(longest, 'x', NET_LINE_MAX + 1);
    longest[0] = '#';
    longest[NET_LINE_MAX] = '\0';
    is_good(7, false, longest);
    longest[NET_LINE_MAX] = 'x';
    longest[NET_LINE_MAX + 1] = '\0';
    AFTER(6, longest, ERR_FORMAT, "7: the line has 4097 bytes, at most 4096 are allowed");
    free(longest);
}

static void a_nul_byte_is_an_error(void **state)
{
    char text[sizeof good];
    struct err e;

    (void)state;
    memcpy(text, good, sizeof good);
    *strstr(text, "7721") = '\0';
    assert_int_equal(read_text(text, sizeof good - 1, &config, &e), ERR_FORMAT);
    assert_string_equal(e.text, "etc/c.ini:9: byte 23 of the line is the control character 0x00");
}

static void unknown_words_come_with_a_suggestion(void **state)
{
    (void)state;
    AFTER(6, "slot: 3", ERR_FORMAT, "7: unknown key \"slot\" in [cluster]; did you mean slots?");
    AFTER(6, "Slots: 3", ERR_FORMAT, "7: unknown key \"Slots\" in [cluster]; did you mean slots?");
    AFTER(6, "dead_after: 3 s", ERR_FORMAT,
          "7: unknown key \"dead_after\" in [cluster]; did you mean dead-after?");
    AFTER(6, "haertbeat: 1 s", ERR_FORMAT,
          "7: unknown key \"haertbeat\" in [cluster]; did you mean heartbeat?");
    AFTER(6, "kb: f16", ERR_FORMAT, "7: unknown key \"kb\" in [cluster]; did you mean kv?");
    AFTER(6, "temperature: 1", ERR_FORMAT, "7: unknown key \"temperature\" in [cluster]");
    AFTER(6, "objective: latency", ERR_FORMAT,
          "7: unknown key \"objective\" in [cluster]; it belongs into [placement]");
    AFTER(7, "slots: 3", ERR_FORMAT,
          "8: unknown key \"slots\" in [placement]; it belongs into [cluster]");
    AFTER(7, "weather: 3", ERR_FORMAT, "8: unknown key \"weather\" in [placement]");
    AFTER(9, "model: m.gguf", ERR_FORMAT,
          "10: unknown key \"model\" in [worker NAME]; it belongs into [cluster]");
    AFTER(9, "thread: 2", ERR_FORMAT,
          "10: unknown key \"thread\" in [worker NAME]; did you mean threads?");
    AFTER(9, "colour: 4", ERR_FORMAT, "10: unknown key \"colour\" in [worker NAME]");
    INSTEAD(7, "[placment]", ERR_FORMAT,
            "7: unknown section \"placment\"; did you mean [placement]?");
    INSTEAD(8, "[workers alpha]", ERR_FORMAT,
            "8: unknown section \"workers\"; did you mean [worker NAME]?");
    INSTEAD(7, "[network]", ERR_FORMAT, "7: unknown section \"network\"");
    /* A very long word is quoted in part. */
    AFTER(6,
          "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
          "aaaa: 1",
          ERR_FORMAT,
          "7: unknown key "
          "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...\" in [cluster]");
}

static void repetitions_name_the_first(void **state)
{
    (void)state;
    AFTER(6, "name: other", ERR_FORMAT, "7: name is at line 2 already");
    AFTER(11, "data: tcp://127.0.0.1:7723", ERR_FORMAT, "12: data is at line 11 already");
    AFTER(11, "[cluster]", ERR_FORMAT, "12: [cluster] is at line 1 already");
    AFTER(11, "[placement]", ERR_FORMAT, "12: [placement] is at line 7 already");
    AFTER(11, "[worker alpha]", ERR_FORMAT, "12: [worker alpha] is at line 8 already");
}

static void required_keys_are_missed(void **state)
{
    struct err e;

    (void)state;
    INSTEAD(2, "", ERR_FORMAT, "1: [cluster] has no key \"name\", which is required");
    INSTEAD(3, "", ERR_FORMAT, "1: [cluster] has no key \"model\", which is required");
    INSTEAD(4, "", ERR_FORMAT, "1: [cluster] has no key \"control\", which is required");
    INSTEAD(5, "", ERR_FORMAT, "1: [cluster] has no key \"client\", which is required");
    INSTEAD(6, "", ERR_FORMAT, "1: [cluster] has no key \"keys\", which is required");
    INSTEAD(9, "", ERR_FORMAT, "8: [worker alpha] has no key \"data\", which is required");
    assert_int_equal(read_text("", 0, &config, &e), ERR_FORMAT);
    assert_string_equal(e.text, "etc/c.ini:1: there is no [cluster] section");
    assert_int_equal(read_text(good, (size_t)(strstr(good, "[worker") - good), &config, &e),
                     ERR_FORMAT);
    assert_string_equal(e.text, "etc/c.ini:1: there is no [worker NAME] section");
}

static void sections_have_their_form(void **state)
{
    (void)state;
    INSTEAD(1, "[cluster kitchen]", ERR_FORMAT, "1: [cluster] takes no name");
    INSTEAD(8, "[worker]", ERR_FORMAT,
            "8: \"\" is no worker's name: a name is 1 to 63 of a-z, 0-9 and -");
    INSTEAD(8, "[worker Alpha]", ERR_FORMAT,
            "8: \"Alpha\" is no worker's name: a name is 1 to 63 of a-z, 0-9 and -");
    INSTEAD(8, "[worker a b]", ERR_FORMAT,
            "8: \"a b\" is no worker's name: a name is 1 to 63 of a-z, 0-9 and -");
    INSTEAD(8, "[worker ../x]", ERR_FORMAT,
            "8: \"../x\" is no worker's name: a name is 1 to 63 of a-z, 0-9 and -");
    INSTEAD(8, "[worker coordinator]", ERR_FORMAT,
            "8: no worker can be called coordinator: the key of that name is the coordinator's");
    INSTEAD(8, "[worker client]", ERR_FORMAT,
            "8: no worker can be called client: the key of that name is the client's");
}

static void there_is_room_for_sixteen_workers(void **state)
{
    struct base_buf text = {0};
    struct err e;

    (void)state;
    base_buf_add(&text, good, (size_t)(strstr(good, "[worker") - good));
    for (unsigned i = 1; i <= 17; i++) {
        base_buf_printf(&text, "[worker w%u]\ndata: tcp://10.0.0.%u:7720\n", i, i);
        if (i == 16) {
            assert_int_equal(read_text((char *)text.ptr, text.len, &config, &e), 0);
            assert_int_equal(config.n_workers, 16);
            assert_string_equal(net_config_worker(&config, "w16")->data, "tcp://10.0.0.16:7720");
        }
    }
    assert_int_equal(read_text((char *)text.ptr, text.len, &config, &e), ERR_RANGE);
    assert_string_equal(e.text, "etc/c.ini:40: more than 16 workers");
    base_buf_deinit(&text);
}

static void bad_values_are_named(void **state)
{
    (void)state;
    AFTER(6, "slots: many", ERR_FORMAT, "7: slots: \"many\" is no whole number");
    AFTER(6, "slots: -1", ERR_FORMAT, "7: slots: \"-1\" is no whole number");
    AFTER(6, "slots: 1.5", ERR_FORMAT, "7: slots: \"1.5\" is no whole number");
    AFTER(6, "slots: 0x10", ERR_FORMAT, "7: slots: \"0x10\" is no whole number");
    AFTER(6, "slots: 0", ERR_RANGE, "7: slots: \"0\" is out of range: 1 to 64");
    AFTER(6, "slots: 65", ERR_RANGE, "7: slots: \"65\" is out of range: 1 to 64");
    AFTER(6, "slots: 4294967297", ERR_RANGE, "7: slots: \"4294967297\" is out of range: 1 to 64");
    AFTER(6, "slots: 99999999999999999999", ERR_FORMAT,
          "7: slots: \"99999999999999999999\" is no whole number");
    AFTER(6, "context: 1", ERR_RANGE, "7: context: \"1\" is out of range: 2 to 262144");
    AFTER(6, "chunk: 513", ERR_RANGE, "7: chunk: \"513\" is out of range: 1 to 512");
    AFTER(6, "heartbeat: 500", ERR_FORMAT,
          "7: heartbeat: \"500\" is no time: write a number and ms or s");
    AFTER(6, "heartbeat: 1 min", ERR_FORMAT,
          "7: heartbeat: \"1 min\" is no time: write a number and ms or s");
    AFTER(6, "heartbeat: 1.5 ms", ERR_FORMAT,
          "7: heartbeat: \"1.5 ms\" is not a whole number of milliseconds");
    AFTER(6, "heartbeat: 10 ms", ERR_RANGE,
          "7: heartbeat: \"10 ms\" is out of range: 50 ms to 60 s");
    AFTER(6, "dead-after: 4294968 s", ERR_RANGE, "7: dead-after: \"4294968 s\" is too long a time");
    AFTER(7, "solve-seconds: soon", ERR_FORMAT, "8: solve-seconds: \"soon\" is no number");
    AFTER(7, "solve-seconds: nan", ERR_FORMAT, "8: solve-seconds: \"nan\" is no number");
    AFTER(7, "solve-seconds: 0", ERR_RANGE, "8: solve-seconds: \"0\" is out of range: 0.1 to 3600");
    AFTER(7, "objective: speed", ERR_FORMAT,
          "8: objective: \"speed\" is none of its values: write latency or throughput, or a number "
          "from 0 to 1");
    AFTER(7, "objective: 1.001", ERR_FORMAT,
          "8: objective: \"1.001\" is none of its values: write latency or throughput, or a number "
          "from 0 to 1");
    AFTER(7, "algorithm: milp", ERR_FORMAT,
          "8: algorithm: \"milp\" is none of its values: write program, even, memory, edgeshard, "
          "edgeshard-throughput, heads, lingualinked or hyperion");
    AFTER(7, "ttft: 0 ms", ERR_RANGE, "8: ttft: \"0 ms\" is out of range: 1 ms to 86400 s");
    AFTER(9, "heads: 0", ERR_RANGE, "10: heads: \"0\" is out of range: 1 to 512");
    AFTER(9, "role: first", ERR_FORMAT,
          "10: role: \"first\" is none of its values: write any or leader");
    AFTER(6, "wire: f32", ERR_FORMAT,
          "7: wire: \"f32\" is none of its values: write exact, f16 or q8");
    AFTER(6, "kv: f", ERR_FORMAT, "7: kv: \"f\" is none of its values: write f16, f32 or q8_0");
    AFTER(7, "use: some", ERR_FORMAT, "8: use: \"some\" is none of its values: write best or all");
    AFTER(9, "memory: 512", ERR_FORMAT,
          "10: memory: \"512\" is no size: write a number and KiB, MiB, GiB, kB, MB or GB");
    AFTER(9, "memory: 512 mib", ERR_FORMAT,
          "10: memory: \"512 mib\" is no size: write a number and KiB, MiB, GiB, kB, MB or GB");
    AFTER(9, "memory: lots", ERR_FORMAT,
          "10: memory: \"lots\" is no size: write a number and KiB, MiB, GiB, kB, MB or GB");
    AFTER(9, "memory: 99999999999 GiB", ERR_RANGE,
          "10: memory: \"99999999999 GiB\" is too large a size");
    AFTER(9, "memory: 3 kB", ERR_RANGE, "10: memory: \"3 kB\" is out of range: 1.0 MiB to 1.0 PiB");
    AFTER(9, "threads: 0", ERR_RANGE, "10: threads: \"0\" is out of range: 1 to 256");
    AFTER(9, "exclude: maybe", ERR_FORMAT,
          "10: exclude: \"maybe\" is none of its values: write yes or no");
    AFTER(9, "layers: 3", ERR_FORMAT,
          "10: layers: \"3\" are no layers: write the first and the last, such as 0-3");
    AFTER(9, "layers: a-b", ERR_FORMAT,
          "10: layers: \"a-b\" are no layers: write the first and the last, such as 0-3");
    AFTER(9, "layers: 0-3-5", ERR_FORMAT,
          "10: layers: \"0-3-5\" are no layers: write the first and the last, such as 0-3");
    AFTER(9, "layers: 5-3", ERR_RANGE,
          "10: layers: \"5-3\" is out of range: A-B with 0 <= A <= B <= 511");
    AFTER(9, "layers: 0-512", ERR_RANGE,
          "10: layers: \"0-512\" is out of range: A-B with 0 <= A <= B <= 511");
    AFTER(9, "kernels: this-name-is-longer-than-any-table", ERR_RANGE,
          "10: kernels: the text has 34 bytes, at most 31 are allowed");
    AFTER(9, "kernels: 0123456789abcdef0123456789abcdef", ERR_RANGE,
          "10: kernels: the text has 32 bytes, at most 31 are allowed");
    is_good(10, false, "kernels: 0123456789abcdef0123456789abcde");
    INSTEAD(2, "name: The Kitchen", ERR_FORMAT,
            "2: name: \"The Kitchen\" is no name: a name is 1 to 63 of a-z, 0-9 and -");
}

static void endpoints_are_checked(void **state)
{
    (void)state;
    INSTEAD(9, "data: 10.0.0.1:7720", ERR_FORMAT,
            "9: data: \"10.0.0.1:7720\" is no endpoint: write tcp://HOST:PORT");
    INSTEAD(9, "data: udp://10.0.0.1:7720", ERR_FORMAT,
            "9: data: \"udp://10.0.0.1:7720\" is no endpoint: write tcp://HOST:PORT");
    INSTEAD(9, "data: tcp://10.0.0.1", ERR_FORMAT,
            "9: data: \"tcp://10.0.0.1\" has no port: write tcp://HOST:PORT");
    INSTEAD(9, "data: tcp://[::1]", ERR_FORMAT,
            "9: data: \"tcp://[::1]\" has no port: write tcp://HOST:PORT");
    INSTEAD(9, "data: tcp://:7720", ERR_FORMAT, "9: data: \"tcp://:7720\" has no good host");
    INSTEAD(9, "data: tcp://a b:7720", ERR_FORMAT, "9: data: \"tcp://a b:7720\" has no good host");
    INSTEAD(9, "data: tcp://::1:7720", ERR_FORMAT,
            "9: data: \"tcp://::1:7720\" has no good host: put an IPv6 address in [ ]");
    INSTEAD(9, "data: tcp://10.0.0.1:http", ERR_FORMAT,
            "9: data: \"tcp://10.0.0.1:http\" has no good port: it is a number up to 65535");
    INSTEAD(9, "data: tcp://10.0.0.1:65536", ERR_FORMAT,
            "9: data: \"tcp://10.0.0.1:65536\" has no good port: it is a number up to 65535");
    INSTEAD(9, "data: tcp://10.0.0.1:", ERR_FORMAT,
            "9: data: \"tcp://10.0.0.1:\" has no good port: it is a number up to 65535");
    INSTEAD(9, "data: tcp://10.0.0.1:0", ERR_FORMAT,
            "9: data: the port must be a number from 1 to 65535");
    INSTEAD(9, "data: tcp://10.0.0.1:*", ERR_FORMAT,
            "9: data: the port must be a number from 1 to 65535");
    INSTEAD(9, "data: tcp://*:7720", ERR_FORMAT,
            "9: data: others cannot connect to host *: write this machine's address");
    INSTEAD(4, "control: tcp://0.0.0.0:7700", ERR_FORMAT,
            "4: control: others cannot connect to host 0.0.0.0: write this machine's address");
    INSTEAD(11, "data: tcp://127.0.0.1:7721", ERR_FORMAT,
            "11: data: tcp://127.0.0.1:7721 is data of line 9 already");
    INSTEAD(11, "data: tcp://127.0.0.1:7700", ERR_FORMAT,
            "11: data: tcp://127.0.0.1:7700 is control of line 4 already");
    INSTEAD(5, "client: tcp://127.0.0.1:07700", ERR_FORMAT,
            "5: client: tcp://127.0.0.1:07700 is control of line 4 already");
    AFTER(6, "bulk: tcp://127.0.0.1:7721", ERR_FORMAT,
          "10: data: tcp://127.0.0.1:7721 is bulk of line 7 already");
    is_good(11, true, "data: tcp://127.0.0.2:7721");
    is_good(11, true, "data: tcp://[fe80::1]:7721");
    is_good(12, false, "bind: tcp://*:7722");
    is_good(7, false, "bulk: tcp://*:*");
}

static void keys_must_go_together(void **state)
{
    (void)state;
    AFTER(6, "dead-after: 999 ms", ERR_RANGE,
          "7: dead-after (999 ms) is less than twice heartbeat (500 ms)");
    AFTER(6, "heartbeat: 2 s", ERR_RANGE,
          "7: dead-after (3000 ms) is less than twice heartbeat (2000 ms)");
    AFTER(6, "dead-after: 3 s\nheartbeat: 2 s", ERR_RANGE,
          "7: dead-after (3000 ms) is less than twice heartbeat (2000 ms)");
    is_good(7, false, "dead-after: 1 s");
    AFTER(9, "role: leader\n[worker gamma]\ndata: tcp://127.0.0.1:7799\nrole: leader", ERR_FORMAT,
          "13: role: alpha leads the first stage already");
    is_good(7, false, "heartbeat: 2 s\ndead-after: 4 s");
    is_bad(
        10, false,
        "store: /var/shoal\n[worker gamma]\ndata: tcp://127.0.0.1:7799\nstore: /var/shoal",
        ERR_FORMAT,
        "etc/c.ini:13: store: workers on one host need folders of their own, this one is alpha's");
    is_good(10, false,
            "store: /var/shoal\n[worker gamma]\ndata: tcp://127.0.0.9:7799\nstore: /var/shoal");
}

/* ---- values ---------------------------------------------------------------------------------- */

static void defaults_are_those_of_the_page(void **state)
{
    const struct net_config_worker *w;

    (void)state;
    (void)setenv("XDG_CACHE_HOME", "/cache", 1);
    (void)setenv("XDG_STATE_HOME", "not/absolute", 1);
    (void)setenv("HOME", "/home/pi", 1);
    is_good(1, false, "");
    assert_string_equal(config.path, "etc/c.ini");
    assert_string_equal(config.name, "kitchen");
    assert_string_equal(config.model, "etc/m.gguf");
    assert_string_equal(config.keys, "etc/../keys");
    assert_int_equal(config.context, 0);
    assert_int_equal(config.slots, 4);
    assert_int_equal(config.queue, 64);
    assert_int_equal(config.chunk, 0);
    assert_int_equal(config.kv, 0);
    assert_int_equal(config.heartbeat_ms, 500);
    assert_int_equal(config.dead_ms, 3000);
    assert_string_equal(config.bulk, "tcp://127.0.0.1:0");
    assert_string_equal(config.state, "/home/pi/.local/state/shoal/kitchen");
    assert_int_equal(config.wire, NET_SUMS_EXACT);
    assert_int_equal(config.remeasure_ms, 60000);
    assert_true(config.objective <= 0);
    assert_int_equal(config.granularity, NET_AUTO);
    assert_int_equal(config.algorithm, NET_PROGRAM);
    assert_int_equal(config.ttft_ms, 0);
    assert_int_equal(config.prompt, 128);
    assert_int_equal(config.horizon_ms, 600000);
    assert_int_equal(config.move_budget, 0);
    assert_false(config.use_all);
    assert_true(config.solve_s >= 2 && config.solve_s <= 2);
    assert_int_equal(config.n_workers, 2);
    w = net_config_worker(&config, "beta");
    assert_ptr_equal(w, &config.workers[1]);
    assert_string_equal(w->data, "tcp://127.0.0.1:7722");
    assert_string_equal(w->bind, w->data);
    assert_string_equal(w->store, "/cache/shoal/kitchen/beta");
    assert_string_equal(w->ssh, "");
    assert_string_equal(w->kernels, "");
    assert_int_equal(w->threads, 0);
    assert_int_equal(w->memory_bytes, 0);
    assert_true(w->disk_bytes == UINT64_C(8) << 30);
    assert_int_equal(w->layer0, -1);
    assert_int_equal(w->layer1, -1);
    assert_false(w->exclude);
    assert_null(net_config_worker(&config, "gamma"));
    assert_null(net_config_worker(&config, ""));
}

static void values_are_kept(void **state)
{
    const struct net_config_worker *w = &config.workers[0];

    (void)state;
    is_good(
        7, false,
        "context: 512\nslots: 8\nqueue = 0\nchunk: 32\nkv: f32\nheartbeat: 0.25 s\ndead-after: 2s\n"
        "state: /var/lib/shoal\nbulk: tcp://[::1]:*\n"
        "[worker delta]\ndata: tcp://pi-4.local:1\n bind = tcp://*:7722\n\tssh: "
        "pi@10.0.0.11\nthreads: 2\n"
        "memory: 1.5 GiB\ndisk: 3 MB\nstore: here # comment\nkernels: generic\nlayers: "
        "0-3\nexclude: yes");
    assert_int_equal(config.context, 512);
    assert_int_equal(config.slots, 8);
    assert_int_equal(config.queue, 0);
    assert_int_equal(config.chunk, 32);
    assert_int_equal(config.kv, 1);
    assert_int_equal(config.heartbeat_ms, 250);
    assert_int_equal(config.dead_ms, 2000);
    assert_string_equal(config.state, "/var/lib/shoal");
    assert_string_equal(config.bulk, "tcp://[::1]:*");
    assert_string_equal(w->name, "delta");
    assert_string_equal(w->data, "tcp://pi-4.local:1");
    assert_string_equal(w->bind, "tcp://*:7722");
    assert_string_equal(w->ssh, "pi@10.0.0.11");
    assert_int_equal(w->threads, 2);
    assert_true(w->memory_bytes == UINT64_C(3) << 29);
    assert_true(w->disk_bytes == 3000000);
    assert_string_equal(w->store, "etc/here");
    assert_string_equal(w->kernels, "generic");
    assert_int_equal(w->layer0, 0);
    assert_int_equal(w->layer1, 4);
    assert_true(w->exclude);

    is_good(8, false,
            "objective: 0.25\ngranularity: heads\nalgorithm: edgeshard-throughput\n"
            "ttft: 2 s\nprompt: 512\nhorizon: 60 s\nmove-budget: 2 GiB");
    assert_int_equal(config.horizon_ms, 60000);
    assert_true(config.move_budget == UINT64_C(2) << 30);
    assert_true(fabs(config.objective - 0.25) < 1e-9);
    assert_int_equal(config.granularity, NET_HEADS);
    assert_int_equal(config.algorithm, NET_EDGESHARD_THROUGHPUT);
    assert_int_equal(config.ttft_ms, 2000);
    assert_int_equal(config.prompt, 512);
    is_good(8, false, "algorithm: heads");
    assert_int_equal(config.algorithm, NET_MYOPIC_HEADS);
    is_good(8, false, "algorithm: hyperion");
    assert_int_equal(config.algorithm, NET_HYPERION);
    is_good(7, false, "wire: q8\nremeasure: 0 s");
    assert_int_equal(config.wire, NET_SUMS_Q8);
    assert_int_equal(config.remeasure_ms, 0);
    is_good(10, false, "heads: 4\ncolumns: 1408\nrole: leader");
    assert_int_equal(config.workers[0].heads, 4);
    assert_int_equal(config.workers[0].columns, 1408);
    assert_true(config.workers[0].leader);
    is_good(8, false, "objective: throughput\ngranularity: layers\nuse: all\nsolve-seconds: 0.5");
    assert_true(config.objective >= 1);
    assert_int_equal(config.granularity, NET_LAYERS);
    assert_true(config.use_all);
    assert_true(config.solve_s >= 0.5 && config.solve_s <= 0.5);
}

static void units_mean_what_they_say(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"0 B", 0},
                 {"1 kB", 1000},
                 {"1 KiB", 1024},
                 {"2MB", 2000000},
                 {"2 MiB", 2097152},
                 {"1 GB", 1000000000},
                 {"1\tGiB", 1073741824},
                 {"0.5 KiB", 512},
                 {"1.2 GiB", 1288490188},
                 {"16777216 GiB", UINT64_C(1) << 54}};
    static const char *const bad[] = {"",
                                      "MiB",
                                      "1",
                                      "-1 MiB",
                                      "1 TiB",
                                      "1 MiB x",
                                      ".5 MiB",
                                      "1. MiB",
                                      "1e3 B",
                                      "1 Mib",
                                      " 1 MiB",
                                      "1.1234567890 B",
                                      "1234567890123456789 B",
                                      "1,5 GiB"};
    uint64_t bytes;
    uint32_t ms;
    struct err e;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(net_parse_bytes(sizes[i].text, &bytes, &e), 0);
        assert_true(bytes == sizes[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(net_parse_bytes(bad[i], &bytes, &e), ERR_FORMAT);
    }
    assert_int_equal(net_parse_bytes("17179869184 GiB", &bytes, &e), ERR_RANGE);
    assert_int_equal(net_parse_ms("500 ms", &ms, &e), 0);
    assert_int_equal(ms, 500);
    assert_int_equal(net_parse_ms("1.25s", &ms, &e), 0);
    assert_int_equal(ms, 1250);
    assert_int_equal(net_parse_ms("4294967.295 s", &ms, &e), 0);
    assert_true(ms == UINT32_MAX);
    assert_int_equal(net_parse_ms("4294967.296 s", &ms, &e), ERR_RANGE);
    assert_int_equal(net_parse_ms("1", &ms, &e), ERR_FORMAT);
    assert_int_equal(net_parse_ms("1 m", &ms, &e), ERR_FORMAT);
}

static void endpoints_come_apart(void **state)
{
    char host[16], longest[200];
    unsigned port;

    (void)state;
    assert_int_equal(net_endpoint_split("tcp://10.0.0.1:7700", host, sizeof host, &port, NULL), 0);
    assert_string_equal(host, "10.0.0.1");
    assert_int_equal(port, 7700);
    assert_int_equal(net_endpoint_split("tcp://[fe80::1]:1", host, sizeof host, &port, NULL), 0);
    assert_string_equal(host, "[fe80::1]");
    assert_int_equal(net_endpoint_split("tcp://*:*", host, sizeof host, &port, NULL), 0);
    assert_string_equal(host, "*");
    assert_int_equal(port, 0);
    assert_int_equal(
        net_endpoint_split("tcp://a-host.of.sixteen:1", host, sizeof host, &port, NULL), ERR_RANGE);
    assert_int_equal(net_endpoint_split("tcp://a-host.of.sixteen:1", NULL, 0, &port, NULL), 0);
    assert_int_equal(net_endpoint_split("tcp", host, sizeof host, &port, NULL), ERR_FORMAT);
    assert_int_equal(net_endpoint_split("tcp://[]:1", host, sizeof host, &port, NULL), ERR_FORMAT);
    assert_int_equal(net_endpoint_split("tcp://[::1:1", host, sizeof host, &port, NULL),
                     ERR_FORMAT);
    assert_int_equal(net_endpoint_split("tcp://**:1", host, sizeof host, &port, NULL), ERR_FORMAT);
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "tcp://", 6);
    memcpy(longest + sizeof longest - 3, ":1", 3);
    assert_int_equal(net_endpoint_split(longest, NULL, 0, &port, NULL), ERR_RANGE);
}

static void long_paths_are_refused(void **state)
{
    char *path = malloc(NET_PATH_MAX + 20);
    struct err e;

    (void)state;
    assert_non_null(path);
    memset(path, 'p', NET_PATH_MAX + 19);
    path[NET_PATH_MAX + 19] = '\0';
    memcpy(path, "state: /", 8);
    AFTER(6, path, ERR_RANGE, "7: state: the text has 1036 bytes, at most 1023 are allowed");
    assert_int_equal(net_config_read_bytes(path, (struct span){NULL, 0}, &config, &e), ERR_RANGE);
    path[1023 + 7] = '\0';
    is_good(7, false, path);
    (void)setenv("XDG_CACHE_HOME", path + 7, 1);
    INSTEAD(2, "name: kitchen", ERR_RANGE,
            "8: store: there is no good default, as XDG_CACHE_HOME and the user's home are too "
            "long a path");
    (void)setenv("XDG_CACHE_HOME", "/cache", 1);
    free(path);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void samples_are_good(void **state)
{
    const char *root = getenv("SHOAL_SRCDIR");
    char folder[800], path[1100];
    struct dirent *file;
    unsigned n = 0;
    DIR *dir;

    (void)state;
    (void)snprintf(folder, sizeof folder, "%s/configs", root != NULL ? root : ".");
    dir = opendir(folder);
    assert_non_null(dir);
    while ((file = readdir(dir)) != NULL) {
        const size_t length = strlen(file->d_name);
        struct err e = {.text = ""};

        if (length < 4 || strcmp(file->d_name + length - 4, ".ini") != 0) {
            continue;
        }
        (void)snprintf(path, sizeof path, "%s/%s", folder, file->d_name);
        if (net_config_read(path, &config, &e) != 0) {
            fail_msg("%s", e.text);
        }
        n++;
    }
    (void)closedir(dir);
    assert_true(n >= 2);
}

static void a_missing_file_is_not_found(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(net_config_read("/nowhere/c.ini", &config, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "/nowhere/c.ini"));
}

static void reading_survives_lack_of_memory(void **state)
{
    const int64_t live = base_alloc_live();
    const char *root = getenv("SHOAL_SRCDIR");
    char path[800];
    int rc = ERR_NOMEM;
    uint64_t n;

    (void)state;
    (void)snprintf(path, sizeof path, "%s/configs/local3.ini", root != NULL ? root : ".");
    for (n = 1; rc == ERR_NOMEM && n < 100; n++) {
        base_alloc_fail_nth(n);
        rc = net_config_read(path, &config, NULL);
        base_alloc_fail_nth(0);
        assert_int_equal(base_alloc_live(), live);
    }
    assert_int_equal(rc, 0);
    assert_true(n > 3);
}

/* ---- the grammar by itself ------------------------------------------------------------------- */

/* What the walker tells, as "LINE[section|name]" and "LINE key=value" joined by ';'. */
static int note(void *arg, const struct net_ini_entry *x, struct err *e)
{
    struct base_buf *out = arg;

    if (x->key == NULL) {
        base_buf_printf(out, "%u[%s|%s];", x->line, x->section, x->name);
    } else if (strcmp(x->key, "stop") == 0) {
        return err_set(e, ERR_CANCELLED, "enough");
    } else {
        base_buf_printf(out, "%u %s|%s %s=%s;", x->line, x->section, x->name, x->key, x->value);
    }
    return 0;
}

static void walks(const char *text, const char *expected)
{
    struct base_buf out = {0};
    struct err e;

    assert_int_equal(net_ini_read_bytes("f", base_span_str(text), note, &out, &e), 0);
    base_buf_add(&out, "", 1);
    assert_string_equal((char *)out.ptr, expected);
    base_buf_deinit(&out);
}

static void the_grammar_is_this_one(void **state)
{
    (void)state;
    walks("", "");
    walks("\n \t\n# a\n\t # b", "");
    walks("[a]", "1[a|];");
    walks("[a]\nk: v", "1[a|];2 a| k=v;");
    walks("[a]\r\nk: v\r\n", "1[a|];2 a| k=v;");
    walks("\xef\xbb\xbf[a]\nk:v\n", "1[a|];2 a| k=v;");
    walks(" [ a  b  c ] # d\n\t k \t= \t v w \t\n", "1[a|b  c];2 a|b  c k=v w;");
    walks("[a]\nk: tcp://h:1\nl = x:y\nm: x=y", "1[a|];2 a| k=tcp://h:1;3 a| l=x:y;4 a| m=x=y;");
    walks("[a]\nk: a#b #c\nl: #d\nm:\n#n: 1", "1[a|];2 a| k=a#b;3 a| l=;4 a| m=;");
    walks("[a]\nk: 1\n    l: 2\n[b]\nk: 3", "1[a|];2 a| k=1;3 a| l=2;4[b|];5 b| k=3;");
    walks("[caf\xc3\xa9]\n\xc3\xa9: \xe2\x82\xac",
          "1[caf\xc3\xa9|];2 caf\xc3\xa9| \xc3\xa9=\xe2\x82\xac;");
}

static void the_walk_ends_where_it_is_told(void **state)
{
    struct base_buf out = {0};
    struct err e;

    (void)state;
    assert_int_equal(
        net_ini_read_bytes("f", base_span_str("[a]\nk: 1\nstop: 1\nk: 2"), note, &out, &e),
        ERR_CANCELLED);
    assert_string_equal(e.text, "f:3: enough");
    base_buf_add(&out, "", 1);
    assert_string_equal((char *)out.ptr, "1[a|];2 a| k=1;");
    base_buf_deinit(&out);
    assert_int_equal(net_ini_read("/nowhere", note, &out, &e), ERR_NOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(a_nul_byte_is_an_error),
        cmocka_unit_test(unknown_words_come_with_a_suggestion),
        cmocka_unit_test(repetitions_name_the_first),
        cmocka_unit_test(required_keys_are_missed),
        cmocka_unit_test(sections_have_their_form),
        cmocka_unit_test(there_is_room_for_sixteen_workers),
        cmocka_unit_test(bad_values_are_named),
        cmocka_unit_test(endpoints_are_checked),
        cmocka_unit_test(keys_must_go_together),
        cmocka_unit_test(defaults_are_those_of_the_page),
        cmocka_unit_test(values_are_kept),
        cmocka_unit_test(units_mean_what_they_say),
        cmocka_unit_test(endpoints_come_apart),
        cmocka_unit_test(long_paths_are_refused),
        cmocka_unit_test(samples_are_good),
        cmocka_unit_test(a_missing_file_is_not_found),
        cmocka_unit_test(reading_survives_lack_of_memory),
        cmocka_unit_test(the_grammar_is_this_one),
        cmocka_unit_test(the_walk_ends_where_it_is_told),
    };

    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
