/* Profiles as ini files, so that measurements can be kept, edited, or written by hand for boards
 * that one does not have:
 *
 *   [profile]            layers: 8
 *   [node pi4]           memory: 3 GiB   base: 12 MiB   rows: 8   pass: 0.0001
 *                        layer-one: 0.0021 [0.0021 ...]   layer-many: ...   (one number stands for
 * all layers) embed-one, embed-many, output-one, output-many [link pi4 pi5]       rtt: 0.0003 rate:
 * 112000000      (a link's round trip is the same both ways)
 *
 * Times are seconds, rates bytes a second. Reading checks every number; a node or link that is
 * named twice is an error of the ini reader. Left out: links to the coordinator, which no plan
 * depends on. */
#include "coordinator/coordinator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int find_node(struct coord_profile *p, const char *name, bool make)
{
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if (strcmp(p->nodes[i].name, name) == 0)
            return (int)i;
    if (!make || p->n_nodes == NET_WORKERS_MAX)
        return -1;
    snprintf(p->nodes[p->n_nodes].name, NET_NAME_MAX, "%s", name);
    p->nodes[p->n_nodes].measured = true;
    return (int)p->n_nodes++;
}

static int read_number(const char *text, double max, double *out, struct err *e)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end != 0 || !(*out >= 0 && *out <= max))
        return err_set(e, ERR_RANGE, "'%s' is not a number from 0 to %g", text, max);
    return 0;
}

/* One number for all layers, or one a layer. */
static int read_layers(const struct coord_profile *p, const char *text, double *out, struct err *e)
{
    uint32_t n = 0;
    while (*text != 0 && n < MODEL_LAYERS_MAX) {
        char *end;
        out[n] = strtod(text, &end);
        if (end == text || !(out[n] >= 0 && out[n] < 1e6))
            return err_set(e, ERR_RANGE, "'%s' does not begin with seconds", text);
        n++;
        text = end + strspn(end, " \t");
    }
    if (n == 1)
        for (uint32_t l = 1; l < p->n_layers; l++)
            out[l] = out[0];
    if (n != 1 && n != p->n_layers)
        return err_set(e, ERR_RANGE, "%u numbers for %u layers", n, p->n_layers);
    return 0;
}

static int node_entry(struct coord_profile *p, struct coord_node_profile *n,
                      const struct net_ini_entry *x, struct err *e)
{
    const struct {
        const char *key;
        double *out;
    } times[] = {{"pass", &n->pass},
                 {"embed-one", &n->embed_one},
                 {"embed-many", &n->embed_many},
                 {"output-one", &n->output_one},
                 {"output-many", &n->output_many}};
    double rows;
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        if (strcmp(x->key, times[i].key) == 0)
            return read_number(x->value, 1e6, times[i].out, e);
    if (strcmp(x->key, "layer-one") == 0)
        return read_layers(p, x->value, n->layer_one, e);
    if (strcmp(x->key, "layer-many") == 0)
        return read_layers(p, x->value, n->layer_many, e);
    if (strcmp(x->key, "memory") == 0)
        return net_parse_bytes(x->value, &n->memory_bytes, e);
    if (strcmp(x->key, "base") == 0)
        return net_parse_bytes(x->value, &n->base_bytes, e);
    if (strcmp(x->key, "rows") != 0)
        return err_set(e, ERR_FORMAT, "unknown key '%s' in [node %s]", x->key, x->name);
    const int rc = read_number(x->value, MODEL_ROWS_MAX, &rows, e);
    n->rows = (uint32_t)rows;
    return rc;
}

static int link_entry(struct coord_profile *p, const struct net_ini_entry *x, struct err *e)
{
    char from[NET_NAME_MAX], to[NET_NAME_MAX];
    double v;
    if (sscanf(x->name, "%63s %63s", from, to) != 2 || find_node(p, from, false) < 0 ||
        find_node(p, to, false) < 0)
        return err_set(e, ERR_FORMAT,
                       "[link %s]: two nodes of this file, described before, are needed", x->name);
    const int a = find_node(p, from, false), b = find_node(p, to, false);
    if (x->key == NULL)
        return 0;
    const int rc = read_number(x->value, 1e15, &v, e);
    if (rc != 0)
        return rc;
    if (strcmp(x->key, "rtt") == 0)
        p->rtt[a][b] = p->rtt[b][a] = v;
    else if (strcmp(x->key, "rate") == 0)
        p->rate[a][b] = v;
    else
        return err_set(e, ERR_FORMAT, "unknown key '%s' in [link %s]", x->key, x->name);
    return 0;
}

static int entry(void *arg, const struct net_ini_entry *x, struct err *e)
{
    struct coord_profile *p = arg;
    double v;
    if (strcmp(x->section, "node") == 0) {
        const int i = find_node(p, x->name, true);
        if (i < 0)
            return err_set(e, ERR_RANGE, "more than %d nodes", NET_WORKERS_MAX);
        if (p->n_layers == 0)
            return err_set(e, ERR_FORMAT, "[profile] with 'layers' must come first");
        return x->key == NULL ? 0 : node_entry(p, &p->nodes[i], x, e);
    }
    if (strcmp(x->section, "link") == 0)
        return link_entry(p, x, e);
    if (strcmp(x->section, "profile") != 0)
        return err_set(e, ERR_FORMAT, "unknown section [%s]", x->section);
    if (x->key == NULL)
        return 0;
    if (strcmp(x->key, "layers") != 0)
        return err_set(e, ERR_FORMAT, "unknown key '%s' in [profile]", x->key);
    const int rc = read_number(x->value, MODEL_LAYERS_MAX, &v, e);
    p->n_layers = (uint32_t)v;
    return rc;
}

int coord_profile_read(const char *path, struct coord_profile *out, struct err *e)
{
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++) {
        out->coord_rtt[i] = out->coord_up[i] = out->coord_down[i] = NAN;
        for (uint32_t k = 0; k < NET_WORKERS_MAX; k++)
            out->rtt[i][k] = out->rate[i][k] = NAN;
    }
    const int rc = net_ini_read(path, entry, out, e);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < out->n_nodes; i++)
        if (out->nodes[i].rows < 2 || out->nodes[i].memory_bytes == 0 ||
            out->nodes[i].layer_one[0] <= 0)
            return err_set(
                e, ERR_FORMAT,
                "%s: [node %s] needs memory, rows (at least 2), layer-one and layer-many", path,
                out->nodes[i].name);
    return out->n_nodes > 0 ? 0 : err_set(e, ERR_FORMAT, "%s: no [node NAME] section", path);
}

static void put_layers(struct base_buf *b, const char *key, const double *v, uint32_t n)
{
    base_buf_printf(b, "  %s:", key);
    for (uint32_t l = 0; l < n; l++)
        base_buf_printf(b, " %.9g", v[l]);
    base_buf_printf(b, "\n");
}

int coord_profile_write(const char *path, const struct coord_profile *p, struct err *e)
{
    struct base_buf b = {0};
    base_buf_printf(&b,
                    "# Measured by shoal-coordinator: seconds a pass, bytes, bytes a "
                    "second.\n[profile]\n  layers: %u\n",
                    p->n_layers);
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const struct coord_node_profile *n = &p->nodes[i];
        if (!n->measured)
            continue;
        base_buf_printf(&b,
                        "\n[node %s]\n  memory: %llu B\n  base: %llu B\n  rows: %u\n  pass: %.9g\n",
                        n->name, (unsigned long long)n->memory_bytes,
                        (unsigned long long)n->base_bytes, n->rows, n->pass);
        put_layers(&b, "layer-one", n->layer_one, p->n_layers);
        put_layers(&b, "layer-many", n->layer_many, p->n_layers);
        base_buf_printf(
            &b, "  embed-one: %.9g\n  embed-many: %.9g\n  output-one: %.9g\n  output-many: %.9g\n",
            n->embed_one, n->embed_many, n->output_one, n->output_many);
    }
    for (uint32_t i = 0; i < p->n_nodes; i++)
        for (uint32_t k = 0; k < p->n_nodes; k++)
            if (p->rate[i][k] > 0 && p->nodes[i].measured && p->nodes[k].measured)
                base_buf_printf(&b, "\n[link %s %s]\n  rtt: %.9g\n  rate: %.9g\n", p->nodes[i].name,
                                p->nodes[k].name, p->rtt[i][k], p->rate[i][k]);
    const int rc = b.failed ? err_set(e, ERR_NOMEM, "out of memory for the profile")
                            : base_file_replace(path, b.ptr, b.len, 0600, e);
    base_buf_deinit(&b);
    return rc;
}
