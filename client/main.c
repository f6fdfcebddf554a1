/* shoal: the command line. Finds the subcommand in a table, reads its options, runs it, and turns
 * what comes back into at most one line on stderr and an exit status: 0 done, 1 failed, 2 wrong
 * usage.
 *
 * Everything else is in the library, so that tests can call it. A command returns an error code
 * with a sentence; an empty sentence means that all has been said already. Whatever a command
 * printed must have reached stdout, too, or it has failed. */
#include "client/client.h"

#include <string.h>

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

enum { STATUS_FAILED = 1, STATUS_USAGE = 2 };

#define SAMPLING                                                                                   \
    (CLI_BIT(TOKENS) | CLI_BIT(TEMPERATURE) | CLI_BIT(TOP_K) | CLI_BIT(TOP_P) | CLI_BIT(MIN_P) |   \
     CLI_BIT(PENALTY) | CLI_BIT(PRESENCE) | CLI_BIT(FREQUENCY) | CLI_BIT(BIAS) | CLI_BIT(SEED) |   \
     CLI_BIT(STOP))
#define REQUESTS                                                                                   \
    (CLI_BIT(PROMPT) | CLI_BIT(PROMPTS) | CLI_BIT(LOGPROBS) | CLI_BIT(SPECIAL) | CLI_BIT(JSON))
#define COMPUTE                                                                                    \
    (CLI_BIT(THREADS) | CLI_BIT(KERNELS) | CLI_BIT(KV) | CLI_BIT(NUMERICS) | CLI_BIT(CHUNK))

static const struct cli_command commands[] = {
    {"generate", "-c FILE (-p TEXT | --prompts FILE) [OPTION]...",
     "Answers prompts with a cluster; the text goes to stdout as it comes.",
     SAMPLING | REQUESTS | CLI_BIT(CONFIG) | CLI_BIT(KEY), CLI_BIT(CONFIG), 0, 0, cli_generate},
    {"status", "-c FILE [--json]",
     "Shows a cluster's nodes: what each holds, memory, speed, last error.",
     CLI_BIT(CONFIG) | CLI_BIT(KEY) | CLI_BIT(JSON), CLI_BIT(CONFIG), 0, 0, cli_status},
    {"top", "-c FILE", "Shows a cluster's nodes live, with what they did in the last minute.",
     CLI_BIT(CONFIG) | CLI_BIT(KEY), CLI_BIT(CONFIG), 0, 0, cli_top},
    {"plan", "-c FILE [--profile FILE [-m GGUF] [--precision PERCENT]] [--svg OUT] [--json]",
     "Shows the plan in force, or solves for one from measurements in a file.",
     CLI_BIT(CONFIG) | CLI_BIT(KEY) | CLI_BIT(PROFILE) | CLI_BIT(MODEL) | CLI_BIT(PRECISION) |
         CLI_BIT(SVG) | CLI_BIT(JSON),
     CLI_BIT(CONFIG), 0, 0, cli_plan},
    {"drain", "-c FILE NAME",
     "Empties a worker: its work and KV cache go to the others, no token is lost.",
     CLI_BIT(CONFIG) | CLI_BIT(KEY), CLI_BIT(CONFIG), 1, 1, cli_drain},
    {"undrain", "-c FILE NAME", "Lets a drained worker work again.", CLI_BIT(CONFIG) | CLI_BIT(KEY),
     CLI_BIT(CONFIG), 1, 1, cli_undrain},
    {"config", "-c FILE", "Shows a configuration as it is understood, with the defaults filled in.",
     CLI_BIT(CONFIG), CLI_BIT(CONFIG), 0, 0, cli_config},
    {"keygen", "DIR NAME...",
     "Makes a key pair for each name: coordinator, the workers', and client.", 0, 0, 2, 10000,
     cli_keygen},
    {"local", "-m GGUF (-p TEXT | --prompts FILE) [OPTION]...",
     "Answers prompts in this process, without a cluster: the reference.",
     SAMPLING | REQUESTS | COMPUTE | CLI_BIT(MODEL) | CLI_BIT(CONTEXT), CLI_BIT(MODEL), 0, 0,
     cli_local},
    {"chat", "(-m GGUF | -c FILE) [--system TEXT] [OPTION]...",
     "Talks with a model, line by line; /reset starts anew, /exit ends.",
     SAMPLING | COMPUTE | CLI_BIT(MODEL) | CLI_BIT(CONFIG) | CLI_BIT(KEY) | CLI_BIT(CONTEXT) |
         CLI_BIT(SYSTEM),
     0, 0, 0, cli_chat},
    {"tokenize", "-m GGUF [--json] [--no-bos] [--special] [--] TEXT",
     "Prints the token ids of a text.",
     CLI_BIT(MODEL) | CLI_BIT(JSON) | CLI_BIT(NO_BOS) | CLI_BIT(SPECIAL), CLI_BIT(MODEL), 1, 1,
     cli_tokenize},
    {"inspect", "GGUF [--json]", "Shows a model file's metadata, tensors, types and sizes.",
     CLI_BIT(JSON), 0, 1, 1, cli_inspect},
    {"quantize", "IN OUT TYPE [-t N]",
     "Writes an F32, F16 or BF16 model file in a smaller type, or in one for each layer.",
     CLI_BIT(THREADS), 0, 3, 3, cli_quantize},
    {"perplexity", "-m GGUF -f FILE [-c CTX] [--json] [OPTION]...",
     "Measures how well a model predicts a text.",
     COMPUTE | CLI_BIT(MODEL) | CLI_BIT(FILE) | CLI_BIT(WINDOW) | CLI_BIT(JSON),
     CLI_BIT(MODEL) | CLI_BIT(FILE), 0, 0, cli_perplexity},
    {"logits", "(-m GGUF | -c FILE) -p TEXT [--json] [OPTION]...",
     "Summarises the logits at every position of a text.",
     COMPUTE | CLI_BIT(MODEL) | CLI_BIT(CONFIG) | CLI_BIT(KEY) | CLI_BIT(PROMPT) |
         CLI_BIT(SPECIAL) | CLI_BIT(JSON),
     CLI_BIT(PROMPT), 0, 0, cli_logits},
    {"bench", "-m GGUF [-t N] [-p N] [-g N] [-r N] [--json] [OPTION]...",
     "Measures prefill and decode speed in this process.",
     COMPUTE | CLI_BIT(MODEL) | CLI_BIT(BENCH_PROMPT) | CLI_BIT(BENCH_TOKENS) |
         CLI_BIT(BENCH_RUNS) | CLI_BIT(JSON),
     CLI_BIT(MODEL), 0, 0, cli_bench},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *out)
{
    fprintf(out, "usage: shoal COMMAND [OPTION]...\n"
                 "Runs language models on a cluster of small machines.\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].summary);
    fprintf(
        out,
        "\nshoal COMMAND --help lists a command's options. shoal --version prints the version.\n");
}

static int finish(const char *command, int rc, struct err *e)
{
    if (rc == 0)
        rc = cli_out_check(e);
    if (rc == 0)
        return 0;
    if (e->text[0] != 0 && rc == ERR_USAGE)
        cli_say("shoal %s: %s (shoal %s --help says more)", command, e->text, command);
    else if (e->text[0] != 0)
        cli_say("shoal %s: %s", command, e->text);
    return rc == ERR_USAGE ? STATUS_USAGE : STATUS_FAILED;
}

static int run(const struct cli_command *c, int argc, char **argv)
{
    struct cli_options o;
    struct err e = {0};
    int rc = cli_options_parse(c, argc, argv, &o, &e);
    if (rc != 0)
        return finish(c->name, rc, &e);
    if (o.help)
        cli_options_help(c, stdout);
    else if (o.version)
        printf("shoal %s\n", PACKAGE_VERSION);
    if (o.help || o.version)
        return finish(c->name, 0, &e);
    base_log_init("shoal", o.verbose ? BASE_LOG_DEBUG : o.quiet ? BASE_LOG_ERROR : BASE_LOG_INFO);
    json_set_alloc_funcs(base_alloc, base_free);
    cli_interrupt_begin();
    rc = net_init(&e);
    if (rc == 0)
        rc = c->run(&o, &e);
    return finish(c->name, rc, &e);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return run(&commands[i], argc - 1, argv + 1);
    if (strcmp(name, "--help") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0) {
        printf("shoal %s\n", PACKAGE_VERSION);
        return 0;
    }
    if (name[0] == 0)
        cli_say("shoal: which command? shoal --help lists them");
    else
        cli_say("shoal: there is no command \"%.60s\"; shoal --help lists them", name);
    return STATUS_USAGE;
}
