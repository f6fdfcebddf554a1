/* Profiles as ini files, so that measurements can be kept, edited, or written by hand for boards
 * that one does not have:
 *
 *   [profile]            layers: 22
 *   [node pi4]           memory: 3 GiB   base: 12 MiB   pass: 0.0001
 *                        sample, wake, codec, message, throttle
 *   [times pi4 1]        attention: 0.0021*22   ffn: 0.004*22   embed, output: 0.03,
 *                        attention-fixed, ffn-fixed: 0.00002
 *   [times pi4 8]        ...                         the same for a batch of 8 rows, and of 64
 *   [link pi4 pi5]       rtt: 0.0003   rate: 112000000   (the round trip is the same both ways)
 *
 * Times are seconds, rates bytes a second. A list has a number a layer, V*N for N equal ones, or
 * one number for all layers. Of a board's times the batches of one row and another one are needed;
 * what is on the line through the two is taken for the third.
 *
 * A board can be described by figures in the place of times, in its [node] or in the [board] of a
 * file that `board:` names:
 *
 *   [node pi4]           board: pi4.ini   memory: 3 GiB
 *
 *   [board]              memory: 3 GiB   bandwidth: 4.1e9   int8: 40e9   half: 0.00003
 *                        rate: 112e6   latency: 0.0001
 *
 * `bandwidth`, bytes a second at which weights are read, and `int8`, operations a second of a
 * matrix product (a multiply-add is two), give the times of a model's blocks by their roofline, in
 * coord_profile_complete; `half` is what a half layer takes besides. `rate` and `latency`, its
 * port's bytes a second and its part of a message's one-way time, give the links between such
 * boards that no [link] gives.
 *
 * Reading checks every number. Left out: links to the coordinator, which no plan depends on. */
#include "coordinator/coordinator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_ROWS = 64 };
static const double SECONDS_MAX = 1e6, RATE_MAX = 1e15;

struct reader {
    struct coord_profile *p;
    const char *path;                /* of the file being read */
    struct coord_node_profile *node; /* whose [board] is being read; NULL: the profile itself */
};

static int find_node(struct coord_profile *p, const char *name, bool make)
{
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if (strcmp(p->nodes[i].name, name) == 0)
            return (int)i;
    if (!make || p->n_nodes == NET_WORKERS_MAX || !net_name_ok(name))
        return -1;
    struct coord_node_profile *n = &p->nodes[p->n_nodes];
    snprintf(n->name, NET_NAME_MAX, "%s", name);
    n->measured = true;
    n->throttle = 1;
    n->figures.half = 3e-5;
    n->pass = 1e-4;
    n->wake = 5e-5;
    n->message = 5e-5;
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

/* One number for all layers, or one a layer, V*N being N times V. */
static int read_layers(const struct coord_profile *p, const char *text, double *out, struct err *e)
{
    uint32_t n = 0;
    bool counted = false;
    while (*text != 0 && n < MODEL_LAYERS_MAX) {
        char *end, *after;
        const double v = strtod(text, &end);
        unsigned long times = 1;
        if (end == text || !(v >= 0 && v < SECONDS_MAX))
            return err_set(e, ERR_RANGE, "'%s' does not begin with seconds", text);
        if (*end == '*') {
            times = strtoul(end + 1, &after, 10);
            if (after == end + 1 || times < 1 || times > MODEL_LAYERS_MAX - n)
                return err_set(e, ERR_RANGE, "'%s' does not repeat seconds", text);
            counted = true;
            end = after;
        }
        while (times-- > 0)
            out[n++] = v;
        text = end + strspn(end, " \t");
    }
    if (n == 1 && !counted)
        for (; n < p->n_layers; n++)
            out[n] = out[0];
    if (n != p->n_layers || *text != 0)
        return err_set(e, ERR_RANGE, "%u numbers for %u layers", n, p->n_layers);
    return 0;
}

/* ---- sections -------------------------------------------------------------------------------- */

static int read_board(struct reader *r, struct coord_node_profile *n, const char *name,
                      struct err *e);

static int node_entry(struct reader *r, struct coord_node_profile *n, const struct net_ini_entry *x,
                      struct err *e)
{
    const struct {
        const char *key;
        double *out, max;
    } numbers[] = {
        {"pass", &n->pass, SECONDS_MAX},      {"sample", &n->sample, SECONDS_MAX},
        {"wake", &n->wake, SECONDS_MAX},      {"codec", &n->codec, SECONDS_MAX},
        {"message", &n->message, SECONDS_MAX},
        {"throttle", &n->throttle, 1},        {"bandwidth", &n->figures.bandwidth, RATE_MAX},
        {"int8", &n->figures.int8, RATE_MAX}, {"half", &n->figures.half, SECONDS_MAX},
        {"rate", &n->figures.rate, RATE_MAX}, {"latency", &n->figures.latency, SECONDS_MAX}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(x->key, numbers[i].key) == 0)
            return read_number(x->value, numbers[i].max, numbers[i].out, e);
    if (strcmp(x->key, "memory") == 0)
        return net_parse_bytes(x->value, &n->memory_bytes, e);
    if (strcmp(x->key, "base") == 0)
        return net_parse_bytes(x->value, &n->base_bytes, e);
    if (strcmp(x->key, "board") == 0 && r->node == NULL)
        return read_board(r, n, x->value, e);
    return err_set(e, ERR_FORMAT, "unknown key '%s' in [%s]", x->key, x->section);
}

/* The batch of so many rows, new ones behind the others; NULL: there is none, and no room. */
static struct coord_batch *batch_of(struct coord_node_profile *n, uint32_t rows)
{
    uint32_t i = 0;
    while (i < COORD_BATCHES && n->rows[i] != 0 && n->rows[i] != rows)
        i++;
    if (i == COORD_BATCHES || (n->rows[i] == 0 && (i == 0 ? rows != 1 : rows <= n->rows[i - 1])))
        return NULL;
    n->rows[i] = rows;
    return &n->batches[i];
}

static int times_entry(struct coord_profile *p, const struct net_ini_entry *x, struct err *e)
{
    char name[NET_NAME_MAX];
    unsigned rows;
    if (sscanf(x->name, "%63s %u", name, &rows) != 2 || rows < 1 || rows > MODEL_ROWS_MAX ||
        find_node(p, name, false) < 0)
        return err_set(e, ERR_FORMAT, "[times %s]: a node described before, and rows, are needed",
                       x->name);
    struct coord_batch *b = batch_of(&p->nodes[find_node(p, name, false)], rows);
    if (b == NULL)
        return err_set(e, ERR_FORMAT,
                       "[times %s]: a node has times of 1 row, then of more, at most %d batches",
                       x->name, COORD_BATCHES);
    if (x->key == NULL)
        return 0;
    if (strcmp(x->key, "attention") == 0)
        return read_layers(p, x->value, b->attention, e);
    if (strcmp(x->key, "ffn") == 0)
        return read_layers(p, x->value, b->ffn, e);
    double *const out = strcmp(x->key, "attention-fixed") == 0 ? &b->attention_fixed
                        : strcmp(x->key, "ffn-fixed") == 0     ? &b->ffn_fixed
                        : strcmp(x->key, "embed") == 0         ? &b->embed
                        : strcmp(x->key, "output") == 0        ? &b->output
                                                               : NULL;
    if (out == NULL)
        return err_set(e, ERR_FORMAT, "unknown key '%s' in [times %s]", x->key, x->name);
    return read_number(x->value, SECONDS_MAX, out, e);
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
    const int rc = read_number(x->value, RATE_MAX, &v, e);
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
    struct reader *r = arg;
    struct coord_profile *p = r->p;
    double v;
    if (r->node != NULL && strcmp(x->section, "board") == 0 && x->name[0] == 0)
        return x->key == NULL ? 0 : node_entry(r, r->node, x, e);
    if (r->node == NULL && strcmp(x->section, "node") == 0) {
        const int i = find_node(p, x->name, true);
        if (i < 0)
            return err_set(e, ERR_RANGE, "[node %s] is no name, or more than %d nodes", x->name,
                           NET_WORKERS_MAX);
        return x->key == NULL ? 0 : node_entry(r, &p->nodes[i], x, e);
    }
    if (r->node == NULL && strcmp(x->section, "times") == 0) {
        if (p->n_layers == 0)
            return err_set(e, ERR_FORMAT, "[profile] with 'layers' must come first");
        return times_entry(p, x, e);
    }
    if (r->node == NULL && strcmp(x->section, "link") == 0)
        return link_entry(p, x, e);
    if (r->node != NULL || strcmp(x->section, "profile") != 0)
        return err_set(e, ERR_FORMAT, "unknown section [%s]", x->section);
    if (x->key == NULL)
        return 0;
    if (strcmp(x->key, "layers") != 0)
        return err_set(e, ERR_FORMAT, "unknown key '%s' in [profile]", x->key);
    const int rc = read_number(x->value, MODEL_LAYERS_MAX, &v, e);
    p->n_layers = (uint32_t)v;
    return rc;
}

static int read_board(struct reader *r, struct coord_node_profile *n, const char *name,
                      struct err *e)
{
    char *path = base_path_beside(r->path, name);
    struct reader board = {.p = r->p, .path = path, .node = n};
    const int rc = path == NULL ? err_set(e, ERR_NOMEM, "out of memory")
                                : net_ini_read(path, entry, &board, e);
    base_free(path);
    return rc;
}

/* ---- whole profiles -------------------------------------------------------------------------- */

/* The third batch from the two before it. */
static void extrapolate(struct coord_node_profile *n, uint32_t n_layers)
{
    const struct coord_batch *a = &n->batches[0], *b = &n->batches[1];
    struct coord_batch *c = &n->batches[2];
    n->rows[2] = n->rows[1] < PROMPT_ROWS ? PROMPT_ROWS : n->rows[1] + 1;
    const double t = (double)(n->rows[2] - n->rows[1]) / (n->rows[1] - n->rows[0]);
#define LINE(f) c->f = fmax(b->f, b->f + t * (b->f - a->f))
    for (uint32_t l = 0; l < n_layers; l++) {
        LINE(attention[l]);
        LINE(ffn[l]);
    }
    LINE(attention_fixed);
    LINE(ffn_fixed);
    LINE(embed);
    LINE(output);
#undef LINE
}

static bool has_figures(const struct coord_node_profile *n)
{
    return n->figures.bandwidth > 0 && n->figures.int8 > 0;
}

static int check_node(struct coord_node_profile *n, uint32_t n_layers, struct err *e)
{
    if (n->memory_bytes == 0)
        return err_set(e, ERR_FORMAT, "[node %s] has no memory", n->name);
    if (n->throttle <= 0)
        return err_set(e, ERR_RANGE, "[node %s]: a throttle of 0 would stand still", n->name);
    if (n->rows[0] == 0 && has_figures(n))
        return 0;
    if (n->rows[1] == 0 || n->batches[0].attention[0] <= 0 || n->batches[0].ffn[0] <= 0)
        return err_set(e, ERR_FORMAT,
                       "[node %s] needs bandwidth and int8, or [times %s 1] and [times %s ROWS] "
                       "with attention and ffn",
                       n->name, n->name, n->name);
    if (n->rows[2] == 0)
        extrapolate(n, n_layers);
    return 0;
}

int coord_profile_read(const char *path, struct coord_profile *out, struct err *e)
{
    struct reader r = {.p = out, .path = path};
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < NET_WORKERS_MAX; i++) {
        out->coord_rtt[i] = out->coord_up[i] = out->coord_down[i] = NAN;
        for (uint32_t k = 0; k < NET_WORKERS_MAX; k++)
            out->rtt[i][k] = out->rate[i][k] = NAN;
    }
    int rc = net_ini_read(path, entry, &r, e);
    for (uint32_t i = 0; rc == 0 && i < out->n_nodes; i++)
        if ((rc = check_node(&out->nodes[i], out->n_layers, e)) != 0)
            err_wrap(e, rc, "%s", path);
    if (rc == 0 && out->n_nodes == 0)
        rc = err_set(e, ERR_FORMAT, "%s: no [node NAME] section", path);
    return rc;
}

/* ---- times from figures ---------------------------------------------------------------------- */

/* Roofline of a half at `rows` rows: its weights are read once, whatever the rows; its products and
 * its KV rows are each row's own. */
static double half_s(const struct coord_figures *f, double weight_bytes, double macs,
                     double kv_bytes, double rows)
{
    return f->half + fmax(weight_bytes / f->bandwidth, rows * 2 * macs / f->int8) +
           rows * kv_bytes / f->bandwidth;
}

static void derive_batch(struct coord_node_profile *n, const struct coord_blocks *b, uint32_t i)
{
    const struct coord_figures *f = &n->figures;
    const double rows = n->rows[i], embd = b->n_embd;
    const double heads = (double)b->n_heads * b->head_dim, kv = (double)b->n_kv_heads * b->head_dim;
    struct coord_batch *out = &n->batches[i];
    for (uint32_t l = 0; l < b->n_layers; l++) {
        const struct coord_layer *w = &b->layers[l];
        out->attention[l] = half_s(
            f, (double)w->head_bytes * b->n_head_units + (double)w->kv_bytes * b->n_kv_heads,
            embd * 2 * (heads + kv), (double)b->cache_bytes * b->n_kv_heads / b->slots / 2, rows);
        out->ffn[l] = half_s(f, (double)w->ff_bytes * b->n_ff_units, embd * 3 * b->n_ff, 0, rows);
    }
    out->attention_fixed = out->ffn_fixed = f->half;
    out->embed = rows * embd * 4 / f->bandwidth;
    out->output = half_s(f, (double)b->run_bytes * b->n_vocab_runs, embd * b->n_vocab, 0, rows);
}

void coord_profile_complete(struct coord_profile *p, const struct coord_blocks *b)
{
    if (p->n_layers == 0)
        p->n_layers = b->n_layers;
    for (uint32_t d = 0; d < p->n_nodes; d++) {
        struct coord_node_profile *n = &p->nodes[d];
        if (n->rows[0] == 0 && has_figures(n)) {
            n->rows[0] = 1;
            n->rows[1] = b->slots < 2 ? 2 : b->slots < PROMPT_ROWS ? b->slots : PROMPT_ROWS - 1;
            n->rows[2] = PROMPT_ROWS;
            for (uint32_t i = 0; i < COORD_BATCHES; i++)
                derive_batch(n, b, i);
            /* Logits are read some four times: the greatest, the k best, their sum, the draw. */
            if (n->sample <= 0)
                n->sample = 16.0 * b->n_vocab / n->figures.bandwidth;
            /* A sum of eight bytes is read and written for each four that travel. */
            if (n->codec <= 0)
                n->codec = 4 / n->figures.bandwidth;
        }
        for (uint32_t e = 0; e < p->n_nodes; e++) {
            const struct coord_figures *x = &n->figures, *y = &p->nodes[e].figures;
            if (d == e || x->rate <= 0 || y->rate <= 0)
                continue;
            if (isnan(p->rtt[d][e]))
                p->rtt[d][e] = p->rtt[e][d] = 2 * (x->latency + y->latency);
            if (isnan(p->rate[d][e]))
                p->rate[d][e] = fmin(x->rate, y->rate);
        }
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put_layers(struct base_buf *b, const char *key, const double *v, uint32_t n)
{
    base_buf_printf(b, "  %s:", key);
    for (uint32_t l = 0; l < n;) {
        uint32_t same = 1;
        while (l + same < n && memcmp(&v[l + same], &v[l], sizeof *v) == 0)
            same++;
        base_buf_printf(b, " %.9g*%u", v[l], same);
        l += same;
    }
    base_buf_printf(b, "\n");
}

static void put_node(struct base_buf *b, const struct coord_node_profile *n, uint32_t n_layers)
{
    base_buf_printf(b,
                    "\n[node %s]\n  memory: %llu B\n  base: %llu B\n  pass: %.9g\n  sample: %.9g\n"
                    "  wake: %.9g\n  codec: %.9g\n  message: %.9g\n  throttle: %.9g\n",
                    n->name, (unsigned long long)n->memory_bytes, (unsigned long long)n->base_bytes,
                    n->pass, n->sample, n->wake, n->codec, n->message, n->throttle);
    for (uint32_t i = 0; i < COORD_BATCHES; i++) {
        const struct coord_batch *t = &n->batches[i];
        base_buf_printf(b, "\n[times %s %u]\n", n->name, n->rows[i]);
        put_layers(b, "attention", t->attention, n_layers);
        put_layers(b, "ffn", t->ffn, n_layers);
        base_buf_printf(
            b, "  attention-fixed: %.9g\n  ffn-fixed: %.9g\n  embed: %.9g\n  output: %.9g\n",
            t->attention_fixed, t->ffn_fixed, t->embed, t->output);
    }
}

int coord_profile_write(const char *path, const struct coord_profile *p, struct err *e)
{
    struct base_buf b = {0};
    base_buf_printf(&b,
                    "# Measured by shoal-coordinator: seconds a pass, bytes, bytes a "
                    "second.\n[profile]\n  layers: %u\n",
                    p->n_layers);
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if (p->nodes[i].measured)
            put_node(&b, &p->nodes[i], p->n_layers);
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
