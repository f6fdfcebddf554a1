/* Options: one table, one parser for all commands.
 *
 * getopt_long finds what belongs together; everything else comes from the table of options.def:
 * which letter and name an option has, what its value may be and where it is kept. A command
 * contributes the set of options that it takes, so --help and the parser cannot disagree.
 *
 * The invariant: after a good return every member of struct cli_options holds a value within its
 * range, given or default. Numbers are parsed strictly: "12abc", " 12", "0x12" and "1e999" are
 * mistakes, not numbers. A mistake is one sentence that names the option as it is written.
 *
 * Left out: options in the environment or in files. */
#include "client/client.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum kind { FLAG, TEXT, U32, U64, F32, STOP, BIAS, LOGPROBS, KERNELS, KV, NUMERICS };

static const struct option_row {
    const char *name, *arg, *help;
    size_t offset; /* in struct cli_options */
    double low, high;
    enum kind kind;
    char letter;
} option_table[CLI_N_OPTS] = {
#define OPTION(id, letter_, name_, arg_, kind_, member, low_, high_, help_)                        \
    [CLI_OPT_##id] = {.name = name_,                                                               \
                      .arg = arg_,                                                                 \
                      .help = help_,                                                               \
                      .offset = offsetof(struct cli_options, member),                              \
                      .low = (double)(low_),                                                       \
                      .high = (double)(high_),                                                     \
                      .kind = kind_,                                                               \
                      .letter = letter_},
#include "client/options.def"
};

enum { LONG_BASE = 256 }; /* getopt's value of option i is LONG_BASE + i */

static const uint64_t common_options =
    CLI_BIT(VERBOSE) | CLI_BIT(QUIET) | CLI_BIT(HELP) | CLI_BIT(VERSION);

/* ---- values ---------------------------------------------------------------------------------- */

bool cli_parse_u64(const char *text, uint64_t low, uint64_t high, uint64_t *out)
{
    uint64_t v = 0;
    if (text[0] == 0)
        return false;
    for (const char *p = text; *p != 0; p++) {
        const uint64_t digit = (uint64_t)(*p - '0');
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, digit, &v))
            return false;
    }
    if (v < low || v > high)
        return false;
    *out = v;
    return true;
}

bool cli_parse_f64(const char *text, double low, double high, double *out)
{
    char *end = NULL;
    if (text[0] == 0 || strspn(text, "0123456789.eE+-") != strlen(text))
        return false;
    errno = 0;
    const double v = strtod(text, &end);
    if (*end != 0 || !isfinite(v) || v < low || v > high)
        return false;
    *out = v;
    return true;
}

/* "-n" or "--top-k", as one writes it. */
static const char *spelling(enum cli_opt id, char out[static 40])
{
    const struct option_row *r = &option_table[id];
    if (r->letter != 0)
        snprintf(out, 40, "-%c", r->letter);
    else
        snprintf(out, 40, "--%s", r->name);
    return out;
}

static int take_whole(enum cli_opt id, const char *value, void *member, struct err *e)
{
    const struct option_row *r = &option_table[id];
    const uint64_t high = r->kind == U64 ? UINT64_MAX : (uint64_t)r->high;
    char name[40];
    uint64_t v = 0;
    if (!cli_parse_u64(value, (uint64_t)r->low, high, &v))
        return err_set(e, ERR_USAGE, "%s: \"%.60s\" is not a whole number from %llu to %llu",
                       spelling(id, name), value, (unsigned long long)r->low,
                       (unsigned long long)high);
    if (r->kind == U64)
        *(uint64_t *)member = v;
    else
        *(uint32_t *)member = (uint32_t)v;
    return 0;
}

static int take_decimal(enum cli_opt id, const char *value, float *member, struct err *e)
{
    const struct option_row *r = &option_table[id];
    char name[40];
    double v = 0;
    if (!cli_parse_f64(value, r->low, r->high, &v))
        return err_set(e, ERR_USAGE, "%s: \"%.60s\" is not a number from %g to %g",
                       spelling(id, name), value, r->low, r->high);
    *member = (float)v;
    return 0;
}

static int take_stop(struct cli_options *o, const char *value, struct err *e)
{
    const struct span s = base_span_str(value);
    if (o->n_stops == CLI_STOPS_MAX)
        return err_set(e, ERR_USAGE, "--stop: at most %d of them", CLI_STOPS_MAX);
    if (s.len == 0 || s.len > CLI_STOP_BYTES_MAX || !cli_utf8_ok(s))
        return err_set(e, ERR_USAGE, "--stop: the text must be UTF-8 of 1 to %d bytes",
                       CLI_STOP_BYTES_MAX);
    o->stops[o->n_stops++] = s;
    return 0;
}

bool cli_bias_add(struct model_sampling *s, const char *id, double bias)
{
    uint64_t token;
    if (s->n_biases == MODEL_BIASES_MAX || !cli_parse_u64(id, 0, MODEL_VOCAB_MAX - 1, &token))
        return false;
    s->bias_ids[s->n_biases] = (int32_t)token;
    s->biases[s->n_biases++] = bias;
    return true;
}

static int take_bias(struct model_sampling *s, const char *value, struct err *e)
{
    const char *equals = strchr(value, '=');
    char id[24];
    double bias = MODEL_BANNED;
    if (s->n_biases == MODEL_BIASES_MAX)
        return err_set(e, ERR_USAGE, "--logit-bias: at most %d of them", MODEL_BIASES_MAX);
    if (equals == NULL || (size_t)(equals - value) >= sizeof id)
        return err_set(e, ERR_USAGE, "--logit-bias: \"%.60s\" is not a token's id, =, and its bias",
                       value);
    snprintf(id, sizeof id, "%.*s", (int)(equals - value), value);
    if (strcmp(equals + 1, CLI_BANNED) != 0 && !cli_parse_f64(equals + 1, -1000, 1000, &bias))
        return err_set(e, ERR_USAGE,
                       "--logit-bias: \"%.60s\" is not a number from -1000 to 1000, nor \"%s\"",
                       equals + 1, CLI_BANNED);
    if (!cli_bias_add(s, id, bias))
        return err_set(e, ERR_USAGE, "--logit-bias: \"%.24s\" is not a token's id", id);
    return 0;
}

static int take_logprobs(enum cli_opt id, const char *value, uint32_t *member, struct err *e)
{
    const int rc = take_whole(id, value, member, e);
    *member += rc == 0 ? 1u : 0u;
    return rc;
}

static int take_kernels(struct cli_options *o, const char *value, struct err *e)
{
    char known[120] = "";
    for (unsigned i = 0; kern_table_at(i) != NULL; i++) {
        const struct kern_table *t = kern_table_at(i);
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i == 0 ? "" : ", ", t->name);
        if (strcmp(t->name, value) != 0)
            continue;
        if (!kern_table_runs(t))
            return err_set(e, ERR_UNSUPPORTED, "--kernels: this processor cannot run %s", t->name);
        o->kernels = t;
        return 0;
    }
    return err_set(e, ERR_USAGE, "--kernels: there is no \"%.40s\"; there are %s", value, known);
}

static int take_kv(struct cli_options *o, const char *value, struct err *e)
{
    if (strcmp(value, "f16") == 0)
        o->kv = KERN_KV_F16;
    else if (strcmp(value, "f32") == 0)
        o->kv = KERN_KV_F32;
    else if (strcmp(value, "q8_0") == 0)
        o->kv = KERN_KV_Q8_0;
    else
        return err_set(e, ERR_USAGE, "--kv: \"%.40s\" is none of f16, f32 and q8_0", value);
    return 0;
}

static int take_numerics(struct cli_options *o, const char *value, struct err *e)
{
    o->fast = strcmp(value, "fast") == 0;
    if (!o->fast && strcmp(value, "exact") != 0)
        return err_set(e, ERR_USAGE, "--numerics: \"%.40s\" is neither exact nor fast", value);
    return 0;
}

static int take(struct cli_options *o, enum cli_opt id, const char *value, struct err *e)
{
    const struct option_row *r = &option_table[id];
    void *member = (char *)o + r->offset;
    o->given |= UINT64_C(1) << id;
    switch (r->kind) {
    case FLAG:
        *(bool *)member = true;
        return 0;
    case TEXT:
        *(const char **)member = value;
        return 0;
    case U32:
    case U64:
        return take_whole(id, value, member, e);
    case F32:
        return take_decimal(id, value, member, e);
    case STOP:
        return take_stop(o, value, e);
    case BIAS:
        return take_bias(member, value, e);
    case LOGPROBS:
        return take_logprobs(id, value, member, e);
    case KERNELS:
        return take_kernels(o, value, e);
    case KV:
        return take_kv(o, value, e);
    case NUMERICS:
        return take_numerics(o, value, e);
    }
    return 0;
}

/* ---- the command line ------------------------------------------------------------------------ */

/* What getopt_long wants to know of the options in `takes`. */
static void describe(uint64_t takes, char *letters, struct option *longs)
{
    *letters++ = ':'; /* a missing value is told apart from an unknown option */
    for (int i = 0; i < CLI_N_OPTS; i++) {
        const struct option_row *r = &option_table[i];
        if ((takes >> i & 1) == 0)
            continue;
        *longs++ = (struct option){r->name, r->kind != FLAG ? required_argument : no_argument, NULL,
                                   LONG_BASE + i};
        if (r->letter == 0)
            continue;
        *letters++ = r->letter;
        if (r->kind != FLAG)
            *letters++ = ':';
    }
    *letters = 0;
    *longs = (struct option){NULL, 0, NULL, 0};
}

/* The option behind getopt's value, CLI_N_OPTS where it is none. */
static enum cli_opt option_of(uint64_t takes, int value)
{
    if (value >= LONG_BASE)
        return (enum cli_opt)(value - LONG_BASE);
    for (int i = 0; i < CLI_N_OPTS; i++)
        if ((takes >> i & 1) != 0 && value != 0 && option_table[i].letter == value)
            return (enum cli_opt)i;
    return CLI_N_OPTS;
}

static int refuse(uint64_t takes, int value, char *const *argv, struct err *e)
{
    const enum cli_opt id = option_of(takes, optopt);
    char name[40];
    if (value == ':')
        return err_set(e, ERR_USAGE, "%s needs a value: %s", spelling(id, name),
                       option_table[id].arg);
    if (id != CLI_N_OPTS)
        return err_set(e, ERR_USAGE, "--%s takes no value", option_table[id].name);
    if (optopt != 0)
        return err_set(e, ERR_USAGE, "there is no option -%c", optopt);
    return err_set(e, ERR_USAGE, "there is no option %.60s, or more than one begins so",
                   argv[optind - 1]);
}

static int check_rest(const struct cli_command *c, const struct cli_options *o, struct err *e)
{
    char name[40];
    for (int i = 0; i < CLI_N_OPTS; i++)
        if ((c->needs >> i & 1) != 0 && (o->given >> i & 1) == 0)
            return err_set(e, ERR_USAGE, "%s %s is missing", spelling((enum cli_opt)i, name),
                           option_table[i].arg);
    if (o->n_args < c->min_args)
        return err_set(e, ERR_USAGE, "something is missing: %s %s", c->name, c->usage);
    if (o->n_args > c->max_args)
        return err_set(e, ERR_USAGE, "\"%.60s\" is one argument too many", o->args[c->max_args]);
    return 0;
}

int cli_options_parse(const struct cli_command *c, int argc, char **argv, struct cli_options *out,
                      struct err *e)
{
    const uint64_t takes = c->takes | common_options;
    char letters[2 * CLI_N_OPTS + 2];
    struct option longs[CLI_N_OPTS + 1];
    int value, rc = 0;
    *out = (struct cli_options){.key = "client",
                                .n = UINT32_MAX,
                                .chunk = CLI_CHUNK,
                                .sampling = model_sampling_default(),
                                .bench_prompt = 512,
                                .bench_tokens = 128,
                                .bench_runs = 5};
    describe(takes, letters, longs);
    opterr = 0;
    optind = 0; /* begin anew, whatever was parsed before */
    while (rc == 0 && (value = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        if (value == ':' || value == '?')
            rc = refuse(takes, value, argv, e);
        else
            rc = take(out, option_of(takes, value), optarg, e);
    }
    if (rc != 0)
        return rc;
    out->args = argv + optind;
    out->n_args = argc - optind;
    return out->help || out->version ? 0 : check_rest(c, out, e);
}

/* ---- help ------------------------------------------------------------------------------------ */

void cli_options_help(const struct cli_command *c, FILE *out)
{
    const uint64_t takes = c->takes | common_options;
    fprintf(out, "usage: shoal %s %s\n%s\n\n", c->name, c->usage, c->summary);
    for (int i = 0; i < CLI_N_OPTS; i++) {
        const struct option_row *r = &option_table[i];
        char left[60], letter[8] = "    ";
        if ((takes >> i & 1) == 0)
            continue;
        if (r->letter != 0)
            snprintf(letter, sizeof letter, "-%c, ", r->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, r->name, r->arg != NULL ? " " : "",
                 r->arg != NULL ? r->arg : "");
        fprintf(out, "  %-26s %s\n", left, r->help);
    }
}
