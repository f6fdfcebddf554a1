/* shoal-worker: one node of a cluster. */
#include "worker/worker.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

static const char usage[] =
    "usage: shoal-worker -c FILE --name NAME [--kernels TABLE] [-v | -q]\n"
    "       shoal-worker -c FILE --name NAME (--verify-store | --store-folder)\n"
    "Runs one node of the cluster that FILE describes; it is the section [worker NAME].\n"
    "  -c, --config FILE     the cluster's configuration\n"
    "      --name NAME       which worker of it this is\n"
    "      --kernels TABLE   generic, sse4, avx2, avx512, neon, neon-dotprod or neon-i8mm instead "
    "of "
    "the best\n"
    "      --verify-store    check the content of every stored piece, remove what is damaged, and "
    "end\n"
    "      --store-folder    print the folder of the store, and end\n"
    "  -v, --verbose         log every step      -q, --quiet  log warnings and errors only\n"
    "      --help            this text           --version    the version\n"
    "For tests: --test-pass-ms MS sleeps in every pass, --test-rows N takes at most N rows a pass,\n"
    "--test-figure-ms MS measures each figure of the profile for so long only, --test-root DIR reads\n"
    "how the board is (/proc, /sys) below DIR.\n";

enum {
    OPT_NAME = 256,
    OPT_KERNELS,
    OPT_VERIFY,
    OPT_FOLDER,
    OPT_PASS_MS,
    OPT_ROWS,
    OPT_FIGURE_MS,
    OPT_ROOT,
    OPT_HELP,
    OPT_VERSION
};

static const struct option options[] = {
    {"config", required_argument, NULL, 'c'},
    {"name", required_argument, NULL, OPT_NAME},
    {"kernels", required_argument, NULL, OPT_KERNELS},
    {"verify-store", no_argument, NULL, OPT_VERIFY},
    {"store-folder", no_argument, NULL, OPT_FOLDER},
    {"test-pass-ms", required_argument, NULL, OPT_PASS_MS},
    {"test-rows", required_argument, NULL, OPT_ROWS},
    {"test-figure-ms", required_argument, NULL, OPT_FIGURE_MS},
    {"test-root", required_argument, NULL, OPT_ROOT},
    {"verbose", no_argument, NULL, 'v'},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

static int bad_usage(const char *why)
{
    fprintf(stderr, "shoal-worker: %s\n%s", why, usage);
    return 2;
}

/* A number of at most `max`, or false. */
static bool number(const char *text, unsigned long max, uint32_t *out)
{
    char *end;
    const unsigned long v = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != 0 || v > max)
        return false;
    *out = (uint32_t)v;
    return true;
}

static int verify(const struct worker_options *o)
{
    struct err e = {0};
    uint64_t n = 0, bad = 0;
    if (worker_verify_store(o, &n, &bad, &e) != 0) {
        fprintf(stderr, "shoal-worker: %s\n", e.text);
        return 1;
    }
    printf("%llu pieces checked, %llu damaged%s\n", (unsigned long long)n, (unsigned long long)bad,
           bad > 0 ? " and removed: they are fetched anew when a plan needs them" : "");
    return bad > 0 ? 1 : 0;
}

static int print_folder(const struct worker_options *o)
{
    char folder[NET_PATH_MAX];
    struct err e = {0};
    if (worker_store_folder(o, folder, &e) != 0) {
        fprintf(stderr, "shoal-worker: %s\n", e.text);
        return 1;
    }
    return puts(folder) < 0 || fflush(stdout) != 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    struct worker_options o = {0};
    struct err e = {0};
    enum base_log_level level = BASE_LOG_INFO;
    int (*instead)(const struct worker_options *) = NULL; /* of running */
    int c;
    base_memory_frugal();
    while ((c = getopt_long(argc, argv, "c:vq", options, NULL)) != -1)
        switch (c) {
        case 'c':
            o.config = optarg;
            break;
        case OPT_NAME:
            o.name = optarg;
            break;
        case OPT_KERNELS:
            o.kernels = optarg;
            break;
        case OPT_VERIFY:
            instead = verify;
            break;
        case OPT_FOLDER:
            instead = print_folder;
            break;
        case OPT_PASS_MS:
            if (!number(optarg, 10000, &o.test_pass_ms))
                return bad_usage("--test-pass-ms takes milliseconds up to 10000");
            break;
        case OPT_ROWS:
            if (!number(optarg, MODEL_ROWS_MAX, &o.test_rows))
                return bad_usage("--test-rows takes a number of rows");
            break;
        case OPT_FIGURE_MS:
            if (!number(optarg, 10000, &o.test_figure_ms))
                return bad_usage("--test-figure-ms takes milliseconds up to 10000");
            break;
        case 'v':
            level = BASE_LOG_DEBUG;
            break;
        case 'q':
            level = BASE_LOG_WARN;
            break;
        case OPT_ROOT:
            o.test_root = optarg;
            break;
        case OPT_HELP:
            fputs(usage, stdout);
            return 0;
        case OPT_VERSION:
            printf("shoal-worker %s\n", PACKAGE_VERSION);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    if (o.config == NULL || o.name == NULL || optind != argc)
        return bad_usage("-c FILE and --name NAME are needed, and nothing else");
    base_log_init("shoal-worker", level);
    if (net_init(&e) != 0 || (instead == NULL && worker_run(&o, &e) != 0)) {
        fprintf(stderr, "shoal-worker: %s\n", e.text);
        return 1;
    }
    return instead != NULL ? instead(&o) : 0;
}
