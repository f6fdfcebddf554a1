/* The page of configuration keys, docs/configuration.md, and a configuration as it was understood,
 * both written from the reader's own table.
 *
 * Key, default, range and sentence come from config.def by way of the functions that also word the
 * reader's messages, so the page says what the reader does. The committed page is compared with the
 * output of this file by a test. Left out: advice; sample files in configs/ are commented. */
#include "net/config_table.h"

static const char introduction[] =
    "# The configuration file\n"
    "\n"
    "One ini file describes a cluster; every program reads it, and a worker finds itself by\n"
    "`--name`. Samples are in `configs/`. This page is generated from `net/config.def`, edit\n"
    "that instead.\n"
    "\n"
    "## Grammar\n"
    "\n"
    "    [cluster]                 # a section\n"
    "    name: kitchen             # a key and its value; \"name = kitchen\" says the same\n"
    "\n"
    "    [worker alpha]            # a section with a name\n"
    "      data: tcp://10.0.0.11:7720\n"
    "\n"
    "- Sections and keys may be indented by spaces and tabs, as one likes; a line is never\n"
    "  continued.\n"
    "- `#` begins a comment at the start of a line or after a space or tab. There are no quotes.\n"
    "- The file is UTF-8 text with lines of at most 4096 bytes.\n"
    "- Sizes are a number and B, kB, MB, GB (thousands) or KiB, MiB, GiB (powers of 1024): `512\n"
    "  MiB`.\n"
    "- Times are a number and ms or s: `500 ms`, `3 s`.\n"
    "- Endpoints are `tcp://HOST:PORT`; HOST is a name, an IPv4 address or an IPv6 address in\n"
    "  brackets.\n"
    "- Relative paths are relative to the folder of the ini file.\n"
    "- Names are 1 to 63 of a-z, 0-9 and -. No worker can be called coordinator or client.\n"
    "- An unknown or repeated section or key, a value out of its range and everything that\n"
    "  cannot be understood is an error that names file and line. So is one endpoint in two\n"
    "  places, and one store for two workers of a host.\n";

static void write_key(FILE *out, const struct net_config_key *k)
{
    const struct net_config_absent *a = &k->absent;
    char range[NET_RANGE_TEXT];

    fprintf(out, "| `%s` | ", k->key);
    if (a->required) {
        fprintf(out, "required");
    } else if (a->text != NULL) {
        fprintf(out, "`%s`", a->text);
    } else {
        fprintf(out, "%s", a->words);
    }
    fprintf(out, " | %s | %s |\n", net_config_range_text(&k->type, range), k->sentence);
}

void net_config_document(FILE *out)
{
    char text[NET_SECTION_TEXT];

    fputs(introduction, out);
    for (int s = 0; s < NET_N_SECTIONS; s++) {
        const enum net_config_section section = (enum net_config_section)s;

        fprintf(out, "\n## %s\n\n%s\n\n| key | default | range | meaning |\n|---|---|---|---|\n",
                net_config_section_text(section, text), net_config_sections[s].sentence);
        for (size_t i = 0; i < NET_N_KEYS; i++) {
            if (net_config_keys[i].section == section) {
                write_key(out, &net_config_keys[i]);
            }
        }
    }
}

static void print_section(const void *owner, enum net_config_section section, FILE *out)
{
    char text[NET_VALUE_TEXT_MAX];

    for (size_t i = 0; i < NET_N_KEYS; i++) {
        const struct net_config_key *k = &net_config_keys[i];

        if (k->section == section && net_config_get(k, owner, text)) {
            fprintf(out, "%s: %s\n", k->key, text);
        }
    }
}

void net_config_print(const struct net_config *c, FILE *out)
{
    fputs("[cluster]\n", out);
    print_section(c, NET_SECTION_CLUSTER, out);
    fputs("\n[placement]\n", out);
    print_section(c, NET_SECTION_PLACEMENT, out);
    for (uint32_t i = 0; i < c->n_workers; i++) {
        fprintf(out, "\n[worker %s]\n", c->workers[i].name);
        print_section(&c->workers[i], NET_SECTION_WORKER, out);
    }
}
