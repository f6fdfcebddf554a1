/* `shoal bench`: how fast this machine is with a model: tokens a second over a prompt (prefill) and
 * one after the other (decode), with the spread over several runs.
 *
 * The same calls as `local` makes, with made-up tokens and without sampling: what a token is does
 * not change the time. One run that is not counted comes first, so that pages are mapped and clocks
 * are up. The prompt's last row gets logits, as it would; each decoded token does, too. */
#include "client/client.h"

#include <math.h>

struct series {
    double mean, deviation, least, most; /* tokens a second */
};

static int32_t some_token(const struct cli_model *m, uint32_t position)
{
    return (int32_t)(base_mix64(position) % m->shape->n_vocab);
}

/* Rows [from, to) of slot 0; the last one wants logits. */
static int run_rows(struct cli_model *m, uint32_t from, uint32_t to, struct err *e)
{
    struct model_row rows[MODEL_ROWS_MAX] = {{0}};
    uint32_t bad[MODEL_ROWS_MAX];
    for (uint32_t i = from; i < to; i++)
        rows[i - from] = (struct model_row){0, i, some_token(m, i), i + 1 == to};
    model_exec_run(m->exec, rows, to - from, m->hidden, m->logits, bad);
    for (uint32_t i = 0; i < to - from; i++) {
        char why[100];
        if (bad[i] == 0)
            continue;
        cli_bad_text(m, bad[i], from + i, why, sizeof why);
        return err_set(e, ERR_RANGE, "%s", why);
    }
    return cli_interrupted() ? err_set(e, ERR_CANCELLED, "interrupted") : 0;
}

static int run_once(struct cli_model *m, const struct cli_options *o, double *prefill,
                    double *decode, struct err *e)
{
    const uint32_t end = o->bench_prompt + o->bench_tokens;
    const double begun_s = base_clock_s();
    double filled_s;
    int rc = 0;
    for (uint32_t at = 0; at < o->bench_prompt && rc == 0; at += m->chunk) {
        const uint32_t n = o->bench_prompt - at < m->chunk ? o->bench_prompt - at : m->chunk;
        rc = run_rows(m, at, at + n, e);
    }
    filled_s = base_clock_s();
    for (uint32_t at = o->bench_prompt; at < end && rc == 0; at++)
        rc = run_rows(m, at, at + 1, e);
    *prefill = o->bench_prompt / (filled_s - begun_s);
    *decode = o->bench_tokens / (base_clock_s() - filled_s);
    return rc;
}

static struct series summarise(const double *v, uint32_t n)
{
    struct series s = {0, 0, v[0], v[0]};
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) {
        s.mean += v[i] / n;
        s.least = fmin(s.least, v[i]);
        s.most = fmax(s.most, v[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        squares += (v[i] - s.mean) * (v[i] - s.mean);
    s.deviation = n > 1 ? sqrt(squares / (n - 1)) : 0;
    return s;
}

static json_t *series_json(const struct series *s)
{
    return json_pack("{s:f,s:f,s:f,s:f}", "mean", s->mean, "deviation", s->deviation, "min",
                     s->least, "max", s->most);
}

static int print(const struct cli_options *o, const struct cli_model *m,
                 const struct series *prefill, const struct series *decode, struct err *e)
{
    json_t *j;
    int bad;
    if (!o->json) {
        printf("kernels %s, %u threads, %u runs\n", m->config.kernels->name, m->config.n_threads,
               o->bench_runs);
        printf("prefill %6u tokens: %9.2f +- %.2f tok/s (%.2f to %.2f)\n", o->bench_prompt,
               prefill->mean, prefill->deviation, prefill->least, prefill->most);
        printf("decode  %6u tokens: %9.2f +- %.2f tok/s (%.2f to %.2f)\n", o->bench_tokens,
               decode->mean, decode->deviation, decode->least, decode->most);
        return 0;
    }
    j = json_object();
    bad = json_object_set_new(j, "kernels", json_string(m->config.kernels->name));
    bad |= json_object_set_new(j, "threads", json_integer(m->config.n_threads));
    bad |= json_object_set_new(j, "prompt_tokens", json_integer(o->bench_prompt));
    bad |= json_object_set_new(j, "generated_tokens", json_integer(o->bench_tokens));
    bad |= json_object_set_new(j, "runs", json_integer(o->bench_runs));
    bad |= json_object_set_new(j, "prefill_tok_s", series_json(prefill));
    bad |= json_object_set_new(j, "decode_tok_s", series_json(decode));
    return cli_json_print(j, bad != 0, e);
}

static int measure(struct cli_model *m, const struct cli_options *o, double *prefill,
                   double *decode, struct err *e)
{
    struct base_progress progress;
    double unused[2];
    int rc;
    base_progress_begin(&progress, "measuring", o->bench_runs + 1u);
    rc = run_once(m, o, &unused[0], &unused[1], e);
    for (uint32_t i = 0; i < o->bench_runs && rc == 0; i++) {
        base_progress_step(&progress, i + 1u);
        rc = run_once(m, o, &prefill[i], &decode[i], e);
    }
    base_progress_end(&progress);
    return rc;
}

int cli_bench(const struct cli_options *o, struct err *e)
{
    const uint32_t context = o->bench_prompt + o->bench_tokens;
    double *prefill = base_zalloc(o->bench_runs, sizeof *prefill);
    double *decode = base_zalloc(o->bench_runs, sizeof *decode);
    struct cli_model *m = NULL;
    int rc = prefill == NULL || decode == NULL ? err_set(e, ERR_NOMEM, "out of memory") : 0;
    if (rc == 0)
        rc = cli_model_open(o->model, &m, e);
    if (rc == 0)
        rc = cli_model_load(m, o, 1, context, 1, e);
    if (rc == 0)
        rc = measure(m, o, prefill, decode, e);
    if (rc == 0) {
        const struct series fast = summarise(prefill, o->bench_runs),
                            slow = summarise(decode, o->bench_runs);
        rc = print(o, m, &fast, &slow, e);
    }
    base_free(prefill);
    base_free(decode);
    cli_model_close(m);
    return rc;
}
