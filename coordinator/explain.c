/* What is behind a plan: the rules that bind it, and what one more board would bring.
 *
 * Each question is the same program asked again with one thing changed: without the limits of
 * memory, without a rule of the configuration, or with a second board like one that is there. A rule
 * binds where the plan is better without it. So a sentence is never a guess from prices or slacks,
 * which an integer program has not, and it says what a person would gain by acting on it. The second
 * board has its twin's times and memory, and its best links to the others.
 *
 * Each begins with the plan at hand, which mostly is one of the changed program too. Time is shared
 * between the questions that are left, and large ones are only searched for better plans, so what such
 * a plan would bring is "at least" that. A question that no better plan was found for,
 * and none excluded, is called open. Left out: two changes at a time. */
#include "coordinator/coordinator.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

enum { GAIN_MAX = 240 };

/* Boards are of one kind where times and memory are within this share of each other. */
static const double SAME_KIND = 0.05;
/* What is gained counts from this share on. */
static const double MATTERS = 1e-3;

struct asking {
    const struct net_config *config;
    const struct coord_blocks *blocks;
    const struct coord_profile *profile;
    uint32_t present;
    const struct coord_solution *now;
    struct coord_reasons *out;
    double end_s;
    uint32_t left; /* questions */
    /* The question: copies to change, and the answer. */
    struct net_config c;
    struct coord_profile p;
    struct coord_solution with;
    struct err e;
};

/* NOT_FOUND: none was, but none is ruled out. */
enum answer { BETTER, NO_BETTER, NOT_FOUND };

static void say(struct asking *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct asking *a, const char *fmt, ...)
{
    va_list args;
    if (a->out->n == COORD_REASONS_MAX)
        return;
    va_start(args, fmt);
    vsnprintf(a->out->text[a->out->n++], COORD_REASON_MAX, fmt, args);
    va_end(args);
}

/* What the configuration asks to be small: seconds. */
static double objective(const struct net_config *c, const struct coord_solution *s)
{
    return (1 - c->objective) * s->plan.latency_s + c->objective / s->batch_rate;
}

static void begin(struct asking *a)
{
    a->c = *a->config;
    a->p = *a->profile;
}

static enum answer answer(struct asking *a, uint32_t present, int *rc)
{
    const double left_s = a->end_s - base_clock_s();
    const double before = objective(a->config, a->now);
    *rc = 0;
    a->c.solve_s = left_s / a->left;
    a->left -= a->left > 1 ? 1 : 0;
    if (left_s < 1e-3)
        return NOT_FOUND;
    const int solved =
        coord_solve(&a->c, a->blocks, &a->p, present, &a->now->plan, true, &a->with, &a->e);
    if (solved == ERR_NOMEM)
        *rc = solved;
    if (solved != 0)
        return solved == ERR_INFEASIBLE ? NO_BETTER : NOT_FOUND;
    if (objective(a->config, &a->with) < before * (1 - MATTERS))
        return BETTER;
    return a->with.plan.gap < MATTERS ? NO_BETTER : NOT_FOUND;
}

/* With one decimal, or as many more as it takes to tell the two apart. */
static void put_pair(char out[static 64], const char *what, double with, double now)
{
    char a[24], b[24];
    int digits = 1;
    do {
        snprintf(a, sizeof a, "%.*f", digits, with);
        snprintf(b, sizeof b, "%.*f", digits, now);
    } while (strcmp(a, b) == 0 && ++digits <= 4);
    snprintf(out, 64, "%.16s %s instead of %.16s", a, what, b);
}

/* "20.0 % less: 24.1 ms a token instead of 30.1", or tokens a second; both where the objective weighs
 * them against each other. */
static const char *gain_text(const struct asking *a, char out[static GAIN_MAX])
{
    const struct part_plan *with = &a->with.plan, *now = &a->now->plan;
    const char *least = with->gap < MATTERS ? "" : "at least ";
    char ms[64], rate[64];
    put_pair(ms, "ms a token", with->latency_s * 1e3, now->latency_s * 1e3);
    put_pair(rate, "tok/s", a->with.batch_rate, a->now->batch_rate);
    if (a->config->objective <= 0)
        snprintf(out, GAIN_MAX, "%s%.1f %% less: %s", least,
                 100 * (1 - with->latency_s / now->latency_s), ms);
    else if (a->config->objective >= 1)
        snprintf(out, GAIN_MAX, "%s%.1f %% more: %s", least,
                 100 * (a->with.batch_rate / a->now->batch_rate - 1), rate);
    else
        snprintf(out, GAIN_MAX, "%s%.1f %% better by the weighted objective: %s, %s", least,
                 100 * (1 - objective(a->config, &a->with) / objective(a->config, a->now)), ms,
                 rate);
    return out;
}

/* ---- what binds ------------------------------------------------------------------------------ */

/* The board that would be given most beyond its memory; present boards only. */
static uint32_t most_over(const struct asking *a)
{
    uint32_t most = UINT32_MAX;
    uint64_t most_bytes = 0;
    for (uint32_t i = 0; i < a->profile->n_nodes; i++) {
        const uint64_t has = a->profile->nodes[i].memory_bytes, needs = a->with.memory_bytes[i];
        if ((a->present >> i & 1) != 0 && needs > has && needs - has > most_bytes) {
            most = i;
            most_bytes = needs - has;
        }
    }
    return most;
}

static int ask_memory(struct asking *a)
{
    char gain[GAIN_MAX], needs[24], has[24];
    int rc;
    begin(a);
    for (uint32_t i = 0; i < a->p.n_nodes; i++)
        a->p.nodes[i].memory_bytes = UINT64_C(1) << 50;
    const enum answer is = answer(a, a->present, &rc);
    const uint32_t i = is == BETTER ? most_over(a) : UINT32_MAX;
    if (is == NO_BETTER)
        say(a, "memory does not bind: with more of it no plan is better");
    else if (is == NOT_FOUND || i == UINT32_MAX)
        say(a, "memory: with more of it no better plan was found in time");
    else
        say(a, "memory binds: with more of it %s (%s would hold %s; it has %s)", gain_text(a, gain),
            a->profile->nodes[i].name, base_bytes_text(a->with.memory_bytes[i], needs),
            base_bytes_text(a->profile->nodes[i].memory_bytes, has));
    return rc;
}

enum rule { RULE_TTFT, RULE_PINS, RULE_USE, RULE_GRANULARITY, N_RULES };
static const char *const rule_names[] = {"the limit on the first token (ttft)",
                                         "pins (layers, heads, columns, role)", "use: all", "granularity"};

/* False: the configuration has no such rule. */
static bool lift(struct net_config *c, enum rule r)
{
    bool there = false;
    switch (r) {
    case RULE_TTFT:
        there = c->ttft_ms > 0;
        c->ttft_ms = 0;
        break;
    case RULE_PINS:
        for (uint32_t i = 0; i < c->n_workers; i++) {
            struct net_config_worker *w = &c->workers[i];
            there = there || w->layer0 >= 0 || w->heads > 0 || w->columns > 0 || w->leader;
            w->layer0 = w->layer1 = -1;
            w->heads = w->columns = 0;
            w->leader = false;
        }
        break;
    case RULE_USE:
        there = c->use_all;
        c->use_all = false;
        break;
    case RULE_GRANULARITY:
        there = c->granularity != NET_AUTO;
        c->granularity = NET_AUTO;
        break;
    case N_RULES:
        break;
    }
    return there;
}

static int ask_rule(struct asking *a, enum rule r)
{
    char gain[GAIN_MAX];
    int rc = 0;
    begin(a);
    if (!lift(&a->c, r))
        return 0;
    const enum answer is = answer(a, a->present, &rc);
    if (is == BETTER)
        say(a, "%s binds: without it %s", rule_names[r], gain_text(a, gain));
    else if (is == NOT_FOUND)
        say(a, "%s: without it no better plan was found in time", rule_names[r]);
    return rc;
}

/* ---- one more board -------------------------------------------------------------------------- */

static double row_seconds(const struct coord_node_profile *n, uint32_t n_layers)
{
    double sum = n->batches[0].output;
    for (uint32_t l = 0; l < n_layers; l++)
        sum += n->batches[0].attention[l] + n->batches[0].ffn[l];
    return sum;
}

static bool near(double a, double b)
{
    return fabs(a - b) <= SAME_KIND * fmax(a, b);
}

static bool same_kind(const struct coord_profile *p, uint32_t i, uint32_t k)
{
    const struct coord_node_profile *x = &p->nodes[i], *y = &p->nodes[k];
    return near(row_seconds(x, p->n_layers), row_seconds(y, p->n_layers)) &&
           near((double)x->memory_bytes, (double)y->memory_bytes);
}

/* Boards to ask about: the first of each kind. */
static uint32_t kinds(const struct asking *a)
{
    uint32_t first = a->present;
    for (uint32_t i = 0; i < a->profile->n_nodes; i++)
        for (uint32_t k = 0; k < i; k++)
            if ((first >> i & 1) != 0 && (first >> k & 1) != 0 && same_kind(a->profile, i, k))
                first &= ~(UINT32_C(1) << i);
    return first;
}

/* Add node `to`, with the links that node `twin` has; to the twin itself the best of them. */
static void add_links(struct coord_profile *p, uint32_t twin, uint32_t to)
{
    double rtt = NAN, rate = NAN;
    for (uint32_t i = 0; i < to; i++) {
        p->rtt[to][i] = p->rtt[i][to] = p->rtt[twin][i];
        p->rate[to][i] = p->rate[twin][i];
        p->rate[i][to] = p->rate[i][twin];
        if (i != twin) {
            rtt = fmin(rtt, p->rtt[twin][i]);
            rate = fmax(rate, p->rate[twin][i]);
        }
    }
    p->rtt[to][twin] = p->rtt[twin][to] = rtt;
    p->rate[to][twin] = p->rate[twin][to] = rate;
}

static enum answer ask_board(struct asking *a, uint32_t twin, int *rc)
{
    const uint32_t to = a->config->n_workers;
    begin(a);
    a->c.workers[to] = a->c.workers[twin];
    a->c.workers[to].layer0 = a->c.workers[to].layer1 = -1;
    a->c.workers[to].heads = a->c.workers[to].columns = 0;
    a->c.workers[to].leader = false;
    a->p.nodes[to] = a->p.nodes[twin];
    add_links(&a->p, twin, to);
    a->c.n_workers = a->p.n_nodes = to + 1;
    return answer(a, a->present | UINT32_C(1) << to, rc);
}

/* One sentence for the boards of a set; what does not fit into it is cut off. */
static void say_boards(struct asking *a, uint32_t set, const char *what)
{
    char names[COORD_REASON_MAX] = "";
    size_t at = 0;
    for (uint32_t i = 0; set >> i != 0 && at < sizeof names; i++) {
        if ((set >> i & 1) == 0)
            continue;
        const uint32_t later = set >> i >> 1;
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s",
                               at == 0      ? ""
                               : later == 0 ? " or "
                                            : ", ",
                               a->profile->nodes[i].name);
    }
    if (set != 0)
        say(a, "one more board like %.100s: %s", names, what);
}

static int ask_boards(struct asking *a, uint32_t first)
{
    uint32_t no_better = 0, not_found = 0;
    char gain[GAIN_MAX];
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < a->profile->n_nodes; i++) {
        if ((first >> i & 1) == 0)
            continue;
        const enum answer is = ask_board(a, i, &rc);
        if (is == BETTER)
            say_boards(a, UINT32_C(1) << i, gain_text(a, gain));
        else if (is == NO_BETTER)
            no_better |= UINT32_C(1) << i;
        else
            not_found |= UINT32_C(1) << i;
    }
    say_boards(a, no_better, "no gain");
    say_boards(a, not_found, "no better plan was found in time");
    return rc;
}

int coord_explain(const struct net_config *c, const struct coord_blocks *b,
                  const struct coord_profile *p, uint32_t present, const struct coord_solution *s,
                  double limit_s, struct coord_reasons *out, struct err *e)
{
    struct asking *a = base_zalloc(1, sizeof *a);
    out->n = 0;
    if (a == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for explaining the plan");
    a->config = c;
    a->blocks = b;
    a->profile = p;
    a->present = present;
    a->now = s;
    a->out = out;
    a->end_s = base_clock_s() + limit_s;
    a->left = 1;
    /* Without a link there is nothing to say of one more; with no room, none can be added. */
    const uint32_t first =
        c->n_workers < NET_WORKERS_MAX && (present & (present - 1)) != 0 ? kinds(a) : 0;
    for (int r = 0; r < N_RULES; r++) {
        begin(a);
        a->left += lift(&a->c, (enum rule)r) ? 1 : 0;
    }
    a->left += (uint32_t)__builtin_popcount(first);
    int rc = ask_memory(a);
    for (int r = 0; rc == 0 && r < N_RULES; r++)
        rc = ask_rule(a, (enum rule)r);
    if (rc == 0)
        rc = ask_boards(a, first);
    if (rc != 0)
        err_set(e, rc, "%s", a->e.text);
    base_free(a);
    return rc;
}
