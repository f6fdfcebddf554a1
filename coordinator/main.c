/* shoal-coordinator: runs a cluster. */
#include "coordinator/coordinator.h"

#include <getopt.h>

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

static const char usage[] =
    "usage: shoal-coordinator -c FILE [-v | -q]\n"
    "Runs the cluster that FILE describes: takes its workers in, measures them, plans, ships "
    "shards, and\n"
    "serves clients until it is told to stop. Logs to stderr. SIGHUP reads FILE again.\n"
    "  -c, --config FILE   the cluster's configuration\n"
    "  -v, --verbose       log every step      -q, --quiet  log warnings and errors only\n"
    "      --help          this text           --version    the version\n";

enum { OPT_HELP = 256, OPT_VERSION };

static const struct option options[] = {
    {"config", required_argument, NULL, 'c'},    {"verbose", no_argument, NULL, 'v'},
    {"quiet", no_argument, NULL, 'q'},           {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION}, {NULL, 0, NULL, 0},
};

int main(int argc, char **argv)
{
    struct coord_options o = {0};
    struct err e = {0};
    enum base_log_level level = BASE_LOG_INFO;
    int c;
    base_memory_frugal();
    while ((c = getopt_long(argc, argv, "c:vq", options, NULL)) != -1)
        switch (c) {
        case 'c':
            o.config = optarg;
            break;
        case 'v':
            level = BASE_LOG_DEBUG;
            break;
        case 'q':
            level = BASE_LOG_WARN;
            break;
        case OPT_HELP:
            fputs(usage, stdout);
            return 0;
        case OPT_VERSION:
            printf("shoal-coordinator %s\n", PACKAGE_VERSION);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    if (o.config == NULL || optind != argc) {
        fprintf(stderr, "shoal-coordinator: -c FILE is needed, and nothing else\n%s", usage);
        return 2;
    }
    base_log_init("shoal-coordinator", level);
    if (net_init(&e) != 0 || coord_run(&o, &e) != 0) {
        fprintf(stderr, "shoal-coordinator: %s\n", e.text);
        return 1;
    }
    return 0;
}
