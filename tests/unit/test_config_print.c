/* A configuration as it was understood, written out: each kind of value comes out as one would write
 * it, what has no value is left out, and what was written reads back as the same configuration. */
#include "net/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct net_config config; /* too large for a stack that is guarded */

static void read_text(const char *path, const char *text)
{
    struct err e = {.text = ""};
    const struct span bytes = {(const uint8_t *)text, strlen(text)};

    if (net_config_read_bytes(path, bytes, &config, &e) != 0) {
        fail_msg("%s in:\n%s", e.text, text);
    }
}

/* What is printed of the configuration in force, to be freed. */
static char *printed(void)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);

    assert_non_null(out);
    net_config_print(&config, out);
    (void)fclose(out);
    return text;
}

static void has_line(const char *text, const char *line)
{
    const size_t n = strlen(line);
    const char *at = strstr(text, line);

    if (at == NULL || (at != text && at[-1] != '\n') || at[n] != '\n') {
        fail_msg("no line \"%s\" in:\n%s", line, text);
    }
}

/* A file with these lines in its sections is printed with `lines` among the others, and reads back. */
static void check(const char *cluster, const char *placement, const char *worker,
                  const char *const *lines)
{
    char text[1024], *first, *second;

    (void)snprintf(text, sizeof text,
                   "[cluster]\nname: kitchen\nmodel: m.gguf\ncontrol: tcp://127.0.0.1:7700\n"
                   "client: tcp://127.0.0.1:7710\nkeys: ../keys\n%s\n[placement]\n%s\n"
                   "[worker alpha]\ndata: tcp://127.0.0.1:7721\n%s\n"
                   "[worker beta]\ndata: tcp://127.0.0.1:7722\n",
                   cluster, placement, worker);
    read_text("etc/c.ini", text);
    first = printed();
    for (; *lines != NULL; lines++) {
        has_line(first, *lines);
    }
    assert_null(strstr(first, "context:")); /* the model's own */
    read_text("c.ini", first);              /* the paths are seen from here now */
    second = printed();
    assert_string_equal(first, second);
    free(second);
    free(first);
}

static void what_is_printed_reads_back(void **state)
{
    (void)state;
    check("", "", "",
          (const char *const[]){"[cluster]", "model: etc/m.gguf", "keys: etc/../keys",
                                "heartbeat: 500 ms", "dead-after: 3 s", "kv: f16",
                                "objective: latency", "solve-seconds: 2", "[worker beta]",
                                "bind: tcp://127.0.0.1:7722", "disk: 8 GiB", "exclude: no", NULL});
    check("wire: q8\nkv: q8_0\nqueue: 0\nbulk: tcp://*:7701\nremeasure: 0 s\nchunk: 7",
          "objective: 0.25\nsolve-seconds: 2.5\nalgorithm: heads\nttft: 1500 ms",
          "layers: 2-5\nthreads: 3\nmemory: 1.5 GiB\nexclude: yes\nssh: pi@10.0.0.11",
          (const char *const[]){"wire: q8", "queue: 0", "bulk: tcp://*:7701", "remeasure: 0 s",
                                "objective: 0.25", "solve-seconds: 2.5", "ttft: 1500 ms",
                                "layers: 2-5", "memory: 1536 MiB", "exclude: yes",
                                "ssh: pi@10.0.0.11", NULL});
    check("", "objective: throughput",
          "disk: 2000001 B\nbind: tcp://*:7721\nrole: leader\nstore: s t",
          (const char *const[]){"objective: throughput", "disk: 2000001 B", "bind: tcp://*:7721",
                                "role: leader", "store: etc/s t", NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_printed_reads_back),
    };

    return cmocka_run_group_tests_name("config_print", tests, NULL, NULL);
}
